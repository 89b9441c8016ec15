/* The reactor.
 *
 * The heart is the difference between what a watch wants and what the poller
 * was told, and the suspicion that the poller's state may be a third thing:
 * descriptors are closed, duplicated and reused behind our back.  `doubts`
 * holds what is suspected of one watch:
 *
 *   UNWANTED  interest that nobody has any more has fired.  A level-triggered
 *             poller would repeat it for ever: it is taken out at the next
 *             flush, whether the loop is about to sleep or not.
 *   UNSURE    the poller may hold something else than `armed` says: it is
 *             told at the next flush even if nothing seems to have changed.
 *   ORPHAN    an event came that this watch cannot have asked for.  The first
 *             one is answered with UNSURE; if there is a second, it comes from
 *             a registration that cannot be reached through its number (see
 *             poller_epoll.c, 1), and the poller is made anew.
 *
 * Invariants, outside of the functions of this file:
 *   a watch whose armed is not what reactor_asks says, with UNWANTED or with
 *     UNSURE is on the dirty list (or on the list of a flush that is calling
 *     out)
 *   a watch with an owner is armed, or wanted, or on the dirty list: so its
 *     owner is released by some flush
 *   n_waiters == the sides of all watches that have a waiter
 *   n_persistent == the bits of `persistent` in all watches */
#include "reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { REACTOR_UNWANTED = 1, REACTOR_UNSURE = 2, REACTOR_ORPHAN = 4 };

/* The wake-up is registered with the poller under a generation that no watch
 * ever has. */
#define REACTOR_WAKEUP_GENERATION UINT32_MAX

static int
reactor_register_wakeup(const struct reactor *reactor, struct poller *poller)
{
    return reactor->ops->update(poller, reactor->wakeup.read_fd,
                                REACTOR_WAKEUP_GENERATION, 0, PL_READ);
}

static int
reactor_make_poller(const struct reactor *reactor, struct poller **out)
{
    struct poller *poller;
    int rc = reactor->ops->create(&poller);
    if (rc < 0) {
        return rc;
    }
    rc = reactor_register_wakeup(reactor, poller);
    if (rc < 0) {
        reactor->ops->destroy(poller);
        return rc;
    }
    *out = poller;
    return 0;
}

/* Everything but the poller. */
static int
reactor_prepare(struct reactor *reactor, const struct poller_ops *ops)
{
    reactor->ops = ops;
    reactor->poller = NULL;
    reactor->n_waiters = 0;
    reactor->n_persistent = 0;
    reactor->has_unproven = false;
    reactor->signals = 0;
    fdtable_init(&reactor->fds);
    timerheap_init(&reactor->timers);
    list_init(&reactor->dirty);
    return wakeup_init(&reactor->wakeup);
}

int
reactor_init(struct reactor *reactor, const struct poller_ops *ops)
{
    int rc = reactor_prepare(reactor, ops);
    if (rc < 0) {
        return rc;
    }
    rc = reactor_make_poller(reactor, &reactor->poller);
    if (rc < 0) {
        wakeup_destroy(&reactor->wakeup);
    }
    return rc;
}

int
reactor_init_with(struct reactor *reactor, const struct poller_ops *ops,
                  struct poller *poller)
{
    int rc = reactor_prepare(reactor, ops);
    if (rc < 0) {
        return rc;
    }
    rc = reactor_register_wakeup(reactor, poller);
    if (rc < 0) {
        wakeup_destroy(&reactor->wakeup);
        return rc;
    }
    reactor->poller = poller;
    return 0;
}

void
reactor_destroy(struct reactor *reactor)
{
    if (reactor->poller != NULL) {
        reactor->ops->destroy(reactor->poller);
        reactor->poller = NULL;
    }
    wakeup_destroy(&reactor->wakeup);
    fdtable_destroy(&reactor->fds);
    timerheap_destroy(&reactor->timers);
    list_init(&reactor->dirty);
    reactor->n_waiters = 0;
    reactor->n_persistent = 0;
}

static inline void
reactor_mark_dirty(struct reactor *reactor, struct watch *watch)
{
    if (!list_is_linked(&watch->dirty)) {
        list_append(&reactor->dirty, &watch->dirty);
    }
}

