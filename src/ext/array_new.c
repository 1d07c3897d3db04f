/* New arrays in shared memory: a core block, a Block over it, a plain ndarray over that.
 *
 * This is the hot path of every constructor.  Nothing is made that the array doesn't keep;
 * the GIL is given up only for requests that may have to commit memory.
 */
#include "ext.h"

/* StringDType, or something made of it. */
static int holds_strings(PyArray_Descr *descr)
{
    if (descr->type_num == NPY_VSTRING)
        return 1;
    if (PyDataType_HASSUBARRAY(descr))
        return holds_strings(PyDataType_SUBARRAY(descr)->base);
    PyObject *key, *field;
    Py_ssize_t at = 0;
    while (PyDataType_HASFIELDS(descr) &&
           PyDict_Next(PyDataType_FIELDS(descr), &at, &key, &field)) {
        if (holds_strings((PyArray_Descr *)PyTuple_GET_ITEM(field, 0)))
            return 1;
    }
    return 0;
}

int ext_dtype_check(PyArray_Descr *descr)
{
    if (!PyDataType_REFCHK(descr))
        return 0;
    if (holds_strings(descr)) {
        PyErr_Format(PyExc_TypeError,
                     "dtype %R can't be put in shared memory: its strings lie in private "
                     "memory, and the array only points to them; use fixed-width strings "
                     "(such as 'U32' or 'S32')",
                     (PyObject *)descr);
        return -1;
    }
    PyErr_Format(PyExc_TypeError,
                 "dtype %R holds Python objects, which live in one process only and can't "
                 "be put in shared memory; use numbers, fixed-width strings (such as "
                 "'U32' or 'S32') or a structured dtype of these",
                 (PyObject *)descr);
    return -1;
}

/* 'S0' becomes 'S1' and 'U0' 'U1' in a new array, as in NumPy.  Steals the dtype. */
static PyArray_Descr *with_size(PyArray_Descr *descr)
{
    if (PyDataType_ELSIZE(descr) != 0 || !PyDataType_ISSTRING(descr))
        return descr;
    PyArray_Descr *sized = PyArray_DescrNew(descr);
    if (sized != NULL)
        PyDataType_SET_ELSIZE(sized, descr->type_num == NPY_STRING ? 1 : 4);
    Py_DECREF(descr);
    return sized;
}

/* The bytes of an array, checked as NumPy does: also for an empty one. */
static int count_bytes(npy_intp bytes, int nd, const npy_intp *dims, size_t *out)
{
    int empty = bytes == 0;
    for (int i = 0; i < nd; i++) {
        if (dims[i] == 0)
            empty = 1;
        else if (dims[i] < 0) {
            PyErr_SetString(PyExc_ValueError, "negative dimensions are not allowed");
            return -1;
        } else if (__builtin_mul_overflow(bytes, dims[i], &bytes)) {
            PyErr_SetString(PyExc_ValueError,
                            "array is too big; `arr.size * arr.dtype.itemsize` is larger "
                            "than the maximum possible size.");
            return -1;
        }
    }
    *out = empty ? 0 : (size_t)bytes;
    return 0;
}

static int is_shortage(int code)
{
    return code == SHARENA_EFULL || code == SHARENA_ENOSPACE || code == SHARENA_EROOM ||
           code == SHARENA_ERESERVE;
}

/* One reference of this process to a new core block. */
static void *allocate(ext_state *st, ext_arena *arena, size_t bytes, unsigned flags)
{
    void *start = NULL;
    int code = SHARENA_EFULL;
    if (bytes >= EXT_LARGE_BYTES && flags == 0)
        start = sharena_malloc_at_hand(arena->core, bytes);
    if (start != NULL)
        code = 0;
    else if (bytes < EXT_BLOCKING_BYTES)
        code = sharena_allocate(arena->core, bytes, 0, flags, &start);
    if (bytes < EXT_BLOCKING_BYTES && (++st->made & 255) == 0)
        sharena_tend(arena->core);
    if (is_shortage(code)) { /* or too large to hold the others up */
        Py_BEGIN_ALLOW_THREADS
        if (bytes >= EXT_BLOCKING_BYTES)
            sharena_tend(arena->core);
        ext_patient = 1;
        code = sharena_allocate(arena->core, bytes, 0, flags, &start);
        ext_patient = 0;
        Py_END_ALLOW_THREADS
    }
    if (code != 0) {
        ext_raise_in(st, arena, code);
        return NULL;
    }
    st->default_used |= arena == st->default_arena;
    if (st->trace)
        ext_trace(arena, start);
    return start;
}

