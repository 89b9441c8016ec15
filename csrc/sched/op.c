#include <Python.h>

#include "op.h"

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "handle.h"

/* Ops that are kept for reuse: more than a busy server has in flight between
 * two allocations, at about 50 KiB. */
#define PL_MAX_FREE_OPS 256

/* --- life --- */

OpObject *
op_new(struct module_state *state, const struct op_kind *kind)
{
    OpObject *op = state->op_free;
    if (PL_LIKELY(op != NULL)) {
        state->op_free = (OpObject *)(void *)op->object;
        state->n_op_free--;
        op->object = NULL;
        object_revive((PyObject *)op, state->OpType);
    }
    else {
        op = PyObject_GC_New(OpObject, state->OpType);
        if (op == NULL) {
            return NULL;
        }
        op->head.fire = op_fire_from_watch;
        op->object = NULL;
        op->weakrefs = NULL;
        op->loop = NULL;
        op->waiter = NULL;
        op->error = NULL;
        op->value = NULL;
    }
    op->kind = kind;
    op->status = OP_NEW;
    op->blocking = 0;
    op->cancelled = 0;
    op->side = 0;
    op->phase = 0;
    op->of_asyncio = 0;
    op->finalized = 0;
    op->fd = -1;
    memset(&op->u.io, 0, sizeof(op->u.io));
    if (!kind->untracked) {
        PyObject_GC_Track((PyObject *)op);
    }
    return op;
}

void
op_finish(OpObject *op)
{
    op->status = OP_DONE;
    op->blocking = 0;
    if (op->kind->clear != NULL) {
        op->kind->clear(op);
    }
    PyObject *object = op->object;
    PyObject *value = op->value;
    op->object = NULL;
    op->value = NULL;
    Py_XDECREF(object); /* call-out */
    Py_XDECREF(value);
}

void
op_give_up(OpObject *op)
{
    if (op->status == OP_ARMED) {
        op_disarm(op);
    }
    if (op->status != OP_DONE) {
        op_finish(op);
    }
    Py_CLEAR(op->error);
}

/* Undoes arm, and wakes whoever waits; `error` as in op_fire.  The caller
 * holds a reference. */
static void
disarm_and_wake(OpObject *op, PyObject *error)
{
    op->status = OP_FIRED;
    Py_XSETREF(op->error, error);
    struct runnable *waiter = op->waiter;
    op->waiter = NULL;
    op->kind->disarm(op); /* call-out */
    loop_push_promised(op->loop, waiter);
}

/* The same by a call from outside.  A task that waits for it is woken, to meet
 * an operation that is over: it must not wait for ever. */
static void
op_end_early(OpObject *op)
{
    Py_INCREF(op);
    if (op->status == OP_ARMED) {
        disarm_and_wake(op, NULL);
    }
    op_give_up(op);
    Py_DECREF(op);
}

static bool
was_never_awaited(const OpObject *op)
{
    return op->status == OP_NEW && op->loop == NULL;
}

/* A buffer is given back here, before the collector clears anything: what
 * exports it may be written in Python. */
PL_COLD static void
Op_tp_finalize(OpObject *op)
{
    op->finalized = 1;
    bool is_unused = was_never_awaited(op);
    bool holds_buffer = op->kind->traverse != NULL && op->status != OP_DONE;
    if (!is_unused && !holds_buffer) {
        return;
    }
    PyObject *pending = exception_take();
    if (is_unused
        && PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                            "pyloop operation '%s' was never awaited",
                            op->kind->name)
               < 0)
    {
        PyErr_WriteUnraisable((PyObject *)op);
    }
    if (holds_buffer) {
        op_give_up(op); /* call-out */
    }
    if (pending != NULL) {
        exception_put(pending);
    }
}

/* The module's state from the loop that is at hand, else by way of the
 * type. */
static struct module_state *
state_of_type(PyTypeObject *type, LoopObject *loop)
{
    if (loop == NULL) {
        loop = loop_running_here();
    }
    return PL_LIKELY(loop != NULL && loop->state->OpType == type)
               ? loop->state
               : (struct module_state *)PyType_GetModuleState(type);
}

static inline bool
recycle(OpObject *op, PyTypeObject *type, LoopObject *loop)
{
    struct module_state *state = state_of_type(type, loop);
    if (!PL_FREELISTS || state == NULL || state->n_op_free >= PL_MAX_FREE_OPS)
    {
        return false;
    }
    op->object = (PyObject *)(void *)state->op_free;
    state->op_free = op;
    state->n_op_free++;
    return true;
}

