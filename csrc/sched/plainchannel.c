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
#include "errors.h"
#include "task.h"

enum { PHASE_RECV, PHASE_SEND };

/* The attribute for one side. */
static PyObject *
attribute_name(LoopObject *loop, uint8_t phase)
{
    return phase == PHASE_SEND ? loop->state->str__sender
                               : loop->state->str__receiver;
}

static uint8_t
other_phase(uint8_t phase)
{
    return phase == PHASE_SEND ? PHASE_RECV : PHASE_SEND;
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
forget(LoopObject *loop, PyObject *coro)
{
    if (loop->tasks.plain_waiters != NULL && coro != NULL
        && PyDict_DelItem(loop->tasks.plain_waiters, coro) < 0)
    {
        PyErr_Clear(); /* somebody was faster */
    }
}

static void
fire_one(LoopObject *loop, OpObject *op)
{
    Py_INCREF(op);
    forget(loop, op->value);
    op_fire(op, NULL);
    Py_DECREF(op);
}

/* Takes `coro` out of its attribute, if it is there.  No exception is raised
 * or lost. */
static void
withdraw(LoopObject *loop, PyObject *channel, uint8_t phase, PyObject *coro)
{
    PyObject *pending = exception_take();
    PyObject *mine = attribute_name(loop, phase);
    PyObject *present = PyObject_GetAttr(channel, mine); /* call-out */
    if (present != NULL && present == coro
        && PyObject_SetAttr(channel, mine, Py_None) < 0)
    {
        PyErr_WriteUnraisable(channel);
    }
    Py_XDECREF(present);
    PyErr_Clear();
    forget(loop, coro);
    if (pending != NULL) {
        exception_put(pending);
    }
}

/* Both are there: wakes both.  `partner` is the other side's coroutine.  The
 * attributes may be properties: assigning one may end either op, and the one
 * that is left goes on waiting. */
static int
meet(OpObject *op, PyObject *channel, PyObject *partner)
{
    LoopObject *loop = op->loop;
    PyObject *mine = attribute_name(loop, op->phase);
    PyObject *theirs = attribute_name(loop, other_phase(op->phase));
    PyObject *other
        = PyDict_GetItemWithError(loop->tasks.plain_waiters, partner);
    if (other == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_RuntimeError,
                         "channel %R: its %U is %R, which does not wait in "
                         "this loop",
                         channel, theirs, partner);
        }
        return -1;
    }
    OpObject *other_op = (OpObject *)Py_NewRef(other);
    int rc = PyObject_SetAttr(channel, mine, Py_None);
    if (rc == 0) {
        rc = PyObject_SetAttr(channel, theirs, Py_None);
    }
    bool is_mine = op->status == OP_ARMED;
    bool is_theirs = other_op->status == OP_ARMED;
    if (rc == 0 && is_mine && is_theirs) {
        fire_one(loop, op->phase == PHASE_RECV ? op : other_op);
        fire_one(loop, op->phase == PHASE_RECV ? other_op : op);
    }
    else if (rc == 0 && is_mine) {
        rc = PyObject_SetAttr(channel, mine, op->value);
    }
    else if (rc == 0 && is_theirs) {
        rc = PyObject_SetAttr(channel, theirs, other_op->value);
    }
    Py_DECREF(other_op);
    return rc;
}

/* Each access to an attribute may be a call-out that ends the op. */
static int
arm_on(OpObject *op, PyObject *channel, PyObject *coro)
{
    LoopObject *loop = op->loop;
    PyObject *mine = attribute_name(loop, op->phase);
    PyObject *present = PyObject_GetAttr(channel, mine);
    if (present == NULL) {
        return -1;
    }
    if (present != Py_None) {
        PyErr_Format(PyExc_RuntimeError,
                     "channel %R has a waiting %s already: %R", channel,
                     op->phase == PHASE_SEND ? "sender" : "receiver", present);
        Py_DECREF(present);
        return -1;
    }
    Py_DECREF(present);
    PyObject *partner = PyObject_GetAttr(
        channel, attribute_name(loop, other_phase(op->phase)));
    if (partner == NULL) {
        return -1;
    }
    int rc = 0;
    if (op->status == OP_ARMED) {
        op->value = Py_NewRef(coro);
        rc = PyDict_SetItem(loop->tasks.plain_waiters, coro, (PyObject *)op);
        if (rc == 0) {
            rc = PyObject_SetAttr(channel, mine, coro);
        }
        if (rc == 0 && op->status == OP_ARMED && partner != Py_None) {
            rc = meet(op, channel, partner);
        }
        if (rc < 0 || op->status != OP_ARMED) {
            withdraw(loop, channel, op->phase, coro);
        }
    }
    Py_DECREF(partner);
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
    PyObject *channel = Py_NewRef(op->object);
    PyObject *coro = Py_NewRef(((TaskObject *)op->waiter)->coro);
    int rc = arm_on(op, channel, coro);
    Py_DECREF(channel);
    Py_DECREF(coro);
    return rc;
}

static void
plain_disarm(OpObject *op)
{
    PyObject *channel = Py_NewRef(op->object);
    PyObject *coro = Py_XNewRef(op->value);
    withdraw(op->loop, channel, op->phase, coro);
    Py_DECREF(channel);
    Py_XDECREF(coro);
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
                errors_bad_value(PyExc_RuntimeError, channel,
                                 "%s needs a channel, an object with _sender "
                                 "and _receiver, not",
                                 is_send ? "ChanSend" : "ChanRecv");
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
