#include "store_sql.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

#define APPLICATION_ID 1697801586 /* "e2er" */
#define BUSY_TIMEOUT_MS 5000

static const char schema[] =
        "CREATE TABLE meta(id BLOB NOT NULL);"
        "INSERT INTO meta VALUES(randomblob(16));"
        "CREATE TABLE account(account INTEGER PRIMARY KEY AUTOINCREMENT, uid BLOB NOT NULL UNIQUE,"
        " name BLOB NOT NULL UNIQUE, ak BLOB NOT NULL, created INTEGER NOT NULL);"
        "CREATE TABLE entry(account INTEGER NOT NULL, n INTEGER NOT NULL, hash BLOB NOT NULL, entry BLOB NOT "
        "NULL,"
        " PRIMARY KEY(account, n));"
        "CREATE TABLE device(dev INTEGER PRIMARY KEY AUTOINCREMENT, account INTEGER NOT NULL,"
        " address BLOB NOT NULL UNIQUE, dsk BLOB NOT NULL, rak BLOB NOT NULL);"
        "CREATE INDEX device_account ON device(account);"
        "CREATE TABLE signed_prekey(dev INTEGER PRIMARY KEY, id INTEGER NOT NULL, record BLOB NOT NULL);"
        "CREATE TABLE one_time(key INTEGER PRIMARY KEY AUTOINCREMENT, dev INTEGER NOT NULL, id INTEGER NOT "
        "NULL,"
        " record BLOB, claimed INTEGER, UNIQUE(dev, id));"
        "CREATE INDEX one_time_left ON one_time(dev) WHERE record IS NOT NULL;"
        "CREATE INDEX one_time_claimed ON one_time(claimed) WHERE record IS NULL;"
        /* key is mailbox << 36 | seq, so that a mailbox is one run of the table in the order of submission.
         */
        "CREATE TABLE mail(key INTEGER PRIMARY KEY, id BLOB NOT NULL, time INTEGER NOT NULL, expires INTEGER "
        "NOT NULL,"
        " body BLOB NOT NULL);"
        /* seq 0: acknowledged. */
        "CREATE TABLE seen(dev INTEGER NOT NULL, id BLOB NOT NULL, seq INTEGER NOT NULL, expires INTEGER NOT "
        "NULL,"
        " PRIMARY KEY(dev, id)) WITHOUT ROWID;"
        "CREATE TABLE token(hash BLOB PRIMARY KEY, uses INTEGER NOT NULL) WITHOUT ROWID;"
        "PRAGMA application_id=1697801586;"
        "PRAGMA user_version=1;";

