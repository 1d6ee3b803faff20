/*
 * Inside the engine: its state, and what its parts offer each other. One part is one file; the order here is
 * the order in which a message out meets them, then a message in.
 *
 * Results are those of base.h; a part's positive results are named at its functions.
 */
#ifndef E2EE_STATE_H
#define E2EE_STATE_H

#include <sys/queue.h>

#include "engine.h"
#include "ratchet.h"
#include "table.h"

/* The maps of the store, and their keys. Numbers are for ever. */
enum map_id {
    MAP_META = 1,      /* name → see meta.c */
    MAP_PREKEY = 2,    /* u8 one-time ‖ u32be id → made, superseded, secret */
    MAP_CONTACT = 3,   /* uid → contact */
    MAP_NAME = 4,      /* user name → uid */
    MAP_PEER = 5,      /* address → peer */
    MAP_SESSION = 6,   /* session key → ratchet */
    MAP_ROUTE = 7,     /* route tag → session key */
    MAP_EK = 8,        /* EK → time */
    MAP_OUT = 9,       /* message id → message on its way */
    MAP_DATA = 10,     /* message id → payload, envelope */
    MAP_DONE = 11,     /* message id → how it ended */
    MAP_CONTROL = 12,  /* envelope id → receipt or notice on its way to the relay */
    MAP_SEEN = 13,     /* SHA-256 of an envelope body → whose it was */
    MAP_ID = 14,       /* sender uid ‖ message id → time, flags */
    MAP_EVENT = 15,    /* u64be seq → u8 type, event */
    MAP_CONSUMER = 16, /* name → seq */
    MAP_HELD = 17,     /* uid ‖ u64be number ‖ u64be time ‖ SHA-256 of the body → envelope body */
    MAP_LAST = 17
};

#define ADDRESS_KEY_LEN 36u
#define SESSION_KEY_LEN (ADDRESS_KEY_LEN + 8u + TRANSCRIPT_LEN)
#define MAX_OLD_SESSIONS 4u
#define OLD_SESSION_MS (7 * DAY_MS)
#define SESSION_WINDOW 900u
#define CONTROL_WINDOW 960u
#define PROGRESS_MS (10 * SECOND_MS)
#define REOFFER_MS (6 * DAY_MS)
#define TROUBLE_MS (10 * MINUTE_MS)
#define RESET_EVERY_MS HOUR_MS
#define DEDUPE_MS (60 * DAY_MS)
#define DONE_MS (62 * DAY_MS) /* longer than DEDUPE_MS: an id that may be used again is shown again */
#define EK_MS (31 * DAY_MS)
#define CONTROL_MS (30 * DAY_MS)
#define MAX_LOADED_SESSIONS 64u
#define MAX_FLYING 1024u
#define MAX_FLYING_BYTES (2u * 1048576u)
#define MAX_CONTROL 8192u
#define MAX_EPHEMERAL 256u
#define EPHEMERAL_MS (5 * SECOND_MS)
#define MAX_OWED 1000u
#define MAX_TOMBSTONES 64u      /* ranges */
#define NOTICE_MAX_COUNTS 4096u /* in one notice */
#define MAX_GAPS 64u
#define GAP_REPORT_MS (5 * MINUTE_MS)
#define MAX_HELD_PER_UID 100u
#define MAX_HELD 1000u
#define HELD_RESERVE 200u /* of MAX_HELD: for contacts alone */
#define HELD_MS (30 * DAY_MS)
#define MAX_ERROR_EVENTS_MINUTE 10u
#define MAX_ERROR_CODES 16u
#define MAX_RAW_EVENTS_MINUTE 10u
#define MAX_RAW_ANSWERS 1000u
#define HELD_ASK_MS (5 * MINUTE_MS)
#define HELD_ASK_MAX 64u
#define SESSION_AHEAD_MS DAY_MS
#define ONE_TIME_TARGET 100u
#define ONE_TIME_LOW 50u
#define EFFECT_MAX_DATA (1u << 20)
#define SWEEP_MAPS 5u
#define STORE_VALUE_MAX (512u * 1024u)
#define DEFAULT_MAX_EVENTS 100000u

