/* sharena._core: the table of functions, the module's state, and what happens at import.
 *
 * The module needs no GIL.  It is bound to the main interpreter, as NumPy is.
 */
#define EXT_IMPORTS_NUMPY
#include "foreign.h"
#include "judge.h"
#include "lock.h"
#include "message.h"
#include "policy.h"

#include "sharena/registry.h"

#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

PyMODINIT_FUNC PyInit__core(void);

ext_state *ext_state_of_object(PyObject *object)
{
    return PyType_GetModuleState(Py_TYPE(object));
}

/* The core asks between chunks of long work.  Only the main thread runs signal handlers,
 * and a deallocator must not: an exception may be on its way through it. */
static int interrupted(void *unused)
{
    (void)unused;
    if (ext_uninterruptible || syscall(SYS_gettid) != getpid() || !Py_IsInitialized())
        return 0;
    PyGILState_STATE gil = PyGILState_Ensure();
    int stop = !PyErr_Occurred() && PyErr_CheckSignals() < 0;
    PyGILState_Release(gil);
    return stop;
}

/* Nobody waits for the judge while the others wait for the GIL. */
static int judge(const sharena_inquiry *inquiry, void *unused)
{
    sharena_inquiry mine = *inquiry;
    if (!ext_patient)
        mine.patient = 0;
    return ext_judge(&mine, unused);
}

static int judge_interrupted(void)
{
    return interrupted(NULL);
}

#define FAST(name, doc) {#name, EXT_METHOD(ext_##name), METH_FASTCALL | METH_KEYWORDS, doc}

