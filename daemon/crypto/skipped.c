#include <errno.h>
#include <string.h>

#include "skipped.h"

#define FIRST_CAP 32u
/* A batch stands behind a full store before the oldest keys go. */
#define MAX_CAP (2u * RATCHET_MAX_SKIPPED)

static bool is_expired(const struct skipped_key *key, uint64_t now_ms)
{
    return now_ms > key->time_ms && now_ms - key->time_ms > RATCHET_SKIPPED_MS;
}

static bool same_chain(const struct skipped_chain *chain, const uint8_t tag[ROUTE_TAG_LEN])
{
    return sodium_memcmp(chain->id.tag, tag, ROUTE_TAG_LEN) == 0;
}

static void release(struct skipped *s)
{
    sodium_free(s->key); /* wipes; accepts NULL */
    s->key = NULL;
    s->cap = 0;
}

void skipped_done(struct skipped *s)
{
    release(s);
    sodium_memzero(s, sizeof(*s));
}

const struct skipped_chain *skipped_chain_find(const struct skipped *s, const uint8_t tag[ROUTE_TAG_LEN])
{
    for (uint32_t i = 0; i < s->chains; i++)
        if (same_chain(&s->chain[i], tag))
            return &s->chain[i];
    return NULL;
}

static uint32_t first_key(const struct skipped *s, const struct skipped_chain *chain)
{
    uint32_t at = 0;
    for (const struct skipped_chain *c = s->chain; c < chain; c++)
        at += c->count;
    return at;
}

