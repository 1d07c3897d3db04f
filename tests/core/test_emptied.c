/* hand.c: when large blocks at hand are let go, and what forks, deaths and damage leave of them. */
#include "hand_kit.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- emptied -------------------------------------------------------------------------------- */

static void before_a_count_and_a_trim(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    uint64_t freed;
    (void)released(heap, MIB);
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(stats.runs, 0);
    CHECK_EQ(stats.retained_bytes, MIB);
    CHECK_EQ(at_hand(heap), 0);
    void *block = released(heap, MIB);
    CHECK_OK(sharena_trim(heap, &freed));
    CHECK_EQ(freed, MIB);
    CHECK_EQ(at_hand(heap), 0);
    CHECK_EQ(load64_relaxed(&header(heap, block)->mask), 0);
    CHECK_EQ(stats_of(heap).retained_bytes, 0);
    check_heap(heap);
}

static void before_a_refusal(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    void *all;
    (void)released(heap, MIB);
    (void)released(heap, 2 * MIB);
    CHECK_OK(sharena_allocate(heap, 254 * MIB, 0, 0, &all));
    CHECK_EQ(at_hand(heap), 0);
    check_heap(heap);
}

struct thread {
    sharena_heap *heap;
    void *block;
    pthread_barrier_t *barrier;
};

static void *release_it(void *argument)
{
    struct thread *t = argument;
    CHECK_OK(sharena_release(t->heap, get(t->heap, 100)));
    CHECK_OK(sharena_release(t->heap, t->block));
    CHECK_EQ(at_hand(t->heap), 1);
    (void)pthread_barrier_wait(t->barrier);
    (void)pthread_barrier_wait(t->barrier);
    return NULL;
}

/* Who releases has it at hand, whoever allocated; then it is nobody's. */
static void released_by_a_thread_that_ends(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    pthread_barrier_t barrier;
    struct thread t = {heap, released(heap, MIB), &barrier};
    pthread_t id;
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, 2), 0);
    CHECK(get(heap, MIB) == t.block);
    CHECK_EQ(pthread_create(&id, NULL, release_it, &t), 0);
    (void)pthread_barrier_wait(&barrier);
    CHECK_EQ(at_hand(heap), 0);
    CHECK(get(heap, MIB) != t.block);
    CHECK_EQ(sharena_release(heap, t.block), SHARENA_ENOTHELD);
    CHECK_EQ(load64_relaxed(&header(heap, t.block)->mask), heap->mine);
    (void)pthread_barrier_wait(&barrier);
    CHECK_EQ(pthread_join(id, NULL), 0);
    CHECK_EQ(load64_relaxed(&header(heap, t.block)->mask), 0);
    CHECK_EQ(load64_relaxed(&heap->empty_units), shr__lane_current(heap)->hand.room);
    CHECK(get(heap, MIB) == t.block);
    check_heap(heap);
}

/* A thread's hand is emptied for another's trim, too. */
static void of_another_thread(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    pthread_barrier_t barrier;
    struct thread t = {heap, get(heap, MIB), &barrier};
    pthread_t id;
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, 2), 0);
    CHECK_EQ(pthread_create(&id, NULL, release_it, &t), 0);
    (void)pthread_barrier_wait(&barrier);
    CHECK_EQ(load64_relaxed(&header(heap, t.block)->mask), heap->mine);
    CHECK_OK(sharena_trim(heap, NULL));
    CHECK_EQ(load64_relaxed(&header(heap, t.block)->mask), 0);
    (void)pthread_barrier_wait(&barrier);
    CHECK_EQ(pthread_join(id, NULL), 0);
    check_heap(heap);
}

/* ---- fork, death ------------------------------------------------------------------------------ */

struct family {
    sharena_heap *heap;
    void *kept, *out;
};

