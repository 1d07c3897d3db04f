/* Handles of arrays: about a hundred bytes that name a view of a block.
 *
 *   "Sha" 2 · flags (1) · length of the heap's name (1) · sharena_handle (64) · name ·
 *   description (description.c)
 *
 * The name is there for processes that can't reach the backing file through any process
 * that has it open.  The flag DEFAULT says that the heap is its sender's default heap,
 * which a receiver whose own default heap is untouched then joins (default_heap.c).
 */
#include "message.h"

#include "sharena/registry.h"

#define MAGIC "Sha\2"
#define HANDLE_AT 6 /* offset of the sharena_handle */
#define DEFAULT 1u
#define NAME_MAX_BYTES 64

_Static_assert(sizeof(sharena_handle) == 64, "the size is part of the format");

static int write_head(ext_state *st, ext_writer *w, const ext_arena *arena)
{
    const char *name = sharena_name(arena->core);
    size_t length = name == NULL ? 0 : strlen(name);
    sharena_handle none = {0};
    uint8_t head[HANDLE_AT] = MAGIC;
    head[4] = arena == st->default_arena ? DEFAULT : 0;
    head[5] = (uint8_t)(length > NAME_MAX_BYTES ? 0 : length);
    if (ext_write(w, head, sizeof head) < 0 || ext_write(w, &none, sizeof none) < 0)
        return -1;
    return ext_write(w, name == NULL ? "" : name, head[5]);
}

/* Everything but the handle itself, so that nothing is exported when the dtype has no
 * code. */
static int make(ext_state *st, PyArrayObject *array, ext_arena *arena, const sharena_block *block,
                unsigned uses, ext_message *message, int beside_allowed, PyObject **out)
{
    ext_writer w;
    ext_writer_init(&w);
    int status = write_head(st, &w, arena);
    if (status == 0)
        status = ext_description_write(&w, array, block->start,
                                       beside_allowed ? EXT_DTYPE_BESIDE_ALLOWED
                                                      : EXT_DTYPE_INSIDE);
    PyObject *bytes = NULL;
    if (status > 0) {
        bytes = PyBytes_FromStringAndSize((const char *)w.bytes, (Py_ssize_t)w.used);
        if (bytes == NULL)
            status = -1;
    }
    ext_writer_free(&w);
    if (status <= 0)
        return status;
    sharena_handle handle;
    int code = message != NULL ? ext_message_export(message, arena, block, &handle)
               : uses == 0     ? sharena_export_weak(arena->core, block->start, &handle)
                               : sharena_export(arena->core, block->start, uses, &handle);
    if (code != 0) {
        Py_DECREF(bytes);
        ext_raise(st, code);
        return -1;
    }
    memcpy(PyBytes_AS_STRING(bytes) + HANDLE_AT, &handle, sizeof handle);
    *out = bytes;
    return status;
}

int ext_handle_make(ext_state *st, PyArrayObject *array, unsigned uses, ext_message *message,
                    PyObject **out, PyObject **dtype)
{
    ext_arena *arena;
    sharena_block block;
    if (!ext_locate_shared(array, &arena, &block))
        return 0;
    int status = make(st, array, arena, &block, uses, message, dtype != NULL, out);
    if (status > 0) {
        ext_arena_pin(arena); /* the receiver may come to us for the file */
        if (arena == st->default_arena)
            st->default_used = 1;
        if (dtype != NULL)
            *dtype = status == 2 ? Py_NewRef((PyObject *)PyArray_DESCR(array)) : NULL;
        status = 1;
    }
    ext_arena_unref(arena);
    return status;
}

void ext_handle_give_back(PyObject *bytes)
{
    sharena_handle handle;
    memcpy(&handle, PyBytes_AS_STRING(bytes) + HANDLE_AT, sizeof handle);
    ext_arena *arena = ext_arena_by_uuid(handle.heap);
    if (arena == NULL)
        return;
    (void)sharena_give_back(arena->core, &handle);
    ext_arena_unref(arena);
}

/* ---- loading ---- */

typedef struct {
    unsigned flags;
    sharena_handle handle;
    char name[NAME_MAX_BYTES + 1];
    ext_description array;
} message;

static int read_head(ext_reader *r, message *m)
{
    uint8_t head[HANDLE_AT];
    if (ext_read(r, head, sizeof head) < 0 || memcmp(head, MAGIC, 3) != 0) {
        PyErr_SetString(PyExc_ValueError, "these bytes are no handle of sharena's");
        return -1;
    }
    if (head[3] != MAGIC[3]) {
        PyErr_Format(PyExc_ValueError,
                     "this handle has format %d, this version of sharena reads format %d; "
                     "use the same version on both sides",
                     head[3], MAGIC[3]);
        return -1;
    }
    m->flags = head[4];
    if ((m->flags & ~DEFAULT) != 0 || head[5] > NAME_MAX_BYTES ||
        ext_read(r, &m->handle, sizeof m->handle) < 0 || ext_read(r, m->name, head[5]) < 0) {
        PyErr_SetString(PyExc_ValueError, "this handle is damaged or cut short");
        return -1;
    }
    m->name[head[5]] = '\0';
    return 0;
}

