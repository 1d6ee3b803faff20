/* The account: made, registered, authenticated, deleted. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define CREATE_TIMEOUT_MS (20 * SECOND_MS)
#define REFUSED_RETRY_MS 60000u

static bool relay_url_ok(const char *url)
{
    return (strncmp(url, "ws://", 5) == 0 && url[5]) || (strncmp(url, "wss://", 6) == 0 && url[6]);
}

static int put_account(struct engine *e, struct buf *b, bool full)
{
    const struct device_list *mine = identity_list(e->id);
    char uid[UID_TEXT_LEN + 1], digits[FINGERPRINT_LEN + 1];
    static const char *const strangers[] = {"accept", "hold", "refuse"};
    struct mp_map m;
    mp_map_begin(&m, b);
    uid_to_text(mine->uid, uid);
    fingerprint(mine->uid, mine->ak, digits);
    mp_put_str(mp_key(&m, "user"), mine->name);
    mp_put_str(mp_key(&m, "uid"), uid);
    mp_put_uint(mp_key(&m, "device"), identity_address(e->id)->device);
    mp_put_str(mp_key(&m, "fingerprint"), digits);
    mp_put_str(mp_key(&m, "relay"), e->relay);
    if (full) {
        mp_put_bool(mp_key(&m, "registered"), e->registered);
        mp_put_bool(mp_key(&m, "receipts"), e->cfg.receipts);
        mp_put_str(mp_key(&m, "strangers"), strangers[e->cfg.strangers]);
        mp_put_uint(mp_key(&m, "one_time_prekeys"), e->relay_one_time);
    }
    mp_map_end(&m);
    return buf_status(b);
}

static int answer_account(struct engine *e, uint64_t ticket, bool full)
{
    CLEANUP_BUF struct buf b = {0};
    int r;
    buf_init(&b, 4096);
    r = put_account(e, &b, full);
    return r < 0 ? r : answer_ok(e, ticket, &b);
}

static int create(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    char user[RELAY_MAX_NAME + 2] = "";
    int r;
    if (e->id)
        return answer_fail(e, ticket, API_ACCOUNT_EXISTS, 0,
                "account.create: this daemon has the account '%s'; another account needs another daemon "
                "(e2eed --account)",
                identity_name(e->id));
    (void)param_str(params, "user", user, sizeof(user));
    if (!user_name_ok(user, strlen(user)))
        return answer_fail(e, ticket, API_INVALID_NAME, 0,
                "account.create: a user name has 1 to 64 characters of a-z 0-9 . _ - and begins with a "
                "letter or digit");
    if (!param_str(params, "relay", e->relay, sizeof(e->relay)) || !relay_url_ok(e->relay))
        return answer_fail(e, ticket, API_INVALID_PARAMS, 0,
                "account.create: 'relay' must be a URL like wss://relay.example/ or ws://127.0.0.1:7690/");
    e->token[0] = 0;
    (void)param_str(params, "token", e->token, sizeof(e->token));
    r = identity_new(user, &e->rng, e->now, &e->id);
    if (r)
        return r < 0 ? r : -EINVAL;
    rng_fill(&e->rng, e->guid, sizeof(e->guid));
    e->registered = false;
    e->next_prekey_id = 1;
    e->creating = true;
    e->register_sent = false;
    e->create_ticket = ticket;
    e->create_deadline_ms = e->now + param_uint(params, "timeout_ms", CREATE_TIMEOUT_MS);
    /* Before the relay hears of it: a name that is claimed there must never be without its keys here. */
    r = meta_store(e);
    return r < 0 ? r : effect_text(e, EFFECT_CONNECT, e->relay, 0);
}

static int unmake(struct engine *e)
{
    int r = meta_wipe(e);
    if (r == 0)
        r = relay_abandon(e);
    if (r == 0)
        r = wait_abandon(e);
    engine_clear(e);
    return r < 0 ? r : effect_text(e, EFFECT_DISCONNECT, "", 0);
}

static int create_failed(struct engine *e, enum api_error error, const char *text)
{
    uint64_t ticket = e->create_ticket;
    int r = unmake(e);
    return r < 0 ? r : answer_fail(e, ticket, error, 0, "account.create: %s", text);
}

/* The relay may have the name under our key by now: the keys must stay, and the daemon goes on trying. */
static int create_unsure(struct engine *e, enum api_error error, const char *text)
{
    e->creating = false;
    return answer_fail(e, e->create_ticket, error, 0,
            "account.create: %s; the account is kept and registration is tried again", text);
}

