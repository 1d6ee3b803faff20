#include "faultvfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMAGES 8

/* A write, or a truncation (data NULL, at the new size). */
struct change {
    struct change *next;
    uint8_t *data;
    size_t n;
    size_t at;
};

struct image {
    char *path; /* NULL: free */
    uint8_t *durable;
    size_t size;
    struct change *first;
    struct change **end;
};

struct fault_file {
    sqlite3_file base;
    struct image *image; /* NULL: a temporary file */
    sqlite3_file *real;
};

static struct {
    sqlite3_vfs vfs;
    sqlite3_vfs *below;
    struct image images[IMAGES];
    uint64_t changes;
    uint64_t strike_at;
    bool sticky;
    bool halted;
    int error;
} disk;

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static void drop_changes(struct image *image)
{
    while (image->first) {
        struct change *c = image->first;
        image->first = c->next;
        free(c->data);
        free(c);
    }
    image->end = &image->first;
}

static void drop_image(struct image *image)
{
    drop_changes(image);
    free(image->path);
    free(image->durable);
    *image = (struct image){0};
}

static struct image *find_image(const char *path)
{
    for (int i = 0; i < IMAGES; i++) {
        if (disk.images[i].path && strcmp(disk.images[i].path, path) == 0)
            return &disk.images[i];
    }
    return NULL;
}

static void load(struct image *image)
{
    FILE *f = fopen(image->path, "rbe");
    long size = -1;

    if (!f || fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0)
        abort();
    rewind(f);
    image->durable = must(malloc((size_t)size + 1));
    image->size = fread(image->durable, 1, (size_t)size, f);
    (void)fclose(f);
}

static struct image *get_image(const char *path)
{
    struct image *image = find_image(path);

    for (int i = 0; !image && i < IMAGES; i++) {
        if (!disk.images[i].path)
            image = &disk.images[i];
    }
    if (!image)
        abort();
    if (!image->path) {
        image->path = must(strdup(path));
        image->end = &image->first;
        load(image);
    }
    return image;
}

static void resize(struct image *image, size_t size)
{
    image->durable = must(realloc(image->durable, size + 1));
    if (size > image->size)
        memset(image->durable + image->size, 0, size - image->size);
    image->size = size;
}

static void apply(struct image *image, const struct change *c)
{
    if (!c->data) {
        resize(image, c->at);
        return;
    }
    if (c->at + c->n > image->size)
        resize(image, c->at + c->n);
    memcpy(image->durable + c->at, c->data, c->n);
}

static void record(struct image *image, const void *p, size_t n, size_t at)
{
    struct change *c;

    if (!image)
        return;
    c = must(calloc(1, sizeof(*c)));
    c->at = at;
    c->n = n;
    if (p) {
        c->data = must(malloc(n + 1));
        memcpy(c->data, p, n);
    }
    *image->end = c;
    image->end = &c->next;
}

/* Counts a change; true if it must fail. */
static bool strike(void)
{
    if (disk.halted) {
        errno = EIO;
        return true;
    }
    disk.changes++;
    if (disk.strike_at == 0 || disk.changes < disk.strike_at)
        return false;
    if (disk.changes > disk.strike_at && !disk.sticky)
        return false;
    errno = disk.error;
    return true;
}

static struct fault_file *fault_of(sqlite3_file *f)
{
    return (struct fault_file *)(void *)f;
}

static int fault_close(sqlite3_file *f)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xClose(real);
}

static int fault_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xRead(real, p, n, at);
}

static int write_through(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    sqlite3_file *real = fault_of(f)->real;

    record(fault_of(f)->image, p, (size_t)n, (size_t)at);
    return real->pMethods->xWrite(real, p, n, at);
}

static int fault_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    if (!strike())
        return write_through(f, p, n, at);
    if (!disk.halted && n > 1)
        (void)write_through(f, p, n / 2, at);
    errno = disk.error;
    return disk.error == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int fault_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    sqlite3_file *real = fault_of(f)->real;

    if (strike())
        return SQLITE_IOERR_TRUNCATE;
    record(fault_of(f)->image, NULL, 0, (size_t)size);
    return real->pMethods->xTruncate(real, size);
}

static int fault_sync(sqlite3_file *f, int flags)
{
    struct image *image = fault_of(f)->image;

    (void)flags;
    if (strike())
        return SQLITE_IOERR_FSYNC;
    if (!image)
        return SQLITE_OK;
    for (const struct change *c = image->first; c; c = c->next)
        apply(image, c);
    drop_changes(image);
    return SQLITE_OK;
}

static int fault_size(sqlite3_file *f, sqlite3_int64 *size)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xFileSize(real, size);
}

static int fault_lock(sqlite3_file *f, int level)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xLock(real, level);
}

