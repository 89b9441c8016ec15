/* How a stream transport comes to be: around a socket object that was given,
 * or around a descriptor that accept4(2) returned; its beginning; and its
 * socket object and addresses, which are made when somebody asks. */
#include <Python.h>

#include "stream.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "methods.h"
#include "sched/address.h"
#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/handle.h"
#include "sched/sockfd.h"

/* asyncio's default; the low one is a quarter of it. */
#define PL_STREAM_HIGH_WATER (64 * 1024)

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
    self->kind = &stream_kind;
    return (PyObject *)self;
}

/* --- addresses --- */

/* Keeps an address of our socket as the kernel gave it, or, of a family that
 * is rare, as an object in *object.  -1 with an exception. */
static int
keep_address(struct stream_address *raw, PyObject **object,
             const struct sockaddr *sa, socklen_t length)
{
    if (length > sizeof(raw->bytes)
        || (sa->sa_family != AF_INET && sa->sa_family != AF_INET6))
    {
        Py_XSETREF(*object, address_to_python(sa, length));
        return *object == NULL ? -1 : 0;
    }
    memcpy(raw->bytes, sa, length);
    raw->length = (uint8_t)length;
    return 0;
}

typedef int (*name_fn)(int fd, struct sockaddr *sa, socklen_t *length);

/* The same with what getsockname(2) or getpeername(2) says, or the socket's
 * method of that name, where only it knows the form.  None if there is no such
 * address. */
static int
ask_address(StreamObject *self, struct stream_address *raw, PyObject **object,
            name_fn function, const char *method)
{
    struct sockaddr_storage storage;
    struct sockaddr *sa = (struct sockaddr *)&storage;
    socklen_t length = sizeof(storage);
    if (function(self->fd, sa, &length) < 0) {
        Py_XSETREF(*object, Py_NewRef(Py_None));
        return 0;
    }
    bool is_known = self->family == AF_INET || self->family == AF_INET6
                    || self->family == AF_UNIX;
    if (is_known || self->sock == NULL) {
        return keep_address(raw, object, sa, length);
    }
    Py_XSETREF(*object, PyObject_CallMethod(self->sock, method, NULL));
    if (*object == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        *object = Py_NewRef(Py_None);
    }
    return *object == NULL ? -1 : 0;
}

static PyObject *
show_address(const struct stream_address *raw, PyObject **object)
{
    if (*object == NULL && raw->length > 0) {
        *object = address_to_python(
            (const struct sockaddr *)(const void *)raw->bytes, raw->length);
        if (*object == NULL) {
            return NULL;
        }
    }
    return Py_NewRef(*object != NULL ? *object : Py_None);
}

PyObject *
Stream_get_peername(StreamObject *self, void *Py_UNUSED(closure))
{
    return show_address(&self->peer, &self->peername);
}

PyObject *
Stream_get_sockname(StreamObject *self, void *Py_UNUSED(closure))
{
    if (self->sockname == NULL && self->own.length == 0 && self->fd >= 0
        && !self->released
        && ask_address(self, &self->own, &self->sockname, getsockname,
                       "getsockname")
               < 0)
    {
        return NULL;
    }
    return show_address(&self->own, &self->sockname);
}

void
stream_keep_sockname(StreamObject *self)
{
    if (self->sockname == NULL && self->extra == NULL
        && ask_address(self, &self->own, &self->sockname, getsockname,
                       "getsockname")
               < 0)
    {
        PyErr_Clear();
    }
}

/* --- the socket object --- */

/* A closed socket of the kind that ours was, for whoever asks for it now. */
static PyObject *
closed_socket(struct module_state *state, const StreamObject *self)
{
    PyObject *sock
        = PyObject_CallFunction(state->SocketType, "iii", (int)self->family,
                                SOCK_STREAM, (int)self->proto);
    PyObject *res = sock != NULL
                        ? PyObject_CallMethodNoArgs(sock, state->str_close)
                        : NULL;
    if (res == NULL) {
        Py_CLEAR(sock);
    }
    Py_XDECREF(res);
    return sock;
}

