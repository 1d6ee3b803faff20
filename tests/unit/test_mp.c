#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "failalloc.h"
#include "mp.h"

#define MAX (1u << 20)

static const char *why;

static int measure(const void *p, size_t n)
{
    size_t len = 0;

    why = NULL;
    return mp_measure(p, n, MAX, &len, &why);
}

/* {"to": "bob", "n": [1, -1, 200, 70000, -33, 2^53, 1.5, null, true], "b": bytes 00 ff}, as another
 * implementation writes it. */
static const uint8_t sample[] = {0x83, 0xa2, 't', 'o', 0xa3, 'b', 'o', 'b', 0xa1, 'n', 0x99, 0x01, 0xff, 0xcc,
        0xc8, 0xce, 0x00, 0x01, 0x11, 0x70, 0xd0, 0xdf, 0xcf, 0x00, 0x20, 0, 0, 0, 0, 0, 0, 0xcb, 0x3f, 0xf8,
        0, 0, 0, 0, 0, 0, 0xc0, 0xc3, 0xa1, 'b', 0xc4, 0x02, 0x00, 0xff};

static void writer_matches_other_implementations(void **state)
{
    CLEANUP_BUF struct buf b;
    (void)state;

    buf_init(&b, 4096);
    mp_put_map(&b, 3);
    mp_put_str(&b, "to");
    mp_put_strn(&b, "bobby", 3);
    mp_put_str(&b, "n");
    mp_put_array(&b, 9);
    mp_put_int(&b, 1);
    mp_put_int(&b, -1);
    mp_put_uint(&b, 200);
    mp_put_int(&b, 70000);
    mp_put_int(&b, -33);
    mp_put_uint(&b, (uint64_t)MP_MAX_INT);
    mp_put_double(&b, 1.5);
    mp_put_nil(&b);
    mp_put_bool(&b, true);
    mp_put_str(&b, "b");
    mp_put_bin(&b, "\x00\xff", 2);
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(b.len, sizeof(sample));
    assert_memory_equal(b.data, sample, sizeof(sample));
}

static void views_read_in_place(void **state)
{
    static const int64_t ints[] = {1, -1, 200, 70000, -33, MP_MAX_INT};
    struct mp_value map, v, e;
    struct mp_iter it;
    (void)state;

    assert_int_equal(measure(sample, sizeof(sample)), WIRE_OK);
    mp_view(sample, sizeof(sample), &map);
    assert_int_equal(map.type, MP_MAP);
    assert_int_equal(map.count, 3);
    assert_int_equal(map.raw_len, sizeof(sample));
    assert_true(mp_map_get(&map, "to", &v));
    assert_true(mp_str_eq(&v, "bob"));
    assert_false(mp_str_eq(&v, "bo"));
    assert_false(mp_str_eq(&v, "bobb"));
    assert_ptr_equal(v.bytes, sample + 5);
    assert_false(mp_map_get(&map, "too", &v));
    assert_true(mp_map_get(&map, "b", &v));
    assert_int_equal(v.type, MP_BIN);
    assert_int_equal(v.count, 2);
    assert_false(mp_str_eq(&v, ""));
    assert_true(mp_map_get(&map, "n", &v));
    assert_false(mp_map_get(&v, "n", &e));
    mp_iter_init(&it, &v);
    for (size_t i = 0; i < 6; i++) {
        assert_true(mp_next(&it, NULL, &e));
        assert_int_equal(e.type, MP_INT);
        assert_true(e.integer == ints[i]);
    }
    assert_true(mp_next(&it, NULL, &e));
    assert_true(e.type == MP_FLOAT && e.number == 1.5);
    assert_true(mp_next(&it, NULL, &e));
    assert_int_equal(e.type, MP_NIL);
    assert_true(mp_next(&it, NULL, &e));
    assert_true(e.type == MP_BOOL && e.boolean);
    assert_false(mp_next(&it, NULL, &e));
    assert_false(mp_next(&it, NULL, &e));
}

