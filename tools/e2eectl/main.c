#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define READ_STEP 65536u

static const struct verb *const verbs[] = {&verb_init, &verb_status, &verb_health, &verb_send, &verb_wait,
        &verb_listen, &verb_read, &verb_contact, &verb_users, &verb_lock, &verb_unlock, &verb_passphrase,
        &verb_raw, &verb_api};

static int not_running(const struct cli *c, const char *path, int r)
{
    const char *account = c->account;

    if (c->socket || (!account && getenv("E2EED_SOCKET")))
        return fail(c, exit_of(r),
                "no daemon answers at %s (%s); start e2eed, or check --socket and $E2EED_SOCKET", path,
                e2eectl_error_text(r));
    return fail(c, exit_of(r),
            "e2eed is not running: no daemon answers at %s\nStart it with: systemctl --user start "
            "e2eed%s%s.socket\n"
            "or run: e2eed%s%s",
            path, account ? "@" : "", account ? account : "", account ? " --account " : "",
            account ? account : "");
}

int cli_connect(struct cli *c)
{
    CLEANUP_TEXT char *path = NULL;
    int r;

    if (c->socket) {
        path = strdup(c->socket);
        r = path ? 0 : -ENOMEM;
    } else {
        r = e2eectl_socket_path(c->account, &path);
    }
    if (r == -EINVAL)
        return args_error(c,
                "--account '%s' is no account name: 1 to 64 of a-z 0-9 . _ -, the first a letter or digit",
                c->account);
    if (r == 0)
        r = e2eectl_open(path, &c->h);
    if (r == -ENOENT || r == -ENOTDIR || r == -ECONNREFUSED)
        return not_running(c, path, r);
    if (r == -ENAMETOOLONG)
        return fail(c, exit_of(r), "the socket's path is longer than 107 bytes: %s", path);
    if (r)
        return fail(
                c, exit_of(r), "cannot connect to %s: %s", path ? path : "the daemon", e2eectl_error_text(r));
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): CLEANUP_TEXT frees path */
    e2eectl_set_timeout(c->h, cli_timeout(c));
    return 0;
}

int cli_timeout(const struct cli *c)
{
    return c->timeout_ms > 0 ? c->timeout_ms : E2EECTL_TIMEOUT_MS;
}

static int read_all(int fd, size_t max, char **ret_text, size_t *ret_n)
{
    size_t cap = 0, n = 0;
    char *text = NULL;

    for (;;) {
        ssize_t got;

        if (cap - n < 2) {
            size_t more = cap + READ_STEP > max + 2 ? max + 2 : cap + READ_STEP;
            char *p = realloc(text, more);

            if (!p) {
                free(text);
                return -ENOMEM;
            }
            text = p;
            cap = more;
        }
        got = read(fd, text + n, cap - n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 || (n += (size_t)got) > max) {
            free(text);
            return got < 0 ? -errno : -EFBIG;
        }
        if (got == 0)
            break;
    }
    text[n] = '\0';
    *ret_text = text;
    *ret_n = n;
    return 0;
}

int cli_read_input(
        const struct cli *c, const char *path, size_t max, const char *what, char **ret_text, size_t *ret_n)
{
    bool standard = strcmp(path, "-") == 0;
    const char *name = standard ? "standard input" : path;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC), r;

    if (fd < 0)
        return fail(c, EX_NOINPUT, "%s: cannot read %s: %s", c->name, name, e2eectl_error_text(-errno));
    r = read_all(fd, max, ret_text, ret_n);
    if (!standard)
        (void)close(fd);
    if (r == -EFBIG)
        return fail(c, EX_DATAERR, "%s: %s is longer than %zu bytes, the most that %s may have", c->name,
                name, max, what);
    if (r)
        return fail(c, r == -ENOMEM ? EX_OSERR : EX_NOINPUT, "%s: cannot read %s: %s", c->name, name,
                e2eectl_error_text(r));
    return 0;
}

int main(int argc, char **argv)
{
    static struct verb table[COUNT_OF(verbs) + 1];
    const struct verb root = {
            .summary = "Send and receive end-to-end encrypted messages through the local daemon e2eed.",
            .verbs = table};
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    struct cli c = {.tty = isatty(STDOUT_FILENO)};
    int r, flushed;

    for (size_t i = 0; i < COUNT_OF(verbs); i++)
        table[i] = *verbs[i];
    (void)setvbuf(stderr, NULL, _IOLBF, 0); /* a message is one write */
    c.color = c.tty && !(no_color && no_color[0]) && term && strcmp(term, "dumb") != 0;
    r = args_run(&c, &root, argc, argv);
    e2eectl_close(c.h);
    flushed = out_flush();
    return r ? r : flushed;
}
