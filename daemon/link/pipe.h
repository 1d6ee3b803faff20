/*
 * The descriptor to the daemon: whole packets, never blocking. What the link has to say is bounded by design:
 * one relay message in assembly or waiting, and one packet of each other kind. A newer round-trip time
 * replaces an older one that still waits, and one PONG answers all PINGs that came before it.
 */
#ifndef E2EE_LINK_PIPE_H
#define E2EE_LINK_PIPE_H

#include "linkmsg.h"

enum pipe_status { PIPE_FULL = 1, PIPE_EMPTY, PIPE_GONE, PIPE_MALFORMED };

struct pipe {
    int fd;
    unsigned owed; /* bits of what waits to be sent */
    struct buf connected, closed, rtt;
    size_t message_len; /* kind byte included; 0: none in assembly */
    uint8_t message[LINK_MAX_PACKET];
};

/* 0, or -ENOTSOCK or -EPROTOTYPE where fd is not one end of a SOCK_SEQPACKET pair. Must not move afterwards.
 */
int pipe_init(struct pipe *p, int fd) MUST_USE;
void pipe_done(struct pipe *p);

/* Appends to the message in assembly. PIPE_FULL where it would grow over RELAY_MAX_MESSAGE. */
int pipe_message_add(struct pipe *p, enum link_kind kind, const void *data, size_t n) MUST_USE;
/* The message is whole. It must be gone (pipe_message_waits) before the next one begins. */
void pipe_message_end(struct pipe *p);
bool pipe_message_waits(const struct pipe *p);
void pipe_owe_connected(struct pipe *p, const struct link_connected *m);
void pipe_owe_pong(struct pipe *p);
void pipe_owe_rtt(struct pipe *p, uint32_t microseconds);
void pipe_owe_closed(struct pipe *p, uint16_t code, const char *reason);
/* Sends what is owed, CLOSED last. 0: nothing is owed any more. PIPE_FULL: not all was sent. PIPE_GONE. */
int pipe_flush(struct pipe *p) MUST_USE;

/*
 * Reads one packet: the kind to *ret_kind, the fields to out (room for RELAY_MAX_MESSAGE bytes; the byte
 * before it is overwritten, too). PIPE_EMPTY, PIPE_GONE at the end, PIPE_MALFORMED for a packet that is too
 * long.
 */
int pipe_read(struct pipe *p, uint8_t *out, uint8_t *ret_kind, size_t *ret_n) MUST_USE;

#endif
