/* RLock: multiprocessing.RLock over a lock of the core, which outlives its holders.
 *
 * It lies in a block that the object keeps, alone or behind somebody's data, so it travels as
 * that block does, at any time.  Nothing in the object changes after it was made.
 *
 * Waiting lets other threads run, and Ctrl-C through: the core asks at least every 50 ms.
 */
#include "lock.h"

#include "sharena/lock.h"

typedef struct {
    PyObject_HEAD PyObject *block; /* keeps the memory, and the heap */
    sharena_heap *core;
    sharena_lock *lock;
} rlock;

PyObject *ext_block_under(ext_state *st, PyObject *array)
{
    while (array != NULL && PyArray_Check(array))
        array = PyArray_BASE((PyArrayObject *)array);
    return array != NULL && Py_IS_TYPE(array, st->block_type) ? array : NULL;
}

PyObject *ext_block_of(PyObject *module, PyObject *array)
{
    PyObject *block = ext_block_under(ext_state_of(module), array);
    if (block != NULL)
        return Py_NewRef(block);
    PyErr_SetString(PyExc_ValueError,
                    "this is no array made in shared memory, or sent by handle");
    return NULL;
}

static PyObject *lock_in(ext_state *st, PyObject *block, size_t offset)
{
    ext_block *b = (ext_block *)block;
    if (offset % sizeof(uint64_t) != 0 || b->size_bytes < sizeof(sharena_lock) ||
        offset > b->size_bytes - sizeof(sharena_lock)) {
        PyErr_Format(PyExc_ValueError, "there is no room for a lock at byte %zu of %zu", offset,
                     b->size_bytes);
        return NULL;
    }
    rlock *self = PyObject_New(rlock, st->lock_type);
    if (self == NULL)
        return NULL;
    self->block = Py_NewRef(block);
    self->core = b->arena->core;
    self->lock = (sharena_lock *)(void *)((char *)b->start + offset);
    return (PyObject *)self;
}

PyObject *ext_lock_over(PyObject *module, PyObject *args)
{
    ext_state *st = ext_state_of(module);
    PyObject *memory;
    Py_ssize_t offset;
    if (!PyArg_ParseTuple(args, "On:_lock_over", &memory, &offset))
        return NULL;
    if (Py_IS_TYPE(memory, st->lost_type))
        return Py_NewRef(memory);
    PyObject *block = ext_block_under(st, memory);
    if (block == NULL || offset < 0) {
        PyErr_SetString(PyExc_ValueError, "a lock is in shared memory");
        return NULL;
    }
    return lock_in(st, block, (size_t)offset);
}

static PyObject *lock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char name_heap[] = "heap";
    static char *names[] = {name_heap, NULL};
    static const npy_intp words[] = {sizeof(sharena_lock) / sizeof(uint64_t)};
    ext_state *st = PyType_GetModuleState(type);
    PyObject *heap = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:RLock", names, &heap))
        return NULL;
    ext_arena *arena = ext_heap_choose(st, heap);
    if (arena == NULL)
        return NULL;
    PyArrayObject *array = ext_array_new(st, arena, PyArray_DescrFromType(NPY_UINT64), 1, words,
                                         NULL, 0, SHARENA_ZERO);
    if (array == NULL)
        return NULL;
    PyObject *self = lock_in(st, PyArray_BASE(array), 0);
    Py_DECREF(array);
    return self;
}

static void lock_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(((rlock *)self)->block);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- acquire and release ---- */

/* In ms, rounded up, -1: for ever; as multiprocessing takes it, a negative one is 0. */
static int timeout_parse(PyObject *object, int64_t *ms)
{
    *ms = -1;
    if (object == NULL || object == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds != seconds) {
        PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds or None, not nan");
        return -1;
    }
    if (seconds <= 0)
        *ms = 0;
    else if (seconds < 1e12)
        *ms = (int64_t)(seconds * 1000 + 0.999);
    return 0;
}

static PyObject *acquire(rlock *self, int64_t timeout_ms)
{
    int code = sharena_lock_acquire(self->core, self->lock, 0);
    if (code == SHARENA_EBUSY && timeout_ms != 0) {
        Py_BEGIN_ALLOW_THREADS
        code = sharena_lock_acquire(self->core, self->lock, timeout_ms);
        Py_END_ALLOW_THREADS
    }
    if (code == 0)
        Py_RETURN_TRUE;
    if (code == SHARENA_EBUSY)
        Py_RETURN_FALSE;
    return ext_raise(ext_state_of_object((PyObject *)self), code);
}

static PyObject *lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const ext_signature signature = {"acquire", 0, 2, 2, {"block", "timeout"}};
    PyObject *v[2];
    int64_t timeout_ms;
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0)
        return NULL;
    int block = v[0] == NULL ? 1 : PyObject_IsTrue(v[0]);
    if (block < 0 || timeout_parse(v[1], &timeout_ms) < 0)
        return NULL;
    return acquire((rlock *)self, block ? timeout_ms : 0);
}

static PyObject *release(rlock *self)
{
    int code = sharena_lock_release(self->core, self->lock);
    if (code == 0)
        Py_RETURN_NONE;
    if (code != SHARENA_EPERM)
        return ext_raise(ext_state_of_object((PyObject *)self), code);
    PyErr_SetString(PyExc_AssertionError,
                    "attempt to release recursive lock not owned by thread");
    return NULL;
}

static PyObject *lock_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    return release((rlock *)self);
}

