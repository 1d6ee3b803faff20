#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <systemd/sd-daemon.h>

#include "api.h"
#include "app.h"
#include "log.h"
#include "vault.h"

static const char usage[] =
        "Usage: e2eed [--account NAME] [--config FILE]\n"
        "       e2eed --api-info | --api-markdown | --version | --help\n"
        "\n"
        "Holds the keys and the relay connection of one account and serves local programs on a Unix socket.\n"
        "Runs in the foreground. Without an account it waits for account.create (e2eectl init USER).\n"
        "\n"
        "  --account NAME   which account (default: default); names its socket, state and configuration\n"
        "  --config FILE    instead of $XDG_CONFIG_HOME/e2eed/NAME.conf\n"
        "  --api-info       print the local API as JSON and exit\n"
        "  --api-markdown   print docs/API.md and exit\n"
        "  --version, --help\n"
        "\n"
        "Socket: $E2EED_SOCKET, else $XDG_RUNTIME_DIR/e2eed/NAME.sock\n"
        "State:  $XDG_STATE_HOME/e2eed/NAME (else ~/.local/state/e2eed/NAME)\n"
        "Its key: the systemd credential e2eed.storage-key, else storage.pass in the state directory (locked "
        "until "
        "'e2eectl unlock'),\n"
        "        else storage.key there, mode 0600\n"
        "Exit status: 0 stopped, 64 usage, 65 damaged state, 69 already running, 70 fault, 73 no socket, 74 "
        "disk, 77 key refused, 78 configuration\n";

enum option_id { OPT_ACCOUNT = 1000, OPT_CONFIG, OPT_API_INFO, OPT_API_MARKDOWN, OPT_VERSION, OPT_HELP };

static const struct option options[] = {{"account", required_argument, NULL, OPT_ACCOUNT},
        {"config", required_argument, NULL, OPT_CONFIG}, {"api-info", no_argument, NULL, OPT_API_INFO},
        {"api-markdown", no_argument, NULL, OPT_API_MARKDOWN}, {"version", no_argument, NULL, OPT_VERSION},
        {"help", no_argument, NULL, OPT_HELP}, {0}};

struct arguments {
    const char *account, *config;
};

static int print_api(bool markdown)
{
    CLEANUP_BUF struct buf b = {0}, json = {0};
    struct mp_value v;
    buf_init(&b, 1u << 20);
    buf_init(&json, 1u << 20);
    if (markdown) {
        api_markdown(&json);
    } else {
        api_describe(&b);
        if (buf_status(&b) < 0)
            return EX_SOFTWARE;
        mp_view(b.data, b.len, &v);
        mp_to_json(&json, &v);
        buf_u8(&json, '\n');
    }
    if (buf_status(&json) < 0)
        return EX_SOFTWARE;
    return fwrite(json.data, 1, json.len, stdout) == json.len && fflush(stdout) == 0 ? EX_OK : EX_IOERR;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct arguments *args)
{
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case OPT_ACCOUNT:
            args->account = optarg;
            break;
        case OPT_CONFIG:
            args->config = optarg;
            break;
        case OPT_API_INFO:
        case OPT_API_MARKDOWN:
            return print_api(c == OPT_API_MARKDOWN);
        case OPT_VERSION:
            (void)printf("e2eed %s\n", E2EED_VERSION);
            return EX_OK;
        case OPT_HELP:
            (void)fputs(usage, stdout);
            return EX_OK;
        default:
            (void)fputs("Try 'e2eed --help'.\n", stderr);
            return EX_USAGE;
        }
    if (optind < argc) {
        (void)fprintf(stderr, "e2eed: unexpected argument '%s'; try 'e2eed --help'\n", argv[optind]);
        return EX_USAGE;
    }
    return -1;
}

/* No core, not traceable by other processes of the same user. The leak checker is such a process. */
static void harden(void)
{
    (void)umask(077);
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0});
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#if !defined(__SANITIZE_ADDRESS__)
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

static int configure(struct config *c, const struct arguments *args)
{
    char text[CONFIG_TEXT] = "";
    if (config_defaults(c, args->account ? args->account : "default", text)) {
        (void)fprintf(stderr, "e2eed: %s\n", text);
        return EX_CONFIG;
    }
    if (args->config) {
        c->file_named = true;
        (void)snprintf(c->file, sizeof(c->file), "%s", args->config);
    }
    if (config_read(c, text)) {
        (void)fprintf(stderr, "e2eed: %s\n", text);
        return EX_CONFIG;
    }
    if (!c->key_file[0] && snprintf(c->key_file, sizeof(c->key_file), "%s/storage.key", c->state_dir) >=
                                   (int)sizeof(c->key_file)) {
        (void)fputs("e2eed: the path of the state directory is too long\n", stderr);
        return EX_CONFIG;
    }
    return EX_OK;
}

static int store_status(int r, const char *text, const struct config *c)
{
    (void)fprintf(stderr, "e2eed: %s: %s\n", c->state_dir, r < 0 ? strerror(-r) : text);
    switch (r) {
    case STORE_LOCKED:
        return EX_UNAVAILABLE;
    case STORE_NEWER:
        return EX_CONFIG;
    case STORE_WRONG_KEY:
        return EX_NOPERM;
    case STORE_CORRUPT:
        return EX_DATAERR;
    default:
        return r == -EPERM || r == -EACCES ? EX_NOPERM : EX_IOERR;
    }
}

