#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <malloc.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <systemd/sd-daemon.h>

#include "app.h"
#include "ipc.h"
#include "locking.h"
#include "log.h"
#include "transport.h"

#define CHECKPOINT_MS (30 * MINUTE_MS)
#define DRAIN_MS 500u
#define ROLLBACK_DROP_MS 2000u
#define MAX_TURN_ROUNDS 8u
#define STACK_ZERO (256u * 1024u)

/* A call that the engine has not answered yet; its address is the ticket. */
struct call {
    TAILQ_ENTRY(call) list;
    struct ipc_request *req;
};

struct app {
    struct config cfg;
    struct event_base *base;
    struct locking *locking;
    struct store *store; /* these three are NULL while the daemon is locked */
    struct engine *engine;
    struct transport *transport;
    struct ipc *ipc;
    struct event *timer;
    struct rng rng;
    TAILQ_HEAD(, call) calls;
    uint64_t checkpoint_ms;
    uint64_t last_seq; /* when it was locked */
    bool closing;      /* lock at the end of this turn */
    bool stopping;
    int failed; /* negative errno: this turn will be rolled back */
};

/* --- the engine's port onto the store --- */

/* The store's findings that the engine cannot act upon end the turn. */
static int port_result(int r)
{
    return r == STORE_CORRUPT ? -EBADMSG : r;
}

static int port_get(void *ctx, uint8_t map, const void *key, size_t key_len, struct buf *value)
{
    return port_result(store_get(ctx, map, key, key_len, value));
}

static int port_put(void *ctx, uint8_t map, const void *key, size_t key_len, const void *value, size_t n)
{
    return port_result(store_put(ctx, map, key, key_len, value, n));
}

static int port_del(void *ctx, uint8_t map, const void *key, size_t key_len)
{
    return port_result(store_del(ctx, map, key, key_len));
}

static int port_scan(void *ctx, uint8_t map, const void *from, size_t from_len, size_t prefix_len,
        port_visit visit, void *visit_ctx)
{
    return port_result(store_scan(ctx, map, from, from_len, prefix_len, visit, visit_ctx));
}

static int port_last(void *ctx, uint8_t map, uint8_t ret_key[PORT_MAX_KEY], size_t *ret_len)
{
    return port_result(store_last(ctx, map, ret_key, ret_len));
}

_Static_assert(PORT_NOT_FOUND == STORE_NOT_FOUND && PORT_MAX_KEY == STORE_MAX_KEY, "port and store agree");

static int engine_start(struct app *a)
{
    struct port port = {.ctx = a->store,
            .get = port_get,
            .put = port_put,
            .del = port_del,
            .scan = port_scan,
            .last = port_last};
    return engine_new(&a->cfg.engine, &port, &a->rng, clock_now_ms(), &a->engine);
}

/* --- inputs --- */

/* Every input runs through here: after a failure nothing more happens in this turn. */
#define INPUT(a, call)                                                                                       \
    do {                                                                                                     \
        if (!(a)->failed)                                                                                    \
            (a)->failed = (call);                                                                            \
    } while (0)

static void on_connected(void *ctx, const struct link_connected *m)
{
    struct app *a = ctx;
    INPUT(a, engine_link_up(a->engine, clock_now_ms(), m));
}

static void on_message(void *ctx, const uint8_t *p, size_t n)
{
    struct app *a = ctx;
    INPUT(a, engine_relay_message(a->engine, clock_now_ms(), p, n));
}

static void on_text(void *ctx, const uint8_t *p, size_t n)
{
    struct app *a = ctx;
    INPUT(a, engine_link_text(a->engine, clock_now_ms(), p, n));
}

static void on_closed(void *ctx, uint16_t code, const char *reason, uint32_t retry_in_ms)
{
    struct app *a = ctx;
    log_notice("link-down", "no connection to the relay: %s (%u); next attempt in %u ms", reason, code,
            retry_in_ms);
    INPUT(a, engine_link_down(a->engine, clock_now_ms(), code, reason));
}

static void on_rtt(void *ctx, uint32_t microseconds)
{
    struct app *a = ctx;
    engine_link_rtt(a->engine, microseconds);
}