/* Clocks jump: what lies in the future is no time ago. */
static inline uint64_t elapsed(uint64_t now_ms, uint64_t then_ms)
{
    return now_ms > then_ms ? now_ms - then_ms : 0;
}

enum event_type {
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_ERROR,
    EV_MESSAGE,
    EV_MESSAGE_ACK,
    EV_KEY_CHANGED,
    EV_SESSION_RESET,
    EV_RAW,
    EV_GAP,
    EV_COUNT
};

enum key_policy { KEY_POLICY_BLOCK = 0, KEY_POLICY_HOLD = 1, KEY_POLICY_ACCEPT = 2 };

/* Somebody that we know: pinned keys, and what a person has decided. */
struct contact {
    struct table_node node; /* engine.contacts, by uid */
    uint8_t uid[UID_LEN];
    uint8_t ak[32];
    char name[RELAY_MAX_NAME + 1]; /* "": known by uid only */
    struct list_ref list;
    struct device device; /* the first of the pinned list */
    uint8_t policy;       /* enum key_policy */
    bool verified, blocked;
    bool held;           /* a stranger under the policy hold: nothing is sent, not even receipts */
    uint64_t checked_ms; /* when the relay last confirmed the name; not stored */
    bool changed;        /* the relay has the name under another uid */
    uint8_t new_uid[UID_LEN], new_ak[32];
};

struct session {
    TAILQ_ENTRY(session) lru;
    struct peer *peer;
    struct ratchet *ratchet;
    uint8_t key[SESSION_KEY_LEN];
    size_t n_tags;
    uint8_t tags[RATCHET_MAX_TAGS][ROUTE_TAG_LEN];
    bool dirty;
};

struct session_ref {
    uint64_t number;
    uint8_t transcript[TRANSCRIPT_LEN];
    uint64_t old_since_ms; /* 0: active */
    struct session *loaded;
};

/* Counts that have not come (counts.c). */
enum gap_kind { GAP_MISSING = 0, GAP_REPORTED = 1, GAP_EXPIRED = 2 };
struct gap {
    uint64_t from, to, noticed_ms;
    uint8_t kind;
};
/* Counts of ours that will not come. */
struct tombstone {
    uint64_t from, to;
};

TAILQ_HEAD(outmsg_list, outmsg);
TAILQ_HEAD(peer_list, peer);

/* One device of a contact. */
struct peer {
    struct table_node node; /* engine.peers, by address key */
    uint8_t key[ADDRESS_KEY_LEN];
    struct address address;
    struct contact *contact;
    size_t n_sessions; /* the first one is active */
    struct session_ref sessions[MAX_OLD_SESSIONS + 1];
    uint64_t highest_session, last_reset_ms;
    uint64_t next_count;    /* of the next counted message to it */
    uint64_t highest_count; /* received from it */
    uint64_t judged_from;   /* gaps up to here are no longer known */
    size_t n_gaps, n_tombstones;
    struct gap *gaps;             /* NULL, or room for MAX_GAPS */
    struct tombstone *tombstones; /* NULL, or room for MAX_TOMBSTONES */
    /* From here on not stored. */
    bool dirty; /* in engine.dirty_peers; see peer_touch() */
    TAILQ_ENTRY(peer) dirty_peers;
    struct outmsg_list waiting;
    TAILQ_ENTRY(peer) waiting_peers;
    bool in_waiting;
    TAILQ_ENTRY(peer) owing_peers;
    bool in_owing;
    struct buf owed; /* receipt items, encoded */
    uint16_t n_owed;
    bool claiming;
    bool reset_wanted;
    uint64_t claim_not_before_ms;
    uint32_t claim_failures;
    uint64_t progress_ms; /* when `seen` of the peer last moved */
    uint32_t resets;      /* since it last moved */
    bool stalled;         /* nothing can be sent now; looked at again after a tick or a new session */
    bool watched, presence_known, present;
};

