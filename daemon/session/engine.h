/*
 * The engine: an account's whole protocol as a machine without descriptors, clock or globals. Inputs are
 * local calls, link and relay happenings, and the passing of time; results are records written through the
 * port and a list of effects.
 *
 * A turn: any number of inputs, then engine_turn_end(), then the application commits what the port was given,
 * and only then carries out the effects in their order. So whatever is sent or told is durable before. If an
 * input, engine_turn_end() or the commit fails (negative errno), the application rolls back, frees the engine
 * and makes a new one from the store; the relay connection is dropped and begins anew. That is also the path
 * after a crash.
 */
#ifndef E2EE_ENGINE_H
#define E2EE_ENGINE_H

#include "api.h"
#include "linkmsg.h"
#include "port.h"

#define ENGINE_MAX_PAYLOAD 65536u
#define ENGINE_MAX_QUEUED 20000u /* messages not yet acknowledged by their recipients */
#define ENGINE_MAX_CONTACTS 10000u
#define ENGINE_MAX_WAITS 4096u
#define ENGINE_MAX_LOOKUPS 64u /* calls that wait for an answer of the relay */
#define ENGINE_MAX_CONSUMERS 64u
#define ENGINE_MAX_TTL_MS (30 * DAY_MS)
#define ENGINE_CALL_TIMEOUT_MS (10 * SECOND_MS)

enum stranger_policy { STRANGERS_ACCEPT = 0, STRANGERS_HOLD = 1, STRANGERS_REFUSE = 2 };

struct engine_config {
    char account[RELAY_MAX_NAME + 1]; /* the daemon's account name, for status */
    enum stranger_policy strangers;
    bool receipts;       /* tell senders that a program read their message */
    bool require_tls;    /* refuse to authenticate over a connection without TLS */
    uint64_t max_events; /* the event log keeps the newest ones; 0: 100,000 */
};

struct engine;
/* Loads the account, if the store has one. cfg, port and rng are copied; what they point to outlives the
 * engine. */
int engine_new(const struct engine_config *cfg, const struct port *port, const struct rng *rng,
        uint64_t now_ms, struct engine **ret_engine) MUST_USE;
void engine_free(struct engine *e);

/*
 * Local calls by name, params checked by api_check_params(). Each is answered by exactly one EFFECT_ANSWER
 * with this ticket, in this turn or a later one. Methods it does not know (hello, api_info, health,
 * subscribe, unsubscribe): API_METHOD_NOT_FOUND.
 */
int engine_call(struct engine *e, uint64_t now_ms, uint64_t ticket, const char *method,
        const struct mp_value *params) MUST_USE;
/* The caller of ticket has gone. True: it was a wait, which is dropped and will not be answered. All else
 * takes its course. */
bool engine_forget(struct engine *e, uint64_t ticket);

/* The link. Messages are one relay message each. Before the first link_up and after a link_down there are
 * none. */
int engine_link_up(struct engine *e, uint64_t now_ms, const struct link_connected *c) MUST_USE;
int engine_link_down(struct engine *e, uint64_t now_ms, uint16_t code, const char *reason) MUST_USE;
int engine_link_text(struct engine *e, uint64_t now_ms, const void *p, size_t n) MUST_USE;
int engine_relay_message(struct engine *e, uint64_t now_ms, const void *p, size_t n) MUST_USE;
void engine_link_rtt(struct engine *e, uint32_t microseconds);

/* Timers that are due. */
int engine_tick(struct engine *e, uint64_t now_ms) MUST_USE;
/* When engine_tick() wants to be called next, at the latest; ms of the same clock. */
uint64_t engine_deadline(const struct engine *e);

/* Ends the inputs of a turn: sessions are saved, receipts and submissions are batched. */
int engine_turn_end(struct engine *e, uint64_t now_ms) MUST_USE;

enum effect_kind {
    EFFECT_CONNECT = 1, /* keep a connection to text (a URL); replaces an earlier one */
    EFFECT_DISCONNECT,  /* keep none */
    EFFECT_DROP,        /* close this connection and try again, not before retry_after_ms */
    EFFECT_GOOD,        /* authentication succeeded */
    EFFECT_SEND,        /* data is one relay message */
    EFFECT_SEND_TEXT,   /* data is one text frame */
    EFFECT_ANSWER,      /* error == API_OK: data is the result map; else error, text, retry_after_ms */
};

struct effect {
    enum effect_kind kind;
    uint64_t ticket;
    enum api_error error;
    uint32_t retry_after_ms;
    char text[API_MAX_TEXT];
    struct buf data;
};
/* The next effect in order, or NULL; it is the caller's until effect_free(). */
struct effect *engine_next_effect(struct engine *e);
void effect_free(struct effect *f);

/* The event log. Sequences begin at 1 and have no holes; last_seq counts events of this turn too. */
uint64_t engine_last_seq(const struct engine *e);
uint64_t engine_first_seq(const struct engine *e);
typedef int (*engine_event_sink)(void *ctx, uint64_t seq, const void *event, size_t n);
/*
 * Events with seq > after and their bit in types (bit i: api_events[i]), oldest first, until sink answers
 * non-zero (that event counts as not read). *ret_next: read up to here. Where retention has passed `after`
 * by, the first one is a gap event.
 */
int engine_read_events(struct engine *e, uint64_t after, uint64_t types, engine_event_sink sink, void *ctx,
        uint64_t *ret_next) MUST_USE;
/* Where a named consumer stands (0 for a new one), and its move; a move backwards is ignored; -EDQUOT: too
 * many consumers. */
int engine_consumer_get(struct engine *e, const char *name, uint64_t *ret_seq) MUST_USE;
int engine_consumer_ack(struct engine *e, const char *name, uint64_t seq) MUST_USE;

/* The user name of the account or NULL. */
const char *engine_user(const struct engine *e);

#endif
