#include "pipe.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define CONNECTED_MAX (2 + EXPORTER_LEN + 4 + RELAY_MAX_HOST)
#define CLOSED_MAX (3 + 4 + LINK_MAX_REASON)
#define RTT_MAX 5

/* In the order of sending. */
enum { OWE_CONNECTED = 1, OWE_MESSAGE = 2, OWE_PONG = 4, OWE_RTT = 8, OWE_CLOSED = 16 };

int pipe_init(struct pipe *p, int fd)
{
    int type = 0;
    socklen_t n = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0)
        return -ENOTSOCK;
    if (type != SOCK_SEQPACKET)
        return -EPROTOTYPE;
    p->fd = fd;
    p->owed = 0;
    p->message_len = 0;
    buf_init(&p->connected, CONNECTED_MAX);
    buf_init(&p->closed, CLOSED_MAX);
    buf_init(&p->rtt, RTT_MAX);
    return 0;
}

void pipe_done(struct pipe *p)
{
    buf_done(&p->connected);
    buf_done(&p->closed);
    buf_done(&p->rtt);
}

int pipe_message_add(struct pipe *p, enum link_kind kind, const void *data, size_t n)
{
    if (p->message_len == 0)
        p->message[p->message_len++] = (uint8_t)kind;
    if (n > sizeof(p->message) - p->message_len)
        return PIPE_FULL;
    if (n > 0)
        memcpy(p->message + p->message_len, data, n);
    p->message_len += n;
    return 0;
}

void pipe_message_end(struct pipe *p)
{
    p->owed |= OWE_MESSAGE;
}

bool pipe_message_waits(const struct pipe *p)
{
    return p->owed & OWE_MESSAGE;
}

void pipe_owe_connected(struct pipe *p, const struct link_connected *m)
{
    buf_reset(&p->connected);
    link_put_connected(&p->connected, m);
    p->owed |= OWE_CONNECTED;
}

void pipe_owe_pong(struct pipe *p)
{
    p->owed |= OWE_PONG;
}

void pipe_owe_rtt(struct pipe *p, uint32_t microseconds)
{
    buf_reset(&p->rtt);
    link_put_rtt(&p->rtt, microseconds);
    p->owed |= OWE_RTT;
}

void pipe_owe_closed(struct pipe *p, uint16_t code, const char *reason)
{
    buf_reset(&p->closed);
    link_put_closed(&p->closed, code, reason);
    p->owed |= OWE_CLOSED;
}

static int send_packet(int fd, const void *data, size_t n)
{
    while (send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
            return PIPE_FULL;
        if (errno != EINTR)
            return PIPE_GONE;
    }
    return 0;
}

static int send_owed(struct pipe *p, unsigned what)
{
    static const uint8_t pong = LINK_PONG;
    switch (what) {
    case OWE_CONNECTED:
        return send_packet(p->fd, p->connected.data, p->connected.len);
    case OWE_MESSAGE:
        return send_packet(p->fd, p->message, p->message_len);
    case OWE_PONG:
        return send_packet(p->fd, &pong, sizeof(pong));
    case OWE_RTT:
        return send_packet(p->fd, p->rtt.data, p->rtt.len);
    default:
        return send_packet(p->fd, p->closed.data, p->closed.len);
    }
}

int pipe_flush(struct pipe *p)
{
    for (unsigned what = OWE_CONNECTED; what <= OWE_CLOSED; what <<= 1) {
        if (!(p->owed & what))
            continue;
        int r = send_owed(p, what);
        if (r != 0)
            return r;
        p->owed &= ~what;
        if (what == OWE_MESSAGE)
            p->message_len = 0;
    }
    return 0;
}

int pipe_read(struct pipe *p, uint8_t *out, uint8_t *ret_kind, size_t *ret_n)
{
    ssize_t n;
    do
        n = recv(p->fd, out - 1, LINK_MAX_PACKET, MSG_DONTWAIT | MSG_TRUNC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? PIPE_EMPTY : PIPE_GONE;
    if (n == 0)
        return PIPE_GONE;
    if ((size_t)n > LINK_MAX_PACKET)
        return PIPE_MALFORMED;
    *ret_kind = out[-1];
    *ret_n = (size_t)n - 1;
    return 0;
}