enum out_state {
    OUT_WAITING = 0,
    OUT_READY = 1,
    OUT_SENT = 2,
    OUT_DELIVERED = 3,
    OUT_READ = 4,
    OUT_EXPIRED = 5,
    OUT_FAILED = 6
};
#define OUT_TEXT 1u
#define OUT_REQUIRE_VERIFIED 2u
#define ID_TEXT_MAX 64u

/* An envelope that the relay has to take, or has taken: in a message or in a control. */
struct flight {
    struct table_node node; /* engine.envelopes, by envelope id; from encryption to the end */
    bool control;           /* the holder is a struct control, else a struct outmsg */
    bool flying;            /* submitted on this connection, and not yet answered */
    uint32_t bytes;
};

/* A message that has not reached its end: in MAP_OUT and MAP_DATA, or (qos 0) in memory alone. */
struct outmsg {
    TAILQ_ENTRY(outmsg) all;
    TAILQ_ENTRY(outmsg) queue; /* peer.waiting, engine.future or engine.ready, as `queued` says */
    struct outmsg_list *queued;
    struct table_node by_id; /* engine.out */
    struct flight flight;
    struct message_id id;
    char id_text[ID_TEXT_MAX + 1];
    struct peer *peer;
    uint64_t order, seq, count;
    uint64_t created_ms, expires_ms, not_before_ms;
    uint8_t qos, flags, state;
    uint8_t digest[16]; /* of recipient and payload: the same id must be the same message */
    struct envelope_id envelope;
    uint64_t encrypted_ms, session_number;
    uint64_t retry_ms;             /* ready again then; 0: now */
    uint64_t queried_ms, acked_ms; /* when the relay was last asked; when it first said «acknowledged» */
    uint32_t attempts;
    uint8_t *payload; /* qos 0 only */
    size_t payload_len;
};

/* A receipt or notice that the relay has not stored yet. */
struct control {
    TAILQ_ENTRY(control) all;
    struct flight flight;
    struct envelope_id envelope;
    struct address to;
    uint64_t expires_ms, retry_ms;
};

/* One of them: what its key says. */
struct held_item {
    TAILQ_ENTRY(held_item) list;
    uint64_t number, time_ms;
    uint8_t hash[32];
};

/* Somebody of whom envelopes are held (held.c). */
struct held_uid {
    struct table_node node; /* engine.held */
    uint8_t uid[UID_LEN];
    char name[RELAY_MAX_NAME + 1]; /* that the first of them claims */
    TAILQ_HEAD(held_list, held_item) items;
    size_t n;
};

enum request_kind {
    REQ_NONE = 0,
    REQ_REGISTER,
    REQ_AUTH,
    REQ_PREKEYS,
    REQ_LOOKUP,
    REQ_CLAIM,
    REQ_USERS,
    REQ_UNREGISTER
};
#define MAX_REQUESTS 256u
struct request {
    enum request_kind kind;
    uint32_t ref;
    uint64_t deadline_ms;
    uint64_t ticket;
    struct address who;            /* CLAIM; uid of a LOOKUP by uid */
    char name[RELAY_MAX_NAME + 1]; /* LOOKUP by name */
    bool stranger;
};

/* A local call that waits for a LOOKUP; it is made again afterwards. */
struct deferred {
    TAILQ_ENTRY(deferred) list;
    uint64_t ticket, deadline_ms;
    char name[UID_TEXT_LEN + RELAY_MAX_NAME];
    const char *method;
    size_t n;
    uint8_t params[];
};

struct wait {
    TAILQ_ENTRY(wait) list;
    uint64_t ticket, deadline_ms;
    struct message_id id;
    char id_text[ID_TEXT_MAX + 1];
    uint8_t until;
};

enum conn_state { CONN_NONE = 0, CONN_CHALLENGE, CONN_REGISTERING, CONN_AUTHENTICATING, CONN_ONLINE };

struct effect_node {
    struct effect effect; /* first, so that effect_free() finds it */
    STAILQ_ENTRY(effect_node) next;
};

/* Errors that nobody in particular has caused: a few of each code a minute. */
struct error_budget {
    const char *code;
    uint64_t window_ms;
    uint32_t n, swallowed;
};

