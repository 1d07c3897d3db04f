/* What the files of the extension share.
 *
 * The ladder, each file calling only downward:
 *   module · policy, capi · create, convert, load, from_address · flat_list · transit, dumps, receive ·
 *   reduce · message · share, lock · heap_type, heap_open, heap_report, heap_waiting, heap_names,
 *   default_heap · judge_py · records · array_handle, description, dtype_code · lost ·
 *   load_scope · foreign · array_new · arguments, frame · block · arena · errors; no Python: judge.h
 *
 * Locking: with the GIL, whatever runs between two points that may release it is atomic.
 * Without the GIL (CPython 3.13t and later) the shared structures are guarded by the
 * mutex and the atomic counters below.  No core call is made with the mutex held.
 */
#ifndef SHARENA_EXT_H
#define SHARENA_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL sharena_ARRAY_API
#ifndef EXT_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include <stdint.h>

#include "sharena/sharena.h"

/* From this size on a call may take long enough to let other threads run meanwhile. */
#define EXT_BLOCKING_BYTES ((size_t)1 << 20)
#define EXT_LARGE_BYTES ((size_t)64 << 10) /* from here on blocks may lie at hand in the core */

#define EXT_METHOD(f) ((PyCFunction)(void (*)(void))(f))

/* ---- errors.c ---- */

/* X(enumerator, Python name, base, second base, docstring) */
#define EXT_ERRORS(X)                                                                            \
    X(ERROR, SharenaError, PyExc_Exception, NULL, "Base class of sharena's errors.")             \
    X(STALE, StaleHandleError, base, NULL,                                                       \
      "The array that a handle names is gone: nobody held it any more.")                         \
    X(CORRUPT, CorruptHeapError, base, NULL, "The heap's metadata is damaged.")                  \
    X(FULL, HeapFullError, base, PyExc_MemoryError,                                              \
      "The heap, its file system or the machine has no room for the request.")                   \
    X(NOT_FOUND, HeapNotFoundError, base, PyExc_FileNotFoundError, "No such heap.")              \
    X(EXISTS, HeapExistsError, base, PyExc_FileExistsError,                                      \
      "A heap of this name exists already.")                                                     \
    X(PERMISSION, HeapPermissionError, base, PyExc_PermissionError,                              \
      "The heap belongs to another user.")                                                       \
    X(NOT_A_HEAP, NotAHeapError, base, NULL, "The file is not a sharena heap.")                  \
    X(VERSION, HeapVersionError, base, NULL, "The heap has another format version.")             \
    X(PROCESSES, TooManyProcessesError, base, NULL, "Too many processes use the heap.")          \
    X(HANDLES, TooManyHandlesError, base, NULL, "Too many handles are in flight.")               \
    X(NAMES, TooManyNamesError, base, NULL, "The heap's table of names is full.")                \
    X(BUSY, HeapBusyError, base, NULL, "Other processes are in the way.")                        \
    X(SYSTEM, HeapSystemError, base, PyExc_OSError, "A system call failed.")                     \
    X(REMOTE, RemoteHandleError, base, NULL, "The handle comes from another machine.")           \
    X(CLOSED, HeapClosedError, base, PyExc_ValueError, "The heap was closed.")                   \
    X(BY_VALUE, ByValueWarning, PyExc_RuntimeWarning, NULL,                                      \
      "A large array travelled to another process by value.")

enum ext_error {
#define EXT_ERROR_ENUM(id, name, base, second, text) EXT_##id,
    EXT_ERRORS(EXT_ERROR_ENUM)
#undef EXT_ERROR_ENUM
};
#define EXT_ERROR_COUNT (EXT_BY_VALUE + 1)

typedef struct ext_state ext_state;

int ext_errors_init(ext_state *, PyObject *module);
/* Sets the exception for a core code with the core's sentence; returns NULL. */
PyObject *ext_raise(ext_state *, int code);
/* The same, and for the default heap how its limit is set. */
struct ext_arena;
PyObject *ext_raise_in(ext_state *, const struct ext_arena *, int code);

