#include <errno.h>
#include <string.h>

#include "state.h"

#define CONTACT_VERSION 1
#define PEER_VERSION 1
#define OUT_VERSION 1
#define DONE_VERSION 1

void address_key(const struct address *a, uint8_t ret_key[ADDRESS_KEY_LEN])
{
    memcpy(ret_key, a->uid, UID_LEN);
    for (unsigned i = 0; i < 4; i++)
        ret_key[UID_LEN + i] = (uint8_t)(a->device >> (24 - 8 * i));
}

int record_put(struct engine *e, enum map_id map, const void *key, size_t n, struct buf *value)
{
    int r = buf_status(value);
    return r < 0 ? r : e->port.put(e->port.ctx, (uint8_t)map, key, n, value->data, value->len);
}

static struct buf *scratch(struct engine *e, uint8_t version)
{
    buf_reset(&e->scratch);
    buf_u8(&e->scratch, version);
    return &e->scratch;
}

static void put_address(struct buf *b, const struct address *a)
{
    buf_bytes(b, a->uid, UID_LEN);
    buf_u32(b, a->device);
}

static void get_address(struct cursor *c, struct address *a)
{
    cursor_copy(c, a->uid, UID_LEN);
    a->device = cursor_u32(c);
}

static void get_text(struct cursor *c, char *ret, size_t size)
{
    size_t n;
    const uint8_t *p = cursor_lp(c, size - 1, &n);
    if (p)
        memcpy(ret, p, n);
    ret[p ? n : 0] = 0;
}

static void put_text(struct buf *b, const char *s)
{
    buf_lp(b, s, strlen(s));
}

static bool get_flag(struct cursor *c)
{
    uint8_t v = cursor_u8(c);
    if (v > 1)
        cursor_fail(c);
    return v == 1;
}

static int version_of(struct cursor *c, const void *p, size_t n, uint8_t version)
{
    cursor_init(c, p, n);
    return cursor_u8(c) == version ? 0 : -EBADMSG;
}

static int ended(const struct cursor *c)
{
    return cursor_end(c) == WIRE_OK ? 0 : -EBADMSG;
}

static void put_device(struct buf *b, const struct device *d)
{
    put_address(b, &d->address);
    buf_bytes(b, d->dsk, 32);
    buf_bytes(b, d->dhk, 32);
    buf_bytes(b, d->rak, 32);
    buf_u8(b, d->suites);
    for (unsigned i = 0; i < d->suites; i++)
        buf_u16(b, d->suite[i]);
    buf_bytes(b, d->hash, DEVICE_HASH_LEN);
}

static void get_device(struct cursor *c, struct device *d)
{
    get_address(c, &d->address);
    cursor_copy(c, d->dsk, 32);
    cursor_copy(c, d->dhk, 32);
    cursor_copy(c, d->rak, 32);
    d->suites = cursor_u8(c);
    if (d->suites > ENTRY_MAX_SUITES) {
        d->suites = 0;
        cursor_fail(c);
    }
    for (unsigned i = 0; i < d->suites; i++)
        d->suite[i] = cursor_u16(c);
    cursor_copy(c, d->hash, DEVICE_HASH_LEN);
}

int contact_store(struct engine *e, const struct contact *k)
{
    struct buf *b = scratch(e, CONTACT_VERSION);
    buf_bytes(b, k->uid, UID_LEN);
    buf_bytes(b, k->ak, 32);
    put_text(b, k->name);
    buf_u64(b, k->list.n);
    buf_bytes(b, k->list.hash, LIST_HASH_LEN);
    put_device(b, &k->device);
    buf_u8(b, k->policy);
    buf_u8(b, k->verified);
    buf_u8(b, k->blocked);
    buf_u8(b, k->held);
    buf_u8(b, k->changed);
    buf_bytes(b, k->new_uid, UID_LEN);
    buf_bytes(b, k->new_ak, 32);
    return record_put(e, MAP_CONTACT, k->uid, UID_LEN, b);
}

