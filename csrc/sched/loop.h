/* The loop engine: struct LoopObject, the ready queue and the main loop.
 *
 * The engine lies below tasks and handles: it runs what is runnable without
 * knowing what it is.  The Python type EventLoop (eventloop.c) lies above
 * everything and wraps the functions of this file.
 *
 * One thread runs a loop.  Other threads may only push to the ready queue
 * (they hold the GIL, as whoever touches a PyObject does) and then call
 * loop_wake. */
#ifndef PL_SCHED_LOOP_H
#define PL_SCHED_LOOP_H

#include <Python.h>

#include <stdatomic.h>

#include "core/reactor.h"
#include "core/ring.h"
#include "asyncio_compat.h"
#include "compat.h"
#include "messages.h"
#include "runnable.h"
#include "state.h"

/* How often in one step a task may get a result without waiting before it
 * must go to the end of the queue.  libuv and trio bound theirs at 32 and 16;
 * here 32 small receives cost about 50 us, one turn of a busy loop. */
#define PL_STEP_BUDGET 32

/* How many native steps may run between two looks at the poller while the
 * ready queue does not empty.  A look costs about as much as three steps;
 * Tokio uses 61, and 64 keeps the cost under 5 %. */
#define PL_STEPS_PER_POLL 64

/* How often a loop looks for sockets that were closed while somebody waits for
 * them, or whose edges may have told too little: a pass over all of them, so
 * that it costs a loop with ten thousand busy connections less than a
 * thousandth. */
#define PL_LOOK_FOR_CLOSED_NS PL_NS_PER_SEC

/* What asyncio keeps as our current task (current_task.c). */
enum current_entry {
    CURRENT_ENTRY_NONE,
    CURRENT_ENTRY_SHOWN,
    CURRENT_ENTRY_STALE,
};

/* Why loop_run returned. */
enum loop_exit {
    LOOP_EXIT_ERROR = -1,  /* with an exception */
    LOOP_EXIT_STOPPED = 0, /* loop_stop was called */
    LOOP_EXIT_ENDED,       /* no native task is left (run_tasks mode) */
    LOOP_EXIT_FAILED,      /* a root task raised (run_tasks mode) */
    LOOP_EXIT_STUCK,       /* nothing can ever wake a task (run_tasks mode) */
};

enum loop_mode {
    LOOP_MODE_FOREVER,    /* until stopped */
    LOOP_MODE_TASKS,      /* until no native task is left, a root fails, or
                             nothing can go on */
    LOOP_MODE_TASKS_WAIT, /* the same, but sleep once although nothing in this
                             thread can go on: another thread may help */
};

