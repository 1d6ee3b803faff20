#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "db.h"
#include "explain.h"
#include "log.h"

#define PROBE_TEXT "e2eed state"
/* SQLite's own memory: over this it gives back cached pages. The page cache takes 1 MiB of it. */
#define HEAP_SOFT_LIMIT (INT64_C(2) << 20)
/* A whole record as SQLite sees it. */
#define RECORD_MAX ((int)(STORE_MAX_VALUE + SEAL_OVERHEAD + STORE_MAX_KEY + 64u))
#define BUSY_TIMEOUT_MS 1000

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/*
 * Holds for the connection; writes nothing. Exclusive locking before the first access keeps the WAL's index
 * in our heap instead of a shared file. The checkpoint's threshold is 8 MiB.
 */
static const char settings[] = "PRAGMA locking_mode=EXCLUSIVE;"
                               "PRAGMA synchronous=FULL;"
                               "PRAGMA secure_delete=ON;"
                               "PRAGMA temp_store=MEMORY;"
                               "PRAGMA mmap_size=0;"
                               "PRAGMA cache_size=-1024;"
                               "PRAGMA cell_size_check=ON;"
                               "PRAGMA trusted_schema=OFF;"
                               "PRAGMA wal_autocheckpoint=2000;"
                               "PRAGMA journal_size_limit=8388608;"
                               "PRAGMA max_page_count=16777215;";
_Static_assert(SCRUB_MAX_PAGES == 16777215, "as the settings say");

/*
 * With rowids: records are appended whatever their keys are, only the index sees the order of the keys; and a
 * leaf holds values of up to 4,000 bytes, where a table without rowids sends all over 1,000 to pages of their
 * own.
 */
static const char schema[] =
        "CREATE TABLE kv(map INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY(map, "
        "key));"
        "CREATE TABLE probe(id INTEGER PRIMARY KEY CHECK(id = 1), value BLOB NOT NULL);"
        "PRAGMA application_id=" TEXT(DB_APPLICATION_ID) ";"
                                                         "PRAGMA user_version=" TEXT(STORE_SCHEMA) ";";

static const char scan_sql[] = "SELECT key, value FROM kv WHERE map=?1 AND key>=?2 ORDER BY key";

static const char *const statements[DB_SCAN] = {
        [DB_BEGIN] = "BEGIN IMMEDIATE",
        [DB_COMMIT] = "COMMIT",
        [DB_ROLLBACK] = "ROLLBACK",
        [DB_GET] = "SELECT value FROM kv WHERE map=?1 AND key=?2",
        [DB_PUT] =
                "INSERT INTO kv VALUES(?1, ?2, ?3) ON CONFLICT(map, key) DO UPDATE SET value=excluded.value",
        [DB_DEL] = "DELETE FROM kv WHERE map=?1 AND key=?2",
        [DB_LAST] = "SELECT key FROM kv WHERE map=?1 ORDER BY key DESC LIMIT 1",
        [DB_PROBE_GET] = "SELECT value FROM probe WHERE id=1",
        [DB_PROBE_PUT] = "INSERT INTO probe VALUES(1, ?1) ON CONFLICT(id) DO UPDATE SET value=excluded.value",
};

/* A file that may not grow (quota, size limit) is a full disk to us. */
static bool out_of_space(int system_error)
{
    return system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG;
}

static int meaning(int rc, int system_error)
{
    if (rc == SQLITE_IOERR_NOMEM)
        return -ENOMEM;
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_IOERR:
        return out_of_space(system_error) ? -ENOSPC : -EIO;
    case SQLITE_CANTOPEN:
        return out_of_space(system_error) ? -ENOSPC : system_error > 0 ? -system_error : -EIO;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return STORE_CORRUPT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_TOOBIG:
        return -EMSGSIZE;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_READONLY:
        return -EROFS;
    default:
        return -EIO;
    }
}

int db_result(int rc, const char *what)
{
    int system_error = errno;
    int r = meaning(rc, system_error);

    if (r != 0)
        log_warn("store-error", "%s: %s (SQLite %d, system error %d)", what, sqlite3_errstr(rc), rc,
                system_error);
    return r;
}

static int run(struct db *db, const char *sql, const char *what)
{
    errno = 0;
    return db_result(sqlite3_exec(db->sql, sql, NULL, NULL, NULL), what);
}

