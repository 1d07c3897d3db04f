/* Examining a state for step.c: a copy of the heap's file, in which the actor is dead, is
 * recovered by a process of its own. */
#include "internal.h"
#include "step_run.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXAMINER_SECONDS 15u
#define WHOLE_EVERY 8u /* of the states are tried for the allocation of everything */

static int lock_slot(int fd, unsigned slot)
{
    char path[64];
    struct flock lock = {.l_type = F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)(SHR_AT_SLOTS + slot * sizeof(struct slot_shm)),
                         .l_len = 1};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = open(path, O_RDWR | O_CLOEXEC);
    CHECK(own >= 0);
    CHECK_EQ(fcntl(own, F_OFD_SETLK, &lock), 0);
    return own;
}

static sharena_heap *attach_copy(int copy, const struct stage *stage)
{
    sharena_heap *heap = NULL;
    CHECK_OK(sharena_attach_process(getpid(), copy, stage->address.uuid, &heap));
    return heap;
}

static int remove_actors(const char *name, void *argument)
{
    if (name[0] == 'a')
        CHECK_OK(sharena_name_remove(argument, name));
    return 0;
}

sharena_stats settle_all(sharena_heap *heap)
{
    size_t expired = 0;
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
    CHECK_OK(sharena_ticket_expire(heap, 0, &expired));
    CHECK_OK(sharena_name_list(heap, remove_actors, heap));
    check_heap(heap);
    return stats_of(heap);
}

/* The empty heap can be given away again; `whole`: as one block as large as the address
 * space, which takes its time. */
static void allocate_everything(sharena_heap *heap, bool whole)
{
    void *block = NULL;
    CHECK_OK(sharena_trim(heap, NULL));
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(stats.blocks, 0);
    CHECK_EQ(stats.slabs, 0);
    CHECK_EQ(stats.runs, 0);
    CHECK_EQ(stats.retained_bytes, 0);
    CHECK_EQ(stats.committed_bytes, stats.metadata_bytes);
    if (whole && stats.limit_bytes >= stats.reserve_bytes + stats.metadata_bytes) {
        CHECK_OK(sharena_allocate(heap, stats.reserve_bytes, 0, 0, &block));
        CHECK_OK(sharena_release(heap, block));
    }
    for (size_t size = 16; size <= 65536; size *= 4) {
        CHECK_OK(sharena_allocate(heap, size, 0, SHARENA_ZERO, &block));
        for (size_t i = 0; i < size; i++)
            CHECK_EQ(((uint8_t *)block)[i], 0);
        CHECK_OK(sharena_release(heap, block));
    }
    check_heap(heap);
}

struct question {
    int copy;
    const struct run *run;
    unsigned alive[2], n_alive;
    const sharena_stats *expected; /* NULL: just tell */
    bool whole;
};

static void examine(struct peer *parent, void *argument)
{
    struct question *q = argument;
    int locks[2] = {-1, -1};
    alarm(EXAMINER_SECONDS);
    for (unsigned i = 0; i < q->n_alive; i++)
        locks[i] = lock_slot(q->copy, q->alive[i]);
    struct role role = {.heap = attach_copy(q->copy, q->run->stage), .stage = q->run->stage};
    CHECK_OK(sharena_reap(role.heap, NULL));
    check_heap(role.heap);
    if (q->run->verifies && q->run->scenario->verify)
        q->run->scenario->verify(&role);
    sharena_stats stats = settle_all(role.heap);
    if (q->expected) {
        CHECK_EQ(stats.blocks, q->expected->blocks);
        CHECK_EQ(stats.live_bytes, q->expected->live_bytes);
        CHECK_EQ(stats.inflight_bytes, 0);
        CHECK_EQ(stats.tickets, 0);
        CHECK_EQ(stats.processes, q->expected->processes);
        for (unsigned i = 0; i < q->n_alive; i++)
            close(locks[i]); /* now they die as well */
        settle_all(role.heap);
        allocate_everything(role.heap, q->whole);
        CHECK_EQ(stats_of(role.heap).processes, 1);
    }
    peer_send(parent, &stats, sizeof stats);
}

sharena_stats ask(struct run *run, unsigned n_alive, const sharena_stats *expected)
{
    struct peer examiner;
    sharena_stats stats;
    struct question q = {.whole = run->asked++ % WHOLE_EVERY == 0,
                         .copy = view_copy(&run->view),
                         .run = run,
                         .alive = {run->stage->partner_slot, run->stage->actor_slot},
                         .n_alive = n_alive,
                         .expected = expected};
    peer_start(&examiner, examine, &q);
    close(q.copy);
    peer_receive(&examiner, &stats, sizeof stats);
    peer_join(&examiner);
    return stats;
}
