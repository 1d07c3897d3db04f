/* sweep.c: what nobody can receive ends, and nothing else does. */
#include "harness.h"
#include "internal.h"

#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

/* Three messages, told by the sizes of their blocks; then its maker ends. */
static void export_three(struct peer *parent, void *argument)
{
    struct heap_address address;
    int how = *(int *)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int i = 0; i < 3; i++) {
        sharena_place place = {.kind = SHARENA_PLACE_PIPE, .id = (uint64_t)i + 1};
        sharena_handle handle;
        void *b = make_block(heap, 3 * MIB);
        if (how == SHARENA_PLACE_OPEN)
            CHECK_OK(sharena_export_open(heap, b, NULL, &handle));
        else
            handle = export_of(heap, b, 1);
        if (how == SHARENA_PLACE_PIPE)
            CHECK_OK(sharena_handle_place(heap, &handle, &place));
        CHECK_OK(sharena_release(heap, b));
        peer_send(parent, &handle, sizeof handle);
    }
    for (;;)
        pause();
}

struct three {
    struct peer peer;
    sharena_heap *heap;
    sharena_handle handles[3];
};

static void start_three(struct three *t, int how)
{
    peer_start(&t->peer, export_three, &how);
    t->heap = scratch_heap(16 * MIB, 64 * MIB);
    struct heap_address address = address_of(t->heap);
    peer_send(&t->peer, &address, sizeof address);
    for (int i = 0; i < 3; i++)
        peer_receive(&t->peer, &t->handles[i], sizeof t->handles[i]);
}

static bool loads(sharena_heap *heap, const sharena_handle *handle)
{
    sharena_block block;
    return sharena_acquire(heap, handle, &block) == 0;
}

static void only_the_dead_give_way_oldest_first(void)
{
    struct three t;
    void *big;
    start_three(&t, SHARENA_PLACE_LOOSE);
    CHECK_EQ(sharena_allocate(t.heap, 8 * MIB, 0, 0, &big), SHARENA_EFULL);
    CHECK_EQ(stats_of(t.heap).tickets, 3); /* its maker lives: it may be asked for them */
    peer_kill(&t.peer);
    CHECK_OK(sharena_reap(t.heap, NULL));
    CHECK_EQ(stats_of(t.heap).tickets, 3); /* no shortage: they stay, for days */
    for (int i = 0; i < 3; i++) /* the third doesn't fit beside them */
        CHECK_OK(sharena_allocate(t.heap, 5 * MIB / 2, 0, 0, &big));
    CHECK(!loads(t.heap, &t.handles[0]));
    CHECK(loads(t.heap, &t.handles[2]));
    check_heap(t.heap);
}

/* The bytes never left a process that died while it wrote them. */
static void message_of_the_dead_is_given_back(void)
{
    struct three t;
    start_three(&t, SHARENA_PLACE_OPEN);
    CHECK_OK(sharena_reap(t.heap, NULL));
    CHECK_EQ(stats_of(t.heap).tickets, 3);
    peer_kill(&t.peer);
    CHECK_OK(sharena_reap(t.heap, NULL));
    CHECK_EQ(stats_of(t.heap).blocks, 0);
    check_heap(t.heap);
}

/* What a judge was asked, and what it shall say: place n is dead if bit n is set. */
static struct {
    unsigned asked, dead;
    int stops;
    size_t places, members;
} court;

static int judged(const sharena_inquiry *inquiry, void *argument)
{
    CHECK(argument == &court);
    court.asked++;
    court.places = inquiry->n_places;
    court.members = inquiry->n_members;
    CHECK_EQ(inquiry->mode, 0600);
    for (size_t i = 0; i < inquiry->n_places; i++) {
        CHECK_EQ(inquiry->places[i].kind, SHARENA_PLACE_PIPE);
        inquiry->dead[i] = court.dead >> inquiry->places[i].id & 1;
    }
    return court.stops;
}