static int fault_unlock(sqlite3_file *f, int level)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xUnlock(real, level);
}

static int fault_reserved(sqlite3_file *f, int *out)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xCheckReservedLock(real, out);
}

/* Nothing that would let SQLite write past us. */
static int fault_control(sqlite3_file *f, int op, void *arg)
{
    (void)f;
    (void)op;
    (void)arg;
    return SQLITE_NOTFOUND;
}

static int fault_sector(sqlite3_file *f)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xSectorSize(real);
}

static int fault_device(sqlite3_file *f)
{
    sqlite3_file *real = fault_of(f)->real;

    return real->pMethods->xDeviceCharacteristics(real);
}

/* Version 1: no shared memory, no mapping. */
static const sqlite3_io_methods methods = {
        .iVersion = 1,
        .xClose = fault_close,
        .xRead = fault_read,
        .xWrite = fault_write,
        .xTruncate = fault_truncate,
        .xSync = fault_sync,
        .xFileSize = fault_size,
        .xLock = fault_lock,
        .xUnlock = fault_unlock,
        .xCheckReservedLock = fault_reserved,
        .xFileControl = fault_control,
        .xSectorSize = fault_sector,
        .xDeviceCharacteristics = fault_device,
};

static int fault_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
    struct fault_file *file = fault_of(f);
    int rc;

    (void)vfs;
    file->base.pMethods = NULL;
    file->real = (sqlite3_file *)(void *)(file + 1);
    if ((flags & SQLITE_OPEN_CREATE) && name && access(name, F_OK) != 0 && strike())
        return SQLITE_CANTOPEN;
    rc = disk.below->xOpen(disk.below, name, file->real, flags, out_flags);
    if (rc != SQLITE_OK)
        return rc;
    file->image = name ? get_image(name) : NULL;
    file->base.pMethods = &methods;
    return SQLITE_OK;
}

static int fault_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
    struct image *image = find_image(name);

    (void)vfs;
    (void)sync_dir;
    if (strike())
        return SQLITE_IOERR_DELETE;
    if (image)
        drop_image(image);
    return disk.below->xDelete(disk.below, name, 0);
}

static int fault_last_error(sqlite3_vfs *vfs, int n, char *out)
{
    (void)vfs;
    (void)n;
    (void)out;
    return errno;
}

void faultvfs_install(void)
{
    /* Left by a test that failed. */
    if (disk.below && sqlite3_vfs_find(NULL) == &disk.vfs)
        faultvfs_remove();
    disk.below = sqlite3_vfs_find(NULL);
    disk.vfs = *(sqlite3_vfs *)must(disk.below);
    disk.vfs.pNext = NULL;
    disk.vfs.zName = "e2eed-fault";
    disk.vfs.szOsFile = (int)sizeof(struct fault_file) + disk.below->szOsFile;
    disk.vfs.xOpen = fault_open;
    disk.vfs.xDelete = fault_delete;
    disk.vfs.xGetLastError = fault_last_error;
    disk.halted = false;
    faultvfs_plan(0, false, 0);
    if (sqlite3_vfs_register(&disk.vfs, 1) != SQLITE_OK)
        abort();
}

void faultvfs_remove(void)
{
    for (int i = 0; i < IMAGES; i++) {
        if (disk.images[i].path)
            drop_image(&disk.images[i]);
    }
    (void)sqlite3_vfs_unregister(&disk.vfs);
    (void)sqlite3_vfs_register(disk.below, 1);
}

void faultvfs_plan(uint64_t k, bool sticky, int error)
{
    disk.changes = 0;
    disk.strike_at = k;
    disk.sticky = sticky;
    disk.error = error;
}

uint64_t faultvfs_changes(void)
{
    return disk.changes;
}

bool faultvfs_struck(void)
{
    return disk.strike_at > 0 && disk.changes >= disk.strike_at;
}

void faultvfs_halt(void)
{
    disk.halted = true;
    disk.error = EIO;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *seed)
{
    uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void write_image(const struct image *image)
{
    FILE *f = fopen(image->path, "wbe");

    if (!f || fwrite(image->durable, 1, image->size, f) != image->size || fclose(f) != 0)
        abort();
}

void faultvfs_cut(enum faultvfs_loss loss, uint64_t seed)
{
    for (int i = 0; i < IMAGES; i++) {
        struct image *image = &disk.images[i];
        if (!image->path)
            continue;
        for (const struct change *c = image->first; c; c = c->next) {
            if (loss == FAULTVFS_KEEP || (loss == FAULTVFS_RANDOM && (next_random(&seed) & 1)))
                apply(image, c);
        }
        write_image(image);
        drop_image(image);
    }
    disk.halted = false;
    faultvfs_plan(0, false, 0);
}
