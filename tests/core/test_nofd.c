/* A process all of whose descriptors were closed, as daemons do: memory comes and goes by the
 * mapping, the dead are known by their pid, and a fork makes a guest only where no descriptor
 * is to be had at all. */
#include "harness.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define LIMIT (64 * MIB)
#define NOBODY 65534

/* Root could open its own mapping again.  What changed its user is not open to others of that
 * user before it says so. */
static void be_nobody(void)
{
    if (geteuid() != 0)
        return;
    CHECK_EQ(setresgid(NOBODY, NOBODY, NOBODY), 0);
    CHECK_EQ(setresuid(NOBODY, NOBODY, NOBODY), 0);
    CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
}

static void close_all_but(const struct peer *peers, int count)
{
    for (int fd = 3; fd < 1024; fd++) {
        int keep = 0;
        for (int i = 0; i < count; i++)
            keep |= fd == peers[i].to || fd == peers[i].from;
        if (!keep)
            close(fd);
    }
}

/* Says how much the heap's file really has, through a descriptor that no slot names. */
static void watch(struct peer *parent, void *argument)
{
    struct heap_address address;
    char path[64];
    uint64_t bytes;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)address.pid, address.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    for (;;) {
        bytes = shr__sys_blocks(fd);
        peer_send(parent, &bytes, sizeof bytes);
        peer_await(parent);
    }
}

static uint64_t watched(struct peer *watcher)
{
    uint64_t bytes;
    peer_tell(watcher);
    peer_receive(watcher, &bytes, sizeof bytes);
    return bytes;
}

/* A heap whose only user has no descriptor of it. */
static sharena_heap *closed_heap(struct peer *watcher)
{
    uint64_t bytes;
    peer_start(watcher, watch, NULL);
    sharena_heap *heap = scratch_heap(LIMIT, 256 * MIB);
    struct heap_address address = address_of(heap);
    peer_send(watcher, &address, sizeof address);
    peer_receive(watcher, &bytes, sizeof bytes);
    close_all_but(watcher, 1);
    return heap;
}

/* Small and large blocks up to the limit; all but a 16th of it must be had. */
static void fill(sharena_heap *heap, void **blocks, unsigned *count)
{
    uint64_t sum = 0;
    int code = 0;
    for (*count = 0; code == 0; *count += code == 0) {
        size_t size = *count % 3 ? 40000 : 3000000;
        code = sharena_allocate(heap, size, 0, 0, &blocks[*count]);
        if (code == 0) {
            memset(blocks[*count], 0x42, size);
            sum += size;
        }
    }
    CHECK_EQ(code, SHARENA_EFULL);
    CHECK_LE(LIMIT - LIMIT / 16, sum);
}

static void fills_and_gives_back(sharena_heap *heap, struct peer *watcher)
{
    static void *blocks[10000];
    unsigned count;
    uint64_t freed = 0;
    for (int round = 0; round < 2; round++) {
        fill(heap, blocks, &count);
        CHECK_LE(LIMIT - LIMIT / 16, watched(watcher));
        for (unsigned i = 0; i < count; i++)
            CHECK_OK(sharena_release(heap, blocks[i]));
        CHECK_OK(sharena_trim(heap, &freed));
        CHECK_LE(freed, LIMIT);
        CHECK_EQ(watched(watcher), stats_of(heap).committed_bytes);
        CHECK_LE(watched(watcher), MIB);
    }
    check_heap(heap);
}

static void memory_comes_and_goes(void)
{
    struct peer watcher;
    be_nobody();
    sharena_heap *heap = closed_heap(&watcher);
    fills_and_gives_back(heap, &watcher);
    CHECK_EQ(shr__fd(heap), -1);
    peer_kill(&watcher);
}

/* From now on madvise() refuses this advice. */
static void forbid(uint32_t advice, uint32_t error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, advice, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof code / sizeof code[0], code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        SKIP("no filter for system calls here: %s\n", strerror(errno));
}

/* A kernel before 5.14. */
static void on_an_older_kernel(void)
{
    struct peer watcher;
    be_nobody();
    forbid(23, EINVAL); /* MADV_POPULATE_WRITE */
    sharena_heap *heap = closed_heap(&watcher);
    CHECK_EQ(shr__sys_populate(heap->data, 4096), 1);
    fills_and_gives_back(heap, &watcher);
    peer_kill(&watcher);
}

