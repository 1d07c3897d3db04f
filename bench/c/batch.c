/* Allocate a batch of 500 blocks, release it: batch [rounds] [pairs-a-round].
 *
 * One case a size, "mix", which draws each block's size from 16 B to 32 KiB, and "calls": two
 * calls that do nothing, beside mimalloc's 64 B.
 */
#include "bench.h"

INLINE void measure(const char *name, struct allocator ours, unsigned rounds, unsigned batches)
{
    run_batches(ours, 20);
    run_batches(MIMALLOC, 20);
    for (unsigned k = 0; k < rounds; k++) {
        double start = cpu_ns(), middle;
        run_batches(ours, batches);
        middle = cpu_ns();
        run_batches(MIMALLOC, batches);
        report(name, (middle - start) / (batches * BATCH),
               (cpu_ns() - middle) / (batches * BATCH));
    }
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {16,  32,   64,   96,   128,  192,   256,
                                   512, 1024, 2048, 4096, 8192, 16384, 32768};
    unsigned rounds = argument(argc, argv, 1, 15);
    unsigned batches = argument(argc, argv, 2, 100000) / BATCH;
    struct random r = seeded();
    char name[32];

    pin(0);
    heap_open();
    for (unsigned i = 0; i <= sizeof sizes / sizeof *sizes; i++) {
        if (i < sizeof sizes / sizeof *sizes) {
            snprintf(name, sizeof name, "%zu", sizes[i]);
            for (unsigned k = 0; k < DRAWN; k++)
                drawn[k] = sizes[i];
        } else {
            snprintf(name, sizeof name, "mix");
            draw_mixed(&r);
        }
        measure(name, SHARENA, rounds, batches);
    }
    for (unsigned k = 0; k < DRAWN; k++)
        drawn[k] = 64;
    measure("calls", NOTHING, rounds, batches);
    return 0;
}
