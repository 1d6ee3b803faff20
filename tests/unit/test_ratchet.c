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

static int setup(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    if (!p)
        return -1;
    pair_init(p, "ratchet", true);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    pair_done(*state);
    free(*state);
    return 0;
}

static struct buf new_envelope(void)
{
    struct buf b;
    buf_init(&b, ENVELOPE_MAX_BODY);
    return b;
}

static struct buf record_of(const struct ratchet *r)
{
    struct buf b;
    buf_init_secret(&b, RATCHET_MAX_RECORD);
    ratchet_save(r, &b);
    assert_int_equal(buf_status(&b), 0);
    return b;
}

static void assert_record(const struct ratchet *r, const struct buf *expected)
{
    struct buf b = record_of(r);
    assert_int_equal(b.len, expected->len);
    assert_memory_equal(b.data, expected->data, b.len);
    buf_done(&b);
}

static struct ratchet *clone(const struct ratchet *r)
{
    struct buf b = record_of(r);
    struct ratchet *copy = NULL;
    assert_int_equal(ratchet_load(b.data, b.len, &copy), 0);
    buf_done(&b);
    return copy;
}

static int open_envelope(struct pair *p, struct ratchet *r, const struct buf *e)
{
    struct buf body = new_envelope();
    int status = decrypt_body(r, e, p->now, &p->rng, &body);
    buf_done(&body);
    return status;
}

static void send(struct pair *p, struct ratchet *from, struct ratchet *to)
{
    struct buf e = new_envelope();
    encrypt_text(from, "text", p->now, &p->rng, &e);
    assert_int_equal(open_envelope(p, to, &e), 0);
    buf_done(&e);
}

static void assert_wiped(const struct ratchet *r)
{
    assert_true(sodium_is_zero((const uint8_t *)&r->work, sizeof(r->work)));
    assert_true(sodium_is_zero((const uint8_t *)&r->send_step, sizeof(r->send_step)));
    assert_true(sodium_is_zero((const uint8_t *)&r->receive_step, sizeof(r->receive_step)));
}

static void test_fields_arrive(void **state)
{
    struct pair *p = *state;
    struct buf e = new_envelope(), plain;
    struct envelope_view view;
    static uint8_t body[INNER_MAX_BODY];
    struct inner in = {.type = INNER_RECEIPT,
                         .flags = INNER_UNCOUNTED,
                         .count = 77,
                         .time_ms = 88,
                         .seq = 1,
                         .seen = 1},
                 got;
    in.own.n = 3;
    in.peer.n = 4;
    in.own.hash[5] = 6;
    in.peer.hash[7] = 8;
    in.id.b[9] = 10;
    in.body = (struct span){body, sizeof(body)};
    memset(body, 'b', sizeof(body));
    send(p, p->b, p->a);
    assert_int_equal(ratchet_encrypt(p->a, &in, p->now, &p->rng, &e), 0);
    assert_int_equal(in.seq, 2);
    assert_int_equal(in.seen, 1);
    assert_true(e.len <= ENVELOPE_MAX_BODY);
    assert_int_equal(envelope_parse(e.data, e.len, &view), 0);
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    assert_int_equal(ratchet_decrypt(p->b, &view, p->now, &p->rng, &plain, &got), 0);
    assert_int_equal(got.type, INNER_RECEIPT);
    assert_int_equal(got.flags, INNER_UNCOUNTED);
    assert_int_equal(got.count, 77);
    assert_int_equal(got.time_ms, 88);
    assert_int_equal(got.seq, 2);
    assert_int_equal(got.seen, 1);
    assert_int_equal(got.own.hash[5], 6);
    assert_int_equal(got.peer.hash[7], 8);
    assert_int_equal(got.id.b[9], 10);
    assert_int_equal(got.body.n, sizeof(body));
    assert_memory_equal(got.body.p, body, sizeof(body));
    buf_done(&e);
    buf_done(&plain);
}

