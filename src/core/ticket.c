/* Tickets: what keeps a block whose handle is on its way.
 *
 * Queues pickle in a feeder thread and drop the object; workers put a result and exit.  So a
 * handle names a use of a ticket, and the mask bit T of a block means "some unspent use names
 * this block".  T counts as a holder; a ticket is no reference of its sender.  T is changed
 * only by a process whose own bit is in the mask, under the block's unit lock.
 *
 * An entry is of one block and one message; it counts the loads that the message is good for.
 *
 *   export   mark the block; make the use; set T; look: the use still there → send, else
 *            settle and make another (an expirer came between)
 *   receive  acquire the block first, then spend a use; whoever left none settles
 *   settle   clear T, look; a use → set T, look again; none → once more from the start
 *   end      hold the block, then the word that was seen → FREE, settle, drop
 *   place    before the first byte of the message is written, by its exporter; what is
 *            written to a second channel, or taken raw from one, is KEPT from then on
 *
 * A kill between use and T leaves a use without T: its block dies with its holders, and the
 * ticket with its channel.  Between the last spend and settle it leaves T without a use: the
 * reaper of the spender settles every marked block that the dead one held.
 */
#include "ticket.h"

#define ROUNDS 64u /* of settling or making again; each needs another expirer in between */

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

static int names(const struct ticket_shm *e, uint64_t offset, uint64_t number)
{
    return load64_relaxed(&e->offset) == offset && load64_relaxed(&e->number) == number;
}

static int is_maker(const sharena_heap *h, const struct ticket_shm *e)
{
    return load64_relaxed(&e->exporter) == shr__exporter_word(h) && !h->guest;
}

/* One more use on the entry of another handle of the same message.  T is set as long as the
 * entry is live, or somebody who cleared it is about to set it again.  A child that was forked
 * while the message was written goes on with entries of its own: those of its parent end with
 * that one. */
static int add_use(sharena_heap *h, const struct block *b, uint64_t number, unsigned uses,
                   const sharena_handle *joins, sharena_handle *out)
{
    struct ticket_shm *e;
    uint64_t w;

    if (!shr__entry_ready(h, joins->ticket))
        return 0;
    e = shr__entry(h, joins->ticket);
    w = load64_acquire(&e->word);
    while (ticket_live(w) && ticket_state(w) == TICKET_OPEN && ticket_seq(w) == joins->seq &&
           names(e, b->offset, number) && is_maker(h, e) &&
           ticket_uses(w) + uses <= SHR_TICKET_USES_MAX) {
        if (cas64_acq_rel(&e->word, &w, w + uses)) {
            out->ticket = joins->ticket;
            out->seq = joins->seq;
            return 1;
        }
    }
    return 0;
}

static int make_use(sharena_heap *h, struct shard *d, const struct block *b, uint64_t number,
                    unsigned uses, int open, sharena_handle *out)
{
    uint32_t at, state = open ? TICKET_OPEN : TICKET_LOOSE;
    uint64_t w;
    int code = shr__entry_claim(h, d, b->offset, number, &at, &w);

    if (code)
        return code;
    out->ticket = at;
    out->seq = ticket_seq(w);
    if (!cas64_acq_rel(&shr__entry(h, at)->word, &w, ticket_word(out->seq, state, uses)))
        return SHARENA_ECORRUPT; /* a claim of the living is nobody else's */
    return 0;
}

int shr__ticket_make(sharena_heap *h, struct shard *d, struct block *b, uint64_t number,
                     unsigned uses, int open, const sharena_handle *joins, sharena_handle *out)
{
    out->uses = (uint16_t)uses;
    if (joins && add_use(h, b, number, uses, joins, out))
        return 0;
    shr__export_mark(h, b, SHR_MARK_HANDLE);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t w;
        int code = make_use(h, d, b, number, uses, open, out);
        if (code)
            return code;
        (void)or64_acq_rel(b->mask, SHR_BIT_T);
        w = load64_acquire(&shr__entry(h, out->ticket)->word);
        if (ticket_seq(w) == out->seq && ticket_live(w))
            return 0;
        shr__settle(h, b, number); /* expired between use and T */
    }
    return SHARENA_EBUSY;
}

/* ---- spending and ending ----------------------------------------------------------------------- */

