/* What a second process adds: scaling [rounds] [pairs-a-phase].
 *
 * Two processes, each on a CPU of its own, run batches of mixed sizes: one alone, the other
 * alone, both at once.  Printed is throughput together / sum of the throughputs alone: 1 is
 * perfect.  sharena: both in one heap; mimalloc: each in its own.
 */
#include "meet.h"

struct shared {
    struct turn turn;
    double ns[2];
};

enum { ALONE_0, ALONE_1, TOGETHER, PHASES };

INLINE void phase(struct allocator a, struct shared *s, unsigned me, unsigned which,
                  unsigned batches, uint32_t *step)
{
    next_step(&s->turn);
    await_step(&s->turn, *step += 2);
    if (which == TOGETHER || which == me) {
        double start = now_ns();
        run_batches(a, batches);
        s->ns[me] = now_ns() - start;
    }
    next_step(&s->turn);
    await_step(&s->turn, *step += 2);
}

INLINE double scale(struct allocator a, struct shared *s, unsigned me, unsigned batches,
                    uint32_t *step)
{
    double alone;

    phase(a, s, me, ALONE_0, batches, step);
    phase(a, s, me, ALONE_1, batches, step);
    alone = 1 / s->ns[0] + 1 / s->ns[1];
    phase(a, s, me, TOGETHER, batches, step);
    return (1 / s->ns[0] + 1 / s->ns[1]) / alone;
}

static void work(struct shared *s, unsigned me, unsigned rounds, unsigned batches)
{
    uint32_t step = 0;

    pin(me);
    run_batches(SHARENA, 40);
    run_batches(MIMALLOC, 40);
    for (unsigned k = 0; k < rounds; k++) {
        double ours = scale(SHARENA, s, me, batches, &step);
        double theirs = scale(MIMALLOC, s, me, batches, &step);
        if (me == 0)
            report("scaling", ours, theirs);
    }
}

int main(int argc, char **argv)
{
    unsigned rounds = argument(argc, argv, 1, 41);
    unsigned batches = argument(argc, argv, 2, 200000) / BATCH;
    struct shared *s = shared_memory(sizeof *s);
    struct random r = seeded();
    pid_t child;

    draw_mixed(&r);
    heap_open();
    child = fork();
    if (child < 0)
        return 1;
    work(s, child == 0, rounds, batches);
    if (child == 0)
        _exit(0);
    await_child(child);
    return 0;
}
