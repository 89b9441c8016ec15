/* The extension module pyloop._core: its state and the list of its parts. */
#include <Python.h>

#include <stddef.h>

#include "sched/handle.h"
#include "sched/op.h"
#include "sched/state.h"
#include "sched/task.h"

PyObject *
state_import(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *object
        = module != NULL ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return object;
}

PyObject *
state_import_once(PyObject **slot, const char *module_name, const char *name)
{
    if (*slot == NULL) {
        PyObject *object = state_import(module_name, name); /* call-out */
        Py_XSETREF(*slot, object);
    }
    return *slot;
}

int
state_add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
               const char *name)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (*slot == NULL) {
        return -1;
    }
    return name == NULL
               ? 0
               : PyModule_AddObjectRef(module, name, (PyObject *)*slot);
}

static int
intern_strings(struct module_state *state)
{
#define X(name) \
    state->str_##name = PyUnicode_InternFromString(#name); \
    if (state->str_##name == NULL) { \
        return -1; \
    }
    PL_STATE_STRINGS(X)
#undef X
    state->kwnames_context = PyTuple_Pack(1, state->str_context);
    state->kwnames_loop = PyTuple_Pack(1, state->str_loop);
    state->kwnames_msg = PyTuple_Pack(1, state->str_msg);
    state->kwnames_hooks
        = PyTuple_Pack(2, state->str_firstiter, state->str_finalizer);
    return state->kwnames_context == NULL || state->kwnames_loop == NULL
                   || state->kwnames_msg == NULL
                   || state->kwnames_hooks == NULL
               ? -1
               : 0;
}

/* In order: a part may use what those before it have set up. */
static int (*const parts[])(PyObject *, struct module_state *) = {
    asyncio_compat_init, errors_init,    traps_init,   sockfd_init,
    handle_init,         op_init,        task_init,    step_init,
    spawn_init,          sleep_init,     timeout_init, ioop_recv_init,
    ioop_send_init,      ioop_conn_init, channel_init, lines_init,
    selectormap_init,    selector_init,  stream_init,  dgram_init,
    server_init,         eventloop_init,
};

static int
module_exec(PyObject *module)
{
    struct module_state *state = state_of_module(module);
    if (intern_strings(state) < 0) {
        return -1;
    }
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i](module, state) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = state_of_module(module);
#define X(name) Py_VISIT(state->name);
    PL_STATE_TYPES(X)
    PL_STATE_OBJECTS(X)
#undef X
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct module_state *state = state_of_module(module);
#define X(name) Py_CLEAR(state->name);
    PL_STATE_TYPES(X)
    PL_STATE_OBJECTS(X)
#undef X
#define X(name) Py_CLEAR(state->str_##name);
    PL_STATE_STRINGS(X)
#undef X
    Py_CLEAR(state->kwnames_context);
    Py_CLEAR(state->kwnames_loop);
    Py_CLEAR(state->kwnames_msg);
    Py_CLEAR(state->kwnames_hooks);
    handle_free_all(state);
    op_free_all(state);
    task_free_all(state);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

PyDoc_STRVAR(module_doc, "The C core of pyloop; import pyloop instead.");

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    /* What is not in the module's state: which loop a thread runs (its own),
     * and how often the process has forked (written with one thread left). */
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef pl_module_def = {
    PyModuleDef_HEAD_INIT,   .m_name = "pyloop._core",
    .m_doc = module_doc,     .m_size = sizeof(struct module_state),
    .m_slots = module_slots, .m_traverse = module_traverse,
    .m_clear = module_clear, .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&pl_module_def);
}
