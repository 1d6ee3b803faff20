/* The store's calls on a healthy disk: what they return, and what may be in the files afterwards. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <sodium.h>
#include <sqlite3.h>

#include "scratch.h"
#include "scrub.h"
#include "seal.h"
#include "store.h"

static const uint8_t storage_key[STORE_KEY_LEN] = "0123456789abcdef0123456789abcde";

struct fixture {
    char *dir;
    struct store *s;
    struct buf value;
};

static void open_store(struct fixture *f)
{
    const char *text = "";

    assert_int_equal(store_open(f->dir, storage_key, &f->s, &text), 0);
    assert_null(text);
}

static void reopen(struct fixture *f)
{
    store_close(f->s);
    f->s = NULL;
    open_store(f);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->dir = scratch_new();
    buf_init(&f->value, STORE_MAX_VALUE);
    open_store(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_close(f->s);
    buf_done(&f->value);
    scratch_free(f->dir);
    free(f);
    return 0;
}

static void put(struct fixture *f, uint8_t map, const char *key, const char *value)
{
    assert_int_equal(store_put(f->s, map, key, strlen(key), value, strlen(value)), 0);
}

static void commit(struct fixture *f)
{
    assert_int_equal(store_commit(f->s), 0);
    assert_false(store_dirty(f->s));
}

static void assert_value(struct fixture *f, uint8_t map, const char *key, const char *value)
{
    int r = store_get(f->s, map, key, strlen(key), &f->value);

    assert_int_equal(r, value ? 0 : STORE_NOT_FOUND);
    assert_int_equal(f->value.len, value ? strlen(value) : 0);
    if (value)
        assert_memory_equal(f->value.data, value, strlen(value));
}

/* A statement left open holds a read transaction, and a checkpoint that cannot empty the WAL fails. */
static void assert_no_open_statement(struct fixture *f)
{
    assert_int_equal(store_checkpoint(f->s), 0);
    assert_int_equal(scratch_size(scratch_path(f->dir, "state.db-wal")), 0);
}

static void records(void **state)
{
    struct fixture *f = *state;

    assert_value(f, 1, "a", NULL);
    put(f, 1, "a", "one");
    put(f, 2, "a", "other map");
    put(f, 255, "a", "last map");
    assert_true(store_dirty(f->s));
    assert_value(f, 1, "a", "one");
    commit(f);
    put(f, 1, "a", "a longer value than before");
    commit(f);
    assert_value(f, 1, "a", "a longer value than before");
    assert_value(f, 2, "a", "other map");
    assert_int_equal(store_del(f->s, 1, "a", 1), 0);
    assert_int_equal(store_del(f->s, 1, "never there", 11), 0);
    commit(f);
    assert_value(f, 1, "a", NULL);
    reopen(f);
    assert_value(f, 1, "a", NULL);
    assert_value(f, 2, "a", "other map");
    assert_value(f, 255, "a", "last map");
    assert_value(f, 0, "a", NULL);
}

static void empty_keys_and_values(void **state)
{
    struct fixture *f = *state;
    uint8_t key[STORE_MAX_KEY] = {1};
    size_t n = 99;

    assert_int_equal(store_put(f->s, 1, NULL, 0, "under the empty key", 19), 0);
    assert_int_equal(store_put(f->s, 1, "k", 1, NULL, 0), 0);
    assert_int_equal(store_put(f->s, 2, NULL, 0, NULL, 0), 0);
    commit(f);
    reopen(f);
    assert_value(f, 1, "", "under the empty key");
    assert_value(f, 1, "k", "");
    assert_int_equal(store_get(f->s, 2, NULL, 0, &f->value), 0);
    assert_int_equal(store_last(f->s, 2, key, &n), 0);
    assert_int_equal(n, 0);
}

