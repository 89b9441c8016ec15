/* Timers in a 4-ary min-heap.
 *
 * A struct timer is embedded in whatever waits; the heap owns nothing but its
 * array.  A timer knows its place, so that cancelling is O(log n).  Equal
 * deadlines fire in the order in which they were added: ties are broken by a
 * sequence number.  The deadline is copied into the array, so that sifting
 * compares neighbours in one cache line and follows no pointer.
 *
 * Invariants, for 0 < i < length:
 *   entries[(i - 1) / 4] is before entries[i]
 *   entries[i].timer->index == i;  a timer in no heap has index PL_TIMER_IDLE
 */
#ifndef PL_CORE_TIMERHEAP_H
#define PL_CORE_TIMERHEAP_H

#include "base.h"

#define PL_TIMER_IDLE UINT32_MAX

struct timer {
    int64_t deadline_ns;
    uint32_t index;
};

struct timerheap_entry {
    int64_t deadline_ns;
    uint64_t sequence;
    struct timer *timer;
};

struct timerheap {
    struct timerheap_entry *entries;
    uint32_t length;
    uint32_t capacity;
    uint64_t next_sequence;
};

void timerheap_init(struct timerheap *heap);
void timerheap_destroy(struct timerheap *heap);
/* Adds an idle timer.  0 or -ENOMEM / -EOVERFLOW (then it stays idle). */
int timerheap_push(struct timerheap *heap, struct timer *timer,
                   int64_t deadline_ns);
/* Removes; does nothing when the timer is idle. */
void timerheap_remove(struct timerheap *heap, struct timer *timer);
/* Removes and returns the first timer if its deadline is <= now_ns, else
 * NULL. */
struct timer *timerheap_pop_due(struct timerheap *heap, int64_t now_ns);

static inline void
timer_node_init(struct timer *timer)
{
    timer->deadline_ns = 0;
    timer->index = PL_TIMER_IDLE;
}

static inline bool
timer_node_is_active(const struct timer *timer)
{
    return timer->index != PL_TIMER_IDLE;
}

/* The first deadline, or PL_FOREVER (INT64_MAX) when there is no timer. */
static inline int64_t
timerheap_next_deadline_ns(const struct timerheap *heap)
{
    return heap->length > 0 ? heap->entries[0].deadline_ns : INT64_MAX;
}

#endif
