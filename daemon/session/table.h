/* A hash table of intrusive nodes under keys of one fixed length; keyed hashing, so that nobody can aim at a
 * slot. */
#ifndef E2EE_TABLE_H
#define E2EE_TABLE_H

#include "base.h"

#define TABLE_SEED_LEN 16

struct table_node {
    struct table_node *next;
    const void *key; /* in the object that holds the node, unchanged while it is in the table */
};
struct table {
    struct table_node **slots;
    size_t n_slots, count, key_len;
    uint8_t seed[TABLE_SEED_LEN];
};

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

void table_init(struct table *t, size_t key_len, const uint8_t seed[TABLE_SEED_LEN]);
/* Frees the slots, not the objects. */
void table_done(struct table *t);
struct table_node *table_get(const struct table *t, const void *key);
/* The key must not be there yet. 0 or -ENOMEM. */
int table_add(struct table *t, struct table_node *node, const void *key) MUST_USE;
/* Harmless for a node that is not in the table (key NULL). */
void table_del(struct table *t, struct table_node *node);
/* Any node, or NULL when empty: for tearing down. */
struct table_node *table_any(const struct table *t);

#endif