/* Pages that the program locked and then gave up: the kernel takes no locked page back. */
static void locked_pages_are_given_back(void)
{
    enum { BYTES = 65536 };
    struct peer watcher;
    void *block;
    uint64_t freed = 0;
    be_nobody();
    sharena_heap *heap = closed_heap(&watcher);
    CHECK_OK(sharena_allocate(heap, BYTES, 0, 0, &block));
    if (mlock(block, BYTES) != 0)
        SKIP("can't lock memory here: %s\n", strerror(errno));
    CHECK_OK(sharena_release(heap, block));
    if (shr__sys_remove(block, BYTES) == 0)
        SKIP("mlock() does nothing under AddressSanitizer\n");
    CHECK_OK(sharena_trim(heap, &freed));
    CHECK_LE(BYTES, freed);
    CHECK_EQ(watched(&watcher), stats_of(heap).committed_bytes);
    peer_kill(&watcher);
}

static void what_is_refused_is_said(void)
{
    struct peer watcher;
    void *block;
    uint64_t freed = 7;
    be_nobody();
    sharena_heap *heap = closed_heap(&watcher);
    CHECK_OK(sharena_allocate(heap, 100000, 0, 0, &block));
    CHECK_OK(sharena_release(heap, block));
    forbid(MADV_REMOVE, EPERM);
    CHECK_EQ(sharena_trim(heap, &freed), SHARENA_ESYSTEM);
    CHECK_EQ(freed, 7);
    CHECK(strstr(sharena_detail(), strerror(EPERM)) != NULL);
    check_heap(heap);
    peer_kill(&watcher);
}

/* ---- fork ------------------------------------------------------------------------------------ */

static void allocates(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    void *block;
    (void)parent;
    CHECK_EQ(sharena_is_guest(heap), 0);
    for (int i = 0; i < 20; i++)
        CHECK_OK(sharena_allocate(heap, i % 2 ? 100 : 1000000, 0, 0, &block));
    check_heap(heap);
}

static void is_guest(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    void *block = NULL;
    (void)parent;
    CHECK_EQ(sharena_is_guest(heap), 1);
    CHECK_EQ(sharena_allocate(heap, 100, 0, 0, &block), SHARENA_EPROCESSES);
    CHECK(strstr(sharena_detail(), "descriptor of the heap was closed") != NULL);
    CHECK(strstr(sharena_detail(), "create the heap after daemonizing") != NULL);
}

static void alone_without_privileges_a_child_is_a_guest(void)
{
    struct peer watcher, child;
    be_nobody();
    sharena_heap *heap = closed_heap(&watcher);
    peer_start(&child, is_guest, heap);
    peer_join(&child);
    CHECK_EQ(sharena_is_guest(heap), 0);
    check_heap(heap);
    peer_kill(&watcher);
}

static void attach_and_wait(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_heap *heap;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    heap = attach_to(&address);
    peer_tell(parent);
    peer_await(parent);
    CHECK_OK(sharena_detach(heap));
}

static void anothers_descriptor_will_do(void)
{
    struct peer other, child;
    be_nobody();
    peer_start(&other, attach_and_wait, NULL);
    sharena_heap *heap = scratch_heap(LIMIT, LIMIT);
    struct heap_address address = address_of(heap);
    peer_send(&other, &address, sizeof address);
    peer_await(&other);
    close_all_but(&other, 1);
    peer_start(&child, allocates, heap);
    peer_join(&child);
    CHECK_LE(0, shr__fd(heap));
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).processes, 2);
    peer_tell(&other);
    peer_join(&other);
    check_heap(heap);
}

static void with_privileges_the_mapping_will_do(void)
{
    struct peer newcomer, child;
    peer_start(&newcomer, attach_and_wait, NULL);
    sharena_heap *heap = scratch_heap(LIMIT, LIMIT);
    struct heap_address address = address_of(heap);
    close_all_but(&newcomer, 1);
    int fd = shr__sys_open_page(heap->lock_page);
    if (fd < 0)
        SKIP("no privileges here: %s\n", strerror(errno));
    close(fd);
    CHECK(fcntl(address.fd, F_GETFD) < 0);
    peer_send(&newcomer, &address, sizeof address); /* finds it by the mapping here */
    peer_await(&newcomer);
    peer_tell(&newcomer);
    peer_join(&newcomer);
    peer_start(&child, allocates, heap);
    peer_join(&child);
    CHECK_OK(sharena_reap(heap, NULL));
    CHECK_EQ(stats_of(heap).processes, 1);
    check_heap(heap);
}

