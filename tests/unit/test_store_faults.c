/*
 * The store on a disk that fails, and under kill -9. In all of it memport is the model: it gets the turns
 * that were acknowledged, and the store must then hold exactly these.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <sodium.h>
#include <sqlite3.h>

#include "faultvfs.h"
#include "memport.h"
#include "scratch.h"
#include "store.h"

#define MAPS 3
#define TURNS 10u
#define DIGEST_LEN 32u

static const uint8_t storage_key[STORE_KEY_LEN] = "0123456789abcdef0123456789abcde";

static int port_get(void *ctx, uint8_t map, const void *key, size_t key_len, struct buf *value)
{
    return store_get(ctx, map, key, key_len, value);
}

static int port_put(void *ctx, uint8_t map, const void *key, size_t key_len, const void *value, size_t n)
{
    return store_put(ctx, map, key, key_len, value, n);
}

static int port_del(void *ctx, uint8_t map, const void *key, size_t key_len)
{
    return store_del(ctx, map, key, key_len);
}

static int port_scan(void *ctx, uint8_t map, const void *from, size_t from_len, size_t prefix_len,
        port_visit visit, void *visit_ctx)
{
    return store_scan(ctx, map, from, from_len, prefix_len, visit, visit_ctx);
}

static int port_last(void *ctx, uint8_t map, uint8_t ret_key[PORT_MAX_KEY], size_t *ret_len)
{
    return store_last(ctx, map, ret_key, ret_len);
}

static struct port store_port(struct store *s)
{
    return (struct port){.ctx = s,
            .get = port_get,
            .put = port_put,
            .del = port_del,
            .scan = port_scan,
            .last = port_last};
}

static struct store *try_open(const char *dir)
{
    struct store *s = NULL;
    const char *text;

    return store_open(dir, storage_key, &s, &text) == 0 ? s : NULL;
}

static struct store *must_open(const char *dir)
{
    struct store *s = NULL;
    const char *text = "";

    if (store_open(dir, storage_key, &s, &text) != 0)
        fail_msg("%s", text);
    return s;
}

static uint64_t random_state;

static uint32_t pick(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(random_state >> 33) % n;
}

static int digest_one(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    uint32_t lens[2] = {(uint32_t)key_len, (uint32_t)n};

    (void)crypto_generichash_update(ctx, (const uint8_t *)lens, sizeof(lens));
    (void)crypto_generichash_update(ctx, key, key_len);
    (void)crypto_generichash_update(ctx, value, n);
    return 0;
}

struct digest {
    uint8_t bytes[DIGEST_LEN];
};

/* Of everything in the maps. */
static struct digest digest(struct port p)
{
    crypto_generichash_state state;
    struct digest d;

    (void)crypto_generichash_init(&state, NULL, 0, DIGEST_LEN);
    for (uint8_t map = 0; map < MAPS; map++) {
        assert_int_equal(p.scan(p.ctx, map, "", 0, 0, digest_one, &state), 0);
        (void)crypto_generichash_update(&state, &map, 1);
    }
    (void)crypto_generichash_final(&state, d.bytes, DIGEST_LEN);
    return d;
}

static bool same(struct digest a, struct digest b)
{
    return memcmp(a.bytes, b.bytes, DIGEST_LEN) == 0;
}

/* Turn number t: a few puts, overwrites and deletions, some with values of several pages. */
static int play_turn(struct port p, uint32_t t)
{
    static uint8_t value[20000];
    int r = 0;

    random_state = t;
    memset(value, (int)t, sizeof(value));
    for (uint32_t i = 0; r == 0 && i < 4 + t % 5; i++) {
        uint8_t map = (uint8_t)pick(MAPS);
        uint32_t key = pick(20);
        size_t n = pick(8) == 0 ? pick(sizeof(value)) : pick(400);
        r = pick(4) == 0 ? p.del(p.ctx, map, &key, sizeof(key))
                         : p.put(p.ctx, map, &key, sizeof(key), value, n);
    }
    return r;
}

/* One run of TURNS turns on a store and its model, on a disk with a plan. */
struct run {
    const char *dir;
    struct store *s;
    struct memport *model;
    struct digest acknowledged;
    struct digest in_doubt; /* with the turn whose commit failed last */
    int expected;           /* what failures must look like */
    unsigned failures;
};

