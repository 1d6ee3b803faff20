#include <errno.h>
#include <string.h>

#include "state.h"

#define CLAIM_REPORT_EVERY 32u

static void session_key(const struct peer *p, const struct session_ref *ref, uint8_t ret_key[SESSION_KEY_LEN])
{
    memcpy(ret_key, p->key, ADDRESS_KEY_LEN);
    for (unsigned i = 0; i < 8; i++)
        ret_key[ADDRESS_KEY_LEN + i] = (uint8_t)(ref->number >> (56 - 8 * i));
    memcpy(ret_key + ADDRESS_KEY_LEN + 8, ref->transcript, TRANSCRIPT_LEN);
}

static void session_unload(struct engine *e, struct session_ref *ref)
{
    struct session *s = ref->loaded;
    if (!s)
        return;
    TAILQ_REMOVE(&e->loaded, s, lru);
    e->n_loaded--;
    ratchet_free(s->ratchet);
    free(s);
    ref->loaded = NULL;
}

void sessions_unload(struct engine *e, struct peer *p)
{
    for (size_t i = 0; i < p->n_sessions; i++)
        session_unload(e, &p->sessions[i]);
}

/* Takes r over in any case. */
static int session_attach(struct engine *e, struct peer *p, struct session_ref *ref, struct ratchet *r)
{
    struct session *s = calloc(1, sizeof(*s));
    if (!s) {
        ratchet_free(r);
        return -ENOMEM;
    }
    s->peer = p;
    s->ratchet = r;
    session_key(p, ref, s->key);
    ref->loaded = s;
    TAILQ_INSERT_TAIL(&e->loaded, s, lru);
    e->n_loaded++;
    return 0;
}

static int session_load(
        struct engine *e, struct peer *p, struct session_ref *ref, struct session **ret_session)
{
    uint8_t key[SESSION_KEY_LEN];
    struct ratchet *ratchet;
    int r = 0;
    if (!ref->loaded) {
        session_key(p, ref, key);
        r = e->port.get(e->port.ctx, MAP_SESSION, key, sizeof(key), &e->plain);
        if (r == 0)
            r = ratchet_load(e->plain.data, e->plain.len, &ratchet);
        if (r)
            return r < 0 ? r : -EBADMSG;
        r = session_attach(e, p, ref, ratchet);
        if (r < 0)
            return r;
        ref->loaded->n_tags = ratchet_tags(ratchet, ref->loaded->tags);
    } else {
        TAILQ_REMOVE(&e->loaded, ref->loaded, lru);
        TAILQ_INSERT_TAIL(&e->loaded, ref->loaded, lru);
    }
    *ret_session = ref->loaded;
    return 0;
}

int session_active(struct engine *e, struct peer *p, struct session **ret_session)
{
    return p->n_sessions ? session_load(e, p, &p->sessions[0], ret_session) : 1;
}

static int session_by_key(struct engine *e, const uint8_t key[SESSION_KEY_LEN], struct session **ret_session)
{
    struct contact *c = contact_find(e, key);
    struct cursor cur;
    struct peer *p;
    int r;
    if (!c)
        return 1;
    cursor_init(&cur, key + UID_LEN, 4);
    r = peer_get(e, c, cursor_u32be(&cur), &p);
    if (r < 0)
        return r;
    for (size_t i = 0; i < p->n_sessions; i++) {
        uint8_t have[SESSION_KEY_LEN];
        session_key(p, &p->sessions[i], have);
        if (memcmp(have, key, SESSION_KEY_LEN) == 0)
            return session_load(e, p, &p->sessions[i], ret_session);
    }
    return 1;
}

