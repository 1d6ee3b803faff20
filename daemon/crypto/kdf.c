#include <assert.h>
#include <errno.h>
#include <string.h>

#include "ct.h"
#include "kdf.h"

static void store_le(uint8_t *out, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(v >> (8 * i));
}

static void hash_le(struct hash *h, uint64_t v, size_t n)
{
    uint8_t bytes[8];
    store_le(bytes, v, n);
    (void)crypto_hash_sha256_update(&h->state, bytes, n);
}

void hash_begin(struct hash *h, enum label label)
{
    (void)crypto_hash_sha256_init(&h->state);
    hash_bytes(h, label_table[label].text, label_table[label].n);
}

void hash_u8(struct hash *h, uint8_t v)
{
    hash_le(h, v, 1);
}

void hash_u16(struct hash *h, uint16_t v)
{
    hash_le(h, v, 2);
}

void hash_u32(struct hash *h, uint32_t v)
{
    hash_le(h, v, 4);
}

void hash_u64(struct hash *h, uint64_t v)
{
    hash_le(h, v, 8);
}

void hash_bytes(struct hash *h, const void *p, size_t n)
{
    if (n > 0)
        (void)crypto_hash_sha256_update(&h->state, p, n);
}

void hash_lp(struct hash *h, const void *p, size_t n)
{
    hash_u32(h, (uint32_t)n);
    hash_bytes(h, p, n);
}

void hash_end(struct hash *h, uint8_t ret_digest[HASH_LEN])
{
    (void)crypto_hash_sha256_final(&h->state, ret_digest);
}

void hmac_sha256(const uint8_t *key, size_t key_len, const uint8_t *in, size_t n, uint8_t ret_mac[HASH_LEN])
{
    crypto_auth_hmacsha256_state st;
    (void)crypto_auth_hmacsha256_init(&st, key, key_len);
    (void)crypto_auth_hmacsha256_update(&st, in, n);
    (void)crypto_auth_hmacsha256_final(&st, ret_mac);
    sodium_memzero(&st, sizeof(st));
}

/* RFC 5869 takes an absent salt as 32 zero bytes, which HMAC makes of an empty key by itself. */
void hkdf_extract(
        const uint8_t *salt, size_t salt_len, const uint8_t *ikm, size_t n, uint8_t ret_prk[HASH_LEN])
{
    hmac_sha256(salt, salt_len, ikm, n, ret_prk);
}

int hkdf_expand(const uint8_t prk[HASH_LEN], const uint8_t *info, size_t info_len, uint8_t *ret_out, size_t n)
{
    crypto_auth_hmacsha256_state keyed, st;
    uint8_t block[HASH_LEN];

    if (n > HKDF_MAX_OUTPUT)
        return -EMSGSIZE;
    (void)crypto_auth_hmacsha256_init(&keyed, prk, HASH_LEN);
    for (size_t at = 0, i = 1; at < n; at += HASH_LEN, i++) {
        uint8_t counter = (uint8_t)i;
        st = keyed;
        if (at > 0)
            (void)crypto_auth_hmacsha256_update(&st, block, sizeof(block));
        if (info_len > 0)
            (void)crypto_auth_hmacsha256_update(&st, info, info_len);
        (void)crypto_auth_hmacsha256_update(&st, &counter, 1);
        (void)crypto_auth_hmacsha256_final(&st, block);
        memcpy(ret_out + at, block, n - at < HASH_LEN ? n - at : HASH_LEN);
    }
    sodium_memzero(&keyed, sizeof(keyed));
    sodium_memzero(&st, sizeof(st));
    sodium_memzero(block, sizeof(block));
    return 0;
}

bool x25519_agree(const uint8_t secret[KEY_LEN], const uint8_t public[KEY_LEN], uint8_t ret_shared[KEY_LEN])
{
    uint8_t shared[KEY_LEN];
    bool ok = crypto_scalarmult(shared, secret, public) == 0;
    CT_PUBLIC(&ok, sizeof(ok));
    if (ok)
        memcpy(ret_shared, shared, KEY_LEN);
    sodium_memzero(shared, sizeof(shared));
    return ok;
}

void x25519_public(const uint8_t secret[KEY_LEN], uint8_t ret_public[KEY_LEN])
{
    /* Cannot fail: the base point is not of low order, and the scalar is clamped. */
    int status = crypto_scalarmult_base(ret_public, secret);
    assert(status == 0);
    (void)status;
}

static size_t signed_bytes(
        enum label label, const void *body, size_t n, uint8_t ret_bytes[LABEL_MAX + SIGNED_MAX])
{
    size_t at = label_table[label].n;
    memcpy(ret_bytes, label_table[label].text, at);
    memcpy(ret_bytes + at, body, n);
    return at + n;
}

void label_sign(enum label label, const void *body, size_t n, const uint8_t secret[64],
        uint8_t ret_signature[SIGNATURE_LEN])
{
    uint8_t bytes[LABEL_MAX + SIGNED_MAX];
    assert(n <= SIGNED_MAX);
    n = signed_bytes(label, body, n, bytes);
    (void)crypto_sign_detached(ret_signature, NULL, bytes, n, secret);
}

bool label_verify(enum label label, const void *body, size_t n, const uint8_t public[KEY_LEN],
        const uint8_t signature[SIGNATURE_LEN])
{
    uint8_t bytes[LABEL_MAX + SIGNED_MAX];
    if (n > SIGNED_MAX)
        return false;
    n = signed_bytes(label, body, n, bytes);
    return crypto_sign_verify_detached(signature, bytes, n, public) == 0;
}
