#include "simrelay.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define MAX_ACCOUNTS 64
#define MAX_ENTRIES 8
#define MAX_ONE_TIME 400
#define CLOCK_SLACK_MS (10 * MINUTE_MS)
#define BATCH_BYTES 65536u

struct envelope {
    struct envelope_id id;
    uint64_t time_ms, expires_ms;
    struct bytes body; /* p NULL: acknowledged, expired or lost */
    bool acked, ephemeral;
    uint32_t delivered_on; /* serial of the connection */
};
struct box {
    struct address who;
    uint8_t rak[32];
    struct bytes signed_prekey;
    uint32_t signed_id;
    struct bytes one_time[MAX_ONE_TIME];
    size_t n_one_time;
    struct envelope *env;
    size_t n_env, cap_env, first; /* all before first are done with */
    struct bytes *history;
    size_t n_history, cap_history;
};
struct account {
    bool used;
    char name[RELAY_MAX_NAME + 1];
    uint8_t uid[UID_LEN], ak[32];
    struct bytes entry[MAX_ENTRIES];
    size_t entries;
    struct box box;
};
struct conn {
    bool open, authed, drained;
    uint32_t serial;
    struct account *account;
    uint8_t nonce[RELAY_NONCE_LEN];
    bool tls;
    uint8_t exporter[EXPORTER_LEN];
    char host[RELAY_MAX_HOST + 1];
    size_t unacked, unacked_bytes, drain_to;
    struct address watch[RELAY_MAX_WATCH];
    size_t n_watch;
};
struct simrelay {
    struct rng rng;
    struct simrelay_hooks hooks;
    struct simrelay_lies lies;
    struct simrelay_liar liar;
    uint64_t now, claims;
    uint8_t store_id[16];
    enum relay_registration registration;
    char token[RELAY_MAX_TOKEN + 1];
    uint32_t serial;
    int next_conn;
    struct account account[MAX_ACCOUNTS];
    struct conn conn[SIMRELAY_MAX_CONNS];
};

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

struct bytes bytes_copy(const void *p, size_t n)
{
    struct bytes b = {.p = must(malloc(n ? n : 1)), .n = n};
    if (n)
        memcpy(b.p, p, n);
    return b;
}

void bytes_free(struct bytes *b)
{
    free(b->p);
    *b = (struct bytes){0};
}

static bool chance(struct simrelay *sr, unsigned per_mille)
{
    uint16_t v;
    if (!per_mille)
        return false;
    rng_fill(&sr->rng, &v, sizeof(v));
    return v % 1000 < per_mille;
}

/* --- life --- */

struct simrelay *simrelay_new(const struct rng *rng, const struct simrelay_hooks *hooks)
{
    struct simrelay *sr = must(calloc(1, sizeof(*sr)));
    sr->rng = *rng;
    sr->hooks = *hooks;
    rng_fill(&sr->rng, sr->store_id, sizeof(sr->store_id));
    return sr;
}

static void account_drop(struct account *a)
{
    for (size_t i = 0; i < a->entries; i++)
        bytes_free(&a->entry[i]);
    bytes_free(&a->box.signed_prekey);
    for (size_t i = 0; i < a->box.n_one_time; i++)
        bytes_free(&a->box.one_time[i]);
    for (size_t i = 0; i < a->box.n_env; i++)
        bytes_free(&a->box.env[i].body);
    for (size_t i = 0; i < a->box.n_history; i++)
        bytes_free(&a->box.history[i]);
    free(a->box.env);
    free(a->box.history);
    *a = (struct account){0};
}

void simrelay_free(struct simrelay *sr)
{
    if (!sr)
        return;
    for (size_t i = 0; i < MAX_ACCOUNTS; i++)
        account_drop(&sr->account[i]);
    free(sr);
}

static void account_copy(struct account *a)
{
    struct box *x = &a->box;
    struct envelope *env = must(calloc(x->cap_env + 1, sizeof(*env)));
    struct bytes *history = must(calloc(x->cap_history + 1, sizeof(*history)));
    for (size_t i = 0; i < a->entries; i++)
        a->entry[i] = bytes_copy(a->entry[i].p, a->entry[i].n);
    x->signed_prekey = bytes_copy(x->signed_prekey.p, x->signed_prekey.n);
    for (size_t i = 0; i < x->n_one_time; i++)
        x->one_time[i] = bytes_copy(x->one_time[i].p, x->one_time[i].n);
    for (size_t i = 0; i < x->n_env; i++) {
        env[i] = x->env[i];
        if (env[i].body.p)
            env[i].body = bytes_copy(env[i].body.p, env[i].body.n);
    }
    for (size_t i = 0; i < x->n_history; i++)
        history[i] = bytes_copy(x->history[i].p, x->history[i].n);
    x->env = env;
    x->history = history;
}

