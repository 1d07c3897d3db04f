/* From Python arguments to C values.
 *
 * Constructors are called for every small array, so their arguments are sorted here without
 * a format string, and the usual shapes and dtypes are recognised without asking NumPy.
 * Everything unusual goes to NumPy's own converters, so that errors read as NumPy's.
 */
#include "ext.h"

#include <ctype.h>

/* ---- keywords ---- */

static int find_name(const ext_signature *s, PyObject *name)
{
    for (int i = 0; i < s->total; i++) {
        if (PyUnicode_CompareWithASCIIString(name, s->names[i]) == 0)
            return i;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", s->function,
                 name);
    return -1;
}

int ext_arguments(const ext_signature *s, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames, PyObject **values)
{
    if (nargs > s->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments (%zd given)",
                     s->function, s->positional, nargs);
        return -1;
    }
    for (int i = 0; i < s->total; i++)
        values[i] = i < nargs ? args[i] : NULL;
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t k = 0; k < keywords; k++) {
        int i = find_name(s, PyTuple_GET_ITEM(kwnames, k));
        if (i < 0)
            return -1;
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'",
                         s->function, s->names[i]);
            return -1;
        }
        values[i] = args[nargs + k];
    }
    for (int i = 0; i < s->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s' (pos %d)",
                         s->function, s->names[i], i + 1);
            return -1;
        }
    }
    return 0;
}

/* ---- shapes ---- */

#define FEW_DIMS 32 /* which NumPy 1 has no more than */

