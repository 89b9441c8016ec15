/* What the loop holds without knowing what it is: a runnable (Task, Handle) in
 * the ready queue, a waiter (an awaitable) at a descriptor. */
#ifndef PL_SCHED_RUNNABLE_H
#define PL_SCHED_RUNNABLE_H

#include <Python.h>

struct LoopObject;
struct runnable;

/* Runs `self` once; the caller holds a reference to both.  0, or -1 with an
 * exception that must end the loop (KeyboardInterrupt, SystemExit, an internal
 * error): every other exception is the runnable's own to store or report. */
typedef int (*runnable_fn)(struct runnable *self, struct LoopObject *loop);

struct runnable {
    PyObject_HEAD
    runnable_fn run;
};

struct waiter;

/* What `self` waited for has happened (error 0), or never will (-errno).  The
 * registration is gone already; the caller holds a reference. */
typedef void (*waiter_fn)(struct waiter *self, struct LoopObject *loop,
                          int error);

struct waiter {
    PyObject_HEAD
    waiter_fn fire;
};

#endif
