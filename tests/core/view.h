/* The file of a heap as somebody outside sees it: has it changed, and a copy of it. */
#ifndef SHR_VIEW_H
#define SHR_VIEW_H

#include "harness.h"

#define RANGES_MOST 512u

/* The heap's metadata as the director saw it last.  Holes are never read through a mapping:
 * that would allocate them. */
struct view {
    int fd;
    uint64_t file_bytes, meta_bytes;
    const uint8_t *now; /* mapped */
    uint8_t *then;      /* private */
    struct {
        uint64_t from, to;
    } ranges[RANGES_MOST];
    unsigned n_ranges;
    int64_t blocks;    /* of the file, when the ranges were found */
    uint8_t *resident; /* by page of the metadata, for mincore() */
};

void view_open(struct view *, const struct heap_address *);
void view_close(struct view *);
/* Whether the metadata differ from the last time; remembers them. */
bool view_changed(struct view *);
/* A copy of the file as it is now, in which nobody holds a lock. */
int view_copy(struct view *);

#endif
