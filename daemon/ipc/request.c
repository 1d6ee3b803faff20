#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "text.h"

/* "NAME: text" in valid UTF-8, whatever the text was made from. */
static void error_line(char line[IPC_MAX_ERROR_TEXT + 1], const char *name, const char *text)
{
    size_t n;

    (void)snprintf(line, IPC_MAX_ERROR_TEXT + 1, "%s%s%s", name, name[0] ? ": " : "", text);
    n = text_cut(line, IPC_MAX_ERROR_TEXT - 4);
    if (line[n] != '\0')
        line[n] = '\0';
    if (text_valid_utf8(line, n))
        return;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] >= 0x80)
            line[i] = '?';
}

static void error_put_map(
        struct buf *b, const struct api_error_info *info, uint32_t retry_after_ms, const char *text)
{
    char line[IPC_MAX_ERROR_TEXT + 1];

    error_line(line, "", text);
    mp_put_map(b, retry_after_ms > 0 ? 4 : 3);
    mp_put_str(b, "code");
    mp_put_uint(b, info->code);
    mp_put_str(b, "name");
    mp_put_str(b, info->name);
    mp_put_str(b, "message");
    mp_put_str(b, line);
    if (retry_after_ms > 0) {
        mp_put_str(b, "retry_after_ms");
        mp_put_uint(b, retry_after_ms);
    }
}

void error_put(struct buf *b, enum error_shape shape, enum api_error error, uint32_t retry_after_ms,
        const char *text)
{
    const struct api_error_info *info = api_error_info(error);
    char line[IPC_MAX_ERROR_TEXT + 1];

    if (!info)
        info = api_error_info(API_INTERNAL);
    if (shape == ERRORS_MAP) {
        error_put_map(b, info, retry_after_ms, text);
        return;
    }
    error_line(line, info->name, text);
    if (shape == ERRORS_ARRAY) {
        mp_put_array(b, 2);
        mp_put_uint(b, info->validation ? 1 : 0);
    }
    mp_put_str(b, line);
}

static void put_error_response(struct buf *out, const struct ipc_client *c, uint32_t msgid,
        enum api_error error, uint32_t retry_after_ms, const char *text)
{
    CLEANUP_BUF struct buf value = {0};

    buf_init(&value, 2 * IPC_MAX_ERROR_TEXT);
    error_put(&value, c->errors, error, retry_after_ms, text);
    if (buf_status(&value) && !out->error)
        out->error = buf_status(&value);
    rpc_put_response(out, c->framing, msgid, &value, NULL);
}

static bool queue_overflows(const struct ipc_client *c, size_t n)
{
    return client_queued(c) + n > IPC_MAX_QUEUE;
}

void request_refuse(
        struct ipc_client *c, uint32_t msgid, enum api_error error, uint32_t retry_after_ms, const char *text)
{
    struct buf *out = output_buf(c, IPC_MAX_ERROR_TEXT);

    put_error_response(out, c, msgid, error, retry_after_ms, text);
    c->broken = c->broken || buf_status(out) || queue_overflows(c, 0);
}

/* Why result cannot be the answer; API_OK if it can. */
static enum api_error judge_result(
        const struct ipc_client *c, const struct buf *result, char text[API_MAX_TEXT])
{
    int status = buf_status(result);

    if (status == -EMSGSIZE || result->len + IPC_FRAMING_BYTES > RPC_MAX_MESSAGE) {
        (void)snprintf(text, API_MAX_TEXT,
                "the answer is longer than the %u bytes of a message; ask for less at once", RPC_MAX_MESSAGE);
        return API_TOO_LARGE;
    }
    if (status) {
        (void)snprintf(
                text, API_MAX_TEXT, "out of memory for the answer; the request itself was carried out");
        return API_INTERNAL;
    }
    if (queue_overflows(c, result->len + IPC_ERROR_RESERVE)) {
        (void)snprintf(text, API_MAX_TEXT,
                "the request was carried out, but more than %u bytes of answers wait to be read",
                IPC_MAX_QUEUE);
        return API_QUEUE_FULL;
    }
    return API_OK;
}

void request_answer(struct ipc_client *c, uint32_t msgid, const struct buf *result)
{
    char text[API_MAX_TEXT];
    enum api_error error = judge_result(c, result, text);
    struct buf *out;

    if (error != API_OK) {
        request_refuse(c, msgid, error, 0, text);
        return;
    }
    out = output_buf(c, result->len + IPC_FRAMING_BYTES);
    rpc_put_response(out, c->framing, msgid, NULL, result);
    c->broken = c->broken || buf_status(out);
}

/* The message id of a request whose rest could not be read. */
static bool salvage_uint(struct cursor *c, uint64_t *ret_value)
{
    uint8_t tag = cursor_u8(c);
    uint64_t v = 0;

    if (tag >= 0xcc && tag <= 0xcf) {
        for (unsigned n = 1u << (tag - 0xcc); n; n--)
            v = v << 8 | cursor_u8(c);
    } else if (tag < 0x80) {
        v = tag;
    } else {
        return false;
    }
    *ret_value = v;
    return cursor_status(c) == WIRE_OK;
}

static bool salvage_msgid(const void *p, size_t n, enum rpc_framing framing, uint32_t *ret_msgid)
{
    struct cursor c;
    uint64_t v;

    cursor_init(&c, p, n);
    if (framing == RPC_FRAMING_LENGTH && !salvage_uint(&c, &v))
        return false;
    if (cursor_u8(&c) != 0x94)
        return false;
    if (cursor_u8(&c) != RPC_REQUEST || !salvage_uint(&c, &v) || v > UINT32_MAX)
        return false;
    *ret_msgid = (uint32_t)v;
    return true;
}

