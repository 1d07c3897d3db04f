/* Scenarios for killstep: handles on their way, from the first byte to the last reader. */
#include "scenarios.h"
#include "ticket.h"

#include <string.h>

/* ---- making ----------------------------------------------------------------------------- */

static void open_as(struct role *role, unsigned i, unsigned handle)
{
    CHECK_OK(
        sharena_export_open(role->heap, role->blocks[i], NULL, &role->stage->handles[handle]));
}

static void open_first(struct role *role)
{
    open_as(role, 0, 0);
}

static void opened_small(struct role *role)
{
    two_small(role);
    open_first(role);
}

static void opened_big(struct role *role)
{
    one_big(role);
    open_first(role);
}

static void join_first(struct role *role)
{
    sharena_handle *handles = role->stage->handles;
    CHECK_OK(sharena_export_open(role->heap, role->blocks[0], &handles[0], &handles[1]));
    CHECK_EQ(handles[0].ticket, handles[1].ticket);
}

/* All of it is claimed, as if by other threads. */
static void fill_first_segment(struct role *role)
{
    for (uint32_t i = 0; i < SHR_TICKET_FIRST; i++) {
        CHECK_OK(shr__chunk(role->heap, SHR_AT_TICKETS + i * sizeof(struct ticket_shm)));
        store64_relaxed(&shr__entry(role->heap, i)->word,
                        ticket_word(1, TICKET_CLAIMED, role->heap->slot + 1));
    }
    CHECK_EQ(load64_relaxed(&role->heap->control->ticket_segments), 0);
}

static void open_beyond(struct role *role)
{
    open_as(role, 1, 0);
    CHECK_EQ(load64_relaxed(&role->heap->control->ticket_segments), 1);
}

/* ---- places ----------------------------------------------------------------------------- */

static void place(struct role *role, uint32_t kind, uint64_t id)
{
    sharena_place at = {.kind = kind, .id = id, .where = id + 1};
    CHECK_OK(sharena_handle_place(role->heap, &role->stage->handles[0], &at));
}

static void place_loose(struct role *role)
{
    place(role, SHARENA_PLACE_LOOSE, 0);
}

static void place_pipe(struct role *role)
{
    place(role, SHARENA_PLACE_PIPE, 7);
}

static void place_child(struct role *role)
{
    place(role, SHARENA_PLACE_CHILD, 8);
}

static void placed_small(struct role *role)
{
    opened_small(role);
    place_pipe(role);
}

static void placed_socket(struct role *role)
{
    opened_big(role);
    place(role, SHARENA_PLACE_SOCKET, 9);
}

static void keep(struct role *role)
{
    CHECK_OK(sharena_handle_keep(role->heap, &role->stage->handles[0]));
}

static void give_back(struct role *role)
{
    CHECK_OK(sharena_give_back(role->heap, &role->stage->handles[0]));
}

/* In a pipe; nothing else keeps the block. */
static void partner_places_and_drops(struct role *role)
{
    make(role, 0, SMALL);
    export_to(role, 0, 0, 1);
    place_pipe(role);
    drop(role, 0);
}

static void partner_opens(struct role *role)
{
    make(role, 0, SMALL);
    open_first(role);
    drop(role, 0);
}

/* ---- loading ---------------------------------------------------------------------------- */

static void partner_sends_two_uses(struct role *role)
{
    make(role, 0, SMALL);
    export_to(role, 0, 0, 2);
    drop(role, 0);
}

/* It holds the block itself: a load works, whatever becomes of the tickets. */
static void partner_sends_and_holds(struct role *role)
{
    make(role, 0, SMALL);
    export_to(role, 0, 0, 1);
}

static void partner_sends_two_messages(struct role *role)
{
    partner_sends_and_holds(role);
    export_to(role, 0, 1, 1);
}

static void load_and_drop(struct role *role)
{
    load(role, 0, 0);
    drop(role, 0);
}

