/* recv(), recv_into(), recvfrom(). */
#include <Python.h>

#include "ioop.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "address.h"
#include "errors.h"

/* Receives up to this size go through the loop's scratch buffer and are
 * copied out at their true length; larger ones get an object of their own
 * that is shrunk.  64 KiB is what asyncio's streams ask for. */
#define PL_SCRATCH_BYTES (64 * 1024)

/* After a full read more is likely to be there and is tried for at once; when
 * that guess was wrong, the next so many full reads wait first. */
#define PL_WRONG_GUESS_READS 16

/* --- the system call --- */

static inline struct watch *
watch_of(OpObject *op)
{
    struct watch *watch = fdtable_get(&op->loop->reactor->fds, op->fd);
    return watch != NULL && watch->owner == op->object ? watch : NULL;
}

static void
note_read(struct reactor *reactor, struct watch *watch, bool was_full,
          bool was_guess, ssize_t n)
{
    uint8_t guesses = watch->hints >> 1;
    bool drained = !was_full && n != 0;
    if (n < 0) {
        if (was_guess) {
            guesses = PL_WRONG_GUESS_READS;
        }
    }
    else if (was_full && guesses > 0) {
        guesses--;
        drained = true; /* presumably, which edges cannot be built on */
        reactor_drop_edges(reactor, watch);
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
                note_read(op->loop->reactor, watch, n == (ssize_t)size,
                          is_first, n);
            }
            return n >= 0 ? n : -EAGAIN;
        }
        int rc = ioop_interrupted(op, error);
        if (rc <= 0) {
            return rc < 0 ? -EINTR : -error;
        }
    }
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

/* Where up to op->u.io.length bytes can be received: the loop's scratch
 * buffer, or a bytes object of that size in *bytes (NULL otherwise).  NULL
 * with MemoryError. */
static char *
landing_place(OpObject *op, PyObject **bytes)
{
    *bytes = NULL;
    if (PL_LIKELY(op->u.io.length <= PL_SCRATCH_BYTES)) {
        return scratch_of(op->loop);
    }
    *bytes = PyBytes_FromStringAndSize(NULL, op->u.io.length);
    return *bytes != NULL ? PyBytes_AS_STRING(*bytes) : NULL;
}

/* The n bytes that were received there, as an object of their length.  Steals
 * `bytes`. */
static PyObject *
landed(OpObject *op, PyObject *bytes, const char *buffer, Py_ssize_t n)
{
    if (bytes == NULL) {
        return messages_make(&op->loop->messages, buffer, n);
    }
    if (n < PyBytes_GET_SIZE(bytes)) {
        (void)_PyBytes_Resize(&bytes, n); /* NULL on failure */
    }
    return bytes;
}

