/* The backend that drives a Python selector.
 *
 * The selector is what its user looks at: each socket is registered in it
 * once, with a pair (reader, writer) as data that says who waits.  A task is
 * shown as its coroutine, a callback as its Handle, nobody as None.
 *
 * How it differs from the other backends:
 *   - It calls out, in update and in wait (see poller_ops.calls_out), with the
 *     GIL: the selector releases it while it waits.
 *   - It is told of every change of a waiter, for the data.
 *   - A selector knows numbers, not generations: which generation a number
 *     was registered for is kept here.  What somebody else registers in it is
 *     not ours to report.
 *   - An OSError of register() or modify() is the answer to that registration.
 *     Every other exception ends the run: it waits in loop->selector_error
 *     for the next wait, which raises it.
 *
 * Invariant: known[fd].events != 0  <=>  we have registered fd, for these
 * events, and known[fd].who are the two objects of its data: borrowed, kept
 * alive by the key, and compared only. */
#include <Python.h>

#include "poller_selector.h"

#include <errno.h>
#include <string.h>

#include "compat.h"
#include "core/clock.h"
#include "errors.h"
#include "handle.h"
#include "op.h"
#include "task.h"

struct known {
    const void *who[2];
    uint32_t generation;
    uint8_t events;
};

struct poller {
    LoopObject *loop;    /* borrowed: it owns the reactor that owns this */
    struct known *known; /* owned, PyMem; by descriptor */
    uint32_t n_known;
    uint32_t cursor; /* how far the list of the last select() was used */
};

/* --- who waits --- */

/* Keeps the current exception until the next wait; the first one counts. */
static void
keep_error(LoopObject *loop)
{
    PyObject *exc = exception_take();
    if (loop->selector_error == NULL) {
        loop->selector_error = exc;
    }
    else {
        Py_XDECREF(exc);
    }
}

/* The coroutine of the asyncio.Task that `handle` wakes (its callback is a
 * bound method of the task), or NULL without an exception.  New reference. */
static PyObject *
coroutine_behind(LoopObject *loop, HandleObject *handle)
{
    PyObject *callback = Py_XNewRef(handle->callback);
    PyObject *task = NULL, *coro = NULL;
    if (callback != NULL) {
        task = PyObject_GetAttrString(callback, "__self__"); /* call-out */
    }
    if (task != NULL) {
        coro = PyObject_CallMethod(task, "get_coro", NULL); /* call-out */
    }
    Py_XDECREF(task);
    Py_XDECREF(callback);
    if (PyErr_Occurred() && errors_ends_loop()) {
        keep_error(loop);
    }
    PyErr_Clear(); /* it is not a task's */
    return coro;
}

/* What stands in the data for a waiter of a watch (NULL: None).  New
 * reference. */
static PyObject *
who_waits(LoopObject *loop, PyObject *waiter)
{
    struct module_state *state = loop->state;
    if (waiter == NULL) {
        return Py_NewRef(Py_None);
    }
    if (!op_check(state, waiter) || ((OpObject *)waiter)->waiter == NULL) {
        return Py_NewRef(waiter);
    }
    PyObject *runnable = Py_NewRef((PyObject *)((OpObject *)waiter)->waiter);
    PyObject *coro = NULL;
    if (Py_IS_TYPE(runnable, state->TaskType)) {
        coro = Py_XNewRef(((TaskObject *)runnable)->coro);
    }
    else if (Py_IS_TYPE(runnable, state->HandleType)) {
        coro = coroutine_behind(loop, (HandleObject *)runnable);
    }
    if (coro == NULL) {
        return runnable;
    }
    Py_DECREF(runnable);
    return coro;
}

/* --- registering --- */

static int
reserve_known(struct poller *poller, uint32_t fd)
{
    if (fd < poller->n_known) {
        return 0;
    }
    uint32_t n = poller->n_known > 0 ? poller->n_known : 32;
    while (n <= fd) {
        n *= 2;
    }
    struct known *known = PyMem_Realloc(poller->known, n * sizeof(*known));
    if (known == NULL) {
        return -ENOMEM;
    }
    memset(known + poller->n_known, 0, (n - poller->n_known) * sizeof(*known));
    poller->known = known;
    poller->n_known = n;
    return 0;
}

/* The errno of the current exception, which is cleared: that of an OSError;
 * EEXIST for a KeyError (somebody else registered the number); EBADF for a
 * ValueError (the file object is closed).  Other exceptions are kept for
 * wait.  Returns it negative. */
static int
take_errno(LoopObject *loop)
{
    if (PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear();
        return -EEXIST;
    }
    if (PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        return -EBADF;
    }
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        keep_error(loop);
        return -ECANCELED;
    }
    PyObject *exc = exception_take();
    PyObject *number = PyObject_GetAttrString(exc, "errno");
    long error
        = number != NULL && PyLong_Check(number) ? PyLong_AsLong(number) : EIO;
    Py_XDECREF(number);
    Py_DECREF(exc);
    PyErr_Clear();
    return error > 0 && error < INT_MAX ? -(int)error : -EIO;
}