/* Tags of this turn's ratchet steps are in the routes only after the flush. */
static struct session *dirty_by_tag(struct engine *e, const uint8_t tag[ROUTE_TAG_LEN])
{
    uint8_t tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN];
    struct session *s;
    TAILQ_FOREACH_REVERSE(s, &e->loaded, session_head, lru)
    {
        size_t n;
        if (!s->dirty)
            continue;
        n = ratchet_tags(s->ratchet, tags);
        for (size_t i = 0; i < n; i++)
            if (memcmp(tags[i], tag, ROUTE_TAG_LEN) == 0)
                return s;
    }
    return NULL;
}

int session_by_tag(struct engine *e, const uint8_t tag[ROUTE_TAG_LEN], struct session **ret_session)
{
    uint8_t key[SESSION_KEY_LEN];
    struct session *s = dirty_by_tag(e, tag);
    int r;
    if (s) {
        *ret_session = s;
        return 0;
    }
    r = e->port.get(e->port.ctx, MAP_ROUTE, tag, ROUTE_TAG_LEN, &e->scratch);
    if (r)
        return r;
    if (e->scratch.len != SESSION_KEY_LEN)
        return -EBADMSG;
    memcpy(key, e->scratch.data, SESSION_KEY_LEN);
    return session_by_key(e, key, ret_session);
}

static int session_remove(struct engine *e, struct peer *p, size_t i)
{
    struct session *s;
    int r = session_load(e, p, &p->sessions[i], &s);
    for (size_t t = 0; r == 0 && t < s->n_tags; t++)
        r = e->port.del(e->port.ctx, MAP_ROUTE, s->tags[t], ROUTE_TAG_LEN);
    if (r == 0)
        r = e->port.del(e->port.ctx, MAP_SESSION, s->key, SESSION_KEY_LEN);
    if (r < 0)
        return r;
    session_unload(e, &p->sessions[i]);
    p->n_sessions--;
    memmove(&p->sessions[i], &p->sessions[i + 1], (p->n_sessions - i) * sizeof(p->sessions[0]));
    peer_touch(e, p);
    return 0;
}

int sessions_delete(struct engine *e, struct peer *p)
{
    int r = 0;
    while (r == 0 && p->n_sessions)
        r = session_remove(e, p, p->n_sessions - 1);
    return r;
}

/* Whether a goes before b: the higher number, then the lower transcript hash. */
static bool goes_before(const struct session_ref *a, const struct session_ref *b)
{
    if (a->number != b->number)
        return a->number > b->number;
    return memcmp(a->transcript, b->transcript, TRANSCRIPT_LEN) < 0;
}

/* Only the first session is active; a session that ever was behind stays behind (its number is lower for
 * ever). */
int session_add(struct engine *e, struct peer *p, struct ratchet *ratchet, struct session **ret_session)
{
    struct session_ref ref = {.number = ratchet_session_number(ratchet)};
    size_t at = 0;
    int r = 0;
    memcpy(ref.transcript, ratchet_transcript(ratchet), TRANSCRIPT_LEN);
    if (p->n_sessions == ARRAY_SIZE(p->sessions))
        r = session_remove(e, p, p->n_sessions - 1);
    if (r < 0) {
        ratchet_free(ratchet);
        return r;
    }
    while (at < p->n_sessions && !goes_before(&ref, &p->sessions[at]))
        at++;
    r = session_attach(e, p, &ref, ratchet);
    if (r < 0)
        return r;
    memmove(&p->sessions[at + 1], &p->sessions[at], (p->n_sessions - at) * sizeof(p->sessions[0]));
    p->sessions[at] = ref;
    p->n_sessions++;
    for (size_t i = 1; i < p->n_sessions; i++)
        if (!p->sessions[i].old_since_ms)
            p->sessions[i].old_since_ms = e->now;
    if (ref.number > p->highest_session)
        p->highest_session = ref.number;
    ref.loaded->dirty = true;
    peer_touch(e, p);
    p->progress_ms = 0;
    p->stalled = false;
    *ret_session = ref.loaded;
    return 0;
}