/* An empty message in front of the answer, with the longest entry allowed: the worst case fits. */
static void test_longest_envelope(void **state)
{
    static uint8_t body[INNER_MAX_BODY];
    size_t longest = 2 + 2 + 4 + 8 + 32 + 4 + 4 + MLKEM_CT_LEN + 4 + RELAY_MAX_ENTRY + ROUTE_TAG_LEN + 2 +
                     SEALED_HEADER_LEN(MLKEM_PK_LEN) + NONCE_LEN + COM_LEN + 67584 + TAG_LEN;
    struct pair *p = *state;
    struct buf e = new_envelope();
    struct inner in = {.type = INNER_MESSAGE, .body = {body, sizeof(body)}};
    assert_int_equal(ratchet_encrypt(p->a, &in, p->now, &p->rng, &e), 0);
    assert_true(longest <= ENVELOPE_MAX_BODY && ENVELOPE_MAX_BODY <= RELAY_MAX_BODY);
    in.body.n++;
    assert_int_equal(ratchet_encrypt(p->a, &in, p->now, &p->rng, &e), -EINVAL);
    buf_done(&e);
}

static void check_every_byte(struct pair *p, struct ratchet *from, struct ratchet *to)
{
    struct buf e = new_envelope(), before = record_of(to);
    encrypt_text(from, "spoilt", p->now, &p->rng, &e);
    for (size_t at = 0; at < e.len; at++) {
        e.data[at] ^= (uint8_t)(1 << at % 8);
        assert_int_not_equal(open_envelope(p, to, &e), 0);
        assert_record(to, &before);
        e.data[at] ^= (uint8_t)(1 << at % 8);
    }
    for (size_t n = 0; n < e.len; n += 13) {
        struct buf cut = {.data = e.data, .len = n};
        assert_int_not_equal(open_envelope(p, to, &cut), 0);
    }
    assert_record(to, &before);
    assert_int_equal(open_envelope(p, to, &e), 0);
    buf_done(&e);
    buf_done(&before);
}

/* Each byte changed in turn: in a first message, a later one of a chain, one that opens a chain, one with an
 * offer or answer. */
static void test_every_byte_counts(void **state)
{
    struct pair *p = *state;
    check_every_byte(p, p->a, p->b);
    check_every_byte(p, p->b, p->a);
    check_every_byte(p, p->b, p->a);
    p->now += RATCHET_KEM_MS;
    check_every_byte(p, p->a, p->b);
    assert_true(p->a->has_offer);
    check_every_byte(p, p->b, p->a);
    assert_false(p->a->has_offer);
}

static void test_every_byte_of_a_skipped_message(void **state)
{
    struct pair *p = *state;
    struct buf early = new_envelope(), before;
    encrypt_text(p->a, "early", p->now, &p->rng, &early);
    send(p, p->a, p->b);
    before = record_of(p->b);
    for (size_t at = 0; at < early.len; at++) {
        early.data[at] ^= 0x10;
        assert_int_not_equal(open_envelope(p, p->b, &early), 0);
        early.data[at] ^= 0x10;
    }
    assert_record(p->b, &before);
    assert_int_equal(open_envelope(p, p->b, &early), 0);
    assert_int_equal(open_envelope(p, p->b, &early), RATCHET_FAILED);
    buf_done(&early);
    buf_done(&before);
}

/* Nothing of the plaintext stays in the caller's buffer, and nothing is returned, unless all of it was right.
 */
static void test_failure_leaves_nothing(void **state)
{
    struct pair *p = *state;
    struct buf e = new_envelope(), plain;
    struct envelope_view view;
    struct inner in;
    memset(&in, 0xa5, sizeof(in));
    encrypt_text(p->a, "secret text", p->now, &p->rng, &e);
    e.data[e.len - 1] ^= 1;
    assert_int_equal(envelope_parse(e.data, e.len, &view), 0);
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    assert_int_equal(ratchet_decrypt(p->b, &view, p->now, &p->rng, &plain, &in), RATCHET_FAILED);
    assert_int_equal(plain.len, 0);
    assert_int_equal(in.type, 0xa5);
    buf_done(&plain);
    /* A buffer that is too small is the caller's fault, not the message's. */
    e.data[e.len - 1] ^= 1;
    buf_init_secret(&plain, 100);
    assert_int_equal(ratchet_decrypt(p->b, &view, p->now, &p->rng, &plain, &in), -EMSGSIZE);
    buf_done(&plain);
    assert_int_equal(open_envelope(p, p->b, &e), 0);
    buf_done(&e);
}