static void the_judge_ends_what_nobody_can_read(void)
{
    struct three t;
    void *big;
    start_three(&t, SHARENA_PLACE_PIPE);
    sharena_set_judge(judged, &court);
    CHECK_OK(sharena_reap(t.heap, NULL));
    CHECK_EQ(court.asked, 1);
    CHECK_EQ(court.places, 3);
    CHECK_EQ(court.members, 2);
    CHECK_EQ(stats_of(t.heap).tickets, 3);
    court.dead = 1u << 2;
    CHECK_OK(sharena_reap(t.heap, NULL));
    CHECK(!loads(t.heap, &t.handles[1]));
    peer_kill(&t.peer); /* a message in a living channel outlives its maker, and a shortage */
    CHECK_EQ(sharena_allocate(t.heap, 12 * MIB, 0, 0, &big), SHARENA_EFULL);
    CHECK_EQ(stats_of(t.heap).tickets, 2);
    CHECK(loads(t.heap, &t.handles[0]));
    court.stops = 1; /* as by Ctrl-C */
    CHECK_EQ(sharena_reap(t.heap, NULL), SHARENA_EINTERRUPTED);
    CHECK_EQ(sharena_allocate(t.heap, 11 * MIB, 0, 0, &big), SHARENA_EINTERRUPTED);
    court.stops = 0;
    court.dead = ~0u;
    CHECK_OK(sharena_allocate(t.heap, 11 * MIB, 0, 0, &big)); /* asked before a refusal */
    CHECK(!loads(t.heap, &t.handles[2]));
    check_heap(t.heap);
}

static int find_ticket(const sharena_ticket *t, void *argument)
{
    sharena_ticket *wanted = argument;
    if (t->entry != wanted->entry)
        return 0;
    *wanted = *t;
    return 1;
}

static uint32_t kind_of(sharena_heap *heap, const sharena_handle *handle)
{
    sharena_ticket t = {.entry = handle->ticket};
    CHECK_OK(sharena_ticket_list(heap, find_ticket, &t));
    return t.place.kind;
}

static void places_move_once(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_place a = {.kind = SHARENA_PLACE_PIPE, .id = 7},
                  b = {.kind = SHARENA_PLACE_PIPE, .id = 8},
                  loose = {.kind = SHARENA_PLACE_LOOSE};
    sharena_handle handle;
    void *block = make_block(heap, 1000);
    CHECK_OK(sharena_export_open(heap, block, NULL, &handle));
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_OPEN);
    CHECK_OK(sharena_handle_keep(heap, &handle)); /* nobody can have it yet */
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_OPEN);
    CHECK_OK(sharena_handle_place(heap, &handle, &loose));
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    CHECK_OK(sharena_handle_place(heap, &handle, &a));
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_PIPE);
    CHECK_OK(sharena_handle_place(heap, &handle, &a)); /* the same bytes, sent twice */
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    CHECK_OK(sharena_handle_place(heap, &handle, &b));
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    CHECK_OK(sharena_give_back(heap, &handle)); /* the second send failed, the first did not */
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    CHECK(loads(heap, &handle));
    CHECK_EQ(sharena_handle_place(heap, &handle, &a), SHARENA_ESTALE);
    CHECK_EQ(sharena_handle_keep(heap, &handle), SHARENA_ESTALE);

    handle = export_of(heap, block, 2);
    CHECK_OK(sharena_handle_place(heap, &handle, &b));
    CHECK_OK(sharena_handle_keep(heap, &handle)); /* taken raw, and sent on */
    CHECK_OK(sharena_handle_place(heap, &handle, &a));
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    CHECK(loads(heap, &handle));
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    CHECK(loads(heap, &handle));
    CHECK_EQ(stats_of(heap).tickets, 0);
}

/* Nothing is ended that does not help: too little in all, or kept by others as well. */
static void nothing_gives_way_in_vain(void)
{
    struct three t;
    void *big;
    start_three(&t, SHARENA_PLACE_LOOSE);
    sharena_block held;
    CHECK_OK(sharena_acquire(t.heap, &t.handles[1], &held));
    peer_kill(&t.peer);
    CHECK_OK(sharena_reap(t.heap, NULL));
    CHECK_EQ(stats_of(t.heap).tickets, 2);
    CHECK_EQ(sharena_allocate(t.heap, 13 * MIB, 0, 0, &big), SHARENA_EFULL);
    CHECK_EQ(stats_of(t.heap).tickets, 2); /* all of them would not do */
    sharena_handle other = export_of(t.heap, held.start, 1);
    CHECK_OK(sharena_allocate(t.heap, 10 * MIB, 0, 0, &big));
    CHECK(!loads(t.heap, &t.handles[0]));
    CHECK(loads(t.heap, &other));
    check_heap(t.heap);
}

