/*
 * A relay in memory, written from docs/PROTOCOL.md section 8 alone: it shares nothing with the real one but
 * the wire's codec. It keeps its word unless it is told to lie. Deterministic: time and randomness are the
 * caller's.
 */
#ifndef E2EE_SIMRELAY_H
#define E2EE_SIMRELAY_H

#include "identity.h"
#include "linkmsg.h"

#define SIMRELAY_MAX_CONNS 64
#define SIMRELAY_MAILBOX 20000u

struct bytes {
    uint8_t *p;
    size_t n;
};
struct bytes bytes_copy(const void *p, size_t n);
void bytes_free(struct bytes *b);

/* Chances are out of 1,000, taken for each case anew. */
struct simrelay_lies {
    unsigned forget;     /* answers SUBMITTED, and has not got it */
    unsigned duplicate;  /* delivers an envelope once more under another id */
    unsigned reorder;    /* puts an envelope in front of the one before it */
    unsigned corrupt;    /* turns one bit of a delivered body */
    unsigned reflect;    /* delivers a copy to its sender */
    unsigned retry;      /* status TRY AGAIN */
    unsigned busy;       /* answers a question with ERROR BUSY */
    unsigned replay;     /* delivers an old envelope of the mailbox again */
    bool strip_one_time; /* hands out bundles without one-time prekeys */
    bool silent_deliver; /* delivers nothing */
    bool forget_acks;    /* acknowledged envelopes are unknown in QUERY */
};

struct simrelay;
struct simrelay_hooks {
    void *ctx;
    /* One message for a connection. */
    void (*send)(void *ctx, int conn, const void *p, size_t n);
    /* The relay ends a connection. */
    void (*close)(void *ctx, int conn);
};
struct simrelay_liar {
    void *ctx;
    /* Each may be NULL, or changes what is about to be said. */
    void (*account)(void *ctx, struct relay_account *m);
    void (*bundle)(void *ctx, const struct address *who, struct relay_bundle *m);
    /* false: not stored (and nevertheless answered as stored). */
    bool (*submit)(void *ctx, const struct address *from, const struct relay_submit_item *m);
};

struct simrelay *simrelay_new(const struct rng *rng, const struct simrelay_hooks *hooks);
struct simrelay *simrelay_copy(
        const struct simrelay *sr, const struct rng *rng, const struct simrelay_hooks *hooks);
void simrelay_free(struct simrelay *sr);
void simrelay_set_time(struct simrelay *sr, uint64_t now_ms);
struct simrelay_lies *simrelay_lies(struct simrelay *sr);
void simrelay_set_liar(struct simrelay *sr, const struct simrelay_liar *liar);
void simrelay_registration(struct simrelay *sr, enum relay_registration registration, const char *token);

/* A new connection: the number, and the CHALLENGE is on its way. */
int simrelay_connect(struct simrelay *sr, const struct link_connected *c);
void simrelay_disconnect(struct simrelay *sr, int conn);
void simrelay_receive(struct simrelay *sr, int conn, const void *p, size_t n);
/* Sends what waits for connections that have room. */
void simrelay_pump(struct simrelay *sr);

/* --- what only the world above may do --- */

/* Everything is gone: accounts, prekeys, mailboxes; a new store id. Connections end. */
void simrelay_lose_disk(struct simrelay *sr);
/* All envelopes are gone, accounts and prekeys are not. */
void simrelay_lose_mail(struct simrelay *sr);
void simrelay_drain_prekeys(struct simrelay *sr, const uint8_t uid[UID_LEN]);
/* The name belongs to another account from now on. */
void simrelay_rename(struct simrelay *sr, const uint8_t uid[UID_LEN], const char *name);
/* Puts any bytes into a mailbox. */
void simrelay_inject(struct simrelay *sr, const struct address *to, const void *body, size_t n);
/* The i-th envelope body that was ever submitted for a device (kept for replays); p NULL beyond the last. */
struct bytes simrelay_history(const struct simrelay *sr, const struct address *to, size_t i);
size_t simrelay_waiting(const struct simrelay *sr, const struct address *to);
size_t simrelay_one_time_left(const struct simrelay *sr, const uint8_t uid[UID_LEN]);
uint64_t simrelay_claims(const struct simrelay *sr);
bool simrelay_authed(const struct simrelay *sr, int conn);
bool simrelay_find(const struct simrelay *sr, const char *name, uint8_t ret_uid[UID_LEN]);
/* Sends any bytes to an open connection as the relay. */
void simrelay_say(struct simrelay *sr, int conn, const void *p, size_t n);

#endif
