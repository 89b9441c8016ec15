/* The Python types Handle and TimerHandle, with the attributes of asyncio's
 * classes of those names: libraries and asyncio itself read `_callback`,
 * `_args`, `_when`.
 *
 * isinstance(handle, asyncio.Handle) holds through __class__: an immutable C
 * type must not inherit from a Python class. */
#include <Python.h>

#include "handle.h"

#include "compat.h"

PyObject *
handle_args(HandleObject *self)
{
    if (self->nargs < 0) {
        return Py_NewRef(self->slots[1]);
    }
    /* Held, for a cancel() takes them away. */
    PyObject *args[PL_HANDLE_INLINE_ARGS] = {NULL};
    int n = self->nargs;
    for (int i = 0; i < n; i++) {
        args[i] = Py_NewRef(self->slots[i + 1]);
    }
    PyObject *tuple = PyTuple_New(n); /* call-out: GC */
    for (int i = 0; i < n; i++) {
        if (tuple != NULL) {
            PyTuple_SET_ITEM(tuple, i, args[i]);
        }
        else {
            Py_DECREF(args[i]);
        }
    }
    return tuple;
}

PyObject *
handle_format_callback(HandleObject *self)
{
    PyObject *callback = Py_NewRef(self->callback);
    PyObject *args = handle_args(self); /* call-out: GC */
    if (args == NULL) {
        Py_DECREF(callback);
        return NULL;
    }
    /* From 3.13 on arguments are shown in debug mode only, and asyncio's
     * function has to be told. */
    PyObject *function = self->loop->state->format_callback;
    PyObject *text = NULL;
    PyObject *call = PyTuple_Pack(2, callback, args);
    PyObject *options = PyObject_GetAttrString(function, "__kwdefaults__");
    if (call == NULL || options == NULL) {
        goto done;
    }
    if (options != Py_None) {
        Py_SETREF(options,
                  Py_BuildValue("{s:O}", "debug",
                                self->loop->debug ? Py_True : Py_False));
        if (options == NULL) {
            goto done;
        }
    }
    text = PyObject_Call(function, call, options != Py_None ? options : NULL);
done:
    Py_XDECREF(options);
    Py_XDECREF(call);
    Py_DECREF(args);
    Py_DECREF(callback);
    return text;
}

static int
Handle_tp_traverse(HandleObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->source_traceback);
    int n = self->nargs < 0 ? 1 : self->nargs;
    for (int i = 1; i <= n; i++) {
        Py_VISIT(self->slots[i]);
    }
    return 0;
}

static int
Handle_tp_clear(HandleObject *self)
{
    if (!self->running) {
        handle_clear_call(self);
    }
    Py_CLEAR(self->context);
    Py_CLEAR(self->source_traceback);
    return 0;
}

static void
Handle_tp_dealloc(HandleObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    handle_clear_call(self);
    Py_XDECREF(self->context);
    Py_XDECREF(self->source_traceback);
    LoopObject *loop = self->loop;
    handle_give_back(self, type);
    Py_DECREF(loop); /* call-out: last, it may free everything */
    Py_DECREF(type);
}

PyDoc_STRVAR(Handle_cancel_doc,
             "cancel($self, /)\n--\n\n"
             "Do not call the callback any more.\n\n"
             "Returns:\n    None, also when it has run or was cancelled.");

static PyObject *
Handle_cancel(HandleObject *self, PyObject *Py_UNUSED(ignored))
{
    handle_cancel(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Handle_cancelled_doc,
             "cancelled($self, /)\n--\n\n"
             "Return True if cancel() was called.");

static PyObject *
Handle_cancelled(HandleObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->cancelled);
}

PyDoc_STRVAR(Handle_get_context_doc,
             "get_context($self, /)\n--\n\n"
             "Return the contextvars.Context that the callback runs in.");

static PyObject *
Handle_get_context(HandleObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->context != NULL ? self->context : Py_None);
}

PyDoc_STRVAR(Handle_run_doc,
             "_run($self, /)\n--\n\n"
             "Call the callback in its context; errors go to the loop's "
             "exception handler.");

