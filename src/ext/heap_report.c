/* What a Heap tells about itself: stats, check, processes, blocks, tickets.
 *
 * The core calls back for each item, without the GIL.  Items are gathered in private memory
 * and become Python objects afterwards.
 */
#include "ext.h"

/* ---- gathering ---- */

typedef struct {
    char *items;
    size_t size, count, room; /* of one item; items; items there is room for */
    int failed;               /* no private memory */
} gathered;

static void *gather(gathered *g)
{
    if (g->count == g->room) {
        size_t room = g->room == 0 ? 64 : 2 * g->room;
        char *items = PyMem_RawRealloc(g->items, room * g->size);
        if (items == NULL) {
            g->failed = 1;
            return NULL;
        }
        g->items = items;
        g->room = room;
    }
    return g->items + g->size * g->count++;
}

typedef struct {
    char text[256];
} fault_line;

static void on_fault(const char *text, void *argument)
{
    fault_line *line = gather(argument);
    if (line != NULL)
        PyOS_snprintf(line->text, sizeof line->text, "%s", text);
}

static int on_process(const sharena_process *process, void *argument)
{
    sharena_process *copy = gather(argument);
    if (copy != NULL)
        *copy = *process;
    return copy == NULL;
}

static int on_ticket(const sharena_ticket *ticket, void *argument)
{
    sharena_ticket *copy = gather(argument);
    if (copy != NULL)
        *copy = *ticket;
    return copy == NULL;
}

typedef struct {
    sharena_block_info info;
    char site[128];
} block_line;

static int on_block(const sharena_block_info *info, void *argument)
{
    block_line *line = gather(argument);
    if (line == NULL)
        return 1;
    line->info = *info;
    PyOS_snprintf(line->site, sizeof line->site, "%s", info->site == NULL ? "" : info->site);
    return 0;
}

/* ---- to Python ---- */

static PyObject *text_from(const char *text)
{
    return PyUnicode_DecodeFSDefault(text);
}

static PyObject *from_u64(uint64_t value)
{
    return PyLong_FromUnsignedLongLong(value);
}

static PyObject *seconds_from_ns(uint64_t ns)
{
    return PyFloat_FromDouble((double)ns * 1e-9);
}

static PyObject *fault_object(ext_state *st, const void *item)
{
    (void)st;
    return text_from(((const fault_line *)item)->text);
}

static PyObject *process_object(ext_state *st, const void *item)
{
    const sharena_process *p = item;
    PyObject *values[] = {
        from_u64(p->slot),         PyLong_FromLong(p->pid), seconds_from_ns(p->started_ns),
        from_u64(p->blocks),       from_u64(p->bytes),      from_u64(p->guests),
        PyBool_FromLong(p->alive), text_from(p->command)};
    return ext_record(st->process_type, values, 8);
}

static PyObject *ticket_object(ext_state *st, const void *item)
{
    const sharena_ticket *t = item;
    PyObject *values[] = {from_u64(t->entry),
                          from_u64(t->offset),
                          from_u64(t->number),
                          from_u64(t->size_bytes),
                          seconds_from_ns(t->made_ns),
                          from_u64(t->uses),
                          PyLong_FromLong(t->exporter),
                          PyBool_FromLong(t->exporter_alive),
                          text_from(ext_place_text(t->place.kind)),
                          from_u64(ext_place_channel(&t->place)),
                          PyBool_FromLong(t->alone)};
    return ext_record(st->ticket_type, values, 11);
}

static PyObject *block_object(ext_state *st, const void *item)
{
    const block_line *line = item;
    PyObject *values[] = {from_u64(line->info.offset), from_u64(line->info.size_bytes),
                          from_u64(line->info.holders), text_from(line->site)};
    return ext_record(st->block_info_type, values, 4);
}

static PyObject *list_from(ext_state *st, gathered *g,
                           PyObject *(*make)(ext_state *, const void *))
{
    if (g->failed) {
        PyMem_RawFree(g->items);
        return PyErr_NoMemory();
    }
    PyObject *list = PyList_New((Py_ssize_t)g->count);
    for (size_t i = 0; list != NULL && i < g->count; i++) {
        PyObject *object = make(st, g->items + i * g->size);
        if (object == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, object);
    }
    PyMem_RawFree(g->items);
    return list;
}

/* ---- lists ---- */

enum list_kind { FAULTS, PROCESSES, TICKETS, BLOCKS };

static int walk(sharena_heap *core, enum list_kind kind, size_t min_bytes, gathered *g)
{
    switch (kind) {
    case FAULTS:
        return sharena_check(core, on_fault, g);
    case PROCESSES:
        return sharena_process_list(core, on_process, g);
    case TICKETS:
        return sharena_ticket_list(core, on_ticket, g);
    default:
        return sharena_block_list(core, min_bytes, on_block, g);
    }
}

static PyObject *list_all(PyObject *self, enum list_kind kind, size_t min_bytes, size_t size,
                          PyObject *(*make)(ext_state *, const void *))
{
    ext_state *st = ext_state_of_object(self);
    ext_arena *arena = ext_heap_arena(st, (ext_heap *)self);
    if (arena == NULL)
        return NULL;
    gathered g = {.size = size};
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = walk(arena->core, kind, min_bytes, &g);
    Py_END_ALLOW_THREADS
    PyObject *list = NULL;
    if (code >= 0 || g.failed) {
        list = list_from(st, &g, make);
    } else {
        PyMem_RawFree(g.items);
        ext_raise(st, code);
    }
    ext_arena_unref(arena);
    return list;
}