/* ---- the dead --------------------------------------------------------------------------------- */

static void hold_closed(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    void *block;
    CHECK_OK(sharena_allocate(heap, 5 * MIB, 0, 0, &block));
    close_all_but(parent, 1);
    peer_send(parent, &heap->slot, sizeof heap->slot);
    peer_await(parent);
    memset(block, 1, 5 * MIB);
    peer_await(parent);
}

static void end_unseen(struct peer *child)
{
    siginfo_t info;
    CHECK_EQ(kill(child->pid, SIGKILL), 0);
    CHECK_EQ(waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOWAIT), 0);
}

enum { STOPPED, ZOMBIE, STRANGER, KIDS };

/* Two children of the same namespace, and one that seems to be of another. */
static void the_dead_are_known_by_their_pid(void)
{
    struct peer children[KIDS];
    unsigned slots[KIDS], reaped = 9;
    be_nobody();
    if (syscall(SYS_pidfd_open, getpid(), 0) < 0)
        SKIP("without descriptors of processes a zombie is not seen: %s\n", strerror(errno));
    sharena_heap *heap = scratch_heap(LIMIT, LIMIT);
    for (int i = 0; i < KIDS; i++) {
        peer_start(&children[i], hold_closed, heap);
        peer_receive(&children[i], &slots[i], sizeof slots[i]);
    }
    close_all_but(children, KIDS);
    (void)add64_relaxed(&shr__slot(heap, slots[STRANGER])->pidns, 1);
    CHECK_EQ(shr__fd(heap), -1);
    CHECK_EQ(kill(children[STOPPED].pid, SIGSTOP), 0);
    await_child(children[STOPPED].pid, WUNTRACED);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 0);
    end_unseen(&children[STRANGER]);
    end_unseen(&children[ZOMBIE]);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1);
    CHECK_EQ(stats_of(heap).blocks, 2); /* of the stopped one and the stranger */
    for (int i = 0; i < KIDS; i++)
        CHECK_EQ(SHR_STATE_OF(load64_acquire(&shr__slot(heap, slots[i])->state)) == SLOT_LIVE,
                 i != ZOMBIE);
    CHECK_EQ(kill(children[STOPPED].pid, SIGCONT), 0);
    peer_tell(&children[STOPPED]);
    peer_kill(&children[STOPPED]); /* and waited for */
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 1);
    CHECK_EQ(stats_of(heap).blocks, 1);
    check_heap(heap);
}

static void guest_body(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    CHECK_EQ(sharena_is_guest(heap), 1);
    peer_tell(parent);
    for (;;)
        pause();
}

static void has_a_guest(struct peer *parent, void *argument)
{
    sharena_heap *heap = argument;
    struct peer guest;
    void *block;
    CHECK_OK(sharena_allocate(heap, 5 * MIB, 0, 0, &block));
    close_all_but(parent, 1);
    peer_await(parent); /* till the others have closed theirs */
    peer_start(&guest, guest_body, heap);
    peer_await(&guest);
    peer_tell(parent);
    peer_await(parent);
}

/* The slot of one that has ended lives on while it has a guest, and no pid says so. */
static void no_verdict_about_a_slot_with_guests(void)
{
    struct peer child;
    unsigned reaped = 9;
    be_nobody();
    sharena_heap *heap = scratch_heap(LIMIT, LIMIT);
    peer_start(&child, has_a_guest, heap);
    close_all_but(&child, 1);
    peer_tell(&child);
    peer_await(&child);
    peer_kill(&child);
    CHECK_EQ(shr__fd(heap), -1);
    CHECK_OK(sharena_reap(heap, &reaped));
    CHECK_EQ(reaped, 0);
    CHECK_EQ(stats_of(heap).blocks, 1);
    check_heap(heap);
}

CASES(CASE(memory_comes_and_goes), CASE(on_an_older_kernel), CASE(locked_pages_are_given_back),
      CASE(what_is_refused_is_said), CASE(alone_without_privileges_a_child_is_a_guest),
      CASE(anothers_descriptor_will_do), CASE(with_privileges_the_mapping_will_do),
      CASE(the_dead_are_known_by_their_pid), CASE(no_verdict_about_a_slot_with_guests))
