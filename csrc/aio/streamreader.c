/* asyncio's streams: what StreamReaderProtocol.data_received() and the
 * StreamReader's feed_data() do in four frames of Python, for objects of
 * exactly these types whose methods are still asyncio's own.
 *
 * They are two thirds of what a streams server spends between the packet's
 * arrival and the wake-up of whoever reads it.  Only the usual case is here:
 * bytes for a reader that is open and has room.  Anything else (the end was
 * fed, the reader is full and has to pause us, an attribute is not what it is
 * in CPython 3.11 to 3.14) is left to the methods themselves, before anything
 * was changed. */
#include <Python.h>

#include "stream.h"

#include <string.h>

#include "sched/compat.h"

bool
stream_protocol_feeds_reader(struct module_state *state, PyObject *protocol)
{
    return Py_IS_TYPE(protocol, (PyTypeObject *)state->StreamReaderProtocol);
}

/* Whether obj.name is `function`, bound to obj: neither the class nor the
 * object has got another one, or that of another object.  -1 with an
 * exception. */
static int
has_method(PyObject *obj, PyObject *name, PyObject *function)
{
    PyObject *method = PyObject_GetAttr(obj, name);
    if (method == NULL) {
        return -1;
    }
    int rc = PyMethod_Check(method)
             && PyMethod_GET_FUNCTION(method) == function
             && PyMethod_GET_SELF(method) == obj;
    Py_DECREF(method);
    return rc;
}

/* The reader that the protocol feeds: new reference; NULL without an exception
 * if it is gone or not one whose methods we know. */
static PyObject *
find_reader(struct module_state *state, PyObject *protocol)
{
    int rc
        = has_method(protocol, state->str_data_received, state->data_received);
    if (rc <= 0) {
        return NULL;
    }
    PyObject *ref = PyObject_GetAttr(protocol, state->str__stream_reader_wr);
    if (ref == NULL) {
        return NULL;
    }
    PyObject *reader = PyWeakref_CheckRefExact(ref) ? weakref_get(ref) : NULL;
    Py_DECREF(ref);
    if (reader != NULL
        && (!Py_IS_TYPE(reader, (PyTypeObject *)state->StreamReader)
            || has_method(reader, state->str_feed_data, state->feed_data)
                   <= 0))
    {
        Py_CLEAR(reader);
    }
    return reader;
}

/* Whether the reader can hold `size` bytes without pausing its transport.  -1
 * with an exception. */
static int
has_room(struct module_state *state, PyObject *reader, Py_ssize_t size)
{
    PyObject *limit = PyObject_GetAttr(reader, state->str__limit);
    if (limit == NULL) {
        return -1;
    }
    Py_ssize_t bytes = PyLong_CheckExact(limit) ? PyLong_AsSsize_t(limit) : -1;
    Py_DECREF(limit);
    return PyErr_Occurred() ? -1 : bytes >= 0 && (size + 1) / 2 <= bytes;
}

/* The reader's buffer: new reference, if `n` bytes may simply be appended;
 * else NULL, perhaps with an exception. */
static PyObject *
find_buffer(struct module_state *state, PyObject *reader, Py_ssize_t n)
{
    PyObject *eof = PyObject_GetAttr(reader, state->str__eof);
    Py_XDECREF(eof);
    if (eof != Py_False) {
        return NULL;
    }
    PyObject *buffer = PyObject_GetAttr(reader, state->str__buffer);
    if (buffer != NULL
        && (!PyByteArray_CheckExact(buffer)
            || has_room(state, reader, PyByteArray_GET_SIZE(buffer) + n) <= 0))
    {
        Py_CLEAR(buffer);
    }
    return buffer;
}

/* Whether the current exception comes from a waiter that was cancelled; then
 * it is cleared.  -1 with an exception. */
static int
was_cancelled(struct module_state *state, PyObject *waiter)
{
    if (!PyErr_ExceptionMatches(state->InvalidStateError)) {
        return 0;
    }
    PyObject *exc = exception_take();
    PyObject *res = PyObject_CallMethodNoArgs(waiter, state->str_cancelled);
    int rc = res != NULL ? PyObject_IsTrue(res) : -1;
    Py_XDECREF(res);
    if (rc != 0) {
        Py_DECREF(exc);
    }
    else {
        exception_put(exc);
    }
    return rc;
}

/* As StreamReader._wakeup_waiter(), which asks first whether it is cancelled;
 * few are.  -1 with an exception. */
static int
wake_reader(struct module_state *state, PyObject *reader)
{
    PyObject *waiter = PyObject_GetAttr(reader, state->str__waiter);
    if (waiter == NULL || waiter == Py_None) {
        Py_XDECREF(waiter);
        return waiter == NULL ? -1 : 0;
    }
    int rc = PyObject_SetAttr(reader, state->str__waiter, Py_None);
    if (rc == 0) {
        PyObject *res = PyObject_CallMethodOneArg(
            waiter, state->str_set_result, Py_None); /* call-out */
        Py_XDECREF(res);
        rc = res != NULL || was_cancelled(state, waiter) > 0 ? 0 : -1;
    }
    Py_DECREF(waiter); /* call-out */
    return rc;
}

int
stream_feed_reader(struct module_state *state, PyObject *protocol,
                   const char *data, Py_ssize_t n)
{
    PyObject *buffer = NULL;
    PyObject *reader = find_reader(state, protocol);
    if (reader == NULL || (buffer = find_buffer(state, reader, n)) == NULL) {
        Py_XDECREF(reader);
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError))
        {
            return -1;
        }
        PyErr_Clear(); /* the methods say it in their own words */
        return 0;
    }
    Py_ssize_t length = PyByteArray_GET_SIZE(buffer);
    int rc = PyByteArray_Resize(buffer, length + n);
    if (rc == 0) {
        memcpy(PyByteArray_AS_STRING(buffer) + length, data, (size_t)n);
        rc = wake_reader(state, reader);
    }
    Py_DECREF(buffer);
    Py_DECREF(reader); /* call-out */
    return rc < 0 ? -1 : 1;
}
