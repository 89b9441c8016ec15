/* Reader and writer callbacks of descriptors, and close_socket(). */
#include <Python.h>

#include "methods.h"

#include <errno.h>
#include <sys/stat.h>

#include "sched/compat.h"
#include "sched/errors.h"
#include "sched/handle.h"
#include "sched/sockfd.h"
#include "server.h"
#include "stream.h"

/* The descriptor of what add_reader() and its like were given, judged as
 * asyncio's selectors do: -1 with ValueError for what is none. */
static int
watched_fd(LoopObject *self, PyObject *fileobj)
{
    PyObject *number = Py_NewRef(fileobj);
    if (!PyLong_Check(fileobj)) {
        Py_SETREF(number,
                  PyObject_CallMethodNoArgs(fileobj, self->state->str_fileno));
        if (number != NULL && !PyLong_Check(number)) {
            Py_SETREF(number, PyNumber_Long(number));
        }
    }
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)
            || PyErr_ExceptionMatches(PyExc_TypeError)
            || PyErr_ExceptionMatches(PyExc_ValueError))
        {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", fileobj);
        }
        return -1;
    }
    int overflow;
    long fd = PyLong_AsLongAndOverflow(number, &overflow);
    if (overflow != 0 || fd < 0 || fd > INT_MAX) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", number);
        fd = -1;
    }
    Py_DECREF(number);
    return (int)fd;
}

/* Takes off a callback of add_reader() or add_writer(), or a Listener, which
 * is one in asyncio.  What a transport of ours puts there is neither, nor is a
 * task that waits.  Returns whether there was one. */
static bool
take_callback_off(LoopObject *self, int fd, int side)
{
    PyObject *waiter = loop_watcher(self, fd, side, NULL);
    if (waiter == NULL) {
        return false;
    }
    if (Py_IS_TYPE(waiter, self->state->ListenerType)) {
        Py_INCREF(waiter);
        listener_stop(waiter); /* call-out */
        Py_DECREF(waiter);
        return true;
    }
    if (!Py_IS_TYPE(waiter, self->state->HandleType)) {
        return false;
    }
    HandleObject *old = (HandleObject *)loop_unwatch(self, fd, side);
    handle_cancel(old);
    Py_DECREF(old); /* call-out */
    return true;
}

struct find_owner {
    PyObject *owner;
    int fd;
};

static int
find_owner(struct watch *watch, void *arg)
{
    struct find_owner *find = arg;
    if (watch->owner != find->owner || watch->wanted == 0) {
        return 0;
    }
    find->fd = watch->fd;
    return 1;
}

/* The same for what may have been closed since it was added: then it is known
 * by the object. */
static int
watched_or_closed_fd(LoopObject *self, PyObject *fileobj)
{
    int fd = watched_fd(self, fileobj);
    if (fd >= 0 || PyLong_Check(fileobj) || self->reactor == NULL
        || !PyErr_ExceptionMatches(PyExc_ValueError))
    {
        return fd;
    }
    struct find_owner find = {fileobj, -1};
    if (fdtable_foreach(&self->reactor->fds, find_owner, &find) == 1) {
        PyErr_Clear();
    }
    return find.fd;
}

/* The poller is told at the next flush, but what it refuses belongs to the
 * caller of add_reader(): a number that is closed, and some files.  No poller
 * refuses a socket or a pipe. */
enum { FD_CLOSED = -1, FD_MAY_BE_REFUSED = 0, FD_CAN_BE_WATCHED = 1 };

static int
judge_fd(int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0) {
        errors_from_bare_errno(errno);
        return FD_CLOSED;
    }
    return S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode)
               ? FD_CAN_BE_WATCHED
               : FD_MAY_BE_REFUSED;
}

