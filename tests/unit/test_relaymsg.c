#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "relay.h"

#define SPAN(s) ((struct span){(const uint8_t *)(s), sizeof(s) - 1})

static struct buf b;
static struct cursor c;

static int setup(void **state)
{
    (void)state;
    buf_init(&b, RELAY_MAX_MESSAGE);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_done(&b);
    return 0;
}

/* Expects the head in b and leaves c at the fields. */
static void open_message(uint8_t type, uint32_t ref)
{
    uint32_t got_ref;
    uint8_t got_type;

    assert_int_equal(buf_status(&b), 0);
    cursor_init(&c, b.data, b.len);
    assert_int_equal(relay_read_head(&c, &got_type, &got_ref), WIRE_OK);
    assert_int_equal(got_type, type);
    assert_int_equal(got_ref, ref);
}

static void span_equal(struct span s, const char *expect)
{
    assert_int_equal(s.n, strlen(expect));
    assert_memory_equal(s.p, expect, s.n);
}

/* Cut short by any number of bytes or with one too many, `get` must refuse and leave its output alone. */
#define EXPECT_EXACT(kind, get)                                                                              \
    do {                                                                                                     \
        static struct kind out, before;                                                                      \
        memset(&out, 0x3c, sizeof(out));                                                                     \
        memset(&before, 0x3c, sizeof(before));                                                               \
        buf_u8(&b, 0);                                                                                       \
        for (size_t n = 5; n <= b.len; n++) {                                                                \
            if (n == b.len - 1)                                                                              \
                continue;                                                                                    \
            cursor_init(&c, b.data + 5, n - 5);                                                              \
            assert_int_equal(get(&c, &out), WIRE_MALFORMED);                                                 \
            assert_memory_equal(&out, &before, sizeof(out));                                                 \
        }                                                                                                    \
        buf_truncate(&b, b.len - 1);                                                                         \
    } while (0)

/* Byte `at` of the message set to v makes it malformed; set back, it is right again. */
#define EXPECT_BAD_BYTE(kind, get, at, v)                                                                    \
    do {                                                                                                     \
        static struct kind bad;                                                                              \
        uint8_t was = b.data[at];                                                                            \
        b.data[at] = (v);                                                                                    \
        cursor_init(&c, b.data + 5, b.len - 5);                                                              \
        assert_int_equal(get(&c, &bad), WIRE_MALFORMED);                                                     \
        b.data[at] = was;                                                                                    \
        cursor_init(&c, b.data + 5, b.len - 5);                                                              \
        assert_int_equal(get(&c, &bad), WIRE_OK);                                                            \
    } while (0)

static void head(void **state)
{
    static uint8_t big[RELAY_MAX_MESSAGE + 1];
    uint32_t ref = 5;
    uint8_t type = 6;
    (void)state;

    relay_put_empty(&b, RELAY_OK, 0x01020304);
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.data, "\x04\x04\x03\x02\x01", 5);
    open_message(RELAY_OK, 0x01020304);
    assert_int_equal(cursor_end(&c), WIRE_OK);
    for (size_t n = 0; n < 5; n++) {
        cursor_init(&c, b.data, n);
        assert_int_equal(relay_read_head(&c, &type, &ref), WIRE_MALFORMED);
    }
    cursor_init(&c, big, sizeof(big));
    assert_int_equal(relay_read_head(&c, &type, &ref), WIRE_MALFORMED);
    assert_int_equal(type, 6);
    cursor_init(&c, big, sizeof(big) - 1);
    assert_int_equal(relay_read_head(&c, &type, &ref), WIRE_OK);
}

