/*
 * Inside of the client library: the handle and what its files give each other. Results are those of
 * e2eectl.h.
 */
#ifndef E2EE_CLIENT_H
#define E2EE_CLIENT_H

#include "api.h"
#include "e2eectl.h"
#include "rpc.h"

#define CALL_BUCKETS 256u
#define OUT_LIMIT (4u * 1048576u) /* bytes waiting to be written at which no call is queued */
#define READ_CHUNK 65536u
#define PUMP_READS 16u /* reads of one pump: about 1 MiB */
#define ERROR_MAX_TEXT 512u
#define ERROR_MAX_NAME 64u

/* The error behind e2eectl_last_error(). `shown` points into the struct: copy with error_move() only. */
struct error {
    struct e2eectl_error shown;
    char name[ERROR_MAX_NAME];
    char text[ERROR_MAX_TEXT];
    struct e2eectl_value *data;
};

void error_clear(struct error *e);
void error_move(struct error *to, struct error *from);
/* A local failure: code is a negative errno, which is returned. */
int error_set(struct error *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/*
 * The error of a response in any of its forms: map, [class, "NAME: text"], "NAME: text". Returns its code,
 * which is positive.
 */
int error_from_reply(struct error *e, const struct mp_value *reply);

struct call;
/* Ends a call. value belongs to the function and is NULL unless result is 0. */
typedef void (*call_done)(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value);
struct call {
    struct call *next;
    uint32_t id;
    call_done done;
    e2eectl_reply_fn callback;
    void *ctx;
};

struct queued_event {
    struct queued_event *next;
    struct e2eectl_value *value;
    size_t size;
};

struct e2eectl {
    int fd;
    int broken;    /* 0, or the errno that ended the connection */
    bool busy;     /* one of its functions is on the stack */
    bool closing;  /* e2eectl_close() was called from a callback */
    bool greeting; /* hello is among the calls in flight */
    int timeout_ms;
    enum rpc_framing framing;
    struct buf in, out;
    size_t in_used, out_sent;
    size_t in_want; /* the next message has at least so many bytes */
    struct call *calls[CALL_BUCKETS];
    size_t n_calls;
    uint32_t next_call;
    struct queued_event *first_event, **last_event;
    size_t event_bytes;
    e2eectl_event_fn on_event;
    void *on_event_ctx;
    struct error error;
};

/*
 * Every public function that may run callbacks does so between these two; `r = enter(h); if (r) return r; …
 * return leave(h, r);`
 */
int client_enter(struct e2eectl *h) MUST_USE;
int client_leave(struct e2eectl *h, int r) MUST_USE;
/* Pumps until done(h, ctx) or the time is over (-ETIMEDOUT). */
typedef bool (*client_done)(const struct e2eectl *h, const void *ctx);
int client_await(struct e2eectl *h, client_done done, const void *ctx, int timeout_ms) MUST_USE;
/* True while another event may be read. */
bool client_room(const struct e2eectl *h);

/* Handles the next whole message in h->in: 1 if there was one, 0, negative errno. */
int message_next(struct e2eectl *h) MUST_USE;
struct e2eectl_value *event_take(struct e2eectl *h);

/* Queues a request; map NULL: no parameters. */
int call_start(struct e2eectl *h, const char *method, const struct buf *map, struct call **ret_call) MUST_USE;
struct call *call_remove(struct e2eectl *h, uint32_t id);
/* Ends one call, or all with a local error. */
void call_finish(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value);
void call_finish_all(struct e2eectl *h, int result, const char *text);

/* A call whose caller waits. `done` may be followed by more in a struct that begins with this one. */
struct sync {
    bool finished;
    int result;
    struct e2eectl_value *value;
    struct error error;
};
void sync_done(struct e2eectl *h, struct call *c, int result, struct e2eectl_value *value);
/*
 * Calls with done (given s as the call's ctx) and waits; the value is stored through ret_value, which may be
 * NULL.
 */
int call_wait(struct e2eectl *h, const char *method, const struct buf *map, int timeout_ms, call_done done,
        struct sync *s, struct e2eectl_value **ret_value) MUST_USE;

/* The map of params (NULL: an empty one) for call_start(); valid as long as they are. */
int params_map(struct e2eectl *h, const struct e2eectl_params *params, struct buf *ret_map) MUST_USE;

/* A tree of its own from an encoded value; *ret_size is the memory that it takes. */
int value_new(const struct mp_value *v, struct e2eectl_value **ret_value, size_t *ret_size) MUST_USE;

/*
 * Copies a size-versioned struct of options: members that the caller does not know become zero. -E2BIG:
 * members set that we do not know.
 */
int options_copy(void *to, size_t to_size, const void *from) MUST_USE;

static inline void value_freep(struct e2eectl_value **v)
{
    e2eectl_value_free(*v);
}
static inline void params_freep(struct e2eectl_params **p)
{
    e2eectl_params_free(*p);
}
#define CLEANUP_VALUE __attribute__((cleanup(value_freep)))
#define CLEANUP_PARAMS __attribute__((cleanup(params_freep)))

#endif
