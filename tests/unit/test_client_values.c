#include <errno.h>

#include "api.h"
#include "client_world.h"

/* ---- values and parameters ---- */

static struct e2eectl_params *all_kinds(void)
{
    struct e2eectl_params *p = e2eectl_params_new();
    const char *const list[] = {"a", "b", ""};

    e2eectl_params_string(p, "text", "grün");
    e2eectl_params_string(p, "absent", NULL);
    e2eectl_params_text(p, "zero", "a\0b", 3);
    e2eectl_params_bytes(p, "bytes", "\xff\x00", 2);
    e2eectl_params_int(p, "int", -5);
    e2eectl_params_int(p, "big", INT64_C(1) << 53);
    e2eectl_params_bool(p, "yes", true);
    e2eectl_params_strings(p, "list", list, 3);
    e2eectl_params_json(p, "json", "{\"a\": [1, 2.5, null, {\"base64\": \"/w==\"}]}");
    return p;
}

static void check_scalars(const struct e2eectl_value *v)
{
    size_t n;

    assert_string_equal(e2eectl_get_string(v, "text"), "grün");
    assert_null(e2eectl_value_get(v, "absent"));
    assert_memory_equal(e2eectl_get_bytes(v, "zero", &n), "a\0b", 4);
    assert_int_equal(n, 3);
    assert_memory_equal(e2eectl_get_bytes(v, "bytes", &n), "\xff\x00", 2);
    assert_int_equal(n, 2);
    assert_null(e2eectl_get_string(v, "bytes"));
    assert_int_equal(e2eectl_get_int(v, "int", 0), -5);
    assert_int_equal(e2eectl_get_int(v, "big", 0), INT64_C(1) << 53);
    assert_int_equal(e2eectl_get_int(v, "text", 7), 7);
    assert_true(e2eectl_get_bool(v, "yes", false));
    assert_true(e2eectl_get_bool(v, "int", true));
    assert_null(e2eectl_get_bytes(v, "int", &n));
    assert_int_equal(n, 0);
}

static void check_containers(const struct e2eectl_value *v)
{
    const struct e2eectl_value *list = e2eectl_value_get(v, "list"), *m = e2eectl_value_first(list);
    const struct e2eectl_value *inner =
            e2eectl_value_first(e2eectl_value_get(e2eectl_value_get(v, "json"), "a"));

    assert_int_equal(e2eectl_value_count(list), 3);
    assert_string_equal(e2eectl_value_string(m), "a");
    m = e2eectl_value_next(m);
    assert_string_equal(e2eectl_value_string(m), "b");
    assert_null(e2eectl_value_key(m));
    m = e2eectl_value_next(m);
    assert_string_equal(e2eectl_value_string(m), "");
    assert_null(e2eectl_value_next(m));
    assert_string_equal(e2eectl_value_key(e2eectl_value_first(v)), "text");
    assert_true(e2eectl_value_double(inner, 0) > 0.99);
    inner = e2eectl_value_next(inner);
    assert_true(e2eectl_value_double(inner, 0) > 2.49 && e2eectl_value_double(inner, 0) < 2.51);
    inner = e2eectl_value_next(inner);
    assert_int_equal(e2eectl_value_type(inner), E2EECTL_NULL);
    inner = e2eectl_value_next(inner);
    assert_int_equal(e2eectl_value_type(inner), E2EECTL_BYTES);
}

static void test_values(void **state)
{
    struct e2eectl_params *p = all_kinds();
    struct e2eectl_value *v = NULL;
    char *json = NULL;

    (void)state;
    start(script_answer, NULL);
    assert_int_equal(e2eectl_params_status(p), 0);
    assert_int_equal(e2eectl_call(w.h, "echo", p, LONG_MS, &v), 0);
    assert_int_equal(e2eectl_value_type(v), E2EECTL_MAP);
    assert_int_equal(e2eectl_value_count(v), 8);
    check_scalars(v);
    check_containers(v);
    assert_int_equal(e2eectl_value_json(e2eectl_value_get(v, "list"), &json), 0);
    assert_non_null(strstr(json, "\"a\""));
    assert_null(strchr(json, '\n'));
    free(json);
    assert_int_equal(e2eectl_value_json(NULL, &json), -EINVAL);
    e2eectl_value_free(v);
    /* A set serves again, and the value outlives the handle. */
    assert_int_equal(e2eectl_call(w.h, "echo", p, LONG_MS, &v), 0);
    e2eectl_params_free(p);
    e2eectl_close(w.h);
    w.h = NULL;
    check_scalars(v);
    e2eectl_value_free(v);
}

