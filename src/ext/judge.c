/* The judge: which of these places can nobody read any more?
 *
 * Pipe, a writing end is found: the kernel's count of readers decides, at once and exactly.
 * Pipe, a reading end is found: alive.  Pipe, no end is found: dead only if two looks, a
 * second or more apart, find none, nobody who may have one is hidden from them (obstacle.c),
 * and no socket or ring holds descriptors.  Unix socket: dead when the receiving socket is
 * not in the table of its network namespace, twice.  Process being started: dead when that
 * process, told by number and start time, is gone or a zombie.
 *
 * One look serves all places, and is made in steps, each only if the one before left
 * something open: the own descriptors, all main threads' until everything is decided (a first
 * look only), then everything there is.  A look costs a readlink() for every descriptor on the machine.
 *
 * What was not found once is remembered until the second look, by this process alone: its
 * own monotonic clock, lost at a fork.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "judge.h"

#define APART_NS 1000000000LL /* between two looks that together count */
#define REMEMBERED 8192       /* places; what is over it waits for the next look */
#define FORGET_NS (60 * APART_NS) /* nobody has asked for it since: its ticket has ended */
#define SLICE_NS 50000000LL   /* of a wait: Ctrl-C is answered in so long */
#define ROUNDS 4              /* of a patient judge */

enum verdict {
    OPEN,    /* not looked at, or nothing found yet */
    ALIVE,   /* or at least in doubt */
    MISSING, /* this look found nothing, and would have */
    DEAD
};

typedef struct asked {
    const sharena_place *place;
    enum verdict verdict;
} asked;

typedef struct look {
    const sharena_inquiry *inquiry;
    asked *list; /* sorted by kind and id */
    size_t open_pipes;
    int again; /* some were missing before, and probably still are */
    ext_obstacles obstacles;
} look;

static struct {
    sharena_place place;
    int64_t missing_ns, asked_ns;
} memory[REMEMBERED]; /* under `lock`, as what follows */
static size_t remembered;
static char obstacle[160];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int (*interrupted)(void);

static void after_fork(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    lock = fresh; /* another thread may have been in the middle of it */
    remembered = 0;
    obstacle[0] = 0;
}

static void prepare(void)
{
    (void)pthread_atfork(NULL, NULL, after_fork);
}

static int64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---- places ---- */

static int compare(uint32_t kind, uint64_t id, const sharena_place *place)
{
    if (kind != place->kind)
        return kind < place->kind ? -1 : 1;
    return id == place->id ? 0 : id < place->id ? -1 : 1;
}

static int compare_asked(const void *a, const void *b)
{
    const sharena_place *place = ((const asked *)a)->place;

    return compare(place->kind, place->id, ((const asked *)b)->place);
}

/* The first of that kind and id, or NULL: sockets of several namespaces may share a number. */
static asked *find(const look *l, uint32_t kind, uint64_t id)
{
    size_t low = 0, high = l->inquiry->n_places;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(kind, id, l->list[middle].place) > 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == l->inquiry->n_places || compare(kind, id, l->list[low].place) != 0)
        return NULL;
    return &l->list[low];
}

/* ---- pipes ---- */

static void pipe_met(look *l, const ext_end *end, asked *a)
{
    int modes = ext_end_modes(end), unread = -1;

    if (modes == 2) /* writes only */
        unread = ext_end_unread(end);
    if (a->verdict == OPEN)
        l->open_pipes--;
    a->verdict = unread == 1 ? DEAD : ALIVE;
}

static void end_met(const ext_end *end, void *argument, ext_walk *walk)
{
    look *l = argument;

    if (end->kind == EXT_END_PIPE) {
        asked *a = find(l, SHARENA_PLACE_PIPE, end->inode);
        if (a != NULL && a->verdict == OPEN)
            pipe_met(l, end, a);
        if (l->open_pipes == 0)
            walk->stop = 1;
    } else if (walk->thorough) {
        ext_obstacles_holder(&l->obstacles, end);
    }
}

static void process_met(pid_t pid, enum ext_table table, void *argument, ext_walk *walk)
{
    look *l = argument;

    ext_obstacles_process(&l->obstacles, pid, table);
    if (l->obstacles.text[0] != 0) /* no verdict can come of it */
        walk->stop = 1;
}

static void look_for_pipes(look *l, uint8_t *seen)
{
    ext_walk own = {.own_only = 1, .end = end_met, .argument = l};
    ext_walk quick = {.end = end_met, .argument = l};
    ext_walk full = {.thorough = 1, .end = end_met, .process = process_met, .argument = l};

    if (l->open_pipes > 0)
        ext_walk_run(&own);
    if (l->open_pipes > 0 && !l->again)
        ext_walk_run(&quick);
    if (l->open_pipes == 0)
        return;
    ext_obstacles_init(&l->obstacles, l->inquiry, seen);
    if (l->obstacles.text[0] != 0)
        return;
    full.compare = ext_proc_view_compare(&l->obstacles.view);
    ext_walk_run(&full);
    if (full.failed)
        ext_obstacle_set(&l->obstacles, "%s", EXT_SHORTAGE);
    if (l->obstacles.text[0] == 0 && l->open_pipes > 0)
        ext_obstacles_end(&l->obstacles);
    if (l->obstacles.text[0] != 0)
        return;
    for (size_t i = 0; i < l->inquiry->n_places; i++)
        if (l->list[i].place->kind == SHARENA_PLACE_PIPE && l->list[i].verdict == OPEN)
            l->list[i].verdict = MISSING;
}

