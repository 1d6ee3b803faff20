/*
 * The relay protocol (docs/PROTOCOL.md, section 8): encode and decode, side by side, for both ends.
 *
 * Encoders append one whole relay message to a struct buf (its sticky error tells); batches are built by
 * begin, one call an item, end. Decoders read from the bytes of one relay message; every pointer in a decoded
 * struct points into them and lives as long as they do. Nothing is allocated.
 */
#ifndef E2EE_RELAY_H
#define E2EE_RELAY_H

#include "buf.h"

#define RELAY_SUBPROTOCOL "e2ee.v1"
#define RELAY_VERSION 1
#define RELAY_MAX_MESSAGE 131072u
#define RELAY_MAX_BODY 98304u   /* one envelope body */
#define RELAY_BATCH_FILL 65536u /* a batch is sent once it is this long */
#define RELAY_MAX_BATCH 1024u
#define RELAY_WINDOW 1024u
#define RELAY_WINDOW_BYTES 1048576u
#define RELAY_MAX_ERROR_TEXT 256u
#define RELAY_MAX_NAME 64u
#define RELAY_MAX_TOKEN 128u
#define RELAY_MAX_HOST 262u
#define RELAY_MAX_ENTRY 8192u
#define RELAY_MAX_ENTRIES 12u /* of a device list chain in one ACCOUNT, the newest ones */
#define RELAY_MAX_PREKEY 1400u
#define RELAY_MAX_PREKEYS 50u /* one-time prekeys in one PUT_PREKEYS */
#define RELAY_MAX_USERS 500u
#define RELAY_MAX_WATCH 256u
#define RELAY_MAX_TTL_MS (UINT64_C(31) * 86400000)

/* Each is followed by one zero byte. */
#define RELAY_LABEL_AUTH "e2eed/1 relay auth"
#define RELAY_LABEL_DELETE "e2eed/1 relay delete"

#define UID_LEN 32
#define ENVELOPE_ID_LEN 16
#define RELAY_NONCE_LEN 32
#define EXPORTER_LEN 32

struct address {
    uint8_t uid[UID_LEN];
    uint32_t device;
};
struct envelope_id {
    uint8_t b[ENVELOPE_ID_LEN];
};

enum relay_type {
    RELAY_CHALLENGE = 0x01,
    RELAY_WELCOME = 0x02,
    RELAY_ERROR = 0x03,
    RELAY_OK = 0x04,
    RELAY_SUBMITTED = 0x05,
    RELAY_DELIVER = 0x06,
    RELAY_ACCOUNT = 0x07,
    RELAY_BUNDLE = 0x08,
    RELAY_USERS = 0x09,
    RELAY_PRESENCE = 0x0a,
    RELAY_STATES = 0x0b,
    RELAY_PREKEYS = 0x0c,
    RELAY_DRAINED = 0x0d,
    RELAY_AUTH = 0x41,
    RELAY_REGISTER = 0x42,
    RELAY_PUT_PREKEYS = 0x43,
    RELAY_LOOKUP = 0x44,
    RELAY_CLAIM = 0x45,
    RELAY_SUBMIT = 0x46,
    RELAY_ACK = 0x47,
    RELAY_QUERY = 0x48,
    RELAY_LIST_USERS = 0x49,
    RELAY_WATCH = 0x4a,
    RELAY_UNREGISTER = 0x4b,
};

enum relay_error {
    RELAY_ERR_BAD_MESSAGE = 1,
    RELAY_ERR_AUTH_FAILED,
    RELAY_ERR_NAME_TAKEN,
    RELAY_ERR_NOT_FOUND,
    RELAY_ERR_RATE_LIMITED,
    RELAY_ERR_TOO_LARGE,
    RELAY_ERR_FORBIDDEN,
    RELAY_ERR_REGISTRATION_CLOSED,
    RELAY_ERR_TOKEN_REQUIRED,
    RELAY_ERR_BUSY,
    RELAY_ERR_FULL,
    RELAY_ERR_UNSUPPORTED,
    RELAY_ERR_WRONG_HOST,
    RELAY_ERR_REPLACED,
    RELAY_ERR_CONFLICT,
    RELAY_ERR_UNKNOWN_ACCOUNT,
    RELAY_ERR_CLOCK_SKEW,
    RELAY_ERR_BINDING_REQUIRED,
};

