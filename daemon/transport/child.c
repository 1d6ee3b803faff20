#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SOCKET_BUFFER (1 << 20)

int child_scheme(const char *url, char ret_scheme[TRANSPORT_MAX_SCHEME + 1])
{
    size_t n = strspn(url, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (n == 0 || n > TRANSPORT_MAX_SCHEME || url[0] == '-' || strncmp(url + n, "://", 3) != 0)
        return TRANSPORT_BAD_URL;
    if (n == 3 && memcmp(url, "wss", 3) == 0)
        n = 2;
    memcpy(ret_scheme, url, n);
    ret_scheme[n] = '\0';
    return 0;
}

static int find_program(const char *link_dir, const char *scheme, char ret_path[static PATH_MAX])
{
    const char *dirs[] = {link_dir, E2EED_LIBEXECDIR};
    int r = -ENOENT;
    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        if (!dirs[i])
            continue;
        if (snprintf(ret_path, PATH_MAX, "%s/e2eed-link-%s", dirs[i], scheme) >= PATH_MAX)
            return -ENAMETOOLONG;
        if (access(ret_path, X_OK) == 0)
            return 0;
        r = -errno;
    }
    return r;
}

static int set_actions(posix_spawn_file_actions_t *a, int fd)
{
    int r = posix_spawn_file_actions_adddup2(a, fd, LINK_FD);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(a, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(a, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
#if defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 34)
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(a, LINK_FD + 1);
#endif
#endif
    return r;
}

/* A process group of its own: an interrupt from the terminal is the daemon's to handle. */
static int set_attributes(posix_spawnattr_t *a)
{
    sigset_t none, all;
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    int r = posix_spawnattr_setsigmask(a, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(a, &all);
    if (r == 0)
        r = posix_spawnattr_setflags(
                a, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    return r;
}

static int spawn(pid_t *ret_pid, int fd, char *const argv[])
{
    char *const environment[] = {(char[]){"LC_ALL=C"}, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int r = posix_spawn_file_actions_init(&actions);
    if (r != 0)
        return -r;
    r = posix_spawnattr_init(&attributes);
    if (r == 0) {
        r = set_actions(&actions, fd);
        if (r == 0)
            r = set_attributes(&attributes);
        if (r == 0)
            r = posix_spawn(ret_pid, argv[0], &actions, &attributes, argv, environment);
        (void)posix_spawnattr_destroy(&attributes);
    }
    (void)posix_spawn_file_actions_destroy(&actions);
    return -r;
}

static int open_pair(int pair[2])
{
    const int size = SOCKET_BUFFER;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        (void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        (void)setsockopt(pair[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    }
    return 0;
}

int child_start(struct child *c, const char *link_dir, const char *url, const char *ca_file,
        char ret_path[static 4096])
{
    char scheme[TRANSPORT_MAX_SCHEME + 1], url_copy[TRANSPORT_MAX_URL + 1], ca_copy[PATH_MAX],
            option[] = "--ca-file";
    char *const with_ca[] = {ret_path, option, ca_copy, url_copy, NULL};
    char *const without[] = {ret_path, url_copy, NULL};
    int pair[2] = {-1, -1};
    if (child_scheme(url, scheme) != 0 || strlen(url) >= sizeof(url_copy) ||
            (ca_file && strlen(ca_file) >= PATH_MAX))
        return -EINVAL;
    memcpy(url_copy, url, strlen(url) + 1);
    memcpy(ca_copy, ca_file ? ca_file : "", ca_file ? strlen(ca_file) + 1 : 1);
    int r = find_program(link_dir, scheme, ret_path);
    if (r == 0)
        r = open_pair(pair);
    if (r < 0)
        return r;
    r = spawn(&c->pid, pair[1], ca_file ? with_ca : without);
    (void)close(pair[1]);
    if (r < 0) {
        (void)close(pair[0]);
        c->pid = 0;
        return r;
    }
    c->fd = pair[0];
    return 0;
}

void child_kill(const struct child *c)
{
    if (c->pid > 0)
        (void)kill(c->pid, SIGKILL);
}

void child_close(struct child *c)
{
    if (c->fd >= 0)
        (void)close(c->fd);
    c->fd = -1;
}

static bool reap(struct child *c, int *ret_status, int flags)
{
    int status = 0;
    pid_t pid;
    if (c->pid == 0)
        return true;
    do
        pid = waitpid(c->pid, &status, flags);
    while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return false;
    c->pid = 0; /* pid < 0: somebody else has reaped it */
    *ret_status = pid > 0 ? status : 0;
    return true;
}

bool child_reap(struct child *c, int *ret_status)
{
    return reap(c, ret_status, WNOHANG);
}

void child_done(struct child *c)
{
    int status;
    child_kill(c);
    child_close(c);
    (void)reap(c, &status, 0);
}
