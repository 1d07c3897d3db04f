/* Tickets: handles in flight.
 *
 * Queues pickle in a feeder thread and drop the object; workers put a result and exit.  So a
 * handle names a use of a ticket, and the mask bit T of a block means "some unspent use names
 * this block".  T counts as a holder; a ticket is no reference of its sender.  T is changed
 * only by a process whose own bit is in the mask, under the block's unit lock.
 *
 * The table is open-addressed, keyed by the block; a look reads the first `reach` entries from
 * the block's home and never stops at a free one.  An entry's word {seq, claimer, made, uses}
 * is changed by CAS only; a bit is given once in a seq (`made` counts them), so a handle that
 * is loaded twice can never spend a stranger's use.
 *
 *   export   mark the block; make the use; set T; look: the use still there → send, else
 *            settle and make another (an expirer came between)
 *   receive  acquire the block first, then spend the use; whoever left none settles
 *   settle   clear T, look; a use → set T, look again; none → once more from the start
 *
 * A kill between use and T leaves a use without T: its block dies with its holders and the
 * entry expires.  Between the last spend and settle it leaves T without a use: the reaper of
 * the spender settles every marked block that the dead one held.
 */
#include "internal.h"

#define USES_OF(w) ((uint32_t)((w) & 0xffffu))
#define MADE_OF(w) ((uint32_t)((w) >> 16 & 31u))
#define CLAIMER_OF(w) ((uint32_t)((w) >> 21 & 2047u))
#define SEQ_OF(w) ((uint32_t)((w) >> 32))
#define ROUNDS 64u /* of settling or making again; each needs another expirer in between */

static uint64_t word_of(uint32_t seq, uint32_t claimer, uint32_t made, uint32_t uses)
{
    return (uint64_t)seq << 32 | (uint64_t)claimer << 21 | (uint64_t)made << 16 | uses;
}

static struct ticket_shm *entry(const sharena_heap *h, uint32_t i)
{
    return (struct ticket_shm *)(void *)(h->base + SHR_AT_TICKETS) + i;
}

static uint64_t entry_at(uint32_t i)
{
    return SHR_AT_TICKETS + (uint64_t)i * sizeof(struct ticket_shm);
}

static uint32_t home_of(uint64_t offset)
{
    return (uint32_t)((offset >> 4) * 0x9e3779b97f4a7c15u >> 40) % SHR_TICKETS;
}

static shr_a32 *reach_of(const sharena_heap *h, uint32_t home)
{
    return (shr_a32 *)(void *)(h->base + SHR_AT_REACH) + (home >> SHR_REACH_SHIFT);
}

static uint32_t reach(const sharena_heap *h, uint32_t home)
{
    uint32_t r = load32_acquire(reach_of(h, home));

    return r < SHR_TICKET_WINDOW ? r : SHR_TICKET_WINDOW;
}

/* Is there a live use of the block's life?  Three loads, not one snapshot: enough, as whoever
 * makes a use looks after it set T. */
int shr__ticket_live(const sharena_heap *h, uint64_t offset, uint64_t number)
{
    uint32_t home = home_of(offset), far = reach(h, home);

    for (uint32_t i = 0; i < far; i++) {
        uint32_t at = (home + i) % SHR_TICKETS;
        const struct ticket_shm *e = entry(h, at);
        if (shr__chunk_ready(h, entry_at(at)) && USES_OF(load64_acquire(&e->word)) &&
            load64_relaxed(&e->offset) == offset && load64_relaxed(&e->number) == number)
            return 1;
    }
    return 0;
}

/* Makes T say whether a use is left. */
void shr__settle(sharena_heap *h, const struct block *b, uint64_t number)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        (void)and64_acq_rel(b->mask, ~SHR_BIT_T);
        if (!shr__ticket_live(h, b->offset, number))
            return;
        (void)or64_acq_rel(b->mask, SHR_BIT_T);
        if (shr__ticket_live(h, b->offset, number))
            return;
    }
    (void)or64_acq_rel(b->mask, SHR_BIT_T); /* the next one to settle finds out */
}

/* ---- making ---------------------------------------------------------------------------------- */

static void raise_reach(sharena_heap *h, uint32_t home, uint32_t far)
{
    shr_a32 *r = reach_of(h, home);
    uint32_t seen = load32_relaxed(r);

    while (seen < far && !cas32_acq_rel(r, &seen, far))
        ;
}

/* Uses on one entry, if it is this process's own for the same life and has room. */
static int add_uses_at(sharena_heap *h, uint32_t at, const struct block *b, uint64_t number,
                       unsigned uses, sharena_handle *out)
{
    struct ticket_shm *e = entry(h, at);
    uint64_t w;

    if (!shr__chunk_ready(h, entry_at(at)))
        return 0;
    w = load64_acquire(&e->word);
    if (!USES_OF(w) || load64_relaxed(&e->offset) != b->offset ||
        load64_relaxed(&e->number) != number || load64_relaxed(&e->exporter) != shr__exporter(h))
        return 0;
    store64_relaxed(&e->made_ms, shr__sys_now_ms());
    while (USES_OF(w) && !CLAIMER_OF(w) && MADE_OF(w) + uses <= SHR_TICKET_BITS) {
        uint32_t made = MADE_OF(w), bits = ((1u << uses) - 1) << made;
        if (cas64_acq_rel(&e->word, &w, word_of(SEQ_OF(w), 0, made + uses, USES_OF(w) | bits))) {
            out->ticket = at;
            out->seq = SEQ_OF(w);
            out->uses = (uint16_t)bits;
            return 1;
        }
    }
    return 0;
}

