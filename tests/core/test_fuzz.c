/* Damaged metadata: no crash, no hang, no access outside the mapping, whatever a word says.
 *
 * Every round is a process of its own: it makes a heap with one of everything, damages some
 * words of its metadata, then makes every call there is and ignores the answers.  It must end
 * by itself.  In the last case another process damages the heap all the time.
 *
 *   FUZZ_ROUNDS=n sets the number of rounds, TEST_SEED=n draws others (`make fuzz`), and
 *   FUZZ_SEED=n repeats the one that a failure names. */
#include "harness.h"
#include "ticket.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

enum { BLOCKS = 24, ROUND_SECONDS = 20 };

struct victim {
    sharena_heap *heap;
    void *blocks[BLOCKS];
    sharena_handle handles[BLOCKS];
    uint64_t random;
};

static uint64_t draw(struct victim *v, uint64_t below)
{
    return random_next(&v->random) % below;
}

static void fill(struct victim *v)
{
    v->heap = scratch_heap(24 * MIB, 64 * MIB);
    for (unsigned i = 0; i < BLOCKS; i++) {
        size_t size = (size_t)16 << (i % 15);
        CHECK_OK(sharena_allocate(v->heap, size, 0, 0, &v->blocks[i]));
        CHECK_OK(sharena_export(v->heap, v->blocks[i], 1 + i % 3, &v->handles[i]));
        if (i % 6 == 0)
            CHECK_OK(
                sharena_name_set(v->heap, (char[]){(char)('a' + i), 0}, v->blocks[i], "p", 1));
        if (i % 4 == 0)
            CHECK_OK(sharena_release(v->heap, v->blocks[i]));
    }
}

/* ---- damage ----------------------------------------------------------------------------------- */

static uint64_t bucket_of(const struct victim *v, unsigned i)
{
    return shr__entry_bucket(v->handles[i].ticket, v->handles[i].offset);
}

/* A word of the metadata that is in use: offset from the heap's base. */
static uint64_t interesting_word(struct victim *v)
{
    const struct super_shm *s = &v->heap->super;
    uint64_t units = load64_relaxed(&v->heap->control->used_units) & 1023;
    uint64_t unit = draw(v, units ? units : 1);
    switch (draw(v, 10)) {
    case 0:
        return SHR_AT_CONTROL + 8 * draw(v, sizeof(struct control_shm) / 8);
    case 1:
        return SHR_AT_SLOTS + 8 * draw(v, 8 * sizeof(struct slot_shm) / 8);
    case 2:
        return SHR_AT_BUCKETS + 8 * (draw(v, 2) ? bucket_of(v, (unsigned)draw(v, BLOCKS))
                                                : draw(v, SHR_TICKET_FIRST >> SHR_BUCKET_SHIFT));
    case 3:
        return SHR_AT_NAMES + 8 * draw(v, 8 * sizeof(struct name_shm) / 8);
    case 4: /* the ticket of a handle */
        return SHR_AT_TICKETS + v->handles[draw(v, BLOCKS)].ticket * sizeof(struct ticket_shm) +
               8 * draw(v, sizeof(struct ticket_shm) / 8);
    case 5:
        return (draw(v, 2) ? s->heads : draw(v, 2) ? s->commit : s->dirty) + 8 * draw(v, 4);
    case 6:
        return s->extents + 8 * draw(v, 4);
    case 7: /* how far the tables reach */
        return draw(v, 2) ? SHR_AT_CONTROL + offsetof(struct control_shm, ticket_segments)
                          : SHR_AT_CHUNKS + 8 * draw(v, 4);
    case 8:
        return s->units_at + unit * sizeof(struct unit_shm) + 8 * draw(v, 8);
    default:
        return s->descriptors + (unit << SHR_UNIT_SHIFT) +
               8 * draw(v, load32_relaxed(&v->heap->units[unit].pages) ? 512 : 1);
    }
}

static void damage(struct victim *v)
{
    uint64_t at = interesting_word(v);
    shr_a64 *word = (shr_a64 *)(void *)(v->heap->base + at);
    uint64_t old = load64_relaxed(word), value;
    switch (draw(v, 7)) {
    case 0:
        value = 0;
        break;
    case 1:
        value = UINT64_MAX;
        break;
    case 2:
        value = random_next(&v->random);
        break;
    case 3:
        value = old + 1;
        break;
    case 4: /* small numbers in both halves */
        value = draw(v, 300) << 32 | draw(v, 300);
        break;
    default:
        value = old ^ (uint64_t)1 << draw(v, 64);
    }
    store64_relaxed(word, value);
}

/* ---- every call ----------------------------------------------------------------------------------- */