static void run_init(struct run *run, const char *dir, int expected)
{
    *run = (struct run){.dir = dir, .model = memport_new(), .expected = expected};
    run->acknowledged = run->in_doubt = digest(memport_port(run->model));
}

static void run_done(struct run *run)
{
    store_close(run->s);
    memport_free(run->model);
}

static void run_turn(struct run *run, uint32_t t)
{
    int r;

    assert_int_equal(play_turn(memport_port(run->model), t), 0);
    run->in_doubt = digest(memport_port(run->model));
    r = play_turn(store_port(run->s), t);
    if (r == 0)
        r = store_commit(run->s);
    else
        store_rollback(run->s);
    assert_false(store_dirty(run->s));
    if (r == 0) {
        assert_int_equal(memport_commit(run->model), 0);
        run->acknowledged = run->in_doubt;
        return;
    }
    assert_int_equal(r, run->expected);
    memport_rollback(run->model);
    run->failures++;
    /* All that was acknowledged stays readable. */
    assert_true(same(digest(store_port(run->s)), run->acknowledged));
}

/* Opening may fail, too; the turns that follow then do not happen. */
static void run_turns(struct run *run, uint32_t from, uint32_t to)
{
    if (!run->s) {
        struct store *s = NULL;
        const char *text = NULL;
        int r = store_open(run->dir, storage_key, &s, &text);
        if (r != 0) {
            assert_int_equal(r, run->expected);
            assert_non_null(text);
            return;
        }
        run->s = s;
    }
    for (uint32_t t = from; t < to; t++) {
        run_turn(run, t);
        if (t % 4 == 3) {
            int r = store_checkpoint(run->s);
            assert_true(r == 0 || r == run->expected);
        }
    }
}

static void assert_reopened(struct run *run, bool doubt_allowed)
{
    struct digest found;

    store_close(run->s);
    run->s = must_open(run->dir);
    found = digest(store_port(run->s));
    if (!same(found, run->acknowledged))
        assert_true(doubt_allowed && same(found, run->in_doubt));
    assert_int_equal(store_probe(run->s), 0);
}

/* Changes of the disk in a whole run. */
static uint64_t count_changes(void)
{
    char *dir = scratch_new();
    struct run run;
    uint64_t n;

    faultvfs_install();
    run_init(&run, dir, 0);
    run_turns(&run, 1, TURNS);
    n = faultvfs_changes();
    run_done(&run);
    faultvfs_remove();
    scratch_free(dir);
    assert_true(n > 100);
    return n;
}

/* The K-th change fails once; the rest succeeds, without a restart. Then a clean end, or a power cut. */
static void one_failure(uint64_t k, int error, int end)
{
    char *dir = scratch_new();
    struct run run;

    faultvfs_install();
    run_init(&run, dir, -error);
    faultvfs_plan(k, false, error);
    run_turns(&run, 1, TURNS);
    assert_true(faultvfs_struck());
    assert_true(run.failures <= 1);
    if (end >= 0) {
        faultvfs_halt();
        store_close(run.s);
        run.s = NULL;
        faultvfs_cut((enum faultvfs_loss)end, k);
    }
    assert_reopened(&run, false);
    run_done(&run);
    faultvfs_remove();
    scratch_free(dir);
}

static void one_failure_at_every_change(void **state)
{
    uint64_t changes = count_changes();

    (void)state;
    for (uint64_t k = 1; k <= changes; k++) {
        one_failure(k, k % 2 ? EIO : ENOSPC, -1);
        one_failure(k, k % 2 ? ENOSPC : EIO, FAULTVFS_KEEP);
        one_failure(k, EIO, FAULTVFS_DROP);
        one_failure(k, EIO, FAULTVFS_RANDOM);
    }
}

