/* spawn(): starts a coroutine beside the one that awaits it. */
#include <Python.h>

#include "args.h"
#include "errors.h"
#include "task.h"

static enum op_attempt
spawn_attempt(OpObject *op, PyObject **result)
{
    *result
        = (PyObject *)task_new(op->loop, op->object, op->value, NULL, false);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
}

/* Never armed: it succeeds at once. */
static const struct op_kind op_kind_spawn = {
    .name = "spawn",
    .attempt = spawn_attempt,
};

PyDoc_STRVAR(spawn_doc,
             "spawn(coro, *, name=None)\n--\n\n"
             "Start a coroutine as a task of its own; the caller goes on.\n\n"
             "An exception of the new task does not stop the others: it is "
             "raised where the task is awaited, or reported through the "
             "loop's exception handler.\n\n"
             "Args:\n"
             "    coro: a coroutine or generator that has not started.\n"
             "    name: str, for messages; default Task-N.\n\n"
             "Returns:\n    An awaitable of the Task.\n\n"
             "Raises:\n"
             "    TypeError: not a coroutine or generator.\n"
             "    RuntimeError: it has been started already.\n\n"
             "Example:\n    task = await pyloop.spawn(serve(conn))");

static PyObject *
spawn_spawn(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"coro", "name"};
    static const struct args_spec spec = {"spawn", names, 2, 1, 1};
    struct module_state *state = state_of_module(module);
    PyObject *bound[2];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0
        || task_check_coroutine(state, bound[0], "spawn()") < 0)
    {
        return NULL;
    }
    PyObject *name = bound[1] == Py_None ? NULL : bound[1];
    if (name != NULL && !PyUnicode_Check(name)) {
        errors_bad_type(name, "spawn(): name must be a str");
        return NULL;
    }
    OpObject *op = op_new(state, &op_kind_spawn);
    if (op != NULL) {
        op->object = Py_NewRef(bound[0]);
        op->value = Py_XNewRef(name);
    }
    return (PyObject *)op;
}

static PyMethodDef spawn_functions[] = {
    {"spawn", (PyCFunction)(void (*)(void))spawn_spawn,
     METH_FASTCALL | METH_KEYWORDS, spawn_doc},
    {NULL, NULL, 0, NULL},
};

int
spawn_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, spawn_functions);
}
