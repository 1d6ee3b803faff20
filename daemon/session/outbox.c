/* Messages on their way out: acceptance, encryption in order, states, ends. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

const char *out_state_name(uint8_t state)
{
    static const char *const names[] = {"queued", "queued", "sent", "delivered", "read", "expired", "failed"};
    return names[state <= OUT_FAILED ? state : OUT_FAILED];
}

size_t outbox_queued(const struct engine *e)
{
    const struct outmsg *m;
    size_t n = 0;
    TAILQ_FOREACH(m, &e->all, all)
    n += m->state < OUT_SENT;
    return n;
}

/* --- lists and life --- */

static void peer_leave_waiting(struct engine *e, struct peer *p)
{
    if (p->in_waiting && TAILQ_EMPTY(&p->waiting)) {
        TAILQ_REMOVE(&e->waiting_peers, p, waiting_peers);
        p->in_waiting = false;
    }
}

/* By order, walking from the end that is nearer by it: what comes back may be the oldest or the newest. */
static void outmsg_insert(struct outmsg_list *list, struct outmsg *m)
{
    struct outmsg *first = TAILQ_FIRST(list), *last = TAILQ_LAST(list, outmsg_list);
    if (!first || last->order < m->order) {
        TAILQ_INSERT_TAIL(list, m, queue);
    } else if (first->order > m->order) {
        TAILQ_INSERT_HEAD(list, m, queue);
    } else if (m->order - first->order < last->order - m->order) {
        while (first->order < m->order) /* the last one is not */
            first = TAILQ_NEXT(first, queue);
        TAILQ_INSERT_BEFORE(first, m, queue);
    } else {
        while (last->order > m->order) /* the first one is not */
            last = TAILQ_PREV(last, outmsg_list, queue);
        TAILQ_INSERT_AFTER(list, last, m, queue);
    }
}

/* list NULL: in no queue. */
void outmsg_enqueue(struct engine *e, struct outmsg *m, struct outmsg_list *list)
{
    if (m->queued)
        TAILQ_REMOVE(m->queued, m, queue);
    if (m->queued == &m->peer->waiting)
        peer_leave_waiting(e, m->peer);
    m->queued = list;
    if (!list)
        return;
    outmsg_insert(list, m);
    if (list == &m->peer->waiting && !m->peer->in_waiting) {
        TAILQ_INSERT_TAIL(&e->waiting_peers, m->peer, waiting_peers);
        m->peer->in_waiting = true;
    }
}

void outmsg_free(struct engine *e, struct outmsg *m)
{
    outmsg_enqueue(e, m, NULL);
    flight_end(e, &m->flight);
    table_del(&e->out, &m->by_id);
    TAILQ_REMOVE(&e->all, m, all);
    e->n_out--;
    if (m->qos == 0)
        e->n_ephemeral--;
    if (m->payload) {
        sodium_memzero(m->payload, m->payload_len);
        free(m->payload);
    }
    free(m);
}

static int outmsg_add(struct engine *e, struct outmsg *m)
{
    int r = table_add(&e->out, &m->by_id, m->id.b);
    if (r < 0)
        return r;
    TAILQ_INSERT_TAIL(&e->all, m, all);
    e->n_out++;
    if (m->qos == 0)
        e->n_ephemeral++;
    return 0;
}

/* Messages as they are found, in the order of their ids. */
struct loading {
    struct engine *e;
    struct outmsg **found;
    size_t n, cap;
};

static int load_one(struct engine *e, struct outmsg *m, const uint8_t *value, size_t n)
{
    struct contact *c;
    struct address to;
    int r = outmsg_parse(value, n, m, &to);
    if (r < 0)
        return r;
    outmsg_rewind(m, e->now);
    c = contact_find(e, to.uid);
    return c ? peer_get(e, c, to.device, &m->peer) : -EBADMSG;
}

