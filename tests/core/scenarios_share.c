/* Scenarios for killstep: what processes share, and their coming and going. */
#include "scenarios.h"

#include <sharena/registry.h>
#include <string.h>
#include <unistd.h>

/* ---- tickets ---------------------------------------------------------------------------- */

static void send_first(struct role *role)
{
    export_to(role, 0, 2, 1);
}

static void send_first_again(struct role *role)
{
    export_to(role, 0, 3, 3);
}

static void give_back_first(struct role *role)
{
    CHECK_OK(sharena_give_back(role->heap, &role->stage->handles[0]));
}

static void expire_all(struct role *role)
{
    CHECK_OK(sharena_ticket_expire(role->heap, 0, NULL));
}

static void stale_handles(struct role *role)
{
    make(role, 0, SMALL);
    export_to(role, 0, 0, 1);
    drop(role, 0);
    CHECK_OK(sharena_ticket_expire(role->heap, 0, NULL));
}

static void load_stale(struct role *role)
{
    sharena_block block;
    CHECK_EQ(sharena_acquire(role->heap, &role->stage->handles[0], &block), SHARENA_ESTALE);
}

static void export_weak(struct role *role)
{
    CHECK_OK(sharena_export_weak(role->heap, role->blocks[0], &role->stage->handles[0]));
}

/* ---- names ------------------------------------------------------------------------------ */

static void partner_names(struct role *role)
{
    make(role, 0, SMALL);
    make(role, 1, BIG);
    CHECK_OK(sharena_name_set(role->heap, "a-small", role->blocks[0], "pay", 3));
    CHECK_OK(sharena_name_set(role->heap, "a-big", role->blocks[1], "load", 4));
}

static void name_small(struct role *role)
{
    CHECK_OK(sharena_name_set(role->heap, "a-new", role->blocks[0], "text", 4));
}

static void name_add(struct role *role)
{
    CHECK_OK(sharena_name_add(role->heap, "a-new", role->blocks[0], "text", 4));
}

static void name_add_in_vain(struct role *role)
{
    CHECK_EQ(sharena_name_add(role->heap, "a-big", role->blocks[0], "text", 4), SHARENA_EEXIST);
}

static void name_replace(struct role *role)
{
    CHECK_OK(sharena_name_set(role->heap, "a-small", role->blocks[0], "text", 4));
}

static void name_remove(struct role *role)
{
    CHECK_OK(sharena_name_remove(role->heap, "a-big"));
}

static void name_get(struct role *role)
{
    sharena_block block;
    char payload[8];
    size_t size = sizeof payload;
    CHECK_OK(sharena_name_get(role->heap, "a-big", &block, payload, &size));
    CHECK_EQ(size, 4);
}

/* A name leads to what it led to, or to the new block, or nowhere. */
static void names_are_old_or_new(struct role *role)
{
    const struct {
        const char *name, *first, *second;
    } known[] = {
        {"a-small", "pay", "text"}, {"a-big", "load", "load"}, {"a-new", "text", "text"}};
    for (int i = 0; i < 3; i++) {
        sharena_block block;
        char payload[16] = "";
        size_t size = sizeof payload - 1;
        int code = sharena_name_get(role->heap, known[i].name, &block, payload, &size);
        if (code == SHARENA_ENOTFOUND && i > 0)
            continue;
        CHECK_OK(code);
        payload[size] = 0;
        CHECK(strcmp(payload, known[i].first) == 0 || strcmp(payload, known[i].second) == 0);
        CHECK_EQ(*(uint8_t *)block.start, 0x5a);
        CHECK_OK(sharena_release(role->heap, block.start));
    }
}

/* ---- care, fork, coming and going ------------------------------------------------------- */

static void much_freed(struct role *role)
{
    for (unsigned i = 0; i < 6; i++)
        make(role, i, i % 2 ? BIG : HUGE_SMALL);
    for (unsigned i = 0; i < 5; i++)
        drop(role, i);
}

static void trim(struct role *role)
{
    CHECK_OK(sharena_trim(role->heap, NULL));
}

