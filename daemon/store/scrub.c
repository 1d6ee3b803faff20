#include <string.h>

#include "scrub.h"

#define VFS_NAME "e2eed-scrub"
#define PAGE_MIN 512u
#define PAGE_MAX 65536u
#define FILE_HEADER 100u

/* Lies behind the lower VFS's file object, in the same block. */
struct scrub_file {
    sqlite3_io_methods methods; /* the lower ones with other xWrite */
    int (*write_below)(sqlite3_file *, const void *, int, sqlite3_int64);
    uint8_t *copy; /* page being written; from sqlite3_malloc */
    int copy_size;
    int (*close_below)(sqlite3_file *);
};

static size_t be16(const uint8_t *p)
{
    return (size_t)p[0] << 8 | p[1];
}

void scrub_page(uint8_t *page, size_t size, int is_first)
{
    size_t at = is_first ? FILE_HEADER : 0;
    uint8_t type = page[at];
    size_t cells = be16(page + at + 3);
    size_t content = be16(page + at + 5);
    size_t start = at + (type == 2 || type == 5 ? 12 : 8) + 2 * cells;

    if (type != 2 && type != 5 && type != 10 && type != 13)
        return;
    if (content == 0)
        content = PAGE_MAX;
    if (content <= size && start < content)
        memset(page + start, 0, content - start);
}

/* Rounded up, so that what follows is aligned. */
static size_t lower_size(const sqlite3_vfs *below)
{
    return ((size_t)below->szOsFile + 15u) & ~(size_t)15u;
}

/* The first member of every sqlite3_file is its methods, and ours are the first member of scrub_file. */
static struct scrub_file *scrub_of(sqlite3_file *f)
{
    return (struct scrub_file *)(uintptr_t)f->pMethods;
}

static int make_room(struct scrub_file *s, int n)
{
    if (s->copy_size < n) {
        sqlite3_free(s->copy);
        s->copy = sqlite3_malloc(n);
        s->copy_size = s->copy ? n : 0;
    }
    return s->copy ? SQLITE_OK : SQLITE_IOERR_NOMEM;
}

static int scrub_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    struct scrub_file *s = scrub_of(f);
    int rc;

    if (n < (int)PAGE_MIN || n > (int)PAGE_MAX || (n & (n - 1)) != 0 || at % n != 0)
        return s->write_below(f, p, n, at);
    rc = make_room(s, n);
    if (rc != SQLITE_OK)
        return rc;
    memcpy(s->copy, p, (size_t)n);
    scrub_page(s->copy, (size_t)n, at == 0);
    return s->write_below(f, s->copy, n, at);
}

static int scrub_close(sqlite3_file *f)
{
    struct scrub_file *s = scrub_of(f);

    sqlite3_free(s->copy);
    return s->close_below(f);
}

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    sqlite3_vfs *below = ((struct scrub_vfs *)vfs)->below;
    struct scrub_file *s = (struct scrub_file *)(void *)((char *)f + lower_size(below));
    int rc = below->xOpen(below, name, f, flags, out_flags);

    if (rc != SQLITE_OK || !f->pMethods || !(flags & SQLITE_OPEN_MAIN_DB))
        return rc;
    *s = (struct scrub_file){.methods = *f->pMethods};
    s->write_below = s->methods.xWrite;
    s->close_below = s->methods.xClose;
    s->methods.xWrite = scrub_write;
    s->methods.xClose = scrub_close;
    f->pMethods = &s->methods;
    return SQLITE_OK;
}

int scrub_vfs_init(struct scrub_vfs *v)
{
    sqlite3_vfs *below = sqlite3_vfs_find(NULL);

    if (!below)
        return SQLITE_ERROR;
    v->below = below;
    v->vfs = *below;
    v->vfs.pNext = NULL;
    v->vfs.zName = VFS_NAME;
    v->vfs.szOsFile = (int)(lower_size(below) + sizeof(struct scrub_file));
    v->vfs.xOpen = vfs_open;
    return SQLITE_OK;
}

int scrub_open(struct scrub_vfs *v, const char *path, int flags, sqlite3 **ret_db)
{
    int rc = sqlite3_vfs_register(&v->vfs, 0);

    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_open_v2(path, ret_db, flags, VFS_NAME);
    /* The connection holds its VFS by address; the name is free for the next one. */
    (void)sqlite3_vfs_unregister(&v->vfs);
    return rc;
}
