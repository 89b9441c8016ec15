/* accept(), connect(), wait_readable() and wait_writable(). */
#include <Python.h>

#include "ioop.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "errors.h"
#include "sockfd.h"

/* --- accept --- */

enum accept_phase { ACCEPT_AS_IT_IS, ACCEPT_UNBLOCKED };

/* A socket.socket around fd, taken over. */
static PyObject *
wrap_connection(OpObject *op, int fd)
{
    struct module_state *state = op->loop->state;
    int family, type, proto;
    PyObject *conn = NULL;
    if (sockfd_member(state, op->object, "family", &family) == 0
        && sockfd_member(state, op->object, "type", &type) == 0
        && sockfd_member(state, op->object, "proto", &proto) == 0)
    {
        conn = sockfd_wrap(state, family, type, proto, fd);
    }
    if (conn == NULL) {
        close(fd);
    }
    return conn;
}

/* Whether the socket must be taken out of blocking mode for the call: asyncio
 * takes one that blocks, and blocks.  -1 with the ValueError of our own
 * functions, which refuse it. */
static int
must_unblock(OpObject *op)
{
    int blocks = sockfd_is_blocking(op->fd, op->object, op->kind->name);
    return blocks > 0 && !op->of_asyncio
               ? sockfd_refuse_blocking(op->object, op->kind->name)
               : blocks;
}

static int
accept_one(OpObject *op, struct sockaddr_storage *from, socklen_t *length)
{
    bool unblock = op->phase == ACCEPT_UNBLOCKED;
    *length = sizeof(*from);
    memset(from, 0, sizeof(*from));
    if (PL_UNLIKELY(unblock)) {
        sockfd_set_blocking(op->fd, false);
    }
    int fd = accept4(op->fd, (struct sockaddr *)from, length,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (PL_UNLIKELY(unblock)) {
        sockfd_set_blocking(op->fd, true);
    }
    return fd;
}

static enum op_attempt
accept_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (op->status == OP_NEW) {
        int unblock = must_unblock(op);
        if (unblock < 0) {
            return OP_ATTEMPT_ERROR;
        }
        op->phase = unblock ? ACCEPT_UNBLOCKED : ACCEPT_AS_IT_IS;
    }
    struct sockaddr_storage from;
    socklen_t from_length;
    int fd;
    for (;;) {
        fd = accept_one(op, &from, &from_length);
        if (fd >= 0) {
            break;
        }
        int error = errno;
        if (error == EAGAIN || error == EWOULDBLOCK) {
            return OP_ATTEMPT_WAIT;
        }
        /* A client that gave up in the queue is not the server's error. */
        int rc = error == ECONNABORTED ? 1 : ioop_interrupted(op, error);
        if (rc <= 0) {
            return rc < 0 ? OP_ATTEMPT_ERROR : ioop_fail(op, -error);
        }
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

/* For asyncio's programs in asyncio's words. */
static enum op_attempt
connect_refused(OpObject *op, int error)
{
    if (!op->of_asyncio) {
        return ioop_fail(op, -error);
    }
    PyObject *address = address_to_python(
        (struct sockaddr *)(void *)PyBytes_AS_STRING(op->value),
        (socklen_t)PyBytes_GET_SIZE(op->value));
    PyObject *text = NULL, *exc = NULL;
    if (address != NULL) {
        text = PyUnicode_FromFormat("Connect call failed %S", address);
        Py_DECREF(address);
    }
    if (text != NULL) {
        exc = PyObject_CallFunction(PyExc_OSError, "iN", error, text);
    }
    if (exc != NULL) {
        exception_put(exc);
    }
    return OP_ATTEMPT_ERROR;
}

static enum op_attempt
connect_end(OpObject *op, PyObject **result)
{
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        error = errno;
    }
    if (error != 0) {
        return connect_refused(op, error);
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static enum op_attempt
connect_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (op->phase == CONNECT_PENDING) {
        return connect_end(op, result);
    }
    int unblock = must_unblock(op);
    if (unblock < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (PL_UNLIKELY(unblock)) {
        sockfd_set_blocking(op->fd, false);
    }
    int rc = connect(op->fd,
                     (struct sockaddr *)(void *)PyBytes_AS_STRING(op->value),
                     (socklen_t)PyBytes_GET_SIZE(op->value));
    if (PL_UNLIKELY(unblock)) {
        sockfd_set_blocking(op->fd, true);
    }
    if (rc == 0) {
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
             "    RuntimeError: another task waits to read from the socket.\n"
             "\n"
             "Example:\n    conn, addr = await pyloop.accept(listener)");

PyObject *
ioop_py_accept(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"sock"};
    static const struct args_spec spec = {"accept", names, 1, 1, 1};
    PyObject *sock;
    if (args_bind(&spec, args, nargs, kwnames, &sock) < 0) {
        return NULL;
    }
    return (PyObject *)ioop_new(state_of_module(module), &op_kind_accept, sock,
                                PL_SIDE_READ);
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
make_connect(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames, bool of_asyncio)
{
    static const char *const names[] = {"sock", "address"};
    static const struct args_spec spec = {"connect", names, 2, 2, 2};
    struct module_state *state = state_of_module(module);
    PyObject *bound[2];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    OpObject *op = ioop_new(state, &op_kind_connect, bound[0], PL_SIDE_WRITE);
    if (op == NULL) {
        return NULL;
    }
    op->of_asyncio = of_asyncio;
    PyObject *to = ioop_pack_address(state, bound[0], bound[1], "connect");
    if (to == NULL) {
        return ioop_discard(op);
    }
    if (to == Py_None) {
        Py_DECREF(to);
        int unblock = must_unblock(op);
        (void)ioop_discard(op);
        return unblock < 0 ? NULL
                           : ioop_by_name(&state->connect_by_name,
                                          "connect_by_name", bound, 2);
    }
    op->value = to;
    return (PyObject *)op;
}

static PyObject *
ioop_py_connect(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    return make_connect(module, args, nargs, kwnames, false);
}

PyObject *
ioop_sock_connect(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    return make_connect(module, args, nargs, kwnames, true);
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

#define IOOP_FASTCALL(name) \
    {#name, (PyCFunction)(void (*)(void))ioop_py_##name, \
     METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef conn_functions[] = {
    IOOP_FASTCALL(accept),
    IOOP_FASTCALL(connect),
    {"wait_readable", ioop_py_wait_readable, METH_O, wait_readable_doc},
    {"wait_writable", ioop_py_wait_writable, METH_O, wait_writable_doc},
    {NULL, NULL, 0, NULL},
};

int
ioop_conn_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, conn_functions);
}