/* 1: an exact int that fits, in *out; 0: let NumPy look at it. */
static int plain_dimension(PyObject *item, npy_intp *out)
{
    if (!PyLong_CheckExact(item))
        return 0;
    Py_ssize_t n = PyLong_AsSsize_t(item);
    if (n == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    *out = n;
    return 1;
}

static int shape_by_numpy(PyObject *shape, ext_shape *out)
{
    PyArray_Dims dims = {NULL, 0};
    if (!PyArray_IntpConverter(shape, &dims))
        return -1;
    out->nd = dims.len;
    int status = 0;
    if (dims.len > NPY_MAXDIMS) {
        PyErr_Format(PyExc_ValueError, "maximum supported dimension for an ndarray is %d",
                     NPY_MAXDIMS);
        status = -1;
    } else if (dims.len > 0) {
        memcpy(out->dims, dims.ptr, (size_t)dims.len * sizeof *dims.ptr);
    }
    PyDimMem_FREE(dims.ptr);
    return status;
}

int ext_shape_parse(PyObject *shape, ext_shape *out)
{
    int plain = 1;
    if (plain_dimension(shape, &out->dims[0])) {
        out->nd = 1;
    } else if (PyTuple_CheckExact(shape) && PyTuple_GET_SIZE(shape) <= FEW_DIMS) {
        out->nd = (int)PyTuple_GET_SIZE(shape);
        for (int i = 0; plain && i < out->nd; i++)
            plain = plain_dimension(PyTuple_GET_ITEM(shape, i), &out->dims[i]);
    } else {
        plain = 0;
    }
    return plain ? 0 : shape_by_numpy(shape, out);
}

/* ---- dtypes ---- */

PyObject *ext_numpy(const char *name)
{
    PyObject *numpy = PyImport_ImportModule("numpy");
    PyObject *value = numpy == NULL ? NULL : PyObject_GetAttrString(numpy, name);
    Py_XDECREF(numpy);
    return value;
}

/* The dtype of numpy.empty(0, dtype); NULL without an exception where it has become more
 * dimensions. */
static PyArray_Descr *dtype_by_numpy(PyObject *dtype)
{
    PyObject *empty = ext_numpy("empty");
    PyObject *probe = empty == NULL ? NULL : PyObject_CallFunction(empty, "iO", 0, dtype);
    Py_XDECREF(empty);
    if (probe == NULL)
        return NULL;
    PyArray_Descr *descr = NULL;
    if (PyArray_NDIM((PyArrayObject *)probe) == 1) {
        descr = PyArray_DESCR((PyArrayObject *)probe);
        Py_INCREF(descr);
    }
    Py_DECREF(probe);
    return descr;
}

static PyArray_Descr *convert_dtype(PyObject *dtype)
{
    /* A DType class such as np.dtypes.Int8DType: np.dtype() doesn't take it, np.empty() does. */
    if (Py_TYPE(dtype) == Py_TYPE((PyObject *)&PyArrayDescr_Type) &&
        Py_TYPE(dtype) != &PyType_Type)
        return dtype_by_numpy(dtype);
    PyArray_Descr *descr = NULL;
    return PyArray_DescrConverter2(dtype, &descr) ? descr : NULL;
}

#ifdef Py_GIL_DISABLED
static PyArray_Descr *cached_dtype(ext_state *st, PyObject *dtype)
{
    (void)st;
    return convert_dtype(dtype);
}
#else
/* Only what can never mean another dtype later: strings, and scalar types.  And only those
 * that go by the dtype's own letter or type: NumPy may warn of another one, each time. */
static int may_cache(PyObject *dtype, const PyArray_Descr *descr)
{
    if (PyUnicode_CheckExact(dtype) && PyUnicode_GET_LENGTH(dtype) > 0) {
        Py_UCS4 first = PyUnicode_READ_CHAR(dtype, 0);
        if (PyUnicode_GET_LENGTH(dtype) > 1 && (first == '<' || first == '>'))
            first = PyUnicode_READ_CHAR(dtype, 1);
        return first == (Py_UCS4)descr->kind || first == (Py_UCS4)descr->type;
    }
    return dtype == (PyObject *)descr->typeobj || dtype == (PyObject *)&PyFloat_Type ||
           dtype == (PyObject *)&PyLong_Type || dtype == (PyObject *)&PyBool_Type ||
           dtype == (PyObject *)&PyComplex_Type;
}

static PyArray_Descr *cached_dtype(ext_state *st, PyObject *dtype)
{
    size_t i = ((uintptr_t)dtype >> 4) & (EXT_DTYPE_CACHE - 1);
    if (st->dtypes[i].key == dtype)
        return (PyArray_Descr *)Py_NewRef((PyObject *)st->dtypes[i].descr);
    PyArray_Descr *descr = convert_dtype(dtype);
    if (descr == NULL || !may_cache(dtype, descr))
        return descr;
    PyObject *old_key = st->dtypes[i].key;
    PyArray_Descr *old_descr = st->dtypes[i].descr;
    st->dtypes[i].key = Py_NewRef(dtype);
    st->dtypes[i].descr = (PyArray_Descr *)Py_NewRef((PyObject *)descr);
    Py_XDECREF(old_key);
    Py_XDECREF(old_descr);
    return descr;
}
#endif

/* "(0,)i4", which NumPy takes for a void dtype that is yet to find its size. */
static int settle_empty_subarray(PyArray_Descr **descr)
{
    PyArray_Descr *settled = dtype_by_numpy((PyObject *)*descr);
    if (settled != NULL) {
        Py_DECREF(*descr);
        *descr = settled;
    } else if (PyErr_Occurred()) {
        Py_CLEAR(*descr);
    }
    return *descr == NULL ? -1 : 0;
}

int ext_dtype_parse(ext_state *st, PyObject *dtype, PyArray_Descr *fallback, PyArray_Descr **out)
{
    if (dtype == NULL || dtype == Py_None) {
        Py_XINCREF(fallback);
        *out = fallback;
        return 0;
    }
    if (PyArray_DescrCheck(dtype))
        *out = (PyArray_Descr *)Py_NewRef(dtype);
    else if ((*out = cached_dtype(st, dtype)) == NULL)
        return -1;
    if (PyDataType_ELSIZE(*out) == 0 && PyDataType_HASSUBARRAY(*out))
        return settle_empty_subarray(out);
    return 0;
}

/* ---- what NumPy's signatures have and shared memory doesn't ---- */

int ext_device_check(PyObject *device)
{
    if (device == NULL || device == Py_None ||
        (PyUnicode_Check(device) && PyUnicode_CompareWithASCIIString(device, "cpu") == 0))
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "Device not understood. Only \"cpu\" is allowed, but received: %S", device);
    return -1;
}

