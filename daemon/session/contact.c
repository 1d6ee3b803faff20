#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

struct contact *contact_find(struct engine *e, const uint8_t uid[UID_LEN])
{
    struct table_node *node = table_get(&e->contacts, uid);
    return node ? container_of(node, struct contact, node) : NULL;
}

const char *contact_label(const struct contact *c, char buf[UID_TEXT_LEN + 1])
{
    if (c->name[0])
        return c->name;
    uid_to_text(c->uid, buf);
    return buf;
}

static int name_uid(struct engine *e, const char *name, uint8_t ret_uid[UID_LEN])
{
    int r = e->port.get(e->port.ctx, MAP_NAME, name, strlen(name), &e->scratch);
    if (r)
        return r;
    if (e->scratch.len != UID_LEN)
        return -EBADMSG;
    memcpy(ret_uid, e->scratch.data, UID_LEN);
    return 0;
}

int contact_resolve(struct engine *e, const char *user, struct contact **ret_contact)
{
    uint8_t uid[UID_LEN];
    int r = 0;
    if (uid_from_text(user, uid) != WIRE_OK)
        r = name_uid(e, user, uid);
    if (r)
        return r;
    *ret_contact = contact_find(e, uid);
    return *ret_contact ? 0 : 1;
}

/* --- loading and pinning --- */

static int load_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct engine *e = ctx;
    struct contact *c = calloc(1, sizeof(*c));
    int r;
    (void)key;
    (void)key_len;
    if (!c)
        return -ENOMEM;
    r = contact_parse(value, n, c);
    if (r == 0)
        r = table_add(&e->contacts, &c->node, c->uid);
    if (r < 0)
        free(c);
    return r;
}

int contacts_load(struct engine *e)
{
    return e->port.scan(e->port.ctx, MAP_CONTACT, "", 0, 0, load_visit, e);
}

static int name_pin(struct engine *e, const char *name, const uint8_t uid[UID_LEN])
{
    return e->port.put(e->port.ctx, MAP_NAME, name, strlen(name), uid, UID_LEN);
}

static void set_list(struct contact *c, const struct device_list *list)
{
    c->list.n = list->n;
    memcpy(c->list.hash, list->hash, LIST_HASH_LEN);
    c->device = list->device[0];
}

int contact_set_list(struct engine *e, struct contact *c, const struct device_list *list)
{
    set_list(c, list);
    return contact_store(e, c);
}

int contact_new(
        struct engine *e, const struct device_list *list, const char *name, struct contact **ret_contact)
{
    struct contact *c;
    int r;
    if (e->contacts.count >= ENGINE_MAX_CONTACTS) {
        r = event_error(e, "CONTACTS_FULL", NULL, "there are %u contacts, and no more are taken",
                ENGINE_MAX_CONTACTS);
        return r < 0 ? r : 1;
    }
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    memcpy(c->uid, list->uid, UID_LEN);
    memcpy(c->ak, list->ak, sizeof(c->ak));
    (void)snprintf(c->name, sizeof(c->name), "%s", name);
    set_list(c, list);
    r = table_add(&e->contacts, &c->node, c->uid);
    if (r < 0) {
        free(c);
        return r;
    }
    r = contact_store(e, c);
    if (r == 0 && name[0])
        r = name_pin(e, name, c->uid);
    if (r == 0)
        *ret_contact = c;
    return r;
}

enum api_error contact_may_send(const struct contact *c, bool require_verified)
{
    if (c->blocked)
        return API_BLOCKED;
    if (c->changed && c->policy == KEY_POLICY_BLOCK)
        return API_KEY_CHANGED;
    if (require_verified && !c->verified)
        return API_NOT_VERIFIED;
    return API_OK;
}

/* --- a name that has moved to another account --- */

static const char *policy_name(uint8_t policy)
{
    static const char *const names[] = {"block", "hold", "accept"};
    return names[policy <= KEY_POLICY_ACCEPT ? policy : KEY_POLICY_BLOCK];
}

static int changed_event(struct engine *e, const struct contact *c, const struct device_list *list)
{
    char uid[UID_TEXT_LEN + 1], digits[FINGERPRINT_LEN + 1];
    struct mp_map m;
    (void)event_begin(e, EV_KEY_CHANGED, &m);
    mp_put_str(mp_key(&m, "user"), c->name);
    uid_to_text(c->uid, uid);
    mp_put_str(mp_key(&m, "old_uid"), uid);
    uid_to_text(list->uid, uid);
    mp_put_str(mp_key(&m, "new_uid"), uid);
    fingerprint(c->uid, c->ak, digits);
    mp_put_str(mp_key(&m, "old_fingerprint"), digits);
    fingerprint(list->uid, list->ak, digits);
    mp_put_str(mp_key(&m, "new_fingerprint"), digits);
    mp_put_str(mp_key(&m, "policy"), policy_name(c->policy));
    return event_end(e, &m);
}

/* The name goes to the new account; the old one stays known by its uid alone. Nothing queued for it is
 * re-addressed. */
static int repin(struct engine *e, struct contact *old, const struct device_list *list)
{
    char name[RELAY_MAX_NAME + 1];
    struct contact *fresh = contact_find(e, list->uid);
    uint8_t policy = old->policy;
    int r = outbox_fail_contact(e, old, "key_changed");
    memcpy(name, old->name, sizeof(name));
    old->name[0] = 0;
    old->changed = false;
    if (r == 0)
        r = contact_store(e, old);
    if (r < 0)
        return r;
    if (!fresh) {
        r = contact_new(e, list, name, &fresh);
    } else {
        memcpy(fresh->name, name, sizeof(name));
        r = name_pin(e, name, fresh->uid);
    }
    if (r)
        return r;
    fresh->policy = policy;
    return contact_store(e, fresh);
}

