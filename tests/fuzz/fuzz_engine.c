/*
 * A relay says anything to an engine that has an account, a contact with a session, and messages under way.
 * Input: u16 length ‖ message, again and again. No message is fatal, and what is stored afterwards loads
 * again.
 */
#include "driver.h"
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#define ENVELOPES 6
#define MAX_MESSAGES 64u

static struct {
    bool made;
    struct sim *s;
    struct memport_snapshot *snapshot;
    struct bytes envelope[ENVELOPES];
    uint64_t counter;
} world;

static void world_free(void)
{
    memport_snapshot_free(world.snapshot);
    sim_free(world.s);
}

/* Alice is away; bob, whom she knows, has written, and so has carol, whom she does not know. */
static void world_make(void)
{
    struct sim *s = sim_new_online(9, 3);
    struct address alice = sim_address(s, 0);
    size_t before = 0;
    sim_send(s, 0, 1, 2, "");
    (void)sim_settle(s, 60000);
    sim_disconnect(s, 0);
    while (simrelay_history(s->relay, &alice, before).p)
        before++;
    for (int i = 0; i < ENVELOPES; i++)
        sim_send(s, i % 3 == 2 ? 2 : 1, 0, 2, "");
    sim_send(s, 0, 1, 2, "");
    sim_run(s, 5000);
    for (size_t i = 0; i < ENVELOPES; i++)
        world.envelope[i] = simrelay_history(s->relay, &alice, before + i);
    world.snapshot = memport_snapshot(s->node[0].mp);
    world.s = s;
    world.made = true;
    (void)atexit(world_free);
}

static void fill(void *ctx, void *out, size_t n)
{
    uint8_t *p = out;
    (void)ctx;
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((world.counter = world.counter * UINT64_C(6364136223846793005) +
                                          1442695040888963407u) >>
                         56);
}

struct run {
    struct memport *mp;
    struct engine *e;
    uint64_t now;
};

static void turn(struct run *r)
{
    struct effect *f;
    FUZZ_CHECK(engine_turn_end(r->e, r->now) == 0);
    FUZZ_CHECK(memport_commit(r->mp) == 0);
    while ((f = engine_next_effect(r->e)))
        effect_free(f);
}

static void say(struct run *r, const void *p, size_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    memcpy(exact, p, n);
    FUZZ_CHECK(engine_relay_message(r->e, r->now, exact, n) == 0);
    free(exact);
}

static void go_online(struct run *r)
{
    const struct link_connected up = {.host = {.p = (const uint8_t *)"relay.test:7690", .n = 15}};
    const struct relay_challenge challenge = {.version = RELAY_VERSION,
            .time_ms = r->now,
            .max_message = RELAY_MAX_MESSAGE,
            .max_body = RELAY_MAX_BODY,
            .window = RELAY_WINDOW};
    const struct relay_welcome welcome = {.time_ms = r->now, .one_time_left = 90, .list_n = 1};
    struct buf b;
    FUZZ_CHECK(engine_link_up(r->e, r->now, &up) == 0);
    buf_init(&b, RELAY_MAX_MESSAGE);
    relay_put_challenge(&b, &challenge);
    say(r, b.data, b.len);
    buf_reset(&b);
    relay_put_welcome(&b, 1, &welcome);
    say(r, b.data, b.len);
    buf_done(&b);
    turn(r);
}

static void start(struct run *r, const struct rng *rng)
{
    static const struct engine_config cfg = {.receipts = true};
    struct port port = memport_port(r->mp);
    FUZZ_CHECK(engine_new(&cfg, &port, rng, r->now, &r->e) == 0);
    turn(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rng rng = {.fill = fill};
    struct run r = {.now = 0};
    if (!world.made)
        world_make();
    world.counter = size;
    r.now = world.s->now;
    r.mp = memport_new();
    memport_restore(r.mp, world.snapshot);
    start(&r, &rng);
    go_online(&r);
    for (unsigned i = 0; i < MAX_MESSAGES && size >= 2; i++) {
        size_t n = data[0] | (size_t)data[1] << 8;
        data += 2;
        size -= 2;
        if (n > size)
            n = size;
        say(&r, data, n);
        data += n;
        size -= n;
        if (n % 2) {
            turn(&r);
            r.now += 700 * n;
            FUZZ_CHECK(engine_tick(r.e, r.now) == 0);
        }
        turn(&r);
    }
    engine_free(r.e);
    start(&r, &rng);
    engine_free(r.e);
    memport_free(r.mp);
    return 0;
}

/* --- the generator --- */

static void batch_head(struct gen *g, uint8_t type, uint16_t count)
{
    gen_u8(g, type);
    gen_le(g, gen_below(g, 8), 4);
    gen_le(g, count, 2);
}

static void deliver(struct gen *g)
{
    unsigned n = 1 + (unsigned)gen_below(g, 4);
    batch_head(g, RELAY_DELIVER, (uint16_t)(gen_one_in(g, 50) ? gen_boundary(g) : n));
    while (n--) {
        const struct bytes *b = &world.envelope[gen_below(g, ENVELOPES)];
        size_t at = g->len, len = gen_one_in(g, 6) ? gen_below(g, b->n + 1) : b->n;
        gen_random(g, ENVELOPE_ID_LEN);
        gen_le(g, world.s->now, 8);
        gen_le(g, len, 4);
        gen_put(g, b->p, len);
        for (unsigned k = gen_one_in(g, 2) ? 0 : 1 + (unsigned)gen_below(g, 3); k && g->len > at + 28; k--)
            g->out[at + 28 + gen_below(g, g->len - at - 28)] ^= (uint8_t)(1u << gen_below(g, 8));
    }
}

static void account(struct gen *g)
{
    size_t n = gen_size(g, 400);
    gen_u8(g, RELAY_ACCOUNT);
    gen_le(g, gen_below(g, 8), 4);
    gen_u8(g, (uint8_t)gen_below(g, 2));
    gen_le(g, 5, 4);
    gen_text(g, gen_one_in(g, 2) ? "carol" : "alice");
    gen_put(g, world.s->node[gen_below(g, 3)].uid, UID_LEN);
    gen_le(g, gen_below(g, 3), 2);
    gen_le(g, n, 4);
    gen_random(g, n);
}

static void other(struct gen *g)
{
    static const uint8_t types[] = {RELAY_SUBMITTED, RELAY_STATES, RELAY_PRESENCE, RELAY_PREKEYS,
            RELAY_DRAINED, RELAY_OK, RELAY_ERROR, RELAY_BUNDLE, RELAY_USERS, RELAY_WELCOME, RELAY_CHALLENGE};
    size_t n = gen_size(g, 300);
    gen_u8(g, gen_one_in(g, 10) ? (uint8_t)gen_below(g, 256) : types[gen_below(g, sizeof(types))]);
    gen_le(g, gen_below(g, 8), 4);
    if (gen_one_in(g, 2))
        gen_le(g, n / 21, 2);
    gen_random(g, n);
}

void fuzz_generate(struct gen *g)
{
    unsigned n = 1 + (unsigned)gen_below(g, 8);
    if (!world.made)
        world_make();
    while (n--) {
        size_t at = g->len, len;
        gen_le(g, 0, 2);
        switch (gen_below(g, 4)) {
        case 0:
        case 1:
            deliver(g);
            break;
        case 2:
            account(g);
            break;
        default:
            other(g);
        }
        len = g->len - at - 2;
        if (len > 65535 || g->len < at + 2)
            return;
        g->out[at] = (uint8_t)len;
        g->out[at + 1] = (uint8_t)(len >> 8);
    }
}
