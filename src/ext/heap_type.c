/* Heap: a heap as Python sees it.  Life, properties and the table of methods; opening is in
 * heap_open.c, reports in heap_report.c, names in heap_names.c, the default heap in
 * default_heap.c.
 *
 * A Heap holds a reference to its arena until close() or its end; so does every Block.  The
 * methods take one more for as long as they run, since another thread may close the heap
 * while they wait without the GIL.
 */
#include "lock.h"

/* ---- arena of a Heap ---- */

int ext_closed(ext_state *st, ext_heap *heap)
{
    PyErr_Format(st->errors[EXT_CLOSED],
                 "this process has closed the heap (name: %S); attach to it again, or pass "
                 "another heap=",
                 heap->name);
    return -1;
}

#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

ext_arena *ext_heap_arena(ext_state *st, ext_heap *heap)
{
    ext_arena *arena;
    Py_BEGIN_CRITICAL_SECTION(heap);
    arena = heap->arena == NULL ? NULL : ext_arena_ref(heap->arena);
    Py_END_CRITICAL_SECTION();
    if (arena == NULL)
        (void)ext_closed(st, heap);
    return arena;
}

/* Takes the arena away from the Heap: NULL when it was closed already. */
static ext_arena *take_arena(ext_heap *heap)
{
    ext_arena *arena;
    Py_BEGIN_CRITICAL_SECTION(heap);
    arena = heap->arena;
    heap->arena = NULL;
    Py_END_CRITICAL_SECTION();
    return arena;
}

ext_arena *ext_heap_choose(ext_state *st, PyObject *heap)
{
    if (heap == NULL || heap == Py_None) {
        heap = ext_default_heap(st);
        if (heap == NULL)
            return NULL;
    } else if (!PyObject_TypeCheck(heap, st->heap_type)) {
        PyErr_Format(PyExc_TypeError, "heap must be a sharena.Heap or None, not %s",
                     Py_TYPE(heap)->tp_name);
        return NULL;
    }
    return ext_heap_arena(st, (ext_heap *)heap);
}

/* ---- making one ---- */

PyObject *ext_heap_over(ext_state *st, ext_arena *arena)
{
    const char *name = sharena_name(arena->core);
    PyObject *text = name == NULL ? Py_NewRef(Py_None) : PyUnicode_FromString(name);
    ext_heap *heap = text == NULL ? NULL : PyObject_New(ext_heap, st->heap_type);
    if (heap == NULL) {
        Py_XDECREF(text);
        ext_arena_unref(arena);
        return NULL;
    }
    heap->arena = arena;
    heap->name = text;
    heap->limit_bytes = 0;
    memcpy(heap->uuid, arena->uuid, sizeof heap->uuid);
    return (PyObject *)heap;
}

PyObject *ext_heap_new(ext_state *st, sharena_heap *core)
{
    ext_arena *arena = ext_arena_adopt(core);
    return arena == NULL ? NULL : ext_heap_over(st, arena);
}

