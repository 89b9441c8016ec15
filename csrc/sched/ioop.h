/* What the awaitables on sockets share. */
#ifndef PL_SCHED_IOOP_H
#define PL_SCHED_IOOP_H

#include <Python.h>

#include "args.h"
#include "op.h"

/* --- in an attempt --- */

/* Re-reads op->fd from the socket: it may have been closed while the op
 * waited, and its number may be somebody else's by now.  0, or -1 with
 * OSError. */
int ioop_refresh_fd(OpObject *op);

/* One recv(2) with MSG_DONTWAIT for an op whose fd and object are set.  A
 * socket that is known to be drained is not asked on the first attempt.
 * Returns the number of bytes, -EAGAIN when the op must wait (return
 * OP_ATTEMPT_WAIT), or another -errno; -EINTR comes with the exception of a
 * signal handler. */
Py_ssize_t ioop_recv(OpObject *op, void *buffer, size_t size);

/* 1: it was EINTR, call again; 0: another error; -1 with an exception: a
 * signal handler raised, or ended the operation or its socket. */
PL_COLD int ioop_interrupted(OpObject *op, int error);

/* Raises the OSError for a failed call of `op`, except for -EINTR, whose
 * exception is set already.  OP_ATTEMPT_ERROR. */
PL_COLD enum op_attempt ioop_fail(OpObject *op, Py_ssize_t rc);

/* --- making ops --- */

/* An op on a socket; NULL with an exception. */
OpObject *ioop_new(struct module_state *state, const struct op_kind *kind,
                   PyObject *sock, int side);
/* ioop_new for a function of (sock, data): binds the arguments and takes the
 * buffer. */
PyObject *ioop_new_buffer(PyObject *module, const struct args_spec *spec,
                          const struct op_kind *kind, int side, int flags,
                          PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);
/* Drops an op that will not be handed out, without a warning.  NULL. */
PL_COLD PyObject *ioop_discard(OpObject *op);

/* 0, or -1 with a TypeError that names the operation: `data` is no buffer. */
PL_COLD int ioop_check_buffer(OpObject *op, PyObject *data);
/* Points op->u.io at the bytes of `data`: a bytes object is only held (in
 * op->value) if flags is PyBUF_SIMPLE, any other buffer is exported until
 * ioop_release_view, a `clear` of op kinds; ioop_traverse_view is a
 * `traverse`.  -1 with an exception. */
int ioop_take_buffer(OpObject *op, PyObject *data, int flags);
void ioop_release_view(OpObject *op);
int ioop_traverse_view(OpObject *op, visitproc visit, void *arg);

/* The sockaddr of `address` for `sock`, as bytes; Py_None when a name must be
 * looked up first; NULL with an exception. */
PyObject *ioop_pack_address(struct module_state *state, PyObject *sock,
                            PyObject *address, const char *who);
/* Calls the coroutine function `name` of pyloop._resolve, which looks names up
 * off the loop's thread; *slot caches it. */
PyObject *ioop_by_name(PyObject **slot, const char *name,
                       PyObject *const *args, size_t n);

/* --- the module's functions, which the loop's sock_* methods share --- */

PyObject *ioop_py_recv(PyObject *module, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames);
PyObject *ioop_py_recv_into(PyObject *module, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
PyObject *ioop_py_recvfrom(PyObject *module, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *ioop_py_recvfrom_into(PyObject *module, PyObject *const *args,
                                Py_ssize_t nargs, PyObject *kwnames);
PyObject *ioop_py_sendall(PyObject *module, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
PyObject *ioop_py_sendto(PyObject *module, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames);
PyObject *ioop_py_accept(PyObject *module, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames);
/* For sock_connect(), which takes a socket in blocking mode. */
PyObject *ioop_sock_connect(PyObject *module, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);

#endif
