#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api.h"
#include "failalloc.h"
#include "rpc.h"

static char text[API_MAX_TEXT];

/* Checks params given as JSON, as an error of api_check_params() or 0. */
static int check(const char *method, const char *json)
{
    const struct api_method *m = api_find_method(method, strlen(method));
    CLEANUP_BUF struct buf b;
    struct mp_value params, map;
    const char *why = NULL;
    int r;

    assert_non_null(m);
    buf_init(&b, 1u << 20);
    if (mp_from_json(&b, json, strlen(json), &why) != WIRE_OK)
        fail_msg("%s: %s", json, why);
    mp_view(b.data, b.len, &params);
    memset(text, 'x', sizeof(text));
    memset(&map, 0, sizeof(map));
    r = api_check_params(m, &params, &map, text);
    if (r == 0) {
        assert_int_equal(map.type, MP_MAP);
    } else {
        assert_int_equal(r, API_INVALID_PARAMS);
        assert_null(map.raw);
        assert_non_null(memchr(text, 0, sizeof(text)));
    }
    return r;
}

static void refused(const char *method, const char *json, const char *expect)
{
    if (check(method, json) == 0)
        fail_msg("%s accepted %s", method, json);
    if (!strstr(text, expect))
        fail_msg("'%s' is not in '%s'", expect, text);
}

static void good_params(void **state)
{
    (void)state;
    assert_int_equal(check("status", "[]"), 0);
    assert_int_equal(check("status", "[{}]"), 0);
    assert_int_equal(check("status", "[null]"), 0);
    assert_int_equal(check("status", "null"), 0);
    assert_int_equal(check("send", "[{\"to\":\"bob\",\"text\":\"\"}]"), 0);
    assert_int_equal(check("send", "[{\"to\":\"bob\",\"bytes\":{\"base64\":\"/"
                                   "w==\"},\"qos\":0,\"id\":\"a\",\"ttl_ms\":2592000000,"
                                   "\"not_before\":9007199254740992,\"require_verified\":true}]"),
            0);
    assert_int_equal(check("send", "[{\"to\":\"bob\",\"bytes\":\"text\"}]"), 0);
    assert_int_equal(check("wait", "[{\"id\":\"x\",\"until\":\"read\",\"timeout_ms\":86400000}]"), 0);
    assert_int_equal(check("read", "[{\"from\":\"bob\",\"ids\":[]}]"), 0);
    assert_int_equal(check("subscribe", "[{\"after\":0,\"types\":[\"message\",\"gap\"]}]"), 0);
    assert_int_equal(check("contact.block", "[{\"user\":\"bob\",\"blocked\":false}]"), 0);
    assert_int_equal(check("hello", "[{\"errors\":\"map\"}]"), 0);
}

static void texts_name_what_is_wrong(void **state)
{
    (void)state;
    refused("send", "[{\"txt\":1}]",
            "send: unknown parameter 'txt' (allowed: to, text, bytes, id, qos, ttl_ms, not_before, "
            "require_verified)");
    refused("status", "[{\"a\":1}]", "status: unknown parameter 'a' (none is allowed)");
    refused("send", "[{\"to\":\"bob\",\"qos\":\"1\"}]",
            "send: parameter 'qos' must be an integer 0..2, got string");
    refused("send", "[{\"to\":\"bob\",\"qos\":3}]", "must be an integer 0..2, got 3");
    refused("send", "[{\"to\":\"bob\",\"qos\":-1}]", "got -1");
    refused("send", "[{\"to\":\"bob\",\"qos\":1.0}]", "got number");
    refused("send", "[{\"to\":\"bob\",\"ttl_ms\":2592000001}]", "0..2592000000, got 2592000001");
    refused("send", "[{\"text\":\"x\"}]", "send: 'to' is required");
    refused("send", "[]", "send: 'to' is required");
    refused("send", "[{\"to\":null}]", "parameter 'to' must be a UTF-8 string of at most 64 bytes, got nil");
    refused("send", "[{\"to\":\"bob\",\"require_verified\":1}]", "must be true or false, got integer");
    refused("send", "[{\"to\":\"bob\",\"bytes\":[1]}]",
            "must be a string or binary of at most 65536 bytes, got array");
    refused("send", "[{\"to\":\"bob\",\"text\":{\"base64\":\"YQ==\"}}]", "got binary");
    refused("wait", "[{\"id\":\"x\",\"until\":\"foo\"}]", "must be one of sent, delivered, read, got 'foo'");
    refused("wait", "[{\"id\":\"x\",\"until\":7}]", "must be one of sent, delivered, read, got integer");
    refused("wait", "[{\"id\":\"x\",\"until\":\"sen\"}]", "got 'sen'");
    refused("wait", "[{\"id\":\"x\",\"timeout_ms\":86400001}]", "0..86400000");
    refused("read", "[{\"from\":\"bob\",\"ids\":\"x\"}]",
            "must be an array of at most 256 strings of 1..64 bytes, got string");
    refused("read", "[{\"from\":\"bob\",\"ids\":[\"a\",1]}]", "got another element");
    refused("read", "[{\"from\":\"bob\",\"ids\":[\"\"]}]", "got another element");
    refused("events", "[{\"types\":[\"message\",\"mesage\"]}]",
            "out of connected, disconnected, error, message,");
    refused("events", "[{\"types\":[\"mesage\"]}]", "gap, got another element");
    refused("events", "[{\"limit\":501}]", "0..500");
    refused("read", "[{\"from\":\"bob\"}]", "read: 'ids' is required");
}

