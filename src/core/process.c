/* Slots: who takes part in a heap, and who of them is dead.
 *
 * A process takes a slot lock first: a write lock on the slot's byte that the kernel drops
 * when the process is gone, then FREE(k) → INIT(k) → LIVE(k) by CAS.  Dead ⇔ the lock is
 * free; the state is loaded with acquire before the lock is tested, so that the verdict is
 * about the one who set that state.  The incarnation k is part of every state: no word that
 * speaks of slot and k can be mistaken for one about the next user of the slot.
 *
 * A kill between lock and INIT leaves a FREE slot; between INIT and LIVE, or of an EMBRYO
 * (a child being forked), a dead slot that a reaper empties; in CLOSING, a slot that the
 * next looker frees.  Nothing here waits for another process.
 *
 * A process that has no descriptor of the heap left, and finds none (closefrom() closes them
 * all), can't look at locks.  For it the dead are those whose pid says so: fewer, never others.
 */
#include <errno.h>
#include <stdio.h>

#include "internal.h"

#define FD_REST_MS 200u

pthread_mutex_t shr__heaps_lock = PTHREAD_MUTEX_INITIALIZER;
sharena_heap *_Atomic shr__heaps[SHR_HEAPS];

/* Where their data lies: to be read by who has no idea whether there is a heap, and whether
 * another thread is just leaving it.  `bytes` is 0 before `data` changes. */
static struct {
    shr_a64 data, bytes;
} spans[SHR_HEAPS];

void shr__heap_set(unsigned index, sharena_heap *h)
{
    store64_release(&spans[index].bytes, 0);
    if (h) {
        store64_relaxed(&spans[index].data, (uint64_t)(uintptr_t)h->data);
        store64_release(&spans[index].bytes, h->data_bytes);
    }
    atomic_store_explicit(&shr__heaps[index], h, memory_order_release);
}

sharena_heap *sharena_heap_of(const void *address)
{
    for (unsigned i = 0; i < SHR_HEAPS; i++) {
        uint64_t bytes = load64_acquire(&spans[i].bytes);
        if (bytes && (uint64_t)(uintptr_t)address - load64_acquire(&spans[i].data) < bytes &&
            load64_relaxed(&spans[i].bytes) == bytes)
            return shr__heap_at(i);
    }
    return NULL;
}

static uint64_t lock_at(unsigned slot)
{
    return SHR_AT_SLOTS + (uint64_t)slot * sizeof(struct slot_shm);
}

static int same_file(const sharena_heap *h, int fd)
{
    uint64_t dev, ino, bytes;
    uint32_t uid;

    return fd >= 0 && shr__sys_identity(fd, &dev, &ino, &bytes, &uid) == 0 && dev == h->dev &&
           ino == h->ino;
}

/* Keeps a descriptor that is one of the heap's file; else closes it and gives -1. */
static int only_same_file(const sharena_heap *h, int fd)
{
    if (same_file(h, fd))
        return fd;
    if (fd >= 0)
        (void)shr__sys_close(fd);
    return -1;
}

/* By the heap's name, by our own mapping (with privileges), or from another process that has it
 * open; -1 if nobody does. */
static int find_again(sharena_heap *h)
{
    int again = -1;

    if (h->super.name[0]) {
        char path[128];
        unsigned uid;
        int remote;
        (void)snprintf(path, sizeof path, "/dev/shm/sharena.%s", h->super.name);
        again = only_same_file(h, shr__sys_open_path(path, &uid, &remote));
    }
    if (again < 0 && h->lock_page)
        again = only_same_file(h, shr__sys_open_page(h->lock_page));
    for (unsigned s = 0; s < SHR_PROCESSES && again < 0; s++) {
        struct slot_shm *slot = shr__slot(h, s);
        uint32_t number = load32_relaxed(&slot->descriptor);
        if (s != h->slot && number && SHR_STATE_OF(load64_acquire(&slot->state)) == SLOT_LIVE)
            again = only_same_file(
                h, shr__sys_open_process((int)load32_relaxed(&slot->pid), (int)number - 1));
    }
    return again;
}

/* The application may have closed our descriptor, or put its own in its place.  Then another
 * one is looked for, at most every FD_REST_MS: a search looks at every process. */