static PyMethodDef functions[] = {
    FAST(empty, "empty($module, /, shape, dtype=None, order='C', *, device=None, like=None,\n"
                "      heap=None)\n--\n\n"
                "`numpy.empty` in shared memory.\n\n"
                "Parameters\n----------\n"
                "shape : int or tuple of int\n"
                "dtype : dtype-like, optional\n"
                "    Default float64.  Not one that holds Python objects.\n"
                "order : {'C', 'F'}\n"
                "device, like\n    As NumPy's; the result is a plain ndarray in any case.\n"
                "heap : Heap, optional\n    Default `Heap.default()`.\n\n"
                "Returns\n-------\nnumpy.ndarray\n\n"
                "Raises\n------\n"
                "TypeError\n    The dtype holds Python objects, or strings of any length.\n"
                "HeapFullError\n    No room; it is a MemoryError too.\n"
                "HeapClosedError\n    The heap was closed."),
    FAST(zeros, "zeros($module, /, shape, dtype=None, order='C', *, device=None, like=None,\n"
                "      heap=None)\n--\n\n"
                "`numpy.zeros` in shared memory.  See `empty` for parameters and errors."),
    FAST(ones, "ones($module, /, shape, dtype=None, order='C', *, device=None, like=None,\n"
               "     heap=None)\n--\n\n"
               "`numpy.ones` in shared memory.  See `empty` for parameters and errors."),
    FAST(full, "full($module, /, shape, fill_value, dtype=None, order='C', *, device=None,\n"
               "     like=None, heap=None)\n--\n\n"
               "`numpy.full` in shared memory.  See `empty` for parameters and errors."),
    FAST(empty_like,
         "empty_like($module, /, prototype, dtype=None, order='K', subok=True, shape=None,\n"
         "           *, device=None, heap=None)\n--\n\n"
         "`numpy.empty_like` in shared memory.\n\n"
         "The result is a plain ndarray whatever ``subok`` says.  Errors as in `empty`."),
    FAST(zeros_like,
         "zeros_like($module, /, a, dtype=None, order='K', subok=True, shape=None, *,\n"
         "           device=None, heap=None)\n--\n\n"
         "`numpy.zeros_like` in shared memory.  See `empty_like`."),
    FAST(ones_like, "ones_like($module, /, a, dtype=None, order='K', subok=True, shape=None, *,\n"
                    "          device=None, heap=None)\n--\n\n"
                    "`numpy.ones_like` in shared memory.  See `empty_like`."),
    FAST(full_like, "full_like($module, /, a, fill_value, dtype=None, order='K', subok=True,\n"
                    "          shape=None, *, device=None, heap=None)\n--\n\n"
                    "`numpy.full_like` in shared memory.  See `empty_like`."),
    FAST(array, "array($module, /, object, dtype=None, *, copy=True, order='K', subok=False,\n"
                "      ndmin=0, ndmax=0, like=None, heap=None)\n--\n\n"
                "`numpy.array` in shared memory.\n\n"
                "With ``copy=None`` an array that is in the heap already (in any heap, unless\n"
                "``heap`` is given) and fits is returned as it is.\n\n"
                "Raises\n------\n"
                "TypeError\n"
                "    The elements are Python objects, or ``subok=True`` with a subclass.\n"
                "ValueError\n    ``copy=False`` (NumPy 2) and a copy is needed.\n"
                "HeapFullError, HeapClosedError\n    As in `empty`."),
    FAST(asarray,
         "asarray($module, /, a, dtype=None, order=None, *, device=None, copy=None,\n"
         "        like=None, heap=None)\n--\n\n"
         "`numpy.asarray` in shared memory.\n\n"
         "An array that is there already and fits is returned as it is; anything else is\n"
         "copied in once.  Errors as in `array`."),
    FAST(ascontiguousarray,
         "ascontiguousarray($module, /, a, dtype=None, *, like=None, heap=None)\n--\n\n"
         "`numpy.ascontiguousarray` in shared memory.  See `asarray`."),
    FAST(copy, "copy($module, /, a, order='K', subok=False, *, heap=None)\n--\n\n"
               "`numpy.copy` into shared memory.  Errors as in `array`."),
    FAST(load, "load($module, /, file, mmap_mode=None, allow_pickle=False, fix_imports=True,\n"
               "     encoding='ASCII', *, max_header_size=10000, heap=None)\n--\n\n"
               "Read an .npy file straight into shared memory.\n\n"
               "Parameters\n----------\n"
               "file : path or file object opened in binary mode\n"
               "mmap_mode : None\n"
               "allow_pickle, fix_imports, encoding\n"
               "    For `numpy.load`'s sake; arrays of objects can't be shared.\n"
               "max_header_size : int\n    As `numpy.load`'s.\n"
               "heap : Heap, optional\n\n"
               "Returns\n-------\nnumpy.ndarray\n\n"
               "Raises\n------\n"
               "ValueError\n    No .npy file, an .npz file, or one that is cut short.\n"
               "TypeError\n    An array of Python objects.\n"
               "HeapFullError, OSError"),
    FAST(from_address,
         "from_address($module, /, address, shape, dtype, *, strides=None, readonly=False,\n"
         "             free=None, owner=None)\n--\n\n"
         "An ndarray over memory that another library made.  Nothing is copied.\n\n"
         "Parameters\n----------\n"
         "address : int\n"
         "    Of element [0, ..., 0], a multiple of the dtype's alignment.  0 only for an\n"
         "    array without elements.\n"
         "shape : int or tuple of int\n"
         "dtype : dtype-like\n"
         "    Not one that holds Python objects.  None is float64.\n"
         "strides : int or tuple of int, optional\n"
         "    In bytes, also negative.  Default C order.\n"
         "readonly : bool\n"
         "    No view of the array can be made writable.\n"
         "free : callable, ctypes function pointer or capsule, optional\n"
         "    Runs once, after the last view is gone, in whatever thread that is.  A callable\n"
         "    is called with the address.  A ctypes function pointer, and the one in a\n"
         "    capsule named 'sharena.destructor', is called in C as ``void (*)(void *)``,\n"
         "    whatever its argtypes, without the GIL (with it if it is of `ctypes.PyDLL` or\n"
         "    `ctypes.PYFUNCTYPE`).  An exception goes to `sys.unraisablehook`.\n"
         "owner : object, optional\n"
         "    Kept alive until `free` has run.  None keeps nothing.\n\n"
         "Returns\n-------\n"
         "numpy.ndarray\n"
         "    That the memory is there, and as large, nobody can check.\n\n"
         "Raises\n------\n"
         "TypeError, ValueError\n"
         "    An argument, which the message names.  Nothing was freed then: the memory is\n"
         "    still the caller's."),
    FAST(share, "share($module, /, a, readonly=False)\n--\n\n"
                "A view of an array in shared memory; one that is not there is copied in.\n\n"
                "With ``readonly`` the view and every view of it can't be written, here and in\n"
                "any process it is sent to; the array it was made from can."),
    FAST(handle,
         "handle($module, /, a, uses=1)\n--\n\n"
         "About a hundred bytes that `attach` turns into this array in another process.\n\n"
         "Parameters\n----------\n"
         "a : numpy.ndarray\n    Any view of an array in shared memory.\n"
         "uses : int\n"
         "    How many loads (1 to 65535) the handle keeps the array for.  Later ones work\n"
         "    as long as somebody has the array.\n\n"
         "Raises\n------\n"
         "ValueError\n    Not in shared memory, empty, or of a dtype NumPy does not define.\n"
         "TooManyHandlesError, TooManyProcessesError"),
    FAST(reduce_array,
         "reduce_array($module, /, a, fallback=None)\n--\n\n"
         "The reducer for picklers that talk to other processes of this machine.\n\n"
         "A shared array becomes a call of `rebuild_array`; any other one what\n"
         "``fallback(a)`` returns, or without it what pickle would make of it."),
    FAST(loads, "loads($module, data, /, *, fix_imports=True, encoding='ASCII',\n"
                "      errors='strict', buffers=())\n--\n\n"
                "`pickle.loads` for messages of other processes.\n\n"
                "An object that can't be put together because an array in it was lost arrives\n"
                "as a `Lost`.  What is unpickled may run twice then."),
    {"reduce_block", ext_reduce_block, METH_O,
     "reduce_block($module, block, /)\n--\n\n"
     "The same for a `Block`: a call of `rebuild_array` that gives its bytes.  What lies in\n"
     "it has no value that could be copied, so there is no other way."},
    {"_block_of", ext_block_of, METH_O,
     "_block_of($module, a, /)\n--\n\n"
     "The `Block` under an array that was made in shared memory or came by handle."},
    {"_lock_over", ext_lock_over, METH_VARARGS,
     "_lock_over($module, a, offset, /)\n--\n\n"
     "The `RLock` at a byte of the block under an array; a `Lost` as it is."},
    {"latest_lost", ext_latest_lost, METH_NOARGS,
     "latest_lost($module, /)\n--\n\n"
     "The last `Lost` that was made in the load under way in this thread, or None."},
    {"is_shared", ext_is_shared, METH_O,
     "is_shared($module, a, /)\n--\n\n"
     "Whether `multiprocessing`'s pickler sends the object by handle (outside `by_value`).\n\n"
     "True for an ndarray that lies wholly within one block of shared memory.  Found by\n"
     "address, so any view counts.  Also for a matrix, recarray, chararray or masked\n"
     "array there (its mask too, if it has one); False for other subclasses of ndarray."},
    {"by_handle", ext_by_handle, METH_O,
     "by_handle($module, a, /)\n--\n\n"
     "`is_shared`, and not inside `by_value`."},
    {"attach", ext_attach, METH_O,
     "attach($module, handle, /)\n--\n\n"
     "The array that a handle names, in this process.\n\n"
     "Raises\n------\n"
     "StaleHandleError\n    Nobody kept the array.\n"
     "HeapNotFoundError, RemoteHandleError, TooManyProcessesError\n"
     "ValueError\n    The bytes are no handle."},
    {"_weak_handle", ext_weak_handle, METH_O,
     "_weak_handle($module, a, /)\n--\n\n"
     "A handle that keeps nothing: `attach` takes it while somebody holds the array."},
    {"sent", ext_sent_counts, METH_NOARGS,
     "sent($module, /)\n--\n\n"
     "How many arrays, and bytes of array data, this process has sent by handle and by\n"
     "value."},
    /* For _transit.py; its docstrings say what they are for. */
    FAST(dumps, "dumps($module, /, cls, obj, protocol=None)\n--\n\n"
                "`ForkingPickler.dumps`: the bytes of a message, which know its arrays."),
    {"_own_pickling", ext_own_pickling, METH_VARARGS,
     "Take over ForkingPickler's work: its class, its base, both tables, and the default "
     "protocol."},
    {"_set_keepers", ext_set_keepers, METH_VARARGS,
     "Code that may be the only owner of what it pickles, and who decides whether it is."},
    {"_dumps_with", ext_dumps_with, METH_VARARGS,
     "`dumps` by the pickler that a function makes of the file it is given."},
    {"_dump", ext_dump, METH_VARARGS, "`ForkingPickler.dump`."},
    {"_send_message", ext_send_message, METH_VARARGS,
     "Send bytes of `dumps` to a descriptor; False if they hold no arrays of ours."},
    {"_launch", ext_launch, METH_VARARGS,
     "Call `Popen._launch`: the arrays among the arguments belong to the child."},
    {"_keep_handles", ext_keep_handles, METH_O,
     "Note that these bytes were taken out of a channel without being loaded."},
    {"_place_of", ext_judge_place_of, METH_O,
     "_place_of($module, fd, /)\n--\n\n"
     "(kind, id, where) of a message written to the descriptor; the kind is 'loose' in\n"
     "doubt."},
    {"_place_of_child", ext_judge_place_of_child, METH_O,
     "_place_of_child($module, pid, /)\n--\n\n"
     "The place of a message for a process that was just started."},
    {"_unreadable", EXT_METHOD(ext_judge_unreadable), METH_VARARGS | METH_KEYWORDS,
     "_unreadable($module, /, places, members, mode=0o600, patient=False)\n--\n\n"
     "Of each place, whether certainly nobody can read it any more.  Members are the live\n"
     "processes of the heap: (pid, guests, inode of the pid namespace)."},
    {"_reader", ext_judge_reader_of, METH_O,
     "_reader($module, place, /)\n--\n\n"
     "A sentence saying who can still read it, or ''."},
    {"_obstacle", ext_judge_obstacle_of, METH_NOARGS,
     "_obstacle($module, /)\n--\n\n"
     "What kept the last `_unreadable` from a verdict, or ''."},
    /* For _policy.py. */
    {"_policy_refusals", ext_policy_refusals, METH_NOARGS,
     "_policy_refusals($module, /)\n--\n\n"
     "How often the heap refused what NumPy released: never, if all is well."},
    {"_allocate_always", ext_policy_always, METH_VARARGS,
     "Put what NumPy's default handler allocates into a heap: (heap, align, min_bytes), or\n"
     "() for where NumPy puts it."},
    {NULL, NULL, 0, NULL},
};

