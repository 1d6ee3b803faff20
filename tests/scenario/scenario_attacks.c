/* A relay that attacks, stolen and restored state; the numbers are those of the list of attacks in the threat
 * model. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"
#include "state.h"

#include <cmocka.h>

#define ALICE 0
#define BOB 1
#define CAROL 2

static struct sim *talking(uint64_t seed, size_t n)
{
    struct sim *s = sim_new_online(seed, n);
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_send(s, BOB, ALICE, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    return s;
}

/* --- bundles --- */

struct forge {
    struct sim *s;
    unsigned how;
    struct bytes signed_prekey, one_time;
};

static void forge_bundle(void *ctx, const struct address *who, struct relay_bundle *m)
{
    struct forge *f = ctx;
    struct prekey_record k;
    struct span t;
    (void)who;
    if (!m->found || !m->one_time.n)
        return;
    bytes_free(&f->signed_prekey);
    bytes_free(&f->one_time);
    f->signed_prekey = bytes_copy(m->signed_prekey.p, m->signed_prekey.n);
    f->one_time = bytes_copy(m->one_time.p, m->one_time.n);
    switch (f->how) {
    case 0: /* one bit of the signed prekey */
        f->signed_prekey.p[sim_random(f->s, (uint32_t)f->signed_prekey.n)] ^=
                (uint8_t)(1u << sim_random(f->s, 8));
        break;
    case 1: /* one bit of the one-time pair */
        f->one_time.p[sim_random(f->s, (uint32_t)f->one_time.n)] ^= (uint8_t)(1u << sim_random(f->s, 8));
        break;
    case 2: /* a low-order point as the signed prekey */
        (void)!prekey_parse_signed(f->signed_prekey.p, f->signed_prekey.n, &k);
        memset(memmem(f->signed_prekey.p, f->signed_prekey.n, k.x25519, 32), 0, 32);
        break;
    case 3: /* each in the other's place */
        t = m->signed_prekey;
        m->signed_prekey = m->one_time;
        m->one_time = t;
        return;
    case 4: /* the KEM keys exchanged */
        memcpy(f->one_time.p + 4 + 1 + UID_LEN + 4 + 4 + 32,
                m->signed_prekey.p + 4 + 1 + UID_LEN + 4 + 8 + 2 + 4 + 32, PREKEY_MLKEM_LEN);
        break;
    default:
        break;
    }
    m->signed_prekey = (struct span){.p = f->signed_prekey.p, .n = f->signed_prekey.n};
    m->one_time = (struct span){.p = f->one_time.p, .n = f->one_time.n};
}

static void attack_09_forged_bundles(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 60; i++) {
        struct sim *s = sim_new_online(500 + i, 2);
        struct forge f = {.s = s, .how = i < 20 ? 0 : i < 40 ? 1 : 2 + i % 3};
        simrelay_set_liar(s->relay, &(struct simrelay_liar){.ctx = &f, .bundle = forge_bundle});
        sim_send(s, ALICE, BOB, 2, "");
        sim_run(s, 500);
        assert_int_equal(s->node[ALICE].submits[BOB], 0);
        assert_int_equal(sim_map_count(s, ALICE, MAP_SESSION), 0);
        /* An honest relay again: it goes on by itself. */
        simrelay_set_liar(s->relay, &(struct simrelay_liar){0});
        assert_true(sim_settle(s, MINUTE_MS));
        sim_check_all(s);
        bytes_free(&f.signed_prekey);
        bytes_free(&f.one_time);
        sim_free(s);
    }
}

struct other_bundle {
    struct sim *s;
    struct bytes signed_prekey, one_time;
};

static void keep_bundle(void *ctx, const struct address *who, struct relay_bundle *m)
{
    struct other_bundle *o = ctx;
    if (sim_node_of(o->s, who->uid) == CAROL && !o->signed_prekey.p) {
        o->signed_prekey = bytes_copy(m->signed_prekey.p, m->signed_prekey.n);
        o->one_time = bytes_copy(m->one_time.p, m->one_time.n);
    } else if (sim_node_of(o->s, who->uid) == BOB) {
        m->signed_prekey = (struct span){.p = o->signed_prekey.p, .n = o->signed_prekey.n};
        m->one_time = (struct span){.p = o->one_time.p, .n = o->one_time.n};
    }
}

