/*
 * The engine's world in memory: `struct port` over a skip list, with turns, snapshots and faults, for
 * scenarios. It refuses what the store refuses, with the same results. Pointers given to a visitor die with
 * the call (the sanitizer sees later use). The process aborts where memory runs out.
 */
#ifndef E2EE_MEMPORT_H
#define E2EE_MEMPORT_H

#include "base.h"
#include "port.h"

#define MEMPORT_MAX_VALUE (512u * 1024u)
#define MEMPORT_SCAN_DEPTH 2u

struct memport;
struct memport_snapshot;

struct memport *memport_new(void);
void memport_free(struct memport *mp);
/* Valid as long as mp. */
struct port memport_port(struct memport *mp);

/* Ends the turn: 0, or a planted or sticky failure, after which the turn is rolled back. */
int memport_commit(struct memport *mp) MUST_USE;
void memport_rollback(struct memport *mp);
/* True while a turn has written, or failed to. */
bool memport_dirty(const struct memport *mp);

/* The committed state, without what an open turn wrote. Belongs to the caller; may be restored more than
 * once. */
struct memport_snapshot *memport_snapshot(const struct memport *mp);
/* Replaces everything, an open turn too: what a person does who copies an old database back. */
void memport_restore(struct memport *mp, const struct memport_snapshot *snapshot);
void memport_snapshot_free(struct memport_snapshot *snapshot);

enum memport_op {
    MEMPORT_GET,
    MEMPORT_PUT,
    MEMPORT_DEL,
    MEMPORT_SCAN,
    MEMPORT_LAST,
    MEMPORT_COMMIT,
    MEMPORT_OPS
};

/*
 * The k-th call of op from now on (1 is the next) fails once with error (negative errno); k = 0 takes the
 * plan back. */
void memport_fail(struct memport *mp, enum memport_op op, uint64_t k, int error);

/* Calls since memport_new(), failed ones too; commits of empty turns are none. */
uint64_t memport_count(const struct memport *mp, enum memport_op op);
/* Records now, and the bytes of their keys and values. */
size_t memport_records(const struct memport *mp);
size_t memport_bytes(const struct memport *mp);

#endif