static void heap_dealloc(PyObject *self)
{
    ext_heap *heap = (ext_heap *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (heap->arena != NULL)
        ext_arena_unref(heap->arena);
    Py_XDECREF(heap->name);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *heap_default(PyObject *class, PyObject *unused)
{
    (void)unused;
    return Py_XNewRef(ext_default_heap(PyType_GetModuleState((PyTypeObject *)class)));
}

/* ---- ending it ---- */

static PyObject *heap_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    ext_heap *heap = (ext_heap *)self;
    ext_arena *arena = take_arena(heap);
    if (arena != NULL) {
        ext_default_closed(ext_state_of_object(self), heap);
        ext_arena_unpin(arena);
        ext_arena_unref(arena);
    }
    Py_RETURN_NONE;
}

static PyObject *heap_close_on_exit(PyObject *self, PyObject *args)
{
    (void)args;
    return heap_close(self, NULL);
}

static PyObject *heap_unlink(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"force", NULL};
    ext_heap *heap = (ext_heap *)self;
    int force = 0, code;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:unlink", names, &force))
        return NULL;
    if (heap->name == Py_None) {
        PyErr_SetString(PyExc_ValueError,
                        "an unnamed heap has nothing to unlink: it ends with its last user");
        return NULL;
    }
    const char *name = PyUnicode_AsUTF8(heap->name);
    if (name == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_unlink(name, force);
    Py_END_ALLOW_THREADS
    return code == 0 ? Py_NewRef(Py_None) : ext_raise(ext_state_of_object(self), code);
}

static PyObject *heap_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    ext_arena *arena = ext_heap_arena(ext_state_of_object(self), (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    ext_arena_unref(arena);
    return Py_NewRef(self);
}

/* ---- care ---- */

static PyObject *heap_reap(PyObject *self, PyObject *unused)
{
    (void)unused;
    ext_state *st = ext_state_of_object(self);
    ext_arena *arena = ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    unsigned reaped = 0;
    int code;
    (void)PyGC_Collect(); /* ends of pipes that only a cycle of garbage keeps open */
    Py_BEGIN_ALLOW_THREADS
    ext_patient = 1;
    code = sharena_reap(arena->core, &reaped);
    ext_patient = 0;
    Py_END_ALLOW_THREADS
    PyObject *result = code == 0 ? PyLong_FromUnsignedLong(reaped) : ext_raise(st, code);
    ext_arena_unref(arena);
    return result;
}

/* Only the dead, and what needs no second look: for who asks often. */
static PyObject *heap_clear_dead(PyObject *self, PyObject *unused)
{
    (void)unused;
    ext_state *st = ext_state_of_object(self);
    ext_arena *arena = ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_reap(arena->core, NULL);
    Py_END_ALLOW_THREADS
    ext_arena_unref(arena);
    return code == 0 ? Py_NewRef(Py_None) : ext_raise(st, code);
}

static PyObject *heap_trim(PyObject *self, PyObject *unused)
{
    (void)unused;
    ext_state *st = ext_state_of_object(self);
    ext_arena *arena = ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    uint64_t freed = 0;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_trim(arena->core, &freed);
    Py_END_ALLOW_THREADS
    PyObject *result = code == 0 ? PyLong_FromUnsignedLongLong(freed) : ext_raise(st, code);
    ext_arena_unref(arena);
    return result;
}

static PyObject *heap_expire_tickets(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"older_than", NULL};
    ext_state *st = ext_state_of_object(self);
    double seconds = 0.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|d:expire_tickets", names, &seconds))
        return NULL;
    if (!(seconds >= 0.0 && seconds < 1e15)) {
        PyErr_SetString(PyExc_ValueError, "older_than must be a number of seconds >= 0");
        return NULL;
    }
    ext_arena *arena = ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    size_t expired = 0;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_ticket_expire(arena->core, (uint64_t)(seconds * 1e3), &expired);
    Py_END_ALLOW_THREADS
    PyObject *result = code == 0 ? PyLong_FromSize_t(expired) : ext_raise(st, code);
    ext_arena_unref(arena);
    return result;
}

/* ---- properties ---- */

static PyObject *get_name(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(((ext_heap *)self)->name);
}

PyObject *ext_uuid_text(const uint8_t uuid[16])
{
    char text[33];
    for (int i = 0; i < 16; i++)
        PyOS_snprintf(text + 2 * i, 3, "%02x", uuid[i]);
    return PyUnicode_FromString(text);
}

static PyObject *get_uuid(PyObject *self, void *unused)
{
    (void)unused;
    return ext_uuid_text(((ext_heap *)self)->uuid);
}

static PyObject *get_limit(PyObject *self, void *unused)
{
    (void)unused;
    ext_heap *heap = (ext_heap *)self;
    if (heap->limit_bytes == 0) { /* fixed at creation: read once */
        sharena_stats stats;
        if (ext_heap_read(ext_state_of_object(self), heap, &stats) < 0)
            return NULL;
        heap->limit_bytes = stats.limit_bytes;
    }
    return PyLong_FromUnsignedLongLong(heap->limit_bytes);
}

static PyObject *get_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((ext_heap *)self)->arena == NULL);
}

static int heap_bool(PyObject *self)
{
    (void)self;
    return 1; /* a heap without names is still a heap: `heap or other` */
}

static PyObject *heap_compare(PyObject *a, PyObject *b, int operation)
{
    if ((operation != Py_EQ && operation != Py_NE) || Py_TYPE(a) != Py_TYPE(b))
        Py_RETURN_NOTIMPLEMENTED;
    int equal = memcmp(((ext_heap *)a)->uuid, ((ext_heap *)b)->uuid, 16) == 0;
    return PyBool_FromLong(equal == (operation == Py_EQ));
}

static Py_hash_t heap_hash(PyObject *self)
{
    Py_hash_t hash;
    memcpy(&hash, ((ext_heap *)self)->uuid, sizeof hash); /* random bits */
    return hash == -1 ? -2 : hash;
}

/* ---- the type ---- */

