#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "keyfile.h"
#include "passfile.h"

#define VERSION 1u
#define CHECKSUM_LEN 16u
#define NONCE_AT 36u
#define WRAPPED_AT (NONCE_AT + crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
#define WRAPPED_LEN (STORE_KEY_LEN + crypto_aead_xchacha20poly1305_ietf_ABYTES)
#define CHECKSUM_AT (WRAPPED_AT + WRAPPED_LEN)
_Static_assert(CHECKSUM_AT + CHECKSUM_LEN == PASSFILE_LEN, "as the protocol document says");

static const char magic[8] = {'e', '2', 'e', 'e', 'd', '-', 'p', 'w'};

struct header {
    uint32_t version;
    struct passfile_cost cost;
    uint8_t salt[crypto_pwhash_argon2id_SALTBYTES];
};

static bool cost_ok(struct passfile_cost c)
{
    return c.passes >= 1 && c.passes <= PASSFILE_MAX_PASSES && c.memory_kib >= PASSFILE_MIN_MEMORY_KIB &&
           c.memory_kib <= PASSFILE_MAX_MEMORY_KIB;
}

static void checksum(const uint8_t *file, uint8_t ret_sum[CHECKSUM_LEN])
{
    (void)crypto_generichash(ret_sum, CHECKSUM_LEN, file, CHECKSUM_AT, NULL, 0);
}

static int read_header(const uint8_t *file, size_t n, struct header *ret_h)
{
    uint8_t sum[CHECKSUM_LEN], start[sizeof(magic)];
    struct header h;
    struct cursor c;

    cursor_init(&c, file, n);
    cursor_copy(&c, start, sizeof(start));
    h.version = cursor_u32(&c);
    h.cost.passes = cursor_u32(&c);
    h.cost.memory_kib = cursor_u32(&c);
    cursor_copy(&c, h.salt, sizeof(h.salt));
    if (cursor_status(&c) != WIRE_OK || memcmp(start, magic, sizeof(magic)) != 0)
        return PASSFILE_DAMAGED;
    if (h.version > VERSION)
        return PASSFILE_NEWER;
    if (n != PASSFILE_LEN || h.version != VERSION || !cost_ok(h.cost))
        return PASSFILE_DAMAGED;
    checksum(file, sum);
    if (memcmp(sum, file + CHECKSUM_AT, CHECKSUM_LEN) != 0)
        return PASSFILE_DAMAGED;
    *ret_h = h;
    return 0;
}

/* The wrapping key, in secret memory. */
static int derive(const char *passphrase, size_t n, const struct header *h, uint8_t **ret_key)
{
    uint8_t *key;

    if (n < 1 || n > PASSFILE_MAX_PASSPHRASE)
        return -EINVAL;
    key = sodium_malloc(crypto_aead_xchacha20poly1305_ietf_KEYBYTES);
    if (!key)
        return -ENOMEM;
    if (crypto_pwhash(key, crypto_aead_xchacha20poly1305_ietf_KEYBYTES, passphrase, n, h->salt,
                h->cost.passes, (size_t)h->cost.memory_kib * 1024, crypto_pwhash_ALG_ARGON2ID13) != 0) {
        sodium_free(key);
        return -ENOMEM;
    }
    *ret_key = key;
    return 0;
}

int passfile_check(const uint8_t *file, size_t n)
{
    struct header h;

    return read_header(file, n, &h);
}

int passfile_wrap(const uint8_t key[STORE_KEY_LEN], const char *passphrase, size_t n,
        struct passfile_cost cost, uint8_t ret_file[PASSFILE_LEN])
{
    struct buf b = {.data = ret_file, .cap = PASSFILE_LEN, .max = PASSFILE_LEN};
    struct header h = {.version = VERSION, .cost = cost};
    uint8_t *wrapping;
    int r;

    if (!cost_ok(cost))
        return -EINVAL;
    randombytes_buf(h.salt, sizeof(h.salt));
    r = derive(passphrase, n, &h, &wrapping);
    if (r != 0)
        return r;
    buf_bytes(&b, magic, sizeof(magic));
    buf_u32(&b, h.version);
    buf_u32(&b, cost.passes);
    buf_u32(&b, cost.memory_kib);
    buf_bytes(&b, h.salt, sizeof(h.salt));
    randombytes_buf(ret_file + NONCE_AT, WRAPPED_AT - NONCE_AT);
    (void)crypto_aead_xchacha20poly1305_ietf_encrypt(ret_file + WRAPPED_AT, NULL, key, STORE_KEY_LEN,
            ret_file, NONCE_AT, NULL, ret_file + NONCE_AT, wrapping);
    checksum(ret_file, ret_file + CHECKSUM_AT);
    sodium_free(wrapping);
    return 0;
}

