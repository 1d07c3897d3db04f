/* Sweeping: ending the tickets of messages that nobody can receive any more.
 *
 * No clock decides.  A message that was still being written when its process died was never
 * sent.  Of a message in a channel the judge says whether anybody can still read it: a function
 * of the program's, because the core knows no pipe, no socket and no /proc.  The words of the
 * tickets are read before the judge is asked, and ended only if they are unchanged: what was
 * spent, sent on or made anew meanwhile is left alone.  A verdict never turns: a channel that
 * nobody can read stays so.
 *
 * The rest stays; what a shortage does to it is shortage.c's.
 *
 * Nothing is locked while the judge is at work; a kill leaves tickets that the next sweep ends.
 */
#include <stdlib.h>

#include "ticket.h"

#define REST_MS 1000u /* between two sweeps in passing, or 50 times what the last one took */
#define REST_TIMES 50u

static sharena_judge *_Atomic judge;
static void *_Atomic judge_argument;

void sharena_set_judge(sharena_judge *callback, void *argument)
{
    atomic_store_explicit(&judge_argument, argument, memory_order_relaxed);
    atomic_store_explicit(&judge, callback, memory_order_release);
}

/* ---- a growing array ---------------------------------------------------------------------------- */

void *shr__append(struct shr_list *l)
{
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        void *items = realloc(l->items, room * l->size);
        if (!items)
            return NULL;
        l->items = items;
        l->room = room;
    }
    return (uint8_t *)l->items + l->size * l->count++;
}

/* ---- gathering ------------------------------------------------------------------------------------ */

struct seen { /* a ticket, as it was before the judge was asked */
    uint64_t word;
    uint32_t at, place; /* its entry; the number of its place */
};

/* Each place once, with its number in an open-addressed index. */
struct places {
    struct shr_list list; /* of sharena_place */
    uint32_t *index; /* number + 1 */
    uint32_t room; /* a power of two, at least twice the places */
};

static uint32_t slot_for(const struct places *p, const sharena_place *place)
{
    const sharena_place *all = p->list.items;
    uint64_t hash = (place->id * 31 + place->where) * 31 + place->kind;
    uint32_t i = (uint32_t)((hash * 0x9e3779b97f4a7c15u) >> 32) & (p->room - 1);

    while (p->index[i] && memcmp(&all[p->index[i] - 1], place, sizeof *place) != 0)
        i = (i + 1) & (p->room - 1);
    return i;
}

static int index_grow(struct places *p)
{
    struct places bigger = {p->list, NULL, p->room ? 2 * p->room : 64};
    const sharena_place *all = p->list.items;

    bigger.index = calloc(bigger.room, sizeof *bigger.index);
    if (!bigger.index)
        return 0;
    for (size_t i = 0; i < p->list.count; i++)
        bigger.index[slot_for(&bigger, &all[i])] = (uint32_t)i + 1;
    free(p->index);
    *p = bigger;
    return 1;
}

/* The place's number, or -1 without memory. */
static int64_t number_of(struct places *p, const sharena_place *place)
{
    sharena_place *added;
    uint32_t i;

    if (2 * (p->list.count + 1) > p->room && !index_grow(p))
        return -1;
    i = slot_for(p, place);
    if (!p->index[i]) {
        added = shr__append(&p->list);
        if (!added)
            return -1;
        *added = *place;
        p->index[i] = (uint32_t)p->list.count;
    }
    return (int64_t)p->index[i] - 1;
}

/* Ends what needs no judge, and gathers what does. */
static void gather(sharena_heap *h, int judged, struct shr_list *tickets, struct places *places)
{
    uint32_t end = shr__entries(h);
    uint64_t now = shr__sys_real_ns() / 1000000u, made;

    for (uint32_t i = shr__entry_next(h, 0); i < end; i = shr__entry_next(h, i + 1)) {
        const struct ticket_shm *e = shr__entry(h, i);
        uint64_t w = load64_acquire(&e->word);
        sharena_place place;
        struct seen *seen;
        int64_t number;
        if (!ticket_live(w))
            continue;
        made = load64_relaxed(&e->made_ms);
        if ((ticket_state(w) == TICKET_OPEN &&
             !shr__exporter_word_alive(h, load64_relaxed(&e->exporter), NULL)) ||
            (h->super.ticket_ms && now > made && now - made >= h->super.ticket_ms)) {
            (void)shr__ticket_end(h, i, w);
            continue;
        }
        if (!judged || !shr__ticket_place(e, w, &place))
            continue;
        number = number_of(places, &place);
        seen = number < 0 ? NULL : shr__append(tickets);
        if (!seen)
            return; /* no private memory: the rest another time */
        *seen = (struct seen){w, i, (uint32_t)number};
    }
}