static void longest_keys_and_values(void **state)
{
    struct fixture *f = *state;
    uint8_t key[STORE_MAX_KEY + 1];
    uint8_t *value = malloc(STORE_MAX_VALUE + 1);
    struct buf tiny = {.max = 1000};
    uint8_t last[STORE_MAX_KEY];
    size_t n = 0;

    randombytes_buf(key, sizeof(key));
    randombytes_buf(value, STORE_MAX_VALUE + 1);
    assert_int_equal(store_put(f->s, 1, key, sizeof(key), "", 0), -EINVAL);
    assert_int_equal(store_put(f->s, 1, key, 1, value, STORE_MAX_VALUE + 1), -EMSGSIZE);
    assert_int_equal(store_del(f->s, 1, key, sizeof(key)), -EINVAL);
    assert_int_equal(store_get(f->s, 1, key, sizeof(key), &f->value), -EINVAL);
    assert_false(store_dirty(f->s));
    assert_int_equal(store_put(f->s, 1, key, STORE_MAX_KEY, value, STORE_MAX_VALUE), 0);
    commit(f);
    reopen(f);
    assert_int_equal(store_get(f->s, 1, key, STORE_MAX_KEY, &f->value), 0);
    assert_int_equal(f->value.len, STORE_MAX_VALUE);
    assert_memory_equal(f->value.data, value, STORE_MAX_VALUE);
    assert_int_equal(store_last(f->s, 1, last, &n), 0);
    assert_int_equal(n, STORE_MAX_KEY);
    assert_memory_equal(last, key, n);
    assert_int_equal(store_get(f->s, 1, key, STORE_MAX_KEY, &tiny), -EMSGSIZE);
    assert_int_equal(tiny.len, 0);
    assert_no_open_statement(f);
    buf_done(&tiny);
    free(value);
}

static void turns(void **state)
{
    struct fixture *f = *state;

    put(f, 1, "kept", "old");
    commit(f);
    put(f, 1, "kept", "new");
    put(f, 1, "more", "x");
    assert_int_equal(store_del(f->s, 1, "kept", 4), 0);
    assert_value(f, 1, "kept", NULL);
    assert_int_equal(store_checkpoint(f->s), -EBUSY);
    store_rollback(f->s);
    assert_false(store_dirty(f->s));
    assert_value(f, 1, "kept", "old");
    assert_value(f, 1, "more", NULL);
    /* Empty turns are free. */
    commit(f);
    store_rollback(f->s);
    put(f, 1, "kept", "not committed");
    reopen(f);
    assert_value(f, 1, "kept", "old");
    store_close(NULL);
}

struct visited {
    char text[256];
    size_t len;
    unsigned stop_after;
};

static int note(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct visited *v = ctx;

    assert_non_null(key);
    assert_non_null(value);
    for (size_t i = 0; i < key_len; i++)
        v->len += (size_t)snprintf(v->text + v->len, sizeof(v->text) - v->len, "%02x", key[i]);
    v->len += (size_t)snprintf(
            v->text + v->len, sizeof(v->text) - v->len, "=%.*s ", (int)n, (const char *)value);
    return v->stop_after > 0 && --v->stop_after == 0 ? 77 : 0;
}

static void assert_scan(struct fixture *f, uint8_t map, const char *from, size_t from_len, size_t prefix_len,
        const char *expected)
{
    struct visited v = {0};

    assert_int_equal(store_scan(f->s, map, from, from_len, prefix_len, note, &v), 0);
    assert_string_equal(v.text, expected);
    assert_no_open_statement(f);
}

static void put_bytes(struct fixture *f, uint8_t map, const char *key, size_t n, const char *value)
{
    assert_int_equal(store_put(f->s, map, key, n, value, strlen(value)), 0);
}

