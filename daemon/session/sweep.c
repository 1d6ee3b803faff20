/* Records whose time is over, a few at a time. */
#include <errno.h>
#include <string.h>

#include "state.h"

#define SWEEP_EVERY_MS (30 * SECOND_MS)
#define SWEEP_CHUNK 500u
#define SWEEP_PEERS 16u

/* Where a record keeps its time, and how long it lives. */
static const struct sweep_rule {
    enum map_id map;
    size_t time_at;
    uint64_t lives_ms;
} rules[] = {
        {MAP_SEEN, ADDRESS_KEY_LEN + MESSAGE_ID_LEN + 1, DEDUPE_MS}, {MAP_ID, 0, DEDUPE_MS},
        {MAP_DONE, 1 + ADDRESS_KEY_LEN + 1 + 16 + 8, DONE_MS}, {MAP_EK, 0, EK_MS},
        {MAP_PEER, 0, 0}, /* not records, but what they know of sessions and gaps */
};
_Static_assert(ARRAY_SIZE(rules) == SWEEP_MAPS, "engine.sweep_key");

struct sweeping {
    uint64_t now;
    const struct sweep_rule *rule;
    size_t visited, n;
    uint8_t last[PORT_MAX_KEY];
    size_t last_len;
    size_t len[SWEEP_CHUNK];
    uint8_t key[SWEEP_CHUNK][PORT_MAX_KEY];
};

static int sweep_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct sweeping *s = ctx;
    struct cursor c;
    uint64_t time_ms;
    if (s->rule->map == MAP_PEER) {
        memcpy(s->last, key, key_len);
        s->last_len = key_len;
        memcpy(s->key[s->n], key, key_len);
        s->len[s->n++] = key_len;
        return ++s->visited == SWEEP_PEERS;
    }
    cursor_init(&c, value, n);
    (void)cursor_take(&c, s->rule->time_at);
    time_ms = cursor_u64(&c);
    memcpy(s->last, key, key_len);
    s->last_len = key_len;
    if (cursor_status(&c) == WIRE_OK && s->now > time_ms && s->now - time_ms > s->rule->lives_ms) {
        memcpy(s->key[s->n], key, key_len);
        s->len[s->n++] = key_len;
    }
    return ++s->visited == SWEEP_CHUNK;
}

static int sweep_peer(struct engine *e, const uint8_t *key, size_t n)
{
    struct contact *c = n == ADDRESS_KEY_LEN ? contact_find(e, key) : NULL;
    struct cursor cur;
    struct peer *p;
    int r;
    if (!c)
        return 0;
    cursor_init(&cur, key + UID_LEN, 4);
    r = peer_get(e, c, cursor_u32be(&cur), &p);
    return r < 0 ? r : sessions_expire(e, p);
}

static int sweep_found(struct engine *e, struct sweeping *s)
{
    int r = 0;
    for (size_t k = 0; r >= 0 && k < s->n; k++)
        r = s->rule->map == MAP_PEER ? sweep_peer(e, s->key[k], s->len[k])
                                     : e->port.del(e->port.ctx, (uint8_t)s->rule->map, s->key[k], s->len[k]);
    return r;
}

int sweep_tick(struct engine *e)
{
    unsigned i = e->sweep_map;
    struct sweeping *s;
    bool more;
    int r;
    /* Nothing is deleted by a clock that nobody has confirmed. */
    if (e->conn != CONN_ONLINE || elapsed(e->now, e->sweep_ms) < SWEEP_EVERY_MS)
        return 0;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->now = e->now;
    s->rule = &rules[i];
    r = e->port.scan(
            e->port.ctx, (uint8_t)s->rule->map, e->sweep_key[i], e->sweep_key_len[i], 0, sweep_visit, s);
    if (r >= 0)
        r = sweep_found(e, s);
    more = s->visited == (s->rule->map == MAP_PEER ? SWEEP_PEERS : SWEEP_CHUNK);
    e->sweep_key_len[i] = more ? s->last_len : 0;
    memcpy(e->sweep_key[i], s->last, sizeof(s->last));
    /* A map is swept to its end, a chunk each tick, and then rests: so no rate of records outgrows it. */
    e->sweep_ms = more ? 0 : e->now;
    if (!more)
        e->sweep_map = (i + 1) % ARRAY_SIZE(rules);
    free(s);
    return r < 0 ? r : 0;
}
