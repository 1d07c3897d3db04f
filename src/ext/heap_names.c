/* A Heap as a mapping: names of arrays.
 *
 * A name holds its block for as long as it stands, whoever dies.  Next to it the core keeps
 * some bytes of ours: the description of the array (description.c), which is read as
 * carefully as one from a handle, for anybody who has the heap may have written it.
 */
#include "ext.h"

static const char *name_text(PyObject *name)
{
    if (PyUnicode_Check(name))
        return PyUnicode_AsUTF8(name);
    PyErr_Format(PyExc_TypeError, "the name of an array must be a str, not %s",
                 Py_TYPE(name)->tp_name);
    return NULL;
}

static void *raise_name(ext_state *st, int code, PyObject *name)
{
    if (code == SHARENA_ENOTFOUND)
        PyErr_SetObject(PyExc_KeyError, name);
    else
        ext_raise(st, code);
    return NULL;
}

/* ---- reading ---- */

static PyObject *apply(ext_state *st, ext_arena *arena, const sharena_block *block,
                       const uint8_t *payload, size_t size)
{
    ext_reader reader = {payload, payload + size};
    ext_description d;
    PyObject *array = NULL;
    if (ext_description_read(&reader, &d) < 0 || d.descr == NULL) {
        ext_core_release(arena, block->start, block->size_bytes);
        ext_arena_unref(arena);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "the dtype is missing");
    } else {
        array = (PyObject *)ext_description_apply(st, &d, arena, block);
        ext_description_clear(&d);
    }
    if (array == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        PyErr_SetString(st->errors[EXT_CORRUPT],
                        "what this name says about its array is damaged; set it anew, or "
                        "delete it");
    }
    return array;
}

PyObject *ext_heap_get(PyObject *self, PyObject *name)
{
    ext_state *st = ext_state_of_object(self);
    const char *text = name_text(name);
    ext_arena *arena = text == NULL ? NULL : ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    uint8_t payload[SHARENA_PAYLOAD];
    size_t size = sizeof payload;
    sharena_block block;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_name_get(arena->core, text, &block, payload, &size);
    Py_END_ALLOW_THREADS
    if (code != 0) {
        ext_arena_unref(arena);
        return raise_name(st, code, name);
    }
    return apply(st, arena, &block, payload, size);
}

typedef struct {
    PyObject *list;   /* of bytes made with the GIL held, or NULL after a failure */
    const char *find; /* or a name to look for */
    int found;
} listing;

static int on_name(const char *name, void *argument)
{
    listing *l = argument;
    if (l->find != NULL) {
        l->found |= strcmp(l->find, name) == 0;
        return l->found;
    }
    PyObject *text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
    int status = text == NULL ? -1 : PyList_Append(l->list, text);
    Py_XDECREF(text);
    return status;
}

/* With the GIL: the table is short, and the callback makes Python strings. */
static int list_names(PyObject *self, listing *l)
{
    ext_state *st = ext_state_of_object(self);
    ext_arena *arena = ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return -1;
    int code = sharena_name_list(arena->core, on_name, l);
    ext_arena_unref(arena);
    if (code < 0)
        ext_raise(st, code);
    return code < 0 || PyErr_Occurred() ? -1 : 0;
}

PyObject *ext_heap_keys(PyObject *self, PyObject *unused)
{
    (void)unused;
    listing l = {.list = PyList_New(0)};
    if (l.list != NULL && list_names(self, &l) < 0)
        Py_CLEAR(l.list);
    return l.list;
}

PyObject *ext_heap_iter(PyObject *self)
{
    PyObject *keys = ext_heap_keys(self, NULL);
    PyObject *iterator = keys == NULL ? NULL : PyObject_GetIter(keys);
    Py_XDECREF(keys);
    return iterator;
}

Py_ssize_t ext_heap_length(PyObject *self)
{
    PyObject *keys = ext_heap_keys(self, NULL);
    Py_ssize_t length = keys == NULL ? -1 : PyList_GET_SIZE(keys);
    Py_XDECREF(keys);
    return length;
}

int ext_heap_contains(PyObject *self, PyObject *name)
{
    listing l = {.find = name_text(name)};
    if (l.find == NULL || list_names(self, &l) < 0)
        return -1;
    return l.found;
}

/* ---- writing ---- */

static int name_block(ext_state *st, ext_arena *arena, const char *name, const void *start,
                      PyArrayObject *array)
{
    ext_writer w;
    ext_writer_init(&w);
    int status = ext_description_write(&w, array, start, EXT_DTYPE_INSIDE);
    if (status == 0) {
        PyErr_Format(PyExc_TypeError, "dtype %R can't be stored under a name",
                     (PyObject *)PyArray_DESCR(array));
    } else if (status > 0 && w.used > SHARENA_PAYLOAD) {
        PyErr_Format(PyExc_ValueError,
                     "the dtype is too long to be stored under a name: %zu of %d bytes", w.used,
                     SHARENA_PAYLOAD);
        status = 0;
    } else if (status > 0) {
        int code;
        Py_BEGIN_ALLOW_THREADS
        code = sharena_name_set(arena->core, name, start, w.bytes, w.used);
        Py_END_ALLOW_THREADS
        if (code != 0) {
            ext_raise(st, code);
            status = 0;
        }
    }
    ext_writer_free(&w);
    return status > 0 ? 0 : -1;
}

static int set_copy(ext_state *st, ext_arena *arena, const char *name, PyObject *value)
{
    PyArrayObject *copy = ext_copy_in(st, ext_arena_ref(arena), value);
    if (copy == NULL)
        return -1;
    const ext_block *block = (const ext_block *)PyArray_BASE(copy);
    int status = name_block(st, arena, name, block->start, copy);
    Py_DECREF(copy);
    return status;
}

static int set_name(ext_state *st, ext_arena *arena, const char *name, PyObject *value)
{
    ext_arena *where;
    sharena_block block;
    if (!PyArray_Check(value) || !ext_locate((PyArrayObject *)value, &where, &block))
        return set_copy(st, arena, name, value);
    int here = where == arena;
    ext_arena_unref(where);
    return here ? name_block(st, arena, name, block.start, (PyArrayObject *)value)
                : set_copy(st, arena, name, value);
}

int ext_heap_set(PyObject *self, PyObject *name, PyObject *value)
{
    ext_state *st = ext_state_of_object(self);
    const char *text = name_text(name);
    ext_arena *arena = text == NULL ? NULL : ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return -1;
    int status;
    if (value != NULL) {
        status = set_name(st, arena, text, value);
    } else {
        Py_BEGIN_ALLOW_THREADS
        status = sharena_name_remove(arena->core, text);
        Py_END_ALLOW_THREADS
        if (status != 0)
            (void)raise_name(st, status, name);
    }
    ext_arena_unref(arena);
    return status == 0 ? 0 : -1;
}