struct simrelay *simrelay_copy(const struct simrelay *from, const struct rng *rng, const struct simrelay_hooks *hooks)
{
    struct simrelay *sr = must(malloc(sizeof(*sr)));
    *sr = *from;
    sr->rng = *rng;
    sr->hooks = *hooks;
    memset(sr->conn, 0, sizeof(sr->conn));
    for (size_t i = 0; i < MAX_ACCOUNTS; i++)
        if (sr->account[i].used)
            account_copy(&sr->account[i]);
    return sr;
}

void simrelay_set_time(struct simrelay *sr, uint64_t now_ms)
{
    sr->now = now_ms;
}

struct simrelay_lies *simrelay_lies(struct simrelay *sr)
{
    return &sr->lies;
}

void simrelay_set_liar(struct simrelay *sr, const struct simrelay_liar *liar)
{
    sr->liar = *liar;
}

void simrelay_registration(struct simrelay *sr, enum relay_registration registration, const char *token)
{
    sr->registration = registration;
    (void)snprintf(sr->token, sizeof(sr->token), "%s", token ? token : "");
}

static struct account *by_uid(const struct simrelay *sr, const uint8_t *uid)
{
    for (size_t i = 0; i < MAX_ACCOUNTS; i++)
        if (sr->account[i].used && memcmp(sr->account[i].uid, uid, UID_LEN) == 0)
            return (struct account *)&sr->account[i];
    return NULL;
}

static struct account *by_name(const struct simrelay *sr, const void *name, size_t n)
{
    for (size_t i = 0; i < MAX_ACCOUNTS; i++) {
        const struct account *a = &sr->account[i];
        if (a->used && strlen(a->name) == n && memcmp(a->name, name, n) == 0)
            return (struct account *)a;
    }
    return NULL;
}

static struct box *box_of(const struct simrelay *sr, const struct address *who)
{
    struct account *a = by_uid(sr, who->uid);
    return a && a->box.who.device == who->device ? &a->box : NULL;
}

static struct conn *conn_of(struct simrelay *sr, const struct account *a)
{
    for (size_t i = 0; i < SIMRELAY_MAX_CONNS; i++)
        if (sr->conn[i].open && sr->conn[i].authed && sr->conn[i].account == a)
            return &sr->conn[i];
    return NULL;
}

/* --- saying --- */

void simrelay_say(struct simrelay *sr, int conn, const void *p, size_t n)
{
    if (sr->conn[conn].open)
        sr->hooks.send(sr->hooks.ctx, conn, p, n);
}

static void say(struct simrelay *sr, struct conn *c, struct buf *b)
{
    if (buf_status(b) < 0)
        abort();
    simrelay_say(sr, (int)(c - sr->conn), b->data, b->len);
    buf_done(b);
}

static struct buf message(void)
{
    struct buf b;
    buf_init(&b, RELAY_MAX_MESSAGE);
    return b;
}

static void say_error(struct simrelay *sr, struct conn *c, uint32_t ref, uint16_t code, const char *text)
{
    struct buf b = message();
    relay_put_error(&b, ref, code, 0, text);
    say(sr, c, &b);
}

static void say_empty(struct simrelay *sr, struct conn *c, enum relay_type type, uint32_t ref)
{
    struct buf b = message();
    relay_put_empty(&b, type, ref);
    say(sr, c, &b);
}

static void say_presence(struct simrelay *sr, const struct account *a, bool connected)
{
    for (size_t i = 0; i < SIMRELAY_MAX_CONNS; i++) {
        struct conn *c = &sr->conn[i];
        for (size_t k = 0; c->open && c->authed && k < c->n_watch; k++) {
            struct relay_presence_item item = {.who = c->watch[k], .connected = connected};
            struct buf b;
            if (memcmp(c->watch[k].uid, a->uid, UID_LEN) != 0)
                continue;
            b = message();
            relay_begin(&b, RELAY_PRESENCE, 0);
            relay_add_presence(&b, &item);
            say(sr, c, &b);
        }
    }
}

