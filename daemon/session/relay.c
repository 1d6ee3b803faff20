/* Requests to the relay and their answers; calls that wait for one. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define REQUEST_TIMEOUT_MS (30 * SECOND_MS)
#define NAME_CHECK_MS HOUR_MS

uint32_t relay_next_ref(struct engine *e)
{
    if (++e->next_ref == 0)
        e->next_ref = 1;
    return e->next_ref;
}

/* 0, or 1 where too many wait already. */
int relay_request(struct engine *e, const struct request *rq, struct buf *message)
{
    int r = buf_status(message);
    if (r < 0)
        return r;
    if (e->n_requests == MAX_REQUESTS)
        return 1;
    e->requests[e->n_requests] = *rq;
    e->requests[e->n_requests++].deadline_ms = e->now + REQUEST_TIMEOUT_MS;
    return effect_push(e, EFFECT_SEND, message->data, message->len);
}

static struct request *request_find(struct engine *e, uint32_t ref)
{
    for (size_t i = 0; ref && i < e->n_requests; i++)
        if (e->requests[i].ref == ref)
            return &e->requests[i];
    return NULL;
}

static bool request_take(struct engine *e, uint32_t ref, struct request *ret)
{
    struct request *rq = request_find(e, ref);
    if (!rq)
        return false;
    *ret = *rq;
    *rq = e->requests[--e->n_requests];
    return true;
}

/* --- asking --- */

static bool lookup_pending(const struct engine *e, const struct request *like)
{
    for (size_t i = 0; i < e->n_requests; i++) {
        const struct request *q = &e->requests[i];
        if (q->kind == REQ_LOOKUP && q->stranger == like->stranger && strcmp(q->name, like->name) == 0 &&
                memcmp(q->who.uid, like->who.uid, UID_LEN) == 0)
            return true;
    }
    return false;
}

static int lookup(struct engine *e, struct request *rq)
{
    CLEANUP_BUF struct buf b = {0};
    struct relay_lookup m = {.by = rq->name[0] ? LOOKUP_BY_NAME : LOOKUP_BY_UID};
    int r;
    if (e->conn != CONN_ONLINE || lookup_pending(e, rq))
        return 0;
    m.key = rq->name[0] ? (struct span){.p = (const uint8_t *)rq->name, .n = strlen(rq->name)}
                        : (struct span){.p = rq->who.uid, .n = UID_LEN};
    rq->kind = REQ_LOOKUP;
    rq->ref = relay_next_ref(e);
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_lookup(&b, rq->ref, &m);
    r = relay_request(e, rq, &b);
    return r < 0 ? r : 0;
}

int relay_lookup_name(struct engine *e, const char *name)
{
    struct request rq = {0};
    memcpy(rq.name, name, strnlen(name, RELAY_MAX_NAME));
    return lookup(e, &rq);
}

int relay_lookup_stranger(struct engine *e, const uint8_t uid[UID_LEN], const char *name)
{
    struct request rq = {.stranger = true};
    memcpy(rq.who.uid, uid, UID_LEN);
    memcpy(rq.name, name, strnlen(name, RELAY_MAX_NAME));
    return lookup(e, &rq);
}

int relay_lookup_uid(struct engine *e, const uint8_t uid[UID_LEN])
{
    struct request rq = {0};
    memcpy(rq.who.uid, uid, UID_LEN);
    return lookup(e, &rq);
}

int relay_claim(struct engine *e, struct peer *p)
{
    CLEANUP_BUF struct buf b = {0};
    struct request rq = {.kind = REQ_CLAIM, .who = p->address};
    int r = 0;
    if (e->conn != CONN_ONLINE || p->claiming || p->claim_not_before_ms > e->now)
        return 0;
    /* A new session is the moment to see whether the name is still theirs. */
    if (p->contact->name[0] && elapsed(e->now, p->contact->checked_ms) > NAME_CHECK_MS)
        r = relay_lookup_name(e, p->contact->name);
    if (r < 0)
        return r;
    rq.ref = relay_next_ref(e);
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_claim(&b, rq.ref, &p->address);
    r = relay_request(e, &rq, &b);
    p->claiming = r == 0;
    return r < 0 ? r : 0;
}

