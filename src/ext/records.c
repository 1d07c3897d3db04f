/* The records that a Heap's reports are made of: tuples with named, unchangeable fields. */
#include "ext.h"

static PyStructSequence_Field stats_fields[] = {
    {"name", "of the heap, or None"},
    {"uuid", "32 hexadecimal digits"},
    {"limit_bytes", "the most bytes of memory it may take"},
    {"reserve_bytes", "address space for its data"},
    {"retain_bytes", "free memory that may be kept warm"},
    {"committed_bytes", "memory it takes now, data and metadata"},
    {"metadata_bytes", "of these, its own tables"},
    {"live_bytes", "in blocks that somebody holds"},
    {"retained_bytes", "free and kept warm"},
    {"stranded_bytes", "free, but only for the process that owns the slab"},
    {"inflight_bytes", "in blocks that only unspent handles hold"},
    {"blocks", "number of live blocks"},
    {"runs", "of these, large ones"},
    {"slabs", "groups of small blocks"},
    {"abandoned_slabs", "of these, without an owner"},
    {"tickets", "handles in flight"},
    {"names", "named arrays"},
    {"processes", "that use the heap"},
    {"max_processes", "that can use it at once"},
    {"guests", "forked processes that share their parent's slot"},
    {"classes", "a SizeClass for each size of small blocks"},
    {"handle_arrays", "arrays that this process has sent as handles, to any heap"},
    {"handle_bytes", "of array data, the same"},
    {"value_arrays", "arrays that this process has sent by value"},
    {"value_bytes", "of array data, the same"},
    {"waiting", "a Waiting for each place where handles wait to be loaded, and why they do"},
    {NULL, NULL},
};

static PyStructSequence_Field waiting_fields[] = {
    {"place", "'open', 'loose', 'pipe', 'socket' or 'child'"},
    {"channel", "of the pipe or socket, its inode; of the child, its process id; else 0"},
    {"tickets", "handles there, one for each array and message"},
    {"bytes", "in blocks that nothing else keeps, each once for every handle of it"},
    {"cause", "why they are kept, and until when"},
    {NULL, NULL},
};

static PyStructSequence_Field class_fields[] = {
    {"size_bytes", "of one block"},
    {"slabs", "of this class"},
    {"blocks", "live"},
    {"capacity", "blocks there is room for in these slabs"},
    {NULL, NULL},
};

static PyStructSequence_Field process_fields[] = {
    {"slot", "its number in the heap"},
    {"pid", "process id"},
    {"started", "when it attached, in seconds since the epoch"},
    {"blocks", "that it holds"},
    {"bytes", "in these"},
    {"guests", "forked processes that share its slot"},
    {"alive", "False: dead, and not cleared up after yet"},
    {"command", "its name"},
    {NULL, NULL},
};

static PyStructSequence_Field ticket_fields[] = {
    {"entry", "its number in the table"},
    {"offset", "of the block"},
    {"number", "which life of the block"},
    {"size_bytes", "of the block"},
    {"made", "when, in seconds since the epoch"},
    {"uses", "loads not made yet"},
    {"exporter", "process id of its maker"},
    {"exporter_alive", "whether that still runs"},
    {"place", "where it is: 'open', 'loose', 'pipe', 'socket' or 'child'"},
    {"channel", "of the pipe or socket, its inode; of the child, its process id; else 0"},
    {"alone", "whether nothing but tickets keeps the block"},
    {NULL, NULL},
};

static PyStructSequence_Field block_fields[] = {
    {"offset", "in the heap"},
    {"size_bytes", "usable"},
    {"holders", "bit mask of slots"},
    {"site", "file:line of its allocation, or ''"},
    {NULL, NULL},
};

/* ---- the repr of Stats ---- */

#define LINE 79   /* columns; the last one is for the parenthesis */
#define INDENT 6  /* of "Stats(" */

/* How many size classes there are, and how many of them have slabs. */
static PyObject *classes_text(PyObject *classes)
{
    Py_ssize_t used = 0, all = PyTuple_GET_SIZE(classes);
    for (Py_ssize_t i = 0; i < all; i++) {
        PyObject *slabs = PyStructSequence_GetItem(PyTuple_GET_ITEM(classes, i), 1);
        int is = PyObject_IsTrue(slabs);
        if (is < 0)
            return NULL;
        used += is;
    }
    return PyUnicode_FromFormat("<%zd of %zd in use>", used, all);
}

static PyObject *places_text(PyObject *waiting)
{
    Py_ssize_t n = PyTuple_GET_SIZE(waiting);
    return PyUnicode_FromFormat("<%zd place%s>", n, n == 1 ? "" : "s");
}

