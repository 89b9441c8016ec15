/* Channel: a queue of values between tasks; without capacity, a rendezvous.
 *
 * The value passes in the receiver's step, not when the two meet: a sender
 * that finds a receiver waiting *notifies* it (makes its task ready) and goes
 * on waiting; the receiver, when it runs, takes the value and makes the sender
 * ready.  So a receiver that is cancelled in between has taken nothing, and
 * send() returns only when its value was taken.
 *
 * Invariants:
 *   `receivers` holds the waiting receive ops, oldest first; a notified one
 *     keeps its place until it runs, so that no newcomer overtakes it
 *   n_notified of them are notified, and
 *     n_notified >= min(n_receivers, values available) after each operation
 *   values available == buffered + n_senders
 *   senders wait only while the buffer is full: n_senders > 0 implies
 *     ring_length(buffer) >= capacity
 *   a linked op is owned by its list; its op->object is the channel
 *   all linked ops are of one loop
 */
#include <Python.h>

#include "channel.h"

#include "compat.h"
#include "errors.h"
#include "task.h"

enum send_phase { SEND_WAITING, SEND_TAKEN };

static ChannelObject *
channel_of(OpObject *op)
{
    return (ChannelObject *)op->object;
}

uint32_t
channel_available(const ChannelObject *self)
{
    return ring_length(&self->buffer) + self->n_senders;
}

/* --- moving values --- */

/* Makes ready as many of the oldest receivers as there are values. */
static void
notify_receivers(ChannelObject *self)
{
    struct list *link = list_first(&self->receivers);
    while (link != NULL
           && (self->n_notified < channel_available(self) || self->closed))
    {
        OpObject *op = channel_op_of_link(link);
        link = list_next(&self->receivers, link);
        if (!op->u.queue.notified) {
            op->u.queue.notified = true;
            self->n_notified++;
            op_fire(op, NULL);
        }
    }
}

static void
unlink_receiver(ChannelObject *self, OpObject *op)
{
    list_remove(&op->u.queue.link);
    self->n_receivers--;
    if (op->u.queue.notified) {
        op->u.queue.notified = false;
        self->n_notified--;
    }
}

static void
unlink_sender(ChannelObject *self, OpObject *op)
{
    list_remove(&op->u.queue.link);
    self->n_senders--;
}

/* Takes the value of the oldest sender, which is thereby done. */
static PyObject *
take_from_sender(ChannelObject *self)
{
    OpObject *op = channel_op_of_link(list_first(&self->senders));
    unlink_sender(self, op);
    PyObject *value = op->value;
    op->value = NULL;
    op->phase = SEND_TAKEN;
    op_fire(op, NULL);
    Py_DECREF(op);
    return value;
}

/* Takes the oldest value; available() > 0.  New reference. */
PyObject *
channel_take(ChannelObject *self)
{
    if (ring_length(&self->buffer) == 0) {
        return take_from_sender(self);
    }
    PyObject *value = ring_pop(&self->buffer);
    if (self->n_senders > 0
        && (Py_ssize_t)ring_length(&self->buffer) < self->capacity)
    {
        /* There is room: the slot that was just freed. */
        (void)ring_push(&self->buffer, take_from_sender(self));
    }
    return value;
}

