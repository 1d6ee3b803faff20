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
#include "keccak.h"
#include "mlkem.h"
#include "mlkem_backend.h"

enum { Q = 3329, S_LEN = 1152, UNTOUCHED = 0xa5 };

/* Each test of a backend runs once for each of these. */
struct subject {
    const struct mlkem_backend *(*get)(void);
};
static struct subject builtin = {mlkem_builtin}, openssl = {mlkem_openssl};

static const struct mlkem_backend *backend_of(void **state)
{
    const struct subject *s = *state;
    const struct mlkem_backend *b = s->get();

    if (!b) {
        print_message("libcrypto offers no ML-KEM-768 here\n");
        skip();
    }
    return b;
}

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

/* A field of the expected length, or an assertion that the vector is one of those meant to be refused for its
 * length, which the types of the interface rule out. */
static bool field(struct json test, const char *key, uint8_t *ret, size_t n)
{
    size_t len = 0;
    uint8_t *bytes = json_hex(test, key, &len);

    assert_non_null(bytes);
    if (len == n)
        memcpy(ret, bytes, n);
    else
        assert_true(json_is(test, "result", "invalid"));
    free(bytes);
    return len == n;
}

static void assert_untouched(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(p[i], UNTOUCHED);
}

static void assert_encaps_refused(const struct mlkem_backend *b, const uint8_t *pk, const uint8_t *rand)
{
    uint8_t ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    memset(ct, UNTOUCHED, sizeof(ct));
    memset(ss, UNTOUCHED, sizeof(ss));
    assert_int_equal(b->encaps(pk, rand, ct, ss), MLKEM_BAD_KEY);
    assert_untouched(ct, sizeof(ct));
    assert_untouched(ss, sizeof(ss));
}

static void assert_decaps_dk_refused(const struct mlkem_backend *b, const uint8_t *dk, const uint8_t *ct)
{
    uint8_t ss[MLKEM_SS_LEN];

    memset(ss, UNTOUCHED, sizeof(ss));
    assert_int_equal(b->decaps_dk(dk, ct, ss), MLKEM_BAD_KEY);
    assert_untouched(ss, sizeof(ss));
}

static void assert_encaps_gives(const struct mlkem_backend *b, const uint8_t *pk, const uint8_t *rand,
        const uint8_t *expected_ct, const uint8_t *expected_ss)
{
    uint8_t ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    assert_int_equal(b->encaps(pk, rand, ct, ss), 0);
    assert_memory_equal(ct, expected_ct, sizeof(ct));
    assert_memory_equal(ss, expected_ss, sizeof(ss));
}

static void assert_decaps_gives(
        const struct mlkem_backend *b, const uint8_t *seed, const uint8_t *ct, const uint8_t *expected_ss)
{
    uint8_t ss[MLKEM_SS_LEN];

    assert_int_equal(b->decaps(seed, ct, ss), 0);
    assert_memory_equal(ss, expected_ss, sizeof(ss));
}

static void assert_decaps_dk_gives(
        const struct mlkem_backend *b, const uint8_t *dk, const uint8_t *ct, const uint8_t *expected_ss)
{
    uint8_t ss[MLKEM_SS_LEN];

    assert_int_equal(b->decaps_dk(dk, ct, ss), 0);
    assert_memory_equal(ss, expected_ss, sizeof(ss));
}

static void assert_keys(const struct mlkem_backend *b, const uint8_t *seed, const uint8_t *expected_pk,
        const uint8_t *expected_dk)
{
    uint8_t pk[MLKEM_PK_LEN], dk[MLKEM_DK_LEN];

    assert_int_equal(b->keypair(seed, pk), 0);
    assert_memory_equal(pk, expected_pk, sizeof(pk));
    if (expected_dk) {
        assert_int_equal(b->expand(seed, dk), 0);
        assert_memory_equal(dk, expected_dk, sizeof(dk));
    }
}

/* FIPS 202: the examples for the empty message and for 1600 bits of 0xa3, the latter longer than every rate.
 */
