#include "relay_peer.h"

uint64_t mono_ms = 1000000;

static uint64_t fake_now(void)
{
    return WALL;
}

static uint64_t fake_mono(void)
{
    return mono_ms;
}

void make_account(struct account *a, const char *name)
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

struct address address_of(const struct account *a, uint32_t device)
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

void put_register(const struct account *a, struct buf *out)
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
    sign(out, is_signed ? "e2eed/1 signed prekey" : "e2eed/1 one-time prekey", &body,
            a->device[0].dsk_secret);
}

static struct relay_auth make_auth(
        const struct peer *p, const struct account *a, uint32_t device, const struct auth_lie *lie)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_MESSAGE};
    const struct device_keys *keys = &a->device[device - 1];
    const struct account *bob = &p->env->bob;
    const char *host = lie->host ? lie->host : HOST;
    const uint8_t exporter[EXPORTER_LEN] = {lie->zero_exporter ? 0 : 9};
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

void put_auth(const struct peer *p, const struct account *a, uint32_t device, const struct auth_lie *lie,
        struct buf *out)
{
    struct relay_auth m = make_auth(p, a, device, lie);

    relay_put_auth(out, 7, &m);
}

static void on_wake(void *io)
{
    ((struct peer *)io)->woken++;
}

void settle(struct env *e)
{
    while (store_pending(e->store) > 0)
        (void)uv_run(&e->loop, UV_RUN_ONCE);
}

void feed(struct peer *p, const struct buf *b)
{
    assert_int_equal(buf_status(b), 0);
    conn_message(p->conn, b->data, b->len);
}

/* The next message out; its type, ref and fields. The buffer is the caller's. */
bool pull(struct peer *p, struct buf *ret_message, uint8_t *ret_type, uint32_t *ret_ref,
        struct cursor *ret_fields)
{
    if (!conn_pull(p->conn, ret_message))
        return false;
    cursor_init(ret_fields, ret_message->data, ret_message->len);
    assert_int_equal(relay_read_head(ret_fields, ret_type, ret_ref), WIRE_OK);
    return true;
}

/* Takes the next message, which must be of this type; of an ERROR the code is given back. */
uint16_t expect(struct peer *p, uint8_t type, uint32_t ref)
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

void expect_nothing(struct peer *p)
{
    struct buf b = {0};

    assert_false(conn_pull(p->conn, &b));
}

void expect_closing(struct peer *p, uint16_t close_code)
{
    uint16_t code = 0;

    expect_nothing(p);
    assert_true(conn_closing(p->conn));
    assert_true(conn_finished(p->conn, &code));
    assert_int_equal(code, close_code);
    assert_false(conn_wants_read(p->conn));
}

void open_peer_as(struct env *e, const struct conn_info *info, struct peer *p)
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
}

void open_peer(struct env *e, struct peer *p)
{
    const struct conn_info info = {0};

    open_peer_as(e, &info, p);
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
struct relay_welcome connect_device(struct env *e, struct peer *p, const struct account *a, uint32_t device)
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

void connect_empty(struct env *e, struct peer *p, const struct account *a, uint32_t device)
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

int setup(void **state)
{
    return setup_with(state, true);
}

int setup_limited(void **state)
{
    return setup_with(state, false);
}

int teardown(void **state)
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

void build_submit(const struct peer *p, struct buf *b)
{
    const struct relay_submit_item m = {.to = address_of(&p->env->bob, 1),
            .expires_ms = WALL + 1000,
            .body = {(const uint8_t *)"body", 4}};

    relay_begin(b, RELAY_SUBMIT, 7);
    relay_add_submit(b, &m);
}

void build_ack(const struct peer *p, struct buf *b)
{
    const struct envelope_id id = {{1}};

    (void)p;
    relay_begin(b, RELAY_ACK, 7);
    relay_add_ack(b, &id);
}

void build_query(const struct peer *p, struct buf *b)
{
    const struct relay_query_item m = {.to = address_of(&p->env->bob, 1)};

    relay_begin(b, RELAY_QUERY, 7);
    relay_add_query(b, &m);
}

void build_watch(const struct peer *p, struct buf *b)
{
    const struct address who = address_of(&p->env->bob, 1);

    relay_begin(b, RELAY_WATCH, 7);
    relay_add_watch(b, &who);
}

void build_lookup(const struct peer *p, struct buf *b)
{
    const struct relay_lookup m = {.by = LOOKUP_BY_NAME, .key = {(const uint8_t *)"bob", 3}};

    (void)p;
    relay_put_lookup(b, 7, &m);
}

void build_claim(const struct peer *p, struct buf *b)
{
    const struct address who = address_of(&p->env->bob, 1);

    relay_put_claim(b, 7, &who);
}

void build_list(const struct peer *p, struct buf *b)
{
    const struct relay_list_users m = {.limit = 10};

    (void)p;
    relay_put_list_users(b, 7, &m);
}

void build_put(const struct peer *p, struct buf *b)
{
    CLEANUP_BUF struct buf key = {.max = RELAY_MAX_PREKEY}, one = {.max = RELAY_MAX_PREKEY};
    struct relay_put_prekeys m = {.count = 1};

    put_prekey(&p->env->alice, true, &key);
    put_prekey(&p->env->alice, false, &one);
    m.signed_prekey = (struct span){key.data, key.len};
    m.one_time[0] = (struct span){one.data, one.len};
    relay_put_prekeys(b, 7, &m);
}

void build_register(const struct peer *p, struct buf *b)
{
    put_register(&p->env->alice, b);
}

void build_unregister(const struct peer *p, struct buf *b)
{
    struct relay_unregister m = {.time_ms = WALL};

    (void)p;
    relay_put_unregister(b, 7, &m);
}
