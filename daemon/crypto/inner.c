#include <string.h>

#include "inner.h"
#include "kdf.h"
#include "padding.h"

bool inner_ok(const struct inner *in)
{
    return in->type >= INNER_MESSAGE && in->type <= INNER_NOTICE &&
           !(in->flags & ~(INNER_TEXT | INNER_UNCOUNTED)) && in->body.n <= INNER_MAX_BODY;
}

size_t inner_padded_length(const struct inner *in)
{
    return padded_length(INNER_FIXED_LEN + in->body.n);
}

static void put_list(struct buf *b, const struct list_ref *list)
{
    buf_u64(b, list->n);
    buf_bytes(b, list->hash, LIST_HASH_LEN);
}

void inner_encode(const struct inner *in, uint8_t *ret_bytes)
{
    size_t n = inner_padded_length(in);
    struct buf b = buf_over(ret_bytes, n);
    buf_u8(&b, in->type);
    buf_u8(&b, in->flags);
    buf_bytes(&b, in->id.b, MESSAGE_ID_LEN);
    buf_u64(&b, in->count);
    buf_u64(&b, in->time_ms);
    buf_u64(&b, in->seq);
    buf_u64(&b, in->seen);
    put_list(&b, &in->own);
    put_list(&b, &in->peer);
    buf_lp(&b, in->body.p, in->body.n);
    buf_zero(&b, n - b.len);
}

static void get_list(struct cursor *c, struct list_ref *list)
{
    list->n = cursor_u64(c);
    cursor_copy(c, list->hash, LIST_HASH_LEN);
}

/* The bytes are authenticated by now: how long this takes is nobody's lever. */
static bool all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

bool inner_decode(const uint8_t *p, size_t n, struct inner *ret_inner)
{
    struct inner in;
    struct cursor c;

    cursor_init(&c, p, n);
    in.type = cursor_u8(&c);
    in.flags = cursor_u8(&c);
    /* cppcheck-suppress uninitvar ; this is what fills it */
    cursor_copy(&c, in.id.b, MESSAGE_ID_LEN);
    in.count = cursor_u64(&c);
    in.time_ms = cursor_u64(&c);
    in.seq = cursor_u64(&c);
    in.seen = cursor_u64(&c);
    get_list(&c, &in.own);
    get_list(&c, &in.peer);
    in.body.p = cursor_lp(&c, INNER_MAX_BODY, &in.body.n);
    if (cursor_status(&c) != WIRE_OK || !inner_ok(&in) || in.seq == 0)
        return false;
    if (inner_padded_length(&in) != n || !all_zero(c.p, c.left))
        return false;
    *ret_inner = in;
    return true;
}
