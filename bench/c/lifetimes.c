/* Random lifetimes: a table of live blocks of 16 B to 1 KiB, each step replaces one chosen
 * by chance: lifetimes LIVE [rounds] [steps-a-round].
 */
#include "bench.h"

INLINE void replace(struct allocator a, void **live, unsigned n, struct random *r, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        unsigned at = (unsigned)((draw(r) >> 32) * n >> 32);
        a.put(live[at]);
        live[at] = a.get(draw_small(r));
        touch(live[at], i);
    }
}

INLINE void **fill(struct allocator a, unsigned n, struct random *r)
{
    void **live = malloc(n * sizeof *live);

    if (live == NULL)
        exit(1);
    for (unsigned i = 0; i < n; i++) {
        live[i] = a.get(draw_small(r));
        touch(live[i], i);
    }
    replace(a, live, n, r, 3 * n); /* until the holes are where they will be */
    return live;
}

int main(int argc, char **argv)
{
    unsigned n = argument(argc, argv, 1, 10000);
    unsigned rounds = argument(argc, argv, 2, 11);
    unsigned steps = argument(argc, argv, 3, 200000);
    struct random r = seeded(), q = r;
    void **ours, **theirs;
    char name[32];

    pin(0);
    heap_open();
    snprintf(name, sizeof name, "%u", n);
    ours = fill(SHARENA, n, &r);
    theirs = fill(MIMALLOC, n, &q);
    for (unsigned k = 0; k < rounds; k++) {
        double start = cpu_ns(), middle;
        replace(SHARENA, ours, n, &r, steps);
        middle = cpu_ns();
        replace(MIMALLOC, theirs, n, &q, steps);
        report(name, (middle - start) / steps, (cpu_ns() - middle) / steps);
    }
    return 0;
}
