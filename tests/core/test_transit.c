/* Tickets of several processes at once: who may end, join and place them, and whether the table
 * and T are right when all are done. */
#include "harness.h"
#include "ticket.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void *make(sharena_heap *heap, size_t size, uint8_t with)
{
    void *block;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    memset(block, with, size < 4096 ? size : 4096);
    return block;
}

static sharena_handle open_of(sharena_heap *heap, const void *block)
{
    sharena_handle handle;
    CHECK_OK(sharena_export_open(heap, block, NULL, &handle));
    return handle;
}

static int place(sharena_heap *heap, const sharena_handle *handle, uint32_t kind, uint64_t id)
{
    sharena_place where = {.kind = kind, .id = id};
    return sharena_handle_place(heap, handle, &where);
}

static bool loads(sharena_heap *heap, const sharena_handle *handle)
{
    sharena_block block;
    return sharena_acquire(heap, handle, &block) == 0;
}

struct found {
    uint32_t entry, kind;
};

static int find_kind(const sharena_ticket *t, void *argument)
{
    struct found *found = argument;
    if (t->entry == found->entry)
        found->kind = t->place.kind;
    return 0;
}

/* 0: it ended. */
static uint32_t kind_of(sharena_heap *heap, const sharena_handle *handle)
{
    struct found found = {.entry = handle->ticket};
    CHECK_OK(sharena_ticket_list(heap, find_kind, &found));
    return found.kind;
}

/* Nobody reads the pipes whose bit is set. */
static int judge_by_bits(const sharena_inquiry *inquiry, void *argument)
{
    const uint64_t *dead = argument;
    for (size_t i = 0; i < inquiry->n_places; i++)
        inquiry->dead[i] = (uint8_t)(*dead >> (inquiry->places[i].id & 63) & 1);
    return 0;
}

/* ---- who may ------------------------------------------------------------------------------ */

static void in_child(void (*body)(sharena_heap *, const sharena_handle *), sharena_heap *heap,
                     const sharena_handle *handle)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        body(heap, handle);
        _exit(0);
    }
    CHECK_EQ(await_child(pid, 0), 0);
    CHECK_OK(sharena_reap(heap, NULL));
}

static void give_back(sharena_heap *heap, const sharena_handle *handle)
{
    CHECK_OK(sharena_give_back(heap, handle));
}

/* It has the message that its parent was writing, too, and drops it: the parent goes on. */
static void a_forked_child_ends_nothing_of_its_parent(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    void *block = make(heap, 1000, 1);
    sharena_handle handle = open_of(heap, block);
    in_child(give_back, heap, &handle);
    CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_OPEN);
    CHECK_OK(place(heap, &handle, SHARENA_PLACE_PIPE, 1));
    in_child(give_back, heap, &handle);
    CHECK_OK(sharena_release(heap, block));
    CHECK(loads(heap, &handle));
    CHECK_OK(sharena_release(heap, block));
    check_baseline(heap, &before);
}

static void join(sharena_heap *heap, const sharena_handle *handle)
{
    sharena_handle joined;
    CHECK_OK(sharena_export_open(heap, heap->data + handle->offset, handle, &joined));
    CHECK(joined.ticket != handle->ticket);
    CHECK_EQ(stats_of(heap).tickets, 2);
}

/* Its part of a message must not live as long as its parent. */
static void a_forked_child_joins_nothing_of_its_parent(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 64 * MIB);
    void *block = make(heap, 1000, 1);
    sharena_handle handle = open_of(heap, block), joined;
    in_child(join, heap, &handle);
    CHECK_EQ(stats_of(heap).tickets, 1); /* the child never sent */
    CHECK_OK(sharena_export_open(heap, block, &handle, &joined));
    CHECK_EQ(joined.ticket, handle.ticket);
    check_heap(heap);
}

static void place_in_seven(sharena_heap *heap, const sharena_handle *handle)
{
    CHECK_OK(place(heap, handle, SHARENA_PLACE_PIPE, 7));
}

