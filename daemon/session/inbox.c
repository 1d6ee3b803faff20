/* Envelopes from the relay: whose they are, decryption, dedupe, what they bring. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define SEEN_LEN (ADDRESS_KEY_LEN + MESSAGE_ID_LEN + 1 + 8)
#define ID_KEY_LEN (UID_LEN + MESSAGE_ID_LEN)
#define ID_RECORD_LEN 9
#define SESSION_AHEAD_MS DAY_MS

/* What became of one envelope; whatever it was, the relay may forget it. */
enum fate { FATE_DONE = 0, FATE_FAILED = 1, FATE_HELD = 2 };

struct incoming {
    struct span body;
    struct envelope_view view;
    uint8_t hash[32];
    bool held_before; /* comes from MAP_HELD: the stranger has been looked up */
};

/* --- dedupe --- */

static int seen_store(struct engine *e, const struct incoming *in, const struct peer *p, const struct inner *m)
{
    buf_reset(&e->scratch);
    buf_bytes(&e->scratch, p->key, ADDRESS_KEY_LEN);
    buf_bytes(&e->scratch, m->id.b, MESSAGE_ID_LEN);
    buf_u8(&e->scratch, m->type);
    buf_u64(&e->scratch, e->now);
    return record_put(e, MAP_SEEN, in->hash, sizeof(in->hash), &e->scratch);
}

/* 0: the same ciphertext was here before, and its receipt goes out again; 1: new. */
static int seen_before(struct engine *e, const struct incoming *in)
{
    struct message_id id;
    struct address a;
    struct cursor c;
    struct peer *p;
    uint8_t type;
    int r = e->port.get(e->port.ctx, MAP_SEEN, in->hash, sizeof(in->hash), &e->scratch);
    if (r)
        return r;
    if (e->scratch.len != SEEN_LEN)
        return -EBADMSG;
    cursor_init(&c, e->scratch.data, e->scratch.len);
    cursor_copy(&c, a.uid, UID_LEN);
    a.device = cursor_u32be(&c);
    cursor_copy(&c, id.b, MESSAGE_ID_LEN);
    type = cursor_u8(&c);
    struct contact *k = contact_find(e, a.uid);
    if (!k || type != INNER_MESSAGE)
        return 0;
    r = peer_get(e, k, a.device, &p);
    if (r == 0)
        control_owe(e, p, &id, 1);
    return r;
}

static void id_key(const uint8_t uid[UID_LEN], const struct message_id *id, uint8_t ret_key[ID_KEY_LEN])
{
    memcpy(ret_key, uid, UID_LEN);
    memcpy(ret_key + UID_LEN, id->b, MESSAGE_ID_LEN);
}

static int id_store(struct engine *e, const uint8_t key[ID_KEY_LEN], uint64_t time_ms, bool read)
{
    buf_reset(&e->scratch);
    buf_u64(&e->scratch, time_ms);
    buf_u8(&e->scratch, read);
    return record_put(e, MAP_ID, key, ID_KEY_LEN, &e->scratch);
}

/* --- counts: gaps and forks of the sender --- */

static int gap_close(struct peer *p, uint64_t count)
{
    for (size_t i = 0; i < p->n_gaps; i++) {
        struct gap *g = &p->gaps[i];
        if (count < g->from || count > g->to)
            continue;
        if (count == g->from && count == g->to) {
            *g = p->gaps[--p->n_gaps];
        } else if (count == g->from) {
            g->from++;
        } else if (count == g->to) {
            g->to--;
        } else if (p->n_gaps < MAX_GAPS) {
            p->gaps[p->n_gaps++] = (struct gap){.from = count + 1, .to = g->to, .noticed_ms = g->noticed_ms};
            g->to = count - 1;
        }
        p->dirty = true;
        return 0;
    }
    return 1;
}

