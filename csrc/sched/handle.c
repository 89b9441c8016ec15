/* Handles: making, running and cancelling them.  handle_type.c has what
 * Python sees of them. */
#include <Python.h>

#include "handle.h"

#include "compat.h"
#include "errors.h"

/* Handles that are kept for reuse: what one turn of a busy loop uses, at about
 * 130 bytes each. */
#define PL_MAX_FREE_HANDLES 2048

static int handle_run(struct runnable *self, LoopObject *loop);

/* --- making --- */

static int
handle_fill(HandleObject *self, LoopObject *loop, PyObject *callback,
            PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    self->head.run = handle_run;
    self->weakrefs = NULL;
    self->loop = (LoopObject *)Py_NewRef(loop);
    self->callback = Py_NewRef(callback);
    self->source_traceback = NULL;
    self->cancelled = false;
    self->running = false;
    self->nargs = 0;
    self->slots[0] = NULL;
    self->context = NULL;
    if (PL_LIKELY(nargs <= PL_HANDLE_INLINE_ARGS)) {
        for (int i = 0; i < nargs; i++) {
            self->slots[i + 1] = Py_NewRef(args[i]);
        }
        self->nargs = (int)nargs;
    }
    else {
        PyObject *tuple = PyTuple_New(nargs);
        if (tuple == NULL) {
            return -1;
        }
        for (Py_ssize_t i = 0; i < nargs; i++) {
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
        }
        self->slots[1] = tuple;
        self->nargs = -1;
    }
    if (context == NULL || context == Py_None) {
        self->context = PyContext_CopyCurrent();
        if (self->context == NULL) {
            return -1;
        }
    }
    else if (PL_UNLIKELY(!PyContext_CheckExact(context))) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context or None, not %R",
                     context);
        return -1;
    }
    else {
        self->context = Py_NewRef(context);
    }
    if (PL_UNLIKELY(loop->debug)) {
        self->source_traceback
            = PyObject_CallNoArgs(loop->state->extract_stack);
        if (self->source_traceback == NULL) {
            return -1;
        }
    }
    return 0;
}

/* A Handle to be used again, or NULL. */
static HandleObject *
take_free(struct module_state *state)
{
    HandleObject *self = state->handle_free;
    if (self != NULL) {
        state->handle_free = (HandleObject *)(void *)self->callback;
        state->n_handle_free--;
        object_revive((PyObject *)self, state->HandleType);
    }
    return self;
}

/* Frees the object of a Handle whose references are dropped. */
void
handle_give_back(HandleObject *self, PyTypeObject *type)
{
    struct module_state *state = self->loop->state;
    if (PL_FREELISTS && type == state->HandleType
        && state->n_handle_free < PL_MAX_FREE_HANDLES)
    {
        self->callback = (PyObject *)(void *)state->handle_free;
        state->handle_free = self;
        state->n_handle_free++;
    }
    else {
        PyObject_GC_Del(self);
    }
}

void
handle_free_all(struct module_state *state)
{
    while (state->handle_free != NULL) {
        HandleObject *self = state->handle_free;
        state->handle_free = (HandleObject *)(void *)self->callback;
        PyObject_GC_Del(self);
    }
    state->n_handle_free = 0;
}