int simrelay_connect(struct simrelay *sr, const struct link_connected *up)
{
    struct relay_challenge m = {.version = RELAY_VERSION, .time_ms = sr->now, .max_message = RELAY_MAX_MESSAGE,
            .max_body = RELAY_MAX_BODY, .window = RELAY_WINDOW, .registration = (uint8_t)sr->registration};
    struct buf b = message();
    struct conn *c;
    int i = sr->next_conn;
    while (sr->conn[i].open)
        i = (i + 1) % SIMRELAY_MAX_CONNS;
    sr->next_conn = (i + 1) % SIMRELAY_MAX_CONNS; /* not again soon: old messages may be under way to it */
    c = &sr->conn[i];
    *c = (struct conn){.open = true, .serial = ++sr->serial, .tls = up->tls};
    memcpy(c->exporter, up->exporter, EXPORTER_LEN);
    (void)snprintf(c->host, sizeof(c->host), "%.*s", (int)up->host.n, (const char *)up->host.p);
    rng_fill(&sr->rng, c->nonce, sizeof(c->nonce));
    memcpy(m.nonce, c->nonce, sizeof(m.nonce));
    memcpy(m.store_id, sr->store_id, sizeof(m.store_id));
    relay_put_challenge(&b, &m);
    say(sr, c, &b);
    return i;
}

void simrelay_disconnect(struct simrelay *sr, int conn)
{
    struct conn *c = &sr->conn[conn];
    bool authed = c->open && c->authed;
    c->open = false;
    if (authed && c->account && !conn_of(sr, c->account))
        say_presence(sr, c->account, false);
}

static void hang_up(struct simrelay *sr, struct conn *c)
{
    int i = (int)(c - sr->conn);
    if (!c->open)
        return;
    simrelay_disconnect(sr, i);
    sr->hooks.close(sr->hooks.ctx, i);
}

static void refuse(struct simrelay *sr, struct conn *c, uint32_t ref, uint16_t code, const char *text)
{
    say_error(sr, c, ref, code, text);
    hang_up(sr, c);
}

/* --- accounts --- */

static void take_register(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct device_list list;
    struct relay_register m;
    struct account *a;
    if (relay_get_register(cur, &m) != WIRE_OK || device_list_verify(m.entry.p, m.entry.n, &list) != 0 ||
            strlen(list.name) != m.name.n || memcmp(list.name, m.name.p, m.name.n) != 0) {
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed REGISTER");
        return;
    }
    a = by_uid(sr, list.uid);
    if (!a && by_name(sr, m.name.p, m.name.n)) {
        say_error(sr, c, ref, RELAY_ERR_NAME_TAKEN, "the name is taken");
        return;
    }
    if (!a && sr->registration == REGISTRATION_CLOSED) {
        say_error(sr, c, ref, RELAY_ERR_REGISTRATION_CLOSED, "no registration");
        return;
    }
    if (!a && sr->registration == REGISTRATION_TOKEN &&
            (m.token.n != strlen(sr->token) || memcmp(m.token.p, sr->token, m.token.n) != 0)) {
        say_error(sr, c, ref, RELAY_ERR_TOKEN_REQUIRED, "a token is required");
        return;
    }
    for (size_t i = 0; !a && i < MAX_ACCOUNTS; i++)
        if (!sr->account[i].used)
            a = &sr->account[i];
    if (!a)
        abort();
    if (!a->used) {
        a->used = true;
        (void)snprintf(a->name, sizeof(a->name), "%s", list.name);
        memcpy(a->uid, list.uid, UID_LEN);
        memcpy(a->ak, list.ak, 32);
    }
    if (!a->entries || a->entry[a->entries - 1].n != m.entry.n ||
            memcmp(a->entry[a->entries - 1].p, m.entry.p, m.entry.n) != 0) {
        if (a->entries == MAX_ENTRIES)
            abort();
        a->entry[a->entries++] = bytes_copy(m.entry.p, m.entry.n);
    }
    a->box.who = list.device[0].address;
    memcpy(a->box.rak, list.device[0].rak, 32);
    say_empty(sr, c, RELAY_OK, ref);
}

static bool signature_ok(const struct conn *c, const struct box *x, const struct relay_auth *m)
{
    CLEANUP_BUF struct buf b = {0};
    buf_init(&b, 4096);
    relay_auth_signed(&b, m, c->nonce, c->tls ? c->exporter : NULL);
    return memcmp(m->rak, x->rak, 32) == 0 &&
            crypto_sign_verify_detached(m->signature, b.data, b.len, x->rak) == 0;
}

static size_t live(const struct simrelay *sr, const struct box *x)
{
    size_t n = 0;
    for (size_t i = x->first; i < x->n_env; i++)
        n += x->env[i].body.p && x->env[i].expires_ms > sr->now;
    return n;
}

