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
#include "rpc.h"

static const char *why;
static enum rpc_framing framing;
static size_t used;
static struct rpc_message m;

static int read_fresh(const void *p, size_t n)
{
    framing = RPC_FRAMING_UNKNOWN;
    why = NULL;
    used = 0;
    return rpc_read(p, n, &framing, &m, &used, &why);
}

#define READ(s) read_fresh(s, sizeof(s) - 1)

static void plain_request(void **state)
{
    static const char bytes[] = "\x94\x00\x07\xa6status\x91\x80rest";
    (void)state;

    assert_int_equal(READ(bytes), WIRE_OK);
    assert_int_equal(framing, RPC_FRAMING_PLAIN);
    assert_int_equal(used, sizeof(bytes) - 1 - 4);
    assert_int_equal(m.kind, RPC_REQUEST);
    assert_int_equal(m.msgid, 7);
    assert_true(mp_str_eq(&m.method, "status"));
    assert_int_equal(m.params.type, MP_ARRAY);
    assert_int_equal(m.params.count, 1);
}

static void framed_messages(void **state)
{
    static const char request[] = "\x0b\x94\x00\x07\xa6status\x90\x0b";
    static const char wide[] = "\xce\x00\x00\x00\x06\x93\x02\xa1x\x91\xc0";
    static const char is_signed[] = "\xd1\x00\x06\x93\x02\xa1x\x91\xc0";
    (void)state;

    assert_int_equal(READ(request), WIRE_OK);
    assert_int_equal(framing, RPC_FRAMING_LENGTH);
    assert_int_equal(used, 12);
    assert_int_equal(m.msgid, 7);
    assert_int_equal(READ(wide), WIRE_OK);
    assert_int_equal(used, 11);
    assert_int_equal(m.kind, RPC_NOTIFY);
    assert_true(mp_str_eq(&m.method, "x"));
    assert_int_equal(READ(is_signed), WIRE_OK);
    assert_int_equal(used, 9);
}

static void response(void **state)
{
    static const char bytes[] = "\x94\x01\xce\xff\xff\xff\xff\xc0\x81\xa1k\x01";
    struct mp_value v;
    (void)state;

    assert_int_equal(READ(bytes), WIRE_OK);
    assert_int_equal(m.kind, RPC_RESPONSE);
    assert_true(m.msgid == UINT32_MAX);
    assert_int_equal(m.error.type, MP_NIL);
    assert_true(mp_map_get(&m.result, "k", &v));
}

static void method_as_binary(void **state)
{
    static const char bytes[] = "\x94\x00\x07\xc4\x06status\x90";
    (void)state;

    assert_int_equal(READ(bytes), WIRE_OK);
    assert_int_equal(m.method.count, 6);
    assert_memory_equal(m.method.bytes, "status", 6);
}

static void params_of_any_type_pass(void **state)
{
    static const char map[] = "\x94\x00\x01\xa1x\x80";
    static const char nil[] = "\x94\x00\x01\xa1x\xc0";
    (void)state;

    assert_int_equal(READ(map), WIRE_OK);
    assert_int_equal(m.params.type, MP_MAP);
    assert_int_equal(READ(nil), WIRE_OK);
    assert_int_equal(m.params.type, MP_NIL);
}

static void what_ends_a_stream(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *why;
    } rows[] = {
            {"\x81\xa1x\x01", 4, "neither"},
            {"GET / HTTP/1.1\r\n\r\n", 18,
                    "1..1048576"}, /* 'G' is the integer 71: its frame is not an array */
            {"\xa3"
             "abc",
                    4, "neither"},
            {"\xc0", 1, "neither"},
            {"\x92\x00\x01", 3, "array of 3 or 4"},
            {"\x90", 1, "array of 3 or 4"},
            {"\x94\x03\x01\xa1x\x90", 6, "begin with 0"},
            {"\x94\xff\x01\xa1x\x90", 6, "begin with 0"},
            {"\x94\xa1x\x01\xa1x\x90", 7, "begin with 0"},
            {"\x93\x00\x01\xa1x", 5, "4 elements"},
            {"\x95\x00\x01\xa1x\x90\x90", 7, "4 elements"},
            {"\x94\x02\xa1x\x90\x90", 6, "message id"},
            {"\x94\x00\xff\xa1x\x90", 6, "message id"},
            {"\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1x\x90", 14, "message id"},
            {"\x94\x00\xc0\xa1x\x90", 6, "message id"},
            {"\x94\x00\x01\x05\x90", 5, "method is not"},
            {"\x93\x02\xc0\x90", 4, "method is not"},
            {"\x94\x00\x01\xd4\x00\x00\x90", 7, "extension"},
            {"\x00\x94", 2, "1..1048576"},
            {"\xff\x94", 2, "1..1048576"},
            {"\xce\x00\x10\x00\x01\x94", 6, "1..1048576"},
            {"\x07\x93\x02\xa1x\x90\xc0\xc0", 8, "fill its frame"},
            {"\x05\x94\x02\xa1x\x90\xc0", 7, "longer"},
            {"\x01\x80", 2, "array of 3 or 4"},
            {"\x01\xdd", 2, "longer"},
            {"\xdd\x7f\xff\xff\xff", 5, "longer"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int r = read_fresh(rows[i].bytes, rows[i].n);

        if (i == 1) {
            /* A frame of 71 bytes of which 17 are here: nothing is wrong yet. */
            assert_int_equal(r, WIRE_INCOMPLETE);
            continue;
        }
        assert_int_equal(r, WIRE_MALFORMED);
        assert_non_null(strstr(why, rows[i].why));
    }
}