const struct skipped_key *skipped_find(
        const struct skipped *s, const struct skipped_chain *chain, uint32_t index, uint64_t now_ms)
{
    uint32_t low = first_key(s, chain), high = low + chain->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->key[middle].index == index)
            return is_expired(&s->key[middle], now_ms) ? NULL : &s->key[middle];
        if (s->key[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* `behind` keys stand staged behind the stored ones and move with them. */
static void cut_keys(struct skipped *s, uint32_t at, uint32_t n, uint32_t behind)
{
    uint32_t end = s->count + behind;
    memmove(&s->key[at], &s->key[at + n], (end - at - n) * sizeof(s->key[0]));
    sodium_memzero(&s->key[end - n], n * sizeof(s->key[0]));
    s->count -= n;
}

static void cut_chain(struct skipped *s, uint32_t at)
{
    memmove(&s->chain[at], &s->chain[at + 1], (s->chains - at - 1) * sizeof(s->chain[0]));
    s->chains--;
    sodium_memzero(&s->chain[s->chains], sizeof(s->chain[0]));
}

static void release_if_empty(struct skipped *s)
{
    if (s->count == 0 && s->cap > FIRST_CAP)
        release(s);
}

void skipped_remove(struct skipped *s, const struct skipped_key *key)
{
    uint32_t at = (uint32_t)(key - s->key), i = 0;
    for (uint32_t before = s->chain[0].count; before <= at; before += s->chain[i].count)
        i++;
    cut_keys(s, at, 1, 0);
    if (--s->chain[i].count == 0)
        cut_chain(s, i);
    release_if_empty(s);
}

static bool drop_expired(struct skipped *s, uint64_t now_ms, uint32_t behind)
{
    uint32_t before = s->count, at = 0;
    for (uint32_t i = 0; i < s->chains;) {
        for (uint32_t left = s->chain[i].count; left > 0; left--) {
            if (is_expired(&s->key[at], now_ms)) {
                cut_keys(s, at, 1, behind);
                s->chain[i].count--;
            } else {
                at++;
            }
        }
        if (s->chain[i].count == 0)
            cut_chain(s, i);
        else
            i++;
    }
    return s->count != before;
}

bool skipped_expire(struct skipped *s, uint64_t now_ms)
{
    bool any = drop_expired(s, now_ms, 0);
    release_if_empty(s);
    return any;
}

/* How many keys each chain keeps at now_ms; chains that keep none are left out. *ret_tail: the last is
 * `current`. */
static uint32_t survivors(const struct skipped *s, const struct skipped_batch *batch, uint64_t now_ms,
        uint32_t ret_counts[RATCHET_MAX_CHAINS], bool *ret_tail)
{
    uint32_t chains = 0, at = 0;
    *ret_tail = false;
    for (uint32_t i = 0; i < s->chains; i++) {
        uint32_t n = 0;
        for (uint32_t left = s->chain[i].count; left > 0; left--)
            n += !is_expired(&s->key[at++], now_ms);
        if (n == 0)
            continue;
        ret_counts[chains++] = n;
        *ret_tail = batch->current && same_chain(&s->chain[i], batch->current->tag);
    }
    return chains;
}

bool skipped_fits(const struct skipped *s, const struct skipped_batch *batch, uint64_t now_ms)
{
    uint32_t counts[RATCHET_MAX_CHAINS + 2], total = 0, first;
    bool tail;
    uint32_t chains = survivors(s, batch, now_ms, counts, &tail);
    if (batch->of_current > 0 && tail)
        counts[chains - 1] += batch->of_current;
    else if (batch->of_current > 0)
        counts[chains++] = batch->of_current;
    if (batch->of_next > 0)
        counts[chains++] = batch->of_next;
    first = chains > RATCHET_MAX_CHAINS ? chains - RATCHET_MAX_CHAINS : 0;
    for (uint32_t i = first; i < chains; i++)
        total += counts[i];
    return total <= RATCHET_MAX_SKIPPED;
}

int skipped_reserve(struct skipped *s, const struct skipped_batch *batch)
{
    uint32_t need = s->count + batch->of_current + batch->of_next, cap = s->cap;
    struct skipped_key *key;

    if (need <= cap)
        return 0;
    if (need > MAX_CAP)
        return -ENOMEM;
    for (cap = cap ? cap : FIRST_CAP; cap < need;)
        cap *= 2;
    key = sodium_allocarray(cap, sizeof(*key));
    if (!key)
        return -ENOMEM;
    sodium_memzero(key, cap * sizeof(*key));
    if (s->count > 0)
        memcpy(key, s->key, s->count * sizeof(*key));
    sodium_free(s->key);
    s->key = key;
    s->cap = cap;
    return 0;
}

struct skipped_key *skipped_staged(struct skipped *s)
{
    return s->key + s->count;
}

static void drop_oldest_chain(struct skipped *s, uint32_t behind)
{
    cut_keys(s, 0, s->chain[0].count, behind);
    cut_chain(s, 0);
}

/* Counts the next n staged keys as the chain's; `behind` more follow them. */
static void adopt(struct skipped *s, const struct chain_id *id, uint32_t n, uint32_t behind)
{
    bool known = s->chains > 0 && same_chain(&s->chain[s->chains - 1], id->tag);
    if (n == 0)
        return;
    if (!known) {
        if (s->chains == RATCHET_MAX_CHAINS)
            drop_oldest_chain(s, n + behind);
        s->chain[s->chains++] = (struct skipped_chain){.id = *id};
    }
    s->chain[s->chains - 1].count += n;
    s->count += n;
}

void skipped_commit(struct skipped *s, const struct skipped_batch *batch, uint64_t now_ms)
{
    uint32_t n = batch->of_current + batch->of_next;
    struct skipped_key *staged = skipped_staged(s);
    for (uint32_t i = 0; i < n; i++)
        staged[i].time_ms = now_ms;
    (void)drop_expired(s, now_ms, n);
    adopt(s, batch->current, batch->of_current, batch->of_next);
    adopt(s, batch->next, batch->of_next, 0);
}

void skipped_abandon(struct skipped *s, const struct skipped_batch *batch)
{
    size_t n = batch->of_current + batch->of_next;
    if (n > 0 && s->key)
        sodium_memzero(skipped_staged(s), n * sizeof(s->key[0]));
    release_if_empty(s);
}

void skipped_save(const struct skipped *s, struct buf *secret)
{
    const struct skipped_key *key = s->key;
    buf_u8(secret, (uint8_t)s->chains);
    for (uint32_t i = 0; i < s->chains; i++) {
        buf_bytes(secret, s->chain[i].id.tag, ROUTE_TAG_LEN);
        buf_bytes(secret, s->chain[i].id.hk, KEY_LEN);
        buf_u32(secret, s->chain[i].count);
        for (uint32_t left = s->chain[i].count; left > 0; left--, key++) {
            buf_u32(secret, key->index);
            buf_u64(secret, key->time_ms);
            buf_bytes(secret, key->mk, KEY_LEN);
        }
    }
}

static int load_keys(struct cursor *c, struct skipped *s, const struct skipped_batch *batch)
{
    struct skipped_key *key;
    int status = skipped_reserve(s, batch);
    if (status)
        return status;
    key = skipped_staged(s);
    for (uint32_t i = 0; i < batch->of_next; i++) {
        key[i].index = cursor_u32(c);
        key[i].time_ms = cursor_u64(c);
        cursor_copy(c, key[i].mk, KEY_LEN);
        if (i > 0 && key[i].index <= key[i - 1].index)
            cursor_fail(c);
    }
    if (cursor_status(c) != WIRE_OK)
        return RATCHET_MALFORMED;
    adopt(s, batch->next, batch->of_next, 0);
    return 0;
}

static int load_chain(struct cursor *c, struct skipped *s)
{
    struct chain_id id;
    struct skipped_batch batch = {.next = &id};
    int status;

    cursor_copy(c, id.tag, sizeof(id.tag));
    cursor_copy(c, id.hk, sizeof(id.hk));
    batch.of_next = cursor_u32(c);
    if (batch.of_next == 0 || batch.of_next > RATCHET_MAX_SKIPPED - s->count || skipped_chain_find(s, id.tag))
        cursor_fail(c);
    status = cursor_status(c) == WIRE_OK ? load_keys(c, s, &batch) : RATCHET_MALFORMED;
    sodium_memzero(&id, sizeof(id));
    return status;
}

int skipped_load(struct cursor *c, struct skipped *s)
{
    uint8_t chains = cursor_u8(c);
    int status = chains <= RATCHET_MAX_CHAINS ? 0 : RATCHET_MALFORMED;
    for (uint8_t i = 0; status == 0 && i < chains; i++)
        status = load_chain(c, s);
    return status;
}
