#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli.h"

#define MAX_PASSPHRASE 1024u
/* Argon2id twice on a slow machine, behind other work. */
#define PATIENCE_MS 120000
#define INTERRUPT '\003'

/* A passphrase, on the stack of the verb that asked; wiped when that returns. */
struct secret {
    char text[MAX_PASSPHRASE + 2]; /* with its newline, or one byte too much */
    size_t n;
};

static void secret_done(struct secret *s)
{
    explicit_bzero(s, sizeof(*s));
}
#define CLEANUP_SECRET __attribute__((cleanup(secret_done)))

struct pass_args {
    const char *file, *new_file;
};

static int read_line(const struct cli *c, int fd, const char *from, struct secret *ret_s)
{
    size_t n = 0;
    ssize_t got = 1;

    /* Byte by byte: what follows the line on standard input is the next one's. */
    while (n < sizeof(ret_s->text) && got > 0) {
        got = read(fd, ret_s->text + n, 1);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got < 0)
            return fail(c, EX_NOINPUT, "%s: cannot read %s: %s", c->name, from, strerror(errno));
        else if (got > 0 && ret_s->text[n] == INTERRUPT)
            return fail(c, EX_NOINPUT, "%s: given up; nothing was changed", c->name);
        else if (got > 0 && ret_s->text[n++] == '\n')
            break;
    }
    if (n > 0 && ret_s->text[n - 1] == '\n')
        n--;
    if (n == 0)
        return fail(c, EX_DATAERR, "%s: there is no passphrase in %s", c->name, from);
    if (n > MAX_PASSPHRASE || memchr(ret_s->text, 0, n))
        return fail(
                c, EX_DATAERR, "%s: a passphrase is one line of at most %u bytes", c->name, MAX_PASSPHRASE);
    ret_s->n = n;
    return 0;
}

static int read_file(const struct cli *c, const char *path, struct secret *ret_s)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), r;

    if (fd < 0)
        return fail(c, EX_NOINPUT, "%s: cannot read %s: %s", c->name, path, strerror(errno));
    r = read_line(c, fd, path, ret_s);
    (void)close(fd);
    return r;
}

/* From the terminal, without echo. */
static int ask(const struct cli *c, int tty, const char *prompt, struct secret *ret_s)
{
    struct termios before, silent;
    int r;

    if (tcgetattr(tty, &before) != 0)
        return fail(c, EX_NOINPUT, "%s: cannot use the terminal: %s", c->name, strerror(errno));
    silent = before;
    /* Ctrl-C ends the line instead of the program, which has to turn the echo on again. */
    silent.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    silent.c_cc[VEOL] = INTERRUPT;
    if (tcsetattr(tty, TCSAFLUSH, &silent) != 0)
        return fail(c, EX_NOINPUT, "%s: cannot use the terminal: %s", c->name, strerror(errno));
    (void)dprintf(tty, "%s: ", prompt);
    r = read_line(c, tty, "the terminal", ret_s);
    (void)tcsetattr(tty, TCSAFLUSH, &before);
    (void)dprintf(tty, "\n");
    return r;
}

static int ask_twice(const struct cli *c, int tty, const char *prompt, struct secret *ret_s)
{
    CLEANUP_SECRET struct secret again = {.n = 0};
    int r = ask(c, tty, prompt, ret_s);

    if (r == 0)
        r = ask(c, tty, "The same again", &again);
    if (r == 0 && (again.n != ret_s->n || memcmp(again.text, ret_s->text, again.n) != 0))
        r = fail(c, EX_DATAERR, "%s: the two are not the same; nothing was changed", c->name);
    return r;
}