enum relay_submit_status {
    SUBMIT_STORED = 0,
    SUBMIT_DUPLICATE,
    SUBMIT_NO_DEVICE,
    SUBMIT_FULL,
    SUBMIT_RETRY,
    SUBMIT_NOT_CONNECTED,
    SUBMIT_EXPIRED,
    SUBMIT_TOO_LARGE,
    SUBMIT_RATE_LIMITED,
};

enum relay_envelope_state { ENVELOPE_UNKNOWN = 0, ENVELOPE_WAITING = 1, ENVELOPE_ACKNOWLEDGED = 2 };
enum relay_registration { REGISTRATION_OPEN = 0, REGISTRATION_TOKEN = 1, REGISTRATION_CLOSED = 2 };
enum relay_binding { BINDING_NONE = 0, BINDING_TLS_EXPORTER = 1 };
enum relay_lookup_by { LOOKUP_BY_NAME = 1, LOOKUP_BY_UID = 2 };
#define RELAY_SUBMIT_EPHEMERAL 1u

/* A run of bytes inside somebody else's buffer. */
struct span {
    const uint8_t *p;
    size_t n;
};

struct relay_challenge {
    uint16_t version;
    uint8_t nonce[RELAY_NONCE_LEN];
    uint64_t time_ms;
    uint8_t store_id[16];
    uint32_t max_message, max_body, window;
    uint8_t registration;
};
struct relay_welcome {
    uint64_t time_ms;
    uint32_t one_time_left, signed_prekey_id;
    uint64_t list_n;
    uint32_t waiting;
};
struct relay_error_msg {
    uint16_t code;
    uint32_t retry_after_ms;
    struct span text;
};
struct relay_submitted_item {
    struct envelope_id id;
    uint8_t status;
    uint32_t retry_after_ms;
};
struct relay_deliver_item {
    struct envelope_id id;
    uint64_t time_ms;
    struct span body;
};
struct relay_account {
    bool found;
    struct span name;
    uint8_t uid[UID_LEN];
    uint16_t entries;
    struct span entry[RELAY_MAX_ENTRIES];
};
struct relay_bundle {
    bool found;
    struct span signed_prekey, one_time; /* one_time.n is 0 when there is none */
};
struct relay_user {
    struct span name;
    uint8_t uid[UID_LEN];
};
struct relay_presence_item {
    struct address who;
    bool connected;
};
struct relay_state_item {
    struct envelope_id id;
    uint8_t state;
};
struct relay_prekeys {
    uint32_t one_time_left, signed_prekey_id;
};
struct relay_auth {
    struct address who;
    uint8_t rak[32];
    uint8_t nonce[RELAY_NONCE_LEN];
    uint64_t time_ms;
    struct span host;
    uint8_t binding;
    uint8_t signature[64];
};
struct relay_register {
    struct span name, token, entry;
};
struct relay_put_prekeys {
    struct span signed_prekey; /* n is 0 when there is none */
    bool replace;
    uint16_t count;
    struct span one_time[RELAY_MAX_PREKEYS];
};
struct relay_lookup {
    uint8_t by;
    struct span key;
};
struct relay_submit_item {
    struct envelope_id id;
    struct address to;
    uint8_t flags;
    uint64_t expires_ms;
    struct span body;
};
struct relay_query_item {
    struct envelope_id id;
    struct address to;
};
struct relay_list_users {
    struct span after;
    uint16_t limit;
};
struct relay_unregister {
    uint64_t time_ms;
    uint8_t signature[64];
};

/* An address in its 36 bytes. Device 0 marks the input as malformed. */
void relay_put_address(struct buf *b, const struct address *a);
void relay_read_address(struct cursor *c, struct address *ret_a);

/* Reads the head. c then stands at the fields. WIRE_MALFORMED for an empty, short or too long message. */
int relay_read_head(struct cursor *c, uint8_t *ret_type, uint32_t *ret_ref) MUST_USE;

/*
 * One message, all of it: each reads to the end of c and answers WIRE_OK or WIRE_MALFORMED. Whatever section
 * 8 rules out is malformed: a user name that is none, device 0, an enumerated value it does not list (not
 * error codes and the version of CHALLENGE, which the caller judges), a count or a length over the limits
 * above. Texts may hold any byte.
 */
