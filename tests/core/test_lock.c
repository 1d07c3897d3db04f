/* lock.c: locks that outlive their holders. */
#include "harness.h"
#include "internal.h"

#include <pthread.h>
#include <sharena/lock.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
enum { FOREVER = -1 };

/* What the processes of a case share. */
struct kit {
    sharena_heap *heap;
    struct {
        sharena_lock lock;
        volatile uint64_t one, two; /* equal while nobody holds the lock */
    } *shared;
    uint64_t rounds;
};

static void make_kit(struct kit *kit)
{
    void *block;
    memset(kit, 0, sizeof *kit);
    kit->heap = scratch_heap(64 * MIB, 64 * MIB);
    CHECK_OK(sharena_allocate(kit->heap, sizeof *kit->shared, 0, SHARENA_ZERO, &block));
    kit->shared = block;
}

static int acquire(struct kit *kit, int64_t timeout_ms)
{
    return sharena_lock_acquire(kit->heap, &kit->shared->lock, timeout_ms);
}

static int release(struct kit *kit)
{
    return sharena_lock_release(kit->heap, &kit->shared->lock);
}

static int abandoned(struct kit *kit)
{
    return sharena_lock_abandoned(kit->heap, &kit->shared->lock);
}

static uint64_t held(struct kit *kit)
{
    return sharena_lock_count(kit->heap, &kit->shared->lock);
}

/* ---- one process ------------------------------------------------------------------------ */

static void counts_what_its_owner_does(void)
{
    struct kit kit;
    make_kit(&kit);
    CHECK_EQ(held(&kit), 0);
    CHECK_EQ(release(&kit), SHARENA_EPERM);
    CHECK_EQ(abandoned(&kit), SHARENA_EPERM);
    for (unsigned n = 1; n <= 3; n++) {
        CHECK_OK(acquire(&kit, n == 1 ? 0 : FOREVER));
        CHECK_EQ(held(&kit), n);
        CHECK_EQ(sharena_lock_held(kit.heap, &kit.shared->lock), 1);
        CHECK_EQ(abandoned(&kit), 0);
    }
    for (unsigned n = 3; n-- > 0;) {
        CHECK_OK(release(&kit));
        CHECK_EQ(held(&kit), n);
    }
    CHECK_EQ(sharena_lock_held(kit.heap, &kit.shared->lock), 0);
    CHECK_EQ(release(&kit), SHARENA_EPERM);
    CHECK(strlen(sharena_detail()) > 20);
}

static void *thread_tries(void *argument)
{
    struct kit *kit = argument;
    CHECK_EQ(acquire(kit, 0), SHARENA_EBUSY);
    uint64_t before = now_ns();
    CHECK_EQ(acquire(kit, 120), SHARENA_EBUSY);
    CHECK_LE(120u * 1000000u, now_ns() - before);
    CHECK_EQ(release(kit), SHARENA_EPERM);
    CHECK_EQ(abandoned(kit), SHARENA_EPERM);
    CHECK_EQ(held(kit), 0);
    CHECK_EQ(sharena_lock_held(kit->heap, &kit->shared->lock), 1);
    return NULL;
}

