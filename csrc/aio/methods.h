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

/* calls.c */
PyObject *Loop_call_soon(LoopObject *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_call_soon_threadsafe(LoopObject *self, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_call_later(LoopObject *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_call_at(LoopObject *self, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames);
extern const char Loop_call_soon_doc[];
extern const char Loop_call_soon_threadsafe_doc[];
extern const char Loop_call_later_doc[];
extern const char Loop_call_at_doc[];

/* watchers.c */
PyObject *Loop__add_reader(LoopObject *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop__add_writer(LoopObject *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop__remove_reader(LoopObject *self, PyObject *fileobj);
PyObject *Loop__remove_writer(LoopObject *self, PyObject *fileobj);
PyObject *Loop__waiters(LoopObject *self, PyObject *fileobj);
PyObject *Loop_close_socket(LoopObject *self, PyObject *sock);
extern const char Loop_add_reader_doc[];
extern const char Loop_add_writer_doc[];
extern const char Loop_remove_reader_doc[];
extern const char Loop_remove_writer_doc[];
extern const char Loop_waiters_doc[];
extern const char Loop_close_socket_doc[];

/* server.c */
PyObject *Loop__listen(LoopObject *self, PyObject *const *args,
                       Py_ssize_t nargs, PyObject *kwnames);
extern const char Loop_listen_doc[];

/* stream_make.c */
PyObject *Loop__transport_at(LoopObject *self, PyObject *number);
extern const char Loop_transport_at_doc[];

/* tasks.c */
PyObject *Loop__create_native_task(LoopObject *self, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_create_task(LoopObject *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
extern const char Loop_create_task_doc[];
PyObject *Loop_create_future(LoopObject *self, PyObject *ignored);
extern const char Loop_create_future_doc[];
PyObject *Loop__native_tasks(LoopObject *self, PyObject *ignored);
PyObject *Loop__is_root(LoopObject *self, PyObject *task);
PyObject *Loop__close_native_tasks(LoopObject *self, PyObject *ignored);
PyObject *Loop__describe_task(LoopObject *self, PyObject *task);
PyObject *Loop__take_failed(LoopObject *self, PyObject *ignored);
extern const char Loop_create_native_doc[];
extern const char Loop_native_tasks_doc[];
extern const char Loop_is_root_doc[];
extern const char Loop_close_native_doc[];
extern const char Loop_describe_doc[];
extern const char Loop_take_failed_doc[];

/* signals.c */
PyObject *Loop__add_signal(LoopObject *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop__remove_signal(LoopObject *self, PyObject *signum);
extern const char Loop_add_signal_doc[];
extern const char Loop_remove_signal_doc[];

/* sockops.c */
PyObject *Loop_sock_recv(LoopObject *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_recv_into(LoopObject *self, PyObject *const *args,
                              Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_recvfrom(LoopObject *self, PyObject *const *args,
                             Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_recvfrom_into(LoopObject *self, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_sendall(LoopObject *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_sendto(LoopObject *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_accept(LoopObject *self, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames);
PyObject *Loop_sock_connect(LoopObject *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
extern const char Loop_sock_recv_doc[];
extern const char Loop_sock_recv_into_doc[];
extern const char Loop_sock_recvfrom_doc[];
extern const char Loop_sock_recvfrom_into_doc[];
extern const char Loop_sock_sendall_doc[];
extern const char Loop_sock_sendto_doc[];
extern const char Loop_sock_accept_doc[];
extern const char Loop_sock_connect_doc[];

#endif
