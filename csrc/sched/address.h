/* Between Python's socket addresses and struct sockaddr, for the families
 * that a server meets in every call: AF_INET, AF_INET6 and AF_UNIX.  Nothing
 * here blocks: a host name is left to the caller, who has it looked up
 * elsewhere. */
#ifndef PL_SCHED_ADDRESS_H
#define PL_SCHED_ADDRESS_H

#include <Python.h>

#include <sys/socket.h>

/* The form in which the socket module shows an address: (host, port) for
 * AF_INET, (host, port, flowinfo, scope_id) for AF_INET6, str for the path of
 * an AF_UNIX socket ('' if it has none) and bytes for an abstract name, None
 * where the kernel gave no address (`len` 0), and (family, bytes) for every
 * other family.  `sa` needs no alignment.  New reference. */
PyObject *address_to_python(const struct sockaddr *sa, socklen_t len);

/* The sockaddr for a Python address of `family`; `who` is the function's name,
 * for messages.
 *  1: converted.
 *  0: not converted, *len is 0 and no exception is set: the host is a name
 *     that must be looked up (what could be checked without that was checked)
 *     or, for a family that is none of the three, only the socket module
 *     knows the form.
 * -1: TypeError (not the form of this family), OverflowError (a number out of
 *     its range), ValueError (a NUL byte in a host or a path) or OSError (a
 *     path that is too long, '<broadcast>' for AF_INET6). */
int address_from_python(int family, PyObject *address, const char *who,
                        struct sockaddr_storage *out, socklen_t *len);

#endif
