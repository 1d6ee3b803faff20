#include <errno.h>
#include <string.h>

#include "inner.h"
#include "ratchet_impl.h"

/*
 * Blocks of sessions that were freed, wiped, for the next ones: mapping, locking and unmapping secret memory
 * takes longer than a message.
 */
#define SPARE_MAX 8
static _Thread_local struct {
    size_t count;
    struct ratchet *block[SPARE_MAX];
} spare;

struct ratchet *ratchet_allocate(void)
{
    struct ratchet *r = spare.count > 0 ? spare.block[--spare.count] : sodium_malloc(sizeof(*r));
    if (r)
        sodium_memzero(r, sizeof(*r));
    return r;
}

void ratchet_free(struct ratchet *r)
{
    if (!r)
        return;
    free(r->handshake);
    skipped_done(&r->skipped);
    sodium_memzero(r, sizeof(*r));
    if (spare.count < SPARE_MAX)
        spare.block[spare.count++] = r;
    else
        sodium_free(r);
}

static void begin_ad(const struct ratchet *r, const struct address *from, const struct address *to,
        crypto_hash_sha256_state *ret_state)
{
    struct hash h;
    hash_begin(&h, LABEL_MESSAGE_AD);
    hash_u16(&h, r->suite);
    hash_bytes(&h, r->th, TRANSCRIPT_LEN);
    hash_bytes(&h, from->uid, UID_LEN);
    hash_u32(&h, from->device);
    hash_bytes(&h, to->uid, UID_LEN);
    hash_u32(&h, to->device);
    *ret_state = h.state;
}

void ratchet_derive_ad(struct ratchet *r)
{
    begin_ad(r, &r->me, &r->peer, &r->ad_send);
    begin_ad(r, &r->peer, &r->me, &r->ad_receive);
}

static void count_message(struct ratchet *r)
{
    if (r->kem_messages < RATCHET_KEM_MESSAGES)
        r->kem_messages++;
}

/* Lengths of an envelope and places in it. */
struct layout {
    size_t header_len, plaintext_len;
    uint8_t *header, *nonce, *com, *ciphertext;
};

static uint8_t *lay_out(const struct ratchet *r, struct buf *out, struct layout *l)
{
    size_t n = 2 + r->handshake_len + ROUTE_TAG_LEN + 2 + l->header_len + NONCE_LEN + COM_LEN +
               l->plaintext_len + TAG_LEN;
    uint8_t *p = buf_reserve(out, n);
    if (!p)
        return NULL;
    l->header = p + 2 + r->handshake_len + ROUTE_TAG_LEN + 2;
    l->nonce = l->header + l->header_len;
    l->com = l->nonce + NONCE_LEN;
    l->ciphertext = l->com + COM_LEN;
    return p;
}

static void write_front(const struct ratchet *r, const struct layout *l, uint8_t *p)
{
    struct buf b = buf_over(p, (size_t)(l->header - p));
    buf_u8(&b, ENVELOPE_VERSION);
    buf_u8(&b, r->handshake ? KIND_HANDSHAKE : KIND_PLAIN);
    buf_bytes(&b, r->handshake, r->handshake_len);
    buf_bytes(&b, r->send.id.tag, ROUTE_TAG_LEN);
    buf_u16(&b, (uint16_t)l->header_len);
}

static void seal(struct ratchet *r, const struct inner *in, const struct rng *rng, const struct layout *l)
{
    struct work *w = &r->work;
    uint8_t nonces[2 * NONCE_LEN];
    struct header h = {
            .kem = r->field.kind,
            .type = in->type,
            .index = r->send.n,
            .previous = r->previous,
            .ratchet_key = r->dhs_public,
            .field = {r->field.bytes, kem_field_len(r->field.kind)},
    };

    rng_fill(rng, nonces, sizeof(nonces));
    header_seal(r, &r->send.id, &h, nonces, w, l->header);
    memcpy(l->nonce, nonces + NONCE_LEN, NONCE_LEN);
    chain_step(w, r->send.ck, w->mk);
    message_keys(&r->ad_send, in->type, (struct span){l->header, l->header_len}, l->nonce, w);
    memcpy(l->com, w->keys + KEY_LEN, COM_LEN);
    inner_encode(in, l->ciphertext);
    (void)crypto_aead_xchacha20poly1305_ietf_encrypt(l->ciphertext, NULL, l->ciphertext, l->plaintext_len,
            w->ad_hash, HASH_LEN, NULL, l->nonce, w->keys);
}

