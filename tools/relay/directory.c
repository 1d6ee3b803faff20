/* Accounts and their keys: REGISTER, PUT_PREKEYS, LOOKUP, CLAIM, LIST_USERS, UNREGISTER. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "hub.h"

static void out_of_memory(struct conn *c, uint32_t ref)
{
    conn_error(c, ref, RELAY_ERR_BUSY, 1000, "the relay is out of memory");
}

static void send_empty(struct conn *c, enum relay_type type, uint32_t ref)
{
    struct buf b;

    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_empty(&b, type, ref);
    conn_send(c, &b);
}

struct register_req {
    uint32_t ref;
    bool was_ready;
    struct store_register store; /* last: it has the entry behind it */
};

static struct register_req *register_of(struct store_req *req)
{
    return (struct register_req *)((char *)req - offsetof(struct register_req, store));
}

static void refuse_registration(struct conn *c, uint32_t ref, const struct store_register *r)
{
    char text[RELAY_MAX_ERROR_TEXT];

    switch (r->ret_conflict) {
    case STORE_NAME_TAKEN:
        conn_error(c, ref, RELAY_ERR_NAME_TAKEN, 0, "another account has this name");
        break;
    case STORE_CLOSED:
        conn_error(c, ref, RELAY_ERR_REGISTRATION_CLOSED, 0, "this relay takes no new accounts");
        break;
    case STORE_CHAIN_REVOKED:
        conn_error(c, ref, RELAY_ERR_CONFLICT, 0, "a device that was revoked is not revoked in this entry");
        break;
    case STORE_CHAIN_GAP:
    case STORE_CHAIN_FORK:
        (void)snprintf(text, sizeof(text), "the entry does not continue the chain, whose newest entry has n %llu",
                (unsigned long long)r->ret_newest);
        conn_error(c, ref, RELAY_ERR_CONFLICT, 0, text);
        break;
    }
}

/* Connected devices work with the keys of the newest entry; one that is not in it any more is sent away. */
static void update_devices(struct hub *h, const struct store_register *r)
{
    struct entry e;

    if (entry_parse(r->entry, r->entry_len, &e) != WIRE_OK)
        return;
    for (struct conn *c = h->conns; c; c = c->next) {
        const struct entry_device *found = NULL;

        if (c->state != CONN_READY || memcmp(c->who.uid, r->uid, UID_LEN) != 0)
            continue;
        for (uint8_t i = 0; i < e.devices && !found; i++)
            found = e.device[i].device == c->who.device ? &e.device[i] : NULL;
        if (!found || memcmp(found->rak, c->rak, sizeof(c->rak)) != 0) {
            conn_fail(c, 0, RELAY_ERR_AUTH_FAILED, 0, "this device's key is not in the device list any more");
            continue;
        }
        memcpy(c->dsk, found->dsk, sizeof(c->dsk));
        c->list_n = e.n;
    }
}

static void on_registered(struct store_req *req, void *ctx)
{
    struct register_req *r = register_of(req);
    struct conn *c = ctx;

    if (conn_alive(c)) {
        if (!r->was_ready)
            c->state = CONN_NEW;
        if (req->result == STORE_OK || req->result == STORE_DUP)
            send_empty(c, RELAY_OK, r->ref);
        else if (req->result == STORE_CONFLICT)
            refuse_registration(c, r->ref, &r->store);
        else if (req->result == STORE_NOENT)
            conn_error(c, r->ref, RELAY_ERR_TOKEN_REQUIRED, 0, "registration needs a token that is known and not used up");
        else
            conn_store_failed(c, r->ref, req->result);
    }
    if (req->result == STORE_OK)
        update_devices(c->hub, &r->store);
    conn_complete(c, 0);
    free(r);
}

static bool registration_valid(struct conn *c, uint32_t ref, const struct relay_register *m, struct entry *ret_entry)
{
    uint8_t uid[UID_LEN];

    if (entry_parse(m->entry.p, m->entry.n, ret_entry) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed device list entry");
        return false;
    }
    if (ret_entry->name.n != m->name.n || memcmp(ret_entry->name.p, m->name.p, m->name.n) != 0) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "the entry has another name");
        return false;
    }
    auth_uid(ret_entry->ak, uid);
    if (c->state == CONN_READY && memcmp(uid, c->who.uid, UID_LEN) != 0) {
        conn_error(c, ref, RELAY_ERR_FORBIDDEN, 0, "the entry is another account's");
        return false;
    }
    if (conn_limited(c, ref, LIMIT_REGISTER, c->ip, sizeof(c->ip)))
        return false;
    if (!auth_entry_signed(ret_entry)) {
        conn_fail(c, ref, RELAY_ERR_AUTH_FAILED, 0, "a signature of the device list entry is wrong");
        return false;
    }
    return true;
}

