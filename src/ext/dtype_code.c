/* dtypes as bytes: what a handle and the payload of a name say about elements.
 *
 *   simple:      'S', length (1 byte), the text of dtype.str, such as "<f8" or "<M8[ns]"
 *   structured:  'T', flags (1), itemsize (4), number of fields (2), then for each field
 *                name, title (each length (2) and UTF-8, 0xffff: none), offset (4),
 *                number of sub-array dimensions (1), these (8 each), the field's dtype
 *
 * Numbers are in the machine's order, for a handle never leaves its machine.  Reading is
 * bounded by the bytes at hand and by a depth, evaluates nothing and imports nothing; the
 * text of a simple dtype is matched here before NumPy sees it, since np.dtype() knows many
 * other languages.
 *
 * Some dtypes have no code: those with Python objects (they can't be shared), types that
 * other packages define, and in strict mode those with metadata.
 */
#include "ext.h"

#define DEPTH 16 /* of nested structures; real ones have 2 or 3 */
#define NONE 0xffffu
#define ALIGNED 1u
#define RECORD 2u

/* ---- bytes ---- */

void ext_writer_init(ext_writer *w)
{
    w->bytes = w->small;
    w->used = 0;
    w->room = sizeof w->small;
}

int ext_writer_grow(ext_writer *w, size_t size)
{
    size_t room = 2 * (w->used + size);
    uint8_t *bytes = PyMem_Malloc(room);
    if (bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(bytes, w->bytes, w->used);
    ext_writer_free(w);
    w->bytes = bytes;
    w->room = room;
    return 0;
}

void ext_writer_free(ext_writer *w)
{
    if (w->bytes != w->small)
        PyMem_Free(w->bytes);
}

/* ---- writing ---- */

static int write_code(ext_writer *, PyArray_Descr *, int strict, int depth);

/* dtype.str of a number, without asking NumPy, which formats it anew for every handle. */
static size_t number_text(const PyArray_Descr *descr, char text[5])
{
    npy_intp size = PyDataType_ELSIZE(descr);
    if ((descr->type_num > NPY_CLONGDOUBLE && descr->type_num != NPY_HALF) || size > 99)
        return 0;
    size_t length = 0;
    text[length++] = descr->byteorder == NPY_NATIVE ? NPY_LITTLE : descr->byteorder;
    text[length++] = descr->kind;
    if (size > 9)
        text[length++] = (char)('0' + size / 10);
    text[length++] = (char)('0' + size % 10);
    return length;
}

static int write_simple(ext_writer *w, PyArray_Descr *descr)
{
    char number[5];
    const uint8_t number_head[2] = {'S', (uint8_t)number_text(descr, number)};
    if (number_head[1] != 0)
        return ext_write(w, number_head, 2) < 0 || ext_write(w, number, number_head[1]) < 0 ? -1
                                                                                            : 1;
    PyObject *text = PyObject_GetAttrString((PyObject *)descr, "str");
    if (text == NULL)
        return -1;
    Py_ssize_t length;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &length);
    int status = -1;
    if (utf8 != NULL && length > 255) {
        status = 0;
    } else if (utf8 != NULL) {
        const uint8_t head[2] = {'S', (uint8_t)length};
        status = ext_write(w, head, 2) < 0 || ext_write(w, utf8, (size_t)length) < 0 ? -1 : 1;
    }
    Py_DECREF(text);
    return status;
}

static int write_text(ext_writer *w, PyObject *text)
{
    uint16_t head = NONE;
    if (text == NULL || !PyUnicode_Check(text)) /* a title may be any object */
        return ext_write(w, &head, sizeof head) < 0 ? -1 : 1;
    Py_ssize_t length;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &length);
    if (utf8 == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        PyErr_Clear(); /* a lone surrogate: pickle can write it, UTF-8 can't */
        return 0;
    }
    if (utf8 == NULL)
        return -1;
    if ((size_t)length >= NONE)
        return 0;
    head = (uint16_t)length;
    return ext_write(w, &head, sizeof head) < 0 || ext_write(w, utf8, (size_t)length) < 0 ? -1
                                                                                          : 1;
}

/* The dimensions and the base of a sub-array, or none and the dtype itself. */
static int write_field_dtype(ext_writer *w, PyArray_Descr *descr, int strict, int depth)
{
    PyArray_ArrayDescr *sub = PyDataType_SUBARRAY(descr);
    uint8_t nd = 0;
    if (sub != NULL) {
        if (PyTuple_GET_SIZE(sub->shape) > NPY_MAXDIMS)
            return 0;
        nd = (uint8_t)PyTuple_GET_SIZE(sub->shape);
    }
    if (ext_write(w, &nd, 1) < 0)
        return -1;
    for (int i = 0; i < nd; i++) {
        int64_t dim = PyLong_AsLongLong(PyTuple_GET_ITEM(sub->shape, i));
        if ((dim == -1 && PyErr_Occurred()) || ext_write(w, &dim, sizeof dim) < 0)
            return -1;
    }
    return write_code(w, sub == NULL ? descr : sub->base, strict, depth);
}

