/* The life of a stream transport, from connection_made to connection_lost, and
 * its methods but for those that write. */
#include <Python.h>

#include "stream.h"

#include <errno.h>
#include <unistd.h>

#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/handle.h"
#include "sched/sockfd.h"

/* --- later --- */

PyObject *
stream_call_soon(StreamObject *self, PyObject *callback, PyObject *arg)
{
    if (PL_UNLIKELY(self->loop->debug)) {
        /* With its checks. */
        return PyObject_CallMethod((PyObject *)self->loop, "call_soon", "OO",
                                   callback, arg);
    }
    return (PyObject *)handle_call_soon(self->loop, callback, &arg, 1, NULL);
}

int
stream_call_own_soon(StreamObject *self, const char *method, PyObject *arg)
{
    PyObject *callback = PyObject_GetAttrString((PyObject *)self, method);
    if (callback == NULL) {
        return -1;
    }
    PyObject *handle = stream_call_soon(self, callback, arg);
    Py_DECREF(callback);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

int
stream_schedule_lost(StreamObject *self, PyObject *exc)
{
    return stream_call_own_soon(self, "_call_connection_lost", exc);
}

/* --- servers --- */

static int
tell_server(StreamObject *self, PyObject *server, PyObject *method)
{
#if PY_VERSION_HEX >= 0x030D0000
    /* 3.13's servers know their transports. */
    PyObject *res
        = PyObject_CallMethodOneArg(server, method, (PyObject *)self);
#else
    (void)self;
    PyObject *res = PyObject_CallMethodNoArgs(server, method);
#endif
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

int
stream_join_server(StreamObject *self, PyObject *server)
{
    if (tell_server(self, server, self->loop->state->str__attach) < 0) {
        return -1;
    }
    Py_XSETREF(self->server, Py_NewRef(server));
    return 0;
}

int
stream_leave_server(StreamObject *self)
{
    PyObject *server = self->server;
    self->server = NULL;
    if (server == NULL) {
        return 0;
    }
    struct module_state *state = state_of((PyObject *)self);
    int rc
        = state != NULL ? tell_server(self, server, state->str__detach) : -1;
    Py_DECREF(server); /* call-out */
    return rc;
}

const char Stream__leave_server_doc[]
    = PyDoc_STR("_leave_server($self, /)\n--\n\n"
                "Tell the server, once, that it has us no more.");

PyObject *
Stream__leave_server(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (stream_leave_server(self) < 0) {
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

const char Stream__force_close_doc[]
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

int
stream_lose_socket(LoopObject *loop, int fd, PyObject *sock)
{
    PyObject *transport = (uint32_t)fd < loop->transports.length
                              ? loop->transports.by_fd[fd]
                              : NULL;
    StreamObject *self = (StreamObject *)transport;
    if (self == NULL || self->sock != sock) {
        return 0;
    }
    Py_INCREF(self);
    stream_set_oserror(EBADF);
    int rc = stream_fatal(self, "Fatal error: the socket is closed");
    Py_DECREF(self); /* call-out */
    return rc;
}

static PyObject *
close_socket(StreamObject *self)
{
    if (self->sock != NULL) {
        return PyObject_CallMethodNoArgs(self->sock,
                                         self->loop->state->str_close);
    }
    if (close(self->fd) < 0 && errno != EINTR && errno != ECONNRESET) {
        stream_set_oserror(errno);
        return NULL;
    }
    return Py_NewRef(Py_None);
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
    /* Its last address, for those who ask later. */
    stream_keep_sockname(self);
    stream_unlist(self);
    struct watch *watch = loop->reactor != NULL
                              ? fdtable_get(&loop->reactor->fds, self->fd)
                              : NULL;
    PyObject *owner = stream_owner(self);
    if (watch != NULL && owner != NULL && watch->owner == owner) {
        loop_forget_fd(loop, self->fd, -EBADF);
    }
    PyObject *closed = close_socket(self);
    PyObject *pending = closed == NULL ? exception_take() : NULL;
    Py_XDECREF(closed);
    self->loop = NULL;
    Py_CLEAR(self->protocol); /* call-out */
    Py_DECREF(loop);
    int rc = stream_leave_server(self);
    if (pending != NULL) {
        if (rc < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        exception_put(pending);
        rc = -1;
    }
    return rc;
}

const char Stream__call_connection_lost_doc[]
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
    if (stream_set_protocol(self, protocol) < 0) {
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

const char Stream__stop_reading_doc[]
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

const char Stream__read_ready_doc[]
    = PyDoc_STR("_read_ready($self, /)\n--\n\n"
              "Receive once and call the protocol.");

PyObject *
Stream__read_ready(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->kind->read_ready(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream__write_ready_doc[]
    = PyDoc_STR("_write_ready($self, /)\n--\n\n"
              "Send what the socket takes of what is queued.");

PyObject *
Stream__write_ready(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->kind->write_ready(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
