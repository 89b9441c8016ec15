/* timeout(): a limit on what a block awaits.  asyncio.timeout() is that, since
 * it cancels the current task, whoever's; here its argument is checked as
 * sleep() checks it. */
#include <Python.h>

#include <math.h>

#include "args.h"
#include "core/clock.h"
#include "errors.h"
#include "state.h"

PyDoc_STRVAR(timeout_doc,
             "timeout(seconds)\n--\n\n"
             "Limit what a block awaits: an asynchronous context manager.\n\n"
             "Args:\n"
             "    seconds: a real number (int, float, Fraction ...), not "
             "negative; None: no limit.\n\n"
             "Returns:\n    An asyncio.Timeout.\n\n"
             "Raises:\n"
             "    TimeoutError: On leaving the block, if it was cancelled "
             "because its time was over.\n"
             "    TypeError: seconds is not a real number, nor None.\n"
             "    ValueError: seconds is negative or NaN.\n\n"
             "Example:\n"
             "    async with pyloop.timeout(2.5):\n"
             "        data = await pyloop.recv(conn)");

static PyObject *
timeout_timeout(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"seconds"};
    static const struct args_spec spec = {"timeout", names, 1, 1, 1};
    struct module_state *state = state_of_module(module);
    PyObject *seconds;
    if (args_bind(&spec, args, nargs, kwnames, &seconds) < 0) {
        return NULL;
    }
    if (seconds == Py_None) {
        return PyObject_CallOneArg(state->asyncio_timeout, Py_None);
    }
    int64_t delay_ns;
    if (errors_seconds_to_ns(seconds, "timeout()", &delay_ns) < 0) {
        return NULL;
    }
    PyObject *delay = PyFloat_FromDouble(
        delay_ns == PL_FOREVER ? INFINITY
                               : (double)delay_ns / (double)PL_NS_PER_SEC);
    if (delay == NULL) {
        return NULL;
    }
    PyObject *limit = PyObject_CallOneArg(state->asyncio_timeout, delay);
    Py_DECREF(delay);
    return limit;
}

static PyMethodDef timeout_functions[] = {
    {"timeout", (PyCFunction)(void (*)(void))timeout_timeout,
     METH_FASTCALL | METH_KEYWORDS, timeout_doc},
    {NULL, NULL, 0, NULL},
};

int
timeout_init(PyObject *module, struct module_state *Py_UNUSED(state))
{
    return PyModule_AddFunctions(module, timeout_functions);
}
