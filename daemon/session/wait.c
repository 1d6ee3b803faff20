/* wait: callers that want to hear when a message has reached a state. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define WAIT_DEFAULT_MS (30 * SECOND_MS)

static void wait_free(struct engine *e, struct wait *w)
{
    TAILQ_REMOVE(&e->waits, w, list);
    e->n_waits--;
    free(w);
}

static int answer_state(
        struct engine *e, uint64_t ticket, const char *id_text, uint8_t state, const char *reason)
{
    CLEANUP_BUF struct buf b = {0};
    struct mp_map m;
    buf_init(&b, 512);
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "id"), id_text);
    mp_put_str(mp_key(&m, "state"), out_state_name(state));
    if (reason && reason[0])
        mp_put_str(mp_key(&m, "reason"), reason);
    mp_map_end(&m);
    return answer_ok(e, ticket, &b);
}

static uint8_t until_of(const struct mp_value *params)
{
    char until[16];
    if (!param_str(params, "until", until, sizeof(until)))
        return OUT_DELIVERED;
    return !strcmp(until, "sent") ? OUT_SENT : !strcmp(until, "read") ? OUT_READ : OUT_DELIVERED;
}

static int wait_add(struct engine *e, uint64_t ticket, const struct wait *like)
{
    struct wait *w;
    if (e->n_waits >= ENGINE_MAX_WAITS)
        return answer_fail(e, ticket, API_QUEUE_FULL, 1000, "wait: at most %u calls can wait at a time",
                ENGINE_MAX_WAITS);
    w = malloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    *w = *like;
    TAILQ_INSERT_TAIL(&e->waits, w, list);
    e->n_waits++;
    return 0;
}

int wait_call(struct engine *e, uint64_t ticket, const struct mp_value *params)
{
    struct wait w = {.ticket = ticket, .until = until_of(params)};
    struct table_node *node;
    struct done d = {0};
    uint8_t state = OUT_WAITING;
    int r = 0;
    (void)param_str(params, "id", w.id_text, sizeof(w.id_text));
    w.id = message_id_of(identity_address(e->id)->uid, w.id_text);
    w.deadline_ms = e->now + param_uint(params, "timeout_ms", WAIT_DEFAULT_MS);
    node = table_get(&e->out, w.id.b);
    if (node) {
        state = container_of(node, struct outmsg, by_id)->state;
    } else {
        r = done_load(e, &w.id, &d);
        if (r < 0)
            return r;
        if (r > 0)
            return answer_fail(e, ticket, API_UNKNOWN_MESSAGE, 0,
                    "wait: no message with the id '%s' was sent from here", w.id_text);
        state = d.state;
    }
    if (state >= w.until)
        return answer_state(e, ticket, w.id_text, state, d.reason);
    return wait_add(e, ticket, &w);
}

int wait_notify(struct engine *e, const struct message_id *id, uint8_t state, const char *reason)
{
    struct wait *w, *next;
    for (w = TAILQ_FIRST(&e->waits); w; w = next) {
        int r;
        next = TAILQ_NEXT(w, list);
        if (memcmp(w->id.b, id->b, MESSAGE_ID_LEN) != 0 || state < w->until)
            continue;
        r = answer_state(e, w->ticket, w->id_text, state, reason);
        wait_free(e, w);
        if (r < 0)
            return r;
    }
    return 0;
}

int wait_tick(struct engine *e)
{
    struct wait *w, *next;
    for (w = TAILQ_FIRST(&e->waits); w; w = next) {
        int r;
        next = TAILQ_NEXT(w, list);
        if (w->deadline_ms > e->now)
            continue;
        r = answer_fail(e, w->ticket, API_TIMEOUT, 0,
                "wait: the message '%s' has not got that far yet; it stays on its way", w->id_text);
        wait_free(e, w);
        if (r < 0)
            return r;
    }
    return 0;
}

bool engine_forget(struct engine *e, uint64_t ticket)
{
    struct wait *w;
    TAILQ_FOREACH(w, &e->waits, list)
    if (w->ticket == ticket) {
        wait_free(e, w);
        return true;
    }
    return false;
}

int wait_abandon(struct engine *e)
{
    struct wait *w;
    int r = 0;
    while (r == 0 && (w = TAILQ_FIRST(&e->waits))) {
        r = answer_fail(e, w->ticket, API_NO_ACCOUNT, 0, "wait: the account is gone");
        wait_free(e, w);
    }
    return r;
}