/* ---- sockets ---- */

static void socket_met(uint64_t inode, void *argument)
{
    look *l = argument;

    for (asked *a = find(l, SHARENA_PLACE_SOCKET, inode);
         a != NULL && a < l->list + l->inquiry->n_places && a->place->id == inode; a++)
        if (a->verdict == OPEN && a->place->kind == SHARENA_PLACE_SOCKET)
            a->verdict = ALIVE;
}

/* The table is read a page at a time, and can skip one while others come and go, so what is
 * missing is asked for by itself. */
static void look_for_sockets(look *l)
{
    uint64_t space = ext_namespace("net"), peer;
    size_t n = 0;

    for (size_t i = 0; i < l->inquiry->n_places; i++) {
        asked *a = &l->list[i];
        if (a->place->kind != SHARENA_PLACE_SOCKET || a->verdict != OPEN)
            continue;
        if (space == 0 || a->place->where != space)
            a->verdict = ALIVE;
        else
            n++;
    }
    if (n == 0 || ext_sockets_each(socket_met, l) < 0)
        return;
    for (size_t i = 0; i < l->inquiry->n_places; i++) {
        asked *a = &l->list[i];
        if (a->place->kind == SHARENA_PLACE_SOCKET && a->verdict == OPEN)
            a->verdict = ext_socket_find(a->place->id, &peer) == 0 ? MISSING : ALIVE;
    }
}

/* ---- processes being started ---- */

static enum verdict judge_child(const sharena_place *place, int usable, uint64_t space)
{
    uint64_t start;

    if (place->id == 0) /* it had ended before it was asked for */
        return DEAD;
    if (!usable || space == 0 || place->where >> 32 != space)
        return ALIVE;
    int gone = ext_process_gone((pid_t)(place->where & UINT32_MAX), &start);
    if (gone != 0)
        return gone == 1 ? DEAD : ALIVE;
    /* Taking off a time namespace's shift may be one clock tick off. */
    return start != 0 && (start > place->id + 1 || start + 1 < place->id) ? DEAD : ALIVE;
}

static void judge_children(look *l)
{
    ext_proc_view view = {0};
    uint64_t space = 0;

    for (size_t i = 0; i < l->inquiry->n_places; i++) {
        asked *a = &l->list[i];
        if (a->place->kind != SHARENA_PLACE_CHILD)
            continue;
        if (space == 0) {
            ext_proc_view_read(&view);
            space = ext_namespace("pid");
        }
        a->verdict = judge_child(a->place, view.usable, space);
    }
}

/* ---- memory ---- */

static size_t recall(const sharena_place *place)
{
    size_t i = 0;

    while (i < remembered && (compare(place->kind, place->id, &memory[i].place) != 0 ||
                              place->where != memory[i].place.where))
        i++;
    return i;
}

static void make_room(int64_t now)
{
    for (size_t i = 0; i < remembered && remembered == REMEMBERED;) {
        if (now - memory[i].asked_ns > FORGET_NS)
            memory[i] = memory[--remembered];
        else
            i++;
    }
}

/* Joins this look, begun and ended then, with earlier ones.  Returns when the next one can
 * give a verdict, 0: it needs none. */
static int64_t remember(look *l, int64_t begun_ns, int64_t ended_ns)
{
    int64_t next_ns = 0;

    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < l->inquiry->n_places; i++) {
        asked *a = &l->list[i];
        size_t at = recall(a->place);
        if (at < remembered && a->verdict != MISSING) {
            memory[at] = memory[--remembered];
        } else if (at < remembered && begun_ns - memory[at].missing_ns >= APART_NS) {
            memory[at] = memory[--remembered];
            a->verdict = DEAD;
        }
        if (a->verdict != MISSING)
            continue;
        if (at >= remembered)
            make_room(ended_ns);
        if (at >= remembered && remembered < REMEMBERED) {
            at = remembered++;
            memory[at].place = *a->place;
            memory[at].missing_ns = ended_ns;
        }
        int64_t due_ns = at < remembered ? memory[at].missing_ns + APART_NS : ended_ns;
        if (at < remembered)
            memory[at].asked_ns = ended_ns;
        if (due_ns > next_ns)
            next_ns = due_ns;
    }
    memcpy(obstacle, l->obstacles.text, sizeof obstacle);
    (void)pthread_mutex_unlock(&lock);
    return next_ns;
}

/* ---- the judge ---- */

