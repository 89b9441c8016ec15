/* The reactor on each backend, seen through a poller that counts and can be
 * told to fail; and the reactor against a model with a poller made of memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "core/reactor.h"

#define MS PL_NS_PER_MS

/* --- a poller that watches what another one is told --- */

static const struct poller_ops *inner;
static struct poller_ops counting;
static int n_updates;
static int n_created;
static int create_error; /* what the next create() answers */
static struct {
    int fd;
    uint32_t generation;
    unsigned armed;
    unsigned wanted;
} last;

static int
counting_create(struct poller **out)
{
    if (create_error != 0) {
        int error = create_error;
        create_error = 0;
        return error;
    }
    n_created++;
    return inner->create(out);
}

static int
counting_update(struct poller *poller, int fd, uint32_t generation,
                unsigned armed, unsigned wanted)
{
    n_updates++;
    last.fd = fd;
    last.generation = generation;
    last.armed = armed;
    last.wanted = wanted;
    return inner->update(poller, fd, generation, armed, wanted);
}

/* --- a reactor, and what its callbacks saw --- */

static struct reactor reactor;
static int n_refused;
static int n_released;
static int refused_error;
static void *released_owner;

static void
on_refused(struct watch *watch, int error, void *arg)
{
    CHECK(arg == &reactor);
    CHECK_EQ(watch->armed, 0);
    CHECK(watch->wanted != 0);
    n_refused++;
    refused_error = error;
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
}

static void
on_released(void *owner, void *arg)
{
    CHECK(arg == &reactor);
    CHECK(owner != NULL);
    n_released++;
    released_owner = owner;
}

static void
flush(bool about_to_sleep)
{
    reactor_flush(&reactor, about_to_sleep, on_refused, on_released, &reactor);
}

static void
reset_counts(void)
{
    n_updates = 0;
    n_refused = 0;
    n_released = 0;
    refused_error = 0;
    released_owner = NULL;
    memset(&last, 0, sizeof(last));
}

/* Opaque things to wait and to own. */
static char waiter_a, waiter_b, owner_a, owner_b;

/* A claim that must find nobody else. */
static struct watch *
claim(int fd, void *owner)
{
    struct watch *watch;
    void *old_owner;
    void *stale[2];
    CHECK(reactor_claim(&reactor, fd, owner, &watch, &old_owner, stale) >= 0);
    CHECK(old_owner == NULL);
    CHECK(stale[0] == NULL && stale[1] == NULL);
    CHECK_EQ(watch->fd, fd);
    return watch;
}

static void
set(struct watch *watch, int side, void *waiter)
{
    reactor_watch_set(&reactor, watch, side, waiter, false);
}

static void
check_event(int i, const struct watch *watch, uint32_t bits)
{
    CHECK_EQ(reactor.events[i].fd, watch->fd);
    CHECK_EQ(reactor.events[i].generation, watch->generation);
    CHECK_EQ(reactor.events[i].events, bits);
}

static void
make_pair(int pair[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                        pair),
             0);
}

static void
close_pair(int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

static void
send_byte(int fd)
{
    CHECK_EQ(write(fd, "x", 1), 1);
}

static void
receive_byte(int fd)
{
    char byte;
    CHECK_EQ(read(fd, &byte, 1), 1);
}

/* A wait that finds nothing and really waits: nothing spins. */
static void
check_quiet(void)
{
    int64_t start_ns = clock_monotonic_ns();
    CHECK_EQ(reactor_wait(&reactor, 3 * MS), 0);
    CHECK(clock_monotonic_ns() - start_ns >= 3 * MS);
}

/* --- the tests --- */

static void
test_steady_state_makes_no_updates(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], &owner_a);
    CHECK_EQ(reactor.n_waiters, 0);
    set(watch, PL_SIDE_READ, &waiter_a);
    CHECK_EQ(reactor.n_waiters, 1);
    CHECK_EQ(n_updates, 0); /* lazy */
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(last.fd, pair[0]);
    CHECK_EQ(last.armed, 0);
    CHECK_EQ(last.wanted, PL_READ);
    CHECK_EQ(watch->armed, PL_READ);
    uint32_t generation = watch->generation;

    reset_counts();
    for (int i = 0; i < 100; i++) {
        send_byte(pair[1]);
        CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
        check_event(0, watch, PL_READ);
        CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_READ) == &waiter_a);
        CHECK_EQ(reactor.n_waiters, 0);
        receive_byte(pair[0]);
        if (i % 2 == 0) {
            flush(false); /* between two awaits */
        }
        CHECK(claim(pair[0], &owner_a) == watch);
        set(watch, PL_SIDE_READ, &waiter_a);
        flush(true);
    }
    CHECK_EQ(n_updates, 0);
    CHECK_EQ(n_released, 0);
    CHECK_EQ(watch->generation, generation);

    CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_READ) == &waiter_a);
    CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_READ) == NULL);
    CHECK_EQ(reactor.n_waiters, 0);
    flush(false);
    CHECK_EQ(n_updates, 0);
    CHECK(watch->owner == &owner_a);
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(last.armed, PL_READ);
    CHECK_EQ(last.wanted, 0);
    CHECK_EQ(n_released, 1);
    CHECK(released_owner == &owner_a);
    CHECK(watch->owner == NULL);
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(n_released, 1);
    close_pair(pair);
}

