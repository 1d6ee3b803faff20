#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "inner.h"
#include "json_vectors.h"
#include "kdf.h"
#include "padding.h"

struct hkdf_vector {
    const char *ikm, *salt, *info, *prk, *okm;
};

/* RFC 5869, A.1 to A.3. */
static const struct hkdf_vector rfc5869[] = {
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9",
                "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"},
        {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303"
         "132333435"
         "363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f",
                "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d"
                "8e8f9091929394"
                "95969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
                "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdd"
                "dedfe0e1e2e3e4"
                "e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
                "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e59"
                "0e09da3275600c"
                "2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"},
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "", "",
                "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"},
};

static size_t unhex(const char *hex, uint8_t *ret)
{
    assert_true(hex_decode(hex, strlen(hex), ret));
    return strlen(hex) / 2;
}

static void test_rfc5869(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rfc5869); i++) {
        uint8_t ikm[80], salt[80], info[80], prk[32], okm[82], got_prk[32], got_okm[82];
        size_t ikm_len = unhex(rfc5869[i].ikm, ikm), salt_len = unhex(rfc5869[i].salt, salt);
        size_t info_len = unhex(rfc5869[i].info, info), okm_len = unhex(rfc5869[i].okm, okm);
        assert_int_equal(unhex(rfc5869[i].prk, prk), 32);
        hkdf_extract(salt, salt_len, ikm, ikm_len, got_prk);
        assert_memory_equal(got_prk, prk, 32);
        assert_int_equal(hkdf_expand(got_prk, info, info_len, got_okm, okm_len), 0);
        assert_memory_equal(got_okm, okm, okm_len);
    }
}

static void test_expand_limit(void **state)
{
    static uint8_t out[HKDF_MAX_OUTPUT + 1];
    uint8_t prk[32] = {1};
    (void)state;
    assert_int_equal(hkdf_expand(prk, NULL, 0, out, HKDF_MAX_OUTPUT), 0);
    memset(out, 0xa5, sizeof(out));
    assert_int_not_equal(hkdf_expand(prk, NULL, 0, out, HKDF_MAX_OUTPUT + 1), 0);
    for (size_t i = 0; i < sizeof(out); i++)
        assert_int_equal(out[i], 0xa5);
}

/* RFC 4231, test case 2. */
static void test_hmac(void **state)
{
    uint8_t expected[32], got[32];
    const char *key = "Jefe", *text = "what do ya want for nothing?";
    (void)state;
    (void)unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843", expected);
    hmac_sha256((const uint8_t *)key, strlen(key), (const uint8_t *)text, strlen(text), got);
    assert_memory_equal(got, expected, 32);
}

/* Fields are little-endian, lengths u32, and the label comes first with its zero byte. */
static void test_hash_fields(void **state)
{
    static const char bytes[] = "e2eed/1 bundle\0\x01\x03\x02\x07\x06\x05\x04\x0f\x0e\x0d\x0c\x0b\x0a\x09\x08"
                                "\x02\0\0\0ab\0\0\0\0c";
    uint8_t expected[32], got[32];
    struct hash h;
    (void)state;
    (void)crypto_hash_sha256(expected, (const uint8_t *)bytes, sizeof(bytes) - 1);
    hash_begin(&h, LABEL_BUNDLE);
    hash_u8(&h, 1);
    hash_u16(&h, 0x0203);
    hash_u32(&h, 0x04050607);
    hash_u64(&h, UINT64_C(0x08090a0b0c0d0e0f));
    hash_lp(&h, "ab", 2);
    hash_lp(&h, NULL, 0);
    hash_bytes(&h, "c", 1);
    hash_end(&h, got);
    assert_memory_equal(got, expected, 32);
}

static void test_labelled_signature(void **state)
{
    uint8_t public[32], secret[64], signature[64];
    static uint8_t body[SIGNED_MAX + 1];
    (void)state;
    assert_int_equal(crypto_sign_keypair(public, secret), 0);
    label_sign(LABEL_SIGNED_PREKEY, body, SIGNED_MAX, secret, signature);
    assert_true(label_verify(LABEL_SIGNED_PREKEY, body, SIGNED_MAX, public, signature));
    assert_false(label_verify(LABEL_ONE_TIME_PREKEY, body, SIGNED_MAX, public, signature));
    assert_false(label_verify(LABEL_SIGNED_PREKEY, body, SIGNED_MAX - 1, public, signature));
    assert_false(label_verify(LABEL_SIGNED_PREKEY, body, SIGNED_MAX + 1, public, signature));
    body[3] ^= 1;
    assert_false(label_verify(LABEL_SIGNED_PREKEY, body, SIGNED_MAX, public, signature));
}

static void test_agreement_refuses_zero(void **state)
{
    uint8_t secret[32] = {9}, point[32] = {0}, shared[32];
    (void)state;
    memset(shared, 0xa5, sizeof(shared));
    assert_false(x25519_agree(secret, point, shared));
    for (size_t i = 0; i < sizeof(shared); i++)
        assert_int_equal(shared[i], 0xa5);
    point[0] = 9;
    assert_true(x25519_agree(secret, point, shared));
    x25519_public(secret, point);
    assert_memory_equal(shared, point, 32);
}