/* Looks at what is not decided yet. */
static int64_t look_once(look *l, uint8_t *seen)
{
    int64_t begun_ns = now_ns();

    l->open_pipes = 0;
    l->again = 0;
    memset(&l->obstacles, 0, sizeof l->obstacles);
    if (l->inquiry->n_members > 0)
        memset(seen, 0, l->inquiry->n_members);
    for (size_t i = 0; i < l->inquiry->n_places; i++) {
        asked *a = &l->list[i];
        if (a->verdict == MISSING)
            a->verdict = OPEN;
        if (a->verdict == OPEN && a->place->kind == SHARENA_PLACE_PIPE)
            l->open_pipes++;
    }
    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < l->inquiry->n_places && !l->again && remembered > 0; i++)
        l->again = l->list[i].verdict == OPEN && recall(l->list[i].place) < remembered;
    (void)pthread_mutex_unlock(&lock);
    look_for_pipes(l, seen);
    look_for_sockets(l);
    return remember(l, begun_ns, now_ns());
}

/* 0, or -1: interrupted. */
static int wait_until(int64_t due_ns)
{
    for (;;) {
        int64_t left_ns = due_ns - now_ns();
        if (left_ns <= 0)
            return 0;
        if (interrupted != NULL && interrupted())
            return -1;
        struct timespec slice = {.tv_nsec = (long)(left_ns < SLICE_NS ? left_ns : SLICE_NS)};
        (void)nanosleep(&slice, NULL);
    }
}

/* 0, or -1: interrupted. */
static int judge_list(look *l, uint8_t *seen)
{
    int64_t due_ns;
    int status = 0;

    for (size_t i = 0; i < l->inquiry->n_places; i++)
        l->list[i] = (asked){.place = &l->inquiry->places[i], .verdict = OPEN};
    qsort(l->list, l->inquiry->n_places, sizeof l->list[0], compare_asked);
    judge_children(l);
    for (int round = 0; round < ROUNDS; round++) {
        due_ns = look_once(l, seen);
        if (!l->inquiry->patient || due_ns == 0)
            break;
        status = wait_until(due_ns);
        if (status < 0)
            break;
    }
    for (size_t i = 0; i < l->inquiry->n_places; i++)
        if (l->list[i].verdict == DEAD)
            l->inquiry->dead[l->list[i].place - l->inquiry->places] = 1;
    return status;
}

int ext_judge(const sharena_inquiry *inquiry, void *unused)
{
    look l = {.inquiry = inquiry};
    int saved = errno, status = 0;

    (void)unused;
    (void)pthread_once(&once, prepare);
    l.list = calloc(inquiry->n_places + 1, sizeof l.list[0]);
    uint8_t *seen = calloc(inquiry->n_members + 1, 1);
    if (l.list != NULL && seen != NULL)
        status = judge_list(&l, seen);
    free(seen);
    free(l.list);
    errno = saved;
    return status;
}

const char *ext_judge_obstacle(void)
{
    static _Thread_local char copy[sizeof obstacle];

    (void)pthread_mutex_lock(&lock);
    memcpy(copy, obstacle, sizeof copy);
    (void)pthread_mutex_unlock(&lock);
    return copy;
}

void ext_judge_set_interrupt(int (*function)(void))
{
    interrupted = function;
}

/* ---- for people ---- */

typedef struct holder {
    const sharena_place *place;
    pid_t reader, writer; /* 0: none yet; for a socket the reader */
} holder;

static void holder_met(const ext_end *end, void *argument, ext_walk *walk)
{
    holder *h = argument;
    int pipe = h->place->kind == SHARENA_PLACE_PIPE;

    if (end->inode != h->place->id || end->kind != (pipe ? EXT_END_PIPE : EXT_END_SOCKET))
        return;
    int modes = pipe ? ext_end_modes(end) : 4;
    if (modes > 0 && (modes & 4) != 0)
        h->reader = end->pid;
    else if (modes == 2 && ext_end_unread(end) == 0)
        h->writer = end->pid;
    if (h->reader != 0)
        walk->stop = 1;
}

int ext_judge_reader(const sharena_place *place, char *out, size_t size)
{
    holder h = {.place = place};
    ext_walk walk = {.thorough = 1, .end = holder_met, .argument = &h};
    ext_proc_view view;
    char name[32];
    uint64_t start;

    out[0] = 0;
    if (place->kind == SHARENA_PLACE_CHILD) {
        pid_t pid = (pid_t)(place->where & UINT32_MAX);
        if (place->id == 0 || ext_process_gone(pid, &start) != 0)
            return 0;
        ext_process_name(pid, name);
        (void)snprintf(out, size, "process %d (%s) was started with it", (int)pid, name);
        return 1;
    }
    if (place->kind != SHARENA_PLACE_PIPE && place->kind != SHARENA_PLACE_SOCKET)
        return 0;
    ext_proc_view_read(&view);
    walk.compare = ext_proc_view_compare(&view);
    ext_walk_run(&walk);
    if (h.reader != 0) {
        ext_process_name(h.reader, name);
        (void)snprintf(out, size, "process %d (%s) has %s", (int)h.reader, name,
                       place->kind == SHARENA_PLACE_PIPE ? "a reading end"
                                                         : "the receiving socket");
    } else if (h.writer != 0) {
        (void)snprintf(out, size, "somebody who can't be seen has a reading end");
    }
    return out[0] != 0;
}
