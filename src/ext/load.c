/* load: an .npy file read straight into a heap.
 *
 * The header is NumPy's business (numpy.lib.format); the data is read in chunks into the
 * new array, so that no second copy exists and Ctrl-C is answered within one chunk.  The
 * buffers that a file object sees belong to the Block: one that it keeps stays valid.
 *
 * What is accepted is what numpy.load accepts: an object with read(), else a path.  Of a
 * file object only read() is used, as NumPy does, for only that must be right; readinto()
 * is used of the standard library's own types, which keep to their buffer.
 */
#include "ext.h"

#define CHUNK ((npy_intp)8 << 20) /* a few milliseconds of reading */

typedef struct {
    PyObject *file;            /* borrowed */
    int readinto;              /* of one of io's own types */
    PyObject *max_header_size; /* borrowed, or NULL */
    PyObject *shape, *descr;   /* owned, from the header */
    int fortran;
} npy;

/* ---- reading ---- */

/* One read() of at most so many bytes, which *view then shows; the number, or -1. */
static Py_ssize_t read_some(PyObject *file, Py_ssize_t most, Py_buffer *view)
{
    PyObject *part = PyObject_CallMethod(file, "read", "n", most);
    if (part == NULL)
        return -1;
    int status = PyObject_GetBuffer(part, view, PyBUF_SIMPLE);
    if (status < 0 && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError,
                     "load() needs a file opened in binary mode: read() returned %s, not bytes",
                     Py_TYPE(part)->tp_name);
    }
    Py_DECREF(part);
    if (status < 0)
        return -1;
    if (view->len <= most)
        return view->len;
    PyErr_Format(PyExc_ValueError, "read(%zd) of this file returned %zd bytes", most, view->len);
    PyBuffer_Release(view);
    return -1;
}

/* So many bytes, or fewer where the file ends. */
static PyObject *read_exactly(PyObject *file, Py_ssize_t size)
{
    PyObject *all = PyBytes_FromStringAndSize(NULL, size);
    Py_ssize_t at = 0, count = 1;
    while (all != NULL && at < size && count != 0) {
        Py_buffer view;
        count = read_some(file, size - at, &view);
        if (count < 0) {
            Py_DECREF(all);
            return NULL;
        }
        memcpy(PyBytes_AS_STRING(all) + at, view.buf, (size_t)count);
        at += count;
        PyBuffer_Release(&view);
    }
    if (all != NULL && at < size)
        (void)_PyBytes_Resize(&all, at);
    return all;
}

/* ---- header ---- */

/* The format version, or -1 with an exception that says what the file is instead. */
static int read_magic(PyObject *file)
{
    PyObject *head = read_exactly(file, 8);
    if (head == NULL)
        return -1;
    const char *bytes = PyBytes_AS_STRING(head);
    Py_ssize_t size = PyBytes_GET_SIZE(head);
    int version = -1;
    if (size == 8 && memcmp(bytes, "\x93NUMPY", 6) == 0) {
        version = (unsigned char)bytes[6];
        if (version < 1 || version > 3) {
            PyErr_Format(PyExc_ValueError, "unknown .npy format version %d.%d", version,
                         (unsigned char)bytes[7]);
            version = -1;
        }
    } else if (size >= 2 && memcmp(bytes, "PK", 2) == 0) {
        PyErr_SetString(PyExc_ValueError,
                        "this is an .npz archive; open it with numpy.load() and put the "
                        "arrays you want into shared memory with sharena.array()");
    } else if (size == 0) {
        PyErr_SetString(PyExc_EOFError, "No data left in file");
    } else {
        PyErr_SetString(PyExc_ValueError, "the file is no .npy file");
    }
    Py_DECREF(head);
    return version;
}

/* Format 3 (field names that are no Latin-1) has no public reader in NumPy. */
static PyObject *read_header_3(PyObject *file, Py_ssize_t limit)
{
    PyObject *prefix = read_exactly(file, 4);
    if (prefix == NULL)
        return NULL;
    uint32_t size = 0;
    int whole = PyBytes_GET_SIZE(prefix) == 4;
    if (whole)
        memcpy(&size, PyBytes_AS_STRING(prefix), 4);
    Py_DECREF(prefix);
    if (!whole || (Py_ssize_t)size > limit)
        return PyErr_Format(PyExc_ValueError,
                            "the header of this .npy file is cut short, or longer than "
                            "max_header_size=%zd",
                            limit);
    PyObject *bytes = read_exactly(file, (Py_ssize_t)size);
    PyObject *text = bytes == NULL ? NULL
                                   : PyUnicode_DecodeUTF8(PyBytes_AS_STRING(bytes),
                                                          PyBytes_GET_SIZE(bytes), NULL);
    Py_XDECREF(bytes);
    PyObject *ast = text == NULL ? NULL : PyImport_ImportModule("ast");
    PyObject *stripped = ast == NULL ? NULL : PyObject_CallMethod(text, "strip", NULL);
    PyObject *header = stripped == NULL ? NULL
                                        : PyObject_CallMethod(ast, "literal_eval", "O", stripped);
    Py_XDECREF(stripped);
    Py_XDECREF(ast);
    Py_XDECREF(text);
    if (header != NULL ? !PyDict_Check(header) : PyErr_ExceptionMatches(PyExc_SyntaxError)) {
        Py_CLEAR(header);
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "the header of this .npy file is no dictionary");
    }
    return header;
}

