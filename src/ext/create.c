/* empty, zeros, ones, full and their *_like: NumPy's signatures and heap=. */
#include "ext.h"

#include <float.h>
#include <math.h>

enum filling { FILL_NOTHING, FILL_ZEROS, FILL_ONES, FILL_VALUE };

/* numpy.copyto(array, value, casting="unsafe"): what an int, a float or a complex of Python's
 * becomes in an array of another dtype has changed and may change again. */
static int fill_by_numpy(PyArrayObject *array, PyObject *value)
{
    PyObject *copyto = ext_numpy("copyto");
    PyObject *args = copyto == NULL ? NULL : PyTuple_Pack(2, (PyObject *)array, value);
    PyObject *kwargs = args == NULL ? NULL : Py_BuildValue("{ss}", "casting", "unsafe");
    PyObject *done = kwargs == NULL ? NULL : PyObject_Call(copyto, args, kwargs);
    Py_XDECREF(done);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(copyto);
    return done == NULL ? -1 : 0;
}

static int takes_int(PyArray_Descr *descr, PyObject *value)
{
    int overflow, bits = 8 * (int)PyDataType_ELSIZE(descr);
    long n = PyLong_AsLongAndOverflow(value, &overflow);
    if (overflow != 0)
        return 0;
    if (descr->kind == 'b')
        return n == 0 || n == 1;
    if (descr->kind == 'u')
        return n >= 0 && (bits == 64 || n >> bits == 0);
    if (descr->kind == 'i')
        return bits == 64 || (n >= -(1L << (bits - 1)) && n < 1L << (bits - 1));
    return n >= -2048 && n <= 2048; /* exact in a half already */
}

static int takes_float(PyArray_Descr *descr, double x)
{
    if (descr->type_num == NPY_DOUBLE || x == 0.0 || !isfinite(x))
        return descr->kind == 'f';
    return descr->type_num == NPY_FLOAT && fabs(x) >= FLT_MIN && fabs(x) <= FLT_MAX;
}

/* Whether a number of Python's has one meaning in the array, whoever puts it there. */
static int is_harmless(const PyArrayObject *array, PyObject *value)
{
    PyArray_Descr *descr = PyArray_DESCR(array);
    if (descr->type_num > NPY_CLONGDOUBLE && descr->type_num != NPY_HALF)
        return 0;
    if (PyFloat_CheckExact(value))
        return takes_float(descr, PyFloat_AS_DOUBLE(value));
    return PyLong_CheckExact(value) && takes_int(descr, value);
}

/* Broadcasts `value` over the array, as np.full does. */
static int fill(PyArrayObject *array, PyObject *value)
{
    int scalar = PyLong_Check(value) || PyFloat_Check(value) || PyComplex_Check(value);
    if (scalar && !is_harmless(array, value))
        return fill_by_numpy(array, value);
    PyObject *source = PyArray_FromAny(value, NULL, 0, 0, 0, NULL);
    if (source == NULL)
        return -1;
    int status = PyArray_CopyInto(array, (PyArrayObject *)source);
    Py_DECREF(source);
    return PyErr_Occurred() ? -1 : status; /* of which NumPy before 2.3 may say nothing */
}

static PyObject *filled(PyArrayObject *array, enum filling filling, PyObject *value)
{
    if (array == NULL || filling == FILL_NOTHING || filling == FILL_ZEROS)
        return (PyObject *)array;
    PyObject *one = filling == FILL_ONES ? PyLong_FromLong(1) : Py_NewRef(value);
    if (one == NULL || fill(array, one) < 0)
        Py_CLEAR(array);
    Py_XDECREF(one);
    return (PyObject *)array;
}

static int c_or_fortran(PyObject *text, int *fortran)
{
    NPY_ORDER order = NPY_CORDER;
    *fortran = 0;
    if (text == NULL)
        return 0;
    if (!PyArray_OrderConverter(text, &order))
        return -1;
    if (order != NPY_CORDER && order != NPY_FORTRANORDER) {
        PyErr_SetString(PyExc_ValueError, "only 'C' or 'F' order is permitted");
        return -1;
    }
    *fortran = order == NPY_FORTRANORDER;
    return 0;
}

