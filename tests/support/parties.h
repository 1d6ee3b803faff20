/*
 * Two parties and their sessions for tests: everything from one seed, so that a failure repeats. Anything
 * that goes wrong while setting up ends the program.
 */
#ifndef E2EE_PARTIES_H
#define E2EE_PARTIES_H

#include "ratchet.h"

/* Random bytes that are not: block i is SHA-256(seed ‖ u64 i), i from 0; each draw takes the stream's next
 * bytes. */
struct stream_rng {
    const char *seed;
    uint64_t next;
    uint8_t block[32];
    size_t used;
};
void stream_rng_init(struct stream_rng *s, const char *seed);
struct rng stream_rng(struct stream_rng *s);
/* Uniform enough below n, for choices of a test. */
uint32_t stream_below(struct stream_rng *s, uint32_t n);

#define TEST_NOW UINT64_C(1700000000000)
#define SPK_ID 7u
#define OTK_ID 1001u

struct party {
    struct identity *id;
    struct prekey_secret spk, otk;
    struct buf spk_record, otk_record;
};
void party_init(struct party *p, const char *name, const struct rng *rng);
void party_done(struct party *p);
const struct device *party_device(const struct party *p);
/* A verified bundle of the party. */
struct bundle party_bundle(const struct party *p, bool one_time);

/* Alice starts a session with Bob; *ret_first is her first envelope, and Bob has decrypted it. */
struct pair {
    struct stream_rng stream;
    struct rng rng;
    struct party alice, bob;
    struct ratchet *a, *b;
    uint64_t now;
};
void pair_init(struct pair *p, const char *seed, bool one_time);
/* Only Alice's side: the responder is NULL. */
void pair_initiate(struct pair *p, const char *seed, bool one_time);
void pair_done(struct pair *p);

/* A message whose body is the text. */
struct inner text_inner(const char *text);
/* One message in an envelope of its own; the buffer is the caller's. */
void encrypt_text(
        struct ratchet *r, const char *text, uint64_t now, const struct rng *rng, struct buf *ret_envelope);
/* The status of parsing and decrypting; ret_body gets the body, and a zero byte that it does not count. */
int decrypt_body(struct ratchet *r, const struct buf *envelope, uint64_t now, const struct rng *rng,
        struct buf *ret_body);

/* Ends the program with a message unless ok. */
void must(bool ok, const char *what);

#endif
