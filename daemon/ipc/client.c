#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "internal.h"
#include "log.h"

static void disarm(struct event *ev, bool *armed)
{
    if (*armed)
        (void)event_del(ev);
    *armed = false;
}

static void arm(struct ipc_client *c, struct event *ev, bool *armed, const struct timeval *after)
{
    if (*armed)
        return;
    *armed = event_add(ev, after) == 0;
    c->broken = c->broken || !*armed;
}

static void arm_in_ms(struct ipc_client *c, struct event *ev, bool *armed, unsigned ms)
{
    struct timeval after = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};

    arm(c, ev, armed, &after);
}

static void switch_event(struct ipc_client *c, struct event *ev, bool *armed, bool wanted)
{
    if (wanted)
        arm(c, ev, armed, NULL);
    else
        disarm(ev, armed);
}

static void drop_pending(struct ipc_client *c)
{
    struct ipc_request *req;

    while ((req = LIST_FIRST(&c->pending))) {
        LIST_REMOVE(req, link);
        c->n_pending--;
        req->client = NULL;
        c->ipc->callbacks->gone(c->ipc->ctx, req);
    }
}

void client_close(struct ipc_client *c)
{
    struct ipc *ipc = c->ipc;

    if (c->state == CLIENT_DEAD)
        return;
    ipc_enter(ipc);
    c->state = CLIENT_DEAD;
    disarm(&c->read_event, &c->reading);
    disarm(&c->write_event, &c->writing);
    disarm(&c->watch_event, &c->watching);
    disarm(&c->wake_event, &c->waking);
    (void)close(c->fd);
    if (c->has_held)
        TAILQ_REMOVE(&ipc->held, c, held_link);
    c->has_held = false;
    TAILQ_REMOVE(&ipc->clients, c, link);
    TAILQ_INSERT_TAIL(&ipc->dead, c, link);
    ipc->n_clients--;
    drop_pending(c);
    listener_resume(ipc);
    ipc_leave(ipc);
}

void client_free(struct ipc_client *c)
{
    buf_done(&c->in);
    output_done(c);
    free(c);
}

void client_end(struct ipc_client *c)
{
    if (c->state != CLIENT_OPEN && c->state != CLIENT_HALF_CLOSED)
        return;
    c->state = CLIENT_ENDING;
    c->in_ready = false;
    c->subscription.active = false;
    drop_pending(c);
}

/* May a message be taken from it now? */
static bool listens(const struct ipc_client *c)
{
    return c->state == CLIENT_OPEN && !c->broken && client_queued(c) < IPC_READ_STOP &&
           c->n_pending + c->held_ids.len / sizeof(uint32_t) < IPC_MAX_PENDING;
}

static bool finished(const struct ipc_client *c)
{
    return c->state == CLIENT_HALF_CLOSED && c->n_pending == 0 && client_queued(c) == 0;
}

/* Goodbye is said before the rest of its bytes is read: a client that is still writing would otherwise not
 * get to the error. */
static void shut_down(struct ipc_client *c)
{
    (void)shutdown(c->fd, SHUT_WR);
    c->state = CLIENT_DISCARDING;
    disarm(&c->watch_event, &c->watching);
    arm_in_ms(c, &c->watch_event, &c->watching, IPC_DISCARD_MS);
}

static void update_events(struct ipc_client *c)
{
    bool read = c->state == CLIENT_DISCARDING || (c->state == CLIENT_OPEN && !c->in_ready && listens(c));

    switch_event(c, &c->read_event, &c->reading, read);
    switch_event(c, &c->write_event, &c->writing, c->blocked);
    if ((c->in_ready && listens(c)) || (stream_wants(c) && !c->blocked))
        arm_in_ms(c, &c->wake_event, &c->waking, 0);
    if (!read)
        arm_in_ms(c, &c->watch_event, &c->watching, IPC_WATCH_MS);
    else if (c->state != CLIENT_DISCARDING)
        disarm(&c->watch_event, &c->watching);
}

void client_settle(struct ipc_client *c)
{
    if (c->state == CLIENT_DEAD)
        return;
    if (!c->broken && !c->has_held && output_flush(c) < 0)
        c->broken = true;
    if (!c->broken && c->state == CLIENT_ENDING && client_queued(c) == 0)
        shut_down(c);
    if (!c->broken)
        update_events(c);
    if (c->broken || finished(c))
        client_close(c);
}

/* Handles whole messages at p, at most *budget; returns the bytes used. */
static size_t take_messages(struct ipc_client *c, const uint8_t *p, size_t n, unsigned *budget)
{
    struct rpc_message m;
    size_t used = 0, len = 0;
    const char *why = NULL;
    int status = WIRE_OK;

    while (*budget > 0 && used < n && listens(c)) {
        status = rpc_read(p + used, n - used, &c->framing, &m, &len, &why);
        if (status != WIRE_OK)
            break;
        used += len;
        (*budget)--;
        request_dispatch(c, &m);
    }
    c->in_ready = used < n && status == WIRE_OK;
    c->needed = status == WIRE_INCOMPLETE ? len : 0;
    if (status == WIRE_MALFORMED)
        request_malformed(c, p + used, n - used, why);
    return used;
}

