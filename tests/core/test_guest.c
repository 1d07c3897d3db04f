/* fork.c, guests: children for whom there is no slot share their parent's. */
#include "harness.h"
#include "internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

struct kit {
    sharena_heap *heap;
    void *small, *big, *counted, *sent;
    sharena_handle handle;
};

static void make_kit(struct kit *kit)
{
    kit->heap = scratch_heap(256 * MIB, 256 * MIB);
    kit->small = make_block(kit->heap, 100);
    kit->big = make_block(kit->heap, 1000000);
    kit->counted = make_block(kit->heap, 5000);
    CHECK_OK(sharena_retain(kit->heap, kit->counted));
    kit->sent = make_block(kit->heap, 300);
    CHECK_OK(sharena_export(kit->heap, kit->sent, 2, &kit->handle));
}

static void guest_or_not(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    int guest = sharena_is_guest(kit->heap);
    CHECK_EQ(*(uint8_t *)kit->big, 0x42);
    if (guest) {
        void *block = NULL;
        sharena_handle handle;
        sharena_block found;
        CHECK_EQ(sharena_allocate(kit->heap, 100, 0, 0, &block), SHARENA_EPROCESSES);
        CHECK_EQ(sharena_allocate(kit->heap, 1000000, 0, 0, &block), SHARENA_EPROCESSES);
        CHECK_EQ(sharena_export(kit->heap, kit->big, 1, &handle), SHARENA_EPROCESSES);
        CHECK_EQ(sharena_acquire(kit->heap, &kit->handle, &found), SHARENA_EPROCESSES);
        CHECK(strlen(sharena_detail()) > 20);
        CHECK_OK(sharena_find(kit->heap, kit->big, &found));
        stats_of(kit->heap);
        check_heap(kit->heap);
    }
    peer_send(parent, &guest, sizeof guest);
    peer_await(parent);
    CHECK_EQ(*(uint8_t *)kit->big, 0x42);
    CHECK_EQ(*(uint8_t *)kit->small, 0x42);
    if (guest) {
        CHECK_OK(sharena_release(kit->heap, kit->big));
        CHECK_EQ(*(uint8_t *)kit->small, 0x42);
    }
}

static void guest_for_ever(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    int guest = sharena_is_guest(kit->heap);
    peer_send(parent, &guest, sizeof guest);
    for (;;)
        pause();
}

static void hundred_children(void)
{
    enum { N = 100 };
    static struct peer children[N];
    struct kit kit;
    int guests = 0, guest;
    make_kit(&kit);
    for (int i = 0; i < N; i++) {
        peer_start(&children[i], guest_or_not, &kit);
        peer_receive(&children[i], &guest, sizeof guest);
        guests += guest;
    }
    CHECK_EQ(guests, N - 59);
    sharena_stats stats = stats_of(kit.heap);
    CHECK_EQ(stats.processes, 60);
    CHECK_EQ(stats.guests, guests);
    /* What was held then is pinned while guests live, whatever the parent drops. */
    CHECK_OK(sharena_release(kit.heap, kit.big));
    CHECK_OK(sharena_release(kit.heap, kit.small));
    CHECK_EQ(stats_of(kit.heap).blocks, 4);
    for (unsigned i = 0; i < 100; i++)
        memset(make_block(kit.heap, 10000), 0x99, 10000);
    for (int i = 0; i < N; i++) {
        peer_tell(&children[i]);
        peer_join(&children[i]);
    }
    CHECK_OK(sharena_reap(kit.heap, NULL));
    CHECK_EQ(stats_of(kit.heap).processes, 1);
    check_heap(kit.heap);
}

/* The parent dies before its guests: its slot lives as long as they do. */
static void parent_of_guests(struct peer *parent, void *argument)
{
    enum { N = 62 };
    static struct peer children[N];
    struct kit kit;
    struct heap_address address;
    int guest = 0;
    (void)argument;
    make_kit(&kit);
    address = address_of(kit.heap);
    peer_send(parent, &address, sizeof address);
    peer_await(parent);
    for (int i = 0; i < N; i++) {
        peer_start(&children[i], guest_for_ever, &kit);
        peer_receive(&children[i], &guest, sizeof guest);
    }
    CHECK_EQ(guest, 1);
    peer_send(parent, children, sizeof children);
    for (;;)
        pause();
}

