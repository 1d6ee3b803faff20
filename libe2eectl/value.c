#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

#define JSON_MAX (8u * RPC_MAX_MESSAGE) /* one byte becomes at most six ("\u0000") */

/*
 * The nodes of a tree stand in one block in the order of the encoding; behind them the encoded bytes, then
 * the strings.
 */
struct e2eectl_value {
    const char *key;
    const struct e2eectl_value *next;
    const uint8_t *raw;
    uint32_t raw_len;
    uint32_t count;
    enum e2eectl_type type;
    bool boolean;
    union {
        int64_t integer;
        double number;
        const void *bytes;
    } u;
};

struct builder {
    struct e2eectl_value *node; /* the next free one */
    char *chars;                /* the next free byte for strings */
    const uint8_t *from, *copy; /* the encoded bytes and our copy of them */
};

/* Recursion is bounded by MP_MAX_DEPTH, which whoever measured v has checked. */
static void tally(const struct mp_value *v, size_t *nodes, size_t *chars)
{
    struct mp_iter it;
    struct mp_value key, child;

    (*nodes)++;
    if (v->type == MP_STR)
        *chars += (size_t)v->count + 1;
    if (v->type != MP_ARRAY && v->type != MP_MAP)
        return;
    mp_iter_init(&it, v);
    while (mp_next(&it, v->type == MP_MAP ? &key : NULL, &child)) {
        if (v->type == MP_MAP)
            *chars += (size_t)key.count + 1;
        tally(&child, nodes, chars);
    }
}

static const char *copy_string(struct builder *b, const struct mp_value *v)
{
    char *s = b->chars;

    if (v->count > 0)
        memcpy(s, v->bytes, v->count);
    s[v->count] = '\0';
    b->chars += (size_t)v->count + 1;
    return s;
}

static void set_scalar(struct builder *b, struct e2eectl_value *node, const struct mp_value *v)
{
    static const enum e2eectl_type types[] = {
            [MP_NIL] = E2EECTL_NULL,
            [MP_BOOL] = E2EECTL_BOOL,
            [MP_INT] = E2EECTL_INT,
            [MP_FLOAT] = E2EECTL_DOUBLE,
            [MP_STR] = E2EECTL_STRING,
            [MP_BIN] = E2EECTL_BYTES,
            [MP_ARRAY] = E2EECTL_ARRAY,
            [MP_MAP] = E2EECTL_MAP,
    };

    node->type = types[v->type];
    node->raw = b->copy + (v->raw - b->from);
    node->raw_len = (uint32_t)v->raw_len;
    if (v->type == MP_BOOL)
        node->boolean = v->boolean;
    else if (v->type == MP_INT)
        node->u.integer = v->integer;
    else if (v->type == MP_FLOAT)
        node->u.number = v->number;
    else if (v->type != MP_NIL)
        node->count = v->count;
    if (v->type == MP_STR)
        node->u.bytes = copy_string(b, v);
    else if (v->type == MP_BIN)
        node->u.bytes = b->copy + (v->bytes - b->from);
}

static struct e2eectl_value *build(struct builder *b, const struct mp_value *v, const char *name)
{
    struct e2eectl_value *node = b->node++, *last = NULL;
    struct mp_iter it;
    struct mp_value key, child;

    *node = (struct e2eectl_value){.key = name};
    set_scalar(b, node, v);
    if (v->type != MP_ARRAY && v->type != MP_MAP)
        return node;
    mp_iter_init(&it, v);
    while (mp_next(&it, v->type == MP_MAP ? &key : NULL, &child)) {
        const char *s = v->type == MP_MAP ? copy_string(b, &key) : NULL;
        struct e2eectl_value *n = build(b, &child, s);

        if (last)
            last->next = n;
        last = n;
    }
    return node;
}

