/* A small harness for tests of a heap that is shared, forked and killed.
 *
 * One executable per test_X.c.  Every case runs in a forked child, the leader of a process
 * group of its own, with a deadline: what hangs or is left behind is killed with the group,
 * and one case can't spoil the next.  A failed check prints the values and ends the process
 * it happened in; a peer that ends badly fails the case that waits for it.
 *
 *     static void grows(void) { CHECK_EQ(1 + 1, 2); }
 *     CASES(CASE(grows), CASE_FOR(60, takes_long))
 *
 * registers in the one place at the end of the file.  `test_X grows` runs one case, and
 * `test_X --list` names them. */
#ifndef SHR_HARNESS_H
#define SHR_HARNESS_H

#include <sharena/sharena.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct test_case {
    const char *name;
    void (*run)(void);
    unsigned seconds;
};

#define CASE(function) {#function, function, 20}
#define CASE_FOR(seconds, function) {#function, function, seconds}
#define CASES(...)                                                                               \
    int main(int argc, char **argv)                                                              \
    {                                                                                            \
        const struct test_case cases[] = {__VA_ARGS__};                                          \
        return harness_main(argc, argv, cases, sizeof cases / sizeof cases[0]);                  \
    }

const char *harness_case(void); /* the name of the case that runs */
int harness_main(int argc, char **argv, const struct test_case *cases, size_t count);

/* Each ends the process on failure, in peers and forked children too. */
#define CHECK(condition)                                                                         \
    ((condition) ? (void)0 : harness_fail(__FILE__, __LINE__, "%s", #condition))
#define CHECK_EQ(a, b) harness_equal(__FILE__, __LINE__, #a, #b, (uint64_t)(a), (uint64_t)(b))
#define CHECK_LE(a, b) harness_at_most(__FILE__, __LINE__, #a, #b, (uint64_t)(a), (uint64_t)(b))
#define CHECK_STR(a, b) harness_same_text(__FILE__, __LINE__, #a, #b, a, b)
/* The call returns 0; prints the error's text and detail otherwise. */
#define CHECK_OK(call) harness_ok(__FILE__, __LINE__, #call, call)
#define FAIL(...) harness_fail(__FILE__, __LINE__, __VA_ARGS__)
/* Ends the case: not run here, because of ... */
#define SKIP(...) harness_skip(__VA_ARGS__)

_Noreturn void harness_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void harness_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
void harness_equal(const char *file, int line, const char *a_text, const char *b_text, uint64_t a,
                   uint64_t b);
void harness_at_most(const char *file, int line, const char *a_text, const char *b_text,
                     uint64_t a, uint64_t b);
void harness_same_text(const char *file, int line, const char *a_text, const char *b_text,
                       const char *a, const char *b);
void harness_ok(const char *file, int line, const char *call, int code);

/* Peers: forked processes, each with a pipe to and from its parent.  All waits have a
 * deadline of WAIT_MS and fail the test when it passes. */
#define WAIT_MS 20000

struct peer {
    pid_t pid;
    int to, from;
};

/* Forks; the child runs body(parent's end, argument) and exits with 0. */
void peer_start(struct peer *, void (*body)(struct peer *parent, void *argument), void *argument);
void peer_send(struct peer *, const void *bytes, size_t size);
void peer_receive(struct peer *, void *bytes, size_t size);
/* One byte as a signal that a point is reached. */
void peer_tell(struct peer *);
void peer_await(struct peer *);
/* Waits for the end, which must be exit(0). */
void peer_join(struct peer *);
/* Waits for the end; returns what waitpid() says. */
int peer_end(struct peer *);
void peer_kill(struct peer *);
/* Waits until the child is stopped or ended; returns what waitpid() says. */
int await_child(pid_t pid, int options);

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
/* A small generator: each test prints the seed it fails with. */
uint64_t random_next(uint64_t *state);
/* From TEST_SEED, otherwise always the same; printed when the case fails. */
uint64_t test_seed(void);
/* Another one for each peer, the same in each run. */
uint64_t process_seed(void);

/* Heaps.  scratch_name() gives a name that no other test uses; the harness removes its file
 * after the case. */
const char *scratch_name(void);
sharena_heap *scratch_heap(uint64_t limit_bytes, uint64_t reserve_bytes);
/* What a process needs to attach to an unnamed heap. */
struct heap_address {
    pid_t pid;
    int fd;
    uint8_t uuid[16];
};
struct heap_address address_of(const sharena_heap *);
sharena_heap *attach_to(const struct heap_address *);

/* A block whose first 4096 bytes are 0x42, and a handle of it. */
void *make_block(sharena_heap *, size_t size);
sharena_handle export_of(sharena_heap *, const void *block, unsigned uses);

/* The walker must find nothing. */
void check_heap(sharena_heap *);
sharena_stats stats_of(sharena_heap *);
/* Walks the heap, and compares what is held with `before`. */
void check_baseline(sharena_heap *, const sharena_stats *before);

#endif
