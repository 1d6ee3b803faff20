#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "linkmsg.h"

static void after_kind(struct cursor *c, const struct buf *b, uint8_t kind)
{
    cursor_init(c, b->data, b->len);
    assert_int_equal(cursor_u8(c), kind);
}

static void connected(void **state)
{
    struct link_connected m = {.tls = true, .host = {(const uint8_t *)"relay.example:443", 17}}, got;
    CLEANUP_BUF struct buf b;
    struct cursor c;
    (void)state;

    memset(m.exporter, 0x11, sizeof(m.exporter));
    buf_init(&b, LINK_MAX_PACKET);
    link_put_connected(&b, &m);
    assert_int_equal(b.len, 1 + 1 + 32 + 4 + 17);
    assert_int_equal(b.data[0], 0x11);
    assert_int_equal(b.data[1], 1);
    assert_memory_equal(b.data + 2, m.exporter, 32);
    assert_memory_equal(b.data + 34, "\x11\0\0\0relay.example:443", 21);
    after_kind(&c, &b, LINK_CONNECTED);
    assert_int_equal(link_get_connected(&c, &got), WIRE_OK);
    assert_true(got.tls);
    assert_memory_equal(got.exporter, m.exporter, 32);
    assert_int_equal(got.host.n, 17);
    assert_ptr_equal(got.host.p, b.data + 38);
}

static void no_tls_no_exporter(void **state)
{
    struct link_connected m = {.tls = false, .host = {(const uint8_t *)"h:1", 3}}, got;
    CLEANUP_BUF struct buf b;
    struct cursor c;
    (void)state;

    memset(m.exporter, 0x11, sizeof(m.exporter));
    buf_init(&b, LINK_MAX_PACKET);
    link_put_connected(&b, &m);
    after_kind(&c, &b, LINK_CONNECTED);
    assert_int_equal(link_get_connected(&c, &got), WIRE_OK);
    assert_false(got.tls);
    assert_int_equal(got.exporter[0], 0);
    b.data[5] = 1;
    after_kind(&c, &b, LINK_CONNECTED);
    assert_int_equal(link_get_connected(&c, &got), WIRE_MALFORMED);
    b.data[5] = 0;
    b.data[1] = 2;
    after_kind(&c, &b, LINK_CONNECTED);
    assert_int_equal(link_get_connected(&c, &got), WIRE_MALFORMED);
}

static void closed(void **state)
{
    CLEANUP_BUF struct buf b;
    char reason[300];
    struct link_closed got;
    struct cursor c;
    (void)state;

    buf_init(&b, LINK_MAX_PACKET);
    link_put_closed(&b, 1003, "why");
    assert_int_equal(b.len, 10);
    assert_memory_equal(b.data, "\x12\xeb\x03\x03\0\0\0why", 10);
    after_kind(&c, &b, LINK_CLOSED);
    assert_int_equal(link_get_closed(&c, &got), WIRE_OK);
    assert_int_equal(got.code, 1003);
    assert_int_equal(got.reason.n, 3);
    memset(reason, 'x', sizeof(reason));
    reason[sizeof(reason) - 1] = '\0';
    buf_reset(&b);
    link_put_closed(&b, 0, reason);
    after_kind(&c, &b, LINK_CLOSED);
    assert_int_equal(link_get_closed(&c, &got), WIRE_OK);
    assert_int_equal(got.reason.n, LINK_MAX_REASON);
    buf_reset(&b);
    link_put_closed(&b, 7, NULL);
    after_kind(&c, &b, LINK_CLOSED);
    assert_int_equal(link_get_closed(&c, &got), WIRE_OK);
    assert_int_equal(got.reason.n, 0);
}

static void longer_than_its_limit(void **state)
{
    struct link_connected m = {0}, got_connected;
    struct link_closed got_closed;
    static uint8_t host[RELAY_MAX_HOST + 1];
    CLEANUP_BUF struct buf b;
    struct cursor c;
    (void)state;

    buf_init(&b, LINK_MAX_PACKET);
    for (size_t n = RELAY_MAX_HOST; n <= RELAY_MAX_HOST + 1; n++) {
        m.host = (struct span){host, n};
        buf_reset(&b);
        link_put_connected(&b, &m);
        after_kind(&c, &b, LINK_CONNECTED);
        assert_int_equal(
                link_get_connected(&c, &got_connected), n > RELAY_MAX_HOST ? WIRE_MALFORMED : WIRE_OK);
    }
    buf_reset(&b);
    buf_u16(&b, 1);
    buf_lp(&b, host, LINK_MAX_REASON + 1);
    cursor_init(&c, b.data, b.len);
    assert_int_equal(link_get_closed(&c, &got_closed), WIRE_MALFORMED);
}

static void rtt(void **state)
{
    CLEANUP_BUF struct buf b;
    uint32_t got = 1;
    struct cursor c;
    (void)state;

    buf_init(&b, LINK_MAX_PACKET);
    link_put_rtt(&b, 0x01020304);
    assert_memory_equal(b.data, "\x13\x04\x03\x02\x01", 5);
    after_kind(&c, &b, LINK_RTT);
    assert_int_equal(link_get_rtt(&c, &got), WIRE_OK);
    assert_int_equal(got, 0x01020304);
}

/* Short by one, and one too long: malformed, and the output as it was. */
static void every_length_but_one_is_malformed(void **state)
{
    struct link_connected m = {.host = {(const uint8_t *)"h:1", 3}}, connected_before, got;
    CLEANUP_BUF struct buf b;
    struct cursor c;
    uint32_t us = 77;
    (void)state;

    memset(&got, 0x33, sizeof(got));
    connected_before = got;
    buf_init(&b, LINK_MAX_PACKET);
    link_put_connected(&b, &m);
    buf_u8(&b, 0);
    for (size_t n = 1; n <= b.len; n++) {
        if (n == b.len - 1)
            continue;
        cursor_init(&c, b.data + 1, n - 1);
        assert_int_equal(link_get_connected(&c, &got), WIRE_MALFORMED);
        assert_memory_equal(&got, &connected_before, sizeof(got));
    }
    cursor_init(&c, b.data, 3);
    assert_int_equal(link_get_rtt(&c, &us), WIRE_MALFORMED);
    cursor_init(&c, b.data, 5);
    assert_int_equal(link_get_rtt(&c, &us), WIRE_MALFORMED);
    assert_int_equal(us, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(connected),
            cmocka_unit_test(no_tls_no_exporter),
            cmocka_unit_test(closed),
            cmocka_unit_test(longer_than_its_limit),
            cmocka_unit_test(rtt),
            cmocka_unit_test(every_length_but_one_is_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
