/* The memory format: every struct that lies in shared memory, and nothing else.
 *
 * A heap is one file, mapped once; all links are offsets from its first byte:
 *
 *   0        superblock      constant after creation, checked once at attach
 *   4 KiB    control         hints and the two words that are more than hints
 *   8 KiB    slots           64 process slots; the byte at a slot's start carries its lock
 *   32 KiB   chunks          one bit for each 64 KiB of names, sites, buckets and tickets
 *   64 KiB   names, sites, buckets, tickets   committed in chunks of 64 KiB
 *            heads           one bit a unit: a run starts here (XOR "starts an extent")
 *            commit, dirty   one bit a unit each: C, D
 *            extents         change counters (hints)
 *            units           64 bytes a unit: the run's descriptor and the unit's class
 *            descriptors     16 bytes a small block, direct mapped: 64 KiB for each unit
 *            data            units of 64 KiB
 *
 * A file of zeros behind the superblock is the legal virgin heap.  Metadata is never used as
 * anything else and never punched.  A page of it is committed before it is read or written:
 * reading a hole of a tmpfs file would allocate it.  heads to units are committed up to
 * control.used_units, descriptors as far as the unit's header says.
 *
 * The truth about a block is its mask: bit s is set if and only if process slot s holds at
 * least one reference, and the block is free if and only if the mask is 0.
 *
 *   what a kill leaves between two stores                  which step repairs it
 *   gen raised, mask still 0 (allocate)                    none needed: the block is free
 *   touch bit, no mask bit                                 none needed; a reaper clears it
 *   mask bit of the dead                                   reaper: fetch-and
 *   taker: mask, closing, open; head cleared               reaper clears its bit: a free run
 *   closing left in a gen                                  the next acquirer or taker swaps it
 *   S without a class (cut or give-back)                   the adopter drops S
 *   S with a class, no owner                               adopted; given back if empty
 *   T without a use, or a use without T                    whoever settles: expirer, reaper
 *   claimed ticket, not published                          reaper: back to {seq+1, FREE}
 *   ticket of a message that was still being written       the next sweep ends it
 *   a bucket that counts a ticket too many                 none needed: looks are slower
 *   N without a live entry (names)                         the next changer of the names
 *   C = 0, D = 1 with pages (commit, punch)                the next commit or trim
 *   counters of committed and retained bytes off           recounted from the bits
 */
#ifndef SHR_LAYOUT_H
#define SHR_LAYOUT_H

#include "atomics.h"

#define SHR_MAGIC "SHARENA\n"
#define SHR_FORMAT 3u

#define SHR_PAGE 4096u
#define SHR_UNIT_SHIFT 16
#define SHR_UNIT ((uint64_t)1 << SHR_UNIT_SHIFT)
#define SHR_EXTENT_UNITS_MAX 1024u /* 64 MiB */
#define SHR_EXTENT_UNITS_MIN 64u   /* one word of heads */
#define SHR_UNITS_MAX                                                                            \
    ((uint64_t)1 << 28) /* 16 TiB, a number that fits a file's size twice over */
#define SHR_HUGE ((uint64_t)2 << 20) /* a huge page where pages have 4 KiB */
#define SHR_DATA_ALIGN SHR_HUGE      /* of the data area, in the file and in memory */
#define SHR_CHUNK_SHIFT 16
#define SHR_CHUNK ((uint64_t)1 << SHR_CHUNK_SHIFT)

/* Bits of a mask, W = 1.  0..59 are processes. */
#define SHR_SLOTS 61u      /* slot 60 is taken only by a reaper that has none, while it reaps */
#define SHR_PROCESSES 60u
#define SHR_REAPER_SLOT 60u
#define SHR_BIT_T ((uint64_t)1 << 61) /* an unspent ticket names the block */
#define SHR_BIT_N ((uint64_t)1 << 62) /* a name holds the block */
#define SHR_BIT_S ((uint64_t)1 << 63) /* the run is a slab (run masks only) */
#define SHR_BITS_PROCESSES (((uint64_t)1 << SHR_SLOTS) - 1)

