#include "scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

char *scratch_new(void)
{
    const char *base = getenv("TMPDIR");
    char path[PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/e2eed-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void scratch_free(char *dir)
{
    assert_int_equal(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(dir);
}

const char *scratch_path(const char *dir, const char *name)
{
    static char paths[4][PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 4];

    (void)snprintf(path, PATH_MAX, "%s/%s", dir, name);
    return path;
}

uint8_t *scratch_read(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rbe");
    long long size = scratch_size(path);
    uint8_t *p = malloc((size_t)size + 1);

    assert_non_null(f);
    assert_non_null(p);
    *ret_n = fread(p, 1, (size_t)size, f);
    assert_int_equal(*ret_n, size);
    p[size] = 0;
    (void)fclose(f);
    return p;
}

void scratch_write(const char *path, const void *p, size_t n, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(write(fd, p, n), n);
    assert_int_equal(close(fd), 0);
}

long long scratch_size(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? (long long)st.st_size : -1;
}

static int is_file(const struct dirent *entry)
{
    return entry->d_type == DT_REG;
}

typedef void (*file_visit)(void *ctx, const char *name, const uint8_t *p, size_t n);

static void each_file(const char *dir, file_visit visit, void *ctx)
{
    struct dirent **names = NULL;
    int count = scandir(dir, &names, is_file, alphasort);

    assert_true(count >= 0);
    for (int i = 0; i < count; i++) {
        size_t n;
        uint8_t *p = scratch_read(scratch_path(dir, names[i]->d_name), &n);
        visit(ctx, names[i]->d_name, p, n);
        free(p);
        free(names[i]);
    }
    free(names);
}

static void digest_file(void *ctx, const char *name, const uint8_t *p, size_t n)
{
    uint64_t size = n;

    if (n == 0)
        return;
    (void)crypto_generichash_update(ctx, (const uint8_t *)name, strlen(name) + 1);
    (void)crypto_generichash_update(ctx, (const uint8_t *)&size, sizeof(size));
    (void)crypto_generichash_update(ctx, p, n);
}

void scratch_digest(const char *dir, uint8_t ret_digest[SCRATCH_DIGEST_LEN])
{
    crypto_generichash_state state;

    (void)crypto_generichash_init(&state, NULL, 0, SCRATCH_DIGEST_LEN);
    each_file(dir, digest_file, &state);
    (void)crypto_generichash_final(&state, ret_digest, SCRATCH_DIGEST_LEN);
}

struct search {
    const void *needle;
    size_t n;
    bool found;
};

static void search_file(void *ctx, const char *name, const uint8_t *p, size_t n)
{
    struct search *search = ctx;

    (void)name;
    search->found = search->found || memmem(p, n, search->needle, search->n) != NULL;
}

bool scratch_contains(const char *dir, const void *needle, size_t n)
{
    struct search search = {.needle = needle, .n = n};

    each_file(dir, search_file, &search);
    return search.found;
}
