/* Accounts, strangers, keys that change, and what a relay may not get away with in its directory. */
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

static const char *uid_text(const struct sim *s, int node)
{
    static char text[4][UID_TEXT_LEN + 1];
    static unsigned turn;
    char *t = text[turn++ % 4];
    uid_to_text(s->node[node].uid, t);
    return t;
}

static size_t sent_to(const struct sim *s, int from, int to)
{
    return s->node[from].submits[to];
}

/* --- accounts --- */

static void assert_no_account(struct sim *s, int node)
{
    const struct sim_answer *a = sim_expect(s, sim_call(s, node, "status", "{}"), API_OK);
    assert_string_equal(sim_text(&a->data, "state"), "none");
    assert_int_equal(memport_records(s->node[node].mp), 0);
    (void)sim_expect(s, sim_call(s, node, "send", "{\"to\":\"bob\",\"text\":\"x\"}"), API_NO_ACCOUNT);
}

static uint64_t create(struct sim *s, int node, const char *user, const char *more)
{
    return sim_call(
            s, node, "account.create", "{\"user\":\"%s\",\"relay\":\"ws://relay.test:7690/\"%s}", user, more);
}

static void create_that_fails_leaves_nothing(void **state)
{
    struct sim *s = sim_new_online(30, 2);
    int eve = sim_add(s, "eve", NULL);
    (void)state;
    (void)sim_expect(s, create(s, eve, "alice", ""), API_NAME_TAKEN);
    assert_no_account(s, eve);
    (void)sim_expect(s, create(s, eve, "Not a name", ""), API_INVALID_NAME);
    simrelay_registration(s->relay, REGISTRATION_CLOSED, NULL);
    (void)sim_expect(s, create(s, eve, "eve", ""), API_REGISTRATION_CLOSED);
    assert_no_account(s, eve);
    simrelay_registration(s->relay, REGISTRATION_TOKEN, "sesame");
    (void)sim_expect(s, create(s, eve, "eve", ",\"token\":\"wrong\""), API_TOKEN_REQUIRED);
    assert_no_account(s, eve);
    s->node[eve].offline = true;
    (void)sim_expect(s, create(s, eve, "eve", ",\"timeout_ms\":3000"), API_NOT_CONNECTED);
    assert_no_account(s, eve);
    s->node[eve].offline = false;
    (void)sim_expect(s, create(s, eve, "eve", ",\"token\":\"sesame\""), API_OK);
    (void)sim_expect(s, create(s, eve, "eve", ""), API_ACCOUNT_EXISTS);
    sim_free(s);
}

static void create_survives_kills(void **state)
{
    (void)state;
    for (size_t k = 1; k < 12; k++) {
        struct sim *s = sim_new_online(300 + k, 1);
        int eve = sim_add(s, "eve", NULL);
        const struct sim_answer *a;
        s->node[eve].cut_in = k;
        (void)create(s, eve, "eve", "");
        sim_run(s, 10 * SECOND_MS);
        a = sim_expect(s, sim_call(s, eve, "status", "{}"), API_OK);
        if (!strcmp(sim_text(&a->data, "state"), "none"))
            (void)sim_expect(s, create(s, eve, "eve", ""), API_OK);
        sim_run(s, 10 * SECOND_MS);
        a = sim_expect(s, sim_call(s, eve, "status", "{}"), API_OK);
        assert_string_equal(sim_text(&a->data, "state"), "online");
        assert_int_equal(
                simrelay_one_time_left(s->relay, s->node[eve].uid) > 0, 0); /* the uid is not known yet */
        assert_true(simrelay_find(s->relay, "eve", s->node[eve].uid));
        assert_true(simrelay_one_time_left(s->relay, s->node[eve].uid) >= 100);
        sim_free(s);
    }
}

