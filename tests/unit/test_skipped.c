#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "skipped.h"

static struct chain_id id_of(uint8_t n)
{
    struct chain_id id;
    memset(&id, n, sizeof(id));
    return id;
}

/* Adds keys of chain `current` (which may be there) and of a new chain `next`; indices count from `from`. */
static bool add(struct skipped *s, uint8_t current, uint32_t of_current, uint8_t next, uint32_t of_next,
        uint32_t from, uint64_t now)
{
    struct chain_id a = id_of(current), b = id_of(next);
    struct skipped_batch batch = {&a, &b, of_current, of_next};
    struct skipped_key *key;
    if (!skipped_fits(s, &batch, now))
        return false;
    assert_int_equal(skipped_reserve(s, &batch), 0);
    key = skipped_staged(s);
    for (uint32_t i = 0; i < of_current + of_next; i++) {
        key[i].index = i < of_current ? from + i : i - of_current;
        memset(key[i].mk, (int)(key[i].index + (i < of_current ? current : next)), KEY_LEN);
    }
    skipped_commit(s, &batch, now);
    return true;
}

static const struct skipped_key *find(const struct skipped *s, uint8_t chain, uint32_t index, uint64_t now)
{
    struct chain_id id = id_of(chain);
    const struct skipped_chain *c = skipped_chain_find(s, id.tag);
    return c ? skipped_find(s, c, index, now) : NULL;
}

static void assert_has(const struct skipped *s, uint8_t chain, uint32_t index)
{
    const struct skipped_key *key = find(s, chain, index, 0);
    assert_non_null(key);
    assert_int_equal(key->index, index);
    assert_int_equal(key->mk[0], (uint8_t)(index + chain));
}

static void test_find_and_remove(void **state)
{
    struct skipped s = {0};
    (void)state;
    assert_null(find(&s, 1, 0, 0));
    assert_true(add(&s, 1, 3, 2, 2, 10, 5));
    assert_true(add(&s, 2, 4, 3, 0, 7, 5));
    assert_int_equal(s.chains, 2);
    assert_int_equal(s.count, 9);
    for (uint32_t i = 10; i < 13; i++)
        assert_has(&s, 1, i);
    assert_has(&s, 2, 0);
    assert_has(&s, 2, 10);
    assert_null(find(&s, 2, 2, 0));
    assert_null(find(&s, 1, 0, 0));
    assert_null(find(&s, 3, 0, 0));
    skipped_remove(&s, find(&s, 1, 11, 0));
    assert_null(find(&s, 1, 11, 0));
    assert_has(&s, 1, 12);
    skipped_remove(&s, find(&s, 1, 10, 0));
    skipped_remove(&s, find(&s, 1, 12, 0));
    assert_int_equal(s.chains, 1);
    for (uint32_t i = 0; i < 2; i++)
        skipped_remove(&s, find(&s, 2, i, 0));
    for (uint32_t i = 7; i < 11; i++)
        assert_has(&s, 2, i);
    skipped_done(&s);
    assert_int_equal(s.count, 0);
}

/* Removed keys are overwritten, not only forgotten. */
static void test_removed_is_wiped(void **state)
{
    struct skipped s = {0};
    (void)state;
    assert_true(add(&s, 1, 3, 2, 0, 1, 5));
    skipped_remove(&s, find(&s, 1, 1, 0));
    assert_true(sodium_is_zero((const uint8_t *)&s.key[2], sizeof(s.key[2])));
    skipped_done(&s);
}

