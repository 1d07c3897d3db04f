/* Holdings: what this process holds, counted, and the unit locks.
 *
 * References are counted in private tables, one entry a block, sharded by the unit that the
 * block starts in; the shard's lock is the "unit lock", and keeps everybody else of this
 * process away from what it does to the masks there.  What needs no entry: descriptor.c.
 *
 * The lock is a word and a futex.  Unlocking is a plain store, for a read-modify-write is a
 * third of what a release takes: so a sleeper can be missed, and wakes by itself a little later.
 * In a process of one thread, locking is a plain store, too.
 *
 * Nothing of this is shared: a kill takes it along.
 */
#include <stdlib.h>

#include "internal.h"

void shr__shard_lock_slow(struct shard *d)
{
    uint32_t seen;

    for (unsigned spins = 0; spins < 100; spins++) {
        seen = 0;
        if (!load32_relaxed(&d->lock) && cas32_acquire(&d->lock, &seen, 1))
            return;
        shr_pause();
    }
    (void)add32_seq(&d->sleepers, 1);
    for (seen = 0; !cas32_acquire(&d->lock, &seen, 1); seen = 0)
        shr__sys_wait(&d->lock, 1);
    (void)sub32_relaxed(&d->sleepers, 1);
}

static uint32_t slot_of(uint64_t offset, uint32_t room)
{
    return (uint32_t)((offset >> 4) * 0x9e3779b97f4a7c15u >> 32) & (room - 1);
}

struct holding *shr__holding(struct shard *d, uint64_t offset)
{
    if (!d->used)
        return NULL;
    for (uint32_t i = slot_of(offset, d->room);; i = (i + 1) & (d->room - 1)) {
        if (d->table[i].offset == offset + 1)
            return &d->table[i];
        if (!d->table[i].offset)
            return NULL;
    }
}

static void place(struct holding *table, uint32_t room, const struct holding *e)
{
    uint32_t i = slot_of(e->offset - 1, room);

    while (table[i].offset)
        i = (i + 1) & (room - 1);
    table[i] = *e;
}

/* Makes room for one more entry, so that shr__holding_add() can't fail. */
int shr__holding_reserve(struct shard *d)
{
    uint32_t room = d->room ? d->room * 2 : 16;
    struct holding *table;

    if (d->room && (uint64_t)(d->used + 1) * 10 < (uint64_t)d->room * 8)
        return 0;
    table = calloc(room, sizeof *table);
    if (!table)
        return SHARENA_ENOMEM;
    for (uint32_t i = 0; i < d->room; i++)
        if (d->table[i].offset)
            place(table, room, &d->table[i]);
    free(d->table);
    d->table = table;
    d->room = room;
    return 0;
}

struct holding *shr__holding_add(struct shard *d, uint64_t offset, uint64_t number,
                                 uint32_t count, uint32_t units)
{
    struct holding e = {.offset = offset + 1, .number = number, .count = count, .units = units};

    SHR_ASSERT(!shr__holding(d, offset));
    place(d->table, d->room, &e);
    d->used++;
    return shr__holding(d, offset);
}

/* Linear probing without tombstones: what follows moves up. */
void shr__holding_remove(struct shard *d, struct holding *e)
{
    uint32_t mask = d->room - 1, hole = (uint32_t)(e - d->table), i = hole;

    for (;;) {
        i = (i + 1) & mask;
        if (!d->table[i].offset)
            break;
        uint32_t home = slot_of(d->table[i].offset - 1, d->room);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            d->table[hole] = d->table[i];
            hole = i;
        }
    }
    d->table[hole].offset = 0;
    d->used--;
}
