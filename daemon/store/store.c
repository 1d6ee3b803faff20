#include <errno.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "db.h"
#include "explain.h"
#include "log.h"
#include "seal.h"
#include "statedir.h"
#include "store.h"

/* A scratch buffer that one long value made larger than this is given back. */
#define SCRATCH_KEEP (64u * 1024u)
#define PROBE_LEN 16u

struct store {
    struct db db;
    struct seal_key *key;
    struct buf sealed; /* the value being put */
    int lock_fd;
    unsigned scans; /* running, inside each other */
    bool dirty;
    int failed; /* sticky result until the rollback */
};

static int open_parts(struct store *s, const char *dir, const uint8_t *key, const char **ret_text)
{
    char path[PATH_MAX];
    int r = statedir_open(dir, &s->lock_fd, ret_text);
    int n;

    if (r != 0)
        return r;
    n = snprintf(path, sizeof(path), "%s/state.db", dir);
    if (n < 0 || (size_t)n >= sizeof(path)) {
        explain(ret_text, "the path of the state directory is too long");
        return -ENAMETOOLONG;
    }
    r = seal_key_new(key, &s->key);
    if (r != 0) {
        explain(ret_text, "no memory for the storage key");
        return r;
    }
    return db_open(&s->db, path, s->key, ret_text);
}

int store_open(
        const char *dir, const uint8_t key[STORE_KEY_LEN], struct store **ret_store, const char **ret_text)
{
    struct store *s = NULL;
    int r;

    if (sodium_init() >= 0)
        s = calloc(1, sizeof(*s));
    if (!s) {
        explain(ret_text, "no memory to open the state");
        return -ENOMEM;
    }
    s->lock_fd = -1;
    buf_init(&s->sealed, STORE_MAX_VALUE + SEAL_OVERHEAD);
    r = open_parts(s, dir, key, ret_text);
    if (r != 0) {
        store_close(s);
        return r;
    }
    *ret_text = NULL;
    *ret_store = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    /* Ends an open transaction, too. */
    db_close(&s->db);
    seal_key_free(s->key);
    buf_done(&s->sealed);
    /* Last: the database is closed before anybody else may have it. */
    cleanup_close(&s->lock_fd);
    free(s);
}

/* What SQLite refused inside a transaction may have ended it: nothing may be added to it any more. */
static int outcome(struct store *s, int rc, const char *what)
{
    int r = db_result(rc, what);

    if (r != 0 && s->dirty)
        s->failed = r;
    return r;
}

static int check_key(const struct store *s, size_t key_len)
{
    if (s->failed)
        return s->failed;
    return key_len <= STORE_MAX_KEY ? 0 : -EINVAL;
}

static int begin(struct store *s)
{
    int r;

    if (s->scans > 0)
        return -EBUSY;
    if (s->dirty)
        return 0;
    s->dirty = true;
    r = outcome(s, db_step(&s->db, DB_BEGIN), "beginning a transaction");
    db_end(&s->db, DB_BEGIN);
    return r;
}

static int bind_record(struct store *s, enum db_stmt which, uint8_t map, const void *key, size_t key_len)
{
    int rc = sqlite3_bind_int(s->db.stmt[which], 1, map);

    if (rc == SQLITE_OK)
        rc = db_bind(&s->db, which, 2, key, key_len);
    return outcome(s, rc, "binding a key");
}

/* The value of the current row, unsealed. */
static int take_value(
        struct store *s, enum db_stmt which, int column, const struct seal_ad *ad, struct buf *value)
{
    const uint8_t *p;
    size_t n;
    int r = db_column(&s->db, which, column, &p, &n);

    if (r != 0)
        return r;
    r = unseal(s->key, ad, p, n, value);
    return r == SEAL_BROKEN ? STORE_CORRUPT : r;
}

static int get_row(struct store *s, const struct seal_ad *ad, struct buf *value)
{
    int rc = db_step(&s->db, DB_GET);
    int r = outcome(s, rc, "reading a record");

    if (r != 0)
        return r;
    return rc == SQLITE_ROW ? take_value(s, DB_GET, 0, ad, value) : STORE_NOT_FOUND;
}

