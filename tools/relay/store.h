/*
 * What the relay keeps, behind calls that never wait: a request is submitted, and its `done` runs later in
 * the event loop. Requests that change something take effect in the order of their submission, and are
 * durable when done runs with a result that says so. Readers (LOOKUP, LIST, QUERY, FETCH) see at least all
 * that had been reported done when they were submitted.
 *
 * A request is made by store_req_new(), filled, and handed over by store_submit(); until done runs it belongs
 * to the store. done owns it then and frees it with store_req_free(). Nothing can be cancelled: ctx outlives
 * the request.
 */
#ifndef E2EE_RELAY_STORE_H
#define E2EE_RELAY_STORE_H

#include "relay.h"

struct uv_loop_s;

enum store_result {
    STORE_OK = 0,
    STORE_DUP,      /* the same is there already (or was, for an envelope that has been acknowledged) */
    STORE_NOENT,    /* no such account, device or token */
    STORE_CONFLICT, /* something else is there: another chain, a name with another owner */
    STORE_FULL,     /* no room: the mailbox, the set of prekeys, or the disk. Nothing was changed. */
    STORE_RETRY,    /* the outcome is unknown: repeat with the same ids */
};

enum store_op {
    STORE_OP_REGISTER,
    STORE_OP_OPEN,
    STORE_OP_PUT_PREKEYS,
    STORE_OP_CLAIM,
    STORE_OP_SUBMIT,
    STORE_OP_ACK,
    STORE_OP_UNREGISTER,
    STORE_OP_EXPIRE,
    STORE_OP_LOOKUP, /* from here on readers */
    STORE_OP_LIST,
    STORE_OP_QUERY,
    STORE_OP_FETCH,
};

struct store_req {
    enum store_op op;
    enum store_result result; /* of the whole request; batches have one for each item besides */
    void (*done)(struct store_req *req, void *ctx);
    void *ctx;
    uint32_t ref; /* the submitter's own, as is cost */
    size_t cost;
    struct store_req *next; /* the store's */
};

#define STORE_TOKEN_HASH_LEN 32

/*
 * An account's first or next device list entry, its signatures verified. NOENT: the token is unknown or used
 * up; CONFLICT: see `conflict`. A registration in another mode than open applies to new accounts only.
 */
enum store_conflict {
    STORE_NAME_TAKEN = 1,
    STORE_CHAIN_FORK,
    STORE_CHAIN_GAP,
    STORE_CHAIN_REVOKED,
    STORE_CLOSED
};
struct store_register {
    struct store_req req;
    uint8_t uid[UID_LEN];
    uint8_t hash[32];     /* of the entry */
    uint8_t registration; /* enum relay_registration */
    uint8_t token_hash[STORE_TOKEN_HASH_LEN];
    enum store_conflict ret_conflict;
    uint64_t ret_newest; /* number of the newest entry that is stored, with STORE_CHAIN_GAP and
                            STORE_CHAIN_FORK */
    size_t entry_len;
    uint8_t entry[];
};

/* What the relay must know of a device that connects. NOENT: no such account, or (known_account) no such
 * device. */
struct store_open_device {
    struct store_req req;
    struct address who;
    bool ret_known_account;
    uint64_t ret_mailbox; /* handle for ACK and FETCH */
    uint8_t ret_ak[32], ret_dsk[32], ret_rak[32];
    uint64_t ret_list_n;
    uint32_t ret_one_time_left, ret_signed_prekey_id, ret_waiting;
    uint64_t ret_last_seq; /* of the newest envelope waiting; 0: none waits */
};

/* Prekeys, verified. Ids that are known or were claimed are left out silently. FULL: over the limit of a
 * device. */
struct store_put_prekeys {
    struct store_req req;
    struct address who;
    struct relay_put_prekeys keys; /* points into bytes */
    uint32_t signed_id;
    uint32_t one_time_id[RELAY_MAX_PREKEYS];
    uint32_t ret_one_time_left, ret_signed_prekey_id;
    uint8_t bytes[];
};

/* The signed prekey, and one one-time prekey that is handed out to nobody else. NOENT: no device or no
 * prekeys. */
struct store_claim {
    struct store_req req;
    struct address target;
    size_t ret_signed_len, ret_one_time_len; /* 0: none left */
    uint8_t ret_signed[RELAY_MAX_PREKEY], ret_one_time[RELAY_MAX_PREKEY];
};

/* item.result: OK stored, DUP, NOENT, FULL, or RETRY; meaningful if the request's result is OK. */
struct store_envelope {
    struct address to;
    struct envelope_id id;
    uint64_t expires_ms;
    struct span body;
    enum store_result ret_result;
    uint64_t ret_seq; /* ascends with the order of submission within a mailbox; set for OK */
    bool skip;        /* not for the store */
    uint8_t status;   /* from here on the submitter's own */
    uint32_t retry_after_ms;
    void *device;
    uint64_t delivered_to;
};
struct store_submit_req {
    struct store_req req;
    uint64_t time_ms;
    uint16_t count;
    struct store_envelope *item; /* behind this struct, as is what the bodies point to */
};

