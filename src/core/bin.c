/* Bins: a lane's slabs by class, and which of their blocks are free.
 *
 * A slab is its bin's current one, or in the list of those with free blocks, or of the full
 * ones.  Its free blocks are a private stack of indices, rebuilt from the masks whenever others
 * may have freed some: they raise the unit's hint.
 *
 * Nothing strands.  A slab keeps count of its private blocks (held, not exported, not released
 * by a sibling).  When it is 0 in a slab that is not its lane's current one, the slab is
 * retired: given back if it is empty, up to a small reserve, and abandoned if not, so that
 * others can empty, adopt and re-use it while this process sleeps.
 *
 * Lists and stacks change in the lane's bracket, or while it is stopped; retiring comes after.
 */
#include <stdlib.h>

#include "internal.h"

#define EMPTY_UNITS_MAX 256u /* 16 MiB of empty slabs a lane may keep, less in small heaps */

static struct slab **list_of(struct bin *b, uint32_t list)
{
    return list == LIST_PARTIAL ? &b->partial : &b->full;
}

int shr__bin_has_free(const struct slab *s)
{
    return load32_relaxed(&s->n_free) != 0;
}

int shr__bin_is_empty(const struct slab *s)
{
    return load32_relaxed(&s->n_free) == s->capacity;
}

static void count_empty(struct lane *l, const struct slab *s, int more)
{
    uint32_t units = shr__classes[s->class].units;

    l->empty_units += more ? units : 0u - units;
    if (more)
        (void)add64_relaxed(&l->heap->empty_units, units);
    else
        (void)sub64_relaxed(&l->heap->empty_units, units);
}

void shr__bin_unlink(struct lane *l, struct slab *s)
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
        if (list == LIST_PARTIAL && shr__bin_is_empty(s))
            count_empty(l, s, 0);
    }
    s->next = s->prev = NULL;
    store32_relaxed(&s->list, LIST_NONE);
}

void shr__bin_link(struct lane *l, struct slab *s, uint32_t list)
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
    if (list == LIST_PARTIAL && shr__bin_is_empty(s))
        count_empty(l, s, 1);
}

void shr__bin_map(sharena_heap *h, const struct slab *s, struct slab *to)
{
    for (uint32_t i = 0; i < shr__classes[s->class].units; i++)
        atomic_store_explicit(&h->slab_of[s->unit + i], to, memory_order_release);
}

/* Out of the lane for good: after the bracket it is retired. */
/* What is noted privately of blocks that are still held would go with the struct.  There are
 * such blocks only if `left` was raised once too often. */
static void keep_notes(const sharena_heap *h, struct slab *s)
{
    for (uint32_t i = 0; i < s->capacity; i++)
        if (load8_relaxed(&s->out[i]) == OUT_UNSHARED &&
            (load64_relaxed(&s->descs[i].mask) & h->mine) &&
            !(load64_relaxed(&s->descs[i].gen) & SHR_MARKS))
            (void)or64_acq_rel(&s->descs[i].gen, SHR_MARK_SHARED | SHR_MARK_UNSHARED);
}

void shr__bin_part(struct lane *l, struct slab *s)
{
    if (!shr__bin_is_empty(s))
        keep_notes(l->heap, s);
    shr__bin_unlink(l, s);
    l->bins[s->class].slabs--;
    shr__bin_map(l->heap, s, NULL);
    atomic_store_explicit(&s->lane, NULL, memory_order_release);
    shr__slab_plain(s);
}

uint32_t shr__bin_private(const struct slab *s)
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
struct slab *shr__bin_place(struct lane *l, struct slab *s)
{
    if (shr__bin_is_empty(s)) {
        if (l->empty_units + shr__classes[s->class].units > empty_max(l->heap)) {
            shr__bin_part(l, s);
            return s;
        }
    } else if (shr__bin_private(s) == 0) {
        shr__bin_part(l, s);
        return s;
    }
    shr__bin_link(l, s, shr__bin_has_free(s) ? LIST_PARTIAL : LIST_FULL);
    return NULL;
}

struct slab *shr__slab_housekeeping(struct lane *l, struct slab *s)
{
    uint32_t n = load32_relaxed(&s->n_free);

    if (n != 1 && shr__bin_private(s))
        return NULL;
    store32_relaxed(&s->n_free, n - 1); /* as it was when it was linked */
    shr__bin_unlink(l, s);
    store32_relaxed(&s->n_free, n);
    return shr__bin_place(l, s);
}

/* Rebuilds the stack of free blocks from the masks. */
void shr__rescan(sharena_heap *h, struct slab *s)
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
            store8_relaxed(&s->out[i], 0);
            if (gen & SHR_MARKS) /* ours alone, until its next life begins */
                store64_relaxed(&d->gen, gen & ~SHR_MARKS);
            s->free[n++] = (uint16_t)i;
        } else {
            left += (gen & SHR_MARKS) || !(m & h->mine);
        }
    }
    store32_relaxed(&s->n_free, n);
    (void)add32_relaxed(&s->left, left);
    shr__slab_plain(s);
}

/* Sets first and looks then, and who raises `left` (shr__leave()) looks at `plain` after that;
 * all seq_cst: one of them clears it whenever `left` is not 0.  In the lane's bracket, or while
 * it is stopped. */
void shr__slab_plain(struct slab *s)
{
    struct lane *l = atomic_load_explicit(&s->lane, memory_order_relaxed);

    atomic_store_explicit(&s->plain, l, memory_order_seq_cst);
    if (load32_seq(&s->left))
        atomic_store_explicit(&s->plain, NULL, memory_order_relaxed);
}

void shr__slab_struct_free(sharena_heap *h, struct slab *s)
{
    pthread_mutex_lock(&h->leaf);
    s->next = h->slab_pool[s->class];
    h->slab_pool[s->class] = s;
    pthread_mutex_unlock(&h->leaf);
}

/* Structs and their arrays stay until the heap is left: a stale pointer to one only ever hits
 * another slab of the class. */
static struct slab *slab_struct_new(sharena_heap *h, uint32_t class)
{
    const struct shr_class *c = &shr__classes[class];
    size_t bytes = (sizeof(struct slab) + c->capacity + 1 + 63) / 64 * 64;
    struct slab *s = aligned_alloc(64, bytes);
    uint16_t *stack = s ? calloc(c->capacity, sizeof *stack) : NULL;

    if (!stack) {
        free(s);
        return NULL;
    }
    memset(s, 0, bytes);
    s->free = stack;
    s->class = class;
    s->size = c->size;
    s->capacity = c->capacity;
    s->divides = UINT64_MAX / c->size + 1;
    pthread_mutex_lock(&h->leaf);
    s->all = h->slab_all;
    h->slab_all = s;
    pthread_mutex_unlock(&h->leaf);
    return s;
}

struct slab *shr__slab_struct(sharena_heap *h, uint32_t class)
{
    struct slab *s;

    pthread_mutex_lock(&h->leaf);
    s = h->slab_pool[class];
    if (s)
        h->slab_pool[class] = s->next;
    pthread_mutex_unlock(&h->leaf);
    if (!s)
        s = slab_struct_new(h, class);
    if (!s)
        return NULL;
    for (uint32_t i = 0; i < s->capacity; i++)
        store8_relaxed(&s->out[i], OUT_SHARED);
    store32_relaxed(&s->n_free, 0);
    store32_relaxed(&s->left, 0);
    store32_relaxed(&s->list, LIST_NONE);
    s->next = s->prev = NULL;
    return s;
}

void shr__slab_struct_at(sharena_heap *h, struct slab *s, uint64_t unit)
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

    shr__slab_struct_free(h, s);
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