static void test_encrypt_without_room(void **state)
{
    struct pair *p = *state;
    struct buf before = record_of(p->b), e = {.max = 100};
    struct inner in = text_inner("too much");
    assert_int_equal(ratchet_encrypt(p->b, &in, p->now, &p->rng, &e), -EMSGSIZE);
    assert_int_equal(e.len, 0);
    assert_record(p->b, &before);
    assert_wiped(p->b);
    buf_done(&before);
    before = record_of(p->a);
    buf_reset(&e);
    assert_int_equal(ratchet_encrypt(p->a, &in, p->now, &p->rng, &e), -EMSGSIZE);
    assert_record(p->a, &before);
    buf_done(&before);
    buf_done(&e);
    send(p, p->b, p->a);
}

static bool contains(const struct buf *record, const uint8_t *secret, size_t n)
{
    return memmem(record->data, record->len, secret, n) != NULL;
}

/* After a message nothing is left that would decrypt it again, on either side, in memory or on record. */
static void test_forward_secrecy(void **state)
{
    struct pair *p = *state;
    struct buf e = new_envelope(), record;
    uint8_t sending[32], receiving[32];
    send(p, p->b, p->a);
    send(p, p->a, p->b);
    memcpy(sending, p->a->send.ck, 32);
    memcpy(receiving, p->b->receive.ck, 32);
    assert_memory_equal(sending, receiving, 32);
    encrypt_text(p->a, "past", p->now, &p->rng, &e);
    assert_int_equal(open_envelope(p, p->b, &e), 0);
    record = record_of(p->a);
    assert_false(contains(&record, sending, 32));
    buf_done(&record);
    record = record_of(p->b);
    assert_false(contains(&record, receiving, 32));
    assert_wiped(p->a);
    assert_wiped(p->b);
    assert_int_equal(open_envelope(p, p->b, &e), RATCHET_FAILED);
    assert_wiped(p->b);
    buf_done(&record);
    buf_done(&e);
}

/* The keys that were derived for a message that then failed are wiped where they would have been stored. */
static void test_failed_skip_leaves_nothing(void **state)
{
    struct pair *p = *state;
    struct buf e = new_envelope();
    for (int i = 0; i < 10; i++)
        encrypt_text(p->a, "skipped", p->now, &p->rng, &e);
    e.data[e.len - 1] ^= 1;
    assert_int_equal(open_envelope(p, p->b, &e), RATCHET_FAILED);
    assert_int_equal(p->b->skipped.count, 0);
    assert_non_null(p->b->skipped.key);
    assert_true(sodium_is_zero(
            (const uint8_t *)p->b->skipped.key, p->b->skipped.cap * sizeof(struct skipped_key)));
    assert_wiped(p->b);
    buf_done(&e);
}

/* The private ratchet key goes when the answer to it has come, and the signed prekey's copy with it. */
static void test_ratchet_keys_go(void **state)
{
    struct pair *p = *state;
    struct buf record = record_of(p->b);
    uint8_t dhs[32];
    assert_false(contains(&record, p->bob.spk.x25519, 32));
    buf_done(&record);
    memcpy(dhs, p->a->dhs, 32);
    send(p, p->b, p->a);
    record = record_of(p->a);
    assert_false(contains(&record, dhs, 32));
    buf_done(&record);
}

/* Who steals a state reads on only until each side has sent once more. */
static void test_post_compromise(void **state)
{
    struct pair *p = *state;
    struct ratchet *thief = clone(p->b);
    struct buf e = new_envelope();
    encrypt_text(p->a, "read by the thief", p->now, &p->rng, &e);
    assert_int_equal(open_envelope(p, thief, &e), 0);
    assert_int_equal(open_envelope(p, p->b, &e), 0);
    send(p, p->b, p->a);
    encrypt_text(p->a, "healed", p->now, &p->rng, &e);
    assert_int_equal(open_envelope(p, thief, &e), RATCHET_FAILED);
    assert_int_equal(open_envelope(p, p->b, &e), 0);
    ratchet_free(thief);
    buf_done(&e);
}

