/* check.c: the walker accepts every legal heap and finds each kind of planted damage. */
#include "harness.h"
#include "ticket.h"

#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

struct faults {
    int n;
    char first[256];
};

static void note(const char *text, void *argument)
{
    struct faults *f = argument;
    if (f->n++ == 0)
        snprintf(f->first, sizeof f->first, "%s", text);
}

static struct faults walk(sharena_heap *heap)
{
    struct faults f = {.n = 0, .first = ""};
    int n = sharena_check(heap, note, &f);
    CHECK_EQ(n, f.n); /* each is reported once */
    CHECK_EQ(sharena_check(heap, NULL, NULL), n);
    return f;
}

/* A heap with one of everything. */
struct zoo {
    sharena_heap *heap;
    uint8_t *small, *middle, *big, *named;
    struct block b_small, b_middle, b_big;
    sharena_handle handle;
};

static struct block decode(sharena_heap *heap, const uint8_t *p)
{
    struct block b;
    CHECK_EQ(shr__decode(heap, (uint64_t)(p - heap->data), &b), 0);
    return b;
}

/* A size whose slabs take several units. */
static uint32_t several_units(void)
{
    for (uint32_t c = shr__n_classes; c-- > 1;)
        if (shr__classes[c].units > 1)
            return shr__classes[c].size;
    FAIL("no class has slabs of several units");
}

static void make_zoo(struct zoo *z)
{
    z->heap = scratch_heap(64 * MIB, 64 * MIB);
    CHECK_OK(sharena_allocate(z->heap, 100, 0, 0, (void **)&z->small));
    CHECK_OK(sharena_allocate(z->heap, several_units(), 0, 0, (void **)&z->middle));
    CHECK_OK(sharena_allocate(z->heap, 300000, 0, 0, (void **)&z->big));
    CHECK_OK(sharena_allocate(z->heap, 200, 0, 0, (void **)&z->named));
    CHECK_OK(sharena_export(z->heap, z->big, 1, &z->handle));
    CHECK_OK(sharena_name_set(z->heap, "x", z->named, "p", 1));
    z->b_small = decode(z->heap, z->small);
    z->b_middle = decode(z->heap, z->middle);
    z->b_big = decode(z->heap, z->big);
    CHECK_EQ(walk(z->heap).n, 0);
}

