/*
 * Two sessions against a model: random sending, delivering, losing, repeating, reordering, spoiling, saving
 * and loading, from one seed a run. What the network did not lose is decrypted exactly once, whatever came
 * before it; nothing else is. E2EED_SEED and E2EED_STEPS choose other runs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "parties.h"
#include "ratchet_impl.h"

enum { FLIGHT = 150, PAST = 64, STEPS = 20000, LIVE_CHAINS = RATCHET_MAX_CHAINS };

struct sent {
    struct buf envelope;
    char text[24];
    uint64_t time;
    unsigned chain;
};

/* One direction: what is under way, and what has arrived already. */
struct direction {
    struct ratchet **from, **to;
    char name;
    unsigned number, chain;
    uint8_t tag[ROUTE_TAG_LEN];
    struct sent flight[FLIGHT];
    size_t flying;
    struct sent past[PAST];
    size_t arrived;
};

struct world {
    struct pair pair;
    struct direction d[2];
    struct buf before, after, body;
    unsigned delivered, reordered, refused, chains, offers, answers, loads, lost;
};

static void world_init(struct world *w, const char *seed)
{
    memset(w, 0, sizeof(*w));
    pair_init(&w->pair, seed, true);
    w->d[0] = (struct direction){.from = &w->pair.a, .to = &w->pair.b, .name = 'a'};
    w->d[1] = (struct direction){.from = &w->pair.b, .to = &w->pair.a, .name = 'b'};
    buf_init_secret(&w->before, RATCHET_MAX_RECORD);
    buf_init_secret(&w->after, RATCHET_MAX_RECORD);
    buf_init(&w->body, ENVELOPE_MAX_BODY);
}

static void world_done(struct world *w)
{
    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; j < w->d[i].flying; j++)
            buf_done(&w->d[i].flight[j].envelope);
        for (size_t j = 0; j < w->d[i].arrived && j < PAST; j++)
            buf_done(&w->d[i].past[j].envelope);
    }
    pair_done(&w->pair);
    buf_done(&w->before);
    buf_done(&w->after);
    buf_done(&w->body);
}

static uint32_t below(struct world *w, uint32_t n)
{
    return stream_below(&w->pair.stream, n);
}

static struct sent take(struct direction *d, size_t at)
{
    struct sent s = d->flight[at];
    memmove(&d->flight[at], &d->flight[at + 1], (d->flying - at - 1) * sizeof(s));
    d->flying--;
    return s;
}

static void lose(struct world *w, struct direction *d, size_t at)
{
    struct sent s = take(d, at);
    buf_done(&s.envelope);
    w->lost++;
}

/* What no receiver has to keep keys for any more: too many chains ago, or too long ago. */
static void lose_stale(struct world *w, struct direction *d)
{
    for (size_t i = d->flying; i-- > 0;) {
        const struct sent *s = &d->flight[i];
        if (s->chain + LIVE_CHAINS <= d->chain || w->pair.now - s->time > RATCHET_SKIPPED_MS)
            lose(w, d, i);
    }
}

static void note_chain(struct world *w, struct direction *d, const struct buf *envelope)
{
    struct envelope_view v;
    assert_int_equal(envelope_parse(envelope->data, envelope->len, &v), 0);
    if (memcmp(d->tag, v.route_tag, ROUTE_TAG_LEN) == 0)
        return;
    memcpy(d->tag, v.route_tag, ROUTE_TAG_LEN);
    d->chain++;
    w->chains++;
    w->offers += v.header.n == SEALED_HEADER_LEN(MLKEM_PK_LEN);
    w->answers += v.header.n == SEALED_HEADER_LEN(MLKEM_CT_LEN);
}

static void send_one(struct world *w, struct direction *d)
{
    struct sent *s = &d->flight[d->flying];
    if (d->flying == FLIGHT)
        return;
    memset(s, 0, sizeof(*s));
    buf_init(&s->envelope, ENVELOPE_MAX_BODY);
    (void)snprintf(s->text, sizeof(s->text), "%c%u", d->name, d->number++);
    encrypt_text(*d->from, s->text, w->pair.now, &w->pair.rng, &s->envelope);
    note_chain(w, d, &s->envelope);
    s->time = w->pair.now;
    s->chain = d->chain;
    d->flying++;
    lose_stale(w, d);
}

static void remember(struct direction *d, const struct sent *s)
{
    struct sent *slot = &d->past[d->arrived % PAST];
    if (d->arrived >= PAST)
        buf_done(&slot->envelope);
    *slot = *s;
    d->arrived++;
}

static void deliver(struct world *w, struct direction *d)
{
    size_t at = below(w, 4) ? 0 : below(w, (uint32_t)d->flying);
    struct sent s = take(d, at);
    if (decrypt_body(*d->to, &s.envelope, w->pair.now, &w->pair.rng, &w->body))
        fail_msg("%s was not decrypted", s.text);
    assert_string_equal((char *)w->body.data, s.text);
    w->delivered++;
    w->reordered += at > 0;
    remember(d, &s);
}

