/*
 * The local API's server over real sockets in one thread: a peer writes, pump() runs the server's loop and commits, the peer reads.
 * Messages are written and compared as JSON.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "failalloc.h"
#include "internal.h"
#include "log.h"

#define MAX_CALLS 8192u
#define PATIENCE 20000u /* turns of the loop in which something must have happened */

static unsigned sends; /* calls of send(): see --wrap in CMakeLists.txt */
ssize_t __real_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags)
{
    sends++;
    return __real_send(fd, p, n, flags);
}

/* The application: answers `status` at once, keeps `wait` in held[], and has a log of n_events numbered events. */
struct fixture {
    struct event_base *base;
    struct ipc *ipc;
    char dir[64], path[96];
    struct ipc_request *held[MAX_CALLS];
    size_t n_held, n_gone, n_calls;
    size_t answer_bytes; /* of padding in status's answer */
    uint64_t n_events, last_seq;
    size_t event_bytes;
    uint64_t types_asked;
    uint64_t subscribe_after;
    int read_result;
    uint64_t rows_a_read;
    bool commit_in_call, abort_next, no_commit;
};

struct peer {
    int fd;
    bool framed, eof;
    struct buf in;
    size_t at;
};

static void answer_status(struct fixture *f, struct ipc_request *req)
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

static void on_call(void *ctx, struct ipc_request *req, const struct api_method *method, const struct mp_value *params)
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

