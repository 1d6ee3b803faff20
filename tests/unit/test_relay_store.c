#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <uv.h>

#include "base.h"
#include "store.h"

/* A store in a new directory on a loop of its own. */
struct env {
    char dir[64];
    uv_loop_t loop;
    struct store *store;
    struct store_options options;
};

static void open_store(struct env *e)
{
    char error[STORE_ERROR_LEN] = "";

    assert_int_equal(uv_loop_init(&e->loop), 0);
    e->options.dir = e->dir;
    assert_int_equal(store_open(&e->store, &e->loop, &e->options, error), 0);
}

static void close_store(struct env *e)
{
    store_close(e->store);
    (void)uv_run(&e->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&e->loop), 0);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    (void)snprintf(e->dir, sizeof(e->dir), "/tmp/e2ee-store-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    open_store(e);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;
    char command[128];

    close_store(e);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", e->dir);
    assert_int_equal(system(command), 0);
    free(e);
    return 0;
}

static void reopen(struct env *e)
{
    close_store(e);
    open_store(e);
}

static void note_done(struct store_req *req, void *ctx)
{
    (void)req;
    *(bool *)ctx = true;
}

static void wait_for(struct env *e, const bool *done)
{
    while (!*done)
        (void)uv_run(&e->loop, UV_RUN_ONCE);
}

static void *new_req(enum store_op op, size_t size, bool *done)
{
    void *req = store_req_new(op, size, note_done, done);

    assert_non_null(req);
    return req;
}

static enum store_result perform(struct env *e, struct store_req *req)
{
    bool *done = req->ctx;

    *done = false;
    store_submit(e->store, req);
    wait_for(e, done);
    return req->result;
}

/* An entry whose structure is right and whose signatures are zeros: the store checks none. */
struct person {
    uint8_t ak[32], uid[UID_LEN], previous[32];
    uint64_t n;
    char name[16];
};

static struct person person(const char *name)
{
    struct person p = {0};

    randombytes_buf(p.ak, sizeof(p.ak));
    randombytes_buf(p.uid, sizeof(p.uid));
    (void)snprintf(p.name, sizeof(p.name), "%s", name);
    return p;
}

static struct address address_of(const struct person *p, uint32_t device)
{
    struct address a = {.device = device};

    memcpy(a.uid, p->uid, UID_LEN);
    return a;
}

static size_t make_entry(const struct person *p, uint64_t n, unsigned devices, unsigned revoked, uint8_t *out)
{
    CLEANUP_BUF struct buf b = {.max = RELAY_MAX_ENTRY}, body = {.max = RELAY_MAX_ENTRY};

    buf_u8(&body, 1);
    buf_bytes(&body, p->ak, 32);
    buf_lp(&body, p->name, strlen(p->name));
    buf_u64(&body, n);
    buf_bytes(&body, p->previous, 32);
    buf_u64(&body, 1);
    buf_u8(&body, (uint8_t)devices);
    for (unsigned i = 0; i < devices; i++) {
        buf_u32(&body, i + 1);
        buf_zero(&body, 64);
        buf_bytes(&body, p->ak, 32);
        buf_u8(&body, 1);
        buf_u16(&body, 1);
    }
    buf_u8(&body, (uint8_t)revoked);
    for (unsigned i = 0; i < revoked; i++)
        buf_u32(&body, 100 + i);
    buf_lp(&b, body.data, body.len);
    buf_zero(&b, 64 * (1 + (size_t)devices));
    assert_int_equal(buf_status(&b), 0);
    memcpy(out, b.data, b.len);
    return b.len;
}

struct registration {
    enum store_result result;
    enum store_conflict conflict;
    uint64_t newest;
};

static struct registration register_entry(struct env *e, const struct person *p, uint64_t n, unsigned devices,
        unsigned revoked, enum relay_registration mode, const uint8_t *token, uint8_t ret_hash[32])
{
    uint8_t entry[RELAY_MAX_ENTRY];
    size_t len = make_entry(p, n, devices, revoked, entry);
    bool done;
    struct store_register *r = new_req(STORE_OP_REGISTER, sizeof(*r) + len, &done);
    struct registration out;

    memcpy(r->uid, p->uid, UID_LEN);
    (void)crypto_generichash(r->hash, 32, entry, len, NULL, 0);
    memcpy(ret_hash, r->hash, 32);
    r->registration = (uint8_t)mode;
    if (token)
        memcpy(r->token_hash, token, sizeof(r->token_hash));
    r->entry_len = len;
    memcpy(r->entry, entry, len);
    out.result = perform(e, &r->req);
    out.conflict = r->ret_conflict;
    out.newest = r->ret_newest;
    store_req_free(&r->req);
    return out;
}