int contact_parse(const void *p, size_t n, struct contact *k)
{
    struct cursor c;
    int r = version_of(&c, p, n, CONTACT_VERSION);
    if (r < 0)
        return r;
    cursor_copy(&c, k->uid, UID_LEN);
    cursor_copy(&c, k->ak, 32);
    get_text(&c, k->name, sizeof(k->name));
    k->list.n = cursor_u64(&c);
    cursor_copy(&c, k->list.hash, LIST_HASH_LEN);
    get_device(&c, &k->device);
    k->device.list_n = k->list.n;
    k->policy = cursor_u8(&c);
    if (k->policy > KEY_POLICY_ACCEPT)
        cursor_fail(&c);
    k->verified = get_flag(&c);
    k->blocked = get_flag(&c);
    k->held = get_flag(&c);
    k->changed = get_flag(&c);
    cursor_copy(&c, k->new_uid, UID_LEN);
    cursor_copy(&c, k->new_ak, 32);
    return ended(&c);
}

int peer_store(struct engine *e, const struct peer *p)
{
    struct buf *b = scratch(e, PEER_VERSION);
    put_address(b, &p->address);
    buf_u8(b, (uint8_t)p->n_sessions);
    for (size_t i = 0; i < p->n_sessions; i++) {
        buf_u64(b, p->sessions[i].number);
        buf_bytes(b, p->sessions[i].transcript, TRANSCRIPT_LEN);
        buf_u64(b, p->sessions[i].old_since_ms);
    }
    buf_u64(b, p->highest_session);
    buf_u64(b, p->last_reset_ms);
    buf_u64(b, p->next_count);
    buf_u64(b, p->highest_count);
    buf_u64(b, p->judged_from);
    buf_u8(b, (uint8_t)p->n_gaps);
    for (size_t i = 0; i < p->n_gaps; i++) {
        buf_u64(b, p->gaps[i].from);
        buf_u64(b, p->gaps[i].to);
        buf_u64(b, p->gaps[i].noticed_ms);
        buf_u8(b, p->gaps[i].kind);
    }
    buf_u8(b, (uint8_t)p->n_tombstones);
    for (size_t i = 0; i < p->n_tombstones; i++) {
        buf_u64(b, p->tombstones[i].from);
        buf_u64(b, p->tombstones[i].to);
    }
    return record_put(e, MAP_PEER, p->key, ADDRESS_KEY_LEN, b);
}

static void get_sessions(struct cursor *c, struct peer *p)
{
    p->n_sessions = cursor_u8(c);
    if (p->n_sessions > ARRAY_SIZE(p->sessions)) {
        p->n_sessions = 0;
        cursor_fail(c);
    }
    for (size_t i = 0; i < p->n_sessions; i++) {
        p->sessions[i].number = cursor_u64(c);
        cursor_copy(c, p->sessions[i].transcript, TRANSCRIPT_LEN);
        p->sessions[i].old_since_ms = cursor_u64(c);
    }
}

static int get_gaps(struct cursor *c, struct peer *p)
{
    size_t n = cursor_u8(c);
    if (n > MAX_GAPS)
        return -EBADMSG;
    if (n && !(p->gaps = calloc(MAX_GAPS, sizeof(p->gaps[0]))))
        return -ENOMEM;
    for (p->n_gaps = 0; p->n_gaps < n; p->n_gaps++) {
        struct gap *g = &p->gaps[p->n_gaps];
        g->from = cursor_u64(c);
        g->to = cursor_u64(c);
        g->noticed_ms = cursor_u64(c);
        g->kind = cursor_u8(c);
        if (g->from > g->to || g->kind > GAP_EXPIRED)
            return -EBADMSG;
    }
    return 0;
}

static int get_tombstones(struct cursor *c, struct peer *p)
{
    size_t n = cursor_u8(c);
    if (n > MAX_TOMBSTONES)
        return -EBADMSG;
    if (n && !(p->tombstones = calloc(MAX_TOMBSTONES, sizeof(p->tombstones[0]))))
        return -ENOMEM;
    for (p->n_tombstones = 0; p->n_tombstones < n; p->n_tombstones++) {
        struct tombstone *t = &p->tombstones[p->n_tombstones];
        t->from = cursor_u64(c);
        t->to = cursor_u64(c);
        if (t->from > t->to)
            return -EBADMSG;
    }
    return 0;
}