static int on_read_events(void *ctx, uint64_t after, uint64_t types, ipc_event_sink sink, void *sink_ctx, uint64_t *ret_next)
{
    struct fixture *f = ctx;
    CLEANUP_BUF struct buf b;
    CLEANUP_FREE uint8_t *pad = calloc(1, f->event_bytes + 1);
    uint64_t seq = after, rows = f->rows_a_read;

    buf_init(&b, RPC_MAX_MESSAGE);
    f->types_asked = types;
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
            break;
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

static const struct ipc_callbacks callbacks = {.call = on_call, .read_events = on_read_events, .gone = on_gone};

static void start(struct fixture *f)
{
    assert_int_equal(ipc_new(f->base, f->path, -1, NULL, 0, &callbacks, f, &f->ipc), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    (void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_ipc.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof(f->path), "%s/run/default.sock", f->dir);
    f->base = event_base_new();
    assert_non_null(f->base);
    start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
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
static void pump(struct fixture *f)
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

static void pump_ms(struct fixture *f, uint64_t ms)
{
    uint64_t end = clock_mono_ms() + ms;

    while (clock_mono_ms() < end) {
        pump(f);
        (void)usleep(1000);
    }
}

static int dial(const char *path)
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

static struct peer peer_open(struct fixture *f)
{
    struct peer p = {.fd = dial(f->path)};

    assert_true(p.fd >= 0);
    buf_init(&p.in, 64u << 20);
    pump(f);
    return p;
}

static void peer_close(struct peer *p)
{
    if (p->fd >= 0)
        (void)close(p->fd);
    p->fd = -1;
    buf_done(&p->in);
}

/* The server's end of p. */
static struct ipc_client *newest_client(const struct fixture *f)
{
    return TAILQ_LAST(&f->ipc->clients, client_list);
}

static void send_bytes(struct fixture *f, struct peer *p, const void *bytes, size_t n)
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

static void encode(const struct peer *p, const char *json, struct buf *out)
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

static void say(struct fixture *f, struct peer *p, const char *json)
{
    CLEANUP_BUF struct buf b;

    buf_init(&b, 16u << 20);
    encode(p, json, &b);
    send_bytes(f, p, b.data, b.len);
}

static void peer_receive(struct peer *p)
{
    static uint8_t chunk[65536];
    ssize_t n;

    while ((n = read(p->fd, chunk, sizeof(chunk))) > 0)
        buf_bytes(&p->in, chunk, (size_t)n);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        p->eof = true;
}

/* The next whole message that has been received, without pumping. */
static bool take(struct peer *p, struct mp_value *ret_v)
{
    size_t len, frame = 0;
    struct mp_value length = {.integer = 0};
    const char *why;

    if (p->framed) {
        if (mp_measure(p->in.data + p->at, p->in.len - p->at, 16, &frame, &why) != WIRE_OK)
            return false;
        mp_view(p->in.data + p->at, frame, &length);
    }
    if (p->in.len - p->at <= frame ||
            mp_measure(p->in.data + p->at + frame, p->in.len - p->at - frame, RPC_MAX_MESSAGE, &len, &why) != WIRE_OK)
        return false;
    if (p->framed)
        assert_int_equal(length.integer, len);
    mp_view(p->in.data + p->at + frame, len, ret_v);
    p->at += frame + len;
    return true;
}

static struct mp_value hear(struct fixture *f, struct peer *p)
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

static void expect(struct fixture *f, struct peer *p, const char *json)
{
    struct mp_value v = hear(f, p);

    assert_string_equal(to_json(&v), json);
}

static void expect_text(struct fixture *f, struct peer *p, const char *part)
{
    struct mp_value v = hear(f, p);

    if (!strstr(to_json(&v), part))
        fail_msg("\"%s\" is not in %s", part, to_json(&v));
}

static void expect_nothing(struct fixture *f, struct peer *p)
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

static void expect_closed(struct fixture *f, struct peer *p)
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

#define STATUS(id) "[0," #id ",\"status\",[{}]]"
#define ALICE(id) "[1," #id ",null,{\"user\":\"alice\"}]"
#define WAIT(id) "[0," #id ",\"wait\",[{\"id\":\"x\"}]]"

static void test_silent_until_asked(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    expect_nothing(f, &p);
    say(f, &p, "[0,7,\"status\",[]]");
    expect(f, &p, ALICE(7));
    say(f, &p, "[0,0,\"status\",[{}]]");
    expect(f, &p, ALICE(0));
    say(f, &p, "[0,4294967295,\"status\",[{}]]");
    expect(f, &p, ALICE(4294967295));
    peer_close(&p);
}

static void test_one_byte_at_a_time(void **state)
{
    struct fixture *f = *state;

    for (unsigned framed = 0; framed < 2; framed++) {
        struct peer p = peer_open(f);
        CLEANUP_BUF struct buf b;

        p.framed = framed;
        buf_init(&b, 4096);
        encode(&p, STATUS(1), &b);
        encode(&p, STATUS(300), &b);
        for (size_t i = 0; i < b.len; i++) {
            send_bytes(f, &p, b.data + i, 1);
            pump(f);
        }
        expect(f, &p, ALICE(1));
        expect(f, &p, ALICE(300));
        expect_nothing(f, &p);
        peer_close(&p);
    }
}

static void test_pipelined_answers_leave_in_one_write(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;

    buf_init(&b, 65536);
    for (unsigned i = 0; i < 100; i++)
        encode(&p, STATUS(1), &b);
    sends = 0;
    send_bytes(f, &p, b.data, b.len);
    pump(f);
    assert_int_equal(sends, 1);
    for (unsigned i = 0; i < 100; i++)
        expect(f, &p, ALICE(1));
    expect_nothing(f, &p);
    peer_close(&p);
}

/* More messages in one write than one wake-up takes: the rest needs no further input. */
static void test_long_pipeline_goes_on_by_itself(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    CLEANUP_BUF struct buf b;

    buf_init(&b, 65536);
    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        encode(&p, STATUS(1), &b);
    send_bytes(f, &p, b.data, b.len);
    say(f, &q, STATUS(2));
    pump(f);
    assert_true(f->n_calls <= IPC_TURN_MESSAGES + 1);
    peer_receive(&q);
    expect(f, &q, ALICE(2));
    assert_true(f->n_calls <= 2 * IPC_TURN_MESSAGES + 1);
    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        expect(f, &p, ALICE(1));
    expect_nothing(f, &p);
    peer_close(&p);
    peer_close(&q);
}

static void test_keybase_framing(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    p.framed = true;
    f->n_events = f->last_seq = 2;
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    say(f, &p, "[0,2,\"nonsense\",[]]");
    expect_text(f, &p, "METHOD_NOT_FOUND");
    say(f, &p, "[0,3,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,3,null,{}]");
    expect(f, &p, "[2,\"event\",[{\"seq\":1}]]");
    expect(f, &p, "[2,\"event\",[{\"seq\":2}]]");
    peer_close(&p);
}

static void test_notifications_and_responses_are_ignored(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, "[2,\"nvim_set_client_info\",[\"python3-client\",{\"major\":0},\"remote\",{},{\"license\":\"x\"}]]");
    say(f, &p, "[2,\"status\",[]]");
    say(f, &p, "[1,5,null,{}]");
    expect_nothing(f, &p);
    assert_int_equal(f->n_calls, 0);
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    peer_close(&p);
}

static void test_answers_in_any_order_and_repeated_ids(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, WAIT(1));
    say(f, &p, WAIT(1));
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    assert_int_equal(f->n_held, 2);
    ipc_fail(f->held[1], API_TIMEOUT, 0, "second of %d", 2);
    ipc_reply(f->held[0], NULL);
    f->n_held = 0;
    expect(f, &p, "[1,1,[0,\"TIMEOUT: second of 2\"],null]");
    expect(f, &p, "[1,1,null,{}]");
    peer_close(&p);
}

static void test_error_shapes(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, "[0,1,\"users\",[{}]]");
    expect(f, &p, "[1,1,[0,\"NOT_CONNECTED: no relay; connect first\"],null]");
    say(f, &p, "[0,2,\"hello\",[{\"errors\":\"string\"}]]");
    expect_text(f, &p, "\"account\":\"default\"");
    say(f, &p, "[0,3,\"users\",[{}]]");
    expect(f, &p, "[1,3,\"NOT_CONNECTED: no relay; connect first\",null]");
    say(f, &p, "[0,4,\"hello\",[{\"errors\":\"map\"}]]");
    expect_text(f, &p, "[1,4,null,{");
    say(f, &p, "[0,5,\"users\",[{}]]");
    expect(f, &p,
            "[1,5,{\"code\":26,\"name\":\"NOT_CONNECTED\",\"message\":\"no relay; connect first\",\"retry_after_ms\":1500},null]");
    say(f, &p, "[0,6,\"wait\",[{\"id\":\"x\",\"nonsense\":1}]]");
    expect_text(f, &p, "[1,6,{\"code\":3,\"name\":\"INVALID_PARAMS\",\"message\":");
    say(f, &p, "[0,7,\"hello\",[{\"errors\":\"loud\"}]]");
    expect_text(f, &p, "INVALID_PARAMS");
    say(f, &p, "[0,8,\"hello\",[{\"errors\":\"array\"}]]");
    expect_text(f, &p, "[1,8,null,{");
    say(f, &p, "[0,9,\"wait\",[{\"id\":1}]]");
    expect_text(f, &p, "[1,9,[1,\"INVALID_PARAMS: ");
    peer_close(&p);
}

