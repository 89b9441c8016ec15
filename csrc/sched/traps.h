/* Events by which a coroutine or generator says what it waits for. */
#ifndef PL_SCHED_TRAPS_H
#define PL_SCHED_TRAPS_H

#include <Python.h>

#include "state.h"

enum trap_code {
#define TRAP(code, name, doc) TRAP_##code,
#include "traps.def"
#undef TRAP
    TRAP_COUNT,
};

/* What `event` (ours, a TaskType, one of its strings, or a member of any Enum
 * that has one of our names) means; -1 without an exception if nothing, -2
 * with one. */
int traps_decode(struct module_state *state, PyObject *event);

#endif
