/* sharena for extensions of CPython, in C, C++ or Cython: arrays in the heap, arrays over memory
 * of one's own, handles.
 *
 * Nothing is linked: the functions come from the installed package, when import_sharena() has
 * found them.  Call it once in each source file that uses them, before the first use, such as in
 * the module's init function:
 *
 *     if (import_sharena() < 0)
 *         return NULL;
 *
 * All functions need the GIL (without one: an attached thread state) and an interpreter that is
 * running; they return NULL or -1 with an exception on failure.  Arrays are plain
 * numpy.ndarray objects.  NumPy's own headers are not needed: npy_intp is Py_ssize_t.
 * Arguments are borrowed, results are new references.
 */
#ifndef SHARENA_PY_H
#define SHARENA_PY_H

#include <Python.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many functions this header knows.  A later version only adds some at the end.  A change
 * that breaks what is compiled already would get a capsule of another name. */
#define SHARENA_PY_VERSION 1
#define SHARENA_PY_CAPSULE "sharena._core._C_API"

/* Name of a capsule whose pointer is a void (*)(void *): what sharena.from_address() takes as
 * free=.  It is called as a sharena_destructor is, with the address alone. */
#define SHARENA_DESTRUCTOR "sharena.destructor"

/* Called once, after the last view of the array, by any thread, without the GIL unless
 * SHARENA_PY_GIL was given: take it with PyGILState_Ensure() for any call of Python's.  An
 * exception that it leaves goes to sys.unraisablehook. */
typedef void (*sharena_destructor)(void *address, void *context);

enum {
    SHARENA_PY_ZERO = 1, /* of a new array: it reads as zeros */
    SHARENA_PY_FORTRAN = 2, /* of a new array: Fortran order */
    SHARENA_PY_READONLY = 4, /* of a wrapped one: no view of it can be written */
    SHARENA_PY_GIL = 8 /* of a wrapped one: call the destructor with the GIL */
};

typedef struct sharena_py_api {
    uint32_t version; /* SHARENA_PY_VERSION of the package */
    uint32_t size_bytes; /* of this struct there */
    PyObject *(*new_array)(PyObject *heap, PyObject *dtype, int nd, const Py_ssize_t *dims,
                           unsigned flags);
    PyObject *(*wrap)(void *address, PyObject *dtype, int nd, const Py_ssize_t *dims,
                      const Py_ssize_t *strides, unsigned flags, sharena_destructor destructor,
                      void *context, PyObject *owner);
    PyObject *(*handle)(PyObject *array, unsigned uses);
    PyObject *(*attach)(PyObject *handle);
    int (*is_shared)(PyObject *object);
} sharena_py_api;

#if defined(__GNUC__)
__attribute__((unused))
#endif
static const sharena_py_api *sharena_py; /* set by import_sharena() */

/* A new array in a heap: sharena.empty() or, with SHARENA_PY_ZERO, sharena.zeros().
 * heap: a sharena.Heap, NULL for the default one.  dtype: anything that is one to NumPy, NULL
 * for float64. */
static inline PyObject *sharena_array_new(PyObject *heap, PyObject *dtype, int nd,
                                          const Py_ssize_t *dims, unsigned flags)
{
    return sharena_py->new_array(heap, dtype, nd, dims, flags);
}

/* An array over memory of one's own: sharena.from_address().  strides: bytes, NULL for C order.
 * destructor: NULL frees nothing.  owner: kept until the destructor has run, or NULL.  On
 * failure the destructor is not called, and the memory still the caller's. */
static inline PyObject *sharena_array_wrap(void *address, PyObject *dtype, int nd,
                                           const Py_ssize_t *dims, const Py_ssize_t *strides,
                                           unsigned flags, sharena_destructor destructor,
                                           void *context, PyObject *owner)
{
    return sharena_py->wrap(address, dtype, nd, dims, strides, flags, destructor, context, owner);
}

/* Handle bytes, good for `uses` loads: sharena.handle().  ValueError for an array that does
 * not lie in a heap. */
static inline PyObject *sharena_array_handle(PyObject *array, unsigned uses)
{
    return sharena_py->handle(array, uses);
}

/* The array that a handle names: sharena.attach(). */
static inline PyObject *sharena_array_attach(PyObject *handle)
{
    return sharena_py->attach(handle);
}

/* 1: multiprocessing sends the object by handle; 0: not: sharena.is_shared(). */
static inline int sharena_array_is_shared(PyObject *object)
{
    return sharena_py->is_shared(object);
}

/* 0, or -1 with ImportError: there is no sharena, or it is older than this header. */
static inline int import_sharena(void)
{
    PyObject *module = PyImport_ImportModule("sharena._core");
    if (module == NULL)
        return -1;
    PyObject *capsule = PyObject_GetAttrString(module, "_C_API");
    const sharena_py_api *api = NULL; /* it outlives the capsule */
    if (capsule == NULL)
        PyErr_Clear();
    else if (PyCapsule_IsValid(capsule, SHARENA_PY_CAPSULE))
        api = (const sharena_py_api *)PyCapsule_GetPointer(capsule, SHARENA_PY_CAPSULE);
    Py_XDECREF(capsule);
    Py_DECREF(module);
    if (api == NULL || api->version < SHARENA_PY_VERSION || api->size_bytes < sizeof *api) {
        PyErr_Format(PyExc_ImportError,
                     "this extension needs version %d of sharena's C API, and the installed "
                     "sharena has %u; upgrade sharena",
                     SHARENA_PY_VERSION, api == NULL ? 0u : (unsigned)api->version);
        return -1;
    }
    sharena_py = api;
    return 0;
}

#ifdef __cplusplus
}
#endif
#endif
