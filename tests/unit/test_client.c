#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "client_world.h"

#define PIPELINE 1000
#define FLOOD_EVENT 65536u

static int64_t mono_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

struct bytes {
    const char *p;
    size_t n;
};

/* Answers the first request with raw bytes and stays. */
static void script_raw(struct fake_peer *p, void *ctx)
{
    const struct bytes *b = ctx;
    struct rpc_message m;

    if (fake_next(p, &m) && fake_raw(p, b->p, b->n))
        while (fake_next(p, &m))
            ;
}

/* The same, and closes. */
static void script_raw_close(struct fake_peer *p, void *ctx)
{
    const struct bytes *b = ctx;
    struct rpc_message m;

    if (fake_next(p, &m))
        (void)fake_raw(p, b->p, b->n);
}

/* The answer to the first request byte by byte. */
static void script_drip(struct fake_peer *p, void *ctx)
{
    CLEANUP_BUF struct buf b;
    CLEANUP_BUF struct buf result;
    struct rpc_message m;

    (void)ctx;
    if (!fake_next(p, &m))
        return;
    buf_init(&b, RPC_MAX_MESSAGE);
    buf_init(&result, 1000);
    mp_put_map(&result, 1);
    mp_put_str(&result, "text");
    mp_put_str(&result, "a text that comes in pieces");
    rpc_put_response(&b, RPC_FRAMING_PLAIN, m.msgid, NULL, &result);
    for (size_t i = 0; i < b.len; i++) {
        (void)fake_raw(p, b.data + i, 1);
        (void)usleep(500);
    }
    (void)fake_next(p, &m);
}

/* ---- opening ---- */

static void test_socket_path(void **state)
{
    char *path;

    (void)state;
    (void)setenv("XDG_RUNTIME_DIR", "/run/test", 1);
    (void)unsetenv("E2EED_SOCKET");
    assert_int_equal(e2eectl_socket_path(NULL, &path), 0);
    assert_string_equal(path, "/run/test/e2eed/default.sock");
    free(path);
    (void)setenv("E2EED_SOCKET", "/tmp/other.sock", 1);
    assert_int_equal(e2eectl_socket_path(NULL, &path), 0);
    assert_string_equal(path, "/tmp/other.sock");
    free(path);
    assert_int_equal(e2eectl_socket_path("work-2", &path), 0);
    assert_string_equal(path, "/run/test/e2eed/work-2.sock");
    free(path);
    (void)unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(e2eectl_socket_path("a", &path), 0);
    assert_non_null(strstr(path, "/run/user/"));
    free(path);
    assert_int_equal(e2eectl_socket_path("../etc", &path), -EINVAL);
    assert_int_equal(e2eectl_socket_path("", &path), -EINVAL);
    assert_int_equal(e2eectl_socket_path("a/b", &path), -EINVAL);
    (void)unsetenv("E2EED_SOCKET");
}

static void test_open_fails(void **state)
{
    char long_path[300];
    struct e2eectl *h = NULL;

    (void)state;
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[0] = '/';
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(e2eectl_open(w.path, &h), -ENOENT);
    assert_int_equal(e2eectl_open(long_path, &h), -ENAMETOOLONG);
    assert_int_equal(e2eectl_open_account("UPPER", &h), -EINVAL);
    scratch_write(w.path, "", 0, 0600);
    assert_int_equal(e2eectl_open(w.path, &h), -ECONNREFUSED);
    (void)unlink(w.path);
    assert_null(h);
    e2eectl_close(NULL);
}

/* ---- a peer that is no daemon ---- */

static void count_results(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    int *results = ctx;

    (void)h;
    assert_true((result == 0) == (value != NULL));
    results[0]++;
    results[1] = result;
}

