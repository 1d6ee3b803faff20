#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "internal.h"
#include "log.h"

#define LOCK_TRIES 100u
#define LOCK_WAIT_US 10000u

bool listener_allows(const struct ipc *ipc, uid_t uid)
{
    if (uid == geteuid())
        return true;
    for (size_t i = 0; i < ipc->n_uids; i++)
        if (ipc->uids[i] == uid)
            return true;
    return false;
}

static void pause_accept(struct ipc *ipc)
{
    static const struct timeval pause = {.tv_sec = IPC_ACCEPT_PAUSE_MS / 1000};

    log_warn("ipc-full", "no connections are accepted for %u ms: %s", IPC_ACCEPT_PAUSE_MS, strerror(errno));
    (void)event_del(&ipc->accept_event);
    ipc->accepting = false;
    (void)event_add(&ipc->accept_timer, &pause);
}

void listener_resume(struct ipc *ipc)
{
    if (ipc->fd < 0 || ipc->accepting)
        return;
    ipc->accepting = event_add(&ipc->accept_event, NULL) == 0;
    if (ipc->accepting)
        (void)event_del(&ipc->accept_timer);
}

void listener_take(struct ipc *ipc, int fd)
{
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t len = sizeof(peer);
    int r;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || !listener_allows(ipc, peer.uid)) {
        log_notice("ipc-refused", "a connection of uid %ld was refused", (long)(int)peer.uid);
        (void)close(fd);
        return;
    }
    if (ipc->n_clients >= IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS)
        r = -EMFILE;
    else
        r = client_new(ipc, fd, peer.uid, ipc->n_clients >= IPC_MAX_CLIENTS);
    if (r < 0) {
        log_warn("ipc-refused", "a connection was refused: %s (%zu clients)", strerror(-r), ipc->n_clients);
        (void)close(fd);
    }
}

static bool out_of_resources(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void on_connection(evutil_socket_t fd, short what, void *arg)
{
    struct ipc *ipc = arg;
    int peer;

    (void)what;
    for (unsigned i = 0; i < IPC_ACCEPT_BATCH; i++) {
        peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (peer >= 0)
            listener_take(ipc, peer);
        else if (out_of_resources(errno)) {
            pause_accept(ipc);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    listener_resume(arg);
}

static int socket_int_option(int fd, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);

    return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

static int check_inherited(int fd)
{
    if (socket_int_option(fd, SO_DOMAIN) != AF_UNIX || socket_int_option(fd, SO_TYPE) != SOCK_STREAM ||
            socket_int_option(fd, SO_ACCEPTCONN) != 1) {
        log_error("ipc-socket", "the inherited descriptor %d is not a listening Unix stream socket", fd);
        return -EINVAL;
    }
    return evutil_make_socket_nonblocking(fd) < 0 || evutil_make_socket_closeonexec(fd) < 0 ? -errno : 0;
}

/* The directory of path, made if it is missing, in mode 0700. Others may only write there if the directory is
 * sticky. */
static int open_directory(const char *path, int *ret_fd)
{
    CLEANUP_FREE char *dir = ipc_strdup(path);
    CLEANUP_FD int fd = -1;
    struct stat st;
    char *slash;

    if (!dir)
        return -ENOMEM;
    slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    if (slash && mkdir(dir, 0700) < 0 && errno != EEXIST)
        return -errno;
    fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if ((st.st_uid != geteuid() && st.st_uid != 0) || ((st.st_mode & 022) && !(st.st_mode & S_ISVTX))) {
        log_error("ipc-socket",
                "the directory of %s may be written by others; it must be yours with mode 0700", path);
        return -EPERM;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

/* Two daemons must not take the same stale path for free at once. The lock ends with the descriptor. */
static int lock_directory(int fd)
{
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        (void)usleep(LOCK_WAIT_US);
    }
    return -EBUSY;
}

/* Removes the socket file if nobody listens on it any more. */
static int remove_stale(const struct sockaddr_un *address)
{
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (lstat(address->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) {
        log_error("ipc-socket", "%s exists and is not a socket", address->sun_path);
        return -EEXIST;
    }
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno != ECONNREFUSED) {
        log_error("ipc-socket", "another daemon listens on %s", address->sun_path);
        return -EADDRINUSE;
    }
    return unlink(address->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

/* Where others are let in by uid, the file must let them connect; their credentials are checked at accept. */
static int bind_with_mode(int fd, const struct sockaddr_un *address, mode_t mode)
{
    mode_t mask;
    int r;

    mask = umask(~mode & 0777);
    r = bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
    (void)umask(mask);
    return r;
}

static int listen_at(struct ipc *ipc, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP_FD int dir = -1;
    struct stat st;
    int r;

    if (!path || !path[0] || strlen(path) >= sizeof(address.sun_path)) {
        log_error("ipc-socket", "a socket path has 1 to %zu bytes", sizeof(address.sun_path) - 1);
        return path && path[0] ? -ENAMETOOLONG : -EINVAL;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    r = open_directory(path, &dir);
    if (r == 0)
        r = lock_directory(dir);
    if (r == 0)
        r = remove_stale(&address);
    if (r == 0)
        r = bind_with_mode(ipc->fd, &address, ipc->n_uids > 0 ? 0666 : 0600);
    if (r < 0)
        return r;
    if (lstat(path, &st) < 0)
        return -errno;
    ipc->dev = st.st_dev;
    ipc->ino = st.st_ino;
    ipc->path = ipc_strdup(path);
    if (!ipc->path)
        (void)unlink(path);
    return !ipc->path ? -ENOMEM : listen(ipc->fd, SOMAXCONN) < 0 ? -errno : 0;
}

int listener_open(struct ipc *ipc, const char *path, int fd)
{
    int r;

    if (fd >= 0) {
        r = check_inherited(fd);
        if (r == 0)
            ipc->fd = fd;
    } else {
        ipc->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        r = ipc->fd < 0 ? -errno : listen_at(ipc, path);
    }
    (void)evtimer_assign(&ipc->accept_timer, ipc->base, on_pause_over, ipc);
    (void)event_assign(&ipc->accept_event, ipc->base, ipc->fd, EV_READ | EV_PERSIST, on_connection, ipc);
    if (r == 0) {
        ipc->accepting = event_add(&ipc->accept_event, NULL) == 0;
        r = ipc->accepting ? 0 : -ENOMEM;
    }
    return r;
}

void listener_done(struct ipc *ipc)
{
    struct stat st;

    if (ipc->accepting)
        (void)event_del(&ipc->accept_event);
    if (ipc->fd >= 0) {
        (void)event_del(&ipc->accept_timer);
        (void)close(ipc->fd);
    }
    ipc->fd = -1;
    ipc->accepting = false;
    if (ipc->path && lstat(ipc->path, &st) == 0 && st.st_dev == ipc->dev && st.st_ino == ipc->ino)
        (void)unlink(ipc->path);
    free(ipc->path);
    ipc->path = NULL;
}
