#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "identity_keys.h"
#include "parties.h"
#include "prekey_body.h"

struct fixture {
    struct stream_rng stream;
    struct rng rng;
    struct party bob, carol;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (!f)
        return -1;
    stream_rng_init(&f->stream, "prekeys");
    f->rng = stream_rng(&f->stream);
    party_init(&f->bob, "bob", &f->rng);
    party_init(&f->carol, "carol", &f->rng);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    party_done(&f->bob);
    party_done(&f->carol);
    free(f);
    return 0;
}

static struct span of(const struct buf *b)
{
    return (struct span){b->data, b->len};
}

static int verify(const struct device *peer, struct span spk, struct span otk, uint64_t now)
{
    struct bundle bundle = {0};
    int status = bundle_verify(peer, spk, otk, now, &bundle);
    if (status)
        assert_null(bundle.signed_prekey.mlkem);
    return status;
}

static void test_bundle(void **state)
{
    struct fixture *f = *state;
    const struct device *bob = party_device(&f->bob);
    struct span spk = of(&f->bob.spk_record), otk = of(&f->bob.otk_record), none = {0};
    struct bundle with, without;
    assert_int_equal(bundle_verify(bob, spk, otk, TEST_NOW, &with), 0);
    assert_int_equal(bundle_verify(bob, spk, none, TEST_NOW, &without), 0);
    assert_true(with.has_one_time);
    assert_false(without.has_one_time);
    assert_int_equal(with.signed_prekey.id, SPK_ID);
    assert_int_equal(with.one_time.id, OTK_ID);
    assert_memory_equal(with.signed_prekey.x25519, f->bob.spk.x25519_public, 32);
    assert_memory_equal(with.one_time.mlkem, f->bob.otk.mlkem_public, MLKEM_PK_LEN);
    assert_memory_not_equal(with.hash, without.hash, 32);
}

/* Both ends compute the same hash: the owner from the private records, the other from the public ones. */
static void test_bundle_hash(void **state)
{
    struct fixture *f = *state;
    struct bundle b = party_bundle(&f->bob, true);
    uint8_t bytes[2][PREKEY_BODY_MAX], hash[32];
    struct buf spk = buf_over(bytes[0], PREKEY_BODY_MAX), otk = buf_over(bytes[1], PREKEY_BODY_MAX);
    prekey_body(&f->bob.spk, identity_address(f->bob.id), &spk);
    prekey_body(&f->bob.otk, identity_address(f->bob.id), &otk);
    assert_int_equal(spk.error | otk.error, 0);
    bundle_hash(of(&spk), of(&otk), hash);
    assert_memory_equal(hash, b.hash, 32);
}

static void check_every_byte(const struct fixture *f, bool one_time)
{
    const struct buf *record = one_time ? &f->bob.otk_record : &f->bob.spk_record;
    uint8_t bytes[RELAY_MAX_PREKEY];
    struct span changed = {bytes, record->len}, spk = of(&f->bob.spk_record);
    for (size_t at = 0; at < record->len; at++) {
        memcpy(bytes, record->data, record->len);
        bytes[at] ^= (uint8_t)(1 << at % 8);
        assert_int_not_equal(verify(party_device(&f->bob), one_time ? spk : changed,
                                     one_time ? changed : of(&f->bob.otk_record), TEST_NOW),
                0);
    }
    for (changed.n = 1; changed.n < record->len; changed.n++)
        assert_int_equal(verify(party_device(&f->bob), one_time ? spk : changed,
                                 one_time ? changed : of(&f->bob.otk_record), TEST_NOW),
                PREKEY_MALFORMED);
}

static void test_every_byte(void **state)
{
    check_every_byte(*state, false);
    check_every_byte(*state, true);
}