static int count_track(struct engine *e, struct peer *p, uint64_t count)
{
    if (!count)
        return 0;
    if (count <= p->highest_count)
        return gap_close(p, count) == 0
                ? 0
                : event_error(e, "SENDER_FORKED", p->contact,
                          "a message came under a number that another message had: the sender's state was copied or restored");
    if (count > p->highest_count + 1 && p->n_gaps < MAX_GAPS)
        p->gaps[p->n_gaps++] = (struct gap){.from = p->highest_count + 1, .to = count - 1, .noticed_ms = e->now};
    p->highest_count = count;
    p->dirty = true;
    return 0;
}

static int gaps_report(struct engine *e, struct peer *p)
{
    int r = 0;
    for (size_t i = p->n_gaps; r == 0 && i-- > 0;) {
        struct gap g = p->gaps[i];
        if (e->now - g.noticed_ms < GAP_REPORT_MS)
            continue;
        p->gaps[i] = p->gaps[--p->n_gaps];
        p->dirty = true;
        r = event_error(e, "MESSAGES_MISSING", p->contact, "%llu message(s) of this sender did not arrive (numbers %llu to %llu)",
                (unsigned long long)(g.to - g.from + 1), (unsigned long long)g.from, (unsigned long long)g.to);
    }
    return r;
}

int inbox_gaps_tick(struct engine *e)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < e->peers.n_slots; i++)
        for (struct table_node *n = e->peers.slots[i]; r == 0 && n; n = n->next)
            r = gaps_report(e, container_of(n, struct peer, node));
    return r;
}

/* --- what a plaintext brings --- */

static int message_event(struct engine *e, struct peer *p, const struct inner *m, struct span id_text, struct span payload)
{
    char label[UID_TEXT_LEN + 1], uid[UID_TEXT_LEN + 1];
    struct mp_map map;
    uid_to_text(p->contact->uid, uid);
    (void)event_begin(e, EV_MESSAGE, &map);
    mp_put_strn(mp_key(&map, "id"), id_text.p, id_text.n);
    mp_put_str(mp_key(&map, "from"), contact_label(p->contact, label));
    mp_put_str(mp_key(&map, "from_uid"), uid);
    mp_put_uint(mp_key(&map, "device"), p->address.device);
    if (m->flags & INNER_TEXT)
        mp_put_strn(mp_key(&map, "text"), payload.p, payload.n);
    else
        mp_put_bin(mp_key(&map, "bytes"), payload.p, payload.n);
    mp_put_bool(mp_key(&map, "verified"), p->contact->verified);
    mp_put_uint(mp_key(&map, "sent_time"), m->time_ms & ((UINT64_C(1) << 53) - 1));
    return event_end(e, &map);
}

static int take_message(struct engine *e, struct peer *p, const struct inner *m)
{
    uint8_t key[ID_KEY_LEN];
    struct span id_text, payload;
    struct message_id id;
    char text[ID_TEXT_MAX + 1] = "";
    struct cursor c;
    int r;
    cursor_init(&c, m->body.p, m->body.n);
    id_text.p = cursor_lp(&c, ID_TEXT_MAX, &id_text.n);
    payload.p = cursor_lp(&c, ENGINE_MAX_PAYLOAD, &payload.n);
    if (cursor_end(&c) != WIRE_OK)
        return FATE_FAILED;
    memcpy(text, id_text.p, id_text.n);
    id = message_id_of(p->address.uid, text);
    if (memcmp(id.b, m->id.b, MESSAGE_ID_LEN) != 0)
        return FATE_FAILED;
    id_key(p->address.uid, &m->id, key);
    control_owe(e, p, &m->id, 1);
    r = e->port.get(e->port.ctx, MAP_ID, key, sizeof(key), &e->scratch);
    if (r != PORT_NOT_FOUND)
        return r; /* here before, under another envelope: acknowledged again, shown once */
    r = id_store(e, key, e->now, false);
    if (r == 0)
        r = count_track(e, p, m->count);
    return r == 0 ? message_event(e, p, m, id_text, payload) : r;
}

