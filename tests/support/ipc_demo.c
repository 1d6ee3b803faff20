/*
 * ipc_demo SOCKET: the local API without a daemon behind it, for tests of clients. One account, "alice";
 * fixed contacts; an event log in memory. A sent message is "sent" and "delivered" after some milliseconds;
 * one to "alice" herself comes back as a `message` event; "nobody" is unknown. Prints "ready" when it
 * listens; ends on SIGTERM.
 */
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "ipc.h"

#define SENT_AFTER_MS 5
#define DELIVERED_AFTER_MS 10
#define MAX_EVENTS 200000u
#define MAX_MESSAGES 65536u
#define MAX_WAITS 1024u
#define MAX_CONSUMERS 16u
#define MAX_NAME API_MAX_NAME
#define MAX_ANSWER (512u * 1024u)
#define OWN_NAME "alice"
#define OWN_UID "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER_UID "baaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define FINGERPRINT "00112 23344 55667 78899 01122 33445"
#define SAFETY_NUMBER "00112 23344 55667 78899 01122 33445 56677 88990 01122 33445 56677 88990"
#define RELAY_URL "ws://127.0.0.1:8080"
#define STATE_READ (DELIVERED + 1) /* nobody reads here */

enum message_state { QUEUED, SENT, DELIVERED };
static const char *const state_names[] = {"queued", "sent", "delivered"};

struct demo_event {
    unsigned type;
    struct buf map;
};

struct demo_message {
    struct demo *demo;
    struct event *timer;
    enum message_state state;
    char id[MAX_NAME + 1], to[MAX_NAME + 1];
    struct buf text;
    bool binary;
};

struct demo_wait {
    struct ipc_request *req;
    struct demo_message *message;
    unsigned until; /* STATE_READ or an enum message_state */
    struct event *timer;
    struct demo *demo;
};

struct consumer {
    char name[MAX_NAME + 1];
    uint64_t cursor;
};

struct demo {
    struct event_base *base;
    struct ipc *ipc;
    bool stop;
    struct demo_event *events; /* events[i] has sequence i + 1 */
    uint64_t last_seq;
    struct demo_message *messages[MAX_MESSAGES];
    size_t n_messages;
    struct demo_wait waits[MAX_WAITS];
    struct consumer consumers[MAX_CONSUMERS];
};

static bool param_str(const struct mp_value *params, const char *key, char out[MAX_NAME + 1])
{
    struct mp_value v;

    if (!mp_map_get(params, key, &v) || v.count > MAX_NAME)
        return false;
    memcpy(out, v.bytes, v.count);
    out[v.count] = '\0';
    return true;
}

static uint64_t param_uint(const struct mp_value *params, const char *key, uint64_t otherwise)
{
    struct mp_value v;

    return mp_map_get(params, key, &v) && v.integer >= 0 ? (uint64_t)v.integer : otherwise;
}

static unsigned event_type(const char *name)
{
    return (unsigned)(api_find_event(name, strlen(name)) - api_events);
}

/* Begins event number last_seq + 1; the caller adds the fields and calls event_end(). NULL when the log is
 * full. */
static struct buf *event_begin(struct demo *d, const char *type, struct mp_map *m)
{
    struct demo_event *e;

    if (d->last_seq == MAX_EVENTS)
        return NULL;
    e = &d->events[d->last_seq];
    e->type = event_type(type);
    buf_init(&e->map, MAX_ANSWER);
    mp_map_begin(m, &e->map);
    mp_put_uint(mp_key(m, "seq"), d->last_seq + 1);
    mp_put_str(mp_key(m, "type"), type);
    mp_put_uint(mp_key(m, "time"), clock_now_ms());
    return &e->map;
}

static void event_end(struct demo *d, struct mp_map *m)
{
    mp_map_end(m);
    d->last_seq++;
}

static void emit_ack(struct demo_message *msg)
{
    struct mp_map m;

    if (!event_begin(msg->demo, "message_ack", &m))
        return;
    mp_put_str(mp_key(&m, "id"), msg->id);
    mp_put_str(mp_key(&m, "to"), msg->to);
    mp_put_str(mp_key(&m, "to_uid"), OTHER_UID);
    mp_put_uint(mp_key(&m, "device"), 1);
    mp_put_str(mp_key(&m, "state"), state_names[msg->state]);
    event_end(msg->demo, &m);
}