static void on_writable(void *ctx)
{
    (void)ctx;
}

static const struct transport_callbacks transport_callbacks = {.connected = on_connected,
        .message = on_message,
        .text = on_text,
        .closed = on_closed,
        .rtt = on_rtt,
        .writable = on_writable};

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
    struct app *a = ctx;
    (void)fd;
    (void)what;
    INPUT(a, engine_tick(a->engine, clock_now_ms()));
}

/* --- local calls --- */

static void call_health(struct app *a, struct ipc_request *req)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    int r = store_probe(a->store);
    bool link = transport_up(a->transport) || !engine_user(a->engine);
    buf_init(&b, 1024);
    mp_map_begin(&m, &b);
    mp_put_bool(mp_key(&m, "ok"), r == 0 && link);
    mp_put_bool(mp_key(&m, "store"), r == 0);
    mp_put_bool(mp_key(&m, "link"), link);
    mp_put_str(mp_key(&m, "key"), locking_source(a->locking));
    mp_put_str(mp_key(&m, "text"), r      ? "the store cannot be written; see the log"
                                   : link ? "all is well"
                                          : "no connection to the relay");
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static uint64_t event_types(const struct mp_value *params, char ret_unknown[64])
{
    struct mp_value types, t;
    struct mp_iter it;
    uint64_t set = 0;
    if (!mp_map_get(params, "types", &types) || !types.count)
        return UINT64_MAX;
    mp_iter_init(&it, &types);
    while (mp_next(&it, NULL, &t)) {
        const struct api_event *ev = t.type == MP_STR ? api_find_event(t.bytes, t.count) : NULL;
        if (!ev) {
            (void)snprintf(ret_unknown, 64, "%.*s", t.type == MP_STR ? (int)(t.count < 60 ? t.count : 60) : 1,
                    t.type == MP_STR ? (const char *)t.bytes : "?");
            return 0;
        }
        set |= UINT64_C(1) << (ev - api_events);
    }
    return set;
}

static uint64_t uint_param(const struct mp_value *params, const char *name, uint64_t otherwise)
{
    struct mp_value v;
    return mp_map_get(params, name, &v) && v.type == MP_INT ? (uint64_t)v.integer : otherwise;
}

static void subscribed(struct app *a, struct ipc_request *req, uint64_t after, uint64_t types)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    buf_init(&b, 256);
    mp_map_begin(&m, &b);
    mp_put_uint(mp_key(&m, "after"), after);
    mp_put_uint(mp_key(&m, "first_seq"), engine_first_seq(a->engine));
    mp_put_uint(mp_key(&m, "last_seq"), engine_last_seq(a->engine));
    mp_map_end(&m);
    ipc_subscribe(req, after, types);
    ipc_reply(req, &b);
}

/* From after, else from the consumer's cursor, else from now on. */
static void call_subscribe(struct app *a, struct ipc_request *req, const struct mp_value *params)
{
    char unknown[64] = "", name[65];
    uint64_t types = event_types(params, unknown), after = engine_last_seq(a->engine);
    struct mp_value consumer;
    if (!types) {
        ipc_fail(req, API_INVALID_PARAMS, 0, "subscribe: no event is called '%s'; api_info lists them",
                unknown);
        return;
    }
    if (mp_map_get(params, "consumer", &consumer)) {
        int r;
        (void)snprintf(name, sizeof(name), "%.*s", (int)consumer.count, (const char *)consumer.bytes);
        r = engine_consumer_get(a->engine, name, &after);
        if (r < 0) {
            ipc_fail(req, API_STORAGE, 0, "subscribe: the consumer's cursor cannot be read");
            return;
        }
    }
    subscribed(a, req, uint_param(params, "after", after), types);
}

static void call_engine(struct app *a, struct ipc_request *req, const struct api_method *method,
        const struct mp_value *params)
{
    struct call *c = malloc(sizeof(*c));
    if (!c) {
        ipc_fail(req, API_INTERNAL, 0, "out of memory");
        return;
    }
    c->req = req;
    TAILQ_INSERT_TAIL(&a->calls, c, list);
    INPUT(a, engine_call(a->engine, clock_now_ms(), (uint64_t)(uintptr_t)c, method->name, params));
}