static void
test_both_sides(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], &owner_a);
    reactor_watch_set(&reactor, watch, PL_SIDE_READ, &waiter_a, true);
    reactor_watch_set(&reactor, watch, PL_SIDE_WRITE, &waiter_b, false);
    CHECK_EQ(reactor.n_waiters, 2);
    CHECK_EQ(reactor.n_persistent, 1);
    CHECK_EQ(watch->persistent, PL_READ);
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, watch, PL_WRITE);
    CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE) == &waiter_b);
    CHECK_EQ(reactor.n_waiters, 1);
    CHECK_EQ(reactor.n_persistent, 1);

    /* New interest is told at any flush, and keeps what is left over. */
    CHECK(reactor_watch_clear(&reactor, watch, PL_SIDE_READ) == &waiter_a);
    CHECK_EQ(watch->persistent, 0);
    CHECK_EQ(reactor.n_persistent, 0);
    flush(true);
    reset_counts();
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(false);
    CHECK_EQ(last.wanted, PL_READ);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    set(watch, PL_SIDE_WRITE, &waiter_b);
    flush(false);
    CHECK_EQ(last.wanted, PL_READ | PL_WRITE);
    CHECK_EQ(n_updates, 2);
    flush(true);
    CHECK_EQ(last.wanted, PL_WRITE);
    CHECK_EQ(n_updates, 3);

    /* A hang-up is reported to the side that waits, and to no other. */
    close(pair[1]);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, watch, PL_WRITE);
    CHECK(list_is_empty(&reactor.dirty));
    reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
    CHECK(reactor_forget(&reactor, watch) == NULL);
    close(pair[0]);
}

static void
test_unwanted_interest_that_fires_is_taken_out(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    flush(false);
    CHECK_EQ(n_updates, 1);
    send_byte(pair[1]);
    CHECK_EQ(reactor_wait(&reactor, 0), 0);
    CHECK_EQ(n_updates, 1);
    flush(false); /* although the loop is not about to sleep */
    CHECK_EQ(n_updates, 2);
    CHECK_EQ(last.wanted, 0);
    CHECK_EQ(n_released, 1);
    check_quiet();

    /* One side fires unwanted, the other is waited for. */
    CHECK(claim(pair[0], &owner_a) == watch);
    set(watch, PL_SIDE_READ, &waiter_a);
    set(watch, PL_SIDE_WRITE, &waiter_b);
    flush(true);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    CHECK_EQ(reactor_wait(&reactor, 0), 1);
    check_event(0, watch, PL_WRITE);
    reset_counts();
    flush(false);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(last.wanted, PL_WRITE);

    /* Unwanted, and wanted again before the flush: nothing to tell. */
    reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
    CHECK_EQ(reactor_wait(&reactor, 0), 0);
    set(watch, PL_SIDE_WRITE, &waiter_b);
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
    flush(true);
    close_pair(pair);
}

static void
test_events_are_packed(void)
{
    int pairs[3][2];
    struct watch *watches[3];
    for (int i = 0; i < 3; i++) {
        make_pair(pairs[i]);
        watches[i] = claim(pairs[i][0], NULL);
        set(watches[i], PL_SIDE_WRITE, &waiter_a);
    }
    flush(true);
    reactor_watch_clear(&reactor, watches[0], PL_SIDE_WRITE);
    reactor_watch_clear(&reactor, watches[1], PL_SIDE_WRITE);
    wakeup_signal(&reactor.wakeup);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, watches[2], PL_WRITE);
    reactor_watch_clear(&reactor, watches[2], PL_SIDE_WRITE);
    flush(true);
    check_quiet();
    for (int i = 0; i < 3; i++) {
        close_pair(pairs[i]);
    }
}

static void
test_refused(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    close(pair[0]);
    flush(false);
    CHECK_EQ(n_refused, 1);
    CHECK_EQ(refused_error, -EBADF);
    CHECK_EQ(n_released, 1);
    CHECK(released_owner == &owner_a);
    CHECK(watch->owner == NULL);
    CHECK_EQ(reactor.n_waiters, 0);
    flush(true);
    CHECK_EQ(n_refused, 1);
    CHECK_EQ(n_released, 1);
    check_quiet();

    /* Refused when it is changed, after it was once accepted. */
    int fd = fcntl(pair[1], F_DUPFD_CLOEXEC, pair[0]);
    CHECK_EQ(fd, pair[0]);
    CHECK(claim(fd, &owner_b) == watch);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    close_pair(pair);
    set(watch, PL_SIDE_WRITE, &waiter_b);
    flush(true);
    CHECK_EQ(n_refused, 2);
    CHECK_EQ(n_released, 2);
    CHECK(released_owner == &owner_b);
    CHECK_EQ(reactor.n_waiters, 0);
    check_quiet();
}