/* The relay hears of it first; without its answer everything stays. */
static int unregister(struct engine *e, uint64_t ticket)
{
    CLEANUP_BUF struct buf b = {0};
    struct relay_unregister m = {.time_ms = e->now};
    struct request rq = {.kind = REQ_UNREGISTER, .ref = relay_next_ref(e), .ticket = ticket};
    int r;
    identity_sign_delete(e->id, e->relay_nonce, &m);
    buf_init(&b, 256);
    relay_put_unregister(&b, rq.ref, &m);
    r = relay_request(e, &rq, &b);
    return r > 0 ? answer_fail(e, ticket, API_QUEUE_FULL, 1000,
                           "account.delete: too many questions to the relay are open")
                 : r;
}

static int delete (struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    char user[RELAY_MAX_NAME + 2] = "";
    int r;
    (void)param_str(params, "user", user, sizeof(user));
    if (strcmp(user, identity_name(e->id)) != 0)
        return answer_fail(e, ticket, API_INVALID_PARAMS, 0,
                "account.delete: 'user' must name the account, '%s', to confirm", identity_name(e->id));
    if (e->conn == CONN_ONLINE)
        return unregister(e, ticket);
    if (e->registered)
        return answer_fail(e, ticket, API_NOT_CONNECTED, 5000,
                "account.delete: not connected; the relay must hear of it, or the name stays taken");
    r = unmake(e);
    return r < 0 ? r : answer_ok(e, ticket, NULL);
}

int account_unregistered(struct engine *e, uint64_t ticket)
{
    int r = unmake(e);
    return r < 0 ? r : answer_ok(e, ticket, NULL);
}

int account_call(struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params)
{
    if (!strcmp(method, "account.create"))
        return create(e, ticket, params);
    if (!strcmp(method, "account.delete"))
        return delete (e, ticket, params);
    return answer_account(e, ticket, true);
}

/* --- with the relay --- */

static int refuse_relay(struct engine *e, const char *code, const char *text)
{
    int r;
    (void)snprintf(e->last_error, sizeof(e->last_error), "%s", text);
    if (e->creating)
        return create_failed(e, API_RELAY_REFUSED, text);
    r = event_error(e, code, NULL, "%s", text);
    return r < 0 ? r : effect_text(e, EFFECT_DROP, text, REFUSED_RETRY_MS);
}

static int register_account(struct engine *e)
{
    CLEANUP_BUF struct buf b = {0};
    struct request rq = {.kind = REQ_REGISTER, .ref = relay_next_ref(e)};
    struct relay_register m = {.entry = identity_entry(e->id)};
    int r;
    m.name = (struct span){.p = (const uint8_t *)identity_name(e->id), .n = strlen(identity_name(e->id))};
    m.token = (struct span){.p = (const uint8_t *)e->token, .n = strlen(e->token)};
    e->conn = CONN_REGISTERING;
    e->register_sent = e->introduced = true;
    e->n_requests = 0;
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_register(&b, rq.ref, &m);
    r = relay_request(e, &rq, &b);
    return r > 0 ? -EBUSY : r;
}

int account_authenticate(struct engine *e)
{
    CLEANUP_BUF struct buf b = {0};
    struct request rq = {.kind = REQ_AUTH, .ref = relay_next_ref(e)};
    struct relay_auth m = {.time_ms = e->now, .binding = e->tls ? BINDING_TLS_EXPORTER : BINDING_NONE};
    int r;
    rng_fill(&e->rng, m.nonce, sizeof(m.nonce));
    m.host = (struct span){.p = (const uint8_t *)e->host, .n = strlen(e->host)};
    identity_sign_auth(e->id, e->relay_nonce, e->tls ? e->exporter : NULL, &m);
    e->conn = CONN_AUTHENTICATING;
    e->n_requests = 0;
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_auth(&b, rq.ref, &m);
    r = relay_request(e, &rq, &b);
    return r > 0 ? -EBUSY : r;
}

