/* Named memory orders: the only file that includes <stdatomic.h>.
 *
 * A call site says which order it needs by the name of the operation, so that nothing is
 * sequentially consistent by accident.  layout.h says per field which order is right and
 * why; docs/memory-ordering.md has the arguments. */
#ifndef SHR_ATOMICS_H
#define SHR_ATOMICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint64_t shr_a64;
typedef _Atomic uint32_t shr_a32;

#define SHR_DEFINE_ATOMICS(bits, type, value)                                                    \
    static inline value load##bits##_relaxed(const type *p)                                      \
    {                                                                                            \
        return atomic_load_explicit(p, memory_order_relaxed);                                    \
    }                                                                                            \
    static inline value load##bits##_acquire(const type *p)                                      \
    {                                                                                            \
        return atomic_load_explicit(p, memory_order_acquire);                                    \
    }                                                                                            \
    static inline value load##bits##_seq(const type *p)                                          \
    {                                                                                            \
        return atomic_load_explicit(p, memory_order_seq_cst);                                    \
    }                                                                                            \
    static inline void store##bits##_relaxed(type *p, value v)                                   \
    {                                                                                            \
        atomic_store_explicit(p, v, memory_order_relaxed);                                       \
    }                                                                                            \
    static inline void store##bits##_release(type *p, value v)                                   \
    {                                                                                            \
        atomic_store_explicit(p, v, memory_order_release);                                       \
    }                                                                                            \
    static inline void store##bits##_seq(type *p, value v)                                       \
    {                                                                                            \
        atomic_store_explicit(p, v, memory_order_seq_cst);                                       \
    }                                                                                            \
    static inline value add##bits##_relaxed(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_add_explicit(p, v, memory_order_relaxed);                            \
    }                                                                                            \
    static inline value add##bits##_release(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_add_explicit(p, v, memory_order_release);                            \
    }                                                                                            \
    static inline value sub##bits##_relaxed(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_sub_explicit(p, v, memory_order_relaxed);                            \
    }                                                                                            \
    static inline value or ##bits##_relaxed(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_or_explicit(p, v, memory_order_relaxed);                             \
    }                                                                                            \
    static inline value or ##bits##_release(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_or_explicit(p, v, memory_order_release);                             \
    }                                                                                            \
    static inline value or ##bits##_acq_rel(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_or_explicit(p, v, memory_order_acq_rel);                             \
    }                                                                                            \
    static inline value add##bits##_seq(type *p, value v)                                        \
    {                                                                                            \
        return atomic_fetch_add_explicit(p, v, memory_order_seq_cst);                            \
    }                                                                                            \
    static inline value or ##bits##_seq(type *p, value v)                                        \
    {                                                                                            \
        return atomic_fetch_or_explicit(p, v, memory_order_seq_cst);                             \
    }                                                                                            \
    static inline value and##bits##_relaxed(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_and_explicit(p, v, memory_order_relaxed);                            \
    }                                                                                            \
    static inline value and##bits##_release(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_and_explicit(p, v, memory_order_release);                            \
    }                                                                                            \
    static inline value and##bits##_acq_rel(type *p, value v)                                    \
    {                                                                                            \
        return atomic_fetch_and_explicit(p, v, memory_order_acq_rel);                            \
    }                                                                                            \
    static inline value and##bits##_seq(type *p, value v)                                        \
    {                                                                                            \
        return atomic_fetch_and_explicit(p, v, memory_order_seq_cst);                            \
    }                                                                                            \
    static inline value swap##bits##_acquire(type *p, value v)                                   \
    {                                                                                            \
        return atomic_exchange_explicit(p, v, memory_order_acquire);                             \
    }                                                                                            \
    static inline value swap##bits##_release(type *p, value v)                                   \
    {                                                                                            \
        return atomic_exchange_explicit(p, v, memory_order_release);                             \
    }                                                                                            \
    static inline bool cas##bits##_relaxed(type *p, value *seen, value v)                        \
    {                                                                                            \
        return atomic_compare_exchange_strong_explicit(p, seen, v, memory_order_relaxed,         \
                                                       memory_order_relaxed);                    \
    }                                                                                            \
    static inline bool cas##bits##_acquire(type *p, value *seen, value v)                        \
    {                                                                                            \
        return atomic_compare_exchange_strong_explicit(p, seen, v, memory_order_acquire,         \
                                                       memory_order_acquire);                    \
    }                                                                                            \
    static inline bool cas##bits##_release(type *p, value *seen, value v)                        \
    {                                                                                            \
        return atomic_compare_exchange_strong_explicit(p, seen, v, memory_order_release,         \
                                                       memory_order_relaxed);                    \
    }                                                                                            \
    static inline bool cas##bits##_acq_rel(type *p, value *seen, value v)                        \
    {                                                                                            \
        return atomic_compare_exchange_strong_explicit(p, seen, v, memory_order_acq_rel,         \
                                                       memory_order_acquire);                    \
    }                                                                                            \
    static inline bool cas##bits##_seq(type *p, value *seen, value v)                            \
    {                                                                                            \
        return atomic_compare_exchange_strong_explicit(p, seen, v, memory_order_seq_cst,         \
                                                       memory_order_seq_cst);                    \
    }

SHR_DEFINE_ATOMICS(32, shr_a32, uint32_t)
SHR_DEFINE_ATOMICS(64, shr_a64, uint64_t)

typedef _Atomic uint8_t shr_a8; /* a lane's own: no read-modify-write */

static inline uint8_t load8_relaxed(const shr_a8 *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static inline void store8_relaxed(shr_a8 *p, uint8_t v)
{
    atomic_store_explicit(p, v, memory_order_relaxed);
}

/* Keeps two relaxed steps in program order.  Against a kill that is enough: a kill leaves a
 * prefix of what the machine would have done. */
static inline void shr_compiler_barrier(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* *p == v, with an acquiring load.  Written out because no compiler folds an atomic load into a
 * comparison, and this is where a small block's nanoseconds go.  ThreadSanitizer doesn't see it. */
static inline bool shr_same_acquire(const void *p, const void *v)
{
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    bool same;
    __asm__ volatile("cmp %2, %1"
                     : "=@cce"(same)
                     : "m"(*(const void *const *)p), "r"(v)
                     : "memory");
    return same;
#else
    return atomic_load_explicit((void *_Atomic const *)p, memory_order_acquire) == v;
#endif
}

static inline void shr_full_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}

static inline void shr_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
