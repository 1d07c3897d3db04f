/* What crosses the core's files.
 *
 * The files are a ladder, each calls only downward:
 *   sys · proc · error · room · super · process · holding · descriptor · unshared · commit · run ·
 *   retain · slab · lane · bin · hand · magazine · small · release · guest · entry · ticket ·
 *   sweep · shortage · handle · name · reap · alloc · hot ·
 *   resize · trace · lock · fork · check · stats · join · heap
 * Locks of a process, in this order (nobody takes one to the left while holding one to the
 * right):  heaps · names · reap · lanes · shard ("unit lock") · bracket of a lane · leaf
 */
#ifndef SHR_INTERNAL_H
#define SHR_INTERNAL_H

#include <string.h>

#include "types.h"

#if defined(__has_include)
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#define SHR_SINGLE_THREADED 1
#endif
#endif

/* ---- error.c -------------------------------------------------------------------------- */

int shr__fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *shr__label(const sharena_heap *, char buffer[96]);
int shr__not_held(const sharena_heap *h, const void *p); /* SHARENA_ENOTHELD */
const char *shr__size(uint64_t bytes, char buffer[24]);
struct shr_thread *shr__thread_get(void); /* NULL: no memory */
/* A heap is left: every thread's lane there becomes a spare one. */
void shr__thread_forget(uint32_t heap_index);
struct lane *shr__thread_spare(struct shr_thread *); /* its own, NULL: none */
void shr__thread_after_fork(void);
void shr__thread_lock(void);
void shr__thread_unlock(void);
extern void (*shr__thread_leaves)(struct shr_thread *); /* set by magazine.c */

/* ---- sys.c: the system calls ------------------------------------------------------------ */

int shr__sys_memfd(const char *name);
int shr__sys_seal(int fd);
int shr__sys_reopen(int fd); /* a new open file description */
int shr__sys_open_process(int pid, int fd);
int shr__sys_open_page(const void *page); /* the file of a one-page mapping: needs privileges */
int shr__sys_open_mapped(int pid, const char *link); /* what a process has mapped: the same */
int shr__sys_gone(int pid); /* 1: ended; 0: alive, or it can't be told */
int shr__sys_open_path(const char *path, unsigned *uid, int *why_not_local);
int shr__sys_publish(int fd, const char *path, unsigned mode); /* link O_TMPFILE, no overwrite */
int shr__sys_tmpfile(const char *dir, unsigned mode);
int shr__sys_unlink(const char *path);
int shr__sys_close(int fd);
int shr__sys_move_high(int fd); /* out of the way of the application's descriptors */
int shr__sys_truncate(int fd, uint64_t bytes);
uint64_t shr__sys_mappable(void);
int shr__sys_identity(int fd, uint64_t *dev, uint64_t *ino, uint64_t *bytes, uint32_t *uid);
uint64_t shr__sys_free_bytes(int fd);
uint64_t shr__sys_blocks(int fd); /* bytes the file really has */
int shr__sys_read(int fd, void *buffer, size_t bytes, uint64_t at);
void *shr__sys_map(int fd, uint64_t bytes, uint64_t align, void **start, uint64_t *start_bytes);
void *shr__sys_map_private(uint64_t bytes);
void shr__sys_unmap(void *p, uint64_t bytes);
int shr__sys_commit(int fd, uint64_t at, uint64_t bytes); /* 0 or a SHARENA_E code */
int shr__sys_populate(void *p, uint64_t bytes); /* the same, and maps the pages */
int shr__sys_populate_huge(uint8_t *p, uint64_t bytes); /* both multiples of SHR_HUGE */
int shr__sys_populate_each(uint8_t *p,
                           uint64_t bytes); /* the same on old kernels, page by page */