struct engine {
    struct engine_config cfg;
    struct port port;
    struct rng rng;
    uint64_t now; /* the clock; while online without its jumps, see set_clock() */
    uint64_t clock_ms;
    int64_t jump_ms; /* now - clock_ms */

    /* The account. */
    struct identity *id;
    char relay[256];
    char token[RELAY_MAX_TOKEN + 1];
    bool registered;
    uint8_t guid[16];
    uint8_t store_id[16];
    uint64_t create_ticket, create_deadline_ms;
    bool creating;
    uint32_t next_prekey_id;
    uint64_t drained_ms;

    /* The connection. */
    enum conn_state conn;
    bool tls;
    uint8_t exporter[EXPORTER_LEN];
    char host[RELAY_MAX_HOST + 1];
    uint8_t relay_nonce[RELAY_NONCE_LEN];
    uint32_t relay_max_body;
    uint32_t next_ref;
    struct request requests[MAX_REQUESTS];
    size_t n_requests;
    uint32_t rtt_us;
    char last_error[128];
    int64_t relay_ahead_ms; /* the relay's clock against ours */
    bool prekeys_wanted;    /* an upload is due, or was refused */
    uint32_t relay_one_time, relay_signed_id;
    size_t n_watched;

    struct table contacts, peers, out, envelopes, held;
    TAILQ_HEAD(session_head, session) loaded;
    size_t n_loaded;
    struct peer_list waiting_peers, owing_peers, dirty_peers;
    struct outmsg_list all, ready, future;
    TAILQ_HEAD(, control) controls;
    size_t n_out, n_controls, n_ephemeral, n_flying, flying_bytes;
    uint64_t next_order;
    TAILQ_HEAD(, deferred) deferred;
    size_t n_deferred;
    bool looked_up; /* the call at hand has had its look-up */
    TAILQ_HEAD(, wait) waits;
    size_t n_waits;

    /* Batches of the turn. */
    struct buf submit, acks;
    struct buf scratch;  /* records */
    struct buf plain;    /* secret: plaintexts and secret records */
    struct buf envelope; /* an envelope body in the making */

    size_t n_held, held_slot; /* held_slot: where the next questions begin */
    uint64_t first_seq, last_seq, last_tick_ms, held_number;
    struct error_budget budgets[MAX_ERROR_CODES];
    struct error_budget raw_budget;
    uint32_t raw_answers; /* text frames that ours may bring */
    uint64_t raw_second_ms;
    uint32_t raw_bytes; /* written in that second */
    bool register_sent, introduced;
    uint64_t sweep_ms, upkeep_ms, held_asked_ms;
    unsigned sweep_map;
    uint8_t sweep_key[SWEEP_MAPS][PORT_MAX_KEY];
    size_t sweep_key_len[SWEEP_MAPS];
    STAILQ_HEAD(, effect_node) effects;
};

/* effects.c */
int effect_push(struct engine *e, enum effect_kind kind, const void *data, size_t n) MUST_USE;
int effect_text(struct engine *e, enum effect_kind kind, const char *text, uint32_t retry_after_ms) MUST_USE;
/* result NULL: an empty map. */
int answer_ok(struct engine *e, uint64_t ticket, const struct buf *result) MUST_USE;
int answer_fail(struct engine *e, uint64_t ticket, enum api_error error, uint32_t retry_after_ms,
        const char *fmt, ...) __attribute__((format(printf, 5, 6))) MUST_USE;

/* records.c: one place for the encodings; each load answers PORT_NOT_FOUND where there is nothing. -EBADMSG:
 * not ours. */
void address_key(const struct address *a, uint8_t ret_key[ADDRESS_KEY_LEN]);
int record_put(struct engine *e, enum map_id map, const void *key, size_t n, struct buf *value) MUST_USE;
int contact_store(struct engine *e, const struct contact *c) MUST_USE;
int contact_parse(const void *p, size_t n, struct contact *ret_contact) MUST_USE;
int peer_store(struct engine *e, const struct peer *p) MUST_USE;
/* What it allocated is the peer's, also after a failure. */
int peer_parse(const void *raw, size_t n, struct peer *ret_peer) MUST_USE;
int outmsg_store(struct engine *e, const struct outmsg *m) MUST_USE;
int outmsg_parse(const void *p, size_t n, struct outmsg *ret_m, struct address *ret_to) MUST_USE;