/* NOLINTBEGIN(bugprone-suspicious-missing-comma): before a designator a missing comma is an error */
static const char *const text[SQL_STMTS] = {
        [SQL_BEGIN_READ] = "BEGIN",
        [SQL_BEGIN_WRITE] = "BEGIN IMMEDIATE",
        [SQL_COMMIT] = "COMMIT",
        [SQL_ROLLBACK] = "ROLLBACK",
        [SQL_ACCOUNT_BY_UID] = "SELECT account, uid, name, ak FROM account WHERE uid=?1",
        [SQL_ACCOUNT_BY_NAME] = "SELECT account, uid, name, ak FROM account WHERE name=?1",
        [SQL_ACCOUNT_ADD] = "INSERT INTO account(uid, name, ak, created) VALUES(?1, ?2, ?3, ?4)",
        [SQL_ACCOUNT_DELETE] = "DELETE FROM account WHERE account=?1",
        [SQL_ACCOUNT_LIST] = "SELECT name, uid FROM account WHERE name>?1 ORDER BY name LIMIT ?2",
        [SQL_ENTRY_NEWEST] = "SELECT n, hash, entry FROM entry WHERE account=?1 ORDER BY n DESC LIMIT 1",
        [SQL_ENTRY_HASH] = "SELECT hash FROM entry WHERE account=?1 AND n=?2",
        [SQL_ENTRY_ADD] = "INSERT INTO entry VALUES(?1, ?2, ?3, ?4)",
        [SQL_ENTRY_CHAIN] =
                "SELECT entry FROM (SELECT n, entry FROM entry WHERE account=?1 ORDER BY n DESC LIMIT ?2)"
                " ORDER BY n",
        [SQL_ENTRY_PRUNE] = "DELETE FROM entry WHERE account=?1 AND n<=?2",
        [SQL_DEVICE_FIND] = "SELECT dev, account, dsk, rak FROM device WHERE address=?1",
        [SQL_DEVICE_PUT] = "INSERT INTO device(account, address, dsk, rak) VALUES(?1, ?2, ?3, ?4)"
                           " ON CONFLICT(address) DO UPDATE SET dsk=excluded.dsk, rak=excluded.rak",
        [SQL_DEVICE_LIST] = "SELECT dev, address FROM device WHERE account=?1",
        [SQL_DEVICE_EXISTS] = "SELECT 1 FROM device WHERE dev=?1",
        [SQL_DEVICE_DELETE] = "DELETE FROM device WHERE dev=?1",
        [SQL_TOKEN_USE] = "UPDATE token SET uses=uses-1 WHERE hash=?1 AND uses>0",
        [SQL_SIGNED_PUT] = "INSERT OR REPLACE INTO signed_prekey VALUES(?1, ?2, ?3)",
        [SQL_SIGNED_GET] = "SELECT id, record FROM signed_prekey WHERE dev=?1",
        [SQL_SIGNED_DELETE] = "DELETE FROM signed_prekey WHERE dev=?1",
        [SQL_ONE_TIME_ADD] = "INSERT OR IGNORE INTO one_time(dev, id, record) VALUES(?1, ?2, ?3)",
        [SQL_ONE_TIME_COUNT] = "SELECT count(*) FROM one_time WHERE dev=?1 AND record IS NOT NULL",
        [SQL_ONE_TIME_NEXT] =
                "SELECT key, record FROM one_time WHERE dev=?1 AND record IS NOT NULL ORDER BY key LIMIT 1",
        [SQL_ONE_TIME_CLAIM] = "UPDATE one_time SET record=NULL, claimed=?2 WHERE key=?1",
        [SQL_ONE_TIME_DROP_UNCLAIMED] = "DELETE FROM one_time WHERE dev=?1 AND record IS NOT NULL",
        [SQL_ONE_TIME_DELETE] = "DELETE FROM one_time WHERE dev=?1",
        [SQL_ONE_TIME_FORGET] =
                "DELETE FROM one_time WHERE key IN (SELECT key FROM one_time WHERE record IS NULL"
                " AND claimed<?1 LIMIT 1000)",
        [SQL_MAIL_ADD] = "INSERT INTO mail VALUES(?1, ?2, ?3, ?4, ?5)",
        [SQL_MAIL_DELETE] = "DELETE FROM mail WHERE key=?1",
        [SQL_MAIL_DELETE_ALL] = "DELETE FROM mail WHERE key BETWEEN ?1 AND ?2",
        [SQL_MAIL_TOTAL] = "SELECT count(*), coalesce(sum(length(body)), 0), coalesce(max(key), 0) FROM mail"
                           " WHERE key BETWEEN ?1 AND ?2",
        [SQL_MAIL_SIZE] = "SELECT length(body) FROM mail WHERE key=?1",
        [SQL_MAIL_FETCH] =
                "SELECT key, id, time, expires, body FROM mail WHERE key>?1 AND key<=?2 AND expires>?3"
                " ORDER BY key LIMIT ?4",
        [SQL_SEEN_GET] = "SELECT seq FROM seen WHERE dev=?1 AND id=?2",
        [SQL_SEEN_ADD] = "INSERT INTO seen VALUES(?1, ?2, ?3, ?4)",
        [SQL_SEEN_ACKED] = "UPDATE seen SET seq=0 WHERE dev=?1 AND id=?2",
        [SQL_SEEN_DELETE] = "DELETE FROM seen WHERE dev=?1 AND id=?2",
        [SQL_SEEN_DELETE_ALL] = "DELETE FROM seen WHERE dev=?1",
        [SQL_SEEN_WALK] =
                "SELECT dev, id, seq, expires FROM seen WHERE (dev, id)>(?1, ?2) ORDER BY dev, id LIMIT ?3",
};
/* NOLINTEND(bugprone-suspicious-missing-comma) */

sqlite3_stmt *sql_use(struct sql *q, enum sql_stmt which)
{
    (void)sqlite3_reset(q->stmt[which]);
    return q->stmt[which];
}

