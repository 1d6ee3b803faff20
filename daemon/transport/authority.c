#include "authority.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

struct authority {
    struct span name; /* without brackets */
    bool v6;
    uint32_t port; /* 0: none */
};

static bool parse_port(const uint8_t *p, size_t n, uint32_t *ret_port)
{
    uint32_t port = 0;
    if (n < 2 || n > 6 || p[0] != ':')
        return false;
    for (size_t i = 1; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        port = port * 10 + (uint32_t)(p[i] - '0');
    }
    *ret_port = port;
    return port >= 1 && port <= UINT16_MAX;
}

static bool parse(struct span s, struct authority *a)
{
    const uint8_t *end;
    size_t used;
    *a = (struct authority){.v6 = s.n > 0 && s.p[0] == '['};
    end = s.n > 0 ? memchr(s.p, a->v6 ? ']' : ':', s.n) : NULL;
    if (a->v6 && !end)
        return false;
    used = end ? (size_t)(end - s.p) + a->v6 : s.n;
    a->name = a->v6 ? (struct span){.p = s.p + 1, .n = used - 2} : (struct span){.p = s.p, .n = used};
    return a->name.n > 0 && (used == s.n || parse_port(s.p + used, s.n - used, &a->port));
}

static bool same_v6(struct span a, struct span b)
{
    char text[2][INET6_ADDRSTRLEN] = {{0}};
    struct in6_addr v6[2];
    if (a.n >= INET6_ADDRSTRLEN || b.n >= INET6_ADDRSTRLEN)
        return false;
    memcpy(text[0], a.p, a.n);
    memcpy(text[1], b.p, b.n);
    return inet_pton(AF_INET6, text[0], &v6[0]) == 1 && inet_pton(AF_INET6, text[1], &v6[1]) == 1 &&
           memcmp(&v6[0], &v6[1], sizeof(v6[0])) == 0;
}

static uint32_t default_port(const char *url)
{
    if (strncmp(url, "ws:", 3) == 0)
        return 80;
    return strncmp(url, "wss:", 4) == 0 ? 443 : 0;
}

bool authority_matches(const char *url, struct span host)
{
    struct authority want, got;
    const char *p = strstr(url, "://");
    if (!p)
        return false;
    p += 3;
    if (!parse((struct span){.p = (const uint8_t *)p, .n = strcspn(p, "/?#")}, &want) || !parse(host, &got) ||
            got.port == 0 || want.v6 != got.v6)
        return false;
    if (want.port == 0)
        want.port = default_port(url);
    if (want.port != 0 && want.port != got.port)
        return false;
    if (want.v6)
        return same_v6(want.name, got.name);
    return want.name.n == got.name.n &&
           strncasecmp((const char *)want.name.p, (const char *)got.name.p, want.name.n) == 0;
}
