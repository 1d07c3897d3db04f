/* The reducer that the interprocess picklers call for every ndarray, and by_value(), which
 * switches handles off.  Its counterpart in the receiver is receive.c.
 *
 * by_value() is a context variable: it holds for the code inside the `with`, also across
 * await, and for no other thread.  What a queue's feeder thread pickles later is not inside.
 */
#include "message.h"

#define PROTOCOL 4 /* any pickler of this millennium's Pythons can write it */

/* ---- sending ---- */

static void count(uint64_t *arrays, uint64_t *bytes, PyArrayObject *array)
{
    EXT_COUNT_ADD(arrays, 1);
    EXT_COUNT_ADD(bytes, (uint64_t)PyArray_NBYTES(array));
}

static PyObject *send_value(ext_state *st, PyArrayObject *array, int asked, PyObject *fallback,
                            int protocol)
{
    npy_intp bytes = PyArray_NBYTES(array);
    if (!asked && st->warn_bytes > 0 && bytes >= st->warn_bytes &&
        ext_warn_by_value(st, array) < 0)
        return NULL;
    count(&st->sent.value_arrays, &st->sent.value_bytes, array);
    if (fallback != NULL && fallback != Py_None)
        return PyObject_CallOneArg(fallback, (PyObject *)array);
    return PyObject_CallMethod((PyObject *)array, "__reduce_ex__", "i", protocol);
}

static int by_value_now(ext_state *st)
{
    PyObject *value;
    if (PyContextVar_Get(st->by_value, NULL, &value) < 0)
        return -1;
    int on = value == Py_True;
    Py_XDECREF(value);
    return on;
}

static PyObject *send_handle(ext_state *st, PyArrayObject *array, ext_message *message,
                             PyObject *bytes, PyObject *dtype)
{
    PyObject *args = dtype == NULL ? PyTuple_Pack(1, bytes) : PyTuple_Pack(2, bytes, dtype);
    PyObject *result = args == NULL ? NULL : PyTuple_Pack(2, st->rebuild_type, args);
    if (result == NULL && message == NULL)
        ext_handle_give_back(bytes); /* else the whole message is */
    if (result != NULL)
        count(&st->sent.handle_arrays, &st->sent.handle_bytes, array);
    Py_XDECREF(args);
    Py_DECREF(bytes);
    Py_XDECREF(dtype);
    return result;
}

/* Whether it is only that no handle can be made: no room for a ticket, or a guest.  Then the
 * array travels by value, with one warning for the process.  Never an exception, which a queue's
 * feeder thread would swallow, with the message. */
static int beyond_limit(ext_state *st)
{
    if (!PyErr_ExceptionMatches(st->errors[EXT_ERROR]) &&
        !PyErr_ExceptionMatches(PyExc_MemoryError))
        return 0;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (!st->warned_limit) {
        st->warned_limit = 1;
        if (PyErr_WarnFormat(st->errors[EXT_BY_VALUE], 1,
                             "arrays travel by value, for no handle can be made: %S",
                             value == NULL ? Py_None : value) < 0)
            PyErr_Clear();
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return 1;
}

PyObject *ext_reduce_in(ext_state *st, PyArrayObject *array, ext_message *message,
                        PyObject *fallback, int protocol)
{
    PyObject *bytes, *dtype;
    int by_value = by_value_now(st);
    if (by_value < 0)
        return NULL;
    /* A handle names a plain array; _subclasses.py takes others apart. */
    int plain = PyArray_CheckExact(array), made = 0;
    if (!by_value && plain)
        made = ext_handle_make(st, array, 1, message, &bytes, &dtype);
    if (made < 0 && !beyond_limit(st))
        return NULL;
    return made > 0 ? send_handle(st, array, message, bytes, dtype)
                    : send_value(st, array, by_value, fallback, protocol);
}

static PyObject *attribute_or_null(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL)
        PyErr_Clear();
    return value;
}

/* Ours is reduce_array itself, or a functools.partial of it with a fallback. */
int ext_reducer_is_ours(ext_state *st, PyObject *reducer)
{
    if (reducer == st->reduce_array)
        return 1;
    if (PyCFunction_Check(reducer) || PyFunction_Check(reducer))
        return 0;
    PyObject *function = attribute_or_null(reducer, "func");
    int is = function == st->reduce_array;
    Py_XDECREF(function);
    return is;
}

PyObject *ext_reducer_fallback(PyObject *reducer)
{
    if (PyCFunction_Check(reducer))
        return NULL;
    PyObject *keywords = attribute_or_null(reducer, "keywords"), *fallback = NULL;
    if (keywords != NULL && PyDict_Check(keywords))
        fallback = PyDict_GetItemString(keywords, "fallback");
    Py_XDECREF(keywords); /* the partial keeps it */
    return fallback;
}

