/* call_soon(), call_soon_threadsafe(), call_later(), call_at(). */
#include <Python.h>

#include "methods.h"

#include <math.h>
#include <string.h>

#include "sched/handle.h"
#include "sched/task.h"

/* Whether that is the name "context".  The one that asyncio's tasks pass is
 * not interned. */
static inline bool
is_context(PyObject *name)
{
    static const char text[] = "context";
    return PyUnicode_IS_COMPACT_ASCII(name)
           && PyUnicode_GET_LENGTH(name) == sizeof(text) - 1
           && memcmp(PyUnicode_1BYTE_DATA(name), text, sizeof(text) - 1) == 0;
}

int
loopcall_parse(struct loopcall *call, const struct args_spec *spec,
               PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int n = spec->n_positional;
    call->args = args + n;
    call->nargs = nargs > n ? nargs - n : 0;
    if (PL_LIKELY(nargs >= n)) {
        call->first = args[0];
        call->callback = args[n - 1];
        call->context = NULL;
        if (kwnames == NULL) {
            return 0;
        }
        /* As asyncio's tasks do at each of their steps. */
        if (PyTuple_GET_SIZE(kwnames) == 1 && spec->n_params > n
            && is_context(PyTuple_GET_ITEM(kwnames, 0)))
        {
            call->context = args[nargs];
            return 0;
        }
    }
    PyObject *bound[3];
    if (args_bind_apart(spec, args, nargs < n ? nargs : n, args + nargs,
                        kwnames, bound)
        < 0)
    {
        return -1;
    }
    call->first = bound[0];
    call->callback = bound[n - 1];
    call->context = spec->n_params > n ? bound[n] : NULL;
    return 0;
}

/* asyncio's checks in debug mode: the right thread, a callback that can be
 * called. */
static int
debug_checks(LoopObject *self, PyObject *callback, const char *method,
             bool any_thread)
{
    if (!any_thread) {
        PyObject *res = PyObject_CallMethodNoArgs(
            (PyObject *)self, self->state->str__check_thread);
        Py_XDECREF(res);
        if (res == NULL) {
            return -1;
        }
    }
    PyObject *name = PyUnicode_FromString(method);
    if (name == NULL) {
        return -1;
    }
    PyObject *res = PyObject_CallMethodObjArgs(
        (PyObject *)self, self->state->str__check_callback, callback, name,
        NULL);
    Py_DECREF(name);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

const char Loop_call_soon_doc[]
    = PyDoc_STR(
             "call_soon($self, /, callback, *args, context=None)\n--\n\n"
             "Call callback(*args) in the next turn of the loop.\n\n"
             "Returns:\n    A Handle, which can be cancelled.");

PyObject *
Loop_call_soon(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"callback", "context"};
    static const struct args_spec spec = {"call_soon", names, 2, 1, 1};
    struct loopcall call;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, &spec, args, nargs, kwnames) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_soon", false) < 0))
    {
        return NULL;
    }
    /* A native task that waits for an asyncio future is queued itself: no
     * Handle. */
    int taken = task_wakeup_accept(self->state, call.callback);
    if (taken != 0) {
        return taken < 0 ? NULL : Py_NewRef(Py_None);
    }
    return (PyObject *)handle_call_soon(self, call.callback, call.args,
                                        call.nargs, call.context);
}

const char Loop_call_soon_threadsafe_doc[] = PyDoc_STR(
             "call_soon_threadsafe($self, /, callback, *args, context=None)\n"
             "--\n\n"
             "call_soon() for other threads: wakes the loop if it sleeps.");

PyObject *
Loop_call_soon_threadsafe(LoopObject *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"callback", "context"};
    static const struct args_spec spec
        = {"call_soon_threadsafe", names, 2, 1, 1};
    struct loopcall call;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, &spec, args, nargs, kwnames) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_soon_threadsafe", true)
                   < 0))
    {
        return NULL;
    }
    HandleObject *handle = handle_call_soon(self, call.callback, call.args,
                                            call.nargs, call.context);
    if (handle != NULL) {
        loop_wake(self);
    }
    return (PyObject *)handle;
}

/* Seconds -> nanoseconds, rounded up (never early), saturating. */
static int64_t
ceil_ns(double seconds)
{
    double ns = ceil(seconds * (double)PL_NS_PER_SEC);
    if (!(ns < 9.2e18)) {
        return PL_FOREVER;
    }
    return ns > -9.2e18 ? (int64_t)ns : INT64_MIN;
}

static int
parse_seconds(PyObject *seconds, const char *what, double *out)
{
    if (seconds == Py_None) {
        PyErr_Format(PyExc_TypeError, "%s %s be None", what,
                     what[0] == 'd' ? "must not" : "cannot");
        return -1;
    }
    *out = PyFloat_AsDouble(seconds);
    return *out == -1.0 && PyErr_Occurred() ? -1 : 0;
}

const char Loop_call_later_doc[] = PyDoc_STR(
             "call_later($self, /, delay, callback, *args, context=None)\n"
             "--\n\n"
             "Call callback(*args) after `delay` seconds, never earlier.\n\n"
             "Returns:\n    A TimerHandle, which can be cancelled.");

PyObject *
Loop_call_later(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"delay", "callback", "context"};
    static const struct args_spec spec = {"call_later", names, 3, 2, 2};
    struct loopcall call;
    double delay;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, &spec, args, nargs, kwnames) < 0
        || parse_seconds(call.first, "delay", &delay) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_at", false) < 0))
    {
        return NULL;
    }
    int64_t now_ns = clock_monotonic_ns();
    double when = (double)now_ns / (double)PL_NS_PER_SEC + delay;
    int64_t delay_ns = ceil_ns(delay);
    int64_t deadline_ns
        = delay_ns > 0 ? loop_deadline_ns(now_ns, delay_ns) : now_ns;
    return (PyObject *)handle_call_at(self, deadline_ns, when, call.callback,
                                      call.args, call.nargs, call.context);
}

const char Loop_call_at_doc[] = PyDoc_STR(
             "call_at($self, /, when, callback, *args, context=None)\n--\n\n"
             "Call callback(*args) at the loop time `when`, in seconds, never "
             "earlier.\n\n"
             "Returns:\n    A TimerHandle, which can be cancelled.");

PyObject *
Loop_call_at(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"when", "callback", "context"};
    static const struct args_spec spec = {"call_at", names, 3, 2, 2};
    struct loopcall call;
    double when;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, &spec, args, nargs, kwnames) < 0
        || parse_seconds(call.first, "when", &when) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_at", false) < 0))
    {
        return NULL;
    }
    return (PyObject *)handle_call_at(self, ceil_ns(when), when, call.callback,
                                      call.args, call.nargs, call.context);
}
