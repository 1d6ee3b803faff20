#include "rpc.h"

#include <errno.h>

static bool begins_array(uint8_t marker)
{
    return (marker & 0xf0) == 0x90 || marker == 0xdc || marker == 0xdd;
}

static bool begins_integer(uint8_t marker)
{
    return marker < 0x80 || marker >= 0xe0 || (marker >= 0xcc && marker <= 0xd3);
}

static int refuse(const char **ret_why, const char *why)
{
    *ret_why = why;
    return WIRE_MALFORMED;
}

static int detect(uint8_t marker, enum rpc_framing *framing, const char **ret_why)
{
    if (*framing == RPC_FRAMING_UNKNOWN && begins_array(marker))
        *framing = RPC_FRAMING_PLAIN;
    else if (*framing == RPC_FRAMING_UNKNOWN && begins_integer(marker))
        *framing = RPC_FRAMING_LENGTH;
    if (*framing == RPC_FRAMING_UNKNOWN)
        return refuse(ret_why, "not MessagePack-RPC: neither an array nor a length comes first");
    return WIRE_OK;
}

/* The length in front of a message and the whole message behind it. */
static int find_framed(const uint8_t *p, size_t n, size_t *ret_head, size_t *ret_len, const char **ret_why)
{
    struct mp_value length;
    size_t head, body, got;
    int r;

    if (!begins_integer(p[0]))
        return refuse(ret_why, "the length in front of a message is not an integer");
    r = mp_measure(p, n, 9, &head, ret_why);
    if (r == WIRE_INCOMPLETE)
        *ret_len = head + 1;
    if (r != WIRE_OK)
        return r;
    mp_view(p, n, &length);
    if (length.integer < 1 || length.integer > RPC_MAX_MESSAGE)
        return refuse(ret_why, "the length in front of a message is not within 1..1048576");
    body = (size_t)length.integer;
    if (n - head < body) {
        *ret_len = head + body;
        return WIRE_INCOMPLETE;
    }
    r = mp_measure(p + head, body, body, &got, ret_why);
    if (r == WIRE_OK && got != body)
        return refuse(ret_why, "a message does not fill its frame");
    if (r != WIRE_OK)
        return r;
    *ret_head = head;
    *ret_len = body;
    return WIRE_OK;
}

static bool is_u32(const struct mp_value *v)
{
    return v->type == MP_INT && v->integer >= 0 && v->integer <= UINT32_MAX;
}

static int read_kind(
        const struct mp_value *kind, uint32_t elements, enum rpc_kind *ret_kind, const char **ret_why)
{
    if (kind->type != MP_INT || kind->integer < RPC_REQUEST || kind->integer > RPC_NOTIFY)
        return refuse(ret_why, "a message does not begin with 0 (request), 1 (response) or 2 (notification)");
    *ret_kind = (enum rpc_kind)kind->integer;
    /* framed-msgpack-rpc of npm numbers its notifications, too. */
    if (elements != 4 && (*ret_kind != RPC_NOTIFY || elements != 3))
        return refuse(ret_why, "a request or response has 4 elements, a notification 3 or 4");
    return WIRE_OK;
}

static int check_method(const struct mp_value *method, const char **ret_why)
{
    /* Some clients send every string as bin, as Debian's pynvim does. */
    if (method->type != MP_STR && method->type != MP_BIN)
        return refuse(ret_why, "the method is not a string");
    if (method->count > RPC_MAX_METHOD)
        return refuse(ret_why, "the method is longer than 64 bytes");
    return WIRE_OK;
}

