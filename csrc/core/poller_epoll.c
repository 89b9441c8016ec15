/* The epoll(7) backend.
 *
 * What epoll does that its manual says late, softly or not at all, and what
 * follows for us:
 *
 * 1. The kernel's key is the pair (open file, descriptor number).  Interest is
 *    put on an open file; the number is only remembered to tell two entries
 *    apart.  Three things follow.
 *    - close(fd) removes the entry only when it was the last reference to the
 *      open file.  As long as a dup, a forked child or a descriptor in flight
 *      over a Unix socket holds the file, the entry lives on and keeps
 *      reporting the number of a descriptor that we no longer have.
 *    - Such an orphan cannot be removed: EPOLL_CTL_DEL looks up the number
 *      first (EBADF), and if the number is in use again it looks for the
 *      other file (ENOENT).  Only closing the epoll descriptor helps.  The
 *      reactor notices events that it cannot have asked for and makes a new
 *      poller; here a DEL that finds nothing is simply done.
 *    - An orphan and a live entry may carry the same number at the same time.
 *      So the 64 bits of user data are not the number alone but number and
 *      generation, and the reactor compares the generation.
 *
 * 2. Closing is silent.  When the last reference goes, the entry is gone: no
 *    event, no error.  What we believe to be registered may be missing: MOD
 *    says ENOENT, and ADD is the cure.  What we believe to be new may be
 *    there (another object now stands for the same open file): ADD says
 *    EEXIST, and MOD is the cure.  Both are answered in epoll_update.
 *
 * 3. Regular files and directories have no poll operation, and ADD refuses
 *    them with EPERM, where poll(2) reports them as always ready.  The caller
 *    gets the EPERM: to wait for a regular file is a mistake worth hearing of.
 *    An epoll descriptor cannot watch itself (EINVAL), nor a ring of epolls
 *    (ELOOP); a user has a quota of entries (ENOSPC).
 *
 * 4. EPOLLERR and EPOLLHUP are reported whether asked for or not, also to an
 *    entry with an empty mask; level triggered, that would be a busy loop.  So
 *    nothing wanted is DEL, never MOD to 0.  Each of them is translated to
 *    readable and writable: whoever waits tries, and meets the error in its
 *    own system call.  A stream socket that was never connected is hung up
 *    (EPOLLOUT | EPOLLHUP): wait for it only after connect(2) was called.
 *    EPOLLRDHUP tells nothing that a read of 0 bytes does not, level
 *    triggered.
 *
 * 5. epoll_wait counts in milliseconds: rounded up (clock_ceil_ms), a timer is
 *    late.  Linux 5.11 has epoll_pwait2 with nanoseconds.  Where it is missing
 *    (ENOSYS), or a sandbox of its time answers EPERM to calls it never heard
 *    of, we round up, and remember that for the life of the poller.
 *
 * 6. epoll_wait is never restarted after a signal, whatever SA_RESTART says:
 *    EINTR goes up, where Python's handlers are run.
 *
 * 7. When more is ready than fits, the kernel moves what it has reported to
 *    the end of its list, so that the next call reports the others: a small
 *    array is slower, not unfair.
 *
 * 8. A forked child shares the epoll object itself: what the child adds or
 *    removes, the parent loses or gains.  The layers above refuse to use a
 *    loop in another process; EPOLL_CLOEXEC covers exec.
 *
 * 9. Level triggered, epoll_wait asks each file that it reported before once
 *    more, only to find it drained mostly: 2 % of an echo.  With EPOLLET it
 *    does not.  The manual's word for when one may stop reading then, "a read
 *    that returns less than was asked for", holds for data: a FIN that came
 *    with the last of them, or bytes behind an urgent one, make no new edge.
 *    EPOLLRDHUP and EPOLLPRI are asked for to hear of both.  EPOLL_CTL_MOD
 *    looks at the file anew, so that it is safe to change from one way to the
 *    other at any time. */
#include "poller.h"

#ifdef __linux__

#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

/* As many as the reactor takes; whoever asks for more gets them in the next
 * call (7). */
#define EPOLL_BATCH 1024

/* The call is younger than the headers that wheels are built with.  New calls
 * have one number on all architectures but a few, where the headers know. */
#if !defined(SYS_epoll_pwait2) \
    && ((defined(__x86_64__) && defined(__LP64__)) || defined(__aarch64__))
#define SYS_epoll_pwait2 441
#endif

/* See (9). */
#define EPOLL_EDGE ((uint32_t)(EPOLLET | EPOLLRDHUP | EPOLLPRI))

/* What epoll_pwait2 reads: 64-bit fields, also where time_t has 32. */
struct epoll_timespec {
    int64_t seconds;
    int64_t nanoseconds;
};

struct poller {
    int fd;
    bool has_pwait2; /* until the kernel says otherwise */
    struct epoll_event buffer[EPOLL_BATCH];
};

static int
epoll_probe(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    close(fd);
    return 0;
}

static int
epoll_new(struct poller **out)
{
    struct poller *poller = pl_alloc(sizeof(*poller));
    if (poller == NULL) {
        return -ENOMEM;
    }
    poller->fd = epoll_create1(EPOLL_CLOEXEC);
    if (poller->fd < 0) {
        int error = errno;
        pl_free(poller);
        return -error;
    }
#ifdef SYS_epoll_pwait2
    poller->has_pwait2 = true;
#else
    poller->has_pwait2 = false;
#endif
    *out = poller;
    return 0;
}

