/* The storage key under a passphrase: what opens it and what does not, and that a crash or an error at any
 * step of setting, changing and removing leaves one file that gives the key. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <sodium.h>

#include "passfile.h"
#include "scratch.h"

#define CHEAP                                                                                                \
    (struct passfile_cost)                                                                                   \
    {                                                                                                        \
        1, PASSFILE_MIN_MEMORY_KIB                                                                           \
    }

static const uint8_t key[STORE_KEY_LEN] = "0123456789abcdef0123456789abcde";

/* --- the K-th call that changes the disk fails, or is the last thing that the process does --- */

enum fate { FINE, FAILS, DIES_BEFORE, DIES_AFTER };
static enum fate fate;
static unsigned countdown, calls;

static enum fate here(void)
{
    calls++;
    if (fate == FINE || calls != countdown)
        return FINE;
    if (fate == DIES_BEFORE)
        _exit(9);
    errno = EIO;
    return fate;
}

#define WRAPPED(name, params, args)                                                                          \
    int __real_##name params;                                                                                \
    int __wrap_##name params;                                                                                \
    int __wrap_##name params                                                                                 \
    {                                                                                                        \
        enum fate f = here();                                                                                \
        int r = f == FAILS ? -1 : __real_##name args;                                                        \
        if (f == DIES_AFTER)                                                                                 \
            _exit(9);                                                                                        \
        return r;                                                                                            \
    }
WRAPPED(fsync, (int fd), (fd))
WRAPPED(unlink, (const char *path), (path))
WRAPPED(rename, (const char *a, const char *b), (a, b))
WRAPPED(link, (const char *a, const char *b), (a, b))

ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
    enum fate f = here();
    ssize_t r = f == FAILS ? -1 : __real_write(fd, p, f == DIES_AFTER ? n / 2 : n);

    if (f == DIES_AFTER)
        _exit(9);
    return r;
}

static int setup(void **state)
{
    fate = FINE;
    *state = scratch_new();
    return sodium_init() < 0;
}

static int teardown(void **state)
{
    scratch_free(*state);
    return 0;
}

/* --- the format --- */

static void opens_with_its_passphrase_only(void **state)
{
    uint8_t file[PASSFILE_LEN], back[STORE_KEY_LEN] = {7};
    char longest[PASSFILE_MAX_PASSPHRASE + 1] = {1};

    (void)state;
    assert_int_equal(passfile_wrap(key, "open sesame", 11, CHEAP, file), 0);
    assert_int_equal(passfile_check(file, sizeof(file)), 0);
    assert_int_equal(passfile_unwrap(file, sizeof(file), "open sesamf", 11, back), PASSFILE_WRONG);
    assert_int_equal(passfile_unwrap(file, sizeof(file), "open sesame ", 12, back), PASSFILE_WRONG);
    assert_int_equal(passfile_unwrap(file, sizeof(file), "", 0, back), PASSFILE_WRONG);
    assert_int_equal(back[0], 7);
    assert_int_equal(passfile_unwrap(file, sizeof(file), "open sesame", 11, back), 0);
    assert_memory_equal(back, key, sizeof(key));
    assert_int_equal(passfile_wrap(key, longest, sizeof(longest), CHEAP, file), -EINVAL);
    assert_int_equal(passfile_wrap(key, "", 0, CHEAP, file), -EINVAL);
}

static void every_bit_counts(void **state)
{
    uint8_t file[PASSFILE_LEN], bad[PASSFILE_LEN + 1] = {0}, back[STORE_KEY_LEN];

    (void)state;
    assert_int_equal(passfile_wrap(key, "x", 1, CHEAP, file), 0);
    for (size_t i = 0; i < 8 * sizeof(file); i++) {
        memcpy(bad, file, sizeof(file));
        bad[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_in_range(passfile_check(bad, sizeof(file)), PASSFILE_DAMAGED, PASSFILE_NEWER);
    }
    memcpy(bad, file, sizeof(file));
    for (size_t n = 0; n <= sizeof(bad); n++)
        if (n != sizeof(file))
            assert_int_equal(passfile_unwrap(bad, n, "x", 1, back), PASSFILE_DAMAGED);
}

/* With a checksum that is right: what an attacker would write. */
static int doctored(const uint8_t *file, size_t at, uint32_t value)
{
    uint8_t bad[PASSFILE_LEN], back[STORE_KEY_LEN];

    memcpy(bad, file, sizeof(bad));
    memcpy(bad + at, &value, sizeof(value));
    (void)crypto_generichash(bad + PASSFILE_LEN - 16, 16, bad, PASSFILE_LEN - 16, NULL, 0);
    return passfile_unwrap(bad, sizeof(bad), "x", 1, back);
}

static void numbers_are_bounded_and_authenticated(void **state)
{
    uint8_t file[PASSFILE_LEN];

    (void)state;
    assert_int_equal(passfile_wrap(key, "x", 1, CHEAP, file), 0);
    assert_int_equal(doctored(file, 8, 0), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 8, 2), PASSFILE_NEWER);
    assert_int_equal(doctored(file, 12, 0), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 12, PASSFILE_MAX_PASSES + 1), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 12, UINT32_MAX), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 16, PASSFILE_MIN_MEMORY_KIB - 1), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 16, PASSFILE_MAX_MEMORY_KIB + 1), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 16, UINT32_MAX), PASSFILE_DAMAGED);
    assert_int_equal(doctored(file, 12, 2), PASSFILE_WRONG);
    assert_int_equal(doctored(file, 20, 0), PASSFILE_WRONG);
    assert_int_equal(doctored(file, 36, 0), PASSFILE_WRONG);
    assert_int_equal(doctored(file, 12, 1), 0);
}