static void
test_bad_numbers_are_not_claimed(void)
{
    struct watch *watch;
    void *old_owner;
    void *stale[2];
    static const int bad[] = {-1, -1000, 999999, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(reactor_claim(&reactor, bad[i], &owner_a, &watch, &old_owner,
                               stale),
                 -EBADF);
    }
    CHECK_EQ(reactor.fds.n_chunks, 0);
}

static void
test_unarmed_owner_is_released(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch;
    void *old_owner;
    void *stale[2];
    CHECK_EQ(
        reactor_claim(&reactor, pair[0], &owner_a, &watch, &old_owner, stale),
        1);
    CHECK_EQ(
        reactor_claim(&reactor, pair[0], &owner_a, &watch, &old_owner, stale),
        0);
    CHECK(old_owner == NULL);
    set(watch, PL_SIDE_READ, &waiter_a);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    flush(true);
    CHECK_EQ(n_updates, 0);
    CHECK_EQ(n_released, 1);
    CHECK(released_owner == &owner_a);
    close_pair(pair);
}

static void
test_new_owner_replaces_the_old(void)
{
    int pair[2];
    int other[2];
    make_pair(pair);
    make_pair(other);
    struct watch *watch = claim(pair[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    reactor_watch_set(&reactor, watch, PL_SIDE_WRITE, &waiter_b, true);
    watch->hints = PL_HINT_DRAINED;
    flush(true);
    uint32_t generation = watch->generation;

    /* The number is closed and reused behind the reactor's back. */
    CHECK_EQ(dup2(other[0], pair[0]), pair[0]);
    struct watch *again;
    void *old_owner;
    void *stale[2];
    CHECK_EQ(
        reactor_claim(&reactor, pair[0], &owner_b, &again, &old_owner, stale),
        1);
    CHECK(again == watch);
    CHECK(old_owner == &owner_a);
    CHECK(stale[PL_SIDE_READ] == &waiter_a);
    CHECK(stale[PL_SIDE_WRITE] == &waiter_b);
    CHECK(watch->owner == &owner_b);
    CHECK_EQ(reactor.n_waiters, 0);
    CHECK_EQ(watch->wanted, 0);
    CHECK_EQ(watch->armed, 0);
    CHECK_EQ(watch->persistent, 0);
    CHECK_EQ(watch->hints, 0);
    CHECK(watch->generation != generation);

    set(watch, PL_SIDE_READ, &waiter_b);
    flush(true);
    CHECK_EQ(n_released, 0);
    CHECK_EQ(reactor_wait(&reactor, 0), 0); /* not the old one's hang-up */
    send_byte(other[1]);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, watch, PL_READ);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    flush(true);
    CHECK_EQ(n_released, 1);
    CHECK(released_owner == &owner_b);
    close_pair(pair);
    close_pair(other);
}

/* Two objects for one open file, one after the other: the registration is
 * still there (EEXIST), and if nobody waits it is taken out. */
static void
test_new_owner_of_the_same_file(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);

    void *old_owner;
    void *stale[2];
    CHECK_EQ(
        reactor_claim(&reactor, pair[0], &owner_b, &watch, &old_owner, stale),
        1);
    CHECK(old_owner == &owner_a);
    CHECK(stale[0] == NULL && stale[1] == NULL);
    set(watch, PL_SIDE_READ, &waiter_b);
    flush(true);
    CHECK_EQ(n_refused, 0);
    send_byte(pair[1]);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, watch, PL_READ);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);

    CHECK_EQ(
        reactor_claim(&reactor, pair[0], &owner_a, &watch, &old_owner, stale),
        1);
    CHECK(old_owner == &owner_b);
    reset_counts();
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(last.wanted, 0);
    CHECK_EQ(n_released, 1);
    CHECK(released_owner == &owner_a);
    check_quiet();
    CHECK_EQ(n_created, 1);
    close_pair(pair);
}

