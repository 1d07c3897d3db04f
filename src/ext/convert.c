/* array, asarray, ascontiguousarray, copy: from anything to an array in a heap.
 *
 * An ndarray is copied (and cast) straight into the new block.  Anything else goes through
 * NumPy's discovery into a private array first; NumPy 2 has no public way to discover the
 * shape of nested lists without it, and next to the list that copy is small.
 */
#include "ext.h"

enum copy_mode { COPY_NEVER, COPY_IF_NEEDED, COPY_ALWAYS };

typedef struct {
    PyObject *object, *dtype; /* borrowed */
    PyObject *ndmax;          /* borrowed, or NULL */
    NPY_ORDER order;
    enum copy_mode copy;
    int ndmin;
    PyObject *heap;
} wanted;

/* ---- arguments ---- */

/* np.array(copy=False) forbids a copy since NumPy 2; before, it only did not ask for one. */
static int parse_copy(PyObject *value, enum copy_mode none, enum copy_mode *out)
{
    if (value == NULL)
        return 0;
    if (value == Py_None) {
        *out = none;
        return 0;
    }
    int copy = PyObject_IsTrue(value);
    if (copy < 0)
        return -1;
    int numpy2 = PyArray_GetNDArrayCFeatureVersion() >= NPY_2_0_API_VERSION;
    *out = copy ? COPY_ALWAYS : numpy2 ? COPY_NEVER : COPY_IF_NEEDED;
    return 0;
}

static int parse_order(PyObject *value, NPY_ORDER *order)
{
    if (value == NULL || value == Py_None)
        return 0;
    return PyArray_OrderConverter(value, order) ? 0 : -1;
}

static int refuse_subclass(PyObject *subok, PyObject *object)
{
    int wanted_subclass = subok == NULL ? 0 : PyObject_IsTrue(subok);
    if (wanted_subclass <= 0)
        return wanted_subclass;
    if (!PyArray_Check(object) || PyArray_CheckExact(object))
        return 0;
    PyErr_Format(PyExc_TypeError,
                 "an array in shared memory is a plain numpy.ndarray, not a %s; pass "
                 "subok=False, and .view() the result if it must be one",
                 Py_TYPE(object)->tp_name);
    return -1;
}

/* ---- the source ---- */

/* NumPy's own np.array(), for what only it understands; may still be a view of memory that
 * somebody else owns. */