bool sql_row(struct sql *q, sqlite3_stmt *st)
{
    int rc;

    if (q->rc)
        return false;
    rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        return true;
    if (rc != SQLITE_DONE)
        q->rc = rc;
    (void)sqlite3_reset(st);
    return false;
}

void sql_done(struct sql *q, sqlite3_stmt *st)
{
    while (sql_row(q, st))
        continue;
}

int sql_exec(struct sql *q, enum sql_stmt which)
{
    int rc;

    q->rc = 0;
    sql_done(q, sql_use(q, which));
    rc = q->rc;
    q->rc = 0;
    return rc;
}

void sql_bind_u64(sqlite3_stmt *st, int at, uint64_t v)
{
    (void)sqlite3_bind_int64(st, at, v > INT64_MAX ? INT64_MAX : (sqlite3_int64)v);
}

void sql_bind_blob(sqlite3_stmt *st, int at, const void *p, size_t n)
{
    if (n == 0)
        (void)sqlite3_bind_zeroblob(st, at, 0);
    else
        (void)sqlite3_bind_blob64(st, at, p, n, SQLITE_STATIC);
}

void sql_bind_address(sqlite3_stmt *st, int at, const struct address *a)
{
    uint8_t bytes[UID_LEN + 4];

    memcpy(bytes, a->uid, UID_LEN);
    for (size_t i = 0; i < 4; i++)
        bytes[UID_LEN + i] = (uint8_t)(a->device >> (24 - 8 * i));
    (void)sqlite3_bind_blob(st, at, bytes, (int)sizeof(bytes), SQLITE_TRANSIENT);
}

bool sql_copy(sqlite3_stmt *st, int column, void *out, size_t n)
{
    const void *p = sqlite3_column_blob(st, column);

    if (!p || (size_t)sqlite3_column_bytes(st, column) != n)
        return false;
    memcpy(out, p, n);
    return true;
}

static uint64_t column_u64(sqlite3_stmt *st, int column)
{
    return (uint64_t)sqlite3_column_int64(st, column);
}

uint64_t sql_find_device(
        struct sql *q, const struct address *a, uint64_t *ret_account, uint8_t *ret_dsk, uint8_t *ret_rak)
{
    sqlite3_stmt *st = sql_use(q, SQL_DEVICE_FIND);
    uint64_t mailbox;

    sql_bind_address(st, 1, a);
    if (!sql_row(q, st))
        return 0;
    mailbox = column_u64(st, 0);
    if (ret_account)
        *ret_account = column_u64(st, 1);
    if ((ret_dsk && !sql_copy(st, 2, ret_dsk, 32)) || (ret_rak && !sql_copy(st, 3, ret_rak, 32)))
        q->rc = SQLITE_CORRUPT;
    (void)sqlite3_reset(st);
    return mailbox;
}

static void delete_by(struct sql *q, enum sql_stmt which, uint64_t key)
{
    sqlite3_stmt *st = sql_use(q, which);

    sql_bind_u64(st, 1, key);
    sql_done(q, st);
}

static void delete_device(struct sql *q, uint64_t mailbox)
{
    sql_drop_mailbox(q, mailbox);
    delete_by(q, SQL_SEEN_DELETE_ALL, mailbox);
    delete_by(q, SQL_SIGNED_DELETE, mailbox);
    delete_by(q, SQL_ONE_TIME_DELETE, mailbox);
    delete_by(q, SQL_DEVICE_DELETE, mailbox);
}

struct device_row {
    uint64_t mailbox;
    uint8_t address[UID_LEN + 4];
};

static size_t list_devices(struct sql *q, uint64_t account, struct device_row row[ENTRY_MAX_DEVICES])
{
    sqlite3_stmt *st = sql_use(q, SQL_DEVICE_LIST);
    size_t n = 0;

    sql_bind_u64(st, 1, account);
    while (n < ENTRY_MAX_DEVICES && sql_row(q, st)) {
        row[n].mailbox = column_u64(st, 0);
        if (sql_copy(st, 1, row[n].address, sizeof(row[n].address)))
            n++;
    }
    (void)sqlite3_reset(st);
    return n;
}

static const struct entry_device *find_entry_device(const struct entry *e, uint32_t device)
{
    for (uint8_t i = 0; i < e->devices; i++) {
        if (e->device[i].device == device)
            return &e->device[i];
    }
    return NULL;
}