static int load_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct loading *l = ctx;
    struct outmsg *m;
    int r;
    if (key_len != MESSAGE_ID_LEN)
        return -EBADMSG;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct outmsg **found = realloc(l->found, cap * sizeof(struct outmsg *));
        if (!found)
            return -ENOMEM;
        l->found = found;
        l->cap = cap;
    }
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    memcpy(m->id.b, key, MESSAGE_ID_LEN);
    r = load_one(l->e, m, value, n);
    if (r < 0)
        free(m);
    else
        l->found[l->n++] = m;
    return r;
}

static int by_order(const void *a, const void *b)
{
    const struct outmsg *x = *(struct outmsg *const *)a, *y = *(struct outmsg *const *)b;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int load_queue(struct engine *e, struct outmsg *m)
{
    if (m->order >= e->next_order)
        e->next_order = m->order + 1;
    if (m->state == OUT_WAITING)
        outmsg_enqueue(e, m, m->not_before_ms > e->now ? &e->future : &m->peer->waiting);
    else if (m->state == OUT_READY)
        outmsg_enqueue(e, m, &e->ready);
    return m->state == OUT_WAITING ? 0 : flight_track(e, &m->flight, &m->envelope);
}

int outbox_load(struct engine *e)
{
    struct loading l = {.e = e};
    int r = e->port.scan(e->port.ctx, MAP_OUT, "", 0, 0, load_visit, &l);
    if (l.n)
        qsort(l.found, l.n, sizeof(struct outmsg *), by_order);
    for (size_t i = 0; i < l.n; i++) {
        if (r == 0 && (r = outmsg_add(e, l.found[i])) == 0)
            r = load_queue(e, l.found[i]);
        else
            free(l.found[i]);
    }
    free(l.found);
    return r;
}

static void draw_back(uint64_t *t, uint64_t limit)
{
    if (*t > limit)
        *t = limit;
}

void outmsg_rewind(struct outmsg *m, uint64_t now_ms)
{
    draw_back(&m->created_ms, now_ms);
    draw_back(&m->expires_ms, now_ms + ENGINE_MAX_TTL_MS);
    draw_back(&m->encrypted_ms, now_ms);
    draw_back(&m->retry_ms, now_ms);
    draw_back(&m->queried_ms, now_ms);
    draw_back(&m->acked_ms, now_ms);
}

/* --- acceptance --- */

struct draft {
    char to[UID_TEXT_LEN + RELAY_MAX_NAME];
    char id_text[ID_TEXT_MAX + 1];
    struct span payload;
    bool is_text, require_verified;
    uint8_t qos;
    uint64_t ttl_ms, not_before_ms;
    uint8_t digest[16];
    struct message_id id;
};

static int draft_read(struct engine *e, struct draft *d, const struct mp_value *params)
{
    struct span text = param_bytes(params, "text"), bytes = param_bytes(params, "bytes");
    if (!text.p == !bytes.p)
        return 1;
    (void)param_str(params, "to", d->to, sizeof(d->to));
    d->is_text = text.p != NULL;
    d->payload = text.p ? text : bytes;
    if (!param_str(params, "id", d->id_text, sizeof(d->id_text)) || !d->id_text[0]) {
        uint8_t raw[16];
        rng_fill(&e->rng, raw, sizeof(raw));
        (void)sodium_bin2hex(d->id_text, sizeof(d->id_text), raw, sizeof(raw));
    }
    d->qos = (uint8_t)param_uint(params, "qos", 2);
    d->ttl_ms = param_uint(params, "ttl_ms", ENGINE_MAX_TTL_MS);
    d->not_before_ms = param_uint(params, "not_before", 0);
    d->require_verified = param_bool(params, "require_verified", false);
    d->id = message_id_of(identity_address(e->id)->uid, d->id_text);
    return 0;
}

static void draft_digest(struct draft *d, const struct contact *c)
{
    crypto_generichash_state st;
    uint8_t kind = d->is_text;
    (void)crypto_generichash_init(&st, NULL, 0, sizeof(d->digest));
    (void)crypto_generichash_update(&st, c->uid, UID_LEN);
    (void)crypto_generichash_update(&st, &kind, 1);
    (void)crypto_generichash_update(&st, d->payload.p, d->payload.n);
    (void)crypto_generichash_final(&st, d->digest, sizeof(d->digest));
}

static int answer_sent(struct engine *e, uint64_t ticket, const char *id_text, uint64_t seq, uint8_t state)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    buf_init(&b, 512);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "id"), id_text);
    mp_put_uint(mp_key(&m, "seq"), seq);
    mp_put_str(mp_key(&m, "state"), out_state_name(state));
    mp_map_end(&m);
    return answer_ok(e, ticket, &b);
}

