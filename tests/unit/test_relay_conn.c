#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base.h"
#include "conn.h"
#include "store.h"

#define HOST "relay.example:443"
#define WALL UINT64_C(1700000000000)

static uint64_t mono_ms = 1000000;

static uint64_t fake_now(void)
{
    return WALL;
}

static uint64_t fake_mono(void)
{
    return mono_ms;
}

struct device_keys {
    uint8_t dsk[32], dsk_secret[64], rak[32], rak_secret[64];
};

struct account {
    const char *name;
    uint8_t ak[32], ak_secret[64], uid[UID_LEN];
    struct device_keys device[2];
};

struct env {
    char dir[64];
    uv_loop_t loop;
    struct store *store;
    struct hub *hub;
    struct account alice, bob;
};

/* One connection, and what came out of it. */
struct peer {
    struct env *env;
    struct conn *conn;
    uint8_t nonce[RELAY_NONCE_LEN];
    unsigned woken;
};

static void make_account(struct account *a, const char *name)
{
    uint8_t input[12 + 32] = "e2eed/1 uid";

    a->name = name;
    (void)crypto_sign_keypair(a->ak, a->ak_secret);
    memcpy(input + 12, a->ak, 32);
    (void)crypto_generichash(a->uid, UID_LEN, input, sizeof(input), NULL, 0);
    for (size_t i = 0; i < 2; i++) {
        (void)crypto_sign_keypair(a->device[i].dsk, a->device[i].dsk_secret);
        (void)crypto_sign_keypair(a->device[i].rak, a->device[i].rak_secret);
    }
}

static struct address address_of(const struct account *a, uint32_t device)
{
    struct address who = {.device = device};

    memcpy(who.uid, a->uid, UID_LEN);
    return who;
}

static void sign(struct buf *out, const char *label, const struct buf *body, const uint8_t secret[64])
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    uint8_t signature[64];

    buf_bytes(&b, label, strlen(label) + 1);
    buf_bytes(&b, body->data, body->len);
    assert_int_equal(crypto_sign_detached(signature, NULL, b.data, b.len, secret), 0);
    buf_bytes(out, signature, sizeof(signature));
}

static void make_entry(const struct account *a, struct buf *out)
{
    CLEANUP_BUF struct buf body = {.max = RELAY_MAX_ENTRY};

    buf_u8(&body, 1);
    buf_bytes(&body, a->ak, 32);
    buf_lp(&body, a->name, strlen(a->name));
    buf_u64(&body, 1);
    buf_zero(&body, 32);
    buf_u64(&body, WALL);
    buf_u8(&body, 2);
    for (uint32_t i = 0; i < 2; i++) {
        buf_u32(&body, i + 1);
        buf_bytes(&body, a->device[i].dsk, 32);
        buf_zero(&body, 32);
        buf_bytes(&body, a->device[i].rak, 32);
        buf_u8(&body, 1);
        buf_u16(&body, 1);
    }
    buf_u8(&body, 0);
    buf_lp(out, body.data, body.len);
    sign(out, "e2eed/1 device list", &body, a->ak_secret);
    sign(out, "e2eed/1 device entry", &body, a->device[0].dsk_secret);
    sign(out, "e2eed/1 device entry", &body, a->device[1].dsk_secret);
}

static void put_register(const struct account *a, struct buf *out)
{
    CLEANUP_BUF struct buf entry = {.max = RELAY_MAX_ENTRY};
    struct relay_register m = {.name = {(const uint8_t *)a->name, strlen(a->name)}};

    make_entry(a, &entry);
    m.entry = (struct span){entry.data, entry.len};
    relay_put_register(out, 7, &m);
}

static void put_prekey(const struct account *a, bool is_signed, struct buf *out)
{
    CLEANUP_BUF struct buf body = {.max = RELAY_MAX_PREKEY};

    buf_u8(&body, 1);
    buf_bytes(&body, a->uid, UID_LEN);
    buf_u32(&body, 1);
    if (is_signed) {
        buf_u64(&body, 1);
        buf_u16(&body, 1);
    }
    buf_u32(&body, 5);
    buf_zero(&body, 32 + PREKEY_MLKEM_LEN);
    if (is_signed) {
        buf_u64(&body, WALL);
        buf_u64(&body, WALL + 1000);
    }
    buf_lp(out, body.data, body.len);
    sign(out, is_signed ? "e2eed/1 signed prekey" : "e2eed/1 one-time prekey", &body, a->device[0].dsk_secret);
}