static void attack_09_bundle_of_another(void **state)
{
    struct sim *s = sim_new_online(60, 3);
    struct other_bundle o = {.s = s};
    (void)state;
    simrelay_set_liar(s->relay, &(struct simrelay_liar){.ctx = &o, .bundle = keep_bundle});
    sim_send(s, ALICE, CAROL, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    assert_int_equal(s->node[ALICE].submits[BOB], 0);
    bytes_free(&o.signed_prekey);
    bytes_free(&o.one_time);
    sim_free(s);
}

/* --- envelopes --- */

static void attack_10_first_message_replayed(void **state)
{
    struct sim *s = talking(61, 2);
    struct address bob = sim_address(s, BOB);
    struct bytes first = simrelay_history(s->relay, &bob, 0);
    size_t sessions = sim_map_count(s, BOB, MAP_SESSION), submits;
    (void)state;
    assert_int_equal(
            sim_map_count(s, BOB, MAP_PREKEY), 100); /* of 101, the one-time key that was used is gone */
    submits = s->node[BOB].submits[ALICE];
    for (int i = 0; i < 4; i++) {
        simrelay_inject(s->relay, &bob, first.p, first.n);
        sim_run(s, SECOND_MS);
        sim_restart(s, BOB);
        sim_run(s, 3 * SECOND_MS);
    }
    assert_int_equal(sim_map_count(s, BOB, MAP_SESSION), sessions);
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 1);
    assert_int_equal(s->node[BOB].submits[ALICE], submits + 4); /* its receipt, again each time */
    /* And with something changed behind the handshake header it is nothing at all. */
    struct bytes changed = bytes_copy(first.p, first.n);
    changed.p[changed.n - 1] ^= 1;
    simrelay_inject(s->relay, &bob, changed.p, changed.n);
    sim_run(s, SECOND_MS);
    assert_int_equal(s->node[BOB].submits[ALICE], submits + 4);
    assert_int_equal(sim_events(s, BOB, "error", "code", "DECRYPT_FAILED"), 1);
    bytes_free(&changed);
    sim_check_all(s);
    sim_free(s);
}

struct holding {
    struct sim *s;
    bool on;
    struct bytes held[8];
    size_t n;
};

static bool hold_back(void *ctx, const struct address *from, const struct relay_submit_item *m)
{
    struct holding *h = ctx;
    (void)from;
    if (!h->on || sim_node_of(h->s, m->to.uid) != BOB || h->n == ARRAY_SIZE(h->held))
        return true;
    h->held[h->n++] = bytes_copy(m->body.p, m->body.n);
    return false;
}

static uint64_t active_number(struct sim *s, int node, int other)
{
    struct address a = sim_address(s, other);
    const struct peer *p = peer_find(s->node[node].engine, &a);
    return p && p->n_sessions ? p->sessions[0].number : 0;
}

static void attack_11_first_message_held_back(void **state)
{
    struct sim *s = sim_new_online(62, 2);
    struct holding h = {.s = s, .on = true};
    struct address bob = sim_address(s, BOB);
    uint64_t before;
    (void)state;
    s->disorderly = true;
    simrelay_set_liar(s->relay, &(struct simrelay_liar){.ctx = &h, .submit = hold_back});
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, SECOND_MS);
    assert_int_equal(h.n, 1);
    h.on = false;
    sim_run(s, HOUR_MS);
    /* By now another session is in use. */
    (void)sim_expect(s, sim_call(s, ALICE, "contact.remove", "{\"user\":\"bob\"}"), API_OK);
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, HOUR_MS));
    sim_send(s, BOB, ALICE, 2, "");
    assert_true(sim_settle(s, HOUR_MS));
    before = active_number(s, BOB, ALICE);
    assert_true(before);
    simrelay_inject(s->relay, &bob, h.held[0].p, h.held[0].n);
    sim_run(s, SECOND_MS);
    assert_int_equal(active_number(s, BOB, ALICE), before);
    sim_send(s, BOB, ALICE, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    assert_int_equal(sim_events(s, ALICE, "error", "code", "DECRYPT_FAILED"), 0);
    for (size_t i = 0; i < h.n; i++)
        bytes_free(&h.held[i]);
    sim_free(s);
}

static void flood(struct sim *s, struct address *to, unsigned n)
{
    struct bytes first = simrelay_history(s->relay, to, 0), later = simrelay_history(s->relay, to, 1);
    for (unsigned i = 0; i < n; i++) {
        const struct bytes *like = i % 3 && later.p ? &later : &first;
        struct bytes b = bytes_copy(like->p, like->n);
        if (i % 4 == 0) {
            rng_fill(&s->rng, b.p, b.n);
        } else {
            b.p[i % 4 == 1 ? b.n - 1 - sim_random(s, 200) : sim_random(s, (uint32_t)b.n)] ^=
                    (uint8_t)(1u << sim_random(s, 8));
        }
        if (i % 7 == 0)
            b.n = sim_random(s, (uint32_t)b.n);
        simrelay_inject(s->relay, to, b.p, b.n);
        free(b.p);
    }
}

