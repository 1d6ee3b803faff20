#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <sodium.h>

#include "ratelimit.h"

static const struct limit ten_a_second = LIMIT_PER_SECOND(10, 5);

static void test_burst_then_rate(void **state)
{
    struct bucket b = {0};

    (void)state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(bucket_take(&b, &ten_a_second, 1, 1000), 0);
    assert_int_equal(bucket_take(&b, &ten_a_second, 1, 1000), 100);
    assert_int_equal(bucket_take(&b, &ten_a_second, 3, 1000), 300);
    assert_int_equal(bucket_take(&b, &ten_a_second, 1, 1099), 1);
    assert_int_equal(bucket_take(&b, &ten_a_second, 1, 1100), 0);
    assert_int_equal(bucket_take(&b, &ten_a_second, 1, 1100), 100);
}

static void test_wait_is_exact(void **state)
{
    static const struct limit slow = LIMIT_PER_HOUR(12, 1);
    struct bucket b = {0};
    uint32_t wait;

    (void)state;
    assert_int_equal(bucket_take(&b, &slow, 1, 7), 0);
    wait = bucket_take(&b, &slow, 1, 7);
    assert_in_range(wait, 300000, 300100);
    assert_int_not_equal(bucket_take(&b, &slow, 1, 7 + wait - 1), 0);
    assert_int_equal(bucket_take(&b, &slow, 1, 7 + wait), 0);
}

/* A caller that asks every millisecond must not lose the fractions between two tokens. */
static void test_fractions_are_kept(void **state)
{
    static const struct limit slow = LIMIT_PER_MINUTE(1, 1);
    struct bucket b = {0};
    unsigned got = 0;

    (void)state;
    for (uint64_t t = 1; t <= 10 * 60000; t++)
        got += bucket_take(&b, &slow, 1, t) == 0;
    assert_in_range(got, 9, 10);
}

static void test_more_than_the_burst(void **state)
{
    struct bucket b = {0};

    (void)state;
    assert_int_equal(bucket_take(&b, &ten_a_second, 1000, 1000), 0);
    assert_int_equal(bucket_take(&b, &ten_a_second, 1000, 1000), 500);
    assert_int_equal(bucket_take(&b, &ten_a_second, 1000, 1500), 0);
}

static void test_no_limit_and_old_clock(void **state)
{
    static const struct limit none = {0};
    struct bucket b = {0};

    (void)state;
    for (int i = 0; i < 100000; i++)
        assert_int_equal(bucket_take(&b, &none, 1u << 30, 1), 0);
    assert_int_equal(bucket_take(&b, &ten_a_second, 5, 5000), 0);
    assert_int_not_equal(bucket_take(&b, &ten_a_second, 1, 4000), 0);
    /* A very long time fills it, and no more. */
    assert_int_equal(bucket_take(&b, &ten_a_second, 5, UINT64_MAX / 2), 0);
    assert_int_not_equal(bucket_take(&b, &ten_a_second, 1, UINT64_MAX / 2), 0);
}

static void test_table_keeps_keys_apart(void **state)
{
    struct bucket_table *t = bucket_table_new(1024);
    unsigned limited = 0;

    (void)state;
    assert_non_null(t);
    for (uint32_t key = 0; key < 64; key++) {
        for (int i = 0; i < 5; i++)
            assert_int_equal(bucket_table_take(t, &ten_a_second, &key, sizeof(key), 1, 1000), 0);
    }
    for (uint32_t key = 0; key < 64; key++)
        limited += bucket_table_take(t, &ten_a_second, &key, sizeof(key), 1, 1000) == 100;
    assert_int_equal(limited, 64);
    bucket_table_free(t);
}

/* More keys than the table has: those in use lately stay. */
static void test_table_is_bounded(void **state)
{
    struct bucket_table *t = bucket_table_new(8);
    const uint32_t busy = 1u << 31;

    (void)state;
    assert_non_null(t);
    for (int i = 0; i < 5; i++)
        assert_int_equal(bucket_table_take(t, &ten_a_second, &busy, sizeof(busy), 1, 1000), 0);
    for (uint32_t key = 0; key < 1000; key++) {
        (void)bucket_table_take(t, &ten_a_second, &key, sizeof(key), 1, 1000 + key % 2);
        if (key % 4 == 0)
            assert_int_not_equal(bucket_table_take(t, &ten_a_second, &busy, sizeof(busy), 5, 1001), 0);
    }
    bucket_table_free(t);
    bucket_table_free(NULL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_burst_then_rate),
            cmocka_unit_test(test_wait_is_exact),
            cmocka_unit_test(test_fractions_are_kept),
            cmocka_unit_test(test_more_than_the_burst),
            cmocka_unit_test(test_no_limit_and_old_clock),
            cmocka_unit_test(test_table_keeps_keys_apart),
            cmocka_unit_test(test_table_is_bounded),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
