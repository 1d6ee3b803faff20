#include <errno.h>
#include <string.h>

#include "identity_keys.h"
#include "prekey_body.h"
#include "ratchet_impl.h"

#define KEM_OF_SIGNED 1
#define KEM_OF_ONE_TIME 2
/* RK ‖ HK_A ‖ tag_A ‖ NHK_B ‖ tag_B */
#define OUTPUT_LEN (3 * KEY_LEN + 2 * ROUTE_TAG_LEN)
#define IKM_LEN_MAX (6 * KEY_LEN)

/* What the transcript covers; pointers live as long as the call. */
struct transcript {
    const struct device *a, *b;
    uint16_t suite;
    uint64_t session_number;
    const uint8_t *ek;
    uint32_t signed_prekey_id, one_time_id;
    const uint8_t *spk, *otk; /* otk NULL: none */
    const uint8_t *kem, *ct;
    const uint8_t *bundle_hash;
};

/* The highest suite in both lists; 0 if there is none. */
static uint16_t choose_suite(const struct device *a, const struct device *b)
{
    uint16_t best = 0;
    for (size_t i = 0; i < a->suites; i++)
        for (size_t j = 0; j < b->suites; j++)
            if (a->suite[i] == b->suite[j] && a->suite[i] > best)
                best = a->suite[i];
    return best;
}

static void hash_address(struct hash *h, const struct address *a)
{
    hash_bytes(h, a->uid, UID_LEN);
    hash_u32(h, a->device);
}

static void hash_suites(struct hash *h, const struct device *d)
{
    hash_u32(h, (uint32_t)d->suites * 2);
    for (size_t i = 0; i < d->suites; i++)
        hash_u16(h, d->suite[i]);
}

static void hash_transcript(const struct transcript *t, uint8_t ret_th[TRANSCRIPT_LEN])
{
    struct hash h;
    hash_begin(&h, LABEL_TRANSCRIPT);
    hash_address(&h, &t->a->address);
    hash_address(&h, &t->b->address);
    hash_bytes(&h, t->a->hash, DEVICE_HASH_LEN);
    hash_bytes(&h, t->b->hash, DEVICE_HASH_LEN);
    hash_bytes(&h, t->a->dhk, KEY_LEN);
    hash_bytes(&h, t->b->dhk, KEY_LEN);
    hash_suites(&h, t->a);
    hash_suites(&h, t->b);
    hash_u16(&h, t->suite);
    hash_u64(&h, t->session_number);
    hash_bytes(&h, t->ek, KEY_LEN);
    hash_u32(&h, t->signed_prekey_id);
    hash_bytes(&h, t->spk, KEY_LEN);
    hash_u32(&h, t->one_time_id);
    hash_lp(&h, t->otk, t->otk ? KEY_LEN : 0);
    hash_u8(&h, t->otk ? KEM_OF_ONE_TIME : KEM_OF_SIGNED);
    hash_u32(&h, t->otk ? t->one_time_id : t->signed_prekey_id);
    hash_bytes(&h, t->kem, MLKEM_PK_LEN);
    hash_bytes(&h, t->ct, MLKEM_CT_LEN);
    hash_bytes(&h, t->bundle_hash, HASH_LEN);
    hash_end(&h, ret_th);
}

/* The key schedule of section 4. work.ikm holds DH1 to DH3 or DH4 behind the first 32 bytes, and ss behind
 * them. */
static void derive(struct ratchet *r, size_t agreements, struct chain_id *ret_a, struct chain_id *ret_b)
{
    static const uint8_t salt[HASH_LEN];
    uint8_t info[LABEL_MAX + TRANSCRIPT_LEN], prk[HASH_LEN], out[OUTPUT_LEN];
    const struct label_text *label = &label_table[LABEL_HANDSHAKE];
    struct cursor c;

    memset(r->work.ikm, 0xff, KEY_LEN);
    memcpy(info, label->text, label->n);
    memcpy(info + label->n, r->th, TRANSCRIPT_LEN);
    hkdf_extract(salt, sizeof(salt), r->work.ikm, (agreements + 2) * KEY_LEN, prk);
    (void)hkdf_expand(prk, info, label->n + TRANSCRIPT_LEN, out, sizeof(out));
    cursor_init(&c, out, sizeof(out));
    cursor_copy(&c, r->rk, KEY_LEN);
    cursor_copy(&c, ret_a->hk, KEY_LEN);
    cursor_copy(&c, ret_a->tag, ROUTE_TAG_LEN);
    cursor_copy(&c, ret_b->hk, KEY_LEN);
    cursor_copy(&c, ret_b->tag, ROUTE_TAG_LEN);
    CT_PUBLIC(ret_a->tag, ROUTE_TAG_LEN);
    CT_PUBLIC(ret_b->tag, ROUTE_TAG_LEN);
    sodium_memzero(prk, sizeof(prk));
    sodium_memzero(out, sizeof(out));
}

static uint8_t *agreement(struct ratchet *r, size_t i)
{
    return r->work.ikm + i * KEY_LEN;
}

