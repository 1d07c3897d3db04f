/* Where the system gives little: limits of the process, huge sparse heaps, core dumps.  Each
 * is an error with a sentence, or nothing at all; never a signal, and never a page more. */
#include "harness.h"
#include "internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static uint64_t committed(const sharena_heap *heap)
{
    return shr__sys_blocks(sharena_descriptor(heap));
}

static void limit(__rlimit_resource_t what, uint64_t bytes)
{
    struct rlimit limits = {.rlim_cur = bytes, .rlim_max = bytes};
    CHECK_EQ(setrlimit(what, &limits), 0);
}

static void says(const char *word)
{
    if (!strstr(sharena_detail(), word))
        FAIL("\"%s\" does not say \"%s\"", sharena_detail(), word);
}

/* ---- limits of the process ---- */

/* SIGXFSZ, whose default action ends the process, is never raised. */
static void file_size_limit(void)
{
    sharena_heap *heap = NULL;
    sharena_options options = {.limit_bytes = 64 * MIB, .reserve_bytes = GIB};
    CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
    limit(RLIMIT_FSIZE, 512 * MIB);
    CHECK_EQ(sharena_create(NULL, &options, &heap), SHARENA_ESYSTEM);
    says("RLIMIT_FSIZE");
    says("smaller reserve");
    CHECK_EQ(sharena_create(scratch_name(), &options, &heap), SHARENA_ESYSTEM);
    says("RLIMIT_FSIZE");
    options.reserve_bytes = 0; /* the default reserve keeps to the limit */
    CHECK_OK(sharena_create(NULL, &options, &heap));
    void *block;
    CHECK_OK(sharena_allocate(heap, 32 * MIB, 0, SHARENA_ZERO, &block));
    CHECK_OK(sharena_release(heap, block));
    check_heap(heap);
}

/* A process that came under the limit after the heap was made can use it to its end: a page
 * beyond the limit is committed without an error, or refused with one. */
static void file_size_limit_of_a_user(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 256 * MIB);
    void *block;
    CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
    limit(RLIMIT_FSIZE, MIB);
    for (unsigned i = 0; i < 50; i++) {
        int code = sharena_allocate(heap, MIB, 0, 0, &block);
        if (code == 0)
            memset(block, 1, MIB);
        else
            CHECK(shr__is_shortage(code));
    }
    for (unsigned i = 0; i < 1000; i++)
        if (sharena_allocate(heap, 1000, 0, 0, &block) == 0)
            memset(block, 1, 1000);
    CHECK_OK(sharena_trim(heap, NULL));
    check_heap(heap);
}

/* The sanitizers' own mappings leave no room for limits, huge reserves and core dumps. */
static void needs_address_space(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("the sanitizer's own mappings are in the way\n");
#endif
}

static void address_space_limit(void)
{
    needs_address_space();
    sharena_heap *heap = NULL;
    sharena_options options = {.limit_bytes = 64 * MIB, .reserve_bytes = 16 * GIB};
    struct heap_address address = address_of(scratch_heap(64 * MIB, 16 * GIB));
    pid_t pid = fork();
    if (pid == 0) { /* a stranger to the heap: it was not there when it was forked */
        CHECK_OK(sharena_detach(sharena_heap_by_uuid(address.uuid)));
        limit(RLIMIT_AS, 4 * GIB);
        CHECK_EQ(sharena_create(NULL, &options, &heap), SHARENA_ESYSTEM);
        says("RLIMIT_AS");
        says("smaller reserve");
        CHECK_EQ(sharena_attach_process(address.pid, address.fd, address.uuid, &heap),
                 SHARENA_ESYSTEM);
        says("RLIMIT_AS");
        options.reserve_bytes = 0; /* the default reserve keeps to the limit */
        CHECK_OK(sharena_create(NULL, &options, &heap));
        void *block;
        CHECK_OK(sharena_allocate(heap, 32 * MIB, 0, SHARENA_ZERO, &block));
        _exit(0);
    }
    CHECK_EQ(await_child(pid, 0), 0);
}