/* The next entry of the chain; on success the person moves on. */
static struct registration register_next(struct env *e, struct person *p, unsigned devices, unsigned revoked)
{
    uint8_t hash[32];
    struct registration r = register_entry(e, p, p->n + 1, devices, revoked, REGISTRATION_OPEN, NULL, hash);

    if (r.result == STORE_OK) {
        p->n++;
        memcpy(p->previous, hash, 32);
    }
    return r;
}

static struct person registered(struct env *e, const char *name)
{
    struct person p = person(name);

    assert_int_equal(register_next(e, &p, 2, 0).result, STORE_OK);
    return p;
}

static struct envelope_id new_id(void)
{
    struct envelope_id id;

    randombytes_buf(id.b, sizeof(id.b));
    return id;
}

static struct store_submit_req *submit_req(const struct address *to, const struct envelope_id *id, size_t n, bool *done)
{
    struct store_submit_req *r = new_req(STORE_OP_SUBMIT, sizeof(*r) + sizeof(struct store_envelope) + n, done);

    r->time_ms = 1000;
    r->count = 1;
    r->item = (struct store_envelope *)(r + 1);
    r->item->to = *to;
    r->item->id = *id;
    r->item->expires_ms = 100000;
    memset(r->item + 1, 'b', n);
    r->item->body = (struct span){(uint8_t *)(r->item + 1), n};
    return r;
}

/* The result of the request, or of its one envelope. */
static enum store_result submit(struct env *e, const struct address *to, const struct envelope_id *id, size_t n)
{
    bool done;
    struct store_submit_req *r = submit_req(to, id, n, &done);
    enum store_result result = perform(e, &r->req);

    if (result == STORE_OK)
        result = r->item->ret_result;
    store_req_free(&r->req);
    return result;
}

static struct store_open_device open_device(struct env *e, const struct address *who)
{
    bool done;
    struct store_open_device *r = new_req(STORE_OP_OPEN, sizeof(*r), &done), copy;

    r->who = *who;
    (void)perform(e, &r->req);
    copy = *r;
    store_req_free(&r->req);
    return copy;
}

static enum store_result ack(struct env *e, uint64_t mailbox, const struct envelope_id *id)
{
    bool done;
    struct store_ack *r = new_req(STORE_OP_ACK, sizeof(*r) + sizeof(r->item[0]), &done);
    enum store_result result;

    r->mailbox = mailbox;
    r->count = 1;
    r->item[0] = (struct store_ack_item){.id = *id, .expires_ms = 100000};
    result = perform(e, &r->req);
    store_req_free(&r->req);
    return result;
}

static struct store_fetch *fetch(struct env *e, uint64_t mailbox, uint64_t after, uint32_t count, uint32_t bytes, bool *done)
{
    struct store_fetch *r = new_req(STORE_OP_FETCH, sizeof(*r), done);

    r->mailbox = mailbox;
    r->after = after;
    r->max_count = count;
    r->max_bytes = bytes;
    r->now_ms = 2000;
    assert_int_equal(perform(e, &r->req), STORE_OK);
    return r;
}

static uint8_t state_of(struct env *e, const struct address *to, const struct envelope_id *id)
{
    bool done;
    struct store_query *r = new_req(STORE_OP_QUERY, sizeof(*r) + sizeof(r->item[0]), &done);
    uint8_t result;

    r->count = 1;
    r->item[0].what = (struct relay_query_item){.id = *id, .to = *to};
    assert_int_equal(perform(e, &r->req), STORE_OK);
    result = r->item[0].ret_state;
    store_req_free(&r->req);
    return result;
}

