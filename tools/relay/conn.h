/*
 * The relay's side of docs/PROTOCOL.md section 8, without any socket: relay messages go in, relay messages
 * come out.
 *
 * Whoever owns a socket makes a connection for it, feeds it whole messages, and after each call to wake()
 * takes what is to be written with conn_pull() until that says no, and looks at conn_wants_read() and
 * conn_finished().
 */
#ifndef E2EE_RELAY_CONN_H
#define E2EE_RELAY_CONN_H

#include "ratelimit.h"
#include "relay.h"

struct store;
struct hub;
struct conn;

enum hub_limit {
    LIMIT_SUBMIT,       /* envelopes of an account */
    LIMIT_BYTES,        /* their bytes */
    LIMIT_LOOKUP,       /* questions of an account: LOOKUP, LIST_USERS, QUERY, WATCH, prekey uploads */
    LIMIT_CLAIM,        /* prekey claims of an account */
    LIMIT_CLAIM_TARGET, /* ... from one target */
    LIMIT_REGISTER,     /* REGISTER from one address of the network */
    LIMIT_CONNECT,      /* AUTH of a device */
    HUB_LIMITS
};

struct hub_options {
    enum relay_registration registration;
    bool binding_required; /* over TLS, AUTH must be bound to the channel */
    const char *const *name;
    size_t names; /* host:port that AUTH may name */
    struct limit limit[HUB_LIMITS];
};
/* The limits that hold unless the operator says otherwise. */
void hub_default_limits(struct limit limit[HUB_LIMITS]);

/* What the state keeps of a registration token. */
#define TOKEN_HASH_LEN 32
void directory_token_hash(const void *token, size_t n, uint8_t ret_hash[TOKEN_HASH_LEN]);

struct hub_clock {
    uint64_t (*now_ms)(void); /* wall clock */
    uint64_t (*mono_ms)(void);
};

/* options' names and the store outlive the hub. NULL without memory. */
struct hub *hub_new(struct store *store, const struct hub_options *options, const struct hub_clock *clock);
/* All connections are gone and the store is closed. */
void hub_free(struct hub *h);
/* Once a second: deadlines, housekeeping, what must be tried again. */
void hub_tick(struct hub *h);
/* Nothing more is read on any connection; what was read is answered once the store has done it. */
void hub_drain(struct hub *h);
/* Closes all connections (1001). */
void hub_shut_down(struct hub *h);

struct conn_info {
    bool tls;                /* the relay itself ends it */
    const uint8_t *exporter; /* EXPORTER_LEN bytes, or NULL */
    uint8_t ip[16];          /* the peer's, IPv4 mapped */
};

#define CONN_AUTH_DEADLINE_MS UINT64_C(15000)
#define CONN_MAX_REPLY_BYTES (256u * 1024) /* queued replies beyond which nothing is read */
#define CONN_MAX_OUT_BYTES (1280u * 1024)  /* the window and the replies: the same for all that is queued */
#define CLOSE_POLICY 1008                  /* WebSocket close code: against the rules of this relay */
#define CONN_MAX_INFLIGHT 32u              /* requests with the store */
#define CONN_MAX_INFLIGHT_BYTES (1024u * 1024)
#define HUB_MAX_INFLIGHT_BYTES (64u * 1024 * 1024) /* of all connections */

/*
 * The challenge is queued at once. wake(io) may be called from inside any call on any connection or from the
 * store's completions; it must not call back into the connection. NULL without memory.
 */
struct conn *conn_new(struct hub *h, const struct conn_info *info, void (*wake)(void *io), void *io);
/* The socket is gone. The connection must not be used afterwards. Accepts NULL. */
void conn_gone(struct conn *c);
/* One whole binary message. */
void conn_message(struct conn *c, const uint8_t *p, size_t n);
/* The peer broke the rules below the messages: BAD_MESSAGE with the text, then close_code. */
void conn_violation(struct conn *c, uint16_t close_code, const char *text);
/* Moves the next message to be written into ret_message, which the caller frees. false: there is none. */
bool conn_pull(struct conn *c, struct buf *ret_message);
bool conn_has_output(const struct conn *c);
bool conn_wants_read(const struct conn *c);
/* It is on its way to be closed: nothing is read any more. */
bool conn_closing(const struct conn *c);
/* All is written, and the connection is to be closed with this WebSocket close code. */
bool conn_finished(const struct conn *c, uint16_t *ret_close_code);

#endif
