/* The datagram transport: reading and sending.
 *
 * What sendto() is given is sent at once when nothing is queued, since a
 * protocol's error_received() is called within the call that failed.  One
 * recvfrom(2) a datagram: what recvmmsg(2) took could not be left to the
 * kernel when a callback pauses or closes the transport.
 *
 * An exception in datagram_received() is reported and the transport goes on,
 * as in asyncio: anybody may send anything to an open port. */
#include <Python.h>

#include "dgram.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "sched/address.h"
#include "sched/args.h"
#include "sched/compat.h"
#include "sched/errors.h"

/* What each queued datagram counts beside its bytes, as in asyncio. */
#if PY_VERSION_HEX >= 0x030D0000
#define PL_DGRAM_HEADER 8
#else
#define PL_DGRAM_HEADER 0
#endif

enum sent {
    SENT,
    SENT_NOT_YET, /* the socket is full */
    SENT_FAILED,  /* with an exception */
};

static const char read_error[] = "Fatal read error on datagram transport";
static const char write_error[] = "Fatal write error on datagram transport";

/* --- peers --- */

static struct dgram_peer *
peer_entry(DgramObject *self, const struct sockaddr *sa)
{
    uint32_t hash;
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)sa;
        hash = in->sin_addr.s_addr ^ in->sin_port;
    }
    else {
        const struct sockaddr_in6 *in6 = (const void *)sa;
        memcpy(&hash, in6->sin6_addr.s6_addr + 12, sizeof(hash));
        hash ^= in6->sin6_port;
    }
    hash *= 2654435761u; /* Knuth's: spreads to the upper bits */
    return &self->peers[hash >> 24 & (self->n_peers - 1)];
}

static void
forget_peers(DgramObject *self)
{
    struct dgram_peer *peers = self->peers;
    uint32_t n = self->n_peers;
    self->recent = NULL;
    self->peers = NULL;
    self->n_peers = 0;
    for (uint32_t i = 0; i < n; i++) {
        Py_XDECREF(peers[i].object); /* plain tuples: no call-out */
    }
    PyMem_Free(peers);
}

/* Makes room for more peers: forgets those that there are.  -1 with
 * MemoryError. */
