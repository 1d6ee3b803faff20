/*
 * Whether a link dialled what it was told to: AUTH signs the host and port, so that a link which has been
 * taken over must not have another relay's signed.
 */
#ifndef E2EE_TRANSPORT_AUTHORITY_H
#define E2EE_TRANSPORT_AUTHORITY_H

#include "relay.h"

/*
 * True if host is "name:port" or "[IPv6]:port" as url has it: names without regard to case, addresses and
 * ports by value; where url has no port, it must be that of ws: or wss:, and may be any for other schemes.
 */
bool authority_matches(const char *url, struct span host);

#endif
