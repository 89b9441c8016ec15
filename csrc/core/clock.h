/* Monotonic time in int64 nanoseconds: the only unit of time in C. */
#ifndef PL_CORE_CLOCK_H
#define PL_CORE_CLOCK_H

#include <limits.h>
#include <stdint.h>
#include <time.h>

#define PL_NS_PER_SEC INT64_C(1000000000)
#define PL_NS_PER_MS INT64_C(1000000)
/* A deadline that never comes; as a timeout: wait without limit. */
#define PL_FOREVER INT64_MAX

static inline int64_t
clock_monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * PL_NS_PER_SEC + ts.tv_nsec;
}

/* The same clock as of the last kernel tick: 1 to 4 ms coarse, several times
 * cheaper to read.  Good enough to ask "has a while gone by?". */
static inline int64_t
clock_coarse_ns(void)
{
    struct timespec ts;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
#else
    clock_gettime(CLOCK_MONOTONIC, &ts);
#endif
    return (int64_t)ts.tv_sec * PL_NS_PER_SEC + ts.tv_nsec;
}

/* A wait in the milliseconds of poll(2) and epoll_wait(2), rounded up: rounded
 * down, a timer of 0.9 ms would be a busy loop.  -1 for PL_FOREVER.  An int of
 * milliseconds ends after 24 days: *rest_ns is what then remains. */
static inline int
clock_ceil_ms(int64_t timeout_ns, int64_t *rest_ns)
{
    *rest_ns = 0;
    if (timeout_ns == PL_FOREVER) {
        return -1;
    }
    int64_t ms = timeout_ns / PL_NS_PER_MS + (timeout_ns % PL_NS_PER_MS != 0);
    if (ms > INT_MAX) {
        ms = INT_MAX;
        *rest_ns = timeout_ns - ms * PL_NS_PER_MS;
    }
    return (int)ms;
}

#endif
