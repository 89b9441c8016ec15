/* Listening sockets.
 *
 * A Listener is the runnable that stands in the watch of its socket.  Each
 * time that is ready it accepts a few connections and makes a protocol and a
 * StreamTransport for each, with no coroutine, task and future per connection.
 * TLS and debug mode go through asyncio's own coroutine instead: a handshake
 * costs a hundred times what that does.
 *
 * Re-entrancy: the protocol factory may close the server or the loop; a
 * stopped Listener has `serving` false and nothing else that is used. */
#include <Python.h>

#include "server.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "batch.h"
#include "methods.h"
#include "sched/address.h"
#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/sockfd.h"
#include "stream.h"

typedef struct {
    struct runnable head;
    LoopObject *loop;  /* owned */
    PyObject *sock;    /* owned; what listens */
    PyObject *factory; /* owned: makes a protocol */
    PyObject *server;  /* owned, or NULL */
    PyObject *slow;    /* owned: what takes (conn, address) in debug mode and
                            with TLS */
    PyObject *context; /* owned: a copy of it for each connection */
    PyObject *retry;   /* owned: the TimerHandle that will go on, or NULL */
    int fd;
    int family;
    int proto;
    struct batch batch;
    bool is_tls;
    bool serving;
} ListenerObject;

/* --- starting and stopping --- */

static void
cancel_retry(ListenerObject *self)
{
    PyObject *retry = self->retry;
    self->retry = NULL;
    if (retry != NULL) {
        PyObject *res
            = PyObject_CallMethodNoArgs(retry, self->loop->state->str_cancel);
        if (res == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(res);
        Py_DECREF(retry);
    }
}

static int
watch_socket(ListenerObject *self)
{
    PyObject *taken;
    int rc = loop_watch(self->loop, self->fd, self->sock, PL_SIDE_READ,
                        (PyObject *)self, PL_WAIT_PERSISTENT, &taken);
    if (rc > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "somebody waits already to read from %R", self->sock);
    }
    return rc == 0 ? 0 : -1;
}

static void
unwatch_socket(ListenerObject *self)
{
    LoopObject *loop = self->loop;
    if (loop_watcher(loop, self->fd, PL_SIDE_READ, NULL) == (PyObject *)self) {
        Py_DECREF(loop_unwatch(loop, self->fd, PL_SIDE_READ));
    }
}

void
listener_stop(PyObject *listener)
{
    ListenerObject *self = (ListenerObject *)listener;
    if (!self->serving) {
        return;
    }
    self->serving = false;
    unwatch_socket(self);
    cancel_retry(self); /* call-out */
}

/* --- accepting --- */

/* Errors of one connection, which is out of the queue and gone; accept(2) has
 * the list. */
static bool
is_of_the_connection(int error)
{
    switch (error) {
    case ECONNABORTED:
    case EINTR:
    case EPROTO:
    case EPERM:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENONET:
        return true;
    default:
        return false;
    }
}

static bool
is_lack_of_resources(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS
           || error == ENOMEM;
}

/* The socket goes on being ready, so it is not looked at for a while.  The
 * connection stays in its queue. */
static int
pause_accepting(ListenerObject *self, int error)
{
    stream_set_oserror(error);
    PyObject *exc = exception_take();
    PyObject *retry
        = PyObject_CallMethod((PyObject *)self->loop, "_pause_accepting",
                              "OOO", (PyObject *)self, self->sock, exc);
    Py_XDECREF(exc);
    if (retry == NULL) {
        return -1; /* the loop ends, and tries again if it is run again */
    }
    unwatch_socket(self);
    cancel_retry(self);
    self->retry = retry;
    if (!self->serving) {
        cancel_retry(self); /* the handler has closed the server */
    }
    return 0;
}

/* The listening socket itself is gone or broken, and would be for ever: takes
 * and reports the current exception. */
static int
fail(ListenerObject *self)
{
    LoopObject *loop = self->loop;
    PyObject *server = Py_XNewRef(self->server);
    PyObject *exc = exception_take();
    listener_stop((PyObject *)self);
    exception_put(exc);
    int rc = loop_report(loop, "Exception in callback accept()",
                         loop->state->str_socket, self->sock);
    Py_XDECREF(server);
    return rc;
}

static int
fail_with(ListenerObject *self, int error)
{
    stream_set_oserror(error);
    return fail(self);
}

/* Reports that there will be no transport for a connection. */
static int
report_not_made(ListenerObject *self, PyObject *protocol)
{
    if (errors_ends_loop()) {
        return -1;
    }
    return loop_report(
        self->loop, "Error on transport creation for incoming connection",
        protocol != NULL ? self->loop->state->str_protocol : NULL, protocol);
}