static void belongs_to_a_thread(void)
{
    struct kit kit;
    pthread_t thread;
    make_kit(&kit);
    CHECK_OK(acquire(&kit, FOREVER));
    CHECK_EQ(pthread_create(&thread, NULL, thread_tries, &kit), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(release(&kit));
}

static void *thread_keeps(void *argument)
{
    CHECK_OK(acquire(argument, FOREVER));
    return NULL;
}

/* As a lock of multiprocessing does: the process lives. */
static void a_thread_that_ends_leaves_it_locked(void)
{
    struct kit kit;
    pthread_t thread;
    make_kit(&kit);
    CHECK_EQ(pthread_create(&thread, NULL, thread_keeps, &kit), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(acquire(&kit, 60), SHARENA_EBUSY);
}

static int asked;

static int stop_third_time(void *unused)
{
    (void)unused;
    return ++asked == 3;
}

static void waiting_can_be_interrupted(void)
{
    struct kit kit;
    pthread_t thread;
    make_kit(&kit);
    CHECK_EQ(pthread_create(&thread, NULL, thread_keeps, &kit), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    sharena_set_interrupt(stop_third_time, NULL);
    CHECK_EQ(acquire(&kit, FOREVER), SHARENA_EINTERRUPTED);
    CHECK_EQ(asked, 3);
    sharena_set_interrupt(NULL, NULL);
}

static void strange_places_and_words_are_refused(void)
{
    struct kit kit;
    sharena_lock outside = {0, 0};
    make_kit(&kit);
    uint8_t *odd = (uint8_t *)&kit.shared->lock + 4;
    CHECK_EQ(sharena_lock_acquire(kit.heap, &outside, 0), SHARENA_EINVAL);
    CHECK_EQ(sharena_lock_acquire(kit.heap, (void *)odd, 0), SHARENA_EINVAL);
    CHECK_EQ(sharena_lock_release(kit.heap, &outside), SHARENA_EINVAL);
    CHECK_EQ(sharena_lock_abandoned(kit.heap, &outside), SHARENA_EINVAL);
    CHECK_EQ(sharena_lock_held(kit.heap, &outside), SHARENA_EINVAL);
    CHECK_EQ(sharena_lock_count(kit.heap, &outside), 0);
    CHECK_EQ(
        sharena_lock_acquire(kit.heap, (void *)(kit.heap->data + kit.heap->data_bytes - 8), 0),
        SHARENA_EINVAL);
    uint64_t random = test_seed();
    for (unsigned i = 0; i < 2000; i++) {
        kit.shared->lock.owner = random_next(&random);
        kit.shared->lock.count = random_next(&random);
        int code = acquire(&kit, 0); /* whatever it is, an answer */
        CHECK(code == 0 || code == SHARENA_EBUSY || code == SHARENA_ECORRUPT);
        if (code == 0) {
            CHECK_EQ(abandoned(&kit), 1);
            CHECK_OK(release(&kit));
        }
    }
    kit.shared->lock.owner = UINT64_C(63) << 2; /* slot 62: there is none */
    CHECK_EQ(acquire(&kit, FOREVER), SHARENA_ECORRUPT);
    CHECK_EQ(sharena_lock_held(kit.heap, &kit.shared->lock), SHARENA_ECORRUPT);
}

/* ---- processes -------------------------------------------------------------------------- */

static void count_up(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    (void)parent;
    for (uint64_t i = 0; i < kit->rounds; i++) {
        CHECK_OK(acquire(kit, FOREVER));
        uint64_t one = kit->shared->one;
        CHECK_EQ(kit->shared->two, one);
        kit->shared->one = one + 1;
        if (i % 64 == 0)
            sched_yield(); /* with the lock */
        kit->shared->two = one + 1;
        CHECK_OK(release(kit));
    }
}

static void excludes_processes(void)
{
    enum { N = 4 };
    struct peer peers[N];
    struct kit kit;
    make_kit(&kit);
    kit.rounds = 20000;
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], count_up, &kit);
    for (int i = 0; i < N; i++)
        peer_join(&peers[i]);
    CHECK_EQ(kit.shared->one, N * kit.rounds);
}

static void hold(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    CHECK_OK(acquire(kit, FOREVER));
    CHECK_OK(acquire(kit, FOREVER));
    peer_tell(parent);
    for (;;)
        pause();
}

static void wait_then_ask(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    peer_tell(parent);
    CHECK_OK(acquire(kit, WAIT_MS));
    int died = abandoned(kit);
    CHECK_EQ(held(kit), 1);
    CHECK_EQ(abandoned(kit), 0);
    CHECK_OK(release(kit));
    peer_send(parent, &died, sizeof died);
}

/* One of them finds out that the holder died; the others get an ordinary lock. */
static void waiters_inherit_from_the_dead(void)
{
    enum { N = 3 };
    struct peer holder, waiters[N];
    struct kit kit;
    int died, all = 0;
    make_kit(&kit);
    peer_start(&holder, hold, &kit);
    peer_await(&holder);
    for (int i = 0; i < N; i++) {
        peer_start(&waiters[i], wait_then_ask, &kit);
        peer_await(&waiters[i]);
    }
    CHECK_EQ(acquire(&kit, 0), SHARENA_EBUSY);
    peer_kill(&holder);
    for (int i = 0; i < N; i++) {
        peer_receive(&waiters[i], &died, sizeof died);
        peer_join(&waiters[i]);
        all += died;
    }
    CHECK_EQ(all, 1);
}

/* The death stays to be told until somebody asks, also where the next holder dies, or doesn't. */
static void a_death_is_told_once(void)
{
    struct peer holder;
    struct kit kit;
    make_kit(&kit);
    for (int i = 0; i < 2; i++) {
        peer_start(&holder, hold, &kit);
        peer_await(&holder);
        peer_kill(&holder);
    }
    CHECK_EQ(sharena_lock_held(kit.heap, &kit.shared->lock), 0);
    CHECK_OK(acquire(&kit, 0)); /* a try looks, too */
    CHECK_OK(release(&kit));
    CHECK_OK(acquire(&kit, 0));
    CHECK_EQ(held(&kit), 1);
    CHECK_EQ(abandoned(&kit), 1);
    CHECK_EQ(abandoned(&kit), 0);
    CHECK_OK(release(&kit));
}

/* The slot is cleared and given to another one before anybody looks at the lock. */
static void the_next_user_of_the_slot_is_not_the_holder(void)
{
    struct peer holder, other;
    struct kit kit;
    make_kit(&kit);
    peer_start(&holder, hold, &kit);
    peer_await(&holder);
    uint64_t word = kit.shared->lock.owner;
    peer_kill(&holder);
    CHECK_OK(sharena_reap(kit.heap, NULL));
    kit.shared->lock.owner = 0;
    peer_start(&other, hold, &kit);
    peer_await(&other);
    CHECK_EQ(kit.shared->lock.owner >> 2 & 63, word >> 2 & 63); /* it is the same slot */
    kit.shared->lock.owner = word;
    CHECK_OK(acquire(&kit, 0));
    CHECK_EQ(abandoned(&kit), 1);
    CHECK_OK(release(&kit));
    peer_kill(&other);
}

static void leave(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    (void)parent;
    CHECK_OK(acquire(kit, FOREVER));
    CHECK_OK(sharena_detach(kit->heap));
}

static void who_leaves_the_heap_lets_go(void)
{
    struct peer holder;
    struct kit kit;
    make_kit(&kit);
    peer_start(&holder, leave, &kit);
    peer_join(&holder);
    CHECK_OK(acquire(&kit, 0));
    CHECK_EQ(abandoned(&kit), 1);
}

static void not_an_owner(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    (void)parent;
    CHECK_EQ(held(kit), 0);
    CHECK_EQ(release(kit), SHARENA_EPERM);
    CHECK_EQ(acquire(kit, 0), SHARENA_EBUSY);
    CHECK_EQ(acquire(kit, 60), SHARENA_EBUSY);
}

static void a_forked_child_does_not_hold_it(void)
{
    struct peer child;
    struct kit kit;
    make_kit(&kit);
    CHECK_OK(acquire(&kit, FOREVER));
    peer_start(&child, not_an_owner, &kit);
    peer_join(&child);
    CHECK_EQ(held(&kit), 1);
    CHECK_OK(release(&kit));
}

/* ---- guests ----------------------------------------------------------------------------- */

static void idle(struct peer *parent, void *argument)
{
    (void)argument;
    peer_tell(parent);
    for (;;)
        pause();
}

/* Children until so many slots are left; what is forked when there is none is a guest. */
static void take_slots_but(unsigned left, struct kit *kit)
{
    static struct peer children[SHR_PROCESSES];
    for (unsigned i = 1; i < SHR_PROCESSES - left; i++) {
        peer_start(&children[i], idle, kit);
        peer_await(&children[i]);
    }
}

static void be_a_guest(struct peer *parent, void *argument)
{
    CHECK(sharena_is_guest(((struct kit *)argument)->heap));
    not_an_owner(parent, argument);
}

static void guest_holds(struct peer *parent, void *argument)
{
    CHECK(sharena_is_guest(((struct kit *)argument)->heap));
    hold(parent, argument);
}

static void a_guest_is_not_its_parent(void)
{
    struct peer guest, other;
    struct kit kit;
    make_kit(&kit);
    take_slots_but(0, &kit);
    CHECK_OK(acquire(&kit, FOREVER));
    peer_start(&guest, be_a_guest, &kit);
    peer_join(&guest);
    CHECK_OK(release(&kit));
    peer_start(&guest, guest_holds, &kit);
    peer_await(&guest);
    peer_start(&other, be_a_guest, &kit);
    peer_join(&other);
    CHECK_EQ(held(&kit), 0);
    CHECK_EQ(acquire(&kit, 60), SHARENA_EBUSY);
    peer_kill(&guest); /* the slot lives on: its own process is this one */
    CHECK_OK(acquire(&kit, WAIT_MS));
    CHECK_EQ(abandoned(&kit), 1);
    CHECK_OK(release(&kit));
}

static void guest_waits(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    CHECK(sharena_is_guest(kit->heap));
    peer_tell(parent);
    CHECK_OK(acquire(kit, WAIT_MS));
    CHECK_EQ(abandoned(kit), 1);
    kit->shared->one = 1;
    CHECK_OK(release(kit));
    for (;;)
        pause();
}

static void parent_of_a_guest(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    struct peer guest;
    CHECK_OK(acquire(kit, FOREVER));
    peer_start(&guest, guest_waits, kit);
    peer_await(&guest);
    peer_tell(parent);
    for (;;)
        pause();
}

/* The slot lives on with the guest, but its process, which held the lock, is dead. */
static void a_guest_inherits_from_its_parent(void)
{
    struct peer parent;
    struct kit kit;
    make_kit(&kit);
    take_slots_but(1, &kit);
    peer_start(&parent, parent_of_a_guest, &kit);
    peer_await(&parent);
    CHECK_EQ(acquire(&kit, 60), SHARENA_EBUSY);
    peer_kill(&parent);
    uint64_t deadline = now_ns() + UINT64_C(20000000000);
    while (!kit.shared->one)
        CHECK_LE(now_ns(), deadline);
    CHECK_OK(acquire(&kit, WAIT_MS));
    CHECK_EQ(abandoned(&kit), 0);
}

/* ---- kills ------------------------------------------------------------------------------ */

static void count_up_until_killed(struct peer *parent, void *argument)
{
    struct kit *kit = argument;
    (void)parent;
    for (;;) {
        CHECK_OK(acquire(kit, WAIT_MS));
        if (abandoned(kit))
            kit->shared->two = kit->shared->one;
        uint64_t one = kit->shared->one;
        CHECK_EQ(kit->shared->two, one);
        kit->shared->one = one + 1;
        kit->shared->two = one + 1;
        CHECK_OK(release(kit));
    }
}

/* Whoever is killed, the others go on, and find two equal words or are told. */
static void nobody_is_stuck_behind_the_killed(void)
{
    enum { N = 4, KILLS = 200 };
    struct peer peers[N];
    struct kit kit;
    uint64_t random = test_seed();
    make_kit(&kit);
    for (int i = 0; i < N; i++)
        peer_start(&peers[i], count_up_until_killed, &kit);
    for (int i = 0; i < KILLS; i++) {
        uint64_t seen = kit.shared->one, deadline = now_ns() + UINT64_C(20000000000);
        while (kit.shared->one < seen + random_next(&random) % 50)
            CHECK_LE(now_ns(), deadline);
        struct peer *victim = &peers[random_next(&random) % N];
        peer_kill(victim);
        peer_start(victim, count_up_until_killed, &kit);
    }
    for (int i = 0; i < N; i++)
        peer_kill(&peers[i]);
    CHECK_OK(acquire(&kit, FOREVER));
    if (!abandoned(&kit))
        CHECK_EQ(kit.shared->one, kit.shared->two);
    CHECK_OK(release(&kit));
}

CASES(CASE(counts_what_its_owner_does), CASE(belongs_to_a_thread),
      CASE(a_thread_that_ends_leaves_it_locked), CASE(waiting_can_be_interrupted),
      CASE(strange_places_and_words_are_refused), CASE(excludes_processes),
      CASE(waiters_inherit_from_the_dead), CASE(a_death_is_told_once),
      CASE(the_next_user_of_the_slot_is_not_the_holder), CASE(who_leaves_the_heap_lets_go),
      CASE(a_forked_child_does_not_hold_it), CASE(a_guest_is_not_its_parent),
      CASE(a_guest_inherits_from_its_parent), CASE(nobody_is_stuck_behind_the_killed))
