/*
 * scenario_random SEED COUNT STEPS: worlds of up to three daemons with faults of every kind, one a seed.
 * After the faults have stopped every message must have arrived once, or have ended with an event. A failure
 * names its seed; COUNT 1 replays it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

/* What is allowed to go wrong in a world. */
struct weather {
    unsigned cuts, losses, moves, enospc;
    bool disk, lies, jumps, corrupt;
};

static struct weather weather_of(struct sim *s)
{
    struct weather w = {0};
    w.cuts = sim_random(s, 3) ? 3 + sim_random(s, 20) : 0;
    w.moves = sim_random(s, 2) ? 5 : 0;
    w.enospc = sim_random(s, 4) ? 0 : 5;
    w.disk = sim_random(s, 4) == 0;
    w.lies = sim_random(s, 2) == 0;
    w.corrupt = w.lies && sim_random(s, 2) == 0;
    w.jumps = sim_random(s, 6) == 0;
    return w;
}

static void lie(struct sim *s, const struct weather *w)
{
    struct simrelay_lies *l = simrelay_lies(s->relay);
    *l = (struct simrelay_lies){0};
    if (!w->lies)
        return;
    s->disorderly = true;
    l->forget = sim_random(s, 60);
    l->duplicate = sim_random(s, 100);
    l->reorder = sim_random(s, 200);
    l->retry = sim_random(s, 100);
    l->busy = sim_random(s, 100);
    l->replay = sim_random(s, 100);
    l->reflect = sim_random(s, 60);
    l->corrupt = w->corrupt ? sim_random(s, 60) : 0;
    l->strip_one_time = sim_random(s, 4) == 0;
    l->forget_acks = sim_random(s, 4) == 0;
}

static void some_send(struct sim *s)
{
    int from = (int)sim_random(s, (uint32_t)s->n_nodes), to = (int)sim_random(s, (uint32_t)s->n_nodes);
    char more[64] = "";
    unsigned n = sim_random(s, 8) ? 1 : 1 + sim_random(s, 12);
    if (from == to)
        return;
    if (sim_random(s, 12) == 0)
        (void)snprintf(more, sizeof(more), ",\"ttl_ms\":%u", 1000 + sim_random(s, 100000));
    while (n--)
        sim_send(s, from, to, (int)sim_random(s, 8) ? 2 : (int)sim_random(s, 2), more);
}

static void some_fault(struct sim *s, const struct weather *w)
{
    int node = (int)sim_random(s, (uint32_t)s->n_nodes);
    struct sim_node *n = &s->node[node];
    if (w->cuts && sim_random(s, 100) < w->cuts)
        n->cut_in = 1 + sim_random(s, 12);
    if (w->enospc && sim_random(s, 100) < w->enospc)
        memport_fail(n->mp, sim_random(s, 2) ? MEMPORT_PUT : MEMPORT_COMMIT, 1 + sim_random(s, 8), -ENOSPC);
    if (w->moves && sim_random(s, 100) < w->moves) {
        if (n->offline)
            sim_connect(s, node);
        else
            sim_disconnect(s, node);
    }
    if (w->disk && sim_random(s, 200) == 0) {
        s->disorderly = true;
        if (sim_random(s, 2))
            simrelay_lose_disk(s->relay);
        else
            simrelay_lose_mail(s->relay);
    }
    if (w->jumps && sim_random(s, 150) == 0) {
        s->disorderly = true;
        n->skew_ms = sim_random(s, 2) ? 0 : ((int64_t)sim_random(s, 20) - 10) * 365 * (int64_t)DAY_MS;
    }
    if (sim_random(s, 100) == 0)
        lie(s, w);
}

static void calm(struct sim *s)
{
    *simrelay_lies(s->relay) = (struct simrelay_lies){0};
    for (size_t i = 0; i < s->n_nodes; i++) {
        s->node[i].cut_in = 0;
        s->node[i].skew_ms = 0;
        for (int op = 0; op < MEMPORT_OPS; op++)
            memport_fail(s->node[i].mp, (enum memport_op)op, 0, 0);
        sim_connect(s, (int)i);
    }
}

static uint64_t world(uint64_t seed, unsigned steps, bool talk)
{
    struct sim *s = sim_new_ready(seed, 2 + seed % 2);
    struct weather w = weather_of(s);
    uint64_t digest;
    s->deep = seed % 4 == 0;
    for (size_t i = 0; i < s->n_nodes; i++) {
        s->node[i].latency_ms = 1 + sim_random(s, 200);
        sim_connect(s, (int)i);
    }
    lie(s, &w);
    for (unsigned i = 0; i < steps; i++) {
        s->disorderly |= w.cuts || w.enospc || w.moves; /* what was under way is offered again */
        if (sim_random(s, 3) == 0)
            some_send(s);
        some_fault(s, &w);
        sim_run(s, sim_random(s, 4) ? sim_random(s, 300) : sim_random(s, 20000));
    }
    calm(s);
    (void)sim_settle(s, 12 * HOUR_MS);
    sim_check_all(s);
    if (talk)
        printf("seed %llu: %zu messages, %llu turns, digest %016llx\n", (unsigned long long)seed,
                s->n_messages, (unsigned long long)s->turns, (unsigned long long)s->digest);
    digest = s->digest;
    sim_free(s);
    return digest;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 0) : 20;
    unsigned steps = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : 60;
    for (unsigned long i = 0; i < count; i++) {
        uint64_t digest = world(seed + i, steps, count < 10);
        if (i == 0 && digest != world(seed, steps, false)) {
            (void)fprintf(stderr, "seed %llu: two runs differ\n", (unsigned long long)seed);
            return 1;
        }
    }
    return 0;
}
