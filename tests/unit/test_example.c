/*
 * Section 14 of docs/PROTOCOL.md, written anew by this implementation and compared with what stands there.
 * test_example --print writes the section to standard output.
 */
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
#include "parties.h"
#include "ratchet_impl.h"

#define SECTION "## 14 Worked example\n"
#define SEED "e2eed worked example"
#define ID_TEXT "example-1"
#define TEXT "hello, bob"

static struct buf out;

static void text(const char *s)
{
    buf_bytes(&out, s, strlen(s));
}

static void name(const char *what)
{
    char padded[64];
    (void)snprintf(padded, sizeof(padded), "    %-26s ", what);
    text(padded);
}

static void hex(const void *p, size_t n)
{
    char digits[131];
    assert_true(2 * n < sizeof(digits));
    text(sodium_bin2hex(digits, sizeof(digits), p, n));
}

static void value(const char *what, const void *p, size_t n)
{
    name(what);
    hex(p, n);
    text("\n");
}

static void string(const char *what, const char *s)
{
    name(what);
    text(s);
    text("\n");
}

/* What is too long to be printed. */
static void digest(const char *what, const void *p, size_t n)
{
    uint8_t h[crypto_hash_sha256_BYTES];
    char length[32];
    (void)crypto_hash_sha256(h, p, n);
    name(what);
    hex(h, sizeof(h));
    (void)snprintf(length, sizeof(length), " (%zu bytes)\n", n);
    text(length);
}

struct example {
    struct stream_rng stream;
    struct rng rng;
    struct identity *alice, *bob;
    struct prekey_secret spk, otk;
    struct buf spk_record, otk_record, envelope, reply, plaintext;
    struct bundle bundle;
    struct envelope_view view;
    struct ratchet *a, *b;
};

static void begin(struct example *x)
{
    memset(x, 0, sizeof(*x));
    stream_rng_init(&x->stream, SEED);
    x->rng = stream_rng(&x->stream);
    buf_init(&x->spk_record, RELAY_MAX_PREKEY);
    buf_init(&x->otk_record, RELAY_MAX_PREKEY);
    buf_init(&x->envelope, ENVELOPE_MAX_BODY);
    buf_init(&x->reply, ENVELOPE_MAX_BODY);
    buf_init_secret(&x->plaintext, ENVELOPE_MAX_BODY);
}

static void done(struct example *x)
{
    ratchet_free(x->a);
    ratchet_free(x->b);
    identity_free(x->alice);
    identity_free(x->bob);
    buf_done(&x->spk_record);
    buf_done(&x->otk_record);
    buf_done(&x->envelope);
    buf_done(&x->reply);
    buf_done(&x->plaintext);
}

static const struct device *device_of(const struct identity *id)
{
    return device_list_find(identity_list(id), 1);
}

static void write_introduction(void)
{
    text(SECTION
            "\n"
            "Written by `tests/unit/test_example.c --print` and compared with the code by the test of that "
            "name. Values over 64 bytes\n"
            "are given as their SHA-256 and length. All times and the session number are 1700000000000.\n"
            "\n"
            "Random bytes come from one stream: block i is SHA-256(\"" SEED
            "\" ‖ u64 i), i from 0, and each draw takes\n"
            "the next bytes. The draws are, in this order: the seeds of AK and DSK, DHK, and the seed of RAK "
            "(32 bytes each) of alice, the\n"
            "same of bob; bob's signed prekey: X25519 (32), d ‖ z of ML-KEM (64); his one-time pair 1001 in "
            "the same way; alice's handshake:\n"
            "EK (32), m of the encapsulation (32), her first ratchet key (32); for each envelope the ratchet "
            "key (32) if it opens a chain\n"
            "(the first one of alice is drawn already), the nonce of the header and the nonce of the message "
            "(24 each).\n");
}

static void write_identity(const char *user, const struct identity *id)
{
    const struct device_list *list = identity_list(id);
    const struct device *d = device_of(id);
    struct span entry = identity_entry(id);
    char uid[UID_TEXT_LEN + 1];
    text("\nThe account ");
    text(user);
    text(", device 1:\n\n");
    uid_to_text(list->uid, uid);
    value("AK", list->ak, 32);
    string("uid", uid);
    value("DSK", d->dsk, 32);
    value("DHK", d->dhk, 32);
    value("RAK", d->rak, 32);
    digest("entry", entry.p, entry.n);
    value("hash(entry)", list->hash, 32);
    value("device-hash", d->hash, 32);
}

