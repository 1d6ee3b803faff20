#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "internal.h"

void output_init(struct ipc_client *c)
{
    /* Twice the bound: what has been sent stays in front until it is as long as what has not. */
    buf_init_secret(&c->out, 2 * IPC_MAX_QUEUE + IPC_SCRATCH);
    buf_init_secret(&c->held, IPC_MAX_QUEUE + IPC_SCRATCH);
    buf_init(&c->held_ids, sizeof(uint32_t) * IPC_MAX_PENDING);
}

void output_done(struct ipc_client *c)
{
    buf_done(&c->out);
    buf_done(&c->held);
    buf_done(&c->held_ids);
}

size_t client_queued(const struct ipc_client *c)
{
    return c->out.len - c->out_at + c->held.len;
}

static void empty_buf(struct buf *b)
{
    if (b->cap > IPC_KEEP_BUFFER)
        buf_done(b);
    else
        buf_reset(b);
}

struct buf *output_buf(struct ipc_client *c, size_t n)
{
    size_t waiting = c->out.len - c->out_at;

    if (c->out_at > 0 && c->out.len + n > c->out.cap && c->out_at >= waiting) {
        memmove(c->out.data, c->out.data + c->out_at, waiting);
        buf_truncate(&c->out, waiting);
        c->out_at = 0;
    }
    return &c->out;
}

int output_flush(struct ipc_client *c)
{
    size_t waiting = c->out.len - c->out_at;
    ssize_t n;

    if (buf_status(&c->out))
        return buf_status(&c->out);
    if (waiting == 0)
        return 0;
    do {
        n = send(c->fd, c->out.data + c->out_at, waiting, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        return -errno;
    if (n > 0)
        c->out_at += (size_t)n;
    c->blocked = n < 0 || (size_t)n < waiting;
    if (!c->blocked) {
        empty_buf(&c->out);
        c->out_at = 0;
    }
    return 0;
}

static void unhold(struct ipc_client *c)
{
    empty_buf(&c->held);
    empty_buf(&c->held_ids);
    if (c->has_held)
        TAILQ_REMOVE(&c->ipc->held, c, held_link);
    c->has_held = false;
    c->staged = false;
}

void output_release(struct ipc_client *c)
{
    struct buf *out = output_buf(c, c->held.len);

    if (buf_status(&c->held) || buf_status(&c->held_ids))
        c->broken = true;
    else if (c->held.len > 0)
        buf_bytes(out, c->held.data, c->held.len);
    if (c->staged) {
        c->subscription = c->next_subscription;
        c->stalled = false;
    }
    unhold(c);
}

void output_abort(struct ipc_client *c, enum api_error error, const char *text)
{
    struct cursor ids;

    if (buf_status(&c->held) || buf_status(&c->held_ids))
        c->broken = true;
    empty_buf(&c->held);
    cursor_init(&ids, c->held_ids.data, c->held_ids.len);
    while (ids.left >= sizeof(uint32_t))
        request_refuse(c, cursor_u32(&ids), error, 0, text);
    unhold(c);
}
