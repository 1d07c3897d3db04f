/* name.c: the table of names. */
#include "harness.h"
#include "internal.h"

#include <sharena/registry.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static void *make(sharena_heap *heap, size_t size, int byte)
{
    void *block;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    memset(block, byte, size);
    return block;
}

/* Looks up, checks the first byte and the payload, lets go. */
static int look(sharena_heap *heap, const char *name, int *byte, char *payload, size_t room)
{
    sharena_block block;
    size_t size = room - 1;
    int code = sharena_name_get(heap, name, &block, payload, &size);
    if (code != 0)
        return code;
    payload[size] = 0;
    *byte = *(uint8_t *)block.start;
    CHECK_OK(sharena_release(heap, block.start));
    return 0;
}

static void set_get_replace_remove(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    char payload[SHARENA_PAYLOAD + 1];
    int byte;
    const size_t sizes[] = {40, 200000};
    for (int s = 0; s < 2; s++) {
        void *first = make(heap, sizes[s], 1), *second = make(heap, sizes[s], 2);
        CHECK_EQ(look(heap, "x", &byte, payload, sizeof payload), SHARENA_ENOTFOUND);
        CHECK_OK(sharena_name_set(heap, "x", first, "one", 3));
        CHECK_OK(sharena_release(heap, first)); /* the name holds it now */
        CHECK_EQ(look(heap, "x", &byte, payload, sizeof payload), 0);
        CHECK_EQ(byte, 1);
        CHECK_STR(payload, "one");
        CHECK_OK(sharena_name_set(heap, "x", second, "second", 6));
        CHECK_EQ(stats_of(heap).blocks, 1); /* the first is gone */
        CHECK_EQ(look(heap, "x", &byte, payload, sizeof payload), 0);
        CHECK_EQ(byte, 2);
        CHECK_STR(payload, "second");
        CHECK_OK(sharena_name_set(heap, "x", second, "same", 4)); /* itself */
        CHECK_OK(sharena_name_set(heap, "y", second, NULL, 0));   /* a second name */
        CHECK_OK(sharena_release(heap, second));
        CHECK_OK(sharena_name_remove(heap, "x"));
        CHECK_EQ(sharena_name_remove(heap, "x"), SHARENA_ENOTFOUND);
        CHECK_EQ(look(heap, "y", &byte, payload, sizeof payload), 0);
        CHECK_EQ(byte, 2);
        CHECK_STR(payload, "");
        CHECK_OK(sharena_name_remove(heap, "y"));
        check_baseline(heap, &before);
    }
}

static void adding_never_replaces(void)
{
    sharena_heap *heap = scratch_heap(64 << 20, 64 << 20);
    uint8_t *first = make(heap, 100, 1), *second = make(heap, 100, 2);
    char payload[8];
    size_t bytes = sizeof payload;
    sharena_block got;
    CHECK_OK(sharena_name_add(heap, "one", first, "a", 1));
    CHECK_EQ(sharena_name_add(heap, "one", second, "bb", 2), SHARENA_EEXIST);
    CHECK(strstr(sharena_detail(), "'one'") != NULL);
    CHECK_OK(sharena_name_get(heap, "one", &got, payload, &bytes));
    CHECK(got.start == first && bytes == 1 && payload[0] == 'a');
    CHECK_OK(sharena_name_remove(heap, "one"));
    CHECK_OK(sharena_name_add(heap, "one", second, "bb", 2));
    CHECK_EQ(sharena_name_add(heap, "", second, "bb", 2), SHARENA_EINVAL);
    check_heap(heap);
}

static void add_one(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    void *block = make(heap, 100, 3);
    peer_await(parent);
    int won = sharena_name_add(heap, "contested", block, NULL, 0) == 0;
    peer_send(parent, &won, sizeof won);
    peer_await(parent);
}

static void one_of_many_adds(void)
{
    enum { N = 8 };
    struct peer peers[N];
    sharena_heap *heap = scratch_heap(64 << 20, 64 << 20);
    int won, all = 0;
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], add_one, heap);
    for (int i = 0; i < N; i++)
        peer_tell(&peers[i]);
    for (int i = 0; i < N; i++) {
        peer_receive(&peers[i], &won, sizeof won);
        all += won;
    }
    CHECK_EQ(all, 1);
    for (int i = 0; i < N; i++) {
        peer_tell(&peers[i]);
        peer_join(&peers[i]);
    }
}