static void scans(void **state)
{
    struct fixture *f = *state;
    struct visited v = {.stop_after = 2};

    put_bytes(f, 1, "\xff\xff", 2, "g");
    put_bytes(f, 1, "\xff", 1, "f");
    put_bytes(f, 1, "\xff\x00", 2, "F");
    put_bytes(f, 1, "\xfe\xff", 2, "e");
    put_bytes(f, 1, "\x01", 1, "b");
    put_bytes(f, 1, "\x01\x00", 2, "c");
    put_bytes(f, 1, "\x01\xff\xff", 3, "d");
    put_bytes(f, 1, "", 0, "a");
    put_bytes(f, 0, "\xff", 1, "map before");
    put_bytes(f, 2, "", 0, "map behind");
    commit(f);
    assert_scan(f, 1, "", 0, 0, "=a 01=b 0100=c 01ffff=d feff=e ff=f ff00=F ffff=g ");
    assert_scan(f, 1, "\x01", 1, 1, "01=b 0100=c 01ffff=d ");
    assert_scan(f, 1, "\x01\x00", 2, 1, "0100=c 01ffff=d ");
    assert_scan(f, 1, "\x01\x01", 2, 1, "01ffff=d ");
    assert_scan(f, 1, "\x01\x01", 2, 2, "");
    assert_scan(f, 1, "\x01\x01", 2, 0, "01ffff=d feff=e ff=f ff00=F ffff=g ");
    assert_scan(f, 1, "\xff", 1, 1, "ff=f ff00=F ffff=g ");
    assert_scan(f, 1, "\xff\xff", 2, 2, "ffff=g ");
    assert_scan(f, 1, "\xff\xff\x00", 3, 0, "");
    assert_scan(f, 1, "\xfe", 1, 1, "feff=e ");
    assert_scan(f, 3, "", 0, 0, "");
    assert_int_equal(store_scan(f->s, 1, "\x01", 1, 1, note, &v), 77);
    assert_string_equal(v.text, "01=b 0100=c ");
    assert_no_open_statement(f);
    assert_int_equal(store_scan(f->s, 1, "a", 1, 2, note, &v), -EINVAL);
}

struct nested {
    struct fixture *f;
    unsigned depth;
    unsigned visits;
};

static int read_and_nest(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct nested *nested = ctx;
    struct store *s = nested->f->s;
    uint8_t last[STORE_MAX_KEY];
    char before[8];
    size_t last_len;
    int r;

    assert_true(n < sizeof(before));
    memcpy(before, value, n);
    nested->visits++;
    nested->depth++;
    assert_int_equal(store_get(s, 1, "a", 1, &nested->f->value), 0);
    assert_int_equal(store_last(s, 1, last, &last_len), 0);
    assert_int_equal(store_put(s, 1, "w", 1, "", 0), -EBUSY);
    assert_int_equal(store_del(s, 1, "a", 1), -EBUSY);
    assert_int_equal(store_commit(s), -EBUSY);
    assert_int_equal(store_checkpoint(s), -EBUSY);
    assert_int_equal(store_probe(s), -EBUSY);
    r = store_scan(s, 1, "", 0, 0, read_and_nest, nested);
    assert_int_equal(r, nested->depth < STORE_SCAN_DEPTH ? 0 : -EBUSY);
    nested->depth--;
    /* What the inner calls read did not move what we were given. */
    assert_int_equal(key_len, 1);
    assert_memory_equal(value, before, n);
    assert_int_equal(value[0], key[0]);
    return 0;
}

static void reading_inside_a_scan(void **state)
{
    struct fixture *f = *state;
    struct nested nested = {.f = f};

    put(f, 1, "a", "a");
    put(f, 1, "b", "b");
    put(f, 1, "c", "c");
    /* Also in an open turn. */
    assert_int_equal(store_scan(f->s, 1, "", 0, 0, read_and_nest, &nested), 0);
    assert_int_equal(nested.visits, 3 + 3 * 3);
    commit(f);
    assert_int_equal(store_scan(f->s, 1, "", 0, 0, read_and_nest, &nested), 0);
    assert_int_equal(nested.visits, 2 * (3 + 3 * 3));
    assert_no_open_statement(f);
}

static void last_keys(void **state)
{
    struct fixture *f = *state;
    uint8_t key[STORE_MAX_KEY] = {0x55};
    size_t n = 9;

    assert_int_equal(store_last(f->s, 1, key, &n), STORE_NOT_FOUND);
    assert_int_equal(key[0], 0x55);
    assert_int_equal(n, 9);
    put_bytes(f, 1, "\x02", 1, "");
    put_bytes(f, 1, "\x02\x00", 2, "");
    put_bytes(f, 1, "\x01\xff", 2, "");
    put_bytes(f, 2, "\xff\xff\xff", 3, "");
    put_bytes(f, 0, "\xff", 1, "");
    assert_int_equal(store_last(f->s, 1, key, &n), 0);
    assert_int_equal(n, 2);
    assert_memory_equal(key, "\x02\x00", 2);
    commit(f);
    assert_int_equal(store_last(f->s, 2, key, &n), 0);
    assert_int_equal(n, 3);
    assert_no_open_statement(f);
}