static void shape_of_params(void **state)
{
    (void)state;
    refused("send", "{\"to\":\"bob\",\"txt\":\"x\"}",
            "unknown parameter 'txt'"); /* a bare map is read like [map] */
    refused("status", "[{},{}]", "got an array of 2 elements");
    refused("status", "[1]", "got an array with integer in it");
    refused("status", "[[]]", "got an array with array in it");
    refused("status", "\"x\"", "got string");
}

/* A caller's bytes come back cut and without control characters. */
static void callers_text_is_shown_safely(void **state)
{
    static char json[5000];
    (void)state;

    refused("send", "[{\"\\u001b[31m\\n\":1}]", "unknown parameter '?[31m?' (");
    (void)snprintf(json, sizeof(json), "[{\"%04000d\":1}]", 0);
    refused("send", json, "unknown parameter '00000000000000000000000000000000...' (allowed: to,");
    (void)snprintf(json, sizeof(json), "[{\"id\":\"x\",\"until\":\"%04000d\"}]", 0);
    refused("wait", json, "got '00000000000000000000000000000000...'");
}

/* Whatever the tables come to hold, the text ends within its bytes. */
static void long_texts_are_cut(void **state)
{
    static const char name[] = "a_parameter_with_quite_a_long_name";
    struct api_field fields[12];
    struct api_method m = {"x", "0.1", "X.", fields, fields};
    struct mp_value params, map;
    (void)state;

    for (size_t i = 0; i < 11; i++)
        fields[i] = (struct api_field){.name = name, .type = API_BOOL};
    fields[11].name = NULL;
    mp_view("\x91\x81\xa1k\x01", 5, &params);
    assert_int_equal(api_check_params(&m, &params, &map, text), API_INVALID_PARAMS);
    assert_int_equal(strlen(text), API_MAX_TEXT - 1);
}

/* The '%' in json stands for n letters. */
static int check_sized(const char *method, const char *json, size_t n)
{
    static char big[1u << 18];
    size_t at = (size_t)(strchr(json, '%') - json);

    memcpy(big, json, at);
    memset(big + at, 'a', n);
    (void)snprintf(big + at + n, sizeof(big) - at - n, "%s", json + at + 1);
    return check(method, big);
}

static void sizes_are_exact(void **state)
{
    (void)state;
    assert_int_equal(check_sized("send", "[{\"to\":\"b\",\"text\":\"%\"}]", API_MAX_PAYLOAD), 0);
    assert_int_not_equal(check_sized("send", "[{\"to\":\"b\",\"text\":\"%\"}]", API_MAX_PAYLOAD + 1), 0);
    assert_non_null(strstr(text, "at most 65536 bytes, got 65537 bytes"));
    assert_int_equal(check_sized("send", "[{\"to\":\"b\",\"bytes\":\"%\"}]", API_MAX_PAYLOAD), 0);
    assert_int_not_equal(check_sized("send", "[{\"to\":\"b\",\"bytes\":\"%\"}]", API_MAX_PAYLOAD + 1), 0);
    assert_int_equal(check_sized("send", "[{\"to\":\"b\",\"id\":\"%\"}]", 64), 0);
    assert_int_not_equal(check_sized("send", "[{\"to\":\"b\",\"id\":\"%\"}]", 65), 0);
    assert_int_equal(check_sized("read", "[{\"from\":\"b\",\"ids\":[\"%\"]}]", 64), 0);
    assert_int_not_equal(check_sized("read", "[{\"from\":\"b\",\"ids\":[\"%\"]}]", 65), 0);
    assert_int_equal(check_sized("contact.verify", "[{\"user\":\"b\",\"number\":\"%\"}]", 80), 0);
    assert_int_not_equal(check_sized("contact.verify", "[{\"user\":\"b\",\"number\":\"%\"}]", 81), 0);
}

