/* The kernel hands out the lowest free number, so descriptors are dense and
 * an array indexed by fd is the smallest map there is.  Chunks instead of one
 * array: a watch never moves, and a lone high number costs one chunk. */
#include "fdtable.h"

#include <errno.h>
#include <string.h>

void
fdtable_init(struct fdtable *table)
{
    table->chunks = NULL;
    table->n_chunks = 0;
}

void
fdtable_destroy(struct fdtable *table)
{
    for (uint32_t i = 0; i < table->n_chunks; i++) {
        pl_free(table->chunks[i]);
    }
    pl_free(table->chunks);
    fdtable_init(table);
}

/* Makes room for the pointer of chunk number `chunk`; at least doubles, so
 * that opening n descriptors costs O(n). */
static int
fdtable_reserve(struct fdtable *table, uint32_t chunk)
{
    if (chunk < table->n_chunks) {
        return 0;
    }
    uint32_t n_chunks = table->n_chunks * 2;
    if (n_chunks <= chunk) {
        n_chunks = chunk + 1;
    }
    struct watch **chunks
        = pl_realloc(table->chunks, n_chunks * sizeof(*chunks));
    if (chunks == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = table->n_chunks; i < n_chunks; i++) {
        chunks[i] = NULL;
    }
    table->chunks = chunks;
    table->n_chunks = n_chunks;
    return 0;
}

static struct watch *
fdtable_new_chunk(uint32_t chunk)
{
    struct watch *watches = pl_alloc(PL_WATCH_CHUNK * sizeof(*watches));
    if (watches == NULL) {
        return NULL;
    }
    memset(watches, 0, PL_WATCH_CHUNK * sizeof(*watches));
    for (int i = 0; i < PL_WATCH_CHUNK; i++) {
        watches[i].fd = (int)(chunk << PL_WATCH_CHUNK_BITS) + i;
        list_init(&watches[i].dirty);
    }
    return watches;
}

int
fdtable_ensure(struct fdtable *table, int fd, struct watch **out)
{
    if (fd < 0) {
        return -EBADF;
    }
    uint32_t chunk = (uint32_t)fd >> PL_WATCH_CHUNK_BITS;
    int rc = fdtable_reserve(table, chunk);
    if (rc < 0) {
        return rc;
    }
    if (table->chunks[chunk] == NULL) {
        table->chunks[chunk] = fdtable_new_chunk(chunk);
        if (table->chunks[chunk] == NULL) {
            return -ENOMEM;
        }
    }
    *out = &table->chunks[chunk][fd & (PL_WATCH_CHUNK - 1)];
    return 0;
}

int
fdtable_foreach(const struct fdtable *table,
                int (*fn)(struct watch *watch, void *arg), void *arg)
{
    for (uint32_t i = 0; i < table->n_chunks; i++) {
        if (table->chunks[i] == NULL) {
            continue;
        }
        for (int j = 0; j < PL_WATCH_CHUNK; j++) {
            int rc = fn(&table->chunks[i][j], arg);
            if (rc != 0) {
                return rc;
            }
        }
    }
    return 0;
}
