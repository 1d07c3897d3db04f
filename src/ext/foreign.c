/* Foreign: the base of an array over memory that another library made.
 *
 * After the last view of the array it frees the memory as it was told to, once, and drops what
 * it was told to keep.  It is armed last, when the array stands: whatever fails before leaves the
 * memory to the caller.  from_address(), which fills one in from Python, is in from_address.c.
 *
 * A function in C is called without the GIL, unless it asks for it: other libraries free memory
 * under locks of their own, and a thread that holds such a lock may be waiting for the GIL.
 * ctypes has the same rule.  It may take the GIL itself, by PyGILState_Ensure().
 *
 * The last view may die anywhere a reference is dropped: while an exception is on its way, in a
 * thread that Python did not start, when the interpreter ends.  So nothing here needs the
 * module's state, and the int that a Python callable gets is made beforehand.
 *
 * No part in garbage collection: nothing that it holds can be reached from it by the collector
 * through an ndarray, which takes no part either.
 *
 * It exports a buffer for the reason that a Block does, see block.c.
 */
#include "foreign.h"

typedef struct {
    PyObject_HEAD void *address;
    void *low; /* the first byte that the array reaches */
    size_t size_bytes; /* from there */
    int readonly, armed, with_gil;
    void (*destructor)(void *, void *);
    void *context;
    PyObject *callable, *number, *owner; /* each may be NULL */
} ext_foreign;

/* An owner may be an array of this kind, and so on: what ends within so many others waits until
 * the outermost one has ended, so that a long chain doesn't overflow the stack. */
#define NESTED 32
static _Thread_local int nesting;
static _Thread_local ext_foreign *waiting; /* linked through `low` */

/* ---- the end ---- */

static void free_in_c(ext_foreign *foreign)
{
    ext_uninterruptible++; /* it may release a block of ours: no signal handler in here */
    if (foreign->with_gil) {
        foreign->destructor(foreign->address, foreign->context);
    } else {
        Py_BEGIN_ALLOW_THREADS
        foreign->destructor(foreign->address, foreign->context);
        Py_END_ALLOW_THREADS
    }
    ext_uninterruptible--;
}

static void free_memory(ext_foreign *foreign)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (foreign->destructor != NULL)
        free_in_c(foreign);
    else
        Py_XDECREF(PyObject_CallOneArg(foreign->callable, foreign->number));
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(foreign->callable);
    PyErr_Restore(type, value, traceback);
}

static void end(ext_foreign *foreign)
{
    PyTypeObject *type = Py_TYPE((PyObject *)foreign);
    if (foreign->armed)
        free_memory(foreign);
    Py_XDECREF(foreign->callable);
    Py_XDECREF(foreign->number);
    Py_XDECREF(foreign->owner); /* last: the destructor may need what it keeps */
    PyObject_Free(foreign);
    Py_DECREF(type);
}

static void foreign_dealloc(PyObject *self)
{
    ext_foreign *foreign = (ext_foreign *)self;
    if (nesting == NESTED) {
        foreign->low = waiting;
        waiting = foreign;
        return;
    }
    nesting++;
    end(foreign);
    while (nesting == 1 && waiting != NULL) {
        foreign = waiting;
        waiting = foreign->low;
        end(foreign);
    }
    nesting--;
}

/* ---- the type ---- */

static int foreign_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    ext_foreign *foreign = (ext_foreign *)self;
    return PyBuffer_FillInfo(view, self, foreign->low, (Py_ssize_t)foreign->size_bytes,
                             foreign->readonly, flags);
}

static PyObject *foreign_repr(PyObject *self)
{
    ext_foreign *foreign = (ext_foreign *)self;
    return PyUnicode_FromFormat("<sharena.Foreign of %zu bytes at %p%s>", foreign->size_bytes,
                                foreign->low, foreign->readonly ? ", read-only" : "");
}

PyDoc_STRVAR(foreign_doc, "Memory that another library made, the base of the arrays over it.\n\n"
                          "It frees the memory, as `from_address` was told to, when the last\n"
                          "array over it is gone.");

static PyType_Slot foreign_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)foreign_doc},
    {Py_tp_dealloc, foreign_dealloc},
    {Py_tp_repr, foreign_repr},
    {Py_bf_getbuffer, foreign_getbuffer},
    {0, NULL},
};

static PyType_Spec foreign_spec = {
    .name = "sharena._core.Foreign",
    .basicsize = sizeof(ext_foreign),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = foreign_slots,
};

int ext_foreign_init(ext_state *st, PyObject *module)
{
    st->foreign_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &foreign_spec, NULL);
    return st->foreign_type == NULL ? -1 : PyModule_AddType(module, st->foreign_type);
}

/* ---- what the array reaches ---- */

/* The dtype must have a size, and nothing in it may belong to the interpreter. */
static int check_dtype(PyArray_Descr *descr)
{
    if (PyDataType_REFCHK(descr)) {
        PyErr_Format(PyExc_TypeError,
                     "dtype: %R holds references to Python objects or to text elsewhere; foreign "
                     "memory has numbers, fixed-width text and structured dtypes of these",
                     (PyObject *)descr);
        return -1;
    }
    if (PyDataType_ELSIZE(descr) > 0)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "dtype: %R has no size; say how many bytes an element has, such as 'S16'",
                 (PyObject *)descr);
    return -1;
}

