/* A growable ring of pointers, first in first out: the data structure of the
 * ready queue.  It does not know what the pointers are.
 *
 * Invariants: capacity == mask + 1 is a power of two; head and tail run free
 * (they wrap at 2^32) and tail - head == length <= capacity; slot i of the
 * queue is slots[(head + i) & mask].  It grows and never shrinks, so that a
 * loop in its steady state allocates nothing. */
#ifndef PL_CORE_RING_H
#define PL_CORE_RING_H

#include "base.h"

struct ring {
    void **slots;
    uint32_t mask;
    uint32_t head;
    uint32_t tail;
};

/* `capacity` is rounded up to a power of two.  0 or -ENOMEM. */
int ring_init(struct ring *ring, uint32_t capacity);
/* Frees the slots; what is still queued is the caller's to release first. */
void ring_destroy(struct ring *ring);
/* Doubles the capacity.  0, -ENOMEM, or -EOVERFLOW past 2^31 entries; the
 * queue is unchanged on failure. */
int ring_grow(struct ring *ring);

static inline uint32_t
ring_length(const struct ring *ring)
{
    return ring->tail - ring->head;
}

/* Appends.  0 or a negative error of ring_grow. */
static inline int
ring_push(struct ring *ring, void *item)
{
    if (PL_UNLIKELY(ring_length(ring) > ring->mask)) {
        int rc = ring_grow(ring);
        if (rc < 0) {
            return rc;
        }
    }
    ring->slots[ring->tail++ & ring->mask] = item;
    return 0;
}

/* Removes and returns the oldest; the ring must not be empty. */
static inline void *
ring_pop(struct ring *ring)
{
    return ring->slots[ring->head++ & ring->mask];
}

/* The i-th oldest, i < ring_length. */
static inline void *
ring_at(const struct ring *ring, uint32_t i)
{
    return ring->slots[(ring->head + i) & ring->mask];
}

#endif
