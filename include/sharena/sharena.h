/* sharena: a heap in shared memory whose blocks any process can hold.
 *
 * A block lives exactly as long as a live process, a name or an unspent handle holds it.
 * Any process may be killed at any instruction: nothing leaks, nothing is damaged and
 * nobody is blocked.  docs/design.md tells how.
 *
 * Every function returns 0 or a negative SHARENA_E... code unless it says otherwise, and
 * leaves its outputs untouched on failure.  sharena_detail() then holds a sentence for the
 * user: what happened, to which heap, what to do.  All functions are thread-safe; none may
 * be called from a signal handler.  A block that was allocated, retained or acquired is one
 * reference of this process, dropped by one sharena_release().
 */
#ifndef SHARENA_H
#define SHARENA_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHARENA_VERSION "0.1.0"

#if defined(__GNUC__)
#define SHARENA_API __attribute__((visibility("default")))
#else
#define SHARENA_API
#endif

/* X(name, value, text) */
#define SHARENA_ERRORS(X)                                                                        \
    X(EINVAL, -1, "invalid argument")                                                            \
    X(ENOMEM, -2, "no private memory for the heap's own tables")                                 \
    X(EFULL, -3, "the heap's limit is reached")                                                  \
    X(ENOSPACE, -4, "the file system behind the heap is full")                                   \
    X(EROOM, -5, "the memory cgroup or the machine has no room for this request")                \
    X(ERESERVE, -6, "no stretch of the heap's address space is large enough")                    \
    X(ESTALE, -7, "the block this handle names is gone")                                         \
    X(ECORRUPT, -8, "the heap's metadata is damaged")                                            \
    X(ENOTFOUND, -9, "no such heap or name")                                                     \
    X(EEXIST, -10, "a heap of this name exists already")                                         \
    X(EPERM, -11, "not permitted")                                                               \
    X(ENOTHEAP, -12, "the file is not a sharena heap")                                           \
    X(EVERSION, -13, "the heap has another format version")                                      \
    X(EPROCESSES, -14, "too many processes use this heap")                                       \
    X(ETICKETS, -15, "too many handles are in flight")                                           \
    X(ENAMES, -16, "the table of names is full")                                                 \
    X(EBUSY, -17, "another process is in the way")                                               \
    X(ESYSTEM, -18, "a system call failed")                                                      \
    X(ENOTHELD, -19, "the address is not in a block that this process holds")                    \
    X(EINTERRUPTED, -20, "interrupted")                                                          \
    X(EREMOTE, -21, "the handle comes from another machine")                                     \
    X(ECLOSED, -22, "the heap is closed")

enum sharena_error {
#define SHARENA_ERROR_ENUM(name, value, text) SHARENA_##name = value,
    SHARENA_ERRORS(SHARENA_ERROR_ENUM)
#undef SHARENA_ERROR_ENUM
};

typedef struct sharena_heap sharena_heap;

/* Zero means "the default" in every field. */
typedef struct sharena_options {
    uint64_t limit_bytes; /* committed bytes, default 80 % of the smaller of RAM and cgroup */
    uint64_t reserve_bytes; /* address space for data, default 4 times the RAM */
    uint64_t retain_bytes; /* free memory kept warm, default an eighth of the limit */
    unsigned mode; /* of a named heap: 0600 (the default), 0660 or 0666 */
    unsigned ticket_ms; /* a handle that nobody loads ends after this, default never */
} sharena_options;

/* A handle: 64 bytes, copied as they are.  Any bytes are safe to pass to the functions
 * that take one. */
typedef struct sharena_handle {
    uint8_t heap[16]; /* the heap's uuid */
    uint64_t offset; /* of the block */
    uint64_t number; /* which life of the block */
    uint64_t machine; /* hash of the boot id */
    uint32_t ticket; /* entry in the table of tickets */
    uint32_t seq; /* which use of that entry */
    int32_t pid; /* of the exporter, in its pid namespace */
    int32_t fd; /* the exporter's descriptor of the heap */
    uint32_t uid; /* user of the exporter */
    uint16_t uses; /* loads that it is good for */
    uint16_t reserved; /* 0 */
} sharena_handle;