static PyObject *
add_watcher(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames, int side, const char *who)
{
    static const char *const names[] = {NULL, NULL};
    const struct args_spec spec = {who, names, 2, 2, 2};
    struct loopcall call;
    if (loop_check_usable(self) < 0
        || loopcall_parse(&call, &spec, args, nargs, kwnames) < 0)
    {
        return NULL;
    }
    int fd = watched_fd(self, args[0]); /* call-out: may close the loop */
    if (fd < 0 || loop_check_usable(self) < 0) {
        return NULL;
    }
    struct watch *watch = fdtable_get(&self->reactor->fds, fd);
    int verdict = FD_CAN_BE_WATCHED;
    if (watch == NULL || watch->wanted == 0) {
        verdict = judge_fd(fd);
        if (verdict == FD_CLOSED) {
            return NULL;
        }
    }
    HandleObject *handle
        = handle_new(self, call.callback, call.args, call.nargs, call.context);
    if (handle == NULL) {
        return NULL;
    }
    (void)take_callback_off(self, fd, side);
    PyObject *owner = PyLong_Check(args[0]) ? NULL : args[0];
    PyObject *taken;
    int rc = loop_watch(self, fd, owner, side, (PyObject *)handle,
                        PL_WAIT_PERSISTENT, &taken);
    if (rc > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s(): somebody waits already to %s descriptor %d", who,
                     side == PL_SIDE_READ ? "read from" : "write to", fd);
    }
    if (rc == 0 && verdict == FD_MAY_BE_REFUSED) {
        rc = loop_watch_ask(self, fd, side, (PyObject *)handle); /* call-out */
    }
    if (rc != 0) {
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

static PyObject *
remove_watcher(LoopObject *self, PyObject *fileobj, int side)
{
    if (self->closed || self->reactor == NULL) {
        Py_RETURN_FALSE;
    }
    int fd = watched_or_closed_fd(self, fileobj);
    if (fd < 0) {
        return NULL;
    }
    return PyBool_FromLong(take_callback_off(self, fd, side));
}

const char Loop__add_reader_doc[] = PyDoc_STR(
             "_add_reader($self, fd, callback, /, *args)\n--\n\n"
             "Call callback(*args) whenever fd can be read from; return its "
             "Handle.");

PyObject *
Loop__add_reader(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return add_watcher(self, args, nargs, kwnames, PL_SIDE_READ, "add_reader");
}

const char Loop__add_writer_doc[] = PyDoc_STR(
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

const char Loop__remove_reader_doc[]
    = PyDoc_STR(
             "_remove_reader($self, fd, /)\n--\n\n"
             "Take the reader callback off; return whether there was one.");

PyObject *
Loop__remove_reader(LoopObject *self, PyObject *fileobj)
{
    return remove_watcher(self, fileobj, PL_SIDE_READ);
}

const char Loop__remove_writer_doc[]
    = PyDoc_STR(
             "_remove_writer($self, fd, /)\n--\n\n"
             "Take the writer callback off; return whether there was one.");

PyObject *
Loop__remove_writer(LoopObject *self, PyObject *fileobj)
{
    return remove_watcher(self, fileobj, PL_SIDE_WRITE);
}

const char Loop__waiters_doc[]
    = PyDoc_STR("_waiters($self, fd, /)\n--\n\n"
                "Return who waits to read and who waits to write, None for "
                "nobody.");

PyObject *
Loop__waiters(LoopObject *self, PyObject *fileobj)
{
    if (self->reactor == NULL) {
        return PyTuple_Pack(2, Py_None, Py_None);
    }
    int fd = watched_or_closed_fd(self, fileobj);
    if (fd < 0) {
        return NULL;
    }
    PyObject *reader = loop_watcher(self, fd, PL_SIDE_READ, NULL);
    PyObject *writer = loop_watcher(self, fd, PL_SIDE_WRITE, NULL);
    /* Held, for the collector may run while the tuple is made. */
    return Py_BuildValue("(NN)", Py_NewRef(reader != NULL ? reader : Py_None),
                         Py_NewRef(writer != NULL ? writer : Py_None));
}

const char Loop_close_socket_doc[] = PyDoc_STR(
             "close_socket($self, sock, /)\n--\n\n"
             "Close a socket; tasks that wait for it get OSError (EBADF), and "
             "so does the\nconnection_lost() of its transport.\n\n"
             "Args:\n    sock: socket.socket.\n\n"
             "Raises:\n"
             "    TypeError: not a socket.\n"
             "    RuntimeError: the loop runs in another thread.\n\n"
             "Example:\n    loop.close_socket(conn)");

PyObject *
Loop_close_socket(LoopObject *self, PyObject *sock)
{
    if (!sockfd_is_socket(self->state, sock)) {
        errors_bad_type(sock, "close_socket() needs a socket.socket");
        return NULL;
    }
    /* Of a closed loop nobody waits any more.  A child would take the socket
     * out of the poller that it shares with the parent. */
    if ((self->reactor != NULL && loop_check_usable(self) < 0)
        || loop_check_thread(self, "close_socket()") < 0)
    {
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
    if (fd >= 0 && fd <= INT_MAX) {
        if (stream_lose_socket(self, (int)fd, sock) < 0) {
            return NULL;
        }
        loop_forget_fd(self, (int)fd, -EBADF);
    }
    return PyObject_CallMethodNoArgs(sock, self->state->str_close);
}