static int check_sendable(const struct ratchet *r, const struct inner *in)
{
    if (!inner_ok(in) || (!r->send.open && !r->send_due))
        return -EINVAL;
    return !r->send_due && r->send.n == INDEX_NEVER ? RATCHET_EXHAUSTED : 0;
}

static int encrypt(
        struct ratchet *r, struct inner *in, uint64_t now_ms, const struct rng *rng, struct buf *out)
{
    struct layout l = {.plaintext_len = inner_padded_length(in)};
    enum kem_kind kind = r->field.kind;
    uint8_t *p;

    if (r->send_due) {
        int status = sending_prepare(r, now_ms, rng);
        if (status)
            return status;
        kind = r->send_step.field.kind;
    }
    l.header_len = SEALED_HEADER_LEN(kem_field_len(kind));
    p = lay_out(r, out, &l);
    if (!p)
        return buf_status(out);
    if (r->send_due)
        sending_adopt(r, now_ms);
    in->seq = r->sent + 1;
    in->seen = r->received;
    write_front(r, &l, p);
    seal(r, in, rng, &l);
    r->send.n++;
    r->sent++;
    count_message(r);
    return 0;
}

int ratchet_encrypt(
        struct ratchet *r, struct inner *in, uint64_t now_ms, const struct rng *rng, struct buf *out)
{
    int status = check_sendable(r, in);
    if (status)
        return status;
    status = encrypt(r, in, now_ms, rng, out);
    if (status)
        sending_abandon(r);
    sodium_memzero(&r->work, sizeof(r->work));
    return status;
}

static enum which_chain find_chain(
        const struct ratchet *r, const uint8_t *tag, const struct chain_id **ret_id)
{
    const struct skipped_chain *old;
    if (r->receive.open && sodium_memcmp(tag, r->receive.id.tag, ROUTE_TAG_LEN) == 0) {
        *ret_id = &r->receive.id;
        return CHAIN_CURRENT;
    }
    if (sodium_memcmp(tag, r->next_receive.tag, ROUTE_TAG_LEN) == 0) {
        *ret_id = &r->next_receive;
        return CHAIN_NEXT;
    }
    old = skipped_chain_find(&r->skipped, tag);
    *ret_id = old ? &old->id : NULL;
    return old ? CHAIN_OLD : CHAIN_NONE;
}

/* An initiator's header never changes. A responder never sends one: the initiator has no hash of any, but
 * zeros. */
static bool handshake_fits(const struct ratchet *r, const struct envelope_view *view)
{
    uint8_t digest[HASH_LEN];
    struct hash h;
    if (!view->has_handshake)
        return true;
    hash_begin(&h, LABEL_HANDSHAKE_HEADER);
    hash_bytes(&h, view->handshake.p, view->handshake.n);
    hash_end(&h, digest);
    return sodium_memcmp(digest, r->handshake_hash, HASH_LEN) == 0;
}

/* After a header that is no good the body is judged all the same, under a key of zeros, so that time tells
 * nothing. */
static int open_message(struct ratchet *r, const struct envelope_view *view, uint64_t now_ms,
        uint8_t *ret_plaintext, struct header *ret_header)
{
    const struct chain_id *id;
    enum which_chain which = find_chain(r, view->route_tag, &id);
    bool body_ok;
    int status;

    if (which == CHAIN_NONE || !handshake_fits(r, view))
        return RATCHET_FAILED;
    status = header_open(r, id, view->header, &r->work, ret_header) ? 0 : RATCHET_FAILED;
    if (status == 0)
        status = receiving_prepare(r, ret_header, which, view->route_tag, now_ms);
    if (status < 0)
        return status;
    if (status > 0) {
        sodium_memzero(r->work.mk, KEY_LEN);
        ret_header->type = 0;
    }
    body_ok = body_open(&r->ad_receive, view, ret_header->type, &r->work, ret_plaintext);
    return status == 0 && body_ok ? 0 : RATCHET_FAILED;
}

