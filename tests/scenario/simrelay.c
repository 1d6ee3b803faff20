#include "simrelay_impl.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

void *sr_must(void *p)
{
    if (!p)
        abort();
    return p;
}

struct bytes bytes_copy(const void *p, size_t n)
{
    struct bytes b = {.p = sr_must(malloc(n ? n : 1)), .n = n};
    if (n)
        memcpy(b.p, p, n);
    return b;
}

void bytes_free(struct bytes *b)
{
    free(b->p);
    *b = (struct bytes){0};
}

bool sr_chance(struct simrelay *sr, unsigned per_mille)
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
    struct simrelay *sr = sr_must(calloc(1, sizeof(*sr)));
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
    struct envelope *env = sr_must(calloc(x->cap_env + 1, sizeof(*env)));
    struct bytes *history = sr_must(calloc(x->cap_history + 1, sizeof(*history)));
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

struct simrelay *simrelay_copy(
        const struct simrelay *from, const struct rng *rng, const struct simrelay_hooks *hooks)
{
    struct simrelay *sr = sr_must(malloc(sizeof(*sr)));
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

struct account *sr_by_uid(const struct simrelay *sr, const uint8_t *uid)
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

struct box *sr_box_of(const struct simrelay *sr, const struct address *who)
{
    struct account *a = sr_by_uid(sr, who->uid);
    return a && a->box.who.device == who->device ? &a->box : NULL;
}

struct conn *sr_conn_of(struct simrelay *sr, const struct account *a)
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

void sr_say(struct simrelay *sr, struct conn *c, struct buf *b)
{
    if (buf_status(b) < 0)
        abort();
    simrelay_say(sr, (int)(c - sr->conn), b->data, b->len);
    buf_done(b);
}

struct buf sr_message(void)
{
    struct buf b;
    buf_init(&b, RELAY_MAX_MESSAGE);
    return b;
}

static void say_error(struct simrelay *sr, struct conn *c, uint32_t ref, uint16_t code, const char *text)
{
    struct buf b = sr_message();
    relay_put_error(&b, ref, code, 0, text);
    sr_say(sr, c, &b);
}

void sr_say_empty(struct simrelay *sr, struct conn *c, enum relay_type type, uint32_t ref)
{
    struct buf b = sr_message();
    relay_put_empty(&b, type, ref);
    sr_say(sr, c, &b);
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
            b = sr_message();
            relay_begin(&b, RELAY_PRESENCE, 0);
            relay_add_presence(&b, &item);
            sr_say(sr, c, &b);
        }
    }
}

int simrelay_connect(struct simrelay *sr, const struct link_connected *up)
{
    struct relay_challenge m = {.version = RELAY_VERSION,
            .time_ms = sr->now,
            .max_message = RELAY_MAX_MESSAGE,
            .max_body = RELAY_MAX_BODY,
            .window = RELAY_WINDOW,
            .registration = (uint8_t)sr->registration};
    struct buf b = sr_message();
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
    sr_say(sr, c, &b);
    return i;
}

void simrelay_disconnect(struct simrelay *sr, int conn)
{
    struct conn *c = &sr->conn[conn];
    bool authed = c->open && c->authed;
    c->open = false;
    if (authed && c->account && !sr_conn_of(sr, c->account))
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

void sr_refuse(struct simrelay *sr, struct conn *c, uint32_t ref, uint16_t code, const char *text)
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
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed REGISTER");
        return;
    }
    a = sr_by_uid(sr, list.uid);
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
    sr_say_empty(sr, c, RELAY_OK, ref);
}

static bool signature_ok(const struct conn *c, const struct box *x, const struct relay_auth *m)
{
    CLEANUP_BUF struct buf b = {0};
    buf_init(&b, 4096);
    relay_auth_signed(&b, m, c->nonce, c->tls ? c->exporter : NULL);
    return memcmp(m->rak, x->rak, 32) == 0 &&
           crypto_sign_verify_detached(m->signature, b.data, b.len, x->rak) == 0;
}

size_t sr_live(const struct simrelay *sr, const struct box *x)
{
    size_t n = 0;
    for (size_t i = x->first; i < x->n_env; i++)
        n += x->env[i].body.p && x->env[i].expires_ms > sr->now;
    return n;
}

static void welcome(struct simrelay *sr, struct conn *c, uint32_t ref)
{
    const struct box *x = &c->account->box;
    struct relay_welcome m = {.time_ms = sr->now,
            .one_time_left = (uint32_t)x->n_one_time,
            .signed_prekey_id = x->signed_id,
            .list_n = c->account->entries,
            .waiting = (uint32_t)sr_live(sr, x)};
    struct buf b = sr_message();
    relay_put_welcome(&b, ref, &m);
    sr_say(sr, c, &b);
    c->drain_to = x->n_env;
}

