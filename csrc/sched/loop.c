/* The main loop.
 *
 *   +-------------------------------------------------------------+
 *   |                                                             |
 *   +-> flush_interest -> wait -> fire_io -> fire_timers          |
 *                                                 |               |
 *                                                 v               |
 *                                            run_signals -> run_ready
 *
 * One turn is one pass.  The first five phases only move things to the ready
 * queue; run_ready runs a snapshot of it, so that what a task makes ready runs
 * in the next turn and I/O gets its share.  The loop's thread lets go of the
 * GIL in `wait` and nowhere else.
 *
 * What is not here: how a coroutine is driven (step.c), what can be awaited
 * (op.c and the files of its kinds), who waits for which descriptor (watch.c),
 * and the Python type EventLoop (eventloop.c). */
#include <Python.h>

#include "loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "compat.h"
#include "errors.h"

/* Set while this thread is inside loop_run.  Per thread, since every thread
 * may run a loop; saved and restored around a run, since a sub-interpreter may
 * run one inside another's. */
PL_THREAD_LOCAL LoopObject *loop_running_tls;

unsigned loop_forks;

/* Runs in the child of a fork, where its one thread may have been inside of a
 * loop: that loop goes on in the parent. */
static void
note_fork(void)
{
    loop_forks++;
    loop_running_tls = NULL;
}

int
loop_watch_forks(void)
{
    static atomic_flag is_watching = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&is_watching)) {
        return 0;
    }
    int rc = pthread_atfork(NULL, NULL, note_fork);
    return rc == 0 ? 0 : errors_from_errno(rc, "pthread_atfork()");
}

/* --- phases of a turn --- */

static int
sleep_in_poller(struct reactor *reactor, int64_t patience_ns)
{
    if (reactor->ops->calls_out) {
        return reactor_wait(reactor, patience_ns);
    }
    /* Only the sleep itself goes without the GIL: another thread may call us
     * then, even where it should not, and must not meet us inside of the
     * timers and watches. */
    int64_t limit_ns = reactor_sleep_limit_ns(reactor, patience_ns);
    int n;
    Py_BEGIN_ALLOW_THREADS
    n = reactor_sleep(reactor, limit_ns);
    Py_END_ALLOW_THREADS
    return reactor_take_events(reactor, n);
}

/* Tells the poller what changed, then sleeps until something happens.  The
 * number of events, or -1 with an exception. */
static int
wait_for_events(LoopObject *loop)
{
    struct reactor *reactor = loop->reactor;
    loop_leave_task(loop);
    bool idle = ring_length(&loop->ready.ring) == 0 && !loop->stopping;
    int64_t patience_ns = loop_watch_patience_ns(loop);
    /* A selector is to show who waits, not who waited.  call-out: releases
     * sockets, wakes refused waiters */
    reactor_flush(reactor, idle || reactor->ops->calls_out, loop_watch_refused,
                  loop_watch_released, loop);
    idle = ring_length(&loop->ready.ring) == 0 && !loop->stopping;
    int n;
    if (!idle) {
        n = reactor_wait(reactor, 0);
    }
    else {
        loop->woken = false;
        loop->sleeping = true;
        n = sleep_in_poller(reactor, patience_ns);
        loop->sleeping = false;
    }
    if (n == -EINTR) {
        n = 0;
    }
    if (n < 0 && reactor->ops->calls_out && PyErr_Occurred()) {
        return -1;
    }
    if (n < 0) {
        return errors_from_errno(n, "waiting for events (%s backend)",
                                 reactor->ops->name);
    }
    /* call-out: Python's signal handlers run here, and may fork */
    if (PyErr_CheckSignals() < 0) {
        reactor_put_back_events(reactor, 0, n);
        return -1;
    }
    if (PL_UNLIKELY(loop->forks != loop_forks)) {
        return loop_check_usable(loop);
    }
    return n;
}

