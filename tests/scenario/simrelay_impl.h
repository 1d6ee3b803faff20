/* Inside the relay of the scenarios. */
#ifndef E2EE_SIMRELAY_IMPL_H
#define E2EE_SIMRELAY_IMPL_H

#include "simrelay.h"

#define MAX_ACCOUNTS 64
#define MAX_ENTRIES 8
#define MAX_ONE_TIME 400
#define CLOCK_SLACK_MS (10 * MINUTE_MS)
#define BATCH_BYTES 65536u

struct envelope {
    struct envelope_id id;
    uint64_t time_ms, expires_ms;
    struct bytes body; /* p NULL: acknowledged, expired or lost */
    bool acked, ephemeral;
    uint32_t delivered_on; /* serial of the connection */
};
struct box {
    struct address who;
    uint8_t rak[32];
    struct bytes signed_prekey;
    uint32_t signed_id;
    struct bytes one_time[MAX_ONE_TIME];
    size_t n_one_time;
    struct envelope *env;
    size_t n_env, cap_env, first; /* all before first are done with */
    struct bytes *history;
    size_t n_history, cap_history;
};
struct account {
    bool used;
    char name[RELAY_MAX_NAME + 1];
    uint8_t uid[UID_LEN], ak[32];
    struct bytes entry[MAX_ENTRIES];
    size_t entries;
    struct box box;
};
struct conn {
    bool open, authed, drained;
    uint32_t serial;
    struct account *account;
    uint8_t nonce[RELAY_NONCE_LEN];
    bool tls;
    uint8_t exporter[EXPORTER_LEN];
    char host[RELAY_MAX_HOST + 1];
    size_t unacked, unacked_bytes, drain_to;
    struct address watch[RELAY_MAX_WATCH];
    size_t n_watch;
};
struct simrelay {
    struct rng rng;
    struct simrelay_hooks hooks;
    struct simrelay_lies lies;
    struct simrelay_liar liar;
    uint64_t now, claims;
    uint8_t store_id[16];
    enum relay_registration registration;
    char token[RELAY_MAX_TOKEN + 1];
    uint32_t serial;
    int next_conn;
    struct account account[MAX_ACCOUNTS];
    struct conn conn[SIMRELAY_MAX_CONNS];
};

void *sr_must(void *p);
bool sr_chance(struct simrelay *sr, unsigned per_mille);
struct account *sr_by_uid(const struct simrelay *sr, const uint8_t *uid);
struct box *sr_box_of(const struct simrelay *sr, const struct address *who);
struct conn *sr_conn_of(struct simrelay *sr, const struct account *a);
size_t sr_live(const struct simrelay *sr, const struct box *x);
struct buf sr_message(void);
/* Sends b and frees it. */
void sr_say(struct simrelay *sr, struct conn *c, struct buf *b);
void sr_say_empty(struct simrelay *sr, struct conn *c, enum relay_type type, uint32_t ref);
void sr_refuse(struct simrelay *sr, struct conn *c, uint32_t ref, uint16_t code, const char *text);

/* simrelay_mail.c */
void sr_take_submit(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur);
void sr_take_ack(struct simrelay *sr, struct conn *c, struct cursor *cur);
void sr_take_query(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur);
void sr_take_watch(struct simrelay *sr, struct conn *c, uint32_t ref, struct cursor *cur);

#endif
