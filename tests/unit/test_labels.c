#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "labels.h"

static bool is_prefix(const struct label_text *a, const struct label_text *b)
{
    return a->n <= b->n && memcmp(a->text, b->text, a->n) == 0;
}

/* With its zero byte no label is the beginning of another, so that no two inputs can be taken for each other.
 */
static void test_none_begins_another(void **state)
{
    (void)state;
    for (size_t i = 0; i < LABEL_COUNT; i++)
        for (size_t j = 0; j < LABEL_COUNT; j++)
            if (i != j && is_prefix(&label_table[i], &label_table[j]))
                fail_msg("'%s' begins '%s'", label_table[i].text, label_table[j].text);
}

static void test_form(void **state)
{
    static const char begin[] = "e2eed/1 ";
    (void)state;
    for (size_t i = 0; i < LABEL_COUNT; i++) {
        const struct label_text *label = &label_table[i];
        assert_int_equal(strncmp(label->text, begin, strlen(begin)), 0);
        assert_int_equal(label->n, strlen(label->text) + 1);
        assert_true(label->n > strlen(begin) + 1 && label->n <= LABEL_MAX);
        for (size_t at = 0; at < label->n - 1; at++)
            assert_in_range(label->text[at], 0x20, 0x7e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_none_begins_another),
            cmocka_unit_test(test_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
