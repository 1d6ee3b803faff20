/*
 * The inside of a session, shared by handshake.c, ratchet.c, chain.c, receiving.c and ratchet_record.c (and
 * by tests of the running time). Names follow the Double Ratchet specification: RK, CK, HK, NHK, DHs, DHr,
 * Ns, Nr, PN.
 */
#ifndef E2EE_RATCHET_IMPL_H
#define E2EE_RATCHET_IMPL_H

#include "ct.h"
#include "kdf.h"
#include "ratchet.h"
#include "skipped.h"

#define NONCE_LEN 24u
#define TAG_LEN 16u
#define COM_LEN 32u
#define SUITE_1 1u
#define INDEX_NEVER UINT32_MAX

#define ENVELOPE_VERSION 1
enum envelope_kind { KIND_PLAIN = 1, KIND_HANDSHAKE = 2 };

/* The header of section 5, and its encrypted form (nonce and tag), without and with a KEM field. */
#define HEADER_LEN (1u + 1u + 4u + 4u + KEY_LEN)
#define HEADER_MAX (HEADER_LEN + MLKEM_PK_LEN)
#define SEALED_HEADER_LEN(field) (NONCE_LEN + HEADER_LEN + (field) + TAG_LEN)

/* What KEM field a chain carries; the values are the header's flags. */
enum kem_kind { KEM_NONE = 0, KEM_OFFER = 1, KEM_ANSWER = 2 };
static inline size_t kem_field_len(enum kem_kind kind)
{
    return kind == KEM_OFFER ? MLKEM_PK_LEN : kind == KEM_ANSWER ? MLKEM_CT_LEN : 0;
}

struct header {
    enum kem_kind kem;
    uint8_t type;
    uint32_t index, previous;
    const uint8_t *ratchet_key;
    struct span field;
};

/* What a root step gives. */
struct root {
    uint8_t rk[KEY_LEN], ck[KEY_LEN];
    struct chain_id next; /* NHK and ntag */
};

struct chain {
    bool open;
    uint8_t ck[KEY_LEN];
    struct chain_id id;
    uint32_t n; /* Ns or Nr */
};

/* The KEM field of the sending chain. */
struct kem_field {
    enum kem_kind kind;
    uint8_t bytes[MLKEM_PK_LEN];
};

/* A ciphertext and secret made for the peer's offer, for the next sending chain. */
struct kem_answer {
    bool pending;
    uint8_t ct[MLKEM_CT_LEN];
    uint8_t ss[MLKEM_SS_LEN];
};

/* Where a sending chain will be, computed before anything is changed. */
struct send_step {
    struct root root;
    struct kem_field field;
    uint8_t dhs[KEY_LEN], dhs_public[KEY_LEN];
    uint8_t offer_seed[MLKEM_SEED_LEN];
};

/* Where the receiving side will be, computed before anything is changed. */
struct receive_step {
    const struct skipped_key *stored; /* the key came from the store; nothing of the rest is used */
    bool opens;                       /* a new receiving chain */
    struct root root;                 /* of it */
    uint8_t ck[KEY_LEN];
    uint32_t n;
    struct skipped_batch skipped;
    struct kem_answer answer;
};

/* Working memory of one call, wiped at its end. */
struct work {
    uint8_t mk[KEY_LEN];
    uint8_t keys[KEY_LEN + COM_LEN]; /* ek, com */
    uint8_t ad_hash[HASH_LEN];
    uint8_t header[HEADER_MAX];
    uint8_t ikm[6 * KEY_LEN];
    crypto_auth_hmacsha256_state hmac, hmac_keyed;
    crypto_auth_hmacsha512_state hmac512;
};

struct ratchet {
    /* Fixed at birth. */
    bool initiator, one_time;
    uint16_t suite;
    struct address me, peer;
    uint64_t session_number;
    uint8_t th[TRANSCRIPT_LEN];
    uint8_t handshake_hash[HASH_LEN];
    crypto_hash_sha256_state ad_send, ad_receive; /* AD up to the addresses: derived, not saved */
    /* The initiator's header, until the peer has answered; public, on the heap. */
    uint8_t *handshake;
    size_t handshake_len;

