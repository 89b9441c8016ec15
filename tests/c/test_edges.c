/* Reads that are watched by edges: what a poller reports then, and that the
 * reactor loses nothing by it.  On real TCP sockets, for that is what edges
 * are about. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "core/reactor.h"

#define EDGE (PL_READ | PL_EDGE)

static const struct poller_ops *inner;
static struct poller_ops counting;
static int n_updates;
static unsigned last_wanted;
static struct reactor reactor;
static char waiter, writer, owner, other_owner;

static int
counting_update(struct poller *poller, int fd, uint32_t generation,
                unsigned armed, unsigned wanted)
{
    n_updates++;
    last_wanted = wanted;
    return inner->update(poller, fd, generation, armed, wanted);
}

/* Two ends of a connection: pair[0] is ours, pair[1] the peer's. */
static void
connect_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof(address);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(listener >= 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, length), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    pair[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(pair[1], (struct sockaddr *)&address, length), 0);
    pair[0] = accept(listener, NULL, NULL);
    CHECK(pair[0] >= 0);
    close(listener);
}

static void
close_pair(int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

static bool
is_readable(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    CHECK(poll(&entry, 1, 0) >= 0);
    return entry.revents != 0;
}

static void
send_bytes(int fd, size_t n)
{
    static const char bytes[4096];
    CHECK_EQ(send(fd, bytes, n, MSG_NOSIGNAL), n);
}

/* As the layers above read: less than was asked for means drained. */
static ssize_t
read_some(struct watch *watch, size_t size)
{
    char buffer[4096];
    ssize_t n = recv(watch->fd, buffer, size, MSG_DONTWAIT);
    bool drained = n < 0 ? errno == EAGAIN : n > 0 && (size_t)n < size;
    watch->hints = drained ? PL_HINT_DRAINED : 0;
    return n;
}

static struct watch *
claim(int fd, void *by)
{
    struct watch *watch;
    void *old_owner;
    void *stale[2];
    CHECK(reactor_claim(&reactor, fd, by, &watch, &old_owner, stale) >= 0);
    CHECK(stale[0] == NULL && stale[1] == NULL);
    return watch;
}

static void
set(struct watch *watch, unsigned how)
{
    reactor_watch_set(&reactor, watch, PL_SIDE_READ, &waiter, how);
}

static void
clear(struct watch *watch)
{
    (void)reactor_watch_clear(&reactor, watch, PL_SIDE_READ);
}

static void
on_refused(struct watch *watch, int error, void *arg)
{
    (void)arg;
    fprintf(stderr, "fd %d refused: %s\n", watch->fd, strerror(-error));
    exit(1);
}

static void
on_released(void *by, void *arg)
{
    (void)arg;
    CHECK(by == &owner || by == &other_owner);
}

static void
flush(bool about_to_sleep)
{
    reactor_flush(&reactor, about_to_sleep, on_refused, on_released, NULL);
}

static int
look(void)
{
    flush(true);
    return reactor_wait(&reactor, 0);
}

static void
leave(struct watch *watch, int pair[2])
{
    clear(watch);
    (void)reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
    (void)reactor_forget(&reactor, watch);
    close_pair(pair);
}

/* Somebody who drains waits for a new connection. */
static struct watch *
begin(int pair[2])
{
    connect_pair(pair);
    struct watch *watch = claim(pair[0], &owner);
    set(watch, PL_WAIT_DRAINS);
    CHECK_EQ(look(), 0);
    return watch;
}

/* --- the poller --- */

static int
ask(struct poller *poller, struct poller_event *event)
{
    return inner->wait(poller, event, 1, 0);
}

static void
test_poller_reports_an_edge_once(void)
{
    struct poller *poller;
    struct poller_event event;
    int pair[2];
    connect_pair(pair);
    CHECK_EQ(inner->create(&poller), 0);
    CHECK_EQ(inner->update(poller, pair[0], 7, 0, EDGE), 0);
    CHECK_EQ(ask(poller, &event), 0);
    for (int i = 0; i < 3; i++) {
        send_bytes(pair[1], 1);
        CHECK_EQ(ask(poller, &event), 1);
        CHECK_EQ(event.fd, pair[0]);
        CHECK_EQ(event.generation, 7);
        CHECK_EQ(event.events, PL_READ);
        CHECK_EQ(ask(poller, &event), 0);
    }
    /* Told again, it looks again; by level it repeats. */
    CHECK_EQ(inner->update(poller, pair[0], 7, EDGE, EDGE), 0);
    CHECK_EQ(ask(poller, &event), 1);
    CHECK_EQ(ask(poller, &event), 0);
    CHECK_EQ(inner->update(poller, pair[0], 7, EDGE, PL_READ), 0);
    CHECK_EQ(ask(poller, &event), 1);
    CHECK_EQ(ask(poller, &event), 1);
    inner->destroy(poller);
    close_pair(pair);
}

static void
test_poller_tells_what_lingers(void)
{
    for (int what = 0; what < 3; what++) {
        struct poller *poller;
        struct poller_event event;
        int pair[2];
        connect_pair(pair);
        CHECK_EQ(inner->create(&poller), 0);
        CHECK_EQ(inner->update(poller, pair[0], 7, 0, EDGE), 0);
        if (what == 0) {
            CHECK_EQ(shutdown(pair[1], SHUT_WR), 0);
        }
        else if (what == 1) {
            CHECK_EQ(send(pair[1], "u", 1, MSG_OOB), 1);
        }
        else {
            struct linger reset = {.l_onoff = 1};
            CHECK_EQ(setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &reset,
                                sizeof(reset)),
                     0);
            close(pair[1]);
            pair[1] = -1;
        }
        CHECK_EQ(ask(poller, &event), 1);
        CHECK_EQ(event.events & EDGE, PL_READ);
        CHECK(event.events & PL_LINGERS);
        inner->destroy(poller);
        close_pair(pair);
    }
}