static void test_offer_after_messages(void **state)
{
    struct pair *p = *state;
    struct buf record;
    uint8_t seed[MLKEM_SEED_LEN];
    send(p, p->b, p->a);
    for (unsigned i = p->a->kem_messages; i < RATCHET_KEM_MESSAGES; i++)
        send(p, p->a, p->b);
    assert_false(p->a->has_offer); /* its chain was open already */
    send(p, p->b, p->a);
    assert_true(p->b->has_offer);
    assert_int_equal(p->b->field.kind, KEM_OFFER);
    memcpy(seed, p->b->offer_seed, sizeof(seed));
    send(p, p->b, p->a); /* no second offer, the same field */
    send(p, p->a, p->b);
    assert_int_equal(p->a->field.kind, KEM_ANSWER);
    assert_false(p->a->has_offer);
    assert_false(p->b->has_offer);
    record = record_of(p->b);
    assert_false(contains(&record, seed, 32));
    assert_true(sodium_is_zero(p->b->offer_seed, MLKEM_SEED_LEN));
    buf_done(&record);
    assert_int_equal(p->b->kem_messages, 1);
    send(p, p->b, p->a);
    assert_int_equal(p->b->field.kind, KEM_NONE);
    send(p, p->a, p->b);
    assert_int_equal(p->a->field.kind, KEM_NONE);
}

static void test_offer_after_time(void **state)
{
    struct pair *p = *state;
    p->now += RATCHET_KEM_MS - 1;
    send(p, p->b, p->a);
    assert_false(p->b->has_offer);
    p->now += 1;
    send(p, p->a, p->b);
    assert_true(p->a->has_offer);
    send(p, p->b, p->a);
    assert_int_equal(p->b->kem_ms, p->now);
    assert_int_equal(p->a->kem_ms, p->now);
    send(p, p->a, p->b);
    assert_false(p->a->has_offer);
}

/* The KEM secret is in the answering chain: who has all of a state but the offer's seed does not follow. */
static void test_kem_secret_counts(void **state)
{
    struct pair *p = *state;
    struct ratchet *thief;
    struct buf e = new_envelope();
    p->now += RATCHET_KEM_MS;
    send(p, p->b, p->a);
    assert_true(p->b->has_offer);
    thief = clone(p->b);
    thief->offer_seed[0] ^= 1;
    encrypt_text(p->a, "answer", p->now, &p->rng, &e);
    assert_int_equal(open_envelope(p, thief, &e), RATCHET_FAILED);
    assert_int_equal(open_envelope(p, p->b, &e), 0);
    ratchet_free(thief);
    buf_done(&e);
}

/* A chain opens with whatever message of it comes first: the fields are in all of them. */
static void test_fields_in_each_header(void **state)
{
    struct pair *p = *state;
    struct buf e = new_envelope();
    p->now += RATCHET_KEM_MS;
    for (int i = 0; i < 5; i++)
        encrypt_text(p->b, "lost", p->now, &p->rng, &e);
    send(p, p->b, p->a);
    for (int i = 0; i < 5; i++)
        encrypt_text(p->a, "lost", p->now, &p->rng, &e);
    assert_int_equal(p->a->field.kind, KEM_ANSWER);
    send(p, p->a, p->b);
    assert_false(p->b->has_offer);
    buf_done(&e);
}

static void test_tags(void **state)
{
    struct pair *p = *state;
    struct buf e[8];
    uint8_t tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN];
    struct envelope_view view;
    assert_int_equal(ratchet_tags(p->a, tags), 1);
    assert_int_equal(ratchet_tags(p->b, tags), 2);
    for (size_t i = 0; i < ARRAY_SIZE(e); i++) {
        e[i] = new_envelope();
        encrypt_text(p->a, "kept back", p->now, &p->rng, &e[i]);
        send(p, p->a, p->b);
        send(p, p->b, p->a);
    }
    assert_int_equal(ratchet_tags(p->b, tags), RATCHET_MAX_CHAINS + 1);
    send(p, p->a, p->b);
    assert_int_equal(ratchet_tags(p->b, tags), RATCHET_MAX_TAGS);
    for (size_t i = 0; i < ARRAY_SIZE(e); i++) {
        bool known = false;
        size_t n = ratchet_tags(p->b, tags);
        assert_int_equal(envelope_parse(e[i].data, e[i].len, &view), 0);
        for (size_t t = 0; t < n; t++)
            known |= memcmp(tags[t], view.route_tag, ROUTE_TAG_LEN) == 0;
        assert_int_equal(known, i + RATCHET_MAX_CHAINS >= ARRAY_SIZE(e));
        assert_int_equal(open_envelope(p, p->b, &e[i]), known ? 0 : RATCHET_FAILED);
        buf_done(&e[i]);
    }
    assert_int_equal(ratchet_tags(p->b, tags), 2);
}