static void welcome(struct simrelay *sr, struct conn *c, uint32_t ref)
{
    const struct box *x = &c->account->box;
    struct relay_welcome m = {.time_ms = sr->now, .one_time_left = (uint32_t)x->n_one_time,
            .signed_prekey_id = x->signed_id, .list_n = c->account->entries, .waiting = (uint32_t)live(sr, x)};
    struct buf b = message();
    relay_put_welcome(&b, ref, &m);
    say(sr, c, &b);
    c->drain_to = x->n_env;
}

static void take_auth(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct relay_auth m;
    struct account *a;
    struct conn *other;
    if (relay_get_auth(cur, &m) != WIRE_OK) {
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed AUTH");
        return;
    }
    a = by_uid(sr, m.who.uid);
    if (!a || a->box.who.device != m.who.device) {
        say_error(sr, c, ref, RELAY_ERR_UNKNOWN_ACCOUNT, "no such account");
        return;
    }
    if (m.host.n != strlen(c->host) || memcmp(m.host.p, c->host, m.host.n) != 0) {
        refuse(sr, c, ref, RELAY_ERR_WRONG_HOST, "not this host");
    } else if (m.time_ms > sr->now + CLOCK_SLACK_MS || m.time_ms + CLOCK_SLACK_MS < sr->now) {
        refuse(sr, c, ref, RELAY_ERR_CLOCK_SKEW, "your clock is wrong");
    } else if ((m.binding == BINDING_TLS_EXPORTER) != c->tls || !signature_ok(c, &a->box, &m)) {
        refuse(sr, c, ref, RELAY_ERR_AUTH_FAILED, "the signature is wrong");
    } else {
        other = conn_of(sr, a);
        if (other)
            refuse(sr, other, 0, RELAY_ERR_REPLACED, "another connection of this device");
        c->authed = true;
        c->account = a;
        welcome(sr, c, ref);
        say_presence(sr, a, true);
    }
}

static void take_unregister(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    CLEANUP_BUF struct buf b = {0};
    struct relay_unregister m;
    struct account *a = c->account;
    buf_init(&b, 4096);
    if (relay_get_unregister(cur, &m) != WIRE_OK) {
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed UNREGISTER");
        return;
    }
    relay_delete_signed(&b, c->nonce, a->uid, m.time_ms);
    if (crypto_sign_verify_detached(m.signature, b.data, b.len, a->ak) != 0) {
        say_error(sr, c, ref, RELAY_ERR_FORBIDDEN, "the signature is wrong");
        return;
    }
    say_empty(sr, c, RELAY_OK, ref);
    say_presence(sr, a, false);
    account_drop(a);
    c->authed = false;
    c->account = NULL;
    hang_up(sr, c);
}

static bool ours(const struct account *a, const struct prekey_record *k)
{
    return memcmp(k->uid, a->uid, UID_LEN) == 0 && k->device == a->box.who.device;
}

static void take_prekeys(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    static struct relay_put_prekeys m; /* 800 bytes of spans */
    struct box *x = &c->account->box;
    struct relay_prekeys left;
    struct prekey_record k;
    struct buf b;
    bool bad = relay_get_prekeys(cur, &m) != WIRE_OK;
    if (!bad && m.signed_prekey.n)
        bad = prekey_parse_signed(m.signed_prekey.p, m.signed_prekey.n, &k) != WIRE_OK || !ours(c->account, &k);
    if (!bad && m.signed_prekey.n) {
        bytes_free(&x->signed_prekey);
        x->signed_prekey = bytes_copy(m.signed_prekey.p, m.signed_prekey.n);
        x->signed_id = k.id;
    }
    if (!bad && m.replace)
        while (x->n_one_time)
            bytes_free(&x->one_time[--x->n_one_time]);
    for (uint16_t i = 0; !bad && i < m.count; i++) {
        bad = prekey_parse_one_time(m.one_time[i].p, m.one_time[i].n, &k) != WIRE_OK || !ours(c->account, &k);
        if (!bad && x->n_one_time < MAX_ONE_TIME)
            x->one_time[x->n_one_time++] = bytes_copy(m.one_time[i].p, m.one_time[i].n);
    }
    if (bad) {
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed PUT_PREKEYS");
        return;
    }
    left = (struct relay_prekeys){.one_time_left = (uint32_t)x->n_one_time, .signed_prekey_id = x->signed_id};
    b = message();
    relay_put_prekeys_left(&b, ref, &left);
    say(sr, c, &b);
}

