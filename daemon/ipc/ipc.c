#include <errno.h>
#include <poll.h>
#include <string.h>

#include "internal.h"

char *ipc_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = malloc(n);

    return copy ? memcpy(copy, s, n) : NULL;
}

void ipc_enter(struct ipc *ipc)
{
    ipc->depth++;
}

void ipc_leave(struct ipc *ipc)
{
    struct ipc_client *c;

    if (--ipc->depth > 0)
        return;
    while ((c = TAILQ_FIRST(&ipc->dead))) {
        TAILQ_REMOVE(&ipc->dead, c, link);
        client_free(c);
    }
}

static int copy_settings(struct ipc *ipc, const uid_t *uids, size_t n_uids)
{
    ipc->account = ipc_strdup("default");
    ipc->uids = calloc(n_uids + 1, sizeof(*uids));
    if (!ipc->account || !ipc->uids)
        return -ENOMEM;
    if (n_uids > 0)
        memcpy(ipc->uids, uids, n_uids * sizeof(*uids));
    ipc->n_uids = n_uids;
    return 0;
}

int ipc_new(struct event_base *base, const char *path, int fd, const uid_t *uids, size_t n_uids,
        const struct ipc_callbacks *callbacks, void *ctx, struct ipc **ret_ipc)
{
    struct ipc *ipc = calloc(1, sizeof(*ipc));
    int r;

    if (!ipc)
        return -ENOMEM;
    ipc->base = base;
    ipc->callbacks = callbacks;
    ipc->ctx = ctx;
    ipc->fd = -1;
    TAILQ_INIT(&ipc->clients);
    TAILQ_INIT(&ipc->held);
    TAILQ_INIT(&ipc->dead);
    r = copy_settings(ipc, uids, n_uids);
    if (r == 0)
        r = listener_open(ipc, path, fd);
    if (r < 0) {
        ipc_free(ipc);
        return r;
    }
    *ret_ipc = ipc;
    return 0;
}

void ipc_free(struct ipc *ipc)
{
    struct ipc_client *c;

    if (!ipc)
        return;
    listener_done(ipc);
    while ((c = TAILQ_FIRST(&ipc->clients)))
        client_close(c);
    free(ipc->uids);
    free(ipc->account);
    free(ipc);
}

/* Calls f for each client that has held answers, takes it off the list, and sends. */
static void release_held(struct ipc *ipc, enum api_error error, const char *text)
{
    struct ipc_client *c;

    while ((c = TAILQ_FIRST(&ipc->held))) {
        if (error == API_OK)
            output_release(c);
        else
            output_abort(c, error, text);
        stream_serve(c);
        client_settle(c);
    }
}

static void serve_subscribers(struct ipc *ipc)
{
    struct ipc_client *c, *next;

    ipc->stalled = false;
    for (c = TAILQ_FIRST(&ipc->clients); c; c = next) {
        next = TAILQ_NEXT(c, link);
        c->stalled = false;
        if (!stream_wants(c) || c->blocked)
            continue;
        stream_serve(c);
        client_settle(c);
    }
}

/* A new log (the account was deleted) begins at 1 again. */
static void rewind_subscribers(struct ipc *ipc, uint64_t last_seq)
{
    struct ipc_client *c;

    TAILQ_FOREACH(c, &ipc->clients, link)
    {
        if (c->subscription.cursor > last_seq)
            c->subscription.cursor = last_seq;
    }
}

void ipc_commit(struct ipc *ipc, uint64_t last_seq)
{
    bool more = last_seq > ipc->last_seq || ipc->stalled;

    ipc_enter(ipc);
    if (last_seq < ipc->last_seq)
        rewind_subscribers(ipc, last_seq);
    ipc->last_seq = last_seq;
    release_held(ipc, API_OK, NULL);
    if (more)
        serve_subscribers(ipc);
    ipc_leave(ipc);
}

void ipc_abort(struct ipc *ipc, enum api_error error, const char *text)
{
    ipc_enter(ipc);
    release_held(ipc, error, text);
    ipc_leave(ipc);
}

void ipc_set_account(struct ipc *ipc, const char *account)
{
    char *copy = ipc_strdup(account);

    if (!copy)
        return;
    free(ipc->account);
    ipc->account = copy;
}

size_t ipc_clients(const struct ipc *ipc)
{
    return ipc->n_clients;
}

/* Fills p with the clients that have something to send; returns how many. */
static nfds_t collect_unsent(const struct ipc *ipc, struct pollfd *p)
{
    struct ipc_client *c;
    nfds_t n = 0;

    TAILQ_FOREACH(c, &ipc->clients, link)
    {
        if (c->out.len > c->out_at)
            p[n++] = (struct pollfd){.fd = c->fd, .events = POLLOUT};
    }
    return n;
}

static void send_unsent(struct ipc *ipc)
{
    struct ipc_client *c, *next;

    for (c = TAILQ_FIRST(&ipc->clients); c; c = next) {
        next = TAILQ_NEXT(c, link);
        if (output_flush(c) < 0)
            client_close(c);
    }
}

void ipc_drain(struct ipc *ipc, uint32_t timeout_ms)
{
    uint64_t end = clock_mono_ms() + timeout_ms, now;
    struct pollfd *p = calloc(ipc->n_clients + 1, sizeof(*p));
    nfds_t n;

    ipc_enter(ipc);
    send_unsent(ipc);
    while (p && (n = collect_unsent(ipc, p)) > 0 && (now = clock_mono_ms()) < end) {
        if (poll(p, n, (int)(end - now)) < 0 && errno != EINTR)
            break;
        send_unsent(ipc);
    }
    ipc_leave(ipc);
    free(p);
}

/* Those whose buffers hold something that will not leave at once: unsent answers, a part of a request. */
static void close_unfinished(struct ipc *ipc)
{
    struct ipc_client *c, *next;

    for (c = TAILQ_FIRST(&ipc->clients); c; c = next) {
        next = TAILQ_NEXT(c, link);
        if (client_queued(c) > 0 || (c->in.len > 0 && !c->in_ready))
            client_close(c);
    }
}

void ipc_end_streams(struct ipc *ipc, enum api_error error, const char *text, uint32_t timeout_ms)
{
    struct ipc_client *c, *next;

    ipc_enter(ipc);
    release_held(ipc, API_OK, NULL);
    for (c = TAILQ_FIRST(&ipc->clients); c; c = next) {
        next = TAILQ_NEXT(c, link);
        if (!c->subscription.active)
            continue;
        request_notify_error(c, error, text);
        client_end(c);
        client_settle(c);
    }
    ipc_drain(ipc, timeout_ms);
    close_unfinished(ipc);
    ipc_leave(ipc);
}
