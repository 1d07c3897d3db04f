/* Names: name → block, held by the mask bit N.
 *
 * Changes are rare, so one word serializes them: control.changer, tagged with the changer's
 * slot and incarnation, taken over from the dead.  It is the only place where a live process
 * waits for another (at most a few seconds, then SHARENA_EBUSY).  Readers never wait.
 *
 * The seconds are counted for a change, not for a call: a change that this process saw begin
 * more than that ago is refused at once, however often it is asked.  The word alone doesn't
 * tell one change of a process from its next, so each raises name_seq before it ends.  A
 * damaged word that names a process which changes nothing is such a change, until that
 * process makes one or is gone.
 *
 *   set      entry PENDING → N on the block → entry LIVE; then the old entry DYING, its N
 *            cleared unless another live entry names the block → FREE
 *   remove   entry DYING → N cleared, as above → FREE
 *
 * A kill leaves PENDING or DYING, in which N may be set or not; the next changer, who took the
 * word over from the dead, ends what was begun: it acquires the block by its number and clears
 * N, unless a live entry names it.  A reader sees the old entry or the new one: of two live
 * entries with the name, the one with the higher seq counts.
 */
#include "internal.h"

#include "sharena/registry.h"

_Static_assert(SHARENA_FORMAT == SHR_FORMAT, "registry.h says which format this is");

#define STATE_OF(w) ((unsigned)((w) & 255u))
#define CHANGE_TIMEOUT_MS 5000u
#define NAMES_A_CHUNK (SHR_CHUNK / sizeof(struct name_shm))

static struct name_shm *entry(const sharena_heap *h, unsigned i)
{
    return (struct name_shm *)(void *)(h->base + SHR_AT_NAMES) + i;
}

static int ready(const sharena_heap *h, unsigned i)
{
    return shr__chunk_ready(h, SHR_AT_NAMES + (uint64_t)i * sizeof(struct name_shm));
}

static void load_text(const struct name_shm *e, char text[64])
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t w = load64_relaxed(&e->text[i]);
        memcpy(text + 8 * i, &w, 8);
    }
    text[63] = 0;
}

static int valid(const sharena_heap *h, const char *name)
{
    size_t n = name ? strlen(name) : 0;
    char label[96];

    if (n == 0 || n > SHARENA_NAME)
        return shr__fail(SHARENA_EINVAL, "a name in %s has 1 to %d bytes, not %zu",
                         shr__label(h, label), SHARENA_NAME, n);
    return 0;
}

/* The live entry of the name; -1: none.  *word is its word. */
static int find(const sharena_heap *h, const char *name, uint64_t *word)
{
    int best = -1;

    for (unsigned i = 0; i < SHR_NAMES; i++) {
        const struct name_shm *e = entry(h, i);
        char text[64];
        uint64_t w;
        if (!ready(h, i)) {
            i |= (unsigned)NAMES_A_CHUNK - 1;
            continue;
        }
        w = load64_acquire(&e->word);
        if (STATE_OF(w) != NAME_LIVE)
            continue;
        load_text(e, text);
        shr_full_fence();
        if (load64_acquire(&e->word) == w && strcmp(text, name) == 0 &&
            (best < 0 || w >> 8 > *word >> 8)) {
            best = (int)i;
            *word = w;
        }
    }
    return best;
}

static int named_elsewhere(const sharena_heap *h, unsigned but, uint64_t offset, uint64_t number)
{
    for (unsigned i = 0; i < SHR_NAMES; i++) {
        const struct name_shm *e = entry(h, i);
        if (!ready(h, i))
            i |= (unsigned)NAMES_A_CHUNK - 1;
        else if (i != but && STATE_OF(load64_acquire(&e->word)) == NAME_LIVE &&
                 load64_relaxed(&e->offset) == offset && load64_relaxed(&e->number) == number)
            return 1;
    }
    return 0;
}

static uint64_t next_seq(sharena_heap *h)
{
    uint64_t seq = load64_relaxed(&h->control->name_seq) + 1;

    store64_relaxed(&h->control->name_seq, seq);
    return seq;
}

/* Ends an entry, as the changer: N goes with the last name of the block.  The block is held
 * meanwhile, so its number can't change. */
