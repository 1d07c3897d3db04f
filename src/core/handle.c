/* Handles for the public: export, acquire, give back, expire.
 *
 * Each takes the block's unit lock once; what it owes for a dropped reference, or for a block
 * that left its lane, comes after.  The protocol is ticket.c's.
 */
#include "ticket.h"

#include "sharena/registry.h"

int shr__usable(sharena_heap *h)
{
    return SHR_LIKELY(!h->guest) ? 0 : shr__guest_fail(h);
}

void shr__describe(sharena_heap *h, const struct block *b, sharena_block *out)
{
    out->start = h->data + b->offset;
    out->size_bytes = b->class ? b->size
                               : (shr__next_head(h, b->head) - b->head) << SHR_UNIT_SHIFT;
    out->number = shr__number(b);
    out->flags = 0;
}

static int stale(sharena_heap *h, int code)
{
    char name[96];

    if (code == SHARENA_ESTALE)
        return shr__fail(code,
                         "the array is gone from %s: every process that held it dropped it or "
                         "died, and the handle was spent or expired; keep the array until the "
                         "receiver has it, or send a fresh handle for each load",
                         shr__label(h, name));
    if (code == SHARENA_ENOMEM)
        return shr__fail(code, "no private memory for the tables of %s", shr__label(h, name));
    return shr__fail(code, "%s: %s", shr__label(h, name), sharena_strerror(code));
}

/* Takes a reference to a life of a block, and spends a use of the handle, if there is one. */
int shr__acquire(sharena_heap *h, uint64_t offset, uint64_t number, const sharena_handle *handle,
                 sharena_block *out)
{
    struct shard *d;
    struct block b;
    int code = shr__usable(h);

    if (code)
        return code;
    b.undone = 0;
    d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    code = shr__decode(h, offset, &b);
    if (code == 0)
        code = shr__hold(h, d, &b, number);
    if (code == 0) {
        if (handle)
            shr__ticket_spend(h, &b, handle);
        shr__describe(h, &b, out);
    }
    shr__unlock(d);
    if (code && b.undone)
        shr__after_drop(h, &b, DROP_LAST);
    if (code)
        return stale(h, code);
    if (b.class && shr__slab_at(h, b.head))
        shr__slab_left(h, b.head);
    return 0;
}

static int wrong_heap(const sharena_heap *h, const sharena_handle *handle)
{
    char name[96];

    if (handle->machine != h->super.machine)
        return shr__fail(SHARENA_EREMOTE, "the handle comes from another machine; handles only "
                                          "work on the machine they were made on: send the data");
    if (memcmp(handle->heap, h->super.uuid, 16) != 0)
        return shr__fail(SHARENA_EINVAL, "the handle does not belong to %s", shr__label(h, name));
    return 0;
}

int sharena_acquire(sharena_heap *h, const sharena_handle *handle, sharena_block *out)
{
    int code = wrong_heap(h, handle);

    return code ? code : shr__acquire(h, handle->offset, handle->number, handle, out);
}

static void fill_handle(sharena_heap *h, sharena_handle *out)
{
    memcpy(out->heap, h->super.uuid, 16);
    out->machine = h->super.machine;
    out->pid = h->pid;
    out->fd = (int32_t)load32_relaxed(&h->fd);
    out->uid = h->uid;
    out->reserved = 0;
}

static int no_more_tickets(sharena_heap *h)
{
    char name[96];

    return shr__fail(SHARENA_ETICKETS,
                     "%s: too many handles are on their way, %llu at most; receive or expire "
                     "some, send larger pieces, or create the heap with a larger limit",
                     shr__label(h, name),
                     (unsigned long long)SHR_TICKET_START(h->super.ticket_segments));
}

static int export(sharena_heap *h, const void *block, unsigned uses, int open,
                  const sharena_handle *joins, sharena_handle *out)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    sharena_handle made;
    struct block b;
    char name[96];
    int code = shr__usable(h);

    if (code)
        return code;
    if (uses == 0 || uses > UINT16_MAX)
        return shr__fail(SHARENA_EINVAL, "a handle can be loaded 1 to %u times, not %u",
                         UINT16_MAX, uses);
    memset(&made, 0, sizeof made);
    fill_handle(h, &made);
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        struct shard *d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
        code = shr__decode(h, offset, &b);
        if (code == 0 && !shr__is_mine(h, d, &b))
            code = SHARENA_ENOTHELD;
        if (code == 0) {
            made.offset = offset;
            made.number = shr__number(&b);
            code = shr__ticket_make(h, d, &b, made.number, uses, open, joins, &made);
        }
        shr__unlock(d);
        if (shr__make_room(h, code))
            continue;
        if (code != SHARENA_ETICKETS || attempt == 2)
            break;
        /* what is in a message can travel by value, so it takes nobody's place */
        if (!shr__sweep_sometimes(h) && (open || !shr__ticket_make_way(h, offset)))
            break;
    }
    if (code == SHARENA_ESTALE)
        code = SHARENA_ENOTHELD;
    if (code == SHARENA_ETICKETS)
        return no_more_tickets(h);
    if (code)
        return code == SHARENA_EFULL || code == SHARENA_ENOSPACE || code == SHARENA_EROOM
                   ? code
                   : shr__fail(code, "%s: %s", shr__label(h, name), sharena_strerror(code));
    *out = made;
    if (b.class && shr__slab_at(h, b.head))
        shr__slab_left(h, b.head);
    shr__decay(h);
    return 0;
}

int sharena_export(sharena_heap *h, const void *block, unsigned uses, sharena_handle *out)
{
    return export(h, block, uses, 0, NULL, out);
}

int sharena_export_open(sharena_heap *h, const void *block, const sharena_handle *joins,
                        sharena_handle *out)
{
    return export(h, block, 1, 1, joins, out);
}

/* The mark tells this process's lane that others may come, as for any handle. */
int sharena_export_weak(sharena_heap *h, const void *block, sharena_handle *out)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    struct shard *d;
    struct block b;
    int code = shr__usable(h);

    if (code)
        return code;
    d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    code = shr__decode(h, offset, &b);
    if (code || !shr__is_mine(h, d, &b)) {
        shr__unlock(d);
        return shr__not_held(h, block);
    }
    memset(out, 0, sizeof *out);
    fill_handle(h, out);
    out->offset = offset;
    out->number = shr__number(&b);
    out->ticket = UINT32_MAX; /* there is no such entry */
    shr__export_mark(h, &b, SHR_MARK_HANDLE);
    shr__unlock(d);
    if (b.class && shr__slab_at(h, b.head))
        shr__slab_left(h, b.head);
    return 0;
}

int sharena_give_back(sharena_heap *h, const sharena_handle *handle)
{
    sharena_block got;
    struct shard *d;
    struct block b;
    int code = wrong_heap(h, handle), how = DROP_KEPT;

    if (code == 0)
        code = shr__acquire(h, handle->offset, handle->number, NULL, &got);
    if (code)
        return code;
    d = shr__lock(h, handle->offset >> SHR_UNIT_SHIFT);
    code = shr__decode(h, handle->offset, &b);
    if (code == 0) {
        shr__ticket_give_back(h, &b, handle);
        how = shr__drop(h, d, &b);
    }
    shr__unlock(d);
    if (code == 0)
        shr__after_drop(h, &b, how);
    return code;
}

int sharena_ticket_expire(sharena_heap *h, uint64_t age_ms, size_t *out)
{
    size_t count = 0;
    int code = shr__usable(h);

    if (code)
        return code;
    shr__tickets_expire(h, age_ms, &count);
    if (out)
        *out = count;
    return 0;
}