/* The same id again: 1 if it is new, else answered. */
static int draft_repeated(struct engine *e, uint64_t ticket, const struct draft *d)
{
    struct table_node *node = table_get(&e->out, d->id.b);
    struct done done;
    const uint8_t *digest;
    uint64_t seq;
    uint8_t state;
    if (node) {
        const struct outmsg *m = container_of(node, struct outmsg, by_id);
        digest = m->digest;
        seq = m->seq;
        state = m->state;
    } else {
        int r = done_load(e, &d->id, &done);
        if (r)
            return r;
        digest = done.digest;
        seq = done.seq;
        state = done.state;
    }
    if (memcmp(digest, d->digest, sizeof(d->digest)) != 0)
        return answer_fail(
                e, ticket, API_ID_CONFLICT, 0, "send: the id '%s' was used for another message", d->id_text);
    return answer_sent(e, ticket, d->id_text, seq, state);
}

static struct outmsg *outmsg_of(struct engine *e, const struct draft *d, struct peer *p)
{
    struct outmsg *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->id = d->id;
    memcpy(m->id_text, d->id_text, sizeof(m->id_text));
    memcpy(m->digest, d->digest, sizeof(m->digest));
    m->peer = p;
    m->order = e->next_order++;
    m->seq = e->last_seq;
    m->created_ms = e->now;
    m->expires_ms = e->now + d->ttl_ms;
    m->not_before_ms = d->not_before_ms;
    m->qos = d->qos;
    m->flags = (uint8_t)((d->is_text ? OUT_TEXT : 0u) | (d->require_verified ? OUT_REQUIRE_VERIFIED : 0u));
    return m;
}

/* Payload and, once there is one, envelope body of a message. */
static int data_store(struct engine *e, const struct outmsg *m, struct span payload, struct span body)
{
    buf_reset(&e->plain);
    buf_lp(&e->plain, payload.p, payload.n);
    buf_lp(&e->plain, body.p, body.n);
    return record_put(e, MAP_DATA, m->id.b, MESSAGE_ID_LEN, &e->plain);
}

static int data_load(struct engine *e, const struct outmsg *m, struct buf *value, struct span *ret_payload,
        struct span *ret_body)
{
    struct cursor c;
    int r = e->port.get(e->port.ctx, MAP_DATA, m->id.b, MESSAGE_ID_LEN, value);
    if (r)
        return r < 0 ? r : -EBADMSG;
    cursor_init(&c, value->data, value->len);
    ret_payload->p = cursor_lp(&c, ENGINE_MAX_PAYLOAD, &ret_payload->n);
    ret_body->p = cursor_lp(&c, RELAY_MAX_BODY, &ret_body->n);
    return cursor_end(&c) == WIRE_OK ? 0 : -EBADMSG;
}

static int keep_payload(struct outmsg *m, struct span payload)
{
    m->payload = malloc(payload.n ? payload.n : 1);
    if (!m->payload)
        return -ENOMEM;
    memcpy(m->payload, payload.p, payload.n);
    m->payload_len = payload.n;
    return 0;
}

