/* Joining a heap: its private side, the mapping, and a slot.
 *
 * When all slots are taken, the newcomer takes the slot kept for reapers, for as long as it
 * takes to clear up after the dead, and tries again.  A kill on the way leaves a dead slot.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

#define JOIN_TIMEOUT_MS 5000u /* dead slots are being emptied by somebody who may be stopped */

static int make_private(sharena_heap *h)
{
    h->slab_of_bytes = h->n_units * sizeof(void *);
    h->memo_bytes = h->n_units / h->extent_units * sizeof(uint64_t);
    h->slab_of = shr__sys_map_private(h->slab_of_bytes);
    h->memo = shr__sys_map_private(h->memo_bytes);
    (void)pthread_mutex_init(&h->names_lock, NULL);
    (void)pthread_mutex_init(&h->reap_lock, NULL);
    (void)pthread_mutex_init(&h->lanes_lock, NULL);
    (void)pthread_mutex_init(&h->leaf, NULL);
    return h->slab_of && h->memo ? 0 : SHARENA_ENOMEM;
}

void shr__heap_free(sharena_heap *h)
{
    if (!h)
        return;
    shr__lanes_forget(h);
    for (unsigned i = 0; i < SHR_SHARDS; i++)
        free(h->shards[i].table);
    if (h->slab_of)
        shr__sys_unmap((void *)(uintptr_t)h->slab_of, h->slab_of_bytes);
    if (h->memo)
        shr__sys_unmap((void *)(uintptr_t)h->memo, h->memo_bytes);
    if (h->map_start)
        shr__sys_unmap(h->map_start, h->map_start_bytes);
    shr__sys_lock_page_drop(h->lock_page);
    shr__sys_lock_page_drop(h->guest_page);
    shr__fd_close(h);
    free(h);
}

/* Maps the file of h->super and points into it. */
int shr__heap_map(sharena_heap *h)
{
    const struct super_shm *s = &h->super;
    char size[24];

    h->map_bytes = s->file_bytes;
    h->base = shr__sys_map((int)load32_relaxed(&h->fd), s->file_bytes, SHR_DATA_ALIGN,
                           &h->map_start, &h->map_start_bytes);
    if (!h->base)
        return shr__fail(SHARENA_ESYSTEM,
                         "can't map %s of address space (%s); create the heap with a smaller "
                         "reserve, or raise RLIMIT_AS",
                         shr__size(s->file_bytes, size), strerror(errno));
    h->data = h->base + s->data;
    h->n_units = s->units;
    h->extent_units = s->extent_units;
    h->data_bytes = s->units << SHR_UNIT_SHIFT;
    h->limit_units = s->limit_bytes >> SHR_UNIT_SHIFT;
    h->retain_units = s->retain_bytes >> SHR_UNIT_SHIFT;
    h->control = (struct control_shm *)(void *)(h->base + SHR_AT_CONTROL);
    h->heads = (shr_a64 *)(void *)(h->base + s->heads);
    h->commit = (shr_a64 *)(void *)(h->base + s->commit);
    h->dirty = (shr_a64 *)(void *)(h->base + s->dirty);
    h->extents = (struct extent_shm *)(void *)(h->base + s->extents);
    h->units = (struct unit_shm *)(void *)(h->base + s->units_at);
    h->descs = (struct desc_shm *)(void *)(h->base + s->descriptors);
    if (make_private(h) != 0)
        return shr__fail(SHARENA_ENOMEM, "no private memory for the heap's own tables");
    return 0;
}

/* Are there 60 that live, or is one of the slots free or about to be? */
static int all_alive(sharena_heap *h)
{
    uint64_t state;

    for (unsigned s = 0; s < SHR_PROCESSES; s++) {
        unsigned what = SHR_STATE_OF(load64_acquire(&shr__slot(h, s)->state));
        if (what == SLOT_FREE || what == SLOT_CLOSING || shr__slot_dead(h, s, &state))
            return 0;
    }
    return 1;
}

int shr__heap_join(sharena_heap *h)
{
    uint64_t start = shr__sys_now_ms();
    char name[96];
    unsigned slot;
    int code;

    for (;;) {
        code = shr__slot_take(h, 0, SHR_PROCESSES - 1, SLOT_INIT, &slot, &h->k, &h->lock_page);
        if (code != SHARENA_EPROCESSES || all_alive(h) ||
            shr__sys_now_ms() - start > JOIN_TIMEOUT_MS)
            break;
        if (shr__reap_without_slot(h) != 0) /* another newcomer is at it */
            shr__sys_yield();
    }
    if (code == SHARENA_EPROCESSES)
        return shr__fail(code,
                         "%s is used by %u processes, which is as many as it can hold; wait "
                         "until one ends, or use another heap",
                         shr__label(h, name), SHR_PROCESSES);
    if (code && !shr__sys_has_proc())
        return shr__fail(code,
                         "can't join %s: /proc is not mounted, and a heap's processes find its "
                         "memory and each other there",
                         shr__label(h, name));
    if (code)
        return shr__fail(code, "can't join %s: no descriptor or lock to be had (%s)",
                         shr__label(h, name), strerror(errno));
    h->slot = slot;
    h->mine = (uint64_t)1 << slot;
    return 0;
}

void shr__heap_go_live(sharena_heap *h)
{
    uint64_t state = SHR_STATE(h->k, SLOT_INIT);

    h->pid = shr__sys_pid();
    h->uid = shr__sys_uid();
    shr__slot_describe(h, h->slot);
    (void)cas64_acq_rel(&shr__slot(h, h->slot)->state, &state, SHR_STATE(h->k, SLOT_LIVE));
}

int shr__heap_publish(sharena_heap *h)
{
    for (unsigned i = 0; i < SHR_HEAPS; i++)
        if (!shr__heap_at(i)) {
            h->index = i;
            h->attached = 1;
            shr__heap_set(i, h);
            return 0;
        }
    return shr__fail(SHARENA_ENOMEM, "this process is attached to %u heaps already", SHR_HEAPS);
}

static void library_init(void)
{
    shr__classes_init();
    shr__lanes_init();
    shr__fork_handlers();
}

sharena_heap *shr__heap_new(int fd)
{
    sharena_heap *h = calloc(1, sizeof *h);
    uint64_t bytes;
    uint32_t uid;

    library_init();
    if (!h) {
        (void)shr__sys_close(fd);
        return NULL;
    }
    h->slot = SHR_SLOTS;
    store32_relaxed(&h->fd, (uint32_t)shr__sys_move_high(fd));
    (void)shr__sys_identity((int)load32_relaxed(&h->fd), &h->dev, &h->ino, &bytes, &uid);
    return h;
}
