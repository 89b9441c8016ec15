/* The Task type: life, result, cancellation, callbacks.  See task.h. */
#include <Python.h>

#include "task.h"

#include <string.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "handle.h"

/* --- making --- */

static bool
is_coroutine_like(struct module_state *state, PyObject *coro)
{
    return PyCoro_CheckExact(coro) || PyGen_CheckExact(coro)
           || op_check(state, coro);
}

static bool
flag_is_set(PyObject *coro, PyObject *coro_name, PyObject *gen_name)
{
    PyObject *flag = PyObject_GetAttr(
        coro, PyCoro_CheckExact(coro) ? coro_name : gen_name);
    bool is_set = flag == Py_True;
    if (flag == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(flag);
    return is_set;
}

bool
task_coroutine_is_fresh(struct module_state *state, PyObject *coro)
{
    if (op_check(state, coro)) {
        return ((OpObject *)coro)->status == OP_NEW;
    }
#if PY_VERSION_HEX < 0x030E0000
    return ((PyGenObject *)coro)->gi_frame_state
           == state->frame_state_created;
#else
    if (flag_is_set(coro, state->str_cr_running, state->str_gi_running)
        || flag_is_set(coro, state->str_cr_suspended,
                       state->str_gi_suspended)) {
        return false;
    }
    PyObject *frame = PyObject_GetAttrString(
        coro, PyCoro_CheckExact(coro) ? "cr_frame" : "gi_frame");
    if (frame == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(frame);
    return frame != NULL && frame != Py_None;
#endif
}

int
task_check_coroutine(struct module_state *state, PyObject *coro,
                     const char *who)
{
    if (PL_UNLIKELY(!is_coroutine_like(state, coro))) {
        const char *hint
            = PyCallable_Check(coro)
                  ? "; call the async function to get its coroutine"
                  : "";
        PyErr_Format(PyExc_TypeError,
                     "%s needs a coroutine or generator, not %.200s (%R)%s",
                     who, Py_TYPE(coro)->tp_name, coro, hint);
        return -1;
    }
    if (PL_LIKELY(task_coroutine_is_fresh(state, coro))) {
        return 0;
    }
    const char *what = "has already ended";
    if (!op_check(state, coro)) {
        if (flag_is_set(coro, state->str_cr_running, state->str_gi_running)) {
            what = "is running already";
        } else if (flag_is_set(coro, state->str_cr_suspended,
                               state->str_gi_suspended)) {
            what = "has already been started";
        }
    }
    PyErr_Format(PyExc_RuntimeError, "%s: %R %s", who, coro, what);
    return -1;
}

TaskObject *
task_new(LoopObject *loop, PyObject *coro, PyObject *name, PyObject *context,
         bool is_root)
{
    struct module_state *state = loop->state;
    TaskObject *task = PyObject_GC_New(TaskObject, state->TaskType);
    if (task == NULL) {
        return NULL;
    }
    memset((char *)task + offsetof(TaskObject, weakrefs), 0,
           sizeof(*task) - offsetof(TaskObject, weakrefs));
    task->head.run = task_run;
    task->loop = (LoopObject *)Py_NewRef(loop);
    task->coro = Py_NewRef(coro);
    task->name = Py_XNewRef(name);
    task->number = ++state->next_task_number;
    task->log_destroy_pending = true;
    list_init(&task->live);
    list_init(&task->joiners);
    task->context = context != NULL ? Py_NewRef(context)
                                    : PyContext_CopyCurrent();
    PyObject_GC_Track(task);
    task->queued = true;
    if (task->context == NULL || loop_push(loop, &task->head) < 0) {
        task->status = TASK_CANCELLED; /* never was */
        Py_DECREF(task);
        return NULL;
    }
    Py_INCREF(task);
    list_append(&loop->tasks.live, &task->live);
    loop->tasks.n_live++;
    if (is_root) {
        task->is_root = true;
        loop->tasks.n_roots++;
    }
    return task;
}

int
task_wake(TaskObject *task)
{
    if (task->queued || task->status != TASK_PENDING) {
        return 0;
    }
    if (loop_push(task->loop, &task->head) < 0) {
        return -1;
    }
    task->queued = true;
    return 0;
}

/* --- ending --- */

static void
run_callbacks(TaskObject *task)
{
    struct list *node;
    while ((node = list_first(&task->joiners)) != NULL) {
        OpObject *op = PL_CONTAINER_OF(node, OpObject, u.queue.link);
        list_remove(node);
        op_fire(op, NULL);
        Py_DECREF(op);
        task->log_traceback = false;
    }
    PyObject *callbacks = task->callbacks;
    task->callbacks = NULL;
    for (Py_ssize_t i = 0;
         callbacks != NULL && i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *handle = PyList_GET_ITEM(callbacks, i);
        loop_push_promised(task->loop,
                           (struct runnable *)Py_NewRef(handle));
    }
    Py_XDECREF(callbacks);
}

void
task_finish(TaskObject *task, PyObject *result, PyObject *exc)
{
    LoopObject *loop = task->loop;
    if (exc == NULL) {
        task->status = TASK_FINISHED;
        task->result = Py_NewRef(result);
    } else {
        bool cancelled
            = PyErr_GivenExceptionMatches(exc, loop->state->CancelledError);
        task->status = cancelled ? TASK_CANCELLED : TASK_FINISHED;
        task->exception = Py_NewRef(exc);
        task->traceback = PyException_GetTraceback(exc);
        task->log_traceback = !cancelled;
    }
    bool was_live = list_is_linked(&task->live);
    if (was_live) {
        list_remove(&task->live);
        loop->tasks.n_live--;
        if (task->is_root) {
            loop->tasks.n_roots--;
            if (exc != NULL && loop->tasks.failed == NULL) {
                loop->tasks.failed = Py_NewRef((PyObject *)task);
            }
        }
    }
    run_callbacks(task);
    /* Coroutine and context stay for get_coro(), get_context() and repr, as in
     * asyncio; the coroutine has ended and holds no frame. */
    Py_CLEAR(task->pending_value);
    Py_CLEAR(task->pending_exception);
    if (was_live) {
        Py_DECREF(task);
    }
}

PyObject *
task_make_cancelled(TaskObject *task)
{
    PyObject *type = task->loop->state->CancelledError;
    return task->cancel_message == NULL || task->cancel_message == Py_None
               ? PyObject_CallNoArgs(type)
               : PyObject_CallOneArg(type, task->cancel_message);
}

int
task_stop_waiting(TaskObject *task, PyObject *message)
{
    PyObject *waiting_on = task->waiting_on;
    if (waiting_on == NULL) {
        return 0;
    }
    if (!task->waits_foreign) {
        OpObject *op = (OpObject *)waiting_on;
        if (op->status != OP_ARMED) {
            return 0; /* fired: it is in the ready queue */
        }
        op_disarm(op);
        return task_wake(task);
    }
    PyObject *args[2] = {waiting_on, message != NULL ? message : Py_None};
    struct module_state *state = task->loop->state;
    Py_INCREF(waiting_on);
    PyObject *res = PyObject_VectorcallMethod(
        state->str_cancel, args, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        state->kwnames_msg); /* call-out */
    Py_DECREF(waiting_on);
    if (res == NULL) {
        return -1;
    }
    int taken = PyObject_IsTrue(res);
    Py_DECREF(res);
    return taken;
}

/* The task whose end `task` waits for in a join, or NULL. */
static TaskObject *
joined_task(TaskObject *task)
{
    if (task->waiting_on == NULL || task->waits_foreign) {
        return NULL;
    }
    OpObject *op = (OpObject *)task->waiting_on;
    return op->status == OP_ARMED && op->kind == &op_kind_join
               ? (TaskObject *)op->object
               : NULL;
}

static int
cancel_this(TaskObject *task, PyObject *message)
{
    int taken = task_stop_waiting(task, message);
    if (taken != 0) {
        return taken;
    }
    /* Running (it cancels itself): thrown at its next yield.  Ready, or
     * waiting for a foreign future that is done: at its next step. */
    task->must_cancel = true;
    Py_XSETREF(task->cancel_message, Py_XNewRef(message));
    return 1;
}

/* Whoever cancels a task that awaits another cancels that other, as in
 * asyncio: the CancelledError comes back through the join.  A loop, not a
 * recursion: the chain may be long, or a circle. */
int
task_cancel(TaskObject *task, PyObject *message)
{
    if (task->status != TASK_PENDING) {
        return 0;
    }
    TaskObject *last = task, *next;
    for (;;) {
        last->n_cancels++;
        last->in_cancel = true;
        next = joined_task(last);
        if (next == NULL || next->in_cancel
            || next->status != TASK_PENDING) {
            break;
        }
        last = next;
    }
    for (next = task; next != NULL && next->in_cancel;
         next = joined_task(next)) {
        next->in_cancel = false;
    }
    if (joined_task(last) != NULL) {
        op_disarm((OpObject *)last->waiting_on); /* a circle is broken here */
        if (task_wake(last) < 0) {
            return -1;
        }
    }
    Py_INCREF(last);
    int rc = cancel_this(last, message); /* call-out */
    Py_DECREF(last);
    return rc;
}

/* --- join: awaiting a task --- */

static PyObject *task_result(TaskObject *task);

static enum op_attempt
join_attempt(OpObject *op, PyObject **result)
{
    TaskObject *task = (TaskObject *)op->object;
    if (task->status != TASK_PENDING) {
        *result = task_result(task);
        return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;
    }
    if (task->loop != op->loop) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R belongs to another event loop and cannot be awaited "
                     "in this one",
                     task);
        return OP_ATTEMPT_ERROR;
    }
    if ((PyObject *)task == op->loop->tasks.current) {
        PyErr_Format(PyExc_RuntimeError, "Task cannot await on itself: %R",
                     task);
        return OP_ATTEMPT_ERROR;
    }
    return OP_ATTEMPT_WAIT;
}

