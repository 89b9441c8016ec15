/* The stream transport: what asyncio's protocols read from and write to.
 *
 * StreamCore is the C half of StreamTransport (_transport.py): what runs per
 * packet is here, what runs per connection or less is mostly there.  stream.c
 * has reading, streamreader.c a short cut of it for asyncio's streams,
 * stream_write.c the write queue, stream_make.c how one comes to be,
 * stream_life.c what lies between connection_made and connection_lost,
 * stream_type.c the Python type.
 *
 * A connection that was accepted (server.c) has no socket object until
 * somebody asks for it: most never do, and it would cost a fifth of what the
 * connection costs, and its addresses as much. */
#ifndef PL_AIO_STREAM_H
#define PL_AIO_STREAM_H

#include <Python.h>

#include <netinet/in.h>

#include "core/fdtable.h"
#include "sched/loop.h"

struct StreamObject;

/* What stands in a watch for one side of a transport, and is pushed to the
 * ready queue when that side is ready.  While it does so it owns the
 * transport, as the bound method in asyncio's handle does; the transport owns
 * it from its first use on. */
typedef struct {
    struct runnable head;
    struct StreamObject *stream; /* owned while it is watched, else NULL */
} StreamEndObject;

/* An AF_INET or AF_INET6 address as the kernel gave it. */
struct stream_address {
    uint8_t length; /* 0: none */
    char bytes[sizeof(struct sockaddr_in6)];
};

/* How much is received at once, as in asyncio's transport. */
#define PL_STREAM_READ_BYTES (256 * 1024)

/* Pieces that have room in the transport itself. */
#define PL_STREAM_FEW_PIECES 2

/* What was written and not yet sent, oldest first: pieces[first .. first +
 * length) are owned bytes objects, of exact type (so that dropping one runs
 * no foreign code) and not empty; `offset` bytes of the first are gone; `size`
 * is what is left of all.  A datagram transport queues something else: see
 * dgram.h. */
struct stream_queue {
    PyObject **pieces; /* `few`, or owned: PyMem */
    uint32_t first;
    uint32_t length;
    uint32_t capacity;
    Py_ssize_t offset;
    Py_ssize_t size;
    PyObject *few[PL_STREAM_FEW_PIECES];
};

/* What a transport does when a side of its socket is ready: -1 with an
 * exception; and how that is reported. */
struct stream_kind {
    int (*read_ready)(struct StreamObject *self);
    int (*write_ready)(struct StreamObject *self);
    const char *read_failed;
    const char *write_failed;
};

typedef struct StreamObject {
    PyObject_HEAD
    /* The slots of asyncio's _FlowControlMixin, which StreamCore inherits
     * from.  All are covered by attributes of our own and stay NULL. */
    PyObject *base_slots[5];
    PyObject *dict; /* owned, or NULL */
    PyObject *weakrefs;
    const struct stream_kind *kind;
    LoopObject *loop;   /* owned; NULL before _setup and once lost */
    PyObject *sock;     /* owned; kept once closed, for get_extra_info.  NULL:
                           not asked for, `fd` is ours */
    PyObject *protocol; /* owned; NULL like loop */
    PyObject *context;  /* owned: what the protocol is called in */
    PyObject *server;   /* owned, or NULL */
    PyObject *given;    /* owned: the extra info we were made with, or NULL */
    PyObject *peername; /* owned, or NULL: see `peer` */
    PyObject *sockname; /* owned, or NULL: see `own`, or not asked for yet */
    PyObject *extra;    /* owned: all of it, or NULL: nobody has asked */
    PyObject *empty_waiter;   /* owned: a future (sendfile), None or NULL */
    StreamEndObject *ends[2]; /* owned, by PL_SIDE_*; NULL: never used */
    struct loop_flush flush;  /* linked: the queue is sent after the turn's
                                callbacks; the list owns us */
    struct stream_queue queue;
    Py_ssize_t high_water;
    Py_ssize_t low_water;
    struct stream_address peer;
    struct stream_address own; /* filled when the socket is closed */
    uint16_t family;           /* of the socket */
    uint16_t proto;
    int fd;
    int conn_lost; /* > 0: connection_lost is due; counts writes after that */
    bool closing;
    bool paused; /* reading is */
    bool eof;    /* write_eof() was called */
    bool protocol_paused;
    bool protocol_connected;
    bool is_buffered;  /* a BufferedProtocol */
    bool feeds_reader; /* asyncio's StreamReaderProtocol: streamreader.c */
    bool released;     /* the socket is closed */
} StreamObject;

