#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "state.h"
#include "text.h"

#define BUSY_TICK_MS SECOND_MS
#define IDLE_TICK_MS (30 * SECOND_MS)
#define CLOCK_LEAP_MS (10 * MINUTE_MS)
#define RAW_BYTES_SECOND 65536u

static void clear_lists(struct engine *e)
{
    struct control *c;
    struct deferred *d;
    struct wait *w;
    while (!TAILQ_EMPTY(&e->all))
        outmsg_free(e, TAILQ_FIRST(&e->all));
    while ((c = TAILQ_FIRST(&e->controls))) {
        flight_end(e, &c->flight);
        TAILQ_REMOVE(&e->controls, c, all);
        free(c);
    }
    while ((d = TAILQ_FIRST(&e->deferred))) {
        TAILQ_REMOVE(&e->deferred, d, list);
        sodium_memzero(d->params, d->n);
        free(d);
    }
    while ((w = TAILQ_FIRST(&e->waits))) {
        TAILQ_REMOVE(&e->waits, w, list);
        free(w);
    }
    e->n_controls = e->n_deferred = e->n_waits = 0;
}

static void clear_tables(struct engine *e)
{
    struct table_node *node;
    for (size_t i = 0; i < e->peers.n_slots; i++)
        while ((node = e->peers.slots[i]))
            peer_free(e, container_of(node, struct peer, node));
    for (size_t i = 0; i < e->contacts.n_slots; i++)
        while ((node = e->contacts.slots[i])) {
            table_del(&e->contacts, node);
            free(container_of(node, struct contact, node));
        }
    held_clear(e);
}

void engine_clear(struct engine *e)
{
    clear_lists(e);
    clear_tables(e);
    identity_free(e->id);
    e->id = NULL;
    e->registered = e->creating = false;
    e->relay[0] = 0;
    sodium_memzero(e->token, sizeof(e->token));
    e->conn = CONN_NONE;
    e->n_requests = 0;
    e->first_seq = e->last_seq = 0;
    buf_reset(&e->submit);
    buf_reset(&e->acks);
}

static void lists_init(struct engine *e)
{
    TAILQ_INIT(&e->loaded);
    TAILQ_INIT(&e->waiting_peers);
    TAILQ_INIT(&e->owing_peers);
    TAILQ_INIT(&e->dirty_peers);
    TAILQ_INIT(&e->all);
    TAILQ_INIT(&e->ready);
    TAILQ_INIT(&e->future);
    TAILQ_INIT(&e->controls);
    TAILQ_INIT(&e->deferred);
    TAILQ_INIT(&e->waits);
    STAILQ_INIT(&e->effects);
}

static void parts_init(struct engine *e)
{
    uint8_t seed[TABLE_SEED_LEN];
    lists_init(e);
    rng_fill(&e->rng, seed, sizeof(seed));
    table_init(&e->contacts, UID_LEN, seed);
    table_init(&e->peers, ADDRESS_KEY_LEN, seed);
    table_init(&e->out, MESSAGE_ID_LEN, seed);
    table_init(&e->envelopes, ENVELOPE_ID_LEN, seed);
    table_init(&e->held, UID_LEN, seed);
    buf_init(&e->submit, RELAY_MAX_MESSAGE);
    buf_init(&e->acks, RELAY_MAX_MESSAGE);
    buf_init(&e->scratch, STORE_VALUE_MAX);
    buf_init_secret(&e->plain, STORE_VALUE_MAX);
    buf_init(&e->envelope, ENVELOPE_MAX_BODY);
}

static int load(struct engine *e)
{
    int r = meta_load(e);
    if (r == 0)
        r = events_load(e);
    if (r < 0 || !e->id)
        return r;
    r = contacts_load(e);
    if (r == 0)
        r = outbox_load(e);
    if (r == 0)
        r = control_load(e);
    if (r == 0)
        r = held_load(e);
    return r == 0 ? effect_text(e, EFFECT_CONNECT, e->relay, 0) : r;
}

int engine_new(const struct engine_config *cfg, const struct port *port, const struct rng *rng,
        uint64_t now_ms, struct engine **ret_engine)
{
    struct engine *e = calloc(1, sizeof(*e));
    int r;
    if (!e)
        return -ENOMEM;
    e->cfg = *cfg;
    e->port = *port;
    e->rng = *rng;
    e->now = e->clock_ms = e->last_tick_ms = now_ms;
    parts_init(e);
    r = load(e);
    if (r) {
        engine_free(e);
        return r < 0 ? r : -EBADMSG;
    }
    *ret_engine = e;
    return 0;
}

