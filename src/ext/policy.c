/* Memory policies: what NumPy itself allocates, in the heap (NEP 49).
 *
 * A policy is a handler in a capsule, NumPy's name for an allocator.  NumPy keeps the current one
 * in a context variable, and every array that owns its memory keeps the one it was made by: so a
 * policy, and its heap, live as long as any of its arrays.  It is called with and without the
 * GIL, with an exception set, after the module's end: it touches no Python.
 *
 * The handler for the whole process stands behind NumPy's default one: what its capsule points
 * at is replaced, once, by a handler that asks where memory is to come from now, and goes by the
 * address when memory comes back.
 *
 * Arrays of objects stay in private memory: a forked child would share their pointers with its
 * parent, and clears them when it drops the array.  NumPy doesn't say what memory is for, but it
 * zeroes that of objects (calloc), and the array is there already: the last one that ndarray's
 * tp_alloc made, with a handler and still without data.  Zeroed memory of which that is not known to be numbers is
 * private, too.  Without the GIL nobody knows which array was the last.
 *
 * What a forked guest asks for, who has no slot in the heap, is private.
 */
#include "policy.h"

#include <stdatomic.h>

#define CAPSULE "mem_handler"
#define ALIGN_MAX ((size_t)2 << 20)

typedef struct policy {
    PyDataMem_Handler handler; /* what the capsule points at */
    ext_arena *arena;
    sharena_heap *core;
    size_t align, min_bytes;
    unsigned flags;
} policy;

static PyDataMem_Handler stock; /* NumPy's own */
static policy *_Atomic always;  /* of the process, or NULL; never freed */
static _Atomic unsigned refusals; /* releases that the heap refused: none, if all is well */

/* ---- which array is being made -------------------------------------------------------------- */

#ifndef Py_GIL_DISABLED
static PyObject *latest; /* a plain ndarray; under the GIL */
static allocfunc stock_alloc;
static freefunc stock_free;

static PyObject *note_array(PyTypeObject *type, Py_ssize_t items)
{
    PyObject *array = stock_alloc(type, items);

    latest = type == &PyArray_Type ? array : NULL;
    return array;
}

static void forget_array(void *array)
{
    if (latest == array)
        latest = NULL;
    stock_free(array);
}

/* The types derived from it in Python have an allocator of their own. */
static void watch_arrays(void)
{
    if (stock_alloc != NULL)
        return;
    stock_alloc = PyArray_Type.tp_alloc;
    stock_free = PyArray_Type.tp_free;
    PyArray_Type.tp_alloc = note_array;
    PyArray_Type.tp_free = forget_array;
}

static int is_for_numbers(void)
{
    if (!PyGILState_Check() || latest == NULL)
        return 0;
    PyArrayObject *array = (PyArrayObject *)latest;
    PyArray_Descr *descr = PyArray_DESCR(array);
    latest = NULL;
    return PyArray_DATA(array) == NULL && PyArray_HANDLER(array) != NULL && descr != NULL &&
           !PyDataType_REFCHK(descr);
}
#else
static void watch_arrays(void)
{
}

static int is_for_numbers(void)
{
    return 0;
}
#endif

/* ---- an allocator's four functions ----------------------------------------------------------- */

/* NULL, and 1 in *private: not in the heap, but elsewhere. */
static void *in_heap(const policy *p, size_t size, unsigned flags, int *private)
{
    void *out = NULL;

    *private = size < p->min_bytes;
    if (*private)
        return NULL;
    ext_uninterruptible++;
    int code = sharena_allocate(p->core, size + (size == 0), p->align, p->flags | flags, &out);
    ext_uninterruptible--;
    *private = code == SHARENA_EPROCESSES;
    return code == 0 ? out : NULL;
}

static void *policy_malloc(const policy *p, size_t size)
{
    int private = 1;
    void *out = p == NULL ? NULL : in_heap(p, size, 0, &private);

    return private ? stock.allocator.malloc(stock.allocator.ctx, size) : out;
}

static void *policy_calloc(const policy *p, size_t n, size_t size)
{
    size_t bytes;
    int private = 1;
    void *out = NULL;

    if (p != NULL && is_for_numbers()) {
        if (__builtin_mul_overflow(n, size, &bytes))
            return NULL;
        out = in_heap(p, bytes, SHARENA_ZERO, &private);
    }
    return private ? stock.allocator.calloc(stock.allocator.ctx, n, size) : out;
}

static void memory_free(void *unused, void *memory, size_t size)
{
    sharena_heap *core = memory == NULL ? NULL : sharena_heap_of(memory);

    (void)unused;
    if (core == NULL) {
        stock.allocator.free(stock.allocator.ctx, memory, size);
        return;
    }
    ext_uninterruptible++;
    int code = sharena_release(core, memory); /* the size may be wrong: the heap knows it */
    ext_uninterruptible--;
    if (code != 0)
        (void)atomic_fetch_add_explicit(&refusals, 1, memory_order_relaxed);
}

/* sharena_reallocate() keeps no alignment. */
static void *move_aligned(const policy *p, sharena_heap *core, void *memory, size_t size)
{
    sharena_block block;
    void *out;

    if (sharena_find(core, memory, &block) != 0 ||
        sharena_allocate(core, size, p->align, block.flags, &out) != 0)
        return NULL;
    memcpy(out, memory, size < block.size_bytes ? size : block.size_bytes);
    (void)sharena_release(core, memory);
    return out;
}

