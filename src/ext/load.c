/* load: an .npy file read straight into a heap.
 *
 * The header is NumPy's business (numpy.lib.format); the data is read in chunks into the
 * new array, so that no second copy exists and Ctrl-C is answered within one chunk.  The
 * buffers that a file object sees belong to the Block: one that it keeps stays valid.
 */
#include "ext.h"

#define CHUNK ((npy_intp)8 << 20) /* a few milliseconds of reading */

typedef struct {
    PyObject *file;            /* borrowed */
    PyObject *max_header_size; /* borrowed, or NULL */
    PyObject *shape, *descr;   /* owned, from the header */
    int fortran;
} npy;

/* ---- header ---- */

static PyObject *read_exactly(PyObject *file, Py_ssize_t size)
{
    PyObject *all = PyBytes_FromStringAndSize(NULL, 0);
    while (all != NULL && PyBytes_GET_SIZE(all) < size) {
        PyObject *part = PyObject_CallMethod(file, "read", "n", size - PyBytes_GET_SIZE(all));
        if (part == NULL || !PyBytes_Check(part)) {
            if (part != NULL)
                PyErr_SetString(PyExc_TypeError, "load() needs a file opened in binary mode");
            Py_XDECREF(part);
            Py_CLEAR(all);
        } else if (PyBytes_GET_SIZE(part) == 0) {
            Py_DECREF(part);
            break;
        } else {
            PyBytes_ConcatAndDel(&all, part);
        }
    }
    return all;
}

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

/* One read of at most a chunk into the buffer; the number of bytes, or -1. */
static Py_ssize_t read_chunk(PyObject *file, PyObject *buffer, Py_ssize_t at, Py_ssize_t end)
{
    Py_ssize_t stop = end - at > CHUNK ? at + CHUNK : end;
    PyObject *part = PySequence_GetSlice(buffer, at, stop);
    if (part == NULL)
        return -1;
    Py_ssize_t count = -1;
    PyObject *read = PyObject_CallMethod(file, "readinto", "O", part);
    if (read != NULL && read != Py_None) {
        count = PyNumber_AsSsize_t(read, PyExc_ValueError);
        if (count > stop - at)
            count = stop - at;
    } else if (read == Py_None) {
        PyErr_SetString(PyExc_BlockingIOError, "load() needs a file that blocks");
    }
    Py_XDECREF(read);
    Py_DECREF(part);
    return count;
}

/* The same through read(), for file objects that have no readinto(). */
static Py_ssize_t copy_chunk(PyObject *file, char *to, Py_ssize_t left)
{
    PyObject *part = PyObject_CallMethod(file, "read", "n",
                                         left > CHUNK ? (Py_ssize_t)CHUNK : left);
    if (part == NULL)
        return -1;
    Py_ssize_t count = -1;
    if (PyBytes_Check(part) && PyBytes_GET_SIZE(part) <= left) {
        count = PyBytes_GET_SIZE(part);
        memcpy(to, PyBytes_AS_STRING(part), (size_t)count);
    } else {
        PyErr_SetString(PyExc_TypeError, "load() needs a file whose read() returns bytes");
    }
    Py_DECREF(part);
    return count;
}

static int read_all(PyObject *file, PyArrayObject *array)
{
    npy_intp total = PyArray_NBYTES(array), at = 0;
    PyObject *buffer = PyMemoryView_FromObject(PyArray_BASE(array));
    if (buffer == NULL)
        return -1;
    int readinto = PyObject_HasAttrString(file, "readinto");
    while (at < total) {
        Py_ssize_t count = readinto ? read_chunk(file, buffer, at, total)
                                    : copy_chunk(file, PyArray_BYTES(array) + at, total - at);
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
    if (array != NULL && read_all(in->file, array) < 0)
        Py_CLEAR(array);
    return (PyObject *)array;
}

/* ---- opening and closing ---- */

static PyObject *open_file(PyObject *path)
{
    PyObject *io = PyImport_ImportModule("io");
    PyObject *file = io == NULL ? NULL : PyObject_CallMethod(io, "open", "Os", path, "rb");
    Py_XDECREF(io);
    return file;
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
    if (ext_arguments(&signature, args, nargs, kwnames, v) < 0 || refuse_mmap(v[1]) < 0)
        return NULL;
    npy in = {.max_header_size = v[5]};
    int ours = !PyObject_HasAttrString(v[0], "read");
    PyObject *file = ours ? open_file(v[0]) : Py_NewRef(v[0]);
    if (file == NULL)
        return NULL;
    in.file = file;
    PyObject *array = load_from(ext_state_of(module), &in, v[6]);
    if (ours)
        close_file(file);
    Py_DECREF(file);
    Py_XDECREF(in.shape);
    Py_XDECREF(in.descr);
    return array;
}
