/* Envelopes that must wait until their sender is known and let in. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define HELD_KEY_LEN (UID_LEN + 8u)

static struct held_uid *held_find(struct engine *e, const uint8_t uid[UID_LEN])
{
    struct table_node *node = table_get(&e->held, uid);
    return node ? container_of(node, struct held_uid, node) : NULL;
}

static int held_get(struct engine *e, const uint8_t uid[UID_LEN], const char *name, struct held_uid **ret_held)
{
    struct held_uid *h = held_find(e, uid);
    int r;
    if (!h) {
        h = calloc(1, sizeof(*h));
        if (!h)
            return -ENOMEM;
        memcpy(h->uid, uid, UID_LEN);
        (void)snprintf(h->name, sizeof(h->name), "%s", name);
        r = table_add(&e->held, &h->node, h->uid);
        if (r < 0) {
            free(h);
            return r;
        }
    }
    *ret_held = h;
    return 0;
}

static void held_forget(struct engine *e, struct held_uid *h)
{
    table_del(&e->held, &h->node);
    free(h);
}

/* The name in the device list entry of a first message; it was verified when it came. */
static void claimed_name(const uint8_t *body, size_t n, char ret_name[RELAY_MAX_NAME + 1])
{
    struct envelope_view v;
    struct entry entry;
    ret_name[0] = 0;
    if (envelope_parse(body, n, &v) == 0 && v.has_handshake && entry_parse(v.entry.p, v.entry.n, &entry) == WIRE_OK)
        (void)snprintf(ret_name, RELAY_MAX_NAME + 1, "%.*s", (int)entry.name.n, (const char *)entry.name.p);
}

static int load_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct engine *e = ctx;
    char name[RELAY_MAX_NAME + 1];
    struct held_uid *h;
    struct cursor c;
    uint64_t number;
    int r;
    if (key_len != HELD_KEY_LEN)
        return -EBADMSG;
    cursor_init(&c, key + UID_LEN, 8);
    number = cursor_u64be(&c);
    if (number > e->held_number)
        e->held_number = number;
    claimed_name(value, n, name);
    r = held_get(e, key, name, &h);
    if (r < 0)
        return r;
    h->n++;
    e->n_held++;
    return 0;
}

int held_load(struct engine *e)
{
    return e->port.scan(e->port.ctx, MAP_HELD, "", 0, 0, load_visit, e);
}

int held_put(struct engine *e, const uint8_t uid[UID_LEN], const char *name, struct span body)
{
    uint64_t number = ++e->held_number;
    uint8_t key[HELD_KEY_LEN];
    struct held_uid *h = held_find(e, uid);
    int r;
    if (e->n_held >= MAX_HELD || (h && h->n >= MAX_HELD_PER_UID))
        return event_error(e, "HELD_FULL", NULL, "too many messages of strangers are held; this one was dropped");
    r = held_get(e, uid, name, &h);
    if (r < 0)
        return r;
    memcpy(key, uid, UID_LEN);
    for (unsigned i = 0; i < 8; i++)
        key[UID_LEN + i] = (uint8_t)(number >> (56 - 8 * i));
    h->n++;
    e->n_held++;
    return e->port.put(e->port.ctx, MAP_HELD, key, sizeof(key), body.p, body.n);
}

struct first {
    bool found;
    uint8_t key[HELD_KEY_LEN];
    struct buf body;
};

static int first_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct first *f = ctx;
    if (key_len != HELD_KEY_LEN)
        return -EBADMSG;
    f->found = true;
    memcpy(f->key, key, key_len);
    buf_reset(&f->body);
    buf_bytes(&f->body, value, n);
    return 1;
}

/* Takes the first one out. 0, or 1: there is none. */
static int held_take(struct engine *e, struct held_uid *h, struct first *f)
{
    int r;
    f->found = false;
    r = e->port.scan(e->port.ctx, MAP_HELD, h->uid, UID_LEN, UID_LEN, first_visit, f);
    if (r >= 0)
        r = buf_status(&f->body);
    if (r < 0)
        return r;
    if (!f->found)
        return 1;
    h->n--;
    e->n_held--;
    return e->port.del(e->port.ctx, MAP_HELD, f->key, HELD_KEY_LEN);
}

static int each(struct engine *e, const uint8_t uid[UID_LEN], int (*then)(struct engine *, struct span))
{
    struct first f = {0};
    struct held_uid *h = held_find(e, uid);
    int r = 0;
    if (!h)
        return 0;
    buf_init(&f.body, RELAY_MAX_BODY);
    while (r == 0 && h->n) {
        r = held_take(e, h, &f);
        if (r == 0 && then)
            r = then(e, (struct span){.p = f.body.data, .n = f.body.len});
    }
    buf_done(&f.body);
    held_forget(e, h);
    return r < 0 ? r : 0;
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

int held_ask(struct engine *e)
{
    unsigned asked = 0;
    int r = 0;
    if (!e->n_held || e->conn != CONN_ONLINE || elapsed(e->now, e->held_asked_ms) < HELD_ASK_MS)
        return 0;
    e->held_asked_ms = e->now;
    for (size_t i = 0; r == 0 && i < e->held.n_slots; i++)
        for (struct table_node *n = e->held.slots[i]; r == 0 && n && asked < HELD_ASK_MAX; n = n->next, asked++)
            r = ask(e, container_of(n, struct held_uid, node));
    return r;
}
