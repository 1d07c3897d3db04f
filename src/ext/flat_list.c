/* A list of numbers straight into a heap.
 *
 * NumPy's discovery looks at each element twice, in a general way, and there is no public
 * way to let it write into given memory.  For the list that array() is called with most
 * often, nothing but floats or nothing but ints, one loop replaces it.  Everything else,
 * subclasses of float and int among it, is left to NumPy.
 *
 * While the block is allocated other threads may run, and change the list: what is stored
 * is looked at again.  Threads without the GIL could do so at any time and don't come here.
 */
#include "ext.h"

#ifndef Py_GIL_DISABLED

/* NPY_DOUBLE, NPY_LONG, or NPY_NOTYPE where the elements differ, or there are none. */
static int common_type(PyObject *const *items, Py_ssize_t n)
{
    if (n == 0 || !(PyFloat_CheckExact(items[0]) || PyLong_CheckExact(items[0])))
        return NPY_NOTYPE;
    for (Py_ssize_t i = 1; i < n; i++) {
        if (Py_TYPE(items[i]) != Py_TYPE(items[0]))
            return NPY_NOTYPE;
    }
    return PyFloat_CheckExact(items[0]) ? NPY_DOUBLE : NPY_LONG;
}

static int store_floats(double *out, PyObject *const *items, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyFloat_CheckExact(items[i]))
            return 0;
        out[i] = PyFloat_AS_DOUBLE(items[i]);
    }
    return 1;
}

static int store_ints(long *out, PyObject *const *items, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        int overflow = 0;
        if (!PyLong_CheckExact(items[i]))
            return 0;
        out[i] = PyLong_AsLongAndOverflow(items[i], &overflow);
        if (overflow != 0) /* NumPy knows a type for it */
            return 0;
    }
    return 1;
}

PyArrayObject *ext_array_of_numbers(ext_state *st, PyObject *object, PyObject *heap)
{
    if (!PyList_CheckExact(object) && !PyTuple_CheckExact(object))
        return NULL;
    npy_intp n = PySequence_Fast_GET_SIZE(object);
    int type = common_type(PySequence_Fast_ITEMS(object), n);
    ext_arena *arena = type == NPY_NOTYPE ? NULL : ext_heap_choose(st, heap);
    if (arena == NULL)
        return NULL;
    PyArrayObject *array = ext_array_new(st, arena, PyArray_DescrFromType(type), 1, &n, NULL, 0,
                                         0);
    if (array == NULL)
        return NULL;
    PyObject *const *items = PySequence_Fast_ITEMS(object);
    int stored = PySequence_Fast_GET_SIZE(object) == n &&
                 (type == NPY_DOUBLE ? store_floats(PyArray_DATA(array), items, n)
                                     : store_ints(PyArray_DATA(array), items, n));
    if (!stored)
        Py_CLEAR(array);
    return array;
}

#endif