static void challenge(void **state)
{
    struct relay_challenge m = {.version = 1,
            .time_ms = 0x0102030405060708,
            .max_message = 131072,
            .max_body = 98304,
            .window = 1024,
            .registration = REGISTRATION_TOKEN};
    struct relay_challenge got;
    (void)state;

    memset(m.nonce, 0xaa, sizeof(m.nonce));
    memset(m.store_id, 0xbb, sizeof(m.store_id));
    relay_put_challenge(&b, &m);
    assert_int_equal(b.len, 5 + 2 + 32 + 8 + 16 + 12 + 1);
    assert_memory_equal(b.data, "\x01\0\0\0\0\x01\0\xaa", 8);
    assert_memory_equal(b.data + 39, "\x08\x07\x06\x05\x04\x03\x02\x01\xbb", 9);
    assert_memory_equal(b.data + 63, "\0\0\x02\0\0\x80\x01\0\0\x04\0\0\x01", 13);
    open_message(RELAY_CHALLENGE, 0);
    assert_int_equal(relay_get_challenge(&c, &got), WIRE_OK);
    assert_memory_equal(got.nonce, m.nonce, 32);
    assert_memory_equal(got.store_id, m.store_id, 16);
    assert_true(got.time_ms == m.time_ms && got.version == 1);
    assert_true(got.max_message == 131072 && got.max_body == 98304 && got.window == 1024);
    assert_int_equal(got.registration, REGISTRATION_TOKEN);
    EXPECT_EXACT(relay_challenge, relay_get_challenge);
    EXPECT_BAD_BYTE(relay_challenge, relay_get_challenge, 75, 3);
}

static void welcome_and_prekeys_left(void **state)
{
    struct relay_welcome m = {.time_ms = 1,
                                 .one_time_left = 2,
                                 .signed_prekey_id = 3,
                                 .list_n = 4,
                                 .waiting = 5},
                         got;
    struct relay_prekeys p = {.one_time_left = 6, .signed_prekey_id = 7}, got_p;
    (void)state;

    relay_put_welcome(&b, 9, &m);
    assert_memory_equal(
            b.data, "\x02\x09\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\0\0\0\0\x05\0\0\0", 33);
    open_message(RELAY_WELCOME, 9);
    assert_int_equal(relay_get_welcome(&c, &got), WIRE_OK);
    assert_true(got.time_ms == 1 && got.one_time_left == 2 && got.signed_prekey_id == 3);
    assert_true(got.list_n == 4 && got.waiting == 5);
    EXPECT_EXACT(relay_welcome, relay_get_welcome);
    buf_reset(&b);
    relay_put_prekeys_left(&b, 9, &p);
    assert_memory_equal(b.data, "\x0c\x09\0\0\0\x06\0\0\0\x07\0\0\0", 13);
    open_message(RELAY_PREKEYS, 9);
    assert_int_equal(relay_get_prekeys_left(&c, &got_p), WIRE_OK);
    assert_true(got_p.one_time_left == 6 && got_p.signed_prekey_id == 7);
    EXPECT_EXACT(relay_prekeys, relay_get_prekeys_left);
}

