/* New arrays in shared memory: a core block, a Block over it, a plain ndarray over that.
 *
 * This is the hot path of every constructor.  Nothing is made that the array doesn't keep;
 * the GIL is given up only for requests that may have to commit memory.
 */
#include "ext.h"

int ext_dtype_check(PyArray_Descr *descr)
{
    if (!PyDataType_REFCHK(descr))
        return 0;
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
    int empty = 0;
    for (int i = 0; i < nd; i++) {
        if (dims[i] == 0)
            empty = 1;
        else if (__builtin_mul_overflow(bytes, dims[i], &bytes)) {
            PyErr_SetString(PyExc_ValueError,
                            "array is too big; `arr.size * arr.dtype.itemsize` is larger "
                            "than the maximum possible size.");
            return -1;
        }
    }
    *out = empty || bytes == 0 ? 1 : (size_t)bytes;
    return 0;
}

/* One reference of this process to a new core block. */
static void *allocate(ext_state *st, ext_arena *arena, size_t bytes, unsigned flags)
{
    void *start;
    int code;
    if (bytes < EXT_BLOCKING_BYTES) {
        code = sharena_allocate(arena->core, bytes, 0, flags, &start);
    } else {
        Py_BEGIN_ALLOW_THREADS
        code = sharena_allocate(arena->core, bytes, 0, flags, &start);
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

PyArrayObject *ext_array_new(ext_state *st, ext_arena *arena, PyArray_Descr *descr, int nd,
                             const npy_intp *dims, const npy_intp *strides, int fortran,
                             unsigned flags)
{
    size_t bytes;
    npy_intp itemsize = (npy_intp)sizeof(double);
    void *start = NULL;
    if (descr != st->float64) { /* which needs no looking at */
        if ((descr = with_size(descr)) == NULL)
            return drop(arena, NULL);
        itemsize = ext_dtype_check(descr) < 0 ? -1 : PyDataType_ELSIZE(descr);
    }
    if (itemsize >= 0 && count_bytes(itemsize, nd, dims, &bytes) == 0)
        start = allocate(st, arena, bytes, flags);
    if (start == NULL)
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
        else if (!PyArray_IS_C_CONTIGUOUS(model) && PyArray_SIZE(model) > 0 &&
                 PyDataType_ELSIZE(descr) > 0 && !PyDataType_HASSUBARRAY(descr)) {
            npy_intp strides[NPY_MAXDIMS];
            keep_order(model, PyDataType_ELSIZE(descr), strides);
            return ext_array_new(st, arena, descr, nd, dims, strides, 0, flags);
        }
    }
    return ext_array_new(st, arena, descr, nd, dims, NULL, fortran, flags);
}
