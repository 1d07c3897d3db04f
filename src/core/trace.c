/* Sites: where blocks were allocated, for people.
 *
 * Texts are interned in a table that only grows; an entry's hash is stored last, so a killed
 * writer leaves an entry that nobody uses.  The unit's header points to the text of its run,
 * or of the last block that was traced in its slab.  All of it is a hint.
 */
#include "internal.h"

static struct site_shm *site(const sharena_heap *h, uint64_t i)
{
    return (struct site_shm *)(void *)(h->base + SHR_AT_SITES) + i;
}

static uint64_t text_hash(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash | 1;
}

/* The entry of a text, made if it is new; 0: the table is full.  Entries are only added. */
static uint32_t intern(sharena_heap *h, const char *text)
{
    uint64_t hash = text_hash(text), n = load64_relaxed(&h->control->site_next), w;
    char padded[120] = "";

    for (uint64_t i = 0; i < n && i < SHR_SITES; i++)
        if (shr__chunk_ready(h, SHR_AT_SITES + i * sizeof(struct site_shm)) &&
            load64_acquire(&site(h, i)->hash) == hash)
            return (uint32_t)i + 1;
    if (n >= SHR_SITES || shr__chunk(h, SHR_AT_SITES + n * sizeof(struct site_shm)) != 0 ||
        !cas64_acq_rel(&h->control->site_next, &n, n + 1))
        return 0;
    (void)strncpy(padded, text, sizeof padded - 1);
    for (unsigned i = 0; i < 15; i++) {
        memcpy(&w, padded + 8 * i, 8);
        store64_relaxed(&site(h, n)->text[i], w);
    }
    store64_release(&site(h, n)->hash, hash);
    return (uint32_t)n + 1;
}

int sharena_trace(sharena_heap *h, const void *block, const char *text)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    struct block b;
    uint32_t entry;

    if (shr__decode_within(h, offset, &b) != 0 || !(load64_relaxed(b.mask) & h->mine))
        return shr__fail(SHARENA_ENOTHELD, "%p is not in a block that this process holds", block);
    entry = intern(h, text);
    if (!b.class)
        shr__leave(h, &b); /* its next life at hand has another site */
    if (entry)
        store32_relaxed(&b.unit->site, entry);
    return 0;
}
