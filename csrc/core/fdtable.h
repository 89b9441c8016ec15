/* The table of watched file descriptors: fd -> struct watch.
 *
 * A watch is what the loop knows of one descriptor: who waits to read, who
 * waits to write, which events the poller should report (`wanted`), which it
 * was told to report (`armed`), and for which object the registration was
 * made (`owner`).  The pointers are opaque here: the loop above owns the
 * references and dispatches.
 *
 * Watches live in chunks that never move, so a `struct watch *` is valid
 * until fdtable_destroy.
 *
 * Invariants:
 *   wanted == (waiter[PL_SIDE_READ] ? PL_READ : 0)
 *           | (waiter[PL_SIDE_WRITE] ? PL_WRITE : 0)
 *   armed is what the kernel was last told; it differs from what wanted and
 *     mode ask for only while the watch is on the reactor's dirty list
 *   generation changes whenever the fd number may have come to mean another
 *     open file; an event that carries another generation is stale
 */
#ifndef PL_CORE_FDTABLE_H
#define PL_CORE_FDTABLE_H

#include "base.h"
#include "list.h"

/* Index of a side in watch.waiter: event bit == 1 << side. */
enum { PL_SIDE_READ = 0, PL_SIDE_WRITE = 1 };

struct watch {
    void *waiter[2];   /* opaque; NULL: nobody */
    void *owner;       /* opaque identity of the open file; may be NULL */
    struct list dirty; /* in reactor.dirty when linked */
    int fd;
    uint32_t generation;
    uint8_t wanted;
    uint8_t armed;      /* PL_EDGE, too */
    uint8_t mode;       /* PL_MODE_*, the reactor's own */
    uint8_t persistent; /* PL_READ | PL_WRITE: this side's waiter stays
                           registered when it fires (add_reader) */
    uint8_t hints;      /* PL_HINT_DRAINED; the other bits are free for the
                           layer that does the I/O */
    uint8_t doubts;     /* the reactor's own: what it must ask the poller */
    uint8_t unproven;   /* the reactor's own: an edge came, and the poller was
                           not asked since whether something is left */
};

/* The last read left the socket drained: wait before the next attempt.  Set by
 * the layer that reads, cleared by the reactor with each event. */
enum { PL_HINT_DRAINED = 1 };

/* How reads are reported: not decided for this owner, by edges, by level. */
enum { PL_MODE_UNKNOWN = 0, PL_MODE_EDGE, PL_MODE_LEVEL };

#define PL_WATCH_CHUNK_BITS 6
#define PL_WATCH_CHUNK (1 << PL_WATCH_CHUNK_BITS)

struct fdtable {
    struct watch **chunks; /* n_chunks pointers, NULL where never used */
    uint32_t n_chunks;
};

void fdtable_init(struct fdtable *table);
void fdtable_destroy(struct fdtable *table);
/* The watch of `fd` (>= 0), made on first use: *out.  0, -ENOMEM, -EBADF for
 * a negative fd. */
int fdtable_ensure(struct fdtable *table, int fd, struct watch **out);
/* Calls fn for every watch that was ever made; stops at the first non-zero
 * return and returns it. */
int fdtable_foreach(const struct fdtable *table,
                    int (*fn)(struct watch *watch, void *arg), void *arg);

/* The watch of `fd`, or NULL if there never was one. */
static inline struct watch *
fdtable_get(const struct fdtable *table, int fd)
{
    uint32_t chunk = (uint32_t)fd >> PL_WATCH_CHUNK_BITS;
    if (fd < 0 || chunk >= table->n_chunks || table->chunks[chunk] == NULL) {
        return NULL;
    }
    return &table->chunks[chunk][fd & (PL_WATCH_CHUNK - 1)];
}

#endif
