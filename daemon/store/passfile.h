/*
 * The storage key under a passphrase: the file storage.pass (docs/PROTOCOL.md, section 11). These calls block
 * for as long as Argon2id takes (about a second) and use nothing but their arguments and the file system:
 * they are for a thread of their own. They need sodium_init().
 */
#ifndef E2EE_PASSFILE_H
#define E2EE_PASSFILE_H

#include "base.h"
#include "store.h"

#define PASSFILE_LEN 124u
#define PASSFILE_MAX_PASSPHRASE 1024u /* bytes; at least one */
#define PASSFILE_PASSES 6u
#define PASSFILE_MAX_PASSES 16u
#define PASSFILE_MEMORY_KIB 131072u
#define PASSFILE_MIN_MEMORY_KIB 8192u
#define PASSFILE_MAX_MEMORY_KIB 524288u

/* Positive results. */
enum passfile_status {
    PASSFILE_WRONG = 1, /* not the passphrase */
    PASSFILE_DAMAGED,   /* not what was written: no passphrase opens it */
    PASSFILE_NEWER,     /* a version that this release does not know */
};

/* What guessing costs. */
struct passfile_cost {
    uint32_t passes, memory_kib;
};

/* -EINVAL: cost or length of the passphrase out of range. -ENOMEM: not that much memory. */
int passfile_wrap(const uint8_t key[STORE_KEY_LEN], const char *passphrase, size_t n,
        struct passfile_cost cost, uint8_t ret_file[PASSFILE_LEN]) MUST_USE;
/* Everything but the passphrase: PASSFILE_DAMAGED, PASSFILE_NEWER. Cheap. */
int passfile_check(const uint8_t *file, size_t n) MUST_USE;
/* What passfile_check() says, PASSFILE_WRONG, -ENOMEM. */
int passfile_unwrap(const uint8_t *file, size_t len, const char *passphrase, size_t n,
        uint8_t ret_key[STORE_KEY_LEN]) MUST_USE;

/*
 * The same with the file at path, a regular file of mode 0600 or less that is ours: -EPERM, -ELOOP, -ENOENT
 * and other negative errno as for store_key_file(). NULL for passphrase is passfile_check().
 */
int passfile_open(const char *path, const char *passphrase, size_t n, uint8_t *ret_key) MUST_USE;
/*
 * Writes path durably (path.new, fsync, read back and opened, rename, fsync of the directory) and overwrites
 * the file that it replaces. Whatever happens, path is the old file or the new one. Any result but 0 leaves
 * it open which of the two after a failed rename or fsync of the directory, else it is the old one.
 */
int passfile_save(const char *path, const uint8_t key[STORE_KEY_LEN], const char *passphrase, size_t n,
        struct passfile_cost cost) MUST_USE;
/* Overwrites and removes path and path.new, durably; 0 also where there is none. */
int passfile_remove(const char *path) MUST_USE;

#endif
