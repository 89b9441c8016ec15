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

static PyObject *
make_enum(PyObject *base, const char *name, PyObject *members, const char *doc)
{
    PyObject *args = Py_BuildValue("(sO)", name, members);
    PyObject *kwargs = Py_BuildValue("{s:s}", "module", "pyloop");
    PyObject *type = NULL;
    if (args != NULL && kwargs != NULL) {
        type = PyObject_Call(base, args, kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    PyObject *text = type != NULL ? PyUnicode_FromString(doc) : NULL;
    if (text == NULL || PyObject_SetAttrString(type, "__doc__", text) < 0) {
        Py_CLEAR(type);
    }
    Py_XDECREF(text);
    return type;
}

static int
make_event(PyObject *module, struct module_state *state)
{
    int rc = -1;
    PyObject *members = PyList_New(0);
    PyObject *doc
        = PyUnicode_FromString("What a task may yield as (event, value).\n\n");
    state->trap_codes = PyDict_New();
    if (members == NULL || doc == NULL || state->trap_codes == NULL) {
        goto done;
    }
    for (int i = 0; i < TRAP_COUNT; i++) {
        PyObject *pair = Py_BuildValue("(si)", trap_table[i].name, i + 1);
        PyObject *code = PyLong_FromLong(i);
        int bad = pair == NULL || code == NULL
                  || PyList_Append(members, pair) < 0
                  || PyDict_SetItemString(state->trap_codes,
                                          trap_table[i].name, code)
                         < 0;
        Py_XDECREF(pair);
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
    const char *text = PyUnicode_AsUTF8(doc);
    if (text == NULL) {
        goto done;
    }
    state->Event = make_enum(state->Enum, "Event", members, text);
    rc = state->Event == NULL
             ? -1
             : PyModule_AddObjectRef(module, "Event", state->Event);
done:
    Py_XDECREF(members);
    Py_XDECREF(doc);
    return rc;
}

int
traps_init(PyObject *module, struct module_state *state)
{
    state->Enum = state_import("enum", "Enum");
    if (state->Enum == NULL) {
        return -1;
    }
    PyObject *str_enum = state_import("enum", "StrEnum");
    int rc = -1;
    if (str_enum != NULL && make_event(module, state) == 0) {
        PyObject *members = Py_BuildValue("[(ss)(ss)]", "TO_READ", "to_read",
                                          "TO_WRITE", "to_write");
        if (members != NULL) {
            state->TaskKind
                = make_enum(str_enum, "TaskType", members,
                            "What a generator task yields beside a socket: "
                            "(TaskType.TO_READ, sock).");
            Py_DECREF(members);
        }
        if (state->TaskKind != NULL) {
            rc = PyModule_AddObjectRef(module, "TaskType", state->TaskKind);
        }
    }
    Py_XDECREF(str_enum);
    return rc;
}