static void *policy_realloc(const policy *p, void *memory, size_t size)
{
    sharena_heap *core = memory == NULL ? NULL : sharena_heap_of(memory);
    void *out = NULL;

    if (memory == NULL)
        return policy_malloc(p, size);
    if (core == NULL) /* it stays private: nobody says what it is for */
        return stock.allocator.realloc(stock.allocator.ctx, memory, size);
    size += size == 0;
    ext_uninterruptible++;
    if (p != NULL && p->align > 16)
        out = move_aligned(p, core, memory, size);
    else if (sharena_reallocate(core, memory, size, &out) != 0)
        out = NULL;
    ext_uninterruptible--;
    return out;
}

static void *context_malloc(void *p, size_t size)
{
    return policy_malloc(p, size);
}

static void *context_calloc(void *p, size_t n, size_t size)
{
    return policy_calloc(p, n, size);
}

static void *context_realloc(void *p, void *memory, size_t size)
{
    return policy_realloc(p, memory, size);
}

static policy *current(void)
{
    return atomic_load_explicit(&always, memory_order_acquire);
}

static void *always_malloc(void *unused, size_t size)
{
    (void)unused;
    return policy_malloc(current(), size);
}

static void *always_calloc(void *unused, size_t n, size_t size)
{
    (void)unused;
    return policy_calloc(current(), n, size);
}

static void *always_realloc(void *unused, void *memory, size_t size)
{
    (void)unused;
    return policy_realloc(current(), memory, size);
}

static PyDataMem_Handler always_handler = {
    .name = "default_allocator",
    .version = 1,
    .allocator = {NULL, always_malloc, always_calloc, always_realloc, memory_free},
};

int ext_policy_init(void)
{
    PyDataMem_Handler *handler = PyCapsule_GetPointer(PyDataMem_DefaultHandler, CAPSULE);

    if (handler == NULL)
        return -1;
    if (handler != &always_handler) /* else it is imported again */
        stock = *handler;
    return 0;
}

/* ---- policies --------------------------------------------------------------------------------- */

static int check_align(size_t align)
{
    if ((align & (align - 1)) == 0 && align <= ALIGN_MAX)
        return 0;
    PyErr_Format(PyExc_ValueError, "align must be a power of two up to %zu, or 0, got %zu",
                 ALIGN_MAX, align);
    return -1;
}

/* Of (heap, align, min_bytes). */
static policy *policy_new(ext_state *st, PyObject *args, unsigned flags)
{
    PyObject *heap;
    Py_ssize_t align, min_bytes;

    if (!PyArg_ParseTuple(args, "Onn", &heap, &align, &min_bytes))
        return NULL;
    if (align < 0 || min_bytes < 0) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative",
                     align < 0 ? "align" : "min_bytes");
        return NULL;
    }
    if (check_align((size_t)align) < 0)
        return NULL;
    policy *p = PyMem_RawCalloc(1, sizeof *p);
    if (p == NULL)
        return (policy *)PyErr_NoMemory();
    p->arena = ext_heap_choose(st, heap);
    if (p->arena == NULL) {
        PyMem_RawFree(p);
        return NULL;
    }
    p->handler = (PyDataMem_Handler){
        .name = "sharena",
        .version = 1,
        .allocator = {p, context_malloc, context_calloc, context_realloc, memory_free},
    };
    p->core = p->arena->core;
    p->align = (size_t)align;
    p->min_bytes = (size_t)min_bytes;
    p->flags = flags;
    watch_arrays();
    return p;
}

static void policy_end(PyObject *capsule)
{
    policy *p = PyCapsule_GetPointer(capsule, CAPSULE);

    ext_arena_unref(p->arena);
    PyMem_RawFree(p);
}

PyObject *ext_policy_make(PyObject *module, PyObject *args)
{
    policy *p = policy_new(ext_state_of(module), args, 0);
    if (p == NULL)
        return NULL;
    PyObject *capsule = PyCapsule_New(&p->handler, CAPSULE, policy_end);
    if (capsule == NULL) {
        ext_arena_unref(p->arena);
        PyMem_RawFree(p);
    }
    return capsule;
}

PyObject *ext_policy_set(PyObject *module, PyObject *capsule)
{
    (void)module;
    if (!PyCapsule_IsValid(capsule, CAPSULE)) {
        PyErr_Format(PyExc_TypeError, "a handler of NumPy's is needed, not %s",
                     Py_TYPE(capsule)->tp_name);
        return NULL;
    }
    return PyDataMem_SetHandler(capsule);
}

PyObject *ext_policy_refusals(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(atomic_load_explicit(&refusals, memory_order_relaxed));
}

/* Arrays may outlive every use of it, so a policy of the process stays, with its heap. */
PyObject *ext_policy_always(PyObject *module, PyObject *args)
{
    policy *p = NULL;

    if (PyTuple_GET_SIZE(args) > 0) {
        p = policy_new(ext_state_of(module), args, SHARENA_UNSHARED);
        if (p == NULL)
            return NULL;
        if (PyCapsule_SetPointer(PyDataMem_DefaultHandler, &always_handler) < 0) {
            ext_arena_unref(p->arena);
            PyMem_RawFree(p);
            return NULL;
        }
    }
    atomic_store_explicit(&always, p, memory_order_release);
    (void)snprintf(always_handler.name, sizeof always_handler.name, "%s",
                   p == NULL ? stock.name : "sharena");
    Py_RETURN_NONE;
}