/* Private memory for the tables runs out while the heap is in use. */
static void no_private_memory(void)
{
    needs_address_space();
    enum { MOST = 4000000 };
    sharena_heap *heap = scratch_heap(256 * MIB, 512 * MIB);
    void **blocks = calloc(MOST, sizeof *blocks);
    struct rlimit now;
    char line[256] = "";
    unsigned long pages = 0;
    size_t n = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    CHECK(statm && fgets(line, sizeof line, statm) && sscanf(line, "%lu", &pages) == 1);
    fclose(statm);
    CHECK_EQ(getrlimit(RLIMIT_AS, &now), 0);
    now.rlim_cur = pages * (uint64_t)sysconf(_SC_PAGESIZE) + 2 * MIB;
    CHECK_EQ(setrlimit(RLIMIT_AS, &now), 0);
    int code = 0;
    while (n < MOST && (code = sharena_allocate(heap, 64, 0, 0, &blocks[n])) == 0)
        memset(blocks[n++], 1, 64);
    CHECK(code == SHARENA_ENOMEM || code == SHARENA_EFULL || code == SHARENA_EROOM);
    CHECK(strlen(sharena_detail()) > 20);
    for (size_t i = 0; i < n; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    now.rlim_cur = now.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_AS, &now), 0);
    check_heap(heap);
    CHECK_EQ(stats_of(heap).live_bytes, 0);
}

/* ---- a sparse heap ---- */

static int ignore_process(const sharena_process *p, void *argument)
{
    (void)p;
    (void)argument;
    return 0;
}

static int ignore_block(const sharena_block_info *b, void *argument)
{
    (void)b;
    (void)argument;
    return 0;
}

static int ignore_ticket(const sharena_ticket *t, void *argument)
{
    (void)t;
    (void)argument;
    return 0;
}

static int ignore_name(const char *name, void *argument)
{
    (void)name;
    (void)argument;
    return 0;
}

/* Each leaves the file's pages as they were. */
#define LEAVES(heap, action)                                                                     \
    do {                                                                                         \
        uint64_t before_ = committed(heap);                                                      \
        action;                                                                                  \
        CHECK_EQ(committed(heap), before_);                                                      \
    } while (0)

static void random_handles(sharena_heap *heap, const sharena_handle *good)
{
    uint64_t seed = test_seed();
    sharena_block block;
    for (unsigned i = 0; i < 200000; i++) {
        sharena_handle h = *good;
        h.offset = random_next(&seed) >> (i % 64);
        h.number = random_next(&seed) >> (random_next(&seed) % 64);
        h.ticket = (uint32_t)random_next(&seed);
        h.seq = (uint32_t)random_next(&seed);
        if (i & 1)
            h.offset &= ~(uint64_t)65535;
        h.offset += h.offset < 65536 ? 65536 : 0; /* past the one unit in use */
        CHECK(sharena_acquire(heap, &h, &block) != 0);
        (void)sharena_give_back(heap, &h);
        CHECK(sharena_find(heap, (const char *)heap->data + (h.offset | 65536) % TIB, &block) !=
              0);
    }
}

static void hold_and_die(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    void *block;
    CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    CHECK_OK(sharena_allocate(heap, 10 * MIB, 0, 0, &block));
    peer_tell(parent);
    for (;;)
        pause();
}

static void look_around(sharena_heap *heap)
{
    unsigned reaped = 0;
    LEAVES(heap, check_heap(heap));
    LEAVES(heap, (void)stats_of(heap));
    LEAVES(heap, CHECK_OK(sharena_process_list(heap, ignore_process, NULL)));
    LEAVES(heap, CHECK_OK(sharena_block_list(heap, 0, ignore_block, NULL)));
    LEAVES(heap, CHECK_OK(sharena_ticket_list(heap, ignore_ticket, NULL)));
    LEAVES(heap, CHECK_OK(sharena_name_list(heap, ignore_name, NULL)));
    LEAVES(heap, CHECK_OK(sharena_reap(heap, &reaped)));
}

static void sparse_tebibyte(void)
{
    needs_address_space();
    sharena_heap *heap = scratch_heap(GIB, TIB);
    struct peer peer;
    sharena_handle handle;
    void *block;
    unsigned reaped = 0;
    CHECK_LE(committed(heap), MIB);
    look_around(heap); /* nothing was ever allocated */
    CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    CHECK_OK(sharena_export(heap, block, 2, &handle));
    LEAVES(heap, random_handles(heap, &handle));
    peer_start(&peer, hold_and_die, heap);
    peer_await(&peer);
    peer_kill(&peer);
    LEAVES(heap, CHECK_OK(sharena_reap(heap, &reaped)));
    CHECK_EQ(reaped, 1);
    look_around(heap);
    CHECK_OK(sharena_trim(heap, NULL));
    look_around(heap);
}