static void test_register(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "alice"), thief = person("alice"), fork;
    struct registration r;
    uint8_t hash[32];

    assert_int_equal(register_next(e, &thief, 1, 0).conflict, STORE_NAME_TAKEN);
    fork = a;
    fork.n = 0;
    memset(fork.previous, 0, 32);
    assert_int_equal(register_entry(e, &fork, 1, 2, 0, REGISTRATION_CLOSED, NULL, hash).result, STORE_DUP);
    r = register_entry(e, &fork, 1, 3, 0, REGISTRATION_OPEN, NULL, hash);
    assert_int_equal(r.result, STORE_CONFLICT);
    assert_int_equal(r.conflict, STORE_CHAIN_FORK);
    assert_int_equal(r.newest, 1);
    r = register_entry(e, &a, 3, 2, 0, REGISTRATION_OPEN, NULL, hash);
    assert_int_equal(r.conflict, STORE_CHAIN_GAP);
    fork = a;
    fork.previous[0] ^= 1;
    assert_int_equal(register_next(e, &fork, 2, 0).conflict, STORE_CHAIN_FORK);
    fork = a;
    (void)strcpy(fork.name, "alicia");
    assert_int_equal(register_next(e, &fork, 2, 0).conflict, STORE_CHAIN_FORK);
    assert_int_equal(register_next(e, &a, 2, 2).result, STORE_OK);
    assert_int_equal(register_next(e, &a, 2, 1).conflict, STORE_CHAIN_REVOKED);
    assert_int_equal(register_next(e, &a, 1, 3).result, STORE_OK);
}

/* An account that comes from a relay which lost its state starts with the entry it has. */
static void test_register_later_entry(void **state)
{
    struct env *e = *state;
    struct person a = person("late");

    a.n = 41;
    memset(a.previous, 7, 32);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
}

static void test_registration_modes(void **state)
{
    struct env *e = *state;
    struct person a = person("a"), b = person("b"), taken = person("a");
    uint8_t token[STORE_TOKEN_HASH_LEN] = {1}, hash[32];
    char error[STORE_ERROR_LEN];

    assert_int_equal(store_create_token(e->dir, token, 1, error), 0);
    assert_int_equal(register_entry(e, &a, 1, 1, 0, REGISTRATION_CLOSED, token, hash).conflict, STORE_CLOSED);
    assert_int_equal(register_entry(e, &a, 1, 1, 0, REGISTRATION_TOKEN, NULL, hash).result, STORE_NOENT);
    assert_int_equal(register_entry(e, &a, 1, 1, 0, REGISTRATION_TOKEN, token, hash).result, STORE_OK);
    assert_int_equal(register_entry(e, &b, 1, 1, 0, REGISTRATION_TOKEN, token, hash).result, STORE_NOENT);
    /* A refused name uses no token up. */
    token[0] = 2;
    assert_int_equal(store_create_token(e->dir, token, 1, error), 0);
    assert_int_equal(register_entry(e, &taken, 1, 1, 0, REGISTRATION_TOKEN, token, hash).conflict, STORE_NAME_TAKEN);
    assert_int_equal(register_entry(e, &b, 1, 1, 0, REGISTRATION_TOKEN, token, hash).result, STORE_OK);
}

static void test_open_device(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a"), nobody = person("x");
    struct address first = address_of(&a, 1), third = address_of(&a, 3), none = address_of(&nobody, 1);
    struct store_open_device d = open_device(e, &first);

    assert_int_equal(d.req.result, STORE_OK);
    assert_memory_equal(d.ret_ak, a.ak, 32);
    assert_memory_equal(d.ret_rak, a.ak, 32);
    assert_int_equal(d.ret_list_n, 1);
    assert_int_equal(d.ret_waiting, 0);
    d = open_device(e, &third);
    assert_int_equal(d.req.result, STORE_NOENT);
    assert_true(d.ret_known_account);
    d = open_device(e, &none);
    assert_int_equal(d.req.result, STORE_NOENT);
    assert_false(d.ret_known_account);
}

static void test_submit_and_ack(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2), none = address_of(&a, 9);
    struct envelope_id id = new_id(), never = new_id();
    struct store_open_device d;
    struct store_fetch *f;
    bool done;

    assert_int_equal(submit(e, &none, &id, 10), STORE_NOENT);
    assert_int_equal(state_of(e, &none, &id), ENVELOPE_UNKNOWN);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_UNKNOWN);
    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
    assert_int_equal(submit(e, &to, &id, 10), STORE_DUP);
    assert_int_equal(submit(e, &other, &id, 10), STORE_OK);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_WAITING);
    d = open_device(e, &to);
    assert_int_equal(d.ret_waiting, 1);
    assert_int_equal(ack(e, d.ret_mailbox, &id), STORE_OK);
    assert_int_equal(ack(e, d.ret_mailbox, &id), STORE_OK);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_ACKNOWLEDGED);
    assert_int_equal(state_of(e, &other, &id), ENVELOPE_WAITING);
    assert_int_equal(submit(e, &to, &id, 10), STORE_DUP);
    /* Acknowledged before it could be stored: the next submission is a duplicate. */
    assert_int_equal(ack(e, d.ret_mailbox, &never), STORE_OK);
    assert_int_equal(submit(e, &to, &never, 10), STORE_DUP);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    f = fetch(e, d.ret_mailbox, 0, 10, 1000, &done);
    assert_int_equal(f->ret_count, 0);
    assert_false(f->ret_more);
    store_req_free(&f->req);
    reopen(e);
    assert_int_equal(submit(e, &to, &id, 10), STORE_DUP);
    assert_int_equal(submit(e, &other, &id, 10), STORE_DUP);
    assert_int_equal(open_device(e, &other).ret_waiting, 1);
}

