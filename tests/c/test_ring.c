/* The ring against a plain counter: what goes in comes out in order. */
#include <errno.h>

#include "check.h"
#include "core/ring.h"

static void *
item(uintptr_t i)
{
    return (void *)(i + 1);
}

static void
test_capacity_is_rounded_up(void)
{
    static const uint32_t asked[] = {0, 1, 2, 3, 4, 5, 63, 64, 65};
    static const uint32_t given[] = {1, 1, 2, 4, 4, 8, 64, 64, 128};
    for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
        struct ring ring;
        CHECK_EQ(ring_init(&ring, asked[i]), 0);
        CHECK_EQ(ring.mask + 1, given[i]);
        CHECK_EQ(ring_length(&ring), 0);
        ring_destroy(&ring);
    }
}

static void
test_too_large_is_refused(void)
{
    struct ring ring;
    CHECK_EQ(ring_init(&ring, (UINT32_C(1) << 31) + 1), -EOVERFLOW);
    /* Destroying what could not be made is harmless. */
    ring_destroy(&ring);
    ring.mask = (UINT32_C(1) << 31) - 1;
    CHECK_EQ(ring_grow(&ring), -EOVERFLOW);
}

static void
test_random_pushes_and_pops_keep_the_order(void)
{
    uint64_t seed = 1;
    struct ring ring;
    CHECK_EQ(ring_init(&ring, 4), 0);
    uintptr_t pushed = 0;
    uintptr_t popped = 0;
    for (int round = 0; round < 20000; round++) {
        uint32_t n = check_random(&seed) % 7;
        /* Grows in the first half, is emptied in the second. */
        if (check_random(&seed) % 100 < (round < 10000 ? 55u : 45u)) {
            while (n-- > 0) {
                CHECK_EQ(ring_push(&ring, item(pushed)), 0);
                pushed++;
            }
        }
        else {
            while (n-- > 0 && popped < pushed) {
                CHECK(ring_pop(&ring) == item(popped));
                popped++;
            }
        }
        CHECK_EQ(ring_length(&ring), pushed - popped);
        if (popped < pushed) {
            uint32_t i = check_random(&seed) % ring_length(&ring);
            CHECK(ring_at(&ring, i) == item(popped + i));
        }
    }
    while (popped < pushed) {
        CHECK(ring_pop(&ring) == item(popped));
        popped++;
    }
    ring_destroy(&ring);
}

static void
test_indices_wrap_at_2_32(void)
{
    struct ring ring;
    CHECK_EQ(ring_init(&ring, 8), 0);
    ring.head = ring.tail = UINT32_MAX - 3;
    for (uintptr_t i = 0; i < 8; i++) {
        CHECK_EQ(ring_push(&ring, item(i)), 0);
    }
    CHECK(ring.tail < ring.head);
    CHECK_EQ(ring_length(&ring), 8);
    CHECK_EQ(ring.mask, 7);
    /* The ninth makes it grow across the wrap. */
    CHECK_EQ(ring_push(&ring, item(8)), 0);
    CHECK_EQ(ring.mask, 15);
    for (uintptr_t i = 0; i < 9; i++) {
        CHECK(ring_at(&ring, (uint32_t)i) == item(i));
    }
    for (uintptr_t i = 0; i < 9; i++) {
        CHECK(ring_pop(&ring) == item(i));
    }
    ring_destroy(&ring);
}

static void
test_growing_from_every_offset(void)
{
    for (uint32_t offset = 0; offset < 8; offset++) {
        for (uint32_t length = 0; length <= 8; length++) {
            struct ring ring;
            CHECK_EQ(ring_init(&ring, 8), 0);
            ring.head = ring.tail = offset;
            for (uintptr_t i = 0; i < length; i++) {
                CHECK_EQ(ring_push(&ring, item(i)), 0);
            }
            CHECK_EQ(ring_grow(&ring), 0);
            CHECK_EQ(ring.mask, 15);
            CHECK_EQ(ring_length(&ring), length);
            for (uintptr_t i = 0; i < length; i++) {
                CHECK(ring_pop(&ring) == item(i));
            }
            ring_destroy(&ring);
        }
    }
}

static void *
refuse(void *ptr, size_t size)
{
    (void)ptr;
    (void)size;
    return NULL;
}

static void
test_failure_to_grow_changes_nothing(void)
{
    struct ring ring;
    CHECK_EQ(ring_init(&ring, 2), 0);
    CHECK_EQ(ring_push(&ring, item(0)), 0);
    CHECK_EQ(ring_push(&ring, item(1)), 0);
    struct ring before = ring;

    pl_realloc_fn hook = pl_realloc_hook;
    pl_realloc_hook = refuse;
    CHECK_EQ(ring_push(&ring, item(2)), -ENOMEM);
    pl_realloc_hook = hook;

    CHECK(ring.slots == before.slots);
    CHECK_EQ(ring.mask, before.mask);
    CHECK_EQ(ring.head, before.head);
    CHECK_EQ(ring.tail, before.tail);
    CHECK_EQ(ring_push(&ring, item(2)), 0);
    for (uintptr_t i = 0; i < 3; i++) {
        CHECK(ring_pop(&ring) == item(i));
    }
    ring_destroy(&ring);
}

int
main(void)
{
    test_capacity_is_rounded_up();
    test_too_large_is_refused();
    test_random_pushes_and_pops_keep_the_order();
    test_indices_wrap_at_2_32();
    test_growing_from_every_offset();
    test_failure_to_grow_changes_nothing();
    return 0;
}
