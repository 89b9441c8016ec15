/* Who waits for which descriptor: the layer between the reactor's fd table,
 * whose pointers are opaque, and Python's references.
 *
 * Ownership: a watch owns one reference to each of its waiters and one to its
 * `owner` (the socket object that the registration was made for).  The latter
 * keeps the object's address from being reused while the poller still knows
 * the descriptor, so that comparing addresses tells a new socket under an old
 * number from the old one. */
#include <Python.h>

#include "loop.h"

#include <errno.h>

#include "compat.h"
#include "errors.h"
#include "sockfd.h"

/* Hands a waiter that was just taken off its watch what it waited for.
 * Steals the reference. */
static void
hand_over(LoopObject *loop, PyObject *waiter, bool persistent, int error)
{
    if (persistent) {
        /* A reader callback of a descriptor that is gone: dropped, as the
         * kernel dropped it. */
        loop_unpromise(loop);
    }
    else {
        struct waiter *one_shot = (struct waiter *)waiter;
        one_shot->fire(one_shot, loop, error);
    }
    Py_DECREF(waiter); /* call-out */
}

/* A socket stands for one file as long as it has a number, and so does the end
 * of a transport.  What merely has a fileno() may answer for another file
 * tomorrow, under the same number. */
static inline bool
stands_for_one_file(LoopObject *loop, PyObject *owner)
{
    return sockfd_is_socket(loop->state, owner)
           || Py_IS_TYPE(owner, loop->state->StreamEndType);
}

/* Whether the socket that the watch was made for has been closed since,
 * without a word to the loop: then it has no number any more, or another. */
static bool
owner_is_closed(LoopObject *loop, const struct watch *watch)
{
    struct module_state *state = loop->state;
    return watch->owner != NULL && state->socket_fd_offset >= 0
           && sockfd_is_socket(state, watch->owner)
           && sockfd_peek(state, watch->owner) != watch->fd;
}

/* Two objects may stand for one file, as a socket and what its makefile() made
 * do.  Whether `owner` is the second of two: others wait in the name of an
 * object that still goes by this number.  (Of two sockets one must have been
 * closed behind our back.)  -1 with an exception. */
static int
is_shared(LoopObject *loop, const struct watch *watch, PyObject *owner)
{
    if (watch->owner == NULL
        || (sockfd_is_socket(loop->state, owner)
            && sockfd_is_socket(loop->state, watch->owner)))
    {
        return 0;
    }
    int fd = watch->fd;
    PyObject *first = Py_NewRef(watch->owner);
    int number = sockfd_of_fileobj(loop->state, first, ""); /* call-out */
    Py_DECREF(first);                                       /* call-out */
    if (number < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_Clear();
    }
    return number == fd;
}

/* Others wait for the number in another name than `owner`.  1 if both stand
 * for one file, which is then known by its number; 0 if not, or if no owner
 * was given: a bare number must not join those that wait for a socket which
 * had it.  -1 with an exception. */
static int
meet_other_owner(LoopObject *loop, const struct watch *watch, PyObject *owner)
{
    if (owner != NULL) {
        return is_shared(loop, watch, owner); /* call-out */
    }
    if (owner_is_closed(loop, watch)) {
        loop_forget_fd(loop, watch->fd, -EBADF); /* call-out */
    }
    return 0;
}

