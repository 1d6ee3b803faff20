/* Under way to the relay: batches, its answers, what it still knows. */
#include <errno.h>
#include <string.h>

#include "state.h"

#define RETRY_FIRST_MS 1000u
#define RETRY_MAX_MS (5 * MINUTE_MS)
#define QUERY_BATCH 512u
#define ENVELOPE_OVERHEAD 128u
#define MAX_RESET_DOUBLINGS 5u

bool submit_room(const struct engine *e)
{
    return e->conn == CONN_ONLINE && e->n_flying < MAX_FLYING && e->flying_bytes < MAX_FLYING_BYTES;
}

int submit_flush(struct engine *e)
{
    int r = 0;
    if (relay_batch_count(&e->submit)) {
        r = buf_status(&e->submit);
        if (r == 0)
            r = effect_push(e, EFFECT_SEND, e->submit.data, e->submit.len);
        buf_reset(&e->submit);
    }
    if (r == 0 && relay_batch_count(&e->acks)) {
        r = buf_status(&e->acks);
        if (r == 0)
            r = effect_push(e, EFFECT_SEND, e->acks.data, e->acks.len);
        buf_reset(&e->acks);
    }
    return r;
}

static int batch_add(struct engine *e, const struct relay_submit_item *item)
{
    int r = 0;
    if (relay_batch_count(&e->submit) &&
            (e->submit.len + item->body.n + ENVELOPE_OVERHEAD > RELAY_BATCH_FILL ||
                    relay_batch_count(&e->submit) == RELAY_MAX_BATCH)) {
        r = buf_status(&e->submit);
        if (r == 0)
            r = effect_push(e, EFFECT_SEND, e->submit.data, e->submit.len);
        buf_reset(&e->submit);
    }
    if (!relay_batch_count(&e->submit)) {
        buf_reset(&e->submit);
        relay_begin(&e->submit, RELAY_SUBMIT, 0);
    }
    relay_add_submit(&e->submit, item);
    return r;
}

int flight_track(struct engine *e, struct flight *f, const struct envelope_id *id)
{
    return table_add(&e->envelopes, &f->node, id->b);
}

static void land(struct engine *e, struct flight *f)
{
    if (!f->flying)
        return;
    f->flying = false;
    e->n_flying--;
    e->flying_bytes -= f->bytes;
}

void flight_end(struct engine *e, struct flight *f)
{
    land(e, f);
    table_del(&e->envelopes, &f->node);
}

static void take_off(struct engine *e, struct flight *f, size_t bytes)
{
    f->flying = true;
    f->bytes = (uint32_t)(bytes + ENVELOPE_OVERHEAD);
    e->n_flying++;
    e->flying_bytes += f->bytes;
}

/* The end of an envelope's life by the relay's clock. */
static uint64_t relay_time(const struct engine *e, uint64_t ms)
{
    if (e->relay_ahead_ms < 0)
        return elapsed(ms, (uint64_t)-e->relay_ahead_ms);
    return ms + (uint64_t)e->relay_ahead_ms;
}

int submit_message(struct engine *e, struct outmsg *m, struct span body)
{
    struct relay_submit_item item = {.id = m->envelope,
            .to = m->peer->address,
            .expires_ms = relay_time(e, m->expires_ms),
            .body = body};
    if (m->qos == 0)
        item.flags = RELAY_SUBMIT_EPHEMERAL;
    take_off(e, &m->flight, body.n);
    return batch_add(e, &item);
}

int submit_control(struct engine *e, struct control *c, struct span body)
{
    struct relay_submit_item item = {
            .id = c->envelope, .to = c->to, .expires_ms = relay_time(e, c->expires_ms), .body = body};
    take_off(e, &c->flight, body.n);
    return batch_add(e, &item);
}

static uint64_t retry_at(const struct engine *e, uint32_t attempts, uint32_t hint_ms)
{
    uint64_t wait = RETRY_FIRST_MS;
    while (attempts-- && wait < RETRY_MAX_MS)
        wait *= 2;
    if (wait > RETRY_MAX_MS)
        wait = RETRY_MAX_MS;
    return e->now + (hint_ms > wait ? hint_ms : wait);
}

