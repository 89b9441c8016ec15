/* Listening: what runs for each connection that comes in.  asyncio's Server,
 * create_server() and start_serving() stay the standard library's; they end in
 * loop._start_serving() for each socket, which makes a Listener. */
#ifndef PL_AIO_SERVER_H
#define PL_AIO_SERVER_H

#include <Python.h>

#include "sched/loop.h"

/* Stops accepting for good; the socket stays open.  The caller holds a
 * reference. */
void listener_stop(PyObject *listener);

#endif