static int take_receipt(struct engine *e, struct peer *p, const struct inner *m)
{
    struct cursor c;
    uint16_t n;
    int r = 0;
    cursor_init(&c, m->body.p, m->body.n);
    n = cursor_u16(&c);
    if (n > MAX_OWED || c.left != (size_t)n * (MESSAGE_ID_LEN + 1))
        return FATE_FAILED;
    while (r == 0 && n--) {
        struct message_id id;
        uint8_t state;
        cursor_copy(&c, id.b, MESSAGE_ID_LEN);
        state = cursor_u8(&c);
        r = outbox_receipt(e, p, &id, state == 2 ? OUT_READ : OUT_DELIVERED);
    }
    return r;
}

static int take_notice(struct peer *p, const struct inner *m)
{
    struct cursor c;
    uint16_t n;
    cursor_init(&c, m->body.p, m->body.n);
    n = cursor_u16(&c);
    if (n > MAX_TOMBSTONES || c.left != (size_t)n * 8)
        return FATE_FAILED;
    while (n--) {
        uint64_t count = cursor_u64(&c);
        if (count > p->highest_count) {
            if (count > p->highest_count + 1 && p->n_gaps < MAX_GAPS)
                p->gaps[p->n_gaps++] = (struct gap){.from = p->highest_count + 1, .to = count - 1};
            p->highest_count = count;
            p->dirty = true;
        } else {
            (void)gap_close(p, count);
        }
    }
    return 0;
}

/* Do both sides see the same device lists? If not, somebody shows them different ones. */
static int lists_compare(struct engine *e, struct peer *p, const struct inner *m)
{
    const struct device_list *mine = identity_list(e->id);
    struct contact *k = p->contact;
    if (m->peer.n != mine->n || memcmp(m->peer.hash, mine->hash, LIST_HASH_LEN) != 0)
        return event_error(e, "DEVICE_LIST_MISMATCH", k, "this contact was shown another device list of ours than we made");
    if (m->own.n > k->list.n)
        return relay_lookup_uid(e, k->uid);
    if (m->own.n < k->list.n || memcmp(m->own.hash, k->list.hash, LIST_HASH_LEN) != 0)
        return event_error(e, "DEVICE_LIST_MISMATCH", k, "this contact's device list differs from the one that we were shown");
    return 0;
}

static int take(struct engine *e, struct session *s, const struct incoming *in, const struct inner *m, uint64_t seen_before_it)
{
    struct peer *p = s->peer;
    int r = seen_store(e, in, p, m);
    s->dirty = true;
    if (ratchet_seen_by_peer(s->ratchet) > seen_before_it)
        p->progress_ms = e->now;
    if (r == 0)
        r = lists_compare(e, p, m);
    if (r)
        return r;
    switch (m->type) {
    case INNER_MESSAGE:
        return take_message(e, p, m);
    case INNER_RECEIPT:
        return take_receipt(e, p, m);
    case INNER_NOTICE:
        return take_notice(p, m);
    default:
        return FATE_FAILED;
    }
}

static int decrypt(struct engine *e, struct session *s, const struct incoming *in)
{
    uint64_t seen = ratchet_seen_by_peer(s->ratchet);
    CLEANUP_BUF struct buf plain = {0};
    struct inner m;
    int r;
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    r = ratchet_decrypt(s->ratchet, &in->view, e->now, &e->rng, &plain, &m);
    if (r)
        return r < 0 ? r : FATE_FAILED;
    return take(e, s, in, &m, seen);
}

/* --- first messages --- */

static int hold(struct engine *e, const uint8_t uid[UID_LEN], struct span body);

static int ek_known(struct engine *e, const uint8_t ek[32])
{
    return e->port.get(e->port.ctx, MAP_EK, ek, 32, &e->scratch);
}

static int ek_remember(struct engine *e, const uint8_t ek[32])
{
    buf_reset(&e->scratch);
    buf_u64(&e->scratch, e->now);
    return record_put(e, MAP_EK, ek, 32, &e->scratch);
}

struct prekey_pair {
    struct prekey_secret spk, otk;
};