static void emit_message(struct demo_message *msg)
{
    struct mp_map m;

    if (!event_begin(msg->demo, "message", &m))
        return;
    mp_put_str(mp_key(&m, "id"), msg->id);
    mp_put_str(mp_key(&m, "from"), OWN_NAME);
    mp_put_str(mp_key(&m, "from_uid"), OWN_UID);
    mp_put_uint(mp_key(&m, "device"), 1);
    if (msg->binary)
        mp_put_bin(mp_key(&m, "bytes"), msg->text.data, msg->text.len);
    else
        mp_put_strn(mp_key(&m, "text"), msg->text.data, msg->text.len);
    mp_put_bool(mp_key(&m, "verified"), true);
    mp_put_uint(mp_key(&m, "sent_time"), clock_now_ms());
    event_end(msg->demo, &m);
}

static void answer_state(struct ipc_request *req, const struct demo_message *msg)
{
    CLEANUP_BUF struct buf b;
    struct mp_map m;

    buf_init(&b, MAX_ANSWER);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "id"), msg->id);
    mp_put_str(mp_key(&m, "state"), state_names[msg->state]);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static void wait_done(struct demo_wait *w)
{
    if (w->timer)
        event_free(w->timer);
    *w = (struct demo_wait){.req = NULL};
}

static void answer_waits(struct demo_message *msg)
{
    struct demo *d = msg->demo;

    for (size_t i = 0; i < MAX_WAITS; i++) {
        if (!d->waits[i].req || d->waits[i].message != msg || d->waits[i].until > (unsigned)msg->state)
            continue;
        answer_state(d->waits[i].req, msg);
        wait_done(&d->waits[i]);
    }
}

static void start_timer(struct event *timer, uint64_t ms)
{
    struct timeval after = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000};

    (void)event_add(timer, &after);
}

static void on_progress(evutil_socket_t fd, short what, void *arg)
{
    struct demo_message *msg = arg;

    (void)fd;
    (void)what;
    msg->state = msg->state == QUEUED ? SENT : DELIVERED;
    emit_ack(msg);
    if (msg->state == SENT)
        start_timer(msg->timer, DELIVERED_AFTER_MS - SENT_AFTER_MS);
    else if (strcmp(msg->to, OWN_NAME) == 0)
        emit_message(msg);
    answer_waits(msg);
}

static struct demo_message *find_message(struct demo *d, const char *id)
{
    for (size_t i = d->n_messages; i > 0; i--)
        if (strcmp(d->messages[i - 1]->id, id) == 0)
            return d->messages[i - 1];
    return NULL;
}

static struct demo_message *add_message(
        struct demo *d, const char *to, const struct mp_value *body, const char *id)
{
    struct demo_message *msg = calloc(1, sizeof(*msg));

    if (!msg || d->n_messages == MAX_MESSAGES) {
        free(msg);
        return NULL;
    }
    msg->demo = d;
    msg->binary = body->type == MP_BIN;
    buf_init(&msg->text, MAX_ANSWER);
    buf_bytes(&msg->text, body->bytes, body->count);
    (void)snprintf(msg->to, sizeof(msg->to), "%s", to);
    if (id[0])
        (void)snprintf(msg->id, sizeof(msg->id), "%s", id);
    else
        (void)snprintf(msg->id, sizeof(msg->id), "%032zx", d->n_messages + 1);
    msg->timer = evtimer_new(d->base, on_progress, msg);
    d->messages[d->n_messages++] = msg;
    start_timer(msg->timer, SENT_AFTER_MS);
    return msg;
}

static bool same_message(const struct demo_message *msg, const char *to, const struct mp_value *body)
{
    return strcmp(msg->to, to) == 0 && msg->binary == (body->type == MP_BIN) &&
           msg->text.len == body->count && memcmp(msg->text.data, body->bytes, body->count) == 0;
}

static void answer_send(struct demo *d, struct ipc_request *req, const struct demo_message *msg)
{
    CLEANUP_BUF struct buf b;
    struct mp_map m;

    buf_init(&b, MAX_ANSWER);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "id"), msg->id);
    mp_put_uint(mp_key(&m, "seq"), d->last_seq);
    mp_put_str(mp_key(&m, "state"), state_names[msg->state]);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static void do_send(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    char to[MAX_NAME + 1] = "", id[MAX_NAME + 1] = "";
    struct demo_message *msg;
    struct mp_value body, other;
    bool text = mp_map_get(params, "text", &body), bytes = mp_map_get(params, "bytes", text ? &other : &body);

    (void)param_str(params, "to", to);
    (void)param_str(params, "id", id);
    if (text == bytes) {
        ipc_fail(req, API_INVALID_PARAMS, 0, "send: give exactly one of text and bytes");
        return;
    }
    if (strcmp(to, "nobody") == 0) {
        ipc_fail(req, API_UNKNOWN_USER, 0, "the relay knows no user %s", to);
        return;
    }
    msg = id[0] ? find_message(d, id) : NULL;
    if (msg && !same_message(msg, to, &body)) {
        ipc_fail(req, API_ID_CONFLICT, 0, "the id %s was used for another message", id);
        return;
    }
    if (!msg)
        msg = add_message(d, to, &body, id);
    if (msg)
        answer_send(d, req, msg);
    else
        ipc_fail(req, API_QUEUE_FULL, 1000, "at most %u messages", MAX_MESSAGES);
}

