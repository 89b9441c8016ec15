/* asyncio.current_task() for native tasks, and the other things in which the
 * asyncio of 3.11, 3.12/3.13 and 3.14 differ. */
#ifndef PL_SCHED_ASYNCIO_COMPAT_H
#define PL_SCHED_ASYNCIO_COMPAT_H

#include <Python.h>

#include "loop.h"

/* Makes `task` what asyncio.current_task() returns.  Native steps follow each
 * other, so the entry is replaced by the next step and removed only when
 * something else runs (asyncio_leave_native).  -1 with an exception. */
int asyncio_enter_native(LoopObject *loop, PyObject *task);
void asyncio_leave_native_slow(LoopObject *loop);

static inline void
asyncio_leave_native(LoopObject *loop)
{
    if (loop->tasks.entered) {
        asyncio_leave_native_slow(loop);
    }
}

/* asyncio's idea of the loop that this thread runs: set and read. */
int asyncio_set_running_loop(struct module_state *state, PyObject *loop);
/* New reference; None when there is none. */
PyObject *asyncio_get_running_loop(struct module_state *state);

#endif
