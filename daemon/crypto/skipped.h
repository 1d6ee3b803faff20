/*
 * Message keys of messages that have not come yet (Double Ratchet, MKSKIPPED): at most RATCHET_MAX_SKIPPED
 * keys of at most RATCHET_MAX_CHAINS receiving chains, each for RATCHET_SKIPPED_MS. The keys lie in one block
 * of secret memory that exists only while there are any, ordered by the age of their chain and then by index.
 *
 * New keys are written behind the stored ones first (skipped_reserve(), skipped_staged()) and count only
 * after skipped_commit(); until then nothing else changes.
 */
#ifndef E2EE_SKIPPED_H
#define E2EE_SKIPPED_H

#include "kdf.h"
#include "ratchet.h"

struct skipped_key {
    uint64_t time_ms; /* when it was stored */
    uint32_t index;
    uint8_t mk[KEY_LEN];
};

/* A receiving chain: what finds and opens its headers. */
struct chain_id {
    uint8_t hk[KEY_LEN];
    uint8_t tag[ROUTE_TAG_LEN];
};

struct skipped_chain {
    struct chain_id id;
    uint32_t count;
};

struct skipped {
    uint32_t chains; /* oldest first */
    uint32_t count;  /* keys */
    uint32_t cap;
    struct skipped_chain chain[RATCHET_MAX_CHAINS];
    struct skipped_key *key;
};

/* Keys to be added: first those of the chain that is current, then those of the chain that follows it. */
struct skipped_batch {
    const struct chain_id *current, *next;
    uint32_t of_current, of_next;
};

/* Wipes and releases; accepts a zeroed struct. */
void skipped_done(struct skipped *s);
/* NULL if no keys of a chain with that tag are here. */
const struct skipped_chain *skipped_chain_find(const struct skipped *s, const uint8_t tag[ROUTE_TAG_LEN]);
/* NULL if the key is not here, or expired. Lives until the next change. */
const struct skipped_key *skipped_find(
        const struct skipped *s, const struct skipped_chain *chain, uint32_t index, uint64_t now_ms);
/* Forgets a key that skipped_find() returned. */
void skipped_remove(struct skipped *s, const struct skipped_key *key);
/* Drops what is older than RATCHET_SKIPPED_MS; true if anything was. */
bool skipped_expire(struct skipped *s, uint64_t now_ms);

/* Whether the batch fits once what is expired, and the oldest chains over the limit, have been dropped. */
bool skipped_fits(const struct skipped *s, const struct skipped_batch *batch, uint64_t now_ms) MUST_USE;
/* Makes room behind the stored keys: 0 or -ENOMEM. The contents do not change. */
int skipped_reserve(struct skipped *s, const struct skipped_batch *batch) MUST_USE;
/* Where the batch's keys are to be written after skipped_reserve(), indices ascending; time_ms is set by
 * commit. */
struct skipped_key *skipped_staged(struct skipped *s);
/* Makes a batch that fits and has been written part of the store. */
void skipped_commit(struct skipped *s, const struct skipped_batch *batch, uint64_t now_ms);
/* Wipes a batch that was written but shall not be kept. */
void skipped_abandon(struct skipped *s, const struct skipped_batch *batch);

void skipped_save(const struct skipped *s, struct buf *secret);
/* Fills a zeroed struct: 0, RATCHET_MALFORMED, -ENOMEM; on failure the caller calls skipped_done(). */
int skipped_load(struct cursor *c, struct skipped *s) MUST_USE;

#endif
