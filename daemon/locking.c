#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "locking.h"
#include "log.h"

#define BUSY_RETRY_MS 1000u

struct locking {
    const struct config *cfg;
    struct vault *vault;
    const struct locking_callbacks *callbacks;
    void *ctx;
    struct ipc_request *req; /* of the vault's task */
    bool unwanted;           /* locked again before the task's end */
};

int locking_new(const struct config *c, struct vault *vault, const struct locking_callbacks *callbacks,
        void *ctx, struct locking **ret_l)
{
    struct locking *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    *l = (struct locking){.cfg = c, .vault = vault, .callbacks = callbacks, .ctx = ctx};
    *ret_l = l;
    return 0;
}

void locking_free(struct locking *l)
{
    if (l && l->req)
        ipc_fail(l->req, API_SHUTTING_DOWN, 1000, "the daemon stops");
    free(l);
}

const char *locking_source(const struct locking *l)
{
    return vault_source_name(l->vault);
}

static void answer(const struct locking *l, struct ipc_request *req, const char *state)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;

    buf_init(&b, 256);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "state"), state);
    mp_put_str(mp_key(&m, "key"), vault_source_name(l->vault));
    mp_map_end(&m);
    ipc_reply(req, &b);
}

/* --- opening --- */

static void refuse_store(struct locking *l, struct ipc_request *req, int r, const char *text)
{
    if (r == STORE_WRONG_KEY)
        ipc_fail(req, API_STORAGE, 0,
                "the key in %s is not the one of this state: restore both from the same backup",
                vault_path(l->vault));
    else
        ipc_fail(req, r == -ENOSPC ? API_DISK_FULL : API_STORAGE, 0, "%s", text ? text : strerror(-r));
}

static void open_state(struct locking *l, struct ipc_request *req, const uint8_t *key)
{
    struct store *store;
    const char *text = NULL;
    int r = store_open(l->cfg->state_dir, key, &store, &text);

    if (r != 0) {
        refuse_store(l, req, r, text);
        return;
    }
    r = l->callbacks->open(l->ctx, store);
    if (r != 0) {
        store_close(store);
        ipc_fail(req, API_STORAGE, 0, "the state cannot be read: %s; the daemon's log says more",
                strerror(-r));
        return;
    }
    vault_opened(l->vault, key);
    log_notice("unlocked", "the state is open");
    (void)sd_notify(0, "STATUS=unlocked");
    answer(l, req, "unlocked");
}

/* The key comes without a passphrase. */
static void open_plainly(struct locking *l, struct ipc_request *req)
{
    uint8_t *key = sodium_malloc(STORE_KEY_LEN);
    int r = key ? vault_key(l->vault, false, key) : -ENOMEM;

    if (r == 0)
        open_state(l, req, key);
    else
        ipc_fail(req, API_STORAGE, 0, "the storage key cannot be read from %s: %s", vault_path(l->vault),
                strerror(-r));
    sodium_free(key);
}

/* --- the vault's results --- */

static void refuse_wrong(struct locking *l, struct ipc_request *req)
{
    uint32_t delay = vault_delay_ms(l->vault);

    ipc_fail(req, API_WRONG_PASSPHRASE, delay, "this is not the passphrase; the next one is tried in %u s",
            (delay + 999) / 1000);
}

static void refuse_switched(struct ipc_request *req, const struct vault_result *result)
{
    ipc_fail(req, API_STORAGE, 0,
            result->task == VAULT_SET
                    ? "the passphrase is set, but the key file could not be removed (%s): remove it by hand, "
                      "or lock and unlock"
                    : "the key file is in force again, but storage.pass could not be removed (%s): remove it",
            result->status < 0 ? strerror(-result->status) : "it holds another key");
}