static void test_error_texts_are_valid_utf8(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    char text[2000];

    say(f, &p, WAIT(1));
    say(f, &p, WAIT(2));
    say(f, &p, WAIT(3));
    pump(f);
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    ipc_fail(f->held[0], API_TIMEOUT, 0, "bad \xff byte");
    ipc_fail(f->held[1], API_TIMEOUT, 0, "%s", text);
    for (size_t i = 0; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    ipc_fail(f->held[2], API_TIMEOUT, 0, "%s", text);
    f->n_held = 0;
    expect(f, &p, "[1,1,[0,\"TIMEOUT: bad ? byte\"],null]");
    expect_text(f, &p, "xxxxx");
    expect_text(f, &p, "\xc3\xa4\xc3\xa4\"]");
    peer_close(&p);
}

static void test_unknown_methods_name_the_nearest(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, "[0,1,\"staus\",[{}]]");
    expect_text(f, &p, "[1,1,[1,\"METHOD_NOT_FOUND: unknown method staus; nearest: status");
    say(f, &p, "[0,2,\"zzzzzzzzzz\",[{}]]");
    expect_text(f, &p, "unknown method zzzzzzzzzz; api_info lists all methods");
    say(f, &p, "[0,3,\"\",[{}]]");
    expect_text(f, &p, "METHOD_NOT_FOUND");
    say(f, &p, "[0,4,\"a\\u0000\\u001b[31m\",[{}]]");
    expect_text(f, &p, "unknown method a??[31m");
    peer_close(&p);
}

static void test_api_info(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    ipc_set_account(f->ipc, "web");
    say(f, &p, "[0,1,\"api_info\",[]]");
    expect_text(f, &p, "\"unsubscribe\"");
    say(f, &p, "[0,2,\"hello\",[]]");
    expect_text(f, &p, "\"account\":\"web\"");
    assert_int_equal(f->n_calls, 0);
    peer_close(&p);
}

/* Answers wait for the commit; the server's own errors do not. */
static void test_answers_are_held(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->no_commit = true;
    say(f, &p, STATUS(1));
    expect_nothing(f, &p);
    say(f, &p, "[0,2,\"nonsense\",[]]");
    f->no_commit = false;
    expect_text(f, &p, "METHOD_NOT_FOUND");
    expect(f, &p, ALICE(1));
    peer_close(&p);
}

static void test_commit_inside_a_call(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->commit_in_call = true;
    say(f, &p, STATUS(1));
    say(f, &p, STATUS(2));
    expect(f, &p, ALICE(1));
    expect(f, &p, ALICE(2));
    /* The peer leaves with answers under way: the connection dies inside its own callback. */
    for (unsigned i = 0; i < 50; i++)
        say(f, &p, STATUS(3));
    peer_close(&p);
    pump_ms(f, 5);
    assert_int_equal(ipc_clients(f->ipc), 0);
}

static void test_abort_makes_errors_of_answers(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->n_events = f->last_seq = 1;
    f->abort_next = true;
    say(f, &p, STATUS(1));
    say(f, &p, "[0,2,\"users\",[{}]]");
    say(f, &p, "[0,3,\"subscribe\",[{\"after\":0}]]");
    say(f, &p, WAIT(4));
    expect(f, &p, "[1,1,[0,\"STORAGE: the disk said no\"],null]");
    expect(f, &p, "[1,2,[0,\"STORAGE: the disk said no\"],null]");
    expect(f, &p, "[1,3,[0,\"STORAGE: the disk said no\"],null]");
    expect_nothing(f, &p); /* no subscription, and the wait goes on */
    ipc_reply(f->held[0], NULL);
    f->n_held = 0;
    expect(f, &p, "[1,4,null,{}]");
    peer_close(&p);
}

static void test_client_gone_before_the_answer(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);

    say(f, &p, WAIT(1));
    say(f, &p, WAIT(2));
    pump(f);
    assert_int_equal(f->n_held, 2);
    assert_int_equal(ipc_request_uid(f->held[0]), getuid());
    ipc_reply(f->held[1], NULL); /* held when the client goes */
    peer_close(&p);
    f->no_commit = true;
    pump(f);
    f->no_commit = false;
    assert_int_equal(f->n_gone, 1);
    assert_int_equal(ipc_clients(f->ipc), 1);
    ipc_subscribe(f->held[0], 0, 1);
    ipc_fail(f->held[0], API_TIMEOUT, 0, "too late");
    f->n_held = 0;
    say(f, &q, STATUS(1));
    expect(f, &q, ALICE(1));
    peer_close(&q);
}

static void test_half_close(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);

    say(f, &p, STATUS(1));
    say(f, &p, WAIT(2));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    expect(f, &p, ALICE(1));
    expect_nothing(f, &p);
    assert_int_equal(f->n_gone, 0);
    ipc_reply(f->held[0], NULL);
    expect(f, &p, "[1,2,null,{}]");
    expect_closed(f, &p);
    /* Without anything to answer it closes at once, a rest of a message notwithstanding. */
    send_bytes(f, &q, "\x94", 1);
    assert_int_equal(shutdown(q.fd, SHUT_WR), 0);
    expect_closed(f, &q);
    peer_close(&p);
    peer_close(&q);
    /* Half-closed first, gone later. */
    p = peer_open(f);
    say(f, &p, WAIT(3));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    expect_nothing(f, &p);
    peer_close(&p);
    for (unsigned i = 0; i < 100 && f->n_gone == 0; i++)
        pump_ms(f, 20);
    assert_int_equal(f->n_gone, 1);
    assert_int_equal(ipc_clients(f->ipc), 0);
    ipc_reply(f->held[1], NULL);
    f->n_held = 0;
}

