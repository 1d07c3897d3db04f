/* The heaps this process has attached, as the extension sees them.
 *
 * One ext_arena per core heap, holding exactly one of its attachments.  Heap objects and
 * Blocks count as references to it, so that memory stays mapped until the last array is
 * gone, whatever order the interpreter destroys things in.  The registry is the process's,
 * not the module's, as the core's heaps are.
 *
 * An arena found in the registry may be on its way out in another thread, so a look-up
 * takes its reference only while the count is not zero; under the GIL the way out is not
 * interrupted and the test never fails.
 */
#include "ext.h"

_Thread_local int ext_uninterruptible EXT_TLS;
_Thread_local int ext_patient EXT_TLS;

static ext_arena *registry;

#ifdef Py_GIL_DISABLED
static PyMutex mutex;
#define LOCK() PyMutex_Lock(&mutex)
#define UNLOCK() PyMutex_Unlock(&mutex)

static int try_ref(ext_arena *arena)
{
    Py_ssize_t seen = __atomic_load_n(&arena->references, __ATOMIC_RELAXED);
    while (seen != 0) {
        if (__atomic_compare_exchange_n(&arena->references, &seen, seen + 1, 1, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED))
            return 1;
    }
    return 0;
}
#else
#define LOCK() ((void)0)
#define UNLOCK() ((void)0)

static int try_ref(ext_arena *arena)
{
    return ++arena->references != 0;
}
#endif

/* May let other threads run, but no signal handler: it is called by deallocators. */
static void detach(sharena_heap *core)
{
    ext_uninterruptible++;
    Py_BEGIN_ALLOW_THREADS
    (void)sharena_detach(core);
    Py_END_ALLOW_THREADS
    ext_uninterruptible--;
}

ext_arena *ext_arena_of(const sharena_heap *core)
{
    LOCK();
    ext_arena *arena = registry;
    while (arena != NULL && !(arena->core == core && try_ref(arena)))
        arena = arena->next;
    UNLOCK();
    return arena;
}

ext_arena *ext_arena_by_uuid(const uint8_t uuid[16])
{
    LOCK();
    ext_arena *arena = registry;
    while (arena != NULL && !(memcmp(arena->uuid, uuid, 16) == 0 && try_ref(arena)))
        arena = arena->next;
    UNLOCK();
    return arena;
}

ext_arena *ext_arena_adopt(sharena_heap *core)
{
    ext_arena *known = ext_arena_of(core);
    if (known != NULL) { /* it has an attachment of its own */
        detach(core);
        return known;
    }
    ext_arena *arena = PyMem_RawCalloc(1, sizeof *arena);
    if (arena == NULL) {
        detach(core);
        PyErr_NoMemory();
        return NULL;
    }
    arena->core = core;
    arena->references = 1;
    memcpy(arena->uuid, sharena_uuid(core), sizeof arena->uuid);
    LOCK();
    arena->next = registry;
    registry = arena;
    UNLOCK();
    return arena;
}

void ext_arena_end(ext_arena *arena)
{
    LOCK();
    ext_arena **link = &registry;
    while (*link != arena)
        link = &(*link)->next;
    *link = arena->next;
    UNLOCK();
    sharena_heap *core = arena->core;
    PyMem_RawFree(arena);
    detach(core);
}

void ext_arena_pin(ext_arena *arena)
{
    LOCK();
    int first = !arena->pinned;
    arena->pinned = 1;
    UNLOCK();
    if (first)
        ext_arena_ref(arena);
}

void ext_arena_unpin(ext_arena *arena)
{
    LOCK();
    int pinned = arena->pinned;
    arena->pinned = 0;
    UNLOCK();
    if (pinned)
        ext_arena_unref(arena);
}
