#include <stdio.h>
#include <string.h>

#include "cli.h"

#define DEFAULT_RELAY "ws://127.0.0.1:7690/"

struct init_args {
    const char *relay, *token;
};

static const char *from_env(const char *given, const char *name)
{
    const char *value = given ? given : getenv(name);

    return value && value[0] ? value : NULL;
}

static int run_init(struct cli *c, const void *args, char **operands, int n)
{
    const struct init_args *a = args;
    const char *relay = from_env(a->relay, "E2EED_RELAY");
    CLEANUP_VALUE struct e2eectl_value *account = NULL;
    int r = cli_connect(c);

    (void)n;
    if (r)
        return r;
    r = e2eectl_create_account(
            c->h, operands[0], relay ? relay : DEFAULT_RELAY, from_env(a->token, "E2EED_TOKEN"), &account);
    if (r)
        return fail_call(c, r);
    out_result(c, account);
    return 0;
}

const struct verb verb_init = {
        .name = "init",
        .operands = "USER",
        .summary = "make this account and register it at a relay",
        .help = "The keys are made by the daemon and stay there. USER is 1 to 64 characters of a-z 0-9 . _ - "
                "and begins with a letter or digit.",
        .options =
                (const struct opt[]){
                        {"relay", OPT_STRING, offsetof(struct init_args, relay), "URL",
                                "ws:// or wss:// address of the relay (default: $E2EED_RELAY, "
                                "else " DEFAULT_RELAY ")",
                                0, NULL},
                        {"token", OPT_STRING, offsetof(struct init_args, token), "T",
                                "registration token (default: $E2EED_TOKEN, which other users of the machine "
                                "cannot see)",
                                0, NULL},
                        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
                },
        .args_size = sizeof(struct init_args),
        .run = run_init,
};

static int run_status(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_VALUE struct e2eectl_value *status = NULL;
    int r = cli_connect(c);

    (void)args;
    (void)operands;
    (void)n;
    if (r)
        return r;
    r = e2eectl_status(c->h, &status);
    if (r)
        return fail_call(c, r);
    out_result(c, status);
    return 0;
}

const struct verb verb_status = {
        .name = "status",
        .summary = "show account, relay and connection",
        .help = "Succeeds without an account too, with the state 'none'.",
        .run = run_status,
};

static int run_health(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_VALUE struct e2eectl_value *health = NULL;
    int r = cli_connect(c);

    (void)args;
    (void)operands;
    (void)n;
    if (r)
        return r;
    r = e2eectl_call(c->h, "health", NULL, cli_timeout(c), &health);
    if (r)
        return fail_call(c, r);
    out_result(c, health);
    return e2eectl_get_bool(health, "ok", true) ? EX_OK : EX_UNAVAILABLE;
}

const struct verb verb_health = {
        .name = "health",
        .summary = "check the daemon, its disk and its connection",
        .help = "Exit code 0 if all is well, 69 if not.",
        .run = run_health,
};

static void print_user(const struct cli *c, const struct e2eectl_value *user)
{
    const char *name = e2eectl_get_string(user, "user"), *uid = e2eectl_get_string(user, "uid");
    int pad = name && strlen(name) < 25 ? 26 - (int)strlen(name) : 1;

    if (c->json) {
        out_json(user);
        return;
    }
    out_string(name ? name : "?");
    if (uid && c->tty) {
        (void)printf("%*s", pad, "");
        out_style(c, STYLE_DIM);
        out_string(uid);
        out_style(c, STYLE_NONE);
    }
    (void)putchar('\n');
}

static int run_users(struct cli *c, const void *args, char **operands, int n)
{
    char after[E2EECTL_ID_SIZE] = "";
    bool more = true;
    int r = cli_connect(c);

    (void)args;
    (void)operands;
    (void)n;
    while (r == 0 && more) {
        CLEANUP_VALUE struct e2eectl_value *page = NULL;
        const struct e2eectl_value *u;
        const char *last = NULL;

        r = e2eectl_users(c->h, after[0] ? after : NULL, 0, &page);
        if (r)
            return fail_call(c, r);
        for (u = e2eectl_value_first(e2eectl_value_get(page, "users")); u; u = e2eectl_value_next(u)) {
            print_user(c, u);
            last = e2eectl_get_string(u, "user");
        }
        more = last && e2eectl_get_bool(page, "more", false) && strcmp(last, after) != 0;
        (void)snprintf(after, sizeof(after), "%s", last ? last : "");
    }
    return r;
}

const struct verb verb_users = {
        .name = "users",
        .summary = "list the users of the relay",
        .run = run_users,
};