static const struct {
    enum keccak_kind kind;
    size_t len;
    const char *digest;
} keccak_cases[] = {
        {KECCAK_SHA3_256, 0, "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"},
        {KECCAK_SHA3_256, 200, "79f38adec5c20307a98ef76e8324afbfd46cfd81b22e3973c65fa1bd9de31787"},
        {KECCAK_SHA3_512, 0,
                "a69f73cca23a9ac5c8b567dc185a756e97c982164fe25859e0d1dcc1475c80a6"
                "15b2123af1f5f94c11e3e9402c3ac558f500199d95b6d3e301758586281dcd26"},
        {KECCAK_SHA3_512, 200,
                "e76dfad22084a8b1467fcf2ffa58361bec7628edf5f3fdc0e4805dc48caeeca8"
                "1b7c13c30adf52a3659584739a2df46be589c51ca1a4a8416df6545a1ce8ba00"},
        {KECCAK_SHAKE128, 0, "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"},
        {KECCAK_SHAKE128, 200, "131ab8d2b594946b9c81333f9bb6e0ce75c3b93104fa3469d3917457385da037"},
        {KECCAK_SHAKE256, 0,
                "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5762f"
                "d75dc4ddd8c0f200cb05019d67b592f6fc821c49479ab48640292eacb3b7c4be"},
        {KECCAK_SHAKE256, 200, "cd8a920ed141aa0407a22d59288652e9d9f1a7ee0c1e7c1ca699424da84a904d"},
};

static void test_keccak_known_answers(void **state)
{
    uint8_t message[200], expected[64], got[64];

    (void)state;
    memset(message, 0xa3, sizeof(message));
    for (size_t i = 0; i < sizeof(keccak_cases) / sizeof(keccak_cases[0]); i++) {
        size_t n = strlen(keccak_cases[i].digest) / 2;
        struct keccak k;

        assert_true(hex_decode(keccak_cases[i].digest, 2 * n, expected));
        keccak_init(&k, keccak_cases[i].kind);
        keccak_absorb(&k, message, keccak_cases[i].len);
        keccak_squeeze(&k, got, n);
        assert_memory_equal(got, expected, n);
    }
    sha3_256(NULL, 0, got);
    assert_true(hex_decode(keccak_cases[0].digest, 64, expected));
    assert_memory_equal(got, expected, SHA3_256_LEN);
}

/* Pieces of every size around the lane and the rate give what one piece gives. */
static void test_keccak_in_pieces(void **state)
{
    uint8_t message[700], whole[700], pieces[700];

    (void)state;
    for (size_t i = 0; i < sizeof(message); i++)
        message[i] = (uint8_t)(i * 7);
    for (int kind = KECCAK_SHAKE128; kind <= KECCAK_SHAKE256; kind++) {
        for (size_t step = 1; step <= 2 * SHAKE128_RATE; step += step < 20 ? 1 : 37) {
            struct keccak a, b;

            keccak_init(&a, (enum keccak_kind)kind);
            keccak_init(&b, (enum keccak_kind)kind);
            keccak_absorb(&a, message, sizeof(message));
            keccak_squeeze(&a, whole, sizeof(whole));
            for (size_t at = 0; at < sizeof(message); at += step)
                keccak_absorb(&b, message + at, step < sizeof(message) - at ? step : sizeof(message) - at);
            for (size_t at = 0; at < sizeof(pieces); at += step)
                keccak_squeeze(&b, pieces + at, step < sizeof(pieces) - at ? step : sizeof(pieces) - at);
            assert_memory_equal(pieces, whole, sizeof(whole));
        }
    }
}

static void test_wycheproof_keygen(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    struct json_vectors v = open_or_skip("mlkem_768_keygen_seed_test.json");
    uint8_t seed[MLKEM_SEED_LEN], pk[MLKEM_PK_LEN], dk[MLKEM_DK_LEN];
    long seen = 0;

    for (; json_vectors_next(&v); seen++) {
        assert_true(field(v.test, "seed", seed, sizeof(seed)));
        assert_true(field(v.test, "ek", pk, sizeof(pk)));
        assert_true(field(v.test, "dk", dk, sizeof(dk)));
        assert_keys(b, seed, pk, dk);
    }
    close_counted(&v, seen);
}

static void test_wycheproof_decaps(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    struct json_vectors v = open_or_skip("mlkem_768_test.json");
    uint8_t seed[MLKEM_SEED_LEN], pk[MLKEM_PK_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];
    long seen = 0, used = 0;

    for (; json_vectors_next(&v); seen++) {
        if (!field(v.test, "seed", seed, sizeof(seed)) || !field(v.test, "c", ct, sizeof(ct)))
            continue;
        assert_true(json_is(v.test, "result", "valid"));
        assert_true(field(v.test, "ek", pk, sizeof(pk)));
        assert_true(field(v.test, "K", ss, sizeof(ss)));
        assert_keys(b, seed, pk, NULL);
        assert_decaps_gives(b, seed, ct, ss);
        used++;
    }
    assert_int_equal(used, 153);
    close_counted(&v, seen);
}