/* The entry of a handle that names the block, or NULL. */
static struct ticket_shm *entry_of(sharena_heap *h, const sharena_handle *handle)
{
    struct ticket_shm *e;

    if (!shr__entry_ready(h, handle->ticket))
        return NULL;
    e = shr__entry(h, handle->ticket);
    return names(e, handle->offset, handle->number) ? e : NULL;
}

void shr__ticket_spend(sharena_heap *h, struct block *b, const sharena_handle *handle)
{
    struct ticket_shm *e = entry_of(h, handle);
    uint64_t w = e ? load64_acquire(&e->word) : 0;

    while (e && ticket_live(w) && ticket_seq(w) == handle->seq) {
        uint64_t less = ticket_uses(w) > 1 ? w - 1 : ticket_ended(w);
        if (!names(e, handle->offset, handle->number))
            return; /* of another message by now */
        if (!cas64_acq_rel(&e->word, &w, less))
            continue;
        if (less == ticket_ended(w)) {
            shr__entry_left(h, handle->ticket, handle->offset);
            shr__settle(h, b, handle->number);
        }
        return;
    }
}

void shr__ticket_give_back(sharena_heap *h, struct block *b, const sharena_handle *handle)
{
    struct ticket_shm *e = entry_of(h, handle);
    uint64_t w = e ? load64_acquire(&e->word) : 0;

    while (e && ticket_live(w) && ticket_seq(w) == handle->seq &&
           ticket_state(w) != TICKET_KEPT && names(e, handle->offset, handle->number) &&
           is_maker(h, e)) {
        if (!cas64_acq_rel(&e->word, &w, ticket_ended(w)))
            continue;
        shr__entry_left(h, handle->ticket, handle->offset);
        shr__settle(h, b, handle->number);
        return;
    }
}

int shr__ticket_end(sharena_heap *h, uint32_t at, uint64_t w)
{
    struct ticket_shm *e = shr__entry(h, at);
    uint64_t offset = load64_relaxed(&e->offset), number = load64_relaxed(&e->number);
    struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    struct block b = {.undone = 0};
    int won = 0, how = DROP_KEPT, code = shr__decode(h, offset, &b);

    if (code == 0)
        code = shr__hold(h, d, &b, number);
    if (code == 0 || code == SHARENA_ESTALE) /* stale: its block is gone, nothing to settle */
        won = cas64_acq_rel(&e->word, &w, ticket_ended(w));
    if (won)
        shr__entry_left(h, at, offset);
    if (code == 0) {
        if (won)
            shr__settle(h, &b, number);
        how = shr__drop(h, d, &b);
    }
    shr__unlock(d);
    if (code == 0)
        shr__after_drop(h, &b, how);
    else if (code == SHARENA_ESTALE && b.undone)
        shr__after_drop(h, &b, DROP_LAST);
    return won;
}

/* Claims that the dead one never published are reset. */
void shr__tickets_reap(sharena_heap *h, unsigned slot)
{
    uint32_t end = shr__entries(h);

    for (uint32_t i = shr__entry_next(h, 0); i < end; i = shr__entry_next(h, i + 1)) {
        struct ticket_shm *e = shr__entry(h, i);
        uint64_t w = load64_acquire(&e->word);
        if (ticket_state(w) == TICKET_CLAIMED && ticket_uses(w) == slot + 1)
            (void)cas64_acq_rel(&e->word, &w, ticket_word(ticket_seq(w) + 1, TICKET_FREE, 0));
    }
}

/* ---- places ------------------------------------------------------------------------------------ */

static uint32_t state_of(uint32_t kind)
{
    return kind == SHARENA_PLACE_PIPE     ? TICKET_PIPE
           : kind == SHARENA_PLACE_SOCKET ? TICKET_SOCKET
           : kind == SHARENA_PLACE_CHILD  ? TICKET_CHILD
                                          : TICKET_LOOSE;
}

/* The state after a move.  Bytes that are sent a second time, into whichever channel, or by
 * somebody else than their maker (a forked child has them, too), are no longer in one place. */
static uint32_t moved(const sharena_heap *h, const struct ticket_shm *e, uint32_t had,
                      const sharena_place *place)
{
    if (!is_maker(h, e))
        return TICKET_KEPT;
    if (had == TICKET_OPEN || had == TICKET_LOOSE)
        return state_of(place->kind);
    return TICKET_KEPT;
}

