/* What is done from time to time: old records are swept as fast as they come, held envelopes are bounded,
 * asked about in turn and dropped in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "memport.h"
#include "state.h"

#define START UINT64_C(1700000000000)

struct world {
    struct memport *mp;
    struct engine e;
    struct contact c;
};

static int setup(void **state)
{
    static const uint8_t seed[TABLE_SEED_LEN];
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    assert_true(sodium_init() >= 0);
    w->mp = memport_new();
    w->e.port = memport_port(w->mp);
    w->e.now = START;
    w->e.conn = CONN_ONLINE;
    buf_init(&w->e.scratch, STORE_VALUE_MAX);
    TAILQ_INIT(&w->e.dirty_peers);
    STAILQ_INIT(&w->e.effects);
    table_init(&w->e.contacts, UID_LEN, seed);
    table_init(&w->e.held, UID_LEN, seed);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    struct effect *f;
    held_clear(&w->e);
    table_done(&w->e.held);
    table_done(&w->e.contacts);
    while ((f = engine_next_effect(&w->e)))
        effect_free(f);
    buf_done(&w->e.scratch);
    memport_free(w->mp);
    free(w);
    return 0;
}

/* --- sweep --- */

static void put_old_ids(struct world *w, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        buf_reset(&w->e.scratch);
        buf_u64(&w->e.scratch, START - DEDUPE_MS - 1);
        buf_u8(&w->e.scratch, 0);
        assert_int_equal(record_put(&w->e, MAP_ID, &i, sizeof(i), &w->e.scratch), 0);
    }
}

static void sweeps_as_fast_as_records_come(void **state)
{
    struct world *w = *state;
    put_old_ids(w, 5000);
    for (unsigned i = 0; i < 5 * 30 + 11; i++, w->e.now += SECOND_MS)
        assert_int_equal(sweep_tick(&w->e), 0);
    assert_int_equal(memport_records(w->mp), 0);
}

static void sweeps_little_when_idle(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < 300; i++, w->e.now += SECOND_MS)
        assert_int_equal(sweep_tick(&w->e), 0);
    assert_int_equal(memport_count(w->mp, MEMPORT_SCAN), 10);
}

/* --- held envelopes --- */

static void uid_of(uint32_t i, uint8_t ret[UID_LEN])
{
    memset(ret, 7, UID_LEN);
    memcpy(ret, &i, sizeof(i));
}

static void put(struct world *w, uint32_t who, uint32_t what)
{
    uint8_t uid[UID_LEN], hash[32] = {0};
    char name[16];
    uid_of(who, uid);
    memcpy(hash, &what, sizeof(what));
    (void)snprintf(name, sizeof(name), "u%u", who);
    assert_int_equal(held_put(&w->e, uid, name, hash, (struct span){.p = hash, .n = sizeof(hash)}), 0);
}

static bool has(struct world *w, uint32_t who, uint32_t what)
{
    uint8_t uid[UID_LEN], hash[32] = {0};
    uid_of(who, uid);
    memcpy(hash, &what, sizeof(what));
    return held_has(&w->e, uid, hash);
}

static void befriend(struct world *w, uint32_t who)
{
    uid_of(who, w->c.uid);
    assert_int_equal(table_add(&w->e.contacts, &w->c.node, w->c.uid), 0);
}

static void strangers_leave_room_for_contacts(void **state)
{
    struct world *w = *state;
    for (uint32_t i = 0; i < MAX_HELD; i++)
        put(w, i, 0);
    assert_int_equal(w->e.n_held, MAX_HELD - HELD_RESERVE);
    befriend(w, MAX_HELD + 1);
    w->c.held = true; /* nobody has let this one in */
    put(w, MAX_HELD + 1, 0);
    assert_int_equal(w->e.n_held, MAX_HELD - HELD_RESERVE);
    w->c.held = false;
    for (uint32_t i = 0; i < 2 * MAX_HELD_PER_UID; i++)
        put(w, MAX_HELD + 1, i);
    assert_int_equal(w->e.n_held, MAX_HELD - HELD_RESERVE + MAX_HELD_PER_UID);
}

static void known_by_its_hash_also_after_a_restart(void **state)
{
    struct world *w = *state;
    put(w, 1, 5);
    put(w, 1, 6);
    put(w, 2, 7);
    assert_true(has(w, 1, 5) && has(w, 1, 6) && has(w, 2, 7));
    assert_false(has(w, 1, 7) || has(w, 3, 5));
    held_clear(&w->e);
    assert_false(has(w, 1, 5));
    w->e.held_number = 0;
    assert_int_equal(held_load(&w->e), 0);
    assert_int_equal(w->e.n_held, 3);
    assert_int_equal(w->e.held_number, 3);
    assert_true(has(w, 1, 5) && has(w, 1, 6) && has(w, 2, 7));
}

static size_t held_records(struct world *w)
{
    return memport_records(w->mp) - (size_t)w->e.last_seq; /* the rest are events */
}

static void expires(void **state)
{
    struct world *w = *state;
    put(w, 1, 1);
    w->e.now += 20 * DAY_MS;
    put(w, 1, 2);
    put(w, 2, 3);
    w->e.now += 11 * DAY_MS;
    assert_int_equal(held_ask(&w->e), 0);
    assert_int_equal(held_records(w), 2);
    assert_false(has(w, 1, 1));
    assert_true(has(w, 1, 2) && has(w, 2, 3));
    w->e.now += 20 * DAY_MS;
    assert_int_equal(held_ask(&w->e), 0);
    assert_int_equal(held_records(w), 0);
    assert_int_equal(w->e.n_held, 0);
    assert_int_equal(w->e.held.count, 0);
}

static void asks_about_everybody_in_turn(void **state)
{
    struct world *w = *state;
    bool asked[400] = {false};
    size_t n = 0;
    befriend(w, 0);
    w->c.held = true; /* waits for a person, not for the relay */
    for (uint32_t i = 0; i < ARRAY_SIZE(asked); i++)
        put(w, i, 0);
    for (unsigned round = 0; round < 7; round++, w->e.now += HELD_ASK_MS) {
        assert_int_equal(held_ask(&w->e), 0);
        assert_in_range(w->e.n_requests, 1, HELD_ASK_MAX + 16);
        for (size_t i = 0; i < w->e.n_requests; i++) {
            uint32_t who;
            memcpy(&who, w->e.requests[i].who.uid, sizeof(who));
            n += !asked[who];
            asked[who] = true;
        }
        w->e.n_requests = 0;
    }
    assert_int_equal(n, ARRAY_SIZE(asked) - 1);
    assert_false(asked[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(sweeps_as_fast_as_records_come, setup, teardown),
            cmocka_unit_test_setup_teardown(sweeps_little_when_idle, setup, teardown),
            cmocka_unit_test_setup_teardown(strangers_leave_room_for_contacts, setup, teardown),
            cmocka_unit_test_setup_teardown(known_by_its_hash_also_after_a_restart, setup, teardown),
            cmocka_unit_test_setup_teardown(expires, setup, teardown),
            cmocka_unit_test_setup_teardown(asks_about_everybody_in_turn, setup, teardown),
    };
    return cmocka_run_group_tests_name("session_upkeep", tests, NULL, NULL);
}