static void save(const struct ratchet *r, struct buf *b)
{
    buf_reset(b);
    ratchet_save(r, b);
    assert_int_equal(buf_status(b), 0);
}

static void assert_refused(struct world *w, struct ratchet *r, const struct buf *envelope)
{
    save(r, &w->before);
    assert_int_not_equal(decrypt_body(r, envelope, w->pair.now, &w->pair.rng, &w->body), 0);
    save(r, &w->after);
    assert_int_equal(w->before.len, w->after.len);
    assert_memory_equal(w->before.data, w->after.data, w->after.len);
    w->refused++;
}

static void repeat(struct world *w, struct direction *d)
{
    size_t n = d->arrived < PAST ? d->arrived : PAST;
    assert_refused(w, *d->to, &d->past[below(w, (uint32_t)n)].envelope);
}

static void reflect(struct world *w, struct direction *d)
{
    size_t n = d->arrived < PAST ? d->arrived : PAST;
    assert_refused(w, *d->from, &d->past[below(w, (uint32_t)n)].envelope);
}

static void spoil(struct world *w, struct direction *d)
{
    struct buf *e = &d->flight[below(w, (uint32_t)d->flying)].envelope;
    size_t at = below(w, (uint32_t)e->len);
    uint8_t bit = (uint8_t)(1u << below(w, 8));
    e->data[at] ^= bit;
    assert_refused(w, *d->to, e);
    e->data[at] ^= bit;
}

static void reload(struct world *w, struct ratchet **r)
{
    save(*r, &w->before);
    ratchet_free(*r);
    *r = NULL;
    assert_int_equal(ratchet_load(w->before.data, w->before.len, r), 0);
    save(*r, &w->after);
    assert_int_equal(w->before.len, w->after.len);
    assert_memory_equal(w->before.data, w->after.data, w->after.len);
    w->loads++;
}

static void pass_time(struct world *w)
{
    w->pair.now += below(w, 20) ? below(w, 60000) : below(w, 8 * 3600 * 1000);
    if (below(w, 10) == 0) {
        (void)ratchet_expire(w->pair.a, w->pair.now);
        (void)ratchet_expire(w->pair.b, w->pair.now);
    }
    lose_stale(w, &w->d[0]);
    lose_stale(w, &w->d[1]);
}

static void step(struct world *w, uint32_t burst)
{
    struct direction *d = &w->d[below(w, 2)];
    uint32_t what = below(w, 100);
    if (what < burst)
        send_one(w, d);
    else if (what < 85 && d->flying > 0)
        deliver(w, d);
    else if (what < 87 && d->flying > 0)
        lose(w, d, below(w, (uint32_t)d->flying));
    else if (what < 90 && d->arrived > 0)
        repeat(w, d);
    else if (what < 91 && d->arrived > 0)
        reflect(w, d);
    else if (what < 94 && d->flying > 0)
        spoil(w, d);
    else if (what < 96)
        reload(w, d->to);
    else
        pass_time(w);
}

static void drain(struct world *w)
{
    for (size_t i = 0; i < 2; i++)
        while (w->d[i].flying > 0)
            deliver(w, &w->d[i]);
}

static void run(const char *seed, long steps, uint32_t burst)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    world_init(w, seed);
    for (long i = 0; i < steps; i++)
        step(w, burst);
    drain(w);
    print_message("%s: %u delivered (%u out of order), %u lost, %u refused, %u chains, %u offers, %u "
                  "answers, %u loads\n",
            seed, w->delivered, w->reordered, w->lost, w->refused, w->chains, w->offers, w->answers,
            w->loads);
    assert_true(w->delivered > steps / 8 && w->reordered > 0 && w->refused > 0 && w->loads > 0);
    assert_true(w->chains > 10 && w->offers > 2 && w->answers + 2 >= w->offers && w->answers <= w->offers);
    world_done(w);
    free(w);
}

static long steps_wanted(void)
{
    const char *text = getenv("E2EED_STEPS");
    return text ? strtol(text, NULL, 10) : STEPS;
}

/* Sending and delivering in balance: chains are short. */
static void test_conversation(void **state)
{
    const char *seed = getenv("E2EED_SEED");
    (void)state;
    run(seed ? seed : "conversation", steps_wanted(), 43);
}

/* More is sent than arrives: long chains, much out of order, much lost. */
static void test_congestion(void **state)
{
    const char *seed = getenv("E2EED_SEED");
    (void)state;
    run(seed ? seed : "congestion", steps_wanted(), 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_conversation),
            cmocka_unit_test(test_congestion),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
