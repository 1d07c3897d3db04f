/* Single-stepping a process to every state that a kill can leave in shared memory.
 *
 * A kill after instruction k leaves the heap's file as it is at that moment, and nothing
 * else of the process.  So the actor is not killed N times: it is stepped once, through the
 * whole operation, and whenever an instruction (or a system call) has changed the file's
 * metadata, the file is copied.  In the copy nobody holds the actor's slot lock: there it
 * is dead.  A process of its own then recovers the copy and examines it.  That visits every
 * distinct state, with the work of the distinct states only.
 *
 * What a copy cannot show (the kernel's part in a death: locks, pages, descriptors) is
 * covered by really killing the actor at steps spread over the operation, with a survivor
 * that lives through all of them.
 *
 * Roles: the director (never attached: it forks a lot), a partner that stays alive and holds
 * things, the actor, examiners of copies. */
#ifndef SHR_STEP_H
#define SHR_STEP_H

#include "harness.h"

enum { STEP_HANDLES = 8, STEP_BLOCKS = 64 };

/* Shared by all roles of one run. */
struct stage {
    struct heap_address address;
    unsigned partner_slot, actor_slot;
    sharena_handle handles[STEP_HANDLES];
    uint64_t limit_bytes, reserve_bytes;
};

/* What a role has in its own memory. */
struct role {
    sharena_heap *heap;
    struct stage *stage;
    void *blocks[STEP_BLOCKS];
    int result;
};

struct scenario {
    const char *name;
    void (*victim)(struct role *);  /* a process that is killed before the partner starts */
    void (*partner)(struct role *); /* the survivor, before the actor starts */
    void (*prepare)(struct role *); /* the actor */
    void (*act)(struct role *);     /* the actor, stepped */
    void (*verify)(struct role *);  /* an examiner, after reaping and before anything else */
    uint64_t at_hand_bytes; /* of the one large block that lies at hand when act starts */
    unsigned flags;
};
#define STEP_FORKS 1u    /* the actor forks: its child is stepped too */
#define STEP_ATTACHES 2u /* the actor's heap is NULL when it starts */
#define STEP_DIES_LATE 8u /* the victim dies when the actor is prepared: attaching reaps */
#define STEP_PRIVATE 16u /* changes nothing that others see; all others must */
#define STEP_ENDS 32u    /* its tickets may end at any moment: the partner tries all */
#define STEP_DATA 64u    /* what it writes into blocks counts as a state, too */
#define STEP_TIGHT 4u    /* a heap whose limit is only just enough */

/* Visits the states of the scenario: all, or a sample where there are very many.  Returns how
 * many there were. */
unsigned step_through(const struct scenario *, bool all, unsigned *steps);
/* Kills the actor for real, `kills` times spread over `steps`. */
void step_kill(const struct scenario *, unsigned steps, unsigned kills, uint64_t *random);
/* Stops the actor in state `first` and every `stride`th from there, `most` times at most, lets
 * the partner work, then lets the actor finish.  Returns how often. */
unsigned step_stop(const struct scenario *, unsigned first, unsigned stride, unsigned most);

/* Stops the actor before its atomic instruction `first` and every `stride`th from there, `most`
 * times at most; meanwhile the partner ends all tickets, or also sends its block anew.  When the
 * actor is done, T must say of each block whether a use is left.  Returns how often; 0 where
 * instructions can't be told. */
unsigned step_meet(const struct scenario *, unsigned first, unsigned stride, unsigned most);

#endif
