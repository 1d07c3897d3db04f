/* Private types of the core: threads, lanes and slabs, holdings, and a heap as its process
 * sees it.  None of them lies in shared memory. */
#ifndef SHR_TYPES_H
#define SHR_TYPES_H

#include <pthread.h>
#include <stddef.h>

#include "layout.h"
#include "sharena/sharena.h"

#define SHR_LIKELY(x) __builtin_expect(!!(x), 1)
#define SHR_UNLIKELY(x) __builtin_expect(!!(x), 0)

#ifdef SHR_DEBUG
#include <assert.h>
#define SHR_ASSERT(x) assert(x)
#else
#define SHR_ASSERT(x) ((void)0)
#endif

#define SHR_HEAPS 64u   /* heaps a process can be attached to at once */
#define SHR_SHARDS 64u  /* private unit locks; a unit belongs to shard (unit % 64) */
#define SHR_SMALL_MAX 57344u /* larger blocks are runs of 64 KiB units */
#define SHR_CLASSES_MAX 64u
#define SHR_DIRECT_MAX 1024u /* up to here the hot functions find a magazine by one look */
#define SHR_HUGE_UNITS (SHR_HUGE >> SHR_UNIT_SHIFT)
#define SHR_LARGE_UNITS ((uint64_t)64) /* runs from here on get huge pages, as NumPy's do */
#define SHR_STEP ((uint64_t)8 << 20) /* bytes committed or punched between two looks around */

/* ---- thread ------------------------------------------------------------------------- */

struct lane;
typedef struct lane *_Atomic shr_lane;

struct shr_thread {
    shr_lane lanes[SHR_HEAPS];
    struct lane *spare; /* of heaps that were left.  Never another thread's: its shr__current
                           may be one of them */
    struct shr_thread *next, *prev;
    char detail[640]; /* the sentence of the last failure */
};
extern _Thread_local struct shr_thread *shr__thread __attribute__((tls_model("initial-exec")));
extern _Thread_local int shr__code __attribute__((tls_model("initial-exec"))); /* last failure */
/* The lane it used last, or one that never opens: never NULL. */
extern _Thread_local shr_lane shr__current __attribute__((tls_model("initial-exec")));

/* ---- slabs and lanes (private) ------------------------------------------------------ */

enum { OUT_SHARED = 1, OUT_UNSHARED };

struct slab { /* never unmapped while the heap is attached: a stale pointer may be read */
    /* what a release reads: one cache line */
    shr_lane plain; /* its lane, if that may use plain stores: `left` is 0 */
    uint8_t *start;
    uint64_t divides; /* floor((2^64 - 1) / size) + 1: for x < 2^32 the product's high word is
                         x / size, and its low word is below `divides` if and only if x is a
                         multiple of size (Lemire, Kaser and Kurz) */
    struct magazine *magazine;
    shr_lane lane;
    uint32_t size;
    uint32_t capacity;
    shr_a32 left; /* held blocks that carry a mark, or more; never less.  Raised after the
                     mark; recounted by a rescan */
    shr_a32 n_free; /* on the stack; the lane's, read by others as a hint */
    /* the rest */
    uint16_t *free; /* stack of free indices */
    struct desc_shm *descs;
    shr_a32 list; /* LIST_; the lane's, read by others as a hint */
    uint32_t class;
    uint32_t unit;
    struct slab *next, *prev, *all;
    shr_a8 out[]; /* by block: OUT_ if the program has it, else 0: it is at hand or on the stack;
                     one more for the slab's tail.  The lane's, read by others as a hint */
};

/* Blocks at hand: private ones that were released, and which this process simply goes on
 * holding.  Nobody else can tell: no handle was ever made of this life. */
#define AT_HAND_MAX 16384u /* of a lane, beside the few that each class can have */
#define AT_HAND_MIN 16u
#define AT_HAND_ALL (1 + AT_HAND_MAX + SHR_CLASSES_MAX * (AT_HAND_MIN + 1))

