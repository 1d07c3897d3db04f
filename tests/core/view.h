/* The file of a heap as somebody outside sees it: has it changed, and a copy of it. */
#ifndef SHR_VIEW_H
#define SHR_VIEW_H

#include "harness.h"

#define RANGES_MOST 512u

/* The heap's metadata as the director saw it last.  Holes are never read through a mapping:
 * that would allocate them. */
struct view {
    int fd;
    uint64_t file_bytes;
    uint64_t looked_bytes; /* changes are looked for in: the metadata, or also the blocks */
    const uint8_t *now; /* mapped */
    uint8_t *then;      /* private */
    struct {
        uint64_t from, to;
    } ranges[RANGES_MOST];
    unsigned n_ranges;
    int64_t blocks;    /* of the file, when the ranges were found */
    uint8_t *resident; /* by page of what is looked at, for mincore() */
};

void view_open(struct view *, const struct heap_address *);
/* Looks for changes in the blocks as well, from now on. */
void view_widen(struct view *);
void view_close(struct view *);
/* Whether what is looked at differs from the last time; remembers them. */
bool view_changed(struct view *);
/* A copy of the file as it is now, in which nobody holds a lock. */
int view_copy(struct view *);

#endif
