#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "seal.h"

#define STORAGE_LABEL "e2eed/1 storage"
#define RECORD_LABEL "e2eed/1 record"
#define PROBE_LABEL "e2eed/1 probe"

#define NONCE_LEN crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define TAG_LEN crypto_aead_xchacha20poly1305_ietf_ABYTES

_Static_assert(NONCE_LEN + TAG_LEN == SEAL_OVERHEAD, "the overhead is nonce and tag");
_Static_assert(sizeof(RECORD_LABEL) + 1 + STORE_MAX_KEY <= SEAL_MAX_AD, "the longest key fits");

struct seal_key {
    uint8_t key[crypto_aead_xchacha20poly1305_ietf_KEYBYTES];
    /* Scratch of the derivation; here so that it is secret memory, too. */
    uint8_t prk[crypto_auth_hmacsha256_BYTES];
    crypto_auth_hmacsha256_state hmac;
};

/* RFC 5869 with one output block: PRK = HMAC(0…0, storage key), key = HMAC(PRK, label ‖ 0 ‖ 0x01). */
static void derive(struct seal_key *k, const uint8_t *storage_key)
{
    static const uint8_t no_salt[crypto_auth_hmacsha256_BYTES];
    static const uint8_t info[] = STORAGE_LABEL "\0\x01";

    crypto_auth_hmacsha256_init(&k->hmac, no_salt, sizeof(no_salt));
    crypto_auth_hmacsha256_update(&k->hmac, storage_key, STORE_KEY_LEN);
    crypto_auth_hmacsha256_final(&k->hmac, k->prk);
    crypto_auth_hmacsha256_init(&k->hmac, k->prk, sizeof(k->prk));
    crypto_auth_hmacsha256_update(&k->hmac, info, sizeof(info) - 1);
    crypto_auth_hmacsha256_final(&k->hmac, k->key);
    sodium_memzero(k->prk, sizeof(k->prk));
    sodium_memzero(&k->hmac, sizeof(k->hmac));
}

int seal_key_new(const uint8_t storage_key[STORE_KEY_LEN], struct seal_key **ret_key)
{
    struct seal_key *k = sodium_malloc(sizeof(*k));

    if (!k)
        return -ENOMEM;
    derive(k, storage_key);
    (void)sodium_mprotect_readonly(k);
    *ret_key = k;
    return 0;
}

void seal_key_free(struct seal_key *k)
{
    sodium_free(k);
}

static void ad_start(struct seal_ad *ad, const char *label, size_t size)
{
    memcpy(ad->data, label, size);
    ad->len = size;
}

void seal_ad_record(struct seal_ad *ad, uint8_t map, const void *key, size_t key_len)
{
    ad_start(ad, RECORD_LABEL, sizeof(RECORD_LABEL));
    ad->data[ad->len++] = map;
    if (key_len > 0)
        memcpy(ad->data + ad->len, key, key_len);
    ad->len += key_len;
}

void seal_ad_probe(struct seal_ad *ad)
{
    ad_start(ad, PROBE_LABEL, sizeof(PROBE_LABEL));
}

int seal(const struct seal_key *k, const struct seal_ad *ad, const void *value, size_t n, struct buf *sealed)
{
    uint8_t *out;

    buf_reset(sealed);
    out = buf_reserve(sealed, n + SEAL_OVERHEAD);
    if (!out)
        return buf_status(sealed);
    randombytes_buf(out, NONCE_LEN);
    (void)crypto_aead_xchacha20poly1305_ietf_encrypt(
            out + NONCE_LEN, NULL, value, n, ad->data, ad->len, NULL, out, k->key);
    return 0;
}

int unseal(const struct seal_key *k, const struct seal_ad *ad, const uint8_t *sealed, size_t n,
        struct buf *value)
{
    uint8_t *out;
    int status;

    buf_reset(value);
    if (n < SEAL_OVERHEAD)
        return SEAL_BROKEN;
    out = buf_reserve(value, n - SEAL_OVERHEAD);
    if (!out) {
        status = buf_status(value);
        buf_reset(value);
        return status;
    }
    if (crypto_aead_xchacha20poly1305_ietf_decrypt(
                out, NULL, NULL, sealed + NONCE_LEN, n - NONCE_LEN, ad->data, ad->len, sealed, k->key) != 0) {
        buf_reset(value);
        return SEAL_BROKEN;
    }
    return 0;
}