/* Forgets the envelopes, remembers their ids. Ids that are not waiting are remembered all the same. */
struct store_ack_item {
    struct envelope_id id;
    uint64_t expires_ms;
};
struct store_ack {
    struct store_req req;
    uint64_t mailbox;
    uint32_t barrier; /* the submitter's own */
    uint16_t count;
    struct store_ack_item item[];
};

/* Everything of an account goes; its name becomes free. NOENT: there is none. */
struct store_unregister {
    struct store_req req;
    uint8_t uid[UID_LEN];
};

/* One step of the housekeeping: looks at a bounded number of records. */
struct store_expire {
    struct store_req req;
    uint64_t now_ms;
};

/* NOENT: no such account. The newest RELAY_MAX_ENTRIES entries, oldest first; they lie in `bytes`. */
struct store_lookup {
    struct store_req req;
    struct relay_lookup by; /* points into key */
    uint8_t key[RELAY_MAX_NAME];
    struct relay_account ret_account;
    struct buf bytes;
};

struct store_list_users {
    struct store_req req;
    uint8_t after[RELAY_MAX_NAME];
    size_t after_len;
    uint16_t limit;
    bool ret_more;
    uint16_t ret_count;
    struct {
        uint8_t uid[UID_LEN];
        uint8_t name_len;
        uint8_t name[RELAY_MAX_NAME];
    } ret_user[];
};

struct store_query {
    struct store_req req;
    uint16_t count;
    struct {
        struct relay_query_item what;
        uint8_t ret_state;
    } item[];
};

/*
 * The oldest envelopes after `after` that have not expired: at most max_count, and of at most max_bytes
 * together. ret_more: there are others behind those given.
 */
#define STORE_FETCH_MAX 256u
struct store_fetched {
    struct envelope_id id;
    uint64_t seq, time_ms, expires_ms;
    size_t body_at, body_len; /* in bytes */
};
struct store_fetch {
    struct store_req req;
    uint64_t mailbox, after;
    uint32_t max_count, max_bytes;
    uint64_t now_ms;
    bool ret_more;
    uint32_t ret_count;
    struct store_fetched ret_item[STORE_FETCH_MAX];
    struct buf bytes;
};

/* A zeroed request of `size` bytes (the struct, and what it has behind it); NULL without memory. */
void *store_req_new(enum store_op op, size_t size, void (*done)(struct store_req *req, void *ctx), void *ctx);
void store_req_free(struct store_req *req);

#define STORE_DEFAULT_ENVELOPES 20000u
#define STORE_DEFAULT_BYTES (UINT64_C(256) << 20)
#define STORE_MAX_ONE_TIME 400u /* one-time prekeys of a device */

struct store_options {
    const char *dir;        /* made (0700) if it is not there */
    uint32_t max_envelopes; /* in one mailbox; 0: the defaults above */
    uint64_t max_bytes;
    uint32_t max_pages; /* of the database; 0: no limit */
};

/* Positive results of store_open. */
enum store_open_status {
    STORE_OPEN_BUSY = 1,  /* another relay has this directory */
    STORE_OPEN_NEWER = 2, /* written by a newer version */
    STORE_OPEN_BROKEN = 3 /* no database, or not ours */
};
#define STORE_ERROR_LEN 256

struct store;
/* Error text (one line, for the operator) goes to error[STORE_ERROR_LEN] with every result but 0. */
int store_open(struct store **ret_store, struct uv_loop_s *loop, const struct store_options *options,
        char error[STORE_ERROR_LEN]) MUST_USE;
/* Finishes all requests submitted so far (their done runs inside this call), then closes. Accepts NULL. */
void store_close(struct store *s);
void store_submit(struct store *s, struct store_req *req);
/* Requests submitted whose done has not run. */
size_t store_pending(const struct store *s);
/* 16 random bytes that were made with the state. */
const uint8_t *store_id(const struct store *s);

/* For the operator's commands, beside a running relay: no loop, blocking. */
struct store_stats {
    uint64_t accounts, devices, one_time_prekeys, waiting, waiting_bytes, remembered, tokens;
};
int store_read_stats(const char *dir, struct store_stats *ret_stats, char error[STORE_ERROR_LEN]) MUST_USE;
int store_create_token(const char *dir, const uint8_t hash[STORE_TOKEN_HASH_LEN], uint32_t uses,
        char error[STORE_ERROR_LEN]) MUST_USE;

#endif
