/* Small blocks: a lane's slabs and which of their blocks are free.
 *
 * A lane owns slabs, and only it takes their blocks from 0 to held, with plain stores.  Which
 * blocks are free is private knowledge (a stack of indices), rebuilt from the masks whenever
 * others may have freed some: they raise the unit's hint.
 *
 * Nothing strands.  A slab keeps count of its private blocks (taken here, not exported, not
 * released by a sibling).  When it is 0 in a slab that is not its lane's current one, the
 * slab is given back if it is empty, up to a small reserve, and abandoned if not: others can
 * empty, adopt and re-use it while this process sleeps.
 *
 * In front of the slabs stand magazines: a block that never left its lane and is released goes
 * there, and out again, without a look at shared memory.  Its mask stays: this process holds
 * it, whatever its program thinks.  So a magazine may pin slabs; it is bounded (less in small
 * heaps), emptied before a fork, a trim, a refusal, a count, and when its thread ends.
 *
 * Lists and stacks change in the lane's bracket, or while it is stopped; what commits,
 * searches or waits comes before or after.
 */
#include <stdlib.h>

#include "internal.h"

#define EMPTY_UNITS_MAX 256u /* 16 MiB of empty slabs a lane may keep, less in small heaps */
#define MAGAZINE_MAX 512u    /* blocks at hand of a class, a cap that holds a usual batch ... */
#define MAGAZINE_BYTES ((uint64_t)2 << 20) /* ... up to 4 KiB; bigger ones by bytes */
#define MAGAZINES_MAX 4096u  /* of a lane together; then the classes to come get few */
#define MAGAZINE_MIN 16u

/* ---- lists of a lane: inside its bracket, or while it is stopped ---------------------------- */

static struct slab **list_of(struct bin *b, uint32_t list)
{
    return list == LIST_PARTIAL ? &b->partial : &b->full;
}

static int has_free(const struct slab *s)
{
    return load32_relaxed(&s->n_free) != 0;
}

static int is_empty(const struct slab *s)
{
    return load32_relaxed(&s->n_free) == s->capacity;
}

static void unlink_slab(struct lane *l, struct slab *s)
{
    struct bin *b = &l->bins[s->class];
    uint32_t list = load32_relaxed(&s->list);

    if (list == LIST_CURRENT) {
        b->current = NULL;
    } else if (list != LIST_NONE) {
        if (s->prev)
            s->prev->next = s->next;
        else
            *list_of(b, list) = s->next;
        if (s->next)
            s->next->prev = s->prev;
        if (list == LIST_PARTIAL && is_empty(s))
            l->empty_units -= shr__classes[s->class].units;
    }
    s->next = s->prev = NULL;
    store32_relaxed(&s->list, LIST_NONE);
}

static void link_slab(struct lane *l, struct slab *s, uint32_t list)
{
    struct bin *b = &l->bins[s->class];
    struct slab **head = list_of(b, list);

    SHR_ASSERT(load32_relaxed(&s->list) == LIST_NONE);
    store32_relaxed(&s->list, list);
    if (list == LIST_CURRENT) {
        b->current = s;
        return;
    }
    s->prev = NULL;
    s->next = *head;
    if (*head)
        (*head)->prev = s;
    *head = s;
    if (list == LIST_PARTIAL && is_empty(s))
        l->empty_units += shr__classes[s->class].units;
}

static void map_slab(sharena_heap *h, const struct slab *s, struct slab *to)
{
    for (uint32_t i = 0; i < shr__classes[s->class].units; i++)
        atomic_store_explicit(&h->slab_of[s->unit + i], to, memory_order_release);
}

/* Out of the lane for good: after the bracket it is retired. */
static void part(struct lane *l, struct slab *s)
{
    unlink_slab(l, s);
    l->bins[s->class].slabs--;
    map_slab(l->heap, s, NULL);
    atomic_store_explicit(&s->lane, NULL, memory_order_release);
}

static uint32_t private_blocks(const struct slab *s)
{
    uint32_t used = s->capacity - load32_relaxed(&s->n_free), left = load32_relaxed(&s->left);

    return used > left ? used - left : 0;
}

static uint32_t empty_max(const sharena_heap *h)
{
    uint64_t max = h->limit_units / 64;

    return max < EMPTY_UNITS_MAX ? (uint32_t)max : EMPTY_UNITS_MAX;
}

