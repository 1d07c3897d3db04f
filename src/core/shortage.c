/* A shortage: which messages give way.
 *
 * Only those whose channel is unknown and whose maker is dead, oldest first, and only if that
 * helps: nobody gets a message back that was ended for a request that is refused all the same.
 * So all live tickets are listed, by block.  A block can go if nothing but tickets keeps it, and
 * each of them may end; a slab, if each of its blocks can.  What their end frees is summed up
 * before the first one ends.  Where address space is short, not memory, the tiling says which
 * stretch could be had, and only what lies in it ends.
 *
 * The list is of one moment.  What changes meanwhile is left alone: a ticket ends only if its
 * word is still the one listed, and the request then finds out how much that helped.
 */
#include <stdlib.h>

#include "ticket.h"

struct kept {
    uint64_t offset, number, word, made_ms;
    uint32_t at;
    int may_end, can_go; /* the ticket; its block */
};

struct listing {
    struct kept *all; /* by offset, then by number */
    size_t count;
};

/* What can go as a whole: a run, a slab, or a block of the class that is asked for. */
struct item {
    uint64_t made_ms; /* of its youngest ticket */
    uint64_t unit, units; /* the run or slab; a block counts as one unit */
    size_t first, end; /* its tickets */
};

/* Of unknown channel, and of a dead maker. */
static int may_end(sharena_heap *h, const struct ticket_shm *e, uint64_t w)
{
    sharena_place place;

    return ticket_live(w) && ticket_state(w) != TICKET_OPEN && !shr__ticket_place(e, w, &place) &&
           !shr__exporter_word_alive(h, load64_relaxed(&e->exporter), NULL);
}

static int by_block(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static int by_age(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return (x->made_ms > y->made_ms) - (x->made_ms < y->made_ms);
}

/* The first ticket of the next block. */
static size_t next_block(const struct listing *l, size_t i)
{
    size_t k = i + 1;

    while (k < l->count && by_block(&l->all[i], &l->all[k]) == 0)
        k++;
    return k;
}

/* The block, if it is in the life that the ticket names and only tickets keep it. */
static int alone(sharena_heap *h, const struct kept *t, struct block *b)
{
    return shr__decode(h, t->offset, b) == 0 && shr__number(b) == t->number &&
           (load64_relaxed(b->mask) & ~SHR_BIT_T) == 0;
}

static uint64_t bytes_of(const sharena_heap *h, const struct block *b)
{
    return b->class ? b->size : (shr__next_head(h, b->head) - b->head) << SHR_UNIT_SHIFT;
}

/* All live tickets; without private memory none. */
static void list_tickets(sharena_heap *h, struct listing *l)
{
    struct shr_list list = {.size = sizeof(struct kept)};
    uint32_t end = shr__entries(h);

    for (uint32_t i = shr__entry_next(h, 0); i < end; i = shr__entry_next(h, i + 1)) {
        const struct ticket_shm *e = shr__entry(h, i);
        uint64_t w = load64_acquire(&e->word);
        struct kept *t;
        if (!ticket_live(w))
            continue;
        t = shr__append(&list);
        if (!t) { /* the blocks of the others are unknown, so none can go */
            list.count = 0;
            break;
        }
        *t = (struct kept){.offset = load64_relaxed(&e->offset),
                           .number = load64_relaxed(&e->number),
                           .word = w,
                           .made_ms = load64_relaxed(&e->made_ms),
                           .at = i};
    }
    *l = (struct listing){list.items, list.count};
    if (l->count)
        qsort(l->all, l->count, sizeof *l->all, by_block);
}

static void find_what_can_go(sharena_heap *h, struct listing *l)
{
    for (size_t i = 0, next; i < l->count; i = next) {
        struct block b;
        int goes = alone(h, &l->all[i], &b);
        next = next_block(l, i);
        for (size_t k = i; k < next; k++)
            goes &= l->all[k].may_end = may_end(h, shr__entry(h, l->all[k].at), l->all[k].word);
        for (size_t k = i; k < next; k++)
            l->all[k].can_go = goes;
    }
}

static int can_go(const struct listing *l, uint64_t offset)
{
    size_t low = 0, high = l->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (l->all[mid].offset < offset)
            low = mid + 1;
        else
            high = mid;
    }
    for (; low < l->count && l->all[low].offset == offset; low++)
        if (l->all[low].can_go)
            return 1;
    return 0;
}

