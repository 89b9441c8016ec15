/* The life of a stream transport, from connection_made to connection_lost, and
 * its methods but for those that write. */
#include <Python.h>

#include "stream.h"

#include <errno.h>

#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/handle.h"
#include "sched/sockfd.h"

/* asyncio's default; the low one is a quarter of it. */
#define PL_STREAM_HIGH_WATER (64 * 1024)

/* --- making --- */

static int
call_soon(StreamObject *self, PyObject *callback, PyObject *arg)
{
    PyObject *handle;
    if (PL_UNLIKELY(self->loop->debug)) {
        /* With its checks. */
        handle = PyObject_CallMethod((PyObject *)self->loop, "call_soon", "OO",
                                     callback, arg);
    }
    else {
        handle = (PyObject *)handle_call_soon(self->loop, callback, &arg, 1,
                                              NULL);
    }
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

static int
call_own_soon(StreamObject *self, const char *method, PyObject *arg)
{
    PyObject *callback = PyObject_GetAttrString((PyObject *)self, method);
    if (callback == NULL) {
        return -1;
    }
    int rc = call_soon(self, callback, arg);
    Py_DECREF(callback);
    return rc;
}

int
stream_schedule_lost(StreamObject *self, PyObject *exc)
{
    return call_own_soon(self, "_call_connection_lost", exc);
}

PyObject *
Stream_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
              PyObject *Py_UNUSED(kwargs))
{
    StreamObject *self = (StreamObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    list_init(&self->flush.link);
    self->flush.run = stream_flush_run;
    stream_queue_init(&self->queue);
    self->high_water = PL_STREAM_HIGH_WATER;
    self->low_water = PL_STREAM_HIGH_WATER / 4;
    self->fd = -1;
    return (PyObject *)self;
}

static int
set_protocol(StreamObject *self, struct module_state *state,
             PyObject *protocol)
{
    int is_buffered
        = PyObject_IsInstance(protocol, state->AsyncioBufferedProtocol);
    if (is_buffered < 0) {
        return -1;
    }
    self->is_buffered = is_buffered;
    self->protocol_connected = true;
    PyObject *old = self->protocol;
    self->protocol = Py_NewRef(protocol);
    Py_XDECREF(old); /* call-out */
    return 0;
}

const char Stream_setup_doc[]
    = PyDoc_STR("_setup($self, loop, sock, protocol, server, extra, peername, "
              "context, /)\n--\n\n"
              "Fill a new transport.");

PyObject *
Stream__setup(StreamObject *self, PyObject *args)
{
    struct module_state *state = state_of((PyObject *)self);
    PyObject *loop, *sock, *protocol, *server, *extra, *peername, *context;
    if (state == NULL
        || !PyArg_ParseTuple(args, "O!OOOOOO:_setup", state->LoopType, &loop,
                             &sock, &protocol, &server, &extra, &peername,
                             &context))
    {
        return NULL;
    }
    if (self->loop != NULL || self->released) {
        PyErr_SetString(PyExc_RuntimeError, "the transport is set up already");
        return NULL;
    }
    if (context != Py_None && !PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context or None, not %R",
                     context);
        return NULL;
    }
    int fd = sockfd_get(state, sock, "StreamTransport");
    if (fd < 0 || loop_check_usable((LoopObject *)loop) < 0) {
        return NULL;
    }
    Py_XSETREF(self->context, context == Py_None ? PyContext_CopyCurrent()
                                                 : Py_NewRef(context));
    if (self->context == NULL || set_protocol(self, state, protocol) < 0) {
        return NULL;
    }
    self->fd = fd;
    self->loop = (LoopObject *)Py_NewRef(loop);
    Py_XSETREF(self->sock, Py_NewRef(sock));
    Py_XSETREF(self->server, server == Py_None ? NULL : Py_NewRef(server));
    Py_XSETREF(self->given, extra == Py_None ? NULL : Py_NewRef(extra));
    Py_XSETREF(self->peername, Py_NewRef(peername));
    Py_RETURN_NONE;
}

const char Stream_abandon_doc[] = PyDoc_STR(
    "_abandon($self, /)\n--\n\n"
    "Let go of the socket, unclosed: the transport could not be made.");

PyObject *
Stream__abandon(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    self->released = true;
    self->closing = true;
    self->conn_lost = 1;
    if (self->loop != NULL) {
        stream_unlink_flush(self);
        stream_unwatch(self, PL_SIDE_WRITE);
        stream_unwatch(self, PL_SIDE_READ);
    }
    stream_queue_clear(&self->queue);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->server);
    Py_CLEAR(self->sock);
    Py_RETURN_NONE;
}

const char Stream_start_doc[]
    = PyDoc_STR("_start($self, waiter, /)\n--\n\n"
              "Schedule connection_made(), then reading and the waiter.");

