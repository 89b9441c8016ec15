/* Intrusive doubly linked list.  A node that is in no list points to itself,
 * so list_remove is safe to call twice and `list_is_linked` is exact. */
#ifndef PL_CORE_LIST_H
#define PL_CORE_LIST_H

#include "base.h"

struct list {
    struct list *next;
    struct list *prev;
};

static inline void
list_init(struct list *node)
{
    node->next = node->prev = node;
}

static inline bool
list_is_linked(const struct list *node)
{
    return node->next != node;
}

#define list_is_empty(head) (!list_is_linked(head))

/* Appends `node`, which must be in no list, before `head`: at the end. */
static inline void
list_append(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}

static inline void
list_prepend(struct list *head, struct list *node)
{
    list_append(head->next, node);
}

static inline void
list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* The first node, or NULL. */
static inline struct list *
list_first(const struct list *head)
{
    return head->next == head ? NULL : head->next;
}

/* The node after `node`, or NULL at the end. */
static inline struct list *
list_next(const struct list *head, const struct list *node)
{
    return node->next == head ? NULL : node->next;
}

#endif