void engine_free(struct engine *e)
{
    struct effect *f;
    if (!e)
        return;
    engine_clear(e);
    while ((f = engine_next_effect(e)))
        effect_free(f);
    table_done(&e->contacts);
    table_done(&e->peers);
    table_done(&e->out);
    table_done(&e->envelopes);
    table_done(&e->held);
    buf_done(&e->submit);
    buf_done(&e->acks);
    buf_done(&e->scratch);
    buf_done(&e->plain);
    buf_done(&e->envelope);
    sodium_memzero(e, sizeof(*e));
    free(e);
}

const char *engine_user(const struct engine *e)
{
    return e->id ? identity_name(e->id) : NULL;
}

static void rewind_deadlines(struct engine *e, uint64_t back_ms)
{
    struct deferred *d;
    struct wait *w;
    TAILQ_FOREACH(w, &e->waits, list)
    w->deadline_ms = elapsed(w->deadline_ms, back_ms);
    TAILQ_FOREACH(d, &e->deferred, list)
    d->deadline_ms = elapsed(d->deadline_ms, back_ms);
    for (size_t i = 0; i < e->n_requests; i++)
        e->requests[i].deadline_ms = elapsed(e->requests[i].deadline_ms, back_ms);
    e->create_deadline_ms = elapsed(e->create_deadline_ms, back_ms);
}

/* Where the clock has gone back, what was planned for or done in the future is drawn back with it. */
static void clock_back(struct engine *e, uint64_t back_ms)
{
    struct outmsg *m;
    struct control *c;
    rewind_deadlines(e, back_ms);
    TAILQ_FOREACH(m, &e->all, all)
    outmsg_rewind(m, e->now);
    TAILQ_FOREACH(c, &e->controls, all)
    {
        c->retry_ms = 0;
        if (c->expires_ms > e->now + CONTROL_MS)
            c->expires_ms = e->now + CONTROL_MS;
    }
    for (size_t i = 0; i < e->peers.n_slots; i++)
        for (struct table_node *n = e->peers.slots[i]; n; n = n->next)
            peer_rewind(container_of(n, struct peer, node), e->now);
    e->sweep_ms = e->upkeep_ms = e->held_asked_ms = 0;
    memset(e->budgets, 0, sizeof(e->budgets));
    e->raw_budget = (struct error_budget){0};
    e->last_tick_ms = e->now;
}

/*
 * The relay authenticates only whose clock agrees with its own, so that a clock that jumps while we are
 * online jumps into the wrong: it is not followed before the connection has ended.
 */
static void set_clock(struct engine *e, uint64_t now_ms)
{
    uint64_t before = e->now;
    if (e->conn == CONN_NONE)
        e->jump_ms = 0;
    else if (e->conn == CONN_ONLINE &&
             (now_ms + MINUTE_MS < e->clock_ms || now_ms > e->clock_ms + CLOCK_LEAP_MS))
        e->jump_ms += (int64_t)(e->clock_ms - now_ms);
    e->clock_ms = now_ms;
    e->now = now_ms + (uint64_t)e->jump_ms;
    if (e->now + MINUTE_MS < before)
        clock_back(e, before - e->now);
}

/* --- local calls --- */

static const char *state_name(const struct engine *e)
{
    if (!e->id)
        return "none";
    if (e->conn == CONN_ONLINE)
        return "online";
    return e->conn == CONN_NONE ? "offline" : "connecting";
}

static void put_identity(struct engine *e, struct mp_map *m)
{
    const struct device_list *mine = identity_list(e->id);
    char uid[UID_TEXT_LEN + 1], digits[FINGERPRINT_LEN + 1], guid[33];
    uid_to_text(mine->uid, uid);
    fingerprint(mine->uid, mine->ak, digits);
    (void)sodium_bin2hex(guid, sizeof(guid), e->guid, sizeof(e->guid));
    mp_put_str(mp_key(m, "guid"), guid);
    mp_put_str(mp_key(m, "user"), mine->name);
    mp_put_str(mp_key(m, "uid"), uid);
    mp_put_uint(mp_key(m, "device"), identity_address(e->id)->device);
    mp_put_str(mp_key(m, "fingerprint"), digits);
    mp_put_str(mp_key(m, "relay"), e->relay);
}