static int read_number(struct db *db, const char *sql, sqlite3_int64 *ret_n)
{
    sqlite3_stmt *st = NULL;
    int rc;
    int r;

    errno = 0;
    rc = sqlite3_prepare_v2(db->sql, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    r = db_result(rc, sql);
    if (rc == SQLITE_ROW)
        *ret_n = sqlite3_column_int64(st, 0);
    (void)sqlite3_finalize(st);
    return r;
}

static int prepare(struct db *db)
{
    for (int i = 0; i < DB_STMTS; i++) {
        const char *sql = i < DB_SCAN ? statements[i] : scan_sql;
        int rc = sqlite3_prepare_v3(db->sql, sql, -1, SQLITE_PREPARE_PERSISTENT, &db->stmt[i], NULL);
        if (rc != SQLITE_OK)
            return db_result(rc, "preparing a statement");
    }
    return 0;
}

int db_step(struct db *db, enum db_stmt which)
{
    errno = 0;
    return sqlite3_step(db->stmt[which]);
}

int db_checkpoint(struct db *db)
{
    errno = 0;
    return sqlite3_wal_checkpoint_v2(db->sql, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}

void db_end(struct db *db, enum db_stmt which)
{
    (void)sqlite3_reset(db->stmt[which]);
    (void)sqlite3_clear_bindings(db->stmt[which]);
}

int db_bind(struct db *db, enum db_stmt which, int at, const void *p, size_t n)
{
    return sqlite3_bind_blob64(db->stmt[which], at, n > 0 ? p : "", n, SQLITE_STATIC);
}

int db_column(struct db *db, enum db_stmt which, int at, const uint8_t **ret_p, size_t *ret_n)
{
    static const uint8_t empty;
    const uint8_t *p;
    size_t n;

    if (sqlite3_column_type(db->stmt[which], at) != SQLITE_BLOB)
        return STORE_CORRUPT;
    p = sqlite3_column_blob(db->stmt[which], at);
    n = (size_t)sqlite3_column_bytes(db->stmt[which], at);
    if (!p && n > 0)
        return -ENOMEM;
    if (!p && sqlite3_errcode(db->sql) == SQLITE_NOMEM)
        return -ENOMEM;
    *ret_p = p ? p : &empty;
    *ret_n = n;
    return 0;
}

int db_probe_get(struct db *db, const struct seal_key *k, struct buf *value)
{
    struct seal_ad ad;
    const uint8_t *p;
    size_t n;
    int rc = db_step(db, DB_PROBE_GET);
    int r = db_result(rc, "reading the probe record");

    if (r == 0 && rc != SQLITE_ROW)
        r = STORE_NOT_FOUND;
    if (r == 0)
        r = db_column(db, DB_PROBE_GET, 0, &p, &n);
    if (r == 0) {
        seal_ad_probe(&ad);
        r = unseal(k, &ad, p, n, value);
        if (r == SEAL_BROKEN)
            r = STORE_WRONG_KEY;
    }
    db_end(db, DB_PROBE_GET);
    return r;
}

int db_probe_put(struct db *db, const struct seal_key *k, const void *value, size_t n)
{
    CLEANUP_BUF struct buf sealed = {.max = SEAL_OVERHEAD + 64};
    struct seal_ad ad;
    int r;

    seal_ad_probe(&ad);
    r = seal(k, &ad, value, n, &sealed);
    if (r != 0)
        return r;
    r = db_result(db_bind(db, DB_PROBE_PUT, 1, sealed.data, sealed.len), "binding the probe record");
    if (r == 0)
        r = db_result(db_step(db, DB_PROBE_PUT), "writing the probe record");
    db_end(db, DB_PROBE_PUT);
    return r;
}

/* Checkpoints on close only once the database is known to be ours. */
static int allow_checkpoint(struct db *db, bool allow)
{
    return db_result(
            sqlite3_db_config(db->sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !allow, NULL), "setting up");
}

static int connect_file(struct db *db, const char *path)
{
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
    int r;

    errno = 0;
    r = db_result(scrub_vfs_init(&db->vfs), "finding the VFS");
    if (r == 0)
        r = db_result(scrub_open(&db->vfs, path, flags, &db->sql), "opening the database");
    if (r != 0)
        return r;
    (void)sqlite3_extended_result_codes(db->sql, 1);
    (void)sqlite3_busy_timeout(db->sql, BUSY_TIMEOUT_MS);
    (void)sqlite3_limit(db->sql, SQLITE_LIMIT_LENGTH, RECORD_MAX);
    (void)sqlite3_soft_heap_limit64(HEAP_SOFT_LIMIT);
    r = allow_checkpoint(db, false);
    return r == 0 ? run(db, settings, "setting up") : r;
}

enum age { AGE_NEW, AGE_OURS };

static int identify(struct db *db, const char *path, enum age *ret_age, const char **ret_text)
{
    sqlite3_int64 version = 0;
    sqlite3_int64 id = 0;
    sqlite3_int64 tables = 0;
    int r = read_number(db, "SELECT count(*) FROM sqlite_master", &tables);

    if (r == 0)
        r = read_number(db, "PRAGMA user_version", &version);
    if (r == 0)
        r = read_number(db, "PRAGMA application_id", &id);
    if (r != 0)
        return r;
    if (tables == 0 && version == 0 && id == 0) {
        *ret_age = AGE_NEW;
        return 0;
    }
    if (id == DB_APPLICATION_ID && version > STORE_SCHEMA) {
        explain(ret_text,
                "%s was written by a newer e2eed (state version %lld, this one, %s, knows up to %d): run "
                "that release "
                "or a later one, or restore the state as it was before the upgrade",
                path, (long long)version, E2EED_VERSION, STORE_SCHEMA);
        return STORE_NEWER;
    }
    if (id != DB_APPLICATION_ID || version != STORE_SCHEMA) {
        explain(ret_text, "%s is a database, but not one of e2eed's: move it away or restore the right one",
                path);
        return STORE_CORRUPT;
    }
    *ret_age = AGE_OURS;
    return 0;
}

static int create(struct db *db, const struct seal_key *k)
{
    int r = run(db, "PRAGMA page_size=4096; PRAGMA auto_vacuum=NONE; PRAGMA journal_mode=WAL;",
            "creating the database");

    if (r == 0)
        r = run(db, "BEGIN IMMEDIATE", "creating the database");
    if (r == 0)
        r = run(db, schema, "creating the tables");
    if (r == 0)
        r = prepare(db);
    if (r == 0)
        r = db_probe_put(db, k, PROBE_TEXT, sizeof(PROBE_TEXT));
    return r == 0 ? run(db, "COMMIT", "creating the database") : r;
}

static int check_key(struct db *db, const char *path, const struct seal_key *k, const char **ret_text)
{
    CLEANUP_BUF struct buf value = {.max = 64};
    int r = prepare(db);

    if (r == 0)
        r = db_probe_get(db, k, &value);
    if (r == STORE_WRONG_KEY)
        explain(ret_text,
                "the storage key does not open %s: give the key that it was created with (nothing was "
                "changed)",
                path);
    return r == STORE_NOT_FOUND ? STORE_CORRUPT : r;
}

/* The mode is a property of the file; a copy made by other tools may have lost it. */
static int check_wal(struct db *db)
{
    sqlite3_stmt *st = NULL;
    int rc;
    int r;

    errno = 0;
    rc = sqlite3_prepare_v2(db->sql, "PRAGMA journal_mode=WAL", -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    r = db_result(rc, "setting the journal mode");
    if (r == 0 && (rc != SQLITE_ROW || sqlite3_stricmp((const char *)sqlite3_column_text(st, 0), "wal") != 0))
        r = -EIO;
    (void)sqlite3_finalize(st);
    return r;
}

static int open_checked(struct db *db, const char *path, const struct seal_key *k, const char **ret_text)
{
    enum age age = AGE_NEW;
    int r = connect_file(db, path);

    if (r == 0)
        r = identify(db, path, &age, ret_text);
    if (r == 0)
        r = age == AGE_NEW ? create(db, k) : check_key(db, path, k, ret_text);
    if (r == 0)
        r = check_wal(db);
    return r == 0 ? allow_checkpoint(db, true) : r;
}

int db_open(struct db *db, const char *path, const struct seal_key *k, const char **ret_text)
{
    const char *text = NULL;
    int r = open_checked(db, path, k, &text);

    if (r == 0)
        return 0;
    if (r == -EBUSY) {
        explain(&text, "%s is in use by another process: stop the program that has it open", path);
        r = STORE_LOCKED;
    } else if (r == STORE_CORRUPT && !text) {
        explain(&text, "%s is damaged: restore a copy of it, or move it away to begin anew", path);
    } else if (!text) {
        explain(&text, "cannot open %s: %s", path, r < 0 ? strerror(-r) : "unknown result");
    }
    *ret_text = text;
    return r;
}

void db_close(struct db *db)
{
    for (int i = 0; i < DB_STMTS; i++) {
        (void)sqlite3_finalize(db->stmt[i]);
        db->stmt[i] = NULL;
    }
    (void)sqlite3_close(db->sql);
    db->sql = NULL;
}
