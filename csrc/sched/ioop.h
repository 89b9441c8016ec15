/* Helpers of the socket awaitables that other files use. */
#ifndef PL_SCHED_IOOP_H
#define PL_SCHED_IOOP_H

#include <Python.h>

#include "op.h"

/* One recv(2) with MSG_DONTWAIT for an op whose fd and object are set.  A
 * socket that is known to be drained is not asked on the first attempt.
 * Returns the number of bytes, -EAGAIN when the op must wait (OP_ATTEMPT_WAIT),
 * or another -errno; -EINTR with a Python exception if a signal handler
 * raised. */
Py_ssize_t ioop_recv(OpObject *op, void *buffer, size_t size);

/* Raises the OSError for a failed call of `op`, except for -EINTR, whose
 * exception is set already.  OP_ATTEMPT_ERROR. */
enum op_attempt ioop_fail(OpObject *op, Py_ssize_t rc);


#endif
