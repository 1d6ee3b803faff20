#include "relay_peer.h"

static void test_auth_refused(void **state)
{
    static const struct {
        const char *what;
        struct auth_lie lie;
        bool tls;
        uint16_t code;
    } table[] = {
            {"a host that is not ours", {.host = "evil.example:443"}, false, RELAY_ERR_WRONG_HOST},
            {"a host that begins like ours", {.host = "relay.example:44"}, false, RELAY_ERR_WRONG_HOST},
            {"ten minutes late", {.time_off = -600001}, false, RELAY_ERR_CLOCK_SKEW},
            {"ten minutes early", {.time_off = 600001}, false, RELAY_ERR_CLOCK_SKEW},
            {"the nonce of another connection", {.other_nonce = true}, false, RELAY_ERR_AUTH_FAILED},
            {"signed by another account", {.other_key = true}, false, RELAY_ERR_AUTH_FAILED},
            {"signed by the DSK", {.dsk_for_rak = true}, false, RELAY_ERR_AUTH_FAILED},
            {"another account's address", {.other_account = true}, false, RELAY_ERR_AUTH_FAILED},
            {"a device that is not listed", {.third_device = true}, false, RELAY_ERR_AUTH_FAILED},
            {"one bit of the signature", {.flip = true}, false, RELAY_ERR_AUTH_FAILED},
            {"binding without TLS", {.binding = BINDING_TLS_EXPORTER}, false, RELAY_ERR_AUTH_FAILED},
            {"binding to zeros without TLS", {.binding = BINDING_TLS_EXPORTER, .zero_exporter = true}, false,
                    RELAY_ERR_AUTH_FAILED},
            {"no binding over TLS", {0}, true, RELAY_ERR_BINDING_REQUIRED},
    };
    struct env *e = *state;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        const struct conn_info info = {.tls = table[i].tls};
        uint16_t code;
        struct peer p;

        open_peer_as(e, &info, &p);
        put_auth(&p, &e->alice, 1, &table[i].lie, &b);
        feed(&p, &b);
        settle(e);
        code = expect(&p, RELAY_ERROR, 7);
        if (code != table[i].code)
            fail_msg("%s: error %u", table[i].what, code);
        expect_closing(&p, 1008);
        conn_gone(p.conn);
    }
}

static void test_auth_accepted(void **state)
{
    static const struct auth_lie right[] = {{0}, {.host = "RELAY.example:443"}, {.host = "localhost:1"},
            {.time_off = 600000}, {.time_off = -600000}};
    struct env *e = *state;

    for (size_t i = 0; i < ARRAY_SIZE(right); i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        struct peer p;

        open_peer(e, &p);
        put_auth(&p, &e->alice, 1, &right[i], &b);
        feed(&p, &b);
        settle(e);
        (void)expect(&p, RELAY_WELCOME, 7);
        conn_gone(p.conn);
    }
}

static void test_auth_bound(void **state)
{
    const uint8_t exporter[EXPORTER_LEN] = {9}, other[EXPORTER_LEN] = {8};
    const struct auth_lie bound = {.binding = BINDING_TLS_EXPORTER};
    const struct conn_info same = {.tls = true, .exporter = exporter},
                           another = {.tls = true, .exporter = other};
    struct env *e = *state;

    for (int i = 0; i < 2; i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        struct peer p;

        open_peer_as(e, i == 0 ? &same : &another, &p);
        put_auth(&p, &e->alice, 1, &bound, &b);
        feed(&p, &b);
        settle(e);
        if (i == 0)
            (void)expect(&p, RELAY_WELCOME, 7);
        else
            assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_AUTH_FAILED);
        conn_gone(p.conn);
    }
}

