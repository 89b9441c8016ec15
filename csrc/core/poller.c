/* Which backends there are, and which one a loop gets. */
#include "poller.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Best first: the default order. */
static const struct poller_ops *const poller_backends[] = {
#ifdef __linux__
    &poller_epoll_ops,
#endif
    &poller_poll_ops,
};

/* The same order as poller_backends. */
static const char *const poller_backend_names[] = {
#ifdef __linux__
    "epoll",
#endif
    "poll",
    NULL,
};

#define POLLER_N_BACKENDS \
    (sizeof(poller_backends) / sizeof(poller_backends[0]))

const char *const *
poller_names(void)
{
    return poller_backend_names;
}

static int
poller_find_named(const char *name, const struct poller_ops **out)
{
    for (size_t i = 0; i < POLLER_N_BACKENDS; i++) {
        if (strcmp(poller_backends[i]->name, name) == 0) {
            *out = poller_backends[i];
            return (*out)->probe();
        }
    }
    return -EINVAL;
}

static int
poller_find_default(const struct poller_ops **out)
{
    int rc = -ENOSYS;
    for (size_t i = 0; i < POLLER_N_BACKENDS; i++) {
        rc = poller_backends[i]->probe();
        if (rc >= 0) {
            *out = poller_backends[i];
            return 0;
        }
    }
    return rc;
}

int
poller_find(const char *name, const struct poller_ops **out)
{
    *out = NULL;
    if (name == NULL || name[0] == '\0') {
        name = getenv("PYLOOP_BACKEND");
    }
    if (name == NULL || name[0] == '\0') {
        return poller_find_default(out);
    }
    return poller_find_named(name, out);
}