static void account_delete(void **state)
{
    struct sim *s = talking(31, 2);
    uint8_t uid[UID_LEN];
    (void)state;
    (void)sim_expect(s, sim_call(s, BOB, "account.delete", "{\"user\":\"alice\"}"), API_INVALID_PARAMS);
    sim_disconnect(s, ALICE);
    size_t m = sim_send(s, BOB, ALICE, 2, "");
    uint64_t wait = sim_call(s, BOB, "wait", "{\"id\":\"%s\"}", s->messages[m].id);
    uint64_t delete = sim_call(s, BOB, "account.delete", "{\"user\":\"bob\"}");
    uint64_t users = sim_call(s, BOB, "users", "{}"),
             send = sim_call(s, BOB, "send", "{\"to\":\"x\",\"text\":\"y\"}");
    (void)sim_expect(s, delete, API_OK);
    (void)sim_expect(s, wait, API_NO_ACCOUNT);
    (void)sim_expect(s, users, API_NO_ACCOUNT);
    (void)sim_expect(s, send, API_NO_ACCOUNT);
    s->messages[m].ended = true;
    sim_connect(s, ALICE);
    sim_run(s, SECOND_MS);
    assert_no_account(s, BOB);
    assert_false(simrelay_find(s->relay, "bob", uid));
    /* Another bob is a stranger under a known name. */
    sim_register(s, BOB);
    (void)sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, 2 * HOUR_MS);
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 0);
    sim_free(s);
}

static void unknown_user_and_users(void **state)
{
    struct sim *s = sim_new_online(32, 2);
    const struct sim_answer *a;
    (void)state;
    (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"nobody\",\"text\":\"x\"}"), API_UNKNOWN_USER);
    (void)sim_expect(
            s, sim_call(s, ALICE, "send", "{\"to\":\"Not A Name\",\"text\":\"x\"}"), API_INVALID_NAME);
    (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"alice\",\"text\":\"x\"}"), API_INVALID_PARAMS);
    (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"%s\",\"text\":\"x\"}", uid_text(s, ALICE)),
            API_INVALID_PARAMS);
    (void)sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_UNKNOWN_CONTACT);
    (void)sim_expect(s, sim_call(s, ALICE, "contact.add", "{\"user\":\"%s\"}", uid_text(s, BOB)), API_OK);
    (void)sim_expect(s,
            sim_call(s, ALICE, "contact.add", "{\"user\":\"bob\",\"uid\":\"%s\"}", uid_text(s, ALICE)),
            API_KEY_CHANGED);
    a = sim_expect(s, sim_call(s, ALICE, "users", "{\"limit\":2}"), API_OK);
    assert_true(sim_flag(&a->data, "more"));
    uint64_t t = sim_call(s, ALICE, "users", "{}");
    sim_disconnect(s, ALICE);
    (void)sim_expect(s, t, API_NOT_CONNECTED);
    (void)sim_expect(s, sim_call(s, ALICE, "users", "{}"), API_NOT_CONNECTED);
    sim_free(s);
}

static void attack_04_auth_replayed(void **state)
{
    struct sim *s = talking(33, 2);
    struct link_connected same = {.host = {.p = (const uint8_t *)"relay.test:7690", .n = 15}};
    struct link_connected other = {.host = {.p = (const uint8_t *)"evil.test:7690", .n = 14}};
    struct link_connected tls = {.tls = true, .host = same.host};
    const struct link_connected *ways[] = {&same, &other, &tls};
    struct bytes first;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        int conn = simrelay_connect(s->relay, ways[i]);
        simrelay_receive(s->relay, conn, s->node[ALICE].last_auth.p, s->node[ALICE].last_auth.n);
        assert_false(simrelay_authed(s->relay, conn));
        simrelay_disconnect(s->relay, conn);
    }
    /* Another TLS session signs other bytes, and is accepted. */
    s->node[ALICE].tls = true;
    memset(s->node[ALICE].exporter, 7, EXPORTER_LEN);
    sim_disconnect(s, ALICE);
    sim_connect(s, ALICE);
    sim_run(s, 3 * SECOND_MS);
    first = bytes_copy(s->node[ALICE].last_auth.p, s->node[ALICE].last_auth.n);
    assert_true(simrelay_authed(s->relay, s->node[ALICE].conn));
    tls.exporter[0] = 1;
    int conn = simrelay_connect(s->relay, &tls);
    simrelay_receive(s->relay, conn, first.p, first.n);
    assert_false(simrelay_authed(s->relay, conn));
    bytes_free(&first);
    sim_free(s);
}