/* A signature that was accepted once is worth nothing on another connection, or a second time on the same. */
static void test_auth_replayed(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    const struct auth_lie none = {0};
    struct env *e = *state;
    struct peer p, q;

    open_peer(e, &p);
    open_peer(e, &q);
    put_auth(&p, &e->alice, 1, &none, &b);
    feed(&p, &b);
    settle(e);
    (void)expect(&p, RELAY_WELCOME, 7);
    (void)expect(&p, RELAY_DRAINED, 0);
    feed(&q, &b);
    settle(e);
    assert_int_equal(expect(&q, RELAY_ERROR, 7), RELAY_ERR_AUTH_FAILED);
    expect_closing(&q, 1008);
    feed(&p, &b);
    assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_BAD_MESSAGE);
    expect_closing(&p, 1008);
    conn_gone(p.conn);
    conn_gone(q.conn);
}

static void test_unknown_account_may_register(void **state)
{
    CLEANUP_BUF struct buf auth = {.max = RELAY_MAX_MESSAGE}, reg = {.max = RELAY_MAX_MESSAGE};
    const struct auth_lie none = {0};
    struct env *e = *state;
    struct account carol;
    struct peer p;

    make_account(&carol, "carol");
    open_peer(e, &p);
    put_auth(&p, &carol, 1, &none, &auth);
    feed(&p, &auth);
    settle(e);
    assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_UNKNOWN_ACCOUNT);
    put_register(&carol, &reg);
    feed(&p, &reg);
    settle(e);
    (void)expect(&p, RELAY_OK, 7);
    feed(&p, &auth);
    settle(e);
    (void)expect(&p, RELAY_WELCOME, 7);
    conn_gone(p.conn);
}

static void test_auth_deadline(void **state)
{
    struct env *e = *state;
    struct peer silent, ready;

    connect_empty(e, &ready, &e->alice, 1);
    open_peer(e, &silent);
    mono_ms += CONN_AUTH_DEADLINE_MS - 1;
    hub_tick(e->hub);
    assert_false(conn_closing(silent.conn));
    mono_ms += 1;
    hub_tick(e->hub);
    expect_closing(&silent, 1008);
    assert_false(conn_closing(ready.conn));
    settle(e);
    conn_gone(silent.conn);
    conn_gone(ready.conn);
}

static void test_replaced(void **state)
{
    struct env *e = *state;
    struct peer first, second, third;

    connect_empty(e, &first, &e->alice, 1);
    connect_empty(e, &second, &e->alice, 2);
    connect_empty(e, &third, &e->alice, 1);
    assert_int_equal(expect(&first, RELAY_ERROR, 0), RELAY_ERR_REPLACED);
    expect_closing(&first, 1008);
    assert_false(conn_closing(second.conn));
    conn_gone(first.conn);
    conn_gone(second.conn);
    conn_gone(third.conn);
}

/* The socket goes while a request is with the store. */
static void test_gone_while_waiting(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    const struct auth_lie none = {0};
    struct env *e = *state;
    struct peer p;

    open_peer(e, &p);
    put_auth(&p, &e->alice, 1, &none, &b);
    feed(&p, &b);
    conn_gone(p.conn);
    settle(e);
    conn_gone(NULL);
}

/* --- malformed messages --- */

/* What each request is answered with, when it is right. */
static const struct request {
    void (*build)(const struct peer *p, struct buf *b);
    uint8_t answer; /* 0: none */
    unsigned step;  /* every how many lengths are tried */
} requests[] = {
        {build_submit, RELAY_SUBMITTED, 1},
        {build_ack, 0, 1},
        {build_query, RELAY_STATES, 1},
        {build_watch, RELAY_PRESENCE, 1},
        {build_lookup, RELAY_ACCOUNT, 1},
        {build_claim, RELAY_BUNDLE, 1},
        {build_list, RELAY_USERS, 1},
        {build_put, RELAY_PREKEYS, 97},
        {build_register, RELAY_OK, 41},
        {build_unregister, RELAY_ERROR, 1},
};

static void ready_peer(struct env *e, struct peer *p)
{
    connect_empty(e, p, &e->alice, 1);
}

