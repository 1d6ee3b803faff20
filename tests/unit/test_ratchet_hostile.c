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
 * A peer that holds the session's keys and breaks the rules: envelopes with headers and plaintexts of its own
 * making.
 */
#include "inner.h"
#include "parties.h"
#include "ratchet_impl.h"

static int setup(void **state)
{
    struct pair *p = calloc(1, sizeof(*p));
    if (!p)
        return -1;
    pair_init(p, "hostile", true);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    pair_done(*state);
    free(*state);
    return 0;
}

static struct buf record_of(const struct ratchet *r)
{
    struct buf b;
    buf_init_secret(&b, RATCHET_MAX_RECORD);
    ratchet_save(r, &b);
    assert_int_equal(buf_status(&b), 0);
    return b;
}

static int open_envelope(struct pair *p, struct ratchet *r, const struct buf *e)
{
    struct buf body;
    int status;
    buf_init(&body, ENVELOPE_MAX_BODY);
    status = decrypt_body(r, e, p->now, &p->rng, &body);
    buf_done(&body);
    return status;
}

static void assert_refused(struct pair *p, struct ratchet *r, const struct buf *e)
{
    struct buf before = record_of(r), after;
    assert_int_equal(open_envelope(p, r, e), RATCHET_FAILED);
    after = record_of(r);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, before.len);
    buf_done(&before);
    buf_done(&after);
}

static void send(struct pair *p, struct ratchet *from, struct ratchet *to)
{
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    encrypt_text(from, "text", p->now, &p->rng, &e);
    assert_int_equal(open_envelope(p, to, &e), 0);
    buf_done(&e);
}

/* Messages that never arrive. */
static void waste(struct pair *p, struct ratchet *r, unsigned n)
{
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    while (n-- > 0)
        encrypt_text(r, "lost", p->now, &p->rng, &e);
    buf_done(&e);
}

static struct header honest_header(const struct ratchet *r)
{
    return (struct header){
            .kem = r->field.kind,
            .type = INNER_MESSAGE,
            .index = r->send.n,
            .previous = r->previous,
            .ratchet_key = r->dhs_public,
            .field = {r->field.bytes, kem_field_len(r->field.kind)},
    };
}

/* The next envelope of r with this header and plaintext; r itself stays as it is. */
static struct buf forge(struct ratchet *r, const struct header *h, const uint8_t *plain, size_t n)
{
    uint8_t nonce[NONCE_LEN] = {1}, sealed[SEALED_HEADER_LEN(MLKEM_PK_LEN)], ck[32], out[8192];
    size_t sealed_len = SEALED_HEADER_LEN(h->field.n);
    struct buf e;
    assert_true(n + TAG_LEN <= sizeof(out));
    header_seal(r, &r->send.id, h, nonce, &r->work, sealed);
    memcpy(ck, r->send.ck, 32);
    chain_step(&r->work, ck, r->work.mk);
    message_keys(&r->ad_send, h->type, (struct span){sealed, sealed_len}, nonce, &r->work);
    assert_int_equal(crypto_aead_xchacha20poly1305_ietf_encrypt(
                             out, NULL, plain, n, r->work.ad_hash, HASH_LEN, NULL, nonce, r->work.keys),
            0);
    buf_init(&e, ENVELOPE_MAX_BODY);
    buf_u8(&e, ENVELOPE_VERSION);
    buf_u8(&e, r->handshake ? KIND_HANDSHAKE : KIND_PLAIN);
    buf_bytes(&e, r->handshake, r->handshake_len);
    buf_bytes(&e, r->send.id.tag, ROUTE_TAG_LEN);
    buf_u16(&e, (uint16_t)sealed_len);
    buf_bytes(&e, sealed, sealed_len);
    buf_bytes(&e, nonce, NONCE_LEN);
    buf_bytes(&e, r->work.keys + KEY_LEN, COM_LEN);
    buf_bytes(&e, out, n + TAG_LEN);
    assert_int_equal(buf_status(&e), 0);
    return e;
}

static void honest_plaintext(uint8_t ret_plain[256])
{
    struct inner in = text_inner("forged");
    in.seq = 1;
    assert_int_equal(inner_padded_length(&in), 256);
    inner_encode(&in, ret_plain);
}

static void assert_forgery(
        struct pair *p, struct ratchet *from, struct ratchet *to, const struct header *h, bool ok)
{
    uint8_t plain[256];
    struct buf e;
    honest_plaintext(plain);
    e = forge(from, h, plain, sizeof(plain));
    if (ok)
        assert_int_equal(open_envelope(p, to, &e), 0);
    else
        assert_refused(p, to, &e);
    buf_done(&e);
}