void directory_register(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_register m;
    struct register_req *r;
    struct entry e;

    if (relay_get_register(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed REGISTER");
        return;
    }
    if (!registration_valid(c, ref, &m, &e))
        return;
    r = calloc(1, sizeof(*r) + m.entry.n);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    r->ref = ref;
    r->was_ready = c->state == CONN_READY;
    r->store.req = (struct store_req){.op = STORE_OP_REGISTER, .done = on_registered, .ctx = c};
    r->store.registration = (uint8_t)c->hub->options.registration;
    r->store.entry_len = m.entry.n;
    memcpy(r->store.entry, m.entry.p, m.entry.n);
    auth_uid(e.ak, r->store.uid);
    auth_entry_hash(&e, r->store.hash);
    directory_token_hash(m.token.p, m.token.n, r->store.token_hash);
    if (!r->was_ready)
        c->state = CONN_WAITING;
    conn_submit(c, &r->store.req, 0);
}

void directory_token_hash(const void *token, size_t n, uint8_t ret_hash[TOKEN_HASH_LEN])
{
    static const uint8_t label[] = "e2ee-relay token";
    crypto_generichash_state state;

    (void)crypto_generichash_init(&state, NULL, 0, TOKEN_HASH_LEN);
    (void)crypto_generichash_update(&state, label, sizeof(label));
    (void)crypto_generichash_update(&state, token, n);
    (void)crypto_generichash_final(&state, ret_hash, TOKEN_HASH_LEN);
}

struct put_req {
    uint32_t ref;
    size_t bytes;
    struct store_put_prekeys store;
};

static void on_prekeys(struct store_req *req, void *ctx)
{
    struct put_req *r = (struct put_req *)((char *)req - offsetof(struct put_req, store));
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result == STORE_OK) {
        const struct relay_prekeys m = {.one_time_left = r->store.ret_one_time_left,
                .signed_prekey_id = r->store.ret_signed_prekey_id};

        buf_init(&b, RELAY_MAX_MESSAGE);
        relay_put_prekeys_left(&b, r->ref, &m);
        conn_send(c, &b);
    } else if (req->result == STORE_NOENT) {
        conn_error(c, r->ref, RELAY_ERR_NOT_FOUND, 0, "this device is not registered any more");
    } else if (req->result == STORE_FULL) {
        conn_error(c, r->ref, RELAY_ERR_FULL, 0, "more than 400 one-time prekeys of this device, or no room");
    } else {
        conn_store_failed(c, r->ref, req->result);
    }
done:
    conn_complete(c, r->bytes);
    free(r);
}

/* NULL, or what is wrong with a record of this connection's device. */
static const char *prekey_fault(const struct conn *c, struct span bytes, bool one_time, uint32_t *ret_id)
{
    struct prekey_record r;
    int status = one_time ? prekey_parse_one_time(bytes.p, bytes.n, &r) : prekey_parse_signed(bytes.p, bytes.n, &r);

    if (status != WIRE_OK)
        return "a prekey is malformed";
    if (memcmp(r.uid, c->who.uid, UID_LEN) != 0 || r.device != c->who.device)
        return "a prekey is of another device";
    if (!one_time && (r.list_n > c->list_n || r.not_after_ms <= c->hub->clock.now_ms()))
        return "the signed prekey names a device list entry that is not known here, or has expired";
    if (!auth_prekey_signed(&r, c->dsk, one_time))
        return "a prekey's signature is wrong";
    *ret_id = r.id;
    return NULL;
}

static const char *check_prekeys(const struct conn *c, const struct relay_put_prekeys *m, struct store_put_prekeys *r)
{
    const char *fault = m->signed_prekey.n ? prekey_fault(c, m->signed_prekey, false, &r->signed_id) : NULL;

    for (uint16_t i = 0; i < m->count && !fault; i++)
        fault = prekey_fault(c, m->one_time[i], true, &r->one_time_id[i]);
    return fault;
}

void directory_put_prekeys(struct conn *c, uint32_t ref, struct cursor *fields)
{
    const uint8_t *from = fields->p;
    size_t n = fields->left;
    struct put_req *r = calloc(1, sizeof(*r) + n);
    struct cursor copy;
    const char *fault;

    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    if (n > 0)
        memcpy(r->store.bytes, from, n);
    cursor_init(&copy, r->store.bytes, n);
    if (relay_get_prekeys(&copy, &r->store.keys) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed PUT_PREKEYS");
        free(r);
        return;
    }
    if (conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN)) {
        free(r);
        return;
    }
    fault = check_prekeys(c, &r->store.keys, &r->store);
    if (fault) {
        conn_error(c, ref, RELAY_ERR_FORBIDDEN, 0, fault);
        free(r);
        return;
    }
    r->ref = ref;
    r->bytes = n;
    r->store.who = c->who;
    r->store.req = (struct store_req){.op = STORE_OP_PUT_PREKEYS, .done = on_prekeys, .ctx = c};
    conn_submit(c, &r->store.req, n);
}

struct lookup_req {
    struct store_lookup store;
    uint32_t ref;
};

static void on_lookup(struct store_req *req, void *ctx)
{
    struct lookup_req *r = (struct lookup_req *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result != STORE_OK && req->result != STORE_NOENT) {
        conn_store_failed(c, r->ref, req->result);
        goto done;
    }
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_account(&b, r->ref, &r->store.ret_account);
    conn_send(c, &b);
done:
    conn_complete(c, 0);
    store_req_free(req);
}

