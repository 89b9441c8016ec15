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

#include <limits.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "task.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    Py_ssize_t capacity;
    struct ring buffer; /* owned references */
    struct list senders;
    struct list receivers;
    uint32_t n_senders;
    uint32_t n_receivers;
    uint32_t n_notified;
    bool closed;
    PyObject *trap_value; /* owned: what was assigned to _value, or what a
                             ChanRecv trap took last */
} ChannelObject;

enum recv_phase { RECV_PLAIN, RECV_NEXT, RECV_TRAP };
enum send_phase { SEND_WAITING, SEND_TAKEN };

static OpObject *
op_of_link(struct list *link)
{
    return PL_CONTAINER_OF(link, OpObject, u.queue.link);
}

static ChannelObject *
channel_of(OpObject *op)
{
    return (ChannelObject *)op->object;
}

static uint32_t
available(const ChannelObject *self)
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
           && (self->n_notified < available(self) || self->closed)) {
        OpObject *op = op_of_link(link);
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
    OpObject *op = op_of_link(list_first(&self->senders));
    unlink_sender(self, op);
    PyObject *value = op->value;
    op->value = NULL;
    op->phase = SEND_TAKEN;
    op_fire(op, NULL);
    Py_DECREF(op);
    return value;
}

/* Takes the oldest value; available() > 0.  New reference. */
static PyObject *
take(ChannelObject *self)
{
    if (ring_length(&self->buffer) == 0) {
        return take_from_sender(self);
    }
    PyObject *value = ring_pop(&self->buffer);
    if (self->n_senders > 0
        && (Py_ssize_t)ring_length(&self->buffer) < self->capacity) {
        /* There is room: the slot that was just freed. */
        (void)ring_push(&self->buffer, take_from_sender(self));
    }
    return value;
}

static int
put(ChannelObject *self, PyObject *value)
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

static void
raise_closed(struct module_state *state)
{
    PyErr_SetString(state->ChannelClosed, "the channel is closed");
}

/* The loop whose tasks wait on the channel, borrowed, or NULL. */
static LoopObject *
bound_loop(const ChannelObject *self)
{
    struct list *link = list_first(&self->senders);
    if (link == NULL) {
        link = list_first(&self->receivers);
    }
    return link != NULL ? op_of_link(link)->loop : NULL;
}

