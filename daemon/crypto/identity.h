/*
 * Accounts and devices: key generation, device list entries, signatures for the relay, safety numbers
 * (docs/PROTOCOL.md, sections 2, 8, 10). No I/O and no clock of its own.
 */
#ifndef E2EE_IDENTITY_H
#define E2EE_IDENTITY_H

#include "base.h"
#include "relay.h"

#define LIST_HASH_LEN 32
#define DEVICE_HASH_LEN 32
#define SAFETY_NUMBER_LEN 60

enum identity_status {
    IDENTITY_MALFORMED = 1, /* not an entry or a record at all */
    IDENTITY_BAD_SIGNATURE = 2,
    IDENTITY_ROLLBACK = 3, /* a lower n than the pinned one */
    IDENTITY_FORK = 4,     /* the same n, or the same ancestor, with another content */
    IDENTITY_GAP = 5,      /* a higher n, and the entries between are not there */
};

/* One device of a verified list. */
struct device {
    struct address address;
    uint64_t list_n; /* of the entry that it was read from */
    uint8_t dsk[32], dhk[32], rak[32];
    uint8_t suites;
    uint16_t suite[ENTRY_MAX_SUITES];
    uint8_t hash[DEVICE_HASH_LEN];
};

/* A verified device list entry; holds copies, no pointers. */
struct device_list {
    uint8_t uid[UID_LEN];
    uint8_t ak[32];
    char name[RELAY_MAX_NAME + 1];
    uint64_t n;
    uint8_t hash[LIST_HASH_LEN];
    uint8_t previous[LIST_HASH_LEN];
    uint8_t devices;
    struct device device[ENTRY_MAX_DEVICES];
};

/* Parses and checks every signature. 0, IDENTITY_MALFORMED or IDENTITY_BAD_SIGNATURE. */
int device_list_verify(const void *entry, size_t n, struct device_list *ret_list) MUST_USE;
/*
 * Whether `entries` (verified here, oldest first, at most RELAY_MAX_ENTRIES) lead from the pinned (n, hash)
 * of uid to their last one, which is returned. pinned_n 0: nothing is pinned, the last entry alone counts. 0
 * or an enum value.
 */
int device_list_advance(const uint8_t uid[UID_LEN], uint64_t pinned_n,
        const uint8_t pinned_hash[LIST_HASH_LEN], const struct span *entries, size_t count,
        struct device_list *ret_list) MUST_USE;
/* NULL if the list has no such device. */
const struct device *device_list_find(const struct device_list *list, uint32_t device);

void uid_of_account_key(const uint8_t ak[32], uint8_t ret_uid[UID_LEN]);

/* The account and device keys of this daemon, in one sodium_malloc block. */
struct identity;
int identity_new(const char *name, const struct rng *rng, uint64_t now_ms, struct identity **ret_id) MUST_USE;
void identity_free(struct identity *id);
static inline void identity_freep(struct identity **id)
{
    identity_free(*id);
}
/* Secret record for the store, and back. IDENTITY_MALFORMED for anything that identity_save() did not write.
 */
void identity_save(const struct identity *id, struct buf *secret);
int identity_load(const void *p, size_t n, struct identity **ret_id) MUST_USE;

/* All of these live as long as id. */
const struct address *identity_address(const struct identity *id);
const char *identity_name(const struct identity *id);
struct span identity_entry(const struct identity *id);              /* the newest device list entry */
const struct device_list *identity_list(const struct identity *id); /* the same, verified */

/* Fills who, rak and signature; the caller has filled nonce, time_ms, host, binding. exporter NULL without
 * TLS. */
void identity_sign_auth(const struct identity *id, const uint8_t relay_nonce[RELAY_NONCE_LEN],
        const uint8_t *exporter, struct relay_auth *auth);
void identity_sign_delete(
        const struct identity *id, const uint8_t relay_nonce[RELAY_NONCE_LEN], struct relay_unregister *m);

/*
 * 30 digits for one account, and 60 for a pair (the two, the lower one first), section 10. Both sides compute
 * the same.
 */
#define FINGERPRINT_LEN 30
void fingerprint(const uint8_t uid[UID_LEN], const uint8_t ak[32], char ret_digits[FINGERPRINT_LEN + 1]);
void safety_number(const uint8_t uid_a[UID_LEN], const uint8_t ak_a[32], const uint8_t uid_b[UID_LEN],
        const uint8_t ak_b[32], char ret_digits[SAFETY_NUMBER_LEN + 1]);

/* The 16-byte message id of an id text (section 5). */
#define MESSAGE_ID_LEN 16
struct message_id {
    uint8_t b[MESSAGE_ID_LEN];
};
struct message_id message_id_of(const uint8_t sender_uid[UID_LEN], const char *id_text);

#endif
