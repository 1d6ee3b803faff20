/* Envelopes that must wait until their sender is known and let in. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define HELD_KEY_LEN (UID_LEN + 8u + 8u + 32u)

static struct held_uid *held_find(struct engine *e, const uint8_t uid[UID_LEN])
{
    struct table_node *node = table_get(&e->held, uid);
    return node ? container_of(node, struct held_uid, node) : NULL;
}

static int held_get(
        struct engine *e, const uint8_t uid[UID_LEN], const char *name, struct held_uid **ret_held)
{
    struct held_uid *h = held_find(e, uid);
    int r;
    if (!h) {
        h = calloc(1, sizeof(*h));
        if (!h)
            return -ENOMEM;
        memcpy(h->uid, uid, UID_LEN);
        (void)snprintf(h->name, sizeof(h->name), "%s", name);
        TAILQ_INIT(&h->items);
        r = table_add(&e->held, &h->node, h->uid);
        if (r < 0) {
            free(h);
            return r;
        }
    }
    *ret_held = h;
    return 0;
}

static void item_add(struct engine *e, struct held_uid *h, struct held_item *it)
{
    TAILQ_INSERT_TAIL(&h->items, it, list);
    h->n++;
    e->n_held++;
}

static void item_free(struct engine *e, struct held_uid *h, struct held_item *it)
{
    TAILQ_REMOVE(&h->items, it, list);
    h->n--;
    e->n_held--;
    free(it);
}

static void held_forget(struct engine *e, struct held_uid *h)
{
    struct held_item *it;
    while ((it = TAILQ_FIRST(&h->items)))
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the analyzer does not see through TAILQ_REMOVE() */
        item_free(e, h, it);
    table_del(&e->held, &h->node);
    free(h);
}

void held_clear(struct engine *e)
{
    struct table_node *node;
    while ((node = table_any(&e->held)))
        held_forget(e, container_of(node, struct held_uid, node));
}

static void put_u64be(uint8_t *p, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static void item_key(const struct held_uid *h, const struct held_item *it, uint8_t ret_key[HELD_KEY_LEN])
{
    memcpy(ret_key, h->uid, UID_LEN);
    put_u64be(ret_key + UID_LEN, it->number);
    put_u64be(ret_key + UID_LEN + 8, it->time_ms);
    memcpy(ret_key + UID_LEN + 16, it->hash, sizeof(it->hash));
}

/* The name in the device list entry of a first message; it was verified when it came. */
static void claimed_name(const uint8_t *body, size_t n, char ret_name[RELAY_MAX_NAME + 1])
{
    struct envelope_view v;
    struct entry entry;
    ret_name[0] = 0;
    if (envelope_parse(body, n, &v) == 0 && v.has_handshake &&
            entry_parse(v.entry.p, v.entry.n, &entry) == WIRE_OK)
        (void)snprintf(ret_name, RELAY_MAX_NAME + 1, "%.*s", (int)entry.name.n, (const char *)entry.name.p);
}

static int load_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct engine *e = ctx;
    char name[RELAY_MAX_NAME + 1];
    struct held_item *it;
    struct held_uid *h;
    struct cursor c;
    int r;
    if (key_len != HELD_KEY_LEN)
        return -EBADMSG;
    claimed_name(value, n, name);
    r = held_get(e, key, name, &h);
    if (r < 0)
        return r;
    it = calloc(1, sizeof(*it));
    if (!it)
        return -ENOMEM;
    cursor_init(&c, key + UID_LEN, HELD_KEY_LEN - UID_LEN);
    it->number = cursor_u64be(&c);
    it->time_ms = cursor_u64be(&c);
    cursor_copy(&c, it->hash, sizeof(it->hash));
    if (it->number > e->held_number)
        e->held_number = it->number;
    item_add(e, h, it);
    return 0;
}

int held_load(struct engine *e)
{
    return e->port.scan(e->port.ctx, MAP_HELD, "", 0, 0, load_visit, e);
}

bool held_has(struct engine *e, const uint8_t uid[UID_LEN], const uint8_t hash[32])
{
    const struct held_uid *h = held_find(e, uid);
    const struct held_item *it;
    if (!h)
        return false;
    TAILQ_FOREACH(it, &h->items, list)
    if (memcmp(it->hash, hash, sizeof(it->hash)) == 0)
        return true;
    return false;
}

/* A stranger may not take the last places: a contact with a newer device list needs one until the relay has
 * shown it. */
static bool held_room(struct engine *e, const uint8_t uid[UID_LEN])
{
    const struct contact *c = contact_find(e, uid);
    const struct held_uid *h = held_find(e, uid);
    size_t max = c && !c->held ? MAX_HELD : MAX_HELD - HELD_RESERVE;
    return e->n_held < max && (!h || h->n < MAX_HELD_PER_UID);
}