static void end_entry(sharena_heap *h, unsigned i)
{
    struct name_shm *e = entry(h, i);
    uint64_t offset = load64_relaxed(&e->offset), number = load64_relaxed(&e->number);
    struct shard *d;
    struct block b = {.undone = 0};
    int code, how = DROP_KEPT;

    store64_release(&e->word, next_seq(h) << 8 | NAME_DYING);
    if (!named_elsewhere(h, i, offset, number)) {
        d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
        code = shr__decode(h, offset, &b);
        if (code == 0)
            code = shr__hold(h, d, &b, number);
        if (code == 0) {
            (void)and64_acq_rel(b.mask, ~SHR_BIT_N);
            how = shr__drop(h, d, &b);
        }
        shr__unlock(d);
        if (code == 0)
            shr__after_drop(h, &b, how);
        else if (b.undone)
            shr__after_drop(h, &b, DROP_LAST);
        if (code == SHARENA_ENOMEM)
            return; /* stays DYING: the next change ends it */
    }
    store64_release(&e->word, next_seq(h) << 8 | NAME_FREE);
}

/* Ends what a dead changer began. */
static void repair(sharena_heap *h)
{
    for (unsigned i = 0; i < SHR_NAMES; i++) {
        unsigned state;
        if (!ready(h, i)) {
            i |= (unsigned)NAMES_A_CHUNK - 1;
            continue;
        }
        state = STATE_OF(load64_acquire(&entry(h, i)->word));
        if (state == NAME_PENDING || state == NAME_DYING)
            end_entry(h, i);
    }
    /* a replacement that was killed before the old entry went: the newer one counts */
    for (unsigned i = 0; i < SHR_NAMES; i++) {
        char text[64];
        uint64_t word = 0, w;
        if (!ready(h, i)) {
            i |= (unsigned)NAMES_A_CHUNK - 1;
            continue;
        }
        w = load64_acquire(&entry(h, i)->word);
        if (STATE_OF(w) != NAME_LIVE)
            continue;
        load_text(entry(h, i), text);
        if (find(h, text, &word) != (int)i)
            end_entry(h, i);
    }
}

/* Is the change that the word `seen` speaks of still worth waiting for? */
static int may_end(sharena_heap *h, uint64_t seen, uint64_t now_ms)
{
    uint64_t seq = load64_relaxed(&h->control->name_seq);

    if (h->awaited_changer != seen || h->awaited_seq != seq) {
        h->awaited_changer = seen;
        h->awaited_seq = seq;
        h->awaited_since_ms = now_ms;
    }
    return now_ms - h->awaited_since_ms <= CHANGE_TIMEOUT_MS;
}

static int begin_change(sharena_heap *h)
{
    uint64_t me = shr__exporter(h), start = shr__sys_now_ms(), now;
    char label[96];
    int pid;

    pthread_mutex_lock(&h->names_lock);
    for (;;) {
        uint64_t seen = 0;
        if (cas64_acq_rel(&h->control->changer, &seen, me))
            return 0;
        if (seen == me || !shr__exporter_alive(h, seen, &pid)) {
            if (cas64_acq_rel(&h->control->changer, &seen, me)) {
                repair(h);
                return 0;
            }
            continue;
        }
        now = shr__sys_now_ms();
        if (!may_end(h, seen, now) || now - start > CHANGE_TIMEOUT_MS) {
            pthread_mutex_unlock(&h->names_lock);
            return shr__fail(SHARENA_EBUSY,
                             "process %d is changing the names of %s and does not go on (is it "
                             "stopped?); continue or kill it",
                             pid, shr__label(h, label));
        }
        shr__sys_yield();
    }
}

static void end_change(sharena_heap *h)
{
    (void)next_seq(h); /* whoever sees the word again sees that this change has ended */
    store64_release(&h->control->changer, 0);
    pthread_mutex_unlock(&h->names_lock);
}

/* What a changer who died began is ended by the next one; a reaper need not wait for him. */
void shr__names_repair(sharena_heap *h)
{
    uint64_t changer = load64_acquire(&h->control->changer);

    if (changer && changer != shr__exporter(h) && !shr__exporter_alive(h, changer, NULL) &&
        begin_change(h) == 0)
        end_change(h);
}