/* ---- arena.c: one heap that this process has attached ---- */

/* Every Heap object and every Block holds one reference; the last one detaches. */
typedef struct ext_arena {
    struct ext_arena *next; /* registry */
    sharena_heap *core;
    Py_ssize_t references; /* by the ext_count_ functions only */
    int pinned;            /* the registry itself holds one reference */
    uint8_t uuid[16];
} ext_arena;

/* Takes over one attachment of `core`; a new reference, or NULL with MemoryError. */
ext_arena *ext_arena_adopt(sharena_heap *core);
ext_arena *ext_arena_by_uuid(const uint8_t uuid[16]); /* new reference or NULL */
ext_arena *ext_arena_of(const sharena_heap *core);    /* new reference or NULL */
void ext_arena_end(ext_arena *); /* by ext_arena_unref(), after the last reference */
/* Keeps the heap attached for the life of the process: a handle to it is on its way, or
 * nobody has a Heap object for it. */
void ext_arena_pin(ext_arena *);
void ext_arena_unpin(ext_arena *);

#ifdef Py_GIL_DISABLED
#define EXT_COUNT_ADD(counter, n) __atomic_fetch_add((counter), (n), __ATOMIC_RELAXED)
#define EXT_COUNT_DROP(counter) __atomic_sub_fetch((counter), 1, __ATOMIC_ACQ_REL)
#else
#define EXT_COUNT_ADD(counter, n) (*(counter) += (n))
#define EXT_COUNT_DROP(counter) (--*(counter))
#endif

static inline ext_arena *ext_arena_ref(ext_arena *arena)
{
    EXT_COUNT_ADD(&arena->references, 1);
    return arena;
}

static inline void ext_arena_unref(ext_arena *arena)
{
    if (EXT_COUNT_DROP(&arena->references) == 0)
        ext_arena_end(arena);
}

/* While set in a thread, the interrupt callback leaves signals alone.  In the static TLS
 * block, since every release of an array passes it. */
#define EXT_TLS __attribute__((tls_model("initial-exec")))
extern _Thread_local int ext_uninterruptible EXT_TLS;
/* Whether this thread may wait for the judge (judge.h), a second or so: it holds no GIL. */
extern _Thread_local int ext_patient EXT_TLS;

/* ---- module state ---- */

#define EXT_DTYPE_CACHE 16 /* a power of two; a program uses a handful of dtypes */

typedef struct ext_sent {
    uint64_t handle_arrays, handle_bytes; /* bytes of array data, not of the message */
    uint64_t value_arrays, value_bytes;
} ext_sent;

struct ext_state {
    PyObject *errors[EXT_ERROR_COUNT];
    PyTypeObject *heap_type, *block_type, *lost_type, *by_value_type, *lock_type;
    PyTypeObject *rebuild_type; /* what handles are loaded by */
    PyTypeObject *message_type, *dispatch_type;
    PyObject *forking, *pickler, *pickler_dump; /* ForkingPickler, and what it is derived from */
    PyObject *reducers, *copyreg; /* tables of its reducers */
    PyObject *table_member; /* `dispatch_table` of the C pickler */
    PyObject *reduce_array, *reduce_block;
    int protocol; /* pickle.DEFAULT_PROTOCOL */
    PyObject *keepers; /* tuple of code objects that keeps_bytes is asked about */
    PyObject *name_dump, *name_dispatch; /* interned */
    PyObject *keeps_bytes; /* of a frame: are the bytes its own? */
    PyObject *stock_loads; /* pickle.loads */
    PyObject *subclasses; /* set of the subclasses of ndarray that go by handle */
    PyTypeObject *waiting_type, *stats_type, *class_type, *process_type, *ticket_type,
        *block_info_type, *foreign_type;
    PyObject *default_heap; /* Heap object or NULL */
    ext_arena *default_arena; /* its arena while it is open, borrowed */
    int default_made_here; /* not joined through the environment */
    int default_used; /* something was allocated in it, or it was exported */
    int trace; /* SHARENA_TRACE */
    unsigned made; /* small arrays, so far: sharena_tend() now and then */
    int warned_limit; /* that handles ran out */
    Py_ssize_t warn_bytes; /* SHARENA_WARN_BYVALUE, 0: never */
    ext_sent sent; /* by EXT_COUNT_ADD */
    PyObject *by_value; /* context variable: arrays travel by value */
    PyObject *lost_memory; /* the Lost of last resort */
    PyArray_Descr *float64;
#ifndef Py_GIL_DISABLED
    struct {
        PyObject *key;
        PyArray_Descr *descr;
    } dtypes[EXT_DTYPE_CACHE];
#endif
};

