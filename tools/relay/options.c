#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base.h"

static const char help[] =
        "Usage: e2ee-relay serve --listen HOST:PORT --state DIR [OPTION]...\n"
        "       e2ee-relay stats --state DIR\n"
        "       e2ee-relay token create --state DIR [--uses N]\n"
        "\n"
        "The relay stores and forwards end-to-end encrypted envelopes; it can read none of them.\n"
        "\n"
        "serve:\n"
        "  --listen HOST:PORT     address to listen on; an IPv6 address in brackets; port 0: any free one\n"
        "  --state DIR            directory of the database, made if it is not there\n"
        "  --name HOST:PORT       a name that daemons dial this relay by (repeatable); the address listened "
        "on,\n"
        "                         localhost and the machine's name are known without it\n"
        "  --registration MODE    who may make accounts: open (default), token, closed\n"
        "  --tls-cert FILE        certificate chain (PEM); with --tls-key the relay speaks TLS 1.3\n"
        "  --tls-key FILE         its private key (PEM)\n"
        "  --channel-binding WHAT required (default) or off: off only behind a proxy that ends TLS\n"
        "  --raw WHAT             text frames: reject (default) or echo\n"
        "  --mailbox-envelopes N  envelopes that may wait for a device (default 20000)\n"
        "  --mailbox-bytes N      bytes that may wait for a device (default 268435456)\n"
        "  --limit NAME=N         changes a limit, 0 lifts it: submit, bytes, lookup, connect (a second),\n"
        "                         register (a minute), claim, claim-target (an hour)\n"
        "  --verbose              log more\n"
        "\n"
        "stats prints how much is stored. token create prints a new registration token (for one use, or "
        "--uses N).\n"
        "\n"
        "  --help     this text       --version  the version\n";

enum {
    OPT_LISTEN = 256,
    OPT_STATE,
    OPT_NAME,
    OPT_REGISTRATION,
    OPT_CERT,
    OPT_KEY,
    OPT_BINDING,
    OPT_RAW,
    OPT_ENVELOPES,
    OPT_BYTES,
    OPT_LIMIT,
    OPT_VERBOSE,
    OPT_USES,
    OPT_HELP,
    OPT_VERSION
};

static const struct option long_options[] = {
        {"listen", required_argument, NULL, OPT_LISTEN},
        {"state", required_argument, NULL, OPT_STATE},
        {"name", required_argument, NULL, OPT_NAME},
        {"registration", required_argument, NULL, OPT_REGISTRATION},
        {"tls-cert", required_argument, NULL, OPT_CERT},
        {"tls-key", required_argument, NULL, OPT_KEY},
        {"channel-binding", required_argument, NULL, OPT_BINDING},
        {"raw", required_argument, NULL, OPT_RAW},
        {"mailbox-envelopes", required_argument, NULL, OPT_ENVELOPES},
        {"mailbox-bytes", required_argument, NULL, OPT_BYTES},
        {"limit", required_argument, NULL, OPT_LIMIT},
        {"verbose", no_argument, NULL, OPT_VERBOSE},
        {"uses", required_argument, NULL, OPT_USES},
        {"help", no_argument, NULL, OPT_HELP},
        {"version", no_argument, NULL, OPT_VERSION},
        {0},
};

static int usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int usage(const char *fmt, ...)
{
    va_list ap;

    (void)fputs("e2ee-relay: ", stderr);
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputs("\nTry 'e2ee-relay --help'.\n", stderr);
    return EX_USAGE;
}

static bool read_number(const char *text, uint64_t max, uint64_t *ret_n)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || n > max)
        return false;
    *ret_n = n;
    return true;
}

static int read_listen(const char *text, struct options *o)
{
    const char *colon = strrchr(text, ':');
    const char *host = text;
    size_t n = colon ? (size_t)(colon - text) : 0;
    uint64_t port;

    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    }
    if (n == 0 || n >= MAX_HOST || !read_number(colon + 1, 65535, &port))
        return usage("--listen %s: not HOST:PORT with a port from 0 to 65535", text);
    memcpy(o->host, host, n);
    o->host[n] = '\0';
    o->port = (uint16_t)port;
    return -1;
}

static int read_name(const char *text, struct options *o)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;

    if (!colon || colon == text || !read_number(colon + 1, 65535, &port) || strlen(text) > RELAY_MAX_HOST)
        return usage("--name %s: not HOST:PORT", text);
    if (o->names == MAX_NAMES)
        return usage("--name: more than %u names", MAX_NAMES);
    o->name[o->names++] = text;
    return -1;
}

/* Which of the words it is; -1: none of them. */
static int which(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(text, words[i]) == 0)
            return (int)i;
    }
    return -1;
}

