/*
 * libe2eectl: the client side of e2eed, the agent for end-to-end encrypted messages.
 *
 * A program opens a handle, calls methods of the daemon and receives events. Calls block with a time limit,
 * or complete in a callback from a foreign event loop; any number up to E2EECTL_MAX_CALLS may be in flight.
 * The methods, their parameters and results are described in docs/API.md; the typed functions below cover the
 * usual ones, the generic calls all.
 *
 * Results. An `int` result is 0, a negative errno (the connection, the system or the arguments), or a
 * positive E2EECTL_ERR_… (the daemon refused). Outputs (ret_…) are untouched unless the result is 0.
 * e2eectl_last_error() has the text.
 *
 * - ECONNRESET: the daemon has closed the connection (it stopped or was restarted). Every call in flight ends
 *   with this, its outcome unknown; the handle is dead: close it and open another. A send that carries its
 *   own id may be repeated safely.
 * - EBADMSG: the peer does not speak the daemon's protocol. The handle is dead.
 * - ETIMEDOUT: no answer in time. The call may still take effect; its late answer is dropped. The handle
 *   stays good.
 * - EDEADLK: a blocking function was called from a callback of the same handle. Nothing was done.
 * - ENOBUFS: too much waits: E2EECTL_MAX_CALLS calls, or events that were not taken. See each function.
 * - ECANCELED: the handle was closed, from a callback. It must not be used any more.
 * - ENOMEM: no memory. Where an event was lost by it the handle is dead, so that no event is skipped unseen.
 *
 * Threads. A handle belongs to one thread at a time; different handles are independent. There is no global
 * state.
 *
 * Signals. The library never raises SIGPIPE and carries on after EINTR. Descriptors are close-on-exec.
 *
 * Values. Strings are UTF-8 and end with a zero byte. Times are milliseconds; points in time count from 1970.
 * Timeouts are as for poll(): -1 waits without limit, 0 does not wait.
 */
#ifndef E2EECTL_H
#define E2EECTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define E2EECTL_API __attribute__((visibility("default")))
#define E2EECTL_CHECK __attribute__((visibility("default"), warn_unused_result))
#else
#define E2EECTL_API
#define E2EECTL_CHECK
#endif

#define E2EECTL_MAX_CALLS 4096      /* calls in flight on one handle */
#define E2EECTL_MAX_MESSAGE 1048576 /* bytes of one request, answer or event, encoded */
#define E2EECTL_MAX_BODY 65536      /* bytes of one message's text or bytes */
#define E2EECTL_ID_SIZE 256         /* room for a message id and its zero byte */
#define E2EECTL_TIMEOUT_MS 30000    /* of the typed functions, unless e2eectl_set_timeout() was called */
/* Memory for events that were not taken at which reading stops: with no call in flight, and in any case. */
#define E2EECTL_EVENTS_SOFT 4194304
#define E2EECTL_EVENTS_HARD 16777216

/* What the daemon refuses with; the numbers never change their meaning. */
enum e2eectl_error_code {
    /* The request must be changed. */
    E2EECTL_ERR_PARSE_ERROR = 1,
    E2EECTL_ERR_METHOD_NOT_FOUND = 2,
    E2EECTL_ERR_INVALID_PARAMS = 3,
    E2EECTL_ERR_TOO_LARGE = 4,
    E2EECTL_ERR_INVALID_NAME = 5,
    /* It could not be done. */
    E2EECTL_ERR_NO_ACCOUNT = 20,
    E2EECTL_ERR_ACCOUNT_EXISTS = 21,
    E2EECTL_ERR_NAME_TAKEN = 22,
    E2EECTL_ERR_UNKNOWN_USER = 23,
    E2EECTL_ERR_UNKNOWN_CONTACT = 24,
    E2EECTL_ERR_UNKNOWN_MESSAGE = 25,
    E2EECTL_ERR_NOT_CONNECTED = 26,
    E2EECTL_ERR_KEY_CHANGED = 27,
    E2EECTL_ERR_NOT_VERIFIED = 28,
    E2EECTL_ERR_VERIFY_MISMATCH = 29,
    E2EECTL_ERR_BLOCKED = 30,
    E2EECTL_ERR_QUEUE_FULL = 31,
    E2EECTL_ERR_RATE_LIMITED = 32,
    E2EECTL_ERR_TIMEOUT = 33,
    E2EECTL_ERR_RELAY_REFUSED = 34,
    E2EECTL_ERR_TOKEN_REQUIRED = 35,
    E2EECTL_ERR_REGISTRATION_CLOSED = 36,
    E2EECTL_ERR_EXPIRED = 37,
    E2EECTL_ERR_ID_CONFLICT = 38,
    E2EECTL_ERR_STORAGE = 39,
    E2EECTL_ERR_DISK_FULL = 40,
    E2EECTL_ERR_FORBIDDEN = 41,
    E2EECTL_ERR_SHUTTING_DOWN = 42,
    E2EECTL_ERR_INTERNAL = 43,
    E2EECTL_ERR_LOCKED = 44,
    E2EECTL_ERR_WRONG_PASSPHRASE = 45
};

