/* See step.h. */
#include "step_run.h"
#include "ticket.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS_MOST 2000000u /* an operation that takes more hangs */
#define ALWAYS 60u /* states examined in any case; beyond, ever fewer unless all are wanted */

/* commands to the partner */
enum { SETTLE = 's', WORK = 'w', REAP = 'r', END = 'e', ANEW = 'n', COMPARE = 'c' };

/* ---- roles ------------------------------------------------------------------------------ */

static void make_heap(struct role *role)
{
    role->heap = scratch_heap(role->stage->limit_bytes, role->stage->reserve_bytes);
    role->stage->address = address_of(role->heap);
}

/* What a process does while another is stopped in the middle of something: all of it must
 * succeed, and the walker must find nothing even now. */
static void work(sharena_heap *heap)
{
    void *blocks[24];
    check_heap(heap);
    for (unsigned i = 0; i < 24; i++)
        CHECK_OK(sharena_allocate(heap, i % 8 == 7 ? 100000 : 24u << i % 8, 0, 0, &blocks[i]));
    CHECK_OK(sharena_reap(heap, NULL));
    for (unsigned i = 0; i < 24; i++)
        CHECK_OK(sharena_release(heap, blocks[i]));
    CHECK_OK(sharena_trim(heap, NULL));
    check_heap(heap);
}

/* Nobody is in the middle of anything: T says whether there is a use. */
static int compare_block(const sharena_block_info *info, void *argument)
{
    sharena_heap *heap = argument;
    struct block b;
    CHECK_OK(shr__decode(heap, info->offset, &b));
    CHECK_EQ((info->holders & SHR_BIT_T) != 0,
             shr__ticket_live(heap, info->offset, shr__number(&b)));
    return 0;
}

/* Ends all tickets; `anew`: and sends its block, so that what was gone a moment ago is there. */
static void end_all(struct role *role, bool anew)
{
    sharena_handle handle;
    CHECK_OK(sharena_ticket_expire(role->heap, 0, NULL));
    if (anew && role->blocks[0])
        CHECK_OK(sharena_export(role->heap, role->blocks[0], 1, &handle));
}

static void obey(struct role *role, char command)
{
    sharena_heap *heap = role->heap;
    if (command == WORK)
        work(heap);
    else if (command == REAP)
        CHECK_OK(sharena_reap(heap, NULL));
    else if (command == END || command == ANEW)
        end_all(role, command == ANEW);
    else if (command == COMPARE)
        CHECK_OK(sharena_block_list(heap, 0, compare_block, heap));
}

/* The partner: makes the heap, does its part, then serves commands until it is killed. */
static void partner_body(struct peer *parent, void *argument)
{
    struct run *run = argument;
    struct role role = {.stage = run->stage};
    make_heap(&role);
    run->stage->partner_slot = role.heap->slot;
    peer_tell(parent);
    peer_await(parent); /* the victim is dead by now */
    if (run->scenario->partner)
        run->scenario->partner(&role);
    peer_tell(parent);
    for (;;) {
        char command;
        if (read(parent->from, &command, 1) != 1) /* no deadline: the director is stepping */
            _exit(0);
        obey(&role, command);
        sharena_stats stats = command == SETTLE ? settle_all(role.heap) : stats_of(role.heap);
        peer_send(parent, &stats, sizeof stats);
    }
}

static void victim_body(struct peer *parent, void *argument)
{
    struct run *run = argument;
    struct role role = {.stage = run->stage, .heap = attach_to(&run->stage->address)};
    run->scenario->victim(&role);
    peer_tell(parent);
    for (;;)
        pause();
}

static void actor_body(struct peer *parent, void *argument)
{
    struct run *run = argument;
    struct role role = {.stage = run->stage};
    (void)parent;
    if (!(run->scenario->flags & STEP_ATTACHES)) {
        role.heap = attach_to(&run->stage->address);
        run->stage->actor_slot = role.heap->slot;
    }
    if (run->scenario->prepare)
        run->scenario->prepare(&role);
    CHECK_EQ(ptrace(PTRACE_TRACEME, 0, NULL, NULL), 0);
    raise(SIGUSR1); /* stepped from here ... */
    run->scenario->act(&role);
    raise(SIGUSR2); /* ... to here */
    for (;;)
        pause();
}

/* Small heaps, so that the whole of one can be allocated in the end.  A process stopped while
 * it cuts a run from the only free one has all of it: there must be more for the others. */
