/*
 * The wiring: the only code that sees engine, store, transport and local API. It runs the turns: inputs from
 * the loop go to the engine; at the end of the turn the store commits; then the engine's effects and the held
 * replies go out.
 */
#ifndef E2EE_APP_H
#define E2EE_APP_H

#include "config.h"
#include "store.h"

struct event_base;
struct vault;
struct app;

/*
 * store NULL: locked until a client unlocks. vault outlives the app. listen_fd: an inherited listening
 * socket, or -1. store is taken over only on success. 0, negative errno.
 */
int app_new(struct event_base *base, const struct config *c, struct store *store, struct vault *vault,
        int listen_fd, struct app **ret_app) MUST_USE;
void app_free(struct app *a);
/* Until app_stop(); 0, or the negative errno of a fault that cannot be survived. */
int app_run(struct app *a) MUST_USE;
/* From a signal callback of the same loop. */
void app_stop(struct app *a);

#endif