static int call_status(struct engine *e, uint64_t ticket)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    buf_init(&b, 4096);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "version"), E2EED_VERSION);
    mp_put_str(mp_key(&m, "account"), e->cfg.account);
    mp_put_str(mp_key(&m, "state"), state_name(e));
    if (e->id)
        put_identity(e, &m);
    mp_put_uint(mp_key(&m, "queued"), outbox_queued(e));
    mp_put_uint(mp_key(&m, "last_seq"), e->last_seq);
    mp_put_uint(mp_key(&m, "first_seq"), e->first_seq);
    if (e->conn == CONN_ONLINE && e->rtt_us)
        mp_put_uint(mp_key(&m, "rtt_us"), e->rtt_us);
    if (e->last_error[0])
        mp_put_str(mp_key(&m, "last_error"), e->last_error);
    mp_map_end(&m);
    return answer_ok(e, ticket, &b);
}

/* Text frames of a second, begun anew where the clock went back. 0: this one fits; else ms until the next
 * second. */
static uint32_t raw_quota(struct engine *e, size_t n)
{
    if (e->now < e->raw_second_ms || e->now - e->raw_second_ms >= SECOND_MS) {
        e->raw_second_ms = e->now;
        e->raw_bytes = 0;
    }
    if (e->raw_bytes && n > RAW_BYTES_SECOND - e->raw_bytes)
        return (uint32_t)(e->raw_second_ms + SECOND_MS - e->now);
    e->raw_bytes += n < RAW_BYTES_SECOND ? (uint32_t)n : RAW_BYTES_SECOND;
    return 0;
}

static int call_raw(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    struct span text = param_bytes(params, "text");
    uint32_t wait_ms;
    int r;
    if (e->conn != CONN_ONLINE)
        return answer_fail(e, ticket, API_NOT_CONNECTED, 1000, "raw.write: not connected to the relay");
    if (!text.n)
        return answer_fail(e, ticket, API_INVALID_PARAMS, 0, "raw.write: 'text' is empty");
    if ((wait_ms = raw_quota(e, text.n)))
        return answer_fail(e, ticket, API_RATE_LIMITED, wait_ms, "raw.write: at most %u bytes a second",
                RAW_BYTES_SECOND);
    r = effect_push(e, EFFECT_SEND_TEXT, text.p, text.n);
    if (r == 0 && e->raw_answers < MAX_RAW_ANSWERS)
        e->raw_answers++;
    return r < 0 ? r : answer_ok(e, ticket, NULL);
}

static uint64_t types_of(const struct mp_value *params)
{
    struct mp_value types, t;
    struct mp_iter it;
    uint64_t set = 0;
    if (!mp_map_get(params, "types", &types) || !types.count)
        return UINT64_MAX;
    mp_iter_init(&it, &types);
    while (mp_next(&it, NULL, &t)) {
        const struct api_event *ev = t.type == MP_STR ? api_find_event(t.bytes, t.count) : NULL;
        if (ev)
            set |= UINT64_C(1) << (ev - api_events);
    }
    return set;
}

struct collecting {
    struct buf events;
    uint32_t n, limit;
};

static int collect(void *ctx, uint64_t seq, const void *event, size_t n)
{
    struct collecting *c = ctx;
    (void)seq;
    if (c->n == c->limit || c->events.len + n > c->events.max)
        return 1;
    mp_put_raw(&c->events, event, n);
    c->n++;
    return 0;
}

static int call_events(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b = {0};
    struct collecting c = {.limit = (uint32_t)param_uint(params, "limit", 100)};
    struct mp_map m;
    uint64_t next;
    int r;
    buf_init(&b, EFFECT_MAX_DATA);
    buf_init(&c.events, EFFECT_MAX_DATA - 4096);
    r = engine_read_events(e, param_uint(params, "after", 0), types_of(params), collect, &c, &next);
    if (r == 0) {
        mp_map_begin(&m, &b);
        mp_put_array(mp_key(&m, "events"), c.n);
        mp_put_raw(&b, c.events.data, c.events.len);
        mp_put_uint(mp_key(&m, "first_seq"), e->first_seq);
        mp_put_uint(mp_key(&m, "last_seq"), e->last_seq);
        mp_map_end(&m);
        r = answer_ok(e, ticket, &b);
    }
    buf_done(&c.events);
    return r;
}

