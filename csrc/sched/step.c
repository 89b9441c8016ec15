/* Driving one coroutine: send or throw, then decide on what it yielded.  The
 * only file that does.
 *
 *   None                      pause: to the end of the ready queue
 *   an OpObject               our own awaitable: arm it
 *   a tuple (event, value)    a trap (traps.def): make the op it stands for
 *   a future of anybody's     wait for it with add_done_callback
 *   anything else             RuntimeError, thrown in at that yield
 *
 * An error in arming is thrown into the task at its yield, in its next step:
 * the queue stays fair even for a task that does nothing but yield
 * nonsense. */
#include <Python.h>

#include "task.h"

#include "channel.h"
#include "compat.h"
#include "errors.h"
#include "sleep.h"
#include "traps.h"

/* --- the callable that a foreign future calls --- */

typedef struct {
    PyObject_HEAD
    TaskObject *task; /* owned; NULL once it was woken */
} WakeupObject;

PyObject *
task_wakeup_new(TaskObject *task)
{
    WakeupObject *self
        = PyObject_GC_New(WakeupObject, task->loop->state->WakeupType);
    if (self != NULL) {
        self->task = (TaskObject *)Py_NewRef((PyObject *)task);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

/* Wakes its task, once: a future that calls it again must not break into what
 * the task waits for then. */
static int
wake_once(WakeupObject *self)
{
    TaskObject *task = self->task;
    self->task = NULL;
    int rc = task != NULL ? task_wake(task) : 0;
    Py_XDECREF(task); /* call-out */
    return rc;
}

int
task_wakeup_accept(struct module_state *state, PyObject *callback)
{
    if (!Py_IS_TYPE(callback, state->WakeupType)) {
        return 0;
    }
    return wake_once((WakeupObject *)callback) < 0 ? -1 : 1;
}

static PyObject *
Wakeup_tp_call(WakeupObject *self, PyObject *Py_UNUSED(args),
               PyObject *Py_UNUSED(kwargs))
{
    if (wake_once(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
Wakeup_tp_traverse(WakeupObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->task);
    return 0;
}

static int
Wakeup_tp_clear(WakeupObject *self)
{
    Py_CLEAR(self->task);
    return 0;
}

static void
Wakeup_tp_dealloc(WakeupObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    TaskObject *task = self->task;
    PyObject_GC_Del(self);
    Py_XDECREF(task);
    Py_DECREF(type);
}

PyDoc_STRVAR(Wakeup_doc, "Makes a task ready when called with a future.");

static PyType_Slot Wakeup_slots[] = {
    {Py_tp_doc, (void *)Wakeup_doc},      {Py_tp_call, Wakeup_tp_call},
    {Py_tp_traverse, Wakeup_tp_traverse}, {Py_tp_clear, Wakeup_tp_clear},
    {Py_tp_dealloc, Wakeup_tp_dealloc},   {0, NULL},
};

static PyType_Spec Wakeup_spec = {
    .name = "pyloop._core.Wakeup",
    .basicsize = sizeof(WakeupObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Wakeup_slots,
};

int
step_init(PyObject *module, struct module_state *state)
{
    return state_add_type(module, &state->WakeupType, &Wakeup_spec, NULL);
}

/* --- what was yielded --- */

/* The task waits for an op of its coroutine's or, if it is `trapped`, of ours.
 * Steals it. */
static void
set_op(TaskObject *task, OpObject *op, bool trapped)
{
    task->waiting_on = (PyObject *)op;
    task->trapped = trapped;
    task->waits_foreign = false;
}

/* The current exception is thrown in at the next step. */
PL_COLD static int
throw_later(TaskObject *task)
{
    PyObject *exc = exception_take();
    task_undo_wait(task); /* call-out */
    Py_CLEAR(task->waiting_on);
    task->trapped = false;
    task->waits_foreign = false;
    Py_XSETREF(task->pending_exception, exc);
    return task_wake(task);
}

/* Waits for `op` (stolen), which is YIELDED. */
static int
wait_for_op(TaskObject *task, OpObject *op, bool trapped)
{
    if (PL_UNLIKELY(op->loop != task->loop)) {
        PyErr_Format(PyExc_RuntimeError,
                     op->loop == NULL
                         ? "yield was used instead of await or yield from in "
                           "task %R with %R"
                         : "%R: the operation %R belongs to another event "
                           "loop",
                     task, op);
        Py_DECREF(op);
        return throw_later(task);
    }
    set_op(task, op, trapped);
    if (PL_UNLIKELY(task->must_cancel)) {
        /* Cancelled itself: thrown at this await. */
        return task_commit_cancel(task, task->cancel_message);
    }
    return PL_LIKELY(op_arm(op, &task->head) == 0) ? 0 : throw_later(task);
}

/* Waits for a future that is not ours.  Steals it. */
PL_NOINLINE static int
wait_for_future(TaskObject *task, PyObject *future)
{
    struct module_state *state = task->loop->state;
    PyObject *wakeup = NULL, *res = NULL;
    PyObject *loop = PyObject_CallMethodNoArgs(future, state->str_get_loop);
    if (loop == NULL) {
        goto fail;
    }
    Py_DECREF(loop); /* compared only; the future keeps it */
    if (loop != (PyObject *)task->loop) {
        PyErr_Format(PyExc_RuntimeError,
                     "Task %R got Future %R attached to a different loop",
                     task, future);
        goto fail;
    }
    if (future == (PyObject *)task) {
        PyErr_Format(PyExc_RuntimeError, "Task cannot await on itself: %R",
                     task);
        goto fail;
    }
    if (PyObject_SetAttr(future, state->str__asyncio_future_blocking, Py_False)
        < 0)
    {
        goto fail;
    }
    wakeup = task_wakeup_new(task);
    if (wakeup == NULL) {
        goto fail;
    }
    PyObject *args[3] = {future, wakeup, task->context};
    res = PyObject_VectorcallMethod(state->str_add_done_callback, args,
                                    2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                    state->kwnames_context); /* call-out */
    Py_CLEAR(wakeup);
    if (res == NULL) {
        goto fail;
    }
    Py_DECREF(res);
    task->waiting_on = future;
    task->waits_foreign = true;
    task->trapped = false;
    if (task->must_cancel) {
        int taken = task_stop_waiting(task, task->cancel_message);
        if (taken < 0) {
            return throw_later(task);
        }
        if (taken > 0) {
            task->must_cancel = false;
        }
    }
    return 0;

fail:
    Py_XDECREF(wakeup);
    Py_DECREF(future);
    return throw_later(task);
}

/* A trap's op has yielded: it pauses (None), or must be waited for.  Steals
 * both. */
static int
suspend_trap(TaskObject *task, OpObject *op, PyObject *yielded)
{
    bool pauses = yielded == Py_None;
    Py_DECREF(yielded);
    if (!pauses) {
        return wait_for_op(task, op, true);
    }
    set_op(task, op, true);
    return task_wake(task);
}

/* Drives a trap's op: its result is sent in, or it is waited for.  Steals. */
static int
drive_trap(TaskObject *task, OpObject *op)
{
    PyObject *result;
    switch (op_send(op, &result)) {
    case PYGEN_RETURN:
        Py_DECREF(op);
        Py_XSETREF(task->pending_value, result);
        return task_wake(task);
    case PYGEN_NEXT:
        return suspend_trap(task, op, result);
    case PYGEN_ERROR:
    default:
        Py_DECREF(op);
        return throw_later(task);
    }
}

static int
trap_spawn(TaskObject *task, PyObject *coro)
{
    LoopObject *loop = task->loop;
    if (task_check_coroutine(loop->state, coro, "Spawn") < 0) {
        return throw_later(task);
    }
    TaskObject *child = task_new(loop, coro, NULL, NULL, false);
    if (child == NULL) {
        return throw_later(task);
    }
    Py_XSETREF(task->pending_value, (PyObject *)child);
    return task_wake(task);
}

static OpObject *
trap_join(struct module_state *state, PyObject *value)
{
    if (!Py_IS_TYPE(value, state->TaskType)) {
        errors_bad_value(PyExc_RuntimeError, value,
                         "Join needs a pyloop.Task, not");
        return NULL;
    }
    return (OpObject *)task_join((TaskObject *)value);
}

PL_COLD static int
refuse_yield(TaskObject *task, PyObject *yielded)
{
    PyObject *shown = errors_show(yielded);
    if (shown != NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "task yielded %U; pyloop understands None, (event, "
                     "value) with an Event, a TaskType or one of their names, "
                     "its own awaitables and asyncio futures.  Did it await "
                     "something made for another framework, or use yield "
                     "where await was meant?",
                     shown);
        Py_DECREF(shown);
    }
    return throw_later(task);
}

PL_NOINLINE static int
handle_trap(TaskObject *task, PyObject *yielded)
{
    struct module_state *state = task->loop->state;
    PyObject *value = PyTuple_GET_ITEM(yielded, 1);
    OpObject *op = NULL;
    int code = traps_decode(state, PyTuple_GET_ITEM(yielded, 0));
    switch (code) {
    case TRAP_PAUSE:
        return task_wake(task);
    case TRAP_SPAWN:
        return trap_spawn(task, value);
    case TRAP_ACCEPT:
    case TRAP_RECV:
    case TRAP_READ:
        op = op_new_wait(state, value, PL_SIDE_READ);
        break;
    case TRAP_SEND:
    case TRAP_WRITE:
        op = op_new_wait(state, value, PL_SIDE_WRITE);
        break;
    case TRAP_CHAN_SEND:
    case TRAP_CHAN_RECV:
        op = PyObject_TypeCheck(value, state->ChannelType)
                 ? channel_trap_new(state, value, code == TRAP_CHAN_SEND)
                 : plainchannel_trap_new(state, value, code == TRAP_CHAN_SEND);
        break;
    case TRAP_SLEEP:
        op = sleep_new(state, value);
        break;
    case TRAP_JOIN:
        op = trap_join(state, value);
        break;
    case -1:
        return refuse_yield(task, yielded);
    default:
        break;
    }
    return op != NULL ? drive_trap(task, op) : throw_later(task);
}

/* Decides on what the coroutine yielded.  Steals it. */
static int
handle_yield(TaskObject *task, PyObject *yielded)
{
    struct module_state *state = task->loop->state;
    int rc;
    if (yielded == Py_None) {
        Py_DECREF(yielded);
        return task_wake(task);
    }
    if (PL_LIKELY(op_check(state, yielded))) {
        return wait_for_op(task, (OpObject *)yielded, false);
    }
    if (PyTuple_CheckExact(yielded) && PyTuple_GET_SIZE(yielded) == 2) {
        rc = handle_trap(task, yielded);
        Py_DECREF(yielded);
        return rc;
    }
    PyObject *blocking
        = PyObject_GetAttr(yielded, state->str__asyncio_future_blocking);
    if (blocking == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            rc = refuse_yield(task, yielded);
        }
        else {
            rc = throw_later(task);
        }
        Py_DECREF(yielded);
        return rc;
    }
    int truth = PyObject_IsTrue(blocking);
    Py_DECREF(blocking);
    if (truth > 0) {
        return wait_for_future(task, yielded);
    }
    if (truth == 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "yield was used instead of yield from in task %R with "
                     "%R",
                     task, yielded);
    }
    rc = throw_later(task);
    Py_DECREF(yielded);
    return rc;
}

/* --- one step --- */

/* What a foreign future ended with, if that is an exception. */
static PyObject *
foreign_exception(TaskObject *task, PyObject *future)
{
    PyObject *res
        = PyObject_CallMethodNoArgs(future, task->loop->state->str_result);
    if (res != NULL) {
        Py_DECREF(res);
        return NULL;
    }
    return exception_take();
}

static PySendResult
throw_in(TaskObject *task, PyObject *exc, PyObject **result)
{
    PyObject *args[2] = {task->coro, exc};
    *result
        = PyObject_VectorcallMethod(task->loop->state->str_throw, args,
                                    2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyObject *stop = exception_take();
        /* It may have been made only now, and turned into a MemoryError. */
        if (PyErr_GivenExceptionMatches(stop, PyExc_StopIteration)) {
            *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
            Py_DECREF(stop);
            return PYGEN_RETURN;
        }
        exception_put(stop);
    }
    return PYGEN_ERROR;
}

/* The coroutine ended with the current exception. */
PL_COLD static int
end_with_exception(TaskObject *task)
{
    if (PL_UNLIKELY(!PyErr_Occurred())) {
        PyErr_NoMemory(); /* which the interpreter sometimes fails to say */
    }
    bool ends_loop = errors_ends_loop();
    PyObject *exc = exception_take();
    task_finish(task, NULL, exc);
    if (ends_loop) {
        task->log_traceback = false; /* it goes to the caller of run() */
        exception_put(exc);
        return -1;
    }
    Py_DECREF(exc);
    return 0;
}

/* Takes what the step begins with: an exception to throw (*exc), a value to
 * send (*value), or neither.  1: resume the coroutine; 0: the wait goes on;
 * -1: fatal. */
static int
end_wait(TaskObject *task, PyObject *waiting_on, PyObject **exc,
         PyObject **value)
{
    *exc = task->pending_exception;
    task->pending_exception = NULL;
    *value = task->pending_value;
    task->pending_value = NULL;
    if (task->must_cancel) {
        /* A CancelledError that a future brings along takes precedence. */
        if (waiting_on != NULL && task->waits_foreign && *exc == NULL) {
            *exc = foreign_exception(task, waiting_on);
        }
        task->must_cancel = false;
        if (*exc == NULL
            || !PyErr_GivenExceptionMatches(*exc,
                                            task->loop->state->CancelledError))
        {
            Py_XDECREF(*exc);
            *exc = task_make_cancelled(task);
            if (*exc == NULL) {
                *exc = exception_take();
            }
        }
        return 1;
    }
    if (waiting_on == NULL || *exc != NULL) {
        return 1;
    }
    if (task->waits_foreign) {
        *exc = foreign_exception(task, waiting_on);
        return 1;
    }
    if (!task->trapped) {
        return 1; /* the coroutine drives the op itself */
    }
    PyObject *result;
    OpObject *op = (OpObject *)waiting_on;
    switch (op_send(op, &result)) {
    case PYGEN_RETURN:
        *value = result;
        return 1;
    case PYGEN_NEXT:
        Py_INCREF(op);
        return suspend_trap(task, op, result);
    case PYGEN_ERROR:
    default:
        *exc = exception_take();
        return 1;
    }
}

/* A coroutine that somebody else has started or finished since the task was
 * made cannot be driven: two drivers would resume each other's awaits. */
PL_NOINLINE static int
check_first_step(TaskObject *task)
{
    task->started = true;
    if (task->pending_exception != NULL) {
        return 0;
    }
    return task_check_coroutine(task->loop->state, task->coro,
                                "the task's first step");
}

static int
run_step(TaskObject *task, LoopObject *loop)
{
    if (PL_UNLIKELY(!task->started) && check_first_step(task) < 0) {
        return end_with_exception(task);
    }
    PyObject *waiting_on = task->waiting_on;
    task->waiting_on = NULL;
    PyObject *exc, *value, *result;
    int go = end_wait(task, waiting_on, &exc, &value);
    if (PL_UNLIKELY(go <= 0)) {
        Py_XDECREF(waiting_on);
        return go;
    }
    if (PL_UNLIKELY(exc != NULL) && waiting_on != NULL && task->trapped) {
        op_give_up((OpObject *)waiting_on); /* call-out */
    }
    if (PL_UNLIKELY(loop_begin_step(loop, (PyObject *)task) < 0
                    || PyContext_Enter(task->context) < 0))
    {
        /* No memory: the loop ends with that, and the step is made when it
         * runs again. */
        task->pending_exception = exc;
        task->pending_value = value;
        PyObject *fatal = exception_take();
        (void)task_wake(task);
        exception_put(fatal);
        Py_XDECREF(waiting_on); /* call-out */
        return -1;
    }
    PySendResult outcome
        = PL_LIKELY(exc == NULL)
              ? PyIter_Send(task->coro, value != NULL ? value : Py_None,
                            &result)
              : throw_in(task, exc, &result);
    if (PyContext_Exit(task->context) < 0) {
        PyErr_WriteUnraisable((PyObject *)task);
    }
    Py_XDECREF(exc);
    Py_XDECREF(value);
    Py_XDECREF(waiting_on); /* call-out */
    switch (outcome) {
    case PYGEN_NEXT:
        return handle_yield(task, result);
    case PYGEN_RETURN:
        if (PL_UNLIKELY(task->must_cancel)) {
            /* It cancelled itself and returned at once. */
            task->must_cancel = false;
            Py_DECREF(result);
            exc = task_make_cancelled(task);
            if (exc == NULL) {
                exc = exception_take();
            }
            task_finish(task, NULL, exc);
            Py_DECREF(exc);
            return 0;
        }
        task_finish(task, result, NULL);
        Py_DECREF(result);
        return 0;
    case PYGEN_ERROR:
    default:
        return end_with_exception(task);
    }
}

int
task_run(struct runnable *self, LoopObject *loop)
{
    TaskObject *task = (TaskObject *)self;
    task->queued = false;
    if (PL_UNLIKELY(task->status != TASK_PENDING)) {
        return 0;
    }
    int rc = run_step(task, loop);
    loop_end_step(loop);
    return rc;
}
