#include <sodium.h>
#include <string.h>

#include "hub.h"

#define MIN_BUCKETS 256u
#define LIMIT_KEYS 65536u
#define CLOSE_GOING_AWAY 1001

void hub_default_limits(struct limit limit[HUB_LIMITS])
{
    static const struct limit defaults[HUB_LIMITS] = {
            [LIMIT_SUBMIT] = LIMIT_PER_SECOND(5000, 20000),
            [LIMIT_BYTES] = LIMIT_PER_SECOND(32 << 20, 128 << 20),
            [LIMIT_LOOKUP] = LIMIT_PER_SECOND(100, 1000),
            [LIMIT_CLAIM] = LIMIT_PER_HOUR(2000, 1000),
            [LIMIT_CLAIM_TARGET] = LIMIT_PER_HOUR(12, 12),
            [LIMIT_REGISTER] = LIMIT_PER_MINUTE(60, 300),
            [LIMIT_CONNECT] = LIMIT_PER_SECOND(5, 60),
    };

    memcpy(limit, defaults, sizeof(defaults));
}

struct hub *hub_new(struct store *store, const struct hub_options *options, const struct hub_clock *clock)
{
    struct hub *h = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    *h = (struct hub){.options = *options, .store = store, .clock = *clock, .buckets = MIN_BUCKETS};
    randombytes_buf(h->hash_key, sizeof(h->hash_key));
    h->device = calloc(h->buckets, sizeof(struct device *));
    for (size_t i = 0; i < HUB_LIMITS; i++) {
        h->limit[i] = bucket_table_new(LIMIT_KEYS);
        if (!h->limit[i] || !h->device) {
            hub_free(h);
            return NULL;
        }
    }
    return h;
}

void hub_free(struct hub *h)
{
    if (!h)
        return;
    while (h->ack_retry) {
        struct store_req *req = h->ack_retry;

        h->ack_retry = req->next;
        conn_unref(req->ctx);
        store_req_free(req);
    }
    for (size_t i = 0; i < HUB_LIMITS; i++)
        bucket_table_free(h->limit[i]);
    free(h->device);
    free(h);
}

static struct device **chain_of(struct hub *h, const struct address *a)
{
    uint8_t key[UID_LEN + 4], out[crypto_shorthash_BYTES];
    uint64_t v;

    memcpy(key, a->uid, UID_LEN);
    memcpy(key + UID_LEN, &a->device, 4);
    crypto_shorthash(out, key, sizeof(key), h->hash_key);
    memcpy(&v, out, sizeof(v));
    return &h->device[v & (h->buckets - 1)];
}

static void rehash(struct hub *h)
{
    struct device **old = h->device, **bigger = calloc(h->buckets * 2, sizeof(struct device *));
    size_t n = h->buckets;

    if (!bigger)
        return;
    h->device = bigger;
    h->buckets = n * 2;
    for (size_t i = 0; i < n; i++) {
        for (struct device *d = old[i], *next; d; d = next) {
            struct device **chain = chain_of(h, &d->address);

            next = d->next;
            d->next = *chain;
            *chain = d;
        }
    }
    free(old);
}

struct device *hub_find_device(struct hub *h, const struct address *a)
{
    struct device *d = *chain_of(h, a);

    while (d && (d->address.device != a->device || memcmp(d->address.uid, a->uid, UID_LEN) != 0))
        d = d->next;
    return d;
}

struct device *hub_get_device(struct hub *h, const struct address *a)
{
    struct device *d = hub_find_device(h, a), **chain;

    if (d)
        return d;
    d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    if (h->devices > h->buckets)
        rehash(h);
    chain = chain_of(h, a);
    d->address = *a;
    d->next = *chain;
    *chain = d;
    h->devices++;
    return d;
}

void hub_release_device(struct hub *h, struct device *d)
{
    struct device **at;

    if (!d || d->conn || d->inflight || d->watchers || d->pinned)
        return;
    for (at = chain_of(h, &d->address); *at != d; at = &(*at)->next)
        continue;
    *at = d->next;
    h->devices--;
    free(d);
}