static void require_tls(void **state)
{
    struct sim *s = sim_new_ready(34, 1);
    struct engine_config cfg = {.require_tls = true};
    (void)state;
    sim_configure(s, ALICE, &cfg);
    sim_connect(s, ALICE);
    sim_run(s, MINUTE_MS);
    assert_int_equal(s->node[ALICE].sent[RELAY_AUTH], 0);
    assert_true(sim_events(s, ALICE, "error", "code", "TLS_REQUIRED") >= 1);
    sim_free(s);
}

/* --- strangers --- */

static void stranger_accepted(void **state)
{
    struct sim *s = sim_new_online(35, 2);
    const struct sim_answer *a;
    (void)state;
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    a = sim_expect(s, sim_call(s, BOB, "contact.show", "{\"user\":\"alice\"}"), API_OK);
    assert_false(sim_flag(&a->data, "verified"));
    sim_free(s);
}

static void attack_14_strangers_held(void **state)
{
    struct sim *s = sim_new_ready(36, 2);
    struct engine_config cfg = {.receipts = true, .strangers = STRANGERS_HOLD};
    struct address bob = sim_address(s, BOB);
    (void)state;
    sim_configure(s, BOB, &cfg);
    sim_connect(s, ALICE);
    sim_connect(s, BOB);
    sim_run(s, SECOND_MS);
    for (int i = 0; i < 5; i++)
        sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, 5 * MINUTE_MS);
    assert_int_equal(sent_to(s, BOB, ALICE), 0); /* not a byte */
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 0);
    assert_int_equal(sim_map_count(s, BOB, MAP_HELD), 5);
    sim_restart(s, BOB);
    for (size_t i = 0; i < 5; i++) { /* the relay delivers each once more */
        struct bytes body = simrelay_history(s->relay, &bob, i);
        simrelay_inject(s->relay, &bob, body.p, body.n);
    }
    sim_run(s, 5 * MINUTE_MS);
    assert_int_equal(simrelay_waiting(s->relay, &bob), 0);
    assert_int_equal(sim_map_count(s, BOB, MAP_HELD), 5);
    assert_int_equal(sent_to(s, BOB, ALICE), 0);
    (void)sim_expect(s, sim_call(s, BOB, "contact.trust", "{\"user\":\"alice\"}"), API_OK);
    assert_true(sim_settle(s, MINUTE_MS));
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 5);
    assert_int_equal(sim_map_count(s, BOB, MAP_HELD), 0);
    sim_check_all(s);
    sim_free(s);
}

static void held_without_an_answer(void **state)
{
    struct sim *s = sim_new_ready(37, 2);
    (void)state;
    sim_connect(s, ALICE);
    sim_run(s, SECOND_MS);
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, SECOND_MS);
    simrelay_lies(s->relay)->busy = 1000;
    sim_connect(s, BOB);
    sim_run(s, SECOND_MS);
    assert_int_equal(sim_map_count(s, BOB, MAP_HELD), 1);
    simrelay_lies(s->relay)->busy = 0;
    sim_run(s, HELD_ASK_MS + MINUTE_MS);
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 1);
    sim_free(s);
}

static void attack_14_strangers_refused(void **state)
{
    struct sim *s = sim_new_ready(38, 2);
    struct engine_config cfg = {.receipts = true, .strangers = STRANGERS_REFUSE};
    size_t before;
    (void)state;
    sim_configure(s, BOB, &cfg);
    sim_connect(s, ALICE);
    sim_connect(s, BOB);
    sim_run(s, SECOND_MS);
    before = sim_all_sent(s, BOB) - s->node[BOB].sent[RELAY_ACK];
    sim_send(s, ALICE, BOB, 2, ",\"ttl_ms\":7200000");
    sim_run(s, 10 * MINUTE_MS);
    assert_int_equal(sim_all_sent(s, BOB) - s->node[BOB].sent[RELAY_ACK], before);
    assert_int_equal(sim_map_count(s, BOB, MAP_HELD) + sim_map_count(s, BOB, MAP_CONTACT), 0);
    sim_run(s, 3 * HOUR_MS);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "state", "expired"), 1);
    sim_free(s);
}