static void test_oldest_chain_goes(void **state)
{
    struct skipped s = {0};
    (void)state;
    for (uint8_t chain = 1; chain <= RATCHET_MAX_CHAINS; chain++)
        assert_true(add(&s, chain, 2, 99, 0, 0, 5));
    assert_true(add(&s, RATCHET_MAX_CHAINS, 1, 6, 3, 2, 5));
    assert_int_equal(s.chains, RATCHET_MAX_CHAINS);
    assert_null(find(&s, 1, 0, 0));
    assert_has(&s, 2, 0);
    assert_has(&s, RATCHET_MAX_CHAINS, 2);
    assert_has(&s, 6, 2);
    /* Two new chains at once push two out. */
    assert_true(add(&s, 7, 1, 8, 1, 0, 5));
    assert_null(find(&s, 3, 0, 0));
    assert_has(&s, 4, 0);
    assert_has(&s, 7, 0);
    assert_has(&s, 8, 0);
    skipped_done(&s);
}

static void test_limit(void **state)
{
    struct skipped s = {0};
    (void)state;
    assert_true(add(&s, 1, 1000, 2, 1000, 0, 5));
    assert_int_equal(s.count, RATCHET_MAX_SKIPPED);
    assert_false(add(&s, 2, 1, 3, 0, 1000, 5));
    assert_false(add(&s, 3, 1, 4, 0, 0, 5));
    skipped_remove(&s, find(&s, 1, 500, 0));
    assert_false(add(&s, 2, 2, 3, 0, 1000, 5));
    assert_true(add(&s, 2, 1, 3, 0, 1000, 5));
    assert_false(add(&s, 3, 1, 4, 0, 0, 5 + RATCHET_SKIPPED_MS));
    assert_true(add(&s, 3, 1, 4, 0, 0, 6 + RATCHET_SKIPPED_MS));
    assert_int_equal(s.count, 1);
    assert_has(&s, 3, 0);
    skipped_done(&s);
}

/* The keys of a chain that is pushed out make room. */
static void test_limit_counts_what_stays(void **state)
{
    struct skipped s = {0};
    (void)state;
    assert_true(add(&s, 1, 1000, 2, 400, 0, 5));
    assert_true(add(&s, 3, 200, 4, 200, 0, 5));
    assert_true(add(&s, 5, 200, 6, 0, 0, 5));
    assert_int_equal(s.count, RATCHET_MAX_SKIPPED);
    assert_true(add(&s, 6, 1000, 7, 0, 0, 5));
    assert_int_equal(s.count, RATCHET_MAX_SKIPPED);
    assert_null(find(&s, 1, 0, 0));
    assert_has(&s, 6, 999);
    assert_has(&s, 2, 399);
    assert_false(add(&s, 6, 1, 7, 0, 1000, 5));
    skipped_done(&s);
}

static void test_expiry(void **state)
{
    struct skipped s = {0};
    uint64_t later = 5 + RATCHET_SKIPPED_MS;
    (void)state;
    assert_true(add(&s, 1, 2, 2, 1, 0, 5));
    assert_true(add(&s, 2, 1, 3, 0, 1, 50));
    assert_non_null(find(&s, 1, 0, later));
    assert_null(find(&s, 1, 0, later + 1));
    assert_false(skipped_expire(&s, later));
    assert_false(skipped_expire(&s, 0)); /* a clock that went back */
    assert_true(skipped_expire(&s, later + 1));
    assert_int_equal(s.chains, 1);
    assert_int_equal(s.count, 1);
    assert_has(&s, 2, 1);
    assert_true(skipped_expire(&s, later + 100));
    assert_int_equal(s.count, 0);
    skipped_done(&s);
}

static void test_abandon(void **state)
{
    struct skipped s = {0};
    struct chain_id a = id_of(1), b = id_of(2);
    struct skipped_batch batch = {&a, &b, 2, 500};
    (void)state;
    assert_true(add(&s, 1, 2, 2, 0, 0, 5));
    assert_int_equal(skipped_reserve(&s, &batch), 0);
    memset(skipped_staged(&s), 0xee, 502 * sizeof(struct skipped_key));
    skipped_abandon(&s, &batch);
    assert_true(sodium_is_zero((const uint8_t *)skipped_staged(&s), 502 * sizeof(struct skipped_key)));
    assert_int_equal(s.count, 2);
    assert_has(&s, 1, 1);
    skipped_done(&s);
}

