#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "json_vectors.h"
#include "kdf.h"

static struct json_vectors open_or_skip(const char *file)
{
    struct json_vectors v;
    if (!json_vectors_open(&v, file))
        skip();
    return v;
}

/* Guards against a reader that silently finds less than the file holds. */
static void close_counted(struct json_vectors *v, long seen)
{
    assert_int_equal(seen, json_int(json_parse(v->text, strlen(v->text)), "numberOfTests", -1));
    json_vectors_close(v);
}

static void test_x25519(void **state)
{
    struct json_vectors v = open_or_skip("x25519_test.json");
    long seen = 0, zero = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        uint8_t public[32], secret[32], shared[32], got[32] = {0};
        bool low = json_has(v.test, "flags", "ZeroSharedSecret");
        assert_true(json_hex_exact(v.test, "public", public, 32));
        assert_true(json_hex_exact(v.test, "private", secret, 32));
        assert_true(json_hex_exact(v.test, "shared", shared, 32));
        assert_int_equal(x25519_agree(secret, public, got), !low);
        assert_memory_equal(got, shared, 32);
        zero += low;
    }
    assert_true(zero > 20);
    close_counted(&v, seen);
}

static void test_hkdf(void **state)
{
    struct json_vectors v = open_or_skip("hkdf_sha256_test.json");
    long seen = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        size_t ikm_len, salt_len, info_len, okm_len, size = (size_t)json_int(v.test, "size", 0);
        uint8_t *ikm = json_hex(v.test, "ikm", &ikm_len), *salt = json_hex(v.test, "salt", &salt_len);
        uint8_t *info = json_hex(v.test, "info", &info_len), *okm = json_hex(v.test, "okm", &okm_len);
        uint8_t prk[32], *got = calloc(1, size);
        bool valid = json_is(v.test, "result", "valid");
        assert_non_null(got);
        hkdf_extract(salt, salt_len, ikm, ikm_len, prk);
        assert_int_equal(hkdf_expand(prk, info, info_len, got, size) == 0, valid);
        if (valid) {
            assert_int_equal(okm_len, size);
            assert_memory_equal(got, okm, size);
        }
        free(got);
        free(ikm);
        free(salt);
        free(info);
        free(okm);
    }
    close_counted(&v, seen);
}

/* Tags are compared over their own length: some are truncated, none of ours is. */
static void check_mac(struct json test, const uint8_t *mac)
{
    size_t n;
    uint8_t *tag = json_hex(test, "tag", &n);
    assert_int_equal(memcmp(mac, tag, n) == 0, json_is(test, "result", "valid"));
    free(tag);
}

static void test_hmac_sha256(void **state)
{
    struct json_vectors v = open_or_skip("hmac_sha256_test.json");
    long seen = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        size_t key_len, n;
        uint8_t *key = json_hex(v.test, "key", &key_len), *msg = json_hex(v.test, "msg", &n), mac[32];
        hmac_sha256(key, key_len, msg, n, mac);
        check_mac(v.test, mac);
        free(key);
        free(msg);
    }
    close_counted(&v, seen);
}

static void test_hmac_sha512(void **state)
{
    struct json_vectors v = open_or_skip("hmac_sha512_test.json");
    long seen = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        size_t key_len, n;
        uint8_t *key = json_hex(v.test, "key", &key_len), *msg = json_hex(v.test, "msg", &n), mac[64];
        crypto_auth_hmacsha512_state st;
        assert_int_equal(crypto_auth_hmacsha512_init(&st, key, key_len), 0);
        assert_int_equal(crypto_auth_hmacsha512_update(&st, msg, n), 0);
        assert_int_equal(crypto_auth_hmacsha512_final(&st, mac), 0);
        check_mac(v.test, mac);
        free(key);
        free(msg);
    }
    close_counted(&v, seen);
}

