/*
 * The constant-time check of handshake and ratchet. Private keys, chain and root keys, KEM secrets and fresh
 * randomness are marked as uninitialised memory: valgrind's memcheck then reports every branch and every
 * address that depends on one. What the protocol publishes though it comes from a secret (ct.h) is marked as
 * public by the code itself, compiled with E2EED_CT_CHECK. Run as valgrind --error-exitcode=9
 * --suppressions=libsodium.supp ct_ratchet. Status 77: not under valgrind.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>
#include <valgrind/memcheck.h>

#include "parties.h"
#include "ratchet_impl.h"

#define SECRET(p, n) ((void)VALGRIND_MAKE_MEM_UNDEFINED(p, n))
#define PUBLIC(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))

static bool tainted;

/* The parties' stream; what it gives is secret once `tainted` is set. */
static void secret_fill(void *ctx, void *out, size_t n)
{
    struct rng stream = stream_rng(ctx);
    rng_fill(&stream, out, n);
    if (tainted)
        SECRET(out, n);
}

static void taint_chain(struct chain *c)
{
    SECRET(c->ck, sizeof(c->ck));
    SECRET(c->id.hk, sizeof(c->id.hk));
}

static void taint_session(struct ratchet *r)
{
    SECRET(r->rk, sizeof(r->rk));
    SECRET(r->dhs, sizeof(r->dhs));
    SECRET(r->next_send.hk, sizeof(r->next_send.hk));
    SECRET(r->next_receive.hk, sizeof(r->next_receive.hk));
    SECRET(r->offer_seed, sizeof(r->offer_seed));
    SECRET(r->answer.ss, sizeof(r->answer.ss));
    taint_chain(&r->send);
    taint_chain(&r->receive);
    for (uint32_t i = 0; i < r->skipped.count; i++)
        SECRET(r->skipped.key[i].mk, KEY_LEN);
    for (uint32_t i = 0; i < r->skipped.chains; i++)
        SECRET(r->skipped.chain[i].id.hk, KEY_LEN);
}

static void taint_prekey(struct prekey_secret *k)
{
    SECRET(k->x25519, sizeof(k->x25519));
    SECRET(k->mlkem_seed, sizeof(k->mlkem_seed));
}

/* DHK lies somewhere in the identity's block; its record tells what to look for. */
static void taint_identity(struct identity *id)
{
    struct buf record;
    uint8_t *block = (uint8_t *)id;
    size_t at = 0;
    buf_init_secret(&record, 16384);
    identity_save(id, &record);
    while (at < 1024 && memcmp(block + at, record.data + 1 + 4 + 32 + 32, KEY_LEN) != 0)
        at++;
    must(at < 1024, "no DHK in the identity");
    SECRET(block + at, KEY_LEN);
    buf_done(&record);
}

static void seal(struct pair *p, struct ratchet *from, struct buf *envelope)
{
    taint_session(from);
    encrypt_text(from, "text", p->now, &p->rng, envelope);
    PUBLIC(envelope->data, envelope->len);
    PUBLIC(from->dhs_public, KEY_LEN);
}

static void open_sealed(struct pair *p, struct ratchet *to, struct buf *envelope)
{
    struct buf body;
    buf_init(&body, ENVELOPE_MAX_BODY);
    taint_session(to);
    envelope->data[envelope->len - 1] ^= 1;
    must(decrypt_body(to, envelope, p->now, &p->rng, &body) == RATCHET_FAILED, "a spoilt envelope");
    envelope->data[envelope->len - 1] ^= 1;
    must(decrypt_body(to, envelope, p->now, &p->rng, &body) == 0, "decrypt");
    buf_done(&body);
}

static void turn(struct pair *p, struct ratchet *from, struct ratchet *to, struct buf *envelope)
{
    seal(p, from, envelope);
    open_sealed(p, to, envelope);
}

static void check_chains(struct pair *p)
{
    struct buf early, e;
    buf_init(&early, ENVELOPE_MAX_BODY);
    buf_init(&e, ENVELOPE_MAX_BODY);
    turn(p, p->b, p->a, &e);
    turn(p, p->a, p->b, &e);
    p->now += RATCHET_KEM_MS;
    turn(p, p->b, p->a, &e); /* offer */
    turn(p, p->a, p->b, &e); /* answer */
    seal(p, p->a, &early);
    turn(p, p->a, p->b, &e);
    open_sealed(p, p->b, &early);
    turn(p, p->b, p->a, &e);
    buf_done(&early);
    buf_done(&e);
}

static void check_handshake(struct pair *p, bool one_time)
{
    struct bundle bundle = party_bundle(&p->bob, one_time);
    struct prekey_secret *otk = one_time ? &p->bob.otk : NULL;
    struct envelope_view view;
    struct buf e;
    ratchet_free(p->a);
    ratchet_free(p->b);
    p->a = p->b = NULL;
    buf_init(&e, ENVELOPE_MAX_BODY);
    must(ratchet_initiate(p->alice.id, party_device(&p->bob), &bundle, 1, p->now, &p->rng, &p->a) == 0,
            "initiate");
    seal(p, p->a, &e);
    must(envelope_parse(e.data, e.len, &view) == 0, "parse");
    must(ratchet_respond(p->bob.id, party_device(&p->alice), &view, &p->bob.spk, otk, p->now, &p->b) == 0,
            "respond");
    open_sealed(p, p->b, &e);
    buf_done(&e);
    check_chains(p);
}

int main(void)
{
    struct pair p;
    if (RUNNING_ON_VALGRIND == 0) {
        fprintf(stderr, "ct_ratchet: not under valgrind, nothing checked\n");
        return 77;
    }
    pair_init(&p, "constant time", true);
    p.rng = (struct rng){.fill = secret_fill, .ctx = &p.stream};
    taint_identity(p.alice.id);
    taint_identity(p.bob.id);
    taint_prekey(&p.bob.spk);
    taint_prekey(&p.bob.otk);
    tainted = true;
    check_handshake(&p, true);
    check_handshake(&p, false);
    pair_done(&p);
    printf("ct_ratchet: done\n");
    return EXIT_SUCCESS;
}