static int ignore_ticket(const sharena_ticket *t, void *a)
{
    return t->uses == 0 && a;
}

static int ignore_name(const char *name, void *a)
{
    return strlen(name) > 1000 && a;
}

static int ignore_process(const sharena_process *p, void *a)
{
    return p->slot > 1000 && a;
}

static int ignore_block(const sharena_block_info *b, void *a)
{
    return strlen(b->site) > 1000 && a;
}

static void ignore_fault(const char *text, void *a)
{
    (void)text;
    (void)a;
}

static void allocate_some(struct victim *v, unsigned i)
{
    void *block = NULL;
    size_t size = (size_t)(random_next(&v->random) >> (draw(v, 20) + 43));
    if (sharena_allocate(v->heap, size, draw(v, 2) ? 0 : (size_t)1 << draw(v, 22),
                         (unsigned)draw(v, 2), &block) != 0)
        return;
    /* What was given out is inside of the heap and may be written. */
    uint64_t offset = (uint64_t)((uint8_t *)block - v->heap->data);
    CHECK(offset < v->heap->data_bytes && size <= v->heap->data_bytes - offset);
    v->blocks[i] = block;
}

static void check_inside(struct victim *v, const sharena_block *b)
{
    uint64_t offset = (uint64_t)((uint8_t *)b->start - v->heap->data);
    CHECK(offset < v->heap->data_bytes && b->size_bytes <= v->heap->data_bytes - offset);
}

/* Looks at all that it is given, and says anything. */
static int judge_at_random(const sharena_inquiry *inquiry, void *argument)
{
    uint64_t sum = inquiry->n_members;
    for (size_t i = 0; i < inquiry->n_places; i++) {
        const sharena_place *p = &inquiry->places[i];
        CHECK(p->kind >= SHARENA_PLACE_PIPE && p->kind <= SHARENA_PLACE_CHILD);
        inquiry->dead[i] = (uint8_t)((sum ^ p->id ^ p->where) % 3 == 0);
    }
    CHECK_LE(inquiry->n_members, SHR_SLOTS);
    for (size_t i = 0; i < inquiry->n_members; i++)
        sum += (uint64_t)inquiry->members[i].pid;
    *(uint64_t *)argument = sum;
    return 0;
}

static void send(struct victim *v, unsigned i)
{
    static uint64_t verdicts;
    sharena_place place = {.kind = SHARENA_PLACE_LOOSE + (uint32_t)draw(v, 4), .id = draw(v, 5)};
    switch (draw(v, 6)) {
    case 0:
        sharena_export_open(v->heap, v->blocks[i], NULL, &v->handles[i]);
        break;
    case 1:
        sharena_export_open(v->heap, v->blocks[i], &v->handles[i], &v->handles[i]);
        break;
    case 2:
        sharena_handle_place(v->heap, &v->handles[i], &place);
        break;
    case 3:
        sharena_handle_keep(v->heap, &v->handles[i]);
        break;
    case 4:
        sharena_set_judge(judge_at_random, &verdicts);
        sharena_tend(v->heap);
        break;
    default: { /* any bytes are safe to pass */
        sharena_handle any = v->handles[i], out;
        any.ticket = (uint32_t)random_next(&v->random) >> draw(v, 32);
        sharena_handle_place(v->heap, &any, &place);
        sharena_handle_keep(v->heap, &any);
        sharena_export_open(v->heap, v->blocks[i], &any, &out);
    }
    }
}

static void look_after(struct victim *v)
{
    sharena_stats stats;
    switch (draw(v, 5)) {
    case 0:
        sharena_trim(v->heap, NULL);
        break;
    case 1:
        sharena_reap(v->heap, NULL);
        break;
    case 2:
        sharena_stats_read(v->heap, &stats);
        sharena_process_list(v->heap, ignore_process, NULL);
        sharena_ticket_list(v->heap, ignore_ticket, NULL);
        break;
    case 3:
        sharena_block_list(v->heap, 0, ignore_block, NULL);
        break;
    default:
        sharena_check(v->heap, ignore_fault, NULL);
    }
}