/* The relay watches 256 devices for us, the last ones asked for. */
static void watch_none(struct engine *e)
{
    for (size_t i = 0; i < e->peers.n_slots; i++)
        for (struct table_node *n = e->peers.slots[i]; n; n = n->next) {
            struct peer *p = container_of(n, struct peer, node);
            p->watched = p->presence_known = p->present = false;
        }
    e->n_watched = 0;
}

static int watch(struct engine *e, struct peer *p)
{
    CLEANUP_BUF struct buf b = {0};
    if (p->watched || e->conn != CONN_ONLINE)
        return 0;
    if (e->n_watched == RELAY_MAX_WATCH)
        watch_none(e);
    p->watched = true;
    e->n_watched++;
    buf_init(&b, 256);
    relay_begin(&b, RELAY_WATCH, 0);
    relay_add_watch(&b, &p->address);
    return buf_status(&b) < 0 ? buf_status(&b) : effect_push(e, EFFECT_SEND, b.data, b.len);
}

static int accept_ephemeral(struct engine *e, struct outmsg *m, struct span payload)
{
    int r = keep_payload(m, payload);
    if (r < 0)
        return r;
    if (m->expires_ms > e->now + EPHEMERAL_MS)
        m->expires_ms = e->now + EPHEMERAL_MS;
    outmsg_enqueue(e, m, &m->peer->waiting);
    return watch(e, m->peer);
}

static int accept_durable(struct engine *e, struct outmsg *m, struct span payload)
{
    int r = data_store(e, m, payload, (struct span){0});
    if (r == 0)
        r = outmsg_store(e, m);
    if (r == 0)
        outmsg_enqueue(e, m, m->not_before_ms > e->now ? &e->future : &m->peer->waiting);
    return r;
}

static int accept(struct engine *e, uint64_t ticket, const struct draft *d, struct contact *c)
{
    struct peer *p;
    struct outmsg *m;
    int r = peer_get(e, c, c->device.address.device, &p);
    if (r < 0)
        return r;
    m = outmsg_of(e, d, p);
    if (!m)
        return -ENOMEM;
    r = outmsg_add(e, m);
    if (r < 0) {
        free(m);
        return r;
    }
    r = d->qos ? accept_durable(e, m, d->payload) : accept_ephemeral(e, m, d->payload);
    return r < 0 ? r : answer_sent(e, ticket, m->id_text, m->seq, m->state);
}

static int refuse(struct engine *e, uint64_t ticket, enum api_error error, const struct draft *d)
{
    const char *why =
            error == API_BLOCKED ? "is blocked; contact.block{blocked: false} ends that"
            : error == API_KEY_CHANGED
                    ? "has another key at the relay now: compare fingerprints, then contact.trust{user, uid}"
                    : "is not verified, and the message requires it; see contact.verify";
    return answer_fail(e, ticket, error, 0, "send: '%.64s' %s", d->to, why);
}

int outbox_send(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    struct draft d = {0};
    struct contact *c;
    enum api_error error;
    int r;
    if (draft_read(e, &d, params))
        return answer_fail(
                e, ticket, API_INVALID_PARAMS, 0, "send: exactly one of 'text' and 'bytes' is required");
    if (d.payload.n > ENGINE_MAX_PAYLOAD)
        return answer_fail(e, ticket, API_TOO_LARGE, 0, "send: %zu bytes; a message carries at most %u",
                d.payload.n, ENGINE_MAX_PAYLOAD);
    if (d.not_before_ms > e->now + d.ttl_ms)
        return answer_fail(
                e, ticket, API_INVALID_PARAMS, 0, "send: 'not_before' lies behind the end of 'ttl_ms'");
    r = contact_resolve(e, d.to, &c);
    if (r)
        return r < 0 ? r : relay_defer(e, ticket, "send", params, d.to);
    draft_digest(&d, c);
    r = draft_repeated(e, ticket, &d);
    if (r != PORT_NOT_FOUND)
        return r;
    if ((error = contact_may_send(c, d.require_verified)) != API_OK)
        return refuse(e, ticket, error, &d);
    if (e->n_out >= ENGINE_MAX_QUEUED || (d.qos == 0 && e->n_ephemeral >= MAX_EPHEMERAL))
        return answer_fail(e, ticket, API_QUEUE_FULL, 1000,
                "send: too many messages are waiting (at most %u, %u of them with qos 0)", ENGINE_MAX_QUEUED,
                MAX_EPHEMERAL);
    return accept(e, ticket, &d, c);
}