static void attack_12_flood_of_garbage(void **state)
{
    struct sim *s = talking(63, 3);
    struct address bob = sim_address(s, BOB);
    uint64_t sessions, routes, peers, keys, claims;
    size_t sent, errors;
    (void)state;
    sim_run(s, MINUTE_MS);
    sessions = sim_map_digest(s, BOB, MAP_SESSION);
    routes = sim_map_digest(s, BOB, MAP_ROUTE);
    peers = sim_map_digest(s, BOB, MAP_PEER);
    keys = sim_map_digest(s, BOB, MAP_PREKEY);
    sent = sim_all_sent(s, BOB) - s->node[BOB].sent[RELAY_ACK];
    claims = simrelay_claims(s->relay);
    errors = sim_events(s, BOB, "error", NULL, NULL);
    flood(s, &bob, 2000);
    sim_run(s, MINUTE_MS);
    assert_int_equal(simrelay_waiting(s->relay, &bob), 0);
    assert_int_equal(sim_map_digest(s, BOB, MAP_SESSION), sessions);
    assert_int_equal(sim_map_digest(s, BOB, MAP_ROUTE), routes);
    assert_int_equal(sim_map_digest(s, BOB, MAP_PEER), peers);
    assert_int_equal(sim_map_digest(s, BOB, MAP_PREKEY), keys);
    assert_int_equal(
            sim_all_sent(s, BOB) - s->node[BOB].sent[RELAY_ACK], sent); /* ACKs to the relay, nothing else */
    assert_int_equal(simrelay_claims(s->relay), claims);
    assert_in_range(sim_events(s, BOB, "error", NULL, NULL) - errors, 1, MAX_ERROR_EVENTS_MINUTE);
    assert_int_equal(sim_events(s, BOB, "session_reset", NULL, NULL), 0);
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_check_all(s);
    sim_free(s);
}

static void attack_12_garbage_from_strangers(void **state)
{
    struct sim *s = sim_new_online(64, 3);
    struct holding h = {.s = s, .on = true};
    struct address bob = sim_address(s, BOB);
    size_t sent;
    (void)state;
    simrelay_set_liar(s->relay, &(struct simrelay_liar){.ctx = &h, .submit = hold_back});
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, SECOND_MS);
    sent = sim_all_sent(s, BOB) - s->node[BOB].sent[RELAY_ACK];
    flood(s, &bob, 1000);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_map_count(s, BOB, MAP_CONTACT) + sim_map_count(s, BOB, MAP_HELD), 0);
    assert_int_equal(sim_all_sent(s, BOB) - s->node[BOB].sent[RELAY_ACK], sent);
    for (size_t i = 0; i < h.n; i++)
        bytes_free(&h.held[i]);
    sim_free(s);
}

static void attack_05_reflected(void **state)
{
    struct sim *s = talking(65, 2);
    struct address alice = sim_address(s, ALICE), bob = sim_address(s, BOB);
    size_t messages = sim_events(s, ALICE, "message", NULL, NULL);
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct bytes b = simrelay_history(s->relay, &bob, i);
        if (b.p)
            simrelay_inject(s->relay, &alice, b.p, b.n);
    }
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_events(s, ALICE, "message", NULL, NULL), messages);
    assert_int_equal(sim_map_count(s, ALICE, MAP_CONTACT), 1); /* bob; not herself */
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_check_all(s);
    sim_free(s);
}

static void attack_05_reordered_and_doubled(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct sim *s = talking(600 + seed, 2);
        struct simrelay_lies *l = simrelay_lies(s->relay);
        s->disorderly = true;
        l->reorder = 500;
        l->duplicate = 500;
        l->replay = 200;
        for (int i = 0; i < 60; i++) {
            int from = (int)sim_random(s, 2);
            sim_send(s, from, 1 - from, 2, "");
            sim_run(s, sim_random(s, 30));
        }
        *l = (struct simrelay_lies){0};
        assert_true(sim_settle(s, HOUR_MS));
        assert_int_equal(sim_events(s, BOB, "error", "code", "MESSAGES_MISSING"), 0);
        assert_int_equal(sim_events(s, BOB, "error", "code", "SENDER_FORKED"), 0);
        sim_check_all(s);
        sim_free(s);
    }
}