static int key_status(int r, const struct vault *v)
{
    bool credential = vault_source(v) == VAULT_CREDENTIAL;
    (void)fprintf(stderr, "e2eed: storage key %s: %s%s\n", vault_path(v), strerror(-r),
            r == -EPERM && credential ? " (file and directory must be ours or root's, and closed to others)"
            : r == -EPERM             ? " (it must be ours alone: chmod 600)"
            : r == -ENOENT            ? " (does the unit have LoadCredential= for it?)"
            : r == -EINVAL            ? " (it must hold 32 random bytes or 64 hexadecimal digits)"
                                      : "");
    return r == -EPERM || r == -EACCES ? EX_NOPERM : EX_IOERR;
}

/* What is wrong with a passphrase file that cannot be used. */
static int vault_status(int r, const struct config *c)
{
    (void)fprintf(stderr, "e2eed: %s/storage.pass: %s\n", c->state_dir,
            r == PASSFILE_DAMAGED ? "it is damaged, so that no passphrase opens it: restore it from a backup"
            : r == PASSFILE_NEWER ? "a newer e2eed wrote it: run that one"
            : r == -EPERM         ? "it must be ours alone: chmod 600"
                                  : strerror(-r));
    return r == PASSFILE_DAMAGED         ? EX_DATAERR
           : r == PASSFILE_NEWER         ? EX_CONFIG
           : r == -EPERM || r == -EACCES ? EX_NOPERM
                                         : EX_IOERR;
}

/* *ret_store stays NULL where a passphrase is needed first. */
static int open_store(const struct config *c, struct vault *v, struct store **ret_store)
{
    uint8_t *key;
    const char *text = "";
    int r;
    if (vault_source(v) == VAULT_PASSPHRASE) {
        log_notice("locked", "the daemon is locked: e2eectl unlock opens it");
        (void)sd_notify(0, "STATUS=locked: e2eectl unlock opens it");
        return EX_OK;
    }
    key = sodium_malloc(STORE_KEY_LEN);
    if (!key)
        return EX_OSERR;
    r = vault_key(v, true, key);
    if (r < 0) {
        sodium_free(key);
        return key_status(r, v);
    }
    r = store_open(c->state_dir, key, ret_store, &text);
    if (r == 0)
        vault_opened(v, key);
    sodium_free(key);
    return r ? store_status(r, text, c) : EX_OK;
}

static void on_signal(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd;
    (void)what;
    app_stop(ctx);
}

static int app_status(int r, const struct config *c)
{
    if (r == -EADDRINUSE)
        (void)fprintf(stderr, "e2eed: %s: another daemon listens there\n", c->socket);
    else if (r == -EBADMSG)
        (void)fprintf(stderr,
                "e2eed: %s: a record of the state is damaged; restore a backup or begin with an empty "
                "directory\n",
                c->state_dir);
    else
        (void)fprintf(stderr, "e2eed: cannot start: %s (socket %s)\n", strerror(-r), c->socket);
    return r == -EADDRINUSE ? EX_UNAVAILABLE : r == -EBADMSG ? EX_DATAERR : EX_CANTCREAT;
}

static int serve(struct event_base *base, const struct config *c, struct store *store, struct vault *v)
{
    struct event *term, *intr;
    struct app *app;
    int fd = sd_listen_fds(1) > 0 ? SD_LISTEN_FDS_START : -1;
    int r = app_new(base, c, store, v, fd, &app);
    if (r < 0) {
        store_close(store);
        return app_status(r, c);
    }
    term = evsignal_new(base, SIGTERM, on_signal, app);
    intr = evsignal_new(base, SIGINT, on_signal, app);
    if (!term || !intr || event_add(term, NULL) || event_add(intr, NULL))
        r = -ENOMEM;
    log_info("started", "e2eed %s listens on %s", E2EED_VERSION, c->socket);
    if (r == 0)
        r = app_run(app);
    if (term)
        event_free(term);
    if (intr)
        event_free(intr);
    app_free(app);
    if (r < 0)
        log_error("fault", "stopped by a fault: %s", strerror(-r));
    return r == 0 ? EX_OK : r == -EBADMSG ? EX_DATAERR : EX_SOFTWARE;
}

int main(int argc, char **argv)
{
    struct arguments args = {0};
    struct config c;
    struct store *store = NULL;
    struct vault *vault;
    struct event_base *base;
    int r, status = parse(argc, argv, &args);
    if (status >= 0)
        return status;
    harden();
    if (sodium_init() < 0)
        return EX_OSERR;
    (void)signal(SIGPIPE, SIG_IGN);
    status = configure(&c, &args);
    if (status)
        return status;
    log_init("e2eed", (enum log_level)c.log_level);
    base = event_base_new();
    if (!base)
        return EX_OSERR;
    r = vault_new(base, &c, &vault);
    if (r) {
        event_base_free(base);
        return vault_status(r, &c);
    }
    status = open_store(&c, vault, &store);
    if (!status)
        status = serve(base, &c, store, vault);
    vault_free(vault);
    event_base_free(base);
    return status;
}