/* Damages a word, expects a fault that says `text`, mends it, expects none. */
#define PLANT64(word, value, text)                                                               \
    do {                                                                                         \
        uint64_t old = load64_relaxed(word);                                                     \
        store64_relaxed(word, value);                                                            \
        struct faults f = walk(z.heap);                                                          \
        if (f.n == 0 || !strstr(f.first, text))                                                  \
            FAIL("%s = %s: %d faults, the first \"%s\"", #word, #value, f.n, f.first);           \
        store64_relaxed(word, old);                                                              \
        CHECK_EQ(walk(z.heap).n, 0);                                                             \
    } while (0)
#define PLANT32(word, value, text)                                                               \
    do {                                                                                         \
        uint32_t old = load32_relaxed(word);                                                     \
        store32_relaxed(word, value);                                                            \
        struct faults f = walk(z.heap);                                                          \
        if (f.n == 0 || !strstr(f.first, text))                                                  \
            FAIL("%s = %s: %d faults, the first \"%s\"", #word, #value, f.n, f.first);           \
        store32_relaxed(word, old);                                                              \
        CHECK_EQ(walk(z.heap).n, 0);                                                             \
    } while (0)

static void holders(void)
{
    struct zoo z;
    make_zoo(&z);
    uint64_t nobody = (uint64_t)1 << 37, touch = load64_relaxed(&z.b_small.unit->touch);
    PLANT64(z.b_small.mask, load64_relaxed(z.b_small.mask) | nobody, "I2");
    PLANT64(z.b_big.mask, load64_relaxed(z.b_big.mask) | nobody, "I2");
    PLANT64(&z.b_small.unit->mask, load64_relaxed(&z.b_small.unit->mask) | nobody, "I2");
    PLANT64(z.b_small.mask, SHR_BIT_S, "I2");
    PLANT64(&z.b_small.unit->touch, touch & ~z.heap->mine, "I8");
    PLANT64(&z.b_big.unit->touch, 0, "I8");
}

static void layout(void)
{
    struct zoo z;
    make_zoo(&z);
    uint64_t unit = z.b_middle.head;
    CHECK_LE(2, shr__classes[z.b_middle.class].units);
    PLANT32(&z.b_small.unit->class, 63, "I5");
    PLANT32(&z.b_small.unit->class, 0xdead0001, "I5");
    PLANT32(&z.heap->units[unit + 1].class, 0, "I5");
    PLANT32(&z.heap->units[unit + 1].class, z.b_middle.class | 2 << 8, "I5");
    PLANT32(&z.heap->units[z.b_big.head + 2].class, 5, "I5");
    PLANT32(&z.b_small.unit->pages, 0, "I6");
    PLANT64(&z.b_small.unit->mask, load64_relaxed(&z.b_small.unit->mask) & ~SHR_BIT_S, "S");
    shr_a64 *heads = &z.heap->heads[(unit + 1) >> 6];
    PLANT64(heads, load64_relaxed(heads) ^ (uint64_t)1 << ((unit + 1) & 63), "units");
    PLANT64(&z.b_big.unit->gen, UINT64_MAX, "I5");
    PLANT64(z.b_small.gen, SHR_NUMBER_MAX, "I5");
}

static void commitment(void)
{
    struct zoo z;
    make_zoo(&z);
    uint64_t unit = z.b_big.head;
    shr_a64 *commit = &z.heap->commit[unit >> 6], *dirty = &z.heap->dirty[unit >> 6];
    PLANT64(commit, load64_relaxed(commit) & ~((uint64_t)1 << (unit & 63)), "I6");
    PLANT64(dirty, load64_relaxed(dirty) & ~((uint64_t)1 << (unit & 63)), "C without D");
    unit = z.b_small.head;
    PLANT64(commit, load64_relaxed(commit) & ~((uint64_t)1 << (unit & 63)), "I6");
}

static void reserved_bits(void)
{
    struct zoo z;
    make_zoo(&z);
    /* While a process holds the block, it may be about to settle T. */
    PLANT64(z.b_small.mask, SHR_BIT_T, "T");
    PLANT64(z.b_small.mask, load64_relaxed(z.b_small.mask) | SHR_BIT_N, "N");
    PLANT64(z.b_big.mask, load64_relaxed(z.b_big.mask) | SHR_BIT_N, "N");
    struct block named = decode(z.heap, z.named);
    PLANT64(named.mask, load64_relaxed(named.mask) & ~SHR_BIT_N, "does not carry N");
    struct name_shm *name = (struct name_shm *)(void *)(z.heap->base + SHR_AT_NAMES);
    PLANT64(&name->word, load64_relaxed(&name->word) | 255u, "state");
    PLANT64(&name->number, 999, "N");
    PLANT64(&name->offset, UINT64_MAX, "N");
}

static void tables(void)
{
    struct zoo z;
    make_zoo(&z);
    struct control_shm *c = z.heap->control;
    PLANT64(&c->used_units, UINT64_MAX, "used_units");
    PLANT64(&c->used_units, load64_relaxed(&c->used_units) - 1, "used_units");
    PLANT64(&c->committed_meta, UINT64_MAX >> 1, "committed_meta");
    PLANT64(&shr__slot(z.heap, 40)->state, SHR_STATE(1, 99), "state");
    shr_a64 *super = (shr_a64 *)(void *)(z.heap->base + 64);
    PLANT64(super, load64_relaxed(super) ^ 1, "superblock");
    shr_a64 *uuid = (shr_a64 *)(void *)(z.heap->base + offsetof(struct super_shm, uuid));
    PLANT64(uuid, load64_relaxed(uuid) ^ 1, "superblock");
}

static void tickets(void)
{
    struct zoo z;
    sharena_handle second;
    make_zoo(&z);
    CHECK_OK(sharena_export(z.heap, z.big, 1, &second));
    CHECK_EQ(walk(z.heap).n, 0);
    struct ticket_shm *e = shr__entry(z.heap, z.handle.ticket);
    uint64_t word = load64_relaxed(&e->word), at;
    uint32_t seq = ticket_seq(word);
    PLANT64(&e->word, ticket_word(seq, 9, 1), "state 9");
    PLANT64(&e->word, ticket_word(seq, TICKET_FREE, 3), "free, but with 3 uses");
    PLANT64(&e->word, ticket_word(seq, TICKET_PIPE, 0), "without a use");
    PLANT64(&e->word, ticket_word(seq, TICKET_CLAIMED, 41), "claimed by slot 40");
    PLANT64(&e->word, ticket_word(seq, TICKET_CLAIMED, 0), "its claimer");
    PLANT64(&e->word, ticket_word(seq, TICKET_CLAIMED, 4000), "its claimer");
    PLANT64(&e->exporter, 0, "its maker");
    PLANT64(&e->exporter, 1u << 16 | 4000, "its maker");
    /* Both lie in one bucket, as they are of one block. */
    uint32_t number = shr__entry_bucket(z.handle.ticket, z.handle.offset);
    CHECK_EQ(number, shr__entry_bucket(second.ticket, second.offset));
    shr_bucket *bucket = (shr_bucket *)(void *)(z.heap->base + SHR_AT_BUCKETS) + number;
    word = load64_relaxed(bucket);
    CHECK_EQ(word >> 32, 2);
    PLANT64(bucket, word - (UINT64_C(1) << 32), "counts 1 tickets, but 2 are live");
    PLANT64(bucket, word - 1, "reach");
    PLANT64(bucket, 0, "reach");
    store64_relaxed(bucket, word + (UINT64_C(5) << 32)); /* after kills */
    CHECK_EQ(walk(z.heap).n, 0);
    store64_relaxed(bucket, word);
    store64_relaxed(&e->number, 99); /* stale: that life is over */
    CHECK_EQ(walk(z.heap).n, 0);
    store64_relaxed(&e->number, z.handle.number);
    PLANT64(&z.heap->control->ticket_segments, z.heap->super.ticket_segments, "ticket_segments");
    PLANT64(&z.heap->control->ticket_segments, UINT64_MAX, "ticket_segments");
    at = SHR_AT_TICKETS + (uint64_t)shr__entries(z.heap) * sizeof *e - SHR_AT_NAMES;
    shr_a64 *chunks = (shr_a64 *)(void *)(z.heap->base + SHR_AT_CHUNKS);
    chunks += at >> SHR_CHUNK_SHIFT >> 6;
    PLANT64(chunks, load64_relaxed(chunks) | (uint64_t)1 << (at >> SHR_CHUNK_SHIFT & 63),
            "beyond the table");
}

/* It goes on after the first fault. */
static void many_faults_at_once(void)
{
    struct zoo z;
    make_zoo(&z);
    for (unsigned i = 0; i < 50; i++) {
        void *block;
        CHECK_OK(sharena_allocate(z.heap, 100000, 0, 0, &block));
        struct block b = decode(z.heap, block);
        store64_relaxed(&b.unit->touch, 0);
    }
    store64_relaxed(&shr__slot(z.heap, 40)->state, 77);
    CHECK_EQ(walk(z.heap).n, 51);
}

/* The walker reads committed pages only: walking a fresh heap does not grow the file. */
static void walking_commits_nothing(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 1024 * MIB);
    uint64_t before = shr__sys_blocks(sharena_descriptor(heap));
    check_heap(heap);
    stats_of(heap);
    CHECK_EQ(shr__sys_blocks(sharena_descriptor(heap)), before);
    void *block;
    CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    before = shr__sys_blocks(sharena_descriptor(heap));
    check_heap(heap);
    stats_of(heap);
    CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
    CHECK_EQ(shr__sys_blocks(sharena_descriptor(heap)), before);
}

/* Messages of two views of a block, that meet all ends. */
static void send_and_end(sharena_heap *heap, const void *block, uint64_t random)
{
    sharena_place place = {.kind = SHARENA_PLACE_PIPE, .id = random % 3};
    sharena_handle handles[3];
    sharena_block got;
    CHECK_OK(sharena_export_open(heap, block, NULL, &handles[0]));
    CHECK_OK(sharena_export_open(heap, block, &handles[0], &handles[1]));
    CHECK_OK(sharena_export(heap, block, 2, &handles[2]));
    sharena_handle_place(heap, &handles[0], &place);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(sharena_acquire(heap, &handles[i], &got));
        CHECK_OK(sharena_release(heap, got.start));
        sharena_handle_keep(heap, &handles[i]);
    }
    if (random % 7 == 0)
        CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
    else
        CHECK_OK(sharena_give_back(heap, &handles[2]));
}