static void child_of_a_parent_with_runs_at_hand(struct peer *parent, void *argument)
{
    struct family *f = argument;
    sharena_block found;
    CHECK_EQ(at_hand(f->heap), 0);
    CHECK_EQ(sharena_find(f->heap, f->kept, &found), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_release(f->heap, f->kept), SHARENA_ENOTHELD);
    CHECK_EQ(load64_relaxed(&header(f->heap, f->kept)->mask) & f->heap->mine, 0);
    CHECK_OK(sharena_find(f->heap, f->out, &found));
    CHECK_EQ(*(uint8_t *)f->out, 0x42);
    peer_tell(parent);
    peer_await(parent);
    CHECK_EQ(*(uint8_t *)f->out, 0x42);
    CHECK_OK(sharena_release(f->heap, f->out));
    CHECK_EQ(at_hand(f->heap), 0);
    CHECK_EQ(sharena_release(f->heap, f->out), SHARENA_ENOTHELD);
    void *own[5]; /* its tables know nothing of what it never had */
    for (unsigned i = 0; i < 5; i++)
        own[i] = get(f->heap, MIB);
    for (unsigned i = 0; i < 5; i++)
        CHECK_OK(sharena_release(f->heap, own[i]));
    CHECK_EQ(at_hand(f->heap), 4); /* 32 MiB are retained at most */
    check_heap(f->heap);
}

static void a_fork_leaves_none_to_the_child(void)
{
    struct family f = {.heap = scratch_heap(256 * MIB, 256 * MIB)};
    struct peer child;
    f.out = released(f.heap, MIB);
    CHECK(get(f.heap, MIB) == f.out);
    memset(f.out, 0x42, MIB);
    f.kept = released(f.heap, MIB);
    peer_start(&child, child_of_a_parent_with_runs_at_hand, &f);
    peer_await(&child);
    CHECK_EQ(at_hand(f.heap), 0);
    CHECK_EQ(load64_relaxed(&header(f.heap, f.kept)->mask), 0);
    CHECK_OK(sharena_release(f.heap, f.out)); /* the child has it, too */
    CHECK_EQ(at_hand(f.heap), 0);
    CHECK_EQ(stats_of(f.heap).blocks, 1);
    memset(get(f.heap, MIB), 0x99, MIB);
    memset(get(f.heap, MIB), 0x99, MIB);
    peer_tell(&child);
    peer_join(&child);
    CHECK_OK(sharena_reap(f.heap, NULL));
    CHECK_EQ(stats_of(f.heap).blocks, 2);
    check_heap(f.heap);
}

/* A guest sees by its parent's bit: so what it does not hold must be let go before it is there. */
static void guest_of_a_parent_with_runs_at_hand(struct peer *parent, void *argument)
{
    struct family *f = argument;
    sharena_block found;
    void *block;
    CHECK(sharena_is_guest(f->heap));
    CHECK_EQ(sharena_find(f->heap, f->kept, &found), SHARENA_ENOTHELD);
    CHECK(sharena_malloc_at_hand(f->heap, MIB) == NULL);
    CHECK_EQ(sharena_allocate(f->heap, MIB, 0, 0, &block), SHARENA_EPROCESSES);
    CHECK_OK(sharena_release(f->heap, f->out));
    CHECK(sharena_malloc_at_hand(f->heap, MIB) == NULL);
    CHECK_EQ(sharena_allocate(f->heap, MIB, 0, 0, &block), SHARENA_EPROCESSES);
    peer_tell(parent);
    peer_await(parent);
    CHECK_EQ(*(uint8_t *)f->out, 0x42);
}

static void wait_for_the_end(struct peer *parent, void *argument)
{
    (void)argument;
    peer_tell(parent);
    peer_await(parent);
}

static void a_guest_has_none_and_its_parent_keeps_what_it_sees(void)
{
    struct family f = {.heap = scratch_heap(256 * MIB, 256 * MIB)};
    static struct peer others[SHR_PROCESSES - 1], guest;
    for (unsigned i = 0; i < SHR_PROCESSES - 1; i++) {
        peer_start(&others[i], wait_for_the_end, NULL);
        peer_await(&others[i]);
    }
    f.out = released(f.heap, MIB);
    CHECK(get(f.heap, MIB) == f.out);
    memset(f.out, 0x42, MIB);
    f.kept = released(f.heap, MIB);
    peer_start(&guest, guest_of_a_parent_with_runs_at_hand, &f);
    peer_await(&guest);
    CHECK_OK(sharena_release(f.heap, f.out));
    CHECK_EQ(at_hand(f.heap), 0);
    memset(get(f.heap, MIB), 0x99, MIB);
    memset(get(f.heap, MIB), 0x99, MIB);
    peer_tell(&guest);
    peer_join(&guest);
    for (unsigned i = 0; i < SHR_PROCESSES - 1; i++) {
        peer_tell(&others[i]);
        peer_join(&others[i]);
    }
    CHECK_OK(sharena_reap(f.heap, NULL));
    CHECK_EQ(stats_of(f.heap).blocks, 2);
    check_heap(f.heap);
}

