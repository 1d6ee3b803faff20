#include <errno.h>
#include <stdlib.h>

#include "client.h"

static int on_response(struct e2eectl *h, const struct rpc_message *m)
{
    struct call *c = call_remove(h, m->msgid);
    struct e2eectl_value *value = NULL;
    size_t size;
    int r;

    if (!c)
        return 0;
    if (m->error.type != MP_NIL)
        r = error_from_reply(&h->error, &m->error);
    else
        r = value_new(&m->result, &value, &size);
    if (r < 0)
        (void)error_set(&h->error, r, "no memory for an answer");
    call_finish(h, c, r, value);
    return 0;
}

static int queue_event(struct e2eectl *h, struct e2eectl_value *value, size_t size)
{
    struct queued_event *q = malloc(sizeof(*q));

    if (!q) {
        e2eectl_value_free(value);
        return error_set(&h->error, -ENOMEM, "no memory for an event");
    }
    *q = (struct queued_event){.value = value, .size = size};
    *h->last_event = q;
    h->last_event = &q->next;
    h->event_bytes += size;
    return 0;
}

struct e2eectl_value *event_take(struct e2eectl *h)
{
    struct queued_event *q = h->first_event;
    struct e2eectl_value *value;

    if (!q)
        return NULL;
    value = q->value;
    h->event_bytes -= q->size;
    h->first_event = q->next;
    if (!h->first_event)
        h->last_event = &h->first_event;
    free(q);
    return value;
}

static int on_notify(struct e2eectl *h, const struct rpc_message *m)
{
    struct mp_iter it;
    struct mp_value event;
    struct e2eectl_value *value;
    size_t size;

    if (!mp_str_eq(&m->method, "event"))
        return 0;
    if (m->params.type != MP_ARRAY || m->params.count != 1)
        return error_set(&h->error, -EBADMSG, "the daemon sent a notification without its one event");
    mp_iter_init(&it, &m->params);
    if (!mp_next(&it, NULL, &event) || event.type != MP_MAP)
        return error_set(&h->error, -EBADMSG, "the daemon sent an event that is no map");
    if (value_new(&event, &value, &size))
        return error_set(&h->error, -ENOMEM, "no memory for an event");
    if (!h->on_event)
        return queue_event(h, value, size);
    h->on_event(h, value, h->on_event_ctx);
    e2eectl_value_free(value);
    return 0;
}

int message_next(struct e2eectl *h)
{
    struct rpc_message m;
    const char *why = "";
    size_t there = h->in.len - h->in_used, used;
    int r;

    if (there == 0 || there < h->in_want)
        return 0;
    r = rpc_read(h->in.data + h->in_used, there, &h->framing, &m, &used, &why);
    if (r == WIRE_INCOMPLETE) {
        h->in_want = used;
        return 0;
    }
    if (r != WIRE_OK)
        return error_set(&h->error, -EBADMSG, "the daemon sent what is no MessagePack-RPC: %s", why);
    h->in_want = 0;
    h->in_used += used;
    if (m.kind == RPC_RESPONSE)
        r = on_response(h, &m);
    else if (m.kind == RPC_NOTIFY)
        r = on_notify(h, &m);
    else
        r = error_set(&h->error, -EBADMSG, "the daemon sent a request");
    return r ? r : 1;
}