static bool open_aead(struct json test, const uint8_t *nonce, uint8_t *got, size_t *ret_n)
{
    size_t ad_len, ct_len, tag_len;
    uint8_t *ad = json_hex(test, "aad", &ad_len), *ct = json_hex(test, "ct", &ct_len);
    uint8_t *tag = json_hex(test, "tag", &tag_len), key[32], *sealed = calloc(1, ct_len + 16);
    bool ok;
    assert_true(json_hex_exact(test, "key", key, 32));
    assert_non_null(sealed);
    assert_int_equal(tag_len, 16);
    memcpy(sealed, ct, ct_len);
    memcpy(sealed + ct_len, tag, 16);
    ok = crypto_aead_xchacha20poly1305_ietf_decrypt(
                 got, NULL, NULL, sealed, ct_len + 16, ad, ad_len, nonce, key) == 0;
    *ret_n = ct_len;
    free(ad);
    free(ct);
    free(tag);
    free(sealed);
    return ok;
}

static void test_xchacha20_poly1305(void **state)
{
    struct json_vectors v = open_or_skip("xchacha20_poly1305_test.json");
    long seen = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        uint8_t nonce[24], got[1024];
        size_t n, got_n;
        uint8_t *msg = json_hex(v.test, "msg", &n);
        bool valid = json_is(v.test, "result", "valid");
        assert_true(n <= sizeof(got));
        if (json_hex_exact(v.test, "iv", nonce, sizeof(nonce))) {
            assert_int_equal(open_aead(v.test, nonce, got, &got_n), valid);
            if (valid) {
                assert_int_equal(got_n, n);
                assert_memory_equal(got, msg, n);
            }
        } else {
            assert_false(valid);
        }
        free(msg);
    }
    close_counted(&v, seen);
}

static void test_ed25519(void **state)
{
    struct json_vectors v = open_or_skip("ed25519_test.json");
    long seen = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        uint8_t public[32], signature[64];
        size_t n;
        uint8_t *msg = json_hex(v.test, "msg", &n);
        bool valid = json_is(v.test, "result", "valid");
        assert_true(json_hex_exact(json_member(v.group, "publicKey"), "pk", public, 32));
        if (json_hex_exact(v.test, "sig", signature, 64))
            assert_int_equal(crypto_sign_verify_detached(signature, msg, n, public) == 0, valid);
        else
            assert_false(valid);
        free(msg);
    }
    close_counted(&v, seen);
}

static bool must_fail(struct json test)
{
    return json_has(test, "flags", "low_order_A") || json_has(test, "flags", "low_order_R") ||
           json_has(test, "flags", "non_canonical_A");
}

/* Where implementations of RFC 8032 differ: small order and encodings that are not canonical are refused
 * here. */
static void test_ed25519_corners(void **state)
{
    struct json_vectors v = open_or_skip("cctv_ed25519.json");
    long seen = 0, refused = 0, accepted = 0;
    (void)state;
    for (; json_vectors_next(&v); seen++) {
        uint8_t public[32], signature[64];
        char *msg = json_string(v.test, "msg");
        bool ok;
        assert_true(json_hex_exact(v.test, "key", public, 32));
        assert_true(json_hex_exact(v.test, "sig", signature, 64));
        ok = crypto_sign_verify_detached(signature, (const uint8_t *)msg, strlen(msg), public) == 0;
        if (must_fail(v.test)) {
            assert_false(ok);
            refused++;
        } else if (!json_has(v.test, "flags", "low_order_residue") &&
                   !json_has(v.test, "flags", "non_canonical_R")) {
            assert_true(ok);
            accepted++;
        }
        free(msg);
    }
    assert_true(refused > 500 && accepted > 20);
    assert_int_equal(seen, 914);
    json_vectors_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_x25519),
            cmocka_unit_test(test_hkdf),
            cmocka_unit_test(test_hmac_sha256),
            cmocka_unit_test(test_hmac_sha512),
            cmocka_unit_test(test_xchacha20_poly1305),
            cmocka_unit_test(test_ed25519),
            cmocka_unit_test(test_ed25519_corners),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
