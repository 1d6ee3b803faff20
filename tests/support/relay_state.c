#include "relay_state.h"

void open_store(struct env *e)
{
    char error[STORE_ERROR_LEN] = "";

    assert_int_equal(uv_loop_init(&e->loop), 0);
    e->options.dir = e->dir;
    assert_int_equal(store_open(&e->store, &e->loop, &e->options, error), 0);
}

void close_store(struct env *e)
{
    store_close(e->store);
    (void)uv_run(&e->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&e->loop), 0);
}

int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    (void)snprintf(e->dir, sizeof(e->dir), "/tmp/e2ee-store-XXXXXX");
    assert_non_null(mkdtemp(e->dir));
    open_store(e);
    *state = e;
    return 0;
}

int teardown(void **state)
{
    struct env *e = *state;
    char command[128];

    close_store(e);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", e->dir);
    assert_int_equal(system(command), 0);
    free(e);
    return 0;
}

void reopen(struct env *e)
{
    close_store(e);
    open_store(e);
}

static void note_done(struct store_req *req, void *ctx)
{
    (void)req;
    *(bool *)ctx = true;
}

void wait_for(struct env *e, const bool *done)
{
    while (!*done)
        (void)uv_run(&e->loop, UV_RUN_ONCE);
}

void *new_req(enum store_op op, size_t size, bool *done)
{
    void *req = store_req_new(op, size, note_done, done);

    assert_non_null(req);
    return req;
}

enum store_result perform(struct env *e, struct store_req *req)
{
    bool *done = req->ctx;

    *done = false;
    store_submit(e->store, req);
    wait_for(e, done);
    return req->result;
}

struct person person(const char *name)
{
    struct person p = {0};

    randombytes_buf(p.ak, sizeof(p.ak));
    randombytes_buf(p.uid, sizeof(p.uid));
    (void)snprintf(p.name, sizeof(p.name), "%s", name);
    return p;
}

struct address address_of(const struct person *p, uint32_t device)
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

struct registration register_entry(struct env *e, const struct person *p, uint64_t n, unsigned devices,
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
struct registration register_next(struct env *e, struct person *p, unsigned devices, unsigned revoked)
{
    uint8_t hash[32];
    struct registration r = register_entry(e, p, p->n + 1, devices, revoked, REGISTRATION_OPEN, NULL, hash);

    if (r.result == STORE_OK) {
        p->n++;
        memcpy(p->previous, hash, 32);
    }
    return r;
}

struct person registered(struct env *e, const char *name)
{
    struct person p = person(name);

    assert_int_equal(register_next(e, &p, 2, 0).result, STORE_OK);
    return p;
}

struct envelope_id new_id(void)
{
    struct envelope_id id;

    randombytes_buf(id.b, sizeof(id.b));
    return id;
}

struct store_submit_req *submit_req(
        const struct address *to, const struct envelope_id *id, size_t n, bool *done)
{
    struct store_submit_req *r =
            new_req(STORE_OP_SUBMIT, sizeof(*r) + sizeof(struct store_envelope) + n, done);

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
enum store_result submit(struct env *e, const struct address *to, const struct envelope_id *id, size_t n)
{
    bool done;
    struct store_submit_req *r = submit_req(to, id, n, &done);
    enum store_result result = perform(e, &r->req);

    if (result == STORE_OK)
        result = r->item->ret_result;
    store_req_free(&r->req);
    return result;
}

struct store_open_device open_device(struct env *e, const struct address *who)
{
    bool done;
    struct store_open_device *r = new_req(STORE_OP_OPEN, sizeof(*r), &done), copy;

    r->who = *who;
    (void)perform(e, &r->req);
    copy = *r;
    store_req_free(&r->req);
    return copy;
}

enum store_result ack(struct env *e, uint64_t mailbox, const struct envelope_id *id)
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

struct store_fetch *fetch(
        struct env *e, uint64_t mailbox, uint64_t after, uint32_t count, uint32_t bytes, bool *done)
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

uint8_t state_of(struct env *e, const struct address *to, const struct envelope_id *id)
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
