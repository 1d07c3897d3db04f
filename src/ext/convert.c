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
    PyArray_Descr *descr; /* of dtype=; owned; NULL: none, or a class that is yet to find one */
    PyObject *ndmax; /* borrowed, or NULL */
    NPY_ORDER order;
    enum copy_mode copy;
    PyObject *never; /* borrowed: the copy= that forbids one */
    npy_bool subok;
    int ndmin;
    PyObject *heap;
    int fresh; /* the source is NumPy's new array, which is laid out as the result has to be */
} wanted;

/* ---- NumPy's own array() ---- */

static PyObject *call_array(PyObject *object, PyObject *kwargs)
{
    PyObject *function = ext_numpy("array");
    PyObject *args = function == NULL ? NULL : PyTuple_Pack(1, object);
    PyObject *result = args == NULL ? NULL : PyObject_Call(function, args, kwargs);
    Py_XDECREF(args);
    Py_XDECREF(function);
    return result;
}

static PyObject *try_copy(PyObject *object, PyObject *copy)
{
    PyObject *kwargs = Py_BuildValue("{sO}", "copy", copy);
    PyObject *result = kwargs == NULL ? NULL : call_array(object, kwargs);
    Py_XDECREF(kwargs);
    return result;
}

static int is_numpy_2(void)
{
    return PyArray_GetNDArrayCFeatureVersion() >= NPY_2_0_API_VERSION;
}

static const char *order_name(NPY_ORDER order)
{
    static const char names[4][2] = {"A", "C", "F", "K"}; /* from NPY_ANYORDER, -1, on */
    return names[order - NPY_ANYORDER];
}

/* For what only NumPy understands.  All but ndmin= and the place is done then. */
static PyObject *by_numpy(wanted *w)
{
    PyObject *copy = w->copy == COPY_ALWAYS  ? Py_True
                     : w->copy == COPY_NEVER ? w->never
                     : is_numpy_2()          ? Py_None
                                             : Py_False;
    PyObject *kwargs = Py_BuildValue("{sOsssO}", "copy", copy, "order", order_name(w->order),
                                     "subok", w->subok ? Py_True : Py_False);
    PyObject *result = NULL;
    if (kwargs != NULL &&
        (w->dtype == NULL || PyDict_SetItemString(kwargs, "dtype", w->dtype) == 0) &&
        (w->ndmax == NULL || PyDict_SetItemString(kwargs, "ndmax", w->ndmax) == 0))
        result = call_array(w->object, kwargs);
    Py_XDECREF(kwargs);
    w->fresh = result != NULL && result != w->object &&
               (w->copy == COPY_ALWAYS || PyArray_Check(w->object)) &&
               PyArray_CHKFLAGS((PyArrayObject *)result, NPY_ARRAY_OWNDATA);
    if (w->copy == COPY_ALWAYS) /* a private array now; what lies in a heap is no copy */
        w->copy = COPY_IF_NEEDED;
    return result;
}

/* ---- arguments ---- */

/* What an unusual copy= means is NumPy's to say: an array shows whether it copies, a list
 * whether it may. */
static int odd_copy(PyObject *value, enum copy_mode *out)
{
    PyObject *probe = PyArray_SimpleNew(0, NULL, NPY_BOOL);
    PyObject *result = probe == NULL ? NULL : try_copy(probe, value);
    Py_XDECREF(result);
    Py_XDECREF(probe); /* compared below, not used */
    if (result == NULL)
        return -1;
    *out = COPY_ALWAYS;
    if (result != probe)
        return 0;
    PyObject *none = PyTuple_New(0);
    result = none == NULL ? NULL : try_copy(none, value);
    Py_XDECREF(none);
    *out = result == NULL ? COPY_NEVER : COPY_IF_NEEDED;
    if (result == NULL && !PyErr_ExceptionMatches(PyExc_ValueError))
        return -1;
    PyErr_Clear();
    Py_XDECREF(result);
    return 0;
}