static int
grow_peers(DgramObject *self)
{
    uint32_t n = self->n_peers == 0 ? 1 : self->n_peers * 16;
    struct dgram_peer *peers = PyMem_Calloc(n, sizeof(*peers));
    if (peers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    forget_peers(self);
    self->peers = peers;
    self->n_peers = n;
    return 0;
}

/* The address of a datagram that was received.  New reference. */
static PyObject *
peer_object(DgramObject *self, const struct sockaddr *sa, socklen_t length)
{
    self->recent = NULL;
    if (length == 0 || length > sizeof(self->base.peer.bytes)
        || (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
    {
        return address_to_python(sa, length);
    }
    if (self->peers == NULL && grow_peers(self) < 0) {
        return NULL;
    }
    struct dgram_peer *peer = peer_entry(self, sa);
    if (peer->object == NULL || peer->raw.length != length
        || memcmp(peer->raw.bytes, sa, length) != 0)
    {
        if (peer->object != NULL && self->n_peers < PL_DGRAM_PEERS) {
            if (grow_peers(self) < 0) {
                return NULL;
            }
            peer = peer_entry(self, sa);
        }
        PyObject *object = address_to_python(sa, length);
        if (object == NULL) {
            return NULL;
        }
        memcpy(peer->raw.bytes, sa, length);
        peer->raw.length = (uint8_t)length;
        Py_XSETREF(peer->object, object);
    }
    self->recent = peer;
    return Py_NewRef(peer->object);
}

/* --- reading --- */

/* Passes the current exception, an OSError, to the protocol.  -1 with what
 * that raised. */
static int
error_received(DgramObject *self)
{
    PyObject *exc = exception_take();
    PyObject *protocol = Py_XNewRef(self->base.protocol);
    PyObject *res = NULL;
    if (protocol != NULL) {
        res = PyObject_CallMethodOneArg(
            protocol, self->base.loop->state->str_error_received, exc);
    }
    else {
        res = Py_NewRef(Py_None);
    }
    Py_XDECREF(exc);
    Py_XDECREF(protocol);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* 1: received; 0: nothing there, or an error that was passed on; -1 with an
 * exception. */
static int
receive_one(DgramObject *self, char *buffer)
{
    struct sockaddr_storage storage;
    struct sockaddr *from = (struct sockaddr *)&storage;
    socklen_t length = sizeof(storage);
    ssize_t n = recvfrom(self->base.fd, buffer, PL_STREAM_READ_BYTES,
                         MSG_DONTWAIT, from, &length);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
            return 0;
        }
        stream_set_oserror(errno);
        return error_received(self);
    }
    PyObject *data = messages_make(&self->base.loop->messages, buffer, n);
    PyObject *address = peer_object(self, from, length);
    if (data == NULL || address == NULL) {
        Py_XDECREF(data);
        Py_XDECREF(address);
        return stream_fatal(&self->base, read_error);
    }
    PyObject *args[3] = {Py_NewRef(self->base.protocol), data, address};
    PyObject *res = PyObject_VectorcallMethod(
        self->base.loop->state->str_datagram_received, args,
        3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL); /* call-out */
    Py_DECREF(args[0]);
    Py_DECREF(data);
    Py_DECREF(address);
    Py_XDECREF(res);
    return res == NULL ? -1 : 1;
}

static int
read_ready(StreamObject *base)
{
    DgramObject *self = (DgramObject *)base;
    int limit = self->batch.size;
    int n = 0;
    while (n < limit && base->loop != NULL && base->conn_lost == 0
           && !base->closing && !base->paused)
    {
        /* Asked for each time: a callback may have closed the loop. */
        char *buffer = stream_buffer(base->loop);
        if (buffer == NULL) {
            return stream_fatal(base, read_error);
        }
        int rc = receive_one(self, buffer);
        if (rc < 0) {
            return -1;
        }
        if (rc == 0) {
            break;
        }
        n++;
    }
    batch_note(&self->batch, n);
    return 0;
}

/* --- sending --- */

/* Only the socket module can tell where that goes: it looks up a name, and
 * waits for that, as in asyncio. */
static enum sent
send_by_name(DgramObject *self, PyObject *data, PyObject *address)
{
    PyObject *sock = stream_socket(&self->base);
    PyObject *res = sock != NULL ? PyObject_CallMethod(sock, "sendto", "OO",
                                                       data, address)
                                 : NULL;
    if (res != NULL) {
        Py_DECREF(res);
        return SENT;
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError)
        || PyErr_ExceptionMatches(PyExc_InterruptedError))
    {
        PyErr_Clear();
        return SENT_NOT_YET;
    }
    return SENT_FAILED;
}

/* `data` is what `bytes` and `size` are of. */
static enum sent
send_one(DgramObject *self, PyObject *data, const void *bytes, size_t size,
         PyObject *address)
{
    struct sockaddr_storage storage;
    const struct sockaddr *to = NULL;
    socklen_t length = 0;
    if (self->is_connected && (!self->is_nameless || address == Py_None)) {
        /* As send(2): the kernel knows where to. */
    }
    else if (self->recent != NULL && address == self->recent->object) {
        to = (const struct sockaddr *)(const void *)self->recent->raw.bytes;
        length = self->recent->raw.length;
    }
    else {
        int rc = address_from_python(self->base.family, address, "sendto",
                                     &storage, &length);
        if (rc <= 0) {
            return rc < 0 ? SENT_FAILED : send_by_name(self, data, address);
        }
        to = (struct sockaddr *)&storage;
    }
    ssize_t n;
    do {
        n = sendto(self->base.fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL, to,
                   length);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        return SENT;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return SENT_NOT_YET;
    }
    stream_set_oserror(errno);
    return SENT_FAILED;
}

/* The answer to SENT_FAILED.  -1 with an exception. */
static int
send_failed(DgramObject *self)
{
    return PyErr_ExceptionMatches(PyExc_OSError)
               ? error_received(self)
               : stream_fatal(&self->base, write_error);
}

static Py_ssize_t
queued_size(PyObject *piece)
{
    return PyBytes_GET_SIZE(PyTuple_GET_ITEM(piece, 0)) + PL_DGRAM_HEADER;
}

/* Takes `piece` off the front, unless that is another by now. */
static void
pop(struct stream_queue *queue, PyObject *piece)
{
    if (queue->length == 0 || queue->pieces[queue->first] != piece) {
        return;
    }
    queue->size -= queued_size(piece);
    queue->first++;
    queue->length--;
    if (queue->length == 0) {
        stream_queue_clear(queue);
    }
    Py_DECREF(piece); /* the caller has another reference */
}

static int
write_ready(StreamObject *base)
{
    DgramObject *self = (DgramObject *)base;
    struct stream_queue *queue = &base->queue;
    while (base->loop != NULL && queue->length > 0) {
        PyObject *piece = Py_NewRef(queue->pieces[queue->first]);
        PyObject *data = PyTuple_GET_ITEM(piece, 0);
        enum sent sent = send_one(self, data, PyBytes_AS_STRING(data),
                                  (size_t)PyBytes_GET_SIZE(data),
                                  PyTuple_GET_ITEM(piece, 1)); /* call-out */
        if (sent != SENT_NOT_YET) {
            pop(queue, piece);
        }
        Py_DECREF(piece); /* call-out */
        if (sent == SENT_FAILED) {
            /* The rest goes when the socket is ready again, which it is. */
            return send_failed(self);
        }
        if (sent == SENT_NOT_YET) {
            break;
        }
    }
    if (base->loop != NULL && base->protocol_paused
        && queue->size <= base->low_water)
    {
        /* call-out: may send, close, anything */
        PyObject *res = PyObject_CallMethod((PyObject *)base,
                                            "_maybe_resume_protocol", NULL);
        if (res == NULL) {
            return -1;
        }
        Py_DECREF(res);
    }
    if (base->loop == NULL || queue->length > 0) {
        return 0;
    }
    stream_unwatch(base, PL_SIDE_WRITE);
    return stream_after_drained(base);
}

static const struct stream_kind dgram_kind = {
    .read_ready = read_ready,
    .write_ready = write_ready,
    .read_failed = "Exception in callback DatagramTransport._read_ready()",
    .write_failed = "Exception in callback DatagramTransport._write_ready()",
};

static int
enqueue(DgramObject *self, PyObject *data, PyObject *address)
{
    PyObject *copy = PyBytes_FromObject(data); /* itself, if it is bytes */
    PyObject *piece = copy != NULL ? PyTuple_Pack(2, copy, address) : NULL;
    Py_XDECREF(copy);
    if (piece == NULL
        || stream_queue_push(&self->base.queue, piece, queued_size(piece)) < 0
        || stream_watch(&self->base, PL_SIDE_WRITE) < 0)
    {
        return -1;
    }
    return stream_maybe_pause(&self->base);
}

/* Sends, or queues what must wait.  -1 with an exception. */
static int
send_or_enqueue(DgramObject *self, PyObject *data, PyObject *address)
{
    if (self->base.queue.length > 0) {
        return enqueue(self, data, address);
    }
    enum sent sent;
    if (PL_LIKELY(PyBytes_CheckExact(data))) {
        sent = send_one(self, data, PyBytes_AS_STRING(data),
                        (size_t)PyBytes_GET_SIZE(data), address);
    }
    else {
        Py_buffer view;
        if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
            return stream_fatal(&self->base, write_error);
        }
        sent = send_one(self, data, view.buf, (size_t)view.len, address);
        PyObject *pending = exception_take();
        PyBuffer_Release(&view); /* call-out */
        if (pending != NULL) {
            exception_put(pending);
        }
    }
    if (PL_LIKELY(sent == SENT)) {
        return 0;
    }
    return sent == SENT_FAILED ? send_failed(self)
                               : enqueue(self, data, address);
}

