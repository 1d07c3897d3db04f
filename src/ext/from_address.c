/* from_address(): what the arguments mean, and which of its three kinds `free` is.
 *
 * A ctypes function pointer is called in C, not through ctypes: no argument is converted, and its
 * `argtypes`, `restype` and `errcheck` are not asked.  The address of the function is what the
 * object's buffer holds.  ctypes is known by the module in sys.modules; who has such an object
 * has imported it.
 */
#include "foreign.h"

#include "sharena/sharena_py.h"

#define FUNCFLAG_PYTHONAPI 0x4 /* ctypes' own: call with the GIL, as PyDLL does */

/* NumPy's converters name no argument: puts its name in front.  Returns -1. */
static int name_argument(const char *name)
{
    PyObject *class = NULL;
    if (PyErr_ExceptionMatches(PyExc_TypeError))
        class = PyExc_TypeError;
    else if (PyErr_ExceptionMatches(PyExc_ValueError) ||
             PyErr_ExceptionMatches(PyExc_OverflowError))
        class = PyExc_ValueError;
    if (class == NULL)
        return -1;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyErr_Format(class, "%s: %S", name, value);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return -1;
}

/* ---- address ---- */

/* *number: a new int, whatever class the address is of. */
static int parse_address(PyObject *value, void **address, PyObject **number)
{
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "address must be an int, not %s%s", Py_TYPE(value)->tp_name,
                     value == Py_None ? ", which is what ctypes makes of a NULL pointer"
                                      : "; of a ctypes pointer p it is "
                                        "ctypes.cast(p, ctypes.c_void_p).value");
        return -1;
    }
    PyObject *index = PyNumber_Index(value);
    if (index == NULL)
        return -1;
    size_t bits = PyLong_AsSize_t(index); /* refuses negative ones */
    if (bits == (size_t)-1 && PyErr_Occurred()) {
        Py_DECREF(index);
        return name_argument("address");
    }
    *address = (void *)bits;
    *number = index;
    return 0;
}

/* ---- free ---- */

/* The context is the function, which takes no other. */
static void call_function(void *address, void *function)
{
    ((void (*)(void *))function)(address);
}

static int use_function(ext_foreign_memory *memory, void *function, const char *what)
{
    if (function == NULL) {
        PyErr_Format(PyExc_ValueError, "free: this %s is NULL", what);
        return -1;
    }
    memory->destructor = call_function;
    memory->context = function;
    return 0;
}

static int use_capsule(ext_foreign_memory *memory, PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, SHARENA_DESTRUCTOR))
        return use_function(memory, PyCapsule_GetPointer(capsule, SHARENA_DESTRUCTOR), "capsule");
    PyErr_Format(PyExc_ValueError,
                 "free: %R is no capsule of a destructor; that has the name '" SHARENA_DESTRUCTOR
                 "' and holds a void (*)(void *)",
                 capsule);
    return -1;
}

/* 1: a function pointer of ctypes; 0; -1.  By its real type: it has the layout of one. */
static int is_ctypes_function(PyObject *object)
{
    PyObject *name = PyUnicode_FromString("_ctypes");
    PyObject *module = name == NULL ? NULL : PyImport_GetModule(name);
    Py_XDECREF(name);
    if (module == NULL)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *class = PyObject_GetAttrString(module, "CFuncPtr");
    Py_DECREF(module);
    int is = class != NULL && PyType_Check(class) &&
             PyObject_TypeCheck(object, (PyTypeObject *)class);
    PyErr_Clear(); /* None in place of the module: nobody has ctypes */
    Py_XDECREF(class);
    return is;
}

static int use_ctypes_function(ext_foreign_memory *memory, PyObject *object)
{
    PyObject *value = PyObject_GetAttrString(object, "_flags_");
    long flags = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    if (flags == -1 && PyErr_Occurred())
        return name_argument("free");
    Py_buffer view;
    void *function = NULL;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0)
        return -1;
    if (view.len == (Py_ssize_t)sizeof function)
        memcpy(&function, view.buf, sizeof function);
    PyBuffer_Release(&view);
    memory->with_gil = (flags & FUNCFLAG_PYTHONAPI) != 0;
    return use_function(memory, function, "function pointer");
}

/* A class of ctypes' is callable, but makes a pointer instead of following one. */
static int is_ctypes_class(PyObject *object)
{
    return PyType_Check(object) && strncmp(Py_TYPE(object)->tp_name, "_ctypes.", 8) == 0;
}

static int parse_free(PyObject *value, PyObject *number, ext_foreign_memory *memory)
{
    if (value == NULL || value == Py_None)
        return 0;
    memory->callable = value;
    if (PyCapsule_CheckExact(value))
        return use_capsule(memory, value);
    int function = is_ctypes_function(value);
    if (function != 0)
        return function < 0 ? -1 : use_ctypes_function(memory, value);
    if (PyCallable_Check(value) && !is_ctypes_class(value)) {
        memory->number = number;
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "free must be None, a callable, a function pointer of ctypes (an instance of "
                 "what ctypes.CFUNCTYPE makes, or lib.name) or a capsule "
                 "'" SHARENA_DESTRUCTOR "', not %R",
                 value);
    return -1;
}

/* ---- the function ---- */

enum { ADDRESS, SHAPE, DTYPE, STRIDES, READONLY, FREE, OWNER, ARGUMENTS };

static int parse_strides(PyObject *value, int nd, ext_shape *strides)
{
    if (ext_shape_parse(value, strides) < 0)
        return name_argument("strides");
    if (strides->nd == nd)
        return 0;
    PyErr_Format(PyExc_ValueError, "strides: %d for a shape of %d dimensions", strides->nd, nd);
    return -1;
}

/* *dtype: a new reference, also on failure. */
static int parse_layout(ext_state *st, PyObject *const *v, ext_shape *shape, ext_shape *strides,
                        PyArray_Descr **dtype, ext_foreign_memory *memory)
{
    if (ext_shape_parse(v[SHAPE], shape) < 0)
        return name_argument("shape");
    if (ext_dtype_parse(st, v[DTYPE], st->float64, dtype) < 0)
        return name_argument("dtype");
    memory->descr = *dtype;
    memory->nd = shape->nd;
    memory->dims = shape->dims;
    if (v[STRIDES] == NULL || v[STRIDES] == Py_None)
        return 0;
    memory->strides = strides->dims;
    return parse_strides(v[STRIDES], shape->nd, strides);
}

PyObject *ext_from_address(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const ext_signature signature = {
        "from_address",
        3,
        3,
        ARGUMENTS,
        {"address", "shape", "dtype", "strides", "readonly", "free", "owner"}};
    ext_state *st = ext_state_of(module);
    PyObject *v[ARGUMENTS], *number = NULL, *array = NULL;
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    ext_foreign_memory memory = {.owner = v[OWNER] == Py_None ? NULL : v[OWNER]};
    ext_shape shape, strides;
    PyArray_Descr *dtype = NULL;
    memory.readonly = v[READONLY] == NULL ? 0 : PyObject_IsTrue(v[READONLY]);
    if (memory.readonly >= 0 && parse_address(v[ADDRESS], &memory.address, &number) == 0 &&
        parse_layout(st, v, &shape, &strides, &dtype, &memory) == 0 &&
        parse_free(v[FREE], number, &memory) == 0)
        array = ext_foreign_array(st, &memory);
    Py_XDECREF(number);
    Py_XDECREF(dtype);
    return array;
}