/* (shape, fortran_order, dtype) */
static PyObject *parse_header_3(PyObject *format, PyObject *header)
{
    PyObject *descr = PyDict_GetItemString(header, "descr");
    PyObject *order = PyDict_GetItemString(header, "fortran_order");
    PyObject *shape = PyDict_GetItemString(header, "shape");
    if (descr == NULL || order == NULL || shape == NULL || !PyBool_Check(order) ||
        !PyTuple_Check(shape) || PyDict_GET_SIZE(header) != 3) {
        PyErr_SetString(PyExc_ValueError, "the header of this .npy file has wrong entries");
        return NULL;
    }
    PyObject *dtype = PyObject_CallMethod(format, "descr_to_dtype", "O", descr);
    return dtype == NULL ? NULL : Py_BuildValue("OON", shape, order, dtype);
}

static PyObject *read_header(npy *in, PyObject *format, int version)
{
    if (version == 3) {
        Py_ssize_t limit = 10000;
        if (in->max_header_size != NULL &&
            (limit = PyNumber_AsSsize_t(in->max_header_size, PyExc_OverflowError)) == -1 &&
            PyErr_Occurred())
            return NULL;
        PyObject *header = read_header_3(in->file, limit);
        PyObject *result = header == NULL ? NULL : parse_header_3(format, header);
        Py_XDECREF(header);
        return result;
    }
    PyObject *reader = PyObject_GetAttrString(format, version == 1 ? "read_array_header_1_0"
                                                                   : "read_array_header_2_0");
    PyObject *args = PyTuple_Pack(1, in->file);
    PyObject *kwargs = PyDict_New();
    PyObject *result = NULL;
    if (reader != NULL && args != NULL && kwargs != NULL &&
        (in->max_header_size == NULL ||
         PyDict_SetItemString(kwargs, "max_header_size", in->max_header_size) == 0))
        result = PyObject_Call(reader, args, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(reader);
    return result;
}

static int parse_header(npy *in)
{
    int version = read_magic(in->file);
    PyObject *format = version < 0 ? NULL : PyImport_ImportModule("numpy.lib.format");
    PyObject *header = format == NULL ? NULL : read_header(in, format, version);
    Py_XDECREF(format);
    if (header == NULL)
        return -1;
    PyObject *shape, *order, *descr;
    int status = -1;
    if (PyArg_ParseTuple(header, "OOO!", &shape, &order, &PyArrayDescr_Type, &descr) &&
        (in->fortran = PyObject_IsTrue(order)) >= 0) {
        in->shape = Py_NewRef(shape);
        in->descr = Py_NewRef(descr);
        status = 0;
    }
    Py_DECREF(header);
    return status;
}

/* ---- data ---- */

/* One readinto() of at most a chunk; the number of bytes, or -1. */
static Py_ssize_t read_into(PyObject *file, PyObject *buffer, Py_ssize_t at, Py_ssize_t end)
{
    Py_ssize_t stop = end - at > CHUNK ? at + CHUNK : end;
    PyObject *part = PySequence_GetSlice(buffer, at, stop);
    PyObject *read = part == NULL ? NULL : PyObject_CallMethod(file, "readinto", "O", part);
    Py_XDECREF(part);
    if (read == NULL)
        return -1;
    Py_ssize_t count = -1;
    if (read == Py_None)
        PyErr_SetString(PyExc_BlockingIOError, "load() needs a file that blocks");
    else
        count = PyNumber_AsSsize_t(read, PyExc_ValueError);
    Py_DECREF(read);
    return count;
}

/* The same through read(). */
static Py_ssize_t copy_from(PyObject *file, char *to, Py_ssize_t left)
{
    Py_buffer view;
    Py_ssize_t count = read_some(file, left > CHUNK ? (Py_ssize_t)CHUNK : left, &view);
    if (count < 0)
        return -1;
    memcpy(to, view.buf, (size_t)count);
    PyBuffer_Release(&view);
    return count;
}

static int read_all(const npy *in, PyArrayObject *array)
{
    npy_intp total = PyArray_NBYTES(array), at = 0;
    PyObject *buffer = PyMemoryView_FromObject(PyArray_BASE(array));
    if (buffer == NULL)
        return -1;
    while (at < total) {
        Py_ssize_t count = in->readinto
                               ? read_into(in->file, buffer, at, total)
                               : copy_from(in->file, PyArray_BYTES(array) + at, total - at);
        if (count == 0)
            PyErr_Format(PyExc_ValueError, "EOF: reading array data, expected %zd bytes got %zd",
                         total, at);
        if (count <= 0 || PyErr_CheckSignals() < 0) {
            Py_DECREF(buffer);
            return -1;
        }
        at += count;
    }
    Py_DECREF(buffer);
    return 0;
}

static PyObject *load_from(ext_state *st, npy *in, PyObject *heap)
{
    ext_shape shape;
    if (parse_header(in) < 0 || ext_shape_parse(in->shape, &shape) < 0)
        return NULL;
    ext_arena *arena = ext_heap_choose(st, heap);
    if (arena == NULL)
        return NULL;
    Py_INCREF(in->descr);
    PyArrayObject *array = ext_array_new(st, arena, (PyArray_Descr *)in->descr, shape.nd,
                                         shape.dims, NULL, in->fortran, 0);
    if (array != NULL && read_all(in, array) < 0)
        Py_CLEAR(array);
    return (PyObject *)array;
}

/* ---- opening and closing ---- */

/* Whether it has the attribute: 1, 0, or -1 when looking raised, as Ctrl-C in a property. */
static int has_attribute(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value != NULL) {
        Py_DECREF(value);
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
}

/* A path, never a descriptor's number: io.open() would take that, and close it afterwards. */
static PyObject *open_file(PyObject *file)
{
    PyObject *path = PyOS_FSPath(file);
    PyObject *io = path == NULL ? NULL : PyImport_ImportModule("io");
    PyObject *opened = io == NULL ? NULL : PyObject_CallMethod(io, "open", "Os", path, "rb");
    Py_XDECREF(io);
    Py_XDECREF(path);
    return opened;
}

/* Of exactly one of these types, whose methods nobody has overridden: 1, 0 or -1. */
static int is_plain_file(PyObject *file)
{
    static const char *const names[] = {"BufferedReader", "BytesIO", "FileIO", "BufferedRandom"};
    PyObject *io = PyImport_ImportModule("io");
    int same = io == NULL ? -1 : 0;
    for (size_t i = 0; same == 0 && i < sizeof names / sizeof names[0]; i++) {
        PyObject *type = PyObject_GetAttrString(io, names[i]);
        same = type == NULL ? -1 : type == (PyObject *)Py_TYPE(file);
        Py_XDECREF(type);
    }
    Py_XDECREF(io);
    return same;
}

static void close_file(PyObject *file)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *done = PyObject_CallMethod(file, "close", NULL);
    if (done == NULL)
        PyErr_WriteUnraisable(file);
    Py_XDECREF(done);
    PyErr_Restore(type, value, traceback);
}

