#include <errno.h>

#include "client.h"

/* A call whose success changes who receives events, at the very message that tells of it. */
struct subscription {
    struct sync sync;
    e2eectl_event_fn callback;
    void *ctx;
};

static void subscribed(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value)
{
    const struct subscription *s = c->ctx;

    if (result == 0) {
        h->on_event = s->callback;
        h->on_event_ctx = s->ctx;
    }
    sync_done(h, c, result, value);
}

static int subscribe(struct e2eectl *h, const char *method, const struct e2eectl_params *p,
        e2eectl_event_fn callback, void *ctx)
{
    struct subscription s = {.callback = callback, .ctx = ctx};
    struct buf map;
    int r = params_map(h, p, &map);

    return r ? r : call_wait(h, method, &map, h->timeout_ms, subscribed, &s.sync, NULL);
}

int e2eectl_subscribe(struct e2eectl *h, const struct e2eectl_subscribe_options *options,
        e2eectl_event_fn callback, void *ctx)
{
    struct e2eectl_subscribe_options o = {.size = 0};
    CLEANUP_PARAMS struct e2eectl_params *p = NULL;
    int r = options_copy(&o, sizeof(o), options);

    if (r)
        return error_set(&h->error, r,
                "the options are not valid: set size to sizeof, and no members that this release does not "
                "know");
    p = e2eectl_params_new();
    e2eectl_params_string(p, "consumer", o.consumer);
    if (o.has_after)
        e2eectl_params_int(p, "after", o.after > MP_MAX_INT ? MP_MAX_INT : (int64_t)o.after);
    if (o.types)
        e2eectl_params_strings(p, "types", o.types, o.n_types);
    return subscribe(h, "subscribe", p, callback, ctx);
}

int e2eectl_unsubscribe(struct e2eectl *h)
{
    return subscribe(h, "unsubscribe", NULL, NULL, NULL);
}

static bool has_event(const struct e2eectl *h, const void *ctx)
{
    (void)ctx;
    return h->first_event != NULL;
}

int e2eectl_next_event(struct e2eectl *h, int timeout_ms, struct e2eectl_value **ret_event)
{
    int r = client_enter(h);

    if (r)
        return r;
    if (!h->first_event)
        r = client_await(h, has_event, NULL, timeout_ms);
    if (r == -ETIMEDOUT)
        (void)error_set(&h->error, r, "no event within %d ms", timeout_ms);
    r = client_leave(h, r);
    if (r == 0)
        *ret_event = event_take(h);
    return r;
}

int e2eectl_ack(struct e2eectl *h, const char *consumer, uint64_t seq)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "consumer", consumer);
    e2eectl_params_int(p, "seq", seq > MP_MAX_INT ? MP_MAX_INT : (int64_t)seq);
    return e2eectl_call(h, "ack", p, h->timeout_ms, NULL);
}