typedef struct sharena_block {
    void *start;
    size_t size_bytes; /* usable */
    uint64_t number; /* which life of the block: no handle ever names two */
    unsigned flags; /* from sharena_find(): SHARENA_UNSHARED or 0 */
} sharena_block;

/* Where a handle that nobody has loaded is: on its way, or kept somewhere. */
enum sharena_place_kind {
    SHARENA_PLACE_OPEN = 1, /* its message is still being written */
    SHARENA_PLACE_LOOSE, /* channel unknown */
    SHARENA_PLACE_PIPE, /* id: inode of the pipe */
    SHARENA_PLACE_SOCKET, /* id: inode of the unix socket that receives; where: inode of its
                             network namespace */
    SHARENA_PLACE_CHILD /* for a process being started.  id: its start time, field 22 of
                           /proc/PID/stat; where: inode of the pid namespace << 32 | pid */
};
typedef struct sharena_place {
    uint32_t kind;
    uint32_t reserved; /* 0 */
    uint64_t id, where;
} sharena_place;

typedef struct sharena_member { /* a live process that uses the heap */
    int32_t pid; /* in its own pid namespace */
    uint32_t guests; /* forked processes that share its slot */
    uint64_t pidns; /* inode of its pid namespace */
} sharena_member;

/* What the judge is asked: which places can nobody read any more?  It sets dead[i] to 1 for
 * those of which that is certain; dead[] comes zeroed. */
typedef struct sharena_inquiry {
    const sharena_place *places; /* PIPE, SOCKET and CHILD, each once */
    size_t n_places;
    const sharena_member *members;
    size_t n_members;
    unsigned mode; /* permission bits of the heap */
    int patient; /* it may take seconds for a verdict */
    uint8_t *dead;
} sharena_inquiry;
/* 0; non-zero stops the call that asked with SHARENA_EINTERRUPTED. */
typedef int sharena_judge(const sharena_inquiry *, void *argument);

#define SHARENA_CLASSES 64 /* room for size classes in sharena_stats */

typedef struct sharena_stats {
    uint8_t uuid[16];
    uint64_t limit_bytes, reserve_bytes, retain_bytes; /* as configured */
    uint64_t committed_bytes; /* data and metadata the file holds */
    uint64_t metadata_bytes; /* of these, metadata */
    uint64_t live_bytes; /* in blocks that somebody holds */
    uint64_t retained_bytes; /* free and kept warm */
    uint64_t stranded_bytes; /* free inside slabs that a process owns */
    uint64_t inflight_bytes; /* in blocks that only unspent handles hold */
    uint64_t blocks, runs, slabs, abandoned_slabs;
    uint64_t tickets, names;
    uint32_t processes, max_processes, guests;
    uint32_t classes; /* entries in use below */
    struct {
        uint32_t size_bytes, slabs, blocks, capacity;
    } by_class[SHARENA_CLASSES];
} sharena_stats;

typedef struct sharena_process {
    uint32_t slot;
    int32_t pid; /* in the reader's view, as recorded */
    uint64_t started_ns; /* CLOCK_REALTIME when it attached */
    uint64_t blocks; /* that it holds */
    uint64_t bytes;
    uint32_t guests;
    int alive; /* 0: dead, waits to be reaped */
    char command[32];
} sharena_process;

typedef struct sharena_ticket {
    uint64_t offset, number, size_bytes;
    uint64_t made_ns; /* CLOCK_REALTIME */
    uint32_t uses; /* unspent */
    int32_t exporter; /* pid */
    int exporter_alive;
    uint32_t entry;
    uint64_t word; /* as it lies in the heap */
    int alone; /* nothing but tickets keeps the block */
    sharena_place place;
} sharena_ticket;

/* Life of a heap.  name: letters, digits, '.', '_', '-', at most 64; NULL for an unnamed
 * heap that is gone with its last user. */