/* An envelope that vanishes for good: its sender makes a new one, in a new session, and everything arrives
 * once. */
static void attack_05_dropped(void **state)
{
    struct sim *s = talking(66, 2);
    size_t resets;
    (void)state;
    s->disorderly = true;
    simrelay_lies(s->relay)->forget = 1000;
    simrelay_lies(s->relay)->forget_acks = true;
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    simrelay_lies(s->relay)->forget = 0;
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, 6 * MINUTE_MS);
    assert_int_equal(sim_events(s, BOB, "error", "code", "MESSAGES_MISSING"), 1);
    assert_true(sim_settle(s, HOUR_MS));
    resets = sim_events(s, ALICE, "session_reset", NULL, NULL);
    assert_true(resets <= 1);
    sim_check_all(s);
    sim_free(s);
}

/* Damaged on its way, sent anew in a new session; then the first one comes after all, and everything else
 * once more. */
static void attack_05_late_after_a_new_session(void **state)
{
    struct sim *s = talking(73, 2);
    struct address bob = sim_address(s, BOB);
    struct bytes b;
    (void)state;
    s->disorderly = true;
    simrelay_lies(s->relay)->corrupt = 1000;
    for (int i = 0; i < 3; i++)
        sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_events(s, BOB, "error", "code", "DECRYPT_FAILED"), 3);
    simrelay_lies(s->relay)->corrupt = 0;
    assert_true(sim_settle(s, 3 * HOUR_MS));
    assert_int_equal(sim_events(s, ALICE, "session_reset", NULL, NULL), 1);
    for (size_t i = 0; (b = simrelay_history(s->relay, &bob, i)).p; i++)
        simrelay_inject(s->relay, &bob, b.p, b.n);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 4);
    assert_int_equal(sim_events(s, BOB, "error", NULL, NULL), 3); /* all of them were readable */
    sim_check_all(s);
    sim_free(s);
}

static void restored(uint64_t seed, int victim)
{
    struct sim *s = talking(seed, 2);
    struct memport_snapshot *old = memport_snapshot(s->node[victim].mp);
    size_t resets[2];
    s->disorderly = true;
    for (int i = 0; i < 20; i++) {
        sim_send(s, ALICE, BOB, 2, "");
        sim_send(s, BOB, ALICE, 2, "");
        assert_true(sim_settle(s, MINUTE_MS));
    }
    sim_restore(s, victim, old);
    s->disorderly = true;
    sim_run(s, SECOND_MS);
    size_t a = sim_send(s, ALICE, BOB, 2, ""), b = sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, 3 * HOUR_MS);
    assert_true(s->messages[a].delivered && s->messages[b].delivered);
    assert_true(sim_events(s, 1 - victim, "error", NULL, NULL) >= 1); /* it does not go unnoticed */
    resets[0] = sim_events(s, ALICE, "session_reset", NULL, NULL);
    resets[1] = sim_events(s, BOB, "session_reset", NULL, NULL);
    assert_true(resets[0] <= 4 && resets[1] <= 4);
    a = sim_send(s, ALICE, BOB, 2, "");
    b = sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, MINUTE_MS);
    assert_true(s->messages[a].delivered && s->messages[b].delivered);
    memport_snapshot_free(old);
    sim_free(s);
}

static void attack_05_restored_sender(void **state)
{
    (void)state;
    restored(67, ALICE);
}

static void attack_05_restored_recipient(void **state)
{
    (void)state;
    restored(68, BOB);
}

/* A thief writes to Alice with Bob's old state, while Bob goes on: Alice is not brought back to an old
 * session. */
