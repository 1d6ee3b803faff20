/* Defects that a review has found: each stays mended. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kdf.h"
#include "sim.h"
#include "state.h"

#include <cmocka.h>

#define ALICE 0
#define BOB 1
#define CAROL 2

/* --- an account outside the simulator, with two devices, whose keys the test holds --- */

struct outsider {
    uint8_t ak[64], dsk[2][64], rak[2][64], dhk[2][32];
    uint8_t entry[2][2048]; /* n 1 and, once made, n 2 */
    size_t entry_len[2];
    struct device_list list;
    struct identity *device[2];
};

static void seal_entry(struct outsider *o, unsigned i, const char *name, uint64_t now_ms)
{
    static const uint8_t none[LIST_HASH_LEN];
    uint8_t dhk[32], sig[64];
    struct buf b, e = buf_over(o->entry[i], sizeof(o->entry[i]));
    buf_init(&b, sizeof(o->entry[i]));
    buf_u8(&b, 1);
    buf_bytes(&b, o->ak + 32, 32);
    buf_lp(&b, name, strlen(name));
    buf_u64(&b, i + 1);
    buf_bytes(&b, i ? o->list.hash : none, LIST_HASH_LEN);
    buf_u64(&b, now_ms);
    buf_u8(&b, 2);
    for (unsigned d = 0; d < 2; d++) {
        x25519_public(o->dhk[d], dhk);
        buf_u32(&b, d + 1);
        buf_bytes(&b, o->dsk[d] + 32, 32);
        buf_bytes(&b, dhk, 32);
        buf_bytes(&b, o->rak[d] + 32, 32);
        buf_u8(&b, 1);
        buf_u16(&b, 1);
    }
    buf_u8(&b, 0);
    buf_lp(&e, b.data, b.len);
    label_sign(LABEL_DEVICE_LIST, b.data, b.len, o->ak, sig);
    buf_bytes(&e, sig, sizeof(sig));
    for (unsigned d = 0; d < 2; d++) {
        label_sign(LABEL_DEVICE_ENTRY, b.data, b.len, o->dsk[d], sig);
        buf_bytes(&e, sig, sizeof(sig));
    }
    assert_int_equal(buf_status(&e), 0);
    o->entry_len[i] = e.len;
    buf_done(&b);
}

static void outsider_init(struct sim *s, struct outsider *o, const char *name)
{
    uint8_t seed[5][32], pk[32];
    *o = (struct outsider){0};
    rng_fill(&s->rng, seed, sizeof(seed));
    (void)crypto_sign_seed_keypair(pk, o->ak, seed[0]);
    for (unsigned d = 0; d < 2; d++) {
        (void)crypto_sign_seed_keypair(pk, o->dsk[d], seed[1 + d]);
        (void)crypto_sign_seed_keypair(pk, o->rak[d], seed[3 + d]);
        rng_fill(&s->rng, o->dhk[d], sizeof(o->dhk[d]));
    }
    seal_entry(o, 0, name, s->now);
    assert_int_equal(device_list_verify(o->entry[0], o->entry_len[0], &o->list), 0);
    for (unsigned d = 0; d < 2; d++) { /* as identity_save() writes it */
        struct buf r;
        buf_init(&r, 8192);
        buf_u8(&r, 1);
        buf_u32(&r, d + 1);
        buf_bytes(&r, seed[0], 32);
        buf_bytes(&r, seed[1 + d], 32);
        buf_bytes(&r, o->dhk[d], 32);
        buf_bytes(&r, seed[3 + d], 32);
        buf_lp(&r, o->entry[0], o->entry_len[0]);
        assert_int_equal(identity_load(r.data, r.len, &o->device[d]), 0);
        buf_done(&r);
    }
}

static void outsider_done(struct outsider *o)
{
    identity_free(o->device[0]);
    identity_free(o->device[1]);
}

/* --- the relay: shows the outsider, keeps Alice's prekey, may lose Bob's envelopes for her --- */

struct stage {
    struct sim *s;
    struct outsider *shown; /* where there is nobody else */
    unsigned entries;
    const char *name;
    bool lose;
    struct bytes signed_prekey;
};

static void show_outsider(void *ctx, struct relay_account *m)
{
    struct stage *g = ctx;
    if (m->found || !g->shown)
        return;
    m->found = true;
    m->name = (struct span){.p = (const uint8_t *)g->name, .n = strlen(g->name)};
    memcpy(m->uid, g->shown->list.uid, UID_LEN);
    m->entries = 0;
    for (unsigned i = 0; i < g->entries; i++)
        m->entry[m->entries++] = (struct span){.p = g->shown->entry[i], .n = g->shown->entry_len[i]};
}