static int name_moved(struct engine *e, struct contact *c, const struct device_list *list)
{
    bool known = c->changed && memcmp(c->new_uid, list->uid, UID_LEN) == 0;
    int r = known ? 0 : changed_event(e, c, list);
    if (r < 0)
        return r;
    if (c->policy == KEY_POLICY_ACCEPT)
        return repin(e, c, list);
    c->changed = true;
    memcpy(c->new_uid, list->uid, UID_LEN);
    memcpy(c->new_ak, list->ak, sizeof(c->new_ak));
    r = contact_store(e, c);
    if (r == 0 && c->policy == KEY_POLICY_BLOCK)
        r = outbox_fail_contact(e, c, "key_changed");
    return r;
}

/* The relay confirms the pin: an earlier change is over. */
static int name_confirmed(
        struct engine *e, struct contact *c, const char *name, const struct device_list *list)
{
    bool same = c->list.n == list->n && !c->changed && strcmp(c->name, name) == 0;
    if (same)
        return 0;
    c->changed = false;
    /* What a person has verified was this account under its old name. */
    if (strcmp(c->name, name) != 0)
        c->verified = false;
    (void)snprintf(c->name, sizeof(c->name), "%s", name);
    return contact_set_list(e, c, list);
}

/* A name that is not pinned to anybody we know. */
static int name_new(struct engine *e, const char *name, const struct device_list *list)
{
    struct contact *c = contact_find(e, list->uid);
    int r;
    if (!c)
        return contact_new(e, list, name, &c);
    r = name_confirmed(e, c, name, list);
    return r == 0 ? name_pin(e, name, c->uid) : r;
}

int contact_learn(struct engine *e, const char *name, const struct device_list *list)
{
    uint8_t uid[UID_LEN];
    struct contact *c;
    int r;
    if (strcmp(name, list->name) != 0)
        r = event_error(
                e, "RELAY_LIES", NULL, "the relay answered a look-up with an account of another name");
    else if (memcmp(list->uid, identity_address(e->id)->uid, UID_LEN) == 0)
        r = 0; /* ourselves */
    else {
        r = name_uid(e, name, uid);
        if (r < 0)
            return r;
        if (r == PORT_NOT_FOUND)
            return name_new(e, name, list);
        c = contact_find(e, uid);
        if (memcmp(uid, list->uid, UID_LEN) == 0)
            return name_new(e, name, list);
        if (c)
            return name_moved(e, c, list);
        /* A person has accepted one account for this name, and the relay shows yet another. */
        r = event_error(e, "KEY_CHANGED", NULL,
                "the relay shows another account for a user than the one that was accepted");
    }
    return r < 0 ? r : 1;
}

/* --- peers --- */

void peer_free(struct engine *e, struct peer *p)
{
    if (p->in_waiting)
        TAILQ_REMOVE(&e->waiting_peers, p, waiting_peers);
    if (p->in_owing)
        TAILQ_REMOVE(&e->owing_peers, p, owing_peers);
    if (p->dirty)
        TAILQ_REMOVE(&e->dirty_peers, p, dirty_peers);
    sessions_unload(e, p);
    table_del(&e->peers, &p->node);
    buf_done(&p->owed);
    free(p->gaps);
    free(p->tombstones);
    free(p);
}

void peer_touch(struct engine *e, struct peer *p)
{
    if (!p->dirty)
        TAILQ_INSERT_TAIL(&e->dirty_peers, p, dirty_peers);
    p->dirty = true;
}

static void draw_back(uint64_t *t, uint64_t now_ms)
{
    if (*t > now_ms)
        *t = now_ms;
}

void peer_rewind(struct peer *p, uint64_t now_ms)
{
    draw_back(&p->last_reset_ms, now_ms);
    draw_back(&p->progress_ms, now_ms);
    draw_back(&p->claim_not_before_ms, now_ms);
    for (size_t i = 0; i < p->n_sessions; i++)
        draw_back(&p->sessions[i].old_since_ms, now_ms);
    for (size_t i = 0; i < p->n_gaps; i++)
        draw_back(&p->gaps[i].noticed_ms, now_ms);
}

struct peer *peer_find(struct engine *e, const struct address *a)
{
    uint8_t key[ADDRESS_KEY_LEN];
    struct table_node *node;
    address_key(a, key);
    node = table_get(&e->peers, key);
    return node ? container_of(node, struct peer, node) : NULL;
}

static int peer_fill(struct engine *e, struct peer *p)
{
    int r = e->port.get(e->port.ctx, MAP_PEER, p->key, ADDRESS_KEY_LEN, &e->scratch);
    if (r == 0)
        r = peer_parse(e->scratch.data, e->scratch.len, p);
    else if (r == PORT_NOT_FOUND)
        r = 0;
    peer_rewind(p, e->now);
    return r;
}

int peer_get(struct engine *e, struct contact *c, uint32_t device, struct peer **ret_peer)
{
    struct address a = {.device = device};
    struct peer *p;
    int r;
    memcpy(a.uid, c->uid, UID_LEN);
    if ((p = peer_find(e, &a))) {
        *ret_peer = p;
        return 0;
    }
    p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->address = a;
    p->contact = c;
    p->next_count = 1;
    address_key(&a, p->key);
    TAILQ_INIT(&p->waiting);
    buf_init(&p->owed, MAX_OWED * (MESSAGE_ID_LEN + 1));
    r = peer_fill(e, p);
    if (r == 0)
        r = table_add(&e->peers, &p->node, p->key);
    if (r < 0) {
        peer_free(e, p);
        return r;
    }
    *ret_peer = p;
    return 0;
}