static void attack_14_blocked(void **state)
{
    struct sim *s = talking(39, 2);
    size_t before;
    (void)state;
    (void)sim_expect(s, sim_call(s, BOB, "contact.block", "{\"user\":\"alice\"}"), API_OK);
    sim_run(s, SECOND_MS);
    before = sent_to(s, BOB, ALICE);
    sim_send(s, ALICE, BOB, 2, "");
    sim_send(s, ALICE, BOB, 0, "");
    sim_run(s, 2 * HOUR_MS);
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 1);
    assert_int_equal(sent_to(s, BOB, ALICE), before);
    (void)sim_expect(s, sim_call(s, BOB, "send", "{\"to\":\"alice\",\"text\":\"x\"}"), API_BLOCKED);
    (void)sim_expect(s, sim_call(s, BOB, "contact.block", "{\"user\":\"alice\",\"blocked\":false}"), API_OK);
    assert_true(sim_settle(s, DAY_MS)); /* it comes after all */
    sim_check_all(s);
    sim_free(s);
}

static void held_has_an_end(void **state)
{
    struct sim *s = sim_new_ready(40, 2);
    struct engine_config cfg = {.receipts = true, .strangers = STRANGERS_HOLD};
    (void)state;
    sim_configure(s, BOB, &cfg);
    sim_connect(s, ALICE);
    sim_connect(s, BOB);
    sim_run(s, SECOND_MS);
    for (int i = 0; i < 150; i++) {
        sim_send(s, ALICE, BOB, 2, "");
        sim_run(s, 100);
    }
    assert_int_equal(sim_map_count(s, BOB, MAP_HELD), MAX_HELD_PER_UID);
    (void)sim_expect(s, sim_call(s, BOB, "contact.trust", "{\"user\":\"alice\"}"), API_OK);
    s->disorderly = true;
    assert_true(sim_settle(s, 3 * HOUR_MS));
    sim_check_all(s);
    sim_free(s);
}

static void contact_removed_and_met_again(void **state)
{
    struct sim *s = talking(41, 2);
    (void)state;
    (void)sim_expect(s, sim_call(s, ALICE, "contact.remove", "{\"user\":\"bob\"}"), API_OK);
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    (void)sim_expect(s, sim_call(s, BOB, "contact.remove", "{\"user\":\"alice\"}"), API_OK);
    s->disorderly = true;
    sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, 3 * HOUR_MS));
    assert_int_equal(sim_events(s, BOB, "error", "code", "SENDER_FORKED"), 0);
    assert_int_equal(sim_events(s, BOB, "error", "code", "MESSAGES_MISSING"), 0);
    sim_check_all(s);
    sim_free(s);
}

/* --- keys --- */

/* Bob loses his machine and registers again; the relay gives his name to the new account. */
static struct sim *bob_has_a_new_key(uint64_t seed, const char *policy, size_t queued)
{
    struct sim *s = talking(seed, 3);
    if (policy)
        (void)sim_expect(s,
                sim_call(s, ALICE, "contact.trust", "{\"user\":\"bob\",\"policy\":\"%s\"}", policy), API_OK);
    sim_disconnect(s, BOB);
    for (size_t i = 0; i < queued; i++)
        sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, SECOND_MS);
    simrelay_rename(s->relay, s->node[BOB].uid, "old-bob");
    (void)sim_add(s, "bob", NULL);
    sim_register(s, 3);
    return s;
}

static void learn_of_it(struct sim *s)
{
    /* A look-up by the name, as happens with each new session. */
    sim_restart(s, ALICE);
    sim_run(s, 3 * SECOND_MS);
    assert_int_equal(relay_lookup_name(s->node[ALICE].engine, "bob"), 0);
    sim_turn(s, ALICE, 0);
    sim_run(s, SECOND_MS);
}

static void attack_17_changed_key_blocks(void **state)
{
    struct sim *s = bob_has_a_new_key(42, NULL, 3);
    const struct sim_answer *a;
    (void)state;
    learn_of_it(s);
    assert_int_equal(sim_events(s, ALICE, "key_changed", "policy", "block"), 1);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "reason", "key_changed"), 3);
    (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"text\":\"x\"}"), API_KEY_CHANGED);
    assert_int_equal(sent_to(s, ALICE, 3), 0);
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_OK);
    assert_string_equal(sim_text(&a->data, "new_uid"), uid_text(s, 3));
    (void)sim_expect(s,
            sim_call(s, ALICE, "contact.trust", "{\"user\":\"bob\",\"uid\":\"%s\"}", uid_text(s, CAROL)),
            API_KEY_CHANGED);
    (void)sim_expect(s,
            sim_call(s, ALICE, "contact.trust", "{\"user\":\"bob\",\"uid\":\"%s\"}", uid_text(s, 3)), API_OK);
    sim_run(s, SECOND_MS);
    sim_send(s, ALICE, 3, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    assert_int_equal(sim_events(s, 3, "message", NULL, NULL), 1); /* none of the old queue */
    assert_int_equal(sim_events(s, ALICE, "key_changed", NULL, NULL), 1);
    sim_check_all(s);
    sim_free(s);
}

