#include "sim_impl.h"

#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LATENCY_MS 5u
#define REDIAL_MS 1000u
/* A timer is never armed for longer, because clocks jump. */
#define MAX_WAIT_MS MINUTE_MS
#define ANSWER_MS (60 * SECOND_MS)

enum item_kind { ITEM_UP, ITEM_DOWN, ITEM_CLOSED };
struct sim_item {
    enum item_kind kind;
    uint64_t due, serial;
    int node, conn;
    struct bytes message;
};
void *sim_must(void *p)
{
    if (!p)
        abort();
    return p;
}

void sim_fail(const struct sim *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)fprintf(stderr, "seed %llu, time +%llu ms: ", (unsigned long long)s->seed,
            (unsigned long long)(s->now - SIM_START));
    (void)vfprintf(stderr, fmt, ap);
    (void)fprintf(stderr, "\n");
    va_end(ap);
    abort();
}

/* --- randomness --- */

static void fill(void *ctx, void *out, size_t n)
{
    struct sim *s = ctx;
    uint8_t nonce[crypto_stream_chacha20_NONCEBYTES];
    memcpy(nonce, &s->counter, sizeof(nonce));
    s->counter++;
    (void)crypto_stream_chacha20(out, n, nonce, s->key);
}

uint32_t sim_random(struct sim *s, uint32_t below)
{
    uint32_t v;
    fill(s, &v, sizeof(v));
    return below ? v % below : 0;
}

static void seed_world(struct sim *s, uint64_t seed)
{
    s->seed = seed;
    s->counter = 0;
    (void)crypto_generichash(s->key, sizeof(s->key), (const uint8_t *)&seed, sizeof(seed), NULL, 0);
}

/* --- things under way --- */

static void item_push(struct sim *s, enum item_kind kind, int node, int conn, const void *p, size_t n)
{
    uint64_t due = s->now + s->node[node].latency_ms;
    if (s->n_items == s->cap_items) {
        s->cap_items = s->cap_items ? s->cap_items * 2 : 64;
        s->items = sim_must(realloc(s->items, s->cap_items * sizeof(s->items[0])));
    }
    s->items[s->n_items++] = (struct sim_item){.kind = kind,
            .due = due,
            .serial = s->item_serial++,
            .node = node,
            .conn = conn,
            .message = bytes_copy(p, n)};
}

/* Earliest first, and in order on each link (a link's latency does not change while something is on it). */
static size_t item_first(const struct sim *s)
{
    size_t first = 0;
    for (size_t i = 1; i < s->n_items; i++)
        if (s->items[i].due < s->items[first].due ||
                (s->items[i].due == s->items[first].due && s->items[i].serial < s->items[first].serial))
            first = i;
    return first;
}

static void items_drop(struct sim *s, int node, int conn)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_items; i++) {
        if (s->items[i].node == node && s->items[i].conn == conn && s->items[i].kind != ITEM_UP)
            bytes_free(&s->items[i].message);
        else
            s->items[n++] = s->items[i];
    }
    s->n_items = n;
}

static int node_of_conn(const struct sim *s, int conn)
{
    for (size_t i = 0; i < s->n_nodes; i++)
        if (s->node[i].conn == conn)
            return (int)i;
    return -1;
}

/* The relay's CHALLENGE comes before simrelay_connect() has told the number. */
static int dialling = -1;

static void relay_send(void *ctx, int conn, const void *p, size_t n)
{
    struct sim *s = ctx;
    int node = dialling >= 0 ? dialling : node_of_conn(s, conn);
    if (node >= 0)
        item_push(s, ITEM_DOWN, node, conn, p, n);
}

static void relay_close(void *ctx, int conn)
{
    struct sim *s = ctx;
    int node = node_of_conn(s, conn);
    if (node >= 0)
        item_push(s, ITEM_CLOSED, node, conn, "", 0);
}

/* --- turns --- */

static uint64_t time_of(const struct sim *s, const struct sim_node *n)
{
    return (uint64_t)((int64_t)s->now + n->skew_ms);
}

static void hang_up(struct sim *s, int node)
{
    struct sim_node *n = &s->node[node];
    int conn = n->conn;
    if (conn < 0)
        return;
    n->conn = -1;
    items_drop(s, node, conn);
    simrelay_disconnect(s->relay, conn);
}