static int respond(struct engine *e, struct contact *k, const struct incoming *in, const struct device *device,
        struct prekey_pair *keys, struct ratchet **ret_ratchet)
{
    const struct envelope_view *v = &in->view;
    int r = prekey_find(e, false, v->signed_prekey_id, &keys->spk);
    (void)k;
    if (r == 0 && v->one_time_id)
        r = prekey_find(e, true, v->one_time_id, &keys->otk);
    if (r)
        return r < 0 ? r : FATE_FAILED;
    r = ratchet_respond(e->id, device, v, &keys->spk, v->one_time_id ? &keys->otk : NULL, e->now, ret_ratchet);
    return r > 0 ? FATE_FAILED : r;
}

/* The session exists only if its first message decrypts. */
static int open_session(struct engine *e, struct contact *k, const struct incoming *in, struct ratchet *ratchet)
{
    CLEANUP_BUF struct buf plain = {0};
    struct session *s;
    struct inner m;
    struct peer *p;
    int r;
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    r = ratchet_decrypt(ratchet, &in->view, e->now, &e->rng, &plain, &m);
    if (r) {
        ratchet_free(ratchet);
        return r < 0 ? r : FATE_FAILED;
    }
    r = peer_get(e, k, in->view.sender_device, &p);
    if (r < 0) {
        ratchet_free(ratchet);
        return r;
    }
    r = session_add(e, p, ratchet, &s);
    if (r == 0)
        r = ek_remember(e, in->view.ek);
    if (r == 0 && in->view.one_time_id)
        r = prekey_used(e, in->view.one_time_id);
    return r == 0 ? take(e, s, in, &m, 0) : r;
}

static int handshake_with(struct engine *e, struct contact *k, const struct device *device, const struct incoming *in)
{
    struct prekey_pair *keys;
    struct ratchet *ratchet;
    int r;
    if (in->view.session_number > e->now + SESSION_AHEAD_MS)
        return FATE_FAILED;
    r = ek_known(e, in->view.ek);
    if (r != PORT_NOT_FOUND)
        return r < 0 ? r : FATE_FAILED;
    keys = sodium_malloc(sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    r = respond(e, k, in, device, keys, &ratchet);
    sodium_free(keys);
    return r ? r : open_session(e, k, in, ratchet);
}

/* A contact's entry in a first message against the pinned one. */
static int pinned_check(struct engine *e, struct contact *k, const struct device_list *list, const struct incoming *in)
{
    int r;
    if (list->n == k->list.n && memcmp(list->hash, k->list.hash, LIST_HASH_LEN) == 0)
        return 0;
    if (list->n > k->list.n && !in->held_before) {
        r = hold(e, k->uid, in->body);
        if (r == 0)
            r = relay_lookup_uid(e, k->uid);
        return r < 0 ? r : FATE_HELD;
    }
    r = event_error(e, "DEVICE_LIST_MISMATCH", k, "a first message came with %s device list",
            list->n < k->list.n ? "an outdated" : "another");
    return r < 0 ? r : FATE_FAILED;
}

/* Somebody new: the relay is asked who has the name that the entry claims; until then the envelope is kept. */
static int stranger(struct engine *e, const struct device_list *list, const struct incoming *in)
{
    int r;
    if (e->cfg.strangers == STRANGERS_REFUSE || in->held_before)
        return FATE_DONE;
    r = hold(e, list->uid, in->body);
    if (r == 0)
        r = relay_lookup_stranger(e, list->uid, list->name);
    return r < 0 ? r : FATE_HELD;
}

static int first_message(struct engine *e, const struct incoming *in)
{
    struct device_list *list;
    const struct device *device;
    struct contact *k;
    int r;
    list = malloc(sizeof(*list));
    if (!list)
        return -ENOMEM;
    r = device_list_verify(in->view.entry.p, in->view.entry.n, list);
    device = r == 0 ? device_list_find(list, in->view.sender_device) : NULL;
    if (r > 0 || (r == 0 && !device)) {
        r = FATE_FAILED;
    } else if (r == 0) {
        k = contact_find(e, list->uid);
        if (!k)
            r = stranger(e, list, in);
        else if (k->blocked)
            r = FATE_DONE;
        else if (k->held && !in->held_before)
            r = hold(e, k->uid, in->body) < 0 ? -EIO : FATE_HELD;
        else if ((r = pinned_check(e, k, list, in)) == 0)
            r = handshake_with(e, k, device, in);
    }
    free(list);
    return r;
}

static int process(struct engine *e, struct incoming *in)
{
    struct session *s;
    int r;
    if (envelope_parse(in->body.p, in->body.n, &in->view) != 0)
        return FATE_FAILED;
    r = session_by_tag(e, in->view.route_tag, &s);
    if (r < 0)
        return r;
    if (r == 0)
        return s->peer->contact->blocked ? FATE_DONE : decrypt(e, s, in);
    return in->view.has_handshake ? first_message(e, in) : FATE_FAILED;
}

/* --- deliveries --- */

static int deliver_one(struct engine *e, const struct relay_deliver_item *it)
{
    struct incoming in = {.body = it->body};
    int r;
    (void)crypto_hash_sha256(in.hash, it->body.p, it->body.n);
    r = seen_before(e, &in);
    if (r == PORT_NOT_FOUND)
        r = process(e, &in);
    if (r == FATE_FAILED)
        r = event_error(e, "DECRYPT_FAILED", NULL, "an envelope from the relay could not be decrypted; it was dropped");
    if (r < 0)
        return r;
    if (!relay_batch_count(&e->acks)) {
        buf_reset(&e->acks);
        relay_begin(&e->acks, RELAY_ACK, 0);
    }
    relay_add_ack(&e->acks, &it->id);
    return relay_batch_count(&e->acks) == RELAY_MAX_BATCH ? submit_flush(e) : 0;
}

int inbox_deliver(struct engine *e, struct cursor *c)
{
    uint16_t n;
    int r = relay_read_count(c, 1, RELAY_MAX_BATCH, &n);
    while (r == 0 && n--) {
        struct relay_deliver_item it;
        if (relay_next_deliver(c, &it) != WIRE_OK)
            return 1;
        r = deliver_one(e, &it);
    }
    return r;
}

/* --- held envelopes --- */

struct held {
    size_t n;
    size_t key_len;
    uint8_t key[UID_LEN + 8];
    struct buf body;
};

static int held_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct held *h = ctx;
    if (h->n++ == 0 && key_len == sizeof(h->key)) {
        memcpy(h->key, key, key_len);
        h->key_len = key_len;
        buf_reset(&h->body);
        buf_bytes(&h->body, value, n);
    }
    return h->n > MAX_HELD_PER_UID;
}