PyObject *
stream_socket(StreamObject *self)
{
    if (self->sock != NULL || self->fd < 0) {
        return self->sock;
    }
    struct module_state *state = state_of((PyObject *)self);
    if (state == NULL) {
        return NULL;
    }
    PyObject *sock = self->released
                         ? closed_socket(state, self)
                         : sockfd_wrap(state, self->family, SOCK_STREAM,
                                       self->proto, self->fd); /* call-out */
    if (sock == NULL) {
        return NULL;
    }
    if (PL_UNLIKELY(self->sock != NULL)) {
        /* Whoever ran meanwhile (a signal handler) has asked, too. */
        PyObject *number = PyObject_CallMethod(sock, "detach", NULL);
        Py_XDECREF(number);
        Py_DECREF(sock);
        return number != NULL ? self->sock : NULL;
    }
    /* Who stood for the open file until now gives its place to the socket. */
    LoopObject *loop = self->loop;
    PyObject *former = (PyObject *)self->ends[PL_SIDE_READ];
    struct watch *watch = loop != NULL && loop->reactor != NULL
                              ? fdtable_get(&loop->reactor->fds, self->fd)
                              : NULL;
    if (watch != NULL && former != NULL && watch->owner == former) {
        watch->owner = Py_NewRef(sock);
        Py_DECREF(former);
    }
    self->sock = sock;
    return sock;
}

/* --- the loop's table of transports --- */

/* 0, or -1 with RuntimeError: another transport has that descriptor.  Somebody
 * closed it without the transport's knowledge. */
static int
check_is_free(LoopObject *loop, int fd)
{
    if ((uint32_t)fd >= loop->transports.length
        || loop->transports.by_fd[fd] == NULL)
    {
        return 0;
    }
    PyObject *other = Py_NewRef(loop->transports.by_fd[fd]);
    PyObject *is_closing = PyObject_CallMethod(other, "is_closing", NULL);
    int truth = is_closing != NULL ? PyObject_IsTrue(is_closing) : -1;
    Py_XDECREF(is_closing);
    if (truth == 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "File descriptor %d is used by transport %R", fd, other);
    }
    Py_DECREF(other);
    return truth > 0 ? 0 : -1;
}

const char Loop__transport_at_doc[] = PyDoc_STR(
    "_transport_at($self, number, /)\n--\n\n"
    "Return the transport of ours that has that descriptor, or None.");

PyObject *
Loop__transport_at(LoopObject *self, PyObject *number)
{
    int overflow;
    long fd = PyLong_AsLongAndOverflow(number, &overflow);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *transport = NULL;
    if (overflow == 0 && fd >= 0 && fd < (long)self->transports.length) {
        transport = self->transports.by_fd[fd];
    }
    return Py_NewRef(transport != NULL ? transport : Py_None);
}