static void ids_are_counted(void **state)
{
    (void)state;
    for (unsigned n = 256; n <= 257; n++) {
        char json[4096] = "[{\"from\":\"b\",\"ids\":[\"a\"";

        for (unsigned i = 1; i < n; i++)
            strcat(json, ",\"a\"");
        strcat(json, "]}]");
        assert_int_equal(check("read", json), n == 256 ? 0 : API_INVALID_PARAMS);
    }
    assert_non_null(strstr(text, "got more"));
}

static void text_must_be_utf8(void **state)
{
    static const char params[] = "\x91\x82\xa2to\xa1"
                                 "b\xa4text\xa1\xff";
    static const char as_bytes[] = "\x91\x82\xa2to\xa1"
                                   "b\xa5"
                                   "bytes\xa1\xff";
    const struct api_method *send = api_find_method("send", 4);
    struct mp_value v, map;
    (void)state;

    mp_view(params, sizeof(params) - 1, &v);
    assert_int_equal(api_check_params(send, &v, &map, text), API_INVALID_PARAMS);
    assert_non_null(strstr(
            text, "'text' must be a UTF-8 string of at most 65536 bytes, got bytes that are not UTF-8"));
    mp_view(as_bytes, sizeof(as_bytes) - 1, &v);
    assert_int_equal(api_check_params(send, &v, &map, text), 0);
}

static void finding(void **state)
{
    (void)state;
    assert_string_equal(api_find_method("contact.add", 11)->name, "contact.add");
    assert_null(api_find_method("contact.ad", 10));
    assert_null(api_find_method("contact.addx", 12));
    assert_null(api_find_method("", 0));
    assert_string_equal(api_find_event("gap", 3)->name, "gap");
    assert_null(api_find_event("gapp", 4));
    assert_null(api_error_info(API_OK));
    assert_null(api_error_info((enum api_error)6));
    assert_string_equal(api_error_info(API_UNKNOWN_USER)->name, "UNKNOWN_USER");
}

static void fields_are_sound(const char *owner, const struct api_field *fields, bool params)
{
    for (const struct api_field *f = fields; f->name; f++) {
        if (!f->since || !f->text || strlen(f->text) < 3 || strchr(f->text, '\n') ||
                f->text[strlen(f->text) - 1] != '.')
            fail_msg("%s: %s has no proper text", owner, f->name);
        if (params && f->type != API_BOOL && f->max == 0)
            fail_msg("%s: %s has no limit", owner, f->name);
        assert_true(f - fields < 64);
        for (const struct api_field *g = fields; g < f; g++)
            assert_string_not_equal(f->name, g->name);
    }
}

static void tables_are_sound(void **state)
{
    size_t methods = 0;
    (void)state;

    for (const struct api_method *m = api_methods; m->name; m++, methods++) {
        assert_true(strlen(m->name) <= RPC_MAX_METHOD && strlen(m->text) > 3 && m->since);
        assert_ptr_equal(api_find_method(m->name, strlen(m->name)), m);
        fields_are_sound(m->name, m->params, true);
        fields_are_sound(m->name, m->result, false);
    }
    assert_int_equal(methods, 25);
    for (const struct api_event *e = api_events; e->name; e++) {
        assert_ptr_equal(api_find_event(e->name, strlen(e->name)), e);
        fields_are_sound(e->name, e->fields, false);
    }
    for (const struct api_error_info *e = api_errors; e->name; e++) {
        assert_ptr_equal(api_error_info(e->code), e);
        assert_int_equal(e->validation, e->code < 20);
        for (const struct api_error_info *f = api_errors; f < e; f++)
            assert_string_not_equal(e->name, f->name);
    }
    for (int code = API_PARSE_ERROR; code <= API_INTERNAL; code++)
        assert_int_equal(api_error_info((enum api_error)code) != NULL,
                code <= API_INVALID_NAME || code >= API_NO_ACCOUNT);
}

/* The types that subscribe and events accept are the types that there are. */
static void event_types_are_the_events(void **state)
{
    const struct api_method *subscribe = api_find_method("subscribe", 9);
    static const char *const none[] = {NULL};
    const char *const *types = none;
    size_t n = 0;
    (void)state;

    for (const struct api_field *f = subscribe->params; f->name; f++) {
        if (strcmp(f->name, "types") == 0)
            types = f->choices;
    }
    for (; types[n]; n++)
        assert_string_equal(types[n], api_events[n].name);
    assert_null(api_events[n].name);
}

