/* The listening socket: who may connect, modes, paths, inherited sockets, limits of connections. */
#include "ipc_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "failalloc.h"
#include "log.h"

static void test_uids(void **state)
{
    struct fixture *f = *state;
    const uid_t others[] = {getuid() + 5, getuid() + 9};
    const struct ipc none = {.uids = NULL}, some = {.uids = (uid_t *)others, .n_uids = 2};

    (void)f;
    assert_true(listener_allows(&none, getuid()));
    assert_false(listener_allows(&none, getuid() + 1));
    assert_false(listener_allows(&none, (uid_t)-1));
    assert_true(listener_allows(&some, getuid()));
    assert_true(listener_allows(&some, getuid() + 9));
    assert_false(listener_allows(&some, getuid() + 6));
}

/* A child of another uid connects and asks; its exit code tells whether it was answered. */
static bool foreign_uid_is_served(struct fixture *f, uid_t uid)
{
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        char answer[64];
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
        if (setuid(uid) < 0 || connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 ||
                send(fd, "\x94\x00\x01\xa6status\x90", 11, MSG_NOSIGNAL) != 11 ||
                read(fd, answer, sizeof(answer)) <= 0)
            _exit(1);
        _exit(0);
    }
    while (waitpid(child, &status, WNOHANG) == 0)
        pump_ms(f, 2);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_foreign_uid(void **state)
{
    struct fixture *f = *state;
    const uid_t friend = 12345;
    char sub[96];

    if (getuid() != 0)
        skip();
    log_init("test_ipc", 0);
    (void)snprintf(sub, sizeof(sub), "%s/run", f->dir);
    assert_int_equal(chmod(f->dir, 0755), 0);
    assert_int_equal(chmod(sub, 0755), 0);
    assert_false(foreign_uid_is_served(f, friend));
    assert_int_equal(chmod(f->path, 0666), 0);
    assert_false(foreign_uid_is_served(f, friend));
    ipc_free(f->ipc);
    assert_int_equal(ipc_new(f->base, f->path, -1, &friend, 1, &ipc_test_callbacks, f, &f->ipc), 0);
    assert_true(foreign_uid_is_served(f, friend));
    assert_false(foreign_uid_is_served(f, friend + 1));
}

static void test_modes(void **state)
{
    struct fixture *f = *state;
    char sub[96];
    struct stat st;
    mode_t mask;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    (void)snprintf(sub, sizeof(sub), "%s/run", f->dir);
    assert_int_equal(stat(sub, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    ipc_free(f->ipc);
    mask = umask(0);
    ipc_test_start(f);
    (void)umask(mask);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static int try_path(struct fixture *f, const char *path)
{
    struct ipc *second = NULL;
    int r = ipc_new(f->base, path, -1, NULL, 0, &ipc_test_callbacks, f, &second);

    if (r == 0)
        ipc_free(second);
    else
        assert_null(second);
    return r;
}

static void test_double_start(void **state)
{
    struct fixture *f = *state;
    struct peer p;

    log_init("test_ipc", 0);
    assert_int_equal(try_path(f, f->path), -EADDRINUSE);
    p = peer_open(f); /* the first one still serves */
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    peer_close(&p);
}

/* A daemon too busy to accept is alive, too. */
static void test_live_path_with_a_full_backlog(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char path[128];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), waiting[8];
    size_t n = 0;

    log_init("test_ipc", 0);
    (void)snprintf(path, sizeof(path), "%s/run/busy.sock", f->dir);
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%.107s", path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 0), 0);
    while (n < ARRAY_SIZE(waiting) && (waiting[n] = dial(path)) >= 0)
        n++;
    assert_int_equal(waiting[n], -EAGAIN);
    assert_int_equal(try_path(f, path), -EADDRINUSE);
    assert_int_equal(access(path, F_OK), 0);
    while (n > 0)
        (void)close(waiting[--n]);
    (void)close(fd);
    assert_int_equal(unlink(path), 0);
}

static void test_stale_path(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    ipc_free(f->ipc);
    f->ipc = NULL;
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 1), 0);
    (void)close(fd);
    ipc_test_start(f);
    fd = dial(f->path);
    assert_true(fd >= 0);
    (void)close(fd);
}