static void on_expired(struct store_req *req, void *ctx)
{
    struct hub *h = ctx;

    h->expiring = false;
    store_req_free(req);
}

static void housekeep(struct hub *h)
{
    struct store_expire *r;

    if (h->expiring)
        return;
    r = store_req_new(STORE_OP_EXPIRE, sizeof(*r), on_expired, h);
    if (!r)
        return;
    r->now_ms = h->clock.now_ms();
    h->expiring = true;
    store_submit(h->store, &r->req);
}

void hub_tick(struct hub *h)
{
    uint64_t now = h->clock.mono_ms();

    for (struct conn *c = h->conns; c; c = c->next) {
        if ((c->state == CONN_NEW || c->state == CONN_WAITING) && now >= c->deadline_ms)
            conn_close(c, CLOSE_POLICY);
    }
    mailbox_retry_acks(h);
    housekeep(h);
}

void hub_drain(struct hub *h)
{
    h->draining = true;
    for (struct conn *c = h->conns; c; c = c->next)
        c->wake(c->io);
}

void hub_shut_down(struct hub *h)
{
    for (struct conn *c = h->conns; c; c = c->next)
        conn_close(c, CLOSE_GOING_AWAY);
}

static void challenge(struct conn *c)
{
    struct relay_challenge m = {.version = RELAY_VERSION,
            .time_ms = c->hub->clock.now_ms(),
            .max_message = RELAY_MAX_MESSAGE,
            .max_body = RELAY_MAX_BODY,
            .window = RELAY_WINDOW,
            .registration = (uint8_t)c->hub->options.registration};
    struct buf b;

    memcpy(m.nonce, c->nonce, sizeof(m.nonce));
    memcpy(m.store_id, store_id(c->hub->store), sizeof(m.store_id));
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_challenge(&b, &m);
    conn_send(c, &b);
}

struct conn *conn_new(struct hub *h, const struct conn_info *info, void (*wake)(void *io), void *io)
{
    struct conn *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->hub = h;
    c->wake = wake;
    c->io = io;
    c->refs = 1;
    c->serial = ++h->serial;
    c->deadline_ms = h->clock.mono_ms() + CONN_AUTH_DEADLINE_MS;
    c->tls = info->tls;
    c->has_exporter = info->exporter != NULL;
    if (info->exporter)
        memcpy(c->exporter, info->exporter, sizeof(c->exporter));
    memcpy(c->ip, info->ip, sizeof(c->ip));
    randombytes_buf(c->nonce, sizeof(c->nonce));
    c->out_tail = &c->out;
    c->watch_tail = &c->watches;
    buf_init(&c->deliver, RELAY_MAX_MESSAGE);
    window_init(&c->window, h->hash_key);
    recent_init(&c->recent, h->hash_key);
    c->next = h->conns;
    c->prev = &h->conns;
    if (h->conns)
        h->conns->prev = &c->next;
    h->conns = c;
    challenge(c);
    return c;
}

void conn_ref(struct conn *c)
{
    c->refs++;
}

void conn_unref(struct conn *c)
{
    if (--c->refs == 0)
        free(c);
}

static void leave_paused(struct conn *c)
{
    struct conn **at = &c->hub->paused;

    if (!c->paused)
        return;
    while (*at != c)
        at = &(*at)->next_paused;
    *at = c->next_paused;
    c->paused = false;
}

/* The device is gone for everybody else, at once and not only when the socket is. */
static void detach(struct conn *c)
{
    leave_paused(c);
    /* First: a connection may watch its own device. */
    presence_close(c);
    mailbox_close(c);
}

void conn_gone(struct conn *c)
{
    if (!c)
        return;
    c->io = NULL;
    detach(c);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    while (c->out) {
        struct out *o = c->out;

        c->out = o->next;
        buf_done(&o->message);
        free(o);
    }
    buf_done(&c->deliver);
    conn_unref(c);
}