PyObject *
Stream__start(StreamObject *self, PyObject *waiter)
{
    if (self->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the transport is not set up");
        return NULL;
    }
    PyObject *made = PyObject_GetAttrString(self->protocol, "connection_made");
    if (made == NULL) {
        return NULL;
    }
    int rc = call_soon(self, made, (PyObject *)self);
    Py_DECREF(made);
    if (rc < 0 || call_own_soon(self, "_begin", waiter) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
set_result_unless_cancelled(PyObject *waiter)
{
    PyObject *is_cancelled = PyObject_CallMethod(waiter, "cancelled", NULL);
    int truth = is_cancelled != NULL ? PyObject_IsTrue(is_cancelled) : -1;
    Py_XDECREF(is_cancelled);
    if (truth != 0) {
        return truth < 0 ? -1 : 0;
    }
    PyObject *res = PyObject_CallMethod(waiter, "set_result", "O", Py_None);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

const char Stream_begin_doc[] = PyDoc_STR("_begin($self, waiter, /)\n--\n\n"
              "Begin to read, connection_made() having been called, and wake "
              "the waiter.");

PyObject *
Stream__begin(StreamObject *self, PyObject *waiter)
{
    PyObject *pending = NULL;
    if (self->loop != NULL && !self->closing && !self->paused
        && stream_watch(self, PL_SIDE_READ) < 0)
    {
        pending = exception_take();
    }
    if (waiter != Py_None && set_result_unless_cancelled(waiter) < 0) {
        Py_XDECREF(pending);
        return NULL;
    }
    if (pending != NULL) {
        exception_put(pending);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- closing --- */

const char Stream_close_doc[]
    = PyDoc_STR("close($self, /)\n--\n\n"
              "Send what was written, then close; the protocol's "
              "connection_lost(None) is called.");

PyObject *
Stream_close(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closing || self->loop == NULL) {
        Py_RETURN_NONE;
    }
    if (stream_check_process(self) < 0 || stream_flush(self) < 0) {
        return NULL;
    }
    if (self->closing) {
        Py_RETURN_NONE; /* sending failed */
    }
    self->closing = true;
    stream_unwatch(self, PL_SIDE_READ);
    if (self->queue.length == 0) {
        self->conn_lost++;
        if (stream_schedule_lost(self, Py_None) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

const char Stream_force_close_doc[]
    = PyDoc_STR("_force_close($self, exc, /)\n--\n\n"
              "Close without sending what is left; connection_lost(exc) is "
              "called.");

PyObject *
Stream__force_close(StreamObject *self, PyObject *exc)
{
    if (self->conn_lost > 0 || self->loop == NULL) {
        Py_RETURN_NONE;
    }
    /* asyncio would have sent that when it was written. */
    if (stream_check_process(self) < 0 || stream_flush(self) < 0) {
        return NULL;
    }
    if (self->conn_lost > 0) {
        Py_RETURN_NONE; /* sending failed */
    }
    stream_queue_clear(&self->queue);
    self->closing = true;
    self->conn_lost++;
    stream_unwatch(self, PL_SIDE_WRITE);
    stream_unwatch(self, PL_SIDE_READ);
    if (stream_schedule_lost(self, exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_abort_doc[]
    = PyDoc_STR("abort($self, /)\n--\n\n"
              "Close at once: what the socket has not taken is dropped.");

PyObject *
Stream_abort(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    return Stream__force_close(self, Py_None);
}

/* Its last address, for those who ask later: the socket is about to go. */
static void
keep_sockname(StreamObject *self)
{
    if (self->sockname == NULL && self->extra == NULL) {
        self->sockname = PyObject_CallMethod(self->sock, "getsockname", NULL);
        if (self->sockname == NULL) {
            PyErr_Clear();
            self->sockname = Py_NewRef(Py_None);
        }
    }
}

/* Closes the socket and lets go of protocol, loop and server.  -1 with an
 * exception. */
static int
release(StreamObject *self)
{
    LoopObject *loop = self->loop;
    self->released = true;
    self->closing = true;
    if (self->conn_lost == 0) {
        self->conn_lost = 1;
    }
    stream_unlink_flush(self);
    stream_unwatch(self, PL_SIDE_WRITE);
    stream_unwatch(self, PL_SIDE_READ);
    stream_queue_clear(&self->queue);
    keep_sockname(self);
    struct watch *watch = loop->reactor != NULL
                              ? fdtable_get(&loop->reactor->fds, self->fd)
                              : NULL;
    if (watch != NULL && watch->owner == self->sock) {
        loop_forget_fd(loop, self->fd, -EBADF);
    }
    PyObject *closed
        = PyObject_CallMethodNoArgs(self->sock, loop->state->str_close);
    PyObject *server = self->server;
    self->server = NULL;
    self->loop = NULL;
    Py_CLEAR(self->protocol); /* call-out */
    Py_DECREF(loop);
    if (closed == NULL) {
        Py_XDECREF(server);
        return -1;
    }
    Py_DECREF(closed);
    if (server != NULL) {
        closed = PyObject_CallMethod((PyObject *)self, "_detach_from", "O",
                                     server);
        Py_DECREF(server);
        Py_XDECREF(closed);
    }
    return closed == NULL ? -1 : 0;
}

const char Stream_call_connection_lost_doc[]
    = PyDoc_STR("_call_connection_lost($self, exc, /)\n--\n\n"
                "Call the protocol's connection_lost(exc) and close the "
                "socket.");

PyObject *
Stream__call_connection_lost(StreamObject *self, PyObject *exc)
{
    if (self->released || self->loop == NULL) {
        Py_RETURN_NONE;
    }
    if (stream_check_process(self) < 0) {
        return NULL;
    }
    PyObject *pending = NULL;
    if (self->protocol_connected && self->protocol != NULL) {
        PyObject *protocol = Py_NewRef(self->protocol);
        PyObject *res = PyObject_CallMethodOneArg(
            protocol, self->loop->state->str_connection_lost, exc);
        Py_DECREF(protocol);
        if (res == NULL) {
            pending = exception_take();
        }
        Py_XDECREF(res);
    }
    if (!self->released && release(self) < 0) {
        if (pending != NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    else if (stream_settle_waiter(self, PyExc_ConnectionError) < 0) {
        Py_XDECREF(pending);
        return NULL;
    }
    if (pending != NULL) {
        exception_put(pending);
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- the other methods --- */

const char Stream_is_closing_doc[]
    = PyDoc_STR("is_closing($self, /)\n--\n\n"
              "Return True if the transport is closing or closed.");

PyObject *
Stream_is_closing(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->closing);
}

const char Stream_is_reading_doc[]
    = PyDoc_STR("is_reading($self, /)\n--\n\n"
              "Return True if the transport receives.");

PyObject *
Stream_is_reading(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(!self->closing && !self->paused);
}

static int
log_debug(StreamObject *self, const char *what)
{
    if (PL_LIKELY(!self->loop->debug)) {
        return 0;
    }
    PyObject *res
        = PyObject_CallMethod((PyObject *)self, "_log_debug", "s", what);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

const char Stream_pause_reading_doc[]
    = PyDoc_STR("pause_reading($self, /)\n--\n\n"
              "Stop receiving; nothing happens if that is so already.");

PyObject *
Stream_pause_reading(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closing || self->paused || self->loop == NULL) {
        Py_RETURN_NONE;
    }
    if (stream_check_process(self) < 0) {
        return NULL;
    }
    self->paused = true;
    stream_unwatch(self, PL_SIDE_READ);
    if (log_debug(self, "%r pauses reading") < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_resume_reading_doc[]
    = PyDoc_STR("resume_reading($self, /)\n--\n\n"
              "Receive again; nothing happens if that is so already.");

PyObject *
Stream_resume_reading(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closing || !self->paused || self->loop == NULL) {
        Py_RETURN_NONE;
    }
    if (stream_check_process(self) < 0) {
        return NULL;
    }
    self->paused = false;
    if (stream_watch(self, PL_SIDE_READ) < 0
        || log_debug(self, "%r resumes reading") < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_set_protocol_doc[]
    = PyDoc_STR("set_protocol($self, protocol, /)\n--\n\n"
              "Have another protocol called, from now on.");

PyObject *
Stream_set_protocol(StreamObject *self, PyObject *protocol)
{
    struct module_state *state = state_of((PyObject *)self);
    if (state == NULL || set_protocol(self, state, protocol) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_get_protocol_doc[]
    = PyDoc_STR("get_protocol($self, /)\n--\n\n"
              "Return the protocol; None once the connection is lost.");

PyObject *
Stream_get_protocol(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->protocol != NULL ? self->protocol : Py_None);
}

const char Stream_can_write_eof_doc[]
    = PyDoc_STR("can_write_eof($self, /)\n--\n\n"
              "Return True.");

PyObject *
Stream_can_write_eof(StreamObject *Py_UNUSED(self),
                     PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

const char Stream_stop_reading_doc[]
    = PyDoc_STR("_stop_reading($self, /)\n--\n\n"
              "Receive no more, without being paused: the input has ended.");

PyObject *
Stream__stop_reading(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->loop != NULL) {
        stream_unwatch(self, PL_SIDE_READ);
    }
    Py_RETURN_NONE;
}

const char Stream_read_ready_doc[]
    = PyDoc_STR("_read_ready($self, /)\n--\n\n"
              "Receive once and call the protocol.");

PyObject *
Stream__read_ready(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (stream_read_ready(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_write_ready_doc[]
    = PyDoc_STR("_write_ready($self, /)\n--\n\n"
              "Send what the socket takes of what is queued.");

PyObject *
Stream__write_ready(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (stream_write_ready(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
