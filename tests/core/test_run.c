/* run.c: runs tile the data area, whoever takes, splits and merges them, and dies. */
#include "harness.h"
#include "internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

enum { UNITS = 256, PROCESSES = 4, HELD = 6 };

/* Who has each unit, kept beside the heap: the model. */
struct model {
    shr_a32 owner[UNITS]; /* worker + 1 */
};

static void claim(struct model *model, uint64_t from, uint64_t to, uint32_t me)
{
    for (uint64_t u = from; u < to; u++) {
        uint32_t nobody = 0;
        if (!cas32_acq_rel(&model->owner[u], &nobody, me))
            FAIL("unit %llu belongs to %u and to %u", (unsigned long long)u, nobody, me);
    }
}

static void unclaim(struct model *model, uint64_t from, uint64_t to, uint32_t me)
{
    for (uint64_t u = from; u < to; u++) {
        uint32_t seen = me;
        if (!cas32_acq_rel(&model->owner[u], &seen, 0))
            FAIL("unit %llu belongs to %u, not to %u", (unsigned long long)u, seen, me);
    }
}

struct actor {
    sharena_heap *heap;
    struct model *model;
    uint32_t me;
    uint64_t held[HELD];
    unsigned n;
    uint64_t random;
    uint64_t span; /* units it looks at */
};

static uint64_t draw(struct actor *a, uint64_t below)
{
    return random_next(&a->random) % below;
}

static void give(struct actor *a, unsigned i)
{
    uint64_t unit = a->held[i];
    unclaim(a->model, unit, shr__next_head(a->heap, unit), a->me);
    a->held[i] = a->held[--a->n];
    shr__give(a->heap, unit);
}

static void take_somewhere(struct actor *a)
{
    uint64_t unit = shr__prev_head(a->heap, draw(a, a->span));
    if (a->n == HELD || !shr__take(a->heap, unit))
        return;
    a->held[a->n++] = unit;
    claim(a->model, unit, shr__next_head(a->heap, unit), a->me);
}

static void split_somewhere(struct actor *a, unsigned i)
{
    uint64_t unit = a->held[i], end = shr__next_head(a->heap, unit), at;
    if (end - unit < 2)
        return;
    at = unit + 1 + draw(a, end - unit - 1);
    unclaim(a->model, at, end, a->me);
    shr__run_split(a->heap, at);
}

static void absorb_next(struct actor *a, unsigned i)
{
    uint64_t unit = a->held[i], end = shr__next_head(a->heap, unit);
    if (end < a->span && shr__run_absorb(a->heap, end))
        claim(a->model, end, shr__next_head(a->heap, unit), a->me);
}

static void work(struct actor *a, unsigned rounds)
{
    for (unsigned round = 0; round < rounds; round++) {
        unsigned i = a->n ? (unsigned)draw(a, a->n) : 0;
        unsigned what = (unsigned)draw(a, 4);
        if (a->n == 0 || what == 0)
            take_somewhere(a);
        else if (what == 1)
            split_somewhere(a, i);
        else if (what == 2)
            absorb_next(a, i);
        else
            give(a, i);
    }
}

struct start {
    struct model *model;
    uint32_t me;
    uint64_t ms;
    uint64_t span;
};

static void act(struct peer *parent, void *argument)
{
    struct start *start = argument;
    struct heap_address address;
    peer_receive(parent, &address, sizeof address);
    struct actor a = {.heap = attach_to(&address),
                      .model = start->model,
                      .me = start->me,
                      .random = test_seed() + start->me * 1000,
                      .span = start->span};
    peer_tell(parent);
    peer_await(parent); /* all are there */
    for (uint64_t end = now_ns() + start->ms * 1000000u; now_ns() < end;)
        work(&a, 1000);
    while (a.n > 0)
        give(&a, a.n - 1);
    CHECK_OK(sharena_detach(a.heap));
}