static void framing_does_not_change(void **state)
{
    static const char plain[] = "\x93\x02\xa1x\x90\x05\x93\x02\xa1x\x90";
    static const char framed[] = "\x05\x93\x02\xa1x\x90\x93\x02\xa1x\x90";
    (void)state;

    assert_int_equal(READ(plain), WIRE_OK);
    assert_int_equal(
            rpc_read(plain + used, sizeof(plain) - 1 - used, &framing, &m, &used, &why), WIRE_MALFORMED);
    assert_non_null(strstr(why, "not an array"));
    assert_int_equal(READ(framed), WIRE_OK);
    assert_int_equal(
            rpc_read(framed + used, sizeof(framed) - 1 - used, &framing, &m, &used, &why), WIRE_MALFORMED);
    assert_non_null(strstr(why, "not an integer"));
}

static void method_is_bounded(void **state)
{
    CLEANUP_BUF struct buf b;
    char name[RPC_MAX_METHOD + 2];
    (void)state;

    memset(name, 'a', sizeof(name));
    for (size_t n = RPC_MAX_METHOD; n <= RPC_MAX_METHOD + 1; n++) {
        buf_init(&b, 4096);
        name[n] = '\0';
        rpc_put_request(&b, RPC_FRAMING_PLAIN, 1, name, NULL);
        assert_int_equal(read_fresh(b.data, b.len), n <= RPC_MAX_METHOD ? WIRE_OK : WIRE_MALFORMED);
        name[n] = 'a';
        if (n == RPC_MAX_METHOD)
            buf_done(&b);
    }
}

/* Byte by byte: incomplete up to the last one, and the announced need is never more than what is needed. */
static void pieces_of_one_byte(void **state)
{
    static const char *const streams[] = {"\x94\x00\x07\xa6status\x91\x81\xa1k\xa3"
                                          "abc",
            "\x11\x94\x00\x07\xa6status\x91\x81\xa1k\xa2"
            "ab",
            "\xcc\x11\x94\x00\x07\xa6status\x91\x81\xa1k\xa2"
            "ab"};
    static const size_t lens[] = {18, 18, 19};
    (void)state;

    for (size_t s = 0; s < 3; s++) {
        enum rpc_framing f = RPC_FRAMING_UNKNOWN;

        /* streams[s] holds zero bytes: its length is in the table. */
        for (size_t n = 0; n < lens[s]; n++) {
            assert_int_equal(rpc_read(streams[s], n, &f, &m, &used, &why), WIRE_INCOMPLETE);
            assert_true(used > n && used <= lens[s]);
        }
        assert_int_equal(rpc_read(streams[s], lens[s], &f, &m, &used, &why), WIRE_OK);
        assert_int_equal(used, lens[s]);
    }
}

/* Whoever waits as told walks a hostile message a few times, not once for each byte. */
static void waiting_as_told_bounds_the_work(void **state)
{
    static uint8_t stream[RPC_MAX_MESSAGE];
    enum rpc_framing f = RPC_FRAMING_UNKNOWN;
    size_t n = 0, walks = 0;
    int r = WIRE_INCOMPLETE;
    (void)state;

    /* An array of 2^19 - 4 integers of two bytes. */
    memcpy(stream, "\x93\x02\xa1x\xdd\x00\x07\xff\xfa", 9);
    for (size_t at = 9; at < sizeof(stream); at++)
        stream[at] = 0xcc;
    for (used = 1; r == WIRE_INCOMPLETE && used <= sizeof(stream); walks++) {
        n = used;
        r = rpc_read(stream, n, &f, &m, &used, &why);
    }
    assert_int_equal(r, WIRE_OK);
    assert_true(walks < 40);
}