static void every_read_ends_its_statement(void **state)
{
    struct fixture *f = *state;
    uint8_t key[STORE_MAX_KEY];
    size_t n;

    put(f, 1, "a", "1");
    commit(f);
    assert_value(f, 1, "a", "1");
    assert_no_open_statement(f);
    assert_value(f, 1, "b", NULL);
    assert_no_open_statement(f);
    assert_int_equal(store_last(f->s, 1, key, &n), 0);
    assert_no_open_statement(f);
    assert_int_equal(store_last(f->s, 9, key, &n), STORE_NOT_FOUND);
    assert_no_open_statement(f);
    assert_int_equal(store_probe(f->s), 0);
    assert_no_open_statement(f);
}

static void probes(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(store_probe(f->s), 0);
    assert_false(store_dirty(f->s));
    put(f, 1, "a", "1");
    assert_int_equal(store_probe(f->s), 0);
    assert_true(store_dirty(f->s));
    store_rollback(f->s);
    assert_value(f, 1, "a", NULL);
    assert_int_equal(store_probe(f->s), 0);
    reopen(f);
    assert_int_equal(store_probe(f->s), 0);
}

/* Values of all sizes, in a turn larger than the page cache: nothing of them may reach a file. */
static void no_plaintext_on_disk(void **state)
{
    struct fixture *f = *state;
    static const char canary[] = "a canary of twenty-eight by.";
    static uint8_t value[6000];

    for (size_t i = 0; i + sizeof(canary) < sizeof(value); i += sizeof(canary))
        memcpy(value + i, canary, sizeof(canary));
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(store_put(f->s, 1, &i, sizeof(i), value, i * 6), 0);
    assert_true(scratch_size(scratch_path(f->dir, "state.db-wal")) > 1000000);
    assert_false(scratch_contains(f->dir, canary, sizeof(canary) - 1));
    put(f, 1, canary, canary);
    commit(f);
    /* Keys lie open; this shows that the search can find something. */
    assert_true(scratch_contains(f->dir, canary, sizeof(canary) - 1));
    assert_int_equal(store_del(f->s, 1, canary, sizeof(canary) - 1), 0);
    commit(f);
    assert_int_equal(store_checkpoint(f->s), 0);
    assert_false(scratch_contains(f->dir, canary, sizeof(canary) - 1));
    assert_false(scratch_contains(f->dir, storage_key, 16));
}

/* Reads the sealed bytes of a record by other means. */
static void sealed_bytes(struct fixture *f, uint32_t key, uint8_t *out, size_t n)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;

    store_close(f->s);
    f->s = NULL;
    assert_int_equal(sqlite3_open(scratch_path(f->dir, "state.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT value FROM kv WHERE key=?1", -1, &st, NULL), SQLITE_OK);
    (void)sqlite3_bind_blob(st, 1, &key, sizeof(key), SQLITE_STATIC);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_true((size_t)sqlite3_column_bytes(st, 0) >= n);
    memcpy(out, sqlite3_column_blob(st, 0), n);
    (void)sqlite3_finalize(st);
    (void)sqlite3_close(db);
    open_store(f);
}

static void replaced_and_deleted_values_leave_the_disk(void **state)
{
    struct fixture *f = *state;
    static const uint8_t value[9000];
    uint8_t sealed[2][4000];

    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(store_put(f->s, 1, &i, sizeof(i), value, 300 * i + 4000), 0);
    commit(f);
    for (uint32_t i = 0; i < 2; i++) {
        sealed_bytes(f, 7 + i, sealed[i], 4000);
        assert_true(scratch_contains(f->dir, sealed[i], 64));
    }
    assert_int_equal(store_put(f->s, 1, &(uint32_t){7}, 4, value, 100), 0);
    assert_int_equal(store_del(f->s, 1, &(uint32_t){8}, 4), 0);
    commit(f);
    assert_int_equal(store_checkpoint(f->s), 0);
    for (uint32_t i = 0; i < 2; i++) {
        assert_false(scratch_contains(f->dir, sealed[i], 64));
        assert_false(scratch_contains(f->dir, sealed[i] + 3900, 64));
    }
}