int relay_users_call(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b = {0};
    struct request rq = {.kind = REQ_USERS, .ticket = ticket};
    struct relay_list_users m = {.after = param_bytes(params, "after"),
            .limit = (uint16_t)param_uint(params, "limit", RELAY_MAX_USERS)};
    int r;
    if (e->conn != CONN_ONLINE)
        return answer_fail(e, ticket, API_NOT_CONNECTED, 1000, "users: not connected to the relay");
    if (m.limit == 0 || m.limit > RELAY_MAX_USERS)
        m.limit = RELAY_MAX_USERS;
    rq.ref = relay_next_ref(e);
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_list_users(&b, rq.ref, &m);
    r = relay_request(e, &rq, &b);
    return r > 0 ? answer_fail(
                           e, ticket, API_QUEUE_FULL, 1000, "users: too many questions to the relay are open")
                 : r;
}

/* --- calls that wait for the directory --- */

static int deferred_ask(struct engine *e, const char *user)
{
    uint8_t uid[UID_LEN];
    return uid_from_text(user, uid) == WIRE_OK ? relay_lookup_uid(e, uid) : relay_lookup_name(e, user);
}

static bool is_self(const struct engine *e, const char *user)
{
    char uid[UID_TEXT_LEN + 1];
    uid_to_text(identity_address(e->id)->uid, uid);
    return strcmp(user, identity_name(e->id)) == 0 || strcmp(user, uid) == 0;
}

int relay_defer(struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params,
        const char *user)
{
    uint8_t uid[UID_LEN];
    struct deferred *d;
    if (e->looked_up)
        return answer_fail(e, ticket, API_UNKNOWN_USER, 0, "%s: the relay's answer about '%.64s' was refused",
                method, user);
    if (is_self(e, user))
        return answer_fail(
                e, ticket, API_INVALID_PARAMS, 0, "%s: '%.64s' is this account itself", method, user);
    if (uid_from_text(user, uid) != WIRE_OK && !user_name_ok(user, strlen(user)))
        return answer_fail(e, ticket, API_INVALID_NAME, 0,
                "%s: '%.64s' is no user name (1 to 64 of a-z 0-9 . _ -, the first a letter or digit) and no "
                "uid",
                method, user);
    if (e->n_deferred >= ENGINE_MAX_LOOKUPS)
        return answer_fail(e, ticket, API_QUEUE_FULL, 1000, "%s: too many look-ups are under way", method);
    d = malloc(sizeof(*d) + params->raw_len);
    if (!d)
        return -ENOMEM;
    *d = (struct deferred){.ticket = ticket,
            .deadline_ms = e->now + ENGINE_CALL_TIMEOUT_MS,
            .method = method,
            .n = params->raw_len};
    (void)snprintf(d->name, sizeof(d->name), "%s", user);
    memcpy(d->params, params->raw, params->raw_len);
    TAILQ_INSERT_TAIL(&e->deferred, d, list);
    e->n_deferred++;
    return deferred_ask(e, user);
}

static int deferred_end(
        struct engine *e, struct deferred *d, enum api_error error, uint32_t retry_after_ms, const char *text)
{
    struct mp_value params;
    int r;
    TAILQ_REMOVE(&e->deferred, d, list);
    e->n_deferred--;
    if (error == API_OK) {
        mp_view(d->params, d->n, &params);
        e->looked_up = true;
        r = engine_dispatch(e, d->ticket, d->method, &params);
        e->looked_up = false;
    } else {
        r = answer_fail(e, d->ticket, error, retry_after_ms, "%s: %s", d->method, text);
    }
    sodium_memzero(d->params, d->n);
    free(d);
    return r;
}

/* Ends the calls that wait for user: made again (API_OK), or failed. Only those that wait now; they may wait
 * again. */
int relay_undefer(
        struct engine *e, const char *user, enum api_error error, uint32_t retry_after_ms, const char *text)
{
    size_t n = e->n_deferred;
    struct deferred *d = TAILQ_FIRST(&e->deferred), *next;
    int r = 0;
    for (; r == 0 && d && n--; d = next) {
        next = TAILQ_NEXT(d, list);
        if (strcmp(d->name, user) == 0)
            r = deferred_end(e, d, error, retry_after_ms, text);
    }
    return r;
}

