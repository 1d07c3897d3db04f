/* How long a single call takes, at worst: latency [steps].
 *
 * Allocations and releases are those of random lifetimes, 10 000 live blocks of 16 B to
 * 1 KiB; acquisitions are another process's, of as many handles at a time.  Each call is
 * timed by itself; the clock's own few ns are in every figure.  Printed in ns; what has no
 * peer is printed beside 0.
 */
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "meet.h"

#define LIVE 10000u

INLINE uint64_t tick(void)
{
#if defined(__x86_64__)
    unsigned cpu;
    return __rdtscp(&cpu);
#else
    return (uint64_t)now_ns();
#endif
}

static double ns_a_tick(void)
{
    uint64_t first = tick();
    double start = now_ns(), now;

    do
        now = now_ns();
    while (now - start < 2e7);
    return (now - start) / (double)(tick() - first);
}

INLINE void replace(struct allocator a, void **live, unsigned steps, uint64_t *got, uint64_t *put)
{
    struct random r = seeded();

    for (unsigned i = 0; i < LIVE; i++)
        live[i] = a.get(draw_small(&r));
    for (unsigned i = 0; i < steps; i++) {
        unsigned at = (unsigned)(draw(&r) % LIVE);
        size_t bytes = draw_small(&r);
        uint64_t start = tick(), middle;
        a.put(live[at]);
        middle = tick();
        live[at] = a.get(bytes);
        got[i] = tick() - middle;
        put[i] = middle - start;
        touch(live[at], i);
    }
    for (unsigned i = 0; i < LIVE; i++)
        a.put(live[i]);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void percentiles(const char *what, uint64_t *ours, uint64_t *theirs, unsigned n,
                        double scale)
{
    static const struct {
        const char *name;
        double part;
    } points[] = {{"p50", .5}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
    char name[64];

    qsort(ours, n, sizeof *ours, compare);
    if (theirs)
        qsort(theirs, n, sizeof *theirs, compare);
    for (unsigned i = 0; i < sizeof points / sizeof *points; i++) {
        unsigned at = (unsigned)(points[i].part * (n - 1));
        snprintf(name, sizeof name, "%s %s", what, points[i].name);
        report(name, (double)ours[at] * scale, theirs ? (double)theirs[at] * scale : 0);
    }
}

/* ---- acquire ---- */

struct exchange {
    struct turn filled, emptied;
    sharena_handle handles[LIVE];
    uint64_t ticks[]; /* one an acquisition */
};

static void acquire_all(struct exchange *x, unsigned batches)
{
    static sharena_block blocks[LIVE];

    pin(1);
    for (unsigned b = 0; b < batches; b++) {
        await_step(&x->filled, b + 1);
        for (unsigned i = 0; i < LIVE; i++) {
            uint64_t start = tick();
            if (sharena_acquire(heap, &x->handles[i], &blocks[i]) != 0)
                die("sharena_acquire");
            x->ticks[b * LIVE + i] = tick() - start;
        }
        for (unsigned i = 0; i < LIVE; i++)
            sharena_put(blocks[i].start);
        next_step(&x->emptied);
    }
}

static void acquire(double scale, unsigned batches)
{
    struct exchange *x = shared_memory(sizeof *x + sizeof(uint64_t) * LIVE * batches);
    struct random r = seeded();
    pid_t child = fork();

    if (child == 0) {
        acquire_all(x, batches);
        _exit(0);
    }
    if (child < 0)
        exit(1);
    for (unsigned b = 0; b < batches; b++) {
        for (unsigned i = 0; i < LIVE; i++) {
            void *block = sharena_get(draw_small(&r));
            if (sharena_export(heap, block, 1, &x->handles[i]) != 0)
                die("sharena_export");
            sharena_put(block);
        }
        next_step(&x->filled);
        await_step(&x->emptied, b + 1);
    }
    await_child(child);
    percentiles("acquire", x->ticks, NULL, LIVE * batches, scale);
}

int main(int argc, char **argv)
{
    unsigned steps = argument(argc, argv, 1, 1000000);
    static void *live[LIVE];
    uint64_t *ticks = calloc(4 * (size_t)steps, sizeof *ticks);
    double scale;

    if (ticks == NULL)
        return 1;
    memset(ticks, 1, 4 * (size_t)steps * sizeof *ticks); /* no page fault under the clock */
    pin(0);
    scale = ns_a_tick();
    heap_open();
    replace(SHARENA, live, steps, ticks, ticks + steps);
    replace(MIMALLOC, live, steps, ticks + 2 * (size_t)steps, ticks + 3 * (size_t)steps);
    percentiles("allocate", ticks, ticks + 2 * (size_t)steps, steps, scale);
    percentiles("release", ticks + steps, ticks + 3 * (size_t)steps, steps, scale);
    acquire(scale, steps / LIVE / 4 + 1);
    return 0;
}