static void error(void **state)
{
    struct relay_error_msg got;
    char text[RELAY_MAX_ERROR_TEXT + 2];
    (void)state;

    relay_put_error(&b, 1, RELAY_ERR_RATE_LIMITED, 1500, "slow");
    assert_memory_equal(b.data, "\x03\x01\0\0\0\x05\0\xdc\x05\0\0\x04\0\0\0slow", 19);
    open_message(RELAY_ERROR, 1);
    assert_int_equal(relay_get_error(&c, &got), WIRE_OK);
    assert_true(got.code == RELAY_ERR_RATE_LIMITED && got.retry_after_ms == 1500);
    span_equal(got.text, "slow");
    EXPECT_EXACT(relay_error_msg, relay_get_error);
    memset(text, 'e', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    buf_reset(&b);
    relay_put_error(&b, 1, 1, 0, text);
    open_message(RELAY_ERROR, 1);
    assert_int_equal(relay_get_error(&c, &got), WIRE_OK);
    assert_int_equal(got.text.n, RELAY_MAX_ERROR_TEXT);
    buf_u8(&b, 'e');
    buf_patch_u32(&b, 11, RELAY_MAX_ERROR_TEXT + 1);
    open_message(RELAY_ERROR, 1);
    assert_int_equal(relay_get_error(&c, &got), WIRE_MALFORMED);
}

static void account(void **state)
{
    static struct relay_account m, got;
    (void)state;

    relay_put_account(&b, 2, &m);
    assert_memory_equal(b.data, "\x07\x02\0\0\0\0", 6);
    assert_int_equal(b.len, 6);
    open_message(RELAY_ACCOUNT, 2);
    assert_int_equal(relay_get_account(&c, &got), WIRE_OK);
    assert_false(got.found);
    buf_reset(&b);
    m = (struct relay_account){
            .found = true, .name = SPAN("bob"), .entries = 2, .entry = {SPAN("one"), SPAN("entry")}};
    memset(m.uid, 0x77, UID_LEN);
    relay_put_account(&b, 2, &m);
    assert_memory_equal(b.data + 5, "\x01\x03\0\0\0bob\x77", 9);
    assert_memory_equal(b.data + 45, "\x02\0\x03\0\0\0one\x05\0\0\0entry", 18);
    open_message(RELAY_ACCOUNT, 2);
    assert_int_equal(relay_get_account(&c, &got), WIRE_OK);
    assert_true(got.found && got.entries == 2);
    span_equal(got.name, "bob");
    span_equal(got.entry[1], "entry");
    assert_memory_equal(got.uid, m.uid, UID_LEN);
    EXPECT_EXACT(relay_account, relay_get_account);
    EXPECT_BAD_BYTE(relay_account, relay_get_account, 5, 2);
    EXPECT_BAD_BYTE(relay_account, relay_get_account, 10, 'B');
    EXPECT_BAD_BYTE(relay_account, relay_get_account, 45, 0);
    EXPECT_BAD_BYTE(relay_account, relay_get_account, 45, RELAY_MAX_ENTRIES + 1);
}

static void account_is_bounded(void **state)
{
    static struct relay_account m, got;
    static uint8_t entry[RELAY_MAX_ENTRY + 1];
    (void)state;

    m = (struct relay_account){.found = true, .name = SPAN("bob"), .entries = RELAY_MAX_ENTRIES};
    for (size_t i = 0; i < RELAY_MAX_ENTRIES; i++)
        m.entry[i] = (struct span){entry, RELAY_MAX_ENTRY};
    relay_put_account(&b, 2, &m);
    open_message(RELAY_ACCOUNT, 2);
    assert_int_equal(relay_get_account(&c, &got), WIRE_OK);
    assert_int_equal(got.entry[RELAY_MAX_ENTRIES - 1].n, RELAY_MAX_ENTRY);
    buf_reset(&b);
    m.entries = 1;
    m.entry[0].n = RELAY_MAX_ENTRY + 1;
    relay_put_account(&b, 2, &m);
    open_message(RELAY_ACCOUNT, 2);
    assert_int_equal(relay_get_account(&c, &got), WIRE_MALFORMED);
    buf_reset(&b);
    m.entries = RELAY_MAX_ENTRIES + 1;
    relay_put_account(&b, 2, &m);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    /* One entry too many, and all of them there. */
    buf_reset(&b);
    buf_u8(&b, 1);
    buf_lp(&b, "bob", 3);
    buf_zero(&b, UID_LEN);
    buf_u16(&b, RELAY_MAX_ENTRIES + 1);
    buf_zero(&b, 4 * (RELAY_MAX_ENTRIES + 1));
    cursor_init(&c, b.data, b.len);
    assert_int_equal(relay_get_account(&c, &got), WIRE_MALFORMED);
}

static void bundle(void **state)
{
    struct relay_bundle m = {.found = true, .signed_prekey = SPAN("spk"), .one_time = SPAN("")}, got;
    static uint8_t prekey[RELAY_MAX_PREKEY + 1];
    (void)state;

    relay_put_bundle(&b, 2, &m);
    assert_memory_equal(b.data, "\x08\x02\0\0\0\x01\x03\0\0\0spk\0\0\0\0", 17);
    open_message(RELAY_BUNDLE, 2);
    assert_int_equal(relay_get_bundle(&c, &got), WIRE_OK);
    span_equal(got.signed_prekey, "spk");
    assert_int_equal(got.one_time.n, 0);
    EXPECT_EXACT(relay_bundle, relay_get_bundle);
    EXPECT_BAD_BYTE(relay_bundle, relay_get_bundle, 5, 2);
    buf_reset(&b);
    relay_put_bundle(&b, 2, &(struct relay_bundle){0});
    assert_int_equal(b.len, 6);
    for (size_t n = RELAY_MAX_PREKEY; n <= RELAY_MAX_PREKEY + 1; n++) {
        buf_reset(&b);
        m.one_time = (struct span){prekey, n};
        relay_put_bundle(&b, 2, &m);
        open_message(RELAY_BUNDLE, 2);
        assert_int_equal(relay_get_bundle(&c, &got), n > RELAY_MAX_PREKEY ? WIRE_MALFORMED : WIRE_OK);
    }
}

static struct relay_auth sample_auth(void)
{
    struct relay_auth m = {
            .time_ms = 0x1122, .host = SPAN("relay.example:443"), .binding = BINDING_TLS_EXPORTER};

    memset(m.who.uid, 1, UID_LEN);
    m.who.device = 2;
    memset(m.rak, 3, sizeof(m.rak));
    memset(m.nonce, 4, sizeof(m.nonce));
    memset(m.signature, 5, sizeof(m.signature));
    return m;
}

static void auth(void **state)
{
    struct relay_auth m = sample_auth(), got;
    (void)state;

    relay_put_auth(&b, 3, &m);
    assert_int_equal(b.len, 5 + 36 + 32 + 32 + 8 + 4 + 17 + 1 + 64);
    assert_memory_equal(b.data + 36, "\x01\x02\0\0\0\x03", 6);
    assert_memory_equal(b.data + 104, "\x04\x22\x11\0\0\0\0\0\0\x11\0\0\0relay.example:443\x01\x05", 32);
    open_message(RELAY_AUTH, 3);
    assert_int_equal(relay_get_auth(&c, &got), WIRE_OK);
    assert_memory_equal(got.who.uid, m.who.uid, UID_LEN);
    assert_int_equal(got.who.device, 2);
    assert_memory_equal(got.rak, m.rak, 32);
    assert_memory_equal(got.nonce, m.nonce, 32);
    assert_memory_equal(got.signature, m.signature, 64);
    assert_true(got.time_ms == 0x1122 && got.binding == 1);
    span_equal(got.host, "relay.example:443");
    EXPECT_EXACT(relay_auth, relay_get_auth);
    EXPECT_BAD_BYTE(relay_auth, relay_get_auth, 37, 0);
    EXPECT_BAD_BYTE(relay_auth, relay_get_auth, 134, 2);
}

/* The bytes of section 8, put together by hand. */
static void what_is_signed(void **state)
{
    struct relay_auth m = sample_auth();
    uint8_t nonce[RELAY_NONCE_LEN], exporter[EXPORTER_LEN], expect[256], *p;
    (void)state;

    memset(nonce, 6, sizeof(nonce));
    memset(exporter, 7, sizeof(exporter));
    p = expect;
#define ADD(s) (memcpy(p, s, sizeof(s) - 1), p += sizeof(s) - 1)
#define ADD_RUN(v, n) (memset(p, v, n), p += (n))
    ADD("e2eed/1 relay auth\0\x11\0\0\0relay.example:443\x01\x20\0\0\0");
    ADD_RUN(7, 32);
    ADD_RUN(6, 32);
    ADD_RUN(4, 32);
    ADD_RUN(1, 32);
    ADD("\x02\0\0\0\x22\x11\0\0\0\0\0\0");
    relay_auth_signed(&b, &m, nonce, exporter);
    assert_int_equal(b.len, p - expect);
    assert_memory_equal(b.data, expect, b.len);
    buf_reset(&b);
    m.binding = BINDING_NONE;
    relay_auth_signed(&b, &m, nonce, NULL);
    p = expect;
    ADD("e2eed/1 relay auth\0\x11\0\0\0relay.example:443\0\0\0\0\0\x06");
    assert_memory_equal(b.data, expect, (size_t)(p - expect));
    assert_int_equal(b.len, 19 + 4 + 17 + 1 + 4 + 32 + 32 + 36 + 8);
    buf_reset(&b);
    p = expect;
    ADD("e2eed/1 relay delete\0");
    ADD_RUN(6, 32);
    ADD_RUN(1, 32);
    ADD("\x09\0\0\0\0\0\0\0");
    relay_delete_signed(&b, nonce, m.who.uid, 9);
    assert_int_equal(b.len, p - expect);
    assert_memory_equal(b.data, expect, b.len);
}

static void registration(void **state)
{
    struct relay_register m = {.name = SPAN("bob"), .token = SPAN(""), .entry = SPAN("entry")}, got;
    static uint8_t token[RELAY_MAX_TOKEN + 1];
    (void)state;

    relay_put_register(&b, 4, &m);
    assert_memory_equal(b.data, "\x42\x04\0\0\0\x03\0\0\0bob\0\0\0\0\x05\0\0\0entry", 25);
    open_message(RELAY_REGISTER, 4);
    assert_int_equal(relay_get_register(&c, &got), WIRE_OK);
    span_equal(got.name, "bob");
    assert_int_equal(got.token.n, 0);
    span_equal(got.entry, "entry");
    EXPECT_EXACT(relay_register, relay_get_register);
    EXPECT_BAD_BYTE(relay_register, relay_get_register, 9, '-');
    for (size_t n = RELAY_MAX_TOKEN; n <= RELAY_MAX_TOKEN + 1; n++) {
        buf_reset(&b);
        m.token = (struct span){token, n};
        relay_put_register(&b, 4, &m);
        open_message(RELAY_REGISTER, 4);
        assert_int_equal(relay_get_register(&c, &got), n > RELAY_MAX_TOKEN ? WIRE_MALFORMED : WIRE_OK);
    }
}

static void put_prekeys(void **state)
{
    static struct relay_put_prekeys m, got;
    static uint8_t prekey[RELAY_MAX_PREKEY];
    (void)state;

    m = (struct relay_put_prekeys){.replace = true, .count = 2, .one_time = {SPAN("a"), SPAN("bc")}};
    relay_put_prekeys(&b, 5, &m);
    assert_memory_equal(b.data, "\x43\x05\0\0\0\0\0\0\0\x01\x02\0\x01\0\0\0a\x02\0\0\0bc", 23);
    open_message(RELAY_PUT_PREKEYS, 5);
    assert_int_equal(relay_get_prekeys(&c, &got), WIRE_OK);
    assert_true(got.replace && got.count == 2 && got.signed_prekey.n == 0);
    span_equal(got.one_time[1], "bc");
    EXPECT_EXACT(relay_put_prekeys, relay_get_prekeys);
    EXPECT_BAD_BYTE(relay_put_prekeys, relay_get_prekeys, 9, 2);
    EXPECT_BAD_BYTE(relay_put_prekeys, relay_get_prekeys, 10, RELAY_MAX_PREKEYS + 1);
    buf_reset(&b);
    m.count = RELAY_MAX_PREKEYS;
    for (size_t i = 0; i < RELAY_MAX_PREKEYS; i++)
        m.one_time[i] = (struct span){prekey, sizeof(prekey)};
    relay_put_prekeys(&b, 5, &m);
    open_message(RELAY_PUT_PREKEYS, 5);
    assert_int_equal(relay_get_prekeys(&c, &got), WIRE_OK);
    assert_int_equal(got.one_time[RELAY_MAX_PREKEYS - 1].n, RELAY_MAX_PREKEY);
    buf_reset(&b);
    m.count = RELAY_MAX_PREKEYS + 1;
    relay_put_prekeys(&b, 5, &m);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    buf_reset(&b);
    buf_zero(&b, 4 + 1);
    buf_u16(&b, RELAY_MAX_PREKEYS + 1);
    buf_zero(&b, 4 * (RELAY_MAX_PREKEYS + 1));
    cursor_init(&c, b.data, b.len);
    assert_int_equal(relay_get_prekeys(&c, &got), WIRE_MALFORMED);
}

static void lookup(void **state)
{
    struct relay_lookup m = {.by = LOOKUP_BY_NAME, .key = SPAN("bob")}, got;
    static uint8_t uid[UID_LEN + 1];
    (void)state;

    relay_put_lookup(&b, 6, &m);
    assert_memory_equal(b.data, "\x44\x06\0\0\0\x01\x03\0\0\0bob", 13);
    open_message(RELAY_LOOKUP, 6);
    assert_int_equal(relay_get_lookup(&c, &got), WIRE_OK);
    span_equal(got.key, "bob");
    EXPECT_EXACT(relay_lookup, relay_get_lookup);
    EXPECT_BAD_BYTE(relay_lookup, relay_get_lookup, 5, 0);
    EXPECT_BAD_BYTE(relay_lookup, relay_get_lookup, 5, 2);
    EXPECT_BAD_BYTE(relay_lookup, relay_get_lookup, 10, ' ');
    for (size_t n = UID_LEN - 1; n <= UID_LEN + 1; n++) {
        buf_reset(&b);
        m = (struct relay_lookup){.by = LOOKUP_BY_UID, .key = {uid, n}};
        relay_put_lookup(&b, 6, &m);
        open_message(RELAY_LOOKUP, 6);
        assert_int_equal(relay_get_lookup(&c, &got), n == UID_LEN ? WIRE_OK : WIRE_MALFORMED);
    }
}

static void claim_list_users_unregister(void **state)
{
    struct address who = {.device = 7}, got_who;
    struct relay_list_users l = {.after = SPAN("al"), .limit = 500}, got_l;
    struct relay_unregister u = {.time_ms = 8}, got_u;
    (void)state;

    relay_put_claim(&b, 1, &who);
    assert_int_equal(b.len, 41);
    assert_int_equal(b.data[37], 7);
    open_message(RELAY_CLAIM, 1);
    assert_int_equal(relay_get_claim(&c, &got_who), WIRE_OK);
    assert_int_equal(got_who.device, 7);
    EXPECT_EXACT(address, relay_get_claim);
    EXPECT_BAD_BYTE(address, relay_get_claim, 37, 0);
    buf_reset(&b);
    relay_put_list_users(&b, 1, &l);
    assert_memory_equal(b.data, "\x49\x01\0\0\0\x02\0\0\0al\xf4\x01", 13);
    open_message(RELAY_LIST_USERS, 1);
    assert_int_equal(relay_get_list_users(&c, &got_l), WIRE_OK);
    span_equal(got_l.after, "al");
    assert_int_equal(got_l.limit, 500);
    EXPECT_EXACT(relay_list_users, relay_get_list_users);
    EXPECT_BAD_BYTE(relay_list_users, relay_get_list_users, 11, 0xf5);
    EXPECT_BAD_BYTE(relay_list_users, relay_get_list_users, 9, '.');
    buf_reset(&b);
    l = (struct relay_list_users){.limit = 0};
    relay_put_list_users(&b, 1, &l);
    open_message(RELAY_LIST_USERS, 1);
    assert_int_equal(relay_get_list_users(&c, &got_l), WIRE_MALFORMED);
    buf_reset(&b);
    relay_put_unregister(&b, 1, &u);
    assert_int_equal(b.len, 5 + 8 + 64);
    open_message(RELAY_UNREGISTER, 1);
    assert_int_equal(relay_get_unregister(&c, &got_u), WIRE_OK);
    assert_true(got_u.time_ms == 8);
    EXPECT_EXACT(relay_unregister, relay_get_unregister);
}

static void submit_batch(void **state)
{
    struct relay_submit_item m = {.flags = RELAY_SUBMIT_EPHEMERAL, .expires_ms = 0x99, .body = SPAN("body")},
                             got;
    uint16_t count;
    (void)state;

    memset(m.id.b, 0xaa, ENVELOPE_ID_LEN);
    memset(m.to.uid, 0xbb, UID_LEN);
    m.to.device = 1;
    relay_begin(&b, RELAY_SUBMIT, 3);
    assert_int_equal(relay_batch_count(&b), 0);
    relay_add_submit(&b, &m);
    m.to.device = 2;
    relay_add_submit(&b, &m);
    assert_int_equal(relay_batch_count(&b), 2);
    assert_int_equal(relay_batch_len(&b), 7 + 2 * (16 + 36 + 1 + 8 + 4 + 4));
    assert_memory_equal(b.data, "\x46\x03\0\0\0\x02\0\xaa", 8);
    assert_memory_equal(b.data + 54, "\xbb\x01\0\0\0\x01\x99\0\0\0\0\0\0\0\x04\0\0\0body\xaa", 23);
    open_message(RELAY_SUBMIT, 3);
    assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &count), WIRE_OK);
    assert_int_equal(count, 2);
    assert_int_equal(relay_next_submit(&c, &got), WIRE_OK);
    assert_true(got.to.device == 1 && got.flags == 1 && got.expires_ms == 0x99);
    span_equal(got.body, "body");
    assert_int_equal(relay_next_submit(&c, &got), WIRE_OK);
    assert_int_equal(got.to.device, 2);
    assert_int_equal(cursor_end(&c), WIRE_OK);
    /* Past the end: zeros, and the error stays. */
    assert_int_equal(relay_next_submit(&c, &got), WIRE_MALFORMED);
    assert_true(got.to.device == 0 && !got.body.p && got.body.n == 0);
    assert_int_equal(cursor_end(&c), WIRE_MALFORMED);
    /* An unknown flag, and device 0. */
    b.data[59] = 2;
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_submit(&c, &got), WIRE_MALFORMED);
    b.data[59] = 0;
    b.data[55] = 0;
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_submit(&c, &got), WIRE_MALFORMED);
    assert_int_equal(got.id.b[0], 0);
}

