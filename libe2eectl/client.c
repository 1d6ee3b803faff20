#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "relay.h"

#define CONNECT_SECONDS 10
/* Behind one whole message there may be the beginning of the next, as long as one read. */
#define IN_MAX (RPC_MAX_MESSAGE + 2 * READ_CHUNK)

const char *e2eectl_version(void)
{
    return E2EED_VERSION;
}

static int print_path(char **ret_path, const char *account)
{
    const char *dir = getenv("XDG_RUNTIME_DIR");
    char *path = NULL;
    int n;

    if (dir && dir[0] == '/')
        n = asprintf(&path, "%s/e2eed/%s.sock", dir, account);
    else
        n = asprintf(&path, "/run/user/%lu/e2eed/%s.sock", (unsigned long)getuid(), account);
    if (n < 0)
        return -ENOMEM;
    *ret_path = path;
    return 0;
}

int e2eectl_socket_path(const char *account, char **ret_path)
{
    const char *socket_path = account ? NULL : getenv("E2EED_SOCKET");
    char *copy;

    if (account && !user_name_ok(account, strlen(account)))
        return -EINVAL;
    if (!socket_path || !socket_path[0])
        return print_path(ret_path, account ? account : "default");
    copy = strdup(socket_path);
    if (!copy)
        return -ENOMEM;
    *ret_path = copy;
    return 0;
}

/* A full backlog makes connect() wait; the send timeout limits that. */
static int connect_to(int fd, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = CONNECT_SECONDS};
    size_t n = strlen(path);

    if (n >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, n);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)))
        return -errno;
    while (connect(fd, (const struct sockaddr *)&address, sizeof(address))) {
        if (errno != EINTR)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
    return 0;
}

static void greeted(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    (void)result;
    (void)value;
    (void)ctx;
    h->greeting = false;
}

/*
 * Errors as maps carry their code and retry time; a daemon that does not know the wish sends lines, which are
 * read too.
 */
static int queue_hello(struct e2eectl *h)
{
    struct e2eectl_params *p = e2eectl_params_new();
    int r;

    e2eectl_params_string(p, "client", "libe2eectl " E2EED_VERSION);
    e2eectl_params_string(p, "errors", "map");
    r = e2eectl_call_async(h, "hello", p, greeted, NULL, NULL);
    e2eectl_params_free(p);
    h->greeting = r == 0;
    return r;
}

static void destroy(struct e2eectl *h)
{
    struct e2eectl_value *event;

    h->busy = h->closing = true;
    call_finish_all(h, -ECANCELED, "the handle was closed");
    while ((event = event_take(h)))
        e2eectl_value_free(event);
    buf_done(&h->in);
    buf_done(&h->out);
    error_clear(&h->error);
    if (h->fd >= 0)
        (void)close(h->fd);
    free(h);
}

static struct e2eectl *handle_new(void)
{
    struct e2eectl *h = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    h->fd = -1;
    h->timeout_ms = E2EECTL_TIMEOUT_MS;
    h->framing = RPC_FRAMING_PLAIN; /* as we ask, so we are answered */
    h->last_event = &h->first_event;
    buf_init(&h->in, IN_MAX);
    buf_init(&h->out, OUT_LIMIT + RPC_MAX_MESSAGE + READ_CHUNK);
    error_clear(&h->error);
    return h;
}

static int open_path(const char *path, struct e2eectl **ret_handle)
{
    struct e2eectl *h = handle_new();
    int r;

    if (!h)
        return -ENOMEM;
    h->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    r = h->fd < 0 ? -errno : connect_to(h->fd, path);
    if (r == 0)
        r = queue_hello(h);
    if (r) {
        destroy(h);
        return r;
    }
    *ret_handle = h;
    return 0;
}

int e2eectl_open_account(const char *account, struct e2eectl **ret_handle)
{
    char *path;
    int r = e2eectl_socket_path(account, &path);

    if (r)
        return r;
    r = open_path(path, ret_handle);
    free(path);
    return r;
}

int e2eectl_open(const char *socket_path, struct e2eectl **ret_handle)
{
    return socket_path ? open_path(socket_path, ret_handle) : e2eectl_open_account(NULL, ret_handle);
}

void e2eectl_close(struct e2eectl *h)
{
    if (h && h->busy)
        h->closing = true;
    else if (h)
        destroy(h);
}

void e2eectl_set_timeout(struct e2eectl *h, int timeout_ms)
{
    h->timeout_ms = timeout_ms;
}

int e2eectl_fd(const struct e2eectl *h)
{
    return h->fd;
}

bool client_room(const struct e2eectl *h)
{
    size_t limit = h->n_calls > 0 ? E2EECTL_EVENTS_HARD : E2EECTL_EVENTS_SOFT;

    return h->on_event || h->event_bytes < limit;
}