/* The number of a life, 61 bits.  A small block's gen is the number with three marks above it;
 * a run's gen is 2 * number + closing, its marks lie in their own word. */
#define SHR_NUMBER_MAX (((uint64_t)1 << 61) - 1)
#define SHR_MARK_UNSHARED                                                                        \
    ((uint64_t)1 << 61) /* SHARENA_UNSHARED; beside another mark only, else it is noted
                                               privately (`out`, holdings) */
#define SHR_MARK_SHARED                                                                          \
    ((uint64_t)1 << 62) /* plain stores to the mask are over: stamped by a
                                               fork, retained, or released by a sibling */
#define SHR_MARK_HANDLE ((uint64_t)1 << 63) /* a handle or a name was made of this life */
#define SHR_MARKS (SHR_MARK_UNSHARED | SHR_MARK_SHARED | SHR_MARK_HANDLE)

struct super_shm { /* constant; checksum over everything before it */
    char magic[8];
    uint32_t format;
    uint32_t words; /* W, mask words a block: 1 */
    uint32_t unit_shift;
    uint32_t extent_units;
    uint64_t units;
    uint64_t file_bytes;
    uint64_t heads, commit, dirty, extents, units_at, descriptors, data; /* offsets */
    uint8_t uuid[16];
    uint64_t machine; /* hash of the boot id */
    uint64_t limit_bytes, retain_bytes;
    uint64_t created_ns; /* CLOCK_REALTIME */
    uint32_t uid;
    uint32_t mode;
    int32_t creator_pid;
    uint32_t ticket_ms; /* a handle that nobody loads ends after this; 0: never by age */
    uint32_t ticket_segments; /* of the tickets' table, at most */
    char name[68]; /* "" for an unnamed heap */
    uint64_t checksum;
};

struct control_shm {
    shr_a64 committed_units;  /* hint: bits set in `commit` */
    shr_a64 committed_meta;   /* hint: bytes of metadata committed */
    shr_a64 retained_units;   /* hint: committed units in free runs */
    shr_a64 retained_low;     /* hint: the least of retained_units since the last decay */
    shr_a64 decayed_ms;       /* hint: monotonic time of the last decay */
    uint8_t pad0[24];
    shr_a64 changer;          /* truth: who changes the names, {k 56, slot+1 8}, 0 = nobody;
                                 CAS acquire, store release; taken over from the dead */
    shr_a64 name_seq;         /* the changer only: order of the names' entries; no two changes
                                 end with the same one */
    shr_a64 site_next;        /* entries of `sites` given out: fetch-add */
    uint8_t pad1[40];
    shr_a64 used_units;       /* truth: no unit at or above was ever part of a held run;
                                 raised by CAS before the first mask there, never lowered */
    shr_a64 reaps;            /* hint: slots reaped so far */
    shr_a64 ticket_segments;  /* truth: segments in use, less 1.  Raised by CAS before a ticket
                                 there is published, never lowered */
    uint8_t pad2[40];
    shr_a32 abandoned[64];    /* hint per class: slabs abandoned with a free block, so far */
};

enum { SLOT_FREE, SLOT_INIT, SLOT_EMBRYO, SLOT_LIVE, SLOT_CLOSING };

struct slot_shm {
    shr_a64 state;    /* {k 56, SLOT_ 8}: CAS only.  INIT and FREE release, look acquire */
    shr_a64 announce; /* {k 56, slot+1 8} of the slot being reaped from here, 0 = none:
                         store seq_cst, withdrawn with release */
    shr_a32 pid;
    shr_a32 guests;     /* forked children that share this slot, so far */
    shr_a32 descriptor; /* number of the heap's descriptor in that process, + 1 */
    shr_a32 pad0;
    shr_a64 started_ns; /* CLOCK_REALTIME of the attach or fork */
    shr_a64 pidns;      /* inode of its pid namespace */
    shr_a64 reserved;   /* units it is about to commit: counted against the limit; the
                           process's threads only; 0 in a new life */
    shr_a64 at_hand;  /* units that its lanes may keep at hand, counted against what all may
                         keep so; the process's threads only; 0 in a new life */
    char command[32];
    uint8_t pad1[256 - 6 * 8 - 4 * 4 - 32];
};