static void test_half_close_behind_a_pipeline(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        say(f, &p, STATUS(1));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        expect(f, &p, ALICE(1));
    expect_closed(f, &p);
    peer_close(&p);
}

#define BYTES(s) s, sizeof(s) - 1

static void test_garbage(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *answer;
    } cases[] = {
            {BYTES("\xc1"), "[2,\"error\",[[1,\"PARSE_ERROR: "},
            {BYTES("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: text/html, */*\r\n\r\n"),
                    "[2,\"error\",[[1,\"PARSE_ERROR: "},
            {BYTES("\x91\x05"), "[2,\"error\",[[1,\"PARSE_ERROR: "},
            {BYTES("\x94\x00\x05\xc0\x90"), "[1,5,[1,\"PARSE_ERROR: "},                        /* the method is nil */
            {BYTES("\x94\x00\xcd\x01\x02\xa1x\x91\xdd\x10\x00\x00\x00"), "[1,258,[1,\"PARSE_ERROR: "}, /* 2^28 elements */
            {BYTES("\x94\x00\x05\xa1x\xc7\x01\x01\x01"), "[1,5,[1,\"PARSE_ERROR: "},           /* an extension */
            {BYTES("\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1x\x90"), "[2,\"error\",[[1,\"PARSE_ERROR: "}, /* msgid 2^32 */
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct peer p = peer_open(f);
        p.framed = cases[i].bytes[0] > 0 && cases[i].bytes[0] < 0x7f;
        send_bytes(f, &p, cases[i].bytes, cases[i].n);
        expect_text(f, &p, cases[i].answer);
        expect_closed(f, &p);
        peer_close(&p);
        pump(f);
        assert_int_equal(ipc_clients(f->ipc), 0);
    }
}

static void test_depth(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    char deep[64] = "\x94\x00\x05\xa6status\x91";

    memset(deep + 11, '\x91', 40);
    send_bytes(f, &p, deep, 51);
    expect_text(f, &p, "[1,5,[1,\"PARSE_ERROR: ");
    expect_closed(f, &p);
    peer_close(&p);
}

/* The error reaches a client that is still busy writing its too long message. */
static void test_oversized(void **state)
{
    static const char head[] = "\x94\x00\x05\xa6status\x91\x81\xa1x\xc6\x00\x20\x00\x00";
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    uint8_t *body = calloc(1, 2u << 20);

    send_bytes(f, &p, head, sizeof(head) - 1);
    send_bytes(f, &p, body, 2u << 20);
    free(body);
    expect_text(f, &p, "[1,5,[1,\"PARSE_ERROR: ");
    expect_closed(f, &p);
    peer_close(&p);
    p = peer_open(f);
    p.framed = true;
    send_bytes(f, &p, "\xce\x00\x20\x00\x00", 5);
    expect_text(f, &p, "PARSE_ERROR: ");
    expect_closed(f, &p);
    /* It stays: nobody waits for it for ever. */
    for (unsigned i = 0; i < 200 && ipc_clients(f->ipc) > 0; i++)
        pump_ms(f, 20);
    assert_int_equal(ipc_clients(f->ipc), 0);
    peer_close(&p);
}

static void test_largest_message(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;
    uint8_t *body = calloc(1, RPC_MAX_MESSAGE);

    buf_init(&b, 2 * RPC_MAX_MESSAGE);
    buf_bytes(&b, "\x94\x00\x05\xa8nonsense\x91\x81\xa1x", 16);
    mp_put_bin(&b, body, RPC_MAX_MESSAGE - 16 - 5);
    free(body);
    assert_int_equal(b.len, RPC_MAX_MESSAGE);
    send_bytes(f, &p, b.data, b.len);
    send_bytes(f, &p, b.data, b.len);
    expect_text(f, &p, "METHOD_NOT_FOUND");
    expect_text(f, &p, "METHOD_NOT_FOUND");
    expect_nothing(f, &p);
    assert_true(newest_client(f)->in.cap <= IPC_KEEP_BUFFER);
    peer_close(&p);
}

static void test_answers_too_long(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->answer_bytes = RPC_MAX_MESSAGE;
    say(f, &p, STATUS(1));
    expect_text(f, &p, "[1,1,[1,\"TOO_LARGE: ");
    f->answer_bytes = RPC_MAX_MESSAGE - 64;
    say(f, &p, STATUS(2));
    expect_text(f, &p, "[1,2,null,");
    f->answer_bytes = 9u * RPC_MAX_MESSAGE; /* the application's own buffer overflowed */
    say(f, &p, STATUS(3));
    expect_text(f, &p, "[1,3,[1,\"TOO_LARGE: ");
    peer_close(&p);
}

static void test_pending_limit(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    const unsigned more = 500;
    CLEANUP_BUF struct buf b;

    for (unsigned i = 0; i < IPC_MAX_PENDING; i++)
        say(f, &p, WAIT(9));
    buf_init(&b, 65536);
    for (unsigned i = 0; i < more; i++)
        encode(&p, WAIT(9), &b);
    send_bytes(f, &p, b.data, b.len);
    for (unsigned i = 0; i < 100; i++)
        pump(f);
    assert_int_equal(f->n_held, IPC_MAX_PENDING);
    say(f, &q, STATUS(1));
    expect(f, &q, ALICE(1));
    for (unsigned i = 0; i < IPC_MAX_PENDING; i++)
        ipc_reply(f->held[i], NULL);
    f->n_held = 0;
    for (unsigned i = 0; i < IPC_MAX_PENDING; i++)
        expect(f, &p, "[1,9,null,{}]");
    expect_nothing(f, &p);
    assert_int_equal(f->n_held, more);
    for (unsigned i = 0; i < more; i++)
        ipc_reply(f->held[i], NULL);
    f->n_held = 0;
    peer_close(&p);
    peer_close(&q);
}

