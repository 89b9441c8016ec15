/* Exceptions: made, raised, and put into words. */
#include <Python.h>

#include "errors.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "compat.h"
#include "core/clock.h"
#include "state.h"

/* Characters of a value's repr in a message: that of a Task that waits has
 * 300, and a list may have millions. */
#define PL_MAX_SHOWN 1000

PyObject *
errors_make_errno(int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyObject *what = PyUnicode_FromFormatV(format, args);
    va_end(args);
    if (what == NULL) {
        return NULL;
    }
    if (error < 0) {
        error = -error;
    }
    PyObject *text = PyUnicode_FromFormat("%U: %s", what, strerror(error));
    Py_DECREF(what);
    if (text == NULL) {
        return NULL;
    }
    /* OSError's constructor picks the subclass (ConnectionResetError ...). */
    return PyObject_CallFunction(PyExc_OSError, "iN", error, text);
}

int
errors_raise(PyObject *exc)
{
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
    return -1;
}

int
errors_from_bare_errno(int error)
{
    error = error < 0 ? -error : error;
    PyObject *exc
        = PyObject_CallFunction(PyExc_OSError, "is", error, strerror(error));
    if (exc != NULL) {
        exception_put(exc);
    }
    return -1;
}

PyObject *
errors_show(PyObject *value)
{
    PyObject *text = PyObject_Repr(value); /* call-out */
    if (text == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)
            || PyErr_ExceptionMatches(PyExc_MemoryError))
        {
            return NULL;
        }
        PyErr_Clear();
        return PyUnicode_FromFormat("<%.200s object at %p>",
                                    Py_TYPE(value)->tp_name, value);
    }
    if (PyUnicode_GET_LENGTH(text) <= PL_MAX_SHOWN) {
        return text;
    }
    PyObject *head = PyUnicode_Substring(text, 0, PL_MAX_SHOWN - 3);
    Py_DECREF(text);
    if (head == NULL) {
        return NULL;
    }
    text = PyUnicode_FromFormat("%U...", head);
    Py_DECREF(head);
    return text;
}

/* What is wrong, in the words of `format`, and of which value: with its type
 * where that is what is wrong. */
static void
refuse_value(PyObject *exception, PyObject *value, bool show_type,
             const char *format, va_list args)
{
    PyErr_Clear();
    PyObject *what = PyUnicode_FromFormatV(format, args);
    PyObject *shown = what != NULL ? errors_show(value) : NULL;
    if (shown != NULL && show_type) {
        PyErr_Format(exception, "%U, not %.200s (%U)", what,
                     Py_TYPE(value)->tp_name, shown);
    }
    else if (shown != NULL) {
        PyErr_Format(exception, "%U %U", what, shown);
    }
    Py_XDECREF(shown);
    Py_XDECREF(what);
}

void
errors_bad_type(PyObject *value, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    refuse_value(PyExc_TypeError, value, true, format, args);
    va_end(args);
}

void
errors_bad_value(PyObject *exception, PyObject *value, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    refuse_value(exception, value, false, format, args);
    va_end(args);
}

void
errors_stop_iteration(PyObject *value)
{
    PyObject *exc = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (exc != NULL) {
        exception_put(exc);
    }
}

void
errors_return_from_await(struct module_state *state, PyObject *value)
{
    PyStopIterationObject *exc
        = (PyStopIterationObject *)state->stop_iteration;
    if (PL_UNLIKELY(exc == NULL || Py_REFCNT(exc) != 1
                    || exc->traceback != NULL || exc->context != NULL))
    {
        /* Somebody who drives coroutines by hand has kept it or let it
         * travel: it is theirs now. */
        exc = (PyStopIterationObject *)PyObject_CallNoArgs(
            PyExc_StopIteration);
        if (exc == NULL) {
            return;
        }
        Py_XSETREF(state->stop_iteration, (PyObject *)exc);
    }
    PyObject *former = exc->value;
    exc->value = Py_NewRef(value);
    state->stop_iteration_is_full = true;
    Py_XDECREF(former); /* None, but for nested steps */
    exception_put(Py_NewRef((PyObject *)exc));
}

void
errors_empty_stop_iteration(struct module_state *state)
{
    state->stop_iteration_is_full = false;
    PyStopIterationObject *exc
        = (PyStopIterationObject *)state->stop_iteration;
    if (exc != NULL) {
        PyObject *former = exc->value;
        exc->value = Py_NewRef(Py_None);
        Py_XDECREF(former); /* call-out */
    }
}

int
errors_ends_loop(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
           || PyErr_ExceptionMatches(PyExc_SystemExit);
}

void
errors_want_writable(const char *function, PyObject *argument)
{
    if (PyErr_ExceptionMatches(PyExc_BufferError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError,
                     "%s() argument 1 must be read-write bytes-like object, "
                     "not %.200s",
                     function, Py_TYPE(argument)->tp_name);
    }
}

int
errors_seconds_to_ns(PyObject *seconds, const char *who, int64_t *out_ns)
{
    if (PyLong_Check(seconds)) {
        int overflow; /* and whole is -1, whichever way */
        long long whole = PyLong_AsLongLongAndOverflow(seconds, &overflow);
        if (overflow < 0 || (overflow == 0 && whole < 0)) {
            goto negative;
        }
        if (overflow > 0 || whole > PL_FOREVER / PL_NS_PER_SEC - 1) {
            *out_ns = PL_FOREVER;
        }
        else {
            *out_ns = whole * PL_NS_PER_SEC;
        }
        return 0;
    }
    double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear(); /* a Fraction, or an __index__, beyond every float */
        int is_negative = PyObject_RichCompareBool(seconds, Py_False, Py_LT);
        value = is_negative > 0 ? -INFINITY : INFINITY;
        if (is_negative < 0) {
            return -1;
        }
    }
    else if (value == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            errors_bad_type(seconds, "%s: seconds must be a real number", who);
        }
        return -1;
    }
    if (isnan(value)) {
        PyErr_Format(PyExc_ValueError, "%s: seconds must be a number, not NaN",
                     who);
        return -1;
    }
    if (value < 0) {
        goto negative;
    }
    double ns = ceil(value * (double)PL_NS_PER_SEC);
    /* 2^62 ns are 146 years. */
    *out_ns = ns < 4611686018427387904.0 ? (int64_t)ns : PL_FOREVER;
    return 0;

negative:
    errors_bad_value(PyExc_ValueError, seconds,
                     "%s: seconds must not be negative, got", who);
    return -1;
}

int
errors_init(PyObject *module, struct module_state *state)
{
    state->Deadlock = PyErr_NewExceptionWithDoc(
        "pyloop.Deadlock",
        "run() found that its coroutines wait for something that can never "
        "come.\n\nThe message lists who waits where.",
        PyExc_RuntimeError, NULL);
    if (PyModule_AddObjectRef(module, "Deadlock", state->Deadlock) < 0) {
        return -1;
    }
    state->ChannelClosed = PyErr_NewExceptionWithDoc(
        "pyloop.ChannelClosed",
        "The channel was closed: nothing can be sent any more, and what was "
        "sent has been received.",
        PyExc_Exception, NULL);
    if (PyModule_AddObjectRef(module, "ChannelClosed", state->ChannelClosed)
        < 0)
    {
        return -1;
    }
    state->LineTooLong = PyErr_NewExceptionWithDoc(
        "pyloop.LineTooLong",
        "lines() met a line longer than max_line bytes.\n\nThe rest of that "
        "line is skipped; the next line can be asked for.",
        PyExc_ValueError, NULL);
    return PyModule_AddObjectRef(module, "LineTooLong", state->LineTooLong);
}