/* The forger works: what it makes without lying is accepted. */
static void test_honest_forgery(void **state)
{
    struct pair *p = *state;
    struct header h = honest_header(p->a);
    assert_forgery(p, p->a, p->b, &h, true);
}

static void test_plaintext_rules(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
    } wrong[] = {{0, 0}, {0, 2}, {0, 4}, {1, 4}, {34, 0}, {255, 1}, {140, 1}, {130, 255}};
    struct pair *p = *state;
    struct header h = honest_header(p->a);
    uint8_t plain[512];
    struct buf e;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        memset(plain, 0, sizeof(plain));
        honest_plaintext(plain);
        plain[wrong[i].at] = wrong[i].value;
        e = forge(p->a, &h, plain, 256);
        assert_refused(p, p->b, &e);
        buf_done(&e);
    }
    memset(plain, 0, sizeof(plain));
    honest_plaintext(plain);
    e = forge(p->a, &h, plain, 512); /* a step of padding too much */
    assert_refused(p, p->b, &e);
    buf_done(&e);
}

/* A peer cannot have seen what was not sent. */
static void test_seen_is_capped(void **state)
{
    struct pair *p = *state;
    struct header h;
    uint8_t plain[256];
    struct buf e;
    honest_plaintext(plain);
    memset(plain + 42, 0xff, 8);
    send(p, p->b, p->a);
    assert_int_equal(ratchet_seen_by_peer(p->b), 0);
    assert_int_equal(sending_prepare(p->a, p->now, &p->rng), 0);
    sending_adopt(p->a, p->now);
    h = honest_header(p->a);
    e = forge(p->a, &h, plain, sizeof(plain));
    assert_int_equal(open_envelope(p, p->b, &e), 0);
    assert_int_equal(ratchet_seen_by_peer(p->b), 1);
    buf_done(&e);
}

/* The type of the header, of AD and of the plaintext agree. */
static void test_type_agrees(void **state)
{
    struct pair *p = *state;
    struct header h = honest_header(p->a);
    for (unsigned type = 0; type < 256; type += type < 5 ? 1 : 50) {
        h.type = (uint8_t)type;
        if (type != INNER_MESSAGE)
            assert_forgery(p, p->a, p->b, &h, false);
    }
}

/* Flags and length of a header say the same. */
static void test_flags(void **state)
{
    struct pair *p = *state;
    struct header h = honest_header(p->a);
    h.kem = (enum kem_kind)3;
    assert_forgery(p, p->a, p->b, &h, false);
    h.kem = (enum kem_kind)4;
    assert_forgery(p, p->a, p->b, &h, false);
    h.kem = KEM_OFFER;
    assert_forgery(p, p->a, p->b, &h, false);
    h.kem = KEM_NONE;
    h.field = (struct span){p->alice.spk.mlkem_public, MLKEM_PK_LEN};
    assert_forgery(p, p->a, p->b, &h, false);
    h.kem = KEM_ANSWER;
    assert_forgery(p, p->a, p->b, &h, false);
}

static void test_index_jump(void **state)
{
    struct pair *p = *state;
    struct header h = honest_header(p->a);
    waste(p, p->a, RATCHET_MAX_JUMP + 1);
    h = honest_header(p->a);
    assert_int_equal(h.index - p->b->receive.n, RATCHET_MAX_JUMP + 1);
    assert_forgery(p, p->a, p->b, &h, false);
    h.index = INDEX_NEVER - 1;
    assert_forgery(p, p->a, p->b, &h, false);
}

static void test_largest_index_jump(void **state)
{
    struct pair *p = *state;
    struct header h;
    waste(p, p->a, RATCHET_MAX_JUMP);
    h = honest_header(p->a);
    assert_int_equal(h.index - p->b->receive.n, RATCHET_MAX_JUMP);
    assert_forgery(p, p->a, p->b, &h, true);
    assert_int_equal(p->b->skipped.count, RATCHET_MAX_JUMP);
}

/* By the previous chain's length, which says nothing of the chain that opens. */
static void test_jump_across_chains(void **state)
{
    struct pair *p = *state;
    struct header h;
    send(p, p->b, p->a);
    waste(p, p->a, RATCHET_MAX_JUMP);
    h = honest_header(p->a);
    assert_int_equal(h.index, RATCHET_MAX_JUMP);
    h.previous = p->b->receive.n + RATCHET_MAX_JUMP + 1;
    assert_forgery(p, p->a, p->b, &h, false);
    h.previous = INDEX_NEVER;
    assert_forgery(p, p->a, p->b, &h, false);
    h.previous = p->b->receive.n + RATCHET_MAX_JUMP;
    assert_forgery(p, p->a, p->b, &h, true);
    assert_int_equal(p->b->skipped.count, 2 * RATCHET_MAX_JUMP);
}

