/* Receipts and notices: encrypted at the end of the turn, kept until the relay has them, never acknowledged.
 */
#include <errno.h>
#include <string.h>

#include "state.h"

static int flush_peer(struct engine *e, struct peer *p);

int control_owe(struct engine *e, struct peer *p, const struct message_id *id, uint8_t state)
{
    int r = 0;
    if (p->contact->blocked || p->contact->held)
        return 0;
    if (p->n_owed == MAX_OWED && (r = flush_peer(e, p)) < 0)
        return r;
    if (p->n_owed == MAX_OWED)
        return 0; /* no session takes it; it is sent again when the message comes again */
    buf_bytes(&p->owed, id->b, MESSAGE_ID_LEN);
    buf_u8(&p->owed, state);
    p->n_owed++;
    if (!p->in_owing) {
        TAILQ_INSERT_TAIL(&e->owing_peers, p, owing_peers);
        p->in_owing = true;
    }
    return 0;
}

static struct control *control_add(
        struct engine *e, const struct envelope_id *id, const struct address *to, uint64_t expires_ms)
{
    struct control *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->envelope = *id;
    c->to = *to;
    c->expires_ms = expires_ms;
    c->flight.control = true;
    if (flight_track(e, &c->flight, &c->envelope) < 0) {
        free(c);
        return NULL;
    }
    TAILQ_INSERT_TAIL(&e->controls, c, all);
    e->n_controls++;
    return c;
}

/* Encrypts one inner message without id or count, and stores it as a control envelope. */
static int control_seal(
        struct engine *e, struct peer *p, struct session *s, uint8_t type, const struct buf *body)
{
    const struct device_list *mine = identity_list(e->id);
    struct inner in = {.type = type,
            .flags = INNER_UNCOUNTED,
            .time_ms = e->now,
            .peer = p->contact->list,
            .body = {.p = body->data, .n = body->len}};
    struct envelope_id id;
    struct control *c;
    int r;
    in.own.n = mine->n;
    memcpy(in.own.hash, mine->hash, LIST_HASH_LEN);
    rng_fill(&e->rng, in.id.b, MESSAGE_ID_LEN);
    buf_reset(&e->envelope);
    s->dirty = true;
    r = ratchet_encrypt(s->ratchet, &in, e->now, &e->rng, &e->envelope);
    if (r)
        return r;
    rng_fill(&e->rng, id.b, ENVELOPE_ID_LEN);
    c = control_add(e, &id, &p->address, e->now + CONTROL_MS);
    if (!c)
        return -ENOMEM;
    buf_reset(&e->scratch);
    buf_bytes(&e->scratch, p->key, ADDRESS_KEY_LEN);
    buf_u64(&e->scratch, c->expires_ms);
    buf_lp(&e->scratch, e->envelope.data, e->envelope.len);
    r = record_put(e, MAP_CONTROL, id.b, ENVELOPE_ID_LEN, &e->scratch);
    if (r == 0 && submit_room(e))
        r = submit_control(e, c, (struct span){.p = e->envelope.data, .n = e->envelope.len});
    return r;
}

static void not_owing(struct engine *e, struct peer *p)
{
    buf_done(&p->owed);
    p->n_owed = 0;
    TAILQ_REMOVE(&e->owing_peers, p, owing_peers);
    p->in_owing = false;
}

static int flush_peer(struct engine *e, struct peer *p)
{
    CLEANUP_BUF struct buf body = {0};
    struct session *s;
    int r;
    if (p->contact->blocked || p->contact->held) {
        not_owing(e, p);
        return 0;
    }
    if (e->n_controls >= MAX_CONTROL)
        return 0;
    r = session_for_sending(e, p, CONTROL_WINDOW, &s);
    if (r)
        return r;
    buf_init(&body, INNER_MAX_BODY);
    buf_u16(&body, p->n_owed);
    buf_bytes(&body, p->owed.data, p->owed.len);
    r = buf_status(&body);
    if (r == 0)
        r = buf_status(&p->owed);
    if (r == 0)
        r = control_seal(e, p, s, INNER_RECEIPT, &body);
    if (r)
        return r;
    not_owing(e, p);
    return 0;
}

