#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "text.h"

struct e2eectl_params {
    struct buf b;
    struct mp_map map;
    int error;
};

/* What e2eectl_params_new() gives without memory: it carries its error and is never written to. */
static struct e2eectl_params no_memory = {.error = -ENOMEM};

struct e2eectl_params *e2eectl_params_new(void)
{
    struct e2eectl_params *p = calloc(1, sizeof(*p));

    if (!p)
        return &no_memory;
    buf_init(&p->b, RPC_MAX_MESSAGE);
    mp_map_begin(&p->map, &p->b);
    return p;
}

void e2eectl_params_free(struct e2eectl_params *params)
{
    if (!params || params == &no_memory)
        return;
    buf_done(&params->b);
    free(params);
}

int e2eectl_params_status(const struct e2eectl_params *params)
{
    if (!params)
        return 0;
    return params->error ? params->error : buf_status(&params->b);
}

static void fail(struct e2eectl_params *p, int error)
{
    if (!p->error)
        p->error = error;
}

static bool has_key(struct e2eectl_params *p, const char *key)
{
    struct mp_value map, v;

    mp_map_end(&p->map);
    mp_view(p->b.data, p->b.len, &map);
    return mp_map_get(&map, key, &v);
}

/* Writes the key; NULL if nothing may follow. */
static struct buf *begin(struct e2eectl_params *p, const char *key)
{
    if (e2eectl_params_status(p))
        return NULL;
    if (!key)
        fail(p, -EINVAL);
    else if (!text_valid_utf8(key, strlen(key)))
        fail(p, -EILSEQ);
    else if (has_key(p, key))
        fail(p, -EEXIST);
    else if (p->map.pairs >= MP_MAX_PAIRS)
        fail(p, -EMSGSIZE);
    else
        return mp_key(&p->map, key);
    return NULL;
}

void e2eectl_params_text(struct e2eectl_params *params, const char *key, const char *value, size_t n)
{
    struct buf *b;

    if (!text_valid_utf8(value, n)) {
        if (!e2eectl_params_status(params))
            fail(params, -EILSEQ);
        return;
    }
    b = begin(params, key);
    if (b)
        mp_put_strn(b, value, n);
}

void e2eectl_params_string(struct e2eectl_params *params, const char *key, const char *value)
{
    if (value)
        e2eectl_params_text(params, key, value, strlen(value));
}

void e2eectl_params_bytes(struct e2eectl_params *params, const char *key, const void *value, size_t n)
{
    struct buf *b = begin(params, key);

    if (b)
        mp_put_bin(b, value, n);
}

void e2eectl_params_int(struct e2eectl_params *params, const char *key, int64_t value)
{
    struct buf *b = begin(params, key);

    if (b && (value > MP_MAX_INT || value < -MP_MAX_INT))
        fail(params, -ERANGE);
    else if (b)
        mp_put_int(b, value);
}

void e2eectl_params_bool(struct e2eectl_params *params, const char *key, bool value)
{
    struct buf *b = begin(params, key);

    if (b)
        mp_put_bool(b, value);
}

void e2eectl_params_strings(
        struct e2eectl_params *params, const char *key, const char *const *values, size_t n)
{
    struct buf *b = begin(params, key);

    if (b && n > RPC_MAX_MESSAGE) {
        fail(params, -EMSGSIZE);
        return;
    }
    if (b)
        mp_put_array(b, (uint32_t)n);
    for (size_t i = 0; b && i < n; i++) {
        if (!text_valid_utf8(values[i], strlen(values[i])))
            fail(params, -EILSEQ);
        mp_put_str(b, values[i]);
    }
}

void e2eectl_params_json(struct e2eectl_params *params, const char *key, const char *json)
{
    struct buf *b = begin(params, key);
    const char *why;
    int r;

    if (!b)
        return;
    r = mp_from_json(b, json ? json : "", json ? strlen(json) : 0, &why);
    if (r)
        fail(params, r < 0 ? r : -EINVAL);
}

int params_map(struct e2eectl *h, const struct e2eectl_params *params, struct buf *ret_map)
{
    static uint8_t empty = 0x80;
    int r = e2eectl_params_status(params);

    if (r)
        return error_set(&h->error, r, "the parameters are not valid: %s", e2eectl_error_text(r));
    if (params) {
        struct mp_map map = params->map;
        mp_map_end(&map);
        *ret_map = params->b;
    } else {
        *ret_map = (struct buf){.data = &empty, .len = 1};
    }
    return 0;
}