static void test_no_value(void **state)
{
    size_t n = 9;

    (void)state;
    assert_int_equal(e2eectl_value_type(NULL), E2EECTL_NULL);
    assert_null(e2eectl_value_get(NULL, "a"));
    assert_null(e2eectl_value_first(NULL));
    assert_null(e2eectl_value_next(NULL));
    assert_null(e2eectl_value_key(NULL));
    assert_null(e2eectl_get_string(NULL, NULL));
    assert_null(e2eectl_value_bytes(NULL, &n));
    assert_int_equal(n, 0);
    assert_int_equal(e2eectl_value_int(NULL, 3), 3);
    e2eectl_value_free(NULL);
    e2eectl_params_free(NULL);
    assert_int_equal(e2eectl_params_status(NULL), 0);
}

static void refuse(struct e2eectl_params *p, int expected)
{
    assert_int_equal(e2eectl_params_status(p), expected);
    assert_int_equal(e2eectl_call(w.h, "echo", p, LONG_MS, NULL), expected);
    e2eectl_params_string(p, "after", "the error stays");
    assert_int_equal(e2eectl_params_status(p), expected);
    e2eectl_params_free(p);
}

static void test_bad_params(void **state)
{
    struct e2eectl_params *p = e2eectl_params_new();
    char *big = calloc(1, E2EECTL_MAX_MESSAGE + 1);

    (void)state;
    start(script_answer, NULL);
    e2eectl_params_string(p, "a", "\xff");
    refuse(p, -EILSEQ);
    p = e2eectl_params_new();
    e2eectl_params_int(p, "a", (INT64_C(1) << 53) + 1);
    refuse(p, -ERANGE);
    p = e2eectl_params_new();
    e2eectl_params_int(p, "a", 1);
    e2eectl_params_bool(p, "a", true);
    refuse(p, -EEXIST);
    p = e2eectl_params_new();
    e2eectl_params_json(p, "a", "{]");
    refuse(p, -EINVAL);
    p = e2eectl_params_new();
    e2eectl_params_string(p, NULL, "x");
    refuse(p, -EINVAL);
    p = e2eectl_params_new();
    e2eectl_params_bytes(p, "a", big, E2EECTL_MAX_MESSAGE + 1);
    refuse(p, -EMSGSIZE);
    p = e2eectl_params_new();
    for (int i = 0; i < 257; i++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "k%d", i);
        e2eectl_params_int(p, key, i);
    }
    refuse(p, -EMSGSIZE);
    free(big);
    assert_int_equal(call("fine"), 0);
}

/* What the daemon would take for a broken stream must not leave the library. */
static void test_request_too_deep(void **state)
{
    struct e2eectl_params *p = e2eectl_params_new();

    (void)state;
    start(script_answer, NULL);
    e2eectl_params_json(p, "a", "[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]");
    if (e2eectl_params_status(p) == 0)
        assert_error(e2eectl_call(w.h, "echo", p, LONG_MS, NULL), -EINVAL, "EINVAL");
    e2eectl_params_free(p);
    assert_error(e2eectl_call(w.h, "", NULL, LONG_MS, NULL), -EINVAL, "EINVAL");
    assert_error(e2eectl_call(w.h, NULL, NULL, LONG_MS, NULL), -EINVAL, "EINVAL");
    assert_int_equal(call("0123456789012345678901234567890123456789012345678901234567890123456789"), -EINVAL);
    assert_int_equal(call("fine"), 0);
}

static void test_json(void **state)
{
    char *json = NULL;

    (void)state;
    start(script_answer, NULL);
    assert_int_equal(e2eectl_call_json(w.h, "echo", "{\"a\": {\"base64\": \"AQI=\"}, \"b\": \"\\u001b\"}",
                             LONG_MS, &json),
            0);
    assert_non_null(strstr(json, "\"base64\""));
    assert_null(strchr(json, 0x1b));
    free(json);
    assert_int_equal(e2eectl_call_json(w.h, "echo", NULL, LONG_MS, &json), 0);
    assert_string_equal(json, "{}");
    free(json);
    assert_error(e2eectl_call_json(w.h, "echo", "{\"a\"", LONG_MS, &json), -EINVAL, "EINVAL");
    assert_error(e2eectl_call_json(w.h, "echo", "[1]", LONG_MS, &json), -EINVAL, "EINVAL");
    assert_non_null(strstr(e2eectl_last_error(w.h)->message, "array"));
    assert_error(e2eectl_call_json(w.h, "echo", "{\"a\": 1, \"a\": 2}", LONG_MS, &json), -EINVAL, "EINVAL");
    assert_int_equal(call("fine"), 0);
}

/* ---- errors of the daemon ---- */

