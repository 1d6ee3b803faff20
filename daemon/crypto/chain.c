#include <errno.h>
#include <string.h>

#include "ratchet_impl.h"

#define TH_AD_MAX (LABEL_MAX + TRANSCRIPT_LEN)

static size_t put_label(uint8_t *out, enum label label)
{
    memcpy(out, label_table[label].text, label_table[label].n);
    return label_table[label].n;
}

static void kem_hash(enum kem_kind kind, const uint8_t *field, uint8_t ret_hash[HASH_LEN])
{
    struct hash h;
    hash_begin(&h, LABEL_KEM_FIELDS);
    hash_lp(&h, field, kind == KEM_OFFER ? MLKEM_PK_LEN : 0);
    hash_lp(&h, field, kind == KEM_ANSWER ? MLKEM_CT_LEN : 0);
    hash_end(&h, ret_hash);
}

void root_step(
        struct ratchet *r, size_t ikm_len, enum kem_kind kind, const uint8_t *field, struct root *ret_root)
{
    uint8_t info[LABEL_MAX + TRANSCRIPT_LEN + HASH_LEN], prk[HASH_LEN];
    uint8_t out[2 * KEY_LEN + KEY_LEN + ROUTE_TAG_LEN];
    size_t at = put_label(info, LABEL_ROOT);

    memcpy(info + at, r->th, TRANSCRIPT_LEN);
    at += TRANSCRIPT_LEN;
    kem_hash(kind, field, info + at);
    at += HASH_LEN;
    hkdf_extract(r->rk, KEY_LEN, r->work.ikm, ikm_len, prk);
    (void)hkdf_expand(prk, info, at, out, sizeof(out));
    memcpy(ret_root->rk, out, KEY_LEN);
    memcpy(ret_root->ck, out + KEY_LEN, KEY_LEN);
    memcpy(ret_root->next.hk, out + 2 * KEY_LEN, KEY_LEN);
    memcpy(ret_root->next.tag, out + 3 * KEY_LEN, ROUTE_TAG_LEN);
    CT_PUBLIC(ret_root->next.tag, ROUTE_TAG_LEN);
    sodium_memzero(prk, sizeof(prk));
    sodium_memzero(out, sizeof(out));
}

/* Both outputs have the same key: its two blocks are hashed once. */
void chain_step(struct work *w, uint8_t ck[KEY_LEN], uint8_t ret_mk[KEY_LEN])
{
    static const uint8_t message = 1, successor = 2;
    (void)crypto_auth_hmacsha256_init(&w->hmac_keyed, ck, KEY_LEN);
    w->hmac = w->hmac_keyed;
    (void)crypto_auth_hmacsha256_update(&w->hmac, &message, 1);
    (void)crypto_auth_hmacsha256_final(&w->hmac, ret_mk);
    (void)crypto_auth_hmacsha256_update(&w->hmac_keyed, &successor, 1);
    (void)crypto_auth_hmacsha256_final(&w->hmac_keyed, ck);
}

static size_t header_ad(const struct ratchet *r, uint8_t ret_ad[TH_AD_MAX])
{
    size_t at = put_label(ret_ad, LABEL_HEADER);
    memcpy(ret_ad + at, r->th, TRANSCRIPT_LEN);
    return at + TRANSCRIPT_LEN;
}

static size_t header_encode(const struct header *h, uint8_t ret_bytes[HEADER_MAX])
{
    struct buf b = buf_over(ret_bytes, HEADER_MAX);
    buf_u8(&b, (uint8_t)h->kem);
    buf_u8(&b, h->type);
    buf_u32(&b, h->index);
    buf_u32(&b, h->previous);
    buf_bytes(&b, h->ratchet_key, KEY_LEN);
    buf_bytes(&b, h->field.p, h->field.n);
    return b.len;
}

void header_seal(const struct ratchet *r, const struct chain_id *id, const struct header *h,
        const uint8_t nonce[NONCE_LEN], struct work *w, uint8_t *ret_sealed)
{
    uint8_t ad[TH_AD_MAX];
    size_t ad_len = header_ad(r, ad), n = header_encode(h, w->header);
    memcpy(ret_sealed, nonce, NONCE_LEN);
    (void)crypto_aead_xchacha20poly1305_ietf_encrypt(
            ret_sealed + NONCE_LEN, NULL, w->header, n, ad, ad_len, NULL, nonce, id->hk);
}

static bool header_decode(const uint8_t *p, size_t n, struct header *ret_header)
{
    struct cursor c;
    uint8_t flags;

    cursor_init(&c, p, n);
    flags = cursor_u8(&c);
    ret_header->type = cursor_u8(&c);
    ret_header->index = cursor_u32(&c);
    ret_header->previous = cursor_u32(&c);
    ret_header->ratchet_key = cursor_take(&c, KEY_LEN);
    if (flags > KEM_ANSWER)
        return false;
    ret_header->kem = (enum kem_kind)flags;
    ret_header->field.n = kem_field_len(ret_header->kem);
    ret_header->field.p = cursor_take(&c, ret_header->field.n);
    return cursor_end(&c) == WIRE_OK;
}