int control_flush(struct engine *e)
{
    struct peer *p, *next;
    for (p = TAILQ_FIRST(&e->owing_peers); p; p = next) {
        int r;
        next = TAILQ_NEXT(p, owing_peers);
        r = flush_peer(e, p);
        if (r < 0)
            return r;
    }
    return 0;
}

int control_notice(struct engine *e, struct peer *p, struct session *s)
{
    CLEANUP_BUF struct buf body = {0};
    int r;
    if (!p->n_tombstones || e->n_controls >= MAX_CONTROL)
        return 0;
    buf_init(&body, INNER_MAX_BODY);
    buf_u16(&body, 0);
    buf_patch_u16(&body, 0, (uint16_t)counts_unbury(e, p, NOTICE_MAX_COUNTS, &body));
    r = buf_status(&body);
    return r == 0 ? control_seal(e, p, s, INNER_NOTICE, &body) : r;
}

static int control_read(
        struct engine *e, const struct envelope_id *id, struct buf *value, struct span *ret_body)
{
    struct cursor c;
    int r = e->port.get(e->port.ctx, MAP_CONTROL, id->b, ENVELOPE_ID_LEN, value);
    if (r)
        return r < 0 ? r : -EBADMSG;
    cursor_init(&c, value->data, value->len);
    (void)cursor_take(&c, ADDRESS_KEY_LEN + 8);
    ret_body->p = cursor_lp(&c, RELAY_MAX_BODY, &ret_body->n);
    return cursor_end(&c) == WIRE_OK ? 0 : -EBADMSG;
}

int control_submit(struct engine *e)
{
    struct control *c;
    TAILQ_FOREACH(c, &e->controls, all)
    {
        CLEANUP_BUF struct buf value = {0};
        struct span body;
        int r;
        if (c->flight.flying || c->retry_ms > e->now || !submit_room(e))
            continue;
        buf_init(&value, STORE_VALUE_MAX);
        r = control_read(e, &c->envelope, &value, &body);
        if (r == 0)
            r = submit_control(e, c, body);
        if (r < 0)
            return r;
    }
    return 0;
}

int control_done(struct engine *e, struct control *c)
{
    int r = e->port.del(e->port.ctx, MAP_CONTROL, c->envelope.b, ENVELOPE_ID_LEN);
    flight_end(e, &c->flight);
    TAILQ_REMOVE(&e->controls, c, all);
    e->n_controls--;
    free(c);
    return r;
}

int control_drop(struct engine *e, const uint8_t uid[UID_LEN])
{
    struct control *c, *next;
    int r = 0;
    for (c = TAILQ_FIRST(&e->controls); r == 0 && c; c = next) {
        next = TAILQ_NEXT(c, all);
        if (!c->flight.flying && memcmp(c->to.uid, uid, UID_LEN) == 0)
            r = control_done(e, c);
    }
    return r;
}

int control_tick(struct engine *e)
{
    struct control *c, *next;
    int r = 0;
    for (c = TAILQ_FIRST(&e->controls); r == 0 && c; c = next) {
        next = TAILQ_NEXT(c, all);
        if (c->expires_ms <= e->now && !c->flight.flying)
            r = control_done(e, c);
    }
    return r;
}

static int load_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct engine *e = ctx;
    struct envelope_id id;
    struct address to;
    struct cursor c;
    uint64_t expires;
    if (key_len != ENVELOPE_ID_LEN)
        return -EBADMSG;
    memcpy(id.b, key, ENVELOPE_ID_LEN);
    cursor_init(&c, value, n);
    cursor_copy(&c, to.uid, UID_LEN);
    to.device = cursor_u32be(&c);
    expires = cursor_u64(&c);
    if (cursor_status(&c) != WIRE_OK)
        return -EBADMSG;
    if (expires > e->now + CONTROL_MS)
        expires = e->now + CONTROL_MS;
    return control_add(e, &id, &to, expires) ? 0 : -ENOMEM;
}

int control_load(struct engine *e)
{
    return e->port.scan(e->port.ctx, MAP_CONTROL, "", 0, 0, load_visit, e);
}
