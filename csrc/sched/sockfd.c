#include <Python.h>

#include "sockfd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "compat.h"
#include "errors.h"

/* The C struct of a socket is not public.  Reading its descriptor directly is
 * worth it (a call of fileno() costs a tenth of what we add to an echo), so
 * the offset is derived at import from the member `family`, which follows the
 * descriptor, and every read of a value that could be wrong is excluded by
 * proving it on a real socket first. */
static Py_ssize_t
find_fd_offset(struct module_state *state)
{
    const Py_ssize_t expected = sizeof(PyObject);
    PyObject *dict = ((PyTypeObject *)state->RawSocketType)->tp_dict;
    PyObject *family
        = dict != NULL ? PyDict_GetItemString(dict, "family") : NULL;
    if (family == NULL || !Py_IS_TYPE(family, &PyMemberDescr_Type)
        || ((PyMemberDescrObject *)family)->d_member->offset
               != expected + (Py_ssize_t)sizeof(int))
    {
        return -1;
    }
    /* An unopened socket object has -1 there in every version. */
    PyTypeObject *type = (PyTypeObject *)state->RawSocketType;
    PyObject *empty = PyTuple_New(0);
    PyObject *sock = empty != NULL ? type->tp_new(type, empty, NULL) : NULL;
    Py_XDECREF(empty);
    if (sock == NULL) {
        PyErr_Clear();
        return -1;
    }
    int fd;
    memcpy(&fd, (char *)sock + expected, sizeof(fd));
    Py_DECREF(sock);
    return fd == -1 ? expected : -1;
}

static int
call_fileno(struct module_state *state, PyObject *obj)
{
    PyObject *number = PyObject_CallMethodNoArgs(obj, state->str_fileno);
    if (number == NULL) {
        return -2;
    }
    if (!PyLong_Check(number)) {
        errors_bad_value(PyExc_TypeError, number,
                         "fileno() returned a non-integer:");
        Py_DECREF(number);
        return -2;
    }
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred()) {
        return -2;
    }
    return fd < 0 || fd > INT_MAX ? -1 : (int)fd;
}

/* 1 if it is an ssl.SSLSocket, 0 if not.  Told by the type's name, since
 * importing ssl here would cost every user its start-up. */
static int
is_ssl_socket(PyObject *sock)
{
    PyObject *mro = Py_TYPE(sock)->tp_mro;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (strcmp(type->tp_name, "SSLSocket") == 0) {
            return 1;
        }
    }
    return 0;
}

static int
read_fd(struct module_state *state, PyObject *sock)
{
    return state->socket_fd_offset >= 0 ? sockfd_peek(state, sock)
                                        : call_fileno(state, sock);
}

int
sockfd_get_slow(struct module_state *state, PyObject *sock, const char *who)
{
    if (PL_UNLIKELY(!Py_IS_TYPE(sock, (PyTypeObject *)state->SocketType))) {
        if (!sockfd_is_socket(state, sock)) {
            errors_bad_type(sock, "%s() needs a socket.socket", who);
            return -1;
        }
        if (is_ssl_socket(sock)) {
            PyErr_Format(PyExc_TypeError,
                         "%s(): Socket cannot be of type SSLSocket; use "
                         "asyncio streams for TLS",
                         who);
            return -1;
        }
    }
    int fd = read_fd(state, sock);
    if (PL_UNLIKELY(fd < 0)) {
        return fd == -2 ? -1
                        : errors_from_errno(EBADF,
                                            "%s(): the socket %R is "
                                            "closed",
                                            who, sock);
    }
    return fd;
}

int
sockfd_of_fileobj(struct module_state *state, PyObject *obj, const char *who)
{
    if (sockfd_is_socket(state, obj)) {
        int fd = read_fd(state, obj);
        if (fd < 0 && fd != -2) {
            errors_from_errno(EBADF, "%s(): the socket %R is closed", who,
                              obj);
        }
        return fd < 0 ? -1 : fd;
    }
    if (PyLong_Check(obj)) {
        int overflow;
        long fd = PyLong_AsLongAndOverflow(obj, &overflow);
        if (fd == -1 && PyErr_Occurred()) {
            return -1;
        }
        if (overflow != 0 || fd < 0 || fd > INT_MAX) {
            errors_bad_value(PyExc_ValueError, obj,
                             "%s(): not a file descriptor:", who);
            return -1;
        }
        return (int)fd;
    }
    int fd = call_fileno(state, obj);
    if (fd == -2 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        errors_bad_type(obj,
                        "%s() needs a file descriptor or an object with "
                        "fileno()",
                        who);
    }
    if (fd == -1) {
        errors_from_errno(EBADF, "%s(): %R is closed", who, obj);
    }
    return fd < 0 ? -1 : fd;
}

int
sockfd_member(struct module_state *state, PyObject *sock, const char *name,
              int *out)
{
    PyObject *descr = PyObject_GetAttrString(state->RawSocketType, name);
    if (descr == NULL) {
        return -1;
    }
    PyObject *value
        = Py_TYPE(descr)->tp_descr_get(descr, sock, (PyObject *)Py_TYPE(sock));
    Py_DECREF(descr);
    if (value == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(value);
    Py_DECREF(value);
    *out = (int)number;
    return number == -1 && PyErr_Occurred() ? -1 : 0;
}

PyObject *
sockfd_wrap(struct module_state *state, int family, int type, int proto,
            int fd)
{
    /* SOCK_NONBLOCK in the type says that it is so already: no system call. */
    return PyObject_CallFunction(state->SocketType, "iiii", family,
                                 type | SOCK_NONBLOCK, proto, fd);
}

int
sockfd_is_blocking(int fd, PyObject *sock, const char *who)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
        return errors_from_errno(errno, "%s(): %R", who, sock);
    }
    return (flags & O_NONBLOCK) == 0;
}

int
sockfd_refuse_blocking(PyObject *sock, const char *who)
{
    PyErr_Format(PyExc_ValueError,
                 "%s() needs a non-blocking socket; call "
                 "setblocking(False) on %R first",
                 who, sock);
    return -1;
}

void
sockfd_set_blocking(int fd, bool blocks)
{
    int saved_errno = errno;
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0) {
        (void)fcntl(fd, F_SETFL,
                    blocks ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
    }
    errno = saved_errno;
}

int
sockfd_init(PyObject *Py_UNUSED(module), struct module_state *state)
{
    state->SocketType = state_import("socket", "socket");
    if (state->SocketType == NULL) {
        return -1;
    }
    state->RawSocketType = state_import("_socket", "socket");
    if (state->RawSocketType == NULL) {
        return -1;
    }
    state->socket_fd_offset = find_fd_offset(state);
    return 0;
}
