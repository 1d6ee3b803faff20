/*
 * Hashes, MACs and key derivation as section 1 of docs/PROTOCOL.md names them: SHA-256 over a label and
 * fields, HKDF-SHA-256 (RFC 5869), labelled Ed25519 signatures, X25519 with its check. Working copies of
 * secrets are wiped.
 */
#ifndef E2EE_KDF_H
#define E2EE_KDF_H

#include <sodium.h>

#include "buf.h"
#include "labels.h"

#define HASH_LEN 32
#define KEY_LEN 32
#define SIGNATURE_LEN 64
#define HKDF_MAX_OUTPUT (255u * HASH_LEN)

/* A buffer over memory of fixed size that somebody else owns: never grows, must not be released. */
static inline struct buf buf_over(void *memory, size_t n)
{
    return (struct buf){.data = memory, .cap = n, .max = n};
}

/* SHA-256 over a label and fields. */
struct hash {
    crypto_hash_sha256_state state;
};
void hash_begin(struct hash *h, enum label label);
void hash_u8(struct hash *h, uint8_t v);
void hash_u16(struct hash *h, uint16_t v);
void hash_u32(struct hash *h, uint32_t v);
void hash_u64(struct hash *h, uint64_t v);
void hash_bytes(struct hash *h, const void *p, size_t n);
void hash_lp(struct hash *h, const void *p, size_t n);
void hash_end(struct hash *h, uint8_t ret_digest[HASH_LEN]);

void hmac_sha256(const uint8_t *key, size_t key_len, const uint8_t *in, size_t n, uint8_t ret_mac[HASH_LEN]);
void hkdf_extract(
        const uint8_t *salt, size_t salt_len, const uint8_t *ikm, size_t n, uint8_t ret_prk[HASH_LEN]);
/* -EMSGSIZE over HKDF_MAX_OUTPUT bytes, the only failure: where n is a constant there is nothing to check. */
int hkdf_expand(
        const uint8_t prk[HASH_LEN], const uint8_t *info, size_t info_len, uint8_t *ret_out, size_t n);

/* False, and nothing in *ret_shared, where the result is all zero (a point of low order). */
bool x25519_agree(
        const uint8_t secret[KEY_LEN], const uint8_t public[KEY_LEN], uint8_t ret_shared[KEY_LEN]) MUST_USE;
void x25519_public(const uint8_t secret[KEY_LEN], uint8_t ret_public[KEY_LEN]);

/* Signatures over label ‖ 0 ‖ body; body is at most SIGNED_MAX bytes (longer: asserted when signing, false
 * when verifying). */
#define SIGNED_MAX 8192u
void label_sign(enum label label, const void *body, size_t n, const uint8_t secret[64],
        uint8_t ret_signature[SIGNATURE_LEN]);
bool label_verify(enum label label, const void *body, size_t n, const uint8_t public[KEY_LEN],
        const uint8_t signature[SIGNATURE_LEN]) MUST_USE;

#endif
