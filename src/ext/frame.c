/* The user's line of code that stands behind a call, for traces and warnings.
 *
 * An array is often made or pickled by a library on the user's behalf; a line inside
 * multiprocessing tells nobody anything, so frames of sharena itself and of what moves
 * objects between processes are passed over.
 */
#include "ext.h"

#include <frameobject.h>

static int is_machinery(const char *module)
{
    static const char *const names[] = {"sharena",   "multiprocessing", "concurrent",
                                        "threading", "pickle",          "joblib",
                                        "loky",      "cloudpickle",     "asyncio"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i]);
        if (strncmp(module, names[i], n) == 0 && (module[n] == '\0' || module[n] == '.'))
            return 1;
    }
    return 0;
}

/* __name__ of the module that a frame runs in: borrowed from *globals, a new reference. */
static const char *module_name(PyObject *frame, PyObject **globals)
{
    *globals = PyObject_GetAttrString(frame, "f_globals");
    if (*globals == NULL || !PyDict_Check(*globals))
        return NULL;
    PyObject *name = PyDict_GetItemString(*globals, "__name__");
    return name != NULL && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
}

PyObject *ext_user_frame(void)
{
    PyFrameObject *frame = PyEval_GetFrame();
    Py_XINCREF(frame);
    while (frame != NULL) {
        PyObject *globals = NULL;
        const char *name = module_name((PyObject *)frame, &globals);
        int found = name == NULL || !is_machinery(name);
        Py_XDECREF(globals);
        if (found)
            break;
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    PyErr_Clear();
    return (PyObject *)frame;
}

/* New reference to the file name, or NULL. */
static PyObject *frame_file(PyObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode((PyFrameObject *)frame);
    PyObject *file = Py_XNewRef(code->co_filename);
    Py_DECREF(code);
    return file;
}

void ext_trace(ext_arena *arena, const void *start)
{
    PyObject *frame = ext_user_frame();
    if (frame == NULL)
        return;
    PyObject *file = frame_file(frame);
    PyObject *site = PyUnicode_FromFormat("%U:%d", file,
                                          PyFrame_GetLineNumber((PyFrameObject *)frame));
    PyObject *bytes = site == NULL ? NULL : PyUnicode_EncodeFSDefault(site);
    if (bytes != NULL) { /* the core keeps 119 bytes: the end tells more */
        char *text = PyBytes_AS_STRING(bytes); /* ours alone as yet */
        Py_ssize_t length = PyBytes_GET_SIZE(bytes);
        for (char *nul = text; (nul = memchr(nul, 0, (size_t)(text + length - nul))) != NULL;)
            *nul = '?'; /* else it would end the text before the line's number */
        (void)sharena_trace(arena->core, start, text + (length > 119 ? length - 119 : 0));
    }
    PyErr_Clear(); /* a trace is never worth an allocation */
    Py_XDECREF(bytes);
    Py_XDECREF(site);
    Py_XDECREF(file);
    Py_DECREF(frame);
}

static PyObject *by_value_message(PyArrayObject *array, const char *hint)
{
    PyObject *shape = PyObject_GetAttrString((PyObject *)array, "shape");
    if (shape == NULL)
        return NULL;
    PyObject *message = PyUnicode_FromFormat(
        "an array of shape %R and dtype %S (%zd bytes) travels to another process by "
        "value; make it with sharena's constructors, or sharena.share() it first%s",
        shape, (PyObject *)PyArray_DESCR(array), (Py_ssize_t)PyArray_NBYTES(array), hint);
    Py_DECREF(shape);
    return message;
}

/* The module's dict that remembers which warnings were shown; borrowed. */
static PyObject *registry_of(PyObject *globals)
{
    PyObject *registry = PyDict_GetItemString(globals, "__warningregistry__");
    if (registry != NULL)
        return registry;
    registry = PyDict_New();
    if (registry == NULL || PyDict_SetItemString(globals, "__warningregistry__", registry) < 0) {
        Py_XDECREF(registry);
        return NULL;
    }
    Py_DECREF(registry); /* the module holds it */
    return registry;
}

static int warn_at(ext_state *st, PyArrayObject *array, PyObject *frame)
{
    PyObject *globals = NULL;
    const char *name = module_name(frame, &globals);
    PyObject *module = PyUnicode_FromString(name == NULL ? "<unknown>" : name);
    PyObject *registry = globals == NULL ? NULL : registry_of(globals);
    PyObject *message = by_value_message(array, "");
    PyObject *file = frame_file(frame);
    int status = -1;
    if (module != NULL && registry != NULL && message != NULL && file != NULL)
        status = PyErr_WarnExplicitObject(st->errors[EXT_BY_VALUE], message, file,
                                          PyFrame_GetLineNumber((PyFrameObject *)frame), module,
                                          registry);
    Py_XDECREF(file);
    Py_XDECREF(message);
    Py_XDECREF(module);
    Py_XDECREF(globals);
    return status;
}

int ext_warn_by_value(ext_state *st, PyArrayObject *array)
{
    PyObject *frame = ext_user_frame();
    if (frame != NULL) {
        int status = warn_at(st, array, frame);
        Py_DECREF(frame);
        return status;
    }
    PyObject *message = by_value_message(
        array, " (a helper thread sends it: the line that queued it is not known)");
    if (message == NULL)
        return -1;
    PyObject *module = PyUnicode_FromString("sharena");
    int status = module == NULL ? -1
                                : PyErr_WarnExplicitObject(st->errors[EXT_BY_VALUE], message,
                                                           module, 0, module, NULL);
    Py_XDECREF(module);
    Py_DECREF(message);
    return status;
}