/* The unit lock keeps two threads apart that send the same bytes: the place must be the one
 * that belongs to the state.  Nothing keeps an expirer away, and behind it another process that
 * claims the entry and places it: the stamp tells its place from what is stored here too late. */
int sharena_handle_place(sharena_heap *h, const sharena_handle *handle,
                         const sharena_place *place)
{
    struct shard *d = shr__lock(h, handle->offset >> SHR_UNIT_SHIFT);
    struct ticket_shm *e = entry_of(h, handle);
    uint64_t w = e ? load64_acquire(&e->word) : 0;
    int code = SHARENA_ESTALE;

    while (code && e && ticket_live(w) && ticket_seq(w) == handle->seq) {
        uint32_t had = ticket_state(w), to = moved(h, e, had, place);
        if (to >= TICKET_PIPE && to != had) {
            store64_relaxed(&e->place, place->id);
            store64_relaxed(&e->where, place->where);
            store64_relaxed(&e->stamp, ticket_stamp(handle->seq, place->id, place->where));
        }
        if (to == had ||
            cas64_acq_rel(&e->word, &w, ticket_word(handle->seq, to, ticket_uses(w))))
            code = 0;
    }
    shr__unlock(d);
    return code;
}

/* No lock: the place is not touched. */
int sharena_handle_keep(sharena_heap *h, const sharena_handle *handle)
{
    struct ticket_shm *e = entry_of(h, handle);
    uint64_t w = e ? load64_acquire(&e->word) : 0;

    while (e && ticket_live(w) && ticket_seq(w) == handle->seq) {
        if (ticket_state(w) == TICKET_OPEN || ticket_state(w) == TICKET_KEPT ||
            cas64_acq_rel(&e->word, &w, ticket_word(handle->seq, TICKET_KEPT, ticket_uses(w))))
            return 0;
    }
    return SHARENA_ESTALE;
}

int shr__ticket_place(const struct ticket_shm *e, uint64_t word, sharena_place *out)
{
    static const uint32_t kinds[] = {[TICKET_PIPE] = SHARENA_PLACE_PIPE,
                                     [TICKET_SOCKET] = SHARENA_PLACE_SOCKET,
                                     [TICKET_CHILD] = SHARENA_PLACE_CHILD};
    uint64_t id = load64_relaxed(&e->place), where = load64_relaxed(&e->where);

    if (!ticket_live(word) || ticket_state(word) < TICKET_PIPE ||
        load64_relaxed(&e->stamp) != ticket_stamp(ticket_seq(word), id, where))
        return 0;
    *out = (sharena_place){kinds[ticket_state(word)], 0, id, where};
    return 1;
}

/* ---- listing ------------------------------------------------------------------------------------ */

int sharena_ticket_list(sharena_heap *h, int (*callback)(const sharena_ticket *, void *),
                        void *argument)
{
    uint32_t end = shr__entries(h);

    for (uint32_t i = shr__entry_next(h, 0); i < end; i = shr__entry_next(h, i + 1)) {
        const struct ticket_shm *e = shr__entry(h, i);
        sharena_ticket t = {.entry = i, .word = load64_acquire(&e->word)};
        struct block b;
        if (!ticket_live(t.word))
            continue;
        t.uses = ticket_uses(t.word);
        t.offset = load64_relaxed(&e->offset);
        t.number = load64_relaxed(&e->number);
        t.made_ns = load64_relaxed(&e->made_ms) * 1000000u;
        t.exporter_alive = shr__exporter_word_alive(h, load64_relaxed(&e->exporter), &t.exporter);
        if (!shr__ticket_place(e, t.word, &t.place))
            t.place.kind = ticket_state(t.word) == TICKET_OPEN ? SHARENA_PLACE_OPEN
                                                               : SHARENA_PLACE_LOOSE;
        if (shr__decode(h, t.offset, &b) == 0 && shr__number(&b) == t.number) {
            t.size_bytes = b.class ? b.size
                                   : (shr__next_head(h, b.head) - b.head) << SHR_UNIT_SHIFT;
            t.alone = (load64_relaxed(b.mask) & ~SHR_BIT_T) == 0;
        }
        if (callback(&t, argument))
            break;
    }
    return 0;
}
