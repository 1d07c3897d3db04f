/* The superblock: what a heap is made of, and whether a file is one.
 *
 * The layout follows from the number of units alone, so that a superblock can be checked
 * against the layout that its own size demands, and then by its checksum.  It is written once,
 * before anyone else can open the heap, and copied once by whoever attaches; the copy is what
 * is used from then on.
 */
#include "internal.h"

#define LIMIT_MIN ((uint64_t)4 << 20)

int shr__heap_name_valid(const char *name)
{
    size_t n = strlen(name);

    return n > 0 && n <= 64 && name[0] != '.' &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

/* An extent is a sixteenth of the heap, or less.  Rounding the heap up to whole extents never
 * changes the choice: a count just below 16 extents is rounded to 16 of the smaller ones. */
static uint64_t extent_for(uint64_t units)
{
    uint64_t extent = SHR_EXTENT_UNITS_MIN;

    while (extent < SHR_EXTENT_UNITS_MAX && extent * 2 * 16 <= shr__round_up(units, extent))
        extent *= 2;
    return extent;
}

/* The table of tickets takes at most half the address space of the data, and a quarter of the
 * limit: what it once took stays. */
static uint32_t ticket_segments_for(uint64_t units, uint64_t limit_bytes)
{
    uint64_t half = units << (SHR_UNIT_SHIFT - 1),
             most = half < limit_bytes / 4 ? half : limit_bytes / 4;
    uint32_t n = 1;

    while (n < SHR_TICKET_SEGMENTS && SHR_TICKET_START(n + 1) * sizeof(struct ticket_shm) <= most)
        n++;
    return n;
}

/* Everything follows from the number of units. */
static void lay_out(struct super_shm *s, uint64_t units)
{
    uint64_t extent = extent_for(units), at;

    s->ticket_segments = ticket_segments_for(units, s->limit_bytes);
    at = SHR_AT_TICKETS + SHR_TICKET_START(s->ticket_segments) * sizeof(struct ticket_shm);
    s->extent_units = (uint32_t)extent;
    s->units = shr__round_up(units, extent);
    s->heads = at;
    s->commit = at += shr__round_up(s->units / 8, SHR_PAGE);
    s->dirty = at += shr__round_up(s->units / 8, SHR_PAGE);
    s->extents = at += shr__round_up(s->units / 8, SHR_PAGE);
    s->units_at = at += shr__round_up(s->units / extent * sizeof(struct extent_shm), SHR_PAGE);
    s->descriptors = at += shr__round_up(s->units * sizeof(struct unit_shm), SHR_UNIT);
    s->data = shr__round_up(at + (s->units << SHR_UNIT_SHIFT), SHR_DATA_ALIGN);
    s->file_bytes = s->data + (s->units << SHR_UNIT_SHIFT);
}

/* The owner may read and write, and the group and the others both or neither. */
static int mode_valid(unsigned mode)
{
    unsigned group = mode >> 3 & 6u, others = mode & 6u;

    return (mode >> 6 & 6u) == 6u && (group == 0 || group == 6u) && (others == 0 || others == 6u);
}

static uint64_t checksum(const struct super_shm *s)
{
    const uint8_t *p = (const uint8_t *)s;
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < offsetof(struct super_shm, checksum); i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

int shr__super_fill(struct super_shm *s, const char *name, const sharena_options *o)
{
    uint64_t ram = shr__sys_ram(), most = shr__sys_mappable(), reserve;
    char size[2][24];

    memset(s, 0, sizeof *s);
    memcpy(s->magic, SHR_MAGIC, 8);
    s->format = SHR_FORMAT;
    s->words = 1;
    s->unit_shift = SHR_UNIT_SHIFT;
    s->limit_bytes = o && o->limit_bytes ? o->limit_bytes : shr__default_limit();
    if (s->limit_bytes < LIMIT_MIN)
        return shr__fail(SHARENA_EINVAL, "a limit of %s is less than the least, %s",
                         shr__size(s->limit_bytes, size[0]), shr__size(LIMIT_MIN, size[1]));
    reserve = o && o->reserve_bytes ? o->reserve_bytes : 4 * ram;
    if (!(o && o->reserve_bytes)) {
        reserve = reserve > s->limit_bytes ? reserve : s->limit_bytes;
        /* descriptors take as much address space again, tickets half as much */
        reserve = reserve < most / 3 ? reserve : most / 3;
    }
    if (reserve >> SHR_UNIT_SHIFT > SHR_UNITS_MAX - SHR_EXTENT_UNITS_MAX ||
        s->limit_bytes >> SHR_UNIT_SHIFT > SHR_UNITS_MAX)
        return shr__fail(
            SHARENA_EINVAL, "limit and reserve can be at most %s",
            shr__size((SHR_UNITS_MAX - SHR_EXTENT_UNITS_MAX) << SHR_UNIT_SHIFT, size[0]));
    lay_out(s, reserve < LIMIT_MIN ? LIMIT_MIN >> SHR_UNIT_SHIFT
                                   : shr__round_up(reserve, SHR_UNIT) >> SHR_UNIT_SHIFT);
    s->retain_bytes = o && o->retain_bytes ? o->retain_bytes : s->limit_bytes / 8;
    s->ticket_ms = o ? o->ticket_ms : 0;
    s->mode = o && o->mode ? o->mode & 0666u : 0600u;
    if (!mode_valid(s->mode))
        return shr__fail(SHARENA_EINVAL,
                         "with mode 0%o some could open the heap only for reading or only for "
                         "writing, and who attaches needs both: use 0600, 0660 or 0666",
                         o ? o->mode : 0);
    s->uid = shr__sys_uid();
    s->machine = shr__sys_machine();
    s->created_ns = shr__sys_real_ns();
    s->creator_pid = shr__sys_pid();
    shr__sys_random(s->uuid, sizeof s->uuid);
    if (name)
        memcpy(s->name, name, strlen(name));
    s->checksum = checksum(s);
    return 0;
}

/* Everything that could mislead us, before the first write. */
int shr__super_check(const struct super_shm *s, uint64_t file_bytes, uint32_t file_uid,
                     uint32_t owner)
{
    struct super_shm again = *s;

    if (memcmp(s->magic, SHR_MAGIC, 8) != 0)
        return shr__fail(SHARENA_ENOTHEAP, "the file is not a sharena heap");
    if (s->format != SHR_FORMAT || s->words != 1)
        return shr__fail(
            SHARENA_EVERSION,
            "the heap has format %u with %u mask words, this library reads format %u "
            "with 1; use the same version of sharena in all processes",
            s->format, s->words, SHR_FORMAT);
    if (s->unit_shift != SHR_UNIT_SHIFT || s->units == 0 || s->units > SHR_UNITS_MAX)
        return shr__fail(SHARENA_ECORRUPT, "the heap's superblock is damaged (geometry)");
    if (!memchr(s->name, 0, sizeof s->name) || (s->name[0] && !shr__heap_name_valid(s->name)))
        return shr__fail(SHARENA_ECORRUPT, "the heap's superblock is damaged (name)");
    lay_out(&again, s->units);
    again.checksum = checksum(s);
    if (memcmp(&again, s, sizeof again) != 0 || file_bytes < s->file_bytes)
        return shr__fail(SHARENA_ECORRUPT, "the heap's superblock is damaged");
    if (s->machine != shr__sys_machine())
        return shr__fail(SHARENA_EREMOTE,
                         "the heap was made on another machine or before a reboot");
    if (file_uid != owner)
        return shr__fail(SHARENA_EPERM,
                         "the heap belongs to user %u, not to %u; whoever can write a heap can "
                         "change what its arrays hold: to trust that user, say so when attaching",
                         file_uid, owner);
    return 0;
}