/* Stopped at the limit, with no event of the socket asked for, a vanished client is still noticed. */
static void test_gone_at_the_pending_limit(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    for (unsigned i = 0; i < IPC_MAX_PENDING + 1; i++)
        say(f, &p, WAIT(9));
    for (unsigned i = 0; i < 100; i++)
        pump(f);
    peer_close(&p);
    for (unsigned i = 0; i < 100 && ipc_clients(f->ipc) > 0; i++)
        pump_ms(f, 20);
    assert_int_equal(ipc_clients(f->ipc), 0);
    assert_int_equal(f->n_gone, IPC_MAX_PENDING);
}

static size_t client_memory(const struct ipc_client *c)
{
    return c->in.cap + c->out.cap + c->held.cap + c->held_ids.cap;
}

static void test_requester_that_never_reads(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    const struct ipc_client *c = TAILQ_FIRST(&f->ipc->clients);
    CLEANUP_BUF struct buf b;
    size_t asked = 0, whole = 0, memory = 0;
    struct mp_value v;

    buf_init(&b, 4096);
    encode(&p, STATUS(3), &b);
    f->answer_bytes = 10000;
    for (unsigned idle = 0; idle < 50;) {
        ssize_t n = write(p.fd, b.data + asked % b.len, b.len - asked % b.len);
        idle = n > 0 ? 0 : idle + 1;
        asked += n > 0 ? (size_t)n : 0;
        pump(f);
        assert_true(client_queued(c) <= IPC_MAX_QUEUE);
        memory = client_memory(c) > memory ? client_memory(c) : memory;
    }
    assert_true(client_queued(c) >= IPC_READ_STOP);
    assert_true(memory <= 3u * IPC_MAX_QUEUE);
    say(f, &q, STATUS(1));
    expect_text(f, &q, "[1,1,null,");
    while (asked % b.len) { /* what the full socket cut off */
        peer_receive(&p);
        pump(f);
        ssize_t n = write(p.fd, b.data + asked % b.len, b.len - asked % b.len);
        asked += n > 0 ? (size_t)n : 0;
    }
    for (whole = asked / b.len; whole > 0; whole--)
        v = hear(f, &p);
    assert_int_equal(v.type, MP_ARRAY);
    expect_nothing(f, &p);
    assert_true(client_memory(c) <= 4 * IPC_KEEP_BUFFER);
    peer_close(&p);
    peer_close(&q);
}

/* Answers given later do not stop at the limit of reading; the queue is bounded all the same. */
static void test_late_answers_overflow(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    const unsigned n = 40;

    for (unsigned i = 0; i < n; i++)
        say(f, &p, WAIT(8));
    pump(f);
    f->answer_bytes = 100000;
    for (unsigned i = 0; i < n; i++)
        answer_status(f, f->held[i]);
    f->n_held = 0;
    assert_true(client_queued(newest_client(f)) <= IPC_MAX_QUEUE);
    for (unsigned i = 0; i < 20; i++)
        expect_text(f, &p, "[1,8,null,");
    for (unsigned i = 20; i < n; i++)
        expect_text(f, &p, "[1,8,[0,\"QUEUE_FULL: ");
    expect_nothing(f, &p);
    peer_close(&p);
}

static void expect_events(struct fixture *f, struct peer *p, uint64_t from, uint64_t to)
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

static void test_subscription(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->n_events = 5;
    f->last_seq = 3; /* 4 and 5 are not committed */
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":1}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 2, 3);
    expect_nothing(f, &p);
    assert_true(f->types_asked == UINT64_MAX);
    f->last_seq = 5;
    expect_events(f, &p, 4, 5);
    say(f, &p, "[0,2,\"subscribe\",[{\"after\":4}]]"); /* replaces the first */
    expect(f, &p, "[1,2,null,{}]");
    expect_events(f, &p, 5, 5);
    expect_nothing(f, &p);
    say(f, &p, "[0,3,\"unsubscribe\",[]]");
    expect(f, &p, "[1,3,null,{}]");
    f->n_events = f->last_seq = 7;
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_log_read_in_small_portions(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->rows_a_read = 3;
    f->n_events = f->last_seq = 1000;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, 1000);
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_log_that_cannot_be_read(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    log_init("test_ipc", 0);
    f->n_events = f->last_seq = 2;
    f->read_result = -EIO;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_nothing(f, &p);
    f->read_result = 0;
    expect_events(f, &p, 1, 2); /* tried again without a new event */
    f->n_events = f->last_seq = 3;
    expect_events(f, &p, 3, 3);
    peer_close(&p);
}

static void test_new_log_begins_at_one(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->n_events = f->last_seq = 9;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":9}]]");
    expect(f, &p, "[1,1,null,{}]");
    f->n_events = f->last_seq = 0;
    expect_nothing(f, &p);
    f->n_events = f->last_seq = 2;
    expect_events(f, &p, 1, 2);
    peer_close(&p);
}