/* Both have the bytes: what one of them sends is not all there is. */
static void what_a_forked_child_sends_is_kept(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 64 * MIB);
    void *block = make(heap, 1000, 1);
    sharena_handle handle;
    for (int guest = 0; guest < 2; guest++) {
        CHECK_OK(sharena_export(heap, block, 2, &handle));
        if (guest) {
            heap->guest = 1; /* it has the name of its parent, but not its locks */
            place_in_seven(heap, &handle);
            heap->guest = 0;
        } else {
            in_child(place_in_seven, heap, &handle);
        }
        CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
        CHECK_OK(place(heap, &handle, SHARENA_PLACE_PIPE, 8));
        CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_LOOSE);
    }
}

/* ---- places that come late ------------------------------------------------------------------- */

/* The entry ended, and was claimed and placed anew, between the look of its first owner and
 * what that one stores: any mixture of the two places. */
static void a_late_place_is_nobodys(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 64 * MIB);
    uint64_t dead = 0;
    void *block = make(heap, 8 * MIB, 1), *more;
    sharena_handle first = open_of(heap, block), handle;
    struct ticket_shm *e = shr__entry(heap, first.ticket);
    sharena_set_judge(judge_by_bits, &dead);
    for (unsigned mixture = 0; mixture < 8; mixture++) {
        CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
        handle = open_of(heap, block);
        CHECK_EQ(handle.ticket, first.ticket);
        CHECK_OK(place(heap, &handle, SHARENA_PLACE_PIPE, 9));
        CHECK_EQ(kind_of(heap, &handle), SHARENA_PLACE_PIPE);
        if (mixture & 1)
            store64_relaxed(&e->place, 7);
        if (mixture & 2)
            store64_relaxed(&e->where, 77);
        if (mixture & 4)
            store64_relaxed(&e->stamp, ticket_stamp(first.seq, 7, 77));
        dead = 1u << 7;
        CHECK_OK(sharena_reap(heap, NULL));
        CHECK_EQ(kind_of(heap, &handle), mixture ? SHARENA_PLACE_LOOSE : SHARENA_PLACE_PIPE);
        dead = ~UINT64_C(0);
        CHECK_OK(sharena_reap(heap, NULL));
        CHECK_EQ(kind_of(heap, &handle), mixture ? SHARENA_PLACE_LOOSE : 0);
        check_heap(heap);
    }
    /* what is nobody's gives way in a shortage, as other tickets of unknown channels do */
    CHECK_OK(sharena_release(heap, block));
    store64_relaxed(&e->exporter, (heap->k + 1) << 16 | (heap->slot + 1));
    CHECK_OK(sharena_allocate(heap, 12 * MIB, 0, 0, &more));
    CHECK_EQ(stats_of(heap).tickets, 0);
}

/* ---- at the same time ------------------------------------------------------------------------ */

enum { RACERS = 4, SHARED = 4, CELLS = 32, TURNS = 100000 };

/* What the racers pass to each other. */
struct table {
    void *blocks[SHARED]; /* that all of them hold */
    struct {
        shr_a32 lock;
        bool full;
        sharena_handle handle;
    } cells[CELLS];
    shr_a64 sent, loaded;
};
static struct table *table;

