#include <string.h>

#include "internal.h"
#include "log.h"

/* One read of the log for one client. */
struct feed {
    struct ipc_client *c;
    uint64_t last; /* greatest sequence queued, or the cursor */
    bool full;
    bool beyond; /* met an event of the turn that is under way: not durable yet */
};

bool stream_wants(const struct ipc_client *c)
{
    return c->subscription.active && c->state == CLIENT_OPEN && !c->broken && !c->stalled &&
           c->subscription.cursor < c->ipc->last_seq;
}

/* In place of an event that no message can hold. */
static void put_gap(struct buf *out, enum rpc_framing framing, uint64_t seq)
{
    CLEANUP_BUF struct buf gap = {0};
    struct mp_map m;

    buf_init(&gap, IPC_MAX_ERROR_TEXT);
    mp_map_begin(&m, &gap);
    mp_put_uint(mp_key(&m, "seq"), seq);
    mp_put_str(mp_key(&m, "type"), "gap");
    mp_put_uint(mp_key(&m, "time"), clock_now_ms());
    mp_put_uint(mp_key(&m, "from"), seq);
    mp_put_uint(mp_key(&m, "to"), seq);
    mp_map_end(&m);
    rpc_put_notify(out, framing, "event", gap.data, gap.len);
    log_error("ipc-event-size", "an event was too long for a message");
}

static int feed_event(void *ctx, uint64_t seq, const void *event, size_t n)
{
    struct feed *f = ctx;
    struct buf *out;

    f->beyond = seq > f->c->ipc->last_seq;
    if (f->beyond)
        return 1;
    out = output_buf(f->c, n + 2 * IPC_FRAMING_BYTES);
    if (n + 2 * IPC_FRAMING_BYTES > RPC_MAX_MESSAGE)
        put_gap(out, f->c->framing, seq);
    else
        rpc_put_notify(out, f->c->framing, "event", event, n);
    if (seq > f->last)
        f->last = seq;
    f->full = buf_status(out) || client_queued(f->c) >= IPC_EVENT_BATCH;
    return f->full;
}

/* One call of read_events. */
static void feed(struct ipc_client *c)
{
    struct subscription *s = &c->subscription;
    struct feed f = {.c = c, .last = s->cursor};
    uint64_t before = s->cursor, next = before, end = c->ipc->last_seq;
    int r = c->ipc->callbacks->read_events(c->ipc->ctx, before, s->types, feed_event, &f, &next);

    if (r < 0)
        log_warn("ipc-events", "cannot read the event log: %s", strerror(-r));
    c->broken = c->broken || buf_status(&c->out);
    s->cursor = f.last;
    if (r >= 0 && !f.full && (f.beyond || next > end))
        s->cursor = end;
    else if (r >= 0 && !f.full && next > f.last)
        s->cursor = next;
    c->stalled = r < 0 || s->cursor == before;
    c->ipc->stalled = c->ipc->stalled || c->stalled;
}

void stream_serve(struct ipc_client *c)
{
    for (unsigned i = 0; i < IPC_TURN_READS && stream_wants(c) && client_queued(c) < IPC_EVENT_BATCH; i++)
        feed(c);
}
