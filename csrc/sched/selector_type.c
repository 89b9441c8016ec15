/* The Python type Selector: the interface of selectors.BaseSelector. */
#include <Python.h>

#include "selector.h"

#include <math.h>

#include "args.h"
#include "backend.h"
#include "compat.h"
#include "core/clock.h"
#include "errors.h"
#include "selectormap.h"

/* --- registering --- */

/* EVENT_READ | EVENT_WRITE -> PL_READ | PL_WRITE, which are the same bits.
 * -1 with ValueError, or TypeError for what is no number. */
static int
parse_events(PyObject *events)
{
    int overflow = 0;
    long bits = 0;
    if (PL_LIKELY(PyLong_Check(events))) {
        bits = PyLong_AsLongAndOverflow(events, &overflow);
    }
    else if (events != Py_None) {
        if (!PyIndex_Check(events)) {
            errors_bad_type(events, "events must be an int, EVENT_READ, "
                                    "EVENT_WRITE or both");
            return -1;
        }
        PyObject *number = PyNumber_Index(events); /* call-out */
        if (number == NULL) {
            return -1;
        }
        bits = PyLong_AsLongAndOverflow(number, &overflow);
        Py_DECREF(number);
    }
    if (overflow != 0 || bits == 0 || (bits & ~(PL_READ | PL_WRITE)) != 0) {
        PyErr_Format(PyExc_ValueError, "Invalid events: %R", events);
        return -1;
    }
    return (int)bits;
}

static PyObject *
already_registered(PyObject *fileobj, int fd)
{
    PyObject *text = PyUnicode_FromFormat("%R (FD %d) is already registered",
                                          fileobj, fd);
    if (text != NULL) {
        PyErr_SetObject(PyExc_KeyError, text);
        Py_DECREF(text);
    }
    return NULL;
}

/* The common part of unregister, modify and get_key: the slot of a registered
 * file object, or NULL with KeyError or ValueError. */
static struct selector_slot *
look_up(SelectorObject *self, PyObject *fileobj, int *fd)
{
    int rc = selectormap_find_fd(self->state, self->keys, fileobj, fd);
    if (rc < 0) {
        return NULL;
    }
    struct selector_slot *slot = rc == 0 ? selector_find(self, *fd) : NULL;
    if (slot == NULL) {
        selectormap_not_registered(fileobj);
    }
    return slot;
}

PyDoc_STRVAR(Selector_register_doc,
             "register($self, /, fileobj, events, data=None)\n--\n\n"
             "Watch a file object, and attach data to it.\n\n"
             "Args:\n"
             "    fileobj: a descriptor (int) or an object with fileno().\n"
             "    events: selectors.EVENT_READ, EVENT_WRITE or both.\n"
             "    data: any object; it comes back in the key.\n\n"
             "Returns:\n    The selectors.SelectorKey.\n\n"
             "Raises:\n"
             "    ValueError: events is something else; fileobj is no file "
             "object; the selector is closed.\n"
             "    KeyError: it is registered already.\n"
             "    OSError: the kernel refuses it (closed; a regular file).");

static PyObject *
Selector_register(SelectorObject *self, PyObject *const *args,
                  Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"fileobj", "events", "data"};
    static const struct args_spec spec = {"register", names, 3, 3, 2};
    PyObject *bound[3];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    int wanted = parse_events(bound[1]);
    if (wanted < 0) {
        return NULL;
    }
    int fd;
    int rc = selectormap_find_fd(self->state, self->keys, bound[0], &fd);
    if (rc < 0) {
        return NULL;
    }
    if (rc > 0) {
        PyErr_Format(PyExc_OverflowError,
                     "register(): %R is too large for a file descriptor",
                     bound[0]);
        return NULL;
    }
    /* First, since a garbage collection here may change the selector; what
     * follows calls nobody. */
    PyObject *key = selectormap_make_key(
        self->state, bound[0], fd, bound[1],
        bound[2] != NULL ? bound[2] : Py_None); /* call-out */
    if (key == NULL || selector_check_open(self) < 0) {
        goto fail;
    }
    if (selector_find(self, fd) != NULL) {
        already_registered(bound[0], fd);
        goto fail;
    }
    rc = selector_add(self, fd, (unsigned)wanted, key);
    if (rc < 0) {
        errors_from_core(rc, "register(%R)", bound[0]);
        goto fail;
    }
    return key;
fail:
    Py_XDECREF(key);
    return NULL;
}

PyDoc_STRVAR(Selector_unregister_doc,
             "unregister($self, /, fileobj)\n--\n\n"
             "Stop watching a file object, which may have been closed.\n\n"
             "Returns:\n    The key that it had.\n\n"
             "Raises:\n"
             "    KeyError: it is not registered.\n"
             "    ValueError: it is no file object.");