/* What the poller should be told for a watch that reports to `sides`. */
static inline unsigned
reactor_by_mode(const struct watch *watch, unsigned sides)
{
    return sides == PL_READ && watch->mode == PL_MODE_EDGE ? sides | PL_EDGE
                                                           : sides;
}

/* What it should be told now. */
static inline unsigned
reactor_asks(const struct watch *watch)
{
    return reactor_by_mode(watch, watch->wanted);
}

static bool
reactor_socket_is(int fd, int option, int expected)
{
    int value;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0
           && value == expected;
}

/* Whether a short read of `fd` leaves nothing to read that PL_LINGERS does not
 * tell of.  It does not where messages or what comes with them end a read
 * early, as on Unix sockets; the kernel is asked, for what others know of a
 * descriptor may be wrong.  TCP's number alone says little: a raw socket that
 * listens to TCP's packets has it, and in other families it stands for other
 * protocols. */
static uint8_t
reactor_choose_mode(const struct reactor *reactor, int fd)
{
    return reactor->ops->reports_edges
                   && reactor_socket_is(fd, SO_PROTOCOL, IPPROTO_TCP)
                   && reactor_socket_is(fd, SO_TYPE, SOCK_STREAM)
               ? PL_MODE_EDGE
               : PL_MODE_LEVEL;
}

/* A waiter to read was put on the watch. */
static inline void
reactor_set_mode(const struct reactor *reactor, struct watch *watch,
                 unsigned how)
{
    if (!(how & PL_WAIT_DRAINS)) {
        watch->mode = PL_MODE_LEVEL;
    }
    else if (PL_UNLIKELY(watch->mode == PL_MODE_UNKNOWN)) {
        watch->mode = reactor_choose_mode(reactor, watch->fd);
    }
    else if (PL_UNLIKELY((watch->armed & PL_EDGE) != 0
                         && !(watch->hints & PL_HINT_DRAINED)))
    {
        watch->mode = PL_MODE_LEVEL; /* the edge may be spent */
    }
}

static inline void
reactor_next_generation(struct watch *watch)
{
    if (++watch->generation == REACTOR_WAKEUP_GENERATION) {
        watch->generation = 0;
    }
}

/* Takes a waiter off without asking for a flush. */
static inline void *
reactor_take_waiter(struct reactor *reactor, struct watch *watch, int side)
{
    void *waiter = watch->waiter[side];
    if (waiter != NULL) {
        uint8_t bit = (uint8_t)(1u << side);
        watch->waiter[side] = NULL;
        watch->wanted &= (uint8_t)~bit;
        reactor->n_waiters--;
        if (watch->persistent & bit) {
            watch->persistent &= (uint8_t)~bit;
            reactor->n_persistent--;
        }
    }
    return waiter;
}

/* Gives the watch to another open file (or to one that may be another). */
static void
reactor_replace_owner(struct reactor *reactor, struct watch *watch,
                      void *owner, void **old_owner, void *stale[2])
{
    *old_owner = watch->owner;
    watch->owner = owner;
    for (int side = PL_SIDE_READ; side <= PL_SIDE_WRITE; side++) {
        stale[side] = reactor_take_waiter(reactor, watch, side);
    }
    watch->doubts &= REACTOR_UNSURE;
    if (watch->armed != 0) {
        watch->armed = 0;
        watch->doubts = REACTOR_UNSURE;
    }
    watch->hints = 0;
    watch->mode = PL_MODE_UNKNOWN;
    reactor_next_generation(watch);
    reactor_mark_dirty(reactor, watch);
}

/* The table grows with the number, so a number that is no descriptor must not
 * get into it: add_reader(2000000000) would cost a quarter of a GiB. */
static int
reactor_make_watch(struct reactor *reactor, int fd, struct watch **out)
{
    if (fcntl(fd, F_GETFD) < 0) {
        return -errno;
    }
    return fdtable_ensure(&reactor->fds, fd, out);
}