/* --- encryption --- */

static int encrypt_body(struct engine *e, struct outmsg *m, struct session *s, struct span payload)
{
    const struct device_list *mine = identity_list(e->id);
    CLEANUP_BUF struct buf body = {0};
    struct inner in = {.type = INNER_MESSAGE,
            .id = m->id,
            .count = m->count,
            .time_ms = m->created_ms,
            .peer = m->peer->contact->list};
    int r;
    in.flags = (uint8_t)((m->flags & OUT_TEXT ? INNER_TEXT : 0u) | (m->qos ? 0u : INNER_UNCOUNTED));
    in.own.n = mine->n;
    memcpy(in.own.hash, mine->hash, LIST_HASH_LEN);
    buf_init_secret(&body, INNER_MAX_BODY);
    buf_lp(&body, m->id_text, strlen(m->id_text));
    buf_lp(&body, payload.p, payload.n);
    r = buf_status(&body);
    if (r < 0)
        return r;
    in.body = (struct span){.p = body.data, .n = body.len};
    buf_reset(&e->envelope);
    s->dirty = true;
    return ratchet_encrypt(s->ratchet, &in, e->now, &e->rng, &e->envelope);
}

/* 0 encrypted, 1 the session takes no more. */
static int encrypt(struct engine *e, struct outmsg *m, struct session *s)
{
    CLEANUP_BUF struct buf value = {0};
    struct span payload = {.p = m->payload, .n = m->payload_len}, old;
    int r = 0;
    buf_init_secret(&value, STORE_VALUE_MAX);
    if (m->qos && (r = data_load(e, m, &value, &payload, &old)) < 0)
        return r;
    if (m->qos && !m->count) {
        m->count = m->peer->next_count++;
        peer_touch(e, m->peer);
    }
    r = encrypt_body(e, m, s, payload);
    if (r)
        return r;
    flight_end(e, &m->flight);
    rng_fill(&e->rng, m->envelope.b, ENVELOPE_ID_LEN);
    m->encrypted_ms = e->now;
    m->session_number = ratchet_session_number(s->ratchet);
    m->state = OUT_READY;
    m->acked_ms = 0;
    r = flight_track(e, &m->flight, &m->envelope);
    if (r == 0 && m->qos)
        r = data_store(e, m, payload, (struct span){.p = e->envelope.data, .n = e->envelope.len});
    return r < 0 ? r : outmsg_store(e, m);
}

/* Whether a message may leave at all; it may have changed since it was accepted. Ends it if not. 1: it must
 * wait, or has ended. */
static int gate(struct engine *e, struct outmsg *m)
{
    const struct peer *p = m->peer;
    int r;
    if (contact_may_send(p->contact, m->flags & OUT_REQUIRE_VERIFIED) == API_NOT_VERIFIED)
        r = outbox_finish(e, m, OUT_FAILED, "not_verified");
    else if (m->qos == 0 && p->presence_known && !p->present)
        r = outbox_finish(e, m, OUT_FAILED, "offline");
    else
        return m->qos == 0 && !p->present;
    return r < 0 ? r : 1;
}

/* Encrypts and submits m. 1: not now. */
static int send_one(struct engine *e, struct outmsg *m)
{
    struct session *s;
    int r = session_for_sending(e, m->peer, SESSION_WINDOW, &s);
    if (r)
        return r;
    r = control_notice(e, m->peer, s);
    if (r == 0)
        r = encrypt(e, m, s);
    if (r == RATCHET_EXHAUSTED) {
        r = relay_claim(e, m->peer);
        return r < 0 ? r : 1;
    }
    if (r)
        return r < 0 ? r : -EIO;
    outmsg_enqueue(e, m, NULL);
    return submit_message(e, m, (struct span){.p = e->envelope.data, .n = e->envelope.len});
}