static void wake(struct conn *c)
{
    if (c->io)
        c->wake(c->io);
}

static void queue(struct conn *c, struct buf *message, bool delivery)
{
    struct out *o = c->io && buf_status(message) == 0 ? malloc(sizeof(*o)) : NULL;

    if (!o) {
        buf_done(message);
        conn_close(c, CLOSE_POLICY);
        return;
    }
    *o = (struct out){.message = *message, .delivery = delivery};
    *message = (struct buf){.max = message->max};
    c->out_bytes += o->message.len;
    if (!delivery)
        c->reply_bytes += o->message.len;
    *c->out_tail = o;
    c->out_tail = &o->next;
    wake(c);
}

void conn_send(struct conn *c, struct buf *message)
{
    queue(c, message, false);
}

void conn_queue_delivery(struct conn *c)
{
    if (c->deliver.len)
        queue(c, &c->deliver, true);
}

void conn_error(
        struct conn *c, uint32_t ref, enum relay_error code, uint32_t retry_after_ms, const char *text)
{
    struct buf b;

    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_error(&b, ref, (uint16_t)code, retry_after_ms, text);
    conn_send(c, &b);
}

void conn_close(struct conn *c, uint16_t close_code)
{
    if (c->state == CONN_CLOSING)
        return;
    c->state = CONN_CLOSING;
    c->close_code = close_code;
    detach(c);
    wake(c);
}

static void fail(struct conn *c, uint32_t ref, enum relay_error code, uint32_t retry_after_ms,
        uint16_t close_code, const char *text)
{
    if (c->state == CONN_CLOSING)
        return;
    conn_error(c, ref, code, retry_after_ms, text);
    conn_close(c, close_code);
}

void conn_fail(struct conn *c, uint32_t ref, enum relay_error code, uint32_t retry_after_ms, const char *text)
{
    fail(c, ref, code, retry_after_ms, CLOSE_POLICY, text);
}

void conn_violation(struct conn *c, uint16_t close_code, const char *text)
{
    fail(c, 0, RELAY_ERR_BAD_MESSAGE, 0, close_code, text);
}

void conn_submit(struct conn *c, struct store_req *req, size_t bytes)
{
    conn_ref(c);
    req->cost = bytes;
    c->inflight++;
    c->inflight_bytes += bytes;
    c->hub->inflight_bytes += bytes;
    if (c->hub->inflight_bytes > HUB_MAX_INFLIGHT_BYTES && !c->paused && conn_alive(c)) {
        c->paused = true;
        c->next_paused = c->hub->paused;
        c->hub->paused = c;
    }
    store_submit(c->hub->store, req);
}

static void resume_paused(struct hub *h)
{
    while (h->paused && h->inflight_bytes < HUB_MAX_INFLIGHT_BYTES / 2) {
        struct conn *c = h->paused;

        leave_paused(c);
        wake(c);
    }
}

void conn_complete(struct conn *c, const struct store_req *req)
{
    bool could_read = conn_wants_read(c);

    c->inflight--;
    c->inflight_bytes -= req->cost;
    c->hub->inflight_bytes -= req->cost;
    resume_paused(c->hub);
    if (!could_read && conn_wants_read(c))
        wake(c);
    conn_unref(c);
}

uint32_t conn_limited(struct conn *c, uint32_t ref, enum hub_limit which, const void *key, size_t key_len)
{
    struct hub *h = c->hub;
    uint32_t wait =
            bucket_table_take(h->limit[which], &h->options.limit[which], key, key_len, 1, h->clock.mono_ms());

    if (wait)
        conn_error(c, ref, RELAY_ERR_RATE_LIMITED, wait, "too many requests");
    return wait;
}

