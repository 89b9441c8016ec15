/* The load client: one thread, edge-triggered epoll, one message in flight on
 * each connection, every echoed byte compared.
 *
 *   echo_client load --port P [--conns N] [--size BYTES] [--seconds T]
 *                    [--warmup T] [--pid SERVER] [--poll] [--churn]
 *                    [--tls | --udp]
 *   echo_client pace --port P [--size BYTES] [--count N] [--gap-ms M]
 *   echo_client idle --port P [--size BYTES] [--tls]
 *
 * load  Keeps all connections busy for warmup + seconds and prints one JSON
 *       object.  With --pid it holds the server's CPU time per request over
 *       exactly the measured window, from /proc/SERVER/task/.../schedstat.
 *       A server that is faster than the client never waits for it; one that
 *       is slower finds it asleep and pays for waking it, several microseconds
 *       where another virtual CPU has to be started.  --poll makes the client
 *       poll instead of sleeping, which takes that out of the comparison.
 *       With --churn each connection is for one message: a request is then
 *       connect, accept, echo and close.
 * pace  One connection.  Exchanges a few messages, prints READY, waits for a
 *       line on standard input, exchanges N with a pause after each, prints
 *       DONE and keeps the connection until standard input ends: system
 *       calls counted between READY and DONE belong to the N requests alone.
 * idle  Each line on standard input is a number of connections to open; each
 *       of them exchanges one message and stays open.  Prints "OPEN total".
 *       All are reset when standard input ends, which leaves no TIME_WAIT.
 * pace and idle send a whole message before they read: it must fit into the
 * socket buffers.
 *
 * Message k of connection i is a stretch of one random text that starts at a
 * place made from i and k: connections and successive messages differ, and
 * comparing is one memcmp.
 *
 * Exit status: 1 a system call failed, 2 usage, 3 the echo was wrong, 4 the
 * server closed a connection.
 */
#include "link.h"
#include "load.h"

#include <fcntl.h>

enum {
    READ_BYTES = 262144,
    SHIFT = 4096, /* room in which messages are shifted */
    MAX_LATENCIES = 1 << 23,
    MAX_WINDOWS = 4096,
    WARM_EXCHANGES = 50, /* pace: before READY */
};

/* Short enough that a slow spell of a shared machine spoils only some of the
 * windows and leaves their median alone, long enough that the scheduler's
 * bookkeeping, which lags by up to a tick, is under 5 % of it. */
static const int64_t WINDOW_NS = 100000000;

struct connection {
    struct link link;
    uint32_t number; /* of the message in flight */
    size_t sent_bytes;
    size_t got_bytes;
    int64_t start_ns;
};

struct options {
    int port;
    int pid;
    int conns;
    int count;
    int gap_ms;
    int is_polling;
    int is_churning;
    enum link_kind kind;
    size_t size_bytes;
    double seconds;
    double warmup;
};

static char *text; /* size_bytes + SHIFT random bytes */
static char received[READ_BYTES];
static uint32_t latencies_ns[MAX_LATENCIES];
static double window_cpu_us[MAX_WINDOWS];
static double window_rate[MAX_WINDOWS];

static const char *
message(size_t index, uint32_t number)
{
    return text + (index * 769 + (size_t)number * 31) % SHIFT;
}

static void
make_text(size_t size_bytes)
{
    uint32_t state = 2463534242u;

    text = must_alloc(size_bytes + SHIFT, 1);
    for (size_t i = 0; i < size_bytes + SHIFT; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        text[i] = (char)(state >> 24);
    }
}

static _Noreturn void
closed(size_t index)
{
    fprintf(stderr, "connection %zu was closed by the server\n", index);
    exit(EXIT_CLOSED);
}

/* Sends what the socket takes of the message in flight. */
static void
push(struct connection *conn, size_t index, size_t size_bytes)
{
    const char *data = message(index, conn->number);

    while (conn->sent_bytes < size_bytes) {
        ssize_t sent = link_send(&conn->link, data + conn->sent_bytes,
                                 size_bytes - conn->sent_bytes);

        if (sent < 0) {
            if (errno == EAGAIN) {
                return;
            }
            closed(index);
        }
        conn->sent_bytes += (size_t)sent;
    }
}

