#include "relay.h"

#include <errno.h>
#include <string.h>

#include "text.h"

#define HEAD_LEN 5u

static void put_head(struct buf *b, enum relay_type type, uint32_t ref)
{
    buf_u8(b, (uint8_t)type);
    buf_u32(b, ref);
}

int relay_read_head(struct cursor *c, uint8_t *ret_type, uint32_t *ret_ref)
{
    if (c->failed || c->left < HEAD_LEN || c->left > RELAY_MAX_MESSAGE)
        return WIRE_MALFORMED;
    *ret_type = cursor_u8(c);
    *ret_ref = cursor_u32(c);
    return WIRE_OK;
}

static void put_span(struct buf *b, struct span s)
{
    buf_lp(b, s.p, s.n);
}

static void put_spans(struct buf *b, const struct span *s, size_t count, size_t max)
{
    if (count > max && !b->error)
        b->error = -EMSGSIZE;
    for (size_t i = 0; !b->error && i < count; i++)
        put_span(b, s[i]);
}

static struct span get_span(struct cursor *c, size_t max)
{
    struct span s;

    s.p = cursor_lp(c, max, &s.n);
    return s;
}

static struct span get_name(struct cursor *c)
{
    struct span name = get_span(c, RELAY_MAX_NAME);

    if (!user_name_ok(name.p, name.n))
        cursor_fail(c);
    return name;
}

/* A u8 of at most max. */
static uint8_t get_limited(struct cursor *c, uint8_t max)
{
    uint8_t v = cursor_u8(c);

    if (v > max) {
        cursor_fail(c);
        return 0;
    }
    return v;
}

static bool get_bool(struct cursor *c)
{
    return get_limited(c, 1) == 1;
}

void relay_put_address(struct buf *b, const struct address *a)
{
    buf_bytes(b, a->uid, UID_LEN);
    buf_u32(b, a->device);
}

void relay_read_address(struct cursor *c, struct address *ret_a)
{
    cursor_copy(c, ret_a->uid, UID_LEN);
    ret_a->device = cursor_u32(c);
    if (ret_a->device == 0)
        cursor_fail(c);
}

void relay_put_challenge(struct buf *b, const struct relay_challenge *m)
{
    put_head(b, RELAY_CHALLENGE, 0);
    buf_u16(b, m->version);
    buf_bytes(b, m->nonce, sizeof(m->nonce));
    buf_u64(b, m->time_ms);
    buf_bytes(b, m->store_id, sizeof(m->store_id));
    buf_u32(b, m->max_message);
    buf_u32(b, m->max_body);
    buf_u32(b, m->window);
    buf_u8(b, m->registration);
}