/* A message is encrypted when there is room for it on its way, not before. */
static int pump_peer(struct engine *e, struct peer *p)
{
    struct outmsg *m, *next;
    if (p->stalled || p->contact->held || p->contact->changed || p->contact->blocked)
        return 0;
    for (m = TAILQ_FIRST(&p->waiting); m && submit_room(e); m = next) {
        int r;
        next = TAILQ_NEXT(m, queue);
        r = gate(e, m);
        if (r > 0)
            continue;
        if (r == 0)
            r = send_one(e, m);
        if (r > 0)
            p->stalled = true;
        if (r)
            return r < 0 ? r : 0;
    }
    return 0;
}

static int pump_ready(struct engine *e)
{
    struct outmsg *m, *next;
    for (m = TAILQ_FIRST(&e->ready); m && submit_room(e); m = next) {
        CLEANUP_BUF struct buf value = {0};
        struct span payload, body;
        int r;
        next = TAILQ_NEXT(m, queue);
        if (m->retry_ms > e->now)
            continue;
        buf_init_secret(&value, STORE_VALUE_MAX);
        r = data_load(e, m, &value, &payload, &body);
        if (r < 0)
            return r;
        outmsg_enqueue(e, m, NULL);
        r = submit_message(e, m, body);
        if (r < 0)
            return r;
    }
    return 0;
}

int outbox_pump(struct engine *e)
{
    struct peer *p, *next;
    struct peer *last = TAILQ_LAST(&e->waiting_peers, peer_list);
    int r = pump_ready(e);
    for (p = TAILQ_FIRST(&e->waiting_peers); r == 0 && p && submit_room(e); p = next) {
        next = p == last ? NULL : TAILQ_NEXT(p, waiting_peers);
        r = pump_peer(e, p);
        if (r == 0 && p->in_waiting) { /* the others first, the next time */
            TAILQ_REMOVE(&e->waiting_peers, p, waiting_peers);
            TAILQ_INSERT_TAIL(&e->waiting_peers, p, waiting_peers);
        }
    }
    return r;
}

int outbox_again(struct engine *e, struct outmsg *m)
{
    flight_end(e, &m->flight);
    m->state = OUT_WAITING;
    m->retry_ms = 0;
    outmsg_enqueue(e, m, &m->peer->waiting);
    return outmsg_store(e, m);
}

/* --- ends --- */

static int ack_event(
        struct engine *e, const char *id_text, const struct address *to, uint8_t state, const char *reason)
{
    char label[UID_TEXT_LEN + 1], uid[UID_TEXT_LEN + 1];
    const struct contact *c = contact_find(e, to->uid);
    struct mp_map m;
    uid_to_text(to->uid, uid);
    (void)event_begin(e, EV_MESSAGE_ACK, &m);
    mp_put_str(mp_key(&m, "id"), id_text);
    mp_put_str(mp_key(&m, "to"), c ? contact_label(c, label) : uid);
    mp_put_str(mp_key(&m, "to_uid"), uid);
    mp_put_uint(mp_key(&m, "device"), to->device);
    mp_put_str(mp_key(&m, "state"), out_state_name(state));
    if (reason)
        mp_put_str(mp_key(&m, "reason"), reason);
    return event_end(e, &m);
}