int shr__fd(sharena_heap *h)
{
    uint32_t seen = load32_relaxed(&h->fd);
    uint64_t now;
    int again;

    if (same_file(h, (int)seen))
        return (int)seen;
    now = shr__sys_now_ms();
    if (now - load64_relaxed(&h->fd_missed_ms) < FD_REST_MS)
        return -1;
    again = find_again(h);
    if (again < 0) {
        store64_relaxed(&h->fd_missed_ms, now);
        return -1;
    }
    again = shr__sys_move_high(again);
    if (!cas32_relaxed(&h->fd, &seen, (uint32_t)again)) { /* another thread was faster */
        (void)shr__sys_close(again);
        return same_file(h, (int)seen) ? (int)seen : -1;
    }
    store32_relaxed(&shr__slot(h, h->slot)->descriptor, (uint32_t)again + 1);
    return again;
}

/* Never a descriptor that the application put in its place. */
void shr__fd_close(sharena_heap *h)
{
    int fd = (int)load32_relaxed(&h->fd);

    if (same_file(h, fd))
        (void)shr__sys_close(fd);
}

/* Takes a free slot in first..last and leaves it in `state`.  SHARENA_EPROCESSES: none free;
 * SHARENA_ESYSTEM: errno says why, EBADF is for want of a descriptor. */
int shr__slot_take(sharena_heap *h, unsigned first, unsigned last, unsigned state, unsigned *slot,
                   uint64_t *k, void **page)
{
    int fd;

    store64_relaxed(&h->fd_missed_ms, 0); /* no rest: without one a child would be a guest */
    fd = shr__fd(h);
    if (fd < 0) {
        errno = EBADF;
        return SHARENA_ESYSTEM;
    }
    for (unsigned s = first; s <= last; s++) {
        struct slot_shm *p = shr__slot(h, s);
        uint64_t seen = load64_acquire(&p->state), wanted;
        void *lock;
        if (SHR_STATE_OF(seen) != SLOT_FREE)
            continue;
        lock = shr__sys_lock_page(fd, lock_at(s));
        if (!lock) {
            if (errno == EAGAIN)
                continue; /* a newcomer beside us */
            return SHARENA_ESYSTEM;
        }
        wanted = SHR_STATE(SHR_K_OF(seen), state);
        if (!cas64_acq_rel(&p->state, &seen, wanted)) {
            shr__sys_lock_page_drop(lock);
            continue;
        }
        store64_release(&p->announce, 0); /* of a reaper that died in an earlier life */
        store32_relaxed(&p->guests, 0);
        store64_relaxed(&p->reserved, 0);
        store64_relaxed(&p->at_hand, 0);
        *slot = s;
        *k = SHR_K_OF(seen);
        *page = lock;
        return 0;
    }
    return SHARENA_EPROCESSES;
}

/* The slot for a reaper that has none.  It is reaped only by who holds its lock, under which a
 * dead one's state is simply gone on from: so no word about it is ever announced, and nobody
 * settles under a bit that another reaper clears.  The caller clears the slot's bits first.
 * SHARENA_EPROCESSES: another newcomer has it. */
int shr__reaper_slot_take(sharena_heap *h, uint64_t *k, void **page)
{
    struct slot_shm *p = shr__slot(h, SHR_REAPER_SLOT);
    int fd = shr__fd(h);
    uint64_t seen;

    *page = fd < 0 ? NULL : shr__sys_lock_page(fd, lock_at(SHR_REAPER_SLOT));
    if (!*page)
        return fd >= 0 && errno == EAGAIN ? SHARENA_EPROCESSES : SHARENA_ESYSTEM;
    seen = load64_acquire(&p->state);
    *k = SHR_K_OF(seen) + 1;
    store64_release(&p->announce, 0);
    store64_relaxed(&p->reserved, 0);
    store64_relaxed(&p->at_hand, 0);
    store64_release(&p->state, SHR_STATE(*k, SLOT_LIVE)); /* ours alone: we hold the lock */
    return 0;
}

/* Who sits here, for people and for whoever looks for a descriptor. */
void shr__slot_describe(sharena_heap *h, unsigned slot)
{
    struct slot_shm *p = shr__slot(h, slot);

    store32_relaxed(&p->pid, (uint32_t)shr__sys_pid());
    store32_relaxed(&p->descriptor, load32_relaxed(&h->fd) + 1);
    store64_relaxed(&p->started_ns, shr__sys_real_ns());
    store64_relaxed(&p->pidns, shr__sys_pidns());
    shr__sys_command(p->command);
}

/* The verdict without a descriptor, about `word`, the slot's state: ended, as the pid tells in
 * the namespace that it belongs to.  A number that was given to another process since counts as
 * alive.  With guests the slot lives on without its own process, and only the lock knows: they
 * are counted before they are forked, so whoever sees the process ended sees them.  Before LIVE
 * the pid may be of an earlier life. */
