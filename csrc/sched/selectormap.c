/* SelectorMap: what Selector.get_map() returns.
 *
 * It shares the dict of keys with its selector instead of referring to the
 * selector: no reference cycle, and close(), which empties the dict, empties
 * every map that is still around.  The dict has the numbers as keys; whoever
 * looks something up may give any file object. */
#include <Python.h>

#include "selectormap.h"

#include <string.h>

#include "args.h"
#include "compat.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *keys; /* owned: the selector's dict fd -> SelectorKey */
} SelectorMapObject;

/* --- keys --- */

PyObject *
selectormap_make_key(struct module_state *state, PyObject *fileobj, int fd,
                     PyObject *events, PyObject *data)
{
    PyTypeObject *type = (PyTypeObject *)state->SelectorKey;
    PyObject *number = PyLong_FromLong(fd);
    if (number == NULL) {
        return NULL;
    }
#if PY_VERSION_HEX >= 0x030E0000
    /* A tuple has a field of its own there that only tuple.__new__ fills. */
    PyObject *args = NULL;
    PyObject *fields = PyTuple_Pack(4, fileobj, number, events, data);
    PyObject *key = NULL;
    if (fields != NULL) {
        args = PyTuple_Pack(1, fields);
    }
    if (args != NULL) {
        key = PyTuple_Type.tp_new(type, args, NULL);
    }
    Py_XDECREF(args);
    Py_XDECREF(fields);
    Py_DECREF(number);
#else
    PyObject *key = type->tp_alloc(type, 4);
    if (key == NULL) {
        Py_DECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(key, 0, Py_NewRef(fileobj));
    PyTuple_SET_ITEM(key, 1, number);
    PyTuple_SET_ITEM(key, 2, Py_NewRef(events));
    PyTuple_SET_ITEM(key, 3, Py_NewRef(data));
#endif
    return key;
}

PyObject *
selectormap_not_registered(PyObject *fileobj)
{
    PyObject *text = PyUnicode_FromFormat("%R is not registered", fileobj);
    if (text != NULL) {
        PyErr_SetObject(PyExc_KeyError, text);
        Py_DECREF(text);
    }
    return NULL;
}

/* What fileobj.fileno() returns, as an int; errors that mean "this is no file
 * object" become ValueError.  New reference. */
static PyObject *
ask_fileno(struct module_state *state, PyObject *fileobj)
{
    PyObject *answer = PyObject_CallMethodNoArgs(fileobj, state->str_fileno);
    PyObject *number = NULL;
    if (answer != NULL) {
        number = PyNumber_Long(answer); /* call-out */
        Py_DECREF(answer);
    }
    if (number == NULL
        && (PyErr_ExceptionMatches(PyExc_AttributeError)
            || PyErr_ExceptionMatches(PyExc_TypeError)
            || PyErr_ExceptionMatches(PyExc_ValueError)))
    {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "Invalid file object: %R", fileobj);
    }
    return number;
}

/* Like selectormap_find_fd, but knows nothing of what is registered. */
static int
fd_of(struct module_state *state, PyObject *fileobj, int *fd)
{
    if (PL_LIKELY(Py_IS_TYPE(fileobj, (PyTypeObject *)state->SocketType)
                  && state->socket_fd_offset >= 0))
    {
        memcpy(fd, (char *)fileobj + state->socket_fd_offset, sizeof(*fd));
        if (PL_LIKELY(*fd >= 0)) {
            return 0;
        }
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", *fd);
        return -1;
    }
    PyObject *number = PyLong_Check(fileobj) ? Py_NewRef(fileobj)
                                             : ask_fileno(state, fileobj);
    if (number == NULL) {
        return -1;
    }
    int overflow;
    long value = PyLong_AsLongAndOverflow(number, &overflow);
    int rc = 0;
    if (value == -1 && overflow == 0 && PyErr_Occurred()) {
        rc = -1;
    }
    else if (overflow < 0 || (overflow == 0 && value < 0)) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", number);
        rc = -1;
    }
    else if (overflow > 0 || value > INT_MAX) {
        rc = 1;
    }
    else {
        *fd = (int)value;
    }
    Py_DECREF(number);
    return rc;
}

