/* Memory that one process allocated and another freed belongs to nobody: a third gets all of
 * it while the first sleeps or is stopped, under a limit that leaves nothing else.  And what
 * many processes and many threads leave behind is bounded.
 *
 * Slow builds (TEST_SLOWNESS) do with less of everything. */
#include "harness.h"
#include "internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define WINDOW 4096u /* handles on their way at once */

static uint64_t slowness(void)
{
    const char *text = getenv("TEST_SLOWNESS");
    return text ? strtoull(text, NULL, 10) : 1;
}

static void need_memory(uint64_t bytes)
{
    char where[200];
    uint64_t room = 0;
    CHECK_EQ(shr__room(bytes, &room, where, sizeof where), 0);
    if (room < bytes)
        SKIP("%llu MiB are needed, but: %s\n", (unsigned long long)(bytes / MIB), where);
}

static void *allocate(sharena_heap *heap, size_t size)
{
    void *block = NULL;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    return block;
}

static void release(sharena_heap *heap, void *const *blocks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
}

/* ---- one allocates, another frees, a third allocates ---- */

enum way { FORKED, BY_HANDLE };
enum rest { SLEEPS, STOPPED };

struct plan {
    enum way way;
    enum rest rest;
    size_t size, count;
    uint64_t limit;
};

/* Shared by all: who made the heap, and handles on their way. */
struct board {
    struct heap_address address;
    sharena_handle handles[WINDOW];
};

static struct plan plan;
static struct board *board;
/* Between the second and this program, past the first, which may be stopped. */
static struct peer to_second, to_program;

