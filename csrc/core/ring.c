/* The slow half of the ring: making it, growing it, freeing it. */
#include "ring.h"

#include <errno.h>
#include <string.h>

/* 2^31 entries; less where those would not fit into the address space. */
#if SIZE_MAX > UINT32_MAX
#define RING_CAPACITY_MAX (UINT32_C(1) << 31)
#else
#define RING_CAPACITY_MAX (UINT32_C(1) << 28)
#endif

static int
ring_alloc(uint32_t capacity, void ***slots)
{
    *slots = pl_alloc(capacity * sizeof(void *));
    return *slots == NULL ? -ENOMEM : 0;
}

int
ring_init(struct ring *ring, uint32_t capacity)
{
    ring->slots = NULL;
    ring->mask = 0;
    ring->head = 0;
    ring->tail = 0;
    if (capacity > RING_CAPACITY_MAX) {
        return -EOVERFLOW;
    }

    uint32_t rounded = 1;
    while (rounded < capacity) {
        rounded <<= 1;
    }
    int rc = ring_alloc(rounded, &ring->slots);
    if (rc < 0) {
        return rc;
    }
    ring->mask = rounded - 1;
    return 0;
}

void
ring_destroy(struct ring *ring)
{
    pl_free(ring->slots);
    ring->slots = NULL;
    ring->mask = 0;
    ring->head = 0;
    ring->tail = 0;
}

/* A new array rather than a realloc: the queue may wrap around the end of the
 * old one, and unrolled from slot 0 it is two straight copies. */
int
ring_grow(struct ring *ring)
{
    uint32_t capacity = ring->mask + 1;
    if (capacity >= RING_CAPACITY_MAX) {
        return -EOVERFLOW;
    }

    void **slots;
    int rc = ring_alloc(capacity * 2, &slots);
    if (rc < 0) {
        return rc;
    }
    uint32_t length = ring_length(ring);
    uint32_t first = ring->head & ring->mask;
    uint32_t straight = capacity - first;
    if (straight > length) {
        straight = length;
    }
    memcpy(slots, ring->slots + first, straight * sizeof(void *));
    memcpy(slots + straight, ring->slots,
           (length - straight) * sizeof(void *));

    pl_free(ring->slots);
    ring->slots = slots;
    ring->mask = capacity * 2 - 1;
    ring->head = 0;
    ring->tail = length;
    return 0;
}