static void test_fetch_bounds(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2);
    struct envelope_id id[10];
    uint64_t mailbox = open_device(e, &to).ret_mailbox, last = 0;
    struct store_fetch *f;
    bool done;

    for (size_t i = 0; i < 10; i++) {
        struct envelope_id foreign = new_id();

        id[i] = new_id();
        assert_int_equal(submit(e, &to, &id[i], 100), STORE_OK);
        assert_int_equal(submit(e, &other, &foreign, 100), STORE_OK);
    }
    f = fetch(e, mailbox, 0, 4, 100000, &done);
    assert_int_equal(f->ret_count, 4);
    assert_true(f->ret_more);
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(f->ret_item[i].id.b, id[i].b, 16);
        assert_true(f->ret_item[i].seq > last);
        last = f->ret_item[i].seq;
        assert_int_equal(f->ret_item[i].body_len, 100);
    }
    store_req_free(&f->req);
    f = fetch(e, mailbox, last, 100, 250, &done);
    assert_int_equal(f->ret_count, 2);
    assert_true(f->ret_more);
    assert_memory_equal(f->ret_item[0].id.b, id[4].b, 16);
    last = f->ret_item[1].seq;
    store_req_free(&f->req);
    f = fetch(e, mailbox, last, 4, 100000, &done);
    assert_int_equal(f->ret_count, 4);
    assert_false(f->ret_more);
    store_req_free(&f->req);
    f = fetch(e, mailbox, last, 100, 99, &done);
    assert_int_equal(f->ret_count, 0);
    assert_true(f->ret_more);
    store_req_free(&f->req);
}

/* seq goes on ascending when a mailbox has been emptied, also over a failed transaction. */
static void test_seq_never_goes_back(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    uint64_t mailbox = open_device(e, &to).ret_mailbox, last = 0;

    for (int i = 0; i < 5; i++) {
        struct envelope_id id = new_id();
        bool done;
        struct store_submit_req *r = submit_req(&to, &id, 10, &done);

        assert_int_equal(perform(e, &r->req), STORE_OK);
        assert_true(r->item->ret_seq > last);
        last = r->item->ret_seq;
        store_req_free(&r->req);
        assert_int_equal(ack(e, mailbox, &id), STORE_OK);
    }
}

static int setup_small(void **state)
{
    (void)setup(state);
    close_store(*state);
    ((struct env *)*state)->options.max_envelopes = 3;
    ((struct env *)*state)->options.max_bytes = 1000;
    open_store(*state);
    return 0;
}

static void test_mailbox_full(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2);
    struct envelope_id id[4] = {new_id(), new_id(), new_id(), new_id()};
    uint64_t mailbox = open_device(e, &to).ret_mailbox;

    assert_int_equal(submit(e, &to, &id[0], 600), STORE_OK);
    assert_int_equal(submit(e, &to, &id[1], 401), STORE_FULL);
    assert_int_equal(submit(e, &to, &id[1], 400), STORE_OK);
    assert_int_equal(submit(e, &other, &id[1], 1000), STORE_OK);
    assert_int_equal(ack(e, mailbox, &id[0]), STORE_OK);
    assert_int_equal(submit(e, &to, &id[2], 1), STORE_OK);
    assert_int_equal(submit(e, &to, &id[3], 1), STORE_OK);
    id[0] = new_id();
    assert_int_equal(submit(e, &to, &id[0], 1), STORE_FULL);
    reopen(e);
    assert_int_equal(submit(e, &to, &id[0], 1), STORE_FULL);
    assert_int_equal(submit(e, &to, &id[3], 1), STORE_DUP);
}