/* How an AUTH differs from a right one. */
struct auth_lie {
    const char *host;
    int64_t time_off;
    bool other_nonce, other_key, dsk_for_rak, other_account, third_device, flip;
    uint8_t binding;
};

static struct relay_auth make_auth(const struct peer *p, const struct account *a, uint32_t device, const struct auth_lie *lie)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    const struct device_keys *keys = &a->device[device - 1];
    const struct account *bob = &p->env->bob;
    const char *host = lie->host ? lie->host : HOST;
    const uint8_t exporter[EXPORTER_LEN] = {9};
    const uint8_t *public = keys->rak, *secret = keys->rak_secret;
    uint8_t nonce[RELAY_NONCE_LEN];
    struct relay_auth m = {.who = address_of(a, lie->third_device ? 3 : device),
            .time_ms = WALL + (uint64_t)lie->time_off,
            .host = {(const uint8_t *)host, strlen(host)},
            .binding = lie->binding};

    memcpy(nonce, p->nonce, sizeof(nonce));
    if (lie->other_nonce)
        nonce[0] ^= 1;
    if (lie->dsk_for_rak)
        secret = keys->dsk_secret;
    if (lie->other_key || lie->other_account) {
        public = bob->device[0].rak;
        secret = bob->device[0].rak_secret;
    }
    if (lie->other_account)
        m.who = address_of(a, 1);
    memcpy(m.rak, public, 32);
    randombytes_buf(m.nonce, sizeof(m.nonce));
    relay_auth_signed(&b, &m, nonce, m.binding ? exporter : NULL);
    assert_int_equal(crypto_sign_detached(m.signature, NULL, b.data, b.len, secret), 0);
    if (lie->flip)
        m.signature[63] ^= 1;
    return m;
}

static void put_auth(const struct peer *p, const struct account *a, uint32_t device, const struct auth_lie *lie,
        struct buf *out)
{
    struct relay_auth m = make_auth(p, a, device, lie);

    relay_put_auth(out, 7, &m);
}

static void on_wake(void *io)
{
    ((struct peer *)io)->woken++;
}

static void settle(struct env *e)
{
    while (store_pending(e->store) > 0)
        (void)uv_run(&e->loop, UV_RUN_ONCE);
}

static void feed(struct peer *p, const struct buf *b)
{
    assert_int_equal(buf_status(b), 0);
    conn_message(p->conn, b->data, b->len);
}

/* The next message out; its type, ref and fields. The buffer is the caller's. */
static bool pull(struct peer *p, struct buf *ret_message, uint8_t *ret_type, uint32_t *ret_ref, struct cursor *ret_fields)
{
    if (!conn_pull(p->conn, ret_message))
        return false;
    cursor_init(ret_fields, ret_message->data, ret_message->len);
    assert_int_equal(relay_read_head(ret_fields, ret_type, ret_ref), WIRE_OK);
    return true;
}

/* Takes the next message, which must be of this type; of an ERROR the code is given back. */
static uint16_t expect(struct peer *p, uint8_t type, uint32_t ref)
{
    CLEANUP_BUF struct buf b = {0};
    struct relay_error_msg error = {0};
    struct cursor c;
    uint8_t got;
    uint32_t got_ref;

    assert_true(pull(p, &b, &got, &got_ref, &c));
    assert_int_equal(got, type);
    assert_int_equal(got_ref, ref);
    if (type == RELAY_ERROR)
        assert_int_equal(relay_get_error(&c, &error), WIRE_OK);
    return error.code;
}

static void expect_nothing(struct peer *p)
{
    struct buf b = {0};

    assert_false(conn_pull(p->conn, &b));
}

static void expect_closing(struct peer *p, uint16_t close_code)
{
    uint16_t code = 0;

    expect_nothing(p);
    assert_true(conn_closing(p->conn));
    assert_true(conn_finished(p->conn, &code));
    assert_int_equal(code, close_code);
    assert_false(conn_wants_read(p->conn));
}

static struct peer open_peer_as(struct env *e, const struct conn_info *info, struct peer *p)
{
    CLEANUP_BUF struct buf b = {0};
    struct relay_challenge m;
    struct cursor c;
    uint8_t type;
    uint32_t ref;

