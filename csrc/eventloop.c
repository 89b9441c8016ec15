/* The C half of the Python type EventLoop: a method table and thin wrappers.
 *
 * pyloop.EventLoop inherits from this type first and from
 * asyncio.SelectorEventLoop second: what runs per event is here, what runs per
 * connection or less is the standard library's.  The engine is in
 * sched/loop.c. */
#include <Python.h>

#include <string.h>

#include "aio/methods.h"
#include "sched/asyncio_compat.h"
#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/loop.h"
#include "sched/poller_selector.h"
#include "sched/task.h"

/* --- life --- */

static PyObject *
Loop_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
            PyObject *Py_UNUSED(kwargs))
{
    LoopObject *self = (LoopObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    list_init(&self->tasks.live);
    self->state = state_of((PyObject *)self);
    if (self->state == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
Loop_tp_traverse(LoopObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    int rc = loop_traverse(self, visit, arg);
    return rc ? rc : task_list_traverse(self, visit, arg);
}

static int
Loop_tp_clear(LoopObject *self)
{
    if (self->thread_id != 0) {
        return 0;
    }
    task_list_release(self);
    loop_release(self);
    Py_CLEAR(self->signals.handlers);
    Py_CLEAR(self->tasks.failed);
    Py_CLEAR(self->tasks.plain_waiters);
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->selector);
    return 0;
}

static void
Loop_tp_dealloc(LoopObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    self->thread_id = 0; /* nothing runs what nobody refers to */
    (void)Loop_tp_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

PyDoc_STRVAR(Loop__init_core_doc,
             "_init_core($self, backend, /)\n--\n\n"
             "Make the reactor; backend is a name or None.");

static PyObject *
Loop__init_core(LoopObject *self, PyObject *backend)
{
    const char *name = NULL;
    if (backend != Py_None) {
        if (!PyUnicode_Check(backend)) {
            errors_bad_type(backend, "backend must be a str or None");
            return NULL;
        }
        Py_ssize_t length;
        name = PyUnicode_AsUTF8AndSize(backend, &length);
        if (name == NULL) {
            return NULL;
        }
        if (strlen(name) != (size_t)length) {
            PyErr_Format(PyExc_ValueError,
                         "backend must not contain a null character: %R",
                         backend);
            return NULL;
        }
    }
    if (self->initialised) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the event loop is initialised already");
        return NULL;
    }
    if (loop_init(self, name) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop__init_on_selector_doc,
             "_init_on_selector($self, selector, /)\n--\n\n"
             "Make the reactor; it drives the selectors.BaseSelector.");

static PyObject *
Loop__init_on_selector(LoopObject *self, PyObject *selector)
{
    if (self->initialised) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the event loop is initialised already");
        return NULL;
    }
    struct poller *poller = poller_selector_new(self);
    if (poller == NULL) {
        return PyErr_NoMemory();
    }
    Py_XSETREF(self->selector, Py_NewRef(selector));
    if (loop_init_with(self, &poller_selector_ops, poller) < 0) {
        poller_selector_ops.destroy(poller);
        Py_CLEAR(self->selector);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop__check_may_close_doc,
             "_check_may_close($self, /)\n--\n\n"
             "Raise RuntimeError if close() would be refused now.");

static PyObject *
Loop__check_may_close(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (loop_is_running(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Cannot close a running event loop");
        return NULL;
    }
    if (self->in_selector || self->in_show) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Cannot close the event loop from within its "
                        "selector");
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop__release_core_doc,
             "_release_core($self, /)\n--\n\n"
             "Mark the loop closed and release all it holds.");

static PyObject *
Loop__release_core(LoopObject *self, PyObject *ignored)
{
    PyObject *res = Loop__check_may_close(self, ignored);
    if (res == NULL) {
        return NULL;
    }
    Py_DECREF(res);
    Py_INCREF(self);
    task_list_release(self);
    self->closed = true;
    loop_release(self);
    Py_CLEAR(self->signals.handlers);
    Py_CLEAR(self->tasks.failed);
    Py_CLEAR(self->tasks.plain_waiters);
    Py_DECREF(self);
    Py_RETURN_NONE;
}

/* --- running --- */

static int
check_may_run(LoopObject *self)
{
    if (loop_check_usable(self) < 0) {
        return -1;
    }
    if (loop_is_running(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "This event loop is already running");
        return -1;
    }
    PyObject *other = asyncio_get_running_loop(self->state);
    if (other == NULL) {
        return -1;
    }
    bool is_none = other == Py_None;
    Py_DECREF(other);
    if (!is_none) {
        PyErr_SetString(
            PyExc_RuntimeError,
            "Cannot run the event loop while another loop is running");
        return -1;
    }
    return 0;
}

/* Installs our asyncgen hooks; *old is the former pair. */
static int
enter_asyncgen_hooks(LoopObject *self, PyObject **old)
{
    struct module_state *state = self->state;
    *old = PyObject_CallNoArgs(state->get_asyncgen_hooks);
    if (*old == NULL) {
        return -1;
    }
    PyObject *hooks[2] = {
        PyObject_GetAttr((PyObject *)self,
                         state->str__asyncgen_firstiter_hook),
        PyObject_GetAttr((PyObject *)self,
                         state->str__asyncgen_finalizer_hook),
    };
    PyObject *res = NULL;
    if (hooks[0] != NULL && hooks[1] != NULL) {
        res = PyObject_Vectorcall(state->set_asyncgen_hooks, hooks, 0,
                                  state->kwnames_hooks);
    }
    Py_XDECREF(hooks[0]);
    Py_XDECREF(hooks[1]);
    Py_XDECREF(res);
    if (res == NULL) {
        Py_CLEAR(*old);
        return -1;
    }
    return 0;
}

static int
leave_asyncgen_hooks(LoopObject *self, PyObject *old)
{
    PyObject *hooks[2]
        = {PySequence_GetItem(old, 0), PySequence_GetItem(old, 1)};
    PyObject *res = NULL;
    if (hooks[0] != NULL && hooks[1] != NULL) {
        res = PyObject_Vectorcall(self->state->set_asyncgen_hooks, hooks, 0,
                                  self->state->kwnames_hooks);
    }
    Py_XDECREF(hooks[0]);
    Py_XDECREF(hooks[1]);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

static int
track_origins(LoopObject *self, bool enabled)
{
    PyObject *res = PyObject_CallMethod((PyObject *)self,
                                        "_set_coroutine_origin_tracking", "O",
                                        enabled ? Py_True : Py_False);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* How often what must be undone is tried: an allocation may fail once and
 * succeed when it is repeated. */
#define PL_UNDO_TRIES 8

/* Whether an undoing that failed is to be repeated; else it was reported. */
static bool
undo_again(LoopObject *self, int *n_tries)
{
    if (++*n_tries < PL_UNDO_TRIES
        && PyErr_ExceptionMatches(PyExc_MemoryError))
    {
        PyErr_Clear();
        return true;
    }
    PyErr_WriteUnraisable((PyObject *)self);
    return false;
}

/* A loop that is left as the running one would keep every other loop of this
 * thread from running. */
static void
leave_asyncio(LoopObject *self, PyObject *old_hooks)
{
    int n_tries = 0;
    while (asyncio_set_running_loop(self->state, Py_None) < 0
           && undo_again(self, &n_tries))
    {
    }
    n_tries = 0;
    while (leave_asyncgen_hooks(self, old_hooks) < 0
           && undo_again(self, &n_tries))
    {
    }
    n_tries = 0;
    while (self->debug && track_origins(self, false) < 0
           && undo_again(self, &n_tries))
    {
    }
}

/* Enters asyncio's per-thread state, runs, and leaves it whatever happened. */
static enum loop_exit
run_inside_asyncio(LoopObject *self, enum loop_mode mode)
{
    PyObject *old_hooks;
    if (check_may_run(self) < 0 || enter_asyncgen_hooks(self, &old_hooks) < 0)
    {
        return LOOP_EXIT_ERROR;
    }
    enum loop_exit reason = LOOP_EXIT_ERROR;
    if ((!self->debug || track_origins(self, true) == 0)
        && asyncio_set_running_loop(self->state, (PyObject *)self) == 0)
    {
        reason = loop_run(self, mode);
    }
    PyObject *pending = exception_take();
    leave_asyncio(self, old_hooks);
    Py_DECREF(old_hooks);
    if (pending != NULL) {
        exception_put(pending);
    }
    return reason;
}

PyDoc_STRVAR(Loop_run_forever_doc,
             "run_forever($self, /)\n--\n\n"
             "Run until stop() is called.\n\n"
             "Raises:\n"
             "    RuntimeError: it is running or closed, or another loop runs "
             "in this thread.\n"
             "    OSError: waiting for events failed.");

static PyObject *
Loop_run_forever(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (run_inside_asyncio(self, LOOP_MODE_FOREVER) == LOOP_EXIT_ERROR) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop__run_tasks_doc,
             "_run_tasks($self, may_wait, /)\n--\n\n"
             "Run until no native task is left.\n\n"
             "Returns:\n"
             "    'stopped', 'ended', 'failed' (a root task raised) or "
             "'stuck' (nothing in this thread can go on; with may_wait it "
             "sleeps once nevertheless).");

static PyObject *
Loop__run_tasks(LoopObject *self, PyObject *may_wait)
{
    static const char *const names[] = {"stopped", "ended", "failed", "stuck"};
    enum loop_exit reason = run_inside_asyncio(
        self, may_wait == Py_True ? LOOP_MODE_TASKS_WAIT : LOOP_MODE_TASKS);
    return reason == LOOP_EXIT_ERROR ? NULL
                                     : PyUnicode_FromString(names[reason]);
}

PyDoc_STRVAR(Loop__is_stuck_doc,
             "_is_stuck($self, /)\n--\n\n"
             "Return whether nothing but another thread can make a task "
             "ready.");

static PyObject *
Loop__is_stuck(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (loop_check_usable(self) < 0) {
        return NULL;
    }
    return PyBool_FromLong(loop_is_stuck(self));
}

PyDoc_STRVAR(Loop_stop_doc,
             "stop($self, /)\n--\n\n"
             "Make run_forever() return after the present turn.");

static PyObject *
Loop_stop(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    loop_stop(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop_is_running_doc, "is_running($self, /)\n--\n\n"
                                  "Return True while the loop runs.");

static PyObject *
Loop_is_running(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(loop_is_running(self));
}

PyDoc_STRVAR(Loop_is_closed_doc, "is_closed($self, /)\n--\n\n"
                                 "Return True after close().");

/* Where __init__ did not come to making anything there is nothing to close
 * either, and asyncio's __del__ has nothing to warn about. */
static PyObject *
Loop_is_closed(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->closed || !self->initialised);
}

PyDoc_STRVAR(Loop_time_doc,
             "time($self, /)\n--\n\n"
             "Return the loop's time in seconds: time.monotonic().");

static PyObject *
Loop_time(LoopObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble((double)clock_monotonic_ns()
                              / (double)PL_NS_PER_SEC);
}

PyDoc_STRVAR(Loop_get_debug_doc, "get_debug($self, /)\n--\n\n"
                                 "Return True in debug mode.");

static PyObject *
Loop_get_debug(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->debug);
}

PyDoc_STRVAR(Loop__check_closed_doc,
             "_check_closed($self, /)\n--\n\n"
             "Raise RuntimeError if the loop is closed.");

static PyObject *
Loop__check_closed(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closed) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- attributes; asyncio's base class assigns some of them --- */

static PyObject *
Loop_get_thread_id(LoopObject *self, void *Py_UNUSED(closure))
{
    if (!loop_is_running(self)) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(self->thread_id);
}

static int
Loop_set_thread_id(LoopObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || value == Py_None) {
        self->thread_id = 0;
        return 0;
    }
    unsigned long id = PyLong_AsUnsignedLong(value);
    if (id == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    self->thread_id = id;
    return 0;
}

static int
set_flag(bool *flag, PyObject *value)
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    *flag = truth;
    return 0;
}

static PyObject *
Loop_get_closed(LoopObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->closed);
}

static int
Loop_set_closed(LoopObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    return set_flag(&self->closed, value);
}

static PyObject *
Loop_get_stopping(LoopObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->stopping);
}

static int
Loop_set_stopping(LoopObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    return set_flag(&self->stopping, value);
}

static PyObject *
Loop_get_debug_attr(LoopObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->debug);
}