/* Puts a slab that is in no list where it belongs; returns it if it is to be retired. */
static struct slab *place_slab(struct lane *l, struct slab *s)
{
    if (is_empty(s)) {
        if (l->empty_units + shr__classes[s->class].units > empty_max(l->heap)) {
            part(l, s);
            return s;
        }
    } else if (private_blocks(s) == 0) {
        part(l, s);
        return s;
    }
    link_slab(l, s, has_free(s) ? LIST_PARTIAL : LIST_FULL);
    return NULL;
}

struct slab *shr__slab_housekeeping(struct lane *l, struct slab *s)
{
    uint32_t n = load32_relaxed(&s->n_free);

    if (n != 1 && private_blocks(s))
        return NULL;
    store32_relaxed(&s->n_free, n - 1); /* as it was when it was linked */
    unlink_slab(l, s);
    store32_relaxed(&s->n_free, n);
    return place_slab(l, s);
}

/* ---- rescan ----------------------------------------------------------------------------------- */

/* Rebuilds the stack of free blocks from the masks. */
static void rescan(sharena_heap *h, struct slab *s)
{
    uint32_t n = 0, left = 0;

    /* one swap each: every raise it overwrites is seen, and so are the masks and marks before
     * it; a raise that comes during the scan stays, and may count twice: never too low */
    (void)and32_acq_rel(&h->units[s->unit].hint, 0);
    (void)and32_acq_rel(&s->left, 0);
    for (uint32_t i = s->capacity; i-- > 0;) {
        struct desc_shm *d = &s->descs[i];
        uint64_t m = load64_acquire(&d->mask), gen = load64_relaxed(&d->gen);
        if (m == 0) {
            store8_relaxed(&s->idle[i], 1);
            if (gen & SHR_MARKS) /* ours alone, until its next life begins */
                store64_relaxed(&d->gen, gen & ~SHR_MARKS);
            s->free[n++] = (uint16_t)i;
        } else {
            left += (gen & SHR_MARKS) || !(m & h->mine);
        }
    }
    store32_relaxed(&s->n_free, n);
    (void)add32_relaxed(&s->left, left);
}

static int rescan_if_hinted(sharena_heap *h, struct slab *s)
{
    if (load32_acquire(&h->units[s->unit].hint))
        rescan(h, s);
    return has_free(s);
}

/* All full slabs of a class, when their number has grown by a quarter since the last time:
 * doing so before every growth would be quadratic.  Returns slabs to retire, chained. */
static struct slab *rescan_all(sharena_heap *h, struct lane *l, struct bin *b, int force)
{
    struct slab *retired = NULL, *next;

    if (!force && b->slabs < b->rescanned + b->rescanned / 4 + 1)
        return NULL;
    for (struct slab *s = b->full; s; s = next) {
        next = s->next;
        if (!load32_acquire(&h->units[s->unit].hint))
            continue;
        unlink_slab(l, s);
        rescan(h, s);
        s = place_slab(l, s);
        if (s) {
            s->next = retired;
            retired = s;
        }
    }
    b->rescanned = b->slabs;
    return retired;
}

/* ---- magazines ---------------------------------------------------------------------------------- */

/* Each block at hand may pin a slab while this process sleeps: that bounds them. */
static uint32_t magazine_room(const sharena_heap *h, const struct lane *l, uint32_t class)
{
    uint64_t room = MAGAZINE_BYTES / shr__classes[class].size, most = h->limit_units / 16;

    most = most < MAGAZINES_MAX ? most : MAGAZINES_MAX;
    room = room < MAGAZINE_MAX ? room : MAGAZINE_MAX;
    room = room < most / 8 ? room : most / 8;
    if (l->at_hand_max + room > most || room < MAGAZINE_MIN)
        room = MAGAZINE_MIN;
    return (uint32_t)room;
}

/* NULL: no memory, or there is one. */
static void **magazine_new(const struct lane *l, uint32_t class, uint32_t room)
{
    if (l->magazines[class].top != l->magazines[class].end || l->magazines[class].top[-1])
        return NULL;
    return calloc(room + 1, sizeof(void *));
}

/* Really frees a block at hand; returns its slab if that is to be retired now. */
static struct slab *unload(sharena_heap *h, struct lane *l, void *block)
{
    uint64_t offset = (uint64_t)((uint8_t *)block - h->data);
    struct slab *s = shr__slab_at(h, offset >> SHR_UNIT_SHIFT);
    struct block b;
    uint32_t n;

