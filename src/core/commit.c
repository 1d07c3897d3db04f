/* Committed memory: pages of the file, before anybody may touch them, and given back.
 *
 * Two bits a unit, changed only in a run held exclusively (they share words with other
 * units' bits, so always read-modify-write):
 *   D  the unit may have pages, or had: what it holds is not known to be zero
 *   C  all its pages are committed
 * Commit: read D (0: known to be zero), D = 1, commit the pages, C = 1.  Punch: C = 0, punch,
 * D = 0.  A kill in between leaves D = 1, C = 0, which the next commit or trim mends; orders
 * are relaxed, a compiler barrier keeps them against kills, and the run's mask orders them
 * for the next holder.  Both work on the mapping, and want a descriptor only where the kernel
 * or a locked page stands against it.
 * The counters are hints, and are counted again before anyone is refused (retain.c).
 */
#include <errno.h>
#include <stdio.h>

#include "internal.h"

int (*shr__interrupt)(void *);
void *shr__interrupt_argument;

#define STEP_UNITS (SHR_STEP >> SHR_UNIT_SHIFT)
#define HUGE_SLOW_NS 2500000u /* for one; small ones take half of it for as much memory */
#define HUGE_REST_MS 1000u
#define LOOK_BYTES ((uint64_t)1 << 20) /* look at the cgroups after committing so much */

static int bit_of(const shr_a64 *map, uint64_t unit)
{
    return (int)(load64_relaxed(&map[unit >> 6]) >> (unit & 63) & 1);
}

/* Sets or clears the bits of units from..to-1; returns how many changed. */
uint64_t shr__set_bits(shr_a64 *map, uint64_t from, uint64_t to, int on)
{
    uint64_t changed = 0;

    for (uint64_t u = from; u < to;) {
        uint64_t low = u & 63, span = 64 - low < to - u ? 64 - low : to - u;
        uint64_t mask = (span == 64 ? ~(uint64_t)0 : ((uint64_t)1 << span) - 1) << low, old;
        if (on) {
            old = or64_relaxed(&map[u >> 6], mask);
            changed += (uint64_t)__builtin_popcountll(~old & mask);
        } else {
            old = and64_relaxed(&map[u >> 6], ~mask);
            changed += (uint64_t)__builtin_popcountll(old & mask);
        }
        u += span;
    }
    return changed;
}

static shr_a64 *reservation(sharena_heap *h)
{
    return &shr__slot(h, h->slot)->reserved;
}

/* Units that somebody is about to commit; of the dead until they are reaped. */
static uint64_t reserved_units(const sharena_heap *h)
{
    uint64_t sum = 0;

    for (unsigned s = 0; s < SHR_SLOTS; s++) {
        unsigned state = SHR_STATE_OF(load64_relaxed(&shr__slot(h, s)->state));
        if (state != SLOT_FREE && state != SLOT_CLOSING)
            sum += load64_relaxed(&shr__slot(h, s)->reserved);
    }
    return sum;
}

/* Reserves `units` of data, or asks for `meta` bytes, under the limit: before the first page,
 * so that what can't be had whole is not begun. */
static int within_limit(sharena_heap *h, uint64_t units, uint64_t meta)
{
    uint64_t limit = h->limit_units << SHR_UNIT_SHIFT, used;
    char name[96], size[2][24];

    if (units)
        (void)add64_relaxed(reservation(h), units);
    used = ((load64_relaxed(&h->control->committed_units) + reserved_units(h))
            << SHR_UNIT_SHIFT) +
           load64_relaxed(&h->control->committed_meta);
    if (used <= limit && meta <= limit - used)
        return 0;
    if (units)
        shr__subtract(reservation(h), units);
    return shr__fail(SHARENA_EFULL,
                     "%s is full: %s asked for, its limit is %s; drop arrays, or create the heap "
                     "with a larger limit",
                     shr__label(h, name), shr__size((units << SHR_UNIT_SHIFT) + meta, size[0]),
                     shr__size(limit, size[1]));
}

static int no_room(sharena_heap *h, int code, uint64_t whole, const char *where)
{
    char name[96], size[24];

    store64_relaxed(&h->unchecked_bytes, LOOK_BYTES); /* whoever tries again looks again */
    return shr__fail(code,
                     "no room for %s in %s: %s; committing them could get processes killed or "
                     "refused; drop arrays, or make more room there",
                     shr__size(whole, size), shr__label(h, name), where);
}

