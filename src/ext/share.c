/* is_shared, share, handle, attach: sharing by hand. */
#include "lock.h"

static int lies_in_a_block(PyObject *array)
{
    ext_arena *arena;
    sharena_block block;
    if (!PyArray_Check(array) || !ext_locate_shared((PyArrayObject *)array, &arena, &block))
        return 0;
    ext_arena_unref(arena);
    return 1;
}

/* Of an array in a block: what else must lie in one.  Of the subclasses that travel only
 * MaskedArray has more than its elements, and nomask is no array. */
static int rest_is_shared(ext_state *st, PyObject *array)
{
    if (PyArray_CheckExact(array))
        return 1;
    int travels = PySet_Contains(st->subclasses, (PyObject *)Py_TYPE(array));
    if (travels <= 0)
        return travels;
    PyObject *mask = PyObject_GetAttrString(array, "_mask");
    if (mask == NULL) {
        PyErr_Clear(); /* no masked array */
        return 1;
    }
    int shared = !PyArray_Check(mask) || lies_in_a_block(mask);
    Py_DECREF(mask);
    return shared;
}

PyObject *ext_is_shared(PyObject *module, PyObject *object)
{
    int shared = lies_in_a_block(object);
    if (shared)
        shared = rest_is_shared(ext_state_of(module), object);
    return shared < 0 ? NULL : PyBool_FromLong(shared);
}

int ext_share_init(ext_state *st, PyObject *module)
{
    st->subclasses = PySet_New(NULL);
    return st->subclasses == NULL ? -1
                                  : PyModule_AddObjectRef(module, "subclasses", st->subclasses);
}

/* A plain view over a read-only Block of its own, with one more reference to the core
 * block; consumes the reference to the arena. */
static PyObject *protected_view(ext_state *st, PyArrayObject *array, ext_arena *arena,
                                const sharena_block *block)
{
    int code = sharena_retain(arena->core, block->start);
    if (code != 0) {
        ext_raise(st, code);
        ext_arena_unref(arena);
        return NULL;
    }
    PyObject *base = ext_block_new(st, arena, block->start, block->size_bytes, 1);
    if (base == NULL)
        return NULL;
    PyArray_Descr *descr = PyArray_DESCR(array);
    Py_INCREF(descr);
    return (PyObject *)ext_array_over(base, descr, PyArray_NDIM(array), PyArray_DIMS(array),
                                      PyArray_STRIDES(array), PyArray_DATA(array), 0);
}

static PyObject *share_copy(ext_state *st, PyObject *object)
{
    ext_arena *arena = ext_heap_choose(st, NULL);
    return arena == NULL ? NULL : (PyObject *)ext_copy_in(st, arena, object);
}

/* An empty array touches no memory that a view of it could change. */
static PyObject *share_readonly(ext_state *st, PyArrayObject *array)
{
    ext_arena *arena;
    sharena_block block;
    if (ext_locate(array, &arena, &block))
        return protected_view(st, array, arena, &block);
    PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    return Py_NewRef((PyObject *)array);
}

static void set_shared(ext_arena *arena, const sharena_block *block)
{
    if (block->flags & SHARENA_UNSHARED)
        (void)sharena_set_shared(arena->core, block->start);
}

/* The mask of a masked array goes with its data. */
static void share_mask(PyObject *array)
{
    ext_arena *arena;
    sharena_block block;
    PyObject *mask = PyArray_CheckExact(array) ? NULL : PyObject_GetAttrString(array, "_mask");
    if (mask != NULL && PyArray_Check(mask) &&
        ext_locate((PyArrayObject *)mask, &arena, &block)) {
        set_shared(arena, &block);
        ext_arena_unref(arena);
    }
    Py_XDECREF(mask);
    PyErr_Clear();
}

