#include "parties.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "parties: %s\n", what);
    abort();
}

void stream_rng_init(struct stream_rng *s, const char *seed)
{
    *s = (struct stream_rng){.seed = seed, .used = sizeof(s->block)};
}

static void next_block(struct stream_rng *s)
{
    crypto_hash_sha256_state st;
    uint8_t counter[8];

    for (size_t i = 0; i < sizeof(counter); i++)
        counter[i] = (uint8_t)(s->next >> (8 * i));
    (void)crypto_hash_sha256_init(&st);
    (void)crypto_hash_sha256_update(&st, (const uint8_t *)s->seed, strlen(s->seed));
    (void)crypto_hash_sha256_update(&st, counter, sizeof(counter));
    (void)crypto_hash_sha256_final(&st, s->block);
    s->next++;
    s->used = 0;
}

static void stream_fill(void *ctx, void *out, size_t n)
{
    struct stream_rng *s = ctx;

    for (uint8_t *p = out; n > 0; n--) {
        if (s->used == sizeof(s->block))
            next_block(s);
        *p++ = s->block[s->used++];
    }
}

struct rng stream_rng(struct stream_rng *s)
{
    return (struct rng){.fill = stream_fill, .ctx = s};
}

uint32_t stream_below(struct stream_rng *s, uint32_t n)
{
    uint32_t v;

    stream_fill(s, &v, sizeof(v));
    return v % n;
}

void party_init(struct party *p, const char *name, const struct rng *rng)
{
    memset(p, 0, sizeof(*p));
    buf_init(&p->spk_record, RELAY_MAX_PREKEY);
    buf_init(&p->otk_record, RELAY_MAX_PREKEY);
    must(identity_new(name, rng, TEST_NOW, &p->id) == 0, "identity");
    must(prekey_make_signed(p->id, SPK_ID, TEST_NOW, rng, &p->spk, &p->spk_record) == 0, "signed prekey");
    must(prekey_make_one_time(p->id, OTK_ID, rng, &p->otk, &p->otk_record) == 0, "one-time prekey");
}

void party_done(struct party *p)
{
    identity_free(p->id);
    buf_done(&p->spk_record);
    buf_done(&p->otk_record);
    sodium_memzero(p, sizeof(*p));
}

const struct device *party_device(const struct party *p)
{
    return device_list_find(identity_list(p->id), identity_address(p->id)->device);
}

struct bundle party_bundle(const struct party *p, bool one_time)
{
    struct span spk = {p->spk_record.data, p->spk_record.len}, otk = {p->otk_record.data, p->otk_record.len};
    struct bundle bundle;

    if (!one_time)
        otk = (struct span){0};
    must(bundle_verify(party_device(p), spk, otk, TEST_NOW, &bundle) == 0, "bundle");
    return bundle;
}

void pair_initiate(struct pair *p, const char *seed, bool one_time)
{
    struct bundle bundle;

    must(sodium_init() >= 0, "sodium_init");
    memset(p, 0, sizeof(*p));
    stream_rng_init(&p->stream, seed);
    p->rng = stream_rng(&p->stream);
    p->now = TEST_NOW;
    party_init(&p->alice, "alice", &p->rng);
    party_init(&p->bob, "bob", &p->rng);
    bundle = party_bundle(&p->bob, one_time);
    must(ratchet_initiate(p->alice.id, party_device(&p->bob), &bundle, TEST_NOW, TEST_NOW, &p->rng, &p->a) ==
                    0,
            "initiate");
}

void pair_init(struct pair *p, const char *seed, bool one_time)
{
    struct envelope_view view;
    struct buf first, body;

    buf_init(&first, ENVELOPE_MAX_BODY);
    buf_init(&body, ENVELOPE_MAX_BODY);
    pair_initiate(p, seed, one_time);
    encrypt_text(p->a, "first", p->now, &p->rng, &first);
    must(envelope_parse(first.data, first.len, &view) == 0, "parse");
    must(ratchet_respond(p->bob.id, party_device(&p->alice), &view, &p->bob.spk,
                 one_time ? &p->bob.otk : NULL, TEST_NOW, &p->b) == 0,
            "respond");
    must(decrypt_body(p->b, &first, p->now, &p->rng, &body) == 0, "first message");
    buf_done(&first);
    buf_done(&body);
}

void pair_done(struct pair *p)
{
    ratchet_free(p->a);
    ratchet_free(p->b);
    party_done(&p->alice);
    party_done(&p->bob);
}

struct inner text_inner(const char *text)
{
    return (struct inner){
            .type = INNER_MESSAGE,
            .flags = INNER_TEXT,
            .time_ms = TEST_NOW,
            .body = {(const uint8_t *)text, strlen(text)},
    };
}

void encrypt_text(
        struct ratchet *r, const char *text, uint64_t now, const struct rng *rng, struct buf *ret_envelope)
{
    struct inner in = text_inner(text);

    buf_reset(ret_envelope);
    must(ratchet_encrypt(r, &in, now, rng, ret_envelope) == 0, "encrypt");
}

int decrypt_body(struct ratchet *r, const struct buf *envelope, uint64_t now, const struct rng *rng,
        struct buf *ret_body)
{
    struct envelope_view view;
    struct inner in;
    struct buf plaintext;
    int status = envelope_parse(envelope->data, envelope->len, &view);

    if (status)
        return status;
    buf_init_secret(&plaintext, ENVELOPE_MAX_BODY);
    status = ratchet_decrypt(r, &view, now, rng, &plaintext, &in);
    if (status == 0) {
        buf_reset(ret_body);
        buf_bytes(ret_body, in.body.p, in.body.n);
        buf_u8(ret_body, 0);
        ret_body->len--;
    }
    buf_done(&plaintext);
    return status;
}