/* All changes from the K-th on fail until there is room again; the store goes on without a restart. */
static void a_full_disk_at_every_change(void **state)
{
    uint64_t changes = count_changes();

    (void)state;
    for (uint64_t k = 1; k <= changes; k++) {
        char *dir = scratch_new();
        struct run run;

        faultvfs_install();
        run_init(&run, dir, -ENOSPC);
        faultvfs_plan(k, true, ENOSPC);
        run_turns(&run, 1, TURNS);
        faultvfs_plan(0, false, 0);
        if (run.s)
            assert_true(same(digest(store_port(run.s)), run.acknowledged));
        run.expected = 0;
        run_turns(&run, TURNS, TURNS + 5);
        assert_reopened(&run, false);
        run_done(&run);
        faultvfs_remove();
        scratch_free(dir);
    }
}

/*
 * The power fails at the K-th change. Where nothing but what was synced survives, exactly the acknowledged
 * turns are there; where more survives, perhaps also the one whose commit was under way, but whole.
 */
static void a_power_cut_at_every_change(void **state)
{
    uint64_t changes = count_changes();

    (void)state;
    for (uint64_t k = 1; k <= 3 * changes; k++) {
        char *dir = scratch_new();
        enum faultvfs_loss loss = (enum faultvfs_loss)(k % 3);
        struct run run;

        faultvfs_install();
        run_init(&run, dir, -EIO);
        faultvfs_plan((k + 2) / 3, true, EIO);
        for (uint32_t t = 1; t < TURNS && !faultvfs_struck(); t++)
            run_turns(&run, t, t + 1);
        faultvfs_halt();
        store_close(run.s);
        run.s = NULL;
        faultvfs_cut(loss, k);
        assert_reopened(&run, loss != FAULTVFS_DROP);
        run_done(&run);
        faultvfs_remove();
        scratch_free(dir);
    }
}

/* What failed in a turn sticks until the rollback, so that its rest cannot be committed alone. */
static void a_failed_turn_stays_failed(void **state)
{
    char *dir = scratch_new();
    static const uint8_t big[300000];
    CLEANUP_BUF struct buf value = {.max = 1000};
    uint8_t last[STORE_MAX_KEY];
    size_t n;
    struct store *s;
    unsigned visited = 0;
    uint32_t i;
    int r = 0;

    (void)state;
    faultvfs_install();
    s = must_open(dir);
    assert_int_equal(store_put(s, 1, "old", 3, "1", 1), 0);
    assert_int_equal(store_commit(s), 0);
    assert_int_equal(store_put(s, 1, "first", 5, "1", 1), 0);
    faultvfs_plan(1, false, ENOSPC);
    for (i = 0; r == 0 && i < 50; i++)
        r = store_put(s, 2, &i, sizeof(i), big, sizeof(big));
    assert_int_equal(r, -ENOSPC);
    assert_true(store_dirty(s));
    assert_int_equal(store_put(s, 1, "rest", 4, "1", 1), -ENOSPC);
    assert_int_equal(store_del(s, 1, "old", 3), -ENOSPC);
    assert_int_equal(store_get(s, 1, "old", 3, &value), -ENOSPC);
    assert_int_equal(store_scan(s, 1, "", 0, 0, digest_one, &visited), -ENOSPC);
    assert_int_equal(store_last(s, 1, last, &n), -ENOSPC);
    assert_int_equal(store_probe(s), -ENOSPC);
    assert_int_equal(store_checkpoint(s), -EBUSY);
    assert_int_equal(store_commit(s), -ENOSPC);
    assert_false(store_dirty(s));
    assert_int_equal(store_get(s, 1, "first", 5, &value), STORE_NOT_FOUND);
    assert_int_equal(store_get(s, 1, "old", 3, &value), 0);
    assert_int_equal(store_put(s, 1, "rest", 4, "1", 1), 0);
    assert_int_equal(store_commit(s), 0);
    faultvfs_plan(1, false, EIO);
    assert_int_equal(store_probe(s), -EIO);
    assert_int_equal(store_probe(s), 0);
    store_close(s);
    faultvfs_remove();
    scratch_free(dir);
}

static void set_limit(rlim_t bytes)
{
    const struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};

    if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
        _exit(100);
}