static void
test_bare_numbers_ask_the_kernel_anew(void)
{
    int pair[2];
    int other[2];
    make_pair(pair);
    make_pair(other);
    struct watch *watch = claim(pair[0], NULL);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    CHECK_EQ(n_updates, 1);
    for (int i = 0; i < 10; i++) {
        uint32_t generation = watch->generation;
        reset_counts();
        if (i == 5) { /* the number means another file now */
            CHECK_EQ(dup2(other[0], pair[0]), pair[0]);
        }
        reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
        flush(false);
        CHECK_EQ(n_updates, 0);
        CHECK(claim(pair[0], NULL) == watch);
        CHECK_EQ(watch->armed, 0);
        CHECK(watch->generation != generation);
        set(watch, PL_SIDE_READ, &waiter_a);
        flush(true);
        CHECK_EQ(n_updates, 1);
        CHECK(last.armed != 0); /* one call: modify */
        CHECK_EQ(last.generation, watch->generation);
        int peer = i < 5 ? pair[1] : other[1];
        send_byte(peer);
        CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
        check_event(0, watch, PL_READ);
        receive_byte(pair[0]);
    }
    /* With a waiter it matches: the other side joins. */
    uint32_t generation = watch->generation;
    CHECK(claim(pair[0], NULL) == watch);
    CHECK_EQ(watch->generation, generation);
    CHECK(watch->waiter[PL_SIDE_READ] == &waiter_a);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    CHECK(reactor_forget(&reactor, watch) == NULL);
    CHECK_EQ(n_released, 0);
    close_pair(pair);
    close_pair(other);
}

static void
test_doubted_owner_asks_the_kernel_anew(void)
{
    int pair[2];
    int other[2];
    make_pair(pair);
    make_pair(other);
    struct watch *watch = claim(pair[0], &owner_a);
    reactor_doubt(&reactor, watch); /* of what was never told: harmless */
    CHECK(list_is_empty(&reactor.dirty) || watch->armed == 0);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    for (int i = 0; i < 10; i++) {
        uint32_t generation = watch->generation;
        reset_counts();
        if (i == 5) { /* the owner has opened another file */
            CHECK_EQ(dup2(other[0], pair[0]), pair[0]);
        }
        reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
        flush(false);
        CHECK_EQ(n_updates, 0);
        CHECK(claim(pair[0], &owner_a) == watch);
        reactor_doubt(&reactor, watch);
        CHECK(watch->generation != generation);
        set(watch, PL_SIDE_READ, &waiter_a);
        flush(true);
        CHECK_EQ(n_updates, 1);
        CHECK_EQ(last.armed, PL_READ); /* one call: modify */
        CHECK_EQ(last.generation, watch->generation);
        send_byte(i < 5 ? pair[1] : other[1]);
        CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
        check_event(0, watch, PL_READ);
        receive_byte(pair[0]);
    }
    CHECK_EQ(n_created, 1);
    CHECK_EQ(n_released, 0);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    flush(true);
    CHECK_EQ(n_released, 1);
    close_pair(pair);
    close_pair(other);
}

static void
test_bare_numbers_and_owners_meet(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], NULL);
    reactor_watch_set(&reactor, watch, PL_SIDE_READ, &waiter_a, true);
    flush(true);
    /* An owner comes to waiters of a bare number. */
    void *old_owner;
    void *stale[2];
    CHECK_EQ(
        reactor_claim(&reactor, pair[0], &owner_a, &watch, &old_owner, stale),
        1);
    CHECK(old_owner == NULL && stale[0] == NULL && stale[1] == NULL);
    CHECK(watch->owner == &owner_a);
    set(watch, PL_SIDE_WRITE, &waiter_b);
    flush(true);
    /* A bare number comes to waiters of an owner. */
    reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
    CHECK_EQ(reactor_claim(&reactor, pair[0], NULL, &watch, &old_owner, stale),
             0);
    CHECK(old_owner == NULL && stale[0] == NULL && stale[1] == NULL);
    CHECK(watch->owner == &owner_a);
    CHECK(watch->waiter[PL_SIDE_READ] == &waiter_a);
    /* The write interest is left over from before, and no longer sure. */
    reset_counts();
    set(watch, PL_SIDE_WRITE, &waiter_b);
    flush(true);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(last.wanted, PL_READ | PL_WRITE);
    reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);

    /* Nobody waits any more: a bare number is somebody else. */
    CHECK_EQ(reactor_claim(&reactor, pair[0], NULL, &watch, &old_owner, stale),
             0);
    CHECK(old_owner == &owner_a);
    CHECK(watch->owner == NULL);
    flush(true);
    CHECK_EQ(n_released, 0);
    CHECK_EQ(last.wanted, 0);
    close_pair(pair);
}

