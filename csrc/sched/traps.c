/* Event and TaskType, made from traps.def. */
#include <Python.h>

#include "traps.h"

#include "compat.h"

static const struct {
    const char *name;
    const char *doc;
} trap_table[TRAP_COUNT] = {
#define TRAP(code, name, doc) {#name, doc},
#include "traps.def"
#undef TRAP
};

int
traps_decode(struct module_state *state, PyObject *event)
{
    if (PyUnicode_Check(event)) {
        /* The generator face; a StrEnum member is a str of its value. */
        if (PyUnicode_CompareWithASCIIString(event, "to_read") == 0
            || PyUnicode_CompareWithASCIIString(event, "read") == 0)
        {
            return TRAP_READ;
        }
        if (PyUnicode_CompareWithASCIIString(event, "to_write") == 0
            || PyUnicode_CompareWithASCIIString(event, "write") == 0)
        {
            return TRAP_WRITE;
        }
    }
    if (!PyType_IsSubtype(Py_TYPE(event), (PyTypeObject *)state->Enum)) {
        return -1;
    }
    /* Name, not identity: a program may bring its own Enum. */
    PyObject *name = PyObject_GetAttr(event, state->str__name_);
    if (name == NULL) {
        return -2;
    }
    PyObject *code = PyDict_GetItemWithError(state->trap_codes, name);
    Py_DECREF(name);
    if (code == NULL) {
        return PyErr_Occurred() ? -2 : -1;
    }
    return (int)PyLong_AsLong(code);
}

/* base(name, members, module="pyloop"): an enum's functional API. */
static PyObject *
make_enum_by_call(PyObject *base, const char *name, PyObject *members)
{
    PyObject *type = NULL;
    PyObject *args = Py_BuildValue("(sO)", name, members);
    PyObject *kwargs = Py_BuildValue("{s:s}", "module", "pyloop");
    if (args != NULL && kwargs != NULL) {
        type = PyObject_Call(base, args, kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return type;
}

/* The same as _simple_enum(base)(type(name, (), members)), which takes two
 * fifths of the time and is how the standard library makes its own. */
static PyObject *
make_enum_simply(PyObject *simple, PyObject *base, const char *name,
                 PyObject *members)
{
    PyObject *type = NULL;
    PyObject *body = PyDict_Copy(members);
    PyObject *module = PyUnicode_FromString("pyloop");
    PyObject *decorate = PyObject_CallOneArg(simple, base);
    if (body != NULL && module != NULL && decorate != NULL
        && PyDict_SetItemString(body, "__module__", module) == 0)
    {
        PyObject *plain = PyObject_CallFunction((PyObject *)&PyType_Type,
                                                "s()O", name, body);
        type = plain != NULL ? PyObject_CallOneArg(decorate, plain) : NULL;
        Py_XDECREF(plain);
    }
    Py_XDECREF(body);
    Py_XDECREF(module);
    Py_XDECREF(decorate);
    return type;
}

/* An enum with the members of a dict {name: value}. */
static PyObject *
make_enum(PyObject *base, const char *name, PyObject *members, PyObject *doc)
{
    PyObject *type;
    PyObject *simple = state_import("enum", "_simple_enum");
    if (simple != NULL) {
        type = make_enum_simply(simple, base, name, members);
        Py_DECREF(simple);
    }
    else if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* it is private, and may go */
        type = make_enum_by_call(base, name, members);
    }
    else {
        return NULL;
    }
    if (type != NULL && PyObject_SetAttrString(type, "__doc__", doc) < 0) {
        Py_CLEAR(type);
    }
    return type;
}

static int
make_event(PyObject *module, struct module_state *state)
{
    int rc = -1;
    PyObject *members = PyDict_New();
    PyObject *doc
        = PyUnicode_FromString("What a task may yield as (event, value).\n\n");
    state->trap_codes = PyDict_New();
    if (members == NULL || doc == NULL || state->trap_codes == NULL) {
        goto done;
    }
    for (int i = 0; i < TRAP_COUNT; i++) {
        PyObject *value = PyLong_FromLong(i + 1);
        PyObject *code = PyLong_FromLong(i);
        int bad
            = value == NULL || code == NULL
              || PyDict_SetItemString(members, trap_table[i].name, value) < 0
              || PyDict_SetItemString(state->trap_codes, trap_table[i].name,
                                      code)
                     < 0;
        Py_XDECREF(value);
        Py_XDECREF(code);
        if (bad) {
            goto done;
        }
        Py_SETREF(doc,
                  PyUnicode_FromFormat("%U%s: %s.\n", doc, trap_table[i].name,
                                       trap_table[i].doc));
        if (doc == NULL) {
            goto done;
        }
    }
    state->Event = make_enum(state->Enum, "Event", members, doc);
    rc = state->Event == NULL
             ? -1
             : PyModule_AddObjectRef(module, "Event", state->Event);
done:
    Py_XDECREF(members);
    Py_XDECREF(doc);
    return rc;
}

static int
make_task_type(PyObject *module, struct module_state *state)
{
    PyObject *base = state_import("enum", "StrEnum");
    PyObject *members = Py_BuildValue("{ssss}", "TO_READ", "to_read",
                                      "TO_WRITE", "to_write");
    PyObject *doc
        = PyUnicode_FromString("What a generator task yields beside a socket: "
                               "(TaskType.TO_READ, sock).");
    if (base != NULL && members != NULL && doc != NULL) {
        state->TaskKind = make_enum(base, "TaskType", members, doc);
    }
    Py_XDECREF(base);
    Py_XDECREF(members);
    Py_XDECREF(doc);
    return state->TaskKind == NULL
               ? -1
               : PyModule_AddObjectRef(module, "TaskType", state->TaskKind);
}

int
traps_init(PyObject *module, struct module_state *state)
{
    state->Enum = state_import("enum", "Enum");
    if (state->Enum == NULL) {
        return -1;
    }
    return make_event(module, state) < 0 ? -1 : make_task_type(module, state);
}