static int write_field(ext_writer *w, PyObject *name, PyObject *field, int strict, int depth)
{
    int status = write_text(w, name);
    if (status <= 0)
        return status;
    status = write_text(w, PyTuple_GET_SIZE(field) > 2 ? PyTuple_GET_ITEM(field, 2) : NULL);
    if (status <= 0)
        return status;
    long long offset = PyLong_AsLongLong(PyTuple_GET_ITEM(field, 1));
    if (offset == -1 && PyErr_Occurred())
        return -1;
    if (offset < 0 || offset > UINT32_MAX)
        return 0;
    uint32_t narrow = (uint32_t)offset;
    if (ext_write(w, &narrow, sizeof narrow) < 0)
        return -1;
    return write_field_dtype(w, (PyArray_Descr *)PyTuple_GET_ITEM(field, 0), strict, depth);
}

static int write_struct(ext_writer *w, PyArray_Descr *descr, int strict, int depth)
{
    PyObject *names = PyDataType_NAMES(descr), *fields = PyDataType_FIELDS(descr);
    npy_intp itemsize = PyDataType_ELSIZE(descr);
    Py_ssize_t count = PyTuple_GET_SIZE(names);
    if (depth == 0 || itemsize > (npy_intp)UINT32_MAX || count >= (Py_ssize_t)NONE)
        return 0;
    uint8_t flags = 0;
    if (PyDataType_FLAGCHK(descr, NPY_ALIGNED_STRUCT))
        flags |= ALIGNED;
    if (descr->typeobj != &PyVoidArrType_Type)
        flags |= RECORD;
    uint32_t size = (uint32_t)itemsize;
    uint16_t n = (uint16_t)count;
    if (ext_write(w, "T", 1) < 0 || ext_write(w, &flags, 1) < 0 ||
        ext_write(w, &size, sizeof size) < 0 || ext_write(w, &n, sizeof n) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject *field = PyDict_GetItemWithError(fields, name);
        if (field == NULL)
            return PyErr_Occurred() ? -1 : 0;
        int status = write_field(w, name, field, strict, depth - 1);
        if (status <= 0)
            return status;
    }
    return 1;
}

static int is_record(const PyTypeObject *type)
{
    PyObject *record = ext_numpy("record");
    int same = record == (const PyObject *)type;
    if (record == NULL)
        PyErr_Clear();
    Py_XDECREF(record);
    return same;
}

static int write_code(ext_writer *w, PyArray_Descr *descr, int strict, int depth)
{
    if (PyDataType_REFCHK(descr) || descr->type_num < 0 || descr->type_num >= NPY_NTYPES_LEGACY ||
        descr->type_num == NPY_OBJECT)
        return 0;
    PyObject *metadata = PyDataType_METADATA(descr);
    if (strict && metadata != NULL && metadata != Py_None)
        return 0;
    int is_void = descr->type_num == NPY_VOID;
    if (is_void && descr->typeobj != &PyVoidArrType_Type &&
        !(PyDataType_HASFIELDS(descr) && is_record(descr->typeobj)))
        return 0;
    if (!PyDataType_HASFIELDS(descr))
        return PyDataType_HASSUBARRAY(descr) ? 0 : write_simple(w, descr);
    return is_void ? write_struct(w, descr, strict, depth) : 0;
}

int ext_dtype_write(ext_writer *w, PyArray_Descr *descr, int strict)
{
    return write_code(w, descr, strict, DEPTH);
}

/* ---- reading ---- */

static PyArray_Descr *bad(void)
{
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "the dtype in this handle is damaged");
    return NULL;
}

/* order, kind, digits, and for dates a unit: "<M8[25s]". */
static int simple_matches(const char *s)
{
    if (*s == '\0' || strchr("<>|", *s++) == NULL)
        return 0;
    if (*s == '\0' || strchr("biufcSUVmM", *s++) == NULL)
        return 0;
    s += strspn(s, "0123456789");
    if (*s == '[') {
        s += 1 + strspn(s + 1, "0123456789");
        s += strspn(s, "YMWDhmsnupfa");
        if (*s++ != ']')
            return 0;
    }
    return *s == '\0';
}

