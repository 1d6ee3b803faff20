/*
 * Envelopes: SUBMIT, DELIVER, ACK, QUERY.
 *
 * A connected device is either `live` (it has been sent everything that the store has for it), and gets new
 * envelopes while the store writes them; or it is fed from the store, oldest first, as its window allows, and
 * what is new waits behind. It turns live when a FETCH has reached the end and nothing for it is on its way
 * to the store (device.inflight) or has arrived there since. It stops being live with the first envelope that
 * does not fit into its window. So the envelopes of one sender reach it in the order of their submission.
 */
#include <string.h>

#include "hub.h"

#define FETCH_BYTES (256u * 1024)
#define FULL_RETRY_MS 60000u
#define DISK_FULL_RETRY_MS 10000u
#define FAILED_RETRY_MS 1000u

static void pump(struct conn *c);

static void check_drained(struct conn *c)
{
    struct buf b;

    if (c->drained || c->barrier_unacked || !conn_alive(c))
        return;
    if (c->cursor >= c->barrier_seq || c->exhausted)
        c->barrier_passed = true;
    if (!c->barrier_passed)
        return;
    c->drained = true;
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_empty(&b, RELAY_DRAINED, 0);
    conn_queue_delivery(c);
    conn_send(c, &b);
}

void mailbox_open(struct conn *c, const struct store_open_device *r)
{
    c->barrier_seq = r->ret_last_seq;
    c->exhausted = r->ret_waiting == 0;
    check_drained(c);
    pump(c);
}

void mailbox_close(struct conn *c)
{
    struct device *d = c->device;

    window_done(&c->window);
    recent_done(&c->recent);
    buf_done(&c->deliver);
    if (!d)
        return;
    /* What was delivered here and is not stored yet must reach the next connection from the store. */
    d->inflight += c->live_inflight;
    c->live_inflight = 0;
    c->device = NULL;
    d->conn = NULL;
    presence_changed(d);
    hub_release_device(c->hub, d);
}

/* Into the batch that is being filled, and into the window. false: without memory; the connection is being
 * closed. */
static bool deliver(struct conn *c, const struct window_entry *e, uint64_t time_ms, struct span body)
{
    const struct relay_deliver_item item = {.id = e->id, .time_ms = time_ms, .body = body};
    bool was_empty = c->deliver.len == 0;

    if (window_add(&c->window, e)) {
        conn_close(c, 1011);
        return false;
    }
    recent_add(&c->recent, &e->id);
    if (!was_empty && c->deliver.len + sizeof(item.id) + 12 + body.n > RELAY_MAX_MESSAGE) {
        conn_queue_delivery(c);
        was_empty = true;
    }
    if (was_empty)
        relay_begin(&c->deliver, RELAY_DELIVER, 0);
    relay_add_deliver(&c->deliver, &item);
    if (c->deliver.len >= RELAY_BATCH_FILL || c->deliver.error ||
            relay_batch_count(&c->deliver) == RELAY_MAX_BATCH)
        conn_queue_delivery(c);
    else if (was_empty)
        c->wake(c->io);
    return conn_alive(c);
}

static void take_fetched(struct conn *c, const struct store_fetch *r)
{
    for (uint32_t i = 0; i < r->ret_count; i++) {
        const struct store_fetched *f = &r->ret_item[i];
        const struct window_entry e = {.id = f->id,
                .bytes = (uint32_t)f->body_len,
                .expires_ms = f->expires_ms,
                .barrier = f->seq <= c->barrier_seq};

        c->cursor = f->seq;
        if (recent_has(&c->recent, &f->id) || window_has(&c->window, &f->id))
            continue;
        if (!deliver(c, &e, f->time_ms, (struct span){r->bytes.data + f->body_at, f->body_len}))
            return;
        c->barrier_unacked += e.barrier;
    }
}

static void on_fetched(struct store_req *req, void *ctx)
{
    struct store_fetch *r = (struct store_fetch *)req;
    struct conn *c = ctx;

    c->fetching = false;
    if (!conn_alive(c))
        goto done;
    if (req->result != STORE_OK) {
        conn_fail(c, 0, RELAY_ERR_BUSY, FAILED_RETRY_MS, "the relay could not read the mailbox");
        goto done;
    }
    take_fetched(c, r);
    c->exhausted = !r->ret_more;
    check_drained(c);
    pump(c);
done:
    conn_complete(c, req);
    store_req_free(req);
}