/* Would the kernel kill, or the file system refuse, for `bytes` more of a request that still
 * needs `whole`?  What the heap's other processes are about to commit is needed too. */
static int room_for(sharena_heap *h, uint64_t bytes, uint64_t whole)
{
    uint64_t room, need;
    char where[160], size[24];

    if (add64_relaxed(&h->unchecked_bytes, bytes) + bytes < LOOK_BYTES && whole < LOOK_BYTES)
        return 0;
    store64_relaxed(&h->unchecked_bytes, 0);
    need = reserved_units(h) << SHR_UNIT_SHIFT;
    need = need > whole ? need : whole;
    if (shr__room(need, &room, where, sizeof where) == 0 && room < need)
        return no_room(h, SHARENA_EROOM, whole, where);
    room = h->super.name[0] ? shr__sys_free_bytes(shr__fd(h)) : UINT64_MAX;
    if (room < need) {
        (void)snprintf(where, sizeof where, "its file system has %s left", shr__size(room, size));
        return no_room(h, SHARENA_ENOSPACE, whole, where);
    }
    return 0;
}

/* Says what went wrong where the kernel refused. */
static int refused(sharena_heap *h, int code, uint64_t bytes)
{
    char name[96], size[24];

    return shr__fail(code,
                     "%s: the kernel refused to commit %s (%s); free space in the file system or "
                     "memory behind it, or use an unnamed heap",
                     shr__label(h, name), shr__size(bytes, size), sharena_strerror(code));
}

/* Huge pages for the whole ones in a stretch, ten times as fast to get as small ones.  It need
 * not work.  Where they are hard to find the kernel may search for long; whoever sees that
 * lets it be for a while. */
static void try_huge(sharena_heap *h, uint64_t unit, uint64_t to)
{
    uint64_t from = shr__round_up(unit, SHR_HUGE_UNITS);
    uint64_t pages = to / SHR_HUGE_UNITS - from / SHR_HUGE_UNITS, start = shr__sys_real_ns();

    if (to < from + SHR_HUGE_UNITS || shr__sys_now_ms() < load64_relaxed(&h->small_until_ms))
        return;
    if (shr__sys_populate_huge(h->data + (from << SHR_UNIT_SHIFT), pages * SHR_HUGE) ||
        shr__sys_real_ns() - start > pages * HUGE_SLOW_NS)
        store64_relaxed(&h->small_until_ms, shr__sys_now_ms() + HUGE_REST_MS);
}

/* `at` is a place in the file, and so in its mapping. */
static int commit_pages(sharena_heap *h, uint64_t at, uint64_t bytes)
{
    int code = shr__sys_populate(h->base + at, bytes), fd;

    if (code > 0) { /* an older kernel */
        fd = shr__fd(h);
        code = fd < 0 ? shr__sys_populate_each(h->base + at, bytes)
                      : shr__sys_commit(fd, at, bytes);
    }
    return code;
}

/* 0, or -1.  Pages that the program locked in memory, and not one by one with its blocks, keep
 * their lock if there is a descriptor; without one it goes with the memory, as in munmap(). */
int shr__punch(sharena_heap *h, uint64_t at, uint64_t bytes)
{
    int code = shr__sys_remove(h->base + at, bytes), fd;

    if (code) {
        fd = shr__fd(h);
        if (fd >= 0) {
            code = shr__sys_punch(fd, at, bytes);
        } else {
            shr__sys_unlock(h->base + at, bytes);
            code = shr__sys_remove(h->base + at, bytes);
        }
    }
    store32_relaxed(&h->punch_errno, code ? (uint32_t)errno : 0);
    return code;
}

/* One stretch of units with the same bits; counted already. */
static int commit_step(sharena_heap *h, uint64_t unit, uint64_t to, uint64_t whole, int huge)
{
    uint64_t at = h->super.data + (unit << SHR_UNIT_SHIFT), bytes = (to - unit) << SHR_UNIT_SHIFT;
    int code = room_for(h, bytes, whole);

    if (code)
        return code;
    (void)shr__set_bits(h->dirty, unit, to, 1);
    shr_compiler_barrier();
    if (huge)
        try_huge(h, unit, to);
    code = commit_pages(h, at, bytes);
    if (code) { /* give back what was got of it; D stays if that fails */
        if (shr__punch(h, at, bytes) == 0)
            (void)shr__set_bits(h->dirty, unit, to, 0);
        return refused(h, code, bytes);
    }
    shr_compiler_barrier();
    (void)add64_relaxed(&h->control->committed_units, shr__set_bits(h->commit, unit, to, 1));
    shr__subtract(reservation(h), to - unit);
    return 0;
}