static void run_open(struct run *run, const struct scenario *scenario, bool roomy)
{
    bool tight = (scenario->flags & STEP_TIGHT) != 0;
    memset(run, 0, sizeof *run);
    run->scenario = scenario;
    run->stage = mmap(NULL, sizeof *run->stage, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(run->stage != MAP_FAILED);
    run->stage->limit_bytes = tight ? 4 << 20 : 128 << 20;
    run->stage->reserve_bytes = tight ? 8 << 20 : roomy ? 32 << 20 : 4 << 20;
    peer_start(&run->partner, partner_body, run);
    peer_await(&run->partner);
    if (scenario->victim) {
        peer_start(&run->victim, victim_body, run);
        peer_await(&run->victim);
        run->victim_lives = (scenario->flags & STEP_DIES_LATE) != 0;
        if (!run->victim_lives)
            peer_kill(&run->victim);
    }
    peer_tell(&run->partner);
    peer_await(&run->partner);
    view_open(&run->view, &run->stage->address);
    if (scenario->flags & STEP_DATA)
        view_widen(&run->view);
}

static void run_close(struct run *run)
{
    view_close(&run->view);
    peer_kill(&run->partner);
    munmap(run->stage, sizeof *run->stage);
}

static void start_actor(struct run *run)
{
    struct peer actor;
    peer_start(&actor, actor_body, run);
    run->actor = actor.pid;
    int status = await_child(actor.pid, 0);
    close(actor.to);
    close(actor.from);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGUSR1)
        FAIL("%s: the actor could not prepare", run->scenario->name);
    if (run->victim_lives)
        peer_kill(&run->victim);
    run->victim_lives = false;
    CHECK_EQ(ptrace(PTRACE_SETOPTIONS, actor.pid, NULL,
                    (void *)(PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK)),
             0);
}

static sharena_stats command(struct run *run, char what)
{
    sharena_stats stats;
    peer_send(&run->partner, &what, 1);
    peer_receive(&run->partner, &stats, sizeof stats);
    return stats;
}

static void kill_process(pid_t pid)
{
    kill(pid, SIGKILL);
    int status;
    do
        status = await_child(pid, __WALL);
    while (!WIFEXITED(status) && !WIFSIGNALED(status));
}

/* ---- stepping --------------------------------------------------------------------------- */

/* One instruction.  False when the process has reached the end of its part.  A forked child
 * is left stopped and told in *child. */
static bool step(const char *what, pid_t pid, pid_t *child)
{
    CHECK_EQ(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
    int status = await_child(pid, __WALL);
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) {
        unsigned long message;
        if (status >> 16 == PTRACE_EVENT_FORK && child) {
            CHECK_EQ(ptrace(PTRACE_GETEVENTMSG, pid, NULL, &message), 0);
            *child = (pid_t)message;
            await_child(*child, __WALL);
        }
        return true;
    }
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR2)
        return false;
    FAIL("%s: the actor %s %d", what, WIFEXITED(status) ? "failed, exit status" : "got signal",
         WIFEXITED(status)    ? WEXITSTATUS(status)
         : WIFSTOPPED(status) ? WSTOPSIG(status)
                              : WTERMSIG(status));
}

/* Steps `pid` to its end; examines every new state. */
static unsigned step_process(struct run *run, pid_t pid, unsigned n_alive,
                             const sharena_stats *expected, unsigned *steps, pid_t *child)
{
    unsigned states = 0, k = 0;
    for (; step(run->scenario->name, pid, child); k++) {
        if (k > STEPS_MOST)
            FAIL("%s: still not done after %u steps", run->scenario->name, k);
        if (!view_changed(&run->view))
            continue;
        if (run->all || states < ALWAYS || random_next(&run->random) % (states + 1) < ALWAYS)
            ask(run, n_alive, expected);
        states++;
    }
    *steps += k;
    return states;
}

unsigned step_through(const struct scenario *scenario, bool all, unsigned *steps)
{
    struct run run;
    pid_t child = 0;
    run_open(&run, scenario, false);
    run.all = all;
    run.random = test_seed();
    sharena_stats without = ask(&run, 1, NULL), with = without;
    start_actor(&run);
    if (scenario->flags & STEP_FORKS)
        with = ask(&run, 2, NULL);
    view_changed(&run.view);
    *steps = 0;
    run.verifies = true;
    unsigned states = step_process(&run, run.actor, 1, &without, steps, &child);
    if (scenario->flags & STEP_FORKS) {
        CHECK(child > 0);
        with.blocks -= scenario->at_hand_bytes > 0; /* let go before there is a child */
        with.live_bytes -= scenario->at_hand_bytes;
        states += step_process(&run, child, 2, &with, steps, NULL);
        kill_process(child);
    }
    kill_process(run.actor);
    ask(&run, 1, &without);
    run_close(&run);
    return states;
}

/* ---- killing for real ------------------------------------------------------------------- */

/* The survivor itself reaps, and finds what an examiner of a copy foresaw. */
static void settles_to(struct run *run, const sharena_stats *foreseen, unsigned k)
{
    /* The kernel drops the lock with the last hold on the dead one's memory, which may be that
     * of somebody who reads its /proc entry just now. */
    uint64_t deadline = now_ns() + UINT64_C(10000000000);
    sharena_stats after;
    do
        after = command(run, SETTLE);
    while (after.processes + 1 > foreseen->processes && now_ns() < deadline);
    if (after.blocks != foreseen->blocks || after.live_bytes != foreseen->live_bytes ||
        after.processes + 1 != foreseen->processes || after.tickets != 0)
        FAIL("%s, after %u: %llu blocks, %llu bytes, %u processes, %llu tickets; "
             "foreseen %llu, %llu, %u, 0",
             run->scenario->name, k, (unsigned long long)after.blocks,
             (unsigned long long)after.live_bytes, after.processes,
             (unsigned long long)after.tickets, (unsigned long long)foreseen->blocks,
             (unsigned long long)foreseen->live_bytes, foreseen->processes - 1);
}

