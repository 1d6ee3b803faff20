/*
 * Connections of the relay without sockets, for its unit tests: a store in a temporary directory, two
 * registered accounts with two devices each, peers that feed messages and look at what comes out. The clocks
 * stand still.
 */
#ifndef E2EE_RELAY_PEER_H
#define E2EE_RELAY_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base.h"
#include "conn.h"
#include "store.h"

#define HOST "relay.example:443"
#define WALL UINT64_C(1700000000000)

struct device_keys {
    uint8_t dsk[32], dsk_secret[64], rak[32], rak_secret[64];
};

struct account {
    const char *name;
    uint8_t ak[32], ak_secret[64], uid[UID_LEN];
    struct device_keys device[2];
};

struct env {
    char dir[64];
    uv_loop_t loop;
    struct store *store;
    struct hub *hub;
    struct account alice, bob;
};

/* One connection, and what came out of it. */
struct peer {
    struct env *env;
    struct conn *conn;
    uint8_t nonce[RELAY_NONCE_LEN];
    unsigned woken;
};

extern uint64_t mono_ms;

/* How an AUTH differs from a right one. */
struct auth_lie {
    const char *host;
    int64_t time_off;
    bool other_nonce, other_key, dsk_for_rak, other_account, third_device, flip, zero_exporter;
    uint8_t binding;
};

void make_account(struct account *a, const char *name);
struct address address_of(const struct account *a, uint32_t device);
void put_register(const struct account *a, struct buf *out);
void put_auth(const struct peer *p, const struct account *a, uint32_t device, const struct auth_lie *lie,
        struct buf *out);
void settle(struct env *e);
void feed(struct peer *p, const struct buf *b);
bool pull(struct peer *p, struct buf *ret_message, uint8_t *ret_type, uint32_t *ret_ref,
        struct cursor *ret_fields);
uint16_t expect(struct peer *p, uint8_t type, uint32_t ref);
void expect_nothing(struct peer *p);
void expect_closing(struct peer *p, uint16_t close_code);
void open_peer_as(struct env *e, const struct conn_info *info, struct peer *p);
void open_peer(struct env *e, struct peer *p);
struct relay_welcome connect_device(struct env *e, struct peer *p, const struct account *a, uint32_t device);
void connect_empty(struct env *e, struct peer *p, const struct account *a, uint32_t device);
int setup(void **state);
int setup_limited(void **state);
int teardown(void **state);
void build_submit(const struct peer *p, struct buf *b);
void build_ack(const struct peer *p, struct buf *b);
void build_query(const struct peer *p, struct buf *b);
void build_watch(const struct peer *p, struct buf *b);
void build_lookup(const struct peer *p, struct buf *b);
void build_claim(const struct peer *p, struct buf *b);
void build_list(const struct peer *p, struct buf *b);
void build_put(const struct peer *p, struct buf *b);
void build_register(const struct peer *p, struct buf *b);
void build_unregister(const struct peer *p, struct buf *b);

#define RELAY_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
