#include "url.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define PORT_WS 80
#define PORT_WSS 443

static const char *parse_scheme(const char *p, struct url *u)
{
    if (strncmp(p, "wss://", 6) == 0) {
        u->tls = true;
        return p + 6;
    }
    return strncmp(p, "ws://", 5) == 0 ? p + 5 : NULL;
}

static bool host_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

static bool parse_name(const char *p, size_t n, struct url *u)
{
    struct in_addr v4;
    if (n == 0 || n > URL_MAX_HOST || p[0] == '.' || p[0] == '-')
        return false;
    for (size_t i = 0; i < n; i++) {
        u->host[i] = (char)(p[i] >= 'A' && p[i] <= 'Z' ? p[i] + 'a' - 'A' : p[i]);
        if (!host_char(u->host[i]))
            return false;
    }
    u->host[n] = '\0';
    u->ip = inet_pton(AF_INET, u->host, &v4) == 1;
    return true;
}

static bool parse_ipv6(const char *p, size_t n, struct url *u)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr v6;
    if (n >= sizeof(text))
        return false;
    memcpy(text, p, n);
    text[n] = '\0';
    u->ip = true;
    return inet_pton(AF_INET6, text, &v6) == 1 && inet_ntop(AF_INET6, &v6, u->host, sizeof(u->host));
}

/* Digits after the colon, if there is one. */
static bool parse_port(const char *p, size_t n, struct url *u)
{
    uint32_t port = 0;
    if (n == 0) {
        u->port = u->tls ? PORT_WSS : PORT_WS;
        return true;
    }
    if (p[0] != ':' || n == 1 || n > 6)
        return false;
    for (size_t i = 1; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        port = port * 10 + (uint32_t)(p[i] - '0');
    }
    u->port = (uint16_t)port;
    return port >= 1 && port <= UINT16_MAX;
}

static const char *parse_authority(const char *p, size_t n, struct url *u)
{
    size_t host_len;
    bool v6 = n > 0 && p[0] == '[';
    if (memchr(p, '@', n))
        return "a relay's URL has no user name or password";
    if (v6) {
        const char *end = memchr(p, ']', n);
        if (!end || !parse_ipv6(p + 1, (size_t)(end - p) - 1, u))
            return "the address in brackets must be an IPv6 address";
        host_len = (size_t)(end - p) + 1;
    } else {
        const char *colon = memchr(p, ':', n);
        host_len = colon ? (size_t)(colon - p) : n;
        if (!parse_name(p, host_len, u))
            return "the host must be a name of letters, digits, '.', '-' and '_', or an IP address (IPv6 in "
                   "brackets)";
    }
    if (!parse_port(p + host_len, n - host_len, u))
        return "the port must be a number from 1 to 65535";
    (void)snprintf(u->authority, sizeof(u->authority), v6 ? "[%s]:%u" : "%s:%u", u->host, (unsigned)u->port);
    if (u->port == (u->tls ? PORT_WSS : PORT_WS))
        (void)snprintf(u->http_host, sizeof(u->http_host), v6 ? "[%s]" : "%s", u->host);
    else
        memcpy(u->http_host, u->authority, sizeof(u->http_host));
    return NULL;
}

static const char *parse_path(const char *p, struct url *u)
{
    size_t n = strlen(p);
    size_t slash = p[0] != '/';
    if (n + slash > URL_MAX_PATH)
        return "the path is longer than 1024 bytes";
    for (size_t i = 0; i < n; i++)
        if (p[i] <= ' ' || p[i] > '~' || p[i] == '#')
            return "the path must be printable ASCII without spaces and without '#'";
    u->path[0] = '/';
    memcpy(u->path + slash, p, n + 1);
    return NULL;
}

int url_parse(const char *text, struct url *ret_url, const char **ret_why)
{
    struct url u = {0};
    const char *p = parse_scheme(text, &u);
    const char *why = "the URL must begin with ws:// or wss://";
    if (p) {
        size_t n = strcspn(p, "/?#");
        why = parse_authority(p, n, &u);
        if (!why)
            why = parse_path(p + n, &u);
    }
    if (why) {
        *ret_why = why;
        return WIRE_MALFORMED;
    }
    *ret_url = u;
    return WIRE_OK;
}