static void crash(struct sim *s, int node)
{
    struct sim_node *n = &s->node[node];
    struct port port = memport_port(n->mp);
    int r;
    sim_trace(s, node, "is killed");
    hang_up(s, node);
    n->want = false;
    engine_free(n->engine);
    n->engine = NULL;
    memport_rollback(n->mp);
    n->restarts++;
    r = engine_new(&n->cfg, &port, &s->rng, time_of(s, n), &n->engine);
    SIM_CHECK(s, r == 0, "%s: does not start again: %d", n->name, r);
    sim_turn(s, node, 0);
}

/* True: the node dies here. */
static bool cut(struct sim_node *n)
{
    n->points++;
    return n->cut_in && --n->cut_in == 0;
}

static void answered(struct sim *s, int node, const struct effect *f)
{
    struct sim_answer *a = NULL;
    for (size_t i = s->n_answers; i-- > 0 && !a;)
        if (s->answers[i].ticket == f->ticket)
            a = &s->answers[i];
    SIM_CHECK(s, a, "%s: an answer to no call", s->node[node].name);
    SIM_CHECK(s, !a->done, "%s: two answers to one call", s->node[node].name);
    a->done = true;
    a->error = f->error;
    memcpy(a->text, f->text, sizeof(a->text));
    a->data = bytes_copy(f->data.data, f->data.len);
    for (size_t i = s->n_messages; i-- > 0;)
        if (s->messages[i].ticket == f->ticket) {
            struct sim_message *m = &s->messages[i];
            m->answered = f->error == API_OK;
            if (m->answered && m->qos && s->deep)
                SIM_CHECK(s,
                        sim_stored(&s->node[node], MAP_OUT,
                                (struct span){.p = (const uint8_t *)m->id, .n = strlen(m->id)}) ||
                                sim_stored(&s->node[node], MAP_DONE,
                                        (struct span){.p = (const uint8_t *)m->id, .n = strlen(m->id)}),
                        "%s: '%s' is answered and not in the store", s->node[node].name, m->id);
            break;
        }
}

/* Non-zero: the engine has been told of a lost link and has a turn to end. */
static int carry_out(struct sim *s, int node, const struct effect *f)
{
    struct sim_node *n = &s->node[node];
    switch (f->kind) {
    case EFFECT_CONNECT:
        n->want = true;
        n->dial_ms = s->now;
        return 0;
    case EFFECT_DISCONNECT:
        n->want = false;
        hang_up(s, node);
        SIM_CHECK(s, engine_link_down(n->engine, time_of(s, n), 0, "disconnected") == 0, "link_down fails");
        return 1;
    case EFFECT_DROP:
        hang_up(s, node);
        n->dial_ms = s->now + (f->retry_after_ms > REDIAL_MS ? f->retry_after_ms : REDIAL_MS);
        SIM_CHECK(s, engine_link_down(n->engine, time_of(s, n), 0, f->text) == 0, "link_down fails");
        return 1;
    case EFFECT_SEND:
        sim_check_sent(s, node, f->data.data, f->data.len);
        sim_digest(s, f->data.data, f->data.len);
        if (n->conn >= 0)
            item_push(s, ITEM_UP, node, n->conn, f->data.data, f->data.len);
        return 0;
    case EFFECT_ANSWER:
        answered(s, node, f);
        return 0;
    case EFFECT_GOOD:
    case EFFECT_SEND_TEXT:
        return 0;
    }
    return 0;
}

void sim_turn(struct sim *s, int node, int result)
{
    struct sim_node *n = &s->node[node];
    bool again = true;
    n->looked_ms = s->now;
    while (again) {
        struct effect *f;
        int r = result ? result : engine_turn_end(n->engine, time_of(s, n));
        again = false;
        result = 0;
        s->turns++;
        if (r == 0 && cut(n))
            r = -EINTR;
        if (r == 0)
            r = memport_commit(n->mp);
        if (r < 0) {
            SIM_CHECK(s, r == -EINTR || r == -ENOSPC || r == -EIO, "%s: a turn fails: %d", n->name, r);
            crash(s, node);
            return;
        }
        sim_read_log(s, node);
        if (cut(n)) {
            crash(s, node);
            return;
        }
        while ((f = engine_next_effect(n->engine))) {
            again |= carry_out(s, node, f);
            effect_free(f);
            if (cut(n)) {
                crash(s, node);
                return;
            }
        }
    }
}

/* --- building --- */

