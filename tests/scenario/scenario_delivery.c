/* Messages between people who mean well, and what the world does to them. */
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

static void quiet(struct sim *s)
{
    assert_true(sim_settle(s, HOUR_MS));
    sim_check_all(s);
    sim_free(s);
}

static void first_message_both_ways(void **state)
{
    struct sim *s = talking(2, 2);
    const struct sim_answer *a;
    (void)state;
    assert_int_equal(sim_events(s, BOB, "message", "from", "alice"), 1);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "state", "sent"), 1);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "state", "delivered"), 1);
    assert_int_equal(sim_events(s, ALICE, "error", NULL, NULL), 0);
    assert_int_equal(sim_events(s, BOB, "error", NULL, NULL), 0);
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_OK);
    assert_string_equal(sim_text(&a->data, "session"), "strong");
    quiet(s);
}

static void simultaneous_handshakes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 12; seed++) {
        struct sim *s = sim_new_online(seed, 2);
        for (int i = 0; i < 5; i++) {
            sim_send(s, ALICE, BOB, 2, "");
            sim_send(s, BOB, ALICE, 2, "");
        }
        assert_true(sim_settle(s, MINUTE_MS));
        assert_int_equal(
                sim_events(s, ALICE, "error", NULL, NULL) + sim_events(s, BOB, "error", NULL, NULL), 0);
        quiet(s);
    }
}

static void offline_recipient_1000(void **state)
{
    struct sim *s = talking(3, 2);
    (void)state;
    sim_disconnect(s, BOB);
    for (int i = 0; i < 1000; i++)
        sim_send(s, ALICE, BOB, 1 + i % 2, "");
    sim_run(s, DAY_MS);
    sim_restart(s, ALICE);
    sim_connect(s, BOB);
    assert_true(sim_settle(s, 10 * MINUTE_MS));
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 1001);
    assert_int_equal(sim_events(s, BOB, "error", NULL, NULL), 0);
    quiet(s);
}

/* Dies at each point of a conversation in turn: before and after each commit, and after each effect. */
static void attack_19_kill_at_each_point(void **state)
{
    (void)state;
    for (int victim = 0; victim < 2; victim++)
        for (size_t k = 1; k < 60; k++) {
            struct sim *s = sim_new_online(100 + k, 2);
            s->deep = true;
            s->disorderly = true;
            s->node[victim].cut_in = k;
            sim_send(s, ALICE, BOB, 2, "");
            sim_send(s, ALICE, BOB, 1, "");
            sim_run(s, 30);
            sim_send(s, BOB, ALICE, 2, "");
            sim_run(s, 30);
            sim_send(s, ALICE, BOB, 2, "");
            assert_true(sim_settle(s, HOUR_MS));
            assert_true(k > 20 || s->node[victim].restarts == 1);
            assert_int_equal(sim_events(s, ALICE, "error", "code", "DECRYPT_FAILED"), 0);
            assert_int_equal(sim_events(s, BOB, "error", "code", "DECRYPT_FAILED"), 0);
            quiet(s);
        }
}

static void commit_fails_at_each_put(void **state)
{
    (void)state;
    for (int victim = 0; victim < 2; victim++)
        for (uint64_t k = 1; k < 50; k++) {
            struct sim *s = sim_new_online(200 + k, 2);
            s->disorderly = true;
            memport_fail(
                    s->node[victim].mp, k % 5 ? MEMPORT_PUT : MEMPORT_COMMIT, k % 5 ? k : k / 5, -ENOSPC);
            sim_send(s, ALICE, BOB, 2, "");
            sim_run(s, 20);
            sim_send(s, BOB, ALICE, 2, "");
            sim_send(s, ALICE, BOB, 2, "");
            quiet(s);
        }
}