/* --- the files --- */

static void file_must_be_ours_alone(void **state)
{
    const char *path = scratch_path(*state, "storage.pass");
    uint8_t back[STORE_KEY_LEN];
    struct stat st;

    assert_int_equal(passfile_open(path, "x", 1, back), -ENOENT);
    assert_int_equal(passfile_save(path, key, "x", 1, CHEAP), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(passfile_open(path, "x", 1, back), 0);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(passfile_open(path, "x", 1, back), -EPERM);
    assert_int_equal(passfile_remove(path), 0);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(passfile_open(path, NULL, 0, NULL), -ELOOP);
}

static void credentials(void **state)
{
    const char *dir = *state;
    uint8_t back[STORE_KEY_LEN];

    scratch_write(scratch_path(dir, "k"), key, sizeof(key), 0400);
    assert_int_equal(store_key_credential(dir, "k", back), 0);
    assert_memory_equal(back, key, sizeof(key));
    assert_int_equal(chmod(scratch_path(dir, "k"), 0440), 0); /* the mask of an ACL */
    assert_int_equal(store_key_credential(dir, "k", back), 0);
    assert_int_equal(chmod(scratch_path(dir, "k"), 0444), 0);
    assert_int_equal(store_key_credential(dir, "k", back), -EPERM);
    assert_int_equal(chmod(scratch_path(dir, "k"), 0400), 0);
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(store_key_credential(dir, "k", back), -EPERM);
    assert_int_equal(chmod(dir, 0700), 0);
    assert_int_equal(store_key_credential(dir, "../k", back), -EINVAL);
    assert_int_equal(store_key_credential(dir, "", back), -EINVAL);
    assert_int_equal(store_key_credential(dir, "none", back), -ENOENT);
}

static void foreign_key_file_stays(void **state)
{
    const char *path = scratch_path(*state, "storage.key");
    const uint8_t other[STORE_KEY_LEN] = "another key, another key, anothe";
    uint8_t back[STORE_KEY_LEN];

    scratch_write(path, other, sizeof(other), 0600);
    assert_int_equal(store_key_file_remove(path, key), STORE_WRONG_KEY);
    assert_int_equal(store_key_file_put(path, key), STORE_WRONG_KEY);
    assert_int_equal(store_key_file(path, false, back), 0);
    assert_memory_equal(back, other, sizeof(other));
}

/* --- faults at every step --- */

static int step_set(const char *pass, const char *file)
{
    int r = passfile_save(pass, key, "new", 3, CHEAP);

    return r ? r : store_key_file_remove(file, key);
}

static int step_change(const char *pass, const char *file)
{
    (void)file;
    return passfile_save(pass, key, "new", 3, CHEAP);
}

static int step_remove(const char *pass, const char *file)
{
    int r = store_key_file_put(file, key);

    return r ? r : passfile_remove(pass);
}

/* As the daemon would start: the passphrase file counts if it is there, and no other file is ever damaged. */
static bool usable(const char *pass, const char *file)
{
    uint8_t back[STORE_KEY_LEN] = {0};
    int r = passfile_open(pass, "new", 3, back);

    if (r == PASSFILE_WRONG)
        r = passfile_open(pass, "old", 3, back);
    if (r == -ENOENT)
        r = store_key_file(file, false, back);
    return r == 0 && memcmp(back, key, sizeof(key)) == 0;
}

static void at_every_call(
        const char *dir, int (*step)(const char *, const char *), bool with_pass, enum fate how)
{
    const char *pass = scratch_path(dir, "storage.pass"), *file = scratch_path(dir, "storage.key");
    int status = 1;
    unsigned k;

    for (k = 1; status != 0; k++) {
        pid_t pid;

        assert_int_equal(passfile_remove(pass), 0);
        (void)unlink(file);
        if (with_pass)
            assert_int_equal(passfile_save(pass, key, "old", 3, CHEAP), 0);
        else
            assert_int_equal(store_key_file_put(file, key), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            fate = how;
            countdown = k;
            calls = 0;
            (void)!step(pass, file);
            _exit(calls < k ? 0 : 9);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!usable(pass, file))
            fail_msg("no usable source after call %u, fate %d", k, (int)how);
        assert_true(k < 100);
    }
    assert_true(k > 6);
}

static void one_source_is_always_usable(void **state)
{
    for (enum fate how = FAILS; how <= DIES_AFTER; how++) {
        at_every_call(*state, step_set, false, how);
        at_every_call(*state, step_change, true, how);
        at_every_call(*state, step_remove, true, how);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(opens_with_its_passphrase_only, setup, teardown),
            cmocka_unit_test_setup_teardown(every_bit_counts, setup, teardown),
            cmocka_unit_test_setup_teardown(numbers_are_bounded_and_authenticated, setup, teardown),
            cmocka_unit_test_setup_teardown(file_must_be_ours_alone, setup, teardown),
            cmocka_unit_test_setup_teardown(credentials, setup, teardown),
            cmocka_unit_test_setup_teardown(foreign_key_file_stays, setup, teardown),
            cmocka_unit_test_setup_teardown(one_source_is_always_usable, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
