/* The module's state: types, exceptions, interned names, and what is borrowed
 * from the standard library.  There are no other globals in sched and aio.
 *
 * Each part has an `xxx_init(module, state)` that is called once by module.c;
 * it fills its fields and adds its public names to the module. */
#ifndef PL_SCHED_STATE_H
#define PL_SCHED_STATE_H

#include <Python.h>

#include "core/base.h"

struct HandleObject;
struct OpObject;
struct TaskObject;

/* The C types. */
#define PL_STATE_TYPES(X) \
    X(LoopType) \
    X(HandleType) \
    X(TimerHandleType) \
    X(TaskType) \
    X(WakeupType) \
    X(OpType) \
    X(ChannelType) \
    X(LinesType) \
    X(StreamType) \
    X(StreamEndType) \
    X(ListenerType) \
    X(DgramType) \
    X(SelectorType) \
    X(SelectorMapType)

/* Other objects, all owned. */
#define PL_STATE_OBJECTS(X) \
    X(Event)      /* enum.Enum made from traps.def */ \
    X(TaskKind)   /* enum.StrEnum TaskType */ \
    X(trap_codes) /* dict: event name -> int */ \
    X(Enum)       /* enum.Enum */ \
    X(Deadlock) \
    X(ChannelClosed) \
    X(LineTooLong) \
    X(CancelledError) /* from here on: asyncio's */ \
    X(InvalidStateError) \
    X(QueueEmpty) \
    X(QueueFull) \
    X(AsyncioTask) \
    X(BaseCreateTask) /* BaseEventLoop.create_task */ \
    X(AsyncioFuture) \
    X(AsyncioHandle) \
    X(AsyncioTimerHandle) \
    X(AsyncioBufferedProtocol) \
    X(asyncio_timeout) /* asyncio.timeouts.timeout */ \
    X(StreamReader) \
    X(StreamReaderProtocol) \
    X(data_received)     /* the latter's function */ \
    X(feed_data)         /* and the former's */ \
    X(current_tasks)     /* _asyncio._current_tasks, NULL from 3.14 on */ \
    X(swap_current_task) /* 3.14 */ \
    X(get_running_loop)  /* _asyncio._get_running_loop */ \
    X(set_running_loop) \
    X(extract_stack)   /* asyncio.format_helpers.extract_stack */ \
    X(format_callback) /* asyncio.format_helpers._format_callback_source */ \
    X(main_thread)     /* threading.main_thread */ \
    X(get_asyncgen_hooks) /* sys's */ \
    X(set_asyncgen_hooks) \
    X(set_wakeup_fd)   /* signal's */ \
    X(SocketType)      /* socket.socket */ \
    X(RawSocketType)   /* _socket.socket */ \
    X(SelectorKey)     /* selectors.SelectorKey */ \
    X(Mapping)         /* collections.abc.Mapping */ \
    X(Coroutine)       /* collections.abc.Coroutine */ \
    X(StreamTransport) /* pyloop._transport.StreamTransport */ \
    X(connect_by_name) /* pyloop._resolve.connect_by_name */ \
    X(sendto_by_name)  /* pyloop._resolve.sendto_by_name */ \
    X(stop_iteration)  /* raised again and again, see errors.h */

/* Interned strings: field name str_X, text X. */
#define PL_STATE_STRINGS(X) \
    X(_attach) \
    X(_detach) \
    X(_asyncgen_finalizer_hook) \
    X(_asyncgen_firstiter_hook) \
    X(_asyncio_future_blocking) \
    X(_buffer) \
    X(_check_callback) \
    X(_check_thread) \
    X(_eof) \
    X(_limit) \
    X(_name_) \
    X(_receiver) \
    X(_sender) \
    X(_stream_reader_wr) \
    X(_waiter) \
    X(add_done_callback) \
    X(buffer_updated) \
    X(call_exception_handler) \
    X(cancel) \
    X(cancelled) \
    X(done) \
    X(close) \
    X(connection_lost) \
    X(connection_made) \
    X(context) \
    X(cr_running) \
    X(cr_suspended) \
    X(data_received) \
    X(datagram_received) \
    X(error_received) \
    X(exception) \
    X(finalizer) \
    X(firstiter) \
    X(feed_data) \
    X(fileno) \
    X(future) \
    X(get_buffer) \
    X(get_loop) \
    X(gi_running) \
    X(gi_suspended) \
    X(handle) \
    X(message) \
    X(msg) \
    X(protocol) \
    X(result) \
    X(set_result) \
    X(socket) \
    X(source_traceback) \
    X(loop) \
    X(task) \
    X(throw)