int shr__sys_punch(int fd, uint64_t at, uint64_t bytes);
int shr__sys_remove(void *p, uint64_t bytes); /* punches by the mapping */
void shr__sys_unlock(void *p, uint64_t bytes);
void *shr__sys_lock_page(int fd, uint64_t at); /* locks the byte on a description of its own */
void shr__sys_lock_page_fork(void *page, int inherit);
void shr__sys_lock_page_drop(void *page);
int shr__sys_lock_test(int fd, uint64_t at); /* 1 held, 0 free, -1 cannot tell */
int shr__sys_membarrier_known(void);
int shr__sys_membarrier_register(void);
void shr__sys_membarrier(void);
void shr__sys_wait(shr_a32 *word, uint32_t value); /* 2 ms at most */
void shr__sys_wake(shr_a32 *word);
uint64_t shr__sys_now_ms(void); /* monotonic */
uint64_t shr__sys_real_ns(void);
uint64_t shr__sys_machine(void); /* hash of the boot id */
uint64_t shr__sys_pidns(void);
int shr__sys_has_proc(void);
int shr__sys_mode(const char *path, uint32_t *uid, uint32_t *mode);
int shr__sys_pid(void);
uint32_t shr__sys_uid(void);
void shr__sys_random(void *p, size_t bytes);
void shr__sys_command(char out[32]);
int shr__sys_scan_memfd(const char *link, int (*found)(int pid, int fd, void *), void *argument);
void shr__sys_yield(void);
uint64_t shr__sys_ram(void);

/* ---- room.c ------------------------------------------------------------------------------ */

int shr__room(uint64_t want_bytes, uint64_t *room_bytes, char *where, size_t where_size);
uint64_t shr__default_limit(void);

/* ---- super.c: the superblock ------------------------------------------------------------------ */

static inline uint64_t shr__round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}
int shr__super_fill(struct super_shm *, const char *name, const sharena_options *);
int shr__super_check(const struct super_shm *, uint64_t file_bytes, uint32_t file_uid,
                     uint32_t owner);
int shr__heap_name_valid(const char *name);

/* ---- process.c: slots ----------------------------------------------------------------------- */

#define SHR_STATE(k, s) ((uint64_t)(k) << 8 | (uint64_t)(s))
#define SHR_STATE_OF(word) ((unsigned)((word) & 255u))
#define SHR_K_OF(word) ((word) >> 8)

extern pthread_mutex_t shr__heaps_lock;
extern sharena_heap *_Atomic shr__heaps[SHR_HEAPS]; /* attached ones, by index */
static inline sharena_heap *shr__heap_at(unsigned index)
{
    return atomic_load_explicit(&shr__heaps[index], memory_order_acquire);
}

void shr__heap_set(unsigned index, sharena_heap *); /* NULL: nobody finds it any more */
static inline struct slot_shm *shr__slot(const sharena_heap *h, unsigned s)
{
    return (struct slot_shm *)(void *)(h->base + SHR_AT_SLOTS) + s;
}
int shr__fd(sharena_heap *h); /* the heap's descriptor, found again if it was closed, or -1 */
void shr__fd_close(sharena_heap *h);
int shr__slot_take(sharena_heap *h, unsigned first, unsigned last, unsigned state, unsigned *slot,
                   uint64_t *k, void **page);
int shr__reaper_slot_take(sharena_heap *h, uint64_t *k, void **page);
void shr__slot_describe(sharena_heap *h, unsigned slot);
int shr__slot_dead(sharena_heap *h, unsigned slot, uint64_t *state);
void shr__slot_free_closing(sharena_heap *h);
int shr__guest_fail(const sharena_heap *h); /* SHARENA_EPROCESSES, says why it is a guest */
uint64_t shr__exporter(const sharena_heap *h); /* {k 56, slot+1 8} */
int shr__exporter_alive(sharena_heap *h, uint64_t exporter, int *pid);

