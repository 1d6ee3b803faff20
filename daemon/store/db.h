/* The SQLite side of the store: opening, schema, prepared statements, and what SQLite's results mean to us.
 */
#ifndef E2EE_DB_H
#define E2EE_DB_H

#include <sqlite3.h>

#include "scrub.h"
#include "seal.h"

/* "e2ee" */
#define DB_APPLICATION_ID 0x65326565

enum db_stmt {
    DB_BEGIN,
    DB_COMMIT,
    DB_ROLLBACK,
    DB_GET,
    DB_PUT,
    DB_DEL,
    DB_LAST,
    DB_PROBE_GET,
    DB_PROBE_PUT,
    DB_SCAN, /* and STORE_SCAN_DEPTH - 1 more */
    DB_STMTS = DB_SCAN + (int)STORE_SCAN_DEPTH
};

struct db {
    sqlite3 *sql;
    sqlite3_stmt *stmt[DB_STMTS];
    struct scrub_vfs vfs;
};

/*
 * Opens the database at path, an existing file (an empty one becomes a new database, with a probe record
 * under k). STORE_NEWER, STORE_WRONG_KEY, STORE_LOCKED, STORE_CORRUPT or negative errno; then the files are
 * as they were, and db must still be closed. *ret_text explains any result but 0. db is zeroed by the caller
 * and stays where it is until db_close().
 */
int db_open(struct db *db, const char *path, const struct seal_key *k, const char **ret_text) MUST_USE;
/* Accepts a zeroed or half-open db. */
void db_close(struct db *db);

/*
 * What a result of SQLite is to us: 0 for OK, ROW and DONE; -ENOSPC, -EIO, -ENOMEM, -EBUSY, -EMSGSIZE,
 * -EACCES, -EROFS, or STORE_CORRUPT. Called next after what gave rc, while errno still tells why the system
 * refused: sqlite3_system_errno() is not set by a COMMIT that fails, and keeps older values. Failures are
 * logged with `what`.
 */
int db_result(int rc, const char *what) MUST_USE;
/* One step: SQLITE_ROW, SQLITE_DONE or an error for db_result(). */
int db_step(struct db *db, enum db_stmt which) MUST_USE;
/* Empties the WAL; SQLITE_OK or an error for db_result(). */
int db_checkpoint(struct db *db) MUST_USE;
/* Ends a statement's use, so that it keeps neither a read transaction nor a pointer. */
void db_end(struct db *db, enum db_stmt which);
/* Binds a blob that outlives the statement's use; NULL with 0 bytes is the empty one. */
int db_bind(struct db *db, enum db_stmt which, int at, const void *p, size_t n) MUST_USE;
/* The blob in a column of the current row, never NULL; STORE_CORRUPT if it is something else. Lives until the
 * next step. */
int db_column(struct db *db, enum db_stmt which, int at, const uint8_t **ret_p, size_t *ret_n) MUST_USE;
/* Reads and unseals the probe record into value; STORE_NOT_FOUND if there is none, SEAL_BROKEN is
 * STORE_WRONG_KEY. */
int db_probe_get(struct db *db, const struct seal_key *k, struct buf *value) MUST_USE;
/* Writes it, in the open transaction. */
int db_probe_put(struct db *db, const struct seal_key *k, const void *value, size_t n) MUST_USE;

#endif