static int message_stored(struct engine *e, struct outmsg *m)
{
    char label[UID_TEXT_LEN + 1], uid[UID_TEXT_LEN + 1];
    struct mp_map map;
    int r;
    if (m->state == OUT_SENT)
        return 0;
    m->state = OUT_SENT;
    m->attempts = 0;
    r = outmsg_store(e, m);
    if (r < 0)
        return r;
    uid_to_text(m->peer->address.uid, uid);
    (void)event_begin(e, EV_MESSAGE_ACK, &map);
    mp_put_str(mp_key(&map, "id"), m->id_text);
    mp_put_str(mp_key(&map, "to"), contact_label(m->peer->contact, label));
    mp_put_str(mp_key(&map, "to_uid"), uid);
    mp_put_uint(mp_key(&map, "device"), m->peer->address.device);
    mp_put_str(mp_key(&map, "state"), "sent");
    r = event_end(e, &map);
    return r == 0 ? wait_notify(e, &m->id, OUT_SENT, NULL) : r;
}

static int message_refused(struct engine *e, struct outmsg *m, const struct relay_submitted_item *it)
{
    if (m->qos == 0)
        return outbox_finish(e, m, OUT_FAILED, "relay_refused");
    m->retry_ms = retry_at(e, m->attempts++, it->retry_after_ms);
    outmsg_enqueue(e, m, &e->ready);
    /* The device has gone from the directory: perhaps the name is somebody else's by now. */
    if (it->status == SUBMIT_NO_DEVICE && m->peer->contact->name[0])
        return relay_lookup_name(e, m->peer->contact->name);
    return 0;
}

static int message_result(struct engine *e, struct outmsg *m, const struct relay_submitted_item *it)
{
    land(e, &m->flight);
    switch (it->status) {
    case SUBMIT_STORED:
    case SUBMIT_DUPLICATE:
        return message_stored(e, m);
    case SUBMIT_NOT_CONNECTED:
        if (m->qos)
            return message_refused(e, m, it);
        m->peer->present = false;
        return outbox_finish(e, m, OUT_FAILED, "offline");
    case SUBMIT_TOO_LARGE:
        return outbox_finish(e, m, OUT_FAILED, "too_large");
    default: /* expired, too: by whose clock, our own tick decides */
        return message_refused(e, m, it);
    }
}

static int control_result(struct engine *e, struct control *c, const struct relay_submitted_item *it)
{
    land(e, &c->flight);
    if (it->status == SUBMIT_STORED || it->status == SUBMIT_DUPLICATE || it->status == SUBMIT_TOO_LARGE)
        return control_done(e, c);
    c->retry_ms = retry_at(e, 3, it->retry_after_ms);
    return 0;
}

static int result(struct engine *e, const struct relay_submitted_item *it)
{
    struct table_node *node = table_get(&e->envelopes, it->id.b);
    struct flight *f = node ? container_of(node, struct flight, node) : NULL;
    if (!f || !f->flying)
        return 0;
    return f->control ? control_result(e, container_of(f, struct control, flight), it)
                      : message_result(e, container_of(f, struct outmsg, flight), it);
}

int submit_results(struct engine *e, struct cursor *c)
{
    uint16_t n;
    int r = relay_read_count(c, 1, RELAY_MAX_BATCH, &n);
    while (r == 0 && n--) {
        struct relay_submitted_item it;
        if (relay_next_submitted(c, &it) != WIRE_OK)
            return 1;
        r = result(e, &it);
    }
    return r == 0 && cursor_end(c) != WIRE_OK ? 1 : r;
}

static int message_lost(struct engine *e, struct outmsg *m)
{
    bool flew = m->flight.flying;
    m->retry_ms = 0;
    m->queried_ms = 0;
    land(e, &m->flight);
    if (!flew)
        return 0;
    if (!m->qos)
        return outbox_finish(e, m, OUT_FAILED, "disconnected");
    outmsg_enqueue(e, m, &e->ready);
    return 0;
}

int submit_reset(struct engine *e)
{
    struct outmsg *m, *next;
    struct control *c;
    int r = 0;
    for (m = TAILQ_FIRST(&e->all); r == 0 && m; m = next) {
        next = TAILQ_NEXT(m, all);
        r = message_lost(e, m);
    }
    TAILQ_FOREACH(c, &e->controls, all)
    {
        land(e, &c->flight);
        c->retry_ms = 0;
    }
    buf_reset(&e->submit);
    buf_reset(&e->acks);
    return r;
}

