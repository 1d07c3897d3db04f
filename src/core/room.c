/* How much memory may still be committed before the kernel kills somebody.
 *
 * A full file system refuses; a full memory cgroup kills whoever touches the next page.  So
 * the heap asks here before it commits a megabyte or more.  The answer is the smallest of
 *   - MemAvailable of /proc/meminfo, less a reserve for everybody else;
 *   - limit - usage + page cache, over this process's memory cgroup and each of its
 *     ancestors, in the v1 and the v2 hierarchy (a machine may mount both).
 * Page cache of files counts as room, because the kernel drops it before it kills.  Shared
 * memory lies on the anonymous lists and does not count.
 *
 * What can't be read does not limit: a container may hide any of these files.  It is a
 * forecast and no reservation.
 *
 * Cost: the mounts are looked up once in a process's life, the process's place in the
 * hierarchy once a second (it can be moved), the numbers each time; memory.stat, the dearest
 * file, only where the answer depends on it.
 *
 * The cache is private and guarded by a word that holds the pid of its user.  Who finds it
 * taken works on a copy of his own instead of waiting; a forked child, whose parent's thread
 * may have held it, takes it over because the pid is not its own.  So nothing blocks and
 * fork() needs no handler.  Not for signal handlers.  Needs 16 KiB of stack. */
#include "internal.h"
#include "atomics.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NO_LIMIT UINT64_MAX
#define MIB (UINT64_C(1) << 20)
/* Left to everybody else when the machine itself is the limit: the kernel's own watermarks
 * on a machine of a few GiB, with as much again for what the others do meanwhile. */
#define MACHINE_RESERVE (32 * MIB)
#define FILE_LIMIT_MAX (UINT64_C(1) << 60) /* v1 says "none" by a number near 2^63 */
#define PATH_ROOM 1024 /* longer paths do not limit */
#define DEPTH_MAX 32   /* ancestors looked at */

/* Where a hierarchy is mounted ("" = nowhere) and the directory of this process in it. */
struct hierarchy {
    char mount[PATH_ROOM], place[PATH_ROOM];
};

enum { V1, V2, HIERARCHIES };

static const struct files {
    const char *limit, *usage, *inactive, *active;
} files_of[HIERARCHIES] = {
    [V1] = {"memory.limit_in_bytes", "memory.usage_in_bytes", "\ntotal_inactive_file ",
            "\ntotal_active_file "},
    [V2] = {"memory.max", "memory.current", "\ninactive_file ", "\nactive_file "},
};

struct places {
    struct hierarchy of[HIERARCHIES];
    pid_t pid; /* whose they are; 0 = not read yet */
    time_t read_s;
};

/* The tightest found so far. */
struct tightest {
    uint64_t room, limit;
    char where[256];
};

static struct places cache;
static shr_a32 cache_user; /* pid, 0 = nobody */

/* Reads the first size - 1 bytes of a file; false if there is nothing to read.  The kernel
 * gives up to a page of such a file at once. */
static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* False also for "max". */
static bool read_number(const char *directory, const char *file, uint64_t *number)
{
    char path[PATH_ROOM + 32], text[32];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    return read_text(path, text, sizeof text) && sscanf(text, "%" SCNu64, number) == 1;
}

/* The number after `key`, 0 if there is none. */
static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* Whether the comma-separated list has the word "memory". */
static bool lists_memory(const char *list)
{
    for (const char *at = list; (at = strstr(at, "memory")); at += 6)
        if ((at == list || at[-1] == ',') && (at[6] == ',' || at[6] == '\0'))
            return true;
    return false;
}

/* "36 31 0:32 ROOT MOUNT options [more] - TYPE SOURCE options" */
static void mount_line(const char *line, struct places *places)
{
    char mount[PATH_ROOM], type[16], options[256];
    const char *tail = strstr(line, " - ");
    if (!tail || sscanf(tail, " - %15s %*s %255s", type, options) != 2 ||
        sscanf(line, "%*s %*s %*s %*s %1023s", mount) != 1)
        return;
    bool v1 = strcmp(type, "cgroup") == 0 && lists_memory(options);
    if (v1 || strcmp(type, "cgroup2") == 0)
        memcpy(places->of[v1 ? V1 : V2].mount, mount, sizeof mount);
}

/* "4:memory,hugetlb:PATH" or, for v2, "0::PATH" */
static void place_line(const char *line, struct places *places)
{
    char controllers[256] = "", path[PATH_ROOM], place[PATH_ROOM];
    if (sscanf(line, "%*d::%1023[^\n]", path) != 1 &&
        sscanf(line, "%*d:%255[^:]:%1023[^\n]", controllers, path) != 2)
        return;
    if (controllers[0] && !lists_memory(controllers))
        return;
    struct hierarchy *h = &places->of[controllers[0] ? V1 : V2];
    int n = snprintf(place, sizeof place, "%s%s", h->mount, path);
    /* A container may see only its own part of the hierarchy, mounted as if it were all, but
     * learn the whole path: then the mount point is the cgroup, or as near as one can see. */
    bool seen = n > 0 && (size_t)n < sizeof place && access(place, F_OK) == 0;
    memcpy(h->place, seen ? place : h->mount, sizeof h->place);
    if (seen && place[n - 1] == '/')
        h->place[n - 1] = '\0';
}