/* --- the reactor --- */

static void
test_drained_reads_are_watched_by_edges(void)
{
    int pair[2];
    struct watch *watch = begin(pair);
    CHECK_EQ(last_wanted, inner->reports_edges ? EDGE : PL_READ);
    n_updates = 0;
    for (int i = 0; i < 100; i++) {
        send_bytes(pair[1], 10);
        CHECK_EQ(look(), 1);
        clear(watch);
        CHECK_EQ(read_some(watch, 64), 10);
        CHECK(claim(pair[0], &owner) == watch);
        set(watch, PL_WAIT_DRAINS);
        CHECK_EQ(look(), 0);
    }
    CHECK_EQ(n_updates, 0);
    leave(watch, pair);
}

static void
test_what_is_left_is_reported_again(void)
{
    int pair[2];
    struct watch *watch = begin(pair);
    send_bytes(pair[1], 10);
    CHECK_EQ(look(), 1);
    clear(watch);
    CHECK_EQ(read_some(watch, 4), 4);
    set(watch, PL_WAIT_DRAINS);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(look(), 1);
    }
    CHECK_EQ(last_wanted, PL_READ);
    /* For this owner it stays so; another one begins anew. */
    clear(watch);
    CHECK_EQ(read_some(watch, 64), 6);
    set(watch, PL_WAIT_DRAINS);
    CHECK_EQ(look(), 0);
    CHECK_EQ(last_wanted, PL_READ);
    clear(watch);
    struct watch *same;
    void *old_owner;
    void *stale[2];
    CHECK_EQ(reactor_claim(&reactor, pair[0], &other_owner, &same, &old_owner,
                           stale),
             1);
    set(same, PL_WAIT_DRAINS);
    CHECK_EQ(look(), 0);
    CHECK_EQ(last_wanted, inner->reports_edges ? EDGE : PL_READ);
    leave(same, pair);
}

static void
test_persistent_reader_is_called_until_it_has_drained(void)
{
    int pair[2];
    connect_pair(pair);
    struct watch *watch = claim(pair[0], &owner);
    set(watch, PL_WAIT_PERSISTENT | PL_WAIT_DRAINS);
    CHECK_EQ(look(), 0);
    n_updates = 0;
    for (int i = 0; i < 10; i++) {
        send_bytes(pair[1], 10);
        CHECK_EQ(look(), 1);
        CHECK_EQ(read_some(watch, 64), 10);
        reactor_read_again(&reactor, watch);
        CHECK_EQ(look(), 0);
    }
    CHECK_EQ(n_updates, 0);
    send_bytes(pair[1], 10);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(look(), 1);
        CHECK_EQ(read_some(watch, 2), 2);
        reactor_read_again(&reactor, watch);
    }
    CHECK_EQ(look(), 0);
    leave(watch, pair);
}

static void
test_events_that_are_put_back_come_again(void)
{
    int pair[2];
    struct watch *watch = begin(pair);
    send_bytes(pair[1], 1);
    int n = look();
    CHECK_EQ(n, 1);
    reactor_put_back_events(&reactor, 0, n);
    CHECK_EQ(look(), 1);
    leave(watch, pair);
}