static void put_devices(struct sql *q, uint64_t account, const uint8_t uid[UID_LEN], const struct entry *e)
{
    struct device_row row[ENTRY_MAX_DEVICES];
    size_t n = list_devices(q, account, row);

    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = row[i].address + UID_LEN;
        uint32_t device = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];

        if (!find_entry_device(e, device))
            delete_device(q, row[i].mailbox);
    }
    for (uint8_t i = 0; i < e->devices; i++) {
        sqlite3_stmt *st = sql_use(q, SQL_DEVICE_PUT);
        struct address a = {.device = e->device[i].device};

        memcpy(a.uid, uid, UID_LEN);
        sql_bind_u64(st, 1, account);
        sql_bind_address(st, 2, &a);
        sql_bind_blob(st, 3, e->device[i].dsk, 32);
        sql_bind_blob(st, 4, e->device[i].rak, 32);
        sql_done(q, st);
    }
}

/* More of a chain than LOOKUP can show is of no use. */
#define KEEP_ENTRIES 64u

static void add_entry(struct sql *q, uint64_t account, const struct store_register *r, const struct entry *e)
{
    sqlite3_stmt *st = sql_use(q, SQL_ENTRY_ADD);

    sql_bind_u64(st, 1, account);
    sql_bind_u64(st, 2, e->n);
    sql_bind_blob(st, 3, r->hash, sizeof(r->hash));
    sql_bind_blob(st, 4, r->entry, r->entry_len);
    sql_done(q, st);
    if (e->n > KEEP_ENTRIES) {
        st = sql_use(q, SQL_ENTRY_PRUNE);
        sql_bind_u64(st, 1, account);
        sql_bind_u64(st, 2, e->n - KEEP_ENTRIES);
        sql_done(q, st);
    }
    put_devices(q, account, r->uid, e);
}

static uint64_t find_account(struct sql *q, enum sql_stmt by, const void *key, size_t n)
{
    sqlite3_stmt *st = sql_use(q, by);
    uint64_t account;

    sql_bind_blob(st, 1, key, n);
    if (!sql_row(q, st))
        return 0;
    account = column_u64(st, 0);
    (void)sqlite3_reset(st);
    return account;
}

static bool use_token(struct sql *q, const uint8_t hash[STORE_TOKEN_HASH_LEN])
{
    sqlite3_stmt *st = sql_use(q, SQL_TOKEN_USE);

    sql_bind_blob(st, 1, hash, STORE_TOKEN_HASH_LEN);
    sql_done(q, st);
    return !q->rc && sqlite3_changes(q->db) == 1;
}

static enum store_result conflict(struct store_register *r, enum store_conflict why)
{
    r->ret_conflict = why;
    return STORE_CONFLICT;
}

static enum store_result register_new(struct sql *q, struct store_register *r, const struct entry *e)
{
    sqlite3_stmt *st;

    if (r->registration == REGISTRATION_CLOSED)
        return conflict(r, STORE_CLOSED);
    if (find_account(q, SQL_ACCOUNT_BY_NAME, e->name.p, e->name.n))
        return conflict(r, STORE_NAME_TAKEN);
    if (r->registration == REGISTRATION_TOKEN && !use_token(q, r->token_hash))
        return STORE_NOENT;
    st = sql_use(q, SQL_ACCOUNT_ADD);
    sql_bind_blob(st, 1, r->uid, UID_LEN);
    sql_bind_blob(st, 2, e->name.p, e->name.n);
    sql_bind_blob(st, 3, e->ak, sizeof(e->ak));
    sql_bind_u64(st, 4, clock_now_ms());
    sql_done(q, st);
    if (!q->rc)
        add_entry(q, (uint64_t)sqlite3_last_insert_rowid(q->db), r, e);
    return STORE_OK;
}

static bool entry_known(struct sql *q, uint64_t account, uint64_t n, const uint8_t hash[32])
{
    sqlite3_stmt *st = sql_use(q, SQL_ENTRY_HASH);
    uint8_t stored[32];
    bool same;

    sql_bind_u64(st, 1, account);
    sql_bind_u64(st, 2, n);
    same = sql_row(q, st) && sql_copy(st, 0, stored, sizeof(stored)) &&
           memcmp(stored, hash, sizeof(stored)) == 0;
    (void)sqlite3_reset(st);
    return same;
}