/* Every request, cut at every length and with one byte too many: BAD_MESSAGE, and the connection closes. */
static void test_malformed(void **state)
{
    struct env *e = *state;

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        struct peer p;
        size_t whole;

        ready_peer(e, &p);
        requests[i].build(&p, &b);
        whole = b.len;
        feed(&p, &b);
        settle(e);
        if (requests[i].answer)
            (void)expect(&p, requests[i].answer, 7);
        expect_nothing(&p);
        conn_gone(p.conn);
        buf_u8(&b, 0);
        for (size_t n = 0; n <= whole + 1; n += n + requests[i].step < whole ? requests[i].step : 1) {
            if (n == whole)
                continue;
            ready_peer(e, &p);
            conn_message(p.conn, b.data, n);
            settle(e);
            assert_int_equal(expect(&p, RELAY_ERROR, n < 5 ? 0 : 7), RELAY_ERR_BAD_MESSAGE);
            expect_closing(&p, 1008);
            conn_gone(p.conn);
        }
    }
}

static void test_before_welcome(void **state)
{
    struct env *e = *state;

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        struct peer p;

        if (requests[i].build == build_register)
            continue;
        open_peer(e, &p);
        requests[i].build(&p, &b);
        feed(&p, &b);
        assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_BAD_MESSAGE);
        expect_closing(&p, 1008);
        feed(&p, &b);
        expect_nothing(&p);
        conn_gone(p.conn);
    }
}

static void test_oversized_and_unknown(void **state)
{
    static uint8_t big[RELAY_MAX_MESSAGE + 1] = {RELAY_SUBMIT};
    const uint8_t unknown[] = {0x77, 9, 0, 0, 0, 1, 2, 3};
    struct env *e = *state;
    struct peer p;

    ready_peer(e, &p);
    conn_message(p.conn, unknown, sizeof(unknown));
    assert_int_equal(expect(&p, RELAY_ERROR, 9), RELAY_ERR_UNSUPPORTED);
    assert_true(conn_wants_read(p.conn));
    conn_message(p.conn, big, sizeof(big));
    assert_int_equal(expect(&p, RELAY_ERROR, 0), RELAY_ERR_BAD_MESSAGE);
    expect_closing(&p, 1008);
    conn_gone(p.conn);
    ready_peer(e, &p);
    conn_violation(p.conn, 1003, "text");
    assert_int_equal(expect(&p, RELAY_ERROR, 0), RELAY_ERR_BAD_MESSAGE);
    expect_closing(&p, 1003);
    conn_gone(p.conn);
}

static void test_register_refused(void **state)
{
    struct env *e = *state;
    struct account carol, thief;
    /* From the end: the second device's signature, the first's, the account's, and one bit of the body. */
    static const size_t flip[] = {1, 65, 129, 200};
    CLEANUP_BUF struct buf taken = {.max = RELAY_MAX_MESSAGE}, own = {.max = RELAY_MAX_MESSAGE};
    struct peer p;

    make_account(&carol, "carol");
    make_account(&thief, "bob");
    for (size_t i = 0; i < ARRAY_SIZE(flip); i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};

        put_register(&carol, &b);
        b.data[b.len - flip[i]] ^= 0x10;
        open_peer(e, &p);
        feed(&p, &b);
        settle(e);
        assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_AUTH_FAILED);
        expect_closing(&p, 1008);
        conn_gone(p.conn);
    }
    open_peer(e, &p);
    put_register(&thief, &taken);
    feed(&p, &taken);
    settle(e);
    assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_NAME_TAKEN);
    conn_gone(p.conn);
    ready_peer(e, &p);
    put_register(&carol, &own);
    feed(&p, &own);
    settle(e);
    assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_FORBIDDEN);
    conn_gone(p.conn);
}

