/* heap.c: a heap's life, and what bad arguments and bad files give.  (Blocks: test_alloc.c;
 * damaged metadata: test_fuzz.c.) */
#include "harness.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static const sharena_options small = {.reserve_bytes = 64 * MIB};

static void make_path(char path[128], const char *name)
{
    snprintf(path, 128, "/dev/shm/sharena.%s", name);
}

/* ---- create and attach ------------------------------------------------------------------------ */

static void unnamed_heap(void)
{
    sharena_heap *heap = NULL;
    struct stat st;
    uint8_t none[16] = {0};
    if (getenv("TEST_SLOWNESS"))
        SKIP("valgrind can't map the default reserve\n");
    CHECK_OK(sharena_create(NULL, NULL, &heap));
    CHECK(memcmp(sharena_uuid(heap), none, 16) != 0);
    CHECK(sharena_name(heap) == NULL);
    CHECK_EQ(sharena_is_guest(heap), 0);
    CHECK_EQ(fstat(sharena_descriptor(heap), &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    CHECK_EQ(fcntl(sharena_descriptor(heap), F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_SEAL);
    CHECK(sharena_heap_by_uuid(sharena_uuid(heap)) == heap);
    CHECK(sharena_heap_by_uuid(none) == NULL);
    sharena_stats stats = stats_of(heap);
    CHECK_EQ(memcmp(stats.uuid, sharena_uuid(heap), 16), 0);
    CHECK_EQ(stats.processes, 1);
    CHECK_EQ(stats.blocks, 0);
    CHECK_EQ(stats.max_processes, 60);
    CHECK_LE(stats.limit_bytes, shr__default_limit() + MIB);
    check_heap(heap);
    CHECK_OK(sharena_detach(heap));
}

static void attached_twice_is_one_heap(void)
{
    sharena_heap *heap = scratch_heap(64 * MIB, 64 * MIB), *again = NULL;
    struct heap_address address = address_of(heap);
    CHECK_OK(sharena_attach_process(address.pid, address.fd, address.uuid, &again));
    CHECK(again == heap);
    CHECK_OK(sharena_attach_uuid(address.uuid, &again));
    CHECK(again == heap);
    void *block;
    CHECK_OK(sharena_allocate(heap, 100, 0, 0, &block));
    CHECK_OK(sharena_detach(heap));
    CHECK_OK(sharena_detach(heap));
    memset(block, 1, 100); /* still attached once */
    CHECK_OK(sharena_release(heap, block));
    CHECK_OK(sharena_detach(heap));
    CHECK(sharena_heap_by_uuid(address.uuid) == NULL);
}

static void many_heaps_and_many_lives(void)
{
    sharena_heap *heaps[20];
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 20; i++) {
            void *block;
            heaps[i] = scratch_heap(16 * MIB, 16 * MIB);
            CHECK_OK(sharena_allocate(heaps[i], 1000, 0, 0, &block));
            CHECK(sharena_heap_of(block) == heaps[i]);
        }
        for (int i = 0; i < 20; i++)
            CHECK_OK(sharena_detach(heaps[i]));
    }
    CHECK(sharena_heap_of(&heaps) == NULL);
}

static void attach_by_address(struct peer *parent, void *argument)
{
    struct heap_address address;
    sharena_heap *heap;
    (void)argument;
    peer_receive(parent, &address, sizeof address);
    heap = attach_to(&address);
    CHECK_EQ(stats_of(heap).processes, 2);
    sharena_heap *by_uuid = NULL;
    CHECK_OK(sharena_detach(heap));
    CHECK_OK(sharena_attach_uuid(address.uuid, &by_uuid));
    CHECK_OK(sharena_detach(by_uuid));
    uint8_t other[16] = {1, 2, 3};
    CHECK_EQ(sharena_attach_process(address.pid, address.fd, other, &heap), SHARENA_ENOTFOUND);
    CHECK_EQ(sharena_attach_uuid(other, &heap), SHARENA_ENOTFOUND);
    CHECK(sharena_attach_process(address.pid, 0, address.uuid, &heap) < 0);
}

static void another_process_attaches(void)
{
    struct peer peer;
    peer_start(&peer, attach_by_address, NULL);
    struct heap_address address = address_of(scratch_heap(64 * MIB, 64 * MIB));
    peer_send(&peer, &address, sizeof address);
    peer_join(&peer);
}

static void attach_by_name(struct peer *parent, void *argument)
{
    char name[64];
    sharena_heap *heap;
    (void)argument;
    peer_receive(parent, name, sizeof name);
    CHECK_OK(sharena_attach(name, &heap));
    CHECK_STR(sharena_name(heap), name);
    peer_tell(parent);
    peer_await(parent);
    CHECK_EQ(sharena_unlink(name, 0), SHARENA_EBUSY);
    peer_tell(parent);
    peer_await(parent);
    CHECK_OK(sharena_detach(heap));
}

static void named_heap(void)
{
    struct peer peer;
    struct stat st;
    char name[64] = "", path[128];
    sharena_heap *heap, *other;
    peer_start(&peer, attach_by_name, NULL);
    snprintf(name, sizeof name, "%s", scratch_name());
    make_path(path, name);
    CHECK_EQ(sharena_attach(name, &heap), SHARENA_ENOTFOUND);
    CHECK_OK(
        sharena_create(name, &(sharena_options){.mode = 0660, .reserve_bytes = 64 * MIB}, &heap));
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0660);
    CHECK_EQ(sharena_create(name, &small, &other), SHARENA_EEXIST);
    peer_send(&peer, name, sizeof name);
    peer_await(&peer);
    CHECK_EQ(sharena_unlink(name, 0), SHARENA_EBUSY);
    peer_tell(&peer);
    peer_await(&peer);
    CHECK_OK(sharena_unlink(name, 1));
    CHECK(stat(path, &st) != 0);
    CHECK_EQ(sharena_unlink(name, 1), SHARENA_ENOTFOUND);
    CHECK_OK(sharena_create(name, &small, &other)); /* the name is free, the old heap lives on */
    peer_tell(&peer);
    peer_join(&peer);
    CHECK_OK(sharena_detach(other));
    CHECK_OK(sharena_unlink(name, 0));
    check_heap(heap);
}

