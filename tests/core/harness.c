/* See harness.h. */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_SKIPPED 77
#define DEFAULT_SEED UINT64_C(20) /* any number but 0 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWNESS 6
#else
#define SLOWNESS 1
#endif

static const char *case_name = "?";
static pid_t case_pid;
static uint64_t seed_used;
static uint64_t descent; /* drawn anew for each peer: no two processes of a case share it */
static unsigned slowness = 1; /* deadlines are so many times longer */

const char *harness_case(void)
{
    return case_name;
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t test_seed(void)
{
    const char *given = getenv("TEST_SEED");
    if (!seed_used)
        seed_used = given ? strtoull(given, NULL, 0) : DEFAULT_SEED;
    return seed_used;
}

uint64_t process_seed(void)
{
    return test_seed() ^ descent;
}

/* Checks.  One write() per message, so that peers do not mix their lines. */

static void say(const char *file, int line, const char *text)
{
    char message[1024];
    int n = snprintf(message, sizeof message, "%s:%d: %s [%d]: %s\n", file, line, case_name,
                     (int)getpid(), text);
    if (seed_used && n > 0 && (size_t)n < sizeof message)
        n += snprintf(message + n, sizeof message - (size_t)n, "  TEST_SEED=%llu\n",
                      (unsigned long long)seed_used);
    size_t length = n < 0 ? 0 : (size_t)n < sizeof message ? (size_t)n : sizeof message - 1;
    ssize_t written = write(STDERR_FILENO, message, length);
    (void)written;
}

void harness_fail(const char *file, int line, const char *format, ...)
{
    char text[768];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    say(file, line, text);
    if (getenv("TEST_ABORT"))
        abort();
    _exit(1);
}

void harness_skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vdprintf(STDERR_FILENO, format, arguments);
    va_end(arguments);
    _exit(EXIT_SKIPPED);
}

void harness_equal(const char *file, int line, const char *a_text, const char *b_text, uint64_t a,
                   uint64_t b)
{
    if (a != b)
        harness_fail(file, line, "%s == %s: %lld (0x%llx) is not %lld (0x%llx)", a_text, b_text,
                     (long long)a, (unsigned long long)a, (long long)b, (unsigned long long)b);
}

void harness_at_most(const char *file, int line, const char *a_text, const char *b_text,
                     uint64_t a, uint64_t b)
{
    if (a > b)
        harness_fail(file, line, "%s <= %s: %llu is more than %llu", a_text, b_text,
                     (unsigned long long)a, (unsigned long long)b);
}

void harness_same_text(const char *file, int line, const char *a_text, const char *b_text,
                       const char *a, const char *b)
{
    if (!a || !b || strcmp(a, b) != 0)
        harness_fail(file, line, "%s == %s: \"%s\" is not \"%s\"", a_text, b_text,
                     a ? a : "(null)", b ? b : "(null)");
}

void harness_ok(const char *file, int line, const char *call, int code)
{
    if (code != 0)
        harness_fail(file, line, "%s: %d (%s), %s", call, code, sharena_strerror(code),
                     sharena_detail());
}

/* Peers. */