SHARENA_API int sharena_create(const char *name, const sharena_options *, sharena_heap **out);
SHARENA_API int sharena_attach(const char *name, sharena_heap **out);
/* The same for a heap of another user, whom the caller trusts with the arrays it reads. */
SHARENA_API int sharena_attach_owned(const char *name, uid_t owner, sharena_heap **out);
/* Attaches to the heap open at descriptor fd of process pid (this user's). */
SHARENA_API int sharena_attach_process(pid_t pid, int fd, const uint8_t uuid[16],
                                       sharena_heap **out);
/* Finds any process of this user that has the unnamed heap `uuid` open. */
SHARENA_API int sharena_attach_uuid(const uint8_t uuid[16], sharena_heap **out);
/* Attaches to the heap that a handle names; a heap already attached is returned again. */
SHARENA_API int sharena_attach_handle(const sharena_handle *, sharena_heap **out);
/* Drops everything this process holds in the heap and unmaps it.  Each attach of a heap
 * that is attached already counts; the last detach acts. */
SHARENA_API int sharena_detach(sharena_heap *);
/* Removes the name; SHARENA_EBUSY while other processes are attached unless force. */
SHARENA_API int sharena_unlink(const char *name, int force);

SHARENA_API const uint8_t *sharena_uuid(const sharena_heap *);
SHARENA_API const char *sharena_name(const sharena_heap *); /* NULL: unnamed */
SHARENA_API int sharena_descriptor(const sharena_heap *); /* of the backing file */
SHARENA_API int sharena_is_guest(const sharena_heap *);
SHARENA_API sharena_heap *sharena_heap_by_uuid(const uint8_t uuid[16]); /* attached, or NULL */
SHARENA_API sharena_heap *sharena_heap_of(const void *address); /* or NULL */
/* Called between chunks of long work with no lock held; non-zero stops the call with
 * SHARENA_EINTERRUPTED.  One for the process. */
SHARENA_API void sharena_set_interrupt(int (*callback)(void *), void *argument);

/* Blocks.  align: a power of two up to 2 MiB, or 0. */
#define SHARENA_ZERO 1u /* the block reads as zeros */
#define SHARENA_UNSHARED 2u /* noted until sharena_set_shared(): a hint for who hands over */
SHARENA_API int sharena_allocate(sharena_heap *, size_t size, size_t align, unsigned flags,
                                 void **out);
/* The same with no alignment beyond 16, in the shape of malloc(): NULL on failure, then
 * sharena_code() tells why.  The fastest way to a small block. */
SHARENA_API void *sharena_malloc(sharena_heap *, size_t size);
SHARENA_API int sharena_retain(sharena_heap *, const void *block);
/* Of a block that this process does not hold: SHARENA_ENOTHELD where it is noticed.  As with
 * free(), not every second release of a small block is. */
SHARENA_API int sharena_release(sharena_heap *, const void *block);
/* Only if it lies at hand, or then can (1): no lock, no system call.  Else NULL, 0: still held. */
SHARENA_API void *sharena_malloc_at_hand(sharena_heap *, size_t size);
SHARENA_API int sharena_release_at_hand(sharena_heap *, const void *block);
/* In place if nobody else can know the block, else a copy; the old address is then released.
 * Never moves on failure. */
SHARENA_API int sharena_reallocate(sharena_heap *, void *block, size_t size, void **out);
/* The block that the address lies in, which this process must hold. */
SHARENA_API int sharena_find(sharena_heap *, const void *address, sharena_block *out);
SHARENA_API int sharena_set_shared(sharena_heap *, const void *block);
/* Notes where a block was allocated (shown by sharena_block_list); at most 119 bytes. */
SHARENA_API int sharena_trace(sharena_heap *, const void *block, const char *site);

/* Handles.  `uses` loads (1 to 65535) are covered: until they are spent or the handle is ended,
 * it keeps the block.  A handle loaded more often works while anyone holds the block.
 *
 * A handle that nobody can load any more should go.  So whoever writes it into a message says
 * where that is: sharena_export_open() for each array of the message, sharena_handle_place()
 * once it is written (LOOSE) and before the first byte is sent (PIPE, ...).  The tickets of a
 * process that dies in between end; what lies in a channel ends when the judge says that nobody
 * can read it; a LOOSE one stays until it is loaded, or until memory is short and its maker is
 * dead. */