static void a_scalar_is_no_container(void **state)
{
    struct mp_value v, e;
    struct mp_iter it;
    (void)state;

    mp_view("\xa3"
            "abc",
            4, &v);
    mp_iter_init(&it, &v);
    assert_false(mp_next(&it, NULL, &e));
    /* Bytes that have not passed the walk give nil, not what is behind them. */
    mp_view("\xa3"
            "ab",
            3, &v);
    assert_int_equal(v.type, MP_NIL);
    mp_view("", 0, &v);
    assert_int_equal(v.type, MP_NIL);
    mp_view("\xc1", 1, &v);
    assert_int_equal(v.type, MP_NIL);
}

static void integers_in_every_form(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        int64_t value;
    } rows[] = {
            {"\x00", 1, 0},
            {"\x7f", 1, 127},
            {"\xe0", 1, -32},
            {"\xcc\xff", 2, 255},
            {"\xcd\xff\xff", 3, 65535},
            {"\xce\xff\xff\xff\xff", 5, INT64_C(4294967295)},
            {"\xcf\x00\x1f\xff\xff\xff\xff\xff\xff", 9, MP_MAX_INT - 1},
            {"\xd0\x80", 2, -128},
            {"\xd1\x80\x00", 3, -32768},
            {"\xd2\x80\x00\x00\x00", 5, -INT64_C(2147483648)},
            {"\xd3\xff\xe0\x00\x00\x00\x00\x00\x00", 9, -MP_MAX_INT},
            {"\xd3\x00\x00\x00\x00\x00\x00\x00\x05", 9, 5},
    };
    struct mp_value v;
    (void)state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(measure(rows[i].bytes, rows[i].n), WIRE_OK);
        mp_view(rows[i].bytes, rows[i].n, &v);
        assert_int_equal(v.type, MP_INT);
        assert_true(v.integer == rows[i].value);
    }
}

static void what_is_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *why;
    } rows[] = {
            {"\xc1", 1, "0xc1"},
            {"\xd4\x01\x00", 3, "extension"},
            {"\xd8", 1, "extension"},
            {"\xc7\x00\x01", 3, "extension"},
            {"\xc9", 1, "extension"},
            {"\x81\x01\x01", 3, "key"},
            {"\x81\xc4\x01\x61\x01", 5, "key"},
            {"\x81\xc0\xc0", 3, "key"},
            {"\x82\xa1\x61\x01\xa1\x61\x02", 7, "twice"},
            {"\x82\xa1\x61\x01\xd9\x01\x61\x02", 8, "twice"},
            {"\x82\xa0\x01\xa0\x02", 5, "twice"},
            {"\xcf\x00\x20\x00\x00\x00\x00\x00\x01", 9, "2^53"},
            {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, "2^53"},
            {"\xd3\xff\xdf\xff\xff\xff\xff\xff\xff", 9, "2^53"},
            {"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", 9, "finite"},
            {"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", 9, "finite"},
            {"\xca\xff\x80\x00\x00", 5, "finite"},
            {"\xde\x01\x01", 3, "pairs"},
            {"\xdd\x10\x00\x00\x00", 5, "longer"},
            {"\xdb\xff\xff\xff\xff", 5, "longer"},
            {"\xc6\x00\x10\x00\x00", 5, "longer"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(measure(rows[i].bytes, rows[i].n), WIRE_MALFORMED);
        assert_non_null(strstr(why, rows[i].why));
    }
}

/* The same key in an outer and an inner map is no duplicate, and a map does not see a sibling's keys. */
static void keys_are_of_one_map(void **state)
{
    static const char nested[] = "\x82\xa1\x61\x82\xa1\x61\x01\xa1\x62\x02\xa1\x62\x81\xa1\x61\x03";
    static const char after[] = "\x83\xa1\x61\x81\xa1\x7a\x01\xa1\x62\x02\xa1\x61\x03";
    (void)state;

    assert_int_equal(measure(nested, sizeof(nested) - 1), WIRE_OK);
    assert_int_equal(measure(after, sizeof(after) - 1), WIRE_MALFORMED);
    assert_non_null(strstr(why, "twice"));
}

static void depth_is_bounded(void **state)
{
    uint8_t deep[64];
    (void)state;

    memset(deep, 0x91, sizeof(deep));
    deep[MP_MAX_DEPTH] = 0xc0;
    assert_int_equal(measure(deep, MP_MAX_DEPTH + 1), WIRE_OK);
    deep[MP_MAX_DEPTH] = 0x90;
    assert_int_equal(measure(deep, MP_MAX_DEPTH + 1), WIRE_MALFORMED);
    assert_non_null(strstr(why, "deep"));
}