/* The usual ones, which need no parser. */
static PyArray_Descr *number_dtype(const char *text)
{
    static const struct {
        char text[4];
        int type;
    } numbers[] = {
        {"<f8", NPY_FLOAT64},   {"<f4", NPY_FLOAT32}, {"|u1", NPY_UINT8},  {"<i8", NPY_INT64},
        {"<i4", NPY_INT32},     {"<u2", NPY_UINT16},  {"<i2", NPY_INT16},  {"|b1", NPY_BOOL},
        {"|i1", NPY_INT8},      {"<u4", NPY_UINT32},  {"<u8", NPY_UINT64}, {"<f2", NPY_FLOAT16},
        {"<c8", NPY_COMPLEX64},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (memcmp(text, numbers[i].text, sizeof numbers[i].text) == 0)
            return PyArray_DescrFromType(numbers[i].type);
    }
    return NULL;
}

static PyArray_Descr *read_simple(ext_reader *r)
{
    uint8_t length;
    char text[256];
    if (ext_read(r, &length, 1) < 0 || ext_read(r, text, length) < 0)
        return bad();
    text[length] = '\0';
    PyArray_Descr *number = length == 3 ? number_dtype(text) : NULL;
    if (number != NULL)
        return number;
    if (strlen(text) != length || !simple_matches(text))
        return bad();
    PyObject *string = PyUnicode_FromString(text);
    PyArray_Descr *descr = NULL;
    if (string == NULL || !PyArray_DescrConverter(string, &descr))
        descr = NULL;
    Py_XDECREF(string);
    return descr == NULL ? bad() : descr;
}

/* A str, None, or NULL with an exception. */
static PyObject *read_text(ext_reader *r)
{
    uint16_t length;
    if (ext_read(r, &length, sizeof length) < 0)
        return (PyObject *)bad();
    if (length == NONE)
        return Py_NewRef(Py_None);
    if (length > (size_t)(r->end - r->next))
        return (PyObject *)bad();
    PyObject *text = PyUnicode_DecodeUTF8((const char *)r->next, length, NULL);
    r->next += length;
    return text;
}

static PyArray_Descr *read_code(ext_reader *, int depth);

/* What np.dtype() takes as the format of a field. */
static PyObject *read_format(ext_reader *r, int depth)
{
    uint8_t nd;
    if (ext_read(r, &nd, 1) < 0 || nd > NPY_MAXDIMS)
        return (PyObject *)bad();
    if (nd == 0)
        return (PyObject *)read_code(r, depth);
    PyObject *shape = PyTuple_New(nd);
    for (int i = 0; shape != NULL && i < nd; i++) {
        int64_t dim;
        PyObject *item = NULL;
        if (ext_read(r, &dim, sizeof dim) < 0 || dim < 0)
            bad();
        else
            item = PyLong_FromLongLong(dim);
        if (item == NULL)
            Py_CLEAR(shape);
        else
            PyTuple_SET_ITEM(shape, i, item);
    }
    PyObject *base = shape == NULL ? NULL : (PyObject *)read_code(r, depth);
    PyObject *format = base == NULL ? NULL : PyTuple_Pack(2, base, shape);
    Py_XDECREF(base);
    Py_XDECREF(shape);
    return format;
}

static int append(PyObject *list, PyObject *item)
{
    int status = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return status;
}

/* lists: names, titles, offsets, formats; in the order of the bytes. */
static int read_fields(ext_reader *r, unsigned count, PyObject *const lists[4], int depth)
{
    for (unsigned i = 0; i < count; i++) {
        uint32_t offset;
        PyObject *name = read_text(r);
        if (name != NULL && (name == Py_None || PyUnicode_GET_LENGTH(name) == 0)) {
            Py_DECREF(name); /* NumPy would invent one */
            name = (PyObject *)bad();
        }
        if (append(lists[0], name) < 0 || append(lists[1], read_text(r)) < 0)
            return -1;
        if (ext_read(r, &offset, sizeof offset) < 0) {
            bad();
            return -1;
        }
        if (append(lists[2], PyLong_FromUnsignedLong(offset)) < 0 ||
            append(lists[3], read_format(r, depth)) < 0)
            return -1;
    }
    return 0;
}

static PyArray_Descr *as_record(PyArray_Descr *descr)
{
    PyObject *record = ext_numpy("record");
    PyObject *pair = record == NULL ? NULL : PyTuple_Pack(2, record, (PyObject *)descr);
    PyArray_Descr *result = NULL;
    if (pair != NULL && !PyArray_DescrConverter(pair, &result))
        result = NULL;
    Py_XDECREF(pair);
    Py_XDECREF(record);
    Py_DECREF(descr);
    return result;
}