static int
Loop_set_debug_attr(LoopObject *self, PyObject *value,
                    void *Py_UNUSED(closure))
{
    return set_flag(&self->debug, value);
}

static PyObject *
Loop_get_task_factory(LoopObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->task_factory != NULL ? self->task_factory
                                                : Py_None);
}

static int
Loop_set_task_factory(LoopObject *self, PyObject *value,
                      void *Py_UNUSED(closure))
{
    Py_XSETREF(self->task_factory,
               value == Py_None ? NULL : Py_XNewRef(value));
    return 0;
}

static PyObject *
Loop_get_backend(LoopObject *self, void *Py_UNUSED(closure))
{
    if (self->reactor == NULL) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(self->reactor->ops->name);
}

#define LOOP_FASTCALL(name) \
    {#name, (PyCFunction)(void (*)(void))Loop_##name, \
     METH_FASTCALL | METH_KEYWORDS, Loop_##name##_doc}
#define LOOP_NOARGS(name) \
    {#name, (PyCFunction)Loop_##name, METH_NOARGS, Loop_##name##_doc}
#define LOOP_O(name) \
    {#name, (PyCFunction)Loop_##name, METH_O, Loop_##name##_doc}

static PyMethodDef Loop_methods[] = {
    LOOP_O(_init_core),
    LOOP_O(_init_on_selector),
    LOOP_NOARGS(_check_may_close),
    LOOP_NOARGS(_release_core),
    LOOP_NOARGS(run_forever),
    LOOP_O(_run_tasks),
    LOOP_NOARGS(_is_stuck),
    LOOP_NOARGS(stop),
    LOOP_NOARGS(is_running),
    LOOP_NOARGS(is_closed),
    LOOP_NOARGS(time),
    LOOP_NOARGS(get_debug),
    LOOP_NOARGS(_check_closed),
    LOOP_FASTCALL(call_soon),
    LOOP_FASTCALL(call_soon_threadsafe),
    LOOP_FASTCALL(call_later),
    LOOP_FASTCALL(call_at),
    LOOP_FASTCALL(_add_reader),
    LOOP_FASTCALL(_add_writer),
    LOOP_O(_remove_reader),
    LOOP_O(_remove_writer),
    LOOP_O(_waiters),
    LOOP_O(close_socket),
    LOOP_FASTCALL(_listen),
    LOOP_O(_transport_at),
    LOOP_FASTCALL(sock_recv),
    LOOP_FASTCALL(sock_recv_into),
    LOOP_FASTCALL(sock_recvfrom),
    LOOP_FASTCALL(sock_recvfrom_into),
    LOOP_FASTCALL(sock_sendall),
    LOOP_FASTCALL(sock_sendto),
    LOOP_FASTCALL(sock_accept),
    LOOP_FASTCALL(sock_connect),
    LOOP_FASTCALL(create_task),
    LOOP_NOARGS(create_future),
    LOOP_FASTCALL(_create_native_task),
    LOOP_NOARGS(_native_tasks),
    LOOP_O(_is_root),
    LOOP_NOARGS(_close_native_tasks),
    LOOP_O(_describe_task),
    LOOP_NOARGS(_take_failed),
    LOOP_FASTCALL(_add_signal),
    LOOP_O(_remove_signal),
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Loop_backend_doc,
             "Name of the poller backend; None when closed.");

static PyGetSetDef Loop_getset[] = {
    {"_thread_id", (getter)Loop_get_thread_id, (setter)Loop_set_thread_id,
     NULL, NULL},
    {"_closed", (getter)Loop_get_closed, (setter)Loop_set_closed, NULL, NULL},
    {"_stopping", (getter)Loop_get_stopping, (setter)Loop_set_stopping, NULL,
     NULL},
    {"_debug", (getter)Loop_get_debug_attr, (setter)Loop_set_debug_attr, NULL,
     NULL},
    {"_task_factory", (getter)Loop_get_task_factory,
     (setter)Loop_set_task_factory, NULL, NULL},
    {"backend", (getter)Loop_get_backend, NULL, Loop_backend_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(Loop_doc, "The C half of pyloop.EventLoop.");

static PyType_Slot Loop_slots[] = {
    {Py_tp_doc, (void *)Loop_doc},
    {Py_tp_new, Loop_tp_new},
    {Py_tp_dealloc, Loop_tp_dealloc},
    {Py_tp_traverse, Loop_tp_traverse},
    {Py_tp_clear, Loop_tp_clear},
    {Py_tp_methods, Loop_methods},
    {Py_tp_getset, Loop_getset},
    {Py_tp_hash, loop_hash},
    {0, NULL},
};

static PyType_Spec Loop_spec = {
    .name = "pyloop._core.LoopCore",
    .basicsize = sizeof(LoopObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Loop_slots,
};

int
eventloop_init(PyObject *module, struct module_state *state)
{
    if (loop_watch_forks() < 0) {
        return -1;
    }
    return state_add_type(module, &state->LoopType, &Loop_spec, "LoopCore");
}