static void drop_input(struct buf *b, size_t n)
{
    if (n > 0 && n < b->len)
        memmove(b->data, b->data + n, b->len - n);
    buf_truncate(b, b->len - n);
    if (b->len == 0 && b->cap > IPC_KEEP_BUFFER)
        buf_done(b);
}

static void take_buffered(struct ipc_client *c, unsigned *budget)
{
    size_t used;

    if (buf_status(&c->in)) {
        c->broken = true;
        return;
    }
    if (c->in.len < c->needed)
        return;
    used = take_messages(c, c->in.data, c->in.len, budget);
    if (c->state == CLIENT_OPEN)
        drop_input(&c->in, used);
    else
        buf_done(&c->in);
}

static void take_input(struct ipc_client *c, const uint8_t *p, size_t n, unsigned *budget)
{
    size_t used;

    if (c->in.len > 0) {
        buf_bytes(&c->in, p, n);
        take_buffered(c, budget);
        return;
    }
    used = take_messages(c, p, n, budget);
    if (used < n && c->state == CLIENT_OPEN)
        buf_bytes(&c->in, p + used, n - used);
    c->broken = c->broken || buf_status(&c->in);
}

static bool peer_has_left(int fd)
{
    struct pollfd p = {.fd = fd, .events = 0};

    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

/* The socket is read only while no whole message waits in `in`: what is left there is a part of one. */
static void input_ended(struct ipc_client *c)
{
    if (c->state == CLIENT_OPEN && !peer_has_left(c->fd))
        c->state = CLIENT_HALF_CLOSED;
    else
        client_close(c);
}

/* One recv(). Returns the bytes read; 0 when there is nothing more to read now. */
static size_t read_some(struct ipc_client *c, unsigned *budget)
{
    uint8_t *p = c->ipc->scratch;
    ssize_t n = recv(c->fd, p, IPC_SCRATCH, MSG_DONTWAIT);

    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        client_close(c);
    else if (n == 0)
        input_ended(c);
    if (n <= 0)
        return 0;
    if (c->state == CLIENT_OPEN)
        take_input(c, p, (size_t)n, budget);
    explicit_bzero(p, (size_t)n);
    return (size_t)n;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct ipc_client *c = arg;
    struct ipc *ipc = c->ipc;
    unsigned budget = IPC_TURN_MESSAGES;
    size_t n, total = 0;

    (void)fd;
    (void)what;
    ipc_enter(ipc);
    do {
        n = read_some(c, &budget);
        total += n;
    } while (n == IPC_SCRATCH && total < IPC_TURN_BYTES && !c->in_ready && listens(c));
    client_settle(c);
    ipc_leave(ipc);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct ipc_client *c = arg;
    struct ipc *ipc = c->ipc;

    (void)fd;
    (void)what;
    ipc_enter(ipc);
    if (output_flush(c) < 0)
        c->broken = true;
    stream_serve(c);
    client_settle(c);
    ipc_leave(ipc);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct ipc_client *c = arg;
    struct ipc *ipc = c->ipc;
    unsigned budget = IPC_TURN_MESSAGES;

    (void)fd;
    (void)what;
    ipc_enter(ipc);
    c->waking = false;
    if (c->in_ready)
        take_buffered(c, &budget);
    stream_serve(c);
    client_settle(c);
    ipc_leave(ipc);
}

static void on_watch(evutil_socket_t fd, short what, void *arg)
{
    struct ipc_client *c = arg;
    struct ipc *ipc = c->ipc;

    (void)fd;
    (void)what;
    ipc_enter(ipc);
    c->watching = false;
    if (c->state == CLIENT_DISCARDING || peer_has_left(c->fd))
        client_close(c);
    else
        client_settle(c);
    ipc_leave(ipc);
}

int client_new(struct ipc *ipc, int fd, uid_t uid, bool surplus)
{
    struct ipc_client *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->ipc = ipc;
    c->fd = fd;
    c->uid = uid;
    c->surplus = surplus;
    LIST_INIT(&c->pending);
    buf_init_secret(&c->in, RPC_MAX_MESSAGE + IPC_FRAMING_BYTES + IPC_SCRATCH);
    output_init(c);
    (void)event_assign(&c->read_event, ipc->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    (void)event_assign(&c->write_event, ipc->base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
    (void)evtimer_assign(&c->wake_event, ipc->base, on_wake, c);
    (void)evtimer_assign(&c->watch_event, ipc->base, on_watch, c);
    arm(c, &c->read_event, &c->reading, NULL);
    if (c->broken) {
        client_free(c);
        return -ENOMEM;
    }
    TAILQ_INSERT_TAIL(&ipc->clients, c, link);
    ipc->n_clients++;
    return 0;
}
