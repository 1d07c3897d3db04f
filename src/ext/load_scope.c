/* Load scopes: what one load of a message took from heaps, and what it found lost.
 *
 * A handle is good for one load.  Where a message must be loaded a second time (receive.c),
 * its arrays are made again from the Blocks that the first pass left here, without a look at
 * the heap: a second acquisition might find the block gone, or take another receiver's use.
 *
 * A thread's scopes are a stack, since what is unpickled may load messages itself.  One that
 * ends hands everything on to the one outside, which may have to repeat that inner load too.
 * They lie in private memory, not in C frames: libraries that switch stacks (greenlet) may
 * leave them in another order, and copy frames away meanwhile.  Then a Block is kept in the
 * wrong scope, and an array may be lost; nothing dangles.
 */
#include "ext.h"

#define FEW 4 /* most messages need no array of their own */

typedef struct {
    PyObject *handle, *block;
} held;

struct ext_scope {
    ext_scope *outer;
    PyObject *lost;   /* the latest Lost that was made inside, or NULL */
    PyObject *replay; /* in a second pass: dict of the first one's handles and Blocks */
    held *all, few[FEW];
    size_t used, room;
};

static _Thread_local ext_scope *innermost EXT_TLS;

ext_scope *ext_scope_enter(void)
{
    ext_scope *scope = PyMem_Malloc(sizeof *scope);
    if (scope == NULL)
        return NULL;
    scope->outer = innermost;
    scope->lost = scope->replay = NULL;
    scope->all = scope->few;
    scope->used = 0;
    scope->room = FEW;
    innermost = scope;
    return scope;
}

/* Room for so many more; -1 without an exception. */
static int grow(ext_scope *scope, size_t more)
{
    size_t room = scope->room;
    if (more <= room - scope->used)
        return 0;
    while (room - scope->used < more)
        room *= 2;
    int few = scope->all == scope->few;
    held *all = PyMem_Realloc(few ? NULL : scope->all, room * sizeof *all);
    if (all == NULL)
        return -1;
    if (few)
        memcpy(all, scope->few, scope->used * sizeof *all);
    scope->all = all;
    scope->room = room;
    return 0;
}

/* What is dropped for want of memory is lost if this has to be repeated. */
static void hand_on(ext_scope *scope, ext_scope *outer)
{
    if (scope->used > 0 && grow(outer, scope->used) == 0) {
        memcpy(outer->all + outer->used, scope->all, scope->used * sizeof *scope->all);
        outer->used += scope->used;
        scope->used = 0;
    }
    if (scope->lost != NULL) {
        Py_XSETREF(outer->lost, scope->lost);
        scope->lost = NULL;
    }
}

void ext_scope_leave(ext_scope *scope)
{
    ext_scope **link = &innermost;
    while (*link != NULL && *link != scope)
        link = &(*link)->outer;
    if (*link == scope)
        *link = scope->outer;
    if (scope->outer != NULL)
        hand_on(scope, scope->outer);
    for (size_t i = 0; i < scope->used; i++) {
        Py_DECREF(scope->all[i].handle);
        Py_DECREF(scope->all[i].block);
    }
    if (scope->all != scope->few)
        PyMem_Free(scope->all);
    Py_XDECREF(scope->replay);
    Py_XDECREF(scope->lost);
    PyMem_Free(scope);
}

void ext_scope_keep(PyObject *handle, PyObject *block)
{
    ext_scope *scope = innermost;
    if (scope == NULL || (scope->used == scope->room && grow(scope, 1) < 0))
        return;
    scope->all[scope->used++] = (held){Py_NewRef(handle), Py_NewRef(block)};
}

void ext_scope_note_lost(PyObject *lost)
{
    if (innermost != NULL)
        Py_XSETREF(innermost->lost, Py_NewRef(lost));
}

PyObject *ext_scope_lost(const ext_scope *scope)
{
    if (scope == NULL)
        scope = innermost;
    return scope == NULL ? NULL : scope->lost;
}

int ext_scope_replay(ext_scope *scope)
{
    scope->replay = PyDict_New();
    if (scope->replay == NULL)
        return -1;
    for (size_t i = 0; i < scope->used; i++) {
        if (PyDict_SetItem(scope->replay, scope->all[i].handle, scope->all[i].block) < 0)
            return -1;
    }
    Py_CLEAR(scope->lost); /* from now on: of the second pass */
    return 0;
}

PyObject *ext_scope_find(PyObject *handle)
{
    for (const ext_scope *scope = innermost; scope != NULL; scope = scope->outer) {
        if (scope->replay == NULL)
            continue;
        PyObject *block = PyDict_GetItemWithError(scope->replay, handle);
        if (block != NULL)
            return block;
        PyErr_Clear();
    }
    return NULL;
}