struct at_hand {
    void *block;
    shr_a8 *out; /* its byte in the slab; a slab's struct keeps its arrays for good */
};

struct magazine { /* a part of the lane's at_hand */
    struct at_hand *top; /* the next to go out; its block is NULL when there is none */
    struct at_hand *last; /* top == last: full */
};

/* Large blocks at hand, in the same way.  What is a slab above is here a run that lies at hand or
 * did so in this life: class 0, one block of `size` bytes, in no list and of no lane.  `left` is 0
 * as long as this process holds it once and nobody else can know it. */
#define HAND_RUNS 16u

struct hand {
    struct slab *runs[HAND_RUNS]; /* the newest last */
    uint32_t n;
    uint32_t units; /* of all of them */
    uint32_t room; /* units that it may have; the heap's empty_units counts them */
    uint32_t idle; /* so many, from the oldest on, were not wanted since the last look */
    uint32_t served; /* requests since then */
    uint64_t looked_ms; /* this and `served` are the thread's alone */
};

enum { LIST_NONE, LIST_CURRENT, LIST_PARTIAL, LIST_FULL };

struct bin {
    struct slab *current;
    struct slab *partial; /* with free blocks */
    struct slab *full;
    uint32_t slabs;
    uint32_t rescanned; /* number of slabs at the last rescan of all */
};

/* One a thread and heap.  The bins go first: an allocation of this size starts a page, as many
 * a big array does, and what lies at the same place of many pages competes for a CPU's ways. */
struct lane {
    struct bin bins[SHR_CLASSES_MAX];
    sharena_heap *_Atomic open; /* its heap, if the hot functions may enter; NULL while it is
                                   stopped, and where the kernel has no membarrier */
    shr_a32 busy; /* 1 inside the bracket: mask, gen and lists may be in motion */
    shr_a32 stop; /* 1: a forker, a trimmer or an exporter waits for busy = 0 */
    struct magazine *direct[SHR_DIRECT_MAX / 16 + 1]; /* by (size + 15) / 16 */
    struct magazine magazines[SHR_CLASSES_MAX];
    sharena_heap *heap;
    struct shr_thread *owner; /* NULL: idle, waits for the next thread */
    struct lane *next;
    uint32_t empty_units; /* of slabs in the partial lists that are wholly free */
    uint32_t at_hand_used; /* entries given to magazines; each has one below that stays NULL */
    uint32_t at_hand_pins; /* units of the slabs that full magazines could pin */
    uint64_t at_hand_bytes; /* in full magazines */
    struct at_hand at_hand[AT_HAND_ALL];
    struct hand hand; /* last, so that what is above lies as close as it can */
};

/* ---- holdings: what this process holds beyond plain lane-private blocks -------------- */

#define SHR_GUEST_LOCKS 250u /* in the 255 bytes of a slot behind its own */

struct holding {
    uint64_t offset; /* of the block in the data area, + 1; 0: empty */
    uint64_t number;
    uint32_t count;
    uint32_t units; /* of a run; 0: a small block */
    uint32_t pinned; /* the last generation of guests that it is kept for; one of `count` */
    uint16_t for_good; /* pinned for a guest without a lock: until this process ends */
    uint16_t unshared; /* SHARENA_UNSHARED, of a run */
};

struct shard {
    shr_a32 lock; /* 1: held; holding.c */
    shr_a32 sleepers; /* threads that may wait for it in the kernel */
    uint32_t room, used;
    struct holding *table; /* open addressing, a power of two of entries */
    uint64_t ticket_block; /* of the last ticket made under this lock, + 1 */
    uint32_t ticket_segment, ticket_group; /* and where it is */
    uint32_t pins_missed; /* 1: a guest may see blocks that have no entry; guest.c */
    uint8_t pad[64 - 7 * 4 - 2 * 8];
};

struct run_hint {
    uint32_t unit, units;
};

