#include "mlkem_backend.h"

#include <errno.h>
#include <string.h>

#include <openssl/core.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <sodium.h>

/* The headers may be those of 3.0, which know neither ML-KEM nor its parameters; hence names as literals. */
#define ALGORITHM "ML-KEM-768"
#define PARAM_SEED "seed"
#define PARAM_PUBLIC "encoded-pub-key"
#define PARAM_IMPORT_PUBLIC "pub"
#define PARAM_PRIVATE "priv"
#define PARAM_RANDOMNESS "ikme"

static void free_key(EVP_PKEY **key)
{
    EVP_PKEY_free(*key);
}
static void free_ctx(EVP_PKEY_CTX **ctx)
{
    EVP_PKEY_CTX_free(*ctx);
}
#define KEY __attribute__((cleanup(free_key))) EVP_PKEY *
#define CTX __attribute__((cleanup(free_ctx))) EVP_PKEY_CTX *

/* libcrypto only reads what it is given as a parameter to set, but the type has no const. */
static OSSL_PARAM octets(const char *name, const void *data, size_t n)
{
    return OSSL_PARAM_construct_octet_string(name, (void *)(uintptr_t)data, n);
}

/* Keys are checked before libcrypto sees them and lengths are fixed, so that whatever fails there is our
 * side's fault. Nothing is left in the error queue, which the thread shares with TLS. */
static int finish(bool done)
{
    bool no_memory = !done && ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE;

    ERR_pop_to_mark();
    if (done)
        return 0;
    return no_memory ? -ENOMEM : -EIO;
}

static EVP_PKEY *key_from_seed(const uint8_t seed[MLKEM_SEED_LEN])
{
    const OSSL_PARAM params[] = {octets(PARAM_SEED, seed, MLKEM_SEED_LEN), OSSL_PARAM_construct_end()};
    CTX ctx = EVP_PKEY_CTX_new_from_name(NULL, ALGORITHM, NULL);
    EVP_PKEY *key = NULL;

    if (!ctx || EVP_PKEY_keygen_init(ctx) <= 0 || EVP_PKEY_CTX_set_params(ctx, params) <= 0 ||
            EVP_PKEY_generate(ctx, &key) <= 0)
        return NULL;
    return key;
}

static EVP_PKEY *key_import(int selection, const char *name, const uint8_t *data, size_t n)
{
    OSSL_PARAM params[] = {octets(name, data, n), OSSL_PARAM_construct_end()};
    CTX ctx = EVP_PKEY_CTX_new_from_name(NULL, ALGORITHM, NULL);
    EVP_PKEY *key = NULL;

    if (!ctx || EVP_PKEY_fromdata_init(ctx) <= 0 || EVP_PKEY_fromdata(ctx, &key, selection, params) <= 0)
        return NULL;
    return key;
}

static bool key_export(const EVP_PKEY *key, const char *name, uint8_t *ret, size_t n)
{
    size_t len = 0;

    return EVP_PKEY_get_octet_string_param(key, name, ret, n, &len) == 1 && len == n;
}

static bool encapsulate(EVP_PKEY *key, const uint8_t *rand, uint8_t *ret_ct, uint8_t *ret_ss)
{
    const OSSL_PARAM params[] = {
            octets(PARAM_RANDOMNESS, rand, MLKEM_ENC_RAND_LEN), OSSL_PARAM_construct_end()};
    CTX ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    size_t ct_len = MLKEM_CT_LEN, ss_len = MLKEM_SS_LEN;

    return ctx && EVP_PKEY_encapsulate_init(ctx, params) > 0 &&
           EVP_PKEY_encapsulate(ctx, ret_ct, &ct_len, ret_ss, &ss_len) > 0 && ct_len == MLKEM_CT_LEN &&
           ss_len == MLKEM_SS_LEN;
}

static bool decapsulate(EVP_PKEY *key, const uint8_t *ct, uint8_t *ret_ss)
{
    CTX ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    size_t ss_len = MLKEM_SS_LEN;

    return ctx && EVP_PKEY_decapsulate_init(ctx, NULL) > 0 &&
           EVP_PKEY_decapsulate(ctx, ret_ss, &ss_len, ct, MLKEM_CT_LEN) > 0 && ss_len == MLKEM_SS_LEN;
}

