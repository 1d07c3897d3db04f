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
 * parent, and clears them when it drops the array (purpose.c).  So does zeroed memory of which it
 * is not known that it is for numbers.
 *
 * What a forked guest asks for, who has no slot in the heap, is private.
 */
#include "policy.h"

#define ALIGN_MAX ((size_t)2 << 20)

typedef struct policy {
    PyDataMem_Handler handler; /* what the capsule points at */
    ext_arena *arena;
    sharena_heap *core;
    size_t align, min_bytes;
    unsigned flags;
} policy;

static PyDataMem_Handler stock; /* NumPy's own */
static policy *always; /* by the __atomic_ functions; of the process, or NULL; never freed */
static unsigned refusals; /* releases that the heap refused: none, if all is well */

/* ---- an allocator's four functions ----------------------------------------------------------- */

/* NULL, and 1 in *private: not in the heap, but elsewhere. */
static void *in_heap(const policy *p, size_t size, unsigned flags, int *private)
{
    void *out = NULL;

    *private = size < p->min_bytes;
    if (*private)
        return NULL;
    if (size >= EXT_LARGE_BYTES && p->align <= 16 && (p->flags | flags) == 0)
        out = sharena_malloc_at_hand(p->core, size);
    if (out != NULL)
        return out;
    ext_uninterruptible++;
    int code = sharena_allocate(p->core, size + (size == 0), p->align, p->flags | flags, &out);
    ext_uninterruptible--;
    *private = code == SHARENA_EPROCESSES;
    return code == 0 ? out : NULL;
}

static void *policy_malloc(const policy *p, size_t size)
{
    int private = 1;
    void *out = p == NULL || ext_unpickling ? NULL : in_heap(p, size, 0, &private);

    if (private)
        out = stock.allocator.malloc(stock.allocator.ctx, size);
    if (out == NULL)
        ext_memory_refused();
    return out;
}

static void *policy_calloc(const policy *p, const PyDataMem_Handler *handler, size_t n,
                           size_t size)
{
    size_t bytes;
    int private = 1;
    void *out = NULL;

    if (p != NULL && ext_memory_is_numbers(handler)) {
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
    /* The size may be wrong: it is a hint only. */
    if (size >= EXT_LARGE_BYTES && sharena_release_at_hand(core, memory))
        return;
    ext_uninterruptible++;
    int code = sharena_release(core, memory);
    ext_uninterruptible--;
    if (code != 0)
        (void)__atomic_fetch_add(&refusals, 1, __ATOMIC_RELAXED);
}

/* To where sharena_reallocate() has none: it keeps no alignment, and gives a guest nothing.  NULL
 * leaves the memory as it was. */
static void *move(sharena_heap *core, void *memory, size_t size, size_t align, int private)
{
    sharena_block block;
    void *out = NULL;

    if (sharena_find(core, memory, &block) != 0)
        return NULL;
    if (private)
        out = stock.allocator.malloc(stock.allocator.ctx, size);
    else if (sharena_allocate(core, size, align, block.flags, &out) != 0)
        out = NULL;
    if (out == NULL)
        return NULL;
    memcpy(out, memory, size < block.size_bytes ? size : block.size_bytes);
    (void)sharena_release(core, memory);
    return out;
}

static void *resize(sharena_heap *core, void *memory, size_t size, size_t align)
{
    void *out = NULL, *aligned;
    int code = sharena_reallocate(core, memory, size, &out);

    if (code == SHARENA_EPROCESSES)
        return move(core, memory, size, 0, 1);
    if (code != 0)
        return NULL;
    if (align <= 1 || (uintptr_t)out % align == 0)
        return out;
    aligned = move(core, out, size, align, 0);
    return aligned != NULL ? aligned : out; /* NumPy can use what is not aligned */
}

static void *policy_realloc(const policy *p, void *memory, size_t size)
{
    sharena_heap *core = memory == NULL ? NULL : sharena_heap_of(memory);

    if (memory == NULL)
        return policy_malloc(p, size);
    if (core == NULL) /* it stays private: nobody says what it is for */
        return stock.allocator.realloc(stock.allocator.ctx, memory, size);
    size += size == 0;
    ext_uninterruptible++;
    void *out = resize(core, memory, size, p == NULL ? 0 : p->align);
    ext_uninterruptible--;
    return out;
}

static void *context_malloc(void *p, size_t size)
{
    return policy_malloc(p, size);
}

static void *context_calloc(void *p, size_t n, size_t size)
{
    return policy_calloc(p, &((policy *)p)->handler, n, size);
}

static void *context_realloc(void *p, void *memory, size_t size)
{
    return policy_realloc(p, memory, size);
}

static policy *current(void)
{
    return __atomic_load_n(&always, __ATOMIC_ACQUIRE);
}

static void *always_malloc(void *unused, size_t size)
{
    (void)unused;
    return policy_malloc(current(), size);
}

static void *always_calloc(void *unused, size_t n, size_t size);

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

static void *always_calloc(void *unused, size_t n, size_t size)
{
    (void)unused;
    return policy_calloc(current(), &always_handler, n, size);
}

int ext_policy_init(void)
{
    PyDataMem_Handler *handler = PyCapsule_GetPointer(PyDataMem_DefaultHandler, EXT_HANDLER);

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

static policy *policy_new(ext_state *st, PyObject *heap, Py_ssize_t align, Py_ssize_t min_bytes,
                          unsigned flags)
{
    if (align < 0 || min_bytes < 0) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative",
                     align < 0 ? "align" : "min_bytes");
        return NULL;
    }
    if (check_align((size_t)align) < 0 || ext_memory_watch() < 0)
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
    if (p->arena == st->default_arena)
        st->default_used = 1; /* it stays the default one */
    return p;
}

