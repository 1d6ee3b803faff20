#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "buf.h"
#include "failalloc.h"
#include "text.h"

static void integers_have_their_bytes(void **state)
{
    static const uint8_t expect[] = {0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b,
            0x0a, 0x09, 0x08, 0x10, 0x11, 0x12, 0x13, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 2, 0, 0,
            0, 'h', 'i', 0, 0, 0};
    struct buf b;
    (void)state;

    buf_init(&b, 4096);
    buf_u8(&b, 0x01);
    buf_u16(&b, 0x0203);
    buf_u32(&b, 0x04050607);
    buf_u64(&b, UINT64_C(0x08090a0b0c0d0e0f));
    buf_u32be(&b, 0x10111213);
    buf_u64be(&b, UINT64_C(0x18191a1b1c1d1e1f));
    buf_lp(&b, "hi", 2);
    buf_zero(&b, 3);
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(b.len, sizeof(expect));
    assert_memory_equal(b.data, expect, sizeof(expect));
    buf_done(&b);
}

static void cursor_reads_what_was_written(void **state)
{
    uint8_t copy[3];
    struct cursor c;
    struct buf b;
    size_t n;
    (void)state;

    buf_init(&b, 4096);
    buf_u8(&b, 0xfe);
    buf_u16(&b, 0xfedc);
    buf_u32(&b, 0xfedcba98);
    buf_u64(&b, UINT64_C(0xfedcba9876543210));
    buf_u32be(&b, 0xfedcba98);
    buf_u64be(&b, UINT64_C(0xfedcba9876543210));
    buf_lp(&b, "abc", 3);
    buf_lp(&b, NULL, 0);
    buf_bytes(&b, "xyz", 3);
    cursor_init(&c, b.data, b.len);
    assert_int_equal(cursor_u8(&c), 0xfe);
    assert_int_equal(cursor_u16(&c), 0xfedc);
    assert_int_equal(cursor_u32(&c), 0xfedcba98);
    assert_true(cursor_u64(&c) == UINT64_C(0xfedcba9876543210));
    assert_int_equal(cursor_u32be(&c), 0xfedcba98);
    assert_true(cursor_u64be(&c) == UINT64_C(0xfedcba9876543210));
    assert_memory_equal(cursor_lp(&c, 3, &n), "abc", 3);
    assert_int_equal(n, 3);
    assert_non_null(cursor_lp(&c, 0, &n));
    assert_int_equal(n, 0);
    assert_int_equal(cursor_end(&c), WIRE_MALFORMED);
    assert_int_equal(cursor_status(&c), WIRE_OK);
    cursor_copy(&c, copy, 3);
    assert_memory_equal(copy, "xyz", 3);
    assert_int_equal(cursor_end(&c), WIRE_OK);
    buf_done(&b);
}

static void past_the_end_are_zeros(void **state)
{
    static const uint8_t bytes[7] = {1, 2, 3, 4, 5, 6, 7};
    uint8_t copy[4] = {9, 9, 9, 9};
    struct cursor c;
    size_t n = 99;
    (void)state;

    cursor_init(&c, bytes, sizeof(bytes));
    assert_true(cursor_u64(&c) == 0);
    assert_int_equal(cursor_status(&c), WIRE_MALFORMED);
    /* What is still there is not handed out after an error. */
    assert_int_equal(cursor_u8(&c), 0);
    assert_null(cursor_take(&c, 0));
    assert_null(cursor_lp(&c, 100, &n));
    assert_int_equal(n, 0);
    cursor_copy(&c, copy, 4);
    assert_int_equal(copy[0] | copy[1] | copy[2] | copy[3], 0);
    assert_int_equal(cursor_end(&c), WIRE_MALFORMED);
}

static void length_prefix_is_bounded(void **state)
{
    static const uint8_t over_max[] = {3, 0, 0, 0, 'a', 'b', 'c'};
    static const uint8_t over_input[] = {4, 0, 0, 0, 'a', 'b', 'c'};
    static const uint8_t huge[] = {0xff, 0xff, 0xff, 0xff, 'a'};
    struct cursor c;
    size_t n;
    (void)state;

    cursor_init(&c, over_max, sizeof(over_max));
    assert_null(cursor_lp(&c, 2, &n));
    assert_int_equal(cursor_status(&c), WIRE_MALFORMED);
    cursor_init(&c, over_input, sizeof(over_input));
    assert_null(cursor_lp(&c, 100, &n));
    cursor_init(&c, huge, sizeof(huge));
    assert_null(cursor_lp(&c, SIZE_MAX, &n));
    assert_int_equal(n, 0);
}