/* Reads and compares what is there; 1 when the message is complete. */
static int
pull(struct connection *conn, size_t index, size_t size_bytes)
{
    const char *expected = message(index, conn->number);

    for (;;) {
        ssize_t got = link_recv(&conn->link, received, sizeof(received));

        if (got < 0 && errno == EAGAIN) {
            return 0;
        }
        if (got <= 0) {
            closed(index);
        }
        if (conn->got_bytes + (size_t)got > conn->sent_bytes
            || memcmp(received, expected + conn->got_bytes, (size_t)got) != 0)
        {
            fprintf(stderr,
                    "connection %zu, message %u: wrong echo "
                    "within bytes %zu to %zu\n",
                    index, conn->number, conn->got_bytes,
                    conn->got_bytes + (size_t)got);
            exit(EXIT_WRONG_ANSWER);
        }
        conn->got_bytes += (size_t)got;
        if (conn->got_bytes == size_bytes) {
            return 1;
        }
        /* A short read has drained the socket: a new edge will come.  TLS
         * hands out one record at a time. */
        if ((size_t)got < sizeof(received) && conn->link.ssl == NULL) {
            return 0;
        }
    }
}

static void
next_message(struct connection *conn)
{
    conn->number++;
    conn->sent_bytes = 0;
    conn->got_bytes = 0;
}

/* One whole exchange on a blocking socket. */
static void
exchange(struct connection *conn, size_t index, size_t size_bytes)
{
    push(conn, index, size_bytes);
    while (!pull(conn, index, size_bytes)) {
    }
    next_message(conn);
}

struct window {
    int64_t start_ns;
    double cpu_ns;
    uint64_t requests;
};

static void
close_window(struct window *window, size_t *count, int64_t now, double cpu_ns,
             uint64_t requests)
{
    double done = (double)(requests - window->requests);

    if (done > 0 && *count < MAX_WINDOWS) {
        window_cpu_us[*count] = (cpu_ns - window->cpu_ns) / done / 1e3;
        window_rate[*count] = done * 1e9 / (double)(now - window->start_ns);
        (*count)++;
    }
    window->start_ns = now;
    window->cpu_ns = cpu_ns;
    window->requests = requests;
}

static void
open_watched(struct connection *conn, size_t index,
             const struct options *options, int poller)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data = {.u64 = index},
    };

    conn->link = link_open(options->kind, options->port);
    if (fcntl(conn->link.fd, F_SETFL, O_NONBLOCK) < 0
        || epoll_ctl(poller, EPOLL_CTL_ADD, conn->link.fd, &event) < 0)
    {
        die("connection");
    }
}

static struct connection *
open_busy(const struct options *options, int poller)
{
    struct connection *conns
        = must_alloc((size_t)options->conns, sizeof(*conns));

    for (size_t i = 0; i < (size_t)options->conns; i++) {
        open_watched(&conns[i], i, options, poller);
    }
    for (size_t i = 0; i < (size_t)options->conns; i++) {
        conns[i].start_ns = now_ns();
        push(&conns[i], i, options->size_bytes);
    }
    return conns;
}

static int
run_load(const struct options *options)
{
    static struct epoll_event events[EVENTS];
    int poller = new_poller();
    struct connection *conns = open_busy(options, poller);
    struct both_cpus before = {{0, 0}, {0, 0}}, used;
    struct window window = {0, 0, 0};
    int64_t begin_ns, start_ns = 0, now, idle_since_ns, idle_ns = 0;
    uint64_t requests = 0;
    size_t windows = 0, latencies;
    double seconds;

    begin_ns = now_ns() + (int64_t)(options->warmup * 1e9);
    idle_since_ns = now_ns();
    for (;;) {
        int count = wait_for_events(poller, events, options->is_polling);

        now = now_ns();
        if (start_ns == 0) {
            if (now >= begin_ns) {
                before = sample_both(options->pid);
                start_ns = now = now_ns();
                requests = 0;
                idle_ns = 0;
                window.start_ns = now;
                window.cpu_ns = before.server.run_ns;
            }
        }
        else if (now - window.start_ns >= WINDOW_NS) {
            close_window(&window, &windows, now,
                         sample_cpu(options->pid).run_ns, requests);
            if ((double)(now - start_ns) >= options->seconds * 1e9) {
                break;
            }
        }
        if (count > 0) {
            idle_ns += now - idle_since_ns;
        }
        for (int i = 0; i < count; i++) {
            size_t index = events[i].data.u64;
            struct connection *conn = &conns[index];

            push(conn, index, options->size_bytes);
            if (!pull(conn, index, options->size_bytes)) {
                continue;
            }
            now = now_ns();
            if (requests < MAX_LATENCIES) {
                latencies_ns[requests] = (uint32_t)(now - conn->start_ns);
            }
            requests++;
            next_message(conn);
            if (options->is_churning) {
                link_reset(&conn->link);
                open_watched(conn, index, options, poller);
            }
            conn->start_ns = now;
            push(conn, index, options->size_bytes);
        }
        if (count > 0) {
            idle_since_ns = now_ns();
        }
    }
    used = both_since(before, options->pid);
    seconds = (double)(now - start_ns) / 1e9;
    latencies = requests < MAX_LATENCIES ? (size_t)requests : MAX_LATENCIES;
    sort_latencies(latencies_ns, latencies);
    printf("{\"requests\": %llu, \"seconds\": %.4f, "
           "\"requests_per_s\": %.1f, \"requests_per_s_mean\": %.1f, "
           "\"server_us\": %.4f, \"server_us_mean\": %.4f, "
           "\"server_load\": %.4f, \"server_delay\": %.4f, "
           "\"client_idle\": %.4f, \"client_delay\": %.4f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)requests, seconds, median(window_rate, windows),
           (double)requests / seconds, median(window_cpu_us, windows),
           requests > 0 ? used.server.run_ns / (double)requests / 1e3 : 0.0,
           used.server.run_ns / 1e9 / seconds,
           used.server.delay_ns / 1e9 / seconds,
           (double)idle_ns / 1e9 / seconds,
           used.client.delay_ns / 1e9 / seconds,
           latency_us(latencies_ns, latencies, 0.5),
           latency_us(latencies_ns, latencies, 0.99),
           latency_us(latencies_ns, latencies, 1.0));
    return 0;
}

