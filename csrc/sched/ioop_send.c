/* send(), sendall(), sendto(). */
#include <Python.h>

#include "ioop.h"

#include <errno.h>
#include <sys/socket.h>

#include "errors.h"

/* One send(2); -EAGAIN: wait. */
static Py_ssize_t
send_some(OpObject *op, const char *data, Py_ssize_t length)
{
    for (;;) {
        ssize_t n
            = send(op->fd, data, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            return n;
        }
        int error = errno;
        if (error == EAGAIN || error == EWOULDBLOCK) {
            return -EAGAIN;
        }
        int rc = ioop_interrupted(op, error);
        if (rc <= 0) {
            return rc < 0 ? -EINTR : -error;
        }
    }
}

/* --- send, sendall, sendto --- */

static enum op_attempt
send_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
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
    .clear = ioop_release_view,
    .traverse = ioop_traverse_view,
};

static enum op_attempt
sendall_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
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
    .clear = ioop_release_view,
    .traverse = ioop_traverse_view,
};

/* op->value: the sockaddr, as bytes. */
static enum op_attempt
sendto_attempt(OpObject *op, PyObject **result)
{
    if (ioop_refresh_fd(op) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    ssize_t n;
    int rc;
    do {
        n = sendto(op->fd, op->u.io.data, (size_t)op->u.io.length,
                   MSG_DONTWAIT | MSG_NOSIGNAL,
                   (struct sockaddr *)(void *)PyBytes_AS_STRING(op->value),
                   (socklen_t)PyBytes_GET_SIZE(op->value));
        rc = n < 0 ? ioop_interrupted(op, errno) : 0;
    } while (rc > 0);
    if (n < 0) {
        int error = errno;
        if (rc < 0) {
            return OP_ATTEMPT_ERROR;
        }
        return error == EAGAIN || error == EWOULDBLOCK ? OP_ATTEMPT_WAIT
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
    .clear = ioop_release_view,
    .traverse = ioop_traverse_view,
};

/* --- the functions --- */

PyDoc_STRVAR(send_doc,
             "send(sock, data)\n--\n\n"
             "Send as many bytes as the socket takes, at least one.\n\n"
             "Args:\n"
             "    sock: socket.socket.\n"
             "    data: bytes-like.\n\n"
             "Returns:\n    An awaitable of the number of bytes sent.\n\n"
             "Raises:\n"
             "    TypeError, BufferError: bad arguments.\n"
             "    OSError: the socket is closed, or send(2) failed.\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n    n = await pyloop.send(conn, b'hello')");

static PyObject *
ioop_py_send(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"sock", "data"};
    static const struct args_spec spec = {"send", names, 2, 2, 2};
    return ioop_new_buffer(module, &spec, &op_kind_send, PL_SIDE_WRITE,
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
             "    TypeError, BufferError: bad arguments.\n"
             "    OSError: the socket is closed, or send(2) failed.\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n    await pyloop.sendall(conn, b'hello\\n')");

PyObject *
ioop_py_sendall(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"sock", "data"};
    static const struct args_spec spec = {"sendall", names, 2, 2, 2};
    return ioop_new_buffer(module, &spec, &op_kind_sendall, PL_SIDE_WRITE,
                           PyBUF_SIMPLE, args, nargs, kwnames);
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
             "    TypeError, BufferError, OverflowError: bad arguments.\n"
             "    OSError: the socket is closed, or sendto(2) failed.\n"
             "    RuntimeError: another task waits to write to the socket.\n\n"
             "Example:\n"
             "    await pyloop.sendto(sock, b'hi', ('127.0.0.1', 8000))");

PyObject *
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
    OpObject *op = ioop_new(state, &op_kind_sendto, bound[0], PL_SIDE_WRITE);
    if (op == NULL) {
        return NULL;
    }
    PyObject *to = ioop_pack_address(state, bound[0], bound[2], "sendto");
    if (to == NULL) {
        return ioop_discard(op);
    }
    if (to == Py_None) {
        Py_DECREF(to);
        int is_good = ioop_check_buffer(op, bound[1]);
        (void)ioop_discard(op);
        if (is_good < 0) {
            return NULL;
        }
        return ioop_by_name(&state->sendto_by_name, "sendto_by_name", bound,
                            3);
    }
    /* PyBUF_CONTIG_RO, not SIMPLE: op->value is taken by the address, so that
     * even bytes are held through a view. */
    if (ioop_take_buffer(op, bound[1], PyBUF_CONTIG_RO) < 0) {
        Py_DECREF(to);
        return ioop_discard(op);
    }
    op->value = to;
    return (PyObject *)op;
}

#define IOOP_FASTCALL(name) \
    {#name, (PyCFunction)(void (*)(void))ioop_py_##name, \
     METH_FASTCALL | METH_KEYWORDS, name##_doc}

static PyMethodDef send_functions[] = {
    IOOP_FASTCALL(send),
    IOOP_FASTCALL(sendall),
    IOOP_FASTCALL(sendto),
    {NULL, NULL, 0, NULL},
};

int
ioop_send_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, send_functions);
}