static void test_numbers(void **state)
{
    struct pair *p = *state;
    struct buf late = new_envelope();
    assert_int_equal(ratchet_received(p->a), 0);
    send(p, p->b, p->a);
    send(p, p->b, p->a);
    assert_int_equal(ratchet_sent(p->b), 2);
    assert_int_equal(ratchet_seen_by_peer(p->b), 0);
    encrypt_text(p->a, "late", p->now, &p->rng, &late);
    send(p, p->b, p->a);
    send(p, p->a, p->b);
    assert_int_equal(ratchet_seen_by_peer(p->b), 3);
    assert_int_equal(open_envelope(p, p->b, &late), 0);
    assert_int_equal(ratchet_seen_by_peer(p->b), 3);
    assert_int_equal(ratchet_received(p->b), 3);
    buf_done(&late);
}

static int parse_lengths(size_t header, size_t ciphertext)
{
    struct buf e = new_envelope();
    struct envelope_view v;
    int status;
    buf_u8(&e, ENVELOPE_VERSION);
    buf_u8(&e, KIND_PLAIN);
    buf_zero(&e, ROUTE_TAG_LEN);
    buf_u16(&e, (uint16_t)header);
    buf_zero(&e, header + NONCE_LEN + COM_LEN + ciphertext);
    status = envelope_parse(e.data, e.len, &v);
    buf_done(&e);
    return status;
}

/* Headers have three lengths, and ciphertexts those of padded plaintexts; the relay sees no others. */
static void test_lengths(void **state)
{
    (void)state;
    for (size_t n = 0; n < 1400; n++) {
        bool ok = n == 82 || n == 82 + MLKEM_PK_LEN || n == 82 + MLKEM_CT_LEN;
        assert_int_equal(parse_lengths(n, 272), ok ? 0 : RATCHET_MALFORMED);
    }
    for (size_t n = 0; n < 5000; n++) {
        bool ok = n > 16 && (n - 16) % 256 == 0;
        assert_int_equal(parse_lengths(82, n), ok ? 0 : RATCHET_MALFORMED);
    }
    assert_int_equal(parse_lengths(82, 16 + 8192 + 256), RATCHET_MALFORMED);
    assert_int_equal(parse_lengths(82, 16 + 8192 + 512), 0);
}

static void assert_incoherent(struct ratchet *r)
{
    struct buf record = record_of(r);
    struct ratchet *copy = NULL;
    assert_int_equal(ratchet_load(record.data, record.len, &copy), RATCHET_MALFORMED);
    assert_null(copy);
    buf_done(&record);
}

#define ASSERT_INCOHERENT(session, field, value)                                                             \
    do {                                                                                                     \
        struct ratchet *copy = clone(session);                                                               \
        copy->field = value;                                                                                 \
        assert_incoherent(copy);                                                                             \
        ratchet_free(copy);                                                                                  \
    } while (0)

/* Records of states that no session is ever in. */
static void test_load_refuses_incoherent(void **state)
{
    struct pair *p = *state;
    ASSERT_INCOHERENT(p->b, send_due, false);
    ASSERT_INCOHERENT(p->b, send.open, true);
    ASSERT_INCOHERENT(p->b, has_dhs, true);
    ASSERT_INCOHERENT(p->b, has_dhr, false);
    ASSERT_INCOHERENT(p->b, receive.open, false);
    ASSERT_INCOHERENT(p->b, chains_received, 0);
    ASSERT_INCOHERENT(p->b, chains_received, 3);
    ASSERT_INCOHERENT(p->b, received, 0);
    ASSERT_INCOHERENT(p->b, seen_by_peer, 1);
    ASSERT_INCOHERENT(p->b, kem_messages, RATCHET_KEM_MESSAGES + 1);
    ASSERT_INCOHERENT(p->b, has_offer, true);
    ASSERT_INCOHERENT(p->b, suite, 2);
    ASSERT_INCOHERENT(p->b, me.device, 0);
    ASSERT_INCOHERENT(p->a, field.kind, KEM_OFFER);
    ASSERT_INCOHERENT(p->a, answer.pending, true);
    ASSERT_INCOHERENT(p->a, has_dhs, false);
    ASSERT_INCOHERENT(p->a, initiator, false);
}