int relay_get_challenge(struct cursor *c, struct relay_challenge *ret_m)
{
    struct relay_challenge m;

    m.version = cursor_u16(c);
    cursor_copy(c, m.nonce, sizeof(m.nonce));
    m.time_ms = cursor_u64(c);
    cursor_copy(c, m.store_id, sizeof(m.store_id));
    m.max_message = cursor_u32(c);
    m.max_body = cursor_u32(c);
    m.window = cursor_u32(c);
    m.registration = get_limited(c, REGISTRATION_CLOSED);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_welcome(struct buf *b, uint32_t ref, const struct relay_welcome *m)
{
    put_head(b, RELAY_WELCOME, ref);
    buf_u64(b, m->time_ms);
    buf_u32(b, m->one_time_left);
    buf_u32(b, m->signed_prekey_id);
    buf_u64(b, m->list_n);
    buf_u32(b, m->waiting);
}

int relay_get_welcome(struct cursor *c, struct relay_welcome *ret_m)
{
    struct relay_welcome m;

    m.time_ms = cursor_u64(c);
    m.one_time_left = cursor_u32(c);
    m.signed_prekey_id = cursor_u32(c);
    m.list_n = cursor_u64(c);
    m.waiting = cursor_u32(c);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_error(struct buf *b, uint32_t ref, uint16_t code, uint32_t retry_after_ms, const char *text)
{
    put_head(b, RELAY_ERROR, ref);
    buf_u16(b, code);
    buf_u32(b, retry_after_ms);
    buf_lp(b, text, text_cut(text, RELAY_MAX_ERROR_TEXT));
}

int relay_get_error(struct cursor *c, struct relay_error_msg *ret_m)
{
    struct relay_error_msg m;

    m.code = cursor_u16(c);
    m.retry_after_ms = cursor_u32(c);
    m.text = get_span(c, RELAY_MAX_ERROR_TEXT);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_empty(struct buf *b, enum relay_type type, uint32_t ref)
{
    put_head(b, type, ref);
}

void relay_put_account(struct buf *b, uint32_t ref, const struct relay_account *m)
{
    put_head(b, RELAY_ACCOUNT, ref);
    buf_u8(b, m->found);
    if (!m->found)
        return;
    put_span(b, m->name);
    buf_bytes(b, m->uid, UID_LEN);
    buf_u16(b, m->entries);
    put_spans(b, m->entry, m->entries, RELAY_MAX_ENTRIES);
}

int relay_get_account(struct cursor *c, struct relay_account *ret_m)
{
    struct relay_account m = {.found = get_bool(c)};

    if (m.found) {
        m.name = get_name(c);
        cursor_copy(c, m.uid, UID_LEN);
        m.entries = cursor_u16(c);
        if (m.entries < 1 || m.entries > RELAY_MAX_ENTRIES)
            cursor_fail(c);
        for (uint16_t i = 0; !c->failed && i < m.entries; i++)
            m.entry[i] = get_span(c, RELAY_MAX_ENTRY);
    }
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_bundle(struct buf *b, uint32_t ref, const struct relay_bundle *m)
{
    put_head(b, RELAY_BUNDLE, ref);
    buf_u8(b, m->found);
    if (!m->found)
        return;
    put_span(b, m->signed_prekey);
    put_span(b, m->one_time);
}

int relay_get_bundle(struct cursor *c, struct relay_bundle *ret_m)
{
    struct relay_bundle m = {.found = get_bool(c)};

    if (m.found) {
        m.signed_prekey = get_span(c, RELAY_MAX_PREKEY);
        m.one_time = get_span(c, RELAY_MAX_PREKEY);
    }
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_prekeys_left(struct buf *b, uint32_t ref, const struct relay_prekeys *m)
{
    put_head(b, RELAY_PREKEYS, ref);
    buf_u32(b, m->one_time_left);
    buf_u32(b, m->signed_prekey_id);
}

int relay_get_prekeys_left(struct cursor *c, struct relay_prekeys *ret_m)
{
    struct relay_prekeys m;

    m.one_time_left = cursor_u32(c);
    m.signed_prekey_id = cursor_u32(c);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_auth(struct buf *b, uint32_t ref, const struct relay_auth *m)
{
    put_head(b, RELAY_AUTH, ref);
    relay_put_address(b, &m->who);
    buf_bytes(b, m->rak, sizeof(m->rak));
    buf_bytes(b, m->nonce, sizeof(m->nonce));
    buf_u64(b, m->time_ms);
    put_span(b, m->host);
    buf_u8(b, m->binding);
    buf_bytes(b, m->signature, sizeof(m->signature));
}

int relay_get_auth(struct cursor *c, struct relay_auth *ret_m)
{
    struct relay_auth m;

    relay_read_address(c, &m.who);
    cursor_copy(c, m.rak, sizeof(m.rak));
    cursor_copy(c, m.nonce, sizeof(m.nonce));
    m.time_ms = cursor_u64(c);
    m.host = get_span(c, RELAY_MAX_HOST);
    m.binding = get_limited(c, BINDING_TLS_EXPORTER);
    cursor_copy(c, m.signature, sizeof(m.signature));
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_register(struct buf *b, uint32_t ref, const struct relay_register *m)
{
    put_head(b, RELAY_REGISTER, ref);
    put_span(b, m->name);
    put_span(b, m->token);
    put_span(b, m->entry);
}

int relay_get_register(struct cursor *c, struct relay_register *ret_m)
{
    struct relay_register m;

    m.name = get_name(c);
    m.token = get_span(c, RELAY_MAX_TOKEN);
    m.entry = get_span(c, RELAY_MAX_ENTRY);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_prekeys(struct buf *b, uint32_t ref, const struct relay_put_prekeys *m)
{
    put_head(b, RELAY_PUT_PREKEYS, ref);
    put_span(b, m->signed_prekey);
    buf_u8(b, m->replace);
    buf_u16(b, m->count);
    put_spans(b, m->one_time, m->count, RELAY_MAX_PREKEYS);
}

int relay_get_prekeys(struct cursor *c, struct relay_put_prekeys *ret_m)
{
    struct relay_put_prekeys m = {0};

    m.signed_prekey = get_span(c, RELAY_MAX_PREKEY);
    m.replace = get_bool(c);
    m.count = cursor_u16(c);
    if (m.count > RELAY_MAX_PREKEYS)
        cursor_fail(c);
    for (uint16_t i = 0; !c->failed && i < m.count; i++)
        m.one_time[i] = get_span(c, RELAY_MAX_PREKEY);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_lookup(struct buf *b, uint32_t ref, const struct relay_lookup *m)
{
    put_head(b, RELAY_LOOKUP, ref);
    buf_u8(b, m->by);
    put_span(b, m->key);
}

int relay_get_lookup(struct cursor *c, struct relay_lookup *ret_m)
{
    struct relay_lookup m = {.by = cursor_u8(c)};

    if (m.by == LOOKUP_BY_NAME) {
        m.key = get_name(c);
    } else {
        m.key = get_span(c, UID_LEN);
        if (m.by != LOOKUP_BY_UID || m.key.n != UID_LEN)
            cursor_fail(c);
    }
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_claim(struct buf *b, uint32_t ref, const struct address *who)
{
    put_head(b, RELAY_CLAIM, ref);
    relay_put_address(b, who);
}

int relay_get_claim(struct cursor *c, struct address *ret_who)
{
    struct address who;

    relay_read_address(c, &who);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_who = who;
    return WIRE_OK;
}

void relay_put_list_users(struct buf *b, uint32_t ref, const struct relay_list_users *m)
{
    put_head(b, RELAY_LIST_USERS, ref);
    put_span(b, m->after);
    buf_u16(b, m->limit);
}

int relay_get_list_users(struct cursor *c, struct relay_list_users *ret_m)
{
    struct relay_list_users m;

    m.after = get_span(c, RELAY_MAX_NAME);
    m.limit = cursor_u16(c);
    if (m.limit < 1 || m.limit > RELAY_MAX_USERS || (m.after.n > 0 && !user_name_ok(m.after.p, m.after.n)))
        cursor_fail(c);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_put_unregister(struct buf *b, uint32_t ref, const struct relay_unregister *m)
{
    put_head(b, RELAY_UNREGISTER, ref);
    buf_u64(b, m->time_ms);
    buf_bytes(b, m->signature, sizeof(m->signature));
}

int relay_get_unregister(struct cursor *c, struct relay_unregister *ret_m)
{
    struct relay_unregister m;

    m.time_ms = cursor_u64(c);
    cursor_copy(c, m.signature, sizeof(m.signature));
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void relay_auth_signed(struct buf *b, const struct relay_auth *m, const uint8_t relay_nonce[RELAY_NONCE_LEN],
        const uint8_t *exporter)
{
    buf_bytes(b, RELAY_LABEL_AUTH, sizeof(RELAY_LABEL_AUTH));
    put_span(b, m->host);
    buf_u8(b, m->binding);
    buf_lp(b, exporter, exporter ? EXPORTER_LEN : 0);
    buf_bytes(b, relay_nonce, RELAY_NONCE_LEN);
    buf_bytes(b, m->nonce, sizeof(m->nonce));
    relay_put_address(b, &m->who);
    buf_u64(b, m->time_ms);
}

void relay_delete_signed(struct buf *b, const uint8_t relay_nonce[RELAY_NONCE_LEN],
        const uint8_t uid[UID_LEN], uint64_t time_ms)
{
    buf_bytes(b, RELAY_LABEL_DELETE, sizeof(RELAY_LABEL_DELETE));
    buf_bytes(b, relay_nonce, RELAY_NONCE_LEN);
    buf_bytes(b, uid, UID_LEN);
    buf_u64(b, time_ms);
}