/* Steals descr and, also on failure, block.  Inline, since half its arguments would travel on
 * the stack. */
__attribute__((always_inline)) static inline PyArrayObject *
over_block(PyObject *block, PyArray_Descr *descr, int nd, const npy_intp *dims,
           const npy_intp *strides, void *data, int flags)
{
    PyObject *array = PyArray_NewFromDescr(&PyArray_Type, descr, nd, dims, strides, data, flags,
                                           NULL);
    if (array == NULL) {
        Py_DECREF(block);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)array, block) < 0)
        Py_CLEAR(array);
    return (PyArrayObject *)array;
}

PyArrayObject *ext_array_over(PyObject *block, PyArray_Descr *descr, int nd, const npy_intp *dims,
                              const npy_intp *strides, void *data, int writeable)
{
    return over_block(block, descr, nd, dims, strides, data, writeable ? NPY_ARRAY_WRITEABLE : 0);
}

static PyArrayObject *drop(ext_arena *arena, PyArray_Descr *descr)
{
    ext_arena_unref(arena);
    Py_XDECREF(descr);
    return NULL;
}

/* Without a byte: a block all the same, so that the heap stays as long.  The strides are 0, as
 * in NumPy, which looks at them for the flags only if it was asked for some. */
static PyArrayObject *of_nothing(ext_state *st, ext_arena *arena, PyArray_Descr *descr, int nd,
                                 const npy_intp *dims, const npy_intp *strides, int fortran)
{
    static const npy_intp zeros[NPY_MAXDIMS];
    void *start = allocate(st, arena, 1, 0);
    if (start == NULL)
        return drop(arena, descr);
    PyObject *block = ext_block_new(st, arena, start, 1, 0);
    if (block == NULL) {
        Py_DECREF(descr);
        return NULL;
    }
    PyArrayObject *array = over_block(block, descr, nd, dims, strides == NULL ? NULL : zeros,
                                      start, fortran ? NPY_ARRAY_FARRAY : NPY_ARRAY_CARRAY);
    for (int i = 0; array != NULL && i < nd; i++)
        PyArray_STRIDES(array)[i] = 0;
    return array;
}

/* A sub-array dtype becomes more dimensions of its base.  By us and not by NumPy, so that what
 * is allocated and what the array spans are counted from the same dtype. */
__attribute__((noinline)) static PyArrayObject *
of_subarrays(ext_state *st, ext_arena *arena, PyArray_Descr *descr, int nd, const npy_intp *dims,
             const npy_intp *strides, int fortran, unsigned flags)
{
    PyArray_ArrayDescr *sub = PyDataType_SUBARRAY(descr);
    PyArray_Descr *base = (PyArray_Descr *)Py_NewRef((PyObject *)sub->base);
    npy_intp all_dims[NPY_MAXDIMS], all_strides[NPY_MAXDIMS];
    int more = (int)PyTuple_GET_SIZE(sub->shape);
    if (more > NPY_MAXDIMS - nd) {
        PyErr_Format(PyExc_ValueError, "maximum supported dimension for an ndarray is %d",
                     NPY_MAXDIMS);
        Py_DECREF(base);
        return drop(arena, descr);
    }
    npy_intp stride = PyDataType_ELSIZE(base);
    for (int i = more - 1; i >= 0; i--) {
        all_dims[nd + i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(sub->shape, i));
        all_strides[nd + i] = stride;
        stride *= all_dims[nd + i];
    }
    for (int i = 0; i < nd; i++) {
        all_dims[i] = dims[i];
        all_strides[i] = strides == NULL ? 0 : strides[i];
    }
    Py_DECREF(descr);
    return ext_array_new(st, arena, base, nd + more, all_dims,
                         strides == NULL ? NULL : all_strides, fortran, flags);
}

