#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define MAX_TYPES 64
#define MAX_BURST 64 /* events printed before they are acknowledged together */

struct listen_args {
    const char *consumer, *types;
    struct number after, count;
};

struct listener {
    struct cli *c;
    const char *consumer;
    uint64_t left;     /* events still wanted; UINT64_MAX: no end */
    int64_t deadline;  /* ms of CLOCK_MONOTONIC; -1: none */
    uint64_t last_seq; /* of the last event printed */
    int signals;       /* signalfd for SIGINT, SIGTERM, SIGHUP */
    int stop_signal;   /* the one that came */
    int ack_result;
};

static int64_t mono_ms(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int print_time(const struct cli *c, const struct e2eectl_value *event)
{
    time_t t = (time_t)(e2eectl_get_int(event, "time", 0) / 1000);
    char text[32] = "";
    struct tm tm;

    if (localtime_r(&t, &tm))
        (void)strftime(text, sizeof(text), c->tty ? "%H:%M:%S " : "%Y-%m-%dT%H:%M:%S ", &tm);
    out_style(c, STYLE_DIM);
    (void)fputs(text, stdout);
    out_style(c, STYLE_NONE);
    return (int)strlen(text);
}

static void print_message(const struct cli *c, const struct e2eectl_value *event)
{
    const char *from = e2eectl_get_string(event, "from");
    bool verified = e2eectl_get_bool(event, "verified", false);
    size_t n;
    const char *text = e2eectl_get_bytes(event, "text", &n);
    int indent = print_time(c, event) + 2;

    out_style(c, verified ? STYLE_GOOD : STYLE_BOLD);
    out_string(from ? from : "?");
    out_style(c, STYLE_NONE);
    (void)fputs(verified ? ": " : " (unverified): ", stdout);
    if (text) {
        out_text(text, n, indent);
    } else {
        (void)e2eectl_get_bytes(event, "bytes", &n);
        (void)printf("[%zu bytes; --json shows them]", n);
    }
    (void)putchar('\n');
}

/* How people read the events; {key} is a member, and a part in [] is left out where its member is missing. */
static const struct {
    const char *type, *format;
} formats[] = {
        {"connected", "connected to {relay}"},
        {"disconnected", "disconnected[: {reason}]"},
        {"error", "error {code}: {text}[ (from {from})]"},
        {"message_ack", "message {id} to {to}: {state}[, {reason}]"},
        {"key_changed", "the key of {user} has changed; see: e2eectl contact show {user}"},
        {"session_reset", "new session with {user}[: {reason}]"},
        {"raw", "raw: {text}"},
        {"gap", "events {from} to {to} are no longer kept"},
};

static void print_member(const struct e2eectl_value *v)
{
    CLEANUP_TEXT char *json = NULL;
    const char *s = e2eectl_value_string(v);

    if (s)
        out_string(s);
    else if (v && e2eectl_value_json(v, &json) == 0)
        out_string(json);
    else
        (void)putchar('?');
}

static const struct e2eectl_value *member(const struct e2eectl_value *event, const char *brace)
{
    char key[32];

    (void)snprintf(key, sizeof(key), "%.*s", (int)strcspn(brace + 1, "}"), brace + 1);
    return e2eectl_value_get(event, key);
}

static void print_format(const struct e2eectl_value *event, const char *f)
{
    for (; *f; f++) {
        if (*f == '[' && !member(event, strchr(f, '{')))
            f = strchr(f, ']');
        else if (*f == '{') {
            print_member(member(event, f));
            f = strchr(f, '}');
        } else if (*f != '[' && *f != ']') {
            (void)putchar(*f);
        }
    }
}

/* An event of a release that is newer than this program. */
static void print_members(const struct e2eectl_value *event, const char *type)
{
    out_string(type);
    for (const struct e2eectl_value *v = e2eectl_value_first(event); v; v = e2eectl_value_next(v)) {
        const char *key = e2eectl_value_key(v);

        if (strcmp(key, "seq") == 0 || strcmp(key, "type") == 0 || strcmp(key, "time") == 0)
            continue;
        (void)putchar(' ');
        out_string(key);
        (void)putchar('=');
        print_member(v);
    }
}

static void print_other(const struct cli *c, const struct e2eectl_value *event, const char *type)
{
    const char *format = NULL;

    for (size_t i = 0; i < COUNT_OF(formats); i++) {
        if (strcmp(formats[i].type, type) == 0)
            format = formats[i].format;
    }
    (void)print_time(c, event);
    (void)fputs("* ", stdout);
    if (format)
        print_format(event, format);
    else
        print_members(event, type);
    (void)putchar('\n');
}

static void print_event(const struct cli *c, const struct e2eectl_value *event)
{
    const char *type = e2eectl_get_string(event, "type");

    if (c->json)
        out_json(event);
    else if (type && strcmp(type, "message") == 0)
        print_message(c, event);
    else
        print_other(c, event, type ? type : "?");
}

static void acked(struct e2eectl *h, int result, const struct e2eectl_value *value, void *ctx)
{
    struct listener *l = ctx;

    (void)h;
    (void)value;
    if (result)
        l->ack_result = result;
}

/* What is printed and flushed is acknowledged; the answer is not waited for. */
static int acknowledge(struct listener *l, uint64_t *acked_seq)
{
    CLEANUP_PARAMS struct e2eectl_params *p = NULL;
    int r = out_flush();

    if (r || !l->consumer || l->last_seq == *acked_seq)
        return r;
    p = e2eectl_params_new();
    e2eectl_params_string(p, "consumer", l->consumer);
    e2eectl_params_int(p, "seq", (int64_t)l->last_seq);
    r = e2eectl_call_async(l->c->h, "ack", p, acked, l, NULL);
    *acked_seq = l->last_seq;
    return r ? fail_call(l->c, r) : 0;
}

/* Prints what has come. *ret_more: there may be more at once. */
static int print_burst(struct listener *l, uint64_t *acked_seq, bool *ret_more)
{
    int r = 0, n = 0;

    while (n < MAX_BURST && l->left > 0) {
        CLEANUP_VALUE struct e2eectl_value *event = NULL;

        r = e2eectl_next_event(l->c->h, 0, &event);
        if (r)
            break;
        print_event(l->c, event);
        l->last_seq = (uint64_t)e2eectl_get_int(event, "seq", (int64_t)l->last_seq);
        l->left -= l->left == UINT64_MAX ? 0 : 1;
        n++;
    }
    *ret_more = r == 0;
    if (r && r != -ETIMEDOUT) {
        (void)acknowledge(l, acked_seq);
        return fail_call(l->c, r);
    }
    return acknowledge(l, acked_seq);
}

/* Waits for the daemon, a signal, the end of time, or the reader of our output going away. */
static int wait_for_more(struct listener *l, bool *ret_over)
{
    struct pollfd p[] = {{.fd = e2eectl_fd(l->c->h), .events = (short)e2eectl_events(l->c->h)},
            {.fd = l->signals, .events = POLLIN}, {.fd = STDOUT_FILENO}};
    int64_t left = l->deadline < 0 ? -1 : l->deadline - mono_ms();
    struct signalfd_siginfo info;

    if (l->deadline >= 0 && left <= 0) {
        *ret_over = true;
        return 0;
    }
    if (poll(p, COUNT_OF(p), (int)left) < 0 && errno != EINTR)
        return fail(l->c, EX_OSERR, "listen: cannot wait: %s", strerror(errno));
    if (p[1].revents && read(l->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        l->stop_signal = (int)info.ssi_signo;
    else if (p[2].revents & POLLERR)
        l->stop_signal = SIGPIPE;
    *ret_over = l->stop_signal != 0;
    return 0;
}

static int listen_loop(struct listener *l)
{
    uint64_t acked_seq = 0;
    bool over = false;

    while (!over && l->left > 0) {
        bool more;
        int r = print_burst(l, &acked_seq, &more);

        if (r == 0 && l->ack_result)
            r = fail_call(l->c, l->ack_result);
        if (r == 0 && !more && l->left > 0)
            r = wait_for_more(l, &over);
        if (r)
            return r;
    }
    if (!l->stop_signal && l->left > 0 && l->left != UINT64_MAX)
        return fail(
                l->c, EX_TEMPFAIL, "listen: %llu events did not come in time", (unsigned long long)l->left);
    return 0;
}

/* Acknowledgments under way are waited for, so that what was printed does not come again. */
static int finish(struct listener *l)
{
    int64_t end = mono_ms() + cli_timeout(l->c);

    while (e2eectl_calls(l->c->h) > 0 && mono_ms() < end) {
        struct pollfd p = {.fd = e2eectl_fd(l->c->h), .events = (short)e2eectl_events(l->c->h)};

        if (poll(&p, 1, 100) < 0 && errno != EINTR)
            break;
        int r = e2eectl_dispatch(l->c->h);
        if (r)
            return fail_call(l->c, r);
    }
    if (e2eectl_calls(l->c->h) > 0)
        return fail(
                l->c, EX_TEMPFAIL, "listen: the daemon did not confirm what was printed; it will come again");
    return l->ack_result ? fail_call(l->c, l->ack_result) : 0;
}

static int watch_signals(struct listener *l)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    l->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return l->signals < 0 ? fail(l->c, EX_OSERR, "listen: cannot watch signals: %s", strerror(errno)) : 0;
}

/* Ends by the signal that stopped us, so that a shell or service manager sees it. */
static void end_by_signal(const struct listener *l)
{
    sigset_t set;

    if (!l->stop_signal)
        return;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, l->stop_signal);
    (void)signal(l->stop_signal, SIG_DFL);
    (void)raise(l->stop_signal);
    (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* Splits "a,b" in place. */
static size_t split_types(char *text, const char *types[MAX_TYPES])
{
    char *save = NULL;
    size_t n = 0;

    for (char *t = strtok_r(text, ",", &save); t && n < MAX_TYPES; t = strtok_r(NULL, ",", &save))
        types[n++] = t;
    return n;
}

static int subscribe(struct cli *c, const struct listen_args *a)
{
    struct e2eectl_subscribe_options o = {
            .size = sizeof(o), .consumer = a->consumer, .has_after = a->after.set, .after = a->after.n};
    const char *types[MAX_TYPES];
    CLEANUP_TEXT char *text = NULL;
    int r;

    if (a->types) {
        text = strdup(a->types);
        if (!text)
            return fail(c, EX_OSERR, "no memory");
        o.types = types;
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): CLEANUP_TEXT frees text */
        o.n_types = split_types(text, types);
        if (o.n_types == 0)
            return args_error(c, "--types takes names of events, such as message,message_ack");
    }
    r = e2eectl_subscribe(c->h, &o, NULL, NULL);
    return r ? fail_call(c, r) : 0;
}

static int run_listen(struct cli *c, const void *args, char **operands, int n)
{
    const struct listen_args *a = args;
    struct listener l = {
            .c = c, .consumer = a->consumer, .left = a->count.set ? a->count.n : UINT64_MAX, .deadline = -1};
    int r = cli_connect(c), end;

    (void)operands;
    (void)n;
    if (r == 0)
        r = watch_signals(&l);
    if (r == 0)
        r = subscribe(c, a);
    if (r)
        return r;
    if (c->timeout_ms > 0)
        l.deadline = mono_ms() + c->timeout_ms;
    r = listen_loop(&l);
    end = r == 0 || r == EX_TEMPFAIL ? finish(&l) : 0;
    (void)close(l.signals);
    end_by_signal(&l);
    return r ? r : end;
}

const struct verb verb_listen = {
        .name = "listen",
        .summary = "print events as they come",
        .help = "Without --consumer and --after it begins with what comes now. With --consumer the daemon "
                "remembers what was printed: an "
                "event is acknowledged when it has been written out, and the next run goes on behind it; "
                "events of other types than those of "
                "--types count as printed. With --timeout it ends after that time; exit code 75 if fewer "
                "events came than --count asked for.",
        .options =
                (const struct opt[]){
                        {"consumer", OPT_STRING, offsetof(struct listen_args, consumer), "NAME",
                                "resume where this name stands", 0, NULL},
                        {"types", OPT_STRING, offsetof(struct listen_args, types), "A,B",
                                "only these types, such as message,message_ack", 0, NULL},
                        {"after", OPT_NUMBER, offsetof(struct listen_args, after), "SEQ",
                                "begin behind this event; 0: the oldest kept", UINT64_C(1) << 53, NULL},
                        {"count", OPT_NUMBER, offsetof(struct listen_args, count), "N",
                                "end after so many events", UINT64_C(1) << 53, NULL},
                        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
                },
        .args_size = sizeof(struct listen_args),
        .run = run_listen,
};
