/*
 * A client's byte stream against the whole local server: in pieces, with answers at once, later, aborted or
 * never, and an event log behind it. What comes back must be whole messages in the client's framing, and
 * nothing may stay behind.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "driver.h"
#include "internal.h"
#include "log.h"

#define MAX_HELD 4096u
#define TURNS 2000u

static struct {
    struct event_base *base;
    struct ipc *ipc;
    struct ipc_request *held[MAX_HELD];
    size_t n_held;
    uint64_t last_seq;
} server;

static void on_call(
        void *ctx, struct ipc_request *req, const struct api_method *method, const struct mp_value *params)
{
    struct mp_value v;

    (void)ctx;
    FUZZ_CHECK(params->type == MP_MAP);
    if (strcmp(method->name, "wait") == 0 && server.n_held < MAX_HELD) {
        server.held[server.n_held++] = req;
    } else if (strcmp(method->name, "subscribe") == 0) {
        ipc_subscribe(req, mp_map_get(params, "after", &v) ? (uint64_t)v.integer : 0, UINT64_MAX);
        ipc_reply(req, NULL);
    } else if (strcmp(method->name, "users") == 0) {
        ipc_fail(req, API_NOT_CONNECTED, 7, "no relay");
    } else {
        ipc_reply(req, NULL);
    }
}

static int on_read_events(
        void *ctx, uint64_t after, uint64_t types, ipc_event_sink sink, void *sink_ctx, uint64_t *ret_next)
{
    static const uint8_t event[] = {0x81, 0xa1, 'x', 0x01};

    (void)ctx;
    (void)types;
    *ret_next = after;
    while (*ret_next < server.last_seq)
        if (sink(sink_ctx, ++*ret_next, event, sizeof(event)))
            break;
    return 0;
}

static void on_gone(void *ctx, struct ipc_request *req)
{
    (void)ctx;
    (void)req;
}

/* An unnamed listening socket stands in for the inherited one; connections come by socketpair(). */
static void start(void)
{
    static const struct ipc_callbacks callbacks = {
            .call = on_call, .read_events = on_read_events, .gone = on_gone};
    const struct sockaddr_un unnamed = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    log_init("fuzz_ipc", 0);
    server.base = event_base_new();
    FUZZ_CHECK(bind(fd, (const struct sockaddr *)&unnamed, sizeof(sa_family_t)) == 0 && listen(fd, 1) == 0);
    FUZZ_CHECK(ipc_new(server.base, NULL, fd, NULL, 0, &callbacks, NULL, &server.ipc) == 0);
}