/* The address to send to: that of the transport, if it has one.  Borrowed;
 * NULL with ValueError. */
static PyObject *
choose_address(DgramObject *self, PyObject *address)
{
    PyObject *own = self->address;
    if (own == NULL) {
        return address != NULL ? address : Py_None;
    }
    if (address != NULL && address != Py_None) {
        int same = PyObject_RichCompareBool(address, own, Py_EQ);
        if (same <= 0) {
            if (same == 0) {
                PyErr_Format(PyExc_ValueError,
                             "Invalid address: must be None or %S", own);
            }
            return NULL;
        }
    }
    return own;
}

PyDoc_STRVAR(Dgram_sendto_doc,
             "sendto($self, /, data, addr=None)\n--\n\n"
             "Send a datagram, without blocking; it may be empty.\n\n"
             "Args:\n"
             "    data: bytes, bytearray or memoryview.\n"
             "    addr: where to; None for a connected transport.\n\n"
             "An OSError is passed to the protocol's error_received().\n\n"
             "Raises:\n"
             "    TypeError: not a bytes-like object.\n"
             "    ValueError: connected to another address.");

static PyObject *
Dgram_sendto(DgramObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"data", "addr"};
    static const struct args_spec spec = {"sendto", names, 2, 2, 1};
    PyObject *bound[2];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0
        || (!PyBytes_CheckExact(bound[0])
            && stream_check_is_data(bound[0]) < 0)
        || stream_check_process(&self->base) < 0)
    {
        return NULL;
    }
    PyObject *address = choose_address(self, bound[1]); /* call-out */
    if (address == NULL) {
        return NULL;
    }
    if (PL_UNLIKELY(self->base.loop == NULL || self->base.released
                    || (self->base.conn_lost > 0 && self->address != NULL)))
    {
        if (stream_note_lost_write(&self->base) < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    Py_INCREF(address);
    int rc = send_or_enqueue(self, bound[0], address);
    Py_DECREF(address);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* `_buffer`: what is queued, as asyncio's. */
static PyObject *
Dgram_get_buffer(DgramObject *self, void *Py_UNUSED(closure))
{
    const struct stream_queue *queue = &self->base.queue;
    PyObject *list = PyList_New(0); /* call-out: GC, which may empty it */
    for (uint32_t i = 0; list != NULL && i < queue->length; i++) {
        if (PyList_Append(list, queue->pieces[queue->first + i]) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

/* --- the type --- */

static PyObject *
Dgram_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    DgramObject *self = (DgramObject *)Stream_tp_new(type, args, kwargs);
    if (self != NULL) {
        self->base.kind = &dgram_kind;
        batch_init(&self->batch);
    }
    return (PyObject *)self;
}

static int
Dgram_tp_init(DgramObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[]
        = {"loop", "sock", "protocol", "address", "waiter", "extra", NULL};
    struct module_state *state = state_of((PyObject *)self);
    PyObject *loop, *sock, *protocol, *address = Py_None;
    PyObject *waiter = Py_None, *extra = Py_None;
    if (state == NULL
        || !PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!OO|OOO:DatagramTransport", names, state->LoopType,
            &loop, &sock, &protocol, &address, &waiter, &extra)
        || stream_set_up(&self->base, state, loop, sock, protocol, waiter,
                         extra, Py_None, Py_None)
               < 0)
    {
        return -1;
    }
    struct sockaddr_storage peer;
    socklen_t length = sizeof(peer);
    self->is_connected
        = getpeername(self->base.fd, (struct sockaddr *)&peer, &length) == 0;
    /* An AF_UNIX socket that is not bound. */
    self->is_nameless = length <= sizeof(peer.ss_family);
    Py_XSETREF(self->address, address == Py_None ? NULL : Py_NewRef(address));
    return 0;
}

static int
Dgram_tp_traverse(DgramObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->address);
    const struct stream_queue *queue = &self->base.queue;
    for (uint32_t i = 0; i < queue->length; i++) {
        Py_VISIT(queue->pieces[queue->first + i]);
    }
    return Stream_tp_traverse(&self->base, visit, arg);
}

static int
Dgram_tp_clear(DgramObject *self)
{
    Py_CLEAR(self->address);
    /* What is queued unsent may be addressed to something that holds us. */
    stream_queue_clear(&self->base.queue);
    return Stream_tp_clear(&self->base);
}

static void
Dgram_tp_dealloc(DgramObject *self)
{
    PyObject_GC_UnTrack(self);
    /* First: who is asked who has that number must not find us any more. */
    stream_unlist(&self->base);
    forget_peers(self);
    Py_CLEAR(self->address); /* call-out */
    Stream_tp_dealloc(&self->base);
}

static PyMethodDef Dgram_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))Dgram_sendto,
     METH_FASTCALL | METH_KEYWORDS, Dgram_sendto_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Dgram_getset[] = {
    {"_buffer", (getter)Dgram_get_buffer, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef Dgram_members[] = {
    {"_address", T_OBJECT, offsetof(DgramObject, address), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Dgram_doc,
             "DgramCore(loop, sock, protocol, address=None, waiter=None, "
             "extra=None)\n--\n\n"
             "The C half of pyloop's datagram transport.");

static PyType_Slot Dgram_slots[] = {
    {Py_tp_doc, (void *)Dgram_doc},      {Py_tp_new, Dgram_tp_new},
    {Py_tp_init, Dgram_tp_init},         {Py_tp_dealloc, Dgram_tp_dealloc},
    {Py_tp_traverse, Dgram_tp_traverse}, {Py_tp_clear, Dgram_tp_clear},
    {Py_tp_methods, Dgram_methods},      {Py_tp_members, Dgram_members},
    {Py_tp_getset, Dgram_getset},        {0, NULL},
};

/* Not immutable: neither is what it inherits. */
static PyType_Spec Dgram_spec = {
    .name = "pyloop._core.DgramCore",
    .basicsize = sizeof(DgramObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Dgram_slots,
};

int
dgram_init(PyObject *module, struct module_state *state)
{
    state->DgramType = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &Dgram_spec, (PyObject *)state->StreamType);
    return state->DgramType == NULL
               ? -1
               : PyModule_AddObjectRef(module, "DgramCore",
                                       (PyObject *)state->DgramType);
}
