/* What the load clients share: their options, waiting, and what they count
 * of both sides while they measure. */
#ifndef PL_BENCH_LOAD_H
#define PL_BENCH_LOAD_H

#include "common.h"
#include "cpu.h"

#include <sys/epoll.h>

enum {
    EVENTS = 1024, /* at most at a time */
    EXIT_WRONG_ANSWER = 3,
    EXIT_CLOSED = 4,
};

/* "--name" and, but for a flag, a value: `to` gets that, or a flag's 1. */
struct option_spec {
    const char *name;
    enum { OPTION_FLAG, OPTION_INT, OPTION_SIZE, OPTION_DOUBLE } kind;
    void *to;
};

/* `specs` ends with a name of NULL; argv holds nothing but options. */
static inline void
parse_options(const struct option_spec *specs, int argc, char **argv,
              const char *usage_text)
{
    for (int i = 0; i < argc; i++) {
        const struct option_spec *spec = specs;

        while (spec->name != NULL && strcmp(argv[i], spec->name) != 0) {
            spec++;
        }
        if (spec->name == NULL || (spec->kind != OPTION_FLAG && ++i == argc)) {
            usage(usage_text);
        }
        switch (spec->kind) {
        case OPTION_FLAG:
            *(int *)spec->to = 1;
            break;
        case OPTION_INT:
            *(int *)spec->to = atoi(argv[i]);
            break;
        case OPTION_SIZE:
            *(size_t *)spec->to = (size_t)atol(argv[i]);
            break;
        case OPTION_DOUBLE:
            *(double *)spec->to = atof(argv[i]);
            break;
        }
    }
}

static inline int
new_poller(void)
{
    int poller = epoll_create1(EPOLL_CLOEXEC);

    if (poller < 0) {
        die("epoll_create1");
    }
    return poller;
}

/* Sleeps for 0.1 s at most, or not at all where the client is to poll. */
static inline int
wait_for_events(int poller, struct epoll_event events[EVENTS], int is_polling)
{
    int count = epoll_wait(poller, events, EVENTS, is_polling ? 0 : 100);

    if (count < 0 && errno != EINTR) {
        die("epoll_wait");
    }
    return count;
}

/* The processor time of the server, and of this client. */
struct both_cpus {
    struct cpu_sample server;
    struct cpu_sample client;
};

static inline struct both_cpus
sample_both(int server_pid)
{
    return (struct both_cpus){
        .server = sample_cpu(server_pid),
        .client = sample_cpu(getpid()),
    };
}

static inline struct both_cpus
both_since(struct both_cpus before, int server_pid)
{
    struct both_cpus used = sample_both(server_pid);

    used.server.run_ns -= before.server.run_ns;
    used.server.delay_ns -= before.server.delay_ns;
    used.client.run_ns -= before.client.run_ns;
    used.client.delay_ns -= before.client.delay_ns;
    return used;
}

static inline int
compare_u32(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;

    return (a > b) - (a < b);
}

static inline void
sort_latencies(uint32_t *latencies_ns, size_t count)
{
    qsort(latencies_ns, count, sizeof(*latencies_ns), compare_u32);
}

/* Of sorted ones; 0 where there are none. */
static inline double
latency_us(const uint32_t *latencies_ns, size_t count, double quantile)
{
    return count == 0
               ? 0
               : latencies_ns[(size_t)((double)(count - 1) * quantile)] / 1e3;
}

#endif
