/*
 * The implementations behind mlkem.h, for its dispatcher and for tests; nothing else includes this file.
 */
#ifndef E2EE_MLKEM_BACKEND_H
#define E2EE_MLKEM_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "mlkem.h"

/*
 * The first three are the functions of mlkem.h. The last two know the expanded private key of FIPS 203, that
 * is s || pk || H(pk) || z, which the project never keeps but published test vectors use:
 * - expand writes that form of a seed's key;
 * - decaps_dk decapsulates with it; MLKEM_BAD_KEY where s or pk is not reduced or the hash does not match
 * (7.3).
 */
struct mlkem_backend {
    const char *name;
    int (*keypair)(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_pk[MLKEM_PK_LEN]);
    int (*encaps)(const uint8_t pk[MLKEM_PK_LEN], const uint8_t rand[MLKEM_ENC_RAND_LEN],
            uint8_t ret_ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN]);
    int (*decaps)(
            const uint8_t seed[MLKEM_SEED_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN]);
    int (*expand)(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_dk[MLKEM_DK_LEN]);
    int (*decaps_dk)(
            const uint8_t dk[MLKEM_DK_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN]);
};

/* Both return a constant that lives as long as the process. mlkem_openssl is NULL where the libcrypto at run
 * time has no ML-KEM-768 or cannot be given the randomness; it asks libcrypto anew on each call. */
const struct mlkem_backend *mlkem_builtin(void);
const struct mlkem_backend *mlkem_openssl(void);

/* The input checks of FIPS 203, 7.2 and 7.3, shared so that every backend refuses the same keys. */
bool mlkem_pk_is_valid(const uint8_t pk[MLKEM_PK_LEN]);
bool mlkem_dk_is_valid(const uint8_t dk[MLKEM_DK_LEN]);

#endif