static void bad_peer(fake_script script, const char *bytes, size_t n, int expected)
{
    struct bytes b = {bytes, n};
    int other[2] = {0, 0};

    (void)setup(NULL);
    start(script, &b);
    assert_int_equal(e2eectl_call_async(w.h, "never", NULL, count_results, other, NULL), 0);
    assert_int_equal(call("a"), expected);
    assert_int_equal(e2eectl_last_error(w.h)->code, expected);
    assert_int_equal(other[0], 1);
    assert_int_equal(other[1], expected);
    assert_int_equal(e2eectl_calls(w.h), 0);
    /* Dead: everything says so, nothing is wanted from the socket. */
    assert_int_equal(call("a"), expected);
    assert_int_equal(e2eectl_dispatch(w.h), expected);
    assert_int_equal(e2eectl_events(w.h), 0);
    assert_int_equal(e2eectl_call_async(w.h, "a", NULL, count_results, other, NULL), expected);
    assert_int_equal(other[0], 1);
    (void)teardown(NULL);
}

#define BAD_PEER(bytes) bad_peer(script_raw, bytes, sizeof(bytes) - 1, -EBADMSG)

static void test_garbage(void **state)
{
    (void)state;
    BAD_PEER("HTTP/1.1 400 Bad Request\r\n\r\n");
    BAD_PEER("\xc1\xc1\xc1");
    BAD_PEER("\x94\x01\x00\xc0\xdd\xff\xff\xff\xff"); /* a result of 4 Gi elements */
    BAD_PEER("\x94\x01\x00\xc0\xdf\x7f\xff\xff\xff"); /* of 2 Gi pairs */
    BAD_PEER("\x94\x01\x00\xc0\xc6\x7f\xff\xff\xff"); /* of 2 GiB */
    BAD_PEER("\x94\x01\x00\xc0\xdb\x00\x20\x00\x00"); /* of 2 MiB */
    BAD_PEER("\x93\x01\x00\xc0");                     /* too few elements */
    BAD_PEER("\x94\x00\x00\xa4spam\x90");             /* a request */
    BAD_PEER("\x93\x02\xa5"
             "event\x90"); /* an event without its map */
    BAD_PEER("\x93\x02\xa5"
             "event\x91\x01"); /* one that is no map */
    BAD_PEER("\x93\x02\xa5"
             "event\x01"); /* no parameters at all */
    BAD_PEER("\x94\x01\x00\xc0\x82\xa1"
             "a\x01\xa1"
             "a\x02"); /* a key twice */
    bad_peer(script_raw,
            "\x94\x01\x00\xc0\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01",
            23, -EBADMSG);
}

static void test_early_close(void **state)
{
    (void)state;
    bad_peer(script_raw_close, "", 0, -ECONNRESET);
    bad_peer(script_raw_close, "\x94\x01\x00", 3, -ECONNRESET);
}

static void test_unknown_is_ignored(void **state)
{
    /* An answer to no call, a notification of another kind, and then the end. */
    static const char bytes[] = "\x94\x01\xcd\x30\x39\xc0\x80\x93\x02\xa5other\x91\x01";
    struct bytes b = {bytes, sizeof(bytes) - 1};

    (void)state;
    start(script_raw, &b);
    assert_int_equal(e2eectl_call(w.h, "a", NULL, 100, NULL), -ETIMEDOUT);
    assert_int_equal(e2eectl_dispatch(w.h), 0);
}

static void test_drip(void **state)
{
    struct e2eectl_value *v;

    (void)state;
    start(script_drip, NULL);
    assert_int_equal(e2eectl_call(w.h, "a", NULL, LONG_MS, &v), 0);
    assert_string_equal(e2eectl_get_string(v, "text"), "a text that comes in pieces");
    e2eectl_value_free(v);
}

/* ---- time ---- */

/* The first answer comes behind the second request. */
static void script_late(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;
    uint32_t first;

    (void)ctx;
    if (!fake_next(p, &m))
        return;
    first = m.msgid;
    if (!fake_next(p, &m))
        return;
    (void)fake_reply(p, first, 1);
    (void)fake_reply(p, m.msgid, 2);
    while (fake_next(p, &m))
        ;
}