static void named_heap_outlives_its_users(void)
{
    char name[64];
    sharena_heap *heap;
    void *block;
    snprintf(name, sizeof name, "%s", scratch_name());
    for (int round = 0; round < 3; round++) {
        int code = sharena_attach(name, &heap);
        if (round == 0) {
            CHECK_EQ(code, SHARENA_ENOTFOUND);
            CHECK_OK(sharena_create(name, &small, &heap));
            CHECK_OK(sharena_allocate(heap, 5000, 0, 0, &block));
            strcpy(block, "still here");
            CHECK_OK(sharena_name_set(heap, "kept", block, NULL, 0));
        } else {
            sharena_block found;
            size_t none = 0;
            CHECK_OK(code);
            CHECK_OK(sharena_name_get(heap, "kept", &found, NULL, &none));
            CHECK_STR((char *)found.start, "still here");
        }
        CHECK_EQ(stats_of(heap).processes, 1);
        CHECK_OK(sharena_detach(heap));
    }
    CHECK_OK(sharena_unlink(name, 0));
}

static void bad_names(void)
{
    char longest[66];
    sharena_heap *heap;
    memset(longest, 'a', 65);
    longest[65] = 0;
    const char *const bad[] = {"", "a/b", "/", "..", "a b", "a\n", "\xc3\xa4", longest};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (sharena_create(bad[i], NULL, &heap) != SHARENA_EINVAL ||
            sharena_attach(bad[i], &heap) != SHARENA_EINVAL ||
            sharena_unlink(bad[i], 1) != SHARENA_EINVAL)
            FAIL("the name \"%s\" is not refused", bad[i]);
        CHECK(strlen(sharena_detail()) > 10);
    }
}

static void bad_options(void)
{
    const sharena_options bad[] = {
        {.reserve_bytes = UINT64_MAX},
        {.limit_bytes = UINT64_MAX, .reserve_bytes = UINT64_MAX},
        {.reserve_bytes = UINT64_C(1) << 62},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sharena_heap *heap = NULL;
        if (sharena_create(NULL, &bad[i], &heap) >= 0 || heap)
            FAIL("options %zu are accepted", i);
        CHECK(strlen(sharena_detail()) > 10);
    }
}