static void *shared_bytes(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* Every block is told by its first byte. */
static void load_and_drop(sharena_heap *heap, const sharena_handle *handle)
{
    sharena_block got;
    int code = sharena_acquire(heap, handle, &got);
    CHECK_OK(code); /* all of them are held all the time */
    CHECK(got.start == table->blocks[*(uint8_t *)got.start]);
    CHECK_OK(sharena_release(heap, got.start));
    (void)add64_relaxed(&table->loaded, 1);
}

/* One message: written for a few loads, and left in one of many ways. */
static void send_one(sharena_heap *heap, void *block, uint64_t random, sharena_handle *out)
{
    sharena_handle joined;
    if (random & 1) {
        CHECK_OK(sharena_export(heap, block, (unsigned)(1 + (random >> 8) % 3), out));
    } else {
        CHECK_OK(sharena_export_open(heap, block, NULL, out));
        CHECK_OK(sharena_export_open(heap, block, out, &joined));
    }
    if (random & 2)
        (void)place(heap, out, SHARENA_PLACE_PIPE, (random >> 16) % 64);
    if (random & 4)
        (void)place(heap, out, SHARENA_PLACE_LOOSE, 0);
    (void)add64_relaxed(&table->sent, 1);
}

static void end_some(sharena_heap *heap, const sharena_handle *handle, uint64_t random)
{
    switch (random % 8) {
    case 0:
        CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
        break;
    case 1:
        CHECK_OK(sharena_reap(heap, NULL)); /* and sweeps */
        break;
    case 2:
        CHECK_OK(sharena_give_back(heap, handle));
        break;
    default:
        (void)sharena_handle_keep(heap, handle);
    }
}

static void race(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    uint64_t random = process_seed();
    peer_await(parent);
    for (unsigned n = 0; n < TURNS; n++) {
        uint64_t r = random_next(&random);
        unsigned c = (unsigned)(r >> 32) % CELLS;
        uint32_t open = 0;
        if (!cas32_acq_rel(&table->cells[c].lock, &open, 1))
            continue;
        sharena_handle handle = table->cells[c].handle;
        bool full = table->cells[c].full;
        if (!full)
            send_one(heap, table->blocks[r % SHARED], r >> 8, &table->cells[c].handle);
        table->cells[c].full = !full || r >> 40 & 3;
        store32_release(&table->cells[c].lock, 0);
        if (full)
            load_and_drop(heap, &handle);
        if (full && (r >> 48) % 3 == 0)
            end_some(heap, &handle, r >> 50);
    }
    CHECK_OK(sharena_detach(heap));
}

/* Blocks whose tickets one bucket counts. */
static void blocks_of_one_bucket(sharena_heap *heap, void **out)
{
    enum { MOST = 3000 };
    static void *blocks[MOST];
    static uint32_t buckets[MOST];
    unsigned n = 0, found = 0;
    for (; n < MOST && found < SHARED; n++) {
        blocks[n] = make(heap, 64, 0);
        buckets[n] = shr__entry_bucket(0, (uint64_t)((uint8_t *)blocks[n] - heap->data));
        for (unsigned i = found = 0; i <= n; i++)
            if (buckets[i] == buckets[n] && found < SHARED)
                out[found++] = blocks[i];
    }
    CHECK_EQ(found, SHARED);
    for (unsigned i = 0, k = 0; i < n; i++) {
        if (k < SHARED && blocks[i] == out[k])
            memset(blocks[i], (int)k++, 64);
        else
            CHECK_OK(sharena_release(heap, blocks[i]));
    }
}

/* T says whether there is a use, and the bucket counts just those that there are. */
static void check_settled(sharena_heap *heap)
{
    uint64_t live = 0;
    for (int i = 0; i < SHARED; i++) {
        uint64_t offset = (uint64_t)((uint8_t *)table->blocks[i] - heap->data);
        struct block b;
        if (!table->blocks[i])
            continue;
        CHECK_OK(shr__decode(heap, offset, &b));
        bool t = (load64_relaxed(b.mask) & SHR_BIT_T) != 0;
        CHECK_EQ(t, shr__ticket_live(heap, offset, shr__number(&b)));
    }
    for (uint32_t i = 0; i < shr__entries(heap); i++)
        live += shr__entry_ready(heap, i) &&
                ticket_live(load64_relaxed(&shr__entry(heap, i)->word));
    uint64_t counted = 0;
    for (uint32_t i = 0; i < shr__entries(heap) >> SHR_BUCKET_SHIFT; i++)
        counted += shr__bucket_word(heap, i) >> 32;
    CHECK_EQ(counted, live);
    check_heap(heap);
}

static uint64_t race_with(void (*body)(struct peer *, void *), sharena_heap *heap)
{
    struct peer peers[RACERS];
    for (int p = 0; p < RACERS; p++)
        peer_start(&peers[p], body, heap);
    for (int p = 0; p < RACERS; p++)
        peer_tell(&peers[p]);
    for (int p = 0; p < RACERS; p++)
        peer_join(&peers[p]);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).processes, 1);
    return stats_of(heap).tickets;
}