/* ---- imported again ---- */

/* The module that other libraries have functions of, borrowed while it lives; and whose it is,
 * for CPython before 3.12 lets other interpreters import this module, too. */
static PyObject *first;
static PyInterpreterState *first_interpreter;

static int is_dunder(PyObject *name)
{
    return PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) > 1 &&
           PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_';
}

/* Makes the module another view of the first one: its functions and types, one state.  With
 * two, every array would be counted twice, and each heap be of another type than before.  The
 * package's modules that have registered something come back, too. */
static int follow(PyObject *module)
{
    PyObject *key, *value, *loaded = NULL;
    Py_ssize_t at = 0;
    while (PyDict_Next(PyModule_GetDict(first), &at, &key, &value)) {
        if (is_dunder(key) && PyUnicode_CompareWithASCIIString(key, "__version__") != 0)
            continue;
        if (PyDict_SetItem(PyModule_GetDict(module), key, value) < 0)
            return -1;
        if (PyUnicode_CompareWithASCIIString(key, "_loaded") == 0)
            loaded = value;
    }
    return loaded == NULL ? 0 : PyDict_Merge(PyImport_GetModuleDict(), loaded, 0);
}

/* ---- state ---- */

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    ext_state *st = ext_state_of(module);
    if (st == NULL)
        return 0;
    for (int i = 0; i < EXT_ERROR_COUNT; i++)
        Py_VISIT(st->errors[i]);
    Py_VISIT(st->heap_type);
    Py_VISIT(st->block_type);
    Py_VISIT(st->lost_type);
    Py_VISIT(st->by_value_type);
    Py_VISIT(st->lock_type);
    Py_VISIT(st->rebuild_type);
    Py_VISIT(st->message_type);
    Py_VISIT(st->dispatch_type);
    Py_VISIT(st->forking);
    Py_VISIT(st->pickler);
    Py_VISIT(st->pickler_dump);
    Py_VISIT(st->reducers);
    Py_VISIT(st->copyreg);
    Py_VISIT(st->keeps_bytes);
    Py_VISIT(st->keepers);
    Py_VISIT(st->reduce_array);
    Py_VISIT(st->reduce_block);
    Py_VISIT(st->table_member);
    Py_VISIT(st->stock_loads);
    Py_VISIT(st->subclasses);
    Py_VISIT(st->waiting_type);
    Py_VISIT(st->stats_type);
    Py_VISIT(st->class_type);
    Py_VISIT(st->process_type);
    Py_VISIT(st->ticket_type);
    Py_VISIT(st->block_info_type);
    Py_VISIT(st->foreign_type);
    Py_VISIT(st->default_heap);
    Py_VISIT(st->by_value);
    Py_VISIT(st->lost_memory);
    return 0;
}

