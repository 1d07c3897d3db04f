/* Which messages can nobody read any more?  Where a message goes, who still has an end of
 * that channel, and what is known for certain.
 *
 * Plain C without Python: all of it runs without the GIL, nothing raises.  In any doubt a
 * message counts as readable: a wrong "dead" would lose data, a wrong "alive" only keeps
 * memory.  From the top: judge_py · judge · obstacle, channel · proc_walk, proc_read.
 */
#ifndef SHARENA_JUDGE_H
#define SHARENA_JUDGE_H

#include <stddef.h>
#include <stdint.h>

#include "sharena/sharena.h"

/* ---- proc_read.c: what /proc says about one process ---- */

/* Between these two, for some microseconds, this process can't fork: what is open would get
 * into the child.  Not to be nested. */
void ext_brief_begin(void);
void ext_brief_end(void);

typedef struct ext_process_stat {
    char state; /* 'Z': a zombie, which may have threads that live on */
    pid_t parent;
    long threads;
    uint64_t start; /* field 22, as this process's time namespace shows it */
} ext_process_stat;

/* 0, or -1 with errno. */
int ext_process_stat_read(pid_t, ext_process_stat *);
/* Whether that process runs no code any more.  1; 0 and *start, the same in all time
 * namespaces (0: unknown); -1: can't be told. */
int ext_process_gone(pid_t, uint64_t *start);
void ext_process_name(pid_t, char out[32]); /* its command, for people; "?" if unknown */
/* A small file of /proc as a string; its length, or -1 with errno. */
ssize_t ext_proc_read(const char *path, char *out, size_t size);
ssize_t ext_proc_read_at(int at, const char *path, char *out, size_t size);
uint64_t ext_namespace(const char *which); /* inode of this thread's; 0: unknown */

typedef struct ext_proc_view {
    int usable;  /* /proc is there and of this process's own pid namespace */
    int hides;   /* it is mounted with hidepid= */
    int seccomp; /* system calls are filtered: an unusual one may kill */
} ext_proc_view;
void ext_proc_view_read(ext_proc_view *);
/* Numbers are the kernel's own, and no filter kills who calls kcmp(). */
static inline int ext_proc_view_compare(const ext_proc_view *view)
{
    return view->usable && !view->seccomp;
}

/* ---- proc_walk.c: every pipe, socket and io_uring that a process here has open ---- */

enum ext_end_kind { EXT_END_PIPE, EXT_END_SOCKET, EXT_END_RING };

typedef struct ext_end {
    enum ext_end_kind kind;
    int own; /* of this process */
    pid_t pid;
    int proc;           /* /proc, open */
    const char *base;   /* "PID" or "PID/task/TID" below it */
    int dir;            /* its fd, open */
    const char *number; /* of the descriptor */
    uint64_t inode;     /* 0 for a ring */
} ext_end;

enum ext_table { EXT_TABLE_SEEN, EXT_TABLE_EMPTY, EXT_TABLE_GONE, EXT_TABLE_UNREADABLE };

typedef struct ext_walk ext_walk;
struct ext_walk {
    int own_only; /* this process's own table of descriptors, nobody else's */
    int thorough; /* tables of threads too; otherwise what is met is there, but not all */
    int compare;  /* kcmp() may be called: ext_proc_view_compare() */
    void (*end)(const ext_end *, void *argument, ext_walk *);
    /* After its ends; may be NULL. */
    void (*process)(pid_t, enum ext_table, void *argument, ext_walk *);
    void *argument;
    int stop;   /* set by a callback: enough */
    int failed; /* something was not looked at, for want of memory or descriptors */
};

/* One walk at a time; others wait. */
void ext_walk_run(ext_walk *);
/* The value of a line "key:\tvalue" in the fdinfo of an end; -1: no such line; -2: closed
 * meanwhile; -3: no right to; -4: no means to. */
long ext_end_info(const ext_end *, const char *key);
int ext_end_modes(const ext_end *); /* 4: reads, 2: writes, 6, 0: neither; -1: closed */
/* Asks the kernel, through this writing end, whether the pipe has no reader.  1, 0, or -1. */
int ext_end_unread(const ext_end *);

/* ---- channel.c: where a message goes ---- */

/* What the next message written to the descriptor will be on; SHARENA_PLACE_LOOSE in doubt.
 * 0, or -1 (and LOOSE) if it isn't open.  Keeps errno.  A pipe or a known socket costs one
 * fstat. */
int ext_place_of(int fd, sharena_place *out);
/* For a process that was just started.  0, or -1 (and LOOSE) if it can't be told apart. */
int ext_place_of_child(pid_t, sharena_place *out);
/* Asks this thread's network namespace for a unix socket.  1: *peer (0: none); 0: there is
 * none of this inode; -1: no answer. */
int ext_socket_find(uint64_t inode, uint64_t *peer);
/* Calls back for each unix socket of this thread's network namespace, but for what comes and
 * goes meanwhile; the inode is 0 for one that waits to be accepted.  Within ext_brief_begin().
 * 0, or -1: not for all. */
int ext_sockets_each(void (*each)(uint64_t inode, void *), void *argument);

/* ---- obstacle.c: who could have an end that can't be seen ---- */

typedef struct ext_obstacles {
    const sharena_inquiry *inquiry;
    uint8_t *seen; /* one a member */
    ext_proc_view view;
    uint64_t guests;
    int old_kernel; /* doesn't count descriptors that wait in accept queues */
    char text[160]; /* the first one found, or "" */
} ext_obstacles;

/* `seen`: n_members zeros.  Looks for what is known without a walk. */
void ext_obstacles_init(ext_obstacles *, const sharena_inquiry *, uint8_t *seen);
/* In a thorough walk, for each process, and after the last one. */
void ext_obstacles_process(ext_obstacles *, pid_t, enum ext_table);
void ext_obstacles_end(ext_obstacles *);
/* A socket or a ring may hold descriptors. */
void ext_obstacles_holder(ext_obstacles *, const ext_end *);
#define EXT_SHORTAGE "no descriptors or memory left to look at everything"
void ext_obstacle_set(ext_obstacles *, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- judge.c ---- */

/* A sharena_judge; the argument is unused. */
int ext_judge(const sharena_inquiry *, void *argument);
/* What kept the last inquiry from a verdict, a sentence for people; "" if nothing did.
 * Valid until this thread's next call. */
const char *ext_judge_obstacle(void);
/* Who can still read it: "process 123 (name) has a reading end".  1, or 0 and "": nobody was
 * found, which is no verdict. */
int ext_judge_reader(const sharena_place *, char *out, size_t size);
/* Asked while a patient judge waits; non-zero ends the wait without a verdict. */
void ext_judge_set_interrupt(int (*interrupted)(void));

#endif
