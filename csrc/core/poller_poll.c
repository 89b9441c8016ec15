/* The poll(2) backend: slower with many descriptors, and available wherever
 * there is Unix.
 *
 * Its traps:
 *
 * 1. The kernel keeps nothing between two calls: the whole array goes in every
 *    time, and a wait costs O(descriptors).  So the array is kept compact (a
 *    removed entry is replaced by the last one), and a map from number to
 *    place finds an entry in O(1).
 *
 * 2. Since nothing is kept, only numbers count.  A number that was closed
 *    reports POLLNVAL at every call; a number that was reused reports the new
 *    file.  POLLNVAL becomes readable and writable: whoever waits tries, and
 *    gets EBADF from its own call.  The generation is kept beside the array
 *    and handed back with the event.  A registration of a number that is not
 *    open is refused at once, as epoll refuses it.
 *
 * 3. POLLERR, POLLHUP and POLLNVAL are reported whether asked for or not.
 *    Entries that want nothing are not in the array.
 *
 * 4. Regular files are always ready.  epoll refuses them; who wants to see the
 *    difference can.
 *
 * 5. The array is scanned from a different place each time that not all ready
 *    entries fitted: else those at the end would never be reported.
 *
 * 6. poll counts in milliseconds, ppoll in nanoseconds.  Where there is no
 *    ppoll we round up, since a timer must not be early.  A signal ends either
 *    with EINTR, whatever SA_RESTART says.
 *
 * Invariants, for 0 <= i < length:
 *   places[entries[i].fd] == i + 1;  the place of all other numbers is 0
 *   generations[i] belongs to entries[i]
 *   entries[i].events != 0 */
#include "poller.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>

#include "clock.h"

#if defined(__linux__) || defined(__FreeBSD__) || defined(__OpenBSD__) \
    || defined(__NetBSD__)
#define POLL_HAS_PPOLL 1
#else
#define POLL_HAS_PPOLL 0
#endif

struct poller {
    struct pollfd *entries;
    uint32_t *generations;
    uint32_t length;
    uint32_t capacity;
    uint32_t *places;
    uint32_t n_places;
    uint32_t cursor; /* where the next scan begins */
};

static int
poll_probe(void)
{
    return 0;
}

static int
poll_new(struct poller **out)
{
    struct poller *poller = pl_alloc(sizeof(*poller));
    if (poller == NULL) {
        return -ENOMEM;
    }
    *poller = (struct poller){0};
    *out = poller;
    return 0;
}

static void
poll_destroy(struct poller *poller)
{
    pl_free(poller->entries);
    pl_free(poller->generations);
    pl_free(poller->places);
    pl_free(poller);
}

static int
poll_reserve_place(struct poller *poller, uint32_t fd)
{
    if (fd < poller->n_places) {
        return 0;
    }
    uint32_t n = poller->n_places > 0 ? poller->n_places * 2 : 64;
    if (n <= fd) {
        n = fd + 1;
    }
    uint32_t *places = pl_realloc(poller->places, n * sizeof(*places));
    if (places == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = poller->n_places; i < n; i++) {
        places[i] = 0;
    }
    poller->places = places;
    poller->n_places = n;
    return 0;
}

/* The two arrays grow together; if only the first could grow, it is merely
 * larger than `capacity` says. */
static int
poll_reserve_entry(struct poller *poller)
{
    if (poller->length < poller->capacity) {
        return 0;
    }
    uint32_t capacity = poller->capacity > 0 ? poller->capacity * 2 : 16;
    struct pollfd *entries
        = pl_realloc(poller->entries, capacity * sizeof(*entries));
    if (entries == NULL) {
        return -ENOMEM;
    }
    poller->entries = entries;
    uint32_t *generations
        = pl_realloc(poller->generations, capacity * sizeof(*generations));
    if (generations == NULL) {
        return -ENOMEM;
    }
    poller->generations = generations;
    poller->capacity = capacity;
    return 0;
}

static void
poll_remove(struct poller *poller, int fd)
{
    if ((uint32_t)fd >= poller->n_places || poller->places[fd] == 0) {
        return;
    }
    uint32_t hole = poller->places[fd] - 1;
    uint32_t last = --poller->length;
    poller->places[fd] = 0;
    if (hole != last) {
        poller->entries[hole] = poller->entries[last];
        poller->generations[hole] = poller->generations[last];
        poller->places[poller->entries[hole].fd] = hole + 1;
    }
}

