/* Envelopes from the relay: whose they are, decryption, dedupe, what they bring. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "state.h"
#include "text.h"

#define SEEN_LEN (ADDRESS_KEY_LEN + MESSAGE_ID_LEN + 1 + 8)
#define ID_KEY_LEN (UID_LEN + MESSAGE_ID_LEN)
#define ID_RECORD_LEN 9

/* What became of one envelope; whatever it was, the relay may forget it. */
enum fate { FATE_DONE = 0, FATE_FAILED = 1, FATE_HELD = 2 };

struct incoming {
    struct span body;
    struct envelope_view view;
    uint8_t hash[32];
    bool held_before; /* comes from MAP_HELD: the stranger has been looked up */
};

/* --- dedupe --- */

static int seen_store(
        struct engine *e, const struct incoming *in, const struct peer *p, const struct inner *m)
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
    return r == 0 ? control_owe(e, p, &id, 1) : r;
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

/* --- what a plaintext brings --- */

static int message_event(
        struct engine *e, struct peer *p, const struct inner *m, struct span id_text, struct span payload)
{
    char label[UID_TEXT_LEN + 1], uid[UID_TEXT_LEN + 1];
    struct mp_map map;
    uid_to_text(p->contact->uid, uid);
    (void)event_begin(e, EV_MESSAGE, &map);
    mp_put_strn(mp_key(&map, "id"), id_text.p, id_text.n);
    mp_put_str(mp_key(&map, "from"), contact_label(p->contact, label));
    mp_put_str(mp_key(&map, "from_uid"), uid);
    mp_put_uint(mp_key(&map, "device"), p->address.device);
    if ((m->flags & INNER_TEXT) && text_valid_utf8(payload.p, payload.n))
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
    if (cursor_end(&c) != WIRE_OK || !text_valid_utf8(id_text.p, id_text.n))
        return FATE_FAILED;
    memcpy(text, id_text.p, id_text.n);
    id = message_id_of(p->address.uid, text);
    if (memcmp(id.b, m->id.b, MESSAGE_ID_LEN) != 0)
        return FATE_FAILED;
    id_key(p->address.uid, &m->id, key);
    r = control_owe(e, p, &m->id, 1);
    if (r < 0)
        return r;
    r = e->port.get(e->port.ctx, MAP_ID, key, sizeof(key), &e->scratch);
    if (r != PORT_NOT_FOUND)
        return r; /* here before, under another envelope: acknowledged again, shown once */
    r = id_store(e, key, e->now, false);
    if (r == 0)
        r = m->flags & INNER_UNCOUNTED ? 0 : counts_came(e, p, m->count);
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

static int take_notice(struct engine *e, struct peer *p, const struct inner *m)
{
    struct cursor c;
    uint16_t n;
    int r = 0;
    cursor_init(&c, m->body.p, m->body.n);
    n = cursor_u16(&c);
    if (n > NOTICE_MAX_COUNTS || c.left != (size_t)n * 8)
        return FATE_FAILED;
    while (r == 0 && n--)
        r = counts_expired(e, p, cursor_u64(&c));
    return r;
}

/* Do both sides see the same device lists? If not, somebody shows them different ones. */
static int lists_compare(struct engine *e, struct peer *p, const struct inner *m)
{
    const struct device_list *mine = identity_list(e->id);
    struct contact *k = p->contact;
    if (m->peer.n != mine->n || memcmp(m->peer.hash, mine->hash, LIST_HASH_LEN) != 0)
        return event_error(e, "DEVICE_LIST_MISMATCH", k,
                "this contact was shown another device list of ours than we made");
    if (m->own.n > k->list.n)
        return relay_lookup_uid(e, k->uid);
    if (m->own.n < k->list.n || memcmp(m->own.hash, k->list.hash, LIST_HASH_LEN) != 0)
        return event_error(e, "DEVICE_LIST_MISMATCH", k,
                "this contact's device list differs from the one that we were shown");
    return 0;
}

static int take(struct engine *e, struct session *s, const struct incoming *in, const struct inner *m,
        uint64_t seen_before_it)
{
    struct peer *p = s->peer;
    int r = seen_store(e, in, p, m);
    s->dirty = true;
    if (ratchet_seen_by_peer(s->ratchet) > seen_before_it) {
        p->progress_ms = e->now;
        p->resets = 0;
        p->stalled = false;
    }
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
        return take_notice(e, p, m);
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

static int respond(struct engine *e, const struct incoming *in, const struct device *device,
        struct prekey_pair *keys, struct ratchet **ret_ratchet)
{
    const struct envelope_view *v = &in->view;
    int r = prekey_find(e, false, v->signed_prekey_id, &keys->spk);
    if (r == 0 && v->one_time_id)
        r = prekey_find(e, true, v->one_time_id, &keys->otk);
    if (r)
        return r < 0 ? r : FATE_FAILED;
    /* Past its validity nothing is left that would know a replay. */
    if (e->now > keys->spk.not_after_ms)
        return FATE_FAILED;
    r = ratchet_respond(
            e->id, device, v, &keys->spk, v->one_time_id ? &keys->otk : NULL, e->now, ret_ratchet);
    return r > 0 ? FATE_FAILED : r;
}

/* A number far ahead is refused, unless both sides know one that is as far: their clocks were wrong together.
 */
static bool number_ok(const struct engine *e, const struct peer *p, uint64_t number)
{
    uint64_t known = p && p->highest_session > e->now ? p->highest_session : e->now;
    return number <= known || number - known <= SESSION_AHEAD_MS;
}

/* The ratchet of a first message and what was in it. Nothing of the engine has changed yet. */
static int handshake(struct engine *e, const struct peer *p, const struct device *device,
        const struct incoming *in, struct ratchet **ret_ratchet, struct buf *plain, struct inner *ret_inner)
{
    struct prekey_pair *keys;
    struct ratchet *ratchet;
    int r;
    if (!number_ok(e, p, in->view.session_number))
        return FATE_FAILED;
    r = ek_known(e, in->view.ek);
    if (r != PORT_NOT_FOUND)
        return r < 0 ? r : FATE_FAILED;
    keys = sodium_malloc(sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    r = respond(e, in, device, keys, &ratchet);
    sodium_free(keys);
    if (r)
        return r;
    r = ratchet_decrypt(ratchet, &in->view, e->now, &e->rng, plain, ret_inner);
    if (r) {
        ratchet_free(ratchet);
        return r < 0 ? r : FATE_FAILED;
    }
    *ret_ratchet = ratchet;
    return 0;
}

/* The session exists only if its first message decrypts. */
static int open_session(
        struct engine *e, struct contact *k, const struct device *device, const struct incoming *in)
{
    CLEANUP_BUF struct buf plain = {0};
    struct ratchet *ratchet;
    struct session *s;
    struct inner m;
    struct peer *p;
    int r = peer_get(e, k, in->view.sender_device, &p);
    if (r < 0)
        return r;
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    r = handshake(e, p, device, in, &ratchet, &plain, &m);
    if (r)
        return r;
    r = session_add(e, p, ratchet, &s);
    if (r == 0)
        r = ek_remember(e, in->view.ek);
    if (r == 0 && in->view.one_time_id)
        r = prekey_used(e, in->view.one_time_id);
    return r == 0 ? take(e, s, in, &m, 0) : r;
}

/* Keeps an envelope of somebody not let in, if it is one: what does not decrypt is not worth a question to
 * the relay. */
static int hold(struct engine *e, const struct device_list *list, const struct device *device,
        const struct incoming *in)
{
    CLEANUP_BUF struct buf plain = {0};
    struct ratchet *ratchet;
    struct inner m;
    int r;
    if (held_has(e, list->uid, in->hash))
        return FATE_HELD;
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    r = handshake(e, NULL, device, in, &ratchet, &plain, &m);
    if (r)
        return r;
    ratchet_free(ratchet);
    return held_put(e, list->uid, list->name, in->hash, in->body);
}

/* A contact's entry in a first message against the pinned one. */
static int pinned_check(struct engine *e, struct contact *k, const struct device_list *list,
        const struct device *device, const struct incoming *in)
{
    int r;
    if (list->n == k->list.n && memcmp(list->hash, k->list.hash, LIST_HASH_LEN) == 0)
        return 0;
    if (list->n > k->list.n && !in->held_before) {
        r = hold(e, list, device, in);
        if (r == 0)
            r = relay_lookup_uid(e, k->uid);
        return r ? r : FATE_HELD;
    }
    r = event_error(e, "DEVICE_LIST_MISMATCH", k, "a first message came with %s device list",
            list->n < k->list.n ? "an outdated" : "another");
    return r < 0 ? r : FATE_FAILED;
}

/* Somebody new: the relay is asked who has the name that the entry claims; until then the envelope is kept.
 */
static int stranger(struct engine *e, const struct device_list *list, const struct device *device,
        const struct incoming *in)
{
    int r;
    if (e->cfg.strangers == STRANGERS_REFUSE || in->held_before)
        return FATE_DONE;
    r = hold(e, list, device, in);
    if (r == 0)
        r = relay_lookup_stranger(e, list->uid, list->name);
    return r ? r : FATE_HELD;
}

static int first_message_of(struct engine *e, const struct device_list *list, const struct device *device,
        const struct incoming *in)
{
    struct contact *k = contact_find(e, list->uid);
    int r;
    if (!k)
        return stranger(e, list, device, in);
    if (k->blocked)
        return FATE_DONE;
    if (k->held && !in->held_before) {
        r = hold(e, list, device, in);
        return r ? r : FATE_HELD;
    }
    r = pinned_check(e, k, list, device, in);
    return r ? r : open_session(e, k, device, in);
}

static int first_message(struct engine *e, const struct incoming *in)
{
    struct device_list *list = malloc(sizeof(*list));
    const struct device *device = NULL;
    int r;
    if (!list)
        return -ENOMEM;
    r = device_list_verify(in->view.entry.p, in->view.entry.n, list);
    if (r == 0)
        device = device_list_find(list, in->view.sender_device);
    /* Our own words, thrown back at us, are nobody's. */
    if (r > 0 || (r == 0 && (!device || memcmp(list->uid, identity_address(e->id)->uid, UID_LEN) == 0)))
        r = FATE_FAILED;
    else if (r == 0)
        r = first_message_of(e, list, device, in);
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
        r = event_error(e, "DECRYPT_FAILED", NULL,
                "an envelope from the relay could not be decrypted; it was dropped");
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
    return r == 0 && cursor_end(c) != WIRE_OK ? 1 : r;
}

int inbox_again(struct engine *e, struct span body)
{
    struct incoming in = {.body = body, .held_before = true};
    int r;
    (void)crypto_hash_sha256(in.hash, body.p, body.n);
    r = seen_before(e, &in);
    if (r == PORT_NOT_FOUND)
        r = process(e, &in);
    if (r == FATE_FAILED)
        r = event_error(e, "DECRYPT_FAILED", NULL, "a held envelope could not be decrypted; it was dropped");
    return r < 0 ? r : 0;
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
    if (e->cfg.receipts && (r = control_owe(e, p, &id, 2)) < 0)
        return r;
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