/* Can this thread's lane have a block that gets free in the slab at `unit`? */
static int lane_can_use(sharena_heap *h, uint64_t unit)
{
    uint64_t mask = load64_acquire(&h->units[unit].mask);
    struct slab *s = mask == (SHR_BIT_S | h->mine) ? shr__slab_at(h, unit) : NULL;
    const struct lane *l = s ? shr__lane_current(h) : NULL;

    return mask == SHR_BIT_S || (l && atomic_load_explicit(&s->lane, memory_order_relaxed) == l);
}

/* Is what gets free in the slab at `unit` this process's to use?  Else its owner keeps it. */
static int slab_is_ours(const sharena_heap *h, uint64_t unit)
{
    return (load64_acquire(&h->units[unit].mask) & ~h->mine) == SHR_BIT_S;
}

/* Can all of the slab's blocks go that are not free? */
static int slab_can_go(sharena_heap *h, const struct listing *l, uint64_t unit, uint32_t class)
{
    if (!slab_is_ours(h, unit))
        return 0;
    for (uint32_t i = 0; i < shr__classes[class].capacity; i++) {
        struct block b = shr__small_at(h, unit, class, i);
        if (load64_relaxed(b.mask) && !can_go(l, b.offset))
            return 0;
    }
    return 1;
}

/* ---- what can go ---------------------------------------------------------------------------- */

static void add_item(struct shr_list *items, const struct listing *l, struct item it)
{
    struct item *added;

    for (size_t k = it.first; k < it.end; k++)
        it.made_ms = l->all[k].made_ms > it.made_ms ? l->all[k].made_ms : it.made_ms;
    added = shr__append(items);
    if (added) /* else one less to go */
        *added = it;
}

/* Blocks of the class: one is as good as a slab. */
static void list_blocks(sharena_heap *h, const struct listing *l, uint32_t class,
                        struct shr_list *items)
{
    for (size_t i = 0, next; i < l->count; i = next) {
        struct block b;
        next = next_block(l, i);
        if (l->all[i].can_go && shr__decode(h, l->all[i].offset, &b) == 0 && b.class == class &&
            lane_can_use(h, b.head))
            add_item(items, l, (struct item){.units = 1, .first = i, .end = next});
    }
}

static int run_can_go(sharena_heap *h, const struct listing *l, uint64_t unit)
{
    uint64_t mask = load64_acquire(&h->units[unit].mask);
    uint32_t class = load32_acquire(&h->units[unit].class);

    if (class && class < shr__n_classes &&
        load32_acquire(&h->units[unit].pages) >= shr__classes[class].pages)
        return slab_can_go(h, l, unit, class);
    return mask && !(mask & SHR_BIT_S) && can_go(l, unit << SHR_UNIT_SHIFT);
}

/* Runs and slabs, by address. */
static void list_runs(sharena_heap *h, const struct listing *l, struct shr_list *items)
{
    for (size_t i = 0, next; i < l->count; i = next) {
        struct block b;
        uint64_t end;
        next = i + 1;
        if (!l->all[i].can_go || shr__decode(h, l->all[i].offset, &b) != 0)
            continue;
        end = shr__next_head(h, b.head);
        while (next < l->count && l->all[next].offset >> SHR_UNIT_SHIFT < end)
            next++;
        if (run_can_go(h, l, b.head))
            add_item(items, l, (struct item){0, b.head, end - b.head, i, next});
    }
}

/* ---- and goes ------------------------------------------------------------------------------- */

static int end_item(sharena_heap *h, const struct listing *l, const struct item *it)
{
    int ended = 0;

    for (size_t k = it->first; k < it->end; k++)
        if (l->all[k].can_go)
            ended |= shr__ticket_end(h, l->all[k].at, l->all[k].word);
    return ended;
}

static int end_oldest(sharena_heap *h, const struct listing *l, struct shr_list *items,
                      uint64_t units)
{
    struct item *all = items->items;
    uint64_t freed = 0;
    int ended = 0;

    if (items->count)
        qsort(all, items->count, sizeof *all, by_age);
    for (size_t i = 0; i < items->count && freed < units; i++) {
        if (!end_item(h, l, &all[i]))
            continue;
        ended = 1;
        freed += all[i].units;
    }
    return ended;
}

