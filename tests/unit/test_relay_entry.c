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

static void span_equal(struct span s, const char *expect)
{
    assert_int_equal(s.n, strlen(expect));
    assert_memory_equal(s.p, expect, s.n);
}

static void user_names(void **state)
{
    static const char *const good[] = {"a", "0", "z9", "a.b_c-d", "9-", "bob"};
    static const char *const bad[] = {
            "", ".a", "_a", "-a", "A", "bOb", "a b", "a/b", "\xc3\xa9", "a\x7f", "a`", "a{", "a:", "a,"};
    char name[66];
    (void)state;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(user_name_ok(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(user_name_ok(bad[i], strlen(bad[i])));
    assert_false(user_name_ok("a\0b", 3));
    assert_false(user_name_ok(NULL, 0));
    memset(name, 'a', sizeof(name));
    assert_true(user_name_ok(name, 64));
    assert_false(user_name_ok(name, 65));
    assert_true(user_name_ok(name, UID_TEXT_LEN - 1));
    assert_false(user_name_ok(name, UID_TEXT_LEN)); /* the uid of 32 zero bytes */
    name[UID_TEXT_LEN - 1] = 'b';
    assert_true(user_name_ok(name, UID_TEXT_LEN)); /* bits are left over: no uid */
}

static void uid_as_text(void **state)
{
    static const char expect[] = "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";
    char text[UID_TEXT_LEN + 1], ones[UID_TEXT_LEN + 1];
    uint8_t uid[UID_LEN], back[UID_LEN];
    (void)state;

    for (uint8_t i = 0; i < UID_LEN; i++)
        uid[i] = i;
    uid_to_text(uid, text);
    assert_string_equal(text, expect);
    assert_int_equal(uid_from_text(text, back), WIRE_OK);
    assert_memory_equal(back, uid, UID_LEN);
    memset(uid, 0xff, UID_LEN);
    uid_to_text(uid, ones);
    assert_string_equal(ones, "777777777777777777777777777777777777777777777777777q");
    assert_int_equal(uid_from_text(ones, back), WIRE_OK);
    assert_memory_equal(back, uid, UID_LEN);
}

static void uid_text_is_canonical(void **state)
{
    static const char good[] = "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";
    uint8_t back[UID_LEN] = {42};
    char text[UID_TEXT_LEN + 2];
    (void)state;

    /* Only a and q leave the last four bits zero. */
    for (const char *last = "bcdefghijklmnoprstuvwxyz234567"; *last; last++) {
        memcpy(text, good, sizeof(good));
        text[UID_TEXT_LEN - 1] = *last;
        assert_int_equal(uid_from_text(text, back), WIRE_MALFORMED);
    }
    for (const char *odd = "AZ0189=- {`@\x80"; *odd; odd++) {
        memcpy(text, good, sizeof(good));
        text[20] = *odd;
        assert_int_equal(uid_from_text(text, back), WIRE_MALFORMED);
    }
    memcpy(text, good, sizeof(good));
    text[UID_TEXT_LEN - 1] = '\0';
    assert_int_equal(uid_from_text(text, back), WIRE_MALFORMED);
    memcpy(text, good, UID_TEXT_LEN);
    text[UID_TEXT_LEN] = 'a';
    text[UID_TEXT_LEN + 1] = '\0';
    assert_int_equal(uid_from_text(text, back), WIRE_MALFORMED);
    assert_int_equal(uid_from_text("", back), WIRE_MALFORMED);
    assert_int_equal(back[0], 42);
}

struct shape {
    uint8_t version;
    const char *name;
    uint64_t n;
    uint8_t previous;
    uint8_t devices;
    uint32_t device[17];
    uint8_t suites;
    uint16_t suite[17];
    uint8_t revoked;
    uint32_t revoked_device[65];
    unsigned signatures;
};

static const struct shape plain = {.version = 1,
        .name = "bob",
        .n = 1,
        .devices = 1,
        .device = {1},
        .suites = 1,
        .suite = {1},
        .signatures = 2};

static void put_shape(struct buf *out, const struct shape *s)
{
    CLEANUP_BUF struct buf body;

    buf_init(&body, 65536);
    buf_u8(&body, s->version);
    memset(buf_reserve(&body, 32), 0xa1, 32);
    buf_lp(&body, s->name, strlen(s->name));
    buf_u64(&body, s->n);
    memset(buf_reserve(&body, 32), s->previous, 32);
    buf_u64(&body, 1234);
    buf_u8(&body, s->devices);
    for (unsigned i = 0; i < s->devices; i++) {
        buf_u32(&body, s->device[i]);
        memset(buf_reserve(&body, 32), 0xd1, 32);
        memset(buf_reserve(&body, 32), 0xd2, 32);
        memset(buf_reserve(&body, 32), 0xd3, 32);
        buf_u8(&body, s->suites);
        for (unsigned k = 0; k < s->suites; k++)
            buf_u16(&body, s->suite[k]);
    }
    buf_u8(&body, s->revoked);
    for (unsigned i = 0; i < s->revoked; i++)
        buf_u32(&body, s->revoked_device[i]);
    buf_reset(out);
    buf_lp(out, body.data, body.len);
    for (unsigned i = 0; i < s->signatures; i++)
        memset(buf_reserve(out, 64), (int)(0x50 + i), 64);
}

static int parse_shape(const struct shape *s)
{
    static struct entry e;

    put_shape(&b, s);
    return entry_parse(b.data, b.len, &e);
}

static void entry_fields(void **state)
{
    struct shape s = plain;
    static struct entry e;
    (void)state;

    s.devices = 2;
    s.device[1] = 0x01020304;
    s.suites = 2;
    s.suite[1] = 0x0203;
    s.n = 5;
    s.previous = 0x9f;
    s.revoked = 2;
    s.revoked_device[0] = 9;
    s.revoked_device[1] = 2;
    s.signatures = 3;
    put_shape(&b, &s);
    assert_int_equal(entry_parse(b.data, b.len, &e), WIRE_OK);
    span_equal(e.name, "bob");
    assert_true(e.n == 5 && e.time_ms == 1234 && e.devices == 2 && e.revoked == 2);
    assert_true(e.ak[31] == 0xa1 && e.previous[31] == 0x9f);
    assert_true(
            e.device[1].device == 0x01020304 && e.device[1].suites == 2 && e.device[1].suite[1] == 0x0203);
    assert_true(e.device[0].dsk[0] == 0xd1 && e.device[0].dhk[0] == 0xd2 && e.device[0].rak[31] == 0xd3);
    assert_int_equal(e.device[0].bytes.n, 4 + 96 + 1 + 4);
    assert_memory_equal(e.device[0].bytes.p, "\x01\0\0\0\xd1", 5);
    assert_memory_equal(e.device[1].bytes.p, "\x04\x03\x02\x01\xd1", 5);
    assert_true(e.revoked_device[0] == 9 && e.revoked_device[1] == 2);
    assert_ptr_equal(e.body.p, b.data + 4);
    assert_true(e.ak_signature[0] == 0x50 && e.dsk_signatures[0] == 0x51 && e.dsk_signatures[64] == 0x52);
    assert_ptr_equal(e.dsk_signatures + 128, b.data + b.len);
}

static void entry_every_length_but_one(void **state)
{
    static struct entry e;
    (void)state;

    put_shape(&b, &plain);
    buf_u8(&b, 0);
    for (size_t n = 0; n <= b.len; n++)
        assert_int_equal(entry_parse(b.data, n, &e), n == b.len - 1 ? WIRE_OK : WIRE_MALFORMED);
    /* Trailing bytes inside the body. */
    put_shape(&b, &plain);
    buf_patch_u32(&b, 0, (uint32_t)(b.len - 4 - 128 + 1));
    buf_u8(&b, 0);
    assert_int_equal(entry_parse(b.data, b.len, &e), WIRE_MALFORMED);
}

static void entry_rules(void **state)
{
    struct shape s = plain;
    (void)state;

    assert_int_equal(parse_shape(&s), WIRE_OK);
#define REFUSED(change)                                                                                      \
    do {                                                                                                     \
        s = plain;                                                                                           \
        change;                                                                                              \
        assert_int_equal(parse_shape(&s), WIRE_MALFORMED);                                                   \
    } while (0)
    REFUSED(s.version = 0);
    REFUSED(s.version = 2);
    REFUSED(s.name = "");
    REFUSED(s.name = "Bob");
    REFUSED(s.n = 0);
    REFUSED(s.previous = 1);
    REFUSED(s.n = 2);
    REFUSED((s.n = 0, s.previous = 1));
    REFUSED((s.devices = 0, s.signatures = 1));
    REFUSED(s.device[0] = 0);
    REFUSED((s.devices = 2, s.device[1] = 1, s.signatures = 3));
    REFUSED((s.devices = 2, s.device[0] = 2, s.device[1] = 1, s.signatures = 3));
    REFUSED((s.devices = 2, s.device[1] = 2));
    REFUSED(s.suites = 0);
    REFUSED((s.suites = 2, s.suite[1] = 1));
    REFUSED((s.suites = 2, s.suite[0] = 2, s.suite[1] = 1));
    REFUSED((s.revoked = 1, s.revoked_device[0] = 1));
    REFUSED(s.revoked = 1);
    REFUSED(s.signatures = 1);
    REFUSED(s.signatures = 3);
}

static void entry_counts(void **state)
{
    struct shape s = plain;
    (void)state;

    for (uint16_t i = 0; i < 17; i++) {
        s.device[i] = i + 1u;
        s.suite[i] = i;
    }
    for (uint32_t i = 0; i < 65; i++)
        s.revoked_device[i] = 100 + i;
    s.devices = 16;
    s.suites = 16;
    s.revoked = 64;
    s.signatures = 17;
    assert_int_equal(parse_shape(&s), WIRE_OK);
    s.revoked = 65;
    assert_int_equal(parse_shape(&s), WIRE_MALFORMED);
    s.revoked = 64;
    s.suites = 17;
    assert_int_equal(parse_shape(&s), WIRE_MALFORMED);
    s.suites = 16;
    s.devices = 17;
    s.signatures = 18;
    assert_int_equal(parse_shape(&s), WIRE_MALFORMED);
}

static void put_prekey(bool is_signed, uint8_t version, uint32_t device, uint64_t n, uint32_t id)
{
    CLEANUP_BUF struct buf body;

    buf_init(&body, 4096);
    buf_u8(&body, version);
    memset(buf_reserve(&body, 32), 0xe1, 32);
    buf_u32(&body, device);
    if (is_signed) {
        buf_u64(&body, n);
        buf_u16(&body, 1);
    }
    buf_u32(&body, id);
    memset(buf_reserve(&body, 32), 0xe2, 32);
    memset(buf_reserve(&body, PREKEY_MLKEM_LEN), 0xe3, PREKEY_MLKEM_LEN);
    if (is_signed) {
        buf_u64(&body, 10);
        buf_u64(&body, 20);
    }
    buf_reset(&b);
    buf_lp(&b, body.data, body.len);
    memset(buf_reserve(&b, 64), 0xe4, 64);
}

static void prekeys(void **state)
{
    struct prekey_record r;
    (void)state;

    put_prekey(true, 1, 2, 3, 4);
    assert_int_equal(b.len, 4 + 1 + 32 + 4 + 8 + 2 + 4 + 32 + 1184 + 16 + 64);
    assert_int_equal(prekey_parse_signed(b.data, b.len, &r), WIRE_OK);
    assert_true(r.device == 2 && r.list_n == 3 && r.suite == 1 && r.id == 4);
    assert_true(r.not_before_ms == 10 && r.not_after_ms == 20);
    assert_true(r.uid[0] == 0xe1 && r.x25519[31] == 0xe2 && r.mlkem[0] == 0xe3 && r.mlkem[1183] == 0xe3);
    assert_true(r.signature == b.data + b.len - 64 && r.body.n == b.len - 68 && r.body.p == b.data + 4);
    assert_int_equal(prekey_parse_one_time(b.data, b.len, &r), WIRE_MALFORMED);
    put_prekey(false, 1, 2, 0, 4);
    assert_int_equal(prekey_parse_one_time(b.data, b.len, &r), WIRE_OK);
    assert_true(r.device == 2 && r.list_n == 0 && r.suite == 0 && r.id == 4 && r.not_after_ms == 0);
    assert_int_equal(prekey_parse_signed(b.data, b.len, &r), WIRE_MALFORMED);
    put_prekey(true, 2, 2, 3, 4);
    assert_int_equal(prekey_parse_signed(b.data, b.len, &r), WIRE_MALFORMED);
    put_prekey(true, 1, 0, 3, 4);
    assert_int_equal(prekey_parse_signed(b.data, b.len, &r), WIRE_MALFORMED);
    put_prekey(true, 1, 2, 0, 4);
    assert_int_equal(prekey_parse_signed(b.data, b.len, &r), WIRE_MALFORMED);
    put_prekey(true, 1, 2, 3, 0);
    assert_int_equal(prekey_parse_signed(b.data, b.len, &r), WIRE_MALFORMED);
    put_prekey(false, 1, 2, 3, 0);
    assert_int_equal(prekey_parse_one_time(b.data, b.len, &r), WIRE_MALFORMED);
}

static void prekey_every_length_but_one(void **state)
{
    struct prekey_record r;
    (void)state;

    for (int is_signed = 0; is_signed < 2; is_signed++) {
        put_prekey(is_signed, 1, 2, 3, 4);
        buf_u8(&b, 0);
        for (size_t n = 0; n <= b.len; n++)
            assert_int_equal((is_signed ? prekey_parse_signed : prekey_parse_one_time)(b.data, n, &r),
                    n == b.len - 1 ? WIRE_OK : WIRE_MALFORMED);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(user_names),
            TEST(uid_as_text),
            TEST(uid_text_is_canonical),
            TEST(entry_fields),
            TEST(entry_every_length_but_one),
            TEST(entry_rules),
            TEST(entry_counts),
            TEST(prekeys),
            TEST(prekey_every_length_but_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
