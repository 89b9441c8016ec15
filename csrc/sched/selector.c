#include <Python.h>

#include "selector.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "core/clock.h"
#include "errors.h"
#include "selectormap.h"

/* Events taken from the poller at a time; what is more is asked for again.
 * The backends' own arrays are not larger. */
#define PL_SELECTOR_BATCH 1024

/* With so many descriptors select(0) keeps the GIL: some 5 us. */
#define PL_SELECTOR_FEW 64

int
selector_check_open(SelectorObject *self)
{
    if (PL_UNLIKELY(self->poller == NULL || self->is_doomed)) {
        PyErr_SetString(PyExc_ValueError,
                        self->is_initialised
                            ? "I/O operation on closed selector"
                            : "the selector is not initialised: "
                              "Selector.__init__ was not called");
        return -1;
    }
    return 0;
}

/* --- registering --- */

/* -1 without an exception: no memory. */
static int
reserve_slot(SelectorObject *self, uint32_t fd)
{
    if (fd < self->n_slots) {
        return 0;
    }
    uint32_t n = self->n_slots > 0 ? self->n_slots : 32;
    while (n <= fd) {
        n *= 2;
    }
    struct selector_slot *slots
        = PyMem_Realloc(self->slots, n * sizeof(*slots));
    if (slots == NULL) {
        return -1;
    }
    memset(slots + self->n_slots, 0, (n - self->n_slots) * sizeof(*slots));
    self->slots = slots;
    self->n_slots = n;
    return 0;
}

struct selector_slot *
selector_find(SelectorObject *self, int fd)
{
    if ((uint32_t)fd >= self->n_slots || self->slots[fd].key == NULL) {
        return NULL;
    }
    return &self->slots[fd];
}

/* Whether the poller may not be touched at present. */
static bool
must_wait(const SelectorObject *self)
{
    return self->is_selecting && !self->ops->takes_updates_while_waiting;
}

/* Tells the poller that `fd` changes from `armed` to `wanted`: now, or, where
 * that cannot be, when the wait of another thread is over.  -errno. */
static int
tell_poller(SelectorObject *self, int fd, uint32_t generation, unsigned armed,
            unsigned wanted)
{
    if (PL_LIKELY(!must_wait(self))) {
        return self->ops->update(self->poller, fd, generation, armed, wanted);
    }
    if (wanted != 0 && fcntl(fd, F_GETFD) < 0) {
        return -errno;
    }
    if ((uint32_t)fd < self->n_slots && !self->slots[fd].is_late) {
        self->slots[fd].is_late = true;
        self->n_late++;
    }
    return 0;
}

/* After a wait: tells the poller what it missed.  What it refuses now (the
 * descriptor was closed since) will never be reported, as with a descriptor
 * that is closed while it is registered. */
static void
tell_late(SelectorObject *self)
{
    for (uint32_t fd = 0; self->n_late > 0 && fd < self->n_slots; fd++) {
        struct selector_slot *slot = &self->slots[fd];
        if (!slot->is_late) {
            continue;
        }
        slot->is_late = false;
        self->n_late--;
        (void)self->ops->update(self->poller, (int)fd, slot->generation,
                                PL_READ | PL_WRITE,
                                slot->key != NULL ? slot->wanted : 0u);
    }
}

/* Makes the key the one of its descriptor.  A reference is taken. */
static int
store_key(SelectorObject *self, int fd, PyObject *key)
{
    if (PyDict_SetItem(self->keys, selectormap_get(key, KEY_FD), key) < 0) {
        return -1;
    }
    self->slots[fd].key = key;
    return 0;
}

int
selector_add(SelectorObject *self, int fd, unsigned wanted, PyObject *key)
{
    /* The poller is asked before the array grows: it refuses a number that is
     * not open, however large. */
    uint32_t generation = ++self->generation;
    int rc = tell_poller(self, fd, generation, 0, wanted);
    if (rc < 0) {
        return rc;
    }
    if (reserve_slot(self, (uint32_t)fd) < 0) {
        (void)tell_poller(self, fd, generation, wanted, 0);
        return -ENOMEM;
    }
    if (must_wait(self)) {
        /* There may have been no slot yet to note it in. */
        (void)tell_poller(self, fd, generation, 0, wanted);
    }
    self->slots[fd].generation = generation;
    self->slots[fd].wanted = (uint8_t)wanted;
    if (store_key(self, fd, key) < 0) {
        PyErr_Clear();
        (void)tell_poller(self, fd, generation, wanted, 0);
        return -ENOMEM;
    }
    return 0;
}