static inline ext_state *ext_state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

/* Of a method's object whose type, or a base of whose type, is ours. */
ext_state *ext_state_of_object(PyObject *);

/* ---- block.c ---- */

typedef struct {
    PyObject_HEAD void *start;
    size_t size_bytes; /* as far as the buffer reaches */
    ext_arena *arena;
    int readonly;
} ext_block;

int ext_block_init(ext_state *, PyObject *module);
void ext_block_clear(void); /* drops the free list */
PyObject *ext_block_failed(ext_arena *, const void *start, size_t size_bytes);

#ifndef Py_GIL_DISABLED
#define EXT_SPARE_BLOCKS 64 /* 3 KiB; arrays that are alive at once in a loop's body */
extern void *ext_spare[EXT_SPARE_BLOCKS];
extern int ext_spares;
#endif

/* Takes over one reference of the process to the block at `start`, and one to `arena`,
 * also on failure. */
static inline PyObject *ext_block_new(ext_state *st, ext_arena *arena, void *start,
                                      size_t size_bytes, int readonly)
{
    PyObject *self;
#ifndef Py_GIL_DISABLED
    if (ext_spares > 0)
        self = PyObject_Init(ext_spare[--ext_spares], st->block_type);
    else
#endif
        self = (PyObject *)PyObject_New(ext_block, st->block_type);
    if (self == NULL)
        return ext_block_failed(arena, start, size_bytes);
    ext_block *block = (ext_block *)self;
    block->start = start;
    block->size_bytes = size_bytes;
    block->arena = arena;
    block->readonly = readonly;
    return self;
}
/* Releases a core block that has no Block; may let other threads run. */
void ext_core_release(ext_arena *, const void *start, size_t size_bytes);

/* ---- arguments.c ---- */

#define EXT_MAX_ARGUMENTS 12

typedef struct {
    const char *function;
    int required, positional, total;
    const char *names[EXT_MAX_ARGUMENTS];
} ext_signature;

/* Sorts the arguments of a vectorcall into values[total], NULL where not given. */
int ext_arguments(const ext_signature *, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames, PyObject **values);

/* A shape: `nd` dimensions; negative ones are ext_array_new()'s to refuse. */
typedef struct {
    int nd;
    npy_intp dims[NPY_MAXDIMS];
} ext_shape;

int ext_shape_parse(PyObject *, ext_shape *);
/* New reference; NULL or None gives `fallback` (which may be NULL). */
int ext_dtype_parse(ext_state *, PyObject *, PyArray_Descr *fallback, PyArray_Descr **);
PyObject *ext_numpy(const char *name); /* numpy.name, a new reference */
int ext_device_check(PyObject *device);
int ext_like_check(PyObject *like);
/* The UTF-8 of a str that C can read: NULL with ValueError when it holds a NUL, which would
 * cut it, or a lone surrogate.  `what` is its name in the message. */