static int clear(PyObject *module)
{
    ext_state *st = ext_state_of(module);
    if (st == NULL)
        return 0;
    st->default_arena = NULL;
    ext_capi_end(module);
    if (first == module)
        first = NULL;
    for (int i = 0; i < EXT_ERROR_COUNT; i++)
        Py_CLEAR(st->errors[i]);
    Py_CLEAR(st->default_heap);
    Py_CLEAR(st->lost_memory);
    Py_CLEAR(st->by_value);
    Py_CLEAR(st->float64);
#ifndef Py_GIL_DISABLED
    for (int i = 0; i < EXT_DTYPE_CACHE; i++) {
        Py_CLEAR(st->dtypes[i].key);
        Py_CLEAR(st->dtypes[i].descr);
    }
#endif
    Py_CLEAR(st->heap_type);
    Py_CLEAR(st->block_type);
    Py_CLEAR(st->lost_type);
    Py_CLEAR(st->by_value_type);
    Py_CLEAR(st->lock_type);
    Py_CLEAR(st->rebuild_type);
    Py_CLEAR(st->message_type);
    Py_CLEAR(st->dispatch_type);
    Py_CLEAR(st->forking);
    Py_CLEAR(st->pickler);
    Py_CLEAR(st->pickler_dump);
    Py_CLEAR(st->reducers);
    Py_CLEAR(st->copyreg);
    Py_CLEAR(st->name_dump);
    Py_CLEAR(st->name_dispatch);
    Py_CLEAR(st->keeps_bytes);
    Py_CLEAR(st->keepers);
    Py_CLEAR(st->reduce_array);
    Py_CLEAR(st->reduce_block);
    Py_CLEAR(st->table_member);
    Py_CLEAR(st->stock_loads);
    Py_CLEAR(st->subclasses);
    Py_CLEAR(st->waiting_type);
    Py_CLEAR(st->stats_type);
    Py_CLEAR(st->class_type);
    Py_CLEAR(st->process_type);
    Py_CLEAR(st->ticket_type);
    Py_CLEAR(st->block_info_type);
    Py_CLEAR(st->foreign_type);
    ext_block_clear();
    return 0;
}

