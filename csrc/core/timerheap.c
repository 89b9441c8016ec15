/* The heap proper.  Sifting moves a hole instead of swapping: each level
 * costs one copy of an entry and one store of its timer's index.
 *
 * Four children per node: the tree is half as deep as a binary one, and the
 * four entries compared on the way down are neighbours in memory. */
#include "timerheap.h"

#include <errno.h>

#define TIMERHEAP_ARITY 4
#define TIMERHEAP_FIRST_CAPACITY 16

/* Indices must differ from PL_TIMER_IDLE, and the size of the array must fit
 * into a size_t. */
#if SIZE_MAX > UINT32_MAX
#define TIMERHEAP_CAPACITY_MAX (UINT32_C(1) << 31)
#else
#define TIMERHEAP_CAPACITY_MAX (UINT32_C(1) << 26)
#endif

void
timerheap_init(struct timerheap *heap)
{
    heap->entries = NULL;
    heap->length = 0;
    heap->capacity = 0;
    heap->next_sequence = 0;
}

/* Timers that are still in the heap become idle: their owners may outlive the
 * heap, and must not find an index into freed memory. */
void
timerheap_destroy(struct timerheap *heap)
{
    for (uint32_t i = 0; i < heap->length; i++) {
        heap->entries[i].timer->index = PL_TIMER_IDLE;
    }
    pl_free(heap->entries);
    timerheap_init(heap);
}

static inline bool
timerheap_is_before(const struct timerheap_entry *a,
                    const struct timerheap_entry *b)
{
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns
                                            : a->sequence < b->sequence;
}

static inline void
timerheap_place(struct timerheap *heap, uint32_t i,
                struct timerheap_entry entry)
{
    heap->entries[i] = entry;
    entry.timer->index = i;
}

/* Moves the hole at `i` towards the root until `entry` fits into it. */
static void
timerheap_sift_up(struct timerheap *heap, uint32_t i,
                  struct timerheap_entry entry)
{
    while (i > 0) {
        uint32_t parent = (i - 1) / TIMERHEAP_ARITY;
        if (!timerheap_is_before(&entry, &heap->entries[parent])) {
            break;
        }
        timerheap_place(heap, i, heap->entries[parent]);
        i = parent;
    }
    timerheap_place(heap, i, entry);
}

/* Moves the hole at `i` towards the leaves until `entry` fits into it. */
static void
timerheap_sift_down(struct timerheap *heap, uint32_t i,
                    struct timerheap_entry entry)
{
    for (;;) {
        uint64_t child = (uint64_t)i * TIMERHEAP_ARITY + 1;
        if (child >= heap->length) {
            break;
        }
        uint64_t end = child + TIMERHEAP_ARITY;
        if (end > heap->length) {
            end = heap->length;
        }
        uint32_t least = (uint32_t)child;
        for (uint32_t j = least + 1; j < end; j++) {
            if (timerheap_is_before(&heap->entries[j], &heap->entries[least]))
            {
                least = j;
            }
        }
        if (!timerheap_is_before(&heap->entries[least], &entry)) {
            break;
        }
        timerheap_place(heap, i, heap->entries[least]);
        i = least;
    }
    timerheap_place(heap, i, entry);
}

static int
timerheap_reserve(struct timerheap *heap)
{
    if (heap->length < heap->capacity) {
        return 0;
    }
    if (heap->capacity >= TIMERHEAP_CAPACITY_MAX) {
        return -EOVERFLOW;
    }
    uint32_t capacity
        = heap->capacity > 0 ? heap->capacity * 2 : TIMERHEAP_FIRST_CAPACITY;
    struct timerheap_entry *entries
        = pl_realloc(heap->entries, capacity * sizeof(*entries));
    if (entries == NULL) {
        return -ENOMEM;
    }
    heap->entries = entries;
    heap->capacity = capacity;
    return 0;
}

int
timerheap_push(struct timerheap *heap, struct timer *timer,
               int64_t deadline_ns)
{
    int rc = timerheap_reserve(heap);
    if (rc < 0) {
        return rc;
    }
    timer->deadline_ns = deadline_ns;
    struct timerheap_entry entry = {
        .deadline_ns = deadline_ns,
        .sequence = heap->next_sequence++,
        .timer = timer,
    };
    timerheap_sift_up(heap, heap->length++, entry);
    return 0;
}

/* The last entry fills the hole.  It may come from another branch, so that it
 * may belong above the hole as well as below it. */
void
timerheap_remove(struct timerheap *heap, struct timer *timer)
{
    if (!timer_node_is_active(timer)) {
        return;
    }
    uint32_t hole = timer->index;
    timer->index = PL_TIMER_IDLE;
    heap->length--;
    if (hole == heap->length) {
        return;
    }
    struct timerheap_entry last = heap->entries[heap->length];
    if (hole > 0
        && timerheap_is_before(&last,
                               &heap->entries[(hole - 1) / TIMERHEAP_ARITY]))
    {
        timerheap_sift_up(heap, hole, last);
    }
    else {
        timerheap_sift_down(heap, hole, last);
    }
}

struct timer *
timerheap_pop_due(struct timerheap *heap, int64_t now_ns)
{
    if (heap->length == 0 || heap->entries[0].deadline_ns > now_ns) {
        return NULL;
    }
    struct timer *timer = heap->entries[0].timer;
    timerheap_remove(heap, timer);
    return timer;
}