static int
enlist(StreamObject *self)
{
    LoopObject *loop = self->loop;
    uint32_t needed = (uint32_t)self->fd + 1;
    if (needed > loop->transports.length) {
        uint32_t length = needed + needed / 2 + 16;
        PyObject **by_fd
            = PyMem_Realloc(loop->transports.by_fd, length * sizeof(*by_fd));
        if (by_fd == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memset(by_fd + loop->transports.length, 0,
               (length - loop->transports.length) * sizeof(*by_fd));
        loop->transports.by_fd = by_fd;
        loop->transports.length = length;
    }
    loop->transports.by_fd[self->fd] = (PyObject *)self;
    return 0;
}

void
stream_unlist(StreamObject *self)
{
    LoopObject *loop = self->loop;
    if (loop != NULL && self->fd >= 0
        && (uint32_t)self->fd < loop->transports.length
        && loop->transports.by_fd[self->fd] == (PyObject *)self)
    {
        loop->transports.by_fd[self->fd] = NULL;
    }
}

const char Stream__set_listed_doc[] = PyDoc_STR(
    "_set_listed($self, is_listed, /)\n--\n\n"
    "Let nobody else add a reader or writer to the descriptor, or let them.");

PyObject *
Stream__set_listed(StreamObject *self, PyObject *is_listed)
{
    if (is_listed != Py_True) {
        stream_unlist(self);
    }
    else if (self->loop != NULL && !self->released && enlist(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- making --- */

int
stream_set_protocol(StreamObject *self, PyObject *protocol)
{
    struct module_state *state = state_of((PyObject *)self);
    if (state == NULL) {
        return -1;
    }
    int is_buffered
        = PyObject_IsInstance(protocol, state->AsyncioBufferedProtocol);
    if (is_buffered < 0) {
        return -1;
    }
    self->is_buffered = is_buffered;
    self->feeds_reader = stream_protocol_feeds_reader(state, protocol);
    self->protocol_connected = true;
    PyObject *old = self->protocol;
    self->protocol = Py_NewRef(protocol);
    Py_XDECREF(old); /* call-out */
    return 0;
}

/* Schedules connection_made(), and then reading and the waiter. */
static int
schedule_begin(StreamObject *self, PyObject *waiter)
{
    struct module_state *state = self->loop->state;
    PyObject *method
        = PyObject_GetAttr(self->protocol, state->str_connection_made);
    PyObject *made = method != NULL
                         ? stream_call_soon(self, method, (PyObject *)self)
                         : NULL;
    Py_XDECREF(method);
    if (made == NULL) {
        return -1;
    }
    int rc = stream_call_own_soon(self, "_begin", waiter);
    if (rc < 0) {
        /* Nor is the protocol to be told of what is abandoned. */
        PyObject *exc = exception_take();
        PyObject *res = PyObject_CallMethodNoArgs(made, state->str_cancel);
        Py_XDECREF(res);
        exception_put(exc);
    }
    Py_DECREF(made);
    return rc;
}

/* The server first: one that has been closed meanwhile takes us no more, and
 * then the protocol is told nothing. */
static int
attach_and_begin(StreamObject *self, PyObject *waiter, PyObject *server)
{
    if (server == NULL) {
        return schedule_begin(self, waiter);
    }
    if (stream_join_server(self, server) < 0) {
        return -1;
    }
    if (schedule_begin(self, waiter) == 0) {
        return 0;
    }
    PyObject *exc = exception_take();
    if (stream_leave_server(self) < 0) {
        PyErr_WriteUnraisable(server);
    }
    exception_put(exc);
    return -1;
}

/* Gives up what is half made: it can do nothing any more, and neither
 * descriptor nor socket is its own.  The current exception stays.  -1. */
static int
abandon(StreamObject *self)
{
    PyObject *exc = exception_take();
    self->released = true;
    self->closing = true;
    self->conn_lost = 1;
    stream_unlink_flush(self);
    stream_unwatch(self, PL_SIDE_WRITE);
    stream_unwatch(self, PL_SIDE_READ);
    stream_queue_clear(&self->queue);
    stream_unlist(self);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->sock);
    self->fd = -1;
    LoopObject *loop = self->loop;
    self->loop = NULL;
    Py_DECREF(loop); /* call-out */
    exception_put(exc);
    return -1;
}

/* What both ways of making have in common, from loop, fd, family, proto and
 * context on.  -1 with an exception: the transport was abandoned, and the
 * descriptor is still the caller's. */
static int
complete(StreamObject *self, PyObject *protocol, PyObject *waiter,
         PyObject *server)
{
    if (self->proto == IPPROTO_TCP) {
        int on = 1;
        (void)setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (stream_set_protocol(self, protocol) == 0 && enlist(self) == 0
        && attach_and_begin(self, waiter, server) == 0)
    {
        return 0;
    }
    return abandon(self);
}

/* The peer is asked for at once, since a socket that was reset has none any
 * more.  The dictionary that brings it need not stay. */
static int
take_extra(StreamObject *self, PyObject *extra)
{
    PyObject *peername = extra != Py_None && PyDict_Check(extra)
                             ? PyDict_GetItemString(extra, "peername")
                             : NULL;
    if (peername != NULL) {
        Py_XSETREF(self->peername, Py_NewRef(peername));
        if (PyDict_GET_SIZE(extra) > 1) {
            Py_XSETREF(self->given, Py_NewRef(extra));
        }
        return 0;
    }
    Py_XSETREF(self->given, extra == Py_None ? NULL : Py_NewRef(extra));
    return ask_address(self, &self->peer, &self->peername, getpeername,
                       "getpeername");
}

int
stream_set_up(StreamObject *self, struct module_state *state, PyObject *loop,
              PyObject *sock, PyObject *protocol, PyObject *waiter,
              PyObject *extra, PyObject *server, PyObject *context)
{
    if (self->loop != NULL || self->released) {
        PyErr_SetString(PyExc_RuntimeError, "the transport is set up already");
        return -1;
    }
    if (context != Py_None && !PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError,
                     "context must be a contextvars.Context or None, not %R",
                     context);
        return -1;
    }
    int family, proto;
    int fd = sockfd_get(state, sock, "transport");
    if (fd < 0 || loop_check_usable((LoopObject *)loop) < 0
        || sockfd_member(state, sock, "family", &family) < 0
        || sockfd_member(state, sock, "proto", &proto) < 0)
    {
        return -1;
    }
    Py_XSETREF(self->context, context == Py_None ? PyContext_CopyCurrent()
                                                 : Py_NewRef(context));
    if (self->context == NULL) {
        return -1;
    }
    self->fd = fd;
    self->family = (uint16_t)family;
    self->proto = (uint16_t)proto;
    self->loop = (LoopObject *)Py_NewRef(loop);
    self->sock = Py_NewRef(sock);
    if (take_extra(self, extra) < 0) {
        return abandon(self);
    }
    return complete(self, protocol, waiter, server == Py_None ? NULL : server);
}

int
Stream_tp_init(StreamObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop",  "sock",   "protocol", "waiter",
                            "extra", "server", "context",  NULL};
    struct module_state *state = state_of((PyObject *)self);
    PyObject *loop, *sock, *protocol, *waiter = Py_None, *extra = Py_None;
    PyObject *server = Py_None, *context = Py_None;
    if (state == NULL
        || !PyArg_ParseTupleAndKeywords(
            args, kwargs, "O!OO|OOOO:StreamTransport", names, state->LoopType,
            &loop, &sock, &protocol, &waiter, &extra, &server, &context))
    {
        return -1;
    }
    return stream_set_up(self, state, loop, sock, protocol, waiter, extra,
                         server, context);
}

int
stream_import_type(struct module_state *state)
{
    return state_import_once(&state->StreamTransport, "pyloop._transport",
                             "StreamTransport")
                   != NULL
               ? 0
               : -1;
}

PyObject *
stream_accept(LoopObject *loop, int fd, int family, int proto,
              const struct sockaddr *from, socklen_t from_length,
              PyObject *protocol, PyObject *server, PyObject *context)
{
    struct module_state *state = loop->state;
    if (check_is_free(loop, fd) < 0) {
        return NULL;
    }
    StreamObject *self = (StreamObject *)Stream_tp_new(
        (PyTypeObject *)state->StreamTransport, NULL, NULL);
    if (self == NULL) {
        return NULL;
    }
    self->context = Py_NewRef(context);
    self->fd = fd;
    self->family = (uint16_t)family;
    self->proto = (uint16_t)proto;
    self->loop = (LoopObject *)Py_NewRef(loop);
    if (keep_address(&self->peer, &self->peername, from, from_length) < 0) {
        self->released = true;
        Py_DECREF(self);
        return NULL;
    }
    if (complete(self, protocol, Py_None, server) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* --- beginning --- */

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

const char Stream__begin_doc[] = PyDoc_STR(
    "_begin($self, waiter, /)\n--\n\n"
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
