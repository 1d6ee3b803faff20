/* Prekeys: made, uploaded, found, deleted. */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "state.h"

#define PREKEY_KEY_LEN 5u
#define PREKEY_HEAD_LEN 16u /* made, superseded */
#define MAX_SWEEP 64u
#define MAX_ONE_TIME 2000u
#define MAX_ONE_TIME_FREE 300u /* from here on one batch an hour */
#define BATCH_EVERY_MS HOUR_MS
#define ONE_TIME_REPLACE_MS (30 * DAY_MS)
#define ONE_TIME_KEEP_MS                                                                                     \
    (62 * DAY_MS) /* as long at the relay, and as long again in an envelope under way                        \
                   */

static const char record_key[] = "signed prekey"; /* in MAP_META: id, made, what the relay shows */

static void prekey_key(bool one_time, uint32_t id, uint8_t ret_key[PREKEY_KEY_LEN])
{
    ret_key[0] = one_time;
    for (unsigned i = 0; i < 4; i++)
        ret_key[1 + i] = (uint8_t)(id >> (24 - 8 * i));
}

static int prekey_store(
        struct engine *e, const struct prekey_secret *k, uint64_t made_ms, uint64_t superseded_ms)
{
    uint8_t key[PREKEY_KEY_LEN];
    prekey_key(k->one_time, k->id, key);
    buf_reset(&e->plain);
    buf_u64(&e->plain, made_ms);
    buf_u64(&e->plain, superseded_ms);
    prekey_save(k, &e->plain);
    return record_put(e, MAP_PREKEY, key, sizeof(key), &e->plain);
}

int prekey_find(struct engine *e, bool one_time, uint32_t id, struct prekey_secret *ret_secret)
{
    uint8_t key[PREKEY_KEY_LEN];
    int r;
    prekey_key(one_time, id, key);
    r = e->port.get(e->port.ctx, MAP_PREKEY, key, sizeof(key), &e->plain);
    if (r)
        return r;
    if (e->plain.len < PREKEY_HEAD_LEN)
        return -EBADMSG;
    r = prekey_load(e->plain.data + PREKEY_HEAD_LEN, e->plain.len - PREKEY_HEAD_LEN, ret_secret);
    return r > 0 ? -EBADMSG : r;
}

int prekey_used(struct engine *e, uint32_t id)
{
    uint8_t key[PREKEY_KEY_LEN];
    prekey_key(true, id, key);
    return e->port.del(e->port.ctx, MAP_PREKEY, key, sizeof(key));
}

/* The signed prekey that the relay ought to show. */
struct current {
    uint32_t id; /* 0: none yet */
    uint64_t made_ms;
};

static int current_load(struct engine *e, struct current *ret, struct buf *record)
{
    struct cursor c;
    int r = e->port.get(e->port.ctx, MAP_META, record_key, sizeof(record_key) - 1, &e->scratch);
    *ret = (struct current){0};
    if (r)
        return r < 0 ? r : 0;
    cursor_init(&c, e->scratch.data, e->scratch.len);
    ret->id = cursor_u32(&c);
    ret->made_ms = cursor_u64(&c);
    if (cursor_status(&c) != WIRE_OK)
        return -EBADMSG;
    buf_bytes(record, c.p, c.left);
    return buf_status(record);
}

static int current_store(struct engine *e, uint32_t id, const struct buf *record)
{
    buf_reset(&e->scratch);
    buf_u32(&e->scratch, id);
    buf_u64(&e->scratch, e->now);
    buf_bytes(&e->scratch, record->data, record->len);
    return record_put(e, MAP_META, record_key, sizeof(record_key) - 1, &e->scratch);
}

static int supersede(struct engine *e, const struct current *old, struct prekey_secret *k)
{
    int r = prekey_find(e, false, old->id, k);
    if (r)
        return r < 0 ? r : -EBADMSG;
    return prekey_store(e, k, old->made_ms, e->now);
}

