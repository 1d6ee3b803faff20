/*
 * The constant-time check of ML-KEM. Secrets are marked as uninitialised memory: valgrind's memcheck then
 * reports every branch and every address that depends on one. Run as valgrind --error-exitcode=9 ct_mlkem and
 * built together with mlkem_builtin.c compiled with E2EED_CT_CHECK, which marks as public what FIPS 203
 * publishes though it comes from a secret: rho, and whether a key was refused. Status 77: not under valgrind.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>
#include <valgrind/memcheck.h>

#include "mlkem.h"
#include "mlkem_backend.h"

#define SECRET(p, n) ((void)VALGRIND_MAKE_MEM_UNDEFINED(p, n))
#define PUBLIC(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))

enum { ROUNDS = 4, S_LEN = 1152, Z_LEN = 32 };

static const struct mlkem_backend *backend;

static void expect(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "ct_mlkem: %s\n", what);
    exit(EXIT_FAILURE);
}

static void fill_secret(uint8_t *p, size_t n)
{
    randombytes_buf(p, n);
    SECRET(p, n);
}

static int equal_secrets(uint8_t a[MLKEM_SS_LEN], uint8_t b[MLKEM_SS_LEN])
{
    PUBLIC(a, MLKEM_SS_LEN);
    PUBLIC(b, MLKEM_SS_LEN);
    return memcmp(a, b, MLKEM_SS_LEN) == 0;
}

/* Of the expanded key only s and z are secret. */
static void check_expanded(
        const uint8_t seed[MLKEM_SEED_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t expected[MLKEM_SS_LEN])
{
    uint8_t dk[MLKEM_DK_LEN], ss[MLKEM_SS_LEN];

    expect(backend->expand(seed, dk) == 0, "expand");
    PUBLIC(dk + S_LEN, MLKEM_DK_LEN - S_LEN - Z_LEN);
    expect(backend->decaps_dk(dk, ct, ss) == 0, "decaps_dk");
    expect(equal_secrets(ss, expected), "expanded key gives another secret");
}

static void check_round(void)
{
    uint8_t seed[MLKEM_SEED_LEN], rand[MLKEM_ENC_RAND_LEN], pk[MLKEM_PK_LEN], ct[MLKEM_CT_LEN];
    uint8_t sent[MLKEM_SS_LEN], got[MLKEM_SS_LEN];

    fill_secret(seed, sizeof(seed));
    fill_secret(rand, sizeof(rand));
    expect(backend->keypair(seed, pk) == 0, "keypair");
    PUBLIC(pk, sizeof(pk));
    expect(backend->encaps(pk, rand, ct, sent) == 0, "encaps");
    PUBLIC(ct, sizeof(ct));
    expect(backend->decaps(seed, ct, got) == 0, "decaps");
    expect(equal_secrets(sent, got), "secrets differ");
    check_expanded(seed, ct, sent);
    ct[randombytes_uniform(sizeof(ct))] ^= 1;
    expect(backend->decaps(seed, ct, got) == 0, "decaps of a spoilt ciphertext");
    expect(!equal_secrets(sent, got), "a spoilt ciphertext was accepted");
}

int main(void)
{
    if (RUNNING_ON_VALGRIND == 0) {
        fprintf(stderr, "ct_mlkem: not under valgrind, nothing checked\n");
        return 77;
    }
    backend = mlkem_builtin();
    expect(sodium_init() >= 0, "sodium_init");
    for (int i = 0; i < ROUNDS; i++)
        check_round();
    printf("ct_mlkem: %d rounds\n", ROUNDS);
    return EXIT_SUCCESS;
}