static void put_pairs(struct buf *b, uint32_t pairs, uint32_t same_as)
{
    char key[16];

    mp_put_map(b, pairs);
    for (uint32_t i = 0; i < pairs; i++) {
        /* Neither rising nor falling. */
        (void)snprintf(key, sizeof(key), "%u", (i == pairs - 1 && same_as ? same_as : i) * 7919u % 1009u);
        mp_put_str(b, key);
        mp_put_nil(b);
    }
}

static void pairs_are_bounded_and_all_compared(void **state)
{
    CLEANUP_BUF struct buf b;
    (void)state;

    buf_init(&b, 65536);
    put_pairs(&b, MP_MAX_PAIRS, 0);
    assert_int_equal(measure(b.data, b.len), WIRE_OK);
    for (uint32_t same = 1; same < MP_MAX_PAIRS - 1; same++) {
        buf_reset(&b);
        put_pairs(&b, MP_MAX_PAIRS, same);
        assert_int_equal(measure(b.data, b.len), WIRE_MALFORMED);
        assert_non_null(strstr(why, "twice"));
    }
    buf_reset(&b);
    put_pairs(&b, MP_MAX_PAIRS + 1, 0);
    assert_int_equal(measure(b.data, b.len), WIRE_MALFORMED);
}

static void every_prefix_is_incomplete(void **state)
{
    size_t len, need;
    (void)state;

    for (size_t n = 0; n < sizeof(sample); n++) {
        need = 0;
        assert_int_equal(mp_measure(sample, n, MAX, &need, &why), WIRE_INCOMPLETE);
        assert_true(need > n && need <= sizeof(sample));
    }
    assert_int_equal(mp_measure(sample, sizeof(sample), sizeof(sample), &len, &why), WIRE_OK);
    assert_int_equal(len, sizeof(sample));
    assert_int_equal(mp_measure(sample, sizeof(sample), sizeof(sample) - 1, &len, &why), WIRE_MALFORMED);
}

/* Nothing that cannot fit is waited for: not one byte more than the announced head is needed to see it. */
static void what_never_fits_is_malformed_at_once(void **state)
{
    size_t len = 0;
    (void)state;

    assert_int_equal(mp_measure("\xc5\x00\x0d", 3, 16, &len, &why), WIRE_INCOMPLETE);
    assert_int_equal(len, 16);
    assert_int_equal(mp_measure("\xc5\x00\x0e", 3, 16, &len, &why), WIRE_MALFORMED);
    assert_int_equal(mp_measure("\xdc\x00\x0d", 3, 16, &len, &why), WIRE_INCOMPLETE);
    assert_int_equal(mp_measure("\xdc\x00\x0e", 3, 16, &len, &why), WIRE_MALFORMED);
    assert_int_equal(mp_measure("\x87", 1, 16, &len, &why), WIRE_INCOMPLETE);
    assert_int_equal(len, 15);
    assert_int_equal(mp_measure("\x88", 1, 16, &len, &why), WIRE_MALFORMED);
    /* The elements still to come count. */
    assert_int_equal(mp_measure("\x93\xc4\x0b", 3, 16, &len, &why), WIRE_INCOMPLETE);
    assert_int_equal(len, 16);
    assert_int_equal(mp_measure("\x93\xc4\x0c", 3, 16, &len, &why), WIRE_MALFORMED);
    assert_int_equal(mp_measure("", 0, 0, &len, &why), WIRE_MALFORMED);
}

static void a_map_of_unknown_size(void **state)
{
    CLEANUP_BUF struct buf b;
    struct mp_value v, e;
    struct mp_map m;
    (void)state;

    buf_init(&b, 4096);
    mp_put_nil(&b);
    mp_map_begin(&m, &b);
    mp_put_int(mp_key(&m, "a"), 1);
    mp_put_str(mp_key(&m, "b"), "x");
    mp_map_end(&m);
    assert_int_equal(measure(b.data + 1, b.len - 1), WIRE_OK);
    mp_view(b.data + 1, b.len - 1, &v);
    assert_int_equal(v.raw_len, b.len - 1);
    assert_int_equal(v.count, 2);
    assert_true(mp_map_get(&v, "b", &e) && mp_str_eq(&e, "x"));
    assert_string_equal(mp_type_name(MP_NIL), "nil");
    assert_string_equal(mp_type_name(MP_MAP), "map");
}

