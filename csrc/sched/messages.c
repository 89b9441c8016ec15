/* The bytes objects that received messages become: a ring, in the order in
 * which they were given out.  What is first in it has been out for longest,
 * so it is looked at first; after two that are still in use the ring grows,
 * and when it is full a message is an object of its own.  A protocol that
 * keeps nothing thus gets the same object again and again. */
#include <Python.h>

#include "messages.h"

#include <string.h>

#include "compat.h"

#define PL_MESSAGES_TRIED 2

/* One that nobody else has, or NULL. */
static PyObject *
find_unused(struct messages *messages)
{
    for (int i = 0; i < PL_MESSAGES_TRIED && messages->length > 0; i++) {
        if (messages->next >= messages->length) {
            messages->next = 0;
        }
        PyObject *message = messages->kept[messages->next];
        if (Py_REFCNT(message) == 1) {
            return message;
        }
        messages->next++;
    }
    return NULL;
}

static PyObject *
add_one(struct messages *messages)
{
    if (messages->length == PL_MESSAGES) {
        return NULL;
    }
    PyObject *message = PyBytes_FromStringAndSize(NULL, PL_MESSAGE_BYTES);
    if (message == NULL) {
        PyErr_Clear();
        return NULL;
    }
    messages->next = messages->length++;
    messages->kept[messages->next] = message;
    return message;
}

/* Makes a message that only we have another one. */
static void
rewrite(PyObject *message, const char *data, Py_ssize_t n)
{
    char *room = PyBytes_AS_STRING(message);
    memcpy(room, data, (size_t)n);
    room[n] = '\0';
    Py_SET_SIZE((PyVarObject *)message, n);
    _Py_COMP_DIAG_PUSH _Py_COMP_DIAG_IGNORE_DEPR_DECLS(
        (PyBytesObject *)message)
        ->ob_shash = -1; /* not hashed yet */
    _Py_COMP_DIAG_POP
}

PyObject *
messages_make(struct messages *messages, const char *data, Py_ssize_t n)
{
    /* Of the shortest there is one of each in the interpreter. */
    if (!PL_FREELISTS || n < 2 || n > PL_MESSAGE_BYTES) {
        return PyBytes_FromStringAndSize(data, n);
    }
    PyObject *message = find_unused(messages);
    if (PL_UNLIKELY(message == NULL)) {
        message = add_one(messages);
        if (message == NULL) {
            return PyBytes_FromStringAndSize(data, n);
        }
    }
    rewrite(message, data, n);
    return Py_NewRef(message);
}

void
messages_clear(struct messages *messages)
{
    while (messages->length > 0) {
        Py_DECREF(messages->kept[--messages->length]);
    }
    messages->next = 0;
}