static int openssl_keypair(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_pk[MLKEM_PK_LEN])
{
    uint8_t pk[MLKEM_PK_LEN];

    ERR_set_mark();
    KEY key = key_from_seed(seed);
    int r = finish(key && key_export(key, PARAM_PUBLIC, pk, sizeof(pk)));

    if (r == 0)
        memcpy(ret_pk, pk, sizeof(pk));
    return r;
}

static int openssl_encaps(const uint8_t pk[MLKEM_PK_LEN], const uint8_t rand[MLKEM_ENC_RAND_LEN],
        uint8_t ret_ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    uint8_t ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    if (!mlkem_pk_is_valid(pk))
        return MLKEM_BAD_KEY;
    ERR_set_mark();
    KEY key = key_import(EVP_PKEY_PUBLIC_KEY, PARAM_IMPORT_PUBLIC, pk, MLKEM_PK_LEN);
    int r = finish(key && encapsulate(key, rand, ct, ss));

    if (r == 0) {
        memcpy(ret_ct, ct, sizeof(ct));
        memcpy(ret_ss, ss, sizeof(ss));
    }
    sodium_memzero(ss, sizeof(ss));
    return r;
}

static int decaps_with(EVP_PKEY *key, const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    uint8_t ss[MLKEM_SS_LEN];
    int r = finish(key && decapsulate(key, ct, ss));

    if (r == 0)
        memcpy(ret_ss, ss, sizeof(ss));
    sodium_memzero(ss, sizeof(ss));
    return r;
}

static int openssl_decaps(
        const uint8_t seed[MLKEM_SEED_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    ERR_set_mark();
    KEY key = key_from_seed(seed);

    return decaps_with(key, ct, ret_ss);
}

static int openssl_expand(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_dk[MLKEM_DK_LEN])
{
    uint8_t dk[MLKEM_DK_LEN];

    ERR_set_mark();
    KEY key = key_from_seed(seed);
    int r = finish(key && key_export(key, PARAM_PRIVATE, dk, sizeof(dk)));

    if (r == 0)
        memcpy(ret_dk, dk, sizeof(dk));
    sodium_memzero(dk, sizeof(dk));
    return r;
}

static int openssl_decaps_dk(
        const uint8_t dk[MLKEM_DK_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    if (!mlkem_dk_is_valid(dk))
        return MLKEM_BAD_KEY;
    ERR_set_mark();
    KEY key = key_import(EVP_PKEY_KEYPAIR, PARAM_PRIVATE, dk, MLKEM_DK_LEN);

    return decaps_with(key, ct, ret_ss);
}

static bool kem_takes_randomness(void)
{
    EVP_KEM *kem = EVP_KEM_fetch(NULL, ALGORITHM, NULL);
    const OSSL_PARAM *settable = kem ? EVP_KEM_settable_ctx_params(kem) : NULL;
    bool found = settable && OSSL_PARAM_locate_const(settable, PARAM_RANDOMNESS);

    EVP_KEM_free(kem);
    return found;
}

static bool keygen_takes_seed(void)
{
    CTX ctx = EVP_PKEY_CTX_new_from_name(NULL, ALGORITHM, NULL);
    const OSSL_PARAM *settable;

    if (!ctx || EVP_PKEY_keygen_init(ctx) <= 0)
        return false;
    settable = EVP_PKEY_CTX_settable_params(ctx);
    return settable && OSSL_PARAM_locate_const(settable, PARAM_SEED);
}

const struct mlkem_backend *mlkem_openssl(void)
{
    static const struct mlkem_backend openssl = {
            .name = "openssl",
            .keypair = openssl_keypair,
            .encaps = openssl_encaps,
            .decaps = openssl_decaps,
            .expand = openssl_expand,
            .decaps_dk = openssl_decaps_dk,
    };
    bool usable;

    ERR_set_mark();
    usable = kem_takes_randomness() && keygen_takes_seed();
    ERR_pop_to_mark();
    return usable ? &openssl : NULL;
}