static PyObject *lock_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return acquire((rlock *)self, -1);
}

static PyObject *lock_exit(PyObject *self, PyObject *args)
{
    (void)args;
    return release((rlock *)self);
}

/* ---- questions ---- */

static PyObject *lock_abandoned(PyObject *self, PyObject *unused)
{
    (void)unused;
    rlock *l = (rlock *)self;
    int answer = sharena_lock_abandoned(l->core, l->lock);
    if (answer >= 0)
        return PyBool_FromLong(answer);
    if (answer != SHARENA_EPERM)
        return ext_raise(ext_state_of_object(self), answer);
    PyErr_SetString(PyExc_AssertionError, "only the thread that holds the lock can ask whether "
                                          "it was abandoned: acquire it first");
    return NULL;
}

static PyObject *lock_locked(PyObject *self, PyObject *unused)
{
    (void)unused;
    rlock *l = (rlock *)self;
    int answer = sharena_lock_held(l->core, l->lock);
    return answer < 0 ? ext_raise(ext_state_of_object(self), answer) : PyBool_FromLong(answer);
}

static PyObject *lock_count(PyObject *self, PyObject *unused)
{
    (void)unused;
    rlock *l = (rlock *)self;
    return PyLong_FromUnsignedLongLong(sharena_lock_count(l->core, l->lock));
}

static PyObject *lock_is_mine(PyObject *self, PyObject *unused)
{
    (void)unused;
    rlock *l = (rlock *)self;
    return PyBool_FromLong(sharena_lock_count(l->core, l->lock) != 0);
}

static PyObject *lock_repr(PyObject *self)
{
    rlock *l = (rlock *)self;
    uint64_t count = sharena_lock_count(l->core, l->lock);
    if (count > 0)
        return PyUnicode_FromFormat("<sharena.RLock held here, count %llu>",
                                    (unsigned long long)count);
    int held = sharena_lock_held(l->core, l->lock);
    return PyUnicode_FromFormat("<sharena.RLock, %s>", held < 0 ? "damaged"
                                                       : held == 0
                                                           ? "free"
                                                           : "held by another thread or process");
}

/* multiprocessing.Condition asks the lock's own semaphore. */
static PyObject *lock_semlock(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(self);
}

static PyObject *lock_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    rlock *l = (rlock *)self;
    PyObject *module = PyType_GetModule(Py_TYPE(self));
    PyObject *over = module == NULL ? NULL : PyObject_GetAttrString(module, "_lock_over");
    if (over == NULL)
        return NULL;
    Py_ssize_t offset = (char *)l->lock - (char *)((ext_block *)l->block)->start;
    return Py_BuildValue("N(On)", over, l->block, offset);
}

PyDoc_STRVAR(lock_doc,
             "RLock(*, heap=None)\n--\n\n"
             "A recursive lock between processes that outlives its holders.\n\n"
             "It is used as `multiprocessing.RLock` is, and can be sent at any time: through\n"
             "queues, pipes and pools as well.  It belongs to a thread, never to a forked\n"
             "child.  When the process that holds it dies, the next one gets it, within 50 ms\n"
             "if it waits already; `abandoned` then says so.\n\n"
             "Parameters\n----------\n"
             "heap : Heap, optional\n    Default `Heap.default()`.\n\n"
             "Raises\n------\n"
             "HeapFullError\n    No room.\n"
             "HeapClosedError\n    The heap was closed.");

static PyMethodDef lock_methods[] = {
    {"acquire", EXT_METHOD(lock_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, block=True, timeout=None)\n--\n\n"
     "Take the lock, or take it once more; False if that could not be done in time.\n\n"
     "Parameters\n----------\n"
     "block : bool\n    False: don't wait.\n"
     "timeout : float, optional\n    In seconds; none: wait for ever, negative: don't.\n\n"
     "Returns\n-------\nbool\n\n"
     "Raises\n------\n"
     "CorruptHeapError\n    Something else was written where the lock is."},
    {"release", lock_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Undo one `acquire`.\n\n"
     "Raises\n------\n"
     "AssertionError\n    This thread does not hold the lock."},
    {"abandoned", lock_abandoned, METH_NOARGS,
     "abandoned($self, /)\n--\n\n"
     "Whether a process died holding the lock since this was asked last.\n\n"
     "To be asked by who holds it: if True, what the lock protects may be half changed.\n\n"
     "Raises\n------\n"
     "AssertionError\n    This thread does not hold the lock."},
    {"locked", lock_locked, METH_NOARGS,
     "locked($self, /)\n--\n\n"
     "Whether a living process holds it."},
    {"__enter__", lock_enter, METH_NOARGS, NULL},
    {"__exit__", lock_exit, METH_VARARGS, NULL},
    {"__reduce__", lock_reduce, METH_NOARGS, NULL},
    {"_count", lock_count, METH_NOARGS, NULL},
    {"_is_mine", lock_is_mine, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lock_members[] = {
    {"_semlock", lock_semlock, NULL, "What multiprocessing.Condition asks.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, (void *)(uintptr_t)lock_doc},
    {Py_tp_new, lock_new},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_repr, lock_repr},
    {Py_tp_methods, lock_methods},
    {Py_tp_getset, lock_members},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    .name = "sharena.RLock",
    .basicsize = sizeof(rlock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lock_slots,
};

int ext_lock_init(ext_state *st, PyObject *module)
{
    st->lock_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &lock_spec, NULL);
    return st->lock_type == NULL ? -1 : PyModule_AddType(module, st->lock_type);
}