int
reactor_claim(struct reactor *reactor, int fd, void *owner, struct watch **out,
              void **old_owner, void *stale[2])
{
    *old_owner = NULL;
    stale[PL_SIDE_READ] = NULL;
    stale[PL_SIDE_WRITE] = NULL;

    struct watch *watch = fdtable_get(&reactor->fds, fd);
    if (watch == NULL) {
        int rc = reactor_make_watch(reactor, fd, &watch);
        if (rc < 0) {
            return rc;
        }
    }
    *out = watch;

    if (owner != NULL && watch->owner == owner) {
        return 0;
    }
    if (watch->wanted == 0 || (owner != NULL && watch->owner != NULL)) {
        reactor_replace_owner(reactor, watch, owner, old_owner, stale);
        return owner != NULL;
    }
    /* A bare number meets waiters: it names the same file as they do, as far
     * as anybody can know.  But interest that is only left over from earlier
     * may have gone with a file that was closed since. */
    if ((watch->armed & PL_SIDES & ~watch->wanted) != 0) {
        watch->doubts |= REACTOR_UNSURE;
        reactor_mark_dirty(reactor, watch);
    }
    if (owner == NULL) {
        return 0;
    }
    watch->owner = owner;
    return 1;
}

void
reactor_doubt(struct reactor *reactor, struct watch *watch)
{
    if (watch->armed != 0) {
        watch->doubts |= REACTOR_UNSURE;
        reactor_next_generation(watch);
        reactor_mark_dirty(reactor, watch);
    }
}

void
reactor_watch_set(struct reactor *reactor, struct watch *watch, int side,
                  void *waiter, unsigned how)
{
    uint8_t bit = (uint8_t)(1u << side);
    watch->waiter[side] = waiter;
    watch->wanted |= bit;
    if (how & PL_WAIT_PERSISTENT) {
        watch->persistent |= bit;
        reactor->n_persistent++;
    }
    reactor->n_waiters++;
    if (side == PL_SIDE_READ) {
        reactor_set_mode(reactor, watch, how);
    }
    if (reactor_asks(watch) != watch->armed) {
        reactor_mark_dirty(reactor, watch);
    }
}

void
reactor_drop_edges(struct reactor *reactor, struct watch *watch)
{
    watch->mode = PL_MODE_LEVEL;
    if (reactor_asks(watch) != watch->armed) {
        reactor_mark_dirty(reactor, watch);
    }
}

void
reactor_read_again(struct reactor *reactor, struct watch *watch)
{
    if (watch->mode == PL_MODE_EDGE && !(watch->hints & PL_HINT_DRAINED)) {
        reactor_drop_edges(reactor, watch);
    }
}

static int
reactor_prove_edge(struct watch *watch, void *arg)
{
    struct reactor *reactor = arg;
    if (watch->unproven) {
        watch->unproven = 0;
        if (watch->armed & PL_EDGE) {
            watch->doubts |= REACTOR_UNSURE;
            reactor_mark_dirty(reactor, watch);
        }
    }
    return 0;
}

void
reactor_prove_edges(struct reactor *reactor)
{
    if (reactor->has_unproven) {
        reactor->has_unproven = false;
        (void)fdtable_foreach(&reactor->fds, reactor_prove_edge, reactor);
    }
}

void *
reactor_watch_clear(struct reactor *reactor, struct watch *watch, int side)
{
    void *waiter = reactor_take_waiter(reactor, watch, side);
    /* Without regard to `armed`: an owner may have to be released. */
    if (waiter != NULL) {
        reactor_mark_dirty(reactor, watch);
    }
    return waiter;
}

void *
reactor_forget(struct reactor *reactor, struct watch *watch)
{
    if (watch->armed != 0 || (watch->doubts & REACTOR_UNSURE) != 0) {
        (void)reactor->ops->update(reactor->poller, watch->fd,
                                   watch->generation, PL_READ | PL_WRITE, 0);
    }
    void *owner = watch->owner;
    watch->owner = NULL;
    watch->armed = 0;
    watch->hints = 0;
    watch->mode = PL_MODE_UNKNOWN;
    watch->doubts = 0;
    reactor_next_generation(watch);
    list_remove(&watch->dirty);
    return owner;
}

/* What to claim as armed, when the poller may hold a registration that we do
 * not count: of a bare number that is waited for again and again it does, and
 * modifying costs one call where adding would cost two.  An object that
 * replaced another usually got a number that was closed in between. */
