#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

/*
 * Key commitment. XChaCha20-Poly1305 alone lets whoever knows two keys make one ciphertext that both open
 * ("invisible salamanders": Dodis, Grubbs, Ristenpart, Woodage, CRYPTO 2018; Len, Grubbs, Ristenpart, USENIX
 * Security 2021). It is made here, and com is what tells the two apart.
 */
#include <openssl/bn.h>

#include "ratchet_impl.h"

enum { BLOCKS = 16, BODY = BLOCKS * 16 };

static BN_CTX *bn;
static BIGNUM *prime; /* 2^130 − 5 */

static BIGNUM *from_le(const uint8_t *p, int n)
{
    BIGNUM *v = BN_lebin2bn(p, n, NULL);
    assert_non_null(v);
    return v;
}

struct poly {
    BIGNUM *r, *s;
};

/* The one-time Poly1305 key that XChaCha20-Poly1305 takes of key and nonce (draft-irtf-cfrg-xchacha-03, 2.3;
 * RFC 8439, 2.6). */
static struct poly poly_of(const uint8_t key[32], const uint8_t nonce[24])
{
    uint8_t subkey[32], block[32], n96[12] = {0};
    memcpy(n96 + 4, nonce + 16, 8);
    assert_int_equal(crypto_core_hchacha20(subkey, nonce, key, NULL), 0);
    assert_int_equal(crypto_stream_chacha20_ietf(block, sizeof(block), n96, subkey), 0);
    for (size_t i = 3; i < 16; i += 4)
        block[i] &= 15;
    for (size_t i = 4; i < 16; i += 4)
        block[i] &= 252;
    return (struct poly){from_le(block, 16), from_le(block + 16, 16)};
}

static void poly_done(struct poly *p)
{
    BN_free(p->r);
    BN_free(p->s);
}

static BIGNUM *block_value(const uint8_t block[16])
{
    BIGNUM *v = from_le(block, 16);
    assert_int_equal(BN_set_bit(v, 128), 1);
    return v;
}

/* Σ blocks[i]·r^(n−i) mod p: the polynomial before s is added. */
static BIGNUM *evaluate(const BIGNUM *r, const uint8_t *blocks, size_t n)
{
    BIGNUM *sum = BN_new();
    BN_zero(sum);
    for (size_t i = 0; i < n; i++) {
        BIGNUM *v = block_value(blocks + 16 * i);
        assert_int_equal(BN_mod_add(sum, sum, v, prime, bn), 1);
        assert_int_equal(BN_mod_mul(sum, sum, r, prime, bn), 1);
        BN_free(v);
    }
    return sum;
}

/* What Poly1305 reads: ad, ciphertext (both whole blocks here) and their lengths. */
static size_t mac_input(const uint8_t ad[32], const uint8_t body[BODY], uint8_t *ret_bytes)
{
    struct buf b = buf_over(ret_bytes, 32 + BODY + 16);
    buf_bytes(&b, ad, 32);
    buf_bytes(&b, body, BODY);
    buf_u64(&b, 32);
    buf_u64(&b, BODY);
    return b.len / 16;
}

/*
 * Looks for a value of the last ciphertext block for which both keys give the same tag: one linear equation,
 * of which every fourth solution or so is a block. False: try with another first block.
 */
static bool solve(const struct poly k[2], const uint8_t ad[32], uint8_t body[BODY], uint8_t ret_tag[16])
{
    uint8_t input[32 + BODY + 16];
    size_t n;
    BIGNUM *p[2], *t = BN_new(), *c = BN_new();
    bool found;

    memset(body + BODY - 16, 0, 16);
    n = mac_input(ad, body, input);
    p[0] = evaluate(k[0].r, input, n);
    p[1] = evaluate(k[1].r, input, n);
    /* (c − 2^128)·(r0² − r1²) = (p1 + s1) − (p0 + s0), the block standing second to last. */
    BN_mod_add(p[0], p[0], k[0].s, prime, bn);
    BN_mod_add(p[1], p[1], k[1].s, prime, bn);
    BN_mod_sub(p[1], p[1], p[0], prime, bn);
    BN_mod_sqr(t, k[0].r, prime, bn);
    BN_mod_sqr(c, k[1].r, prime, bn);
    BN_mod_sub(t, t, c, prime, bn);
    assert_non_null(BN_mod_inverse(t, t, prime, bn));
    BN_mod_mul(c, p[1], t, prime, bn);
    found = BN_num_bits(c) <= 128 && BN_bn2lebinpad(c, body + BODY - 16, 16) == 16;
    if (found) {
        /* Equal mod p after adding s; the tag is taken mod 2^128, so both sums must also not have wrapped
         * differently. */
        n = mac_input(ad, body, input);
        BN_free(p[0]);
        p[0] = evaluate(k[0].r, input, n);
        BN_add(p[0], p[0], k[0].s);
        BN_free(p[1]);
        p[1] = evaluate(k[1].r, input, n);
        BN_add(p[1], p[1], k[1].s);
        found = BN_cmp(p[0], p[1]) == 0;
        BN_mask_bits(p[0], 128);
        assert_true(BN_bn2lebinpad(p[0], ret_tag, 16) == 16 || !found);
    }
    BN_free(p[0]);
    BN_free(p[1]);
    BN_free(t);
    BN_free(c);
    return found;
}