void relay_put_challenge(struct buf *b, const struct relay_challenge *m);
int relay_get_challenge(struct cursor *c, struct relay_challenge *ret_m) MUST_USE;
void relay_put_welcome(struct buf *b, uint32_t ref, const struct relay_welcome *m);
int relay_get_welcome(struct cursor *c, struct relay_welcome *ret_m) MUST_USE;
/* Text over the limit is cut. */
void relay_put_error(struct buf *b, uint32_t ref, uint16_t code, uint32_t retry_after_ms, const char *text);
int relay_get_error(struct cursor *c, struct relay_error_msg *ret_m) MUST_USE;
/* OK and DRAINED: messages without fields. */
void relay_put_empty(struct buf *b, enum relay_type type, uint32_t ref);
void relay_put_account(struct buf *b, uint32_t ref, const struct relay_account *m);
int relay_get_account(struct cursor *c, struct relay_account *ret_m) MUST_USE;
void relay_put_bundle(struct buf *b, uint32_t ref, const struct relay_bundle *m);
int relay_get_bundle(struct cursor *c, struct relay_bundle *ret_m) MUST_USE;
void relay_put_prekeys_left(struct buf *b, uint32_t ref, const struct relay_prekeys *m);
int relay_get_prekeys_left(struct cursor *c, struct relay_prekeys *ret_m) MUST_USE;
void relay_put_auth(struct buf *b, uint32_t ref, const struct relay_auth *m);
int relay_get_auth(struct cursor *c, struct relay_auth *ret_m) MUST_USE;
void relay_put_register(struct buf *b, uint32_t ref, const struct relay_register *m);
int relay_get_register(struct cursor *c, struct relay_register *ret_m) MUST_USE;
void relay_put_prekeys(struct buf *b, uint32_t ref, const struct relay_put_prekeys *m);
int relay_get_prekeys(struct cursor *c, struct relay_put_prekeys *ret_m) MUST_USE;
void relay_put_lookup(struct buf *b, uint32_t ref, const struct relay_lookup *m);
int relay_get_lookup(struct cursor *c, struct relay_lookup *ret_m) MUST_USE;
void relay_put_claim(struct buf *b, uint32_t ref, const struct address *who);
int relay_get_claim(struct cursor *c, struct address *ret_who) MUST_USE;
void relay_put_list_users(struct buf *b, uint32_t ref, const struct relay_list_users *m);
int relay_get_list_users(struct cursor *c, struct relay_list_users *ret_m) MUST_USE;
void relay_put_unregister(struct buf *b, uint32_t ref, const struct relay_unregister *m);
int relay_get_unregister(struct cursor *c, struct relay_unregister *ret_m) MUST_USE;

/*
 * Batches: relay_begin empties the buffer and writes head and count, an item call appends and counts,
 * relay_batch_len tells how long the message is so far (the head included). An empty batch must not be sent,
 * PRESENCE and USERS excepted. More than RELAY_MAX_BATCH items or RELAY_MAX_MESSAGE bytes are -EMSGSIZE in
 * the buffer.
 */
void relay_begin(struct buf *b, enum relay_type type, uint32_t ref);
void relay_add_submitted(struct buf *b, const struct relay_submitted_item *m);
void relay_add_deliver(struct buf *b, const struct relay_deliver_item *m);
void relay_add_presence(struct buf *b, const struct relay_presence_item *m);
void relay_add_state(struct buf *b, const struct relay_state_item *m);
void relay_add_submit(struct buf *b, const struct relay_submit_item *m);
void relay_add_ack(struct buf *b, const struct envelope_id *id);
void relay_add_query(struct buf *b, const struct relay_query_item *m);
void relay_add_watch(struct buf *b, const struct address *who);
uint16_t relay_batch_count(const struct buf *b);
size_t relay_batch_len(const struct buf *b);
/* USERS has a field before its count: begin, then items. */
void relay_begin_users(struct buf *b, uint32_t ref, bool more);
void relay_add_user(struct buf *b, const struct relay_user *m);