static int ended(const sharena_heap *h, unsigned slot, uint64_t word)
{
    const struct slot_shm *p = shr__slot(h, slot);
    uint64_t space = load64_relaxed(&p->pidns);
    int pid = (int)load32_relaxed(&p->pid);

    if (SHR_STATE_OF(word) != SLOT_LIVE || pid <= 0 || !space || space != shr__sys_pidns() ||
        !shr__sys_gone(pid))
        return 0;
    return load32_relaxed(&p->guests) == 0 && load64_seq(&p->state) == word;
}

/* 1: the process of the slot is dead, *state is what was judged.  0: alive, free, being
 * closed, or it can't be told. */
int shr__slot_dead(sharena_heap *h, unsigned slot, uint64_t *state)
{
    uint64_t word = load64_acquire(&shr__slot(h, slot)->state);
    unsigned what = SHR_STATE_OF(word);
    int fd;

    if (what != SLOT_INIT && what != SLOT_EMBRYO && what != SLOT_LIVE)
        return 0;
    if (slot == h->slot && SHR_K_OF(word) == h->k)
        return 0;
    fd = shr__fd(h);
    if (fd < 0 ? !ended(h, slot, word) : shr__sys_lock_test(fd, lock_at(slot)) != 0)
        return 0;
    *state = word;
    return 1;
}

/* Is a reaper that still lives at work on {slot, k}? */
static int announced(sharena_heap *h, unsigned slot, uint64_t k)
{
    uint64_t about = k << 8 | (slot + 1), state;

    for (unsigned s = 0; s < SHR_SLOTS; s++) {
        struct slot_shm *p = shr__slot(h, s);
        if (load64_seq(&p->announce) != about)
            continue;
        if (SHR_STATE_OF(load64_acquire(&p->state)) == SLOT_LIVE && !shr__slot_dead(h, s, &state))
            return 1;
    }
    return 0;
}

/* Frees the slots that were emptied, as far as no stopped reaper may still touch a mask. */
void shr__slot_free_closing(sharena_heap *h)
{
    for (unsigned s = 0; s < SHR_PROCESSES; s++) {
        struct slot_shm *p = shr__slot(h, s);
        uint64_t word = load64_seq(&p->state);
        if (SHR_STATE_OF(word) == SLOT_CLOSING && !announced(h, s, SHR_K_OF(word)))
            (void)cas64_acq_rel(&p->state, &word, SHR_STATE(SHR_K_OF(word) + 1, SLOT_FREE));
    }
}

uint64_t shr__exporter(const sharena_heap *h)
{
    return h->k << 8 | (h->slot + 1);
}

int shr__exporter_alive(sharena_heap *h, uint64_t exporter, int *pid)
{
    unsigned slot = (unsigned)(exporter & 255u);
    uint64_t state;
    struct slot_shm *p;

    if (slot == 0 || slot > SHR_SLOTS)
        return 0;
    p = shr__slot(h, slot - 1);
    if (pid)
        *pid = (int)load32_relaxed(&p->pid);
    state = load64_acquire(&p->state);
    if (SHR_K_OF(state) != exporter >> 8 || SHR_STATE_OF(state) == SLOT_FREE ||
        SHR_STATE_OF(state) == SLOT_CLOSING) {
        if (pid && SHR_K_OF(state) != exporter >> 8)
            *pid = 0;
        return 0;
    }
    return !shr__slot_dead(h, slot - 1, &state);
}

/* Why a guest is one, and what would have helped. */
int shr__guest_fail(const sharena_heap *h)
{
    static const char may[] =
        "it may use the arrays it inherited, but not allocate, load or send";
    char name[96];

    (void)shr__label(h, name);
    switch (h->guest_why) {
    case 0:
        return shr__fail(SHARENA_EPROCESSES,
                         "%s: this process was forked when all %u process slots were taken; %s; "
                         "start at most %u workers: ProcessPoolExecutor(max_workers=%u)",
                         name, SHR_PROCESSES, may, SHR_PROCESSES - 1, SHR_PROCESSES - 1);
    case EBADF:
        return shr__fail(
            SHARENA_EPROCESSES,
            "%s: this process was forked after every descriptor of the heap was "
            "closed, as by closefrom() while daemonizing, and a slot can't be locked "
            "without one; %s; create the heap after daemonizing, keep its "
            "descriptor open, or use a named heap",
            name, may);
    case EMFILE:
        return shr__fail(SHARENA_EPROCESSES,
                         "%s: this process was forked when its parent had no descriptor free to "
                         "lock a slot with; %s; close files, or raise RLIMIT_NOFILE",
                         name, may);
    default:
        return shr__fail(SHARENA_EPROCESSES,
                         "%s: this process was forked when no slot could be locked (%s); %s",
                         name, strerror(h->guest_why), may);
    }
}