/* Checked also for an empty array, as NumPy does.  *elements: whether there are any. */
static int check_shape(const ext_foreign_memory *memory, int *elements)
{
    npy_intp bytes = PyDataType_ELSIZE(memory->descr);
    *elements = 1;
    if (memory->nd < 0 || memory->nd > NPY_MAXDIMS || (memory->nd > 0 && memory->dims == NULL)) {
        PyErr_Format(PyExc_ValueError, "shape: an array has 0 to %d dimensions, not %d",
                     NPY_MAXDIMS, memory->nd);
        return -1;
    }
    for (int i = 0; i < memory->nd; i++) {
        npy_intp dim = memory->dims[i];
        if (dim < 0) {
            PyErr_Format(PyExc_ValueError, "shape: dimension %d is negative: %zd", i,
                         (Py_ssize_t)dim);
            return -1;
        }
        if (dim == 0) {
            *elements = 0;
        } else if (__builtin_mul_overflow(bytes, dim, &bytes)) {
            PyErr_SetString(PyExc_ValueError,
                            "shape: no address space holds an array of this size");
            return -1;
        }
    }
    return 0;
}

/* NumPy can use what is not aligned, but who means that says it with the dtype. */
static int check_alignment(const ext_foreign_memory *memory, const npy_intp *strides)
{
    static const char *const hint =
        "; if the data is packed, take the field of a packed dtype, such as [('x', 'f8')]";
    npy_intp align = PyDataType_ALIGNMENT(memory->descr);
    if (align <= 1)
        return 0;
    if ((uintptr_t)memory->address % (uintptr_t)align != 0) {
        PyErr_Format(PyExc_ValueError, "address: %p is no multiple of %zd, the alignment of %R%s",
                     memory->address, (Py_ssize_t)align, (PyObject *)memory->descr, hint);
        return -1;
    }
    for (int i = 0; i < memory->nd; i++) {
        if (memory->dims[i] > 1 && strides[i] % align != 0) {
            PyErr_Format(
                PyExc_ValueError, "strides: %zd is no multiple of %zd, the alignment of %R%s",
                (Py_ssize_t)strides[i], (Py_ssize_t)align, (PyObject *)memory->descr, hint);
            return -1;
        }
    }
    return 0;
}

/* As NumPy's own. */
static void fill_strides(const ext_foreign_memory *memory, npy_intp *strides)
{
    npy_intp stride = PyDataType_ELSIZE(memory->descr);
    for (int i = memory->nd - 1; i >= 0; i--) {
        strides[i] = stride;
        if (memory->dims[i] != 0)
            stride *= memory->dims[i];
    }
}

/* From the first byte of a non-empty array to behind its last. */
static int find_bounds(const ext_foreign_memory *memory, const npy_intp *strides,
                       ext_foreign *foreign)
{
    uintptr_t low = (uintptr_t)memory->address, high;
    int wrong = __builtin_add_overflow(low, (uintptr_t)PyDataType_ELSIZE(memory->descr), &high);
    for (int i = 0; i < memory->nd && !wrong; i++) {
        npy_intp span;
        wrong = __builtin_mul_overflow(memory->dims[i] - 1, strides[i], &span);
        if (!wrong && span < 0)
            wrong = __builtin_sub_overflow(low, -(uintptr_t)span, &low);
        else if (!wrong)
            wrong = __builtin_add_overflow(high, (uintptr_t)span, &high);
    }
    if (wrong || low == 0 || high - low > (uintptr_t)PY_SSIZE_T_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: the array would leave the address space",
                     memory->strides == NULL ? "shape" : "strides");
        return -1;
    }
    foreign->low = (void *)low;
    foreign->size_bytes = high - low;
    return 0;
}

static int check_place(const ext_foreign_memory *memory, const npy_intp *strides,
                       ext_foreign *foreign)
{
    if (memory->address != NULL)
        return check_alignment(memory, strides) < 0 ? -1 : find_bounds(memory, strides, foreign);
    PyErr_SetString(PyExc_ValueError,
                    "address: NULL, where the shape has elements; did the allocation fail?");
    return -1;
}

/* ---- the array ---- */

static void arm(ext_foreign *foreign, const ext_foreign_memory *memory)
{
    foreign->with_gil = memory->with_gil;
    foreign->destructor = memory->destructor;
    foreign->context = memory->context;
    foreign->callable = Py_XNewRef(memory->callable);
    foreign->number = Py_XNewRef(memory->number);
    foreign->owner = Py_XNewRef(memory->owner);
    foreign->armed = memory->destructor != NULL || memory->callable != NULL;
}

PyObject *ext_foreign_array(ext_state *st, const ext_foreign_memory *memory)
{
    npy_intp strides[NPY_MAXDIMS];
    int elements;
    if (check_dtype(memory->descr) < 0 || check_shape(memory, &elements) < 0)
        return NULL;
    if (memory->strides == NULL)
        fill_strides(memory, strides);
    else
        memcpy(strides, memory->strides, (size_t)memory->nd * sizeof *strides);
    ext_foreign *foreign = PyObject_New(ext_foreign, st->foreign_type);
    if (foreign == NULL)
        return NULL;
    memset((char *)foreign + offsetof(ext_foreign, address), 0,
           sizeof *foreign - offsetof(ext_foreign, address));
    foreign->address = memory->address;
    foreign->readonly = memory->readonly;
    foreign->low = memory->address;
    if (elements && check_place(memory, strides, foreign) < 0) {
        Py_DECREF(foreign);
        return NULL;
    }
    /* NumPy takes NULL for a wish: it would allocate. */
    void *data = memory->address == NULL ? (void *)foreign : memory->address;
    Py_INCREF(memory->descr);
    PyArrayObject *array = ext_array_over((PyObject *)foreign, memory->descr, memory->nd,
                                          memory->dims, strides, data, !memory->readonly);
    if (array != NULL)
        arm(foreign, memory);
    return (PyObject *)array;
}
