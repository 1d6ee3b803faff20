/* Signatures, and AUTH. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "hub.h"

/* Each is followed by its zero byte. */
#define LABEL_UID "e2eed/1 uid"
#define LABEL_LIST "e2eed/1 device list"
#define LABEL_LIST_HASH "e2eed/1 device list hash"
#define LABEL_ENTRY "e2eed/1 device entry"
#define LABEL_SIGNED_PREKEY "e2eed/1 signed prekey"
#define LABEL_ONE_TIME_PREKEY "e2eed/1 one-time prekey"

#define CLOCK_SKEW_MS (10 * MINUTE_MS)

static bool verify(const char *label, size_t label_size, struct span body, const uint8_t *signature,
        const uint8_t key[32])
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};

    buf_bytes(&b, label, label_size);
    buf_bytes(&b, body.p, body.n);
    return buf_status(&b) == 0 && crypto_sign_verify_detached(signature, b.data, b.len, key) == 0;
}

void auth_uid(const uint8_t ak[32], uint8_t ret_uid[UID_LEN])
{
    uint8_t input[sizeof(LABEL_UID) + 32];

    memcpy(input, LABEL_UID, sizeof(LABEL_UID));
    memcpy(input + sizeof(LABEL_UID), ak, 32);
    (void)crypto_generichash(ret_uid, UID_LEN, input, sizeof(input), NULL, 0);
}

bool auth_entry_signed(const struct entry *e)
{
    if (!verify(LABEL_LIST, sizeof(LABEL_LIST), e->body, e->ak_signature, e->ak))
        return false;
    for (uint8_t i = 0; i < e->devices; i++) {
        const uint8_t *signature = e->dsk_signatures + (size_t)i * crypto_sign_BYTES;

        if (!verify(LABEL_ENTRY, sizeof(LABEL_ENTRY), e->body, signature, e->device[i].dsk))
            return false;
    }
    return true;
}

void auth_entry_hash(const struct entry *e, uint8_t ret_hash[32])
{
    crypto_hash_sha256_state state;

    (void)crypto_hash_sha256_init(&state);
    (void)crypto_hash_sha256_update(&state, (const uint8_t *)LABEL_LIST_HASH, sizeof(LABEL_LIST_HASH));
    (void)crypto_hash_sha256_update(&state, e->body.p, e->body.n);
    (void)crypto_hash_sha256_final(&state, ret_hash);
}

bool auth_prekey_signed(const struct prekey_record *r, const uint8_t dsk[32], bool one_time)
{
    if (one_time)
        return verify(LABEL_ONE_TIME_PREKEY, sizeof(LABEL_ONE_TIME_PREKEY), r->body, r->signature, dsk);
    return verify(LABEL_SIGNED_PREKEY, sizeof(LABEL_SIGNED_PREKEY), r->body, r->signature, dsk);
}

static bool within_skew(uint64_t now_ms, uint64_t time_ms)
{
    return (now_ms > time_ms ? now_ms - time_ms : time_ms - now_ms) <= CLOCK_SKEW_MS;
}

bool auth_delete_signed(const struct conn *c, const struct relay_unregister *m)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};

    relay_delete_signed(&b, c->nonce, c->who.uid, m->time_ms);
    return within_skew(c->hub->clock.now_ms(), m->time_ms) && buf_status(&b) == 0 &&
           crypto_sign_verify_detached(m->signature, b.data, b.len, c->ak) == 0;
}

static bool is_own_name(const struct hub *h, struct span host)
{
    for (size_t i = 0; i < h->options.names; i++) {
        const char *name = h->options.name[i];

        if (strlen(name) == host.n && strncasecmp(name, (const char *)host.p, host.n) == 0)
            return true;
    }
    return false;
}

static bool auth_signed(const struct conn *c, const struct relay_auth *m)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};

    relay_auth_signed(&b, m, c->nonce, m->binding == BINDING_TLS_EXPORTER ? c->exporter : NULL);
    return buf_status(&b) == 0 && crypto_sign_verify_detached(m->signature, b.data, b.len, m->rak) == 0;
}

/* 0, or the error that ends the attempt; its text is in text. */
static enum relay_error check(
        const struct conn *c, const struct relay_auth *m, char text[RELAY_MAX_ERROR_TEXT])
{
    uint64_t now = c->hub->clock.now_ms();

    if (!is_own_name(c->hub, m->host)) {
        (void)snprintf(text, RELAY_MAX_ERROR_TEXT, "the dialled host:port is not a name of this relay");
        return RELAY_ERR_WRONG_HOST;
    }
    if (m->binding == BINDING_NONE && c->tls && c->hub->options.binding_required) {
        (void)snprintf(text, RELAY_MAX_ERROR_TEXT, "this relay requires the TLS channel binding");
        return RELAY_ERR_BINDING_REQUIRED;
    }
    if (m->binding == BINDING_TLS_EXPORTER && !c->has_exporter) {
        (void)snprintf(text, RELAY_MAX_ERROR_TEXT, "bound to a TLS channel that does not end at this relay");
        return RELAY_ERR_AUTH_FAILED;
    }
    if (!within_skew(now, m->time_ms)) {
        (void)snprintf(text, RELAY_MAX_ERROR_TEXT,
                "the clocks differ by more than ten minutes; the relay's time is %llu",
                (unsigned long long)now);
        return RELAY_ERR_CLOCK_SKEW;
    }
    if (!auth_signed(c, m)) {
        (void)snprintf(text, RELAY_MAX_ERROR_TEXT, "the signature is wrong");
        return RELAY_ERR_AUTH_FAILED;
    }
    return 0;
}