void conn_store_failed(struct conn *c, uint32_t ref, enum store_result result)
{
    if (result == STORE_FULL)
        conn_error(c, ref, RELAY_ERR_FULL, 10000, "the relay has no room");
    else
        conn_error(c, ref, RELAY_ERR_BUSY, 1000, "the relay could not store this; try again");
}

static void ready_message(struct conn *c, uint8_t type, uint32_t ref, struct cursor *fields)
{
    static const struct {
        uint8_t type;
        void (*handle)(struct conn *c, uint32_t ref, struct cursor *fields);
    } table[] = {
            {RELAY_SUBMIT, mailbox_submit},
            {RELAY_ACK, mailbox_ack},
            {RELAY_QUERY, mailbox_query},
            {RELAY_LOOKUP, directory_lookup},
            {RELAY_CLAIM, directory_claim},
            {RELAY_PUT_PREKEYS, directory_put_prekeys},
            {RELAY_WATCH, presence_watch},
            {RELAY_LIST_USERS, directory_list_users},
            {RELAY_REGISTER, directory_register},
            {RELAY_UNREGISTER, directory_unregister},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (table[i].type == type) {
            table[i].handle(c, ref, fields);
            return;
        }
    }
    if (type == RELAY_AUTH)
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "AUTH a second time");
    else
        conn_error(c, ref, RELAY_ERR_UNSUPPORTED, 0, "unknown message type");
}

static void new_message(struct conn *c, uint8_t type, uint32_t ref, struct cursor *fields)
{
    if (type == RELAY_AUTH)
        auth_message(c, ref, fields);
    else if (type == RELAY_REGISTER)
        directory_register(c, ref, fields);
    else
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "only AUTH and REGISTER are accepted before WELCOME");
}

void conn_message(struct conn *c, const uint8_t *p, size_t n)
{
    struct cursor cursor;
    uint32_t ref;
    uint8_t type;

    if (c->state == CONN_CLOSING)
        return;
    cursor_init(&cursor, p, n);
    if (relay_read_head(&cursor, &type, &ref) != WIRE_OK)
        conn_fail(c, 0, RELAY_ERR_BAD_MESSAGE, 0, "no whole message head, or more than 131072 bytes");
    else if (c->state == CONN_READY)
        ready_message(c, type, ref, &cursor);
    else if (c->state == CONN_NEW)
        new_message(c, type, ref, &cursor);
    else
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "AUTH or REGISTER is not answered yet");
}

bool conn_has_output(const struct conn *c)
{
    return c->out || c->deliver.len || c->presence_due;
}

bool conn_pull(struct conn *c, struct buf *ret_message)
{
    struct out *o;
    struct buf presence;

    if (!c->out)
        conn_queue_delivery(c);
    if (!c->out && c->presence_due) {
        buf_init(&presence, RELAY_MAX_MESSAGE);
        if (presence_next(c, &presence))
            conn_send(c, &presence);
        buf_done(&presence);
    }
    o = c->out;
    if (!o)
        return false;
    c->out = o->next;
    if (!c->out)
        c->out_tail = &c->out;
    c->out_bytes -= o->message.len;
    if (!o->delivery)
        c->reply_bytes -= o->message.len;
    *ret_message = o->message;
    free(o);
    return true;
}

bool conn_wants_read(const struct conn *c)
{
    return c->state != CONN_CLOSING && c->state != CONN_WAITING && !c->paused && !c->hub->draining &&
           c->inflight < CONN_MAX_INFLIGHT && c->inflight_bytes < CONN_MAX_INFLIGHT_BYTES &&
           c->reply_bytes < CONN_MAX_REPLY_BYTES && c->out_bytes < CONN_MAX_OUT_BYTES;
}

bool conn_closing(const struct conn *c)
{
    return c->state == CONN_CLOSING;
}

bool conn_finished(const struct conn *c, uint16_t *ret_close_code)
{
    if (c->state != CONN_CLOSING || conn_has_output(c))
        return false;
    *ret_close_code = c->close_code;
    return true;
}
