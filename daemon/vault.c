#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "log.h"
#include "vault.h"

#define DEFAULT_CREDENTIAL "e2eed.storage-key"
#define STACK_ZERO (64u * 1024u) /* Argon2's own memory is not on the stack */
#define PRINT_LEN 32u

/* What the thread works on; in secret memory. Nothing else is shared with it. */
struct task {
    enum vault_task task;
    const char *pass_file, *key_file;
    struct passfile_cost cost;
    char passphrase[PASSFILE_MAX_PASSPHRASE], fresh[PASSFILE_MAX_PASSPHRASE];
    size_t n, n_fresh;
    uint8_t expected[PRINT_LEN]; /* of the key that the state was opened with */
    uint8_t key[STORE_KEY_LEN];
    int status;
    bool switched;
    int done_fd;
};

struct vault {
    const struct config *cfg;
    enum vault_source source;
    char pass_file[CONFIG_MAX_PATH + 16];
    char credential[CONFIG_MAX_PATH];
    uint8_t print[PRINT_LEN];
    unsigned wrong;
    uint64_t next_ms;
    struct task *task; /* NULL: none runs */
    pthread_t thread;
    int fd;
    struct event *event;
    vault_done done;
    void *ctx;
};

/* Tells a key from another without being one. */
static void print_of(const uint8_t key[STORE_KEY_LEN], uint8_t ret_print[PRINT_LEN])
{
    (void)crypto_generichash(ret_print, PRINT_LEN, key, STORE_KEY_LEN, NULL, 0);
}

/* --- in the thread --- */

static bool expected_key(const struct task *t)
{
    uint8_t print[PRINT_LEN];

    print_of(t->key, print);
    return sodium_memcmp(print, t->expected, sizeof(print)) == 0;
}

static int set(struct task *t)
{
    int r = store_key_file(t->key_file, false, t->key);

    if (r == 0 && !expected_key(t))
        r = VAULT_OTHER_KEY;
    if (r == 0)
        r = passfile_save(t->pass_file, t->key, t->fresh, t->n_fresh, t->cost);
    if (r != 0)
        return r;
    t->switched = true;
    return store_key_file_remove(t->key_file, t->key);
}

static int change(struct task *t)
{
    return expected_key(t) ? passfile_save(t->pass_file, t->key, t->fresh, t->n_fresh, t->cost)
                           : VAULT_OTHER_KEY;
}

static int go_back(struct task *t)
{
    int r = expected_key(t) ? store_key_file_put(t->key_file, t->key) : VAULT_OTHER_KEY;

    if (r == STORE_WRONG_KEY)
        r = VAULT_OTHER_KEY;
    return r == 0 ? passfile_remove(t->pass_file) : r;
}

static int perform(struct task *t)
{
    int r;

    if (t->task == VAULT_SET)
        return set(t);
    r = passfile_open(t->pass_file, t->passphrase, t->n, t->key);
    if (r != 0 || t->task == VAULT_UNLOCK)
        return r;
    r = t->task == VAULT_CHANGE ? change(t) : go_back(t);
    t->switched = t->task == VAULT_REMOVE && r == 0;
    return r;
}

static void *run(void *arg)
{
    struct task *t = arg;
    uint64_t one = 1;

    t->status = perform(t);
    sodium_memzero(t->passphrase, sizeof(t->passphrase));
    sodium_memzero(t->fresh, sizeof(t->fresh));
    if (t->task != VAULT_UNLOCK || t->status != 0)
        sodium_memzero(t->key, sizeof(t->key));
    sodium_stackzero(STACK_ZERO);
    (void)!write(t->done_fd, &one, sizeof(one));
    return NULL;
}

/* --- in the loop --- */

static void note_wrong(struct vault *v)
{
    uint32_t delay = v->wrong < 16 ? VAULT_MIN_DELAY_MS << v->wrong : VAULT_MAX_DELAY_MS;

    if (delay > VAULT_MAX_DELAY_MS)
        delay = VAULT_MAX_DELAY_MS;
    v->wrong++;
    v->next_ms = clock_mono_ms() + delay;
    log_warn(
            "wrong-passphrase", "%u wrong passphrases in a row; the next is tried in %u ms", v->wrong, delay);
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
    struct vault *v = arg;
    struct task *t = v->task;
    struct vault_result result;
    uint64_t n;

    (void)what;
    if (read(fd, &n, sizeof(n)) != (ssize_t)sizeof(n) || !t)
        return;
    (void)pthread_join(v->thread, NULL);
    v->task = NULL;
    if (t->status == PASSFILE_WRONG)
        note_wrong(v);
    else if (t->status == 0)
        v->wrong = 0;
    if (t->switched)
        v->source = t->task == VAULT_SET ? VAULT_PASSPHRASE : VAULT_FILE;
    result = (struct vault_result){.task = t->task, .status = t->status, .switched = t->switched};
    if (t->task == VAULT_UNLOCK && t->status == 0)
        result.key = t->key;
    v->done(v->ctx, &result);
    sodium_free(t);
}

/* Signals are for the loop's thread. */
static int start_thread(struct vault *v)
{
    sigset_t all, before;
    int r;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&v->thread, NULL, run, v->task);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -r;
}

