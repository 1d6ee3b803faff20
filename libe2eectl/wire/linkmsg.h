/*
 * Packets on the socketpair between the daemon and its link (docs/PROTOCOL.md, section 9). One packet is one
 * SOCK_SEQPACKET datagram: u8 kind and fields.
 */
#ifndef E2EE_LINKMSG_H
#define E2EE_LINKMSG_H

#include "relay.h"

#define LINK_FD 3
#define LINK_MAX_PACKET (RELAY_MAX_MESSAGE + 1)
#define LINK_MAX_REASON 256u

enum link_kind {
    LINK_DATA = 0x01,
    LINK_TEXT = 0x02,
    LINK_CLOSE = 0x03,
    LINK_PING = 0x04,
    LINK_CONNECTED = 0x11,
    LINK_CLOSED = 0x12,
    LINK_RTT = 0x13,
    LINK_PONG = 0x14,
};

struct link_connected {
    bool tls;
    uint8_t exporter[EXPORTER_LEN];
    struct span host;
};
struct link_closed {
    uint16_t code;
    struct span reason;
};

void link_put_connected(struct buf *b, const struct link_connected *m);
void link_put_closed(struct buf *b, uint16_t code, const char *reason);
void link_put_rtt(struct buf *b, uint32_t microseconds);
/* After the kind byte. */
int link_get_connected(struct cursor *c, struct link_connected *ret_m) MUST_USE;
int link_get_closed(struct cursor *c, struct link_closed *ret_m) MUST_USE;
int link_get_rtt(struct cursor *c, uint32_t *ret_microseconds) MUST_USE;

#endif