typedef struct LoopObject {
    PyObject_HEAD
    struct module_state *state; /* borrowed: the type keeps the module alive */
    struct reactor *reactor;    /* owned; NULL before init and after close */

    /* The ready queue: owned references to runnables. */
    struct {
        struct ring ring;
        /* Slots that must stay free: one for each live task, armed wait and
         * scheduled timer, so that waking never has to allocate. */
        uint32_t promised;
        uint32_t steps_since_poll;
        bool must_poll;       /* something other than a native step ran */
        bool may_go_on;       /* the last turn looked, and found events */
        int64_t polled_at_ns; /* coarse clock */
    } ready;

    /* Native tasks that have not ended; each owns a reference (task.c). */
    struct {
        struct list live;
        size_t n_live;
        size_t n_roots;
        PyObject *failed;  /* owned: the first root that raised, or NULL */
        PyObject *current; /* borrowed from run_ready(): the task whose step
                            * this is, NULL between steps */
        enum current_entry entry; /* see current_task.c */
        bool show_at_once;        /* likewise */
        PyObject *plain_waiters;  /* owned dict, see plainchannel.c, or NULL */
        int budget;               /* see PL_STEP_BUDGET */
    } tasks;

    /* Signals. */
    struct {
        PyObject
            *handlers; /* owned: dict signum -> Handle (add_signal_handler) */
        int outer_fd;  /* the wake-up fd that was set before we ran */
        bool is_set;
    } signals;

    /* Sockets that are closed while somebody waits for them (watch.c). */
    struct {
        int64_t look_at_ns; /* coarse clock */
        bool may_be_closed; /* something ran since the last look */
    } watches;

    /* Output of this turn's callbacks, sent after them. */
    struct {
        struct list pending; /* of struct loop_flush */
        bool open;           /* inside of run_ready, which will look */
    } flushes;

    unsigned long thread_id; /* 0: not running */
    unsigned forks;          /* loop_forks when it was made */
    bool initialised;
    bool closed;
    bool stopping;
    bool sleeping; /* inside the poller without the GIL */
    bool woken;    /* the wake-up was signalled during this sleep */
    /* Threads that write to the wake-up, without the GIL. */
    atomic_uint n_wakers;
    bool debug;
    char *scratch; /* owned, PyMem: where receives land (ioop.c), or NULL */
    char *stream_buffer; /* the same of the stream transports (stream.c) */
    /* What is received while the loop runs. */
    struct messages messages;
    PyObject *task_factory; /* owned: asyncio's, or NULL */
    /* Transports by descriptor, borrowed: they take themselves out. */
    struct {
        PyObject **by_fd; /* PyMem */
        uint32_t length;
    } transports;
    PyObject *selector; /* owned: the BaseSelector that is driven instead of a
                           poller of our own, or NULL */
    PyObject *selector_error; /* owned: what it raised where nobody could be
                                 told; the next wait raises it */
    bool in_selector;         /* it is being told something, and calls us */
    bool in_show;             /* inside loop_watch_show */
} LoopObject;

/* Embedded in an object that has output to send when the callbacks of a turn
 * have run.  While it is linked in loop->flushes.pending, the list owns a
 * reference to that object, which `run` takes over.  0, or -1 with an
 * exception that must end the loop. */
struct loop_flush {
    struct list link;
    int (*run)(struct loop_flush *self, struct LoopObject *loop);
};

extern PL_THREAD_LOCAL LoopObject *loop_running_tls;

/* The loop that this thread is running, or NULL.  Borrowed: loop_run holds
 * it.  It may belong to another interpreter that this thread was in before:
 * the caller compares its state. */
static inline LoopObject *
loop_running_here(void)
{
    return loop_running_tls;
}

/* How often the process that loaded us has become another one by fork().  A
 * loop that was made under another number is the parent's. */
extern unsigned loop_forks;

/* Whether a thread of this process is inside of loop_run.  In the child of a
 * fork none is, although the copy of the loop says so. */
static inline bool
loop_is_running(const LoopObject *loop)
{
    return loop->thread_id != 0 && loop->forks == loop_forks;
}

/* Makes the reactor.  `backend` NULL: the default.  0, or -1 with ValueError
 * (no such backend) or OSError. */
int loop_init(LoopObject *loop, const char *backend);
/* The same with a poller that was made already, which the loop owns if this
 * succeeds.  -1 with OSError, or with what the poller raised. */
int loop_init_with(LoopObject *loop, const struct poller_ops *ops,
                   struct poller *poller);
/* Releases the ready queue, the watches and the reactor.  Safe twice. */
void loop_release(LoopObject *loop);
int loop_traverse(LoopObject *loop, visitproc visit, void *arg);

/* THE MAIN LOOP: turns until stopped.  The caller has checked that nothing
 * runs.  On LOOP_EXIT_ERROR an exception is set. */
enum loop_exit loop_run(LoopObject *loop, enum loop_mode mode);
void loop_stop(LoopObject *loop);
/* Nothing in this process, short of another thread, can make a task ready. */
bool loop_is_stuck(const LoopObject *loop);
/* Main thread only: signals write to our wake-up from now on, so that one
 * that comes between two turns cannot be slept through.  -1 with an
 * exception. */
int loop_signals_enter(LoopObject *loop);
/* Gives the signal wake-up back to whoever had it before we ran. */
void loop_signals_leave(LoopObject *loop);