static void
fire_timers(LoopObject *loop)
{
    struct timerheap *heap = &loop->reactor->timers;
    if (heap->length == 0) {
        return;
    }
    int64_t now_ns = clock_monotonic_ns();
    struct timer *node;
    while ((node = timerheap_pop_due(heap, now_ns)) != NULL) {
        struct loop_timer *timer
            = PL_CONTAINER_OF(node, struct loop_timer, node);
        PyObject *self = timer->self;
        timer->self = NULL;
        timer->fire(self, loop);
    }
}

/* Schedules the handlers of the signals that came in through the wake-up. */
static int
run_signals(LoopObject *loop)
{
    uint64_t signals = loop->reactor->signals;
    if (PL_LIKELY(signals == 0)) {
        return 0;
    }
    if (loop->signals.handlers == NULL) {
        loop->reactor->signals = 0;
        return 0;
    }
    for (int signum = 1; signum <= 64; signum++) {
        if (!(signals >> (signum - 1) & 1)) {
            continue;
        }
        PyObject *key = PyLong_FromLong(signum);
        if (key == NULL) {
            return -1;
        }
        PyObject *handle
            = PyDict_GetItemWithError(loop->signals.handlers, key);
        Py_DECREF(key);
        if (handle != NULL ? loop_push(loop, (struct runnable *)handle) < 0
                           : PyErr_Occurred() != NULL)
        {
            return -1; /* the next turn tries again */
        }
        loop->reactor->signals &= ~(UINT64_C(1) << (signum - 1));
    }
    return 0;
}

/* Sends what the callbacks of this turn wrote, however they ended.  Takes
 * and returns the turn's result. */
static int
run_flushes(LoopObject *loop, int rc)
{
    loop->flushes.open = false;
    struct list *node = list_first(&loop->flushes.pending);
    if (PL_LIKELY(node == NULL)) {
        return rc;
    }
    PyObject *pending = rc < 0 ? exception_take() : NULL;
    do {
        struct loop_flush *flush
            = PL_CONTAINER_OF(node, struct loop_flush, link);
        list_remove(node);
        if (flush->run(flush, loop) < 0) { /* call-out */
            Py_XDECREF(pending);
            pending = exception_take();
            rc = -1;
        }
    } while ((node = list_first(&loop->flushes.pending)) != NULL);
    if (pending != NULL) {
        exception_put(pending);
    }
    return rc;
}

/* Runs what is ready now; what becomes ready meanwhile is for the next
 * turn. */
static int
run_ready(LoopObject *loop)
{
    int rc = 0;
    uint32_t n = ring_length(&loop->ready.ring);
    loop->ready.steps_since_poll += n;
    loop->watches.may_be_closed |= n > 0;
    loop->flushes.open = true;
    while (n-- > 0) {
        struct runnable *runnable = ring_pop(&loop->ready.ring);
        loop->tasks.budget = PL_STEP_BUDGET;
        rc = runnable->run(runnable, loop); /* call-out */
        Py_DECREF(runnable);
        if (loop->state->stop_iteration_is_full) {
            errors_empty_stop_iteration(loop->state);
        }
        if (rc < 0) {
            break;
        }
        if (PL_UNLIKELY(loop->selector != NULL)) {
            loop_leave_task(loop);
            loop_watch_show(loop); /* call-out */
        }
        if (PL_UNLIKELY(loop->forks != loop_forks)) {
            /* It forked, and the child came back here: what else is ready is
             * the parent's to do. */
            rc = loop_check_usable(loop);
            break;
        }
    }
    return run_flushes(loop, rc);
}

/* A turn looks at the poller unless it can be sure that this is not due: only
 * native tasks ran since the last look (asyncio programs expect a look in
 * every turn; a selector of the user's is called in every turn), there were
 * few of them, and they took no noticeable time.
 *
 * But the turn after one that found events goes on with what they made ready,
 * whatever that is: the task that a received packet has woken answers before
 * the next look, and a request costs one system call less. */
static bool
should_poll(LoopObject *loop)
{
    if (loop->selector != NULL || ring_length(&loop->ready.ring) == 0
        || loop->stopping || (loop->ready.must_poll && !loop->ready.may_go_on))
    {
        return true;
    }
    return loop->ready.steps_since_poll >= PL_STEPS_PER_POLL
           || clock_coarse_ns() != loop->ready.polled_at_ns;
}