/* Makes protocol and transport, in the present context.  The descriptor is
 * taken over.  -1 with an exception that must end the loop. */
static int
make_transport(ListenerObject *self, int fd, const struct sockaddr *from,
               socklen_t from_length, PyObject *context)
{
    PyObject *protocol = PyObject_CallNoArgs(self->factory); /* call-out */
    PyObject *transport = NULL;
    if (protocol != NULL && self->serving) {
        transport
            = stream_accept(self->loop, fd, self->family, self->proto, from,
                            from_length, protocol, self->server, context);
    }
    int rc = 0;
    if (transport == NULL) {
        close(fd);
        /* Else the factory has closed the server: nobody is to blame. */
        if (PyErr_Occurred()) {
            rc = report_not_made(self, protocol);
        }
    }
    Py_XDECREF(transport);
    Py_XDECREF(protocol);
    return rc;
}

static int
connect_fast(ListenerObject *self, int fd, const struct sockaddr *from,
             socklen_t from_length)
{
    PyObject *context = PyContext_Copy(self->context);
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        close(fd);
        return report_not_made(self, NULL);
    }
    int rc = make_transport(self, fd, from, from_length, context);
    if (PyContext_Exit(context) < 0) {
        rc = -1;
    }
    Py_DECREF(context);
    return rc;
}

static int
connect_slow(ListenerObject *self, int fd, const struct sockaddr *from,
             socklen_t from_length)
{
    PyObject *conn = sockfd_wrap(self->loop->state, self->family, SOCK_STREAM,
                                 self->proto, fd);
    if (conn == NULL) {
        close(fd);
        return report_not_made(self, NULL);
    }
    PyObject *address = address_to_python(from, from_length);
    PyObject *res
        = address != NULL
              ? PyObject_CallFunctionObjArgs(self->slow, conn, address, NULL)
              : NULL;
    Py_DECREF(conn);
    Py_XDECREF(address);
    int rc = res == NULL ? report_not_made(self, NULL) : 0;
    Py_XDECREF(res);
    return rc;
}

/* 1: accepted, or skipped; 0: nothing is there, or nothing more can be done
 * now; -1 with an exception that must end the loop. */
