/* Signed and one-time prekeys (docs/PROTOCOL.md, section 3). */
#ifndef E2EE_PREKEY_H
#define E2EE_PREKEY_H

#include "identity.h"
#include "mlkem.h"

#define PREKEY_ROTATE_MS (48 * HOUR_MS)
#define PREKEY_VALID_MS (30 * DAY_MS)
#define PREKEY_LINGER_MS (14 * DAY_MS)
#define PREKEY_SKEW_MS DAY_MS /* by which the owner's clock may be ahead of ours */

enum prekey_status {
    PREKEY_MALFORMED = 1,
    PREKEY_BAD_SIGNATURE = 2,
    PREKEY_WRONG_OWNER =
            3, /* another uid or device, or made under a newer device list than the one that we were shown */
    PREKEY_EXPIRED = 4,
    PREKEY_NO_SUITE = 5,
};

/* The private part. Kept in secret memory by its owner; the record is secret. */
struct prekey_secret {
    bool one_time;
    uint32_t id;
    uint64_t list_n;
    uint16_t suite;
    uint64_t not_before_ms, not_after_ms; /* signed only */
    uint8_t x25519[32];
    uint8_t x25519_public[32];
    uint8_t mlkem_seed[MLKEM_SEED_LEN];
    uint8_t mlkem_public[MLKEM_PK_LEN]; /* of the seed; kept, because each handshake hashes it */
};

/*
 * Makes a pair and appends its public record (LP(body) ‖ signature). *ret_secret is the caller's secret
 * memory, and is wiped on failure. -EINVAL for id 0.
 */
int prekey_make_signed(const struct identity *id, uint32_t prekey_id, uint64_t now_ms, const struct rng *rng,
        struct prekey_secret *ret_secret, struct buf *record) MUST_USE;
int prekey_make_one_time(const struct identity *id, uint32_t prekey_id, const struct rng *rng,
        struct prekey_secret *ret_secret, struct buf *record) MUST_USE;
void prekey_save(const struct prekey_secret *k, struct buf *secret);
int prekey_load(const void *p, size_t n, struct prekey_secret *ret_secret) MUST_USE;

/* A verified bundle of another device; pointers into the bytes it was read from. */
struct bundle {
    struct prekey_record signed_prekey;
    bool has_one_time;
    struct prekey_record one_time;
    uint8_t hash[32];
};
/* one_time.n == 0: none. 0 or enum prekey_status. */
int bundle_verify(const struct device *peer, struct span signed_prekey, struct span one_time, uint64_t now_ms,
        struct bundle *ret_bundle) MUST_USE;

#endif