/* Takes the key of a registered descriptor out; the poller is the caller's to
 * tell.  New reference. */
static PyObject *
take_key(SelectorObject *self, int fd)
{
    PyObject *key = Py_NewRef(self->slots[fd].key);
    self->slots[fd].key = NULL;
    self->slots[fd].wanted = 0;
    if (PyDict_DelItem(self->keys, selectormap_get(key, KEY_FD)) < 0) {
        PyErr_Clear(); /* somebody found the dict and emptied it */
    }
    return key;
}

PyObject *
selector_remove(SelectorObject *self, int fd)
{
    const struct selector_slot *slot = &self->slots[fd];
    /* An error means that the kernel has forgotten it already. */
    (void)tell_poller(self, fd, slot->generation, slot->wanted, 0);
    return take_key(self, fd);
}

int
selector_change(SelectorObject *self, int fd, unsigned wanted, PyObject *key)
{
    struct selector_slot *slot = &self->slots[fd];
    if (wanted != slot->wanted) {
        int rc = tell_poller(self, fd, slot->generation, slot->wanted, wanted);
        if (rc < 0) {
            Py_DECREF(take_key(self, fd));
            return rc;
        }
        slot->wanted = (uint8_t)wanted;
    }
    if (store_key(self, fd, key) < 0) {
        PyErr_Clear();
        Py_DECREF(selector_remove(self, fd));
        return -ENOMEM;
    }
    return 0;
}

/* --- selecting --- */