PyArrayObject *ext_array_new(ext_state *st, ext_arena *arena, PyArray_Descr *descr, int nd,
                             const npy_intp *dims, const npy_intp *strides, int fortran,
                             unsigned flags)
{
    size_t bytes;
    npy_intp itemsize = (npy_intp)sizeof(double);
    void *start = NULL;
    if (descr != st->float64) { /* which needs no looking at */
        if (PyDataType_HASSUBARRAY(descr))
            return of_subarrays(st, arena, descr, nd, dims, strides, fortran, flags);
        if ((descr = with_size(descr)) == NULL)
            return drop(arena, NULL);
        itemsize = PyDataType_ELSIZE(descr);
    }
    if (count_bytes(itemsize, nd, dims, &bytes) < 0 ||
        (descr != st->float64 && ext_dtype_check(descr) < 0))
        return drop(arena, descr);
    if (bytes == 0)
        return of_nothing(st, arena, descr, nd, dims, strides, fortran);
    if ((start = allocate(st, arena, bytes, flags)) == NULL)
        return drop(arena, descr);
    PyObject *block = ext_block_new(st, arena, start, bytes, 0);
    if (block == NULL) {
        Py_DECREF(descr);
        return NULL;
    }
    return over_block(block, descr, nd, dims, strides, start,
                      fortran ? NPY_ARRAY_FARRAY : NPY_ARRAY_CARRAY);
}

/* Strides in the order of the model's: the axis with the longest stride stays the slowest.
 * Stable, as NumPy's own 'K' order is. */
static void keep_order(PyArrayObject *model, npy_intp itemsize, npy_intp *strides)
{
    int axes[NPY_MAXDIMS], nd = PyArray_NDIM(model);
    for (int i = 0; i < nd; i++) {
        npy_intp stride = PyArray_STRIDE(model, i);
        npy_intp length = stride < 0 ? -stride : stride;
        int j = i;
        for (; j > 0; j--) {
            npy_intp other = PyArray_STRIDE(model, axes[j - 1]);
            if ((other < 0 ? -other : other) >= length)
                break;
            axes[j] = axes[j - 1];
        }
        axes[j] = i;
    }
    npy_uintp stride = (npy_uintp)itemsize; /* may wrap: the size is checked later */
    for (int i = nd - 1; i >= 0; i--) {
        strides[axes[i]] = (npy_intp)stride;
        stride *= (npy_uintp)PyArray_DIM(model, axes[i]);
    }
}

PyArrayObject *ext_array_like(ext_state *st, ext_arena *arena, PyArray_Descr *descr,
                              PyArrayObject *model, NPY_ORDER order, unsigned flags)
{
    int nd = PyArray_NDIM(model);
    npy_intp dims[NPY_MAXDIMS]; /* another thread may reshape the model meanwhile */
    for (int i = 0; i < nd; i++)
        dims[i] = PyArray_DIM(model, i);
    descr = with_size(descr);
    if (descr == NULL)
        return drop(arena, NULL);
    int fortran = order == NPY_FORTRANORDER;
    if (order == NPY_ANYORDER)
        fortran = PyArray_ISFORTRAN(model);
    if (order == NPY_KEEPORDER && nd > 1) {
        if (PyArray_IS_F_CONTIGUOUS(model) && !PyArray_IS_C_CONTIGUOUS(model))
            fortran = 1;
        else if (!PyArray_IS_C_CONTIGUOUS(model)) {
            npy_intp strides[NPY_MAXDIMS];
            keep_order(model, PyDataType_ELSIZE(descr), strides);
            return ext_array_new(st, arena, descr, nd, dims, strides, 0, flags);
        }
    }
    return ext_array_new(st, arena, descr, nd, dims, NULL, fortran, flags);
}