/* --- does the relay still know them? --- */

static int query_flush(struct engine *e, struct buf *b)
{
    int r = buf_status(b);
    if (r == 0 && relay_batch_count(b))
        r = effect_push(e, EFFECT_SEND, b->data, b->len);
    buf_reset(b);
    relay_begin(b, RELAY_QUERY, 0);
    return r;
}

static bool query_due(const struct engine *e, const struct outmsg *m, bool all)
{
    if (m->state != OUT_SENT || m->qos == 0)
        return false;
    return all ||
           (elapsed(e->now, m->encrypted_ms) > TROUBLE_MS && elapsed(e->now, m->queried_ms) > TROUBLE_MS);
}

int submit_query(struct engine *e, bool all)
{
    CLEANUP_BUF struct buf b = {0};
    struct outmsg *m;
    int r = 0;
    if (e->conn != CONN_ONLINE)
        return 0;
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_begin(&b, RELAY_QUERY, 0);
    TAILQ_FOREACH(m, &e->all, all)
    {
        struct relay_query_item item;
        if (!query_due(e, m, all))
            continue;
        item = (struct relay_query_item){.id = m->envelope, .to = m->peer->address};
        m->queried_ms = e->now;
        relay_add_query(&b, &item);
        if (relay_batch_count(&b) == QUERY_BATCH && (r = query_flush(e, &b)) < 0)
            return r;
    }
    return query_flush(e, &b);
}

static bool session_is_active(const struct outmsg *m)
{
    return m->peer->n_sessions && m->peer->sessions[0].number == m->session_number;
}

/* The next reset of a session: an hour after the last one, and longer while none of them helps. */
static bool reset_due(const struct engine *e, const struct peer *p)
{
    unsigned in_vain = p->resets < MAX_RESET_DOUBLINGS ? p->resets : MAX_RESET_DOUBLINGS;
    return !p->last_reset_ms || elapsed(e->now, p->last_reset_ms) >= RESET_EVERY_MS
                                                                             << (in_vain ? in_vain - 1 : 0);
}

/*
 * The recipient's daemon took the envelope from the relay and yet no receipt has come: it could not read it.
 * After a while the message is encrypted anew in a new session.
 */
static int acknowledged_unread(struct engine *e, struct outmsg *m)
{
    struct peer *p = m->peer;
    if (!m->acked_ms) {
        m->acked_ms = e->now;
        return outmsg_store(e, m);
    }
    if (elapsed(e->now, m->acked_ms) < TROUBLE_MS)
        return 0;
    if (session_is_active(m)) {
        if (!reset_due(e, p))
            return 0;
        p->reset_wanted = true;
        p->stalled = false;
    }
    return outbox_again(e, m);
}

static int unknown_there(struct engine *e, struct outmsg *m)
{
    if (elapsed(e->now, m->encrypted_ms) > REOFFER_MS || !session_is_active(m))
        return outbox_again(e, m);
    m->state = OUT_READY;
    m->acked_ms = 0;
    outmsg_enqueue(e, m, &e->ready);
    return outmsg_store(e, m);
}

static struct outmsg *sent_by_envelope(struct engine *e, const struct envelope_id *id)
{
    struct table_node *node = table_get(&e->envelopes, id->b);
    struct flight *f = node ? container_of(node, struct flight, node) : NULL;
    struct outmsg *m = f && !f->control ? container_of(f, struct outmsg, flight) : NULL;
    return m && m->state == OUT_SENT ? m : NULL;
}

int submit_states(struct engine *e, struct cursor *c)
{
    uint16_t n;
    int r = relay_read_count(c, 1, RELAY_MAX_BATCH, &n);
    while (r == 0 && n--) {
        struct relay_state_item it;
        struct outmsg *m;
        if (relay_next_state(c, &it) != WIRE_OK)
            return 1;
        if (it.state == ENVELOPE_WAITING || !(m = sent_by_envelope(e, &it.id)))
            continue;
        r = it.state == ENVELOPE_UNKNOWN ? unknown_there(e, m) : acknowledged_unread(e, m);
    }
    return r == 0 && cursor_end(c) != WIRE_OK ? 1 : r;
}
