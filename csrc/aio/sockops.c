/* sock_recv(), sock_sendall() ...: asyncio's names for the operations of
 * sched/ioop_*.c. */
#include <Python.h>

#include "methods.h"

#include <string.h>

#include "sched/args.h"
#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/ioop.h"
#include "sched/sockfd.h"

typedef PyObject *(*ioop_fn)(PyObject *module, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);

/* In debug mode asyncio refuses a socket that could block. */
static int
check_nonblocking(PyObject *sock)
{
    PyObject *timeout = PyObject_CallMethod(sock, "gettimeout", NULL);
    if (timeout == NULL) {
        return -1;
    }
    double seconds = timeout == Py_None ? 1.0 : PyFloat_AsDouble(timeout);
    Py_DECREF(timeout);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (seconds != 0.0) {
        PyErr_SetString(PyExc_ValueError, "the socket must be non-blocking");
        return -1;
    }
    return 0;
}

/* What is no socket.socket but acts like one is left to asyncio's own method
 * of this name, which calls the object's methods. */
static PyObject *
call_asyncio(LoopObject *self, const struct args_spec *spec,
             PyObject *const *bound)
{
    PyObject *stack[4] = {(PyObject *)self};
    size_t n = (size_t)spec->n_params;
    while (bound[n - 1] == NULL) {
        n--; /* what was not given has a default there */
    }
    memcpy(stack + 1, bound, n * sizeof(*bound));
    PyObject *type
        = state_import("asyncio.selector_events", "BaseSelectorEventLoop");
    PyObject *method
        = type != NULL ? PyObject_GetAttrString(type, spec->function) : NULL;
    PyObject *result = method != NULL
                           ? PyObject_Vectorcall(method, stack, n + 1, NULL)
                           : NULL;
    Py_XDECREF(method);
    Py_XDECREF(type);
    return result;
}

/* What users catch and print, and asyncio raises otherwise: a closed socket,
 * data that are no buffer, a buffer that cannot be written to. */
static void
use_asyncios_words(const struct args_spec *spec, PyObject *const *bound)
{
    if (PyErr_ExceptionMatches(PyExc_OSError)) {
        PyObject *exc = exception_take();
        PyObject *number = PyObject_GetAttrString(exc, "errno");
        long error = number != NULL ? PyLong_AsLong(number) : -1;
        Py_XDECREF(number);
        Py_DECREF(exc);
        if (!PyErr_Occurred()) {
            errors_from_bare_errno((int)error);
        }
    }
    else if (PyErr_ExceptionMatches(PyExc_TypeError) && spec->n_params > 1
             && strcmp(spec->names[1], "data") == 0
             && !PyObject_CheckBuffer(bound[1]))
    {
        PyErr_Format(PyExc_TypeError,
                     "a bytes-like object is required, not '%.200s'",
                     Py_TYPE(bound[1])->tp_name);
    }
    else {
        errors_want_writable(spec->function + strlen("sock_"), bound[1]);
    }
}

static PyObject *
sock_op(LoopObject *self, const struct args_spec *spec, ioop_fn function,
        PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *bound[3];
    if (args_bind(spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    if (PL_UNLIKELY(!sockfd_is_socket(self->state, bound[0]))) {
        return call_asyncio(self, spec, bound);
    }
    if (PL_UNLIKELY(self->debug) && check_nonblocking(bound[0]) < 0) {
        return NULL;
    }
    PyObject *module = PyType_GetModule(self->state->LoopType);
    PyObject *op = module == NULL
                       ? NULL
                       : function(module, bound, spec->n_params, NULL);
    if (PL_LIKELY(op != NULL)) {
        /* connect() and sendto() to a name are coroutines. */
        if (op_check(self->state, op)) {
            ((OpObject *)op)->of_asyncio = true;
        }
    }
    else {
        use_asyncios_words(spec, bound);
    }
    return op;
}

#define SOCK_METHOD(method, function, n, ...) \
    PyObject *Loop_##method(LoopObject *self, PyObject *const *args, \
                            Py_ssize_t nargs, PyObject *kwnames) \
    { \
        static const char *const names[] = {__VA_ARGS__}; \
        static const struct args_spec spec = {#method, names, n, n, n}; \
        return sock_op(self, &spec, function, args, nargs, kwnames); \
    }

SOCK_METHOD(sock_recv, ioop_py_recv, 2, "sock", "nbytes")
SOCK_METHOD(sock_recv_into, ioop_py_recv_into, 2, "sock", "buf")
SOCK_METHOD(sock_recvfrom, ioop_py_recvfrom, 2, "sock", "bufsize")
SOCK_METHOD(sock_sendall, ioop_py_sendall, 2, "sock", "data")
SOCK_METHOD(sock_sendto, ioop_py_sendto, 3, "sock", "data", "address")
SOCK_METHOD(sock_accept, ioop_py_accept, 1, "sock")
SOCK_METHOD(sock_connect, ioop_sock_connect, 2, "sock", "address")

PyObject *
Loop_sock_recvfrom_into(LoopObject *self, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"sock", "buf", "nbytes"};
    static const struct args_spec spec
        = {"sock_recvfrom_into", names, 3, 3, 2};
    return sock_op(self, &spec, ioop_py_recvfrom_into, args, nargs, kwnames);
}

const char Loop_sock_recv_doc[]
    = PyDoc_STR("sock_recv($self, /, sock, nbytes)\n--\n\n"
                "Receive up to nbytes bytes; see pyloop.recv().");
const char Loop_sock_recv_into_doc[]
    = PyDoc_STR("sock_recv_into($self, /, sock, buf)\n--\n\n"
                "Receive into a buffer; see pyloop.recv_into().");
const char Loop_sock_recvfrom_doc[]
    = PyDoc_STR("sock_recvfrom($self, /, sock, bufsize)\n--\n\n"
                "Receive a datagram; see pyloop.recvfrom().");
const char Loop_sock_recvfrom_into_doc[]
    = PyDoc_STR("sock_recvfrom_into($self, /, sock, buf, nbytes=0)\n--\n\n"
                "Receive a datagram of up to nbytes bytes, 0: as many as fit, "
                "into a buffer.\n\n"
                "Returns:\n    An awaitable of (int, address).");
const char Loop_sock_sendall_doc[]
    = PyDoc_STR("sock_sendall($self, /, sock, data)\n--\n\n"
                "Send all bytes; see pyloop.sendall().");
const char Loop_sock_sendto_doc[]
    = PyDoc_STR("sock_sendto($self, /, sock, data, address)\n--\n\n"
                "Send a datagram; see pyloop.sendto().");
const char Loop_sock_accept_doc[]
    = PyDoc_STR("sock_accept($self, /, sock)\n--\n\n"
                "Accept a connection; see pyloop.accept().");
const char Loop_sock_connect_doc[]
    = PyDoc_STR("sock_connect($self, /, sock, address)\n--\n\n"
                "Connect a socket; see pyloop.connect().");
