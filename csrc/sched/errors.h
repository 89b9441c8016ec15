/* The one place where -errno becomes an OSError, and the wordings that more
 * than one file needs. */
#ifndef PL_SCHED_ERRORS_H
#define PL_SCHED_ERRORS_H

#include <Python.h>

#include <errno.h>

#include "compat.h"
#include "state.h"

/* Builds the OSError subclass of `error` (positive or negative errno), with
 * "<what>: <strerror>" as its text; `what`, a printf of the format, names the
 * operation and the value.  New reference, or NULL with another exception. */
PL_COLD PyObject *errors_make_errno(int error, const char *format, ...);
/* Raises `exc` (stolen), unless it is NULL because another was raised
 * already.  Returns -1. */
PL_COLD int errors_raise(PyObject *exc);
/* errors_from_errno(error, format, ...) builds and raises it.  -1. */
#define errors_from_errno(error, ...) \
    errors_raise(errors_make_errno((error), __VA_ARGS__))
/* The same for what a function of core returned: there -ENOMEM is mostly the
 * allocator's word, not the kernel's, and becomes MemoryError. */
#define errors_from_core(rc, ...) \
    errors_raise((rc) == -ENOMEM ? PyErr_NoMemory() \
                                 : errors_make_errno((rc), __VA_ARGS__))
/* errors_from_errno for functions that return objects: NULL. */
#define errors_null(error, ...) \
    (errors_from_errno((error), __VA_ARGS__), (PyObject *)NULL)
/* Raises it with the bare text of the system, as asyncio's own are.  -1. */
PL_COLD int errors_from_bare_errno(int error);

/* What a message says of a value that a user gave: its repr, shortened where
 * it is long; just the type where repr() raises an Exception, which must not
 * stand in for the error that the message is about.  New reference, or NULL
 * with MemoryError or what is no Exception. */
PL_COLD PyObject *errors_show(PyObject *value);
/* Raises TypeError("<format>, not <type> (<value>)"), in place of the current
 * exception if there is one. */
PL_COLD void errors_bad_type(PyObject *value, const char *format, ...);
/* Raises exception("<format> <value>"), likewise. */
PL_COLD void errors_bad_value(PyObject *exception, PyObject *value,
                              const char *format, ...);

/* Sets StopIteration(value).  Borrows value. */
void errors_stop_iteration(PyObject *value);
/* The same for an interpreter that takes the value at once and drops the
 * exception (an await, on 3.12 and later): one instance is used again and
 * again.  It holds on to the value until errors_empty_stop_iteration, which
 * the loop calls after each step. */
void errors_return_from_await(struct module_state *state, PyObject *value);
void errors_empty_stop_iteration(struct module_state *state);

/* True (1) if the current exception must end the loop: KeyboardInterrupt or
 * SystemExit. */
PL_COLD int errors_ends_loop(void);

/* Turns a BufferError into the TypeError of socket.socket's method `function`
 * for a first argument that cannot be received into. */
PL_COLD void errors_want_writable(const char *function, PyObject *argument);

/* Seconds given by a user -> nanoseconds.  Rejects what is not a real number,
 * NaN and negative values, naming `who` and the value; infinity and what does
 * not fit become PL_FOREVER.  Rounds up: a wait is never shorter than asked.
 * 0, or -1 with TypeError or ValueError. */
int errors_seconds_to_ns(PyObject *seconds, const char *who, int64_t *out_ns);

#endif
