/* The contract of poller.h, for each backend; and where the kernel's calls
 * differ, that we see the difference. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "core/clock.h"
#include "core/poller.h"

#define MS PL_NS_PER_MS
#define N_EVENTS 64

static const struct poller_ops *ops; /* the backend under test */
static struct poller *poller;
static struct poller_event events[N_EVENTS];

static bool
is_epoll(void)
{
    return strcmp(ops->name, "epoll") == 0;
}

static int
wait_now(void)
{
    return ops->wait(poller, events, N_EVENTS, 0);
}

/* Exactly one event, and this one. */
static void
check_only_event(int fd, uint32_t generation, uint32_t bits)
{
    CHECK_EQ(wait_now(), 1);
    CHECK_EQ(events[0].fd, fd);
    CHECK_EQ(events[0].generation, generation);
    CHECK_EQ(events[0].events & PL_SIDES, bits);
}

static int
update(int fd, uint32_t generation, unsigned armed, unsigned wanted)
{
    return ops->update(poller, fd, generation, armed, wanted);
}

static void
make_pair(int pair[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
                        pair),
             0);
}

static void
close_pair(int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

static void
fill(int fd)
{
    char block[4096] = {0};
    while (write(fd, block, sizeof(block)) > 0) {
    }
    CHECK_EQ(errno, EAGAIN);
}

static void
test_readable_and_writable(void)
{
    int pair[2];
    make_pair(pair);
    CHECK_EQ(update(pair[0], 7, 0, PL_READ), 0);
    CHECK_EQ(wait_now(), 0);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    check_only_event(pair[0], 7, PL_READ);
    check_only_event(pair[0], 7, PL_READ); /* level triggered */

    CHECK_EQ(update(pair[0], 8, PL_READ, PL_READ | PL_WRITE), 0);
    check_only_event(pair[0], 8, PL_READ | PL_WRITE);
    fill(pair[0]);
    check_only_event(pair[0], 8, PL_READ);

    char byte;
    CHECK_EQ(read(pair[0], &byte, 1), 1);
    CHECK_EQ(wait_now(), 0);
    CHECK_EQ(update(pair[0], 9, PL_READ | PL_WRITE, PL_WRITE), 0);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    CHECK_EQ(wait_now(), 0);
    CHECK_EQ(update(pair[0], 9, PL_WRITE, 0), 0);
    CHECK_EQ(wait_now(), 0);
    close_pair(pair);
}

static void
test_hang_up_sets_both(void)
{
    int pair[2];
    make_pair(pair);
    CHECK_EQ(update(pair[0], 1, 0, PL_READ), 0);
    close(pair[1]);
    check_only_event(pair[0], 1, PL_READ | PL_WRITE);
    CHECK_EQ(update(pair[0], 1, PL_READ, PL_WRITE), 0);
    check_only_event(pair[0], 1, PL_READ | PL_WRITE);
    CHECK_EQ(update(pair[0], 1, PL_WRITE, 0), 0);
    CHECK_EQ(wait_now(), 0);
    close(pair[0]);

    /* The writing end of a pipe without a reader: an error, no hang-up. */
    CHECK_EQ(pipe2(pair, O_NONBLOCK | O_CLOEXEC), 0);
    CHECK_EQ(update(pair[1], 2, 0, PL_READ), 0);
    CHECK_EQ(wait_now(), 0);
    close(pair[0]);
    check_only_event(pair[1], 2, PL_READ | PL_WRITE);
    CHECK_EQ(update(pair[1], 2, PL_READ, 0), 0);
    close(pair[1]);
}

static void
test_closed_descriptor(void)
{
    int pair[2];
    make_pair(pair);
    CHECK_EQ(update(pair[0], 1, 0, PL_READ), 0);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    close(pair[0]);
    if (is_epoll()) {
        CHECK_EQ(wait_now(), 0);
    }
    else {
        check_only_event(pair[0], 1, PL_READ | PL_WRITE);
    }
    /* Changing it is refused, and leaves nothing behind. */
    CHECK_EQ(update(pair[0], 1, PL_READ, PL_WRITE), -EBADF);
    CHECK_EQ(wait_now(), 0);
    CHECK_EQ(update(pair[0], 1, 0, PL_READ), -EBADF);
    CHECK_EQ(wait_now(), 0);
    /* Dropping it is no error. */
    CHECK_EQ(update(pair[0], 1, PL_READ, 0), 0);
    CHECK_EQ(update(pair[0], 1, 0, 0), 0);
    CHECK_EQ(update(-1, 1, 0, PL_READ), -EBADF);
    close(pair[1]);
}

static void
test_reused_number_carries_the_new_generation(void)
{
    int old[2];
    int new[2];
    make_pair(old);
    make_pair(new);
    CHECK_EQ(update(old[0], 1, 0, PL_READ), 0);
    CHECK_EQ(write(old[1], "x", 1), 1);
    /* The same number, another file; the old one is gone. */
    CHECK_EQ(dup2(new[0], old[0]), old[0]);
    CHECK_EQ(write(new[1], "x", 1), 1);
    /* Whatever is believed to be armed. */
    for (unsigned armed = 0; armed <= 3; armed++) {
        CHECK_EQ(update(old[0], 2 + armed, armed, PL_READ), 0);
        check_only_event(old[0], 2 + armed, PL_READ);
    }
    CHECK_EQ(update(old[0], 9, PL_READ, 0), 0);
    CHECK_EQ(wait_now(), 0);
    close_pair(old);
    close_pair(new);
}

static void
test_wrong_beliefs_are_healed(void)
{
    int pair[2];
    make_pair(pair);
    /* There, though believed new (EEXIST); missing, though believed there
     * (ENOENT); dropped twice. */
    CHECK_EQ(update(pair[0], 1, 0, PL_READ), 0);
    CHECK_EQ(update(pair[0], 2, 0, PL_WRITE), 0);
    check_only_event(pair[0], 2, PL_WRITE);
    CHECK_EQ(update(pair[0], 2, PL_WRITE, 0), 0);
    CHECK_EQ(update(pair[0], 2, PL_WRITE, 0), 0);
    CHECK_EQ(wait_now(), 0);
    CHECK_EQ(update(pair[0], 3, PL_READ, PL_WRITE), 0);
    check_only_event(pair[0], 3, PL_WRITE);
    CHECK_EQ(update(pair[0], 3, PL_WRITE, 0), 0);
    close_pair(pair);
}

/* The trap itself: closing the number does not end the registration while a
 * duplicate lives, and nothing but a new poller gets rid of it. */
static void
test_duplicate_keeps_an_epoll_entry_alive(void)
{
    int pair[2];
    make_pair(pair);
    CHECK_EQ(update(pair[0], 1, 0, PL_READ), 0);
    int duplicate = fcntl(pair[0], F_DUPFD_CLOEXEC, 0);
    CHECK(duplicate >= 0);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    close(pair[0]);
    if (is_epoll()) {
        check_only_event(pair[0], 1, PL_READ);
        CHECK_EQ(update(pair[0], 1, PL_READ, 0), 0);
        check_only_event(pair[0], 1, PL_READ);
    }
    else {
        CHECK_EQ(update(pair[0], 1, PL_READ, 0), 0);
        CHECK_EQ(wait_now(), 0);
    }
    /* Under its own number the file can be watched as if nothing was. */
    CHECK_EQ(update(duplicate, 5, 0, PL_READ), 0);
    bool found = false;
    int n = wait_now();
    for (int i = 0; i < n; i++) {
        found |= events[i].fd == duplicate && events[i].generation == 5;
    }
    CHECK(found);
    close(duplicate);
    close(pair[1]);
    if (is_epoll()) {
        CHECK_EQ(wait_now(), 0); /* the last reference is gone */
    }
    else {
        CHECK_EQ(update(duplicate, 5, PL_READ, 0), 0);
    }
}

static void
test_regular_file(void)
{
    int fd = memfd_create("a file without a folder", MFD_CLOEXEC);
    CHECK(fd >= 0);
    if (is_epoll()) {
        CHECK_EQ(update(fd, 1, 0, PL_READ), -EPERM);
        CHECK_EQ(update(fd, 1, PL_READ, PL_WRITE), -EPERM);
        CHECK_EQ(update(fd, 1, PL_READ, 0), 0);
    }
    else {
        CHECK_EQ(update(fd, 1, 0, PL_READ), 0);
        check_only_event(fd, 1, PL_READ);
        CHECK_EQ(update(fd, 1, PL_READ, 0), 0);
    }
    CHECK_EQ(wait_now(), 0);
    close(fd);
}

static void
test_generations_use_all_their_bits(void)
{
    int pair[2];
    make_pair(pair);
    static const uint32_t generations[]
        = {0, 1, UINT32_C(0x80000000), UINT32_MAX};
    unsigned armed = 0;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(update(pair[0], generations[i], armed, PL_WRITE), 0);
        check_only_event(pair[0], generations[i], PL_WRITE);
        armed = PL_WRITE;
    }
    CHECK_EQ(update(pair[0], 0, PL_WRITE, 0), 0);
    close_pair(pair);
}

