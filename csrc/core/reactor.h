/* The reactor: one poller, the fd table, the timers and the wake-up, put
 * together.  It knows neither Python nor tasks.  The loop above it
 *   1. says who waits for what (reactor_watch_set / _clear, timerheap_push),
 *   2. calls reactor_flush, then reactor_wait (the only blocking call),
 *   3. takes the events from reactor.events and dispatches them.
 *
 * Interest is lazy.  Setting and clearing waiters makes no system call: it
 * puts the watch on the dirty list, and reactor_flush tells the poller about
 * the differences.  New interest is told at every flush; dropped interest
 * only when the loop is about to sleep, or when an event came that nobody
 * wanted: a task that is merely between two awaits on one socket costs no
 * epoll_ctl.
 *
 * Reads of a TCP socket are watched by edges as long as each wait follows a
 * read that left nothing (PL_WAIT_DRAINS, PL_HINT_DRAINED).  The first wait
 * that does not, and whatever a short read does not tell of (PL_LINGERS), put
 * the watch back to level triggering for as long as it has this owner: the
 * poller looks at the socket anew then, so nothing is missed. */
#ifndef PL_CORE_REACTOR_H
#define PL_CORE_REACTOR_H

#include "clock.h"
#include "fdtable.h"
#include "list.h"
#include "poller.h"
#include "timerheap.h"
#include "wakeup.h"

/* Events taken per wait.  asyncio takes as many as there are descriptors,
 * libuv and the C limit server 1024; the array is 12 KiB. */
#define PL_EVENTS_PER_WAIT 1024

struct reactor {
    const struct poller_ops *ops;
    struct poller *poller;
    struct fdtable fds;
    struct timerheap timers;
    struct wakeup wakeup;
    /* Numbers that came through the wake-up, bit n - 1 for number n; the
     * loop above clears them. */
    uint64_t signals;
    struct list dirty;     /* watches whose wanted and armed may differ */
    uint32_t n_waiters;    /* waiters set in all watches, the wake-up's not
                            * counted */
    uint32_t n_persistent; /* those of them that stay when they fire */
    bool has_unproven;     /* a watch may be unproven */
    struct poller_event events[PL_EVENTS_PER_WAIT];
};

/* A registration that the poller refused at a flush: the waiters of this
 * watch must be told.  `error` is -errno. */
typedef void (*reactor_refused_fn)(struct watch *watch, int error, void *arg);
/* The owner of a watch is no longer registered with the poller: the reference
 * that the caller keeps for it can go. */
typedef void (*reactor_released_fn)(void *owner, void *arg);

int reactor_init(struct reactor *reactor, const struct poller_ops *ops);
/* The same with a poller that was made already.  It is the caller's to destroy
 * if this fails. */
int reactor_init_with(struct reactor *reactor, const struct poller_ops *ops,
                      struct poller *poller);
/* Waiters and owners must have been cleared or released by the caller. */
void reactor_destroy(struct reactor *reactor);

/* Declares that `fd` now stands for the open file `owner`.  If the watch was
 * made for another owner, its generation changes and it counts as not armed.
 * *old_owner is then the owner replaced (NULL if none) and *stale the waiters
 * that the old owner still had (NULL, NULL if none): all three are the
 * caller's to release and wake.  owner NULL (a bare fd number) never matches
 * an existing registration without waiters: the kernel is asked anew.  Where
 * there are waiters a bare number joins them, and an owner that comes to
 * waiters of a bare number is taken on: nobody is disturbed.
 * 1: `owner` was recorded in the watch, which needs a reference to it; 0: it
 * was there already, or is NULL; or -errno (EBADF, ENOMEM). */
int reactor_claim(struct reactor *reactor, int fd, void *owner,
                  struct watch **out, void **old_owner, void *stale[2]);
/* Declares that the watch's open file, which nobody waits for, may be another
 * by now although its owner is the same: the poller is asked anew. */
