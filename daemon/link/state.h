/* The link's state, shared by its two halves: making the connection (link.c) and serving it (stream.c). */
#ifndef E2EE_LINK_STATE_H
#define E2EE_LINK_STATE_H

#include <libwebsockets.h>

#include "dial.h"
#include "link.h"
#include "pipe.h"
#include "tls.h"

#define LINK_REASON 256

struct link {
    const struct link_options *options;
    struct url url;
    struct dial dial;
    struct tls tls;
    struct lws_context *context;
    struct lws *ws;     /* the connection, or the attempt at one */
    struct lws *daemon; /* the descriptor to the daemon */
    enum link_exit exit_code;

    unsigned next_address;
    bool final;      /* the failure says that no other address will do better */
    bool up;         /* the handshake is through */
    bool closing;    /* a close frame is on its way, or wanted */
    bool over;       /* CLOSED is owed; nothing else happens */
    bool done;       /* leave the loop */
    bool tx_stalled; /* the network takes no more: the daemon is not read */
    bool rx_stalled; /* the daemon takes no more: the network is not read */
    bool ping_wanted;
    uint16_t end_code; /* what CLOSED will say; 0 and empty until known */
    char reason[LINK_REASON + 1];

    uint64_t pings;
    lws_usec_t ping_at, heard_at, reported_at;
    lws_sorted_usec_list_t attempt_timer, ping_timer, dead_timer, pong_timer, closing_timer;

    struct pipe pipe;
    uint8_t out[LWS_PRE + RELAY_MAX_MESSAGE]; /* the message on its way to the network, with room for its
                                                 frame's head */
};

/* The link whose timer this is. */
#define LINK_OF(sul, timer) ((struct link *)(void *)((char *)(sul)-offsetof(struct link, timer)))

/* Notes the outcome unless one is noted already. */
void link_note(struct link *l, uint16_t code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Owes CLOSED with the noted outcome; the process ends when the daemon has it. */
void link_end(struct link *l);
/* Sends what is owed to the daemon and sets the flow of the network accordingly. */
void link_flush(struct link *l);
/* Leaves the loop. */
void link_leave(struct link *l);

void stream_established(struct link *l);
void stream_received(struct link *l, const void *data, size_t n);
void stream_pong(struct link *l, const void *data, size_t n);
int stream_writable(struct link *l);
/* What the peer's close frame says: u16 code, big-endian, and text. */
void stream_peer_close(struct link *l, const uint8_t *data, size_t n);
void stream_closed(struct link *l);
/* The daemon has something to say. */
void stream_read_daemon(struct link *l);

#endif