static PyObject *by_numpy(const wanted *w)
{
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *function = numpy == NULL ? NULL : PyObject_GetAttrString(numpy, "array");
    PyObject *args = PyTuple_Pack(1, w->object);
    PyObject *kwargs = PyDict_New();
    PyObject *result = NULL;
    if (function != NULL && args != NULL && kwargs != NULL &&
        (w->dtype == NULL || PyDict_SetItemString(kwargs, "dtype", w->dtype) == 0) &&
        (w->ndmax == NULL || PyDict_SetItemString(kwargs, "ndmax", w->ndmax) == 0))
        result = PyObject_Call(function, args, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(function);
    Py_XDECREF(numpy);
    return result;
}

/* 'S', 'U', 'V', 'M8': NumPy finds the length or the unit in the data. */
static int is_open_ended(PyArray_Descr *descr)
{
    if (PyDataType_ISFLEXIBLE(descr) && PyDataType_ELSIZE(descr) == 0)
        return 1;
    if (!PyDataType_ISDATETIME(descr))
        return 0;
    PyArray_DatetimeDTypeMetaData *meta = (PyArray_DatetimeDTypeMetaData *)PyDataType_C_METADATA(
        descr);
    return meta->meta.base == NPY_FR_GENERIC;
}

/* The array to copy from, and in *descr the dtype of the result; new references. */
static PyArrayObject *find_source(ext_state *st, const wanted *w, PyArray_Descr **descr)
{
    PyArray_Descr *asked = NULL;
    int dtype_class = w->dtype != NULL && Py_TYPE(w->dtype) != &PyType_Type &&
                      Py_TYPE(w->dtype) == Py_TYPE((PyObject *)&PyArrayDescr_Type);
    PyObject *source;
    if (dtype_class || w->ndmax != NULL) {
        source = by_numpy(w);
    } else {
        if (ext_dtype_parse(st, w->dtype, NULL, &asked) < 0)
            return NULL;
        if (PyArray_Check(w->object) && (asked == NULL || !is_open_ended(asked))) {
            *descr = asked == NULL ? (PyArray_Descr *)Py_NewRef(
                                         (PyObject *)PyArray_DESCR((PyArrayObject *)w->object))
                                   : asked;
            return (PyArrayObject *)Py_NewRef(w->object);
        }
        source = PyArray_FromAny(w->object, asked, 0, 0, NPY_ARRAY_FORCECAST, NULL);
    }
    if (source == NULL)
        return NULL;
    *descr = (PyArray_Descr *)Py_NewRef((PyObject *)PyArray_DESCR((PyArrayObject *)source));
    return (PyArrayObject *)source;
}

/* A plain view of the source with at least ndmin dimensions; steals the source. */
static PyArrayObject *plain_view(PyArrayObject *source, int ndmin)
{
    int nd = PyArray_NDIM(source), missing = ndmin > nd ? ndmin - nd : 0;
    if (missing == 0 && PyArray_CheckExact(source))
        return source;
    npy_intp dims[NPY_MAXDIMS], strides[NPY_MAXDIMS];
    for (int i = 0; i < missing; i++) {
        dims[i] = 1;
        strides[i] = nd > 0 ? PyArray_STRIDE(source, 0) * PyArray_DIM(source, 0)
                            : PyArray_ITEMSIZE(source);
    }
    for (int i = 0; i < nd; i++) {
        dims[missing + i] = PyArray_DIM(source, i);
        strides[missing + i] = PyArray_STRIDE(source, i);
    }
    PyArray_Descr *descr = PyArray_DESCR(source);
    Py_INCREF(descr);
    PyObject *view = PyArray_NewFromDescr(&PyArray_Type, descr, nd + missing, dims, strides,
                                          PyArray_DATA(source),
                                          PyArray_FLAGS(source) & NPY_ARRAY_WRITEABLE, NULL);
    if (view == NULL) {
        Py_DECREF(source);
        return NULL;
    }
    if (PyArray_SetBaseObject((PyArrayObject *)view, (PyObject *)source) < 0)
        Py_CLEAR(view);
    return (PyArrayObject *)view;
}

/* ---- the result ---- */

/* Whether the source lies in the heap that was named, or in any if none was. */
static int is_in(ext_state *st, PyArrayObject *source, PyObject *heap)
{
    ext_arena *arena;
    sharena_block block;
    if (!ext_locate(source, &arena, &block))
        return 0;
    int right = 1;
    if (heap != NULL && heap != Py_None) {
        ext_arena *asked = ext_heap_choose(st, heap);
        if (asked == NULL)
            right = -1;
        else {
            right = asked == arena;
            ext_arena_unref(asked);
        }
    }
    ext_arena_unref(arena);
    return right;
}

static int fits_order(PyArrayObject *source, NPY_ORDER order)
{
    if (order == NPY_CORDER)
        return PyArray_IS_C_CONTIGUOUS(source);
    return order != NPY_FORTRANORDER || PyArray_IS_F_CONTIGUOUS(source);
}

/* 1: the source itself will do. */
static int will_do(ext_state *st, const wanted *w, PyArrayObject *source, PyArray_Descr *descr)
{
    if (w->copy == COPY_ALWAYS || !fits_order(source, w->order) ||
        !PyArray_EquivTypes(PyArray_DESCR(source), descr))
        return 0;
    return is_in(st, source, w->heap);
}

/* The same bytes in the same order: no need for NumPy's casting machinery, which costs more
 * than a small array. */
static int same_layout(PyArrayObject *a, PyArrayObject *b)
{
    return PyArray_DESCR(a) == PyArray_DESCR(b) &&
           ((PyArray_IS_C_CONTIGUOUS(a) && PyArray_IS_C_CONTIGUOUS(b)) ||
            (PyArray_IS_F_CONTIGUOUS(a) && PyArray_IS_F_CONTIGUOUS(b)));
}

static int copy_into(PyArrayObject *array, PyArrayObject *source)
{
    if (!same_layout(array, source))
        return PyArray_CopyInto(array, source);
    size_t bytes = (size_t)PyArray_NBYTES(array);
    if (bytes < EXT_BLOCKING_BYTES) {
        memcpy(PyArray_DATA(array), PyArray_DATA(source), bytes);
    } else {
        Py_BEGIN_ALLOW_THREADS
        memcpy(PyArray_DATA(array), PyArray_DATA(source), bytes);
        Py_END_ALLOW_THREADS
    }
    return 0;
}

/* Consumes arena and descr. */
static PyArrayObject *copied(ext_state *st, ext_arena *arena, PyArrayObject *source,
                             PyArray_Descr *descr, NPY_ORDER order)
{
    PyArrayObject *array = ext_array_like(st, arena, descr, source, order, 0);
    if (array != NULL && copy_into(array, source) < 0)
        Py_CLEAR(array);
    return array;
}

/* Consumes source and descr. */
static PyObject *deliver(ext_state *st, const wanted *w, PyArrayObject *source,
                         PyArray_Descr *descr)
{
    int ready = will_do(st, w, source, descr);
    PyArrayObject *result = NULL;
    if (ready > 0) {
        Py_DECREF(descr);
        return (PyObject *)source;
    }
    if (ready == 0 && w->copy == COPY_NEVER) {
        PyErr_SetString(PyExc_ValueError,
                        "Unable to avoid copy while creating an array as requested: the "
                        "array is not in this shared memory, or not of this dtype and "
                        "order. Use copy=None to allow a copy when it is needed.");
        ready = -1;
    }
    ext_arena *arena = ready < 0 ? NULL : ext_heap_choose(st, w->heap);
    if (arena != NULL)
        result = copied(st, arena, source, descr, w->order);
    else
        Py_DECREF(descr);
    Py_DECREF(source);
    return (PyObject *)result;
}

static PyObject *convert(ext_state *st, const wanted *w)
{
    PyArray_Descr *descr;
    if (w->ndmin > NPY_MAXDIMS) {
        PyErr_Format(PyExc_ValueError, "ndmin must be <= %d", NPY_MAXDIMS);
        return NULL;
    }
#ifndef Py_GIL_DISABLED
    if (w->dtype == NULL && w->ndmax == NULL && w->ndmin <= 1 && w->copy != COPY_NEVER) {
        PyArrayObject *array = ext_array_of_numbers(st, w->object, w->heap);
        if (array != NULL || PyErr_Occurred())
            return (PyObject *)array;
    }
#endif
    PyArrayObject *source = find_source(st, w, &descr);
    if (source != NULL && (source = plain_view(source, w->ndmin)) == NULL)
        Py_DECREF(descr);
    return source == NULL ? NULL : deliver(st, w, source, descr);
}

PyArrayObject *ext_copy_in(ext_state *st, ext_arena *arena, PyObject *object)
{
    const wanted w = {.object = object, .order = NPY_KEEPORDER};
    PyArray_Descr *descr;
    PyArrayObject *source = find_source(st, &w, &descr);
    if (source != NULL && (source = plain_view(source, 0)) == NULL)
        Py_DECREF(descr);
    if (source == NULL) {
        ext_arena_unref(arena);
        return NULL;
    }
    PyArrayObject *array = copied(st, arena, source, descr, NPY_KEEPORDER);
    Py_DECREF(source);
    return array;
}

/* ---- the functions ---- */

static PyObject *none_to_null(PyObject *value)
{
    return value == Py_None ? NULL : value;
}

PyObject *ext_array(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {
        "array",
        1,
        2,
        9,
        {"object", "dtype", "copy", "order", "subok", "ndmin", "ndmax", "like", "heap"}};
    PyObject *v[9];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    wanted w = {.object = v[0],
                .dtype = none_to_null(v[1]),
                .ndmax = v[6],
                .order = NPY_KEEPORDER,
                .copy = COPY_ALWAYS,
                .heap = v[8]};
    if (parse_copy(v[2], COPY_IF_NEEDED, &w.copy) < 0 || parse_order(v[3], &w.order) < 0 ||
        refuse_subclass(v[4], v[0]) < 0 || ext_like_check(v[7]) < 0)
        return NULL;
    if (v[5] != NULL) {
        long ndmin = PyLong_AsLong(v[5]);
        if (ndmin == -1 && PyErr_Occurred())
            return NULL;
        w.ndmin = ndmin > NPY_MAXDIMS ? NPY_MAXDIMS + 1 : ndmin < 0 ? 0 : (int)ndmin;
    }
    return convert(ext_state_of(module), &w);
}

PyObject *ext_asarray(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const ext_signature signature = {
        "asarray", 1, 3, 7, {"a", "dtype", "order", "device", "copy", "like", "heap"}};
    PyObject *v[7];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    wanted w = {.object = v[0],
                .dtype = none_to_null(v[1]),
                .order = NPY_KEEPORDER,
                .copy = COPY_IF_NEEDED,
                .heap = v[6]};
    if (parse_order(v[2], &w.order) < 0 || ext_device_check(v[3]) < 0 ||
        parse_copy(v[4], COPY_IF_NEEDED, &w.copy) < 0 || ext_like_check(v[5]) < 0)
        return NULL;
    return convert(ext_state_of(module), &w);
}

PyObject *ext_ascontiguousarray(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    static const ext_signature signature = {
        "ascontiguousarray", 1, 2, 4, {"a", "dtype", "like", "heap"}};
    PyObject *v[4];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0 || ext_like_check(v[2]) < 0)
        return NULL;
    const wanted w = {.object = v[0],
                      .dtype = none_to_null(v[1]),
                      .order = NPY_CORDER,
                      .copy = COPY_IF_NEEDED,
                      .ndmin = 1,
                      .heap = v[3]};
    return convert(ext_state_of(module), &w);
}

PyObject *ext_copy(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {"copy", 1, 3, 4, {"a", "order", "subok", "heap"}};
    PyObject *v[4];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0 || refuse_subclass(v[2], v[0]) < 0)
        return NULL;
    wanted w = {.object = v[0], .order = NPY_KEEPORDER, .copy = COPY_ALWAYS, .heap = v[3]};
    if (parse_order(v[1], &w.order) < 0)
        return NULL;
    return convert(ext_state_of(module), &w);
}
