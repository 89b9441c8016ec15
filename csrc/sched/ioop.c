/* The awaitables on sockets: recv, recv_into, recvfrom, send, sendall, sendto,
 * accept, connect, and wait_readable / wait_writable.
 *
 * Each makes one system call where that can succeed: at once when the call is
 * awaited, unless the socket is known to be drained; again when the poller has
 * reported readiness.  None ever blocks the thread: MSG_DONTWAIT, or a
 * non-blocking socket is asked for. */
#include <Python.h>

#include "ioop.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "args.h"
#include "compat.h"
#include "errors.h"
#include "sockfd.h"

/* Receives up to this size go through the loop's scratch buffer and are
 * copied out at their true length; larger ones get an object of their own
 * that is shrunk.  64 KiB is what asyncio's streams ask for. */
#define PL_SCRATCH_BYTES (64 * 1024)

/* After a full read more is likely to be there and is tried for at once; when
 * that guess was wrong, the next so many full reads wait first. */
#define PL_WRONG_GUESS_READS 16

/* --- the system calls --- */

/* 1: EINTR and go on; 0: no EINTR; -1: a signal handler raised. */
static int
interrupted(int error)
{
    if (error != EINTR) {
        return 0;
    }
    return PyErr_CheckSignals() < 0 ? -1 : 1; /* call-out */
}

static inline struct watch *
watch_of(OpObject *op)
{
    struct watch *watch = fdtable_get(&op->loop->reactor->fds, op->fd);
    return watch != NULL && watch->owner == op->object ? watch : NULL;
}

static void
note_read(struct watch *watch, bool was_full, bool was_guess, ssize_t n)
{
    uint8_t guesses = watch->hints >> 1;
    bool drained = !was_full;
    if (n < 0) {
        if (was_guess) {
            guesses = PL_WRONG_GUESS_READS;
        }
    } else if (was_full && guesses > 0) {
        guesses--;
        drained = true;
    }
    watch->hints = (uint8_t)(guesses << 1 | (drained ? PL_HINT_DRAINED : 0));
}

Py_ssize_t
ioop_recv(OpObject *op, void *buffer, size_t size)
{
    if (op->loop->reactor == NULL) {
        return -EBADF;
    }
    struct watch *watch = watch_of(op);
    bool is_first = op->status == OP_NEW;
    if (is_first && watch != NULL && (watch->hints & PL_HINT_DRAINED)) {
        return -EAGAIN;
    }
    for (;;) {
        ssize_t n = recv(op->fd, buffer, size, MSG_DONTWAIT);
        int error = n < 0 ? errno : 0;
        if (n >= 0 || error == EAGAIN || error == EWOULDBLOCK) {
            if (watch != NULL) {
                note_read(watch, n == (ssize_t)size, is_first, n);
            }
            return n >= 0 ? n : -EAGAIN;
        }
        int rc = interrupted(error);
        if (rc <= 0) {
            return rc < 0 ? -EINTR : -error;
        }
    }
}

/* One send(2); -EAGAIN: wait. */
static Py_ssize_t
send_some(OpObject *op, const char *data, Py_ssize_t length)
{
    for (;;) {
        ssize_t n = send(op->fd, data, (size_t)length,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            return n;
        }
        int error = errno;
        if (error == EAGAIN || error == EWOULDBLOCK) {
            return -EAGAIN;
        }
        int rc = interrupted(error);
        if (rc <= 0) {
            return rc < 0 ? -EINTR : -error;
        }
    }
}

enum op_attempt
ioop_fail(OpObject *op, Py_ssize_t rc)
{
    if (rc != -EINTR) {
        errors_from_errno((int)rc, "%s() on descriptor %d", op->kind->name,
                          op->fd);
    }
    return OP_ATTEMPT_ERROR;
}

/* Re-reads the descriptor: the socket may have been closed while we waited,
 * and its number may be somebody else's by now.  0, or -1 with OSError. */
static int
refresh_fd(OpObject *op)
{
    int fd = sockfd_get(op->loop->state, op->object, op->kind->name);
    if (fd < 0) {
        return -1;
    }
    op->fd = fd;
    return 0;
}

/* --- recv, recv_into --- */