static void test_timeout(void **state)
{
    struct e2eectl_value *v = NULL;
    int64_t begin = mono_ms();

    (void)state;
    start(script_late, NULL);
    assert_error(e2eectl_call(w.h, "a", NULL, 100, &v), -ETIMEDOUT, "ETIMEDOUT");
    assert_null(v);
    assert_true(mono_ms() - begin >= 99);
    assert_int_equal(e2eectl_calls(w.h), 0);
    assert_int_equal(e2eectl_call(w.h, "b", NULL, LONG_MS, &v), 0);
    assert_int_equal(e2eectl_get_int(v, "n", 0), 2);
    e2eectl_value_free(v);
    assert_error(e2eectl_call(w.h, "c", NULL, 0, NULL), -ETIMEDOUT, "ETIMEDOUT");
    e2eectl_set_timeout(w.h, 50);
    assert_error(e2eectl_status(w.h, &v), -ETIMEDOUT, "ETIMEDOUT");
}

static volatile sig_atomic_t alarms;
static void on_alarm(int signal_number)
{
    (void)signal_number;
    alarms++;
}

static void test_signals(void **state)
{
    struct sigaction action = {.sa_handler = on_alarm}, old;
    struct itimerval fast = {{0, 2000}, {0, 2000}}, off = {{0, 0}, {0, 0}};
    int64_t begin;

    (void)state;
    start(script_drip, NULL);
    (void)sigaction(SIGALRM, &action, &old);
    (void)setitimer(ITIMER_REAL, &fast, NULL);
    assert_int_equal(call("a"), 0);
    begin = mono_ms();
    assert_int_equal(e2eectl_call(w.h, "never", NULL, 50, NULL) == 0, 0);
    (void)setitimer(ITIMER_REAL, &off, NULL);
    (void)sigaction(SIGALRM, &old, NULL);
    assert_true(alarms > 3);
    assert_true(mono_ms() - begin < 5000);
}

/* ---- many calls, and a daemon that ends ---- */

struct collected {
    int count, errors;
    bool seen[PIPELINE];
};

static void collect(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    struct collected *c = ctx;
    int64_t n = e2eectl_get_int(value, "n", -1);

    (void)h;
    c->count++;
    if (result || n < 0 || n >= PIPELINE || c->seen[n])
        c->errors++;
    else
        c->seen[n] = true;
}

/* Reads all requests, then answers them from the last to the first, with events between. */
static void script_reverse(struct fake_peer *p, void *ctx)
{
    static uint32_t id[PIPELINE];
    static int64_t value[PIPELINE];
    struct rpc_message m;

    (void)ctx;
    for (int i = 0; i < PIPELINE; i++) {
        struct mp_iter it;
        struct mp_value map, n;

        if (!fake_next(p, &m))
            return;
        mp_iter_init(&it, &m.params);
        if (!mp_next(&it, NULL, &map) || !mp_map_get(&map, "n", &n))
            return;
        id[i] = m.msgid;
        value[i] = n.integer;
    }
    for (int i = PIPELINE - 1; i >= 0; i--) {
        (void)fake_event(p, (uint64_t)(PIPELINE - i), 10);
        (void)fake_reply(p, id[i], value[i]);
    }
    (void)fake_next(p, &m);
}

static void run_until(const int *count, int wanted)
{
    int64_t end = mono_ms() + LONG_MS;

    while (*count < wanted && mono_ms() < end) {
        struct pollfd p = {.fd = e2eectl_fd(w.h), .events = (short)e2eectl_events(w.h)};

        assert_true(poll(&p, 1, 1000) >= 0);
        assert_int_equal(e2eectl_dispatch(w.h), 0);
    }
}

