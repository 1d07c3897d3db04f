/* See view.h. */
#include "view.h"
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* At so many bytes of the file. */
static void look_at(struct view *v, uint64_t bytes)
{
    v->looked_bytes = bytes;
    v->now = mmap(NULL, bytes, PROT_READ, MAP_SHARED, v->fd, 0);
    v->then = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(v->now != MAP_FAILED && v->then != MAP_FAILED);
    v->blocks = -1;
    v->resident = malloc(bytes / SHR_PAGE);
    CHECK(v->resident != NULL);
}

void view_open(struct view *v, const struct heap_address *address)
{
    char path[64];
    struct super_shm super;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)address->pid, address->fd);
    memset(v, 0, sizeof *v);
    v->fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(v->fd >= 0);
    CHECK_EQ(pread(v->fd, &super, sizeof super, 0), sizeof super);
    v->file_bytes = super.file_bytes;
    look_at(v, super.data);
}

static void look_no_more(struct view *v)
{
    munmap((void *)(uintptr_t)v->now, v->looked_bytes);
    munmap(v->then, v->looked_bytes);
    free(v->resident);
}

void view_widen(struct view *v)
{
    look_no_more(v);
    look_at(v, v->file_bytes);
}

void view_close(struct view *v)
{
    look_no_more(v);
    close(v->fd);
}

/* The stretches of [0, end) that have pages. */
static unsigned find_ranges(struct view *v, uint64_t end)
{
    unsigned n = 0;
    for (off_t at = 0; (uint64_t)at < end;) {
        off_t data = lseek(v->fd, at, SEEK_DATA);
        if (data < 0 || (uint64_t)data >= end)
            break;
        off_t hole = lseek(v->fd, data, SEEK_HOLE);
        CHECK(hole > data && n < RANGES_MOST);
        v->ranges[n].from = (uint64_t)data;
        v->ranges[n++].to = (uint64_t)hole < end ? (uint64_t)hole : end;
        at = hole;
    }
    v->n_ranges = n;
    return n;
}

/* Finds the ranges again when pages have come or gone.  A page that was committed but never
 * touched counts as a hole for lseek(), and would become data unnoticed by its first write:
 * so each is touched here, which allocates nothing. */
static void follow_pages(struct view *v)
{
    struct stat st;
    size_t pages = v->looked_bytes / SHR_PAGE;
    CHECK_EQ(fstat(v->fd, &st), 0);
    if (v->blocks == st.st_blocks)
        return;
    v->blocks = st.st_blocks;
    CHECK_EQ(mincore((void *)(uintptr_t)v->now, v->looked_bytes, v->resident), 0);
    for (size_t i = 0; i < pages; i++)
        if (v->resident[i] & 1)
            (void)*(const volatile uint8_t *)(v->now + i * SHR_PAGE);
    find_ranges(v, v->looked_bytes);
}

bool view_changed(struct view *v)
{
    bool changed = false;
    follow_pages(v);
    for (unsigned i = 0; i < v->n_ranges; i++) {
        uint64_t from = v->ranges[i].from, size = v->ranges[i].to - from;
        if (memcmp(v->now + from, v->then + from, size) != 0) {
            memcpy(v->then + from, v->now + from, size);
            changed = true;
        }
    }
    return changed;
}

int view_copy(struct view *v)
{
    static uint8_t buffer[1 << 16];
    int copy = memfd_create("step", MFD_CLOEXEC);
    CHECK(copy >= 0);
    CHECK_EQ(ftruncate(copy, (off_t)v->file_bytes), 0);
    find_ranges(v, v->file_bytes);
    v->blocks = -1; /* the ranges are no longer those of the metadata */
    for (unsigned i = 0; i < v->n_ranges; i++)
        for (uint64_t at = v->ranges[i].from; at < v->ranges[i].to;) {
            uint64_t left = v->ranges[i].to - at;
            size_t size = left < sizeof buffer ? (size_t)left : sizeof buffer;
            CHECK_EQ(pread(v->fd, buffer, size, (off_t)at), size);
            CHECK_EQ(pwrite(copy, buffer, size, (off_t)at), size);
            at += size;
        }
    return copy;
}