static int forget_durable(struct engine *e, struct outmsg *m, enum out_state state, const char *reason)
{
    struct done d = {.to = m->peer->address, .state = (uint8_t)state, .seq = m->seq, .time_ms = e->now};
    int r;
    memcpy(d.digest, m->digest, sizeof(d.digest));
    memcpy(d.id_text, m->id_text, sizeof(d.id_text));
    (void)snprintf(d.reason, sizeof(d.reason), "%s", reason ? reason : "");
    r = done_store(e, &m->id, &d);
    if (r == 0)
        r = e->port.del(e->port.ctx, MAP_OUT, m->id.b, MESSAGE_ID_LEN);
    if (r == 0)
        r = e->port.del(e->port.ctx, MAP_DATA, m->id.b, MESSAGE_ID_LEN);
    return r;
}

int outbox_finish(struct engine *e, struct outmsg *m, enum out_state state, const char *reason)
{
    int r = m->qos ? forget_durable(e, m, state, reason) : 0;
    if (r == 0 && state >= OUT_EXPIRED)
        r = counts_bury(e, m->peer, m->count);
    if (r == 0)
        r = ack_event(e, m->id_text, &m->peer->address, (uint8_t)state, reason);
    if (r == 0)
        r = wait_notify(e, &m->id, (uint8_t)state, reason);
    if (r == 0)
        outmsg_free(e, m);
    return r;
}

int outbox_fail_contact(struct engine *e, struct contact *c, const char *reason)
{
    struct outmsg *m, *next;
    int r = 0;
    for (m = TAILQ_FIRST(&e->all); r == 0 && m; m = next) {
        next = TAILQ_NEXT(m, all);
        if (m->peer->contact == c)
            r = outbox_finish(e, m, OUT_FAILED, reason);
    }
    return r;
}

/* A receipt for a message that has ended as delivered: it may have been read since. */
static int receipt_for_done(struct engine *e, struct peer *from, const struct message_id *id, uint8_t state)
{
    struct done d;
    int r = done_load(e, id, &d);
    if (r)
        return r < 0 ? r : 0;
    if (memcmp(d.to.uid, from->address.uid, UID_LEN) != 0 || d.state != OUT_DELIVERED || state != OUT_READ)
        return 0;
    d.state = OUT_READ;
    r = done_store(e, id, &d);
    if (r == 0)
        r = ack_event(e, d.id_text, &d.to, OUT_READ, NULL);
    return r == 0 ? wait_notify(e, id, OUT_READ, NULL) : r;
}

int outbox_receipt(struct engine *e, struct peer *from, const struct message_id *id, uint8_t state)
{
    struct table_node *node = table_get(&e->out, id->b);
    struct outmsg *m;
    if (!node)
        return receipt_for_done(e, from, id, state);
    m = container_of(node, struct outmsg, by_id);
    /* Only whom it was sent to may say so, and only of what has been sent. */
    if (memcmp(m->peer->address.uid, from->address.uid, UID_LEN) != 0 || !m->encrypted_ms)
        return 0;
    return outbox_finish(e, m, state == OUT_READ ? OUT_READ : OUT_DELIVERED, NULL);
}

static int tick_one(struct engine *e, struct outmsg *m)
{
    if (m->qos == 0 && m->state == OUT_SENT && m->expires_ms <= e->now) {
        outmsg_free(e, m); /* no receipt came; nobody was promised one */
        return 0;
    }
    if (m->expires_ms <= e->now)
        return m->qos == 0 ? outbox_finish(e, m, OUT_FAILED, "offline")
                           : outbox_finish(e, m, OUT_EXPIRED, "ttl");
    if (m->queued == &e->future && m->not_before_ms <= e->now)
        outmsg_enqueue(e, m, &m->peer->waiting);
    return 0;
}

int outbox_tick(struct engine *e)
{
    struct outmsg *m, *next;
    struct peer *p;
    int r = 0;
    TAILQ_FOREACH(p, &e->waiting_peers, waiting_peers)
    p->stalled = false;
    for (m = TAILQ_FIRST(&e->all); r == 0 && m; m = next) {
        next = TAILQ_NEXT(m, all);
        r = tick_one(e, m);
    }
    return r == 0 ? submit_query(e, false) : r;
}
