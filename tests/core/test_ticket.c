/* ticket.c: a block on its way is kept by its handle, exactly as long as it should. */
#include "harness.h"
#include "internal.h"

#include <sharena/registry.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void *load(sharena_heap *heap, const sharena_handle *handle)
{
    sharena_block block;
    CHECK_OK(sharena_acquire(heap, handle, &block));
    CHECK_EQ(*(uint8_t *)block.start, 0x42);
    return block.start;
}

static const size_t sizes[] = {40, 3000, 32768, 100000, 3000000};
enum { SIZES = 5 };

static void handle_keeps_the_block(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    for (int s = 0; s < SIZES; s++) {
        void *block = make_block(heap, sizes[s]);
        sharena_handle handle = export_of(heap, block, 1);
        CHECK_EQ(sizeof handle, 64);
        CHECK_OK(sharena_release(heap, block));
        sharena_stats stats = stats_of(heap);
        CHECK_EQ(stats.blocks, 1);
        CHECK_EQ(stats.tickets, 1);
        CHECK_LE(sizes[s], stats.inflight_bytes);
        CHECK_EQ(stats.inflight_bytes, stats.live_bytes);
        void *again = load(heap, &handle);
        CHECK_EQ((uintptr_t)again, (uintptr_t)block);
        CHECK_EQ(stats_of(heap).tickets, 0);
        CHECK_EQ(stats_of(heap).inflight_bytes, 0);
        CHECK_OK(sharena_release(heap, again));
        sharena_block stale;
        CHECK_EQ(sharena_acquire(heap, &handle, &stale), SHARENA_ESTALE);
        check_baseline(heap, &before);
    }
}

static void each_load_spends_one_use(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    for (unsigned uses = 1; uses <= 128; uses += uses < 16 ? 1 : 56) {
        void *block = make_block(heap, 5000);
        sharena_handle handle = export_of(heap, block, uses);
        CHECK_OK(sharena_release(heap, block));
        for (unsigned i = 0; i < uses; i++) {
            CHECK_EQ(stats_of(heap).blocks, 1);
            CHECK_OK(sharena_release(heap, load(heap, &handle)));
        }
        sharena_block stale;
        CHECK_EQ(sharena_acquire(heap, &handle, &stale), SHARENA_ESTALE);
    }
    check_baseline(heap, &before);
}

static void loaded_more_often_works_while_held(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *block = make_block(heap, 5000);
    sharena_handle handle = export_of(heap, block, 1);
    for (unsigned i = 0; i < 50; i++)
        load(heap, &handle);
    for (unsigned i = 0; i < 51; i++)
        CHECK_OK(sharena_release(heap, block));
    CHECK_EQ(stats_of(heap).blocks, 0);
}

/* Many handles of one block, spent in another order, one given back. */
static void load_weak(struct peer *parent, void *argument)
{
    const sharena_handle *handle = argument;
    sharena_heap *heap = sharena_heap_by_uuid(handle->heap);
    sharena_block block;
    peer_await(parent); /* the maker has let go, this child has not */
    CHECK_OK(sharena_acquire(heap, handle, &block));
    CHECK_OK(sharena_release(heap, block.start));
    CHECK_OK(sharena_release(heap, block.start));
    CHECK_EQ(sharena_acquire(heap, handle, &block), SHARENA_ESTALE);
}

/* It has no ticket: it lives and dies with the holders. */
static void a_weak_handle_keeps_nothing(void)
{
    sharena_heap *heap = scratch_heap(64 << 20, 64 << 20);
    sharena_handle handle, big;
    sharena_block block;
    struct peer child;
    void *small = make_block(heap, 100), *large = make_block(heap, 1000000);
    CHECK_OK(sharena_export_weak(heap, small, &handle));
    CHECK_OK(sharena_export_weak(heap, large, &big));
    CHECK_EQ(stats_of(heap).tickets, 0);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(sharena_acquire(heap, &handle, &block));
        CHECK(block.start == small);
        CHECK_OK(sharena_release(heap, small));
    }
    peer_start(&child, load_weak, &handle);
    CHECK_OK(sharena_release(heap, small));
    peer_tell(&child);
    peer_join(&child);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(sharena_acquire(heap, &handle, &block), SHARENA_ESTALE);
    CHECK_OK(sharena_release(heap, large));
    CHECK_EQ(sharena_acquire(heap, &big, &block), SHARENA_ESTALE);
    CHECK_EQ(sharena_export_weak(heap, large, &big), SHARENA_ENOTHELD);
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