static void test_jump_into_chain(void **state)
{
    struct pair *p = *state;
    struct header h;
    send(p, p->b, p->a);
    waste(p, p->a, RATCHET_MAX_JUMP + 1);
    h = honest_header(p->a);
    assert_int_equal(h.index, RATCHET_MAX_JUMP + 1);
    assert_forgery(p, p->a, p->b, &h, false);
    h.index = INDEX_NEVER;
    assert_forgery(p, p->a, p->b, &h, false);
}

/* A chain may not begin where it has no predecessor and claims one. */
static void test_previous_of_first_chain(void **state)
{
    struct pair *p = *state;
    struct header h;
    assert_int_equal(sending_prepare(p->b, p->now, &p->rng), 0);
    sending_adopt(p->b, p->now);
    h = honest_header(p->b);
    h.previous = 1;
    assert_forgery(p, p->b, p->a, &h, false);
    h.previous = 0;
    assert_forgery(p, p->b, p->a, &h, true);
}

static void test_last_index(void **state)
{
    struct pair *p = *state;
    struct inner in = text_inner("last");
    struct header h;
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    p->a->send.n = p->b->receive.n = INDEX_NEVER - 1;
    send(p, p->a, p->b);
    h = honest_header(p->a);
    assert_int_equal(h.index, INDEX_NEVER);
    assert_forgery(p, p->a, p->b, &h, false);
    assert_int_equal(ratchet_encrypt(p->a, &in, p->now, &p->rng, &e), RATCHET_EXHAUSTED);
    assert_int_equal(e.len, 0);
    /* The answer opens another chain, which has its indices before it. */
    send(p, p->b, p->a);
    send(p, p->a, p->b);
    buf_done(&e);
}

/* 2,000 keys and no more; then what needs a key more is refused, and what needs none is not. */
static void test_stored_keys(void **state)
{
    struct pair *p = *state;
    struct buf e[2];
    for (int i = 0; i < 2; i++) {
        buf_init(&e[i], ENVELOPE_MAX_BODY);
        waste(p, p->a, RATCHET_MAX_SKIPPED / 2);
        send(p, p->a, p->b);
    }
    assert_int_equal(p->b->skipped.count, RATCHET_MAX_SKIPPED);
    encrypt_text(p->a, "next", p->now, &p->rng, &e[0]);
    encrypt_text(p->a, "after it", p->now, &p->rng, &e[1]);
    assert_refused(p, p->b, &e[1]);
    assert_int_equal(open_envelope(p, p->b, &e[0]), 0);
    assert_int_equal(open_envelope(p, p->b, &e[1]), 0);
    waste(p, p->a, 1);
    encrypt_text(p->a, "a week later", p->now, &p->rng, &e[0]);
    assert_refused(p, p->b, &e[0]);
    p->now += RATCHET_SKIPPED_MS;
    assert_refused(p, p->b, &e[0]);
    p->now += 1;
    assert_int_equal(open_envelope(p, p->b, &e[0]), 0);
    assert_int_equal(p->b->skipped.count, 1);
    buf_done(&e[0]);
    buf_done(&e[1]);
}

static void test_largest_record(void **state)
{
    struct pair *p = *state;
    struct buf record;
    p->now += RATCHET_KEM_MS;
    waste(p, p->a, RATCHET_MAX_JUMP);
    send(p, p->a, p->b);
    waste(p, p->a, RATCHET_MAX_JUMP);
    send(p, p->a, p->b);
    record = record_of(p->b);
    assert_true(record.len > RATCHET_MAX_SKIPPED * 44);
    assert_true(record.len + 2 * MLKEM_PK_LEN + 3 * RELAY_MAX_ENTRY < RATCHET_MAX_RECORD);
    buf_done(&record);
}

static void test_ratchet_key_changes(void **state)
{
    struct pair *p = *state;
    struct header h = honest_header(p->a);
    h.ratchet_key = p->alice.spk.x25519_public;
    assert_forgery(p, p->a, p->b, &h, false);
}

/* Who sends a point of low order knows the agreement, and could make the whole chain: were it not refused. */
static void test_low_order_ratchet_key(void **state)
{
    struct pair *p = *state;
    struct send_step *step = &p->b->send_step;
    struct header h;
    assert_int_equal(sending_prepare(p->b, p->now, &p->rng), 0);
    memset(step->dhs_public, 0, KEY_LEN);
    memset(p->b->work.ikm, 0, KEY_LEN);
    root_step(p->b, KEY_LEN, KEM_NONE, step->field.bytes, &step->root);
    sending_adopt(p->b, p->now);
    for (uint8_t point = 0; point < 2; point++) {
        p->b->dhs_public[0] = point;
        h = honest_header(p->b);
        assert_forgery(p, p->b, p->a, &h, false);
    }
}

