#include "buf.h"

#include <endian.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define BUF_MIN_CAP 128u

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_init_secret(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max, .secret = true};
}

static void release(const struct buf *b)
{
    if (b->secret && b->data)
        sodium_memzero(b->data, b->cap);
    free(b->data);
}

void buf_done(struct buf *b)
{
    release(b);
    b->data = NULL;
    b->len = b->cap = 0;
    b->error = 0;
}

void buf_truncate(struct buf *b, size_t len)
{
    if (len >= b->len)
        return;
    if (b->secret)
        sodium_memzero(b->data + len, b->len - len);
    b->len = len;
}

void buf_reset(struct buf *b)
{
    buf_truncate(b, 0);
    b->error = 0;
}

int buf_status(const struct buf *b)
{
    return b->error;
}

/* A secret block must not be moved by realloc(), which would leave a copy behind. */
static uint8_t *enlarge(const struct buf *b, size_t cap)
{
    uint8_t *data;

    if (!b->secret)
        return realloc(b->data, cap);
    data = malloc(cap);
    if (!data)
        return NULL;
    if (b->len > 0)
        memcpy(data, b->data, b->len);
    release(b);
    return data;
}

static bool grow(struct buf *b, size_t n)
{
    size_t cap;
    uint8_t *data;

    if (b->error)
        return false;
    if (n > b->max - b->len) {
        b->error = -EMSGSIZE;
        return false;
    }
    cap = b->cap > b->max / 2 ? b->max : b->cap * 2;
    if (cap < b->len + n)
        cap = b->len + n;
    if (cap < BUF_MIN_CAP && b->max >= BUF_MIN_CAP)
        cap = BUF_MIN_CAP;
    data = enlarge(b, cap);
    if (!data) {
        b->error = -ENOMEM;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

/* n > 0. */
static inline uint8_t *extend(struct buf *b, size_t n)
{
    uint8_t *p;

    if ((b->error || n > b->cap - b->len) && !grow(b, n))
        return NULL;
    p = b->data + b->len;
    b->len += n;
    return p;
}

/* The low n bytes of v. */
static inline void store_le(uint8_t *p, uint64_t v, size_t n)
{
    v = htole64(v);
    memcpy(p, &v, n);
}

static inline void store_be(uint8_t *p, uint64_t v, size_t n)
{
    v = htobe64(v);
    memcpy(p, (const uint8_t *)&v + sizeof(v) - n, n);
}

static inline void put_le(struct buf *b, uint64_t v, size_t n)
{
    uint8_t *p = extend(b, n);

    if (p)
        store_le(p, v, n);
}

static inline void put_be(struct buf *b, uint64_t v, size_t n)
{
    uint8_t *p = extend(b, n);

    if (p)
        store_be(p, v, n);
}

void buf_u8(struct buf *b, uint8_t v)
{
    put_le(b, v, 1);
}

void buf_u16(struct buf *b, uint16_t v)
{
    put_le(b, v, 2);
}

void buf_u32(struct buf *b, uint32_t v)
{
    put_le(b, v, 4);
}

void buf_u64(struct buf *b, uint64_t v)
{
    put_le(b, v, 8);
}

void buf_u32be(struct buf *b, uint32_t v)
{
    put_be(b, v, 4);
}

void buf_u64be(struct buf *b, uint64_t v)
{
    put_be(b, v, 8);
}

void buf_bytes(struct buf *b, const void *p, size_t n)
{
    uint8_t *to = n > 0 ? extend(b, n) : NULL;

    if (to)
        memcpy(to, p, n);
}

void buf_lp(struct buf *b, const void *p, size_t n)
{
    if (n > UINT32_MAX) {
        if (!b->error)
            b->error = -EMSGSIZE;
        return;
    }
    buf_u32(b, (uint32_t)n);
    buf_bytes(b, p, n);
}

void buf_zero(struct buf *b, size_t n)
{
    uint8_t *to = n > 0 ? extend(b, n) : NULL;

    if (to)
        memset(to, 0, n);
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    static uint8_t nothing;

    if (b->error)
        return NULL;
    return n > 0 ? extend(b, n) : &nothing;
}

static void patch(struct buf *b, size_t at, uint64_t v, size_t n)
{
    if (b->error)
        return;
    if (n > b->len || at > b->len - n)
        b->error = -EMSGSIZE;
    else
        store_le(b->data + at, v, n);
}

void buf_patch_u16(struct buf *b, size_t at, uint16_t v)
{
    patch(b, at, v, 2);
}

void buf_patch_u32(struct buf *b, size_t at, uint32_t v)
{
    patch(b, at, v, 4);
}

void cursor_init(struct cursor *c, const void *p, size_t n)
{
    static const uint8_t nothing;

    *c = (struct cursor){.p = p ? p : &nothing, .left = p ? n : 0};
}

void cursor_fail(struct cursor *c)
{
    c->failed = true;
    c->left = 0;
}

const uint8_t *cursor_take(struct cursor *c, size_t n)
{
    const uint8_t *p = c->p;

    if (c->failed || n > c->left) {
        cursor_fail(c);
        return NULL;
    }
    c->p += n;
    c->left -= n;
    return p;
}

static inline uint64_t get_le(struct cursor *c, size_t n)
{
    const uint8_t *p = cursor_take(c, n);
    uint64_t v = 0;

    if (p)
        memcpy(&v, p, n);
    return le64toh(v);
}

static inline uint64_t get_be(struct cursor *c, size_t n)
{
    const uint8_t *p = cursor_take(c, n);
    uint64_t v = 0;

    if (p)
        memcpy((uint8_t *)&v + sizeof(v) - n, p, n);
    return be64toh(v);
}

uint8_t cursor_u8(struct cursor *c)
{
    return (uint8_t)get_le(c, 1);
}

uint16_t cursor_u16(struct cursor *c)
{
    return (uint16_t)get_le(c, 2);
}

uint32_t cursor_u32(struct cursor *c)
{
    return (uint32_t)get_le(c, 4);
}

uint64_t cursor_u64(struct cursor *c)
{
    return get_le(c, 8);
}

uint32_t cursor_u32be(struct cursor *c)
{
    return (uint32_t)get_be(c, 4);
}

uint64_t cursor_u64be(struct cursor *c)
{
    return get_be(c, 8);
}

void cursor_copy(struct cursor *c, void *out, size_t n)
{
    const uint8_t *p = cursor_take(c, n);

    if (n == 0)
        return;
    if (p)
        memcpy(out, p, n);
    else
        memset(out, 0, n);
}

const uint8_t *cursor_lp(struct cursor *c, size_t max, size_t *ret_n)
{
    size_t n = cursor_u32(c);
    const uint8_t *p;

    *ret_n = 0;
    if (n > max)
        cursor_fail(c);
    p = cursor_take(c, n);
    if (p)
        *ret_n = n;
    return p;
}

int cursor_status(const struct cursor *c)
{
    return c->failed ? WIRE_MALFORMED : WIRE_OK;
}

int cursor_end(const struct cursor *c)
{
    return c->failed || c->left > 0 ? WIRE_MALFORMED : WIRE_OK;
}