int store_get(struct store *s, uint8_t map, const void *key, size_t key_len, struct buf *value)
{
    struct seal_ad ad;
    int r = check_key(s, key_len);

    buf_reset(value);
    if (r != 0)
        return r;
    seal_ad_record(&ad, map, key, key_len);
    r = bind_record(s, DB_GET, map, key, key_len);
    if (r == 0)
        r = get_row(s, &ad, value);
    db_end(&s->db, DB_GET);
    return r;
}

static int put_row(struct store *s, uint8_t map, const void *key, size_t key_len)
{
    int r = bind_record(s, DB_PUT, map, key, key_len);

    if (r == 0)
        r = outcome(s, db_bind(&s->db, DB_PUT, 3, s->sealed.data, s->sealed.len), "binding a value");
    if (r == 0)
        r = outcome(s, db_step(&s->db, DB_PUT), "writing a record");
    db_end(&s->db, DB_PUT);
    return r;
}

int store_put(struct store *s, uint8_t map, const void *key, size_t key_len, const void *value, size_t n)
{
    struct seal_ad ad;
    int r = check_key(s, key_len);

    if (r == 0 && n > STORE_MAX_VALUE)
        r = -EMSGSIZE;
    if (r == 0)
        r = begin(s);
    if (r != 0)
        return r;
    seal_ad_record(&ad, map, key, key_len);
    r = seal(s->key, &ad, value, n, &s->sealed);
    if (r == 0)
        r = put_row(s, map, key, key_len);
    else
        s->failed = r;
    if (s->sealed.cap > SCRATCH_KEEP)
        buf_done(&s->sealed);
    return r;
}

int store_del(struct store *s, uint8_t map, const void *key, size_t key_len)
{
    int r = check_key(s, key_len);

    if (r == 0)
        r = begin(s);
    if (r != 0)
        return r;
    r = bind_record(s, DB_DEL, map, key, key_len);
    if (r == 0)
        r = outcome(s, db_step(&s->db, DB_DEL), "deleting a record");
    db_end(&s->db, DB_DEL);
    return r;
}

struct scan {
    enum db_stmt stmt;
    uint8_t map;
    const uint8_t *prefix;
    size_t prefix_len;
    store_visit visit;
    void *ctx;
    bool done; /* behind the last key with the prefix */
};

static int visit_row(struct store *s, struct scan *scan, struct buf *value)
{
    static const uint8_t empty;
    struct seal_ad ad;
    const uint8_t *key;
    size_t key_len;
    int r = db_column(&s->db, scan->stmt, 0, &key, &key_len);

    if (r != 0)
        return r;
    if (key_len > STORE_MAX_KEY)
        return STORE_CORRUPT;
    if (key_len < scan->prefix_len ||
            (scan->prefix_len > 0 && memcmp(key, scan->prefix, scan->prefix_len) != 0)) {
        scan->done = true;
        return 0;
    }
    seal_ad_record(&ad, scan->map, key, key_len);
    r = take_value(s, scan->stmt, 1, &ad, value);
    if (r != 0)
        return r;
    return scan->visit(scan->ctx, key, key_len, value->data ? value->data : &empty, value->len);
}

static int visit_all(struct store *s, struct scan *scan)
{
    CLEANUP_BUF struct buf value;

    buf_init_secret(&value, STORE_MAX_VALUE);
    for (;;) {
        int rc = db_step(&s->db, scan->stmt);
        int r = outcome(s, rc, "reading records");
        if (r == 0 && rc == SQLITE_ROW)
            r = visit_row(s, scan, &value);
        if (r != 0 || rc == SQLITE_DONE || scan->done)
            return r;
    }
}

int store_scan(struct store *s, uint8_t map, const void *from, size_t from_len, size_t prefix_len,
        store_visit visit, void *ctx)
{
    struct scan scan = {.map = map, .prefix = from, .prefix_len = prefix_len, .visit = visit, .ctx = ctx};
    int r = check_key(s, from_len);

    if (r == 0 && prefix_len > from_len)
        r = -EINVAL;
    if (r == 0 && s->scans >= STORE_SCAN_DEPTH)
        r = -EBUSY;
    if (r != 0)
        return r;
    scan.stmt = (enum db_stmt)(DB_SCAN + s->scans);
    s->scans++;
    r = bind_record(s, scan.stmt, map, from, from_len);
    if (r == 0)
        r = visit_all(s, &scan);
    db_end(&s->db, scan.stmt);
    s->scans--;
    return r;
}