static void hash_handshake(struct ratchet *r, struct span header)
{
    struct hash h;
    hash_begin(&h, LABEL_HANDSHAKE_HEADER);
    hash_bytes(&h, header.p, header.n);
    hash_end(&h, r->handshake_hash);
}

static int keep_handshake(struct ratchet *r, const struct transcript *t, struct span entry)
{
    struct buf b;
    buf_init(&b, ENVELOPE_MAX_BODY);
    buf_u16(&b, t->suite);
    buf_u32(&b, t->a->address.device);
    buf_u64(&b, t->session_number);
    buf_bytes(&b, t->ek, KEY_LEN);
    buf_u32(&b, t->signed_prekey_id);
    buf_u32(&b, t->one_time_id);
    buf_bytes(&b, t->ct, MLKEM_CT_LEN);
    buf_lp(&b, entry.p, entry.n);
    if (buf_status(&b)) {
        int status = buf_status(&b);
        buf_done(&b);
        return status;
    }
    r->handshake = b.data; /* taken over */
    r->handshake_len = b.len;
    return 0;
}

static void set_common(struct ratchet *r, const struct device *me, const struct device *peer, uint64_t now_ms)
{
    r->suite = SUITE_1;
    r->me = me->address;
    r->peer = peer->address;
    r->kem_ms = now_ms;
}

/* DH1 to DH4 from the initiator's side; ek is its secret. */
static bool agree_initiator(struct ratchet *r, const struct identity *me, const struct device *peer,
        const struct bundle *bundle, const uint8_t ek[KEY_LEN])
{
    const uint8_t *spk = bundle->signed_prekey.x25519;
    return identity_agree(me, spk, agreement(r, 1)) && x25519_agree(ek, peer->dhk, agreement(r, 2)) &&
           x25519_agree(ek, spk, agreement(r, 3)) &&
           (!bundle->has_one_time || x25519_agree(ek, bundle->one_time.x25519, agreement(r, 4)));
}

static int encapsulate(struct ratchet *r, const uint8_t *kem, size_t agreements, const struct rng *rng,
        uint8_t ret_ct[MLKEM_CT_LEN])
{
    uint8_t coins[MLKEM_ENC_RAND_LEN];
    int status;

    rng_fill(rng, coins, sizeof(coins));
    status = mlkem_encaps(kem, coins, ret_ct, agreement(r, agreements + 1));
    sodium_memzero(coins, sizeof(coins));
    return status <= 0 ? status : RATCHET_BAD_PEER;
}

static int initiate(struct ratchet *r, const struct identity *me, const struct bundle *bundle,
        const struct transcript *t, uint8_t ct[MLKEM_CT_LEN], uint64_t now_ms, const struct rng *rng)
{
    size_t agreements = bundle->has_one_time ? 4 : 3;
    int status;

    if (!agree_initiator(r, me, t->b, bundle, r->dhs))
        return RATCHET_BAD_PEER;
    status = encapsulate(r, t->kem, agreements, rng, ct);
    if (status)
        return status;
    hash_transcript(t, r->th);
    status = keep_handshake(r, t, identity_entry(me));
    if (status)
        return status;
    derive(r, agreements, &r->next_send, &r->next_receive);
    memcpy(r->dhr, t->spk, KEY_LEN);
    r->has_dhr = true;
    ratchet_derive_ad(r);
    status = sending_prepare(r, now_ms, rng);
    if (status == 0)
        sending_adopt(r, now_ms);
    return status;
}

static int finish(struct ratchet *r, int status, struct ratchet **ret_ratchet)
{
    sodium_memzero(&r->work, sizeof(r->work));
    if (status)
        ratchet_free(r);
    else
        *ret_ratchet = r;
    return status;
}

/* A device has no session with itself, which would also be what a reflected message asks for. */
static bool is_self(const struct identity *me, const struct device *peer)
{
    return memcmp(identity_address(me)->uid, peer->address.uid, UID_LEN) == 0 &&
           identity_address(me)->device == peer->address.device;
}

int ratchet_initiate(const struct identity *me, const struct device *peer, const struct bundle *bundle,
        uint64_t session_number, uint64_t now_ms, const struct rng *rng, struct ratchet **ret_ratchet)
{
    uint8_t ek_public[KEY_LEN], ct[MLKEM_CT_LEN];
    struct transcript t = {
            .a = identity_device(me),
            .b = peer,
            .suite = choose_suite(identity_device(me), peer),
            .session_number = session_number,
            .ek = ek_public,
            .signed_prekey_id = bundle->signed_prekey.id,
            .one_time_id = bundle->has_one_time ? bundle->one_time.id : 0,
            .spk = bundle->signed_prekey.x25519,
            .otk = bundle->has_one_time ? bundle->one_time.x25519 : NULL,
            .kem = bundle->has_one_time ? bundle->one_time.mlkem : bundle->signed_prekey.mlkem,
            .ct = ct,
            .bundle_hash = bundle->hash,
    };
    struct ratchet *r;
    int status;

    if (t.suite != SUITE_1 || bundle->signed_prekey.suite != SUITE_1 || is_self(me, peer))
        return RATCHET_BAD_PEER;
    r = ratchet_allocate();
    if (!r)
        return -ENOMEM;
    r->initiator = true;
    r->one_time = bundle->has_one_time;
    r->session_number = session_number;
    set_common(r, t.a, t.b, now_ms);
    /* The first sending chain's key pair is drawn by sending_prepare(); until then its place holds EK. */
    rng_fill(rng, r->dhs, KEY_LEN);
    x25519_public(r->dhs, ek_public);
    status = initiate(r, me, bundle, &t, ct, now_ms, rng);
    return finish(r, status, ret_ratchet);
}

