/* The Python type StreamCore, and StreamEnd. */
#include <Python.h>

#include "stream.h"

#include <unistd.h>

#include "sched/compat.h"

/* --- attributes: the private names that libraries read --- */

static PyObject *
or_none(void *object)
{
    return Py_NewRef(object != NULL ? (PyObject *)object : Py_None);
}

static PyObject *
Stream_get_loop(StreamObject *self, void *Py_UNUSED(closure))
{
    return or_none(self->loop);
}

static PyObject *
Stream_get_sock(StreamObject *self, void *Py_UNUSED(closure))
{
    if (self->released) {
        Py_RETURN_NONE;
    }
    PyObject *sock = stream_socket(self);
    return sock == NULL && PyErr_Occurred() ? NULL : or_none(sock);
}

static PyObject *
Stream_get_kept_sock(StreamObject *self, void *Py_UNUSED(closure))
{
    PyObject *sock = stream_socket(self);
    return sock == NULL && PyErr_Occurred() ? NULL : or_none(sock);
}

static PyObject *
Stream_get_is_open(StreamObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->fd >= 0 && !self->released);
}

static PyObject *
Stream_get_queued_size(StreamObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(self->queue.size);
}

static PyObject *
Stream_get_polling(StreamObject *self, void *Py_UNUSED(closure))
{
    return Py_BuildValue(
        "(NN)", PyBool_FromLong(stream_is_watched(self, PL_SIDE_READ)),
        PyBool_FromLong(stream_is_watched(self, PL_SIDE_WRITE)));
}

/* The water marks, which asyncio has compared with each other and set: any
 * number.  A queue's size is more than 1.5 when it is more than 1, and never
 * more than what no size can be. */
static Py_ssize_t *
mark_at(StreamObject *self, void *offset)
{
    return (Py_ssize_t *)(void *)((char *)self + (uintptr_t)offset);
}

static PyObject *
Stream_get_mark(StreamObject *self, void *offset)
{
    return PyLong_FromSsize_t(*mark_at(self, offset));
}

static int
Stream_set_mark(StreamObject *self, PyObject *value, void *offset)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a mark cannot be deleted");
        return -1;
    }
    Py_ssize_t mark = PY_SSIZE_T_MAX;
    PyObject *whole = PyNumber_Long(value); /* call-out */
    if (whole != NULL) {
        mark = PyNumber_AsSsize_t(whole, NULL); /* the nearest there is */
        Py_DECREF(whole);
    }
    else if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
        return -1;
    }
    else {
        PyErr_Clear(); /* infinity */
    }
    *mark_at(self, offset) = mark;
    return 0;
}

#define STREAM_MARK(name, field) \
    {name, (getter)Stream_get_mark, (setter)Stream_set_mark, NULL, \
     (void *)offsetof(StreamObject, field)}