const char *ext_text(PyObject *, const char *what);
/* The same of a str or None (which gives NULL in *out), for the "O&" of PyArg_Parse. */
int ext_text_or_none(PyObject *, void *out);
/* Bytes from an int or a string such as "4GiB"; None leaves *out alone. */
int ext_size_parse(PyObject *, const char *what, uint64_t *out);
int ext_size_text(const char *, uint64_t *out); /* 0, or -1 without an exception */

/* ---- frame.c ---- */

/* The innermost frame outside sharena and the standard library's process machinery, as
 * a new reference, or NULL without an exception. */
PyObject *ext_user_frame(void);
void ext_trace(ext_arena *, const void *start);
int ext_warn_by_value(ext_state *, PyArrayObject *);

/* ---- load_scope.c ---- */

typedef struct ext_scope ext_scope;

/* Around one load of a message in this thread.  NULL without an exception: no memory. */
ext_scope *ext_scope_enter(void);
void ext_scope_leave(ext_scope *);
/* A handle was loaded, a Lost was made: noted in the innermost scope, if there is one. */
void ext_scope_keep(PyObject *handle, PyObject *block);
void ext_scope_note_lost(PyObject *lost);
/* The latest Lost of a scope, or with NULL of the innermost one: borrowed, or NULL. */
PyObject *ext_scope_lost(const ext_scope *);
/* The second pass begins: ext_scope_find() knows what the first one kept. */
int ext_scope_replay(ext_scope *);
PyObject *ext_scope_find(PyObject *handle); /* a Block, borrowed; NULL without an exception */

/* ---- array_new.c ---- */

/* A new array.  Takes over a reference to the arena and one to descr, also on failure.
 * strides: NULL for C, or with `fortran` Fortran order. */
PyArrayObject *ext_array_new(ext_state *, ext_arena *, PyArray_Descr *descr, int nd,
                             const npy_intp *dims, const npy_intp *strides, int fortran,
                             unsigned flags);
/* The same, laid out like `model` under `order`. */
PyArrayObject *ext_array_like(ext_state *, ext_arena *, PyArray_Descr *descr,
                              PyArrayObject *model, NPY_ORDER order, unsigned flags);
/* An array over memory of a Block; steals descr and block, also on failure. */
PyArrayObject *ext_array_over(PyObject *block, PyArray_Descr *descr, int nd, const npy_intp *dims,
                              const npy_intp *strides, void *data, int writeable);
int ext_dtype_check(PyArray_Descr *); /* 0, or -1 with the TypeError for objects */

/* ---- flat_list.c ---- */

#ifndef Py_GIL_DISABLED
/* np.array(object) in the heap that heap= names, for a list or tuple that holds only floats
 * or only ints.  NULL without an exception: it is no such thing. */
PyArrayObject *ext_array_of_numbers(ext_state *, PyObject *object, PyObject *heap);
#endif

/* ---- convert.c ---- */

/* A copy of any array-like; takes over a reference to the arena, also on failure. */
PyArrayObject *ext_copy_in(ext_state *, ext_arena *, PyObject *);

/* ---- dtype_code.c, description.c, array_handle.c ---- */

typedef struct {
    uint8_t *bytes; /* `small` or private memory */
    size_t used, room;
    uint8_t small[256]; /* enough for all but structured dtypes */
} ext_writer;

typedef struct {
    const uint8_t *next, *end;
} ext_reader;

void ext_writer_init(ext_writer *);
int ext_writer_grow(ext_writer *, size_t); /* room for so many bytes more */
void ext_writer_free(ext_writer *);

/* -1 with MemoryError.  These two are inline: mostly the size is a constant. */
static inline int ext_write(ext_writer *w, const void *data, size_t size)
{
    if (size == 0) /* then data may be NULL: the dimensions of a scalar */
        return 0;
    if (size > w->room - w->used && ext_writer_grow(w, size) < 0)
        return -1;
    memcpy(w->bytes + w->used, data, size);
    w->used += size;
    return 0;
}

