/* The poller backend that a user names. */
#ifndef PL_SCHED_BACKEND_H
#define PL_SCHED_BACKEND_H

#include <Python.h>

#include "core/poller.h"

/* The backend called `name`; NULL: the default, see poller_find.  NULL with
 * ValueError (no such backend) or OSError (this kernel has it not). */
const struct poller_ops *backend_find(const char *name);

#endif