static int check_encoding(PyObject *encoding)
{
    static const char *const known[] = {"ASCII", "latin1", "bytes"};
    for (size_t i = 0; encoding != NULL && i < sizeof known / sizeof known[0]; i++) {
        if (PyUnicode_Check(encoding) &&
            PyUnicode_CompareWithASCIIString(encoding, known[i]) == 0)
            return 0;
    }
    if (encoding == NULL)
        return 0;
    PyErr_SetString(PyExc_ValueError, "encoding must be 'ASCII', 'latin1', or 'bytes'");
    return -1;
}

static int refuse_mmap(PyObject *mode)
{
    if (mode == NULL || mode == Py_None)
        return 0;
    PyErr_SetString(PyExc_ValueError,
                    "mmap_mode: an array in shared memory is no mapping of the file; use "
                    "numpy.load() for that");
    return -1;
}

PyObject *ext_load(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ext_signature signature = {"load",
                                            1,
                                            5,
                                            7,
                                            {"file", "mmap_mode", "allow_pickle", "fix_imports",
                                             "encoding", "max_header_size", "heap"}};
    PyObject *v[7];
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0 || check_encoding(v[4]) < 0 ||
        refuse_mmap(v[1]) < 0)
        return NULL;
    npy in = {.max_header_size = v[5]};
    int given = has_attribute(v[0], "read");
    PyObject *file = NULL;
    if (given >= 0)
        file = given ? Py_NewRef(v[0]) : open_file(v[0]);
    if (file == NULL)
        return NULL;
    in.file = file;
    in.readinto = is_plain_file(file);
    PyObject *array = in.readinto < 0 ? NULL : load_from(ext_state_of(module), &in, v[6]);
    if (!given)
        close_file(file);
    Py_DECREF(file);
    Py_XDECREF(in.shape);
    Py_XDECREF(in.descr);
    return array;
}