static int
accept_one(ListenerObject *self)
{
    struct sockaddr_storage storage;
    struct sockaddr *from = (struct sockaddr *)&storage;
    socklen_t from_length = sizeof(storage);
    int fd
        = accept4(self->fd, from, &from_length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (PL_UNLIKELY(fd < 0)) {
        int error = errno;
        if (error == EAGAIN || error == EWOULDBLOCK) {
            return 0;
        }
        if (is_of_the_connection(error)) {
            return 1;
        }
        return is_lack_of_resources(error) ? pause_accepting(self, error)
                                           : fail_with(self, error);
    }
    int rc = self->is_tls || self->loop->debug
                 ? connect_slow(self, fd, from, from_length)
                 : connect_fast(self, fd, from, from_length);
    return rc < 0 ? -1 : 1;
}

/* -1 with an exception that must end the loop. */
static int
accept_batch(ListenerObject *self)
{
    int limit = self->batch.size;
    int n = 0;
    int rc = 1;
    while (rc > 0 && n < limit && self->serving) {
        /* A user may have closed it: its number may be another's by now. */
        if (sockfd_get(self->loop->state, self->sock, "accept") != self->fd) {
            if (PyErr_Occurred() && errors_ends_loop()) {
                return -1; /* Ctrl-C while that was put into words */
            }
            PyErr_Clear();
            return fail_with(self, EBADF);
        }
        rc = accept_one(self); /* call-out */
        n += rc > 0;
    }
    batch_note(&self->batch, n);
    if (rc >= 0 && self->serving && self->retry == NULL
        && loop_watch_again(self->loop, self->fd, self->sock, PL_SIDE_READ,
                            (PyObject *)self, PL_WAIT_PERSISTENT)
               != 0)
    {
        return fail(self); /* the poller has refused it, twice */
    }
    return rc < 0 ? -1 : 0;
}

static int
listener_run(struct runnable *runnable, LoopObject *loop)
{
    ListenerObject *self = (ListenerObject *)runnable;
    loop->ready.must_poll = true;
    if (!self->serving || self->retry != NULL) {
        return 0; /* stopped, or paused, when its turn came */
    }
    loop_leave_task(loop);
    PyObject *context = Py_NewRef(self->context);
    int rc = PyContext_Enter(context);
    if (rc == 0) {
        rc = accept_batch(self);
        if (PyContext_Exit(context) < 0) {
            rc = -1;
        }
    }
    Py_DECREF(context);
    return rc;
}

/* --- the loop's methods --- */

const char Loop__listen_doc[] = PyDoc_STR(
    "_listen($self, sock, factory, server, slow, is_tls, /)\n--\n\n"
    "Accept connections on a listening socket, and make a protocol and a "
    "StreamTransport for each.\n\n"
    "Args:\n"
    "    slow: called with (conn, address) instead, in debug mode and with "
    "TLS.\n\n"
    "Returns:\n    A Listener.");

PyObject *
Loop__listen(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {NULL, NULL, NULL, NULL, NULL};
    static const struct args_spec spec = {"_listen", names, 5, 5, 5};
    struct module_state *state = self->state;
    PyObject *bound[5];
    int family, proto;
    if (loop_check_usable(self) < 0
        || args_bind(&spec, args, nargs, kwnames, bound) < 0)
    {
        return NULL;
    }
    /* Now, since the first connection may be the last descriptor. */
    if (stream_import_type(state) < 0) {
        return NULL;
    }
    int fd = sockfd_get(state, bound[0], "create_server");
    if (fd < 0 || sockfd_member(state, bound[0], "family", &family) < 0
        || sockfd_member(state, bound[0], "proto", &proto) < 0)
    {
        return NULL;
    }
    int is_tls = PyObject_IsTrue(bound[4]);
    PyObject *context = is_tls >= 0 ? PyContext_CopyCurrent() : NULL;
    ListenerObject *listener
        = context != NULL
              ? PyObject_GC_New(ListenerObject, state->ListenerType)
              : NULL;
    if (listener == NULL) {
        Py_XDECREF(context);
        return NULL;
    }
    listener->head.run = listener_run;
    listener->loop = (LoopObject *)Py_NewRef(self);
    listener->sock = Py_NewRef(bound[0]);
    listener->factory = Py_NewRef(bound[1]);
    listener->server = bound[2] != Py_None ? Py_NewRef(bound[2]) : NULL;
    listener->slow = Py_NewRef(bound[3]);
    listener->context = context;
    listener->retry = NULL;
    listener->fd = fd;
    listener->family = family;
    listener->proto = proto;
    batch_init(&listener->batch);
    listener->is_tls = is_tls;
    listener->serving = true;
    PyObject_GC_Track(listener);
    if (watch_socket(listener) < 0) {
        listener->serving = false;
        Py_DECREF(listener);
        return NULL;
    }
    return (PyObject *)listener;
}

/* --- the type --- */

PyDoc_STRVAR(Listener_stop_doc, "stop($self, /)\n--\n\n"
                                "Accept no more.");

static PyObject *
Listener_stop(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    listener_stop(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Listener_resume_doc,
             "resume($self, /)\n--\n\n"
             "Accept again, after a pause for lack of descriptors.");

static PyObject *
Listener_resume(ListenerObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->retry != NULL && self->serving) {
        Py_CLEAR(self->retry);
        if (loop_check_usable(self->loop) < 0 || watch_socket(self) < 0) {
            self->serving = false;
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef Listener_methods[] = {
    {"stop", Listener_stop, METH_NOARGS, Listener_stop_doc},
    {"resume", (PyCFunction)Listener_resume, METH_NOARGS, Listener_resume_doc},
    {NULL, NULL, 0, NULL},
};

static int
Listener_tp_traverse(ListenerObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->sock);
    Py_VISIT(self->factory);
    Py_VISIT(self->server);
    Py_VISIT(self->slow);
    Py_VISIT(self->context);
    Py_VISIT(self->retry);
    return 0;
}

/* Loop and socket stay: it may be in the ready queue. */
static int
Listener_tp_clear(ListenerObject *self)
{
    self->serving = false;
    Py_CLEAR(self->factory);
    Py_CLEAR(self->server);
    Py_CLEAR(self->slow);
    Py_CLEAR(self->context);
    Py_CLEAR(self->retry);
    return 0;
}

static void
Listener_tp_dealloc(ListenerObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)Listener_tp_clear(self);
    Py_CLEAR(self->sock);
    Py_CLEAR(self->loop);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(Listener_doc, "A listening socket that the loop accepts from.");

static PyType_Slot Listener_slots[] = {
    {Py_tp_doc, (void *)Listener_doc},
    {Py_tp_dealloc, Listener_tp_dealloc},
    {Py_tp_traverse, Listener_tp_traverse},
    {Py_tp_clear, Listener_tp_clear},
    {Py_tp_methods, Listener_methods},
    {0, NULL},
};

static PyType_Spec Listener_spec = {
    .name = "pyloop._core.Listener",
    .basicsize = sizeof(ListenerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Listener_slots,
};

int
server_init(PyObject *module, struct module_state *state)
{
    return state_add_type(module, &state->ListenerType, &Listener_spec,
                          "Listener");
}
