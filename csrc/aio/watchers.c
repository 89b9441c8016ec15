/* Reader and writer callbacks of descriptors, and close_socket(). */
#include <Python.h>

#include "methods.h"

#include <errno.h>

#include "sched/handle.h"
#include "sched/sockfd.h"

static PyObject *
add_watcher(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames, int side, const char *who)
{
    struct loopcall call;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, who, 1, args, nargs, kwnames) < 0)
    {
        return NULL;
    }
    int fd = sockfd_of_fileobj(self->state, args[0], who);
    if (fd < 0) {
        return NULL;
    }
    HandleObject *handle
        = handle_new(self, call.callback, call.args, call.nargs, call.context);
    if (handle == NULL) {
        return NULL;
    }
    bool is_persistent = false;
    if (loop_watcher(self, fd, side, &is_persistent) != NULL && is_persistent)
    {
        HandleObject *old = (HandleObject *)loop_unwatch(self, fd, side);
        handle_cancel(old);
        Py_DECREF(old);
    }
    PyObject *owner = PyLong_Check(args[0]) ? NULL : args[0];
    PyObject *taken;
    int rc
        = loop_watch(self, fd, owner, side, (PyObject *)handle, true, &taken);
    if (rc > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s(): a task waits already to %s descriptor %d", who,
                     side == PL_SIDE_READ ? "read from" : "write to", fd);
    }
    if (rc != 0) {
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

static PyObject *
remove_watcher(LoopObject *self, PyObject *fileobj, int side, const char *who)
{
    if (self->closed || self->reactor == NULL) {
        Py_RETURN_FALSE;
    }
    int fd = sockfd_of_fileobj(self->state, fileobj, who);
    if (fd < 0) {
        return NULL;
    }
    bool is_persistent = false;
    if (loop_watcher(self, fd, side, &is_persistent) == NULL || !is_persistent)
    {
        Py_RETURN_FALSE;
    }
    HandleObject *old = (HandleObject *)loop_unwatch(self, fd, side);
    handle_cancel(old);
    Py_DECREF(old);
    Py_RETURN_TRUE;
}

const char Loop_add_reader_doc[] = PyDoc_STR(
             "_add_reader($self, fd, callback, /, *args)\n--\n\n"
             "Call callback(*args) whenever fd can be read from; return its "
             "Handle.");

PyObject *
Loop__add_reader(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return add_watcher(self, args, nargs, kwnames, PL_SIDE_READ, "add_reader");
}

const char Loop_add_writer_doc[] = PyDoc_STR(
             "_add_writer($self, fd, callback, /, *args)\n--\n\n"
             "Call callback(*args) whenever fd can be written to; return its "
             "Handle.");

PyObject *
Loop__add_writer(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return add_watcher(self, args, nargs, kwnames, PL_SIDE_WRITE,
                       "add_writer");
}

const char Loop_remove_reader_doc[]
    = PyDoc_STR(
             "_remove_reader($self, fd, /)\n--\n\n"
             "Take the reader callback off; return whether there was one.");

PyObject *
Loop__remove_reader(LoopObject *self, PyObject *fileobj)
{
    return remove_watcher(self, fileobj, PL_SIDE_READ, "remove_reader");
}

const char Loop_remove_writer_doc[]
    = PyDoc_STR(
             "_remove_writer($self, fd, /)\n--\n\n"
             "Take the writer callback off; return whether there was one.");

PyObject *
Loop__remove_writer(LoopObject *self, PyObject *fileobj)
{
    return remove_watcher(self, fileobj, PL_SIDE_WRITE, "remove_writer");
}

const char Loop_close_socket_doc[] = PyDoc_STR(
             "close_socket($self, sock, /)\n--\n\n"
             "Close a socket; tasks that wait for it get OSError (EBADF).\n\n"
             "Args:\n    sock: socket.socket.\n\n"
             "Raises:\n"
             "    TypeError: not a socket.\n"
             "    RuntimeError: the loop runs in another thread.\n\n"
             "Example:\n    loop.close_socket(conn)");

PyObject *
Loop_close_socket(LoopObject *self, PyObject *sock)
{
    if (!PyObject_TypeCheck(sock, (PyTypeObject *)self->state->RawSocketType))
    {
        PyErr_Format(PyExc_TypeError,
                     "close_socket() needs a socket.socket, not %.200s (%R)",
                     Py_TYPE(sock)->tp_name, sock);
        return NULL;
    }
    if (loop_check_thread(self, "close_socket()") < 0) {
        return NULL;
    }
    PyObject *number
        = PyObject_CallMethodNoArgs(sock, self->state->str_fileno);
    if (number == NULL) {
        return NULL;
    }
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (fd >= 0) {
        loop_forget_fd(self, (int)fd, -EBADF);
    }
    return PyObject_CallMethodNoArgs(sock, self->state->str_close);
}
