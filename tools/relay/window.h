/*
 * What one connection has been sent: the envelopes that it has not acknowledged (the delivery window), and a
 * memory of what it was sent lately, so that a duplicate is not delivered twice. Both grow with use and
 * shrink to nothing; ids are hashed under a random key, since whoever sends envelopes chooses them.
 */
#ifndef E2EE_RELAY_WINDOW_H
#define E2EE_RELAY_WINDOW_H

#include "relay.h"

#define WINDOW_HASH_KEY_LEN 16 /* crypto_shorthash_KEYBYTES */

struct window_entry {
    struct envelope_id id;
    uint64_t expires_ms;
    uint32_t bytes;
    bool used;      /* the table's */
    bool ephemeral; /* the store does not have it */
    bool barrier;   /* waited when the connection was made */
};

struct window {
    const uint8_t *key; /* WINDOW_HASH_KEY_LEN bytes of the owner's */
    struct window_entry *slot;
    uint32_t slots, count;
    uint64_t bytes;
};

void window_init(struct window *w, const uint8_t *key);
void window_done(struct window *w);
/* Whether one more envelope with a body of n bytes fits into RELAY_WINDOW and RELAY_WINDOW_BYTES. */
bool window_has_room(const struct window *w, size_t n);
bool window_has(const struct window *w, const struct envelope_id *id);
/* The id is not there yet, and there is room. 0 or -ENOMEM. */
int window_add(struct window *w, const struct window_entry *e) MUST_USE;
/* Removes; false: it is not there. */
bool window_take(struct window *w, const struct envelope_id *id, struct window_entry *ret_entry);

/* Remembers at least the last RECENT_GENERATION ids; 64 bits of each, so that a stranger's id hits once in
 * 2^50. */
#define RECENT_GENERATION 8192u
struct recent {
    const uint8_t *key;
    struct recent_set {
        uint64_t *slot;
        uint32_t slots, count;
    } young, old;
};
void recent_init(struct recent *r, const uint8_t *key);
void recent_done(struct recent *r);
bool recent_has(const struct recent *r, const struct envelope_id *id);
/* Without memory nothing is remembered: the recipient drops duplicates itself. */
void recent_add(struct recent *r, const struct envelope_id *id);

#endif
