/* What differs between CPython 3.11 and 3.14, in one place (what differs in
 * asyncio is in asyncio_compat.c). */
#ifndef PL_SCHED_COMPAT_H
#define PL_SCHED_COMPAT_H

#include <Python.h>
#include <structmember.h>

#include "core/base.h"

/* Declared again, for what the headers do not say: raising is not the straight
 * path, wherever it is done. */
PL_COLD PyObject *PyErr_Format(PyObject *, const char *, ...);
PL_COLD void PyErr_SetString(PyObject *, const char *);
PL_COLD void PyErr_SetNone(PyObject *);
PL_COLD PyObject *PyErr_NoMemory(void);
PL_COLD void PyErr_Clear(void);
PL_COLD void PyErr_WriteUnraisable(PyObject *);

/* Takes the current exception, normalised and with its traceback attached;
 * NULL when there is none.  New reference. */
static inline PyObject *
exception_take(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
#endif
}

/* Makes `exc` (an exception instance) the current exception.  Steals. */
static inline void
exception_put(PyObject *exc)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exc);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(exc)), exc, PyException_GetTraceback(exc));
#endif
}

/* What a weak reference refers to: new reference, or NULL without an
 * exception when it is gone. */
static inline PyObject *
weakref_get(PyObject *ref)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *object;
    return PyWeakref_GetRef(ref, &object) < 0 ? NULL : object;
#else
    PyObject *object = PyWeakref_GET_OBJECT(ref);
    return object != Py_None ? Py_NewRef(object) : NULL;
#endif
}

static inline Py_hash_t
hash_pointer(const void *pointer)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_HashPointer(pointer);
#else
    return _Py_HashPointer(pointer);
#endif
}

/* Thread-local storage that needs no call to be read.  glibc keeps room for a
 * few such words in libraries that are loaded late; others do not. */
#if defined(__GLIBC__)
#define PL_THREAD_LOCAL \
    _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define PL_THREAD_LOCAL _Thread_local
#endif

/* Free lists hide use-after-free from AddressSanitizer: off there. */
#if defined(__SANITIZE_ADDRESS__)
#define PL_FREELISTS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PL_FREELISTS 0
#endif
#endif
#ifndef PL_FREELISTS
#define PL_FREELISTS 1
#endif

/* Makes an object of a free list, whose type it has kept, a new one. */
static inline void
object_revive(PyObject *object, PyTypeObject *type)
{
#if defined(Py_REF_DEBUG) || defined(Py_TRACE_REFS)
    (void)PyObject_Init(object, type); /* which counts it */
#else
    Py_INCREF(type);
    Py_SET_REFCNT(object, 1);
#endif
}

#endif