/* "name=value", or an empty text for what is 0, None or empty. */
static PyObject *field_text(const char *name, PyObject *value)
{
    int is = PyObject_IsTrue(value);
    if (is <= 0)
        return is < 0 ? NULL : PyUnicode_FromString("");
    PyObject *shown = strcmp(name, "classes") == 0   ? classes_text(value)
                      : strcmp(name, "waiting") == 0 ? places_text(value)
                                                     : PyObject_Repr(value);
    PyObject *text = shown == NULL ? NULL : PyUnicode_FromFormat("%s=%U", name, shown);
    Py_XDECREF(shown);
    return text;
}

/* Puts a field behind the others, on a line of its own where this one is full; steals both. */
static PyObject *append_field(PyObject *all, PyObject *field, Py_ssize_t *column)
{
    Py_ssize_t length = field == NULL ? 0 : PyUnicode_GET_LENGTH(field);
    PyObject *longer = NULL;
    if (field != NULL && length == 0) {
        longer = Py_NewRef(all);
    } else if (field != NULL) {
        int first = *column == INDENT, wraps = *column + length + 2 > LINE;
        longer = PyUnicode_FromFormat("%U%s%U", all,
                                      first   ? ""
                                      : wraps ? ",\n      "
                                              : ", ",
                                      field);
        *column = (first || wraps ? INDENT : *column + 2) + length;
    }
    Py_XDECREF(field);
    Py_DECREF(all);
    return longer;
}

/* All fields that say something, some to a line; the size classes would fill a screen. */
static PyObject *stats_repr(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *all = PyUnicode_FromString("Stats(");
    Py_ssize_t column = INDENT;
    for (Py_ssize_t i = 0; all != NULL && stats_fields[i].name != NULL; i++)
        all = append_field(
            all, field_text(stats_fields[i].name, PyStructSequence_GetItem(self, i)), &column);
    PyObject *result = all == NULL ? NULL : PyUnicode_FromFormat("%U)", all);
    Py_XDECREF(all);
    return result;
}

static PyMethodDef stats_repr_method = {"__repr__", stats_repr, METH_NOARGS, NULL};

static int add_repr(PyTypeObject *type)
{
    PyObject *method = PyDescr_NewMethod(type, &stats_repr_method);
    int status = method == NULL ? -1
                                : PyObject_SetAttrString((PyObject *)type, "__repr__", method);
    Py_XDECREF(method);
    return status;
}

static const struct {
    size_t at; /* in the module state */
    PyStructSequence_Desc desc;
} records[] = {
    {offsetof(ext_state, stats_type),
     {"sharena._core.Stats", "What Heap.stats() tells.", stats_fields, 26}},
    {offsetof(ext_state, waiting_type),
     {"sharena._core.Waiting", "Handles that wait in one place.", waiting_fields, 5}},
    {offsetof(ext_state, class_type),
     {"sharena._core.SizeClass", "Small blocks of one size.", class_fields, 4}},
    {offsetof(ext_state, process_type),
     {"sharena._core.Process", "A process that uses a heap.", process_fields, 8}},
    {offsetof(ext_state, ticket_type),
     {"sharena._core.Ticket", "A handle in flight.", ticket_fields, 11}},
    {offsetof(ext_state, block_info_type),
     {"sharena._core.BlockInfo", "A live block.", block_fields, 4}},
};

PyObject *ext_record(PyTypeObject *type, PyObject **values, int count)
{
    PyObject *record = PyStructSequence_New(type);
    int complete = record != NULL;
    for (int i = 0; i < count; i++) {
        if (values[i] == NULL)
            complete = 0;
        if (record == NULL)
            Py_XDECREF(values[i]);
        else
            PyStructSequence_SetItem(record, i, values[i]);
    }
    if (!complete)
        Py_CLEAR(record);
    return record;
}

const char *ext_place_text(uint32_t kind)
{
    static const char *const texts[] = {"", "open", "loose", "pipe", "socket", "child"};
    return kind < sizeof texts / sizeof texts[0] ? texts[kind] : "";
}

uint64_t ext_place_channel(const sharena_place *place)
{
    return place->kind == SHARENA_PLACE_CHILD ? (uint32_t)place->where : place->id;
}

int ext_records_init(ext_state *st, PyObject *module)
{
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        PyStructSequence_Desc desc = records[i].desc;
        PyTypeObject *type = PyStructSequence_NewType(&desc);
        if (type == NULL)
            return -1;
        *(PyTypeObject **)((char *)st + records[i].at) = type;
        if (type == st->stats_type && add_repr(type) < 0)
            return -1;
        if (PyModule_AddType(module, type) < 0)
            return -1;
    }
    return 0;
}