static void call_something(struct victim *v)
{
    unsigned i = (unsigned)draw(v, BLOCKS);
    char name[2] = {(char)('a' + i), 0}, payload[SHARENA_PAYLOAD];
    size_t payload_size = sizeof payload;
    sharena_block block;
    switch (draw(v, 19)) {
    case 0:
        if (sharena_acquire(v->heap, &v->handles[i], &block) == 0)
            check_inside(v, &block);
        break;
    case 1:
        sharena_export(v->heap, v->blocks[i], 1 + (unsigned)draw(v, 16), &v->handles[i]);
        break;
    case 2:
        sharena_give_back(v->heap, &v->handles[i]);
        break;
    case 3:
        sharena_ticket_expire(v->heap, draw(v, 2) * 100000, NULL);
        break;
    case 5:
        sharena_name_set(v->heap, name, v->blocks[i], payload, 0);
        break;
    case 6:
        if (sharena_name_get(v->heap, name, &block, payload, &payload_size) == 0)
            check_inside(v, &block);
        break;
    case 7:
        sharena_name_remove(v->heap, name);
        break;
    case 8:
        sharena_name_list(v->heap, ignore_name, NULL);
        break;
    case 9:
    case 10:
    case 11:
        look_after(v);
        break;
    case 12:
        sharena_retain(v->heap, v->blocks[i]);
        break;
    case 13:
        sharena_reallocate(v->heap, v->blocks[i], 1 + (size_t)draw(v, 300000), &v->blocks[i]);
        break;
    case 14:
        if (sharena_find(v->heap, (uint8_t *)v->blocks[i] + draw(v, 1000), &block) == 0)
            check_inside(v, &block);
        sharena_trace(v->heap, v->blocks[i], name);
        break;
    case 15:
        allocate_some(v, i);
        break;
    case 4:
    case 16:
        send(v, i);
        break;
    default:
        sharena_release(v->heap, v->blocks[i]);
        allocate_some(v, i);
    }
}

/* ---- rounds ---------------------------------------------------------------------------------------- */

static void survive(uint64_t seed, bool fork_too)
{
    struct victim v = {.random = seed};
    alarm(ROUND_SECONDS);
    fill(&v);
    for (unsigned n = 1 + (unsigned)draw(&v, 6); n > 0; n--)
        damage(&v);
    for (unsigned i = 0; i < 150; i++) {
        call_something(&v);
        if (i % 30 == 29)
            damage(&v);
    }
    if (fork_too) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(ROUND_SECONDS);
            for (unsigned i = 0; i < 50; i++)
                call_something(&v);
            _exit(0);
        }
        if (pid > 0)
            CHECK_EQ(await_child(pid, 0), 0);
    }
    sharena_detach(v.heap);
    _exit(0);
}

static unsigned rounds(unsigned otherwise)
{
    const char *given = getenv("FUZZ_ROUNDS");
    return given ? (unsigned)strtoul(given, NULL, 10) : otherwise;
}

static void run_rounds(unsigned n, bool fork_too)
{
    uint64_t random = test_seed();
    for (unsigned i = 0; i < n; i++) {
        uint64_t seed = random_next(&random);
        pid_t pid = fork();
        if (pid == 0)
            survive(seed, fork_too);
        int status = await_child(pid, 0);
        if (status != 0)
            FAIL("round %u, seed %llu: %s %d", i, (unsigned long long)seed,
                 WIFSIGNALED(status) ? "signal" : "exit status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
}

/* One seed again, in this process, for a debugger: FUZZ_SEED. */
static void one_seed(void)
{
    const char *given = getenv("FUZZ_SEED");
    if (!given)
        SKIP("FUZZ_SEED is not set\n");
    survive(strtoull(given, NULL, 0), getenv("FUZZ_FORK") != NULL);
}

static void damaged_words(void)
{
    run_rounds(rounds(400), false);
}

static void damaged_words_and_fork(void)
{
    run_rounds(rounds(400) / 4, true);
}

/* A hostile writer: the words change between two looks at them. */
static void write_for_ever(struct peer *parent, void *argument)
{
    struct victim v = {.random = process_seed()};
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    v.heap = attach_to(&address);
    peer_tell(parent);
    for (;;) {
        damage(&v);
        for (unsigned i = 0; i < 2000; i++)
            shr_pause();
    }
}

static void hostile_writer(void)
{
    for (unsigned round = 0; round < rounds(400) / 40; round++) {
        struct peer writer;
        struct victim v = {.random = test_seed() + round};
        pid_t pid;
        peer_start(&writer, write_for_ever, NULL);
        pid = fork();
        if (pid == 0) {
            alarm(ROUND_SECONDS);
            fill(&v);
            struct heap_address address = address_of(v.heap);
            peer_send(&writer, &address, sizeof address);
            peer_await(&writer);
            uint64_t end = now_ns() + 300000000;
            while (now_ns() < end)
                call_something(&v);
            _exit(0);
        }
        int status = await_child(pid, 0);
        peer_kill(&writer);
        if (status != 0)
            FAIL("round %u: status %x", round, (unsigned)status);
    }
}

CASES(CASE(one_seed), CASE_FOR(120, damaged_words), CASE_FOR(120, damaged_words_and_fork),
      CASE_FOR(120, hostile_writer))