int relay_online(struct engine *e)
{
    struct deferred *d;
    int r = 0;
    TAILQ_FOREACH(d, &e->deferred, list)
    if (r == 0)
        r = deferred_ask(e, d->name);
    e->held_asked_ms = 0;
    return r == 0 ? held_ask(e) : r;
}

/* --- answers --- */

static int stranger_known(struct engine *e, const struct request *rq, bool existed)
{
    struct contact *c = contact_find(e, rq->who.uid);
    struct contact *pinned;
    int r;
    if (!c) {
        r = contact_resolve(e, rq->name, &pinned);
        if (r == 0 && pinned->changed && memcmp(pinned->new_uid, rq->who.uid, UID_LEN) == 0)
            return 0; /* held until a person accepts the changed key */
        r = event_error(e, "STRANGER_UNKNOWN", NULL,
                "a message came from an account that the relay's directory does not show; it was dropped");
        return r < 0 ? r : held_drop(e, rq->who.uid);
    }
    if (!existed && e->cfg.strangers == STRANGERS_HOLD) {
        c->held = true;
        r = contact_store(e, c);
        return r < 0 ? r
                     : event_error(e, "STRANGER_HELD", c,
                               "a message of somebody new is held; contact.trust or contact.add lets it in");
    }
    return c->held ? 0 : held_release(e, c->uid);
}

static int learn(struct engine *e, const struct request *rq, const struct relay_account *a)
{
    struct device_list *list = malloc(sizeof(*list));
    const struct contact *known = contact_find(e, a->uid);
    struct contact *c;
    char name[RELAY_MAX_NAME + 1] = "";
    int r;
    if (!list)
        return -ENOMEM;
    if (!a->entries) {
        free(list);
        return 1;
    }
    r = device_list_advance(
            a->uid, known ? known->list.n : 0, known ? known->list.hash : NULL, a->entry, a->entries, list);
    if (r > 0) {
        r = event_error(e, "DEVICE_LIST_REFUSED", known,
                "the relay showed a device list that is forged, outdated or forked; it is ignored");
        free(list);
        return r < 0 ? r : 1;
    }
    if (r == 0 && !rq->name[0] && memcmp(a->uid, rq->who.uid, UID_LEN) != 0)
        r = 1;
    /* Of a stranger's name only the stranger's own account, or somebody known who loses the name, is news. */
    if (r == 0 && rq->stranger && memcmp(a->uid, rq->who.uid, UID_LEN) != 0)
        r = contact_resolve(e, rq->name, &c);
    if (r == 0 && known && known->name[0] && strcmp(known->name, list->name) != 0) {
        r = event_error(e, "DEVICE_LIST_REFUSED", known,
                "the device list of this contact came under another name; it is ignored");
        r = r < 0 ? r : 1;
    }
    memcpy(name, a->name.p, a->name.n);
    if (r == 0)
        r = contact_learn(e, rq->name[0] ? rq->name : name, list);
    if (r == 0 && (c = contact_find(e, a->uid))) {
        c->checked_ms = e->now;
        if (list->n > c->list.n)
            r = contact_set_list(e, c, list);
    }
    free(list);
    return r;
}

static int lookup_answer(struct engine *e, const struct request *rq, const struct relay_account *a)
{
    bool existed = rq->stranger && contact_find(e, rq->who.uid);
    char user[UID_TEXT_LEN + RELAY_MAX_NAME];
    int r = a->found ? learn(e, rq, a) : 1;
    if (r < 0)
        return r;
    if (rq->stranger) {
        int s = stranger_known(e, rq, existed);
        if (s < 0)
            return s;
    } else if (a->found && contact_find(e, a->uid)) {
        int s = contact_find(e, a->uid)->held ? 0 : held_release(e, a->uid);
        if (s < 0)
            return s;
    }
    if (rq->name[0])
        (void)snprintf(user, sizeof(user), "%s", rq->name);
    else
        uid_to_text(rq->who.uid, user);
    if (r > 0)
        return relay_undefer(e, user, API_UNKNOWN_USER, 0,
                a->found ? "the relay's answer about this user was refused" : "the relay knows no such user");
    return relay_undefer(e, user, API_OK, 0, "");
}

static int protocol_broken(struct engine *e, const struct request *rq)
{
    int r = answer_fail(e, rq->ticket, API_RELAY_REFUSED, 1000, "users: the relay's answer was malformed");
    return r < 0 ? r : 1;
}

