#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "window.h"

static const uint8_t key[WINDOW_HASH_KEY_LEN] = "0123456789abcde";

static struct envelope_id id_of(uint32_t n)
{
    struct envelope_id id = {{0}};

    memcpy(id.b, &n, sizeof(n));
    return id;
}

static void add(struct window *w, uint32_t n, uint32_t bytes)
{
    const struct window_entry e = {.id = id_of(n), .bytes = bytes, .expires_ms = n};

    assert_int_equal(window_add(w, &e), 0);
}

static bool has(const struct window *w, uint32_t n)
{
    const struct envelope_id id = id_of(n);

    return window_has(w, &id);
}

static bool take(struct window *w, uint32_t n)
{
    const struct envelope_id id = id_of(n);
    struct window_entry e;
    bool there = window_take(w, &id, &e);

    if (there)
        assert_int_equal(e.expires_ms, n);
    return there;
}

static void test_limits(void **state)
{
    struct window w;

    (void)state;
    window_init(&w, key);
    for (uint32_t i = 0; i < RELAY_WINDOW; i++) {
        assert_true(window_has_room(&w, 1));
        add(&w, i, 1);
    }
    assert_false(window_has_room(&w, 0));
    assert_true(take(&w, 77));
    assert_true(window_has_room(&w, RELAY_WINDOW_BYTES - RELAY_WINDOW + 1));
    assert_false(window_has_room(&w, RELAY_WINDOW_BYTES - RELAY_WINDOW + 2));
    window_done(&w);
    assert_true(window_has_room(&w, RELAY_WINDOW_BYTES));
}

static void test_empty_has_no_memory(void **state)
{
    struct window w;

    (void)state;
    window_init(&w, key);
    assert_false(has(&w, 1));
    assert_false(take(&w, 1));
    add(&w, 1, 10);
    assert_true(take(&w, 1));
    assert_null(w.slot);
    assert_int_equal(w.bytes, 0);
    window_done(&w);
}

/* Against a plain array, with many removals: what is behind a gap must still be found. */
static void test_random_operations(void **state)
{
    static bool model[2000];
    struct window w;
    uint32_t count = 0;

    (void)state;
    window_init(&w, key);
    srand(1);
    for (int i = 0; i < 200000; i++) {
        uint32_t n = (uint32_t)rand() % 2000;

        assert_int_equal(has(&w, n), model[n]);
        if (model[n]) {
            assert_true(take(&w, n));
            model[n] = false;
            count--;
        } else if (window_has_room(&w, 3)) {
            add(&w, n, 3);
            model[n] = true;
            count++;
        }
        assert_int_equal(w.count, count);
        assert_int_equal(w.bytes, 3 * count);
    }
    for (uint32_t n = 0; n < 2000; n++)
        assert_int_equal(has(&w, n), model[n]);
    window_done(&w);
}

static void test_recent(void **state)
{
    struct recent r;
    struct envelope_id id;
    unsigned known = 0;

    (void)state;
    recent_init(&r, key);
    id = id_of(5);
    assert_false(recent_has(&r, &id));
    for (uint32_t i = 0; i < 5 * RECENT_GENERATION; i++) {
        id = id_of(i);
        assert_false(recent_has(&r, &id));
        recent_add(&r, &id);
        assert_true(recent_has(&r, &id));
    }
    for (uint32_t i = 4 * RECENT_GENERATION; i < 5 * RECENT_GENERATION; i++) {
        id = id_of(i);
        assert_true(recent_has(&r, &id));
    }
    for (uint32_t i = 0; i < 3 * RECENT_GENERATION; i++) {
        id = id_of(i);
        known += recent_has(&r, &id);
    }
    assert_int_equal(known, 0);
    recent_done(&r);
    assert_false(recent_has(&r, &id));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_limits),
            cmocka_unit_test(test_empty_has_no_memory),
            cmocka_unit_test(test_random_operations),
            cmocka_unit_test(test_recent),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