    *p = (struct peer){.env = e};
    p->conn = conn_new(e->hub, info, on_wake, p);
    assert_non_null(p->conn);
    assert_true(pull(p, &b, &type, &ref, &c));
    assert_int_equal(type, RELAY_CHALLENGE);
    assert_int_equal(relay_get_challenge(&c, &m), WIRE_OK);
    assert_memory_equal(m.store_id, store_id(e->store), 16);
    memcpy(p->nonce, m.nonce, sizeof(p->nonce));
    return *p;
}

static void open_peer(struct env *e, struct peer *p)
{
    const struct conn_info info = {0};

    (void)open_peer_as(e, &info, p);
}

static void register_account(struct env *e, const struct account *a)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    struct peer p;

    open_peer(e, &p);
    put_register(a, &b);
    feed(&p, &b);
    assert_false(conn_wants_read(p.conn));
    settle(e);
    assert_true(conn_wants_read(p.conn));
    (void)expect(&p, RELAY_OK, 7);
    conn_gone(p.conn);
}

/* Connects; WELCOME is taken, and what follows is left. */
static struct relay_welcome connect_device(struct env *e, struct peer *p, const struct account *a, uint32_t device)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, answer = {0};
    const struct auth_lie none = {0};
    struct relay_welcome m = {0};
    struct cursor c;
    uint8_t type;
    uint32_t ref;

    open_peer(e, p);
    put_auth(p, a, device, &none, &b);
    feed(p, &b);
    settle(e);
    assert_true(pull(p, &answer, &type, &ref, &c));
    assert_int_equal(type, RELAY_WELCOME);
    assert_int_equal(ref, 7);
    assert_int_equal(relay_get_welcome(&c, &m), WIRE_OK);
    return m;
}

static void connect_empty(struct env *e, struct peer *p, const struct account *a, uint32_t device)
{
    assert_int_equal(connect_device(e, p, a, device).waiting, 0);
    (void)expect(p, RELAY_DRAINED, 0);
    expect_nothing(p);
}

static int setup_with(void **state, bool unlimited)
{
    static const char *const names[] = {HOST, "localhost:1"};
    const struct hub_clock clock = {fake_now, fake_mono};
    struct env *e = calloc(1, sizeof(*e));
    struct hub_options o = {.binding_required = true, .name = names, .names = 2};
    struct store_options so = {.dir = e->dir};
    char error[STORE_ERROR_LEN];

    if (!unlimited)
        hub_default_limits(o.limit);
    (void)snprintf(e->dir, sizeof(e->dir), "/tmp/e2ee-conn-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    assert_int_equal(uv_loop_init(&e->loop), 0);
    assert_int_equal(store_open(&e->store, &e->loop, &so, error), 0);
    e->hub = hub_new(e->store, &o, &clock);
    assert_non_null(e->hub);
    make_account(&e->alice, "alice");
    make_account(&e->bob, "bob");
    register_account(e, &e->alice);
    register_account(e, &e->bob);
    *state = e;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, true);
}

static int setup_limited(void **state)
{
    return setup_with(state, false);
}

static int teardown(void **state)
{
    struct env *e = *state;
    char command[128];

    store_close(e->store);
    (void)uv_run(&e->loop, UV_RUN_DEFAULT);
    hub_free(e->hub);
    assert_int_equal(uv_loop_close(&e->loop), 0);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", e->dir);
    assert_int_equal(system(command), 0);
    free(e);
    return 0;
}