/* record becomes what the relay is to be given, or stays empty. */
static int rotate(struct engine *e, struct prekey_secret *k, struct buf *record)
{
    struct current old;
    int r = current_load(e, &old, record);
    if (r < 0)
        return r;
    if (old.id && elapsed(e->now, old.made_ms) < PREKEY_ROTATE_MS && old.made_ms <= e->now + PREKEY_SKEW_MS) {
        if (old.id == e->relay_signed_id)
            buf_reset(record);
        return 0;
    }
    buf_reset(record);
    if (old.id && (r = supersede(e, &old, k)) < 0)
        return r;
    r = prekey_make_signed(e->id, e->next_prekey_id++, e->now, &e->rng, k, record);
    if (r == 0)
        r = prekey_store(e, k, e->now, 0);
    if (r == 0)
        r = current_store(e, k->id, record);
    return r;
}

/* 0, or 1: not now. */
static int upload(struct engine *e, const struct relay_put_prekeys *m)
{
    CLEANUP_BUF struct buf b = {0};
    struct request rq = {.kind = REQ_PREKEYS, .ref = relay_next_ref(e)};
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_prekeys(&b, rq.ref, m);
    return relay_request(e, &rq, &b);
}

static int make_batch(struct engine *e, struct relay_put_prekeys *m, uint32_t *missing,
        struct prekey_secret *k, struct buf *records)
{
    size_t end[RELAY_MAX_PREKEYS];
    int r = 0;
    for (m->count = 0; r == 0 && *missing && m->count < RELAY_MAX_PREKEYS; m->count++, --*missing) {
        r = prekey_make_one_time(e->id, e->next_prekey_id++, &e->rng, k, records);
        if (r == 0)
            r = prekey_store(e, k, e->now, 0);
        end[m->count] = records->len;
    }
    for (uint16_t i = 0; r == 0 && i < m->count; i++) {
        size_t start = i ? end[i - 1] : 0;
        m->one_time[i] = (struct span){.p = records->data + start, .n = end[i] - start};
    }
    return r < 0 ? r : buf_status(records);
}

static int send_batches(
        struct engine *e, struct relay_put_prekeys *m, uint32_t missing, struct prekey_secret *k)
{
    int r = 0;
    while (r == 0 && (m->signed_prekey.n || missing)) {
        CLEANUP_BUF struct buf records = {0};
        buf_init(&records, RELAY_MAX_PREKEYS * RELAY_MAX_PREKEY);
        r = make_batch(e, m, &missing, k, &records);
        if (r == 0)
            r = upload(e, m);
        m->signed_prekey.n = 0;
        m->replace = false;
    }
    return r;
}

/* What the sweep finds: keys that are over, the number of one-time keys, the age of the newest. */
struct sweeping {
    const struct engine *e;
    size_t n, one_time;
    uint64_t newest_ms;
    uint8_t key[MAX_SWEEP][PREKEY_KEY_LEN];
};

static bool over(const struct engine *e, bool one_time, uint64_t made_ms, uint64_t superseded_ms)
{
    if (one_time)
        return elapsed(e->now, made_ms) > ONE_TIME_KEEP_MS;
    if (!superseded_ms)
        return false;
    return elapsed(e->now, made_ms) > PREKEY_VALID_MS ||
           (elapsed(e->now, superseded_ms) > PREKEY_LINGER_MS && e->drained_ms > superseded_ms);
}

static int sweep_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct sweeping *w = ctx;
    uint64_t made, superseded;
    struct cursor c;
    if (key_len != PREKEY_KEY_LEN || n < PREKEY_HEAD_LEN)
        return -EBADMSG;
    cursor_init(&c, value, n);
    made = cursor_u64(&c);
    superseded = cursor_u64(&c);
    w->one_time += key[0];
    if (key[0] && made > w->newest_ms)
        w->newest_ms = made;
    if (w->n < MAX_SWEEP && over(w->e, key[0], made, superseded))
        memcpy(w->key[w->n++], key, key_len);
    return 0;
}

struct oldest {
    size_t n, max;
    uint8_t key[MAX_SWEEP][PREKEY_KEY_LEN];
};

static int oldest_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct oldest *o = ctx;
    (void)value;
    (void)n;
    memcpy(o->key[o->n++], key, key_len);
    return o->n == o->max;
}