struct e2eectl;        /* one connection */
struct e2eectl_value;  /* a value that the daemon sent */
struct e2eectl_params; /* the parameters of a call */

/*
 * Members may be added at the end. The pointers live until the next call of a function on the same handle
 * (accessors of values are none), inside a callback until it returns.
 */
struct e2eectl_error {
    int code;                /* 0, negative errno or E2EECTL_ERR_… */
    const char *name;        /* "UNKNOWN_USER", "ETIMEDOUT"; "" for 0 */
    const char *message;     /* for people; may quote what others sent, so sanitise it for a terminal */
    uint32_t retry_after_ms; /* 0: not given */
    const struct e2eectl_value *data; /* details or NULL */
};

/* Release of the library, "0.1.0". Static. */
E2EECTL_API const char *e2eectl_version(void);
/* "UNKNOWN_USER" for a positive code, "" for one that this release does not know. Static. */
E2EECTL_API const char *e2eectl_error_name(int code);
/* What the error means and what to do, for people; of the errno for a negative code. Static. */
E2EECTL_API const char *e2eectl_error_text(int code);

/* ---- The handle ---- */

/*
 * Path of the daemon's socket: account NULL is $E2EED_SOCKET, else account "default"; a named account is
 * $XDG_RUNTIME_DIR/e2eed/ACCOUNT.sock (/run/user/UID where XDG_RUNTIME_DIR is not set, as under cron).
 * *ret_path is malloc'ed. -EINVAL: an account is 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit.
 * -ENOMEM.
 */
E2EECTL_CHECK int e2eectl_socket_path(const char *account, char **ret_path);
/*
 * Connects. socket_path NULL: that of e2eectl_socket_path(NULL). The handle is the caller's until
 * e2eectl_close(). -ENOENT, -ECONNREFUSED: no daemon runs there. -EACCES: not ours. -ENAMETOOLONG: the path
 * is longer than a socket's may be (107 bytes). -ETIMEDOUT: the daemon has not accepted for 10 s. Others of
 * socket() and connect().
 */
E2EECTL_CHECK int e2eectl_open(const char *socket_path, struct e2eectl **ret_handle);
/* The same for an account by name; E2EED_SOCKET is not looked at unless account is NULL. */
E2EECTL_CHECK int e2eectl_open_account(const char *account, struct e2eectl **ret_handle);
/*
 * Ends the connection and frees the handle. Calls in flight complete with -ECANCELED first. From a callback
 * the handle lives until the outermost function on it has returned, which then answers -ECANCELED. NULL is
 * accepted.
 */
E2EECTL_API void e2eectl_close(struct e2eectl *handle);
/* Time limit of the typed functions: milliseconds, -1 none. */
E2EECTL_API void e2eectl_set_timeout(struct e2eectl *handle, int timeout_ms);
/* What the last function on the handle that failed said. Never NULL. */
E2EECTL_API const struct e2eectl_error *e2eectl_last_error(const struct e2eectl *handle);

/* The descriptor to poll; it stays the same, and the library's. */
E2EECTL_API int e2eectl_fd(const struct e2eectl *handle);
/*
 * What to poll it for now: POLLIN and POLLOUT or'ed; 0 when nothing is wanted until events have been taken,
 * or when the handle is dead. Ask again after every function on the handle.
 */
E2EECTL_API int e2eectl_events(const struct e2eectl *handle);
/*
 * Writes what waits and reads what is there, at most about 1 MiB a call, without blocking, and runs the
 * callbacks. 0; a negative errno once the handle is dead. Spurious calls are harmless.
 */
E2EECTL_CHECK int e2eectl_dispatch(struct e2eectl *handle);

/* ---- Parameters ---- */

