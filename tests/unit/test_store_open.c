/* Opening: whom the store lets in, what it refuses and why, what it notices of tampering; and the file of the
 * storage key. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <sodium.h>
#include <sqlite3.h>

#include "scratch.h"
#include "store.h"

static const uint8_t storage_key[STORE_KEY_LEN] = "0123456789abcdef0123456789abcde";

/* "value a" with nonce and tag. */
#define SEALED_LEN 47

static int setup(void **state)
{
    *state = scratch_new();
    return 0;
}

static int teardown(void **state)
{
    scratch_free(*state);
    return 0;
}

static struct store *open_ok(const char *dir)
{
    const char *text = "";
    struct store *s = NULL;

    assert_int_equal(store_open(dir, storage_key, &s, &text), 0);
    assert_null(text);
    return s;
}

/* The text must contain every one of the words (up to a NULL). */
static void assert_refused(const char *dir, const uint8_t *key, int result, const char *const *words)
{
    struct store *const untouched = (struct store *)(uintptr_t)1;
    struct store *s = untouched;
    const char *text = NULL;

    assert_int_equal(store_open(dir, key, &s, &text), result);
    assert_ptr_equal(s, untouched);
    assert_non_null(text);
    for (; *words; words++) {
        if (!strstr(text, *words))
            fail_msg("\"%s\" is not in \"%s\"", *words, text);
    }
}

#define REFUSED(dir, key, result, ...)                                                                       \
    assert_refused(dir, key, result, (const char *const[]){__VA_ARGS__, NULL})

static void fill(struct store *s, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        assert_int_equal(store_put(s, 1, &i, sizeof(i), "some value", 10), 0);
    assert_int_equal(store_commit(s), 0);
}