static void on_call(
        void *ctx, struct ipc_request *req, const struct api_method *method, const struct mp_value *params)
{
    struct app *a = ctx;
    if (locking_call(a->locking, req, method, params, a->engine != NULL))
        return;
    if (a->failed)
        ipc_fail(req, API_STORAGE, 1000, "the daemon is recovering from a fault; try again");
    else if (!strcmp(method->name, "health"))
        call_health(a, req);
    else if (!strcmp(method->name, "subscribe"))
        call_subscribe(a, req, params);
    else if (!strcmp(method->name, "unsubscribe")) {
        ipc_unsubscribe(req);
        ipc_reply(req, NULL);
    } else
        call_engine(a, req, method, params);
}

static int on_read_events(
        void *ctx, uint64_t after, uint64_t types, ipc_event_sink sink, void *sink_ctx, uint64_t *ret_next)
{
    struct app *a = ctx;
    if (!a->engine) {
        *ret_next = after;
        return 0;
    }
    return a->failed ? a->failed : engine_read_events(a->engine, after, types, sink, sink_ctx, ret_next);
}

static void call_end(struct app *a, struct call *c)
{
    TAILQ_REMOVE(&a->calls, c, list);
    free(c);
}

static void on_gone(void *ctx, struct ipc_request *req)
{
    struct app *a = ctx;
    struct call *c;
    TAILQ_FOREACH(c, &a->calls, list)
    if (c->req == req) {
        if (engine_forget(a->engine, (uint64_t)(uintptr_t)c)) {
            call_end(a, c);
            ipc_reply(req, NULL);
        }
        return;
    }
}

static const struct ipc_callbacks ipc_callbacks = {
        .call = on_call, .read_events = on_read_events, .gone = on_gone};

/* --- effects --- */

static void drop_link(struct app *a, const char *why, uint32_t hint_ms)
{
    uint32_t delay = transport_drop(a->transport, hint_ms);
    log_notice("link-dropped", "%s; next attempt in %u ms", why, delay);
    INPUT(a, engine_link_down(a->engine, clock_now_ms(), 0, why));
}

static void effect_connect(struct app *a, const char *url)
{
    int r = transport_set_url(a->transport, url, a->cfg.ca_file[0] ? a->cfg.ca_file : NULL);
    if (r)
        log_error("bad-relay", "the relay's URL cannot be used");
}

static void effect_answer(struct app *a, const struct effect *f)
{
    struct call *c = (struct call *)(uintptr_t)f->ticket;
    struct ipc_request *req = c->req;
    call_end(a, c);
    if (f->error == API_OK)
        ipc_reply(req, &f->data);
    else
        ipc_fail(req, f->error, f->retry_after_ms, "%s", f->text);
}

/* What was not taken cannot be sent again; a new connection sets all straight. */
static void effect_send(struct app *a, const struct effect *f)
{
    int r = transport_send(a->transport, f->data.data, f->data.len);
    if (r == TRANSPORT_FULL)
        drop_link(a, "the link's queue is full", 0);
    else if (r && r != TRANSPORT_DOWN)
        drop_link(a, "the link did not take a message", 0);
}

/* Nobody counts on a text frame, so that one without room is just lost. */
static void effect_send_text(struct app *a, const struct effect *f)
{
    int r = transport_send_text(a->transport, f->data.data, f->data.len);
    if (r && r != TRANSPORT_DOWN && r != TRANSPORT_FULL)
        drop_link(a, "the link did not take a text frame", 0);
}

static void carry_out(struct app *a, const struct effect *f)
{
    switch (f->kind) {
    case EFFECT_CONNECT:
        effect_connect(a, f->text);
        break;
    case EFFECT_DISCONNECT:
        if (transport_set_url(a->transport, NULL, NULL) == 0)
            INPUT(a, engine_link_down(a->engine, clock_now_ms(), 0, "disconnected"));
        break;
    case EFFECT_DROP:
        drop_link(a, f->text, f->retry_after_ms);
        break;
    case EFFECT_GOOD:
        log_info("online", "the relay has authenticated us");
        transport_good(a->transport);
        break;
    case EFFECT_SEND:
        effect_send(a, f);
        break;
    case EFFECT_SEND_TEXT:
        effect_send_text(a, f);
        break;
    case EFFECT_ANSWER:
        effect_answer(a, f);
        break;
    }
}

