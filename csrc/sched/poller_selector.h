/* A poller backend that drives a Python selector: any object with the
 * interface of selectors.BaseSelector, given by the user. */
#ifndef PL_SCHED_POLLER_SELECTOR_H
#define PL_SCHED_POLLER_SELECTOR_H

#include <Python.h>

#include "core/poller.h"
#include "loop.h"

extern const struct poller_ops poller_selector_ops;

/* A poller for `loop`, which owns the reactor that will own it, on
 * `loop->selector`.  NULL: no memory (no exception is set). */
struct poller *poller_selector_new(LoopObject *loop);

#endif
