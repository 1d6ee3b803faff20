#include <string.h>

#include "ratchet_impl.h"

/* Limits are judged here, before anything is derived. */
static bool within_limits(
        const struct ratchet *r, const struct header *h, bool opens, struct skipped_batch *batch)
{
    uint32_t n = r->receive.n;
    if (h->index == INDEX_NEVER)
        return false;
    batch->current = &r->receive.id;
    batch->next = &r->next_receive;
    if (opens) {
        batch->of_current = r->receive.open && h->previous > n ? h->previous - n : 0;
        batch->of_next = h->index;
    } else {
        batch->of_current = h->index - n; /* index >= n */
    }
    return batch->of_current <= RATCHET_MAX_JUMP && batch->of_next <= RATCHET_MAX_JUMP;
}

static int make_room(struct ratchet *r, const struct skipped_batch *batch, uint64_t now_ms)
{
    if (batch->of_current + batch->of_next == 0)
        return 0;
    if (!skipped_fits(&r->skipped, batch, now_ms))
        return RATCHET_FAILED;
    return skipped_reserve(&r->skipped, batch);
}

/*
 * A chain may follow only where our own key is out, an answer stands only where we have an offer out (and
 * must stand there), and the first chain has no predecessor.
 */
static bool may_open(const struct ratchet *r, const struct header *h)
{
    return r->has_dhs && (h->kem == KEM_ANSWER) == r->has_offer && (r->receive.open || h->previous == 0);
}

static int receiving_root(struct ratchet *r, const struct header *h, struct root *ret_root)
{
    size_t ikm_len = KEY_LEN;
    if (!x25519_agree(r->dhs, h->ratchet_key, r->work.ikm))
        return RATCHET_FAILED;
    if (h->kem == KEM_ANSWER) {
        int status = mlkem_decaps(r->offer_seed, h->field.p, r->work.ikm + KEY_LEN);
        if (status)
            return status < 0 ? status : RATCHET_FAILED;
        ikm_len += MLKEM_SS_LEN;
    }
    root_step(r, ikm_len, h->kem, h->field.p, ret_root);
    return 0;
}

/* Steps the chain over n messages from index `first` and writes their keys; returns where the next ones go.
 */
static struct skipped_key *skip(
        struct work *w, uint8_t ck[KEY_LEN], uint32_t first, uint32_t n, struct skipped_key *to)
{
    for (uint32_t i = 0; i < n; i++, to++) {
        to->index = first + i;
        chain_step(w, ck, to->mk);
    }
    return to;
}

static void derive_keys(struct ratchet *r, const struct header *h, struct receive_step *step)
{
    const struct skipped_batch *batch = &step->skipped;
    struct skipped_key *to = batch->of_current + batch->of_next > 0 ? skipped_staged(&r->skipped) : NULL;

    memcpy(step->ck, r->receive.ck, KEY_LEN);
    to = skip(&r->work, step->ck, r->receive.n, batch->of_current, to);
    if (step->opens) {
        memcpy(step->ck, step->root.ck, KEY_LEN);
        (void)skip(&r->work, step->ck, 0, batch->of_next, to);
    }
    chain_step(&r->work, step->ck, r->work.mk);
    step->n = h->index + 1;
}

static int use_stored(
        struct ratchet *r, const struct header *h, const uint8_t tag[ROUTE_TAG_LEN], uint64_t now_ms)
{
    const struct skipped_chain *chain = skipped_chain_find(&r->skipped, tag);
    const struct skipped_key *key = chain ? skipped_find(&r->skipped, chain, h->index, now_ms) : NULL;
    if (!key)
        return RATCHET_FAILED;
    memcpy(r->work.mk, key->mk, KEY_LEN);
    r->receive_step.stored = key;
    return 0;
}

static int advance(struct ratchet *r, const struct header *h, bool opens, uint64_t now_ms)
{
    struct receive_step *step = &r->receive_step;
    struct skipped_batch batch = {0};
    int status;

    if (opens && !may_open(r, h))
        return RATCHET_FAILED;
    if (!opens && sodium_memcmp(h->ratchet_key, r->dhr, KEY_LEN) != 0)
        return RATCHET_FAILED;
    if (!within_limits(r, h, opens, &batch))
        return RATCHET_FAILED;
    status = make_room(r, &batch, now_ms);
    if (status == 0 && opens)
        status = receiving_root(r, h, &step->root);
    if (status)
        return status;
    step->opens = opens;
    step->skipped = batch;
    derive_keys(r, h, step);
    return 0;
}

int receiving_prepare(struct ratchet *r, const struct header *h, enum which_chain which,
        const uint8_t tag[ROUTE_TAG_LEN], uint64_t now_ms)
{
    if (which == CHAIN_OLD || (which == CHAIN_CURRENT && h->index < r->receive.n))
        return use_stored(r, h, tag, now_ms);
    return advance(r, h, which == CHAIN_NEXT, now_ms);
}

int receiving_answer(struct ratchet *r, const struct header *h, const struct rng *rng)
{
    struct kem_answer *answer = &r->receive_step.answer;
    uint8_t coins[MLKEM_ENC_RAND_LEN];
    int status;

    if (!r->receive_step.opens || h->kem != KEM_OFFER)
        return 0;
    rng_fill(rng, coins, sizeof(coins));
    status = mlkem_encaps(h->field.p, coins, answer->ct, answer->ss);
    sodium_memzero(coins, sizeof(coins));
    answer->pending = status == 0;
    return status <= 0 ? status : RATCHET_FAILED;
}

/* DHs has done its work, and so has the sending chain: the next message opens another with a fresh key. */
static void close_sending(struct ratchet *r)
{
    r->previous = r->send.open ? r->send.n : 0;
    sodium_memzero(&r->send, sizeof(r->send));
    sodium_memzero(&r->field, sizeof(r->field));
    sodium_memzero(r->dhs, sizeof(r->dhs));
    sodium_memzero(r->dhs_public, sizeof(r->dhs_public));
    r->has_dhs = false;
    r->send_due = true;
}

static void adopt_chain(struct ratchet *r, const struct header *h, uint64_t now_ms)
{
    const struct receive_step *step = &r->receive_step;
    memcpy(r->rk, step->root.rk, KEY_LEN);
    r->receive.open = true;
    r->receive.id = r->next_receive;
    r->next_receive = step->root.next;
    memcpy(r->dhr, h->ratchet_key, KEY_LEN);
    r->has_dhr = true;
    close_sending(r);
    if (r->chains_received < 2)
        r->chains_received++;
    if (h->kem == KEM_ANSWER) {
        sodium_memzero(r->offer_seed, sizeof(r->offer_seed));
        r->has_offer = false;
        r->kem_ms = now_ms;
        r->kem_messages = 0;
    }
    if (step->answer.pending)
        r->answer = step->answer;
}

void receiving_adopt(struct ratchet *r, const struct header *h, uint64_t now_ms)
{
    struct receive_step *step = &r->receive_step;
    if (step->stored) {
        skipped_remove(&r->skipped, step->stored);
    } else {
        if (step->skipped.of_current + step->skipped.of_next > 0)
            skipped_commit(&r->skipped, &step->skipped, now_ms);
        if (step->opens)
            adopt_chain(r, h, now_ms);
        memcpy(r->receive.ck, step->ck, KEY_LEN);
        r->receive.n = step->n;
    }
    sodium_memzero(step, sizeof(*step));
}

void receiving_abandon(struct ratchet *r)
{
    skipped_abandon(&r->skipped, &r->receive_step.skipped);
    sodium_memzero(&r->receive_step, sizeof(r->receive_step));
}