/* How a message ended, as MAP_DONE keeps it. */
struct done {
    struct address to;
    uint8_t state;
    uint8_t digest[16];
    uint64_t seq, time_ms;
    char id_text[ID_TEXT_MAX + 1];
    char reason[32];
};
int done_store(struct engine *e, const struct message_id *id, const struct done *d) MUST_USE;
int done_load(struct engine *e, const struct message_id *id, struct done *ret_done) MUST_USE;

/* meta.c: account record and counters. */
int meta_load(struct engine *e) MUST_USE;
int meta_store(struct engine *e) MUST_USE;
int meta_wipe(struct engine *e) MUST_USE; /* every record of every map */

/* events.c */
struct buf *event_begin(struct engine *e, enum event_type type, struct mp_map *ret_map);
int event_end(struct engine *e, struct mp_map *map) MUST_USE;
int event_error(struct engine *e, const char *code, const struct contact *from, const char *fmt, ...)
        __attribute__((format(printf, 4, 5))) MUST_USE;
int event_raw(struct engine *e, const void *p, size_t n) MUST_USE;
int events_load(struct engine *e) MUST_USE;
int events_prune(struct engine *e) MUST_USE;

/* contact.c */
struct contact *contact_find(struct engine *e, const uint8_t uid[UID_LEN]);
/* By user name or uid text. 0, 1: nobody. */
int contact_resolve(struct engine *e, const char *user, struct contact **ret_contact) MUST_USE;
/* Name for people: the user name, or the uid as text. buf has room for UID_TEXT_LEN + 1. */
const char *contact_label(const struct contact *c, char buf[UID_TEXT_LEN + 1]);
/* 1: too many. */
int contact_new(struct engine *e, const struct device_list *list, const char *name,
        struct contact **ret_contact) MUST_USE;
/* A verified newer list of a contact. */
int contact_set_list(struct engine *e, struct contact *c, const struct device_list *list) MUST_USE;
/* What a LOOKUP by name brought: pins, or finds the change. 1: refused. */
int contact_learn(struct engine *e, const char *name, const struct device_list *list) MUST_USE;
int contacts_load(struct engine *e) MUST_USE;
/* API_OK, or why nothing may be sent to it now. */
enum api_error contact_may_send(const struct contact *c, bool require_verified);
void peer_free(struct engine *e, struct peer *p);
/* p has changed; it is stored when the turn ends. */
void peer_touch(struct engine *e, struct peer *p);
struct peer *peer_find(struct engine *e, const struct address *a);
int peer_get(struct engine *e, struct contact *c, uint32_t device, struct peer **ret_peer) MUST_USE;
int contact_call(
        struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params) MUST_USE;

/* sessions.c */
/* The session of a route tag; 1: none. */
int session_by_tag(struct engine *e, const uint8_t tag[ROUTE_TAG_LEN], struct session **ret_session) MUST_USE;
/* The one that sends; 1: none. */
int session_active(struct engine *e, struct peer *p, struct session **ret_session) MUST_USE;
/* Takes the ratchet over in any case. */
int session_add(struct engine *e, struct peer *p, struct ratchet *r, struct session **ret_session) MUST_USE;
int sessions_flush(struct engine *e) MUST_USE;
int sessions_expire(struct engine *e, struct peer *p) MUST_USE;
void sessions_unload(struct engine *e, struct peer *p);
int sessions_delete(struct engine *e, struct peer *p) MUST_USE;
/* The session that may carry one more message; 1: not now (and what it takes is under way). */
int session_for_sending(
        struct engine *e, struct peer *p, uint64_t window, struct session **ret_session) MUST_USE;
int session_bundle(struct engine *e, struct peer *p, const struct relay_bundle *b) MUST_USE;

