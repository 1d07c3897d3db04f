/* Producer and consumer: remote [rounds] [batches-a-round].
 *
 * sharena: one process allocates 500 blocks of 16 B to 1 KiB, makes a handle of each and
 * lets go; another takes them over, reads and releases them.  mimalloc: the same between two
 * threads, with bare pointers.  Printed, in ns of CPU a block: the consumer's release; the
 * producer's allocation, which gets blocks back that others released; all that both do, for
 * sharena with the handles.
 */
#include <pthread.h>

#include "meet.h"

struct exchange {
    struct turn filled, emptied;
    double release_ns, all_ns; /* the consumer's */
    void *blocks[BATCH];
    sharena_handle handles[BATCH];
};

static unsigned total; /* batches of the whole run */

/* ---- the consumers ---- */

static void take_over(const sharena_handle *handle, void **block)
{
    sharena_block b;

    if (sharena_acquire(heap, handle, &b) != 0)
        die("sharena_acquire");
    *block = b.start;
}

INLINE void consume(struct allocator a, struct exchange *x, int by_handle)
{
    void *blocks[BATCH];

    for (unsigned n = 1; n <= total; n++) {
        double start, middle, end;
        await_step(&x->filled, n);
        start = cpu_ns();
        for (unsigned i = 0; i < BATCH; i++) {
            if (by_handle)
                take_over(&x->handles[i], &blocks[i]);
            else
                blocks[i] = x->blocks[i];
            touch(blocks[i], n);
        }
        middle = cpu_ns();
        for (unsigned i = 0; i < BATCH; i++)
            a.put(blocks[i]);
        end = cpu_ns();
        x->release_ns += end - middle;
        x->all_ns += end - start;
        next_step(&x->emptied);
    }
}

static void *consumer_thread(void *exchange)
{
    pin(1);
    consume(MIMALLOC, exchange, 0);
    return NULL;
}

/* ---- the producer ---- */

struct figures {
    double allocate, release, all;
};

static void hand_over(sharena_handle *handle, void *block)
{
    if (sharena_export(heap, block, 1, handle) != 0)
        die("sharena_export");
    sharena_put(block);
}

INLINE struct figures produce(struct allocator a, struct exchange *x, int by_handle,
                              unsigned batches, uint32_t *n)
{
    static void *blocks[BATCH];
    double allocate = 0, all = 0, blocks_made = (double)batches * BATCH;

    x->release_ns = x->all_ns = 0;
    for (unsigned b = 0; b < batches; b++) {
        double start = cpu_ns(), middle;
        for (unsigned i = 0; i < BATCH; i++) {
            blocks[i] = a.get(drawn[i]);
            touch(blocks[i], i);
        }
        middle = cpu_ns();
        allocate += middle - start;
        for (unsigned i = 0; i < BATCH; i++) {
            if (by_handle)
                hand_over(&x->handles[i], blocks[i]);
            else
                x->blocks[i] = blocks[i];
        }
        all += cpu_ns() - start;
        next_step(&x->filled);
        await_step(&x->emptied, ++*n);
    }
    all += x->all_ns;
    return (struct figures){allocate / blocks_made, x->release_ns / blocks_made,
                            all / blocks_made};
}

int main(int argc, char **argv)
{
    unsigned rounds = argument(argc, argv, 1, 21);
    unsigned batches = argument(argc, argv, 2, 40);
    uint32_t ours_at = 0, theirs_at = 0;
    struct exchange *ours = shared_memory(sizeof *ours), *theirs = shared_memory(sizeof *theirs);
    struct random r = seeded();
    pthread_t thread;
    pid_t child;

    for (unsigned i = 0; i < BATCH; i++)
        drawn[i] = draw_small(&r);
    total = (rounds + 1) * batches;
    heap_open();
    child = fork();
    if (child == 0) {
        pin(1);
        consume(SHARENA, ours, 1);
        _exit(0);
    }
    if (child < 0 || pthread_create(&thread, NULL, consumer_thread, theirs) != 0)
        return 1;
    pin(0);
    for (unsigned k = 0; k <= rounds; k++) {
        struct figures s = produce(SHARENA, ours, 1, batches, &ours_at);
        struct figures m = produce(MIMALLOC, theirs, 0, batches, &theirs_at);
        if (k == 0)
            continue; /* warm-up */
        report("release", s.release, m.release);
        report("allocate", s.allocate, m.allocate);
        report("all", s.all, m.all);
    }
    await_child(child);
    return pthread_join(thread, NULL);
}