/* What unregister() says does not matter, unless it must end the run: the
 * number is free afterwards, or it was never there. */
static void
drop(struct poller *poller, int fd)
{
    LoopObject *loop = poller->loop;
    bool outer = loop->in_selector;
    loop->in_selector = true;
    poller->known[fd].events = 0;
    PyObject *key = PyObject_CallMethod(loop->selector, "unregister", "i",
                                        fd); /* call-out */
    if (key == NULL) {
        (void)take_errno(loop);
    }
    Py_XDECREF(key);
    loop->in_selector = outer;
}

/* register() or modify(): 0 or -errno. */
static int
tell(struct poller *poller, const char *method, PyObject *fileobj,
     unsigned events, PyObject *data)
{
    LoopObject *loop = poller->loop;
    bool outer = loop->in_selector;
    loop->in_selector = true;
    PyObject *key = PyObject_CallMethod(loop->selector, method, "OIO", fileobj,
                                        events, data); /* call-out */
    loop->in_selector = outer;
    if (key != NULL) {
        Py_DECREF(key);
        return 0;
    }
    /* While the loop is being made the exception goes to whoever makes it. */
    bool is_ready = loop->reactor->poller != NULL;
    return is_ready ? take_errno(loop) : -ECANCELED;
}

/* Registers fd, or changes its registration, with the pair as data. */
static int
put(struct poller *poller, int fd, uint32_t generation, unsigned events,
    PyObject *fileobj, PyObject *pair)
{
    bool is_known = poller->known[fd].events != 0;
    int rc = tell(poller, is_known ? "modify" : "register", fileobj, events,
                  pair);
    if (rc < 0 && is_known) {
        /* Gone in the kernel or in the selector: as if it were new. */
        drop(poller, fd);
        rc = tell(poller, "register", fileobj, events, pair);
    }
    struct known *known = &poller->known[fd];
    if (rc < 0) {
        known->events = 0;
        return rc;
    }
    known->events = (uint8_t)events;
    known->generation = generation;
    known->who[0] = PyTuple_GET_ITEM(pair, 0);
    known->who[1] = PyTuple_GET_ITEM(pair, 1);
    return 0;
}

/* (reader, writer).  New reference, NULL with an exception. */
static PyObject *
make_pair(LoopObject *loop, const struct watch *watch)
{
    PyObject *who[2] = {NULL, NULL};
    for (int side = 0; side < 2; side++) {
        /* Held: asking for the first may take the second away. */
        PyObject *waiter
            = Py_XNewRef(watch != NULL ? watch->waiter[side] : NULL);
        who[side] = who_waits(loop, waiter); /* call-out */
        Py_XDECREF(waiter);
    }
    PyObject *pair = PyTuple_Pack(2, who[0], who[1]);
    Py_DECREF(who[0]);
    Py_DECREF(who[1]);
    return pair;
}

/* The watch's own file object, or the number.  New reference. */
static PyObject *
fileobj_of(const struct watch *watch, int fd)
{
    if (watch != NULL && watch->owner != NULL) {
        return Py_NewRef((PyObject *)watch->owner);
    }
    return PyLong_FromLong(fd);
}

/* Whether the registration may be that of another file by now.  Of a number
 * that came without a file object only `armed` tells, see reactor_presumed. */
static bool
is_doubtful(const struct known *known, const struct watch *watch,
            uint32_t generation, unsigned armed)
{
    return known->generation != generation || armed != known->events
           || (watch != NULL && watch->owner == NULL
               && armed == (PL_READ | PL_WRITE));
}

static int
selector_update(struct poller *poller, int fd, uint32_t generation,
                unsigned armed, unsigned wanted)
{
    LoopObject *loop = poller->loop;
    int rc = reserve_known(poller, (uint32_t)fd);
    if (rc < 0) {
        return rc;
    }
    const struct known *known = &poller->known[fd];
    if (wanted == 0) {
        if (known->events != 0) {
            drop(poller, fd);
        }
        return 0;
    }
    const struct watch *watch = fdtable_get(&loop->reactor->fds, fd);
    if (known->events != 0 && is_doubtful(known, watch, generation, armed)) {
        drop(poller, fd); /* call-out */
    }
    PyObject *fileobj = fileobj_of(watch, fd);
    PyObject *pair
        = fileobj != NULL ? make_pair(loop, watch) : NULL; /* call-out */
    known = &poller->known[fd]; /* who was called may have made them more */
    if (pair == NULL) {
        PyErr_Clear();
        rc = -ENOMEM;
    }
    else if (known->events == wanted
             && known->who[0] == PyTuple_GET_ITEM(pair, 0)
             && known->who[1] == PyTuple_GET_ITEM(pair, 1))
    {
        rc = 0;
    }
    else {
        rc = put(poller, fd, generation, wanted, fileobj, pair);
    }
    Py_XDECREF(fileobj);
    Py_XDECREF(pair);
    return rc;
}