/* From JSON and back, as text. */
static const char *round_trip(const char *json)
{
    static char text[4096];
    CLEANUP_BUF struct buf mp;
    CLEANUP_BUF struct buf out;
    struct mp_value v;

    buf_init(&mp, 65536);
    buf_init(&out, sizeof(text) - 1);
    if (mp_from_json(&mp, json, strlen(json), &why) != WIRE_OK)
        return NULL;
    mp_view(mp.data, mp.len, &v);
    mp_to_json(&out, &v);
    assert_int_equal(buf_status(&out), 0);
    memcpy(text, out.data, out.len);
    text[out.len] = '\0';
    return text;
}

static void json_round_trips(void **state)
{
    static const char *const same[] = {"null", "true", "false", "0", "-1", "9007199254740992",
            "-9007199254740992", "1.5", "0.1", "1e+300", "-2.5e-07", "5.0", "\"\"",
            "\"a\\\"b\\\\c\\n\\u0001\\u007f\"", "\"\xc3\xa9\xf0\x9f\x98\x80\"", "[]", "{}", "[1,[2,[3]]]",
            "{\"a\":{\"b\":[]},\"c\":null}", "{\"base64\":\"YWJj\"}", "{\"base64\":\"\"}",
            "[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]"};
    (void)state;

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        assert_string_equal(round_trip(same[i]), same[i]);
    assert_string_equal(round_trip(" { \"a\" : [ 1 , 2 ] } \n"), "{\"a\":[1,2]}");
    assert_string_equal(round_trip("\"\\u0041\\/\\ud83d\\ude00\\u00e9\\u20ac\""),
            "\"A/\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xac\"");
    assert_string_equal(round_trip("-0"), "0");
}

static void json_that_is_refused(void **state)
{
    static const char *const bad[] = {"", " ", "tru", "nul", "01", "1.", ".5", "+1", "1e", "-", "0x1", "\"",
            "\"a", "\"\n\"", "\"\\x\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\u0041\"",
            "\"\\udc00\"", "\"\xff\"", "[", "[1", "[1,", "[1,]", "[1 2]", "{", "{\"a\"",
            "{\"a\":", "{\"a\":1", "{\"a\":1,}", "{1:1}", "{a:1}", "1 2", "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}", "9007199254740993", "99999999999999999999999", "1e400",
            "{\"base64\":\"YWJ\"}", "{\"base64\":\"YW Jj\"}", "{\"base64\":\"YWK=\"}", "]", "'a'",
            "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]",
            "0.00000000000000000000000000000000000000000000000000000000000000001"};
    (void)state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        why = NULL;
        if (round_trip(bad[i]))
            fail_msg("accepted: %s", bad[i]);
        assert_non_null(why);
    }
}

static void json_numbers_have_a_longest(void **state)
{
    char number[70];
    (void)state;

    for (size_t n = 64; n <= 65; n++) {
        memset(number, '0', sizeof(number));
        number[1] = '.';
        number[n - 1] = '5';
        number[n] = '\0';
        if (n == 64)
            assert_non_null(round_trip(number));
        else
            assert_null(round_trip(number));
    }
}

static void json_bytes_are_bytes(void **state)
{
    static const char json[] = "{\"base64\":\"AP8=\"}";
    CLEANUP_BUF struct buf b;
    struct mp_value v;
    (void)state;

    buf_init(&b, 100);
    mp_put_nil(&b);
    assert_int_equal(mp_from_json(&b, json, strlen(json), &why), WIRE_OK);
    mp_view(b.data + 1, b.len - 1, &v);
    assert_int_equal(v.type, MP_BIN);
    assert_int_equal(v.count, 2);
    assert_int_equal(v.raw_len, b.len - 1);
    assert_memory_equal(v.bytes, "\x00\xff", 2);
}