static void attack_17_changed_key_holds(void **state)
{
    struct sim *s = bob_has_a_new_key(43, "hold", 0);
    (void)state;
    learn_of_it(s);
    (void)sim_expect(
            s, sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"text\":\"x\",\"id\":\"held\"}"), API_OK);
    sim_run(s, HOUR_MS);
    assert_int_equal(sent_to(s, ALICE, 3), 0);
    assert_int_equal(sim_events(s, ALICE, "key_changed", "policy", "hold"), 1);
    sim_free(s);
}

static void attack_17_changed_key_accepted(void **state)
{
    struct sim *s = bob_has_a_new_key(44, "accept", 2);
    (void)state;
    learn_of_it(s);
    assert_int_equal(sim_events(s, ALICE, "key_changed", "policy", "accept"), 1);
    sim_send(s, ALICE, 3, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    assert_int_equal(sim_events(s, 3, "message", NULL, NULL), 1);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "reason", "key_changed"), 2);
    sim_check_all(s);
    sim_free(s);
}

static void attack_17_accepted_one_shown_another(void **state)
{
    struct sim *s = bob_has_a_new_key(45, NULL, 0);
    (void)state;
    learn_of_it(s);
    /* While Alice accepts the second bob, the relay has a third. */
    simrelay_rename(s->relay, s->node[3].uid, "second-bob");
    (void)sim_add(s, "bob", NULL);
    sim_register(s, 4);
    (void)sim_expect(s,
            sim_call(s, ALICE, "contact.trust", "{\"user\":\"bob\",\"uid\":\"%s\"}", uid_text(s, 3)), API_OK);
    sim_run(s, SECOND_MS);
    (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"text\":\"x\"}"), API_UNKNOWN_USER);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sent_to(s, ALICE, 4), 0);
    assert_true(sim_events(s, ALICE, "error", "code", "KEY_CHANGED") >= 1);
    sim_free(s);
}

static void new_bob_writes_first(void **state)
{
    struct sim *s = bob_has_a_new_key(46, NULL, 0);
    (void)state;
    sim_send(s, 3, ALICE, 2, "");
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_events(s, ALICE, "key_changed", NULL, NULL), 1);
    assert_int_equal(sim_events(s, ALICE, "message", NULL, NULL), 1); /* the one of old */
    assert_int_equal(sent_to(s, ALICE, 3), 0);
    sim_restart(s, ALICE);
    sim_run(s, MINUTE_MS);
    (void)sim_expect(s,
            sim_call(s, ALICE, "contact.trust", "{\"user\":\"bob\",\"uid\":\"%s\"}", uid_text(s, 3)), API_OK);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_events(s, ALICE, "message", NULL, NULL), 2);
    sim_check_all(s);
    sim_free(s);
}

static void verified(struct sim *s)
{
    const struct sim_answer *a =
            sim_expect(s, sim_call(s, BOB, "contact.show", "{\"user\":\"alice\"}"), API_OK);
    char number[100];
    (void)snprintf(number, sizeof(number), "%s", sim_text(&a->data, "safety_number"));
    (void)sim_expect(
            s, sim_call(s, ALICE, "contact.verify", "{\"user\":\"bob\",\"number\":\"%s\"}", number), API_OK);
}