/* Everybody makes, spends, ends and settles tickets of the same few blocks, in one bucket.
 * Nobody is killed: in the end T and the counts are exact. */
static void racers_leave_all_exact(void)
{
    uint64_t dead = UINT64_C(0xaaaaaaaaaaaaaaaa);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    table = shared_bytes(sizeof *table);
    blocks_of_one_bucket(heap, table->blocks);
    sharena_set_judge(judge_by_bits, &dead);
    (void)race_with(race, heap);
    check_settled(heap);
    CHECK_LE(RACERS * TURNS / 50, load64_relaxed(&table->sent));
    CHECK_LE(RACERS * TURNS / 20, load64_relaxed(&table->loaded));
    dead = ~UINT64_C(0);
    CHECK_OK(sharena_reap(heap, NULL));
    check_settled(heap);
    for (int i = 0; i < SHARED; i++)
        CHECK_OK(sharena_release(heap, table->blocks[i]));
    CHECK_EQ(stats_of(heap).blocks > 0, stats_of(heap).tickets > 0);
    CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

/* More blocks than two segments have room for, each in flight. */
enum { EACH = 6000 };
static sharena_handle (*handles)[EACH];

static void send_many(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    uint32_t me = add32_relaxed(&table->cells[0].lock, 1);
    peer_await(parent);
    for (unsigned i = 0; i < EACH; i++) {
        void *block = make(heap, 64, (uint8_t)me);
        handles[me][i] = open_of(heap, block);
        CHECK_OK(place(heap, &handles[me][i], SHARENA_PLACE_PIPE, me));
        CHECK_OK(sharena_release(heap, block));
    }
    CHECK_OK(sharena_detach(heap));
}

static void the_table_grows_under_all(void)
{
    uint64_t dead = 0;
    sharena_block got;
    sharena_heap *heap = scratch_heap(128 * MIB, 128 * MIB);
    table = shared_bytes(sizeof *table);
    handles = shared_bytes(RACERS * sizeof *handles);
    sharena_set_judge(judge_by_bits, &dead);
    CHECK_EQ(race_with(send_many, heap), RACERS * EACH);
    CHECK_LE(2, load64_relaxed(&heap->control->ticket_segments) + 1);
    check_settled(heap);
    for (unsigned i = 0; i < EACH; i += 3)
        for (uint8_t p = 0; p < RACERS; p++) {
            CHECK_OK(sharena_acquire(heap, &handles[p][i], &got));
            CHECK_EQ(*(uint8_t *)got.start, p);
            CHECK_OK(sharena_release(heap, got.start));
        }
    dead = 5; /* two of the pipes: one verdict each, for all of its messages */
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).tickets, RACERS / 2 * (EACH - (EACH + 2) / 3));
    check_settled(heap);
    CHECK_EQ(sharena_acquire(heap, &handles[0][1], &got), SHARENA_ESTALE);
    CHECK_OK(sharena_acquire(heap, &handles[1][1], &got));
    CHECK_OK(sharena_release(heap, got.start));
    dead = 15;
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).blocks, 0);
    check_heap(heap);
}

CASES(CASE(a_forked_child_ends_nothing_of_its_parent),
      CASE(a_forked_child_joins_nothing_of_its_parent), CASE(what_a_forked_child_sends_is_kept),
      CASE(a_late_place_is_nobodys), CASE(racers_leave_all_exact),
      CASE(the_table_grows_under_all))