static void test_wycheproof_encaps(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    struct json_vectors v = open_or_skip("mlkem_768_encaps_test.json");
    uint8_t pk[MLKEM_PK_LEN], rand[MLKEM_ENC_RAND_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];
    long seen = 0, refused = 0;

    for (; json_vectors_next(&v); seen++) {
        if (!field(v.test, "ek", pk, sizeof(pk)) || !field(v.test, "m", rand, sizeof(rand)))
            continue;
        if (json_is(v.test, "result", "valid")) {
            assert_true(field(v.test, "c", ct, sizeof(ct)));
            assert_true(field(v.test, "K", ss, sizeof(ss)));
            assert_encaps_gives(b, pk, rand, ct, ss);
        } else {
            assert_encaps_refused(b, pk, rand);
            refused++;
        }
    }
    assert_true(refused > 100);
    close_counted(&v, seen);
}

static void test_wycheproof_expanded(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    struct json_vectors v = open_or_skip("mlkem_768_semi_expanded_decaps_test.json");
    uint8_t dk[MLKEM_DK_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];
    long seen = 0;

    for (; json_vectors_next(&v); seen++) {
        if (!field(v.test, "dk", dk, sizeof(dk)) || !field(v.test, "c", ct, sizeof(ct)))
            continue;
        if (json_is(v.test, "result", "valid")) {
            assert_true(field(v.test, "K", ss, sizeof(ss)));
            assert_decaps_dk_gives(b, dk, ct, ss);
        } else {
            assert_decaps_dk_refused(b, dk, ct);
        }
    }
    close_counted(&v, seen);
}

/* The CCTV files: lines "name = hex". The first line of a name holds the value meant here. */
struct cctv {
    char *text;
};

static struct cctv cctv_open_or_skip(const char *file)
{
    size_t n;
    struct cctv f = {vectors_read(file, &n)};

    if (!f.text)
        skip();
    return f;
}

static void cctv_get(const struct cctv *f, const char *name, uint8_t *ret, size_t n)
{
    char start[32];
    const char *at = f->text;
    int len = snprintf(start, sizeof(start), "%s = ", name);

    while (strncmp(at, start, (size_t)len) != 0) {
        at = strchr(at, '\n');
        assert_non_null(at);
        at++;
    }
    at += len;
    assert_int_equal(strcspn(at, "\r\n"), 2 * n);
    assert_true(hex_decode(at, 2 * n, ret));
}

/* An expanded key, an encapsulation to it and its secret. How these files get from d to the key is not
 * compared: they predate the final FIPS 203, which appended a byte to d before hashing it (its appendix C.2;
 * C2SP/CCTV issue 12). */
