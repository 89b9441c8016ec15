/* Stands between a program and the C library (LD_PRELOAD) and makes chosen
 * system calls fail, or move less than they could.
 *
 * A rule names some calls, a descriptor (-1: any) and which of those that
 * match it are hit, counted together: `first` of them pass, then `count` are
 * hit.  What is hit fails with `error`; or, where that is 0, moves at most
 * `size` bytes, and where `size` is negative a random number from 1 to -size.
 * A connect() that is hit with EINTR is made first, as the kernel goes on
 * with one.
 *
 * faults_hold() makes the next write() to a descriptor wait at a gate.
 *
 * faults_calls() says how often a call was made since faults_reset(), and
 * faults_hits() how often a rule hit: a test that hits nothing shows nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_RULES 64
#define MAX_IOV 64

#define EXPORT __attribute__((visibility("default")))

/* What a rule can name. */
#define CALLS(X) \
    X(accept) \
    X(accept4) \
    X(connect) \
    X(epoll_create1) \
    X(epoll_ctl) \
    X(epoll_pwait2) \
    X(epoll_wait) \
    X(pipe2) \
    X(poll) \
    X(ppoll) \
    X(read) \
    X(recv) \
    X(recvfrom) \
    X(recvmmsg) \
    X(recvmsg) \
    X(send) \
    X(sendmmsg) \
    X(sendmsg) \
    X(sendto) \
    X(socket) \
    X(write) \
    X(writev)

#define AS_ENUMERATOR(name) CALL_##name,
#define AS_STRING(name) #name,

enum call { CALLS(AS_ENUMERATOR) N_CALLS };

static const char *const names[N_CALLS] = {CALLS(AS_STRING)};

struct rule {
    uint32_t calls; /* bit n for call n */
    int fd;
    long first;
    long count;
    int error;
    long size;
};

static struct rule rules[MAX_RULES];
static atomic_int n_rules;
static atomic_long n_made[N_CALLS];
static atomic_long n_hits[N_CALLS];
static uint64_t seed = 1;
static atomic_int held_fd = -1;
static atomic_int gate_fd = -1;

static int
find_call(const char *name)
{
    for (int call = 0; call < N_CALLS; call++) {
        if (strcmp(names[call], name) == 0) {
            return call;
        }
    }
    return -1;
}

EXPORT void
faults_reset(uint64_t new_seed)
{
    atomic_store(&n_rules, 0);
    for (int call = 0; call < N_CALLS; call++) {
        atomic_store(&n_made[call], 0);
        atomic_store(&n_hits[call], 0);
    }
    seed = new_seed;
}

/* The set of the calls that are named, with commas between them; 0 if one
 * does not exist. */
static uint32_t
find_calls(const char *list)
{
    uint32_t calls = 0;
    char name[32];
    for (;;) {
        size_t length = strcspn(list, ",");
        if (length >= sizeof(name)) {
            return 0;
        }
        memcpy(name, list, length);
        name[length] = '\0';
        int call = find_call(name);
        if (call < 0) {
            return 0;
        }
        calls |= UINT32_C(1) << call;
        if (list[length] == '\0') {
            return calls;
        }
        list += length + 1;
    }
}

/* 0, or -1: no such call, or too many rules. */
EXPORT int
faults_add(const char *list, int fd, long first, long count, int error,
           long size)
{
    uint32_t calls = find_calls(list);
    int i = atomic_load(&n_rules);
    if (calls == 0 || i >= MAX_RULES) {
        return -1;
    }
    rules[i] = (struct rule){calls, fd, first, count, error, size};
    atomic_store(&n_rules, i + 1);
    return 0;
}

/* The next write() to `fd` sends a byte to `gate`, and goes on when it has read
 * one from there. */
EXPORT void
faults_hold(int fd, int gate)
{
    atomic_store(&gate_fd, gate);
    atomic_store(&held_fd, fd);
}

EXPORT long
faults_calls(const char *name)
{
    int call = find_call(name);
    return call < 0 ? -1 : atomic_load(&n_made[call]);
}

EXPORT long
faults_hits(const char *name)
{
    int call = find_call(name);
    return call < 0 ? -1 : atomic_load(&n_hits[call]);
}