static int read_message(ext_reader *r, message *m)
{
    return read_head(r, m) < 0 ? -1 : ext_description_read(r, &m->array);
}

/* The heap by its name, which another heap may bear by now. */
static ext_arena *attach_by_name(const message *m)
{
    sharena_heap *core;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_attach(m->name, &core);
    Py_END_ALLOW_THREADS
    if (code != 0)
        return NULL;
    ext_arena *arena = ext_arena_adopt(core);
    if (arena != NULL && memcmp(arena->uuid, m->handle.heap, sizeof arena->uuid) != 0) {
        ext_arena_unref(arena);
        arena = NULL;
    }
    return arena;
}

static ext_arena *find_heap(ext_state *st, const message *m)
{
    ext_arena *arena = ext_arena_by_uuid(m->handle.heap);
    if (arena != NULL)
        return arena;
    sharena_heap *core;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_attach_handle(&m->handle, &core);
    Py_END_ALLOW_THREADS
    if (code == 0) {
        arena = ext_arena_adopt(core);
    } else {
        ext_raise(st, code);
        if (m->name[0] != '\0' && PyErr_ExceptionMatches(PyExc_Exception))
            arena = attach_by_name(m);
        if (arena != NULL)
            PyErr_Clear();
    }
    if (arena != NULL)
        ext_arena_pin(arena);
    return arena;
}

/* Found by their first bytes.  What only looks like a handle names no live ticket. */
void ext_handles_keep(ext_state *st, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = bytes + size;
    while (bytes != NULL &&
           (bytes = memmem(bytes, (size_t)(end - bytes), MAGIC, sizeof MAGIC - 1)) != NULL) {
        ext_reader reader = {bytes, end};
        message m;
        ext_arena *arena = NULL;
        if (read_head(&reader, &m) == 0)
            arena = find_heap(st, &m); /* one that forwards need not use it itself */
        PyErr_Clear();
        bytes++;
        if (arena == NULL)
            continue;
        (void)sharena_handle_keep(arena->core, &m.handle);
        ext_arena_unref(arena);
    }
}

static int take_dtype(message *m, PyObject *dtype)
{
    if (m->array.descr != NULL)
        return 0;
    if (dtype == NULL || !PyArray_DescrCheck(dtype)) {
        PyErr_SetString(PyExc_ValueError, "the dtype that belongs to this handle is missing");
        return -1;
    }
    PyArray_Descr *descr = (PyArray_Descr *)dtype;
    if (PyDataType_REFCHK(descr) || PyDataType_HASSUBARRAY(descr)) {
        PyErr_SetString(PyExc_ValueError, "no array in shared memory has this dtype");
        return -1;
    }
    m->array.descr = (PyArray_Descr *)Py_NewRef(dtype);
    return 0;
}

static PyObject *load(ext_state *st, message *m, PyObject *dtype)
{
    if (take_dtype(m, dtype) < 0)
        return NULL;
    ext_arena *arena = find_heap(st, m);
    if (arena == NULL)
        return NULL;
    sharena_block block;
    int code = sharena_acquire(arena->core, &m->handle, &block);
    if (code != 0) {
        ext_raise(st, code);
        ext_arena_unref(arena);
        return NULL;
    }
    if (m->flags & DEFAULT)
        ext_default_offer(st, arena);
    return (PyObject *)ext_description_apply(st, &m->array, arena, &block);
}

/* With a Block, over that. */
static PyObject *load_bytes(ext_state *st, PyObject *bytes, PyObject *dtype, PyObject *block)
{
    Py_buffer view;
    if (PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    ext_reader reader = {view.buf, (const uint8_t *)view.buf + view.len};
    message m;
    PyObject *array = NULL;
    if (read_message(&reader, &m) == 0) {
        if (block == NULL)
            array = load(st, &m, dtype);
        else if (take_dtype(&m, dtype) == 0)
            array = (PyObject *)ext_description_over(&m.array, block);
        ext_description_clear(&m.array);
    }
    PyBuffer_Release(&view);
    return array;
}

PyObject *ext_handle_load(ext_state *st, PyObject *bytes, PyObject *dtype)
{
    return load_bytes(st, bytes, dtype, NULL);
}

PyObject *ext_handle_load_over(PyObject *bytes, PyObject *dtype, PyObject *block)
{
    return load_bytes(NULL, bytes, dtype, block);
}
