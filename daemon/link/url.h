/*
 * The relay's URL, ws: or wss:, taken apart (RFC 6455 section 3; RFC 3986). User names, passwords and
 * fragments are refused, and so are host names outside ASCII: write those in their xn-- form.
 */
#ifndef E2EE_LINK_URL_H
#define E2EE_LINK_URL_H

#include "relay.h"

#define URL_MAX_HOST 253u
#define URL_MAX_PATH 1024u

struct url {
    bool tls;
    bool ip; /* host is an IPv4 or IPv6 literal */
    uint16_t port;
    char host[URL_MAX_HOST + 1];        /* lower case; an IPv6 literal without its brackets */
    char authority[RELAY_MAX_HOST + 1]; /* host:port with the port always written, as a relay names itself */
    char http_host[RELAY_MAX_HOST + 1]; /* the Host header: without the port where it is the scheme's own */
    char path[URL_MAX_PATH + 1];        /* with the query; "/" where the URL has none */
};

/* WIRE_OK, or WIRE_MALFORMED with what is wrong and what is allowed in *ret_why (a string constant). */
int url_parse(const char *text, struct url *ret_url, const char **ret_why) MUST_USE;

#endif