static void victim_holds_all_kinds(struct role *role)
{
    for (unsigned i = 0; i < 6; i++)
        make(role, i, i % 2 ? BIG : SMALL);
    export_to(role, 0, 0, 1);
    export_to(role, 1, 1, 1);
    export_to(role, 2, 2, 1);
    CHECK_OK(sharena_name_set(role->heap, "a-small", role->blocks[4], "pay", 3));
    drop(role, 1);
    drop(role, 2);
    make(role, 6, BIG); /* lies at hand */
    drop(role, 6);
}

static void partner_loads_all_kinds(struct role *role)
{
    load(role, 0, 0);
}

static void reap(struct role *role)
{
    CHECK_OK(sharena_reap(role->heap, NULL));
}

static void all_kinds(struct role *role)
{
    victim_holds_all_kinds(role);
    CHECK_OK(sharena_retain(role->heap, role->blocks[3]));
}

static void fork_here(struct role *role)
{
    if (fork() == 0) {
        /* The child's part: what it inherited is there, and it can work. */
        CHECK_EQ(*(uint8_t *)role->blocks[0], 0x5a);
        CHECK_OK(sharena_release(role->heap, role->blocks[0]));
        make(role, 62, SMALL);
    }
}

static void detach(struct role *role)
{
    CHECK_OK(sharena_detach(role->heap));
}

static void attach(struct role *role)
{
    role->heap = attach_to(&role->stage->address);
}

const struct scenario share_scenarios[] = {
    {.name = "export", .prepare = two_small, .act = send_first, .flags = STEP_ENDS},
    {.name = "export_big", .prepare = one_big, .act = send_first, .flags = STEP_ENDS},
    {.name = "export_again",
     .prepare = sent_small,
     .act = send_first_again,
     .verify = sent_block_is_whole_or_gone},
    {.name = "acquire",
     .partner = partner_sends,
     .act = load_small,
     .verify = sent_block_is_whole_or_gone},
    {.name = "acquire_only_sent",
     .partner = partner_sends_and_drops,
     .act = load_small,
     .verify = sent_block_is_whole_or_gone},
    {.name = "acquire_big", .partner = partner_sends_and_drops, .act = load_big},
    {.name = "acquire_twice",
     .partner = partner_sends_and_drops,
     .act = load_twice,
     .verify = sent_block_is_whole_or_gone},
    {.name = "acquire_stale", .partner = stale_handles, .act = load_stale},
    {.name = "give_back",
     .prepare = sent_small,
     .act = give_back_first,
     .verify = sent_block_is_whole_or_gone},
    {.name = "expire",
     .partner = partner_sends_and_drops,
     .act = expire_all,
     .verify = sent_block_is_whole_or_gone},
    {.name = "name_set",
     .partner = partner_names,
     .prepare = two_small,
     .act = name_small,
     .verify = names_are_old_or_new},
    {.name = "name_add",
     .partner = partner_names,
     .prepare = two_small,
     .act = name_add,
     .verify = names_are_old_or_new},
    {.name = "name_add_in_vain",
     .partner = partner_names,
     .prepare = two_small,
     .act = name_add_in_vain,
     .verify = names_are_old_or_new},
    {.name = "export_weak", .prepare = two_small, .act = export_weak},
    {.name = "name_replace",
     .partner = partner_names,
     .prepare = two_small,
     .act = name_replace,
     .verify = names_are_old_or_new},
    {.name = "name_remove",
     .partner = partner_names,
     .act = name_remove,
     .verify = names_are_old_or_new},
    {.name = "name_get",
     .partner = partner_names,
     .act = name_get,
     .verify = names_are_old_or_new},
    {.name = "trim", .prepare = much_freed, .act = trim},
    {.name = "trim_abandoned",
     .victim = victim_sends_small,
     .partner = partner_passes_it_on,
     .prepare = expire_all,
     .act = trim},
    {.name = "reap",
     .victim = victim_holds_all_kinds,
     .partner = partner_loads_all_kinds,
     .act = reap,
     .verify = sent_block_is_whole_or_gone,
     .flags = STEP_DIES_LATE},
    {.name = "fork",
     .prepare = all_kinds,
     .act = fork_here,
     .at_hand_bytes = (BIG + 65535) / 65536 * 65536,
     .flags = STEP_FORKS},
    {.name = "detach", .prepare = all_kinds, .act = detach},
    {.name = "attach", .act = attach, .flags = STEP_ATTACHES},
    {.name = NULL},
};