/* ---- empty, zeros, ones, full ---- */

enum { SHAPE, DTYPE, ORDER, DEVICE, LIKE, HEAP, VALUE, NEW_ARGUMENTS };

/* The arguments are looked at in NumPy's order, so that of two errors its own is raised.
 * Consumes the dtype, NULL for the one that is given or float64. */
static PyObject *new_from(ext_state *st, PyObject *const *v, enum filling filling,
                          PyArray_Descr *descr)
{
    ext_shape shape;
    int fortran;
    if (ext_shape_parse(v[SHAPE], &shape) < 0 ||
        (descr == NULL && ext_dtype_parse(st, v[DTYPE], st->float64, &descr) < 0)) {
        Py_XDECREF(descr);
        return NULL;
    }
    ext_arena *arena = NULL;
    if (c_or_fortran(v[ORDER], &fortran) == 0 && ext_device_check(v[DEVICE]) == 0 &&
        ext_like_check(v[LIKE]) == 0)
        arena = ext_heap_choose(st, v[HEAP]);
    if (arena == NULL) {
        Py_DECREF(descr);
        return NULL;
    }
    PyArrayObject *array = ext_array_new(st, arena, descr, shape.nd, shape.dims, NULL, fortran,
                                         filling == FILL_ZEROS ? SHARENA_ZERO : 0);
    return filled(array, filling, v[VALUE]);
}

#ifndef Py_GIL_DISABLED
/* One shape and at most a dtype, both by position, in the open default heap. */
static PyObject *new_plain(ext_state *st, PyObject *const *args, Py_ssize_t nargs, unsigned flags)
{
    npy_intp length;
    if (nargs == 1 && PyLong_CheckExact(args[0]) && (length = PyLong_AsSsize_t(args[0])) >= 0) {
        Py_INCREF(st->float64);
        return (PyObject *)ext_array_new(st, ext_arena_ref(st->default_arena), st->float64, 1,
                                         &length, NULL, 0, flags);
    }
    PyErr_Clear(); /* too large an int: NumPy words the error */
    ext_shape shape;
    PyArray_Descr *descr;
    if (ext_shape_parse(args[0], &shape) < 0 ||
        ext_dtype_parse(st, nargs > 1 ? args[1] : NULL, st->float64, &descr) < 0)
        return NULL;
    return (PyObject *)ext_array_new(st, ext_arena_ref(st->default_arena), descr, shape.nd,
                                     shape.dims, NULL, 0, flags);
}
#endif

static PyObject *new_array(const ext_signature *signature, PyObject *module,
                           PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                           enum filling filling)
{
    ext_state *st = ext_state_of(module);
#ifndef Py_GIL_DISABLED /* else another thread may close the default heap meanwhile */
    if (kwnames == NULL && (nargs == 1 || nargs == 2) && filling <= FILL_ZEROS &&
        st->default_arena != NULL)
        return new_plain(st, args, nargs, filling == FILL_ZEROS ? SHARENA_ZERO : 0);
#endif
    PyObject *v[NEW_ARGUMENTS] = {NULL};
    if (ext_arguments(signature, args, nargs, kwnames, v) < 0 ||
        (filling == FILL_ONES && ext_like_check(v[LIKE]) < 0))
        return NULL;
    return new_from(st, v, filling, NULL);
}

#define NEW_SIGNATURE(name) {name, 1, 3, 6, {"shape", "dtype", "order", "device", "like", "heap"}}

PyObject *ext_empty(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = NEW_SIGNATURE("empty");
    return new_array(&signature, module, args, nargs, kwnames, FILL_NOTHING);
}

PyObject *ext_zeros(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = NEW_SIGNATURE("zeros");
    return new_array(&signature, module, args, nargs, kwnames, FILL_ZEROS);
}

PyObject *ext_ones(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = NEW_SIGNATURE("ones");
    return new_array(&signature, module, args, nargs, kwnames, FILL_ONES);
}

