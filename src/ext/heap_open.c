/* Heap.create() and Heap.attach(): from Python's options to the core's. */
#include "ext.h"

#include <limits.h>

/* Seconds as the core's milliseconds; 0 means "default" there, so the least is 1. */
static int parse_seconds(PyObject *value, const char *what, unsigned *out)
{
    if (value == NULL || value == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds >= 0.0 && seconds * 1e3 < (double)UINT_MAX)) {
        PyErr_Format(PyExc_ValueError, "%s must be from 0 to %u seconds", what, UINT_MAX / 1000);
        return -1;
    }
    *out = (unsigned)(seconds * 1e3);
    if (*out == 0)
        *out = 1;
    return 0;
}

/* In the core 0 means "default", which nobody means who writes it. */
static int parse_room(PyObject *size, const char *what, uint64_t *out)
{
    if (size == NULL || size == Py_None)
        return 0;
    if (ext_size_parse(size, what, out) < 0)
        return -1;
    if (*out != 0)
        return 0;
    PyErr_Format(PyExc_ValueError,
                 "%s must be 4 MiB or more, got 0; leave it out for the default", what);
    return -1;
}

/* Here 0 has a meaning, which the core has for whatever is less than a unit. */
static int parse_retain(PyObject *size, uint64_t *out)
{
    if (size == NULL || size == Py_None)
        return 0;
    if (ext_size_parse(size, "retain", out) < 0)
        return -1;
    if (*out == 0)
        *out = 1;
    return 0;
}

static int parse_options(PyObject *const *v, int mode, sharena_options *options)
{
    if (mode <= 0 || mode > 0777) {
        PyErr_SetString(PyExc_ValueError, "mode must be permission bits: 0o600, 0o660 or 0o666");
        return -1;
    }
    options->mode = (unsigned)mode;
    if (parse_room(v[0], "limit", &options->limit_bytes) < 0 ||
        parse_room(v[1], "reserve", &options->reserve_bytes) < 0 ||
        parse_retain(v[2], &options->retain_bytes) < 0 ||
        parse_seconds(v[3], "ticket_timeout", &options->ticket_ms) < 0)
        return -1;
    return 0;
}

static PyObject *opened(ext_state *st, int code, sharena_heap *core)
{
    return code == 0 ? ext_heap_new(st, core) : ext_raise(st, code);
}

PyObject *ext_heap_create(PyObject *class, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "limit", "reserve", "retain", "mode", "ticket_timeout", NULL};
    ext_state *st = PyType_GetModuleState((PyTypeObject *)class);
    const char *name = NULL;
    PyObject *v[4] = {NULL};
    int mode = 0600, code;
    sharena_options options = {0};
    sharena_heap *core = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O&$OOOiO:create", names, ext_text_or_none,
                                     &name, &v[0], &v[1], &v[2], &mode, &v[3]) ||
        parse_options(v, mode, &options) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_create(name, &options, &core);
    Py_END_ALLOW_THREADS
    return opened(st, code, core);
}

int ext_uuid_parse(const char *text, uint8_t uuid[16])
{
    for (int i = 0; i < 16; i++) {
        unsigned byte = 0;
        for (int k = 0; k < 2; k++) {
            const char *digits = "0123456789abcdef", *digit = NULL;
            if (*text != '\0')
                digit = strchr(digits, *text++);
            if (digit == NULL)
                return -1;
            byte = byte * 16 + (unsigned)(digit - digits);
        }
        uuid[i] = (uint8_t)byte;
    }
    return *text == '\0' ? 0 : -1;
}

static int attach_unnamed(const char *text, int pid, int fd, sharena_heap **core)
{
    uint8_t uuid[16];
    int code;
    if (ext_uuid_parse(text, uuid) < 0) {
        PyErr_SetString(PyExc_ValueError, "uuid must be 32 lower-case hexadecimal digits");
        return 1;
    }
    Py_BEGIN_ALLOW_THREADS
    code = pid > 0 ? sharena_attach_process(pid, fd, uuid, core)
                   : sharena_attach_uuid(uuid, core);
    Py_END_ALLOW_THREADS
    return code;
}

PyObject *ext_heap_attach(PyObject *class, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "uuid", "pid", "fd", "owner", NULL};
    ext_state *st = PyType_GetModuleState((PyTypeObject *)class);
    const char *name = NULL, *uuid = NULL;
    int pid = 0, fd = -1, code;
    long owner = -1; /* this user */
    sharena_heap *core = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O&$O&iil:attach", names, ext_text_or_none,
                                     &name, ext_text_or_none, &uuid, &pid, &fd, &owner))
        return NULL;
    if ((name == NULL) == (uuid == NULL)) {
        PyErr_SetString(PyExc_TypeError, "attach() needs a name or a uuid");
        return NULL;
    }
    if (uuid != NULL) {
        code = attach_unnamed(uuid, pid, fd, &core);
        if (code > 0)
            return NULL;
    } else {
        Py_BEGIN_ALLOW_THREADS
        code = owner < 0 ? sharena_attach(name, &core)
                         : sharena_attach_owned(name, (uid_t)owner, &core);
        Py_END_ALLOW_THREADS
    }
    return opened(st, code, core);
}