/* The first free entry.  A new name must leave another one free, so that a name can always be
 * replaced. */
static int free_entry(sharena_heap *h, int is_new)
{
    int found = SHARENA_ENAMES;

    for (unsigned i = 0; i < SHR_NAMES; i++) {
        int code = shr__chunk(h, SHR_AT_NAMES + (uint64_t)i * sizeof(struct name_shm));
        if (code)
            return found >= 0 ? found : code;
        if (STATE_OF(load64_acquire(&entry(h, i)->word)) == NAME_DYING)
            end_entry(h, i); /* was put off for want of memory */
        if (STATE_OF(load64_acquire(&entry(h, i)->word)) != NAME_FREE)
            continue;
        if (found >= 0 || !is_new)
            return found >= 0 ? found : (int)i;
        found = (int)i;
    }
    return SHARENA_ENAMES;
}

static void write_entry(sharena_heap *h, unsigned i, const char *name, const struct block *b,
                        uint64_t number, const void *payload, size_t bytes)
{
    struct name_shm *e = entry(h, i);
    char text[64] = "";
    uint64_t w;

    store64_release(&e->word, next_seq(h) << 8 | NAME_PENDING);
    shr_full_fence(); /* readers that see new fields see that the word has changed */
    store64_relaxed(&e->offset, b->offset);
    store64_relaxed(&e->number, number);
    memcpy(text, name, strlen(name));
    for (unsigned k = 0; k < 8; k++) {
        memcpy(&w, text + 8 * k, 8);
        store64_relaxed(&e->text[k], w);
    }
    for (unsigned k = 0; k < SHARENA_PAYLOAD / 8; k++) {
        w = 0;
        if (8 * k < bytes)
            memcpy(&w, (const uint8_t *)payload + 8 * k, bytes - 8 * k < 8 ? bytes - 8 * k : 8);
        store64_relaxed(&e->payload[k], w);
    }
    store32_relaxed(&e->payload_bytes, (uint32_t)bytes);
}

/* As the changer: a new entry for the held block, then the old one ends, unless there may be
 * none. */
static int set_name(sharena_heap *h, const char *name, int only_new, uint64_t offset,
                    const void *payload, size_t bytes)
{
    uint64_t old_word = 0, number;
    int old = find(h, name, &old_word), i, code;
    struct shard *d;
    struct block b;

    if (only_new && old >= 0)
        return SHARENA_EEXIST;
    i = free_entry(h, old < 0);
    if (i < 0)
        return i;
    d = shr__lock(h, offset >> SHR_UNIT_SHIFT);
    code = shr__decode(h, offset, &b);
    if (code || !shr__is_mine(h, d, &b)) {
        shr__unlock(d);
        return SHARENA_ENOTHELD;
    }
    number = shr__number(&b);
    shr__export_mark(h, &b, SHR_MARK_HANDLE);
    write_entry(h, (unsigned)i, name, &b, number, payload, bytes);
    (void)or64_acq_rel(b.mask, SHR_BIT_N);
    store64_release(&entry(h, (unsigned)i)->word, next_seq(h) << 8 | NAME_LIVE);
    shr__unlock(d);
    if (b.class && shr__slab_at(h, b.head))
        shr__slab_left(h, b.head);
    if (old >= 0)
        end_entry(h, (unsigned)old);
    return 0;
}

static int give_name(sharena_heap *h, const char *name, int only_new, const void *block,
                     const void *payload, size_t payload_bytes)
{
    uint64_t offset = (uint64_t)((const uint8_t *)block - h->data);
    char label[96];
    int code = shr__usable(h);

    if (code || (code = valid(h, name)) != 0)
        return code;
    if (payload_bytes > SHARENA_PAYLOAD)
        return shr__fail(SHARENA_EINVAL,
                         "a name can carry %d bytes, not %zu; use a simpler dtype",
                         SHARENA_PAYLOAD, payload_bytes);
    code = begin_change(h);
    if (code)
        return code;
    code = set_name(h, name, only_new, offset, payload, payload_bytes);
    if (shr__make_room(h, code))
        code = set_name(h, name, only_new, offset, payload, payload_bytes);
    end_change(h);
    if (code == SHARENA_ENAMES)
        return shr__fail(code, "%s has %u names already; remove some", shr__label(h, label),
                         SHR_NAMES - 1);
    if (code == SHARENA_ENOTHELD)
        return shr__fail(code, "the address is not the start of a block that this process holds");
    if (code == SHARENA_EEXIST)
        return shr__fail(code, "an array is named '%s' in %s already", name,
                         shr__label(h, label));
    return code;
}

