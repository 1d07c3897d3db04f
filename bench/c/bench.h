/* What the C measures share: two allocators of one shape, clocks, a printed line.
 *
 * A workload is an INLINE function that gets its allocator as a constant, so that the
 * compiler calls either one directly: both pay one call through the dynamic linker and no
 * more.  Every program prints lines of "case <tab> sharena <tab> peer", one a round; run.py
 * takes the medians.  Rounds of the two alternate.
 */
#ifndef BENCH_H
#define BENCH_H

#include <mimalloc.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sharena/sharena.h>

#define INLINE static inline __attribute__((always_inline))

struct allocator {
    void *(*get)(size_t bytes);
    void (*put)(void *block);
};

static sharena_heap *heap;

static inline void die(const char *what)
{
    fprintf(stderr, "bench: %s: %s\n", what, sharena_detail());
    exit(1);
}

/* A program looks at the result of an allocation, and not at free()'s: a release that failed
 * leaves a code in its thread, which report() looks at. */
INLINE void *sharena_get(size_t bytes)
{
    void *block = sharena_malloc(heap, bytes);

    if (!block)
        die("sharena_malloc");
    return block;
}

INLINE void sharena_put(void *block)
{
    (void)sharena_release(heap, block);
}

INLINE void *mimalloc_get(size_t bytes)
{
    void *block = mi_malloc(bytes);

    if (!block)
        die("mi_malloc");
    return block;
}

/* Calls of the library that do nothing: what the calls themselves take. */
INLINE void *no_get(size_t bytes)
{
    static uint64_t block;

    (void)bytes;
    (void)sharena_code();
    return &block;
}

INLINE void no_put(void *block)
{
    (void)block;
    (void)sharena_code();
}

#define NOTHING ((struct allocator){no_get, no_put})
#define SHARENA ((struct allocator){sharena_get, sharena_put})
#define MIMALLOC ((struct allocator){mimalloc_get, mi_free})

static inline void heap_open(void)
{
    if (sharena_create(NULL, NULL, &heap) != 0)
        die("sharena_create");
}

/* Blocks of both allocators are written to, as a program would. */
INLINE void touch(void *block, uint64_t value)
{
    *(volatile uint64_t *)block = value;
}

static inline unsigned argument(int argc, char **argv, int at, unsigned otherwise)
{
    return argc > at ? (unsigned)strtoul(argv[at], NULL, 10) : otherwise;
}

INLINE void report(const char *name, double sharena, double peer)
{
    if (sharena_code() != 0)
        die(name);
    printf("%s\t%.4f\t%.4f\n", name, sharena, peer);
    fflush(stdout);
}

/* ---- clocks and CPUs ---- */

INLINE double read_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Where one thread computes all the time: what others take of its CPU is not counted. */
INLINE double cpu_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

INLINE double now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

/* On the n-th of the CPUs this process may use at its start; if there are fewer, they share. */
static inline void pin(size_t n)
{
    static cpu_set_t allowed;
    size_t count = (size_t)CPU_COUNT(&allowed);
    cpu_set_t one;

    if (count == 0 && sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        count = (size_t)CPU_COUNT(&allowed);
    if (count == 0)
        return;
    n %= count;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || n-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

/* ---- sizes by chance, the same in every run ---- */

struct random {
    uint64_t state;
};

static inline struct random seeded(void)
{
    return (struct random){88172645463325252u};
}

INLINE uint64_t draw(struct random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state;
}

/* 16 B to 1 KiB, each equally likely. */
INLINE size_t draw_small(struct random *r)
{
    return 16 + draw(r) % 1009;
}

/* ---- batches: allocate 500 blocks, release them ---- */

#define BATCH 500u
#define DRAWN 8192u /* sizes, drawn before the clock runs; a power of two */

static size_t drawn[DRAWN];

/* 16 B to 32 KiB, each doubling equally likely. */
static inline void draw_mixed(struct random *r)
{
    for (unsigned i = 0; i < DRAWN; i++) {
        uint64_t base = (uint64_t)16 << draw(r) % 11;
        drawn[i] = base + draw(r) % base;
    }
}

/* Half of the batches are released in the order of their allocation, half the other way. */
INLINE void run_batches(struct allocator a, unsigned batches)
{
    static void *live[BATCH];
    unsigned at = 0;

    for (unsigned b = 0; b < batches; b++) {
        for (unsigned i = 0; i < BATCH; i++) {
            live[i] = a.get(drawn[at++ & (DRAWN - 1)]);
            touch(live[i], i);
        }
        if (b & 1)
            for (unsigned i = BATCH; i-- > 0;)
                a.put(live[i]);
        else
            for (unsigned i = 0; i < BATCH; i++)
                a.put(live[i]);
    }
}

#endif