static void of_a_process_that_leaves_or_is_killed(void)
{
    sharena_heap *heap = NULL;
    struct heap_address address;
    struct peer peers[2];
    for (unsigned i = 0; i < 2; i++) { /* before there is a heap that they would inherit */
        static int fds[2][2];
        CHECK_EQ(pipe(fds[i]), 0);
        peers[i].pid = fork();
        CHECK(peers[i].pid >= 0);
        if (peers[i].pid == 0) {
            (void)close(fds[i][1]);
            CHECK_EQ(read(fds[i][0], &address, sizeof address), sizeof address);
            heap = attach_to(&address);
            for (unsigned k = 0; k < 5; k++)
                (void)get(heap, MIB);
            (void)released(heap, MIB);
            (void)released(heap, 2 * MIB);
            if (i == 0)
                CHECK_OK(sharena_detach(heap));
            _exit(0); /* the second without leaving */
        }
        peers[i].to = fds[i][1];
        (void)close(fds[i][0]);
    }
    heap = scratch_heap(256 * MIB, 256 * MIB);
    address = address_of(heap);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(write(peers[i].to, &address, sizeof address), sizeof address);
        CHECK_EQ(waitpid(peers[i].pid, NULL, 0), peers[i].pid);
        CHECK_EQ(stats_of(heap).runs, i == 0 ? 0 : 7);
        CHECK_OK(sharena_reap(heap, NULL));
        CHECK_EQ(stats_of(heap).runs, 0);
        check_heap(heap);
    }
}

/* The lane of a heap that is left goes to the next one. */
static void of_a_heap_that_is_left(void)
{
    void *block = NULL;
    for (unsigned i = 0; i < 3; i++) {
        sharena_heap *heap = NULL;
        sharena_options options = {.limit_bytes = 256 * MIB, .reserve_bytes = 256 * MIB};
        CHECK_OK(sharena_create(NULL, &options, &heap));
        block = get(heap, MIB);
        CHECK_EQ(at_hand(heap), 0);
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(at_hand(heap), 1);
        CHECK_EQ(load64_relaxed(&heap->empty_units), 16);
        CHECK_OK(sharena_detach(heap));
    }
}

/* ---- damage ----------------------------------------------------------------------------------- */

static void spoilt_words(void)
{
    sharena_heap *heap = scratch_heap(256 * MIB, 256 * MIB);
    void *blocks[3];
    for (unsigned i = 0; i < 3; i++)
        blocks[i] = get(heap, MIB);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    store32_relaxed(&header(heap, blocks[0])->class, 7);
    store64_relaxed(&header(heap, blocks[1])->mask, 0);
    store32_relaxed(&header(heap, blocks[2])->class, 255);
    (void)stats_of(heap);
    CHECK_EQ(at_hand(heap), 0);
    for (unsigned i = 0; i < 20; i++) {
        void *block;
        int code = sharena_allocate(heap, MIB, 0, 0, &block);
        if (code == 0)
            (void)sharena_release(heap, block);
    }
}

/* ---- all at once --------------------------------------------------------------------------- */

struct crew {
    sharena_heap *heap;
    uint64_t *_Atomic passed; /* from thread to thread */
    shr_a32 stop;
    uint64_t seed;
    shr_a64 rounds;
};

static void *work(void *argument)
{
    struct crew *c = argument;
    uint64_t random = add64_relaxed(&c->rounds, 1) * 77 + c->seed, *mine[6] = {NULL};
    while (!load32_acquire(&c->stop)) {
        unsigned i = (unsigned)(random_next(&random) % 6);
        if (!mine[i]) {
            size_t units = 1 + random_next(&random) % 4;
            mine[i] = get(c->heap, units * KIB64);
            mine[i][0] = (uint64_t)(uintptr_t)&mine[i];
            mine[i][units * KIB64 / 8 - 1] = units;
        } else if (random_next(&random) % 4 == 0) {
            mine[i][0] = 1;
            mine[i] = atomic_exchange(&c->passed, mine[i]);
            if (mine[i]) {
                CHECK_EQ(mine[i][0], 1);
                mine[i][0] = (uint64_t)(uintptr_t)&mine[i];
            }
        } else {
            CHECK_EQ(mine[i][0], (uintptr_t)&mine[i]); /* nobody else has it */
            CHECK_OK(sharena_release(c->heap, mine[i]));
            mine[i] = NULL;
        }
        (void)add64_relaxed(&c->rounds, 1);
    }
    for (unsigned i = 0; i < 6; i++)
        if (mine[i])
            CHECK_OK(sharena_release(c->heap, mine[i]));
    return NULL;
}

