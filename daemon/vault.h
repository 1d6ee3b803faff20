/*
 * Where the storage key comes from: a credential of the service manager, a passphrase, or the key file (in
 * this order; docs/PROTOCOL.md, section 11). Argon2id runs in a thread of its own, one at a time, so that
 * nobody waits for it; all calls and the callback are of the loop's thread. Keys and passphrases lie in
 * secret memory, and only while a task needs them: an open vault keeps no key.
 */
#ifndef E2EE_VAULT_H
#define E2EE_VAULT_H

#include "config.h"
#include "passfile.h"

#define VAULT_MIN_DELAY_MS 1000u /* after the first wrong passphrase; doubled by each further one */
#define VAULT_MAX_DELAY_MS 30000u

struct event_base;
struct vault;

enum vault_source { VAULT_FILE, VAULT_CREDENTIAL, VAULT_PASSPHRASE };

enum vault_task {
    VAULT_UNLOCK, /* passphrase gives the key */
    VAULT_SET,    /* fresh takes the place of the key file */
    VAULT_CHANGE, /* fresh takes the place of passphrase */
    VAULT_REMOVE, /* the key file takes the place of passphrase */
};

struct vault_result {
    enum vault_task task;
    /*
     * 0, PASSFILE_WRONG, PASSFILE_DAMAGED, PASSFILE_NEWER, VAULT_OTHER_KEY or negative errno. For VAULT_SET
     * and VAULT_REMOVE with `switched` another result than 0 means: the new source is in force, the old one
     * could not be removed.
     */
    int status;
    bool switched;
    const uint8_t *key; /* of VAULT_UNLOCK with status 0; lives as long as the call */
};
/* A source that does not hold the key of the open state. */
#define VAULT_OTHER_KEY 100

typedef void (*vault_done)(void *ctx, const struct vault_result *result);

/*
 * Finds the source; makes the state directory if it is missing. -ENOMEM and the results of passfile_open()
 * for a passphrase file that nobody could open. c outlives the vault.
 */
int vault_new(struct event_base *base, const struct config *c, struct vault **ret_vault) MUST_USE;
/* Waits for the end of a task; its callback is not called. */
void vault_free(struct vault *v);

enum vault_source vault_source(const struct vault *v);
/* "file", "credential", "passphrase". */
const char *vault_source_name(const struct vault *v);
/* The path that the key is read from, for people. */
const char *vault_path(const struct vault *v);
/* The key of a source without passphrase; makes the key file if create is set and there is none. Results of
 * store_key_file(), store_key_credential(). */
int vault_key(const struct vault *v, bool create, uint8_t ret_key[STORE_KEY_LEN]) MUST_USE;
/*
 * The state has been opened with this key. Completes what a crash has left half done: the leftovers of the
 * source that is not in force are removed.
 */
void vault_opened(struct vault *v, const uint8_t key[STORE_KEY_LEN]);

/*
 * Begins a task; passphrases (copied; at most PASSFILE_MAX_PASSPHRASE bytes) that it does not need are NULL.
 * -EBUSY: another one runs. -ENOMEM, -EAGAIN: no thread.
 */
int vault_start(struct vault *v, enum vault_task task, const void *passphrase, size_t n, const void *fresh,
        size_t n_fresh, vault_done done, void *ctx) MUST_USE;
bool vault_busy(const struct vault *v);
/* How long no passphrase is tried because the last ones were wrong; 0: now. */
uint32_t vault_delay_ms(const struct vault *v);

#endif