static int held_del(struct engine *e, const struct held *h)
{
    if (e->n_held)
        e->n_held--;
    return e->port.del(e->port.ctx, MAP_HELD, h->key, h->key_len);
}

struct held_count {
    size_t n;
    uint64_t highest;
};

static int count_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct held_count *h = ctx;
    uint64_t number = 0;
    (void)value;
    (void)n;
    for (size_t i = UID_LEN; i < key_len; i++)
        number = number << 8 | key[i];
    h->n++;
    if (number > h->highest)
        h->highest = number;
    return 0;
}

int inbox_load(struct engine *e)
{
    struct held_count h = {0};
    int r = e->port.scan(e->port.ctx, MAP_HELD, "", 0, 0, count_visit, &h);
    e->n_held = h.n;
    e->held_number = h.highest;
    return r;
}

static int hold(struct engine *e, const uint8_t uid[UID_LEN], struct span body)
{
    struct held h = {0};
    uint8_t key[UID_LEN + 8];
    uint64_t number = ++e->held_number;
    int r;
    buf_init(&h.body, RELAY_MAX_BODY);
    r = e->port.scan(e->port.ctx, MAP_HELD, uid, UID_LEN, UID_LEN, held_visit, &h);
    buf_done(&h.body);
    if (r < 0)
        return r;
    if (h.n >= MAX_HELD_PER_UID || e->n_held >= MAX_HELD)
        return event_error(e, "HELD_FULL", NULL, "too many messages of strangers are held; this one was dropped");
    memcpy(key, uid, UID_LEN);
    for (unsigned i = 0; i < 8; i++)
        key[UID_LEN + i] = (uint8_t)(number >> (56 - 8 * i));
    e->n_held++;
    return e->port.put(e->port.ctx, MAP_HELD, key, sizeof(key), body.p, body.n);
}