void request_notify_error(struct ipc_client *c, enum api_error error, const char *text)
{
    CLEANUP_BUF struct buf value = {0};
    struct buf *out = output_buf(c, IPC_MAX_ERROR_TEXT);

    buf_init(&value, 2 * IPC_MAX_ERROR_TEXT);
    error_put(&value, c->errors, error, 0, text);
    rpc_put_notify(out, c->framing, "error", value.data, value.len);
    c->broken = c->broken || buf_status(&value) || buf_status(out);
}

void request_malformed(struct ipc_client *c, const void *p, size_t n, const char *why)
{
    uint32_t msgid;

    if (c->framing == RPC_FRAMING_UNKNOWN)
        c->framing = RPC_FRAMING_PLAIN;
    if (salvage_msgid(p, n, c->framing, &msgid))
        request_refuse(c, msgid, API_PARSE_ERROR, 0, why);
    else
        request_notify_error(c, API_PARSE_ERROR, why);
    client_end(c);
}

static struct ipc_request *request_new(struct ipc_client *c, uint32_t msgid)
{
    struct ipc_request *req = calloc(1, sizeof(*req));

    if (!req)
        return NULL;
    req->client = c;
    req->uid = c->uid;
    req->msgid = msgid;
    LIST_INSERT_HEAD(&c->pending, req, link);
    c->n_pending++;
    return req;
}

static void refuse_surplus(struct ipc_client *c, uint32_t msgid)
{
    char text[API_MAX_TEXT];

    (void)snprintf(
            text, sizeof(text), "at most %u programs may be connected; try again later", IPC_MAX_CLIENTS);
    request_refuse(c, msgid, API_QUEUE_FULL, IPC_ACCEPT_PAUSE_MS, text);
    client_end(c);
}

void request_dispatch(struct ipc_client *c, const struct rpc_message *m)
{
    char text[API_MAX_TEXT];
    const struct api_method *method;
    struct mp_value params;
    struct ipc_request *req;
    int r;

    if (m->kind != RPC_REQUEST)
        return;
    c->surplus = c->surplus && c->ipc->n_clients > IPC_MAX_CLIENTS;
    if (c->surplus) {
        refuse_surplus(c, m->msgid);
        return;
    }
    method = api_find_method(m->method.bytes, m->method.count);
    if (!method) {
        unknown_method_text(text, sizeof(text), m->method.bytes, m->method.count);
        request_refuse(c, m->msgid, API_METHOD_NOT_FOUND, 0, text);
        return;
    }
    r = api_check_params(method, &m->params, &params, text);
    if (r != 0) {
        request_refuse(c, m->msgid, r < 0 ? API_INTERNAL : (enum api_error)r, 0, r < 0 ? strerror(-r) : text);
        return;
    }
    if (builtin_call(c, m->msgid, method, &params))
        return;
    req = request_new(c, m->msgid);
    if (req)
        c->ipc->callbacks->call(c->ipc->ctx, req, method, &params);
    else
        request_refuse(c, m->msgid, API_INTERNAL, 0, "out of memory");
}

/* Takes the answered request off its client and frees it. Its client, or NULL. */
static struct ipc_client *request_done(struct ipc_request *req)
{
    struct ipc_client *c = req->client;

    if (c) {
        LIST_REMOVE(req, link);
        c->n_pending--;
        buf_u32(&c->held_ids, req->msgid);
        if (!c->has_held)
            TAILQ_INSERT_TAIL(&c->ipc->held, c, held_link);
        c->has_held = true;
    }
    free(req);
    return c;
}

static void hold_error(
        struct ipc_client *c, uint32_t msgid, enum api_error error, uint32_t retry_after_ms, const char *text)
{
    put_error_response(&c->held, c, msgid, error, retry_after_ms, text);
    if (queue_overflows(c, 0) && !c->held.error)
        c->held.error = -EMSGSIZE;
}

void ipc_reply(struct ipc_request *req, const struct buf *result)
{
    uint8_t none[] = {0x80};
    const struct buf empty = {.data = none, .len = sizeof(none)};
    struct ipc_request copy = *req;
    struct ipc_client *c = request_done(req);
    char text[API_MAX_TEXT];
    enum api_error error;

    if (!c)
        return;
    if (!result)
        result = &empty;
    error = judge_result(c, result, text);
    if (error != API_OK) {
        hold_error(c, copy.msgid, error, 0, text);
        return;
    }
    rpc_put_response(&c->held, c->framing, copy.msgid, NULL, result);
    if (copy.subscribes) {
        c->staged = true;
        c->next_subscription = copy.subscription;
    }
}

void ipc_fail(struct ipc_request *req, enum api_error error, uint32_t retry_after_ms, const char *fmt, ...)
{
    uint32_t msgid = req->msgid;
    struct ipc_client *c = request_done(req);
    char text[IPC_MAX_ERROR_TEXT];
    va_list ap;

    if (!c)
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    hold_error(c, msgid, error, retry_after_ms, text);
}

void ipc_subscribe(struct ipc_request *req, uint64_t after, uint64_t types)
{
    req->subscribes = true;
    req->subscription = (struct subscription){.active = true, .cursor = after, .types = types};
}

void ipc_unsubscribe(struct ipc_request *req)
{
    req->subscribes = true;
    req->subscription = (struct subscription){.active = false};
}

uid_t ipc_request_uid(const struct ipc_request *req)
{
    return req->uid;
}
