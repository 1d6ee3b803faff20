/*
 * The local API's server over real sockets in one thread, for tests/unit/test_ipc*.c: a peer writes, pump()
 * runs the server's loop and commits, the peer reads. Messages are written and compared as JSON. Every
 * function fails the test where what it is for does not happen.
 */
#ifndef E2EE_IPC_PEER_H
#define E2EE_IPC_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "internal.h"

#define MAX_CALLS 8192u

/*
 * The application: answers `status` at once, fails `users`, keeps `wait` in held[], and has a log of n_events
 * numbered events of which last_seq are committed.
 */
struct fixture {
    struct event_base *base;
    struct ipc *ipc;
    char dir[64], path[96];
    struct ipc_request *held[MAX_CALLS];
    size_t n_held, n_gone, n_calls, n_reads;
    size_t answer_bytes; /* of padding in status's answer */
    uint64_t n_events, last_seq;
    size_t event_bytes;
    uint64_t types_asked;
    int read_result;
    uint64_t rows_a_read;
    bool commit_in_call, abort_next, no_commit;
};

struct peer {
    int fd;
    bool framed, eof;
    struct buf in;
    size_t at;
};

extern const struct ipc_callbacks ipc_test_callbacks; /* of struct fixture */
extern unsigned ipc_test_sends, ipc_test_parses;      /* calls of send() and rpc_read() so far (-Wl,--wrap) */

/* A fixture with a server that listens at f->path; teardown frees both. */
int ipc_test_setup(void **state);
int ipc_test_teardown(void **state);
/* Makes f->ipc again after a test has freed it. */
void ipc_test_start(struct fixture *f);
/* Answers req as `status` does. */
void answer_status(struct fixture *f, struct ipc_request *req);

/* One turn of the application: events, then commit or abort. */
void pump(struct fixture *f);
void pump_ms(struct fixture *f, uint64_t ms);

/* A non-blocking connection, or a negative errno. */
int dial(const char *path);
struct peer peer_open(struct fixture *f);
void peer_close(struct peer *p);
/* The server's end of the connection made last. */
struct ipc_client *newest_client(const struct fixture *f);

/* All bytes, pumping while the socket is full. */
void send_bytes(struct fixture *f, struct peer *p, const void *bytes, size_t n);
/* Appends the message in p's framing. */
void encode(const struct peer *p, const char *json, struct buf *out);
void say(struct fixture *f, struct peer *p, const char *json);

/* Reads what is there into p->in. */
void peer_receive(struct peer *p);
/* The next whole message in p->in; valid until the next hear(). */
bool take(struct peer *p, struct mp_value *ret_v);
/* The next message, pumping until it is there. */
struct mp_value hear(struct fixture *f, struct peer *p);
void expect(struct fixture *f, struct peer *p, const char *json);
/* The next message contains part, as JSON. */
void expect_text(struct fixture *f, struct peer *p, const char *part);
void expect_nothing(struct fixture *f, struct peer *p);
void expect_closed(struct fixture *f, struct peer *p);
/* The next messages are the events from to to, each once. */
void expect_events(struct fixture *f, struct peer *p, uint64_t from, uint64_t to);

#define STATUS(id) "[0," #id ",\"status\",[{}]]"
#define ALICE(id) "[1," #id ",null,{\"user\":\"alice\"}]"
#define WAIT(id) "[0," #id ",\"wait\",[{\"id\":\"x\"}]]"
#define IPC_TEST(name) cmocka_unit_test_setup_teardown(name, ipc_test_setup, ipc_test_teardown)

#endif