int vault_start(struct vault *v, enum vault_task task, const void *passphrase, size_t n, const void *fresh,
        size_t n_fresh, vault_done done, void *ctx)
{
    struct task *t;
    int r;

    if (v->task)
        return -EBUSY;
    if (n > PASSFILE_MAX_PASSPHRASE || n_fresh > PASSFILE_MAX_PASSPHRASE)
        return -EINVAL;
    t = sodium_malloc(sizeof(*t));
    if (!t)
        return -ENOMEM;
    memset(t, 0, sizeof(*t));
    t->task = task;
    t->pass_file = v->pass_file;
    t->key_file = v->cfg->key_file;
    t->cost = (struct passfile_cost){PASSFILE_PASSES, v->cfg->passphrase_memory_kib};
    t->done_fd = v->fd;
    memcpy(t->expected, v->print, sizeof(t->expected));
    if (passphrase)
        memcpy(t->passphrase, passphrase, t->n = n);
    if (fresh)
        memcpy(t->fresh, fresh, t->n_fresh = n_fresh);
    v->done = done;
    v->ctx = ctx;
    v->task = t;
    r = start_thread(v);
    if (r != 0) {
        v->task = NULL;
        sodium_free(t);
    }
    return r;
}

bool vault_busy(const struct vault *v)
{
    return v->task != NULL;
}

uint32_t vault_delay_ms(const struct vault *v)
{
    uint64_t now = clock_mono_ms();

    return v->next_ms > now ? (uint32_t)(v->next_ms - now) : 0;
}

/* --- sources --- */

enum vault_source vault_source(const struct vault *v)
{
    return v->source;
}

const char *vault_source_name(const struct vault *v)
{
    static const char *const names[] = {"file", "credential", "passphrase"};

    return names[v->source];
}

const char *vault_path(const struct vault *v)
{
    return v->source == VAULT_CREDENTIAL   ? v->credential
           : v->source == VAULT_PASSPHRASE ? v->pass_file
                                           : v->cfg->key_file;
}

static const char *credential_name(const struct config *c)
{
    return c->credential[0] ? c->credential : DEFAULT_CREDENTIAL;
}

int vault_key(const struct vault *v, bool create, uint8_t ret_key[STORE_KEY_LEN])
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");

    if (v->source == VAULT_CREDENTIAL)
        return store_key_credential(dir ? dir : "/", credential_name(v->cfg), ret_key);
    return store_key_file(v->cfg->key_file, create, ret_key);
}

/* One that was asked for is the source even if it is missing: another key would not fit anyway. */
static bool has_credential(struct vault *v)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    int n = snprintf(v->credential, sizeof(v->credential), "%s/%s", dir ? dir : "$CREDENTIALS_DIRECTORY",
            credential_name(v->cfg));

    if (v->cfg->credential[0])
        return true;
    return !v->cfg->key_from_file && dir && n > 0 && (size_t)n < sizeof(v->credential) &&
           access(v->credential, F_OK) == 0;
}

static int find_source(struct vault *v)
{
    int r = store_make_dir(v->cfg->state_dir);

    (void)snprintf(v->pass_file, sizeof(v->pass_file), "%s/storage.pass", v->cfg->state_dir);
    if (r == 0)
        r = passfile_open(v->pass_file, NULL, 0, NULL);
    if (has_credential(v)) {
        v->source = VAULT_CREDENTIAL;
        if (r == 0)
            log_warn("passphrase-ignored", "the storage key comes from a credential; %s is not used",
                    v->pass_file);
        return 0;
    }
    v->source = r == -ENOENT ? VAULT_FILE : VAULT_PASSPHRASE;
    return r == -ENOENT ? 0 : r;
}

static void finish_switch(struct vault *v, const uint8_t *key)
{
    char fresh[sizeof(v->pass_file) + 8];
    int r;

    (void)snprintf(fresh, sizeof(fresh), "%s.new", v->pass_file);
    (void)unlink(fresh);
    if (v->source != VAULT_PASSPHRASE)
        return;
    r = store_key_file_remove(v->cfg->key_file, key);
    if (r != 0)
        log_warn("key-file-left", "%s stays beside the passphrase: %s; remove it if it is not needed",
                v->cfg->key_file, r < 0 ? strerror(-r) : "it holds another key");
}

void vault_opened(struct vault *v, const uint8_t key[STORE_KEY_LEN])
{
    print_of(key, v->print);
    finish_switch(v, key);
}

int vault_new(struct event_base *base, const struct config *c, struct vault **ret_vault)
{
    struct vault *v = calloc(1, sizeof(*v));
    int r;

    if (!v)
        return -ENOMEM;
    v->cfg = c;
    v->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = v->fd < 0 ? -errno : find_source(v);
    if (r == 0) {
        v->event = event_new(base, v->fd, EV_READ | EV_PERSIST, on_done, v);
        r = v->event && event_add(v->event, NULL) == 0 ? 0 : -ENOMEM;
    }
    if (r != 0) {
        vault_free(v);
        return r;
    }
    *ret_vault = v;
    return 0;
}

void vault_free(struct vault *v)
{
    if (!v)
        return;
    if (v->task)
        (void)pthread_join(v->thread, NULL);
    sodium_free(v->task);
    if (v->event)
        event_free(v->event);
    cleanup_close(&v->fd);
    free(v);
}
