/*
 * The relay's sockets: a libwebsockets server on the caller's libuv loop, one conn.h connection for each
 * WebSocket.
 */
#ifndef E2EE_RELAY_SERVER_H
#define E2EE_RELAY_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buf.h"

struct hub;
struct server;
struct uv_loop_s;

struct server_options {
    const char *address; /* numeric; NULL for every IPv4 address */
    bool ipv6;
    uint16_t port;                  /* 0: any */
    const char *tls_cert, *tls_key; /* NULL: no TLS. With TLS, version 1.3 only. */
    bool raw_echo;                  /* text frames are sent back; otherwise they end the connection */
};

/* Listens. Nothing is accepted before server_serve. 0, or -1 with a text for the operator in error. */
int server_new(struct server **ret_server, struct uv_loop_s *loop, const struct server_options *options,
        char *error, size_t error_size) MUST_USE;
uint16_t server_port(const struct server *s);
/* From now on connections belong to hub. */
void server_serve(struct server *s, struct hub *hub);
/* New connections are closed at once. */
void server_stop(struct server *s);
/* WebSocket connections that are open. */
size_t server_connections(const struct server *s);
/*
 * Teardown in two steps, as libuv closes its handles in the loop: after server_close the caller runs the loop
 * until nothing is alive in it, and then calls server_free. Both accept NULL.
 */
void server_close(struct server *s);
void server_free(struct server *s);

#endif