static PyObject *
Selector_unregister(SelectorObject *self, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"fileobj"};
    static const struct args_spec spec = {"unregister", names, 1, 1, 1};
    PyObject *fileobj;
    int fd;
    if (args_bind(&spec, args, nargs, kwnames, &fileobj) < 0) {
        return NULL;
    }
    struct selector_slot *slot = look_up(self, fileobj, &fd);
    return slot != NULL ? selector_remove(self, fd) : NULL;
}

PyDoc_STRVAR(Selector_modify_doc,
             "modify($self, /, fileobj, events, data=None)\n--\n\n"
             "Change what a registered file object is watched for, and its "
             "data.\n\n"
             "Where the kernel refuses the change it is unregistered.\n\n"
             "Returns:\n    The new key.\n\n"
             "Raises:\n"
             "    KeyError: it is not registered.\n"
             "    ValueError, OSError: as register().");

static PyObject *
Selector_modify(SelectorObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"fileobj", "events", "data"};
    static const struct args_spec spec = {"modify", names, 3, 3, 2};
    PyObject *bound[3];
    int fd;
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    int wanted = parse_events(bound[1]);
    if (wanted < 0) {
        return NULL;
    }
    PyObject *data = bound[2] != NULL ? bound[2] : Py_None;
    struct selector_slot *slot = look_up(self, bound[0], &fd);
    if (slot == NULL) {
        return NULL;
    }
    if (wanted == slot->wanted && data == selectormap_get(slot->key, KEY_DATA))
    {
        return Py_NewRef(slot->key);
    }
    PyObject *old = Py_NewRef(slot->key);
    PyObject *key
        = selectormap_make_key(self->state, selectormap_get(old, KEY_FILEOBJ),
                               fd, bound[1], data); /* call-out */
    slot = selector_find(self, fd);
    if (key != NULL && slot == NULL) {
        selectormap_not_registered(bound[0]);
        Py_CLEAR(key);
    }
    if (key != NULL) {
        PyObject *present = Py_NewRef(slot->key); /* another one, by now? */
        int rc = selector_change(self, fd, (unsigned)wanted, key);
        if (rc < 0) {
            errors_from_core(rc, "modify(%R)", bound[0]);
            Py_CLEAR(key);
        }
        Py_DECREF(present); /* call-out */
    }
    Py_DECREF(old); /* call-out */
    return key;
}

/* --- selecting --- */

/* None -> PL_FOREVER; seconds, rounded up -> nanoseconds, 0 for what is not
 * positive. */
static int
parse_timeout(PyObject *timeout, int64_t *out_ns)
{
    if (timeout == NULL || timeout == Py_None) {
        *out_ns = PL_FOREVER;
        return 0;
    }
    if (PyLong_CheckExact(timeout)) {
        /* The common select(0), without making a float of it. */
        int overflow;
        long long whole = PyLong_AsLongLongAndOverflow(timeout, &overflow);
        if (whole <= 0 && overflow <= 0) {
            *out_ns = 0;
            return 0;
        }
    }
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            errors_bad_type(timeout,
                            "select(): timeout must be a real number or None");
        }
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError,
                        "select(): timeout must be a number, not NaN");
        return -1;
    }
    double ns = ceil(seconds * (double)PL_NS_PER_SEC);
    /* 2^62 ns are 146 years. */
    if (ns >= 4611686018427387904.0) {
        *out_ns = PL_FOREVER;
    }
    else {
        *out_ns = ns > 0 ? (int64_t)ns : 0;
    }
    return 0;
}

PyDoc_STRVAR(Selector_select_doc,
             "select($self, /, timeout=None)\n--\n\n"
             "Wait until a registered file object is ready.\n\n"
             "Signal handlers run meanwhile; unless one raises, the wait goes "
             "on. Other threads may register, modify and unregister: with "
             "epoll that takes effect at once, with poll at the next "
             "select().\n\n"
             "Args:\n"
             "    timeout: seconds, never cut short; 0 or less: do not wait; "
             "None: no limit.\n\n"
             "Returns:\n"
             "    A list of (key, events), empty on timeout.\n\n"
             "Raises:\n"
             "    ValueError: the selector is closed.\n"
             "    RuntimeError: another select() of this selector is "
             "waiting.\n\n"
             "Example:\n"
             "    for key, events in selector.select(0.5):\n"
             "        key.data(key.fileobj, events)");

static PyObject *
Selector_select(SelectorObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"timeout"};
    static const struct args_spec spec = {"select", names, 1, 1, 0};
    PyObject *timeout;
    int64_t timeout_ns;
    if (args_bind(&spec, args, nargs, kwnames, &timeout) < 0
        || parse_timeout(timeout, &timeout_ns) < 0
        || selector_check_open(self) < 0)
    {
        return NULL;
    }
    if (self->is_selecting) {
        PyErr_SetString(PyExc_RuntimeError,
                        "select(): another select() of this selector is "
                        "waiting");
        return NULL;
    }
    return selector_select(self, timeout_ns);
}

