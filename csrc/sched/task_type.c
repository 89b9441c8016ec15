/* The Python type Task: asyncio.Task's methods and attributes over the engine
 * in task.c. */
#include <Python.h>

#include "task.h"

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "handle.h"

PyDoc_STRVAR(Task_result_doc,
             "result($self, /)\n--\n\n"
             "Return what the coroutine returned.\n\n"
             "Raises:\n"
             "    Exception: the one that the coroutine raised.\n"
             "    asyncio.CancelledError: the task was cancelled.\n"
             "    asyncio.InvalidStateError: it has not ended.");

static PyObject *
Task_result(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return task_result(task);
}

PyDoc_STRVAR(Task_exception_doc,
             "exception($self, /)\n--\n\n"
             "Return the exception that ended the task, or None.\n\n"
             "Raises:\n"
             "    asyncio.CancelledError: the task was cancelled.\n"
             "    asyncio.InvalidStateError: it has not ended.");

static PyObject *
Task_exception(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    if (task->status == TASK_PENDING) {
        PyErr_SetString(task->loop->state->InvalidStateError,
                        "Exception is not set.");
        return NULL;
    }
    if (task->status == TASK_CANCELLED) {
        return task_result(task);
    }
    task->log_traceback = false;
    return Py_NewRef(task->exception != NULL ? task->exception : Py_None);
}

PyDoc_STRVAR(Task_done_doc, "done($self, /)\n--\n\n"
                            "Return True if the task has ended.");

static PyObject *
Task_done(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(task->status != TASK_PENDING);
}

PyDoc_STRVAR(Task_cancelled_doc,
             "cancelled($self, /)\n--\n\n"
             "Return True if the task ended with CancelledError.");

static PyObject *
Task_cancelled(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(task->status == TASK_CANCELLED);
}

PyDoc_STRVAR(Task_cancel_doc,
             "cancel($self, /, msg=None)\n--\n\n"
             "Throw asyncio.CancelledError(msg) into the coroutine where it "
             "waits.\n\n"
             "Nothing is lost: an operation that was ready but not yet "
             "resumed has taken nothing.\n\n"
             "Returns:\n    False if the task has ended already.");

static PyObject *
Task_cancel(TaskObject *task, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"msg"};
    static const struct args_spec spec = {"cancel", names, 1, 1, 0};
    PyObject *msg;
    if (args_bind(&spec, args, nargs, kwnames, &msg) < 0
        || loop_check_thread(task->loop, "Task.cancel()") < 0)
    {
        return NULL;
    }
    int rc = task_cancel(task, msg);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

PyDoc_STRVAR(Task_cancelling_doc,
             "cancelling($self, /)\n--\n\n"
             "Return the number of cancellation requests, less the calls of "
             "uncancel().");

static PyObject *
Task_cancelling(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(task->n_cancels);
}

PyDoc_STRVAR(Task_uncancel_doc,
             "uncancel($self, /)\n--\n\n"
             "Take back one cancellation request; return how many are left.");

static PyObject *
Task_uncancel(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    if (task->n_cancels > 0) {
        task->n_cancels--;
#if PY_VERSION_HEX >= 0x030D0000
        if (task->n_cancels == 0) {
            task->must_cancel = false;
        }
#endif
    }
    return PyLong_FromLong(task->n_cancels);
}

PyDoc_STRVAR(Task_add_done_callback_doc,
             "add_done_callback($self, fn, /, *, context=None)\n--\n\n"
             "Schedule fn(task) for when the task has ended.");

