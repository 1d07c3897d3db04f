/* What a seeded trace with shifting sizes costs in memory: fragmentation [thousandths] [explain].
 *
 * Phases: 16 B to 4 KiB; 64 KiB to 8 MiB; everything from 16 B to 8 MiB.  Each
 * doubling of the size is equally likely.  In a phase the number of live blocks swings between a
 * half and the whole of its most, and blocks die by chance; at its end nine tenths of the
 * small and three quarters of the large die, the rest stays in the way of the next phase.
 * In all 10^8 allocations and releases up to 4 KiB and 3*10^5 above, or so many thousandths.
 * A block's pages are all written to as soon as it is there.
 *
 * Each allocator replays the same trace in a process of its own, both at the same time, and
 * is asked 500 times in each phase, at the same steps of the trace: sharena for the blocks
 * of the heap's file and for what its process needs beside it, mimalloc for the resident
 * memory of its process.  Both less what was there before the trace.  "Time" in the average
 * is the trace's: a slow allocator does not get more weight.
 */
#include "bench.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SMALL_MOST 400000u /* live at once; 300 MiB */
#define LARGE_MOST 500u /* 870 MiB */
#define SWINGS 8u /* of the number of live blocks, a phase */
#define PHASES 3u
#define SAMPLES 500u /* a phase */

enum { OURS, PRIVATE, PEER, LIVE, KINDS };

/* One pool of live blocks: released by chance, so that lifetimes are exponential. */
struct pool {
    unsigned most, live;
    uint64_t ops;
    void **blocks;
    uint32_t *sizes;
};

struct replay {
    struct allocator a;
    struct random r;
    struct pool small, large;
    uint64_t live_bytes;
};

static double (*samples)[PHASES * SAMPLES]; /* [KINDS], shared */

static void *private_pages(size_t bytes, int shared)
{
    int flags = MAP_ANONYMOUS | MAP_POPULATE | (shared ? MAP_SHARED : MAP_PRIVATE);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

static struct pool pool_of(unsigned most)
{
    return (struct pool){most, 0, 0, private_pages(most * sizeof(void *), 0),
                         private_pages(most * sizeof(uint32_t), 0)};
}

/* From `low` up to `low` << doublings, each doubling equally likely. */
INLINE uint32_t draw_size(struct random *r, uint32_t low, unsigned doublings)
{
    uint32_t base = low << draw(r) % doublings;

    return base + (uint32_t)(draw(r) % base);
}

INLINE void write_pages(char *block, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 4096)
        block[at] = 1;
    block[bytes - 1] = 1;
}

INLINE void grow_pool(struct replay *t, struct pool *p, uint32_t size)
{
    void *block = t->a.get(size);

    write_pages(block, size);
    p->blocks[p->live] = block;
    p->sizes[p->live++] = size;
    t->live_bytes += size;
    p->ops++;
}

INLINE void shrink_pool(struct replay *t, struct pool *p)
{
    unsigned at = (unsigned)((draw(&t->r) >> 32) * p->live >> 32);

    t->a.put(p->blocks[at]);
    t->live_bytes -= p->sizes[at];
    p->blocks[at] = p->blocks[--p->live];
    p->sizes[at] = p->sizes[p->live];
    p->ops++;
}

/* One operation that keeps the pool near `target`. */
INLINE void step(struct replay *t, struct pool *p, unsigned target, uint32_t low,
                 unsigned doublings)
{
    /* Even at the target one dies or is born by chance. */
    int more = p->live < target / 100 * 98   ? draw(&t->r) % 8 != 0
               : p->live > target / 100 * 99 ? draw(&t->r) % 8 == 0
                                             : (int)(draw(&t->r) & 1);

    if ((more && p->live < p->most) || p->live == 0)
        grow_pool(t, p, draw_size(&t->r, low, doublings));
    else
        shrink_pool(t, p);
}

/* A swing: up to the most, down to a half. */
static unsigned target_at(unsigned most, unsigned sample)
{
    unsigned half = SAMPLES / SWINGS / 2, at = sample % (2 * half);

    return most / 2 +
           (at < half ? most / 2 * (at + 1) / half : most / 2 * (2 * half - at) / half);
}

static double resident(void)
{
    static int fd = -1;
    char text[128];
    unsigned long size, pages, shared;
    ssize_t n;

    if (fd < 0)
        fd = open("/proc/self/statm", O_RDONLY);
    n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%lu %lu %lu", &size, &pages, &shared) != 3)
        die("/proc/self/statm");
    return (double)(pages - shared) * 4096; /* the heap's own pages are counted by its file */
}

static double committed(void)
{
    struct stat file;

    if (fstat(sharena_descriptor(heap), &file) != 0)
        die("fstat");
    return (double)file.st_blocks * 512;
}