static void no_input_is_valid_input(void **state)
{
    struct cursor c;
    (void)state;

    cursor_init(&c, NULL, 0);
    assert_int_equal(cursor_end(&c), WIRE_OK);
    assert_non_null(cursor_take(&c, 0));
    cursor_fail(&c);
    assert_int_equal(cursor_end(&c), WIRE_MALFORMED);
}

static void max_is_exact_and_sticks(void **state)
{
    struct buf b;
    (void)state;

    buf_init(&b, 10);
    buf_bytes(&b, "0123456", 7);
    buf_u32(&b, 1);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_u8(&b, 1);
    assert_null(buf_reserve(&b, 1));
    assert_null(buf_reserve(&b, 0));
    assert_int_equal(b.len, 7);
    buf_reset(&b);
    assert_int_equal(buf_status(&b), 0);
    buf_zero(&b, 10);
    assert_int_equal(buf_status(&b), 0);
    buf_u8(&b, 1);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_done(&b);
    assert_int_equal(b.max, 10);
    buf_u8(&b, 1);
    assert_int_equal(buf_status(&b), 0);
    buf_bytes(&b, "x", SIZE_MAX);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_done(&b);
}

static void zeroed_struct_is_empty(void **state)
{
    struct buf b = {0};
    (void)state;

    buf_bytes(&b, NULL, 0);
    assert_int_equal(buf_status(&b), 0);
    buf_reset(&b);
    buf_u8(&b, 1);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_done(&b);
    buf_done(&b);
}

static void grows_to_max(void **state)
{
    struct buf b;
    (void)state;

    buf_init(&b, 100000);
    for (uint32_t i = 0; i < 25000; i++)
        buf_u32(&b, i);
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(b.len, 100000);
    assert_true(b.cap <= b.max);
    for (uint32_t i = 0; i < 25000; i += 999)
        assert_int_equal(b.data[4 * i] | b.data[4 * i + 1] << 8 | b.data[4 * i + 2] << 16, i);
    buf_done(&b);
}

static void patches_only_what_is_there(void **state)
{
    struct buf b;
    (void)state;

    buf_init(&b, 100);
    buf_zero(&b, 6);
    buf_patch_u32(&b, 0, 0x04030201);
    buf_patch_u16(&b, 4, 0x0605);
    assert_memory_equal(b.data, "\1\2\3\4\5\6", 6);
    buf_patch_u16(&b, 5, 1);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_reset(&b);
    buf_u8(&b, 1);
    buf_patch_u32(&b, 0, 1);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_reset(&b);
    buf_zero(&b, 8);
    buf_patch_u32(&b, SIZE_MAX - 1, 1);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_done(&b);
}

static void reserve_counts_as_written(void **state)
{
    struct buf b;
    uint8_t *p;
    (void)state;

    buf_init(&b, 100);
    buf_u8(&b, 'a');
    p = buf_reserve(&b, 3);
    assert_non_null(p);
    memcpy(p, "bcd", 3);
    buf_u8(&b, 'e');
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.data, "abcde", 5);
    buf_truncate(&b, 2);
    buf_truncate(&b, 4);
    assert_int_equal(b.len, 2);
    assert_non_null(buf_reserve(&b, 0));
    buf_done(&b);
}

static size_t count_of(const uint8_t *p, size_t n, uint8_t v)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += p[i] == v;
    return count;
}

static bool holds(const uint8_t *p, size_t n, uint8_t v)
{
    return count_of(p, n, v) > 0;
}

static void secrets_are_wiped(void **state)
{
    struct buf b;
    (void)state;

    buf_init_secret(&b, 4096);
    for (int i = 0; i < 1000; i++)
        buf_u8(&b, 0x5a);
    buf_truncate(&b, 500);
    assert_false(holds(b.data + 500, 500, 0x5a));
    assert_true(holds(b.data, 500, 0x5a));
    buf_reset(&b);
    assert_false(holds(b.data, b.cap, 0x5a));
    buf_done(&b);
}

static int wiped_blocks, dirty_blocks;