static void require_verified(void **state)
{
    struct sim *s = talking(47, 2);
    char wrong[64];
    (void)state;
    memset(wrong, '1', 60);
    wrong[60] = 0;
    (void)sim_expect(s,
            sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"text\":\"x\",\"require_verified\":true}"),
            API_NOT_VERIFIED);
    (void)sim_expect(s, sim_call(s, ALICE, "contact.verify", "{\"user\":\"bob\",\"number\":\"%s\"}", wrong),
            API_VERIFY_MISMATCH);
    verified(s);
    sim_send(s, ALICE, BOB, 2, ",\"require_verified\":true");
    assert_true(sim_settle(s, MINUTE_MS));
    /* Asked again when it is encrypted: in between the mark has gone. */
    sim_disconnect(s, ALICE);
    sim_send(s, ALICE, BOB, 2, ",\"require_verified\":true");
    contact_find(s->node[ALICE].engine, s->node[BOB].uid)->verified = false;
    sim_connect(s, ALICE);
    sim_run(s, 3 * SECOND_MS);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "reason", "not_verified"), 1);
    sim_check_all(s);
    sim_free(s);
}

struct swap {
    struct sim *s;
    int to; /* the relay shows this node for every name */
    unsigned how;
    struct bytes entry;
};

static void swap_account(void *ctx, struct relay_account *m)
{
    struct swap *w = ctx;
    if (!m->found)
        return;
    switch (w->how) {
    case 0: /* another uid under the name */
        memcpy(m->uid, w->s->node[w->to].uid, UID_LEN);
        break;
    case 1: /* one bit of a key, a suite, a signature: anywhere in the entry */
        bytes_free(&w->entry);
        w->entry = bytes_copy(m->entry[0].p, m->entry[0].n);
        w->entry.p[sim_random(w->s, (uint32_t)w->entry.n)] ^= (uint8_t)(1u << sim_random(w->s, 8));
        m->entry[0] = (struct span){.p = w->entry.p, .n = w->entry.n};
        break;
    case 2: /* no entry at all */
        m->entries = 0;
        break;
    default:
        break;
    }
}

static void attack_16_directory_lies(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 42; i++) {
        struct sim *s = sim_new_online(400 + i, 3);
        struct swap w = {.s = s, .to = CAROL, .how = i < 40 ? 1 : i == 40 ? 0 : 2};
        simrelay_set_liar(s->relay, &(struct simrelay_liar){.ctx = &w, .account = swap_account});
        (void)sim_expect(s, sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"text\":\"x\"}"),
                w.how == 2 ? API_NOT_CONNECTED : API_UNKNOWN_USER);
        assert_int_equal(sim_map_count(s, ALICE, MAP_CONTACT), 0);
        assert_int_equal(sent_to(s, ALICE, BOB) + sent_to(s, ALICE, CAROL), 0);
        bytes_free(&w.entry);
        sim_free(s);
    }
}

static void require_verified_under_a_lying_relay(void **state)
{
    struct sim *s = talking(48, 3);
    (void)state;
    verified(s);
    simrelay_rename(s->relay, s->node[BOB].uid, "nobody");
    simrelay_rename(s->relay, s->node[CAROL].uid, "bob");
    for (int i = 0; i < 3; i++) {
        sim_send(s, ALICE, BOB, 2, ",\"require_verified\":true");
        sim_run(s, HOUR_MS);
    }
    assert_int_equal(sent_to(s, ALICE, CAROL), 0);
    sim_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(create_that_fails_leaves_nothing),
            cmocka_unit_test(create_survives_kills),
            cmocka_unit_test(account_delete),
            cmocka_unit_test(unknown_user_and_users),
            cmocka_unit_test(attack_04_auth_replayed),
            cmocka_unit_test(require_tls),
            cmocka_unit_test(stranger_accepted),
            cmocka_unit_test(attack_14_strangers_held),
            cmocka_unit_test(held_without_an_answer),
            cmocka_unit_test(attack_14_strangers_refused),
            cmocka_unit_test(attack_14_blocked),
            cmocka_unit_test(held_has_an_end),
            cmocka_unit_test(contact_removed_and_met_again),
            cmocka_unit_test(attack_17_changed_key_blocks),
            cmocka_unit_test(attack_17_changed_key_holds),
            cmocka_unit_test(attack_17_changed_key_accepted),
            cmocka_unit_test(attack_17_accepted_one_shown_another),
            cmocka_unit_test(new_bob_writes_first),
            cmocka_unit_test(require_verified),
            cmocka_unit_test(attack_16_directory_lies),
            cmocka_unit_test(require_verified_under_a_lying_relay),
    };
    return cmocka_run_group_tests_name("scenario.trust", tests, NULL, NULL);
}