/* True while the poller watches that side for us. */
static inline bool
stream_is_watched(const StreamObject *self, int side)
{
    return self->ends[side] != NULL && self->ends[side]->stream != NULL;
}

/* The end of that side, made on first use: borrowed, or NULL. */
StreamEndObject *stream_end(StreamObject *self, int side);
/* What tells our open file from others in a watch: borrowed, or NULL. */
PyObject *stream_owner(const StreamObject *self);
/* Has the poller watch that side; nothing happens if it does.  -1 with an
 * exception. */
int stream_watch(StreamObject *self, int side);
/* Ends that.  The caller holds a reference to self. */
void stream_unwatch(StreamObject *self, int side);
/* 0, or -1 with RuntimeError in a forked child of the loop's process. */
int stream_check_process(StreamObject *self);
/* Passes the current exception on to _fatal_error(exc, message), which closes
 * the transport.  0, or -1 with an exception: one that must end the loop, or
 * what that method raised. */
int stream_fatal(StreamObject *self, const char *message);
/* Raises OSError(error, strerror(error)), as the socket module does. */
void stream_set_oserror(int error);
/* Ends the wait for an empty queue, if there is one: exc NULL is success. -1
 * with an exception. */
int stream_settle_waiter(StreamObject *self, PyObject *exc);

/* Where all transports of the loop receive, PL_STREAM_READ_BYTES long; NULL
 * with MemoryError. */
char *stream_buffer(LoopObject *loop);

extern const struct stream_kind stream_kind;

/* Declares a method of the Python type and its docstring. */
#define STREAM_METHOD(name) \
    PyObject *Stream_##name(StreamObject *self, PyObject *arg); \
    extern const char Stream_##name##_doc[]

/* --- stream_make.c --- */

/* Loads the Python half of transports, which stream_accept() needs. */
int stream_import_type(struct module_state *state);
/* A transport for a connection that was just accepted; it owns `fd` if this
 * succeeds.  `server` may be NULL.  New reference, or NULL with an exception.
 */
PyObject *stream_accept(LoopObject *loop, int fd, int family, int proto,
                        const struct sockaddr *from, socklen_t from_length,
                        PyObject *protocol, PyObject *server,
                        PyObject *context);
/* The socket object, made on first use: borrowed.  NULL with an exception, or
 * without one if there never was a socket. */
PyObject *stream_socket(StreamObject *self);
/* Its own address, in `sockname` or `own`, while it has one. */
void stream_keep_sockname(StreamObject *self);
/* Takes it out of the loop's table. */
void stream_unlist(StreamObject *self);
/* What __init__ does, with None for what is not given.  -1 with an exception:
 * the socket is still the caller's. */
int stream_set_up(StreamObject *self, struct module_state *state,
                  PyObject *loop, PyObject *sock, PyObject *protocol,
                  PyObject *waiter, PyObject *extra, PyObject *server,
                  PyObject *context);
/* Calls another protocol from now on. */
int stream_set_protocol(StreamObject *self, PyObject *protocol);

PyObject *Stream_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
int Stream_tp_init(StreamObject *self, PyObject *args, PyObject *kwargs);
STREAM_METHOD(_begin);
STREAM_METHOD(_set_listed);
PyObject *Stream_get_peername(StreamObject *self, void *closure);
PyObject *Stream_get_sockname(StreamObject *self, void *closure);

