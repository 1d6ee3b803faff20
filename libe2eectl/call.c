#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "text.h"

static struct call **bucket(struct e2eectl *h, uint32_t id)
{
    return &h->calls[id % CALL_BUCKETS];
}

struct call *call_remove(struct e2eectl *h, uint32_t id)
{
    for (struct call **at = bucket(h, id); *at; at = &(*at)->next) {
        struct call *c = *at;

        if (c->id == id) {
            *at = c->next;
            h->n_calls--;
            return c;
        }
    }
    return NULL;
}

void call_finish(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value)
{
    c->done(h, c, result, value);
    free(c);
}

void call_finish_all(struct e2eectl *h, int result, const char *text)
{
    for (size_t i = 0; i < CALL_BUCKETS; i++) {
        while (h->calls[i]) {
            struct call *c = h->calls[i];

            h->calls[i] = c->next;
            h->n_calls--;
            (void)error_set(&h->error, result, "%s", text);
            call_finish(h, c, result, NULL);
        }
    }
}

static int check_call(struct e2eectl *h, const char *method)
{
    size_t n = method ? strnlen(method, RPC_MAX_METHOD + 1) : 0;

    if (h->closing)
        return error_set(&h->error, -ECANCELED, "the handle is being closed");
    if (h->broken)
        return error_set(&h->error, h->broken, "the connection to the daemon has ended");
    if (n == 0 || n > RPC_MAX_METHOD || !text_valid_utf8(method, n))
        return error_set(&h->error, -EINVAL, "a method's name has 1 to %u bytes of UTF-8", RPC_MAX_METHOD);
    if (e2eectl_calls(h) >= E2EECTL_MAX_CALLS)
        return error_set(&h->error, -ENOBUFS, "%d calls are in flight", E2EECTL_MAX_CALLS);
    if (h->out.len - h->out_sent >= OUT_LIMIT)
        return error_set(&h->error, -ENOBUFS, "the daemon does not read: %u bytes wait for it", OUT_LIMIT);
    return 0;
}

static uint32_t free_id(struct e2eectl *h)
{
    for (;;) {
        uint32_t id = h->next_call++;
        const struct call *c = *bucket(h, id);

        while (c && c->id != id)
            c = c->next;
        if (!c)
            return id;
    }
}

/* A request that the daemon could not read would cost the connection, so it is measured here first. */
static int check_request(struct e2eectl *h, size_t before)
{
    const char *why = "";
    size_t len = h->out.len - before;
    int r = buf_status(&h->out);

    if (r == 0 && len > RPC_MAX_MESSAGE)
        r = -EMSGSIZE;
    if (r)
        return error_set(&h->error, r, "cannot write the request: %s", e2eectl_error_text(r));
    if (mp_measure(h->out.data + before, len, RPC_MAX_MESSAGE, &len, &why) != WIRE_OK)
        return error_set(&h->error, -EINVAL, "the parameters are not valid: %s", why);
    return 0;
}

static int write_request(struct e2eectl *h, uint32_t id, const char *method, const struct buf *map)
{
    size_t before = h->out.len;
    int r;

    rpc_put_request(&h->out, RPC_FRAMING_PLAIN, id, method, map);
    r = check_request(h, before);
    if (r) {
        h->out.len = before;
        h->out.error = 0;
    }
    return r;
}

int call_start(struct e2eectl *h, const char *method, const struct buf *map, struct call **ret_call)
{
    int r = check_call(h, method);
    struct call *c;

    if (r)
        return r;
    c = calloc(1, sizeof(*c));
    if (!c) {
        (void)error_set(&h->error, -ENOMEM, "no memory for a call");
        return -ENOMEM;
    }
    c->id = free_id(h);
    r = write_request(h, c->id, method, map);
    if (r) {
        free(c);
        return r;
    }
    c->next = *bucket(h, c->id);
    *bucket(h, c->id) = c;
    h->n_calls++;
    *ret_call = c;
    return 0;
}

static void async_done(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value)
{
    if (c->callback)
        c->callback(h, result, value, c->ctx);
    e2eectl_value_free(value);
}