struct unit_shm {    /* one cache line */
    shr_a64 touch;   /* I8: bit s whenever a block in the unit has it; set first, relaxed and
                        in program order; cleared last by a reaper, release */
    shr_a64 mask;    /* of the run that starts here */
    shr_a64 gen;     /* 2 * number + closing; CAS only */
    shr_a32 class;   /* 0: run; else {index of the unit in its slab 8, class 8}: stored last
                        on the way in (release), first on the way out */
    shr_a32 mark;    /* the run's marks >> 61; reset by the taker, set by holders */
    shr_a32 hint;    /* raised (release) by whoever leaves a small mask at 0; owner resets */
    shr_a32 pages;   /* pages of descriptors committed; raised after the commit, before the
                        class word; never lowered */
    shr_a32 site;    /* where the run was allocated: entry of `sites` + 1, or 0 */
    uint8_t pad[64 - 3 * 8 - 5 * 4];
};

struct desc_shm {  /* a small block */
    shr_a64 mask;  /* 0 → mine: the slab's lane only, plain, release; others see mask ≠ 0 */
    shr_a64 gen;   /* marks | number; raised by the lane before the mask, relaxed */
};

struct extent_shm {
    shr_a32 changes; /* hint: raised after a run became free or abandoned here */
    shr_a32 pad;
};

/* Handles on their way.  word = {seq 32, state 4, uses 28}, CAS acq_rel only; entry.c has the
 * protocol.  An entry is of one block and one message. */
enum {
    TICKET_FREE,
    TICKET_CLAIMED, /* `uses` is the claimer's slot + 1 */
    TICKET_OPEN,    /* from here on live, uses > 0: its message is being written */
    TICKET_LOOSE,   /* channel unknown so far */
    TICKET_KEPT,    /* channel unknown for good */
    TICKET_PIPE,
    TICKET_SOCKET,
    TICKET_CHILD
};
#define SHR_TICKET_USES_MAX (((uint32_t)1 << 28) - 1)

/* The table grows by segments, each four times the one before; a segment is groups of 64
 * entries, one page.  A look at a block's tickets reads, in each segment, as many entries as
 * the bucket of the block's home says. */
#define SHR_TICKET_SEGMENTS 7u
#define SHR_TICKET_FIRST 4096u /* entries of segment 0 */
#define SHR_TICKET_GROUP 64u
#define SHR_TICKET_GROUPS 1024u /* of a segment that one block may fill */
#define SHR_BUCKET_SHIFT 4      /* one bucket for 16 neighbouring homes */
/* Where segment k starts; k = 7: entries in all. */
#define SHR_TICKET_START(k) (SHR_TICKET_FIRST * ((((uint64_t)1 << 2 * (k)) - 1) / 3))
#define SHR_TICKETS_MAX SHR_TICKET_START(SHR_TICKET_SEGMENTS)

struct ticket_shm {
    shr_a64 word;
    shr_a64 offset; /* these are stored by the claimer before it publishes, relaxed */
    shr_a64 number;
    shr_a64 exporter; /* {k 48, slot+1 16} */
    shr_a64 made_ms;  /* CLOCK_REALTIME: for people, for "oldest first" and explicit timeouts;
                         the one clock that is the same in all time namespaces */
    shr_a64 place;    /* sharena_place's id and where: stored by the exporter, under the unit
                         lock, before the CAS to PIPE, SOCKET or CHILD; relaxed */
    shr_a64 where;
    shr_a64 stamp; /* of seq, place and where: a place that it does not match is nobody's */
};

