/* The assignment's rendezvous: ChanSend and ChanRecv on a program's own
 * channel object, which has the attributes `_sender` and `_receiver`.
 *
 * The waiting coroutine is stored in its attribute.  When both are there, both
 * attributes are cleared and both tasks made ready, the receiver first (else
 * the sender's next value could overtake the one that is being taken).  The
 * value itself is the program's business.
 *
 * From the coroutine in an attribute to its op: op->value is the coroutine,
 * and the armed ops of a loop are in the dict loop->tasks.plain_waiters. */
#include <Python.h>

#include "channel.h"

#include "compat.h"
#include "task.h"

enum { PHASE_RECV, PHASE_SEND };

static PyObject *
attribute_of(OpObject *op, bool mine)
{
    struct module_state *state = op->loop->state;
    return (op->phase == PHASE_SEND) == mine ? state->str__sender
                                             : state->str__receiver;
}

static enum op_attempt
plain_attempt(OpObject *op, PyObject **result)
{
    if (op->status == OP_NEW) {
        return OP_ATTEMPT_WAIT;
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static void
fire_one(LoopObject *loop, OpObject *op)
{
    Py_INCREF(op);
    if (PyDict_DelItem(loop->tasks.plain_waiters, op->value) < 0) {
        PyErr_Clear(); /* its disarm was faster */
    }
    op_fire(op, NULL);
    Py_DECREF(op);
}

/* Both are there: wakes both.  `partner` is the other side's coroutine. */
static int
meet(OpObject *op, PyObject *partner)
{
    LoopObject *loop = op->loop;
    PyObject *other
        = PyDict_GetItemWithError(loop->tasks.plain_waiters, partner);
    if (other == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_RuntimeError,
                         "channel %R: its %U is %R, which does not wait in "
                         "this loop",
                         op->object, attribute_of(op, false), partner);
        }
        return -1;
    }
    OpObject *other_op = (OpObject *)Py_NewRef(other);
    int rc = -1;
    if (PyObject_SetAttr(op->object, attribute_of(op, true), Py_None) == 0
        && PyObject_SetAttr(op->object, attribute_of(op, false), Py_None) == 0)
    {
        OpObject *receiver = op->phase == PHASE_RECV ? op : other_op;
        OpObject *sender = op->phase == PHASE_RECV ? other_op : op;
        fire_one(loop, receiver);
        fire_one(loop, sender);
        rc = 0;
    }
    Py_DECREF(other_op);
    return rc;
}

static int
plain_arm(OpObject *op)
{
    LoopObject *loop = op->loop;
    if (!Py_IS_TYPE(op->waiter, loop->state->TaskType)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a program's own channel class needs pyloop tasks "
                        "(run, spawn)");
        return -1;
    }
    if (loop->tasks.plain_waiters == NULL) {
        loop->tasks.plain_waiters = PyDict_New();
        if (loop->tasks.plain_waiters == NULL) {
            return -1;
        }
    }
    PyObject *mine = attribute_of(op, true);
    PyObject *present = PyObject_GetAttr(op->object, mine); /* call-out */
    if (present == NULL) {
        return -1;
    }
    if (present != Py_None) {
        PyErr_Format(PyExc_RuntimeError,
                     "channel %R has a waiting %s already: %R", op->object,
                     op->phase == PHASE_SEND ? "sender" : "receiver", present);
        Py_DECREF(present);
        return -1;
    }
    Py_DECREF(present);
    Py_XSETREF(op->value, Py_NewRef(((TaskObject *)op->waiter)->coro));
    PyObject *partner = PyObject_GetAttr(op->object, attribute_of(op, false));
    if (partner == NULL) {
        return -1;
    }
    int rc = -1;
    if (PyDict_SetItem(loop->tasks.plain_waiters, op->value, (PyObject *)op)
            == 0
        && PyObject_SetAttr(op->object, mine, op->value) == 0)
    {
        rc = partner == Py_None ? 0 : meet(op, partner);
    }
    Py_DECREF(partner);
    if (rc < 0 && op->value != NULL) {
        PyObject *pending = exception_take();
        if (PyDict_DelItem(loop->tasks.plain_waiters, op->value) < 0) {
            PyErr_Clear();
        }
        exception_put(pending);
    }
    return rc;
}

static void
plain_disarm(OpObject *op)
{
    PyObject *pending = exception_take();
    Py_INCREF(op);
    PyObject *mine = attribute_of(op, true);
    PyObject *present = PyObject_GetAttr(op->object, mine);
    if (present != NULL && present == op->value
        && PyObject_SetAttr(op->object, mine, Py_None) < 0)
    {
        PyErr_WriteUnraisable(op->object);
    }
    Py_XDECREF(present);
    PyErr_Clear();
    if (op->loop->tasks.plain_waiters != NULL
        && PyDict_DelItem(op->loop->tasks.plain_waiters, op->value) < 0)
    {
        PyErr_Clear();
    }
    Py_DECREF(op);
    if (pending != NULL) {
        exception_put(pending);
    }
}

static const struct op_kind op_kind_plainchannel = {
    .name = "channel",
    .attempt = plain_attempt,
    .arm = plain_arm,
    .disarm = plain_disarm,
    .unmetered = true,
};

OpObject *
plainchannel_trap_new(struct module_state *state, PyObject *channel,
                      bool is_send)
{
    PyObject *const names[2] = {state->str__sender, state->str__receiver};
    for (int i = 0; i < 2; i++) {
        PyObject *attribute = PyObject_GetAttr(channel, names[i]);
        if (attribute == NULL) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
                PyErr_Format(PyExc_RuntimeError,
                             "%s needs a channel, an object with _sender and "
                             "_receiver, not %R",
                             is_send ? "ChanSend" : "ChanRecv", channel);
            }
            return NULL;
        }
        Py_DECREF(attribute);
    }
    OpObject *op = op_new(state, &op_kind_plainchannel);
    if (op != NULL) {
        op->phase = is_send ? PHASE_SEND : PHASE_RECV;
        op->object = Py_NewRef(channel);
    }
    return op;
}