int e2eectl_call_async(struct e2eectl *h, const char *method, const struct e2eectl_params *params,
        e2eectl_reply_fn callback, void *ctx, uint32_t *ret_call)
{
    struct call *c;
    struct buf map;
    int r = params_map(h, params, &map);

    if (r)
        return r;
    r = call_start(h, method, &map, &c);
    if (r)
        return r;
    c->done = async_done;
    c->callback = callback;
    c->ctx = ctx;
    if (ret_call)
        *ret_call = c->id;
    return 0;
}

void e2eectl_cancel(struct e2eectl *h, uint32_t call)
{
    free(call_remove(h, call));
}

size_t e2eectl_calls(const struct e2eectl *h)
{
    return h->n_calls - (h->greeting ? 1 : 0);
}

void sync_done(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value)
{
    struct sync *s = c->ctx;

    s->finished = true;
    s->result = result;
    s->value = value;
    if (result)
        error_move(&s->error, &h->error);
}

static bool sync_finished(const struct e2eectl *h, const void *ctx)
{
    const struct sync *s = ctx;

    (void)h;
    return s->finished;
}

/* The call did not end; what came of it meanwhile is dropped. */
static int give_up(struct e2eectl *h, uint32_t id, const char *method, int timeout_ms, int r)
{
    free(call_remove(h, id));
    if (r == -ETIMEDOUT)
        return error_set(&h->error, r, "no answer to %s within %d ms", method, timeout_ms);
    if (r == -ENOBUFS)
        return error_set(&h->error, r, "events that nobody takes stand before the answer to %s", method);
    return r;
}

static int wait_sync(struct e2eectl *h, const char *method, uint32_t id, int timeout_ms, struct sync *s)
{
    int r = client_await(h, sync_finished, s, timeout_ms);

    if (!s->finished)
        return give_up(h, id, method, timeout_ms, r);
    if (s->result)
        error_move(&h->error, &s->error);
    return s->result;
}

int call_wait(struct e2eectl *h, const char *method, const struct buf *map, int timeout_ms, call_done done,
        struct sync *s, struct e2eectl_value **ret_value)
{
    struct call *c;
    int r = client_enter(h);

    if (r)
        return r;
    r = call_start(h, method, map, &c);
    if (r)
        return client_leave(h, r);
    c->done = done;
    c->ctx = s;
    r = wait_sync(h, method, c->id, timeout_ms, s);
    r = client_leave(h, r);
    if (r == 0 && ret_value)
        *ret_value = s->value;
    else
        e2eectl_value_free(s->value);
    e2eectl_value_free(s->error.data);
    return r;
}

int e2eectl_call(struct e2eectl *h, const char *method, const struct e2eectl_params *params, int timeout_ms,
        struct e2eectl_value **ret_result)
{
    struct sync s = {.finished = false};
    struct buf map;
    int r = params_map(h, params, &map);

    return r ? r : call_wait(h, method, &map, timeout_ms, sync_done, &s, ret_result);
}

static int json_map(struct e2eectl *h, const char *json, struct buf *b)
{
    const char *why = "it cannot be read";
    size_t n = json ? strlen(json) : 0;
    struct mp_value v;
    int r;

    if (n == 0) {
        mp_put_map(b, 0);
        r = buf_status(b);
    } else {
        r = mp_from_json(b, json, n, &why);
    }
    if (r < 0)
        return error_set(&h->error, r, "the parameters are not valid: %s", e2eectl_error_text(r));
    if (r > 0)
        return error_set(&h->error, -EINVAL, "the parameters are not valid JSON: %s", why);
    mp_view(b->data, b->len, &v);
    if (v.type != MP_MAP)
        return error_set(
                &h->error, -EINVAL, "the parameters are to be a JSON object, not a %s", mp_type_name(v.type));
    return 0;
}

int e2eectl_call_json(struct e2eectl *h, const char *method, const char *params_json, int timeout_ms,
        char **ret_result_json)
{
    struct sync s = {.finished = false};
    CLEANUP_VALUE struct e2eectl_value *value = NULL;
    CLEANUP_BUF struct buf map = {0};
    int r;

    buf_init(&map, RPC_MAX_MESSAGE);
    r = json_map(h, params_json, &map);
    if (r)
        return r;
    r = call_wait(h, method, &map, timeout_ms, sync_done, &s, &value);
    if (r)
        return r;
    r = e2eectl_value_json(value, ret_result_json);
    return r ? error_set(&h->error, r, "no memory for the result") : 0;
}