static bool names_prekeys(const struct envelope_view *view, const struct prekey_secret *signed_prekey,
        const struct prekey_secret *one_time)
{
    if (signed_prekey->one_time || signed_prekey->id != view->signed_prekey_id ||
            signed_prekey->suite != SUITE_1)
        return false;
    if (!one_time)
        return view->one_time_id == 0;
    return one_time->one_time && one_time->id == view->one_time_id;
}

static bool agree_responder(struct ratchet *r, const struct identity *me, const struct device *peer,
        const uint8_t *ek, const struct prekey_secret *signed_prekey, const struct prekey_secret *one_time)
{
    return x25519_agree(signed_prekey->x25519, peer->dhk, agreement(r, 1)) &&
           identity_agree(me, ek, agreement(r, 2)) &&
           x25519_agree(signed_prekey->x25519, ek, agreement(r, 3)) &&
           (!one_time || x25519_agree(one_time->x25519, ek, agreement(r, 4)));
}

static void hash_own_bundle(const struct identity *me, const struct prekey_secret *signed_prekey,
        const struct prekey_secret *one_time, uint8_t ret_hash[HASH_LEN])
{
    uint8_t bytes[2][PREKEY_BODY_MAX];
    struct buf a = buf_over(bytes[0], PREKEY_BODY_MAX), b = buf_over(bytes[1], PREKEY_BODY_MAX);

    prekey_body(signed_prekey, identity_address(me), &a);
    if (one_time)
        prekey_body(one_time, identity_address(me), &b);
    bundle_hash((struct span){a.data, a.len}, (struct span){b.data, b.len}, ret_hash);
}

static int respond(struct ratchet *r, const struct identity *me, const struct transcript *t,
        const struct prekey_secret *signed_prekey, const struct prekey_secret *one_time)
{
    const struct prekey_secret *kem = one_time ? one_time : signed_prekey;
    size_t agreements = one_time ? 4 : 3;
    int status;

    if (!agree_responder(r, me, t->a, t->ek, signed_prekey, one_time))
        return RATCHET_BAD_PEER;
    status = mlkem_decaps(kem->mlkem_seed, t->ct, agreement(r, agreements + 1));
    if (status)
        return status < 0 ? status : RATCHET_FAILED;
    hash_transcript(t, r->th);
    derive(r, agreements, &r->next_receive, &r->next_send);
    memcpy(r->dhs, signed_prekey->x25519, KEY_LEN);
    memcpy(r->dhs_public, signed_prekey->x25519_public, KEY_LEN);
    r->has_dhs = true;
    ratchet_derive_ad(r);
    return 0;
}

int ratchet_respond(const struct identity *me, const struct device *peer, const struct envelope_view *view,
        const struct prekey_secret *signed_prekey, const struct prekey_secret *one_time, uint64_t now_ms,
        struct ratchet **ret_ratchet)
{
    uint8_t hash[HASH_LEN];
    struct transcript t = {
            .a = peer,
            .b = identity_device(me),
            .suite = choose_suite(peer, identity_device(me)),
            .session_number = view->session_number,
            .ek = view->ek,
            .signed_prekey_id = view->signed_prekey_id,
            .one_time_id = view->one_time_id,
            .spk = signed_prekey->x25519_public,
            .otk = one_time ? one_time->x25519_public : NULL,
            .kem = one_time ? one_time->mlkem_public : signed_prekey->mlkem_public,
            .ct = view->kem_ct,
            .bundle_hash = hash,
    };
    struct ratchet *r;

    if (!view->has_handshake || !names_prekeys(view, signed_prekey, one_time) || is_self(me, peer) ||
            view->sender_device != peer->address.device)
        return RATCHET_FAILED;
    if (t.suite != SUITE_1 || view->suite != t.suite)
        return RATCHET_BAD_PEER;
    r = ratchet_allocate();
    if (!r)
        return -ENOMEM;
    r->one_time = one_time != NULL;
    r->session_number = view->session_number;
    set_common(r, t.b, peer, now_ms);
    hash_handshake(r, view->handshake);
    hash_own_bundle(me, signed_prekey, one_time, hash);
    return finish(r, respond(r, me, &t, signed_prekey, one_time), ret_ratchet);
}