/* A Handle that the garbage collector does not know. */
static HandleObject *
new_untracked(LoopObject *loop, PyObject *callback, PyObject *const *args,
              Py_ssize_t nargs, PyObject *context)
{
    HandleObject *self = take_free(loop->state);
    if (self == NULL) {
        self = PyObject_GC_New(HandleObject, loop->state->HandleType);
        if (self == NULL) {
            return NULL;
        }
    }
    if (handle_fill(self, loop, callback, args, nargs, context) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

HandleObject *
handle_new(LoopObject *loop, PyObject *callback, PyObject *const *args,
           Py_ssize_t nargs, PyObject *context)
{
    HandleObject *self = new_untracked(loop, callback, args, nargs, context);
    if (self != NULL) {
        PyObject_GC_Track(self);
    }
    return self;
}

HandleObject *
handle_call_soon(LoopObject *loop, PyObject *callback, PyObject *const *args,
                 Py_ssize_t nargs, PyObject *context)
{
    HandleObject *self = new_untracked(loop, callback, args, nargs, context);
    if (self == NULL) {
        return NULL;
    }
    /* A running loop, and with it all that is in its ready queue, cannot be
     * garbage, and most Handles do not live longer than that: the collector
     * need not look at them.  loop_run at its end and handle_run have those
     * tracked that do. */
    if (loop->thread_id == 0) {
        PyObject_GC_Track(self);
    }
    if (loop_push(loop, &self->head) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static void
timer_fire(PyObject *self, LoopObject *loop)
{
    loop_push_promised(loop, (struct runnable *)self);
}

TimerHandleObject *
handle_call_at(LoopObject *loop, int64_t deadline_ns, double when,
               PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
               PyObject *context)
{
    TimerHandleObject *self
        = PyObject_GC_New(TimerHandleObject, loop->state->TimerHandleType);
    if (self == NULL) {
        return NULL;
    }
    loop_timer_init(&self->timer);
    self->when = when;
    int rc = handle_fill(&self->base, loop, callback, args, nargs, context);
    PyObject_GC_Track(self);
    if (rc < 0
        || loop_timer_start(loop, &self->timer, (PyObject *)self, timer_fire,
                            deadline_ns)
               < 0)
    {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

/* --- running --- */

void
handle_clear_call(HandleObject *self)
{
    int n = self->nargs < 0 ? 1 : self->nargs;
    self->nargs = 0;
    PyObject *callback = self->callback;
    self->callback = NULL;
    for (int i = 1; i <= n; i++) {
        PyObject *arg = self->slots[i];
        self->slots[i] = NULL;
        Py_XDECREF(arg); /* call-out */
    }
    Py_XDECREF(callback);
}

/* A cancelled Handle lets go of what it would have called.  In debug mode it
 * still says what that was: the text is in the place of the arguments. */
static void
forget_call(HandleObject *self)
{
    PyObject *text = NULL;
    if (PL_UNLIKELY(self->loop->debug) && self->callback != NULL) {
        PyObject *pending = exception_take();
        text = handle_format_callback(self); /* call-out */
        PyErr_Clear();                       /* a repr that fails: no text */
        if (pending != NULL) {
            exception_put(pending);
        }
    }
    handle_clear_call(self); /* call-out */
    self->slots[1] = text;
    self->nargs = text != NULL;
}

/* Gives the current exception to the loop's exception handler, in asyncio's
 * words. */
static int
report_failure(HandleObject *self)
{
    LoopObject *loop = self->loop;
    struct module_state *state = loop->state;
    PyObject *exc = exception_take();
    PyObject *context = PyDict_New();
    PyObject *source = handle_format_callback(self);
    PyObject *message = NULL, *res = NULL;
    if (context != NULL && source == NULL && !errors_ends_loop()) {
        /* A repr that fails must not hide what the callback raised. */
        PyErr_Clear();
        source
            = PyUnicode_FromFormat("<%s>", Py_TYPE(self->callback)->tp_name);
    }
    if (context == NULL || source == NULL) {
        goto done;
    }
    message = PyUnicode_FromFormat("Exception in callback %U", source);
    if (message == NULL
        || PyDict_SetItem(context, state->str_message, message) < 0
        || PyDict_SetItem(context, state->str_exception, exc) < 0
        || PyDict_SetItem(context, state->str_handle, (PyObject *)self) < 0
        || (self->source_traceback != NULL
            && PyDict_SetItem(context, state->str_source_traceback,
                              self->source_traceback)
                   < 0))
    {
        goto done;
    }
    res = PyObject_CallMethodOneArg(
        (PyObject *)loop, state->str_call_exception_handler, context);
done:
    Py_XDECREF(exc);
    Py_XDECREF(context);
    Py_XDECREF(source);
    Py_XDECREF(message);
    if (res == NULL) {
        if (errors_ends_loop()) {
            return -1;
        }
        PyErr_WriteUnraisable((PyObject *)self);
        return 0;
    }
    Py_DECREF(res);
    return 0;
}

static PyObject *
call(HandleObject *self)
{
    if (PyContext_Enter(self->context) < 0) {
        return NULL;
    }
    PyObject *res;
    if (PL_LIKELY(self->nargs >= 0)) {
        res = PyObject_Vectorcall(
            self->callback, self->slots + 1,
            (size_t)self->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    else {
        res = PyObject_CallObject(self->callback, self->slots[1]);
    }
    if (PyContext_Exit(self->context) < 0) {
        Py_CLEAR(res);
    }
    return res;
}

int
handle_run_once(HandleObject *self)
{
    bool outer = self->running; /* by _run() in its own callback */
    self->running = true;
    PyObject *res = call(self);
    int rc = 0;
    if (res != NULL) {
        Py_DECREF(res);
    }
    else if (errors_ends_loop()) {
        rc = -1;
    }
    else {
        rc = report_failure(self);
    }
    self->running = outer;
    if (self->cancelled && !outer) {
        forget_call(self);
    }
    return rc;
}

/* In debug mode a callback that took long is logged, and what it reports says
 * where it was scheduled, as asyncio does. */
static int
run_in_debug(HandleObject *self)
{
    PyObject *loop = (PyObject *)self->loop;
    if (PyObject_SetAttrString(loop, "_current_handle", (PyObject *)self) < 0)
    {
        return -1;
    }
    int64_t started_ns = clock_monotonic_ns();
    int rc = handle_run_once(self);
    double seconds
        = (double)(clock_monotonic_ns() - started_ns) / (double)PL_NS_PER_SEC;
    PyObject *pending = exception_take();
    PyObject *logged
        = PyObject_CallMethod(loop, "_log_slow_callback", "Od", self, seconds);
    Py_XDECREF(logged);
    if (logged == NULL
        || PyObject_SetAttrString(loop, "_current_handle", Py_None) < 0)
    {
        rc = -1; /* as in asyncio, what the logging raises ends the loop */
    }
    if (pending != NULL) {
        PyErr_Clear();
        exception_put(pending);
    }
    return rc;
}

static int
handle_run(struct runnable *runnable, LoopObject *loop)
{
    HandleObject *self = (HandleObject *)runnable;
    int rc = 0;
    loop->ready.must_poll = true;
    loop_leave_task(loop); /* call-out: it may be a task's last reference */
    if (!self->cancelled && self->callback != NULL) {
        rc = PL_UNLIKELY(loop->debug) ? run_in_debug(self)
                                      : handle_run_once(self);
    }
    if (Py_REFCNT(self) > 1 && !PyObject_GC_IsTracked((PyObject *)self)) {
        /* Somebody keeps it. */
        PyObject_GC_Track(self);
    }
    return rc;
}

void
handle_cancel(HandleObject *self)
{
    if (self->cancelled) {
        return;
    }
    self->cancelled = true;
    Py_INCREF(self);
    if (Py_IS_TYPE(self, self->loop->state->TimerHandleType)) {
        loop_timer_stop(self->loop, &((TimerHandleObject *)self)->timer);
    }
    if (!self->running) {
        forget_call(self);
    }
    Py_DECREF(self);
}
