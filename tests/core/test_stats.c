/* stats.c: the figures are those of the heap. */
#include "harness.h"
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void figures_follow_the_blocks(void)
{
    sharena_heap *heap = NULL;
    void *small[100], *big[3], *sent;
    sharena_handle handle;
    sharena_options options = {
        .limit_bytes = 64 * MIB, .reserve_bytes = 128 * MIB, .retain_bytes = 16 * MIB};
    CHECK_OK(sharena_create(NULL, &options, &heap));
    sharena_stats s = stats_of(heap);
    CHECK_EQ(s.limit_bytes, 64 * MIB);
    CHECK_EQ(s.reserve_bytes, 128 * MIB);
    CHECK_EQ(s.retain_bytes, 16 * MIB);
    CHECK_EQ(s.live_bytes + s.blocks + s.runs + s.slabs + s.tickets + s.names + s.guests, 0);
    CHECK_EQ(s.committed_bytes, s.metadata_bytes);
    for (int i = 0; i < 100; i++)
        CHECK_OK(sharena_allocate(heap, 1024, 0, 0, &small[i]));
    for (int i = 0; i < 3; i++)
        CHECK_OK(sharena_allocate(heap, 1000000, 0, 0, &big[i]));
    s = stats_of(heap);
    uint64_t big_bytes = (1000000 + SHR_UNIT - 1) / SHR_UNIT * SHR_UNIT;
    CHECK_EQ(s.blocks, 103);
    CHECK_EQ(s.runs, 3);
    CHECK_EQ(s.slabs, 2);
    CHECK_EQ(s.live_bytes, 100 * 1024 + 3 * big_bytes);
    CHECK_EQ(s.stranded_bytes, 28 * 1024);
    CHECK_EQ(s.committed_bytes, s.metadata_bytes + 2 * SHR_UNIT + 3 * big_bytes);
    CHECK_LE(shr__sys_blocks(sharena_descriptor(heap)), s.committed_bytes + 65536);
    CHECK_LE(s.committed_bytes, shr__sys_blocks(sharena_descriptor(heap)) + 65536);
    uint32_t class = shr__class_of[1024 / 16];
    CHECK_EQ(s.by_class[class].size_bytes, 1024);
    CHECK_EQ(s.by_class[class].blocks, 100);
    CHECK_EQ(s.by_class[class].capacity, 128);
    CHECK_EQ(s.by_class[class].slabs, 2);
    sent = big[0];
    CHECK_OK(sharena_export(heap, sent, 3, &handle));
    CHECK_EQ(stats_of(heap).inflight_bytes, 0);
    CHECK_OK(sharena_release(heap, sent));
    CHECK_OK(sharena_name_set(heap, "n", small[0], NULL, 0));
    s = stats_of(heap);
    CHECK_EQ(s.inflight_bytes, big_bytes);
    CHECK_EQ(s.tickets, 1);
    CHECK_EQ(s.names, 1);
    CHECK_OK(sharena_release(heap, big[1]));
    s = stats_of(heap);
    CHECK_EQ(s.retained_bytes, big_bytes);
    CHECK_EQ(s.runs, 2);
}

struct list {
    unsigned n;
    uint64_t bytes;
    char site[128];
};

static int list_block(const sharena_block_info *info, void *argument)
{
    struct list *list = argument;
    list->n++;
    list->bytes += info->size_bytes;
    CHECK(info->holders != 0);
    if (info->site[0])
        snprintf(list->site, sizeof list->site, "%s", info->site);
    return list->n == 500;
}

static void blocks_are_listed_with_their_sites(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct list list = {.n = 0};
    void *block, *big;
    char longest[200];
    for (int i = 0; i < 1000; i++)
        CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    CHECK_OK(sharena_allocate(heap, 1000000, 0, 0, &big));
    CHECK_OK(sharena_block_list(heap, 0, list_block, &list));
    CHECK_EQ(list.n, 500); /* stopped by the callback */
    CHECK_OK(sharena_trace(heap, big, "filter.py:12"));
    list = (struct list){.n = 0};
    CHECK_OK(sharena_block_list(heap, 500000, list_block, &list));
    CHECK_EQ(list.n, 1);
    CHECK_STR(list.site, "filter.py:12");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    CHECK_OK(sharena_trace(heap, big, longest));
    list = (struct list){.n = 0};
    CHECK_OK(sharena_block_list(heap, 500000, list_block, &list));
    CHECK_EQ(strlen(list.site), 119);
    int on_stack;
    CHECK_EQ(sharena_trace(heap, &on_stack, "x"), SHARENA_ENOTHELD);
    /* A site goes with its block. */
    CHECK_OK(sharena_release(heap, big));
    CHECK_OK(sharena_allocate(heap, 1000000, 0, 0, &big));
    list = (struct list){.n = 0};
    CHECK_OK(sharena_block_list(heap, 500000, list_block, &list));
    CHECK_STR(list.site, "");
}

static void sites_run_out_quietly(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *block;
    char site[64];
    CHECK_OK(sharena_allocate(heap, 100000, 0, 0, &block));
    for (unsigned i = 0; i < 3 * SHR_SITES; i++) {
        snprintf(site, sizeof site, "file%u.py:1", i);
        int code = sharena_trace(heap, block, site);
        CHECK(code == 0 || i >= SHR_SITES);
    }
    for (unsigned i = 0; i < 100; i++) { /* a site that is known takes no new entry */
        CHECK_OK(sharena_trace(heap, block, "file7.py:1"));
    }
    check_heap(heap);
}

CASES(CASE(figures_follow_the_blocks), CASE(blocks_are_listed_with_their_sites),
      CASE(sites_run_out_quietly))