static void many_handles_of_one_block(void)
{
    enum { N = 500 };
    static sharena_handle handles[N];
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    uint64_t random = test_seed();
    void *block = make_block(heap, 100000);
    for (unsigned i = 0; i < N; i++)
        handles[i] = export_of(heap, block, 1 + i % 3);
    CHECK_OK(sharena_release(heap, block));
    for (unsigned i = N; i-- > 0;) {
        unsigned j = (unsigned)(random_next(&random) % (i + 1));
        sharena_handle handle = handles[j];
        handles[j] = handles[i];
        CHECK_EQ(stats_of(heap).blocks, 1);
        if (i % 5 == 0)
            CHECK_OK(sharena_give_back(heap, &handle));
        else
            for (unsigned u = 0; u < handle.uses; u++)
                CHECK_OK(sharena_release(heap, load(heap, &handle)));
    }
    check_baseline(heap, &before);
}

static void given_back_is_gone(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    for (int s = 0; s < SIZES; s++) {
        void *block = make_block(heap, sizes[s]);
        sharena_handle handle = export_of(heap, block, 7);
        CHECK_OK(sharena_give_back(heap, &handle));
        CHECK_EQ(stats_of(heap).tickets, 0);
        sharena_give_back(heap, &handle); /* twice must not hurt anybody */
        sharena_handle other = export_of(heap, block, 1);
        sharena_give_back(heap, &handle);
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(stats_of(heap).blocks, 1);
        CHECK_OK(sharena_release(heap, load(heap, &other)));
    }
    check_baseline(heap, &before);
}

static void number_of_entries_is_bounded_by_refusal(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_stats before = stats_of(heap);
    unsigned made = 0;
    int code = 0;
    void *block = make_block(heap, 100);
    sharena_handle handle;
    while (made < 3000000 && (code = sharena_export(heap, block, 16, &handle)) == 0)
        made++;
    CHECK_EQ(code, SHARENA_ETICKETS);
    CHECK_LE(100, made);
    CHECK(strlen(sharena_detail()) > 10);
    void *other = make_block(heap, 100000); /* others are not in the way */
    CHECK_OK(sharena_export(heap, other, 1, &handle));
    size_t expired = 0;
    CHECK_OK(sharena_ticket_expire(heap, 0, &expired));
    CHECK_EQ(made + 1, expired);
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_release(heap, other));
    check_baseline(heap, &before);
}

static int count_ticket(const sharena_ticket *ticket, void *argument)
{
    unsigned *seen = argument;
    CHECK_EQ(ticket->exporter, getpid());
    CHECK_EQ(ticket->exporter_alive, 1);
    CHECK_LE(1, ticket->uses);
    CHECK_LE(100, ticket->size_bytes);
    return ++*seen == 7;
}

static void tickets_are_listed_and_expire_by_age(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *block = make_block(heap, 100);
    unsigned seen = 0;
    size_t expired = 99;
    for (int i = 0; i < 5; i++) {
        void *b = make_block(heap, 200);
        export_of(heap, b, 1);
        CHECK_OK(sharena_release(heap, b));
    }
    export_of(heap, block, 3);
    CHECK_OK(sharena_ticket_list(heap, count_ticket, &seen));
    CHECK_EQ(seen, 6);
    CHECK_OK(sharena_ticket_expire(heap, 3600000, &expired));
    CHECK_EQ(expired, 0);
    CHECK_EQ(stats_of(heap).blocks, 6);
    CHECK_OK(sharena_ticket_expire(heap, 0, &expired));
    CHECK_EQ(expired, 6);
    CHECK_EQ(stats_of(heap).blocks, 1);
    seen = 0;
    CHECK_OK(sharena_ticket_list(heap, count_ticket, &seen));
    CHECK_EQ(seen, 0);
}

/* Views of one block in one message share a ticket; another message has its own. */
static void one_message_one_ticket_a_block(void)
{
    enum { N = 300 };
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    sharena_handle handles[N], other;
    void *block = make_block(heap, 100000);
    CHECK_OK(sharena_export_open(heap, block, NULL, &handles[0]));
    CHECK_OK(sharena_export_open(heap, block, NULL, &other));
    for (int i = 1; i < N; i++)
        CHECK_OK(sharena_export_open(heap, block, &handles[0], &handles[i]));
    CHECK_EQ(stats_of(heap).tickets, 2);
    CHECK_OK(sharena_give_back(heap, &other));
    CHECK_OK(sharena_release(heap, block));
    for (int i = 0; i < N; i++) {
        CHECK_EQ(stats_of(heap).tickets, 1);
        CHECK_OK(sharena_release(heap, load(heap, &handles[i])));
    }
    check_baseline(heap, &before);
}