static int
join_arm(OpObject *op)
{
    TaskObject *task = (TaskObject *)op->object;
    list_append(&task->joiners, &op->u.queue.link);
    Py_INCREF(op);
    if (task->status != TASK_PENDING) {
        /* It ended between the attempt and now. */
        run_callbacks(task);
    }
    return 0;
}

static void
join_disarm(OpObject *op)
{
    list_remove(&op->u.queue.link);
    Py_DECREF(op);
}

static int
join_cancel(OpObject *op, PyObject *message)
{
    TaskObject *task = (TaskObject *)Py_NewRef(op->object);
    int rc = task_cancel(task, message);
    Py_DECREF(task);
    return rc;
}

const struct op_kind op_kind_join = {
    .name = "join",
    .cancel = join_cancel,
    .attempt = join_attempt,
    .arm = join_arm,
    .disarm = join_disarm,
    .unmetered = true,
};

static PyObject *
Task_am_await(TaskObject *task)
{
    OpObject *op = op_new(task->loop->state, &op_kind_join);
    if (op == NULL) {
        return NULL;
    }
    list_init(&op->u.queue.link);
    op->object = Py_NewRef((PyObject *)task);
    return (PyObject *)op;
}

/* --- methods: asyncio.Task's --- */

static PyObject *
task_result(TaskObject *task)
{
    switch (task->status) {
    case TASK_PENDING:
        PyErr_SetString(task->loop->state->InvalidStateError,
                        "Result is not ready.");
        return NULL;
    case TASK_CANCELLED: {
        /* The original, once: it has the traceback. */
        PyObject *exc = task->exception;
        task->exception = NULL;
        if (exc == NULL) {
            exc = task_make_cancelled(task);
        }
        if (exc != NULL) {
            exception_put(exc);
        }
        return NULL;
    }
    default:
        break;
    }
    task->log_traceback = false;
    if (task->exception != NULL) {
        PyObject *exc = Py_NewRef(task->exception);
        if (PyException_SetTraceback(exc, task->traceback != NULL
                                              ? task->traceback
                                              : Py_None)
            < 0) {
            Py_DECREF(exc);
            return NULL;
        }
        exception_put(exc);
        return NULL;
    }
    return Py_NewRef(task->result);
}

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
        || loop_check_thread(task->loop, "Task.cancel()") < 0) {
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
    static const char *const names[] = {"fn", "context"};
    static const struct args_spec spec
        = {"add_done_callback", names, 2, 1, 1};
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

static PyObject *
Task_remove_done_callback(TaskObject *task, PyObject *fn)
{
    long removed = 0;
    for (Py_ssize_t i = 0;
         task->callbacks != NULL && i < PyList_GET_SIZE(task->callbacks);) {
        HandleObject *handle
            = (HandleObject *)PyList_GET_ITEM(task->callbacks, i);
        PyObject *callback = Py_XNewRef(handle->callback);
        int same = callback == NULL
                       ? 0
                       : PyObject_RichCompareBool(callback, fn, Py_EQ);
        Py_XDECREF(callback);
        if (same < 0) {
            return NULL;
        }
        if (same == 0) {
            i++;
            continue;
        }
        /* The comparison may have changed the list. */
        if (task->callbacks != NULL
            && i < PyList_GET_SIZE(task->callbacks)) {
            if (PySequence_DelItem(task->callbacks, i) < 0) {
                return NULL;
            }
            loop_unpromise(task->loop);
            removed++;
        }
    }
    return PyLong_FromLong(removed);
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

static PyObject *
task_name(TaskObject *task)
{
    if (task->name == NULL) {
        task->name = PyUnicode_FromFormat("Task-%llu",
                                          (unsigned long long)task->number);
    }
    return Py_XNewRef(task->name);
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
call_base_tasks(TaskObject *task, const char *function, PyObject *args,
                PyObject *kwargs)
{
    PyObject *module = PyImport_ImportModule("asyncio.base_tasks");
    if (module == NULL) {
        return NULL;
    }
    PyObject *fn = PyObject_GetAttrString(module, function);
    Py_DECREF(module);
    (void)task;
    PyObject *res = fn != NULL ? PyObject_Call(fn, args, kwargs) : NULL;
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
                                     &limit)) {
        return NULL;
    }
    PyObject *call = PyTuple_Pack(2, (PyObject *)task, limit);
    if (call == NULL) {
        return NULL;
    }
    PyObject *res = call_base_tasks(task, "_task_get_stack", call, NULL);
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
                                     &limit, &file)) {
        return NULL;
    }
    PyObject *call = PyTuple_Pack(3, (PyObject *)task, limit, file);
    if (call == NULL) {
        return NULL;
    }
    PyObject *res = call_base_tasks(task, "_task_print_stack", call, NULL);
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

