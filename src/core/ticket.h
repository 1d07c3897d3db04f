/* Tickets: handles on their way.  entry.c has the table, ticket.c the protocol, sweep.c ends
 * what nobody can receive. */
#ifndef SHR_TICKET_H
#define SHR_TICKET_H

#include "internal.h"

/* ---- the word of an entry: {seq 32, state 4, uses 28} ------------------------------------- */

static inline uint64_t ticket_word(uint32_t seq, uint32_t state, uint32_t uses)
{
    return (uint64_t)seq << 32 | (uint64_t)state << 28 | uses;
}
static inline uint32_t ticket_seq(uint64_t word)
{
    return (uint32_t)(word >> 32);
}
static inline uint32_t ticket_state(uint64_t word)
{
    return (uint32_t)(word >> 28 & 15u);
}
static inline uint32_t ticket_uses(uint64_t word)
{
    return (uint32_t)word & SHR_TICKET_USES_MAX;
}
static inline int ticket_live(uint64_t word)
{
    uint32_t state = ticket_state(word);

    return state >= TICKET_OPEN && state <= TICKET_CHILD && ticket_uses(word) != 0;
}
static inline uint64_t ticket_ended(uint64_t word) /* FREE in the same seq */
{
    return ticket_word(ticket_seq(word), TICKET_FREE, 0);
}
/* Ties a place to the seq of its entry: an entry may end, and become somebody else's, while its
 * exporter is still storing the place. */
static inline uint64_t ticket_stamp(uint32_t seq, uint64_t id, uint64_t where)
{
    uint64_t x = (seq * 0x9e3779b97f4a7c15u ^ id) * 0xbf58476d1ce4e5b9u;

    x = ((x ^ x >> 32) + where) * 0x94d049bb133111ebu;
    return x ^ x >> 29;
}

/* ---- entry.c: the table -------------------------------------------------------------------- */

static inline struct ticket_shm *shr__entry(const sharena_heap *h, uint32_t i)
{
    return (struct ticket_shm *)(void *)(h->base + SHR_AT_TICKETS) + i;
}
uint64_t shr__exporter_word(const sharena_heap *h); /* of this process */
/* Is the one alive that the word names?  Its pid in *pid, if that is not NULL. */
int shr__exporter_word_alive(sharena_heap *h, uint64_t exporter, int *pid);
/* Claims an entry for the block's life, under its unit lock; *word is its word then. */
int shr__entry_claim(sharena_heap *h, struct shard *, uint64_t offset, uint64_t number,
                     uint32_t *at, uint64_t *word);
/* Calls back for each entry that a new ticket of the block could take, were it free. */
void shr__entry_candidates(sharena_heap *h, uint64_t offset,
                           void (*each)(sharena_heap *h, uint32_t at, void *), void *argument);
/* After the entry's word became FREE: its home counts one less. */
void shr__entry_left(sharena_heap *h, uint32_t at, uint64_t offset);
int shr__entry_ready(const sharena_heap *h, uint32_t at); /* in use, and committed */
/* The first entry at or behind `at` that may be live; the end of the table if there is none. */
uint32_t shr__entry_next(const sharena_heap *h, uint32_t at);
uint32_t shr__entries(const sharena_heap *h); /* the end of the table, so far */
/* For the walker: the number of the bucket that counts a ticket of the block there; a bucket's
 * word, 0 where it is not committed. */
uint32_t shr__entry_bucket(uint32_t at, uint64_t offset);
uint64_t shr__bucket_word(const sharena_heap *h, uint32_t number);
/* Does a look that goes as far as the bucket's word says come to the entry? */
int shr__entry_in_reach(uint32_t at, uint64_t offset, uint64_t bucket_word);

/* ---- ticket.c: the protocol ------------------------------------------------------------------ */

/* Holding the block, under its unit lock: a use, kept by T.  `joins`: another handle of the
 * same message for the same block, or NULL.  SHARENA_ETICKETS: the table is full. */
int shr__ticket_make(sharena_heap *h, struct shard *, struct block *, uint64_t number,
                     unsigned uses, int open, const sharena_handle *joins, sharena_handle *);
void shr__ticket_spend(sharena_heap *h, struct block *, const sharena_handle *);
/* Holding the block, under its unit lock, by its maker: ends the handle's entry, whatever is
 * left of it, but for a KEPT one: the same bytes may have gone another way. */
void shr__ticket_give_back(sharena_heap *h, struct block *, const sharena_handle *);
/* Ends an entry whose word is still the one seen.  With no lock.  1: it did. */
int shr__ticket_end(sharena_heap *h, uint32_t at, uint64_t word);
void shr__tickets_reap(sharena_heap *h, unsigned slot);
/* Where the ticket with this word is; 0: the word names no channel, or the place is not its. */
int shr__ticket_place(const struct ticket_shm *, uint64_t word, sharena_place *out);

/* ---- sweep.c --------------------------------------------------------------------------------- */

enum { SWEEP_OWN, SWEEP_JUDGE, SWEEP_PATIENT };
int shr__sweep(sharena_heap *h, int how); /* 0, or SHARENA_EINTERRUPTED */
int shr__sweep_sometimes(sharena_heap *h); /* at most 2 % of the time; 1: it did */
void shr__tickets_expire(sharena_heap *h, uint64_t age_ms, size_t *count);

struct shr_list { /* in private memory */
    void *items;
    size_t size, count, room; /* of one item; items; items there is room for */
};
void *shr__append(struct shr_list *); /* the new last item; NULL: no memory */

/* ---- shortage.c ------------------------------------------------------------------------------ */

struct shr_shortage {
    int code; /* what is short */
    uint64_t units, align; /* the run or slab that would do; in units */
    uint64_t free_units; /* that may still be committed, where that is known */
    uint32_t class; /* of the small block that is asked for, or 0 */
};
/* Ends handles whose channel is unknown and whose maker is dead, oldest first, and in each round
 * for twice as much; none, if all of them are too little.  1: it ended some. */
int shr__tickets_give_way(sharena_heap *h, const struct shr_shortage *, unsigned round);
/* The same for a ticket of the block: ends one that is in its way.  With no lock. */
int shr__ticket_make_way(sharena_heap *h, uint64_t offset);
/* In blocks that nothing but tickets keeps. */
uint64_t shr__tickets_bytes(sharena_heap *h);

#endif