static void take_auth(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct relay_auth m;
    struct account *a;
    struct conn *other;
    if (relay_get_auth(cur, &m) != WIRE_OK) {
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed AUTH");
        return;
    }
    a = sr_by_uid(sr, m.who.uid);
    if (!a || a->box.who.device != m.who.device) {
        say_error(sr, c, ref, RELAY_ERR_UNKNOWN_ACCOUNT, "no such account");
        return;
    }
    if (m.host.n != strlen(c->host) || memcmp(m.host.p, c->host, m.host.n) != 0) {
        sr_refuse(sr, c, ref, RELAY_ERR_WRONG_HOST, "not this host");
    } else if (m.time_ms > sr->now + CLOCK_SLACK_MS || m.time_ms + CLOCK_SLACK_MS < sr->now) {
        sr_refuse(sr, c, ref, RELAY_ERR_CLOCK_SKEW, "your clock is wrong");
    } else if ((m.binding == BINDING_TLS_EXPORTER) != c->tls || !signature_ok(c, &a->box, &m)) {
        sr_refuse(sr, c, ref, RELAY_ERR_AUTH_FAILED, "the signature is wrong");
    } else {
        other = sr_conn_of(sr, a);
        if (other)
            sr_refuse(sr, other, 0, RELAY_ERR_REPLACED, "another connection of this device");
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
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed UNREGISTER");
        return;
    }
    relay_delete_signed(&b, c->nonce, a->uid, m.time_ms);
    if (crypto_sign_verify_detached(m.signature, b.data, b.len, a->ak) != 0) {
        say_error(sr, c, ref, RELAY_ERR_FORBIDDEN, "the signature is wrong");
        return;
    }
    sr_say_empty(sr, c, RELAY_OK, ref);
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
        bad = prekey_parse_signed(m.signed_prekey.p, m.signed_prekey.n, &k) != WIRE_OK ||
              !ours(c->account, &k);
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
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed PUT_PREKEYS");
        return;
    }
    left = (struct relay_prekeys){.one_time_left = (uint32_t)x->n_one_time, .signed_prekey_id = x->signed_id};
    b = sr_message();
    relay_put_prekeys_left(&b, ref, &left);
    sr_say(sr, c, &b);
}

static void take_lookup(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct relay_account answer = {0};
    struct relay_lookup m;
    struct account *a;
    struct buf b = sr_message();
    if (relay_get_lookup(cur, &m) != WIRE_OK) {
        buf_done(&b);
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed LOOKUP");
        return;
    }
    a = m.by == LOOKUP_BY_NAME ? by_name(sr, m.key.p, m.key.n) : sr_by_uid(sr, m.key.p);
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
    sr_say(sr, c, &b);
}

static void take_claim(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur)
{
    struct relay_bundle answer = {0};
    struct bytes one_time = {0};
    struct address who;
    struct box *x;
    struct buf b = sr_message();
    if (relay_get_claim(cur, &who) != WIRE_OK) {
        buf_done(&b);
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed CLAIM");
        return;
    }
    sr->claims++;
    x = sr_box_of(sr, &who);
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
    sr_say(sr, c, &b);
    bytes_free(&one_time);
    struct conn *owner = x ? sr_conn_of(sr, sr_by_uid(sr, who.uid)) : NULL;
    if (owner && x->n_one_time < 50) {
        struct relay_prekeys left = {
                .one_time_left = (uint32_t)x->n_one_time, .signed_prekey_id = x->signed_id};
        b = sr_message();
        relay_put_prekeys_left(&b, 0, &left);
        sr_say(sr, owner, &b);
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
    struct buf b = sr_message();
    if (relay_get_list_users(cur, &m) != WIRE_OK) {
        buf_done(&b);
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "malformed LIST_USERS");
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
    sr_say(sr, c, &b);
}

/* --- hearing --- */

static void online_message(
        struct simrelay *sr, struct conn *c, uint8_t type, uint32_t ref, struct cursor *cur)
{
    bool question = type == RELAY_LOOKUP || type == RELAY_CLAIM || type == RELAY_LIST_USERS;
    if (question && sr_chance(sr, sr->lies.busy)) {
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
        sr_take_submit(sr, c, ref, cur);
        break;
    case RELAY_ACK:
        sr_take_ack(sr, c, cur);
        break;
    case RELAY_QUERY:
        sr_take_query(sr, c, ref, cur);
        break;
    case RELAY_LIST_USERS:
        take_list_users(sr, c, ref, cur);
        break;
    case RELAY_WATCH:
        sr_take_watch(sr, c, ref, cur);
        break;
    case RELAY_UNREGISTER:
        take_unregister(sr, c, ref, cur);
        break;
    default:
        sr_refuse(sr, c, ref, RELAY_ERR_BAD_MESSAGE, "unknown message");
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
        sr_refuse(sr, c, 0, RELAY_ERR_BAD_MESSAGE, "no message");
    else if (type == RELAY_REGISTER)
        take_register(sr, c, ref, &cur);
    else if (type == RELAY_AUTH && !c->authed)
        take_auth(sr, c, ref, &cur);
    else if (!c->authed)
        sr_refuse(sr, c, ref, RELAY_ERR_FORBIDDEN, "authenticate first");
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
    struct account *a = sr_by_uid(sr, uid);
    while (a && a->box.n_one_time)
        bytes_free(&a->box.one_time[--a->box.n_one_time]);
}

void simrelay_rename(struct simrelay *sr, const uint8_t uid[UID_LEN], const char *name)
{
    struct account *a = sr_by_uid(sr, uid);
    if (a)
        (void)snprintf(a->name, sizeof(a->name), "%s", name);
}

struct bytes simrelay_history(const struct simrelay *sr, const struct address *to, size_t i)
{
    const struct box *x = sr_box_of(sr, to);
    return x && i < x->n_history ? x->history[i] : (struct bytes){0};
}

size_t simrelay_waiting(const struct simrelay *sr, const struct address *to)
{
    const struct box *x = sr_box_of(sr, to);
    return x ? sr_live(sr, x) : 0;
}

size_t simrelay_one_time_left(const struct simrelay *sr, const uint8_t uid[UID_LEN])
{
    const struct account *a = sr_by_uid(sr, uid);
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