static void explain(const struct replay *t, unsigned phase, const char *when)
{
    sharena_stats s;
    double at = committed();

    if (sharena_stats_read(heap, &s) != 0)
        die("sharena_stats_read");
    fprintf(stderr,
            "phase %u, %s, MiB: committed %.1f; asked for %.1f, in blocks %.1f, stranded %.1f, "
            "retained %.1f, metadata %.1f; %llu runs, %llu slabs\n",
            phase + 1, when, at / 0x1p20, (double)t->live_bytes / 0x1p20,
            (double)s.live_bytes / 0x1p20, (double)s.stranded_bytes / 0x1p20,
            (double)s.retained_bytes / 0x1p20, (double)s.metadata_bytes / 0x1p20,
            (unsigned long long)s.runs, (unsigned long long)s.slabs);
}

static void replay(struct allocator a, int ours, unsigned thousandths, int loud)
{
    struct replay t = {a, seeded(), pool_of(SMALL_MOST), pool_of(LARGE_MOST), 0};
    uint64_t small = UINT64_C(50000) * thousandths, large = UINT64_C(150) * thousandths;
    double private = resident(), file = ours ? committed() : 0;

    for (unsigned phase = 0; phase < PHASES; phase++) {
        uint32_t low = phase == 1 ? 65536 : 4096;
        unsigned doublings = phase == 1 ? 7 : 11;
        for (unsigned s = 0; s < SAMPLES; s++) {
            unsigned at = phase * SAMPLES + s;
            uint64_t few = large / SAMPLES, many = small / SAMPLES;
            uint64_t turns = phase == 0 ? 1 : few ? few : 1;
            for (uint64_t i = 0; i < turns; i++) {
                if (phase != 0)
                    step(&t, &t.large, target_at(LARGE_MOST, s), low, doublings);
                for (uint64_t k = 0; phase != 1 && k < many / turns; k++)
                    step(&t, &t.small, target_at(SMALL_MOST, s), 16, 8);
            }
            samples[ours ? PRIVATE : PEER][at] = resident() - private;
            if (ours) {
                samples[OURS][at] = committed() - file;
                samples[LIVE][at] = (double)t.live_bytes;
            }
            if (ours && loud && s == SAMPLES / 2)
                explain(&t, phase, "in the middle");
        }
        while (t.small.live > SMALL_MOST / 10)
            shrink_pool(&t, &t.small);
        while (phase && t.large.live > LARGE_MOST / 4)
            shrink_pool(&t, &t.large);
        if (ours && loud)
            explain(&t, phase, "when most are dead");
    }
    if (loud)
        fprintf(stderr, "%s: %.3g operations up to 4 KiB, %.3g above\n",
                ours ? "sharena" : "mimalloc", (double)t.small.ops, (double)t.large.ops);
}

static pid_t start(int ours, unsigned thousandths, int loud)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    if (ours) {
        heap_open();
        replay(SHARENA, 1, thousandths, loud);
    } else {
        replay(MIMALLOC, 0, thousandths, loud);
    }
    _exit(0);
}

static void report_range(const char *name, unsigned from, unsigned to)
{
    double sum[KINDS] = {0}, peak[KINDS] = {0}, total, total_sum = 0, total_peak = 0;
    char line[64];

    for (unsigned i = from; i < to; i++) {
        for (unsigned k = 0; k < KINDS; k++) {
            sum[k] += samples[k][i];
            peak[k] = samples[k][i] > peak[k] ? samples[k][i] : peak[k];
        }
        total = samples[OURS][i] + samples[PRIVATE][i];
        total_sum += total;
        total_peak = total > total_peak ? total : total_peak;
    }
    const double mean = 1.0 / (to - from) / 0x1p20;
    const struct {
        const char *what;
        double ours, peer;
    } rows[] = {
        {"average", sum[OURS] * mean, sum[PEER] * mean},
        {"peak", peak[OURS] / 0x1p20, peak[PEER] / 0x1p20},
        {"private average", total_sum * mean, sum[PEER] * mean},
        {"private peak", total_peak / 0x1p20, peak[PEER] / 0x1p20},
        {"live average", sum[LIVE] * mean, sum[PEER] * mean},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(line, sizeof line, "%s %s", name, rows[i].what);
        report(line, rows[i].ours, rows[i].peer);
    }
}

int main(int argc, char **argv)
{
    unsigned thousandths = argument(argc, argv, 1, 1000);
    int loud = argc > 2, status[2];
    pid_t children[2];

    samples = private_pages(KINDS * sizeof *samples, 1);
    children[0] = start(1, thousandths, loud);
    children[1] = start(0, thousandths, loud);
    for (unsigned i = 0; i < 2; i++)
        if (waitpid(children[i], &status[i], 0) != children[i])
            die("waitpid");
    if (status[0] != 0 || status[1] != 0)
        die("a replay failed");
    report_range("all", 0, PHASES * SAMPLES);
    report_range("small", 0, SAMPLES);
    report_range("large", SAMPLES, 2 * SAMPLES);
    report_range("mixed", 2 * SAMPLES, 3 * SAMPLES);
    return 0;
}
