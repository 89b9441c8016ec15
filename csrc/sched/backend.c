#include <Python.h>

#include "backend.h"

#include <errno.h>
#include <stdlib.h>

#include "errors.h"

const struct poller_ops *
backend_find(const char *name)
{
    const struct poller_ops *ops;
    bool is_named = name != NULL && name[0] != '\0';
    int rc = name == NULL || is_named ? poller_find(name, &ops) : -EINVAL;
    if (rc == -EINVAL) {
        PyErr_Format(PyExc_ValueError,
                     "backend must be 'epoll' or 'poll', got '%s'",
                     name != NULL ? name : getenv("PYLOOP_BACKEND"));
        return NULL;
    }
    if (rc < 0) {
        errors_from_errno(rc, "backend %s is not available here",
                          name != NULL ? name : "(default)");
        return NULL;
    }
    return ops;
}