int e2eectl_events(const struct e2eectl *h)
{
    if (h->broken)
        return 0;
    return (client_room(h) ? POLLIN : 0) | (h->out.len > h->out_sent ? POLLOUT : 0);
}

/* The connection is over: every call ends with it. */
static int break_off(struct e2eectl *h, int r)
{
    char text[ERROR_MAX_TEXT];

    h->broken = r;
    if (h->error.shown.code != r)
        (void)error_set(&h->error, r, "%s", e2eectl_error_text(r));
    memcpy(text, h->error.text, sizeof(text));
    call_finish_all(h, r, text);
    return h->closing ? -ECANCELED : error_set(&h->error, r, "%s", text);
}

/* A daemon that has gone is found by reading, behind what it has still said. */
static int flush(struct e2eectl *h)
{
    while (h->out_sent < h->out.len) {
        ssize_t n =
                send(h->fd, h->out.data + h->out_sent, h->out.len - h->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n > 0)
            h->out_sent += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno == EPIPE || errno == ECONNRESET)
            h->out_sent = h->out.len;
        else if (errno != EINTR)
            return error_set(&h->error, -errno, "cannot write to the daemon: %s", e2eectl_error_text(-errno));
    }
    if (h->out_sent == h->out.len) {
        buf_reset(&h->out);
        h->out_sent = 0;
    } else if (h->out_sent > h->out.len / 2) {
        h->out.len -= h->out_sent;
        memmove(h->out.data, h->out.data + h->out_sent, h->out.len);
        h->out_sent = 0;
    }
    return 0;
}

static void compact_in(struct e2eectl *h)
{
    h->in.len -= h->in_used;
    if (h->in.len > 0 && h->in_used > 0)
        memmove(h->in.data, h->in.data + h->in_used, h->in.len);
    h->in_used = 0;
}

/* 1: something came; 0: nothing is there. */
static int fill(struct e2eectl *h)
{
    uint8_t *at;
    ssize_t n;

    compact_in(h);
    at = buf_reserve(&h->in, READ_CHUNK);
    if (!at)
        return error_set(&h->error, buf_status(&h->in), "no room for what the daemon sends");
    do
        n = recv(h->fd, at, READ_CHUNK, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    h->in.len -= READ_CHUNK - (n > 0 ? (size_t)n : 0);
    if (n > 0)
        return 1;
    if (n == 0 || errno == ECONNRESET)
        return error_set(&h->error, -ECONNRESET, "the daemon has closed the connection");
    if (errno == EAGAIN)
        return 0;
    return error_set(&h->error, -errno, "cannot read from the daemon: %s", e2eectl_error_text(-errno));
}

static int handle_messages(struct e2eectl *h)
{
    int r = 1;

    while (r > 0 && !h->closing && client_room(h))
        r = message_next(h);
    return r < 0 ? r : 0;
}

/* Writes, reads and handles what there is, without blocking. */
static int pump(struct e2eectl *h)
{
    int r = 1;

    if (h->broken)
        return error_set(&h->error, h->broken, "the connection to the daemon has ended");
    for (unsigned i = 0; r > 0; i++) {
        r = handle_messages(h);
        if (r == 0)
            r = flush(h);
        if (r == 0 && i < PUMP_READS && client_room(h) && !h->closing)
            r = fill(h);
    }
    if (h->closing)
        return -ECANCELED;
    return r < 0 ? break_off(h, r) : 0;
}

int client_enter(struct e2eectl *h)
{
    if (h->busy)
        return error_set(&h->error, -EDEADLK, "a blocking function was called from a callback");
    h->busy = true;
    return 0;
}

int client_leave(struct e2eectl *h, int r)
{
    h->busy = false;
    if (!h->closing)
        return r;
    destroy(h);
    return -ECANCELED;
}

int e2eectl_dispatch(struct e2eectl *h)
{
    int r = client_enter(h);

    return r ? r : client_leave(h, pump(h));
}

static int64_t now_ms(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int wait_socket(const struct e2eectl *h, int64_t deadline)
{
    struct pollfd p = {.fd = h->fd, .events = (short)e2eectl_events(h)};
    int64_t left = deadline < 0 ? -1 : deadline - now_ms();

    if (deadline >= 0 && left <= 0)
        return -ETIMEDOUT;
    if (poll(&p, 1, left > INT_MAX ? INT_MAX : (int)left) < 0 && errno != EINTR)
        return -errno;
    return 0;
}

int client_await(struct e2eectl *h, client_done done, const void *ctx, int timeout_ms)
{
    int64_t deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;

    for (;;) {
        int r = pump(h);

        if (done(h, ctx))
            return 0;
        if (r == 0 && !client_room(h))
            r = -ENOBUFS;
        if (r == 0)
            r = wait_socket(h, deadline);
        if (r)
            return r;
    }
}