static int claim_at(sharena_heap *h, uint32_t at, const struct block *b, uint64_t number,
                    unsigned uses, uint32_t far, sharena_handle *out)
{
    struct ticket_shm *e = entry(h, at);
    uint32_t me = h->slot + 1, seq;
    uint64_t w = load64_acquire(&e->word);

    seq = SEQ_OF(w) + 1;
    if (USES_OF(w) || CLAIMER_OF(w) || !cas64_acq_rel(&e->word, &w, word_of(seq, me, 0, 0)))
        return 0;
    store64_relaxed(&e->offset, b->offset);
    store64_relaxed(&e->number, number);
    store64_relaxed(&e->exporter, shr__exporter(h));
    store64_relaxed(&e->made_ms, shr__sys_now_ms());
    raise_reach(h, home_of(b->offset), far);
    w = word_of(seq, me, 0, 0);
    if (!cas64_acq_rel(&e->word, &w, word_of(seq, 0, uses, (1u << uses) - 1)))
        return SHARENA_ECORRUPT; /* a claim of the living is nobody else's */
    out->ticket = at;
    out->seq = seq;
    out->uses = (uint16_t)((1u << uses) - 1);
    return 1;
}

/* A block's tickets lie within its window.  The search goes on where this process's last one
 * for this unit lock was made: an array whose rows are sent one by one has thousands. */
static int make_use(sharena_heap *h, const struct block *b, uint64_t number, unsigned uses,
                    sharena_handle *out)
{
    uint32_t home = home_of(b->offset),
             *last = &shr__shard(h, b->offset >> SHR_UNIT_SHIFT)->ticket;
    uint32_t from = (*last - home) % SHR_TICKETS;

    if (add_uses_at(h, *last, b, number, uses, out))
        return 0;
    if (from >= SHR_TICKET_WINDOW || !shr__chunk_ready(h, entry_at(*last)) ||
        load64_relaxed(&entry(h, *last)->offset) != b->offset)
        from = 0;
    for (uint32_t i = 0; i < SHR_TICKET_WINDOW; i++) {
        uint32_t far = (from + i) % SHR_TICKET_WINDOW, at = (home + far) % SHR_TICKETS;
        int code = shr__chunk(h, entry_at(at));
        if (code)
            return code;
        code = claim_at(h, at, b, number, uses, far + 1, out);
        if (code == 1)
            *last = at;
        if (code)
            return code == 1 ? 0 : code;
    }
    return SHARENA_ETICKETS;
}

int shr__ticket_make(sharena_heap *h, struct block *b, uint64_t number, unsigned uses,
                     sharena_handle *out)
{
    int code;

    shr__export_mark(h, b, SHR_MARK_HANDLE);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t w;
        code = make_use(h, b, number, uses, out);
        if (code)
            return code;
        (void)or64_acq_rel(b->mask, SHR_BIT_T);
        w = load64_acquire(&entry(h, out->ticket)->word);
        if (SEQ_OF(w) == out->seq && (USES_OF(w) & out->uses) == out->uses)
            return 0;
        shr__settle(h, b, number); /* expired between use and T */
    }
    return SHARENA_EBUSY;
}

/* ---- spending and expiring --------------------------------------------------------------------- */

/* Takes one use of the handle away (or all of them), if any is left. */
void shr__ticket_spend(sharena_heap *h, struct block *b, const sharena_handle *handle, int all)
{
    struct ticket_shm *e;
    uint64_t w;

    if (handle->ticket >= SHR_TICKETS || !shr__chunk_ready(h, entry_at(handle->ticket)))
        return;
    e = entry(h, handle->ticket);
    w = load64_acquire(&e->word);
    for (;;) {
        uint32_t uses = USES_OF(w) & handle->uses, spent = all ? uses : uses & -uses;
        if (SEQ_OF(w) != handle->seq || !uses || CLAIMER_OF(w) ||
            load64_relaxed(&e->offset) != b->offset ||
            load64_relaxed(&e->number) != handle->number)
            return;
        if (cas64_acq_rel(&e->word, &w, word_of(SEQ_OF(w), 0, MADE_OF(w), USES_OF(w) & ~spent))) {
            if ((USES_OF(w) & ~spent) == 0)
                shr__settle(h, b, handle->number);
            return;
        }
    }
}