static void json_of_odd_strings(void **state)
{
    CLEANUP_BUF struct buf b;
    struct mp_value v;
    (void)state;

    buf_init(&b, 100);
    mp_view("\xa4\xff\x61\xc3\x00", 5, &v);
    mp_to_json(&b, &v);
    assert_int_equal(b.len, strlen("\"\xef\xbf\xbd\x61\xef\xbf\xbd\\u0000\""));
    assert_memory_equal(b.data, "\"\xef\xbf\xbd\x61\xef\xbf\xbd\\u0000\"", b.len);
}

static void json_ends_where_the_buffer_does(void **state)
{
    static const char json[] = "[\"abcdefghijklmnop\",1,2,{\"a\":[1.5]}]";
    struct mp_value v;
    (void)state;

    for (size_t max = 0; max < 80; max++) {
        CLEANUP_BUF struct buf b;
        CLEANUP_BUF struct buf out;
        int r;

        buf_init(&b, max);
        buf_init(&out, max);
        r = mp_from_json(&b, json, strlen(json), &why);
        assert_true(r == WIRE_OK ? max >= 40 : r == -EMSGSIZE);
        if (r != WIRE_OK)
            continue;
        mp_view(b.data, b.len, &v);
        mp_to_json(&out, &v);
        assert_int_equal(buf_status(&out), max >= strlen(json) ? 0 : -EMSGSIZE);
    }
}

static int build(struct buf *mp, struct buf *text)
{
    static const char json[] = "{\"a\":[1,2.5,\"\\u00e9\"],\"b\":{\"base64\":\"AP8=\"},\"c\":{}}";
    struct mp_value v;
    struct mp_map m;
    int r;

    for (int i = 0; i < 40; i++) {
        mp_map_begin(&m, mp);
        mp_put_str(mp_key(&m, "key"), "value");
        mp_put_double(mp_key(&m, "number"), 0.5);
        mp_map_end(&m);
    }
    buf_reset(mp);
    r = buf_status(mp);
    if (r == 0)
        r = mp_from_json(mp, json, strlen(json), &why);
    if (r != 0)
        return r;
    mp_view(mp->data, mp->len, &v);
    for (int i = 0; i < 40; i++)
        mp_to_json(text, &v);
    return buf_status(text);
}

static void each_allocation_may_fail(void **state)
{
    unsigned long k = 1;
    (void)state;

    for (bool fired = true; fired; k++) {
        struct buf mp, text;
        int r;

        buf_init(&mp, 65536);
        buf_init(&text, 65536);
        failalloc_arm(k);
        r = build(&mp, &text);
        fired = failalloc_disarm();
        /* The buffer is reset once: what failed before that is forgotten. */
        assert_true(r == 0 || (fired && r == -ENOMEM));
        buf_done(&mp);
        buf_done(&text);
        assert_int_equal(failalloc_live(), 0);
    }
    assert_true(k > 6);
}

static void the_walk_allocates_nothing(void **state)
{
    struct mp_value v, e;
    size_t len;
    (void)state;

    failalloc_arm(1);
    assert_int_equal(mp_measure(sample, sizeof(sample), MAX, &len, &why), WIRE_OK);
    mp_view(sample, len, &v);
    assert_true(mp_map_get(&v, "b", &e));
    assert_false(failalloc_disarm());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(writer_matches_other_implementations),
            cmocka_unit_test(views_read_in_place),
            cmocka_unit_test(a_scalar_is_no_container),
            cmocka_unit_test(integers_in_every_form),
            cmocka_unit_test(what_is_refused),
            cmocka_unit_test(keys_are_of_one_map),
            cmocka_unit_test(depth_is_bounded),
            cmocka_unit_test(pairs_are_bounded_and_all_compared),
            cmocka_unit_test(every_prefix_is_incomplete),
            cmocka_unit_test(what_never_fits_is_malformed_at_once),
            cmocka_unit_test(a_map_of_unknown_size),
            cmocka_unit_test(json_round_trips),
            cmocka_unit_test(json_that_is_refused),
            cmocka_unit_test(json_numbers_have_a_longest),
            cmocka_unit_test(json_bytes_are_bytes),
            cmocka_unit_test(json_of_odd_strings),
            cmocka_unit_test(json_ends_where_the_buffer_does),
            cmocka_unit_test(each_allocation_may_fail),
            cmocka_unit_test(the_walk_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