/* A revoked device stays revoked: what an entry has revoked, its successor revokes too. */
static bool keeps_revoked(const struct entry *old, const struct entry *e)
{
    for (uint8_t i = 0; i < old->revoked; i++) {
        bool found = false;

        for (uint8_t k = 0; k < e->revoked && !found; k++)
            found = e->revoked_device[k] == old->revoked_device[i];
        if (!found)
            return false;
    }
    return true;
}

static enum store_result register_next(
        struct sql *q, uint64_t account, struct store_register *r, const struct entry *e)
{
    sqlite3_stmt *st;
    uint8_t newest_hash[32];
    struct entry newest;
    enum store_result result = STORE_OK;

    if (entry_known(q, account, e->n, r->hash))
        return STORE_DUP;
    st = sql_use(q, SQL_ENTRY_NEWEST);
    sql_bind_u64(st, 1, account);
    if (!sql_row(q, st) || !sql_copy(st, 1, newest_hash, sizeof(newest_hash)) ||
            entry_parse(sqlite3_column_blob(st, 2), (size_t)sqlite3_column_bytes(st, 2), &newest) !=
                    WIRE_OK) {
        if (!q->rc)
            q->rc = SQLITE_CORRUPT;
        return STORE_RETRY;
    }
    r->ret_newest = newest.n;
    if (e->n > newest.n + 1)
        result = conflict(r, STORE_CHAIN_GAP);
    else if (e->n <= newest.n || memcmp(e->previous, newest_hash, sizeof(newest_hash)) != 0 ||
             e->name.n != newest.name.n || memcmp(e->name.p, newest.name.p, e->name.n) != 0)
        result = conflict(r, STORE_CHAIN_FORK);
    else if (!keeps_revoked(&newest, e))
        result = conflict(r, STORE_CHAIN_REVOKED);
    (void)sqlite3_reset(st);
    if (result == STORE_OK)
        add_entry(q, account, r, e);
    return result;
}

static void do_register(struct sql *q, struct store_register *r)
{
    struct entry e;
    uint64_t account;

    if (entry_parse(r->entry, r->entry_len, &e) != WIRE_OK) {
        r->req.result = conflict(r, STORE_CHAIN_FORK);
        return;
    }
    account = find_account(q, SQL_ACCOUNT_BY_UID, r->uid, UID_LEN);
    r->req.result = account ? register_next(q, account, r, &e) : register_new(q, r, &e);
}

static uint32_t count_one_time(struct sql *q, uint64_t mailbox)
{
    sqlite3_stmt *st = sql_use(q, SQL_ONE_TIME_COUNT);
    uint32_t n = 0;

    sql_bind_u64(st, 1, mailbox);
    if (sql_row(q, st))
        n = (uint32_t)column_u64(st, 0);
    (void)sqlite3_reset(st);
    return n;
}

static uint32_t signed_prekey_id(struct sql *q, uint64_t mailbox)
{
    sqlite3_stmt *st = sql_use(q, SQL_SIGNED_GET);
    uint32_t id = 0;

    sql_bind_u64(st, 1, mailbox);
    if (sql_row(q, st))
        id = (uint32_t)column_u64(st, 0);
    (void)sqlite3_reset(st);
    return id;
}

static void do_open(struct sql *q, struct store_open_device *r)
{
    sqlite3_stmt *st = sql_use(q, SQL_ACCOUNT_BY_UID);
    struct sql_mailbox *m;
    uint64_t account = 0;

    r->req.result = STORE_NOENT;
    sql_bind_blob(st, 1, r->who.uid, UID_LEN);
    r->ret_known_account = sql_row(q, st) && sql_copy(st, 3, r->ret_ak, sizeof(r->ret_ak));
    (void)sqlite3_reset(st);
    r->ret_mailbox = sql_find_device(q, &r->who, &account, r->ret_dsk, r->ret_rak);
    if (!r->ret_known_account || !r->ret_mailbox)
        return;
    st = sql_use(q, SQL_ENTRY_NEWEST);
    sql_bind_u64(st, 1, account);
    if (sql_row(q, st))
        r->ret_list_n = column_u64(st, 0);
    (void)sqlite3_reset(st);
    r->ret_one_time_left = count_one_time(q, r->ret_mailbox);
    r->ret_signed_prekey_id = signed_prekey_id(q, r->ret_mailbox);
    m = sql_mailbox(q, r->ret_mailbox);
    if (!m)
        return;
    r->ret_waiting = m->count;
    r->ret_last_seq = m->count ? m->last_seq : 0;
    r->req.result = STORE_OK;
}