static void each_line(const char *path, void (*line)(const char *, struct places *),
                      struct places *places)
{
    char text[2 * PATH_ROOM + 512];
    FILE *file = fopen(path, "re");
    while (file && fgets(text, sizeof text, file))
        line(text, places);
    if (file)
        fclose(file);
}

static void find_places(struct places *places)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (places->pid == getpid() && now.tv_sec - places->read_s <= 1)
        return;
    if (places->pid != getpid()) {
        memset(places, 0, sizeof *places);
        each_line("/proc/self/mountinfo", mount_line, places);
    }
    each_line("/proc/self/cgroup", place_line, places);
    places->read_s = now.tv_sec;
    places->pid = getpid();
}

/* Looks at the cgroup `directory` and narrows *t. */
static void look_at_cgroup(const struct hierarchy *h, const struct files *files,
                           const char *directory, uint64_t want_bytes, struct tightest *t)
{
    uint64_t limit, used;
    char path[PATH_ROOM + 16], text[4096];
    if (!read_number(directory, files->limit, &limit) || limit > FILE_LIMIT_MAX ||
        !read_number(directory, files->usage, &used))
        return;
    t->limit = limit < t->limit ? limit : t->limit;
    /* left to everybody else in the group: the next page that anyone touches there may kill */
    uint64_t reserve = limit / 16 < 32 * MIB ? limit / 16 : 32 * MIB;
    reserve = reserve > 4 * MIB ? reserve : 4 * MIB;
    reserve = reserve < limit / 4 ? reserve : limit / 4;
    uint64_t room = limit - reserve > used ? limit - reserve - used : 0;
    /* memory.stat costs as much as all the rest, and only ever adds to the room. */
    if (room < want_bytes && room < t->room) {
        snprintf(path, sizeof path, "%s/memory.stat", directory);
        uint64_t cached = 0;
        if (read_text(path, text, sizeof text))
            cached = number_after(text, files->inactive) + number_after(text, files->active);
        used -= cached < used ? cached : used;
        room = limit - reserve > used ? limit - reserve - used : 0;
    }
    if (room >= t->room)
        return;
    t->room = room;
    snprintf(t->where, sizeof t->where,
             "memory cgroup %.160s: %" PRIu64 " MiB limit, %" PRIu64 " MiB used",
             directory[strlen(h->mount)] ? directory + strlen(h->mount) : "/", limit / MIB,
             used / MIB);
}

static void look_at_cgroups(struct places *places, uint64_t want_bytes, struct tightest *t)
{
    char directory[PATH_ROOM];
    find_places(places);
    for (int i = 0; i < HIERARCHIES; i++) {
        const struct hierarchy *h = &places->of[i];
        memcpy(directory, h->place, sizeof directory);
        for (int depth = 0; h->place[0] && depth < DEPTH_MAX; depth++) {
            look_at_cgroup(h, &files_of[i], directory, want_bytes, t);
            char *parent = strrchr(directory, '/');
            if (!parent || parent < directory + strlen(h->mount))
                break;
            *parent = '\0';
        }
    }
}

static struct tightest look(uint64_t want_bytes)
{
    struct tightest t = {.room = NO_LIMIT, .limit = NO_LIMIT, .where = "nothing limits"};
    uint32_t me = (uint32_t)getpid(), user = 0;
    char text[2048];
    if (read_text("/proc/meminfo", text, sizeof text) && strstr(text, "\nMemAvailable:")) {
        uint64_t available = number_after(text, "\nMemAvailable:") * 1024;
        t.room = available > MACHINE_RESERVE ? available - MACHINE_RESERVE : 0;
        snprintf(t.where, sizeof t.where, "this machine: %" PRIu64 " MiB available",
                 available / MIB);
    }
    if (cas32_acquire(&cache_user, &user, me) ||
        (user != me && cas32_acquire(&cache_user, &user, me))) {
        look_at_cgroups(&cache, want_bytes, &t);
        store32_release(&cache_user, 0);
    } else {
        struct places own = {.pid = 0};
        look_at_cgroups(&own, want_bytes, &t);
    }
    return t;
}

int shr__room(uint64_t want_bytes, uint64_t *room_bytes, char *where, size_t where_size)
{
    struct tightest t = look(want_bytes);
    *room_bytes = t.room;
    snprintf(where, where_size, "%s", t.where);
    return 0;
}

uint64_t shr__default_limit(void)
{
    struct tightest t = look(0);
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t ram = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : NO_LIMIT;
    return (ram < t.limit ? ram : t.limit) / 5 * 4;
}