int sessions_expire(struct engine *e, struct peer *p)
{
    struct session *s;
    int r = 0;
    for (size_t i = p->n_sessions; r == 0 && i-- > 1;)
        if (elapsed(e->now, p->sessions[i].old_since_ms) > OLD_SESSION_MS)
            r = session_remove(e, p, i);
    for (size_t i = 0; r == 0 && i < p->n_sessions; i++) {
        r = session_load(e, p, &p->sessions[i], &s);
        if (r == 0)
            s->dirty |= ratchet_expire(s->ratchet, e->now);
    }
    return r;
}

static bool has_tag(const uint8_t (*tags)[ROUTE_TAG_LEN], size_t n, const uint8_t *tag)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(tags[i], tag, ROUTE_TAG_LEN) == 0)
            return true;
    return false;
}

static int routes_flush(struct engine *e, struct session *s)
{
    uint8_t tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN];
    size_t n = ratchet_tags(s->ratchet, tags);
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->n_tags; i++)
        if (!has_tag((const uint8_t(*)[ROUTE_TAG_LEN])tags, n, s->tags[i]))
            r = e->port.del(e->port.ctx, MAP_ROUTE, s->tags[i], ROUTE_TAG_LEN);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (!has_tag((const uint8_t(*)[ROUTE_TAG_LEN])s->tags, s->n_tags, tags[i]))
            r = e->port.put(e->port.ctx, MAP_ROUTE, tags[i], ROUTE_TAG_LEN, s->key, SESSION_KEY_LEN);
    memcpy(s->tags, tags, sizeof(tags));
    s->n_tags = n;
    return r;
}

static int session_flush(struct engine *e, struct session *s)
{
    int r;
    buf_reset(&e->plain);
    ratchet_save(s->ratchet, &e->plain);
    r = record_put(e, MAP_SESSION, s->key, SESSION_KEY_LEN, &e->plain);
    if (r == 0)
        r = routes_flush(e, s);
    s->dirty = false;
    return r;
}

static void unload_some(struct engine *e)
{
    struct session *s, *next;
    for (s = TAILQ_FIRST(&e->loaded); s && e->n_loaded > MAX_LOADED_SESSIONS; s = next) {
        next = TAILQ_NEXT(s, lru);
        for (size_t i = 0; i < s->peer->n_sessions; i++)
            if (s->peer->sessions[i].loaded == s) {
                session_unload(e, &s->peer->sessions[i]);
                break;
            }
    }
}

int sessions_flush(struct engine *e)
{
    struct session *s;
    struct peer *p;
    int r = 0;
    TAILQ_FOREACH(s, &e->loaded, lru)
    if (r == 0 && s->dirty)
        r = session_flush(e, s);
    while (r == 0 && (p = TAILQ_FIRST(&e->dirty_peers))) {
        TAILQ_REMOVE(&e->dirty_peers, p, dirty_peers);
        p->dirty = false;
        r = peer_store(e, p);
    }
    if (r == 0)
        unload_some(e);
    return r;
}

/* --- sending --- */

static bool exhausted(const struct session *s, uint64_t window)
{
    return ratchet_sent(s->ratchet) - ratchet_seen_by_peer(s->ratchet) >= window;
}

int session_for_sending(struct engine *e, struct peer *p, uint64_t window, struct session **ret_session)
{
    struct session *s;
    int r = session_active(e, p, &s);
    if (r < 0)
        return r;
    if (r == 0 && !p->reset_wanted && !exhausted(s, window)) {
        *ret_session = s;
        return 0;
    }
    /* The peer is reading: its acknowledgments will make room, a new session would only cost. */
    if (r == 0 && !p->reset_wanted && p->progress_ms && elapsed(e->now, p->progress_ms) < PROGRESS_MS)
        return 1;
    r = relay_claim(e, p);
    return r < 0 ? r : 1;
}