/* A block counts once, however many handles there are of it. */
static void export_one_often(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *b = make_block(heap, 8 * MIB);
    for (int i = 0; i < 20; i++)
        export_of(heap, b, 1);
    CHECK_OK(sharena_release(heap, b));
    peer_tell(parent);
    for (;;)
        pause();
}

static void many_handles_free_no_more_than_one(void)
{
    struct peer peer;
    void *held, *big;
    peer_start(&peer, export_one_often, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 512 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    peer_kill(&peer);
    CHECK_OK(sharena_allocate(heap, 30 * MIB, 0, 0, &held));
    CHECK_EQ(sharena_allocate(heap, 50 * MIB, 0, 0, &big), SHARENA_EFULL);
    CHECK(strstr(sharena_detail(), "(8 MiB are held only by handles") != NULL);
    CHECK_EQ(stats_of(heap).tickets, 20);
    CHECK_OK(sharena_allocate(heap, 30 * MIB, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets, 0);
    check_heap(heap);
}

/* Four messages of a dead maker between blocks of the living. */
static void export_between(struct peer *parent, void *argument)
{
    struct heap_address address;
    size_t size = *(size_t *)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int i = 0; i < 4; i++) {
        peer_await(parent);
        void *b = make_block(heap, size);
        export_of(heap, b, 1);
        CHECK_OK(sharena_release(heap, b));
        peer_tell(parent);
    }
    for (;;)
        pause();
}

static sharena_heap *heap_of_both(uint64_t reserve, size_t held_size, size_t sent_size,
                                  void *held[4])
{
    struct peer peer;
    peer_start(&peer, export_between, &sent_size);
    sharena_heap *heap = scratch_heap(512 * MIB, reserve);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    for (int i = 0; i < 4; i++) {
        CHECK_OK(sharena_allocate(heap, held_size, 0, 0, &held[i]));
        peer_tell(&peer);
        peer_await(&peer);
    }
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    return heap;
}

static void no_stretch_no_victim(void)
{
    void *held[4], *big;
    sharena_heap *heap = heap_of_both(32 * MIB, 5 * MIB, 2 * MIB, held);
    CHECK_EQ(sharena_allocate(heap, 20 * MIB, 0, 0, &big), SHARENA_ERESERVE);
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_OK(sharena_release(heap, held[1])); /* 5 MiB between two of 2 */
    CHECK_OK(sharena_allocate(heap, 8 * MIB, 0, 0, &big));
    CHECK_LE(2, stats_of(heap).tickets);
    check_heap(heap);
}

/* Each of the messages is long enough, and covers no place that is aligned. */
static void no_aligned_stretch_no_victim(void)
{
    const size_t unit = SHR_UNIT;
    void *held[4], *big;
    sharena_heap *heap = heap_of_both(8 * MIB, 15 * unit, 17 * unit, held);
    CHECK_EQ(sharena_allocate(heap, 10 * unit, 2 * MIB, 0, &big), SHARENA_ERESERVE);
    CHECK_EQ(stats_of(heap).tickets, 4);
    CHECK_OK(sharena_allocate(heap, 10 * unit, 0, 0, &big));
    CHECK_EQ(stats_of(heap).tickets, 3);
    check_heap(heap);
}

/* A slab that a living process owns stays its own when it is empty. */
static void export_a_slab(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle first;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (int i = 0; i < 20; i++) {
        void *b = make_block(heap, 3000);
        sharena_handle handle = export_of(heap, b, 1);
        CHECK_OK(sharena_release(heap, b));
        if (i == 0)
            first = handle;
    }
    peer_send(parent, &first, sizeof first);
    for (;;)
        pause();
}

static void adopt_a_slab(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *b = make_block(heap, 3000);
    CHECK_OK(sharena_release(heap, b));
    peer_tell(parent);
    for (;;)
        pause();
}

static void a_slab_of_the_living_is_no_help(void)
{
    struct peer maker, owner;
    sharena_handle first;
    void *held, *big;
    peer_start(&maker, export_a_slab, NULL);
    peer_start(&owner, adopt_a_slab, NULL);
    sharena_heap *heap = scratch_heap(8 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&maker, &address, sizeof address);
    peer_receive(&maker, &first, sizeof first);
    peer_kill(&maker);
    CHECK_OK(sharena_reap(heap, NULL));
    peer_send(&owner, &address, sizeof address);
    peer_await(&owner);
    CHECK_EQ(stats_of(heap).slabs, 1);
    CHECK_EQ(stats_of(heap).abandoned_slabs, 0);
    while (sharena_allocate(heap, SHR_UNIT, 0, 0, &held) == 0)
        ;
    CHECK_EQ(sharena_allocate(heap, 4000, 0, 0, &big), SHARENA_EFULL); /* of another size */
    CHECK_EQ(sharena_allocate(heap, 3000, 0, 0, &big), SHARENA_EFULL); /* of that size */
    CHECK_EQ(stats_of(heap).tickets, 20);
    peer_kill(&owner);
    CHECK_OK(sharena_allocate(heap, 3000, 0, 0, &big));
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
}

/* The address space is full: a block of the size that is asked for does. */
static void a_block_for_a_block(void)
{
    struct peer maker;
    void *held, *small[64];
    sharena_handle first;
    sharena_block kept;
    int n = 0;
    peer_start(&maker, export_a_slab, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 8 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&maker, &address, sizeof address);
    peer_receive(&maker, &first, sizeof first);
    peer_kill(&maker);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_OK(sharena_acquire(heap, &first, &kept)); /* the slab can't go */
    while (sharena_allocate(heap, SHR_UNIT, 0, 0, &held) == 0)
        ;
    CHECK_EQ(stats_of(heap).tickets, 19);
    while (n < 64 && sharena_allocate(heap, 3000, 0, 0, &small[n]) == 0)
        n++;
    CHECK_LE(19, n);
    CHECK_EQ(stats_of(heap).tickets, 0);
    check_heap(heap);
}

/* A table full of a dead one's: who wants a handle gets one, for one of them each. */
static void fill_the_table(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_handle handle;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    void *block;
    for (unsigned i = 0; i < 30000; i++) {
        CHECK_OK(sharena_allocate(heap, 64, 0, 0, &block));
        (void)sharena_export(heap, block, 1, &handle);
    }
    peer_tell(parent);
    for (;;)
        pause();
}

static void a_handle_takes_the_place_of_one_of_the_dead(void)
{
    enum { N = 200 };
    struct peer peer;
    peer_start(&peer, fill_the_table, NULL);
    sharena_heap *heap = scratch_heap(8 * MIB, 16 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    peer_kill(&peer);
    CHECK_OK(sharena_reap(heap, NULL));
    uint64_t before = stats_of(heap).tickets;
    for (unsigned i = 0; i < N; i++)
        export_of(heap, make_block(heap, 100), 1);
    CHECK_LE(before, stats_of(heap).tickets); /* none was ended in vain */
    CHECK_LE(stats_of(heap).tickets, before + N);
    sharena_handle handle;
    void *block = make_block(heap, 100);
    before = stats_of(heap).tickets;
    for (unsigned i = 0; i < N; i++) /* in a message: nobody's place */
        (void)sharena_export_open(heap, block, NULL, &handle);
    CHECK_LE(before, stats_of(heap).tickets);
    check_heap(heap);
}

CASES(CASE(only_the_dead_give_way_oldest_first), CASE(message_of_the_dead_is_given_back),
      CASE(the_judge_ends_what_nobody_can_read), CASE(places_move_once),
      CASE(nothing_gives_way_in_vain), CASE(many_handles_free_no_more_than_one),
      CASE(no_stretch_no_victim), CASE(no_aligned_stretch_no_victim),
      CASE(a_slab_of_the_living_is_no_help), CASE(a_block_for_a_block),
      CASE(a_handle_takes_the_place_of_one_of_the_dead))