static void take_lookup(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct relay_account answer = {0};
    struct relay_lookup m;
    struct account *a;
    struct buf b = message();
    if (relay_get_lookup(cur, &m) != WIRE_OK) {
        buf_done(&b);
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed LOOKUP");
        return;
    }
    a = m.by == LOOKUP_BY_NAME ? by_name(sr, m.key.p, m.key.n) : by_uid(sr, m.key.p);
    if (a) {
        answer.found = true;
        answer.name = (struct span){.p = (const uint8_t *)a->name, .n = strlen(a->name)};
        memcpy(answer.uid, a->uid, UID_LEN);
        for (size_t i = 0; i < a->entries; i++)
            answer.entry[answer.entries++] = (struct span){.p = a->entry[i].p, .n = a->entry[i].n};
    }
    if (sr->liar.account)
        sr->liar.account(sr->liar.ctx, &answer);
    relay_put_account(&b, ref, &answer);
    say(sr, c, &b);
}

static void take_claim(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct relay_bundle answer = {0};
    struct bytes one_time = {0};
    struct address who;
    struct box *x;
    struct buf b = message();
    if (relay_get_claim(cur, &who) != WIRE_OK) {
        buf_done(&b);
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed CLAIM");
        return;
    }
    sr->claims++;
    x = box_of(sr, &who);
    if (x && x->signed_prekey.n) {
        answer.found = true;
        answer.signed_prekey = (struct span){.p = x->signed_prekey.p, .n = x->signed_prekey.n};
        if (x->n_one_time && !sr->lies.strip_one_time) {
            one_time = x->one_time[0];
            x->n_one_time--;
            memmove(x->one_time, x->one_time + 1, x->n_one_time * sizeof(x->one_time[0]));
            answer.one_time = (struct span){.p = one_time.p, .n = one_time.n};
        }
    }
    if (sr->liar.bundle)
        sr->liar.bundle(sr->liar.ctx, &who, &answer);
    relay_put_bundle(&b, ref, &answer);
    say(sr, c, &b);
    bytes_free(&one_time);
    struct conn *owner = x ? conn_of(sr, by_uid(sr, who.uid)) : NULL;
    if (owner && x->n_one_time < 50) {
        struct relay_prekeys left = {.one_time_left = (uint32_t)x->n_one_time, .signed_prekey_id = x->signed_id};
        b = message();
        relay_put_prekeys_left(&b, 0, &left);
        say(sr, owner, &b);
    }
}

static int name_order(const void *a, const void *b)
{
    return strcmp((*(struct account *const *)a)->name, (*(struct account *const *)b)->name);
}

static void take_list_users(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct account *sorted[MAX_ACCOUNTS];
    struct relay_list_users m;
    char after[RELAY_MAX_NAME + 1];
    size_t n = 0, k = 0;
    struct buf b = message();
    if (relay_get_list_users(cur, &m) != WIRE_OK) {
        buf_done(&b);
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed LIST_USERS");
        return;
    }
    (void)snprintf(after, sizeof(after), "%.*s", (int)m.after.n, m.after.n ? (const char *)m.after.p : "");
    for (size_t i = 0; i < MAX_ACCOUNTS; i++)
        if (sr->account[i].used && strcmp(sr->account[i].name, after) > 0)
            sorted[n++] = &sr->account[i];
    qsort(sorted, n, sizeof(sorted[0]), name_order);
    relay_begin_users(&b, ref, n > m.limit);
    for (; k < n && k < m.limit; k++) {
        struct relay_user u = {.name = {.p = (const uint8_t *)sorted[k]->name, .n = strlen(sorted[k]->name)}};
        memcpy(u.uid, sorted[k]->uid, UID_LEN);
        relay_add_user(&b, &u);
    }
    say(sr, c, &b);
}

/* --- mail --- */

static struct envelope *envelope_find(const struct box *x, const struct envelope_id *id)
{
    for (size_t i = x->n_env; i-- > 0;)
        if (memcmp(x->env[i].id.b, id->b, ENVELOPE_ID_LEN) == 0)
            return &x->env[i];
    return NULL;
}

static void keep_history(struct box *x, struct span body)
{
    if (x->n_history == x->cap_history) {
        x->cap_history = x->cap_history ? x->cap_history * 2 : 16;
        x->history = must(realloc(x->history, x->cap_history * sizeof(x->history[0])));
    }
    x->history[x->n_history++] = bytes_copy(body.p, body.n);
}

