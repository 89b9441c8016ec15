/* Signal handlers as callbacks of the loop.  Installing and restoring the
 * process's handlers is pyloop/_loop.py's. */
#include <Python.h>

#include "methods.h"

#include "sched/handle.h"

const char Loop__add_signal_doc[] = PyDoc_STR(
             "_add_signal($self, signum, callback, /, *args)\n--\n\n"
             "Schedule callback(*args) whenever the signal comes; return its "
             "Handle.");

PyObject *
Loop__add_signal(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {NULL, NULL};
    static const struct args_spec spec
        = {"add_signal_handler", names, 2, 2, 2};
    struct loopcall call;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, &spec, args, nargs, kwnames) < 0)
    {
        return NULL;
    }
    if (self->signals.handlers == NULL) {
        self->signals.handlers = PyDict_New();
        if (self->signals.handlers == NULL) {
            return NULL;
        }
    }
    HandleObject *handle
        = handle_new(self, call.callback, call.args, call.nargs, call.context);
    if (handle == NULL) {
        return NULL;
    }
    /* Asked again: the collector may have run, and a handler is dropped. */
    int rc = loop_check_usable(self);
    if (rc == 0) {
        PyObject *handlers = Py_NewRef(self->signals.handlers);
        rc = PyDict_SetItem(handlers, args[0],
                            (PyObject *)handle); /* call-out */
        Py_DECREF(handlers);
    }
    if (rc < 0 || loop_check_usable(self) < 0 || loop_signals_enter(self) < 0)
    {
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

const char Loop__remove_signal_doc[]
    = PyDoc_STR(
             "_remove_signal($self, signum, /)\n--\n\n"
             "Forget the signal's callback; return whether there was one.");

PyObject *
Loop__remove_signal(LoopObject *self, PyObject *signum)
{
    if (self->signals.handlers == NULL) {
        Py_RETURN_FALSE;
    }
    PyObject *handle = PyDict_GetItemWithError(self->signals.handlers, signum);
    if (handle == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    }
    Py_INCREF(handle);
    int rc = PyDict_DelItem(self->signals.handlers, signum);
    handle_cancel((HandleObject *)handle);
    Py_DECREF(handle); /* call-out: what is dropped may close the loop */
    if (rc < 0) {
        return NULL;
    }
    if (self->signals.handlers != NULL
        && PyDict_GET_SIZE(self->signals.handlers) == 0
        && !loop_is_running(self))
    {
        loop_signals_leave(self);
    }
    Py_RETURN_TRUE;
}