static void keep_prekey(void *ctx, const struct address *who, struct relay_bundle *m)
{
    struct stage *g = ctx;
    if (sim_node_of(g->s, who->uid) == ALICE && m->found && !g->signed_prekey.p)
        g->signed_prekey = bytes_copy(m->signed_prekey.p, m->signed_prekey.n);
}

static bool lose(void *ctx, const struct address *from, const struct relay_submit_item *m)
{
    const struct stage *g = ctx;
    (void)from;
    return !g->lose || sim_node_of(g->s, m->to.uid) != ALICE;
}

/* Bob has asked for a bundle of Alice's; with `lost` she hears nothing of him. */
static void stage_open(struct stage *g, struct sim *s, bool lost)
{
    *g = (struct stage){.s = s, .lose = lost, .entries = 1};
    simrelay_set_liar(
            s->relay, &(struct simrelay_liar){
                              .ctx = g, .account = show_outsider, .bundle = keep_prekey, .submit = lose});
    sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, 5 * SECOND_MS);
    assert_non_null(g->signed_prekey.p);
}

static void stage_close(struct stage *g)
{
    bytes_free(&g->signed_prekey);
    sim_free(g->s);
}

static struct ratchet *session_to_alice(struct stage *g, const struct identity *me)
{
    struct sim *s = g->s;
    const struct device *alice = &identity_list(s->node[ALICE].engine->id)->device[0];
    struct ratchet *r = NULL;
    struct bundle b;
    assert_int_equal(bundle_verify(alice, (struct span){.p = g->signed_prekey.p, .n = g->signed_prekey.n},
                             (struct span){0}, s->now, &b),
            0);
    assert_int_equal(ratchet_initiate(me, alice, &b, s->now, s->now, &s->rng, &r), 0);
    return r;
}

/* The world must know of a message, or it takes it for one out of nowhere; from -1: no node of it. */
static void world_expects(struct sim *s, const char *id)
{
    struct sim_message *m;
    if (s->n_messages == s->cap_messages) {
        s->cap_messages += 64;
        m = realloc(s->messages, s->cap_messages * sizeof(*m));
        assert_non_null(m);
        s->messages = m;
    }
    m = &s->messages[s->n_messages++];
    *m = (struct sim_message){.from = -1, .to = ALICE, .text = "hi"};
    (void)snprintf(m->id, sizeof(m->id), "%s", id);
}

static void say_as(struct stage *g, struct ratchet *r, const struct identity *me, const char *id,
        uint64_t count, bool other_list)
{
    struct sim *s = g->s;
    struct address alice = sim_address(s, ALICE);
    const struct device_list *own = identity_list(me), *hers = identity_list(s->node[ALICE].engine->id);
    struct inner in = {.type = INNER_MESSAGE, .flags = INNER_TEXT, .count = count, .time_ms = s->now};
    struct buf body, out;
    buf_init(&body, 1000);
    buf_init(&out, ENVELOPE_MAX_BODY);
    buf_lp(&body, id, strlen(id));
    buf_lp(&body, "hi", 2);
    in.body = (struct span){.p = body.data, .n = body.len};
    in.id = message_id_of(own->uid, id);
    in.own.n = own->n;
    memcpy(in.own.hash, own->hash, LIST_HASH_LEN);
    in.peer.n = hers->n;
    memcpy(in.peer.hash, hers->hash, LIST_HASH_LEN);
    in.peer.hash[0] ^= other_list;
    world_expects(s, id);
    assert_int_equal(ratchet_encrypt(r, &in, s->now, &s->rng, &out), 0);
    simrelay_inject(s->relay, &alice, out.data, out.len);
    buf_done(&body);
    buf_done(&out);
}

/* A first message of a new session. */
static void write_to_alice(
        struct stage *g, const struct identity *me, const char *id, uint64_t count, bool other_list)
{
    struct ratchet *r = session_to_alice(g, me);
    say_as(g, r, me, id, count, other_list);
    ratchet_free(r);
    sim_run(g->s, 5 * SECOND_MS);
}

