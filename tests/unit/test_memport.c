#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "memport.h"

#define REFERENCE 64
#define STEPS 20000

struct fixture {
    struct memport *mp;
    struct port port;
    struct buf value;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->mp = memport_new();
    f->port = memport_port(f->mp);
    buf_init(&f->value, MEMPORT_MAX_VALUE);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memport_free(f->mp);
    buf_done(&f->value);
    free(f);
    return 0;
}

static int put(struct fixture *f, uint8_t map, const char *key, const char *value)
{
    return f->port.put(f->port.ctx, map, key, strlen(key), value, strlen(value));
}

static int del(struct fixture *f, uint8_t map, const char *key)
{
    return f->port.del(f->port.ctx, map, key, strlen(key));
}

static void assert_value(struct fixture *f, uint8_t map, const char *key, const char *value)
{
    int r = f->port.get(f->port.ctx, map, key, strlen(key), &f->value);

    assert_int_equal(r, value ? 0 : PORT_NOT_FOUND);
    assert_int_equal(f->value.len, value ? strlen(value) : 0);
    if (value)
        assert_memory_equal(f->value.data, value, strlen(value));
}

static void turns(void **state)
{
    struct fixture *f = *state;

    assert_false(memport_dirty(f->mp));
    assert_int_equal(put(f, 1, "a", "1"), 0);
    assert_int_equal(put(f, 1, "b", "2"), 0);
    assert_true(memport_dirty(f->mp));
    assert_int_equal(memport_commit(f->mp), 0);
    assert_false(memport_dirty(f->mp));

    assert_int_equal(put(f, 1, "a", "changed"), 0);
    assert_int_equal(del(f, 1, "a"), 0);
    assert_int_equal(put(f, 1, "a", "again"), 0);
    assert_int_equal(del(f, 1, "b"), 0);
    assert_int_equal(del(f, 1, "none"), 0);
    assert_int_equal(put(f, 1, "c", "3"), 0);
    assert_value(f, 1, "a", "again");
    assert_value(f, 1, "b", NULL);
    memport_rollback(f->mp);
    assert_value(f, 1, "a", "1");
    assert_value(f, 1, "b", "2");
    assert_value(f, 1, "c", NULL);
    assert_int_equal(memport_records(f->mp), 2);
    assert_int_equal(memport_bytes(f->mp), 4);
}

static void snapshots(void **state)
{
    struct fixture *f = *state;
    struct memport_snapshot *old;
    struct memport_snapshot *open_turn;

    assert_int_equal(put(f, 1, "a", "1"), 0);
    assert_int_equal(put(f, 2, "b", "2"), 0);
    assert_int_equal(memport_commit(f->mp), 0);
    old = memport_snapshot(f->mp);
    assert_int_equal(put(f, 1, "a", "new"), 0);
    assert_int_equal(del(f, 1, "a"), 0);
    assert_int_equal(del(f, 2, "b"), 0);
    assert_int_equal(put(f, 1, "c", "3"), 0);
    assert_int_equal(put(f, 1, "c", "4"), 0);
    open_turn = memport_snapshot(f->mp);
    assert_int_equal(memport_commit(f->mp), 0);
    assert_value(f, 1, "c", "4");

    for (int i = 0; i < 2; i++) {
        memport_restore(f->mp, i == 0 ? old : open_turn);
        assert_value(f, 1, "a", "1");
        assert_value(f, 2, "b", "2");
        assert_value(f, 1, "c", NULL);
        assert_int_equal(put(f, 1, "a", "later"), 0);
        assert_int_equal(memport_commit(f->mp), 0);
    }
    assert_int_equal(put(f, 1, "x", "open"), 0);
    memport_restore(f->mp, old);
    assert_false(memport_dirty(f->mp));
    assert_value(f, 1, "x", NULL);
    memport_snapshot_free(old);
    memport_snapshot_free(open_turn);
    memport_snapshot_free(NULL);
}

