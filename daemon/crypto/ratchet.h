/*
 * Sessions between two devices: handshake (docs/PROTOCOL.md, section 4; after Signal's PQXDH) and Double
 * Ratchet with header encryption and a KEM ratchet (section 5; after Signal's Double Ratchet, section 4).
 * Pure: time and randomness are parameters. Every failing call leaves the session byte for byte as it was.
 */
#ifndef E2EE_RATCHET_H
#define E2EE_RATCHET_H

#include "prekey.h"

#define ROUTE_TAG_LEN 16
#define TRANSCRIPT_LEN 32
#define RATCHET_MAX_JUMP 1000u
#define RATCHET_MAX_SKIPPED 2000u
#define RATCHET_MAX_CHAINS 5u /* receiving chains that skipped keys are kept of */
#define RATCHET_MAX_TAGS (RATCHET_MAX_CHAINS + 2u)
#define RATCHET_SKIPPED_MS (7 * DAY_MS)
#define RATCHET_KEM_MESSAGES 64u
#define RATCHET_KEM_MS (24 * HOUR_MS)
#define RATCHET_MAX_RECORD (256u * 1024u)
#define INNER_MAX_BODY 66000u
/* One envelope body is never longer; below RELAY_MAX_BODY. */
#define ENVELOPE_MAX_BODY 90000u

enum ratchet_status {
    RATCHET_MALFORMED = 1, /* not an envelope body (public: the relay sees as much) */
    RATCHET_FAILED = 2,    /* everything else that can be wrong with an envelope; one error, one duration */
    RATCHET_EXHAUSTED = 3, /* encrypt: no index left in the chain: open a new session */
    RATCHET_BAD_PEER =
            4, /* handshake: a key of the peer is unusable (low order, KEM check), or no common suite */
};

enum inner_type { INNER_MESSAGE = 1, INNER_RECEIPT = 2, INNER_NOTICE = 3 };
#define INNER_TEXT 1u
#define INNER_UNCOUNTED 2u

struct list_ref {
    uint64_t n;
    uint8_t hash[LIST_HASH_LEN];
};

/* The plaintext of section 5 without its padding. body points into the caller's bytes, or into ret_plaintext.
 */
struct inner {
    uint8_t type;
    uint8_t flags;
    struct message_id id;
    uint64_t count;
    uint64_t time_ms;
    uint64_t seq, seen; /* set by ratchet_encrypt() */
    struct list_ref own, peer;
    struct span body;
};

/* An envelope body, taken apart; pointers into it. */
struct envelope_view {
    bool has_handshake;
    struct span handshake; /* the whole header, taken apart in what follows */
    uint16_t suite;
    uint32_t sender_device;
    uint64_t session_number;
    const uint8_t *ek; /* 32 */
    uint32_t signed_prekey_id, one_time_id;
    const uint8_t *kem_ct; /* 1088 */
    struct span entry;
    const uint8_t *route_tag;
    struct span header;
    const uint8_t *nonce, *com;
    struct span ciphertext;
};
/* 0 or RATCHET_MALFORMED. */
int envelope_parse(const void *body, size_t n, struct envelope_view *ret_view) MUST_USE;

/* One session; all of its secrets in sodium_malloc memory. A few freed blocks are kept, wiped, for the
 * thread's next sessions. */
struct ratchet;

/* The initiator's side. peer and bundle are verified. 0, RATCHET_BAD_PEER, negative errno. */
int ratchet_initiate(const struct identity *me, const struct device *peer, const struct bundle *bundle,
        uint64_t session_number, uint64_t now_ms, const struct rng *rng,
        struct ratchet **ret_ratchet) MUST_USE;
/*
 * The responder's side for the view of a first message; peer comes from view->entry, verified. one_time is
 * NULL if view->one_time_id is 0. Nothing is proven until the first ratchet_decrypt() succeeds: keep the
 * ratchet and delete the one-time key only then. 0, RATCHET_BAD_PEER, RATCHET_FAILED (no handshake header, or
 * prekeys other than it names), negative errno.
 */
int ratchet_respond(const struct identity *me, const struct device *peer, const struct envelope_view *view,
        const struct prekey_secret *signed_prekey, const struct prekey_secret *one_time, uint64_t now_ms,
        struct ratchet **ret_ratchet) MUST_USE;
void ratchet_free(struct ratchet *r);
static inline void ratchet_freep(struct ratchet **r)
{
    ratchet_free(*r);
}

/*
 * Encrypts one message and appends the envelope body. in->seq and in->seen are filled. The caller must make
 * the new state durable before the envelope leaves. 0, RATCHET_EXHAUSTED, negative errno: -EINVAL for a
 * message that inner_ok() (inner.h) refuses and for a responder that has decrypted nothing yet, -EMSGSIZE
 * where out is too small.
 */
int ratchet_encrypt(struct ratchet *r, struct inner *in, uint64_t now_ms, const struct rng *rng,
        struct buf *out) MUST_USE;
/*
 * Decrypts. plaintext is a secret buffer of the caller's, overwritten (emptied on failure); ret_inner->body
 * points into it. rng serves the answer to a KEM offer. 0, RATCHET_FAILED, negative errno; on all but 0 the
 * session is unchanged.
 */
int ratchet_decrypt(struct ratchet *r, const struct envelope_view *view, uint64_t now_ms,
        const struct rng *rng, struct buf *plaintext, struct inner *ret_inner) MUST_USE;

/* Secret record, and back (RATCHET_MALFORMED for what ratchet_save() did not write). */
void ratchet_save(const struct ratchet *r, struct buf *secret);
int ratchet_load(const void *p, size_t n, struct ratchet **ret_ratchet) MUST_USE;

/* Route tags under which a message of the peer may arrive now: current, next, and chains with skipped keys.
 */
size_t ratchet_tags(const struct ratchet *r, uint8_t ret_tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN]);
uint64_t ratchet_session_number(const struct ratchet *r);
const uint8_t *ratchet_transcript(const struct ratchet *r); /* 32 bytes */
const struct address *ratchet_peer(const struct ratchet *r);
/* Messages sent in the session, and how many of them the peer is known to have seen (its highest `seen`). */
uint64_t ratchet_sent(const struct ratchet *r);
uint64_t ratchet_seen_by_peer(const struct ratchet *r);
/* Highest seq received; 0 before the first message. */
uint64_t ratchet_received(const struct ratchet *r);
/* True once anything of the peer was decrypted; for an initiator: it has answered, and the handshake header
 * is no longer sent. */
bool ratchet_answered(const struct ratchet *r);
/* True while the session rests on a signed prekey alone (no one-time pair): until the peer has used a fresh
 * key of ours. */
bool ratchet_weak(const struct ratchet *r);
/* Drops skipped keys older than RATCHET_SKIPPED_MS. True if anything changed. */
bool ratchet_expire(struct ratchet *r, uint64_t now_ms);

#endif