SHARENA_API int sharena_export(sharena_heap *, const void *block, unsigned uses,
                               sharena_handle *out);
/* For one load, in a message being written.  `joins`: the handle of another view of the block
 * in the same message, whose ticket it then shares, or NULL. */
SHARENA_API int sharena_export_open(sharena_heap *, const void *block,
                                    const sharena_handle *joins, sharena_handle *out);
SHARENA_API int sharena_acquire(sharena_heap *, const sharena_handle *, sharena_block *out);
/* Ends a handle that was never sent, with all that shares its ticket: its message failed.  By
 * its maker; a forked child, which has the message as well, ends nothing. */
SHARENA_API int sharena_give_back(sharena_heap *, const sharena_handle *);
/* By its maker.  A second place makes it LOOSE for good.  SHARENA_ESTALE: it ended. */
SHARENA_API int sharena_handle_place(sharena_heap *, const sharena_handle *,
                                     const sharena_place *);
/* By anybody who takes the message out of a channel without loading it: LOOSE for good. */
SHARENA_API int sharena_handle_keep(sharena_heap *, const sharena_handle *);
/* One for the process.  It is called with no lock held, by whichever thread passes. */
SHARENA_API void sharena_set_judge(sharena_judge *, void *argument);
/* To be called now and then where the heap is used: ends what nobody can receive, at most
 * every second. */
SHARENA_API void sharena_tend(sharena_heap *);
/* Calls back for every unspent ticket; non-zero stops. */
SHARENA_API int sharena_ticket_list(sharena_heap *,
                                    int (*callback)(const sharena_ticket *, void *), void *);
/* Expires tickets older than age_ms; counts them in *out (may be NULL). */
SHARENA_API int sharena_ticket_expire(sharena_heap *, uint64_t age_ms, size_t *out);

/* Names: name → block and up to SHARENA_PAYLOAD bytes of the caller's. */
#define SHARENA_NAME 63
#define SHARENA_PAYLOAD 800
SHARENA_API int sharena_name_set(sharena_heap *, const char *name, const void *block,
                                 const void *payload, size_t payload_bytes);
/* Acquires the block; *payload_bytes is the room on entry and what was stored on return. */
SHARENA_API int sharena_name_get(sharena_heap *, const char *name, sharena_block *out,
                                 void *payload, size_t *payload_bytes);
SHARENA_API int sharena_name_remove(sharena_heap *, const char *name);
SHARENA_API int sharena_name_list(sharena_heap *, int (*callback)(const char *, void *), void *);

/* Care and inspection. */
SHARENA_API int sharena_reap(sharena_heap *, unsigned *reaped); /* clears up after the dead */
SHARENA_API int sharena_trim(sharena_heap *, uint64_t *freed_bytes);
SHARENA_API int sharena_stats_read(sharena_heap *, sharena_stats *out);
SHARENA_API int sharena_process_list(sharena_heap *,
                                     int (*callback)(const sharena_process *, void *), void *);
typedef struct sharena_block_info {
    uint64_t offset, size_bytes, holders; /* holders: the mask word */
    const char *site; /* or "" */
} sharena_block_info;
/* Calls back for every live block of at least min_bytes. */
SHARENA_API int sharena_block_list(sharena_heap *, size_t min_bytes,
                                   int (*callback)(const sharena_block_info *, void *), void *);
/* Walks everything; every fault is reported; returns the number of faults or an error. */
SHARENA_API int sharena_check(sharena_heap *, void (*fault)(const char *, void *), void *);

SHARENA_API const char *sharena_strerror(int code);
/* The sentence for the last failure in this thread, valid until the next one. */
SHARENA_API const char *sharena_detail(void);
/* Its code, or that of a later failure of sharena_malloc(). */
SHARENA_API int sharena_code(void); /* 0: none so far */

#ifdef __cplusplus
}
#endif
#endif
