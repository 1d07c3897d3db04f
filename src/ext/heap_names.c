/* A Heap as a mapping: names of arrays.
 *
 * A name holds its block for as long as it stands, whoever dies.  Next to it the core keeps
 * some bytes of ours: the description of the array (description.c), which is read as
 * carefully as one from a handle, for anybody who has the heap may have written it.
 */
#include "lock.h"

#include "sharena/registry.h"

/* ---- names as C has them ---- */

static int is_text(PyObject *name)
{
    if (PyUnicode_Check(name))
        return 0;
    PyErr_Format(PyExc_TypeError, "the name of an array must be a str, not %s",
                 Py_TYPE(name)->tp_name);
    return -1;
}

/* 1 and the bytes, or 0: no entry of the table can have them. */
static int take_bytes(const char *text, Py_ssize_t length, char bytes[SHARENA_NAME + 1])
{
    if (length == 0 || length > SHARENA_NAME || memchr(text, 0, (size_t)length) != NULL)
        return 0;
    memcpy(bytes, text, (size_t)length);
    bytes[length] = '\0';
    return 1;
}

/* The same for a text with halves of surrogate pairs.  A program in C may have given a name
 * that is no UTF-8; keys() lists it as Python lists such files, and by that text it is found
 * again.  Two texts that would be the same bytes must not be the same name, hence the way
 * back. */
static int take_escaped(PyObject *name, char bytes[SHARENA_NAME + 1])
{
    PyObject *encoded = PyUnicode_AsEncodedString(name, "utf-8", "surrogateescape");
    if (encoded == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    const char *text = PyBytes_AS_STRING(encoded);
    int possible = take_bytes(text, PyBytes_GET_SIZE(encoded), bytes);
    if (possible) {
        PyObject *back = PyUnicode_DecodeUTF8(text, PyBytes_GET_SIZE(encoded), "surrogateescape");
        possible = back == NULL ? -1 : PyUnicode_Compare(back, name) == 0;
        Py_XDECREF(back);
    }
    Py_DECREF(encoded);
    return possible;
}

/* A name that is looked up: 1 and its bytes, 0: no array can have this name, or -1. */
static int name_sought(PyObject *name, char bytes[SHARENA_NAME + 1])
{
    Py_ssize_t length;
    if (is_text(name) < 0)
        return -1;
    const char *text = PyUnicode_AsUTF8AndSize(name, &length);
    if (text != NULL)
        return take_bytes(text, length, bytes);
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return -1;
    PyErr_Clear();
    return take_escaped(name, bytes);
}

/* A name that is given: plain UTF-8, or NULL with ValueError.  Its length is the core's. */
static const char *name_given(PyObject *name)
{
    return is_text(name) < 0 ? NULL : ext_text(name, "the name of an array");
}

static void *raise_name(ext_state *st, int code, PyObject *name)
{
    if (code == SHARENA_ENOTFOUND)
        PyErr_SetObject(PyExc_KeyError, name);
    else if (code != 0)
        ext_raise(st, code);
    return NULL;
}

/* The arena, once the name is known to be possible; else NULL with the exception. */
static ext_arena *look_up(PyObject *self, PyObject *name, char bytes[SHARENA_NAME + 1])
{
    ext_state *st = ext_state_of_object(self);
    int possible = name_sought(name, bytes);
    ext_arena *arena = possible < 0 ? NULL : ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL || possible)
        return arena;
    ext_arena_unref(arena);
    return raise_name(st, SHARENA_ENOTFOUND, name);
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
    char text[SHARENA_NAME + 1];
    ext_arena *arena = look_up(self, name, text);
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
    PyObject *text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "surrogateescape");
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
    char text[SHARENA_NAME + 1];
    int possible = name_sought(name, text);
    listing l = {.find = possible > 0 ? text : ""};
    if (possible < 0 || list_names(self, &l) < 0)
        return -1;
    return l.found;
}

/* ---- writing ---- */

typedef int give_name(sharena_heap *, const char *, const void *, const void *, size_t);