/* -1 without an exception when short. */
static inline int ext_read(ext_reader *r, void *out, size_t size)
{
    if (size > (size_t)(r->end - r->next))
        return -1;
    memcpy(out, r->next, size);
    r->next += size;
    return 0;
}

/* 1: written; 0: this dtype has no code; -1: exception.  strict: metadata counts as
 * something that has no code, otherwise it is left out. */
int ext_dtype_write(ext_writer *, PyArray_Descr *, int strict);
/* NULL with ValueError. */
PyArray_Descr *ext_dtype_read(ext_reader *);

/* Where an array lies in a block, in words of a message. */
typedef struct {
    PyArray_Descr *descr; /* owned; NULL: travels beside */
    int nd, writeable, has_strides;
    int64_t offset; /* of element [0, ..., 0] from the block's start */
    npy_intp dims[NPY_MAXDIMS], strides[NPY_MAXDIMS];
} ext_description;

enum ext_beside { EXT_DTYPE_INSIDE, EXT_DTYPE_BESIDE_ALLOWED };

/* As ext_dtype_write; 2: written, and the dtype must travel beside. */
int ext_description_write(ext_writer *, PyArrayObject *, const void *block_start,
                          enum ext_beside);
int ext_description_read(ext_reader *, ext_description *);
void ext_description_clear(ext_description *);
/* Checks the bounds and makes the array; takes over the process's reference to the block
 * and one to the arena, also on failure. */
PyArrayObject *ext_description_apply(ext_state *, ext_description *, ext_arena *,
                                     const sharena_block *);
/* The same over a Block that is there already. */
PyArrayObject *ext_description_over(ext_description *, PyObject *block);

/* The block of an array that lies wholly within one.  1: found, with a new reference to
 * its arena in *arena; 0: not shared. */
int ext_locate(PyArrayObject *, ext_arena **arena, sharena_block *);
/* The same, and it was not made by allocate_always() for this process's own use. */
int ext_locate_shared(PyArrayObject *, ext_arena **arena, sharena_block *);

struct ext_message;
/* Handle bytes for an array: 1 and *out; 0: not shared, or its dtype has no code; -1.
 * For one load as a part of the message, or without one for `uses` loads; 0: a weak one.
 * *dtype: new reference to the dtype that must travel beside, or NULL; a NULL pointer
 * forbids that. */
int ext_handle_make(ext_state *, PyArrayObject *, unsigned uses, struct ext_message *,
                    PyObject **out, PyObject **dtype);
/* Whatever handles are in these bytes are of unknown channel from now on. */
void ext_handles_keep(ext_state *, const uint8_t *bytes, size_t size);
/* Gives back what a handle that was never sent would have covered. */
void ext_handle_give_back(PyObject *bytes);
PyObject *ext_handle_load(ext_state *, PyObject *bytes, PyObject *dtype);
/* The same from the Block that an earlier load of these bytes made, without a look at the
 * heap. */
PyObject *ext_handle_load_over(PyObject *bytes, PyObject *dtype, PyObject *block);

/* ---- lost.c ---- */

int ext_lost_init(ext_state *, PyObject *module);
/* Turns the current exception into a Lost; never fails. */
PyObject *ext_lost_from_error(ext_state *);

/* ---- records.c ---- */

int ext_records_init(ext_state *, PyObject *module);
/* One record; consumes the values, of which any may be NULL with an exception. */
PyObject *ext_record(PyTypeObject *, PyObject **values, int count);
const char *ext_place_text(uint32_t kind);
uint64_t ext_place_channel(const sharena_place *); /* its number, for people */

/* ---- heap_type.c and its companions ---- */

typedef struct {
    PyObject_HEAD ext_arena *arena; /* NULL: closed */
    PyObject *name; /* str or None */
    uint8_t uuid[16];
    uint64_t limit_bytes; /* 0: not read yet */
} ext_heap;