static void alice_verifies(struct sim *s, const char *user)
{
    const struct sim_answer *a =
            sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"%s\"}", user), API_OK);
    char number[100];
    (void)snprintf(number, sizeof(number), "%s", sim_text(&a->data, "safety_number"));
    (void)sim_expect(s,
            sim_call(s, ALICE, "contact.verify", "{\"user\":\"%s\",\"number\":\"%s\"}", user, number),
            API_OK);
}

static void garbage(struct sim *s, unsigned n)
{
    struct address alice = sim_address(s, ALICE);
    uint8_t junk[200] = {1, 1};
    for (unsigned i = 0; i < n; i++) {
        rng_fill(&s->rng, junk + 2, sizeof(junk) - 2);
        simrelay_inject(s->relay, &alice, junk, sizeof(junk));
    }
}

/* --- the findings --- */

static void removed_contact_with_a_second_device(void **state)
{
    struct sim *s = sim_new_online(700, 3);
    struct outsider mallory;
    struct stage g;
    char uid[UID_TEXT_LEN + 1];
    const struct bytes *ev;
    (void)state;
    stage_open(&g, s, false);
    outsider_init(s, &mallory, "mallory");
    uid_to_text(mallory.list.uid, uid);
    g.shown = &mallory;
    g.name = "mallory";
    /* Only the second device has written, and with a gap, which is looked at again and again. */
    struct ratchet *r = session_to_alice(&g, mallory.device[1]);
    say_as(&g, r, mallory.device[1], "m1", 1, false);
    sim_run(s, 5 * SECOND_MS);
    say_as(&g, r, mallory.device[1], "m2", 5, false);
    sim_run(s, 5 * SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "message", "from_uid", uid), 2);
    (void)sim_expect(s, sim_call(s, ALICE, "contact.remove", "{\"user\":\"mallory\"}"), API_OK);
    /* Somebody else may get the memory, and is verified. */
    (void)sim_expect(s, sim_call(s, ALICE, "contact.add", "{\"user\":\"carol\"}"), API_OK);
    alice_verifies(s, "carol");
    say_as(&g, r, mallory.device[1], "m3", 6, false);
    sim_run(s, 5 * SECOND_MS);
    write_to_alice(&g, mallory.device[0], "m4", 1, false);
    write_to_alice(&g, mallory.device[1], "m5", 7, false);
    ev = sim_last_event(s, ALICE, "message");
    assert_string_equal(sim_text(ev, "id"), "m5");
    assert_string_equal(sim_text(ev, "from"), "mallory");
    assert_string_equal(sim_text(ev, "from_uid"), uid);
    assert_int_equal(sim_number(ev, "device"), 2);
    assert_false(sim_flag(ev, "verified"));
    assert_int_equal(sim_events(s, ALICE, "message", "from", "carol"), 0);
    sim_run(s, 2 * GAP_REPORT_MS);
    assert_int_equal(sim_events(s, ALICE, "error", "from", "carol"), 0);
    ratchet_free(r);
    outsider_done(&mallory);
    stage_close(&g);
}

static void hold_is_not_passed_under_a_borrowed_name(void **state)
{
    struct sim *s = sim_new_ready(701, 2);
    struct engine_config cfg = {.receipts = true, .strangers = STRANGERS_HOLD};
    struct identity *ghost;
    const struct sim_answer *a;
    struct stage g;
    (void)state;
    sim_configure(s, ALICE, &cfg);
    sim_connect(s, ALICE);
    sim_connect(s, BOB);
    sim_run(s, 3 * SECOND_MS);
    stage_open(&g, s, true);
    assert_int_equal(sim_map_count(s, ALICE, MAP_CONTACT), 0);
    /* An account that no relay knows says that it is called bob. */
    assert_int_equal(identity_new("bob", &s->rng, s->now, &ghost), 0);
    write_to_alice(&g, ghost, "x1", 1, false);
    sim_run(s, 20 * SECOND_MS);
    (void)sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_UNKNOWN_CONTACT);
    assert_int_equal(sim_map_count(s, ALICE, MAP_CONTACT) + sim_map_count(s, ALICE, MAP_HELD), 0);
    assert_int_equal(sim_events(s, ALICE, "error", "code", "STRANGER_UNKNOWN"), 1);
    /* The real one is a stranger like any other. */
    g.lose = false;
    sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, 2 * MINUTE_MS);
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_OK);
    assert_true(sim_flag(&a->data, "held"));
    /* And once more, now that the name is known. */
    write_to_alice(&g, ghost, "x2", 1, false);
    sim_run(s, 20 * SECOND_MS);
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_OK);
    assert_true(sim_flag(&a->data, "held"));
    assert_int_equal(sim_map_count(s, ALICE, MAP_CONTACT), 1);
    assert_int_equal(sim_events(s, ALICE, "message", NULL, NULL), 0);
    assert_int_equal(s->node[ALICE].submits[BOB], 0);
    assert_int_equal(sim_events(s, BOB, "message_ack", "state", "delivered"), 0);
    identity_free(ghost);
    stage_close(&g);
}