static void fork_once(sharena_heap *heap)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)released(heap, 2 * KIB64);
        CHECK(get(heap, 5 * KIB64) != NULL);
        _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
}

/* Threads that keep, pass on and let go, while the hands are emptied under them. */
static void threads_forks_and_trims(void)
{
    struct crew c = {.heap = scratch_heap(512 * MIB, 512 * MIB), .seed = test_seed()};
    pthread_t threads[3];
    for (unsigned t = 0; t < 3; t++)
        CHECK_EQ(pthread_create(&threads[t], NULL, work, &c), 0);
    for (unsigned i = 0; i < 30; i++) {
        uint64_t until = load64_relaxed(&c.rounds) + 300;
        while (load64_relaxed(&c.rounds) < until)
            shr__sys_yield();
        if (i % 3 == 0)
            (void)stats_of(c.heap);
        else if (i % 3 == 1)
            CHECK_OK(sharena_trim(c.heap, NULL));
        else
            fork_once(c.heap);
    }
    store32_release(&c.stop, 1);
    for (unsigned t = 0; t < 3; t++)
        CHECK_EQ(pthread_join(threads[t], NULL), 0);
    if (c.passed)
        CHECK_OK(sharena_release(c.heap, c.passed));
    CHECK_OK(sharena_reap(c.heap, NULL));
    check_heap(c.heap);
    CHECK_EQ(stats_of(c.heap).blocks, 0);
    CHECK_EQ(load64_relaxed(&c.heap->empty_units), 0);
}

/* Hands of processes that sleep: together they keep half of what the heap may retain. */
static void fill_a_hand(struct peer *parent, void *argument)
{
    struct heap_address address;
    void *blocks[HAND_RUNS];
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    for (unsigned i = 0; i < HAND_RUNS; i++)
        blocks[i] = get(heap, MIB);
    for (unsigned i = 0; i < HAND_RUNS; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    peer_tell(parent);
    peer_await(parent);
}

static void sleeping_processes_keep_little(void)
{
    enum { N = 12 };
    struct peer peers[N];
    void *block;
    for (unsigned i = 0; i < N; i++)
        peer_start(&peers[i], fill_a_hand, NULL);
    sharena_heap *heap = scratch_heap(256 * MIB, 512 * MIB);
    struct heap_address address = address_of(heap);
    uint64_t sum = 0;
    for (unsigned i = 0; i < N; i++) {
        peer_send(&peers[i], &address, sizeof address);
        peer_await(&peers[i]);
    }
    for (unsigned s = 0; s < SHR_SLOTS; s++)
        sum += load64_relaxed(&shr__slot(heap, s)->at_hand);
    CHECK_LE(1, sum);
    CHECK_LE(sum, heap->retain_units / 2);
    CHECK_OK(sharena_allocate(heap, 200 * MIB, 0, 0, &block));
    for (unsigned i = 0; i < N; i++) {
        peer_tell(&peers[i]);
        peer_join(&peers[i]);
    }
    CHECK_OK(sharena_reap(heap, NULL));
    check_heap(heap);
}

CASES(CASE(before_a_count_and_a_trim), CASE(before_a_refusal),
      CASE(released_by_a_thread_that_ends), CASE(of_another_thread),
      CASE(a_fork_leaves_none_to_the_child),
      CASE(a_guest_has_none_and_its_parent_keeps_what_it_sees),
      CASE(of_a_process_that_leaves_or_is_killed), CASE(of_a_heap_that_is_left),
      CASE(spoilt_words), CASE(sleeping_processes_keep_little),
      CASE_FOR(60, threads_forks_and_trims))