/* A's next chain with another KEM field than the rules give; ikm still holds DH after sending_prepare(). */
static void open_chain_with(struct pair *p, enum kem_kind kind, const uint8_t *field)
{
    struct send_step *step = &p->a->send_step;
    assert_int_equal(sending_prepare(p->a, p->now, &p->rng), 0);
    step->field.kind = kind;
    memset(step->field.bytes, 0, sizeof(step->field.bytes));
    memcpy(step->field.bytes, field, kem_field_len(kind));
    root_step(p->a, KEY_LEN, kind, field, &step->root);
    sending_adopt(p->a, p->now);
}

static void assert_next_refused(struct pair *p)
{
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    encrypt_text(p->a, "text", p->now, &p->rng, &e);
    assert_refused(p, p->b, &e);
    buf_done(&e);
}

static void test_invalid_offer(void **state)
{
    struct pair *p = *state;
    uint8_t field[MLKEM_PK_LEN];
    memset(field, 0xff, sizeof(field));
    send(p, p->b, p->a);
    open_chain_with(p, KEM_OFFER, field);
    assert_next_refused(p);
}

/* The same way, with a key that is one: so it is the key that was refused. */
static void test_valid_offer(void **state)
{
    struct pair *p = *state;
    send(p, p->b, p->a);
    open_chain_with(p, KEM_OFFER, p->alice.spk.mlkem_public);
    send(p, p->a, p->b);
    assert_true(p->b->answer.pending);
}

static void test_answer_to_nothing(void **state)
{
    static const uint8_t field[MLKEM_CT_LEN];
    struct pair *p = *state;
    send(p, p->b, p->a);
    open_chain_with(p, KEM_ANSWER, field);
    assert_next_refused(p);
}

static void test_offer_without_answer(void **state)
{
    static const uint8_t nothing[1];
    struct pair *p = *state;
    p->now += RATCHET_KEM_MS;
    send(p, p->b, p->a);
    assert_true(p->b->has_offer && p->a->answer.pending);
    open_chain_with(p, KEM_NONE, nothing);
    assert_next_refused(p);
}

static void test_offer_answered_by_offer(void **state)
{
    struct pair *p = *state;
    p->now += RATCHET_KEM_MS;
    send(p, p->b, p->a);
    open_chain_with(p, KEM_OFFER, p->alice.spk.mlkem_public);
    assert_next_refused(p);
}

/* A chain that opens before anything of ours went out since the last one did: our key is gone, and zeros are
 * none. */
static void test_two_chains_in_a_row(void **state)
{
    static const uint8_t nobody[KEY_LEN];
    struct pair *p = *state;
    send(p, p->b, p->a);
    send(p, p->a, p->b);
    assert_true(sodium_is_zero(p->b->dhs, KEY_LEN));
    x25519_public(nobody, p->a->dhr);
    assert_int_equal(sending_prepare(p->a, p->now, &p->rng), 0);
    sending_adopt(p->a, p->now);
    assert_next_refused(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_honest_forgery, setup, teardown),
            cmocka_unit_test_setup_teardown(test_plaintext_rules, setup, teardown),
            cmocka_unit_test_setup_teardown(test_seen_is_capped, setup, teardown),
            cmocka_unit_test_setup_teardown(test_type_agrees, setup, teardown),
            cmocka_unit_test_setup_teardown(test_flags, setup, teardown),
            cmocka_unit_test_setup_teardown(test_index_jump, setup, teardown),
            cmocka_unit_test_setup_teardown(test_largest_index_jump, setup, teardown),
            cmocka_unit_test_setup_teardown(test_jump_across_chains, setup, teardown),
            cmocka_unit_test_setup_teardown(test_jump_into_chain, setup, teardown),
            cmocka_unit_test_setup_teardown(test_previous_of_first_chain, setup, teardown),
            cmocka_unit_test_setup_teardown(test_last_index, setup, teardown),
            cmocka_unit_test_setup_teardown(test_stored_keys, setup, teardown),
            cmocka_unit_test_setup_teardown(test_largest_record, setup, teardown),
            cmocka_unit_test_setup_teardown(test_ratchet_key_changes, setup, teardown),
            cmocka_unit_test_setup_teardown(test_low_order_ratchet_key, setup, teardown),
            cmocka_unit_test_setup_teardown(test_invalid_offer, setup, teardown),
            cmocka_unit_test_setup_teardown(test_valid_offer, setup, teardown),
            cmocka_unit_test_setup_teardown(test_answer_to_nothing, setup, teardown),
            cmocka_unit_test_setup_teardown(test_offer_without_answer, setup, teardown),
            cmocka_unit_test_setup_teardown(test_offer_answered_by_offer, setup, teardown),
            cmocka_unit_test_setup_teardown(test_two_chains_in_a_row, setup, teardown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
