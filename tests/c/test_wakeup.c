/* The wake-up: from threads, from signal handlers, and with signal numbers. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "core/wakeup.h"

static int
is_readable(const struct wakeup *wakeup, int timeout_ms)
{
    struct pollfd entry = {.fd = wakeup->read_fd, .events = POLLIN};
    int rc = poll(&entry, 1, timeout_ms);
    CHECK(rc >= 0);
    return rc;
}

static void
check_flags(int fd)
{
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void
check_signal_and_drain(const struct wakeup *wakeup)
{
    check_flags(wakeup->read_fd);
    check_flags(wakeup->write_fd);
    CHECK_EQ(is_readable(wakeup, 0), 0);
    wakeup_drain(wakeup); /* nothing to drain: does not block */
    for (int n = 1; n < 2000; n = n * 3 + 1) {
        for (int i = 0; i < n; i++) {
            wakeup_signal(wakeup);
        }
        CHECK_EQ(is_readable(wakeup, 0), 1);
        wakeup_drain(wakeup);
        CHECK_EQ(is_readable(wakeup, 0), 0);
    }
}

static void *
signal_from_thread(void *arg)
{
    wakeup_signal(arg);
    return NULL;
}

static void
check_thread(struct wakeup *wakeup)
{
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, signal_from_thread, wakeup), 0);
        CHECK_EQ(is_readable(wakeup, 30000), 1);
        wakeup_drain(wakeup);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(is_readable(wakeup, 0), 0);
    }
}

static const struct wakeup *handler_wakeup;

static void
signal_handler(int signum)
{
    (void)signum;
    wakeup_signal(handler_wakeup);
}

static void
check_signal_handler(const struct wakeup *wakeup)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = signal_handler;
    handler_wakeup = wakeup;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    errno = 4711;
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(errno, 4711);
    CHECK_EQ(is_readable(wakeup, 0), 1);
    wakeup_drain(wakeup);
    signal(SIGUSR1, SIG_DFL);
}

static void
check_signal_numbers(const struct wakeup *wakeup)
{
    /* As a runtime's signal handler writes them: one byte each. */
    static const unsigned char numbers[] = {2, 15, 0, 64, 2, 65, 255, 1};
    for (size_t i = 0; i < sizeof(numbers); i++) {
        CHECK_EQ(write(wakeup->write_fd, &numbers[i], 1), 1);
    }
    wakeup_signal(wakeup);
    CHECK(wakeup_drain(wakeup)
          == (UINT64_C(1) << 1 | UINT64_C(1) << 14 | UINT64_C(1) << 63
              | UINT64_C(1) << 0));
    CHECK(wakeup_drain(wakeup) == 0);
    /* Behind many wake-ups, at the end of a full buffer. */
    for (int i = 0; i < 511; i++) {
        wakeup_signal(wakeup);
    }
    CHECK_EQ(write(wakeup->write_fd, &numbers[0], 1), 1);
    CHECK(wakeup_drain(wakeup) == UINT64_C(1) << 1);
    CHECK_EQ(is_readable(wakeup, 0), 0);
}

/* A write that fails because the pipe is full is success. */
static void
check_full(const struct wakeup *wakeup)
{
    char block[4096] = {0};
    while (write(wakeup->write_fd, block, sizeof(block)) > 0) {
    }
    CHECK_EQ(errno, EAGAIN);
    errno = 4711;
    wakeup_signal(wakeup);
    CHECK_EQ(errno, 4711);
    CHECK_EQ(is_readable(wakeup, 0), 1);
    CHECK(wakeup_drain(wakeup) == 0);
    CHECK_EQ(is_readable(wakeup, 0), 0);
}

static void
check_no_descriptor_left(void)
{
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    struct wakeup wakeup;
    CHECK_EQ(wakeup_init(&wakeup), -EMFILE);
    wakeup_destroy(&wakeup);
    limit.rlim_cur = before;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

int
main(void)
{
    struct wakeup wakeup;
    CHECK_EQ(wakeup_init(&wakeup), 0);
    check_signal_and_drain(&wakeup);
    check_thread(&wakeup);
    check_signal_handler(&wakeup);
    check_signal_numbers(&wakeup);
    check_full(&wakeup);
    int fd = wakeup.read_fd;
    wakeup_destroy(&wakeup);
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    wakeup_destroy(&wakeup);
    check_no_descriptor_left();
    return 0;
}