static void turn(bool abort_it)
{
    (void)event_base_loop(server.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    if (abort_it)
        ipc_abort(server.ipc, API_STORAGE, "no disk");
    else
        ipc_commit(server.ipc, server.last_seq);
}

static void answer_held(void)
{
    for (size_t i = 0; i < server.n_held; i++)
        ipc_reply(server.held[i], NULL);
    server.n_held = 0;
}

/* Reads what there is. False at the end of the stream. */
static bool receive(int fd, struct buf *in)
{
    static uint8_t chunk[65536];
    ssize_t n;

    while ((n = recv(fd, chunk, sizeof(chunk), MSG_DONTWAIT)) > 0)
        buf_bytes(in, chunk, (size_t)n);
    return n < 0 && errno == EAGAIN;
}

/* The requests in a stream, or the responses: how many, and the sum of their ids. */
struct tally {
    uint64_t count, ids;
    bool whole; /* the stream is not malformed */
};

static struct tally count_requests(const uint8_t *data, size_t size)
{
    struct tally t = {.whole = true};
    enum rpc_framing framing = RPC_FRAMING_UNKNOWN;
    struct rpc_message m;
    const char *why;
    size_t used = 0;
    int r = WIRE_OK;

    for (size_t at = 0; at < size && r == WIRE_OK; at += used) {
        r = rpc_read(data + at, size - at, &framing, &m, &used, &why);
        if (r == WIRE_OK && m.kind == RPC_REQUEST) {
            t.count++;
            t.ids += m.msgid;
        }
    }
    t.whole = r != WIRE_MALFORMED;
    return t;
}

/* Each request has one answer; behind what is malformed, those that waited have none. */
static void check_answers(const struct buf *in, bool framed, const struct tally *asked)
{
    struct rpc_message m;
    enum rpc_framing framing = RPC_FRAMING_UNKNOWN;
    struct tally t = {.count = 0};
    const char *why;
    size_t used;

    FUZZ_CHECK(buf_status(in) == 0);
    for (size_t at = 0; at < in->len; at += used) {
        FUZZ_CHECK(rpc_read(in->data + at, in->len - at, &framing, &m, &used, &why) == WIRE_OK);
        FUZZ_CHECK(framing == (framed ? RPC_FRAMING_LENGTH : RPC_FRAMING_PLAIN));
        FUZZ_CHECK(m.kind != RPC_REQUEST);
        if (m.kind == RPC_RESPONSE) {
            t.count++;
            t.ids += m.msgid;
        }
    }
    FUZZ_CHECK(t.count <= asked->count + (asked->whole ? 0 : 1));
    FUZZ_CHECK(!asked->whole || (t.count == asked->count && t.ids == asked->ids));
}

static bool is_framed(const uint8_t *data, size_t size)
{
    return size > 0 && (data[0] < 0x80 || data[0] >= 0xe0 || (data[0] >= 0xcc && data[0] <= 0xd3));
}

/* The stream in pieces whose sizes, and what else happens, follow from the bytes themselves. */
static void feed(int fd, const uint8_t *data, size_t size, struct buf *in)
{
    uint32_t mix = (uint32_t)size * 2654435761u;
    size_t n;
    ssize_t sent;

    for (size_t at = 0; at < size; at += (size_t)sent) {
        mix = mix * 1664525u + 1013904223u + data[at];
        n = mix >> 29 ? 1 + (mix >> 16) % 4096 : 1;
        n = n < size - at ? n : size - at;
        sent = send(fd, data + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN)
            break;
        sent = sent < 0 ? 0 : sent;
        server.last_seq += mix >> 8 & 3;
        turn((mix >> 20) % 7 == 0);
        if ((mix >> 12) % 5 == 0 || sent == 0)
            answer_held();
        if ((mix >> 12) % 3 == 0 || sent == 0)
            (void)receive(fd, in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tally asked = count_requests(data, size);
    struct buf in;
    int pair[2];
    bool open = true;

    if (!server.ipc)
        start();
    server.last_seq = 0;
    turn(false);
    buf_init(&in, 64u << 20);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    listener_take(server.ipc, pair[1]);
    FUZZ_CHECK(ipc_clients(server.ipc) == 1);
    feed(pair[0], data, size, &in);
    (void)shutdown(pair[0], SHUT_WR);
    for (unsigned i = 0; i < TURNS && open; i++) {
        answer_held();
        turn(false);
        open = receive(pair[0], &in);
    }
    FUZZ_CHECK(!open); /* all was answered, and the server closed */
    check_answers(&in, is_framed(data, size), &asked);
    (void)close(pair[0]);
    for (unsigned i = 0; i < TURNS && ipc_clients(server.ipc) > 0; i++)
        turn(false);
    answer_held();
    FUZZ_CHECK(ipc_clients(server.ipc) == 0);
    buf_done(&in);
    return 0;
}

static void put_uint(struct gen *g, uint64_t v)
{
    unsigned width = v < 0x80 ? 0 : v < 0x100 ? 1 : v < 0x10000 ? 2 : v < UINT64_C(0x100000000) ? 4 : 8;

    if (width == 0) {
        gen_u8(g, (uint8_t)v);
        return;
    }
    gen_u8(g, (uint8_t)(width == 1 ? 0xcc : width == 2 ? 0xcd : width == 4 ? 0xce : 0xcf));
    gen_be(g, v, width);
}

static void put_text(struct gen *g, const char *s)
{
    gen_u8(g, 0xd9);
    gen_u8(g, (uint8_t)strlen(s));
    gen_text(g, s);
}

static void put_value(struct gen *g, const struct api_field *f)
{
    enum api_type type = gen_one_in(g, 8) ? (enum api_type)gen_below(g, API_MAPS + 1) : f->type;
    size_t n = gen_size(g, 1000);

    switch (type) {
    case API_UINT:
        put_uint(g, gen_one_in(g, 2) ? gen_boundary(g) : gen_below(g, 100));
        break;
    case API_BOOL:
        gen_u8(g, 0xc2 + (uint8_t)gen_below(g, 2));
        break;
    case API_STRINGS:
        gen_u8(g, 0x91);
        put_text(g, api_events[gen_below(g, 4)].name);
        break;
    case API_MAPTYPE:
    case API_MAPS:
        gen_u8(g, type == API_MAPTYPE ? 0x80 : 0x90);
        break;
    default:
        if (f->choices && !gen_one_in(g, 4)) {
            put_text(g, f->choices[0]);
            break;
        }
        gen_u8(g, type == API_STRING ? 0xda : 0xc5);
        gen_be(g, n, 2);
        for (size_t i = 0; i < n; i++)
            gen_u8(g, 'a');
        break;
    }
}

static void put_params(struct gen *g, const struct api_method *m)
{
    const struct api_field *chosen[64];
    uint8_t n = 0;

    for (const struct api_field *f = m->params; f->name && n < 15; f++)
        if (f->required ? !gen_one_in(g, 10) : gen_one_in(g, 3))
            chosen[n++] = f;
    gen_u8(g, 0x91);
    gen_u8(g, (uint8_t)(0x80 | n));
    for (uint8_t i = 0; i < n; i++) {
        put_text(g, chosen[i]->name);
        put_value(g, chosen[i]);
    }
}

static const struct api_method *some_method(struct gen *g)
{
    size_t n = 0;

    while (api_methods[n].name)
        n++;
    return &api_methods[gen_below(g, n)];
}

static void put_message(struct gen *g)
{
    static const char *const often[] = {"status", "wait", "subscribe", "users", "hello", "unsubscribe"};
    const struct api_method *m = some_method(g);
    const char *name = often[gen_below(g, ARRAY_SIZE(often))];
    uint64_t kind = gen_one_in(g, 5) ? gen_below(g, 4) : RPC_REQUEST;

    if (!gen_one_in(g, 3))
        m = api_find_method(name, strlen(name));
    gen_u8(g, kind == RPC_NOTIFY ? 0x93 : 0x94);
    put_uint(g, kind);
    if (kind != RPC_NOTIFY)
        put_uint(g, gen_one_in(g, 20) ? gen_boundary(g) : gen_below(g, 300));
    if (kind == RPC_RESPONSE)
        gen_u8(g, 0xc0);
    else
        put_text(g, gen_one_in(g, 10) ? "stauts" : m->name);
    put_params(g, m);
}

void fuzz_generate(struct gen *g)
{
    static uint8_t one[GEN_MAX_INPUT];
    bool framed = gen_one_in(g, 2);
    size_t at, n;

    for (uint64_t left = gen_one_in(g, 20) ? 1000 : 1 + gen_below(g, 12);
            left > 0 && g->len < GEN_MAX_INPUT / 2; left--) {
        at = g->len;
        put_message(g);
        if (!framed)
            continue;
        n = g->len - at;
        memcpy(one, g->out + at, n);
        g->len = at;
        put_uint(g, gen_one_in(g, 40) ? gen_boundary(g) : n);
        gen_put(g, one, n);
    }
}
