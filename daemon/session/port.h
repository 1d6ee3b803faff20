/*
 * What the engine asks of the world while it works: ordered maps of records. The application binds it to the
 * store (and tests to memory). Writes go into the open transaction of the turn; reads see them. The meaning
 * of each call and its results are those of the same-named store call.
 */
#ifndef E2EE_PORT_H
#define E2EE_PORT_H

#include "base.h"

#define PORT_NOT_FOUND 1
#define PORT_MAX_KEY 96u

/* 0 to go on, 1 to stop, or a negative errno: other positive results are the store's own. */
typedef int (*port_visit)(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n);

struct port {
    void *ctx;
    /* value is overwritten. 0, PORT_NOT_FOUND, negative errno. */
    int (*get)(void *ctx, uint8_t map, const void *key, size_t key_len, struct buf *value);
    int (*put)(void *ctx, uint8_t map, const void *key, size_t key_len, const void *value, size_t n);
    int (*del)(void *ctx, uint8_t map, const void *key, size_t key_len);
    int (*scan)(void *ctx, uint8_t map, const void *from, size_t from_len, size_t prefix_len,
            port_visit visit, void *visit_ctx);
    int (*last)(void *ctx, uint8_t map, uint8_t ret_key[PORT_MAX_KEY], size_t *ret_len);
};

#endif