static int
poll_add(struct poller *poller, int fd)
{
    if (fcntl(fd, F_GETFD) < 0) {
        return -errno;
    }
    int rc = poll_reserve_place(poller, (uint32_t)fd);
    if (rc < 0) {
        return rc;
    }
    if (poller->places[fd] != 0) {
        return 0;
    }
    rc = poll_reserve_entry(poller);
    if (rc < 0) {
        return rc;
    }
    poller->entries[poller->length].fd = fd;
    poller->entries[poller->length].revents = 0;
    poller->places[fd] = ++poller->length;
    return 0;
}

static int
poll_update(struct poller *poller, int fd, uint32_t generation, unsigned armed,
            unsigned wanted)
{
    /* Our own array is the truth, whatever the caller believes. */
    (void)armed;
    if (fd < 0) {
        return -EBADF;
    }
    if (wanted == 0) {
        poll_remove(poller, fd);
        return 0;
    }
    int rc = poll_add(poller, fd);
    if (rc < 0) {
        poll_remove(poller, fd);
        return rc;
    }
    uint32_t i = poller->places[fd] - 1;
    poller->entries[i].events = (short)(((wanted & PL_READ) ? POLLIN : 0)
                                        | ((wanted & PL_WRITE) ? POLLOUT : 0));
    poller->generations[i] = generation;
    return 0;
}

#if POLL_HAS_PPOLL
static int
poll_collect(struct poller *poller, int64_t timeout_ns)
{
    struct timespec ts = {
        .tv_sec = (time_t)(timeout_ns / PL_NS_PER_SEC),
        .tv_nsec = (long)(timeout_ns % PL_NS_PER_SEC),
    };
    int rc = ppoll(poller->entries, poller->length,
                   timeout_ns == PL_FOREVER ? NULL : &ts, NULL);
    return rc < 0 ? -errno : rc;
}
#else
static int
poll_collect(struct poller *poller, int64_t timeout_ns)
{
    for (;;) {
        int64_t rest_ns;
        int timeout_ms = clock_ceil_ms(timeout_ns, &rest_ns);
        int rc = poll(poller->entries, poller->length, timeout_ms);
        if (rc < 0) {
            return -errno;
        }
        if (rc > 0 || rest_ns <= 0) {
            return rc;
        }
        timeout_ns = rest_ns;
    }
}
#endif

static uint32_t
poll_translate(short bits)
{
    uint32_t events = 0;
    if (bits & (POLLIN | POLLERR | POLLHUP | POLLNVAL)) {
        events |= PL_READ;
    }
    if (bits & (POLLOUT | POLLERR | POLLHUP | POLLNVAL)) {
        events |= PL_WRITE;
    }
    return events;
}

static int
poll_wait_events(struct poller *poller, struct poller_event *events, int n,
                 int64_t timeout_ns)
{
    int n_ready = poll_collect(poller, timeout_ns < 0 ? 0 : timeout_ns);
    if (n_ready <= 0) {
        return n_ready;
    }
    if (n_ready > n) {
        n_ready = n;
    }

    int n_stored = 0;
    uint32_t i = poller->cursor < poller->length ? poller->cursor : 0;
    for (uint32_t seen = 0; seen < poller->length && n_stored < n_ready;
         seen++)
    {
        const struct pollfd *entry = &poller->entries[i];
        if (entry->revents != 0) {
            events[n_stored].fd = entry->fd;
            events[n_stored].generation = poller->generations[i];
            events[n_stored].events = poll_translate(entry->revents);
            n_stored++;
        }
        i = i + 1 < poller->length ? i + 1 : 0;
    }
    poller->cursor = i;
    return n_stored;
}

static int
poll_fileno(const struct poller *poller)
{
    (void)poller;
    return -1;
}

const struct poller_ops poller_poll_ops = {
    .name = "poll",
    .takes_updates_while_waiting = false,
    .probe = poll_probe,
    .create = poll_new,
    .destroy = poll_destroy,
    .update = poll_update,
    .wait = poll_wait_events,
    .submit = NULL,
    .cancel = NULL,
    .fileno = poll_fileno,
};