static void test_pipeline(void **state)
{
    struct collected c = {.count = 0};
    struct e2eectl_value *event;

    (void)state;
    start(script_reverse, NULL);
    for (int i = 0; i < PIPELINE; i++) {
        struct e2eectl_params *p = e2eectl_params_new();

        e2eectl_params_int(p, "n", i);
        assert_int_equal(e2eectl_call_async(w.h, "a", p, collect, &c, NULL), 0);
        e2eectl_params_free(p);
    }
    assert_int_equal(e2eectl_calls(w.h), PIPELINE);
    assert_true(e2eectl_events(w.h) & POLLOUT);
    run_until(&c.count, PIPELINE);
    assert_int_equal(c.count, PIPELINE);
    assert_int_equal(c.errors, 0);
    assert_int_equal(e2eectl_calls(w.h), 0);
    for (int i = 1; i <= PIPELINE; i++) {
        assert_int_equal(e2eectl_next_event(w.h, LONG_MS, &event), 0);
        assert_int_equal(e2eectl_get_int(event, "seq", 0), i);
        e2eectl_value_free(event);
    }
    assert_int_equal(e2eectl_next_event(w.h, 0, &event), -ETIMEDOUT);
}

static void test_too_many_calls(void **state)
{
    int results[2] = {0, 0};

    (void)state;
    start(script_answer, NULL);
    for (int i = 0; i < E2EECTL_MAX_CALLS; i++)
        assert_int_equal(e2eectl_call_async(w.h, "a", NULL, count_results, results, NULL), 0);
    assert_error(e2eectl_call_async(w.h, "a", NULL, count_results, results, NULL), -ENOBUFS, "ENOBUFS");
    assert_error(call("a"), -ENOBUFS, "ENOBUFS");
    run_until(results, E2EECTL_MAX_CALLS);
    assert_int_equal(results[0], E2EECTL_MAX_CALLS);
    assert_int_equal(call("a"), 0);
}

/* A daemon that reads nothing. */
static void script_deaf(struct fake_peer *p, void *ctx)
{
    struct pollfd f = {.fd = p->fd};

    (void)ctx;
    (void)poll(&f, 1, LONG_MS);
}

static void test_deaf_daemon(void **state)
{
    struct e2eectl_params *p = e2eectl_params_new();
    char *big = calloc(1, 1000000);
    int r = 0, n = 0;

    (void)state;
    start(script_deaf, NULL);
    e2eectl_params_bytes(p, "a", big, 1000000);
    while (r == 0 && n++ < 100)
        r = e2eectl_call(w.h, "a", p, 1, NULL) == -ETIMEDOUT ? 0 : -1;
    assert_error(e2eectl_call(w.h, "a", p, 1, NULL), -ENOBUFS, "ENOBUFS");
    assert_true(n < 10);
    e2eectl_params_free(p);
    free(big);
}

/* Answers one request and ends at the next. */
static void script_one(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;

    (void)ctx;
    if (fake_next(p, &m) && fake_reply(p, m.msgid, 1))
        (void)fake_next(p, &m);
}

static void test_restart(void **state)
{
    int results[2] = {0, 0};

    (void)state;
    start(script_one, NULL);
    assert_int_equal(call("a"), 0);
    for (int i = 0; i < 100; i++)
        assert_true(e2eectl_call_async(w.h, "b", NULL, count_results, results, NULL) == 0);
    assert_int_equal(call("b"), -ECONNRESET);
    assert_int_equal(results[0], 100);
    assert_int_equal(results[1], -ECONNRESET);
    assert_non_null(strstr(e2eectl_last_error(w.h)->message, "closed"));
    e2eectl_close(w.h);
    fake_daemon_stop(w.daemon);
    start(script_answer, NULL);
    assert_int_equal(call("a"), 0);
}

/* Hangs up without having read anything. */
static void script_gone(struct fake_peer *p, void *ctx)
{
    (void)p;
    (void)ctx;
}

/* A write to a daemon that has gone must not raise SIGPIPE, which would end this program. */
static void test_write_to_nobody(void **state)
{
    struct pollfd p;

    (void)state;
    start(script_gone, NULL);
    p = (struct pollfd){.fd = e2eectl_fd(w.h), .events = POLLIN};
    assert_int_equal(poll(&p, 1, LONG_MS), 1);
    assert_error(call("a"), -ECONNRESET, "ECONNRESET");
}

/* ---- callbacks ---- */

struct nested {
    int count, blocked, more, cancelled;
    bool close;
    uint32_t victim;
};