static void test_load_refuses(void **state)
{
    struct pair *p = *state;
    struct buf lost = new_envelope(), record;
    struct ratchet *r = NULL;
    encrypt_text(p->a, "lost", p->now, &p->rng, &lost);
    send(p, p->a, p->b);
    record = record_of(p->b);
    for (size_t n = 0; n < record.len; n++)
        assert_int_equal(ratchet_load(record.data, n, &r), RATCHET_MALFORMED);
    buf_u8(&record, 0);
    assert_int_equal(ratchet_load(record.data, record.len, &r), RATCHET_MALFORMED);
    record.data[0] ^= 1;
    assert_int_equal(ratchet_load(record.data, record.len - 1, &r), RATCHET_MALFORMED);
    assert_null(r);
    buf_done(&record);
    buf_done(&lost);
}

/* A record that was changed may be a session still, but one that can be used and saved. */
static void test_load_survives(void **state)
{
    struct pair *p = *state;
    struct buf e = new_envelope(), record;
    encrypt_text(p->a, "lost", p->now, &p->rng, &e);
    send(p, p->a, p->b);
    encrypt_text(p->a, "next", p->now, &p->rng, &e);
    record = record_of(p->b);
    for (size_t at = 0; at < record.len; at++) {
        struct ratchet *r = NULL;
        struct buf out = new_envelope();
        struct inner in = text_inner("text");
        record.data[at] ^= (uint8_t)(1 << at % 8);
        if (ratchet_load(record.data, record.len, &r) == 0) {
            assert_record(r, &record);
            (void)open_envelope(p, r, &e);
            assert_true(ratchet_encrypt(r, &in, p->now, &p->rng, &out) <= RATCHET_BAD_PEER);
            ratchet_free(r);
        }
        buf_done(&out);
        record.data[at] ^= (uint8_t)(1 << at % 8);
    }
    buf_done(&record);
    buf_done(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_fields_arrive, setup, teardown),
            cmocka_unit_test_setup_teardown(test_longest_envelope, setup, teardown),
            cmocka_unit_test_setup_teardown(test_every_byte_counts, setup, teardown),
            cmocka_unit_test_setup_teardown(test_every_byte_of_a_skipped_message, setup, teardown),
            cmocka_unit_test_setup_teardown(test_failure_leaves_nothing, setup, teardown),
            cmocka_unit_test_setup_teardown(test_encrypt_without_room, setup, teardown),
            cmocka_unit_test_setup_teardown(test_forward_secrecy, setup, teardown),
            cmocka_unit_test_setup_teardown(test_failed_skip_leaves_nothing, setup, teardown),
            cmocka_unit_test_setup_teardown(test_ratchet_keys_go, setup, teardown),
            cmocka_unit_test_setup_teardown(test_post_compromise, setup, teardown),
            cmocka_unit_test_setup_teardown(test_offer_after_messages, setup, teardown),
            cmocka_unit_test_setup_teardown(test_offer_after_time, setup, teardown),
            cmocka_unit_test_setup_teardown(test_kem_secret_counts, setup, teardown),
            cmocka_unit_test_setup_teardown(test_fields_in_each_header, setup, teardown),
            cmocka_unit_test_setup_teardown(test_tags, setup, teardown),
            cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
            cmocka_unit_test(test_lengths),
            cmocka_unit_test_setup_teardown(test_load_refuses_incoherent, setup, teardown),
            cmocka_unit_test_setup_teardown(test_load_refuses, setup, teardown),
            cmocka_unit_test_setup_teardown(test_load_survives, setup, teardown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