static void bodies_are_bounded(void **state)
{
    static uint8_t body[RELAY_MAX_BODY + 1];
    struct relay_deliver_item d = {.time_ms = 5}, got_d;
    struct relay_submit_item s = {.to = {.device = 1}}, got_s;
    uint16_t count;
    (void)state;

    for (size_t n = RELAY_MAX_BODY; n <= RELAY_MAX_BODY + 1; n++) {
        int expect = n > RELAY_MAX_BODY ? WIRE_MALFORMED : WIRE_OK;

        s.body = d.body = (struct span){body, n};
        relay_begin(&b, RELAY_DELIVER, 0);
        relay_add_deliver(&b, &d);
        open_message(RELAY_DELIVER, 0);
        assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &count), WIRE_OK);
        assert_int_equal(relay_next_deliver(&c, &got_d), expect);
        relay_begin(&b, RELAY_SUBMIT, 0);
        relay_add_submit(&b, &s);
        open_message(RELAY_SUBMIT, 0);
        assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &count), WIRE_OK);
        assert_int_equal(relay_next_submit(&c, &got_s), expect);
    }
}

static void count_is_bounded_on_both_sides(void **state)
{
    struct envelope_id id = {{1}};
    uint16_t count = 9;
    (void)state;

    relay_begin(&b, RELAY_ACK, 0);
    open_message(RELAY_ACK, 0);
    assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &count), WIRE_MALFORMED);
    assert_int_equal(count, 9);
    assert_int_equal(cursor_status(&c), WIRE_MALFORMED);
    for (unsigned i = 0; i < RELAY_MAX_BATCH; i++)
        relay_add_ack(&b, &id);
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(relay_batch_count(&b), RELAY_MAX_BATCH);
    open_message(RELAY_ACK, 0);
    assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &count), WIRE_OK);
    for (unsigned i = 0; i < RELAY_MAX_BATCH; i++)
        assert_int_equal(relay_next_ack(&c, &id), WIRE_OK);
    assert_int_equal(cursor_end(&c), WIRE_OK);
    open_message(RELAY_ACK, 0);
    assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH - 1, &count), WIRE_MALFORMED);
    relay_add_ack(&b, &id);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    /* The next batch starts clean. */
    relay_begin(&b, RELAY_ACK, 0);
    relay_add_ack(&b, &id);
    assert_int_equal(buf_status(&b), 0);
    assert_int_equal(relay_batch_count(&b), 1);
}