static void test_bad_paths(void **state)
{
    struct fixture *f = *state;
    char path[300], dir[96];
    int fd;

    log_init("test_ipc", 0);
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[299] = '\0';
    assert_int_equal(try_path(f, path), -ENAMETOOLONG);
    assert_int_equal(try_path(f, ""), -EINVAL);
    assert_int_equal(try_path(f, NULL), -EINVAL);
    (void)snprintf(path, sizeof(path), "%s/run/file", f->dir);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(try_path(f, path), -EEXIST);
    assert_int_equal(unlink(path), 0);
    (void)snprintf(path, sizeof(path), "%s/no/such/dir", f->dir);
    assert_int_equal(try_path(f, path), -ENOENT);
    (void)snprintf(dir, sizeof(dir), "%s/open", f->dir);
    (void)snprintf(path, sizeof(path), "%s/s", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(chmod(dir, 0777), 0);
    assert_int_equal(try_path(f, path), -EPERM);
    assert_int_equal(chmod(dir, 01777), 0);
    assert_int_equal(try_path(f, path), 0);
    assert_int_equal(rmdir(dir), 0); /* the socket was removed */
}

/* A successor's socket at the same path is left alone. */
static void test_unlinks_only_its_own(void **state)
{
    struct fixture *f = *state;
    struct ipc *first = f->ipc;

    assert_int_equal(unlink(f->path), 0);
    ipc_test_start(f);
    ipc_free(first);
    assert_int_equal(access(f->path, F_OK), 0);
}

static void test_inherited_socket(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct ipc *ipc = NULL;
    struct peer p;

    log_init("test_ipc", 0);
    ipc_free(f->ipc);
    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(
            ipc_new(f->base, NULL, fd, NULL, 0, &ipc_test_callbacks, f, &ipc), -EINVAL); /* does not listen */
    assert_int_equal(ipc_new(f->base, NULL, datagram, NULL, 0, &ipc_test_callbacks, f, &ipc), -EINVAL);
    assert_int_equal(ipc_new(f->base, NULL, 999, NULL, 0, &ipc_test_callbacks, f, &ipc), -EINVAL);
    assert_int_equal(close(datagram), 0);
    assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(ipc_new(f->base, NULL, fd, NULL, 0, &ipc_test_callbacks, f, &f->ipc), 0);
    p = peer_open(f);
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    peer_close(&p);
    ipc_free(f->ipc);
    f->ipc = NULL;
    assert_int_equal(access(f->path, F_OK), 0); /* not ours to remove */
    assert_int_equal(unlink(f->path), 0);
}

static bool raise_descriptor_limit(rlim_t n)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = n;
    return limit.rlim_max >= n && setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static void test_client_limit(void **state)
{
    struct fixture *f = *state;
    static struct peer peers[IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS + 1];
    struct peer *surplus = &peers[IPC_MAX_CLIENTS], *last = &peers[IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS];

    if (!raise_descriptor_limit(4096))
        skip();
    log_init("test_ipc", 0);
    for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
        peers[i] = peer_open(f);
    pump(f);
    assert_int_equal(ipc_clients(f->ipc), IPC_MAX_CLIENTS + IPC_SURPLUS_CLIENTS);
    expect_closed(f, last);
    expect_nothing(f, surplus);
    say(f, surplus, STATUS(1));
    expect_text(f, surplus, "[1,1,[0,\"QUEUE_FULL: at most 1024 programs");
    expect_closed(f, surplus);
    say(f, &peers[IPC_MAX_CLIENTS - 1], STATUS(1));
    expect(f, &peers[IPC_MAX_CLIENTS - 1], ALICE(1));
    for (size_t i = 0; i < 100; i++)
        peer_close(&peers[i]);
    peer_close(surplus);
    pump(f);
    say(f, surplus + 1, STATUS(2)); /* there is room now */
    expect(f, surplus + 1, ALICE(2));
    for (size_t i = 0; i < ARRAY_SIZE(peers); i++)
        peer_close(&peers[i]);
    for (unsigned i = 0; i < 20; i++)
        pump(f);
    assert_int_equal(ipc_clients(f->ipc), 0);
}

static void test_out_of_descriptors(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q;
    int fd = dup(0);
    unsigned turns = 0;

    log_init("test_ipc", 0);
    assert_true(fd >= 0);
    q.fd = dial(f->path);
    assert_true(q.fd >= 0);
    q = (struct peer){.fd = q.fd};
    buf_init(&q.in, 65536);
    assert_true(raise_descriptor_limit((rlim_t)fd));
    say(f, &q, STATUS(2));
    for (unsigned i = 0; i < 50; i++)
        turns += event_base_loop(f->base, EVLOOP_ONCE | EVLOOP_NONBLOCK) == 0 && f->ipc->accepting;
    assert_true(turns <= 1); /* does not spin on the descriptor it cannot accept */
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    assert_true(raise_descriptor_limit(1024));
    (void)close(fd);
    peer_close(&p); /* which resumes accepting before the pause is over */
    pump(f);
    expect(f, &q, ALICE(2));
    peer_close(&q);
}

static void test_answer_after_the_end(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, WAIT(1));
    pump(f);
    ipc_free(f->ipc);
    f->ipc = NULL;
    assert_int_equal(f->n_gone, 1);
    ipc_reply(f->held[0], NULL);
    f->n_held = 0;
    peer_receive(&p);
    assert_true(p.eof);
    peer_close(&p);
    ipc_free(NULL);
}

static void test_start_without_memory(void **state)
{
    struct fixture *f = *state;
    struct ipc *ipc = NULL;
    unsigned long k = 1;
    char path[128];
    int r;

    (void)snprintf(path, sizeof(path), "%s/run/second.sock", f->dir);
    for (;; k++) {
        failalloc_arm(k);
        r = ipc_new(f->base, path, -1, NULL, 0, &ipc_test_callbacks, f, &ipc);
        if (!failalloc_disarm())
            break;
        assert_int_equal(r, -ENOMEM);
        assert_null(ipc);
        assert_int_equal(failalloc_live(), 0);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    assert_int_equal(r, 0);
    assert_true(k > 4);
    ipc_free(ipc);
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            IPC_TEST(test_uids),
            IPC_TEST(test_foreign_uid),
            IPC_TEST(test_modes),
            IPC_TEST(test_double_start),
            IPC_TEST(test_live_path_with_a_full_backlog),
            IPC_TEST(test_stale_path),
            IPC_TEST(test_bad_paths),
            IPC_TEST(test_unlinks_only_its_own),
            IPC_TEST(test_inherited_socket),
            IPC_TEST(test_client_limit),
            IPC_TEST(test_out_of_descriptors),
            IPC_TEST(test_answer_after_the_end),
            IPC_TEST(test_start_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