static uint64_t units_of(const struct shr_list *items)
{
    const struct item *all = items->items;
    uint64_t sum = 0;

    for (size_t i = 0; i < items->count; i++)
        sum += all[i].units;
    return sum;
}

static int lies_in(const struct item *it, uint64_t from, uint64_t to)
{
    return it->unit < to && it->unit + it->units > from;
}

/* Is there memory for these units, too, if everything goes that may? */
static int can_be_filled(sharena_heap *h, const struct shr_list *items,
                         const struct shr_shortage *s, uint64_t from, uint64_t to)
{
    const struct item *all = items->items;
    uint64_t have = s->free_units + shr__bits_in(h->commit, from, to);

    for (size_t i = 0; i < items->count; i++)
        have += lies_in(&all[i], from, to) ? 0 : all[i].units;
    return have >= to - from;
}

/* Address space is short: the first stretch with room for the run that is asked for. */
static int end_a_stretch(sharena_heap *h, const struct listing *l, const struct shr_list *items,
                         const struct shr_shortage *s)
{
    const struct item *all = items->items;
    uint64_t used = shr__used(h), from = 0;
    size_t n = 0; /* the next item */
    int ended = 0;

    for (uint64_t u = 0, end; u < used; u = end) {
        uint64_t at = shr__round_up(from, s->align), to = at + s->units;
        int goes = n < items->count && all[n].unit == u;
        n += (size_t)goes;
        end = shr__next_head(h, u);
        if (!goes && load64_acquire(&h->units[u].mask) != 0) {
            from = end;
            continue;
        }
        if (to > end || !can_be_filled(h, items, s, at, to))
            continue;
        for (size_t i = 0; i < items->count; i++)
            if (lies_in(&all[i], at, to))
                ended |= end_item(h, l, &all[i]);
        return ended;
    }
    return 0;
}

/* Memory is short. */
static int end_for_memory(sharena_heap *h, const struct listing *l, struct shr_list *items,
                          const struct shr_shortage *s, unsigned round)
{
    uint64_t lack = s->units;

    if (s->free_units < s->units)
        lack -= s->free_units;
    return units_of(items) < lack ? 0
                                  : end_oldest(h, l, items, lack << (round < 20 ? round : 20));
}

int shr__tickets_give_way(sharena_heap *h, const struct shr_shortage *s, unsigned round)
{
    struct shr_list items = {.size = sizeof(struct item)};
    struct listing l;
    int ended;

    list_tickets(h, &l);
    find_what_can_go(h, &l);
    if (s->class)
        list_blocks(h, &l, s->class, &items);
    if (items.count) {
        /* more than one, or a heap full of them would be listed for each that is wanted */
        ended = end_oldest(h, &l, &items, 1 + items.count / 8);
    } else {
        list_runs(h, &l, &items);
        ended = s->code == SHARENA_ERESERVE ? end_a_stretch(h, &l, &items, s)
                                            : end_for_memory(h, &l, &items, s, round);
    }
    free(items.items);
    free(l.all);
    return ended;
}

uint64_t shr__tickets_bytes(sharena_heap *h)
{
    struct listing l;
    struct block b;
    uint64_t sum = 0;

    list_tickets(h, &l);
    for (size_t i = 0; i < l.count; i = next_block(&l, i))
        if (alone(h, &l.all[i], &b))
            sum += bytes_of(h, &b);
    free(l.all);
    return sum;
}

/* ---- the table of tickets is short ------------------------------------------------------------ */

struct oldest {
    uint64_t word, made_ms;
    uint32_t at;
};

static void older(sharena_heap *h, uint32_t at, void *argument)
{
    const struct ticket_shm *e = shr__entry(h, at);
    uint64_t w = load64_acquire(&e->word), made = load64_relaxed(&e->made_ms);
    struct oldest *found = argument;

    if (made < found->made_ms && may_end(h, e, w))
        *found = (struct oldest){w, made, at};
}

int shr__ticket_make_way(sharena_heap *h, uint64_t offset)
{
    struct oldest found = {.made_ms = UINT64_MAX};

    shr__entry_candidates(h, offset, older, &found);
    return found.made_ms != UINT64_MAX && shr__ticket_end(h, found.at, found.word);
}