static int last_row(struct store *s, uint8_t *ret_key, size_t *ret_len)
{
    const uint8_t *key;
    size_t n;
    int rc = db_step(&s->db, DB_LAST);
    int r = outcome(s, rc, "reading the last key");

    if (r == 0 && rc != SQLITE_ROW)
        return STORE_NOT_FOUND;
    if (r == 0)
        r = db_column(&s->db, DB_LAST, 0, &key, &n);
    if (r == 0 && n > STORE_MAX_KEY)
        r = STORE_CORRUPT;
    if (r != 0)
        return r;
    memcpy(ret_key, key, n);
    *ret_len = n;
    return 0;
}

int store_last(struct store *s, uint8_t map, uint8_t ret_key[STORE_MAX_KEY], size_t *ret_len)
{
    int r = s->failed;

    if (r == 0)
        r = outcome(s, sqlite3_bind_int(s->db.stmt[DB_LAST], 1, map), "binding a map");
    if (r == 0)
        r = last_row(s, ret_key, ret_len);
    db_end(&s->db, DB_LAST);
    return r;
}

/*
 * A commit whose fsync failed may lie whole in the WAL, and a crash would bring it to life. So the WAL is
 * emptied, which also gives room back on a full disk, and begun anew by a commit of the probe record alone.
 * If the disk refuses that, too, the next commit does it.
 */
static void bury_failed_commit(struct store *s)
{
    static const uint8_t value[PROBE_LEN];
    int rc = db_checkpoint(&s->db);

    if (rc == SQLITE_OK && db_step(&s->db, DB_BEGIN) == SQLITE_DONE &&
            db_probe_put(&s->db, s->key, value, PROBE_LEN) == 0)
        rc = db_step(&s->db, DB_COMMIT);
    db_end(&s->db, DB_BEGIN);
    db_end(&s->db, DB_COMMIT);
    store_rollback(s);
    if (rc != SQLITE_DONE)
        log_warn("store-error", "the log of the failed transaction could not be emptied yet");
}

int store_commit(struct store *s)
{
    int r = s->failed;

    if (s->scans > 0)
        return -EBUSY;
    if (!s->dirty)
        return 0;
    if (r == 0) {
        r = outcome(s, db_step(&s->db, DB_COMMIT), "committing");
        db_end(&s->db, DB_COMMIT);
        if (r == 0) {
            s->dirty = false;
            return 0;
        }
    }
    store_rollback(s);
    bury_failed_commit(s);
    return r;
}

void store_rollback(struct store *s)
{
    if (s->db.sql && !sqlite3_get_autocommit(s->db.sql)) {
        /* SQLite leaves the transaction whatever the result is. */
        (void)sqlite3_step(s->db.stmt[DB_ROLLBACK]);
        db_end(&s->db, DB_ROLLBACK);
    }
    s->dirty = false;
    s->failed = 0;
}

bool store_dirty(const struct store *s)
{
    return s->dirty;
}

int store_checkpoint(struct store *s)
{
    if (s->dirty || s->scans > 0)
        return -EBUSY;
    return db_result(db_checkpoint(&s->db), "checkpoint");
}

static int write_and_read_probe(struct store *s)
{
    CLEANUP_BUF struct buf back = {.max = PROBE_LEN};
    uint8_t value[PROBE_LEN];
    int r = begin(s);

    randombytes_buf(value, sizeof(value));
    if (r == 0)
        r = db_probe_put(&s->db, s->key, value, sizeof(value));
    if (r == 0)
        r = db_probe_get(&s->db, s->key, &back);
    if (r == 0 && (back.len != sizeof(value) || memcmp(back.data, value, sizeof(value)) != 0))
        r = STORE_CORRUPT;
    return r == STORE_NOT_FOUND || r == STORE_WRONG_KEY ? STORE_CORRUPT : r;
}

int store_probe(struct store *s)
{
    bool turn = s->dirty;
    int r = s->failed;

    if (r == 0 && s->scans > 0)
        r = -EBUSY;
    if (r != 0)
        return r;
    r = write_and_read_probe(s);
    if (turn) {
        s->failed = r;
        return r;
    }
    if (r == 0)
        return store_commit(s);
    store_rollback(s);
    return r;
}