/* --- AUTH --- */

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
            {"no binding over TLS", {0}, true, RELAY_ERR_BINDING_REQUIRED},
    };
    struct env *e = *state;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        const struct conn_info info = {.tls = table[i].tls};
        uint16_t code;
        struct peer p;

        (void)open_peer_as(e, &info, &p);
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
    static const struct auth_lie right[] = {
            {0}, {.host = "RELAY.example:443"}, {.host = "localhost:1"}, {.time_off = 600000}, {.time_off = -600000}};
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
    const struct conn_info same = {.tls = true, .exporter = exporter}, another = {.tls = true, .exporter = other};
    struct env *e = *state;

    for (int i = 0; i < 2; i++) {
        CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
        struct peer p;

        (void)open_peer_as(e, i == 0 ? &same : &another, &p);
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

static void build_submit(const struct peer *p, struct buf *b)
{
    const struct relay_submit_item m = {
            .to = address_of(&p->env->bob, 1), .expires_ms = WALL + 1000, .body = {(const uint8_t *)"body", 4}};

    relay_begin(b, RELAY_SUBMIT, 7);
    relay_add_submit(b, &m);
}

static void build_ack(const struct peer *p, struct buf *b)
{
    const struct envelope_id id = {{1}};

    (void)p;
    relay_begin(b, RELAY_ACK, 7);
    relay_add_ack(b, &id);
}

static void build_query(const struct peer *p, struct buf *b)
{
    const struct relay_query_item m = {.to = address_of(&p->env->bob, 1)};

    relay_begin(b, RELAY_QUERY, 7);
    relay_add_query(b, &m);
}

static void build_watch(const struct peer *p, struct buf *b)
{
    const struct address who = address_of(&p->env->bob, 1);

    relay_begin(b, RELAY_WATCH, 7);
    relay_add_watch(b, &who);
}

static void build_lookup(const struct peer *p, struct buf *b)
{
    const struct relay_lookup m = {.by = LOOKUP_BY_NAME, .key = {(const uint8_t *)"bob", 3}};

    (void)p;
    relay_put_lookup(b, 7, &m);
}

static void build_claim(const struct peer *p, struct buf *b)
{
    const struct address who = address_of(&p->env->bob, 1);

    relay_put_claim(b, 7, &who);
}

static void build_list(const struct peer *p, struct buf *b)
{
    const struct relay_list_users m = {.limit = 10};

    (void)p;
    relay_put_list_users(b, 7, &m);
}

static void build_put(const struct peer *p, struct buf *b)
{
    CLEANUP_BUF struct buf key = {.max = RELAY_MAX_PREKEY}, one = {.max = RELAY_MAX_PREKEY};
    struct relay_put_prekeys m = {.count = 1};

    put_prekey(&p->env->alice, true, &key);
    put_prekey(&p->env->alice, false, &one);
    m.signed_prekey = (struct span){key.data, key.len};
    m.one_time[0] = (struct span){one.data, one.len};
    relay_put_prekeys(b, 7, &m);
}

static void build_register(const struct peer *p, struct buf *b)
{
    put_register(&p->env->alice, b);
}

static void build_unregister(const struct peer *p, struct buf *b)
{
    struct relay_unregister m = {.time_ms = WALL};

    (void)p;
    relay_put_unregister(b, 7, &m);
}

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

/* --- mail --- */

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

/* Takes DELIVERs until there is no more output; the ids must go on from *next. How many messages, and the largest. */
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

/* The connection is replaced while envelopes are on their way to the store: the new one gets all of them, in order. */
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

/* A window that is full: what follows waits in the store, and nothing overtakes it when there is room again. */
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
    conn_gone(b.conn);
    connect_empty(e, &b, &e->bob, 1);
    conn_gone(a.conn);
    conn_gone(b.conn);
}

static void test_statuses(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, answer = {0};
    struct env *e = *state;
    struct relay_submit_item m = {.to = address_of(&e->bob, 9), .expires_ms = WALL + 1, .body = {(const uint8_t *)"x", 1}};
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

static void test_unregister(void **state)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE}, wrong = {.max = RELAY_MAX_MESSAGE}, text = {.max = 1000};
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
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
            TEST(test_auth_refused),
            TEST(test_auth_accepted),
            TEST(test_auth_bound),
            TEST(test_auth_replayed),
            TEST(test_unknown_account_may_register),
            TEST(test_auth_deadline),
            TEST(test_replaced),
            TEST(test_gone_while_waiting),
            TEST(test_malformed),
            TEST(test_before_welcome),
            TEST(test_oversized_and_unknown),
            TEST(test_register_refused),
            TEST(test_live_and_early_ack),
            TEST(test_batches),
            TEST(test_replaced_while_storing),
            TEST(test_window_and_order),
            TEST(test_backlog_before_new),
            TEST(test_drained),
            TEST(test_ephemeral),
            TEST(test_statuses),
            TEST(test_backpressure),
            TEST(test_drain_on_shutdown),
            TEST(test_presence),
            cmocka_unit_test_setup_teardown(test_rate_limits, setup_limited, teardown),
            TEST(test_unregister),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
