/* What an op is called, in messages, in its repr and by asyncio. */
#include <Python.h>

#include "op.h"

#include "loop.h"
#include "state.h"

PyObject *
op_describe(OpObject *op)
{
    if (op->fd >= 0) {
        return PyUnicode_FromFormat("%s on descriptor %d", op->kind->name,
                                    op->fd);
    }
    if (op->object == NULL) {
        return PyUnicode_FromString(op->kind->name);
    }
    if (op->loop != NULL && Py_IS_TYPE(op->object, op->loop->state->TaskType))
    {
        /* By name: its repr would describe what it waits for, and so on. */
        PyObject *name = PyObject_CallMethod(op->object, "get_name", NULL);
        PyObject *text
            = name != NULL
                  ? PyUnicode_FromFormat("%s on task %R", op->kind->name, name)
                  : NULL;
        Py_XDECREF(name);
        return text;
    }
    return PyUnicode_FromFormat("%s on %R", op->kind->name, op->object);
}

PyObject *
op_repr(PyObject *self)
{
    OpObject *op = (OpObject *)self;
    static const char *const status[]
        = {"new", "waiting", "waiting", "ready", "done"};
    PyObject *what = op_describe(op);
    if (what == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("<pyloop operation %U (%s)>", what,
                                          status[op->status]);
    Py_DECREF(what);
    return text;
}

/* asyncio.Task shows a coroutine by its name. */
PyObject *
op_get_name(PyObject *self, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((OpObject *)self)->kind->name);
}