struct sim *sim_new(uint64_t seed)
{
    struct sim *s = sim_must(calloc(1, sizeof(*s)));
    struct simrelay_hooks hooks = {.ctx = s, .send = relay_send, .close = relay_close};
    if (sodium_init() < 0)
        abort();
    seed_world(s, seed);
    s->rng = (struct rng){.fill = fill, .ctx = s};
    s->now = SIM_START;
    s->batch = 4;
    s->next_ticket = 1;
    s->relay = simrelay_new(&s->rng, &hooks);
    simrelay_set_time(s->relay, s->now);
    return s;
}

static void engine_start(struct sim *s, int node)
{
    struct sim_node *n = &s->node[node];
    struct port port = memport_port(n->mp);
    int r = engine_new(&n->cfg, &port, &s->rng, time_of(s, n), &n->engine);
    SIM_CHECK(s, r == 0, "%s: does not start: %d", n->name, r);
    sim_turn(s, node, 0);
}

int sim_add(struct sim *s, const char *name, const struct engine_config *cfg)
{
    int node = (int)s->n_nodes++;
    struct sim_node *n = &s->node[node];
    if (s->n_nodes > SIM_NODES)
        abort();
    *n = (struct sim_node){.mp = memport_new(), .conn = -1, .latency_ms = LATENCY_MS};
    (void)snprintf(n->name, sizeof(n->name), "%s", name);
    if (cfg)
        n->cfg = *cfg;
    else
        n->cfg.receipts = true;
    engine_start(s, node);
    return node;
}

void sim_configure(struct sim *s, int node, const struct engine_config *cfg)
{
    s->node[node].cfg = *cfg;
    sim_restart(s, node);
}

static void learn_uid(struct sim *s, int node)
{
    SIM_CHECK(s, simrelay_find(s->relay, s->node[node].name, s->node[node].uid), "not registered");
}

void sim_register(struct sim *s, int node)
{
    uint64_t t = sim_call(s, node, "account.create", "{\"user\":\"%s\",\"relay\":\"ws://relay.test:7690/\"}",
            s->node[node].name);
    (void)sim_expect(s, t, API_OK);
    learn_uid(s, node);
}

/* Made once in a process: keys take long. */
static struct {
    bool made;
    struct simrelay *relay;
    struct memport_snapshot *snapshot[4];
    uint64_t now;
} base;

static void base_make(void)
{
    static const char *const names[] = {"alice", "bob", "carol", "dave"};
    struct sim *s = sim_new(1);
    for (int i = 0; i < 4; i++) {
        sim_add(s, names[i], NULL);
        sim_register(s, i);
    }
    (void)sim_settle(s, MINUTE_MS);
    for (int i = 0; i < 4; i++) {
        hang_up(s, i);
        base.snapshot[i] = memport_snapshot(s->node[i].mp);
    }
    base.relay = simrelay_copy(s->relay, &s->rng, &(struct simrelay_hooks){0});
    base.now = s->now;
    base.made = true;
    sim_free(s);
}

static void base_free(void)
{
    simrelay_free(base.relay);
    for (int i = 0; i < 4; i++)
        memport_snapshot_free(base.snapshot[i]);
}

struct sim *sim_new_ready(uint64_t seed, size_t n)
{
    static const char *const names[] = {"alice", "bob", "carol", "dave"};
    struct sim *s = sim_new(seed);
    struct simrelay_hooks hooks = {.ctx = s, .send = relay_send, .close = relay_close};
    if (!base.made) {
        base_make();
        (void)atexit(base_free);
    }
    simrelay_free(s->relay);
    s->now = base.now;
    s->relay = simrelay_copy(base.relay, &s->rng, &hooks);
    simrelay_set_time(s->relay, s->now);
    for (size_t i = 0; i < n; i++) {
        struct sim_node *node = &s->node[i];
        *node = (struct sim_node){.mp = memport_new(), .conn = -1, .latency_ms = LATENCY_MS, .offline = true};
        s->n_nodes++;
        (void)snprintf(node->name, sizeof(node->name), "%s", names[i]);
        node->cfg.receipts = true;
        memport_restore(node->mp, base.snapshot[i]);
        learn_uid(s, (int)i);
        engine_start(s, (int)i);
    }
    return s;
}

struct sim *sim_new_online(uint64_t seed, size_t n)
{
    struct sim *s = sim_new_ready(seed, n);
    for (size_t i = 0; i < n; i++)
        sim_connect(s, (int)i);
    (void)sim_settle(s, MINUTE_MS);
    return s;
}