static void test_presence(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, one = {0};
    struct env *e = *state;
    struct relay_presence_item item;
    struct cursor c;
    struct peer a, p;
    uint8_t type;
    uint32_t ref;
    uint16_t n;

    connect_empty(e, &a, &e->alice, 1);
    build_watch(&a, &b);
    feed(&a, &b);
    (void)expect(&a, RELAY_PRESENCE, 7);
    connect_empty(e, &p, &e->bob, 1);
    (void)expect(&a, RELAY_PRESENCE, 0);
    expect_nothing(&a);
    /* Comings and goings that nobody has read make one message with the last state. */
    for (int i = 0; i < 5; i++) {
        conn_gone(p.conn);
        connect_empty(e, &p, &e->bob, 1);
    }
    conn_gone(p.conn);
    assert_true(pull(&a, &one, &type, &ref, &c));
    assert_int_equal(relay_read_count(&c, 0, 10, &n), WIRE_OK);
    assert_int_equal(n, 1);
    assert_int_equal(relay_next_presence(&c, &item), WIRE_OK);
    assert_false(item.connected);
    expect_nothing(&a);
    /* The next message tells of another device, and of nothing that was told. */
    relay_begin(&b, RELAY_WATCH, 7);
    item.who.device = 2;
    relay_add_watch(&b, &item.who);
    feed(&a, &b);
    (void)expect(&a, RELAY_PRESENCE, 7);
    connect_empty(e, &p, &e->bob, 2);
    buf_done(&one);
    assert_true(pull(&a, &one, &type, &ref, &c));
    assert_int_equal(relay_read_count(&c, 0, 10, &n), WIRE_OK);
    assert_int_equal(n, 1);
    assert_int_equal(relay_next_presence(&c, &item), WIRE_OK);
    assert_int_equal(item.who.device, 2);
    assert_true(item.connected);
    conn_gone(p.conn);
    conn_gone(a.conn);
}

/* The end of a connection is news to itself, too, if it watches its own device. */
static void test_watches_itself(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    struct env *e = *state;
    struct address self;
    struct peer a;

    connect_empty(e, &a, &e->alice, 1);
    self = address_of(&e->alice, 1);
    relay_begin(&b, RELAY_WATCH, 7);
    relay_add_watch(&b, &self);
    feed(&a, &b);
    (void)expect(&a, RELAY_PRESENCE, 7);
    conn_gone(a.conn);
}

static void test_unregister(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, wrong = {.max = RELAY_MAX_MESSAGE},
                           text = {.max = 1000};
    struct env *e = *state;
    struct relay_unregister m = {.time_ms = WALL};
    struct peer p, second;

    connect_empty(e, &p, &e->alice, 1);
    connect_empty(e, &second, &e->alice, 2);
    build_unregister(&p, &wrong);
    feed(&p, &wrong);
    assert_int_equal(expect(&p, RELAY_ERROR, 7), RELAY_ERR_FORBIDDEN);
    relay_delete_signed(&text, p.nonce, e->alice.uid, m.time_ms);
    assert_int_equal(crypto_sign_detached(m.signature, NULL, text.data, text.len, e->alice.ak_secret), 0);
    relay_put_unregister(&b, 7, &m);
    feed(&second, &b);
    assert_int_equal(expect(&second, RELAY_ERROR, 7), RELAY_ERR_FORBIDDEN);
    feed(&p, &b);
    settle(e);
    (void)expect(&p, RELAY_OK, 7);
    expect_closing(&p, 1000);
    assert_int_equal(expect(&second, RELAY_ERROR, 0), RELAY_ERR_UNKNOWN_ACCOUNT);
    expect_closing(&second, 1008);
    conn_gone(p.conn);
    conn_gone(second.conn);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            RELAY_TEST(test_auth_refused),
            RELAY_TEST(test_auth_accepted),
            RELAY_TEST(test_auth_bound),
            RELAY_TEST(test_auth_replayed),
            RELAY_TEST(test_unknown_account_may_register),
            RELAY_TEST(test_auth_deadline),
            RELAY_TEST(test_replaced),
            RELAY_TEST(test_gone_while_waiting),
            RELAY_TEST(test_malformed),
            RELAY_TEST(test_before_welcome),
            RELAY_TEST(test_oversized_and_unknown),
            RELAY_TEST(test_register_refused),
            RELAY_TEST(test_presence),
            RELAY_TEST(test_watches_itself),
            RELAY_TEST(test_unregister),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
