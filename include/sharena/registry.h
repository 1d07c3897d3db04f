/* What a registry of blocks is built from: names that are given once, and handles that keep nothing.
 *
 * Codes and details as in sharena.h.
 */
#ifndef SHARENA_REGISTRY_H
#define SHARENA_REGISTRY_H

#include "sharena.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The memory format.  A library can't attach to heaps of another one; a registry that is found by
 * its heap's name had better have it in the name. */
#define SHARENA_FORMAT 3

/* A handle that covers no load: it can be loaded as often as may be while some process, name or
 * other handle holds the block, and is stale afterwards.  There is nothing to give back. */
SHARENA_API int sharena_export_weak(sharena_heap *, const void *block, sharena_handle *out);
/* As sharena_name_set(), or SHARENA_EEXIST if there is such a name: of several processes that
 * call it at once, one succeeds. */
SHARENA_API int sharena_name_add(sharena_heap *, const char *name, const void *block,
                                 const void *payload, size_t payload_bytes);

#ifdef __cplusplus
}
#endif
#endif
