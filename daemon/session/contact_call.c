/* The contact.* methods. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define USER_MAX 128u

static int unknown(struct engine *e, uint64_t ticket, const char *user)
{
    return answer_fail(e, ticket, API_UNKNOWN_CONTACT, 0,
            "no contact '%.64s'; contact.list shows all, contact.add adds one", user);
}

static const char *const policies[] = {"block", "hold", "accept"};

static const char *session_strength(struct engine *e, const struct contact *c)
{
    struct peer *p;
    struct session *s;
    struct contact *k = contact_find(e, c->uid);
    if (!k || peer_get(e, k, k->device.address.device, &p) != 0 || session_active(e, p, &s) != 0)
        return "none";
    return ratchet_weak(s->ratchet) ? "weak" : "strong";
}

static void put_contact(struct engine *e, struct buf *b, const struct contact *c, bool full)
{
    char uid[UID_TEXT_LEN + 1], digits[SAFETY_NUMBER_LEN + 1];
    struct mp_map m;
    mp_map_begin(&m, b);
    uid_to_text(c->uid, uid);
    mp_put_str(mp_key(&m, "user"), c->name[0] ? c->name : uid);
    mp_put_str(mp_key(&m, "uid"), uid);
    mp_put_uint(mp_key(&m, "device"), c->device.address.device);
    mp_put_bool(mp_key(&m, "verified"), c->verified);
    mp_put_bool(mp_key(&m, "blocked"), c->blocked);
    mp_put_bool(mp_key(&m, "held"), c->held);
    mp_put_str(mp_key(&m, "policy"), policies[c->policy]);
    if (c->changed) {
        uid_to_text(c->new_uid, uid);
        mp_put_str(mp_key(&m, "new_uid"), uid);
        fingerprint(c->new_uid, c->new_ak, digits);
        mp_put_str(mp_key(&m, "new_fingerprint"), digits);
    }
    if (full) {
        fingerprint(c->uid, c->ak, digits);
        mp_put_str(mp_key(&m, "fingerprint"), digits);
        const struct device_list *mine = identity_list(e->id);
        safety_number(mine->uid, mine->ak, c->uid, c->ak, digits);
        mp_put_str(mp_key(&m, "safety_number"), digits);
        mp_put_str(mp_key(&m, "session"), session_strength(e, c));
    }
    mp_map_end(&m);
}

static int call_list(struct engine *e, uint64_t ticket)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    buf_init(&b, EFFECT_MAX_DATA);
    mp_map_begin(&m, &b);
    mp_put_array(mp_key(&m, "contacts"), (uint32_t)e->contacts.count);
    for (size_t i = 0; i < e->contacts.n_slots; i++)
        for (struct table_node *n = e->contacts.slots[i]; n; n = n->next)
            put_contact(e, &b, container_of(n, struct contact, node), false);
    mp_map_end(&m);
    return answer_ok(e, ticket, &b);
}

static int call_show(struct engine *e, uint64_t ticket, struct contact *c)
{
    CLEANUP_BUF struct buf b = {0};
    buf_init(&b, 4096);
    put_contact(e, &b, c, true);
    return answer_ok(e, ticket, &b);
}

/* A held stranger is let in: what was held is delivered. */
static int let_in(struct engine *e, struct contact *c)
{
    int r = 0;
    if (c->held) {
        c->held = false;
        r = contact_store(e, c);
        if (r == 0)
            r = held_release(e, c->uid);
    }
    return r;
}

static int call_add(struct engine *e, uint64_t ticket, struct contact *c, const struct mp_value *params)
{
    char uid[UID_TEXT_LEN + 2], mine[UID_TEXT_LEN + 1];
    int r;
    uid_to_text(c->uid, mine);
    if (param_str(params, "uid", uid, sizeof(uid)) && strcmp(uid, mine) != 0)
        return answer_fail(e, ticket, API_KEY_CHANGED, 0,
                "contact.add: that user has the uid %s, not the one given", mine);
    r = let_in(e, c);
    return r < 0 ? r : call_show(e, ticket, c);
}

static size_t digits_of(const char *text, char *ret, size_t size)
{
    size_t n = 0;
    for (; *text; text++)
        if (*text >= '0' && *text <= '9' && n + 1 < size)
            ret[n++] = *text;
    ret[n] = 0;
    return n;
}

static int call_verify(struct engine *e, uint64_t ticket, struct contact *c, const struct mp_value *params)
{
    char given[96], digits[96], ours[SAFETY_NUMBER_LEN + 1];
    const struct device_list *mine = identity_list(e->id);
    int r;
    safety_number(mine->uid, mine->ak, c->uid, c->ak, ours);
    if (param_str(params, "number", given, sizeof(given)) &&
            (digits_of(given, digits, sizeof(digits)) != SAFETY_NUMBER_LEN || strcmp(digits, ours) != 0))
        return answer_fail(e, ticket, API_VERIFY_MISMATCH, 0,
                "the safety number does not match: these are not the keys that your contact sees; do not "
                "trust this contact "
                "before you have compared again");
    c->verified = true;
    r = contact_store(e, c);
    return r < 0 ? r : call_show(e, ticket, c);
}

