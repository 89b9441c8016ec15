/* What differs in the asyncio of 3.11, 3.12/3.13 and 3.14: the current task
 * and the running loop, as asyncio sees them.  Lies below loop.h. */
#ifndef PL_SCHED_ASYNCIO_COMPAT_H
#define PL_SCHED_ASYNCIO_COMPAT_H

#include <Python.h>

#include "state.h"

/* Makes `task` what asyncio.current_task(loop) returns.  -1 with an
 * exception. */
int asyncio_enter_task(struct module_state *state, PyObject *loop,
                       PyObject *task);
/* Makes it None again.  Keeps the current exception. */
void asyncio_leave_task(struct module_state *state, PyObject *loop);

/* asyncio's idea of the loop that this thread runs: set and read. */
int asyncio_set_running_loop(struct module_state *state, PyObject *loop);
/* New reference; None when there is none. */
PyObject *asyncio_get_running_loop(struct module_state *state);

#endif