static bool aead_opens(
        const uint8_t key[32], const uint8_t nonce[24], const uint8_t ad[32], const uint8_t *sealed)
{
    uint8_t plain[BODY];
    return crypto_aead_xchacha20poly1305_ietf_decrypt(
                   plain, NULL, NULL, sealed, BODY + 16, ad, 32, nonce, key) == 0;
}

struct attempt {
    struct work work[2]; /* with mk, and ek and com derived */
    crypto_hash_sha256_state ad;
    uint8_t nonce[24], header[SEALED_HEADER_LEN(0)], sealed[BODY + 16];
};

static void derive(struct attempt *a)
{
    struct hash h;
    hash_begin(&h, LABEL_MESSAGE_AD);
    a->ad = h.state;
    randombytes_buf(a->nonce, sizeof(a->nonce));
    for (size_t i = 0; i < 2; i++) {
        memset(a->work[i].mk, (int)i + 1, KEY_LEN);
        message_keys(
                &a->ad, INNER_MESSAGE, (struct span){a->header, sizeof(a->header)}, a->nonce, &a->work[i]);
    }
}

static void make_salamander(struct attempt *a)
{
    struct poly k[2];
    bool found = false;
    derive(a);
    for (size_t i = 0; i < 2; i++)
        k[i] = poly_of(a->work[i].keys, a->nonce);
    for (int tries = 0; !found && tries < 4000; tries++) {
        randombytes_buf(a->sealed, BODY);
        found = solve(k, a->work[0].ad_hash, a->sealed, a->sealed + BODY);
    }
    assert_true(found);
    poly_done(&k[0]);
    poly_done(&k[1]);
}

static bool opens(struct attempt *a, size_t key, const uint8_t com[COM_LEN])
{
    uint8_t plain[BODY];
    struct envelope_view view = {
            .header = {a->header, sizeof(a->header)},
            .nonce = a->nonce,
            .com = com,
            .ciphertext = {a->sealed, sizeof(a->sealed)},
    };
    return body_open(&a->ad, &view, INNER_MESSAGE, &a->work[key], plain);
}

static void test_salamander(void **state)
{
    struct attempt *a = calloc(1, sizeof(*a));
    uint8_t com[2][COM_LEN];
    (void)state;
    assert_non_null(a);
    make_salamander(a);
    for (size_t i = 0; i < 2; i++) {
        assert_true(aead_opens(a->work[i].keys, a->nonce, a->work[i].ad_hash, a->sealed));
        memcpy(com[i], a->work[i].keys + KEY_LEN, COM_LEN);
    }
    assert_memory_not_equal(com[0], com[1], COM_LEN);
    for (size_t key = 0; key < 2; key++)
        for (size_t i = 0; i < 2; i++)
            assert_int_equal(opens(a, key, com[i]), key == i);
    /* And com alone is not enough: it does not cover the ciphertext. */
    a->sealed[0] ^= 1;
    assert_false(opens(a, 0, com[0]));
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_salamander)};
    int status;
    if (sodium_init() < 0)
        return 1;
    bn = BN_CTX_new();
    prime = BN_new();
    BN_set_bit(prime, 130);
    BN_sub_word(prime, 5);
    status = cmocka_run_group_tests(tests, NULL, NULL);
    BN_free(prime);
    BN_CTX_free(bn);
    return status;
}
