/* The exceptions, and the one place where a code of the core becomes one of them.
 *
 * The message is the core's own sentence (sharena_detail), which names the heap and the
 * remedy.  Errors of the caller (a bad size, an address outside any block) are ValueErrors
 * as in NumPy, everything about a heap is a SharenaError; where Python has an exception for
 * the case (MemoryError, FileNotFoundError, ...) the class is one of those as well, so that
 * code that knows nothing of sharena catches it.
 */
#include "ext.h"

static PyObject *make_error(const char *name, const char *text, PyObject *base, PyObject *second)
{
    PyObject *bases = second == NULL ? Py_NewRef(base) : PyTuple_Pack(2, base, second);
    if (bases == NULL)
        return NULL;
    PyObject *error = PyErr_NewExceptionWithDoc(name, text, bases, NULL);
    Py_DECREF(bases);
    return error;
}

int ext_errors_init(ext_state *st, PyObject *module)
{
    PyObject *base = NULL;
#define EXT_ERROR_MAKE(id, name, first, second, text)                                            \
    st->errors[EXT_##id] = make_error("sharena." #name, text, first, second);                    \
    if (st->errors[EXT_##id] == NULL ||                                                          \
        PyModule_AddObjectRef(module, #name, st->errors[EXT_##id]) < 0)                          \
        return -1;                                                                               \
    if (EXT_##id == EXT_ERROR)                                                                   \
        base = st->errors[EXT_ERROR];
    EXT_ERRORS(EXT_ERROR_MAKE)
#undef EXT_ERROR_MAKE
    return 0;
}

static PyObject *class_of(const ext_state *st, int code)
{
    switch (code) {
    case SHARENA_EINVAL:
    case SHARENA_ENOTHELD:
        return PyExc_ValueError;
    case SHARENA_ENOMEM:
        return PyExc_MemoryError;
    case SHARENA_EFULL:
    case SHARENA_ENOSPACE:
    case SHARENA_EROOM:
    case SHARENA_ERESERVE:
        return st->errors[EXT_FULL];
    case SHARENA_ESTALE:
        return st->errors[EXT_STALE];
    case SHARENA_ECORRUPT:
        return st->errors[EXT_CORRUPT];
    case SHARENA_ENOTFOUND:
        return st->errors[EXT_NOT_FOUND];
    case SHARENA_EEXIST:
        return st->errors[EXT_EXISTS];
    case SHARENA_EPERM:
        return st->errors[EXT_PERMISSION];
    case SHARENA_ENOTHEAP:
        return st->errors[EXT_NOT_A_HEAP];
    case SHARENA_EVERSION:
        return st->errors[EXT_VERSION];
    case SHARENA_EPROCESSES:
        return st->errors[EXT_PROCESSES];
    case SHARENA_ETICKETS:
        return st->errors[EXT_HANDLES];
    case SHARENA_ENAMES:
        return st->errors[EXT_NAMES];
    case SHARENA_EBUSY:
        return st->errors[EXT_BUSY];
    case SHARENA_ESYSTEM:
        return st->errors[EXT_SYSTEM];
    case SHARENA_EREMOTE:
        return st->errors[EXT_REMOTE];
    case SHARENA_ECLOSED:
        return st->errors[EXT_CLOSED];
    default:
        return st->errors[EXT_ERROR];
    }
}

/* In the heap that users did not make themselves the limit is a matter of the environment. */
static const char *more_about(const ext_state *st, const struct ext_arena *arena, int code)
{
    if (code == SHARENA_EFULL && arena != NULL && arena == st->default_arena &&
        sharena_name(arena->core) == NULL)
        return " (the default heap's limit is SHARENA_LIMIT in the environment of the process "
               "that makes it)";
    return "";
}

PyObject *ext_raise(ext_state *st, int code)
{
    return ext_raise_in(st, NULL, code);
}

PyObject *ext_raise_in(ext_state *st, const ext_arena *arena, int code)
{
    /* A signal handler that ran inside the call has raised already. */
    if (code == SHARENA_EINTERRUPTED && PyErr_Occurred())
        return NULL;
    const char *text = sharena_detail();
    if (text == NULL || text[0] == '\0')
        text = sharena_strerror(code);
    /* The sentence may quote a name that is no UTF-8, or cut in the middle of a character;
     * whoever catches the exception must be able to print it. */
    PyObject *sentence = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "backslashreplace");
    PyObject *message = sentence == NULL
                            ? NULL
                            : PyUnicode_FromFormat("%U%s", sentence, more_about(st, arena, code));
    if (message != NULL)
        PyErr_SetObject(class_of(st, code), message);
    Py_XDECREF(message);
    Py_XDECREF(sentence);
    return NULL;
}
