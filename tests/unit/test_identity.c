#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>

#include "identity_keys.h"
#include "parties.h"

/* An account whose entries the test writes itself. */
struct account {
    uint8_t ak[64], dsk[64];
    uint8_t uid[UID_LEN];
};

struct draft {
    const char *name;
    uint64_t n;
    const uint8_t *previous;  /* NULL: zeros */
    uint32_t device, revoked; /* revoked 0: none */
};

static uint8_t pool[16][1024];
static size_t pooled;

static void account_init(struct account *a, uint8_t seed_byte)
{
    uint8_t seed[32], public[32];
    memset(seed, seed_byte, sizeof(seed));
    assert_int_equal(crypto_sign_seed_keypair(public, a->ak, seed), 0);
    uid_of_account_key(public, a->uid);
    memset(seed, seed_byte + 1, sizeof(seed));
    assert_int_equal(crypto_sign_seed_keypair(public, a->dsk, seed), 0);
}

static void put_body(struct buf *b, const struct account *a, const struct draft *d)
{
    buf_u8(b, 1);
    buf_bytes(b, a->ak + 32, 32);
    buf_lp(b, d->name, strlen(d->name));
    buf_u64(b, d->n);
    if (d->previous)
        buf_bytes(b, d->previous, 32);
    else
        buf_zero(b, 32);
    buf_u64(b, TEST_NOW);
    buf_u8(b, 1);
    buf_u32(b, d->device);
    buf_bytes(b, a->dsk + 32, 32);
    buf_bytes(b, "dhk dhk dhk dhk dhk dhk dhk dhk.", 32);
    buf_bytes(b, "rak rak rak rak rak rak rak rak.", 32);
    buf_u8(b, 2);
    buf_u16(b, 1);
    buf_u16(b, 2);
    buf_u8(b, d->revoked > 0);
    if (d->revoked)
        buf_u32(b, d->revoked);
}

/* A signed entry, in memory that lives until the next test. */
static struct span write_entry(const struct account *a, const struct draft *d)
{
    uint8_t signature[64];
    struct buf b = buf_over(pool[pooled], sizeof(pool[0]));
    size_t n;
    buf_u32(&b, 0);
    put_body(&b, a, d);
    n = b.len - 4;
    buf_patch_u32(&b, 0, (uint32_t)n);
    label_sign(LABEL_DEVICE_LIST, b.data + 4, n, a->ak, signature);
    buf_bytes(&b, signature, 64);
    label_sign(LABEL_DEVICE_ENTRY, b.data + 4, n, a->dsk, signature);
    buf_bytes(&b, signature, 64);
    assert_int_equal(b.error, 0);
    return (struct span){pool[pooled++], b.len};
}

static struct device_list verified(struct span entry)
{
    struct device_list list;
    assert_int_equal(device_list_verify(entry.p, entry.n, &list), 0);
    return list;
}

static int reset(void **state)
{
    (void)state;
    pooled = 0;
    return 0;
}

static struct identity *new_identity(const char *seed)
{
    static struct stream_rng stream;
    struct rng rng;
    struct identity *id = NULL;
    stream_rng_init(&stream, seed);
    rng = stream_rng(&stream);
    assert_int_equal(identity_new("alice", &rng, TEST_NOW, &id), 0);
    return id;
}

static void test_new(void **state)
{
    struct identity *id = new_identity("new");
    struct span entry = identity_entry(id);
    struct device_list list = verified(entry);
    const struct device *d = device_list_find(&list, 1);
    uint8_t uid[UID_LEN];
    (void)state;
    assert_string_equal(list.name, "alice");
    assert_string_equal(identity_name(id), "alice");
    assert_int_equal(list.n, 1);
    uid_of_account_key(list.ak, uid);
    assert_memory_equal(uid, list.uid, UID_LEN);
    assert_non_null(d);
    assert_null(device_list_find(&list, 2));
    assert_int_equal(d->suites, 1);
    assert_int_equal(d->suite[0], 1);
    assert_memory_equal(d->address.uid, uid, UID_LEN);
    assert_memory_equal(identity_address(id), &d->address, sizeof(d->address));
    /* Each key is another one. */
    assert_memory_not_equal(d->dsk, d->rak, 32);
    assert_memory_not_equal(d->dsk, list.ak, 32);
    assert_memory_not_equal(d->rak, list.ak, 32);
    identity_free(id);
}

static void test_new_refuses_names(void **state)
{
    static const char *const names[] = {"", "Alice", "-a", "a b", "a/b"};
    struct rng rng = rng_system();
    struct identity *id = NULL;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_int_equal(identity_new(names[i], &rng, TEST_NOW, &id), IDENTITY_MALFORMED);
    assert_null(id);
}

