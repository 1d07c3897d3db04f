/* What waits to be received, and why it is kept: Heap.stats().waiting.
 *
 * Tickets are summed up by where they are; for the channels with the most bytes the judge is
 * asked who can still read them, which takes a look through /proc each.
 */
#include <stdio.h>

#include "judge.h"
#include "ext.h"

#define GROUPS 64 /* told apart; what comes later is summed up by its kind */
#define KINDS 10  /* five, of living and of dead makers */
#define ASKED 4   /* channels whose reader is looked for */

typedef struct {
    sharena_place place;
    int alive, exporter; /* the maker */
    uint64_t tickets, bytes;
} group;

typedef struct {
    group all[GROUPS + KINDS];
    int count;
} groups;

static int fits(const group *g, const sharena_ticket *t, int whole)
{
    return g->place.kind == t->place.kind && g->alive == t->exporter_alive &&
           (whole || (g->place.id == t->place.id && g->place.where == t->place.where &&
                      (g->place.id != 0 || g->exporter == t->exporter)));
}

static int add_ticket(const sharena_ticket *t, void *argument)
{
    groups *gs = argument;
    group *found = NULL;
    for (int i = 0; i < gs->count && found == NULL; i++) {
        if (fits(&gs->all[i], t, i >= GROUPS))
            found = &gs->all[i];
    }
    if (found == NULL && gs->count == GROUPS + KINDS)
        return 0;
    if (found == NULL) {
        found = &gs->all[gs->count++];
        *found = (group){.place = t->place, .alive = t->exporter_alive, .exporter = t->exporter};
    }
    found->tickets++;
    found->bytes += t->alone ? t->size_bytes : 0;
    return 0;
}

static int more_bytes(const void *a, const void *b)
{
    const group *x = a, *y = b;
    return (y->bytes > x->bytes) - (y->bytes < x->bytes);
}

static void channel_cause(const group *g, int *asked, char *out, size_t size)
{
    const char *obstacle;
    if (*asked < ASKED && ext_judge_reader(&g->place, out, size)) {
        ++*asked;
        return;
    }
    obstacle = ext_judge_obstacle();
    if (*asked >= ASKED)
        (void)snprintf(out, size, "somebody may still read it");
    else if (obstacle[0] != '\0')
        (void)snprintf(out, size, "nobody was found who can read it, but %s", obstacle);
    else
        (void)snprintf(out, size, "nobody was found who can read it: it ends soon");
    ++*asked;
}

static void cause_of(const group *g, int *asked, char *out, size_t size)
{
    switch (g->place.kind) {
    case SHARENA_PLACE_OPEN:
        (void)snprintf(out, size,
                       g->alive ? "process %d is writing the message"
                                : "process %d died while it wrote the message",
                       g->exporter);
        return;
    case SHARENA_PLACE_LOOSE:
        (void)snprintf(out, size,
                       g->alive ? "of unknown channel; good while process %d lives"
                                : "of unknown channel, its maker is dead: until it is loaded, "
                                  "or memory is short",
                       g->exporter);
        return;
    default:
        channel_cause(g, asked, out, size);
    }
}

static PyObject *record_from(ext_state *st, const group *g, int *asked)
{
    char cause[256] = "";
    Py_BEGIN_ALLOW_THREADS
    cause_of(g, asked, cause, sizeof cause);
    Py_END_ALLOW_THREADS
    PyObject *values[] = {PyUnicode_FromString(ext_place_text(g->place.kind)),
                          PyLong_FromUnsignedLongLong(ext_place_channel(&g->place)),
                          PyLong_FromUnsignedLongLong(g->tickets),
                          PyLong_FromUnsignedLongLong(g->bytes),
                          PyUnicode_DecodeFSDefault(cause)};
    return ext_record(st->waiting_type, values, 5);
}

/* A tuple of Waiting records, most bytes first. */
PyObject *ext_heap_waiting(ext_state *st, ext_arena *arena)
{
    groups *gs = PyMem_RawCalloc(1, sizeof *gs);
    if (gs == NULL)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    (void)sharena_ticket_list(arena->core, add_ticket, gs);
    qsort(gs->all, (size_t)gs->count, sizeof gs->all[0], more_bytes);
    Py_END_ALLOW_THREADS
    PyObject *tuple = PyTuple_New(gs->count);
    int asked = 0;
    for (int i = 0; tuple != NULL && i < gs->count; i++) {
        PyObject *record = record_from(st, &gs->all[i], &asked);
        if (record == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, record);
    }
    PyMem_RawFree(gs);
    return tuple;
}