static PyObject *
Task_add_done_callback(TaskObject *task, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {NULL, "context"};
    static const struct args_spec spec = {"add_done_callback", names, 2, 1, 1};
    PyObject *bound[2];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    PyObject *self = (PyObject *)task;
    LoopObject *loop = task->loop;
    if (task->status != TASK_PENDING) {
        int taken = task_wakeup_accept(loop->state, bound[0]);
        if (taken < 0) {
            return NULL;
        }
        if (taken == 0) {
            HandleObject *now
                = handle_call_soon(loop, bound[0], &self, 1, bound[1]);
            if (now == NULL) {
                return NULL;
            }
            Py_DECREF(now);
        }
        Py_RETURN_NONE;
    }
    if (task->callbacks == NULL) {
        task->callbacks = PyList_New(0);
        if (task->callbacks == NULL) {
            return NULL;
        }
    }
    HandleObject *handle = handle_new(loop, bound[0], &self, 1, bound[1]);
    if (handle == NULL || loop_promise(loop) < 0) {
        Py_XDECREF(handle);
        return NULL;
    }
    int rc = PyList_Append(task->callbacks, (PyObject *)handle);
    Py_DECREF(handle);
    if (rc < 0) {
        loop_unpromise(loop);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Task_remove_done_callback_doc,
             "remove_done_callback($self, fn, /)\n--\n\n"
             "Take fn off the callbacks; return how many times it was there.");

/* Takes that very Handle off, if it is still there: 1, 0, or -1. */
static int
remove_handle(TaskObject *task, PyObject *handle)
{
    PyObject *list = task->callbacks;
    Py_ssize_t n = list != NULL ? PyList_GET_SIZE(list) : 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyList_GET_ITEM(list, i) == handle) {
            if (PySequence_DelItem(list, i) < 0) {
                return -1;
            }
            loop_unpromise(task->loop);
            return 1;
        }
    }
    return 0;
}

static PyObject *
Task_remove_done_callback(TaskObject *task, PyObject *fn)
{
    if (task->callbacks == NULL) {
        return PyLong_FromLong(0);
    }
    /* Of a copy: the comparisons may change the list. */
    PyObject *handles = PyList_GetSlice(task->callbacks, 0,
                                        PyList_GET_SIZE(task->callbacks));
    int rc = handles != NULL ? 0 : -1;
    long removed = 0;
    for (Py_ssize_t i = 0; rc >= 0 && i < PyList_GET_SIZE(handles); i++) {
        PyObject *handle = PyList_GET_ITEM(handles, i);
        PyObject *callback = Py_XNewRef(((HandleObject *)handle)->callback);
        rc = callback != NULL ? PyObject_RichCompareBool(callback, fn, Py_EQ)
                              : 0; /* call-out */
        Py_XDECREF(callback);
        if (rc > 0) {
            rc = remove_handle(task, handle);
            removed += rc > 0;
        }
    }
    Py_XDECREF(handles);
    return rc < 0 ? NULL : PyLong_FromLong(removed);
}

PyDoc_STRVAR(Task_get_loop_doc, "get_loop($self, /)\n--\n\n"
                                "Return the event loop that runs the task.");

static PyObject *
Task_get_loop(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef((PyObject *)task->loop);
}

PyDoc_STRVAR(Task_get_coro_doc,
             "get_coro($self, /)\n--\n\n"
             "Return the coroutine or generator that the task drives.");

static PyObject *
Task_get_coro(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(task->coro != NULL ? task->coro : Py_None);
}

PyDoc_STRVAR(Task_get_context_doc,
             "get_context($self, /)\n--\n\n"
             "Return the contextvars.Context that the coroutine runs in.");

static PyObject *
Task_get_context(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(task->context != NULL ? task->context : Py_None);
}

PyDoc_STRVAR(Task_get_name_doc, "get_name($self, /)\n--\n\n"
                                "Return the task's name, a str.");

static PyObject *
Task_get_name(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return task_name(task);
}

PyDoc_STRVAR(Task_set_name_doc,
             "set_name($self, name, /)\n--\n\n"
             "Name the task str(name), for messages and debuggers.");

static PyObject *
Task_set_name(TaskObject *task, PyObject *name)
{
    PyObject *text = PyObject_Str(name);
    if (text == NULL) {
        return NULL;
    }
    Py_XSETREF(task->name, text);
    Py_RETURN_NONE;
}

/* The stack of a suspended task: asyncio's own helpers do it from cr_frame. */
static PyObject *
call_base_tasks(const char *function, PyObject *args)
{
    PyObject *fn = state_import("asyncio.base_tasks", function);
    PyObject *res = fn != NULL ? PyObject_CallObject(fn, args) : NULL;
    Py_XDECREF(fn);
    return res;
}

PyDoc_STRVAR(Task_get_stack_doc,
             "get_stack($self, /, *, limit=None)\n--\n\n"
             "Return the list of frames in which the task waits or, if it "
             "failed, of its traceback.");

