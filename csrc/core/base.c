/* The default allocator of core: the C library's. */
#include "base.h"

#include <stdlib.h>

/* realloc(ptr, 0) means different things to different C libraries, so
 * freeing is spelled out. */
static void *
base_realloc(void *ptr, size_t size)
{
    if (size == 0) {
        free(ptr);
        return NULL;
    }
    return realloc(ptr, size);
}

pl_realloc_fn pl_realloc_hook = base_realloc;