static void
epoll_destroy(struct poller *poller)
{
    close(poller->fd);
    pl_free(poller);
}

static int
epoll_control(struct poller *poller, int op, int fd, uint32_t generation,
              unsigned wanted)
{
    struct epoll_event event = {
        .events = ((wanted & PL_READ) ? EPOLLIN : 0u)
                  | ((wanted & PL_WRITE) ? EPOLLOUT : 0u)
                  | ((wanted & PL_EDGE) ? EPOLL_EDGE : 0u),
        .data.u64 = (uint64_t)generation << 32 | (uint32_t)fd,
    };
    return epoll_ctl(poller->fd, op, fd, &event) < 0 ? -errno : 0;
}

/* Whatever the kernel answers to DEL, the number has no entry afterwards that
 * could still be removed: see (1). */
static int
epoll_drop(struct poller *poller, int fd)
{
    int rc = epoll_control(poller, EPOLL_CTL_DEL, fd, 0, 0);
    if (rc == -ENOENT || rc == -EBADF || rc == -EPERM) {
        return 0;
    }
    return rc;
}

static int
epoll_update(struct poller *poller, int fd, uint32_t generation,
             unsigned armed, unsigned wanted)
{
    if (wanted == 0) {
        return armed != 0 ? epoll_drop(poller, fd) : 0;
    }

    int op = armed != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    int rc = epoll_control(poller, op, fd, generation, wanted);
    if (rc == -ENOENT && op == EPOLL_CTL_MOD) {
        rc = epoll_control(poller, EPOLL_CTL_ADD, fd, generation, wanted);
    }
    else if (rc == -EEXIST && op == EPOLL_CTL_ADD) {
        rc = epoll_control(poller, EPOLL_CTL_MOD, fd, generation, wanted);
    }
    if (rc < 0) {
        (void)epoll_drop(poller, fd);
    }
    return rc;
}

#ifdef SYS_epoll_pwait2
static int
epoll_wait_ns(struct poller *poller, int n, int64_t timeout_ns)
{
    struct epoll_timespec ts = {
        .seconds = timeout_ns / PL_NS_PER_SEC,
        .nanoseconds = timeout_ns % PL_NS_PER_SEC,
    };
    long rc = syscall(SYS_epoll_pwait2, poller->fd, poller->buffer, n,
                      timeout_ns == PL_FOREVER ? NULL : &ts, NULL, (size_t)0);
    return rc < 0 ? -errno : (int)rc;
}
#endif

static int
epoll_wait_ms(struct poller *poller, int n, int64_t timeout_ns)
{
    for (;;) {
        int64_t rest_ns;
        int timeout_ms = clock_ceil_ms(timeout_ns, &rest_ns);
        int rc = epoll_wait(poller->fd, poller->buffer, n, timeout_ms);
        if (rc < 0) {
            return -errno;
        }
        if (rc > 0 || rest_ns <= 0) {
            return rc;
        }
        timeout_ns = rest_ns;
    }
}

static int
epoll_collect(struct poller *poller, int n, int64_t timeout_ns)
{
#ifdef SYS_epoll_pwait2
    /* To look without waiting needs no nanoseconds. */
    if (poller->has_pwait2 && timeout_ns > 0) {
        int rc = epoll_wait_ns(poller, n, timeout_ns);
        if (rc != -ENOSYS && rc != -EPERM) {
            return rc;
        }
        poller->has_pwait2 = false;
    }
#endif
    return epoll_wait_ms(poller, n, timeout_ns);
}

static uint32_t
epoll_translate(uint32_t bits)
{
    uint32_t events = 0;
    if (bits & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP | EPOLLPRI)) {
        events |= PL_READ;
    }
    if (bits & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        events |= PL_WRITE;
    }
    if (bits & (EPOLLERR | EPOLLHUP | EPOLLRDHUP | EPOLLPRI)) {
        events |= PL_LINGERS;
    }
    return events;
}

static int
epoll_wait_events(struct poller *poller, struct poller_event *events, int n,
                  int64_t timeout_ns)
{
    if (timeout_ns < 0) {
        timeout_ns = 0;
    }
    n = epoll_collect(poller, n < EPOLL_BATCH ? n : EPOLL_BATCH, timeout_ns);
    for (int i = 0; i < n; i++) {
        uint64_t cookie = poller->buffer[i].data.u64;
        events[i].fd = (int)(uint32_t)cookie;
        events[i].generation = (uint32_t)(cookie >> 32);
        events[i].events = epoll_translate(poller->buffer[i].events);
    }
    return n;
}

static int
epoll_fileno(const struct poller *poller)
{
    return poller->fd;
}

const struct poller_ops poller_epoll_ops = {
    .name = "epoll",
    .takes_updates_while_waiting = true,
    .reports_edges = true,
    .probe = epoll_probe,
    .create = epoll_new,
    .destroy = epoll_destroy,
    .update = epoll_update,
    .wait = epoll_wait_events,
    .submit = NULL,
    .cancel = NULL,
    .fileno = epoll_fileno,
};

#endif