static void write_identities(struct example *x)
{
    assert_int_equal(identity_new("alice", &x->rng, TEST_NOW, &x->alice), 0);
    assert_int_equal(identity_new("bob", &x->rng, TEST_NOW, &x->bob), 0);
    write_identity("alice", x->alice);
    write_identity("bob", x->bob);
}

static void write_prekeys(struct example *x)
{
    assert_int_equal(prekey_make_signed(x->bob, SPK_ID, TEST_NOW, &x->rng, &x->spk, &x->spk_record), 0);
    assert_int_equal(prekey_make_one_time(x->bob, OTK_ID, &x->rng, &x->otk, &x->otk_record), 0);
    assert_int_equal(bundle_verify(device_of(x->bob), (struct span){x->spk_record.data, x->spk_record.len},
                             (struct span){x->otk_record.data, x->otk_record.len}, TEST_NOW, &x->bundle),
            0);
    text("\nBob's prekeys, 7 and 1001, valid for 30 days:\n\n");
    value("SPK", x->spk.x25519_public, 32);
    digest("its ML-KEM key", x->spk.mlkem_public, MLKEM_PK_LEN);
    digest("signed prekey", x->spk_record.data, x->spk_record.len);
    value("OTK", x->otk.x25519_public, 32);
    digest("its ML-KEM key", x->otk.mlkem_public, MLKEM_PK_LEN);
    digest("one-time prekey", x->otk_record.data, x->otk_record.len);
    value("bundle hash", x->bundle.hash, 32);
}

static struct inner message_of(const struct identity *from, const struct identity *to, const struct buf *body)
{
    struct inner in = {.type = INNER_MESSAGE, .flags = INNER_TEXT, .count = 1, .time_ms = TEST_NOW};
    in.id = message_id_of(identity_address(from)->uid, ID_TEXT);
    in.own.n = in.peer.n = 1;
    memcpy(in.own.hash, identity_list(from)->hash, 32);
    memcpy(in.peer.hash, identity_list(to)->hash, 32);
    in.body = (struct span){body->data, body->len};
    return in;
}

static struct inner first_message(const struct example *x, struct buf *body)
{
    buf_lp(body, ID_TEXT, strlen(ID_TEXT));
    buf_lp(body, TEXT, strlen(TEXT));
    return message_of(x->alice, x->bob, body);
}

static void write_handshake(const struct example *x)
{
    text("\nThe handshake:\n\n");
    value("EK", x->view.ek, 32);
    digest("ct", x->view.kem_ct, MLKEM_CT_LEN);
    assert_memory_equal(ratchet_transcript(x->a), ratchet_transcript(x->b), 32);
    value("TH", ratchet_transcript(x->a), 32);
    value("RK", x->b->rk, 32);
    value("HK_A", x->b->next_receive.hk, 32);
    value("tag_A", x->b->next_receive.tag, ROUTE_TAG_LEN);
    value("NHK_B", x->b->next_send.hk, 32);
    value("tag_B", x->b->next_send.tag, ROUTE_TAG_LEN);
    text("\nAlice's first root step:\n\n");
    value("ratchet key", x->a->dhs_public, 32);
    value("RK'", x->a->rk, 32);
    value("NHK", x->a->next_send.hk, 32);
    value("ntag", x->a->next_send.tag, ROUTE_TAG_LEN);
}

static void write_envelope(const struct example *x, const struct inner *in, uint8_t ck[32])
{
    uint8_t plain[512], mk[32];
    text("\nThe first envelope, a message with the id text \"" ID_TEXT "\", the text \"" TEXT
         "\", count 1 and flags 1:\n\n");
    value("message id", in->id.b, MESSAGE_ID_LEN);
    value("CK", ck, 32);
    chain_step(&x->a->work, ck, mk);
    value("mk", mk, 32);
    inner_encode(in, plain);
    digest("plaintext", plain, inner_padded_length(in));
    digest("encrypted header", x->view.header.p, x->view.header.n);
    value("com", x->view.com, COM_LEN);
    digest("ciphertext", x->view.ciphertext.p, x->view.ciphertext.n);
    digest("envelope body", x->envelope.data, x->envelope.len);
}

