#include "sim_impl.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct fingerprint_slot {
    uint8_t head[32], body[32];
    bool used;
};

static bool tracing(void)
{
    static int on = -1;
    if (on < 0)
        on = getenv("SIM_TRACE") != NULL;
    return on;
}

void sim_trace(const struct sim *s, int node, const char *fmt, ...)
{
    va_list ap;
    if (!tracing())
        return;
    (void)fprintf(stderr, "%10llu %-6s ", (unsigned long long)(s->now - SIM_START), s->node[node].name);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
}

static void trace_event(const struct sim *s, int node, const struct bytes *e)
{
    CLEANUP_BUF struct buf json = {0};
    struct mp_value v;
    if (!tracing())
        return;
    buf_init(&json, 1u << 20);
    mp_view(e->p, e->n, &v);
    mp_to_json(&json, &v);
    sim_trace(s, node, "event %.*s", (int)json.len, (const char *)json.data);
}

/* --- what must hold of everything that leaves a node --- */

static struct fingerprint_slot *seen_slot(const struct sim *s, const uint8_t head[32])
{
    size_t i;
    memcpy(&i, head, sizeof(i));
    for (i %= s->cap_seen; s->seen[i].used && memcmp(s->seen[i].head, head, 32) != 0;
            i = (i + 1) % s->cap_seen)
        ;
    return &s->seen[i];
}

static void seen_grow(struct sim *s)
{
    struct fingerprint_slot *old = s->seen;
    size_t n = s->cap_seen;
    s->cap_seen = n ? n * 2 : 1024;
    s->seen = sim_must(calloc(s->cap_seen, sizeof(s->seen[0])));
    for (size_t i = 0; i < n; i++)
        if (old[i].used)
            *seen_slot(s, old[i].head) = old[i];
    free(old);
}

/* The part behind the handshake header: what one message key makes. */
static void check_fresh(struct sim *s, const struct envelope_view *v)
{
    struct fingerprint_slot *slot, made = {.used = true};
    crypto_generichash_state st;
    (void)crypto_generichash_init(&st, NULL, 0, 32);
    (void)crypto_generichash_update(&st, v->route_tag, ROUTE_TAG_LEN);
    (void)crypto_generichash_update(&st, v->header.p, v->header.n);
    (void)crypto_generichash_final(&st, made.head, 32);
    (void)crypto_generichash_init(&st, NULL, 0, 32);
    (void)crypto_generichash_update(&st, v->nonce, 24);
    (void)crypto_generichash_update(&st, v->com, 32);
    (void)crypto_generichash_update(&st, v->ciphertext.p, v->ciphertext.n);
    (void)crypto_generichash_final(&st, made.body, 32);
    if (2 * s->n_seen >= s->cap_seen)
        seen_grow(s);
    slot = seen_slot(s, made.head);
    if (slot->used)
        SIM_CHECK(s, memcmp(slot->body, made.body, 32) == 0, "one header with two ciphertexts");
    else
        s->n_seen++;
    *slot = made;
}

struct hunt {
    struct span needle;
    bool found;
};

static int hunt_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct hunt *h = ctx;
    (void)key;
    (void)key_len;
    h->found = n >= h->needle.n && memmem(value, n, h->needle.p, h->needle.n) != NULL;
    return h->found;
}

bool sim_stored(const struct sim_node *n, uint8_t map, struct span needle)
{
    struct port port = memport_port(n->mp);
    struct hunt h = {.needle = needle};
    (void)!port.scan(port.ctx, map, "", 0, 0, hunt_visit, &h);
    return h.found;
}

