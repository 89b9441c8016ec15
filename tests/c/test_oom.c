/* Every allocation fails once: everything answers -ENOMEM, nothing leaks, and
 * what was there before still works. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "core/reactor.h"
#include "core/ring.h"

/* --- the allocator that fails --- */

static pl_realloc_fn real_realloc;
static long n_live;      /* blocks in use */
static long n_allocated; /* allocations asked for, since the last reset */
static long fail_at;     /* the one that fails; 0: none */

static void *
failing_realloc(void *ptr, size_t size)
{
    if (size == 0) {
        CHECK(ptr != NULL);
        n_live--;
        return real_realloc(ptr, 0);
    }
    if (++n_allocated == fail_at) {
        return NULL;
    }
    void *block = real_realloc(ptr, size);
    CHECK(block != NULL);
    n_live += ptr == NULL;
    return block;
}

/* --- scenarios: each returns 0 or the first error, and cleans up --- */

static int
scenario_ring(void)
{
    struct ring ring;
    int rc = ring_init(&ring, 2);
    uintptr_t n = 0;
    while (rc >= 0 && n < 100) {
        rc = ring_push(&ring, (void *)(n + 1));
        n += rc >= 0;
    }
    CHECK_EQ(ring_length(&ring), n);
    for (uintptr_t i = 0; i < n; i++) {
        CHECK(ring_pop(&ring) == (void *)(i + 1));
    }
    ring_destroy(&ring);
    return rc;
}

static int
scenario_timerheap(void)
{
    static struct timer timers[100];
    struct timerheap heap;
    timerheap_init(&heap);
    int rc = 0;
    int n = 0;
    while (rc >= 0 && n < 100) {
        timer_node_init(&timers[n]);
        rc = timerheap_push(&heap, &timers[n], 100 - n);
        CHECK_EQ(timer_node_is_active(&timers[n]), rc >= 0);
        n += rc >= 0;
    }
    CHECK_EQ(heap.length, n);
    for (int i = n - 1; i >= 0; i--) {
        CHECK(timerheap_pop_due(&heap, INT64_MAX) == &timers[i]);
    }
    timerheap_destroy(&heap);
    return rc;
}

static int
scenario_fdtable(void)
{
    struct fdtable table;
    fdtable_init(&table);
    int rc = 0;
    int fd = 1;
    while (rc >= 0 && fd < 10000) {
        struct watch *watch;
        rc = fdtable_ensure(&table, fd, &watch);
        if (rc >= 0) {
            CHECK_EQ(watch->fd, fd);
            fd *= 3;
        }
    }
    for (int made = 1; made < fd; made *= 3) {
        CHECK_EQ(fdtable_get(&table, made)->fd, made);
    }
    fdtable_destroy(&table);
    return rc;
}

#define N_FDS 80

static const struct poller_ops *ops;
static int fds[N_FDS]; /* readable, all of them */
static struct poller_event events[2 * N_FDS];

static int
scenario_poller(void)
{
    struct poller *poller;
    int rc = ops->create(&poller);
    if (rc < 0) {
        return rc;
    }
    int n = 0;
    while (rc >= 0 && n < N_FDS) {
        rc = ops->update(poller, fds[n], (uint32_t)n, 0, PL_READ);
        n += rc >= 0;
    }
    /* The one that failed is not registered, the others are. */
    CHECK_EQ(ops->wait(poller, events, 2 * N_FDS, 0), n);
    for (int i = 0; i < n; i++) {
        CHECK_EQ(fds[events[i].generation], events[i].fd);
        CHECK(events[i].generation < (uint32_t)n);
    }
    for (int i = 0; i < n; i++) {
        CHECK_EQ(ops->update(poller, fds[i], 0, PL_READ, 0), 0);
    }
    CHECK_EQ(ops->wait(poller, events, 2 * N_FDS, 0), 0);
    ops->destroy(poller);
    return rc;
}

static struct reactor reactor;
static char waiter;
static char owner;

static void
on_refused(struct watch *watch, int error, void *arg)
{
    CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_READ) == &waiter);
    *(int *)arg = error;
}

static void
on_released(void *released, void *arg)
{
    (void)arg;
    CHECK(released == &owner);
}