static void test_subscriber_that_never_reads(void **state)
{
    const uint64_t n = 100000;
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    const struct ipc_client *c = TAILQ_FIRST(&f->ipc->clients);
    size_t memory = 0;

    f->event_bytes = 300;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    for (f->n_events = 100; f->n_events <= n; f->n_events += 100) {
        f->last_seq = f->n_events;
        pump(f);
        memory = client_memory(c) > memory ? client_memory(c) : memory;
        if (f->n_events % 10000 == 0) {
            say(f, &q, STATUS(1));
            expect(f, &q, ALICE(1));
        }
    }
    f->n_events = n;
    assert_true(c->subscription.cursor < 5000);
    assert_true(memory <= 4u * IPC_EVENT_BATCH);
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, n);
    expect_nothing(f, &p);
    assert_true(client_memory(c) <= 4 * IPC_KEEP_BUFFER);
    peer_close(&p);
    peer_close(&q);
}

/* A few bytes now and then: order and number hold, requests in between are answered. */
static void test_slow_subscriber(void **state)
{
    const uint64_t n = 3000;
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    uint8_t piece[4096];
    ssize_t got;

    f->event_bytes = 500;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    for (unsigned i = 0; i < 600; i++) {
        if (f->n_events < n)
            f->last_seq = f->n_events += 10;
        pump(f);
        got = read(p.fd, piece, 1 + (i * 977) % sizeof(piece));
        if (got > 0)
            buf_bytes(&p.in, piece, (size_t)got);
    }
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, n);
    say(f, &p, STATUS(2));
    expect(f, &p, ALICE(2));
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_event_of_the_largest_size(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->event_bytes = RPC_MAX_MESSAGE - 100;
    f->n_events = f->last_seq = 5;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, 5);
    peer_close(&p);
}

static void test_drain(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    struct mp_value v;

    f->answer_bytes = 60000;
    for (unsigned i = 0; i < 10; i++)
        say(f, &p, STATUS(1));
    pump(f);
    assert_true(client_queued(newest_client(f)) > 0);
    ipc_drain(f->ipc, 20); /* nobody reads: it gives up */
    assert_true(client_queued(newest_client(f)) > 0);
    for (unsigned i = 0; i < 10; i++) {
        peer_receive(&p);
        ipc_drain(f->ipc, 1);
    }
    assert_int_equal(client_queued(newest_client(f)), 0);
    peer_receive(&p);
    for (unsigned i = 0; i < 10; i++)
        assert_true(take(&p, &v));
    peer_close(&p);
}

static void test_uids(void **state)
{
    struct fixture *f = *state;
    const uid_t others[] = {getuid() + 5, getuid() + 9};
    const struct ipc none = {.uids = NULL}, some = {.uids = (uid_t *)others, .n_uids = 2};

    (void)f;
    assert_true(listener_allows(&none, getuid()));
    assert_false(listener_allows(&none, getuid() + 1));
    assert_false(listener_allows(&none, (uid_t)-1));
    assert_true(listener_allows(&some, getuid()));
    assert_true(listener_allows(&some, getuid() + 9));
    assert_false(listener_allows(&some, getuid() + 6));
}

/* A child of another uid connects and asks; its exit code tells whether it was answered. */
static bool foreign_uid_is_served(struct fixture *f, uid_t uid)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        char answer[64];
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
        if (setuid(uid) < 0 || connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 ||
                send(fd, "\x94\x00\x01\xa6status\x90", 11, MSG_NOSIGNAL) != 11 || read(fd, answer, sizeof(answer)) <= 0)
            _exit(1);
        _exit(0);
    }
    while (waitpid(child, &status, WNOHANG) == 0)
        pump_ms(f, 2);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_foreign_uid(void **state)
{
    struct fixture *f = *state;
    const uid_t friend = 12345;
    char sub[96];

    if (getuid() != 0)
        skip();
    log_init("test_ipc", 0);
    (void)snprintf(sub, sizeof(sub), "%s/run", f->dir);
    assert_int_equal(chmod(f->dir, 0755), 0);
    assert_int_equal(chmod(sub, 0755), 0);
    assert_false(foreign_uid_is_served(f, friend));
    assert_int_equal(chmod(f->path, 0666), 0);
    assert_false(foreign_uid_is_served(f, friend));
    ipc_free(f->ipc);
    assert_int_equal(ipc_new(f->base, f->path, -1, &friend, 1, &callbacks, f, &f->ipc), 0);
    assert_true(foreign_uid_is_served(f, friend));
    assert_false(foreign_uid_is_served(f, friend + 1));
}