static size_t carry_out_all(struct app *a)
{
    struct effect *f;
    size_t n = 0;
    while ((f = engine_next_effect(a->engine))) {
        carry_out(a, f);
        effect_free(f);
        n++;
    }
    return n;
}

/* --- turns --- */

static enum api_error api_error_of(int error)
{
    return error == -ENOSPC || error == -EDQUOT ? API_DISK_FULL
           : error == -ENOMEM                   ? API_INTERNAL
                                                : API_STORAGE;
}

/* The turn has failed: back to what the disk knows, as after a crash. */
static int roll_back(struct app *a)
{
    int error = a->failed;
    struct call *c;
    log_error("turn-failed", "state could not be saved: %s; going back to what is on the disk",
            strerror(-error));
    store_rollback(a->store);
    while ((c = TAILQ_FIRST(&a->calls))) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the analyzer does not see through TAILQ_REMOVE() */
        struct ipc_request *req = c->req;
        call_end(a, c);
        ipc_fail(req, api_error_of(error), 1000, "%s", strerror(-error));
    }
    ipc_abort(a->ipc, api_error_of(error),
            error == -ENOSPC ? "the disk is full; nothing was accepted"
                             : "state could not be saved; nothing was accepted");
    engine_free(a->engine);
    a->engine = NULL;
    a->failed = 0;
    if (error == -EBADMSG)
        return error;
    (void)transport_drop(a->transport, ROLLBACK_DROP_MS);
    return engine_start(a);
}

static int turn_once(struct app *a, size_t *ret_effects)
{
    INPUT(a, engine_turn_end(a->engine, clock_now_ms()));
    if (!a->failed && store_dirty(a->store))
        a->failed = store_commit(a->store);
    if (a->failed) {
        *ret_effects = 1; /* the new engine has its own, for the next round */
        return roll_back(a);
    }
    *ret_effects = carry_out_all(a);
    return 0;
}

/* --- locked and open --- */

/* In a build tree the link lies beside the daemon. */
static void own_directory(char ret[CONFIG_MAX_PATH])
{
    ssize_t n = readlink("/proc/self/exe", ret, CONFIG_MAX_PATH - 1);
    char *slash;
    ret[n > 0 ? n : 0] = 0;
    slash = strrchr(ret, '/');
    if (slash)
        *slash = 0;
}

static int open_state(struct app *a)
{
    char dir[CONFIG_MAX_PATH];
    int r = engine_start(a);
    own_directory(dir);
    if (r == 0)
        r = transport_new(a->base, a->cfg.link_dir[0] ? a->cfg.link_dir : dir, NULL, &transport_callbacks, a,
                a->rng, &a->transport);
    return r;
}

static void close_state(struct app *a)
{
    transport_free(a->transport);
    engine_free(a->engine);
    store_close(a->store);
    a->transport = NULL;
    a->engine = NULL;
    a->store = NULL;
}

static int on_open(void *ctx, struct store *store)
{
    struct app *a = ctx;
    int r;
    a->store = store;
    r = open_state(a);
    if (r < 0) {
        a->store = NULL;
        close_state(a);
    }
    return r;
}

static void on_close(void *ctx)
{
    struct app *a = ctx;
    a->closing = true;
}

static const struct locking_callbacks locking_callbacks = {.open = on_open, .close = on_close};

static void fail_calls(struct app *a, enum api_error error, const char *text)
{
    struct call *c;
    while ((c = TAILQ_FIRST(&a->calls))) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the analyzer does not see through TAILQ_REMOVE() */
        struct ipc_request *req = c->req;
        call_end(a, c);
        ipc_fail(req, error, 1000, "%s", text);
    }
}

