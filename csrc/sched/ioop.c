/* What the awaitables on sockets share: making an op for a socket, its buffer
 * and address, and the answer to a failed system call.  The operations are in
 * ioop_recv.c, ioop_send.c and ioop_conn.c.
 *
 * Each makes one system call where that can succeed: at once when the call is
 * awaited, unless the socket is known to be drained; again when the poller has
 * reported readiness.  None ever blocks the thread: MSG_DONTWAIT, or a
 * non-blocking socket is asked for. */
#include <Python.h>

#include "ioop.h"

#include <errno.h>
#include <sys/socket.h>

#include "address.h"
#include "compat.h"
#include "errors.h"
#include "sockfd.h"

int
ioop_interrupted(OpObject *op, int error)
{
    if (error != EINTR) {
        return 0;
    }
    if (PyErr_CheckSignals() < 0) { /* call-out */
        return -1;
    }
    if (op->status == OP_DONE) {
        PyErr_Format(PyExc_RuntimeError,
                     "operation '%s' was closed by a signal handler",
                     op->kind->name);
        return -1;
    }
    return ioop_refresh_fd(op) < 0 ? -1 : 1;
}

enum op_attempt
ioop_fail(OpObject *op, Py_ssize_t rc)
{
    if (rc != -EINTR && op->of_asyncio) {
        errors_from_bare_errno((int)rc);
    }
    else if (rc != -EINTR) {
        errors_from_errno((int)rc, "%s() on descriptor %d", op->kind->name,
                          op->fd);
    }
    return OP_ATTEMPT_ERROR;
}

int
ioop_refresh_fd(OpObject *op)
{
    int fd = sockfd_get(op->loop->state, op->object, op->kind->name);
    if (fd < 0) {
        if (op->of_asyncio && PyErr_ExceptionMatches(PyExc_OSError)) {
            PyErr_Clear();
            errors_from_bare_errno(EBADF);
        }
        return -1;
    }
    op->fd = fd;
    return 0;
}

void
ioop_release_view(OpObject *op)
{
    Py_buffer *view = op->u.io.view;
    op->u.io.view = NULL;
    if (view != NULL) {
        PyBuffer_Release(view); /* call-out */
        PyMem_Free(view);
    }
}

int
ioop_traverse_view(OpObject *op, visitproc visit, void *arg)
{
    if (op->u.io.view != NULL) {
        Py_VISIT(op->u.io.view->obj);
    }
    return 0;
}

/* --- making ops --- */

OpObject *
ioop_new(struct module_state *state, const struct op_kind *kind,
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

/* The current exception stays. */
PyObject *
ioop_discard(OpObject *op)
{
    PyObject *pending = exception_take();
    op_finish(op); /* call-out */
    Py_DECREF(op);
    if (pending != NULL) {
        exception_put(pending);
    }
    return NULL;
}

int
ioop_check_buffer(OpObject *op, PyObject *data)
{
    if (PL_LIKELY(PyObject_CheckBuffer(data))) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s(): a bytes-like object is required, not '%.200s'%s",
                 op->kind->name, Py_TYPE(data)->tp_name,
                 PyUnicode_Check(data) && op->side == PL_SIDE_WRITE
                     ? "; its encode() makes one"
                     : "");
    return -1;
}

int
ioop_take_buffer(OpObject *op, PyObject *data, int flags)
{
    if (flags == PyBUF_SIMPLE && PyBytes_CheckExact(data)) {
        op->value = Py_NewRef(data);
        op->u.io.data = PyBytes_AS_STRING(data);
        op->u.io.length = PyBytes_GET_SIZE(data);
        return 0;
    }
    if (ioop_check_buffer(op, data) < 0) {
        return -1;
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

PyObject *
ioop_new_buffer(PyObject *module, const struct args_spec *spec,
                const struct op_kind *kind, int side, int flags,
                PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound[2];
    if (args_bind(spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    OpObject *op = ioop_new(state_of_module(module), kind, bound[0], side);
    if (op != NULL && ioop_take_buffer(op, bound[1], flags) < 0) {
        return ioop_discard(op);
    }
    return (PyObject *)op;
}

PyObject *
ioop_pack_address(struct module_state *state, PyObject *sock,
                  PyObject *address, const char *who)
{
    int family;
    if (sockfd_member(state, sock, "family", &family) < 0) {
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

PyObject *
ioop_by_name(PyObject **slot, const char *name, PyObject *const *args,
             size_t n)
{
    PyObject *function = state_import_once(slot, "pyloop._resolve", name);
    return function != NULL ? PyObject_Vectorcall(function, args, n, NULL)
                            : NULL;
}