static char *
scratch_of(LoopObject *loop)
{
    if (loop->scratch == NULL) {
        loop->scratch = PyMem_Malloc(PL_SCRATCH_BYTES);
        if (loop->scratch == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->scratch;
}

static enum op_attempt
recv_attempt(OpObject *op, PyObject **result)
{
    Py_ssize_t size = op->u.io.length;
    PyObject *bytes = NULL;
    char *buffer;
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (PL_LIKELY(size <= PL_SCRATCH_BYTES)) {
        buffer = scratch_of(op->loop);
    } else {
        bytes = PyBytes_FromStringAndSize(NULL, size);
        buffer = bytes != NULL ? PyBytes_AS_STRING(bytes) : NULL;
    }
    if (buffer == NULL) {
        return OP_ATTEMPT_ERROR;
    }
    Py_ssize_t n = ioop_recv(op, buffer, (size_t)size);
    if (n < 0) {
        Py_XDECREF(bytes);
        return n == -EAGAIN ? OP_ATTEMPT_WAIT : ioop_fail(op, n);
    }
    if (bytes == NULL) {
        *result = PyBytes_FromStringAndSize(buffer, n);
    } else {
        if (n < size && _PyBytes_Resize(&bytes, n) < 0) {
            return OP_ATTEMPT_ERROR;
        }
        *result = bytes;
    }
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_recv = {
    .name = "recv",
    .attempt = recv_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
};

static void
release_view(OpObject *op)
{
    Py_buffer *view = op->u.io.view;
    op->u.io.view = NULL;
    if (view != NULL) {
        PyBuffer_Release(view); /* call-out */
        PyMem_Free(view);
    }
}

static enum op_attempt
recv_into_attempt(OpObject *op, PyObject **result)
{
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    Py_ssize_t n = ioop_recv(op, op->u.io.data, (size_t)op->u.io.length);
    if (n < 0) {
        return n == -EAGAIN ? OP_ATTEMPT_WAIT : ioop_fail(op, n);
    }
    *result = PyLong_FromSsize_t(n);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_recv_into = {
    .name = "recv_into",
    .attempt = recv_into_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .clear = release_view,
};

/* --- recvfrom --- */

static enum op_attempt
recvfrom_attempt(OpObject *op, PyObject **result)
{
    Py_ssize_t size = op->u.io.length;
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    struct sockaddr_storage from;
    socklen_t from_length;
    PyObject *bytes = NULL;
    char *buffer;
    if (size <= PL_SCRATCH_BYTES) {
        buffer = scratch_of(op->loop);
    } else {
        bytes = PyBytes_FromStringAndSize(NULL, size);
        buffer = bytes != NULL ? PyBytes_AS_STRING(bytes) : NULL;
    }
    if (buffer == NULL) {
        return OP_ATTEMPT_ERROR;
    }
    ssize_t n;
    int rc;
    do {
        from_length = sizeof(from);
        memset(&from, 0, sizeof(from));
        n = recvfrom(op->fd, buffer, (size_t)size, MSG_DONTWAIT,
                     (struct sockaddr *)&from, &from_length);
        rc = n < 0 ? interrupted(errno) : 0;
    } while (rc > 0);
    if (n < 0) {
        int error = errno;
        Py_XDECREF(bytes);
        if (rc < 0) {
            return OP_ATTEMPT_ERROR;
        }
        return error == EAGAIN || error == EWOULDBLOCK
                   ? OP_ATTEMPT_WAIT
                   : ioop_fail(op, -error);
    }
    if (bytes == NULL) {
        bytes = PyBytes_FromStringAndSize(buffer, n);
    } else if (n < size && _PyBytes_Resize(&bytes, n) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    /* A connected stream socket gives no address. */
    PyObject *address = from_length == 0 ? Py_NewRef(Py_None)
                                         : address_to_python(
                                               (struct sockaddr *)&from,
                                               from_length);
    if (bytes != NULL && address != NULL) {
        *result = PyTuple_Pack(2, bytes, address);
    }
    Py_XDECREF(bytes);
    Py_XDECREF(address);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_recvfrom = {
    .name = "recvfrom",
    .attempt = recvfrom_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
};

/* --- send, sendall, sendto --- */

static enum op_attempt
send_attempt(OpObject *op, PyObject **result)
{
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    Py_ssize_t n = send_some(op, op->u.io.data, op->u.io.length);
    if (n < 0) {
        return n == -EAGAIN ? OP_ATTEMPT_WAIT : ioop_fail(op, n);
    }
    *result = PyLong_FromSsize_t(n);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_send = {
    .name = "send",
    .attempt = send_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .clear = release_view,
};

static enum op_attempt
sendall_attempt(OpObject *op, PyObject **result)
{
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (op->u.io.done < op->u.io.length) {
        Py_ssize_t n = send_some(op, op->u.io.data + op->u.io.done,
                                 op->u.io.length - op->u.io.done);
        if (n < 0 && n != -EAGAIN) {
            return ioop_fail(op, n);
        }
        op->u.io.done += n > 0 ? n : 0;
        if (op->u.io.done < op->u.io.length) {
            return OP_ATTEMPT_WAIT; /* a short send: the socket is full */
        }
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static const struct op_kind op_kind_sendall = {
    .name = "sendall",
    .attempt = sendall_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .clear = release_view,
};

/* op->value: the sockaddr, as bytes. */
static enum op_attempt
sendto_attempt(OpObject *op, PyObject **result)
{
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    ssize_t n;
    int rc;
    do {
        n = sendto(op->fd, op->u.io.data, (size_t)op->u.io.length,
                   MSG_DONTWAIT | MSG_NOSIGNAL,
                   (struct sockaddr *)(void *)PyBytes_AS_STRING(op->value),
                   (socklen_t)PyBytes_GET_SIZE(op->value));
        rc = n < 0 ? interrupted(errno) : 0;
    } while (rc > 0);
    if (n < 0) {
        int error = errno;
        if (rc < 0) {
            return OP_ATTEMPT_ERROR;
        }
        return error == EAGAIN || error == EWOULDBLOCK
                   ? OP_ATTEMPT_WAIT
                   : ioop_fail(op, -error);
    }
    *result = PyLong_FromSsize_t(n);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_sendto = {
    .name = "sendto",
    .attempt = sendto_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .clear = release_view,
};

/* --- accept --- */

/* An int member of _socket.socket, past the properties of its subclass. */
static int
raw_member(struct module_state *state, PyObject *sock, const char *name,
           int *out)
{
    PyObject *descr = PyObject_GetAttrString(state->RawSocketType, name);
    if (descr == NULL) {
        return -1;
    }
    PyObject *value = Py_TYPE(descr)->tp_descr_get(descr, sock,
                                                   (PyObject *)Py_TYPE(sock));
    Py_DECREF(descr);
    if (value == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(value);
    Py_DECREF(value);
    *out = (int)number;
    return number == -1 && PyErr_Occurred() ? -1 : 0;
}

/* A socket.socket around fd (taken over), in non-blocking mode without another
 * system call: SOCK_NONBLOCK in the type says that it is so already. */
static PyObject *
wrap_connection(OpObject *op, int fd)
{
    struct module_state *state = op->loop->state;
    int family, type, proto;
    PyObject *conn = NULL;
    if (raw_member(state, op->object, "family", &family) == 0
        && raw_member(state, op->object, "type", &type) == 0
        && raw_member(state, op->object, "proto", &proto) == 0) {
        conn = PyObject_CallFunction(state->SocketType, "iiii", family,
                                     type | SOCK_NONBLOCK, proto, fd);
    }
    if (conn == NULL) {
        close(fd);
    }
    return conn;
}

static enum op_attempt
accept_attempt(OpObject *op, PyObject **result)
{
    if (refresh_fd(op) < 0
        || (op->status == OP_NEW
            && sockfd_require_nonblocking(op->fd, op->object, "accept")
                   < 0)) {
        return OP_ATTEMPT_ERROR;
    }
    struct sockaddr_storage from;
    socklen_t from_length;
    int fd;
    do {
        from_length = sizeof(from);
        memset(&from, 0, sizeof(from));
        fd = accept4(op->fd, (struct sockaddr *)&from, &from_length,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
        /* A client that gave up in the queue is not the server's error. */
    } while (fd < 0 && errno == ECONNABORTED);
    if (fd < 0) {
        int error = errno;
        if (error == EAGAIN || error == EWOULDBLOCK) {
            return OP_ATTEMPT_WAIT;
        }
        int rc = interrupted(error);
        return rc > 0   ? accept_attempt(op, result)
               : rc < 0 ? OP_ATTEMPT_ERROR
                        : ioop_fail(op, -error);
    }
    PyObject *conn = wrap_connection(op, fd);
    PyObject *address
        = conn != NULL
              ? address_to_python((struct sockaddr *)&from, from_length)
              : NULL;
    if (address != NULL) {
        *result = PyTuple_Pack(2, conn, address);
    }
    Py_XDECREF(conn);
    Py_XDECREF(address);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_accept = {
    .name = "accept",
    .attempt = accept_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
};

/* --- connect --- */

enum connect_phase { CONNECT_START, CONNECT_PENDING };

static enum op_attempt
connect_end(OpObject *op, PyObject **result)
{
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        error = errno;
    }
    if (error != 0) {
        errors_from_errno(error, "connect() on descriptor %d", op->fd);
        return OP_ATTEMPT_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static enum op_attempt
connect_attempt(OpObject *op, PyObject **result)
{
    if (refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (op->phase == CONNECT_PENDING) {
        return connect_end(op, result);
    }
    if (sockfd_require_nonblocking(op->fd, op->object, "connect") < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (connect(op->fd,
                (struct sockaddr *)(void *)PyBytes_AS_STRING(op->value),
                (socklen_t)PyBytes_GET_SIZE(op->value))
        == 0) {
        *result = Py_NewRef(Py_None);
        return OP_ATTEMPT_DONE;
    }
    /* Interrupted: it goes on in the kernel, as connect(2) says. */
    if (errno == EINPROGRESS || errno == EINTR) {
        op->phase = CONNECT_PENDING;
        return OP_ATTEMPT_WAIT;
    }
    return ioop_fail(op, -errno);
}

static const struct op_kind op_kind_connect = {
    .name = "connect",
    .attempt = connect_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
};

/* --- the functions --- */

static OpObject *
socket_op(struct module_state *state, const struct op_kind *kind,
          PyObject *sock, int side)
{
    int fd = sockfd_get(state, sock, kind->name);
    OpObject *op = fd < 0 ? NULL : op_new(state, kind);
    if (op != NULL) {
        op->fd = fd;
        op->side = (uint8_t)side;
        op->object = Py_NewRef(sock);
    }
    return op;
}

/* An op that was made but will not be handed out must not warn. */
static PyObject *
discard(OpObject *op)
{
    op->status = OP_DONE;
    Py_DECREF(op);
    return NULL;
}

static int
parse_size(PyObject *number, const char *who, Py_ssize_t *out)
{
    if (!PyIndex_Check(number)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): bufsize must be an int, not %.200s (%R)", who,
                     Py_TYPE(number)->tp_name, number);
        return -1;
    }
    Py_ssize_t size = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (size < 0) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): bufsize must not be negative, got %zd", who,
                     size);
        return -1;
    }
    *out = size;
    return 0;
}

static PyObject *
make_recv(PyObject *module, const struct args_spec *spec,
          const struct op_kind *kind, PyObject *const *args,
          Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound[2];
    Py_ssize_t size = 1024;
    if (args_bind(spec, args, nargs, kwnames, bound) < 0
        || (bound[1] != NULL
            && parse_size(bound[1], spec->function, &size) < 0)) {
        return NULL;
    }
    OpObject *op = socket_op(state_of_module(module), kind, bound[0],
                             PL_SIDE_READ);
    if (op != NULL) {
        op->u.io.length = size;
    }
    return (PyObject *)op;
}

PyDoc_STRVAR(recv_doc,
             "recv(sock, bufsize=1024)\n--\n\n"
             "Receive up to bufsize bytes from a socket.\n\n"
             "Args:\n"
             "    sock: socket.socket, in any mode; it never blocks the "
             "thread.\n"
             "    bufsize: int >= 0, bytes.\n\n"
             "Returns:\n"
             "    An awaitable of bytes, b'' when the peer has closed.\n\n"
             "Raises:\n"
             "    TypeError, ValueError: bad arguments.\n"
             "    OSError: the socket is closed, or recv(2) failed.\n"
             "    RuntimeError: another task waits to read from the socket.\n"
             "Cancelled while it waits, it has received nothing.\n\n"
             "Example:\n    data = await pyloop.recv(conn)");

static PyObject *
ioop_py_recv(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"sock", "bufsize"};
    static const struct args_spec spec = {"recv", names, 2, 2, 1};
    return make_recv(module, &spec, &op_kind_recv, args, nargs, kwnames);
}

PyDoc_STRVAR(recvfrom_doc,
             "recvfrom(sock, bufsize)\n--\n\n"
             "Receive a datagram of up to bufsize bytes and its sender's "
             "address.\n\n"
             "Args:\n"
             "    sock: socket.socket.\n"
             "    bufsize: int >= 0, bytes; what is longer is cut off.\n\n"
             "Returns:\n    An awaitable of (bytes, address).\n\n"
             "Raises:\n"
             "    TypeError, ValueError: bad arguments.\n"
             "    OSError: the socket is closed, or recvfrom(2) failed.\n"
             "    RuntimeError: another task waits to read from the socket.\n\n"
             "Example:\n    data, addr = await pyloop.recvfrom(sock, 1500)");

static PyObject *
ioop_py_recvfrom(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"sock", "bufsize"};
    static const struct args_spec spec = {"recvfrom", names, 2, 2, 2};
    return make_recv(module, &spec, &op_kind_recvfrom, args, nargs, kwnames);
}

/* Points op->u.io at the bytes of `data`: a bytes object is only held, any
 * other buffer is exported for the length of the operation. */
static int
take_buffer(OpObject *op, PyObject *data, int flags)
{
    if (flags == PyBUF_SIMPLE && PyBytes_CheckExact(data)) {
        op->value = Py_NewRef(data);
        op->u.io.data = PyBytes_AS_STRING(data);
        op->u.io.length = PyBytes_GET_SIZE(data);
        return 0;
    }
    Py_buffer *view = PyMem_Malloc(sizeof(*view));
    if (view == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyObject_GetBuffer(data, view, flags) < 0) { /* call-out */
        PyMem_Free(view);
        return -1;
    }
    op->u.io.view = view;
    op->u.io.data = view->buf;
    op->u.io.length = view->len;
    return 0;
}

static PyObject *
make_buffer_op(PyObject *module, const struct args_spec *spec,
               const struct op_kind *kind, int side, int flags,
               PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound[2];
    if (args_bind(spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    OpObject *op
        = socket_op(state_of_module(module), kind, bound[0], side);
    if (op != NULL && take_buffer(op, bound[1], flags) < 0) {
        return discard(op);
    }
    return (PyObject *)op;
}

PyDoc_STRVAR(recv_into_doc,
             "recv_into(sock, buffer)\n--\n\n"
             "Receive bytes into a writable buffer.\n\n"
             "The buffer is locked (a bytearray cannot be resized) until the "
             "operation ends.\n\n"
             "Args:\n"
             "    sock: socket.socket.\n"
             "    buffer: a writable bytes-like object.\n\n"
             "Returns:\n"
             "    An awaitable of the number of bytes, 0 when the peer has "
             "closed.\n\n"
             "Raises:\n"
             "    TypeError, BufferError: bad arguments.\n"
             "    OSError: the socket is closed, or recv(2) failed.\n"
             "    RuntimeError: another task waits to read from the socket.\n\n"
             "Example:\n    n = await pyloop.recv_into(conn, buffer)");

static PyObject *
ioop_py_recv_into(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"sock", "buffer"};
    static const struct args_spec spec = {"recv_into", names, 2, 2, 2};
    return make_buffer_op(module, &spec, &op_kind_recv_into, PL_SIDE_READ,
                          PyBUF_WRITABLE, args, nargs, kwnames);
}

PyDoc_STRVAR(send_doc,
             "send(sock, data)\n--\n\n"
             "Send as many bytes as the socket takes, at least one.\n\n"
             "Args:\n"
             "    sock: socket.socket.\n"
             "    data: bytes-like.\n\n"
             "Returns:\n    An awaitable of the number of bytes sent.\n\n"
             "Raises:\n"
             "    TypeError: bad arguments.\n"
             "    OSError: the socket is closed, or send(2) failed.\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n    n = await pyloop.send(conn, b'hello')");

static PyObject *
ioop_py_send(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"sock", "data"};
    static const struct args_spec spec = {"send", names, 2, 2, 2};
    return make_buffer_op(module, &spec, &op_kind_send, PL_SIDE_WRITE,
                          PyBUF_SIMPLE, args, nargs, kwnames);
}

PyDoc_STRVAR(sendall_doc,
             "sendall(sock, data)\n--\n\n"
             "Send all bytes.\n\n"
             "A mutable buffer is locked until the operation ends.  Cancelled "
             "while it waits, it may have sent a part.\n\n"
             "Args:\n"
             "    sock: socket.socket.\n"
             "    data: bytes-like.\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Raises:\n"
             "    TypeError: bad arguments.\n"
             "    OSError: the socket is closed, or send(2) failed.\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n    await pyloop.sendall(conn, b'hello\\n')");

static PyObject *
ioop_py_sendall(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"sock", "data"};
    static const struct args_spec spec = {"sendall", names, 2, 2, 2};
    return make_buffer_op(module, &spec, &op_kind_sendall, PL_SIDE_WRITE,
                          PyBUF_SIMPLE, args, nargs, kwnames);
}

/* The sockaddr of `address` for `sock`, as bytes; Py_None when a name must be
 * looked up first; NULL with an exception. */
static PyObject *
pack_address(struct module_state *state, PyObject *sock, PyObject *address,
             const char *who)
{
    int family;
    if (raw_member(state, sock, "family", &family) < 0) {
        return NULL;
    }
    struct sockaddr_storage to;
    socklen_t length = 0;
    int rc = address_from_python(family, address, who, &to, &length);
    if (rc < 0) {
        return NULL;
    }
    if (rc == 0) {
        return Py_NewRef(Py_None);
    }
    return PyBytes_FromStringAndSize((const char *)&to, (Py_ssize_t)length);
}

/* What needs a name look-up is done by a coroutine in pyloop._resolve, off the
 * loop's thread. */
static PyObject *
by_name(PyObject **slot, const char *name, PyObject *const *args, size_t n)
{
    if (*slot == NULL) {
        PyObject *module = PyImport_ImportModule("pyloop._resolve");
        if (module == NULL) {
            return NULL;
        }
        *slot = PyObject_GetAttrString(module, name);
        Py_DECREF(module);
        if (*slot == NULL) {
            return NULL;
        }
    }
    return PyObject_Vectorcall(*slot, args, n, NULL);
}

PyDoc_STRVAR(sendto_doc,
             "sendto(sock, data, address)\n--\n\n"
             "Send a datagram to an address.\n\n"
             "Args:\n"
             "    sock: socket.socket.\n"
             "    data: bytes-like.\n"
             "    address: of the socket's family; a host name is looked up "
             "off the loop's thread.\n\n"
             "Returns:\n    An awaitable of the number of bytes sent.\n\n"
             "Raises:\n"
             "    TypeError, OverflowError: bad arguments.\n"
             "    OSError: the socket is closed, or sendto(2) failed.\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n"
             "    await pyloop.sendto(sock, b'hi', ('127.0.0.1', 8000))");

static PyObject *
ioop_py_sendto(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"sock", "data", "address"};
    static const struct args_spec spec = {"sendto", names, 3, 3, 3};
    struct module_state *state = state_of_module(module);
    PyObject *bound[3];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    OpObject *op
        = socket_op(state, &op_kind_sendto, bound[0], PL_SIDE_WRITE);
    if (op == NULL) {
        return NULL;
    }
    PyObject *to = pack_address(state, bound[0], bound[2], "sendto");
    if (to == NULL) {
        return discard(op);
    }
    if (to == Py_None) {
        Py_DECREF(to);
        (void)discard(op);
        return by_name(&state->sendto_by_name, "sendto_by_name", bound, 3);
    }
    /* PyBUF_CONTIG_RO, not SIMPLE: op->value is taken by the address, so that
     * even bytes are held through a view. */
    if (take_buffer(op, bound[1], PyBUF_CONTIG_RO) < 0) {
        Py_DECREF(to);
        return discard(op);
    }
    op->value = to;
    return (PyObject *)op;
}

PyDoc_STRVAR(accept_doc,
             "accept(sock)\n--\n\n"
             "Wait for a connection on a listening socket.\n\n"
             "Args:\n"
             "    sock: socket.socket, listening and non-blocking.\n\n"
             "Returns:\n"
             "    An awaitable of (conn, address); conn is a non-blocking "
             "socket.socket.\n\n"
             "Raises:\n"
             "    TypeError: not a socket.\n"
             "    ValueError: the socket is in blocking mode.\n"
             "    OSError: the socket is closed, or accept(2) failed.\n"
             "    RuntimeError: another task waits to read from the socket.\n\n"
             "Example:\n    conn, addr = await pyloop.accept(listener)");

static PyObject *
ioop_py_accept(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"sock"};
    static const struct args_spec spec = {"accept", names, 1, 1, 1};
    PyObject *sock;
    if (args_bind(&spec, args, nargs, kwnames, &sock) < 0) {
        return NULL;
    }
    return (PyObject *)socket_op(state_of_module(module), &op_kind_accept,
                                 sock, PL_SIDE_READ);
}

PyDoc_STRVAR(connect_doc,
             "connect(sock, address)\n--\n\n"
             "Connect a socket.\n\n"
             "Args:\n"
             "    sock: socket.socket, non-blocking.\n"
             "    address: of the socket's family; a host name is looked up "
             "off the loop's thread.\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Raises:\n"
             "    TypeError, OverflowError: bad arguments.\n"
             "    ValueError: the socket is in blocking mode.\n"
             "    OSError: the socket is closed, or connect(2) failed "
             "(ConnectionRefusedError ...).\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n"
             "    await pyloop.connect(sock, ('localhost', 8080))");

static PyObject *
ioop_py_connect(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"sock", "address"};
    static const struct args_spec spec = {"connect", names, 2, 2, 2};
    struct module_state *state = state_of_module(module);
    PyObject *bound[2];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    OpObject *op
        = socket_op(state, &op_kind_connect, bound[0], PL_SIDE_WRITE);
    if (op == NULL) {
        return NULL;
    }
    PyObject *to = pack_address(state, bound[0], bound[1], "connect");
    if (to == NULL) {
        return discard(op);
    }
    if (to == Py_None) {
        Py_DECREF(to);
        (void)discard(op);
        return by_name(&state->connect_by_name, "connect_by_name", bound, 2);
    }
    op->value = to;
    return (PyObject *)op;
}

PyDoc_STRVAR(wait_readable_doc,
             "wait_readable(fd, /)\n--\n\n"
             "Wait until a descriptor can be read from.\n\n"
             "Args:\n"
             "    fd: an int, or any object with fileno().\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Raises:\n"
             "    TypeError, ValueError: not a descriptor.\n"
             "    OSError: it is closed, or cannot be polled (a regular "
             "file).\n"
             "    RuntimeError: another task waits to read from it.\n\n"
             "Example:\n    await pyloop.wait_readable(sys.stdin)");

static PyObject *
ioop_py_wait_readable(PyObject *module, PyObject *fileobj)
{
    return (PyObject *)op_new_wait(state_of_module(module), fileobj,
                                   PL_SIDE_READ);
}

PyDoc_STRVAR(wait_writable_doc,
             "wait_writable(fd, /)\n--\n\n"
             "Wait until a descriptor can be written to.\n\n"
             "Args:\n"
             "    fd: an int, or any object with fileno().\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Raises:\n"
             "    TypeError, ValueError: not a descriptor.\n"
             "    OSError: it is closed, or cannot be polled (a regular "
             "file).\n"
             "    RuntimeError: another task waits to write to it.\n\n"
             "Example:\n    await pyloop.wait_writable(sock)");

static PyObject *
ioop_py_wait_writable(PyObject *module, PyObject *fileobj)
{
    return (PyObject *)op_new_wait(state_of_module(module), fileobj,
                                   PL_SIDE_WRITE);
}

#define IOOP_FASTCALL(name)                                    \
    {#name, (PyCFunction)(void (*)(void))ioop_py_##name,       \
     METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef ioop_functions[] = {
    IOOP_FASTCALL(recv),
    IOOP_FASTCALL(recv_into),
    IOOP_FASTCALL(recvfrom),
    IOOP_FASTCALL(send),
    IOOP_FASTCALL(sendall),
    IOOP_FASTCALL(sendto),
    IOOP_FASTCALL(accept),
    IOOP_FASTCALL(connect),
    {"wait_readable", ioop_py_wait_readable, METH_O, wait_readable_doc},
    {"wait_writable", ioop_py_wait_writable, METH_O, wait_writable_doc},
    {NULL, NULL, 0, NULL},
};

int
ioop_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, ioop_functions);
}