void peer_start(struct peer *peer, void (*body)(struct peer *, void *), void *argument)
{
    int down[2], up[2];
    CHECK_EQ(pipe2(down, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(up, O_CLOEXEC), 0);
    uint64_t child_descent = random_next(&descent);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        descent = child_descent;
        struct peer parent = {.pid = getppid(), .to = up[1], .from = down[0]};
        close(down[1]);
        close(up[0]);
        body(&parent, argument);
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    *peer = (struct peer){.pid = pid, .to = down[1], .from = up[0]};
}

void peer_send(struct peer *peer, const void *bytes, size_t size)
{
    ssize_t n = write(peer->to, bytes, size); /* less than PIPE_BUF: all or nothing */
    if (n != (ssize_t)size)
        FAIL("cannot send to peer %d: %s", (int)peer->pid, strerror(errno));
}

void peer_receive(struct peer *peer, void *bytes, size_t size)
{
    uint64_t deadline = now_ns() + WAIT_MS * UINT64_C(1000000) * slowness;
    for (size_t got = 0; got < size;) {
        uint64_t now = now_ns();
        struct pollfd waits = {.fd = peer->from, .events = POLLIN};
        int ready = poll(&waits, 1, now < deadline ? (int)((deadline - now) / 1000000) : 0);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            FAIL("no word from peer %d within %u ms", (int)peer->pid, WAIT_MS * slowness);
        ssize_t n = read(peer->from, (char *)bytes + got, size - got);
        if (n <= 0)
            FAIL("peer %d ended instead of answering", (int)peer->pid);
        got += (size_t)n;
    }
}

void peer_tell(struct peer *peer)
{
    peer_send(peer, "!", 1);
}

void peer_await(struct peer *peer)
{
    char byte;
    peer_receive(peer, &byte, 1);
}

int await_child(pid_t pid, int options)
{
    int status = 0;
    /* SIGCHLD would do, but a test may be full of threads; a deadline of its own is simpler:
     * the harness kills the group of a case that waits for ever. */
    while (waitpid(pid, &status, options) < 0)
        if (errno != EINTR)
            FAIL("waitpid(%d): %s", (int)pid, strerror(errno));
    return status;
}

int peer_end(struct peer *peer)
{
    int status = await_child(peer->pid, 0);
    close(peer->to);
    close(peer->from);
    return status;
}

void peer_join(struct peer *peer)
{
    int status = peer_end(peer);
    if (status != 0)
        FAIL("peer %d ended with %s %d", (int)peer->pid,
             WIFSIGNALED(status) ? "signal" : "exit status",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

void peer_kill(struct peer *peer)
{
    CHECK_EQ(kill(peer->pid, SIGKILL), 0);
    peer_end(peer);
}

/* Heaps. */

const char *scratch_name(void)
{
    static char name[64];
    static unsigned count;
    snprintf(name, sizeof name, "test-%d-%u", (int)case_pid, count++);
    return name;
}

sharena_heap *scratch_heap(uint64_t limit_bytes, uint64_t reserve_bytes)
{
    sharena_heap *heap = NULL;
    sharena_options options = {.limit_bytes = limit_bytes, .reserve_bytes = reserve_bytes};
    CHECK_OK(sharena_create(NULL, &options, &heap));
    return heap;
}

struct heap_address address_of(const sharena_heap *heap)
{
    struct heap_address address = {.pid = getpid(), .fd = sharena_descriptor(heap)};
    memcpy(address.uuid, sharena_uuid(heap), sizeof address.uuid);
    return address;
}

sharena_heap *attach_to(const struct heap_address *address)
{
    sharena_heap *heap = NULL;
    CHECK_OK(sharena_attach_process(address->pid, address->fd, address->uuid, &heap));
    return heap;
}

static void print_fault(const char *text, void *argument)
{
    (void)argument;
    dprintf(STDERR_FILENO, "  fault: %s\n", text);
}

void check_heap(sharena_heap *heap)
{
    int faults = sharena_check(heap, print_fault, NULL);
    if (faults != 0)
        FAIL("sharena_check: %d (%s)", faults, faults < 0 ? sharena_detail() : "faults");
}

void *make_block(sharena_heap *heap, size_t size)
{
    void *block;
    CHECK_OK(sharena_allocate(heap, size, 0, 0, &block));
    memset(block, 0x42, size < 4096 ? size : 4096);
    return block;
}

sharena_handle export_of(sharena_heap *heap, const void *block, unsigned uses)
{
    sharena_handle handle;
    CHECK_OK(sharena_export(heap, block, uses, &handle));
    return handle;
}

sharena_stats stats_of(sharena_heap *heap)
{
    sharena_stats stats;
    CHECK_OK(sharena_stats_read(heap, &stats));
    return stats;
}

void check_baseline(sharena_heap *heap, const sharena_stats *before)
{
    check_heap(heap);
    sharena_stats after = stats_of(heap);
    CHECK_EQ(after.live_bytes, before->live_bytes);
    CHECK_EQ(after.blocks, before->blocks);
    CHECK_EQ(after.runs, before->runs);
    CHECK_EQ(after.inflight_bytes, before->inflight_bytes);
    CHECK_EQ(after.tickets, before->tickets);
    CHECK_EQ(after.names, before->names);
    CHECK_EQ(after.processes, before->processes);
}

/* The runner. */

static void remove_scratch_files(pid_t pid)
{
    char mark[32], path[512];
    snprintf(mark, sizeof mark, "test-%d-", (int)pid);
    DIR *directory = opendir("/dev/shm");
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        if (strstr(entry->d_name, mark)) {
            snprintf(path, sizeof path, "/dev/shm/%s", entry->d_name);
            unlink(path);
        }
    if (directory)
        closedir(directory);
}

/* Waits for `pid` until the deadline; true when it has ended.  SIGCHLD is blocked. */
static bool ends_within(pid_t pid, unsigned seconds)
{
    uint64_t deadline = now_ns() + seconds * UINT64_C(1000000000), now;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    while ((now = now_ns()) < deadline) {
        struct timespec left = {.tv_sec = (time_t)((deadline - now) / 1000000000u),
                                .tv_nsec = (long)((deadline - now) % 1000000000u)};
        siginfo_t info = {.si_pid = 0};
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid == pid)
            return true;
        sigtimedwait(&child, NULL, &left);
    }
    return false;
}

/* Returns the exit status: 0, EXIT_SKIPPED, or anything else for a failure. */
static int run_case(const struct test_case *test)
{
    sigset_t child, before;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        setpgid(0, 0);
        case_name = test->name;
        case_pid = getpid();
        test->run();
        fflush(NULL);
        _exit(0);
    }
    setpgid(pid, pid);
    unsigned seconds = test->seconds * slowness;
    bool ended = ends_within(pid, seconds);
    if (!ended)
        fprintf(stderr, "%s: not done after %u s, killed\n", test->name, seconds);
    kill(-pid, SIGKILL);
    int status = 0;
    waitpid(pid, &status, 0);
    while (waitpid(-1, NULL, WNOHANG) > 0) /* grandchildren, ours as subreaper */
        continue;
    remove_scratch_files(pid);
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s: ended by signal %d\n", test->name, WTERMSIG(status));
    return WIFSIGNALED(status) ? -1 : WEXITSTATUS(status);
}

int harness_main(int argc, char **argv, const struct test_case *cases, size_t count)
{
    int list = argc > 1 && strcmp(argv[1], "--list") == 0;
    int passed = 0, failed = 0, skipped = 0;
    const char *slow = getenv("TEST_SLOWNESS"); /* for valgrind */
    slowness = slow ? (unsigned)strtoul(slow, NULL, 10) : SLOWNESS;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < count; i++) {
        bool chosen = argc < 2;
        for (int a = 1; a < argc; a++)
            chosen = chosen || strcmp(argv[a], cases[i].name) == 0;
        if (list)
            puts(cases[i].name);
        if (!chosen)
            continue;
        uint64_t start = now_ns();
        int status = run_case(&cases[i]);
        passed += status == 0;
        skipped += status == EXIT_SKIPPED;
        failed += status != 0 && status != EXIT_SKIPPED;
        printf("%-7s %s (%.2f s)\n",
               status == 0              ? "ok"
               : status == EXIT_SKIPPED ? "skipped"
                                        : "FAILED",
               cases[i].name, (double)(now_ns() - start) / 1e9);
    }
    if (list)
        return 0;
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed > 0 || passed + skipped == 0;
}