/* A file if one was named, the terminal if standard input is one, else a line of standard input. */
static int get(const struct cli *c, const char *file, const char *prompt, bool fresh, struct secret *ret_s)
{
    int tty, r;

    if (file)
        return read_file(c, file, ret_s);
    if (!isatty(STDIN_FILENO))
        return read_line(c, STDIN_FILENO, "standard input", ret_s);
    tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (tty < 0)
        return fail(c, EX_NOINPUT, "%s: no terminal to ask on: %s", c->name, strerror(errno));
    r = fresh ? ask_twice(c, tty, prompt, ret_s) : ask(c, tty, prompt, ret_s);
    (void)close(tty);
    return r;
}

static int call_unlock(struct cli *c, const struct secret *old, const struct secret *fresh)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();
    CLEANUP_VALUE struct e2eectl_value *result = NULL;
    int r;

    if (old)
        e2eectl_params_text(p, "passphrase", old->text, old->n);
    if (fresh)
        e2eectl_params_text(p, "new_passphrase", fresh->text, fresh->n);
    r = e2eectl_call(c->h, "unlock", p, c->timeout_ms > 0 ? c->timeout_ms : PATIENCE_MS, &result);
    if (r)
        return fail_call(c, r);
    if (c->json)
        out_json(result);
    return 0;
}

/* Where the storage key comes from; and no other process of ours looks on. */
static int prepare(struct cli *c, struct e2eectl_value **ret_health)
{
    int r;

    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    r = cli_connect(c);
    if (r)
        return r;
    r = e2eectl_call(c->h, "health", NULL, cli_timeout(c), ret_health);
    return r ? fail_call(c, r) : 0;
}

static bool by_passphrase(const struct e2eectl_value *health)
{
    const char *key = e2eectl_get_string(health, "key");

    return key && strcmp(key, "passphrase") == 0;
}

static int run_lock(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_VALUE struct e2eectl_value *result = NULL;
    int r = cli_connect(c);

    (void)args;
    (void)operands;
    (void)n;
    if (r)
        return r;
    r = e2eectl_call(c->h, "lock", NULL, cli_timeout(c), &result);
    if (r)
        return fail_call(c, r);
    if (c->json)
        out_json(result);
    else if (!by_passphrase(result))
        (void)fprintf(stderr,
                "e2eectl: locked; but no passphrase is set, so that 'e2eectl unlock' or a restart opens it "
                "again\n");
    return 0;
}

const struct verb verb_lock = {
        .name = "lock",
        .summary = "close the connection and wipe keys and messages from the daemon's memory",
        .help = "Programs that wait or listen are told that the daemon is locked. 'e2eectl unlock' opens it "
                "again; without a passphrase ('e2eectl passphrase set') a restart does so, too.",
        .run = run_lock,
};

static int run_unlock(struct cli *c, const void *args, char **operands, int n)
{
    const struct pass_args *a = args;
    CLEANUP_SECRET struct secret s = {.n = 0};
    CLEANUP_VALUE struct e2eectl_value *health = NULL;
    CLEANUP_VALUE struct e2eectl_value *status = NULL;
    const char *state;
    int r = prepare(c, &health);

    (void)operands;
    (void)n;
    if (r)
        return r;
    r = e2eectl_status(c->h, &status);
    if (r)
        return fail_call(c, r);
    state = e2eectl_get_string(status, "state");
    if (!state || strcmp(state, "locked") != 0 || !by_passphrase(health))
        return call_unlock(c, NULL, NULL);
    r = get(c, a->file, "Passphrase of this daemon", false, &s);
    return r ? r : call_unlock(c, &s, NULL);
}

#define FILE_OPTION(name, member, text)                                                                      \
    {                                                                                                        \
        name, OPT_STRING, offsetof(struct pass_args, member), "F", text, 0, NULL                             \
    }
#define NO_OPTION                                                                                            \
    {                                                                                                        \
        NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL                                                               \
    }
#define OLD_TEXT "read the passphrase in force from the first line of this file"
#define NEW_TEXT "read the new passphrase from the first line of this file"