static void relay_loses_its_disk(void **state)
{
    struct sim *s = talking(4, 3);
    (void)state;
    s->disorderly = true;
    sim_disconnect(s, BOB);
    for (int i = 0; i < 10; i++)
        sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    simrelay_lose_disk(s->relay);
    sim_run(s, MINUTE_MS);
    sim_connect(s, BOB);
    assert_true(sim_settle(
            s, MINUTE_MS)); /* asked for when the connection was made, not only when time has passed */
    /* Strangers can reach both again: prekeys are back. */
    assert_true(simrelay_one_time_left(s->relay, s->node[BOB].uid) >= 50);
    assert_true(simrelay_one_time_left(s->relay, s->node[ALICE].uid) >= 50);
    sim_send(s, CAROL, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    quiet(s);
}

static void relay_loses_mail_only(void **state)
{
    struct sim *s = talking(5, 2);
    (void)state;
    s->disorderly = true;
    sim_disconnect(s, BOB);
    for (int i = 0; i < 10; i++)
        sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    simrelay_lose_mail(s->relay);
    sim_run(s, 7 * DAY_MS); /* over the time in which the same bytes are offered again */
    sim_connect(s, BOB);
    quiet(s);
}

static void attack_13_expired_while_away(void **state)
{
    struct sim *s = talking(6, 2);
    (void)state;
    sim_disconnect(s, BOB);
    for (int i = 0; i < 1500; i++)
        sim_send(s, ALICE, BOB, 2, ",\"ttl_ms\":60000");
    sim_run(s, 10 * MINUTE_MS);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "state", "expired"), 1500);
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    sim_connect(s, BOB);
    assert_true(sim_settle(s, MINUTE_MS));
    sim_run(s, HOUR_MS);
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 2);
    assert_int_equal(sim_events(s, BOB, "error", NULL, NULL), 0); /* no gap is reported, and no fork */
    quiet(s);
}

static void attack_13_qos0_while_away(void **state)
{
    struct sim *s = talking(7, 2);
    (void)state;
    sim_disconnect(s, BOB);
    for (int i = 0; i < 1500; i++) {
        sim_send(s, ALICE, BOB, 0, "");
        if (i % 50 == 0)
            sim_run(s, 10 * SECOND_MS);
    }
    sim_run(s, MINUTE_MS);
    sim_send(s, ALICE, BOB, 2, "");
    sim_connect(s, BOB);
    assert_true(sim_settle(s, MINUTE_MS));
    assert_int_equal(sim_events(s, BOB, "message", NULL, NULL), 2);
    assert_int_equal(sim_events(s, BOB, "error", NULL, NULL), 0);
    quiet(s);
}

static void qos0_present_and_absent(void **state)
{
    struct sim *s = talking(8, 2);
    size_t m = sim_send(s, ALICE, BOB, 0, "");
    (void)state;
    sim_run(s, SECOND_MS);
    assert_true(s->messages[m].delivered);
    sim_disconnect(s, BOB);
    sim_run(s, SECOND_MS);
    m = sim_send(s, ALICE, BOB, 0, "");
    sim_run(s, SECOND_MS);
    assert_true(s->messages[m].ended);
    assert_string_equal(sim_text(sim_last_event(s, ALICE, "message_ack"), "reason"), "offline");
    sim_connect(s, BOB);
    sim_run(s, 3 * SECOND_MS);
    assert_false(s->messages[m].delivered);
    m = sim_send(s, ALICE, BOB, 0, "");
    sim_run(s, SECOND_MS);
    assert_true(s->messages[m].delivered);
    quiet(s);
}

static void same_id_is_the_same_message(void **state)
{
    struct sim *s = talking(9, 2);
    size_t m = sim_send(s, ALICE, BOB, 2, "");
    char id[40], text[80];
    (void)state;
    memcpy(id, s->messages[m].id, sizeof(id));
    memcpy(text, s->messages[m].text, sizeof(text));
    for (int i = 0; i < 3; i++) {
        const struct sim_answer *a = sim_expect(s,
                sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"id\":\"%s\",\"text\":\"%s\"}", id, text),
                API_OK);
        assert_string_equal(sim_text(&a->data, "state"), i ? "delivered" : "queued");
        (void)sim_expect(s,
                sim_call(s, ALICE, "send", "{\"to\":\"bob\",\"id\":\"%s\",\"text\":\"other\"}", id),
                API_ID_CONFLICT);
        assert_true(sim_settle(s, MINUTE_MS));
        if (i == 1)
            sim_restart(s, ALICE);
    }
    assert_int_equal(sim_events(s, BOB, "message", "id", id), 1);
    quiet(s);
}

static void not_before(void **state)
{
    struct sim *s = talking(10, 2);
    char more[64];
    size_t m;
    (void)state;
    (void)snprintf(more, sizeof(more), ",\"not_before\":%llu", (unsigned long long)(s->now + HOUR_MS));
    m = sim_send(s, ALICE, BOB, 2, more);
    sim_run(s, HOUR_MS - 5 * SECOND_MS);
    assert_false(s->messages[m].delivered);
    sim_restart(s, ALICE);
    sim_run(s, 10 * SECOND_MS);
    assert_true(s->messages[m].delivered);
    quiet(s);
}