static void refuse_result(struct locking *l, struct ipc_request *req, const struct vault_result *result)
{
    switch (result->status) {
    case PASSFILE_WRONG:
        refuse_wrong(l, req);
        break;
    case PASSFILE_DAMAGED:
        ipc_fail(req, API_STORAGE, 0, "storage.pass is damaged: restore it from a backup");
        break;
    case PASSFILE_NEWER:
        ipc_fail(req, API_STORAGE, 0, "storage.pass was written by a newer e2eed: run that one");
        break;
    case VAULT_OTHER_KEY:
        ipc_fail(req, API_STORAGE, 0,
                "nothing was changed: storage.key or storage.pass holds another key than the one that this "
                "state was opened with");
        break;
    case -ENOMEM:
        ipc_fail(req, API_INTERNAL, 0,
                "not enough memory: deriving a key from a passphrase takes %u MiB for a second; [storage] "
                "passphrase_memory sets it for new passphrases",
                l->cfg->passphrase_memory_kib / 1024);
        break;
    case -ENOSPC:
        ipc_fail(req, API_DISK_FULL, 0, "the disk is full: nothing was changed");
        break;
    default:
        ipc_fail(req, API_STORAGE, 0, "the files of the storage key cannot be read or written: %s",
                strerror(-result->status));
    }
}

static void log_change(const struct locking *l, const struct vault_result *result)
{
    log_notice("passphrase", "the passphrase was %s; the storage key comes from: %s",
            result->task == VAULT_SET      ? "set"
            : result->task == VAULT_CHANGE ? "changed"
                                           : "removed",
            vault_source_name(l->vault));
}

static void on_result(void *ctx, const struct vault_result *result)
{
    struct locking *l = ctx;
    struct ipc_request *req = l->req;
    bool unwanted = l->unwanted;

    l->req = NULL;
    l->unwanted = false;
    if (result->status != 0 && result->switched) {
        refuse_switched(req, result);
    } else if (result->status != 0) {
        refuse_result(l, req, result);
    } else if (result->task != VAULT_UNLOCK) {
        log_change(l, result);
        answer(l, req, unwanted ? "locked" : "unlocked");
    } else if (unwanted) {
        ipc_fail(req, API_LOCKED, 0, "the daemon was locked meanwhile");
    } else {
        open_state(l, req, result->key);
    }
}

/* --- calls --- */

static bool passphrase_ok(struct ipc_request *req, const char *name, const struct mp_value *v)
{
    if (v->count >= 1 && v->count <= PASSFILE_MAX_PASSPHRASE)
        return true;
    ipc_fail(req, API_INVALID_PARAMS, 0, "unlock: '%s' must have 1 to %u bytes", name,
            PASSFILE_MAX_PASSPHRASE);
    return false;
}

/* Absent values have no bytes. */
static void start(struct locking *l, struct ipc_request *req, enum vault_task task,
        const struct mp_value *passphrase, const struct mp_value *fresh)
{
    uint32_t delay = vault_delay_ms(l->vault);
    int r;

    if (vault_busy(l->vault)) {
        ipc_fail(req, API_RATE_LIMITED, BUSY_RETRY_MS, "another passphrase is being tried: try again");
        return;
    }
    if (delay > 0 && task != VAULT_SET) {
        ipc_fail(req, API_RATE_LIMITED, delay, "the last passphrase was wrong: the next one is tried in %u s",
                (delay + 999) / 1000);
        return;
    }
    r = vault_start(
            l->vault, task, passphrase->bytes, passphrase->count, fresh->bytes, fresh->count, on_result, l);
    if (r == 0)
        l->req = req;
    else
        ipc_fail(req, API_INTERNAL, 0, "the passphrase cannot be tried: %s", strerror(-r));
}

static void unlock_locked(struct locking *l, struct ipc_request *req, const struct mp_value *passphrase)
{
    static const struct mp_value none;

    if (vault_source(l->vault) != VAULT_PASSPHRASE && !vault_busy(l->vault))
        open_plainly(l, req);
    else if (passphrase_ok(req, "passphrase", passphrase))
        start(l, req, VAULT_UNLOCK, passphrase, &none);
}