static int release_one(struct engine *e, struct held *h)
{
    struct incoming in = {.body = {.p = h->body.data, .n = h->body.len}, .held_before = true};
    int r = held_del(e, h);
    if (r < 0)
        return r;
    (void)crypto_hash_sha256(in.hash, in.body.p, in.body.n);
    r = seen_before(e, &in);
    if (r == PORT_NOT_FOUND)
        r = process(e, &in);
    if (r == FATE_FAILED)
        r = event_error(e, "DECRYPT_FAILED", NULL, "a held envelope could not be decrypted; it was dropped");
    return r < 0 ? r : 0;
}

int inbox_release(struct engine *e, const uint8_t uid[UID_LEN])
{
    struct held h;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < MAX_HELD_PER_UID; i++) {
        h = (struct held){0};
        buf_init(&h.body, RELAY_MAX_BODY);
        r = e->port.scan(e->port.ctx, MAP_HELD, uid, UID_LEN, UID_LEN, held_visit, &h);
        if (r > 0)
            r = 0;
        if (r == 0 && h.n)
            r = release_one(e, &h);
        buf_done(&h.body);
        if (!h.n)
            break;
    }
    return r;
}

int inbox_drop_held(struct engine *e, const uint8_t uid[UID_LEN])
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < MAX_HELD_PER_UID + 1; i++) {
        struct held h = {0};
        buf_init(&h.body, RELAY_MAX_BODY);
        r = e->port.scan(e->port.ctx, MAP_HELD, uid, UID_LEN, UID_LEN, held_visit, &h);
        if (r > 0)
            r = 0;
        if (r == 0 && h.n)
            r = held_del(e, &h);
        buf_done(&h.body);
        if (!h.n)
            break;
    }
    return r;
}

/* --- read --- */

static int read_one(struct engine *e, struct peer *p, const struct mp_value *id_text, uint64_t *count)
{
    char text[ID_TEXT_MAX + 1] = "";
    uint8_t key[ID_KEY_LEN];
    struct message_id id;
    uint64_t time_ms;
    struct cursor c;
    int r;
    if (id_text->type != MP_STR || id_text->count > ID_TEXT_MAX)
        return 0;
    memcpy(text, id_text->bytes, id_text->count);
    id = message_id_of(p->address.uid, text);
    id_key(p->address.uid, &id, key);
    r = e->port.get(e->port.ctx, MAP_ID, key, sizeof(key), &e->scratch);
    if (r)
        return r < 0 ? r : 0;
    if (e->scratch.len != ID_RECORD_LEN)
        return -EBADMSG;
    cursor_init(&c, e->scratch.data, e->scratch.len);
    time_ms = cursor_u64(&c);
    *count += 1;
    if (cursor_u8(&c))
        return 0;
    if (e->cfg.receipts)
        control_owe(e, p, &id, 2);
    return id_store(e, key, time_ms, true);
}

int inbox_read_call(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    char from[UID_TEXT_LEN + RELAY_MAX_NAME] = "";
    CLEANUP_BUF struct buf b = {0};
    struct mp_value ids, id;
    struct mp_iter it;
    struct mp_map m;
    struct contact *k;
    struct peer *p;
    uint64_t count = 0;
    int r;
    (void)param_str(params, "from", from, sizeof(from));
    r = contact_resolve(e, from, &k);
    if (r)
        return r < 0 ? r : answer_fail(e, ticket, API_UNKNOWN_CONTACT, 0, "read: no contact '%.64s'", from);
    r = peer_get(e, k, k->device.address.device, &p);
    if (r < 0 || !mp_map_get(params, "ids", &ids))
        return r;
    mp_iter_init(&it, &ids);
    while (r == 0 && mp_next(&it, NULL, &id))
        r = read_one(e, p, &id, &count);
    if (r < 0)
        return r;
    buf_init(&b, 64);
    mp_map_begin(&m, &b);
    mp_put_uint(mp_key(&m, "count"), count);
    mp_map_end(&m);
    return answer_ok(e, ticket, &b);
}