static void fetch(struct conn *c)
{
    struct store_fetch *r = store_req_new(STORE_OP_FETCH, sizeof(*r), on_fetched, c);

    if (!r) {
        conn_close(c, 1011);
        return;
    }
    c->fetching = true;
    c->stored_since = false;
    r->mailbox = c->mailbox;
    r->after = c->cursor;
    r->now_ms = c->hub->clock.now_ms();
    r->max_count = STORE_FETCH_MAX;
    r->max_bytes = FETCH_BYTES;
    conn_submit(c, &r->req, 0);
}

/* Goes on feeding from the store, or turns live, if the time has come for it. */
static void pump(struct conn *c)
{
    if (!conn_alive(c) || !c->device || c->live || c->fetching || c->live_inflight)
        return;
    if (c->exhausted && !c->stored_since) {
        c->live = c->device->inflight == 0;
        return;
    }
    if (c->window.count + STORE_FETCH_MAX <= RELAY_WINDOW && window_has_room(&c->window, FETCH_BYTES))
        fetch(c);
}

/* --- SUBMIT --- */

static void set_status(struct store_envelope *e, enum relay_submit_status status, uint32_t retry_after_ms)
{
    e->skip = true;
    e->status = (uint8_t)status;
    e->retry_after_ms = retry_after_ms;
}

static void answer_submit(struct conn *c, const struct store_submit_req *r)
{
    struct buf b;

    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_begin(&b, RELAY_SUBMITTED, r->req.ref);
    for (uint16_t i = 0; i < r->count; i++) {
        const struct relay_submitted_item item = {.id = r->item[i].id,
                .status = r->item[i].status,
                .retry_after_ms = r->item[i].retry_after_ms};

        relay_add_submitted(&b, &item);
    }
    conn_send(c, &b);
}

static void set_stored_status(struct store_envelope *e, enum store_result all)
{
    enum store_result result = all == STORE_OK ? e->ret_result : STORE_RETRY;

    if (result == STORE_OK)
        set_status(e, SUBMIT_STORED, 0);
    else if (result == STORE_DUP)
        set_status(e, SUBMIT_DUPLICATE, 0);
    else if (result == STORE_NOENT)
        set_status(e, SUBMIT_NO_DEVICE, 0);
    else if (result == STORE_FULL)
        set_status(e, SUBMIT_FULL, FULL_RETRY_MS);
    else
        set_status(e, SUBMIT_RETRY, all == STORE_FULL ? DISK_FULL_RETRY_MS : FAILED_RETRY_MS);
}

/* The outcome of one envelope, for the device that it is for. */
static void settle(struct hub *h, struct store_envelope *e)
{
    struct device *d = e->device;
    struct conn *to;

    if (!d)
        return;
    to = d->conn;
    if (to && e->delivered_to == to->serial) {
        to->live_inflight--;
        if (e->status == SUBMIT_STORED && e->ret_seq > to->cursor)
            to->cursor = e->ret_seq;
    } else {
        d->inflight--;
        if (to && e->status == SUBMIT_STORED)
            to->stored_since = true;
    }
    d->pinned++;
    if (to)
        pump(to);
    d->pinned--;
    hub_release_device(h, d);
}

static void on_submitted(struct store_req *req, void *ctx)
{
    struct store_submit_req *r = (struct store_submit_req *)req;
    struct conn *c = ctx;

    for (uint16_t i = 0; i < r->count; i++) {
        if (r->item[i].skip)
            continue;
        set_stored_status(&r->item[i], req->result);
        settle(c->hub, &r->item[i]);
    }
    if (conn_alive(c))
        answer_submit(c, r);
    conn_complete(c, req);
    store_req_free(req);
}

static bool deliver_live(struct conn *to, const struct store_envelope *e, uint64_t time_ms, bool ephemeral)
{
    const struct window_entry entry = {
            .id = e->id, .bytes = (uint32_t)e->body.n, .expires_ms = e->expires_ms, .ephemeral = ephemeral};

    return to->live && window_has_room(&to->window, e->body.n) && deliver(to, &entry, time_ms, e->body);
}

static bool was_delivered(const struct conn *to, const struct envelope_id *id)
{
    return window_has(&to->window, id) || recent_has(&to->recent, id);
}

