/* The methods of LoopCore that do not stand in eventloop.c: what asyncio's
 * face asks of the loop, one file a subject. */
#ifndef PL_AIO_METHODS_H
#define PL_AIO_METHODS_H

#include <Python.h>

#include "sched/args.h"
#include "sched/loop.h"

/* What call_soon(callback, *args, context=None) and its like were given. */
struct loopcall {
    PyObject *first; /* what comes before the callback, else the callback */
    PyObject *callback;
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *context; /* NULL: a copy of the current one */
};

/* Sorts a vectorcall's arguments out.  The last positional parameter of `spec`
 * is the callback, whose own arguments follow it; one more parameter, if there
 * is one, is the context.  -1 with TypeError. */
int loopcall_parse(struct loopcall *call, const struct args_spec *spec,
                   PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* Declare a method and its docstring. */
#define LOOP_METHOD_FASTCALL(name) \
    PyObject *Loop_##name(LoopObject *self, PyObject *const *args, \
                          Py_ssize_t nargs, PyObject *kwnames); \
    extern const char Loop_##name##_doc[]
#define LOOP_METHOD(name) \
    PyObject *Loop_##name(LoopObject *self, PyObject *arg); \
    extern const char Loop_##name##_doc[]

/* calls.c */
LOOP_METHOD_FASTCALL(call_soon);
LOOP_METHOD_FASTCALL(call_soon_threadsafe);
LOOP_METHOD_FASTCALL(call_later);
LOOP_METHOD_FASTCALL(call_at);

/* watchers.c */
LOOP_METHOD_FASTCALL(_add_reader);
LOOP_METHOD_FASTCALL(_add_writer);
LOOP_METHOD(_remove_reader);
LOOP_METHOD(_remove_writer);
LOOP_METHOD(_waiters);
LOOP_METHOD(close_socket);

/* server.c */
LOOP_METHOD_FASTCALL(_listen);

/* stream_make.c */
LOOP_METHOD(_transport_at);

/* tasks.c */
LOOP_METHOD_FASTCALL(_create_native_task);
LOOP_METHOD_FASTCALL(create_task);
LOOP_METHOD(create_future);
LOOP_METHOD(_native_tasks);
LOOP_METHOD(_is_root);
LOOP_METHOD(_close_native_tasks);
LOOP_METHOD(_describe_task);
LOOP_METHOD(_take_failed);

/* signals.c */
LOOP_METHOD_FASTCALL(_add_signal);
LOOP_METHOD(_remove_signal);

/* sockops.c */
LOOP_METHOD_FASTCALL(sock_recv);
LOOP_METHOD_FASTCALL(sock_recv_into);
LOOP_METHOD_FASTCALL(sock_recvfrom);
LOOP_METHOD_FASTCALL(sock_recvfrom_into);
LOOP_METHOD_FASTCALL(sock_sendall);
LOOP_METHOD_FASTCALL(sock_sendto);
LOOP_METHOD_FASTCALL(sock_accept);
LOOP_METHOD_FASTCALL(sock_connect);

#endif