static int open_and_check(struct ratchet *r, const struct envelope_view *view, uint64_t now_ms,
        const struct rng *rng, struct buf *plaintext, struct inner *ret_inner, struct header *ret_header)
{
    size_t n = view->ciphertext.n - TAG_LEN;
    uint8_t *p = buf_reserve(plaintext, n);
    struct inner in;
    int status;

    if (!p)
        return buf_status(plaintext);
    status = open_message(r, view, now_ms, p, ret_header);
    if (status)
        return status;
    CT_PUBLIC(p, n);
    if (!inner_decode(p, n, &in) || in.type != ret_header->type)
        return RATCHET_FAILED;
    status = receiving_answer(r, ret_header, rng);
    if (status == 0)
        *ret_inner = in;
    return status;
}

static void note_numbers(struct ratchet *r, const struct inner *in)
{
    uint64_t seen = in->seen < r->sent ? in->seen : r->sent;
    if (in->seq > r->received)
        r->received = in->seq;
    if (seen > r->seen_by_peer)
        r->seen_by_peer = seen;
    count_message(r);
}

int ratchet_decrypt(struct ratchet *r, const struct envelope_view *view, uint64_t now_ms,
        const struct rng *rng, struct buf *plaintext, struct inner *ret_inner)
{
    struct header h;
    int status;

    buf_reset(plaintext);
    sodium_memzero(&r->receive_step, sizeof(r->receive_step));
    status = open_and_check(r, view, now_ms, rng, plaintext, ret_inner, &h);
    if (status == 0) {
        receiving_adopt(r, &h, now_ms);
        note_numbers(r, ret_inner);
        free(r->handshake);
        r->handshake = NULL;
        r->handshake_len = 0;
    } else {
        receiving_abandon(r);
        buf_reset(plaintext);
    }
    sodium_memzero(&r->work, sizeof(r->work));
    return status;
}

static size_t add_tag(
        uint8_t ret_tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN], size_t n, const uint8_t tag[ROUTE_TAG_LEN])
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(ret_tags[i], tag, ROUTE_TAG_LEN) == 0)
            return n;
    memcpy(ret_tags[n], tag, ROUTE_TAG_LEN);
    return n + 1;
}

size_t ratchet_tags(const struct ratchet *r, uint8_t ret_tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN])
{
    size_t n = add_tag(ret_tags, 0, r->next_receive.tag);
    if (r->receive.open)
        n = add_tag(ret_tags, n, r->receive.id.tag);
    for (size_t i = 0; i < r->skipped.chains; i++)
        n = add_tag(ret_tags, n, r->skipped.chain[i].id.tag);
    return n;
}

uint64_t ratchet_session_number(const struct ratchet *r)
{
    return r->session_number;
}

const uint8_t *ratchet_transcript(const struct ratchet *r)
{
    return r->th;
}

const struct address *ratchet_peer(const struct ratchet *r)
{
    return &r->peer;
}

uint64_t ratchet_sent(const struct ratchet *r)
{
    return r->sent;
}

uint64_t ratchet_seen_by_peer(const struct ratchet *r)
{
    return r->seen_by_peer;
}

uint64_t ratchet_received(const struct ratchet *r)
{
    return r->received;
}

bool ratchet_answered(const struct ratchet *r)
{
    return r->received > 0;
}

/* A responder knows of the healing once the peer has used what the answer brought: with its second chain. */
bool ratchet_weak(const struct ratchet *r)
{
    return !r->one_time && r->chains_received < (r->initiator ? 1u : 2u);
}

bool ratchet_expire(struct ratchet *r, uint64_t now_ms)
{
    return skipped_expire(&r->skipped, now_ms);
}
