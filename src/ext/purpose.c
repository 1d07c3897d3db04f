/* What memory is for that NumPy asks an allocator for: objects, or numbers.
 *
 * NumPy doesn't say it.  But it zeroes the memory of objects (calloc), except in __setstate__,
 * which is told the dtype; and the array is there before its memory: the last one that ndarray's
 * tp_alloc made in this thread, with the handler that is being called and still without data.  So
 * both are watched.  Where an array has got no memory, it is forgotten: its error is made by Python
 * code, which makes other arrays.
 *
 * Types derived from ndarray in Python have a tp_alloc of their own, and without the GIL an array
 * may be dropped by another thread while it is looked at here: of those nobody knows.
 */
#include "policy.h"

/* ---- objects that are unpickled --------------------------------------------------------------- */

_Thread_local int ext_unpickling EXT_TLS;
static PyObject *stock_setstate;

static int holds_objects(PyObject *state)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(state); i++) {
        PyObject *item = PyTuple_GET_ITEM(state, i);
        if (PyArray_DescrCheck(item) && PyDataType_REFCHK((PyArray_Descr *)item))
            return 1;
    }
    return 0;
}

/* NumPy takes the state as one tuple, or as so many arguments. */
static PyObject *set_state(PyObject *self, PyObject *args)
{
    PyObject *inner = PyTuple_GET_SIZE(args) == 1 ? PyTuple_GET_ITEM(args, 0) : args;
    int objects = PyTuple_Check(inner) && holds_objects(inner);
    PyObject *first = PyTuple_Pack(1, self);
    PyObject *all = first == NULL ? NULL : PySequence_Concat(first, args);
    ext_unpickling += objects;
    PyObject *result = all == NULL ? NULL : PyObject_Call(stock_setstate, all, NULL);
    ext_unpickling -= objects;
    Py_XDECREF(all);
    Py_XDECREF(first);
    return result;
}

static PyMethodDef setstate_method = {"__setstate__", set_state, METH_VARARGS, NULL};

static int watch_unpickling(void)
{
    PyObject *known = PyObject_GetAttrString((PyObject *)&PyArray_Type, "__setstate__");
    if (known == NULL)
        return -1;
    if (Py_IS_TYPE(known, &PyMethodDescr_Type)) /* with the signature in its first line */
        setstate_method.ml_doc = ((PyMethodDescrObject *)known)->d_method->ml_doc;
    PyObject *method = PyDescr_NewMethod(&PyArray_Type, &setstate_method);
    stock_setstate = known;
    int status = method == NULL
                     ? -1
                     : PyDict_SetItemString(PyArray_Type.tp_dict, "__setstate__", method);
    Py_XDECREF(method);
    if (status < 0)
        Py_CLEAR(stock_setstate);
    else
        PyType_Modified(&PyArray_Type);
    return status;
}

/* ---- numbers that are zeroed ------------------------------------------------------------------ */

#ifndef Py_GIL_DISABLED
static _Thread_local char me; /* its address tells threads apart */
static PyObject *latest; /* a plain ndarray; under the GIL */
static const char *latest_by;
static allocfunc stock_alloc;
static freefunc stock_free;

static PyObject *note_array(PyTypeObject *type, Py_ssize_t items)
{
    PyObject *array = stock_alloc(type, items);
    latest = type == &PyArray_Type ? array : NULL;
    latest_by = &me;
    return array;
}

static void forget_array(void *array)
{
    if (latest == array)
        latest = NULL;
    stock_free(array);
}

static void watch_arrays(void)
{
    stock_alloc = PyArray_Type.tp_alloc;
    stock_free = PyArray_Type.tp_free;
    PyArray_Type.tp_alloc = note_array;
    PyArray_Type.tp_free = forget_array;
}

void ext_memory_refused(void)
{
    if (PyGILState_Check())
        latest = NULL;
}

int ext_memory_is_numbers(const PyDataMem_Handler *handler)
{
    if (!PyGILState_Check() || latest_by != &me || latest == NULL)
        return 0;
    PyArrayObject *array = (PyArrayObject *)latest;
    PyArray_Descr *descr = PyArray_DESCR(array);
    PyObject *capsule = PyArray_HANDLER(array);
    latest = NULL;
    return PyArray_DATA(array) == NULL && descr != NULL && !PyDataType_REFCHK(descr) &&
           capsule != NULL && PyCapsule_GetPointer(capsule, EXT_HANDLER) == handler;
}
#else
static void watch_arrays(void)
{
}

void ext_memory_refused(void)
{
}

int ext_memory_is_numbers(const PyDataMem_Handler *handler)
{
    (void)handler;
    return 0;
}
#endif

int ext_memory_watch(void)
{
    if (stock_setstate != NULL)
        return 0;
    if (watch_unpickling() < 0)
        return -1;
    watch_arrays();
    return 0;
}