static void write_first(struct example *x)
{
    uint8_t bytes[64], ck[32];
    struct buf body = buf_over(bytes, sizeof(bytes));
    struct inner in = first_message(x, &body);
    assert_int_equal(
            ratchet_initiate(x->alice, device_of(x->bob), &x->bundle, TEST_NOW, TEST_NOW, &x->rng, &x->a), 0);
    memcpy(ck, x->a->send.ck, 32);
    assert_int_equal(ratchet_encrypt(x->a, &in, TEST_NOW, &x->rng, &x->envelope), 0);
    assert_int_equal(envelope_parse(x->envelope.data, x->envelope.len, &x->view), 0);
    assert_int_equal(
            ratchet_respond(x->bob, device_of(x->alice), &x->view, &x->spk, &x->otk, TEST_NOW, &x->b), 0);
    write_handshake(x);
    write_envelope(x, &in, ck);
}

static void write_reply(struct example *x)
{
    uint8_t bytes[64];
    struct buf body = buf_over(bytes, sizeof(bytes));
    struct envelope_view view;
    struct inner in, got;
    assert_int_equal(ratchet_decrypt(x->b, &x->view, TEST_NOW, &x->rng, &x->plaintext, &got), 0);
    buf_u16(&body, 1);
    buf_bytes(&body, got.id.b, MESSAGE_ID_LEN);
    buf_u8(&body, 1);
    in = message_of(x->bob, x->alice, &body);
    in.type = INNER_RECEIPT;
    in.flags = INNER_UNCOUNTED;
    in.count = 0;
    memset(in.id.b, 0, MESSAGE_ID_LEN);
    assert_int_equal(ratchet_encrypt(x->b, &in, TEST_NOW, &x->rng, &x->reply), 0);
    assert_int_equal(envelope_parse(x->reply.data, x->reply.len, &view), 0);
    assert_int_equal(ratchet_decrypt(x->a, &view, TEST_NOW, &x->rng, &x->plaintext, &got), 0);
    text("\nBob's reply, a receipt (\"delivered\") for that message with flags 2, count 0 and a message id "
         "of zeros:\n\n");
    value("ratchet key", x->b->dhs_public, 32);
    value("RK'", x->b->rk, 32);
    value("com", view.com, COM_LEN);
    digest("envelope body", x->reply.data, x->reply.len);
}

static void write_numbers(struct example *x)
{
    const struct device_list *a = identity_list(x->alice), *b = identity_list(x->bob);
    char digits[FINGERPRINT_LEN + 1], both[SAFETY_NUMBER_LEN + 1];
    text("\nVerification:\n\n");
    fingerprint(a->uid, a->ak, digits);
    string("fingerprint of alice", digits);
    fingerprint(b->uid, b->ak, digits);
    string("fingerprint of bob", digits);
    safety_number(a->uid, a->ak, b->uid, b->ak, both);
    string("safety number", both);
}

static void write_section(void)
{
    struct example x;
    begin(&x);
    write_introduction();
    write_identities(&x);
    write_prekeys(&x);
    write_first(&x);
    write_reply(&x);
    write_numbers(&x);
    assert_int_equal(buf_status(&out), 0);
    done(&x);
}

static char *read_document(void)
{
    FILE *f = fopen(E2EED_PROTOCOL_MD, "re");
    char *bytes = calloc(1, 1 << 20);
    assert_non_null(f);
    assert_non_null(bytes);
    assert_true(fread(bytes, 1, (1 << 20) - 1, f) > 0);
    (void)fclose(f);
    return bytes;
}

/* The first line that differs is what helps. */
static void compare(const char *document, const char *code)
{
    while (*code) {
        size_t n = strcspn(code, "\n") + 1;
        if (strncmp(document, code, n) != 0)
            fail_msg("docs/PROTOCOL.md, section 14, should say:\n%.*s\nbut says:\n%.*s", (int)n, code,
                    (int)strcspn(document, "\n"), document);
        document += n;
        code += n;
    }
    if (*document && strncmp(document, "\n## ", 4) != 0)
        fail_msg("docs/PROTOCOL.md, section 14, has more than it should: %.60s", document);
}

static void test_document(void **state)
{
    char *document = read_document(), *section = strstr(document, SECTION);
    (void)state;
    write_section();
    buf_u8(&out, 0);
    assert_non_null(section);
    compare(section, (const char *)out.data);
    free(document);
}

static void print_section(void **state)
{
    (void)state;
    write_section();
    (void)fwrite(out.data, 1, out.len, stdout);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest print[] = {cmocka_unit_test(print_section)};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_document)};
    bool wanted = argc > 1 && strcmp(argv[1], "--print") == 0;
    int status;
    if (sodium_init() < 0)
        return 1;
    buf_init(&out, 1 << 16);
    status = wanted ? cmocka_run_group_tests(print, NULL, NULL) : cmocka_run_group_tests(tests, NULL, NULL);
    buf_done(&out);
    return status;
}