/*
 * An empty set. Never NULL: without memory the result carries the error, as it does after any later failure,
 * and the call that it is given to reports it (-ENOMEM; -EMSGSIZE over E2EECTL_MAX_MESSAGE or 256 keys;
 * -EILSEQ text that is not UTF-8; -ERANGE an integer beyond ±2^53; -EEXIST a key twice; -EINVAL bad JSON or a
 * NULL key). A set may serve any number of calls.
 */
E2EECTL_API struct e2eectl_params *e2eectl_params_new(void);
E2EECTL_API void e2eectl_params_free(struct e2eectl_params *params);
/* Text; value NULL adds nothing, so that optional parameters need no condition. */
E2EECTL_API void e2eectl_params_string(struct e2eectl_params *params, const char *key, const char *value);
/* Text of n bytes. */
E2EECTL_API void e2eectl_params_text(
        struct e2eectl_params *params, const char *key, const char *value, size_t n);
E2EECTL_API void e2eectl_params_bytes(
        struct e2eectl_params *params, const char *key, const void *value, size_t n);
E2EECTL_API void e2eectl_params_int(struct e2eectl_params *params, const char *key, int64_t value);
E2EECTL_API void e2eectl_params_bool(struct e2eectl_params *params, const char *key, bool value);
/* An array of n strings. */
E2EECTL_API void e2eectl_params_strings(
        struct e2eectl_params *params, const char *key, const char *const *values, size_t n);
/* Any value as JSON text. {"base64": "…"} is read as bytes. */
E2EECTL_API void e2eectl_params_json(struct e2eectl_params *params, const char *key, const char *json);
/* 0 or the first failure. */
E2EECTL_API int e2eectl_params_status(const struct e2eectl_params *params);

/* ---- Values ---- */

enum e2eectl_type {
    E2EECTL_NULL = 0,
    E2EECTL_BOOL,
    E2EECTL_INT,
    E2EECTL_DOUBLE,
    E2EECTL_STRING,
    E2EECTL_BYTES,
    E2EECTL_ARRAY,
    E2EECTL_MAP
};

/*
 * A root value (one that a function returned through ret_…) is the caller's until e2eectl_value_free();
 * everything read from it lives as long. All accessors take NULL for "there is no such value", so that they
 * can be nested.
 */
E2EECTL_API void e2eectl_value_free(struct e2eectl_value *value);
E2EECTL_API enum e2eectl_type e2eectl_value_type(const struct e2eectl_value *value);
/* Elements of an array, pairs of a map, bytes of a string or bytes; else 0. */
E2EECTL_API size_t e2eectl_value_count(const struct e2eectl_value *value);
/* The value under key of a map, or NULL. */
E2EECTL_API const struct e2eectl_value *e2eectl_value_get(const struct e2eectl_value *map, const char *key);
/*
 * `for (v = e2eectl_value_first(c); v; v = e2eectl_value_next(v))` visits the members of an array or a map.
 */
E2EECTL_API const struct e2eectl_value *e2eectl_value_first(const struct e2eectl_value *container);
E2EECTL_API const struct e2eectl_value *e2eectl_value_next(const struct e2eectl_value *member);
/* The key of a member of a map; NULL for others. */
E2EECTL_API const char *e2eectl_value_key(const struct e2eectl_value *member);
/* The value itself; `otherwise` (NULL) where it is of another type. */
E2EECTL_API const char *e2eectl_value_string(const struct e2eectl_value *value);
E2EECTL_API int64_t e2eectl_value_int(const struct e2eectl_value *value, int64_t otherwise);
E2EECTL_API bool e2eectl_value_bool(const struct e2eectl_value *value, bool otherwise);
/* Integers too. */
E2EECTL_API double e2eectl_value_double(const struct e2eectl_value *value, double otherwise);
/* Contents of a string or of bytes, and their length (0 with NULL). */
E2EECTL_API const void *e2eectl_value_bytes(const struct e2eectl_value *value, size_t *ret_n);
/* The same by key of a map. */
E2EECTL_API const char *e2eectl_get_string(const struct e2eectl_value *map, const char *key);
E2EECTL_API int64_t e2eectl_get_int(const struct e2eectl_value *map, const char *key, int64_t otherwise);
E2EECTL_API bool e2eectl_get_bool(const struct e2eectl_value *map, const char *key, bool otherwise);
E2EECTL_API const void *e2eectl_get_bytes(const struct e2eectl_value *map, const char *key, size_t *ret_n);
/* JSON text on one line, malloc'ed; bytes become {"base64": "…"}. -ENOMEM; -EINVAL for NULL. */
E2EECTL_CHECK int e2eectl_value_json(const struct e2eectl_value *value, char **ret_json);