static void do_put_prekeys(struct sql *q, struct store_put_prekeys *r)
{
    uint64_t mailbox = sql_find_device(q, &r->who, NULL, NULL, NULL);
    sqlite3_stmt *st;

    r->req.result = STORE_NOENT;
    if (!mailbox)
        return;
    if (!r->keys.replace && r->keys.count &&
            count_one_time(q, mailbox) + r->keys.count > STORE_MAX_ONE_TIME) {
        r->req.result = STORE_FULL;
        return;
    }
    if (r->keys.signed_prekey.n) {
        st = sql_use(q, SQL_SIGNED_PUT);
        sql_bind_u64(st, 1, mailbox);
        sql_bind_u64(st, 2, r->signed_id);
        sql_bind_blob(st, 3, r->keys.signed_prekey.p, r->keys.signed_prekey.n);
        sql_done(q, st);
    }
    if (r->keys.replace)
        delete_by(q, SQL_ONE_TIME_DROP_UNCLAIMED, mailbox);
    for (uint16_t i = 0; i < r->keys.count; i++) {
        st = sql_use(q, SQL_ONE_TIME_ADD);
        sql_bind_u64(st, 1, mailbox);
        sql_bind_u64(st, 2, r->one_time_id[i]);
        sql_bind_blob(st, 3, r->keys.one_time[i].p, r->keys.one_time[i].n);
        sql_done(q, st);
    }
    r->ret_one_time_left = count_one_time(q, mailbox);
    r->ret_signed_prekey_id = signed_prekey_id(q, mailbox);
    r->req.result = STORE_OK;
}

static size_t take_record(sqlite3_stmt *st, int column, uint8_t out[RELAY_MAX_PREKEY])
{
    size_t n = (size_t)sqlite3_column_bytes(st, column);

    return n <= RELAY_MAX_PREKEY && sql_copy(st, column, out, n) ? n : 0;
}

static void do_claim(struct sql *q, struct store_claim *r)
{
    uint64_t mailbox = sql_find_device(q, &r->target, NULL, NULL, NULL), key = 0;
    sqlite3_stmt *st;

    r->req.result = STORE_NOENT;
    r->ret_signed_len = r->ret_one_time_len = 0;
    if (!mailbox)
        return;
    st = sql_use(q, SQL_SIGNED_GET);
    sql_bind_u64(st, 1, mailbox);
    if (sql_row(q, st))
        r->ret_signed_len = take_record(st, 1, r->ret_signed);
    (void)sqlite3_reset(st);
    if (!r->ret_signed_len)
        return;
    r->req.result = STORE_OK;
    st = sql_use(q, SQL_ONE_TIME_NEXT);
    sql_bind_u64(st, 1, mailbox);
    if (sql_row(q, st)) {
        key = column_u64(st, 0);
        r->ret_one_time_len = take_record(st, 1, r->ret_one_time);
    }
    (void)sqlite3_reset(st);
    if (!key)
        return;
    st = sql_use(q, SQL_ONE_TIME_CLAIM);
    sql_bind_u64(st, 1, key);
    sql_bind_u64(st, 2, clock_now_ms());
    sql_done(q, st);
}

static void do_unregister(struct sql *q, struct store_unregister *r)
{
    struct device_row row[ENTRY_MAX_DEVICES];
    uint64_t account = find_account(q, SQL_ACCOUNT_BY_UID, r->uid, UID_LEN);
    sqlite3_stmt *st;
    size_t n;

    r->req.result = STORE_NOENT;
    if (!account)
        return;
    n = list_devices(q, account, row);
    for (size_t i = 0; i < n; i++)
        delete_device(q, row[i].mailbox);
    st = sql_use(q, SQL_ENTRY_PRUNE);
    sql_bind_u64(st, 1, account);
    sql_bind_u64(st, 2, UINT64_MAX);
    sql_done(q, st);
    delete_by(q, SQL_ACCOUNT_DELETE, account);
    r->req.result = STORE_OK;
}

