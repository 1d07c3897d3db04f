/* The default heap: one for a process and all its descendants.
 *
 * The environment variable SHARENA_HEAP names it, as "name:NAME" (set by the user) or as
 * "UUID:PID:FD" (set by us): the unnamed heap that process PID has open as descriptor FD.
 * Should that process be gone, any other of this user's that has the heap open will do.
 * Who finds no heap that way makes one, with the limit in SHARENA_LIMIT, and publishes it.
 *
 * A worker of a pool that was started before sharena was imported has no such variable: it
 * makes a heap of its own.  If that is still untouched when the first handle to an array in
 * its sender's default heap arrives, it joins that heap instead, so that results go back
 * through the same one.
 */
#include "ext.h"

#include <unistd.h>

#define VARIABLE "SHARENA_HEAP"

static int set_variable(const char *value)
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *environ = os == NULL ? NULL : PyObject_GetAttrString(os, "environ");
    PyObject *text = environ == NULL ? NULL : PyUnicode_FromString(value);
    int status = text == NULL ? -1 : PyMapping_SetItemString(environ, VARIABLE, text);
    Py_XDECREF(text);
    Py_XDECREF(environ);
    Py_XDECREF(os);
    return status;
}

/* An unnamed heap is published with this process's descriptor of it: descendants find it
 * as long as this process lives, and without a search. */
static int publish(const ext_arena *arena)
{
    const char *name = sharena_name(arena->core);
    char value[128];
    if (name != NULL) {
        PyOS_snprintf(value, sizeof value, "name:%s", name);
        return set_variable(value);
    }
    char uuid[33];
    for (int i = 0; i < 16; i++)
        PyOS_snprintf(uuid + 2 * i, 3, "%02x", arena->uuid[i]);
    PyOS_snprintf(value, sizeof value, "%s:%ld:%d", uuid, (long)getpid(),
                  sharena_descriptor(arena->core));
    return set_variable(value);
}

/* ---- joining ---- */

static int join_by_uuid(const char *text, sharena_heap **core)
{
    char uuid_text[33];
    uint8_t uuid[16];
    int pid, fd, end = 0, code;
    if (strlen(text) < 33 || sscanf(text + 32, ":%d:%d%n", &pid, &fd, &end) != 2 ||
        text[32 + end] != '\0' || pid <= 0 || fd < 0)
        return SHARENA_EINVAL;
    memcpy(uuid_text, text, 32);
    uuid_text[32] = '\0';
    if (ext_uuid_parse(uuid_text, uuid) < 0)
        return SHARENA_EINVAL;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_attach_process(pid, fd, uuid, core);
    if (code != 0)
        code = sharena_attach_uuid(uuid, core);
    Py_END_ALLOW_THREADS
    return code;
}

/* 0: *core is the heap that the environment names, or NULL when it names none that lives;
 * -1: the user's own setting is wrong, and the warning about it was turned into an error. */
static int join(sharena_heap **core)
{
    const char *text = getenv(VARIABLE);
    *core = NULL;
    if (text == NULL || text[0] == '\0')
        return 0;
    int code, named = strncmp(text, "name:", 5) == 0;
    if (named) {
        Py_BEGIN_ALLOW_THREADS
        code = sharena_attach(text + 5, core);
        Py_END_ALLOW_THREADS
    } else {
        code = join_by_uuid(text, core);
    }
    if (code == 0)
        return 0;
    *core = NULL;
    if (!named && code != SHARENA_EINVAL)
        return 0; /* an ancestor's heap that has ended with it */
    return PyErr_WarnFormat(
        PyExc_RuntimeWarning, 1,
        "the default heap is a new one, since " VARIABLE "=%s does not name one to join: %s",
        text, code == SHARENA_EINVAL ? sharena_strerror(code) : sharena_detail());
}

/* ---- making ---- */

static int make(ext_state *st, sharena_heap **core)
{
    sharena_options options = {0};
    const char *limit = getenv("SHARENA_LIMIT");
    if (limit != NULL && limit[0] != '\0' &&
        (ext_size_text(limit, &options.limit_bytes) < 0 || options.limit_bytes == 0)) {
        PyErr_Format(PyExc_ValueError,
                     "SHARENA_LIMIT=%s is no size to limit a heap to; write a number with KiB, "
                     "MiB or GiB",
                     limit);
        return -1;
    }
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_create(NULL, &options, core);
    Py_END_ALLOW_THREADS
    if (code != 0)
        ext_raise(st, code);
    return code;
}

static void install(ext_state *st, PyObject *heap, int made_here)
{
    st->default_heap = heap;
    st->default_arena = ((ext_heap *)heap)->arena;
    st->default_made_here = made_here;
    st->default_used = 0;
}

PyObject *ext_default_heap(ext_state *st)
{
    if (st->default_heap != NULL)
        return st->default_heap;
    sharena_heap *core;
    if (join(&core) < 0)
        return NULL;
    int made_here = core == NULL;
    if (made_here && make(st, &core) != 0)
        return NULL;
    PyObject *heap = ext_heap_new(st, core);
    if (heap == NULL)
        return NULL;
    if (st->default_heap != NULL) { /* another thread was faster */
        Py_DECREF(heap);
        return st->default_heap;
    }
    install(st, heap, made_here);
    return publish(st->default_arena) < 0 ? NULL : heap;
}

void ext_default_offer(ext_state *st, ext_arena *arena)
{
    if (st->default_arena == NULL || st->default_arena == arena || !st->default_made_here ||
        st->default_used)
        return;
    PyObject *heap = ext_heap_over(st, ext_arena_ref(arena));
    if (heap != NULL) {
        PyObject *old = st->default_heap;
        install(st, heap, 0);
        (void)publish(arena);
#ifndef Py_GIL_DISABLED /* a thread may be about to use it, and it is nearly empty */
        Py_DECREF(old);
#else
        (void)old;
#endif
    }
    PyErr_Clear(); /* the array at hand matters more */
}

void ext_default_closed(ext_state *st, ext_heap *heap)
{
    if (st->default_heap == (PyObject *)heap)
        st->default_arena = NULL;
}
