/* Figures about a heap: a walk over heads, headers and masks below used_units.
 *
 * What this process's lanes keep at hand is put back first; beyond that it is read-only and
 * without locks, so on a heap in use the figures are of slightly different moments, and count
 * what other processes keep at hand as held.  Nothing depends on them. */
#include "internal.h"

struct tally {
    sharena_heap *h;
    sharena_stats *s;         /* or NULL */
    sharena_process *slots;   /* or NULL: blocks and bytes by slot */
    size_t min_bytes;         /* for the callback */
    int (*each)(const sharena_block_info *, void *);
    void *argument;
    int stop;
};

static const char *site_text(sharena_heap *h, uint32_t site, char buffer[128])
{
    uint64_t at = SHR_AT_SITES + (uint64_t)(site - 1) * sizeof(struct site_shm);
    const struct site_shm *e = (const struct site_shm *)(const void *)(h->base + at);

    buffer[0] = 0;
    if (site == 0 || site > SHR_SITES || !shr__chunk_ready(h, at) || !load64_acquire(&e->hash))
        return buffer;
    for (unsigned i = 0; i < 15; i++) {
        uint64_t w = load64_relaxed(&e->text[i]);
        memcpy(buffer + 8 * i, &w, 8);
    }
    buffer[119] = 0;
    return buffer;
}

static void count_block(struct tally *t, uint64_t offset, uint64_t bytes, uint64_t mask,
                        uint32_t site)
{
    uint64_t processes = mask & SHR_BITS_PROCESSES;

    if (t->s) {
        t->s->blocks++;
        t->s->live_bytes += bytes;
        if (processes == 0 && !(mask & SHR_BIT_N))
            t->s->inflight_bytes += bytes;
    }
    for (; t->slots && processes; processes &= processes - 1) {
        unsigned slot = (unsigned)__builtin_ctzll(processes);
        t->slots[slot].blocks++;
        t->slots[slot].bytes += bytes;
    }
    if (t->each && bytes >= t->min_bytes && !t->stop) {
        char text[128];
        sharena_block_info info = {offset, bytes, mask, site_text(t->h, site, text)};
        t->stop = t->each(&info, t->argument);
    }
}

static void count_slab(struct tally *t, uint64_t unit, uint32_t class)
{
    const struct shr_class *c = &shr__classes[class];
    const struct unit_shm *p = &t->h->units[unit];
    uint32_t held = 0;

    for (uint32_t i = 0; i < c->capacity; i++) {
        uint64_t m = load64_relaxed(&t->h->descs[(unit << 12) + i].mask);
        if (!m)
            continue;
        held++;
        count_block(t, (unit << SHR_UNIT_SHIFT) + (uint64_t)i * c->size, c->size, m,
                    load32_relaxed(&p->site));
    }
    if (!t->s)
        return;
    t->s->slabs++;
    if ((load64_relaxed(&p->mask) & SHR_BITS_PROCESSES) == 0)
        t->s->abandoned_slabs++;
    t->s->stranded_bytes += (uint64_t)(c->capacity - held) * c->size;
    t->s->by_class[class].slabs++;
    t->s->by_class[class].blocks += held;
    t->s->by_class[class].capacity += c->capacity;
}

static void walk(struct tally *t)
{
    sharena_heap *h = t->h;
    uint64_t used = shr__used(h);

    shr__lanes_flush(h); /* what lies at hand is not in use */
    for (uint64_t u = 0, end; u < used && !t->stop; u = end) {
        uint64_t m = load64_acquire(&h->units[u].mask);
        uint32_t class = load32_acquire(&h->units[u].class);
        end = shr__next_head(h, u);
        if (class && class < shr__n_classes &&
            load32_acquire(&h->units[u].pages) >= shr__classes[class].pages) {
            count_slab(t, u, class);
        } else if (m & ~SHR_BIT_S) {
            count_block(t, u << SHR_UNIT_SHIFT, (end - u) << SHR_UNIT_SHIFT, m,
                        load32_relaxed(&h->units[u].site));
            if (t->s)
                t->s->runs++;
        } else if (t->s && m == 0) {
            t->s->retained_bytes += shr__bits_in(h->commit, u, end) << SHR_UNIT_SHIFT;
        }
    }
}

static int count_ticket(const sharena_ticket *t, void *argument)
{
    (void)t;
    ++*(uint64_t *)argument;
    return 0;
}

static int count_name(const char *name, void *argument)
{
    (void)name;
    ++*(uint64_t *)argument;
    return 0;
}

int sharena_stats_read(sharena_heap *h, sharena_stats *out)
{
    sharena_stats s = {0};
    struct tally t = {.h = h, .s = &s};
    memcpy(s.uuid, h->super.uuid, 16);
    s.limit_bytes = h->super.limit_bytes;
    s.reserve_bytes = h->data_bytes;
    s.retain_bytes = h->retain_units << SHR_UNIT_SHIFT;
    s.max_processes = SHR_PROCESSES;
    s.classes = shr__n_classes;
    for (uint32_t c = 1; c < shr__n_classes; c++)
        s.by_class[c].size_bytes = shr__classes[c].size;
    walk(&t); /* puts back what is at hand, so the counters come after */
    s.metadata_bytes = load64_relaxed(&h->control->committed_meta);
    s.committed_bytes = s.metadata_bytes +
                        (shr__bits_in(h->commit, 0, shr__used(h)) << SHR_UNIT_SHIFT);
    (void)sharena_ticket_list(h, count_ticket, &s.tickets);
    (void)sharena_name_list(h, count_name, &s.names);
    for (unsigned slot = 0; slot < SHR_SLOTS; slot++) {
        unsigned state = SHR_STATE_OF(load64_acquire(&shr__slot(h, slot)->state));
        uint64_t word;
        if ((state == SLOT_LIVE || state == SLOT_EMBRYO) && !shr__slot_dead(h, slot, &word)) {
            s.processes++;
            s.guests += load32_relaxed(&shr__slot(h, slot)->guests);
        }
    }
    *out = s;
    return 0;
}

int sharena_process_list(sharena_heap *h, int (*callback)(const sharena_process *, void *),
                         void *argument)
{
    sharena_process slots[SHR_SLOTS];
    struct tally t = {.h = h, .slots = slots};

    memset(slots, 0, sizeof slots);
    walk(&t);
    for (unsigned i = 0; i < SHR_SLOTS; i++) {
        const struct slot_shm *p = shr__slot(h, i);
        unsigned state = SHR_STATE_OF(load64_acquire(&p->state));
        uint64_t word;
        if (state != SLOT_LIVE && state != SLOT_EMBRYO && state != SLOT_INIT)
            continue;
        slots[i].slot = i;
        slots[i].pid = (int32_t)load32_relaxed(&p->pid);
        slots[i].started_ns = load64_relaxed(&p->started_ns);
        slots[i].guests = load32_relaxed(&p->guests);
        slots[i].alive = !shr__slot_dead(h, i, &word);
        memcpy(slots[i].command, p->command, sizeof slots[i].command - 1);
        if (callback(&slots[i], argument))
            break;
    }
    return 0;
}

int sharena_block_list(sharena_heap *h, size_t min_bytes,
                       int (*callback)(const sharena_block_info *, void *), void *argument)
{
    struct tally t = {.h = h, .min_bytes = min_bytes, .each = callback, .argument = argument};

    walk(&t);
    return 0;
}
