/* A loop in one thread, and others that give it work: the protocol of
 * call_soon_threadsafe(), with a mutex in the place of the GIL.
 *
 * The owner of the reactor holds the lock all the time but while it sleeps.
 * The others take the lock, push what is to be done, set and clear timers and
 * waiters as callers do that should not, and wake the owner if it sleeps and
 * nobody has woken it yet.  Run under ThreadSanitizer this shows that what is
 * done without the lock touches nothing that needs it; anywhere it shows that
 * no wake-up is lost: one that is leaves the owner asleep, and the program
 * ends by its alarm. */
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "core/reactor.h"
#include "core/ring.h"

#define N_THREADS 3
#define N_PUSHES 1500

/* All of it under `lock`. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct reactor reactor;
static struct ring ready;
static bool sleeping;
static bool woken;
static unsigned n_wakeups;

static char waiter;

static void
wake(void)
{
    if (sleeping && !woken) {
        woken = true;
        n_wakeups++;
        wakeup_signal(&reactor.wakeup);
    }
}

static void
on_refused(struct watch *watch, int error, void *arg)
{
    (void)watch;
    (void)error;
    (void)arg;
    CHECK(false);
}

static void
on_released(void *owner, void *arg)
{
    (void)owner;
    (void)arg;
    CHECK(false); /* nobody gives one */
}

/* A number of its own, a timer and a descriptor of its own: what other
 * threads may do to the reactor while its owner sleeps. */
static void
meddle(int fd, struct timer *timer, uint32_t chance)
{
    struct watch *watch;
    void *old_owner;
    void *stale[2];
    CHECK_EQ(reactor_claim(&reactor, fd, NULL, &watch, &old_owner, stale), 0);
    CHECK(old_owner == NULL);
    if (watch->waiter[PL_SIDE_READ] == NULL) {
        reactor_watch_set(&reactor, watch, PL_SIDE_READ, &waiter, true);
    }
    else {
        CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_READ) == &waiter);
    }
    if (timer_node_is_active(timer)) {
        timerheap_remove(&reactor.timers, timer);
    }
    else {
        CHECK_EQ(timerheap_push(&reactor.timers, timer,
                                clock_monotonic_ns() + chance * 100),
                 0);
    }
}

static void *
give_work(void *arg)
{
    uintptr_t id = (uintptr_t)arg;
    uint64_t seed = id;
    struct timer timer;
    timer_node_init(&timer);
    int fd = eventfd(1, EFD_CLOEXEC);
    CHECK(fd >= 0);
    for (uintptr_t i = 0; i < N_PUSHES; i++) {
        uint32_t chance = check_random(&seed) % 1024;
        CHECK_EQ(pthread_mutex_lock(&lock), 0);
        if (chance % 4 == 0) {
            meddle(fd, &timer, chance);
        }
        CHECK_EQ(ring_push(&ready, (void *)(i * N_THREADS + id)), 0);
        wake();
        CHECK_EQ(pthread_mutex_unlock(&lock), 0);
        if (chance % 8 == 1) {
            sched_yield(); /* lets the owner fall asleep */
        }
    }
    CHECK_EQ(pthread_mutex_lock(&lock), 0);
    struct watch *watch = fdtable_get(&reactor.fds, fd);
    if (watch != NULL) {
        reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    }
    timerheap_remove(&reactor.timers, &timer);
    CHECK_EQ(pthread_mutex_unlock(&lock), 0);
    return (void *)(uintptr_t)fd;
}

/* One turn of the owner, which holds the lock. */
static void
turn(void)
{
    bool idle = ring_length(&ready) == 0;
    reactor_flush(&reactor, idle, on_refused, on_released, NULL);
    int n;
    if (!idle) {
        n = reactor_wait(&reactor, 0);
    }
    else {
        woken = false;
        sleeping = true;
        int64_t limit_ns = reactor_sleep_limit_ns(&reactor, PL_FOREVER);
        CHECK_EQ(pthread_mutex_unlock(&lock), 0);
        n = reactor_sleep(&reactor, limit_ns);
        CHECK_EQ(pthread_mutex_lock(&lock), 0);
        n = reactor_take_events(&reactor, n);
        sleeping = false;
    }
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        struct watch *watch = fdtable_get(&reactor.fds, reactor.events[i].fd);
        CHECK(watch->waiter[PL_SIDE_READ] == &waiter);
    }
    while (timerheap_pop_due(&reactor.timers, clock_monotonic_ns()) != NULL) {
    }
}

static void
test_work_from_threads(const struct poller_ops *ops)
{
    CHECK_EQ(reactor_init(&reactor, ops), 0);
    CHECK_EQ(ring_init(&ready, 2), 0);
    n_wakeups = 0;
    uintptr_t next[N_THREADS] = {0};
    pthread_t threads[N_THREADS];
    CHECK_EQ(pthread_mutex_lock(&lock), 0);
    for (uintptr_t id = 0; id < N_THREADS; id++) {
        CHECK_EQ(pthread_create(&threads[id], NULL, give_work, (void *)id), 0);
    }
    for (unsigned n_taken = 0; n_taken < N_THREADS * N_PUSHES;) {
        turn();
        while (ring_length(&ready) > 0) {
            uintptr_t number = (uintptr_t)ring_pop(&ready);
            CHECK_EQ(number / N_THREADS, next[number % N_THREADS]++);
            n_taken++;
        }
    }
    CHECK_EQ(pthread_mutex_unlock(&lock), 0);
    for (int id = 0; id < N_THREADS; id++) {
        void *fd;
        CHECK_EQ(pthread_join(threads[id], &fd), 0);
        close((int)(uintptr_t)fd);
    }
    CHECK(n_wakeups > 0);
    CHECK_EQ(reactor.timers.length, 0);
    CHECK_EQ(reactor.n_waiters, 0);
    ring_destroy(&ready);
    reactor_destroy(&reactor);
}

/* What wakes a sleeper is never overtaken by the sleep: each round waits for
 * exactly one signal, given as late or as early as the scheduler likes. */
static void *
signal_once(void *arg)
{
    wakeup_signal(&((struct reactor *)arg)->wakeup);
    return NULL;
}

static void
test_every_signal_ends_a_sleep(const struct poller_ops *ops)
{
    CHECK_EQ(reactor_init(&reactor, ops), 0);
    for (int round = 0; round < 300; round++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, signal_once, &reactor), 0);
        CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    reactor_destroy(&reactor);
}

int
main(void)
{
    alarm(100); /* a lost wake-up would be a sleep without end */
    for (const char *const *name = poller_names(); *name != NULL; name++) {
        const struct poller_ops *ops;
        CHECK_EQ(poller_find(*name, &ops), 0);
        test_every_signal_ends_a_sleep(ops);
        test_work_from_threads(ops);
    }
    return 0;
}