/* loop_watch() where more than a waiter may be new. */
PL_COLD static int
watch_carefully(LoopObject *loop, int fd, PyObject *owner, int side,
                PyObject *waiter, unsigned how, PyObject **taken)
{
    bool persistent = (how & PL_WAIT_PERSISTENT) != 0;
    struct watch *watch = fdtable_get(&loop->reactor->fds, fd);
    if (watch != NULL && watch->wanted != 0 && watch->owner != owner) {
        int shared = meet_other_owner(loop, watch, owner); /* call-out */
        if (shared < 0 || loop->reactor == NULL) {
            return shared < 0 ? -1 : loop_check_usable(loop);
        }
        owner = shared ? NULL : owner;
        watch = fdtable_get(&loop->reactor->fds, fd);
    }
    struct reactor *reactor = loop->reactor;
    void *old_owner = NULL;
    void *stale[2] = {NULL, NULL};
    uint8_t stale_persistent = watch != NULL ? watch->persistent : 0;
    if (watch == NULL || watch->owner != owner || owner == NULL) {
        int rc = reactor_claim(reactor, fd, owner, &watch, &old_owner, stale);
        if (rc < 0) {
            return persistent && rc != -ENOMEM
                       ? errors_from_bare_errno(rc) /* as asyncio's selector */
                       : errors_from_core(rc, "watching descriptor %d", fd);
        }
        if (rc == 1) {
            Py_INCREF(owner);
        }
    }
    else if (watch->wanted == 0 && !stands_for_one_file(loop, owner)) {
        reactor_doubt(reactor, watch);
    }
    int result = 0;
    if (watch->waiter[side] != NULL) {
        *taken = watch->waiter[side];
        result = 1;
    }
    else if (persistent && loop_promise(loop) < 0) {
        result = -1;
    }
    else {
        reactor_watch_set(reactor, watch, side, Py_NewRef(waiter), how);
    }
    /* Last, for these call out. */
    for (int s = 0; s < 2; s++) {
        if (stale[s] != NULL) {
            hand_over(loop, stale[s], (stale_persistent >> s) & 1, -EBADF);
        }
    }
    Py_XDECREF((PyObject *)old_owner); /* call-out: closes the old socket */
    return result;
}

int
loop_watch(LoopObject *loop, int fd, PyObject *owner, int side,
           PyObject *waiter, unsigned how, PyObject **taken)
{
    if (PL_UNLIKELY(loop->reactor == NULL)) {
        /* Closed, by what the caller called since it asked. */
        return loop_check_usable(loop);
    }
    /* What a server does all day: the socket is known, and nobody is there. */
    struct watch *watch = fdtable_get(&loop->reactor->fds, fd);
    if (PL_LIKELY(watch != NULL && watch->owner == owner && owner != NULL
                  && watch->waiter[side] == NULL && !(how & PL_WAIT_PERSISTENT)
                  && sockfd_is_socket(loop->state, owner)))
    {
        reactor_watch_set(loop->reactor, watch, side, Py_NewRef(waiter), how);
        return 0;
    }
    return watch_carefully(loop, fd, owner, side, waiter, how, taken);
}

void
loop_watch_show(LoopObject *loop)
{
    if (PL_LIKELY(loop->selector == NULL) || loop->in_selector) {
        return;
    }
    if (loop->forks != loop_forks) {
        return; /* its poller, shared with the parent, would tell the kernel */
    }
    PyObject *pending = exception_take();
    bool outer = loop->in_show;
    loop->in_show = true;
    reactor_flush(loop->reactor, true, loop_watch_refused, loop_watch_released,
                  loop); /* call-out */
    loop->in_show = outer;
    if (pending != NULL) {
        exception_put(pending);
    }
}

PyObject *
loop_unwatch(LoopObject *loop, int fd, int side)
{
    if (loop->reactor == NULL) {
        return NULL;
    }
    struct watch *watch = fdtable_get(&loop->reactor->fds, fd);
    if (watch == NULL || watch->waiter[side] == NULL) {
        return NULL;
    }
    if (watch->persistent >> side & 1) {
        loop_unpromise(loop);
    }
    PyObject *waiter = reactor_watch_clear(loop->reactor, watch, side);
    if (watch->armed != 0) {
        loop_watch_show(loop); /* call-out, but only for a selector */
    }
    return waiter;
}

int
loop_watch_ask(LoopObject *loop, int fd, int side, PyObject *waiter)
{
    if (loop->in_selector) {
        return 0;
    }
    if (loop->reactor == NULL) {
        return loop_check_usable(loop); /* what was dropped has closed it */
    }
    struct watch *watch = fdtable_get(&loop->reactor->fds, fd);
    int rc = reactor_try(loop->reactor, watch); /* call-out */
    if (rc == 0) {
        return 0;
    }
    if (loop_watcher(loop, fd, side, NULL) == waiter) {
        Py_DECREF(loop_unwatch(loop, fd, side));
    }
    if (loop->selector_error != NULL) {
        PyObject *exc = loop->selector_error;
        loop->selector_error = NULL;
        exception_put(exc);
        return -1;
    }
    return errors_from_bare_errno(rc);
}

