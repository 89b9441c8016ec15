/* What asyncio.current_task() says while native tasks run.
 *
 * Up to 3.13 asyncio keeps a dict {loop: task}, and an entry written for each
 * step would cost nearly as much as the switch itself, while hardly a step
 * asks.  But who asks looks the loop up in that dict, and a look-up begins
 * with the key's hash: so the loop's tp_hash writes what is about to be read.
 * (asyncio enters and leaves its own tasks by the same look-up.)
 *
 * What the dict has for a loop:
 *   CURRENT_ENTRY_NONE   nothing of ours
 *   CURRENT_ENTRY_SHOWN  tasks.current
 *   CURRENT_ENTRY_STALE  a task whose step has ended.  Nobody can have seen
 *                        that by a look-up; it is taken out before anything
 *                        but a native task runs.
 *
 * A loop is shown each task at once if its class has a hash of its own, and
 * from 3.14 on, where the current task is part of the thread's state. */
#include <Python.h>

#include "loop.h"

#include "asyncio_compat.h"
#include "compat.h"

void
loop_init_current_task(LoopObject *loop)
{
    loop->tasks.show_at_once
        = PY_VERSION_HEX >= 0x030E0000 || Py_TYPE(loop)->tp_hash != loop_hash;
}

int
loop_show_task(LoopObject *loop)
{
    PyObject *task = loop->tasks.current;
    if (task == NULL) {
        loop_leave_task(loop);
        return 0;
    }
    if (loop->tasks.entry == CURRENT_ENTRY_SHOWN) {
        return 0;
    }
    enum current_entry before = loop->tasks.entry;
    loop->tasks.entry = CURRENT_ENTRY_SHOWN; /* our own look-up asks, too */
    /* call-out: the former entry may have been a task's last reference */
    if (asyncio_enter_task(loop->state, (PyObject *)loop, task) < 0) {
        loop->tasks.entry = before;
        return -1;
    }
    return 0;
}

void
loop_hide_task(LoopObject *loop)
{
    loop->tasks.entry = CURRENT_ENTRY_NONE;
    asyncio_leave_task(loop->state, (PyObject *)loop);
}

Py_hash_t
loop_hash(PyObject *self)
{
    LoopObject *loop = (LoopObject *)self;
    if (PL_UNLIKELY(loop->tasks.current != NULL
                    || loop->tasks.entry != CURRENT_ENTRY_NONE)
        && loop_show_task(loop) < 0)
    {
        return -1;
    }
    return hash_pointer(self);
}
