/* What the workers of the storm share. */
#ifndef SHR_STORM_H
#define SHR_STORM_H

#include "harness.h"
#include "internal.h"

enum { CELLS = 64, HELD = 40 };

/* Messages on their way, each with what it must lead to.  A cell is a channel of its own for each
 * message put there: the number of its pipe is in no cell before or afterwards, and the judge says
 * that nobody can read a pipe that is in no cell.  word: 0 empty, tag = worker + 1 while it writes
 * or takes, FULL. */
#define FULL 0xffffffffu
struct mail {
    struct heap_address address;
    struct {
        shr_a32 word;
        bool safe; /* nobody ends this message: each load must succeed */
        unsigned loads; /* that it is good for */
        shr_a64 pipe; /* 0: the channel is not told */
        uint64_t seed; /* of the block's signature */
        sharena_handle handle;
    } cells[CELLS];
    shr_a64 pipes; /* numbers given out */
    bool calm; /* nobody expires or takes back what was sent */
    shr_a64 done[16], judged, loaded;
};
extern struct mail *mail;

struct label {
    uint64_t seed, size;
};

struct worker {
    sharena_heap *heap;
    uint32_t tag;
    uint64_t random;
    uint8_t *held[HELD];
};

void sign(uint8_t *block, size_t size, uint64_t seed);
void check_signature(const uint8_t *block);
uint64_t draw(struct worker *w, uint64_t below);
/* A refusal for lack of memory is legal in a storm; anything else is not. */
bool granted(int code, const char *what);

/* ---- storm_mail.c ------------------------------------------------------------------------- */

void post(struct worker *w, unsigned i); /* what is held[i] */
void take(struct worker *w, unsigned i); /* into held[i] */
void forward(struct worker *w); /* as a proxy that loads nothing */
void clear_cells(uint32_t tag); /* what a dead worker had in its hands */
int judge(const sharena_inquiry *inquiry, void *argument);
/* With the judge's help nothing is left but what a cell has. */
void check_mail(sharena_heap *heap);

#endif
