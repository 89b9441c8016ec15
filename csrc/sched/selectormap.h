/* The keys of a Selector and SelectorMap, the live view of them that
 * get_map() returns: the rules of the selectors module for file objects. */
#ifndef PL_SCHED_SELECTORMAP_H
#define PL_SCHED_SELECTORMAP_H

#include <Python.h>

#include "state.h"

/* A selectors.SelectorKey(fileobj, fd, events, data).  New reference. */
PyObject *selectormap_make_key(struct module_state *state, PyObject *fileobj,
                               int fd, PyObject *events, PyObject *data);
/* The fields of a key that was made here. */
enum selectormap_field { KEY_FILEOBJ, KEY_FD, KEY_EVENTS, KEY_DATA };

/* Borrowed. */
static inline PyObject *
selectormap_get(PyObject *key, enum selectormap_field field)
{
    return PyTuple_GET_ITEM(key, field);
}

/* The descriptor that `fileobj` stands for: a number, what its fileno() says,
 * or, for one that is closed, the number under which that very object is in
 * `keys` (a dict fd -> key).  0; 1 if it is a number, but no descriptor can
 * have it; -1 with ValueError. */
int selectormap_find_fd(struct module_state *state, PyObject *keys,
                        PyObject *fileobj, int *fd);
/* KeyError "<fileobj> is not registered".  Returns NULL. */
PyObject *selectormap_not_registered(PyObject *fileobj);

/* A read-only Mapping over `keys`, which it shares.  New reference. */
PyObject *selectormap_new(struct module_state *state, PyObject *keys);

#endif
