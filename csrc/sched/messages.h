/* The bytes objects that received messages become, and the copies of what is
 * written from a buffer which may change.
 *
 * A message of some hundred bytes is too large for Python's own allocator, and
 * one of a KiB for the caches of the C library's: to make one object and free
 * another for each is a thirtieth of an echo.  So a loop keeps a reference to
 * those that it made last, and when it holds the only one left, the object
 * becomes another message: nobody can tell it from a new one.  What a program
 * keeps is not touched. */
#ifndef PL_SCHED_MESSAGES_H
#define PL_SCHED_MESSAGES_H

#include <Python.h>

/* As many as are alive at once in a server of a hundred busy connections whose
 * coroutines each hold a message until they have the next. */
#define PL_MESSAGES 128
/* The longest that is kept, and the room that each has: 256 KiB if all are
 * used. */
#define PL_MESSAGE_BYTES 2048

struct messages {
    PyObject *kept[PL_MESSAGES]; /* owned; the first `length` */
    uint32_t length;
    uint32_t next; /* where to look first */
};

/* A bytes object of the n bytes at `data`.  New reference, or NULL with
 * MemoryError. */
PyObject *messages_make(struct messages *messages, const char *data,
                        Py_ssize_t n);
/* Lets go of all that are kept. */
void messages_clear(struct messages *messages);

#endif
