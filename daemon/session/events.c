#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define PRUNE_CHUNK 2000u

static const char *const type_names[EV_COUNT] = {"connected", "disconnected", "error", "message",
        "message_ack", "key_changed", "session_reset", "raw", "gap"};

/* The bit of a type in the subscribers' sets: its place in api_events. */
static uint8_t type_bit(enum event_type type)
{
    const struct api_event *ev = api_find_event(type_names[type], strlen(type_names[type]));
    return ev ? (uint8_t)(ev - api_events) : 63;
}

static void seq_key(uint64_t seq, uint8_t ret_key[8])
{
    for (unsigned i = 0; i < 8; i++)
        ret_key[i] = (uint8_t)(seq >> (56 - 8 * i));
}

static uint64_t seq_of(const uint8_t key[8])
{
    uint64_t seq = 0;
    for (unsigned i = 0; i < 8; i++)
        seq = seq << 8 | key[i];
    return seq;
}

static void put_head(struct mp_map *map, struct buf *b, uint64_t seq, enum event_type type, uint64_t time_ms)
{
    mp_map_begin(map, b);
    mp_put_uint(mp_key(map, "seq"), seq);
    mp_put_str(mp_key(map, "type"), type_names[type]);
    mp_put_uint(mp_key(map, "time"), time_ms);
}

struct buf *event_begin(struct engine *e, enum event_type type, struct mp_map *ret_map)
{
    buf_reset(&e->scratch);
    buf_u8(&e->scratch, type_bit(type));
    put_head(ret_map, &e->scratch, e->last_seq + 1, type, e->now);
    return &e->scratch;
}

int event_end(struct engine *e, struct mp_map *map)
{
    uint8_t key[8];
    int r;
    mp_map_end(map);
    seq_key(e->last_seq + 1, key);
    r = record_put(e, MAP_EVENT, key, sizeof(key), &e->scratch);
    if (r < 0)
        return r;
    e->last_seq++;
    if (!e->first_seq)
        e->first_seq = 1;
    return 0;
}

static struct error_budget *budget_of(struct engine *e, const char *code)
{
    size_t i = 0;
    while (i < MAX_ERROR_CODES - 1 && e->budgets[i].code && strcmp(e->budgets[i].code, code) != 0)
        i++;
    e->budgets[i].code = code;
    return &e->budgets[i];
}

static bool budget_take(const struct engine *e, struct error_budget *b, uint32_t max)
{
    if (elapsed(e->now, b->window_ms) >= MINUTE_MS) {
        b->window_ms = e->now;
        b->n = 0;
    }
    if (b->n < max) {
        b->n++;
        return true;
    }
    b->swallowed++;
    return false;
}

/* Text frames: what ours bring back, and a few more. A relay must not be able to push messages out of the log
 * with them. */
int event_raw(struct engine *e, const void *p, size_t n)
{
    struct mp_map m;
    if (e->raw_answers)
        e->raw_answers--;
    else if (!budget_take(e, &e->raw_budget, MAX_RAW_EVENTS_MINUTE))
        return 0;
    (void)event_begin(e, EV_RAW, &m);
    mp_put_strn(mp_key(&m, "text"), p, n);
    return event_end(e, &m);
}

/* What a contact causes is always told: it could fill the log with messages as well. */
int event_error(struct engine *e, const char *code, const struct contact *from, const char *fmt, ...)
{
    char text[API_MAX_TEXT], label[UID_TEXT_LEN + 1];
    struct mp_map m;
    va_list ap;
    struct error_budget *budget = from ? NULL : budget_of(e, code);
    if (budget && !budget_take(e, budget, MAX_ERROR_EVENTS_MINUTE))
        return 0;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    (void)event_begin(e, EV_ERROR, &m);
    mp_put_str(mp_key(&m, "code"), code);
    mp_put_str(mp_key(&m, "text"), text);
    if (from)
        mp_put_str(mp_key(&m, "from"), contact_label(from, label));
    if (budget && budget->swallowed)
        mp_put_uint(mp_key(&m, "suppressed"), budget->swallowed);
    if (budget)
        budget->swallowed = 0;
    return event_end(e, &m);
}

static int first_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    (void)value;
    (void)n;
    if (key_len == 8)
        *(uint64_t *)ctx = seq_of(key);
    return 1;
}