static void submit_ephemeral(struct hub *h, struct store_envelope *e, uint64_t now_ms)
{
    struct device *d = hub_find_device(h, &e->to);

    if (d && d->conn && was_delivered(d->conn, &e->id))
        set_status(e, SUBMIT_DUPLICATE, 0);
    else if (d && d->conn && deliver_live(d->conn, e, now_ms, true))
        set_status(e, SUBMIT_STORED, 0);
    else
        set_status(e, SUBMIT_NOT_CONNECTED, 0);
}

/* To the store; and to the device at once if it is live. */
static void submit_durable(struct hub *h, struct store_envelope *e, uint64_t now_ms)
{
    struct device *d = hub_get_device(h, &e->to);
    struct conn *to;

    if (!d) {
        set_status(e, SUBMIT_RETRY, FAILED_RETRY_MS);
        return;
    }
    to = d->conn;
    if (to && was_delivered(to, &e->id))
        return;
    e->device = d;
    /* Counted first: should the delivery end the connection, the device is still in use. */
    d->inflight++;
    if (!to)
        return;
    if (deliver_live(to, e, now_ms, false)) {
        d->inflight--;
        to->live_inflight++;
        e->delivered_to = to->serial;
    } else {
        to->live = false;
    }
}

static uint32_t submit_limit(
        struct conn *c, struct bucket *count, struct bucket *bytes, size_t n, uint64_t mono_ms)
{
    const struct limit *limit = c->hub->options.limit;
    uint32_t wait = bucket_take(count, &limit[LIMIT_SUBMIT], 1, mono_ms);

    return wait ? wait : bucket_take(bytes, &limit[LIMIT_BYTES], n, mono_ms);
}

static void submit_all(struct conn *c, struct store_submit_req *r, const uint8_t *ephemeral)
{
    struct hub *h = c->hub;
    struct bucket *count = bucket_table_get(h->limit[LIMIT_SUBMIT], c->who.uid, UID_LEN);
    struct bucket *bytes = bucket_table_get(h->limit[LIMIT_BYTES], c->who.uid, UID_LEN);
    uint64_t mono = h->clock.mono_ms();

    for (uint16_t i = 0; i < r->count; i++) {
        struct store_envelope *e = &r->item[i];
        uint32_t wait = submit_limit(c, count, bytes, e->body.n, mono);

        if (wait)
            set_status(e, SUBMIT_RATE_LIMITED, wait);
        else if (e->expires_ms <= r->time_ms)
            set_status(e, SUBMIT_EXPIRED, 0);
        else if (ephemeral[i])
            submit_ephemeral(h, e, r->time_ms);
        else
            submit_durable(h, e, r->time_ms);
    }
}

/* The message's bytes are copied once, behind the items; the bodies point into the copy. */
static struct store_submit_req *parse_submit(
        const struct cursor *fields, uint16_t count, uint8_t *ret_ephemeral)
{
    size_t items = count * sizeof(struct store_envelope), n = fields->left;
    struct store_submit_req *r = store_req_new(STORE_OP_SUBMIT, sizeof(*r) + items + n, on_submitted, NULL);
    struct cursor c;

    if (!r)
        return NULL;
    r->item = (struct store_envelope *)(r + 1);
    r->count = count;
    memcpy((uint8_t *)r->item + items, fields->p, n);
    cursor_init(&c, (uint8_t *)r->item + items, n);
    for (uint16_t i = 0; i < count; i++) {
        struct relay_submit_item m;

        (void)!relay_next_submit(&c, &m);
        r->item[i].id = m.id;
        r->item[i].to = m.to;
        r->item[i].expires_ms = m.expires_ms;
        r->item[i].body = m.body;
        ret_ephemeral[i] = m.flags & RELAY_SUBMIT_EPHEMERAL;
    }
    if (cursor_end(&c) == WIRE_OK)
        return r;
    store_req_free(&r->req);
    return NULL;
}

static bool any_for_store(const struct store_submit_req *r)
{
    for (uint16_t i = 0; i < r->count; i++) {
        if (!r->item[i].skip)
            return true;
    }
    return false;
}

