/* The table: every number has its own watch, which never moves. */
#include <errno.h>

#include "check.h"
#include "core/fdtable.h"

static void
check_is_new(const struct watch *watch, int fd)
{
    CHECK_EQ(watch->fd, fd);
    CHECK(watch->waiter[PL_SIDE_READ] == NULL);
    CHECK(watch->waiter[PL_SIDE_WRITE] == NULL);
    CHECK(watch->owner == NULL);
    CHECK(!list_is_linked(&watch->dirty));
    CHECK_EQ(watch->generation, 0);
    CHECK_EQ(watch->wanted, 0);
    CHECK_EQ(watch->armed, 0);
    CHECK_EQ(watch->persistent, 0);
    CHECK_EQ(watch->hints, 0);
    CHECK_EQ(watch->doubts, 0);
}

static void
test_bits_and_sides_agree(void)
{
    CHECK_EQ(PL_READ, 1 << PL_SIDE_READ);
    CHECK_EQ(PL_WRITE, 1 << PL_SIDE_WRITE);
}

static void
test_watches_are_made_on_first_use_and_never_move(void)
{
    enum { N = 700 };
    static struct watch *watches[N];
    struct fdtable table;
    fdtable_init(&table);
    for (int fd = 0; fd < N; fd++) {
        /* An order that grows the table by jumps and fills gaps later. */
        int other = (fd * 389) % N;
        CHECK_EQ(fdtable_ensure(&table, other, &watches[other]), 0);
        check_is_new(watches[other], other);
        watches[other]->generation = (uint32_t)other + 1;
    }
    for (int fd = 0; fd < N; fd++) {
        struct watch *again;
        CHECK_EQ(fdtable_ensure(&table, fd, &again), 0);
        CHECK(again == watches[fd]);
        CHECK(fdtable_get(&table, fd) == watches[fd]);
        CHECK_EQ(again->fd, fd);
        CHECK_EQ(again->generation, fd + 1);
    }
    fdtable_destroy(&table);
}

static void
test_numbers_without_a_watch(void)
{
    struct fdtable table;
    struct watch *watch;
    fdtable_init(&table);
    CHECK(fdtable_get(&table, 0) == NULL);
    CHECK(fdtable_get(&table, -1) == NULL);
    CHECK_EQ(fdtable_ensure(&table, -1, &watch), -EBADF);
    CHECK_EQ(fdtable_ensure(&table, INT32_MIN, &watch), -EBADF);
    CHECK_EQ(fdtable_ensure(&table, 1000, &watch), 0);
    CHECK(fdtable_get(&table, 10) == NULL);
    CHECK(fdtable_get(&table, 100000) == NULL);
    CHECK(fdtable_get(&table, INT32_MAX) == NULL);
    CHECK(fdtable_get(&table, -1) == NULL);
    CHECK(fdtable_get(&table, INT32_MIN) == NULL);
    /* Its neighbours in the chunk came with it. */
    check_is_new(fdtable_get(&table, 1001), 1001);
    fdtable_destroy(&table);
    CHECK(fdtable_get(&table, 1000) == NULL);
}

struct visit {
    int n_visited;
    int stop_at_fd;
    long sum;
};

static int
visit_watch(struct watch *watch, void *arg)
{
    struct visit *visit = arg;
    visit->n_visited++;
    visit->sum += watch->fd;
    return watch->fd == visit->stop_at_fd ? 42 : 0;
}

static void
test_foreach(void)
{
    struct fdtable table;
    struct watch *watch;
    struct visit visit = {.stop_at_fd = -1};
    fdtable_init(&table);
    CHECK_EQ(fdtable_foreach(&table, visit_watch, &visit), 0);
    CHECK_EQ(visit.n_visited, 0);

    CHECK_EQ(fdtable_ensure(&table, 3, &watch), 0);
    CHECK_EQ(fdtable_ensure(&table, 5 * PL_WATCH_CHUNK, &watch), 0);
    CHECK_EQ(fdtable_foreach(&table, visit_watch, &visit), 0);
    CHECK_EQ(visit.n_visited, 2 * PL_WATCH_CHUNK);
    long low = (long)PL_WATCH_CHUNK * (PL_WATCH_CHUNK - 1) / 2;
    CHECK_EQ(visit.sum, 2 * low + 5L * PL_WATCH_CHUNK * PL_WATCH_CHUNK);

    visit = (struct visit){.stop_at_fd = 2};
    CHECK_EQ(fdtable_foreach(&table, visit_watch, &visit), 42);
    CHECK_EQ(visit.n_visited, 3);
    fdtable_destroy(&table);
}

static void
test_list(void)
{
    struct list head;
    struct list a;
    struct list b;
    list_init(&head);
    list_init(&a);
    list_init(&b);
    CHECK(list_is_empty(&head));
    CHECK(list_first(&head) == NULL);
    list_append(&head, &a);
    list_prepend(&head, &b);
    CHECK(list_first(&head) == &b);
    CHECK(list_next(&head, &b) == &a);
    CHECK(list_next(&head, &a) == NULL);
    list_remove(&b);
    list_remove(&b);
    CHECK(!list_is_linked(&b));
    CHECK(list_first(&head) == &a);
    list_remove(&a);
    CHECK(list_is_empty(&head));
}

int
main(void)
{
    test_bits_and_sides_agree();
    test_watches_are_made_on_first_use_and_never_move();
    test_numbers_without_a_watch();
    test_foreach();
    test_list();
    return 0;
}
