#include "ipc_peer.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#define PATIENCE 20000u /* turns of the loop in which something must have happened */

unsigned ipc_test_sends, ipc_test_parses;
ssize_t __real_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags)
{
    ipc_test_sends++;
    return __real_send(fd, p, n, flags);
}

int __real_rpc_read(const void *p, size_t n, enum rpc_framing *framing, struct rpc_message *ret_m,
        size_t *ret_used, const char **ret_why);
int __wrap_rpc_read(const void *p, size_t n, enum rpc_framing *framing, struct rpc_message *ret_m,
        size_t *ret_used, const char **ret_why);
int __wrap_rpc_read(const void *p, size_t n, enum rpc_framing *framing, struct rpc_message *ret_m,
        size_t *ret_used, const char **ret_why)
{
    ipc_test_parses++;
    return __real_rpc_read(p, n, framing, ret_m, ret_used, ret_why);
}

void answer_status(struct fixture *f, struct ipc_request *req)
{
    CLEANUP_BUF struct buf b;
    struct mp_map m;

    buf_init(&b, 8u * RPC_MAX_MESSAGE);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "user"), "alice");
    if (f->answer_bytes > 0) {
        uint8_t *pad = calloc(1, f->answer_bytes);
        mp_put_bin(mp_key(&m, "pad"), pad, f->answer_bytes);
        free(pad);
    }
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static void on_call(
        void *ctx, struct ipc_request *req, const struct api_method *method, const struct mp_value *params)
{
    struct fixture *f = ctx;
    struct mp_value v;

    f->n_calls++;
    if (strcmp(method->name, "wait") == 0) {
        assert_true(f->n_held < MAX_CALLS);
        f->held[f->n_held++] = req;
    } else if (strcmp(method->name, "subscribe") == 0) {
        ipc_subscribe(req, mp_map_get(params, "after", &v) ? (uint64_t)v.integer : 0, UINT64_MAX);
        ipc_reply(req, NULL);
    } else if (strcmp(method->name, "unsubscribe") == 0) {
        ipc_unsubscribe(req);
        ipc_reply(req, NULL);
    } else if (strcmp(method->name, "users") == 0) {
        ipc_fail(req, API_NOT_CONNECTED, 1500, "no relay; connect first");
    } else {
        answer_status(f, req);
    }
    if (f->commit_in_call)
        ipc_commit(f->ipc, f->last_seq);
}

static int on_read_events(
        void *ctx, uint64_t after, uint64_t types, ipc_event_sink sink, void *sink_ctx, uint64_t *ret_next)
{
    struct fixture *f = ctx;
    CLEANUP_BUF struct buf b;
    CLEANUP_FREE uint8_t *pad = calloc(1, f->event_bytes + 1);
    uint64_t seq = after, rows = f->rows_a_read;

    buf_init(&b, RPC_MAX_MESSAGE);
    f->types_asked = types;
    f->n_reads++;
    if (f->read_result < 0)
        return f->read_result;
    while (seq < f->n_events && (f->rows_a_read == 0 || rows-- > 0)) {
        buf_reset(&b);
        mp_put_map(&b, f->event_bytes > 0 ? 2 : 1);
        mp_put_str(&b, "seq");
        mp_put_uint(&b, ++seq);
        if (f->event_bytes > 0) {
            mp_put_str(&b, "pad");
            mp_put_bin(&b, pad, f->event_bytes);
        }
        if (sink(sink_ctx, seq, b.data, b.len))
            seq = f->n_events; /* not to be relied on */
    }
    *ret_next = seq;
    return 0;
}

static void on_gone(void *ctx, struct ipc_request *req)
{
    struct fixture *f = ctx;

    (void)req;
    f->n_gone++;
}

const struct ipc_callbacks ipc_test_callbacks = {
        .call = on_call, .read_events = on_read_events, .gone = on_gone};

void ipc_test_start(struct fixture *f)
{
    assert_int_equal(ipc_new(f->base, f->path, -1, NULL, 0, &ipc_test_callbacks, f, &f->ipc), 0);
}

int ipc_test_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_ipc.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/run/default.sock", f->dir);
    f->base = event_base_new();
    assert_non_null(f->base);
    ipc_test_start(f);
    *state = f;
    return 0;
}

int ipc_test_teardown(void **state)
{
    struct fixture *f = *state;
    char sub[96];

    ipc_free(f->ipc);
    for (size_t i = 0; i < f->n_held; i++)
        if (f->held[i])
            ipc_reply(f->held[i], NULL);
    event_base_free(f->base);
    assert_int_not_equal(access(f->path, F_OK), 0);
    (void)snprintf(sub, sizeof(sub), "%s/run", f->dir);
    (void)rmdir(sub);
    assert_int_equal(rmdir(f->dir), 0);
    free(f);
    return 0;
}

/* One turn of the application. */
void pump(struct fixture *f)
{
    (void)event_base_loop(f->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    if (f->no_commit)
        return;
    if (f->abort_next)
        ipc_abort(f->ipc, API_STORAGE, "the disk said no");
    else
        ipc_commit(f->ipc, f->last_seq);
    f->abort_next = false;
}

void pump_ms(struct fixture *f, uint64_t ms)
{
    uint64_t end = clock_mono_ms() + ms;

    while (clock_mono_ms() < end) {
        pump(f);
        (void)usleep(1000);
    }
}

int dial(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
        (void)close(fd);
        return -errno;
    }
    return fd;
}