/* A heap in use shows steps half done: none of them is a fault. */
static void work_for_ever(struct peer *parent, void *argument)
{
    struct heap_address address;
    uint64_t random = process_seed();
    void *blocks[30] = {NULL};
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_tell(parent);
    for (;;) {
        unsigned i = (unsigned)(random_next(&random) % 30);
        if (!blocks[i]) {
            size_t size = (size_t)(random_next(&random) >> (random_next(&random) % 14 + 46));
            CHECK_OK(sharena_allocate(heap, size, 0, 0, &blocks[i]));
            continue;
        }
        if (i % 3 == 0) {
            send_and_end(heap, blocks[i], random);
        } else if (i % 3 == 1) {
            CHECK_OK(sharena_name_set(heap, i % 2 ? "x" : "y", blocks[i], NULL, 0));
        }
        CHECK_OK(sharena_release(heap, blocks[i]));
        blocks[i] = NULL;
        if (random_next(&random) % 100 == 0)
            CHECK_OK(sharena_trim(heap, NULL));
    }
}

static void a_heap_in_use_has_no_faults(void)
{
    struct peer peers[2];
    for (int p = 0; p < 2; p++)
        peer_start(&peers[p], work_for_ever, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    struct heap_address address = address_of(heap);
    for (int p = 0; p < 2; p++) {
        peer_send(&peers[p], &address, sizeof address);
        peer_await(&peers[p]);
    }
    uint64_t end = now_ns() + UINT64_C(3000000000);
    while (now_ns() < end) {
        check_heap(heap);
        stats_of(heap);
    }
    for (int p = 0; p < 2; p++)
        peer_kill(&peers[p]);
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
}

CASES(CASE(holders), CASE(layout), CASE(commitment), CASE(reserved_bits), CASE(tables),
      CASE(tickets), CASE(many_faults_at_once), CASE(walking_commits_nothing),
      CASE(a_heap_in_use_has_no_faults))