/* ---- Any method ---- */

/*
 * Calls and waits for the answer. params NULL: none. ret_result may be NULL. -ENOBUFS: E2EECTL_MAX_CALLS are
 * in flight, and nothing was sent; or events of E2EECTL_EVENTS_HARD bytes stand before the answer: take some;
 * the outcome is unknown. Callbacks of other calls and of events may run meanwhile.
 */
E2EECTL_CHECK int e2eectl_call(struct e2eectl *handle, const char *method,
        const struct e2eectl_params *params, int timeout_ms, struct e2eectl_value **ret_result);
/*
 * The same in JSON text. params_json NULL or "": none, else one object; -EINVAL says in the last error what
 * is wrong with it. *ret_result_json is malloc'ed, one line.
 */
E2EECTL_CHECK int e2eectl_call_json(struct e2eectl *handle, const char *method, const char *params_json,
        int timeout_ms, char **ret_result_json);

/*
 * Receives the outcome of a call, exactly once unless it is cancelled: result as above, value the answer if
 * it is 0 (during the callback only), else NULL and e2eectl_last_error(). It may start and cancel calls and
 * close the handle, not block on it.
 */
typedef void (*e2eectl_reply_fn)(
        struct e2eectl *handle, int result, const struct e2eectl_value *value, void *ctx);
/*
 * Queues a call and returns; it is written by e2eectl_dispatch(). If this fails the callback does not run.
 * ret_call (may be NULL) names it for e2eectl_cancel(). -ENOBUFS: E2EECTL_MAX_CALLS are in flight or 4 MiB
 * wait to be written; dispatch first.
 */
E2EECTL_CHECK int e2eectl_call_async(struct e2eectl *handle, const char *method,
        const struct e2eectl_params *params, e2eectl_reply_fn callback, void *ctx, uint32_t *ret_call);
/* The callback will not run; the daemon may still do the call. Unknown and finished calls are ignored. */
E2EECTL_API void e2eectl_cancel(struct e2eectl *handle, uint32_t call);
/* Calls in flight. */
E2EECTL_API size_t e2eectl_calls(const struct e2eectl *handle);

/* ---- Events ---- */

/* Zero it and set size = sizeof: later releases add members at the end. */
struct e2eectl_subscribe_options {
    size_t size;
    const char *consumer; /* named cursor at the daemon: resume behind what it has acknowledged; or NULL */
    bool has_after; /* begin behind sequence `after` (0: the oldest kept) instead of with what comes now */
    uint64_t after;
    const char *const *types; /* only these types of events; NULL: all */
    size_t n_types;
};

/*
 * Receives an event (a map with seq, type, time, …), alive during the callback. The rules of e2eectl_reply_fn
 * hold.
 */
typedef void (*e2eectl_event_fn)(struct e2eectl *handle, const struct e2eectl_value *event, void *ctx);
/*
 * Asks for events; options NULL: all from now on. It replaces an earlier subscription. With callback NULL
 * events are queued for e2eectl_next_event(); while nobody takes them the library stops reading, and the
 * daemon keeps them. -E2BIG: options of a newer release with members set that this one does not know.
 */
E2EECTL_CHECK int e2eectl_subscribe(struct e2eectl *handle, const struct e2eectl_subscribe_options *options,
        e2eectl_event_fn callback, void *ctx);
/* No events any more; those that are queued can still be taken. */
E2EECTL_CHECK int e2eectl_unsubscribe(struct e2eectl *handle);
/* The next event, the caller's. -ETIMEDOUT: none came. */
E2EECTL_CHECK int e2eectl_next_event(
        struct e2eectl *handle, int timeout_ms, struct e2eectl_value **ret_event);
/* consumer has done all events up to seq; they do not come again. */
E2EECTL_CHECK int e2eectl_ack(struct e2eectl *handle, const char *consumer, uint64_t seq);

/* ---- Account, messages ---- */

/* {version, account, user, uid, fingerprint, relay, state, queued, last_seq, …} */
E2EECTL_CHECK int e2eectl_status(struct e2eectl *handle, struct e2eectl_value **ret_status);
/* Makes the account and registers it. token NULL: none. ret_account may be NULL. */
E2EECTL_CHECK int e2eectl_create_account(struct e2eectl *handle, const char *user, const char *relay_url,
        const char *token, struct e2eectl_value **ret_account);