/* The whole word as it was seen, or nothing: a use added meanwhile is young. */
static int expire(sharena_heap *h, uint32_t at, uint64_t w)
{
    struct ticket_shm *e = entry(h, at);
    uint64_t offset = load64_relaxed(&e->offset), number = load64_relaxed(&e->number);
    uint64_t none = word_of(SEQ_OF(w), 0, MADE_OF(w), 0);
    struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    struct block b = {.undone = 0};
    int won = 0, how = DROP_KEPT, code = shr__decode(h, offset, &b);

    if (code == 0)
        code = shr__hold(h, d, &b, number);
    if (code == 0) {
        won = cas64_acq_rel(&e->word, &w, none);
        if (won)
            shr__settle(h, &b, number);
        how = shr__drop(h, d, &b);
    } else if (code == SHARENA_ESTALE) {
        won = cas64_acq_rel(&e->word, &w, none); /* its block is gone: nothing to settle */
    }
    shr__unlock(d);
    if (code == 0)
        shr__after_drop(h, &b, how);
    else if (code == SHARENA_ESTALE && b.undone)
        shr__after_drop(h, &b, DROP_LAST);
    return won;
}

/* Was the exporter reaped?  Only then is made_ms the time of its death. */
static int exporter_reaped(sharena_heap *h, uint64_t exporter)
{
    unsigned slot = (unsigned)(exporter & 255u);
    uint64_t state;

    if (slot == 0 || slot > SHR_SLOTS)
        return 1;
    state = load64_acquire(&shr__slot(h, slot - 1)->state);
    return SHR_K_OF(state) != exporter >> 8 || SHR_STATE_OF(state) == SLOT_CLOSING ||
           SHR_STATE_OF(state) == SLOT_FREE;
}

void shr__tickets_expire(sharena_heap *h, uint64_t age_ms, int timeouts_only, size_t *count)
{
    uint64_t now = shr__sys_now_ms();

    for (uint32_t i = 0; i < SHR_TICKETS; i++) {
        struct ticket_shm *e = entry(h, i);
        uint64_t w, made, limit = age_ms;
        if (!shr__chunk_ready(h, entry_at(i))) {
            i |= (uint32_t)(SHR_CHUNK / sizeof *e) - 1;
            continue;
        }
        w = load64_acquire(&e->word);
        if (!USES_OF(w))
            continue;
        made = load64_relaxed(&e->made_ms);
        if (timeouts_only) {
            limit = exporter_reaped(h, load64_relaxed(&e->exporter)) ? h->super.grace_ms
                                                                     : h->super.ticket_ms;
            limit = limit < h->super.ticket_ms ? limit : h->super.ticket_ms;
        }
        if ((now > made ? now - made : 0) >= limit && expire(h, i, w) && count)
            ++*count;
    }
}

/* Claims that the dead one never published are reset; what it did publish keeps the block for
 * the grace time from now on. */
void shr__tickets_reap(sharena_heap *h, unsigned slot, uint64_t k)
{
    for (uint32_t i = 0; i < SHR_TICKETS; i++) {
        struct ticket_shm *e = entry(h, i);
        uint64_t w;
        if (!shr__chunk_ready(h, entry_at(i))) {
            i |= (uint32_t)(SHR_CHUNK / sizeof *e) - 1;
            continue;
        }
        w = load64_acquire(&e->word);
        if (CLAIMER_OF(w) == slot + 1)
            (void)cas64_acq_rel(&e->word, &w, word_of(SEQ_OF(w) + 1, 0, 0, 0));
        else if (USES_OF(w) && load64_relaxed(&e->exporter) == (k << 8 | (slot + 1)))
            store64_relaxed(&e->made_ms, shr__sys_now_ms());
    }
}

int sharena_ticket_list(sharena_heap *h, int (*callback)(const sharena_ticket *, void *),
                        void *argument)
{
    uint64_t now = shr__sys_now_ms(), real = shr__sys_real_ns(), made;

    for (uint32_t i = 0; i < SHR_TICKETS; i++) {
        struct ticket_shm *e = entry(h, i);
        sharena_ticket t = {0};
        struct block b;
        if (!shr__chunk_ready(h, entry_at(i))) {
            i |= (uint32_t)(SHR_CHUNK / sizeof *e) - 1;
            continue;
        }
        t.word = load64_acquire(&e->word);
        if (!USES_OF(t.word))
            continue;
        t.entry = i;
        t.uses = (uint32_t)__builtin_popcount(USES_OF(t.word));
        t.offset = load64_relaxed(&e->offset);
        t.number = load64_relaxed(&e->number);
        made = load64_relaxed(&e->made_ms);
        t.made_ns = real - (now > made ? now - made : 0) * 1000000u;
        t.exporter_alive = shr__exporter_alive(h, load64_relaxed(&e->exporter), &t.exporter);
        if (shr__decode(h, t.offset, &b) == 0 && shr__number(&b) == t.number)
            t.size_bytes = b.class ? b.size
                                   : (shr__next_head(h, b.head) - b.head) << SHR_UNIT_SHIFT;
        if (callback(&t, argument))
            break;
    }
    return 0;
}
