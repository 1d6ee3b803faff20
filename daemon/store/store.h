/*
 * The durable state: a few ordered maps of sealed records in one SQLite database (WAL, synchronous=FULL,
 * secure_delete=ON), written in one transaction a turn. Values are sealed (XChaCha20-Poly1305) under a key derived from the storage key,
 * with map and key as associated data; keys of the maps lie open.
 */
#ifndef E2EE_STORE_H
#define E2EE_STORE_H

#include "base.h"

#define STORE_SCHEMA 1
#define STORE_KEY_LEN 32
#define STORE_MAX_KEY 96u
#define STORE_MAX_VALUE (512u * 1024u)

enum store_status {
    STORE_NOT_FOUND = 1,
    STORE_NEWER = 2,     /* written by a newer release */
    STORE_WRONG_KEY = 3, /* the storage key does not open it */
    STORE_LOCKED = 4,    /* another daemon has it */
    STORE_CORRUPT = 5,   /* a record does not unseal, or SQLite says so */
};

struct store;

/*
 * Opens or creates DIR/state.db (the directory is made with mode 0700), takes an exclusive lock for the life of the store.
 * key is copied into secret memory. *ret_text (a static or per-thread string) explains a positive result to a person.
 */
int store_open(const char *dir, const uint8_t key[STORE_KEY_LEN], struct store **ret_store, const char **ret_text) MUST_USE;
void store_close(struct store *s);
static inline void store_closep(struct store **s)
{
    store_close(*s);
}

/* The storage key: reads a file of mode 0600 owned by us, or makes one (O_EXCL, fsync of file and directory). -EPERM if others may read it. */
int store_key_file(const char *path, bool create, uint8_t ret_key[STORE_KEY_LEN]) MUST_USE;

/*
 * Reading and writing. The first write of a turn opens the transaction; reads see it. Negative errno: -ENOSPC (disk full),
 * -EIO, -ENOMEM, …: after a failed write the caller must store_rollback().
 */
int store_get(struct store *s, uint8_t map, const void *key, size_t key_len, struct buf *value) MUST_USE;
int store_put(struct store *s, uint8_t map, const void *key, size_t key_len, const void *value, size_t n) MUST_USE;
/* 0 also where there was nothing. */
int store_del(struct store *s, uint8_t map, const void *key, size_t key_len) MUST_USE;
/*
 * Calls visit for the records of map with from <= key and key's first prefix_len bytes equal to from's, in order of the keys, until it
 * returns non-zero (which is returned) or none is left (0). visit must not write; pointers live during the call.
 */
typedef int (*store_visit)(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n);
int store_scan(struct store *s, uint8_t map, const void *from, size_t from_len, size_t prefix_len, store_visit visit,
        void *ctx) MUST_USE;
/* Highest key of map; STORE_NOT_FOUND if it is empty. */
int store_last(struct store *s, uint8_t map, uint8_t ret_key[STORE_MAX_KEY], size_t *ret_len) MUST_USE;

/* Ends the turn. Commit: all of it is on the disk, or (negative errno) none of it and the transaction is rolled back. */
int store_commit(struct store *s) MUST_USE;
void store_rollback(struct store *s);
/* True while a transaction is open. */
bool store_dirty(const struct store *s);
/* WAL checkpoint with TRUNCATE, so that deleted keys leave the disk; at least hourly, not inside a turn. */
int store_checkpoint(struct store *s) MUST_USE;
/* Writes and reads a probe record: proof for health checks. */
int store_probe(struct store *s) MUST_USE;

#endif