static PyObject *
Task_get_stack(TaskObject *task, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    PyObject *limit = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:get_stack", names,
                                     &limit))
    {
        return NULL;
    }
    PyObject *call = PyTuple_Pack(2, (PyObject *)task, limit);
    if (call == NULL) {
        return NULL;
    }
    PyObject *res = call_base_tasks("_task_get_stack", call);
    Py_DECREF(call);
    return res;
}

PyDoc_STRVAR(Task_print_stack_doc,
             "print_stack($self, /, *, limit=None, file=None)\n--\n\n"
             "Print what get_stack() returns like a traceback, to sys.stderr "
             "or file.");

static PyObject *
Task_print_stack(TaskObject *task, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "file", NULL};
    PyObject *limit = Py_None, *file = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:print_stack", names,
                                     &limit, &file))
    {
        return NULL;
    }
    PyObject *call = PyTuple_Pack(3, (PyObject *)task, limit, file);
    if (call == NULL) {
        return NULL;
    }
    PyObject *res = call_base_tasks("_task_print_stack", call);
    Py_DECREF(call);
    return res;
}

PyDoc_STRVAR(Task_make_cancelled_doc,
             "_make_cancelled_error($self, /)\n--\n\n"
             "Return the CancelledError that cancel() asked for.");

static PyObject *
Task__make_cancelled_error(TaskObject *task, PyObject *Py_UNUSED(ignored))
{
    return task_make_cancelled(task);
}

static PyObject *
Task_tp_repr(TaskObject *task)
{
    static const char *const status[] = {"pending", "finished", "cancelled"};
    PyObject *name = task_name(task);
    if (name == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat(
        "<pyloop.Task %s%s name=%R coro=%R",
        task->n_cancels > 0 && task->status == TASK_PENDING ? "cancelling "
                                                            : "",
        status[task->status], name, task->coro);
    Py_DECREF(name);
    if (text != NULL && task->status == TASK_PENDING
        && task->waiting_on != NULL)
    {
        PyObject *what = task->waits_foreign
                             ? PyObject_Repr(task->waiting_on)
                             : op_describe((OpObject *)task->waiting_on);
        if (what == NULL) {
            Py_DECREF(text);
            return NULL;
        }
        Py_SETREF(text, PyUnicode_FromFormat("%U wait_for=%U", text, what));
        Py_DECREF(what);
    }
    else if (text != NULL && task->status == TASK_FINISHED) {
        Py_SETREF(text, task->exception != NULL
                            ? PyUnicode_FromFormat("%U exception=%R", text,
                                                   task->exception)
                            : PyUnicode_FromFormat("%U result=%R", text,
                                                   task->result));
    }
    if (text != NULL) {
        Py_SETREF(text, PyUnicode_FromFormat("%U>", text));
    }
    return text;
}

/* --- life of the Python object --- */

static int
Task_tp_traverse(TaskObject *task, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(task));
    Py_VISIT(task->loop);
    Py_VISIT(task->coro);
    Py_VISIT(task->context);
    Py_VISIT(task->name);
    Py_VISIT(task->result);
    Py_VISIT(task->exception);
    Py_VISIT(task->traceback);
    Py_VISIT(task->cancel_message);
    Py_VISIT(task->waiting_on);
    Py_VISIT(task->pending_exception);
    Py_VISIT(task->pending_value);
    Py_VISIT(task->callbacks);
    struct list *node;
    for (node = list_first(&task->joiners); node != NULL;
         node = list_next(&task->joiners, node))
    {
        Py_VISIT((PyObject *)PL_CONTAINER_OF(node, OpObject, u.queue.link));
    }
    return 0;
}

static int
Task_tp_clear(TaskObject *task)
{
    task_undo_wait(task);
    if (task->callbacks != NULL) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(task->callbacks); i++) {
            loop_unpromise(task->loop);
        }
        Py_CLEAR(task->callbacks);
    }
    struct list *node;
    while ((node = list_first(&task->joiners)) != NULL) {
        op_disarm(PL_CONTAINER_OF(node, OpObject, u.queue.link));
    }
    Py_CLEAR(task->waiting_on);
    Py_CLEAR(task->coro);
    Py_CLEAR(task->context);
    Py_CLEAR(task->name);
    Py_CLEAR(task->result);
    Py_CLEAR(task->exception);
    Py_CLEAR(task->traceback);
    Py_CLEAR(task->cancel_message);
    Py_CLEAR(task->pending_exception);
    Py_CLEAR(task->pending_value);
    return 0;
}