static void a_batch_is_no_longer_than_a_message(void **state)
{
    static uint8_t body[RELAY_MAX_BODY];
    struct relay_deliver_item d = {.body = {body, 65536}};
    CLEANUP_BUF struct buf wide;
    (void)state;

    buf_init(&wide, 4 * RELAY_MAX_MESSAGE);
    relay_begin(&wide, RELAY_DELIVER, 0);
    relay_add_deliver(&wide, &d);
    assert_int_equal(buf_status(&wide), 0);
    relay_add_deliver(&wide, &d);
    assert_int_equal(buf_status(&wide), -EMSGSIZE);
}

static void answers_in_batches(void **state)
{
    struct relay_submitted_item s = {.status = SUBMIT_RATE_LIMITED, .retry_after_ms = 500}, got_s;
    struct relay_state_item t = {.state = ENVELOPE_ACKNOWLEDGED}, got_t;
    struct relay_deliver_item d = {.time_ms = 6, .body = SPAN("x")}, got_d;
    uint16_t count;
    (void)state;

    relay_begin(&b, RELAY_SUBMITTED, 1);
    relay_add_submitted(&b, &s);
    assert_int_equal(b.len, 7 + 21);
    assert_memory_equal(b.data + 22, "\0\x08\xf4\x01\0\0", 6);
    open_message(RELAY_SUBMITTED, 1);
    assert_int_equal(relay_read_count(&c, 1, 10, &count), WIRE_OK);
    assert_int_equal(relay_next_submitted(&c, &got_s), WIRE_OK);
    assert_true(got_s.status == SUBMIT_RATE_LIMITED && got_s.retry_after_ms == 500);
    b.data[23] = 9;
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_submitted(&c, &got_s), WIRE_MALFORMED);
    relay_begin(&b, RELAY_STATES, 1);
    relay_add_state(&b, &t);
    assert_int_equal(b.len, 7 + 17);
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_state(&c, &got_t), WIRE_OK);
    assert_int_equal(got_t.state, ENVELOPE_ACKNOWLEDGED);
    b.data[23] = 3;
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_state(&c, &got_t), WIRE_MALFORMED);
    relay_begin(&b, RELAY_DELIVER, 0);
    relay_add_deliver(&b, &d);
    assert_int_equal(b.len, 7 + 16 + 8 + 4 + 1);
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_deliver(&c, &got_d), WIRE_OK);
    assert_true(got_d.time_ms == 6);
    span_equal(got_d.body, "x");
}