/*
 * Reading a batch: relay_read_count (1..max items, else WIRE_MALFORMED; USERS and PRESENCE may be empty: min
 * 0), then one call an item, then cursor_end(). An item call after a failure yields zeros and leaves the
 * error in c.
 */
int relay_read_count(struct cursor *c, uint16_t min, uint16_t max, uint16_t *ret_count) MUST_USE;
int relay_read_users(struct cursor *c, bool *ret_more, uint16_t *ret_count) MUST_USE;
int relay_next_submitted(struct cursor *c, struct relay_submitted_item *ret_m) MUST_USE;
int relay_next_deliver(struct cursor *c, struct relay_deliver_item *ret_m) MUST_USE;
int relay_next_presence(struct cursor *c, struct relay_presence_item *ret_m) MUST_USE;
int relay_next_state(struct cursor *c, struct relay_state_item *ret_m) MUST_USE;
int relay_next_submit(struct cursor *c, struct relay_submit_item *ret_m) MUST_USE;
int relay_next_ack(struct cursor *c, struct envelope_id *ret_id) MUST_USE;
int relay_next_query(struct cursor *c, struct relay_query_item *ret_m) MUST_USE;
int relay_next_watch(struct cursor *c, struct address *ret_who) MUST_USE;
int relay_next_user(struct cursor *c, struct relay_user *ret_m) MUST_USE;

/* What RAK signs for AUTH, and AK for UNREGISTER (both ends build the same bytes). exporter is NULL without
 * TLS. */
void relay_auth_signed(struct buf *b, const struct relay_auth *m, const uint8_t relay_nonce[RELAY_NONCE_LEN],
        const uint8_t *exporter);
void relay_delete_signed(struct buf *b, const uint8_t relay_nonce[RELAY_NONCE_LEN],
        const uint8_t uid[UID_LEN], uint64_t time_ms);

/* True for 1 to 64 bytes of a-z 0-9 . _ - that begin with a letter or digit. */
bool user_name_ok(const void *p, size_t n);
/* 52 characters and a zero byte. */
#define UID_TEXT_LEN 52
void uid_to_text(const uint8_t uid[UID_LEN], char ret_text[UID_TEXT_LEN + 1]);
/* WIRE_MALFORMED unless text is exactly one canonical uid. */
int uid_from_text(const char *text, uint8_t ret_uid[UID_LEN]) MUST_USE;

/*
 * Device list entries and prekeys as the relay must read them to check and to sort them: structure only, and
 * signatures by libsodium. The crypto layer has its own, fuller, view; both call this parser.
 */
#define ENTRY_MAX_DEVICES 16
#define ENTRY_MAX_SUITES 16
#define ENTRY_MAX_REVOKED 64
struct entry_device {
    uint32_t device;
    uint8_t dsk[32], dhk[32], rak[32];
    uint8_t suites;
    uint16_t suite[ENTRY_MAX_SUITES];
    struct span bytes; /* the device's encoding, for the device hash */
};
struct entry {
    struct span body;
    uint8_t ak[32];
    struct span name;
    uint64_t n;
    uint8_t previous[32];
    uint64_t time_ms;
    uint8_t devices;
    struct entry_device device[ENTRY_MAX_DEVICES];
    uint8_t revoked;
    uint32_t revoked_device[ENTRY_MAX_REVOKED];
    const uint8_t *ak_signature;
    const uint8_t *dsk_signatures; /* devices × 64 */
};
/* Structure of section 2, with all its rules, but no signature. */
int entry_parse(const void *p, size_t n, struct entry *ret_entry) MUST_USE;

struct prekey_record {
    struct span body;
    uint8_t uid[UID_LEN];
    uint32_t device;
    uint64_t list_n; /* 0 for one-time */
    uint16_t suite;  /* 0 for one-time */
    uint32_t id;
    uint8_t x25519[32];
    const uint8_t *mlkem;                 /* 1184 bytes */
    uint64_t not_before_ms, not_after_ms; /* 0 for one-time */
    const uint8_t *signature;
};
#define PREKEY_MLKEM_LEN 1184
int prekey_parse_signed(const void *p, size_t n, struct prekey_record *ret_record) MUST_USE;
int prekey_parse_one_time(const void *p, size_t n, struct prekey_record *ret_record) MUST_USE;

#endif