static void wait_for_states(void **state)
{
    struct sim *s = talking(11, 2);
    uint64_t sent, delivered, seen, soon;
    const char *id;
    size_t m;
    (void)state;
    sim_disconnect(s, BOB);
    m = sim_send(s, ALICE, BOB, 2, "");
    id = s->messages[m].id;
    sent = sim_call(s, ALICE, "wait", "{\"id\":\"%s\",\"until\":\"sent\"}", id);
    delivered = sim_call(s, ALICE, "wait", "{\"id\":\"%s\",\"timeout_ms\":60000}", id);
    seen = sim_call(s, ALICE, "wait", "{\"id\":\"%s\",\"until\":\"read\",\"timeout_ms\":60000}", id);
    soon = sim_call(s, ALICE, "wait", "{\"id\":\"%s\",\"timeout_ms\":500}", id);
    sim_run(s, 2 * SECOND_MS);
    assert_non_null(sim_answer(s, sent));
    assert_null(sim_answer(s, delivered));
    assert_int_equal(sim_answer(s, soon)->error, API_TIMEOUT);
    sim_connect(s, BOB);
    sim_run(s, SECOND_MS);
    assert_string_equal(sim_text(&sim_expect(s, delivered, API_OK)->data, "state"), "delivered");
    assert_null(sim_answer(s, seen));
    assert_int_equal(sim_number(&sim_expect(s,
                                        sim_call(s, BOB, "read",
                                                "{\"from\":\"alice\",\"ids\":[\"%s\",\"nothing\"]}", id),
                                        API_OK)
                                         ->data,
                             "count"),
            1);
    assert_string_equal(sim_text(&sim_expect(s, seen, API_OK)->data, "state"), "read");
    (void)sim_expect(s, sim_call(s, ALICE, "wait", "{\"id\":\"never\"}"), API_UNKNOWN_MESSAGE);
    m = sim_send(s, ALICE, BOB, 2, ",\"ttl_ms\":1");
    assert_string_equal(
            sim_text(&sim_expect(s, sim_call(s, ALICE, "wait", "{\"id\":\"%s\"}", s->messages[m].id), API_OK)
                              ->data,
                    "state"),
            s->messages[m].delivered ? "delivered" : "expired");
    quiet(s);
}

static void no_read_receipts(void **state)
{
    struct sim *s = talking(12, 2);
    struct engine_config cfg = {.receipts = false};
    size_t m;
    (void)state;
    sim_configure(s, BOB, &cfg);
    m = sim_send(s, ALICE, BOB, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    (void)sim_expect(
            s, sim_call(s, BOB, "read", "{\"from\":\"alice\",\"ids\":[\"%s\"]}", s->messages[m].id), API_OK);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_events(s, ALICE, "message_ack", "state", "read"), 0);
    quiet(s);
}

static int count_sink(void *ctx, uint64_t seq, const void *event, size_t n)
{
    size_t *count = ctx;
    struct bytes e = {.p = (uint8_t *)(uintptr_t)event, .n = n};
    if (count[0]++ == 0)
        count[1] = strcmp(sim_text(&e, "type"), "gap") == 0 ? sim_number(&e, "to") : seq;
    return 0;
}

static void consumers_and_retention(void **state)
{
    struct sim *s = sim_new_online(13, 2);
    struct engine_config cfg = {.receipts = true, .max_events = 20};
    size_t count[2] = {0, 0};
    uint64_t next, seq;
    (void)state;
    sim_configure(s, BOB, &cfg);
    sim_run(s, SECOND_MS);
    (void)sim_expect(s, sim_call(s, BOB, "ack", "{\"consumer\":\"bot\",\"seq\":2}"), API_OK);
    (void)sim_expect(s, sim_call(s, BOB, "ack", "{\"consumer\":\"bot\",\"seq\":1}"), API_OK);
    (void)sim_expect(s, sim_call(s, BOB, "ack", "{\"consumer\":\"bot\",\"seq\":999}"), API_INVALID_PARAMS);
    for (int i = 0; i < 50; i++) {
        sim_send(s, ALICE, BOB, 2, "");
        assert_true(sim_settle(s, MINUTE_MS));
    }
    sim_restart(s, BOB);
    assert_int_equal(engine_consumer_get(s->node[BOB].engine, "bot", &seq), 0);
    assert_int_equal(seq, 2);
    assert_int_equal(engine_last_seq(s->node[BOB].engine) - engine_first_seq(s->node[BOB].engine) + 1, 20);
    assert_int_equal(engine_read_events(s->node[BOB].engine, seq, UINT64_MAX, count_sink, count, &next), 0);
    assert_int_equal(count[0], 21);
    assert_int_equal(count[1], engine_first_seq(s->node[BOB].engine) - 1);
    assert_int_equal(next, engine_last_seq(s->node[BOB].engine));
    for (int i = 0; i < 63; i++)
        (void)sim_expect(s, sim_call(s, BOB, "ack", "{\"consumer\":\"c%d\",\"seq\":1}", i), API_OK);
    (void)sim_expect(s, sim_call(s, BOB, "ack", "{\"consumer\":\"one-more\",\"seq\":1}"), API_QUEUE_FULL);
    quiet(s);
}