/* outbox.c */
int outbox_load(struct engine *e) MUST_USE;
int outbox_send(struct engine *e, uint64_t ticket, const struct mp_value *params) MUST_USE;
int outbox_pump(struct engine *e) MUST_USE;
int outbox_tick(struct engine *e) MUST_USE;
/* Ends m: MAP_DONE, event, waits. reason NULL: none. m is gone afterwards. */
int outbox_finish(struct engine *e, struct outmsg *m, enum out_state state, const char *reason) MUST_USE;
int outbox_receipt(struct engine *e, struct peer *from, const struct message_id *id, uint8_t state) MUST_USE;
int outbox_fail_contact(struct engine *e, struct contact *c, const char *reason) MUST_USE;
/* To be encrypted again, from the payload. */
int outbox_again(struct engine *e, struct outmsg *m) MUST_USE;
void outmsg_enqueue(struct engine *e, struct outmsg *m, struct outmsg_list *list);
void outmsg_free(struct engine *e, struct outmsg *m);
const char *out_state_name(uint8_t state);
size_t outbox_queued(const struct engine *e);

/* submit.c: what is under way to the relay. */
bool submit_room(const struct engine *e);
int submit_message(struct engine *e, struct outmsg *m, struct span body) MUST_USE;
int submit_control(struct engine *e, struct control *c, struct span body) MUST_USE;
int flight_track(struct engine *e, struct flight *f, const struct envelope_id *id) MUST_USE;
/* Harmless where it is not tracked. */
void flight_end(struct engine *e, struct flight *f);
int submit_flush(struct engine *e) MUST_USE;
int submit_results(struct engine *e, struct cursor *c) MUST_USE;
int submit_states(struct engine *e, struct cursor *c) MUST_USE;
int submit_query(struct engine *e, bool all) MUST_USE;
/* The connection has gone: everything that flew is ready again. */
int submit_reset(struct engine *e) MUST_USE;

/* control.c: receipts and notices. */
int control_load(struct engine *e) MUST_USE;
int control_owe(struct engine *e, struct peer *p, const struct message_id *id, uint8_t state) MUST_USE;
int control_flush(struct engine *e) MUST_USE;
int control_notice(struct engine *e, struct peer *p, struct session *s) MUST_USE;
int control_submit(struct engine *e) MUST_USE;
int control_done(struct engine *e, struct control *c) MUST_USE;
/* Nothing more goes to this account. */
int control_drop(struct engine *e, const uint8_t uid[UID_LEN]) MUST_USE;
int control_tick(struct engine *e) MUST_USE;

/* wait.c */
int wait_call(struct engine *e, uint64_t ticket, const struct mp_value *params) MUST_USE;
int wait_notify(struct engine *e, const struct message_id *id, uint8_t state, const char *reason) MUST_USE;
int wait_tick(struct engine *e) MUST_USE;
/* The account is gone: everybody who waits is told. */
int wait_abandon(struct engine *e) MUST_USE;

/* inbox.c */
int inbox_deliver(struct engine *e, struct cursor *c) MUST_USE;
/* An envelope that was held, now that its sender is known. */
int inbox_again(struct engine *e, struct span body) MUST_USE;
int inbox_read_call(struct engine *e, uint64_t ticket, const struct mp_value *params) MUST_USE;

/* counts.c: gaps in what comes, tombstones of what will not. */
/* A message with this count has come for the first time. */
int counts_came(struct engine *e, struct peer *p, uint64_t count) MUST_USE;
/* Its sender says that this one will not come. */
int counts_expired(struct engine *e, struct peer *p, uint64_t count) MUST_USE;
int counts_tick(struct engine *e) MUST_USE;
int counts_bury(struct engine *e, struct peer *p, uint64_t count) MUST_USE;
/* Takes up to max counts out of the tombstones. */
size_t counts_unbury(struct engine *e, struct peer *p, size_t max, struct buf *out);

/* held.c: envelopes of people who are not known yet, or not let in. */
int held_load(struct engine *e) MUST_USE;
void held_clear(struct engine *e);
/* Whether the envelope with this SHA-256 is held already. */
bool held_has(struct engine *e, const uint8_t uid[UID_LEN], const uint8_t hash[32]);
/* Strangers find no room in the part that is kept for contacts. Drops the envelope, with an event, where
 * there is none. */