static void query_watch_presence(void **state)
{
    struct relay_query_item q = {.to = {.device = 3}}, got_q;
    struct relay_presence_item p = {.who = {.device = 4}, .connected = true}, got_p;
    struct address w = {.device = 5}, got_w;
    uint16_t count = 1;
    (void)state;

    relay_begin(&b, RELAY_QUERY, 1);
    relay_add_query(&b, &q);
    assert_int_equal(b.len, 7 + 52);
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_query(&c, &got_q), WIRE_OK);
    assert_int_equal(got_q.to.device, 3);
    relay_begin(&b, RELAY_WATCH, 1);
    relay_add_watch(&b, &w);
    assert_int_equal(b.len, 7 + 36);
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_watch(&c, &got_w), WIRE_OK);
    assert_int_equal(got_w.device, 5);
    relay_begin(&b, RELAY_PRESENCE, 1);
    open_message(RELAY_PRESENCE, 1);
    assert_int_equal(relay_read_count(&c, 0, RELAY_MAX_WATCH, &count), WIRE_OK);
    assert_int_equal(count, 0);
    relay_add_presence(&b, &p);
    assert_int_equal(b.len, 7 + 37);
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_presence(&c, &got_p), WIRE_OK);
    assert_true(got_p.connected && got_p.who.device == 4);
    b.data[b.len - 1] = 2;
    cursor_init(&c, b.data + 7, b.len - 7);
    assert_int_equal(relay_next_presence(&c, &got_p), WIRE_MALFORMED);
    assert_false(got_p.connected);
}