static enum store_result put(struct env *e, const struct address *who, uint32_t signed_id, bool replace, uint32_t first,
        uint16_t count, uint32_t *ret_left)
{
    bool done;
    struct store_put_prekeys *r = new_req(STORE_OP_PUT_PREKEYS, sizeof(*r) + 4, &done);
    enum store_result result;

    r->who = *who;
    memset(r->bytes, 's', 4);
    r->signed_id = signed_id;
    if (signed_id)
        r->keys.signed_prekey = (struct span){r->bytes, 4};
    r->keys.replace = replace;
    r->keys.count = count;
    for (uint16_t i = 0; i < count; i++) {
        r->keys.one_time[i] = (struct span){(uint8_t *)&r->one_time_id[i], 4};
        r->one_time_id[i] = first + i;
    }
    result = perform(e, &r->req);
    *ret_left = r->ret_one_time_left;
    store_req_free(&r->req);
    return result;
}

/* 0: no one-time prekey; UINT32_MAX: no bundle. */
static uint32_t claim(struct env *e, const struct address *target)
{
    bool done;
    struct store_claim *r = new_req(STORE_OP_CLAIM, sizeof(*r), &done);
    uint32_t id = UINT32_MAX;

    r->target = *target;
    if (perform(e, &r->req) == STORE_OK) {
        assert_int_equal(r->ret_signed_len, 4);
        id = 0;
        if (r->ret_one_time_len)
            memcpy(&id, r->ret_one_time, 4);
    }
    store_req_free(&r->req);
    return id;
}

static void test_prekeys(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), none = address_of(&a, 9);
    uint32_t left;

    assert_int_equal(claim(e, &to), UINT32_MAX);
    assert_int_equal(put(e, &none, 1, false, 1, 5, &left), STORE_NOENT);
    assert_int_equal(put(e, &to, 0, false, 1, 5, &left), STORE_OK);
    assert_int_equal(claim(e, &to), UINT32_MAX);
    assert_int_equal(put(e, &to, 9, false, 1, 5, &left), STORE_OK);
    assert_int_equal(left, 5);
    assert_int_equal(claim(e, &to), 1);
    reopen(e);
    assert_int_equal(claim(e, &to), 2);
    assert_int_equal(put(e, &to, 0, false, 1, 5, &left), STORE_OK);
    assert_int_equal(left, 3);
    assert_int_equal(put(e, &to, 0, true, 4, 3, &left), STORE_OK);
    assert_int_equal(left, 3);
    assert_int_equal(claim(e, &to), 4);
    assert_int_equal(claim(e, &to), 5);
    assert_int_equal(claim(e, &to), 6);
    assert_int_equal(claim(e, &to), 0);
    assert_int_equal(claim(e, &none), UINT32_MAX);
    for (uint32_t i = 0; i < STORE_MAX_ONE_TIME / 50; i++)
        assert_int_equal(put(e, &to, 0, false, 1000 + 50 * i, 50, &left), STORE_OK);
    assert_int_equal(put(e, &to, 0, false, 9999, 1, &left), STORE_FULL);
    assert_int_equal(open_device(e, &to).ret_one_time_left, STORE_MAX_ONE_TIME);
    assert_int_equal(open_device(e, &to).ret_signed_prekey_id, 9);
}

static void test_unregister(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a"), next = person("a");
    struct address to = address_of(&a, 1);
    struct envelope_id id = new_id();
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    uint32_t left;
    bool done;
    struct store_unregister *r;

    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
    assert_int_equal(put(e, &to, 1, false, 1, 5, &left), STORE_OK);
    for (int i = 0; i < 2; i++) {
        r = new_req(STORE_OP_UNREGISTER, sizeof(*r), &done);
        memcpy(r->uid, a.uid, UID_LEN);
        assert_int_equal(perform(e, &r->req), i == 0 ? STORE_OK : STORE_NOENT);
        store_req_free(&r->req);
    }
    assert_int_equal(open_device(e, &to).req.result, STORE_NOENT);
    assert_int_equal(claim(e, &to), UINT32_MAX);
    assert_int_equal(ack(e, mailbox, &id), STORE_OK);
    assert_int_equal(register_next(e, &next, 1, 0).result, STORE_OK);
    a.n = 0;
    (void)strcpy(a.name, "again");
    memset(a.previous, 0, 32);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    assert_true(open_device(e, &to).ret_mailbox > mailbox);
    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
}

static void test_removed_device(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address second = address_of(&a, 2);
    struct envelope_id id = new_id();

    assert_int_equal(submit(e, &second, &id, 10), STORE_OK);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    assert_int_equal(submit(e, &second, &id, 10), STORE_NOENT);
    assert_int_equal(open_device(e, &second).req.result, STORE_NOENT);
}