static void script_errors(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;

    (void)ctx;
    while (fake_next(p, &m)) {
        static const char *const json[] = {
                ("{\"code\": 31, \"name\": \"QUEUE_FULL\", \"message\": \"full\", "
                 "\"retry_after_ms\": 1500, \"data\": {\"n\": 4}}"),
                "[0, \"UNKNOWN_USER: no bob\"]",
                "\"KEY_CHANGED: of bob\"",
                "{\"code\": 9999, \"name\": \"LATER_ERROR\", \"message\": \"of a newer daemon\"}",
                "[]",
                "17",
        };
        CLEANUP_BUF struct buf b;
        const char *why;

        buf_init(&b, 1000);
        if (mp_from_json(&b, json[(p->requests - 1) % 6], strlen(json[(p->requests - 1) % 6]), &why) == 0)
            (void)fake_reply_error(p, m.msgid, &b);
    }
}

static void test_errors(void **state)
{
    (void)state;
    start(script_errors, NULL);
    assert_error(call("a"), E2EECTL_ERR_QUEUE_FULL, "QUEUE_FULL");
    assert_string_equal(e2eectl_last_error(w.h)->message, "full");
    assert_int_equal(e2eectl_last_error(w.h)->retry_after_ms, 1500);
    assert_int_equal(e2eectl_get_int(e2eectl_last_error(w.h)->data, "n", 0), 4);
    assert_error(call("a"), E2EECTL_ERR_UNKNOWN_USER, "UNKNOWN_USER");
    assert_string_equal(e2eectl_last_error(w.h)->message, "no bob");
    assert_null(e2eectl_last_error(w.h)->data);
    assert_error(call("a"), E2EECTL_ERR_KEY_CHANGED, "KEY_CHANGED");
    assert_error(call("a"), 9999, "LATER_ERROR");
    assert_error(call("a"), E2EECTL_ERR_INTERNAL, "INTERNAL");
    assert_error(call("a"), E2EECTL_ERR_INTERNAL, "INTERNAL");
}

static void test_error_names(void **state)
{
    size_t n;
    char *header = (char *)scratch_read(E2EECTL_HEADER, &n), line[128];

    (void)state;
    for (const struct api_error_info *info = api_errors; info->name; info++) {
        assert_string_equal(e2eectl_error_name((int)info->code), info->name);
        assert_string_equal(e2eectl_error_text((int)info->code), info->text);
        (void)snprintf(line, sizeof(line), "E2EECTL_ERR_%s = %d", info->name, (int)info->code);
        if (!strstr(header, line))
            fail_msg("e2eectl.h lacks %s", line);
    }
    free(header);
    assert_string_equal(e2eectl_error_name(0), "");
    assert_string_equal(e2eectl_error_name(-ETIMEDOUT), "ETIMEDOUT");
    assert_true(strlen(e2eectl_error_text(-ENOENT)) > 0);
    assert_true(strlen(e2eectl_error_text(12345)) > 0);
}

/* ---- typed functions ---- */

struct later_options {
    struct e2eectl_send_options now;
    uint64_t later;
};

static void test_send_arguments(void **state)
{
    struct later_options later = {.now = {.size = sizeof(later), .to = "bob", .text = "x"}};
    struct e2eectl_send_options o = {.size = sizeof(o)};
    char id[E2EECTL_ID_SIZE] = "untouched";

    (void)state;
    start(script_answer, NULL);
    assert_error(e2eectl_send(w.h, &o, id, NULL), -EINVAL, "EINVAL");
    o.to = "bob";
    assert_error(e2eectl_send(w.h, &o, id, NULL), -EINVAL, "EINVAL");
    o.text = "a";
    o.bytes = "b";
    assert_error(e2eectl_send(w.h, &o, id, NULL), -EINVAL, "EINVAL");
    o.bytes = NULL;
    o.qos = (enum e2eectl_qos)9;
    assert_error(e2eectl_send(w.h, &o, id, NULL), -EINVAL, "EINVAL");
    o.qos = E2EECTL_QOS_DEFAULT;
    o.text = "\xff";
    assert_error(e2eectl_send(w.h, &o, id, NULL), -EILSEQ, "EILSEQ");
    o.size = 0;
    assert_error(e2eectl_send(w.h, &o, id, NULL), -EINVAL, "EINVAL");
    later.later = 1;
    assert_error(e2eectl_send(w.h, &later.now, id, NULL), -E2BIG, "E2BIG");
    later.later = 0;
    /* This daemon's answers have no id. */
    assert_error(e2eectl_send(w.h, &later.now, id, NULL), -EBADMSG, "EBADMSG");
    assert_string_equal(id, "untouched");
    assert_int_equal(call("a"), 0);
}

/* Answers a call with what it was: {"id": METHOD, "seq": 7, "params": …}. */
static void script_mirror(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;

    (void)ctx;
    while (fake_next(p, &m)) {
        CLEANUP_BUF struct buf b;
        struct mp_map map;

        buf_init(&b, RPC_MAX_MESSAGE);
        mp_map_begin(&map, &b);
        mp_put_strn(mp_key(&map, "id"), m.method.bytes, m.method.count);
        mp_put_int(mp_key(&map, "seq"), 7);
        mp_put_raw(mp_key(&map, "params"), m.params.raw, m.params.raw_len);
        mp_map_end(&map);
        (void)fake_reply_value(p, m.msgid, &b);
    }
}