#define STREAM_NOARGS(name) \
    {#name, (PyCFunction)Stream_##name, METH_NOARGS, Stream_##name##_doc}
#define STREAM_O(name) \
    {#name, (PyCFunction)Stream_##name, METH_O, Stream_##name##_doc}

static PyMethodDef Stream_methods[] = {
    STREAM_O(_begin),
    STREAM_O(_set_listed),
    STREAM_O(write),
    STREAM_O(writelines),
    STREAM_NOARGS(write_eof),
    STREAM_NOARGS(can_write_eof),
    STREAM_NOARGS(get_write_buffer_size),
    STREAM_NOARGS(pause_reading),
    STREAM_NOARGS(resume_reading),
    STREAM_NOARGS(is_reading),
    STREAM_O(set_protocol),
    STREAM_NOARGS(get_protocol),
    STREAM_NOARGS(is_closing),
    STREAM_NOARGS(close),
    STREAM_NOARGS(abort),
    STREAM_O(_force_close),
    STREAM_O(_call_connection_lost),
    STREAM_NOARGS(_leave_server),
    STREAM_NOARGS(_stop_reading),
    STREAM_NOARGS(_read_ready),
    STREAM_NOARGS(_write_ready),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Stream_getset[] = {
    {"_loop", (getter)Stream_get_loop, NULL, NULL, NULL},
    {"_sock", (getter)Stream_get_sock, NULL, NULL, NULL},
    {"_kept_sock", (getter)Stream_get_kept_sock, NULL, NULL, NULL},
    {"_buffer", (getter)Stream_get_buffer, NULL, NULL, NULL},
    {"_is_open", (getter)Stream_get_is_open, NULL, NULL, NULL},
    {"_peername", (getter)Stream_get_peername, NULL, NULL, NULL},
    {"_sockname", (getter)Stream_get_sockname, NULL, NULL, NULL},
    {"_queued_size", (getter)Stream_get_queued_size, NULL, NULL, NULL},
    {"_polling", (getter)Stream_get_polling, NULL, NULL, NULL},
    STREAM_MARK("_high_water", high_water),
    STREAM_MARK("_low_water", low_water),
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define STREAM_MEMBER(name, type, field, flags) \
    {name, type, offsetof(StreamObject, field), flags, NULL}

static PyMemberDef Stream_members[] = {
    STREAM_MEMBER("__weaklistoffset__", T_PYSSIZET, weakrefs, READONLY),
    STREAM_MEMBER("__dictoffset__", T_PYSSIZET, dict, READONLY),
    STREAM_MEMBER("_protocol", T_OBJECT, protocol, READONLY),
    STREAM_MEMBER("_server", T_OBJECT, server, READONLY),
    STREAM_MEMBER("_given_extra", T_OBJECT, given, READONLY),
    STREAM_MEMBER("_all_extra", T_OBJECT, extra, 0),
    STREAM_MEMBER("_empty_waiter", T_OBJECT, empty_waiter, 0),
    STREAM_MEMBER("_sock_fd", T_INT, fd, READONLY),
    STREAM_MEMBER("_conn_lost", T_INT, conn_lost, 0),
    STREAM_MEMBER("_closing", T_BOOL, closing, READONLY),
    STREAM_MEMBER("_paused", T_BOOL, paused, READONLY),
    STREAM_MEMBER("_eof", T_BOOL, eof, READONLY),
    STREAM_MEMBER("_protocol_paused", T_BOOL, protocol_paused, 0),
    STREAM_MEMBER("_protocol_connected", T_BOOL, protocol_connected, 0),
    {NULL, 0, 0, 0, NULL},
};

/* --- the types --- */

int
Stream_tp_traverse(StreamObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < sizeof(self->base_slots) / sizeof(PyObject *); i++)
    {
        Py_VISIT(self->base_slots[i]);
    }
    Py_VISIT(self->dict);
    Py_VISIT(self->loop);
    Py_VISIT(self->sock);
    Py_VISIT(self->protocol);
    Py_VISIT(self->context);
    Py_VISIT(self->server);
    Py_VISIT(self->given);
    Py_VISIT(self->peername);
    Py_VISIT(self->sockname);
    Py_VISIT(self->extra);
    Py_VISIT(self->empty_waiter);
    Py_VISIT(self->ends[PL_SIDE_READ]);
    Py_VISIT(self->ends[PL_SIDE_WRITE]);
    return 0;
}

/* The loop stays: the ends and the flush list are left through it. */
int
Stream_tp_clear(StreamObject *self)
{
    for (size_t i = 0; i < sizeof(self->base_slots) / sizeof(PyObject *); i++)
    {
        Py_CLEAR(self->base_slots[i]);
    }
    Py_CLEAR(self->dict);
    Py_CLEAR(self->server);
    Py_CLEAR(self->given);
    Py_CLEAR(self->peername);
    Py_CLEAR(self->sockname);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->empty_waiter);
    Py_CLEAR(self->ends[PL_SIDE_READ]);
    Py_CLEAR(self->ends[PL_SIDE_WRITE]);
    self->conn_lost = 1;
    self->closing = true;
    Py_CLEAR(self->protocol);
    return 0;
}

void
Stream_tp_dealloc(StreamObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    stream_unlist(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->sock == NULL && self->fd >= 0 && !self->released) {
        close(self->fd);
    }
    (void)Stream_tp_clear(self);
    stream_queue_clear(&self->queue);
    Py_CLEAR(self->context);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->loop);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

PyDoc_STRVAR(Stream_doc,
             "StreamCore(loop, sock, protocol, waiter=None, extra=None, "
             "server=None, context=None)\n--\n\n"
             "The C half of pyloop's stream transport.");

static PyType_Slot Stream_slots[] = {
    {Py_tp_doc, (void *)Stream_doc},      {Py_tp_new, Stream_tp_new},
    {Py_tp_init, Stream_tp_init},         {Py_tp_dealloc, Stream_tp_dealloc},
    {Py_tp_traverse, Stream_tp_traverse}, {Py_tp_clear, Stream_tp_clear},
    {Py_tp_methods, Stream_methods},      {Py_tp_members, Stream_members},
    {Py_tp_getset, Stream_getset},        {0, NULL},
};

/* Not immutable: it inherits a Python class. */
static PyType_Spec Stream_spec = {
    .name = "pyloop._core.StreamCore",
    .basicsize = sizeof(StreamObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Stream_slots,
};

static int
StreamEnd_tp_traverse(StreamEndObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->stream);
    return 0;
}

static int
StreamEnd_tp_clear(StreamEndObject *self)
{
    Py_CLEAR(self->stream);
    return 0;
}

static void
StreamEnd_tp_dealloc(StreamEndObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)StreamEnd_tp_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(StreamEnd_doc,
             "One side of a stream transport, as the loop watches it.");

static PyType_Slot StreamEnd_slots[] = {
    {Py_tp_doc, (void *)StreamEnd_doc},
    {Py_tp_dealloc, StreamEnd_tp_dealloc},
    {Py_tp_traverse, StreamEnd_tp_traverse},
    {Py_tp_clear, StreamEnd_tp_clear},
    {0, NULL},
};

static PyType_Spec StreamEnd_spec = {
    .name = "pyloop._core.StreamEnd",
    .basicsize = sizeof(StreamEndObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = StreamEnd_slots,
};

int
stream_init(PyObject *module, struct module_state *state)
{
    state->AsyncioBufferedProtocol
        = state_import("asyncio.protocols", "BufferedProtocol");
    if (state->AsyncioBufferedProtocol == NULL
        || state_add_type(module, &state->StreamEndType, &StreamEnd_spec, NULL)
               < 0)
    {
        return -1;
    }
    PyObject *base = state_import("asyncio.transports", "_FlowControlMixin");
    if (base == NULL) {
        return -1;
    }
    int rc = -1;
    if (!PyType_Check(base)
        || ((PyTypeObject *)base)->tp_basicsize
               > (Py_ssize_t)offsetof(StreamObject, dict))
    {
        PyErr_SetString(PyExc_SystemError,
                        "asyncio.transports._FlowControlMixin has more slots "
                        "than this build of pyloop knows of");
    }
    else {
        state->StreamType = (PyTypeObject *)PyType_FromModuleAndSpec(
            module, &Stream_spec, base);
        rc = state->StreamType == NULL
                 ? -1
                 : PyModule_AddObjectRef(module, "StreamCore",
                                         (PyObject *)state->StreamType);
    }
    Py_DECREF(base);
    return rc;
}