static void faults(void **state)
{
    struct fixture *f = *state;

    memport_fail(f->mp, MEMPORT_PUT, 2, -ENOSPC);
    assert_int_equal(put(f, 1, "a", "1"), 0);
    assert_int_equal(put(f, 1, "b", "2"), -ENOSPC);
    assert_int_equal(put(f, 1, "c", "3"), -ENOSPC);
    assert_int_equal(f->port.get(f->port.ctx, 1, "a", 1, &f->value), -ENOSPC);
    assert_int_equal(memport_commit(f->mp), -ENOSPC);
    assert_false(memport_dirty(f->mp));
    assert_value(f, 1, "a", NULL);
    assert_int_equal(put(f, 1, "a", "1"), 0);
    assert_int_equal(memport_commit(f->mp), 0);

    memport_fail(f->mp, MEMPORT_COMMIT, 1, -EIO);
    assert_int_equal(memport_commit(f->mp), 0);
    assert_int_equal(put(f, 1, "a", "2"), 0);
    assert_int_equal(memport_commit(f->mp), -EIO);
    assert_value(f, 1, "a", "1");
    assert_int_equal(memport_commit(f->mp), 0);

    memport_fail(f->mp, MEMPORT_GET, 1, -ENOMEM);
    assert_int_equal(f->port.get(f->port.ctx, 1, "a", 1, &f->value), -ENOMEM);
    assert_value(f, 1, "a", "1");
    assert_int_equal(memport_count(f->mp, MEMPORT_PUT), 5);
    assert_int_equal(memport_count(f->mp, MEMPORT_COMMIT), 3);
    assert_int_equal(memport_count(f->mp, MEMPORT_SCAN), 0);
}

static int write_inside(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct fixture *f = ctx;

    (void)key;
    (void)key_len;
    (void)value;
    (void)n;
    assert_int_equal(put(f, 1, "z", "z"), -EBUSY);
    assert_int_equal(del(f, 1, "z"), -EBUSY);
    assert_int_equal(memport_commit(f->mp), -EBUSY);
    return 0;
}

static int nest(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct fixture *f = ctx;
    int r;

    (void)key;
    (void)key_len;
    (void)value;
    (void)n;
    r = f->port.scan(f->port.ctx, 1, "", 0, 0, nest, f);
    return r == -EBUSY ? 7 : r;
}

static void limits(void **state)
{
    struct fixture *f = *state;
    uint8_t key[PORT_MAX_KEY + 1] = {0};
    static const uint8_t value[MEMPORT_MAX_VALUE + 1];
    struct port *p = &f->port;
    struct buf tiny = {.max = 3};

    assert_int_equal(p->put(p->ctx, 1, key, sizeof(key), "", 0), -EINVAL);
    assert_int_equal(p->del(p->ctx, 1, key, sizeof(key)), -EINVAL);
    assert_int_equal(p->get(p->ctx, 1, key, sizeof(key), &f->value), -EINVAL);
    assert_int_equal(p->put(p->ctx, 1, key, 1, value, sizeof(value)), -EMSGSIZE);
    assert_int_equal(p->scan(p->ctx, 1, key, 1, 2, nest, f), -EINVAL);
    assert_false(memport_dirty(f->mp));
    assert_int_equal(p->put(p->ctx, 1, key, PORT_MAX_KEY, value, MEMPORT_MAX_VALUE), 0);
    assert_int_equal(p->get(p->ctx, 1, key, PORT_MAX_KEY, &tiny), -EMSGSIZE);
    assert_int_equal(p->get(p->ctx, 1, key, PORT_MAX_KEY, &f->value), 0);
    assert_int_equal(f->value.len, MEMPORT_MAX_VALUE);
    assert_int_equal(p->scan(p->ctx, 1, "", 0, 0, write_inside, f), 0);
    assert_int_equal(p->scan(p->ctx, 1, "", 0, 0, nest, f), 7);
    buf_done(&tiny);
}

/* Random calls beside a plain sorted array. Keys are one or two bytes of a small alphabet with both borders.
 */
struct record {
    uint8_t name[3]; /* map, key */
    size_t len;
    uint8_t value;
};

struct reference {
    struct record r[REFERENCE];
    size_t count;
};

static uint64_t random_state;

static unsigned pick(unsigned n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((random_state >> 33) % n);
}

static struct record pick_record(void)
{
    static const uint8_t bytes[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff};
    static const uint8_t maps[] = {0, 1, 255};

    return (struct record){.name = {maps[pick(3)], bytes[pick(6)], bytes[pick(6)]},
            .len = 1 + pick(3),
            .value = (uint8_t)pick(256)};
}

static int order(const struct record *a, const struct record *b)
{
    int r = memcmp(a->name, b->name, a->len < b->len ? a->len : b->len);

    return r != 0 ? r : a->len < b->len ? -1 : a->len > b->len;
}

static size_t position(const struct reference *ref, const struct record *r)
{
    size_t i = 0;

    while (i < ref->count && order(&ref->r[i], r) < 0)
        i++;
    return i;
}

static bool has(const struct reference *ref, const struct record *r, size_t i)
{
    return i < ref->count && order(&ref->r[i], r) == 0;
}

