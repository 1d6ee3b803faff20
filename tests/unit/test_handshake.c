#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "parties.h"
#include "ratchet_impl.h"

/* Curve25519 points whose multiples by any clamped scalar are zero (RFC 7748, 6.1; D. J. Bernstein's list).
 */
static const uint8_t low_order[][32] = {
        {0},
        {1},
        {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
                0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
        {0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
                0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
        {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
        {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
        {0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
};

/* Alice has started; her first envelope is there, with what Bob needs to answer. */
struct fixture {
    struct pair p;
    struct buf envelope, body;
    struct envelope_view view;
    struct device alice, bob;
    struct prekey_secret spk, otk;
    bool one_time;
};

static struct fixture *begin(const char *seed, bool one_time)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    pair_initiate(&f->p, seed, one_time);
    buf_init(&f->envelope, ENVELOPE_MAX_BODY);
    buf_init(&f->body, ENVELOPE_MAX_BODY);
    encrypt_text(f->p.a, "first", f->p.now, &f->p.rng, &f->envelope);
    assert_int_equal(envelope_parse(f->envelope.data, f->envelope.len, &f->view), 0);
    f->alice = *party_device(&f->p.alice);
    f->bob = *party_device(&f->p.bob);
    f->spk = f->p.bob.spk;
    f->otk = f->p.bob.otk;
    f->one_time = one_time;
    return f;
}

static void finish(struct fixture *f)
{
    pair_done(&f->p);
    buf_done(&f->envelope);
    buf_done(&f->body);
    free(f);
}

/* Answers with what stands in the fixture; Bob's ratchet stays NULL on failure. */
static int respond(struct fixture *f)
{
    ratchet_free(f->p.b);
    f->p.b = NULL;
    return ratchet_respond(
            f->p.bob.id, &f->alice, &f->view, &f->spk, f->one_time ? &f->otk : NULL, f->p.now, &f->p.b);
}

/* Refused, by the handshake or by the first message. */
static void assert_no_session(struct fixture *f)
{
    int status = respond(f);
    assert_true(status >= 0);
    if (status == 0)
        status = decrypt_body(f->p.b, &f->envelope, f->p.now, &f->p.rng, &f->body);
    assert_true(status > 0);
}

static void assert_session(struct fixture *f)
{
    assert_int_equal(respond(f), 0);
    assert_int_equal(decrypt_body(f->p.b, &f->envelope, f->p.now, &f->p.rng, &f->body), 0);
    assert_string_equal((char *)f->body.data, "first");
}

static void exchange(struct fixture *f, struct ratchet *from, struct ratchet *to, const char *text)
{
    encrypt_text(from, text, f->p.now, &f->p.rng, &f->envelope);
    assert_int_equal(decrypt_body(to, &f->envelope, f->p.now, &f->p.rng, &f->body), 0);
    assert_string_equal((char *)f->body.data, text);
}

static void check_session(bool one_time)
{
    struct fixture *f = begin("session", one_time);
    assert_false(ratchet_answered(f->p.a));
    assert_int_equal(ratchet_weak(f->p.a), !one_time);
    assert_session(f);
    assert_memory_equal(ratchet_transcript(f->p.a), ratchet_transcript(f->p.b), TRANSCRIPT_LEN);
    assert_int_equal(ratchet_session_number(f->p.b), TEST_NOW);
    assert_memory_equal(ratchet_peer(f->p.a), &f->bob.address, sizeof(struct address));
    assert_memory_equal(ratchet_peer(f->p.b), &f->alice.address, sizeof(struct address));
    assert_int_equal(ratchet_weak(f->p.b), !one_time);
    exchange(f, f->p.b, f->p.a, "answer");
    assert_true(ratchet_answered(f->p.a));
    assert_false(ratchet_weak(f->p.a));
    exchange(f, f->p.a, f->p.b, "third");
    assert_false(ratchet_weak(f->p.b));
    assert_int_equal(ratchet_sent(f->p.a), 2);
    assert_int_equal(ratchet_received(f->p.b), 2);
    assert_int_equal(ratchet_seen_by_peer(f->p.b), 1);
    finish(f);
}

static void test_session(void **state)
{
    (void)state;
    check_session(true);
    check_session(false);
}

/* The header rides on each message until the answer, and not after. */
static void test_header_until_answer(void **state)
{
    struct fixture *f = begin("riding", true);
    (void)state;
    assert_true(f->view.has_handshake);
    assert_session(f);
    exchange(f, f->p.a, f->p.b, "again");
    assert_int_equal(f->envelope.data[1], KIND_HANDSHAKE);
    exchange(f, f->p.b, f->p.a, "answer");
    assert_int_equal(f->envelope.data[1], KIND_PLAIN);
    exchange(f, f->p.a, f->p.b, "third");
    assert_int_equal(f->envelope.data[1], KIND_PLAIN);
    finish(f);
}

static int initiate_with(struct fixture *f, const struct device *peer, const struct bundle *bundle)
{
    struct ratchet *r = NULL;
    int status = ratchet_initiate(f->p.alice.id, peer, bundle, 1, f->p.now, &f->p.rng, &r);
    assert_int_equal(status == 0, r != NULL);
    ratchet_free(r);
    return status;
}

static void test_low_order_initiator(void **state)
{
    struct fixture *f = begin("low order", true);
    struct bundle good = party_bundle(&f->p.bob, true), bad;
    struct device peer;
    (void)state;
    assert_int_equal(initiate_with(f, &f->bob, &good), 0);
    for (size_t i = 0; i < ARRAY_SIZE(low_order); i++) {
        bad = good;
        memcpy(bad.signed_prekey.x25519, low_order[i], 32);
        assert_int_equal(initiate_with(f, &f->bob, &bad), RATCHET_BAD_PEER);
        bad = good;
        memcpy(bad.one_time.x25519, low_order[i], 32);
        assert_int_equal(initiate_with(f, &f->bob, &bad), RATCHET_BAD_PEER);
        peer = f->bob;
        memcpy(peer.dhk, low_order[i], 32);
        assert_int_equal(initiate_with(f, &peer, &good), RATCHET_BAD_PEER);
    }
    finish(f);
}

static void test_low_order_responder(void **state)
{
    struct fixture *f = begin("low order", true);
    uint8_t ek[32];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(low_order); i++) {
        memcpy(ek, low_order[i], 32);
        f->view.ek = ek;
        assert_int_equal(respond(f), RATCHET_BAD_PEER);
        assert_int_equal(envelope_parse(f->envelope.data, f->envelope.len, &f->view), 0);
        memcpy(f->alice.dhk, low_order[i], 32);
        assert_int_equal(respond(f), RATCHET_BAD_PEER);
        f->alice = *party_device(&f->p.alice);
    }
    assert_session(f);
    finish(f);
}

/* A coefficient that is not reduced (FIPS 203, 7.2). */
static void test_bad_kem_key(void **state)
{
    struct fixture *f = begin("kem key", true);
    struct bundle b = party_bundle(&f->p.bob, true);
    uint8_t kem[MLKEM_PK_LEN];
    (void)state;
    memset(kem, 0xff, sizeof(kem));
    b.one_time.mlkem = kem;
    assert_int_equal(initiate_with(f, &f->bob, &b), RATCHET_BAD_PEER);
    b = party_bundle(&f->p.bob, false);
    b.signed_prekey.mlkem = kem;
    assert_int_equal(initiate_with(f, &f->bob, &b), RATCHET_BAD_PEER);
    finish(f);
}

static void set_suites(struct device *d, uint8_t n, const uint16_t *suites)
{
    d->suites = n;
    memcpy(d->suite, suites, n * sizeof(*suites));
}

static void test_suites(void **state)
{
    static const uint16_t two[] = {2}, both[] = {1, 2}, many[] = {1, 5, 9};
    struct fixture *f = begin("suites", true);
    struct bundle good = party_bundle(&f->p.bob, true), other = good;
    struct device peer = f->bob;
    uint8_t th[TRANSCRIPT_LEN];
    (void)state;
    set_suites(&peer, 1, two);
    assert_int_equal(initiate_with(f, &peer, &good), RATCHET_BAD_PEER);
    set_suites(&peer, 2, both);
    assert_int_equal(initiate_with(f, &peer, &good), 0);
    other.signed_prekey.suite = 2;
    assert_int_equal(initiate_with(f, &f->bob, &other), RATCHET_BAD_PEER);
    /* The responder computes the choice from the lists, and the lists are in the transcript. */
    set_suites(&f->alice, 1, two);
    assert_int_equal(respond(f), RATCHET_BAD_PEER);
    set_suites(&f->alice, 3, many);
    assert_no_session(f);
    f->alice = *party_device(&f->p.alice);
    f->view.suite = 2;
    assert_int_equal(respond(f), RATCHET_BAD_PEER);
    f->view.suite = 1;
    assert_session(f);
    memcpy(th, ratchet_transcript(f->p.b), sizeof(th));
    assert_memory_equal(th, ratchet_transcript(f->p.a), sizeof(th));
    finish(f);
}

static void check_prekey_names(bool one_time)
{
    struct fixture *f = begin("names", one_time);
    struct prekey_secret spk = f->spk, otk = f->otk;
    f->spk.id = SPK_ID + 1;
    assert_int_equal(respond(f), RATCHET_FAILED);
    f->spk = otk; /* a one-time key in the signed one's place, even under its number */
    f->spk.id = SPK_ID;
    assert_int_equal(respond(f), RATCHET_FAILED);
    f->spk = spk;
    f->spk.suite = 2;
    assert_int_equal(respond(f), RATCHET_FAILED);
    f->spk = spk;
    f->one_time = !one_time; /* one that is not named, or none though one is */
    assert_int_equal(respond(f), RATCHET_FAILED);
    f->one_time = one_time;
    f->otk.id = OTK_ID + 1;
    assert_int_equal(respond(f), one_time ? RATCHET_FAILED : 0);
    f->otk = spk;
    f->otk.id = OTK_ID;
    assert_int_equal(respond(f), one_time ? RATCHET_FAILED : 0);
    f->otk = otk;
    assert_session(f);
    finish(f);
}

static void test_prekey_names(void **state)
{
    (void)state;
    check_prekey_names(true);
    check_prekey_names(false);
}

/* The right numbers over other keys: another pair's, or X25519 and ML-KEM of two pairs exchanged. */
static void test_exchanged_keys(void **state)
{
    struct fixture *f = begin("exchanged", true);
    struct prekey_secret spk = f->spk, otk = f->otk;
    (void)state;
    memcpy(f->spk.mlkem_seed, otk.mlkem_seed, MLKEM_SEED_LEN);
    memcpy(f->spk.mlkem_public, otk.mlkem_public, MLKEM_PK_LEN);
    memcpy(f->otk.mlkem_seed, spk.mlkem_seed, MLKEM_SEED_LEN);
    memcpy(f->otk.mlkem_public, spk.mlkem_public, MLKEM_PK_LEN);
    assert_no_session(f);
    f->spk = spk;
    f->otk = otk;
    memcpy(f->otk.x25519, spk.x25519, 32);
    memcpy(f->otk.x25519_public, spk.x25519_public, 32);
    assert_no_session(f);
    f->otk = otk;
    f->spk.not_after_ms++; /* the bundle's hash covers all of the body */
    assert_no_session(f);
    f->spk = spk;
    f->spk.list_n++;
    assert_no_session(f);
    f->spk = spk;
    assert_session(f);
    finish(f);
}

static void check_swapped_kem(bool one_time)
{
    struct fixture *f = begin("swapped", one_time);
    struct bundle b = party_bundle(&f->p.bob, one_time);
    struct ratchet *r = NULL;
    ratchet_free(f->p.a);
    f->p.a = NULL;
    /* A relay that could sign would put its own KEM key into the bundle; Bob's transcript has his. */
    if (one_time)
        b.one_time.mlkem = f->p.alice.otk.mlkem_public;
    else
        b.signed_prekey.mlkem = f->p.alice.spk.mlkem_public;
    assert_int_equal(ratchet_initiate(f->p.alice.id, &f->bob, &b, 1, f->p.now, &f->p.rng, &r), 0);
    encrypt_text(r, "first", f->p.now, &f->p.rng, &f->envelope);
    assert_int_equal(envelope_parse(f->envelope.data, f->envelope.len, &f->view), 0);
    assert_no_session(f);
    ratchet_free(r);
    finish(f);
}

static void test_swapped_kem_key(void **state)
{
    (void)state;
    check_swapped_kem(true);
    check_swapped_kem(false);
}

/* Every byte of the handshake header counts, the sender's entry (another layer's to verify) included. */
static void test_every_header_byte(void **state)
{
    struct fixture *f = begin("bytes", true);
    uint8_t *p;
    (void)state;
    assert_session(f);
    for (size_t i = 0; i < f->view.handshake.n; i += i < 64 || i > 1130 ? 1 : 37) {
        p = f->envelope.data + 2 + i;
        *p ^= (uint8_t)(1 << i % 8);
        if (envelope_parse(f->envelope.data, f->envelope.len, &f->view) == 0 &&
                i < f->view.handshake.n - f->view.entry.n)
            assert_no_session(f);
        *p ^= (uint8_t)(1 << i % 8);
    }
    assert_int_equal(envelope_parse(f->envelope.data, f->envelope.len, &f->view), 0);
    assert_session(f);
    finish(f);
}

/* What certifies Alice is in the transcript: another device key, number, uid or device hash is another
 * session. */
static void test_peer_is_bound(void **state)
{
    struct fixture *f = begin("bound", true);
    (void)state;
    f->alice.hash[0] ^= 1;
    assert_no_session(f);
    f->alice = *party_device(&f->p.alice);
    f->alice.address.uid[0] ^= 1;
    assert_no_session(f);
    f->alice = *party_device(&f->p.alice);
    memcpy(f->alice.dhk, f->bob.dhk, 32);
    assert_no_session(f);
    f->alice = *party_device(&f->p.alice);
    f->alice.address.device = 2;
    assert_int_equal(respond(f), RATCHET_FAILED);
    f->view.sender_device = 2;
    assert_no_session(f);
    f->view.sender_device = 1;
    f->alice = *party_device(&f->p.alice);
    f->view.session_number++;
    assert_no_session(f);
    f->view.session_number--;
    assert_session(f);
    finish(f);
}

/* Carol cannot be made to answer what was meant for Bob. */
static void test_other_recipient(void **state)
{
    struct fixture *f = begin("other", true);
    struct party carol;
    struct ratchet *r = NULL;
    int status;
    (void)state;
    party_init(&carol, "carol", &f->p.rng);
    status = ratchet_respond(carol.id, &f->alice, &f->view, &carol.spk, &carol.otk, f->p.now, &r);
    if (status == 0)
        status = decrypt_body(r, &f->envelope, f->p.now, &f->p.rng, &f->body);
    assert_true(status > 0);
    ratchet_free(r);
    party_done(&carol);
    finish(f);
}

static void test_no_session_with_oneself(void **state)
{
    struct fixture *f = begin("self", true);
    struct bundle own = party_bundle(&f->p.alice, true);
    struct ratchet *r = NULL;
    (void)state;
    assert_int_equal(initiate_with(f, &f->alice, &own), RATCHET_BAD_PEER);
    assert_int_equal(ratchet_respond(f->p.alice.id, &f->alice, &f->view, &f->p.alice.spk, &f->p.alice.otk,
                             f->p.now, &r),
            RATCHET_FAILED);
    assert_null(r);
    finish(f);
}

static void test_needs_a_header(void **state)
{
    struct fixture *f = begin("plain", true);
    (void)state;
    f->view.has_handshake = false;
    assert_int_equal(respond(f), RATCHET_FAILED);
    finish(f);
}

/* A responder has no sending chain before the first message is proven. */
static void test_responder_cannot_speak_first(void **state)
{
    struct fixture *f = begin("early", true);
    struct inner in = text_inner("early");
    (void)state;
    assert_int_equal(respond(f), 0);
    assert_int_equal(ratchet_encrypt(f->p.b, &in, f->p.now, &f->p.rng, &f->envelope), -EINVAL);
    finish(f);
}

/* Another header than the first one's in front of a good message is refused, and so is any in front of an
 * answer. */
static void test_header_is_constant(void **state)
{
    struct fixture *f = begin("constant", true);
    uint8_t *last;
    (void)state;
    assert_session(f);
    encrypt_text(f->p.a, "again", f->p.now, &f->p.rng, &f->envelope);
    last = f->envelope.data + 2 + f->view.handshake.n - 1;
    *last ^= 1;
    assert_int_equal(decrypt_body(f->p.b, &f->envelope, f->p.now, &f->p.rng, &f->body), RATCHET_FAILED);
    *last ^= 1;
    assert_int_equal(decrypt_body(f->p.b, &f->envelope, f->p.now, &f->p.rng, &f->body), 0);
    finish(f);
}

static void test_header_in_front_of_answer(void **state)
{
    struct fixture *f = begin("answer", true);
    struct buf forged;
    (void)state;
    assert_session(f);
    buf_init(&forged, ENVELOPE_MAX_BODY);
    buf_u8(&forged, ENVELOPE_VERSION);
    buf_u8(&forged, KIND_HANDSHAKE);
    buf_bytes(&forged, f->view.handshake.p, f->view.handshake.n);
    encrypt_text(f->p.b, "answer", f->p.now, &f->p.rng, &f->envelope);
    buf_bytes(&forged, f->envelope.data + 2, f->envelope.len - 2);
    assert_int_equal(decrypt_body(f->p.a, &forged, f->p.now, &f->p.rng, &f->body), RATCHET_FAILED);
    assert_int_equal(decrypt_body(f->p.a, &f->envelope, f->p.now, &f->p.rng, &f->body), 0);
    buf_done(&forged);
    finish(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_session),
            cmocka_unit_test(test_header_until_answer),
            cmocka_unit_test(test_low_order_initiator),
            cmocka_unit_test(test_low_order_responder),
            cmocka_unit_test(test_bad_kem_key),
            cmocka_unit_test(test_suites),
            cmocka_unit_test(test_prekey_names),
            cmocka_unit_test(test_exchanged_keys),
            cmocka_unit_test(test_swapped_kem_key),
            cmocka_unit_test(test_every_header_byte),
            cmocka_unit_test(test_peer_is_bound),
            cmocka_unit_test(test_other_recipient),
            cmocka_unit_test(test_no_session_with_oneself),
            cmocka_unit_test(test_needs_a_header),
            cmocka_unit_test(test_responder_cannot_speak_first),
            cmocka_unit_test(test_header_is_constant),
            cmocka_unit_test(test_header_in_front_of_answer),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