static void expect(struct e2eectl_value *v, const char *method, const char *params)
{
    char *json = NULL, *p, *q;

    assert_string_equal(e2eectl_get_string(v, "id"), method);
    assert_int_equal(e2eectl_value_json(e2eectl_value_first(e2eectl_value_get(v, "params")), &json), 0);
    for (p = q = json; *p; p++)
        if (*p != ' ')
            *q++ = *p;
    *q = '\0';
    assert_string_equal(json, params);
    free(json);
    e2eectl_value_free(v);
}

static void test_typed(void **state)
{
    struct e2eectl_send_options o = {.size = sizeof(o),
            .to = "bob",
            .bytes = "\x01",
            .bytes_len = 1,
            .qos = E2EECTL_QOS_NOT_STORED,
            .id = "k",
            .ttl_ms = 5,
            .not_before_ms = 6,
            .require_verified = true};
    char id[E2EECTL_ID_SIZE];
    uint64_t seq = 0;
    struct e2eectl_value *v;

    (void)state;
    start(script_mirror, NULL);
    assert_int_equal(e2eectl_status(w.h, &v), 0);
    expect(v, "status", "{}");
    assert_int_equal(e2eectl_create_account(w.h, "al", "ws://x/", NULL, &v), 0);
    expect(v, "account.create", "{\"user\":\"al\",\"relay\":\"ws://x/\",\"timeout_ms\":30000}");
    assert_int_equal(e2eectl_send(w.h, &o, id, &seq), 0);
    assert_string_equal(id, "send");
    assert_int_equal(seq, 7);
    assert_int_equal(e2eectl_wait(w.h, "k", "read", 70, &v), 0);
    expect(v, "wait", "{\"id\":\"k\",\"until\":\"read\",\"timeout_ms\":70}");
    assert_int_equal(e2eectl_contact_add(w.h, "bob", "u", &v), 0);
    expect(v, "contact.add", "{\"user\":\"bob\",\"uid\":\"u\"}");
    assert_int_equal(e2eectl_contact_show(w.h, "bob", &v), 0);
    expect(v, "contact.show", "{\"user\":\"bob\"}");
    assert_int_equal(e2eectl_contact_list(w.h, &v), 0);
    expect(v, "contact.list", "{}");
    assert_int_equal(e2eectl_users(w.h, "a", 9, &v), 0);
    expect(v, "users", "{\"after\":\"a\",\"limit\":9}");
    assert_int_equal(e2eectl_read(w.h, "bob", (const char *const[]){"x"}, 1), 0);
    assert_int_equal(e2eectl_contact_verify(w.h, "bob", "123"), 0);
    assert_int_equal(e2eectl_contact_trust(w.h, "bob", NULL, "hold"), 0);
    assert_int_equal(e2eectl_contact_block(w.h, "bob", true), 0);
    assert_int_equal(e2eectl_contact_remove(w.h, "bob"), 0);
}

/* Every parameter that the typed functions use is one of the API's. */
static void has_params(const char *method, const char *const *names)
{
    const struct api_method *m = api_find_method(method, strlen(method));

    if (!m)
        fail_msg("the API has no method %s", method);
    for (; *names; names++) {
        const struct api_field *f = m->params;

        while (f->name && strcmp(f->name, *names) != 0)
            f++;
        if (!f->name)
            fail_msg("%s has no parameter %s", method, *names);
    }
}

static void test_typed_match_api(void **state)
{
    (void)state;
#define HAS(method, ...) has_params(method, (const char *const[]){__VA_ARGS__, NULL})
    HAS("hello", "errors");
    HAS("account.create", "user", "relay", "token");
    HAS("send", "to", "text", "bytes", "id", "qos", "ttl_ms", "not_before", "require_verified");
    HAS("wait", "id", "until", "timeout_ms");
    HAS("read", "from", "ids");
    HAS("subscribe", "consumer", "after", "types");
    HAS("ack", "consumer", "seq");
    HAS("contact.show", "user");
    HAS("contact.add", "user", "uid");
    HAS("contact.verify", "user", "number");
    HAS("contact.trust", "user", "uid", "policy");
    HAS("contact.block", "user", "blocked");
    HAS("contact.remove", "user");
    HAS("users", "after", "limit");
    HAS("raw.write", "text");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(test_values),
            TEST(test_no_value),
            TEST(test_bad_params),
            TEST(test_request_too_deep),
            TEST(test_json),
            TEST(test_errors),
            TEST(test_error_names),
            TEST(test_send_arguments),
            TEST(test_typed),
            TEST(test_typed_match_api),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