/* --- life --- */

PyDoc_STRVAR(Selector_close_doc,
             "close($self, /)\n--\n\n"
             "Unregister everything and free the poller; harmless when "
             "closed.\n\n"
             "A select() that waits in another thread is not woken.");

static PyObject *
Selector_close(SelectorObject *self, PyObject *Py_UNUSED(ignored))
{
    selector_shut(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Selector_get_key_doc,
             "get_key($self, /, fileobj)\n--\n\n"
             "Return the key of a registered file object.\n\n"
             "Raises:\n"
             "    KeyError: it is not registered.\n"
             "    RuntimeError: the selector is closed.");

static PyObject *
Selector_get_key(SelectorObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"fileobj"};
    static const struct args_spec spec = {"get_key", names, 1, 1, 1};
    PyObject *fileobj;
    int fd;
    if (args_bind(&spec, args, nargs, kwnames, &fileobj) < 0) {
        return NULL;
    }
    if (self->map == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Selector is closed");
        return NULL;
    }
    struct selector_slot *slot = look_up(self, fileobj, &fd);
    return slot != NULL ? Py_NewRef(slot->key) : NULL;
}

PyDoc_STRVAR(Selector_get_map_doc,
             "get_map($self, /)\n--\n\n"
             "Return a live, read-only Mapping of file objects to keys; None "
             "when closed.");

static PyObject *
Selector_get_map(SelectorObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->map != NULL ? self->map : Py_None);
}

PyDoc_STRVAR(Selector_enter_doc, "__enter__($self, /)\n--\n\n"
                                 "Return the selector itself.");

static PyObject *
Selector_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

PyDoc_STRVAR(Selector_exit_doc, "__exit__($self, /, *args)\n--\n\n"
                                "Call close().");

static PyObject *
Selector_exit(SelectorObject *self, PyObject *const *Py_UNUSED(args),
              Py_ssize_t Py_UNUSED(nargs))
{
    return PyObject_CallMethodNoArgs((PyObject *)self, self->state->str_close);
}

PyDoc_STRVAR(Selector_fileno_doc,
             "fileno($self, /)\n--\n\n"
             "Return the descriptor of the poller: readable when select() "
             "would not wait.\n\n"
             "Raises:\n    ValueError: the selector is closed.");

static PyObject *
Selector_fileno(SelectorObject *self, PyObject *Py_UNUSED(ignored))
{
    if (selector_check_open(self) < 0) {
        return NULL;
    }
    return PyLong_FromLong(self->ops->fileno(self->poller));
}

static PyMethodDef fileno_method = {"fileno", (PyCFunction)Selector_fileno,
                                    METH_NOARGS, Selector_fileno_doc};

/* Like the selectors of the standard library, one whose poller has no
 * descriptor has no method of this name: that is how programs find out. */
static PyObject *
Selector_get_fileno(SelectorObject *self, void *Py_UNUSED(closure))
{
    if (self->poller != NULL && self->ops->fileno(self->poller) < 0) {
        PyErr_Format(PyExc_AttributeError,
                     "a Selector of the %s backend has no descriptor, thus "
                     "no 'fileno'",
                     self->ops->name);
        return NULL;
    }
    return PyCFunction_NewEx(&fileno_method, (PyObject *)self, NULL);
}

static PyObject *
Selector_get_backend(SelectorObject *self, void *Py_UNUSED(closure))
{
    if (self->poller == NULL || self->is_doomed) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(self->ops->name);
}

static PyObject *
Selector_tp_repr(SelectorObject *self)
{
    if (self->poller == NULL || self->is_doomed) {
        return PyUnicode_FromFormat("<%s closed>", Py_TYPE(self)->tp_name);
    }
    return PyUnicode_FromFormat("<%s %s, %zd registered>",
                                Py_TYPE(self)->tp_name, self->ops->name,
                                PyDict_GET_SIZE(self->keys));
}

static PyObject *
Selector_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                PyObject *Py_UNUSED(kwargs))
{
    SelectorObject *self = (SelectorObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->state = state_of((PyObject *)self);
    self->keys = PyDict_New();
    if (self->state == NULL || self->keys == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
Selector_tp_init(SelectorObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"backend", NULL};
    const char *backend = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|z:Selector", names,
                                     &backend))
    {
        return -1;
    }
    if (self->is_initialised) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the selector is initialised already");
        return -1;
    }
    self->ops = backend_find(backend);
    if (self->ops == NULL) {
        return -1;
    }
    PyObject *map = selectormap_new(self->state, self->keys);
    if (map == NULL) {
        return -1;
    }
    int rc = self->ops->create(&self->poller);
    if (rc < 0) {
        self->poller = NULL;
        Py_DECREF(map);
        return errors_from_core(rc, "making the %s poller", self->ops->name);
    }
    self->map = map;
    self->is_initialised = true;
    return 0;
}