/* Of a block that it loaded; the other use is unspent. */
static void open_first_anew(struct role *role)
{
    open_as(role, 0, 1);
}

/* ---- ending ----------------------------------------------------------------------------- */

/* Nobody reads anything any more. */
static int all_are_dead(const sharena_inquiry *inquiry, void *argument)
{
    (void)argument;
    memset(inquiry->dead, 1, inquiry->n_places);
    return 0;
}

static void judge_all_dead(struct role *role)
{
    (void)role;
    sharena_set_judge(all_are_dead, NULL);
}

static void reap(struct role *role)
{
    CHECK_OK(sharena_reap(role->heap, NULL));
}

static void expire_all(struct role *role)
{
    CHECK_OK(sharena_ticket_expire(role->heap, 0, NULL));
}

static void victim_opens(struct role *role)
{
    make(role, 0, SMALL);
    make(role, 1, BIG);
    open_as(role, 0, 0);
    open_as(role, 1, 1);
    drop(role, 1);
}

/* Killed between the claim and the publish, twice; one of them holds nothing else. */
static void victim_claims(struct role *role)
{
    two_small(role);
    for (unsigned i = 0; i < 2; i++) {
        sharena_block block;
        uint64_t offset = (uint64_t)((uint8_t *)role->blocks[i] - role->heap->data), word;
        uint32_t at;
        CHECK_OK(sharena_find(role->heap, role->blocks[i], &block));
        struct shard *d = shr__lock(role->heap, offset >> SHR_UNIT_SHIFT);
        CHECK_OK(shr__entry_claim(role->heap, d, offset, block.number, &at, &word));
        shr__unlock(d);
        CHECK_EQ(ticket_state(word), TICKET_CLAIMED);
    }
}

/* Messages of unknown channels, the oldest first. */
static void victim_sends_three(struct role *role)
{
    for (unsigned i = 0; i < 3; i++) {
        make(role, i, BIG);
        export_to(role, i, i, 1);
        store64_relaxed(&shr__entry(role->heap, role->stage->handles[i].ticket)->made_ms, i + 1);
        drop(role, i);
    }
}

static void make_two_give_way(struct role *role)
{
    struct shr_shortage shortage = {.code = SHARENA_EFULL, .units = 2, .align = 1};
    CHECK_EQ(shr__tickets_give_way(role->heap, &shortage, 0), 1);
}

/* ---- verifying -------------------------------------------------------------------------- */

/* But for those of the living. */
static void no_claims(struct role *role)
{
    uint32_t end = shr__entries(role->heap);
    for (uint32_t i = shr__entry_next(role->heap, 0); i < end;
         i = shr__entry_next(role->heap, i + 1)) {
        uint64_t word = load64_relaxed(&shr__entry(role->heap, i)->word);
        if (!ticket_live(word))
            CHECK_EQ(ticket_uses(word), role->stage->partner_slot + 1);
    }
}

/* No byte has left: everything ends with its maker. */
static void nothing_is_left(struct role *role)
{
    CHECK_EQ(stats_of(role->heap).tickets, 0);
    no_claims(role);
}

/* What is on its way can be had as long as somebody may read its channel, and no longer. */
static void verdict_ends_it(struct role *role)
{
    sent_block_is_whole_or_gone(role);
    judge_all_dead(role);
    reap(role);
    nothing_is_left(role);
}

/* Killed before it was kept, it is in the channel only. */
static void kept_or_ended(struct role *role)
{
    no_claims(role);
    judge_all_dead(role);
    reap(role);
    CHECK_LE(stats_of(role->heap).tickets, 1);
    sent_block_is_whole_or_gone(role);
}

static void whole_or_gone(struct role *role)
{
    no_claims(role);
    sent_block_is_whole_or_gone(role);
}