void sim_free(struct sim *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_nodes; i++) {
        struct sim_node *n = &s->node[i];
        engine_free(n->engine);
        memport_free(n->mp);
        for (size_t k = 0; k < n->n_events; k++)
            bytes_free(&n->events[k]);
        free(n->events);
        bytes_free(&n->last_auth);
    }
    for (size_t i = 0; i < s->n_answers; i++)
        bytes_free(&s->answers[i].data);
    for (size_t i = 0; i < s->n_items; i++)
        bytes_free(&s->items[i].message);
    simrelay_free(s->relay);
    free(s->answers);
    free(s->messages);
    free(s->items);
    free(s->seen);
    free(s);
}

int sim_node_of(const struct sim *s, const uint8_t uid[UID_LEN])
{
    for (size_t i = 0; i < s->n_nodes; i++)
        if (memcmp(s->node[i].uid, uid, UID_LEN) == 0)
            return (int)i;
    return -1;
}

struct address sim_address(const struct sim *s, int node)
{
    struct address a = {.device = 1};
    memcpy(a.uid, s->node[node].uid, UID_LEN);
    return a;
}

/* --- local calls --- */

static uint64_t call_json(struct sim *s, int node, const char *method, const char *json)
{
    CLEANUP_BUF struct buf b = {0};
    const struct api_method *m = api_find_method(method, strlen(method));
    char text[API_MAX_TEXT];
    const char *why = "";
    struct mp_value v, map;
    uint64_t ticket = s->next_ticket++;
    int r;
    buf_init(&b, 1u << 20);
    mp_put_array(&b, 1);
    SIM_CHECK(s, m && mp_from_json(&b, json, strlen(json), &why) == WIRE_OK, "%s %s: %s", method, json, why);
    mp_view(b.data, b.len, &v);
    SIM_CHECK(s, api_check_params(m, &v, &map, text) == 0, "%s", text);
    if (s->n_answers == s->cap_answers) {
        s->cap_answers = s->cap_answers ? s->cap_answers * 2 : 64;
        s->answers = sim_must(realloc(s->answers, s->cap_answers * sizeof(s->answers[0])));
    }
    s->answers[s->n_answers++] = (struct sim_answer){.ticket = ticket, .node = node};
    r = engine_call(s->node[node].engine, time_of(s, &s->node[node]), ticket, method, &map);
    sim_turn(s, node, r);
    return ticket;
}

uint64_t sim_call(struct sim *s, int node, const char *method, const char *params, ...)
{
    char *json;
    uint64_t ticket;
    va_list ap;
    va_start(ap, params);
    if (vasprintf(&json, params, ap) < 0)
        abort();
    va_end(ap);
    ticket = call_json(s, node, method, json);
    free(json);
    return ticket;
}

const struct sim_answer *sim_answer(const struct sim *s, uint64_t ticket)
{
    for (size_t i = s->n_answers; i-- > 0;)
        if (s->answers[i].ticket == ticket)
            return s->answers[i].done ? &s->answers[i] : NULL;
    return NULL;
}

const struct sim_answer *sim_expect(struct sim *s, uint64_t ticket, enum api_error error)
{
    uint64_t end = s->now + ANSWER_MS;
    const struct sim_answer *a;
    while (!(a = sim_answer(s, ticket)) && s->now < end)
        sim_run(s, 100);
    SIM_CHECK(s, a, "a call is not answered");
    SIM_CHECK(s, a->error == error, "a call is answered with %d (%s), not %d", (int)a->error, a->text,
            (int)error);
    return a;
}

size_t sim_send(struct sim *s, int from, int to, int qos, const char *more)
{
    struct sim_message *m;
    size_t i = s->n_messages++;
    char json[1024];
    if (s->n_messages > s->cap_messages) {
        s->cap_messages = s->cap_messages ? s->cap_messages * 2 : 64;
        s->messages = sim_must(realloc(s->messages, s->cap_messages * sizeof(s->messages[0])));
    }
    m = &s->messages[i];
    *m = (struct sim_message){.from = from, .to = to, .qos = qos, .ticket = s->next_ticket};
    (void)snprintf(m->id, sizeof(m->id), "m%zu-%08x", i, sim_random(s, UINT32_MAX));
    (void)snprintf(m->text, sizeof(m->text), SIM_MARK "%zu from %s", i, s->node[from].name);
    (void)snprintf(json, sizeof(json), "{\"to\":\"%s\",\"id\":\"%s\",\"text\":\"%s\",\"qos\":%d%s}",
            s->node[to].name, m->id, m->text, qos, more);
    (void)call_json(s, from, "send", json);
    return i;
}

