/* Awaitables: what recv(), sleep(), Channel.send() ... return.
 *
 * One C type serves every kind of operation; a `struct op_kind` says how it
 * is tried, armed and undone.  The life of an op:
 *
 *   NEW --attempt--> DONE                     it succeeded without waiting
 *   NEW --attempt--> YIELDED --arm--> ARMED --fire--> FIRED --attempt--> ...
 *
 * An op that must wait yields *itself*.  Whoever drives the coroutine arms
 * it: step.c recognises the type; an asyncio.Task sees a future
 * (`_asyncio_future_blocking` is true while YIELDED) and calls
 * add_done_callback.  So an op works in either kind of task without asking
 * which it is in.
 *
 * The operation itself (the system call, taking a value from a channel) is
 * made by `attempt`, in the step of the task that gets the result: a task
 * that is cancelled between "ready" and its next step has taken nothing.
 *
 * Ownership: while ARMED, whatever will fire the op (watch, timer heap,
 * channel queue, task) owns a reference to it, and `waiter` owns one to the
 * runnable that is pushed when it fires. */
#ifndef PL_SCHED_OP_H
#define PL_SCHED_OP_H

#include <Python.h>

#include "core/list.h"
#include "loop.h"

enum op_status { OP_NEW, OP_YIELDED, OP_ARMED, OP_FIRED, OP_DONE };

enum op_attempt {
    OP_ATTEMPT_ERROR = -1,
    OP_ATTEMPT_DONE,
    OP_ATTEMPT_WAIT,
    OP_ATTEMPT_PAUSE, /* go to the end of the ready queue, then try again */
};

typedef struct OpObject OpObject;

struct op_kind {
    const char *name; /* of the public function, for messages */
    /* Tries to finish: DONE with a new reference in *result, WAIT, PAUSE, or
     * ERROR with an exception.  op->loop is set; op->status is NEW the first
     * time and FIRED after a wait. */
    enum op_attempt (*attempt)(OpObject *op, PyObject **result);
    /* Arranges that op_fire is called, once.  0, or -1 with an exception. */
    int (*arm)(OpObject *op);
    /* Undoes arm before it fired. */
    void (*disarm)(OpObject *op);
    /* Passes a cancellation on to what is waited for, which then fires the op:
     * 1 done, 0 not possible (any more), -1 exception.  May be NULL: the wait
     * is given up. */
    int (*cancel)(OpObject *op, PyObject *message);
    /* Drops what the operation still holds; called once when it is DONE or
     * given up.  May be NULL. */
    void (*clear)(OpObject *op);
    /* Visits what the operation holds in its union.  May be NULL. */
    int (*traverse)(OpObject *op, visitproc visit, void *arg);
    /* Free of charge for the step budget (sleep: it waits anyway). */
    bool unmetered;
    /* Waits to read, and keeps PL_HINT_DRAINED of its watch. */
    bool drains;
    /* Holds no reference, so that the collector need not know it. */
    bool untracked;
};

struct OpObject {
    struct waiter head;
    PyObject *weakrefs;
    const struct op_kind *kind;
    LoopObject *loop;        /* owned; NULL until first driven */
    struct runnable *waiter; /* owned; what is pushed when it fires */
    PyObject *error;         /* owned; raised at the next resumption */
    PyObject *object;        /* owned; socket, channel, task, Lines ... */
    PyObject *value;         /* owned; the kind's own */
    uint8_t status;
    uint8_t blocking;   /* `_asyncio_future_blocking` */
    uint8_t cancelled;  /* by op.cancel(): result() raises CancelledError */
    uint8_t side;       /* PL_SIDE_*, for kinds that wait for a descriptor */
    uint8_t phase;      /* the kind's own */
    uint8_t of_asyncio; /* made by loop.sock_recv() ...: errors in its words */
    uint8_t finalized;  /* tp_finalize has run */
    int fd;             /* -1 when there is none */
    union {
        struct { /* recv, send ...: */
            char *data;
            Py_ssize_t length;
            Py_ssize_t done;
            Py_buffer *view; /* owned, PyMem; NULL for bytes */
        } io;
        struct { /* sleep: */
            struct loop_timer timer;
            int64_t delay_ns; /* until first tried; then the deadline */
        } sleep;
        struct { /* Channel */
            struct list link;
            bool notified;
        } queue;
    } u;
};

/* A fresh op of `kind`; all fields zero, fd -1.  New reference. */
OpObject *op_new(struct module_state *state, const struct op_kind *kind);

/* Drives the op one step, as a coroutine's send(None): */
PySendResult op_send(OpObject *op, PyObject **result);

/* For step.c: arms a YIELDED op so that `waiter` is pushed when it fires.
 * -1 with an exception if it cannot be; the op is FIRED then and raises that
 * same exception when resumed only if the caller stores it. */
int op_arm(OpObject *op, struct runnable *waiter);
/* The operation is over or given up: drops what it held. */
void op_finish(OpObject *op);
/* Gives up waiting: the registration is undone, the waiter is not pushed. */
void op_disarm(OpObject *op);
/* Gives up the operation, for an op that nobody will drive any more: neither
 * is the waiter pushed.  The caller holds a reference. */
void op_give_up(OpObject *op);

/* What the kinds call, after taking their registration out: wakes whoever
 * waits.  `error` (stolen, may be NULL) is raised there instead of another
 * attempt. */
void op_fire(OpObject *op, PyObject *error);

/* arm and disarm for kinds that wait for op->fd / op->side, with op->object
 * as the open file's identity. */
int op_arm_fd(OpObject *op);
void op_disarm_fd(OpObject *op);
/* What the watch of such an op calls: op_fire, with -errno as an OSError. */
void op_fire_from_watch(struct waiter *self, LoopObject *loop, int error);

/* A kind that waits until op->fd is ready and returns None. */
extern const struct op_kind op_kind_wait_readable;
extern const struct op_kind op_kind_wait_writable;
/* An op that waits for a file object: `side` of what sockfd_of_fileobj makes
 * of it.  New reference, or NULL. */
OpObject *op_new_wait(struct module_state *state, PyObject *fileobj, int side);
/* Frees the recycled ops, when the module goes. */
void op_free_all(struct module_state *state);

/* "recv on <socket ...>": what a task waits for.  New reference. */
PyObject *op_describe(OpObject *op);
/* repr(op) and op.__name__, for the type's slots: */
PyObject *op_repr(PyObject *self);
PyObject *op_get_name(PyObject *self, void *closure);

static inline bool
op_check(struct module_state *state, PyObject *obj)
{
    return Py_IS_TYPE(obj, state->OpType);
}

#endif
