/* lines(sock): the lines that a socket receives, as an asynchronous iterator.
 *
 * The buffer belongs to the iterator, not to the operation that fills it: an
 * operation that is cancelled, or never awaited, loses nothing.
 *
 *     data:  0 ....... head ======= scan ------- tail ....... capacity
 *                      |  no '\n'   |  not looked at  |  free
 *
 * 0 <= head <= scan <= tail <= capacity <= max_line + PL_LINES_CHUNK.
 * Every received byte is looked at once, and moved a bounded number of times
 * on average, however small the pieces are in which it came. */
#include <Python.h>

#include "state.h"

#include <errno.h>
#include <string.h>

#include "args.h"
#include "compat.h"
#include "errors.h"
#include "ioop.h"
#include "op.h"
#include "sockfd.h"

/* The first size of a buffer, and the least that can be read behind the
 * longest line: some hundred lines of text in one recv(2), and little enough
 * to allocate anew for each burst on a connection that was idle. */
#define PL_LINES_CHUNK 16384
/* With less room than this the buffer is moved or grown before it is read
 * into: a quarter of a chunk, so that moving is amortised by reading. */
#define PL_LINES_MIN_ROOM (PL_LINES_CHUNK / 4)
/* How often one attempt reads before it lets others run: a peer that sends
 * faster than we read, and never a '\n', must not hold the loop. */
#define PL_LINES_READS 16

#define PL_LINES_DEFAULT_MAX 65536

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *sock;     /* owned */
    PyObject *encoding; /* owned; NULL: UTF-8 */
    OpObject *waiting;  /* borrowed: the last that was armed, until it is
                           tried again or finished; see lines_clear */
    char *data;         /* owned, PyMem; NULL while there is nothing in it */
    Py_ssize_t capacity;
    Py_ssize_t head;
    Py_ssize_t scan;
    Py_ssize_t tail;
    Py_ssize_t max_line;
    bool eof;
    bool closed;
    bool skipping; /* what comes up to '\n' is the rest of a refused line */
    bool busy;     /* someone up the stack holds a pointer into data */
} LinesObject;

/* --- the buffer --- */

static void
drop_buffer(LinesObject *self)
{
    PyMem_Free(self->data);
    self->data = NULL;
    self->capacity = self->head = self->scan = self->tail = 0;
}

/* The end of a section in which `busy` was set. */
static void
leave_buffer(LinesObject *self)
{
    self->busy = false;
    if (self->closed) {
        drop_buffer(self);
    }
}

static void
move_to_front(LinesObject *self)
{
    if (self->head > 0) {
        memmove(self->data, self->data + self->head,
                (size_t)(self->tail - self->head));
        self->scan -= self->head;
        self->tail -= self->head;
        self->head = 0;
    }
}

static int
resize_buffer(LinesObject *self, Py_ssize_t capacity)
{
    char *data = PyMem_Realloc(self->data, (size_t)capacity);
    if (data == NULL) {
        return -1;
    }
    self->data = data;
    self->capacity = capacity;
    return 0;
}

/* Makes room to read into.  There is no '\n' in the buffer and at most
 * max_line bytes, so at the largest capacity there is a chunk free behind
 * them.  0, or -1 with MemoryError. */