/* --- stream_life.c --- */

/* call_soon(callback, arg).  New reference to its Handle. */
PyObject *stream_call_soon(StreamObject *self, PyObject *callback,
                           PyObject *arg);
/* The same with a method of its own.  -1 with an exception. */
int stream_call_own_soon(StreamObject *self, const char *method,
                         PyObject *arg);

/* Tells an asyncio.Server that it has us, and that it has us no more: then
 * wait_closed() does not wait for us.  -1 with an exception. */
int stream_join_server(StreamObject *self, PyObject *server);
int stream_leave_server(StreamObject *self);

/* The user closes that socket: its transport, if it has one, loses the
 * connection.  -1 with an exception. */
int stream_lose_socket(LoopObject *loop, int fd, PyObject *sock);
/* Schedules connection_lost(exc).  -1 with an exception. */
int stream_schedule_lost(StreamObject *self, PyObject *exc);

STREAM_METHOD(close);
STREAM_METHOD(_force_close);
STREAM_METHOD(abort);
STREAM_METHOD(_call_connection_lost);
STREAM_METHOD(_leave_server);
STREAM_METHOD(is_closing);
STREAM_METHOD(is_reading);
STREAM_METHOD(pause_reading);
STREAM_METHOD(resume_reading);
STREAM_METHOD(set_protocol);
STREAM_METHOD(get_protocol);
STREAM_METHOD(can_write_eof);
STREAM_METHOD(_stop_reading);
STREAM_METHOD(_read_ready);
STREAM_METHOD(_write_ready);

/* --- stream_write.c --- */

void stream_queue_init(struct stream_queue *queue);
/* Drops what is queued. */
void stream_queue_clear(struct stream_queue *queue);
/* Appends an object of `size` bytes; steals it, also on failure.  -1 with
 * MemoryError. */
int stream_queue_push(struct stream_queue *queue, PyObject *piece,
                      Py_ssize_t size);
/* Calls pause_writing() if it is due.  -1 with an exception. */
int stream_maybe_pause(StreamObject *self);
/* Does what was put off until everything is sent.  -1 with an exception. */
int stream_after_drained(StreamObject *self);
/* Sends now what waits for the end of the turn, if anything does.  -1 with an
 * exception; that sending failed is none, but has closed the transport. */
int stream_flush(StreamObject *self);
/* Forgets that something waits for it.  The caller holds a reference. */
void stream_unlink_flush(StreamObject *self);
/* loop_flush.run of a transport. */
int stream_flush_run(struct loop_flush *flush, LoopObject *loop);
/* The socket takes bytes again.  -1 with an exception. */
int stream_write_ready(StreamObject *self);

/* A write to a connection that is lost: quiet, but for a hint in the log to
 * whoever goes on.  -1 with an exception. */
int stream_note_lost_write(StreamObject *self);
/* 0, or -1 with TypeError: neither bytes, bytearray nor memoryview. */
int stream_check_is_data(PyObject *data);

STREAM_METHOD(write);
STREAM_METHOD(writelines);
STREAM_METHOD(write_eof);
STREAM_METHOD(get_write_buffer_size);
PyObject *Stream_get_buffer(StreamObject *self, void *closure);

/* --- streamreader.c --- */

bool stream_protocol_feeds_reader(struct module_state *state,
                                  PyObject *protocol);
/* Passes `n` received bytes to the reader behind such a protocol: 1 done, 0
 * its data_received() is to be called, -1 with an exception, which is as if
 * that method had raised it. */
int stream_feed_reader(struct module_state *state, PyObject *protocol,
                       const char *data, Py_ssize_t n);

/* --- stream_type.c, for the type that inherits --- */

int Stream_tp_traverse(StreamObject *self, visitproc visit, void *arg);
int Stream_tp_clear(StreamObject *self);
void Stream_tp_dealloc(StreamObject *self);

#endif
