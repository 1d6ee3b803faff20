/*
 * A daemon for tests of the client library: a thread that accepts one connection after another and plays a
 * script on each. It reads requests properly and writes whatever the script wants, so that it can misbehave.
 */
#ifndef E2EE_FAKE_DAEMON_H
#define E2EE_FAKE_DAEMON_H

#include "rpc.h"

struct fake_peer {
    int fd;
    struct buf in;
    size_t used;
    enum rpc_framing framing;
    unsigned requests; /* read so far, hello excepted */
};

/* Plays on one connection; it is closed when the script returns. */
typedef void (*fake_script)(struct fake_peer *p, void *ctx);

struct fake_daemon;
/* NULL if it cannot listen at path, which must not exist. */
struct fake_daemon *fake_daemon_start(const char *path, fake_script script, void *ctx);
/* Cuts the connection, ends the thread and removes the socket. */
void fake_daemon_stop(struct fake_daemon *d);

/*
 * The next request; hello is answered here and skipped. False at the end of the connection. *ret_m lives
 * until the next call.
 */
bool fake_next(struct fake_peer *p, struct rpc_message *ret_m);
/* False if the client has gone. */
bool fake_raw(struct fake_peer *p, const void *bytes, size_t n);
/* Answers with {"n": n}. */
bool fake_reply(struct fake_peer *p, uint32_t msgid, int64_t n);
/* result: one encoded value. */
bool fake_reply_value(struct fake_peer *p, uint32_t msgid, const struct buf *result);
bool fake_reply_error(struct fake_peer *p, uint32_t msgid, const struct buf *error);
/* A message event with a text of `size` bytes. */
bool fake_event(struct fake_peer *p, uint64_t seq, size_t size);

#endif