/* The answer to lock goes out when all is gone. */
static void lock(struct app *a)
{
    a->closing = false;
    if (a->engine) {
        a->last_seq = engine_last_seq(a->engine);
        fail_calls(a, API_LOCKED, "the daemon was locked meanwhile");
        (void)!store_checkpoint(a->store);
        (void)event_del(a->timer);
        close_state(a);
    }
    locking_closed(a->locking);
    ipc_end_streams(a->ipc, API_LOCKED, LOCKING_TEXT, DRAIN_MS);
    (void)malloc_trim(0);
    sodium_stackzero(STACK_ZERO);
}

static int turn_end(struct app *a)
{
    for (unsigned i = 0; a->engine && i < MAX_TURN_ROUNDS; i++) {
        size_t effects = 0;
        int r = turn_once(a, &effects);
        if (r < 0)
            return r;
        if (!effects && !a->failed && !store_dirty(a->store))
            break;
    }
    if (a->closing)
        lock(a);
    ipc_commit(a->ipc, a->engine ? engine_last_seq(a->engine) : a->last_seq);
    return 0;
}

static void arm_timer(struct app *a)
{
    uint64_t now = clock_now_ms(), at = engine_deadline(a->engine);
    uint64_t wait = at > now ? at - now : 0;
    if (wait > MINUTE_MS)
        wait = MINUTE_MS;
    (void)event_add(a->timer,
            &(struct timeval){.tv_sec = (time_t)(wait / 1000), .tv_usec = (suseconds_t)(wait % 1000 * 1000)});
}

static void checkpoint(struct app *a)
{
    uint64_t now = clock_mono_ms();
    if (!a->store || now - a->checkpoint_ms < CHECKPOINT_MS)
        return;
    a->checkpoint_ms = now;
    if (store_checkpoint(a->store) < 0)
        log_warn("checkpoint",
                "the store could not be checkpointed; deleted keys may stay on the disk until the next one");
}

int app_run(struct app *a)
{
    int r = turn_end(a);
    (void)sd_notify(0, "READY=1");
    while (r == 0 && !a->stopping) {
        if (a->engine)
            arm_timer(a);
        if (event_base_loop(a->base, EVLOOP_ONCE) < 0)
            return -EIO;
        r = turn_end(a);
        checkpoint(a);
    }
    (void)sd_notify(0, "STOPPING=1");
    if (r == 0) {
        ipc_drain(a->ipc, DRAIN_MS);
        if (a->store)
            (void)!store_checkpoint(a->store);
    }
    return r;
}

void app_stop(struct app *a)
{
    a->stopping = true;
}

/* --- life --- */

static int start(struct app *a, int listen_fd)
{
    int r = a->store ? open_state(a) : 0;
    if (r == 0)
        r = ipc_new(
                a->base, a->cfg.socket, listen_fd, a->cfg.uids, a->cfg.n_uids, &ipc_callbacks, a, &a->ipc);
    if (r == 0) {
        ipc_set_account(a->ipc, a->cfg.account);
        a->timer = evtimer_new(a->base, on_timer, a);
        r = a->timer ? 0 : -ENOMEM;
    }
    return r;
}

int app_new(struct event_base *base, const struct config *c, struct store *store, struct vault *vault,
        int listen_fd, struct app **ret_app)
{
    struct app *a = calloc(1, sizeof(*a));
    int r;
    if (!a)
        return -ENOMEM;
    a->cfg = *c;
    a->base = base;
    a->rng = rng_system();
    a->checkpoint_ms = clock_mono_ms();
    TAILQ_INIT(&a->calls);
    a->store = store;
    r = locking_new(&a->cfg, vault, &locking_callbacks, a, &a->locking);
    if (r == 0)
        r = start(a, listen_fd);
    if (r < 0) {
        a->store = NULL;
        app_free(a);
        return r;
    }
    *ret_app = a;
    return 0;
}

void app_free(struct app *a)
{
    if (!a)
        return;
    fail_calls(a, API_SHUTTING_DOWN, "the daemon stops");
    locking_free(a->locking);
    if (a->ipc)
        ipc_commit(a->ipc, a->engine ? engine_last_seq(a->engine) : a->last_seq);
    transport_free(a->transport);
    ipc_free(a->ipc);
    if (a->timer)
        event_free(a->timer);
    engine_free(a->engine);
    store_close(a->store);
    free(a);
}
