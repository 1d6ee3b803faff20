/*
 * Records at rest: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with a random nonce. A sealed value is
 * nonce[24] ‖ ciphertext ‖ tag[16]; its associated data say which record it is, so that sealed values cannot
 * change places.
 *
 *     key           = HKDF-SHA-256(no salt, storage key, "e2eed/1 storage" ‖ 0), 32 bytes
 *     AD of records = "e2eed/1 record" ‖ 0 ‖ u8 map ‖ key
 *     AD of probe   = "e2eed/1 probe" ‖ 0
 */
#ifndef E2EE_SEAL_H
#define E2EE_SEAL_H

#include "base.h"
#include "store.h"

#define SEAL_OVERHEAD 40u
#define SEAL_MAX_AD (16u + STORE_MAX_KEY)

/* Positive results. */
enum seal_status {
    SEAL_BROKEN = 1, /* changed, moved, or sealed under another key */
};

struct seal_ad {
    uint8_t data[SEAL_MAX_AD];
    size_t len;
};

/* key_len <= STORE_MAX_KEY. */
void seal_ad_record(struct seal_ad *ad, uint8_t map, const void *key, size_t key_len);
void seal_ad_probe(struct seal_ad *ad);

/* The derived key, in secret memory. Needs sodium_init(). */
struct seal_key;
int seal_key_new(const uint8_t storage_key[STORE_KEY_LEN], struct seal_key **ret_key) MUST_USE;
void seal_key_free(struct seal_key *k);

/* Overwrites sealed. 0, or -ENOMEM or -EMSGSIZE where the buffer cannot hold n + SEAL_OVERHEAD bytes. */
int seal(const struct seal_key *k, const struct seal_ad *ad, const void *value, size_t n,
        struct buf *sealed) MUST_USE;
/* Overwrites value; it is empty where the result is not 0. */
int unseal(const struct seal_key *k, const struct seal_ad *ad, const uint8_t *sealed, size_t n,
        struct buf *value) MUST_USE;

#endif
