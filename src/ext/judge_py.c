/* The judge for tests and for people: private functions of the module.
 *
 * A place is a tuple (kind, id, where), its kind a word.
 */
#include "ext.h"
#include "judge.h"

static PyObject *place_object(const sharena_place *place)
{
    return Py_BuildValue("(sKK)", ext_place_text(place->kind), (unsigned long long)place->id,
                         (unsigned long long)place->where);
}

static int place_parse(PyObject *object, sharena_place *out)
{
    const char *kind;
    unsigned long long id, where;

    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "a place is a tuple (kind, id, where)");
        return -1;
    }
    if (!PyArg_ParseTuple(object, "sKK", &kind, &id, &where))
        return -1;
    memset(out, 0, sizeof *out);
    for (uint32_t k = SHARENA_PLACE_OPEN; k <= SHARENA_PLACE_CHILD; k++)
        if (strcmp(kind, ext_place_text(k)) == 0)
            out->kind = k;
    out->id = id;
    out->where = where;
    if (out->kind != 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "no kind of place: %s", kind);
    return -1;
}

static int member_parse(PyObject *object, sharena_member *out)
{
    int pid;
    unsigned int guests;
    unsigned long long space;

    if (!PyTuple_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "a member is a tuple (pid, guests, pid namespace)");
        return -1;
    }
    if (!PyArg_ParseTuple(object, "iIK", &pid, &guests, &space))
        return -1;
    *out = (sharena_member){.pid = pid, .guests = guests, .pidns = space};
    return 0;
}

PyObject *ext_judge_place_of(PyObject *module, PyObject *argument)
{
    sharena_place place;
    int fd = PyObject_AsFileDescriptor(argument);

    (void)module;
    if (fd < 0)
        return NULL;
    (void)ext_place_of(fd, &place);
    return place_object(&place);
}

PyObject *ext_judge_place_of_child(PyObject *module, PyObject *argument)
{
    sharena_place place;
    long pid = PyLong_AsLong(argument);

    (void)module;
    if (pid == -1 && PyErr_Occurred())
        return NULL;
    (void)ext_place_of_child((pid_t)pid, &place);
    return place_object(&place);
}

PyObject *ext_judge_reader_of(PyObject *module, PyObject *argument)
{
    sharena_place place;
    char text[160];

    (void)module;
    if (place_parse(argument, &place) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    (void)ext_judge_reader(&place, text, sizeof text);
    Py_END_ALLOW_THREADS
    return PyUnicode_FromString(text);
}

PyObject *ext_judge_obstacle_of(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyUnicode_FromString(ext_judge_obstacle());
}

/* Memory for `count` items of the sequence, each parsed; NULL with an exception. */
static void *parse_all(PyObject *sequence, size_t size, int (*parse)(PyObject *, void *))
{
    Py_ssize_t n = PyList_GET_SIZE(sequence);
    char *items = PyMem_Calloc((size_t)n + 1, size);

    if (items == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++) {
        if (parse(PyList_GET_ITEM(sequence, i), items + (size_t)i * size) < 0) {
            PyMem_Free(items);
            return NULL;
        }
    }
    return items;
}

static int parse_place(PyObject *object, void *out)
{
    return place_parse(object, out);
}

static int parse_member(PyObject *object, void *out)
{
    return member_parse(object, out);
}

static PyObject *verdicts(const uint8_t *dead, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);

    for (Py_ssize_t i = 0; list != NULL && i < n; i++)
        PyList_SET_ITEM(list, i, PyBool_FromLong(dead[i]));
    return list;
}

PyObject *ext_judge_unreadable(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"places", "members", "mode", "patient", NULL};
    PyObject *place_list, *member_list, *result = NULL;
    sharena_inquiry inquiry = {.mode = 0600};

    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!|Ip:_unreadable", names, &PyList_Type,
                                     &place_list, &PyList_Type, &member_list, &inquiry.mode,
                                     &inquiry.patient))
        return NULL;
    sharena_place *places = parse_all(place_list, sizeof *places, parse_place);
    sharena_member *members = places == NULL
                                  ? NULL
                                  : parse_all(member_list, sizeof *members, parse_member);
    Py_ssize_t n = PyList_GET_SIZE(place_list);
    uint8_t *dead = members == NULL ? NULL : PyMem_Calloc((size_t)n + 1, 1);
    if (dead != NULL) {
        inquiry.places = places;
        inquiry.n_places = (size_t)n;
        inquiry.members = members;
        inquiry.n_members = (size_t)PyList_GET_SIZE(member_list);
        inquiry.dead = dead;
        Py_BEGIN_ALLOW_THREADS
        ext_judge(&inquiry, NULL);
        Py_END_ALLOW_THREADS
        result = verdicts(dead, n);
    } else if (members != NULL) {
        (void)PyErr_NoMemory();
    }
    PyMem_Free(dead);
    PyMem_Free(members);
    PyMem_Free(places);
    return result;
}