static PyMethodDef heap_methods[] = {
    {"create", EXT_METHOD(ext_heap_create), METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     "create($type, /, name=None, *, limit=None, reserve=None, retain=None, mode=0o600,\n"
     "       ticket_timeout=None)\n--\n\n"
     "Make a heap and attach to it.\n\n"
     "Parameters\n----------\n"
     "name : str, optional\n"
     "    Letters, digits, '.', '_' and '-', at most 64.  A heap without a name is gone\n"
     "    with its last user; one with a name lives in /dev/shm until it is unlinked.\n"
     "limit : int or str, optional\n"
     "    Most bytes of memory it may take, such as ``'4GiB'``, and at least 4 MiB; by\n"
     "    default 80 % of the smaller of the machine's memory and the cgroup's limit.\n"
     "reserve : int or str, optional\n"
     "    Bytes of address space, by default four times the machine's memory.\n"
     "retain : int or str, optional\n"
     "    Bytes of free memory kept warm for re-use, by default an eighth of the limit;\n"
     "    with 0 all goes back to the system at once.\n"
     "mode : int\n"
     "    Permission bits of a named heap: 0o600, or 0o660 or 0o666 for users who attach\n"
     "    with ``owner=``.  Who may only read can't attach, so others are refused.\n"
     "ticket_timeout : float, optional\n"
     "    Seconds after which a handle that nobody loads no longer keeps its array,\n"
     "    wherever it is; by default it does until nobody can load it any more.\n\n"
     "Raises\n------\n"
     "HeapExistsError\n    A heap of this name exists.\n"
     "ValueError\n    A size, mode or name that can't be.\n"
     "HeapPermissionError\n    /dev/shm can't be written.\n"
     "HeapFullError, HeapSystemError\n    No room for its tables, no address space, no /proc."},
    {"attach", EXT_METHOD(ext_heap_attach), METH_VARARGS | METH_KEYWORDS | METH_CLASS,
     "attach($type, /, name=None, *, uuid=None, pid=0, fd=-1, owner=-1)\n--\n\n"
     "Attach to a heap that exists: by name, or an unnamed one by its uuid.\n\n"
     "With a uuid, ``pid`` and ``fd`` may say which process has it open where; without\n"
     "them all processes of this user are searched.  A named heap of another user is\n"
     "attached only if ``owner`` names that user's id: who can write a heap can change what\n"
     "its arrays hold.\n\n"
     "Raises\n------\n"
     "HeapNotFoundError\n    No heap of this name, or no process has this uuid open.\n"
     "HeapPermissionError\n    It is another user's, and ``owner`` or its mode is missing.\n"
     "NotAHeapError, CorruptHeapError, HeapVersionError\n    The file is no sound heap.\n"
     "RemoteHandleError\n    It was made before a reboot.\n"
     "TooManyProcessesError\n    All its slots are taken.\n"
     "HeapSystemError\n    No address space, no descriptor, no /proc.\n"
     "ValueError\n    What can be no heap's name or uuid."},
    {"default", heap_default, METH_NOARGS | METH_CLASS,
     "default($type, /)\n--\n\n"
     "The heap that constructors use without ``heap=``.\n\n"
     "It is joined through the environment variable SHARENA_HEAP, or made with the limit\n"
     "in SHARENA_LIMIT and published in that variable, so that all descendants share it."},
    {"stats", ext_heap_stats, METH_NOARGS,
     "stats($self, /)\n--\n\n"
     "Counts and bytes as a `Stats`: a snapshot, not atomic.\n\n"
     "Its repr leaves out what is 0; ``stats().classes`` is the table of small blocks."},
    {"check", ext_heap_check, METH_NOARGS,
     "check($self, /)\n--\n\n"
     "Walk all of the heap's metadata; return a list of faults, one sentence each."},
    {"reap", heap_reap, METH_NOARGS,
     "reap($self, /)\n--\n\n"
     "Clear up after dead processes, and messages that nobody can receive, now.\n\n"
     "A channel of which no end is seen is looked for again a second later, before its\n"
     "messages are given up; if there is none, nothing waits.  Collects garbage first, which\n"
     "may keep such ends open.\n\n"
     "Returns\n-------\nint\n    How many processes were dead."},
    {"_clear_dead", heap_clear_dead, METH_NOARGS,
     "_clear_dead($self, /)\n--\n\n"
     "`reap` in a hurry: collects no garbage, and looks once."},
    {"trim", heap_trim, METH_NOARGS,
     "trim($self, /)\n--\n\n"
     "Give free memory back to the system; return the number of bytes."},
    {"tickets", ext_heap_tickets, METH_NOARGS,
     "tickets($self, /)\n--\n\n"
     "List the handles in flight, which keep their arrays, as `Ticket` records."},
    {"expire_tickets", EXT_METHOD(heap_expire_tickets), METH_VARARGS | METH_KEYWORDS,
     "expire_tickets($self, /, older_than=0.0)\n--\n\n"
     "Let handles older than that many seconds no longer keep their arrays.\n\n"
     "Returns\n-------\nint\n    How many."},
    {"processes", ext_heap_processes, METH_NOARGS,
     "processes($self, /)\n--\n\nList who uses the heap, as `Process` records."},
    {"blocks", EXT_METHOD(ext_heap_blocks), METH_VARARGS | METH_KEYWORDS,
     "blocks($self, /, min_bytes=0)\n--\n\n"
     "List the live blocks of at least that size, as `BlockInfo` records.\n\n"
     "With SHARENA_TRACE=1 in the environment they say where they were allocated."},
    {"setdefault", ext_heap_setdefault, METH_VARARGS,
     "setdefault($self, name, a, /)\n--\n\n"
     "The array of that name; if there is none, `a` gets it, as by ``heap[name] = a``.\n\n"
     "One step: of several processes that call it, one gives the name, and all get its\n"
     "array.\n\n"
     "Returns\n-------\nnumpy.ndarray\n\n"
     "Raises\n------\n"
     "ValueError, TypeError, TooManyNamesError, HeapFullError\n    As by ``heap[name] = a``."},
    {"keys", ext_heap_keys, METH_NOARGS,
     "keys($self, /)\n--\n\nList the names of arrays in this heap."},
    {"close", heap_close, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Stop using the heap.  Its arrays stay valid; its memory is unmapped when the last\n"
     "of them is gone.  Closing twice does nothing."},
    {"unlink", EXT_METHOD(heap_unlink), METH_VARARGS | METH_KEYWORDS,
     "unlink($self, /, force=False)\n--\n\n"
     "Remove a named heap's name; its memory goes with its last user.\n\n"
     "Raises\n------\n"
     "HeapBusyError\n    Others are attached and ``force`` is not set.\n"
     "ValueError\n    The heap has no name."},
    {"__enter__", heap_enter, METH_NOARGS, NULL},
    {"__exit__", heap_close_on_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef heap_getset[] = {
    {"name", get_name, NULL, "The name, or None.", NULL},
    {"uuid", get_uuid, NULL, "32 hexadecimal digits that no other heap has.", NULL},
    {"limit", get_limit, NULL, "The most bytes of memory it may take.", NULL},
    {"closed", get_closed, NULL, "Whether close() was called on this object.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(heap_doc,
             "A heap in shared memory.\n\n"
             "Made by `create`, `attach` and `default`.  It is also a mapping from names to\n"
             "arrays: ``heap['x'] = a`` keeps an array (copied into the heap unless it is\n"
             "there) until ``del heap['x']``, and any process gets it by ``heap['x']``.\n"
             "As a context manager it is closed at the end.");

static PyObject *heap_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)type;
    (void)args;
    (void)kwargs;
    PyErr_SetString(PyExc_TypeError,
                    "a Heap is not made by calling it: use Heap.create(name) for a new heap, "
                    "Heap.attach(name) for one that exists, or Heap.default()");
    return NULL;
}

static PyType_Slot heap_slots[] = {
    {Py_tp_new, heap_new},
    {Py_tp_doc, (void *)(uintptr_t)heap_doc},
    {Py_tp_dealloc, heap_dealloc},
    {Py_tp_methods, heap_methods},
    {Py_tp_getset, heap_getset},
    {Py_tp_repr, ext_heap_repr},
    {Py_tp_iter, ext_heap_iter},
    {Py_tp_richcompare, heap_compare},
    {Py_tp_hash, heap_hash},
    {Py_nb_bool, heap_bool},
    {Py_mp_length, ext_heap_length},
    {Py_mp_subscript, ext_heap_get},
    {Py_mp_ass_subscript, ext_heap_set},
    {Py_sq_contains, ext_heap_contains},
    {0, NULL},
};

static PyType_Spec heap_spec = {
    .name = "sharena.Heap",
    .basicsize = sizeof(ext_heap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = heap_slots,
};

int ext_heap_init(ext_state *st, PyObject *module)
{
    st->heap_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &heap_spec, NULL);
    return st->heap_type == NULL ? -1 : PyModule_AddType(module, st->heap_type);
}