int held_put(struct engine *e, const uint8_t uid[UID_LEN], const char *name, const uint8_t hash[32],
        struct span body)
{
    uint8_t key[HELD_KEY_LEN];
    struct held_item *it;
    struct held_uid *h;
    int r;
    if (!held_room(e, uid))
        return event_error(
                e, "HELD_FULL", NULL, "too many messages of strangers are held; this one was dropped");
    it = calloc(1, sizeof(*it));
    if (!it)
        return -ENOMEM;
    r = held_get(e, uid, name, &h);
    if (r < 0) {
        free(it);
        return r;
    }
    it->number = ++e->held_number;
    it->time_ms = e->now;
    memcpy(it->hash, hash, sizeof(it->hash));
    item_add(e, h, it);
    item_key(h, it, key);
    return e->port.put(e->port.ctx, MAP_HELD, key, sizeof(key), body.p, body.n);
}

static int item_delete(struct engine *e, struct held_uid *h, struct held_item *it)
{
    uint8_t key[HELD_KEY_LEN];
    item_key(h, it, key);
    item_free(e, h, it);
    return e->port.del(e->port.ctx, MAP_HELD, key, sizeof(key));
}

/* Takes the first one out. */
static int held_take(struct engine *e, struct held_uid *h, struct buf *body)
{
    struct held_item *it = TAILQ_FIRST(&h->items);
    uint8_t key[HELD_KEY_LEN];
    int r;
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the analyzer does not see through TAILQ_REMOVE() */
    item_key(h, it, key);
    r = e->port.get(e->port.ctx, MAP_HELD, key, sizeof(key), body);
    if (r)
        return r < 0 ? r : -EBADMSG;
    return item_delete(e, h, it);
}

static int each(struct engine *e, const uint8_t uid[UID_LEN], int (*then)(struct engine *, struct span))
{
    CLEANUP_BUF struct buf body = {0};
    struct held_uid *h = held_find(e, uid);
    int r = 0;
    if (!h)
        return 0;
    buf_init(&body, RELAY_MAX_BODY);
    while (r == 0 && h->n) {
        r = held_take(e, h, &body);
        if (r == 0 && then)
            r = then(e, (struct span){.p = body.data, .n = body.len});
    }
    held_forget(e, h);
    return r;
}

int held_release(struct engine *e, const uint8_t uid[UID_LEN])
{
    return each(e, uid, inbox_again);
}

int held_drop(struct engine *e, const uint8_t uid[UID_LEN])
{
    return each(e, uid, NULL);
}

static int ask(struct engine *e, const struct held_uid *h)
{
    const struct contact *c = contact_find(e, h->uid);
    if (!c)
        return relay_lookup_stranger(e, h->uid, h->name);
    return c->held ? 0 : relay_lookup_uid(e, c->uid);
}

static int held_expire(struct engine *e, struct held_uid *h)
{
    struct held_item *it;
    int r = 0;
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the analyzer does not see through TAILQ_REMOVE() */
    while (r == 0 && (it = TAILQ_FIRST(&h->items)) && elapsed(e->now, it->time_ms) > HELD_MS) {
        r = item_delete(e, h, it);
        if (r == 0)
            r = event_error(e, "HELD_EXPIRED", contact_find(e, h->uid),
                    "a held message was dropped: its sender was not let in for 30 days");
    }
    if (!h->n)
        held_forget(e, h);
    return r;
}

static int expire_all(struct engine *e)
{
    int r = 0;
    for (size_t i = 0; i < e->held.n_slots; i++)
        for (struct table_node *n = e->held.slots[i], *next; r == 0 && n; n = next) {
            next = n->next;
            r = held_expire(e, container_of(n, struct held_uid, node));
        }
    return r;
}

/* A slot is asked about as a whole; the next round begins behind the last one. Only what is sent counts. */
static int ask_some(struct engine *e)
{
    size_t before = e->n_requests;
    int r = 0;
    for (size_t i = 0; r == 0 && i < e->held.n_slots && e->n_requests < before + HELD_ASK_MAX; i++) {
        size_t slot = e->held_slot++ & (e->held.n_slots - 1);
        for (struct table_node *n = e->held.slots[slot]; r == 0 && n; n = n->next)
            r = ask(e, container_of(n, struct held_uid, node));
    }
    return r;
}

int held_ask(struct engine *e)
{
    int r;
    if (!e->n_held || e->conn != CONN_ONLINE || elapsed(e->now, e->held_asked_ms) < HELD_ASK_MS)
        return 0;
    e->held_asked_ms = e->now;
    r = expire_all(e);
    return r == 0 ? ask_some(e) : r;
}