static int
make_room(LinesObject *self)
{
    const Py_ssize_t limit = self->max_line + PL_LINES_CHUNK;
    Py_ssize_t unread = self->tail - self->head;
    if (unread == 0) {
        self->head = self->scan = self->tail = 0;
    }
    if (self->capacity - self->tail >= PL_LINES_MIN_ROOM) {
        return 0;
    }
    /* Room gained by moving must be worth the move, else it would be repeated
     * every few bytes: where more than half is unread, grow as well. */
    move_to_front(self);
    if (self->data != NULL
        && (unread <= self->capacity / 2 || self->capacity == limit))
    {
        return 0;
    }
    Py_ssize_t capacity = PL_LINES_CHUNK;
    if (self->data != NULL) {
        capacity = self->capacity > limit / 2 ? limit : 2 * self->capacity;
    }
    if (resize_buffer(self, capacity) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Before a wait of unknown length: an idle connection holds no buffer, one
 * that waits for the rest of a line not more than a chunk or its double.
 * It is left alone if it would have to grow again soon. */
static void
trim_buffer(LinesObject *self)
{
    Py_ssize_t unread = self->tail - self->head;
    if (unread == 0) {
        drop_buffer(self);
    }
    else if (self->capacity > PL_LINES_CHUNK && unread <= PL_LINES_CHUNK / 2) {
        move_to_front(self);
        /* Shrinking may fail: the larger buffer is as good. */
        (void)resize_buffer(self, PL_LINES_CHUNK);
    }
}

/* The index of the first '\n', or -1. */
static Py_ssize_t
find_newline(LinesObject *self)
{
    if (self->scan == self->tail) {
        return -1;
    }
    const char *found = memchr(self->data + self->scan, '\n',
                               (size_t)(self->tail - self->scan));
    self->scan = found != NULL ? found - self->data : self->tail;
    return found != NULL ? self->scan : -1;
}

static void
consume(LinesObject *self, Py_ssize_t end)
{
    self->head = self->scan = end;
}

/* --- taking a line --- */

/* Decodes `size` bytes at `start`, which have been consumed already: Python
 * code that runs in here finds the iterator at its next line. */
static PyObject *
decode(LinesObject *self, Py_ssize_t start, Py_ssize_t size)
{
    PyObject *text;
    if (PL_LIKELY(self->encoding == NULL)) {
        self->busy = true;
        text = PyUnicode_DecodeUTF8(self->data + start, size, NULL);
        leave_buffer(self);
        return text;
    }
    /* The codec may be written in Python, and await us. */
    PyObject *line = PyBytes_FromStringAndSize(self->data + start, size);
    if (line == NULL) {
        return NULL;
    }
    text = PyUnicode_Decode(PyBytes_AS_STRING(line), size,
                            PyUnicode_AsUTF8(self->encoding),
                            NULL); /* call-out */
    Py_DECREF(line);
    return text;
}

static enum op_attempt
refuse_line(LinesObject *self, struct module_state *state)
{
    PyErr_Format(state->LineTooLong, "line is longer than max_line=%zd bytes",
                 self->max_line);
    return OP_ATTEMPT_ERROR;
}

/* A line out of the buffer.  OP_ATTEMPT_WAIT: more must be read first. */
static enum op_attempt
take_line(LinesObject *self, struct module_state *state, PyObject **result)
{
    if (self->closed) {
        goto stop;
    }
    Py_ssize_t newline = find_newline(self);
    if (self->skipping) {
        if (newline < 0) {
            consume(self, self->tail);
        }
        else {
            self->skipping = false;
            consume(self, newline + 1);
            newline = find_newline(self);
        }
    }
    Py_ssize_t start = self->head;
    Py_ssize_t end = newline >= 0 ? newline : self->tail;
    if (PL_UNLIKELY(end - start > self->max_line)) {
        self->skipping = newline < 0;
        consume(self, newline >= 0 ? newline + 1 : end);
        return refuse_line(self, state);
    }
    if (newline < 0) {
        if (!self->eof) {
            return OP_ATTEMPT_WAIT;
        }
        if (start == end) {
            goto stop;
        }
    }
    consume(self, newline >= 0 ? newline + 1 : end);
    *result = decode(self, start, end - start);
    return *result != NULL ? OP_ATTEMPT_DONE : OP_ATTEMPT_ERROR;

stop:
    PyErr_SetNone(PyExc_StopAsyncIteration);
    return OP_ATTEMPT_ERROR;
}

/* Reads once.  OP_ATTEMPT_DONE: there is more to look at, or the end. */
static enum op_attempt
read_more(LinesObject *self, OpObject *op)
{
    enum op_attempt outcome = OP_ATTEMPT_ERROR;
    self->busy = true;
    int fd = sockfd_get(op->loop->state, self->sock, "lines"); /* call-out */
    if (fd >= 0 && make_room(self) == 0) {
        op->fd = fd;
        Py_ssize_t rc = ioop_recv(op, self->data + self->tail,
                                  (size_t)(self->capacity - self->tail));
        if (rc >= 0) {
            self->tail += rc;
            self->eof = rc == 0;
            outcome = OP_ATTEMPT_DONE;
        }
        else if (rc == -EAGAIN) {
            outcome = OP_ATTEMPT_WAIT;
        }
        else {
            outcome = ioop_fail(op, rc);
        }
    }
    leave_buffer(self);
    return outcome;
}

/* --- the operations --- */

static enum op_attempt
lines_attempt(OpObject *op, PyObject **result)
{
    LinesObject *self = (LinesObject *)op->value;
    struct module_state *state = op->loop->state;
    if (self->waiting == op) {
        self->waiting = NULL;
    }
    if (PL_UNLIKELY(self->busy)) {
        PyErr_Format(PyExc_RuntimeError,
                     "lines: a line of %R is being read already", self->sock);
        return OP_ATTEMPT_ERROR;
    }
    /* A call-out may close the operation, which lets go of us. */
    Py_INCREF(self);
    enum op_attempt outcome = take_line(self, state, result);
    for (int i = 0; outcome == OP_ATTEMPT_WAIT && i < PL_LINES_READS; i++) {
        outcome = read_more(self, op);
        if (outcome != OP_ATTEMPT_DONE) {
            break;
        }
        outcome = take_line(self, state, result);
    }
    if (outcome == OP_ATTEMPT_WAIT) {
        trim_buffer(self);
    }
    Py_DECREF(self);
    return outcome;
}

static int
lines_arm(OpObject *op)
{
    int rc = op_arm_fd(op);
    if (rc == 0 && op->value != NULL) {
        ((LinesObject *)op->value)->waiting = op;
    }
    return rc;
}

/* Called before the operation lets go of the iterator, so `waiting` never
 * outlives what it points to. */
static void
lines_clear(OpObject *op)
{
    LinesObject *self = (LinesObject *)op->value;
    if (self != NULL && self->waiting == op) {
        self->waiting = NULL;
    }
}

static const struct op_kind lines_kind = {
    .name = "lines",
    .attempt = lines_attempt,
    .drains = true,
    .arm = lines_arm,
    .disarm = op_disarm_fd,
    .clear = lines_clear,
};

/* Whoever waits for a line in this loop is woken and finds the end.  A waiter
 * in the loop of another thread finds it when its socket has something. */
static enum op_attempt
aclose_attempt(OpObject *op, PyObject **result)
{
    LinesObject *self = (LinesObject *)op->value;
    self->closed = true;
    if (!self->busy) {
        drop_buffer(self);
    }
    OpObject *waiting = self->waiting;
    if (waiting != NULL && waiting->status == OP_ARMED
        && waiting->loop == op->loop)
    {
        Py_INCREF(waiting);
        waiting->kind->disarm(waiting);
        op_fire(waiting, NULL);
        Py_DECREF(waiting);
    }
    *result = Py_NewRef(Py_None);
    return OP_ATTEMPT_DONE;
}

static const struct op_kind aclose_kind = {
    .name = "lines.aclose",
    .attempt = aclose_attempt,
    .unmetered = true,
};

/* --- the Python type --- */

static PyObject *
new_operation(LinesObject *self, const struct op_kind *kind)
{
    struct module_state *state
        = (struct module_state *)PyType_GetModuleState(Py_TYPE(self));
    OpObject *op = op_new(state, kind);
    if (op != NULL) {
        op->side = PL_SIDE_READ;
        op->object = Py_XNewRef(self->sock);
        op->value = Py_NewRef((PyObject *)self);
    }
    return (PyObject *)op;
}

static PyObject *
Lines_am_anext(PyObject *self)
{
    return new_operation((LinesObject *)self, &lines_kind);
}

PyDoc_STRVAR(Lines_aclose_doc,
             "aclose($self, /)\n--\n\n"
             "End the iteration, also for a task that waits for a line.\n\n"
             "What was received and not asked for is lost; the socket is not "
             "closed.\n\n"
             "Returns:\n"
             "    An awaitable of None, which does not wait.\n\n"
             "Example:\n"
             "    await reader.aclose()");

static PyObject *
Lines_aclose(LinesObject *self, PyObject *Py_UNUSED(ignored))
{
    return new_operation(self, &aclose_kind);
}

static int
Lines_tp_traverse(LinesObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->sock);
    Py_VISIT(self->encoding);
    return 0;
}

static int
Lines_tp_clear(LinesObject *self)
{
    self->closed = true;  /* nothing reads a socket that is gone */
    Py_CLEAR(self->sock); /* call-out */
    return 0;
}

static void
Lines_tp_dealloc(LinesObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)Lines_tp_clear(self);
    Py_CLEAR(self->encoding);
    drop_buffer(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
Lines_tp_repr(LinesObject *self)
{
    if (self->sock == NULL) {
        return PyUnicode_FromString("<pyloop.Lines closed>");
    }
    return PyUnicode_FromFormat("<pyloop.Lines%s of %R>",
                                self->closed ? " closed" : "", self->sock);
}

static PyMethodDef Lines_methods[] = {
    {"aclose", (PyCFunction)Lines_aclose, METH_NOARGS, Lines_aclose_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Lines_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(LinesObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(Lines_doc,
             "What lines() returns: an asynchronous iterator of str.\n\n"
             "One task at a time may wait for a line.");

static PyType_Slot Lines_slots[] = {
    {Py_tp_doc, (void *)Lines_doc},      {Py_tp_dealloc, Lines_tp_dealloc},
    {Py_tp_traverse, Lines_tp_traverse}, {Py_tp_clear, Lines_tp_clear},
    {Py_tp_repr, Lines_tp_repr},         {Py_tp_methods, Lines_methods},
    {Py_tp_members, Lines_members},      {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, Lines_am_anext},       {0, NULL},
};

static PyType_Spec Lines_spec = {
    .name = "pyloop._core.Lines",
    .basicsize = sizeof(LinesObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Lines_slots,
};

/* --- lines() --- */

/* *out gets a new reference to the encoding, NULL for UTF-8.  0, or -1 with
 * TypeError, ValueError or LookupError. */
static int
check_encoding(PyObject *encoding, PyObject **out)
{
    *out = NULL;
    if (encoding == NULL) {
        return 0;
    }
    if (!PyUnicode_Check(encoding)) {
        errors_bad_type(encoding, "lines(): encoding must be a str");
        return -1;
    }
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(encoding, &size);
    if (name == NULL) {
        return -1;
    }
    if (strlen(name) != (size_t)size) {
        PyErr_Format(PyExc_ValueError,
                     "lines(): encoding must not contain a null character: "
                     "%R",
                     encoding);
        return -1;
    }
    if (PyOS_stricmp(name, "utf-8") == 0 || PyOS_stricmp(name, "utf8") == 0) {
        return 0;
    }
    PyObject *newline = PyUnicode_FromStringAndSize("\n", 1);
    if (newline == NULL) {
        return -1;
    }
    PyObject *bytes
        = PyUnicode_AsEncodedString(newline, name, NULL); /* call-out */
    Py_DECREF(newline);
    if (bytes == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeError)) {
        return -1;
    }
    bool fits = bytes != NULL && PyBytes_GET_SIZE(bytes) == 1
                && PyBytes_AS_STRING(bytes)[0] == '\n';
    Py_XDECREF(bytes);
    if (!fits) {
        PyErr_Format(PyExc_ValueError,
                     "lines(): encoding %R does not write '\\n' as the one "
                     "byte 0x0A, at which lines are separated",
                     encoding);
        return -1;
    }
    *out = Py_NewRef(encoding);
    return 0;
}

/* 0, or -1 with TypeError or ValueError. */
static int
check_max_line(PyObject *obj, Py_ssize_t *out)
{
    /* So that capacities, with a chunk added or doubled, do not overflow. */
    const long long largest = PY_SSIZE_T_MAX / 4;
    if (obj == NULL) {
        *out = PL_LINES_DEFAULT_MAX;
        return 0;
    }
    if (!PyLong_Check(obj)) {
        errors_bad_type(obj, "lines(): max_line must be an int");
        return -1;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(obj, &overflow);
    if (overflow < 0 || (overflow == 0 && value <= 0)) {
        errors_bad_value(PyExc_ValueError, obj,
                         "lines(): max_line must be greater than 0, "
                         "not");
        return -1;
    }
    *out = (Py_ssize_t)(overflow > 0 || value > largest ? largest : value);
    return 0;
}

PyDoc_STRVAR(lines_doc,
             "lines($module, /, sock, *, encoding='utf-8', max_line=65536)\n"
             "--\n\n"
             "Iterate over the lines that a socket receives.\n\n"
             "Lines are separated by '\\n', which is not part of them; a "
             "'\\r' before it\nis.  The end of the stream ends the last line "
             "and then the iteration.\nCancelling the wait for a line loses "
             "nothing: a later one gets it whole.\n\n"
             "Args:\n"
             "    sock: A connected socket.socket.  Nobody else may receive "
             "from it.\n"
             "    encoding: Name of the text encoding; it must write '\\n' as "
             "one byte.\n"
             "    max_line: Longest line in bytes, '\\n' not counted.\n\n"
             "Returns:\n"
             "    An asynchronous iterator of str, with aclose().\n\n"
             "Raises:\n"
             "    TypeError: sock is not a socket.socket, or is an "
             "SSLSocket; encoding\n        is not a str or max_line not an "
             "int.\n"
             "    ValueError: max_line is not positive, or the encoding does "
             "not fit.\n"
             "    LookupError: There is no such encoding.\n"
             "    OSError: sock is closed; while iterating, also what "
             "recv(2) raises.\n"
             "    LineTooLong: While iterating; the rest of the line is "
             "skipped and the\n        iteration can go on.\n"
             "    UnicodeDecodeError: While iterating; its object is the "
             "line, and the\n        iteration can go on.\n"
             "    RuntimeError: While iterating: another task waits for "
             "this socket.\n\n"
             "Example:\n"
             "    async for line in pyloop.lines(sock):\n"
             "        print(line)");

static PyObject *
lines_function(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"sock", "encoding", "max_line"};
    static const struct args_spec spec = {"lines", names, 3, 1, 1};
    struct module_state *state = state_of_module(module);
    PyObject *bound[3], *encoding;
    Py_ssize_t max_line;
    if (args_bind(&spec, args, nargs, kwnames, bound) < 0
        || sockfd_get(state, bound[0], "lines") < 0
        || check_max_line(bound[2], &max_line) < 0
        || check_encoding(bound[1], &encoding) < 0)
    {
        return NULL;
    }
    LinesObject *self = PyObject_GC_New(LinesObject, state->LinesType);
    if (self == NULL) {
        Py_XDECREF(encoding);
        return NULL;
    }
    self->weakrefs = NULL;
    self->sock = Py_NewRef(bound[0]);
    self->encoding = encoding;
    self->waiting = NULL;
    self->data = NULL;
    self->capacity = self->head = self->scan = self->tail = 0;
    self->max_line = max_line;
    self->eof = self->closed = self->skipping = self->busy = false;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

static PyMethodDef lines_functions[] = {
    {"lines", (PyCFunction)(void (*)(void))lines_function,
     METH_FASTCALL | METH_KEYWORDS, lines_doc},
    {NULL, NULL, 0, NULL},
};

int
lines_init(PyObject *module, struct module_state *state)
{
    if (state_add_type(module, &state->LinesType, &Lines_spec, "Lines") < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, lines_functions);
}