static void test_modes(void **state)
{
    struct fixture *f = *state;
    char sub[96];
    struct stat st;
    mode_t mask;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    (void)snprintf(sub, sizeof(sub), "%s/run", f->dir);
    assert_int_equal(stat(sub, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    ipc_free(f->ipc);
    mask = umask(0);
    start(f);
    (void)umask(mask);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static int try_path(struct fixture *f, const char *path)
{
    struct ipc *second = NULL;
    int r = ipc_new(f->base, path, -1, NULL, 0, &callbacks, f, &second);

    if (r == 0)
        ipc_free(second);
    else
        assert_null(second);
    return r;
}

static void test_double_start(void **state)
{
    struct fixture *f = *state;
    struct peer p;

    log_init("test_ipc", 0);
    assert_int_equal(try_path(f, f->path), -EADDRINUSE);
    p = peer_open(f); /* the first one still serves */
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    peer_close(&p);
}

static void test_stale_path(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    ipc_free(f->ipc);
    f->ipc = NULL;
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 1), 0);
    (void)close(fd);
    start(f);
    fd = dial(f->path);
    assert_true(fd >= 0);
    (void)close(fd);
}

static void test_bad_paths(void **state)
{
    struct fixture *f = *state;
    char path[300], dir[96];
    int fd;

    log_init("test_ipc", 0);
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[299] = '\0';
    assert_int_equal(try_path(f, path), -ENAMETOOLONG);
    assert_int_equal(try_path(f, ""), -EINVAL);
    assert_int_equal(try_path(f, NULL), -EINVAL);
    (void)snprintf(path, sizeof(path), "%s/run/file", f->dir);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(try_path(f, path), -EEXIST);
    assert_int_equal(unlink(path), 0);
    (void)snprintf(path, sizeof(path), "%s/no/such/dir", f->dir);
    assert_int_equal(try_path(f, path), -ENOENT);
    (void)snprintf(dir, sizeof(dir), "%s/open", f->dir);
    (void)snprintf(path, sizeof(path), "%s/s", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(chmod(dir, 0777), 0);
    assert_int_equal(try_path(f, path), -EPERM);
    assert_int_equal(chmod(dir, 01777), 0);
    assert_int_equal(try_path(f, path), 0);
    assert_int_equal(rmdir(dir), 0); /* the socket was removed */
}

/* A successor's socket at the same path is left alone. */
static void test_unlinks_only_its_own(void **state)
{
    struct fixture *f = *state;
    struct ipc *first = f->ipc;

    assert_int_equal(unlink(f->path), 0);
    start(f);
    ipc_free(first);
    assert_int_equal(access(f->path, F_OK), 0);
}

static void test_inherited_socket(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct ipc *ipc = NULL;
    struct peer p;

    log_init("test_ipc", 0);
    ipc_free(f->ipc);
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(ipc_new(f->base, NULL, fd, NULL, 0, &callbacks, f, &ipc), -EINVAL); /* does not listen */
    assert_int_equal(ipc_new(f->base, NULL, datagram, NULL, 0, &callbacks, f, &ipc), -EINVAL);
    assert_int_equal(ipc_new(f->base, NULL, 999, NULL, 0, &callbacks, f, &ipc), -EINVAL);
    assert_int_equal(close(datagram), 0);
    assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(ipc_new(f->base, NULL, fd, NULL, 0, &callbacks, f, &f->ipc), 0);
    p = peer_open(f);
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    peer_close(&p);
    ipc_free(f->ipc);
    f->ipc = NULL;
    assert_int_equal(access(f->path, F_OK), 0); /* not ours to remove */
    assert_int_equal(unlink(f->path), 0);
}

static bool raise_descriptor_limit(rlim_t n)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = n;
    return limit.rlim_max >= n && setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static void test_client_limit(void **state)
{
    struct fixture *f = *state;
    static struct peer peers[IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS + 1];
    struct peer *surplus = &peers[IPC_MAX_CLIENTS], *last = &peers[IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS];

    if (!raise_descriptor_limit(4096))
        skip();
    log_init("test_ipc", 0);
    for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
        peers[i] = peer_open(f);
    pump(f);
    assert_int_equal(ipc_clients(f->ipc), IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS);
    expect_closed(f, last);
    expect_nothing(f, surplus);
    say(f, surplus, STATUS(1));
    expect_text(f, surplus, "[1,1,[0,\"QUEUE_FULL: at most 1024 programs");
    expect_closed(f, surplus);
    say(f, &peers[IPC_MAX_CLIENTS - 1], STATUS(1));
    expect(f, &peers[IPC_MAX_CLIENTS - 1], ALICE(1));
    for (size_t i = 0; i < 100; i++)
        peer_close(&peers[i]);
    peer_close(surplus);
    pump(f);
    say(f, surplus + 1, STATUS(2)); /* there is room now */
    expect(f, surplus + 1, ALICE(2));
    for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
        peer_close(&peers[i]);
    for (unsigned i = 0; i < 20; i++)
        pump(f);
    assert_int_equal(ipc_clients(f->ipc), 0);
}

static void test_out_of_descriptors(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q;
    int fd = dup(0);
    unsigned turns = 0;

    log_init("test_ipc", 0);
    assert_true(fd >= 0);
    q.fd = dial(f->path);
    assert_true(q.fd >= 0);
    q = (struct peer){.fd = q.fd};
    buf_init(&q.in, 65536);
    assert_true(raise_descriptor_limit((rlim_t)fd));
    say(f, &q, STATUS(2));
    for (unsigned i = 0; i < 50; i++)
        turns += event_base_loop(f->base, EVLOOP_ONCE | EVLOOP_NONBLOCK) == 0 && f->ipc->accepting;
    assert_true(turns <= 1); /* does not spin on the descriptor it cannot accept */
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    assert_true(raise_descriptor_limit(1024));
    (void)close(fd);
    peer_close(&p); /* which resumes accepting before the pause is over */
    pump(f);
    expect(f, &q, ALICE(2));
    peer_close(&q);
}

static void test_answer_after_the_end(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, WAIT(1));
    pump(f);
    ipc_free(f->ipc);
    f->ipc = NULL;
    assert_int_equal(f->n_gone, 1);
    ipc_reply(f->held[0], NULL);
    f->n_held = 0;
    peer_receive(&p);
    assert_true(p.eof);
    peer_close(&p);
    ipc_free(NULL);
}

static void put_requests(struct buf *b)
{
    static const char *const requests[] = {STATUS(1), WAIT(2), "[0,3,\"subscribe\",[{\"after\":0}]]",
            "[0,4,\"users\",[]]", "[0,5,\"nonsense\",[]]", "[0,6,\"hello\",[{\"errors\":\"map\"}]]",
            "[0,7,\"api_info\",[]]", "[0,8,\"wait\",[{}]]", STATUS(9)};
    const struct peer plain = {.framed = false};

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
        encode(&plain, requests[i], b);
}

/* A conversation in which the k-th allocation fails. True if it did. */
static bool converse(struct fixture *f, const struct buf *requests, unsigned long k)
{
    size_t cut = requests->len - 3; /* the last request comes in two pieces */
    int fd = dial(f->path);
    bool failed;

    assert_true(fd >= 0);
    failalloc_arm(k);
    pump(f);
    (void)!send(fd, requests->data, cut, MSG_NOSIGNAL);
    pump(f);
    (void)!send(fd, requests->data + cut, requests->len - cut, MSG_NOSIGNAL);
    f->n_events++;
    f->last_seq++;
    pump(f);
    for (size_t i = 0; i < f->n_held; i++)
        ipc_fail(f->held[i], API_TIMEOUT, 0, "in time");
    f->n_held = 0;
    pump(f);
    failed = failalloc_disarm();
    (void)close(fd);
    for (unsigned i = 0; i < 5; i++)
        pump(f);
    return failed;
}

/* Whatever fails, it costs at most that client, and the next one is served. */
static void test_allocation_failures(void **state)
{
    struct fixture *f = *state;
    CLEANUP_BUF struct buf b;
    unsigned long k = 1;

    log_init("test_ipc", 0);
    buf_init(&b, 65536);
    put_requests(&b);
    for (; converse(f, &b, k); k++) {
        struct peer p = peer_open(f);
        assert_int_equal(ipc_clients(f->ipc), 1);
        say(f, &p, STATUS(1));
        expect(f, &p, ALICE(1));
        peer_close(&p);
        pump(f);
        assert_int_equal(ipc_clients(f->ipc), 0);
    }
    assert_true(k > 10);
}

static void test_start_without_memory(void **state)
{
    struct fixture *f = *state;
    struct ipc *ipc = NULL;
    unsigned long k = 1;
    char path[128];
    int r;

    (void)snprintf(path, sizeof(path), "%s/run/second.sock", f->dir);
    for (;; k++) {
        failalloc_arm(k);
        r = ipc_new(f->base, path, -1, NULL, 0, &callbacks, f, &ipc);
        if (!failalloc_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
        assert_null(ipc);
        assert_int_equal(failalloc_live(), 0);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    assert_int_equal(r, 0);
    assert_true(k > 4);
    ipc_free(ipc);
    assert_int_not_equal(access(path, F_OK), 0);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* For reading, not for passing: what a round trip and a pipelined request cost, both ends included. */
static void test_cost(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;
    const unsigned n = 5000;
    uint64_t begin;
    char answer[256];

    buf_init(&b, 65536);
    encode(&p, STATUS(1), &b);
    begin = now_ns();
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(write(p.fd, b.data, b.len), b.len);
        do
            pump(f);
        while (read(p.fd, answer, sizeof(answer)) < 0);
    }
    print_message("round trip: %.1f us\n", (double)(now_ns() - begin) / n / 1000);
    for (unsigned i = 1; i < 200; i++)
        encode(&p, STATUS(1), &b);
    begin = now_ns();
    for (unsigned i = 0; i < 50; i++) {
        send_bytes(f, &p, b.data, b.len);
        for (unsigned j = 0; j < 200; j++)
            (void)hear(f, &p);
    }
    print_message("pipelined: %.2f us\n", (double)(now_ns() - begin) / 10000 / 1000);
    peer_close(&p);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            T(test_silent_until_asked),
            T(test_one_byte_at_a_time),
            T(test_pipelined_answers_leave_in_one_write),
            T(test_long_pipeline_goes_on_by_itself),
            T(test_keybase_framing),
            T(test_notifications_and_responses_are_ignored),
            T(test_answers_in_any_order_and_repeated_ids),
            T(test_error_shapes),
            T(test_error_texts_are_valid_utf8),
            T(test_unknown_methods_name_the_nearest),
            T(test_api_info),
            T(test_answers_are_held),
            T(test_commit_inside_a_call),
            T(test_abort_makes_errors_of_answers),
            T(test_client_gone_before_the_answer),
            T(test_half_close),
            T(test_half_close_behind_a_pipeline),
            T(test_garbage),
            T(test_depth),
            T(test_oversized),
            T(test_largest_message),
            T(test_answers_too_long),
            T(test_pending_limit),
            T(test_gone_at_the_pending_limit),
            T(test_requester_that_never_reads),
            T(test_late_answers_overflow),
            T(test_subscription),
            T(test_log_read_in_small_portions),
            T(test_log_that_cannot_be_read),
            T(test_new_log_begins_at_one),
            T(test_subscriber_that_never_reads),
            T(test_slow_subscriber),
            T(test_event_of_the_largest_size),
            T(test_drain),
            T(test_uids),
            T(test_foreign_uid),
            T(test_modes),
            T(test_double_start),
            T(test_stale_path),
            T(test_bad_paths),
            T(test_unlinks_only_its_own),
            T(test_inherited_socket),
            T(test_client_limit),
            T(test_out_of_descriptors),
            T(test_answer_after_the_end),
            T(test_allocation_failures),
            T(test_start_without_memory),
            T(test_cost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
