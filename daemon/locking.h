/*
 * The API's lock and unlock, and what a locked daemon answers: status, health (hello and api_info are the
 * server's own), and LOCKED to everything else.
 */
#ifndef E2EE_LOCKING_H
#define E2EE_LOCKING_H

#include "ipc.h"
#include "vault.h"

struct locking;

struct locking_callbacks {
    /* The state is open; store is taken over if the result is 0. */
    int (*open)(void *ctx, struct store *store);
    /* lock was called: at the end of this turn the state is closed, if it is open, before the answer goes
     * out. */
    void (*close)(void *ctx);
};

/* vault is borrowed; all outlive the result. -ENOMEM. */
int locking_new(const struct config *c, struct vault *vault, const struct locking_callbacks *callbacks,
        void *ctx, struct locking **ret_l) MUST_USE;
/* Answers what still waits. */
void locking_free(struct locking *l);

/* True: the call has been taken, and is or will be answered. is_open: the state is. */
bool locking_call(struct locking *l, struct ipc_request *req, const struct api_method *method,
        const struct mp_value *params, bool is_open);
/* The state has been closed: an unlocking that is under way is not wanted any more. */
void locking_closed(struct locking *l);
/* For health's answer. */
const char *locking_source(const struct locking *l);

#define LOCKING_TEXT                                                                                         \
    "the daemon is locked: e2eectl unlock, or the method unlock with the passphrase, opens it"

#endif
