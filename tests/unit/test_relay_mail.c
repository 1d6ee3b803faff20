#include "relay_peer.h"

static struct envelope_id numbered(uint32_t n)
{
    struct envelope_id id = {{0}};

    memcpy(id.b, &n, sizeof(n));
    return id;
}

/* Envelopes first … first + count - 1 for bob's first device, in one message. */
static void submit_many(struct peer *from, uint32_t first, uint32_t count, size_t size, uint8_t flags)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    static uint8_t body[RELAY_MAX_BODY];

    relay_begin(&b, RELAY_SUBMIT, first);
    for (uint32_t i = 0; i < count; i++) {
        const struct relay_submit_item m = {.id = numbered(first + i),
                .to = address_of(&from->env->bob, 1),
                .flags = flags,
                .expires_ms = WALL + 1000000,
                .body = {body, size}};

        relay_add_submit(&b, &m);
    }
    feed(from, &b);
}

/* All of the answer has this status. */
static void expect_submitted(struct peer *p, uint32_t first, uint32_t count, uint8_t status)
{
    CLEANUP_BUF struct buf b = {0};
    struct relay_submitted_item item;
    struct cursor c;
    uint8_t type;
    uint32_t ref;
    uint16_t n = 0;

    assert_true(pull(p, &b, &type, &ref, &c));
    assert_int_equal(type, RELAY_SUBMITTED);
    assert_int_equal(ref, first);
    assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &n), WIRE_OK);
    assert_int_equal(n, count);
    for (uint32_t i = 0; i < n; i++) {
        const struct envelope_id id = numbered(first + i);

        assert_int_equal(relay_next_submitted(&c, &item), WIRE_OK);
        assert_memory_equal(item.id.b, id.b, 16);
        assert_int_equal(item.status, status);
    }
    assert_int_equal(cursor_end(&c), WIRE_OK);
}

/* Takes DELIVERs until there is no more output; the ids must go on from *next. How many messages, and the
 * largest. */
static unsigned take_delivered(struct peer *p, uint32_t *next, size_t *ret_largest)
{
    unsigned messages = 0;
    uint8_t type;
    uint32_t ref;
    struct cursor c;
    struct buf b = {0};

    while (pull(p, &b, &type, &ref, &c)) {
        struct relay_deliver_item item;
        uint16_t n;

        if (type == RELAY_DELIVER) {
            assert_int_equal(relay_read_count(&c, 1, RELAY_MAX_BATCH, &n), WIRE_OK);
            while (n-- > 0) {
                const struct envelope_id id = numbered((*next)++);

                assert_int_equal(relay_next_deliver(&c, &item), WIRE_OK);
                assert_memory_equal(item.id.b, id.b, 16);
            }
            assert_int_equal(cursor_end(&c), WIRE_OK);
            messages++;
            if (ret_largest && b.len > *ret_largest)
                *ret_largest = b.len;
        } else {
            assert_int_equal(type, RELAY_DRAINED);
        }
        buf_done(&b);
    }
    return messages;
}

static void ack_many(struct peer *p, uint32_t first, uint32_t count)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};

    relay_begin(&b, RELAY_ACK, 0);
    for (uint32_t i = 0; i < count; i++) {
        const struct envelope_id id = numbered(first + i);

        relay_add_ack(&b, &id);
    }
    feed(p, &b);
}

