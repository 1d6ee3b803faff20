#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli.h"

#define MAX_OPTIONS 32
#define FIRST_VALUE 256 /* what getopt_long() answers for the first option of our tables */
#define HELP_COLUMN 26

static const struct opt global_options[] = {
        {"account", OPT_STRING, offsetof(struct cli, account), "NAME", "talk to the daemon of this account",
                0, NULL},
        {"socket", OPT_STRING, offsetof(struct cli, socket), "PATH",
                "talk to the daemon at this socket (default: $E2EED_SOCKET, else that of the account "
                "'default')",
                0, NULL},
        {"json", OPT_FLAG, offsetof(struct cli, json), NULL,
                "one JSON object a line, errors too (on standard error)", 0, NULL},
        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
};

/* Options that struct cli does not hold as they are given. */
struct extra {
    struct number timeout;
    bool help, version;
};
static const struct opt extra_options[] = {
        {"timeout", OPT_DURATION, offsetof(struct extra, timeout), "DURATION",
                "give up after this time, with exit code 75 (default 30s; listen: never)", 0, NULL},
        {"help", OPT_FLAG, offsetof(struct extra, help), NULL, "what you are reading; for each verb too", 0,
                NULL},
        {"version", OPT_FLAG, offsetof(struct extra, version), NULL, "the release", 0, NULL},
        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
};

/* One getopt_long() table made of several of ours, each with the struct that its values go to. */
struct parser {
    struct option table[MAX_OPTIONS + 1];
    const struct opt *opt[MAX_OPTIONS];
    char *base[MAX_OPTIONS];
    int n;
};

int args_error(const struct cli *c, const char *fmt, ...)
{
    char text[512];
    const char *space = c->name[0] ? " " : "";
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return fail(c, EX_USAGE, "%s%s%s; see 'e2eectl%s%s --help'", c->name, c->name[0] ? ": " : "", text, space,
            c->name);
}

static uint64_t unit_ms(const char *unit, size_t n)
{
    static const struct {
        const char *name;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000},
            {"w", 604800000}};

    if (n == 0)
        return 1000;
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (strlen(units[i].name) == n && memcmp(units[i].name, unit, n) == 0)
            return units[i].ms;
    }
    return 0;
}

bool args_duration(const char *text, uint64_t *ret_ms)
{
    uint64_t sum = 0;
    const char *p = text;

    while (*p) {
        const char *unit;
        char *end;
        unsigned long long n;
        uint64_t ms;

        if (!isdigit((unsigned char)*p))
            return false;
        errno = 0;
        n = strtoull(p, &end, 10);
        unit = p = end;
        while (isalpha((unsigned char)*p))
            p++;
        ms = unit_ms(unit, (size_t)(p - unit));
        if (errno || ms == 0 || n > (UINT64_C(1) << 50) / ms || (p == unit && *p))
            return false;
        sum += n * ms;
    }
    if (sum == 0 || sum > UINT64_C(1) << 50)
        return false;
    *ret_ms = sum;
    return true;
}

bool args_time(const char *text, uint64_t now_ms, uint64_t *ret_ms)
{
    static const char *const formats[] = {
            "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"};
    uint64_t ms;

    if (text[0] == '+') {
        if (!args_duration(text + 1, &ms))
            return false;
        *ret_ms = now_ms + ms;
        return true;
    }
    for (size_t i = 0; i < COUNT_OF(formats); i++) {
        struct tm tm = {.tm_isdst = -1};
        const char *end = strptime(text, formats[i], &tm);
        time_t t;

        if (!end || (*end && strcmp(end, "Z") != 0))
            continue;
        t = *end ? timegm(&tm) : mktime(&tm);
        if (t < 0)
            return false;
        *ret_ms = (uint64_t)t * 1000;
        return true;
    }
    return false;
}

static uint64_t wall_ms(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *ret_n)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno || n > max)
        return false;
    *ret_n = n;
    return true;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);

    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
        if (n > 0 && strncmp(p, text, n) == 0 && (p[n] == '|' || !p[n]))
            return true;
    }
    return false;
}