static int read_limit(const char *text, struct options *o)
{
    static const struct {
        const char *name;
        enum hub_limit limit;
        uint64_t seconds;
    } table[] = {
            {"submit", LIMIT_SUBMIT, 1},
            {"bytes", LIMIT_BYTES, 1},
            {"lookup", LIMIT_LOOKUP, 1},
            {"connect", LIMIT_CONNECT, 1},
            {"register", LIMIT_REGISTER, 60},
            {"claim", LIMIT_CLAIM, 3600},
            {"claim-target", LIMIT_CLAIM_TARGET, 3600},
    };
    const char *equals = strchr(text, '=');
    uint64_t n;

    for (size_t i = 0; equals && i < ARRAY_SIZE(table); i++) {
        size_t len = strlen(table[i].name);

        if (len != (size_t)(equals - text) || memcmp(text, table[i].name, len) != 0)
            continue;
        if (!read_number(equals + 1, UINT32_MAX, &n))
            return usage("--limit %s: not a number up to 4294967295", text);
        /* A burst of four intervals keeps the shape of the defaults. */
        o->limit[table[i].limit] = (struct limit){.rate = n * 1000000 / table[i].seconds, .burst = n * 4};
        return -1;
    }
    return usage(
            "--limit %s: not one of submit, bytes, lookup, connect, register, claim, claim-target, and =N",
            text);
}

static int read_word(const char *option, const char *text, const char *const *words, size_t n, int *ret_which)
{
    int i = which(text, words, n);

    if (i < 0)
        return usage("--%s %s: allowed are %s, %s%s%s", option, text, words[0], words[1], n > 2 ? ", " : "",
                n > 2 ? words[2] : "");
    *ret_which = i;
    return -1;
}

static int read_option(int opt, struct options *o)
{
    static const char *const modes[] = {"open", "token", "closed"};
    static const char *const binding[] = {"off", "required"};
    static const char *const raw[] = {"reject", "echo"};
    uint64_t n = 0;
    int i = 0, r = -1;

    switch (opt) {
    case OPT_LISTEN:
        return read_listen(optarg, o);
    case OPT_STATE:
        o->state = optarg;
        return -1;
    case OPT_NAME:
        return read_name(optarg, o);
    case OPT_REGISTRATION:
        r = read_word("registration", optarg, modes, ARRAY_SIZE(modes), &i);
        o->registration = (enum relay_registration)i;
        return r;
    case OPT_CERT:
        o->tls_cert = optarg;
        return -1;
    case OPT_KEY:
        o->tls_key = optarg;
        return -1;
    case OPT_BINDING:
        r = read_word("channel-binding", optarg, binding, ARRAY_SIZE(binding), &i);
        o->binding_required = i == 1;
        return r;
    case OPT_RAW:
        r = read_word("raw", optarg, raw, ARRAY_SIZE(raw), &i);
        o->raw_echo = i == 1;
        return r;
    case OPT_ENVELOPES:
        if (!read_number(optarg, UINT32_MAX, &n) || n == 0)
            return usage("--mailbox-envelopes %s: not a number from 1 on", optarg);
        o->mailbox_envelopes = (uint32_t)n;
        return -1;
    case OPT_BYTES:
        if (!read_number(optarg, INT64_MAX, &o->mailbox_bytes) || o->mailbox_bytes == 0)
            return usage("--mailbox-bytes %s: not a number from 1 on", optarg);
        return -1;
    case OPT_LIMIT:
        return read_limit(optarg, o);
    case OPT_VERBOSE:
        o->verbose = true;
        return -1;
    case OPT_USES:
        if (!read_number(optarg, 1000000, &n) || n == 0)
            return usage("--uses %s: not a number from 1 to 1000000", optarg);
        o->uses = (uint32_t)n;
        return -1;
    case OPT_HELP:
        (void)fputs(help, stdout);
        return EX_OK;
    case OPT_VERSION:
        (void)printf("e2ee-relay %s\n", E2EED_VERSION);
        return EX_OK;
    default: /* getopt has said what is wrong */
        return EX_USAGE;
    }
}

static int read_command(int argc, char **argv, struct options *o)
{
    const char *command = optind < argc ? argv[optind] : "";
    int words = 1;

    if (strcmp(command, "serve") == 0) {
        o->command = COMMAND_SERVE;
    } else if (strcmp(command, "stats") == 0) {
        o->command = COMMAND_STATS;
    } else if (strcmp(command, "token") == 0 && optind + 1 < argc &&
               strcmp(argv[optind + 1], "create") == 0) {
        o->command = COMMAND_TOKEN_CREATE;
        words = 2;
    } else {
        return usage(*command ? "%s: not a command; there are serve, stats and token create"
                              : "a command is missing%s",
                command);
    }
    if (optind + words < argc)
        return usage("%s: one argument too many", argv[optind + words]);
    return -1;
}

static int check(const struct options *o)
{
    if (!o->state)
        return usage("--state DIR is missing");
    if (o->command != COMMAND_SERVE)
        return -1;
    if (!o->host[0])
        return usage("--listen HOST:PORT is missing");
    if (!o->tls_cert != !o->tls_key)
        return usage("--tls-cert and --tls-key go together");
    return -1;
}

int options_read(int argc, char **argv, struct options *ret_options)
{
    struct options o = {.binding_required = true, .uses = 1};
    int opt, r;

    hub_default_limits(o.limit);
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        r = read_option(opt, &o);
        if (r >= 0)
            return r;
    }
    r = read_command(argc, argv, &o);
    if (r < 0)
        r = check(&o);
    if (r < 0)
        *ret_options = o;
    return r;
}