static inline unsigned
reactor_presumed(const struct watch *watch, unsigned target)
{
    if ((watch->doubts & REACTOR_UNSURE) != 0
        && (target == 0 || watch->owner == NULL))
    {
        return PL_READ | PL_WRITE;
    }
    return watch->armed;
}

/* Makes the poller hold what is wanted of one watch, and what may stay: 0 or
 * -errno, and then it holds nothing.  May call out. */
static int
reactor_sync(struct reactor *reactor, struct watch *watch, bool about_to_sleep)
{
    unsigned sides = watch->wanted;
    int rc = 0;
    if (!about_to_sleep && (watch->doubts & REACTOR_UNWANTED) == 0) {
        sides |= watch->armed & PL_SIDES;
    }
    /* Left over, it may stay as it is. */
    unsigned target = watch->wanted == 0 && sides != 0
                          ? watch->armed
                          : reactor_by_mode(watch, sides);
    if (target != watch->armed || (watch->doubts & REACTOR_UNSURE) != 0
        || reactor->ops->calls_out)
    {
        unsigned presumed = reactor_presumed(watch, target);
        rc = reactor->ops->update(reactor->poller, watch->fd,
                                  watch->generation, presumed, target);
        watch->armed = rc < 0 ? 0 : (uint8_t)target;
    }
    watch->doubts &= REACTOR_ORPHAN;
    return rc;
}

/* Brings the poller up to date with one watch, which is in no list.  The
 * callbacks may do anything to any watch: nothing that was read before a call
 * is used after it. */
static void
reactor_tell(struct reactor *reactor, struct watch *watch, bool about_to_sleep,
             reactor_refused_fn refused, reactor_released_fn released,
             void *arg)
{
    int rc = reactor_sync(reactor, watch, about_to_sleep);
    if (rc < 0 && watch->wanted != 0) {
        refused(watch, rc, arg); /* call-out */
    }

    if (reactor_asks(watch) != watch->armed
        || (watch->doubts & ~REACTOR_ORPHAN) != 0)
    {
        reactor_mark_dirty(reactor, watch);
        return;
    }
    /* Settled; `refused` may have marked it, by clearing the waiters. */
    list_remove(&watch->dirty);
    if (watch->wanted == 0 && watch->owner != NULL) {
        void *owner = watch->owner;
        watch->owner = NULL;
        watch->hints = 0;
        watch->mode = PL_MODE_UNKNOWN;
        released(owner, arg); /* call-out */
    }
}

int
reactor_try(struct reactor *reactor, struct watch *watch)
{
    watch->doubts |= REACTOR_UNSURE;
    list_remove(&watch->dirty);
    int rc = reactor_sync(reactor, watch, false); /* call-out */
    watch->doubts |= REACTOR_UNSURE;
    reactor_mark_dirty(reactor, watch);
    return rc;
}

/* The dirty watches are moved to a list of our own first: what the callbacks
 * or reactor_tell put on the reactor's list belongs to the next flush, and
 * what they remove, wherever it is linked, is not visited. */
void
reactor_flush(struct reactor *reactor, bool about_to_sleep,
              reactor_refused_fn refused, reactor_released_fn released,
              void *arg)
{
    if (list_is_empty(&reactor->dirty)) {
        return;
    }
    struct list batch;
    list_append(&reactor->dirty, &batch);
    list_remove(&reactor->dirty);

    struct list *node;
    while ((node = list_first(&batch)) != NULL) {
        list_remove(node);
        reactor_tell(reactor, PL_CONTAINER_OF(node, struct watch, dirty),
                     about_to_sleep, refused, released, arg);
    }
}

static int
reactor_disarm(struct watch *watch, void *arg)
{
    struct reactor *reactor = arg;
    if (watch->armed != 0 || watch->doubts != 0) {
        watch->armed = 0;
        watch->doubts = 0;
        reactor_mark_dirty(reactor, watch);
    }
    return 0;
}

/* Starts again with an empty poller; the next flush registers everything that
 * is wanted.  If that fails (no descriptor left), the old poller goes on, and
 * the next orphaned event tries again. */