static int store_number(const struct cli *c, const struct opt *o, struct number *to, const char *text)
{
    bool ok;

    if (o->type == OPT_NUMBER)
        ok = parse_number(text, o->max, &to->n);
    else if (o->type == OPT_DURATION)
        ok = args_duration(text, &to->n);
    else
        ok = args_time(text, wall_ms(), &to->n);
    to->set = ok;
    if (ok)
        return 0;
    if (o->type == OPT_NUMBER)
        return args_error(
                c, "--%s takes a number from 0 to %llu, not '%s'", o->name, (unsigned long long)o->max, text);
    if (o->type == OPT_DURATION)
        return args_error(
                c, "--%s takes a duration such as 500ms, 90s, 10m, 1h30m or 7d, not '%s'", o->name, text);
    return args_error(c, "--%s takes a time such as +10m, 2030-12-31T18:00 or 2030-12-31T18:00:00Z, not '%s'",
            o->name, text);
}

static int store(const struct cli *c, const struct opt *o, char *base, const char *text)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): getopt_long() returns only what was added */
    void *to = base + o->at;

    if (o->type == OPT_FLAG) {
        *(bool *)to = true;
        return 0;
    }
    if (o->type != OPT_STRING && o->type != OPT_CHOICE)
        return store_number(c, o, to, text);
    if (o->type == OPT_CHOICE && !is_choice(o->choices, text))
        return args_error(c, "--%s takes %s, not '%s'", o->name, o->choices, text);
    *(const char **)to = text;
    return 0;
}

static void parser_add(struct parser *p, const struct opt *options, void *base)
{
    for (const struct opt *o = options; o && o->name && p->n < MAX_OPTIONS; o++) {
        p->table[p->n] = (struct option){
                o->name, o->type == OPT_FLAG ? no_argument : required_argument, NULL, FIRST_VALUE + p->n};
        p->opt[p->n] = o;
        p->base[p->n] = base;
        p->n++;
    }
}

static int parser_run(struct parser *p, const struct cli *c, int argc, char **argv, bool permute)
{
    int i, r;

    optind = 0;
    opterr = 0;
    while ((i = getopt_long(argc, argv, permute ? ":h" : "+:h", p->table, NULL)) != -1) {
        if (i == 'h')
            i = FIRST_VALUE + p->n - 2; /* --help is the last but one of the tables */
        if (i == ':')
            return args_error(c, "%s needs a value", argv[optind - 1]);
        if (i == '?' && optopt > 0 && optopt < FIRST_VALUE)
            return args_error(c, "unknown option '-%c'", optopt);
        if (i == '?')
            return args_error(c, "unknown option '%s'", argv[optind - 1]);
        r = store(c, p->opt[i - FIRST_VALUE], p->base[i - FIRST_VALUE], optarg);
        if (r)
            return r;
    }
    return 0;
}

static void help_option(const struct opt *o)
{
    int n = printf("  --%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");

    if (n > HELP_COLUMN - 2) {
        (void)putchar('\n');
        n = 0;
    }
    (void)printf("%*s", HELP_COLUMN - n, "");
    out_wrapped(o->text, HELP_COLUMN, HELP_COLUMN);
}

static void help_options(const char *title, const struct opt *options)
{
    if (!options || !options->name)
        return;
    (void)printf("\n%s:\n", title);
    for (const struct opt *o = options; o->name; o++)
        help_option(o);
}

static void help_verbs(const char *prefix, const struct verb *verbs)
{
    for (const struct verb *v = verbs; v->name; v++) {
        int n = printf("  %s%s%s %s", prefix, prefix[0] ? " " : "", v->name, v->operands ? v->operands : "");

        if (n > HELP_COLUMN - 2) {
            (void)putchar('\n');
            n = 0;
        }
        (void)printf("%*s", HELP_COLUMN - n, "");
        out_wrapped(v->summary, HELP_COLUMN, HELP_COLUMN);
    }
}