    if (shr__decode(h, offset, &b) != 0)
        return NULL;
    if (!s || atomic_load_explicit(&s->lane, memory_order_relaxed) != l ||
        load64_relaxed(b.mask) != h->mine || load64_relaxed(b.gen) >> 62 ||
        load32_relaxed(&s->n_free) >= s->capacity) {
        /* a stale acquirer is passing through, or the slab was abandoned on a miscount:
         * whoever owns it finds the block at the next rescan */
        shr__export_mark(h, &b, SHR_MARK_SHARED);
        (void)and64_release(b.mask, ~h->mine);
        (void)or32_release(&b.unit->hint, 1);
        return NULL;
    }
    store64_relaxed(b.mask, 0);
    n = load32_relaxed(&s->n_free);
    s->free[n] = (uint16_t)b.index;
    store32_relaxed(&s->n_free, n + 1);
    return load32_relaxed(&s->list) == LIST_CURRENT ? NULL : shr__slab_housekeeping(l, s);
}

/* In the bracket, or while the lane is stopped. */
static struct slab *flush(sharena_heap *h, struct lane *l, struct slab *retired)
{
    for (uint32_t c = 1; c < shr__n_classes; c++) {
        struct magazine *m = &l->magazines[c];
        while (m->top[-1]) {
            struct slab *s = unload(h, l, *--m->top);
            if (s) {
                s->next = retired;
                retired = s;
            }
        }
    }
    return retired;
}

struct slab *shr__lanes_flush_stopped(sharena_heap *h)
{
    struct slab *retired = NULL;

    for (struct lane *l = h->lanes; l; l = l->next)
        retired = flush(h, l, retired);
    return retired;
}

/* ---- private structs ----------------------------------------------------------------------------- */

static void slab_struct_free(sharena_heap *h, struct slab *s)
{
    pthread_mutex_lock(&h->leaf);
    s->next = h->slab_pool;
    h->slab_pool = s;
    pthread_mutex_unlock(&h->leaf);
}

static struct slab *slab_struct(sharena_heap *h, uint32_t class)
{
    const struct shr_class *c = &shr__classes[class];
    struct slab *s;

    pthread_mutex_lock(&h->leaf);
    s = h->slab_pool;
    if (s)
        h->slab_pool = s->next;
    pthread_mutex_unlock(&h->leaf);
    if (!s) {
        s = aligned_alloc(64, (sizeof *s + 63) / 64 * 64);
        if (!s)
            return NULL;
        memset(s, 0, sizeof *s);
        pthread_mutex_lock(&h->leaf);
        s->all = h->slab_all;
        h->slab_all = s;
        pthread_mutex_unlock(&h->leaf);
    }
    if (s->free_room < c->capacity || s->free_room > c->capacity * 4) {
        uint16_t *stack = calloc(c->capacity, sizeof *stack + 1), *old = s->free;
        if (!stack) {
            slab_struct_free(h, s);
            return NULL;
        }
        s->free = stack; /* a child forked here frees what it finds */
        s->idle = (shr_a8 *)(void *)(stack + c->capacity);
        s->free_room = c->capacity;
        free(old);
    }
    for (uint32_t i = 0; i < c->capacity; i++)
        store8_relaxed(&s->idle[i], 0);
    s->reciprocal = c->reciprocal;
    s->size = c->size;
    s->capacity = c->capacity;
    store32_relaxed(&s->n_free, 0);
    s->class = class;
    store32_relaxed(&s->list, LIST_NONE);
    s->next = s->prev = NULL;
    store32_relaxed(&s->left, 0);
    return s;
}

static void slab_struct_at(sharena_heap *h, struct slab *s, uint64_t unit)
{
    s->descs = &h->descs[unit << 12];
    s->start = h->data + (unit << SHR_UNIT_SHIFT);
    s->unit = (uint32_t)unit;
}

/* After the bracket: the slab is in no list and no lane knows it. */
static void retire(sharena_heap *h, struct slab *s)
{
    uint64_t unit = s->unit;
    uint32_t class = s->class;

    slab_struct_free(h, s);
    shr__slab_let_go(h, unit, class);
}

void shr__slab_retire(sharena_heap *h, struct slab *s)
{
    while (s) {
        struct slab *next = s->next;
        retire(h, s);
        s = next;
    }
}

