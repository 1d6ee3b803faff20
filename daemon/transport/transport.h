/*
 * The daemon's side of the link: starts the link program, watches it, carries messages, and connects again.
 *
 * A link is one process and one attempt (docs/PROTOCOL.md, section 9). What it says is not trusted: a link
 * that crashes, hangs, floods or sends garbage is killed, and costs a reconnection. The relay protocol
 * itself, with its authentication, is the caller's.
 *
 * Everything runs on the caller's event loop, in its one thread. No process outlives its transport.
 */
#ifndef E2EE_TRANSPORT_H
#define E2EE_TRANSPORT_H

#include "base.h"
#include "linkmsg.h"

struct event_base;
struct transport;

#define TRANSPORT_QUEUE_BYTES (4u << 20)
#define TRANSPORT_QUEUE_PACKETS 4096u
#define TRANSPORT_MAX_URL 2048u
#define TRANSPORT_MAX_HINT_MS (uint32_t)(HOUR_MS)
#define TRANSPORT_MAX_SCHEME 16u

/* Positive results. */
enum transport_status {
    TRANSPORT_FULL = 1, /* the queue's bound is reached: keep the message; `writable` follows */
    TRANSPORT_DOWN,     /* no connection: keep the message until `connected` */
    TRANSPORT_BAD_URL,  /* no scheme of a-z 0-9 -, or too long */
    TRANSPORT_TOO_LARGE /* over RELAY_MAX_MESSAGE, or empty */
};

/*
 * Called from the event loop, never from inside a call into this module. Each may call anything here except
 * transport_free(). Pointers live as long as the call.
 */
struct transport_callbacks {
    /* The connection to the relay stands. m->host is the host and port of the URL, as AUTH must sign it. */
    void (*connected)(void *ctx, const struct link_connected *m);
    /* One relay message, 1 to RELAY_MAX_MESSAGE bytes of whatever the network sent. */
    void (*message)(void *ctx, const uint8_t *p, size_t n);
    void (*text)(void *ctx, const uint8_t *p, size_t n);
    /*
     * The attempt or the connection has ended; the next begins in retry_in_ms. code is WebSocket's or 0.
     * reason is printable ASCII. Not called for an end that the caller asked for.
     */
    void (*closed)(void *ctx, uint16_t code, const char *reason, uint32_t retry_in_ms);
    /* Round-trip time to the relay in microseconds: after connecting, then once a minute. */
    void (*rtt)(void *ctx, uint32_t microseconds);
    /* A send was refused as TRANSPORT_FULL, and half of the queue is free again. */
    void (*writable)(void *ctx);
};

/* All in milliseconds and never 0. */
struct transport_tunables {
    uint32_t connect_ms;       /* a link that has not said CONNECTED or CLOSED by then hangs */
    uint32_t ping_interval_ms; /* while connected */
    uint32_t pong_timeout_ms;  /* a link of which nothing has come for so long after a PING hangs */
    uint32_t close_ms;         /* for a polite end; then it is killed */
    uint32_t backoff_min_ms;
    uint32_t backoff_max_ms;
};
/* 15 s (the link itself gives up after 10 s), 10 s, 20 s, 1 s, 0.25 s, 60 s. */
extern const struct transport_tunables transport_defaults;

/*
 * link_dir is where link programs are looked for before the installed place (NULL: only there). tunables NULL
 * means transport_defaults. All arguments but base are copied; base, ctx and what rng.ctx points to outlive
 * the transport. -ENOMEM. Nothing starts before transport_set_url().
 */
int transport_new(struct event_base *base, const char *link_dir, const struct transport_tunables *tunables,
        const struct transport_callbacks *callbacks, void *ctx, struct rng rng,
        struct transport **ret_t) MUST_USE;
/* Kills the link and waits for its end. Not from a callback. */
void transport_free(struct transport *t);

/*
 * Connects to url from now on, with the scheme's link program (ws for ws: and wss:). ca_file NULL: the
 * system's authorities. A connection to the former URL is closed first. url NULL stops. TRANSPORT_BAD_URL
 * changes nothing, nor do the url and ca_file that are in use: connection and backoff stay as they are.
 */
int transport_set_url(struct transport *t, const char *url, const char *ca_file) MUST_USE;

/* Hands over one relay message (copied). TRANSPORT_FULL, _DOWN, _TOO_LARGE, -ENOMEM. 0 is no promise. */
int transport_send(struct transport *t, const void *p, size_t n) MUST_USE;
/* The same for a text frame. */
int transport_send_text(struct transport *t, const void *p, size_t n) MUST_USE;

/* The relay has authenticated us: the next reconnection begins at the shortest delay again. */
void transport_good(struct transport *t);
/*
 * Closes the connection, dropping what is queued, and connects again after the backoff, to which
 * delay_hint_ms (the relay's wish, at most TRANSPORT_MAX_HINT_MS of it) is added. Returns the delay in
 * milliseconds.
 */
uint32_t transport_drop(struct transport *t, uint32_t delay_hint_ms);
/* While set, nothing is read from any link, none is taken for hung, and no end of one is noticed. */
void transport_pause_reading(struct transport *t, bool pause);
/* Ends a wait for the next attempt: the network has come back, or somebody asks. */
void transport_retry_now(struct transport *t);
/* Between `connected` and the connection's end. */
bool transport_up(const struct transport *t);

#endif