/* --- waiting --- */

static PyObject *
call_select(LoopObject *loop, int64_t timeout_ns)
{
    PyObject *timeout
        = timeout_ns == PL_FOREVER
              ? Py_NewRef(Py_None)
              : PyFloat_FromDouble((double)timeout_ns / (double)PL_NS_PER_SEC);
    PyObject *ready = NULL, *list = NULL;
    if (timeout != NULL) {
        ready = PyObject_CallMethod(loop->selector, "select", "O",
                                    timeout); /* call-out */
    }
    if (ready != NULL) {
        list = PySequence_List(ready);
    }
    Py_XDECREF(timeout);
    Py_XDECREF(ready);
    return list;
}

/* (key, mask) -> an event; 1, 0 if it is not one of ours, -1 with an
 * exception. */
static int
read_event(struct poller *poller, PyObject *item, struct poller_event *event)
{
    PyObject *key, *mask, *number = NULL;
    PyObject *pair = PySequence_Tuple(item);
    if (pair == NULL || !PyArg_ParseTuple(pair, "OO:select", &key, &mask)) {
        Py_XDECREF(pair);
        return -1;
    }
    long fd = -1;
    long bits = PyLong_AsLong(mask);
    if (bits != -1 || !PyErr_Occurred()) {
        number = PyObject_GetAttrString(key, "fd"); /* call-out */
    }
    if (number != NULL) {
        fd = PyLong_AsLong(number);
    }
    Py_XDECREF(number);
    Py_DECREF(pair);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (fd < 0 || fd >= (long)poller->n_known || poller->known[fd].events == 0)
    {
        return 0;
    }
    event->fd = (int)fd;
    event->generation = poller->known[fd].generation;
    event->events = (uint32_t)bits & poller->known[fd].events;
    return event->events != 0;
}

static int
read_events(struct poller *poller, PyObject *list, struct poller_event *events,
            int n)
{
    int n_stored = 0;
    Py_ssize_t length = PyList_GET_SIZE(list);
    /* Where the array is too small for the list, the next one goes on. */
    Py_ssize_t first = length > n ? (Py_ssize_t)poller->cursor % length : 0;
    Py_ssize_t seen = 0;
    for (; seen < length && n_stored < n; seen++) {
        PyObject *item = PyList_GET_ITEM(list, (first + seen) % length);
        int rc = read_event(poller, item, &events[n_stored]);
        if (rc < 0) {
            return -1;
        }
        n_stored += rc;
    }
    poller->cursor = (uint32_t)((first + seen) % (length > 0 ? length : 1));
    return n_stored;
}

/* -ECANCELED: with an exception. */
static int
selector_wait(struct poller *poller, struct poller_event *events, int n,
              int64_t timeout_ns)
{
    LoopObject *loop = poller->loop;
    if (loop->selector_error != NULL) {
        PyObject *exc = loop->selector_error;
        loop->selector_error = NULL;
        exception_put(exc);
        return -ECANCELED;
    }
    PyObject *list = call_select(loop, timeout_ns < 0 ? 0 : timeout_ns);
    if (list == NULL) {
        return -ECANCELED;
    }
    int n_stored = read_events(poller, list, events, n);
    Py_DECREF(list);
    return n_stored < 0 ? -ECANCELED : n_stored;
}

/* --- life --- */

struct poller *
poller_selector_new(LoopObject *loop)
{
    struct poller *poller = PyMem_Malloc(sizeof(*poller));
    if (poller != NULL) {
        *poller = (struct poller){.loop = loop};
    }
    return poller;
}

static int
selector_probe(void)
{
    return 0;
}

/* It cannot be made without its selector, nor made anew. */
static int
selector_create(struct poller **out)
{
    *out = NULL;
    return -ENOTSUP;
}

/* The selector itself is the loop's to close. */
static void
selector_destroy(struct poller *poller)
{
    PyMem_Free(poller->known);
    PyMem_Free(poller);
}

static int
selector_fileno(const struct poller *poller)
{
    (void)poller;
    return -1;
}

const struct poller_ops poller_selector_ops = {
    .name = "selector",
    .takes_updates_while_waiting = false,
    .calls_out = true,
    .probe = selector_probe,
    .create = selector_create,
    .destroy = selector_destroy,
    .update = selector_update,
    .wait = selector_wait,
    .submit = NULL,
    .cancel = NULL,
    .fileno = selector_fileno,
};