int
channel_put(ChannelObject *self, PyObject *value)
{
    if (self->buffer.slots == NULL && ring_init(&self->buffer, 4) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    if (ring_push(&self->buffer, Py_NewRef(value)) < 0) {
        Py_DECREF(value);
        PyErr_NoMemory();
        return -1;
    }
    notify_receivers(self);
    return 0;
}

void
channel_raise_closed(struct module_state *state)
{
    PyErr_SetString(state->ChannelClosed, "the channel is closed");
}

LoopObject *
channel_loop(const ChannelObject *self)
{
    struct list *link = list_first(&self->senders);
    if (link == NULL) {
        link = list_first(&self->receivers);
    }
    return link != NULL ? channel_op_of_link(link)->loop : NULL;
}

static int
check_loop(ChannelObject *self, LoopObject *loop)
{
    LoopObject *bound = channel_loop(self);
    if (PL_UNLIKELY(bound != NULL && bound != loop)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R is in use by tasks of another event loop", self);
        return -1;
    }
    return 0;
}

/* --- send --- */

static enum op_attempt
send_attempt(OpObject *op, PyObject **result)
{
    ChannelObject *self = channel_of(op);
    if (op->phase != SEND_TAKEN) {
        if (check_loop(self, op->loop) < 0) {
            return OP_ATTEMPT_ERROR;
        }
        if (self->closed) {
            channel_raise_closed(op->loop->state);
            return OP_ATTEMPT_ERROR;
        }
        if (self->n_senders > 0
            || (Py_ssize_t)ring_length(&self->buffer) >= self->capacity)
        {
            return OP_ATTEMPT_WAIT;
        }
        if (channel_put(self, op->value) < 0) {
            return OP_ATTEMPT_ERROR;
        }
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static int
send_arm(OpObject *op)
{
    ChannelObject *self = channel_of(op);
    if (self->closed) {
        channel_raise_closed(op->loop->state);
        return -1;
    }
    if (check_loop(self, op->loop) < 0) {
        return -1;
    }
    Py_INCREF(op);
    list_append(&self->senders, &op->u.queue.link);
    self->n_senders++;
    notify_receivers(self);
    return 0;
}

static void
send_disarm(OpObject *op)
{
    if (list_is_linked(&op->u.queue.link)) {
        unlink_sender(channel_of(op), op);
        Py_DECREF(op);
    }
}

static const struct op_kind op_kind_send = {
    .name = "Channel.send",
    .attempt = send_attempt,
    .arm = send_arm,
    .disarm = send_disarm,
};

/* --- recv --- */

static enum op_attempt
recv_closed(OpObject *op)
{
    if (op->phase == RECV_NEXT) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
    }
    else {
        channel_raise_closed(op->loop->state);
    }
    return OP_ATTEMPT_ERROR;
}

static enum op_attempt
recv_attempt(OpObject *op, PyObject **result)
{
    ChannelObject *self = channel_of(op);
    bool is_linked = list_is_linked(&op->u.queue.link);
    if (check_loop(self, op->loop) < 0) {
        return OP_ATTEMPT_ERROR;
    }
    if (op->phase == RECV_TRAP && op->status == OP_NEW) {
        /* Tried when the task has yielded, in a step that is over: it takes
         * the value in the one that gets it. */
        return OP_ATTEMPT_WAIT;
    }
    /* Each waiting receiver has a claim on one value. */
    uint32_t claimed = is_linked ? 0 : self->n_receivers;
    if (channel_available(self) > claimed) {
        if (claimed > 0) {
            return OP_ATTEMPT_WAIT; /* its turn comes after theirs */
        }
        if (is_linked) {
            unlink_receiver(self, op);
            Py_DECREF(op);
        }
        *result = channel_take(self);
        notify_receivers(self);
        if (op->phase == RECV_TRAP) {
            Py_XSETREF(self->trap_value, Py_NewRef(*result));
        }
        return OP_ATTEMPT_DONE;
    }
    if (self->closed) {
        return recv_closed(op);
    }
    if (is_linked) {
        /* The sender that notified us was cancelled. */
        op->u.queue.notified = false;
        self->n_notified--;
    }
    return OP_ATTEMPT_WAIT;
}

static int
recv_arm(OpObject *op)
{
    ChannelObject *self = channel_of(op);
    if (check_loop(self, op->loop) < 0) {
        return -1;
    }
    if (!list_is_linked(&op->u.queue.link)) {
        Py_INCREF(op);
        list_append(&self->receivers, &op->u.queue.link);
        self->n_receivers++;
    }
    notify_receivers(self);
    return 0;
}

/* Gives up the place in the queue, and passes a notification on. */
static void
recv_leave(OpObject *op)
{
    if (op->object != NULL && list_is_linked(&op->u.queue.link)) {
        ChannelObject *self = channel_of(op);
        unlink_receiver(self, op);
        notify_receivers(self);
        Py_DECREF(op);
    }
}

/* A fired receiver that does not come back for its value is cleared, not
 * disarmed: both leave. */
static const struct op_kind op_kind_recv = {
    .name = "Channel.recv",
    .attempt = recv_attempt,
    .arm = recv_arm,
    .disarm = recv_leave,
    .clear = recv_leave,
};

/* --- ending --- */

void
channel_close(ChannelObject *self)
{
    self->closed = true;
    struct list *link;
    while ((link = list_first(&self->senders)) != NULL) {
        OpObject *op = channel_op_of_link(link);
        unlink_sender(self, op);
        op_fire(op, NULL); /* its next attempt finds the channel closed */
        Py_DECREF(op);
    }
    notify_receivers(self);
}

void
channel_clear(ChannelObject *self)
{
    Py_CLEAR(self->trap_value);
    struct ring buffer = self->buffer;
    self->buffer = (struct ring){0};
    if (buffer.slots != NULL) {
        while (ring_length(&buffer) > 0) {
            Py_DECREF((PyObject *)ring_pop(&buffer)); /* call-out */
        }
        ring_destroy(&buffer);
    }
    struct list *link;
    while ((link = list_first(&self->senders)) != NULL) {
        OpObject *op = channel_op_of_link(link);
        if (op->status == OP_ARMED) {
            op_disarm(op);
        }
        else {
            send_disarm(op);
        }
    }
    while ((link = list_first(&self->receivers)) != NULL) {
        OpObject *op = channel_op_of_link(link);
        if (op->status == OP_ARMED) {
            op_disarm(op);
        }
        else {
            recv_leave(op);
        }
    }
}

/* --- making ops --- */

static OpObject *
channel_op(struct module_state *state, PyObject *channel,
           const struct op_kind *kind)
{
    OpObject *op = op_new(state, kind);
    if (op != NULL) {
        op->object = Py_NewRef(channel);
        list_init(&op->u.queue.link);
        op->u.queue.notified = false;
    }
    return op;
}

OpObject *
channel_send_op(struct module_state *state, ChannelObject *channel,
                PyObject *value)
{
    OpObject *op = channel_op(state, (PyObject *)channel, &op_kind_send);
    if (op != NULL) {
        op->value = Py_NewRef(value);
    }
    return op;
}

OpObject *
channel_recv_op(struct module_state *state, ChannelObject *channel,
                enum recv_phase phase)
{
    OpObject *op = channel_op(state, (PyObject *)channel, &op_kind_recv);
    if (op != NULL) {
        op->phase = (uint8_t)phase;
    }
    return op;
}

OpObject *
channel_trap_new(struct module_state *state, PyObject *channel, bool is_send)
{
    ChannelObject *self = (ChannelObject *)channel;
    OpObject *op
        = channel_op(state, channel, is_send ? &op_kind_send : &op_kind_recv);
    if (op == NULL) {
        return NULL;
    }
    if (is_send) {
        PyObject *value = self->trap_value;
        self->trap_value = NULL;
        op->value = value != NULL ? value : Py_NewRef(Py_None);
    }
    else {
        op->phase = RECV_TRAP;
    }
    return op;
}