/* No keys, no memory. */
static void test_memory(void **state)
{
    struct skipped s = {0};
    (void)state;
    assert_true(add(&s, 1, 200, 2, 0, 0, 5));
    assert_non_null(s.key);
    for (uint32_t i = 0; i < 200; i++)
        skipped_remove(&s, find(&s, 1, i, 0));
    assert_null(s.key);
    skipped_done(&s);
}

static int load(const struct buf *b, size_t n, struct skipped *s)
{
    struct cursor c;
    int status;
    memset(s, 0, sizeof(*s));
    cursor_init(&c, b->data, n);
    status = skipped_load(&c, s);
    return status ? status : cursor_end(&c);
}

static void test_save_and_load(void **state)
{
    struct skipped s = {0}, t;
    struct buf a, b;
    (void)state;
    buf_init_secret(&a, RATCHET_MAX_RECORD);
    buf_init_secret(&b, RATCHET_MAX_RECORD);
    skipped_save(&s, &a);
    assert_int_equal(load(&a, a.len, &t), 0);
    assert_int_equal(t.count, 0);
    buf_reset(&a);
    assert_true(add(&s, 1, 40, 2, 3, 9, 5));
    skipped_save(&s, &a);
    assert_int_equal(load(&a, a.len, &t), 0);
    skipped_save(&t, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    skipped_done(&t);
    for (size_t n = 0; n < a.len; n++) {
        assert_int_not_equal(load(&a, n, &t), 0);
        skipped_done(&t);
    }
    skipped_done(&s);
    buf_done(&a);
    buf_done(&b);
}

static void put_chain(struct buf *b, uint8_t tag, uint32_t count, uint32_t first, uint32_t second)
{
    for (size_t i = 0; i < ROUTE_TAG_LEN; i++)
        buf_u8(b, tag);
    buf_zero(b, KEY_LEN);
    buf_u32(b, count);
    for (uint32_t i = 0; i < 2; i++) {
        buf_u32(b, i ? second : first);
        buf_u64(b, 1);
        buf_zero(b, KEY_LEN);
    }
}

static int load_chains(uint8_t chains, uint8_t second_tag, uint32_t count, uint32_t first, uint32_t second)
{
    struct skipped s;
    struct buf b;
    int status;
    buf_init(&b, 100000);
    buf_u8(&b, chains);
    put_chain(&b, 1, 2, 0, 1);
    put_chain(&b, second_tag, count, first, second);
    buf_zero(&b, count > 2 ? (size_t)44 * 2000 : 0);
    status = load(&b, b.len, &s);
    skipped_done(&s);
    buf_done(&b);
    return status;
}

static void test_load_refuses(void **state)
{
    (void)state;
    assert_int_equal(load_chains(2, 2, 2, 7, 8), 0);
    assert_int_not_equal(load_chains(2, 1, 2, 7, 8), 0);
    assert_int_not_equal(load_chains(2, 2, 2, 7, 7), 0);
    assert_int_not_equal(load_chains(2, 2, 2, 8, 7), 0);
    assert_int_not_equal(load_chains(2, 2, 0, 7, 8), 0);
    assert_int_not_equal(load_chains(2, 2, RATCHET_MAX_SKIPPED - 1, 7, 8), 0);
    assert_int_not_equal(load_chains(2, 2, UINT32_MAX, 7, 8), 0);
    assert_int_not_equal(load_chains(RATCHET_MAX_CHAINS + 1, 2, 2, 7, 8), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_find_and_remove),
            cmocka_unit_test(test_removed_is_wiped),
            cmocka_unit_test(test_oldest_chain_goes),
            cmocka_unit_test(test_limit),
            cmocka_unit_test(test_limit_counts_what_stays),
            cmocka_unit_test(test_expiry),
            cmocka_unit_test(test_abandon),
            cmocka_unit_test(test_memory),
            cmocka_unit_test(test_save_and_load),
            cmocka_unit_test(test_load_refuses),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
