/* descriptor.c: classes, the road from offsets to metadata, and the table of holdings. */
#include "harness.h"
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)

static void classes_are_well_formed(void)
{
    shr__classes_init();
    CHECK_LE(shr__n_classes, SHR_CLASSES_MAX);
    CHECK_LE(shr__n_classes, SHARENA_CLASSES);
    for (uint32_t c = 1; c < shr__n_classes; c++) {
        const struct shr_class *k = &shr__classes[c];
        uint64_t bytes = (uint64_t)k->units * SHR_UNIT;
        CHECK_LE(shr__classes[c - 1].size + 1, k->size);
        CHECK_EQ(k->size % 16, 0);
        if (k->size >= 64)
            CHECK_EQ(k->size % 64, 0);
        if (k->size > 512 && k->size <= 32768)
            CHECK_LE(k->size * 8, shr__classes[c - 1].size * 9 + 8);
        if (k->size > 32768) /* where a run would take 64 KiB */
            CHECK_LE(k->size * 4, shr__classes[c - 1].size * 5);
        CHECK_EQ(k->capacity, bytes / k->size);
        CHECK_LE((bytes - (uint64_t)k->capacity * k->size) * 8, bytes); /* waste at the end */
        CHECK_LE(k->capacity * sizeof(struct desc_shm), (uint64_t)k->pages * SHR_PAGE);
        CHECK_LE((uint64_t)k->pages * SHR_PAGE, SHR_UNIT);
        for (uint64_t i = 0; i < bytes; i++) /* the reciprocal divides exactly */
            if (i * k->reciprocal >> 40 != i / k->size)
                FAIL("class of %u: %llu is in block %llu", k->size, (unsigned long long)i,
                     (unsigned long long)(i * k->reciprocal >> 40));
    }
    for (uint32_t size = 1; size <= SHR_SMALL_MAX; size++) {
        uint32_t c = shr__class_of[(size + 15) / 16];
        CHECK_LE(size, shr__classes[c].size);
        CHECK_LE(shr__classes[c - 1].size + 1, size);
    }
    CHECK_EQ(shr__classes[shr__n_classes - 1].size, SHR_SMALL_MAX);
}

/* Every offset of a small heap is decoded: to the block it lies in, or not at all. */
static void every_offset_decodes_or_is_refused(void)
{
    sharena_heap *heap = scratch_heap(16 * MIB, 16 * MIB);
    const size_t sizes[] = {16, 48, 100, 1000, 6000, 20480, 32768, 70000, 200000};
    uint8_t *blocks[9];
    struct block b;
    uint64_t found = 0, starts = 0;
    for (int i = 0; i < 9; i++)
        CHECK_OK(sharena_allocate(heap, sizes[i], 0, 0, (void **)&blocks[i]));
    uint64_t end = load64_acquire(&heap->control->used_units) << SHR_UNIT_SHIFT;
    for (uint64_t offset = 0; offset < end + SHR_UNIT; offset++) {
        int code = shr__decode_within(heap, offset, &b);
        if (code != 0) {
            CHECK_EQ(code, SHARENA_ESTALE);
            CHECK(shr__decode(heap, offset, &b) != 0);
            continue;
        }
        found++;
        CHECK_LE(b.offset, offset);
        if (b.class)
            CHECK_LE(offset + 1, b.offset + b.size);
        bool start = shr__decode(heap, offset, &b) == 0;
        if (start)
            CHECK_EQ(b.offset, offset);
        starts += start;
    }
    CHECK_LE(end / 2, found);
    CHECK_LE(1000, starts);
    for (int i = 0; i < 9; i++)
        CHECK_EQ(shr__decode(heap, (uint64_t)(blocks[i] - heap->data), &b), 0);
    const uint64_t beyond[] = {end,        heap->data_bytes,      heap->data_bytes - 1,
                               UINT64_MAX, UINT64_MAX - SHR_UNIT, (uint64_t)1 << 63};
    for (int i = 0; i < 6; i++) {
        CHECK(shr__decode(heap, beyond[i], &b) != 0);
        CHECK(shr__decode_within(heap, beyond[i], &b) != 0);
    }
}

/* The table against a plain array. */
static void holdings_against_a_model(void)
{
    enum { KEYS = 3000 };
    static uint32_t model[KEYS]; /* count, 0 = not there */
    struct shard shard;
    uint64_t random = test_seed();
    uint32_t used = 0;
    memset(&shard, 0, sizeof shard);
    CHECK(shr__holding(&shard, 0) == NULL);
    for (unsigned round = 0; round < 400000; round++) {
        uint64_t key = random_next(&random) % KEYS;
        uint64_t offset = key * 16 + (key % 3) * ((uint64_t)1 << 40);
        struct holding *e = shr__holding(&shard, offset);
        CHECK_EQ(e != NULL, model[key] != 0);
        if (e) {
            CHECK_EQ(e->offset, offset + 1);
            CHECK_EQ(e->number, key + 5);
            CHECK_EQ(e->count, model[key]);
        }
        bool shrink = round / 50000 % 2; /* fills and empties in turn */
        if (!e && !(shrink && round % 4)) {
            CHECK_EQ(shr__holding_reserve(&shard), 0);
            model[key] = 1 + (uint32_t)(random_next(&random) % 100);
            e = shr__holding_add(&shard, offset, key + 5, model[key], 0);
            CHECK_EQ(e->count, model[key]);
            used++;
        } else if (e && (shrink || round % 4 == 0)) {
            shr__holding_remove(&shard, e);
            model[key] = 0;
            used--;
        }
        CHECK_EQ(shard.used, used);
    }
    free(shard.table);
}

CASES(CASE(classes_are_well_formed), CASE(every_offset_decodes_or_is_refused),
      CASE(holdings_against_a_model))