static uint64_t create_erin(struct sim *s, int node)
{
    return sim_call(s, node, "account.create", "{\"user\":\"erin\",\"relay\":\"ws://relay.test:7690/\"}");
}

static const char *state_of(struct sim *s, int node)
{
    return sim_text(&sim_expect(s, sim_call(s, node, "status", "{}"), API_OK)->data, "state");
}

static void create_keeps_the_keys_that_the_relay_has(void **state)
{
    struct sim *s = sim_new(702);
    int erin = sim_add(s, "erin", NULL), other;
    uint8_t before[UID_LEN], after[UID_LEN];
    (void)state;
    s->node[erin].skew_ms = HOUR_MS;
    (void)sim_expect(s, create_erin(s, erin), API_RELAY_REFUSED);
    assert_true(simrelay_find(s->relay, "erin", before)); /* the name is taken, by her */
    assert_string_not_equal(state_of(s, erin), "none");
    assert_true(memport_records(s->node[erin].mp) > 0);
    s->node[erin].skew_ms = 0;
    sim_run(s, 5 * MINUTE_MS);
    assert_string_equal(state_of(s, erin), "online");
    assert_true(simrelay_find(s->relay, "erin", after));
    assert_memory_equal(before, after, UID_LEN);
    assert_memory_equal(identity_list(s->node[erin].engine->id)->uid, after, UID_LEN);
    (void)sim_expect(s, create_erin(s, erin), API_ACCOUNT_EXISTS);
    /* Where the name is another's nothing stays. */
    other = sim_add(s, "other", NULL);
    (void)sim_expect(s, create_erin(s, other), API_NAME_TAKEN);
    assert_string_equal(state_of(s, other), "none");
    assert_int_equal(memport_records(s->node[other].mp), 0);
    sim_free(s);
}

static void garbage_hides_no_gap(void **state)
{
    struct sim *s = sim_new_online(703, 2);
    (void)state;
    sim_send(s, BOB, ALICE, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    simrelay_lies(s->relay)->forget = 1000;
    sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, 2 * SECOND_MS);
    simrelay_lies(s->relay)->forget = 0;
    sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, 3 * SECOND_MS);
    for (unsigned i = 0; i < 52; i++) {
        garbage(s, 20);
        sim_run(s, 10 * SECOND_MS);
    }
    assert_true(sim_events(s, ALICE, "error", "code", "DECRYPT_FAILED") >= MAX_ERROR_EVENTS_MINUTE);
    assert_int_equal(sim_events(s, ALICE, "error", "code", "MESSAGES_MISSING"), 1);
    sim_free(s);
}

static void garbage_hides_no_error_of_a_contact(void **state)
{
    struct sim *s = sim_new_online(704, 2);
    struct outsider mallory;
    struct stage g;
    (void)state;
    stage_open(&g, s, false);
    outsider_init(s, &mallory, "mallory");
    g.shown = &mallory;
    g.name = "mallory";
    write_to_alice(&g, mallory.device[0], "m1", 1, false);
    assert_int_equal(sim_events(s, ALICE, "error", NULL, NULL), 0);
    garbage(s, 100);
    sim_run(s, SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "error", NULL, NULL), MAX_ERROR_EVENTS_MINUTE);
    write_to_alice(&g, mallory.device[0], "m2", 2, true);
    assert_int_equal(sim_events(s, ALICE, "error", "code", "DEVICE_LIST_MISMATCH"), 1);
    write_to_alice(&g, mallory.device[0], "m3", 2, false);
    assert_int_equal(sim_events(s, ALICE, "error", "code", "SENDER_FORKED"), 1);
    assert_int_equal(sim_events(s, ALICE, "error", "from", "mallory"), 2);
    outsider_done(&mallory);
    stage_close(&g);
}

static void text_frame(struct sim *s)
{
    sim_turn(s, ALICE, engine_link_text(s->node[ALICE].engine, s->now, "x", 1));
}