static void
test_timeouts_are_never_early(void)
{
    static const int64_t timeouts_ns[] = {
        -5, 0, 1, 999, 200000, 999999, 1000001, 2500000, 12345678,
    };
    for (size_t i = 0; i < sizeof(timeouts_ns) / sizeof(timeouts_ns[0]); i++) {
        int64_t start_ns = clock_monotonic_ns();
        CHECK_EQ(ops->wait(poller, events, N_EVENTS, timeouts_ns[i]), 0);
        int64_t taken_ns = clock_monotonic_ns() - start_ns;
        CHECK(taken_ns >= timeouts_ns[i]);
    }
    /* What is ready is not waited for, however long one may. */
    int pair[2];
    make_pair(pair);
    CHECK_EQ(update(pair[0], 1, 0, PL_WRITE), 0);
    static const int64_t long_ns[]
        = {1000 * PL_NS_PER_SEC, PL_FOREVER - 1, PL_FOREVER};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(ops->wait(poller, events, N_EVENTS, long_ns[i]), 1);
    }
    CHECK_EQ(update(pair[0], 1, PL_WRITE, 0), 0);
    close_pair(pair);
}

static bool
has_epoll_pwait2(void)
{
#ifdef SYS_epoll_pwait2
    return syscall(SYS_epoll_pwait2, -1, NULL, 0, NULL, NULL, 0) < 0
           && errno != ENOSYS && errno != EPERM;
#else
    return false;
#endif
}