static void change_passphrase(struct locking *l, struct ipc_request *req, const struct mp_value *passphrase,
        const struct mp_value *fresh)
{
    bool has = vault_source(l->vault) == VAULT_PASSPHRASE;

    if (vault_source(l->vault) == VAULT_CREDENTIAL)
        ipc_fail(req, API_FORBIDDEN, 0,
                "the storage key comes from a credential of the service manager, which needs no passphrase "
                "and cannot be removed from here; take it out of the unit and the configuration first");
    else if (!has && passphrase->count > 0)
        ipc_fail(req, API_INVALID_PARAMS, 0,
                "unlock: there is no passphrase yet; leave out 'passphrase' to set one");
    else if (!has && fresh->count == 0)
        answer(l, req, "unlocked");
    else if (has && passphrase->count == 0)
        ipc_fail(req, API_INVALID_PARAMS, 0, "unlock: the passphrase in force is needed in 'passphrase'");
    else if (fresh->count <= PASSFILE_MAX_PASSPHRASE && passphrase->count <= PASSFILE_MAX_PASSPHRASE)
        start(l, req, !has ? VAULT_SET : fresh->count > 0 ? VAULT_CHANGE : VAULT_REMOVE, passphrase, fresh);
    else
        ipc_fail(req, API_INVALID_PARAMS, 0, "unlock: a passphrase has at most %u bytes",
                PASSFILE_MAX_PASSPHRASE);
}

static void call_unlock(
        struct locking *l, struct ipc_request *req, const struct mp_value *params, bool is_open)
{
    struct mp_value passphrase = {0}, fresh = {0};
    bool change = mp_map_get(params, "new_passphrase", &fresh);

    (void)mp_map_get(params, "passphrase", &passphrase);
    if (!is_open && change)
        ipc_fail(req, API_LOCKED, 0, "unlock first; a passphrase is changed while the daemon is open");
    else if (!is_open)
        unlock_locked(l, req, &passphrase);
    else if (change)
        change_passphrase(l, req, &passphrase, &fresh);
    else
        answer(l, req, "unlocked");
}

static void call_lock(struct locking *l, struct ipc_request *req)
{
    l->callbacks->close(l->ctx);
    answer(l, req, "locked");
}

static void status_locked(const struct locking *l, struct ipc_request *req)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;

    buf_init(&b, 512);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "version"), E2EED_VERSION);
    mp_put_str(mp_key(&m, "account"), l->cfg->account);
    mp_put_str(mp_key(&m, "state"), "locked");
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static void health_locked(const struct locking *l, struct ipc_request *req)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;

    buf_init(&b, 512);
    mp_map_begin(&m, &b);
    mp_put_bool(mp_key(&m, "ok"), false);
    mp_put_bool(mp_key(&m, "store"), false);
    mp_put_bool(mp_key(&m, "link"), false);
    mp_put_str(mp_key(&m, "key"), vault_source_name(l->vault));
    mp_put_str(mp_key(&m, "text"), LOCKING_TEXT);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

bool locking_call(struct locking *l, struct ipc_request *req, const struct api_method *method,
        const struct mp_value *params, bool is_open)
{
    if (!strcmp(method->name, "lock"))
        call_lock(l, req);
    else if (!strcmp(method->name, "unlock"))
        call_unlock(l, req, params, is_open);
    else if (is_open)
        return false;
    else if (!strcmp(method->name, "status"))
        status_locked(l, req);
    else if (!strcmp(method->name, "health"))
        health_locked(l, req);
    else
        ipc_fail(req, API_LOCKED, 0, "%s: %s", method->name, LOCKING_TEXT);
    return true;
}

void locking_closed(struct locking *l)
{
    l->unwanted = l->req != NULL;
    log_notice("locked", "the state is closed and wiped from memory");
    (void)sd_notify(0, "STATUS=locked: e2eectl unlock opens it");
}