struct module_state {
#define X(name) PyTypeObject *name;
    PL_STATE_TYPES(X)
#undef X
#define X(name) PyObject *name;
    PL_STATE_OBJECTS(X)
#undef X
#define X(name) PyObject *str_##name;
    PL_STATE_STRINGS(X)
#undef X
    PyObject *kwnames_context; /* ("context",) */
    PyObject *kwnames_loop;    /* ("loop",) */
    PyObject *kwnames_msg;     /* ("msg",) */
    PyObject *kwnames_hooks;   /* ("firstiter", "finalizer") */

    /* Recycled awaitables, linked through OpObject.object; bounded. */
    struct OpObject *op_free;
    int n_op_free;
    /* Recycled Handles, linked through HandleObject.callback; bounded. */
    struct HandleObject *handle_free;
    int n_handle_free;
    /* Recycled tasks, linked through TaskObject.coro; bounded. */
    struct TaskObject *task_free;
    int n_task_free;

    /* stop_iteration holds a result whose receiver has it by now. */
    bool stop_iteration_is_full;

    uint64_t next_task_number;
    /* Offset of the descriptor in a _socket.socket, or -1 where it could not
     * be proved at import (then fileno() is called). */
    Py_ssize_t socket_fd_offset;
    /* gi_frame_state of a generator that has not started. */
    int frame_state_created;
};

extern struct PyModuleDef pl_module_def;

static inline struct module_state *
state_of_module(PyObject *module)
{
    return (struct module_state *)PyModule_GetState(module);
}

/* The state for an object of one of our types or of a subclass. */
static inline struct module_state *
state_of(PyObject *self)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &pl_module_def);
    return module != NULL ? state_of_module(module) : NULL;
}

/* `from module_name import name`: new reference, or NULL. */
PyObject *state_import(const char *module_name, const char *name);
/* The same into *slot, when it is first needed: borrowed from there. */
PyObject *state_import_once(PyObject **slot, const char *module_name,
                            const char *name);

/* Creates a heap type from `spec`, stores it in *slot and, if `name` is not
 * NULL, adds it to the module under that name. */
int state_add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
                   const char *name);

int asyncio_compat_init(PyObject *module, struct module_state *state);
int errors_init(PyObject *module, struct module_state *state);
int handle_init(PyObject *module, struct module_state *state);
int op_init(PyObject *module, struct module_state *state);
int task_init(PyObject *module, struct module_state *state);
int step_init(PyObject *module, struct module_state *state);
int traps_init(PyObject *module, struct module_state *state);
int sockfd_init(PyObject *module, struct module_state *state);
int ioop_recv_init(PyObject *module, struct module_state *state);
int ioop_send_init(PyObject *module, struct module_state *state);
int ioop_conn_init(PyObject *module, struct module_state *state);
int sleep_init(PyObject *module, struct module_state *state);
int timeout_init(PyObject *module, struct module_state *state);
int channel_init(PyObject *module, struct module_state *state);
int lines_init(PyObject *module, struct module_state *state);
int selectormap_init(PyObject *module, struct module_state *state);
int selector_init(PyObject *module, struct module_state *state);
int spawn_init(PyObject *module, struct module_state *state);
int stream_init(PyObject *module, struct module_state *state);
int dgram_init(PyObject *module, struct module_state *state);
int server_init(PyObject *module, struct module_state *state);
int eventloop_init(PyObject *module, struct module_state *state);

#endif
