/* The counterpart of reduce.c in the receiver: what loads a handle, and what loads a message.
 *
 * Loading never raises: an exception inside an unpickler would kill the thread of a Pool
 * that reads results and leave everybody waiting.  What can't be loaded becomes a Lost.
 *
 * But an object may use its array while it is unpickled, in __setstate__ or a constructor,
 * and that raises.  So loads() stands in the place of ForkingPickler.loads: the C unpickler
 * as ever, inside a load scope (load_scope.c).  When it raises, and something in the message
 * was lost, the message is loaded once more, by an unpickler that puts a Lost in the place of
 * every object that fails (_lost.py).  User code in the message runs a second time then.  Any
 * other exception passes as it is; so does the first one where the second pass fails too.
 * The same for messages with objects of pandas, which may raise too late.
 *
 * What loads a handle is a type, and bears the name of the package: pickle writes a type
 * without looking for a reducer of it, and imports a name without a dot once, not part by
 * part.  Together that is a fifth of the time of dumps() and loads().
 */
#include "message.h"

/* An exception is about to be dropped: Ctrl-C comes again at the next bytecode. */
static void repeat_interrupt(void)
{
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        PyErr_SetInterrupt();
}

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

/* Only for bytes, which can't change: what else is attached by is seldom and the user's. */
static PyObject *load_and_keep(ext_state *st, PyObject *handle, PyObject *dtype)
{
    if (!PyBytes_CheckExact(handle))
        return ext_handle_load(st, handle, dtype);
    PyObject *block = ext_scope_find(handle);
    if (block != NULL)
        return ext_handle_load_over(handle, dtype, block);
    PyObject *array = ext_handle_load(st, handle, dtype);
    if (array != NULL)
        ext_scope_keep(handle, PyArray_BASE((PyArrayObject *)array));
    return array;
}

static PyObject *load_or_lose(ext_state *st, PyObject *handle, PyObject *dtype)
{
    PyObject *array = load_and_keep(st, handle, dtype);
    if (array != NULL)
        return array;
    repeat_interrupt();
    return ext_lost_from_error(st);
}

static PyObject *rebuild_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    ext_state *st = PyType_GetModuleState(type);
    PyObject *handle, *dtype;
    if (rebuild_arguments(args, kwargs, &handle, &dtype))
        return load_or_lose(st, handle, dtype);
    repeat_interrupt();
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

/* ---- messages ---- */

#define MOST 8 /* arguments of pickle.loads(), which has five */

/* Out-of-band buffers that can be taken only once, as a list for two passes.  The new list
 * goes to *list and into v, a copy of the arguments. */
static int list_buffers(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **v,
                        PyObject **list)
{
    Py_ssize_t named = PyTuple_GET_SIZE(kwnames);
    *list = NULL;
    if (nargs + named > MOST) /* pickle.loads() will refuse these */
        return 0;
    memcpy(v, args, (size_t)(nargs + named) * sizeof *v);
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject **value = &v[nargs + i];
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "buffers") != 0 ||
            !PyIter_Check(*value))
            continue;
        *value = *list = PySequence_List(*value);
        return *list == NULL ? -1 : 1;
    }
    return 0;
}

/* A function of _lost.py on arguments of loads(). */
static PyObject *call_lost(const char *name, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    PyObject *module = PyImport_ImportModule("sharena._lost");
    PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    PyObject *result = function == NULL
                           ? NULL
                           : PyObject_Vectorcall(function, args, (size_t)nargs, kwnames);
    Py_XDECREF(function);
    Py_XDECREF(module);
    return result;
}

/* Something was lost.  Whether there is more to do than to hand out the result. */
static int must_repeat(PyObject *result, PyObject *const *args, Py_ssize_t nargs)
{
    if (result == NULL)
        return PyErr_ExceptionMatches(PyExc_Exception);
    PyObject *hides = nargs == 1 ? call_lost("hides", args, 1, NULL) : NULL;
    int status = hides == NULL ? -1 : PyObject_IsTrue(hides);
    Py_XDECREF(hides);
    if (status < 0) {
        repeat_interrupt();
        PyErr_Clear();
    }
    return status > 0;
}

/* The second pass.  Consumes what the first one came to, a result or an exception, which
 * stands if this pass raises an Exception of its own. */
static PyObject *load_again(ext_scope *scope, PyObject *first, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *type, *value, *traceback, *result = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    if (ext_scope_replay(scope) == 0)
        result = call_lost("loads", args, nargs, kwnames);
    if (result == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Restore(type, value, traceback); /* drops the second one, if need be for none */
        return first;
    }
    Py_XDECREF(first);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return result;
}

/* The handle in the pickle of an array alone, or NULL: it is something else. */
static PyObject *handle_alone(PyObject *data)
{
    static const char before[] = EXT_ALONE_BEFORE, after[] = EXT_ALONE_AFTER;
    const size_t head = sizeof before - 1, tail = sizeof after - 1;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear(); /* pickle.loads() says what is wrong */
        return NULL;
    }
    const uint8_t *bytes = view.buf;
    size_t size = (size_t)view.len;
    PyObject *handle = NULL;
    if (size > head + 1 + tail && memcmp(bytes, before, head) == 0 &&
        size == head + 1 + bytes[head] + tail && memcmp(bytes + size - tail, after, tail) == 0) {
        handle = PyBytes_FromStringAndSize((const char *)bytes + head + 1, bytes[head]);
        if (handle == NULL)
            PyErr_Clear();
    }
    PyBuffer_Release(&view);
    return handle;
}

PyObject *ext_loads(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    ext_state *st = ext_state_of(module);
    PyObject *stock = st->stock_loads, *v[MOST], *list = NULL;
    PyObject *alone = nargs == 1 && kwnames == NULL ? handle_alone(args[0]) : NULL;
    if (alone != NULL) {
        PyObject *array = load_or_lose(st, alone, NULL);
        Py_DECREF(alone);
        return array;
    }
    if (kwnames != NULL) {
        int listed = list_buffers(args, nargs, kwnames, v, &list);
        if (listed < 0)
            return NULL;
        if (listed)
            args = v;
    }
    ext_scope *scope = ext_scope_enter();
    PyObject *result = PyObject_Vectorcall(stock, args, (size_t)nargs, kwnames);
    if (scope != NULL) {
        if (ext_scope_lost(scope) != NULL && must_repeat(result, args, nargs))
            result = load_again(scope, result, args, nargs, kwnames);
        ext_scope_leave(scope);
    }
    Py_XDECREF(list);
    return result;
}

PyObject *ext_latest_lost(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *lost = ext_scope_lost(NULL);
    return Py_NewRef(lost == NULL ? Py_None : lost);
}

int ext_receive_init(ext_state *st, PyObject *module)
{
    PyObject *pickle = PyImport_ImportModule("pickle");
    st->stock_loads = pickle == NULL ? NULL : PyObject_GetAttrString(pickle, "loads");
    Py_XDECREF(pickle);
    st->rebuild_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &rebuild_spec, NULL);
    if (st->stock_loads == NULL || st->rebuild_type == NULL)
        return -1;
    return PyModule_AddType(module, st->rebuild_type);
}