static struct model *new_model(void)
{
    struct model *model = mmap(NULL, sizeof *model, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(model != MAP_FAILED);
    return model;
}

static sharena_heap *open_heap(void)
{
    sharena_heap *heap = scratch_heap(UNITS * SHR_UNIT, UNITS * SHR_UNIT);
    while (load64_acquire(&heap->control->used_units) < UNITS)
        CHECK_EQ(shr__grow(heap, 1), 0);
    CHECK_EQ(load64_acquire(&heap->control->used_units), UNITS);
    return heap;
}

/* All free runs merge back into one. */
static void check_whole(sharena_heap *heap)
{
    uint64_t unit = UNITS;
    CHECK_EQ(shr__run_find(heap, UNITS, 1, RUN_ANYWHERE, &unit), 0);
    CHECK_EQ(unit, 0);
    CHECK_EQ(shr__next_head(heap, 0), UNITS);
    shr__give(heap, 0);
    check_heap(heap);
}

static void one_process(void)
{
    struct actor a = {
        .heap = open_heap(), .model = new_model(), .me = 1, .random = test_seed(), .span = UNITS};
    work(&a, 100000);
    while (a.n > 0)
        give(&a, a.n - 1);
    check_whole(a.heap);
}

static void compete(uint64_t ms, uint64_t span)
{
    struct peer peers[PROCESSES];
    struct model *model = new_model();
    for (uint32_t p = 0; p < PROCESSES; p++) {
        struct start start = {model, p + 1, ms, span};
        peer_start(&peers[p], act, &start);
    }
    sharena_heap *heap = open_heap();
    struct heap_address address = address_of(heap);
    CHECK_EQ(shr__take(heap, 0), 1);
    if (span < UNITS) { /* the rest stays mine */
        while (shr__next_head(heap, 0) < UNITS)
            CHECK_EQ(shr__run_absorb(heap, shr__next_head(heap, 0)), 1);
        shr__run_split(heap, span);
        CHECK_EQ(shr__take(heap, span), 1);
    }
    shr__give(heap, 0);
    for (int p = 0; p < PROCESSES; p++)
        peer_send(&peers[p], &address, sizeof address);
    for (int p = 0; p < PROCESSES; p++)
        peer_await(&peers[p]);
    for (int p = 0; p < PROCESSES; p++)
        peer_tell(&peers[p]);
    for (int p = 0; p < PROCESSES; p++)
        peer_join(&peers[p]);
    if (span < UNITS)
        shr__give(heap, span);
    check_whole(heap);
}

static void several_processes(void)
{
    compete(1000, UNITS);
}

/* So close together that they meet in every step. */
static void processes_that_collide(void)
{
    compete(2000, 6);
}

/* Workers are killed in the middle; the tiling stays whole. */
static void killed_processes(void)
{
    enum { LIVES = 40 };
    static struct peer peers[LIVES];
    struct model *model = new_model();
    uint64_t random = test_seed();
    for (uint32_t p = 0; p < LIVES; p++) {
        struct start start = {model, p + 1, 1u << 30, p % 2 ? 6 : UNITS};
        peer_start(&peers[p], act, &start);
    }
    sharena_heap *heap = open_heap();
    struct heap_address address = address_of(heap);
    for (int p = 0; p < LIVES; p++) {
        peer_send(&peers[p], &address, sizeof address);
        peer_await(&peers[p]);
        peer_tell(&peers[p]);
        if (p == 0)
            continue;
        uint64_t until = now_ns() + random_next(&random) % 3000000;
        while (now_ns() < until)
            continue;
        peer_kill(&peers[p - 1]); /* the newest lives on */
        for (int u = 0; u < UNITS; u++) {
            uint32_t dead = (uint32_t)p;
            (void)cas32_acq_rel(&model->owner[u], &dead, 0);
        }
        CHECK_OK(sharena_reap(heap, NULL));
        check_heap(heap);
    }
    peer_kill(&peers[LIVES - 1]);
    CHECK_OK(sharena_reap(heap, NULL));
    check_whole(heap);
}

/* ---- searching, against a map of what is taken ------------------------------------------------ */

struct taken {
    uint64_t unit, size;
};

static bool fits(const uint8_t *map, uint64_t at, uint64_t size)
{
    for (uint64_t u = at; u < at + size; u++)
        if (u >= UNITS || map[u])
            return false;
    return true;
}

/* Finds a run if there is room for one, and only then. */
static bool find_one(sharena_heap *heap, uint8_t *map, uint64_t *random, struct taken *t)
{
    uint64_t align = 1u << random_next(random) % 4;
    bool room = false;
    t->size = 1 + random_next(random) % 20;
    for (uint64_t at = 0; at < UNITS; at += align)
        room = room || fits(map, at, t->size);
    int code = shr__run_find(heap, t->size, align, RUN_ANYWHERE, &t->unit);
    if (code != 0) {
        CHECK_EQ(code, SHARENA_ERESERVE);
        CHECK(!room);
        return false;
    }
    CHECK(fits(map, t->unit, t->size));
    CHECK_EQ(t->unit % align, 0);
    CHECK_EQ(shr__next_head(heap, t->unit), t->unit + t->size);
    memset(map + t->unit, 1, t->size);
    return true;
}

static void finding(void)
{
    sharena_heap *heap = open_heap();
    uint64_t random = test_seed(), unit;
    uint8_t map[UNITS] = {0};
    struct taken taken[UNITS];
    unsigned n = 0;
    for (unsigned round = 0; round < 300; round++) {
        while (find_one(heap, map, &random, &taken[n]))
            n++;
        for (unsigned keep = (unsigned)(random_next(&random) % (n + 1)); n > keep;) {
            unsigned i = (unsigned)(random_next(&random) % n--);
            memset(map + taken[i].unit, 0, taken[i].size);
            shr__give(heap, taken[i].unit);
            shr__run_freed(heap, taken[i].unit, taken[i].size);
            taken[i] = taken[n];
        }
        CHECK_EQ(shr__run_find(heap, UNITS + 1, 1, RUN_ANYWHERE, &unit), SHARENA_ERESERVE);
    }
    while (n > 0)
        shr__give(heap, taken[--n].unit);
    check_whole(heap);
}

CASES(CASE(one_process), CASE(several_processes), CASE(processes_that_collide),
      CASE(killed_processes), CASE(finding))