static void test_lookup_and_list(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "ab"), b = registered(e, "b"), c = registered(e, "a");
    bool done;
    struct store_lookup *l;
    struct store_list_users *u;

    (void)c;
    for (int i = 0; i < 20; i++)
        assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    l = new_req(STORE_OP_LOOKUP, sizeof(*l), &done);
    l->by = (struct relay_lookup){.by = LOOKUP_BY_UID, .key = {l->key, UID_LEN}};
    memcpy(l->key, a.uid, UID_LEN);
    assert_int_equal(perform(e, &l->req), STORE_OK);
    assert_int_equal(l->ret_account.entries, RELAY_MAX_ENTRIES);
    for (uint16_t i = 0; i < RELAY_MAX_ENTRIES; i++) {
        struct entry entry;

        assert_int_equal(entry_parse(l->ret_account.entry[i].p, l->ret_account.entry[i].n, &entry), WIRE_OK);
        assert_int_equal(entry.n, 21 - RELAY_MAX_ENTRIES + 1 + i);
    }
    store_req_free(&l->req);
    l = new_req(STORE_OP_LOOKUP, sizeof(*l), &done);
    l->by = (struct relay_lookup){.by = LOOKUP_BY_NAME, .key = {l->key, 3}};
    memcpy(l->key, "abc", 3);
    assert_int_equal(perform(e, &l->req), STORE_NOENT);
    store_req_free(&l->req);
    u = new_req(STORE_OP_LIST, sizeof(*u) + 2 * sizeof(u->ret_user[0]), &done);
    u->limit = 2;
    assert_int_equal(perform(e, &u->req), STORE_OK);
    assert_int_equal(u->ret_count, 2);
    assert_true(u->ret_more);
    assert_memory_equal(u->ret_user[1].name, "ab", 2);
    assert_memory_equal(u->ret_user[1].uid, a.uid, UID_LEN);
    u->req.next = NULL;
    memcpy(u->after, "ab", 2);
    u->after_len = 2;
    assert_int_equal(perform(e, &u->req), STORE_OK);
    assert_int_equal(u->ret_count, 1);
    assert_false(u->ret_more);
    assert_memory_equal(u->ret_user[0].uid, b.uid, UID_LEN);
    store_req_free(&u->req);
}

static void expire_at(struct env *e, uint64_t now_ms)
{
    bool done;
    struct store_expire *r = new_req(STORE_OP_EXPIRE, sizeof(*r), &done);

    r->now_ms = now_ms;
    assert_int_equal(perform(e, &r->req), STORE_OK);
    store_req_free(&r->req);
}

static void test_expiry(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id waiting = new_id(), acked = new_id();
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    bool done;
    struct store_fetch *f;

    assert_int_equal(submit(e, &to, &waiting, 10), STORE_OK);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_OK);
    assert_int_equal(ack(e, mailbox, &acked), STORE_OK);
    f = new_req(STORE_OP_FETCH, sizeof(*f), &done);
    f->mailbox = mailbox;
    f->max_count = 10;
    f->max_bytes = 1000;
    f->now_ms = 100000;
    assert_int_equal(perform(e, &f->req), STORE_OK);
    assert_int_equal(f->ret_count, 0);
    store_req_free(&f->req);
    expire_at(e, 99999);
    assert_int_equal(state_of(e, &to, &waiting), ENVELOPE_WAITING);
    expire_at(e, 99999 + 2 * MINUTE_MS);
    assert_int_equal(state_of(e, &to, &waiting), ENVELOPE_UNKNOWN);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_DUP);
    expire_at(e, 100000 + DAY_MS - 1);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_DUP);
    expire_at(e, 100000 + DAY_MS + 2 * MINUTE_MS);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_OK);
}

/* Frames of the write-ahead log that end a transaction. */
static unsigned count_commits(const struct env *e)
{
    char path[128];
    uint8_t header[32], frame[24];
    unsigned n = 0;
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/relay.db-wal", e->dir);
    f = fopen(path, "rb");
    if (!f || fread(header, sizeof(header), 1, f) != 1) {
        if (f)
            (void)fclose(f);
        return 0;
    }
    while (fread(frame, sizeof(frame), 1, f) == 1 && memcmp(frame + 8, header + 16, 8) == 0) {
        n += (frame[4] | frame[5] | frame[6] | frame[7]) != 0;
        assert_int_equal(fseek(f, 4096, SEEK_CUR), 0);
    }
    (void)fclose(f);
    return n;
}

