/*
 * What the files of this layer share. ipc.c is the server as a whole, listener.c accepts, client.c reads and
 * steers a connection, output.c holds what waits for it, request.c turns messages into requests and answers
 * into messages, builtin.c answers hello and api_info, stream.c feeds subscriptions.
 *
 * A connection is never freed while a callback of this layer is on the stack: client_close() detaches it at
 * once and ipc_leave() of the outermost ipc_enter() frees it. So the application may answer, commit and abort
 * from inside its callbacks.
 */
#ifndef E2EE_IPC_INTERNAL_H
#define E2EE_IPC_INTERNAL_H

#include <event2/event_struct.h>
#include <sys/queue.h>

#include "ipc.h"
#include "rpc.h"

#define IPC_SCRATCH 65536u        /* read at once */
#define IPC_TURN_MESSAGES 256u    /* of one client, per wake-up */
#define IPC_TURN_BYTES 262144u    /* likewise */
#define IPC_TURN_READS 16u        /* of the event log for one client, per wake-up */
#define IPC_ACCEPT_BATCH 64u      /* connections accepted per wake-up */
#define IPC_ACCEPT_PAUSE_MS 1000u /* after running out of descriptors or memory */
#define IPC_SURPLUS_CLIENTS 16u   /* beyond IPC_MAX_CLIENTS: their first request is answered with an error */
#define IPC_FRAMING_BYTES 16u     /* most that framing adds to a message */
#define IPC_ERROR_RESERVE 65536u  /* of IPC_MAX_QUEUE, kept for errors */
/* Below half of the queue by as much as makes the largest answer fit. */
#define IPC_READ_STOP (IPC_MAX_QUEUE / 2 - 2 * IPC_ERROR_RESERVE)
#define IPC_KEEP_BUFFER 65536u  /* an empty buffer larger than this is given back */
#define IPC_WATCH_MS 250u       /* how often a client that is not read is asked whether it is still there */
#define IPC_DISCARD_MS 2000u    /* how long the rest of a malformed stream is read and dropped */
#define IPC_MAX_ERROR_TEXT 512u /* "NAME: text", bytes */

enum error_shape { ERRORS_ARRAY, ERRORS_MAP, ERRORS_STRING };

enum client_state {
    CLIENT_OPEN,
    CLIENT_HALF_CLOSED, /* it writes no more; what it asked is still answered */
    CLIENT_ENDING,      /* nothing is taken from it any more; what is queued still goes out */
    CLIENT_DISCARDING,  /* our side is shut down; its bytes are dropped until it closes */
    CLIENT_DEAD         /* detached, waits to be freed */
};

struct subscription {
    bool active;
    uint64_t cursor; /* events up to here have been queued */
    uint64_t types;
};

struct ipc_client;

struct ipc_request {
    LIST_ENTRY(ipc_request) link; /* of client->pending */
    struct ipc_client *client;    /* NULL once it has gone */
    uid_t uid;
    uint32_t msgid;
    bool subscribes; /* the answer brings subscription into force */
    struct subscription subscription;
};

struct ipc_client {
    TAILQ_ENTRY(ipc_client) link;      /* of ipc->clients or ipc->dead */
    TAILQ_ENTRY(ipc_client) held_link; /* of ipc->held, if has_held */
    struct ipc *ipc;
    int fd;
    uid_t uid;
    enum client_state state;
    enum rpc_framing framing;
    enum error_shape errors;
    bool surplus;  /* over IPC_MAX_CLIENTS */
    bool broken;   /* out of memory for its answers: closed at the next chance */
    bool in_ready; /* `in` may hold a whole message */
    bool stalled;  /* the event log gave nothing: asked again after the next commit */
    bool blocked;  /* the socket took less than was queued */
    bool reading, writing, watching, waking; /* which events are added */
    struct event read_event, write_event;
    struct event wake_event;  /* goes on in the next turn of the loop */
    struct event watch_event; /* see IPC_WATCH_MS, IPC_DISCARD_MS */

    struct buf in;
    size_t needed; /* before `in` is looked at again: what its first message has at least */