static void check_cctv_story(const struct mlkem_backend *b, const char *file)
{
    struct cctv f = cctv_open_or_skip(file);
    uint8_t pk[MLKEM_PK_LEN], dk[MLKEM_DK_LEN];
    uint8_t rand[MLKEM_ENC_RAND_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    cctv_get(&f, "ek", pk, sizeof(pk));
    cctv_get(&f, "dk", dk, sizeof(dk));
    cctv_get(&f, "m", rand, sizeof(rand));
    cctv_get(&f, "c", ct, sizeof(ct));
    cctv_get(&f, "K", ss, sizeof(ss));
    free(f.text);
    assert_encaps_gives(b, pk, rand, ct, ss);
    assert_decaps_dk_gives(b, dk, ct, ss);
}

static void test_cctv_intermediate(void **state)
{
    check_cctv_story(backend_of(state), "cctv_mlkem768_intermediate.txt");
}

static void test_cctv_unlucky_sample(void **state)
{
    check_cctv_story(backend_of(state), "cctv_mlkem768_unluckysample.txt");
}

static void test_cctv_strcmp(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    struct cctv f = cctv_open_or_skip("cctv_mlkem768_strcmp.txt");
    uint8_t dk[MLKEM_DK_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    cctv_get(&f, "dk", dk, sizeof(dk));
    cctv_get(&f, "c", ct, sizeof(ct));
    cctv_get(&f, "K", ss, sizeof(ss));
    free(f.text);
    assert_decaps_dk_gives(b, dk, ct, ss);
}

static void test_cctv_modulus(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    struct cctv f = cctv_open_or_skip("cctv_mlkem768_modulus.txt");
    uint8_t pk[MLKEM_PK_LEN];
    const uint8_t rand[MLKEM_ENC_RAND_LEN] = {0};
    long seen = 0;
    char *rest = f.text, *line;

    while ((line = strsep(&rest, "\r\n"))) {
        if (*line == '\0')
            continue;
        assert_int_equal(strlen(line), 2 * sizeof(pk));
        assert_true(hex_decode(line, 2 * sizeof(pk), pk));
        assert_encaps_refused(b, pk, rand);
        seen++;
    }
    assert_true(seen > 700);
    free(f.text);
}

static void absorb_and_wipe(struct keccak *all, uint8_t *p, size_t n)
{
    keccak_absorb(all, p, n);
    memset(p, 0, n);
}

/* CCTV's accumulated vectors: 100 keys, encapsulations and refused ciphertexts from one SHAKE128 stream, and
 * the hash of all that comes out. */
static void test_cctv_accumulated(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    uint8_t seed[MLKEM_SEED_LEN], rand[MLKEM_ENC_RAND_LEN], pk[MLKEM_PK_LEN], ct[MLKEM_CT_LEN],
            ss[MLKEM_SS_LEN];
    uint8_t expected[32], got[32];
    struct keccak source, all;

    assert_true(hex_decode("1114b1b6699ed191734fa339376afa7e285c9e6acf6ff0177d346696ce564415", 64, expected));
    keccak_init(&source, KECCAK_SHAKE128);
    keccak_init(&all, KECCAK_SHAKE128);
    for (int i = 0; i < 100; i++) {
        keccak_squeeze(&source, seed, sizeof(seed));
        assert_int_equal(b->keypair(seed, pk), 0);
        keccak_absorb(&all, pk, sizeof(pk));
        keccak_squeeze(&source, rand, sizeof(rand));
        assert_int_equal(b->encaps(pk, rand, ct, ss), 0);
        keccak_absorb(&all, ct, sizeof(ct));
        assert_decaps_gives(b, seed, ct, ss);
        absorb_and_wipe(&all, ss, sizeof(ss));
        keccak_squeeze(&source, ct, sizeof(ct));
        assert_int_equal(b->decaps(seed, ct, ss), 0);
        absorb_and_wipe(&all, ss, sizeof(ss));
    }
    keccak_squeeze(&all, got, sizeof(got));
    assert_memory_equal(got, expected, sizeof(got));
}

/* A refused ciphertext gives SHAKE256(z || ct), whichever bit of it was turned. */
static void test_implicit_rejection(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    uint8_t seed[MLKEM_SEED_LEN], rand[MLKEM_ENC_RAND_LEN], pk[MLKEM_PK_LEN], ct[MLKEM_CT_LEN];
    uint8_t ss[MLKEM_SS_LEN], rejected[MLKEM_SS_LEN];

    randombytes_buf(seed, sizeof(seed));
    randombytes_buf(rand, sizeof(rand));
    assert_int_equal(b->keypair(seed, pk), 0);
    assert_int_equal(b->encaps(pk, rand, ct, ss), 0);
    assert_decaps_gives(b, seed, ct, ss);
    for (size_t bit = 0; bit < 8 * sizeof(ct); bit += 41) {
        struct keccak j;

        ct[bit / 8] ^= (uint8_t)(1 << bit % 8);
        keccak_init(&j, KECCAK_SHAKE256);
        keccak_absorb(&j, seed + 32, 32);
        keccak_absorb(&j, ct, sizeof(ct));
        keccak_squeeze(&j, rejected, sizeof(rejected));
        assert_decaps_gives(b, seed, ct, rejected);
        ct[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void set_coefficient(uint8_t *encoded, size_t i, unsigned value)
{
    uint8_t *p = encoded + i / 2 * 3;

    if (i % 2) {
        p[1] = (uint8_t)((p[1] & 15) | (value & 15) << 4);
        p[2] = (uint8_t)(value >> 4);
    } else {
        p[0] = (uint8_t)value;
        p[1] = (uint8_t)((p[1] & 240) | value >> 8);
    }
}

/* The modulus check: the largest reduced value passes at every place, the smallest unreduced one at none. */
static void test_unreduced_public_key(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    uint8_t seed[MLKEM_SEED_LEN], pk[MLKEM_PK_LEN], rand[MLKEM_ENC_RAND_LEN] = {1};
    uint8_t ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    randombytes_buf(seed, sizeof(seed));
    assert_int_equal(b->keypair(seed, pk), 0);
    for (size_t i = 0; i < 768; i++) {
        set_coefficient(pk, i, i % 2 ? Q : 4095);
        assert_encaps_refused(b, pk, rand);
        set_coefficient(pk, i, Q - 1);
        if (i % 64 == 0 || i == 767)
            assert_int_equal(b->encaps(pk, rand, ct, ss), 0);
    }
}

static void test_bad_expanded_key(void **state)
{
    const struct mlkem_backend *b = backend_of(state);
    uint8_t seed[MLKEM_SEED_LEN], dk[MLKEM_DK_LEN], bad[MLKEM_DK_LEN], ct[MLKEM_CT_LEN] = {0};

    randombytes_buf(seed, sizeof(seed));
    assert_int_equal(b->expand(seed, dk), 0);
    memcpy(bad, dk, sizeof(bad));
    bad[S_LEN + MLKEM_PK_LEN] ^= 1;
    assert_decaps_dk_refused(b, bad, ct);
    memcpy(bad, dk, sizeof(bad));
    set_coefficient(bad, 5, Q);
    assert_decaps_dk_refused(b, bad, ct);
    memcpy(bad, dk, sizeof(bad));
    set_coefficient(bad + S_LEN, 5, Q);
    sha3_256(bad + S_LEN, MLKEM_PK_LEN, bad + S_LEN + MLKEM_PK_LEN);
    assert_decaps_dk_refused(b, bad, ct);
}

static void assert_agree(const struct mlkem_backend *a, const struct mlkem_backend *b)
{
    uint8_t seed[MLKEM_SEED_LEN], rand[MLKEM_ENC_RAND_LEN], pk[MLKEM_PK_LEN], ct[MLKEM_CT_LEN],
            ss[MLKEM_SS_LEN];

    randombytes_buf(seed, sizeof(seed));
    randombytes_buf(rand, sizeof(rand));
    assert_int_equal(a->keypair(seed, pk), 0);
    assert_keys(b, seed, pk, NULL);
    assert_int_equal(a->encaps(pk, rand, ct, ss), 0);
    assert_encaps_gives(b, pk, rand, ct, ss);
    assert_decaps_gives(b, seed, ct, ss);
    randombytes_buf(ct, sizeof(ct));
    assert_int_equal(a->decaps(seed, ct, ss), 0);
    assert_decaps_gives(b, seed, ct, ss);
}

static void test_backend_agrees_with_builtin(void **state)
{
    const struct mlkem_backend *b = backend_of(state);

    for (int i = 0; i < 50; i++)
        assert_agree(mlkem_builtin(), b);
}

static const struct mlkem_backend *dispatcher(void)
{
    static const struct mlkem_backend b = {
            .name = "dispatcher", .keypair = mlkem_keypair, .encaps = mlkem_encaps, .decaps = mlkem_decaps};

    return &b;
}
static struct subject dispatched = {dispatcher};

static int setup(void **state)
{
    (void)state;
    return sodium_init() < 0;
}

/* clang-format off */
#define FOR(subject, test) {#test "/" #subject, test, NULL, NULL, &(subject)}
#define EACH(test) FOR(builtin, test), FOR(openssl, test)
/* clang-format on */

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_keccak_known_answers),
            cmocka_unit_test(test_keccak_in_pieces),
            EACH(test_wycheproof_keygen),
            EACH(test_wycheproof_decaps),
            EACH(test_wycheproof_encaps),
            EACH(test_wycheproof_expanded),
            EACH(test_cctv_intermediate),
            EACH(test_cctv_unlucky_sample),
            EACH(test_cctv_strcmp),
            EACH(test_cctv_modulus),
            EACH(test_cctv_accumulated),
            EACH(test_implicit_rejection),
            EACH(test_unreduced_public_key),
            EACH(test_bad_expanded_key),
            FOR(openssl, test_backend_agrees_with_builtin),
            FOR(dispatched, test_backend_agrees_with_builtin),
    };

    return cmocka_run_group_tests_name("mlkem", tests, setup, NULL);
}
