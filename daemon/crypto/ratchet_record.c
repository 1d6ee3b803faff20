#include <errno.h>
#include <string.h>

#include "ratchet_impl.h"

#define RECORD_VERSION 1

static void save_fixed(const struct ratchet *r, struct buf *b)
{
    buf_u8(b, RECORD_VERSION);
    buf_u8(b, r->initiator);
    buf_u8(b, r->one_time);
    buf_u16(b, r->suite);
    buf_bytes(b, r->me.uid, UID_LEN);
    buf_u32(b, r->me.device);
    buf_bytes(b, r->peer.uid, UID_LEN);
    buf_u32(b, r->peer.device);
    buf_u64(b, r->session_number);
    buf_bytes(b, r->th, TRANSCRIPT_LEN);
    buf_bytes(b, r->handshake_hash, HASH_LEN);
    buf_lp(b, r->handshake, r->handshake_len);
}

static void save_chain(const struct chain *c, struct buf *b)
{
    buf_u8(b, c->open);
    buf_bytes(b, c->ck, KEY_LEN);
    buf_bytes(b, c->id.hk, KEY_LEN);
    buf_bytes(b, c->id.tag, ROUTE_TAG_LEN);
    buf_u32(b, c->n);
}

static void save_next(const struct chain_id *id, struct buf *b)
{
    buf_bytes(b, id->hk, KEY_LEN);
    buf_bytes(b, id->tag, ROUTE_TAG_LEN);
}

static void save_chains(const struct ratchet *r, struct buf *b)
{
    buf_bytes(b, r->rk, KEY_LEN);
    buf_u8(b, r->has_dhs);
    buf_bytes(b, r->dhs, KEY_LEN);
    buf_bytes(b, r->dhs_public, KEY_LEN);
    buf_u8(b, r->has_dhr);
    buf_bytes(b, r->dhr, KEY_LEN);
    save_chain(&r->send, b);
    save_chain(&r->receive, b);
    save_next(&r->next_send, b);
    save_next(&r->next_receive, b);
    buf_u8(b, r->send_due);
    buf_u32(b, r->previous);
    buf_u64(b, r->sent);
    buf_u64(b, r->seen_by_peer);
    buf_u64(b, r->received);
    buf_u8(b, (uint8_t)r->chains_received);
}

static void save_kem(const struct ratchet *r, struct buf *b)
{
    buf_u64(b, r->kem_ms);
    buf_u8(b, (uint8_t)r->kem_messages);
    buf_u8(b, r->has_offer);
    buf_bytes(b, r->offer_seed, r->has_offer ? MLKEM_SEED_LEN : 0);
    buf_u8(b, (uint8_t)r->field.kind);
    buf_bytes(b, r->field.bytes, kem_field_len(r->field.kind));
    buf_u8(b, r->answer.pending);
    if (r->answer.pending) {
        buf_bytes(b, r->answer.ct, MLKEM_CT_LEN);
        buf_bytes(b, r->answer.ss, MLKEM_SS_LEN);
    }
}

void ratchet_save(const struct ratchet *r, struct buf *secret)
{
    save_fixed(r, secret);
    save_chains(r, secret);
    save_kem(r, secret);
    skipped_save(&r->skipped, secret);
}

static bool load_bool(struct cursor *c)
{
    uint8_t v = cursor_u8(c);
    if (v > 1)
        cursor_fail(c);
    return v;
}

static void load_address(struct cursor *c, struct address *a)
{
    cursor_copy(c, a->uid, UID_LEN);
    a->device = cursor_u32(c);
    if (a->device == 0)
        cursor_fail(c);
}

static int load_handshake(struct cursor *c, struct ratchet *r)
{
    size_t n;
    const uint8_t *p = cursor_lp(c, ENVELOPE_MAX_BODY, &n);
    if (n == 0)
        return 0;
    r->handshake = malloc(n);
    if (!r->handshake)
        return -ENOMEM;
    memcpy(r->handshake, p, n);
    r->handshake_len = n;
    return 0;
}