/* The best of many: a busy machine may delay some, not all.  Milliseconds
 * rounded up would take 1 ms each. */
static void
test_short_timeouts_have_nanoseconds(void)
{
    if (is_epoll() && !has_epoll_pwait2()) {
        return;
    }
    int64_t best_ns = PL_FOREVER;
    for (int i = 0; i < 200; i++) {
        int64_t start_ns = clock_monotonic_ns();
        CHECK_EQ(ops->wait(poller, events, N_EVENTS, 100000), 0);
        int64_t taken_ns = clock_monotonic_ns() - start_ns;
        best_ns = taken_ns < best_ns ? taken_ns : best_ns;
    }
    CHECK(best_ns >= 100000);
    CHECK(best_ns < 900000);
}

static void
on_alarm(int signum)
{
    (void)signum;
}

static void
test_signals_interrupt(void)
{
    static const int64_t timeouts_ns[] = {60 * PL_NS_PER_SEC, PL_FOREVER};
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_alarm;
    action.sa_flags = SA_RESTART;
    CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
    /* It repeats: one that comes before the wait does not hang the test. */
    struct itimerval tick = {{0, 2000}, {0, 2000}};
    CHECK_EQ(setitimer(ITIMER_REAL, &tick, NULL), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(ops->wait(poller, events, N_EVENTS, timeouts_ns[i]), -EINTR);
    }
    struct itimerval off = {{0, 0}, {0, 0}};
    CHECK_EQ(setitimer(ITIMER_REAL, &off, NULL), 0);
    signal(SIGALRM, SIG_DFL);
}

static void
test_small_array_is_not_unfair(void)
{
    enum { N = 9 };
    int fds[N];
    for (int i = 0; i < N; i++) {
        fds[i] = eventfd(1, EFD_CLOEXEC);
        CHECK(fds[i] >= 0);
        CHECK_EQ(update(fds[i], (uint32_t)i, 0, PL_READ), 0);
    }
    int n_seen[N] = {0};
    for (int round = 0; round < N; round++) {
        CHECK_EQ(ops->wait(poller, events, 2, 0), 2);
        n_seen[events[0].generation]++;
        n_seen[events[1].generation]++;
    }
    for (int i = 0; i < N; i++) {
        CHECK_EQ(n_seen[i], 2);
        CHECK_EQ(update(fds[i], (uint32_t)i, PL_READ, 0), 0);
        close(fds[i]);
    }
}

/* Random registrations of descriptors that are all ready both ways, against
 * what must be reported. */
static void
test_random_updates(void)
{
    enum { N = 40 };
    uint64_t seed = 5;
    int fds[N];
    unsigned armed[N] = {0};
    uint32_t generation[N] = {0};
    for (int i = 0; i < N; i++) {
        fds[i] = eventfd(1, EFD_CLOEXEC);
        CHECK(fds[i] >= 0);
    }
    for (uint32_t round = 0; round < 2000; round++) {
        uint32_t i = check_random(&seed) % N;
        unsigned wanted = check_random(&seed) % 4;
        CHECK_EQ(update(fds[i], round, armed[i], wanted), 0);
        armed[i] = wanted;
        generation[i] = round;

        int n_expected = 0;
        for (int j = 0; j < N; j++) {
            n_expected += armed[j] != 0;
        }
        CHECK_EQ(wait_now(), n_expected);
        bool seen[N] = {false};
        for (int k = 0; k < n_expected; k++) {
            int j = 0;
            while (fds[j] != events[k].fd) {
                j++;
                CHECK(j < N);
            }
            CHECK(!seen[j]);
            seen[j] = true;
            CHECK_EQ(events[k].events & PL_SIDES, armed[j]);
            CHECK_EQ(events[k].generation, generation[j]);
        }
    }
    for (int i = 0; i < N; i++) {
        CHECK_EQ(update(fds[i], 0, armed[i], 0), 0);
        close(fds[i]);
    }
    CHECK_EQ(wait_now(), 0);
}

