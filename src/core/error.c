/* Error texts, and the thread's struct that carries the last one.
 *
 * A failing call leaves a sentence in its thread's struct: what happened, to which heap,
 * what to do.  The struct hangs on a thread-local pointer and also holds the thread's lanes;
 * it goes when the thread ends, and magazine.c is told so that the lanes go whole to the next
 * thread.  A thread that can't get a struct still gets the code.  shr__current is lane.c's.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "waiting.h"

static struct lane nowhere; /* of threads that used none yet: never opens */
_Thread_local struct shr_thread *shr__thread __attribute__((tls_model("initial-exec")));
_Thread_local shr_lane shr__current __attribute__((tls_model("initial-exec"))) = &nowhere;
_Thread_local int shr__code __attribute__((tls_model("initial-exec")));
static _Thread_local uint32_t thread_number __attribute__((tls_model("initial-exec")));
void (*shr__thread_leaves)(struct shr_thread *);

static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER;
static struct shr_thread *threads;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;

static void free_lanes(struct shr_thread *t)
{
    for (struct lane *l = t->spare, *next; l; l = next) {
        next = l->next;
        free(l);
    }
}

static void thread_ends(void *p)
{
    struct shr_thread *t = p;

    if (shr__thread_leaves)
        shr__thread_leaves(t);
    pthread_mutex_lock(&threads_lock);
    if (t->prev)
        t->prev->next = t->next;
    else
        threads = t->next;
    if (t->next)
        t->next->prev = t->prev;
    pthread_mutex_unlock(&threads_lock);
    shr__thread = NULL;
    atomic_store_explicit(&shr__current, &nowhere, memory_order_relaxed);
    free_lanes(t);
    free(t);
}

static int have_key;

static void make_key(void)
{
    have_key = pthread_key_create(&key, thread_ends) == 0;
}

struct shr_thread *shr__thread_get(void)
{
    struct shr_thread *t = shr__thread;

    if (SHR_LIKELY(t != NULL))
        return t;
    t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    pthread_once(&key_once, make_key);
    if (!have_key || pthread_setspecific(key, t) != 0) {
        free(t);
        return NULL;
    }
    pthread_mutex_lock(&threads_lock);
    t->next = threads;
    if (threads)
        threads->prev = t;
    threads = t;
    pthread_mutex_unlock(&threads_lock);
    shr__thread = t;
    return t;
}

/* The thread's lane in a heap that is left becomes a spare one, and never opens again before it
 * is used again. */
static void forget(struct shr_thread *t, uint32_t heap_index)
{
    struct lane *l = atomic_load_explicit(&t->lanes[heap_index], memory_order_relaxed);

    if (!l)
        return;
    atomic_store_explicit(&l->open, NULL, memory_order_relaxed);
    atomic_store_explicit(&t->lanes[heap_index], NULL, memory_order_relaxed);
    l->next = t->spare;
    t->spare = l;
}

struct lane *shr__thread_spare(struct shr_thread *t)
{
    struct lane *l;

    pthread_mutex_lock(&threads_lock);
    l = t->spare;
    if (l)
        t->spare = l->next;
    pthread_mutex_unlock(&threads_lock);
    return l;
}

void shr__thread_forget(uint32_t heap_index)
{
    pthread_mutex_lock(&threads_lock);
    for (struct shr_thread *t = threads; t; t = t->next)
        forget(t, heap_index);
    pthread_mutex_unlock(&threads_lock);
}

void shr__thread_lock(void)
{
    pthread_mutex_lock(&threads_lock);
}

void shr__thread_unlock(void)
{
    pthread_mutex_unlock(&threads_lock);
}

/* In a forked child only the forking thread lives on: the others' structs are dropped.  The
 * prepare handler holds the lock. */
void shr__thread_after_fork(void)
{
    struct shr_thread *t = threads, *next;

    thread_number = 0; /* the one thread has another one now */
    for (; t; t = next) {
        next = t->next;
        for (unsigned i = 0; i < SHR_HEAPS; i++)
            forget(t, i);
        if (t != shr__thread) {
            free_lanes(t);
            free(t);
        }
    }
    threads = shr__thread;
    if (threads)
        threads->next = threads->prev = NULL;
    pthread_mutex_unlock(&threads_lock);
}

uint32_t shr__thread_number(void)
{
    if (!thread_number)
        thread_number = shr__sys_thread();
    return thread_number;
}

const char *sharena_strerror(int code)
{
    switch (code) {
    case 0:
        return "success";
#define SHARENA_ERROR_TEXT(name, value, text)                                                    \
    case value:                                                                                  \
        return text;
        SHARENA_ERRORS(SHARENA_ERROR_TEXT)
#undef SHARENA_ERROR_TEXT
    default:
        return "unknown error";
    }
}

/* Leaves the sentence and returns the code. */
int shr__fail(int code, const char *format, ...)
{
    struct shr_thread *t = shr__thread_get();
    va_list list;

    shr__code = code;
    if (!t)
        return code;
    va_start(list, format);
    (void)vsnprintf(t->detail, sizeof t->detail, format, list);
    va_end(list);
    return code;
}

int sharena_code(void)
{
    return shr__code;
}

const char *sharena_detail(void)
{
    return shr__thread ? shr__thread->detail : "";
}

/* How messages call the heap: its name, or the first digits of its uuid. */
const char *shr__label(const sharena_heap *h, char buffer[96])
{
    const uint8_t *u = h->super.uuid;

    if (h->super.name[0])
        (void)snprintf(buffer, 96, "heap '%s'", h->super.name);
    else
        (void)snprintf(buffer, 96, "heap %02x%02x%02x%02x", u[0], u[1], u[2], u[3]);
    return buffer;
}

/* A size as people read it: four digits and a unit. */
const char *shr__size(uint64_t bytes, char buffer[24])
{
    static const char units[][4] = {"KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes / 1024;
    unsigned unit = 0;

    if (bytes < 1024) {
        (void)snprintf(buffer, 24, "%u bytes", (unsigned)bytes);
        return buffer;
    }
    for (; value >= 1023.95 && unit < 3; unit++)
        value /= 1024;
    (void)snprintf(buffer, 24, "%.4g %.3s", value, units[unit]);
    return buffer;
}

int shr__not_held(const sharena_heap *h, const void *p)
{
    char name[96];

    return shr__fail(SHARENA_ENOTHELD, "%p is not a block of %s that this process holds", p,
                     shr__label(h, name));
}
