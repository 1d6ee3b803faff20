/* The relay's store for its unit tests: requests that are waited for, and accounts whose signatures nobody
 * checks. */
#ifndef E2EE_RELAY_STATE_H
#define E2EE_RELAY_STATE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <uv.h>

#include "base.h"
#include "store.h"

/* A store in a new directory on a loop of its own. */
struct env {
    char dir[64];
    uv_loop_t loop;
    struct store *store;
    struct store_options options;
};

/* An entry whose structure is right and whose signatures are zeros: the store checks none. */
struct person {
    uint8_t ak[32], uid[UID_LEN], previous[32];
    uint64_t n;
    char name[16];
};

struct registration {
    enum store_result result;
    enum store_conflict conflict;
    uint64_t newest;
};

void open_store(struct env *e);
void close_store(struct env *e);
int setup(void **state);
int teardown(void **state);
void reopen(struct env *e);
void wait_for(struct env *e, const bool *done);
void *new_req(enum store_op op, size_t size, bool *done);
enum store_result perform(struct env *e, struct store_req *req);
struct person person(const char *name);
struct address address_of(const struct person *p, uint32_t device);
struct registration register_entry(struct env *e, const struct person *p, uint64_t n, unsigned devices,
        unsigned revoked, enum relay_registration mode, const uint8_t *token, uint8_t ret_hash[32]);
struct registration register_next(struct env *e, struct person *p, unsigned devices, unsigned revoked);
struct person registered(struct env *e, const char *name);
struct envelope_id new_id(void);
struct store_submit_req *submit_req(
        const struct address *to, const struct envelope_id *id, size_t n, bool *done);
enum store_result submit(struct env *e, const struct address *to, const struct envelope_id *id, size_t n);
struct store_open_device open_device(struct env *e, const struct address *who);
enum store_result ack(struct env *e, uint64_t mailbox, const struct envelope_id *id);
struct store_fetch *fetch(
        struct env *e, uint64_t mailbox, uint64_t after, uint32_t count, uint32_t bytes, bool *done);
uint8_t state_of(struct env *e, const struct address *to, const struct envelope_id *id);

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