void directory_lookup(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_lookup m;
    struct lookup_req *r;

    if (relay_get_lookup(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed LOOKUP");
        return;
    }
    if (conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN))
        return;
    r = store_req_new(STORE_OP_LOOKUP, sizeof(*r), on_lookup, c);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    memcpy(r->store.key, m.key.p, m.key.n);
    r->store.by = (struct relay_lookup){.by = m.by, .key = {r->store.key, m.key.n}};
    r->ref = ref;
    conn_submit(c, &r->store.req, 0);
}

struct claim_req {
    struct store_claim store;
    uint32_t ref;
};

static void on_claimed(struct store_req *req, void *ctx)
{
    struct claim_req *r = (struct claim_req *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result == STORE_OK || req->result == STORE_NOENT) {
        const struct relay_bundle m = {.found = req->result == STORE_OK,
                .signed_prekey = {r->store.ret_signed, r->store.ret_signed_len},
                .one_time = {r->store.ret_one_time, r->store.ret_one_time_len}};

        buf_init(&b, RELAY_MAX_MESSAGE);
        relay_put_bundle(&b, r->ref, &m);
        conn_send(c, &b);
    } else {
        conn_store_failed(c, r->ref, req->result);
    }
done:
    conn_complete(c, 0);
    store_req_free(req);
}

void directory_claim(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct address target;
    struct claim_req *r;
    uint8_t pair[2 * UID_LEN + 4];

    if (relay_get_claim(fields, &target) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed CLAIM");
        return;
    }
    memcpy(pair, c->who.uid, UID_LEN);
    memcpy(pair + UID_LEN, target.uid, UID_LEN);
    memcpy(pair + 2 * (size_t)UID_LEN, &target.device, 4);
    if (conn_limited(c, ref, LIMIT_CLAIM_TARGET, pair, sizeof(pair)) ||
            conn_limited(c, ref, LIMIT_CLAIM, c->who.uid, UID_LEN))
        return;
    r = store_req_new(STORE_OP_CLAIM, sizeof(*r), on_claimed, c);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    r->store.target = target;
    r->ref = ref;
    conn_submit(c, &r->store.req, 0);
}

struct list_req {
    uint32_t ref;
    struct store_list_users store;
};

static void on_list(struct store_req *req, void *ctx)
{
    struct list_req *r = (struct list_req *)((char *)req - offsetof(struct list_req, store));
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result != STORE_OK) {
        conn_store_failed(c, r->ref, req->result);
        goto done;
    }
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_begin_users(&b, r->ref, r->store.ret_more);
    for (uint16_t i = 0; i < r->store.ret_count; i++) {
        struct relay_user user = {.name = {r->store.ret_user[i].name, r->store.ret_user[i].name_len}};

        memcpy(user.uid, r->store.ret_user[i].uid, UID_LEN);
        relay_add_user(&b, &user);
    }
    conn_send(c, &b);
done:
    conn_complete(c, 0);
    free(r);
}

void directory_list_users(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_list_users m;
    struct list_req *r;

    if (relay_get_list_users(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed LIST_USERS");
        return;
    }
    if (conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN))
        return;
    r = calloc(1, sizeof(*r) + m.limit * sizeof(r->store.ret_user[0]));
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    r->ref = ref;
    r->store.req = (struct store_req){.op = STORE_OP_LIST, .done = on_list, .ctx = c};
    r->store.limit = m.limit;
    r->store.after_len = m.after.n;
    if (m.after.n)
        memcpy(r->store.after, m.after.p, m.after.n);
    conn_submit(c, &r->store.req, 0);
}

struct unregister_req {
    struct store_unregister store;
    uint32_t ref;
};

static void on_unregistered(struct store_req *req, void *ctx)
{
    struct unregister_req *r = (struct unregister_req *)req;
    struct conn *c = ctx;

    if (req->result != STORE_OK && req->result != STORE_NOENT) {
        if (conn_alive(c))
            conn_store_failed(c, r->ref, req->result);
        goto done;
    }
    if (conn_alive(c)) {
        send_empty(c, RELAY_OK, r->ref);
        conn_close(c, 1000);
    }
    for (struct conn *other = c->hub->conns; other; other = other->next) {
        if (other->state == CONN_READY && memcmp(other->who.uid, r->store.uid, UID_LEN) == 0)
            conn_fail(other, 0, RELAY_ERR_UNKNOWN_ACCOUNT, 0, "this account has been deleted");
    }
done:
    conn_complete(c, 0);
    store_req_free(req);
}

void directory_unregister(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_unregister m;
    struct unregister_req *r;

    if (relay_get_unregister(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed UNREGISTER");
        return;
    }
    if (!auth_delete_signed(c, &m)) {
        conn_error(c, ref, RELAY_ERR_FORBIDDEN, 0, "the signature or the time is wrong");
        return;
    }
    r = store_req_new(STORE_OP_UNREGISTER, sizeof(*r), on_unregistered, c);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    memcpy(r->store.uid, c->who.uid, UID_LEN);
    r->ref = ref;
    conn_submit(c, &r->store.req, 0);
}