int peer_parse(const void *raw, size_t n, struct peer *p)
{
    struct cursor c;
    int r = version_of(&c, raw, n, PEER_VERSION);
    if (r < 0)
        return r;
    get_address(&c, &p->address);
    get_sessions(&c, p);
    p->highest_session = cursor_u64(&c);
    p->last_reset_ms = cursor_u64(&c);
    p->next_count = cursor_u64(&c);
    p->highest_count = cursor_u64(&c);
    p->judged_from = cursor_u64(&c);
    r = get_gaps(&c, p);
    if (r == 0)
        r = get_tombstones(&c, p);
    return r < 0 ? r : ended(&c);
}

int outmsg_store(struct engine *e, const struct outmsg *m)
{
    struct buf *b;
    if (m->qos == 0)
        return 0;
    b = scratch(e, OUT_VERSION);
    put_text(b, m->id_text);
    put_address(b, &m->peer->address);
    buf_u64(b, m->order);
    buf_u64(b, m->seq);
    buf_u64(b, m->count);
    buf_u64(b, m->created_ms);
    buf_u64(b, m->expires_ms);
    buf_u64(b, m->not_before_ms);
    buf_u8(b, m->qos);
    buf_u8(b, m->flags);
    buf_u8(b, m->state);
    buf_bytes(b, m->digest, sizeof(m->digest));
    buf_bytes(b, m->envelope.b, ENVELOPE_ID_LEN);
    buf_u64(b, m->encrypted_ms);
    buf_u64(b, m->session_number);
    buf_u64(b, m->acked_ms);
    return record_put(e, MAP_OUT, m->id.b, MESSAGE_ID_LEN, b);
}

int outmsg_parse(const void *p, size_t n, struct outmsg *m, struct address *ret_to)
{
    struct cursor c;
    int r = version_of(&c, p, n, OUT_VERSION);
    if (r < 0)
        return r;
    get_text(&c, m->id_text, sizeof(m->id_text));
    get_address(&c, ret_to);
    m->order = cursor_u64(&c);
    m->seq = cursor_u64(&c);
    m->count = cursor_u64(&c);
    m->created_ms = cursor_u64(&c);
    m->expires_ms = cursor_u64(&c);
    m->not_before_ms = cursor_u64(&c);
    m->qos = cursor_u8(&c);
    m->flags = cursor_u8(&c);
    m->state = cursor_u8(&c);
    cursor_copy(&c, m->digest, sizeof(m->digest));
    cursor_copy(&c, m->envelope.b, ENVELOPE_ID_LEN);
    m->encrypted_ms = cursor_u64(&c);
    m->session_number = cursor_u64(&c);
    m->acked_ms = cursor_u64(&c);
    if (m->state > OUT_SENT || m->qos < 1 || m->qos > 2)
        cursor_fail(&c);
    return ended(&c);
}

int done_store(struct engine *e, const struct message_id *id, const struct done *d)
{
    struct buf *b = scratch(e, DONE_VERSION);
    put_address(b, &d->to);
    buf_u8(b, d->state);
    buf_bytes(b, d->digest, sizeof(d->digest));
    buf_u64(b, d->seq);
    buf_u64(b, d->time_ms);
    put_text(b, d->id_text);
    put_text(b, d->reason);
    return record_put(e, MAP_DONE, id->b, MESSAGE_ID_LEN, b);
}

int done_load(struct engine *e, const struct message_id *id, struct done *d)
{
    struct cursor c;
    int r = e->port.get(e->port.ctx, MAP_DONE, id->b, MESSAGE_ID_LEN, &e->scratch);
    if (r)
        return r;
    r = version_of(&c, e->scratch.data, e->scratch.len, DONE_VERSION);
    if (r < 0)
        return r;
    get_address(&c, &d->to);
    d->state = cursor_u8(&c);
    if (d->state > OUT_FAILED)
        cursor_fail(&c);
    cursor_copy(&c, d->digest, sizeof(d->digest));
    d->seq = cursor_u64(&c);
    d->time_ms = cursor_u64(&c);
    get_text(&c, d->id_text, sizeof(d->id_text));
    get_text(&c, d->reason, sizeof(d->reason));
    return ended(&c);
}