static void attack_11_stolen_state(void **state)
{
    struct sim *s = talking(69, 2);
    struct memport_snapshot *stolen = memport_snapshot(s->node[BOB].mp), *own;
    uint64_t number;
    size_t m;
    (void)state;
    s->disorderly = true;
    /* Trouble makes a new session in between. */
    simrelay_lies(s->relay)->corrupt = 1000;
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    simrelay_lies(s->relay)->corrupt = 0;
    assert_true(sim_settle(s, 3 * HOUR_MS));
    sim_send(s, BOB, ALICE, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    number = active_number(s, ALICE, BOB);
    own = memport_snapshot(s->node[BOB].mp);
    s->may_repeat = true;
    sim_restore(s, BOB, stolen);
    assert_true(active_number(s, BOB, ALICE) < number);
    m = sim_send(s, BOB, ALICE, 2, "");
    sim_run(s, MINUTE_MS);
    assert_true(s->messages[m].delivered); /* the old session still receives */
    assert_int_equal(active_number(s, ALICE, BOB), number);
    sim_restore(s, BOB, own);
    sim_run(s, MINUTE_MS);
    m = sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    assert_true(s->messages[m].delivered);
    assert_int_equal(active_number(s, ALICE, BOB), number);
    assert_int_equal(sim_events(s, ALICE, "session_reset", NULL, NULL), 1);
    memport_snapshot_free(stolen);
    memport_snapshot_free(own);
    sim_free(s);
}

static void resets_are_rare(void **state)
{
    struct sim *s = talking(70, 2);
    (void)state;
    s->disorderly = true;
    simrelay_lies(s->relay)->corrupt = 1000;
    for (int i = 0; i < 24; i++) {
        sim_send(s, ALICE, BOB, 2, "");
        sim_run(s, HOUR_MS);
    }
    assert_in_range(sim_events(s, ALICE, "session_reset", NULL, NULL), 2, 8);
    simrelay_lies(s->relay)->corrupt = 0;
    for (int i = 0; i < 40; i++)
        sim_run(s, HOUR_MS);
    sim_check_all(s);
    sim_free(s);
}

/* --- receipts --- */

static void receipts_of_others(void **state)
{
    struct sim *s = sim_new_online(71, 3);
    struct message_id id;
    struct peer *carol;
    size_t m, before;
    (void)state;
    sim_send(s, ALICE, CAROL, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_disconnect(s, BOB);
    m = sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, SECOND_MS);
    /* Carol says that she has received what Alice sent to Bob. */
    id = message_id_of(s->node[ALICE].uid, s->messages[m].id);
    struct address a = sim_address(s, ALICE);
    carol = peer_find(s->node[CAROL].engine, &a);
    assert_int_equal(control_owe(s->node[CAROL].engine, carol, &id, 1), 0);
    sim_turn(s, CAROL, 0);
    before = s->node[ALICE].submits[CAROL];
    sim_run(s, SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "state", "delivered"), 1); /* the first one */
    assert_int_equal(s->node[ALICE].submits[CAROL], before); /* and no byte in answer */
    /* Nor for an id that nobody knows. */
    memset(&id, 9, sizeof(id));
    assert_int_equal(control_owe(s->node[CAROL].engine, carol, &id, 2), 0);
    sim_turn(s, CAROL, 0);
    sim_run(s, MINUTE_MS);
    assert_int_equal(s->node[ALICE].submits[CAROL], before);
    sim_connect(s, BOB);
    assert_true(sim_settle(s, MINUTE_MS));
    sim_check_all(s);
    sim_free(s);
}

/* --- a relay that speaks nonsense --- */

static void relay_speaks_nonsense(void **state)
{
    struct sim *s = talking(72, 2);
    (void)state;
    for (unsigned i = 0; i < 400; i++) {
        uint8_t junk[300];
        size_t n = sim_random(s, sizeof(junk));
        rng_fill(&s->rng, junk, sizeof(junk));
        if (i % 2)
            junk[0] = (uint8_t)(1 + sim_random(s, 13));
        if (s->node[ALICE].conn >= 0)
            simrelay_say(s->relay, s->node[ALICE].conn, junk, n);
        sim_run(s, sim_random(s, 3000));
    }
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, 10 * MINUTE_MS));
    sim_check_all(s);
    sim_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(attack_05_dropped),
            cmocka_unit_test(attack_05_late_after_a_new_session),
            cmocka_unit_test(attack_05_reflected),
            cmocka_unit_test(attack_05_reordered_and_doubled),
            cmocka_unit_test(attack_05_restored_recipient),
            cmocka_unit_test(attack_05_restored_sender),
            cmocka_unit_test(attack_09_bundle_of_another),
            cmocka_unit_test(attack_09_forged_bundles),
            cmocka_unit_test(attack_10_first_message_replayed),
            cmocka_unit_test(attack_11_first_message_held_back),
            cmocka_unit_test(attack_11_stolen_state),
            cmocka_unit_test(attack_12_flood_of_garbage),
            cmocka_unit_test(attack_12_garbage_from_strangers),
            cmocka_unit_test(receipts_of_others),
            cmocka_unit_test(relay_speaks_nonsense),
            cmocka_unit_test(resets_are_rare),
    };
    return cmocka_run_group_tests_name("scenario.attacks", tests, NULL, NULL);
}