/* --- time --- */

static void dial(struct sim *s, int node)
{
    struct sim_node *n = &s->node[node];
    struct link_connected up = {.tls = n->tls, .host = {.p = (const uint8_t *)"relay.test:7690", .n = 15}};
    memcpy(up.exporter, n->exporter, EXPORTER_LEN);
    dialling = node;
    n->conn = simrelay_connect(s->relay, &up);
    dialling = -1;
    sim_turn(s, node, engine_link_up(n->engine, time_of(s, n), &up));
}

static void link_lost(struct sim *s, int node, const char *why)
{
    struct sim_node *n = &s->node[node];
    hang_up(s, node);
    n->dial_ms = s->now + REDIAL_MS;
    sim_turn(s, node, engine_link_down(n->engine, time_of(s, n), 1006, why));
}

/* Further messages of the same link that are due may share the turn. */
static int gather(struct sim *s, int node, int conn)
{
    struct sim_node *n = &s->node[node];
    unsigned more = s->batch > 1 ? sim_random(s, s->batch) : 0;
    int r = 0;
    while (r == 0 && more-- && s->n_items) {
        size_t i = item_first(s);
        struct sim_item it = s->items[i];
        if (it.due > s->now || it.kind != ITEM_DOWN || it.node != node || it.conn != conn)
            break;
        s->items[i] = s->items[--s->n_items];
        r = engine_relay_message(n->engine, time_of(s, n), it.message.p, it.message.n);
        bytes_free(&it.message);
    }
    return r;
}

static void item_take(struct sim *s)
{
    size_t i = item_first(s);
    struct sim_item it = s->items[i];
    struct sim_node *n = &s->node[it.node];
    s->items[i] = s->items[--s->n_items];
    sim_trace(s, it.node, "%s %02x",
            it.kind == ITEM_UP     ? "is heard"
            : it.kind == ITEM_DOWN ? "hears"
                                   : "is closed",
            it.message.n ? it.message.p[0] : 0);
    if (it.kind == ITEM_UP) {
        simrelay_receive(s->relay, it.conn, it.message.p, it.message.n);
    } else if (it.conn == n->conn && it.kind == ITEM_DOWN) {
        int r = engine_relay_message(n->engine, time_of(s, n), it.message.p, it.message.n);
        if (r == 0)
            r = gather(s, it.node, it.conn);
        sim_turn(s, it.node, r);
    } else if (it.conn == n->conn) {
        link_lost(s, it.node, "closed by the relay");
    }
    bytes_free(&it.message);
    simrelay_pump(s->relay);
}

static uint64_t deadline_of(const struct sim *s, const struct sim_node *n)
{
    uint64_t at = engine_deadline(n->engine), now = time_of(s, n);
    uint64_t due = s->now + (at > now ? at - now : 0), latest = n->looked_ms + MAX_WAIT_MS;
    return due < latest ? due : latest;
}

static bool wants_dial(const struct sim_node *n)
{
    return n->want && !n->offline && n->conn < 0;
}

/* One happening at or before end; false: nothing. */
static bool step(struct sim *s, uint64_t end)
{
    uint64_t at = UINT64_MAX;
    int node = -1;
    bool dials = false;
    for (size_t i = 0; i < s->n_nodes; i++) {
        const struct sim_node *n = &s->node[i];
        uint64_t t = deadline_of(s, n);
        if (wants_dial(n) && n->dial_ms <= t && n->dial_ms < at) {
            at = n->dial_ms;
            node = (int)i;
            dials = true;
        } else if (t < at) {
            at = t;
            node = (int)i;
            dials = false;
        }
    }
    if (s->n_items && s->items[item_first(s)].due <= at) {
        at = s->items[item_first(s)].due;
        node = -1;
    }
    if (at > end || at == UINT64_MAX)
        return false;
    if (at > s->now) {
        s->now = at;
        simrelay_set_time(s->relay, s->now);
    }
    if (node < 0)
        item_take(s);
    else if (dials)
        dial(s, node);
    else
        sim_turn(s, node, engine_tick(s->node[node].engine, time_of(s, &s->node[node])));
    return true;
}

void sim_run(struct sim *s, uint64_t ms)
{
    uint64_t end = s->now + ms;
    simrelay_pump(s->relay);
    while (step(s, end))
        ;
    s->now = end;
    simrelay_set_time(s->relay, s->now);
    simrelay_pump(s->relay);
}