static void policy_free(policy *p)
{
    ext_arena_unref(p->arena);
    PyMem_RawFree(p);
}

static void policy_end(PyObject *capsule)
{
    policy_free(PyCapsule_GetPointer(capsule, EXT_HANDLER));
}

PyObject *ext_policy_capsule(ext_state *st, PyObject *heap, Py_ssize_t align,
                             Py_ssize_t min_bytes)
{
    policy *p = policy_new(st, heap, align, min_bytes, 0);
    if (p == NULL)
        return NULL;
    PyObject *capsule = PyCapsule_New(&p->handler, EXT_HANDLER, policy_end);
    if (capsule == NULL)
        policy_free(p);
    return capsule;
}

PyObject *ext_policy_refusals(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLong(__atomic_load_n(&refusals, __ATOMIC_RELAXED));
}

static int is_same(const policy *a, const policy *b)
{
    return a != NULL && a->arena == b->arena && a->align == b->align &&
           a->min_bytes == b->min_bytes;
}

/* Of (heap, align, min_bytes), or () to end it.  Arrays may outlive every use of it, so a policy
 * of the process stays, with its heap. */
PyObject *ext_policy_always(PyObject *module, PyObject *args)
{
    PyObject *heap;
    Py_ssize_t align, min_bytes;
    policy *p = NULL;

    if (PyTuple_GET_SIZE(args) > 0) {
        if (!PyArg_ParseTuple(args, "Onn", &heap, &align, &min_bytes))
            return NULL;
        p = policy_new(ext_state_of(module), heap, align, min_bytes, SHARENA_UNSHARED);
        if (p == NULL)
            return NULL;
        if (is_same(current(), p)) {
            policy_free(p);
            Py_RETURN_NONE;
        }
        if (PyCapsule_SetPointer(PyDataMem_DefaultHandler, &always_handler) < 0) {
            policy_free(p);
            return NULL;
        }
    }
    __atomic_store_n(&always, p, __ATOMIC_RELEASE);
    (void)snprintf(always_handler.name, sizeof always_handler.name, "%s",
                   p == NULL ? stock.name : "sharena");
    Py_RETURN_NONE;
}