static int
Selector_tp_traverse(SelectorObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->dict);
    Py_VISIT(self->keys);
    Py_VISIT(self->map);
    return 0;
}

/* `keys` itself stays, empty: the methods rely on it. */
static int
Selector_tp_clear(SelectorObject *self)
{
    selector_shut(self);
    Py_CLEAR(self->dict);
    return 0;
}

static void
Selector_tp_dealloc(SelectorObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)Selector_tp_clear(self);
    Py_CLEAR(self->keys);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

#define SELECTOR_FASTCALL(fn) (PyCFunction)(void (*)(void))(fn)

static PyMethodDef Selector_methods[] = {
    {"register", SELECTOR_FASTCALL(Selector_register),
     METH_FASTCALL | METH_KEYWORDS, Selector_register_doc},
    {"unregister", SELECTOR_FASTCALL(Selector_unregister),
     METH_FASTCALL | METH_KEYWORDS, Selector_unregister_doc},
    {"modify", SELECTOR_FASTCALL(Selector_modify),
     METH_FASTCALL | METH_KEYWORDS, Selector_modify_doc},
    {"select", SELECTOR_FASTCALL(Selector_select),
     METH_FASTCALL | METH_KEYWORDS, Selector_select_doc},
    {"close", (PyCFunction)Selector_close, METH_NOARGS, Selector_close_doc},
    {"get_key", SELECTOR_FASTCALL(Selector_get_key),
     METH_FASTCALL | METH_KEYWORDS, Selector_get_key_doc},
    {"get_map", (PyCFunction)Selector_get_map, METH_NOARGS,
     Selector_get_map_doc},
    {"__enter__", Selector_enter, METH_NOARGS, Selector_enter_doc},
    {"__exit__", SELECTOR_FASTCALL(Selector_exit), METH_FASTCALL,
     Selector_exit_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Selector_backend_doc,
             "Name of the poller backend; None when closed.");

static PyGetSetDef Selector_getset[] = {
    {"fileno", (getter)Selector_get_fileno, NULL, Selector_fileno_doc, NULL},
    {"backend", (getter)Selector_get_backend, NULL, Selector_backend_doc,
     NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef Selector_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SelectorObject, weakrefs),
     READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(SelectorObject, dict), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Selector_doc,
             "Selector(backend=None)\n--\n\n"
             "A selectors.BaseSelector in C: which file objects are ready?\n\n"
             "It has the interface, the exceptions and the keys of "
             "selectors.EpollSelector, and can take its place anywhere, for "
             "instance in asyncio.SelectorEventLoop.\n\n"
             "Args:\n"
             "    backend: 'epoll' or 'poll'; None: $PYLOOP_BACKEND, else the "
             "best there is.\n\n"
             "Raises:\n"
             "    ValueError: no such backend.\n"
             "    OSError: no descriptor is left for it.\n\n"
             "Example:\n"
             "    with pyloop.Selector() as selector:\n"
             "        selector.register(sock, selectors.EVENT_READ)\n"
             "        ready = selector.select(timeout=1.0)");

static PyType_Slot Selector_slots[] = {
    {Py_tp_doc, (void *)Selector_doc},
    {Py_tp_new, Selector_tp_new},
    {Py_tp_init, Selector_tp_init},
    {Py_tp_dealloc, Selector_tp_dealloc},
    {Py_tp_traverse, Selector_tp_traverse},
    {Py_tp_clear, Selector_tp_clear},
    {Py_tp_repr, Selector_tp_repr},
    {Py_tp_methods, Selector_methods},
    {Py_tp_members, Selector_members},
    {Py_tp_getset, Selector_getset},
    {0, NULL},
};

static PyType_Spec Selector_spec = {
    .name = "pyloop.Selector",
    .basicsize = sizeof(SelectorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Selector_slots,
};

/* Not BaseSelector.register(Selector): that is the selector's own method. */
static int
register_as_base_selector(struct module_state *state)
{
    PyObject *base = state_import("selectors", "BaseSelector");
    PyObject *meta = base != NULL ? state_import("abc", "ABCMeta") : NULL;
    PyObject *registered = NULL;
    if (base != NULL && meta != NULL) {
        registered = PyObject_CallMethod(meta, "register", "OO", base,
                                         state->SelectorType);
    }
    Py_XDECREF(base);
    Py_XDECREF(meta);
    Py_XDECREF(registered);
    return registered == NULL ? -1 : 0;
}

int
selector_init(PyObject *module, struct module_state *state)
{
    if (state_add_type(module, &state->SelectorType, &Selector_spec,
                       "Selector")
        < 0)
    {
        return -1;
    }
    return register_as_base_selector(state);
}