struct peer peer_open(struct fixture *f)
{
    struct peer p = {.fd = dial(f->path)};

    assert_true(p.fd >= 0);
    buf_init(&p.in, 64u << 20);
    pump(f);
    return p;
}

void peer_close(struct peer *p)
{
    if (p->fd >= 0)
        (void)close(p->fd);
    p->fd = -1;
    buf_done(&p->in);
}

/* The server's end of p. */
struct ipc_client *newest_client(const struct fixture *f)
{
    return TAILQ_LAST(&f->ipc->clients, client_list);
}

void send_bytes(struct fixture *f, struct peer *p, const void *bytes, size_t n)
{
    const uint8_t *at = bytes;
    unsigned turns = 0;

    while (n > 0) {
        ssize_t sent = write(p->fd, at, n);
        if (sent < 0) {
            assert_int_equal(errno, EAGAIN);
            assert_true(turns++ < PATIENCE);
            pump(f);
            continue;
        }
        at += sent;
        n -= (size_t)sent;
    }
}

void encode(const struct peer *p, const char *json, struct buf *out)
{
    CLEANUP_BUF struct buf b;
    const char *why = "";

    buf_init(&b, 16u << 20);
    if (mp_from_json(&b, json, strlen(json), &why) != 0)
        fail_msg("%s: %s", json, why);
    if (p->framed)
        mp_put_uint(out, b.len);
    mp_put_raw(out, b.data, b.len);
}

void say(struct fixture *f, struct peer *p, const char *json)
{
    CLEANUP_BUF struct buf b;

    buf_init(&b, 16u << 20);
    encode(p, json, &b);
    send_bytes(f, p, b.data, b.len);
}

void peer_receive(struct peer *p)
{
    static uint8_t chunk[65536];
    ssize_t n;

    while ((n = read(p->fd, chunk, sizeof(chunk))) > 0)
        buf_bytes(&p->in, chunk, (size_t)n);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        p->eof = true;
}

/* The next whole message that has been received, without pumping. */
bool take(struct peer *p, struct mp_value *ret_v)
{
    size_t len, frame = 0;
    struct mp_value length = {.integer = 0};
    const char *why;

    if (p->at == p->in.len)
        return false;
    if (p->framed) {
        if (mp_measure(p->in.data + p->at, p->in.len - p->at, 16, &frame, &why) != WIRE_OK)
            return false;
        mp_view(p->in.data + p->at, frame, &length);
    }
    if (p->in.len - p->at <= frame || mp_measure(p->in.data + p->at + frame, p->in.len - p->at - frame,
                                              RPC_MAX_MESSAGE, &len, &why) != WIRE_OK)
        return false;
    if (p->framed)
        assert_int_equal(length.integer, len);
    mp_view(p->in.data + p->at + frame, len, ret_v);
    p->at += frame + len;
    return true;
}

struct mp_value hear(struct fixture *f, struct peer *p)
{
    struct mp_value v;

    for (unsigned i = 0; i < PATIENCE; i++) {
        if (take(p, &v))
            return v;
        if (p->eof)
            fail_msg("closed instead of a message");
        if (p->at > 0) {
            memmove(p->in.data, p->in.data + p->at, p->in.len - p->at);
            p->in.len -= p->at;
            p->at = 0;
        }
        pump(f);
        peer_receive(p);
    }
    fail_msg("no message came");
    return v;
}

static char *to_json(const struct mp_value *v)
{
    static struct buf out;

    buf_done(&out);
    buf_init(&out, 16u << 20);
    mp_to_json(&out, v);
    buf_u8(&out, 0);
    assert_int_equal(buf_status(&out), 0);
    return (char *)out.data;
}

void expect(struct fixture *f, struct peer *p, const char *json)
{
    struct mp_value v = hear(f, p);

    assert_string_equal(to_json(&v), json);
}

void expect_text(struct fixture *f, struct peer *p, const char *part)
{
    struct mp_value v = hear(f, p);

    if (!strstr(to_json(&v), part))
        fail_msg("\"%s\" is not in %s", part, to_json(&v));
}

void expect_nothing(struct fixture *f, struct peer *p)
{
    struct mp_value v;

    for (unsigned i = 0; i < 5; i++) {
        pump(f);
        peer_receive(p);
    }
    assert_false(p->eof);
    if (take(p, &v))
        fail_msg("unexpected: %s", to_json(&v));
}

void expect_closed(struct fixture *f, struct peer *p)
{
    struct mp_value v;

    for (unsigned i = 0; i < PATIENCE && !p->eof; i++) {
        pump(f);
        peer_receive(p);
    }
    assert_true(p->eof);
    if (take(p, &v))
        fail_msg("before the end: %s", to_json(&v));
}

void expect_events(struct fixture *f, struct peer *p, uint64_t from, uint64_t to)
{
    struct mp_value v, method, params, map, seq;
    struct mp_iter it;

    for (uint64_t i = from; i <= to; i++) {
        v = hear(f, p);
        mp_iter_init(&it, &v);
        assert_true(mp_next(&it, NULL, &v) && v.integer == 2);
        assert_true(mp_next(&it, NULL, &method) && mp_str_eq(&method, "event"));
        assert_true(mp_next(&it, NULL, &params) && params.count == 1);
        mp_iter_init(&it, &params);
        assert_true(mp_next(&it, NULL, &map) && mp_map_get(&map, "seq", &seq));
        assert_int_equal(seq.integer, i);
    }
}