    uint8_t rk[KEY_LEN];
    bool has_dhs, has_dhr;
    uint8_t dhs[KEY_LEN], dhs_public[KEY_LEN], dhr[KEY_LEN];
    struct chain send, receive;
    struct chain_id next_send, next_receive;
    bool send_due;     /* the next message opens a sending chain */
    uint32_t previous; /* PN */
    uint64_t sent, seen_by_peer, received;
    uint32_t chains_received; /* 0, 1, or 2 for more */

    uint64_t kem_ms;       /* when a KEM secret was last mixed in */
    uint32_t kem_messages; /* since then, at most RATCHET_KEM_MESSAGES */
    bool has_offer;
    uint8_t offer_seed[MLKEM_SEED_LEN];
    struct kem_field field;
    struct kem_answer answer;

    struct skipped skipped;
    struct work work;
    struct send_step send_step;
    struct receive_step receive_step;
};

/* A zeroed session in secret memory, or NULL. */
struct ratchet *ratchet_allocate(void);
/* Fills what is derived from the fixed fields. */
void ratchet_derive_ad(struct ratchet *r);

/*
 * The root step of section 5. ikm_len bytes of r->work.ikm hold DH, and the KEM secret if there is one; field
 * is the chain's KEM field.
 */
void root_step(
        struct ratchet *r, size_t ikm_len, enum kem_kind kind, const uint8_t *field, struct root *ret_root);
/* The chain step: mk of ck, and ck's successor in its place. */
void chain_step(struct work *w, uint8_t ck[KEY_LEN], uint8_t ret_mk[KEY_LEN]);
/* Appends the encrypted header; nonce is fresh. */
void header_seal(const struct ratchet *r, const struct chain_id *id, const struct header *h,
        const uint8_t nonce[NONCE_LEN], struct work *w, uint8_t *ret_sealed);
/* Opens a header of a length that envelope_parse() lets through; *ret_header points into w. */
bool header_open(const struct ratchet *r, const struct chain_id *id, struct span sealed, struct work *w,
        struct header *ret_header) MUST_USE;
/* ek and com of w->mk, and H(AD), into w. */
void message_keys(const crypto_hash_sha256_state *ad, uint8_t type, struct span sealed_header,
        const uint8_t nonce[NONCE_LEN], struct work *w);
/* Opens ciphertext and com under w->mk: both are computed and judged, whatever either says. */
bool body_open(const crypto_hash_sha256_state *ad, const struct envelope_view *view, uint8_t type,
        struct work *w, uint8_t *ret_plaintext) MUST_USE;
/*
 * Opening a sending chain: prepare computes it (RK, DHs, KEM) into r->send_step and changes nothing else,
 * adopt makes it current. 0, RATCHET_BAD_PEER for a remote key of low order, negative errno.
 */
int sending_prepare(struct ratchet *r, uint64_t now_ms, const struct rng *rng) MUST_USE;
void sending_adopt(struct ratchet *r, uint64_t now_ms);
void sending_abandon(struct ratchet *r);
/* The receiving chain that a route tag names. */
enum which_chain { CHAIN_NONE, CHAIN_CURRENT, CHAIN_NEXT, CHAIN_OLD };
/*
 * What a header leads to: fills r->receive_step and r->work.mk and changes nothing else that counts. 0,
 * RATCHET_FAILED, negative errno.
 */
int receiving_prepare(struct ratchet *r, const struct header *h, enum which_chain which,
        const uint8_t tag[ROUTE_TAG_LEN], uint64_t now_ms) MUST_USE;
/* Makes the encapsulation for an offer that the new chain brings. 0, RATCHET_FAILED, negative errno. */
int receiving_answer(struct ratchet *r, const struct header *h, const struct rng *rng) MUST_USE;
void receiving_adopt(struct ratchet *r, const struct header *h, uint64_t now_ms);
/* Wipes the step, and the skipped keys that were derived for it. */
void receiving_abandon(struct ratchet *r);

#endif
