#include "dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base.h"

#define EXPLAIN_MS 1000

static bool keep_address(struct dial_address *a, const struct addrinfo *ai)
{
    if (ai->ai_addrlen > sizeof(a->addr))
        return false;
    memcpy(&a->addr, ai->ai_addr, ai->ai_addrlen);
    a->len = ai->ai_addrlen;
    return getnameinfo(ai->ai_addr, ai->ai_addrlen, a->text, sizeof(a->text), NULL, 0, NI_NUMERICHOST) == 0;
}

int dial_resolve(struct dial *d, const struct url *url, char ret_reason[DIAL_MAX_REASON])
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char port[8];
    (void)snprintf(port, sizeof(port), "%u", (unsigned)url->port);
    hints.ai_flags = AI_NUMERICSERV | (url->ip ? AI_NUMERICHOST : 0);
    int r = getaddrinfo(url->host, port, &hints, &found);
    if (r != 0) {
        (void)snprintf(ret_reason, DIAL_MAX_REASON, "cannot find the host %.100s: %.60s", url->host,
                r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
        return -EHOSTUNREACH;
    }
    d->count = 0;
    for (const struct addrinfo *ai = found; ai && d->count < DIAL_MAX_ADDRESSES; ai = ai->ai_next)
        if (keep_address(&d->address[d->count], ai))
            d->count++;
    freeaddrinfo(found);
    if (d->count > 0)
        return 0;
    (void)snprintf(ret_reason, DIAL_MAX_REASON, "the host %.100s has no usable address", url->host);
    return -EHOSTUNREACH;
}

static int try_connect(const struct dial_address *a)
{
    int error = 0;
    socklen_t n = sizeof(error);
    CLEANUP_FD int fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    if (connect(fd, (const struct sockaddr *)&a->addr, a->len) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (poll(&p, 1, EXPLAIN_MS) <= 0)
        return ETIMEDOUT;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 ? errno : error;
}

void dial_explain(const struct dial_address *a, const struct url *url, char ret_reason[DIAL_MAX_REASON])
{
    int error = try_connect(a);
    (void)snprintf(ret_reason, DIAL_MAX_REASON, "cannot connect to %.100s (%s): %.60s", url->authority,
            a->text, error ? strerror(error) : "the connection failed");
}