static void store(struct simrelay *sr, struct box *x, const struct relay_submit_item *m)
{
    struct envelope *e;
    if (x->n_env == x->cap_env) {
        x->cap_env = x->cap_env ? x->cap_env * 2 : 16;
        x->env = must(realloc(x->env, x->cap_env * sizeof(x->env[0])));
    }
    e = &x->env[x->n_env++];
    *e = (struct envelope){.id = m->id, .time_ms = sr->now, .expires_ms = m->expires_ms,
            .body = bytes_copy(m->body.p, m->body.n), .ephemeral = m->flags & RELAY_SUBMIT_EPHEMERAL};
    if (chance(sr, sr->lies.reorder) && x->n_env > x->first + 1 && !e[-1].delivered_on && e[-1].body.p) {
        struct envelope t = e[-1];
        e[-1] = e[0];
        e[0] = t;
    }
}

void simrelay_inject(struct simrelay *sr, const struct address *to, const void *body, size_t n)
{
    struct relay_submit_item m = {.to = *to, .expires_ms = sr->now + DAY_MS, .body = {.p = body, .n = n}};
    struct box *x = box_of(sr, to);
    if (!x)
        return;
    rng_fill(&sr->rng, m.id.b, ENVELOPE_ID_LEN);
    store(sr, x, &m);
}

static void mischief(struct simrelay *sr, struct conn *c, struct box *x, const struct relay_submit_item *m)
{
    uint32_t i;
    if (chance(sr, sr->lies.duplicate))
        simrelay_inject(sr, &m->to, m->body.p, m->body.n);
    if (chance(sr, sr->lies.reflect))
        simrelay_inject(sr, &c->account->box.who, m->body.p, m->body.n);
    if (chance(sr, sr->lies.replay)) {
        rng_fill(&sr->rng, &i, sizeof(i));
        const struct bytes old = x->history[i % x->n_history];
        simrelay_inject(sr, &m->to, old.p, old.n);
    }
}

static uint8_t submit_one(struct simrelay *sr, struct conn *c, const struct relay_submit_item *m)
{
    struct box *x = box_of(sr, &m->to);
    if (!x)
        return SUBMIT_NO_DEVICE;
    if (envelope_find(x, &m->id))
        return SUBMIT_DUPLICATE;
    if (m->expires_ms <= sr->now)
        return SUBMIT_EXPIRED;
    if (m->body.n > RELAY_MAX_BODY)
        return SUBMIT_TOO_LARGE;
    if ((m->flags & RELAY_SUBMIT_EPHEMERAL) && !conn_of(sr, by_uid(sr, m->to.uid)))
        return SUBMIT_NOT_CONNECTED;
    if (live(sr, x) >= SIMRELAY_MAILBOX)
        return SUBMIT_FULL;
    if (chance(sr, sr->lies.retry))
        return SUBMIT_RETRY;
    keep_history(x, m->body);
    if (sr->liar.submit && !sr->liar.submit(sr->liar.ctx, &c->account->box.who, m))
        return SUBMIT_STORED;
    if (chance(sr, sr->lies.forget))
        return SUBMIT_STORED;
    store(sr, x, m);
    mischief(sr, c, x, m);
    return SUBMIT_STORED;
}

static void take_submit(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct buf b = message();
    uint16_t n;
    if (relay_read_count(cur, 1, RELAY_MAX_BATCH, &n) != WIRE_OK)
        n = 0;
    relay_begin(&b, RELAY_SUBMITTED, ref);
    while (n--) {
        struct relay_submit_item m;
        struct relay_submitted_item r;
        if (relay_next_submit(cur, &m) != WIRE_OK)
            break;
        r = (struct relay_submitted_item){.id = m.id, .status = submit_one(sr, c, &m)};
        relay_add_submitted(&b, &r);
    }
    if (cursor_end(cur) != WIRE_OK || !relay_batch_count(&b)) {
        buf_done(&b);
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed SUBMIT");
        return;
    }
    say(sr, c, &b);
}

static void drained(struct simrelay *sr, struct conn *c)
{
    const struct box *x = &c->account->box;
    if (c->drained)
        return;
    for (size_t i = x->first; i < c->drain_to; i++)
        if (x->env[i].body.p && x->env[i].expires_ms > sr->now)
            return;
    c->drained = true;
    say_empty(sr, c, RELAY_DRAINED, 0);
}

static void take_ack(struct simrelay *sr, struct conn *c, struct cursor *cur)
{
    struct box *x = &c->account->box;
    uint16_t n;
    if (relay_read_count(cur, 1, RELAY_MAX_BATCH, &n) != WIRE_OK)
        n = 0;
    while (n--) {
        struct envelope_id id;
        struct envelope *e;
        if (relay_next_ack(cur, &id) != WIRE_OK)
            break;
        e = envelope_find(x, &id);
        if (!e || !e->body.p)
            continue;
        if (e->delivered_on == c->serial) {
            c->unacked--;
            c->unacked_bytes -= e->body.n;
        }
        bytes_free(&e->body);
        e->acked = true;
    }
    if (cursor_end(cur) != WIRE_OK)
        refuse(sr, c, 0, RELAY_ERR_BAD_MESSAGE, "malformed ACK");
}