#define MANY 500
static void count_done(struct store_req *req, void *ctx)
{
    (void)req;
    ++*(unsigned *)ctx;
}

static void test_group_commit(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct store_submit_req *r[MANY];
    unsigned before = count_commits(e), done = 0;
    bool unused;

    for (size_t i = 0; i < MANY; i++) {
        struct envelope_id id = new_id();

        r[i] = submit_req(&to, &id, 100, &unused);
        r[i]->req.done = count_done;
        r[i]->req.ctx = &done;
    }
    for (size_t i = 0; i < MANY; i++)
        store_submit(e->store, &r[i]->req);
    assert_int_equal(store_pending(e->store), MANY);
    while (done < MANY)
        (void)uv_run(&e->loop, UV_RUN_ONCE);
    assert_int_equal(store_pending(e->store), 0);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(r[i]->item->ret_result, STORE_OK);
        assert_int_equal(r[i]->item->ret_seq, i + 1);
        store_req_free(&r[i]->req);
    }
    assert_in_range(count_commits(e) - before, 1, MANY / 10);
}

/* An acknowledgment that is submitted right behind the submission ends with the envelope gone. */
static void test_ack_behind_submit(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id id = new_id();
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    bool stored;
    struct store_submit_req *r = submit_req(&to, &id, 10, &stored);

    stored = false;
    store_submit(e->store, &r->req);
    assert_int_equal(ack(e, mailbox, &id), STORE_OK);
    assert_true(stored);
    assert_int_equal(r->item->ret_result, STORE_OK);
    store_req_free(&r->req);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_ACKNOWLEDGED);
}

/* Requests that are queued when the store is closed are done, not dropped. */
static void test_close_finishes(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct store_submit_req *r[50];
    unsigned done = 0;
    bool unused;

    for (size_t i = 0; i < 50; i++) {
        struct envelope_id id = new_id();

        r[i] = submit_req(&to, &id, 100, &unused);
        r[i]->req.done = count_done;
        r[i]->req.ctx = &done;
        store_submit(e->store, &r[i]->req);
    }
    reopen(e);
    assert_int_equal(done, 50);
    for (size_t i = 0; i < 50; i++) {
        assert_int_equal(r[i]->item->ret_result, STORE_OK);
        store_req_free(&r[i]->req);
    }
    assert_int_equal(open_device(e, &to).ret_waiting, 50);
}

static int setup_pages(void **state)
{
    (void)setup(state);
    close_store(*state);
    ((struct env *)*state)->options.max_pages = 200;
    open_store(*state);
    return 0;
}

/* No room in the database: FULL, nothing changed; acknowledgments make room again. */
static void test_database_full(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id id[300];
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    size_t n = 0;
    enum store_result result;

    do {
        id[n] = new_id();
        result = submit(e, &to, &id[n++], 8000);
    } while (result == STORE_OK && n < 300);
    assert_int_equal(result, STORE_FULL);
    assert_in_range(n, 10, 200);
    assert_int_equal(state_of(e, &to, &id[n - 1]), ENVELOPE_UNKNOWN);
    assert_int_equal(open_device(e, &to).ret_waiting, n - 1);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ack(e, mailbox, &id[i]), STORE_OK);
    assert_int_equal(submit(e, &to, &id[n - 1], 8000), STORE_OK);
    assert_int_equal(open_device(e, &to).ret_waiting, n - 3);
}

/* The file cannot grow any more (as on a disk that fails): RETRY, and all is well again afterwards. */
static void test_write_error(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct rlimit old, small;
    enum store_result result = STORE_OK;
    struct envelope_id id;

    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 256 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 100 && result == STORE_OK; i++) {
        id = new_id();
        result = submit(e, &to, &id, 8000);
    }
    assert_true(result == STORE_RETRY || result == STORE_FULL);
    assert_int_equal(submit(e, &to, &id, 8000), result);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(submit(e, &to, &id, 8000), STORE_OK);
    assert_int_equal(submit(e, &to, &id, 8000), STORE_DUP);
}

/* Submits as fast as it can and tells every id that was reported stored, until it is killed. */
static void crash_child(const char *dir, const struct address *to, int fd)
{
    struct env e = {0};

    (void)snprintf(e.dir, sizeof(e.dir), "%s", dir);
    open_store(&e);
    for (;;) {
        struct envelope_id id = new_id();

        if (submit(&e, to, &id, 500) != STORE_OK || write(fd, id.b, 16) != 16)
            _exit(1);
    }
}