int
loop_watch_again(LoopObject *loop, int fd, PyObject *owner, int side,
                 PyObject *waiter, unsigned how)
{
    struct watch *watch
        = loop->reactor != NULL ? fdtable_get(&loop->reactor->fds, fd) : NULL;
    if (watch == NULL || watch->waiter[side] != NULL
        || (watch->owner != NULL && watch->owner != owner))
    {
        return 0;
    }
    PyObject *taken;
    int rc = loop_watch(loop, fd, owner, side, waiter, how, &taken);
    return rc == 0 ? loop_watch_ask(loop, fd, side, waiter) : rc;
}

static struct watch *
watch_to_read(LoopObject *loop, int fd, PyObject *waiter)
{
    struct watch *watch
        = loop->reactor != NULL ? fdtable_get(&loop->reactor->fds, fd) : NULL;
    return watch != NULL && watch->waiter[PL_SIDE_READ] == waiter ? watch
                                                                  : NULL;
}

void
loop_watch_drained(LoopObject *loop, int fd, PyObject *waiter)
{
    struct watch *watch = watch_to_read(loop, fd, waiter);
    if (watch != NULL) {
        watch->hints |= PL_HINT_DRAINED;
    }
}

void
loop_watch_has_run(LoopObject *loop, int fd, PyObject *waiter)
{
    struct watch *watch = watch_to_read(loop, fd, waiter);
    if (watch != NULL) {
        reactor_read_again(loop->reactor, watch);
    }
}

PyObject *
loop_watcher(LoopObject *loop, int fd, int side, bool *persistent)
{
    struct watch *watch
        = loop->reactor != NULL ? fdtable_get(&loop->reactor->fds, fd) : NULL;
    if (watch == NULL) {
        return NULL;
    }
    if (persistent != NULL) {
        *persistent = watch->persistent >> side & 1;
    }
    return watch->waiter[side];
}

bool
loop_watch_is_clear(LoopObject *loop, int fd, PyObject *owner, int side)
{
    struct watch *watch
        = loop->reactor != NULL ? fdtable_get(&loop->reactor->fds, fd) : NULL;
    return watch == NULL
           || (watch->waiter[side] == NULL
               && (watch->owner == owner || watch->waiter[!side] == NULL));
}

static void
drop_waiters(LoopObject *loop, struct watch *watch, int error)
{
    for (int side = 0; side < 2; side++) {
        if (watch->waiter[side] == NULL) {
            continue;
        }
        bool persistent = watch->persistent >> side & 1;
        PyObject *waiter = reactor_watch_clear(loop->reactor, watch, side);
        hand_over(loop, waiter, persistent, error);
    }
}

void
loop_forget_fd(LoopObject *loop, int fd, int error)
{
    struct watch *watch
        = loop->reactor != NULL ? fdtable_get(&loop->reactor->fds, fd) : NULL;
    if (watch == NULL) {
        return;
    }
    uint8_t persistent = watch->persistent;
    PyObject *waiters[2];
    for (int side = 0; side < 2; side++) {
        waiters[side] = reactor_watch_clear(loop->reactor, watch, side);
    }
    PyObject *owner = reactor_forget(loop->reactor, watch);
    /* Last, for these call out, and may close the loop. */
    for (int side = 0; side < 2; side++) {
        if (waiters[side] != NULL) {
            hand_over(loop, waiters[side], persistent >> side & 1, error);
        }
    }
    Py_XDECREF(owner); /* call-out */
}

static int
end_hopeless(struct watch *watch, void *arg)
{
    LoopObject *loop = arg;
    for (int side = 0; side < 2; side++) {
        if (watch->waiter[side] != NULL && !(watch->persistent >> side & 1)
            && owner_is_closed(loop, watch))
        {
            PyObject *waiter = reactor_watch_clear(loop->reactor, watch, side);
            hand_over(loop, waiter, false, -EBADF);
        }
    }
    return 0;
}

int64_t
loop_watch_patience_ns(LoopObject *loop)
{
    struct reactor *reactor = loop->reactor;
    if (!loop->watches.may_be_closed || loop->selector != NULL
        || (reactor->n_waiters == reactor->n_persistent
            && !reactor->has_unproven))
    {
        return PL_FOREVER;
    }
    int64_t now_ns = loop->ready.polled_at_ns;
    if (now_ns < loop->watches.look_at_ns) {
        return loop->watches.look_at_ns - now_ns;
    }
    loop->watches.look_at_ns = now_ns + PL_LOOK_FOR_CLOSED_NS;
    loop->watches.may_be_closed = false;
    reactor_prove_edges(reactor);
    (void)fdtable_foreach(&loop->reactor->fds, end_hopeless, loop);
    return PL_FOREVER;
}

