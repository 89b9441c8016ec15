/* The C half of the Python type EventLoop: a method table and thin wrappers.
 *
 * pyloop.EventLoop inherits from this type first and from
 * asyncio.SelectorEventLoop second: what runs per event is here, what runs per
 * connection or less is the standard library's.  The engine is in
 * sched/loop.c. */
#include <Python.h>

#include <math.h>

#include "sched/args.h"
#include "sched/asyncio_compat.h"
#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/handle.h"
#include "sched/loop.h"
#include "sched/sockfd.h"
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
    Py_CLEAR(self->selector);
    return 0;
}

static void
Loop_tp_dealloc(LoopObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)Loop_tp_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

PyDoc_STRVAR(Loop_init_core_doc,
             "_init_core($self, backend, /)\n--\n\n"
             "Make the reactor; backend is a name or None.");

static PyObject *
Loop__init_core(LoopObject *self, PyObject *backend)
{
    const char *name = NULL;
    if (backend != Py_None) {
        if (!PyUnicode_Check(backend)) {
            PyErr_Format(PyExc_TypeError,
                         "backend must be a str or None, not %.200s (%R)",
                         Py_TYPE(backend)->tp_name, backend);
            return NULL;
        }
        name = PyUnicode_AsUTF8(backend);
        if (name == NULL) {
            return NULL;
        }
        if (name[0] == '\0') {
            PyErr_SetString(PyExc_ValueError,
                            "backend must be 'epoll' or 'poll', got ''");
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

PyDoc_STRVAR(Loop_release_core_doc,
             "_release_core($self, /)\n--\n\n"
             "Mark the loop closed and release all it holds.");

static PyObject *
Loop__release_core(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
        return NULL;
    }
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
    if (self->thread_id != 0) {
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
    PyObject *hooks[2] = {PySequence_GetItem(old, 0),
                          PySequence_GetItem(old, 1)};
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
    PyObject *res
        = PyObject_CallMethod((PyObject *)self,
                              "_set_coroutine_origin_tracking", "O",
                              enabled ? Py_True : Py_False);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* Enters asyncio's per-thread state, runs, and leaves it whatever happened. */
static enum loop_exit
run_inside_asyncio(LoopObject *self, enum loop_mode mode)
{
    PyObject *old_hooks;
    if (check_may_run(self) < 0
        || (self->debug && track_origins(self, true) < 0)
        || enter_asyncgen_hooks(self, &old_hooks) < 0) {
        return LOOP_EXIT_ERROR;
    }
    enum loop_exit reason = LOOP_EXIT_ERROR;
    if (asyncio_set_running_loop(self->state, (PyObject *)self) == 0) {
        reason = loop_run(self, mode);
    }
    PyObject *pending = exception_take();
    if (asyncio_set_running_loop(self->state, Py_None) < 0
        || leave_asyncgen_hooks(self, old_hooks) < 0
        || (self->debug && track_origins(self, false) < 0)) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
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

PyDoc_STRVAR(Loop_run_tasks_doc,
             "_run_tasks($self, may_wait, /)\n--\n\n"
             "Run until no native task is left.\n\n"
             "Returns:\n"
             "    'stopped', 'ended', 'failed' (a root task raised) or "
             "'stuck' (nothing in this thread can go on; with may_wait it "
             "sleeps once nevertheless).");

static PyObject *
Loop__run_tasks(LoopObject *self, PyObject *may_wait)
{
    static const char *const names[]
        = {"stopped", "ended", "failed", "stuck"};
    enum loop_exit reason = run_inside_asyncio(
        self,
        may_wait == Py_True ? LOOP_MODE_TASKS_WAIT : LOOP_MODE_TASKS);
    return reason == LOOP_EXIT_ERROR ? NULL
                                     : PyUnicode_FromString(names[reason]);
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
    return PyBool_FromLong(self->thread_id != 0);
}

PyDoc_STRVAR(Loop_is_closed_doc, "is_closed($self, /)\n--\n\n"
                                 "Return True after close().");

static PyObject *
Loop_is_closed(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->closed);
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

PyDoc_STRVAR(Loop_check_closed_doc,
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

/* --- callbacks --- */

/* What call_soon(callback, *args, context=None) and its like were given. */
struct call {
    PyObject *callback;
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *context; /* NULL: a copy of the current one */
};

/* `skip` leading positional arguments belong to the caller. */
static int
parse_call(struct call *call, const char *who, Py_ssize_t skip,
           PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (PL_UNLIKELY(nargs <= skip)) {
        PyErr_Format(PyExc_TypeError,
                     "%s() missing required argument 'callback' (pos %zd)",
                     who, skip + 1);
        return -1;
    }
    call->callback = args[skip];
    call->args = args + skip + 1;
    call->nargs = nargs - skip - 1;
    call->context = NULL;
    if (kwnames == NULL) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(name, "context") != 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'", who,
                         name);
            return -1;
        }
        call->context = args[nargs + i];
    }
    return 0;
}

/* asyncio's checks in debug mode: the right thread, a callback that can be
 * called. */
static int
debug_checks(LoopObject *self, PyObject *callback, const char *method,
             bool any_thread)
{
    if (!any_thread) {
        PyObject *res = PyObject_CallMethodNoArgs(
            (PyObject *)self, self->state->str__check_thread);
        Py_XDECREF(res);
        if (res == NULL) {
            return -1;
        }
    }
    PyObject *name = PyUnicode_FromString(method);
    if (name == NULL) {
        return -1;
    }
    PyObject *res = PyObject_CallMethodObjArgs(
        (PyObject *)self, self->state->str__check_callback, callback, name,
        NULL);
    Py_DECREF(name);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

PyDoc_STRVAR(Loop_call_soon_doc,
             "call_soon($self, /, callback, *args, context=None)\n--\n\n"
             "Call callback(*args) in the next turn of the loop.\n\n"
             "Returns:\n    A Handle, which can be cancelled.");

static PyObject *
Loop_call_soon(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    struct call call;
    if (loop_check_usable(self) < 0
        || parse_call(&call, "call_soon", 0, args, nargs, kwnames) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_soon", false) < 0)) {
        return NULL;
    }
    /* A native task that waits for an asyncio future is queued itself: no
     * Handle. */
    int taken = task_wakeup_accept(self->state, call.callback);
    if (taken != 0) {
        return taken < 0 ? NULL : Py_NewRef(Py_None);
    }
    return (PyObject *)handle_call_soon(self, call.callback, call.args,
                                        call.nargs, call.context);
}

PyDoc_STRVAR(Loop_call_soon_threadsafe_doc,
             "call_soon_threadsafe($self, /, callback, *args, context=None)\n"
             "--\n\n"
             "call_soon() for other threads: wakes the loop if it sleeps.");

static PyObject *
Loop_call_soon_threadsafe(LoopObject *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames)
{
    struct call call;
    if (loop_check_usable(self) < 0
        || parse_call(&call, "call_soon_threadsafe", 0, args, nargs, kwnames)
               < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_soon_threadsafe", true)
                   < 0)) {
        return NULL;
    }
    HandleObject *handle = handle_call_soon(self, call.callback, call.args,
                                            call.nargs, call.context);
    if (handle != NULL) {
        loop_wake(self);
    }
    return (PyObject *)handle;
}

/* Seconds -> nanoseconds, rounded up (never early), saturating. */
static int64_t
ceil_ns(double seconds)
{
    double ns = ceil(seconds * (double)PL_NS_PER_SEC);
    if (!(ns < 9.2e18)) {
        return PL_FOREVER;
    }
    return ns > -9.2e18 ? (int64_t)ns : INT64_MIN;
}

static int
parse_seconds(PyObject *const *args, Py_ssize_t nargs, const char *who,
              const char *what, double *out)
{
    if (nargs < 1) {
        PyErr_Format(PyExc_TypeError,
                     "%s() missing required argument '%s' (pos 1)", who,
                     what);
        return -1;
    }
    if (args[0] == Py_None) {
        PyErr_Format(PyExc_TypeError, "%s %s be None", what,
                     what[0] == 'd' ? "must not" : "cannot");
        return -1;
    }
    *out = PyFloat_AsDouble(args[0]);
    return *out == -1.0 && PyErr_Occurred() ? -1 : 0;
}

PyDoc_STRVAR(Loop_call_later_doc,
             "call_later($self, /, delay, callback, *args, context=None)\n"
             "--\n\n"
             "Call callback(*args) after `delay` seconds, never earlier.\n\n"
             "Returns:\n    A TimerHandle, which can be cancelled.");

static PyObject *
Loop_call_later(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    struct call call;
    double delay;
    if (loop_check_usable(self) < 0
        || parse_seconds(args, nargs, "call_later", "delay", &delay) < 0
        || parse_call(&call, "call_later", 1, args, nargs, kwnames) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_later", false) < 0)) {
        return NULL;
    }
    int64_t now_ns = clock_monotonic_ns();
    double when = (double)now_ns / (double)PL_NS_PER_SEC + delay;
    int64_t delay_ns = ceil_ns(delay);
    int64_t deadline_ns
        = delay_ns > 0 ? loop_deadline_ns(now_ns, delay_ns) : now_ns;
    return (PyObject *)handle_call_at(self, deadline_ns, when, call.callback,
                                      call.args, call.nargs, call.context);
}

PyDoc_STRVAR(Loop_call_at_doc,
             "call_at($self, /, when, callback, *args, context=None)\n--\n\n"
             "Call callback(*args) at the loop time `when`, in seconds, never "
             "earlier.\n\n"
             "Returns:\n    A TimerHandle, which can be cancelled.");

static PyObject *
Loop_call_at(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    struct call call;
    double when;
    if (loop_check_usable(self) < 0
        || parse_seconds(args, nargs, "call_at", "when", &when) < 0
        || parse_call(&call, "call_at", 1, args, nargs, kwnames) < 0
        || (PL_UNLIKELY(self->debug)
            && debug_checks(self, call.callback, "call_at", false) < 0)) {
        return NULL;
    }
    return (PyObject *)handle_call_at(self, ceil_ns(when), when,
                                      call.callback, call.args, call.nargs,
                                      call.context);
}

/* --- readers and writers --- */

static PyObject *
add_watcher(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames, int side, const char *who)
{
    struct call call;
    if (loop_check_usable(self) < 0
        || parse_call(&call, who, 1, args, nargs, kwnames) < 0) {
        return NULL;
    }
    int fd = sockfd_of_fileobj(self->state, args[0], who);
    if (fd < 0) {
        return NULL;
    }
    HandleObject *handle = handle_new(self, call.callback, call.args,
                                      call.nargs, call.context);
    if (handle == NULL) {
        return NULL;
    }
    bool is_persistent = false;
    if (loop_watcher(self, fd, side, &is_persistent) != NULL
        && is_persistent) {
        HandleObject *old = (HandleObject *)loop_unwatch(self, fd, side);
        handle_cancel(old);
        Py_DECREF(old);
    }
    PyObject *owner = PyLong_Check(args[0]) ? NULL : args[0];
    PyObject *taken;
    int rc = loop_watch(self, fd, owner, side, (PyObject *)handle, true,
                        &taken);
    if (rc > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s(): a task waits already to %s descriptor %d", who,
                     side == PL_SIDE_READ ? "read from" : "write to", fd);
    }
    if (rc != 0) {
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

static PyObject *
remove_watcher(LoopObject *self, PyObject *fileobj, int side,
               const char *who)
{
    if (self->closed || self->reactor == NULL) {
        Py_RETURN_FALSE;
    }
    int fd = sockfd_of_fileobj(self->state, fileobj, who);
    if (fd < 0) {
        return NULL;
    }
    bool is_persistent = false;
    if (loop_watcher(self, fd, side, &is_persistent) == NULL
        || !is_persistent) {
        Py_RETURN_FALSE;
    }
    HandleObject *old = (HandleObject *)loop_unwatch(self, fd, side);
    handle_cancel(old);
    Py_DECREF(old);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(Loop_add_reader_doc,
             "_add_reader($self, fd, callback, /, *args)\n--\n\n"
             "Call callback(*args) whenever fd can be read from; return its "
             "Handle.");

static PyObject *
Loop__add_reader(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return add_watcher(self, args, nargs, kwnames, PL_SIDE_READ,
                       "add_reader");
}

PyDoc_STRVAR(Loop_add_writer_doc,
             "_add_writer($self, fd, callback, /, *args)\n--\n\n"
             "Call callback(*args) whenever fd can be written to; return its "
             "Handle.");

static PyObject *
Loop__add_writer(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return add_watcher(self, args, nargs, kwnames, PL_SIDE_WRITE,
                       "add_writer");
}

PyDoc_STRVAR(Loop_remove_reader_doc,
             "_remove_reader($self, fd, /)\n--\n\n"
             "Take the reader callback off; return whether there was one.");

static PyObject *
Loop__remove_reader(LoopObject *self, PyObject *fileobj)
{
    return remove_watcher(self, fileobj, PL_SIDE_READ, "remove_reader");
}

PyDoc_STRVAR(Loop_remove_writer_doc,
             "_remove_writer($self, fd, /)\n--\n\n"
             "Take the writer callback off; return whether there was one.");

static PyObject *
Loop__remove_writer(LoopObject *self, PyObject *fileobj)
{
    return remove_watcher(self, fileobj, PL_SIDE_WRITE, "remove_writer");
}

PyDoc_STRVAR(Loop_close_socket_doc,
             "close_socket($self, sock, /)\n--\n\n"
             "Close a socket; tasks that wait for it get OSError (EBADF).\n\n"
             "Args:\n    sock: socket.socket.\n\n"
             "Raises:\n"
             "    TypeError: not a socket.\n"
             "    RuntimeError: the loop runs in another thread.\n\n"
             "Example:\n    loop.close_socket(conn)");

static PyObject *
Loop_close_socket(LoopObject *self, PyObject *sock)
{
    if (!PyObject_TypeCheck(sock,
                            (PyTypeObject *)self->state->RawSocketType)) {
        PyErr_Format(PyExc_TypeError,
                     "close_socket() needs a socket.socket, not %.200s (%R)",
                     Py_TYPE(sock)->tp_name, sock);
        return NULL;
    }
    if (loop_check_thread(self, "close_socket()") < 0) {
        return NULL;
    }
    PyObject *number
        = PyObject_CallMethodNoArgs(sock, self->state->str_fileno);
    if (number == NULL) {
        return NULL;
    }
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (fd >= 0) {
        loop_forget_fd(self, (int)fd, -EBADF);
    }
    return PyObject_CallMethodNoArgs(sock, self->state->str_close);
}

/* --- native tasks --- */

PyDoc_STRVAR(Loop_create_native_doc,
             "_create_native_task($self, coro, /, *, name=None, context=None, "
             "root=False)\n--\n\n"
             "Make a pyloop.Task of a coroutine or generator.");

static PyObject *
Loop__create_native_task(LoopObject *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"coro", "name", "context", "root"};
    static const struct args_spec spec = {"create_task", names, 4, 1, 1};
    PyObject *bound[4];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0
        || loop_check_usable(self) < 0
        || loop_check_thread(self, "create_task()") < 0
        || task_check_coroutine(self->state, bound[0],
                                bound[3] == Py_True ? "run()"
                                                    : "create_task()")
               < 0) {
        return NULL;
    }
    for (int i = 1; i < 3; i++) {
        if (bound[i] == Py_None) {
            bound[i] = NULL;
        }
    }
    if (bound[2] != NULL && !PyContext_CheckExact(bound[2])) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context or None, not %R",
                     bound[2]);
        return NULL;
    }
    PyObject *name = bound[1] != NULL ? PyObject_Str(bound[1]) : NULL;
    if (bound[1] != NULL && name == NULL) {
        return NULL;
    }
    TaskObject *task
        = task_new(self, bound[0], name, bound[2], bound[3] == Py_True);
    Py_XDECREF(name);
    return (PyObject *)task;
}

PyDoc_STRVAR(Loop_native_tasks_doc,
             "_native_tasks($self, /)\n--\n\n"
             "Return the list of pyloop.Tasks that have not ended, oldest "
             "first.");

static PyObject *
Loop__native_tasks(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    struct list *node = list_first(&self->tasks.live);
    for (; list != NULL && node != NULL;
         node = list_next(&self->tasks.live, node)) {
        if (PyList_Append(list, (PyObject *)task_of_live(node)) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

PyDoc_STRVAR(Loop_is_root_doc,
             "_is_root($self, task, /)\n--\n\n"
             "Return whether the pyloop.Task was given to run().");

static PyObject *
Loop__is_root(LoopObject *self, PyObject *task)
{
    return PyBool_FromLong(Py_IS_TYPE(task, self->state->TaskType)
                           && ((TaskObject *)task)->is_root);
}

PyDoc_STRVAR(Loop_close_native_doc,
             "_close_native_tasks($self, /)\n--\n\n"
             "Close the coroutines of all native tasks and report them as "
             "destroyed while pending.");

static PyObject *
Loop__close_native_tasks(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError, "the event loop is running");
        return NULL;
    }
    task_list_release(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop_describe_doc,
             "_describe_task($self, task, /)\n--\n\n"
             "Return who the task is and where it waits, a str.");

static PyObject *
Loop__describe_task(LoopObject *self, PyObject *task)
{
    if (!Py_IS_TYPE(task, self->state->TaskType)) {
        PyErr_Format(PyExc_TypeError, "not a pyloop.Task: %R", task);
        return NULL;
    }
    return task_describe((TaskObject *)task);
}

PyDoc_STRVAR(Loop_take_failed_doc,
             "_take_failed($self, /)\n--\n\n"
             "Return the first root task that raised, once; then None.");

static PyObject *
Loop__take_failed(LoopObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *task = self->tasks.failed;
    self->tasks.failed = NULL;
    return task != NULL ? task : Py_NewRef(Py_None);
}

/* --- signals --- */

PyDoc_STRVAR(Loop_add_signal_doc,
             "_add_signal($self, signum, callback, /, *args)\n--\n\n"
             "Schedule callback(*args) whenever the signal comes.");

static PyObject *
Loop__add_signal(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    struct call call;
    if (loop_check_usable(self) < 0
        || parse_call(&call, "add_signal_handler", 1, args, nargs, kwnames)
               < 0) {
        return NULL;
    }
    if (self->signals.handlers == NULL) {
        self->signals.handlers = PyDict_New();
        if (self->signals.handlers == NULL) {
            return NULL;
        }
    }
    HandleObject *handle = handle_new(self, call.callback, call.args,
                                      call.nargs, call.context);
    if (handle == NULL) {
        return NULL;
    }
    int rc = PyDict_SetItem(self->signals.handlers, args[0],
                            (PyObject *)handle);
    Py_DECREF(handle);
    if (rc < 0) {
        return NULL;
    }
    if (loop_signals_enter(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Loop_remove_signal_doc,
             "_remove_signal($self, signum, /)\n--\n\n"
             "Forget the signal's callback; return whether there was one.");

static PyObject *
Loop__remove_signal(LoopObject *self, PyObject *signum)
{
    if (self->signals.handlers == NULL) {
        Py_RETURN_FALSE;
    }
    PyObject *handle
        = PyDict_GetItemWithError(self->signals.handlers, signum);
    if (handle == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    }
    Py_INCREF(handle);
    int rc = PyDict_DelItem(self->signals.handlers, signum);
    handle_cancel((HandleObject *)handle);
    Py_DECREF(handle);
    if (rc < 0) {
        return NULL;
    }
    if (PyDict_GET_SIZE(self->signals.handlers) == 0
        && self->thread_id == 0) {
        loop_signals_leave(self);
    }
    Py_RETURN_TRUE;
}

/* --- attributes; asyncio's base class assigns some of them --- */

static PyObject *
Loop_get_thread_id(LoopObject *self, void *Py_UNUSED(closure))
{
    if (self->thread_id == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLong(self->thread_id);
}

static int
Loop_set_thread_id(LoopObject *self, PyObject *value,
                   void *Py_UNUSED(closure))
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
Loop_set_stopping(LoopObject *self, PyObject *value,
                  void *Py_UNUSED(closure))
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
Loop_get_backend(LoopObject *self, void *Py_UNUSED(closure))
{
    if (self->reactor == NULL) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(self->reactor->ops->name);
}

#define LOOP_FASTCALL(name, doc)                                   \
    {#name, (PyCFunction)(void (*)(void))Loop_##name,              \
     METH_FASTCALL | METH_KEYWORDS, doc}
#define LOOP_NOARGS(name, doc) \
    {#name, (PyCFunction)Loop_##name, METH_NOARGS, doc}
#define LOOP_O(name, doc) {#name, (PyCFunction)Loop_##name, METH_O, doc}

static PyMethodDef Loop_methods[] = {
    LOOP_O(_init_core, Loop_init_core_doc),
    LOOP_NOARGS(_release_core, Loop_release_core_doc),
    LOOP_NOARGS(run_forever, Loop_run_forever_doc),
    LOOP_O(_run_tasks, Loop_run_tasks_doc),
    LOOP_NOARGS(stop, Loop_stop_doc),
    LOOP_NOARGS(is_running, Loop_is_running_doc),
    LOOP_NOARGS(is_closed, Loop_is_closed_doc),
    LOOP_NOARGS(time, Loop_time_doc),
    LOOP_NOARGS(get_debug, Loop_get_debug_doc),
    LOOP_NOARGS(_check_closed, Loop_check_closed_doc),
    LOOP_FASTCALL(call_soon, Loop_call_soon_doc),
    LOOP_FASTCALL(call_soon_threadsafe, Loop_call_soon_threadsafe_doc),
    LOOP_FASTCALL(call_later, Loop_call_later_doc),
    LOOP_FASTCALL(call_at, Loop_call_at_doc),
    LOOP_FASTCALL(_add_reader, Loop_add_reader_doc),
    LOOP_FASTCALL(_add_writer, Loop_add_writer_doc),
    LOOP_O(_remove_reader, Loop_remove_reader_doc),
    LOOP_O(_remove_writer, Loop_remove_writer_doc),
    LOOP_O(close_socket, Loop_close_socket_doc),
    LOOP_FASTCALL(_create_native_task, Loop_create_native_doc),
    LOOP_NOARGS(_native_tasks, Loop_native_tasks_doc),
    LOOP_O(_is_root, Loop_is_root_doc),
    LOOP_NOARGS(_close_native_tasks, Loop_close_native_doc),
    LOOP_O(_describe_task, Loop_describe_doc),
    LOOP_NOARGS(_take_failed, Loop_take_failed_doc),
    LOOP_FASTCALL(_add_signal, Loop_add_signal_doc),
    LOOP_O(_remove_signal, Loop_remove_signal_doc),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Loop_getset[] = {
    {"_thread_id", (getter)Loop_get_thread_id, (setter)Loop_set_thread_id,
     NULL, NULL},
    {"_closed", (getter)Loop_get_closed, (setter)Loop_set_closed, NULL, NULL},
    {"_stopping", (getter)Loop_get_stopping, (setter)Loop_set_stopping, NULL,
     NULL},
    {"_debug", (getter)Loop_get_debug_attr, (setter)Loop_set_debug_attr, NULL,
     NULL},
    {"backend", (getter)Loop_get_backend, NULL,
     PyDoc_STR("Name of the poller backend; None when closed."), NULL},
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
    return state_add_type(module, &state->LoopType, &Loop_spec, "LoopCore");
}
