/* THE backend contract: what a poller must do, and nothing of how.
 *
 * A backend turns "tell me when fd is readable" into system calls.  It is one
 * `const struct poller_ops` in one file (poller_epoll.c, poller_poll.c); the
 * loop picks it by name when it is made.  A backend
 *   - fills an array of events and never calls out (all but one: see calls_out
 *     below): whatever a handler does to other descriptors cannot pull the
 *     array from under the dispatcher;
 *   - returns every event with the generation that its registration was made
 *     with, so that a stale one is recognised above;
 *   - is level triggered, but where it knows PL_EDGE and is asked for it;
 *   - is used by one thread, and never re-entered.
 *
 * A backend that completes operations instead of reporting readiness
 * (io_uring) implements submit and cancel; the others leave them NULL, and the
 * layer above waits for readiness and makes the system call itself. */
#ifndef PL_CORE_POLLER_H
#define PL_CORE_POLLER_H

#include "base.h"

struct sockaddr;
struct iovec;

struct poller; /* each backend's own */

struct poller_event {
    int fd;
    uint32_t generation;
    uint32_t events; /* PL_READ | PL_WRITE; errors and hang-ups set both, so
                        that whoever waits meets the error in its own call;
                        PL_LINGERS */
};

/* In an interest set, beside PL_READ alone: report what is new, and nothing
 * twice.  An update that sets it reports what is there already. */
#define PL_EDGE 4u
/* In an event: there is something that a read which takes all the data does
 * not end, nor tell of: the end of the stream, an error, urgent data.  Only
 * meaningful where PL_EDGE was asked for. */
#define PL_LINGERS 8u

/* One operation, described so that a completion backend can submit it and a
 * readiness backend can wait for `interest` and let the caller perform it. */
enum io_code { PL_IO_RECV, PL_IO_SEND, PL_IO_ACCEPT, PL_IO_CONNECT };

struct io_op {
    enum io_code code;
    int fd;
    uint32_t interest; /* PL_READ or PL_WRITE */
    void *buffer;      /* stays valid until the completion is seen */
    size_t length;
    struct sockaddr *addr; /* accept: filled in; connect: where to */
    uint32_t addr_length;
    int flags;
    int64_t result; /* completion: bytes or fd, or -errno */
};

struct poller_ops {
    const char *name;
    /* update may be called while another thread is in wait, and takes effect
     * in that wait. */
    bool takes_updates_while_waiting;
    /* The exception to "never calls out": update and wait run code that may do
     * anything, also to the reactor.  update is then told of each change of a
     * waiter, also where wanted == armed. */
    bool calls_out;
    /* Knows PL_EDGE; it is not given to the others. */
    bool reports_edges;
    /* 0 if the running kernel can do it, else -errno. */
    int (*probe)(void);
    int (*create)(struct poller **out);
    void (*destroy)(struct poller *poller);
    /* Changes what is reported for `fd` from `armed` to `wanted` (sets of
     * PL_READ | PL_WRITE | PL_EDGE, 0: not registered).  Heals what can be
     * healed: a registration that the kernel already dropped is made anew,
     * one that is still there is modified, dropping one that is gone is no
     * error.  Else -errno (EBADF, EPERM for a regular file, ENOMEM, ENOSPC
     * ...), and then nothing is registered. */
    int (*update)(struct poller *poller, int fd, uint32_t generation,
                  unsigned armed, unsigned wanted);
    /* Waits for at most timeout_ns (0: do not wait; PL_FOREVER: without
     * limit), never less than that unless something happened.  Returns the
     * number of events stored, 0 on timeout, -EINTR, or another -errno. */
    int (*wait)(struct poller *poller, struct poller_event *events, int n,
                int64_t timeout_ns);
    int (*submit)(struct poller *poller, struct io_op *op);
    int (*cancel)(struct poller *poller, struct io_op *op);
    /* The descriptor to poll this poller by, or -1 (Selector.fileno). */
    int (*fileno)(const struct poller *poller);
};

extern const struct poller_ops poller_epoll_ops;
extern const struct poller_ops poller_poll_ops;

/* The backend called `name`; NULL or "" means: $PYLOOP_BACKEND, else the first
 * of the default order that probes well.  -EINVAL: no such name (then *out is
 * NULL); another -errno: it exists but this kernel has it not. */
int poller_find(const char *name, const struct poller_ops **out);
/* Names of all backends that are compiled in, best first, NULL at the end. */
const char *const *poller_names(void);

#endif
