/* A full pipe is readable, which is all that a wake-up asks for, so EAGAIN is
 * success.  The signal number that does not fit is lost; 64 KiB of wake-ups
 * that nobody took are needed for that. */
#include "wakeup.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int
wakeup_init(struct wakeup *wakeup)
{
    int fds[2];
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) {
        int error = errno;
        wakeup->read_fd = -1;
        wakeup->write_fd = -1;
        return -error;
    }
    wakeup->read_fd = fds[0];
    wakeup->write_fd = fds[1];
    return 0;
}

void
wakeup_destroy(struct wakeup *wakeup)
{
    if (wakeup->read_fd >= 0) {
        close(wakeup->read_fd);
        close(wakeup->write_fd);
    }
    wakeup->read_fd = -1;
    wakeup->write_fd = -1;
}

void
wakeup_signal(const struct wakeup *wakeup)
{
    int saved_errno = errno;
    const unsigned char zero = 0;
    ssize_t n;
    do {
        n = write(wakeup->write_fd, &zero, 1);
    } while (n < 0 && errno == EINTR);
    errno = saved_errno;
}

uint64_t
wakeup_drain(const struct wakeup *wakeup)
{
    uint64_t numbers = 0;
    unsigned char buffer[512];
    ssize_t n;
    do {
        n = read(wakeup->read_fd, buffer, sizeof(buffer));
        for (ssize_t i = 0; i < n; i++) {
            if (buffer[i] >= 1 && buffer[i] <= 64) {
                numbers |= UINT64_C(1) << (buffer[i] - 1);
            }
        }
        /* Less than was asked for: it is empty. */
    } while (n == (ssize_t)sizeof(buffer) || (n < 0 && errno == EINTR));
    return numbers;
}