static uint32_t count_of(const struct mp_value *map, const char *key)
{
    struct mp_value v;

    assert_true(mp_map_get(map, key, &v));
    return v.count;
}

static void description_is_whole(void **state)
{
    CLEANUP_BUF struct buf b;
    struct mp_value all, methods, send, v;
    struct mp_iter it;
    const char *why;
    size_t len;
    (void)state;

    buf_init(&b, RPC_MAX_MESSAGE);
    api_describe(&b);
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(mp_measure(b.data, b.len, RPC_MAX_MESSAGE, &len, &why), WIRE_OK);
    assert_int_equal(len, b.len);
    mp_view(b.data, b.len, &all);
    assert_int_equal(count_of(&all, "methods"), 25);
    assert_int_equal(count_of(&all, "events"), 9);
    assert_int_equal(count_of(&all, "errors"), 31);
    assert_true(mp_map_get(&all, "version", &v) && mp_str_eq(&v, E2EED_VERSION));
    assert_true(mp_map_get(&all, "limits", &v) && mp_map_get(&v, "payload_bytes", &v));
    assert_int_equal(v.integer, 65536);
    assert_true(mp_map_get(&all, "methods", &methods));
    mp_iter_init(&it, &methods);
    do {
        assert_true(mp_next(&it, NULL, &send));
        assert_true(mp_map_get(&send, "name", &v));
    } while (!mp_str_eq(&v, "send"));
    assert_int_equal(count_of(&send, "params"), 8);
    assert_int_equal(count_of(&send, "result"), 3);
}

static void mentions(const struct buf *b, const char *before, const char *name, const char *after)
{
    char expect[128];

    (void)snprintf(expect, sizeof(expect), "%s%s%s", before, name, after);
    if (!memmem(b->data, b->len, expect, strlen(expect)))
        fail_msg("%s is missing", expect);
}

static void markdown_is_whole(void **state)
{
    CLEANUP_BUF struct buf b;
    (void)state;

    buf_init(&b, 1u << 20);
    api_markdown(&b);
    assert_int_equal(buf_status(&b), 0);
    for (const struct api_method *m = api_methods; m->name; m++)
        mentions(&b, "### `", m->name, "`\n");
    for (const struct api_event *e = api_events; e->name; e++)
        mentions(&b, "### `", e->name, "`\n");
    for (const struct api_error_info *e = api_errors; e->name; e++)
        mentions(&b, "| ", e->name, " | ");
    for (const struct api_limit *l = api_limits; l->name; l++)
        mentions(&b, "| `", l->name, "` | ");
    mentions(&b, "| `qos` | integer 0..2 |", "", "");
    mentions(&b, "| `until` | string: `sent`, `delivered`, `read` |", "", "");
    mentions(&b, "| `to` | string ≤ 64 bytes | required |", "", "");
}

static void each_allocation_may_fail(void **state)
{
    unsigned long k = 1;
    (void)state;

    for (bool fired = true; fired; k++) {
        struct buf b, d;
        int r;

        buf_init(&b, 1u << 20);
        buf_init(&d, 1u << 20);
        failalloc_arm(k);
        api_markdown(&b);
        api_describe(&d);
        fired = failalloc_disarm();
        r = buf_status(&b) ? buf_status(&b) : buf_status(&d);
        assert_int_equal(r, fired ? -ENOMEM : 0);
        buf_done(&b);
        buf_done(&d);
        assert_int_equal(failalloc_live(), 0);
    }
    assert_true(k > 10);
}

static void checking_allocates_nothing(void **state)
{
    static const char params[] = "\x91\x82\xa2to\xa1"
                                 "b\xa4text\xa1x";
    struct mp_value v, map;
    (void)state;

    mp_view(params, sizeof(params) - 1, &v);
    failalloc_arm(1);
    assert_int_equal(api_check_params(api_find_method("send", 4), &v, &map, text), 0);
    assert_false(failalloc_disarm());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(good_params),
            cmocka_unit_test(texts_name_what_is_wrong),
            cmocka_unit_test(shape_of_params),
            cmocka_unit_test(callers_text_is_shown_safely),
            cmocka_unit_test(long_texts_are_cut),
            cmocka_unit_test(sizes_are_exact),
            cmocka_unit_test(ids_are_counted),
            cmocka_unit_test(text_must_be_utf8),
            cmocka_unit_test(finding),
            cmocka_unit_test(tables_are_sound),
            cmocka_unit_test(event_types_are_the_events),
            cmocka_unit_test(description_is_whole),
            cmocka_unit_test(markdown_is_whole),
            cmocka_unit_test(each_allocation_may_fail),
            cmocka_unit_test(checking_allocates_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