static void welcome(struct conn *c, uint32_t ref, const struct store_open_device *r)
{
    const struct relay_welcome m = {.time_ms = c->hub->clock.now_ms(),
            .one_time_left = r->ret_one_time_left,
            .signed_prekey_id = r->ret_signed_prekey_id,
            .list_n = r->ret_list_n,
            .waiting = r->ret_waiting};
    struct buf b;

    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_welcome(&b, ref, &m);
    conn_send(c, &b);
}

static void become_ready(struct conn *c, uint32_t ref, const struct store_open_device *r)
{
    struct device *d = hub_get_device(c->hub, &r->who);

    if (!d) {
        conn_fail(c, ref, RELAY_ERR_BUSY, 1000, "the relay is out of memory");
        return;
    }
    /* The device must outlive the connection that is replaced. */
    d->inflight++;
    if (d->conn)
        conn_fail(d->conn, 0, RELAY_ERR_REPLACED, 0, "another connection of this device took its place");
    d->inflight--;
    c->state = CONN_READY;
    c->who = r->who;
    c->mailbox = r->ret_mailbox;
    c->list_n = r->ret_list_n;
    memcpy(c->ak, r->ret_ak, sizeof(c->ak));
    memcpy(c->dsk, r->ret_dsk, sizeof(c->dsk));
    memcpy(c->rak, r->ret_rak, sizeof(c->rak));
    c->device = d;
    d->conn = c;
    welcome(c, ref, r);
    d->pinned++;
    mailbox_open(c, r);
    presence_changed(d);
    d->pinned--;
    hub_release_device(c->hub, d);
}

struct auth_req {
    struct store_open_device open;
    uint8_t rak[32];
};

static void on_opened(struct store_req *req, void *ctx)
{
    struct auth_req *a = (struct auth_req *)req;
    struct conn *c = ctx;

    if (!conn_alive(c))
        goto done;
    c->state = CONN_NEW;
    if (req->result == STORE_NOENT && !a->open.ret_known_account)
        conn_error(c, req->ref, RELAY_ERR_UNKNOWN_ACCOUNT, 0, "this account is not registered here");
    else if (req->result == STORE_NOENT)
        conn_fail(c, req->ref, RELAY_ERR_AUTH_FAILED, 0, "this device is not in the account's device list");
    else if (req->result != STORE_OK)
        conn_store_failed(c, req->ref, req->result);
    else if (sodium_memcmp(a->rak, a->open.ret_rak, sizeof(a->rak)) != 0)
        conn_fail(c, req->ref, RELAY_ERR_AUTH_FAILED, 0, "not the key of this device in its device list");
    else
        become_ready(c, req->ref, &a->open);
done:
    conn_complete(c, req);
    store_req_free(req);
}

void auth_message(struct conn *c, uint32_t ref, struct cursor *fields)
{
    char text[RELAY_MAX_ERROR_TEXT];
    struct relay_auth m;
    struct auth_req *a;
    enum relay_error error;
    uint8_t key[UID_LEN + 4 + sizeof(m.rak)];

    if (relay_get_auth(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed AUTH");
        return;
    }
    error = check(c, &m, text);
    if (error) {
        conn_fail(c, ref, error, 0, text);
        return;
    }
    memcpy(key, m.who.uid, UID_LEN);
    memcpy(key + UID_LEN, &m.who.device, 4);
    /* The key is not compared with the account's yet: somebody else's attempts must not count against its
     * owner. */
    memcpy(key + UID_LEN + 4, m.rak, sizeof(m.rak));
    if (conn_limited(c, ref, LIMIT_CONNECT, key, sizeof(key))) {
        conn_close(c, CLOSE_POLICY);
        return;
    }
    a = store_req_new(STORE_OP_OPEN, sizeof(*a), on_opened, c);
    if (!a) {
        conn_store_failed(c, ref, STORE_RETRY);
        return;
    }
    a->open.who = m.who;
    a->open.req.ref = ref;
    memcpy(a->rak, m.rak, sizeof(a->rak));
    c->state = CONN_WAITING;
    conn_submit(c, &a->open.req, 0);
}