static int
run_pace(const struct options *options)
{
    struct connection conn = {
        .link = link_open(options->kind, options->port),
    };
    struct timespec gap = {
        .tv_sec = options->gap_ms / 1000,
        .tv_nsec = options->gap_ms % 1000 * 1000000L,
    };
    char line[64];

    for (int i = 0; i < WARM_EXCHANGES; i++) {
        exchange(&conn, 0, options->size_bytes);
    }
    puts("READY");
    fflush(stdout);
    if (fgets(line, sizeof(line), stdin) == NULL) {
        return 1;
    }
    for (int i = 0; i < options->count; i++) {
        exchange(&conn, 0, options->size_bytes);
        nanosleep(&gap, NULL);
    }
    puts("DONE");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
    }
    return 0;
}

static int
run_idle(const struct options *options)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    size_t total = 0;
    char line[64];

    while (fgets(line, sizeof(line), stdin) != NULL) {
        for (int i = atoi(line); i > 0; i--) {
            struct connection conn = {
                .link = link_open(options->kind, options->port),
            };

            setsockopt(conn.link.fd, SOL_SOCKET, SO_LINGER, &reset,
                       sizeof(reset));
            exchange(&conn, total, options->size_bytes);
            total++;
        }
        printf("OPEN %zu\n", total);
        fflush(stdout);
    }
    return 0;
}

static const char USAGE[]
    = "usage: echo_client load|pace|idle --port P [--conns N] [--size BYTES]\n"
      "                   [--seconds T] [--warmup T] [--pid SERVER] [--poll]\n"
      "                   [--count N] [--gap-ms M] [--churn] [--tls | --udp]\n";

static struct options
parse(int argc, char **argv)
{
    struct options options = {
        .conns = 10,
        .count = 100,
        .gap_ms = 5,
        .size_bytes = 1024,
        .seconds = 1.0,
        .warmup = 0.3,
    };
    int is_tls = 0, is_udp = 0;
    const struct option_spec specs[] = {
        {"--port", OPTION_INT, &options.port},
        {"--pid", OPTION_INT, &options.pid},
        {"--conns", OPTION_INT, &options.conns},
        {"--count", OPTION_INT, &options.count},
        {"--gap-ms", OPTION_INT, &options.gap_ms},
        {"--size", OPTION_SIZE, &options.size_bytes},
        {"--seconds", OPTION_DOUBLE, &options.seconds},
        {"--warmup", OPTION_DOUBLE, &options.warmup},
        {"--poll", OPTION_FLAG, &options.is_polling},
        {"--churn", OPTION_FLAG, &options.is_churning},
        {"--tls", OPTION_FLAG, &is_tls},
        {"--udp", OPTION_FLAG, &is_udp},
        {NULL, OPTION_FLAG, NULL},
    };

    parse_options(specs, argc - 2, argv + 2, USAGE);
    options.kind = is_tls ? LINK_TLS : is_udp ? LINK_UDP : LINK_TCP;
    if (options.port <= 0 || options.conns <= 0 || options.size_bytes == 0) {
        usage(USAGE);
    }
    return options;
}

int
main(int argc, char **argv)
{
    struct options options;

    if (argc < 2) {
        usage(USAGE);
    }
    options = parse(argc, argv);
    raise_nofile();
    make_text(options.size_bytes);
    if (strcmp(argv[1], "load") == 0) {
        return run_load(&options);
    }
    if (strcmp(argv[1], "pace") == 0) {
        return run_pace(&options);
    }
    if (strcmp(argv[1], "idle") == 0) {
        return run_idle(&options);
    }
    usage(USAGE);
}
