/* Prekeys: made, uploaded, found, deleted. */
#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "state.h"

#define PREKEY_KEY_LEN 5u
#define PREKEY_HEAD_LEN 16u /* made, superseded */
#define MAX_SIGNED 32u

static void prekey_key(bool one_time, uint32_t id, uint8_t ret_key[PREKEY_KEY_LEN])
{
    ret_key[0] = one_time;
    for (unsigned i = 0; i < 4; i++)
        ret_key[1 + i] = (uint8_t)(id >> (24 - 8 * i));
}

static int prekey_store(struct engine *e, const struct prekey_secret *k, uint64_t made_ms, uint64_t superseded_ms)
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

/* The signed prekeys that we still have the private part of, oldest first. */
struct signed_list {
    size_t n;
    struct {
        uint32_t id;
        uint64_t made_ms, superseded_ms;
    } key[MAX_SIGNED];
};

static int signed_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct signed_list *l = ctx;
    struct cursor c;
    if (key_len != PREKEY_KEY_LEN || n < PREKEY_HEAD_LEN)
        return -EBADMSG;
    cursor_init(&c, key + 1, 4);
    l->key[l->n].id = cursor_u32be(&c);
    cursor_init(&c, value, n);
    l->key[l->n].made_ms = cursor_u64(&c);
    l->key[l->n].superseded_ms = cursor_u64(&c);
    return ++l->n == MAX_SIGNED;
}

static int signed_scan(struct engine *e, struct signed_list *ret_list)
{
    static const uint8_t from[1] = {0};
    int r;
    ret_list->n = 0;
    r = e->port.scan(e->port.ctx, MAP_PREKEY, from, 1, 1, signed_visit, ret_list);
    return r < 0 ? r : 0;
}

static int supersede(struct engine *e, uint32_t id, uint64_t made_ms, struct prekey_secret *k)
{
    int r = prekey_find(e, false, id, k);
    if (r)
        return r < 0 ? r : -EBADMSG;
    return prekey_store(e, k, made_ms, e->now);
}

/* A new signed prekey if it is time, or the relay has not got ours. */
static int rotate(struct engine *e, uint32_t relay_id, struct prekey_secret *k, struct buf *record)
{
    struct signed_list l;
    int r = signed_scan(e, &l);
    if (r < 0)
        return r;
    if (l.n) {
        bool fresh = e->now - l.key[l.n - 1].made_ms < PREKEY_ROTATE_MS;
        if (fresh && (!relay_id || relay_id == l.key[l.n - 1].id))
            return 0;
        if ((r = supersede(e, l.key[l.n - 1].id, l.key[l.n - 1].made_ms, k)) < 0)
            return r;
    }
    r = prekey_make_signed(e->id, e->next_prekey_id++, e->now, &e->rng, k, record);
    return r == 0 ? prekey_store(e, k, e->now, 0) : r;
}

static int upload(struct engine *e, const struct relay_put_prekeys *m)
{
    CLEANUP_BUF struct buf b = {0};
    struct request rq = {.kind = REQ_PREKEYS, .ref = relay_next_ref(e)};
    int r;
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_prekeys(&b, rq.ref, m);
    r = relay_request(e, &rq, &b);
    return r < 0 ? r : 0;
}

static int make_batch(struct engine *e, struct relay_put_prekeys *m, uint32_t *missing, struct prekey_secret *k, struct buf *records)
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

static int replenish(struct engine *e, uint32_t relay_id, struct prekey_secret *k)
{
    CLEANUP_BUF struct buf record = {0};
    CLEANUP_FREE struct relay_put_prekeys *m = calloc(1, sizeof(*m));
    uint32_t missing = e->relay_one_time < ONE_TIME_LOW ? ONE_TIME_TARGET - e->relay_one_time : 0;
    int r;
    if (!m)
        return -ENOMEM;
    buf_init(&record, RELAY_MAX_PREKEY);
    r = rotate(e, relay_id, k, &record);
    m->signed_prekey = (struct span){.p = record.data, .n = record.len};
    while (r == 0 && (m->signed_prekey.n || missing)) {
        CLEANUP_BUF struct buf records = {0};
        buf_init(&records, RELAY_MAX_PREKEYS * RELAY_MAX_PREKEY);
        r = make_batch(e, m, &missing, k, &records);
        if (r == 0)
            r = upload(e, m);
        m->signed_prekey.n = 0;
    }
    if (r == 0 && e->relay_one_time < ONE_TIME_LOW)
        e->relay_one_time = ONE_TIME_TARGET;
    return r;
}

int prekeys_upkeep(struct engine *e, uint32_t relay_signed_id)
{
    struct prekey_secret *k = sodium_malloc(sizeof(*k));
    int r;
    if (!k)
        return -ENOMEM;
    e->upkeep_ms = e->now;
    r = replenish(e, relay_signed_id, k);
    sodium_free(k);
    if (r == 0)
        r = prekeys_sweep(e);
    return r == 0 ? meta_store(e) : r;
}

static bool prekey_over(const struct engine *e, uint64_t made_ms, uint64_t superseded_ms)
{
    if (!superseded_ms)
        return false;
    return e->now - made_ms > PREKEY_VALID_MS || (e->now - superseded_ms > PREKEY_LINGER_MS && e->drained_ms > superseded_ms);
}

int prekeys_sweep(struct engine *e)
{
    struct signed_list l;
    int r = signed_scan(e, &l);
    for (size_t i = 0; r == 0 && i < l.n; i++) {
        uint8_t key[PREKEY_KEY_LEN];
        if (!prekey_over(e, l.key[i].made_ms, l.key[i].superseded_ms))
            continue;
        prekey_key(false, l.key[i].id, key);
        r = e->port.del(e->port.ctx, MAP_PREKEY, key, sizeof(key));
    }
    return r;
}