static void connect_second(void)
{
    int down[2], up[2];
    CHECK_EQ(pipe2(down, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(up, O_CLOEXEC), 0);
    to_second = (struct peer){.to = down[1], .from = up[0]};
    to_program = (struct peer){.pid = getpid(), .to = up[1], .from = down[0]};
}

/* Deadlines are for single steps: what takes long says now and then that it goes on. */
static void go_on(struct peer *peer, size_t i)
{
    if (i % (256 * WINDOW) == 0)
        peer_send(peer, ".", 1);
}

static void await_end(struct peer *peer)
{
    char byte;
    do
        peer_receive(peer, &byte, 1);
    while (byte == '.');
}

static void free_all(void **blocks)
{
    sharena_heap *heap = sharena_heap_by_uuid(board->address.uuid);
    peer_await(&to_program); /* the first has let go and is at rest */
    for (size_t i = 0; i < plan.count; i++) {
        go_on(&to_program, i);
        *(volatile char *)blocks[i] = 1;
        CHECK_OK(sharena_release(heap, blocks[i]));
    }
    peer_tell(&to_program);
    peer_await(&to_program); /* stays while the third allocates */
}

static void inherits(struct peer *parent, void *blocks)
{
    (void)parent;
    free_all(blocks);
}

/* By handle: takes WINDOW blocks at a time. */
static void takes(struct peer *parent, void *argument)
{
    void **blocks = argument;
    sharena_heap *heap = NULL;
    for (size_t at = 0; at < plan.count; at += WINDOW) {
        peer_await(parent);
        heap = heap ? heap : attach_to(&board->address);
        for (size_t i = at; i < at + WINDOW && i < plan.count; i++) {
            sharena_block block;
            CHECK_OK(sharena_acquire(heap, &board->handles[i - at], &block));
            blocks[i] = block.start;
        }
        peer_tell(parent);
    }
    free_all(blocks);
}

static void hand_over(sharena_heap *heap, struct peer *parent, struct peer *second, void **blocks)
{
    for (size_t at = 0; at < plan.count; at += WINDOW) {
        go_on(parent, at);
        for (size_t i = at; i < at + WINDOW && i < plan.count; i++)
            CHECK_OK(sharena_export(heap, blocks[i], 1, &board->handles[i - at]));
        peer_tell(second);
        peer_await(second);
    }
}

/* The first: allocates, sees that the second holds all, lets go and rests.  The second is
 * its child in both ways; by handle it is forked before there is a heap. */
static void first(struct peer *parent, void *blocks_memory)
{
    void **blocks = blocks_memory;
    struct peer second;
    if (plan.way == BY_HANDLE)
        peer_start(&second, takes, blocks);
    sharena_heap *heap = scratch_heap(plan.limit, 8 * GIB);
    board->address = address_of(heap);
    for (size_t i = 0; i < plan.count; i++)
        blocks[i] = allocate(heap, plan.size);
    if (plan.way == BY_HANDLE)
        hand_over(heap, parent, &second, blocks);
    else
        peer_start(&second, inherits, blocks);
    release(heap, blocks, plan.count);
    peer_tell(parent);
    if (plan.rest == STOPPED)
        raise(SIGSTOP);
    peer_await(parent);
    peer_join(&second);
}

static void third_allocates(sharena_heap *heap)
{
    const uint64_t total = plan.size * plan.count;
    void *blocks[100];
    for (size_t i = 0; i < 100; i++)
        memset(blocks[i] = allocate(heap, total / 100), 1, 1);
    check_heap(heap);
    release(heap, blocks, 100);
}

static void *pages(size_t bytes, int sharing)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

static void strand(struct plan chosen)
{
    struct peer peer;
    plan = chosen;
    need_memory(plan.limit + 512 * MIB);
    board = pages(sizeof *board, MAP_SHARED);
    connect_second();
    peer_start(&peer, first, pages(plan.count * sizeof(void *), MAP_PRIVATE));
    await_end(&peer);
    if (plan.rest == STOPPED)
        CHECK(WIFSTOPPED(await_child(peer.pid, WUNTRACED)));
    peer_tell(&to_second);
    await_end(&to_second);
    sharena_heap *heap = attach_to(&board->address);
    third_allocates(heap);
    peer_tell(&to_second);
    CHECK_EQ(kill(peer.pid, SIGCONT), 0);
    peer_tell(&peer);
    peer_join(&peer);
    check_heap(heap);
    CHECK_EQ(stats_of(heap).live_bytes, 0);
}

/* 100 blocks of 2 GiB; what the first may keep for itself is no more than 64 MiB. */
static void large(enum way way, enum rest rest)
{
    const uint64_t total = 2 * GIB / slowness(), size = total / 100 / KIB * KIB;
    strand((struct plan){way, rest, size, 100, total + 64 * MIB});
}

/* 64-byte blocks: a quarter of their bytes again are descriptors, which stay. */
static void small(enum way way, enum rest rest)
{
    const uint64_t total = GIB / slowness();
    strand((struct plan){way, rest, 64, total / 64, total + total * 26 / 100 + 64 * MIB});
}

static void large_forked_sleeping(void)
{
    large(FORKED, SLEEPS);
}

static void large_forked_stopped(void)
{
    large(FORKED, STOPPED);
}

static void large_by_handle_sleeping(void)
{
    large(BY_HANDLE, SLEEPS);
}

static void large_by_handle_stopped(void)
{
    large(BY_HANDLE, STOPPED);
}

static void small_forked_sleeping(void)
{
    small(FORKED, SLEEPS);
}

static void small_forked_stopped(void)
{
    small(FORKED, STOPPED);
}

static void small_by_handle_sleeping(void)
{
    small(BY_HANDLE, SLEEPS);
}

static void small_by_handle_stopped(void)
{
    small(BY_HANDLE, STOPPED);
}

/* ---- many processes in a small heap ---- */

static void get_little(struct peer *parent, void *argument)
{
    const struct heap_address *address = argument;
    sharena_heap *heap = sharena_heap_by_uuid(address->uuid);
    heap = heap ? heap : attach_to(address);
    char *small = allocate(heap, 16), *large = allocate(heap, 64 * KIB);
    memset(small, (int)getpid(), 16);
    memset(large, (int)getpid(), 64 * KIB);
    peer_tell(parent);
    peer_await(parent); /* all are there */
    for (size_t i = 0; i < 64 * KIB; i++)
        CHECK_EQ((unsigned char)large[i], (unsigned char)getpid());
    CHECK_EQ((unsigned char)small[15], (unsigned char)getpid());
}

static void make_heap(struct peer *parent, void *argument)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    *(struct heap_address *)argument = address_of(heap);
    peer_tell(parent);
    get_little(parent, argument);
}