static void written_messages_are_read(void **state)
{
    static const enum rpc_framing framings[] = {RPC_FRAMING_PLAIN, RPC_FRAMING_LENGTH};
    (void)state;

    for (size_t i = 0; i < 2; i++) {
        CLEANUP_BUF struct buf b;
        CLEANUP_BUF struct buf value;
        size_t at = 0;

        buf_init(&b, 4096);
        buf_init(&value, 4096);
        mp_put_map(&value, 1);
        mp_put_str(&value, "k");
        mp_put_int(&value, 5);
        rpc_put_request(&b, framings[i], 9, "send", &value);
        rpc_put_request(&b, framings[i], 10, "status", NULL);
        rpc_put_response(&b, framings[i], 11, NULL, &value);
        rpc_put_response(&b, framings[i], 12, &value, NULL);
        rpc_put_notify(&b, framings[i], "event", value.data, value.len);
        assert_int_equal(buf_status(&b), 0);
        framing = RPC_FRAMING_UNKNOWN;
        for (uint32_t k = 9; k <= 13; k++) {
            assert_int_equal(rpc_read(b.data + at, b.len - at, &framing, &m, &used, &why), WIRE_OK);
            at += used;
            if (k < 13)
                assert_int_equal(m.msgid, k);
            if (k == 9)
                assert_true(m.kind == RPC_REQUEST && mp_str_eq(&m.method, "send") && m.params.count == 1);
            if (k == 10)
                assert_true(mp_str_eq(&m.method, "status") && m.params.count == 0);
            if (k == 11)
                assert_true(m.kind == RPC_RESPONSE && m.error.type == MP_NIL && m.result.type == MP_MAP);
            if (k == 12)
                assert_true(m.result.type == MP_NIL && m.error.type == MP_MAP);
            if (k == 13)
                assert_true(m.kind == RPC_NOTIFY && mp_str_eq(&m.method, "event") && m.params.count == 1);
        }
        assert_int_equal(at, b.len);
        assert_int_equal(framing, framings[i]);
    }
}

static void too_long_leaves_nothing(void **state)
{
    CLEANUP_BUF struct buf b;
    CLEANUP_BUF struct buf value;
    size_t len;
    (void)state;

    buf_init(&b, 4 * RPC_MAX_MESSAGE);
    buf_init(&value, 4 * RPC_MAX_MESSAGE);
    rpc_put_request(&b, RPC_FRAMING_LENGTH, 1, "a", NULL);
    len = b.len;
    mp_put_bin(&value, NULL, 0);
    buf_zero(&value, RPC_MAX_MESSAGE);
    rpc_put_response(&b, RPC_FRAMING_LENGTH, 1, NULL, &value);
    assert_int_equal(buf_status(&b), -EMSGSIZE);
    assert_int_equal(b.len, len);
    buf_reset(&b);
    value.error = -ENOMEM;
    rpc_put_response(&b, RPC_FRAMING_PLAIN, 1, NULL, &value);
    assert_int_equal(buf_status(&b), -ENOMEM);
    assert_int_equal(b.len, 0);
}

/* The longest message passes: 2^20 bytes, not one more. */
static void longest_message(void **state)
{
    CLEANUP_BUF struct buf b;
    CLEANUP_BUF struct buf value;
    (void)state;

    for (size_t over = 0; over < 2; over++) {
        buf_init(&b, 2 * RPC_MAX_MESSAGE);
        buf_init(&value, 2 * RPC_MAX_MESSAGE);
        /* 94 01 01 c0 and the value: head of 5, contents. */
        buf_u8(&value, 0xc6);
        buf_u32be(&value, RPC_MAX_MESSAGE - 9 + (uint32_t)over);
        buf_zero(&value, RPC_MAX_MESSAGE - 9 + over);
        rpc_put_response(&b, RPC_FRAMING_LENGTH, 1, NULL, &value);
        assert_int_equal(buf_status(&b), over ? -EMSGSIZE : 0);
        if (!over) {
            assert_int_equal(read_fresh(b.data, b.len), WIRE_OK);
            assert_int_equal(read_fresh(b.data + 5, b.len - 5), WIRE_OK);
            buf_done(&b);
            buf_done(&value);
        }
    }
}

static void each_allocation_may_fail(void **state)
{
    unsigned long k = 1;
    (void)state;

    for (bool fired = true; fired; k++) {
        struct buf b;

        buf_init(&b, 65536);
        failalloc_arm(k);
        for (int i = 0; i < 50; i++)
            rpc_put_request(&b, RPC_FRAMING_LENGTH, 1, "contact.list", NULL);
        fired = failalloc_disarm();
        assert_int_equal(buf_status(&b), fired ? -ENOMEM : 0);
        /* Whole messages only, also where memory ended. */
        assert_int_equal(b.len % 22, 0);
        buf_done(&b);
        assert_int_equal(failalloc_live(), 0);
    }
    assert_true(k > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(plain_request),
            cmocka_unit_test(framed_messages),
            cmocka_unit_test(response),
            cmocka_unit_test(method_as_binary),
            cmocka_unit_test(params_of_any_type_pass),
            cmocka_unit_test(what_ends_a_stream),
            cmocka_unit_test(framing_does_not_change),
            cmocka_unit_test(method_is_bounded),
            cmocka_unit_test(pieces_of_one_byte),
            cmocka_unit_test(waiting_as_told_bounds_the_work),
            cmocka_unit_test(written_messages_are_read),
            cmocka_unit_test(too_long_leaves_nothing),
            cmocka_unit_test(longest_message),
            cmocka_unit_test(each_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