/* Ids ascend with age, so that the first ones are the oldest. */
static int drop_oldest(struct engine *e, size_t surplus)
{
    static const uint8_t from[1] = {1};
    struct oldest o = {.max = surplus < MAX_SWEEP ? surplus : MAX_SWEEP};
    int r = e->port.scan(e->port.ctx, MAP_PREKEY, from, 1, 1, oldest_visit, &o);
    for (size_t i = 0; r >= 0 && i < o.n; i++)
        r = e->port.del(e->port.ctx, MAP_PREKEY, o.key[i], PREKEY_KEY_LEN);
    return r < 0 ? r : 0;
}

static int sweep_some(struct engine *e, struct sweeping *w)
{
    int r;
    *w = (struct sweeping){.e = e};
    r = e->port.scan(e->port.ctx, MAP_PREKEY, "", 0, 0, sweep_visit, w);
    for (size_t i = 0; r == 0 && i < w->n; i++)
        r = e->port.del(e->port.ctx, MAP_PREKEY, w->key[i], PREKEY_KEY_LEN);
    return r;
}

/* Deletes what is over or surplus; the one-time keys that remain, and the age of the newest. */
static int sweep(struct engine *e, size_t *ret_one_time, uint64_t *ret_newest_ms)
{
    struct sweeping w;
    int r;
    do
        r = sweep_some(e, &w);
    while (r == 0 && w.n);
    while (r == 0 && w.one_time > MAX_ONE_TIME) {
        size_t surplus = w.one_time - MAX_ONE_TIME;
        r = drop_oldest(e, surplus);
        w.one_time -= surplus < MAX_SWEEP ? surplus : MAX_SWEEP;
    }
    *ret_one_time = w.one_time;
    *ret_newest_ms = w.newest_ms;
    return r;
}

/*
 * How many one-time keys to make. The relay says how many are left, and may say so at each connection: what
 * is here already bounds what it gets. The first batches are free, for a relay that lost its disk or an
 * upload.
 */
static uint32_t one_time_due(const struct engine *e, size_t stored, uint64_t newest_ms, bool replace)
{
    size_t room = stored < MAX_ONE_TIME ? MAX_ONE_TIME - stored : 0;
    uint32_t missing = replace                            ? ONE_TIME_TARGET
                       : e->relay_one_time < ONE_TIME_LOW ? ONE_TIME_TARGET - e->relay_one_time
                                                          : 0;
    if (stored >= MAX_ONE_TIME_FREE && newest_ms <= e->now && e->now - newest_ms < BATCH_EVERY_MS)
        return 0;
    return missing < room ? missing : (uint32_t)room;
}

static int replenish(struct engine *e, struct prekey_secret *k)
{
    CLEANUP_BUF struct buf record = {0};
    CLEANUP_FREE struct relay_put_prekeys *m = calloc(1, sizeof(*m));
    uint64_t newest_ms = 0;
    size_t stored = 0;
    uint32_t missing;
    bool replace;
    int r;
    if (!m)
        return -ENOMEM;
    buf_init(&record, RELAY_MAX_PREKEY);
    r = rotate(e, k, &record);
    if (r == 0) /* not before: what it has superseded may have been over for long */
        r = sweep(e, &stored, &newest_ms);
    if (r < 0)
        /* cppcheck-suppress memleak */
        return r; /* NOLINT(clang-analyzer-unix.Malloc): CLEANUP_FREE frees m */
    /* Also where no secret is left of what the relay still shows. */
    replace = stored ? elapsed(e->now, newest_ms) > ONE_TIME_REPLACE_MS : e->relay_one_time > 0;
    missing = one_time_due(e, stored, newest_ms, replace);
    m->replace = replace && missing;
    m->signed_prekey = (struct span){.p = record.data, .n = record.len};
    r = send_batches(e, m, missing, k);
    if (r > 0)
        e->prekeys_wanted = true;
    return r < 0 ? r : 0;
}

int prekeys_upkeep(struct engine *e)
{
    struct prekey_secret *k = sodium_malloc(sizeof(*k));
    int r;
    if (!k)
        return -ENOMEM;
    e->upkeep_ms = e->now;
    e->prekeys_wanted = false;
    r = replenish(e, k);
    sodium_free(k);
    return r == 0 ? meta_store(e) : r;
}
