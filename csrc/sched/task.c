/* The life of a task: made, cancelled, joined, ended.  See task.h; the Python
 * type is in task_type.c, how a task is stepped in step.c. */
#include <Python.h>

#include "task.h"

#include <string.h>

#include "compat.h"
#include "errors.h"

/* Tasks that are kept for reuse, at about 300 bytes each. */
#define PL_MAX_FREE_TASKS 128

/* --- making --- */

static inline bool
is_of_python(PyObject *coro)
{
    return PyCoro_CheckExact(coro) || PyGen_CheckExact(coro);
}

/* 1, 0, or -1 with an exception.  Coroutines that are not Python's own (those
 * of Cython ...) are known by collections.abc. */
static int
is_coroutine_like(struct module_state *state, PyObject *coro)
{
    return is_of_python(coro) || op_check(state, coro)
               ? 1
               : PyObject_IsInstance(coro, state->Coroutine);
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
    if (PL_UNLIKELY(!is_of_python(coro))) {
        return true; /* as far as anybody can know */
    }
#if PY_VERSION_HEX < 0x030E0000
    return ((PyGenObject *)coro)->gi_frame_state == state->frame_state_created;
#else
    if (flag_is_set(coro, state->str_cr_running, state->str_gi_running)
        || flag_is_set(coro, state->str_cr_suspended, state->str_gi_suspended))
    {
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
    int is_like = is_coroutine_like(state, coro);
    if (PL_UNLIKELY(is_like < 0)) {
        return -1;
    }
    if (PL_UNLIKELY(is_like == 0)) {
        const char *hint
            = PyCallable_Check(coro)
                  ? "; call the async function to get its coroutine"
                  : "";
        PyObject *shown = errors_show(coro);
        if (shown != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s needs a coroutine or generator, not %.200s "
                         "(%U)%s",
                         who, Py_TYPE(coro)->tp_name, shown, hint);
            Py_DECREF(shown);
        }
        return -1;
    }
    if (PL_LIKELY(task_coroutine_is_fresh(state, coro))) {
        return 0;
    }
    const char *what = "has already ended";
    if (op_check(state, coro)) {
        if (((OpObject *)coro)->status != OP_DONE) {
            what = "is being awaited already";
        }
    }
    else {
        if (flag_is_set(coro, state->str_cr_running, state->str_gi_running)) {
            what = "is running already";
        }
        else if (flag_is_set(coro, state->str_cr_suspended,
                             state->str_gi_suspended))
        {
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
    TaskObject *task = state->task_free;
    if (task != NULL) {
        state->task_free = (TaskObject *)(void *)task->coro;
        state->n_task_free--;
        object_revive((PyObject *)task, state->TaskType);
    }
    else {
        task = PyObject_GC_New(TaskObject, state->TaskType);
        if (task == NULL) {
            return NULL;
        }
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
    task->context
        = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    PyObject_GC_Track(task);
    task->queued = true;
    if (task->context == NULL || loop_promise(loop) < 0) {
        task->status = TASK_CANCELLED; /* never was */
        Py_DECREF(task);
        return NULL;
    }
    (void)loop_push_own(loop, &task->head);
    Py_INCREF(task);
    list_append(&loop->tasks.live, &task->live);
    loop->tasks.n_live++;
    if (is_root) {
        task->is_root = true;
        loop->tasks.n_roots++;
    }
    return task;
}

void
task_free(TaskObject *task, bool may_reuse)
{
    LoopObject *loop = task->loop;
    struct module_state *state = loop->state;
    task->loop = NULL;
    if (PL_FREELISTS && may_reuse && state->n_task_free < PL_MAX_FREE_TASKS
        && state->TaskType == Py_TYPE(task))
    {
        task->coro = (PyObject *)(void *)state->task_free;
        state->task_free = task;
        state->n_task_free++;
    }
    else {
        PyObject_GC_Del(task);
    }
    Py_DECREF(loop); /* call-out: last, it may free everything */
}

void
task_free_all(struct module_state *state)
{
    while (state->task_free != NULL) {
        TaskObject *task = state->task_free;
        state->task_free = (TaskObject *)(void *)task->coro;
        PyObject_GC_Del(task);
    }
    state->n_task_free = 0;
}

int
task_wake(TaskObject *task)
{
    if (task->queued || task->status != TASK_PENDING) {
        return 0;
    }
    if (loop_push_own(task->loop, &task->head) < 0) {
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
    for (Py_ssize_t i = 0; callbacks != NULL && i < PyList_GET_SIZE(callbacks);
         i++)
    {
        PyObject *handle = PyList_GET_ITEM(callbacks, i);
        loop_push_promised(task->loop, (struct runnable *)Py_NewRef(handle));
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
    }
    else {
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
        loop_unpromise(loop);
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
task_commit_cancel(TaskObject *task, PyObject *message)
{
    OpObject *op = (OpObject *)Py_NewRef(task->waiting_on);
    Py_XSETREF(task->cancel_message, Py_XNewRef(message)); /* call-out */
    PyObject *exc = task_make_cancelled(task);             /* call-out: GC */
    if (exc != NULL) {
        Py_XSETREF(task->pending_exception, exc);
        task->must_cancel = false;
        op_disarm(op); /* call-out */
    }
    Py_DECREF(op);
    return exc != NULL ? task_wake(task) : -1;
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
        return task_commit_cancel(task, message) < 0 ? -1 : 1;
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

void
task_undo_wait(TaskObject *task)
{
    if (task->waiting_on == NULL || task->waits_foreign) {
        return;
    }
    OpObject *op = (OpObject *)Py_NewRef(task->waiting_on);
    if (task->trapped) {
        op_give_up(op); /* call-out */
    }
    else {
        op_disarm(op); /* call-out */
    }
    Py_DECREF(op);
}

static const struct op_kind op_kind_join;

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

/* A future of asyncio's that is done has woken the task, unless it had no
 * memory to: then nobody else will.  1, or -1 with an exception. */
static int
wake_if_forgotten(TaskObject *task)
{
    PyObject *future = task->waiting_on;
    PyTypeObject *type = (PyTypeObject *)task->loop->state->AsyncioFuture;
    if (PL_LIKELY(task->queued) || future == NULL || !task->waits_foreign
        || !PyObject_TypeCheck(future, type))
    {
        return 1;
    }
    Py_INCREF(future);
    PyObject *res = PyObject_CallMethodNoArgs(
        future, task->loop->state->str_done); /* call-out */
    Py_DECREF(future);
    int is_done = res != NULL ? PyObject_IsTrue(res) : -1;
    Py_XDECREF(res);
    if (is_done <= 0) {
        return is_done == 0 ? 1 : -1;
    }
    return task_wake(task) < 0 ? -1 : 1;
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
    return wake_if_forgotten(task);
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
        if (next == NULL || next->in_cancel || next->status != TASK_PENDING) {
            break;
        }
        last = next;
    }
    for (next = task; next != NULL && next->in_cancel;
         next = joined_task(next))
    {
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

/* --- its result and name --- */

PyObject *
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
        if (PyException_SetTraceback(
                exc, task->traceback != NULL ? task->traceback : Py_None)
            < 0)
        {
            Py_DECREF(exc);
            return NULL;
        }
        exception_put(exc);
        return NULL;
    }
    return Py_NewRef(task->result);
}

PyObject *
task_name(TaskObject *task)
{
    if (task->name == NULL) {
        task->name = PyUnicode_FromFormat("Task-%llu",
                                          (unsigned long long)task->number);
    }
    return Py_XNewRef(task->name);
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
    }
    else if (task->waits_foreign) {
        what = PyUnicode_FromFormat("waits for %R", task->waiting_on);
    }
    else {
        PyObject *op = op_describe((OpObject *)task->waiting_on);
        what = op != NULL ? PyUnicode_FromFormat("waits in %U", op) : NULL;
        Py_XDECREF(op);
    }
    PyObject *text = what != NULL ? PyUnicode_FromFormat("%U (%R) %U", name,
                                                         task->coro, what)
                                  : NULL;
    Py_DECREF(name);
    Py_XDECREF(what);
    return text;
}

/* --- join: awaiting a task --- */

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

static const struct op_kind op_kind_join = {
    .name = "join",
    .cancel = join_cancel,
    .attempt = join_attempt,
    .arm = join_arm,
    .disarm = join_disarm,
    .unmetered = true,
};

PyObject *
task_join(TaskObject *task)
{
    OpObject *op = op_new(task->loop->state, &op_kind_join);
    if (op == NULL) {
        return NULL;
    }
    list_init(&op->u.queue.link);
    op->object = Py_NewRef((PyObject *)task);
    return (PyObject *)op;
}

/* --- all tasks of a loop --- */

int
task_list_traverse(LoopObject *loop, visitproc visit, void *arg)
{
    struct list *head = &loop->tasks.live;
    if (head->next == NULL) {
        return 0; /* never initialised */
    }
    for (struct list *node = list_first(head); node != NULL;
         node = list_next(head, node))
    {
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
        task_undo_wait(task); /* call-out */
        if (task->started && task->log_destroy_pending
            && loop_report(loop, "Task was destroyed but it is pending!",
                           loop->state->str_task, (PyObject *)task)
                   < 0)
        {
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

/* The number by which this interpreter marks a generator that has not
 * started, read off one. */
int
task_probe_fresh_state(struct module_state *state)
{
#if PY_VERSION_HEX < 0x030E0000
    PyObject *globals = PyDict_New();
    if (globals == NULL
        || PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins())
               < 0)
    {
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