/* Counts forks in loop_forks from now on.  Once per process is enough; 0, or
 * -1 with OSError. */
int loop_watch_forks(void);

/* Raises the RuntimeError of loop_check_usable. */
int loop_refuse(LoopObject *loop);

/* 0, or -1 with RuntimeError: closed; not initialised; another process. */
static inline int
loop_check_usable(LoopObject *loop)
{
    if (PL_UNLIKELY(!loop->initialised || loop->closed || loop->reactor == NULL
                    || loop->forks != loop_forks))
    {
        return loop_refuse(loop);
    }
    return 0;
}

/* 0, or -1 with RuntimeError when the loop is running in another thread. */
int loop_check_thread(LoopObject *loop, const char *who);

/* Appends to the ready queue; takes a new reference.  -1 with MemoryError. */
int loop_push(LoopObject *loop, struct runnable *runnable);
/* Promises a slot to a later loop_push_promised.  -1 with MemoryError. */
int loop_promise(LoopObject *loop);
void loop_unpromise(LoopObject *loop);
/* Appends into a promised slot and gives the promise back: cannot fail.
 * Steals the reference. */
void loop_push_promised(LoopObject *loop, struct runnable *runnable);
/* Appends into a promised slot that stays promised, for what is in the queue
 * at most once; takes a new reference.  -1 with RuntimeError when the loop is
 * closed, and for no other reason. */
int loop_push_own(LoopObject *loop, struct runnable *runnable);
/* Makes a sleeping loop look at its ready queue.  Any thread; lets go of the
 * GIL.  The caller holds a reference to the loop. */
void loop_wake(LoopObject *loop);

/* --- asyncio.current_task() for native tasks (current_task.c) --- */

/* Decides, once a loop is made, how its tasks are shown. */
void loop_init_current_task(LoopObject *loop);

/* Brings asyncio's entry up to date: 0, or -1 with an exception. */
int loop_show_task(LoopObject *loop);
/* Takes the entry out, if it is ours: call-out, it may be a task's last
 * reference.  Keeps the current exception. */
void loop_hide_task(LoopObject *loop);

/* tp_hash of loops: an object's, after loop_show_task(). */
Py_hash_t loop_hash(PyObject *loop);

/* A step of `task`, which the caller keeps alive, begins; -1 with an exception
 * if it must not.  Either way it ends with loop_end_step(). */
static inline int
loop_begin_step(LoopObject *loop, PyObject *task)
{
    loop->tasks.current = task;
    return PL_UNLIKELY(loop->tasks.show_at_once) ? loop_show_task(loop) : 0;
}

static inline void
loop_end_step(LoopObject *loop)
{
    loop->tasks.current = NULL;
    if (loop->tasks.entry == CURRENT_ENTRY_SHOWN) {
        loop->tasks.entry = CURRENT_ENTRY_STALE;
    }
}

/* Something else than a native task is to run. */
static inline void
loop_leave_task(LoopObject *loop)
{
    if (PL_UNLIKELY(loop->tasks.entry != CURRENT_ENTRY_NONE)) {
        loop_hide_task(loop);
    }
}

/* --- errors without a caller --- */

/* Reports an exception (the current one, which is taken) that has no caller
 * to the loop's call_exception_handler.  `key`/`value` is an extra entry of
 * the context, e.g. ("handle", handle); NULL for none.  -1 only if the handler
 * itself must end the loop. */
int loop_report(LoopObject *loop, const char *message, PyObject *key,
                PyObject *value);

/* --- watches: who waits for which descriptor (watch.c) --- */

/* Puts `waiter` on a side of fd, for the open file `owner` (the socket object,
 * NULL for a bare number).  Takes a reference to both.  `how` is a set of
 * PL_WAIT_*: a persistent waiter is a struct runnable and is pushed at every
 * event; another is a struct waiter and is fired once.
 * 1 if the side is taken (no exception is set; *taken is the borrowed present
 * waiter), 0, or -1 with an exception. */
