/* How much to try for at one event of a descriptor: many at a time where many
 * come, and no call that finds nothing where they come one by one. */
#ifndef PL_AIO_BATCH_H
#define PL_AIO_BATCH_H

#include <Python.h>

/* At most so many in one turn: others want their share, and 32 take about as
 * long as 32 small requests. */
#define PL_BATCH_MAX 32

/* After an event that had only one where more were tried for, the next so many
 * are taken to be alike: the call that finds nothing costs a third of one that
 * does.  What queues up is noticed after them at the latest. */
#define PL_BATCH_WRONG_GUESSES 16

struct batch {
    int size;    /* what to try for at the next event */
    int guesses; /* events left before it may grow */
};

static inline void
batch_init(struct batch *batch)
{
    batch->size = 1;
    batch->guesses = 0;
}

/* After an event: n were there, of batch->size. */
static inline void
batch_note(struct batch *batch, int n)
{
    if (n < batch->size) {
        batch->size = 1;
        batch->guesses = n > 1 ? 0 : PL_BATCH_WRONG_GUESSES;
    }
    else if (batch->guesses > 0) {
        batch->guesses--;
    }
    else if (batch->size < PL_BATCH_MAX) {
        batch->size *= 2;
    }
}

#endif