PyObject *ext_share(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {"share", 1, 2, 2, {"a", "readonly"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[2];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    int readonly = v[1] == NULL ? 0 : PyObject_IsTrue(v[1]);
    if (readonly < 0)
        return NULL;
    ext_arena *arena;
    sharena_block block;
    if (PyArray_Check(v[0]) && ext_locate((PyArrayObject *)v[0], &arena, &block)) {
        set_shared(arena, &block);
        share_mask(v[0]);
        if (readonly)
            return protected_view(st, (PyArrayObject *)v[0], arena, &block);
        ext_arena_unref(arena);
        return PyArray_View((PyArrayObject *)v[0], NULL, &PyArray_Type);
    }
    PyObject *copy = share_copy(st, v[0]);
    if (copy == NULL || !readonly)
        return copy;
    PyObject *view = share_readonly(st, (PyArrayObject *)copy);
    Py_DECREF(copy);
    return view;
}

static int parse_uses(PyObject *value, unsigned *uses)
{
    *uses = 1;
    if (value == NULL)
        return 0;
    long n = PyLong_AsLong(value);
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (n < 1 || n > UINT16_MAX) {
        PyErr_Format(PyExc_ValueError, "uses must be from 1 to %d, got %ld", UINT16_MAX, n);
        return -1;
    }
    *uses = (unsigned)n;
    return 0;
}

/* How an object of another library gives its array, as far as its type tells. */
static const char *way_to_array(PyObject *object)
{
    static const char *const ways[][2] = {{"to_numpy", "; pass its .to_numpy()"},
                                          {"numpy", "; pass its .numpy()"},
                                          {"__array__", "; pass numpy.asarray() of it"}};
    const char *way = "";
    for (size_t i = 0; way[0] == '\0' && i < sizeof ways / sizeof ways[0]; i++) {
        PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(object), ways[i][0]);
        if (method != NULL)
            way = ways[i][1];
        Py_XDECREF(method);
        PyErr_Clear();
    }
    return way;
}

static PyObject *refuse_handle(PyObject *object)
{
    ext_arena *arena;
    sharena_block block;
    if (!PyArray_Check(object))
        PyErr_Format(PyExc_TypeError, "handle() needs a numpy.ndarray, not %s%s",
                     Py_TYPE(object)->tp_name, way_to_array(object));
    else if (ext_locate_shared((PyArrayObject *)object, &arena, &block)) {
        ext_arena_unref(arena);
        PyErr_Format(PyExc_ValueError,
                     "a handle can't describe dtype %R; send .view() of it with one of "
                     "NumPy's own dtypes",
                     (PyObject *)PyArray_DESCR((PyArrayObject *)object));
    } else if (PyArray_NBYTES((PyArrayObject *)object) == 0)
        PyErr_SetString(PyExc_ValueError, "an empty array has no memory to share");
    else if (ext_locate((PyArrayObject *)object, &arena, &block)) {
        ext_arena_unref(arena);
        PyErr_SetString(PyExc_ValueError,
                        "this array was made under allocate_always() and is not shared yet; "
                        "pass sharena.share(a), which copies nothing");
    } else
        PyErr_SetString(PyExc_ValueError,
                        "this array is not in shared memory; make it there, or pass "
                        "sharena.share(a)");
    return NULL;
}

PyObject *ext_handle(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {"handle", 1, 2, 2, {"a", "uses"}};
    PyObject *v[2], *bytes;
    unsigned uses;
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0 || parse_uses(v[1], &uses) < 0)
        return NULL;
    int status = PyArray_Check(v[0])
                     ? ext_handle_make(ext_state_of(module), (PyArrayObject *)v[0], uses, NULL,
                                       &bytes, NULL)
                     : 0;
    if (status == 0)
        return refuse_handle(v[0]);
    return status < 0 ? NULL : bytes;
}

PyObject *ext_weak_handle(PyObject *module, PyObject *array)
{
    PyObject *bytes;
    int status = PyArray_Check(array)
                     ? ext_handle_make(ext_state_of(module), (PyArrayObject *)array, 0, NULL,
                                       &bytes, NULL)
                     : 0;
    if (status == 0)
        return refuse_handle(array);
    return status < 0 ? NULL : bytes;
}

PyObject *ext_attach(PyObject *module, PyObject *bytes)
{
    return ext_handle_load(ext_state_of(module), bytes, NULL);
}
