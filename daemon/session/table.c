#include <errno.h>
#include <sodium.h>
#include <string.h>

#include "table.h"

#define TABLE_FIRST_SLOTS 16u

void table_init(struct table *t, size_t key_len, const uint8_t seed[TABLE_SEED_LEN])
{
    *t = (struct table){.key_len = key_len};
    memcpy(t->seed, seed, TABLE_SEED_LEN);
}

void table_done(struct table *t)
{
    free(t->slots);
    t->slots = NULL;
    t->n_slots = t->count = 0;
}

static size_t slot_of(const struct table *t, const void *key)
{
    uint64_t h;
    (void)crypto_shorthash((unsigned char *)&h, key, t->key_len, t->seed);
    return (size_t)h & (t->n_slots - 1);
}

struct table_node *table_get(const struct table *t, const void *key)
{
    if (!t->n_slots)
        return NULL;
    for (struct table_node *node = t->slots[slot_of(t, key)]; node; node = node->next)
        if (memcmp(node->key, key, t->key_len) == 0)
            return node;
    return NULL;
}

static int grow(struct table *t)
{
    struct table_node **old = t->slots;
    size_t n_old = t->n_slots, n_new = n_old ? n_old * 2 : TABLE_FIRST_SLOTS;
    struct table_node **slots = calloc(n_new, sizeof(struct table_node *));
    if (!slots)
        return -ENOMEM;
    t->slots = slots;
    t->n_slots = n_new;
    for (size_t i = 0; i < n_old; i++)
        for (struct table_node *node = old[i], *next; node; node = next) {
            size_t slot = slot_of(t, node->key);
            next = node->next;
            node->next = slots[slot];
            slots[slot] = node;
        }
    free(old);
    return 0;
}

int table_add(struct table *t, struct table_node *node, const void *key)
{
    int r = t->count >= t->n_slots ? grow(t) : 0;
    if (r < 0)
        return r;
    node->key = key;
    size_t slot = slot_of(t, key);
    node->next = t->slots[slot];
    t->slots[slot] = node;
    t->count++;
    return 0;
}

void table_del(struct table *t, struct table_node *node)
{
    if (!node->key)
        return;
    struct table_node **at = &t->slots[slot_of(t, node->key)];
    while (*at && *at != node)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = node->next;
    node->key = NULL;
    t->count--;
}

struct table_node *table_any(const struct table *t)
{
    for (size_t i = 0; t->count && i < t->n_slots; i++)
        if (t->slots[i])
            return t->slots[i];
    return NULL;
}
