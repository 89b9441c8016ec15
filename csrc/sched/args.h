/* Keyword arguments for METH_FASTCALL | METH_KEYWORDS: the one parser. */
#ifndef PL_SCHED_ARGS_H
#define PL_SCHED_ARGS_H

#include <Python.h>

#include "core/base.h"

struct args_spec {
    const char *function;     /* for messages, without parentheses */
    const char *const *names; /* all parameters, in order; NULL: by position
                                 only */
    int n_params;
    int n_positional; /* the first so many may be given by position */
    int n_required;   /* the first so many must be given */
};

/* args_bind() where the keywords' values do not follow the positional
 * arguments that are to be bound: what lies between them is the caller's. */
int args_bind_apart(const struct args_spec *spec, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *const *kwvalues,
                    PyObject *kwnames, PyObject **out);

/* Binds a vectorcall's arguments to out[0 .. n_params), borrowed; NULL where a
 * parameter was not given.  0, or -1 with the TypeError that a Python function
 * of that signature raises. */
static inline int
args_bind(const struct args_spec *spec, PyObject *const *args,
          Py_ssize_t nargs, PyObject *kwnames, PyObject **out)
{
    if (PL_LIKELY(kwnames == NULL && nargs >= spec->n_required
                  && nargs <= spec->n_positional))
    {
        for (int i = 0; i < spec->n_params; i++) {
            out[i] = i < nargs ? args[i] : NULL;
        }
        return 0;
    }
    return args_bind_apart(spec, args, nargs, args + nargs, kwnames, out);
}

#endif
