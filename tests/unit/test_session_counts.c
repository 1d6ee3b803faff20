/* Gaps, forks and tombstones against a plain model. */
#include <setjmp.h>
#include <stdarg.h>
#include <sodium.h>
#include <string.h>

#include <cmocka.h>

#include "memport.h"
#include "state.h"

struct world {
    struct memport *mp;
    struct engine e;
    struct contact c;
    struct peer p;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    w->mp = memport_new();
    w->e.port = memport_port(w->mp);
    w->e.now = UINT64_C(1700000000000);
    buf_init(&w->e.scratch, STORE_VALUE_MAX);
    TAILQ_INIT(&w->e.dirty_peers);
    w->p.contact = &w->c;
    memcpy(w->c.name, "bob", 4);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    free(w->p.gaps);
    free(w->p.tombstones);
    buf_done(&w->e.scratch);
    memport_free(w->mp);
    free(w);
    return 0;
}

static void in_order_costs_nothing(void **state)
{
    struct world *w = *state;
    for (uint64_t i = 1; i < 100; i++)
        assert_int_equal(counts_came(&w->e, &w->p, i), 0);
    assert_null(w->p.gaps);
    assert_int_equal(w->e.last_seq, 0);
}

static void fork_is_reported(void **state)
{
    struct world *w = *state;
    assert_int_equal(counts_came(&w->e, &w->p, 1), 0);
    assert_int_equal(counts_came(&w->e, &w->p, 5), 0);
    assert_int_equal(counts_came(&w->e, &w->p, 3), 0); /* late, not forked */
    assert_int_equal(w->e.last_seq, 0);
    assert_int_equal(counts_came(&w->e, &w->p, 3), 0);
    assert_int_equal(w->e.last_seq, 1);
    assert_int_equal(counts_came(&w->e, &w->p, 1), 0);
    assert_int_equal(w->e.last_seq, 2);
}

static void late_after_the_report_is_no_fork(void **state)
{
    struct world *w = *state;
    assert_int_equal(counts_came(&w->e, &w->p, 4), 0);
    w->e.now += GAP_REPORT_MS;
    table_init(&w->e.peers, ADDRESS_KEY_LEN, (const uint8_t[TABLE_SEED_LEN]){0});
    assert_int_equal(table_add(&w->e.peers, &w->p.node, w->p.key), 0);
    assert_int_equal(counts_tick(&w->e), 0);
    assert_int_equal(counts_tick(&w->e), 0);
    table_done(&w->e.peers);
    assert_int_equal(w->e.last_seq, 1); /* once */
    assert_int_equal(counts_came(&w->e, &w->p, 2), 0);
    assert_int_equal(w->e.last_seq, 1);
}

static void expired_ones_are_no_gap(void **state)
{
    struct world *w = *state;
    for (uint64_t i = 1; i <= 5000; i++)
        assert_int_equal(counts_expired(&w->e, &w->p, i), 0);
    assert_int_equal(w->p.n_gaps, 1);
    assert_int_equal(w->p.highest_count, 5000);
    assert_int_equal(counts_came(&w->e, &w->p, 2500), 0); /* it comes nevertheless */
    assert_int_equal(counts_came(&w->e, &w->p, 5001), 0);
    assert_int_equal(w->e.last_seq, 0);
}

/* Any order, any loss: a count that comes for the first time is never called a fork. */
static void never_a_false_alarm(void **state)
{
    struct world *w = *state;
    static bool came[3000];
    uint32_t x = 1;
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t near = i / 8 + 1, n;
        x = x * 1664525u + 1013904223u;
        n = near + (x >> 8) % 200;
        if (n >= 3000)
            break;
        if (came[n])
            continue;
        came[n] = true;
        w->e.now += 1000; /* the log of errors would be limited otherwise */
        assert_int_equal(x & 1 ? counts_came(&w->e, &w->p, n) : counts_expired(&w->e, &w->p, n), 0);
        assert_true(w->p.n_gaps <= MAX_GAPS);
    }
    for (uint64_t seq = 1; seq <= w->e.last_seq; seq++) {
        struct buf b;
        uint8_t key[8];
        for (unsigned i = 0; i < 8; i++)
            key[i] = (uint8_t)(seq >> (56 - 8 * i));
        buf_init(&b, STORE_VALUE_MAX);
        assert_int_equal(w->e.port.get(w->e.port.ctx, MAP_EVENT, key, 8, &b), 0);
        assert_null(memmem(b.data, b.len, "SENDER_FORKED", 13));
        buf_done(&b);
    }
}

static void tombstones(void **state)
{
    struct world *w = *state;
    struct buf out;
    buf_init(&out, 100000);
    for (uint64_t i = 1; i <= 3000; i++)
        assert_int_equal(counts_bury(&w->e, &w->p, i), 0);
    assert_int_equal(counts_bury(&w->e, &w->p, 0), 0); /* was never counted */
    assert_int_equal(w->p.n_tombstones, 1);
    assert_int_equal(counts_unbury(&w->e, &w->p, 2000, &out), 2000);
    assert_int_equal(counts_unbury(&w->e, &w->p, 2000, &out), 1000);
    assert_int_equal(counts_unbury(&w->e, &w->p, 2000, &out), 0);
    assert_int_equal(out.len, 3000 * 8);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(counts_bury(&w->e, &w->p, 10000 + 2 * i), 0);
    assert_int_equal(w->p.n_tombstones, MAX_TOMBSTONES);
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(in_order_costs_nothing, setup, teardown),
            cmocka_unit_test_setup_teardown(fork_is_reported, setup, teardown),
            cmocka_unit_test_setup_teardown(late_after_the_report_is_no_fork, setup, teardown),
            cmocka_unit_test_setup_teardown(expired_ones_are_no_gap, setup, teardown),
            cmocka_unit_test_setup_teardown(never_a_false_alarm, setup, teardown),
            cmocka_unit_test_setup_teardown(tombstones, setup, teardown),
    };
    return cmocka_run_group_tests_name("session_counts", tests, NULL, NULL);
}