/* Commits units of a run that the caller holds exclusively and nobody else knows; `zero`
 * makes all of it read as zeros.  On failure what was committed stays so. */
int shr__commit(sharena_heap *h, uint64_t unit, uint64_t units, int zero)
{
    uint64_t end = unit + units, missing = units - shr__bits_in(h->commit, unit, end);
    uint32_t forks = h->forks;
    int code = missing ? within_limit(h, missing, 0) : 0;

    if (code)
        return code;
    for (uint64_t u = unit, to; code == 0 && h->forks == forks && u < end; u = to) {
        int c = bit_of(h->commit, u), d = bit_of(h->dirty, u);
        for (to = u + 1; to < end && to % STEP_UNITS && bit_of(h->commit, to) == c &&
                         bit_of(h->dirty, to) == d;
             to++)
            ;
        if (!c) {
            code = commit_step(h, u, to, missing << SHR_UNIT_SHIFT, units >= SHR_LARGE_UNITS);
            missing -= code == 0 ? to - u : 0;
        }
        if (code == 0 && zero && d)
            memset(h->data + (u << SHR_UNIT_SHIFT), 0, (to - u) << SHR_UNIT_SHIFT);
        if (code == 0 && units > STEP_UNITS && shr__interrupt &&
            shr__interrupt(shr__interrupt_argument))
            code = shr__fail(SHARENA_EINTERRUPTED, "interrupted");
    }
    if (h->forks == forks) /* else the interrupt forked, and the run is the parent's */
        shr__subtract(reservation(h), missing); /* what failed */
    else if (code == 0)
        code = SHARENA_EINTERRUPTED;
    return code;
}

/* Metadata: never given back, and not held by anyone, so several may commit the same pages.
 * Who publishes them counts them.  Of a failed attempt some pages may stay, for the next one:
 * they can't be told from those that another has committed and uses. */
int shr__commit_meta(sharena_heap *h, uint64_t at, uint64_t bytes)
{
    uint64_t from = at / SHR_PAGE * SHR_PAGE,
             to = (at + bytes + SHR_PAGE - 1) / SHR_PAGE * SHR_PAGE;
    int code = within_limit(h, 0, to - from);

    if (code == 0)
        code = room_for(h, to - from, to - from);
    if (code == 0) {
        code = commit_pages(h, from, to - from);
        if (code)
            return refused(h, code, to - from);
    }
    return code;
}

static uint64_t chunk_of(uint64_t at)
{
    return (at - SHR_AT_NAMES) >> SHR_CHUNK_SHIFT;
}

static shr_a64 *chunk_word(const sharena_heap *h, uint64_t chunk)
{
    return (shr_a64 *)(void *)(h->base + SHR_AT_CHUNKS) + (chunk >> 6);
}

int shr__chunk_ready(const sharena_heap *h, uint64_t at)
{
    uint64_t chunk = chunk_of(at);

    return (int)(load64_acquire(chunk_word(h, chunk)) >> (chunk & 63) & 1);
}

int shr__chunk(sharena_heap *h, uint64_t at)
{
    uint64_t chunk = chunk_of(at), bit = (uint64_t)1 << (chunk & 63);
    int code;

    if (shr__chunk_ready(h, at))
        return 0;
    code = shr__commit_meta(h, SHR_AT_NAMES + (chunk << SHR_CHUNK_SHIFT), SHR_CHUNK);
    if (code == 0 && !(or64_release(chunk_word(h, chunk), bit) & bit))
        (void)add64_relaxed(&h->control->committed_meta, SHR_CHUNK);
    return code;
}

/* Chunks that are committed. */
uint64_t shr__chunks_ready(const sharena_heap *h)
{
    return shr__bits_in(chunk_word(h, 0), 0, SHR_CHUNKS_MAX);
}
