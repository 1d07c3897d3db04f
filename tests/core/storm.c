/* A storm of kills: workers do everything to one heap and are killed at any moment.
 *
 *   storm [SECONDS [WORKERS]]
 *
 * Each block carries a pattern written before anybody else can know it, and checked whenever
 * it is loaded or dropped: a block that was freed too early or handed out twice shows.  The
 * keeper walks the heap all the time.  In the second half no ticket is expired, and so no message
 * may be lost.  In the end everybody is dead, and the heap must be empty and whole. */
#include "storm.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

enum { WORKERS_MOST = 40 };

static unsigned seconds = 10, workers = 8;

struct mail *mail;

void sign(uint8_t *block, size_t size, uint64_t seed)
{
    struct label label = {seed, size};
    memcpy(block, &label, sizeof label);
    for (size_t i = sizeof label; i < size && i < 200; i++)
        block[i] = (uint8_t)(seed + i);
    block[size - 1] = (uint8_t)seed;
}

void check_signature(const uint8_t *block)
{
    struct label label;
    memcpy(&label, block, sizeof label);
    for (size_t i = sizeof label; i + 1 < label.size && i < 200; i++)
        if (block[i] != (uint8_t)(label.seed + i))
            FAIL("byte %zu of a block of %llu (seed %llx) is %02x", i,
                 (unsigned long long)label.size, (unsigned long long)label.seed, block[i]);
    CHECK_EQ(block[label.size - 1], (uint8_t)label.seed);
}

uint64_t draw(struct worker *w, uint64_t below)
{
    return random_next(&w->random) % below;
}

bool granted(int code, const char *what)
{
    if (code == 0)
        return true;
    if (code != SHARENA_EFULL && code != SHARENA_ERESERVE && code != SHARENA_EBUSY &&
        code != SHARENA_ETICKETS && code != SHARENA_ENAMES)
        FAIL("%s: %d (%s), %s", what, code, sharena_strerror(code), sharena_detail());
    return false;
}

static size_t random_size(struct worker *w)
{
    uint64_t kind = draw(w, 20);
    return 32 + draw(w, kind < 12 ? 500 : kind < 18 ? 33000 : 400000);
}

static void let_go(struct worker *w, unsigned i)
{
    check_signature(w->held[i]);
    CHECK_OK(sharena_release(w->heap, w->held[i]));
    w->held[i] = NULL;
}

static void get(struct worker *w, unsigned i)
{
    size_t size = random_size(w);
    void *block;
    if (!granted(sharena_allocate(w->heap, size, 0, (unsigned)draw(w, 2), &block), "allocate"))
        return;
    w->held[i] = block;
    sign(block, size, random_next(&w->random));
}

static void use_name(struct worker *w, unsigned i)
{
    char name[16], payload[8];
    sharena_block block;
    size_t size = sizeof payload;
    snprintf(name, sizeof name, "n%u", (unsigned)draw(w, 12));
    int code;
    if (draw(w, 4) == 0) {
        code = sharena_name_remove(w->heap, name);
        CHECK(code == 0 || code == SHARENA_ENOTFOUND || code == SHARENA_EBUSY);
    } else if (w->held[i]) {
        granted(sharena_name_set(w->heap, name, w->held[i], name, 2), "name_set");
    } else {
        code = sharena_name_get(w->heap, name, &block, payload, &size);
        if (code == 0) {
            check_signature(block.start);
            w->held[i] = block.start;
        } else {
            CHECK_EQ(code, SHARENA_ENOTFOUND);
        }
    }
}

static void resize(struct worker *w, unsigned i)
{
    struct label label;
    void *moved;
    size_t size = random_size(w);
    /* A block that others may hold is never changed, so only its copy gets a new label. */
    memcpy(&label, w->held[i], sizeof label);
    if (size < label.size || label.size < 256)
        return;
    uint8_t *before = w->held[i];
    if (!granted(sharena_reallocate(w->heap, before, size, &moved), "reallocate"))
        return;
    w->held[i] = moved;
    check_signature(moved);
}

static void have_child(struct worker *w)
{
    pid_t pid = fork();
    if (pid < 0)
        return;
    if (pid == 0) {
        alarm(10);
        for (unsigned i = 0; i < HELD; i++)
            if (w->held[i] && i % 2)
                let_go(w, i);
        if (!sharena_is_guest(w->heap))
            for (unsigned i = 0; i < HELD; i++)
                if (!w->held[i])
                    get(w, i);
        if (draw(w, 2))
            kill(getpid(), SIGKILL);
        _exit(0);
    }
    int status = await_child(pid, 0);
    CHECK(status == 0 || WTERMSIG(status) == SIGKILL);
}

static void care(struct worker *w)
{
    switch (draw(w, 5)) {
    case 0:
        CHECK_OK(sharena_trim(w->heap, NULL));
        break;
    case 1:
        CHECK_OK(sharena_reap(w->heap, NULL));
        break;
    case 2:
        if (!mail->calm)
            CHECK_OK(sharena_ticket_expire(w->heap, draw(w, 30), NULL));
        break;
    case 3:
        stats_of(w->heap);
        break;
    default:
        have_child(w);
    }
}