/* ---- asking ---------------------------------------------------------------------------------------- */

static size_t members_of(sharena_heap *h, sharena_member *out)
{
    size_t n = 0;

    for (unsigned s = 0; s < SHR_SLOTS; s++) {
        const struct slot_shm *p = shr__slot(h, s);
        unsigned state = SHR_STATE_OF(load64_acquire(&p->state));
        uint64_t word;
        if ((state == SLOT_LIVE || state == SLOT_EMBRYO) && !shr__slot_dead(h, s, &word))
            out[n++] = (sharena_member){(int32_t)load32_relaxed(&p->pid),
                                        load32_relaxed(&p->guests), load64_relaxed(&p->pidns)};
    }
    return n;
}

static int ask(sharena_heap *h, int patient, const struct shr_list *tickets,
               const struct places *places)
{
    sharena_judge *callback = atomic_load_explicit(&judge, memory_order_acquire);
    void *argument = atomic_load_explicit(&judge_argument, memory_order_relaxed);
    const struct seen *seen = tickets->items;
    sharena_member members[SHR_SLOTS];
    uint8_t *dead = callback ? calloc(places->list.count, 1) : NULL;
    sharena_inquiry inquiry = {.places = places->list.items,
                               .n_places = places->list.count,
                               .members = members,
                               .mode = h->super.mode,
                               .patient = patient,
                               .dead = dead};
    int stopped;

    if (!dead)
        return 0;
    inquiry.n_members = members_of(h, members);
    stopped = callback(&inquiry, argument);
    for (size_t i = 0; i < tickets->count; i++)
        if (dead[seen[i].place])
            (void)shr__ticket_end(h, seen[i].at, seen[i].word);
    free(dead);
    return stopped ? shr__fail(SHARENA_EINTERRUPTED, "interrupted") : 0;
}

int shr__sweep(sharena_heap *h, int how)
{
    struct shr_list tickets = {.size = sizeof(struct seen)};
    struct places places = {.list = {.size = sizeof(sharena_place)}};
    int code = 0;

    if (h->guest)
        return 0;
    gather(h, how != SWEEP_OWN && atomic_load_explicit(&judge, memory_order_relaxed) != NULL,
           &tickets, &places);
    if (places.list.count)
        code = ask(h, how == SWEEP_PATIENT, &tickets, &places);
    free(tickets.items);
    free(places.list.items);
    free(places.index);
    return code;
}

/* Of several threads that pass, one sweeps. */
int shr__sweep_sometimes(sharena_heap *h)
{
    uint64_t now = shr__sys_now_ms(), due = load64_relaxed(&h->sweep_due_ms), took;

    if (now < due || !cas64_relaxed(&h->sweep_due_ms, &due, UINT64_MAX))
        return 0;
    (void)shr__sweep(h, SWEEP_JUDGE);
    took = (shr__sys_now_ms() - now) * REST_TIMES;
    store64_relaxed(&h->sweep_due_ms, now + (took > REST_MS ? took : REST_MS));
    return 1;
}

/* ---- by hand ---------------------------------------------------------------------- */

void shr__tickets_expire(sharena_heap *h, uint64_t age_ms, size_t *count)
{
    uint64_t now = shr__sys_real_ns() / 1000000u, made;
    uint32_t end = shr__entries(h);

    for (uint32_t i = shr__entry_next(h, 0); i < end; i = shr__entry_next(h, i + 1)) {
        uint64_t w = load64_acquire(&shr__entry(h, i)->word);
        made = load64_relaxed(&shr__entry(h, i)->made_ms);
        if (ticket_live(w) && (now > made ? now - made : 0) >= age_ms &&
            shr__ticket_end(h, i, w) && count)
            ++*count;
    }
}