static int
scenario_reactor(void)
{
    int rc = reactor_init(&reactor, ops);
    if (rc < 0) {
        return rc;
    }
    int n = 0;
    while (rc >= 0 && n < N_FDS) {
        struct watch *watch;
        void *old_owner;
        void *stale[2];
        rc = reactor_claim(&reactor, fds[n], &owner, &watch, &old_owner,
                           stale);
        if (rc >= 0) {
            reactor_watch_set(&reactor, watch, PL_SIDE_READ, &waiter, true);
            n++;
        }
    }
    int refused_error = 0;
    reactor_flush(&reactor, true, on_refused, on_released, &refused_error);
    if (refused_error < 0) {
        CHECK(rc >= 0);
        rc = refused_error;
        n--; /* one allocation fails, so one registration does */
    }
    CHECK_EQ(reactor_wait(&reactor, 0), n);
    CHECK_EQ(reactor.n_waiters, n);
    for (int i = 0; i < N_FDS; i++) {
        struct watch *watch = fdtable_get(&reactor.fds, fds[i]);
        if (watch != NULL) {
            reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
        }
    }
    reactor_flush(&reactor, true, on_refused, on_released, &refused_error);
    CHECK_EQ(reactor.n_waiters, 0);
    reactor_destroy(&reactor);
    return rc < 0 ? rc : 0;
}

/* Events that nobody can have asked for make the reactor renew its poller;
 * where that fails it goes on with the one it has, and tries again. */
static void
test_orphans_while_out_of_memory(void)
{
    long n_before = n_live;
    CHECK_EQ(reactor_init(&reactor, ops), 0);
    struct poller *poller = reactor.poller;
    /* Registered behind the reactor's back, for a watch it never made. */
    CHECK_EQ(ops->update(poller, fds[0], 5, 0, PL_READ), 0);
    n_allocated = 0;
    fail_at = 1;
    CHECK_EQ(reactor_wait(&reactor, 0), 0);
    CHECK_EQ(n_allocated, 1);
    CHECK(reactor.poller == poller);
    CHECK_EQ(reactor_wait(&reactor, 0), 0); /* the second try succeeds */
    CHECK(n_allocated > 1);
    fail_at = 0;
    wakeup_signal(&reactor.wakeup);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
    int64_t start_ns = clock_monotonic_ns();
    CHECK_EQ(reactor_wait(&reactor, PL_NS_PER_MS), 0);
    CHECK(clock_monotonic_ns() - start_ns >= PL_NS_PER_MS);
    reactor_destroy(&reactor);
    CHECK_EQ(n_live, n_before);
}

static int
count_open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++) {
        n += fcntl(fd, F_GETFD) >= 0;
    }
    return n;
}

/* Climbs until nothing fails any more; there must be `least` steps. */
static void
climb(int (*scenario)(void), int least)
{
    int n_open = count_open_fds();
    int n_failed = 0;
    for (fail_at = 1;; fail_at++) {
        n_allocated = 0;
        int rc = scenario();
        CHECK_EQ(n_live, 0);
        CHECK_EQ(count_open_fds(), n_open);
        if (rc == 0) {
            CHECK(n_allocated < fail_at);
            break;
        }
        CHECK_EQ(rc, -ENOMEM);
        n_failed++;
    }
    fail_at = 0;
    CHECK(n_failed >= least);
}

int
main(void)
{
    for (int i = 0; i < N_FDS; i++) {
        fds[i] = eventfd(1, EFD_CLOEXEC);
        CHECK(fds[i] >= 0);
    }
    real_realloc = pl_realloc_hook;
    pl_realloc_hook = failing_realloc;
    climb(scenario_ring, 6);
    climb(scenario_timerheap, 3);
    climb(scenario_fdtable, 10);
    for (const char *const *name = poller_names(); *name != NULL; name++) {
        CHECK_EQ(poller_find(*name, &ops), 0);
        climb(scenario_poller, strcmp(*name, "poll") == 0 ? 7 : 1);
        climb(scenario_reactor, 4);
        test_orphans_while_out_of_memory();
    }
    pl_realloc_hook = real_realloc;
    for (int i = 0; i < N_FDS; i++) {
        close(fds[i]);
    }
    return 0;
}