/* Each of more blocks than the first segments have room for, and every one found again. */
static void the_table_grows(void)
{
    enum { N = 60000 };
    static sharena_handle handles[N];
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    sharena_stats before = stats_of(heap);
    for (int i = 0; i < N; i++) {
        void *block = make_block(heap, 64);
        handles[i] = export_of(heap, block, 1);
        CHECK_OK(sharena_release(heap, block));
    }
    CHECK_EQ(stats_of(heap).tickets, N);
    CHECK_LE((uint64_t)N * 64, stats_of(heap).inflight_bytes);
    for (int i = 0; i < N; i++)
        CHECK_OK(sharena_release(heap, load(heap, &handles[(i * 7919) % N])));
    before.committed_bytes = stats_of(heap).committed_bytes; /* tables stay */
    before.metadata_bytes = stats_of(heap).metadata_bytes;
    check_baseline(heap, &before);
}

static void full_heap_names_the_tickets(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 64 * MIB);
    void *block;
    for (int i = 0; i < 12; i++) {
        int code = sharena_allocate(heap, MIB, 0, 0, &block);
        CHECK_OK(code);
        export_of(heap, block, 1);
        CHECK_OK(sharena_release(heap, block));
    }
    int code = sharena_allocate(heap, 10 * MIB, 0, 0, &block);
    if (code != 0) {
        CHECK_EQ(code, SHARENA_EFULL);
        CHECK(strstr(sharena_detail(), "handle") || strstr(sharena_detail(), "ticket"));
    }
}

/* Any bytes are safe to pass. */
static void random_handles_are_refused(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    uint64_t random = test_seed();
    sharena_block block = {.start = NULL};
    sharena_stats before;
    void *held[6];
    for (int i = 0; i < 6; i++)
        held[i] = make_block(heap, 30u << (i * 3));
    sharena_handle good = export_of(heap, held[0], 1);
    before = stats_of(heap);
    for (unsigned i = 0; i < 200000; i++) {
        sharena_handle bad = good;
        uint64_t word = random_next(&random);
        uint8_t *bytes = (uint8_t *)&bad;
        if (i % 4 == 0) {
            for (size_t b = 16; b < sizeof bad; b++)
                bytes[b] = (uint8_t)random_next(&random);
        } else if (i % 4 == 1) {
            bad.offset = word >> (word % 44 + 20);
            bad.number = random_next(&random) % 64;
        } else {
            bytes[16 + word % 48] ^= (uint8_t)(1u << (word >> 32) % 8);
        }
        int code = sharena_acquire(heap, &bad, &block);
        if (code == 0) /* the fields that name the block were right */
            CHECK_OK(sharena_release(heap, block.start));
        sharena_give_back(heap, &bad);
    }
    check_heap(heap);
    CHECK_EQ(stats_of(heap).live_bytes, before.live_bytes);
    for (int i = 0; i < 6; i++)
        CHECK_EQ(*(uint8_t *)held[i], 0x42);
}

static void foreign_handles_say_so(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB),
                 *other = scratch_heap(64 * MIB, 64 * MIB);
    sharena_heap *found = NULL;
    sharena_block block;
    void *mine = make_block(heap, 100);
    sharena_handle handle = export_of(heap, mine, 1), remote = handle, unknown = handle;
    CHECK_EQ(sharena_acquire(other, &handle, &block), SHARENA_EINVAL);
    remote.machine ^= 0x1000;
    remote.heap[3] ^= 1;
    CHECK_EQ(sharena_attach_handle(&remote, &found), SHARENA_EREMOTE);
    unknown.heap[3] ^= 1;
    CHECK_EQ(sharena_attach_handle(&unknown, &found), SHARENA_ENOTFOUND);
    CHECK_OK(sharena_attach_handle(&handle, &found));
    CHECK(found == heap);
}

/* ---- between processes ---------------------------------------------------------------------------- */

static void export_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle handle;
    bool big = *(bool *)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *block = make_block(heap, big ? 500000 : 500);
    handle = export_of(heap, block, 2);
    CHECK_OK(sharena_release(heap, block));
    peer_send(parent, &handle, sizeof handle);
    for (;;)
        pause();
}