static void text_frames_are_bounded(void **state)
{
    struct sim *s = sim_new_online(705, 2);
    struct engine_config cfg = {.receipts = true, .max_events = 1000};
    size_t before;
    (void)state;
    sim_configure(s, ALICE, &cfg);
    sim_run(s, 3 * SECOND_MS);
    sim_send(s, BOB, ALICE, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    for (unsigned i = 0; i < 1100; i++)
        text_frame(s);
    sim_run(s, SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "raw", NULL, NULL), MAX_RAW_EVENTS_MINUTE);
    assert_int_equal(engine_first_seq(s->node[ALICE].engine), 1);
    assert_int_equal(sim_events(s, ALICE, "message", NULL, NULL), 1);
    /* What ours bring is told, one for one. */
    before = sim_events(s, ALICE, "raw", NULL, NULL);
    for (unsigned i = 0; i < 3; i++)
        (void)sim_expect(s, sim_call(s, ALICE, "raw.write", "{\"text\":\"hello\"}"), API_OK);
    sim_run(s, SECOND_MS);
    for (unsigned i = 0; i < 100; i++)
        text_frame(s);
    sim_run(s, SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "raw", NULL, NULL), before + 3);
    /* Each minute a few more. */
    for (unsigned i = 0; i < 10; i++) {
        sim_run(s, MINUTE_MS);
        for (unsigned k = 0; k < 200; k++)
            text_frame(s);
    }
    sim_run(s, SECOND_MS);
    assert_in_range(sim_events(s, ALICE, "raw", NULL, NULL), before + 3,
            before + 3 + (size_t)10 * MAX_RAW_EVENTS_MINUTE);
    assert_int_equal(engine_first_seq(s->node[ALICE].engine), 1);
    sim_free(s);
}

static void verified_contact_keeps_its_name(void **state)
{
    struct sim *s = sim_new_online(706, 2);
    struct outsider mallory;
    const struct sim_answer *a;
    struct stage g;
    char uid[UID_TEXT_LEN + 1];
    (void)state;
    stage_open(&g, s, false);
    outsider_init(s, &mallory, "mallory");
    uid_to_text(mallory.list.uid, uid);
    g.shown = &mallory;
    g.name = "mallory";
    write_to_alice(&g, mallory.device[0], "m1", 1, false);
    alice_verifies(s, "mallory");
    /* The next list says that it is somebody else's, and is signed as it should be. */
    seal_entry(&mallory, 1, "trudy", s->now);
    g.entries = 2;
    g.name = "trudy";
    assert_int_equal(relay_lookup_uid(s->node[ALICE].engine, mallory.list.uid), 0);
    sim_turn(s, ALICE, 0);
    sim_run(s, 5 * SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "error", "code", "DEVICE_LIST_REFUSED"), 1);
    (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"trudy\",\"text\":\"x\"}"), API_UNKNOWN_USER);
    (void)sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"trudy\"}"), API_UNKNOWN_CONTACT);
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"mallory\"}"), API_OK);
    assert_string_equal(sim_text(&a->data, "uid"), uid);
    assert_string_equal(sim_text(&a->data, "user"), "mallory");
    assert_true(sim_flag(&a->data, "verified"));
    assert_string_equal(contact_find(s->node[ALICE].engine, mallory.list.uid)->name, "mallory");
    assert_int_equal(contact_find(s->node[ALICE].engine, mallory.list.uid)->list.n, 1);
    /* Under its own name a new list is taken. */
    seal_entry(&mallory, 1, "mallory", s->now);
    g.name = "mallory";
    assert_int_equal(relay_lookup_uid(s->node[ALICE].engine, mallory.list.uid), 0);
    sim_turn(s, ALICE, 0);
    sim_run(s, 5 * SECOND_MS);
    assert_int_equal(contact_find(s->node[ALICE].engine, mallory.list.uid)->list.n, 2);
    assert_true(contact_find(s->node[ALICE].engine, mallory.list.uid)->verified);
    outsider_done(&mallory);
    stage_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(removed_contact_with_a_second_device),
            cmocka_unit_test(hold_is_not_passed_under_a_borrowed_name),
            cmocka_unit_test(create_keeps_the_keys_that_the_relay_has),
            cmocka_unit_test(garbage_hides_no_gap),
            cmocka_unit_test(garbage_hides_no_error_of_a_contact),
            cmocka_unit_test(text_frames_are_bounded),
            cmocka_unit_test(verified_contact_keeps_its_name),
    };
    return cmocka_run_group_tests_name("scenario.findings", tests, NULL, NULL);
}