static int
loop_turn(LoopObject *loop)
{
    if (should_poll(loop)) {
        int n = wait_for_events(loop);
        if (n < 0 || loop_fire_io(loop, n) < 0) {
            return -1;
        }
        loop_watch_show(loop); /* call-out */
        fire_timers(loop);
        if (run_signals(loop) < 0) {
            return -1;
        }
        loop->ready.must_poll = false;
        loop->ready.may_go_on = n > 0;
        loop->ready.steps_since_poll = 0;
        loop->ready.polled_at_ns = clock_coarse_ns();
    }
    else {
        loop->ready.may_go_on = false;
        if (loop->ready.must_poll) {
            /* Callbacks see their timers in every turn. */
            fire_timers(loop);
        }
    }
    return run_ready(loop);
}

bool
loop_is_stuck(const LoopObject *loop)
{
    return ring_length(&loop->ready.ring) == 0
           && loop->reactor->timers.length == 0
           && loop->reactor->n_waiters == 0
           && (loop->signals.handlers == NULL
               || PyDict_GET_SIZE(loop->signals.handlers) == 0);
}

static enum loop_exit
run_turns(LoopObject *loop, enum loop_mode mode)
{
    bool may_be_stuck = mode == LOOP_MODE_TASKS_WAIT;
    bool has_settled = false;
    loop->ready.must_poll = true;
    loop->ready.may_go_on = false;
    for (;;) {
        if (mode != LOOP_MODE_FOREVER) {
            if (loop->tasks.failed != NULL) {
                return LOOP_EXIT_FAILED;
            }
            if (loop->tasks.n_live == 0) {
                if (has_settled) {
                    return LOOP_EXIT_ENDED;
                }
                /* What the last task's end has scheduled: its callbacks. */
                has_settled = true;
                if (run_ready(loop) < 0) {
                    return LOOP_EXIT_ERROR;
                }
                continue;
            }
            has_settled = false;
            if (!may_be_stuck && loop_is_stuck(loop)) {
                return LOOP_EXIT_STUCK;
            }
            may_be_stuck = false;
        }
        if (loop_turn(loop) < 0) {
            return LOOP_EXIT_ERROR;
        }
        if (loop->stopping) {
            return LOOP_EXIT_STOPPED;
        }
    }
}

/* --- entering and leaving --- */

/* Makes the C signal handler write to `fd`, -1: to nothing; the former one, or
 * -2 with an exception. */
static int
set_wakeup_fd(LoopObject *loop, int fd)
{
#if PY_VERSION_HEX >= 0x030D0000
    (void)loop;
    return PySignal_SetWakeupFd(fd);
#else
    PyObject *old = PyObject_CallFunction(loop->state->set_wakeup_fd, "i", fd);
    if (old == NULL) {
        return -2;
    }
    int old_fd = (int)PyLong_AsLong(old);
    Py_DECREF(old);
    return old_fd;
#endif
}

int
loop_signals_enter(LoopObject *loop)
{
    if (!loop->signals.is_set) {
        int old = set_wakeup_fd(loop, loop->reactor->wakeup.write_fd);
        if (old == -2) {
            return -1;
        }
        loop->signals.outer_fd = old;
        loop->signals.is_set = true;
    }
    return 0;
}

void
loop_signals_leave(LoopObject *loop)
{
    if (!loop->signals.is_set) {
        return;
    }
    loop->signals.is_set = false;
    PyObject *pending = exception_take();
    int present = set_wakeup_fd(loop, loop->signals.outer_fd);
    if (present >= 0 && loop->reactor != NULL
        && present != loop->reactor->wakeup.write_fd)
    {
        /* Somebody replaced it meanwhile: theirs stays. */
        present = set_wakeup_fd(loop, present);
    }
    if (present == -2) {
        /* The outer one is gone: better none than a number that may by now
         * be another file. */
        PyErr_Clear();
        if (set_wakeup_fd(loop, -1) == -2) {
            PyErr_WriteUnraisable((PyObject *)loop);
        }
    }
    if (pending != NULL) {
        exception_put(pending);
    }
}

