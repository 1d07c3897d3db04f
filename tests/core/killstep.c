/* Kills at every instruction of every operation; see step.h for how.
 *
 *   killstep [--all] [--kills N] [--stops N] [NAME...]
 *
 * Every scenario is stepped through completely, and every distinct state of the heap is
 * recovered and examined.  Then the actor is really killed N times at steps spread over the
 * operation, and stopped N times in some state while its partner works.  What makes or ends
 * tickets is stopped before each atomic instruction, while its partner ends all tickets.  Each
 * scenario is one case of the harness. */
#include "scenarios.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SCENARIOS_MOST = 100, TABLES = 4, MEETINGS = 60 };

static unsigned kills = 3, stops = 2;
static bool all;

/* Without --all, no scenario takes more than this many steps for its kills, and for its
 * stops, as long as there is one of each. */
#define STEPS_BUDGET 60000u

static unsigned within_budget(unsigned wanted, unsigned steps)
{
    unsigned most = STEPS_BUDGET / (steps + 1) + 1;
    return all || wanted < most ? wanted : most;
}

static const struct scenario *const tables[TABLES] = {block_scenarios, share_scenarios,
                                                      ticket_scenarios, lock_scenarios};

static const struct scenario *find(const char *name)
{
    for (int t = 0; t < TABLES; t++)
        for (const struct scenario *s = tables[t]; s->name; s++)
            if (strcmp(s->name, name) == 0)
                return s;
    FAIL("no scenario %s", name);
}

static void run_scenario(void)
{
    const struct scenario *scenario = find(harness_case());
    uint64_t random = test_seed();
    unsigned steps = 0, states, killed, stopped = 0, met = 0;
    states = step_through(scenario, all, &steps);
    if ((states == 0) != ((scenario->flags & STEP_PRIVATE) != 0))
        FAIL("%s has %u states", scenario->name, states);
    killed = within_budget(kills, steps);
    if (killed > 0)
        step_kill(scenario, steps, killed, &random);
    if (stops > 0 && !(scenario->flags & (STEP_TIGHT | STEP_FORKS))) {
        unsigned stride = all ? 1 : states / stops + 1;
        stopped = step_stop(scenario, (unsigned)(random_next(&random) % stride), stride,
                            within_budget(all ? states : stops, steps));
    }
    if (scenario->flags & STEP_ENDS)
        met = step_meet(scenario, 0, 1, all ? UINT32_MAX : MEETINGS);
    printf("        %u instructions, %u states, %u kills, %u stops, %u meetings\n", steps, states,
           killed, stopped, met);
}

/* String instructions are stepped through byte by byte: have the C library use loops. */
static void without_string_instructions(char **argv)
{
    const char *name = "GLIBC_TUNABLES";
    if (getenv(name))
        return;
    setenv(name,
           "glibc.cpu.x86_rep_stosb_threshold=1000000000:"
           "glibc.cpu.x86_rep_movsb_threshold=1000000000",
           1);
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    without_string_instructions(argv);
    struct test_case cases[SCENARIOS_MOST];
    size_t n = 0;
    int kept = 1;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--all") == 0) {
            all = true;
            kills = 500;
        } else if (strcmp(argv[i], "--kills") == 0 && i + 1 < argc) {
            kills = (unsigned)strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--stops") == 0 && i + 1 < argc) {
            stops = (unsigned)strtoul(argv[++i], NULL, 10);
        } else {
            argv[kept++] = argv[i];
        }
    for (int t = 0; t < TABLES; t++)
        for (const struct scenario *s = tables[t]; s->name && n < SCENARIOS_MOST; s++)
            cases[n++] = (struct test_case){s->name, run_scenario, all ? 3600 : 60};
    return harness_main(kept, argv, cases, n);
}