static void on_wait_over(evutil_socket_t fd, short what, void *arg)
{
    struct demo_wait *w = arg;

    (void)fd;
    (void)what;
    ipc_fail(
            w->req, API_TIMEOUT, 0, "message %s is still %s", w->message->id, state_names[w->message->state]);
    wait_done(w);
}

static void do_wait(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    char id[MAX_NAME + 1] = "", until[MAX_NAME + 1] = "delivered";
    unsigned state = STATE_READ;
    struct demo_message *msg;

    (void)param_str(params, "id", id);
    (void)param_str(params, "until", until);
    msg = find_message(d, id);
    if (!msg) {
        ipc_fail(req, API_UNKNOWN_MESSAGE, 0, "no message has the id %s", id);
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(state_names); i++)
        if (strcmp(until, state_names[i]) == 0)
            state = i;
    if ((unsigned)msg->state >= state) {
        answer_state(req, msg);
        return;
    }
    for (size_t i = 0; i < MAX_WAITS; i++) {
        struct demo_wait *w = &d->waits[i];
        if (w->req)
            continue;
        *w = (struct demo_wait){.req = req, .message = msg, .until = state, .demo = d};
        w->timer = evtimer_new(d->base, on_wait_over, w);
        start_timer(w->timer, param_uint(params, "timeout_ms", 30000));
        return;
    }
    ipc_fail(req, API_QUEUE_FULL, 1000, "at most %u waits", MAX_WAITS);
}

static struct consumer *find_consumer(struct demo *d, const char *name)
{
    for (size_t i = 0; i < MAX_CONSUMERS; i++) {
        if (!d->consumers[i].name[0])
            (void)snprintf(d->consumers[i].name, sizeof(d->consumers[i].name), "%s", name);
        if (strcmp(d->consumers[i].name, name) == 0)
            return &d->consumers[i];
    }
    return NULL;
}

/* Where a reader begins: after, else its consumer's cursor, else the end. */
static uint64_t read_position(struct demo *d, const struct mp_value *params)
{
    char name[MAX_NAME + 1];
    const struct consumer *consumer = param_str(params, "consumer", name) ? find_consumer(d, name) : NULL;

    return param_uint(params, "after", consumer ? consumer->cursor : d->last_seq);
}

static uint64_t wanted_types(const struct mp_value *params)
{
    struct mp_value list, name;
    struct mp_iter it;
    uint64_t types = UINT64_C(1) << event_type("gap");

    if (!mp_map_get(params, "types", &list) || list.count == 0)
        return UINT64_MAX;
    mp_iter_init(&it, &list);
    while (mp_next(&it, NULL, &name))
        types |= UINT64_C(1) << (api_find_event(name.bytes, name.count) - api_events);
    return types;
}

static void do_subscribe(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b;
    uint64_t after = read_position(d, params), types;
    struct mp_map m;

    buf_init(&b, MAX_ANSWER);
    types = wanted_types(params);
    mp_map_begin(&m, &b);
    mp_put_uint(mp_key(&m, "after"), after);
    mp_put_uint(mp_key(&m, "first_seq"), 1);
    mp_put_uint(mp_key(&m, "last_seq"), d->last_seq);
    mp_map_end(&m);
    ipc_subscribe(req, after, types);
    ipc_reply(req, &b);
}

static void do_unsubscribe(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    (void)d;
    (void)params;
    ipc_unsubscribe(req);
    ipc_reply(req, NULL);
}