const struct verb verb_unlock = {
        .name = "unlock",
        .summary = "open a locked daemon",
        .help = "Asks for the passphrase on the terminal, without echo; where standard input is none, its "
                "first line is taken. After a wrong passphrase (exit code 77) the next one is tried after a "
                "delay that grows to 30 seconds; before that the exit code is 75.",
        .options = (const struct opt[]){FILE_OPTION("passphrase-file", file, OLD_TEXT), NO_OPTION},
        .args_size = sizeof(struct pass_args),
        .run = run_unlock,
};

static int run_set(struct cli *c, const void *args, char **operands, int n)
{
    const struct pass_args *a = args;
    CLEANUP_SECRET struct secret s = {.n = 0};
    CLEANUP_VALUE struct e2eectl_value *health = NULL;
    int r = prepare(c, &health);

    (void)operands;
    (void)n;
    if (r)
        return r;
    if (by_passphrase(health))
        return fail(c, EX_USAGE, "passphrase set: there is one already; use 'e2eectl passphrase change'");
    r = get(c, a->new_file, "New passphrase for this daemon", true, &s);
    return r ? r : call_unlock(c, NULL, &s);
}

static int run_change(struct cli *c, const void *args, char **operands, int n)
{
    const struct pass_args *a = args;
    CLEANUP_SECRET struct secret old = {.n = 0};
    CLEANUP_SECRET struct secret fresh = {.n = 0};
    CLEANUP_VALUE struct e2eectl_value *health = NULL;
    int r = prepare(c, &health);

    (void)operands;
    (void)n;
    if (r)
        return r;
    if (!by_passphrase(health))
        return fail(c, EX_USAGE, "passphrase change: there is none yet; use 'e2eectl passphrase set'");
    r = get(c, a->file, "Passphrase of this daemon", false, &old);
    if (r == 0)
        r = get(c, a->new_file, "New passphrase", true, &fresh);
    return r ? r : call_unlock(c, &old, &fresh);
}

static int run_remove(struct cli *c, const void *args, char **operands, int n)
{
    static const struct secret none;
    const struct pass_args *a = args;
    CLEANUP_SECRET struct secret old = {.n = 0};
    CLEANUP_VALUE struct e2eectl_value *health = NULL;
    int r = prepare(c, &health);

    (void)operands;
    (void)n;
    if (r)
        return r;
    if (!by_passphrase(health))
        return fail(c, EX_USAGE, "passphrase remove: there is none");
    r = get(c, a->file, "Passphrase of this daemon", false, &old);
    return r ? r : call_unlock(c, &old, &none);
}

static const struct verb passphrase_verbs[] = {
        {.name = "set",
                .summary = "put the storage key under a passphrase, and remove the key file",
                .help = "From then on the daemon starts locked. There is no way back without the passphrase: "
                        "who forgets it loses account and messages. On standard input: one line.",
                .options = (const struct opt[]){FILE_OPTION("new-passphrase-file", new_file, NEW_TEXT),
                        NO_OPTION},
                .args_size = sizeof(struct pass_args),
                .run = run_set},
        {.name = "change",
                .summary = "change the passphrase",
                .help = "On standard input: the old one and the new one, a line each.",
                .options = (const struct opt[]){FILE_OPTION("passphrase-file", file, OLD_TEXT),
                        FILE_OPTION("new-passphrase-file", new_file, NEW_TEXT), NO_OPTION},
                .args_size = sizeof(struct pass_args),
                .run = run_change},
        {.name = "remove",
                .summary = "go back to a key file, so that the daemon starts by itself",
                .options = (const struct opt[]){FILE_OPTION("passphrase-file", file, OLD_TEXT), NO_OPTION},
                .args_size = sizeof(struct pass_args),
                .run = run_remove},
        {.name = NULL},
};

const struct verb verb_passphrase = {
        .name = "passphrase",
        .summary = "set, change or remove the passphrase of the daemon's storage key",
        .help = "A passphrase is never taken from the command line or the environment, which others can see.",
        .verbs = passphrase_verbs,
};
