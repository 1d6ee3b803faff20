/*
 * The local API's server: listener, peer credentials, MessagePack-RPC, checked requests, held replies, event
 * streams with backpressure. Knows nothing of what the methods do.
 *
 * Replies are held: what is answered during a turn of the loop reaches the clients at ipc_commit(), or
 * becomes an error at ipc_abort(), so that no client hears of something that is not durable.
 */
#ifndef E2EE_IPC_H
#define E2EE_IPC_H

#include <event2/event.h>

#include "api.h"
#include "base.h"

#define IPC_MAX_CLIENTS 1024u
#define IPC_MAX_PENDING 4096u         /* unanswered requests of one client; reading stops there */
#define IPC_MAX_QUEUE (2u * 1048576u) /* bytes waiting for one client; reading stops at half of it */
#define IPC_EVENT_BATCH 262144u       /* event bytes queued for one client before it has read some */

struct ipc;
/* One request that waits for its answer. Valid until answered; answering a request of a client that has gone
 * is harmless. */
struct ipc_request;

/* Receives events of a read, in order; non-zero stops the read after this event. event is one encoded
 * MessagePack map. */
typedef int (*ipc_event_sink)(void *ctx, uint64_t seq, const void *event, size_t n);

struct ipc_callbacks {
    /*
     * A checked request: params is the map of api_check_params(), alive during the call. Exactly one
     * ipc_reply() or ipc_fail() must follow, now or later. hello, api_info are answered by the server itself.
     */
    void (*call)(void *ctx, struct ipc_request *req, const struct api_method *method,
            const struct mp_value *params);
    /* Calls sink for the events with seq > after whose type is in the bit set types (bit i: api_events[i]),
       oldest first, and sets *ret_next to the sequence read up to (>= after; ignored where sink
       stopped). Negative errno on failure. */
    int (*read_events)(void *ctx, uint64_t after, uint64_t types, ipc_event_sink sink, void *sink_ctx,
            uint64_t *ret_next);
    /* A request's client has gone before its answer (waits can be dropped). req stays valid until answered.
     */
    void (*gone)(void *ctx, struct ipc_request *req);
};

/*
 * Listens at path, or, when fd >= 0, on that inherited listening socket, which ipc_free() closes. uids: who
 * may connect besides our own uid; others are refused at accept with a log line. The path's directory is made
 * if it is missing (mode 0700) and must not be writable by others; the socket has mode 0600, or 0666 where
 * uids names somebody, whom 0600 would keep out. A stale socket file is replaced, a live one refused with
 * -EADDRINUSE, another file with -EEXIST; -EPERM: the directory; -ENAMETOOLONG, -EINVAL: the path or the
 * descriptor. Each is logged with what is allowed.
 */
int ipc_new(struct event_base *base, const char *path, int fd, const uid_t *uids, size_t n_uids,
        const struct ipc_callbacks *callbacks, void *ctx, struct ipc **ret_ipc) MUST_USE;
/* Closes all connections (gone is called for what they wait for; answering it afterwards is harmless) and
 * removes the path. */
void ipc_free(struct ipc *ipc);

/* result: one encoded map; NULL is an empty map. Frees req. */
void ipc_reply(struct ipc_request *req, const struct buf *result);
/* Frees req. retry_after_ms 0: none. The text says what was wrong and what is allowed. */
void ipc_fail(struct ipc_request *req, enum api_error error, uint32_t retry_after_ms, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

/* Sends the client of req the events after `after` from now on; replaces an earlier subscription of that
 * client. The stream begins behind the reply. */
void ipc_subscribe(struct ipc_request *req, uint64_t after, uint64_t types);
void ipc_unsubscribe(struct ipc_request *req);
/* Who asks. */
uid_t ipc_request_uid(const struct ipc_request *req);

/* Ends the turn: the held replies go out; subscribers are served up to last_seq. A last_seq that is lower
 * than before is a new log. */
void ipc_commit(struct ipc *ipc, uint64_t last_seq);
/* The turn failed: every reply held becomes this error instead. */
void ipc_abort(struct ipc *ipc, enum api_error error, const char *text);
/*
 * Ends every subscription: sends the answers held, then to each subscriber a notification "error", and closes
 * its connection. Clients that have not taken all that was queued for them within timeout_ms, or have sent a
 * part of a request, are closed, too, so that nothing of it stays in memory.
 */
void ipc_end_streams(struct ipc *ipc, enum api_error error, const char *text, uint32_t timeout_ms);
/* Account name for hello's answer; copied. */
void ipc_set_account(struct ipc *ipc, const char *account);
size_t ipc_clients(const struct ipc *ipc);
/* Writes out what is queued, at most timeout_ms, for a clean stop. */
void ipc_drain(struct ipc *ipc, uint32_t timeout_ms);

#endif