static void test_uid_formula(void **state)
{
    static const char label[] = "e2eed/1 uid";
    uint8_t bytes[sizeof(label) + 32], expected[32], uid[32], ak[32];
    (void)state;
    memset(ak, 7, sizeof(ak));
    memcpy(bytes, label, sizeof(label));
    memcpy(bytes + sizeof(label), ak, 32);
    assert_int_equal(crypto_generichash(expected, 32, bytes, sizeof(bytes), NULL, 0), 0);
    uid_of_account_key(ak, uid);
    assert_memory_equal(uid, expected, 32);
}

static void test_save_and_load(void **state)
{
    struct identity *id = new_identity("save"), *again = NULL;
    struct buf a, b;
    (void)state;
    buf_init_secret(&a, 16384);
    buf_init_secret(&b, 16384);
    identity_save(id, &a);
    assert_int_equal(buf_status(&a), 0);
    assert_int_equal(identity_load(a.data, a.len, &again), 0);
    identity_save(again, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_memory_equal(identity_list(id), identity_list(again), sizeof(struct device_list));
    identity_free(again);
    again = NULL;
    for (size_t n = 0; n < a.len; n++)
        assert_int_equal(identity_load(a.data, n, &again), IDENTITY_MALFORMED);
    buf_u8(&a, 0);
    assert_int_equal(identity_load(a.data, a.len, &again), IDENTITY_MALFORMED);
    assert_null(again);
    identity_free(id);
    buf_done(&a);
    buf_done(&b);
}

/* X25519 ignores five bits of a private key; every other bit of the record counts. */
static bool is_ignored_bit(size_t at, int bit)
{
    size_t dhk = 1 + 4 + 32 + 32;
    return (at == dhk && bit < 3) || (at == dhk + 31 && bit >= 6);
}

static void test_load_refuses_other_bytes(void **state)
{
    struct identity *id = new_identity("spoil"), *again = NULL;
    struct buf a;
    (void)state;
    buf_init_secret(&a, 16384);
    identity_save(id, &a);
    for (size_t at = 0; at < a.len; at++) {
        int bit = (int)(at % 8);
        if (is_ignored_bit(at, bit))
            continue;
        a.data[at] ^= (uint8_t)(1 << bit);
        assert_int_equal(identity_load(a.data, a.len, &again), IDENTITY_MALFORMED);
        a.data[at] ^= (uint8_t)(1 << bit);
    }
    assert_null(again);
    identity_free(id);
    buf_done(&a);
}

static void test_verify_refuses_other_bytes(void **state)
{
    struct identity *id = new_identity("entry");
    struct span entry = identity_entry(id);
    struct device_list list;
    uint8_t bytes[1024];
    (void)state;
    assert_true(entry.n < sizeof(bytes));
    for (size_t at = 0; at < entry.n; at++) {
        memcpy(bytes, entry.p, entry.n);
        bytes[at] ^= (uint8_t)(1 << at % 8);
        assert_in_range(
                device_list_verify(bytes, entry.n, &list), IDENTITY_MALFORMED, IDENTITY_BAD_SIGNATURE);
    }
    for (size_t n = 0; n < entry.n; n++)
        assert_int_equal(device_list_verify(entry.p, n, &list), IDENTITY_MALFORMED);
    identity_free(id);
}

/* S + L signs the same for a verifier that does not ask for S < L (RFC 8032, 8.4). */
static void add_order(uint8_t s[32])
{
    static const uint8_t order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2,
            0xde, 0xf9, 0xde, 0x14, [31] = 0x10};
    unsigned carry = 0;
    for (size_t i = 0; i < 32; i++) {
        carry += (unsigned)s[i] + order[i];
        s[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

static void test_malleable_signature(void **state)
{
    struct account a;
    struct span entry;
    struct device_list list;
    uint8_t bytes[1024];
    (void)state;
    account_init(&a, 1);
    entry = write_entry(&a, &(struct draft){"alice", 1, NULL, 1, 0});
    for (size_t which = 1; which <= 2; which++) {
        memcpy(bytes, entry.p, entry.n);
        add_order(bytes + entry.n - 64 * (3 - which) + 32);
        assert_int_equal(device_list_verify(bytes, entry.n, &list), IDENTITY_BAD_SIGNATURE);
    }
}

/* A key of small order verifies R = identity, S = 0 for every message where implementations let it. */
static void test_small_order_account_key(void **state)
{
    struct account a;
    struct span entry;
    struct device_list list;
    uint8_t bytes[1024];
    (void)state;
    account_init(&a, 1);
    memset(a.ak + 32, 0, 32);
    a.ak[32] = 1;
    entry = write_entry(&a, &(struct draft){"alice", 1, NULL, 1, 0});
    memcpy(bytes, entry.p, entry.n);
    memset(bytes + entry.n - 128, 0, 64);
    bytes[entry.n - 128] = 1;
    assert_int_equal(device_list_verify(bytes, entry.n, &list), IDENTITY_BAD_SIGNATURE);
}

/* The two signatures have labels of their own and are not exchangeable. */
static void test_signatures_do_not_swap(void **state)
{
    struct account a;
    struct span entry;
    struct device_list list;
    uint8_t bytes[1024], swap[64];
    (void)state;
    account_init(&a, 1);
    memcpy(a.dsk, a.ak, sizeof(a.dsk));
    entry = write_entry(&a, &(struct draft){"alice", 1, NULL, 1, 0});
    memcpy(bytes, entry.p, entry.n);
    memcpy(swap, bytes + entry.n - 128, 64);
    memcpy(bytes + entry.n - 128, bytes + entry.n - 64, 64);
    assert_int_equal(device_list_verify(bytes, entry.n, &list), IDENTITY_BAD_SIGNATURE);
    memcpy(bytes + entry.n - 64, swap, 64);
    assert_int_equal(device_list_verify(bytes, entry.n, &list), IDENTITY_BAD_SIGNATURE);
}

struct chain3 {
    struct account a;
    struct span e[3];
    struct device_list list[3];
};

static void chain3_init(struct chain3 *c)
{
    account_init(&c->a, 1);
    c->e[0] = write_entry(&c->a, &(struct draft){"alice", 1, NULL, 1, 0});
    c->list[0] = verified(c->e[0]);
    c->e[1] = write_entry(&c->a, &(struct draft){"alice", 2, c->list[0].hash, 2, 1});
    c->list[1] = verified(c->e[1]);
    c->e[2] = write_entry(&c->a, &(struct draft){"alice", 3, c->list[1].hash, 3, 1});
    c->list[2] = verified(c->e[2]);
}

static int advance(
        const struct chain3 *c, int pinned, const struct span *entries, size_t n, struct device_list *list)
{
    memset(list, 0, sizeof(*list));
    return device_list_advance(c->a.uid, c->list[pinned].n, c->list[pinned].hash, entries, n, list);
}

static void test_advance(void **state)
{
    struct chain3 c;
    struct device_list list;
    (void)state;
    chain3_init(&c);
    assert_int_equal(advance(&c, 0, c.e, 1, &list), 0);
    assert_int_equal(list.n, 1);
    assert_int_equal(advance(&c, 0, c.e, 3, &list), 0);
    assert_int_equal(list.n, 3);
    assert_memory_equal(list.hash, c.list[2].hash, 32);
    assert_int_equal(list.device[0].list_n, 3);
    assert_int_equal(advance(&c, 0, c.e + 1, 2, &list), 0);
    assert_int_equal(advance(&c, 1, c.e, 3, &list), 0);
    assert_int_equal(advance(&c, 2, c.e, 3, &list), 0);
    assert_int_equal(advance(&c, 2, c.e + 2, 1, &list), 0);
    assert_int_equal(list.n, 3);
}

static void test_advance_refuses(void **state)
{
    struct chain3 c;
    struct device_list list;
    struct span swapped[2], twice[2];
    (void)state;
    chain3_init(&c);
    assert_int_equal(advance(&c, 0, c.e, 0, &list), IDENTITY_MALFORMED);
    assert_int_equal(advance(&c, 0, c.e, RELAY_MAX_ENTRIES + 1, &list), IDENTITY_MALFORMED);
    assert_int_equal(advance(&c, 0, c.e + 2, 1, &list), IDENTITY_GAP);
    assert_int_equal(advance(&c, 2, c.e, 2, &list), IDENTITY_ROLLBACK);
    assert_int_equal(advance(&c, 1, c.e, 1, &list), IDENTITY_ROLLBACK);
    swapped[0] = c.e[1];
    swapped[1] = c.e[0];
    assert_int_not_equal(advance(&c, 0, swapped, 2, &list), 0);
    twice[0] = twice[1] = c.e[1];
    assert_int_not_equal(advance(&c, 0, twice, 2, &list), 0);
    swapped[0] = c.e[0];
    swapped[1] = c.e[2];
    assert_int_equal(advance(&c, 0, swapped, 2, &list), IDENTITY_GAP);
    assert_int_equal(list.n, 0);
}

static void test_advance_forks(void **state)
{
    struct chain3 c;
    struct device_list list;
    struct span other[3];
    (void)state;
    chain3_init(&c);
    other[0] = c.e[0];
    other[1] = write_entry(&c.a, &(struct draft){"alice", 2, c.list[0].hash, 9, 1});
    other[2] = write_entry(&c.a, &(struct draft){"alice", 3, c.list[0].hash, 9, 1});
    assert_int_equal(advance(&c, 1, other + 1, 1, &list), IDENTITY_FORK);
    assert_int_equal(advance(&c, 1, other, 2, &list), IDENTITY_FORK);
    assert_int_equal(advance(&c, 1, other + 2, 1, &list), IDENTITY_FORK);
    other[1] = c.e[1];
    assert_int_equal(advance(&c, 0, other, 3, &list), IDENTITY_FORK);
}

/* A chain that is whole but breaks the rules between its entries, or belongs to somebody else. */
static void test_advance_rules(void **state)
{
    struct chain3 c;
    struct account mallory;
    struct device_list list;
    struct span e;
    (void)state;
    chain3_init(&c);
    account_init(&mallory, 50);
    e = write_entry(&c.a, &(struct draft){"alicia", 2, c.list[0].hash, 2, 1});
    assert_int_equal(advance(&c, 0, (struct span[]){c.e[0], e}, 2, &list), IDENTITY_MALFORMED);
    e = write_entry(&c.a, &(struct draft){"alice", 3, c.list[1].hash, 1, 0});
    assert_int_equal(advance(&c, 0, (struct span[]){c.e[0], c.e[1], e}, 3, &list), IDENTITY_MALFORMED);
    e = write_entry(&mallory, &(struct draft){"alice", 2, c.list[0].hash, 2, 1});
    assert_int_equal(advance(&c, 0, (struct span[]){c.e[0], e}, 2, &list), IDENTITY_MALFORMED);
    assert_int_equal(advance(&c, 0, &e, 1, &list), IDENTITY_MALFORMED);
    assert_int_equal(device_list_advance(c.a.uid, 0, NULL, &e, 1, &list), IDENTITY_MALFORMED);
    /* Nothing pinned: the last one alone counts. */
    assert_int_equal(device_list_advance(c.a.uid, 0, NULL, (struct span[]){e, c.e[2]}, 2, &list), 0);
    assert_int_equal(list.n, 3);
}

static struct relay_auth auth_of(const struct identity *id, const uint8_t *nonce, const uint8_t *exporter)
{
    struct relay_auth auth = {
            .time_ms = TEST_NOW,
            .host = {(const uint8_t *)"relay:443", 9},
            .binding = exporter ? BINDING_TLS_EXPORTER : BINDING_NONE,
    };
    memset(auth.nonce, 5, sizeof(auth.nonce));
    identity_sign_auth(id, nonce, exporter, &auth);
    return auth;
}

static bool auth_ok(const struct relay_auth *auth, const uint8_t *nonce, const uint8_t *exporter)
{
    uint8_t bytes[1024];
    struct buf b = buf_over(bytes, sizeof(bytes));
    relay_auth_signed(&b, auth, nonce, exporter);
    return crypto_sign_verify_detached(auth->signature, b.data, b.len, auth->rak) == 0;
}

static void test_auth(void **state)
{
    struct identity *id = new_identity("auth");
    uint8_t nonce[32] = {1}, other[32] = {2}, exporter[32] = {3};
    struct relay_auth auth = auth_of(id, nonce, exporter);
    (void)state;
    assert_memory_equal(auth.rak, device_list_find(identity_list(id), 1)->rak, 32);
    assert_memory_equal(&auth.who, identity_address(id), sizeof(auth.who));
    assert_true(auth_ok(&auth, nonce, exporter));
    assert_false(auth_ok(&auth, other, exporter));
    assert_false(auth_ok(&auth, nonce, other));
    auth.host.n--;
    assert_false(auth_ok(&auth, nonce, exporter));
    auth.host.n++;
    auth.time_ms++;
    assert_false(auth_ok(&auth, nonce, exporter));
    auth = auth_of(id, nonce, NULL);
    assert_true(auth_ok(&auth, nonce, NULL));
    assert_false(auth_ok(&auth, nonce, exporter));
    identity_free(id);
}

/* The longest host and all fields fit where the signed bytes are put together. */
static void test_auth_longest(void **state)
{
    static uint8_t host[RELAY_MAX_HOST];
    struct identity *id = new_identity("auth");
    uint8_t nonce[32] = {1}, exporter[32] = {3};
    struct relay_auth auth = {.host = {host, sizeof(host)}, .binding = BINDING_TLS_EXPORTER};
    (void)state;
    memset(host, 'h', sizeof(host));
    identity_sign_auth(id, nonce, exporter, &auth);
    assert_true(auth_ok(&auth, nonce, exporter));
    identity_free(id);
}

static void test_delete(void **state)
{
    struct identity *id = new_identity("delete");
    const struct device_list *list = identity_list(id);
    struct relay_unregister m = {.time_ms = TEST_NOW};
    uint8_t nonce[32] = {1}, bytes[256];
    struct buf b = buf_over(bytes, sizeof(bytes));
    (void)state;
    identity_sign_delete(id, nonce, &m);
    relay_delete_signed(&b, nonce, list->uid, TEST_NOW);
    assert_int_equal(crypto_sign_verify_detached(m.signature, b.data, b.len, list->ak), 0);
    bytes[b.len - 1] ^= 1;
    assert_int_not_equal(crypto_sign_verify_detached(m.signature, b.data, b.len, list->ak), 0);
    identity_free(id);
}

/* Section 10, written down a second time. */
static void slow_fingerprint(const uint8_t uid[32], const uint8_t ak[32], char *digits)
{
    uint8_t bytes[128], digest[64];
    size_t n = 0;
    memcpy(bytes, "e2eed/1 fingerprint", 20);
    memcpy(bytes + 20, uid, 32);
    memcpy(bytes + 52, ak, 32);
    n = 84;
    for (int round = 0; round < 5200; round++) {
        (void)crypto_hash_sha512(digest, bytes, n);
        memcpy(bytes, digest, 64);
        memcpy(bytes + 64, ak, 32);
        n = 96;
    }
    for (size_t i = 0; i < 6; i++) {
        uint64_t v = 0;
        for (size_t j = 0; j < 5; j++)
            v = v * 256 + digest[i * 5 + j];
        (void)snprintf(digits + i * 5, 6, "%05llu", (unsigned long long)(v % 100000));
    }
}

static void test_fingerprint(void **state)
{
    uint8_t uid_a[32], uid_b[32], ak_a[32], ak_b[32];
    char a[31], b[31], expected[31], ab[61], ba[61], joined[61];
    (void)state;
    memset(uid_a, 1, 32);
    memset(uid_b, 2, 32);
    memset(ak_a, 3, 32);
    memset(ak_b, 4, 32);
    fingerprint(uid_a, ak_a, a);
    fingerprint(uid_b, ak_b, b);
    slow_fingerprint(uid_a, ak_a, expected);
    assert_string_equal(a, expected);
    assert_int_equal(strlen(a), 30);
    assert_int_equal(strspn(a, "0123456789"), 30);
    safety_number(uid_a, ak_a, uid_b, ak_b, ab);
    safety_number(uid_b, ak_b, uid_a, ak_a, ba);
    (void)snprintf(joined, sizeof(joined), "%s%s", a, b);
    assert_string_equal(ab, joined);
    assert_string_equal(ba, joined);
    ak_b[31] ^= 1;
    safety_number(uid_a, ak_a, uid_b, ak_b, ba);
    assert_string_not_equal(ba, ab);
}

static void test_message_id(void **state)
{
    static const char bytes[] = "e2eed/1 message id\0UUUUUUUUUUUUUUUUUUUUUUUUUUUUUUUU\x03\0\0\0abc";
    uint8_t uid[32], expected[16];
    struct message_id id;
    (void)state;
    memset(uid, 'U', sizeof(uid));
    assert_int_equal(crypto_generichash(expected, 16, (const uint8_t *)bytes, sizeof(bytes) - 1, NULL, 0), 0);
    id = message_id_of(uid, "abc");
    assert_memory_equal(id.b, expected, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_new),
            cmocka_unit_test(test_new_refuses_names),
            cmocka_unit_test(test_uid_formula),
            cmocka_unit_test(test_save_and_load),
            cmocka_unit_test(test_load_refuses_other_bytes),
            cmocka_unit_test(test_verify_refuses_other_bytes),
            cmocka_unit_test_setup(test_malleable_signature, reset),
            cmocka_unit_test_setup(test_small_order_account_key, reset),
            cmocka_unit_test_setup(test_signatures_do_not_swap, reset),
            cmocka_unit_test_setup(test_advance, reset),
            cmocka_unit_test_setup(test_advance_refuses, reset),
            cmocka_unit_test_setup(test_advance_forks, reset),
            cmocka_unit_test_setup(test_advance_rules, reset),
            cmocka_unit_test(test_auth),
            cmocka_unit_test(test_auth_longest),
            cmocka_unit_test(test_delete),
            cmocka_unit_test(test_fingerprint),
            cmocka_unit_test(test_message_id),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
