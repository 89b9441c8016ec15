/* The heap against a sorted array. */
#include <string.h>

#include "check.h"
#include "core/timerheap.h"

#define N_TIMERS 600

/* The model: (deadline, order of adding), kept sorted by insertion. */
struct model_entry {
    int64_t deadline_ns;
    struct timer *timer;
};

struct model {
    struct model_entry entries[N_TIMERS];
    int length;
};

static void
model_add(struct model *model, struct timer *timer, int64_t deadline_ns)
{
    int i = model->length++;
    /* Behind its equals: the one added first comes first. */
    while (i > 0 && model->entries[i - 1].deadline_ns > deadline_ns) {
        model->entries[i] = model->entries[i - 1];
        i--;
    }
    model->entries[i].deadline_ns = deadline_ns;
    model->entries[i].timer = timer;
}

static void
model_remove(struct model *model, const struct timer *timer)
{
    int i = 0;
    while (model->entries[i].timer != timer) {
        i++;
        CHECK(i < model->length);
    }
    model->length--;
    memmove(&model->entries[i], &model->entries[i + 1],
            (size_t)(model->length - i) * sizeof(model->entries[0]));
}

static void
check_invariants(const struct timerheap *heap)
{
    for (uint32_t i = 0; i < heap->length; i++) {
        const struct timerheap_entry *entry = &heap->entries[i];
        CHECK_EQ(entry->timer->index, i);
        CHECK_EQ(entry->timer->deadline_ns, entry->deadline_ns);
        if (i > 0) {
            const struct timerheap_entry *parent = &heap->entries[(i - 1) / 4];
            CHECK(parent->deadline_ns < entry->deadline_ns
                  || (parent->deadline_ns == entry->deadline_ns
                      && parent->sequence < entry->sequence));
        }
    }
}

static void
check_pop(struct timerheap *heap, struct model *model, int64_t now_ns)
{
    struct timer *expected = NULL;
    if (model->length > 0 && model->entries[0].deadline_ns <= now_ns) {
        expected = model->entries[0].timer;
        model_remove(model, expected);
    }
    CHECK(timerheap_pop_due(heap, now_ns) == expected);
    if (expected != NULL) {
        CHECK(!timer_node_is_active(expected));
    }
}

/* `spread` small: many ties. */
static void
run_against_model(uint64_t seed, uint32_t spread)
{
    static struct timer timers[N_TIMERS];
    static struct model model;
    model.length = 0;
    struct timerheap heap;
    timerheap_init(&heap);
    for (int i = 0; i < N_TIMERS; i++) {
        timer_node_init(&timers[i]);
    }

    for (int round = 0; round < 12000; round++) {
        struct timer *timer = &timers[check_random(&seed) % N_TIMERS];
        int64_t deadline_ns = (int64_t)(check_random(&seed) % spread);
        uint32_t what = check_random(&seed) % 10;
        if (!timer_node_is_active(timer)) {
            CHECK_EQ(timerheap_push(&heap, timer, deadline_ns), 0);
            model_add(&model, timer, deadline_ns);
        }
        else if (what < 6) {
            timerheap_remove(&heap, timer);
            model_remove(&model, timer);
            CHECK(!timer_node_is_active(timer));
        }
        else {
            check_pop(&heap, &model, deadline_ns / 4);
        }
        CHECK_EQ(heap.length, model.length);
        CHECK_EQ(timerheap_next_deadline_ns(&heap),
                 model.length > 0 ? model.entries[0].deadline_ns : INT64_MAX);
        if (round % 64 == 0) {
            check_invariants(&heap);
        }
    }
    check_invariants(&heap);
    while (model.length > 0) {
        check_pop(&heap, &model, INT64_MAX);
    }
    CHECK(timerheap_pop_due(&heap, INT64_MAX) == NULL);
    timerheap_destroy(&heap);
}

static void
test_random_operations(void)
{
    run_against_model(1, 1000000);
    run_against_model(2, 50);
    run_against_model(3, 1);
}

static void
test_equal_deadlines_fire_in_the_order_of_adding(void)
{
    static struct timer timers[300];
    struct timerheap heap;
    timerheap_init(&heap);
    for (int i = 0; i < 300; i++) {
        timer_node_init(&timers[i]);
        CHECK_EQ(timerheap_push(&heap, &timers[i], 7), 0);
    }
    /* Every third goes, the first two of those come back at the end. */
    for (int i = 0; i < 300; i += 3) {
        timerheap_remove(&heap, &timers[i]);
    }
    CHECK_EQ(timerheap_push(&heap, &timers[3], 7), 0);
    CHECK_EQ(timerheap_push(&heap, &timers[0], 7), 0);
    for (int i = 0; i < 300; i++) {
        if (i % 3 != 0) {
            CHECK(timerheap_pop_due(&heap, 7) == &timers[i]);
        }
    }
    CHECK(timerheap_pop_due(&heap, 7) == &timers[3]);
    CHECK(timerheap_pop_due(&heap, 7) == &timers[0]);
    CHECK(timerheap_pop_due(&heap, 7) == NULL);
    timerheap_destroy(&heap);
}

static void
test_removing_an_idle_timer_does_nothing(void)
{
    struct timer timer;
    struct timerheap heap;
    timer_node_init(&timer);
    timerheap_init(&heap);
    timerheap_remove(&heap, &timer);
    CHECK_EQ(timerheap_push(&heap, &timer, 5), 0);
    timerheap_remove(&heap, &timer);
    timerheap_remove(&heap, &timer);
    CHECK_EQ(heap.length, 0);
    timerheap_destroy(&heap);
}

static void
test_extreme_deadlines(void)
{
    struct timer never;
    struct timer past;
    struct timerheap heap;
    timer_node_init(&never);
    timer_node_init(&past);
    timerheap_init(&heap);
    CHECK_EQ(timerheap_push(&heap, &never, INT64_MAX), 0);
    CHECK_EQ(timerheap_push(&heap, &past, INT64_MIN), 0);
    CHECK_EQ(timerheap_next_deadline_ns(&heap), INT64_MIN);
    CHECK(timerheap_pop_due(&heap, 0) == &past);
    CHECK(timerheap_pop_due(&heap, INT64_MAX - 1) == NULL);
    timerheap_destroy(&heap);
    /* A timer outlives the heap, as an idle one. */
    CHECK(!timer_node_is_active(&never));
}

int
main(void)
{
    test_random_operations();
    test_equal_deadlines_fire_in_the_order_of_adding();
    test_removing_an_idle_timer_does_nothing();
    test_extreme_deadlines();
    return 0;
}