static int
is_main_thread(LoopObject *loop)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        return 0;
    }
    PyObject *thread = PyObject_CallNoArgs(loop->state->main_thread);
    if (thread == NULL) {
        return -1;
    }
    PyObject *ident = PyObject_GetAttrString(thread, "ident");
    Py_DECREF(thread);
    if (ident == NULL) {
        return -1;
    }
    unsigned long id = PyLong_AsUnsignedLong(ident);
    Py_DECREF(ident);
    if (id == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    return id == PyThread_get_thread_ident();
}

/* The garbage collector learns of the Handles that wait in the ready queue: it
 * did not have to while the loop ran (handle.c). */
static void
track_ready(LoopObject *loop)
{
    struct ring *ring = &loop->ready.ring;
    for (uint32_t i = 0; i < ring_length(ring); i++) {
        PyObject *runnable = (PyObject *)ring_at(ring, i);
        if (Py_IS_TYPE(runnable, loop->state->HandleType)
            && !PyObject_GC_IsTracked(runnable))
        {
            PyObject_GC_Track(runnable);
        }
    }
}

enum loop_exit
loop_run(LoopObject *loop, enum loop_mode mode)
{
    if (loop_check_usable(loop) < 0) {
        return LOOP_EXIT_ERROR;
    }
    /* It counts as running from here on: what is called below may run Python
     * code (a destructor, a signal handler), and must not close it. */
    LoopObject *outer = loop_running_tls;
    Py_INCREF(loop);
    loop_running_tls = loop;
    loop->thread_id = PyThread_get_thread_ident();

    enum loop_exit reason = LOOP_EXIT_ERROR;
    int in_main = is_main_thread(loop); /* call-out */
    if (in_main == 0 || (in_main > 0 && loop_signals_enter(loop) == 0)) {
        reason = run_turns(loop, mode);
    }

    loop_leave_task(loop);
    if (loop->signals.handlers == NULL
        || PyDict_GET_SIZE(loop->signals.handlers) == 0)
    {
        loop_signals_leave(loop);
    }
    loop->stopping = false;
    loop->thread_id = 0;
    messages_clear(&loop->messages);
    track_ready(loop);
    loop_running_tls = outer;
    Py_DECREF(loop);
    return reason;
}

void
loop_stop(LoopObject *loop)
{
    loop->stopping = true;
}

/* --- life --- */

