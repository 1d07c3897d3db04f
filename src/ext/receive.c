/* The counterpart of reduce.c in the receiver.
 *
 * Loading never raises: an exception inside an unpickler would kill the thread of a Pool
 * that reads results and leave everybody waiting.  What can't be loaded becomes a Lost.
 *
 * What loads a handle is a type, and bears the name of the package: pickle writes a type
 * without looking for a reducer of it, and imports a name without a dot once, not part by
 * part.  Together that is a fifth of the time of dumps() and loads().
 */
#include "ext.h"

static int rebuild_arguments(PyObject *args, PyObject *kwargs, PyObject **handle,
                             PyObject **dtype)
{
    static char name_handle[] = "handle", name_dtype[] = "dtype";
    static char *names[] = {name_handle, name_dtype, NULL};
    *dtype = NULL;
    if (kwargs == NULL && PyTuple_GET_SIZE(args) == 1) { /* what pickle calls */
        *handle = PyTuple_GET_ITEM(args, 0);
        return 1;
    }
    return PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:rebuild_array", names, handle, dtype);
}

static PyObject *rebuild_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ext_state *st = PyType_GetModuleState(type);
    PyObject *handle, *dtype, *array = NULL;
    if (rebuild_arguments(args, kwargs, &handle, &dtype))
        array = ext_handle_load(st, handle, dtype);
    if (array != NULL)
        return array;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        PyErr_SetInterrupt(); /* comes again at the next bytecode, outside the unpickler */
    return ext_lost_from_error(st);
}

PyDoc_STRVAR(rebuild_doc,
             "rebuild_array(handle, dtype=None)\n--\n\n"
             "Load a handle from inside an unpickler: never raises, may return a `Lost`.\n\n"
             "Calling it makes an array, not an object of this type.");

static PyType_Slot rebuild_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)rebuild_doc},
    {Py_tp_new, rebuild_new},
    {0, NULL},
};

static PyType_Spec rebuild_spec = {
    .name = "sharena.rebuild_array",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = rebuild_slots,
};

int ext_receive_init(ext_state *st, PyObject *module)
{
    st->rebuild_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &rebuild_spec, NULL);
    return st->rebuild_type == NULL ? -1 : PyModule_AddType(module, st->rebuild_type);
}