/* An exception that nobody asked for is reported, as asyncio does. */
static void
Task_tp_finalize(TaskObject *task)
{
    if (!task->log_traceback || task->exception == NULL) {
        return;
    }
    task->log_traceback = false;
    PyObject *pending = exception_take();
    exception_put(Py_NewRef(task->exception));
    if (loop_report(task->loop, "Task exception was never retrieved",
                    task->loop->state->str_future, (PyObject *)task)
        < 0)
    {
        PyErr_WriteUnraisable((PyObject *)task);
    }
    if (pending != NULL) {
        exception_put(pending);
    }
}

static void
Task_tp_dealloc(TaskObject *task)
{
    PyTypeObject *type = Py_TYPE(task);
    if (task->log_traceback
        && PyObject_CallFinalizerFromDealloc((PyObject *)task) < 0)
    {
        return;
    }
    bool is_finalized = PyObject_GC_IsFinalized((PyObject *)task);
    PyObject_GC_UnTrack(task);
    if (task->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)task);
    }
    (void)Task_tp_clear(task);
    task_free(task, !is_finalized);
    Py_DECREF(type);
}

/* --- attributes that asyncio and libraries read --- */

static PyObject *
Task_get_blocking(TaskObject *task, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(task->blocking);
}

static int
Task_set_blocking(TaskObject *task, PyObject *value, void *Py_UNUSED(closure))
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    task->blocking = truth;
    return 0;
}

static PyObject *
Task_get_loop_attr(TaskObject *task, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)task->loop);
}

static PyObject *
Task_get_fut_waiter(TaskObject *task, void *Py_UNUSED(closure))
{
    return Py_NewRef(task->waiting_on != NULL ? task->waiting_on : Py_None);
}

static PyObject *
Task_get_must_cancel(TaskObject *task, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(task->must_cancel);
}

static PyObject *
Task_get_cancel_message(TaskObject *task, void *Py_UNUSED(closure))
{
    return Py_NewRef(task->cancel_message != NULL ? task->cancel_message
                                                  : Py_None);
}

static PyObject *
Task_get_state_attr(TaskObject *task, void *Py_UNUSED(closure))
{
    static const char *const status[] = {"PENDING", "FINISHED", "CANCELLED"};
    return PyUnicode_FromString(status[task->status]);
}

static PyObject *
Task_get_exception_attr(TaskObject *task, void *Py_UNUSED(closure))
{
    PyObject *exc = task->status == TASK_FINISHED ? task->exception : NULL;
    return Py_NewRef(exc != NULL ? exc : Py_None);
}

static PyObject *
Task_get_coro_attr(TaskObject *task, void *Py_UNUSED(closure))
{
    return Task_get_coro(task, NULL);
}

static PyObject *
Task_get_log_destroy(TaskObject *task, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(task->log_destroy_pending);
}

static int
Task_set_log_destroy(TaskObject *task, PyObject *value,
                     void *Py_UNUSED(closure))
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    task->log_destroy_pending = truth;
    return 0;
}

PyDoc_STRVAR(Task_class_getitem_doc,
             "__class_getitem__($type, item, /)\n--\n\n"
             "Task[T]: a task whose result is a T, for annotations.");

#define TASK_FASTCALL(fn) (PyCFunction)(void (*)(void))(fn)

