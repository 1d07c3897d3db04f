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
#define SHR_HUGE_UNITS ((uint64_t)32) /* units of a huge page */
#define SHR_LARGE_UNITS                                                                          \
    ((uint64_t)64) /* runs from here on get huge pages; NumPy's get them, too */
#define SHR_STEP ((uint64_t)8 << 20) /* bytes committed or punched between two looks around */

/* ---- thread: the one pointer of thread-local storage ------------------------------- */

struct lane;
struct shr_thread {
    struct lane *_Atomic lanes[SHR_HEAPS];
    struct shr_thread *next, *prev;
    char detail[640];
};
extern _Thread_local struct shr_thread *shr__thread __attribute__((tls_model("initial-exec")));

/* ---- slabs and lanes (private) ------------------------------------------------------ */

struct slab { /* never unmapped while the heap is attached: a stale pointer may be read */
    /* what a release reads: one cache line */
    struct lane *_Atomic lane;
    uint8_t *start;
    uint64_t reciprocal;      /* ceil(2^40 / size): index = offset * reciprocal >> 40 */
    struct magazine *magazine;
    uint64_t divides;         /* UINT64_MAX / size + 1: x is a multiple of size if and only if
                                 the low 64 bits of x * divides are below it (x < 2^32) */
    uint32_t size;
    uint32_t extent;          /* size * capacity */
    shr_a32 left;             /* held blocks that carry a mark, or more; never less: 0 says
                                 that the lane may use plain stores.  Raised (release) after
                                 the mark; recounted by a rescan */
    uint32_t capacity;
    shr_a8 *idle;             /* by block: at hand or on the stack, so not to be released;
                                 the lane's, read by others as a hint */
    /* the rest */
    shr_a32 n_free;           /* on the stack; the lane's, read by others as a hint */
    uint16_t *free;           /* stack of free indices */
    struct desc_shm *descs;
    shr_a32 list;             /* LIST_; the lane's, read by others as a hint */
    uint32_t class;
    uint32_t unit;
    struct slab *next, *prev, *all;
};

/* Blocks at hand: private ones that were released, and which this process simply goes on
 * holding.  Nobody else can tell: no handle was ever made of this life. */
struct at_hand {
    void *block;
    shr_a8 *idle; /* its byte in the slab; a slab's struct keeps its arrays for good */
};

struct magazine {
    struct at_hand *top; /* top[-1] is the next to go out; its block is NULL when empty */
    struct at_hand *end; /* top == end: full */
};

enum { LIST_NONE, LIST_CURRENT, LIST_PARTIAL, LIST_FULL };

struct bin {
    struct slab *current;
    struct slab *partial; /* with free blocks */
    struct slab *full;
    struct at_hand *blocks; /* the magazine's memory, NULL before its first use */
    uint32_t slabs;
    uint32_t rescanned;   /* number of slabs at the last rescan of all */
};

struct lane {                      /* one a thread and heap */
    shr_a32 busy; /* 1 inside the bracket: mask, gen and lists may be in motion */
    shr_a32 stop; /* bit 0: a forker, a trimmer or an exporter waits for busy = 0;
                                      bit 1: the kernel has no membarrier, the lane fences itself */
    struct magazine magazines[SHR_CLASSES_MAX];
    sharena_heap *heap;
    struct shr_thread *owner; /* NULL: idle, waits for the next thread */
    struct lane *next;
    uint32_t empty_units; /* of slabs in the partial lists that are wholly free */
    uint32_t at_hand_max; /* blocks that the magazines can take */
    struct bin bins[SHR_CLASSES_MAX];
};

/* ---- holdings: what this process holds beyond plain lane-private blocks -------------- */

struct holding {
    uint64_t offset; /* of the block in the data area, + 1; 0: empty */
    uint64_t number;
    uint32_t count;
    uint32_t units; /* of a run; 0: a small block */
};

struct shard {
    shr_a32 lock;     /* 1: held; holding.c */
    shr_a32 sleepers; /* threads that may wait for it in the kernel */
    uint32_t room, used;
    struct holding *table; /* open addressing, a power of two of entries */
    uint32_t ticket;       /* entry of the last ticket made under this lock */
    uint8_t pad[64 - 5 * 4 - 8];
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
    int32_t pid; /* of this process, and its user: a handle carries them */
    uint32_t uid;
    uint64_t dev, ino;
    uint32_t slot;
    uint64_t k;
    void *lock_page; /* keeps the slot's lock alive */
    uint64_t guests; /* forked children that share the slot, failed forks among them */
    uint32_t forks; /* generations of forked children: changes under a caller who forks */
    uint32_t attached; /* times attached by this process */

    pthread_mutex_t names_lock; /* outermost: one changer of names a process */
    pthread_mutex_t reap_lock;
    pthread_mutex_t lanes_lock;
    struct lane *lanes;
    struct shard shards[SHR_SHARDS];

    pthread_mutex_t leaf; /* run hints, pool of slab structs */
    struct slab *slab_pool[SHR_CLASSES_MAX]; /* by class: a struct's arrays keep their size */
    struct slab *slab_all;
    struct run_bin hints[SHR_HINT_BINS];
    shr_a64 *memo; /* per extent: {changes 32, largest free stretch 32}; lazily touched */
    uint64_t memo_bytes;
    uint64_t slab_of_bytes;
    shr_a64 last_reap_ms; /* rate limit of the looks for the dead */
    shr_a32 adopt_at[SHR_CLASSES_MAX]; /* where the search for a slab to adopt goes on */
    shr_a32 adopt_seen[SHR_CLASSES_MAX]; /* control.abandoned at the last fruitless search */
    shr_a64 empty_units;     /* of the wholly free slabs in the lanes' lists */
    shr_a64 small_until_ms;  /* no huge pages are asked for till then */
    shr_a64 unchecked_bytes; /* committed since the last look at the cgroups */

    /* a fork under way: written by the forker, who holds every lock */
    uint32_t embryo_slot;
    uint64_t embryo_k;
    void *embryo_page;
    struct slab *embryo_retired;
    uint32_t embryo_guest;
};

#endif