static void
test_who_promises_nothing_is_watched_by_level(void)
{
    int pair[2];
    struct watch *watch = begin(pair);
    send_bytes(pair[1], 1);
    CHECK_EQ(look(), 1);
    clear(watch);
    watch->hints = PL_HINT_DRAINED; /* which is not true */
    set(watch, PL_WAIT_ONCE);
    CHECK_EQ(look(), 1);
    CHECK_EQ(look(), 1);
    CHECK_EQ(last_wanted, PL_READ);
    leave(watch, pair);
}

static void
test_only_tcp_is_watched_by_edges(void)
{
    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct watch *watch = claim(pair[0], &owner);
    set(watch, PL_WAIT_DRAINS);
    CHECK_EQ(look(), 0);
    CHECK_EQ(last_wanted, PL_READ);
    leave(watch, pair);
}

/* --- against poll(2) --- */

/* Anything may happen between two looks.  Whoever waits when the loop goes to
 * sleep is told if there is something to read, as poll(2) says, and only
 * then. */
static void
run_random(uint64_t seed)
{
    int pair[2];
    connect_pair(pair);
    struct watch *watch = claim(pair[0], &owner);
    bool peer_is_open = true;
    bool persistent = false;
    bool was_urgent = false;
    for (int step = 0; step < 60; step++) {
        uint32_t dice = check_random(&seed) % 100;
        size_t size = 1 + check_random(&seed) % 16;
        if (dice < 30) {
            if (peer_is_open) {
                send_bytes(pair[1], size);
            }
        }
        else if (dice < 33) {
            if (peer_is_open) {
                CHECK_EQ(send(pair[1], "u", 1, MSG_OOB | MSG_NOSIGNAL), 1);
                was_urgent = true;
            }
        }
        else if (dice < 34) {
            peer_is_open = false;
            CHECK(shutdown(pair[1], SHUT_WR) == 0 || errno == ENOTCONN);
        }
        else if (dice < 50) {
            clear(watch);
            (void)read_some(watch, size);
        }
        else if (dice < 60) {
            clear(watch);
        }
        else if (dice < 64) {
            if (watch->waiter[PL_SIDE_WRITE] == NULL) {
                CHECK(claim(pair[0], &owner) == watch);
                reactor_watch_set(&reactor, watch, PL_SIDE_WRITE, &writer,
                                  PL_WAIT_ONCE);
            }
            else {
                (void)reactor_watch_clear(&reactor, watch, PL_SIDE_WRITE);
            }
        }
        else if (dice < 70) {
            flush(false);
        }
        else {
            if (watch->waiter[PL_SIDE_READ] == NULL) {
                CHECK(claim(pair[0], &owner) == watch);
                persistent = check_random(&seed) % 2;
                set(watch, PL_WAIT_DRAINS | (persistent ? 1u : 0u));
            }
            bool expected = is_readable(pair[0]);
            int n = look();
            CHECK(n >= 0);
            bool told = n > 0 && (reactor.events[0].events & PL_READ);
            /* Urgent data wake once for nothing. */
            if (told != expected && !(told && was_urgent)) {
                fprintf(stderr, "step %d: told %d, readable %d\n", step, told,
                        expected);
                exit(1);
            }
            uint32_t then = check_random(&seed) % 3;
            if (told && then == 0) {
                reactor_put_back_events(&reactor, 0, n);
            }
            else if (told && persistent) {
                if (then == 1) {
                    (void)read_some(watch, size);
                }
                reactor_read_again(&reactor, watch);
            }
            else if (told) {
                clear(watch);
                if (then == 1) {
                    (void)read_some(watch, size);
                }
            }
        }
    }
    leave(watch, pair);
}

static void
test_against_poll(void)
{
    for (uint64_t seed = 0; seed < 1500; seed++) {
        run_random(seed);
    }
}

/* --- */

int
main(void)
{
    for (const char *const *name = poller_names(); *name != NULL; name++) {
        CHECK_EQ(poller_find(*name, &inner), 0);
        if (inner->reports_edges) {
            test_poller_reports_an_edge_once();
            test_poller_tells_what_lingers();
        }
        counting = *inner;
        counting.update = counting_update;
        void (*const tests[])(void) = {
            test_drained_reads_are_watched_by_edges,
            test_what_is_left_is_reported_again,
            test_persistent_reader_is_called_until_it_has_drained,
            test_events_that_are_put_back_come_again,
            test_who_promises_nothing_is_watched_by_level,
            test_only_tcp_is_watched_by_edges,
            test_against_poll,
        };
        for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
            CHECK_EQ(reactor_init(&reactor, &counting), 0);
            tests[i]();
            CHECK_EQ(reactor.n_waiters, 0);
            reactor_destroy(&reactor);
        }
    }
    return 0;
}
