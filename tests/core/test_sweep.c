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

CASES(CASE(only_the_dead_give_way_oldest_first), CASE(message_of_the_dead_is_given_back),
      CASE(the_judge_ends_what_nobody_can_read), CASE(places_move_once),
      CASE(nothing_gives_way_in_vain))