static void must_not_run(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    struct nested *n = ctx;

    (void)h;
    (void)result;
    (void)value;
    n->cancelled++;
}

static void on_more(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    struct nested *n = ctx;

    (void)h;
    (void)value;
    n->more = result == 0 ? 1 : result;
}

static void on_nested(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    struct nested *n = ctx;
    struct e2eectl_value *event;

    (void)value;
    n->count++;
    if (result)
        return;
    n->blocked = e2eectl_call(h, "a", NULL, LONG_MS, NULL);
    assert_int_equal(e2eectl_dispatch(h), -EDEADLK);
    assert_int_equal(e2eectl_next_event(h, 0, &event), -EDEADLK);
    e2eectl_cancel(h, n->victim);
    if (n->close)
        e2eectl_close(h);
    else
        assert_int_equal(e2eectl_call_async(h, "more", NULL, on_more, n, NULL), 0);
}

static void test_callbacks(void **state)
{
    struct nested n = {.close = false};

    (void)state;
    start(script_answer, NULL);
    assert_int_equal(e2eectl_call_async(w.h, "a", NULL, on_nested, &n, NULL), 0);
    assert_int_equal(e2eectl_call_async(w.h, "never", NULL, must_not_run, &n, &n.victim), 0);
    run_until(&n.more, 1);
    assert_int_equal(n.count, 1);
    assert_int_equal(n.blocked, -EDEADLK);
    assert_int_equal(n.more, 1);
    assert_int_equal(n.cancelled, 0);
    e2eectl_cancel(w.h, n.victim);
    e2eectl_cancel(w.h, 123456);
}

static void test_close_in_callback(void **state)
{
    struct nested n = {.close = true};
    int results[2] = {0, 0};

    (void)state;
    start(script_answer, NULL);
    assert_int_equal(e2eectl_call_async(w.h, "a", NULL, on_nested, &n, NULL), 0);
    assert_int_equal(e2eectl_call_async(w.h, "never", NULL, count_results, results, NULL), 0);
    assert_int_equal(e2eectl_call(w.h, "never", NULL, LONG_MS, NULL), -ECANCELED);
    w.h = NULL;
    assert_int_equal(n.count, 1);
    assert_int_equal(results[0], 1);
    assert_int_equal(results[1], -ECANCELED);
}

static void test_close_with_calls(void **state)
{
    int results[2] = {0, 0};

    (void)state;
    start(script_answer, NULL);
    for (int i = 0; i < 10; i++)
        assert_int_equal(e2eectl_call_async(w.h, "never", NULL, count_results, results, NULL), 0);
    e2eectl_close(w.h);
    w.h = NULL;
    assert_int_equal(results[0], 10);
    assert_int_equal(results[1], -ECANCELED);
}

/* ---- events ---- */

/* subscribe is answered and followed by 3 events; before the answer to anything else comes one more. */
static void script_events(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;
    uint64_t seq = 0;

    (void)ctx;
    while (fake_next(p, &m)) {
        bool subscribe = mp_str_eq(&m.method, "subscribe");

        if (!subscribe)
            (void)fake_event(p, ++seq, 10);
        (void)fake_reply(p, m.msgid, 1);
        for (int i = 0; subscribe && i < 3; i++)
            (void)fake_event(p, ++seq, 10);
    }
}

static void test_events_pull(void **state)
{
    const char *const types[] = {"message"};
    struct e2eectl_subscribe_options o = {
            .size = sizeof(o), .consumer = "c", .has_after = true, .types = types, .n_types = 1};
    struct e2eectl_value *event;

    (void)state;
    start(script_events, NULL);
    assert_int_equal(e2eectl_subscribe(w.h, &o, NULL, NULL), 0);
    assert_int_equal(e2eectl_ack(w.h, "c", 1), 0);
    assert_int_equal(e2eectl_ack(w.h, "c", 2), 0);
    for (int i = 1; i <= 5; i++) {
        assert_int_equal(e2eectl_next_event(w.h, LONG_MS, &event), 0);
        assert_int_equal(e2eectl_get_int(event, "seq", 0), i);
        e2eectl_value_free(event);
    }
    assert_error(e2eectl_next_event(w.h, 30, &event), -ETIMEDOUT, "ETIMEDOUT");
}