void mailbox_submit(struct conn *c, uint32_t ref, struct cursor *fields)
{
    uint8_t ephemeral[RELAY_MAX_BATCH] = {0};
    struct store_submit_req *r = NULL;
    size_t cost = sizeof(*r) + fields->left;
    uint64_t latest;
    uint16_t count;

    if (relay_read_count(fields, 1, RELAY_MAX_BATCH, &count) == WIRE_OK)
        r = parse_submit(fields, count, ephemeral);
    if (!r) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0,
                "malformed SUBMIT: 1 to 1024 envelopes with bodies up to 98304 bytes");
        return;
    }
    r->req.ctx = c;
    r->req.ref = ref;
    r->time_ms = c->hub->clock.now_ms();
    latest = r->time_ms + RELAY_MAX_TTL_MS;
    cost += count * sizeof(r->item[0]);
    for (uint16_t i = 0; i < count; i++) {
        if (r->item[i].expires_ms > latest)
            r->item[i].expires_ms = latest;
    }
    /* The connection may deliver to itself and fail doing so. */
    conn_ref(c);
    submit_all(c, r, ephemeral);
    if (any_for_store(r)) {
        conn_submit(c, &r->req, cost);
    } else {
        if (conn_alive(c))
            answer_submit(c, r);
        store_req_free(&r->req);
    }
    conn_unref(c);
}

/* --- ACK --- */

static void on_acked(struct store_req *req, void *ctx)
{
    struct store_ack *r = (struct store_ack *)req;
    struct conn *c = ctx;

    if (req->result != STORE_OK && conn_alive(c)) {
        conn_ref(c);
        conn_complete(c, req);
        req->next = c->hub->ack_retry;
        c->hub->ack_retry = req;
        return;
    }
    c->barrier_unacked -= r->barrier;
    check_drained(c);
    conn_complete(c, req);
    store_req_free(req);
}

void mailbox_retry_acks(struct hub *h)
{
    struct store_req *req = h->ack_retry;

    h->ack_retry = NULL;
    while (req) {
        struct store_req *next = req->next;
        struct conn *c = req->ctx;

        if (conn_alive(c))
            conn_submit(c, req, 0);
        else
            store_req_free(req);
        conn_unref(c);
        req = next;
    }
}

void mailbox_ack(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct store_ack *r = NULL;
    uint16_t n;

    if (relay_read_count(fields, 1, RELAY_MAX_BATCH, &n) != WIRE_OK ||
            fields->left != (size_t)n * ENVELOPE_ID_LEN) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed ACK: 1 to 1024 envelope ids");
        return;
    }
    r = store_req_new(STORE_OP_ACK, sizeof(*r) + n * sizeof(r->item[0]), on_acked, c);
    if (!r) {
        conn_close(c, 1011);
        return;
    }
    r->mailbox = c->mailbox;
    while (n-- > 0) {
        struct window_entry e;
        struct envelope_id id;

        if (relay_next_ack(fields, &id) != WIRE_OK || !window_take(&c->window, &id, &e) || e.ephemeral)
            continue;
        r->item[r->count++] = (struct store_ack_item){.id = id, .expires_ms = e.expires_ms};
        r->barrier += e.barrier;
    }
    if (r->count)
        conn_submit(c, &r->req, 0);
    else
        store_req_free(&r->req);
    pump(c);
}

/* --- QUERY --- */

static void on_queried(struct store_req *req, void *ctx)
{
    struct store_query *r = (struct store_query *)req;
    struct conn *c = ctx;
    struct buf b;

    if (!conn_alive(c))
        goto done;
    if (req->result != STORE_OK) {
        conn_store_failed(c, req->ref, req->result);
        goto done;
    }
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_begin(&b, RELAY_STATES, r->req.ref);
    for (uint16_t i = 0; i < r->count; i++) {
        const struct relay_state_item item = {.id = r->item[i].what.id, .state = r->item[i].ret_state};

        relay_add_state(&b, &item);
    }
    conn_send(c, &b);
done:
    conn_complete(c, req);
    store_req_free(req);
}

void mailbox_query(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct store_query *r;
    uint16_t n;

    if (relay_read_count(fields, 1, RELAY_MAX_BATCH, &n) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed QUERY: 1 to 1024 envelopes");
        return;
    }
    r = store_req_new(STORE_OP_QUERY, sizeof(*r) + n * sizeof(r->item[0]), on_queried, c);
    if (!r) {
        conn_close(c, 1011);
        return;
    }
    r->req.ref = ref;
    r->count = n;
    for (uint16_t i = 0; i < n; i++)
        (void)!relay_next_query(fields, &r->item[i].what);
    if (cursor_end(fields) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed QUERY: not the envelopes that its count says");
        store_req_free(&r->req);
        return;
    }
    if (conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN)) {
        store_req_free(&r->req);
        return;
    }
    conn_submit(c, &r->req, 0);
}