/* The name of c is given to the account that a person has accepted for it, known already or not. */
static int give_name(struct engine *e, const char *name, const struct contact *c)
{
    struct contact *fresh = contact_find(e, c->new_uid);
    int r = e->port.put(e->port.ctx, MAP_NAME, name, strlen(name), c->new_uid, UID_LEN);
    if (r < 0)
        return r;
    if (!fresh)
        return relay_lookup_name(e, name);
    (void)snprintf(fresh->name, sizeof(fresh->name), "%s", name);
    fresh->policy = c->policy;
    r = contact_store(e, fresh);
    return r == 0 ? held_release(e, fresh->uid) : r;
}

/* 1: that is not the change that was reported. */
static int accept_change(struct engine *e, struct contact *c, const char *uid_text)
{
    char want[UID_TEXT_LEN + 1], name[RELAY_MAX_NAME + 1];
    int r;
    uid_to_text(c->new_uid, want);
    if (!c->changed || strcmp(want, uid_text) != 0)
        return 1;
    r = outbox_fail_contact(e, c, "key_changed");
    memcpy(name, c->name, sizeof(name));
    c->name[0] = 0;
    c->changed = false;
    if (r == 0)
        r = contact_store(e, c);
    return r == 0 ? give_name(e, name, c) : r;
}

static int call_trust(struct engine *e, uint64_t ticket, struct contact *c, const struct mp_value *params)
{
    char uid[UID_TEXT_LEN + 2], policy[16], label[UID_TEXT_LEN + 1];
    int r;
    if (param_str(params, "policy", policy, sizeof(policy)))
        for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
            if (strcmp(policy, policies[i]) == 0)
                c->policy = (uint8_t)i;
    if (param_str(params, "uid", uid, sizeof(uid))) {
        r = accept_change(e, c, uid);
        if (r > 0)
            return answer_fail(e, ticket, API_KEY_CHANGED, 0,
                    "contact.trust: '%s' has no pending change to that uid; contact.show names the new one",
                    contact_label(c, label));
        return r < 0 ? r : answer_ok(e, ticket, NULL);
    }
    r = contact_store(e, c);
    if (r == 0)
        r = let_in(e, c);
    return r < 0 ? r : call_show(e, ticket, c);
}

static int call_block(struct engine *e, uint64_t ticket, struct contact *c, const struct mp_value *params)
{
    int r;
    c->blocked = param_bool(params, "blocked", true);
    r = contact_store(e, c);
    if (r == 0 && c->blocked)
        r = outbox_fail_contact(e, c, "blocked");
    if (r == 0 && c->blocked)
        r = control_drop(e, c->uid);
    return r < 0 ? r : call_show(e, ticket, c);
}

/* One of the contact's devices that is in memory. */
static struct peer *any_peer(struct engine *e, const struct contact *c)
{
    for (size_t i = 0; i < e->peers.n_slots; i++)
        for (struct table_node *n = e->peers.slots[i]; n; n = n->next)
            if (container_of(n, struct peer, node)->contact == c)
                return container_of(n, struct peer, node);
    return NULL;
}

/* The counters stay, so that a later acquaintance is not mistaken for a fork. */
static int remove_peers(struct engine *e, struct contact *c)
{
    struct peer *p;
    int r = outbox_fail_contact(e, c, "contact_removed");
    while (r == 0 && (p = any_peer(e, c))) {
        r = sessions_delete(e, p);
        if (r == 0)
            r = peer_store(e, p);
        if (r == 0)
            peer_free(e, p);
    }
    return r;
}

static int call_remove(struct engine *e, uint64_t ticket, struct contact *c)
{
    int r = remove_peers(e, c);
    if (r == 0)
        r = held_drop(e, c->uid);
    if (r == 0 && c->name[0])
        r = e->port.del(e->port.ctx, MAP_NAME, c->name, strlen(c->name));
    if (r == 0)
        r = e->port.del(e->port.ctx, MAP_CONTACT, c->uid, UID_LEN);
    if (r < 0)
        return r;
    table_del(&e->contacts, &c->node);
    free(c);
    return answer_ok(e, ticket, NULL);
}

int contact_call(struct engine *e, uint64_t ticket, const char *method, const struct mp_value *params)
{
    const char *verb = method + strlen("contact.");
    char user[USER_MAX] = "";
    struct contact *c;
    int r;
    if (!strcmp(verb, "list"))
        return call_list(e, ticket);
    (void)param_str(params, "user", user, sizeof(user));
    r = contact_resolve(e, user, &c);
    if (r < 0)
        return r;
    if (r > 0)
        return !strcmp(verb, "add") ? relay_defer(e, ticket, method, params, user) : unknown(e, ticket, user);
    if (!strcmp(verb, "show"))
        return call_show(e, ticket, c);
    if (!strcmp(verb, "add"))
        return call_add(e, ticket, c, params);
    if (!strcmp(verb, "verify"))
        return call_verify(e, ticket, c, params);
    if (!strcmp(verb, "trust"))
        return call_trust(e, ticket, c, params);
    if (!strcmp(verb, "block"))
        return call_block(e, ticket, c, params);
    return call_remove(e, ticket, c);
}