int
selectormap_find_fd(struct module_state *state, PyObject *keys,
                    PyObject *fileobj, int *fd)
{
    int rc = fd_of(state, fileobj, fd);
    if (PL_LIKELY(rc >= 0) || keys == NULL
        || !PyErr_ExceptionMatches(PyExc_ValueError))
    {
        return rc;
    }
    /* It may be registered and have been closed since. */
    Py_ssize_t at = 0;
    PyObject *number, *key;
    while (PyDict_Next(keys, &at, &number, &key)) {
        if (selectormap_get(key, KEY_FILEOBJ) == fileobj) {
            PyErr_Clear();
            *fd = (int)PyLong_AsLong(number);
            return 0;
        }
    }
    return -1;
}

/* --- the type --- */

PyObject *
selectormap_new(struct module_state *state, PyObject *keys)
{
    PyTypeObject *type = state->SelectorMapType;
    SelectorMapObject *self = (SelectorMapObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->keys = Py_NewRef(keys);
    }
    return (PyObject *)self;
}

static int
SelectorMap_tp_traverse(SelectorMapObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->keys);
    return 0;
}

/* No tp_clear: the dict is the selector's, whose tp_clear empties it, and a
 * map without one would need a check in each method. */
static void
SelectorMap_tp_dealloc(SelectorMapObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_XDECREF(self->keys);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* The key of `fileobj`: 1 and a new reference, 0 if it is not registered, -1
 * with an exception. */
static int
find_key(SelectorMapObject *self, PyObject *fileobj, PyObject **key)
{
    struct module_state *state = state_of((PyObject *)self);
    int fd;
    *key = NULL;
    if (state == NULL) {
        return -1;
    }
    int rc = selectormap_find_fd(state, self->keys, fileobj, &fd);
    if (rc != 0) {
        return rc < 0 ? -1 : 0;
    }
    PyObject *number = PyLong_FromLong(fd);
    if (number == NULL) {
        return -1;
    }
    *key = Py_XNewRef(PyDict_GetItemWithError(self->keys, number));
    Py_DECREF(number);
    if (*key != NULL) {
        return 1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

static Py_ssize_t
SelectorMap_mp_length(SelectorMapObject *self)
{
    return PyDict_GET_SIZE(self->keys);
}

static PyObject *
SelectorMap_mp_subscript(SelectorMapObject *self, PyObject *fileobj)
{
    PyObject *key;
    int rc = find_key(self, fileobj, &key);
    return rc == 0 ? selectormap_not_registered(fileobj) : key;
}

static int
SelectorMap_sq_contains(SelectorMapObject *self, PyObject *fileobj)
{
    PyObject *key;
    int rc = find_key(self, fileobj, &key);
    Py_XDECREF(key);
    return rc;
}

static PyObject *
SelectorMap_tp_iter(SelectorMapObject *self)
{
    return PyObject_GetIter(self->keys);
}

static PyObject *
SelectorMap_tp_repr(SelectorMapObject *self)
{
    return PyUnicode_FromFormat("<SelectorMap %R>", self->keys);
}

/* dict(mapping.items()), if it is a Mapping; else NULL without an exception.
 * New reference. */
static PyObject *
items_of_mapping(struct module_state *state, PyObject *other)
{
    int is_mapping = PyObject_IsInstance(other, state->Mapping);
    if (is_mapping <= 0) {
        return NULL;
    }
    PyObject *items = PyObject_CallMethod(other, "items", NULL);
    if (items == NULL) {
        return NULL;
    }
    PyObject *dict = PyObject_CallOneArg((PyObject *)&PyDict_Type, items);
    Py_DECREF(items);
    return dict;
}

static PyObject *
SelectorMap_tp_richcompare(SelectorMapObject *self, PyObject *other, int op)
{
    struct module_state *state = state_of((PyObject *)self);
    if (state == NULL) {
        return NULL;
    }
    if (op != Py_EQ && op != Py_NE) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *dict = items_of_mapping(state, other);
    if (dict == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_NotImplemented);
    }
    PyObject *result = PyObject_RichCompare(self->keys, dict, op);
    Py_DECREF(dict);
    return result;
}

PyDoc_STRVAR(SelectorMap_get_doc,
             "get($self, /, fileobj, default=None)\n--\n\n"
             "Return the key of a file object, or default.\n\n"
             "Raises:\n"
             "    ValueError: fileobj is not a file object or descriptor.");

static PyObject *
SelectorMap_get(SelectorMapObject *self, PyObject *const *args,
                Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"fileobj", "default"};
    static const struct args_spec spec = {"get", names, 2, 2, 1};
    PyObject *bound[2], *key;
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0
        || find_key(self, bound[0], &key) < 0)
    {
        return NULL;
    }
    if (key != NULL) {
        return key;
    }
    return Py_NewRef(bound[1] != NULL ? bound[1] : Py_None);
}