static void test_kill(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    size_t n = 0;

    close_store(e);
    for (int round = 0; round < 5; round++) {
        struct envelope_id id, ids[4096];
        size_t told = 0;
        int fd[2], status;
        pid_t pid;

        assert_int_equal(pipe(fd), 0);
        pid = fork();
        if (pid == 0)
            crash_child(e->dir, &to, fd[1]);
        (void)close(fd[1]);
        while (told < 30 + 7 * (size_t)round && read(fd[0], id.b, 16) == 16)
            ids[told++] = id;
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (told < 4096 && read(fd[0], id.b, 16) == 16)
            ids[told++] = id;
        (void)close(fd[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        open_store(e);
        for (size_t i = 0; i < told; i++)
            assert_int_equal(state_of(e, &to, &ids[i]), ENVELOPE_WAITING);
        n += told;
        assert_true(open_device(e, &to).ret_waiting >= n);
        close_store(e);
    }
    open_store(e);
}

static int try_open(struct env *e, char error[STORE_ERROR_LEN])
{
    uv_loop_t loop;
    struct store *s = NULL;
    const struct store_options o = {.dir = e->dir};
    int r;

    assert_int_equal(uv_loop_init(&loop), 0);
    r = store_open(&s, &loop, &o, error);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return r;
}

static void change_database(const struct env *e, const char *sql)
{
    char path[128];
    sqlite3 *db;

    (void)snprintf(path, sizeof(path), "%s/relay.db", e->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_refused_states(void **state)
{
    struct env *e = *state;
    char error[STORE_ERROR_LEN], path[128];
    struct store_stats stats;
    uint8_t id[16];
    FILE *f;

    memcpy(id, store_id(e->store), 16);
    assert_int_equal(try_open(e, error), STORE_OPEN_BUSY);
    assert_non_null(strstr(error, "another e2ee-relay"));
    reopen(e);
    assert_memory_equal(id, store_id(e->store), 16);
    close_store(e);
    change_database(e, "PRAGMA user_version=2");
    assert_int_equal(try_open(e, error), STORE_OPEN_NEWER);
    assert_non_null(strstr(error, "schema version 2"));
    assert_int_equal(store_read_stats(e->dir, &stats, error), STORE_OPEN_NEWER);
    change_database(e, "PRAGMA user_version=0");
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    change_database(e, "PRAGMA user_version=1;PRAGMA application_id=5");
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    change_database(e, "PRAGMA application_id=1697801586;DELETE FROM meta");
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    (void)snprintf(path, sizeof(path), "%s/relay.db", e->dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 3000; i++)
        (void)fputs("no database", f);
    (void)fclose(f);
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    assert_int_equal(unlink(path), 0);
    open_store(e);
    assert_int_not_equal(memcmp(id, store_id(e->store), 16), 0);
    assert_int_equal(chmod(e->dir, 0700), 0);
}

static void test_stats(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id id = new_id(), other = new_id();
    char error[STORE_ERROR_LEN];
    struct store_stats s;

    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
    assert_int_equal(submit(e, &to, &other, 20), STORE_OK);
    assert_int_equal(ack(e, open_device(e, &to).ret_mailbox, &id), STORE_OK);
    assert_int_equal(store_read_stats(e->dir, &s, error), 0);
    assert_int_equal(s.accounts, 1);
    assert_int_equal(s.devices, 2);
    assert_int_equal(s.waiting, 1);
    assert_int_equal(s.waiting_bytes, 20);
    assert_int_equal(s.remembered, 1);
    assert_int_not_equal(store_read_stats("/nonexistent", &s, error), 0);
    store_close(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    static const struct CMUnitTest tests[] = {
            TEST(test_register),
            TEST(test_register_later_entry),
            TEST(test_registration_modes),
            TEST(test_open_device),
            TEST(test_submit_and_ack),
            TEST(test_fetch_bounds),
            TEST(test_seq_never_goes_back),
            cmocka_unit_test_setup_teardown(test_mailbox_full, setup_small, teardown),
            TEST(test_prekeys),
            TEST(test_unregister),
            TEST(test_removed_device),
            TEST(test_lookup_and_list),
            TEST(test_expiry),
            TEST(test_group_commit),
            TEST(test_ack_behind_submit),
            TEST(test_close_finishes),
            cmocka_unit_test_setup_teardown(test_database_full, setup_pages, teardown),
            TEST(test_write_error),
            TEST(test_kill),
            TEST(test_refused_states),
            TEST(test_stats),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