static void
test_forget(void)
{
    int pair[2];
    make_pair(pair);
    struct watch *watch = claim(pair[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    watch->hints = PL_HINT_DRAINED;
    flush(true);
    uint32_t generation = watch->generation;
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    reset_counts();
    CHECK(reactor_forget(&reactor, watch) == &owner_a);
    CHECK_EQ(n_updates, 1);
    CHECK_EQ(last.wanted, 0);
    CHECK(watch->generation != generation);
    CHECK(watch->owner == NULL);
    CHECK_EQ(watch->hints, 0);
    CHECK(!list_is_linked(&watch->dirty));
    send_byte(pair[1]);
    flush(true);
    CHECK_EQ(n_released, 0);
    check_quiet();
    /* Nothing armed: no call. */
    CHECK(reactor_forget(&reactor, watch) == NULL);
    CHECK_EQ(n_updates, 1);
    close_pair(pair);
}

/* A duplicate keeps a registration alive that cannot be reached any more. */
static void
test_orphan_renews_the_poller(void)
{
    bool is_epoll = strcmp(inner->name, "epoll") == 0;
    int pair[2];
    int other[2];
    make_pair(pair);
    make_pair(other);
    struct watch *bystander = claim(other[0], NULL);
    set(bystander, PL_SIDE_READ, &waiter_b);
    struct watch *watch = claim(pair[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    int duplicate = fcntl(pair[0], F_DUPFD_CLOEXEC, 0);
    CHECK(duplicate >= 0);
    close(pair[0]);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    flush(true);
    CHECK_EQ(n_released, 1);
    send_byte(pair[1]);

    /* The first event is answered by another attempt to drop it, the second
     * by a new poller, which at first cannot be made. */
    create_error = is_epoll ? -EMFILE : 0;
    for (int turn = 0; turn < 3; turn++) {
        CHECK_EQ(reactor_wait(&reactor, 0), 0);
        flush(true);
    }
    CHECK_EQ(create_error, 0);
    CHECK_EQ(n_created, is_epoll ? 2 : 1);
    check_quiet();

    /* The others are registered again, and the wake-up works. */
    send_byte(other[1]);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, bystander, PL_READ);
    receive_byte(other[0]);
    wakeup_signal(&reactor.wakeup);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
    reactor_watch_clear(&reactor, bystander, PL_SIDE_READ);
    flush(true);
    close(duplicate);
    close(pair[1]);
    close_pair(other);
}

/* The same, with the number in use again for another owner: its waiters never
 * see the old file's events. */
static void
test_orphan_is_not_mistaken_for_the_new_file(void)
{
    int old[2];
    int new[2];
    make_pair(old);
    make_pair(new);
    struct watch *watch = claim(old[0], &owner_a);
    set(watch, PL_SIDE_READ, &waiter_a);
    flush(true);
    int duplicate = fcntl(old[0], F_DUPFD_CLOEXEC, 0);
    CHECK(duplicate >= 0);
    CHECK_EQ(dup2(new[0], old[0]), old[0]);
    void *old_owner;
    void *stale[2];
    CHECK_EQ(
        reactor_claim(&reactor, old[0], &owner_b, &watch, &old_owner, stale),
        1);
    CHECK(stale[PL_SIDE_READ] == &waiter_a);
    set(watch, PL_SIDE_READ, &waiter_b);
    flush(true);
    send_byte(old[1]);
    for (int turn = 0; turn < 3; turn++) {
        CHECK_EQ(reactor_wait(&reactor, 0), 0);
        flush(true);
    }
    check_quiet();
    send_byte(new[1]);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, watch, PL_READ);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    flush(true);
    CHECK_EQ(n_refused, 0);
    close(duplicate);
    close_pair(old);
    close_pair(new);
}

static void
test_wakeup_and_timers(void)
{
    wakeup_signal(&reactor.wakeup);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
    check_quiet(); /* it was drained */

    /* Signal numbers add up until the loop above takes them. */
    CHECK_EQ(reactor.signals, 0);
    CHECK_EQ(write(reactor.wakeup.write_fd, "\x02\x0f", 2), 2);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
    CHECK_EQ(write(reactor.wakeup.write_fd, "\x01", 1), 1);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
    CHECK_EQ(reactor.signals, 1 << 0 | 1 << 1 | 1 << 14);
    reactor.signals = 0;

    struct timer timer;
    timer_node_init(&timer);
    int64_t start_ns = clock_monotonic_ns();
    CHECK_EQ(reactor_timeout_ns(&reactor, 5 * MS), 5 * MS);
    CHECK_EQ(reactor_timeout_ns(&reactor, PL_FOREVER), PL_FOREVER);
    CHECK_EQ(reactor_timeout_ns(&reactor, 0), 0);
    CHECK_EQ(timerheap_push(&reactor.timers, &timer, start_ns + 4 * MS), 0);
    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 0);
    int64_t now_ns = clock_monotonic_ns();
    CHECK(now_ns >= start_ns + 4 * MS);
    CHECK_EQ(reactor_timeout_ns(&reactor, PL_FOREVER), 0);
    CHECK(timerheap_pop_due(&reactor.timers, now_ns) == &timer);

    CHECK_EQ(timerheap_push(&reactor.timers, &timer, INT64_MIN), 0);
    CHECK_EQ(reactor_timeout_ns(&reactor, PL_FOREVER), 0);
    timerheap_remove(&reactor.timers, &timer);
    CHECK_EQ(timerheap_push(&reactor.timers, &timer,
                            start_ns + 3600 * PL_NS_PER_SEC),
             0);
    CHECK_EQ(reactor_timeout_ns(&reactor, 7), 7);
    CHECK(reactor_timeout_ns(&reactor, PL_FOREVER) <= 3600 * PL_NS_PER_SEC);
    timerheap_remove(&reactor.timers, &timer);
}

/* --- callbacks that do everything they should not --- */

static struct watch *victims[4];

static void
evil_refused(struct watch *watch, int error, void *arg)
{
    (void)arg;
    n_refused++;
    CHECK_EQ(error, -EBADF);
    reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
    /* One that was told or is still to be told: forgotten. */
    reactor_watch_clear(&reactor, victims[1], PL_SIDE_READ);
    CHECK(reactor_forget(&reactor, victims[1]) == NULL);
    /* One that may be on the flush's list gets more interest. */
    if (victims[2]->waiter[PL_SIDE_WRITE] == NULL) {
        set(victims[2], PL_SIDE_WRITE, &waiter_b);
    }
    /* And a clean one becomes dirty. */
    if (victims[3]->waiter[PL_SIDE_READ] == NULL) {
        set(victims[3], PL_SIDE_READ, &waiter_b);
    }
}

static void
evil_released(void *owner, void *arg)
{
    (void)arg;
    CHECK(owner == &owner_a);
    n_released++;
    /* The same watch, claimed and waited for again: it was closed, so it will
     * be refused at the next flush. */
    if (n_released == 1) {
        struct watch *watch = claim(victims[0]->fd, &owner_a);
        CHECK(watch == victims[0]);
        set(watch, PL_SIDE_READ, &waiter_a);
    }
}

/* `bad_at`: the place of the refused watch on the flush's list. */
static void
run_evil_callbacks(int bad_at)
{
    int pairs[4][2];
    for (int i = 0; i < 4; i++) {
        make_pair(pairs[i]);
        victims[i] = claim(pairs[i][0], NULL);
    }
    flush(true);
    reset_counts();
    int order[3] = {0, 1, 2};
    order[0] = bad_at;
    order[bad_at] = 0;
    for (int i = 0; i < 3; i++) {
        if (order[i] == 0) {
            CHECK(claim(pairs[0][0], &owner_a) == victims[0]);
        }
        set(victims[order[i]], PL_SIDE_READ, &waiter_a);
    }
    close(pairs[0][0]);
    reactor_flush(&reactor, true, evil_refused, evil_released, NULL);
    CHECK_EQ(n_refused, 1);
    CHECK_EQ(n_released, 1);
    /* What came too late for that flush keeps the reactor from sleeping. */
    CHECK(!list_is_empty(&reactor.dirty));
    CHECK(reactor_wait(&reactor, PL_FOREVER) >= 0);
    reactor_flush(&reactor, true, evil_refused, evil_released, NULL);
    CHECK_EQ(n_refused, 2);
    CHECK_EQ(n_released, 2);
    CHECK_EQ(victims[1]->armed, 0);
    CHECK_EQ(victims[2]->armed, PL_READ | PL_WRITE);
    CHECK_EQ(victims[3]->armed, PL_READ);
    CHECK_EQ(reactor.n_waiters, 3);

    CHECK_EQ(reactor_wait(&reactor, PL_FOREVER), 1);
    check_event(0, victims[2], PL_WRITE);
    reactor_watch_clear(&reactor, victims[2], PL_SIDE_READ);
    reactor_watch_clear(&reactor, victims[2], PL_SIDE_WRITE);
    reactor_watch_clear(&reactor, victims[3], PL_SIDE_READ);
    flush(true);
    CHECK(list_is_empty(&reactor.dirty));
    CHECK_EQ(reactor.n_waiters, 0);
    close(pairs[0][1]);
    for (int i = 1; i < 4; i++) {
        close_pair(pairs[i]);
    }
}

static void
test_callbacks_may_change_any_watch(void)
{
    for (int bad_at = 0; bad_at < 3; bad_at++) {
        run_evil_callbacks(bad_at);
    }
}

/* --- against a model, on a poller made of memory --- */

#define N_FDS 8
#define N_OWNERS 5

struct poller {
    struct {
        unsigned events; /* registered */
        uint32_t generation;
    } entries[N_FDS];
};

static int model_fds[N_FDS]; /* open descriptors, for claim to find */
static uint64_t model_seed;
static char model_owners[N_OWNERS];
static char model_waiters[N_FDS][2];
/* The model: how many watches hold each owner, and who waits. */
static int n_references[N_OWNERS];
static bool is_waiting[N_FDS][2];
static struct poller *memory_last;

static int
memory_probe(void)
{
    return 0;
}

static int
memory_create(struct poller **out)
{
    struct poller *poller = pl_alloc(sizeof(*poller));
    CHECK(poller != NULL);
    memset(poller, 0, sizeof(*poller));
    memory_last = *out = poller;
    return 0;
}

static void
memory_destroy(struct poller *poller)
{
    pl_free(poller);
}

static int
index_of_fd(int fd)
{
    int i = 0;
    while (model_fds[i] != fd) {
        i++;
        CHECK(i < N_FDS);
    }
    return i;
}

static int
memory_update(struct poller *poller, int fd, uint32_t generation,
              unsigned armed, unsigned wanted)
{
    if (fd == reactor.wakeup.read_fd) {
        return 0;
    }
    int i = index_of_fd(fd);
    /* The reactor may believe too much, never too little: only a new owner's
     * first registration may meet one it does not count. */
    CHECK(armed != 0 || poller->entries[i].events == 0
          || generation != poller->entries[i].generation);
    if (wanted != 0 && check_random(&model_seed) % 20 == 0) {
        poller->entries[i].events = 0;
        return -EBADF;
    }
    poller->entries[i].events = wanted;
    poller->entries[i].generation = generation;
    return 0;
}

static int
memory_wait(struct poller *poller, struct poller_event *events, int n,
            int64_t timeout_ns)
{
    CHECK(n > N_FDS);
    CHECK(timeout_ns >= 0);
    int n_stored = 0;
    for (int i = 0; i < N_FDS; i++) {
        struct poller_event event = {
            .fd = model_fds[i],
            .generation = poller->entries[i].generation,
            .events = poller->entries[i].events,
        };
        uint32_t dice = check_random(&model_seed) % 100;
        if (dice == 0) { /* an orphan */
            event.generation -= check_random(&model_seed) % 2;
            event.events = 1 + check_random(&model_seed) % 3;
        }
        else if (dice < 5) { /* a hang-up */
            event.events = event.events != 0 ? PL_READ | PL_WRITE : 0;
        }
        else if (dice < 50) {
            event.events &= check_random(&model_seed) % 4;
        }
        else {
            event.events = 0;
        }
        if (event.events != 0) {
            events[n_stored++] = event;
        }
    }
    return n_stored;
}

static int
memory_fileno(const struct poller *poller)
{
    (void)poller;
    return -1;
}

static const struct poller_ops memory_ops = {
    .name = "memory",
    .probe = memory_probe,
    .create = memory_create,
    .destroy = memory_destroy,
    .update = memory_update,
    .wait = memory_wait,
    .fileno = memory_fileno,
};

static void
model_unreference(const void *owner)
{
    if (owner != NULL) {
        ptrdiff_t i = (const char *)owner - model_owners;
        CHECK(n_references[i] > 0);
        n_references[i]--;
    }
}

static void
model_refused(struct watch *watch, int error, void *arg)
{
    (void)arg;
    CHECK_EQ(error, -EBADF);
    CHECK_EQ(watch->armed, 0);
    int i = index_of_fd(watch->fd);
    for (int side = 0; side < 2; side++) {
        void *waiter = reactor_watch_clear(&reactor, watch, side);
        CHECK(waiter
              == (is_waiting[i][side] ? &model_waiters[i][side] : NULL));
        is_waiting[i][side] = false;
    }
}

static void
model_released(void *owner, void *arg)
{
    (void)arg;
    model_unreference(owner);
}

static void
model_claim(int i)
{
    uint32_t which = check_random(&model_seed) % (N_OWNERS + 1);
    void *owner = which < N_OWNERS ? &model_owners[which] : NULL;
    struct watch *watch;
    void *old_owner;
    void *stale[2];
    int rc = reactor_claim(&reactor, model_fds[i], owner, &watch, &old_owner,
                           stale);
    CHECK(rc == 0 || rc == 1);
    if (rc == 1) {
        n_references[which]++;
    }
    model_unreference(old_owner);
    for (int side = 0; side < 2; side++) {
        if (stale[side] != NULL) {
            CHECK(is_waiting[i][side]);
            CHECK(stale[side] == &model_waiters[i][side]);
            is_waiting[i][side] = false;
        }
    }
    CHECK(owner == NULL || watch->owner == owner);
    int side = (int)(check_random(&model_seed) % 2);
    if (!is_waiting[i][side]) {
        reactor_watch_set(&reactor, watch, side, &model_waiters[i][side],
                          check_random(&model_seed) % 2 != 0);
        is_waiting[i][side] = true;
    }
}

static void
model_clear(struct watch *watch, int i, int side)
{
    void *waiter = reactor_watch_clear(&reactor, watch, side);
    CHECK(waiter == (is_waiting[i][side] ? &model_waiters[i][side] : NULL));
    is_waiting[i][side] = false;
}

static void
model_wait(void)
{
    int n = reactor_wait(&reactor, 0);
    CHECK(n >= 0 && n <= N_FDS);
    for (int k = 0; k < n; k++) {
        const struct poller_event *event = &reactor.events[k];
        const struct watch *watch = fdtable_get(&reactor.fds, event->fd);
        CHECK(watch != NULL);
        CHECK_EQ(event->generation, watch->generation);
        CHECK(event->events != 0);
        CHECK_EQ(event->events & ~(unsigned)watch->wanted, 0);
    }
}

static void
model_check(bool is_settled)
{
    unsigned n_waiters = 0;
    int n_held[N_OWNERS] = {0};
    for (int i = 0; i < N_FDS; i++) {
        const struct watch *watch = fdtable_get(&reactor.fds, model_fds[i]);
        if (watch == NULL) {
            continue;
        }
        unsigned wanted = (is_waiting[i][0] ? PL_READ : 0u)
                          | (is_waiting[i][1] ? PL_WRITE : 0u);
        n_waiters += is_waiting[i][0] + is_waiting[i][1];
        CHECK_EQ(watch->wanted, wanted);
        CHECK_EQ(watch->persistent & ~wanted, 0);
        CHECK(watch->generation != UINT32_MAX);
        if (watch->wanted != watch->armed) {
            CHECK(list_is_linked(&watch->dirty));
        }
        if (watch->owner != NULL) {
            n_held[(char *)watch->owner - model_owners]++;
            CHECK(watch->armed != 0 || watch->wanted != 0
                  || list_is_linked(&watch->dirty));
        }
        if (is_settled) {
            CHECK_EQ(watch->armed, wanted);
            CHECK_EQ(memory_last->entries[i].events, wanted);
            CHECK(wanted == 0
                  || memory_last->entries[i].generation == watch->generation);
            CHECK(!list_is_linked(&watch->dirty));
            CHECK(wanted != 0 || watch->owner == NULL);
        }
    }
    CHECK_EQ(reactor.n_waiters, n_waiters);
    for (int i = 0; i < N_OWNERS; i++) {
        CHECK_EQ(n_references[i], n_held[i]);
    }
}

static void
model_step(void)
{
    int i = (int)(check_random(&model_seed) % N_FDS);
    struct watch *watch = fdtable_get(&reactor.fds, model_fds[i]);
    uint32_t what = check_random(&model_seed) % 16;
    bool is_settled = false;
    if (what < 5) {
        model_claim(i);
    }
    else if (what < 10) {
        if (watch != NULL) {
            model_clear(watch, i, (int)(check_random(&model_seed) % 2));
        }
    }
    else if (what < 11) {
        if (watch != NULL) {
            model_clear(watch, i, PL_SIDE_READ);
            model_clear(watch, i, PL_SIDE_WRITE);
            model_unreference(reactor_forget(&reactor, watch));
        }
    }
    else if (what < 13) {
        model_wait();
    }
    else {
        is_settled = what == 15;
        reactor_flush(&reactor, is_settled, model_refused, model_released,
                      NULL);
    }
    model_check(is_settled);
}

static void
test_against_a_model(void)
{
    model_seed = 11;
    for (int i = 0; i < N_FDS; i++) {
        model_fds[i] = eventfd(0, EFD_CLOEXEC);
        CHECK(model_fds[i] >= 0);
    }
    CHECK_EQ(reactor_init(&reactor, &memory_ops), 0);
    for (int round = 0; round < 100000; round++) {
        model_step();
    }
    for (int i = 0; i < N_FDS; i++) {
        struct watch *watch = fdtable_get(&reactor.fds, model_fds[i]);
        model_clear(watch, i, PL_SIDE_READ);
        model_clear(watch, i, PL_SIDE_WRITE);
        close(model_fds[i]);
    }
    reactor_flush(&reactor, true, model_refused, model_released, NULL);
    model_check(true);
    for (int i = 0; i < N_OWNERS; i++) {
        CHECK_EQ(n_references[i], 0);
    }
    reactor_destroy(&reactor);
}

/* --- */

static void
test_backend(const char *name)
{
    CHECK_EQ(poller_find(name, &inner), 0);
    counting = *inner;
    counting.create = counting_create;
    counting.update = counting_update;
    void (*const tests[])(void) = {
        test_steady_state_makes_no_updates,
        test_both_sides,
        test_unwanted_interest_that_fires_is_taken_out,
        test_events_are_packed,
        test_refused,
        test_bad_numbers_are_not_claimed,
        test_unarmed_owner_is_released,
        test_new_owner_replaces_the_old,
        test_new_owner_of_the_same_file,
        test_bare_numbers_ask_the_kernel_anew,
        test_doubted_owner_asks_the_kernel_anew,
        test_bare_numbers_and_owners_meet,
        test_forget,
        test_orphan_renews_the_poller,
        test_orphan_is_not_mistaken_for_the_new_file,
        test_wakeup_and_timers,
        test_callbacks_may_change_any_watch,
    };
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        n_created = 0;
        CHECK_EQ(reactor_init(&reactor, &counting), 0);
        reset_counts();
        tests[i]();
        CHECK_EQ(reactor.n_waiters, 0);
        CHECK(list_is_empty(&reactor.dirty));
        reactor_destroy(&reactor);
    }
    create_error = -EMFILE;
    CHECK_EQ(reactor_init(&reactor, &counting), -EMFILE);
    reactor_destroy(&reactor); /* harmless */
}

int
main(void)
{
    for (const char *const *name = poller_names(); *name != NULL; name++) {
        test_backend(*name);
    }
    test_against_a_model();
    return 0;
}