static void queues_have_ends(void **state)
{
    struct sim *s = talking(14, 2);
    uint64_t t[80];
    size_t full = 0, m = 0;
    (void)state;
    sim_disconnect(s, ALICE);
    for (int i = 0; i < 80; i++)
        t[i] = sim_call(s, ALICE, "send", "{\"to\":\"nobody%d\",\"text\":\"x\"}", i);
    for (int i = 0; i < 80; i++)
        full += sim_answer(s, t[i]) && sim_answer(s, t[i])->error == API_QUEUE_FULL;
    assert_int_equal(full, 80 - ENGINE_MAX_LOOKUPS);
    sim_run(s, 11 * SECOND_MS);
    for (int i = 0; i < 64; i++)
        assert_int_equal(sim_answer(s, t[i])->error, API_NOT_CONNECTED);
    for (int i = 0; i < 300; i++)
        m = sim_send(s, ALICE, BOB, 0, "");
    assert_int_equal(sim_answer(s, s->messages[m].ticket)->error, API_QUEUE_FULL);
    quiet(s);
}

static void attack_08_prekeys_drained(void **state)
{
    struct sim *s = sim_new_online(15, 3);
    const struct sim_answer *a;
    (void)state;
    sim_disconnect(s, BOB);
    simrelay_drain_prekeys(s->relay, s->node[BOB].uid);
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, MINUTE_MS);
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_OK);
    assert_string_equal(sim_text(&a->data, "session"), "weak");
    sim_connect(s, BOB);
    assert_true(sim_settle(s, MINUTE_MS));
    a = sim_expect(s, sim_call(s, ALICE, "contact.show", "{\"user\":\"bob\"}"), API_OK);
    assert_string_equal(sim_text(&a->data, "session"), "strong");
    sim_run(s, 2 * MINUTE_MS);
    assert_true(simrelay_one_time_left(s->relay, s->node[BOB].uid) >= 50);
    quiet(s);
}

static void prekeys_are_topped_up_and_rotated(void **state)
{
    struct sim *s = sim_new_online(16, 2);
    size_t keys;
    (void)state;
    simrelay_drain_prekeys(s->relay, s->node[BOB].uid);
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, 2 * HOUR_MS);
    assert_true(simrelay_one_time_left(s->relay, s->node[BOB].uid) >= 50);
    for (int day = 0; day < 80; day++)
        sim_run(s, DAY_MS);
    keys = sim_map_count(s, BOB, MAP_PREKEY);
    assert_true(keys < 400); /* old ones are deleted */
    assert_true(keys >= 100);
    sim_send(s, BOB, ALICE, 2, "");
    quiet(s);
}

/* A relay that says at each connection that no one-time prekey is left. */
static void prekeys_are_bounded(void **state)
{
    struct sim *s = sim_new_online(32, 2);
    (void)state;
    for (int i = 0; i < 30; i++) {
        sim_disconnect(s, BOB);
        simrelay_drain_prekeys(s->relay, s->node[BOB].uid);
        sim_connect(s, BOB);
        sim_run(s, MINUTE_MS);
    }
    assert_in_range(sim_map_count(s, BOB, MAP_PREKEY), 200, 401);
    sim_run(s, 2 * HOUR_MS);
    assert_true(simrelay_one_time_left(s->relay, s->node[BOB].uid) >= 50);
    for (int i = 0; i < 60; i++) {
        simrelay_drain_prekeys(s->relay, s->node[BOB].uid);
        sim_disconnect(s, BOB);
        sim_connect(s, BOB);
        sim_run(s, 2 * HOUR_MS);
    }
    assert_in_range(sim_map_count(s, BOB, MAP_PREKEY), 1900, 2003);
    sim_send(s, ALICE, BOB, 2, "");
    quiet(s);
}