static int call_ack(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b = {0};
    char name[65] = "";
    struct mp_map m;
    uint64_t seq = param_uint(params, "seq", 0);
    int r;
    (void)param_str(params, "consumer", name, sizeof(name));
    if (seq > e->last_seq)
        return answer_fail(e, ticket, API_INVALID_PARAMS, 0, "ack: 'seq' lies beyond the last event, %llu",
                (unsigned long long)e->last_seq);
    r = engine_consumer_ack(e, name, seq);
    if (r == -EDQUOT)
        return answer_fail(e, ticket, API_QUEUE_FULL, 0, "ack: at most %u consumers have a cursor",
                ENGINE_MAX_CONSUMERS);
    if (r == 0)
        r = engine_consumer_get(e, name, &seq);
    if (r < 0)
        return r;
    buf_init(&b, 256);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "consumer"), name);
    mp_put_uint(mp_key(&m, "seq"), seq);
    mp_map_end(&m);
    return answer_ok(e, ticket, &b);
}

static bool needs_account(const char *method)
{
    return strcmp(method, "status") != 0 && strcmp(method, "account.create") != 0 &&
           strcmp(method, "events") != 0 && strcmp(method, "ack") != 0;
}

int engine_dispatch(struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params)
{
    if (needs_account(method) && (!e->id || e->creating))
        return answer_fail(e, ticket, API_NO_ACCOUNT, 0,
                "%s: this daemon has no account yet; account.create (e2eectl init USER) makes one", method);
    if (!strcmp(method, "status"))
        return call_status(e, ticket);
    if (!strcmp(method, "send"))
        return outbox_send(e, ticket, params);
    if (!strcmp(method, "wait"))
        return wait_call(e, ticket, params);
    if (!strcmp(method, "read"))
        return inbox_read_call(e, ticket, params);
    if (!strcmp(method, "events"))
        return call_events(e, ticket, params);
    if (!strcmp(method, "ack"))
        return call_ack(e, ticket, params);
    if (!strcmp(method, "users"))
        return relay_users_call(e, ticket, params);
    if (!strcmp(method, "raw.write"))
        return call_raw(e, ticket, params);
    if (!strncmp(method, "account.", 8))
        return account_call(e, ticket, method, params);
    if (!strncmp(method, "contact.", 8))
        return contact_call(e, ticket, method, params);
    return answer_fail(e, ticket, API_METHOD_NOT_FOUND, 0, "no method '%.64s'", method);
}

int engine_call(
        struct engine *e, uint64_t now_ms, uint64_t ticket, const char *method, const struct mp_value *params)
{
    const struct api_method *m = api_find_method(method, strlen(method));
    set_clock(e, now_ms);
    /* The table's spelling lives for ever; deferred calls keep it. */
    return engine_dispatch(e, ticket, m ? m->name : method, params);
}

/* --- the link --- */

int engine_link_up(struct engine *e, uint64_t now_ms, const struct link_connected *c)
{
    set_clock(e, now_ms);
    if (!e->id)
        return effect_text(e, EFFECT_DISCONNECT, "", 0);
    e->conn = CONN_CHALLENGE;
    e->tls = c->tls;
    memcpy(e->exporter, c->exporter, sizeof(e->exporter));
    (void)snprintf(e->host, sizeof(e->host), "%.*s",
            (int)(c->host.n < RELAY_MAX_HOST ? c->host.n : RELAY_MAX_HOST), (const char *)c->host.p);
    return 0;
}

int engine_link_down(struct engine *e, uint64_t now_ms, uint16_t code, const char *reason)
{
    bool online = e->conn == CONN_ONLINE;
    struct mp_map m;
    int r;
    e->conn = CONN_NONE;
    set_clock(e, now_ms);
    if (!e->id)
        return 0;
    if (!e->last_error[0] || !online)
        (void)snprintf(e->last_error, sizeof(e->last_error), "%.100s (%u)", reason, code);
    r = relay_reset(e);
    if (r == 0)
        r = submit_reset(e);
    if (r < 0 || !online)
        return r;
    (void)event_begin(e, EV_DISCONNECTED, &m);
    mp_put_str(mp_key(&m, "reason"), reason);
    return event_end(e, &m);
}

int engine_link_text(struct engine *e, uint64_t now_ms, const void *p, size_t n)
{
    set_clock(e, now_ms);
    if (e->conn != CONN_ONLINE || n > ENGINE_MAX_PAYLOAD || !text_valid_utf8(p, n))
        return 0;
    return event_raw(e, p, n);
}