PyObject *ext_full(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {
        "full", 2, 4, 7, {"shape", "fill_value", "dtype", "order", "device", "like", "heap"}};
    PyObject *given[7];
    if (ext_arguments(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    PyObject *v[NEW_ARGUMENTS] = {given[0], given[2], given[3], given[4],
                                  given[5], given[6], given[1]};
    ext_state *st = ext_state_of(module);
    if (ext_like_check(v[LIKE]) < 0)
        return NULL;
    if (v[DTYPE] != NULL && v[DTYPE] != Py_None)
        return new_from(st, v, FILL_VALUE, NULL);
    PyObject *source = PyArray_FromAny(v[VALUE], NULL, 0, 0, 0, NULL);
    if (source == NULL)
        return NULL;
    v[VALUE] = source;
    PyArray_Descr *descr = PyArray_DESCR((PyArrayObject *)source);
    PyObject *array = new_from(st, v, FILL_VALUE, (PyArray_Descr *)Py_NewRef((PyObject *)descr));
    Py_DECREF(source);
    return array;
}

/* ---- *_like ---- */

enum { L_MODEL, L_DTYPE, L_ORDER, L_SUBOK, L_SHAPE, L_DEVICE, L_HEAP, L_VALUE, L_ARGUMENTS };

/* With shape= : the model's order only if the number of dimensions is the same. */
static PyArrayObject *like_with_shape(ext_state *st, ext_arena *arena, PyArray_Descr *descr,
                                      PyArrayObject *model, NPY_ORDER order,
                                      const ext_shape *shape, unsigned flags)
{
    int nd = shape->nd;
    int keep = order == NPY_KEEPORDER && nd == PyArray_NDIM(model) && nd > 1 &&
               !PyArray_IS_C_CONTIGUOUS(model);
    if (keep && !PyArray_IS_F_CONTIGUOUS(model)) {
        /* A view of no memory that has the model's strides and the new shape. */
        Py_INCREF(PyArray_DESCR(model));
        PyObject *view = PyArray_NewFromDescr(&PyArray_Type, PyArray_DESCR(model), nd,
                                              shape->dims, PyArray_STRIDES(model),
                                              PyArray_DATA(model), 0, NULL);
        if (view == NULL) {
            ext_arena_unref(arena);
            Py_DECREF(descr);
            return NULL;
        }
        PyArrayObject *array = ext_array_like(st, arena, descr, (PyArrayObject *)view,
                                              NPY_KEEPORDER, flags);
        Py_DECREF(view);
        return array;
    }
    int fortran = keep || order == NPY_FORTRANORDER ||
                  (order == NPY_ANYORDER && PyArray_ISFORTRAN(model));
    return ext_array_new(st, arena, descr, nd, shape->dims, NULL, fortran, flags);
}

/* subok= is NumPy's to judge; the result is a plain ndarray in any case. */
static int check_subok(PyObject *subok)
{
    if (subok == NULL || PyBool_Check(subok))
        return 0;
    PyObject *function = ext_numpy("empty_like");
    PyObject *result = function == NULL
                           ? NULL
                           : PyObject_CallFunction(function, "()OsO", Py_None, "K", subok);
    Py_XDECREF(result);
    Py_XDECREF(function);
    return result == NULL ? -1 : 0;
}

static PyArrayObject *make_like(ext_state *st, PyObject *const *v, PyArrayObject *model,
                                enum filling filling)
{
    NPY_ORDER order = NPY_KEEPORDER;
    ext_shape shape = {-1, {0}};
    PyArray_Descr *descr;
    if (ext_dtype_parse(st, v[L_DTYPE], PyArray_DESCR(model), &descr) < 0)
        return NULL;
    ext_arena *arena = NULL;
    if ((v[L_ORDER] == NULL || PyArray_OrderConverter(v[L_ORDER], &order)) &&
        check_subok(v[L_SUBOK]) == 0 &&
        (v[L_SHAPE] == NULL || v[L_SHAPE] == Py_None ||
         ext_shape_parse(v[L_SHAPE], &shape) == 0) &&
        ext_device_check(v[L_DEVICE]) == 0)
        arena = ext_heap_choose(st, v[L_HEAP]);
    if (arena == NULL) {
        Py_DECREF(descr);
        return NULL;
    }
    unsigned flags = filling == FILL_ZEROS ? SHARENA_ZERO : 0;
    if (shape.nd < 0)
        return ext_array_like(st, arena, descr, model, order, flags);
    return like_with_shape(st, arena, descr, model, order, &shape, flags);
}

static PyObject *new_like(ext_state *st, PyObject *const *v, enum filling filling)
{
    /* What is no array has no order to keep, whatever its __array__ gives. */
    int flags = PyArray_Check(v[L_MODEL]) ? 0 : NPY_ARRAY_CARRAY_RO;
    PyObject *model = PyArray_FromAny(v[L_MODEL], NULL, 0, 0, flags, NULL);
    if (model == NULL)
        return NULL;
    PyArrayObject *array = make_like(st, v, (PyArrayObject *)model, filling);
    Py_DECREF(model);
    return filled(array, filling, v[L_VALUE]);
}

#ifndef Py_GIL_DISABLED
/* Like a C-contiguous array, in the open default heap. */
static PyObject *like_contiguous(ext_state *st, PyArrayObject *model, unsigned flags)
{
    int nd = PyArray_NDIM(model);
    npy_intp dims[NPY_MAXDIMS]; /* another thread may reshape the model meanwhile */
    for (int i = 0; i < nd; i++)
        dims[i] = PyArray_DIM(model, i);
    PyArray_Descr *descr = PyArray_DESCR(model);
    Py_INCREF(descr);
    return (PyObject *)ext_array_new(st, ext_arena_ref(st->default_arena), descr, nd, dims, NULL,
                                     0, flags);
}
#endif

static PyObject *like_plain(const ext_signature *signature, PyObject *module,
                            PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                            enum filling filling)
{
    ext_state *st = ext_state_of(module);
#ifndef Py_GIL_DISABLED /* as in new_array() */
    if (kwnames == NULL && nargs == 1 && filling <= FILL_ZEROS && st->default_arena != NULL &&
        PyArray_CheckExact(args[0]) && PyArray_IS_C_CONTIGUOUS((PyArrayObject *)args[0]))
        return like_contiguous(st, (PyArrayObject *)args[0],
                               filling == FILL_ZEROS ? SHARENA_ZERO : 0);
#endif
    PyObject *v[L_ARGUMENTS] = {NULL};
    if (ext_arguments(signature, args, nargs, kwnames, v) < 0)
        return NULL;
    return new_like(st, v, filling);
}

#define LIKE_SIGNATURE(name, first)                                                              \
    {name, 1, 5, 7, {first, "dtype", "order", "subok", "shape", "device", "heap"}}

PyObject *ext_empty_like(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames)
{
    static const ext_signature signature = LIKE_SIGNATURE("empty_like", "prototype");
    return like_plain(&signature, module, args, nargs, kwnames, FILL_NOTHING);
}

PyObject *ext_zeros_like(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames)
{
    static const ext_signature signature = LIKE_SIGNATURE("zeros_like", "a");
    return like_plain(&signature, module, args, nargs, kwnames, FILL_ZEROS);
}

PyObject *ext_ones_like(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const ext_signature signature = LIKE_SIGNATURE("ones_like", "a");
    return like_plain(&signature, module, args, nargs, kwnames, FILL_ONES);
}

PyObject *ext_full_like(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const ext_signature signature = {
        "full_like",
        2,
        6,
        8,
        {"a", "fill_value", "dtype", "order", "subok", "shape", "device", "heap"}};
    PyObject *given[8];
    if (ext_arguments(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    PyObject *v[L_ARGUMENTS] = {given[0], given[2], given[3], given[4],
                                given[5], given[6], given[7], given[1]};
    return new_like(ext_state_of(module), v, FILL_VALUE);
}