static void
Op_tp_dealloc(OpObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (op->kind->untracked && op->status == OP_DONE && op->weakrefs == NULL
        && recycle(op, type, NULL))
    {
        Py_DECREF(type);
        return;
    }
    bool reuse = !was_never_awaited(op);
    if (!reuse && PyObject_CallFinalizerFromDealloc((PyObject *)op) < 0) {
        return;
    }
    /* The collector's mark "finalized" would outlive a recycling. */
    reuse = reuse && !op->finalized;
    PyObject_GC_UnTrack(op);
    if (op->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)op);
    }
    if (PL_UNLIKELY(op->status != OP_DONE || op->error != NULL)) {
        op_give_up(op);
    }
    Py_CLEAR(op->waiter);
    LoopObject *loop = op->loop;
    op->loop = NULL;
    if (!reuse || !recycle(op, type, loop)) {
        PyObject_GC_Del(op);
    }
    Py_XDECREF(loop); /* call-out: last, it may free everything */
    Py_DECREF(type);
}

static int
Op_tp_traverse(OpObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(op->loop);
    Py_VISIT(op->waiter);
    Py_VISIT(op->error);
    Py_VISIT(op->object);
    Py_VISIT(op->value);
    return op->kind->traverse != NULL ? op->kind->traverse(op, visit, arg) : 0;
}

static int
Op_tp_clear(OpObject *op)
{
    op_give_up(op);
    Py_CLEAR(op->waiter);
    return 0;
}

/* --- being driven --- */

PL_COLD static int
refuse_reuse(OpObject *op)
{
    PyErr_Format(PyExc_RuntimeError,
                 op->status == OP_DONE
                     ? "cannot reuse already awaited operation '%s'"
                     : "operation '%s' is being awaited already",
                 op->kind->name);
    return -1;
}

/* First time: find the loop, pay from the step budget.  1: go on; 0: yield
 * None first, the budget is used up; -1: exception. */
static int
op_begin(OpObject *op)
{
    if (op->loop == NULL) {
        LoopObject *loop = loop_running_here();
        if (PL_UNLIKELY(loop == NULL || loop->state->OpType != Py_TYPE(op))) {
            PyErr_Format(PyExc_RuntimeError,
                         "%s must be awaited in a task of a running pyloop "
                         "EventLoop; none is running in this thread",
                         op->kind->name);
            return -1;
        }
        if (op->kind->untracked) {
            return 1;
        }
        op->loop = (LoopObject *)Py_NewRef(loop);
        if (!op->kind->unmetered && --loop->tasks.budget < 0) {
            return 0;
        }
    }
    return 1;
}

PySendResult
op_send(OpObject *op, PyObject **result)
{
    if (PL_UNLIKELY(op->status != OP_NEW && op->status != OP_FIRED)) {
        refuse_reuse(op);
        return PYGEN_ERROR;
    }
    if (op->status == OP_NEW) {
        int rc = op_begin(op);
        if (rc <= 0) {
            *result = rc == 0 ? Py_NewRef(Py_None) : NULL;
            if (rc < 0) {
                op_finish(op);
            }
            return rc == 0 ? PYGEN_NEXT : PYGEN_ERROR;
        }
    }
    if (PL_UNLIKELY(op->error != NULL)) {
        PyObject *error = op->error;
        op->error = NULL;
        op_finish(op);
        exception_put(error);
        return PYGEN_ERROR;
    }
    *result = NULL;
    enum op_attempt outcome = op->kind->attempt(op, result); /* call-out */
    if (PL_UNLIKELY(op->status == OP_DONE)) {
        /* It was closed from within its own attempt. */
        Py_CLEAR(*result);
        if (!PyErr_Occurred()) {
            refuse_reuse(op);
        }
        return PYGEN_ERROR;
    }
    switch (outcome) {
    case OP_ATTEMPT_DONE:
        op_finish(op);
        return PYGEN_RETURN;
    case OP_ATTEMPT_WAIT:
        op->status = OP_YIELDED;
        op->blocking = 1;
        *result = Py_NewRef((PyObject *)op);
        return PYGEN_NEXT;
    case OP_ATTEMPT_PAUSE:
        op->status = OP_FIRED;
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    case OP_ATTEMPT_ERROR:
    default:
        op_finish(op);
        return PYGEN_ERROR;
    }
}