static PyMethodDef Task_methods[] = {
    {"result", (PyCFunction)Task_result, METH_NOARGS, Task_result_doc},
    {"exception", (PyCFunction)Task_exception, METH_NOARGS,
     Task_exception_doc},
    {"done", (PyCFunction)Task_done, METH_NOARGS, Task_done_doc},
    {"cancelled", (PyCFunction)Task_cancelled, METH_NOARGS,
     Task_cancelled_doc},
    {"cancel", TASK_FASTCALL(Task_cancel), METH_FASTCALL | METH_KEYWORDS,
     Task_cancel_doc},
    {"cancelling", (PyCFunction)Task_cancelling, METH_NOARGS,
     Task_cancelling_doc},
    {"uncancel", (PyCFunction)Task_uncancel, METH_NOARGS, Task_uncancel_doc},
    {"add_done_callback", TASK_FASTCALL(Task_add_done_callback),
     METH_FASTCALL | METH_KEYWORDS, Task_add_done_callback_doc},
    {"remove_done_callback", (PyCFunction)Task_remove_done_callback, METH_O,
     Task_remove_done_callback_doc},
    {"get_loop", (PyCFunction)Task_get_loop, METH_NOARGS, Task_get_loop_doc},
    {"get_coro", (PyCFunction)Task_get_coro, METH_NOARGS, Task_get_coro_doc},
    {"get_context", (PyCFunction)Task_get_context, METH_NOARGS,
     Task_get_context_doc},
    {"get_name", (PyCFunction)Task_get_name, METH_NOARGS, Task_get_name_doc},
    {"set_name", (PyCFunction)Task_set_name, METH_O, Task_set_name_doc},
    {"get_stack", TASK_FASTCALL(Task_get_stack), METH_VARARGS | METH_KEYWORDS,
     Task_get_stack_doc},
    {"print_stack", TASK_FASTCALL(Task_print_stack),
     METH_VARARGS | METH_KEYWORDS, Task_print_stack_doc},
    {"_make_cancelled_error", (PyCFunction)Task__make_cancelled_error,
     METH_NOARGS, Task_make_cancelled_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     Task_class_getitem_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Task_getset[] = {
    {"_asyncio_future_blocking", (getter)Task_get_blocking,
     (setter)Task_set_blocking, NULL, NULL},
    {"_loop", (getter)Task_get_loop_attr, NULL, NULL, NULL},
    {"_fut_waiter", (getter)Task_get_fut_waiter, NULL, NULL, NULL},
    {"_must_cancel", (getter)Task_get_must_cancel, NULL, NULL, NULL},
    {"_cancel_message", (getter)Task_get_cancel_message, NULL, NULL, NULL},
    {"_state", (getter)Task_get_state_attr, NULL, NULL, NULL},
    {"_exception", (getter)Task_get_exception_attr, NULL, NULL, NULL},
    {"_coro", (getter)Task_get_coro_attr, NULL, NULL, NULL},
    {"_log_destroy_pending", (getter)Task_get_log_destroy,
     (setter)Task_set_log_destroy, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef Task_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TaskObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Task_doc,
             "A coroutine or generator that a pyloop EventLoop runs.\n\n"
             "Made by run(), spawn() and EventLoop.create_task(generator).  "
             "Awaiting it waits for its end (join) and gives its result.  It "
             "has the interface of asyncio.Task.\n\n"
             "Example:\n"
             "    task = await pyloop.spawn(work())\n"
             "    result = await task");

static PyType_Slot Task_slots[] = {
    {Py_tp_doc, (void *)Task_doc},
    {Py_tp_dealloc, Task_tp_dealloc},
    {Py_tp_finalize, Task_tp_finalize},
    {Py_tp_traverse, Task_tp_traverse},
    {Py_tp_clear, Task_tp_clear},
    {Py_tp_repr, Task_tp_repr},
    {Py_tp_methods, Task_methods},
    {Py_tp_members, Task_members},
    {Py_tp_getset, Task_getset},
    {Py_am_await, task_join},
    {Py_tp_iter, task_join},
    {0, NULL},
};

static PyType_Spec Task_spec = {
    .name = "pyloop.Task",
    .basicsize = sizeof(TaskObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Task_slots,
};

int
task_init(PyObject *module, struct module_state *state)
{
    PyObject *abc = PyImport_ImportModule("collections.abc");
    if (abc == NULL) {
        return -1;
    }
    state->Coroutine = PyObject_GetAttrString(abc, "Coroutine");
    Py_DECREF(abc);
    if (state->Coroutine == NULL || task_probe_fresh_state(state) < 0) {
        return -1;
    }
    return state_add_type(module, &state->TaskType, &Task_spec, "Task");
}
