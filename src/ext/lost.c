/* Lost: what arrives in place of an array that can't be loaded.
 *
 * Any use raises the stored error: attributes, items, arithmetic, comparison, len, bool,
 * conversion by NumPy.  What remains is what containers, debuggers and picklers do with an
 * object they only carry: its type, repr, copying, pickling, and `error` itself.
 */
#include "ext.h"

typedef struct {
    PyObject_HEAD PyObject
        *error; /* an exception, never raised itself: it would gather tracebacks */
} lost;

static int raise_lost(PyObject *self)
{
    PyObject *error = ((lost *)self)->error;
    PyObject *args = error == NULL ? NULL : PyObject_GetAttrString(error, "args");
    if (args != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), args);
        Py_DECREF(args);
    } else if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "an array was lost on its way");
    }
    return -1;
}

static PyObject *use(PyObject *self)
{
    (void)raise_lost(self);
    return NULL;
}

static PyObject *use2(PyObject *self, PyObject *other)
{
    (void)other;
    return use(self);
}

static PyObject *use3(PyObject *self, PyObject *b, PyObject *c)
{
    (void)b;
    (void)c;
    return use(self);
}

static int is_lost(PyObject *object)
{
    return strcmp(Py_TYPE(object)->tp_name, "sharena.Lost") == 0;
}

/* Binary operators are called with the Lost on either side. */
static PyObject *operate(PyObject *a, PyObject *b)
{
    return use(is_lost(a) ? a : b);
}

static PyObject *operate3(PyObject *a, PyObject *b, PyObject *c)
{
    return use(is_lost(a) ? a : is_lost(b) ? b : c);
}

static PyObject *compare(PyObject *self, PyObject *other, int operation)
{
    (void)other;
    (void)operation;
    return use(self);
}

static Py_hash_t hash(PyObject *self)
{
    return raise_lost(self);
}

static Py_ssize_t length(PyObject *self)
{
    return raise_lost(self);
}

static PyObject *item(PyObject *self, Py_ssize_t i)
{
    (void)i;
    return use(self);
}

static int set_item(PyObject *self, PyObject *key, PyObject *value)
{
    (void)key;
    (void)value;
    return raise_lost(self);
}

static int contains(PyObject *self, PyObject *value)
{
    (void)value;
    return raise_lost(self);
}

static int get_buffer(PyObject *self, Py_buffer *view, int flags)
{
    (void)flags;
    view->obj = NULL;
    return raise_lost(self);
}

/* ---- what does not raise ---- */

static PyObject *get_attribute(PyObject *self, PyObject *name)
{
    static const char *const allowed[] = {
        "error",    "__class__", "__reduce__",  "__doc__",    "__reduce_ex__",
        "__repr__", "__str__",   "__format__",  "__module__", "__sizeof__",
        "__dir__",  "__copy__",  "__deepcopy__"};
    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++) {
        if (PyUnicode_CompareWithASCIIString(name, allowed[i]) == 0)
            return PyObject_GenericGetAttr(self, name);
    }
    return use(self);
}

static PyObject *repr(PyObject *self)
{
    return PyUnicode_FromFormat("<sharena.Lost: %S>", ((lost *)self)->error);
}

static PyObject *reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_BuildValue("O(O)", (PyObject *)Py_TYPE(self), ((lost *)self)->error);
}

static PyObject *get_error(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(((lost *)self)->error);
}

/* ---- life ---- */

static PyObject *lost_new_with(PyTypeObject *type, PyObject *error)
{
    lost *self = PyObject_GC_New(lost, type);
    if (self == NULL)
        return NULL;
    self->error = Py_NewRef(error);
    PyObject_GC_Track(self);
    ext_scope_note_lost((PyObject *)self); /* also one that was forwarded */
    return (PyObject *)self;
}

static PyObject *lost_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"error", NULL};
    PyObject *error;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Lost", names, &error))
        return NULL;
    if (!PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "Lost() needs an exception, not %s",
                     Py_TYPE(error)->tp_name);
        return NULL;
    }
    return lost_new_with(type, error);
}

static int lost_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((lost *)self)->error);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int lost_clear(PyObject *self)
{
    Py_CLEAR(((lost *)self)->error);
    return 0;
}

static void lost_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)lost_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* The exception as a fresh instance without traceback, frames or causes: a Lost may be
 * pickled, and must not keep the receiver's variables alive. */