void reactor_doubt(struct reactor *reactor, struct watch *watch);
/* What a waiter is.  PERSISTENT: it stays when it fires.  DRAINS: it reads,
 * and says so by PL_HINT_DRAINED when it has left nothing to read. */
enum { PL_WAIT_ONCE = 0, PL_WAIT_PERSISTENT = 1, PL_WAIT_DRAINS = 2 };

/* Puts a waiter on a side that has none; `how` is a set of PL_WAIT_*. */
void reactor_watch_set(struct reactor *reactor, struct watch *watch, int side,
                       void *waiter, unsigned how);
/* For a persistent waiter that DRAINS, after it was called: if it has not said
 * so it is called again, as long as there is something to read. */
void reactor_read_again(struct reactor *reactor, struct watch *watch);
/* Has the next flush ask the poller anew for what was watched by edges and has
 * had one since the last call.  Edges that mean less than is believed of them
 * make a reader wait until then, not for ever: urgent data that its owner took
 * with MSG_OOB, before the poller told of them, end a read early all the
 * same, and nothing tells that they do. */
void reactor_prove_edges(struct reactor *reactor);
/* Goes back to level triggering, for as long as the watch has this owner. */
void reactor_drop_edges(struct reactor *reactor, struct watch *watch);
/* Takes the waiter off; returns it (NULL if there was none). */
void *reactor_watch_clear(struct reactor *reactor, struct watch *watch,
                          int side);
/* Drops a registration at once, for a descriptor that is about to be closed:
 * the poller forgets it, the generation changes, the owner is returned for
 * release.  The waiters must have been cleared. */
void *reactor_forget(struct reactor *reactor, struct watch *watch);

/* Tells the poller at once of a watch that has waiters, so that a refusal has
 * a caller: 0, or -errno, and then the waiter that was set last is the
 * caller's to clear.  The next flush tells it again, for the descriptor may be
 * closed by then. */
int reactor_try(struct reactor *reactor, struct watch *watch);
/* Tells the poller what changed.  about_to_sleep: also take out interest that
 * nobody has any more.  `refused` is called for each watch whose new interest
 * the poller did not take (its armed is 0 afterwards and its waiters are still
 * set: the callee clears them), `released` for each owner whose watch left
 * the poller. */
void reactor_flush(struct reactor *reactor, bool about_to_sleep,
                   reactor_refused_fn refused, reactor_released_fn released,
                   void *arg);

/* Waits until something happens, a timer is due or timeout_ns is over.
 * Returns how many entries of reactor->events are valid: each was checked
 * against its watch's generation and holds at least one bit, and wanted ones
 * only.  Unwanted interest that fired is left out, and its watch was put on
 * the dirty list to be taken out.  A handler may change other watches: compare
 * the generation again before dispatching an entry.
 * The wake-up is drained and not reported.  -EINTR or another -errno.
 *
 * It never sleeps on a dirty list, since the poller does not know yet what is
 * waited for: flush with about_to_sleep first.  A callback of that flush may
 * have made the list dirty again; then this call only looks. */
int reactor_wait(struct reactor *reactor, int64_t timeout_ns);
/* What was found by a wait and will not be dispatched, reactor->events[from]
 * to [n - 1], is reported again by the next. */
void reactor_put_back_events(struct reactor *reactor, int from, int n);
/* reactor_wait in its three parts, for a caller that lets other threads have
 * the reactor while it sleeps: the first and the last need it alone; the
 * middle one touches nothing but the poller and reactor->events, so that
 * others may set and clear waiters and timers meanwhile.  They must not make
 * the poller forget a descriptor, unless it takes updates while waiting. */
int64_t reactor_sleep_limit_ns(const struct reactor *reactor,
                               int64_t timeout_ns);
int reactor_sleep(struct reactor *reactor, int64_t limit_ns);
/* `n`: what reactor_sleep returned. */
int reactor_take_events(struct reactor *reactor, int n);
/* How long reactor_wait may sleep: until the first timer or `limit_ns`. */
int64_t reactor_timeout_ns(const struct reactor *reactor, int64_t limit_ns);

#endif