static void count_events(struct e2eectl *h, const struct e2eectl_value *event, void *ctx)
{
    int *n = ctx;

    (void)h;
    (*n)++;
    assert_int_equal(e2eectl_get_int(event, "seq", 0), *n);
}

static void test_events_callback(void **state)
{
    int n = 0;

    (void)state;
    start(script_events, NULL);
    assert_int_equal(e2eectl_subscribe(w.h, NULL, count_events, &n), 0);
    run_until(&n, 3);
    assert_int_equal(call("a"), 0);
    assert_int_equal(n, 4);
    assert_int_equal(e2eectl_unsubscribe(w.h), 0);
    assert_int_equal(n, 5);
}

/*
 * subscribe, and then events until the client stops reading; a later request is answered when it has come
 * through.
 */
static void script_flood(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;
    unsigned *limit = ctx;

    if (!fake_next(p, &m) || !fake_reply(p, m.msgid, 1))
        return;
    for (unsigned i = 1; i <= *limit; i++)
        if (!fake_event(p, i, FLOOD_EVENT))
            return;
    while (fake_next(p, &m))
        (void)fake_reply(p, m.msgid, 1);
}

static void test_flood(void **state)
{
    unsigned n = 400; /* 26 MB */
    struct e2eectl_value *event;
    int64_t end;

    (void)state;
    start(script_flood, &n);
    assert_int_equal(e2eectl_subscribe(w.h, NULL, NULL, NULL), 0);
    end = mono_ms() + LONG_MS;
    while (e2eectl_events(w.h) && mono_ms() < end)
        assert_int_equal(e2eectl_dispatch(w.h), 0);
    assert_int_equal(e2eectl_events(w.h), 0);
    for (unsigned i = 1; i <= n; i++) {
        assert_int_equal(e2eectl_next_event(w.h, LONG_MS, &event), 0);
        assert_int_equal(e2eectl_get_int(event, "seq", 0), i);
        e2eectl_value_free(event);
    }
    assert_int_equal(e2eectl_next_event(w.h, 0, &event), -ETIMEDOUT);
    assert_int_equal(call("a"), 0);
}

/* While an answer is awaited, more events are taken in than otherwise. */
static void test_flood_before_answer(void **state)
{
    unsigned n = 60;

    (void)state;
    start(script_flood, &n);
    assert_int_equal(e2eectl_subscribe(w.h, NULL, NULL, NULL), 0);
    assert_int_equal(call("a"), 0);
}

static void test_flood_blocks_call(void **state)
{
    unsigned n = 400;
    struct e2eectl_value *event;

    (void)state;
    start(script_flood, &n);
    assert_int_equal(e2eectl_subscribe(w.h, NULL, NULL, NULL), 0);
    assert_error(call("a"), -ENOBUFS, "ENOBUFS");
    for (unsigned i = 1; i <= n; i++) {
        assert_int_equal(e2eectl_next_event(w.h, LONG_MS, &event), 0);
        e2eectl_value_free(event);
    }
    assert_int_equal(call("a"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            TEST(test_socket_path),
            TEST(test_open_fails),
            cmocka_unit_test(test_garbage),
            cmocka_unit_test(test_early_close),
            TEST(test_unknown_is_ignored),
            TEST(test_drip),
            TEST(test_timeout),
            TEST(test_signals),
            TEST(test_pipeline),
            TEST(test_too_many_calls),
            TEST(test_deaf_daemon),
            TEST(test_restart),
            TEST(test_write_to_nobody),
            TEST(test_callbacks),
            TEST(test_close_in_callback),
            TEST(test_close_with_calls),
            TEST(test_events_pull),
            TEST(test_events_callback),
            TEST(test_flood),
            TEST(test_flood_before_answer),
            TEST(test_flood_blocks_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
