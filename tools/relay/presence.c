/* WATCH and PRESENCE. A change is marked in the watch and told when there is room: never more than one
 * message waits. */
#include <errno.h>
#include <string.h>

#include "hub.h"

static void unlink_watch(struct hub *h, struct watch *w)
{
    *w->prev_of_device = w->next_of_device;
    if (w->next_of_device)
        w->next_of_device->prev_of_device = w->prev_of_device;
    hub_release_device(h, w->device);
    free(w);
}

static void drop_oldest(struct conn *c)
{
    struct watch *w = c->watches;

    c->watches = w->next;
    if (!c->watches)
        c->watch_tail = &c->watches;
    c->watch_count--;
    unlink_watch(c->hub, w);
}

void presence_close(struct conn *c)
{
    while (c->watches)
        drop_oldest(c);
    c->presence_due = false;
}

static bool watches(const struct conn *c, const struct device *d)
{
    for (const struct watch *w = c->watches; w; w = w->next) {
        if (w->device == d)
            return true;
    }
    return false;
}

static bool add_watch(struct conn *c, const struct address *who)
{
    struct device *d = hub_get_device(c->hub, who);
    struct watch *w;

    if (!d)
        return false;
    if (watches(c, d))
        return true;
    w = calloc(1, sizeof(*w));
    if (!w) {
        hub_release_device(c->hub, d);
        return false;
    }
    *w = (struct watch){
            .device = d, .conn = c, .next_of_device = d->watchers, .prev_of_device = &d->watchers};
    if (d->watchers)
        d->watchers->prev_of_device = &w->next_of_device;
    d->watchers = w;
    *c->watch_tail = w;
    c->watch_tail = &w->next;
    if (++c->watch_count > RELAY_MAX_WATCH)
        drop_oldest(c);
    return true;
}

static bool is_connected(struct hub *h, const struct address *who)
{
    const struct device *d = hub_find_device(h, who);

    return d && d->conn;
}

void presence_watch(struct conn *c, uint32_t ref, struct cursor *fields)
{
    struct cursor items;
    struct address who;
    struct buf b;
    uint16_t n;

    if (relay_read_count(fields, 0, RELAY_MAX_WATCH, &n) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed WATCH: a count and at most 256 addresses");
        return;
    }
    items = *fields;
    for (uint16_t i = 0; i < n; i++)
        (void)!relay_next_watch(fields, &who);
    if (cursor_end(fields) != WIRE_OK) {
        conn_fail(c, ref, RELAY_ERR_BAD_MESSAGE, 0, "malformed WATCH: not the addresses that its count says");
        return;
    }
    if (conn_limited(c, ref, LIMIT_LOOKUP, c->who.uid, UID_LEN))
        return;
    if (n == 0)
        presence_close(c);
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_begin(&b, RELAY_PRESENCE, ref);
    while (n-- > 0 && relay_next_watch(&items, &who) == WIRE_OK) {
        const struct relay_presence_item item = {.who = who, .connected = is_connected(c->hub, &who)};

        if (!add_watch(c, &who))
            b.error = -ENOMEM;
        relay_add_presence(&b, &item);
    }
    conn_send(c, &b);
}

void presence_changed(struct device *d)
{
    for (struct watch *w = d->watchers; w; w = w->next_of_device) {
        w->changed = true;
        if (!w->conn->presence_due) {
            w->conn->presence_due = true;
            if (w->conn->io)
                w->conn->wake(w->conn->io);
        }
    }
}

bool presence_next(struct conn *c, struct buf *b)
{
    relay_begin(b, RELAY_PRESENCE, 0);
    for (struct watch *w = c->watches; w; w = w->next) {
        const struct relay_presence_item item = {
                .who = w->device->address, .connected = w->device->conn != NULL};

        if (w->changed)
            relay_add_presence(b, &item);
        w->changed = false;
    }
    c->presence_due = false;
    return relay_batch_count(b) > 0;
}
