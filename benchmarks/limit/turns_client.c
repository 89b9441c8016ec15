/* Loads several servers in turns, so that a machine that changes its speed
 * changes it for all of them.
 *
 *   turns_client [--conns N] [--size BYTES] [--slice-ms T] [--rounds R]
 *                [--sleep] PORT:PID...
 *
 * Opens N connections to each server and keeps them.  A round gives each
 * server a slice of T milliseconds with one message in flight on each
 * connection, every other round in the opposite order, and prints a line with
 * the round, the server's place among the arguments, and its CPU time per
 * request in microseconds.  A slice ends when all answers have come, so that
 * the server has nothing left to do in the next one's.  --sleep: the client
 * waits in epoll_wait instead of polling.
 *
 * Exit status: 1 a system call failed or the server closed a connection, 2
 * usage, 3 the echo was wrong.
 */
#include "common.h"

#include <getopt.h>
#include <sys/epoll.h>

enum { READ_BYTES = 262144, EVENTS = 256, WARM_MS = 200 };

struct connection {
    int fd;
    size_t got_bytes;
};

struct server {
    clockid_t cpu_clock;
    int poller;
    struct connection *connections;
};

static int n_connections = 10;
static size_t size_bytes = 1024;
static int is_sleeping;
static char *text;
static char received[READ_BYTES];

static const char USAGE[]
    = "usage: turns_client [--conns N] [--size BYTES] [--slice-ms T]"
      " [--rounds R] [--sleep] PORT:PID...\n";

static void
send_message(const struct connection *connection)
{
    size_t sent = 0;

    while (sent < size_bytes) {
        ssize_t n = send(connection->fd, text + sent, size_bytes - sent,
                         MSG_NOSIGNAL);
        if (n < 0) {
            die("send");
        }
        sent += (size_t)n;
    }
}

/* Whether the message has come back whole. */
static int
receive_some(struct connection *connection)
{
    size_t rest = size_bytes - connection->got_bytes;
    ssize_t n = recv(connection->fd, received, sizeof(received), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    if (n <= 0) {
        die("recv");
    }
    if ((size_t)n > rest
        || memcmp(received, text + connection->got_bytes, (size_t)n) != 0)
    {
        fputs("the echo is wrong\n", stderr);
        exit(3);
    }
    connection->got_bytes
        = (size_t)n < rest ? connection->got_bytes + (size_t)n : 0;
    return (size_t)n == rest;
}

/* The requests that were answered. */
static long
load(struct server *server, int64_t duration_ns)
{
    struct epoll_event events[EVENTS];
    int64_t end_ns = now_ns() + duration_ns;
    int n_in_flight = n_connections;
    long n_requests = 0;

    for (int i = 0; i < n_connections; i++) {
        send_message(&server->connections[i]);
    }
    while (n_in_flight > 0) {
        int n
            = epoll_wait(server->poller, events, EVENTS, is_sleeping ? -1 : 0);
        int is_over = now_ns() > end_ns;

        for (int i = 0; i < n; i++) {
            struct connection *connection = events[i].data.ptr;

            if (!receive_some(connection)) {
                continue;
            }
            n_requests++;
            if (is_over) {
                n_in_flight--;
            }
            else {
                send_message(connection);
            }
        }
    }
    return n_requests;
}

static double
cpu_us(const struct server *server)
{
    struct timespec used;

    if (clock_gettime(server->cpu_clock, &used) < 0) {
        die("clock_gettime");
    }
    return (double)used.tv_sec * 1e6 + (double)used.tv_nsec / 1e3;
}

static void
connect_all(struct server *server, int port)
{
    struct sockaddr_in address = loopback(port);

    server->poller = epoll_create1(EPOLL_CLOEXEC);
    if (server->poller < 0) {
        die("epoll_create1");
    }
    server->connections
        = must_alloc((size_t)n_connections, sizeof(*server->connections));
    for (int i = 0; i < n_connections; i++) {
        struct connection *connection = &server->connections[i];
        struct epoll_event event = {.events = EPOLLIN};

        connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connection->fd < 0
            || connect(connection->fd, (struct sockaddr *)&address,
                       sizeof(address))
                   < 0)
        {
            die("connect");
        }
        set_nodelay(connection->fd);
        event.data.ptr = connection;
        if (epoll_ctl(server->poller, EPOLL_CTL_ADD, connection->fd, &event)
            < 0)
        {
            die("epoll_ctl");
        }
    }
}

static void
take_turns(struct server *servers, int n_servers, int64_t slice_ns,
           int n_rounds)
{
    for (int round = 0; round < n_rounds; round++) {
        for (int turn = 0; turn < n_servers; turn++) {
            int i = round % 2 == 0 ? turn : n_servers - 1 - turn;
            /* The caches are the former one's. */
            (void)load(&servers[i], slice_ns / 10);
            double before_us = cpu_us(&servers[i]);
            long n_requests = load(&servers[i], slice_ns);
            double used_us = cpu_us(&servers[i]) - before_us;

            printf("%d %d %.4f\n", round, i, used_us / (double)n_requests);
        }
    }
}

int
main(int argc, char **argv)
{
    static const struct option options[] = {
        {"conns", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},
        {"slice-ms", required_argument, NULL, 't'},
        {"rounds", required_argument, NULL, 'r'},
        {"sleep", no_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    int n_rounds = 100;
    int64_t slice_ms = 40;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            n_connections = atoi(optarg);
            break;
        case 's':
            size_bytes = (size_t)atol(optarg);
            break;
        case 't':
            slice_ms = atol(optarg);
            break;
        case 'r':
            n_rounds = atoi(optarg);
            break;
        case 'w':
            is_sleeping = 1;
            break;
        default:
            usage(USAGE);
        }
    }
    int n_servers = argc - optind;
    if (n_servers < 1 || n_connections < 1 || size_bytes < 1 || slice_ms < 1) {
        usage(USAGE);
    }
    raise_nofile();
    text = must_alloc(size_bytes, 1);
    for (size_t i = 0; i < size_bytes; i++) {
        text[i] = (char)(i * 131 % 251);
    }
    struct server *servers = must_alloc((size_t)n_servers, sizeof(*servers));
    for (int i = 0; i < n_servers; i++) {
        int port, pid;

        if (sscanf(argv[optind + i], "%d:%d", &port, &pid) != 2
            || clock_getcpuclockid(pid, &servers[i].cpu_clock) != 0)
        {
            usage(USAGE);
        }
        connect_all(&servers[i], port);
        (void)load(&servers[i], (int64_t)WARM_MS * 1000000);
    }
    take_turns(servers, n_servers, slice_ms * 1000000, n_rounds);
    return 0;
}