/* What happens to a call: its error, or 0 and how much it may move. */
static int
judge(enum call call, int fd, size_t *limit)
{
    atomic_fetch_add(&n_made[call], 1);
    for (int i = 0; i < atomic_load(&n_rules); i++) {
        struct rule *rule = &rules[i];
        if (!(rule->calls >> call & 1) || (rule->fd >= 0 && rule->fd != fd)
            || rule->count <= 0)
        {
            continue;
        }
        if (rule->first > 0) {
            rule->first--;
            continue;
        }
        rule->count--;
        atomic_fetch_add(&n_hits[call], 1);
        if (rule->error != 0) {
            return rule->error;
        }
        if (limit != NULL) {
            size_t size = (size_t)rule->size;
            if (rule->size < 0) {
                seed = seed * UINT64_C(6364136223846793005)
                       + UINT64_C(1442695040888963407);
                size = 1 + (size_t)((seed >> 33) % (uint64_t)-rule->size);
            }
            if (*limit > size) {
                *limit = size;
            }
        }
        return 0;
    }
    return 0;
}

static void *
next_function(void **slot, enum call call)
{
    if (*slot == NULL) {
        *slot = dlsym(RTLD_NEXT, names[call]);
    }
    return *slot;
}

/* The real function, as a pointer of the type of the wrapper. */
#define REAL(name) \
    static void *real_slot; \
    __typeof__(&name) real; \
    *(void **)(&real) = next_function(&real_slot, CALL_##name)

#define FAIL_IF(error) \
    do { \
        int error_ = (error); \
        if (error_ != 0) { \
            errno = error_; \
            return -1; \
        } \
    } while (0)

/* How a wrapper begins: it goes on, with `real`, where the call may pass. */
#define WRAP(name, fd, limit) \
    REAL(name); \
    FAIL_IF(judge(CALL_##name, fd, limit))

/* A copy of the vector that ends after `limit` bytes; its length. */
static size_t
cut_vector(const struct iovec *from, size_t n, size_t limit, struct iovec *to)
{
    size_t i = 0;
    for (; i < n && i < MAX_IOV && limit > 0; i++) {
        to[i] = from[i];
        if (to[i].iov_len > limit) {
            to[i].iov_len = limit;
        }
        limit -= to[i].iov_len;
    }
    return i;
}

/* --- what moves bytes --- */

EXPORT ssize_t
recv(int fd, void *buffer, size_t length, int flags)
{
    WRAP(recv, fd, &length);
    return real(fd, buffer, length, flags);
}

EXPORT ssize_t
recvfrom(int fd, void *restrict buffer, size_t length, int flags,
         struct sockaddr *restrict from, socklen_t *restrict from_length)
{
    WRAP(recvfrom, fd, &length);
    return real(fd, buffer, length, flags, from, from_length);
}

EXPORT ssize_t
recvmsg(int fd, struct msghdr *message, int flags)
{
    size_t limit = SIZE_MAX;
    WRAP(recvmsg, fd, &limit);
    if (limit == SIZE_MAX) {
        return real(fd, message, flags);
    }
    struct iovec cut[MAX_IOV];
    struct iovec *vector = message->msg_iov;
    size_t n = message->msg_iovlen;
    message->msg_iov = cut;
    message->msg_iovlen = cut_vector(vector, n, limit, cut);
    ssize_t rc = real(fd, message, flags);
    message->msg_iov = vector;
    message->msg_iovlen = n;
    return rc;
}

EXPORT int
recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags,
         struct timespec *timeout)
{
    size_t limit = n;
    WRAP(recvmmsg, fd, &limit);
    return real(fd, messages, (unsigned)limit, flags, timeout);
}

EXPORT ssize_t
read(int fd, void *buffer, size_t length)
{
    WRAP(read, fd, &length);
    return real(fd, buffer, length);
}

EXPORT ssize_t
send(int fd, const void *data, size_t length, int flags)
{
    WRAP(send, fd, &length);
    return real(fd, data, length, flags);
}

EXPORT ssize_t
sendto(int fd, const void *data, size_t length, int flags,
       const struct sockaddr *to, socklen_t to_length)
{
    WRAP(sendto, fd, &length);
    return real(fd, data, length, flags, to, to_length);
}

EXPORT ssize_t
sendmsg(int fd, const struct msghdr *message, int flags)
{
    size_t limit = SIZE_MAX;
    WRAP(sendmsg, fd, &limit);
    if (limit == SIZE_MAX) {
        return real(fd, message, flags);
    }
    struct iovec cut[MAX_IOV];
    struct msghdr less = *message;
    less.msg_iov = cut;
    less.msg_iovlen
        = cut_vector(message->msg_iov, message->msg_iovlen, limit, cut);
    return real(fd, &less, flags);
}

EXPORT int
sendmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags)
{
    size_t limit = n;
    WRAP(sendmmsg, fd, &limit);
    return real(fd, messages, (unsigned)limit, flags);
}

static void
wait_at_gate(void)
{
    char byte = 0;
    int gate = atomic_load(&gate_fd);
    if (syscall(SYS_write, gate, &byte, 1) == 1) {
        (void)syscall(SYS_read, gate, &byte, 1);
    }
}

EXPORT ssize_t
write(int fd, const void *data, size_t length)
{
    int held = fd;
    if (fd >= 0 && atomic_compare_exchange_strong(&held_fd, &held, -1)) {
        wait_at_gate();
    }
    WRAP(write, fd, &length);
    return real(fd, data, length);
}

EXPORT ssize_t
writev(int fd, const struct iovec *vector, int n)
{
    size_t limit = SIZE_MAX;
    WRAP(writev, fd, &limit);
    if (limit == SIZE_MAX) {
        return real(fd, vector, n);
    }
    struct iovec cut[MAX_IOV];
    return real(fd, cut, (int)cut_vector(vector, (size_t)n, limit, cut));
}

/* --- what makes descriptors and connections --- */

EXPORT int
accept(int fd, struct sockaddr *restrict from, socklen_t *restrict length)
{
    WRAP(accept, fd, NULL);
    return real(fd, from, length);
}

EXPORT int
accept4(int fd, struct sockaddr *restrict from, socklen_t *restrict length,
        int flags)
{
    WRAP(accept4, fd, NULL);
    return real(fd, from, length, flags);
}

EXPORT int
connect(int fd, const struct sockaddr *to, socklen_t length)
{
    REAL(connect);
    int error = judge(CALL_connect, fd, NULL);
    if (error == EINTR) {
        int rc = real(fd, to, length);
        if (rc < 0 && errno != EINPROGRESS) {
            return rc;
        }
    }
    FAIL_IF(error);
    return real(fd, to, length);
}

EXPORT int
socket(int domain, int type, int protocol)
{
    WRAP(socket, -1, NULL);
    return real(domain, type, protocol);
}

EXPORT int
pipe2(int fds[2], int flags)
{
    WRAP(pipe2, -1, NULL);
    return real(fds, flags);
}

/* --- what waits --- */

EXPORT int
epoll_create1(int flags)
{
    WRAP(epoll_create1, -1, NULL);
    return real(flags);
}

/* Matched by the descriptor that is registered. */
EXPORT int
epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
    WRAP(epoll_ctl, fd, NULL);
    return real(epoll_fd, operation, fd, event);
}

EXPORT int
epoll_wait(int epoll_fd, struct epoll_event *events, int n, int timeout_ms)
{
    WRAP(epoll_wait, -1, NULL);
    return real(epoll_fd, events, n, timeout_ms);
}

EXPORT int
poll(struct pollfd *entries, nfds_t n, int timeout_ms)
{
    WRAP(poll, -1, NULL);
    return real(entries, n, timeout_ms);
}

EXPORT int
ppoll(struct pollfd *entries, nfds_t n, const struct timespec *timeout,
      const sigset_t *mask)
{
    WRAP(ppoll, -1, NULL);
    return real(entries, n, timeout, mask);
}

/* epoll_pwait2 has no function in older C libraries. */
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

EXPORT long
syscall(long number, ...)
{
    static void *real_slot;
    long (*real)(long, ...);
    if (real_slot == NULL) {
        real_slot = dlsym(RTLD_NEXT, "syscall");
    }
    *(void **)(&real) = real_slot;
    long args[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) {
        args[i] = va_arg(list, long);
    }
    va_end(list);
    if (number == SYS_epoll_pwait2) {
        FAIL_IF(judge(CALL_epoll_pwait2, -1, NULL));
    }
    return real(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}
