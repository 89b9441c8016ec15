/* Handle and TimerHandle: a callback with its arguments and context, as
 * asyncio has them.  A Handle is a runnable. */
#ifndef PL_SCHED_HANDLE_H
#define PL_SCHED_HANDLE_H

#include <Python.h>

#include "loop.h"

/* Arguments that are held inline; more go into a tuple. */
#define PL_HANDLE_INLINE_ARGS 3

typedef struct HandleObject {
    struct runnable head;
    PyObject *weakrefs;
    LoopObject *loop;           /* owned; NULL once cleared */
    PyObject *callback;         /* owned; NULL once cancelled */
    PyObject *context;          /* owned */
    PyObject *source_traceback; /* owned; debug mode only */
    int nargs;                  /* -1: slots[1] is a tuple */
    bool cancelled;
    bool running; /* cancel() leaves the arguments to the one who runs us */
    /* slots[0] is scratch for PY_VECTORCALL_ARGUMENTS_OFFSET, the arguments
     * follow; owned. */
    PyObject *slots[PL_HANDLE_INLINE_ARGS + 1];
} HandleObject;

typedef struct {
    HandleObject base;
    struct loop_timer timer;
    double when;
} TimerHandleObject;

/* A Handle that is not scheduled yet.  context NULL: a copy of the current
 * one.  New reference. */
HandleObject *handle_new(LoopObject *loop, PyObject *callback,
                         PyObject *const *args, Py_ssize_t nargs,
                         PyObject *context);
/* handle_new and push to the ready queue.  New reference. */
HandleObject *handle_call_soon(LoopObject *loop, PyObject *callback,
                               PyObject *const *args, Py_ssize_t nargs,
                               PyObject *context);
/* A TimerHandle, scheduled for deadline_ns; `when` is the same in seconds. */
TimerHandleObject *handle_call_at(LoopObject *loop, int64_t deadline_ns,
                                  double when, PyObject *callback,
                                  PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *context);
void handle_cancel(HandleObject *handle);
/* Calls the callback in its context and reports what it raises.  0, or -1 with
 * an exception that must end the loop. */
int handle_run_once(HandleObject *handle);
/* Drops the callback and its arguments (call-out). */
void handle_clear_call(HandleObject *handle);
/* Frees the object of a Handle whose references, but for the loop, are
 * dropped; or keeps it for reuse. */
void handle_give_back(HandleObject *handle, PyTypeObject *type);
/* Frees the recycled Handles, when the module goes. */
void handle_free_all(struct module_state *state);

/* --- handle_type.c --- */

/* The arguments as a tuple.  New reference. */
PyObject *handle_args(HandleObject *handle);
/* How asyncio writes the callback and its arguments.  New reference. */
PyObject *handle_format_callback(HandleObject *handle);

#endif