/* poller NULL: a new one. */
static int
start(LoopObject *loop, const struct poller_ops *ops, struct poller *poller)
{
    if (loop->reactor != NULL) {
        /* By the selector that is being registered with, of all callers. */
        PyErr_SetString(PyExc_RuntimeError,
                        "the event loop is being initialised");
        return -1;
    }
    /* There from the first try, if this is a second one. */
    if (loop->ready.ring.slots == NULL && ring_init(&loop->ready.ring, 64) < 0)
    {
        PyErr_NoMemory();
        return -1;
    }
    loop->reactor = PyMem_Malloc(sizeof(*loop->reactor));
    if (loop->reactor == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int rc = poller == NULL ? reactor_init(loop->reactor, ops)
                            : reactor_init_with(loop->reactor, ops, poller);
    if (rc < 0) {
        PyMem_Free(loop->reactor);
        loop->reactor = NULL;
        if (PyErr_Occurred()) {
            return -1;
        }
        return errors_from_core(rc, "making the %s poller", ops->name);
    }
    list_init(&loop->flushes.pending);
    loop_init_current_task(loop);
    loop->forks = loop_forks;
    loop->initialised = true;
    return 0;
}

int
loop_init(LoopObject *loop, const char *backend)
{
    const struct poller_ops *ops = backend_find(backend);
    return ops != NULL ? start(loop, ops, NULL) : -1;
}

int
loop_init_with(LoopObject *loop, const struct poller_ops *ops,
               struct poller *poller)
{
    return start(loop, ops, poller);
}

static void
release_timers(LoopObject *loop)
{
    struct timer *node;
    while ((node = timerheap_pop_due(&loop->reactor->timers, PL_FOREVER))
           != NULL)
    {
        struct loop_timer *timer
            = PL_CONTAINER_OF(node, struct loop_timer, node);
        PyObject *self = timer->self;
        timer->self = NULL;
        loop_unpromise(loop);
        Py_DECREF(self); /* call-out */
    }
}

void
loop_release(LoopObject *loop)
{
    loop_signals_leave(loop);
    if (loop->reactor != NULL) {
        /* Both may push what they wake: the queue is emptied after them. */
        loop_watch_release_all(loop);
        release_timers(loop);
        struct reactor *reactor = loop->reactor;
        loop->reactor = NULL;
        /* A thread that writes to the wake-up, which takes it a microsecond
         * and no GIL, must not write to whatever has its number next.  (In
         * the child of a fork there is no such thread.) */
        while (atomic_load(&loop->n_wakers) > 0 && loop->forks == loop_forks) {
            (void)usleep(10); /* threads of lower priority run, too */
        }
        reactor_destroy(reactor);
        PyMem_Free(reactor);
    }
    messages_clear(&loop->messages);
    PyMem_Free(loop->scratch);
    loop->scratch = NULL;
    PyMem_Free(loop->stream_buffer);
    loop->stream_buffer = NULL;
    PyMem_Free(loop->transports.by_fd);
    loop->transports.by_fd = NULL;
    loop->transports.length = 0;
    Py_CLEAR(loop->selector);       /* call-out */
    Py_CLEAR(loop->selector_error); /* call-out */
    if (loop->ready.ring.slots != NULL) {
        struct ring ring = loop->ready.ring;
        memset(&loop->ready.ring, 0, sizeof(loop->ready.ring));
        while (ring_length(&ring) > 0) {
            Py_DECREF((PyObject *)ring_pop(&ring)); /* call-out */
        }
        ring_destroy(&ring);
    }
}

int
loop_traverse(LoopObject *loop, visitproc visit, void *arg)
{
    if (loop->ready.ring.slots != NULL) {
        uint32_t n = ring_length(&loop->ready.ring);
        for (uint32_t i = 0; i < n; i++) {
            Py_VISIT((PyObject *)ring_at(&loop->ready.ring, i));
        }
    }
    if (loop->reactor != NULL) {
        const struct timerheap *heap = &loop->reactor->timers;
        for (uint32_t i = 0; i < heap->length; i++) {
            struct loop_timer *timer = PL_CONTAINER_OF(
                heap->entries[i].timer, struct loop_timer, node);
            Py_VISIT(timer->self);
        }
    }
    Py_VISIT(loop->signals.handlers);
    Py_VISIT(loop->tasks.failed);
    Py_VISIT(loop->tasks.plain_waiters);
    Py_VISIT(loop->task_factory);
    Py_VISIT(loop->selector);
    Py_VISIT(loop->selector_error);
    return loop_watch_traverse(loop, visit, arg);
}

int
loop_refuse(LoopObject *loop)
{
    const char *why = "Event loop is closed";
    if (!loop->initialised) {
        why = "the event loop is not initialised: "
              "EventLoop.__init__ was not called";
    }
    else if (!loop->closed && loop->reactor != NULL) {
        why = "the event loop belongs to the parent of this forked "
              "process; make a new one here";
    }
    PyErr_SetString(PyExc_RuntimeError, why);
    return -1;
}

int
loop_check_thread(LoopObject *loop, const char *who)
{
    if (loop_is_running(loop)
        && loop->thread_id != PyThread_get_thread_ident())
    {
        PyErr_Format(PyExc_RuntimeError,
                     "%s: the event loop runs in another thread; use "
                     "call_soon_threadsafe() to reach it",
                     who);
        return -1;
    }
    return 0;
}

/* --- the ready queue --- */

/* Room for everything promised and `more` besides. */
static int
reserve(LoopObject *loop, uint32_t more)
{
    struct ring *ring = &loop->ready.ring;
    while (ring_length(ring) + loop->ready.promised + more > ring->mask + 1) {
        if (ring_grow(ring) < 0) {
            PyErr_NoMemory();
            return -1;
        }
    }
    return 0;
}

int
loop_push(LoopObject *loop, struct runnable *runnable)
{
    if (PL_UNLIKELY(loop->ready.ring.slots == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    if (PL_UNLIKELY(reserve(loop, 1) < 0)) {
        return -1;
    }
    (void)ring_push(&loop->ready.ring, Py_NewRef((PyObject *)runnable));
    return 0;
}

int
loop_push_own(LoopObject *loop, struct runnable *runnable)
{
    if (PL_UNLIKELY(loop->ready.ring.slots == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    (void)ring_push(&loop->ready.ring, Py_NewRef((PyObject *)runnable));
    return 0;
}

int
loop_promise(LoopObject *loop)
{
    if (PL_UNLIKELY(loop->reactor == NULL)) {
        /* Closed, by what the caller called since it asked. */
        return loop_check_usable(loop);
    }
    if (PL_UNLIKELY(reserve(loop, 1) < 0)) {
        return -1;
    }
    loop->ready.promised++;
    return 0;
}

void
loop_unpromise(LoopObject *loop)
{
    loop->ready.promised--;
}

void
loop_push_promised(LoopObject *loop, struct runnable *runnable)
{
    loop->ready.promised--;
    if (PL_UNLIKELY(loop->ready.ring.slots == NULL)) {
        Py_DECREF(runnable); /* the loop is being released */
        return;
    }
    (void)ring_push(&loop->ready.ring, runnable);
}

void
loop_timer_init(struct loop_timer *timer)
{
    timer_node_init(&timer->node);
    timer->self = NULL;
    timer->fire = NULL;
}

int
loop_timer_start(LoopObject *loop, struct loop_timer *timer, PyObject *self,
                 void (*fire)(PyObject *, LoopObject *), int64_t deadline_ns)
{
    if (loop_promise(loop) < 0) {
        return -1;
    }
    if (timerheap_push(&loop->reactor->timers, &timer->node, deadline_ns) < 0)
    {
        loop_unpromise(loop);
        PyErr_NoMemory();
        return -1;
    }
    timer->self = Py_NewRef(self);
    timer->fire = fire;
    return 0;
}

void
loop_timer_stop(LoopObject *loop, struct loop_timer *timer)
{
    if (!loop_timer_is_active(timer)) {
        return;
    }
    timerheap_remove(&loop->reactor->timers, &timer->node);
    loop_unpromise(loop);
    PyObject *self = timer->self;
    timer->self = NULL;
    Py_DECREF(self); /* call-out */
}

void
loop_wake(LoopObject *loop)
{
    if (!loop->sleeping || loop->woken) {
        return;
    }
    loop->woken = true;
    /* Without the GIL, for the loop needs it as soon as it is awake. */
    struct wakeup wakeup = loop->reactor->wakeup;
    atomic_fetch_add(&loop->n_wakers, 1);
    Py_BEGIN_ALLOW_THREADS
    wakeup_signal(&wakeup);
    atomic_fetch_sub(&loop->n_wakers, 1);
    Py_END_ALLOW_THREADS
}

int
loop_report(LoopObject *loop, const char *message, PyObject *key,
            PyObject *value)
{
    PyObject *exc = exception_take();
    PyObject *context = PyDict_New();
    PyObject *text = PyUnicode_FromString(message);
    PyObject *res = NULL;
    if (context == NULL || text == NULL
        || PyDict_SetItem(context, loop->state->str_message, text) < 0
        || (exc != NULL
            && PyDict_SetItem(context, loop->state->str_exception, exc) < 0)
        || (key != NULL && PyDict_SetItem(context, key, value) < 0))
    {
        goto done;
    }
    /* call-out */
    res = PyObject_CallMethodOneArg(
        (PyObject *)loop, loop->state->str_call_exception_handler, context);
done:
    Py_XDECREF(exc);
    Py_XDECREF(context);
    Py_XDECREF(text);
    if (res == NULL) {
        if (errors_ends_loop()) {
            return -1;
        }
        PyErr_WriteUnraisable((PyObject *)loop);
        return 0;
    }
    Py_DECREF(res);
    return 0;
}