/* Delivered before it is stored, acknowledged before it is stored: gone once it is. */
static void test_live_and_early_ack(void **state)
{
    struct env *e = *state;
    struct peer a, b;
    uint32_t next = 1;

    connect_empty(e, &a, &e->alice, 1);
    connect_empty(e, &b, &e->bob, 1);
    submit_many(&a, 1, 10, 50, 0);
    assert_int_equal(take_delivered(&b, &next, NULL), 1);
    assert_int_equal(next, 11);
    expect_nothing(&a);
    ack_many(&b, 1, 10);
    settle(e);
    expect_submitted(&a, 1, 10, SUBMIT_STORED);
    submit_many(&a, 1, 10, 50, 0);
    settle(e);
    expect_submitted(&a, 1, 10, SUBMIT_DUPLICATE);
    expect_nothing(&b);
    conn_gone(b.conn);
    connect_empty(e, &b, &e->bob, 1);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

/* Batches are as long as what waits, and not longer than they may be. */
static void test_batches(void **state)
{
    struct env *e = *state;
    struct peer a, b;
    uint32_t next = 1;
    size_t largest = 0;

    connect_empty(e, &a, &e->alice, 1);
    connect_empty(e, &b, &e->bob, 1);
    for (uint32_t i = 0; i < 50; i++)
        submit_many(&a, 1 + i, 1, 100, 0);
    assert_int_equal(take_delivered(&b, &next, &largest), 1);
    for (uint32_t i = 0; i < 50; i++)
        submit_many(&a, 51 + i, 1, 6000, 0);
    assert_in_range(take_delivered(&b, &next, &largest), 4, 6);
    submit_many(&a, 101, 1, RELAY_MAX_BODY, 0);
    submit_many(&a, 102, 1, RELAY_MAX_BODY, 0);
    assert_int_equal(take_delivered(&b, &next, &largest), 2);
    assert_int_equal(next, 103);
    assert_in_range(largest, RELAY_MAX_BODY, RELAY_MAX_MESSAGE);
    settle(e);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

/* The connection is replaced while envelopes are on their way to the store: the new one gets all of them, in
 * order. */
static void test_replaced_while_storing(void **state)
{
    struct env *e = *state;
    struct peer a, b, c;
    uint32_t next = 1;

    connect_empty(e, &a, &e->alice, 1);
    connect_empty(e, &b, &e->bob, 1);
    submit_many(&a, 1, 20, 50, 0);
    (void)take_delivered(&b, &next, NULL);
    assert_int_equal(connect_device(e, &c, &e->bob, 1).waiting, 20);
    settle(e);
    next = 1;
    (void)take_delivered(&c, &next, NULL);
    assert_int_equal(next, 21);
    submit_many(&a, 21, 5, 50, 0);
    settle(e);
    (void)take_delivered(&c, &next, NULL);
    assert_int_equal(next, 26);
    conn_gone(a.conn);
    conn_gone(b.conn);
    conn_gone(c.conn);
}

/* The same, with envelopes that the old connection is sent after the new one has asked to take its place. */
static void test_replaced_in_between(void **state)
{
    CLEANUP_BUF struct buf auth = {.max = RELAY_MAX_MESSAGE};
    const struct auth_lie none = {0};
    struct env *e = *state;
    struct peer a, b, c;
    uint32_t next = 1;

    connect_empty(e, &a, &e->alice, 1);
    connect_empty(e, &b, &e->bob, 1);
    open_peer(e, &c);
    put_auth(&c, &e->bob, 1, &none, &auth);
    feed(&c, &auth);
    submit_many(&a, 1, 10, 50, 0);
    (void)take_delivered(&b, &next, NULL);
    assert_int_equal(next, 11);
    settle(e);
    (void)expect(&c, RELAY_WELCOME, 7);
    submit_many(&a, 11, 10, 50, 0);
    settle(e);
    next = 1;
    (void)take_delivered(&c, &next, NULL);
    assert_int_equal(next, 21);
    conn_gone(a.conn);
    conn_gone(b.conn);
    conn_gone(c.conn);
}

/* A window that is full: what follows waits in the store, and nothing overtakes it when there is room again.
 */
static void test_window_and_order(void **state)
{
    struct env *e = *state;
    struct peer a, b;
    uint32_t next = 1, sent = 1;

    connect_empty(e, &a, &e->alice, 1);
    connect_empty(e, &b, &e->bob, 1);
    for (; sent < 1501; sent += 100)
        submit_many(&a, sent, 100, 10, 0);
    (void)take_delivered(&b, &next, NULL);
    assert_int_equal(next, 1025);
    settle(e);
    expect_nothing(&b);
    submit_many(&a, 9000, 1, 10, RELAY_SUBMIT_EPHEMERAL);
    while (conn_has_output(a.conn)) {
        struct buf m = {0};

        assert_true(conn_pull(a.conn, &m));
        buf_done(&m);
    }
    ack_many(&b, 1, 300);
    submit_many(&a, sent, 50, 10, 0);
    sent += 50;
    settle(e);
    (void)take_delivered(&b, &next, NULL);
    assert_in_range(next, 1025 + 250, 1025 + 300);
    for (uint32_t acked = 301; acked < sent; acked += 50) {
        ack_many(&b, acked, 50);
        settle(e);
        (void)take_delivered(&b, &next, NULL);
    }
    assert_int_equal(next, sent);
    submit_many(&a, sent, 10, 10, 0);
    assert_int_equal(take_delivered(&b, &next, NULL), 1);
    assert_int_equal(next, sent + 10);
    settle(e);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

static void test_backlog_before_new(void **state)
{
    struct env *e = *state;
    struct peer a, b;
    uint32_t next = 1;

    connect_empty(e, &a, &e->alice, 1);
    for (uint32_t i = 0; i < 7; i++)
        submit_many(&a, 1 + 100 * i, 100, 10, 0);
    settle(e);
    assert_int_equal(connect_device(e, &b, &e->bob, 1).waiting, 700);
    submit_many(&a, 701, 100, 10, 0);
    submit_many(&a, 801, 100, 10, 0);
    settle(e);
    submit_many(&a, 901, 100, 10, 0);
    settle(e);
    (void)take_delivered(&b, &next, NULL);
    ack_many(&b, 1, next - 1);
    settle(e);
    (void)take_delivered(&b, &next, NULL);
    assert_int_equal(next, 1001);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

static void test_drained(void **state)
{
    struct env *e = *state;
    struct peer a, b;
    uint32_t next = 1;

    connect_empty(e, &a, &e->alice, 1);
    submit_many(&a, 1, 3, 10, 0);
    settle(e);
    (void)connect_device(e, &b, &e->bob, 1);
    settle(e);
    submit_many(&a, 4, 1, 10, 0);
    settle(e);
    (void)expect(&b, RELAY_DELIVER, 0);
    next = 4;
    (void)take_delivered(&b, &next, NULL);
    ack_many(&b, 1, 2);
    settle(e);
    expect_nothing(&b);
    ack_many(&b, 3, 1);
    expect_nothing(&b);
    settle(e);
    (void)expect(&b, RELAY_DRAINED, 0);
    ack_many(&b, 4, 1);
    settle(e);
    expect_nothing(&b);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

static void test_ephemeral(void **state)
{
    struct env *e = *state;
    struct peer a, b;
    uint32_t next = 1;

    connect_empty(e, &a, &e->alice, 1);
    submit_many(&a, 1, 1, 10, RELAY_SUBMIT_EPHEMERAL);
    expect_submitted(&a, 1, 1, SUBMIT_NOT_CONNECTED);
    connect_empty(e, &b, &e->bob, 1);
    submit_many(&a, 1, 1, 10, RELAY_SUBMIT_EPHEMERAL);
    expect_submitted(&a, 1, 1, SUBMIT_STORED);
    (void)take_delivered(&b, &next, NULL);
    assert_int_equal(next, 2);
    submit_many(&a, 1, 1, 10, RELAY_SUBMIT_EPHEMERAL);
    expect_submitted(&a, 1, 1, SUBMIT_DUPLICATE);
    ack_many(&b, 1, 1);
    settle(e);
    /* The store has never heard of it. */
    submit_many(&a, 1, 1, 10, 0);
    settle(e);
    expect_submitted(&a, 1, 1, SUBMIT_STORED);
    conn_gone(b.conn);
    assert_int_equal(connect_device(e, &b, &e->bob, 1).waiting, 1);
    settle(e);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

static void test_statuses(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, answer = {0};
    struct env *e = *state;
    struct relay_submit_item m = {
            .to = address_of(&e->bob, 9), .expires_ms = WALL + 1, .body = {(const uint8_t *)"x", 1}};
    static const uint8_t wanted[] = {SUBMIT_NO_DEVICE, SUBMIT_EXPIRED, SUBMIT_STORED, SUBMIT_DUPLICATE};
    struct relay_submitted_item item;
    struct cursor c;
    struct peer p;
    uint8_t type;
    uint32_t ref;
    uint16_t n = 0;

    connect_empty(e, &p, &e->alice, 1);
    relay_begin(&b, RELAY_SUBMIT, 5);
    relay_add_submit(&b, &m);
    m.to = address_of(&e->bob, 1);
    m.expires_ms = WALL;
    relay_add_submit(&b, &m);
    m.expires_ms = UINT64_MAX;
    relay_add_submit(&b, &m);
    relay_add_submit(&b, &m);
    feed(&p, &b);
    settle(e);
    assert_true(pull(&p, &answer, &type, &ref, &c));
    assert_int_equal(type, RELAY_SUBMITTED);
    assert_int_equal(relay_read_count(&c, 1, 10, &n), WIRE_OK);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(relay_next_submitted(&c, &item), WIRE_OK);
        assert_int_equal(item.status, wanted[i]);
    }
    conn_gone(p.conn);
}

/* Reading stops while many submissions are with the store, and goes on when they are done. */
static void test_backpressure(void **state)
{
    struct env *e = *state;
    struct peer a;
    uint32_t n = 0;
    unsigned woken;

    connect_empty(e, &a, &e->alice, 1);
    while (conn_wants_read(a.conn) && n < 1000)
        submit_many(&a, 1 + n++, 1, 10, 0);
    assert_int_equal(n, CONN_MAX_INFLIGHT);
    woken = a.woken;
    settle(e);
    assert_true(conn_wants_read(a.conn));
    assert_true(a.woken > woken);
    for (n = 0; conn_wants_read(a.conn) && n < 1000; n++)
        submit_many(&a, 2000 + n, 1, RELAY_MAX_BODY, 0);
    assert_in_range(n, 10, 11);
    settle(e);
    /* The answers are not taken: at some point no more questions are. */
    for (n = 0; conn_wants_read(a.conn) && n < 10000; n++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};

        build_lookup(&a, &b);
        feed(&a, &b);
        settle(e);
    }
    assert_in_range(n, 10, 9999);
    conn_gone(a.conn);
}

static void test_drain_on_shutdown(void **state)
{
    struct env *e = *state;
    struct peer a;

    connect_empty(e, &a, &e->alice, 1);
    submit_many(&a, 1, 10, 10, 0);
    hub_drain(e->hub);
    assert_false(conn_wants_read(a.conn));
    settle(e);
    hub_shut_down(e->hub);
    expect_submitted(&a, 1, 10, SUBMIT_STORED);
    expect_closing(&a, 1001);
    conn_gone(a.conn);
}

static void test_rate_limits(void **state)
{
    struct env *e = *state;
    struct peer a;
    unsigned answered = 0, limited = 0;

    connect_empty(e, &a, &e->alice, 1);
    for (int i = 0; i < 20; i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, answer = {0};
        struct relay_error_msg m;
        struct cursor c;
        uint8_t type;
        uint32_t ref;

        build_claim(&a, &b);
        feed(&a, &b);
        settle(e);
        assert_true(pull(&a, &answer, &type, &ref, &c));
        if (type == RELAY_BUNDLE) {
            answered++;
            continue;
        }
        assert_int_equal(relay_get_error(&c, &m), WIRE_OK);
        assert_int_equal(m.code, RELAY_ERR_RATE_LIMITED);
        assert_in_range(m.retry_after_ms, 1, 300100);
        limited++;
    }
    assert_int_equal(answered, 12);
    assert_int_equal(limited, 8);
    for (uint32_t i = 0; i < 25; i++) {
        submit_many(&a, 1 + 1000 * i, 1000, 10, 0);
        settle(e);
        expect_submitted(&a, 1 + 1000 * i, 1000, i < 20 ? SUBMIT_STORED : SUBMIT_RATE_LIMITED);
    }
    conn_gone(a.conn);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            RELAY_TEST(test_live_and_early_ack),
            RELAY_TEST(test_batches),
            RELAY_TEST(test_replaced_while_storing),
            RELAY_TEST(test_replaced_in_between),
            RELAY_TEST(test_window_and_order),
            RELAY_TEST(test_backlog_before_new),
            RELAY_TEST(test_drained),
            RELAY_TEST(test_ephemeral),
            RELAY_TEST(test_statuses),
            RELAY_TEST(test_backpressure),
            RELAY_TEST(test_drain_on_shutdown),
            cmocka_unit_test_setup_teardown(test_rate_limits, setup_limited, teardown),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