/* A slab with free blocks that no lane knows yet: adopted, or cut. */
static int slab_new(sharena_heap *h, uint32_t class, unsigned flags, struct slab **out)
{
    const struct shr_class *c = &shr__classes[class];
    struct slab *s = slab_struct(h, class);
    uint64_t unit;
    int code;

    if (!s)
        return SHARENA_ENOMEM;
    unit = shr__slab_adopt_any(h, class);
    if (unit != UINT64_MAX) {
        slab_struct_at(h, s, unit);
        rescan(h, s);
        *out = s;
        return 0;
    }
    code = shr__run_find(h, c->units, 1, flags, &unit);
    if (code == 0) {
        shr__reuse(h, unit, c->units);
        code = shr__commit(h, unit, c->units, 0);
        if (code == 0)
            code = shr__slab_descriptors(h, unit, c->pages);
        if (code)
            shr__run_undo(h, unit, c->units);
    }
    if (code) {
        slab_struct_free(h, s);
        return code;
    }
    shr__slab_cut(h, unit, class);
    slab_struct_at(h, s, unit);
    for (uint32_t i = 0; i < c->capacity; i++)
        s->free[i] = (uint16_t)(c->capacity - 1 - i);
    for (uint32_t i = 0; i < c->capacity; i++)
        store8_relaxed(&s->idle[i], 1);
    store32_relaxed(&s->n_free, c->capacity);
    *out = s;
    return 0;
}

/* ---- the slow path of an allocation ------------------------------------------------------------------ */

/* In the bracket: makes a slab with a free block current, if the lane has one. */
static struct slab *next_current(sharena_heap *h, struct lane *l, struct bin *b, int force,
                                 struct slab **retired)
{
    struct slab *s = b->current;

    if (s && (has_free(s) || rescan_if_hinted(h, s)))
        return s;
    if (s) {
        unlink_slab(l, s);
        *retired = place_slab(l, s);
    }
    if (!b->partial) {
        struct slab *more = rescan_all(h, l, b, force);
        if (*retired)
            (*retired)->next = more;
        else
            *retired = more;
    }
    s = b->partial;
    if (s) {
        unlink_slab(l, s);
        link_slab(l, s, LIST_CURRENT);
    }
    return s;
}

static void attach_slab(sharena_heap *h, struct lane *l, struct slab *s)
{
    struct bin *b = &l->bins[s->class];
    struct slab *old;
    uint32_t room = magazine_room(h, l, s->class);
    void **blocks = magazine_new(l, s->class, room);

    while (!shr__enter(l))
        shr__lane_wait(l);
    if (blocks) {
        l->magazines[s->class].top = blocks + 1;
        l->magazines[s->class].end = blocks + 1 + room;
        l->at_hand_max += room;
    }
    s->magazine = &l->magazines[s->class];
    old = b->current; /* a trimmer may have changed it */
    if (old) {
        unlink_slab(l, old);
        link_slab(l, old, has_free(old) ? LIST_PARTIAL : LIST_FULL);
    }
    b->slabs++;
    link_slab(l, s, LIST_CURRENT);
    atomic_store_explicit(&s->lane, l, memory_order_release);
    map_slab(h, s, s);
    shr__exit(l);
}

int shr__small(sharena_heap *h, struct lane *l, uint32_t class, unsigned flags, uint64_t *offset)
{
    struct bin *b = &l->bins[class];
    int code;

    for (;;) {
        struct slab *retired = NULL, *s;
        uint32_t i = 0;
        while (!shr__enter(l))
            shr__lane_wait(l);
        s = next_current(h, l, b, (flags & RUN_ANYWHERE) != 0, &retired);
        if (s) {
            i = shr__slab_pop(h, s);
            *offset = ((uint64_t)s->unit << SHR_UNIT_SHIFT) + (uint64_t)i * s->size;
        }
        shr__exit(l);
        shr__slab_retire(h, retired);
        if (s)
            return 0;
        shr__decay(h);
        code = slab_new(h, class, flags, &s);
        if (code)
            return code;
        attach_slab(h, l, s);
    }
}

/* ---- for slabs whose lane may be asleep ---------------------------------------------------------------- */

/* private_blocks() for who does not own the slab: it may just be changing hands. */
static int looks_left(const sharena_heap *h, const struct slab *s, uint64_t unit)
{
    uint32_t class = load32_acquire(&h->units[unit].class);

    return class && class < shr__n_classes &&
           shr__classes[class].capacity <= load32_relaxed(&s->n_free) + load32_relaxed(&s->left);
}

/* A block of the slab at `unit` left its lane's regime.  If it was the last private one, the
 * slab is retired here and now: by its own lane, or with the lane stopped. */