static void check_submit(struct sim *s, int node, struct cursor *c)
{
    struct sim_node *n = &s->node[node];
    struct relay_submit_item m;
    struct envelope_view v;
    uint16_t count;
    SIM_CHECK(s, relay_read_count(c, 1, RELAY_MAX_BATCH, &count) == WIRE_OK, "%s: an empty SUBMIT", n->name);
    while (count--) {
        int to;
        SIM_CHECK(s, relay_next_submit(c, &m) == WIRE_OK, "%s: malformed SUBMIT", n->name);
        SIM_CHECK(s, envelope_parse(m.body.p, m.body.n, &v) == 0, "%s: submits what is no envelope", n->name);
        check_fresh(s, &v);
        if (s->deep && !(m.flags & RELAY_SUBMIT_EPHEMERAL))
            SIM_CHECK(s, sim_stored(n, MAP_DATA, m.body) || sim_stored(n, MAP_CONTROL, m.body),
                    "%s: an envelope leaves that is not in the store", n->name);
        to = sim_node_of(s, m.to.uid);
        if (to >= 0)
            n->submits[to]++;
    }
    SIM_CHECK(s, cursor_end(c) == WIRE_OK, "%s: bytes behind a SUBMIT", n->name);
}

void sim_check_sent(struct sim *s, int node, const uint8_t *p, size_t n)
{
    struct cursor c;
    uint32_t ref;
    uint8_t type;
    SIM_CHECK(s, n <= RELAY_MAX_MESSAGE, "%s: too long a message", s->node[node].name);
    SIM_CHECK(s, !memmem(p, n, SIM_MARK, strlen(SIM_MARK)), "%s: a payload leaves in the clear",
            s->node[node].name);
    cursor_init(&c, p, n);
    SIM_CHECK(s, relay_read_head(&c, &type, &ref) == WIRE_OK, "%s: malformed message", s->node[node].name);
    s->node[node].sent[type]++;
    if (type == RELAY_AUTH) {
        bytes_free(&s->node[node].last_auth);
        s->node[node].last_auth = bytes_copy(p, n);
    }
    sim_trace(s, node, "says %02x ref %u, %zu bytes", type, ref, n);
    if (type == RELAY_SUBMIT)
        check_submit(s, node, &c);
}

void sim_digest(struct sim *s, const void *p, size_t n)
{
    uint8_t h[16];
    (void)crypto_generichash(h, sizeof(h), p, n, (const uint8_t *)"digest-of-a-world", 17);
    uint64_t v;
    memcpy(&v, h, sizeof(v));
    s->digest = s->digest * UINT64_C(6364136223846793005) + v;
}

/* --- messages and events --- */

static const char *text_of(const struct bytes *map, const char *field, char *ret, size_t size)
{
    struct mp_value m, v;
    ret[0] = 0;
    if (!map || !map->p)
        return ret;
    mp_view(map->p, map->n, &m);
    if (mp_map_get(&m, field, &v) && (v.type == MP_STR || v.type == MP_BIN) && v.count < size) {
        memcpy(ret, v.bytes, v.count);
        ret[v.count] = 0;
    }
    return ret;
}

const char *sim_text(const struct bytes *map, const char *field)
{
    static char texts[8][512];
    static unsigned turn;
    return text_of(map, field, texts[turn++ % 8], sizeof(texts[0]));
}

uint64_t sim_number(const struct bytes *map, const char *field)
{
    struct mp_value m, v;
    if (!map || !map->p)
        return 0;
    mp_view(map->p, map->n, &m);
    return mp_map_get(&m, field, &v) && v.type == MP_INT ? (uint64_t)v.integer : 0;
}

bool sim_flag(const struct bytes *map, const char *field)
{
    struct mp_value m, v;
    if (!map || !map->p)
        return false;
    mp_view(map->p, map->n, &m);
    return mp_map_get(&m, field, &v) && v.type == MP_BOOL && v.boolean;
}

struct sim_message *sim_message_of(struct sim *s, int from, const char *id)
{
    for (size_t i = s->n_messages; i-- > 0;)
        if (s->messages[i].from == from && strcmp(s->messages[i].id, id) == 0)
            return &s->messages[i];
    return NULL;
}

