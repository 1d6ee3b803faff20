/* Counts: which of a peer's messages are missing, and which of ours will not come. */
#include <errno.h>
#include <string.h>

#include "state.h"

/* Index of the range with count in it, or n_gaps. */
static size_t gap_with(const struct peer *p, uint64_t count)
{
    size_t i = 0;
    while (i < p->n_gaps && (count < p->gaps[i].from || count > p->gaps[i].to))
        i++;
    return i;
}

static void gap_drop(struct peer *p, size_t i)
{
    p->gaps[i] = p->gaps[--p->n_gaps];
}

static int report(struct engine *e, struct peer *p, const struct gap *g)
{
    return event_error(e, "MESSAGES_MISSING", p->contact,
            "%llu message(s) of this sender did not arrive (numbers %llu to %llu)",
            (unsigned long long)g->to - g->from + 1, (unsigned long long)g->from, (unsigned long long)g->to);
}

/* Makes room for two more. What is forgotten is not judged any more. */
static int gap_room(struct engine *e, struct peer *p)
{
    int r = 0;
    if (!p->gaps && !(p->gaps = calloc(MAX_GAPS, sizeof(p->gaps[0]))))
        return -ENOMEM;
    while (r == 0 && p->n_gaps + 2 > MAX_GAPS) {
        size_t oldest = 0;
        for (size_t i = 1; i < p->n_gaps; i++)
            if (p->gaps[i].to < p->gaps[oldest].to)
                oldest = i;
        if (p->gaps[oldest].to > p->judged_from)
            p->judged_from = p->gaps[oldest].to;
        if (p->gaps[oldest].kind == GAP_MISSING)
            r = report(e, p, &p->gaps[oldest]);
        gap_drop(p, oldest);
    }
    return r;
}

static void gap_add(struct peer *p, const struct gap *g)
{
    for (size_t i = 0; g->kind == GAP_EXPIRED && i < p->n_gaps; i++) {
        struct gap *k = &p->gaps[i];
        if (k->kind == GAP_EXPIRED && k->to + 1 == g->from) {
            k->to = g->to;
            return;
        }
    }
    p->gaps[p->n_gaps++] = *g;
}

/* Takes count out of range i, which may split. There is room. */
static void gap_take(struct peer *p, size_t i, uint64_t count)
{
    struct gap *g = &p->gaps[i], upper = *g;
    upper.from = count + 1;
    g->to = count - 1;
    if (upper.from > upper.to && g->from > g->to)
        gap_drop(p, i);
    else if (g->from > g->to)
        *g = upper;
    else if (upper.from <= upper.to)
        p->gaps[p->n_gaps++] = upper;
}

static void advance(struct engine *e, struct peer *p, uint64_t count)
{
    if (count > p->highest_count + 1)
        gap_add(p, &(struct gap){.from = p->highest_count + 1, .to = count - 1, .noticed_ms = e->now});
    p->highest_count = count;
}

int counts_came(struct engine *e, struct peer *p, uint64_t count)
{
    size_t i;
    int r;
    if (!count)
        return 0;
    peer_touch(e, p);
    if (count == p->highest_count + 1) {
        p->highest_count = count;
        return 0;
    }
    r = gap_room(e, p);
    if (r < 0)
        return r;
    if (count > p->highest_count) {
        advance(e, p, count);
        return 0;
    }
    i = gap_with(p, count);
    if (i < p->n_gaps) {
        gap_take(p, i, count);
        return 0;
    }
    if (count <= p->judged_from)
        return 0;
    return event_error(e, "SENDER_FORKED", p->contact,
            "a message came under a number that another message had: the sender's state was copied or "
            "restored");
}

int counts_expired(struct engine *e, struct peer *p, uint64_t count)
{
    size_t i;
    int r = gap_room(e, p);
    if (r < 0)
        return r;
    peer_touch(e, p);
    if (count > p->highest_count) {
        advance(e, p, count);
    } else {
        i = gap_with(p, count);
        if (i == p->n_gaps)
            return 0; /* it has come nevertheless */
        gap_take(p, i, count);
        r = gap_room(e, p);
        if (r < 0)
            return r;
    }
    gap_add(p, &(struct gap){.from = count, .to = count, .noticed_ms = e->now, .kind = GAP_EXPIRED});
    return 0;
}

static int tick_peer(struct engine *e, struct peer *p)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->n_gaps; i++) {
        struct gap *g = &p->gaps[i];
        if (g->kind != GAP_MISSING || elapsed(e->now, g->noticed_ms) < GAP_REPORT_MS)
            continue;
        g->kind = GAP_REPORTED;
        peer_touch(e, p);
        r = report(e, p, g);
    }
    return r;
}

int counts_tick(struct engine *e)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < e->peers.n_slots; i++)
        for (struct table_node *n = e->peers.slots[i]; r == 0 && n; n = n->next)
            r = tick_peer(e, container_of(n, struct peer, node));
    return r;
}

int counts_bury(struct engine *e, struct peer *p, uint64_t count)
{
    if (!count)
        return 0;
    if (!p->tombstones && !(p->tombstones = calloc(MAX_TOMBSTONES, sizeof(p->tombstones[0]))))
        return -ENOMEM;
    peer_touch(e, p);
    for (size_t i = 0; i < p->n_tombstones; i++) {
        struct tombstone *t = &p->tombstones[i];
        if (t->to + 1 == count) {
            t->to = count;
            return 0;
        }
        if (t->from == count + 1) {
            t->from = count;
            return 0;
        }
    }
    if (p->n_tombstones == MAX_TOMBSTONES)
        memmove(p->tombstones, p->tombstones + 1, --p->n_tombstones * sizeof(p->tombstones[0]));
    p->tombstones[p->n_tombstones++] = (struct tombstone){.from = count, .to = count};
    return 0;
}

size_t counts_unbury(struct engine *e, struct peer *p, size_t max, struct buf *out)
{
    size_t n = 0;
    while (n < max && p->n_tombstones) {
        struct tombstone *t = &p->tombstones[0];
        buf_u64(out, t->from++);
        n++;
        if (t->from > t->to)
            memmove(p->tombstones, p->tombstones + 1, --p->n_tombstones * sizeof(p->tombstones[0]));
    }
    peer_touch(e, p);
    return n;
}