/* np.array(copy=False) forbids a copy since NumPy 2; before, it only did not ask for one. */
static int parse_copy(PyObject *value, enum copy_mode *out)
{
    if (value == NULL)
        return 0;
    if (value == Py_None)
        *out = COPY_IF_NEEDED;
    else if (value == Py_True)
        *out = COPY_ALWAYS;
    else if (value == Py_False)
        *out = is_numpy_2() ? COPY_NEVER : COPY_IF_NEEDED;
    else
        return odd_copy(value, out);
    return 0;
}

static int parse_order(PyObject *value, NPY_ORDER *order)
{
    if (value == NULL || value == Py_None)
        return 0;
    return PyArray_OrderConverter(value, order) ? 0 : -1;
}

static int parse_subok(PyObject *value, npy_bool *subok)
{
    return value == NULL || PyArray_BoolConverter(value, subok) ? 0 : -1;
}

/* NumPy looks at like= before it says that a number is out of range. */
static int parse_ndmin(PyObject *value, PyObject *ndmax, PyObject *like, int *ndmin)
{
    int overflow;
    if (value == NULL && ndmax == NULL)
        return 0;
    if (ndmax == NULL && PyLong_CheckExact(value)) {
        long n = PyLong_AsLongAndOverflow(value, &overflow);
        if (overflow == 0 && n >= 0 && n <= 4) { /* more than that is rare */
            *ndmin = (int)n;
            return 0;
        }
    }
    PyObject *zero = PyLong_FromLong(0);
    PyObject *kwargs = PyDict_New();
    PyObject *probe = NULL;
    if (zero != NULL && kwargs != NULL &&
        (value == NULL || PyDict_SetItemString(kwargs, "ndmin", value) == 0) &&
        (ndmax == NULL || PyDict_SetItemString(kwargs, "ndmax", ndmax) == 0))
        probe = call_array(zero, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(zero);
    if (probe == NULL) {
        if (like != NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            if (ext_like_check(like) == 0)
                PyErr_SetString(PyExc_ValueError, "ndmin or ndmax is out of range");
        }
        return -1;
    }
    *ndmin = PyArray_NDIM((PyArrayObject *)probe);
    Py_DECREF(probe);
    return 0;
}

static int parse_dtype(ext_state *st, wanted *w)
{
    if (w->dtype == Py_None)
        w->dtype = NULL;
    if (w->dtype == NULL || (Py_TYPE(w->dtype) == Py_TYPE((PyObject *)&PyArrayDescr_Type) &&
                             Py_TYPE(w->dtype) != &PyType_Type))
        return 0;
    return ext_dtype_parse(st, w->dtype, NULL, &w->descr);
}

static int refuse_subclass(const wanted *w, PyArrayObject *source)
{
    if (!w->subok || PyArray_CheckExact(source))
        return 0;
    PyErr_Format(PyExc_TypeError,
                 "an array in shared memory is a plain numpy.ndarray, not a %s; pass "
                 "subok=False, and .view() the result if it must be one",
                 Py_TYPE((PyObject *)source)->tp_name);
    return -1;
}

/* ---- the source ---- */

/* 'S', 'U', 'V', 'M8': NumPy finds the length or the unit in the data. */
static int is_open_ended(PyArray_Descr *descr)
{
    if (PyDataType_ISFLEXIBLE(descr) && PyDataType_ELSIZE(descr) == 0)
        return !PyDataType_HASFIELDS(descr);
    if (!PyDataType_ISDATETIME(descr))
        return 0;
    PyArray_DatetimeDTypeMetaData *meta = (PyArray_DatetimeDTypeMetaData *)PyDataType_C_METADATA(
        descr);
    return meta->meta.base == NPY_FR_GENERIC;
}

/* An array that has the dtype but for its name or metadata keeps its own, as in NumPy. */
static int keeps_dtype(const wanted *w, PyObject *source)
{
    if (source != w->object || !PyArray_CheckExact(source))
        return 0;
    PyArray_Descr *descr = PyArray_DESCR((PyArrayObject *)source);
    return descr->kind == w->descr->kind && /* EquivTypes() alone is slow */
           PyDataType_ELSIZE(descr) == PyDataType_ELSIZE(w->descr) &&
           PyArray_EquivTypes(descr, w->descr);
}

/* The array to copy from, and in *descr the dtype of the result; new references. */
static PyArrayObject *find_source(wanted *w, PyArray_Descr **descr)
{
    PyArray_Descr *asked = w->descr;
    PyObject *source;
    int is_array = PyArray_Check(w->object);
    if ((w->dtype != NULL && asked == NULL) || w->ndmax != NULL ||
        (w->copy == COPY_NEVER && !is_array) ||
        (asked != NULL &&
         (PyDataType_HASSUBARRAY(asked) || (is_array && is_open_ended(asked))))) {
        source = by_numpy(w);
        asked = NULL; /* it is settled now */
    } else if (is_array) {
        source = Py_NewRef(w->object);
    } else {
        Py_XINCREF(asked);
        source = PyArray_FromAny(w->object, asked, 0, 0, NPY_ARRAY_FORCECAST, NULL);
    }
    if (source == NULL)
        return NULL;
    *descr = asked == NULL || is_open_ended(asked) || keeps_dtype(w, source)
                 ? PyArray_DESCR((PyArrayObject *)source)
                 : asked;
    Py_INCREF(*descr);
    return (PyArrayObject *)source;
}

/* The source as a plain ndarray; steals it. */
static PyArrayObject *plain_view(PyArrayObject *source)
{
    if (PyArray_CheckExact(source))
        return source;
    PyObject *view = PyArray_View(source, NULL, &PyArray_Type);
    Py_DECREF(source);
    return (PyArrayObject *)view;
}

/* ---- the result ---- */

/* Whether the source lies in the heap that was named, or in any if none was; then it is shared
 * from now on. */
static int is_in(ext_state *st, PyArrayObject *source, PyObject *heap)
{
    ext_arena *arena;
    sharena_block block;
    if (!ext_locate(source, &arena, &block))
        return 0;
    int right = 1;
    if (heap != NULL && heap != Py_None) {
        ext_arena *asked = ext_heap_choose(st, heap);
        right = asked == NULL ? -1 : asked == arena;
        if (asked != NULL)
            ext_arena_unref(asked);
    }
    if (right > 0 && (block.flags & SHARENA_UNSHARED))
        (void)sharena_set_shared(arena->core, block.start);
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
    if (!same_layout(array, source)) {
        int status = PyArray_CopyInto(array, source);
        return PyErr_Occurred() ? -1 : status; /* of which NumPy before 2.3 may say nothing */
    }
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
static PyArrayObject *copied(ext_state *st, const wanted *w, ext_arena *arena,
                             PyArrayObject *source, PyArray_Descr *descr)
{
    PyArrayObject *array = w->fresh && PyArray_NBYTES(source) > 0
                               ? ext_array_new(st, arena, descr, PyArray_NDIM(source),
                                               PyArray_DIMS(source), PyArray_STRIDES(source), 0,
                                               0)
                               : ext_array_like(st, arena, descr, source, w->order, 0);
    if (array != NULL && copy_into(array, source) < 0)
        Py_CLEAR(array);
    return array;
}

/* The dimensions that ndmin= puts in front; steals the array. */
static PyObject *with_ndmin(const wanted *w, PyArrayObject *array)
{
    if (array == NULL || PyArray_NDIM(array) >= w->ndmin)
        return (PyObject *)array;
    PyObject *kwargs = Py_BuildValue("{sOsssi}", "copy", is_numpy_2() ? Py_None : Py_False,
                                     "order", order_name(w->order), "ndmin", w->ndmin);
    PyObject *view = kwargs == NULL ? NULL : call_array((PyObject *)array, kwargs);
    Py_XDECREF(kwargs);
    Py_DECREF(array);
    return view;
}

/* Consumes source and descr. */
static PyObject *deliver(ext_state *st, const wanted *w, PyArrayObject *source,
                         PyArray_Descr *descr)
{
    int ready = will_do(st, w, source, descr);
    PyArrayObject *result = NULL;
    if (ready > 0) {
        Py_DECREF(descr);
        return with_ndmin(w, source);
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
        result = copied(st, w, arena, source, descr);
    else
        Py_DECREF(descr);
    Py_DECREF(source);
    return with_ndmin(w, result);
}

/* A plain array to copy from; in *descr the dtype of the result. */
static PyArrayObject *plain_source(wanted *w, PyArray_Descr **descr)
{
    PyArrayObject *source = find_source(w, descr);
    if (source == NULL)
        return NULL;
    if (refuse_subclass(w, source) < 0)
        Py_CLEAR(source);
    else
        source = plain_view(source);
    if (source == NULL)
        Py_DECREF(*descr);
    return source;
}

/* Consumes w->descr.  NULL as the object: an argument was wrong. */
static PyObject *convert(ext_state *st, wanted *w)
{
    PyArray_Descr *descr;
    if (w->object == NULL) {
        Py_XDECREF(w->descr);
        return NULL;
    }
#ifndef Py_GIL_DISABLED
    if (w->dtype == NULL && w->ndmax == NULL && w->ndmin <= 1 && w->copy != COPY_NEVER) {
        PyArrayObject *array = ext_array_of_numbers(st, w->object, w->heap);
        if (array != NULL || PyErr_Occurred())
            return (PyObject *)array;
    }
#endif
    PyArrayObject *source = plain_source(w, &descr);
    Py_XDECREF(w->descr);
    return source == NULL ? NULL : deliver(st, w, source, descr);
}

PyArrayObject *ext_copy_in(ext_state *st, ext_arena *arena, PyObject *object)
{
    wanted w = {.object = object, .order = NPY_KEEPORDER};
    PyArray_Descr *descr;
    PyArrayObject *source = plain_source(&w, &descr);
    if (source == NULL) {
        ext_arena_unref(arena);
        return NULL;
    }
    PyArrayObject *array = copied(st, &w, arena, source, descr);
    Py_DECREF(source);
    return array;
}

/* ---- the functions ----
 *
 * They look at their arguments in NumPy's order, so that of two errors its own is raised. */

PyObject *ext_array(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {
        "array",
        1,
        2,
        9,
        {"object", "dtype", "copy", "order", "subok", "ndmin", "ndmax", "like", "heap"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[9];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    wanted w = {.object = v[0],
                .dtype = v[1],
                .ndmax = v[6],
                .order = NPY_KEEPORDER,
                .copy = COPY_ALWAYS,
                .never = v[2],
                .heap = v[8]};
    if (parse_dtype(st, &w) < 0 || parse_copy(v[2], &w.copy) < 0 ||
        parse_order(v[3], &w.order) < 0 || parse_subok(v[4], &w.subok) < 0 ||
        parse_ndmin(v[5], v[6], v[7], &w.ndmin) < 0 || ext_like_check(v[7]) < 0)
        w.object = NULL;
    return convert(st, &w);
}

PyObject *ext_asarray(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const ext_signature signature = {
        "asarray", 1, 3, 7, {"a", "dtype", "order", "device", "copy", "like", "heap"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[7];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    wanted w = {.object = v[0],
                .dtype = v[1],
                .order = NPY_KEEPORDER,
                .copy = COPY_IF_NEEDED,
                .never = v[4],
                .heap = v[6]};
    if (parse_dtype(st, &w) < 0 || parse_order(v[2], &w.order) < 0 ||
        ext_device_check(v[3]) < 0 || parse_copy(v[4], &w.copy) < 0 || ext_like_check(v[5]) < 0)
        w.object = NULL;
    return convert(st, &w);
}

PyObject *ext_ascontiguousarray(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames)
{
    static const ext_signature signature = {
        "ascontiguousarray", 1, 2, 4, {"a", "dtype", "like", "heap"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[4];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    wanted w = {.object = v[0],
                .dtype = v[1],
                .order = NPY_CORDER,
                .copy = COPY_IF_NEEDED,
                .ndmin = 1,
                .heap = v[3]};
    if (parse_dtype(st, &w) < 0 || ext_like_check(v[2]) < 0)
        w.object = NULL;
    return convert(st, &w);
}

PyObject *ext_copy(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {"copy", 1, 3, 4, {"a", "order", "subok", "heap"}};
    PyObject *v[4];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    wanted w = {.object = v[0], .order = NPY_KEEPORDER, .copy = COPY_ALWAYS, .heap = v[3]};
    if (parse_order(v[1], &w.order) < 0 || parse_subok(v[2], &w.subok) < 0)
        return NULL;
    return convert(ext_state_of(module), &w);
}