/* The kernel's own refusal (EFBIG), in a child. */
static int fill_the_disk(const char *dir)
{
    static const uint8_t big[3000];
    CLEANUP_BUF struct buf value = {.max = sizeof(big)};
    struct store *s;
    uint32_t committed = 0;
    int r = 0;

    (void)signal(SIGXFSZ, SIG_IGN);
    set_limit(1 << 20);
    s = try_open(dir);
    if (!s)
        return 1;
    for (unsigned failures = 0; failures < 5 && committed < 10000;) {
        r = store_put(s, 1, &committed, sizeof(committed), big, sizeof(big));
        if (r == 0)
            r = store_commit(s);
        store_rollback(s);
        if (r != 0 && r != -ENOSPC)
            return 2;
        failures = r == 0 ? 0 : failures + 1;
        committed += r == 0;
    }
    if (committed < 150 || committed == 10000)
        return 3;
    for (uint32_t i = 0; i < committed; i++) {
        if (store_get(s, 1, &i, sizeof(i), &value) != 0 || value.len != sizeof(big))
            return 4;
    }
    if (store_get(s, 1, &committed, sizeof(committed), &value) != STORE_NOT_FOUND)
        return 5;
    set_limit(RLIM_INFINITY);
    for (uint32_t i = 0; i < 500; i++) {
        if (store_put(s, 3, &i, sizeof(i), big, sizeof(big)) != 0 || store_commit(s) != 0)
            return 6;
    }
    store_close(s);
    s = try_open(dir);
    for (uint32_t i = 0; s && i < 500; i++) {
        if (store_get(s, 3, &i, sizeof(i), &value) != 0)
            return 7;
    }
    store_close(s);
    return s ? 0 : 8;
}

static void a_full_disk_in_earnest(void **state)
{
    char *dir = scratch_new();
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        _exit(fill_the_disk(dir));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    scratch_free(dir);
}

/* Turn after turn, with a byte down the pipe for each commit. */
static void write_until_killed(const char *dir, uint32_t from, int fd)
{
    struct store *s = try_open(dir);

    for (uint32_t t = from; s; t++) {
        if (play_turn(store_port(s), t) != 0 || store_commit(s) != 0 || write(fd, "", 1) != 1)
            break;
        if (t % 50 == 0 && store_checkpoint(s) != 0)
            break;
    }
    _exit(1);
}

