/* From a Python socket, file object or number to a descriptor, with the
 * checks that every operation on a socket needs. */
#ifndef PL_SCHED_SOCKFD_H
#define PL_SCHED_SOCKFD_H

#include <Python.h>

#include <string.h>

#include "state.h"

/* Whether it is a socket of the C type: a socket.socket, or whatever else
 * derives from it. */
static inline bool
sockfd_is_socket(struct module_state *state, PyObject *obj)
{
    return Py_IS_TYPE(obj, (PyTypeObject *)state->SocketType)
           || PyObject_TypeCheck(obj, (PyTypeObject *)state->RawSocketType);
}

/* The descriptor in such a socket as it is at this moment, without a call; -1
 * for a closed one.  Only where state->socket_fd_offset is known. */
static inline int
sockfd_peek(struct module_state *state, PyObject *sock)
{
    int fd;
    memcpy(&fd, (const char *)sock + state->socket_fd_offset, sizeof(fd));
    return fd;
}

/* sockfd_get() for what is not a plain, open socket. */
PL_COLD int sockfd_get_slow(struct module_state *state, PyObject *sock,
                            const char *who);

/* The descriptor of a socket.socket (or subclass).  -1 with TypeError (not a
 * socket; an SSLSocket, whose bytes only ssl may read) or OSError EBADF (a
 * closed one); `who` is the function's name. */
static inline int
sockfd_get(struct module_state *state, PyObject *sock, const char *who)
{
    if (PL_LIKELY(Py_IS_TYPE(sock, (PyTypeObject *)state->SocketType)
                  && state->socket_fd_offset >= 0))
    {
        int fd = sockfd_peek(state, sock);
        if (PL_LIKELY(fd >= 0)) {
            return fd;
        }
    }
    return sockfd_get_slow(state, sock, who);
}

/* The descriptor of a socket, of any object with fileno(), or of an int.  -1
 * with TypeError, ValueError (negative) or OSError EBADF. */
int sockfd_of_fileobj(struct module_state *state, PyObject *obj,
                      const char *who);

/* An int member (family, type, proto) of the C socket, past the slow
 * properties of its subclass.  -1 with an exception. */
int sockfd_member(struct module_state *state, PyObject *sock, const char *name,
                  int *out);

/* A socket.socket for a descriptor that is in non-blocking mode, which it
 * takes over if this succeeds.  New reference, or NULL with an exception. */
PyObject *sockfd_wrap(struct module_state *state, int family, int type,
                      int proto, int fd);

/* For calls that have no MSG_DONTWAIT.  Whether the descriptor is in blocking
 * mode; -1 with OSError. */
int sockfd_is_blocking(int fd, PyObject *sock, const char *who);
/* Raises the ValueError that refuses such a socket.  -1. */
int sockfd_refuse_blocking(PyObject *sock, const char *who);
/* Takes the descriptor in and out of blocking mode; keeps errno. */
void sockfd_set_blocking(int fd, bool blocks);

#endif
