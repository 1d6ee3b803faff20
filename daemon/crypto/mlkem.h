/*
 * ML-KEM-768, the key encapsulation of FIPS 203.
 *
 * A private key is its 64-byte seed d || z, and only that is ever stored; it is expanded for each use. All
 * functions are deterministic: the caller brings the randomness, fresh and uniform from a cryptographic
 * generator for every key and every encapsulation, and wipes seeds and shared secrets when done with them.
 *
 * All buffers belong to the caller and have the exact lengths below; outputs must not overlap inputs. Every
 * int is 0 (done), -ENOMEM or -EIO (fatal), or a value of enum mlkem_error. Outputs are untouched unless the
 * result is 0. Running time does not depend on seeds, randomness or secrets. Safe to call from any thread.
 *
 * The work is done by the libcrypto present at run time where that offers ML-KEM-768 (3.5 and later),
 * elsewhere by the built-in implementation; both give the same bytes. sodium_init() must have succeeded.
 */
#ifndef E2EE_MLKEM_H
#define E2EE_MLKEM_H

#include <stdint.h>

#define MLKEM_PK_LEN 1184
#define MLKEM_CT_LEN 1088
#define MLKEM_SS_LEN 32
#define MLKEM_SEED_LEN 64
#define MLKEM_ENC_RAND_LEN 32
#define MLKEM_DK_LEN 2400

enum mlkem_error {
    MLKEM_OK = 0,
    MLKEM_BAD_KEY =
            1, /* the key fails the checks of FIPS 203, 7.2 (or 7.3) and came from a faulty or hostile peer */
};

/* Derives the public key of a seed (Algorithm 16, ML-KEM.KeyGen_internal). */
int mlkem_keypair(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_pk[MLKEM_PK_LEN])
        __attribute__((warn_unused_result));

/* Makes a shared secret and its ciphertext for the holder of `pk` (Algorithm 17, ML-KEM.Encaps_internal,
 * after the modulus check of 7.2). MLKEM_BAD_KEY where `pk` has a coefficient that is not reduced. */
int mlkem_encaps(const uint8_t pk[MLKEM_PK_LEN], const uint8_t rand[MLKEM_ENC_RAND_LEN],
        uint8_t ret_ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN]) __attribute__((warn_unused_result));

/* Recovers the shared secret (Algorithm 18, ML-KEM.Decaps_internal). A ciphertext that was not made for this
 * key gives 0 and an unrelated, pseudorandom secret: the caller learns of it only from what it derives. */
int mlkem_decaps(const uint8_t seed[MLKEM_SEED_LEN], const uint8_t ct[MLKEM_CT_LEN],
        uint8_t ret_ss[MLKEM_SS_LEN]) __attribute__((warn_unused_result));

#endif