/* The allocator may have given a few bytes more than asked for; they were never the buffer's. */
static void on_free(const void *p, size_t n)
{
    if (count_of(p, n, 0x5a) > 15)
        dirty_blocks++;
    else
        wiped_blocks++;
}

static void secrets_are_wiped_when_released(void **state)
{
    struct buf b;
    (void)state;

    wiped_blocks = dirty_blocks = 0;
    failalloc_on_free(on_free);
    buf_init_secret(&b, 4096);
    for (int i = 0; i < 1000; i++)
        buf_u8(&b, 0x5a);
    buf_done(&b);
    failalloc_on_free(NULL);
    assert_int_equal(dirty_blocks, 0);
    assert_true(wiped_blocks >= 3);
    buf_init(&b, 4096);
    failalloc_on_free(on_free);
    for (int i = 0; i < 1000; i++)
        buf_u8(&b, 0x5a);
    buf_done(&b);
    failalloc_on_free(NULL);
    assert_true(dirty_blocks > 0);
}

static int fill(struct buf *b)
{
    for (int i = 0; i < 500; i++)
        buf_u64(b, 7);
    return buf_status(b);
}

static void each_allocation_may_fail(void **state)
{
    unsigned long k = 1;
    (void)state;

    for (bool fired = true; fired; k++) {
        struct buf b, s;

        buf_init(&b, 8192);
        buf_init_secret(&s, 8192);
        failalloc_arm(k);
        int plain = fill(&b), secret = fill(&s);

        fired = failalloc_disarm();
        assert_int_equal(plain == -ENOMEM || secret == -ENOMEM, fired);
        if (plain == -ENOMEM) {
            size_t len = b.len;

            buf_u8(&b, 1);
            assert_int_equal(buf_status(&b), -ENOMEM);
            assert_int_equal(b.len, len);
        }
        buf_done(&b);
        buf_done(&s);
        assert_int_equal(failalloc_live(), 0);
    }
    assert_true(k > 6);
}

/* From a block of just these bytes, so that a sanitizer sees one read past them. */
static bool valid(const char *s, size_t n)
{
    char *copy = malloc(n > 0 ? n : 1);
    bool r;

    assert_non_null(copy);
    memcpy(copy, s, n);
    r = text_valid_utf8(copy, n);
    free(copy);
    return r;
}

static void utf8_is_checked(void **state)
{
    static const char *const good[] = {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
            "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "12345678\xc3\xa9", "1234567\xc3\xa9",
            "12345678901234567890"};
    static const char *const bad[] = {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2\x41",
            "\xe0\x9f\xbf", "\xed\xa0\x80", "\xef\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
            "\xf5\x80\x80\x80", "\xff", "\xf0\x9f\x98", "\xe2\x82\x41", "12345678\xc3"};
    (void)state;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(valid(bad[i], strlen(bad[i])));
    assert_true(valid("a\0b", 3));
    assert_false(text_valid_utf8("\xc3\xa9", 1));
    assert_false(text_valid_utf8("\xf0\x9f\x98\x80", 3));
}

static void text_is_cut_between_characters(void **state)
{
    (void)state;
    assert_int_equal(text_cut(NULL, 4), 0);
    assert_int_equal(text_cut("abc", 4), 3);
    assert_int_equal(text_cut("abcd", 4), 4);
    assert_int_equal(text_cut("abcde", 4), 4);
    assert_int_equal(text_cut("abc\xc3\xa9", 4), 3);
    assert_int_equal(text_cut("ab\xc3\xa9z", 4), 4);
    assert_int_equal(text_cut("a\xf0\x9f\x98\x80", 4), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(integers_have_their_bytes),
            cmocka_unit_test(cursor_reads_what_was_written),
            cmocka_unit_test(past_the_end_are_zeros),
            cmocka_unit_test(length_prefix_is_bounded),
            cmocka_unit_test(no_input_is_valid_input),
            cmocka_unit_test(max_is_exact_and_sticks),
            cmocka_unit_test(zeroed_struct_is_empty),
            cmocka_unit_test(grows_to_max),
            cmocka_unit_test(patches_only_what_is_there),
            cmocka_unit_test(reserve_counts_as_written),
            cmocka_unit_test(secrets_are_wiped),
            cmocka_unit_test(secrets_are_wiped_when_released),
            cmocka_unit_test(each_allocation_may_fail),
            cmocka_unit_test(utf8_is_checked),
            cmocka_unit_test(text_is_cut_between_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
