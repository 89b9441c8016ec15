/* What every file of core may use: container_of, branch hints, and the one
 * allocator hook.  core never includes Python.h: it is built and tested alone.
 *
 * Error convention of core: functions that can fail return an int, >= 0 for
 * success and -errno for failure; nobody reads errno after a return. */
#ifndef PL_CORE_BASE_H
#define PL_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PL_CONTAINER_OF(ptr, type, member) \
    ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

#if defined(__GNUC__) || defined(__clang__)
#define PL_LIKELY(x) __builtin_expect(!!(x), 1)
#define PL_UNLIKELY(x) __builtin_expect(!!(x), 0)
/* A function for what goes wrong: branches that lead to it are unlikely, and
 * their code is laid out apart from that of the straight path. */
#define PL_COLD __attribute__((cold))
/* Kept out of its only caller, whose straight path has no need of it. */
#define PL_NOINLINE __attribute__((noinline))
#else
#define PL_LIKELY(x) (x)
#define PL_UNLIKELY(x) (x)
#define PL_COLD
#define PL_NOINLINE
#endif

/* Bits of an interest or event set. */
enum { PL_READ = 1, PL_WRITE = 2 };
#define PL_SIDES ((unsigned)(PL_READ | PL_WRITE))

/* The allocator of core.  `size` 0 frees.  A test replaces it to make the
 * n-th allocation fail; nothing else writes it, and never while a loop is
 * alive.  The only mutable global of core. */
typedef void *(*pl_realloc_fn)(void *ptr, size_t size);
extern pl_realloc_fn pl_realloc_hook;

static inline void *
pl_realloc(void *ptr, size_t size)
{
    return pl_realloc_hook(ptr, size);
}

static inline void *
pl_alloc(size_t size)
{
    return pl_realloc_hook(NULL, size);
}

static inline void
pl_free(void *ptr)
{
    if (ptr != NULL) {
        (void)pl_realloc_hook(ptr, 0);
    }
}

#endif
