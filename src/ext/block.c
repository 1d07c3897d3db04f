/* Block: the base of every array in shared memory, one reference of this process.
 *
 * It exports a buffer because NumPy asks the base of an array for a writable one before it
 * lets flags.writeable be set.  A read-only Block refuses, so that what share(readonly=True)
 * protects can't be unprotected through any view.
 *
 * Blocks come and go with every array, so dead ones are kept on a short free list
 * (ext_block_new in ext.h takes from it): raw memory that belongs to no type, hence the
 * process's and not the module's.  Threads that run without the GIL would contend for it and
 * have CPython's own lists instead.
 */
#include "ext.h"

#ifndef Py_GIL_DISABLED
void *ext_spare[EXT_SPARE_BLOCKS];
int ext_spares;
#endif

static inline void core_release(ext_arena *arena, const void *start, size_t size_bytes)
{
    ext_uninterruptible++;
    int done = size_bytes >= EXT_LARGE_BYTES && sharena_release_at_hand(arena->core, start);
    if (!done && size_bytes < EXT_BLOCKING_BYTES) {
        (void)sharena_release(arena->core, start);
    } else if (!done) { /* may give pages back to the kernel */
        Py_BEGIN_ALLOW_THREADS
        (void)sharena_release(arena->core, start);
        Py_END_ALLOW_THREADS
    }
    ext_uninterruptible--;
}

void ext_core_release(ext_arena *arena, const void *start, size_t size_bytes)
{
    core_release(arena, start, size_bytes);
}

PyObject *ext_block_failed(ext_arena *arena, const void *start, size_t size_bytes)
{
    ext_core_release(arena, start, size_bytes);
    ext_arena_unref(arena);
    return NULL;
}

static void block_dealloc(PyObject *self)
{
    ext_block *block = (ext_block *)self;
    PyTypeObject *type = Py_TYPE(self);
    core_release(block->arena, block->start, block->size_bytes);
    ext_arena_unref(block->arena);
#ifndef Py_GIL_DISABLED
    if (ext_spares < EXT_SPARE_BLOCKS)
        ext_spare[ext_spares++] = self;
    else
#endif
        PyObject_Free(self);
    Py_DECREF(type);
}

void ext_block_clear(void)
{
#ifndef Py_GIL_DISABLED
    while (ext_spares > 0)
        PyObject_Free(ext_spare[--ext_spares]);
#endif
}

static int block_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    ext_block *block = (ext_block *)self;
    return PyBuffer_FillInfo(view, self, block->start, (Py_ssize_t)block->size_bytes,
                             block->readonly, flags);
}

static PyObject *block_repr(PyObject *self)
{
    ext_block *block = (ext_block *)self;
    return PyUnicode_FromFormat("<sharena.Block of %zu bytes at %p%s>", block->size_bytes,
                                block->start, block->readonly ? ", read-only" : "");
}

PyDoc_STRVAR(block_doc, "A block of shared memory, the base of the arrays in it.\n\n"
                        "It holds one reference of this process and gives it back when\n"
                        "the last array over it is gone.");

static PyType_Slot block_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)block_doc},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_repr, block_repr},
    {Py_bf_getbuffer, block_getbuffer},
    {0, NULL},
};

static PyType_Spec block_spec = {
    .name = "sharena._core.Block",
    .basicsize = sizeof(ext_block),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = block_slots,
};

int ext_block_init(ext_state *st, PyObject *module)
{
    st->block_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &block_spec, NULL);
    return st->block_type == NULL ? -1 : PyModule_AddType(module, st->block_type);
}
