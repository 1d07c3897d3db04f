/* The description of an array in a block, as bytes.
 *
 *   flags (1) · number of dimensions (1) · offset of element [0, ...] (8) · dtype
 *   (dtype_code.c) · dimensions (8 each) · strides (8 each, not for C-contiguous arrays)
 *
 * A handle and a name carry one.  Every field is checked before an array is made: the view
 * must lie within the block as the heap says it is, whatever the bytes claim.
 */
#include "ext.h"

#define WRITEABLE 1u
#define STRIDES 2u
#define BESIDE 4u /* the dtype has no code and travels next to these bytes */

static int write_dtype(ext_writer *w, PyArray_Descr *descr, size_t flags_at,
                       enum ext_beside beside)
{
    size_t before = w->used;
    int status = ext_dtype_write(w, descr, beside == EXT_DTYPE_BESIDE_ALLOWED);
    if (status != 0 || beside != EXT_DTYPE_BESIDE_ALLOWED)
        return status;
    w->used = before;
    w->bytes[flags_at] |= BESIDE;
    return 2;
}

int ext_description_write(ext_writer *w, PyArrayObject *array, const void *block_start,
                          enum ext_beside beside)
{
    int contiguous = PyArray_IS_C_CONTIGUOUS(array);
    int nd = PyArray_NDIM(array);
    uint8_t head[2] = {0, (uint8_t)nd};
    if (PyArray_ISWRITEABLE(array))
        head[0] |= WRITEABLE;
    if (!contiguous)
        head[0] |= STRIDES;
    int64_t offset = (const char *)PyArray_DATA(array) - (const char *)block_start;
    size_t flags_at = w->used;
    if (ext_write(w, head, sizeof head) < 0 || ext_write(w, &offset, sizeof offset) < 0)
        return -1;
    int status = write_dtype(w, PyArray_DESCR(array), flags_at, beside);
    if (status <= 0)
        return status;
    size_t bytes = (size_t)nd * sizeof(npy_intp);
    if (ext_write(w, PyArray_DIMS(array), bytes) < 0 ||
        (!contiguous && ext_write(w, PyArray_STRIDES(array), bytes) < 0))
        return -1;
    return status;
}

static int bad(void)
{
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "the array description in this handle is damaged");
    return -1;
}

/* Strides of a C-contiguous array. */
static int fill_strides(ext_description *d, npy_intp itemsize)
{
    npy_intp stride = itemsize;
    for (int i = d->nd - 1; i >= 0; i--) {
        d->strides[i] = stride;
        if (d->dims[i] > 1 && __builtin_mul_overflow(stride, d->dims[i], &stride))
            return bad();
    }
    return 0;
}

int ext_description_read(ext_reader *r, ext_description *d)
{
    uint8_t flags, nd;
    d->descr = NULL;
    if (ext_read(r, &flags, 1) < 0 || (flags & ~(WRITEABLE | STRIDES | BESIDE)) != 0 ||
        ext_read(r, &nd, 1) < 0 || nd > NPY_MAXDIMS ||
        ext_read(r, &d->offset, sizeof d->offset) < 0)
        return bad();
    d->nd = nd;
    d->writeable = (flags & WRITEABLE) != 0;
    d->has_strides = (flags & STRIDES) != 0;
    if (!(flags & BESIDE) && (d->descr = ext_dtype_read(r)) == NULL)
        return -1;
    size_t bytes = (size_t)nd * sizeof(npy_intp);
    if (ext_read(r, d->dims, bytes) < 0 ||
        (d->has_strides && ext_read(r, d->strides, bytes) < 0) || r->next != r->end) {
        ext_description_clear(d);
        return bad();
    }
    return 0;
}

void ext_description_clear(ext_description *d)
{
    Py_CLEAR(d->descr);
}

/* The bytes [low, high) that the array touches, from the block's start. */
static int reach(const ext_description *d, npy_intp itemsize, int64_t *low, int64_t *high)
{
    int64_t lowest = d->offset, highest = d->offset;
    for (int i = 0; i < d->nd; i++) {
        int64_t span;
        if (d->dims[i] < 0)
            return -1;
        if (d->dims[i] == 0) { /* empty: touches nothing */
            *low = *high = d->offset;
            return 0;
        }
        if (__builtin_mul_overflow((int64_t)d->dims[i] - 1, (int64_t)d->strides[i], &span))
            return -1;
        int64_t *side = span < 0 ? &lowest : &highest;
        if (__builtin_add_overflow(*side, span, side))
            return -1;
    }
    *low = lowest;
    return __builtin_add_overflow(highest, (int64_t)itemsize, high) ? -1 : 0;
}

static int fits(ext_description *d, const sharena_block *block)
{
    npy_intp itemsize = PyDataType_ELSIZE(d->descr);
    int64_t low, high;
    if (!d->has_strides && fill_strides(d, itemsize) < 0)
        return 0;
    return reach(d, itemsize, &low, &high) == 0 && low >= 0 && low <= high &&
           (uint64_t)high <= block->size_bytes;
}

PyArrayObject *ext_description_apply(ext_state *st, ext_description *d, ext_arena *arena,
                                     const sharena_block *block)
{
    if (!fits(d, block)) {
        ext_core_release(arena, block->start, block->size_bytes);
        ext_arena_unref(arena);
        bad();
        return NULL;
    }
    PyObject *base = ext_block_new(st, arena, block->start, block->size_bytes, !d->writeable);
    if (base == NULL)
        return NULL;
    PyArray_Descr *descr = d->descr;
    d->descr = NULL;
    return ext_array_over(base, descr, d->nd, d->dims, d->strides,
                          (char *)block->start + d->offset, d->writeable);
}

PyArrayObject *ext_description_over(ext_description *d, PyObject *base)
{
    const ext_block *block = (const ext_block *)base;
    const sharena_block whole = {.start = block->start, .size_bytes = block->size_bytes};
    if (!fits(d, &whole)) {
        bad();
        return NULL;
    }
    PyArray_Descr *descr = d->descr;
    d->descr = NULL;
    return ext_array_over(Py_NewRef(base), descr, d->nd, d->dims, d->strides,
                          (char *)block->start + d->offset, d->writeable);
}

int ext_locate(PyArrayObject *array, ext_arena **arena, sharena_block *block)
{
    if (PyArray_SIZE(array) == 0 || PyArray_ITEMSIZE(array) == 0 ||
        PyDataType_REFCHK(PyArray_DESCR(array)))
        return 0;
    uintptr_t low = (uintptr_t)PyArray_DATA(array), high = low;
    for (int i = 0; i < PyArray_NDIM(array); i++) {
        npy_intp span = (PyArray_DIM(array, i) - 1) * PyArray_STRIDE(array, i);
        *(span < 0 ? &low : &high) += (uintptr_t)span;
    }
    high += (uintptr_t)PyArray_ITEMSIZE(array);
    sharena_heap *core = sharena_heap_of((const void *)low);
    if (core == NULL || sharena_find(core, (const void *)low, block) != 0 ||
        high > (uintptr_t)block->start + block->size_bytes)
        return 0;
    *arena = ext_arena_of(core);
    return *arena != NULL;
}

int ext_locate_shared(PyArrayObject *array, ext_arena **arena, sharena_block *block)
{
    if (!ext_locate(array, arena, block))
        return 0;
    if (!(block->flags & SHARENA_UNSHARED))
        return 1;
    ext_arena_unref(*arena);
    return 0;
}
