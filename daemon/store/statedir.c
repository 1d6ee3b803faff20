#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "explain.h"
#include "statedir.h"
#include "store.h"

/* A new name is durable when its directory is. */
static int sync_parent(const char *path)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    CLEANUP_FD int fd = -1;

    memcpy(parent, path, n);
    parent[n] = '\0';
    fd = open(n > 0 ? parent : slash ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Search permission is enough for a parent that is not ours; then there is nothing to sync through. */
    if (fd < 0)
        return errno == EACCES ? 0 : -errno;
    return fsync(fd) == 0 ? 0 : -errno;
}

static int make_one(const char *path)
{
    if (mkdir(path, 0700) != 0)
        return errno == EEXIST ? 0 : -errno;
    return sync_parent(path);
}

static int make_path(const char *dir)
{
    char path[PATH_MAX];
    size_t n = strlen(dir);
    int r = 0;

    if (n == 0 || n >= sizeof(path))
        return n == 0 ? -ENOENT : -ENAMETOOLONG;
    memcpy(path, dir, n + 1);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = '\0';
    for (size_t i = 1; i < n && r == 0; i++) {
        if (path[i] != '/' || path[i - 1] == '/')
            continue;
        path[i] = '\0';
        /* Parents that exist may forbid even the attempt (read-only file systems, automounts): the last one
         * decides. */
        r = access(path, F_OK) == 0 ? 0 : make_one(path);
        path[i] = '/';
    }
    return r != 0 ? r : make_one(path);
}

static int check_owner(int fd, const char *dir, const char **ret_text)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return -errno;
    if (st.st_uid != geteuid()) {
        explain(ret_text,
                "%s belongs to user %u, but this process runs as user %u: the state directory must be your "
                "own",
                dir, (unsigned)st.st_uid, (unsigned)geteuid());
        return -EPERM;
    }
    if ((st.st_mode & 077) != 0) {
        explain(ret_text, "%s has mode %04o, which lets other users in: it must be 0700 (chmod 700 '%s')",
                dir, (unsigned)st.st_mode & 07777, dir);
        return -EPERM;
    }
    return 0;
}

static int take_lock(int dir_fd, const char *dir, int *ret_fd, const char **ret_text)
{
    CLEANUP_FD int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);

    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return -errno;
        explain(ret_text,
                "the state in %s is in use by another process: one daemon per account, stop the other one "
                "first",
                dir);
        return STORE_LOCKED;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

/*
 * SQLite would create the file with the mode that the umask leaves; its other files copy the mode of this
 * one. Only under the lock: closing a descriptor drops this process's POSIX locks on the file.
 */
static int make_database(int dir_fd, const char *dir, const char **ret_text)
{
    CLEANUP_FD int fd =
            openat(dir_fd, "state.db", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) != 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) {
        explain(ret_text, "%s/state.db is not a regular file", dir);
        return -EINVAL;
    }
    return fsync(dir_fd) == 0 ? 0 : -errno;
}

static int prepare(const char *dir, int *ret_lock_fd, const char **ret_text)
{
    CLEANUP_FD int dir_fd = -1;
    CLEANUP_FD int lock_fd = -1;
    int r = make_path(dir);

    if (r != 0)
        return r;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return -errno;
    r = check_owner(dir_fd, dir, ret_text);
    if (r == 0)
        r = take_lock(dir_fd, dir, &lock_fd, ret_text);
    if (r == 0)
        r = make_database(dir_fd, dir, ret_text);
    if (r != 0)
        return r;
    *ret_lock_fd = take_fd(&lock_fd);
    return 0;
}

int statedir_open(const char *dir, int *ret_lock_fd, const char **ret_text)
{
    const char *text = NULL;
    int r = prepare(dir, ret_lock_fd, &text);

    if (r == 0)
        return 0;
    if (text)
        *ret_text = text;
    else
        explain(ret_text, "%s: cannot use the state directory %s", strerror(-r), dir);
    return r;
}

int store_make_dir(const char *dir)
{
    return make_path(dir);
}