/* The sender may be stopped or killed: the handle works, and the last drop frees. */
static void sender_is_gone(bool big, int signal_number)
{
    struct peer peer;
    sharena_handle handle;
    peer_start(&peer, export_and_wait, &big);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_receive(&peer, &handle, sizeof handle);
    CHECK_EQ(kill(peer.pid, signal_number), 0);
    if (signal_number == SIGKILL) {
        peer_end(&peer);
        CHECK_OK(sharena_reap(heap, NULL));
    } else {
        await_child(peer.pid, WUNTRACED);
    }
    CHECK_EQ(stats_of(heap).blocks, 1);
    CHECK_OK(sharena_release(heap, load(heap, &handle)));
    CHECK_EQ(stats_of(heap).blocks, 1);
    CHECK_OK(sharena_release(heap, load(heap, &handle)));
    CHECK_EQ(stats_of(heap).blocks, 0);
    if (signal_number != SIGKILL)
        peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    check_baseline(heap, &before);
}

static void killed_sender_small(void)
{
    sender_is_gone(false, SIGKILL);
}

static void killed_sender_big(void)
{
    sender_is_gone(true, SIGKILL);
}

static void stopped_sender_small(void)
{
    sender_is_gone(false, SIGSTOP);
}

static void stopped_sender_big(void)
{
    sender_is_gone(true, SIGSTOP);
}

/* A receiver that needs the heap first finds it through the handle, even when the sender
 * is gone, as long as anyone has it. */
static void attach_through_handle(struct peer *parent, void *argument)
{
    sharena_handle handle;
    sharena_heap *heap;
    (void)argument;
    peer_receive(parent, &handle, sizeof handle);
    CHECK_OK(sharena_attach_handle(&handle, &heap));
    CHECK_OK(sharena_release(heap, load(heap, &handle)));
    CHECK_OK(sharena_detach(heap));
}

static void receiver_attaches_through_the_handle(void)
{
    struct peer sender, receiver;
    sharena_handle handle;
    bool big = false;
    peer_start(&sender, export_and_wait, &big);
    peer_start(&receiver, attach_through_handle, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&sender, &address, sizeof address);
    peer_receive(&sender, &handle, sizeof handle);
    peer_kill(&sender);
    peer_send(&receiver, &handle, sizeof handle);
    peer_join(&receiver);
}

/* Two receivers of one handle: every use is spent once, whatever the interleaving. */
static void load_all(struct peer *parent, void *argument)
{
    struct heap_address address;
    unsigned n = *(unsigned *)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_tell(parent);
    for (unsigned i = 0; i < n; i++) {
        sharena_handle handle;
        peer_receive(parent, &handle, sizeof handle);
        CHECK_OK(sharena_release(heap, load(heap, &handle)));
        peer_tell(parent);
    }
    CHECK_OK(sharena_detach(heap));
}

static void receivers_race_for_uses(void)
{
    struct peer peers[3];
    unsigned n = 3000;
    for (int p = 0; p < 3; p++)
        peer_start(&peers[p], load_all, &n);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    sharena_stats before = stats_of(heap);
    for (int p = 0; p < 3; p++) {
        peer_send(&peers[p], &address, sizeof address);
        peer_await(&peers[p]);
    }
    for (unsigned i = 0; i < n; i++) {
        void *block = make_block(heap, i % 2 ? 100 : 70000);
        sharena_handle handle = export_of(heap, block, 3);
        CHECK_OK(sharena_release(heap, block));
        for (int p = 0; p < 3; p++)
            peer_send(&peers[p], &handle, sizeof handle);
        for (int p = 0; p < 3; p++)
            peer_await(&peers[p]);
    }
    for (int p = 0; p < 3; p++)
        peer_join(&peers[p]);
    check_baseline(heap, &before);
}

CASES(CASE(handle_keeps_the_block), CASE(each_load_spends_one_use),
      CASE(loaded_more_often_works_while_held), CASE(a_weak_handle_keeps_nothing),
      CASE(many_handles_of_one_block), CASE(given_back_is_gone),
      CASE(number_of_entries_is_bounded_by_refusal), CASE(tickets_are_listed_and_expire_by_age),
      CASE(one_message_one_ticket_a_block), CASE(the_table_grows),
      CASE(full_heap_names_the_tickets), CASE(random_handles_are_refused),
      CASE(foreign_handles_say_so), CASE(killed_sender_small), CASE(killed_sender_big),
      CASE(stopped_sender_small), CASE(stopped_sender_big),
      CASE(receiver_attaches_through_the_handle), CASE(receivers_race_for_uses))
