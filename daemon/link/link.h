/*
 * One WebSocket connection to a relay, from the attempt to its end, joined to the daemon's descriptor.
 *
 * The process has one thread, which is libwebsockets' loop. Flow control is by two rules: while libwebsockets
 * holds bytes that the network does not take, the daemon's descriptor is not read; while a message waits for
 * the daemon, the network is not read. PING is answered by PONG; as PINGs are not seen while the descriptor
 * is not read, the link then sends a PONG on its own every LINK_IDLE_PONG_MS.
 */
#ifndef E2EE_LINK_LINK_H
#define E2EE_LINK_LINK_H

#include "url.h"

#define LINK_CONNECT_TIMEOUT_MS 10000u
#define LINK_PING_INTERVAL_MS 20000u
#define LINK_IDLE_PONG_MS 5000u
/* A peer of which nothing has come for 9/4 ping intervals (45 s) is dead. */
#define LINK_DEAD_AFTER(interval) ((interval) / 4 * 9)

/* What main() returns. */
enum link_exit {
    LINK_EXIT_OK = 0,     /* the connection was made, and ended; or the daemon asked to end or has gone */
    LINK_EXIT_USAGE = 64, /* options, URL, or no socketpair as descriptor 3 */
    LINK_EXIT_UNAVAILABLE = 69, /* no connection could be made */
    LINK_EXIT_SOFTWARE = 70,    /* out of memory, or the sandbox cannot be set up */
    LINK_EXIT_PROTOCOL = 76,    /* the daemon sent a malformed packet */
};

struct link_options {
    const char *url;
    const char *ca_file; /* PEM; NULL: the system's authorities */
    uint32_t connect_timeout_ms;
    uint32_t ping_interval_ms;
};

/* Runs the connection on LINK_FD. CLOSED has been sent when it returns, if the daemon was there to read it.
 */
enum link_exit link_run(const struct link_options *options);

#endif
