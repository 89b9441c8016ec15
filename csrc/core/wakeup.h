/* Waking a loop that sleeps in its poller, from another thread or a signal
 * handler, and telling it which signals came.
 *
 * A pipe: one byte per wake-up, 0 or the number of a signal.  An eventfd
 * would be one descriptor less and is no faster (0.4 us for a write and a
 * read, both), but it takes 8 bytes at a time, and whoever installs write_fd
 * as the signal wake-up descriptor of a runtime gets single bytes written to
 * it. */
#ifndef PL_CORE_WAKEUP_H
#define PL_CORE_WAKEUP_H

#include "base.h"

struct wakeup {
    int read_fd;
    int write_fd; /* non-blocking; takes signal numbers as single bytes */
};

int wakeup_init(struct wakeup *wakeup);
/* Harmless when wakeup_init failed, and twice. */
void wakeup_destroy(struct wakeup *wakeup);
/* Makes read_fd readable.  Async-signal-safe and thread-safe; keeps errno. */
void wakeup_signal(const struct wakeup *wakeup);
/* Takes back what was signalled so far.  Returns the numbers 1 to 64 among
 * the bytes, as a set: bit n - 1 for number n. */
uint64_t wakeup_drain(const struct wakeup *wakeup);

#endif
