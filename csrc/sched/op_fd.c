/* Ops that wait for a descriptor: arming and disarming through the loop's
 * watches, and the two kinds that only wait. */
#include <Python.h>

#include "op.h"

#include <errno.h>
#include <poll.h>

#include "compat.h"
#include "errors.h"
#include "handle.h"
#include "sockfd.h"

void
op_fire_from_watch(struct waiter *self, LoopObject *Py_UNUSED(loop), int error)
{
    OpObject *op = (OpObject *)self;
    PyObject *exc = NULL;
    if (error == -ENOMEM) {
        PyErr_NoMemory();
        exc = exception_take();
    }
    else if (error != 0 && op->of_asyncio) {
        errors_from_bare_errno(error);
        exc = exception_take();
    }
    else if (error != 0) {
        exc = errors_make_errno(error, "%s on descriptor %d", op->kind->name,
                                op->fd);
        if (exc == NULL) {
            exc = exception_take();
        }
    }
    op_fire(op, exc);
}

/* Who waits through `waiter`: a Task, of ours or of asyncio (the __self__ of
 * the callback that its future was given), else the waiter itself. */
static PyObject *
waiting_task(struct module_state *state, PyObject *waiter)
{
    if (!op_check(state, waiter) || ((OpObject *)waiter)->waiter == NULL) {
        return Py_NewRef(waiter);
    }
    PyObject *who = Py_NewRef((PyObject *)((OpObject *)waiter)->waiter);
    PyObject *callback = Py_IS_TYPE(who, state->HandleType)
                             ? Py_XNewRef(((HandleObject *)who)->callback)
                             : NULL;
    if (callback == NULL) {
        return who;
    }
    PyObject *self
        = PyObject_GetAttrString(callback, "__self__"); /* call-out */
    Py_DECREF(callback);
    if (self == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        return who;
    }
    Py_DECREF(who);
    return self;
}

/* asyncio's error for a descriptor that a transport has: -1 with it, or 0 if
 * the transport is closing. */
static int
refuse_transports_fd(OpObject *op)
{
    PyObject *res = PyObject_CallMethod(
        (PyObject *)op->loop, "_ensure_fd_no_transport", "i", op->fd);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

int
op_arm_fd(OpObject *op)
{
    PyObject *taken;
    PyObject *owner = op->object;
    if (owner != NULL && PyLong_Check(owner)) {
        owner = NULL;
    }
    int rc
        = loop_watch(op->loop, op->fd, owner, op->side, (PyObject *)op,
                     op->kind->drains ? PL_WAIT_DRAINS : PL_WAIT_ONCE, &taken);
    if (rc <= 0) {
        return rc;
    }
    Py_INCREF(taken); /* who is asked may take it off */
    PyObject *who = NULL;
    if (!Py_IS_TYPE(taken, op->loop->state->StreamEndType)
        || refuse_transports_fd(op) == 0) /* call-out */
    {
        who = waiting_task(op->loop->state, taken); /* call-out */
    }
    Py_DECREF(taken);
    if (who == NULL) {
        return -1;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "%s: another task waits already to %s descriptor %d: %R",
                 op->kind->name,
                 op->side == PL_SIDE_READ ? "read from" : "write to", op->fd,
                 who);
    Py_DECREF(who);
    return -1;
}

void
op_disarm_fd(OpObject *op)
{
    PyObject *mine = loop_unwatch(op->loop, op->fd, op->side);
    Py_XDECREF(mine);
}

static enum op_attempt
wait_attempt(OpObject *op, PyObject **result)
{
    if (op->status != OP_FIRED) {
        return OP_ATTEMPT_WAIT;
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

/* Whether a socket can be written to right now.  It nearly always can, and to
 * ask costs one system call, where to wait costs three: into the poller, the
 * look, and out again.  What is not a socket, or in doubt, waits: the poller
 * then says what is wrong. */
static bool
is_writable_now(OpObject *op)
{
    if (!sockfd_is_socket(op->loop->state, op->object)
        || op->loop->selector != NULL
        || !loop_watch_is_clear(op->loop, op->fd, op->object, op->side))
    {
        return false;
    }
    struct pollfd look = {.fd = op->fd, .events = POLLOUT};
    return poll(&look, 1, 0) == 1 && look.revents == POLLOUT;
}

static enum op_attempt
write_attempt(OpObject *op, PyObject **result)
{
    if (op->status != OP_FIRED && !is_writable_now(op)) {
        return OP_ATTEMPT_WAIT;
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

const struct op_kind op_kind_wait_readable = {
    .name = "wait_readable",
    .attempt = wait_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
    .unmetered = true,
};

const struct op_kind op_kind_wait_writable = {
    .name = "wait_writable",
    .attempt = write_attempt,
    .arm = op_arm_fd,
    .disarm = op_disarm_fd,
};

OpObject *
op_new_wait(struct module_state *state, PyObject *fileobj, int side)
{
    const struct op_kind *kind = side == PL_SIDE_READ ? &op_kind_wait_readable
                                                      : &op_kind_wait_writable;
    int fd = sockfd_of_fileobj(state, fileobj, kind->name);
    OpObject *op = fd < 0 ? NULL : op_new(state, kind);
    if (op != NULL) {
        op->fd = fd;
        op->side = (uint8_t)side;
        op->object = Py_NewRef(fileobj);
    }
    return op;
}