/* Whether the field is what was asked for: 1, 0 or -1. */
static int field_is(PyObject *field, PyObject *title, PyObject *offset)
{
    PyObject *its_title = PyTuple_GET_SIZE(field) > 2 ? PyTuple_GET_ITEM(field, 2) : Py_None;
    int same = PyObject_RichCompareBool(PyTuple_GET_ITEM(field, 1), offset, Py_EQ);
    return same <= 0 ? same : PyObject_RichCompareBool(its_title, title, Py_EQ);
}

static int struct_is(PyArray_Descr *descr, PyObject *const lists[4], uint32_t size,
                     unsigned flags)
{
    PyObject *fields = PyDataType_FIELDS(descr);
    Py_ssize_t count = PyList_GET_SIZE(lists[0]);
    if (fields == NULL || PyTuple_GET_SIZE(PyDataType_NAMES(descr)) != count)
        return count == 0;
    int same = PyDataType_ELSIZE(descr) == (npy_intp)size &&
               !PyDataType_FLAGCHK(descr, NPY_ALIGNED_STRUCT) == !(flags & ALIGNED);
    for (Py_ssize_t i = 0; same > 0 && i < count; i++) {
        PyObject *field = PyDict_GetItemWithError(fields, PyList_GET_ITEM(lists[0], i));
        same = field == NULL
                   ? (PyErr_Occurred() ? -1 : 0)
                   : field_is(field, PyList_GET_ITEM(lists[1], i), PyList_GET_ITEM(lists[2], i));
    }
    return same;
}

static PyArray_Descr *build_once(PyObject *const lists[4], uint32_t size, unsigned flags)
{
    PyObject *spec = Py_BuildValue("{sOsOsOsOsksO}", "names", lists[0], "titles", lists[1],
                                   "offsets", lists[2], "formats", lists[3], "itemsize",
                                   (unsigned long)size, "aligned",
                                   flags & ALIGNED ? Py_True : Py_False);
    PyArray_Descr *descr = NULL;
    if (spec != NULL && !PyArray_DescrConverter(spec, &descr))
        descr = NULL;
    Py_XDECREF(spec);
    int same = descr == NULL ? 0 : struct_is(descr, lists, size, flags);
    if (descr != NULL && same <= 0) {
        if (same == 0)
            PyErr_NoMemory();
        Py_CLEAR(descr);
    }
    return descr != NULL && (flags & RECORD) ? as_record(descr) : descr;
}

/* NumPy takes a key of the specification for missing when it had no memory to look for it:
 * it then makes another dtype, or complains of what is not there.  So the result is compared,
 * and NumPy is asked a second time before a complaint counts as damage. */
static PyArray_Descr *build_struct(PyObject *const lists[4], uint32_t size, unsigned flags)
{
    PyArray_Descr *descr = build_once(lists, size, flags);
    if (descr != NULL || PyErr_ExceptionMatches(PyExc_MemoryError))
        return descr;
    PyErr_Clear();
    return build_once(lists, size, flags);
}

static PyArray_Descr *read_struct(ext_reader *r, int depth)
{
    uint8_t flags;
    uint32_t size;
    uint16_t count;
    if (depth == 0 || ext_read(r, &flags, 1) < 0 || (flags & ~(ALIGNED | RECORD)) != 0 ||
        ext_read(r, &size, sizeof size) < 0 || ext_read(r, &count, sizeof count) < 0)
        return bad();
    PyObject *lists[4] = {PyList_New(0), PyList_New(0), PyList_New(0), PyList_New(0)};
    PyArray_Descr *descr = NULL;
    if (lists[0] && lists[1] && lists[2] && lists[3] &&
        read_fields(r, count, lists, depth - 1) == 0)
        descr = build_struct(lists, size, flags);
    for (int i = 0; i < 4; i++)
        Py_XDECREF(lists[i]);
    return descr;
}

static PyArray_Descr *read_code(ext_reader *r, int depth)
{
    uint8_t tag;
    if (ext_read(r, &tag, 1) < 0)
        return bad();
    if (tag == 'S')
        return read_simple(r);
    return tag == 'T' ? read_struct(r, depth) : bad();
}

PyArray_Descr *ext_dtype_read(ext_reader *r)
{
    PyArray_Descr *descr = read_code(r, DEPTH);
    if (descr == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_TypeError) ||
            PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear(); /* NumPy's error for a field that no array could have */
            bad();
        }
        return NULL;
    }
    if (PyDataType_REFCHK(descr) || PyDataType_HASSUBARRAY(descr)) {
        Py_DECREF(descr);
        return bad();
    }
    return descr;
}