static enum op_attempt
recv_attempt(OpObject *op, PyObject **result)
{
    Py_ssize_t size = op->u.io.length;
    PyObject *bytes;
    if (ioop_refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    char *buffer = landing_place(op, &bytes);
    if (buffer == NULL) {
        return OP_ATTEMPT_ERROR;
    }
    Py_ssize_t n = ioop_recv(op, buffer, (size_t)size);
    if (n < 0) {
        Py_XDECREF(bytes);
        return n == -EAGAIN ? OP_ATTEMPT_WAIT : ioop_fail(op, n);
    }
    *result = landed(op, bytes, buffer, n);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static const struct op_kind op_kind_recv = {
    .name = "recv",
    .attempt = recv_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .drains = true,
};

static enum op_attempt
recv_into_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
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
    .drains = true,
    .clear = ioop_release_view,
    .traverse = ioop_traverse_view,
};

/* --- recvfrom --- */

/* One recvfrom(2): the bytes, or -errno; -EINTR comes with the exception of a
 * signal handler. */
static Py_ssize_t
receive_from(OpObject *op, void *buffer, size_t size,
             struct sockaddr_storage *from, socklen_t *from_length)
{
    for (;;) {
        *from_length = sizeof(*from);
        memset(from, 0, sizeof(*from));
        ssize_t n = recvfrom(op->fd, buffer, size, MSG_DONTWAIT,
                             (struct sockaddr *)from, from_length);
        if (n >= 0) {
            return n;
        }
        int error = errno;
        int rc = ioop_interrupted(op, error);
        if (rc <= 0) {
            return rc < 0 ? -EINTR : error == EWOULDBLOCK ? -EAGAIN : -error;
        }
    }
}

/* (`received`, address); a connected stream socket gives no address.  Steals
 * `received`, which may be NULL. */
static enum op_attempt
received_from(PyObject *received, const struct sockaddr_storage *from,
              socklen_t from_length, PyObject **result)
{
    PyObject *address
        = from_length == 0
              ? Py_NewRef(Py_None)
              : address_to_python((const struct sockaddr *)from, from_length);
    if (received != NULL && address != NULL) {
        *result = PyTuple_Pack(2, received, address);
    }
    Py_XDECREF(received);
    Py_XDECREF(address);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

static enum op_attempt
recvfrom_attempt(OpObject *op, PyObject **result)
{
    Py_ssize_t size = op->u.io.length;
    if (ioop_refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    struct sockaddr_storage from;
    socklen_t from_length;
    PyObject *bytes;
    char *buffer = landing_place(op, &bytes);
    if (buffer == NULL) {
        return OP_ATTEMPT_ERROR;
    }
    Py_ssize_t n = receive_from(op, buffer, (size_t)size, &from, &from_length);
    if (n < 0) {
        Py_XDECREF(bytes);
        return n == -EAGAIN ? OP_ATTEMPT_WAIT : ioop_fail(op, n);
    }
    return received_from(landed(op, bytes, buffer, n), &from, from_length,
                         result);
}

static enum op_attempt
recvfrom_into_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    struct sockaddr_storage from;
    socklen_t from_length;
    Py_ssize_t n = receive_from(op, op->u.io.data, (size_t)op->u.io.length,
                                &from, &from_length);
    if (n < 0) {
        return n == -EAGAIN ? OP_ATTEMPT_WAIT : ioop_fail(op, n);
    }
    return received_from(PyLong_FromSsize_t(n), &from, from_length, result);
}

static const struct op_kind op_kind_recvfrom_into = {
    .name = "recvfrom_into",
    .attempt = recvfrom_into_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .clear = ioop_release_view,
    .traverse = ioop_traverse_view,
};

static const struct op_kind op_kind_recvfrom = {
    .name = "recvfrom",
    .attempt = recvfrom_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
};

/* --- the functions --- */

PL_COLD static int
parse_any_size(PyObject *number, const char *who, Py_ssize_t *out)
{
    if (!PyIndex_Check(number)) {
        errors_bad_type(number, "%s(): bufsize must be an int", who);
        return -1;
    }
    PyObject *whole = PyNumber_Index(number); /* call-out */
    if (whole == NULL) {
        return -1;
    }
    int overflow; /* and size is -1, whichever way */
    long long size = PyLong_AsLongLongAndOverflow(whole, &overflow);
    int rc = -1;
    if (overflow < 0 || (overflow == 0 && size < 0)) {
        errors_bad_value(PyExc_ValueError, whole,
                         "%s(): bufsize must not be negative, got", who);
    }
    else if (overflow > 0 || size > PY_SSIZE_T_MAX) {
        errors_bad_value(PyExc_OverflowError, whole,
                         "%s(): bufsize must be at most %zd, got", who,
                         PY_SSIZE_T_MAX);
    }
    else {
        *out = (Py_ssize_t)size;
        rc = 0;
    }
    Py_DECREF(whole);
    return rc;
}

static int
parse_size(PyObject *number, const char *who, Py_ssize_t *out)
{
    if (PL_LIKELY(PyLong_CheckExact(number))) {
        Py_ssize_t size = PyLong_AsSsize_t(number);
        if (PL_LIKELY(size >= 0)) {
            *out = size;
            return 0;
        }
        PyErr_Clear(); /* of what does not fit; negative ones set none */
    }
    return parse_any_size(number, who, out);
}

static PyObject *
make_recv(PyObject *module, const struct args_spec *spec,
          const struct op_kind *kind, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    PyObject *bound[2];
    Py_ssize_t size = 1024;
    if (args_bind(spec, args, nargs, kwnames, bound) < 0
        || (bound[1] != NULL
            && parse_size(bound[1], spec->function, &size) < 0))
    {
        return NULL;
    }
    OpObject *op
        = ioop_new(state_of_module(module), kind, bound[0], PL_SIDE_READ);
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
             "    TypeError, ValueError, OverflowError: bad arguments.\n"
             "    OSError: the socket is closed, or recv(2) failed.\n"
             "    RuntimeError: another task waits to read from the socket.\n"
             "Cancelled while it waits, it has received nothing.\n\n"
             "Example:\n    data = await pyloop.recv(conn)");

PyObject *
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
             "    TypeError, ValueError, OverflowError: bad arguments.\n"
             "    OSError: the socket is closed, or recvfrom(2) failed.\n"
             "    RuntimeError: another task waits to read from the socket.\n"
             "\n"
             "Example:\n    data, addr = await pyloop.recvfrom(sock, 1500)");

PyObject *
ioop_py_recvfrom(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"sock", "bufsize"};
    static const struct args_spec spec = {"recvfrom", names, 2, 2, 2};
    return make_recv(module, &spec, &op_kind_recvfrom, args, nargs, kwnames);
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
             "    RuntimeError: another task waits to read from the socket.\n"
             "\n"
             "Example:\n    n = await pyloop.recv_into(conn, buffer)");

PyObject *
ioop_py_recv_into(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"sock", "buffer"};
    static const struct args_spec spec = {"recv_into", names, 2, 2, 2};
    return ioop_new_buffer(module, &spec, &op_kind_recv_into, PL_SIDE_READ,
                           PyBUF_WRITABLE, args, nargs, kwnames);
}

/* For the loop's method alone: (sock, buffer, nbytes or NULL). */
PyObject *
ioop_py_recvfrom_into(PyObject *module, PyObject *const *args,
                      Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(names))
{
    OpObject *op = ioop_new(state_of_module(module), &op_kind_recvfrom_into,
                            args[0], PL_SIDE_READ);
    Py_ssize_t size = 0;
    if (op == NULL) {
        return NULL;
    }
    if (args[2] != NULL) {
        size = PyNumber_AsSsize_t(args[2], PyExc_OverflowError);
        if (size == -1 && PyErr_Occurred()) {
            return ioop_discard(op);
        }
    }
    if (ioop_take_buffer(op, args[1], PyBUF_WRITABLE) < 0) {
        return ioop_discard(op);
    }
    if (size < 0 || size > op->u.io.length) {
        PyErr_SetString(
            PyExc_ValueError,
            size < 0 ? "negative buffersize in recvfrom_into"
                     : "nbytes is greater than the length of the buffer");
        return ioop_discard(op);
    }
    if (size > 0) {
        op->u.io.length = size;
    }
    return (PyObject *)op;
}

#define IOOP_FASTCALL(name) \
    {#name, (PyCFunction)(void (*)(void))ioop_py_##name, \
     METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef recv_functions[] = {
    IOOP_FASTCALL(recv),
    IOOP_FASTCALL(recv_into),
    IOOP_FASTCALL(recvfrom),
    {NULL, NULL, 0, NULL},
};

int
ioop_recv_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, recv_functions);
}