int ext_heap_init(ext_state *, PyObject *module);
/* Takes over one attachment of `core`. */
PyObject *ext_heap_new(ext_state *, sharena_heap *core);
/* New reference, or NULL with HeapClosedError. */
ext_arena *ext_heap_arena(ext_state *, ext_heap *);
/* The arena that heap= names, a new reference; NULL and None: the default heap. */
ext_arena *ext_heap_choose(ext_state *, PyObject *heap);
int ext_closed(ext_state *, ext_heap *); /* sets HeapClosedError, returns -1 */

/* Takes over a reference to the arena. */
PyObject *ext_heap_over(ext_state *, ext_arena *);
int ext_uuid_parse(const char *text, uint8_t uuid[16]); /* -1 without an exception */
PyObject *ext_uuid_text(const uint8_t uuid[16]);
PyObject *ext_heap_repr(PyObject *);
int ext_heap_read(ext_state *, ext_heap *, sharena_stats *);

PyObject *ext_heap_create(PyObject *, PyObject *, PyObject *);
PyObject *ext_heap_attach(PyObject *, PyObject *, PyObject *);

PyObject *ext_heap_stats(PyObject *, PyObject *);
PyObject *ext_heap_waiting(ext_state *, ext_arena *); /* heap_waiting.c */
PyObject *ext_heap_check(PyObject *, PyObject *);
PyObject *ext_heap_processes(PyObject *, PyObject *);
PyObject *ext_heap_blocks(PyObject *, PyObject *, PyObject *);
PyObject *ext_heap_tickets(PyObject *, PyObject *);

PyObject *ext_heap_keys(PyObject *, PyObject *);
PyObject *ext_heap_iter(PyObject *);
Py_ssize_t ext_heap_length(PyObject *);
int ext_heap_contains(PyObject *, PyObject *);
PyObject *ext_heap_get(PyObject *, PyObject *);
int ext_heap_set(PyObject *, PyObject *, PyObject *);

/* The default heap, made or joined when there is none yet; borrowed. */
PyObject *ext_default_heap(ext_state *);
/* A handle to another process's default heap arrived: join it if ours is unused. */
void ext_default_offer(ext_state *, ext_arena *);
void ext_default_closed(ext_state *, ext_heap *);

/* ---- functions of the module ---- */

int ext_reduce_init(ext_state *, PyObject *module);
int ext_dumps_init(ext_state *, PyObject *module);
int ext_receive_init(ext_state *, PyObject *module);
int ext_share_init(ext_state *, PyObject *module);

#define EXT_FAST(name) PyObject *ext_##name(PyObject *, PyObject *const *, Py_ssize_t, PyObject *)
EXT_FAST(empty);
EXT_FAST(zeros);
EXT_FAST(ones);
EXT_FAST(full);
EXT_FAST(empty_like);
EXT_FAST(zeros_like);
EXT_FAST(ones_like);
EXT_FAST(full_like);
EXT_FAST(array);
EXT_FAST(asarray);
EXT_FAST(ascontiguousarray);
EXT_FAST(copy);
EXT_FAST(load);
EXT_FAST(share);
EXT_FAST(handle);
EXT_FAST(reduce_array);
EXT_FAST(dumps);
PyObject *ext_is_shared(PyObject *, PyObject *);
PyObject *ext_by_handle(PyObject *, PyObject *);
PyObject *ext_attach(PyObject *, PyObject *);
PyObject *ext_sent_counts(PyObject *, PyObject *);
EXT_FAST(loads);
PyObject *ext_latest_lost(PyObject *, PyObject *);

/* ---- judge_py.c ---- */

PyObject *ext_judge_place_of(PyObject *, PyObject *);
PyObject *ext_judge_place_of_child(PyObject *, PyObject *);
PyObject *ext_judge_reader_of(PyObject *, PyObject *);
PyObject *ext_judge_obstacle_of(PyObject *, PyObject *);
PyObject *ext_judge_unreadable(PyObject *, PyObject *, PyObject *);

#endif
