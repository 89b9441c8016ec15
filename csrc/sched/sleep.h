/* pause() and sleep(). */
#ifndef PL_SCHED_SLEEP_H
#define PL_SCHED_SLEEP_H

#include <Python.h>

#include "op.h"

/* An op that waits for `seconds`; NULL with TypeError or ValueError. */
OpObject *sleep_new(struct module_state *state, PyObject *seconds);

#endif
