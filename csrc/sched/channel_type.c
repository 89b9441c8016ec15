/* The Python type Channel: methods and attributes over the engine in
 * channel.c. */
#include <Python.h>

#include "channel.h"

#include <limits.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "task.h"

PyDoc_STRVAR(Channel_send_doc,
             "send($self, /, value=None)\n--\n\n"
             "Pass a value on; wait until a receiver has taken it or, with a "
             "capacity, until there is room.\n\n"
             "Senders are served first in, first out.  A sender that is "
             "cancelled while it waits has sent nothing; one whose value has "
             "been taken, but that has not run since, has sent it.\n\n"
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
    if (state == NULL || args_bind(&spec, args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    return (PyObject *)channel_send_op(state, (ChannelObject *)self,
                                       value != NULL ? value : Py_None);
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
    return state == NULL ? NULL
                         : (PyObject *)channel_recv_op(
                               state, (ChannelObject *)self, RECV_PLAIN);
}

static PyObject *
Channel_am_anext(PyObject *self)
{
    struct module_state *state = state_of(self);
    return state == NULL ? NULL
                         : (PyObject *)channel_recv_op(
                               state, (ChannelObject *)self, RECV_NEXT);
}

/* The calls that do not wait may be made outside a loop, but not beside one
 * that runs in another thread. */
static int
check_caller(ChannelObject *self, const char *who)
{
    LoopObject *loop = channel_loop(self);
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
        || check_caller(self, "Channel.send_nowait()") < 0)
    {
        return NULL;
    }
    if (self->closed) {
        channel_raise_closed(state);
        return NULL;
    }
    bool has_room = self->n_senders == 0
                    && ((Py_ssize_t)ring_length(&self->buffer) < self->capacity
                        || channel_available(self) < self->n_receivers);
    if (!has_room) {
        PyErr_Format(state->QueueFull, "send() on %R would have to wait",
                     self);
        return NULL;
    }
    if (channel_put(self, value != NULL ? value : Py_None) < 0) {
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
    if (channel_available(self) > self->n_receivers) {
        return channel_take(self);
    }
    if (self->closed) {
        channel_raise_closed(state);
    }
    else {
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
    if (state_of(obj) == NULL || check_caller(self, "Channel.close()") < 0) {
        return NULL;
    }
    channel_close(self);
    Py_RETURN_NONE;
}

/* --- attributes: the assignment's view of the queue's head --- */

static PyObject *
head_coroutine(struct list *queue)
{
    struct list *link = list_first(queue);
    OpObject *op = link != NULL ? channel_op_of_link(link) : NULL;
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
    }
    else if (value == NULL && self->n_senders > 0) {
        value = channel_op_of_link(list_first(&self->senders))->value;
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

static int
take_capacity(ChannelObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", NULL};
    PyObject *number = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Channel", names,
                                     &number))
    {
        return -1;
    }
    Py_ssize_t capacity = 0;
    if (number != NULL) {
        if (!PyLong_Check(number)) {
            errors_bad_type(number, "Channel: capacity must be an int");
            return -1;
        }
        capacity = PyLong_AsSsize_t(number);
        if (capacity == -1 && PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
                return -1;
            }
            PyErr_Clear();
            capacity = -1;
        }
        if (capacity < 0 || capacity > INT_MAX) {
            errors_bad_value(PyExc_ValueError, number,
                             "Channel: capacity must be between 0 and %d, got",
                             INT_MAX);
            return -1;
        }
    }
    self->capacity = capacity;
    return 0;
}

static int
Channel_tp_init(ChannelObject *self, PyObject *args, PyObject *kwargs)
{
    if (Py_TYPE(self)->tp_init == (initproc)Channel_tp_init) {
        return 0; /* __new__ has taken them, ours or a subclass's */
    }
    if (self->n_senders > 0 || self->n_receivers > 0
        || ring_length(&self->buffer) > 0)
    {
        PyErr_Format(PyExc_RuntimeError,
                     "%R is in use: its capacity stays as it is", self);
        return -1;
    }
    return take_capacity(self, args, kwargs);
}

static PyObject *
Channel_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ChannelObject *self = (ChannelObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    list_init(&self->senders);
    list_init(&self->receivers);
    /* A subclass with an __init__ of its own decides there which of its
     * arguments is for us; as object does it. */
    if (type->tp_init == (initproc)Channel_tp_init
        && take_capacity(self, args, kwargs) < 0)
    {
        Py_DECREF(self);
        return NULL;
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
             link = list_next(queues[q], link))
        {
            Py_VISIT((PyObject *)channel_op_of_link(link));
        }
    }
    return 0;
}

static int
Channel_tp_clear(ChannelObject *self)
{
    channel_clear(self);
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

PyDoc_STRVAR(Channel_class_getitem_doc,
             "__class_getitem__($type, item, /)\n--\n\n"
             "Channel[T]: a channel of values of type T, for annotations.");

static PyMethodDef Channel_methods[] = {
    {"send", CHANNEL_FASTCALL(Channel_send), METH_FASTCALL | METH_KEYWORDS,
     Channel_send_doc},
    {"recv", Channel_recv, METH_NOARGS, Channel_recv_doc},
    {"send_nowait", CHANNEL_FASTCALL(Channel_send_nowait),
     METH_FASTCALL | METH_KEYWORDS, Channel_send_nowait_doc},
    {"recv_nowait", Channel_recv_nowait, METH_NOARGS, Channel_recv_nowait_doc},
    {"close", Channel_close, METH_NOARGS, Channel_close_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     Channel_class_getitem_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Channel_capacity_doc,
             "How many values are held without a receiver; 0: none.");
PyDoc_STRVAR(Channel_closed_doc, "True after close().");
PyDoc_STRVAR(Channel_sender_doc,
             "The coroutine of the oldest waiting sender, or None.");
PyDoc_STRVAR(Channel_receiver_doc,
             "The coroutine of the oldest waiting receiver, or None.");
PyDoc_STRVAR(Channel_value_doc,
             "The value at the head, or None; what a ChanSend trap sends and "
             "a ChanRecv trap has taken.");

static PyGetSetDef Channel_getset[] = {
    {"capacity", (getter)Channel_get_capacity, NULL, Channel_capacity_doc,
     NULL},
    {"closed", (getter)Channel_get_closed, NULL, Channel_closed_doc, NULL},
    {"_sender", (getter)Channel_get_sender, NULL, Channel_sender_doc, NULL},
    {"_receiver", (getter)Channel_get_receiver, NULL, Channel_receiver_doc,
     NULL},
    {"_value", (getter)Channel_get_value, (setter)Channel_set_value,
     Channel_value_doc, NULL},
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
             "senders and receivers may wait.  A channel serves one event "
             "loop at a time.\n\n"
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
    {Py_tp_init, Channel_tp_init},
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