#define SHR_HINT_BINS 40u /* by size: 1 to 8 units exactly, then four a doubling */
#define SHR_HINT_DEPTH 256u

struct run_bin {
    struct run_hint hints[SHR_HINT_DEPTH]; /* a ring, the newest are popped first */
    uint32_t next, count;
    uint32_t from; /* where the search for such a run starts */
};

struct sharena_heap {
    uint8_t *base;
    uint8_t *data;
    uint64_t data_bytes;
    uint64_t mine; /* bit of the own slot */
    struct slab *_Atomic *slab_of; /* by unit; lazily touched private memory */
    struct unit_shm *units;
    struct desc_shm *descs;
    uint32_t index; /* in the process's table of heaps */
    uint32_t guest;

    struct control_shm *control;
    shr_a64 *heads, *commit, *dirty;
    struct extent_shm *extents;
    struct super_shm super; /* private copy, checked once; never read again from the file */
    uint64_t n_units, extent_units;
    uint64_t limit_units, retain_units;

    uint64_t map_bytes;
    void *map_start; /* what was mapped, before alignment */
    uint64_t map_start_bytes;
    shr_a32 fd; /* an int */
    int guest_why; /* of this guest, or of the one being forked: 0, no slot was free; or errno */
    shr_a64 fd_missed_ms; /* when it was closed, and no other found */
    shr_a32 punch_errno; /* of the last attempt to give memory back; 0: it worked */
    int32_t pid; /* of this process, and its user: a handle carries them */
    uint32_t uid;
    uint64_t dev, ino;
    uint32_t slot;
    uint64_t k;
    void *lock_page; /* keeps the slot's lock alive */
    uint64_t guests; /* forked children that share the slot, failed forks among them, since there
                        were none */
    uint32_t guest_of[SHR_GUEST_LOCKS]; /* generation of who keeps that lock; under reap_lock */
    uint32_t guest_generation, guests_for_good; /* the latest; how many have no lock */
    void *guest_page; /* of a guest: keeps its lock alive */
    uint32_t forks; /* generations of forked children: changes under a caller who forks */
    uint32_t attached; /* times attached by this process */

    pthread_mutex_t names_lock; /* outermost: one changer of names a process */
    /* under it: the change of another process that was waited for last, since when */
    uint64_t awaited_changer, awaited_seq, awaited_since_ms;
    pthread_mutex_t reap_lock;
    pthread_mutex_t lanes_lock;
    struct lane *lanes;
    struct shard shards[SHR_SHARDS];

    pthread_mutex_t leaf; /* run hints, pool of slab structs */
    struct slab *slab_pool[SHR_CLASSES_MAX]; /* by class: a struct's arrays keep their size.  0:
                                                runs' */
    struct slab *slab_all;
    struct run_bin hints[SHR_HINT_BINS];
    shr_a64 *memo; /* per extent: {changes 32, largest free stretch 32}; lazily touched */
    uint64_t memo_bytes;
    uint64_t slab_of_bytes;
    shr_a64 last_reap_ms; /* rate limit of the looks for the dead */
    shr_a64 sweep_due_ms; /* and of the sweeps in passing; UINT64_MAX: one is under way */
    shr_a32 adopt_at[SHR_CLASSES_MAX]; /* where the search for a slab to adopt goes on */
    shr_a32 adopt_seen[SHR_CLASSES_MAX]; /* control.abandoned at the last fruitless search */
    shr_a64 empty_units; /* wholly free slabs in the lanes' lists, and room in their hands */
    shr_a64 small_until_ms; /* no huge pages are asked for till then */
    shr_a64 unchecked_bytes; /* committed since the last look at the cgroups */

    /* a fork under way: written by the forker, who holds every lock */
    uint32_t embryo_slot;
    uint64_t embryo_k;
    void *embryo_page;
    struct slab *embryo_retired;
    uint32_t embryo_guest;
};

#endif
