#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

/*
 * Each allocation of the crypto layer fails in turn, in the heap and in secret memory: the call says so,
 * returns nothing, and leaves the session as it was. The linker sends the allocators here (--wrap).
 */
#include "parties.h"
#include "ratchet_impl.h"

void *__real_malloc(size_t n);
void *__real_realloc(void *p, size_t n);
void *__real_sodium_malloc(size_t n);
void *__real_sodium_allocarray(size_t count, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_sodium_malloc(size_t n);
void *__wrap_sodium_allocarray(size_t count, size_t n);

static unsigned long countdown; /* 0: nothing fails */
static bool fired;

static bool fails(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    fired = true;
    return true;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_sodium_malloc(size_t n)
{
    return fails() ? NULL : __real_sodium_malloc(n);
}

void *__wrap_sodium_allocarray(size_t count, size_t n)
{
    return fails() ? NULL : __real_sodium_allocarray(count, n);
}

/* What is called with allocations failing: a status, and what must be undone after success. */
struct subject {
    struct pair *p;
    struct buf *envelope; /* for decrypt and respond */
    struct buf record;
    struct ratchet *spare[16];
};

typedef int (*steps)(struct subject *s);

static int setup(void **state)
{
    struct subject *s = calloc(1, sizeof(*s));
    if (!s)
        return -1;
    s->p = calloc(1, sizeof(*s->p));
    if (!s->p)
        return -1;
    pair_init(s->p, "allocations", true);
    buf_init_secret(&s->record, RATCHET_MAX_RECORD);
    ratchet_save(s->p->b, &s->record);
    /* Blocks kept for reuse are taken first, so that sessions must be allocated. */
    for (size_t i = 0; i < ARRAY_SIZE(s->spare); i++)
        s->spare[i] = ratchet_allocate();
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct subject *s = *state;
    for (size_t i = 0; i < ARRAY_SIZE(s->spare); i++)
        ratchet_free(s->spare[i]);
    pair_done(s->p);
    buf_done(&s->record);
    free(s->p);
    free(s);
    return 0;
}

static void fail_each(struct subject *s, steps call, unsigned long at_least)
{
    unsigned long k = 1;
    int status;
    do {
        countdown = k++;
        fired = false;
        status = call(s);
        countdown = 0;
        assert_int_equal(status, fired ? -ENOMEM : 0);
    } while (fired);
    assert_true(k - 2 >= at_least);
}

static int initiate(struct subject *s)
{
    struct bundle b = party_bundle(&s->p->bob, true);
    struct ratchet *r = NULL;
    int status = ratchet_initiate(s->p->alice.id, party_device(&s->p->bob), &b, 2, s->p->now, &s->p->rng, &r);
    assert_int_equal(status == 0, r != NULL);
    ratchet_free(r);
    return status;
}

static void test_initiate(void **state)
{
    fail_each(*state, initiate, 2);
}

static int respond(struct subject *s)
{
    struct envelope_view v;
    struct ratchet *r = NULL;
    int status;
    assert_int_equal(envelope_parse(s->envelope->data, s->envelope->len, &v), 0);
    status = ratchet_respond(
            s->p->bob.id, party_device(&s->p->alice), &v, &s->p->bob.spk, &s->p->bob.otk, s->p->now, &r);
    assert_int_equal(status == 0, r != NULL);
    ratchet_free(r);
    return status;
}

static void test_respond(void **state)
{
    struct subject *s = *state;
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    encrypt_text(s->p->a, "again", s->p->now, &s->p->rng, &e);
    s->envelope = &e;
    fail_each(s, respond, 1);
    buf_done(&e);
}

static int load(struct subject *s)
{
    struct ratchet *r = NULL;
    int status = ratchet_load(s->record.data, s->record.len, &r);
    assert_int_equal(status == 0, r != NULL);
    ratchet_free(r);
    return status;
}

static void waste(struct subject *s, unsigned n)
{
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    while (n-- > 0)
        encrypt_text(s->p->a, "lost", s->p->now, &s->p->rng, &e);
    buf_done(&e);
}

/* With a handshake header, and with keys of lost messages. */
static void test_load(void **state)
{
    struct subject *s = *state;
    struct buf e, body;
    buf_reset(&s->record);
    ratchet_save(s->p->a, &s->record);
    fail_each(s, load, 2);
    buf_init(&e, ENVELOPE_MAX_BODY);
    buf_init(&body, ENVELOPE_MAX_BODY);
    waste(s, 100);
    encrypt_text(s->p->a, "after them", s->p->now, &s->p->rng, &e);
    assert_int_equal(decrypt_body(s->p->b, &e, s->p->now, &s->p->rng, &body), 0);
    buf_reset(&s->record);
    ratchet_save(s->p->b, &s->record);
    fail_each(s, load, 1);
    buf_done(&e);
    buf_done(&body);
}

static bool is_unchanged(struct subject *s, const struct ratchet *r)
{
    unsigned long armed = countdown;
    struct buf now;
    bool same;
    countdown = 0;
    buf_init_secret(&now, RATCHET_MAX_RECORD);
    ratchet_save(r, &now);
    same = now.len == s->record.len && memcmp(now.data, s->record.data, now.len) == 0;
    buf_done(&now);
    countdown = armed;
    return same;
}

static int decrypt(struct subject *s)
{
    struct envelope_view v;
    struct inner in;
    struct buf plain;
    int status;
    assert_int_equal(envelope_parse(s->envelope->data, s->envelope->len, &v), 0);
    buf_init_secret(&plain, ENVELOPE_MAX_BODY);
    status = ratchet_decrypt(s->p->b, &v, s->p->now, &s->p->rng, &plain, &in);
    assert_int_equal(status != 0, is_unchanged(s, s->p->b));
    assert_int_equal(status == 0, plain.len > 0);
    buf_done(&plain);
    return status;
}

static void test_decrypt(void **state)
{
    struct subject *s = *state;
    struct buf e;
    buf_init(&e, ENVELOPE_MAX_BODY);
    waste(s, 100);
    encrypt_text(s->p->a, "after them", s->p->now, &s->p->rng, &e);
    s->envelope = &e;
    fail_each(s, decrypt, 2);
    buf_done(&e);
}

static int encrypt(struct subject *s)
{
    struct inner in = text_inner("text");
    struct buf out;
    int status;
    buf_init(&out, ENVELOPE_MAX_BODY);
    status = ratchet_encrypt(s->p->b, &in, s->p->now, &s->p->rng, &out);
    assert_int_equal(status != 0, is_unchanged(s, s->p->b));
    buf_done(&out);
    return status;
}

static void test_encrypt(void **state)
{
    fail_each(*state, encrypt, 1);
}

static int new_identity(struct subject *s)
{
    struct identity *id = NULL;
    int status = identity_new("carol", &s->p->rng, s->p->now, &id);
    assert_int_equal(status == 0, id != NULL);
    identity_free(id);
    return status;
}

static void test_identity(void **state)
{
    fail_each(*state, new_identity, 1);
}

static int new_prekey(struct subject *s)
{
    struct prekey_secret k;
    struct buf record;
    int status;
    buf_init(&record, RELAY_MAX_PREKEY);
    status = prekey_make_one_time(s->p->bob.id, 9, &s->p->rng, &k, &record);
    assert_int_equal(status != 0, sodium_is_zero((const uint8_t *)&k, sizeof(k)));
    buf_done(&record);
    return status;
}

static void test_prekey(void **state)
{
    fail_each(*state, new_prekey, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_initiate, setup, teardown),
            cmocka_unit_test_setup_teardown(test_respond, setup, teardown),
            cmocka_unit_test_setup_teardown(test_load, setup, teardown),
            cmocka_unit_test_setup_teardown(test_decrypt, setup, teardown),
            cmocka_unit_test_setup_teardown(test_encrypt, setup, teardown),
            cmocka_unit_test_setup_teardown(test_identity, setup, teardown),
            cmocka_unit_test_setup_teardown(test_prekey, setup, teardown),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