/* ---- bad files ---------------------------------------------------------------------------------- */

static void save(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, bytes, size), size);
    close(fd);
}

static int attach_code(const char *name)
{
    sharena_heap *heap = NULL;
    int code = sharena_attach(name, &heap);
    if (code == 0)
        CHECK_OK(sharena_detach(heap));
    else
        CHECK(heap == NULL && strlen(sharena_detail()) > 10);
    return code;
}

static void files_that_are_no_heaps(void)
{
    char name[64], path[128];
    static uint8_t noise[65536];
    uint64_t random = test_seed();
    struct stat st;
    snprintf(name, sizeof name, "%s", scratch_name());
    make_path(path, name);
    save(path, "", 0);
    CHECK_EQ(attach_code(name), SHARENA_ENOTHEAP);
    save(path, "SHARENA\n", 8);
    CHECK_EQ(attach_code(name), SHARENA_ENOTHEAP);
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)random_next(&random);
    save(path, noise, sizeof noise);
    CHECK_EQ(attach_code(name), SHARENA_ENOTHEAP);
    memcpy(noise, "SHARENA\n", 8);
    save(path, noise, sizeof noise);
    int code = attach_code(name);
    CHECK(code == SHARENA_ENOTHEAP || code == SHARENA_EVERSION || code == SHARENA_ECORRUPT);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_size, sizeof noise); /* nothing was written to a foreign file */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    static uint8_t after[65536];
    CHECK_EQ(read(fd, after, sizeof after), sizeof after);
    CHECK_EQ(memcmp(after, noise, sizeof noise), 0);
    unlink(path);
    CHECK_EQ(mkfifo(path, 0600), 0);
    CHECK_EQ(attach_code(name), SHARENA_ENOTHEAP);
    unlink(path);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_EQ(attach_code(name), SHARENA_ENOTHEAP);
    rmdir(path);
}

static void links_and_other_users(void)
{
    char name[64], link[64], path[128], link_path[128];
    sharena_heap *heap;
    snprintf(name, sizeof name, "%s", scratch_name());
    snprintf(link, sizeof link, "%s", scratch_name());
    make_path(path, name);
    make_path(link_path, link);
    CHECK_OK(sharena_create(name, &small, &heap));
    CHECK_OK(sharena_detach(heap));
    CHECK_EQ(symlink(path, link_path), 0);
    CHECK(attach_code(link) != 0);
    CHECK_EQ(attach_code(name), 0);
    if (chown(path, 12345, 12345) != 0)
        SKIP("only root can give a file away\n");
    CHECK_EQ(attach_code(name), SHARENA_EPERM);
}

/* A saved heap, one field changed at a time. */
static void damaged_superblocks(void)
{
    char name[64], path[128];
    static uint8_t whole[4096], damaged[4096];
    sharena_heap *heap;
    snprintf(name, sizeof name, "%s", scratch_name());
    make_path(path, name);
    CHECK_OK(sharena_create(name, &(sharena_options){.reserve_bytes = 8 * MIB}, &heap));
    CHECK_OK(sharena_detach(heap));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(pread(fd, whole, sizeof whole, 0), sizeof whole);
    for (size_t i = 0; i < sizeof(struct super_shm); i++) {
        memcpy(damaged, whole, sizeof whole);
        damaged[i] ^= (uint8_t)(1 + i % 255);
        CHECK_EQ(pwrite(fd, damaged, sizeof damaged, 0), sizeof damaged);
        int code = attach_code(name);
        if (code == 0)
            FAIL("a superblock with byte %zu changed is accepted", i);
        CHECK(code == SHARENA_ENOTHEAP || code == SHARENA_EVERSION || code == SHARENA_ECORRUPT ||
              code == SHARENA_EREMOTE || code == SHARENA_EPERM);
    }
    CHECK_EQ(pwrite(fd, whole, sizeof whole, 0), sizeof whole);
    CHECK_EQ(attach_code(name), 0);
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(ftruncate(fd, st.st_size - 4096), 0);
    CHECK(attach_code(name) != 0);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    CHECK(attach_code(name) != 0);
    CHECK_EQ(ftruncate(fd, 100), 0);
    CHECK(attach_code(name) != 0);
}

