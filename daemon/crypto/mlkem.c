#include "mlkem.h"

#include <stdatomic.h>

#include "mlkem_backend.h"

/* Threads that race here all find the same answer, so whichever store comes last changes nothing. */
static const struct mlkem_backend *backend(void)
{
    static _Atomic(const struct mlkem_backend *) chosen;
    const struct mlkem_backend *b = atomic_load_explicit(&chosen, memory_order_acquire);

    if (b)
        return b;
    b = mlkem_openssl();
    if (!b)
        b = mlkem_builtin();
    atomic_store_explicit(&chosen, b, memory_order_release);
    return b;
}

int mlkem_keypair(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_pk[MLKEM_PK_LEN])
{
    return backend()->keypair(seed, ret_pk);
}

int mlkem_encaps(const uint8_t pk[MLKEM_PK_LEN], const uint8_t rand[MLKEM_ENC_RAND_LEN],
        uint8_t ret_ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    return backend()->encaps(pk, rand, ret_ct, ret_ss);
}

int mlkem_decaps(
        const uint8_t seed[MLKEM_SEED_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    return backend()->decaps(seed, ct, ret_ss);
}
