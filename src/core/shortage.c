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
    uint64_t bytes; /* that the end of all tickets of the block gives the request */
    uint32_t at;
    int may_end, can_go; /* the ticket; its block */
};

struct listing {
    struct kept *all; /* by offset, then by number */
    size_t count;
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
    const struct kept *x = a, *y = b;

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

/* ---- memory is short ---------------------------------------------------------------------- */

/* Sets what each block would give, once for each; returns the sum.  Of address space a single
 * block gives nothing, unless it is of the very class that is asked for. */
static uint64_t worth(sharena_heap *h, struct listing *l, const struct shr_shortage *s)
{
    int memory = s->code != SHARENA_ERESERVE, goes = 0;
    uint32_t slab = UINT32_MAX;
    uint64_t sum = 0;

    for (size_t i = 0, next; i < l->count; i = next) {
        struct kept *t = &l->all[i];
        struct block b;
        next = next_block(l, i);
        if (!t->can_go || shr__decode(h, t->offset, &b) != 0)
            continue;
        if (b.class && b.head != slab) {
            slab = b.head;
            goes = b.class == s->class ? slab_is_ours(h, b.head)
                                       : memory && slab_can_go(h, l, b.head, b.class);
        }
        if (b.class ? !goes : !memory)
            continue;
        for (size_t k = i; k < next; k++)
            l->all[k].bytes = bytes_of(h, &b);
        sum += t->bytes;
    }
    return sum;
}

static int end_oldest(sharena_heap *h, struct listing *l, uint64_t bytes)
{
    uint64_t freed = 0;
    int ended = 0;

    qsort(l->all, l->count, sizeof *l->all, by_age);
    for (size_t i = 0; i < l->count && freed < bytes; i++) {
        const struct kept *t = &l->all[i];
        if (!t->bytes || !shr__ticket_end(h, t->at, t->word))
            continue;
        ended = 1;
        if (!shr__ticket_live(h, t->offset, t->number))
            freed += t->bytes;
    }
    return ended;
}

/* ---- address space is short ------------------------------------------------------------------- */

/* Whether the run or slab at `unit` is free, or could be. */
static int clears(sharena_heap *h, const struct listing *l, uint64_t unit)
{
    uint64_t mask = load64_acquire(&h->units[unit].mask);
    uint32_t class = load32_acquire(&h->units[unit].class);

    if (mask == 0)
        return 1;
    if (class && class < shr__n_classes &&
        load32_acquire(&h->units[unit].pages) >= shr__classes[class].pages)
        return slab_can_go(h, l, unit, class);
    return !(mask & SHR_BIT_S) && can_go(l, unit << SHR_UNIT_SHIFT);
}

static int end_in(sharena_heap *h, const struct listing *l, uint64_t from, uint64_t to)
{
    int ended = 0;

    for (size_t i = 0; i < l->count; i++) {
        uint64_t unit = l->all[i].offset >> SHR_UNIT_SHIFT;
        if (l->all[i].can_go && unit >= from && unit < to)
            ended |= shr__ticket_end(h, l->all[i].at, l->all[i].word);
    }
    return ended;
}

/* The first stretch with room for the run that is asked for. */
static int end_a_stretch(sharena_heap *h, const struct listing *l, const struct shr_shortage *s)
{
    uint64_t used = shr__used(h), from = 0;

    for (uint64_t u = 0, end; u < used; u = end) {
        end = shr__next_head(h, u);
        if (!clears(h, l, u))
            from = end;
        else if (shr__round_up(from, s->align) + s->units <= end)
            return end_in(h, l, from, end);
    }
    return 0;
}

int shr__tickets_give_way(sharena_heap *h, const struct shr_shortage *s, uint64_t want)
{
    struct listing l;
    uint64_t sum;
    int ended = 0;

    list_tickets(h, &l);
    find_what_can_go(h, &l);
    sum = worth(h, &l, s);
    if (s->code == SHARENA_ERESERVE && !sum)
        ended = end_a_stretch(h, &l, s);
    else if (sum && (s->free_bytes >= s->bytes || sum >= s->bytes - s->free_bytes))
        ended = end_oldest(h, &l, want);
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
