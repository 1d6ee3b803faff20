#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "table.h"

#define N 2000u

struct thing {
    struct table_node node;
    uint32_t key, value;
};

static void add_get_del(void **state)
{
    static struct thing things[N];
    static const uint8_t seed[TABLE_SEED_LEN] = {1, 2, 3};
    struct table t;
    uint32_t absent = N + 7;
    (void)state;
    table_init(&t, sizeof(uint32_t), seed);
    assert_null(table_get(&t, &absent));
    assert_null(table_any(&t));
    for (uint32_t i = 0; i < N; i++) {
        things[i] = (struct thing){.key = i, .value = i * 3};
        assert_int_equal(table_add(&t, &things[i].node, &things[i].key), 0);
    }
    assert_int_equal(t.count, N);
    assert_true(t.n_slots >= N && t.n_slots <= 2 * N);
    for (uint32_t i = 0; i < N; i++)
        assert_int_equal(container_of(table_get(&t, &i), struct thing, node)->value, i * 3);
    assert_null(table_get(&t, &absent));
    for (uint32_t i = 0; i < N; i += 2)
        table_del(&t, &things[i].node);
    table_del(&t, &things[0].node); /* harmless */
    assert_int_equal(t.count, N / 2);
    for (uint32_t i = 0; i < N; i++)
        assert_true((table_get(&t, &i) != NULL) == (i % 2 == 1));
    while (table_any(&t))
        table_del(&t, table_any(&t));
    assert_int_equal(t.count, 0);
    table_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(add_get_del),
    };
    return cmocka_run_group_tests_name("session_table", tests, NULL, NULL);
}