static void take_query(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct buf b = message();
    uint16_t n;
    if (relay_read_count(cur, 1, RELAY_MAX_BATCH, &n) != WIRE_OK)
        n = 0;
    relay_begin(&b, RELAY_STATES, ref);
    while (n--) {
        struct relay_query_item q;
        struct relay_state_item s = {.state = ENVELOPE_UNKNOWN};
        const struct box *x;
        const struct envelope *e;
        if (relay_next_query(cur, &q) != WIRE_OK)
            break;
        s.id = q.id;
        x = box_of(sr, &q.to);
        e = x ? envelope_find(x, &q.id) : NULL;
        if (e && e->acked)
            s.state = sr->lies.forget_acks ? ENVELOPE_UNKNOWN : ENVELOPE_ACKNOWLEDGED;
        else if (e && e->body.p && e->expires_ms > sr->now)
            s.state = ENVELOPE_WAITING;
        relay_add_state(&b, &s);
    }
    if (cursor_end(cur) != WIRE_OK || !relay_batch_count(&b)) {
        buf_done(&b);
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed QUERY");
        return;
    }
    say(sr, c, &b);
}

static void take_watch(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct buf b = message();
    uint16_t n;
    if (relay_read_count(cur, 0, RELAY_MAX_WATCH, &n) != WIRE_OK)
        n = 0;
    relay_begin(&b, RELAY_PRESENCE, ref);
    while (n--) {
        struct relay_presence_item item = {0};
        if (relay_next_watch(cur, &item.who) != WIRE_OK)
            break;
        item.connected = box_of(sr, &item.who) && conn_of(sr, by_uid(sr, item.who.uid));
        relay_add_presence(&b, &item);
        if (c->n_watch < RELAY_MAX_WATCH)
            c->watch[c->n_watch++] = item.who;
    }
    say(sr, c, &b);
}

static bool deliver_batch(struct simrelay *sr, struct conn *c)
{
    struct box *x = &c->account->box;
    struct buf b = message();
    size_t bytes = 0;
    relay_begin(&b, RELAY_DELIVER, 0);
    while (x->first < x->n_env && !x->env[x->first].body.p)
        x->first++;
    for (size_t i = x->first; i < x->n_env && c->unacked < RELAY_WINDOW && bytes < BATCH_BYTES; i++) {
        struct envelope *e = &x->env[i];
        struct relay_deliver_item item;
        CLEANUP_FREE uint8_t *changed = NULL;
        if (!e->body.p || e->delivered_on == c->serial)
            continue;
        if (e->expires_ms <= sr->now) {
            bytes_free(&e->body);
            continue;
        }
        if ((c->unacked && c->unacked_bytes + e->body.n > RELAY_WINDOW_BYTES) ||
                relay_batch_len(&b) + e->body.n + 64 > RELAY_MAX_MESSAGE)
            break;
        e->delivered_on = c->serial;
        c->unacked++;
        c->unacked_bytes += e->body.n;
        bytes += e->body.n;
        item = (struct relay_deliver_item){.id = e->id, .time_ms = e->time_ms, .body = {.p = e->body.p, .n = e->body.n}};
        if (chance(sr, sr->lies.corrupt)) {
            uint32_t bit;
            rng_fill(&sr->rng, &bit, sizeof(bit));
            changed = bytes_copy(e->body.p, e->body.n).p;
            changed[bit / 8 % e->body.n] ^= (uint8_t)(1u << bit % 8);
            item.body.p = changed;
        }
        relay_add_deliver(&b, &item);
    }
    if (!relay_batch_count(&b)) {
        buf_done(&b);
        return false;
    }
    say(sr, c, &b);
    return true;
}

void simrelay_pump(struct simrelay *sr)
{
    for (size_t i = 0; i < SIMRELAY_MAX_CONNS; i++) {
        struct conn *c = &sr->conn[i];
        if (!c->open || !c->authed || !c->account)
            continue;
        while (!sr->lies.silent_deliver && deliver_batch(sr, c))
            ;
        drained(sr, c);
    }
}

/* --- hearing --- */

