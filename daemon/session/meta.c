#include <errno.h>
#include <string.h>

#include "state.h"

#define META_VERSION 1
#define WIPE_CHUNK 256u

static const char account_key[] = "account";

int meta_store(struct engine *e)
{
    struct buf *b = &e->plain;
    buf_reset(b);
    buf_u8(b, META_VERSION);
    buf_lp(b, e->relay, strlen(e->relay));
    buf_lp(b, e->token, strlen(e->token));
    buf_u8(b, e->registered);
    buf_bytes(b, e->guid, sizeof(e->guid));
    buf_bytes(b, e->store_id, sizeof(e->store_id));
    buf_u32(b, e->next_prekey_id);
    buf_u64(b, e->drained_ms);
    identity_save(e->id, b);
    return record_put(e, MAP_META, account_key, sizeof(account_key) - 1, b);
}

static void get_text(struct cursor *c, char *ret, size_t size)
{
    size_t n;
    const uint8_t *p = cursor_lp(c, size - 1, &n);
    if (p)
        memcpy(ret, p, n);
    ret[p ? n : 0] = 0;
}

int meta_load(struct engine *e)
{
    struct cursor c;
    int r = e->port.get(e->port.ctx, MAP_META, account_key, sizeof(account_key) - 1, &e->plain);
    if (r < 0)
        return r;
    if (r == PORT_NOT_FOUND)
        return 0;
    cursor_init(&c, e->plain.data, e->plain.len);
    if (cursor_u8(&c) != META_VERSION)
        return -EBADMSG;
    get_text(&c, e->relay, sizeof(e->relay));
    get_text(&c, e->token, sizeof(e->token));
    e->registered = cursor_u8(&c) == 1;
    cursor_copy(&c, e->guid, sizeof(e->guid));
    cursor_copy(&c, e->store_id, sizeof(e->store_id));
    e->next_prekey_id = cursor_u32(&c);
    e->drained_ms = cursor_u64(&c);
    if (cursor_status(&c) != WIRE_OK)
        return -EBADMSG;
    r = identity_load(c.p, c.left, &e->id);
    return r > 0 ? -EBADMSG : r;
}

struct wipe {
    size_t n;
    size_t len[WIPE_CHUNK];
    uint8_t key[WIPE_CHUNK][PORT_MAX_KEY];
};

static int wipe_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct wipe *w = ctx;
    (void)value;
    (void)n;
    memcpy(w->key[w->n], key, key_len);
    w->len[w->n++] = key_len;
    return w->n == WIPE_CHUNK;
}

int meta_wipe(struct engine *e)
{
    CLEANUP_FREE struct wipe *w = malloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    for (uint8_t map = 1; map <= MAP_LAST;) {
        int r;
        w->n = 0;
        r = e->port.scan(e->port.ctx, map, "", 0, 0, wipe_visit, w);
        if (r < 0)
            return r;
        for (size_t i = 0; i < w->n; i++)
            if ((r = e->port.del(e->port.ctx, map, w->key[i], w->len[i])) < 0)
                return r;
        if (w->n < WIPE_CHUNK)
            map++;
    }
    return 0;
}
