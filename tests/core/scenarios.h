/* What killstep does, and in which states of the heap.  Every scenario is one operation of an
 * actor; parts that several files use are declared here. */
#ifndef SHR_SCENARIOS_H
#define SHR_SCENARIOS_H

#include "step.h"

enum { SMALL = 96, HUGE_SMALL = 16384, BIG = 70000 };

/* Each ends with an entry without a name. */
extern const struct scenario block_scenarios[], share_scenarios[], ticket_scenarios[],
    lock_scenarios[];

void *make(struct role *role, unsigned i, size_t size);
void export_to(struct role *role, unsigned i, unsigned handle, unsigned uses);
void load(struct role *role, unsigned i, unsigned handle);
void drop(struct role *role, unsigned i);
void two_small(struct role *role);
void one_big(struct role *role);
void victim_sends_small(struct role *role);
void partner_passes_it_on(struct role *role);
void sent_small(struct role *role);
void partner_sends(struct role *role);
void partner_sends_and_drops(struct role *role);
void load_small(struct role *role);
void load_big(struct role *role);
void load_twice(struct role *role);
void sent_block_is_whole_or_gone(struct role *role);

#endif