int passfile_unwrap(
        const uint8_t *file, size_t len, const char *passphrase, size_t n, uint8_t ret_key[STORE_KEY_LEN])
{
    struct header h;
    uint8_t *wrapping, key[STORE_KEY_LEN];
    int r = read_header(file, len, &h);

    if (r == 0)
        r = derive(passphrase, n, &h, &wrapping);
    if (r != 0)
        return r == -EINVAL ? PASSFILE_WRONG : r;
    if (crypto_aead_xchacha20poly1305_ietf_decrypt(key, NULL, NULL, file + WRAPPED_AT, WRAPPED_LEN, file,
                NONCE_AT, file + NONCE_AT, wrapping) != 0)
        r = PASSFILE_WRONG;
    else
        memcpy(ret_key, key, sizeof(key));
    sodium_memzero(key, sizeof(key));
    sodium_free(wrapping);
    return r;
}

int passfile_open(const char *path, const char *passphrase, size_t n, uint8_t *ret_key)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    uint8_t file[PASSFILE_LEN + 1];
    ssize_t len;
    int r;

    if (fd < 0)
        return -errno;
    r = keyfile_check(fd);
    if (r != 0)
        return r;
    len = keyfile_read_all(fd, file, sizeof(file));
    if (len < 0)
        return (int)len;
    return passphrase ? passfile_unwrap(file, (size_t)len, passphrase, n, ret_key)
                      : passfile_check(file, (size_t)len);
}

static int new_name(const char *path, char ret_name[PATH_MAX])
{
    int n = snprintf(ret_name, PATH_MAX, "%s.new", path);

    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int write_file(const char *path, const uint8_t file[PASSFILE_LEN])
{
    CLEANUP_FD int fd = -1;
    int r;

    if (unlink(path) != 0 && errno != ENOENT)
        return -errno;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    r = keyfile_write_all(fd, file, PASSFILE_LEN);
    if (r == 0 && fsync(fd) != 0)
        r = -errno;
    return r;
}

/* That what lies on the disk gives the key back, before anything else is given up for it. */
static int verify(const char *path, const uint8_t key[STORE_KEY_LEN], const char *passphrase, size_t n)
{
    uint8_t back[STORE_KEY_LEN];
    int r = passfile_open(path, passphrase, n, back);

    if (r == 0 && sodium_memcmp(back, key, STORE_KEY_LEN) != 0)
        r = -EIO;
    sodium_memzero(back, sizeof(back));
    return r > 0 ? -EIO : r;
}

/* Puts the file `fresh` in path's place; what was there is overwritten once it has no name any more. */
static int replace(const char *fresh, const char *path)
{
    CLEANUP_FD int old = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r = rename(fresh, path) != 0 ? -errno : keyfile_sync_directory(path);

    if (r == 0 && old >= 0 && keyfile_check(old) == 0)
        (void)!keyfile_overwrite(old, PASSFILE_LEN);
    return r;
}

int passfile_save(const char *path, const uint8_t key[STORE_KEY_LEN], const char *passphrase, size_t n,
        struct passfile_cost cost)
{
    uint8_t file[PASSFILE_LEN];
    char fresh[PATH_MAX];
    int r = new_name(path, fresh);

    if (r == 0)
        r = passfile_wrap(key, passphrase, n, cost, file);
    if (r != 0)
        return r;
    r = write_file(fresh, file);
    if (r == 0)
        r = verify(fresh, key, passphrase, n);
    if (r == 0)
        r = replace(fresh, path);
    if (r != 0)
        (void)unlink(fresh);
    return r;
}

static int remove_one(const char *path)
{
    CLEANUP_FD int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int r;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    r = unlink(path) != 0 ? -errno : 0;
    if (r == 0 && keyfile_check(fd) == 0)
        (void)!keyfile_overwrite(fd, PASSFILE_LEN);
    return r;
}

int passfile_remove(const char *path)
{
    char fresh[PATH_MAX];
    int r = new_name(path, fresh);

    if (r == 0)
        r = remove_one(fresh);
    if (r == 0)
        r = remove_one(path);
    return r == 0 ? keyfile_sync_directory(path) : r;
}