void engine_link_rtt(struct engine *e, uint32_t microseconds)
{
    e->rtt_us = microseconds;
}

static int presence(struct engine *e, struct cursor *c)
{
    uint16_t n;
    if (relay_read_count(c, 0, RELAY_MAX_WATCH, &n) != WIRE_OK)
        return 1;
    while (n--) {
        struct relay_presence_item it;
        struct peer *p;
        if (relay_next_presence(c, &it) != WIRE_OK)
            return 1;
        if (!(p = peer_find(e, &it.who)))
            continue;
        p->present = it.connected;
        p->presence_known = true;
    }
    return cursor_end(c) == WIRE_OK ? 0 : 1;
}

static int drained(struct engine *e)
{
    e->drained_ms = e->now;
    return meta_store(e);
}

static int relay_message(struct engine *e, uint8_t type, uint32_t ref, struct cursor *c)
{
    struct relay_error_msg error;
    switch (type) {
    case RELAY_CHALLENGE:
        return account_challenge(e, c);
    case RELAY_WELCOME:
        return account_welcome(e, c);
    case RELAY_ERROR:
        return relay_get_error(c, &error) == WIRE_OK ? relay_error(e, ref, &error) : 1;
    case RELAY_OK:
        return relay_answer(e, type, ref, c);
    default:
        break;
    }
    if (e->conn != CONN_ONLINE)
        return 1;
    switch (type) {
    case RELAY_SUBMITTED:
        return submit_results(e, c);
    case RELAY_DELIVER:
        return inbox_deliver(e, c);
    case RELAY_STATES:
        return submit_states(e, c);
    case RELAY_PRESENCE:
        return presence(e, c);
    case RELAY_PREKEYS:
        return relay_prekeys_left(e, ref, c);
    case RELAY_DRAINED:
        return drained(e);
    default:
        return relay_answer(e, type, ref, c);
    }
}

int engine_relay_message(struct engine *e, uint64_t now_ms, const void *p, size_t n)
{
    struct cursor c;
    uint32_t ref;
    uint8_t type;
    int r;
    set_clock(e, now_ms);
    if (!e->id || e->conn == CONN_NONE)
        return 0;
    cursor_init(&c, p, n);
    r = relay_read_head(&c, &type, &ref);
    if (r == 0)
        r = relay_message(e, type, ref, &c);
    if (r <= 0)
        return r;
    r = event_error(e, "RELAY_PROTOCOL", NULL,
            "the relay sent a message that breaks the protocol; the connection is made anew");
    return r < 0 ? r : effect_text(e, EFFECT_DROP, "protocol violation", 1000);
}

/* --- time and turns --- */

static bool busy(const struct engine *e)
{
    return e->n_out || e->n_waits || e->n_deferred || e->n_requests || e->creating ||
           !TAILQ_EMPTY(&e->controls);
}

uint64_t engine_deadline(const struct engine *e)
{
    uint64_t at = e->last_tick_ms + (busy(e) ? BUSY_TICK_MS : IDLE_TICK_MS);
    const struct wait *w;
    TAILQ_FOREACH(w, &e->waits, list)
    if (w->deadline_ms < at)
        at = w->deadline_ms;
    if (e->creating && e->create_deadline_ms < at)
        at = e->create_deadline_ms;
    return at - (uint64_t)e->jump_ms;
}

static int tick(struct engine *e)
{
    int r = outbox_tick(e);
    if (r == 0)
        r = control_tick(e);
    if (r == 0)
        r = relay_tick(e);
    if (r == 0)
        r = wait_tick(e);
    if (r == 0)
        r = counts_tick(e);
    if (r == 0)
        r = held_ask(e);
    return r == 0 ? sweep_tick(e) : r;
}

int engine_tick(struct engine *e, uint64_t now_ms)
{
    int r;
    set_clock(e, now_ms);
    e->last_tick_ms = e->now;
    if (!e->id)
        return 0;
    r = account_tick(e);
    return r < 0 || !e->id ? r : tick(e);
}

int engine_turn_end(struct engine *e, uint64_t now_ms)
{
    int r;
    set_clock(e, now_ms);
    if (!e->id)
        return 0;
    r = control_flush(e);
    if (r == 0)
        r = outbox_pump(e);
    if (r == 0)
        r = control_submit(e);
    if (r == 0)
        r = submit_flush(e);
    if (r == 0)
        r = events_prune(e);
    return r == 0 ? sessions_flush(e) : r;
}
