#include "window.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define MIN_SLOTS 32u

_Static_assert(WINDOW_HASH_KEY_LEN == crypto_shorthash_KEYBYTES, "key of the hash");

static uint64_t hash(const uint8_t *key, const struct envelope_id *id)
{
    uint8_t out[crypto_shorthash_BYTES];
    uint64_t h;

    crypto_shorthash(out, id->b, ENVELOPE_ID_LEN, key);
    memcpy(&h, out, sizeof(h));
    return h;
}

void window_init(struct window *w, const uint8_t *key)
{
    *w = (struct window){.key = key};
}

void window_done(struct window *w)
{
    free(w->slot);
    *w = (struct window){.key = w->key};
}

bool window_has_room(const struct window *w, size_t n)
{
    return w->count < RELAY_WINDOW && w->bytes + n <= RELAY_WINDOW_BYTES;
}

/* The id's slot, or the free one where it would go. The table is never full. */
static uint32_t probe(const struct window *w, const struct envelope_id *id)
{
    uint32_t i = (uint32_t)hash(w->key, id) & (w->slots - 1);

    while (w->slot[i].used && memcmp(w->slot[i].id.b, id->b, ENVELOPE_ID_LEN) != 0)
        i = (i + 1) & (w->slots - 1);
    return i;
}

static int grow(struct window *w)
{
    struct window bigger = {.key = w->key, .slots = w->slots ? w->slots * 2 : MIN_SLOTS};

    bigger.slot = calloc(bigger.slots, sizeof(*bigger.slot));
    if (!bigger.slot)
        return -ENOMEM;
    for (uint32_t i = 0; i < w->slots; i++) {
        if (w->slot[i].used)
            bigger.slot[probe(&bigger, &w->slot[i].id)] = w->slot[i];
    }
    free(w->slot);
    w->slot = bigger.slot;
    w->slots = bigger.slots;
    return 0;
}

bool window_has(const struct window *w, const struct envelope_id *id)
{
    return w->count > 0 && w->slot[probe(w, id)].used;
}

int window_add(struct window *w, const struct window_entry *e)
{
    uint32_t i;

    if (w->count + 1 > w->slots / 2 && grow(w))
        return -ENOMEM;
    i = probe(w, &e->id);
    w->slot[i] = *e;
    w->slot[i].used = true;
    w->count++;
    w->bytes += e->bytes;
    return 0;
}

/* Linear probing without gravestones: what follows moves up where it may. */
static void close_gap(struct window *w, uint32_t gap)
{
    uint32_t mask = w->slots - 1;

    for (uint32_t i = (gap + 1) & mask; w->slot[i].used; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)hash(w->key, &w->slot[i].id) & mask;

        if (((i - home) & mask) < ((i - gap) & mask))
            continue;
        w->slot[gap] = w->slot[i];
        gap = i;
    }
    w->slot[gap].used = false;
}

bool window_take(struct window *w, const struct envelope_id *id, struct window_entry *ret_entry)
{
    uint32_t i;

    if (w->count == 0)
        return false;
    i = probe(w, id);
    if (!w->slot[i].used)
        return false;
    *ret_entry = w->slot[i];
    close_gap(w, i);
    w->count--;
    w->bytes -= ret_entry->bytes;
    if (w->count == 0)
        window_done(w);
    return true;
}

void recent_init(struct recent *r, const uint8_t *key)
{
    *r = (struct recent){.key = key};
}

void recent_done(struct recent *r)
{
    free(r->young.slot);
    free(r->old.slot);
    recent_init(r, r->key);
}

/* Zero marks a free slot. */
static uint64_t fingerprint(const struct recent *r, const struct envelope_id *id)
{
    uint64_t h = hash(r->key, id);

    return h ? h : 1;
}

static uint32_t set_probe(const struct recent_set *s, uint64_t h)
{
    uint32_t i = (uint32_t)h & (s->slots - 1);

    while (s->slot[i] && s->slot[i] != h)
        i = (i + 1) & (s->slots - 1);
    return i;
}

static bool set_has(const struct recent_set *s, uint64_t h)
{
    return s->count > 0 && s->slot[set_probe(s, h)] == h;
}

static bool set_grow(struct recent_set *s)
{
    struct recent_set bigger = {.slots = s->slots ? s->slots * 2 : MIN_SLOTS, .count = s->count};

    bigger.slot = calloc(bigger.slots, sizeof(*bigger.slot));
    if (!bigger.slot)
        return false;
    for (uint32_t i = 0; i < s->slots; i++) {
        if (s->slot[i])
            bigger.slot[set_probe(&bigger, s->slot[i])] = s->slot[i];
    }
    free(s->slot);
    *s = bigger;
    return true;
}

bool recent_has(const struct recent *r, const struct envelope_id *id)
{
    uint64_t h;

    if (r->young.count == 0 && r->old.count == 0)
        return false;
    h = fingerprint(r, id);
    return set_has(&r->young, h) || set_has(&r->old, h);
}

void recent_add(struct recent *r, const struct envelope_id *id)
{
    uint64_t h = fingerprint(r, id);

    if (r->young.count >= RECENT_GENERATION) {
        free(r->old.slot);
        r->old = r->young;
        r->young = (struct recent_set){0};
    }
    if (r->young.count + 1 > r->young.slots / 2 && !set_grow(&r->young))
        return;
    r->young.slot[set_probe(&r->young, h)] = h;
    r->young.count++;
}