    struct buf out; /* from out_at on: to be sent */
    size_t out_at;
    bool has_held;
    struct buf held;     /* encoded answers of this turn */
    struct buf held_ids; /* their msgids, u32 each */

    LIST_HEAD(, ipc_request) pending;
    uint32_t n_pending;

    struct subscription subscription;
    bool staged; /* next_subscription comes into force with the held answers */
    struct subscription next_subscription;
};

TAILQ_HEAD(client_list, ipc_client);

struct ipc {
    struct event_base *base;
    const struct ipc_callbacks *callbacks;
    void *ctx;
    int fd;
    char *path; /* to unlink at the end; NULL for an inherited socket */
    dev_t dev;
    ino_t ino;
    struct event accept_event, accept_timer;
    bool accepting;
    uid_t *uids;
    size_t n_uids;
    char *account;
    struct client_list clients, held, dead;
    size_t n_clients;
    unsigned depth;
    uint64_t last_seq;
    bool stalled; /* some client is */
    uint8_t scratch[IPC_SCRATCH];
};

/* strdup(), but by malloc() of this program, so that tests can make it fail. */
char *ipc_strdup(const char *s) MUST_USE;
void ipc_enter(struct ipc *ipc);
void ipc_leave(struct ipc *ipc);

/* listener.c */
/* Our own uid, or one of those configured. */
bool listener_allows(const struct ipc *ipc, uid_t uid);
/* Opens path, or checks and takes the inherited fd. Logs why it could not. */
int listener_open(struct ipc *ipc, const char *path, int fd) MUST_USE;
/* Takes over the connection fd of an accepted peer, or closes it. */
void listener_take(struct ipc *ipc, int fd);
/* Accepts again if that was paused for want of descriptors. */
void listener_resume(struct ipc *ipc);
/* Closes; unlinks the path if it is still ours. */
void listener_done(struct ipc *ipc);

/* client.c */
/* Takes fd when the result is 0. */
int client_new(struct ipc *ipc, int fd, uid_t uid, bool surplus) MUST_USE;
void client_close(struct ipc_client *c);
void client_free(struct ipc_client *c);
/* Sends what may be sent, then decides what to wait for, or closes. */
void client_settle(struct ipc_client *c);
/* No more input; closes when the queue is empty. */
void client_end(struct ipc_client *c);
size_t client_queued(const struct ipc_client *c);

/* output.c */
void output_init(struct ipc_client *c);
void output_done(struct ipc_client *c);
/* Makes room for about n bytes and gives the buffer to append to; a failure shows in its status. */
struct buf *output_buf(struct ipc_client *c, size_t n);
/* send()s the queue. Sets blocked. Negative errno when the connection is lost. */
int output_flush(struct ipc_client *c) MUST_USE;
/* Moves the held answers into the queue, or makes errors of them. */
void output_release(struct ipc_client *c);
void output_abort(struct ipc_client *c, enum api_error error, const char *text);

/* request.c */
void request_dispatch(struct ipc_client *c, const struct rpc_message *m);
/* The stream at p is beyond repair: says so, and ends the connection. */
void request_malformed(struct ipc_client *c, const void *p, size_t n, const char *why);
/* Answers of this layer itself: not held. */
void request_answer(struct ipc_client *c, uint32_t msgid, const struct buf *result);
void request_refuse(struct ipc_client *c, uint32_t msgid, enum api_error error, uint32_t retry_after_ms,
        const char *text);
/* The notification "error", for what no request is to blame for. */
void request_notify_error(struct ipc_client *c, enum api_error error, const char *text);
/* One error in the shape that the client asked for. */
void error_put(struct buf *b, enum error_shape shape, enum api_error error, uint32_t retry_after_ms,
        const char *text);

/* builtin.c */
/* True if the method is the server's own; then it has been answered. */
bool builtin_call(
        struct ipc_client *c, uint32_t msgid, const struct api_method *m, const struct mp_value *params);
/* "unknown method …" with the nearest names. */
void unknown_method_text(char *text, size_t size, const void *name, size_t n);

/* stream.c */
bool stream_wants(const struct ipc_client *c);
/* Queues events while there are any and less than IPC_EVENT_BATCH waits. */
void stream_serve(struct ipc_client *c);

#endif
