/* Channel: values from tasks to tasks. */
#ifndef PL_SCHED_CHANNEL_H
#define PL_SCHED_CHANNEL_H

#include <Python.h>

#include "op.h"

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    Py_ssize_t capacity;
    struct ring buffer; /* owned references */
    struct list senders;
    struct list receivers;
    uint32_t n_senders;
    uint32_t n_receivers;
    uint32_t n_notified;
    bool closed;
    PyObject *trap_value; /* owned: what was assigned to _value, or what a
                             ChanRecv trap took last */
} ChannelObject;

/* What a receive op is for. */
enum recv_phase { RECV_PLAIN, RECV_NEXT, RECV_TRAP };

/* An op that sends `value`, or receives.  New reference. */
OpObject *channel_send_op(struct module_state *state, ChannelObject *channel,
                          PyObject *value);
OpObject *channel_recv_op(struct module_state *state, ChannelObject *channel,
                          enum recv_phase phase);

/* Values that can be taken: buffered, or held by a waiting sender. */
uint32_t channel_available(const ChannelObject *channel);
/* Takes the oldest value; channel_available() > 0.  New reference. */
PyObject *channel_take(ChannelObject *channel);
/* Adds a value to the buffer, whatever its capacity.  -1: MemoryError. */
int channel_put(ChannelObject *channel, PyObject *value);
/* Ends all waits with ChannelClosed, but for receivers that still find a
 * value. */
void channel_close(ChannelObject *channel);
/* The loop whose tasks wait on the channel, borrowed, or NULL. */
LoopObject *channel_loop(const ChannelObject *channel);
void channel_raise_closed(struct module_state *state);
/* Drops all values and waiting ops: for tp_clear. */
void channel_clear(ChannelObject *channel);

static inline OpObject *
channel_op_of_link(struct list *link)
{
    return PL_CONTAINER_OF(link, OpObject, u.queue.link);
}

/* The ops behind the traps ChanSend and ChanRecv on one of our channels.  A
 * send takes what was assigned to channel._value. */
OpObject *channel_trap_new(struct module_state *state, PyObject *channel,
                           bool is_send);

/* The same for a program's own channel class with `_sender` and `_receiver`
 * (plainchannel.c). */
OpObject *plainchannel_trap_new(struct module_state *state, PyObject *channel,
                                bool is_send);

#endif
