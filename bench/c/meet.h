/* Two processes or threads that take turns, in memory they share. */
#ifndef MEET_H
#define MEET_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "bench.h"

struct turn {
    _Atomic uint32_t step;
};

/* Spins a while, as waking up takes longer than what is measured; then it sleeps, so that the
 * party whose turn is over leaves its CPU to the others. */
static inline void await_step(struct turn *t, uint32_t step)
{
    uint32_t seen;

    for (unsigned spins = 0; spins < 100000; spins++) {
        if ((int32_t)(atomic_load_explicit(&t->step, memory_order_acquire) - step) >= 0)
            return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    while ((int32_t)((seen = atomic_load_explicit(&t->step, memory_order_acquire)) - step) < 0)
        (void)syscall(SYS_futex, &t->step, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static inline void next_step(struct turn *t)
{
    atomic_fetch_add_explicit(&t->step, 1, memory_order_release);
    (void)syscall(SYS_futex, &t->step, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static inline void *shared_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED) {
        perror("bench: mmap");
        exit(1);
    }
    return p;
}

/* The child's failure is the program's. */
static inline void await_child(pid_t child)
{
    int status;

    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            exit(1);
    if (status != 0)
        exit(1);
}

#endif