int value_new(const struct mp_value *v, struct e2eectl_value **ret_value, size_t *ret_size)
{
    size_t nodes = 0, chars = 0, size;
    struct e2eectl_value *root;
    struct builder b;
    uint8_t *copy;

    tally(v, &nodes, &chars);
    size = nodes * sizeof(*root) + v->raw_len + chars;
    root = malloc(size);
    if (!root)
        return -ENOMEM;
    copy = (uint8_t *)(root + nodes);
    memcpy(copy, v->raw, v->raw_len);
    b = (struct builder){.node = root, .chars = (char *)copy + v->raw_len, .from = v->raw, .copy = copy};
    (void)build(&b, v, NULL);
    *ret_value = root;
    *ret_size = size;
    return 0;
}

void e2eectl_value_free(struct e2eectl_value *value)
{
    free(value);
}

enum e2eectl_type e2eectl_value_type(const struct e2eectl_value *value)
{
    return value ? value->type : E2EECTL_NULL;
}

size_t e2eectl_value_count(const struct e2eectl_value *value)
{
    return value ? value->count : 0;
}

const struct e2eectl_value *e2eectl_value_first(const struct e2eectl_value *container)
{
    if (!container || (container->type != E2EECTL_ARRAY && container->type != E2EECTL_MAP))
        return NULL;
    return container->count > 0 ? container + 1 : NULL;
}

const struct e2eectl_value *e2eectl_value_next(const struct e2eectl_value *member)
{
    return member ? member->next : NULL;
}

const char *e2eectl_value_key(const struct e2eectl_value *member)
{
    return member ? member->key : NULL;
}

const struct e2eectl_value *e2eectl_value_get(const struct e2eectl_value *map, const char *key)
{
    const struct e2eectl_value *v = e2eectl_value_first(map);

    while (v && (!key || !v->key || strcmp(v->key, key) != 0))
        v = v->next;
    return v;
}

const char *e2eectl_value_string(const struct e2eectl_value *value)
{
    return value && value->type == E2EECTL_STRING ? value->u.bytes : NULL;
}

int64_t e2eectl_value_int(const struct e2eectl_value *value, int64_t otherwise)
{
    return value && value->type == E2EECTL_INT ? value->u.integer : otherwise;
}

bool e2eectl_value_bool(const struct e2eectl_value *value, bool otherwise)
{
    return value && value->type == E2EECTL_BOOL ? value->boolean : otherwise;
}

double e2eectl_value_double(const struct e2eectl_value *value, double otherwise)
{
    if (value && value->type == E2EECTL_INT)
        return (double)value->u.integer;
    return value && value->type == E2EECTL_DOUBLE ? value->u.number : otherwise;
}

const void *e2eectl_value_bytes(const struct e2eectl_value *value, size_t *ret_n)
{
    bool has = value && (value->type == E2EECTL_STRING || value->type == E2EECTL_BYTES);

    *ret_n = has ? value->count : 0;
    return has ? value->u.bytes : NULL;
}

const char *e2eectl_get_string(const struct e2eectl_value *map, const char *key)
{
    return e2eectl_value_string(e2eectl_value_get(map, key));
}

int64_t e2eectl_get_int(const struct e2eectl_value *map, const char *key, int64_t otherwise)
{
    return e2eectl_value_int(e2eectl_value_get(map, key), otherwise);
}

bool e2eectl_get_bool(const struct e2eectl_value *map, const char *key, bool otherwise)
{
    return e2eectl_value_bool(e2eectl_value_get(map, key), otherwise);
}

const void *e2eectl_get_bytes(const struct e2eectl_value *map, const char *key, size_t *ret_n)
{
    return e2eectl_value_bytes(e2eectl_value_get(map, key), ret_n);
}

int e2eectl_value_json(const struct e2eectl_value *value, char **ret_json)
{
    struct mp_value v;
    struct buf b;

    if (!value)
        return -EINVAL;
    buf_init(&b, JSON_MAX);
    mp_view(value->raw, value->raw_len, &v);
    mp_to_json(&b, &v);
    buf_u8(&b, 0);
    if (buf_status(&b)) {
        int r = buf_status(&b);
        buf_done(&b);
        return r;
    }
    *ret_json = (char *)b.data;
    return 0;
}