static void do_lookup(struct sql *q, struct store_lookup *r)
{
    sqlite3_stmt *st = sql_use(q, r->by.by == LOOKUP_BY_NAME ? SQL_ACCOUNT_BY_NAME : SQL_ACCOUNT_BY_UID);
    size_t at[RELAY_MAX_ENTRIES + 1], n = 0, name_len;
    uint64_t account;

    r->req.result = STORE_NOENT;
    sql_bind_blob(st, 1, r->key, r->by.key.n);
    if (!sql_row(q, st))
        return;
    account = column_u64(st, 0);
    name_len = (size_t)sqlite3_column_bytes(st, 2);
    (void)sql_copy(st, 1, r->ret_account.uid, UID_LEN);
    buf_init(&r->bytes, RELAY_MAX_NAME + RELAY_MAX_ENTRIES * (size_t)RELAY_MAX_ENTRY);
    buf_bytes(&r->bytes, sqlite3_column_blob(st, 2), name_len);
    (void)sqlite3_reset(st);
    st = sql_use(q, SQL_ENTRY_CHAIN);
    sql_bind_u64(st, 1, account);
    sql_bind_u64(st, 2, RELAY_MAX_ENTRIES);
    while (n < RELAY_MAX_ENTRIES && sql_row(q, st)) {
        at[n++] = r->bytes.len;
        buf_bytes(&r->bytes, sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0));
    }
    (void)sqlite3_reset(st);
    at[n] = r->bytes.len;
    if (buf_status(&r->bytes) || n == 0) {
        r->req.result = STORE_RETRY;
        return;
    }
    r->ret_account.found = true;
    r->ret_account.name = (struct span){r->bytes.data, name_len};
    r->ret_account.entries = (uint16_t)n;
    for (size_t i = 0; i < n; i++)
        r->ret_account.entry[i] = (struct span){r->bytes.data + at[i], at[i + 1] - at[i]};
    r->req.result = STORE_OK;
}

static void do_list(struct sql *q, struct store_list_users *r)
{
    sqlite3_stmt *st = sql_use(q, SQL_ACCOUNT_LIST);

    r->req.result = STORE_OK;
    r->ret_count = 0;
    r->ret_more = false;
    sql_bind_blob(st, 1, r->after, r->after_len);
    sql_bind_u64(st, 2, r->limit + 1u);
    while (sql_row(q, st)) {
        size_t n = (size_t)sqlite3_column_bytes(st, 0);

        if (r->ret_count == r->limit) {
            r->ret_more = true;
            break;
        }
        if (n > RELAY_MAX_NAME || !sql_copy(st, 0, r->ret_user[r->ret_count].name, n) ||
                !sql_copy(st, 1, r->ret_user[r->ret_count].uid, UID_LEN))
            continue;
        r->ret_user[r->ret_count++].name_len = (uint8_t)n;
    }
    (void)sqlite3_reset(st);
}

static void perform(struct sql *q, struct store_req *req)
{
    switch (req->op) {
    case STORE_OP_REGISTER:
        return do_register(q, (struct store_register *)req);
    case STORE_OP_OPEN:
        return do_open(q, (struct store_open_device *)req);
    case STORE_OP_PUT_PREKEYS:
        return do_put_prekeys(q, (struct store_put_prekeys *)req);
    case STORE_OP_CLAIM:
        return do_claim(q, (struct store_claim *)req);
    case STORE_OP_SUBMIT:
        return sql_submit(q, (struct store_submit_req *)req);
    case STORE_OP_ACK:
        return sql_ack(q, (struct store_ack *)req);
    case STORE_OP_UNREGISTER:
        return do_unregister(q, (struct store_unregister *)req);
    case STORE_OP_EXPIRE:
        return sql_expire(q, (struct store_expire *)req);
    case STORE_OP_LOOKUP:
        return do_lookup(q, (struct store_lookup *)req);
    case STORE_OP_LIST:
        return do_list(q, (struct store_list_users *)req);
    case STORE_OP_QUERY:
        return sql_query(q, (struct store_query *)req);
    case STORE_OP_FETCH:
        return sql_fetch(q, (struct store_fetch *)req);
    }
}

int sql_perform(struct sql *q, struct store_req *req)
{
    q->rc = 0;
    perform(q, req);
    return q->rc;
}

static int64_t pragma_value(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *st = NULL;
    int64_t v = -1;

    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        v = sqlite3_column_int64(st, 0);
    (void)sqlite3_finalize(st);
    return v;
}

