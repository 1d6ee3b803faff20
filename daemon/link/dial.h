/*
 * Host names to addresses, and why an address cannot be reached: libwebsockets reports neither in words, and
 * answers a connection that is refused at once with no reason at all.
 */
#ifndef E2EE_LINK_DIAL_H
#define E2EE_LINK_DIAL_H

#include <netinet/in.h>

#include "url.h"

#define DIAL_MAX_ADDRESSES 4u
#define DIAL_MAX_REASON 256

struct dial_address {
    char text[INET6_ADDRSTRLEN];
    struct sockaddr_storage addr;
    socklen_t len;
};
struct dial {
    unsigned count;
    struct dial_address address[DIAL_MAX_ADDRESSES]; /* in the order to try them (RFC 6724) */
};

/*
 * Blocks as long as the resolver takes: the caller keeps a deadline. 0, or -EHOSTUNREACH with the reason for
 * people in ret_reason.
 */
int dial_resolve(struct dial *d, const struct url *url, char ret_reason[DIAL_MAX_REASON]) MUST_USE;
/* Why a, at which a connection has just failed, cannot be reached: asks once more, for a second at most. */
void dial_explain(const struct dial_address *a, const struct url *url, char ret_reason[DIAL_MAX_REASON]);

#endif