/* {count 32, reach 32}, CAS only.  count: at least the live entries whose home is here; raised
 * before one is published, lowered after it ended.  reach: no such entry lies further from
 * home.  0 when the count falls to 0. */
typedef shr_a64 shr_bucket;

/* In a block, wherever its users have put it; all zero: free.  lock.c. */
struct lock_shm {
    shr_a64 owner; /* {k 32, thread 22, kind 2, slot+1 6, died 1, waiters 1}: taken and waited
                      for by CAS (acq_rel), freed by a swap (release).  The flags apart, 0 = free.
                      Its low half is the futex */
    shr_a64 count; /* the owner only, relaxed */
};

/* Names.  word = {seq 56, NAME_ 8}; only the changer writes; readers look at the word before
 * and after, both acquire. */
#define SHR_NAMES 1024u
enum { NAME_FREE, NAME_PENDING, NAME_LIVE, NAME_DYING };

struct name_shm {
    shr_a64 word;
    shr_a64 offset;
    shr_a64 number;
    shr_a32 payload_bytes;
    shr_a32 pad;
    shr_a64 text[8];      /* the name, zero padded */
    shr_a64 payload[100]; /* 800 bytes */
    uint8_t pad2[1024 - 32 - 64 - 800];
};

#define SHR_SITES 4096u
struct site_shm {
    shr_a64 hash;     /* 0 while it is written; release, acquire */
    shr_a64 text[15]; /* zero padded */
};

#define SHR_AT_CONTROL 4096u
#define SHR_AT_SLOTS 8192u
#define SHR_AT_CHUNKS 32768u
#define SHR_CHUNKS_MAX 32768u /* bits: one page */
#define SHR_AT_NAMES 65536u
#define SHR_AT_SITES (SHR_AT_NAMES + SHR_NAMES * 1024u)
#define SHR_AT_BUCKETS (SHR_AT_SITES + SHR_SITES * 128u)
#define SHR_AT_TICKETS /* starts a chunk */                                                      \
    ((SHR_AT_BUCKETS + (SHR_TICKETS_MAX >> SHR_BUCKET_SHIFT) * sizeof(shr_bucket) + SHR_CHUNK -  \
      1) /                                                                                       \
     SHR_CHUNK * SHR_CHUNK)

_Static_assert(sizeof(struct super_shm) <= SHR_PAGE, "superblock fits its page");
_Static_assert(sizeof(struct control_shm) == 448, "control block");
_Static_assert(sizeof(struct slot_shm) == 256, "slot");
_Static_assert(SHR_AT_SLOTS + SHR_SLOTS * sizeof(struct slot_shm) <= SHR_AT_CHUNKS, "slots");
_Static_assert(SHR_AT_CHUNKS + SHR_CHUNKS_MAX / 8 <= SHR_AT_NAMES, "chunk bits fit");
_Static_assert((SHR_AT_TICKETS + SHR_TICKETS_MAX * 64 - SHR_AT_NAMES) >> SHR_CHUNK_SHIFT <
                   SHR_CHUNKS_MAX,
               "a bit for each chunk");
_Static_assert(SHR_AT_TICKETS % SHR_PAGE == 0, "a group of tickets is a page");
_Static_assert(sizeof(struct unit_shm) == 64, "a unit's header is one cache line");
_Static_assert(sizeof(struct desc_shm) == 16, "four descriptors in a cache line");
_Static_assert(sizeof(struct ticket_shm) == 64, "ticket");
_Static_assert(sizeof(struct lock_shm) == 16, "lock");
_Static_assert(sizeof(struct name_shm) == 1024, "name");
_Static_assert(sizeof(struct site_shm) == 128, "site");
_Static_assert(sizeof(shr_a64) == 8 && sizeof(shr_a32) == 4, "atomics are plain words");

#endif