static int read_message(const uint8_t *p, size_t n, struct rpc_message *ret_m, const char **ret_why)
{
    struct mp_value whole, kind, id;
    struct rpc_message m = {0};
    struct mp_iter it;
    int r;

    mp_view(p, n, &whole);
    if (whole.type != MP_ARRAY || whole.count < 3)
        return refuse(ret_why, "a message is not an array of 3 or 4 elements");
    mp_iter_init(&it, &whole);
    (void)mp_next(&it, NULL, &kind);
    r = read_kind(&kind, whole.count, &m.kind, ret_why);
    if (r != WIRE_OK)
        return r;
    if (whole.count == 4) {
        (void)mp_next(&it, NULL, &id);
        if (!is_u32(&id))
            return refuse(ret_why, "the message id is not an integer within 0..4294967295");
        m.msgid = (uint32_t)id.integer;
    }
    (void)mp_next(&it, NULL, m.kind == RPC_RESPONSE ? &m.error : &m.method);
    (void)mp_next(&it, NULL, m.kind == RPC_RESPONSE ? &m.result : &m.params);
    if (m.kind != RPC_RESPONSE)
        r = check_method(&m.method, ret_why);
    if (r == WIRE_OK)
        *ret_m = m;
    return r;
}

int rpc_read(const void *bytes, size_t n, enum rpc_framing *framing, struct rpc_message *ret_m,
        size_t *ret_used, const char **ret_why)
{
    size_t head = 0, len = 1;
    const uint8_t *p = bytes;
    int r = WIRE_INCOMPLETE;

    if (n > 0)
        r = detect(p[0], framing, ret_why);
    if (r == WIRE_OK && *framing == RPC_FRAMING_LENGTH)
        r = find_framed(p, n, &head, &len, ret_why);
    else if (r == WIRE_OK && !begins_array(p[0]))
        r = refuse(ret_why, "a message is not an array");
    else if (r == WIRE_OK)
        r = mp_measure(p, n, RPC_MAX_MESSAGE, &len, ret_why);
    if (r == WIRE_OK)
        r = read_message(p + head, len, ret_m, ret_why);
    if (r != WIRE_MALFORMED)
        *ret_used = head + len;
    return r;
}

/* A frame's length stands in the 5-byte form, known at the end. */
struct frame {
    struct buf *b;
    enum rpc_framing framing;
    size_t at;
};

static struct frame frame_begin(struct buf *b, enum rpc_framing framing)
{
    struct frame f = {.b = b, .framing = framing, .at = b->len};

    if (framing == RPC_FRAMING_LENGTH) {
        buf_u8(b, 0xce);
        buf_u32be(b, 0);
    }
    return f;
}

static void frame_end(const struct frame *f)
{
    struct buf *b = f->b;
    size_t head = f->framing == RPC_FRAMING_LENGTH ? 5 : 0;

    if (!b->error && b->len - f->at - head > RPC_MAX_MESSAGE)
        b->error = -EMSGSIZE;
    if (b->error)
        buf_truncate(b, f->at);
    else if (head > 0)
        buf_patch_u32(b, f->at + 1, __builtin_bswap32((uint32_t)(b->len - f->at - head)));
}

static void put_value(struct buf *b, const struct buf *value)
{
    if (!value) {
        mp_put_nil(b);
        return;
    }
    if (value->error && !b->error)
        b->error = value->error;
    mp_put_raw(b, value->data, value->len);
}

void rpc_put_request(struct buf *b, enum rpc_framing framing, uint32_t msgid, const char *method,
        const struct buf *params_map)
{
    struct frame f = frame_begin(b, framing);

    mp_put_array(b, 4);
    mp_put_int(b, RPC_REQUEST);
    mp_put_uint(b, msgid);
    mp_put_str(b, method);
    mp_put_array(b, params_map ? 1 : 0);
    if (params_map)
        put_value(b, params_map);
    frame_end(&f);
}

void rpc_put_response(struct buf *b, enum rpc_framing framing, uint32_t msgid, const struct buf *error,
        const struct buf *result)
{
    struct frame f = frame_begin(b, framing);

    mp_put_array(b, 4);
    mp_put_int(b, RPC_RESPONSE);
    mp_put_uint(b, msgid);
    put_value(b, error);
    put_value(b, result);
    frame_end(&f);
}

void rpc_put_notify(
        struct buf *b, enum rpc_framing framing, const char *method, const void *param, size_t param_len)
{
    struct frame f = frame_begin(b, framing);

    mp_put_array(b, 3);
    mp_put_int(b, RPC_NOTIFY);
    mp_put_str(b, method);
    mp_put_array(b, 1);
    mp_put_raw(b, param, param_len);
    frame_end(&f);
}
