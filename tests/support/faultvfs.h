/*
 * A disk that fails on order, below SQLite: counts what changes files (creating opens, writes, truncations,
 * syncs, deletions), fails the K-th or all from the K-th on, and keeps for every file what a power cut would
 * leave: the bytes as of the last successful sync, and what was written since. A write that fails leaves its
 * first half behind. Syncs do not reach the real disk. Creation and deletion of files count as durable at
 * once.
 *
 * One per process, one thread. Any failure of its own aborts.
 */
#ifndef E2EE_FAULTVFS_H
#define E2EE_FAULTVFS_H

#include <stdbool.h>
#include <stdint.h>

/* Becomes SQLite's default VFS; forgets plans and files of before. */
void faultvfs_install(void);
/* All databases opened meanwhile are closed. */
void faultvfs_remove(void);

/* The k-th change from now on (1 is the next) fails with error (ENOSPC or EIO); with sticky all after it,
 * too. k = 0: none. */
void faultvfs_plan(uint64_t k, bool sticky, int error);
/* Changes since the last plan. */
uint64_t faultvfs_changes(void);
/* True if the plan has struck. */
bool faultvfs_struck(void);

/* What survives of the writes after the last sync. */
enum faultvfs_loss { FAULTVFS_KEEP, FAULTVFS_DROP, FAULTVFS_RANDOM };

/* From now on nothing changes any more, so that the database can be closed; call before faultvfs_cut(). */
void faultvfs_halt(void);
/* After the close: gives the files the contents that the power cut leaves, and ends the halt and the plan. */
void faultvfs_cut(enum faultvfs_loss loss, uint64_t seed);

#endif