int held_put(struct engine *e, const uint8_t uid[UID_LEN], const char *name, const uint8_t hash[32],
        struct span body) MUST_USE;
/* Takes them in, in their order. */
int held_release(struct engine *e, const uint8_t uid[UID_LEN]) MUST_USE;
int held_drop(struct engine *e, const uint8_t uid[UID_LEN]) MUST_USE;
/* Asks the relay for those whom a lost answer has left unknown, some at a time, and drops what has waited too
 * long. */
int held_ask(struct engine *e) MUST_USE;

/* account.c: life of the account, registration, authentication, prekeys. */
int account_call(
        struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params) MUST_USE;
int account_challenge(struct engine *e, struct cursor *c) MUST_USE;
int account_welcome(struct engine *e, struct cursor *c) MUST_USE;
int account_authenticate(struct engine *e) MUST_USE;
/* The relay has forgotten us; so do we. */
int account_unregistered(struct engine *e, uint64_t ticket) MUST_USE;
int account_refused(struct engine *e, const struct relay_error_msg *m) MUST_USE;
/* Text of a relay's error for people. */
void relay_text(const struct relay_error_msg *m, char ret_text[128]);
int account_tick(struct engine *e) MUST_USE;
/* The peers' times are drawn back where the clock has gone back. */
void peer_rewind(struct peer *p, uint64_t now_ms);
void outmsg_rewind(struct outmsg *m, uint64_t now_ms);

/* prekeys.c */
/* Brings the relay what it lacks, by engine.relay_one_time and relay_signed_id; makes and deletes what is
 * due. */
int prekeys_upkeep(struct engine *e) MUST_USE;
int prekey_find(struct engine *e, bool one_time, uint32_t id, struct prekey_secret *ret_secret) MUST_USE;
int prekey_used(struct engine *e, uint32_t id) MUST_USE;

/* relay.c: requests and their answers. */
int relay_request(struct engine *e, const struct request *r, struct buf *message) MUST_USE;
uint32_t relay_next_ref(struct engine *e);
int relay_lookup_name(struct engine *e, const char *name) MUST_USE;
/* The name that an unknown sender claims; what is held of it is delivered or dropped by the answer. */
int relay_lookup_stranger(struct engine *e, const uint8_t uid[UID_LEN], const char *name) MUST_USE;
int relay_lookup_uid(struct engine *e, const uint8_t uid[UID_LEN]) MUST_USE;
int relay_claim(struct engine *e, struct peer *p) MUST_USE;
/* The connection has gone. */
int relay_reset(struct engine *e) MUST_USE;
int relay_prekeys_left(struct engine *e, uint32_t ref, struct cursor *c) MUST_USE;
int relay_online(struct engine *e) MUST_USE;
int relay_error(struct engine *e, uint32_t ref, const struct relay_error_msg *m) MUST_USE;
int relay_answer(struct engine *e, uint8_t type, uint32_t ref, struct cursor *c) MUST_USE;
int relay_tick(struct engine *e) MUST_USE;
int relay_abandon(struct engine *e) MUST_USE;
int relay_users_call(struct engine *e, uint64_t ticket, const struct mp_value *params) MUST_USE;
/* Makes the call again once the directory has answered for user. */
int relay_defer(struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params,
        const char *user) MUST_USE;
int relay_undefer(struct engine *e, const char *user, enum api_error error, uint32_t retry_after_ms,
        const char *text) MUST_USE;

/* sweep.c: old records. */
int sweep_tick(struct engine *e) MUST_USE;

/* engine.c */
/* Forgets the account in memory; the store is the caller's business. */
void engine_clear(struct engine *e);
int engine_dispatch(
        struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params) MUST_USE;

/* params.c: reading checked parameters. */
bool param_str(const struct mp_value *params, const char *name, char *ret, size_t size);
uint64_t param_uint(const struct mp_value *params, const char *name, uint64_t otherwise);
bool param_bool(const struct mp_value *params, const char *name, bool otherwise);
/* The raw bytes behind a string or binary parameter; n 0 and p NULL: absent. */
struct span param_bytes(const struct mp_value *params, const char *name);

#endif