PyObject *
task_describe(TaskObject *task)
{
    PyObject *name = task_name(task);
    PyObject *what = NULL;
    if (name == NULL) {
        return NULL;
    }
    if (task->waiting_on == NULL) {
        what = PyUnicode_FromString("ready");
    } else if (task->waits_foreign) {
        what = PyUnicode_FromFormat("waits for %R", task->waiting_on);
    } else {
        PyObject *op = op_describe((OpObject *)task->waiting_on);
        what = op != NULL ? PyUnicode_FromFormat("waits in %U", op) : NULL;
        Py_XDECREF(op);
    }
    PyObject *text
        = what != NULL
              ? PyUnicode_FromFormat("%U (%R) %U", name, task->coro, what)
              : NULL;
    Py_DECREF(name);
    Py_XDECREF(what);
    return text;
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
        && task->waiting_on != NULL) {
        PyObject *what = task->waits_foreign
                             ? PyObject_Repr(task->waiting_on)
                             : op_describe((OpObject *)task->waiting_on);
        if (what == NULL) {
            Py_DECREF(text);
            return NULL;
        }
        Py_SETREF(text,
                  PyUnicode_FromFormat("%U wait_for=%U", text, what));
        Py_DECREF(what);
    } else if (text != NULL && task->status == TASK_FINISHED) {
        Py_SETREF(text,
                  task->exception != NULL
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
         node = list_next(&task->joiners, node)) {
        Py_VISIT((PyObject *)PL_CONTAINER_OF(node, OpObject, u.queue.link));
    }
    return 0;
}