static int load_fixed(struct cursor *c, struct ratchet *r)
{
    if (cursor_u8(c) != RECORD_VERSION)
        cursor_fail(c);
    r->initiator = load_bool(c);
    r->one_time = load_bool(c);
    r->suite = cursor_u16(c);
    load_address(c, &r->me);
    load_address(c, &r->peer);
    r->session_number = cursor_u64(c);
    cursor_copy(c, r->th, TRANSCRIPT_LEN);
    cursor_copy(c, r->handshake_hash, HASH_LEN);
    if (r->suite != SUITE_1)
        cursor_fail(c);
    return load_handshake(c, r);
}

static void load_chain(struct cursor *c, struct chain *chain)
{
    chain->open = load_bool(c);
    cursor_copy(c, chain->ck, KEY_LEN);
    cursor_copy(c, chain->id.hk, KEY_LEN);
    cursor_copy(c, chain->id.tag, ROUTE_TAG_LEN);
    chain->n = cursor_u32(c);
}

static void load_next(struct cursor *c, struct chain_id *id)
{
    cursor_copy(c, id->hk, KEY_LEN);
    cursor_copy(c, id->tag, ROUTE_TAG_LEN);
}

static void load_chains(struct cursor *c, struct ratchet *r)
{
    cursor_copy(c, r->rk, KEY_LEN);
    r->has_dhs = load_bool(c);
    cursor_copy(c, r->dhs, KEY_LEN);
    cursor_copy(c, r->dhs_public, KEY_LEN);
    r->has_dhr = load_bool(c);
    cursor_copy(c, r->dhr, KEY_LEN);
    load_chain(c, &r->send);
    load_chain(c, &r->receive);
    load_next(c, &r->next_send);
    load_next(c, &r->next_receive);
    r->send_due = load_bool(c);
    r->previous = cursor_u32(c);
    r->sent = cursor_u64(c);
    r->seen_by_peer = cursor_u64(c);
    r->received = cursor_u64(c);
    r->chains_received = cursor_u8(c);
}

static void load_kem(struct cursor *c, struct ratchet *r)
{
    uint8_t kind;
    r->kem_ms = cursor_u64(c);
    r->kem_messages = cursor_u8(c);
    r->has_offer = load_bool(c);
    if (r->has_offer)
        cursor_copy(c, r->offer_seed, MLKEM_SEED_LEN);
    kind = cursor_u8(c);
    if (kind > KEM_ANSWER)
        cursor_fail(c);
    else
        r->field.kind = (enum kem_kind)kind;
    cursor_copy(c, r->field.bytes, kem_field_len(r->field.kind));
    r->answer.pending = load_bool(c);
    if (r->answer.pending) {
        cursor_copy(c, r->answer.ct, MLKEM_CT_LEN);
        cursor_copy(c, r->answer.ss, MLKEM_SS_LEN);
    }
}

/* States that no sequence of calls leads to. */
static bool is_coherent(const struct ratchet *r)
{
    bool can_send = r->send.open != r->send_due || (!r->initiator && !r->receive.open);
    return can_send && r->send.open <= r->has_dhs && !(r->send_due && (r->has_dhs || !r->has_dhr)) &&
           r->receive.open == (r->chains_received > 0) && r->receive.open == (r->received > 0) &&
           r->chains_received <= 2 && r->seen_by_peer <= r->sent && r->kem_messages <= RATCHET_KEM_MESSAGES &&
           (r->handshake != NULL) == (r->initiator && !r->receive.open) &&
           (r->has_offer == (r->field.kind == KEM_OFFER)) && (r->send.open || r->field.kind == KEM_NONE) &&
           (!r->answer.pending || r->send_due);
}

static int load(struct cursor *c, struct ratchet *r)
{
    int status = load_fixed(c, r);
    if (status)
        return status;
    load_chains(c, r);
    load_kem(c, r);
    status = skipped_load(c, &r->skipped);
    if (status)
        return status;
    if (cursor_end(c) != WIRE_OK || !is_coherent(r))
        return RATCHET_MALFORMED;
    ratchet_derive_ad(r);
    return 0;
}

int ratchet_load(const void *p, size_t n, struct ratchet **ret_ratchet)
{
    struct ratchet *r;
    struct cursor c;
    int status;

    if (n > RATCHET_MAX_RECORD)
        return RATCHET_MALFORMED;
    r = ratchet_allocate();
    if (!r)
        return -ENOMEM;
    cursor_init(&c, p, n);
    status = load(&c, r);
    if (status) {
        ratchet_free(r);
        return status;
    }
    *ret_ratchet = r;
    return 0;
}