enum e2eectl_qos {
    E2EECTL_QOS_DEFAULT = 0,   /* exactly once */
    E2EECTL_QOS_NOT_STORED,    /* 0: only if the recipient is there now */
    E2EECTL_QOS_AT_LEAST_ONCE, /* 1 */
    E2EECTL_QOS_EXACTLY_ONCE   /* 2 */
};

/* Zero it and set size = sizeof: later releases add members at the end. One of text and bytes is set. */
struct e2eectl_send_options {
    size_t size;
    const char *to;   /* user name */
    const char *text; /* UTF-8 */
    size_t text_len;  /* 0: text ends with a zero byte */
    const void *bytes;
    size_t bytes_len;
    const char *id; /* idempotency key: the same id again is the same message; NULL: the daemon makes one */
    enum e2eectl_qos qos;
    uint64_t ttl_ms;        /* 0: the daemon's default (30 days) */
    uint64_t not_before_ms; /* 0: at once */
    bool require_verified;  /* only if the recipient's key has been verified */
};
/*
 * 0: the message is durable at the daemon. ret_seq is the newest event before it, so that a subscription
 * behind it shows all that becomes of the message. ret_id and ret_seq may be NULL. -EINVAL: neither or both
 * of text and bytes, no recipient, an unknown qos. -E2BIG as for e2eectl_subscribe().
 */
E2EECTL_CHECK int e2eectl_send(struct e2eectl *handle, const struct e2eectl_send_options *options,
        char ret_id[E2EECTL_ID_SIZE], uint64_t *ret_seq);
/*
 * Waits until message id is "sent", "delivered" (until NULL) or "read", or has failed. ret_state (may be
 * NULL) is {id, state, reason?}, where state may be further than asked for, "expired" or "failed".
 * E2EECTL_ERR_TIMEOUT: not within timeout_ms (-1: no limit); the message stays on its way.
 */
E2EECTL_CHECK int e2eectl_wait(struct e2eectl *handle, const char *id, const char *until, int timeout_ms,
        struct e2eectl_value **ret_state);
/* Tells the sender `from` that a program has read its messages. */
E2EECTL_CHECK int e2eectl_read(struct e2eectl *handle, const char *from, const char *const *ids, size_t n);

/* ---- Contacts and users; a contact is named by its user name or its uid ---- */

/* {contacts: [{user, uid, verified, blocked, …}]} */
E2EECTL_CHECK int e2eectl_contact_list(struct e2eectl *handle, struct e2eectl_value **ret_contacts);
/* The same of one contact, with fingerprint and safety_number. */
E2EECTL_CHECK int e2eectl_contact_show(
        struct e2eectl *handle, const char *user, struct e2eectl_value **ret_contact);
/*
 * Looks the user up at the relay and pins its key, or lets in a stranger who was held. uid (may be NULL):
 * only if it is this one, else E2EECTL_ERR_KEY_CHANGED. ret_contact may be NULL.
 */
E2EECTL_CHECK int e2eectl_contact_add(
        struct e2eectl *handle, const char *user, const char *uid, struct e2eectl_value **ret_contact);
/*
 * Marks the contact's key as verified. safety_number: the digits as the other side sees them (spaces do not
 * matter). E2EECTL_ERR_VERIFY_MISMATCH: they are not those of the keys in use, and nothing was marked.
 */
E2EECTL_CHECK int e2eectl_contact_verify(struct e2eectl *handle, const char *user, const char *safety_number);
/*
 * Accepts the contact; with new_uid accepts a changed key, which must be this one; policy ("block", "hold",
 * "accept", or NULL to leave it) says what happens at the next change.
 */
E2EECTL_CHECK int e2eectl_contact_trust(
        struct e2eectl *handle, const char *user, const char *new_uid, const char *policy);
E2EECTL_CHECK int e2eectl_contact_block(struct e2eectl *handle, const char *user, bool blocked);
E2EECTL_CHECK int e2eectl_contact_remove(struct e2eectl *handle, const char *user);
/*
 * Users of the relay with names above `after` (NULL: from the first), at most limit (0: the daemon's
 * default).
 */
E2EECTL_CHECK int e2eectl_users(
        struct e2eectl *handle, const char *after, uint32_t limit, struct e2eectl_value **ret_users);

#ifdef __cplusplus
}
#endif

#endif
