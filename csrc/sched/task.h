/* pyloop.Task: what run(), spawn() and create_task(generator) make.
 *
 * A lean C object that the loop steps straight from the ready queue, with the
 * interface of asyncio.Task, so that asyncio.timeout, TaskGroup, wait_for and
 * shield work on it and inside it.  How it is stepped is in step.c.
 *
 * Ownership: a live task is on loop->tasks.live, which owns one reference, so
 * that a task which nobody else refers to still runs to its end.  What it
 * waits for owns another one through `waiter` / the callback.  When it ends it
 * leaves the list and drops coroutine, context and loop callbacks. */
#ifndef PL_SCHED_TASK_H
#define PL_SCHED_TASK_H

#include <Python.h>

#include "core/list.h"
#include "loop.h"
#include "op.h"

enum task_status { TASK_PENDING, TASK_FINISHED, TASK_CANCELLED };

typedef struct TaskObject {
    struct runnable head;
    PyObject *weakrefs;
    LoopObject *loop;    /* owned */
    PyObject *coro;      /* owned; coroutine, generator or Operation */
    PyObject *context;   /* owned */
    PyObject *name;      /* owned; NULL until asked for */
    uint64_t number;     /* for the default name */
    PyObject *result;    /* owned; when FINISHED without exception */
    PyObject *exception; /* owned; when FINISHED with one, or CANCELLED */
    PyObject *traceback; /* owned; of exception, as it was when it ended */
    PyObject *cancel_message; /* owned */

    /* What it waits for, owned: an OpObject (ours), or a foreign future.
     * NULL while it is ready or running. */
    PyObject *waiting_on;
    /* Owned: thrown in at the next step. */
    PyObject *pending_exception;
    /* Owned: sent in at the next step; NULL for None. */
    PyObject *pending_value;

    struct list live;    /* in loop->tasks.live */
    struct list joiners; /* armed ops of kind "join", through u.queue.link */
    PyObject *callbacks; /* owned list of Handles, or NULL */

    int n_cancels; /* cancelling() */
    uint8_t status;
    bool must_cancel; /* CancelledError is thrown at the next step */
    bool queued;      /* in the ready queue */
    bool started;
    bool is_root;
    bool waits_foreign; /* waiting_on is a future that is not ours */
    bool trapped; /* waiting_on belongs to us, not to the coroutine: a trap */
    bool in_cancel;     /* task_cancel passes through here */
    bool blocking;      /* `_asyncio_future_blocking` */
    bool log_traceback; /* nobody has seen the exception yet */
    bool log_destroy_pending;
} TaskObject;

/* A task for `coro` (checked: a coroutine or generator that has not started),
 * appended to the ready queue.  name, context may be NULL. */
TaskObject *task_new(LoopObject *loop, PyObject *coro, PyObject *name,
                     PyObject *context, bool is_root);

/* Frees the object of a task whose references are dropped; it may be kept for
 * reuse unless the collector has marked it. */
void task_free(TaskObject *task, bool may_reuse);
void task_free_all(struct module_state *state);

/* 0 if `coro` can become a task; else -1 with TypeError (not a coroutine or
 * generator) or RuntimeError (started, running or finished); `who` names the
 * call. */
int task_check_coroutine(struct module_state *state, PyObject *coro,
                         const char *who);
/* Whether it has not run yet, as far as that can be known. */
bool task_coroutine_is_fresh(struct module_state *state, PyObject *coro);

/* Ends the task; steals nothing.  exc NULL: with `result`. */
void task_finish(TaskObject *task, PyObject *result, PyObject *exc);
/* asyncio's cancel(): true if the task will get a CancelledError. -1: exc. */
int task_cancel(TaskObject *task, PyObject *message);
/* A CancelledError with the message given to cancel().  New reference. */
PyObject *task_make_cancelled(TaskObject *task);
/* Makes it ready; nothing happens if it is already or has ended. */
int task_wake(TaskObject *task);
/* "name: waits for ..." for Deadlock.  New reference. */
PyObject *task_describe(TaskObject *task);

/* step.c: runs one step. */
int task_run(struct runnable *self, LoopObject *loop);
/* The callable that is given to a foreign future; call_soon knows it and
 * queues the task itself. */
PyObject *task_wakeup_new(TaskObject *task);
/* If `callback` is such a callable: queues its task.  1 done, 0 not one, -1
 * exception. */
int task_wakeup_accept(struct module_state *state, PyObject *callback);

/* Cancels a task that waits for an op: a CancelledError is thrown at its
 * next step, come what may.  -1 with an exception. */
int task_commit_cancel(TaskObject *task, PyObject *message);

/* Gives up what the task waits for and makes it ready.  1 if a foreign future
 * took the cancellation and will wake it, 0 if not, -1 with an exception.
 * A task that runs (it cancels itself) or is ready stays as it is. */
int task_stop_waiting(TaskObject *task, PyObject *message);

/* Undoes the wait for an op, if it waits for one.  A trap's ends with that:
 * nobody else can end it, and a channel would count on it for ever. */
void task_undo_wait(TaskObject *task);

static inline TaskObject *
task_of_live(struct list *node)
{
    return PL_CONTAINER_OF(node, TaskObject, live);
}

int task_list_traverse(LoopObject *loop, visitproc visit, void *arg);
/* At close: what is still alive is closed and reported. */
void task_list_release(LoopObject *loop);

/* What the coroutine returned, a new reference, or NULL with what it raised,
 * CancelledError or InvalidStateError. */
PyObject *task_result(TaskObject *task);
/* Its name, a str; made on first use.  New reference. */
PyObject *task_name(TaskObject *task);
/* An op that waits for its end: `await task`.  New reference. */
PyObject *task_join(TaskObject *task);
int task_probe_fresh_state(struct module_state *state);

#endif
