/*
 * The durable state: a few ordered maps of sealed records in one SQLite database (WAL, synchronous=FULL,
 * secure_delete=ON), written in one transaction a turn. Values are sealed (XChaCha20-Poly1305) under a key
 * derived from the storage key, with map and key as associated data; keys of the maps lie open.
 *
 * One thread uses a store. A map is a number, keys are ordered as memcmp() orders them, and both a key and a
 * value may be empty.
 *
 * Results beside those named at each call: -EINVAL for a key longer than STORE_MAX_KEY, -EMSGSIZE for a value
 * longer than STORE_MAX_VALUE, -ENOSPC (disk or quota full), -EIO, -ENOMEM, and STORE_CORRUPT from every call
 * that touches the database.
 */
#ifndef E2EE_STORE_H
#define E2EE_STORE_H

#include "base.h"

#define STORE_SCHEMA 1
#define STORE_KEY_LEN 32
#define STORE_MAX_KEY 96u
#define STORE_MAX_VALUE (512u * 1024u)
/* Scans that may run inside each other. */
#define STORE_SCAN_DEPTH 2u

enum store_status {
    STORE_NOT_FOUND = 1,
    STORE_NEWER = 2,     /* written by a newer release */
    STORE_WRONG_KEY = 3, /* the storage key does not open it */
    STORE_LOCKED = 4,    /* another daemon has it */
    STORE_CORRUPT = 5,   /* a record does not unseal, or SQLite says so */
};

struct store;

/*
 * Opens or creates DIR/state.db (missing directories are made with mode 0700), takes an exclusive lock for
 * the life of the store. DIR must belong to us and be closed to everybody else: -EPERM. key is copied into
 * secret memory. Nothing is written before the schema and the key were found to fit. *ret_text (per-thread,
 * until the next call) explains any result but 0 to a person; it is set to NULL with 0.
 */
int store_open(const char *dir, const uint8_t key[STORE_KEY_LEN], struct store **ret_store,
        const char **ret_text) MUST_USE;
/* Rolls back what was not committed. */
void store_close(struct store *s);
static inline void store_closep(struct store **s)
{
    store_close(*s);
}

/*
 * Makes DIR and its missing parents with mode 0700, durably; 0 also where it exists, whatever it is. For a
 * key file that shall lie in DIR before there is a store. Negative errno.
 */
int store_make_dir(const char *dir) MUST_USE;

/*
 * The storage key: reads a regular file of mode 0600 or less that is ours, or, where there is none and create
 * is set, makes one (fsync of file and directory; a crash leaves a whole file or none). The file holds 32
 * bytes, or 64 hexadecimal digits and perhaps a newline. -EPERM if it is not ours or others may read it,
 * -ELOOP for a symbolic link, -EINVAL for other contents (also 32 zero bytes), -ENOENT, other negative errno.
 */
int store_key_file(const char *path, bool create, uint8_t ret_key[STORE_KEY_LEN]) MUST_USE;
/*
 * The same from a credential of the service manager: a file of mode 0440 or less in a directory of mode 0750
 * or less, each ours or root's. name has no slash and does not begin with a dot (-EINVAL).
 */
int store_key_credential(const char *dir, const char *name, uint8_t ret_key[STORE_KEY_LEN]) MUST_USE;
/*
 * Makes a key file that holds key, durably, read back and compared. A file at path that holds key or only
 * zeros is replaced. STORE_WRONG_KEY: it holds something else, and stays.
 */
int store_key_file_put(const char *path, const uint8_t key[STORE_KEY_LEN]) MUST_USE;
/*
 * Overwrites the key file with zeros and removes it, durably. 0 also where there is none; STORE_WRONG_KEY: it
 * holds neither key nor zeros only, and stays.
 */
int store_key_file_remove(const char *path, const uint8_t key[STORE_KEY_LEN]) MUST_USE;

/*
 * Reading and writing. The first write of a turn opens the transaction; reads see it. Where SQLite reports a
 * failure inside a transaction, that result sticks: every further call returns it, commit too, until
 * store_rollback(), so that no half of a turn can be committed. After the rollback the store works as before,
 * and writes again once the cause is gone.
 */

/* value is overwritten, and empty where the result is not 0. -EMSGSIZE if the value is longer than
 * value->max. */
int store_get(struct store *s, uint8_t map, const void *key, size_t key_len, struct buf *value) MUST_USE;
int store_put(
        struct store *s, uint8_t map, const void *key, size_t key_len, const void *value, size_t n) MUST_USE;
/* 0 also where there was nothing. */
int store_del(struct store *s, uint8_t map, const void *key, size_t key_len) MUST_USE;
/*
 * Calls visit for the records of map with from <= key and key's first prefix_len bytes equal to from's, in
 * order of the keys, until it returns non-zero (which is returned) or none is left (0). visit may read, also
 * by a scan of its own, and must not write or end the turn: -EBUSY, as for a scan nested deeper than
 * STORE_SCAN_DEPTH. Pointers live during the call and are never NULL. -EINVAL if prefix_len > from_len.
 */
typedef int (*store_visit)(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n);
int store_scan(struct store *s, uint8_t map, const void *from, size_t from_len, size_t prefix_len,
        store_visit visit, void *ctx) MUST_USE;
/* Highest key of map; STORE_NOT_FOUND if it is empty. */
int store_last(struct store *s, uint8_t map, uint8_t ret_key[STORE_MAX_KEY], size_t *ret_len) MUST_USE;

/*
 * Ends the turn. Commit: all of it is on the disk, or (any other result) none of it and the transaction is
 * rolled back. As with every disk, a failed fsync followed by a crash before any later write succeeded leaves
 * it open which of the two.
 */
int store_commit(struct store *s) MUST_USE;
void store_rollback(struct store *s);
/* True while a transaction is open, also a failed one that waits for its rollback. */
bool store_dirty(const struct store *s);
/* WAL checkpoint with TRUNCATE, so that deleted keys leave the disk; at least hourly, not inside a turn
 * (-EBUSY). */
int store_checkpoint(struct store *s) MUST_USE;
/*
 * Writes and reads a probe record: proof for health checks. Outside a turn it commits; inside one it becomes
 * part of it, and a failure is then a failure of the turn.
 */
int store_probe(struct store *s) MUST_USE;

#endif
