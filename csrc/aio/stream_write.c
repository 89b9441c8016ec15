/* The write side of the stream transport: its queue, sendmsg(2) and flow
 * control.
 *
 * What one callback writes in several calls should leave in one system call,
 * so write() inside of a turn only queues, and the loop sends when the turn's
 * callbacks have run (loop->flushes).  It sends at once
 *   - outside of a turn, where nobody would flush;
 *   - when more than the high-water mark is queued: the caller must learn
 *     before write() returns whether it has to pause;
 *   - before anything that depends on what was sent: close, abort, write_eof,
 *     the size of the buffer, the socket itself.
 * So what a protocol can see is what it sees of asyncio's transport, which
 * sends in every call.
 *
 * Invariants, outside of the functions of this file:
 *   queue.length > 0: exactly one of `flush` linked and the write side watched
 *   queue.length == 0: neither */
#include <Python.h>

#include "stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "sched/compat.h"
#include "sched/errors.h"

/* Pieces that go into one sendmsg(2): 4 KiB of stack.  Linux takes 1024. */
#define PL_STREAM_IOVECS 256

/* --- the queue --- */

void
stream_queue_init(struct stream_queue *queue)
{
    memset(queue, 0, sizeof(*queue));
    queue->pieces = queue->few;
    queue->capacity = PL_STREAM_FEW_PIECES;
}

void
stream_queue_clear(struct stream_queue *queue)
{
    /* Moved out first: what a datagram is addressed to may be anything. */
    struct stream_queue old = *queue;
    PyObject **pieces = queue->pieces == queue->few ? old.few : old.pieces;
    stream_queue_init(queue);
    for (uint32_t i = 0; i < old.length; i++) {
        Py_DECREF(pieces[old.first + i]);
    }
    if (pieces != old.few) {
        PyMem_Free(pieces);
    }
}