static int help(const struct cli *c, const struct verb *v)
{
    bool root = !c->name[0];
    const char *options = v->options || root ? " [OPTIONS]" : "";

    (void)printf("Usage: e2eectl%s%s%s%s%s\n\n", root ? "" : " ", c->name, options,
            v->verbs      ? " VERB"
            : v->operands ? " "
                          : "",
            v->verbs      ? " ..."
            : v->operands ? v->operands
                          : "");
    out_wrapped(v->summary, 0, 0);
    if (v->help) {
        (void)putchar('\n');
        out_wrapped(v->help, 0, 0);
    }
    if (v->verbs) {
        (void)printf("\nVerbs:\n");
        help_verbs("", v->verbs);
    }
    help_options("Options", v->options);
    if (!root) {
        (void)printf("\nOptions for all verbs: --account NAME, --socket PATH, --json,\n"
                     "--timeout DURATION; 'e2eectl --help' describes them and the exit codes.\n");
        return 0;
    }
    help_options("Options, before or behind the verb", global_options);
    for (const struct opt *o = extra_options; o->name; o++)
        help_option(o);
    (void)printf("\nExit codes:\n");
    exits_print();
    return 0;
}

/* Copies the next operand's name to ret_name; false at the end. */
static bool next_operand(const char **at, char ret_name[32], bool *ret_optional, bool *ret_repeats)
{
    size_t n;

    *at += strspn(*at, " ");
    n = strcspn(*at, " ");
    if (n == 0)
        return false;
    *ret_optional = **at == '[';
    *ret_repeats = memmem(*at, n, "...", 3) != NULL;
    (void)snprintf(ret_name, 32, "%.*s", (int)strcspn(*at + *ret_optional, " .]"), *at + *ret_optional);
    *at += n;
    return true;
}

static int check_operands(const struct cli *c, const struct verb *v, char **operands, int n)
{
    const char *at = v->operands ? v->operands : "";
    char name[32];
    bool optional, repeats = false;
    int i = 0;

    while (next_operand(&at, name, &optional, &repeats)) {
        if (i >= n && !optional)
            return args_error(c, "%s is missing", name);
        if (i < n && !operands[i][0] && strcmp(name, "TEXT") != 0)
            return args_error(c, "%s is empty", name);
        i++;
    }
    if (i < n && !repeats)
        return args_error(c, "unexpected argument '%s'%s", operands[i],
                strstr(v->operands ? v->operands : "", "TEXT") ? "; a text with spaces needs quotes" : "");
    if (n > MAX_OPERANDS)
        return args_error(c, "at most %d arguments, not %d", MAX_OPERANDS, n);
    return 0;
}

static const struct verb *find_verb(const struct verb *verbs, const char *name)
{
    while (verbs->name && strcmp(verbs->name, name) != 0)
        verbs++;
    return verbs->name ? verbs : NULL;
}

static int apply(struct cli *c, const struct extra *x)
{
    if (c->account && c->socket)
        return args_error(c, "--account and --socket exclude each other");
    if (x->timeout.set && x->timeout.n > INT_MAX / 2)
        return args_error(c, "--timeout is at most 12d");
    if (x->timeout.set)
        c->timeout_ms = (int)x->timeout.n;
    return 0;
}

static int run_level(struct cli *c, const struct verb *v, struct extra *x, int argc, char **argv)
{
    _Alignas(max_align_t) char args[MAX_ARGS_SIZE] = {0};
    struct parser p = {.n = 0};
    int r;

    parser_add(&p, v->options, args);
    parser_add(&p, global_options, c);
    parser_add(&p, extra_options, x);
    r = parser_run(&p, c, argc, argv, !v->verbs);
    if (r)
        return r;
    if (x->version)
        return printf("e2eectl %s\n", e2eectl_version()) < 0 ? EX_IOERR : 0;
    if (x->help)
        return help(c, v);
    if (!v->verbs) {
        r = check_operands(c, v, argv + optind, argc - optind);
        if (r == 0)
            r = apply(c, x);
        return r ? r : v->run(c, args, argv + optind, argc - optind);
    }
    if (optind >= argc)
        return args_error(c, "a verb is missing");
    const struct verb *next = find_verb(v->verbs, argv[optind]);
    if (!next)
        return args_error(c, "there is no verb '%s'", argv[optind]);
    size_t n = strlen(c->name);
    (void)snprintf(c->name + n, sizeof(c->name) - n, "%s%s", n ? " " : "", next->name);
    return run_level(c, next, x, argc - optind, argv + optind);
}

int args_run(struct cli *c, const struct verb *root, int argc, char **argv)
{
    struct extra x = {.help = false};

    return run_level(c, root, &x, argc, argv);
}
