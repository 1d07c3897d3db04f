/* One run of a scenario, shared by step.c and step_examine.c. */
#ifndef SHR_STEP_RUN_H
#define SHR_STEP_RUN_H

#include "step.h"
#include "view.h"

struct run {
    const struct scenario *scenario;
    struct stage *stage;
    struct peer partner, victim;
    bool victim_lives;
    pid_t actor;
    unsigned asked;
    bool all, verifies;
    uint64_t random;
    struct view view;
};

/* What is left when the dead are reaped and all that they sent or named is gone. */
sharena_stats settle_all(sharena_heap *heap);
/* Examines a copy of the present state; the slots of the first n_alive of {partner, actor} count
 * as living processes. */
sharena_stats ask(struct run *run, unsigned n_alive, const sharena_stats *expected);

#endif
