#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "identity_keys.h"
#include "prekey_body.h"

#define RECORD_VERSION 1
#define BODY_VERSION 1
#define SUITE 1u

void prekey_body(const struct prekey_secret *k, const struct address *owner, struct buf *body)
{
    buf_u8(body, BODY_VERSION);
    buf_bytes(body, owner->uid, UID_LEN);
    buf_u32(body, owner->device);
    if (!k->one_time) {
        buf_u64(body, k->list_n);
        buf_u16(body, k->suite);
    }
    buf_u32(body, k->id);
    buf_bytes(body, k->x25519_public, KEY_LEN);
    buf_bytes(body, k->mlkem_public, MLKEM_PK_LEN);
    if (!k->one_time) {
        buf_u64(body, k->not_before_ms);
        buf_u64(body, k->not_after_ms);
    }
}

void bundle_hash(struct span signed_body, struct span one_time_body, uint8_t ret_hash[HASH_LEN])
{
    struct hash h;
    hash_begin(&h, LABEL_BUNDLE);
    hash_lp(&h, signed_body.p, signed_body.n);
    hash_lp(&h, one_time_body.p, one_time_body.n);
    hash_end(&h, ret_hash);
}

static enum label label_of(bool one_time)
{
    return one_time ? LABEL_ONE_TIME_PREKEY : LABEL_SIGNED_PREKEY;
}

static void put_record(const struct identity *id, const struct prekey_secret *k, struct buf *record)
{
    uint8_t bytes[PREKEY_BODY_MAX], signature[SIGNATURE_LEN];
    struct buf body = buf_over(bytes, sizeof(bytes));

    prekey_body(k, identity_address(id), &body);
    identity_sign(id, label_of(k->one_time), (struct span){body.data, body.len}, signature);
    buf_lp(record, body.data, body.len);
    buf_bytes(record, signature, sizeof(signature));
}

/* Draws the keys of *k, whose other fields the caller has filled, in place. */
static int make(const struct identity *id, const struct rng *rng, struct prekey_secret *k, struct buf *record)
{
    int status;

    if (k->id == 0)
        return -EINVAL;
    rng_fill(rng, k->x25519, sizeof(k->x25519));
    x25519_public(k->x25519, k->x25519_public);
    rng_fill(rng, k->mlkem_seed, sizeof(k->mlkem_seed));
    status = mlkem_keypair(k->mlkem_seed, k->mlkem_public);
    if (status == 0) {
        put_record(id, k, record);
        status = buf_status(record);
    }
    if (status)
        sodium_memzero(k, sizeof(*k));
    return status;
}

int prekey_make_signed(const struct identity *id, uint32_t prekey_id, uint64_t now_ms, const struct rng *rng,
        struct prekey_secret *ret_secret, struct buf *record)
{
    *ret_secret = (struct prekey_secret){
            .id = prekey_id,
            .list_n = identity_list(id)->n,
            .suite = SUITE,
            .not_before_ms = now_ms,
            .not_after_ms = now_ms + PREKEY_VALID_MS,
    };
    return make(id, rng, ret_secret, record);
}

int prekey_make_one_time(const struct identity *id, uint32_t prekey_id, const struct rng *rng,
        struct prekey_secret *ret_secret, struct buf *record)
{
    *ret_secret = (struct prekey_secret){.one_time = true, .id = prekey_id};
    return make(id, rng, ret_secret, record);
}

void prekey_save(const struct prekey_secret *k, struct buf *secret)
{
    buf_u8(secret, RECORD_VERSION);
    buf_u8(secret, k->one_time);
    buf_u32(secret, k->id);
    buf_u64(secret, k->list_n);
    buf_u16(secret, k->suite);
    buf_u64(secret, k->not_before_ms);
    buf_u64(secret, k->not_after_ms);
    buf_bytes(secret, k->x25519, sizeof(k->x25519));
    buf_bytes(secret, k->x25519_public, sizeof(k->x25519_public));
    buf_bytes(secret, k->mlkem_seed, sizeof(k->mlkem_seed));
    buf_bytes(secret, k->mlkem_public, sizeof(k->mlkem_public));
}

