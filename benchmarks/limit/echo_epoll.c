/* The limit: what an echo server costs when nothing but the kernel is left.
 *
 *   echo_epoll [PORT]
 *
 * One thread, level-triggered epoll.  On a readable socket: one recv, one
 * send, back to epoll_wait.  What the socket does not take is kept, reading
 * stops until it is gone, and EPOLLOUT replaces EPOLLIN meanwhile: so memory
 * per connection is bounded by one read, and a slow peer is answered in full.
 * Prints "PORT n" when it listens.
 */
#include "common.h"

#include <signal.h>
#include <sys/epoll.h>

enum {
    READ_BYTES = 262144,
    EVENTS = 1024,
};

struct peer {
    int fd;
    char *rest;         /* owned: not yet sent, or NULL; then EPOLLOUT is on */
    size_t rest_bytes;
    size_t rest_sent;
};

static char buffer[READ_BYTES];

static void
watch(int poller, int operation, struct peer *peer, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = peer}};

    if (epoll_ctl(poller, operation, peer->fd, &event) < 0) {
        die("epoll_ctl");
    }
}

static void
accept_all(int poller, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct peer *peer;

        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) {
                return;
            }
            die("accept4");
        }
        set_nodelay(fd);
        peer = must_alloc(1, sizeof(*peer));
        peer->fd = fd;
        watch(poller, EPOLL_CTL_ADD, peer, EPOLLIN);
    }
}

/* 0, or -1 when the connection is of no more use. */
static int
send_rest(int poller, struct peer *peer)
{
    ssize_t sent = send(peer->fd, peer->rest + peer->rest_sent,
                        peer->rest_bytes - peer->rest_sent, MSG_NOSIGNAL);

    if (sent < 0) {
        return errno == EAGAIN ? 0 : -1;
    }
    peer->rest_sent += (size_t)sent;
    if (peer->rest_sent == peer->rest_bytes) {
        free(peer->rest);
        peer->rest = NULL;
        watch(poller, EPOLL_CTL_MOD, peer, EPOLLIN);
    }
    return 0;
}

/* 0, or -1 when the connection has ended. */
static int
echo(int poller, struct peer *peer)
{
    ssize_t got = recv(peer->fd, buffer, sizeof(buffer), 0);
    ssize_t sent;

    if (got <= 0) {
        return got < 0 && errno == EAGAIN ? 0 : -1;
    }
    sent = send(peer->fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) {
            return -1;
        }
        sent = 0;
    }
    if (sent < got) {
        peer->rest_bytes = (size_t)(got - sent);
        peer->rest_sent = 0;
        peer->rest = must_alloc(peer->rest_bytes, 1);
        memcpy(peer->rest, buffer + sent, peer->rest_bytes);
        watch(poller, EPOLL_CTL_MOD, peer, EPOLLOUT);
    }
    return 0;
}

static void
drop(struct peer *peer)
{
    close(peer->fd);
    free(peer->rest);
    free(peer);
}

int
main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS];
    int port = argc > 1 ? atoi(argv[1]) : 0;
    struct peer listener = {.fd = -1};
    int poller;

    raise_nofile();
    signal(SIGPIPE, SIG_IGN);
    listener.fd = listen_on(&port);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) {
        die("epoll_create1");
    }
    watch(poller, EPOLL_CTL_ADD, &listener, EPOLLIN);
    printf("PORT %d\n", port);
    fflush(stdout);

    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);

        if (count < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            int status;

            if (peer == &listener) {
                accept_all(poller, listener.fd);
                continue;
            }
            status = peer->rest != NULL ? send_rest(poller, peer)
                                        : echo(poller, peer);
            if (status < 0) {
                drop(peer);
            }
        }
    }
}