size_t sim_undelivered(const struct sim *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_messages; i++) {
        const struct sim_message *m = &s->messages[i];
        n += m->answered && m->qos && !m->ended && !(m->delivered && m->acked);
    }
    return n;
}

static bool dialling_any(const struct sim *s)
{
    for (size_t i = 0; i < s->n_nodes; i++)
        if (wants_dial(&s->node[i]))
            return true;
    return false;
}

bool sim_settle(struct sim *s, uint64_t max_ms)
{
    uint64_t end = s->now + max_ms;
    do {
        sim_run(s, 200);
    } while (s->now < end && (s->n_items || dialling_any(s) || sim_undelivered(s)));
    return !s->n_items && !sim_undelivered(s);
}

void sim_connect(struct sim *s, int node)
{
    s->node[node].offline = false;
    s->node[node].dial_ms = s->now;
}

void sim_disconnect(struct sim *s, int node)
{
    s->node[node].offline = true;
    if (s->node[node].conn >= 0)
        link_lost(s, node, "the network is away");
}

void sim_restart(struct sim *s, int node)
{
    crash(s, node);
}

/* What is no longer in the log has not been delivered any more. */
static void forget_events(struct sim *s, int node)
{
    struct sim_node *n = &s->node[node];
    while (sim_mirrored(n) > engine_last_seq(n->engine)) {
        struct bytes *e = &n->events[--n->n_events];
        const char *type = sim_text(e, "type");
        uint8_t uid[UID_LEN];
        struct sim_message *m = NULL;
        if (!strcmp(type, "message") && uid_from_text(sim_text(e, "from_uid"), uid) == WIRE_OK &&
                (m = sim_message_of(s, sim_node_of(s, uid), sim_text(e, "id"))))
            m->delivered = false;
        if (!strcmp(type, "message_ack") && (m = sim_message_of(s, node, sim_text(e, "id"))))
            m->acked = m->ended = false;
        bytes_free(e);
    }
    memset(n->last_order, 0, sizeof(n->last_order));
}

void sim_restore(struct sim *s, int node, const struct memport_snapshot *snapshot)
{
    struct sim_node *n = &s->node[node];
    struct port port = memport_port(n->mp);
    hang_up(s, node);
    engine_free(n->engine);
    memport_restore(n->mp, snapshot);
    SIM_CHECK(s, engine_new(&n->cfg, &port, &s->rng, time_of(s, n), &n->engine) == 0,
            "a restored store is refused");
    forget_events(s, node);
    n->want = false;
    sim_turn(s, node, 0);
}

static int digest_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    (void)crypto_generichash_update(ctx, key, key_len);
    (void)crypto_generichash_update(ctx, value, n);
    return 0;
}

uint64_t sim_map_digest(const struct sim *s, int node, uint8_t map)
{
    struct port port = memport_port(s->node[node].mp);
    crypto_generichash_state st;
    uint64_t v;
    uint8_t h[16];
    (void)crypto_generichash_init(&st, NULL, 0, sizeof(h));
    SIM_CHECK(s, port.scan(port.ctx, map, "", 0, 0, digest_visit, &st) == 0, "a scan fails");
    (void)crypto_generichash_final(&st, h, sizeof(h));
    memcpy(&v, h, sizeof(v));
    return v;
}

static int count_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    (void)key;
    (void)key_len;
    (void)value;
    (void)n;
    ++*(size_t *)ctx;
    return 0;
}

size_t sim_map_count(const struct sim *s, int node, uint8_t map)
{
    struct port port = memport_port(s->node[node].mp);
    size_t n = 0;
    SIM_CHECK(s, port.scan(port.ctx, map, "", 0, 0, count_visit, &n) == 0, "a scan fails");
    return n;
}

size_t sim_all_sent(const struct sim *s, int node)
{
    size_t n = 0;
    for (int type = 0; type < 256; type++)
        n += s->node[node].sent[type];
    return n;
}

void sim_check_all(struct sim *s)
{
    for (size_t i = 0; i < s->n_messages; i++) {
        const struct sim_message *m = &s->messages[i];
        SIM_CHECK(s, !m->answered || !m->qos || m->ended || m->delivered, "'%s' from %s to %s is lost", m->id,
                s->node[m->from].name, s->node[m->to].name);
        SIM_CHECK(s, !m->answered || !m->qos || m->ended || m->acked,
                "'%s' from %s to %s: the sender was never told", m->id, s->node[m->from].name,
                s->node[m->to].name);
    }
}
