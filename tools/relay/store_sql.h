/*
 * One SQLite connection with the relay's schema and its prepared statements, for one thread. Private to the
 * store.
 */
#ifndef E2EE_RELAY_STORE_SQL_H
#define E2EE_RELAY_STORE_SQL_H

#include <sqlite3.h>

#include "store.h"

#define SQL_DATABASE "relay.db"
#define SQL_SCHEMA_VERSION 1

enum sql_stmt {
    SQL_BEGIN_READ,
    SQL_BEGIN_WRITE,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_ACCOUNT_BY_UID,
    SQL_ACCOUNT_BY_NAME,
    SQL_ACCOUNT_ADD,
    SQL_ACCOUNT_DELETE,
    SQL_ACCOUNT_LIST,
    SQL_ENTRY_NEWEST,
    SQL_ENTRY_HASH,
    SQL_ENTRY_ADD,
    SQL_ENTRY_CHAIN,
    SQL_ENTRY_PRUNE,
    SQL_DEVICE_FIND,
    SQL_DEVICE_PUT,
    SQL_DEVICE_LIST,
    SQL_DEVICE_EXISTS,
    SQL_DEVICE_DELETE,
    SQL_TOKEN_USE,
    SQL_SIGNED_PUT,
    SQL_SIGNED_GET,
    SQL_SIGNED_DELETE,
    SQL_ONE_TIME_ADD,
    SQL_ONE_TIME_COUNT,
    SQL_ONE_TIME_NEXT,
    SQL_ONE_TIME_CLAIM,
    SQL_ONE_TIME_DROP_UNCLAIMED,
    SQL_ONE_TIME_DELETE,
    SQL_ONE_TIME_FORGET,
    SQL_MAIL_ADD,
    SQL_MAIL_DELETE,
    SQL_MAIL_DELETE_ALL,
    SQL_MAIL_TOTAL,
    SQL_MAIL_SIZE,
    SQL_MAIL_FETCH,
    SQL_SEEN_GET,
    SQL_SEEN_ADD,
    SQL_SEEN_ACKED,
    SQL_SEEN_DELETE,
    SQL_SEEN_DELETE_ALL,
    SQL_SEEN_WALK,
    SQL_STMTS
};

/* What the writer knows of a mailbox without asking; last_seq never goes back while the process lives. */
struct sql_mailbox {
    uint64_t bytes, last_seq;
    uint32_t count;
    bool loaded;
};

struct sql {
    sqlite3 *db;
    sqlite3_stmt *stmt[SQL_STMTS];
    int rc; /* sticky: the first SQLite error of the request, or 0 */
    uint32_t max_envelopes;
    uint64_t max_bytes;
    struct sql_mailbox *mailbox; /* by number; the writer's */
    size_t mailboxes;
    struct { /* where the housekeeping walk stands */
        uint64_t mailbox;
        uint8_t id[ENVELOPE_ID_LEN];
        uint64_t rest_until_ms;
    } walk;
};

enum sql_mode { SQL_WRITER, SQL_READER };

/* Opens (SQL_WRITER: makes and configures) the database in dir. 0, -ENOMEM, or a store_open_status with a
 * text. */
int sql_open(struct sql *q, const char *dir, enum sql_mode mode, const struct store_options *options,
        char error[STORE_ERROR_LEN]) MUST_USE;
void sql_close(struct sql *q);
/* A statement that stands alone: 0 or SQLite's error. */
int sql_exec(struct sql *q, enum sql_stmt which);
/* Performs one request inside the open transaction. 0, or an SQLite error after which the caller must roll
 * back. */
int sql_perform(struct sql *q, struct store_req *req);
/* After a rollback: the mailboxes are counted anew when they are next used. */
void sql_forget_counts(struct sql *q);

/* Shared by the two files that implement this. */
sqlite3_stmt *sql_use(struct sql *q, enum sql_stmt which);
bool sql_row(struct sql *q, sqlite3_stmt *st);  /* steps; true: a row is there */
void sql_done(struct sql *q, sqlite3_stmt *st); /* steps to the end */
void sql_bind_u64(sqlite3_stmt *st, int at, uint64_t v);
void sql_bind_blob(sqlite3_stmt *st, int at, const void *p, size_t n);
void sql_bind_address(sqlite3_stmt *st, int at, const struct address *a);
bool sql_copy(sqlite3_stmt *st, int column, void *out, size_t n); /* false: another length */
/* Number of a device's mailbox, or 0. *ret_account and the keys may be NULL. */
uint64_t sql_find_device(
        struct sql *q, const struct address *a, uint64_t *ret_account, uint8_t *ret_dsk, uint8_t *ret_rak);
struct sql_mailbox *sql_mailbox(struct sql *q, uint64_t mailbox);
void sql_drop_mailbox(struct sql *q, uint64_t mailbox);
/* The operations of store_mail.c */
void sql_submit(struct sql *q, struct store_submit_req *r);
void sql_ack(struct sql *q, struct store_ack *r);
void sql_query(struct sql *q, struct store_query *r);
void sql_fetch(struct sql *q, struct store_fetch *r);
void sql_expire(struct sql *q, struct store_expire *r);

#endif