static PyObject *
Handle__run(HandleObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->callback != NULL && handle_run_once(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Said for every protocol: the two oldest would copy what __class__ says. */
PyDoc_STRVAR(Handle_reduce_doc,
             "__reduce_ex__($self, protocol, /)\n--\n\n"
             "Raise TypeError: a scheduled callback cannot be copied.");

static PyObject *
Handle_reduce(HandleObject *self, PyObject *Py_UNUSED(protocol))
{
    PyErr_Format(PyExc_TypeError, "cannot pickle '%s' object",
                 Py_TYPE(self)->tp_name);
    return NULL;
}

static PyObject *
Handle_tp_repr(HandleObject *self)
{
    bool is_timer = self->loop != NULL
                    && Py_IS_TYPE(self, self->loop->state->TimerHandleType);
    PyObject *parts
        = PyUnicode_FromFormat("<%s%s", is_timer ? "TimerHandle" : "Handle",
                               self->cancelled ? " cancelled" : "");
    if (parts != NULL && is_timer) {
        PyObject *when = PyFloat_FromDouble(((TimerHandleObject *)self)->when);
        if (when == NULL) {
            Py_CLEAR(parts);
        }
        else {
            Py_SETREF(parts, PyUnicode_FromFormat("%U when=%S", parts, when));
            Py_DECREF(when);
        }
    }
    if (parts != NULL && self->callback != NULL && self->loop != NULL) {
        PyObject *source = handle_format_callback(self);
        if (source == NULL) {
            Py_CLEAR(parts);
        }
        else {
            Py_SETREF(parts, PyUnicode_FromFormat("%U %U", parts, source));
            Py_DECREF(source);
        }
    }
    else if (parts != NULL && self->cancelled && self->nargs == 1) {
        Py_SETREF(parts, PyUnicode_FromFormat("%U %U", parts, self->slots[1]));
    }
    if (parts != NULL && self->source_traceback != NULL) {
        PyObject *frame = PySequence_GetItem(self->source_traceback, -1);
        PyObject *file = NULL, *line = NULL;
        if (frame != NULL) {
            file = PySequence_GetItem(frame, 0);
            line = PySequence_GetItem(frame, 1);
        }
        if (file == NULL || line == NULL) {
            PyErr_Clear();
        }
        else {
            Py_SETREF(parts, PyUnicode_FromFormat("%U created at %S:%S", parts,
                                                  file, line));
        }
        Py_XDECREF(frame);
        Py_XDECREF(file);
        Py_XDECREF(line);
    }
    if (parts != NULL) {
        Py_SETREF(parts, PyUnicode_FromFormat("%U>", parts));
    }
    return parts;
}

static PyObject *
Handle_get_callback(HandleObject *self, void *Py_UNUSED(closure))
{
    bool is_gone = self->cancelled || self->callback == NULL;
    return Py_NewRef(is_gone ? Py_None : self->callback);
}

static PyObject *
Handle_get_args(HandleObject *self, void *Py_UNUSED(closure))
{
    if (self->cancelled || self->callback == NULL) {
        Py_RETURN_NONE;
    }
    return handle_args(self);
}

static PyObject *
Handle_get_class(HandleObject *self, void *Py_UNUSED(closure))
{
    if (self->loop == NULL) {
        return Py_NewRef(Py_TYPE(self));
    }
    struct module_state *state = self->loop->state;
    return Py_NewRef(Py_IS_TYPE(self, state->TimerHandleType)
                         ? state->AsyncioTimerHandle
                         : state->AsyncioHandle);
}

PyDoc_STRVAR(TimerHandle_when_doc,
             "when($self, /)\n--\n\n"
             "Return the loop time, in seconds, at which the callback is "
             "due.");

static PyObject *
TimerHandle_when(TimerHandleObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(self->when);
}

static PyObject *
TimerHandle_get_when(TimerHandleObject *self, void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(self->when);
}

static PyObject *
TimerHandle_get_scheduled(TimerHandleObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(loop_timer_is_active(&self->timer));
}

/* Both types have one table: what only a TimerHandle has comes first, and a
 * Handle begins after that. */
#define PL_TIMER_METHODS 1
static PyMethodDef TimerHandle_methods[] = {
    {"when", (PyCFunction)TimerHandle_when, METH_NOARGS, TimerHandle_when_doc},
    {"cancel", (PyCFunction)Handle_cancel, METH_NOARGS, Handle_cancel_doc},
    {"cancelled", (PyCFunction)Handle_cancelled, METH_NOARGS,
     Handle_cancelled_doc},
    {"get_context", (PyCFunction)Handle_get_context, METH_NOARGS,
     Handle_get_context_doc},
    {"_run", (PyCFunction)Handle__run, METH_NOARGS, Handle_run_doc},
    {"__reduce_ex__", (PyCFunction)Handle_reduce, METH_O, Handle_reduce_doc},
    {NULL, NULL, 0, NULL},
};

#define PL_TIMER_GETSET 2
static PyGetSetDef TimerHandle_getset[] = {
    {"_when", (getter)TimerHandle_get_when, NULL, NULL, NULL},
    {"_scheduled", (getter)TimerHandle_get_scheduled, NULL, NULL, NULL},
    {"_callback", (getter)Handle_get_callback, NULL, NULL, NULL},
    {"_args", (getter)Handle_get_args, NULL, NULL, NULL},
    {"__class__", (getter)Handle_get_class, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* T_OBJECT shows NULL as None. */
static PyMemberDef Handle_members[] = {
    {"_loop", T_OBJECT, offsetof(HandleObject, loop), READONLY, NULL},
    {"_context", T_OBJECT, offsetof(HandleObject, context), READONLY, NULL},
    {"_cancelled", T_BOOL, offsetof(HandleObject, cancelled), READONLY, NULL},
    {"_source_traceback", T_OBJECT, offsetof(HandleObject, source_traceback),
     READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(HandleObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Handle_doc,
             "What call_soon() returns: a scheduled callback, which can be "
             "cancelled.\n\nAn asyncio.Handle to its users.");

static PyType_Slot Handle_slots[] = {
    {Py_tp_doc, (void *)Handle_doc},
    {Py_tp_dealloc, Handle_tp_dealloc},
    {Py_tp_traverse, Handle_tp_traverse},
    {Py_tp_clear, Handle_tp_clear},
    {Py_tp_repr, Handle_tp_repr},
    {Py_tp_methods, TimerHandle_methods + PL_TIMER_METHODS},
    {Py_tp_members, Handle_members},
    {Py_tp_getset, TimerHandle_getset + PL_TIMER_GETSET},
    {0, NULL},
};

static PyType_Spec Handle_spec = {
    .name = "pyloop._core.Handle",
    .basicsize = sizeof(HandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Handle_slots,
};

static int
is_same_call(HandleObject *one, HandleObject *two)
{
    if (one == two) {
        return 1;
    }
    if (one->cancelled != two->cancelled) {
        return 0;
    }
    int same = 0;
    PyObject *pairs[4]
        = {Handle_get_callback(one, NULL), Handle_get_callback(two, NULL),
           Handle_get_args(one, NULL), Handle_get_args(two, NULL)};
    if (pairs[2] == NULL || pairs[3] == NULL) {
        same = -1;
    }
    else {
        same = PyObject_RichCompareBool(pairs[0], pairs[1], Py_EQ);
        if (same > 0) {
            same = PyObject_RichCompareBool(pairs[2], pairs[3], Py_EQ);
        }
    }
    for (int i = 0; i < 4; i++) {
        Py_XDECREF(pairs[i]);
    }
    return same;
}

/* As asyncio's: ordered by deadline; equal are timers that would do the same
 * at the same time. */
static PyObject *
TimerHandle_tp_richcompare(TimerHandleObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, Py_TYPE(self))) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    TimerHandleObject *timer = (TimerHandleObject *)other;
    if (op == Py_LT || op == Py_GT || self->when != timer->when) {
        Py_RETURN_RICHCOMPARE(self->when, timer->when, op);
    }
    int same = is_same_call(&self->base, &timer->base);
    return same < 0 ? NULL : PyBool_FromLong(same == (op != Py_NE));
}

static Py_hash_t
TimerHandle_tp_hash(TimerHandleObject *self)
{
    PyObject *when = PyFloat_FromDouble(self->when);
    if (when == NULL) {
        return -1;
    }
    Py_hash_t hash = PyObject_Hash(when);
    Py_DECREF(when);
    return hash;
}

PyDoc_STRVAR(TimerHandle_doc,
             "What call_later() and call_at() return.\n\n"
             "An asyncio.TimerHandle to its users.");

static PyType_Slot TimerHandle_slots[] = {
    {Py_tp_doc, (void *)TimerHandle_doc},
    {Py_tp_dealloc, Handle_tp_dealloc},
    {Py_tp_traverse, Handle_tp_traverse},
    {Py_tp_clear, Handle_tp_clear},
    {Py_tp_repr, Handle_tp_repr},
    {Py_tp_richcompare, TimerHandle_tp_richcompare},
    {Py_tp_hash, TimerHandle_tp_hash},
    {Py_tp_methods, TimerHandle_methods},
    {Py_tp_members, Handle_members},
    {Py_tp_getset, TimerHandle_getset},
    {0, NULL},
};

static PyType_Spec TimerHandle_spec = {
    .name = "pyloop._core.TimerHandle",
    .basicsize = sizeof(TimerHandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = TimerHandle_slots,
};

int
handle_init(PyObject *module, struct module_state *state)
{
    if (state_add_type(module, &state->HandleType, &Handle_spec, "Handle") < 0)
    {
        return -1;
    }
    return state_add_type(module, &state->TimerHandleType, &TimerHandle_spec,
                          "TimerHandle");
}