static int
Task_tp_clear(TaskObject *task)
{
    if (task->waiting_on != NULL && !task->waits_foreign) {
        op_disarm((OpObject *)task->waiting_on);
    }
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
        < 0) {
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
        && PyObject_CallFinalizerFromDealloc((PyObject *)task) < 0) {
        return;
    }
    PyObject_GC_UnTrack(task);
    if (task->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)task);
    }
    (void)Task_tp_clear(task);
    LoopObject *loop = task->loop;
    task->loop = NULL;
    PyObject_GC_Del(task);
    Py_XDECREF(loop);
    Py_DECREF(type);
}

int
task_list_traverse(LoopObject *loop, visitproc visit, void *arg)
{
    struct list *head = &loop->tasks.live;
    if (head->next == NULL) {
        return 0; /* never initialised */
    }
    for (struct list *node = list_first(head); node != NULL;
         node = list_next(head, node)) {
        Py_VISIT((PyObject *)task_of_live(node));
    }
    return 0;
}

void
task_list_release(LoopObject *loop)
{
    struct list *head = &loop->tasks.live;
    struct list *node;
    while (head->next != NULL && (node = list_first(head)) != NULL) {
        TaskObject *task = task_of_live(node);
        Py_INCREF(task);
        if (task->waiting_on != NULL && !task->waits_foreign) {
            op_disarm((OpObject *)task->waiting_on);
        }
        if (task->started && task->log_destroy_pending
            && loop_report(loop, "Task was destroyed but it is pending!",
                           loop->state->str_task, (PyObject *)task)
                   < 0) {
            PyErr_WriteUnraisable((PyObject *)task);
        }
        PyObject *exc = task_make_cancelled(task);
        if (exc == NULL) {
            exc = exception_take();
        }
        PyObject *coro = Py_XNewRef(task->coro);
        task_finish(task, NULL, exc);
        Py_XDECREF(exc);
        if (coro != NULL) {
            /* call-out: its finally blocks run */
            PyObject *res
                = PyObject_CallMethodNoArgs(coro, loop->state->str_close);
            if (res == NULL) {
                PyErr_WriteUnraisable(coro);
            }
            Py_XDECREF(res);
            Py_DECREF(coro);
        }
        Py_CLEAR(task->waiting_on);
        Py_DECREF(task);
    }
}

