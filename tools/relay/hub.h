/*
 * What all connections share, and the parts of one connection. Private to conn.c, auth.c, directory.c,
 * mailbox.c and presence.c; outside code uses conn.h. Everything here runs in the event loop's thread.
 */
#ifndef E2EE_RELAY_HUB_H
#define E2EE_RELAY_HUB_H

#include "base.h"
#include "conn.h"
#include "ratelimit.h"
#include "store.h"
#include "window.h"

/* A device that is connected, or is watched, or has envelopes under way to the store. */
struct device {
    struct address address;
    struct device *next; /* in the hash chain */
    struct conn *conn;   /* after WELCOME */
    uint32_t inflight;   /* submissions not delivered to `conn` whose outcome is still open */
    unsigned pinned;     /* in use by a caller further up, whatever becomes of its connection */
    struct watch *watchers;
};

struct watch {
    struct device *device;
    struct conn *conn;
    struct watch *next_of_device, **prev_of_device;
    struct watch *next; /* of the connection, oldest first */
    bool changed;       /* to be told */
};

struct hub {
    struct hub_options options;
    struct store *store;
    struct hub_clock clock;
    uint8_t hash_key[WINDOW_HASH_KEY_LEN];
    struct device **device; /* hash table */
    size_t buckets, devices;
    struct bucket_table *limit[HUB_LIMITS];
    struct conn *conns;  /* all that are not gone */
    struct conn *paused; /* those that wait for inflight_bytes to fall */
    uint64_t serial, inflight_bytes;
    struct store_req *ack_retry; /* acknowledgments that failed, for the next tick */
    bool expiring, draining;
};

struct out {
    struct out *next;
    struct buf message;
    bool delivery;
};

enum conn_state {
    CONN_NEW,     /* AUTH or REGISTER is awaited */
    CONN_WAITING, /* one of these is with the store */
    CONN_READY,
    CONN_CLOSING, /* what is queued goes out, nothing is read any more */
};

struct conn {
    struct hub *hub;
    struct conn *next, **prev; /* hub->conns */
    struct conn *next_paused;
    void (*wake)(void *io);
    void *io; /* NULL: the socket is gone */
    uint32_t refs;
    enum conn_state state;
    bool paused, has_exporter, tls;
    uint16_t close_code;
    uint64_t serial, deadline_ms;
    uint8_t nonce[RELAY_NONCE_LEN], exporter[EXPORTER_LEN], ip[16];
    struct address who; /* once ready */
    uint8_t ak[32], dsk[32], rak[32];
    uint64_t list_n, mailbox;
    struct device *device;
    struct out *out, **out_tail;
    size_t reply_bytes; /* queued, deliveries excepted */
    size_t out_bytes;   /* queued in all: acknowledging what one does not read must not make room */
    uint32_t inflight;  /* requests with the store */
    size_t inflight_bytes;
    /* mailbox.c */
    struct buf deliver; /* the batch that is being filled */
    struct window window;
    struct recent recent;
    uint64_t cursor, barrier_seq; /* highest seq delivered; highest that waited at AUTH */
    uint32_t live_inflight;       /* delivered while the store writes them */
    uint32_t barrier_unacked;
    bool live;         /* nothing undelivered is in the store: new envelopes are delivered at once */
    bool fetching;     /* a FETCH is with the store */
    bool exhausted;    /* the last FETCH reached the end */
    bool stored_since; /* something went to the store since that FETCH was submitted */
    bool barrier_passed, drained;
    /* presence.c */
    struct watch *watches, **watch_tail;
    uint32_t watch_count;
    bool presence_due;
};

/* conn.c */
void conn_send(
        struct conn *c, struct buf *message); /* takes the contents; a failed buffer ends the connection */
void conn_queue_delivery(struct conn *c);     /* moves the batch, if there is one, to the queue */
void conn_error(
        struct conn *c, uint32_t ref, enum relay_error code, uint32_t retry_after_ms, const char *text);
/* An error after which nothing more is read; the connection closes when it is out. */
void conn_fail(
        struct conn *c, uint32_t ref, enum relay_error code, uint32_t retry_after_ms, const char *text);
void conn_close(struct conn *c, uint16_t close_code);
void conn_ref(struct conn *c);
void conn_unref(struct conn *c);
/* A request of this connection goes to the store, and has come back (its reference is dropped last of all).
 */
void conn_submit(struct conn *c, struct store_req *req, size_t bytes);
void conn_complete(struct conn *c, const struct store_req *req);
static inline bool conn_alive(const struct conn *c)
{
    return c->io && c->state != CONN_CLOSING;
}
/* 0: go ahead. Otherwise RATE_LIMITED has been sent. */
uint32_t conn_limited(struct conn *c, uint32_t ref, enum hub_limit which, const void *key, size_t key_len);
/* BUSY or FULL for a request that the store could not do. */
void conn_store_failed(struct conn *c, uint32_t ref, enum store_result result);
struct device *hub_find_device(struct hub *h, const struct address *a);
struct device *hub_get_device(struct hub *h, const struct address *a); /* NULL without memory */
void hub_release_device(struct hub *h, struct device *d);              /* frees it unless it is in use */

/* auth.c */
void auth_message(struct conn *c, uint32_t ref, struct cursor *fields);
bool auth_entry_signed(const struct entry *e);
void auth_uid(const uint8_t ak[32], uint8_t ret_uid[UID_LEN]);
void auth_entry_hash(const struct entry *e, uint8_t ret_hash[32]);
bool auth_prekey_signed(const struct prekey_record *r, const uint8_t dsk[32], bool one_time);
bool auth_delete_signed(const struct conn *c, const struct relay_unregister *m);

/* directory.c */
void directory_register(struct conn *c, uint32_t ref, struct cursor *fields);
void directory_put_prekeys(struct conn *c, uint32_t ref, struct cursor *fields);
void directory_lookup(struct conn *c, uint32_t ref, struct cursor *fields);
void directory_claim(struct conn *c, uint32_t ref, struct cursor *fields);
void directory_list_users(struct conn *c, uint32_t ref, struct cursor *fields);
void directory_unregister(struct conn *c, uint32_t ref, struct cursor *fields);

/* mailbox.c */
void mailbox_open(struct conn *c, const struct store_open_device *r); /* after WELCOME */
void mailbox_close(struct conn *c);
void mailbox_submit(struct conn *c, uint32_t ref, struct cursor *fields);
void mailbox_ack(struct conn *c, uint32_t ref, struct cursor *fields);
void mailbox_query(struct conn *c, uint32_t ref, struct cursor *fields);
void mailbox_retry_acks(struct hub *h);

/* presence.c */
void presence_watch(struct conn *c, uint32_t ref, struct cursor *fields);
void presence_changed(struct device *d);           /* it connected or left */
bool presence_next(struct conn *c, struct buf *b); /* writes a PRESENCE of what changed, if anything did */
void presence_close(struct conn *c);

#endif