int events_load(struct engine *e)
{
    uint8_t key[PORT_MAX_KEY];
    size_t n;
    int r = e->port.last(e->port.ctx, MAP_EVENT, key, &n);
    if (r < 0)
        return r;
    if (r == PORT_NOT_FOUND)
        return 0;
    if (n != 8)
        return -EBADMSG;
    e->last_seq = seq_of(key);
    r = e->port.scan(e->port.ctx, MAP_EVENT, "", 0, 0, first_visit, &e->first_seq);
    return r < 0 ? r : 0;
}

int events_prune(struct engine *e)
{
    uint64_t max = e->cfg.max_events ? e->cfg.max_events : DEFAULT_MAX_EVENTS;
    for (unsigned i = 0; i < PRUNE_CHUNK && e->first_seq && e->last_seq - e->first_seq + 1 > max; i++) {
        uint8_t key[8];
        int r;
        seq_key(e->first_seq, key);
        r = e->port.del(e->port.ctx, MAP_EVENT, key, sizeof(key));
        if (r < 0)
            return r;
        e->first_seq++;
    }
    return 0;
}

uint64_t engine_last_seq(const struct engine *e)
{
    return e->last_seq;
}

uint64_t engine_first_seq(const struct engine *e)
{
    return e->first_seq;
}

struct reading {
    uint64_t types, next;
    engine_event_sink sink;
    void *ctx;
};

static int read_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct reading *rd = ctx;
    if (key_len != 8 || n < 2 || value[0] > 63)
        return -EBADMSG;
    if ((rd->types >> value[0] & 1) && rd->sink(rd->ctx, seq_of(key), value + 1, n - 1))
        return 1;
    rd->next = seq_of(key);
    return 0;
}

/* Retention has passed the reader by: one event that is not in the log says so. */
static int read_gap(struct engine *e, uint64_t after, struct reading *rd)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    uint64_t to = e->first_seq - 1;
    buf_init(&b, 256);
    put_head(&m, &b, to, EV_GAP, e->now);
    mp_put_uint(mp_key(&m, "from"), after + 1);
    mp_put_uint(mp_key(&m, "to"), to);
    mp_map_end(&m);
    if (buf_status(&b) < 0)
        return buf_status(&b);
    if (rd->sink(rd->ctx, to, b.data, b.len))
        return 1;
    rd->next = to;
    return 0;
}

int engine_read_events(struct engine *e, uint64_t after, uint64_t types, engine_event_sink sink, void *ctx,
        uint64_t *ret_next)
{
    struct reading rd = {.types = types, .next = after, .sink = sink, .ctx = ctx};
    uint8_t key[8];
    int r = 0;
    if (after < e->last_seq) {
        if (after + 1 < e->first_seq)
            r = read_gap(e, after, &rd);
        seq_key(rd.next + 1, key);
        if (r == 0)
            r = e->port.scan(e->port.ctx, MAP_EVENT, key, sizeof(key), 0, read_visit, &rd);
    }
    if (r < 0)
        return r;
    *ret_next = rd.next;
    return 0;
}

int engine_consumer_get(struct engine *e, const char *name, uint64_t *ret_seq)
{
    int r = e->port.get(e->port.ctx, MAP_CONSUMER, name, strlen(name), &e->scratch);
    if (r < 0)
        return r;
    if (r == 0 && e->scratch.len != 8)
        return -EBADMSG;
    *ret_seq = r == 0 ? seq_of(e->scratch.data) : 0;
    return 0;
}

static int count_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    (void)key;
    (void)key_len;
    (void)value;
    (void)n;
    return ++*(size_t *)ctx >= ENGINE_MAX_CONSUMERS;
}

int engine_consumer_ack(struct engine *e, const char *name, uint64_t seq)
{
    uint64_t at;
    uint8_t key[8];
    size_t n = 0;
    int r = engine_consumer_get(e, name, &at);
    if (r < 0 || seq <= at)
        return r;
    if (!at && (r = e->port.scan(e->port.ctx, MAP_CONSUMER, "", 0, 0, count_visit, &n)) != 0)
        return r < 0 ? r : -EDQUOT;
    seq_key(seq, key);
    return e->port.put(e->port.ctx, MAP_CONSUMER, name, strlen(name), key, sizeof(key));
}