static void
reactor_renew_poller(struct reactor *reactor)
{
    struct poller *fresh;
    if (reactor_make_poller(reactor, &fresh) < 0) {
        return;
    }
    reactor->ops->destroy(reactor->poller);
    reactor->poller = fresh;
    (void)fdtable_foreach(&reactor->fds, reactor_disarm, reactor);
}

/* Returns whether the poller must be made anew. */
static bool
reactor_suspect(struct reactor *reactor, struct watch *watch)
{
    if (watch == NULL || (watch->doubts & REACTOR_ORPHAN) != 0) {
        return true;
    }
    watch->doubts |= REACTOR_ORPHAN | REACTOR_UNSURE;
    reactor_mark_dirty(reactor, watch);
    return false;
}

/* Keeps the events that somebody waits for, at the front of reactor->events.
 * Returns their number. */
static int
reactor_sift_events(struct reactor *reactor, int n)
{
    int n_kept = 0;
    bool must_renew = false;
    for (int i = 0; i < n; i++) {
        struct poller_event event = reactor->events[i];
        if (event.generation == REACTOR_WAKEUP_GENERATION) {
            reactor->signals |= wakeup_drain(&reactor->wakeup);
            continue;
        }
        struct watch *watch = fdtable_get(&reactor->fds, event.fd);
        if (PL_UNLIKELY(watch == NULL || watch->generation != event.generation
                        || (event.events & watch->armed) == 0))
        {
            must_renew |= reactor_suspect(reactor, watch);
            continue;
        }
        if (event.events & PL_READ) {
            watch->hints &= (uint8_t)~PL_HINT_DRAINED;
            if (watch->armed & PL_EDGE) {
                watch->unproven = 1;
                reactor->has_unproven = true;
            }
        }
        if (PL_UNLIKELY((event.events & PL_LINGERS) != 0
                        && watch->mode == PL_MODE_EDGE))
        {
            reactor_drop_edges(reactor, watch);
        }
        if ((event.events & watch->armed & ~(unsigned)watch->wanted) != 0) {
            watch->doubts |= REACTOR_UNWANTED;
            reactor_mark_dirty(reactor, watch);
        }
        event.events &= watch->wanted;
        if (event.events != 0) {
            reactor->events[n_kept++] = event;
        }
    }
    if (PL_UNLIKELY(must_renew)) {
        reactor_renew_poller(reactor);
    }
    return n_kept;
}

/* What is watched by level is reported again anyhow. */
void
reactor_put_back_events(struct reactor *reactor, int from, int n)
{
    for (int i = from; i < n; i++) {
        struct watch *watch
            = fdtable_get(&reactor->fds, reactor->events[i].fd);
        if (watch != NULL && watch->mode == PL_MODE_EDGE) {
            reactor_drop_edges(reactor, watch);
        }
    }
}

int64_t
reactor_sleep_limit_ns(const struct reactor *reactor, int64_t timeout_ns)
{
    if (!list_is_empty(&reactor->dirty)) {
        return 0;
    }
    return reactor_timeout_ns(reactor, timeout_ns);
}

int
reactor_sleep(struct reactor *reactor, int64_t limit_ns)
{
    return reactor->ops->wait(reactor->poller, reactor->events,
                              PL_EVENTS_PER_WAIT, limit_ns);
}

int
reactor_take_events(struct reactor *reactor, int n)
{
    return n > 0 ? reactor_sift_events(reactor, n) : n;
}

int
reactor_wait(struct reactor *reactor, int64_t timeout_ns)
{
    int64_t limit_ns = reactor_sleep_limit_ns(reactor, timeout_ns);
    return reactor_take_events(reactor, reactor_sleep(reactor, limit_ns));
}

int64_t
reactor_timeout_ns(const struct reactor *reactor, int64_t limit_ns)
{
    int64_t deadline_ns = timerheap_next_deadline_ns(&reactor->timers);
    if (limit_ns <= 0) {
        return 0;
    }
    if (deadline_ns == PL_FOREVER) {
        return limit_ns;
    }
    int64_t now_ns = clock_monotonic_ns();
    if (deadline_ns <= now_ns) {
        return 0;
    }
    int64_t rest_ns = deadline_ns - now_ns;
    return rest_ns < limit_ns ? rest_ns : limit_ns;
}