void shr__slab_left(sharena_heap *h, uint64_t unit)
{
    struct slab *s = shr__slab_at(h, unit), *retired = NULL;
    struct shr_thread *t = shr__thread;
    struct lane *l;

    if (!s || load32_relaxed(&s->list) == LIST_CURRENT || !looks_left(h, s, unit))
        return;
    l = atomic_load_explicit(&s->lane, memory_order_acquire);
    if (t && l && l == atomic_load_explicit(&t->lanes[h->index], memory_order_relaxed)) {
        while (!shr__enter(l))
            shr__lane_wait(l);
        if (shr__slab_at(h, unit) == s &&
            atomic_load_explicit(&s->lane, memory_order_relaxed) == l && load32_relaxed(&s->list) != LIST_CURRENT &&
            !private_blocks(s)) {
            unlink_slab(l, s);
            retired = place_slab(l, s);
        }
        shr__exit(l);
        shr__slab_retire(h, retired);
        return;
    }
    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    s = shr__slab_at(h, unit);
    l = s ? atomic_load_explicit(&s->lane, memory_order_relaxed) : NULL;
    if (l && load32_relaxed(&s->list) != LIST_CURRENT) {
        unlink_slab(l, s);
        rescan(h, s);
        retired = place_slab(l, s);
    }
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}

void shr__lanes_flush(sharena_heap *h)
{
    struct slab *retired;

    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    retired = shr__lanes_flush_stopped(h);
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}

static void lane_leaves(struct lane *l)
{
    struct slab *retired;

    while (!shr__enter(l))
        shr__lane_wait(l);
    retired = flush(l->heap, l, NULL);
    shr__exit(l);
    shr__slab_retire(l->heap, retired);
    pthread_mutex_lock(&l->heap->lanes_lock);
    l->owner = NULL;
    pthread_mutex_unlock(&l->heap->lanes_lock);
}

/* A thread ends: its lanes wait for the next one. */
static void thread_leaves(struct shr_thread *t)
{
    pthread_mutex_lock(&shr__heaps_lock);
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        struct lane *l = atomic_load_explicit(&t->lanes[i], memory_order_relaxed);
        if (l)
            lane_leaves(l);
    }
    pthread_mutex_unlock(&shr__heaps_lock);
}

__attribute__((constructor)) static void watch_threads(void)
{
    shr__thread_leaves = thread_leaves;
}

static struct slab *trim_list(sharena_heap *h, struct lane *l, struct slab *list,
                              struct slab *retired)
{
    for (struct slab *s = list, *next; s; s = next) {
        next = s->next;
        unlink_slab(l, s);
        rescan(h, s);
        if (is_empty(s) || private_blocks(s) == 0) {
            part(l, s);
            s->next = retired;
            retired = s;
        } else {
            link_slab(l, s, has_free(s) ? LIST_PARTIAL : LIST_FULL);
        }
    }
    return retired;
}

void shr__lanes_trim(sharena_heap *h)
{
    struct slab *retired = NULL;

    pthread_mutex_lock(&h->lanes_lock);
    shr__lanes_stop(h);
    retired = shr__lanes_flush_stopped(h);
    for (struct lane *l = h->lanes; l; l = l->next)
        for (uint32_t c = 1; c < shr__n_classes; c++) {
            struct bin *b = &l->bins[c];
            struct slab *current = b->current;
            if (current) {
                unlink_slab(l, current);
                link_slab(l, current, has_free(current) ? LIST_PARTIAL : LIST_FULL);
            }
            retired = trim_list(h, l, b->partial, retired);
            retired = trim_list(h, l, b->full, retired);
        }
    shr__lanes_go(h);
    pthread_mutex_unlock(&h->lanes_lock);
    shr__slab_retire(h, retired);
}

/* In a forked child, which owns no slab, and before a detach. */
void shr__lanes_forget(sharena_heap *h)
{
    for (struct slab *s = h->slab_all, *next; s; s = next) {
        next = s->all;
        if (atomic_load_explicit(&s->lane, memory_order_relaxed))
            map_slab(h, s, NULL);
        free(s->free);
        free(s);
    }
    h->slab_all = h->slab_pool = NULL;
    for (struct lane *l = h->lanes, *next; l; l = next) {
        next = l->next;
        for (unsigned c = 0; c < SHR_CLASSES_MAX; c++) {
            struct magazine *m = &l->magazines[c];
            while (m->top[-1])
                m->top--;
            if (m->top != m->end) /* else it was never given one */
                free(m->top - 1);
        }
        free(l);
    }
    h->lanes = NULL;
}