int loop_watch(LoopObject *loop, int fd, PyObject *owner, int side,
               PyObject *waiter, unsigned how, PyObject **taken);
/* Takes the waiter off; returns the reference, or NULL if there was none. */
PyObject *loop_unwatch(LoopObject *loop, int fd, int side);
/* Has the poller told at once that `waiter` watches, where it may refuse: else
 * it is at the next flush.  0, or -1 with what it said, and the waiter is off.
 */
int loop_watch_ask(LoopObject *loop, int fd, int side, PyObject *waiter);
/* Puts a persistent waiter back that was called because the poller refused it,
 * as watch.c does; nothing happens if it still watches, or if the number means
 * another file by now.  As loop_watch_ask. */
int loop_watch_again(LoopObject *loop, int fd, PyObject *owner, int side,
                     PyObject *waiter, unsigned how);
/* A persistent waiter that drains: it has read all there was, before it calls
 * out; and, after each run, whether it must be called again. */
void loop_watch_drained(LoopObject *loop, int fd, PyObject *waiter);
void loop_watch_has_run(LoopObject *loop, int fd, PyObject *waiter);
/* Who waits, borrowed, or NULL; *persistent may be NULL. */
PyObject *loop_watcher(LoopObject *loop, int fd, int side, bool *persistent);
/* Whether loop_watch on this side would find nobody there, and nobody who
 * waits for another file that had the number before. */
bool loop_watch_is_clear(LoopObject *loop, int fd, PyObject *owner, int side);
/* Forgets the descriptor at once because it is about to be closed: its
 * one-shot waiters are fired with `error`, its persistent ones dropped. */
void loop_forget_fd(LoopObject *loop, int fd, int error);
/* Before each look at the poller: how long it may sleep.  A poller says
 * nothing of a socket that is closed while it is waited for.  From time to
 * time this looks for such, and wakes with EBADF whoever waits for them, and
 * has the poller asked anew what was watched by edges (reactor_prove_edges);
 * if it is too early for that it limits the sleep, so that it is asked
 * again. */
int64_t loop_watch_patience_ns(LoopObject *loop);
/* Where the loop drives a selector of the user's: tells it who waits now.  It
 * shows that to whoever looks, and an interest that is dropped must be out of
 * it before the descriptor is closed: it cannot be made anew, as the reactor
 * does with a poller that reports what nobody can have asked for. */
void loop_watch_show(LoopObject *loop);
/* The two callbacks of reactor_flush. */
void loop_watch_refused(struct watch *watch, int error, void *loop);
void loop_watch_released(void *owner, void *loop);
/* Dispatches n entries of reactor->events. */
int loop_fire_io(LoopObject *loop, int n);
/* For traverse and release. */
int loop_watch_traverse(LoopObject *loop, visitproc visit, void *arg);
void loop_watch_release_all(LoopObject *loop);

/* --- timers --- */

/* Embedded in the object that waits for a time. */
struct loop_timer {
    struct timer node;
    PyObject *self; /* owned while scheduled: the embedding object */
    /* Called when due, with the node out of the heap and the promised slot
     * still promised.  Takes over the reference. */
    void (*fire)(PyObject *self, LoopObject *loop);
};

void loop_timer_init(struct loop_timer *timer);
/* Schedules; takes a reference to self.  -1 with an exception. */
int loop_timer_start(LoopObject *loop, struct loop_timer *timer,
                     PyObject *self, void (*fire)(PyObject *, LoopObject *),
                     int64_t deadline_ns);
/* Unschedules; nothing happens if it was not scheduled. */
void loop_timer_stop(LoopObject *loop, struct loop_timer *timer);

static inline bool
loop_timer_is_active(const struct loop_timer *timer)
{
    return timer_node_is_active(&timer->node);
}

static inline int64_t
loop_deadline_ns(int64_t now_ns, int64_t delay_ns)
{
    return delay_ns >= PL_FOREVER - now_ns ? PL_FOREVER : now_ns + delay_ns;
}

#endif
