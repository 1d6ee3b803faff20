/* The mailboxes of the relay of the scenarios. */
#include "simrelay_impl.h"

#include <string.h>

static struct envelope *envelope_find(const struct box *x, const struct envelope_id *id)
{
    for (size_t i = x->n_env; i-- > 0;)
        if (memcmp(x->env[i].id.b, id->b, ENVELOPE_ID_LEN) == 0)
            return &x->env[i];
    return NULL;
}

static void keep_history(struct box *x, struct span body)
{
    if (x->n_history == x->cap_history) {
        x->cap_history = x->cap_history ? x->cap_history * 2 : 16;
        x->history = sr_must(realloc(x->history, x->cap_history * sizeof(x->history[0])));
    }
    x->history[x->n_history++] = bytes_copy(body.p, body.n);
}

static void store(struct simrelay *sr, struct box *x, const struct relay_submit_item *m)
{
    struct envelope *e;
    if (x->n_env == x->cap_env) {
        x->cap_env = x->cap_env ? x->cap_env * 2 : 16;
        x->env = sr_must(realloc(x->env, x->cap_env * sizeof(x->env[0])));
    }
    e = &x->env[x->n_env++];
    *e = (struct envelope){.id = m->id,
            .time_ms = sr->now,
            .expires_ms = m->expires_ms,
            .body = bytes_copy(m->body.p, m->body.n),
            .ephemeral = m->flags & RELAY_SUBMIT_EPHEMERAL};
    if (sr_chance(sr, sr->lies.reorder) && x->n_env > x->first + 1 && !e[-1].delivered_on && e[-1].body.p) {
        struct envelope t = e[-1];
        e[-1] = e[0];
        e[0] = t;
    }
}

void simrelay_inject(struct simrelay *sr, const struct address *to, const void *body, size_t n)
{
    struct relay_submit_item m = {.to = *to, .expires_ms = sr->now + DAY_MS, .body = {.p = body, .n = n}};
    struct box *x = sr_box_of(sr, to);
    if (!x)
        return;
    rng_fill(&sr->rng, m.id.b, ENVELOPE_ID_LEN);
    store(sr, x, &m);
}

static void mischief(struct simrelay *sr, struct conn *c, struct box *x, const struct relay_submit_item *m)
{
    uint32_t i;
    if (sr_chance(sr, sr->lies.duplicate))
        simrelay_inject(sr, &m->to, m->body.p, m->body.n);
    if (sr_chance(sr, sr->lies.reflect))
        simrelay_inject(sr, &c->account->box.who, m->body.p, m->body.n);
    if (sr_chance(sr, sr->lies.replay)) {
        rng_fill(&sr->rng, &i, sizeof(i));
        const struct bytes old = x->history[i % x->n_history];
        simrelay_inject(sr, &m->to, old.p, old.n);
    }
}

static uint8_t submit_one(struct simrelay *sr, struct conn *c, const struct relay_submit_item *m)
{
    struct box *x = sr_box_of(sr, &m->to);
    if (!x)
        return SUBMIT_NO_DEVICE;
    if (envelope_find(x, &m->id))
        return SUBMIT_DUPLICATE;
    if (m->expires_ms <= sr->now)
        return SUBMIT_EXPIRED;
    if (m->body.n > RELAY_MAX_BODY)
        return SUBMIT_TOO_LARGE;
    if ((m->flags & RELAY_SUBMIT_EPHEMERAL) && !sr_conn_of(sr, sr_by_uid(sr, m->to.uid)))
        return SUBMIT_NOT_CONNECTED;
    if (sr_live(sr, x) >= SIMRELAY_MAILBOX)
        return SUBMIT_FULL;
    if (sr_chance(sr, sr->lies.retry))
        return SUBMIT_RETRY;
    keep_history(x, m->body);
    if (sr->liar.submit && !sr->liar.submit(sr->liar.ctx, &c->account->box.who, m))
        return SUBMIT_STORED;
    if (sr_chance(sr, sr->lies.forget))
        return SUBMIT_STORED;
    store(sr, x, m);
    mischief(sr, c, x, m);
    return SUBMIT_STORED;
}

void sr_take_submit(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct buf b = sr_message();
    uint16_t n;
    if (relay_read_count(cur, 1, RELAY_MAX_BATCH, &n) != WIRE_OK)
        n = 0;
    relay_begin(&b, RELAY_SUBMITTED, ref);
    while (n--) {
        struct relay_submit_item m;
        struct relay_submitted_item r;
        if (relay_next_submit(cur, &m) != WIRE_OK)
            break;
        r = (struct relay_submitted_item){.id = m.id, .status = submit_one(sr, c, &m)};
        relay_add_submitted(&b, &r);
    }
    if (cursor_end(cur) != WIRE_OK || !relay_batch_count(&b)) {
        buf_done(&b);
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed SUBMIT");
        return;
    }
    sr_say(sr, c, &b);
}

static void drained(struct simrelay *sr, struct conn *c)
{
    const struct box *x = &c->account->box;
    if (c->drained)
        return;
    for (size_t i = x->first; i < c->drain_to; i++)
        if (x->env[i].body.p && x->env[i].expires_ms > sr->now)
            return;
    c->drained = true;
    sr_say_empty(sr, c, RELAY_DRAINED, 0);
}