/* ---- a crash with core dumps enabled ---- */

static char dumps[] = "/var/tmp/sharena-test-XXXXXX";

static void crash(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    void *block;
    peer_await(parent);
    CHECK_EQ(chdir(dumps), 0);
    limit(RLIMIT_CORE, RLIM_INFINITY);
    int filter = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
    CHECK_EQ(write(filter, "0x7f", 4), 4); /* all kinds of mappings */
    close(filter);
    CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    peer_tell(parent);
    peer_await(parent);
    signal(SIGABRT, SIG_DFL);
    abort();
}

/* The dump's own size, 0 if the system put it elsewhere. */
static uint64_t remove_dumps(void)
{
    char command[128];
    struct stat file;
    uint64_t bytes = 0;
    snprintf(command, sizeof command, "%s/core", dumps);
    if (stat(command, &file) == 0)
        bytes = (uint64_t)file.st_size;
    snprintf(command, sizeof command, "rm -rf %s", dumps);
    CHECK_EQ(system(command), 0);
    return bytes;
}

static void core_dump(void)
{
    needs_address_space();
    struct peer peer;
    struct rlimit most;
    CHECK_EQ(getrlimit(RLIMIT_CORE, &most), 0);
    if (most.rlim_max == 0)
        SKIP("core dumps can't be enabled here: the hard limit is 0\n");
    sharena_heap *heap = scratch_heap(256 * MIB, 512 * MIB);
    CHECK(mkdtemp(dumps) != NULL);
    peer_start(&peer, crash, heap);
    peer_tell(&peer);
    peer_await(&peer);
    uint64_t before = committed(heap);
    peer_tell(&peer);
    int status = peer_end(&peer);
    uint64_t after = committed(heap), dump = remove_dumps();
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    if (!WCOREDUMP(status))
        SKIP("no core was dumped here\n");
    CHECK_EQ(after, before);
    CHECK_LE(dump, 64 * MIB);
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
}

/* ---- what a peak leaves ---- */

/* 4 GiB of 64-byte blocks if TEST_FULL is set.  Descriptors stay, a quarter of the bytes; of
 * the data nothing. */
static void small_blocks_leave_only_metadata(void)
{
    const uint64_t peak = getenv("TEST_FULL") ? 4 * GIB : 256 * MIB;
    const size_t count = peak / 64;
    sharena_heap *heap = scratch_heap(2 * peak, 4 * peak);
    uint32_t *offsets = calloc(count, sizeof *offsets); /* in units of 16 bytes */
    void *block;
    CHECK(offsets != NULL);
    for (size_t i = 0; i < count; i++) {
        CHECK_OK(sharena_allocate(heap, 64, 0, 0, &block));
        offsets[i] = (uint32_t)((uint64_t)((uint8_t *)block - heap->data) / 16);
    }
    CHECK_LE(peak, committed(heap));
    for (size_t i = 0; i < count; i++)
        CHECK_OK(sharena_release(heap, heap->data + (uint64_t)offsets[i] * 16));
    sharena_stats after = stats_of(heap);
    CHECK_LE(after.retained_bytes, after.retain_bytes);
    CHECK_OK(sharena_trim(heap, NULL));
    after = stats_of(heap);
    CHECK_EQ(after.committed_bytes, after.metadata_bytes);
    CHECK_LE(committed(heap), after.committed_bytes + 64 * 1024);
    CHECK_LE(after.committed_bytes, committed(heap) + 64 * 1024);
    CHECK_LE(after.metadata_bytes * 100, peak * 26);
    check_heap(heap);
}

CASES(CASE(file_size_limit), CASE(file_size_limit_of_a_user), CASE(address_space_limit),
      CASE(no_private_memory), CASE_FOR(60, sparse_tebibyte), CASE_FOR(60, core_dump),
      CASE_FOR(120, small_blocks_leave_only_metadata))
