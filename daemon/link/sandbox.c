#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "linkmsg.h"

#define MAX_DESCRIPTORS 64 /* libwebsockets sizes its tables by the limit */

static int limit(int resource, rlim_t most)
{
    struct rlimit r = {.rlim_cur = most, .rlim_max = most};
    return setrlimit((__rlimit_resource_t)resource, &r) < 0 ? -errno : 0;
}

static int standard_descriptors(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
        if (fd < 0)
            return -errno;
    } while (fd <= STDERR_FILENO);
    (void)close(fd);
    return 0;
}

static void close_above(int last)
{
    if (syscall(SYS_close_range, last + 1, ~0U, 0) == 0)
        return;
    long most = sysconf(_SC_OPEN_MAX);
    for (int fd = last + 1; fd < (most > 0 && most < 65536 ? (int)most : 65536); fd++)
        (void)close(fd);
}

int sandbox_enter(void)
{
    int r = standard_descriptors();
    if (r < 0)
        return r;
    close_above(LINK_FD);
    (void)signal(SIGPIPE, SIG_IGN);
    if (clearenv() != 0)
        return -ENOMEM;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
            prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -errno;
    r = limit(RLIMIT_CORE, 0);
    if (r == 0)
        r = limit(RLIMIT_NOFILE, MAX_DESCRIPTORS);
    return r == 0 ? limit(RLIMIT_NPROC, 0) : r;
}

/* Refuses every handled kind of access except, under the whole tree, those allowed. */
static void landlock(uint64_t handled, uint64_t allowed)
{
    struct landlock_ruleset_attr set = {.handled_access_fs = handled};
    CLEANUP_FD int fd = (int)syscall(SYS_landlock_create_ruleset, &set, sizeof(set), 0);
    if (fd < 0)
        return;
    if (allowed) {
        CLEANUP_FD int root = open("/", O_PATH | O_CLOEXEC);
        struct landlock_path_beneath_attr rule = {.allowed_access = allowed, .parent_fd = root};
        if (root < 0 || syscall(SYS_landlock_add_rule, fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
            return;
    }
    (void)syscall(SYS_landlock_restrict_self, fd, 0);
}

/* Every right of the first version of Landlock: later kernels know them too. */
#define READ_ACCESS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define ALL_ACCESS                                                                                           \
    (READ_ACCESS | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |                              \
            LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |  \
            LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |       \
            LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

void sandbox_read_only(void)
{
    landlock(ALL_ACCESS, READ_ACCESS);
}

void sandbox_no_files(void)
{
    landlock(ALL_ACCESS, 0);
}