/* A callback of add_reader() or add_writer() was refused for a reason that its
 * own system call does not meet. */
PL_COLD static void
report_refused(LoopObject *loop, int fd, int error)
{
    errors_from_errno(error, "watching descriptor %d", fd);
    if (loop_report(loop, "The poller refused a reader or writer callback",
                    NULL, NULL)
        < 0)
    {
        PyErr_WriteUnraisable((PyObject *)loop);
    }
}

/* The poller did not take a registration (a closed descriptor, a regular file,
 * or the kernel has no room for more): tasks that wait get the error; a reader
 * callback is called, so that it meets the error in its own system call, and
 * is dropped.  A transport and a listener, which would not, see that they are,
 * and ask again. */
void
loop_watch_refused(struct watch *watch, int error, void *arg)
{
    LoopObject *loop = arg;
    for (int side = 0; side < 2; side++) {
        if (watch->waiter[side] == NULL) {
            continue;
        }
        bool persistent = watch->persistent >> side & 1;
        PyObject *waiter = reactor_watch_clear(loop->reactor, watch, side);
        if (persistent) {
            bool is_callback = Py_IS_TYPE(waiter, loop->state->HandleType);
            loop_push_promised(loop, (struct runnable *)waiter);
            if (is_callback && error != -EBADF && loop->selector == NULL) {
                report_refused(loop, watch->fd, error); /* call-out */
            }
            continue;
        }
        struct waiter *one_shot = (struct waiter *)waiter;
        one_shot->fire(one_shot, loop, error);
        Py_DECREF(waiter); /* call-out */
    }
}

void
loop_watch_released(void *owner, void *Py_UNUSED(loop))
{
    Py_XDECREF((PyObject *)owner); /* call-out: may close the socket */
}

int
loop_fire_io(LoopObject *loop, int n)
{
    struct reactor *reactor = loop->reactor;
    for (int i = 0; i < n; i++) {
        const struct poller_event *event = &reactor->events[i];
        for (int side = 0; side < 2; side++) {
            if (!(event->events >> side & 1)) {
                continue;
            }
            /* Looked up anew each time: firing may have changed it. */
            struct watch *watch = fdtable_get(&reactor->fds, event->fd);
            if (watch == NULL || watch->generation != event->generation
                || watch->waiter[side] == NULL)
            {
                continue;
            }
            if (watch->persistent >> side & 1) {
                struct runnable *handle = watch->waiter[side];
                if (loop_push(loop, handle) < 0) {
                    reactor_put_back_events(reactor, i, n);
                    return -1;
                }
                continue;
            }
            struct waiter *waiter = reactor_watch_clear(reactor, watch, side);
            waiter->fire(waiter, loop, 0);
            Py_DECREF(waiter);
        }
    }
    return 0;
}

struct traverse_arg {
    visitproc visit;
    void *arg;
};

static int
traverse_watch(struct watch *watch, void *arg)
{
    const struct traverse_arg *t = arg;
    for (int side = 0; side < 2; side++) {
        if (watch->waiter[side] != NULL) {
            int rc = t->visit(watch->waiter[side], t->arg);
            if (rc) {
                return rc;
            }
        }
    }
    return watch->owner != NULL ? t->visit(watch->owner, t->arg) : 0;
}

int
loop_watch_traverse(LoopObject *loop, visitproc visit, void *arg)
{
    struct traverse_arg t = {visit, arg};
    return loop->reactor != NULL
               ? fdtable_foreach(&loop->reactor->fds, traverse_watch, &t)
               : 0;
}

static int
release_watch(struct watch *watch, void *arg)
{
    LoopObject *loop = arg;
    drop_waiters(loop, watch, -ECANCELED);
    PyObject *owner = watch->owner;
    watch->owner = NULL;
    Py_XDECREF(owner); /* call-out */
    return 0;
}

void
loop_watch_release_all(LoopObject *loop)
{
    (void)fdtable_foreach(&loop->reactor->fds, release_watch, loop);
}