static PySendResult
Op_am_send(PyObject *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    return op_send((OpObject *)self, result);
}

/* An untracked op only yields once; it is what the cost of a switch depends
 * on. */
static PyObject *
pause_iternext(OpObject *op)
{
    if (op->status == OP_FIRED) {
        op->status = OP_DONE;
        return NULL;
    }
    if (op->status != OP_NEW) {
        refuse_reuse(op);
        return NULL;
    }
    int rc = op_begin(op);
    op->status = rc < 0 ? OP_DONE : OP_FIRED;
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

static void
return_value(OpObject *op, PyObject *value)
{
    LoopObject *loop = op->loop;
    if (PL_LIKELY(loop != NULL && loop->thread_id != 0)) {
        errors_return_from_await(loop->state, value);
    }
    else {
        errors_stop_iteration(value);
    }
}

static PyObject *
Op_tp_iternext(PyObject *self)
{
    PyObject *result;
    OpObject *op = (OpObject *)self;
    if (op->kind->untracked) {
        return pause_iternext(op);
    }
    switch (op_send(op, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        /* No exception at all stands for StopIteration(None). */
        if (result != Py_None) {
            return_value(op, result);
        }
        Py_DECREF(result);
        return NULL;
    case PYGEN_ERROR:
    default:
        return NULL;
    }
}

/* --- waiting --- */

int
op_arm(OpObject *op, struct runnable *waiter)
{
    if (PL_UNLIKELY(op->status != OP_YIELDED)) {
        return refuse_reuse(op);
    }
    LoopObject *loop = op->loop;
    op->blocking = 0;
    if (loop_check_usable(loop) < 0 || loop_promise(loop) < 0) {
        op->status = OP_FIRED;
        return -1;
    }
    op->waiter = (struct runnable *)Py_NewRef((PyObject *)waiter);
    op->status = OP_ARMED;
    if (op->kind->arm(op) < 0) { /* call-out */
        if (op->status == OP_ARMED) {
            op->status = OP_FIRED;
            loop_unpromise(loop);
            Py_CLEAR(op->waiter);
        }
        return -1;
    }
    return 0;
}

void
op_disarm(OpObject *op)
{
    if (op->status != OP_ARMED) {
        return;
    }
    /* disarm gives back a reference that may be the last but ours. */
    Py_INCREF(op);
    op->status = OP_FIRED;
    op->kind->disarm(op);
    loop_unpromise(op->loop);
    struct runnable *waiter = op->waiter;
    op->waiter = NULL;
    Py_XDECREF(waiter);
    Py_DECREF(op);
}

void
op_fire(OpObject *op, PyObject *error)
{
    if (op->status != OP_ARMED) {
        Py_XDECREF(error);
        return;
    }
    op->status = OP_FIRED;
    Py_XSETREF(op->error, error);
    struct runnable *waiter = op->waiter;
    op->waiter = NULL;
    loop_push_promised(op->loop, waiter);
}

/* --- the coroutine's face --- */

PyDoc_STRVAR(Op_send_doc,
             "send($self, value, /)\n--\n\n"
             "Drive the operation as a coroutine; value must be None.");

static PyObject *
Op_send(OpObject *op, PyObject *value)
{
    if (value != Py_None && op->status == OP_NEW) {
        PyErr_Format(PyExc_TypeError,
                     "can't send non-None value %R to a just-started "
                     "operation",
                     value);
        return NULL;
    }
    PyObject *result;
    switch (op_send(op, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        errors_stop_iteration(result);
        Py_DECREF(result);
        return NULL;
    case PYGEN_ERROR:
    default:
        return NULL;
    }
}

PyDoc_STRVAR(Op_throw_doc,
             "throw($self, type, value=None, traceback=None, /)\n--\n\n"
             "Give the operation up and raise the exception.");

static PyObject *
Op_throw(OpObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError,
                     "throw() takes 1 to 3 arguments (%zd given)", nargs);
        return NULL;
    }
    PyObject *type = args[0];
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *traceback = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    PyObject *exc;
    if (PyExceptionInstance_Check(type)) {
        exc = Py_NewRef(type);
    }
    else if (PyExceptionClass_Check(type)) {
        if (value != NULL && PyExceptionInstance_Check(value)) {
            exc = Py_NewRef(value);
        }
        else if (value != NULL) {
            exc = PyObject_CallOneArg(type, value);
        }
        else {
            exc = PyObject_CallNoArgs(type);
        }
        if (exc == NULL) {
            return NULL;
        }
        if (!PyExceptionInstance_Check(exc)) {
            PyErr_Format(PyExc_TypeError,
                         "calling %R should have returned an exception, "
                         "not %R",
                         type, exc);
            Py_DECREF(exc);
            return NULL;
        }
    }
    else {
        PyErr_Format(PyExc_TypeError,
                     "throw() needs an exception or exception class, not %R",
                     type);
        return NULL;
    }
    if (traceback != NULL && PyException_SetTraceback(exc, traceback) < 0) {
        Py_DECREF(exc);
        return NULL;
    }
    op_end_early(op);
    exception_put(exc);
    return NULL;
}

PyDoc_STRVAR(Op_close_doc,
             "close($self, /)\n--\n\n"
             "Give the operation up.");

static PyObject *
Op_close(OpObject *op, PyObject *Py_UNUSED(ignored))
{
    op_end_early(op);
    Py_RETURN_NONE;
}

/* --- the future's face, for asyncio.Task --- */

PyDoc_STRVAR(Op_add_done_callback_doc,
             "add_done_callback($self, fn, /, *, context=None)\n--\n\n"
             "Arm the operation: fn(self) is scheduled when it can go on.");

static PyObject *
Op_add_done_callback(OpObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const char *const names[] = {NULL, "context"};
    static const struct args_spec spec = {"add_done_callback", names, 2, 1, 1};
    PyObject *bound[2];
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0) {
        return NULL;
    }
    if (op->status != OP_YIELDED) {
        refuse_reuse(op);
        return NULL;
    }
    PyObject *self = (PyObject *)op;
    HandleObject *handle = handle_new(op->loop, bound[0], &self, 1, bound[1]);
    if (handle == NULL) {
        return NULL;
    }
    if (op_arm(op, &handle->head) < 0) {
        /* The driver has no place for an error here (an asyncio.Task would
         * never run again): raise it when we are resumed, which is now. */
        Py_XSETREF(op->error, exception_take());
        if (loop_push(op->loop, &handle->head) < 0) {
            Py_DECREF(handle);
            return NULL;
        }
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Op_cancel_doc,
             "cancel($self, /, msg=None)\n--\n\n"
             "Stop waiting; the driver's callback is scheduled.\n\n"
             "Returns:\n    True if the operation was waiting.");

static PyObject *
Op_cancel(OpObject *op, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    static const char *const names[] = {"msg"};
    static const struct args_spec spec = {"cancel", names, 1, 1, 0};
    PyObject *msg;
    if (args_bind(&spec, args, nargs, kwnames, &msg) < 0) {
        return NULL;
    }
    if (op->status != OP_ARMED) {
        Py_RETURN_FALSE;
    }
    if (op->kind->cancel != NULL) {
        int rc = op->kind->cancel(op, msg); /* call-out */
        return rc < 0 ? NULL : PyBool_FromLong(rc);
    }
    PyObject *exc
        = msg == NULL || msg == Py_None
              ? PyObject_CallNoArgs(op->loop->state->CancelledError)
              : PyObject_CallOneArg(op->loop->state->CancelledError, msg);
    if (exc == NULL) {
        return NULL;
    }
    if (op->status != OP_ARMED) {
        Py_DECREF(exc); /* making it ran the collector, and that fired us */
        Py_RETURN_FALSE;
    }
    Py_INCREF(op);
    op->cancelled = 1;
    disarm_and_wake(op, exc);
    Py_DECREF(op);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(Op_result_doc,
             "result($self, /)\n--\n\n"
             "Return None when the operation can go on.\n\n"
             "Raises:\n"
             "    asyncio.CancelledError: cancel() was called.\n"
             "    asyncio.InvalidStateError: it still waits.");

static PyObject *
Op_result(OpObject *op, PyObject *Py_UNUSED(ignored))
{
    if (op->cancelled && op->error != NULL) {
        exception_put(Py_NewRef(op->error));
        return NULL;
    }
    if (op->status != OP_FIRED && op->status != OP_DONE) {
        PyObject *error = PyExc_RuntimeError;
        if (op->loop != NULL) {
            error = op->loop->state->InvalidStateError;
        }
        PyErr_Format(error, "operation '%s' is not ready", op->kind->name);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(Op_done_doc,
             "done($self, /)\n--\n\n"
             "Return True if the operation does not wait any more.");

static PyObject *
Op_done(OpObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(op->status == OP_FIRED || op->status == OP_DONE);
}

PyDoc_STRVAR(Op_cancelled_doc,
             "cancelled($self, /)\n--\n\n"
             "Return True if cancel() ended the wait.");

static PyObject *
Op_cancelled(OpObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(op->cancelled);
}

PyDoc_STRVAR(Op_get_loop_doc,
             "get_loop($self, /)\n--\n\n"
             "Return the loop that the operation waits on, None before it is "
             "awaited.");

static PyObject *
Op_get_loop(OpObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op->loop != NULL ? (PyObject *)op->loop : Py_None);
}

static PyObject *
Op_get_blocking(OpObject *op, void *Py_UNUSED(closure))
{
    /* None until it waits: a fresh operation is a coroutine, not a future. */
    if (op->status == OP_NEW || op->status == OP_DONE) {
        Py_RETURN_NONE;
    }
    return PyBool_FromLong(op->blocking);
}

static int
Op_set_blocking(OpObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError,
                        "cannot delete _asyncio_future_blocking");
        return -1;
    }
    int truth = PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    op->blocking = (uint8_t)truth;
    return 0;
}

#define OP_FASTCALL(fn) (PyCFunction)(void (*)(void))(fn)

static PyMethodDef Op_methods[] = {
    {"send", (PyCFunction)Op_send, METH_O, Op_send_doc},
    {"throw", OP_FASTCALL(Op_throw), METH_FASTCALL, Op_throw_doc},
    {"close", (PyCFunction)Op_close, METH_NOARGS, Op_close_doc},
    {"add_done_callback", OP_FASTCALL(Op_add_done_callback),
     METH_FASTCALL | METH_KEYWORDS, Op_add_done_callback_doc},
    {"cancel", OP_FASTCALL(Op_cancel), METH_FASTCALL | METH_KEYWORDS,
     Op_cancel_doc},
    {"result", (PyCFunction)Op_result, METH_NOARGS, Op_result_doc},
    {"done", (PyCFunction)Op_done, METH_NOARGS, Op_done_doc},
    {"cancelled", (PyCFunction)Op_cancelled, METH_NOARGS, Op_cancelled_doc},
    {"get_loop", (PyCFunction)Op_get_loop, METH_NOARGS, Op_get_loop_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Op_getset[] = {
    {"_asyncio_future_blocking", (getter)Op_get_blocking,
     (setter)Op_set_blocking, NULL, NULL},
    {"__name__", op_get_name, NULL, NULL, NULL},
    {"__qualname__", op_get_name, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef Op_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(OpObject, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Op_doc,
             "An operation that can be awaited: what recv(), sleep(), "
             "Channel.send() ... return.\n\n"
             "A collections.abc.Coroutine: it can be awaited once, spawned, "
             "or given to asyncio.create_task().");

static PyType_Slot Op_slots[] = {
    {Py_tp_doc, (void *)Op_doc},      {Py_tp_dealloc, Op_tp_dealloc},
    {Py_tp_finalize, Op_tp_finalize}, {Py_tp_traverse, Op_tp_traverse},
    {Py_tp_clear, Op_tp_clear},       {Py_tp_repr, op_repr},
    {Py_tp_methods, Op_methods},      {Py_tp_members, Op_members},
    {Py_tp_getset, Op_getset},        {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, Op_tp_iternext}, {Py_am_await, PyObject_SelfIter},
    {Py_am_send, Op_am_send},         {0, NULL},
};

static PyType_Spec Op_spec = {
    .name = "pyloop._core.Operation",
    .basicsize = sizeof(OpObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Op_slots,
};

int
op_init(PyObject *module, struct module_state *state)
{
    return state_add_type(module, &state->OpType, &Op_spec, "Operation");
}

void
op_free_all(struct module_state *state)
{
    while (state->op_free != NULL) {
        OpObject *op = state->op_free;
        state->op_free = (OpObject *)(void *)op->object;
        PyObject_GC_Del(op);
    }
    state->n_op_free = 0;
}