#define RECORD_LEN (1 + 1 + 4 + 8 + 2 + 8 + 8 + 32 + 32 + MLKEM_SEED_LEN + MLKEM_PK_LEN)

int prekey_load(const void *p, size_t n, struct prekey_secret *ret_secret)
{
    struct cursor c;
    uint8_t one_time;

    cursor_init(&c, p, n);
    if (n != RECORD_LEN || cursor_u8(&c) != RECORD_VERSION)
        return PREKEY_MALFORMED;
    one_time = cursor_u8(&c);
    if (one_time > 1)
        return PREKEY_MALFORMED;
    ret_secret->one_time = one_time;
    ret_secret->id = cursor_u32(&c);
    ret_secret->list_n = cursor_u64(&c);
    ret_secret->suite = cursor_u16(&c);
    ret_secret->not_before_ms = cursor_u64(&c);
    ret_secret->not_after_ms = cursor_u64(&c);
    cursor_copy(&c, ret_secret->x25519, sizeof(ret_secret->x25519));
    cursor_copy(&c, ret_secret->x25519_public, sizeof(ret_secret->x25519_public));
    cursor_copy(&c, ret_secret->mlkem_seed, sizeof(ret_secret->mlkem_seed));
    cursor_copy(&c, ret_secret->mlkem_public, sizeof(ret_secret->mlkem_public));
    return 0;
}

static int check_owner(const struct device *peer, const struct prekey_record *r)
{
    bool own = memcmp(r->uid, peer->address.uid, UID_LEN) == 0 && r->device == peer->address.device;
    return own && r->list_n <= peer->list_n ? 0 : PREKEY_WRONG_OWNER;
}

static int check_validity(const struct prekey_record *r, uint64_t now_ms)
{
    if (r->not_after_ms < r->not_before_ms || r->not_after_ms - r->not_before_ms > PREKEY_VALID_MS)
        return PREKEY_MALFORMED;
    if (r->not_before_ms > now_ms && r->not_before_ms - now_ms > PREKEY_SKEW_MS)
        return PREKEY_EXPIRED;
    return now_ms <= r->not_after_ms ? 0 : PREKEY_EXPIRED;
}

static int check_record(const struct device *peer, enum label label, const struct prekey_record *r)
{
    int status = check_owner(peer, r);
    if (status)
        return status;
    return label_verify(label, r->body.p, r->body.n, peer->dsk, r->signature) ? 0 : PREKEY_BAD_SIGNATURE;
}

static int check_signed(const struct device *peer, const struct prekey_record *r, uint64_t now_ms)
{
    int status = check_record(peer, LABEL_SIGNED_PREKEY, r);
    if (status)
        return status;
    if (r->suite != SUITE)
        return PREKEY_NO_SUITE;
    return check_validity(r, now_ms);
}

int bundle_verify(const struct device *peer, struct span signed_prekey, struct span one_time, uint64_t now_ms,
        struct bundle *ret_bundle)
{
    struct bundle b = {.has_one_time = one_time.n > 0};
    int status;

    if (prekey_parse_signed(signed_prekey.p, signed_prekey.n, &b.signed_prekey) != WIRE_OK)
        return PREKEY_MALFORMED;
    if (b.has_one_time && prekey_parse_one_time(one_time.p, one_time.n, &b.one_time) != WIRE_OK)
        return PREKEY_MALFORMED;
    status = check_signed(peer, &b.signed_prekey, now_ms);
    if (status == 0 && b.has_one_time)
        status = check_record(peer, LABEL_ONE_TIME_PREKEY, &b.one_time);
    if (status)
        return status;
    bundle_hash(b.signed_prekey.body, b.one_time.body, b.hash);
    *ret_bundle = b;
    return 0;
}