/* Whether NumPy's own functions answer for objects of this class. */
static int is_like_ndarray(PyTypeObject *class)
{
    PyObject *theirs = PyObject_GetAttrString((PyObject *)class, "__array_function__");
    PyObject *numpys = PyObject_GetAttrString((PyObject *)&PyArray_Type, "__array_function__");
    int same = theirs != NULL && theirs == numpys;
    PyErr_Clear();
    Py_XDECREF(theirs);
    Py_XDECREF(numpys);
    return same;
}

int ext_like_check(PyObject *like)
{
    if (like == NULL || like == Py_None || PyArray_CheckExact(like) ||
        is_like_ndarray(Py_TYPE(like)))
        return 0;
    PyErr_Format(PyExc_TypeError,
                 "an array in shared memory is a plain numpy.ndarray, like= can't make "
                 "it a %s; pass like=None",
                 Py_TYPE(like)->tp_name);
    return -1;
}

/* ---- texts ---- */

const char *ext_text(PyObject *text, const char *what)
{
    Py_ssize_t length;
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, &length);
    if (utf8 != NULL && strlen(utf8) == (size_t)length)
        return utf8;
    if (utf8 == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return NULL;
    const char *fault = utf8 == NULL ? "half of a surrogate pair" : "a NUL character";
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "%s can't hold %s: %A", what, fault, text);
    return NULL;
}

int ext_text_or_none(PyObject *text, void *out)
{
    const char **utf8 = out;
    *utf8 = NULL;
    if (text == Py_None)
        return 1;
    if (PyUnicode_Check(text))
        return (*utf8 = ext_text(text, "a name or uuid")) != NULL;
    PyErr_Format(PyExc_TypeError, "a name or uuid must be a str or None, not %s",
                 Py_TYPE(text)->tp_name);
    return 0;
}

/* ---- sizes ---- */

static int unit_factor(const char *unit, double *factor)
{
    static const char letters[] = "kmgt";
    *factor = 1.0;
    if (unit[0] == '\0' || strcmp(unit, "B") == 0)
        return 0;
    const char *letter = strchr(letters, tolower((unsigned char)unit[0]));
    if (letter == NULL)
        return -1;
    const char *rest = unit + 1;
    double step = strcmp(rest, "B") == 0 ? 1000.0 : 1024.0;
    if (step == 1024.0 && rest[0] != '\0' && strcmp(rest, "iB") != 0)
        return -1;
    for (const char *l = letters; l <= letter; l++)
        *factor *= step;
    return 0;
}

/* Digits with a fraction, blanks, unit.  Not strtod: it takes "inf", "0x1p3" and the
 * decimal comma of some locales. */
int ext_size_text(const char *text, uint64_t *out)
{
    double value = 0.0, scale = 1.0, factor;
    int digits = 0;
    while (isspace((unsigned char)*text))
        text++;
    for (; isdigit((unsigned char)*text); text++, digits++)
        value = value * 10.0 + (*text - '0');
    if (*text == '.') {
        for (text++; isdigit((unsigned char)*text); text++, digits++)
            value += (*text - '0') * (scale /= 10.0);
    }
    while (isspace((unsigned char)*text))
        text++;
    if (digits == 0 || unit_factor(text, &factor) < 0 || value * factor >= 0x1p63)
        return -1;
    *out = (uint64_t)(value * factor + 0.5);
    return 0;
}

int ext_size_parse(PyObject *size, const char *what, uint64_t *out)
{
    if (size == NULL || size == Py_None)
        return 0;
    if (PyUnicode_Check(size)) {
        const char *text = ext_text(size, what);
        if (text == NULL)
            return -1;
        if (ext_size_text(text, out) == 0)
            return 0;
        PyErr_Format(PyExc_ValueError,
                     "%s: %R is no size; write bytes as an int, or a number with kB, MB, "
                     "GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)",
                     what, size);
        return -1;
    }
    PyObject *index = PyNumber_Index(size);
    if (index == NULL)
        return -1;
    long long value = PyLong_AsLongLong(index);
    Py_DECREF(index);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (value < 0) {
        PyErr_Format(PyExc_ValueError, "%s must not be negative, got %lld", what, value);
        return -1;
    }
    *out = (uint64_t)value;
    return 0;
}