static int
check_loop(ChannelObject *self, LoopObject *loop)
{
    LoopObject *bound = bound_loop(self);
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
            raise_closed(op->loop->state);
            return OP_ATTEMPT_ERROR;
        }
        if (self->n_senders > 0
            || (Py_ssize_t)ring_length(&self->buffer) >= self->capacity) {
            return OP_ATTEMPT_WAIT;
        }
        if (put(self, op->value) < 0) {
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
        raise_closed(op->loop->state);
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
    } else {
        raise_closed(op->loop->state);
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
    /* Each waiting receiver has a claim on one value. */
    uint32_t claimed = is_linked ? 0 : self->n_receivers;
    if (available(self) > claimed) {
        if (is_linked) {
            unlink_receiver(self, op);
            Py_DECREF(op);
        }
        *result = take(self);
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

/* --- methods --- */

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
channel_trap_new(struct module_state *state, PyObject *channel, bool is_send)
{
    ChannelObject *self = (ChannelObject *)channel;
    OpObject *op = channel_op(state, channel,
                              is_send ? &op_kind_send : &op_kind_recv);
    if (op == NULL) {
        return NULL;
    }
    if (is_send) {
        PyObject *value = self->trap_value;
        self->trap_value = NULL;
        op->value = value != NULL ? value : Py_NewRef(Py_None);
    } else {
        op->phase = RECV_TRAP;
    }
    return op;
}

PyDoc_STRVAR(Channel_send_doc,
             "send($self, /, value=None)\n--\n\n"
             "Pass a value on; wait until a receiver has taken it or, with a "
             "capacity, until there is room.\n\n"
             "Senders are served first in, first out.  A sender that is "
             "cancelled while it waits has sent nothing.\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Raises:\n"
             "    ChannelClosed: the channel was closed before the value was "
             "taken.\n"
             "    RuntimeError: tasks of another event loop wait on the "
             "channel.\n\n"
             "Example:\n    await chan.send(42)");

static PyObject *
Channel_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"value"};
    static const struct args_spec spec = {"send", names, 1, 1, 0};
    PyObject *value;
    struct module_state *state = state_of(self);
    if (state == NULL
        || args_bind(&spec, args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    OpObject *op = channel_op(state, self, &op_kind_send);
    if (op != NULL) {
        op->value = Py_NewRef(value != NULL ? value : Py_None);
    }
    return (PyObject *)op;
}

PyDoc_STRVAR(Channel_recv_doc,
             "recv($self, /)\n--\n\n"
             "Wait for the next value.\n\n"
             "Receivers are served first in, first out.  One that is "
             "cancelled while it waits takes nothing.\n\n"
             "Returns:\n    An awaitable of the value.\n\n"
             "Raises:\n"
             "    ChannelClosed: the channel is closed and empty.\n"
             "    RuntimeError: tasks of another event loop wait on the "
             "channel.\n\n"
             "Example:\n    value = await chan.recv()");

static PyObject *
Channel_recv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct module_state *state = state_of(self);
    return state == NULL
               ? NULL
               : (PyObject *)channel_op(state, self, &op_kind_recv);
}

static PyObject *
Channel_am_anext(PyObject *self)
{
    struct module_state *state = state_of(self);
    OpObject *op
        = state == NULL ? NULL : channel_op(state, self, &op_kind_recv);
    if (op != NULL) {
        op->phase = RECV_NEXT;
    }
    return (PyObject *)op;
}

/* The calls that do not wait may be made outside a loop, but not beside one
 * that runs in another thread. */
static int
check_caller(ChannelObject *self, const char *who)
{
    LoopObject *loop = bound_loop(self);
    return loop == NULL ? 0 : loop_check_thread(loop, who);
}

PyDoc_STRVAR(Channel_send_nowait_doc,
             "send_nowait($self, /, value=None)\n--\n\n"
             "Pass a value on without waiting: to a receiver that waits, or "
             "into the buffer.\n\n"
             "Raises:\n"
             "    asyncio.QueueFull: send() would have to wait.\n"
             "    ChannelClosed: the channel is closed.\n"
             "    RuntimeError: called from another thread than the "
             "receivers' loop.\n\n"
             "Example:\n    chan.send_nowait(42)");

static PyObject *
Channel_send_nowait(PyObject *obj, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    static const char *const names[] = {"value"};
    static const struct args_spec spec = {"send_nowait", names, 1, 1, 0};
    PyObject *value;
    ChannelObject *self = (ChannelObject *)obj;
    struct module_state *state = state_of(obj);
    if (state == NULL || args_bind(&spec, args, nargs, kwnames, &value) < 0
        || check_caller(self, "Channel.send_nowait()") < 0) {
        return NULL;
    }
    if (self->closed) {
        raise_closed(state);
        return NULL;
    }
    bool has_room
        = self->n_senders == 0
          && ((Py_ssize_t)ring_length(&self->buffer) < self->capacity
              || available(self) < self->n_receivers);
    if (!has_room) {
        PyErr_Format(state->QueueFull, "send() on %R would have to wait",
                     self);
        return NULL;
    }
    if (put(self, value != NULL ? value : Py_None) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Channel_recv_nowait_doc,
             "recv_nowait($self, /)\n--\n\n"
             "Take the next value without waiting.\n\n"
             "Raises:\n"
             "    asyncio.QueueEmpty: recv() would have to wait.\n"
             "    ChannelClosed: the channel is closed and empty.\n"
             "    RuntimeError: called from another thread than the senders' "
             "loop.\n\n"
             "Example:\n    value = chan.recv_nowait()");

static PyObject *
Channel_recv_nowait(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ChannelObject *self = (ChannelObject *)obj;
    struct module_state *state = state_of(obj);
    if (state == NULL || check_caller(self, "Channel.recv_nowait()") < 0) {
        return NULL;
    }
    if (available(self) > self->n_receivers) {
        PyObject *value = take(self);
        notify_receivers(self);
        return value;
    }
    if (self->closed) {
        raise_closed(state);
    } else {
        PyErr_Format(state->QueueEmpty, "recv() on %R would have to wait",
                     self);
    }
    return NULL;
}

PyDoc_STRVAR(Channel_close_doc,
             "close($self, /)\n--\n\n"
             "Close the channel: waiting and later sends raise ChannelClosed; "
             "what is buffered can still be received, then recv() raises "
             "ChannelClosed and `async for` ends.\n\n"
             "Closing twice is no error.\n\n"
             "Raises:\n"
             "    RuntimeError: called from another thread than the loop of "
             "those who wait.\n\n"
             "Example:\n    chan.close()");

static PyObject *
Channel_close(PyObject *obj, PyObject *Py_UNUSED(ignored))
{
    ChannelObject *self = (ChannelObject *)obj;
    struct module_state *state = state_of(obj);
    if (state == NULL || check_caller(self, "Channel.close()") < 0) {
        return NULL;
    }
    self->closed = true;
    struct list *link;
    while ((link = list_first(&self->senders)) != NULL) {
        OpObject *op = op_of_link(link);
        PyObject *exc = PyObject_CallFunction(state->ChannelClosed, "s",
                                              "the channel is closed");
        if (exc == NULL) {
            return NULL; /* out of memory: close() can be called again */
        }
        unlink_sender(self, op);
        op_fire(op, exc);
        Py_DECREF(op);
    }
    notify_receivers(self);
    Py_RETURN_NONE;
}

/* --- attributes: the assignment's view of the queue's head --- */

static PyObject *
head_coroutine(struct list *queue)
{
    struct list *link = list_first(queue);
    OpObject *op = link != NULL ? op_of_link(link) : NULL;
    if (op == NULL) {
        Py_RETURN_NONE;
    }
    if (op->waiter == NULL) {
        return Py_NewRef((PyObject *)op); /* notified: its task is ready */
    }
    if (Py_IS_TYPE(op->waiter, op->loop->state->TaskType)) {
        return Py_NewRef(((TaskObject *)op->waiter)->coro);
    }
    return Py_NewRef((PyObject *)op->waiter);
}

static PyObject *
Channel_get_sender(ChannelObject *self, void *Py_UNUSED(closure))
{
    return head_coroutine(&self->senders);
}

static PyObject *
Channel_get_receiver(ChannelObject *self, void *Py_UNUSED(closure))
{
    return head_coroutine(&self->receivers);
}

static PyObject *
Channel_get_value(ChannelObject *self, void *Py_UNUSED(closure))
{
    PyObject *value = self->trap_value;
    if (value == NULL && ring_length(&self->buffer) > 0) {
        value = ring_at(&self->buffer, 0);
    } else if (value == NULL && self->n_senders > 0) {
        value = op_of_link(list_first(&self->senders))->value;
    }
    return Py_NewRef(value != NULL ? value : Py_None);
}

static int
Channel_set_value(ChannelObject *self, PyObject *value,
                  void *Py_UNUSED(closure))
{
    Py_XSETREF(self->trap_value, Py_XNewRef(value));
    return 0;
}

static PyObject *
Channel_get_capacity(ChannelObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(self->capacity);
}

static PyObject *
Channel_get_closed(ChannelObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->closed);
}

static Py_ssize_t
Channel_sq_length(ChannelObject *self)
{
    return (Py_ssize_t)ring_length(&self->buffer);
}

/* A channel without buffered values is not false. */
static int
Channel_nb_bool(ChannelObject *Py_UNUSED(self))
{
    return 1;
}

static PyObject *
Channel_tp_repr(ChannelObject *self)
{
    return PyUnicode_FromFormat(
        "<pyloop.Channel at %p capacity=%zd buffered=%zd senders=%zd "
        "receivers=%zd%s>",
        self, self->capacity, (Py_ssize_t)ring_length(&self->buffer),
        (Py_ssize_t)self->n_senders, (Py_ssize_t)self->n_receivers,
        self->closed ? " closed" : "");
}

/* --- life --- */

static PyObject *
Channel_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", NULL};
    PyObject *number = NULL;
    Py_ssize_t capacity = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Channel", names,
                                     &number)) {
        return NULL;
    }
    if (number != NULL) {
        if (!PyLong_Check(number)) {
            PyErr_Format(PyExc_TypeError,
                         "Channel: capacity must be an int, not %.200s (%R)",
                         Py_TYPE(number)->tp_name, number);
            return NULL;
        }
        capacity = PyLong_AsSsize_t(number);
        if (capacity == -1 && PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
                return NULL;
            }
            PyErr_Clear();
            capacity = -1;
        }
        if (capacity < 0 || capacity > INT_MAX) {
            PyErr_Format(PyExc_ValueError,
                         "Channel: capacity must be between 0 and %d, got %R",
                         INT_MAX, number);
            return NULL;
        }
    }
    ChannelObject *self = (ChannelObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->capacity = capacity;
        list_init(&self->senders);
        list_init(&self->receivers);
    }
    return (PyObject *)self;
}

