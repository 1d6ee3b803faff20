#include "ratelimit.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define WAYS 8u
#define MICRO UINT64_C(1000000)

static void refill(struct bucket *b, const struct limit *l, uint64_t now_ms)
{
    uint64_t full = l->burst * MICRO, gained;

    if (b->at_ms == 0) {
        b->microtokens = full;
    } else if (now_ms > b->at_ms) {
        uint64_t ms = now_ms - b->at_ms;

        gained = ms > full * 1000 / l->rate + 1 ? full : ms * l->rate / 1000;
        /* Fractions of a token that a quick caller would lose stay in the time. */
        if (gained == 0)
            return;
        b->microtokens = b->microtokens + gained > full ? full : b->microtokens + gained;
    }
    b->at_ms = now_ms > 0 ? now_ms : 1;
}

uint32_t bucket_take(struct bucket *b, const struct limit *l, uint64_t n, uint64_t now_ms)
{
    uint64_t need = n * MICRO, full = l->burst * MICRO, wait;

    if (l->rate == 0)
        return 0;
    refill(b, l, now_ms);
    if (need > full)
        need = full;
    if (b->microtokens >= need) {
        b->microtokens -= need;
        return 0;
    }
    wait = ((need - b->microtokens) * 1000 + l->rate - 1) / l->rate;
    return wait > UINT32_MAX ? UINT32_MAX : (uint32_t)wait;
}

struct slot {
    uint8_t key[crypto_shorthash_siphashx24_BYTES];
    uint64_t used; /* the table's count at the last use; 0: free */
    struct bucket bucket;
};

struct bucket_table {
    uint8_t hash_key[crypto_shorthash_siphashx24_KEYBYTES];
    size_t sets;
    uint64_t uses;
    struct slot slot[];
};

struct bucket_table *bucket_table_new(size_t max)
{
    size_t sets = max / WAYS > 0 ? max / WAYS : 1;
    struct bucket_table *t = calloc(1, sizeof(*t) + sets * WAYS * sizeof(t->slot[0]));

    if (!t)
        return NULL;
    t->sets = sets;
    randombytes_buf(t->hash_key, sizeof(t->hash_key));
    return t;
}

void bucket_table_free(struct bucket_table *t)
{
    free(t);
}

struct bucket *bucket_table_get(struct bucket_table *t, const void *key, size_t key_len)
{
    struct slot *set, *oldest;
    uint8_t hash[crypto_shorthash_siphashx24_BYTES];
    uint64_t h;

    crypto_shorthash_siphashx24(hash, key, key_len, t->hash_key);
    memcpy(&h, hash, sizeof(h));
    set = oldest = &t->slot[h % t->sets * WAYS];
    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].used && memcmp(set[i].key, hash, sizeof(hash)) == 0) {
            set[i].used = ++t->uses;
            return &set[i].bucket;
        }
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    *oldest = (struct slot){.used = ++t->uses};
    memcpy(oldest->key, hash, sizeof(hash));
    return &oldest->bucket;
}

uint32_t bucket_table_take(struct bucket_table *t, const struct limit *l, const void *key, size_t key_len,
        uint64_t n, uint64_t now_ms)
{
    return l->rate == 0 ? 0 : bucket_take(bucket_table_get(t, key, key_len), l, n, now_ms);
}