static int users_answer(struct engine *e, const struct request *rq, struct cursor *c)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m, u;
    uint16_t n;
    bool more;
    if (relay_read_users(c, &more, &n) != WIRE_OK)
        return protocol_broken(e, rq);
    buf_init(&b, EFFECT_MAX_DATA);
    mp_map_begin(&m, &b);
    mp_put_bool(mp_key(&m, "more"), more);
    mp_put_array(mp_key(&m, "users"), n);
    while (n--) {
        struct relay_user user;
        char uid[UID_TEXT_LEN + 1];
        if (relay_next_user(c, &user) != WIRE_OK) /* the caller hears of the lost connection */
            return protocol_broken(e, rq);
        uid_to_text(user.uid, uid);
        mp_map_begin(&u, &b);
        mp_put_strn(mp_key(&u, "user"), user.name.p, user.name.n);
        mp_put_str(mp_key(&u, "uid"), uid);
        mp_map_end(&u);
    }
    mp_map_end(&m);
    return cursor_end(c) == WIRE_OK ? answer_ok(e, rq->ticket, &b) : protocol_broken(e, rq);
}

static int account_answer(struct engine *e, const struct request *rq, struct cursor *c)
{
    struct relay_account a;
    return relay_get_account(c, &a) == WIRE_OK ? lookup_answer(e, rq, &a) : 1;
}

static int bundle_answer(struct engine *e, const struct request *rq, struct cursor *c)
{
    struct relay_bundle b;
    struct peer *p = peer_find(e, &rq->who);
    if (relay_get_bundle(c, &b) != WIRE_OK)
        return 1;
    return p ? session_bundle(e, p, &b) : 0;
}

static enum request_kind kind_of(uint8_t answer)
{
    switch (answer) {
    case RELAY_ACCOUNT:
        return REQ_LOOKUP;
    case RELAY_BUNDLE:
        return REQ_CLAIM;
    case RELAY_USERS:
        return REQ_USERS;
    default:
        return REQ_NONE;
    }
}

int relay_answer(struct engine *e, uint8_t type, uint32_t ref, struct cursor *c)
{
    const struct request *asked = request_find(e, ref);
    struct request rq = {0};
    if (!asked)
        return 0; /* an answer after its deadline */
    if (type == RELAY_OK) {
        (void)request_take(e, ref, &rq);
        if (rq.kind == REQ_UNREGISTER)
            return account_unregistered(e, rq.ticket);
        return rq.kind == REQ_REGISTER && e->conn == CONN_REGISTERING ? account_authenticate(e) : 0;
    }
    if (kind_of(type) != asked->kind)
        return 1;
    (void)request_take(e, ref, &rq);
    if (rq.kind == REQ_LOOKUP)
        return account_answer(e, &rq, c);
    return rq.kind == REQ_CLAIM ? bundle_answer(e, &rq, c) : users_answer(e, &rq, c);
}

/* The answer to an upload (ref), or news. */
int relay_prekeys_left(struct engine *e, uint32_t ref, struct cursor *c)
{
    struct relay_prekeys m;
    struct request rq;
    if (relay_get_prekeys_left(c, &m) != WIRE_OK)
        return 1;
    (void)request_take(e, ref, &rq);
    e->relay_one_time = m.one_time_left;
    e->relay_signed_id = m.signed_prekey_id;
    if (!ref && m.one_time_left < ONE_TIME_LOW)
        e->prekeys_wanted = true;
    return 0;
}

void relay_text(const struct relay_error_msg *m, char ret_text[128])
{
    (void)snprintf(ret_text, 128, "%.*s", (int)(m->text.n < 120 ? m->text.n : 120),
            m->text.n ? (const char *)m->text.p : "");
    for (char *p = ret_text; *p; p++)
        if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
            *p = '?';
}