static int
Channel_tp_traverse(ChannelObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->trap_value);
    if (self->buffer.slots != NULL) {
        uint32_t n = ring_length(&self->buffer);
        for (uint32_t i = 0; i < n; i++) {
            Py_VISIT((PyObject *)ring_at(&self->buffer, i));
        }
    }
    struct list *const queues[2] = {&self->senders, &self->receivers};
    for (int q = 0; q < 2; q++) {
        for (struct list *link = list_first(queues[q]); link != NULL;
             link = list_next(queues[q], link)) {
            Py_VISIT((PyObject *)op_of_link(link));
        }
    }
    return 0;
}

static int
Channel_tp_clear(ChannelObject *self)
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
        OpObject *op = op_of_link(link);
        if (op->status == OP_ARMED) {
            op_disarm(op);
        } else {
            send_disarm(op);
        }
    }
    while ((link = list_first(&self->receivers)) != NULL) {
        OpObject *op = op_of_link(link);
        if (op->status == OP_ARMED) {
            op_disarm(op);
        } else {
            recv_leave(op);
        }
    }
    return 0;
}

static void
Channel_tp_dealloc(ChannelObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)Channel_tp_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define CHANNEL_FASTCALL(fn) (PyCFunction)(void (*)(void))(fn)

static PyMethodDef Channel_methods[] = {
    {"send", CHANNEL_FASTCALL(Channel_send), METH_FASTCALL | METH_KEYWORDS,
     Channel_send_doc},
    {"recv", Channel_recv, METH_NOARGS, Channel_recv_doc},
    {"send_nowait", CHANNEL_FASTCALL(Channel_send_nowait),
     METH_FASTCALL | METH_KEYWORDS, Channel_send_nowait_doc},
    {"recv_nowait", Channel_recv_nowait, METH_NOARGS,
     Channel_recv_nowait_doc},
    {"close", Channel_close, METH_NOARGS, Channel_close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("__class_getitem__($type, item, /)\n--\n\n"
               "Channel[T]: a channel of values of type T, for "
               "annotations.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Channel_getset[] = {
    {"capacity", (getter)Channel_get_capacity, NULL,
     PyDoc_STR("How many values are held without a receiver; 0: none."),
     NULL},
    {"closed", (getter)Channel_get_closed, NULL,
     PyDoc_STR("True after close()."), NULL},
    {"_sender", (getter)Channel_get_sender, NULL,
     PyDoc_STR("The coroutine of the oldest waiting sender, or None."), NULL},
    {"_receiver", (getter)Channel_get_receiver, NULL,
     PyDoc_STR("The coroutine of the oldest waiting receiver, or None."),
     NULL},
    {"_value", (getter)Channel_get_value, (setter)Channel_set_value,
     PyDoc_STR("The value at the head, or None; what a ChanSend trap "
               "sends and a ChanRecv trap has taken."),
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef Channel_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(ChannelObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Channel_doc,
             "Channel(capacity=0)\n--\n\n"
             "Passes values from tasks to tasks, first in, first out.\n\n"
             "Without capacity it is a rendezvous: send() returns when a "
             "receiver has taken the value (as in CSP and Go).  Any number of "
             "senders and receivers may wait.  A channel serves one event loop "
             "at a time.\n\n"
             "Args:\n"
             "    capacity: int >= 0, how many values are held without a "
             "receiver.\n\n"
             "Raises:\n"
             "    TypeError: capacity is not an int.\n"
             "    ValueError: capacity is negative or above 2**31 - 1.\n\n"
             "Example:\n"
             "    chan = pyloop.Channel()\n"
             "    await pyloop.spawn(producer(chan))\n"
             "    async for value in chan:\n"
             "        print(value)");

static PyType_Slot Channel_slots[] = {
    {Py_tp_doc, (void *)Channel_doc},
    {Py_tp_new, Channel_tp_new},
    {Py_tp_dealloc, Channel_tp_dealloc},
    {Py_tp_traverse, Channel_tp_traverse},
    {Py_tp_clear, Channel_tp_clear},
    {Py_tp_repr, Channel_tp_repr},
    {Py_tp_methods, Channel_methods},
    {Py_tp_members, Channel_members},
    {Py_tp_getset, Channel_getset},
    {Py_sq_length, Channel_sq_length},
    {Py_nb_bool, Channel_nb_bool},
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, Channel_am_anext},
    {0, NULL},
};

static PyType_Spec Channel_spec = {
    .name = "pyloop.Channel",
    .basicsize = sizeof(ChannelObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Channel_slots,
};

int
channel_init(PyObject *module, struct module_state *state)
{
    return state_add_type(module, &state->ChannelType, &Channel_spec,
                          "Channel");
}