PyObject *ext_heap_check(PyObject *self, PyObject *unused)
{
    (void)unused;
    return list_all(self, FAULTS, 0, sizeof(fault_line), fault_object);
}

PyObject *ext_heap_processes(PyObject *self, PyObject *unused)
{
    (void)unused;
    return list_all(self, PROCESSES, 0, sizeof(sharena_process), process_object);
}

PyObject *ext_heap_tickets(PyObject *self, PyObject *unused)
{
    (void)unused;
    return list_all(self, TICKETS, 0, sizeof(sharena_ticket), ticket_object);
}

PyObject *ext_heap_blocks(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"min_bytes", NULL};
    PyObject *size = NULL;
    uint64_t min_bytes = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:blocks", names, &size) ||
        ext_size_parse(size, "min_bytes", &min_bytes) < 0)
        return NULL;
    return list_all(self, BLOCKS, (size_t)min_bytes, sizeof(block_line), block_object);
}

/* ---- stats ---- */

int ext_heap_read(ext_state *st, ext_heap *heap, sharena_stats *stats)
{
    ext_arena *arena = ext_heap_arena(st, heap);
    if (arena == NULL)
        return -1;
    int code;
    Py_BEGIN_ALLOW_THREADS
    code = sharena_stats_read(arena->core, stats);
    Py_END_ALLOW_THREADS
    if (code != 0)
        ext_raise(st, code);
    ext_arena_unref(arena);
    return code == 0 ? 0 : -1;
}

static PyObject *classes_from(ext_state *st, const sharena_stats *s)
{
    uint32_t count = s->classes < SHARENA_CLASSES ? s->classes : SHARENA_CLASSES;
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (uint32_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *values[] = {from_u64(s->by_class[i].size_bytes), from_u64(s->by_class[i].slabs),
                              from_u64(s->by_class[i].blocks), from_u64(s->by_class[i].capacity)};
        PyObject *item = ext_record(st->class_type, values, 4);
        if (item == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, item);
    }
    return tuple;
}

PyObject *ext_heap_stats(PyObject *self, PyObject *unused)
{
    (void)unused;
    ext_state *st = ext_state_of_object(self);
    ext_heap *heap = (ext_heap *)self;
    sharena_stats s;
    ext_arena *arena = ext_heap_arena(st, heap);
    if (arena == NULL)
        return NULL;
    PyObject *waiting = ext_heap_waiting(st, arena);
    ext_arena_unref(arena);
    if (waiting == NULL || ext_heap_read(st, heap, &s) < 0) {
        Py_XDECREF(waiting);
        return NULL;
    }
    const ext_sent *sent = &st->sent;
    PyObject *values[] = {
        Py_NewRef(heap->name),
        ext_uuid_text(heap->uuid),
        from_u64(s.limit_bytes),
        from_u64(s.reserve_bytes),
        from_u64(s.retain_bytes),
        from_u64(s.committed_bytes),
        from_u64(s.metadata_bytes),
        from_u64(s.live_bytes),
        from_u64(s.retained_bytes),
        from_u64(s.stranded_bytes),
        from_u64(s.inflight_bytes),
        from_u64(s.blocks),
        from_u64(s.runs),
        from_u64(s.slabs),
        from_u64(s.abandoned_slabs),
        from_u64(s.tickets),
        from_u64(s.names),
        from_u64(s.processes),
        from_u64(s.max_processes),
        from_u64(s.guests),
        classes_from(st, &s),
        from_u64(sent->handle_arrays),
        from_u64(sent->handle_bytes),
        from_u64(sent->value_arrays),
        from_u64(sent->value_bytes),
        waiting,
    };
    return ext_record(st->stats_type, values, sizeof values / sizeof values[0]);
}

static void size_text(char *out, size_t room, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024.0 && unit < 4; unit++)
        value /= 1024.0;
    PyOS_snprintf(out, room, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

PyObject *ext_heap_repr(PyObject *self)
{
    ext_heap *heap = (ext_heap *)self;
    PyObject *name = heap->name == Py_None ? PyUnicode_FromString("unnamed")
                                           : PyObject_Repr(heap->name);
    if (name == NULL)
        return NULL;
    sharena_stats s;
    PyObject *text;
    if (heap->arena == NULL) {
        text = PyUnicode_FromFormat("<sharena.Heap %U, closed>", name);
    } else if (ext_heap_read(ext_state_of_object(self), heap, &s) < 0) {
        PyErr_Clear();
        text = PyUnicode_FromFormat("<sharena.Heap %U, unreadable>", name);
    } else {
        char live[32], retained[32], limit[32];
        size_text(live, sizeof live, s.live_bytes);
        size_text(retained, sizeof retained, s.retained_bytes);
        size_text(limit, sizeof limit, s.limit_bytes);
        text = PyUnicode_FromFormat(
            "<sharena.Heap %U: %s live, %s retained, limit %s, %u process%s>", name, live,
            retained, limit, s.processes, s.processes == 1 ? "" : "es");
    }
    Py_DECREF(name);
    return text;
}