/* The views are those of collections.abc: they look up through this map, so
 * that `sock in map.keys()` holds, which a view of the dict would deny. */
static PyObject *
make_view(SelectorMapObject *self, const char *name)
{
    PyObject *type = state_import("collections.abc", name);
    if (type == NULL) {
        return NULL;
    }
    PyObject *view = PyObject_CallOneArg(type, (PyObject *)self);
    Py_DECREF(type);
    return view;
}

PyDoc_STRVAR(SelectorMap_keys_doc,
             "keys($self, /)\n--\n\n"
             "Return a live view of the registered descriptors (int).");

static PyObject *
SelectorMap_keys(SelectorMapObject *self, PyObject *Py_UNUSED(ignored))
{
    return make_view(self, "KeysView");
}

PyDoc_STRVAR(SelectorMap_values_doc,
             "values($self, /)\n--\n\n"
             "Return a live view of the keys (selectors.SelectorKey).");

static PyObject *
SelectorMap_values(SelectorMapObject *self, PyObject *Py_UNUSED(ignored))
{
    return make_view(self, "ValuesView");
}

PyDoc_STRVAR(SelectorMap_items_doc,
             "items($self, /)\n--\n\n"
             "Return a live view of pairs (descriptor, key).");

static PyObject *
SelectorMap_items(SelectorMapObject *self, PyObject *Py_UNUSED(ignored))
{
    return make_view(self, "ItemsView");
}

static PyMethodDef SelectorMap_methods[] = {
    {"get", (PyCFunction)(void (*)(void))SelectorMap_get,
     METH_FASTCALL | METH_KEYWORDS, SelectorMap_get_doc},
    {"keys", (PyCFunction)SelectorMap_keys, METH_NOARGS, SelectorMap_keys_doc},
    {"values", (PyCFunction)SelectorMap_values, METH_NOARGS,
     SelectorMap_values_doc},
    {"items", (PyCFunction)SelectorMap_items, METH_NOARGS,
     SelectorMap_items_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef SelectorMap_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(SelectorMapObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(SelectorMap_doc,
             "What Selector.get_map() returns: a live, read-only Mapping.\n\n"
             "Its keys are descriptors; a lookup takes any file object.");

static PyType_Slot SelectorMap_slots[] = {
    {Py_tp_doc, (void *)SelectorMap_doc},
    {Py_tp_dealloc, SelectorMap_tp_dealloc},
    {Py_tp_traverse, SelectorMap_tp_traverse},
    {Py_tp_repr, SelectorMap_tp_repr},
    {Py_tp_iter, SelectorMap_tp_iter},
    {Py_tp_richcompare, SelectorMap_tp_richcompare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_methods, SelectorMap_methods},
    {Py_tp_members, SelectorMap_members},
    {Py_mp_length, SelectorMap_mp_length},
    {Py_mp_subscript, SelectorMap_mp_subscript},
    {Py_sq_contains, SelectorMap_sq_contains},
    {0, NULL},
};

static PyType_Spec SelectorMap_spec = {
    .name = "pyloop._core.SelectorMap",
    .basicsize = sizeof(SelectorMapObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MAPPING,
    .slots = SelectorMap_slots,
};

/* SelectorKey objects are filled field by field: it must be the namedtuple
 * that it has been since Python 3.4. */
static int
check_key_type(PyObject *type)
{
    if (PyType_Check(type)
        && PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type)
        && ((PyTypeObject *)type)->tp_basicsize == PyTuple_Type.tp_basicsize
        && ((PyTypeObject *)type)->tp_itemsize == PyTuple_Type.tp_itemsize)
    {
        return 0;
    }
    PyErr_Format(PyExc_ImportError,
                 "selectors.SelectorKey is not a plain namedtuple: %R", type);
    return -1;
}

int
selectormap_init(PyObject *module, struct module_state *state)
{
    state->SelectorKey = state_import("selectors", "SelectorKey");
    if (state->SelectorKey == NULL) {
        return -1;
    }
    state->Mapping = state_import("collections.abc", "Mapping");
    if (state->Mapping == NULL || check_key_type(state->SelectorKey) < 0
        || state_add_type(module, &state->SelectorMapType, &SelectorMap_spec,
                          "SelectorMap")
               < 0)
    {
        return -1;
    }
    PyObject *registered = PyObject_CallMethod(state->Mapping, "register", "O",
                                               state->SelectorMapType);
    Py_XDECREF(registered);
    return registered == NULL ? -1 : 0;
}