static void one_step(struct worker *w)
{
    unsigned i = (unsigned)draw(w, HELD), what = (unsigned)draw(w, 100);
    if (what >= 99)
        care(w);
    else if (what == 98)
        forward(w);
    else if (what >= 90)
        use_name(w, i);
    else if (!w->held[i])
        what < 40 ? take(w, i) : get(w, i);
    else if (what < 30)
        post(w, i);
    else if (what < 35)
        resize(w, i);
    else if (what < 40) {
        CHECK_OK(sharena_retain(w->heap, w->held[i]));
        CHECK_OK(sharena_release(w->heap, w->held[i]));
    } else
        let_go(w, i);
    (void)add64_relaxed(&mail->done[w->tag % 16], 1);
}

static void *work_in_thread(void *argument)
{
    struct worker *w = argument;
    for (;;)
        one_step(w);
    return NULL;
}

static void work(struct peer *parent, void *argument)
{
    uint32_t tag = *(uint32_t *)argument;
    struct worker w[2];
    (void)parent;
    memset(w, 0, sizeof w);
    sharena_set_judge(judge, NULL);
    for (int i = 0; i < 2; i++) {
        w[i].heap = attach_to(&mail->address);
        w[i].tag = tag;
        w[i].random = process_seed() + (uint64_t)i;
    }
    pthread_t thread;
    if (tag % 3 == 0)
        CHECK_EQ(pthread_create(&thread, NULL, work_in_thread, &w[1]), 0);
    work_in_thread(&w[0]);
}

static int remove_name(const char *name, void *argument)
{
    CHECK_OK(sharena_name_remove(argument, name));
    return 0;
}

static void keep(struct peer *parent, void *argument)
{
    sharena_heap *heap = scratch_heap(128 * MIB, 256 * MIB);
    char command;
    (void)argument;
    mail->address = address_of(heap);
    peer_tell(parent);
    do {
        peer_receive(parent, &command, 1);
        check_heap(heap);
        peer_tell(parent);
    } while (command != 'e');
    uint64_t deadline = now_ns() + UINT64_C(15000000000);
    do /* children of the workers finish on their own */
        CHECK_OK(sharena_reap(heap, NULL));
    while (stats_of(heap).processes > 1 && now_ns() < deadline);
    check_heap(heap);
    CHECK_OK(sharena_name_list(heap, remove_name, heap));
    check_mail(heap);
    CHECK_OK(sharena_ticket_expire(heap, 0, NULL));
    CHECK_OK(sharena_trim(heap, NULL));
    check_heap(heap);
    sharena_stats s = stats_of(heap);
    CHECK_EQ(s.processes, 1);
    CHECK_EQ(s.blocks, 0);
    CHECK_EQ(s.tickets, 0);
    CHECK_EQ(s.slabs, 0);
    CHECK_EQ(s.runs, 0);
    CHECK_EQ(s.retained_bytes, 0);
    CHECK_EQ(s.committed_bytes, s.metadata_bytes);
    void *block;
    CHECK_OK(sharena_allocate(heap, 100 * MIB, 0, 0, &block));
    CHECK_OK(sharena_detach(heap));
}

static void start_worker(struct peer *peer, uint32_t i)
{
    uint32_t tag = i + 1;
    peer_start(peer, work, &tag);
}

static struct peer peers[WORKERS_MOST], keeper;

static void end_worker(uint32_t i)
{
    kill(peers[i].pid, SIGKILL);
    int status = peer_end(&peers[i]);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        FAIL("worker %u ended by itself, status %x", i, (unsigned)status);
    clear_cells(i + 1);
}

/* Returns the number of kills. */
static unsigned storm_until(uint64_t end, uint64_t *random)
{
    unsigned kills = 0;
    for (uint32_t i = 0; i < workers; i++)
        start_worker(&peers[i], i);
    while (now_ns() < end) {
        uint32_t i = (uint32_t)(random_next(random) % workers);
        uint64_t until = now_ns() + random_next(random) % 12000000;
        if (kills % 16 == 0) {
            peer_tell(&keeper);
            peer_await(&keeper);
        }
        while (now_ns() < until)
            sched_yield();
        end_worker(i);
        start_worker(&peers[i], i);
        kills++;
    }
    for (uint32_t i = 0; i < workers; i++)
        end_worker(i);
    return kills;
}

static void storm(void)
{
    uint64_t random = test_seed(), half = seconds * UINT64_C(500000000), steps = 0;
    mail = mmap(NULL, sizeof *mail, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(mail != MAP_FAILED);
    peer_start(&keeper, keep, NULL);
    peer_await(&keeper);
    unsigned kills = storm_until(now_ns() + half, &random);
    mail->calm = true;
    kills += storm_until(now_ns() + half, &random);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
    peer_send(&keeper, "e", 1);
    peer_await(&keeper);
    peer_join(&keeper);
    for (int i = 0; i < 16; i++)
        steps += load64_relaxed(&mail->done[i]);
    printf("        %u kills, %llu steps, %llu loads, %llu verdicts\n", kills,
           (unsigned long long)steps, (unsigned long long)load64_relaxed(&mail->loaded),
           (unsigned long long)load64_relaxed(&mail->judged));
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seconds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        workers = (unsigned)strtoul(argv[2], NULL, 10);
    workers = workers < WORKERS_MOST ? workers : WORKERS_MOST;
    const struct test_case cases[] = {{"storm", storm, seconds + 60}};
    return harness_main(1, argv, cases, 1);
}