void sr_take_ack(struct simrelay *sr, struct conn *c, struct cursor *cur)
{
    struct box *x = &c->account->box;
    uint16_t n;
    if (relay_read_count(cur, 1, RELAY_MAX_BATCH, &n) != WIRE_OK)
        n = 0;
    while (n--) {
        struct envelope_id id;
        struct envelope *e;
        if (relay_next_ack(cur, &id) != WIRE_OK)
            break;
        e = envelope_find(x, &id);
        if (!e || !e->body.p)
            continue;
        if (e->delivered_on == c->serial) {
            c->unacked--;
            c->unacked_bytes -= e->body.n;
        }
        bytes_free(&e->body);
        e->acked = true;
    }
    if (cursor_end(cur) != WIRE_OK)
        sr_refuse(sr, c, 0, RELAY_ERR_BAD_MESSAGE, "malformed ACK");
}

void sr_take_query(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct buf b = sr_message();
    uint16_t n;
    if (relay_read_count(cur, 1, RELAY_MAX_BATCH, &n) != WIRE_OK)
        n = 0;
    relay_begin(&b, RELAY_STATES, ref);
    while (n--) {
        struct relay_query_item q;
        struct relay_state_item s = {.state = ENVELOPE_UNKNOWN};
        const struct box *x;
        const struct envelope *e;
        if (relay_next_query(cur, &q) != WIRE_OK)
            break;
        s.id = q.id;
        x = sr_box_of(sr, &q.to);
        e = x ? envelope_find(x, &q.id) : NULL;
        if (e && e->acked)
            s.state = sr->lies.forget_acks ? ENVELOPE_UNKNOWN : ENVELOPE_ACKNOWLEDGED;
        else if (e && e->body.p && e->expires_ms > sr->now)
            s.state = ENVELOPE_WAITING;
        relay_add_state(&b, &s);
    }
    if (cursor_end(cur) != WIRE_OK || !relay_batch_count(&b)) {
        buf_done(&b);
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed QUERY");
        return;
    }
    sr_say(sr, c, &b);
}

void sr_take_watch(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct buf b = sr_message();
    uint16_t n;
    if (relay_read_count(cur, 0, RELAY_MAX_WATCH, &n) != WIRE_OK)
        n = 0;
    relay_begin(&b, RELAY_PRESENCE, ref);
    while (n--) {
        struct relay_presence_item item = {0};
        if (relay_next_watch(cur, &item.who) != WIRE_OK)
            break;
        item.connected = sr_box_of(sr, &item.who) && sr_conn_of(sr, sr_by_uid(sr, item.who.uid));
        relay_add_presence(&b, &item);
        if (c->n_watch < RELAY_MAX_WATCH)
            c->watch[c->n_watch++] = item.who;
    }
    sr_say(sr, c, &b);
}

static bool deliver_batch(struct simrelay *sr, struct conn *c)
{
    struct box *x = &c->account->box;
    struct buf b = sr_message();
    size_t bytes = 0;
    relay_begin(&b, RELAY_DELIVER, 0);
    while (x->first < x->n_env && !x->env[x->first].body.p)
        x->first++;
    for (size_t i = x->first; i < x->n_env && c->unacked < RELAY_WINDOW && bytes < BATCH_BYTES; i++) {
        struct envelope *e = &x->env[i];
        struct relay_deliver_item item;
        CLEANUP_FREE uint8_t *changed = NULL;
        if (!e->body.p || e->delivered_on == c->serial)
            continue;
        if (e->expires_ms <= sr->now) {
            bytes_free(&e->body);
            continue;
        }
        if ((c->unacked && c->unacked_bytes + e->body.n > RELAY_WINDOW_BYTES) ||
                relay_batch_len(&b) + e->body.n + 64 > RELAY_MAX_MESSAGE)
            break;
        e->delivered_on = c->serial;
        c->unacked++;
        c->unacked_bytes += e->body.n;
        bytes += e->body.n;
        item = (struct relay_deliver_item){
                .id = e->id, .time_ms = e->time_ms, .body = {.p = e->body.p, .n = e->body.n}};
        if (sr_chance(sr, sr->lies.corrupt)) {
            uint32_t bit;
            rng_fill(&sr->rng, &bit, sizeof(bit));
            changed = bytes_copy(e->body.p, e->body.n).p;
            changed[bit / 8 % e->body.n] ^= (uint8_t)(1u << bit % 8);
            item.body.p = changed;
        }
        relay_add_deliver(&b, &item);
    }
    if (!relay_batch_count(&b)) {
        buf_done(&b);
        return false;
    }
    sr_say(sr, c, &b);
    return true;
}

void simrelay_pump(struct simrelay *sr)
{
    for (size_t i = 0; i < SIMRELAY_MAX_CONNS; i++) {
        struct conn *c = &sr->conn[i];
        if (!c->open || !c->authed || !c->account)
            continue;
        while (!sr->lies.silent_deliver && deliver_batch(sr, c))
            ;
        drained(sr, c);
    }
}