static void users(void **state)
{
    struct relay_user u = {.name = SPAN("al")}, got;
    uint16_t count = 7;
    bool more = false;
    (void)state;

    relay_begin_users(&b, 2, true);
    open_message(RELAY_USERS, 2);
    assert_int_equal(relay_read_users(&c, &more, &count), WIRE_OK);
    assert_true(more && count == 0);
    relay_add_user(&b, &u);
    relay_add_user(&b, &u);
    assert_int_equal(relay_batch_count(&b), 2);
    assert_memory_equal(b.data, "\x09\x02\0\0\0\x01\x02\0\x02\0\0\0al\0", 15);
    open_message(RELAY_USERS, 2);
    assert_int_equal(relay_read_users(&c, &more, &count), WIRE_OK);
    assert_int_equal(count, 2);
    assert_int_equal(relay_next_user(&c, &got), WIRE_OK);
    assert_int_equal(relay_next_user(&c, &got), WIRE_OK);
    span_equal(got.name, "al");
    assert_int_equal(cursor_end(&c), WIRE_OK);
    b.data[12] = 'A';
    cursor_init(&c, b.data + 8, b.len - 8);
    assert_int_equal(relay_next_user(&c, &got), WIRE_MALFORMED);
    assert_int_equal(got.name.n, 0);
    b.data[5] = 2;
    open_message(RELAY_USERS, 2);
    assert_int_equal(relay_read_users(&c, &more, &count), WIRE_MALFORMED);
    b.data[5] = 0;
    b.data[6] = 0xf5;
    b.data[7] = 1;
    open_message(RELAY_USERS, 2);
    assert_int_equal(relay_read_users(&c, &more, &count), WIRE_MALFORMED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(head),
            TEST(challenge),
            TEST(welcome_and_prekeys_left),
            TEST(error),
            TEST(account),
            TEST(account_is_bounded),
            TEST(bundle),
            TEST(auth),
            TEST(what_is_signed),
            TEST(registration),
            TEST(put_prekeys),
            TEST(lookup),
            TEST(claim_list_users_unregister),
            TEST(submit_batch),
            TEST(bodies_are_bounded),
            TEST(count_is_bounded_on_both_sides),
            TEST(a_batch_is_no_longer_than_a_message),
            TEST(answers_in_batches),
            TEST(query_watch_presence),
            TEST(users),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