bool header_open(const struct ratchet *r, const struct chain_id *id, struct span sealed, struct work *w,
        struct header *ret_header)
{
    uint8_t ad[TH_AD_MAX];
    size_t ad_len = header_ad(r, ad), n = sealed.n - NONCE_LEN;
    int status = crypto_aead_xchacha20poly1305_ietf_decrypt(
            w->header, NULL, NULL, sealed.p + NONCE_LEN, n, ad, ad_len, sealed.p, id->hk);
    CT_PUBLIC(&status, sizeof(status));
    CT_PUBLIC(w->header, sizeof(w->header));
    return status == 0 && header_decode(w->header, n - TAG_LEN, ret_header);
}

void message_keys(const crypto_hash_sha256_state *ad, uint8_t type, struct span sealed_header,
        const uint8_t nonce[NONCE_LEN], struct work *w)
{
    const struct label_text *label = &label_table[LABEL_MESSAGE_KEY];
    struct hash h = {.state = *ad};

    hash_u8(&h, type);
    hash_lp(&h, sealed_header.p, sealed_header.n);
    hash_end(&h, w->ad_hash);
    (void)crypto_auth_hmacsha512_init(&w->hmac512, w->mk, KEY_LEN);
    (void)crypto_auth_hmacsha512_update(&w->hmac512, (const uint8_t *)label->text, label->n);
    (void)crypto_auth_hmacsha512_update(&w->hmac512, nonce, NONCE_LEN);
    (void)crypto_auth_hmacsha512_update(&w->hmac512, w->ad_hash, HASH_LEN);
    (void)crypto_auth_hmacsha512_final(&w->hmac512, w->keys);
}

bool body_open(const crypto_hash_sha256_state *ad, const struct envelope_view *view, uint8_t type,
        struct work *w, uint8_t *ret_plaintext)
{
    int com, tag;
    message_keys(ad, type, view->header, view->nonce, w);
    com = sodium_memcmp(view->com, w->keys + KEY_LEN, COM_LEN);
    tag = crypto_aead_xchacha20poly1305_ietf_decrypt(ret_plaintext, NULL, NULL, view->ciphertext.p,
            view->ciphertext.n, w->ad_hash, HASH_LEN, view->nonce, w->keys);
    CT_PUBLIC(&com, sizeof(com));
    CT_PUBLIC(&tag, sizeof(tag));
    return (com | tag) == 0;
}

static bool offer_due(const struct ratchet *r, uint64_t now_ms)
{
    bool late = now_ms > r->kem_ms && now_ms - r->kem_ms >= RATCHET_KEM_MS;
    return !r->has_offer && (late || r->kem_messages >= RATCHET_KEM_MESSAGES);
}

static int choose_field(
        const struct ratchet *r, uint64_t now_ms, const struct rng *rng, struct send_step *step)
{
    if (r->answer.pending) {
        step->field.kind = KEM_ANSWER;
        memcpy(step->field.bytes, r->answer.ct, MLKEM_CT_LEN);
        return 0;
    }
    if (!offer_due(r, now_ms))
        return 0;
    step->field.kind = KEM_OFFER;
    rng_fill(rng, step->offer_seed, MLKEM_SEED_LEN);
    return mlkem_keypair(step->offer_seed, step->field.bytes);
}

/* dhr was of use in the receiving step, and so is not of low order; an initiator's comes straight from the
 * bundle. */
static int compute_sending(struct ratchet *r, uint64_t now_ms, const struct rng *rng, struct send_step *step)
{
    size_t ikm_len = KEY_LEN;
    int status = choose_field(r, now_ms, rng, step);
    if (status)
        return status;
    rng_fill(rng, step->dhs, KEY_LEN);
    x25519_public(step->dhs, step->dhs_public);
    if (!x25519_agree(step->dhs, r->dhr, r->work.ikm))
        return RATCHET_BAD_PEER;
    if (step->field.kind == KEM_ANSWER) {
        memcpy(r->work.ikm + KEY_LEN, r->answer.ss, MLKEM_SS_LEN);
        ikm_len += MLKEM_SS_LEN;
    }
    root_step(r, ikm_len, step->field.kind, step->field.bytes, &step->root);
    return 0;
}

int sending_prepare(struct ratchet *r, uint64_t now_ms, const struct rng *rng)
{
    sodium_memzero(&r->send_step, sizeof(r->send_step));
    return compute_sending(r, now_ms, rng, &r->send_step);
}

void sending_abandon(struct ratchet *r)
{
    sodium_memzero(&r->send_step, sizeof(r->send_step));
}

static void adopt_field(struct ratchet *r, uint64_t now_ms, const struct send_step *step)
{
    r->field = step->field;
    if (step->field.kind == KEM_OFFER) {
        r->has_offer = true;
        memcpy(r->offer_seed, step->offer_seed, MLKEM_SEED_LEN);
    } else if (step->field.kind == KEM_ANSWER) {
        sodium_memzero(&r->answer, sizeof(r->answer));
        r->kem_ms = now_ms;
        r->kem_messages = 0;
    }
}

void sending_adopt(struct ratchet *r, uint64_t now_ms)
{
    const struct send_step *step = &r->send_step;
    memcpy(r->rk, step->root.rk, KEY_LEN);
    memcpy(r->dhs, step->dhs, KEY_LEN);
    memcpy(r->dhs_public, step->dhs_public, KEY_LEN);
    r->has_dhs = true;
    r->send.open = true;
    memcpy(r->send.ck, step->root.ck, KEY_LEN);
    r->send.id = r->next_send;
    r->send.n = 0;
    r->next_send = step->root.next;
    r->send_due = false;
    adopt_field(r, now_ms, step);
    sending_abandon(r);
}