/* Kills it after some milliseconds; returns the number of acknowledged turns. */
static uint32_t kill_a_writer(const char *dir, uint32_t from)
{
    uint32_t acknowledged = 0;
    uint8_t byte[64];
    ssize_t got;
    int status;
    int fds[2];
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    if (pid == 0)
        write_until_killed(dir, from, fds[1]);
    (void)close(fds[1]);
    assert_int_equal(read(fds[0], byte, 1), 1);
    (void)usleep(randombytes_uniform(20000));
    assert_int_equal(kill(pid, SIGKILL), 0);
    for (acknowledged = 1; (got = read(fds[0], byte, sizeof(byte))) > 0; acknowledged += (uint32_t)got) {
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    (void)close(fds[0]);
    return acknowledged;
}

static void killed_again_and_again(void **state)
{
    char *dir = scratch_new();
    struct memport *model = memport_new();
    uint32_t next = 1;

    (void)state;
    for (int round = 0; round < 25; round++) {
        uint32_t n = kill_a_writer(dir, next);
        struct store *s = must_open(dir);
        struct digest found = digest(store_port(s));
        for (uint32_t t = next; t < next + n; t++) {
            assert_int_equal(play_turn(memport_port(model), t), 0);
            assert_int_equal(memport_commit(model), 0);
        }
        next += n;
        /* The commit was done and its byte not yet written: the next turn is there, whole. */
        if (!same(found, digest(memport_port(model)))) {
            assert_int_equal(play_turn(memport_port(model), next++), 0);
            assert_int_equal(memport_commit(model), 0);
            assert_true(same(found, digest(memport_port(model))));
        }
        store_close(s);
    }
    memport_free(model);
    scratch_free(dir);
}

/* Random calls on store and memport: same results, same records. */

#define STEPS 6000

struct name {
    uint8_t map;
    uint8_t key[4];
    size_t len;
};

static struct name pick_name(void)
{
    static const uint8_t bytes[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff};
    struct name name = {.map = (uint8_t)pick(MAPS), .len = pick(sizeof(name.key) + 1)};

    for (size_t i = 0; i < sizeof(name.key); i++)
        name.key[i] = bytes[pick(ARRAY_SIZE(bytes))];
    return name;
}

struct log {
    struct digest digest;
    unsigned left;
};

static int log_visit(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value, size_t n)
{
    struct log *log = ctx;
    crypto_generichash_state state;

    (void)crypto_generichash_init(&state, log->digest.bytes, DIGEST_LEN, DIGEST_LEN);
    (void)digest_one(&state, key, key_len, value, n);
    (void)crypto_generichash_final(&state, log->digest.bytes, DIGEST_LEN);
    return --log->left == 0 ? 9 : 0;
}

static void compare_reads(struct port a, struct port b)
{
    struct name name = pick_name();
    size_t prefix = pick((uint32_t)name.len + 2);
    CLEANUP_BUF struct buf x = {.max = pick(2) ? 100000 : pick(3000)};
    CLEANUP_BUF struct buf y = {.max = x.max};
    struct log la = {.left = 1 + pick(30)};
    struct log lb = la;
    uint8_t ka[STORE_MAX_KEY] = {0};
    uint8_t kb[STORE_MAX_KEY] = {0};
    size_t na = 0;
    size_t nb = 0;

    assert_int_equal(
            a.get(a.ctx, name.map, name.key, name.len, &x), b.get(b.ctx, name.map, name.key, name.len, &y));
    assert_int_equal(x.len, y.len);
    if (x.len > 0)
        assert_memory_equal(x.data, y.data, x.len);
    assert_int_equal(a.scan(a.ctx, name.map, name.key, name.len, prefix, log_visit, &la),
            b.scan(b.ctx, name.map, name.key, name.len, prefix, log_visit, &lb));
    assert_int_equal(la.left, lb.left);
    assert_true(same(la.digest, lb.digest));
    assert_int_equal(a.last(a.ctx, name.map, ka, &na), b.last(b.ctx, name.map, kb, &nb));
    assert_int_equal(na, nb);
    assert_memory_equal(ka, kb, sizeof(ka));
}

static void compare_writes(struct port a, struct port b)
{
    static uint8_t value[20000];
    struct name name = pick_name();
    size_t n = pick(20) == 0 ? pick(sizeof(value)) : pick(500);

    memset(value, (int)pick(256), n);
    if (pick(3) == 0)
        assert_int_equal(
                a.del(a.ctx, name.map, name.key, name.len), b.del(b.ctx, name.map, name.key, name.len));
    else
        assert_int_equal(a.put(a.ctx, name.map, name.key, name.len, value, n),
                b.put(b.ctx, name.map, name.key, name.len, value, n));
}

static void as_memport(void **state)
{
    char *dir = scratch_new();
    struct memport *mp = memport_new();
    struct port model = memport_port(mp);
    struct store *s = must_open(dir);

    (void)state;
    random_state = 42;
    for (unsigned i = 0; i < STEPS; i++) {
        uint32_t what = pick(100);
        if (what < 50) {
            compare_writes(store_port(s), model);
        } else if (what < 85) {
            compare_reads(store_port(s), model);
        } else if (what < 92) {
            assert_int_equal(store_commit(s), memport_commit(mp));
        } else if (what < 97) {
            store_rollback(s);
            memport_rollback(mp);
        } else if (what == 97) {
            assert_int_equal(store_checkpoint(s), store_dirty(s) ? -EBUSY : 0);
        } else if (what == 98) {
            assert_int_equal(store_probe(s), 0);
            if (!memport_dirty(mp))
                assert_false(store_dirty(s));
        } else {
            store_close(s);
            memport_rollback(mp);
            s = must_open(dir);
        }
        assert_int_equal(store_dirty(s), memport_dirty(mp));
    }
    assert_true(same(digest(store_port(s)), digest(model)));
    store_close(s);
    memport_free(mp);
    scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(as_memport),
            cmocka_unit_test(a_failed_turn_stays_failed),
            cmocka_unit_test(one_failure_at_every_change),
            cmocka_unit_test(a_full_disk_at_every_change),
            cmocka_unit_test(a_power_cut_at_every_change),
            cmocka_unit_test(a_full_disk_in_earnest),
            cmocka_unit_test(killed_again_and_again),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