#define CHURN_KEYS 60000u
static const char churn_mark[] = "<churned>";

struct churn_key {
    uint8_t spread[8];
    char mark[sizeof(churn_mark) - 1];
    uint8_t number[4];
};

static struct churn_key churn_key(uint32_t number)
{
    struct churn_key k;

    (void)crypto_generichash(k.spread, sizeof(k.spread), (const uint8_t *)&number, sizeof(number), NULL, 0);
    memcpy(k.mark, churn_mark, sizeof(k.mark));
    memcpy(k.number, &number, sizeof(number));
    return k;
}

/*
 * SQLite's secure_delete alone leaves copies of a few deleted cells where it balanced the tree (see scrub.h):
 * some dozens of the 60,000 here. Each key is used once, so a key that is in the file and not in the store is
 * such a copy.
 */
static void churn_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    static uint8_t live[CHURN_KEYS];
    static const uint8_t value[900];
    uint32_t oldest = 0;
    unsigned found_live = 0;
    size_t n;
    uint8_t *file;

    memset(live, 0, sizeof(live));
    for (uint32_t i = 0; i < CHURN_KEYS; i++) {
        struct churn_key k = churn_key(i);
        assert_int_equal(store_put(f->s, 1, &k, sizeof(k), value, (i * 37) % 600), 0);
        live[i] = 1;
        while (oldest + 700 + (i / 1000) % 5 * 100 < i) {
            struct churn_key old = churn_key(oldest);
            assert_int_equal(store_del(f->s, 1, &old, sizeof(old)), 0);
            live[oldest++] = 0;
        }
        if (i % 200 == 199)
            commit(f);
        if (i % 6000 == 5999)
            assert_int_equal(store_checkpoint(f->s), 0);
    }
    commit(f);
    assert_int_equal(store_checkpoint(f->s), 0);
    file = scratch_read(scratch_path(f->dir, "state.db"), &n);
    for (const uint8_t *p = file;
            (p = memmem(p, n - (size_t)(p - file), churn_mark, sizeof(churn_mark) - 1));) {
        uint32_t number;
        p += sizeof(churn_mark) - 1;
        memcpy(&number, p, sizeof(number));
        assert_true(number < CHURN_KEYS);
        assert_true(live[number]);
        found_live++;
    }
    assert_true(found_live > 700);
    free(file);
}

static void scrubbing_pages(void **state)
{
    uint8_t page[512];
    uint8_t before[512];

    (void)state;
    /* A leaf with two cells at 400: 12 bytes in front stay, 388 go. */
    memset(page, 0xaa, sizeof(page));
    memcpy(page, "\x0d\0\0\0\x02\x01\x90\0", 8);
    scrub_page(page, sizeof(page), 0);
    assert_int_equal(page[11], 0xaa);
    for (size_t i = 12; i < 400; i++)
        assert_int_equal(page[i], 0);
    assert_int_equal(page[400], 0xaa);
    /* An inner page has a longer header; page 1 begins later. */
    memset(page, 0xaa, sizeof(page));
    memcpy(page + 100, "\x05\0\0\0\x00\x01\x90\0", 8);
    scrub_page(page, sizeof(page), 1);
    assert_int_equal(page[111], 0xaa);
    assert_int_equal(page[112], 0);
    assert_int_equal(page[399], 0);
    /* No b-tree, nonsense, and full pages stay as they are. */
    for (int i = 0; i < 4; i++) {
        static const char *const headers[] = {"\x00\0\0\x07\xaa\xaa\xaa", "\x0d\0\0\xff\xff\x01\x90",
                "\x0d\0\0\x00\x02\x02\x01", "\x0a\0\0\x00\x05\x00\x12"};
        memset(page, 0xaa, sizeof(page));
        memcpy(page, headers[i], 7);
        memcpy(before, page, sizeof(page));
        scrub_page(page, sizeof(page), 0);
        assert_memory_equal(page, before, sizeof(page));
    }
}