static void limits_of_names_and_payloads(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    void *block = make(heap, 100, 1);
    char name[SHARENA_NAME + 2], payload[SHARENA_PAYLOAD + 1], back[SHARENA_PAYLOAD + 1];
    sharena_block found;
    memset(name, 'n', sizeof name);
    memset(payload, 'p', sizeof payload);
    name[SHARENA_NAME + 1] = 0;
    CHECK_EQ(sharena_name_set(heap, name, block, NULL, 0), SHARENA_EINVAL);
    CHECK_EQ(sharena_name_set(heap, "", block, NULL, 0), SHARENA_EINVAL);
    CHECK_EQ(sharena_name_set(heap, "x", block, payload, SHARENA_PAYLOAD + 1), SHARENA_EINVAL);
    name[SHARENA_NAME] = 0;
    CHECK_OK(sharena_name_set(heap, name, block, payload, SHARENA_PAYLOAD));
    size_t size = sizeof back;
    CHECK_OK(sharena_name_get(heap, name, &found, back, &size));
    CHECK_EQ(size, SHARENA_PAYLOAD);
    CHECK_EQ(memcmp(back, payload, size), 0);
    CHECK_OK(sharena_release(heap, block));
    size = 5; /* too little room: what fits, and how much there is */
    memset(back, 0, sizeof back);
    int code = sharena_name_get(heap, name, &found, back, &size);
    if (code == 0)
        CHECK_EQ(size, SHARENA_PAYLOAD);
    CHECK_EQ(back[5], 0);
    int on_stack;
    CHECK_EQ(sharena_name_set(heap, "x", &on_stack, NULL, 0), SHARENA_ENOTHELD);
    CHECK_EQ(sharena_name_set(heap, "n\xc3\xa4me with blanks/and slashes", block, NULL, 0), 0);
}

static int count_name(const char *name, void *argument)
{
    unsigned *seen = argument;
    CHECK(strncmp(name, "name", 4) == 0);
    return ++*seen == 900;
}

static void table_fills_and_empties(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    char name[32], payload[8];
    unsigned n = 0, seen = 0;
    int code = 0, byte;
    for (unsigned round = 0; round < 2; round++) {
        void *block = make(heap, 100, 7);
        for (n = 0; n < 5000 && code == 0; n++) {
            snprintf(name, sizeof name, "name%u", n);
            code = sharena_name_set(heap, name, block, &n, sizeof n);
        }
        CHECK_EQ(code, SHARENA_ENAMES);
        CHECK_EQ(--n, SHR_NAMES - 1); /* one stays free, so that a name can be replaced */
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(stats_of(heap).names, SHR_NAMES - 1);
        CHECK_OK(sharena_name_list(heap, count_name, &seen));
        CHECK_EQ(seen, 900); /* stopped by the callback */
        seen = 0;
        while (n-- > 0) {
            snprintf(name, sizeof name, "name%u", n);
            CHECK_EQ(look(heap, name, &byte, payload, sizeof payload), 0);
            CHECK_EQ(byte, 7);
            CHECK_EQ(memcmp(payload, &n, sizeof n), 0);
            CHECK_OK(sharena_name_remove(heap, name));
        }
        code = 0;
    }
    check_baseline(heap, &before);
}

/* Readers see the old or the new pair of block and payload, never a mixture. */
static void look_for_ever(struct peer *parent, void *argument)
{
    struct heap_address address;
    char payload[16];
    int byte;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_tell(parent);
    for (unsigned i = 0; i < 30000; i++) {
        int code = look(heap, "changing", &byte, payload, sizeof payload);
        if (code == SHARENA_ENOTFOUND)
            continue;
        CHECK_OK(code);
        CHECK_EQ(byte, atoi(payload));
    }
    CHECK_OK(sharena_detach(heap));
}