/* Back after longer than a signed prekey is valid: its secret goes with the first upkeep. */
static void prekeys_after_a_long_absence(void **state)
{
    struct sim *s = sim_new_online(33, 2);
    (void)state;
    assert_int_equal(sim_map_count(s, BOB, MAP_PREKEY), 101);
    sim_disconnect(s, BOB);
    for (int day = 0; day < 40; day++)
        sim_run(s, DAY_MS);
    sim_connect(s, BOB);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_map_count(s, BOB, MAP_PREKEY), 201);
    sim_disconnect(s, BOB);
    for (int day = 0; day < 70; day++)
        sim_run(s, DAY_MS);
    sim_connect(s, BOB);
    sim_run(s, MINUTE_MS);
    assert_int_equal(sim_map_count(s, BOB, MAP_PREKEY), 101);
    assert_true(simrelay_one_time_left(s->relay, s->node[BOB].uid) == 100);
    sim_send(s, ALICE, BOB, 2, "");
    quiet(s);
}

static void clocks_jump(void **state)
{
    static const int64_t years[] = {10, -10};
    (void)state;
    for (int who = 0; who < 2; who++)
        for (size_t i = 0; i < ARRAY_SIZE(years); i++) {
            struct sim *s = talking(17 + i, 2);
            s->disorderly = true;
            s->node[who].skew_ms = years[i] * 365 * (int64_t)DAY_MS;
            sim_send(s, ALICE, BOB, 2, "");
            sim_send(s, BOB, ALICE, 2, "");
            sim_run(s, MINUTE_MS);
            sim_restart(s, who);
            sim_send(s, ALICE, BOB, 2, "");
            sim_send(s, BOB, ALICE, 2, "");
            sim_run(s, HOUR_MS);
            s->node[who].skew_ms = 0;
            sim_send(s, ALICE, BOB, 2, "");
            sim_send(s, BOB, ALICE, 2, "");
            assert_true(sim_settle(s, 3 * HOUR_MS));
            for (size_t k = 0; k < s->n_messages; k++)
                assert_true(s->messages[k].delivered || s->messages[k].ended);
            assert_true(s->messages[s->n_messages - 1].delivered && s->messages[s->n_messages - 2].delivered);
            quiet(s);
        }
}

static void three_people(void **state)
{
    struct sim *s = sim_new_online(20, 3);
    (void)state;
    for (int i = 0; i < 300; i++) {
        int from = (int)sim_random(s, 3);
        sim_send(s, from, (from + 1 + (int)sim_random(s, 2)) % 3, 2, "");
        sim_run(s, sim_random(s, 50));
    }
    assert_true(sim_settle(s, MINUTE_MS));
    for (int i = 0; i < 3; i++)
        assert_int_equal(sim_events(s, i, "error", NULL, NULL), 0);
    quiet(s);
}

static void one_way_for_long(void **state)
{
    struct sim *s = sim_new_online(21, 2);
    uint64_t claims;
    (void)state;
    sim_send(s, ALICE, BOB, 2, "");
    sim_run(s, SECOND_MS);
    claims = simrelay_claims(s->relay);
    for (int i = 0; i < 3000; i++) {
        sim_send(s, ALICE, BOB, 2, "");
        if (i % 10 == 0)
            sim_run(s, 10);
    }
    assert_true(sim_settle(s, 10 * MINUTE_MS));
    assert_int_equal(simrelay_claims(s->relay), claims); /* receipts keep one session going */
    assert_int_equal(sim_events(s, BOB, "error", NULL, NULL), 0);
    quiet(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(first_message_both_ways),
            cmocka_unit_test(simultaneous_handshakes),
            cmocka_unit_test(offline_recipient_1000),
            cmocka_unit_test(attack_19_kill_at_each_point),
            cmocka_unit_test(commit_fails_at_each_put),
            cmocka_unit_test(relay_loses_its_disk),
            cmocka_unit_test(relay_loses_mail_only),
            cmocka_unit_test(attack_13_expired_while_away),
            cmocka_unit_test(attack_13_qos0_while_away),
            cmocka_unit_test(qos0_present_and_absent),
            cmocka_unit_test(same_id_is_the_same_message),
            cmocka_unit_test(not_before),
            cmocka_unit_test(wait_for_states),
            cmocka_unit_test(no_read_receipts),
            cmocka_unit_test(consumers_and_retention),
            cmocka_unit_test(queues_have_ends),
            cmocka_unit_test(attack_08_prekeys_drained),
            cmocka_unit_test(prekeys_are_topped_up_and_rotated),
            cmocka_unit_test(prekeys_are_bounded),
            cmocka_unit_test(prekeys_after_a_long_absence),
            cmocka_unit_test(clocks_jump),
            cmocka_unit_test(three_people),
            cmocka_unit_test(one_way_for_long),
    };
    return cmocka_run_group_tests_name("scenario.delivery", tests, NULL, NULL);
}