/* Kills the actor after `until` steps, or at its end; returns how many there were. */
static unsigned kill_after(const struct scenario *scenario, unsigned until)
{
    struct run run;
    pid_t child = 0;
    unsigned k = 0;
    run_open(&run, scenario, false);
    sharena_stats foreseen = ask(&run, 1, NULL);
    start_actor(&run);
    while (k < until && step(scenario->name, run.actor, &child))
        k++;
    kill_process(run.actor);
    if (child > 0) {
        command(&run, REAP); /* the child lives on for a while */
        kill_process(child);
    }
    settles_to(&run, &foreseen, k);
    ask(&run, 1, &foreseen);
    run_close(&run);
    return k;
}

void step_kill(const struct scenario *scenario, unsigned steps, unsigned kills, uint64_t *random)
{
    unsigned stride = steps / kills + 1;
    for (unsigned i = 0; i < kills; i++)
        kill_after(scenario, i * stride + (unsigned)(random_next(random) % stride));
}

/* ---- stopping --------------------------------------------------------------------------- */

/* Steps to the state `wanted` (counted from 0); false when there is none. */
static bool step_to_state(struct run *run, unsigned wanted)
{
    pid_t child = 0;
    view_changed(&run->view);
    for (unsigned states = 0; step(run->scenario->name, run->actor, &child);)
        if (view_changed(&run->view) && states++ == wanted)
            return true;
    return false;
}

static void go_on_to_the_end(struct run *run, const char *where, unsigned number)
{
    CHECK_EQ(ptrace(PTRACE_CONT, run->actor, NULL, NULL), 0);
    int status = await_child(run->actor, __WALL);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGUSR2)
        FAIL("%s, stopped %s %u: the actor did not finish (status %x)", run->scenario->name,
             where, number, (unsigned)status);
}

static bool stop_in_state(const struct scenario *scenario, unsigned state)
{
    struct run run;
    run_open(&run, scenario, true);
    sharena_stats foreseen = ask(&run, 1, NULL);
    start_actor(&run);
    bool stopped = step_to_state(&run, state);
    if (stopped) {
        command(&run, WORK);
        go_on_to_the_end(&run, "in state", state);
    }
    kill_process(run.actor);
    settles_to(&run, &foreseen, state);
    ask(&run, 1, &foreseen);
    run_close(&run);
    return stopped;
}

unsigned step_stop(const struct scenario *scenario, unsigned first, unsigned stride,
                   unsigned most)
{
    unsigned stops = 0;
    for (unsigned state = first; stops < most && stop_in_state(scenario, state); state += stride)
        stops++;
    return stops;
}

/* ---- meeting ---------------------------------------------------------------------------- */

/* Is the next instruction atomic, that is, does it begin with the prefix LOCK? */
static bool before_an_atomic(pid_t pid)
{
#if defined(__x86_64__)
    struct user_regs_struct registers;
    CHECK_EQ(ptrace(PTRACE_GETREGS, pid, NULL, &registers), 0);
    errno = 0;
    long bytes = ptrace(PTRACE_PEEKTEXT, pid, (void *)registers.rip, NULL);
    return errno == 0 && (bytes & 0xff) == 0xf0;
#else
    (void)pid;
    return false;
#endif
}

static bool step_to_atomic(struct run *run, unsigned wanted)
{
    pid_t child = 0;
    for (unsigned seen = 0;;) {
        if (before_an_atomic(run->actor) && seen++ == wanted)
            return true;
        if (!step(run->scenario->name, run->actor, &child))
            return false;
    }
}

static bool meet_at(const struct scenario *scenario, unsigned number, char how)
{
    struct run run;
    run_open(&run, scenario, true);
    sharena_stats foreseen = ask(&run, 1, NULL);
    start_actor(&run);
    bool stopped = step_to_atomic(&run, number);
    if (stopped) {
        command(&run, how);
        go_on_to_the_end(&run, "before atomic instruction", number);
        command(&run, COMPARE);
    }
    kill_process(run.actor);
    settles_to(&run, &foreseen, number);
    run_close(&run);
    return stopped;
}

unsigned step_meet(const struct scenario *scenario, unsigned first, unsigned stride,
                   unsigned most)
{
    unsigned met = 0;
    for (unsigned i = first; met < most && meet_at(scenario, i, END); i += stride) {
        meet_at(scenario, i, ANEW);
        met++;
    }
    return met;
}