static void readers_and_a_changer(void)
{
    struct peer peers[2];
    for (int p = 0; p < 2; p++)
        peer_start(&peers[p], look_for_ever, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    sharena_stats before = stats_of(heap);
    for (int p = 0; p < 2; p++) {
        peer_send(&peers[p], &address, sizeof address);
        peer_await(&peers[p]);
    }
    for (unsigned i = 0; i < 20000; i++) {
        int byte = (int)(i % 200);
        char payload[16];
        void *block = make(heap, i % 5 ? 64 : 70000, byte);
        int n = snprintf(payload, sizeof payload, "%d", byte);
        CHECK_OK(sharena_name_set(heap, "changing", block, payload, (size_t)n));
        CHECK_OK(sharena_release(heap, block));
        if (i % 7 == 0)
            CHECK_OK(sharena_name_remove(heap, "changing"));
    }
    if (sharena_name_remove(heap, "changing") != 0)
        CHECK_EQ(stats_of(heap).names, 0);
    for (int p = 0; p < 2; p++)
        peer_join(&peers[p]);
    check_baseline(heap, &before);
}

/* Changers, some of them killed in the middle: the others take over. */
static void change_for_ever(struct peer *parent, void *argument)
{
    struct heap_address address;
    uint64_t random = process_seed();
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    peer_tell(parent);
    for (;;) {
        char name[16];
        void *block = make(heap, 100, 5);
        snprintf(name, sizeof name, "n%u", (unsigned)(random_next(&random) % 20));
        int code = sharena_name_set(heap, name, block, name, strlen(name));
        CHECK(code == 0 || code == SHARENA_EBUSY);
        CHECK_OK(sharena_release(heap, block));
        snprintf(name, sizeof name, "n%u", (unsigned)(random_next(&random) % 20));
        code = sharena_name_remove(heap, name);
        CHECK(code == 0 || code == SHARENA_ENOTFOUND || code == SHARENA_EBUSY);
    }
}

static void killed_changers_are_taken_over(void)
{
    enum { LIVES = 60 };
    struct peer peers[LIVES];
    struct heap_address address;
    char name[16], payload[16];
    int byte;
    for (int p = 0; p < LIVES; p++)
        peer_start(&peers[p], change_for_ever, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    sharena_stats before = stats_of(heap);
    address = address_of(heap);
    for (int p = 0; p < LIVES; p += 2) {
        uint64_t random = test_seed() + (uint64_t)p, until;
        for (int i = 0; i < 2; i++) {
            peer_send(&peers[p + i], &address, sizeof address);
            peer_await(&peers[p + i]);
        }
        until = now_ns() + random_next(&random) % 4000000;
        while (now_ns() < until)
            CHECK(look(heap, "n3", &byte, payload, sizeof payload) <= 0);
        peer_kill(&peers[p]);
        peer_kill(&peers[p + 1]);
        void *block = make(heap, 100, 9);
        CHECK_OK(sharena_name_set(heap, "n3", block, "n3", 2));
        CHECK_OK(sharena_release(heap, block));
        CHECK_EQ(look(heap, "n3", &byte, payload, sizeof payload), 0);
        CHECK_EQ(byte, 9);
    }
    CHECK_OK(sharena_reap(heap, NULL));
    for (unsigned i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "n%u", i);
        if (look(heap, name, &byte, payload, sizeof payload) == 0) {
            CHECK_STR(payload, name);
            CHECK_OK(sharena_name_remove(heap, name));
        }
    }
    check_baseline(heap, &before);
}

/* A stopped changer is the one case that makes others wait, and they give up. */
static void set_many(struct peer *parent, void *argument)
{
    change_for_ever(parent, argument);
}

static void stopped_changer_does_not_stop_readers(void)
{
    struct peer peer;
    char payload[16];
    int byte;
    peer_start(&peer, set_many, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    void *block = make(heap, 100, 3);
    CHECK_OK(sharena_name_set(heap, "mine", block, "p", 1));
    peer_send(&peer, &address, sizeof address);
    peer_await(&peer);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(kill(peer.pid, SIGSTOP), 0);
        await_child(peer.pid, WUNTRACED);
        CHECK_EQ(look(heap, "mine", &byte, payload, sizeof payload), 0);
        uint64_t start = now_ns();
        int code = sharena_name_set(heap, "other", block, NULL, 0);
        CHECK(code == 0 || code == SHARENA_EBUSY);
        CHECK_LE(now_ns() - start, UINT64_C(10000000000));
        CHECK_EQ(kill(peer.pid, SIGCONT), 0);
    }
    peer_kill(&peer);
    CHECK_OK(sharena_name_set(heap, "other", block, NULL, 0));
    check_heap(heap);
}

/* Removes what isn't there: changes that leave no trace in the table. */
static void remove_for_ever(struct peer *parent, void *argument)
{
    struct heap_address address;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    sharena_heap *heap = attach_to(&address);
    uint64_t me = shr__exporter(heap);
    peer_send(parent, &me, sizeof me);
    peer_await(parent);
    for (;;) {
        int code = sharena_name_remove(heap, "none");
        CHECK(code == SHARENA_ENOTFOUND || code == SHARENA_EBUSY);
    }
}

/* Milliseconds that 1 + `more` changes of both kinds take to be refused. */
static uint64_t refused_ms(sharena_heap *heap, void *block, unsigned more)
{
    uint64_t start = now_ns();
    for (unsigned i = 0; i <= more; i++) {
        CHECK_EQ(sharena_name_set(heap, "other", block, NULL, 0), SHARENA_EBUSY);
        CHECK_EQ(sharena_name_remove(heap, "other"), SHARENA_EBUSY);
    }
    return (now_ns() - start) / 1000000;
}

static void stop_in_a_change(sharena_heap *heap, struct peer *peer, uint64_t changer)
{
    for (;;) {
        CHECK_EQ(kill(peer->pid, SIGSTOP), 0);
        await_child(peer->pid, WUNTRACED);
        if (load64_acquire(&heap->control->changer) == changer)
            return;
        CHECK_EQ(kill(peer->pid, SIGCONT), 0);
    }
}

/* From when the change that stood still has gone on, changers that are at work never mean a
 * refusal. */
static void goes_on(sharena_heap *heap, void *block, uint64_t seq)
{
    uint64_t deadline = now_ns() + UINT64_C(10000000000);
    while (load64_relaxed(&heap->control->name_seq) == seq)
        CHECK(now_ns() < deadline);
    for (unsigned i = 0; i < 300; i++)
        CHECK_OK(sharena_name_set(heap, "mine", block, NULL, 0));
}

/* The seconds of waiting belong to the change, not to the call. */
static void a_change_is_waited_for_once(void)
{
    struct peer peer;
    peer_start(&peer, remove_for_ever, NULL);
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB);
    struct heap_address address = address_of(heap);
    void *block = make(heap, 100, 3);
    uint64_t changer, seq;
    peer_send(&peer, &address, sizeof address);
    peer_receive(&peer, &changer, sizeof changer);

    /* a damaged word, which names a process that changes nothing */
    store64_release(&heap->control->changer, changer);
    uint64_t took = refused_ms(heap, block, 0);
    CHECK(took >= 5000);
    CHECK_LE(took, 9000); /* twice if both of them waited */
    CHECK_LE(refused_ms(heap, block, 100), 3000);

    /* once it changes something the word is right again: it is waited for, and let go of */
    seq = load64_relaxed(&heap->control->name_seq);
    peer_tell(&peer);
    goes_on(heap, block, seq);

    /* the next change that it is stopped in is another one, and waited for */
    stop_in_a_change(heap, &peer, changer);
    took = refused_ms(heap, block, 100);
    CHECK(took >= 5000);
    CHECK_LE(took, 9000);
    seq = load64_relaxed(&heap->control->name_seq);
    CHECK_EQ(kill(peer.pid, SIGCONT), 0);
    goes_on(heap, block, seq);
    stop_in_a_change(heap, &peer, changer);
    peer_kill(&peer);
    CHECK_OK(sharena_name_set(heap, "mine", block, NULL, 0)); /* the dead is taken over from */
    check_heap(heap);
}

CASES(CASE(set_get_replace_remove), CASE(adding_never_replaces), CASE(one_of_many_adds),
      CASE(limits_of_names_and_payloads), CASE(table_fills_and_empties),
      CASE(readers_and_a_changer), CASE_FOR(40, killed_changers_are_taken_over),
      CASE_FOR(60, stopped_changer_does_not_stop_readers),
      CASE_FOR(60, a_change_is_waited_for_once))