static void test_exchanged_kinds(void **state)
{
    struct fixture *f = *state;
    const struct device *bob = party_device(&f->bob);
    struct span spk = of(&f->bob.spk_record), otk = of(&f->bob.otk_record), none = {0};
    assert_int_equal(verify(bob, otk, none, TEST_NOW), PREKEY_MALFORMED);
    assert_int_equal(verify(bob, otk, spk, TEST_NOW), PREKEY_MALFORMED);
    assert_int_equal(verify(bob, spk, spk, TEST_NOW), PREKEY_MALFORMED);
    assert_int_equal(verify(bob, none, otk, TEST_NOW), PREKEY_MALFORMED);
}

/* Even a body of the right form is of no use under the other kind's signature. */
static void test_exchanged_labels(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[PREKEY_BODY_MAX], signature[64], record[RELAY_MAX_PREKEY];
    struct buf body = buf_over(bytes, sizeof(bytes)), b = buf_over(record, sizeof(record));
    prekey_body(&f->bob.spk, identity_address(f->bob.id), &body);
    identity_sign(f->bob.id, LABEL_ONE_TIME_PREKEY, of(&body), signature);
    buf_lp(&b, body.data, body.len);
    buf_bytes(&b, signature, 64);
    assert_int_equal(verify(party_device(&f->bob), of(&b), (struct span){0}, TEST_NOW), PREKEY_BAD_SIGNATURE);
}

static void test_owner(void **state)
{
    struct fixture *f = *state;
    const struct device *bob = party_device(&f->bob), *carol = party_device(&f->carol);
    struct span spk = of(&f->bob.spk_record), otk = of(&f->bob.otk_record), none = {0};
    struct device other = *bob;
    assert_int_equal(verify(carol, spk, none, TEST_NOW), PREKEY_WRONG_OWNER);
    assert_int_equal(verify(bob, spk, of(&f->carol.otk_record), TEST_NOW), PREKEY_WRONG_OWNER);
    other.address.device = 2;
    assert_int_equal(verify(&other, spk, otk, TEST_NOW), PREKEY_WRONG_OWNER);
    other = *bob;
    memcpy(other.dsk, carol->dsk, 32);
    assert_int_equal(verify(&other, spk, none, TEST_NOW), PREKEY_BAD_SIGNATURE);
    /* Prekeys of a newer list than the one that we hold: somebody shows us an old list. */
    other = *bob;
    other.list_n = 0;
    assert_int_equal(verify(&other, spk, none, TEST_NOW), PREKEY_WRONG_OWNER);
    other.list_n = 2;
    assert_int_equal(verify(&other, spk, otk, TEST_NOW), 0);
}

static void test_validity(void **state)
{
    struct fixture *f = *state;
    const struct device *bob = party_device(&f->bob);
    struct span spk = of(&f->bob.spk_record), none = {0};
    assert_int_equal(verify(bob, spk, none, TEST_NOW + PREKEY_VALID_MS), 0);
    assert_int_equal(verify(bob, spk, none, TEST_NOW + PREKEY_VALID_MS + 1), PREKEY_EXPIRED);
    assert_int_equal(verify(bob, spk, none, TEST_NOW - PREKEY_SKEW_MS), 0);
    assert_int_equal(verify(bob, spk, none, TEST_NOW - PREKEY_SKEW_MS - 1), PREKEY_EXPIRED);
}

/* A signed prekey of the owner's with other fields than prekey_make_signed() writes. */
static int verify_variant(const struct fixture *f, const struct prekey_secret *k)
{
    uint8_t bytes[PREKEY_BODY_MAX], signature[64], record[RELAY_MAX_PREKEY];
    struct buf body = buf_over(bytes, sizeof(bytes)), b = buf_over(record, sizeof(record));
    prekey_body(k, identity_address(f->bob.id), &body);
    identity_sign(f->bob.id, LABEL_SIGNED_PREKEY, of(&body), signature);
    buf_lp(&b, body.data, body.len);
    buf_bytes(&b, signature, 64);
    return verify(party_device(&f->bob), of(&b), (struct span){0}, TEST_NOW);
}