static PyObject *take_error(ext_state *st)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *text = value == NULL ? NULL : PyObject_Str(value);
    PyObject *error = text == NULL ? NULL : PyObject_CallOneArg(type, text);
    if (error == NULL && text != NULL) { /* a type that a text alone does not make */
        PyErr_Clear();
        error = PyObject_CallFunction(st->errors[EXT_ERROR], "O", text);
    }
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return error;
}

PyObject *ext_lost_from_error(ext_state *st)
{
    PyObject *error = take_error(st);
    PyObject *result = error == NULL ? NULL : lost_new_with(st->lost_type, error);
    Py_XDECREF(error);
    if (result == NULL) {
        PyErr_Clear();
        result = Py_NewRef(st->lost_memory);
        ext_scope_note_lost(result);
    }
    return result;
}

PyDoc_STRVAR(lost_doc,
             "Lost(error)\n--\n\n"
             "Stands for an array that could not be loaded; any use raises the reason.\n\n"
             "An exception while a message is unpickled would stop a Pool or a Queue for\n"
             "ever, so the array arrives as a Lost instead.  Test for it with\n"
             "``isinstance(x, sharena.Lost)``; ``x.error`` is the exception.");

static PyMethodDef lost_methods[] = {
    {"__reduce__", reduce, METH_NOARGS, NULL},
    {"__array__", EXT_METHOD(use3), METH_VARARGS | METH_KEYWORDS, NULL},
    {"__array_ufunc__", EXT_METHOD(use3), METH_VARARGS | METH_KEYWORDS, NULL},
    {"__array_function__", EXT_METHOD(use3), METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lost_getset[] = {
    {"error", get_error, NULL, "The exception that any use raises.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lost_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)lost_doc},
    {Py_tp_new, lost_new},
    {Py_tp_traverse, lost_traverse},
    {Py_tp_clear, lost_clear},
    {Py_tp_dealloc, lost_dealloc},
    {Py_tp_methods, lost_methods},
    {Py_tp_getset, lost_getset},
    {Py_tp_repr, repr},
    {Py_tp_getattro, get_attribute},
    {Py_tp_setattro, set_item},
    {Py_tp_call, use3},
    {Py_tp_iter, use},
    {Py_tp_iternext, use},
    {Py_tp_richcompare, compare},
    {Py_tp_hash, hash},
    {Py_bf_getbuffer, get_buffer},
    {Py_sq_length, length},
    {Py_sq_item, item},
    {Py_sq_contains, contains},
    {Py_mp_length, length},
    {Py_mp_subscript, use2},
    {Py_mp_ass_subscript, set_item},
    {Py_nb_bool, raise_lost},
    {Py_nb_int, use},
    {Py_nb_float, use},
    {Py_nb_index, use},
    {Py_nb_negative, use},
    {Py_nb_positive, use},
    {Py_nb_absolute, use},
    {Py_nb_invert, use},
    {Py_nb_add, operate},
    {Py_nb_subtract, operate},
    {Py_nb_multiply, operate},
    {Py_nb_remainder, operate},
    {Py_nb_divmod, operate},
    {Py_nb_power, operate3},
    {Py_nb_lshift, operate},
    {Py_nb_rshift, operate},
    {Py_nb_and, operate},
    {Py_nb_xor, operate},
    {Py_nb_or, operate},
    {Py_nb_floor_divide, operate},
    {Py_nb_true_divide, operate},
    {Py_nb_matrix_multiply, operate},
    {Py_nb_inplace_add, operate},
    {Py_nb_inplace_subtract, operate},
    {Py_nb_inplace_multiply, operate},
    {Py_nb_inplace_remainder, operate},
    {Py_nb_inplace_power, operate3},
    {Py_nb_inplace_true_divide, operate},
    {Py_nb_inplace_floor_divide, operate},
    {Py_nb_inplace_matrix_multiply, operate},
    {0, NULL},
};

static PyType_Spec lost_spec = {
    .name = "sharena.Lost",
    .basicsize = sizeof(lost),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lost_slots,
};

int ext_lost_init(ext_state *st, PyObject *module)
{
    st->lost_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &lost_spec, NULL);
    if (st->lost_type == NULL)
        return -1;
    PyObject *error = PyObject_CallFunction(PyExc_MemoryError, "s",
                                            "an array was lost: no private memory to load it");
    if (error == NULL)
        return -1;
    st->lost_memory = lost_new_with(st->lost_type, error);
    Py_DECREF(error);
    return st->lost_memory == NULL ? -1 : PyModule_AddType(module, st->lost_type);
}
