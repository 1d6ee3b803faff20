/*
 * A world of engines around one relay, under one clock and one source of randomness: the same seed gives the
 * same run, byte for byte. While it runs it checks what must always hold, and abort()s with the seed where it
 * does not:
 *  - nothing is handed to the relay, and no call is answered, before the store has it;
 *  - two envelopes with the same route tag and header are the same bytes, and no payload is seen in the
 * clear;
 *  - an event comes once; messages of one sender come in order (unless the world is disorderly);
 *  - a sender hears «delivered» only after the recipient's event is durable.
 */
#ifndef E2EE_SIM_H
#define E2EE_SIM_H

#include "engine.h"
#include "memport.h"
#include "simrelay.h"

#define SIM_NODES 6
#define SIM_START UINT64_C(1700000000000)
#define SIM_MARK "PLAIN-"

/* One message as the world knows it. */
struct sim_message {
    int from, to;
    char id[40];
    char text[80];
    int qos;
    bool answered;  /* send was answered with success */
    bool delivered; /* the recipient has the event */
    bool acked;     /* the sender has heard of it */
    bool ended;     /* the sender reported expired or failed */
    bool read;
    uint64_t ticket;
};

struct sim_answer {
    uint64_t ticket;
    int node;
    bool done;
    enum api_error error;
    char text[API_MAX_TEXT];
    struct bytes data;
};

struct sim_node {
    char name[RELAY_MAX_NAME + 1];
    struct engine_config cfg;
    struct memport *mp;
    struct engine *engine;
    uint8_t uid[UID_LEN];
    int64_t skew_ms;
    bool tls;
    uint8_t exporter[EXPORTER_LEN];
    /* The link. */
    uint64_t looked_ms; /* when its last turn was */
    bool want, offline; /* offline: the network is away */
    int conn;           /* -1: none */
    uint64_t dial_ms;
    uint64_t latency_ms;
    /* What it has told. */
    struct bytes *events;
    size_t n_events, cap_events;
    uint64_t last_order[SIM_NODES];
    size_t submits[SIM_NODES]; /* envelopes submitted for each node */
    size_t sent[256];          /* relay messages by type */
    size_t restarts;
    size_t cut_in; /* crash at the k-th point from now on; 0: never */
    size_t points; /* points passed in all */
    struct bytes last_auth;
};

struct sim {
    uint64_t seed, now;
    uint8_t key[32];
    uint64_t counter;
    struct rng rng;
    struct simrelay *relay;
    size_t n_nodes;
    struct sim_node node[SIM_NODES];
    struct sim_message *messages;
    size_t n_messages, cap_messages;
    struct sim_answer *answers;
    size_t n_answers, cap_answers;
    uint64_t next_ticket;
    struct sim_item *items;
    size_t n_items, cap_items;
    uint64_t item_serial;
    unsigned batch;  /* inputs in one turn, at most */
    bool disorderly; /* order between messages is not checked */
    bool deep;       /* search the store for each envelope that leaves */
    bool may_repeat; /* no check of double delivery: a recipient was restored on purpose */
    uint64_t turns;
    struct fingerprint_slot *seen;
    size_t n_seen, cap_seen;
    uint64_t digest; /* of everything that was said: two runs of one seed must agree */
};

/* An empty world. */
struct sim *sim_new(uint64_t seed);
/* A world with n registered nodes (alice, bob, carol, dave), which are not connected yet. */
struct sim *sim_new_ready(uint64_t seed, size_t n);
/* The same, connected, and quiet. */
struct sim *sim_new_online(uint64_t seed, size_t n);
void sim_free(struct sim *s);
/* Prints the reason and the seed and aborts. */
void sim_fail(const struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
#define SIM_CHECK(s, what, ...)                                                                              \
    do {                                                                                                     \
        if (!(what))                                                                                         \
            sim_fail(s, __VA_ARGS__);                                                                        \
    } while (0)
uint32_t sim_random(struct sim *s, uint32_t below);

int sim_add(struct sim *s, const char *name, const struct engine_config *cfg);
/* Takes a node's configuration over, by a restart. */
void sim_configure(struct sim *s, int node, const struct engine_config *cfg);
void sim_register(struct sim *s, int node);
int sim_node_of(const struct sim *s, const uint8_t uid[UID_LEN]);
struct address sim_address(const struct sim *s, int node);

/* A local call; params is JSON, printf-like. The answer may come later. */
uint64_t sim_call(struct sim *s, int node, const char *method, const char *params, ...)
        __attribute__((format(printf, 4, 5)));
const struct sim_answer *sim_answer(const struct sim *s, uint64_t ticket);
/* Runs until the answer is there (at most 60 s), and demands the given result. */
const struct sim_answer *sim_expect(struct sim *s, uint64_t ticket, enum api_error error);
/* A field of an answer or event: text, number, or "" and 0. */
const char *sim_text(const struct bytes *map, const char *field);
uint64_t sim_number(const struct bytes *map, const char *field);
bool sim_flag(const struct bytes *map, const char *field);

/* Sends a marked message of its own; more is JSON members beginning with a comma, or "". The index of the
 * message. */
size_t sim_send(struct sim *s, int from, int to, int qos, const char *more);
/* Events of a type with field == value (field NULL: any). */
size_t sim_events(const struct sim *s, int node, const char *type, const char *field, const char *value);
const struct bytes *sim_last_event(const struct sim *s, int node, const char *type);

/* Time passes. */
void sim_run(struct sim *s, uint64_t ms);
/* Runs until nothing is under way, at most max_ms. True: quiet. */
bool sim_settle(struct sim *s, uint64_t max_ms);
void sim_connect(struct sim *s, int node);
void sim_disconnect(struct sim *s, int node);
/* kill -9 and a new start. */
void sim_restart(struct sim *s, int node);
/* The store as it was at the snapshot; a new start. */
void sim_restore(struct sim *s, int node, const struct memport_snapshot *snapshot);
/* Ends a node's turn as a harness that gives inputs by hand does. */
void sim_turn(struct sim *s, int node, int result);
/* Every answered message of qos 1 and 2 has been delivered, or has ended with an event at its sender. */
void sim_check_all(struct sim *s);
size_t sim_undelivered(const struct sim *s);
/* Records of one map of a node's store: their digest and number. */
uint64_t sim_map_digest(const struct sim *s, int node, uint8_t map);
size_t sim_map_count(const struct sim *s, int node, uint8_t map);
/* Relay messages of all types that a node has sent. */
size_t sim_all_sent(const struct sim *s, int node);

#endif
