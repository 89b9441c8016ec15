/* Channel: values from tasks to tasks. */
#ifndef PL_SCHED_CHANNEL_H
#define PL_SCHED_CHANNEL_H

#include <Python.h>

#include "op.h"

/* The ops behind the traps ChanSend and ChanRecv on one of our channels.  A
 * send takes what was assigned to channel._value. */
OpObject *channel_trap_new(struct module_state *state, PyObject *channel,
                           bool is_send);

/* The same for a program's own channel class with `_sender` and `_receiver`
 * (plainchannel.c). */
OpObject *plainchannel_trap_new(struct module_state *state,
                                PyObject *channel, bool is_send);

#endif
