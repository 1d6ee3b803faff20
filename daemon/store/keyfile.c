#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "keyfile.h"
#include "store.h"

#define HEX_LEN (2u * STORE_KEY_LEN)
/* One byte more than the longest form, so that a longer file shows. */
#define READ_MAX (HEX_LEN + 2u)

ssize_t keyfile_read_all(int fd, uint8_t *out, size_t max)
{
    size_t n = 0;

    while (n < max) {
        ssize_t got = read(fd, out + n, max - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

int keyfile_write_all(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        p += put;
        n -= (size_t)put;
    }
    return 0;
}

static int parse_key(const uint8_t *text, size_t n, uint8_t key[STORE_KEY_LEN])
{
    size_t len = 0;

    if (n == STORE_KEY_LEN) {
        memcpy(key, text, STORE_KEY_LEN);
    } else {
        if (n == HEX_LEN + 1 && text[HEX_LEN] == '\n')
            n = HEX_LEN;
        if (n != HEX_LEN ||
                sodium_hex2bin(key, STORE_KEY_LEN, (const char *)text, n, NULL, &len, NULL) != 0 ||
                len != STORE_KEY_LEN)
            return -EINVAL;
    }
    /* What a file system leaves behind that lost the data and kept the length. */
    return sodium_is_zero(key, STORE_KEY_LEN) ? -EINVAL : 0;
}

int keyfile_check(int fd)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    return st.st_uid == geteuid() && (st.st_mode & 0177) == 0 ? 0 : -EPERM;
}

static int read_key(const char *path, int (*check)(int fd), uint8_t *ret_key)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    uint8_t text[READ_MAX];
    uint8_t key[STORE_KEY_LEN];
    ssize_t n;
    int r;

    if (fd < 0)
        return -errno;
    r = check(fd);
    if (r != 0)
        return r;
    n = keyfile_read_all(fd, text, sizeof(text));
    r = n < 0 ? (int)n : parse_key(text, (size_t)n, key);
    if (r == 0)
        memcpy(ret_key, key, STORE_KEY_LEN);
    sodium_memzero(text, sizeof(text));
    sodium_memzero(key, sizeof(key));
    return r;
}

int keyfile_sync_directory(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    CLEANUP_FD int fd = -1;

    if (n >= sizeof(dir))
        return -ENAMETOOLONG;
    memcpy(dir, path, n);
    dir[n] = '\0';
    fd = open(n > 0 ? dir : slash ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return fsync(fd) == 0 ? 0 : -errno;
}

static int write_new(const char *path, const uint8_t key[STORE_KEY_LEN])
{
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return -errno;
    r = keyfile_write_all(fd, key, STORE_KEY_LEN);
    if (r == 0 && fsync(fd) != 0)
        r = -errno;
    return r;
}

/* Gives the whole file its name, unless the name is taken. Some file systems have no hard links, others no
 * such rename. */
static int publish(const char *temporary, const char *path)
{
    if (link(temporary, path) == 0 || errno == EEXIST)
        return 0;
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
        return -errno;
    return renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) == 0 || errno == EEXIST ? 0
                                                                                                    : -errno;
}

static int create_key(const char *path, const uint8_t key[STORE_KEY_LEN])
{
    char temporary[PATH_MAX];
    int n = snprintf(
            temporary, sizeof(temporary), "%s.%08x%08x", path, randombytes_random(), randombytes_random());
    int r;

    if (n < 0 || (size_t)n >= sizeof(temporary))
        return -ENAMETOOLONG;
    r = write_new(temporary, key);
    if (r == 0)
        r = publish(temporary, path);
    if (r != -EEXIST)
        (void)unlink(temporary);
    return r == 0 ? keyfile_sync_directory(path) : r;
}

int store_key_file(const char *path, bool create, uint8_t ret_key[STORE_KEY_LEN])
{
    uint8_t key[STORE_KEY_LEN];
    int r = read_key(path, keyfile_check, ret_key);

    if (r != -ENOENT || !create)
        return r;
    if (sodium_init() < 0)
        return -EIO;
    randombytes_buf(key, sizeof(key));
    r = create_key(path, key);
    sodium_memzero(key, sizeof(key));
    return r == 0 ? read_key(path, keyfile_check, ret_key) : r;
}

/* The service manager gives root's files to another user by an ACL, whose mask shows in the group's bits. */
static int check_credential(int fd)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    return (st.st_uid == geteuid() || st.st_uid == 0) && (st.st_mode & 0137) == 0 ? 0 : -EPERM;
}

static int check_credential_directory(const char *dir)
{
    struct stat st;

    if (stat(dir, &st) != 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    return (st.st_uid == geteuid() || st.st_uid == 0) && (st.st_mode & 0027) == 0 ? 0 : -EPERM;
}

int store_key_credential(const char *dir, const char *name, uint8_t ret_key[STORE_KEY_LEN])
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    int r;

    if (!name[0] || name[0] == '.' || strchr(name, '/'))
        return -EINVAL;
    if (n < 0 || (size_t)n >= sizeof(path))
        return -ENAMETOOLONG;
    r = check_credential_directory(dir);
    return r == 0 ? read_key(path, check_credential, ret_key) : r;
}

int keyfile_overwrite(int fd, size_t n)
{
    static const uint8_t zeros[READ_MAX];
    int r = 0;

    if (lseek(fd, 0, SEEK_SET) != 0)
        return -errno;
    while (n > 0 && r == 0) {
        size_t some = n < sizeof(zeros) ? n : sizeof(zeros);
        r = keyfile_write_all(fd, zeros, some);
        n -= some;
    }
    if (r == 0 && fsync(fd) != 0)
        r = -errno;
    return r;
}

/* STORE_WRONG_KEY unless the file holds key, or the zeros of a removal that was cut short. */
static int check_held(int fd, const uint8_t key[STORE_KEY_LEN], size_t *ret_n)
{
    uint8_t text[READ_MAX] = {0}, held[STORE_KEY_LEN] = {0};
    int r = keyfile_check(fd);
    ssize_t n = r == 0 ? keyfile_read_all(fd, text, sizeof(text)) : r;

    if (n < 0)
        return (int)n;
    if (!sodium_is_zero(text, (size_t)n) &&
            (parse_key(text, (size_t)n, held) != 0 || sodium_memcmp(held, key, STORE_KEY_LEN) != 0))
        r = STORE_WRONG_KEY;
    sodium_memzero(text, sizeof(text));
    sodium_memzero(held, sizeof(held));
    if (r == 0)
        *ret_n = (size_t)n;
    return r;
}

int store_key_file_remove(const char *path, const uint8_t key[STORE_KEY_LEN])
{
    CLEANUP_FD int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    size_t n = 0;
    int r;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    r = check_held(fd, key, &n);
    if (r == 0)
        r = keyfile_overwrite(fd, n);
    if (r == 0 && unlink(path) != 0)
        r = -errno;
    return r == 0 ? keyfile_sync_directory(path) : r;
}

int store_key_file_put(const char *path, const uint8_t key[STORE_KEY_LEN])
{
    uint8_t held[STORE_KEY_LEN];
    int r = store_key_file_remove(path, key);

    if (r != 0)
        return r;
    r = create_key(path, key);
    if (r == 0)
        r = read_key(path, keyfile_check, held);
    if (r == 0 && sodium_memcmp(held, key, STORE_KEY_LEN) != 0)
        r = -EIO;
    sodium_memzero(held, sizeof(held));
    return r;
}