static void release(void *module)
{
    (void)clear(module);
}

/* ---- import ---- */

static int read_environment(ext_state *st)
{
    const char *trace = getenv("SHARENA_TRACE"), *warn = getenv("SHARENA_WARN_BYVALUE");
    uint64_t bytes;
    st->trace = trace != NULL && trace[0] != '\0' && strcmp(trace, "0") != 0;
    if (warn == NULL || warn[0] == '\0')
        return 0;
    if (ext_size_text(warn, &bytes) == 0) {
        st->warn_bytes = bytes == 0 ? 1 : (Py_ssize_t)bytes;
        return 0;
    }
    return PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                            "SHARENA_WARN_BYVALUE=%s is no size, such as 1MiB, and has no "
                            "effect",
                            warn);
}

/* For `_reducers.install()`: the package's modules, once it has run. */
static int add_loaded(PyObject *module)
{
    PyObject *loaded = PyDict_New();
    int status = loaded == NULL ? -1 : PyModule_AddObjectRef(module, "_loaded", loaded);
    Py_XDECREF(loaded);
    return status;
}

static int run(PyObject *module)
{
    ext_state *st = ext_state_of(module);
    if (first != NULL && first_interpreter == PyInterpreterState_Get())
        return follow(module);
    import_array1(-1);
    if (ext_policy_init() < 0)
        return -1;
    st->float64 = PyArray_DescrFromType(NPY_DOUBLE);
    if (ext_errors_init(st, module) < 0 || ext_records_init(st, module) < 0 ||
        ext_block_init(st, module) < 0 || ext_heap_init(st, module) < 0 ||
        ext_lost_init(st, module) < 0 || ext_reduce_init(st, module) < 0 ||
        ext_message_init(st, module) < 0 || ext_dumps_init(st, module) < 0 ||
        ext_receive_init(st, module) < 0 || ext_share_init(st, module) < 0 ||
        ext_policy_scope_init(st, module) < 0 || ext_foreign_init(st, module) < 0 ||
        ext_capi_init(module) < 0 || ext_lock_init(st, module) < 0 ||
        PyModule_AddStringConstant(module, "__version__", SHARENA_VERSION) < 0 ||
        PyModule_AddIntConstant(module, "_FORMAT", SHARENA_FORMAT) < 0 ||
        add_loaded(module) < 0 || read_environment(st) < 0)
        return -1;
    sharena_set_interrupt(interrupted, NULL);
    sharena_set_judge(judge, NULL);
    ext_judge_set_interrupt(judge_interrupted);
    /* So that every descendant finds the same heap.  A failure is not the import's: who
     * needs the default heap tries again, and gets the error. */
    if (ext_default_heap(st) == NULL)
        PyErr_Clear();
    first = module;
    first_interpreter = PyInterpreterState_Get();
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, run},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sharena._core",
    .m_doc = "The heap's arrays, handles and reports.",
    .m_size = sizeof(ext_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