static inline uint64_t shr__popcount(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    return ((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56;
}

static inline uint64_t shr__bits_in(const shr_a64 *map, uint64_t from, uint64_t to)
{
    uint64_t n = 0;
    for (uint64_t u = from; u < to;) {
        uint64_t low = u & 63, span = 64 - low < to - u ? 64 - low : to - u;
        uint64_t mask = (span == 64 ? ~(uint64_t)0 : ((uint64_t)1 << span) - 1) << low;
        n += shr__popcount(load64_relaxed(&map[u >> 6]) & mask);
        u += span;
    }
    return n;
}

/* Hint counters never go below 0: a kill may have left one short. */
static inline void shr__subtract(shr_a64 *counter, uint64_t n)
{
    uint64_t seen = load64_relaxed(counter);

    while (n && !cas64_relaxed(counter, &seen, seen > n ? seen - n : 0))
        ;
}

/* Before a run is let go, so that whoever takes it finds it counted; returns what was added. */
static inline uint64_t shr__retained_add(sharena_heap *h, uint64_t unit, uint64_t units)
{
    uint64_t n = shr__bits_in(h->commit, unit, unit + units);

    if (n)
        (void)add64_relaxed(&h->control->retained_units, n);
    return n;
}

/* ---- descriptor.c: decoding, holdings, acquire and release ------------------------------------ */

#define SHR_CLASS_OF(word) ((word) & 255u)
#define SHR_INNER_OF(word) (((word) >> 8) & 255u)

struct shr_class {
    uint32_t size;
    uint32_t units; /* of a slab */
    uint32_t capacity; /* blocks in a slab */
    uint32_t pages; /* of descriptors */
    uint64_t reciprocal;
};
extern struct shr_class shr__classes[SHR_CLASSES_MAX];
extern uint32_t shr__n_classes; /* classes are 1 .. n_classes - 1 */
extern uint8_t shr__class_of[SHR_SMALL_MAX / 16 + 1];
void shr__classes_init(void);

struct block { /* a decoded block: the only road from an offset to metadata */
    struct unit_shm *unit; /* head */
    shr_a64 *mask, *gen;
    uint64_t offset;
    uint64_t size;
    uint32_t head; /* unit number */
    uint32_t class; /* the whole class word of the head */
    uint32_t index;
    uint32_t undone; /* a stale acquire left the mask at 0 */
};

static inline struct shard *shr__shard(sharena_heap *h, uint64_t unit)
{
    return &h->shards[unit % SHR_SHARDS];
}
/* The unit lock is held for some fifty nanoseconds, so it is a word: 0 free, 1 held, 2 held
 * and somebody sleeps. */
/* Has this process one thread only?  Then it has no use for a locked instruction. */
static inline int shr__alone(void)
{
#if SHR_SINGLE_THREADED
    return __libc_single_threaded;
#else
    return 0;
#endif
}
void shr__shard_lock_slow(struct shard *);
static inline void shr__shard_lock(struct shard *d)
{
    uint32_t seen = 0;

    if (shr__alone()) {
        store32_relaxed(&d->lock, 1);
        return;
    }
    if (SHR_UNLIKELY(!cas32_acquire(&d->lock, &seen, 1)))
        shr__shard_lock_slow(d);
}
/* No read-modify-write, so it may miss a sleeper whose count it doesn't see yet: that one looks
 * again by itself, shortly after. */
static inline void shr__unlock(struct shard *d)
{
    store32_release(&d->lock, 0);
    if (SHR_UNLIKELY(load32_relaxed(&d->sleepers)))
        shr__sys_wake(&d->lock);
}
static inline struct shard *shr__lock(sharena_heap *h, uint64_t unit)
{
    struct shard *d = shr__shard(h, unit);

    shr__shard_lock(d);
    return d;
}
/* Units that may be in use; never more than there are. */
static inline uint64_t shr__used(const sharena_heap *h)
{
    uint64_t used = load64_acquire(&h->control->used_units);

    return used < h->n_units ? used : h->n_units;
}

/* The tiling. */
int shr__head(const sharena_heap *h, uint64_t unit); /* acquire */
uint64_t shr__next_head(const sharena_heap *h, uint64_t unit);
uint64_t shr__prev_head(const sharena_heap *h, uint64_t unit);
/* 0, or SHARENA_ESTALE when the offset starts no block (or lies in none, for `within`). */
int shr__decode(sharena_heap *h, uint64_t offset, struct block *);
int shr__decode_within(sharena_heap *h, uint64_t offset, struct block *);
/* A small block by its place in the slab at `unit`, whose class the caller has checked. */
static inline struct block shr__small_at(sharena_heap *h, uint64_t unit, uint32_t class,
                                         uint32_t index)
{
    struct desc_shm *d = &h->descs[(unit << 12) + index];
    uint64_t size = shr__classes[class].size;
    struct block b = {.unit = &h->units[unit],
                      .mask = &d->mask,
                      .gen = &d->gen,
                      .offset = (unit << SHR_UNIT_SHIFT) + index * size,
                      .size = size,
                      .head = (uint32_t)unit,
                      .class = class,
                      .index = index};

    return b;
}
uint64_t shr__number(const struct block *); /* of the present life */
uint64_t shr__marks(const struct block *);
uint64_t shr__mark(const struct block *, uint64_t marks); /* returns the marks before */
void shr__touch(sharena_heap *h, struct unit_shm *, uint64_t bit);

struct holding *shr__holding(struct shard *, uint64_t offset);
int shr__holding_reserve(struct shard *); /* room for one more */
struct holding *shr__holding_add(struct shard *, uint64_t offset, uint64_t number, uint32_t count,
                                 uint32_t units);
void shr__holding_remove(struct shard *, struct holding *);

/* All under the shard's lock. */
int shr__hold(sharena_heap *h, struct shard *, struct block *, uint64_t number);
enum { DROP_KEPT, DROP_SHARED, DROP_LAST };
int shr__drop(sharena_heap *h, struct shard *, struct block *); /* DROP_ or error */
/* Clears a bit that is not this process's own (N, the dead one's): DROP_. */
int shr__drop_bit(sharena_heap *h, struct block *, uint64_t bit);
int shr__is_mine(sharena_heap *h, struct shard *, const struct block *); /* held by us */
int shr__holds(sharena_heap *h, const struct block *); /* the same without the table: a hint */
void shr__export_mark(sharena_heap *h, const struct block *, uint64_t marks);
shr_a8 *shr__out(sharena_heap *h, const struct block *); /* NULL: of no slab of this process */
uint64_t shr__unshared_mark(sharena_heap *h, const struct block *);
/* The slab, if any, in which a lane of this process owns the block. */
static inline struct slab *shr__slab_at(sharena_heap *h, uint64_t unit)
{
    return atomic_load_explicit(&h->slab_of[unit], memory_order_acquire);
}
void shr__leave(sharena_heap *h, const struct block *); /* a block left its lane's regime */
void shr__slab_leave(struct slab *, uint32_t blocks); /* so many of a slab did */

/* ---- run.c --------------------------------------------------------------------------------- */

#define RUN_ANYWHERE 1u /* ignore what is known about extents: the last look before failure */
#define RUN_GROW 2u /* raise used_units when nothing is found */
int shr__take(sharena_heap *h, uint64_t unit); /* 1: held in full, its gen committed */
void shr__give(sharena_heap *h, uint64_t unit); /* drops a run that was never published */
int shr__run_absorb(sharena_heap *h, uint64_t next); /* takes and merges a free neighbour */
void shr__run_join(sharena_heap *h, uint64_t next); /* merges one that is held */
void shr__run_split(sharena_heap *h, uint64_t at);
/* Finds, takes and cuts to size; not committed.  SHARENA_ERESERVE: nothing found. */
int shr__run_find(sharena_heap *h, uint64_t units, uint64_t align_units, unsigned flags,
                  uint64_t *unit);
/* Publishes nothing: what may be called for a run just taken. */
void shr__run_freed(sharena_heap *h, uint64_t unit, uint64_t units); /* after the last bit */
int shr__grow(sharena_heap *h, uint64_t units); /* raises used_units */

/* ---- unshared.c ------------------------------------------------------------------------------ */

int shr__is_unshared(sharena_heap *h, const struct block *);
int shr__set_unshared(sharena_heap *h, uint64_t offset, int yes); /* 0, or SHARENA_ENOTHELD */

/* ---- commit.c -------------------------------------------------------------------------------- */

int shr__commit(sharena_heap *h, uint64_t unit, uint64_t units, int zero);
int shr__commit_meta(sharena_heap *h, uint64_t at, uint64_t bytes);
int shr__punch(sharena_heap *h, uint64_t at, uint64_t bytes);
int shr__chunk(sharena_heap *h, uint64_t at); /* commits one of names, sites, buckets, tickets */
int shr__chunk_ready(const sharena_heap *h, uint64_t at);
uint64_t shr__chunks_ready(const sharena_heap *h);
/* Sets or clears the bits of units from .. to-1; returns how many changed. */
uint64_t shr__set_bits(shr_a64 *map, uint64_t from, uint64_t to, int on);

/* ---- retain.c -------------------------------------------------------------------------------- */

void shr__reuse(sharena_heap *h, uint64_t unit, uint64_t units); /* retained no more */
int shr__make_room(sharena_heap *h, int code); /* 1: a shortage, and a little was punched */
void shr__retain_check(sharena_heap *h, uint64_t unit); /* over the budget: punches, this first */
void shr__run_undo(sharena_heap *h, uint64_t unit, uint64_t units); /* of a run just taken */
/* Punches free runs, highest first, until `want` units are given back; returns how many. */
uint64_t shr__punch_free(sharena_heap *h, uint64_t want);
uint64_t shr__punch_run(sharena_heap *h, uint64_t unit, uint64_t want);
void shr__decay(sharena_heap *h);
void shr__recount(sharena_heap *h);
extern int (*shr__interrupt)(void *);
extern void *shr__interrupt_argument;
/* ---- slab.c --------------------------------------------------------------------------------- */

int shr__slab_descriptors(sharena_heap *h, uint64_t unit, uint32_t pages); /* commits them */
void shr__slab_cut(sharena_heap *h, uint64_t unit, uint32_t class);
void shr__slab_let_go(sharena_heap *h, uint64_t unit, uint32_t class);
uint64_t shr__slab_adopt_any(sharena_heap *h, uint32_t class, uint32_t most);
/* Adopts the abandoned slab at `unit` and gives it back if it is empty: 1 then. */
int shr__slab_collect(sharena_heap *h, uint64_t unit);
int shr__slab_looks_empty(sharena_heap *h, uint64_t unit, uint32_t from);
unsigned shr__slabs_collect(sharena_heap *h); /* all that are empty; returns how many */

/* ---- lane.c --------------------------------------------------------------------------------- */

struct lane *shr__lane(sharena_heap *h); /* this thread's, made on first use; NULL: no memory */
void shr__lane_wait(struct lane *); /* until the stopper is through */
struct lane *shr__lane_current(const sharena_heap *h); /* this thread's, if it has one */
/* For the hot functions: no call, so no registers to save.  0: not this heap's, or not open;
 * shr__exit_current() all the same, and go the longer way. */
static inline int shr__enter_current(struct lane *l, const sharena_heap *h)
{
    store32_relaxed(&l->busy, 1);
    shr_compiler_barrier(); /* the stopper's membarrier does the rest */
    return shr_same_acquire(&l->open, h);
}
static inline void shr__exit_current(void)
{
    store32_release(&atomic_load_explicit(&shr__current, memory_order_relaxed)->busy, 0);
}
int shr__enter(struct lane *); /* 0: it is stopped */
static inline void shr__exit(struct lane *l)
{
    store32_release(&l->busy, 0);
}
/* Inside the bracket: takes a free block of a slab that has one.  A free block carries no
 * marks: the rescan that found it took them off. */
static inline uint32_t shr__slab_pop(sharena_heap *h, struct slab *s)
{
    uint32_t n = load32_relaxed(&s->n_free) - 1, i = s->free[n];
    struct desc_shm *d = &s->descs[i];

    store32_relaxed(&s->n_free, n);
    store8_relaxed(&s->out[i], OUT_SHARED);
    store64_relaxed(&d->gen, load64_relaxed(&d->gen) + 1);
    store64_release(&d->mask, h->mine);
    return i;
}
void shr__lanes_stop(sharena_heap *h); /* lanes_lock held; waits until none is busy */
void shr__lanes_go(sharena_heap *h);
void shr__lanes_init(void);

/* ---- bin.c: in the bracket, or while the lane is stopped ---------------------------------------- */

int shr__bin_has_free(const struct slab *);
int shr__bin_is_empty(const struct slab *);
uint32_t shr__bin_private(const struct slab *);
void shr__bin_unlink(struct lane *, struct slab *);
void shr__bin_link(struct lane *, struct slab *, uint32_t list);
void shr__bin_map(sharena_heap *h, const struct slab *, struct slab *to); /* slab_of */
void shr__bin_part(struct lane *, struct slab *);
/* Puts a slab that is in no list where it belongs; returns it if it is to be retired. */
struct slab *shr__bin_place(struct lane *, struct slab *);
void shr__rescan(sharena_heap *h, struct slab *);
void shr__slab_plain(struct slab *); /* after s->lane or s->left may have changed */
/* Outside of it: private structs. */
struct slab *shr__slab_struct(sharena_heap *h, uint32_t class); /* NULL: no memory */
void shr__slab_struct_at(sharena_heap *h, struct slab *, uint64_t unit);
void shr__slab_struct_free(sharena_heap *h, struct slab *);

/* ---- magazine.c ---------------------------------------------------------------------------------- */

void shr__magazine_open(struct lane *, uint32_t class); /* in the bracket, before its first use */

/* ---- small.c -------------------------------------------------------------------------------- */

/* RUN_ flags as for shr__run_find(); what it allocates is committed. */
int shr__small(sharena_heap *h, struct lane *, uint32_t class, unsigned flags, uint64_t *offset);
/* In the bracket, after a block went back to a slab that is not the lane's current one;
 * returns a slab to retire after the bracket, or NULL. */
struct slab *shr__slab_housekeeping(struct lane *, struct slab *);
void shr__slab_retire(sharena_heap *h, struct slab *); /* a chain of them */
void shr__slab_left(sharena_heap *h, uint64_t unit); /* a block of the slab has left its lane */
/* Empties the magazines of all lanes; the slabs to retire, when the lanes go again. */
struct slab *shr__lanes_flush_stopped(sharena_heap *h, int locked); /* it has all unit locks */
void shr__lanes_flush(sharena_heap *h);
void shr__lanes_trim(sharena_heap *h); /* gives back every empty slab of every lane */
void shr__lanes_forget(sharena_heap *h); /* drops the lanes; shared memory is left as it is */

/* ---- release.c ------------------------------------------------------------------------------- */

/* After the unlock: what whoever dropped a reference owes (DROP_ as shr__drop() said). */
void shr__after_drop(sharena_heap *h, const struct block *, int how);
int shr__release(sharena_heap *h, uint64_t offset); /* the slow release, with its duties */

/* ---- guest.c --------------------------------------------------------------------------------- */

void shr__guest_admit(sharena_heap *h);
void shr__guest_pin(sharena_heap *h, const struct block *);
void shr__guests_look(sharena_heap *h);
void shr__guests_forget(sharena_heap *h);

/* ---- ticket.c; the rest of it is in ticket.h ------------------------------------------------ */

int shr__ticket_live(const sharena_heap *h, uint64_t offset, uint64_t number); /* a use is left */
void shr__settle(sharena_heap *h, const struct block *, uint64_t number);

/* ---- handle.c ---------------------------------------------------------------------------------- */

int shr__acquire(sharena_heap *h, uint64_t offset, uint64_t number, const sharena_handle *,
                 sharena_block *out);
void shr__describe(sharena_heap *h, const struct block *, sharena_block *out);
int shr__usable(sharena_heap *h); /* 0, or the error of a guest */

/* ---- name.c ------------------------------------------------------------------------------------ */

void shr__names_repair(sharena_heap *h); /* if the changer is dead */

/* ---- reap.c ------------------------------------------------------------------------------------ */

int shr__reap(sharena_heap *h, unsigned *reaped, int force);
void shr__reap_self(sharena_heap *h); /* clean detach */
/* For a newcomer while all slots are taken; SHARENA_EPROCESSES: another one is at it. */
int shr__reap_without_slot(sharena_heap *h);

/* ---- alloc.c -------------------------------------------------------------------------------------- */

/* Whatever the hot functions have not done. */
int shr__allocate(sharena_heap *h, size_t size, size_t align, unsigned flags, void **out);
int shr__free(sharena_heap *h, const void *block);
int shr__is_shortage(int code);
int shr__no_stretch(sharena_heap *h, uint64_t bytes);

/* ---- fork.c --------------------------------------------------------------------------------------- */

void shr__fork_handlers(void);

/* ---- join.c --------------------------------------------------------------------------------------- */

sharena_heap *shr__heap_new(int fd); /* takes the descriptor over; NULL: no memory */
int shr__heap_map(sharena_heap *h); /* the file of h->super */
int shr__heap_join(sharena_heap *h); /* a slot, INIT */
void shr__heap_go_live(sharena_heap *h);
int shr__heap_publish(sharena_heap *h); /* in the process's table of heaps, whose lock is held */
void shr__heap_free(sharena_heap *h);

#endif