static int claim_failed(struct engine *e, struct peer *p, const char *why)
{
    uint64_t wait = SECOND_MS << (p->claim_failures < 6 ? p->claim_failures : 6);
    p->claim_failures++;
    p->claim_not_before_ms = e->now + wait;
    if (p->claim_failures % CLAIM_REPORT_EVERY != 1)
        return 0;
    return event_error(e, "NO_SESSION", p->contact, "cannot open a session: %s; trying again", why);
}

static const char *bundle_problem(int status)
{
    switch (status) {
    case PREKEY_BAD_SIGNATURE:
        return "the relay's prekeys are not signed by the device";
    case PREKEY_WRONG_OWNER:
        return "the relay's prekeys belong to another device or an older device list";
    case PREKEY_EXPIRED:
        return "the relay's prekeys have expired";
    case PREKEY_NO_SUITE:
        return "the prekeys are of no suite that both sides list";
    default:
        return "the relay's prekeys are malformed";
    }
}

static int opened(struct engine *e, struct peer *p, struct ratchet *ratchet)
{
    char label[UID_TEXT_LEN + 1], uid[UID_TEXT_LEN + 1];
    bool reset = p->reset_wanted && p->n_sessions;
    struct session *s;
    struct mp_map m;
    int r = session_add(e, p, ratchet, &s);
    p->claim_failures = 0;
    p->reset_wanted = false;
    if (r < 0 || !reset)
        return r;
    p->last_reset_ms = e->now;
    p->resets++;
    peer_touch(e, p);
    uid_to_text(p->contact->uid, uid);
    (void)event_begin(e, EV_SESSION_RESET, &m);
    mp_put_str(mp_key(&m, "user"), contact_label(p->contact, label));
    mp_put_str(mp_key(&m, "uid"), uid);
    mp_put_str(mp_key(&m, "reason"), "unacknowledged");
    return event_end(e, &m);
}

/*
 * Numbers far ahead come from a clock that was wrong. Where the peer has one too, it accepts the next
 * (docs/PROTOCOL.md, section 6); where it never answered, it has refused them, and the sessions are of no
 * use.
 */
static int drop_future(struct engine *e, struct peer *p)
{
    int r = 0;
    if (p->highest_session <= e->now + SESSION_AHEAD_MS)
        return 0;
    while (r == 0 && p->n_sessions && p->sessions[0].number > e->now + SESSION_AHEAD_MS) {
        struct session *s;
        r = session_active(e, p, &s);
        if (r < 0 || ratchet_received(s->ratchet))
            return r;
        r = session_remove(e, p, 0);
    }
    if (r == 0) {
        p->highest_session = p->n_sessions ? p->sessions[0].number : 0;
        peer_touch(e, p);
    }
    return r;
}

static int initiate(struct engine *e, struct peer *p, const struct bundle *bundle)
{
    struct ratchet *ratchet;
    uint64_t number;
    int r = drop_future(e, p);
    if (r < 0)
        return r;
    number = e->now > p->highest_session ? e->now : p->highest_session + 1;
    r = ratchet_initiate(e->id, &p->contact->device, bundle, number, e->now, &e->rng, &ratchet);
    if (r)
        return r < 0 ? r : claim_failed(e, p, "the contact's keys are unusable");
    return opened(e, p, ratchet);
}

int session_bundle(struct engine *e, struct peer *p, const struct relay_bundle *b)
{
    struct bundle bundle;
    struct session *s;
    int r = session_active(e, p, &s);
    if (r < 0)
        return r;
    p->claiming = false;
    /* The peer was first, and its session serves as well. */
    if (r == 0 && !p->reset_wanted && !exhausted(s, SESSION_WINDOW))
        return 0;
    if (!b->found)
        return claim_failed(e, p, "the relay has no prekeys of the contact");
    r = bundle_verify(&p->contact->device, b->signed_prekey, b->one_time, e->now, &bundle);
    if (r)
        return r < 0 ? r : claim_failed(e, p, bundle_problem(r));
    return initiate(e, p, &bundle);
}