static int broken(struct sql *q, const char *path, char error[STORE_ERROR_LEN])
{
    (void)snprintf(
            error, STORE_ERROR_LEN, "%.120s: %.120s", path, q->db ? sqlite3_errmsg(q->db) : "out of memory");
    return STORE_OPEN_BROKEN;
}

static int check_schema(struct sql *q, const char *path, char error[STORE_ERROR_LEN])
{
    int64_t version = pragma_value(q->db, "PRAGMA user_version");

    if (version == SQL_SCHEMA_VERSION && pragma_value(q->db, "PRAGMA application_id") == APPLICATION_ID)
        return 0;
    if (version > SQL_SCHEMA_VERSION) {
        (void)snprintf(error, STORE_ERROR_LEN,
                "%.120s: the state has schema version %lld, this program knows versions up to %d; use a "
                "newer e2ee-relay",
                path, (long long)version, SQL_SCHEMA_VERSION);
        return STORE_OPEN_NEWER;
    }
    if (version < 0)
        return broken(q, path, error);
    (void)snprintf(error, STORE_ERROR_LEN, "%.180s: not the state of an e2ee-relay", path);
    return STORE_OPEN_BROKEN;
}

static int make_schema(struct sql *q)
{
    int rc = sqlite3_exec(q->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);

    if (rc != SQLITE_OK)
        return rc;
    if (pragma_value(q->db, "PRAGMA user_version") == 0 &&
            pragma_value(q->db, "SELECT count(*) FROM sqlite_schema") == 0)
        rc = sqlite3_exec(q->db, schema, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(q->db, "COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        (void)sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

static int configure(struct sql *q, enum sql_mode mode, const struct store_options *options)
{
    char limit[64];
    int rc;

    (void)sqlite3_busy_timeout(q->db, BUSY_TIMEOUT_MS);
    if (mode == SQL_READER)
        return sqlite3_exec(q->db, "PRAGMA query_only=ON;PRAGMA cache_size=-8000", NULL, NULL, NULL);
    rc = sqlite3_exec(q->db,
            "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA secure_delete=ON;PRAGMA "
            "trusted_schema=OFF;"
            "PRAGMA cache_size=-16000;PRAGMA wal_autocheckpoint=4000;PRAGMA journal_size_limit=67108864;"
            "PRAGMA temp_store=MEMORY",
            NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = make_schema(q);
    if (rc == SQLITE_OK && options->max_pages) {
        (void)snprintf(limit, sizeof(limit), "PRAGMA max_page_count=%u", options->max_pages);
        rc = sqlite3_exec(q->db, limit, NULL, NULL, NULL);
    }
    return rc;
}

int sql_open(struct sql *q, const char *dir, enum sql_mode mode, const struct store_options *options,
        char error[STORE_ERROR_LEN])
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    char path[4096];
    int r;

    *q = (struct sql){
            .max_envelopes = options->max_envelopes ? options->max_envelopes : STORE_DEFAULT_ENVELOPES,
            .max_bytes = options->max_bytes ? options->max_bytes : STORE_DEFAULT_BYTES};
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, SQL_DATABASE) >= sizeof(path)) {
        (void)snprintf(error, STORE_ERROR_LEN, "the name of the state directory is too long");
        return STORE_OPEN_BROKEN;
    }
    if (sqlite3_open_v2(path, &q->db, mode == SQL_WRITER ? flags | SQLITE_OPEN_CREATE : flags, NULL) !=
            SQLITE_OK)
        r = broken(q, path, error);
    else if (configure(q, mode, options) != SQLITE_OK)
        r = broken(q, path, error);
    else
        r = check_schema(q, path, error);
    for (size_t i = 0; r == 0 && i < SQL_STMTS; i++) {
        if (sqlite3_prepare_v3(q->db, text[i], -1, SQLITE_PREPARE_PERSISTENT, &q->stmt[i], NULL) != SQLITE_OK)
            r = broken(q, path, error);
    }
    if (r)
        sql_close(q);
    return r;
}

void sql_close(struct sql *q)
{
    for (size_t i = 0; i < SQL_STMTS; i++)
        (void)sqlite3_finalize(q->stmt[i]);
    (void)sqlite3_close(q->db);
    free(q->mailbox);
    *q = (struct sql){0};
}
