/* An array that grows by half of its size each time, from 4 KiB: grow LIMIT-MiB [rounds].
 *
 * What is new is written, a word a page.  "first" is in a new heap, "again" the next time in
 * the same one.  The peer is glibc's realloc(), whose memory is new each time.  In ms.
 */
#include "bench.h"

#define FIRST 4096u
#define PAGE 4096u

static void *grow_sharena(void *block, size_t bytes)
{
    if (sharena_reallocate(heap, block, bytes, &block) != 0)
        die("sharena_reallocate");
    return block;
}

static void *grow_libc(void *block, size_t bytes)
{
    block = realloc(block, bytes);
    if (block == NULL)
        exit(1);
    return block;
}

INLINE double grow(struct allocator a, void *(*regrow)(void *, size_t), size_t limit)
{
    double start = cpu_ns();
    char *block = a.get(FIRST);
    size_t written = 0;

    for (size_t bytes = FIRST; bytes <= limit; bytes += bytes / 2) {
        block = regrow(block, bytes);
        for (; written < bytes; written += PAGE)
            touch(block + written, bytes);
    }
    a.put(block);
    return (cpu_ns() - start) / 1e6;
}

int main(int argc, char **argv)
{
    size_t limit = (size_t)argument(argc, argv, 1, 1024) << 20;
    unsigned rounds = argument(argc, argv, 2, 5);

    pin(0);
    for (unsigned k = 0; k < rounds; k++) {
        double cold, warm, theirs;
        heap_open();
        cold = grow(SHARENA, grow_sharena, limit);
        warm = grow(SHARENA, grow_sharena, limit);
        if (sharena_detach(heap) != 0)
            die("sharena_detach");
        theirs = grow(((struct allocator){malloc, free}), grow_libc, limit);
        report("first", cold, theirs);
        report("again", warm, theirs);
    }
    return 0;
}