int sharena_name_set(sharena_heap *h, const char *name, const void *block, const void *payload,
                     size_t payload_bytes)
{
    return give_name(h, name, 0, block, payload, payload_bytes);
}

int sharena_name_add(sharena_heap *h, const char *name, const void *block, const void *payload,
                     size_t payload_bytes)
{
    return give_name(h, name, 1, block, payload, payload_bytes);
}

static int not_found(const sharena_heap *h, const char *name)
{
    char label[96];

    return shr__fail(SHARENA_ENOTFOUND, "no array is named '%s' in %s", name,
                     shr__label(h, label));
}

int sharena_name_remove(sharena_heap *h, const char *name)
{
    uint64_t word = 0;
    int code = shr__usable(h), i;

    if (code || (code = valid(h, name)) != 0 || (code = begin_change(h)) != 0)
        return code;
    i = find(h, name, &word);
    if (i >= 0)
        end_entry(h, (unsigned)i);
    end_change(h);
    return i >= 0 ? 0 : not_found(h, name);
}

/* One snapshot of a live entry: 1, or 0 if it changed under the reader. */
static int snapshot(const struct name_shm *e, uint64_t word, uint64_t *offset, uint64_t *number,
                    uint8_t payload[SHARENA_PAYLOAD], uint32_t *bytes)
{
    *offset = load64_relaxed(&e->offset);
    *number = load64_relaxed(&e->number);
    *bytes = load32_relaxed(&e->payload_bytes);
    for (unsigned k = 0; k < SHARENA_PAYLOAD / 8; k++) {
        uint64_t w = load64_relaxed(&e->payload[k]);
        memcpy(payload + 8 * k, &w, 8);
    }
    shr_full_fence();
    return load64_acquire(&e->word) == word && *bytes <= SHARENA_PAYLOAD;
}

int sharena_name_get(sharena_heap *h, const char *name, sharena_block *out, void *payload,
                     size_t *payload_bytes)
{
    uint64_t word, offset, number;
    uint8_t copy[SHARENA_PAYLOAD];
    uint32_t bytes;
    int code = shr__usable(h), i;

    if (code || (code = valid(h, name)) != 0)
        return code;
    for (unsigned tries = 0; tries < 1000; tries++) {
        word = 0;
        i = find(h, name, &word);
        if (i < 0)
            return not_found(h, name);
        if (!snapshot(entry(h, (unsigned)i), word, &offset, &number, copy, &bytes))
            continue; /* replaced meanwhile */
        if (bytes > *payload_bytes)
            return shr__fail(SHARENA_EINVAL, "%u bytes of payload do not fit in %zu", bytes,
                             *payload_bytes);
        code = shr__acquire(h, offset, number, NULL, out);
        if (code == SHARENA_ESTALE && load64_acquire(&entry(h, (unsigned)i)->word) != word)
            continue;
        if (code == 0) {
            if (bytes)
                memcpy(payload, copy, bytes);
            *payload_bytes = bytes;
        }
        return code;
    }
    return not_found(h, name);
}

int sharena_name_list(sharena_heap *h, int (*callback)(const char *, void *), void *argument)
{
    for (unsigned i = 0; i < SHR_NAMES; i++) {
        const struct name_shm *e = entry(h, i);
        uint64_t word = 0;
        char text[64];
        if (!ready(h, i)) {
            i |= (unsigned)NAMES_A_CHUNK - 1;
            continue;
        }
        if (STATE_OF(load64_acquire(&e->word)) != NAME_LIVE)
            continue;
        load_text(e, text);
        if (find(h, text, &word) == (int)i && callback(text, argument))
            break;
    }
    return 0;
}
