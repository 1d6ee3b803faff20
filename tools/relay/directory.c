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
        (void)snprintf(text, sizeof(text),
                "the entry does not continue the chain, whose newest entry has n %llu",
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
    struct store_register *r = (struct store_register *)req;
    struct conn *c = ctx;

    if (conn_alive(c)) {
        if (c->state == CONN_WAITING)
            c->state = CONN_NEW;
        if (req->result == STORE_OK || req->result == STORE_DUP)
            send_empty(c, RELAY_OK, req->ref);
        else if (req->result == STORE_CONFLICT)
            refuse_registration(c, req->ref, r);
        else if (req->result == STORE_NOENT)
            conn_error(c, req->ref, RELAY_ERR_TOKEN_REQUIRED, 0,
                    "registration needs a token that is known and not used up");
        else
            conn_store_failed(c, req->ref, req->result);
    }
    if (req->result == STORE_OK)
        update_devices(c->hub, r);
    conn_complete(c, req);
    store_req_free(req);
}

static bool registration_valid(
        struct conn *c, uint32_t ref, const struct relay_register *m, struct entry *ret_entry)
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
    struct store_register *r;
    struct entry e;

    if (relay_get_register(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed REGISTER");
        return;
    }
    if (!registration_valid(c, ref, &m, &e))
        return;
    r = store_req_new(STORE_OP_REGISTER, sizeof(*r) + m.entry.n, on_registered, c);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    r->req.ref = ref;
    r->registration = (uint8_t)c->hub->options.registration;
    r->entry_len = m.entry.n;
    memcpy(r->entry, m.entry.p, m.entry.n);
    auth_uid(e.ak, r->uid);
    auth_entry_hash(&e, r->hash);
    directory_token_hash(m.token.p, m.token.n, r->token_hash);
    if (c->state == CONN_NEW)
        c->state = CONN_WAITING;
    conn_submit(c, &r->req, m.entry.n);
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

static void on_prekeys(struct store_req *req, void *ctx)
{
    struct store_put_prekeys *r = (struct store_put_prekeys *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result == STORE_OK) {
        const struct relay_prekeys m = {
                .one_time_left = r->ret_one_time_left, .signed_prekey_id = r->ret_signed_prekey_id};

        buf_init(&b, RELAY_MAX_MESSAGE);
        relay_put_prekeys_left(&b, req->ref, &m);
        conn_send(c, &b);
    } else if (req->result == STORE_NOENT) {
        conn_error(c, req->ref, RELAY_ERR_NOT_FOUND, 0, "this device is not registered any more");
    } else if (req->result == STORE_FULL) {
        conn_error(
                c, req->ref, RELAY_ERR_FULL, 0, "more than 400 one-time prekeys of this device, or no room");
    } else {
        conn_store_failed(c, req->ref, req->result);
    }
done:
    conn_complete(c, req);
    store_req_free(req);
}

/* NULL, or what is wrong with a record of this connection's device. */
static const char *prekey_fault(const struct conn *c, struct span bytes, bool one_time, uint32_t *ret_id)
{
    struct prekey_record r;
    int status = one_time ? prekey_parse_one_time(bytes.p, bytes.n, &r)
                          : prekey_parse_signed(bytes.p, bytes.n, &r);

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

static const char *check_prekeys(
        const struct conn *c, const struct relay_put_prekeys *m, struct store_put_prekeys *r)
{
    const char *fault = m->signed_prekey.n ? prekey_fault(c, m->signed_prekey, false, &r->signed_id) : NULL;

    for (uint16_t i = 0; i < m->count && !fault; i++)
        fault = prekey_fault(c, m->one_time[i], true, &r->one_time_id[i]);
    return fault;
}

void directory_put_prekeys(struct conn *c, uint32_t ref, struct cursor *fields)
{
    size_t n = fields->left;
    struct store_put_prekeys *r = store_req_new(STORE_OP_PUT_PREKEYS, sizeof(*r) + n, on_prekeys, c);
    struct cursor copy;
    const char *fault = NULL;

    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    if (n > 0)
        memcpy(r->bytes, fields->p, n);
    cursor_init(&copy, r->bytes, n);
    r->req.ref = ref;
    r->who = c->who;
    if (relay_get_prekeys(&copy, &r->keys) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed PUT_PREKEYS");
    } else if (!conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN)) {
        fault = check_prekeys(c, &r->keys, r);
        if (!fault) {
            conn_submit(c, &r->req, n);
            return;
        }
        conn_error(c, ref, RELAY_ERR_FORBIDDEN, 0, fault);
    }
    store_req_free(&r->req);
}

static void on_lookup(struct store_req *req, void *ctx)
{
    struct store_lookup *r = (struct store_lookup *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result != STORE_OK && req->result != STORE_NOENT) {
        conn_store_failed(c, req->ref, req->result);
        goto done;
    }
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_account(&b, req->ref, &r->ret_account);
    conn_send(c, &b);
done:
    conn_complete(c, req);
    store_req_free(req);
}

void directory_lookup(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_lookup m;
    struct store_lookup *r;

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
    memcpy(r->key, m.key.p, m.key.n);
    r->by = (struct relay_lookup){.by = m.by, .key = {r->key, m.key.n}};
    r->req.ref = ref;
    conn_submit(c, &r->req, 0);
}

static void on_claimed(struct store_req *req, void *ctx)
{
    struct store_claim *r = (struct store_claim *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result == STORE_OK || req->result == STORE_NOENT) {
        const struct relay_bundle m = {.found = req->result == STORE_OK,
                .signed_prekey = {r->ret_signed, r->ret_signed_len},
                .one_time = {r->ret_one_time, r->ret_one_time_len}};

        buf_init(&b, RELAY_MAX_MESSAGE);
        relay_put_bundle(&b, req->ref, &m);
        conn_send(c, &b);
    } else {
        conn_store_failed(c, req->ref, req->result);
    }
done:
    conn_complete(c, req);
    store_req_free(req);
}

void directory_claim(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct address target;
    struct store_claim *r;
    uint8_t pair[2 * UID_LEN + 4];

    if (relay_get_claim(fields, &target) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed CLAIM");
        return;
    }
    memcpy(pair, c->who.uid, UID_LEN);
    memcpy(pair + UID_LEN, target.uid, UID_LEN);
    memcpy(pair + 2 * (size_t)UID_LEN, &target.device, 4);
    if (conn_limited(c, ref, LIMIT_CLAIM, c->who.uid, UID_LEN) ||
            conn_limited(c, ref, LIMIT_CLAIM_TARGET, pair, sizeof(pair)))
        return;
    r = store_req_new(STORE_OP_CLAIM, sizeof(*r), on_claimed, c);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    r->target = target;
    r->req.ref = ref;
    conn_submit(c, &r->req, 0);
}

static void on_list(struct store_req *req, void *ctx)
{
    struct store_list_users *r = (struct store_list_users *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result != STORE_OK) {
        conn_store_failed(c, req->ref, req->result);
        goto done;
    }
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_begin_users(&b, req->ref, r->ret_more);
    for (uint16_t i = 0; i < r->ret_count; i++) {
        struct relay_user user = {.name = {r->ret_user[i].name, r->ret_user[i].name_len}};

        memcpy(user.uid, r->ret_user[i].uid, UID_LEN);
        relay_add_user(&b, &user);
    }
    conn_send(c, &b);
done:
    conn_complete(c, req);
    store_req_free(req);
}

void directory_list_users(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_list_users m;
    struct store_list_users *r;

    if (relay_get_list_users(fields, &m) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed LIST_USERS");
        return;
    }
    if (conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN))
        return;
    r = store_req_new(STORE_OP_LIST, sizeof(*r) + m.limit * sizeof(r->ret_user[0]), on_list, c);
    if (!r) {
        out_of_memory(c, ref);
        return;
    }
    r->req.ref = ref;
    r->limit = m.limit;
    r->after_len = m.after.n;
    if (m.after.n)
        memcpy(r->after, m.after.p, m.after.n);
    conn_submit(c, &r->req, 0);
}

static void on_unregistered(struct store_req *req, void *ctx)
{
    struct store_unregister *r = (struct store_unregister *)req;
    struct conn *c = ctx;

    if (req->result != STORE_OK && req->result != STORE_NOENT) {
        if (conn_alive(c))
            conn_store_failed(c, req->ref, req->result);
        goto done;
    }
    if (conn_alive(c)) {
        send_empty(c, RELAY_OK, req->ref);
        conn_close(c, 1000);
    }
    for (struct conn *other = c->hub->conns; other; other = other->next) {
        if (other->state == CONN_READY && memcmp(other->who.uid, r->uid, UID_LEN) == 0)
            conn_fail(other, 0, RELAY_ERR_UNKNOWN_ACCOUNT, 0, "this account has been deleted");
    }
done:
    conn_complete(c, req);
    store_req_free(req);
}

void directory_unregister(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct relay_unregister m;
    struct store_unregister *r;

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
    memcpy(r->uid, c->who.uid, UID_LEN);
    r->req.ref = ref;
    conn_submit(c, &r->req, 0);
}