PyObject *ext_reduce_array(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const ext_signature signature = {"reduce_array", 1, 2, 2, {"a", "fallback"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[2];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    if (!PyArray_Check(v[0])) {
        PyErr_Format(PyExc_TypeError, "reduce_array() needs a numpy.ndarray, not %s",
                     Py_TYPE(v[0])->tp_name);
        return NULL;
    }
    return ext_reduce_in(st, (PyArrayObject *)v[0], ext_message_now, v[1], PROTOCOL);
}

/* What lies in a Block alone is no value that could be copied, a lock for example: there is no
 * other way than a handle, inside by_value() neither. */
PyObject *ext_reduce_block_in(ext_state *st, PyObject *block, ext_message *message)
{
    const ext_block *b = (ext_block *)block;
    npy_intp size = (npy_intp)b->size_bytes;
    PyArrayObject *array = ext_array_over(Py_NewRef(block), PyArray_DescrFromType(NPY_UINT8), 1,
                                          &size, NULL, b->start, !b->readonly);
    PyObject *bytes = NULL;
    if (array == NULL)
        return NULL;
    int made = ext_handle_make(st, array, 1, message, &bytes, NULL);
    PyObject *result = made > 0 ? send_handle(st, array, message, bytes, NULL) : NULL;
    if (made == 0)
        PyErr_SetString(PyExc_ValueError, "this memory is gone");
    Py_DECREF(array);
    return result;
}

PyObject *ext_reduce_block(PyObject *module, PyObject *block)
{
    ext_state *st = ext_state_of(module);
    if (Py_IS_TYPE(block, st->block_type))
        return ext_reduce_block_in(st, block, ext_message_now);
    PyErr_Format(PyExc_TypeError, "reduce_block() needs a Block, not %s",
                 Py_TYPE(block)->tp_name);
    return NULL;
}

int ext_reduce_alone(ext_state *st, PyArrayObject *array, ext_message *message, PyObject **out)
{
    int by_value = by_value_now(st);
    if (by_value != 0)
        return by_value < 0 ? -1 : 0;
    int made = ext_handle_make(st, array, 1, message, out, NULL);
    if (made > 0 && PyBytes_GET_SIZE(*out) <= UINT8_MAX)
        count(&st->sent.handle_arrays, &st->sent.handle_bytes, array);
    return made < 0 && beyond_limit(st) ? 0 : made;
}

PyObject *ext_by_handle(PyObject *module, PyObject *object)
{
    int by_value = by_value_now(ext_state_of(module));
    if (by_value < 0)
        return NULL;
    return by_value ? Py_NewRef(Py_False) : ext_is_shared(module, object);
}

PyObject *ext_sent_counts(PyObject *module, PyObject *unused)
{
    (void)unused;
    const ext_sent *sent = &ext_state_of(module)->sent;
    return Py_BuildValue("{sKsKsKsK}", "handle_arrays", (unsigned long long)sent->handle_arrays,
                         "handle_bytes", (unsigned long long)sent->handle_bytes, "value_arrays",
                         (unsigned long long)sent->value_arrays, "value_bytes",
                         (unsigned long long)sent->value_bytes);
}

/* ---- by_value ---- */

typedef struct {
    PyObject_HEAD PyObject *token; /* of the variable while inside */
} by_value;

static PyObject *by_value_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    by_value *b = (by_value *)self;
    ext_state *st = ext_state_of_object(self);
    if (b->token != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this by_value() is entered already; make a new one");
        return NULL;
    }
    b->token = PyContextVar_Set(st->by_value, Py_True);
    return b->token == NULL ? NULL : Py_NewRef(Py_None);
}

static PyObject *by_value_exit(PyObject *self, PyObject *args)
{
    (void)args;
    by_value *b = (by_value *)self;
    PyObject *token = b->token;
    b->token = NULL;
    if (token != NULL) {
        int status = PyContextVar_Reset(ext_state_of_object(self)->by_value, token);
        Py_DECREF(token);
        if (status < 0)
            return NULL;
    }
    Py_RETURN_FALSE;
}

static int by_value_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((by_value *)self)->token);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int by_value_clear(PyObject *self)
{
    Py_CLEAR(((by_value *)self)->token);
    return 0;
}

static void by_value_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)by_value_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(by_value_doc,
             "by_value()\n--\n\n"
             "Context manager: arrays pickled inside travel by value, not as handles.\n\n"
             "It holds for this thread (and this asyncio task).  A multiprocessing.Queue,\n"
             "a Pool and a ProcessPoolExecutor pickle in threads of their own, later: send\n"
             "``a.copy()`` through them instead.");

static PyMethodDef by_value_methods[] = {
    {"__enter__", by_value_enter, METH_NOARGS, NULL},
    {"__exit__", by_value_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot by_value_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)by_value_doc},
    {Py_tp_methods, by_value_methods},
    {Py_tp_traverse, by_value_traverse},
    {Py_tp_clear, by_value_clear},
    {Py_tp_dealloc, by_value_dealloc},
    {0, NULL},
};

static PyType_Spec by_value_spec = {
    .name = "sharena.by_value",
    .basicsize = sizeof(by_value),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = by_value_slots,
};

int ext_reduce_init(ext_state *st, PyObject *module)
{
    st->reduce_array = PyObject_GetAttrString(module, "reduce_array");
    st->reduce_block = PyObject_GetAttrString(module, "reduce_block");
    st->by_value = PyContextVar_New("sharena.by_value", Py_False);
    st->by_value_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &by_value_spec, NULL);
    if (st->reduce_array == NULL || st->reduce_block == NULL || st->by_value == NULL ||
        st->by_value_type == NULL)
        return -1;
    return PyModule_AddType(module, st->by_value_type);
}