/* 0, -1, or 1: `give` was sharena_name_add(), and there is such a name. */
static int name_block(ext_state *st, ext_arena *arena, give_name *give, const char *name,
                      const void *start, PyArrayObject *array)
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
        code = give(arena->core, name, start, w.bytes, w.used);
        Py_END_ALLOW_THREADS
        if (code == SHARENA_EEXIST) {
            ext_writer_free(&w);
            return 1;
        }
        if (code != 0) {
            ext_raise(st, code);
            status = 0;
        }
    }
    ext_writer_free(&w);
    return status > 0 ? 0 : -1;
}

/* What has to_numpy() is a table, a column or an array with labels.  Its numbers alone would
 * come back under the name, so its owner must say that they are what is meant. */
static int refuse_labels(PyObject *value)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(value), "to_numpy");
    if (method == NULL) {
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(method);
    PyErr_Format(PyExc_TypeError,
                 "a %s is no array: only the values would be kept, without labels; store its "
                 ".to_numpy(), and the labels under other names",
                 Py_TYPE(value)->tp_name);
    return -1;
}

/* The value as an array, of which NumPy makes one of objects rather than refuse. */
static PyObject *as_array(PyObject *value)
{
    if (PyArray_Check(value))
        return Py_NewRef(value);
    PyObject *array = refuse_labels(value) < 0 ? NULL
                                               : PyArray_FromAny(value, NULL, 0, 0, 0, NULL);
    if (array == NULL || PyArray_TYPE((PyArrayObject *)array) != NPY_OBJECT)
        return array;
    Py_DECREF(array);
    PyErr_Format(PyExc_TypeError,
                 "a %s is no array of numbers or text: NumPy makes Python objects of it, which "
                 "live in one process only and can't be put in shared memory",
                 Py_TYPE(value)->tp_name);
    return NULL;
}

static int set_copy(ext_state *st, ext_arena *arena, give_name *give, const char *name,
                    PyObject *value)
{
    PyObject *array = as_array(value);
    if (array == NULL)
        return -1;
    PyArrayObject *copy = ext_copy_in(st, ext_arena_ref(arena), array);
    Py_DECREF(array);
    if (copy == NULL)
        return -1;
    const ext_block *block = (const ext_block *)PyArray_BASE(copy);
    int status = name_block(st, arena, give, name, block->start, copy);
    Py_DECREF(copy);
    return status;
}

static int set_name(ext_state *st, ext_arena *arena, give_name *give, const char *name,
                    PyObject *value)
{
    ext_arena *where;
    sharena_block block;
    if (!PyArray_Check(value) || !ext_locate((PyArrayObject *)value, &where, &block))
        return set_copy(st, arena, give, name, value);
    int here = where == arena;
    int status = here ? name_block(st, arena, give, name, block.start, (PyArrayObject *)value)
                      : set_copy(st, arena, give, name, value);
    if (here && status == 0 && (block.flags & SHARENA_UNSHARED))
        (void)sharena_set_shared(arena->core, block.start);
    ext_arena_unref(where);
    return status;
}

static int remove_name(PyObject *self, PyObject *name)
{
    char text[SHARENA_NAME + 1];
    ext_arena *arena = look_up(self, name, text);
    if (arena == NULL)
        return -1;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_name_remove(arena->core, text);
    Py_END_ALLOW_THREADS
    ext_arena_unref(arena);
    (void)raise_name(ext_state_of_object(self), code, name);
    return code == 0 ? 0 : -1;
}

static int give(PyObject *self, give_name *how, PyObject *name, PyObject *value)
{
    ext_state *st = ext_state_of_object(self);
    const char *text = name_given(name);
    ext_arena *arena = text == NULL ? NULL : ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return -1;
    int status = set_name(st, arena, how, text, value);
    ext_arena_unref(arena);
    return status;
}

int ext_heap_set(PyObject *self, PyObject *name, PyObject *value)
{
    return value == NULL ? remove_name(self, name) : give(self, sharena_name_set, name, value);
}

/* Who finds the name, and then finds it gone, gives it himself. */
PyObject *ext_heap_setdefault(PyObject *self, PyObject *args)
{
    PyObject *name, *value;
    if (!PyArg_ParseTuple(args, "OO:setdefault", &name, &value))
        return NULL;
    for (;;) {
        if (give(self, sharena_name_add, name, value) < 0)
            return NULL;
        PyObject *array = ext_heap_get(self, name);
        if (array != NULL || !PyErr_ExceptionMatches(PyExc_KeyError))
            return array;
        PyErr_Clear();
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}