static void run_sql(const char *dir, const char *sql)
{
    sqlite3 *db = NULL;
    char *error = NULL;

    assert_int_equal(sqlite3_open(scratch_path(dir, "state.db"), &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* A child that dies with unfinished business: the WAL holds commits that the database does not. */
static void fill_and_die(const char *dir)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct store *s = NULL;
        const char *text;
        if (store_open(dir, storage_key, &s, &text) != 0)
            _exit(1);
        fill(s, 100, 200);
        (void)raise(SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void makes_closed_directories_and_files(void **state)
{
    const char *dir = *state;
    char deep[512];
    mode_t before = umask(0);
    struct store *s;

    (void)snprintf(deep, sizeof(deep), "%s/a//b/account/", dir);
    assert_int_equal(store_make_dir(deep), 0);
    assert_int_equal(store_make_dir(deep), 0);
    assert_int_equal(mode_of(scratch_path(dir, "a")), 0700);
    assert_int_equal(rmdir(scratch_path(dir, "a/b/account")), 0);
    s = open_ok(deep);
    fill(s, 0, 10);
    (void)umask(before);
    assert_int_equal(mode_of(scratch_path(dir, "a")), 0700);
    assert_int_equal(mode_of(scratch_path(dir, "a/b/account")), 0700);
    assert_int_equal(mode_of(scratch_path(dir, "a/b/account/state.db")), 0600);
    assert_int_equal(mode_of(scratch_path(dir, "a/b/account/state.db-wal")), 0600);
    assert_int_equal(mode_of(scratch_path(dir, "a/b/account/lock")), 0600);
    assert_int_equal(scratch_size(scratch_path(dir, "a/b/account/state.db-shm")), -1);
    store_close(s);
}

static void refuses_unsafe_directories(void **state)
{
    const char *dir = *state;
    static const mode_t modes[] = {0755, 0710, 0701, 0770, 0777, 01777};

    store_close(open_ok(dir));
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        assert_int_equal(chmod(dir, modes[i]), 0);
        REFUSED(dir, storage_key, -EPERM, dir, "0700", "chmod 700");
    }
    assert_int_equal(chmod(dir, 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(dir, 12345, (gid_t)-1), 0);
        REFUSED(dir, storage_key, -EPERM, dir, "user 12345", "user 0");
        assert_int_equal(chown(dir, 0, (gid_t)-1), 0);
    }
    store_close(open_ok(dir));
}

static void refuses_what_is_no_directory(void **state)
{
    const char *dir = *state;
    char path[5000];

    scratch_write(scratch_path(dir, "file"), "x", 1, 0600);
    REFUSED(scratch_path(dir, "file"), storage_key, -ENOTDIR, "file", strerror(ENOTDIR));
    REFUSED(scratch_path(dir, "file/below"), storage_key, -ENOTDIR, "below");
    assert_int_equal(store_make_dir(scratch_path(dir, "file/below")), -ENOTDIR);
    REFUSED("", storage_key, -ENOENT, "directory");
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    REFUSED(path, storage_key, -ENAMETOOLONG, strerror(ENAMETOOLONG));
    assert_int_equal(mkdir(scratch_path(dir, "sub"), 0700), 0);
    assert_int_equal(symlink("/dev/null", scratch_path(dir, "sub/state.db")), 0);
    REFUSED(scratch_path(dir, "sub"), storage_key, -ELOOP, "sub");
    assert_int_equal(unlink(scratch_path(dir, "sub/state.db")), 0);
    assert_int_equal(mkdir(scratch_path(dir, "sub/state.db"), 0700), 0);
    REFUSED(scratch_path(dir, "sub"), storage_key, -EISDIR, "sub");
    /* One's own directory through a link is fine. */
    assert_int_equal(mkdir(scratch_path(dir, "real"), 0700), 0);
    assert_int_equal(symlink("real", scratch_path(dir, "link")), 0);
    store_close(open_ok(scratch_path(dir, "link")));
}

/* A process of its own: a forked one would share SQLite's notes about our locks. Returns the result of
 * store_open(). */
static int open_elsewhere(const char *dir)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)execl("/proc/self/exe", "test_store_open", "open", dir, (char *)NULL);
        _exit(100);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int opened_elsewhere(const char *dir)
{
    struct store *s = NULL;
    const char *text = "";
    int r = store_open(dir, storage_key, &s, &text);

    store_close(s);
    return r >= 0 ? r : 99;
}

static void one_at_a_time(void **state)
{
    const char *dir = *state;
    struct store *s = open_ok(dir);
    int fd = open(scratch_path(dir, "lock"), O_RDWR | O_CLOEXEC);

    fill(s, 0, 10);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(errno, EWOULDBLOCK);
    REFUSED(dir, storage_key, STORE_LOCKED, dir, "in use");
    assert_int_equal(open_elsewhere(dir), STORE_LOCKED);
    /* Also where somebody removed the lock file: SQLite's own lock is the second line. */
    assert_int_equal(unlink(scratch_path(dir, "lock")), 0);
    assert_int_equal(open_elsewhere(dir), STORE_LOCKED);
    fill(s, 10, 20);
    store_close(s);
    assert_int_equal(open_elsewhere(dir), 0);
    store_close(open_ok(dir));
    (void)close(fd);
}

static void a_dead_owner_leaves_no_lock(void **state)
{
    const char *dir = *state;
    struct store *s;
    CLEANUP_BUF struct buf value = {.max = 100};

    store_close(open_ok(dir));
    fill_and_die(dir);
    s = open_ok(dir);
    assert_int_equal(store_get(s, 1, &(uint32_t){199}, 4, &value), 0);
    store_close(s);
}

/* Also after a crash, when closing would otherwise write the WAL back. */
static void a_wrong_key_changes_nothing(void **state)
{
    const char *dir = *state;
    uint8_t wrong[STORE_KEY_LEN];
    uint8_t before[SCRATCH_DIGEST_LEN];
    uint8_t after[SCRATCH_DIGEST_LEN];
    struct store *s = open_ok(dir);

    fill(s, 0, 100);
    store_close(s);
    memcpy(wrong, storage_key, sizeof(wrong));
    wrong[31] ^= 1;
    for (int i = 0; i < 2; i++) {
        scratch_digest(dir, before);
        REFUSED(dir, wrong, STORE_WRONG_KEY, dir, "key");
        scratch_digest(dir, after);
        assert_memory_equal(before, after, sizeof(before));
        fill_and_die(dir);
        assert_true(scratch_size(scratch_path(dir, "state.db-wal")) > 0);
    }
    store_close(open_ok(dir));
}

static void a_newer_schema_changes_nothing(void **state)
{
    const char *dir = *state;
    uint8_t before[SCRATCH_DIGEST_LEN];
    uint8_t after[SCRATCH_DIGEST_LEN];

    store_close(open_ok(dir));
    run_sql(dir, "PRAGMA user_version=17; CREATE TABLE later(x);");
    scratch_digest(dir, before);
    REFUSED(dir, storage_key, STORE_NEWER, dir, "17", "newer", "up to 1", "restore");
    scratch_digest(dir, after);
    assert_memory_equal(before, after, sizeof(before));
}

static void foreign_and_damaged_files(void **state)
{
    const char *dir = *state;
    char page[8192];
    uint8_t before[SCRATCH_DIGEST_LEN];
    uint8_t after[SCRATCH_DIGEST_LEN];

    store_close(open_ok(dir));
    run_sql(dir, "PRAGMA application_id=1");
    REFUSED(dir, storage_key, STORE_CORRUPT, dir, "not one of");
    assert_int_equal(unlink(scratch_path(dir, "state.db")), 0);
    run_sql(dir, "CREATE TABLE somebody(x); INSERT INTO somebody VALUES(1)");
    scratch_digest(dir, before);
    REFUSED(dir, storage_key, STORE_CORRUPT, dir, "not one of");
    scratch_digest(dir, after);
    assert_memory_equal(before, after, sizeof(before));
    memset(page, 'x', sizeof(page));
    scratch_write(scratch_path(dir, "state.db"), page, sizeof(page), 0600);
    REFUSED(dir, storage_key, STORE_CORRUPT, dir, "damaged");
    assert_int_equal(unlink(scratch_path(dir, "state.db")), 0);
    store_close(open_ok(dir));
    assert_int_equal(truncate(scratch_path(dir, "state.db"), 4096), 0);
    REFUSED(dir, storage_key, STORE_CORRUPT, dir, "damaged");
    assert_int_equal(unlink(scratch_path(dir, "state.db")), 0);
    store_close(open_ok(dir));
    run_sql(dir, "DELETE FROM probe");
    REFUSED(dir, storage_key, STORE_CORRUPT, dir, "damaged");
}

static int count(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    (void)key;
    (void)key_len;
    (void)value;
    (void)n;
    ++*(unsigned *)ctx;
    return 0;
}

static void three_records(const char *dir)
{
    struct store *s = open_ok(dir);

    assert_int_equal(store_put(s, 1, "a", 1, "value a", 7), 0);
    assert_int_equal(store_put(s, 1, "b", 1, "value b", 7), 0);
    assert_int_equal(store_put(s, 2, "a", 1, "value c", 7), 0);
    assert_int_equal(store_commit(s), 0);
    store_close(s);
}

/* Map 1's key "a" must be refused, the others stay readable. */
static void assert_noticed(const char *dir)
{
    CLEANUP_BUF struct buf value = {.max = 100};
    unsigned visits = 0;
    struct store *s = open_ok(dir);

    assert_int_equal(store_get(s, 1, "a", 1, &value), STORE_CORRUPT);
    assert_int_equal(value.len, 0);
    assert_int_equal(store_scan(s, 1, "", 0, 0, count, &visits), STORE_CORRUPT);
    assert_int_equal(visits, 0);
    assert_int_equal(store_get(s, 2, "a", 1, &value), 0);
    assert_int_equal(store_checkpoint(s), 0);
    /* A bad record is no reason to lose the turn, and can be replaced. */
    assert_int_equal(store_put(s, 1, "new", 3, "v", 1), 0);
    assert_int_equal(store_get(s, 1, "a", 1, &value), STORE_CORRUPT);
    assert_int_equal(store_put(s, 1, "a", 1, "v", 1), 0);
    assert_int_equal(store_commit(s), 0);
    assert_int_equal(store_get(s, 1, "a", 1, &value), 0);
    store_close(s);
}

static void flip_bit(const char *dir, size_t bit)
{
    sqlite3 *db = NULL;
    sqlite3_blob *blob = NULL;
    uint8_t byte;

    assert_int_equal(sqlite3_open(scratch_path(dir, "state.db"), &db), SQLITE_OK);
    /* The first record put has the first rowid. */
    assert_int_equal(sqlite3_blob_open(db, "main", "kv", "value", 1, 1, &blob), SQLITE_OK);
    assert_int_equal(sqlite3_blob_bytes(blob), SEALED_LEN);
    assert_int_equal(sqlite3_blob_read(blob, &byte, 1, (int)(bit / 8)), SQLITE_OK);
    byte ^= (uint8_t)(1 << bit % 8);
    assert_int_equal(sqlite3_blob_write(blob, &byte, 1, (int)(bit / 8)), SQLITE_OK);
    (void)sqlite3_blob_close(blob);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void flipped_bits_are_noticed(void **state)
{
    const char *dir = *state;

    for (size_t bit = 0; bit < 8 * SEALED_LEN; bit += 7) {
        three_records(dir);
        flip_bit(dir, bit);
        assert_noticed(dir);
    }
}

static void assert_sql_noticed(const char *dir, const char *sql)
{
    three_records(dir);
    run_sql(dir, sql);
    assert_noticed(dir);
}

static void exchanged_records_are_noticed(void **state)
{
    const char *dir = *state;

    /* Swapped between keys, and copied between maps. */
    assert_sql_noticed(dir,
            "CREATE TEMP TABLE t AS SELECT * FROM kv;"
            "UPDATE kv SET value=(SELECT value FROM t WHERE map=1 AND key=x'62') WHERE map=1 AND key=x'61';"
            "UPDATE kv SET value=(SELECT value FROM t WHERE map=1 AND key=x'61') WHERE map=1 AND key=x'62'");
    assert_sql_noticed(dir, "UPDATE kv SET value=(SELECT k.value FROM kv k WHERE k.map=2 AND k.key=x'61') "
                            "WHERE map=1 AND key=x'61'");
    /* Shorter than a seal, empty, longer, and of another type. */
    assert_sql_noticed(dir, "UPDATE kv SET value=x'0102' WHERE map=1 AND key=x'61'");
    assert_sql_noticed(dir, "UPDATE kv SET value=x'' WHERE map=1 AND key=x'61'");
    assert_sql_noticed(dir, "UPDATE kv SET value=CAST(value||x'00' AS BLOB) WHERE map=1 AND key=x'61'");
    assert_sql_noticed(dir, "UPDATE kv SET value='text' WHERE map=1 AND key=x'61'");
    assert_sql_noticed(dir, "UPDATE kv SET value=5 WHERE map=1 AND key=x'61'");
}

/* Any byte of the database may rot: never a wrong value, never a crash. */
static void rotten_bytes(void **state)
{
    const char *dir = *state;
    const char *path;
    uint8_t *whole;
    size_t size;
    struct store *s = open_ok(dir);

    fill(s, 0, 60);
    store_close(s);
    path = strdup(scratch_path(dir, "state.db"));
    whole = scratch_read(path, &size);
    for (size_t at = 0; at < size; at += 1 + at % 23) {
        CLEANUP_BUF struct buf value = {.max = 100};
        const char *text;
        int r;
        whole[at] ^= 0x41;
        scratch_write(path, whole, size, 0600);
        whole[at] ^= 0x41;
        s = NULL;
        r = store_open(dir, storage_key, &s, &text);
        for (uint32_t i = 0; r == 0 && i < 60; i++) {
            int got = store_get(s, 1, &i, sizeof(i), &value);
            assert_true(got == 0 || got == STORE_CORRUPT || got == STORE_NOT_FOUND);
            if (got == 0) {
                assert_int_equal(value.len, 10);
                assert_memory_equal(value.data, "some value", 10);
            }
        }
        store_close(s);
        (void)unlink(scratch_path(dir, "state.db-wal"));
        (void)unlink(scratch_path(dir, "state.db-journal"));
    }
    free(whole);
    free((void *)(uintptr_t)path);
}

static unsigned entries(const char *dir)
{
    unsigned n = 0;
    DIR *d = opendir(dir);

    assert_non_null(d);
    while (readdir(d))
        n++;
    (void)closedir(d);
    return n - 2;
}

static void key_is_made_once(void **state)
{
    const char *dir = *state;
    const char *path = scratch_path(dir, "key");
    uint8_t first[STORE_KEY_LEN] = {9};
    uint8_t second[STORE_KEY_LEN] = {0};

    assert_int_equal(store_key_file(path, false, first), -ENOENT);
    assert_int_equal(first[0], 9);
    assert_int_equal(entries(dir), 0);
    assert_int_equal(store_key_file(path, true, first), 0);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(scratch_size(path), STORE_KEY_LEN);
    assert_int_equal(entries(dir), 1);
    assert_int_equal(store_key_file(path, true, second), 0);
    assert_memory_equal(first, second, STORE_KEY_LEN);
    assert_int_equal(store_key_file(scratch_path(dir, "other"), true, second), 0);
    assert_memory_not_equal(first, second, STORE_KEY_LEN);
    assert_int_equal(store_key_file(scratch_path(dir, "none/key"), true, second), -ENOENT);
}

static void key_forms(void **state)
{
    const char *path = scratch_path(*state, "key");
    char hex[2 * STORE_KEY_LEN + 3];
    uint8_t key[STORE_KEY_LEN];
    static const uint8_t zeros[STORE_KEY_LEN];

    scratch_write(path, storage_key, STORE_KEY_LEN, 0600);
    assert_int_equal(store_key_file(path, false, key), 0);
    assert_memory_equal(key, storage_key, STORE_KEY_LEN);
    (void)sodium_bin2hex(hex, sizeof(hex), storage_key, STORE_KEY_LEN);
    memcpy(hex + 64, "\n\n", 3);
    for (size_t n = 0; n <= 66; n++) {
        memset(key, 0, sizeof(key));
        scratch_write(path, hex, n, 0400);
        /* 32 of the digits are taken as bytes. */
        assert_int_equal(store_key_file(path, true, key), n == 32 || n == 64 || n == 65 ? 0 : -EINVAL);
        if (n >= 64 && n <= 65)
            assert_memory_equal(key, storage_key, STORE_KEY_LEN);
        (void)chmod(path, 0600);
    }
    hex[10] = 'g';
    scratch_write(path, hex, 64, 0600);
    assert_int_equal(store_key_file(path, false, key), -EINVAL);
    scratch_write(path, zeros, sizeof(zeros), 0600);
    assert_int_equal(store_key_file(path, false, key), -EINVAL);
    memset(hex, '0', 64);
    scratch_write(path, hex, 64, 0600);
    assert_int_equal(store_key_file(path, false, key), -EINVAL);
}

static void key_file_is_ours_alone(void **state)
{
    const char *dir = *state;
    const char *path = strdup(scratch_path(dir, "key"));
    static const mode_t modes[] = {0640, 0604, 0660, 0602, 0620, 0777, 0601, 0700};
    uint8_t key[STORE_KEY_LEN];

    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        scratch_write(path, storage_key, STORE_KEY_LEN, modes[i]);
        assert_int_equal(store_key_file(path, true, key), -EPERM);
    }
    scratch_write(path, storage_key, STORE_KEY_LEN, 0600);
    assert_int_equal(symlink("key", scratch_path(dir, "link")), 0);
    assert_int_equal(store_key_file(scratch_path(dir, "link"), true, key), -ELOOP);
    assert_int_equal(symlink("nowhere", scratch_path(dir, "dangling")), 0);
    assert_int_equal(store_key_file(scratch_path(dir, "dangling"), true, key), -ELOOP);
    assert_int_equal(store_key_file(dir, true, key), -EINVAL);
    assert_int_equal(mkfifo(scratch_path(dir, "pipe"), 0600), 0);
    assert_int_equal(store_key_file(scratch_path(dir, "pipe"), true, key), -EINVAL);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, (gid_t)-1), 0);
        assert_int_equal(store_key_file(path, true, key), -EPERM);
    }
    free((void *)(uintptr_t)path);
}