static void saw_message(struct sim *s, int node, const struct bytes *e)
{
    uint8_t uid[UID_LEN];
    const char *id = sim_text(e, "id");
    struct sim_message *m;
    int from;
    SIM_CHECK(s, uid_from_text(sim_text(e, "from_uid"), uid) == WIRE_OK, "an event without a sender");
    from = sim_node_of(s, uid);
    m = sim_message_of(s, from, id);
    SIM_CHECK(s, m && m->to == node, "%s: a message '%s' that nobody sent to it", s->node[node].name, id);
    SIM_CHECK(s, strcmp(m->text, sim_text(e, "text")) == 0, "%s: '%s' has another text", s->node[node].name,
            id);
    SIM_CHECK(s, !m->delivered || s->may_repeat, "%s: '%s' is delivered twice", s->node[node].name, id);
    m->delivered = true;
    uint64_t order = (uint64_t)(m - s->messages) + 1;
    if (!m->qos)
        return;
    SIM_CHECK(s, s->disorderly || order > s->node[node].last_order[from], "%s: '%s' is out of order",
            s->node[node].name, id);
    s->node[node].last_order[from] = order;
}

static void saw_ack(struct sim *s, int node, const struct bytes *e)
{
    struct sim_message *m = sim_message_of(s, node, sim_text(e, "id"));
    const char *state = sim_text(e, "state");
    SIM_CHECK(s, m, "%s: an ack for a message that it did not send", s->node[node].name);
    if (!strcmp(state, "delivered") || !strcmp(state, "read")) {
        SIM_CHECK(s, m->delivered || s->may_repeat, "%s: '%s' is %s, and the recipient has not got it",
                s->node[node].name, m->id, state);
        SIM_CHECK(s, strcmp(state, "read") == 0 || !m->acked || s->may_repeat, "%s: '%s' is delivered twice",
                s->node[node].name, m->id);
        m->acked = true;
        m->read |= !strcmp(state, "read");
    } else if (strcmp(state, "sent") != 0) {
        SIM_CHECK(s, !m->acked || s->may_repeat, "%s: '%s' ends after it was delivered", s->node[node].name,
                m->id);
        m->ended = true;
    }
}

static int event_sink(void *ctx, uint64_t seq, const void *event, size_t n)
{
    struct sim_node *node = ctx;
    if (node->n_events == node->cap_events) {
        node->cap_events = node->cap_events ? node->cap_events * 2 : 64;
        node->events = sim_must(realloc(node->events, node->cap_events * sizeof(node->events[0])));
    }
    (void)seq;
    node->events[node->n_events++] = bytes_copy(event, n);
    return 0;
}

uint64_t sim_mirrored(const struct sim_node *n)
{
    return n->n_events ? sim_number(&n->events[n->n_events - 1], "seq") : 0;
}

/* Reads what is new in a node's log; the turn has been committed. */
void sim_read_log(struct sim *s, int node)
{
    struct sim_node *n = &s->node[node];
    size_t from = n->n_events;
    uint64_t next;
    if (engine_last_seq(n->engine) < sim_mirrored(n)) { /* the account was deleted */
        while (n->n_events)
            bytes_free(&n->events[--n->n_events]);
        from = 0;
    }
    SIM_CHECK(s, engine_read_events(n->engine, sim_mirrored(n), UINT64_MAX, event_sink, n, &next) == 0,
            "%s: the log cannot be read", n->name);
    for (size_t i = from; i < n->n_events; i++) {
        const struct bytes *e = &n->events[i];
        const char *type = sim_text(e, "type");
        sim_digest(s, e->p, e->n);
        trace_event(s, node, e);
        if (!strcmp(type, "message"))
            saw_message(s, node, e);
        else if (!strcmp(type, "message_ack"))
            saw_ack(s, node, e);
    }
}

size_t sim_events(const struct sim *s, int node, const char *type, const char *field, const char *value)
{
    const struct sim_node *n = &s->node[node];
    size_t count = 0;
    for (size_t i = 0; i < n->n_events; i++)
        count += !strcmp(sim_text(&n->events[i], "type"), type) &&
                 (!field || !strcmp(sim_text(&n->events[i], field), value));
    return count;
}

const struct bytes *sim_last_event(const struct sim *s, int node, const char *type)
{
    const struct sim_node *n = &s->node[node];
    for (size_t i = n->n_events; i-- > 0;)
        if (!strcmp(sim_text(&n->events[i], "type"), type))
            return &n->events[i];
    return NULL;
}