static int
queue_reserve(struct stream_queue *queue)
{
    if (queue->first + queue->length < queue->capacity) {
        return 0;
    }
    if (queue->first > queue->length) {
        memmove(queue->pieces, queue->pieces + queue->first,
                queue->length * sizeof(PyObject *));
        queue->first = 0;
        return 0;
    }
    uint32_t capacity = queue->capacity * 4;
    PyObject **pieces
        = capacity > queue->capacity
              ? PyMem_Malloc((size_t)capacity * sizeof(PyObject *))
              : NULL;
    if (pieces == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(pieces, queue->pieces + queue->first,
           queue->length * sizeof(PyObject *));
    if (queue->pieces != queue->few) {
        PyMem_Free(queue->pieces);
    }
    queue->pieces = pieces;
    queue->first = 0;
    queue->capacity = capacity;
    return 0;
}

int
stream_queue_push(struct stream_queue *queue, PyObject *piece, Py_ssize_t size)
{
    if (queue_reserve(queue) < 0) {
        Py_DECREF(piece);
        return -1;
    }
    queue->pieces[queue->first + queue->length++] = piece;
    queue->size += size;
    return 0;
}

/* Steals `piece`, also on failure; NULL: there is an exception already. */
static int
queue_append(struct stream_queue *queue, PyObject *piece)
{
    return piece == NULL
               ? -1
               : stream_queue_push(queue, piece, PyBytes_GET_SIZE(piece));
}

/* Takes n bytes off the front. */
static void
queue_consume(struct stream_queue *queue, Py_ssize_t n)
{
    queue->size -= n;
    n += queue->offset;
    while (queue->length > 0) {
        PyObject *piece = queue->pieces[queue->first];
        if (PyBytes_GET_SIZE(piece) > n) {
            break;
        }
        n -= PyBytes_GET_SIZE(piece);
        queue->first++;
        queue->length--;
        Py_DECREF(piece);
    }
    queue->offset = n;
    if (queue->length == 0) {
        if (queue->pieces != queue->few) {
            stream_queue_clear(queue);
        }
        queue->first = 0;
    }
}

/* --- sending --- */

/* One system call for the front of the queue: the bytes that it took, or
 * -errno. */
static ssize_t
send_front(const StreamObject *self)
{
    const struct stream_queue *queue = &self->queue;
    PyObject *const *pieces = queue->pieces + queue->first;
    ssize_t n;
    if (PL_LIKELY(queue->length == 1)) {
        do {
            n = send(self->fd, PyBytes_AS_STRING(pieces[0]) + queue->offset,
                     (size_t)queue->size, MSG_DONTWAIT | MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
    }
    struct iovec vectors[PL_STREAM_IOVECS];
    uint32_t count
        = queue->length < PL_STREAM_IOVECS ? queue->length : PL_STREAM_IOVECS;
    for (uint32_t i = 0; i < count; i++) {
        vectors[i].iov_base = PyBytes_AS_STRING(pieces[i]);
        vectors[i].iov_len = (size_t)PyBytes_GET_SIZE(pieces[i]);
    }
    vectors[0].iov_base = (char *)vectors[0].iov_base + queue->offset;
    vectors[0].iov_len -= (size_t)queue->offset;
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    do {
        n = sendmsg(self->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static bool
must_wait(ssize_t error)
{
    return error == -EAGAIN || error == -EWOULDBLOCK;
}

/* Sends until the queue is empty or the socket full.  0, or -errno. */
static int
send_queue(StreamObject *self)
{
    while (self->queue.length > 0) {
        ssize_t n = send_front(self);
        if (n < 0) {
            return must_wait(n) ? 0 : (int)n;
        }
        Py_ssize_t left = self->queue.size - n;
        bool is_all = self->queue.length <= PL_STREAM_IOVECS;
        queue_consume(&self->queue, n);
        if (is_all && left > 0) {
            return 0; /* a short send: the socket is full */
        }
    }
    return 0;
}

/* Sending failed: the transport is closed.  -1 with an exception. */
static int
write_failed(StreamObject *self, int error)
{
    stream_unwatch(self, PL_SIDE_WRITE);
    stream_queue_clear(&self->queue);
    stream_set_oserror(error);
    PyObject *exc = exception_take();
    if (exc == NULL) {
        return -1;
    }
    exception_put(Py_NewRef(exc));
    int rc = stream_fatal(self, "Fatal write error on socket transport");
    if (rc == 0) {
        rc = stream_settle_waiter(self, exc);
    }
    Py_DECREF(exc);
    return rc;
}

int
stream_after_drained(StreamObject *self)
{
    if (PL_LIKELY(self->empty_waiter == NULL && !self->closing && !self->eof))
    {
        return 0;
    }
    if (stream_settle_waiter(self, NULL) < 0) {
        return -1;
    }
    if (self->closing) {
        if (self->conn_lost > 0) {
            return 0;
        }
        self->conn_lost++;
        return stream_schedule_lost(self, Py_None);
    }
    if (self->eof && shutdown(self->fd, SHUT_WR) < 0) {
        stream_set_oserror(errno);
        return -1;
    }
    return 0;
}

/* Sends now.  What does not go is for when the socket is writable. */
static int
send_now(StreamObject *self)
{
    int rc = send_queue(self);
    if (rc < 0) {
        return write_failed(self, -rc); /* call-out */
    }
    return self->queue.length > 0 ? stream_watch(self, PL_SIDE_WRITE)
                                  : stream_after_drained(self);
}

void
stream_unlink_flush(StreamObject *self)
{
    if (list_is_linked(&self->flush.link)) {
        list_remove(&self->flush.link);
        Py_DECREF(self);
    }
}

int
stream_flush(StreamObject *self)
{
    if (!list_is_linked(&self->flush.link)) {
        return 0;
    }
    stream_unlink_flush(self);
    return send_now(self);
}

int
stream_flush_run(struct loop_flush *flush, LoopObject *loop)
{
    StreamObject *self = PL_CONTAINER_OF(flush, StreamObject, flush);
    int rc = 0;
    if (PL_LIKELY(loop->forks == loop_forks)) {
        rc = send_now(self);
    }
    if (rc < 0 && !errors_ends_loop()) {
        rc = loop_report(loop, "Exception in callback StreamTransport._flush",
                         NULL, NULL);
    }
    Py_DECREF(self);
    return rc;
}

int
stream_maybe_pause(StreamObject *self)
{
    if (PL_LIKELY(self->queue.size <= self->high_water)
        || self->protocol_paused)
    {
        return 0;
    }
    PyObject *res
        = PyObject_CallMethod((PyObject *)self, "_maybe_pause_protocol", NULL);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* Sees to it that what was just queued, if anything, will be sent. */
static int
schedule(StreamObject *self)
{
    if (PL_UNLIKELY(self->queue.length == 0)) {
        return 0;
    }
    if (stream_is_watched(self, PL_SIDE_WRITE)) {
        return stream_maybe_pause(self);
    }
    LoopObject *loop = self->loop;
    bool is_linked = list_is_linked(&self->flush.link);
    if (PL_LIKELY(loop->flushes.open && self->queue.size <= self->high_water
                  && self->queue.length < PL_STREAM_IOVECS))
    {
        if (!is_linked) {
            Py_INCREF(self);
            list_append(&loop->flushes.pending, &self->flush.link);
        }
        return 0;
    }
    stream_unlink_flush(self);
    return send_now(self) < 0 ? -1 : stream_maybe_pause(self);
}

int
stream_write_ready(StreamObject *self)
{
    if (self->conn_lost > 0 || self->queue.length == 0) {
        return 0;
    }
    int rc = send_queue(self);
    if (rc < 0) {
        return write_failed(self, -rc); /* call-out */
    }
    if (self->queue.length == 0) {
        stream_unwatch(self, PL_SIDE_WRITE);
    }
    if (self->protocol_paused && self->queue.size <= self->low_water) {
        /* call-out: may write, close, anything */
        PyObject *res = PyObject_CallMethod((PyObject *)self,
                                            "_maybe_resume_protocol", NULL);
        if (res == NULL) {
            return -1;
        }
        Py_DECREF(res);
    }
    return self->queue.length == 0 ? stream_after_drained(self) : 0;
}

/* --- the methods --- */

/* 0 if data may be taken, 1 if it is to be dropped in silence, -1 with
 * RuntimeError. */
static int
check_may_write(StreamObject *self, const char *after_eof,
                const char *in_sendfile)
{
    if (PL_UNLIKELY(self->eof)) {
        PyErr_SetString(PyExc_RuntimeError, after_eof);
        return -1;
    }
    if (PL_UNLIKELY(self->empty_waiter != NULL
                    && self->empty_waiter != Py_None))
    {
        PyErr_SetString(PyExc_RuntimeError, in_sendfile);
        return -1;
    }
    return stream_check_process(self);
}

int
stream_note_lost_write(StreamObject *self)
{
    PyObject *res
        = PyObject_CallMethod((PyObject *)self, "_note_lost_write", NULL);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

int
stream_check_is_data(PyObject *data)
{
    if (PyBytes_Check(data) || PyByteArray_Check(data)
        || PyMemoryView_Check(data))
    {
        return 0;
    }
    PyObject *name = PyType_GetName(Py_TYPE(data));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "data argument must be a bytes-like object, not %R",
                     name);
        Py_DECREF(name);
    }
    return -1;
}

/* What is larger than the high-water mark would be sent at once anyway: it is
 * sent from where it is, and only the rest is copied. */
static int
send_large(StreamObject *self, Py_buffer *view)
{
    ssize_t n;
    do {
        n = send(self->fd, view->buf, (size_t)view->len,
                 MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (!must_wait(-errno)) {
            int error = errno;
            return write_failed(self, error);
        }
        n = 0;
    }
    if (n == view->len) {
        return 0;
    }
    PyObject *rest
        = PyBytes_FromStringAndSize((char *)view->buf + n, view->len - n);
    return queue_append(&self->queue, rest) < 0
               ? -1
               : stream_watch(self, PL_SIDE_WRITE);
}

/* What it says of its length: 1; 0 for nothing; -1 with an exception, which is
 * the caller's own.  A memoryview that was released has none. */
static int
has_length(PyObject *data)
{
    return PyBytes_CheckExact(data) ? 1 : PyObject_IsTrue(data); /* call-out */
}

/* Queues what may change or be freed once we return. */
static int
append_buffer(StreamObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return stream_fatal(self, "Fatal write error on socket transport");
    }
    int rc = 0;
    if (view.len > 0 && (self->conn_lost > 0 || self->loop == NULL)) {
        rc = stream_note_lost_write(self);
    }
    else if (view.len > self->high_water && self->queue.length == 0) {
        rc = send_large(self, &view);
    }
    else if (view.len > 0) {
        PyObject *copy
            = messages_make(&self->loop->messages, view.buf, view.len);
        rc = queue_append(&self->queue, copy);
    }
    PyBuffer_Release(&view);
    return rc;
}

/* Queues, for schedule() to send.  -1 with an exception. */
static int
append_piece(StreamObject *self, PyObject *data)
{
    if (PL_UNLIKELY(!PyBytes_CheckExact(data))) {
        return append_buffer(self, data); /* call-out */
    }
    if (PL_UNLIKELY(PyBytes_GET_SIZE(data) == 0)) {
        return 0;
    }
    if (PL_UNLIKELY(self->conn_lost > 0 || self->loop == NULL)) {
        return stream_note_lost_write(self);
    }
    return queue_append(&self->queue, Py_NewRef(data));
}

const char Stream_write_doc[] = PyDoc_STR(
    "write($self, data, /)\n--\n\n"
    "Send data, without blocking.\n\n"
    "What one callback writes leaves in one system call.\n\n"
    "Args:\n"
    "    data: bytes, bytearray or memoryview; the latter two may be changed "
    "once this returns.\n\n"
    "Raises:\n"
    "    TypeError: not a bytes-like object.\n"
    "    RuntimeError: after write_eof(), or while sendfile() runs.");

PyObject *
Stream_write(StreamObject *self, PyObject *data)
{
    if (PL_UNLIKELY(!PyBytes_CheckExact(data))
        && stream_check_is_data(data) < 0)
    {
        return NULL;
    }
    if (check_may_write(self, "Cannot call write() after write_eof()",
                        "unable to write; sendfile is in progress")
        < 0)
    {
        return NULL;
    }
    int is_any = has_length(data);
    if (is_any < 0
        || (is_any > 0
            && (append_piece(self, data) < 0 || schedule(self) < 0)))
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* 0, or -1 with the exception of memoryview(item). */
static int
check_is_buffer(PyObject *item)
{
    if (PL_LIKELY(PyBytes_CheckExact(item))) {
        return 0;
    }
    PyObject *view = PyMemoryView_FromObject(item);
    Py_XDECREF(view);
    return view == NULL ? -1 : 0;
}

const char Stream_writelines_doc[] = PyDoc_STR(
    "writelines($self, list_of_data, /)\n--\n\n"
    "Send each of an iterable of bytes-like objects.\n\n"
    "Raises:\n"
    "    TypeError: an item is not a bytes-like object; nothing is sent.\n"
    "    RuntimeError: after write_eof(), or while sendfile() runs.");

PyObject *
Stream_writelines(StreamObject *self, PyObject *list)
{
    if (check_may_write(self, "Cannot call writelines() after write_eof()",
                        "unable to writelines; sendfile is in progress")
        < 0)
    {
        return NULL;
    }
    PyObject *items = PySequence_Tuple(list); /* call-out */
    if (items == NULL) {
        return NULL;
    }
    Py_ssize_t n = PyTuple_GET_SIZE(items);
    int rc = 0;
    for (Py_ssize_t i = 0; i < n && rc == 0; i++) {
        rc = check_is_buffer(PyTuple_GET_ITEM(items, i)); /* call-out */
    }
    for (Py_ssize_t i = 0; i < n && rc == 0; i++) {
        rc = append_piece(self, PyTuple_GET_ITEM(items, i));
    }
    /* What is written when this asks for a pause comes after all of them.  Of
     * a list that memory did not suffice for the first ones are sent. */
    PyObject *pending = rc < 0 ? exception_take() : NULL;
    rc = schedule(self);
    if (PL_UNLIKELY(pending != NULL)) {
        if (rc < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        exception_put(pending);
        rc = -1;
    }
    Py_DECREF(items);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_write_eof_doc[]
    = PyDoc_STR("write_eof($self, /)\n--\n\n"
              "Close the write side once all that was written is sent.");

PyObject *
Stream_write_eof(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->closing || self->eof || self->loop == NULL) {
        Py_RETURN_NONE;
    }
    if (stream_check_process(self) < 0 || stream_flush(self) < 0) {
        return NULL;
    }
    if (self->closing) {
        Py_RETURN_NONE; /* sending failed */
    }
    self->eof = true;
    if (self->queue.length == 0 && shutdown(self->fd, SHUT_WR) < 0) {
        stream_set_oserror(errno);
        return NULL;
    }
    Py_RETURN_NONE;
}

const char Stream_get_write_buffer_size_doc[]
    = PyDoc_STR("get_write_buffer_size($self, /)\n--\n\n"
              "Return how many bytes the socket has not taken yet.");

PyObject *
Stream_get_write_buffer_size(StreamObject *self, PyObject *Py_UNUSED(ignored))
{
    if (stream_check_process(self) < 0 || stream_flush(self) < 0) {
        return NULL;
    }
    return PyLong_FromSsize_t(self->queue.size);
}

/* `_buffer`: what is left, as asyncio's list of pieces. */
PyObject *
Stream_get_buffer(StreamObject *self, void *Py_UNUSED(closure))
{
    if (stream_check_process(self) < 0 || stream_flush(self) < 0) {
        return NULL;
    }
    const struct stream_queue *queue = &self->queue;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < queue->length; i++) {
        PyObject *piece = Py_NewRef(queue->pieces[queue->first + i]);
        if (i == 0 && queue->offset > 0) {
            Py_SETREF(piece, PyBytes_FromStringAndSize(
                                 PyBytes_AS_STRING(piece) + queue->offset,
                                 PyBytes_GET_SIZE(piece) - queue->offset));
        }
        if (piece == NULL || PyList_Append(list, piece) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(piece);
    }
    return list;
}