/* No room for a whole key: nothing stays behind. */
static void no_half_key(void **state)
{
    const char *dir = *state;
    const char *path = scratch_path(dir, "key");
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        const struct rlimit limit = {.rlim_cur = 20, .rlim_max = RLIM_INFINITY};
        uint8_t key[STORE_KEY_LEN];
        (void)signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
            _exit(2);
        _exit(store_key_file(path, true, key) == -EFBIG ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(entries(dir), 0);
}

/* Many start at once: all get one key. */
static void racing_for_the_key(void **state)
{
    const char *dir = *state;
    const char *path = scratch_path(dir, "key");
    uint8_t keys[8][STORE_KEY_LEN];
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        if (fork() == 0) {
            uint8_t key[STORE_KEY_LEN];
            _exit(store_key_file(path, true, key) == 0 && write(fds[1], key, sizeof(key)) == sizeof(key) ? 0
                                                                                                         : 1);
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        int status;
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
        assert_int_equal(read(fds[0], keys[i], STORE_KEY_LEN), STORE_KEY_LEN);
        assert_memory_equal(keys[i], keys[0], STORE_KEY_LEN);
    }
    assert_int_equal(entries(dir), 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
            IN_SCRATCH(makes_closed_directories_and_files),
            IN_SCRATCH(refuses_unsafe_directories),
            IN_SCRATCH(refuses_what_is_no_directory),
            IN_SCRATCH(one_at_a_time),
            IN_SCRATCH(a_dead_owner_leaves_no_lock),
            IN_SCRATCH(a_wrong_key_changes_nothing),
            IN_SCRATCH(a_newer_schema_changes_nothing),
            IN_SCRATCH(foreign_and_damaged_files),
            IN_SCRATCH(flipped_bits_are_noticed),
            IN_SCRATCH(exchanged_records_are_noticed),
            IN_SCRATCH(rotten_bytes),
            IN_SCRATCH(key_is_made_once),
            IN_SCRATCH(key_forms),
            IN_SCRATCH(key_file_is_ours_alone),
            IN_SCRATCH(no_half_key),
            IN_SCRATCH(racing_for_the_key),
    };

    if (sodium_init() < 0)
        return 1;
    if (argc == 3 && strcmp(argv[1], "open") == 0)
        return opened_elsewhere(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