/* --- attributes that asyncio and libraries read --- */

static PyObject *
Task_get_blocking(TaskObject *task, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(task->blocking);
}

static int
Task_set_blocking(TaskObject *task, PyObject *value,
                  void *Py_UNUSED(closure))
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
     PyDoc_STR("__class_getitem__($type, item, /)\n--\n\n"
               "Task[T]: a task whose result is a T, for annotations.")},
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
    {Py_am_await, Task_am_await},
    {Py_tp_iter, Task_am_await},
    {0, NULL},
};

static PyType_Spec Task_spec = {
    .name = "pyloop.Task",
    .basicsize = sizeof(TaskObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Task_slots,
};

/* The number by which this interpreter marks a generator that has not
 * started, read off one. */
static int
probe_fresh_state(struct module_state *state)
{
#if PY_VERSION_HEX < 0x030E0000
    PyObject *globals = PyDict_New();
    if (globals == NULL
        || PyDict_SetItemString(globals, "__builtins__",
                                PyEval_GetBuiltins())
               < 0) {
        Py_XDECREF(globals);
        return -1;
    }
    PyObject *gen
        = PyRun_String("(None for _ in ())", Py_eval_input, globals, globals);
    Py_DECREF(globals);
    if (gen == NULL) {
        return -1;
    }
    state->frame_state_created = ((PyGenObject *)gen)->gi_frame_state;
    Py_DECREF(gen);
#else
    (void)state;
#endif
    return 0;
}

int
task_init(PyObject *module, struct module_state *state)
{
    if (probe_fresh_state(state) < 0) {
        return -1;
    }
    return state_add_type(module, &state->TaskType, &Task_spec, "Task");
}
