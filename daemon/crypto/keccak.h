/*
 * SHA3-256, SHA3-512, SHAKE128 and SHAKE256 (FIPS 202), which libsodium 1.0.18 lacks. Only ML-KEM uses them
 * here.
 *
 * The running time depends on lengths alone, never on the bytes. Nothing allocates and nothing can fail.
 * Inputs may be NULL where their length is 0; inputs and outputs may overlap in the one-shot functions only.
 */
#ifndef E2EE_KECCAK_H
#define E2EE_KECCAK_H

#include <stddef.h>
#include <stdint.h>

#define SHA3_256_LEN 32
#define SHA3_512_LEN 64
#define SHAKE128_RATE 168
#define SHAKE256_RATE 136

enum keccak_kind { KECCAK_SHA3_256, KECCAK_SHA3_512, KECCAK_SHAKE128, KECCAK_SHAKE256 };

/* Plain data of the caller; the fields are private to keccak.c. */
struct keccak {
    uint64_t lane[25];
    uint32_t rate, pos;
    uint8_t suffix; /* domain bits still to be absorbed; 0 once squeezing has begun */
};

/* Absorb any number of pieces, then squeeze any number of pieces; absorbing after squeezing is a fault of the
 * caller (asserted). A SHA3 digest is squeezed exactly once, at its full length. */
void keccak_init(struct keccak *k, enum keccak_kind kind);
void keccak_absorb(struct keccak *k, const void *in, size_t n);
void keccak_squeeze(struct keccak *k, void *ret_out, size_t n);
/* Overwrites the state; due after every use on a secret. */
void keccak_wipe(struct keccak *k);

/* One-shot forms; they wipe after themselves. */
void sha3_256(const void *in, size_t n, uint8_t ret_digest[SHA3_256_LEN]);
void sha3_512(const void *in, size_t n, uint8_t ret_digest[SHA3_512_LEN]);

#endif
