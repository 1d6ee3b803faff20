/* Records whose time is over, a few at a time. */
#include <errno.h>
#include <string.h>

#include "state.h"

#define SWEEP_EVERY_MS (30 * SECOND_MS)
#define SWEEP_CHUNK 500u

/* Where a record keeps its time, and how long it lives. */
static const struct sweep_rule {
    enum map_id map;
    size_t time_at;
    uint64_t lives_ms;
} rules[] = {
        {MAP_SEEN, ADDRESS_KEY_LEN + MESSAGE_ID_LEN + 1, DEDUPE_MS},
        {MAP_ID, 0, DEDUPE_MS},
        {MAP_DONE, 1 + ADDRESS_KEY_LEN + 1 + 16 + 8, DONE_MS},
        {MAP_EK, 0, EK_MS},
};

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

int sweep_tick(struct engine *e)
{
    unsigned i = e->sweep_map;
    struct sweeping *s;
    int r;
    if (e->now - e->sweep_ms < SWEEP_EVERY_MS)
        return 0;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    e->sweep_ms = e->now;
    s->now = e->now;
    s->rule = &rules[i];
    r = e->port.scan(e->port.ctx, (uint8_t)s->rule->map, e->sweep_key[i], e->sweep_key_len[i], 0, sweep_visit, s);
    for (size_t k = 0; r >= 0 && k < s->n; k++)
        r = e->port.del(e->port.ctx, (uint8_t)s->rule->map, s->key[k], s->len[k]);
    e->sweep_key_len[i] = s->visited == SWEEP_CHUNK ? s->last_len : 0;
    memcpy(e->sweep_key[i], s->last, sizeof(s->last));
    e->sweep_map = (i + 1) % ARRAY_SIZE(rules);
    free(s);
    return r < 0 ? r : 0;
}