/* A request that failed, for whatever reason. */
static int request_failed(struct engine *e, const struct request *rq, enum api_error error,
        uint32_t retry_after_ms, const char *text)
{
    struct peer *p;
    char user[UID_TEXT_LEN + RELAY_MAX_NAME];
    switch (rq->kind) {
    case REQ_CLAIM:
        if ((p = peer_find(e, &rq->who))) {
            p->claiming = false;
            p->claim_not_before_ms = e->now + (retry_after_ms ? retry_after_ms : 5 * SECOND_MS);
        }
        return 0;
    case REQ_LOOKUP:
        if (rq->name[0])
            (void)snprintf(user, sizeof(user), "%s", rq->name);
        else
            uid_to_text(rq->who.uid, user);
        return relay_undefer(e, user, error, retry_after_ms, text);
    case REQ_USERS:
        return answer_fail(e, rq->ticket, error, retry_after_ms, "users: %s", text);
    case REQ_UNREGISTER:
        return answer_fail(e, rq->ticket, error, retry_after_ms, "account.delete: %s", text);
    case REQ_PREKEYS:
        e->prekeys_wanted = true;
        e->relay_one_time = e->relay_signed_id = 0;
        return 0;
    default:
        return 0;
    }
}

int relay_error(struct engine *e, uint32_t ref, const struct relay_error_msg *m)
{
    struct request rq = {.kind = REQ_NONE};
    char text[128];
    int r;
    relay_text(m, text);
    (void)request_take(e, ref, &rq);
    if (e->conn != CONN_ONLINE)
        return account_refused(e, m);
    r = request_failed(e, &rq, m->code == RELAY_ERR_RATE_LIMITED ? API_RATE_LIMITED : API_RELAY_REFUSED,
            m->retry_after_ms, text);
    if (r < 0 || rq.kind == REQ_CLAIM || rq.kind == REQ_LOOKUP || rq.kind == REQ_USERS ||
            rq.kind == REQ_UNREGISTER)
        return r;
    (void)snprintf(e->last_error, sizeof(e->last_error), "%s", text);
    r = event_error(
            e, m->code == RELAY_ERR_REPLACED ? "REPLACED" : "RELAY_ERROR", NULL, "the relay says: %s", text);
    if (r == 0 && m->code == RELAY_ERR_REPLACED)
        r = effect_text(e, EFFECT_DROP, "replaced by another connection of this device", 30000);
    return r;
}

int relay_reset(struct engine *e)
{
    int r = 0;
    for (size_t i = 0; i < e->peers.n_slots; i++)
        for (struct table_node *n = e->peers.slots[i]; n; n = n->next) {
            struct peer *p = container_of(n, struct peer, node);
            p->claiming = p->stalled = p->watched = p->presence_known = p->present = false;
            p->claim_not_before_ms = 0;
        }
    for (size_t i = 0; r == 0 && i < e->n_requests; i++)
        if (e->requests[i].kind == REQ_USERS || e->requests[i].kind == REQ_UNREGISTER)
            r = request_failed(
                    e, &e->requests[i], API_NOT_CONNECTED, 1000, "the connection to the relay was lost");
    e->n_requests = 0;
    e->n_watched = 0;
    e->prekeys_wanted = false;
    return r;
}

int relay_tick(struct engine *e)
{
    struct deferred *d, *next;
    int r = 0;
    for (size_t i = 0; r == 0 && i < e->n_requests;) {
        struct request rq = e->requests[i];
        if (rq.deadline_ms > e->now) {
            i++;
            continue;
        }
        e->requests[i] = e->requests[--e->n_requests];
        r = request_failed(e, &rq, API_TIMEOUT, 0, "the relay has not answered");
    }
    for (d = TAILQ_FIRST(&e->deferred); r == 0 && d; d = next) {
        next = TAILQ_NEXT(d, list);
        if (d->deadline_ms <= e->now)
            r = deferred_end(e, d, API_NOT_CONNECTED, 5000,
                    "not connected to the relay, and this user is not known here yet; try again later");
    }
    return r;
}

int relay_abandon(struct engine *e)
{
    struct deferred *d;
    int r = 0;
    for (size_t i = 0; r == 0 && i < e->n_requests; i++)
        if (e->requests[i].kind == REQ_USERS || e->requests[i].kind == REQ_UNREGISTER)
            r = request_failed(e, &e->requests[i], API_NO_ACCOUNT, 0, "the account is gone");
    e->n_requests = 0;
    while (r == 0 && (d = TAILQ_FIRST(&e->deferred)))
        r = deferred_end(e, d, API_NO_ACCOUNT, 0, "the account is gone");
    return r;
}