static int
reserve_events(SelectorObject *self)
{
    Py_ssize_t n_keys = PyDict_GET_SIZE(self->keys);
    if (PL_LIKELY(n_keys <= self->n_events && self->n_events > 0)) {
        return 0;
    }
    uint32_t n = self->n_events > 0 ? self->n_events : 16;
    while (n < n_keys && n < PL_SELECTOR_BATCH) {
        n *= 2;
    }
    if (n == self->n_events) {
        return 0;
    }
    struct poller_event *events
        = PyMem_Realloc(self->events, n * sizeof(*events));
    if (events == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->events = events;
    self->n_events = n;
    return 0;
}

/* (key, events) for one event.  New reference; NULL without an exception if
 * it is not to be reported. */
static PyObject *
make_pair(SelectorObject *self, const struct poller_event *event)
{
    struct selector_slot *slot = selector_find(self, event->fd);
    if (PL_UNLIKELY(slot == NULL || slot->generation != event->generation
                    || slot->round == self->round
                    || (event->events & slot->wanted) == 0))
    {
        return NULL;
    }
    slot->round = self->round;
    PyObject *bits = PyLong_FromLong((long)(event->events & slot->wanted));
    PyObject *key = Py_NewRef(slot->key);
    PyObject *pair = bits != NULL ? PyTuple_New(2) : NULL; /* call-out: GC */
    if (pair == NULL) {
        Py_XDECREF(bits);
        Py_DECREF(key);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, key);
    PyTuple_SET_ITEM(pair, 1, bits);
    return pair;
}

/* The list of pairs for the first n events; those that an earlier batch had
 * already, and stale ones, are left out.  New reference. */
static PyObject *
list_events(SelectorObject *self, int n)
{
    PyObject *list = PyList_New(n);
    if (list == NULL) {
        return NULL;
    }
    Py_ssize_t length = 0;
    for (int i = 0; i < n; i++) {
        PyObject *pair = make_pair(self, &self->events[i]);
        if (PL_LIKELY(pair != NULL)) {
            PyList_SET_ITEM(list, length++, pair);
        }
        else if (PyErr_Occurred()) {
            Py_DECREF(list);
            return NULL;
        }
    }
    if (length < n && PyList_SetSlice(list, length, n, NULL) < 0) {
        Py_CLEAR(list);
    }
    return list;
}

/* Waits once, without the GIL. */
static int
wait_once(SelectorObject *self, int64_t timeout_ns)
{
    int n;
    const struct poller_ops *ops = self->ops;
    struct poller *poller = self->poller;
    struct poller_event *events = self->events;
    int n_events = (int)self->n_events;
    Py_BEGIN_ALLOW_THREADS
    n = ops->wait(poller, events, n_events, timeout_ns);
    Py_END_ALLOW_THREADS
    return n;
}

/* Looks without waiting.  With few descriptors that is faster than letting go
 * of the GIL and taking it again; but a thread that looks in a circle until
 * another has done something must let that one run. */
static int
look_once(SelectorObject *self)
{
    if (PyDict_GET_SIZE(self->keys) > PL_SELECTOR_FEW) {
        return wait_once(self, 0);
    }
    int n
        = self->ops->wait(self->poller, self->events, (int)self->n_events, 0);
    if (n == 0) {
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    return n;
}

/* Waits until something is ready or the time is over.  As many events as fit
 * are in self->events: their number, or -1 with an exception. */
static int
wait_for_events(SelectorObject *self, int64_t timeout_ns)
{
    bool is_limited = timeout_ns > 0 && timeout_ns != PL_FOREVER;
    int64_t deadline_ns = is_limited ? clock_monotonic_ns() + timeout_ns : 0;
    for (;;) {
        int n
            = timeout_ns == 0 ? look_once(self) : wait_once(self, timeout_ns);
        if (PL_LIKELY(n >= 0)) {
            return n;
        }
        if (n != -EINTR) {
            return errors_from_errno(n, "select() (%s backend)",
                                     self->ops->name);
        }
        /* A signal: its handlers may raise, else the wait goes on (PEP
         * 475). */
        if (PyErr_CheckSignals() < 0) { /* call-out */
            return -1;
        }
        if (self->is_doomed) {
            return 0;
        }
        if (must_wait(self)) {
            tell_late(self);
        }
        if (is_limited) {
            timeout_ns = deadline_ns - clock_monotonic_ns();
            if (timeout_ns <= 0) {
                return 0;
            }
        }
    }
}

/* A full batch may not be all: asks for the others, without waiting.  The
 * poller reports first what it has not reported yet. */
static int
select_more(SelectorObject *self, PyObject *ready)
{
    Py_ssize_t n_before;
    do {
        n_before = PyList_GET_SIZE(ready);
        int n = wait_once(self, 0);
        if (n <= 0) {
            return 0; /* what was found already must not be lost */
        }
        PyObject *more = list_events(self, n);
        if (more == NULL) {
            return -1;
        }
        int rc = PyList_SetSlice(ready, n_before, n_before, more);
        Py_DECREF(more);
        if (rc < 0) {
            return -1;
        }
    } while (PyList_GET_SIZE(ready) > n_before && !self->is_doomed
             && PyList_GET_SIZE(ready) < PyDict_GET_SIZE(self->keys));
    return 0;
}

static PyObject *
select_list(SelectorObject *self, int64_t timeout_ns)
{
    self->round++;
    int n = wait_for_events(self, timeout_ns);
    if (n < 0) {
        return NULL;
    }
    PyObject *ready = list_events(self, n);
    if (ready != NULL && n == (int)self->n_events && !self->is_doomed
        && n < PyDict_GET_SIZE(self->keys) && select_more(self, ready) < 0)
    {
        Py_CLEAR(ready);
    }
    return ready;
}

static void
free_poller(SelectorObject *self)
{
    if (self->poller != NULL) {
        self->ops->destroy(self->poller);
        self->poller = NULL;
    }
    PyMem_Free(self->events);
    self->events = NULL;
    self->n_events = 0;
    self->is_doomed = false;
}

PyObject *
selector_select(SelectorObject *self, int64_t timeout_ns)
{
    if (reserve_events(self) < 0) {
        return NULL;
    }
    Py_INCREF(self); /* a handler may drop the last other reference */
    self->is_selecting = true;
    PyObject *ready = select_list(self, timeout_ns);
    self->is_selecting = false;
    if (self->is_doomed) {
        free_poller(self);
    }
    else {
        tell_late(self);
    }
    Py_DECREF(self);
    return ready;
}

void
selector_shut(SelectorObject *self)
{
    if (self->is_selecting) {
        self->is_doomed = true;
    }
    else {
        free_poller(self);
    }
    struct selector_slot *slots = self->slots;
    self->slots = NULL;
    self->n_slots = 0;
    self->n_late = 0;
    PyMem_Free(slots);
    PyObject *map = self->map;
    self->map = NULL;
    Py_XDECREF(map);
    if (self->keys != NULL) {
        PyDict_Clear(self->keys); /* call-out */
    }
}
