/*
 * What secure_delete leaves behind. SQLite zeroes deleted cells, but when it rebuilds a page to balance a
 * tree, copies of cells that moved to another page stay in the unallocated space between the cell pointers
 * and the cells, and outlive the deletion of the record: deleted keys could be read from the file. This VFS
 * lies over the system's and zeroes that space in every page written to the database file (format:
 * https://www.sqlite.org/fileformat2.html#b_tree_pages, section 1.6).
 *
 * A page of another kind is told from a b-tree page by its first byte: it begins with a page number below
 * SCRUB_MAX_PAGES, so that this byte is 0. The connection must therefore set max_page_count to
 * SCRUB_MAX_PAGES and must not use auto_vacuum (pointer maps have no such number).
 */
#ifndef E2EE_SCRUB_H
#define E2EE_SCRUB_H

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

#define SCRUB_MAX_PAGES 0xffffffu

struct scrub_vfs {
    sqlite3_vfs vfs; /* ours; the default one with other xOpen */
    sqlite3_vfs *below;
};

/* Builds the VFS over the default one, or NULL's absence: SQLITE_OK or SQLITE_ERROR. Must outlive the
 * connections that use it. */
int scrub_vfs_init(struct scrub_vfs *v);
/* Opens a database through v. As sqlite3_open_v2(); *ret_db may be set with an error, too. */
int scrub_open(struct scrub_vfs *v, const char *path, int flags, sqlite3 **ret_db);

/*
 * Zeroes the unallocated space of one page image in place; page 1 has the file's header before its own.
 * Anything that is not a well formed b-tree page stays as it is.
 */
void scrub_page(uint8_t *page, size_t size, int is_first);

#endif