static void test_padding(void **state)
{
    /* Beyond 4 KiB: multiples of 2^(E−S), E = ⌊log2 L⌋, S = ⌊log2 E⌋ + 1. */
    static const struct {
        size_t n, padded;
    } table[] = {{0, 0}, {1, 256}, {255, 256}, {256, 256}, {257, 512}, {4095, 4096}, {4096, 4096},
            {4097, 4352}, {8191, 8192}, {8192, 8192}, {8193, 8704}, {65535, 65536}, {65536, 65536},
            {65537, 67584}, {66000, 67584}, {1048577, 1081344}};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        assert_int_equal(padded_length(table[i].n), table[i].padded);
    for (size_t n = 1; n < 200000; n += 7) {
        size_t padded = padded_length(n);
        assert_true(padded >= n && padded_length(padded) == padded);
        assert_true(padded - n < 256 || (padded - n) * 100 < n * 12);
    }
}

static struct inner sample(const uint8_t *body, size_t n)
{
    struct inner in = {
            .type = INNER_NOTICE, .flags = INNER_TEXT | INNER_UNCOUNTED, .count = 5, .time_ms = 6, .seq = 7};
    in.seen = 8;
    in.own.n = 9;
    in.peer.n = 10;
    memset(in.id.b, 1, sizeof(in.id.b));
    memset(in.own.hash, 2, sizeof(in.own.hash));
    memset(in.peer.hash, 3, sizeof(in.peer.hash));
    in.body = (struct span){body, n};
    return in;
}

static void assert_same(const struct inner *a, const struct inner *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->flags, b->flags);
    assert_memory_equal(a->id.b, b->id.b, sizeof(a->id.b));
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->time_ms, b->time_ms);
    assert_int_equal(a->seq, b->seq);
    assert_int_equal(a->seen, b->seen);
    assert_int_equal(a->own.n, b->own.n);
    assert_memory_equal(a->own.hash, b->own.hash, sizeof(a->own.hash));
    assert_int_equal(a->peer.n, b->peer.n);
    assert_memory_equal(a->peer.hash, b->peer.hash, sizeof(a->peer.hash));
    assert_int_equal(a->body.n, b->body.n);
    assert_memory_equal(a->body.p, b->body.p, a->body.n);
}

static void check_inner(size_t n)
{
    static uint8_t body[INNER_MAX_BODY], bytes[80000];
    struct inner in = sample(body, n), got;
    size_t padded = inner_padded_length(&in);
    memset(body, 0xee, sizeof(body));
    memset(bytes, 0xff, sizeof(bytes));
    inner_encode(&in, bytes);
    assert_int_equal(bytes[padded], 0xff);
    assert_int_equal(padded, padded_length(INNER_FIXED_LEN + n));
    assert_true(inner_decode(bytes, padded, &got));
    assert_same(&in, &got);
    /* One step more or less of padding is as wrong as a byte in it. */
    memset(bytes + padded, 0, 256);
    assert_false(inner_decode(bytes, padded + 256, &got));
    assert_false(inner_decode(bytes, padded - 1, &got));
    if (padded == INNER_FIXED_LEN + n)
        return;
    for (size_t at = INNER_FIXED_LEN + n; at < padded; at += 1 + (padded - at) / 3) {
        bytes[at] = 1;
        assert_false(inner_decode(bytes, padded, &got));
        bytes[at] = 0;
    }
}

static void test_inner(void **state)
{
    static const size_t sizes[] = {0, 1, 121, 122, 123, 1024, 3962, 3963, 4000, 65536, INNER_MAX_BODY};
    (void)state;
    assert_int_equal(INNER_FIXED_LEN, 134);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        check_inner(sizes[i]);
}

static void test_inner_refuses(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
    } wrong[] = {{0, 0}, {0, 4}, {0, 255}, {1, 4}, {1, 0x80}, {34, 0}, {132, 1}, {130, 200}};
    uint8_t body[100] = {0}, bytes[256];
    struct inner in = sample(body, sizeof(body)), got;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        inner_encode(&in, bytes);
        assert_true(inner_decode(bytes, sizeof(bytes), &got));
        bytes[wrong[i].at] = wrong[i].value;
        assert_false(inner_decode(bytes, sizeof(bytes), &got));
    }
    for (size_t n = 0; n < sizeof(bytes); n++)
        assert_false(inner_decode(bytes, n, &got));
    in.body.n = INNER_MAX_BODY + 1;
    assert_false(inner_ok(&in));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_rfc5869),
            cmocka_unit_test(test_expand_limit),
            cmocka_unit_test(test_hmac),
            cmocka_unit_test(test_hash_fields),
            cmocka_unit_test(test_labelled_signature),
            cmocka_unit_test(test_agreement_refuses_zero),
            cmocka_unit_test(test_padding),
            cmocka_unit_test(test_inner),
            cmocka_unit_test(test_inner_refuses),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
