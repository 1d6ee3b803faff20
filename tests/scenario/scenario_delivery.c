#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sim.h"

#include <cmocka.h>

static void first_message_both_ways(void **state)
{
    struct sim *s = sim_new_online(2, 2);
    (void)state;
    sim_send(s, 0, 1, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_send(s, 1, 0, 2, "");
    assert_true(sim_settle(s, MINUTE_MS));
    sim_check_all(s);
    sim_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(first_message_both_ways),
    };
    return cmocka_run_group_tests_name("scenario.delivery", tests, NULL, NULL);
}