static void
test_fileno(void)
{
    int fd = ops->fileno(poller);
    if (!is_epoll()) {
        CHECK_EQ(fd, -1);
        return;
    }
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    int pair[2];
    make_pair(pair);
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&entry, 1, 0), 0);
    CHECK_EQ(update(pair[0], 1, 0, PL_WRITE), 0);
    CHECK_EQ(poll(&entry, 1, 0), 1);
    close_pair(pair);
}

/* Answers one system call with an error, in this process from now on.  False
 * if the machine does not let us. */
static bool
forbid(long number, int error)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = 4, .filter = program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
           && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static void
create(void)
{
    CHECK_EQ(ops->probe(), 0);
    CHECK_EQ(ops->create(&poller), 0);
}

#ifdef SYS_epoll_pwait2
static void
test_kernel_without_epoll_pwait2(int error)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (!forbid(SYS_epoll_pwait2, error)) {
            _exit(77);
        }
        create();
        test_timeouts_are_never_early();
        test_readable_and_writable();
        test_signals_interrupt();
        ops->destroy(poller);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        printf("not tested: seccomp is not to be had here\n");
    }
    else {
        CHECK_EQ(WEXITSTATUS(status), 0);
    }
}
#endif

static void
test_backend(const char *name)
{
    CHECK_EQ(poller_find(name, &ops), 0);
    CHECK_EQ(strcmp(ops->name, name), 0);
    void (*const tests[])(void) = {
        test_readable_and_writable,
        test_hang_up_sets_both,
        test_closed_descriptor,
        test_reused_number_carries_the_new_generation,
        test_wrong_beliefs_are_healed,
        test_duplicate_keeps_an_epoll_entry_alive,
        test_regular_file,
        test_generations_use_all_their_bits,
        test_timeouts_are_never_early,
        test_short_timeouts_have_nanoseconds,
        test_signals_interrupt,
        test_small_array_is_not_unfair,
        test_random_updates,
        test_fileno,
    };
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        create();
        tests[i]();
        ops->destroy(poller);
    }
#ifdef SYS_epoll_pwait2
    if (is_epoll()) {
        test_kernel_without_epoll_pwait2(ENOSYS);
        test_kernel_without_epoll_pwait2(EPERM);
    }
#endif
}

static void
test_find(void)
{
    const struct poller_ops *found;
    const char *const *names = poller_names();
    CHECK_EQ(strcmp(names[0], "epoll"), 0);
    CHECK_EQ(strcmp(names[1], "poll"), 0);
    CHECK(names[2] == NULL);

    CHECK_EQ(unsetenv("PYLOOP_BACKEND"), 0);
    CHECK_EQ(poller_find(NULL, &found), 0);
    CHECK(found == &poller_epoll_ops);
    CHECK_EQ(poller_find("", &found), 0);
    CHECK(found == &poller_epoll_ops);
    CHECK_EQ(poller_find("poll", &found), 0);
    CHECK(found == &poller_poll_ops);
    CHECK_EQ(poller_find("pol", &found), -EINVAL);
    CHECK(found == NULL);

    CHECK_EQ(setenv("PYLOOP_BACKEND", "poll", 1), 0);
    CHECK_EQ(poller_find(NULL, &found), 0);
    CHECK(found == &poller_poll_ops);
    CHECK_EQ(poller_find("epoll", &found), 0);
    CHECK(found == &poller_epoll_ops);
    CHECK_EQ(setenv("PYLOOP_BACKEND", "kqueue", 1), 0);
    CHECK_EQ(poller_find(NULL, &found), -EINVAL);
    CHECK(found == NULL);
    CHECK_EQ(setenv("PYLOOP_BACKEND", "", 1), 0);
    CHECK_EQ(poller_find(NULL, &found), 0);
    CHECK(found == &poller_epoll_ops);
}

/* A kernel without epoll: asked for by name it is an error that says so, by
 * default there is the next. */
static void
test_find_falls_back(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const struct poller_ops *found;
        if (!forbid(SYS_epoll_create1, ENOSYS)) {
            _exit(77);
        }
        CHECK_EQ(poller_find(NULL, &found), 0);
        CHECK(found == &poller_poll_ops);
        CHECK_EQ(poller_find("epoll", &found), -ENOSYS);
        CHECK(found == &poller_epoll_ops);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        printf("not tested: seccomp is not to be had here\n");
    }
    else {
        CHECK_EQ(WEXITSTATUS(status), 0);
    }
}

int
main(void)
{
    test_find();
    test_find_falls_back();
    for (const char *const *name = poller_names(); *name != NULL; name++) {
        test_backend(*name);
    }
    return 0;
}
