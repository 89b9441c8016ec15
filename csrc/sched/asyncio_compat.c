#include <Python.h>

#include "asyncio_compat.h"

#include "compat.h"

#if PY_VERSION_HEX < 0x030E0000

/* Up to 3.13 _asyncio keeps a dict {loop: task} and exports it. */
int
asyncio_enter_task(struct module_state *state, PyObject *loop, PyObject *task)
{
    return PyDict_SetItem(state->current_tasks, loop, task);
}

void
asyncio_leave_task(struct module_state *state, PyObject *loop)
{
    PyObject *pending = exception_take();
    if (PyDict_DelItem(state->current_tasks, loop) < 0) {
        PyErr_Clear(); /* somebody else took it out: that is the aim */
    }
    if (pending != NULL) {
        exception_put(pending);
    }
}

#else

/* From 3.14 on the current task is part of the thread state and is reached by
 * a function only. */
int
asyncio_enter_task(struct module_state *state, PyObject *loop, PyObject *task)
{
    PyObject *args[2] = {loop, task};
    PyObject *old
        = PyObject_Vectorcall(state->swap_current_task, args, 2, NULL);
    Py_XDECREF(old);
    return old == NULL ? -1 : 0;
}

void
asyncio_leave_task(struct module_state *state, PyObject *loop)
{
    PyObject *pending = exception_take();
    if (asyncio_enter_task(state, loop, Py_None) < 0) {
        PyErr_WriteUnraisable(loop);
    }
    if (pending != NULL) {
        exception_put(pending);
    }
}

#endif

int
asyncio_set_running_loop(struct module_state *state, PyObject *loop)
{
    PyObject *res = PyObject_CallOneArg(state->set_running_loop, loop);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

PyObject *
asyncio_get_running_loop(struct module_state *state)
{
    return PyObject_CallNoArgs(state->get_running_loop);
}

int
asyncio_compat_init(PyObject *Py_UNUSED(module), struct module_state *state)
{
    struct {
        PyObject **slot;
        const char *module;
        const char *name;
    } imports[] = {
        {&state->CancelledError, "asyncio.exceptions", "CancelledError"},
        {&state->InvalidStateError, "asyncio.exceptions", "InvalidStateError"},
        {&state->QueueEmpty, "asyncio.queues", "QueueEmpty"},
        {&state->QueueFull, "asyncio.queues", "QueueFull"},
        {&state->AsyncioTask, "asyncio.tasks", "Task"},
        {&state->AsyncioFuture, "asyncio.futures", "Future"},
        {&state->AsyncioHandle, "asyncio.events", "Handle"},
        {&state->StreamReader, "asyncio.streams", "StreamReader"},
        {&state->StreamReaderProtocol, "asyncio.streams",
         "StreamReaderProtocol"},
        {&state->AsyncioTimerHandle, "asyncio.events", "TimerHandle"},
        {&state->asyncio_timeout, "asyncio.timeouts", "timeout"},
        {&state->get_running_loop, "asyncio.events", "_get_running_loop"},
        {&state->set_running_loop, "asyncio.events", "_set_running_loop"},
        {&state->extract_stack, "asyncio.format_helpers", "extract_stack"},
        {&state->format_callback, "asyncio.format_helpers",
         "_format_callback_source"},
        {&state->main_thread, "threading", "main_thread"},
        {&state->get_asyncgen_hooks, "sys", "get_asyncgen_hooks"},
        {&state->set_asyncgen_hooks, "sys", "set_asyncgen_hooks"},
        {&state->set_wakeup_fd, "signal", "set_wakeup_fd"},
#if PY_VERSION_HEX < 0x030E0000
        {&state->current_tasks, "_asyncio", "_current_tasks"},
#else
        {&state->swap_current_task, "_asyncio", "_swap_current_task"},
#endif
    };
    for (size_t i = 0; i < sizeof(imports) / sizeof(imports[0]); i++) {
        *imports[i].slot = state_import(imports[i].module, imports[i].name);
        if (*imports[i].slot == NULL) {
            return -1;
        }
    }
    state->data_received
        = PyObject_GetAttrString(state->StreamReaderProtocol, "data_received");
    state->feed_data
        = PyObject_GetAttrString(state->StreamReader, "feed_data");
    if (state->data_received == NULL || state->feed_data == NULL) {
        return -1;
    }
    PyObject *base = state_import("asyncio.base_events", "BaseEventLoop");
    if (base == NULL) {
        return -1;
    }
    state->BaseCreateTask = PyObject_GetAttrString(base, "create_task");
    Py_DECREF(base);
    if (state->BaseCreateTask == NULL) {
        return -1;
    }
#if PY_VERSION_HEX < 0x030E0000
    if (!PyDict_Check(state->current_tasks)) {
        PyErr_SetString(PyExc_ImportError,
                        "pyloop: asyncio keeps its current tasks in an "
                        "unknown way in this Python");
        return -1;
    }
#endif
    return 0;
}
