/* The datagram transport: a stream transport whose pieces have boundaries and
 * addresses.  How it is made, watched and closed is the same; reading, writing
 * and the queue are its own. */
#ifndef PL_AIO_DGRAM_H
#define PL_AIO_DGRAM_H

#include <Python.h>

#include "batch.h"
#include "stream.h"

/* A peer's address in both forms. */
struct dgram_peer {
    struct stream_address raw;
    PyObject *object; /* owned, or NULL: no entry */
};

/* Peers that are remembered, by a hash of their address: one at first, and up
 * to so many (10 KiB) where more turn up. */
#define PL_DGRAM_PEERS 256

typedef struct {
    /* Its queue holds tuples (bytes, address). */
    StreamObject base;
    PyObject *address;        /* owned, or NULL: the one to send to */
    struct dgram_peer *peers; /* owned: n_peers, a power of two, or NULL */
    uint32_t n_peers;
    struct dgram_peer *recent; /* in `peers`: of the last datagram, or NULL */
    struct batch batch;
    bool is_connected;
    bool is_nameless; /* its peer is, so that an address says more */
} DgramObject;

#endif
