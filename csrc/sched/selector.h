/* Selector: which file objects are ready?  The engine of pyloop.Selector.
 *
 * Invariants:
 *   `keys` maps each registered descriptor to its SelectorKey, in the order
 *     of registration;  slots[fd].key is that key, or NULL, and fd < n_slots
 *     for every registered fd
 *   slots[fd].wanted is the key's events;  the poller was told so, unless
 *     slots[fd].is_late, which can be so only while `is_selecting`
 *   poller == NULL: not initialised, or closed (then `keys` is empty)
 *
 * Threads: the GIL is released in one place, the wait of select().  Others may
 * call everything meanwhile but a second select().  Where the backend cannot
 * take it (see poller_ops.takes_updates_while_waiting) what they register is
 * told to it when that wait is over, and the poller of a selector that they
 * close is destroyed then. */
#ifndef PL_SCHED_SELECTOR_H
#define PL_SCHED_SELECTOR_H

#include <Python.h>

#include "core/poller.h"
#include "state.h"

struct selector_slot {
    PyObject *key;  /* borrowed: kept alive by `keys`; NULL: not registered */
    uint64_t round; /* the select() that reported it last */
    uint32_t generation;
    uint8_t wanted;
    bool is_late; /* the poller must still be told */
};

typedef struct {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *dict;             /* owned: __dict__, or NULL */
    struct module_state *state; /* borrowed: the type keeps the module alive */
    const struct poller_ops *ops;
    struct poller *poller;       /* owned */
    PyObject *keys;              /* owned: dict; the map shares it */
    PyObject *map;               /* owned; NULL when closed */
    struct selector_slot *slots; /* owned, PyMem; by descriptor */
    uint32_t n_slots;
    uint32_t n_late;
    struct poller_event *events; /* owned, PyMem; belongs to select() */
    uint32_t n_events;
    uint32_t generation; /* of the last registration */
    uint64_t round;      /* of the last select() */
    bool is_initialised;
    bool is_selecting; /* a select() uses poller and events */
    bool is_doomed;    /* closed while is_selecting: select() cleans up */
} SelectorObject;

/* 0, or -1 with ValueError: closed, or not initialised. */
int selector_check_open(SelectorObject *self);
/* The slot of a registered descriptor, or NULL.  Valid until the next call. */
struct selector_slot *selector_find(SelectorObject *self, int fd);

/* Registers a descriptor that is not registered, under a new key.  0 or
 * -errno. */
int selector_add(SelectorObject *self, int fd, unsigned wanted, PyObject *key);
/* Gives a registered descriptor other events and another key.  0, or -errno,
 * and then it is not registered any more.  The caller holds a reference to
 * the present key. */
int selector_change(SelectorObject *self, int fd, unsigned wanted,
                    PyObject *key);
/* Unregisters a registered descriptor; returns the reference to its key. */
PyObject *selector_remove(SelectorObject *self, int fd);

/* Waits; the list of (key, events).  The caller has checked that it is open
 * and that nobody else waits.  New reference, or NULL. */
PyObject *selector_select(SelectorObject *self, int64_t timeout_ns);
/* Unregisters everything and frees the poller.  For close, clear and dealloc:
 * safe in any order and twice. */
void selector_shut(SelectorObject *self);

#endif