static void guests_outlive_their_parent(void)
{
    enum { N = 62 };
    struct peer parent;
    static struct peer children[N];
    struct heap_address address;
    peer_start(&parent, parent_of_guests, NULL);
    peer_receive(&parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_tell(&parent);
    peer_receive(&parent, children, sizeof children);
    peer_kill(&parent);
    for (int i = 0; i < N - 1; i++)
        kill(children[i].pid, SIGKILL);
    uint64_t deadline = now_ns() + UINT64_C(10000000000);
    do
        CHECK_OK(sharena_reap(heap, NULL));
    while (stats_of(heap).processes > 2 && now_ns() < deadline);
    CHECK_EQ(stats_of(heap).processes, 2); /* mine and the one the guest shares */
    CHECK_LE(3, stats_of(heap).blocks);
    check_heap(heap);
    kill(children[N - 1].pid, SIGKILL);
    do
        CHECK_OK(sharena_reap(heap, NULL));
    while (stats_of(heap).processes > 1 && now_ns() < deadline);
    CHECK_OK(sharena_reap(heap, NULL)); /* it may have died after the last look */
    CHECK_EQ(stats_of(heap).processes, 1);
    CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

/* All slots but one's own are taken: who is forked now is a guest. */
static void take_all_slots(sharena_heap *heap)
{
    unsigned slot;
    uint64_t k;
    void *page;
    while (shr__slot_take(heap, 0, SHR_PROCESSES - 1, SLOT_EMBRYO, &slot, &k, &page) == 0)
        continue;
}

static void wait_as_guest(struct peer *parent, void *argument)
{
    sharena_heap *heap = *(sharena_heap **)argument;
    CHECK_EQ(sharena_is_guest(heap), 1);
    peer_tell(parent);
    peer_await(parent);
}

static void start_guest(struct peer *guest, sharena_heap **heap)
{
    peer_start(guest, wait_as_guest, heap);
    peer_await(guest);
}

static uint64_t blocks_after_reap(sharena_heap *heap)
{
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
    return stats_of(heap).blocks;
}

/* What is held when one is forked stays for it, and for nobody else, and goes with it. */
static void what_guests_held_goes_with_them(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct peer first, second, third;
    take_all_slots(heap);
    void *small = make_block(heap, 100), *big = make_block(heap, MIB);
    start_guest(&first, &heap);
    void *late = make_block(heap, 200);
    start_guest(&second, &heap);
    CHECK_OK(sharena_release(heap, late));
    CHECK_OK(sharena_release(heap, big));
    start_guest(&third, &heap); /* inherits `small` only */
    CHECK_EQ(blocks_after_reap(heap), 3);
    CHECK_EQ(stats_of(heap).guests, 3);
    peer_kill(&second); /* the first might have inherited it, as it is told by age */
    CHECK_EQ(blocks_after_reap(heap), 3);
    peer_tell(&first);
    peer_join(&first);
    CHECK_EQ(blocks_after_reap(heap), 1);
    CHECK_OK(sharena_release(heap, small));
    CHECK_EQ(blocks_after_reap(heap), 1);
    peer_tell(&third);
    peer_join(&third);
    CHECK_EQ(blocks_after_reap(heap), 0);
    CHECK_EQ(stats_of(heap).guests, 0);
}

/* More of them, one after the other, than there are locks; half of them with a child. */
static void guest_with_a_child(struct peer *parent, void *argument)
{
    pid_t child = fork();
    if (child == 0)
        pause();
    peer_send(parent, &child, sizeof child);
    wait_as_guest(parent, argument);
}

static void a_thousand_guests_pin_nothing_for_good(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    take_all_slots(heap);
    for (unsigned i = 0; i < 1000; i++) {
        struct peer guest;
        void *block = make_block(heap, i % 2 ? 100 : 8 * MIB);
        start_guest(&guest, &heap);
        CHECK_OK(sharena_release(heap, block));
        peer_kill(&guest);
    }
    CHECK_EQ(blocks_after_reap(heap), 0);
    struct peer guest;
    pid_t child;
    void *block = make_block(heap, 100);
    peer_start(&guest, guest_with_a_child, &heap);
    peer_receive(&guest, &child, sizeof child);
    peer_await(&guest);
    CHECK_OK(sharena_release(heap, block));
    peer_tell(&guest);
    peer_join(&guest);
    CHECK_EQ(blocks_after_reap(heap), 1); /* its child inherited what it had */
    CHECK_EQ(kill(child, SIGKILL), 0);
    uint64_t deadline = now_ns() + UINT64_C(10000000000);
    while (blocks_after_reap(heap) && now_ns() < deadline)
        continue;
    CHECK_EQ(stats_of(heap).blocks, 0);
}

static void guest_without_a_lock_keeps_only_its_own(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct rlimit limit, none;
    struct peer guest;
    take_all_slots(heap);
    void *block = make_block(heap, 100);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = (struct rlimit){3, limit.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    await_child(child, 0);
    CHECK_OK(sharena_release(heap, block));
    for (unsigned i = 0; i < 10; i++) {
        block = make_block(heap, MIB);
        start_guest(&guest, &heap);
        CHECK_OK(sharena_release(heap, block));
        peer_kill(&guest);
    }
    CHECK_EQ(blocks_after_reap(heap), 1);
    CHECK_EQ(stats_of(heap).guests, 1);
}

/* What is kept for a guest only is nothing that the program could release again. */
static void release_twice(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    CHECK_OK(sharena_release(kit->heap, kit->small));
    CHECK_EQ(sharena_release(kit->heap, kit->small), SHARENA_ENOTHELD);
    CHECK_OK(sharena_release(kit->heap, kit->big));
    CHECK_EQ(sharena_release(kit->heap, kit->big), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_retain(kit->heap, kit->big), SHARENA_ENOTHELD);
    CHECK_OK(sharena_detach(kit->heap)); /* and lets go of what was kept for it */
    peer_tell(parent);
    peer_await(parent);
}

static void second_releases_are_noticed(void)
{
    struct kit kit;
    struct peer guest;
    sharena_handle handle;
    make_kit(&kit);
    take_all_slots(kit.heap);
    uint64_t blocks = stats_of(kit.heap).blocks;
    peer_start(&guest, release_twice, &kit);
    peer_await(&guest);
    CHECK_EQ(*(uint8_t *)kit.small, 0x42);
    CHECK_EQ(stats_of(kit.heap).blocks, blocks);
    CHECK_OK(sharena_release(kit.heap, kit.small));
    CHECK_EQ(sharena_release(kit.heap, kit.small), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_export(kit.heap, kit.small, 1, &handle), SHARENA_ENOTHELD);
    CHECK_EQ(blocks_after_reap(kit.heap), blocks - 1);
    peer_tell(&guest);
    peer_join(&guest);
    CHECK_EQ(blocks_after_reap(kit.heap), blocks - 1);
}

/* A child with a slot of its own does not inherit what was pinned for others. */
static void release_all(struct peer *parent, void *argument)
{
    sharena_heap *heap = *(sharena_heap **)argument;
    CHECK_EQ(sharena_is_guest(heap), 0);
    peer_tell(parent);
    peer_await(parent);
}

static void pins_are_not_inherited(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct peer guest, child;
    unsigned slot = 0;
    uint64_t k = 0;
    void *page = NULL;
    CHECK_OK(shr__slot_take(heap, 0, SHR_PROCESSES - 1, SLOT_EMBRYO, &slot, &k, &page));
    take_all_slots(heap);
    void *block = make_block(heap, 100);
    start_guest(&guest, &heap);
    CHECK_OK(sharena_release(heap, block));
    shr__sys_lock_page_drop(page); /* a slot is free again */
    CHECK_OK(sharena_reap(heap, NULL));
    peer_start(&child, release_all, &heap);
    peer_await(&child);
    peer_kill(&guest);
    CHECK_EQ(blocks_after_reap(heap), 0);
    peer_tell(&child);
    peer_join(&child);
}

/* ---- without private memory ----------------------------------------------------------------- */

static rlim_t memory_ends(void)
{
    struct rlimit limit;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("the sanitizer's own mappings are in the way\n");
#endif
    CHECK_EQ(getrlimit(RLIMIT_AS, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 1;
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    for (size_t size = (size_t)1 << 20; size >= 16; size /= 2)
        while (malloc(size))
            ;
    return before;
}

static void memory_is_back(rlim_t soft)
{
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = soft;
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
}

static void look_later(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    CHECK_EQ(sharena_is_guest(kit->heap), 1);
    peer_tell(parent);
    peer_await(parent);
    CHECK_EQ(*(uint8_t *)kit->small, 0x42);
}

static void release_at_once(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    CHECK_OK(sharena_release(kit->heap, kit->small));
    peer_tell(parent);
    peer_await(parent);
}

/* Nothing says then what guests see, so nothing of it is used again. */
static void pins_that_could_not_be_made(void)
{
    struct kit kit = {.heap = scratch_heap(256 * MIB, 256 * MIB)};
    struct peer one, other;
    take_all_slots(kit.heap);
    kit.small = make_block(kit.heap, 100);
    rlim_t soft = memory_ends();
    peer_start(&one, look_later, &kit);
    peer_start(&other, release_at_once, &kit);
    memory_is_back(soft);
    peer_await(&one);
    peer_await(&other);
    CHECK_EQ(stats_of(kit.heap).blocks, 1);
    for (unsigned i = 0; i < 5000; i++)
        memset(make_block(kit.heap, 100), 0x99, 100);
    CHECK_EQ(*(uint8_t *)kit.small, 0x42);
    CHECK_OK(sharena_release(kit.heap, kit.small));
    for (unsigned i = 0; i < 5000; i++)
        memset(make_block(kit.heap, 100), 0x99, 100);
    peer_tell(&one);
    peer_join(&one);
    peer_tell(&other);
    peer_join(&other);
    check_heap(kit.heap);
}

static void unpinning_takes_no_memory(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct peer guest;
    static void *blocks[40000];
    take_all_slots(heap);
    for (unsigned i = 0; i < 40000; i++)
        blocks[i] = make_block(heap, 64);
    start_guest(&guest, &heap);
    for (unsigned i = 0; i < 40000; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK_EQ(stats_of(heap).blocks, 40000);
    peer_kill(&guest);
    rlim_t soft = memory_ends();
    CHECK_OK(sharena_reap(heap, NULL));
    memory_is_back(soft);
    CHECK_EQ(stats_of(heap).guests, 0);
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

/* What can't be decoded any more is let be, not tried for ever. */
static void damage_ends_the_unpinning(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct peer guest;
    struct block b;
    take_all_slots(heap);
    const uint8_t *block = make_block(heap, 3000);
    start_guest(&guest, &heap);
    CHECK_OK(shr__decode(heap, (uint64_t)(block - heap->data), &b));
    store32_release(&b.unit->class, SHR_CLASSES_MAX - 1);
    peer_kill(&guest);
    CHECK_OK(sharena_reap(heap, NULL));
    store32_release(&b.unit->class, b.class);
    check_heap(heap);
}

CASES(CASE_FOR(60, hundred_children), CASE_FOR(60, guests_outlive_their_parent),
      CASE(what_guests_held_goes_with_them), CASE_FOR(60, a_thousand_guests_pin_nothing_for_good),
      CASE(pins_are_not_inherited), CASE(guest_without_a_lock_keeps_only_its_own),
      CASE(second_releases_are_noticed), CASE(pins_that_could_not_be_made),
      CASE(unpinning_takes_no_memory), CASE(damage_ends_the_unpinning))