static void do_ack(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b;
    char name[MAX_NAME + 1] = "";
    uint64_t seq = param_uint(params, "seq", 0);
    struct consumer *consumer =
            param_str(params, "consumer", name) && name[0] ? find_consumer(d, name) : NULL;
    struct mp_map m;

    buf_init(&b, MAX_ANSWER);
    if (!consumer || seq > d->last_seq) {
        ipc_fail(req, API_INVALID_PARAMS, 0, "ack: consumer is one of at most %u names, seq at most %llu",
                MAX_CONSUMERS, (unsigned long long)d->last_seq);
        return;
    }
    if (seq > consumer->cursor)
        consumer->cursor = seq;
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "consumer"), name);
    mp_put_uint(mp_key(&m, "seq"), consumer->cursor);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static int read_events(
        void *ctx, uint64_t after, uint64_t types, ipc_event_sink sink, void *sink_ctx, uint64_t *ret_next)
{
    struct demo *d = ctx;
    uint64_t seq = after;

    while (seq < d->last_seq) {
        const struct demo_event *e = &d->events[seq++];
        if (types >> e->type & 1 && sink(sink_ctx, seq, e->map.data, e->map.len))
            break;
    }
    *ret_next = seq;
    return 0;
}

struct page {
    struct buf b;
    uint32_t count;
    uint64_t limit;
};

static int add_to_page(void *ctx, uint64_t seq, const void *event, size_t n)
{
    struct page *page = ctx;

    (void)seq;
    mp_put_raw(&page->b, event, n);
    page->count++;
    return page->count >= page->limit || page->b.len > MAX_ANSWER / 2;
}

static void do_events(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b;
    struct page page = {.limit = param_uint(params, "limit", 100)};
    uint64_t next;
    struct mp_map m;

    buf_init(&b, 2 * MAX_ANSWER);
    buf_init(&page.b, MAX_ANSWER);
    if (page.limit > 0)
        (void)read_events(d, param_uint(params, "after", 0), wanted_types(params), add_to_page, &page, &next);
    mp_map_begin(&m, &b);
    mp_put_array(mp_key(&m, "events"), page.count);
    mp_put_raw(&b, page.b.data, page.b.len);
    mp_put_uint(mp_key(&m, "first_seq"), 1);
    mp_put_uint(mp_key(&m, "last_seq"), d->last_seq);
    mp_map_end(&m);
    ipc_reply(req, &b);
    buf_done(&page.b);
}

static void do_status(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b;
    struct mp_map m;

    (void)params;
    buf_init(&b, MAX_ANSWER);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "version"), E2EED_VERSION);
    mp_put_str(mp_key(&m, "guid"), "00112233445566778899aabbccddeeff");
    mp_put_str(mp_key(&m, "account"), "default");
    mp_put_str(mp_key(&m, "user"), OWN_NAME);
    mp_put_str(mp_key(&m, "uid"), OWN_UID);
    mp_put_uint(mp_key(&m, "device"), 1);
    mp_put_str(mp_key(&m, "fingerprint"), FINGERPRINT);
    mp_put_str(mp_key(&m, "relay"), RELAY_URL);
    mp_put_str(mp_key(&m, "state"), "online");
    mp_put_uint(mp_key(&m, "queued"), 0);
    mp_put_uint(mp_key(&m, "last_seq"), d->last_seq);
    mp_put_uint(mp_key(&m, "first_seq"), 1);
    mp_put_uint(mp_key(&m, "rtt_us"), 250);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static const char *const people[] = {"bob", "carol", "web1"};

static void put_contact(struct buf *b, const char *user, bool verified)
{
    struct mp_map m;

    mp_map_begin(&m, b);
    mp_put_str(mp_key(&m, "user"), user);
    mp_put_str(mp_key(&m, "uid"), OTHER_UID);
    mp_put_uint(mp_key(&m, "device"), 1);
    mp_put_bool(mp_key(&m, "verified"), verified);
    mp_put_bool(mp_key(&m, "blocked"), false);
    mp_put_str(mp_key(&m, "policy"), "block");
    mp_put_bool(mp_key(&m, "held"), false);
    mp_put_str(mp_key(&m, "fingerprint"), FINGERPRINT);
    mp_put_str(mp_key(&m, "safety_number"), SAFETY_NUMBER);
    mp_put_str(mp_key(&m, "session"), "strong");
    mp_map_end(&m);
}