static void memory_stays_bounded(void **state)
{
    struct fixture *f = *state;
    static const uint8_t value[300];

    (void)sqlite3_memory_highwater(1);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t key = i * UINT32_C(2654435761);
        assert_int_equal(store_put(f->s, 1, &key, sizeof(key), value, sizeof(value)), 0);
        if (i % 100 == 99)
            commit(f);
    }
    commit(f);
    assert_true(sqlite3_memory_highwater(0) < 2 * 1024 * 1024);
    /* The log is written back as it grows. */
    assert_true(scratch_size(scratch_path(f->dir, "state.db-wal")) < 12 * 1024 * 1024);
}

/* Fixed bytes, computed by hand from the construction in seal.h, so that a change of the format shows. */
static void sealing(void **state)
{
    struct seal_key *k = NULL;
    struct seal_ad ad;
    CLEANUP_BUF struct buf sealed = {.max = 1000};
    CLEANUP_BUF struct buf value = {.max = 1000};
    uint8_t raw[32];
    uint8_t prk[32];
    crypto_auth_hmacsha256_state hmac;
    uint8_t opened[5];

    (void)state;
    assert_int_equal(seal_key_new(storage_key, &k), 0);
    seal_ad_record(&ad, 7, "key", 3);
    assert_int_equal(ad.len, 19);
    assert_memory_equal(ad.data, "e2eed/1 record\0\x07key", 19);
    assert_int_equal(seal(k, &ad, "value", 5, &sealed), 0);
    assert_int_equal(sealed.len, 45);
    (void)crypto_auth_hmacsha256_init(&hmac, (const uint8_t[32]){0}, 32);
    (void)crypto_auth_hmacsha256_update(&hmac, storage_key, 32);
    (void)crypto_auth_hmacsha256_final(&hmac, prk);
    (void)crypto_auth_hmacsha256_init(&hmac, prk, 32);
    (void)crypto_auth_hmacsha256_update(&hmac, (const uint8_t *)"e2eed/1 storage\0\x01", 17);
    (void)crypto_auth_hmacsha256_final(&hmac, raw);
    assert_int_equal(crypto_aead_xchacha20poly1305_ietf_decrypt(opened, NULL, NULL, sealed.data + 24, 21,
                             (const uint8_t *)"e2eed/1 record\0\x07key", 19, sealed.data, raw),
            0);
    assert_memory_equal(opened, "value", 5);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[i] ^= 0x10;
        assert_int_equal(unseal(k, &ad, sealed.data, sealed.len, &value), SEAL_BROKEN);
        assert_int_equal(value.len, 0);
        sealed.data[i] ^= 0x10;
    }
    for (size_t n = 0; n < sealed.len; n++)
        assert_int_equal(unseal(k, &ad, sealed.data, n, &value), SEAL_BROKEN);
    assert_int_equal(unseal(k, &ad, sealed.data, sealed.len, &value), 0);
    ad.data[15]++;
    assert_int_equal(unseal(k, &ad, sealed.data, sealed.len, &value), SEAL_BROKEN);
    seal_key_free(k);
    seal_key_free(NULL);
}

#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(sealing),
            cmocka_unit_test(scrubbing_pages),
            WITH_STORE(records),
            WITH_STORE(empty_keys_and_values),
            WITH_STORE(longest_keys_and_values),
            WITH_STORE(turns),
            WITH_STORE(scans),
            WITH_STORE(reading_inside_a_scan),
            WITH_STORE(last_keys),
            WITH_STORE(every_read_ends_its_statement),
            WITH_STORE(probes),
            WITH_STORE(no_plaintext_on_disk),
            WITH_STORE(replaced_and_deleted_values_leave_the_disk),
            WITH_STORE(churn_leaves_nothing),
            WITH_STORE(memory_stays_bounded),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
