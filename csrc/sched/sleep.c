#include <Python.h>

#include "sleep.h"

#include "errors.h"

static enum op_attempt
pause_attempt(OpObject *op, PyObject **result)
{
    if (op->status == OP_NEW) {
        return OP_ATTEMPT_PAUSE;
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

/* Never armed: it pauses, it does not wait. */
static const struct op_kind op_kind_pause = {
    .name = "pause",
    .attempt = pause_attempt,
    .unmetered = true,
    .untracked = true,
};

PyDoc_STRVAR(pause_doc,
             "pause()\n--\n\n"
             "Let every other ready task run first.\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Example:\n    await pyloop.pause()");

static PyObject *
sleep_pause(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)op_new(state_of_module(module), &op_kind_pause);
}

static enum op_attempt
sleep_attempt(OpObject *op, PyObject **result)
{
    if (op->status == OP_NEW) {
        int64_t delay_ns = op->u.sleep.delay_ns;
        if (delay_ns == 0) {
            return OP_ATTEMPT_PAUSE;
        }
        op->u.sleep.delay_ns
            = loop_deadline_ns(clock_monotonic_ns(), delay_ns);
        return OP_ATTEMPT_WAIT;
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static void
sleep_due(PyObject *self, LoopObject *loop)
{
    /* The timer's promise and the op's are two; one push uses one. */
    loop_unpromise(loop);
    op_fire((OpObject *)self, NULL);
    Py_DECREF(self);
}

static int
sleep_arm(OpObject *op)
{
    return loop_timer_start(op->loop, &op->u.sleep.timer, (PyObject *)op,
                            sleep_due, op->u.sleep.delay_ns);
}

static void
sleep_disarm(OpObject *op)
{
    loop_timer_stop(op->loop, &op->u.sleep.timer);
}

static const struct op_kind op_kind_sleep = {
    .name = "sleep",
    .attempt = sleep_attempt,
    .arm = sleep_arm,
    .disarm = sleep_disarm,
    .unmetered = true,
};

OpObject *
sleep_new(struct module_state *state, PyObject *seconds)
{
    int64_t delay_ns;
    if (errors_seconds_to_ns(seconds, "sleep()", &delay_ns) < 0) {
        return NULL;
    }
    OpObject *op = op_new(state, &op_kind_sleep);
    if (op != NULL) {
        loop_timer_init(&op->u.sleep.timer);
        op->u.sleep.delay_ns = delay_ns;
    }
    return op;
}

PyDoc_STRVAR(sleep_doc,
             "sleep(seconds, /)\n--\n\n"
             "Wait for at least so many seconds.\n\n"
             "Args:\n"
             "    seconds: int or float, not negative; 0 is pause(), infinity "
             "waits until cancelled.\n\n"
             "Returns:\n    An awaitable of None.\n\n"
             "Raises:\n"
             "    TypeError: seconds is not a real number.\n"
             "    ValueError: seconds is negative or NaN.\n\n"
             "Example:\n    await pyloop.sleep(0.5)");

static PyObject *
sleep_sleep(PyObject *module, PyObject *seconds)
{
    return (PyObject *)sleep_new(state_of_module(module), seconds);
}

static PyMethodDef sleep_functions[] = {
    {"pause", sleep_pause, METH_NOARGS, pause_doc},
    {"sleep", sleep_sleep, METH_O, sleep_doc},
    {NULL, NULL, 0, NULL},
};

int
sleep_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, sleep_functions);
}