static void do_contact_list(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b;
    struct mp_map m;

    (void)d;
    (void)params;
    buf_init(&b, MAX_ANSWER);
    mp_map_begin(&m, &b);
    mp_put_array(mp_key(&m, "contacts"), ARRAY_SIZE(people));
    for (size_t i = 0; i < ARRAY_SIZE(people); i++)
        put_contact(&b, people[i], i == 0);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static void do_users(struct demo *d, struct ipc_request *req, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b;
    struct mp_map m, user;

    (void)d;
    (void)params;
    buf_init(&b, MAX_ANSWER);
    mp_map_begin(&m, &b);
    mp_put_array(mp_key(&m, "users"), ARRAY_SIZE(people));
    for (size_t i = 0; i < ARRAY_SIZE(people); i++) {
        mp_map_begin(&user, &b);
        mp_put_str(mp_key(&user, "user"), people[i]);
        mp_put_str(mp_key(&user, "uid"), OTHER_UID);
        mp_map_end(&user);
    }
    mp_put_bool(mp_key(&m, "more"), false);
    mp_map_end(&m);
    ipc_reply(req, &b);
}

static const struct {
    const char *name;
    void (*run)(struct demo *d, struct ipc_request *req, const struct mp_value *params);
} answered[] = {
        {"status", do_status},
        {"send", do_send},
        {"wait", do_wait},
        {"subscribe", do_subscribe},
        {"unsubscribe", do_unsubscribe},
        {"ack", do_ack},
        {"events", do_events},
        {"contact.list", do_contact_list},
        {"users", do_users},
};

static void call(
        void *ctx, struct ipc_request *req, const struct api_method *method, const struct mp_value *params)
{
    for (size_t i = 0; i < ARRAY_SIZE(answered); i++) {
        if (strcmp(answered[i].name, method->name) == 0) {
            answered[i].run(ctx, req, params);
            return;
        }
    }
    ipc_fail(req, API_NOT_CONNECTED, 1000, "this demonstration server does not carry out %s", method->name);
}

static void gone(void *ctx, struct ipc_request *req)
{
    struct demo *d = ctx;

    for (size_t i = 0; i < MAX_WAITS; i++) {
        if (d->waits[i].req != req)
            continue;
        wait_done(&d->waits[i]);
        ipc_fail(req, API_SHUTTING_DOWN, 0, "gone");
        return;
    }
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    struct demo *d = arg;

    (void)fd;
    (void)what;
    d->stop = true;
}

static void first_event(struct demo *d)
{
    struct mp_map m;

    if (event_begin(d, "connected", &m)) {
        mp_put_str(mp_key(&m, "relay"), RELAY_URL);
        mp_put_bool(mp_key(&m, "tls"), false);
        event_end(d, &m);
    }
    ipc_commit(d->ipc, d->last_seq);
}

static void demo_done(struct demo *d)
{
    ipc_free(d->ipc);
    for (size_t i = 0; i < d->n_messages; i++) {
        event_free(d->messages[i]->timer);
        buf_done(&d->messages[i]->text);
        free(d->messages[i]);
    }
    for (uint64_t i = 0; i < d->last_seq; i++)
        buf_done(&d->events[i].map);
    free(d->events);
    if (d->base)
        event_base_free(d->base);
    free(d);
}

static int serve(struct demo *d, const char *path)
{
    static const struct ipc_callbacks callbacks = {.call = call, .read_events = read_events, .gone = gone};
    struct event *term, *interrupt;
    int r;

    d->base = event_base_new();
    d->events = calloc(MAX_EVENTS, sizeof(*d->events));
    if (!d->base || !d->events)
        return -1;
    r = ipc_new(d->base, path, -1, NULL, 0, &callbacks, d, &d->ipc);
    if (r < 0) {
        (void)fprintf(stderr, "ipc_demo: %s: %s\n", path, strerror(-r));
        return r;
    }
    term = evsignal_new(d->base, SIGTERM, on_signal, d);
    interrupt = evsignal_new(d->base, SIGINT, on_signal, d);
    (void)event_add(term, NULL);
    (void)event_add(interrupt, NULL);
    first_event(d);
    (void)printf("ready\n");
    (void)fflush(stdout);
    while (!d->stop && event_base_loop(d->base, EVLOOP_ONCE) == 0)
        ipc_commit(d->ipc, d->last_seq);
    ipc_drain(d->ipc, 1000);
    event_free(term);
    event_free(interrupt);
    return 0;
}

int main(int argc, char **argv)
{
    struct demo *d;
    int r;

    if (argc != 2) {
        (void)fprintf(stderr, "usage: ipc_demo SOCKET\n");
        return 64;
    }
    d = calloc(1, sizeof(*d));
    if (!d)
        return 71;
    r = serve(d, argv[1]);
    demo_done(d);
    return r < 0 ? 71 : 0;
}
