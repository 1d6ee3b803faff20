#include "fake_daemon.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_STEP 65536u

struct fake_daemon {
    char path[108];
    int listener;
    pthread_t thread;
    pthread_mutex_t lock;
    bool stop;
    int peer; /* under lock; -1: none */
    fake_script script;
    void *ctx;
};

bool fake_raw(struct fake_peer *p, const void *bytes, size_t n)
{
    const uint8_t *at = bytes;

    while (n > 0) {
        ssize_t done = send(p->fd, at, n, MSG_NOSIGNAL);

        if (done <= 0)
            return false;
        at += done;
        n -= (size_t)done;
    }
    return true;
}

static bool send_and_free(struct fake_peer *p, struct buf *b)
{
    bool ok = buf_status(b) == 0 && fake_raw(p, b->data, b->len);

    buf_done(b);
    return ok;
}

bool fake_reply_value(struct fake_peer *p, uint32_t msgid, const struct buf *result)
{
    struct buf b;

    buf_init(&b, RPC_MAX_MESSAGE);
    rpc_put_response(&b, RPC_FRAMING_PLAIN, msgid, NULL, result);
    return send_and_free(p, &b);
}

bool fake_reply_error(struct fake_peer *p, uint32_t msgid, const struct buf *error)
{
    struct buf b;

    buf_init(&b, RPC_MAX_MESSAGE);
    rpc_put_response(&b, RPC_FRAMING_PLAIN, msgid, error, NULL);
    return send_and_free(p, &b);
}

bool fake_reply(struct fake_peer *p, uint32_t msgid, int64_t n)
{
    CLEANUP_BUF struct buf b;

    buf_init(&b, 64);
    mp_put_map(&b, 1);
    mp_put_str(&b, "n");
    mp_put_int(&b, n);
    return fake_reply_value(p, msgid, &b);
}

bool fake_event(struct fake_peer *p, uint64_t seq, size_t size)
{
    CLEANUP_BUF struct buf map;
    struct buf b;
    struct mp_map m;
    char *text = malloc(size + 1);

    if (!text)
        return false;
    memset(text, 'x', size);
    buf_init(&map, RPC_MAX_MESSAGE);
    mp_map_begin(&m, &map);
    mp_put_uint(mp_key(&m, "seq"), seq);
    mp_put_str(mp_key(&m, "type"), "message");
    mp_put_strn(mp_key(&m, "text"), text, size);
    mp_map_end(&m);
    free(text);
    buf_init(&b, RPC_MAX_MESSAGE);
    rpc_put_notify(&b, RPC_FRAMING_PLAIN, "event", map.data, map.len);
    return send_and_free(p, &b);
}

static bool read_more(struct fake_peer *p)
{
    uint8_t *at;
    ssize_t n;

    memmove(p->in.data ? p->in.data : (uint8_t *)"", p->in.data ? p->in.data + p->used : (uint8_t *)"",
            p->in.len - p->used);
    p->in.len -= p->used;
    p->used = 0;
    at = buf_reserve(&p->in, READ_STEP);
    if (!at)
        return false;
    n = recv(p->fd, at, READ_STEP, 0);
    p->in.len -= READ_STEP - (n > 0 ? (size_t)n : 0);
    return n > 0;
}

bool fake_next(struct fake_peer *p, struct rpc_message *ret_m)
{
    const char *why;
    size_t used;

    for (;;) {
        int r = p->in.len > p->used
                        ? rpc_read(p->in.data + p->used, p->in.len - p->used, &p->framing, ret_m, &used, &why)
                        : WIRE_INCOMPLETE;

        if (r == WIRE_MALFORMED)
            return false;
        if (r == WIRE_INCOMPLETE) {
            if (!read_more(p))
                return false;
            continue;
        }
        p->used += used;
        if (ret_m->kind != RPC_REQUEST || !mp_str_eq(&ret_m->method, "hello"))
            break;
        if (!fake_reply(p, ret_m->msgid, 0))
            return false;
    }
    p->requests++;
    return true;
}

static bool set_peer(struct fake_daemon *d, int fd)
{
    bool stop;

    (void)pthread_mutex_lock(&d->lock);
    d->peer = fd;
    stop = d->stop;
    (void)pthread_mutex_unlock(&d->lock);
    return !stop;
}

static void *serve(void *arg)
{
    struct fake_daemon *d = arg;

    for (;;) {
        struct fake_peer p = {.fd = accept(d->listener, NULL, NULL)};

        if (p.fd < 0)
            return NULL;
        buf_init(&p.in, RPC_MAX_MESSAGE + 2 * READ_STEP);
        if (set_peer(d, p.fd))
            d->script(&p, d->ctx);
        (void)set_peer(d, -1);
        buf_done(&p.in);
        (void)close(p.fd);
    }
}

struct fake_daemon *fake_daemon_start(const char *path, fake_script script, void *ctx)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct fake_daemon *d = calloc(1, sizeof(*d));

    if (!d || strlen(path) >= sizeof(address.sun_path)) {
        free(d);
        return NULL;
    }
    (void)snprintf(d->path, sizeof(d->path), "%s", path);
    memcpy(address.sun_path, path, strlen(path));
    d->peer = -1;
    d->script = script;
    d->ctx = ctx;
    (void)pthread_mutex_init(&d->lock, NULL);
    d->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (d->listener < 0 || bind(d->listener, (const struct sockaddr *)&address, sizeof(address)) ||
            listen(d->listener, 16) || pthread_create(&d->thread, NULL, serve, d)) {
        if (d->listener >= 0)
            (void)close(d->listener);
        free(d);
        return NULL;
    }
    return d;
}

void fake_daemon_stop(struct fake_daemon *d)
{
    if (!d)
        return;
    (void)pthread_mutex_lock(&d->lock);
    d->stop = true;
    if (d->peer >= 0)
        (void)shutdown(d->peer, SHUT_RDWR);
    (void)pthread_mutex_unlock(&d->lock);
    (void)shutdown(d->listener, SHUT_RDWR);
    (void)pthread_join(d->thread, NULL);
    (void)close(d->listener);
    (void)unlink(d->path);
    (void)pthread_mutex_destroy(&d->lock);
    free(d);
}