static void online_message(struct simrelay *sr, struct conn *c, uint8_t type, uint32_t ref, struct cursor *cur)
{
    bool question = type == RELAY_LOOKUP || type == RELAY_CLAIM || type == RELAY_LIST_USERS;
    if (question && chance(sr, sr->lies.busy)) {
        say_error(sr, c, ref, RELAY_ERR_BUSY, "busy");
        return;
    }
    switch (type) {
    case RELAY_PUT_PREKEYS:
        take_prekeys(sr, c, ref, cur);
        break;
    case RELAY_LOOKUP:
        take_lookup(sr, c, ref, cur);
        break;
    case RELAY_CLAIM:
        take_claim(sr, c, ref, cur);
        break;
    case RELAY_SUBMIT:
        take_submit(sr, c, ref, cur);
        break;
    case RELAY_ACK:
        take_ack(sr, c, cur);
        break;
    case RELAY_QUERY:
        take_query(sr, c, ref, cur);
        break;
    case RELAY_LIST_USERS:
        take_list_users(sr, c, ref, cur);
        break;
    case RELAY_WATCH:
        take_watch(sr, c, ref, cur);
        break;
    case RELAY_UNREGISTER:
        take_unregister(sr, c, ref, cur);
        break;
    default:
        refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "unknown message");
    }
}

void simrelay_receive(struct simrelay *sr, int conn, const void *p, size_t n)
{
    struct conn *c = &sr->conn[conn];
    struct cursor cur;
    uint32_t ref;
    uint8_t type;
    if (!c->open)
        return;
    cursor_init(&cur, p, n);
    if (relay_read_head(&cur, &type, &ref) != WIRE_OK)
        refuse(sr, c, 0, RELAY_ERR_BAD_MESSAGE, "no message");
    else if (type == RELAY_REGISTER)
        take_register(sr, c, ref, &cur);
    else if (type == RELAY_AUTH && !c->authed)
        take_auth(sr, c, ref, &cur);
    else if (!c->authed)
        refuse(sr, c, ref, RELAY_ERR_FORBIDDEN, "authenticate first");
    else
        online_message(sr, c, type, ref, &cur);
}

/* --- from above --- */

void simrelay_lose_disk(struct simrelay *sr)
{
    for (size_t i = 0; i < SIMRELAY_MAX_CONNS; i++)
        hang_up(sr, &sr->conn[i]);
    for (size_t i = 0; i < MAX_ACCOUNTS; i++)
        account_drop(&sr->account[i]);
    rng_fill(&sr->rng, sr->store_id, sizeof(sr->store_id));
}

void simrelay_lose_mail(struct simrelay *sr)
{
    for (size_t i = 0; i < SIMRELAY_MAX_CONNS; i++)
        hang_up(sr, &sr->conn[i]);
    for (size_t i = 0; i < MAX_ACCOUNTS; i++) {
        struct box *x = &sr->account[i].box;
        for (size_t k = 0; k < x->n_env; k++)
            bytes_free(&x->env[k].body);
        x->n_env = x->first = 0;
    }
}

void simrelay_drain_prekeys(struct simrelay *sr, const uint8_t uid[UID_LEN])
{
    struct account *a = by_uid(sr, uid);
    while (a && a->box.n_one_time)
        bytes_free(&a->box.one_time[--a->box.n_one_time]);
}

void simrelay_rename(struct simrelay *sr, const uint8_t uid[UID_LEN], const char *name)
{
    struct account *a = by_uid(sr, uid);
    if (a)
        (void)snprintf(a->name, sizeof(a->name), "%s", name);
}

struct bytes simrelay_history(const struct simrelay *sr, const struct address *to, size_t i)
{
    const struct box *x = box_of(sr, to);
    return x && i < x->n_history ? x->history[i] : (struct bytes){0};
}

size_t simrelay_waiting(const struct simrelay *sr, const struct address *to)
{
    const struct box *x = box_of(sr, to);
    return x ? live(sr, x) : 0;
}

size_t simrelay_one_time_left(const struct simrelay *sr, const uint8_t uid[UID_LEN])
{
    const struct account *a = by_uid(sr, uid);
    return a ? a->box.n_one_time : 0;
}

uint64_t simrelay_claims(const struct simrelay *sr)
{
    return sr->claims;
}

bool simrelay_find(const struct simrelay *sr, const char *name, uint8_t ret_uid[UID_LEN])
{
    const struct account *a = by_name(sr, name, strlen(name));
    if (a)
        memcpy(ret_uid, a->uid, UID_LEN);
    return a != NULL;
}

bool simrelay_authed(const struct simrelay *sr, int conn)
{
    return sr->conn[conn].open && sr->conn[conn].authed;
}
