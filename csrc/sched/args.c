#include <Python.h>

#include "args.h"

static int
find_name(const struct args_spec *spec, PyObject *name)
{
    for (int i = 0; i < spec->n_params; i++) {
        if (spec->names[i] != NULL
            && PyUnicode_CompareWithASCIIString(name, spec->names[i]) == 0)
        {
            return i;
        }
    }
    return -1;
}

int
args_bind_apart(const struct args_spec *spec, PyObject *const *args,
                Py_ssize_t nargs, PyObject *const *kwvalues, PyObject *kwnames,
                PyObject **out)
{
    if (nargs > spec->n_positional) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %d positional argument%s "
                     "(%zd given)",
                     spec->function, spec->n_positional,
                     spec->n_positional == 1 ? "" : "s", nargs);
        return -1;
    }
    int i = 0;
    for (; i < nargs; i++) {
        out[i] = args[i];
    }
    for (; i < spec->n_params; i++) {
        out[i] = NULL;
    }
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t k = 0; k < nkw; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        int at = find_name(spec, name);
        if (at < 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'",
                         spec->function, name);
            return -1;
        }
        if (out[at] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got multiple values for argument '%s'",
                         spec->function, spec->names[at]);
            return -1;
        }
        out[at] = kwvalues[k];
    }
    for (i = 0; i < spec->n_required; i++) {
        if (out[i] != NULL) {
            continue;
        }
        if (spec->names[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required positional argument %d",
                         spec->function, i + 1);
        }
        else {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument '%s' (pos %d)",
                         spec->function, spec->names[i], i + 1);
        }
        return -1;
    }
    return 0;
}