static void other_format_version(void)
{
    char name[64], path[128];
    sharena_heap *heap;
    uint32_t format = SHR_FORMAT + 1;
    snprintf(name, sizeof name, "%s", scratch_name());
    make_path(path, name);
    CHECK_OK(sharena_create(name, &small, &heap));
    CHECK_OK(sharena_detach(heap));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(pwrite(fd, &format, sizeof format, offsetof(struct super_shm, format)),
             sizeof format);
    CHECK_EQ(attach_code(name), SHARENA_EVERSION);
}

static void closed_descriptor_is_found_again(void)
{
    char name[64];
    sharena_heap *heap;
    void *block;
    snprintf(name, sizeof name, "%s", scratch_name());
    CHECK_OK(sharena_create(name, &small, &heap));
    close(sharena_descriptor(heap));
    CHECK_OK(sharena_allocate(heap, 10 * MIB, 0, 0, &block));
    CHECK_OK(sharena_release(heap, block));
    int stolen = sharena_descriptor(heap);
    CHECK_EQ(dup2(open("/dev/null", O_RDWR | O_CLOEXEC), stolen), stolen);
    CHECK_OK(sharena_allocate(heap, 20 * MIB, 0, 0, &block));
    CHECK_OK(sharena_trim(heap, NULL));
    struct stat st;
    CHECK_EQ(fstat(stolen, &st), 0);
    CHECK(S_ISCHR(st.st_mode)); /* the application's descriptor was left alone */
    check_heap(heap);
}

/* Who attaches reads and writes: a mode that allows but one of them is refused. */
static void modes(void)
{
    static const unsigned good[] = {0600, 0660, 0666, 0606, 0777, 0}; /* 0: the default */
    static const unsigned bad[] = {0644, 0640, 0664, 0604, 0620, 0602, 0400, 0200, 0066, 0111};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sharena_options options = {.mode = bad[i], .reserve_bytes = 8 * MIB};
        sharena_heap *heap = NULL;
        CHECK_EQ(sharena_create(scratch_name(), &options, &heap), SHARENA_EINVAL);
        CHECK(heap == NULL && strstr(sharena_detail(), "0660") != NULL);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        sharena_options options = {.mode = good[i], .reserve_bytes = 8 * MIB};
        char name[64], path[128];
        struct stat st;
        sharena_heap *heap;
        snprintf(name, sizeof name, "%s", scratch_name());
        make_path(path, name);
        CHECK_OK(sharena_create(name, &options, &heap));
        CHECK_EQ(stat(path, &st), 0);
        CHECK_EQ(st.st_mode & 0777, good[i] ? good[i] & 0666 : 0600);
        CHECK_OK(sharena_detach(heap));
    }
}

static void sizes_as_people_read_them(void)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } sizes[] = {
        {0, "0 bytes"},
        {1023, "1023 bytes"},
        {1024, "1 KiB"},
        {1536, "1.5 KiB"},
        {MIB - 1, "1 MiB"},
        {MIB, "1 MiB"},
        {2046 * MIB, "1.998 GiB"},
        {5 * MIB / 2, "2.5 MiB"},
        {UINT64_C(3) << 40, "3 TiB"},
        {UINT64_MAX, "1.678e+07 TiB"},
    };
    char buffer[24];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        CHECK_STR(shr__size(sizes[i].bytes, buffer), sizes[i].text);
}

static void errors_have_texts(void)
{
    CHECK_STR(sharena_strerror(0), "success");
#define HAS_TEXT(name, value, text) CHECK_STR(sharena_strerror(SHARENA_##name), text);
    SHARENA_ERRORS(HAS_TEXT)
    CHECK(sharena_strerror(-1000) != NULL && sharena_strerror(77) != NULL);
}

CASES(CASE(unnamed_heap), CASE(attached_twice_is_one_heap), CASE(many_heaps_and_many_lives),
      CASE(another_process_attaches), CASE(named_heap), CASE(named_heap_outlives_its_users),
      CASE(bad_names), CASE(bad_options), CASE(files_that_are_no_heaps),
      CASE(links_and_other_users), CASE(damaged_superblocks), CASE(other_format_version),
      CASE(closed_descriptor_is_found_again), CASE(modes), CASE(sizes_as_people_read_them),
      CASE(errors_have_texts))
