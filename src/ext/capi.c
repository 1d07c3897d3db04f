/* The C API for other extensions: the table behind sharena_py.h, in a capsule.
 *
 * Its functions get no module from their callers, so they serve the one that was initialised
 * first, as all that other libraries hold of us does (see module.c), until it is cleared.
 */
#include "foreign.h"

#include "sharena/sharena_py.h"

_Static_assert(sizeof(npy_intp) == sizeof(Py_ssize_t), "sharena_py.h needs no NumPy");

static PyObject *core; /* borrowed */

static ext_state *state_or_error(void)
{
    if (core == NULL)
        PyErr_SetString(PyExc_RuntimeError, "sharena is gone: the interpreter is ending");
    return core == NULL ? NULL : ext_state_of(core);
}

static int check_flags(unsigned flags, unsigned known)
{
    if ((flags & ~known) == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "flags: %u are not for this function", flags & ~known);
    return -1;
}

static int copy_dims(int nd, const Py_ssize_t *from, npy_intp *dims)
{
    if (nd < 0 || nd > NPY_MAXDIMS || (nd > 0 && from == NULL)) {
        PyErr_Format(PyExc_ValueError,
                     "nd, dims: an array has 0 to %d dimensions, and dims has as many; got %d%s",
                     NPY_MAXDIMS, nd, from == NULL ? " and NULL" : "");
        return -1;
    }
    for (int i = 0; i < nd; i++)
        dims[i] = from[i];
    return 0;
}

static PyObject *new_array(PyObject *heap, PyObject *dtype, int nd, const Py_ssize_t *dims,
                           unsigned flags)
{
    ext_state *st = state_or_error();
    ext_shape shape = {.nd = nd};
    PyArray_Descr *descr;
    if (st == NULL || check_flags(flags, SHARENA_PY_ZERO | SHARENA_PY_FORTRAN) < 0 ||
        copy_dims(nd, dims, shape.dims) < 0 ||
        ext_dtype_parse(st, dtype, st->float64, &descr) < 0)
        return NULL;
    ext_arena *arena = ext_heap_choose(st, heap);
    if (arena == NULL) {
        Py_DECREF(descr);
        return NULL;
    }
    return (PyObject *)ext_array_new(st, arena, descr, nd, shape.dims, NULL,
                                     (flags & SHARENA_PY_FORTRAN) != 0,
                                     flags & SHARENA_PY_ZERO ? SHARENA_ZERO : 0);
}

static PyObject *wrap(void *address, PyObject *dtype, int nd, const Py_ssize_t *dims,
                      const Py_ssize_t *strides, unsigned flags, sharena_destructor destructor,
                      void *context, PyObject *owner)
{
    ext_state *st = state_or_error();
    ext_shape shape, steps;
    PyArray_Descr *descr;
    if (st == NULL || check_flags(flags, SHARENA_PY_READONLY | SHARENA_PY_GIL) < 0 ||
        copy_dims(nd, dims, shape.dims) < 0 ||
        (strides != NULL && copy_dims(nd, strides, steps.dims) < 0) ||
        ext_dtype_parse(st, dtype, st->float64, &descr) < 0)
        return NULL;
    const ext_foreign_memory memory = {
        .address = address,
        .descr = descr,
        .nd = nd,
        .dims = shape.dims,
        .strides = strides == NULL ? NULL : steps.dims,
        .readonly = (flags & SHARENA_PY_READONLY) != 0,
        .with_gil = (flags & SHARENA_PY_GIL) != 0,
        .destructor = destructor,
        .context = context,
        .owner = owner,
    };
    PyObject *array = ext_foreign_array(st, &memory);
    Py_DECREF(descr);
    return array;
}

/* NULL may be the result of a call that failed. */
static int check_object(PyObject *object)
{
    if (state_or_error() == NULL)
        return -1;
    if (object == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "NULL where an object is needed");
    return object == NULL ? -1 : 0;
}

static PyObject *handle(PyObject *array, unsigned uses)
{
    if (check_object(array) < 0)
        return NULL;
    PyObject *number = PyLong_FromUnsignedLong(uses);
    PyObject *const arguments[] = {array, number};
    PyObject *bytes = number == NULL ? NULL : ext_handle(core, arguments, 2, NULL);
    Py_XDECREF(number);
    return bytes;
}

static PyObject *attach(PyObject *bytes)
{
    return check_object(bytes) < 0 ? NULL : ext_attach(core, bytes);
}

static int is_shared(PyObject *object)
{
    PyObject *answer = check_object(object) < 0 ? NULL : ext_is_shared(core, object);
    int shared = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    return shared;
}

static const sharena_py_api api = {
    .version = SHARENA_PY_VERSION,
    .size_bytes = sizeof(sharena_py_api),
    .new_array = new_array,
    .wrap = wrap,
    .handle = handle,
    .attach = attach,
    .is_shared = is_shared,
};

/* Another interpreter that imports the module, as CPython before 3.12 lets it, gets none. */
int ext_capi_init(PyObject *module)
{
    if (core != NULL)
        return 0;
    PyObject *capsule = PyCapsule_New((void *)(uintptr_t)&api, SHARENA_PY_CAPSULE, NULL);
    int status = capsule == NULL ? -1 : PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_XDECREF(capsule);
    if (status == 0)
        core = module;
    return status;
}

void ext_capi_end(PyObject *module)
{
    if (core == module)
        core = NULL;
}
