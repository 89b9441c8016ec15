/* The stream transport: reading, and what its other files share.
 *
 * Each side that is watched has a StreamEnd in its watch, a runnable that is
 * pushed at every event: no Handle and no allocation per event.  Its run does
 * one recv(2) into a buffer that all transports of the loop share, so that an
 * idle connection owns none, and calls the protocol with a bytes object of
 * the exact size.
 *
 * Re-entrancy: any call of the protocol may close the transport, give it
 * another protocol or drop the last reference to it.  The caller of a method
 * holds a reference to self; everything else is read again after such a call,
 * and self->loop is NULL once the connection is lost. */
#include <Python.h>

#include "stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/handle.h"

/* --- helpers --- */

void
stream_set_oserror(int error)
{
    (void)errors_from_bare_errno(error);
}

int
stream_check_process(StreamObject *self)
{
    if (PL_UNLIKELY(self->loop != NULL && self->loop->forks != loop_forks)) {
        return loop_check_usable(self->loop);
    }
    return 0;
}

int
stream_fatal(StreamObject *self, const char *message)
{
    if (errors_ends_loop()) {
        return -1;
    }
    PyObject *exc = exception_take();
    /* call-out */
    PyObject *res = PyObject_CallMethod((PyObject *)self, "_fatal_error", "Os",
                                        exc, message);
    Py_DECREF(exc);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

int
stream_settle_waiter(StreamObject *self, PyObject *exc)
{
    if (self->empty_waiter == NULL || self->empty_waiter == Py_None) {
        return 0;
    }
    PyObject *res
        = PyObject_CallMethod((PyObject *)self, "_settle_empty_waiter", "O",
                              exc != NULL ? exc : Py_None);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* --- the two ends --- */

/* In debug mode a callback that took long is logged, as that of a Handle. */
static int
log_if_slow(StreamObject *self, LoopObject *loop, const char *method,
            int64_t started_ns)
{
    double seconds
        = (double)(clock_monotonic_ns() - started_ns) / (double)PL_NS_PER_SEC;
    PyObject *callback = PyObject_GetAttrString((PyObject *)self, method);
    PyObject *handle = NULL, *res = NULL;
    if (callback != NULL) {
        handle = (PyObject *)handle_new(loop, callback, NULL, 0, NULL);
    }
    if (handle != NULL) {
        res = PyObject_CallMethod((PyObject *)loop, "_log_slow_callback", "Od",
                                  handle, seconds);
    }
    Py_XDECREF(callback);
    Py_XDECREF(handle);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* What the end on `side` is to its watch. */
static unsigned
end_is(int side)
{
    return side == PL_SIDE_READ ? PL_WAIT_PERSISTENT | PL_WAIT_DRAINS
                                : PL_WAIT_PERSISTENT;
}

/* The poller has refused the end, and the system call that it was called for
 * tells of nothing: a transport that nobody watches would wait for ever. */
static int
watch_again(StreamObject *self, LoopObject *loop, int side)
{
    PyObject *end = (PyObject *)self->ends[side];
    if (loop_watch_again(loop, self->fd, stream_owner(self), side, end,
                         end_is(side))
        == 0)
    {
        return 0;
    }
    stream_unwatch(self, side);
    return stream_fatal(self, side == PL_SIDE_READ
                                  ? "Fatal error: cannot wait to read"
                                  : "Fatal error: cannot wait to write");
}

static int
end_run(struct runnable *runnable, LoopObject *loop)
{
    StreamEndObject *end = (StreamEndObject *)runnable;
    loop->ready.must_poll = true;
    loop_leave_task(loop); /* call-out: it may be a task's last reference */
    StreamObject *self = end->stream;
    if (self == NULL) {
        return 0; /* no longer watched when its turn came */
    }
    bool is_reader = end == self->ends[PL_SIDE_READ];
    int side = is_reader ? PL_SIDE_READ : PL_SIDE_WRITE;
    int64_t started_ns = PL_UNLIKELY(loop->debug) ? clock_monotonic_ns() : 0;
    Py_INCREF(self);
    PyObject *context = Py_NewRef(self->context);
    int rc = PyContext_Enter(context);
    if (rc == 0) {
        rc = is_reader ? self->kind->read_ready(self)
                       : self->kind->write_ready(self);
        if (PL_UNLIKELY(rc == 0 && end->stream != NULL
                        && loop_watcher(loop, self->fd, side, NULL)
                               != (PyObject *)end))
        {
            rc = watch_again(self, loop, side);
        }
        if (PyContext_Exit(context) < 0) {
            rc = -1;
        }
    }
    if (rc == 0 && PL_UNLIKELY(started_ns != 0)) {
        rc = log_if_slow(self, loop,
                         is_reader ? "_read_ready" : "_write_ready",
                         started_ns);
    }
    if (is_reader) {
        loop_watch_has_run(loop, self->fd, (PyObject *)end);
    }
    if (rc < 0 && !errors_ends_loop()) {
        rc = loop_report(loop,
                         is_reader ? self->kind->read_failed
                                   : self->kind->write_failed,
                         NULL, NULL);
    }
    Py_DECREF(context);
    Py_DECREF(self); /* call-out */
    return rc;
}

StreamEndObject *
stream_end(StreamObject *self, int side)
{
    StreamEndObject *end = self->ends[side];
    if (end == NULL) {
        end = PyObject_GC_New(StreamEndObject,
                              self->loop->state->StreamEndType);
        if (end == NULL) {
            return NULL;
        }
        end->head.run = end_run;
        end->stream = NULL;
        PyObject_GC_Track(end);
        self->ends[side] = end;
    }
    return end;
}

PyObject *
stream_owner(const StreamObject *self)
{
    return self->sock != NULL ? self->sock
                              : (PyObject *)self->ends[PL_SIDE_READ];
}

int
stream_watch(StreamObject *self, int side)
{
    LoopObject *loop = self->loop;
    if (stream_is_watched(self, side)) {
        return 0;
    }
    if (loop_check_usable(loop) < 0) {
        return -1;
    }
    StreamEndObject *end = stream_end(self, side);
    if (end == NULL || stream_end(self, PL_SIDE_READ) == NULL) {
        return -1;
    }
    end->stream = (StreamObject *)Py_NewRef(self);
    PyObject *taken;
    int rc = loop_watch(loop, self->fd, stream_owner(self), side,
                        (PyObject *)end, end_is(side), &taken);
    if (rc == 0) {
        return 0;
    }
    if (rc > 0) {
        PyErr_Format(
            PyExc_RuntimeError, "%R: somebody waits already to %s its socket",
            (PyObject *)self, side == PL_SIDE_READ ? "read from" : "write to");
    }
    Py_CLEAR(end->stream);
    return -1;
}

void
stream_unwatch(StreamObject *self, int side)
{
    if (!stream_is_watched(self, side)) {
        return;
    }
    PyObject *end = (PyObject *)self->ends[side];
    /* Unless the number has come to mean another file meanwhile. */
    if (loop_watcher(self->loop, self->fd, side, NULL) == end) {
        Py_DECREF(loop_unwatch(self->loop, self->fd, side));
    }
    Py_CLEAR(self->ends[side]->stream);
}

/* --- reading --- */

/* "%r received EOF" and the like. */
static int
end_of_input(StreamObject *self)
{
    PyObject *res
        = PyObject_CallMethod((PyObject *)self, "_read_ready__on_eof", NULL);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* The bytes received, 0 at the end, -EAGAIN, or -1 with an exception. */
static ssize_t
receive(StreamObject *self, void *buffer, size_t size)
{
    ssize_t n;
    do {
        n = recv(self->fd, buffer, size, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    bool is_drained = n < 0 ? errno == EAGAIN || errno == EWOULDBLOCK
                            : n > 0 && (size_t)n < size;
    if (PL_LIKELY(is_drained)) {
        loop_watch_drained(self->loop, self->fd,
                           (PyObject *)self->ends[PL_SIDE_READ]);
        return n < 0 ? -EAGAIN : n;
    }
    if (n < 0) {
        stream_set_oserror(errno);
    }
    return n;
}

static const char read_error[] = "Fatal read error on socket transport";

/* The answer to a receive() that brought no byte. */
static int
nothing_received(StreamObject *self, ssize_t n)
{
    if (n == 0) {
        return end_of_input(self);
    }
    return n == -EAGAIN ? 0 : stream_fatal(self, read_error);
}

char *
stream_buffer(LoopObject *loop)
{
    if (loop->stream_buffer == NULL) {
        loop->stream_buffer = PyMem_Malloc(PL_STREAM_READ_BYTES);
        if (loop->stream_buffer == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->stream_buffer;
}

static int
call_data_received(LoopObject *loop, PyObject *protocol, const char *buffer,
                   Py_ssize_t n)
{
    PyObject *data = messages_make(&loop->messages, buffer, n);
    if (data == NULL) {
        return -1;
    }
    /* Looked up each time, as asyncio does: a protocol may change its own
     * methods.  No bound method is made. */
    PyObject *args[2] = {protocol, data};
    PyObject *res = PyObject_VectorcallMethod(
        loop->state->str_data_received, args,
        2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL); /* call-out */
    Py_DECREF(data);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

static int
read_bytes(StreamObject *self)
{
    LoopObject *loop = self->loop;
    char *buffer = stream_buffer(loop);
    if (buffer == NULL) {
        return stream_fatal(self, read_error);
    }
    ssize_t n = receive(self, buffer, PL_STREAM_READ_BYTES);
    if (PL_UNLIKELY(n <= 0)) {
        return nothing_received(self, n);
    }
    PyObject *protocol = Py_NewRef(self->protocol);
    int rc = self->feeds_reader
                 ? stream_feed_reader(loop->state, protocol, buffer, n)
                 : 0; /* call-out */
    if (rc == 0) {
        rc = call_data_received(loop, protocol, buffer, n);
    }
    Py_DECREF(protocol); /* call-out */
    return PL_LIKELY(rc >= 0)
               ? 0
               : stream_fatal(self, "Fatal error: protocol.data_received() "
                                    "call failed.");
}

/* Asks the protocol where to read to.  0, or -1 with an exception. */
static int
get_buffer(StreamObject *self, PyObject **buffer)
{
    PyObject *hint = PyLong_FromLong(-1);
    if (hint == NULL) {
        return -1;
    }
    PyObject *args[2] = {Py_NewRef(self->protocol), hint};
    *buffer = PyObject_VectorcallMethod(
        self->loop->state->str_get_buffer, args,
        2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL); /* call-out */
    Py_DECREF(args[0]);
    Py_DECREF(hint);
    if (*buffer == NULL) {
        return -1;
    }
    Py_ssize_t length = PyObject_Size(*buffer);
    if (length == 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "get_buffer() returned an empty buffer");
    }
    if (length <= 0) {
        Py_CLEAR(*buffer);
        return -1;
    }
    return 0;
}

static bool
is_lost(const StreamObject *self)
{
    return self->conn_lost > 0 || self->loop == NULL;
}

/* receive() into `buffer`, which is stolen.  -EAGAIN, too, if what the buffer
 * called has ended the connection: the number may be another file's by now. */
static ssize_t
receive_into(StreamObject *self, PyObject *buffer)
{
    Py_buffer view;
    int rc = PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE); /* call-out */
    if (PL_UNLIKELY(rc < 0)) {
        errors_want_writable("recv_into", buffer);
    }
    Py_DECREF(buffer);
    if (rc < 0) {
        return -1;
    }
    ssize_t n = PL_UNLIKELY(is_lost(self))
                    ? -EAGAIN
                    : receive(self, view.buf, (size_t)view.len);
    PyObject *pending = n == -1 ? exception_take() : NULL;
    PyBuffer_Release(&view); /* call-out */
    if (PL_UNLIKELY(pending != NULL)) {
        exception_put(pending);
    }
    return n;
}

static int
read_into_place(StreamObject *self)
{
    PyObject *buffer;
    if (get_buffer(self, &buffer) < 0) {
        return stream_fatal(self,
                            "Fatal error: protocol.get_buffer() call failed.");
    }
    if (PL_UNLIKELY(is_lost(self))) {
        Py_DECREF(buffer);
        return 0;
    }
    ssize_t n = receive_into(self, buffer);
    if (PL_UNLIKELY(n <= 0)) {
        return nothing_received(self, n);
    }
    if (PL_UNLIKELY(self->loop == NULL)) {
        return 0;
    }
    PyObject *count = PyLong_FromSsize_t(n);
    if (count == NULL) {
        return stream_fatal(self, read_error); /* what came is lost */
    }
    PyObject *args[2] = {Py_NewRef(self->protocol), count};
    PyObject *res = PyObject_VectorcallMethod(
        self->loop->state->str_buffer_updated, args,
        2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL); /* call-out */
    Py_DECREF(args[0]);
    Py_DECREF(count);
    if (PL_UNLIKELY(res == NULL)) {
        return stream_fatal(
            self, "Fatal error: protocol.buffer_updated() call failed.");
    }
    Py_DECREF(res);
    return 0;
}

/* Receives once and calls the protocol. */
static int
read_ready(StreamObject *self)
{
    if (PL_UNLIKELY(is_lost(self))) {
        return 0;
    }
    return self->is_buffered ? read_into_place(self) : read_bytes(self);
}

const struct stream_kind stream_kind = {
    .read_ready = read_ready,
    .write_ready = stream_write_ready,
    .read_failed = "Exception in callback StreamTransport._read_ready()",
    .write_failed = "Exception in callback StreamTransport._write_ready()",
};