static void get_together(struct peer *peers, size_t count, struct heap_address *address)
{
    for (size_t i = 0; i < count; i++)
        peer_start(&peers[i], get_little, address);
    for (size_t i = 0; i < count; i++)
        peer_await(&peers[i]);
    for (size_t i = 0; i < count; i++)
        peer_tell(&peers[i]);
    for (size_t i = 0; i < count; i++)
        peer_join(&peers[i]);
}

static void sixty_attached(void)
{
    struct peer maker, peers[59];
    struct heap_address *address = pages(sizeof *address, MAP_SHARED);
    peer_start(&maker, make_heap, address);
    peer_await(&maker);
    peer_await(&maker); /* it has its two blocks, too */
    for (int round = 0; round < 3; round++)
        get_together(peers, 59, address);
    peer_tell(&maker);
    peer_join(&maker);
}

static void sixty_forked(void)
{
    struct peer peers[59];
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    void *own[2] = {allocate(heap, 16), allocate(heap, 64 * KIB)};
    for (int round = 0; round < 3; round++)
        get_together(peers, 59, &address);
    release(heap, own, 2);
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
    CHECK_EQ(stats_of(heap).live_bytes, 0);
}

/* ---- many short threads ---- */

#define AT_ONCE 8u

static void *kept[10000];

static void *use_a_little(void *argument)
{
    void **keep = argument;
    sharena_heap *heap = sharena_heap_of(*keep);
    void *blocks[] = {allocate(heap, 16), allocate(heap, 100), allocate(heap, 5000),
                      allocate(heap, 100 * KIB)};
    release(heap, blocks, sizeof blocks / sizeof blocks[0]);
    *keep = allocate(heap, 64); /* outlives its thread */
    return NULL;
}

static unsigned lanes_of(const sharena_heap *heap)
{
    unsigned n = 0;
    for (const struct lane *l = heap->lanes; l; l = l->next)
        n++;
    return n;
}

static void short_threads(void)
{
    pthread_t threads[AT_ONCE];
    const size_t count = 10000 / slowness() / AT_ONCE * AT_ONCE;
    sharena_heap *heap = scratch_heap(256 * MIB, GIB);
    void *first_block = allocate(heap, 64);
    for (size_t i = 0; i < count; i += AT_ONCE) {
        for (size_t k = 0; k < AT_ONCE; k++) {
            kept[i + k] = first_block;
            CHECK_EQ(pthread_create(&threads[k], NULL, use_a_little, &kept[i + k]), 0);
        }
        for (size_t k = 0; k < AT_ONCE; k++)
            CHECK_EQ(pthread_join(threads[k], NULL), 0);
    }
    CHECK_LE(lanes_of(heap), AT_ONCE + 1);
    /* Each lane: a slab of each of four classes, with slack; a run on the way. */
    CHECK_LE(shr__used(heap), heap->extent_units + 16 * AT_ONCE);
    CHECK_LE(stats_of(heap).slabs, 8 * AT_ONCE);
    CHECK_LE(shr__sys_blocks(sharena_descriptor(heap)), 16 * MIB);
    release(heap, kept, count);
    release(heap, &first_block, 1);
    check_heap(heap);
    CHECK_EQ(stats_of(heap).live_bytes, 0);
}

CASES(CASE_FOR(60, large_forked_sleeping), CASE_FOR(60, large_forked_stopped),
      CASE_FOR(60, large_by_handle_sleeping), CASE_FOR(60, large_by_handle_stopped),
      CASE_FOR(300, small_forked_sleeping), CASE_FOR(300, small_forked_stopped),
      CASE_FOR(300, small_by_handle_sleeping), CASE_FOR(300, small_by_handle_stopped),
      CASE(sixty_attached), CASE(sixty_forked), CASE_FOR(60, short_threads))