static void reference_put(struct reference *ref, const struct record *r)
{
    size_t i = position(ref, r);

    if (!has(ref, r, i)) {
        assert_true(ref->count < REFERENCE);
        memmove(&ref->r[i + 1], &ref->r[i], (ref->count - i) * sizeof(ref->r[0]));
        ref->count++;
    }
    ref->r[i] = *r;
}

static void reference_del(struct reference *ref, const struct record *r)
{
    size_t i = position(ref, r);

    if (!has(ref, r, i))
        return;
    ref->count--;
    memmove(&ref->r[i], &ref->r[i + 1], (ref->count - i) * sizeof(ref->r[0]));
}

struct expected {
    const struct reference *ref;
    size_t at;
    unsigned left;
};

static int compare_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct expected *e = ctx;
    const struct record *r = &e->ref->r[e->at++];

    assert_true(e->at <= e->ref->count);
    assert_int_equal(key_len, r->len - 1);
    assert_memory_equal(key, r->name + 1, key_len);
    assert_int_equal(n, 1);
    assert_int_equal(*value, r->value);
    return --e->left == 0 ? 42 : 0;
}

static void check_scan(struct fixture *f, const struct reference *ref, const struct record *from)
{
    size_t prefix = pick((unsigned)from->len);
    struct expected e = {.ref = ref, .at = position(ref, from), .left = 1 + pick(40)};
    size_t count = 0;
    unsigned limit = e.left;

    for (size_t i = e.at; i < ref->count && ref->r[i].len > prefix; i++, count++) {
        if (memcmp(ref->r[i].name, from->name, 1 + prefix) != 0)
            break;
    }
    assert_int_equal(f->port.scan(f->port.ctx, from->name[0], from->name + 1, from->len - 1, prefix,
                             compare_visit, &e),
            count >= limit ? 42 : 0);
    assert_int_equal(limit - e.left, count < limit ? count : limit);
}

static void check_last(struct fixture *f, const struct reference *ref, uint8_t map)
{
    const struct record *last = NULL;
    uint8_t key[PORT_MAX_KEY];
    size_t n;

    for (size_t i = 0; i < ref->count; i++) {
        if (ref->r[i].name[0] == map)
            last = &ref->r[i];
    }
    assert_int_equal(f->port.last(f->port.ctx, map, key, &n), last ? 0 : PORT_NOT_FOUND);
    if (last) {
        assert_int_equal(n, last->len - 1);
        assert_memory_equal(key, last->name + 1, n);
    }
}

static void check_get(struct fixture *f, const struct reference *ref, const struct record *r)
{
    size_t i = position(ref, r);

    assert_int_equal(f->port.get(f->port.ctx, r->name[0], r->name + 1, r->len - 1, &f->value),
            has(ref, r, i) ? 0 : PORT_NOT_FOUND);
    if (has(ref, r, i))
        assert_int_equal(f->value.data[0], ref->r[i].value);
}

static void as_a_sorted_array(void **state)
{
    struct fixture *f = *state;
    static struct reference now, committed;
    struct port *p = &f->port;

    random_state = 1;
    now.count = committed.count = 0;
    for (int i = 0; i < STEPS; i++) {
        struct record r = pick_record();
        unsigned what = pick(20);
        if (what < 6 && now.count < REFERENCE) {
            assert_int_equal(p->put(p->ctx, r.name[0], r.name + 1, r.len - 1, &r.value, 1), 0);
            reference_put(&now, &r);
        } else if (what < 10) {
            assert_int_equal(p->del(p->ctx, r.name[0], r.name + 1, r.len - 1), 0);
            reference_del(&now, &r);
        } else if (what < 12) {
            assert_int_equal(memport_commit(f->mp), 0);
            committed = now;
        } else if (what == 12) {
            memport_rollback(f->mp);
            now = committed;
        } else if (what == 13) {
            struct memport_snapshot *s = memport_snapshot(f->mp);
            memport_restore(f->mp, s);
            memport_snapshot_free(s);
            now = committed;
        } else if (what < 16) {
            check_scan(f, &now, &r);
        } else if (what < 18) {
            check_last(f, &now, r.name[0]);
        } else {
            check_get(f, &now, &r);
        }
        assert_int_equal(memport_records(f->mp), now.count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(turns, setup, teardown),
            cmocka_unit_test_setup_teardown(snapshots, setup, teardown),
            cmocka_unit_test_setup_teardown(faults, setup, teardown),
            cmocka_unit_test_setup_teardown(limits, setup, teardown),
            cmocka_unit_test_setup_teardown(as_a_sorted_array, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