int account_challenge(struct engine *e, struct cursor *c)
{
    struct relay_challenge m;
    if (e->conn != CONN_CHALLENGE || relay_get_challenge(c, &m) != WIRE_OK)
        return 1;
    if (m.version != RELAY_VERSION)
        return refuse_relay(e, "RELAY_VERSION", "the relay speaks another version of the protocol");
    if (e->cfg.require_tls && !e->tls)
        return refuse_relay(e, "TLS_REQUIRED", "the connection has no TLS, and the configuration demands it");
    e->introduced = false;
    memcpy(e->relay_nonce, m.nonce, sizeof(e->relay_nonce));
    memcpy(e->store_id, m.store_id, sizeof(e->store_id));
    e->relay_ahead_ms = (int64_t)(m.time_ms - e->now);
    if (e->relay_ahead_ms > (int64_t)DAY_MS || e->relay_ahead_ms < -(int64_t)DAY_MS)
        e->relay_ahead_ms = 0; /* no clock at all; the relay will say so */
    return e->registered ? account_authenticate(e) : register_account(e);
}

static int connected_event(struct engine *e)
{
    struct mp_map m;
    (void)event_begin(e, EV_CONNECTED, &m);
    mp_put_str(mp_key(&m, "relay"), e->relay);
    mp_put_bool(mp_key(&m, "tls"), e->tls);
    return event_end(e, &m);
}

static int created(struct engine *e)
{
    e->creating = false;
    return answer_account(e, e->create_ticket, false);
}

int account_welcome(struct engine *e, struct cursor *c)
{
    struct relay_welcome m;
    int r;
    if (e->conn != CONN_AUTHENTICATING || relay_get_welcome(c, &m) != WIRE_OK)
        return 1;
    e->n_requests = 0;
    e->conn = CONN_ONLINE;
    e->registered = true;
    e->last_error[0] = 0;
    e->relay_one_time = m.one_time_left;
    e->relay_signed_id = m.signed_prekey_id;
    sodium_memzero(e->token, sizeof(e->token));
    r = effect_text(e, EFFECT_GOOD, "", 0);
    if (r == 0)
        r = connected_event(e);
    if (r == 0)
        r = prekeys_upkeep(e);
    if (r == 0)
        r = meta_store(e);
    if (r == 0 && e->creating)
        r = created(e);
    if (r == 0)
        r = submit_query(e, true);
    return r == 0 ? relay_online(e) : r;
}

static enum api_error api_error_of(uint16_t code)
{
    switch (code) {
    case RELAY_ERR_NAME_TAKEN:
        return API_NAME_TAKEN;
    case RELAY_ERR_TOKEN_REQUIRED:
        return API_TOKEN_REQUIRED;
    case RELAY_ERR_REGISTRATION_CLOSED:
        return API_REGISTRATION_CLOSED;
    case RELAY_ERR_RATE_LIMITED:
        return API_RATE_LIMITED;
    default:
        return API_RELAY_REFUSED;
    }
}

/* An account that a crash left half made, and that the relay will not have. */
static bool never_ours(uint16_t code)
{
    return code == RELAY_ERR_NAME_TAKEN || code == RELAY_ERR_TOKEN_REQUIRED ||
           code == RELAY_ERR_REGISTRATION_CLOSED;
}

int account_refused(struct engine *e, const struct relay_error_msg *m)
{
    uint32_t wait = m->retry_after_ms > REFUSED_RETRY_MS ? m->retry_after_ms : REFUSED_RETRY_MS;
    char text[128];
    int r;
    /* The relay has lost us with its disk: introduce ourselves again. */
    if (m->code == RELAY_ERR_UNKNOWN_ACCOUNT && e->conn == CONN_AUTHENTICATING && !e->introduced)
        return register_account(e);
    relay_text(m, text);
    (void)snprintf(e->last_error, sizeof(e->last_error), "%s", text);
    if (!e->registered && (never_ours(m->code) || (e->creating && !e->register_sent)))
        return create_failed(e, api_error_of(m->code), text);
    r = e->creating ? create_unsure(e, api_error_of(m->code), text) : 0;
    if (r < 0)
        return r;
    r = event_error(e, "RELAY_REFUSED", NULL, "the relay refuses us: %s", text);
    return r < 0 ? r : effect_text(e, EFFECT_DROP, text, wait);
}

int account_tick(struct engine *e)
{
    if (e->creating && e->create_deadline_ms <= e->now && e->register_sent)
        return create_unsure(e, API_TIMEOUT, "the relay has not answered");
    if (e->creating && e->create_deadline_ms <= e->now)
        return create_failed(
                e, API_NOT_CONNECTED, e->last_error[0] ? e->last_error : "the relay does not answer");
    if (e->conn == CONN_ONLINE && elapsed(e->now, e->upkeep_ms) > (e->prekeys_wanted ? MINUTE_MS : HOUR_MS))
        return prekeys_upkeep(e);
    return 0;
}