static void test_variants(void **state)
{
    struct fixture *f = *state;
    struct prekey_secret k = f->bob.spk;
    assert_int_equal(verify_variant(f, &k), 0);
    k.suite = 2;
    assert_int_equal(verify_variant(f, &k), PREKEY_NO_SUITE);
    k = f->bob.spk;
    k.id = 0;
    assert_int_equal(verify_variant(f, &k), PREKEY_MALFORMED);
    k = f->bob.spk;
    k.not_after_ms++;
    assert_int_equal(verify_variant(f, &k), PREKEY_MALFORMED);
    k.not_after_ms = k.not_before_ms - 1;
    assert_int_equal(verify_variant(f, &k), PREKEY_MALFORMED);
}

static void test_save_and_load(void **state)
{
    struct fixture *f = *state;
    struct prekey_secret k;
    struct buf b;
    buf_init_secret(&b, 4096);
    prekey_save(&f->bob.otk, &b);
    memset(&k, 0, sizeof(k));
    assert_int_equal(prekey_load(b.data, b.len, &k), 0);
    assert_int_equal(k.one_time, true);
    assert_int_equal(k.id, OTK_ID);
    assert_memory_equal(k.x25519, f->bob.otk.x25519, 32);
    assert_memory_equal(k.x25519_public, f->bob.otk.x25519_public, 32);
    assert_memory_equal(k.mlkem_seed, f->bob.otk.mlkem_seed, MLKEM_SEED_LEN);
    assert_memory_equal(k.mlkem_public, f->bob.otk.mlkem_public, MLKEM_PK_LEN);
    for (size_t n = 0; n < b.len; n++)
        assert_int_equal(prekey_load(b.data, n, &k), PREKEY_MALFORMED);
    b.data[1] = 2;
    assert_int_equal(prekey_load(b.data, b.len, &k), PREKEY_MALFORMED);
    buf_reset(&b);
    prekey_save(&f->bob.spk, &b);
    assert_int_equal(prekey_load(b.data, b.len, &k), 0);
    assert_int_equal(k.one_time, false);
    assert_int_equal(k.suite, 1);
    assert_int_equal(k.list_n, 1);
    assert_int_equal(k.not_before_ms, TEST_NOW);
    assert_int_equal(k.not_after_ms, TEST_NOW + PREKEY_VALID_MS);
    buf_u8(&b, 0);
    assert_int_equal(prekey_load(b.data, b.len, &k), PREKEY_MALFORMED);
    buf_done(&b);
}

/* A public part that does not fit leaves no private part behind. */
static void test_make_fails_clean(void **state)
{
    struct fixture *f = *state;
    struct prekey_secret k;
    struct buf b = {.max = 100};
    memset(&k, 0xa5, sizeof(k));
    assert_int_not_equal(prekey_make_one_time(f->bob.id, 5, &f->rng, &k, &b), 0);
    assert_true(sodium_is_zero((const uint8_t *)&k, sizeof(k)));
    buf_reset(&b);
    assert_int_not_equal(prekey_make_one_time(f->bob.id, 0, &f->rng, &k, &b), 0);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_bundle, setup, teardown),
            cmocka_unit_test_setup_teardown(test_bundle_hash, setup, teardown),
            cmocka_unit_test_setup_teardown(test_every_byte, setup, teardown),
            cmocka_unit_test_setup_teardown(test_exchanged_kinds, setup, teardown),
            cmocka_unit_test_setup_teardown(test_exchanged_labels, setup, teardown),
            cmocka_unit_test_setup_teardown(test_owner, setup, teardown),
            cmocka_unit_test_setup_teardown(test_validity, setup, teardown),
            cmocka_unit_test_setup_teardown(test_variants, setup, teardown),
            cmocka_unit_test_setup_teardown(test_save_and_load, setup, teardown),
            cmocka_unit_test_setup_teardown(test_make_fails_clean, setup, teardown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