/* None before an older one, and never the third. */
static void oldest_are_gone(struct role *role)
{
    sharena_block block;
    int codes[3];
    no_claims(role);
    for (int i = 0; i < 3; i++) {
        codes[i] = sharena_acquire(role->heap, &role->stage->handles[i], &block);
        CHECK(codes[i] == 0 || codes[i] == SHARENA_ESTALE);
        if (codes[i] == 0) {
            CHECK_EQ(*(uint8_t *)block.start, 0x5a);
            CHECK_OK(sharena_release(role->heap, block.start));
        }
    }
    CHECK(codes[0] == SHARENA_ESTALE || codes[1] == 0);
    CHECK_EQ(codes[2], 0);
}

const struct scenario ticket_scenarios[] = {
    {.name = "open",
     .prepare = two_small,
     .act = open_first,
     .verify = nothing_is_left,
     .flags = STEP_ENDS},
    {.name = "open_big",
     .prepare = one_big,
     .act = open_first,
     .verify = nothing_is_left,
     .flags = STEP_ENDS},
    {.name = "open_join", .prepare = opened_small, .act = join_first, .verify = nothing_is_left},
    /* another's ticket of the block */
    {.name = "open_beside",
     .partner = partner_sends_two_uses,
     .prepare = load_small,
     .act = open_first_anew,
     .verify = whole_or_gone,
     .flags = STEP_ENDS},
    {.name = "acquire_only_message",
     .partner = partner_sends_and_holds,
     .act = load_small,
     .verify = whole_or_gone,
     .flags = STEP_ENDS},
    {.name = "acquire_one_of_two_messages",
     .partner = partner_sends_two_messages,
     .act = load_small,
     .verify = whole_or_gone,
     .flags = STEP_ENDS},
    {.name = "open_new_segment",
     .partner = fill_first_segment,
     .prepare = two_small,
     .act = open_beyond,
     .verify = no_claims},
    {.name = "place_loose", .prepare = opened_small, .act = place_loose, .verify = whole_or_gone},
    {.name = "place_pipe", .prepare = opened_small, .act = place_pipe, .verify = verdict_ends_it},
    {.name = "place_child", .prepare = opened_big, .act = place_child, .verify = verdict_ends_it},
    {.name = "place_again", .prepare = placed_small, .act = place_pipe, .verify = kept_or_ended},
    {.name = "place_another",
     .prepare = placed_socket,
     .act = place_child,
     .verify = kept_or_ended},
    {.name = "keep", .partner = partner_places_and_drops, .act = keep, .verify = kept_or_ended},
    {.name = "give_back_open",
     .prepare = opened_big,
     .act = give_back,
     .verify = nothing_is_left,
     .flags = STEP_ENDS},
    {.name = "give_back_placed",
     .prepare = placed_small,
     .act = give_back,
     .verify = verdict_ends_it},
    {.name = "acquire_first_use",
     .partner = partner_sends_two_uses,
     .act = load_small,
     .verify = whole_or_gone},
    {.name = "acquire_last_use",
     .partner = partner_sends_two_uses,
     .prepare = load_and_drop,
     .act = load_small,
     .verify = whole_or_gone},
    {.name = "acquire_placed",
     .partner = partner_places_and_drops,
     .act = load_and_drop,
     .verify = verdict_ends_it},
    {.name = "sweep_open",
     .victim = victim_opens,
     .act = reap,
     .verify = nothing_is_left,
     .flags = STEP_DIES_LATE},
    {.name = "sweep_judged",
     .partner = partner_places_and_drops,
     .prepare = judge_all_dead,
     .act = reap,
     .verify = verdict_ends_it},
    {.name = "expire_open",
     .partner = partner_opens,
     .act = expire_all,
     .verify = whole_or_gone,
     .flags = STEP_ENDS},
    {.name = "reap_claims",
     .victim = victim_claims,
     .act = reap,
     .verify = nothing_is_left,
     .flags = STEP_DIES_LATE},
    {.name = "give_way",
     .victim = victim_sends_three,
     .act = make_two_give_way,
     .verify = oldest_are_gone},
    {.name = NULL},
};
