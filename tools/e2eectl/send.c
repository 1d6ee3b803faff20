#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

struct send_args {
    const char *file, *wait, *id;
    struct number qos, ttl, not_before;
    bool require_verified, bytes;
};

/* The outcome of waiting, for people or as JSON; seq 0: not known here. */
static int print_state(const struct cli *c, const char *id, uint64_t seq, const struct e2eectl_value *outcome)
{
    const char *state = e2eectl_get_string(outcome, "state"), *reason = e2eectl_get_string(outcome, "reason");
    int code = exit_of_reason(state ? state : "", reason);

    if (c->json) {
        (void)printf("{\"id\": ");
        out_json_string(id);
        if (seq)
            (void)printf(", \"seq\": %llu", (unsigned long long)seq);
        (void)printf(", \"state\": ");
        out_json_string(state ? state : "");
        if (reason) {
            (void)printf(", \"reason\": ");
            out_json_string(reason);
        }
        (void)printf("}\n");
        return code;
    }
    out_string(id);
    (void)putchar(' ');
    out_string(state ? state : "?");
    (void)putchar('\n');
    if (code)
        return fail(c, code, "message %s %s%s%s", id, state, reason ? ": " : "", reason ? reason : "");
    return 0;
}

static void print_sent(const struct cli *c, const char *id, uint64_t seq)
{
    if (!c->json) {
        out_string(id);
        (void)putchar('\n');
        return;
    }
    (void)printf("{\"id\": ");
    out_json_string(id);
    (void)printf(", \"seq\": %llu}\n", (unsigned long long)seq);
}

static int wait_for(struct cli *c, const char *id, uint64_t seq, const char *until)
{
    CLEANUP_VALUE struct e2eectl_value *outcome = NULL;
    int r;

    /* Whoever waits wants to know the id now, in case this program is stopped. */
    if (!c->json && c->tty && seq) {
        (void)fprintf(stderr, "queued; waiting until it is %s\n", until);
        (void)fflush(stderr);
    }
    r = e2eectl_wait(c->h, id, until, cli_timeout(c), &outcome);
    if (r && seq)
        print_sent(c, id, seq);
    if (r)
        return fail_call(c, r);
    return print_state(c, id, seq, outcome);
}

/* Where the body comes from: TEXT, "-" or --file. */
static int read_body(const struct cli *c, const struct send_args *a, char **operands, int n, char **ret_text,
        size_t *ret_n)
{
    const char *text = n > 1 ? operands[1] : NULL;

    if (text && a->file)
        return args_error(c, "'%s' and --file exclude each other", text);
    if (!text && !a->file)
        return args_error(c, "TEXT is missing: give a text, - for standard input, or --file F");
    if (a->file || strcmp(text, "-") == 0)
        return cli_read_input(c, a->file ? a->file : text, E2EECTL_MAX_BODY, "a message", ret_text, ret_n);
    if (strlen(text) > E2EECTL_MAX_BODY)
        return fail(c, EX_DATAERR, "send: TEXT is longer than %d bytes, the most that a message may have",
                E2EECTL_MAX_BODY);
    *ret_text = strdup(text);
    if (!*ret_text)
        return fail(c, EX_OSERR, "no memory");
    *ret_n = strlen(text);
    return 0;
}

/* As text where it is text; what comes from a file or a pipe and is none goes as bytes. */
static int send_body(struct cli *c, const struct send_args *a, struct e2eectl_send_options *o, bool typed,
        const char *body, size_t n, char id[E2EECTL_ID_SIZE], uint64_t *ret_seq)
{
    int r = -EILSEQ;

    /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): read_body() has succeeded */
    if (!a->bytes && !memchr(body, 0, n)) {
        o->text = body;
        o->text_len = n;
        r = e2eectl_send(c->h, o, id, ret_seq);
    }
    if (r != -EILSEQ)
        return r ? fail_call(c, r) : 0;
    if (typed && !a->bytes)
        return fail(c, EX_DATAERR, "send: TEXT is not valid UTF-8; --bytes sends it as bytes");
    o->text = NULL;
    o->bytes = body;
    o->bytes_len = n;
    r = e2eectl_send(c->h, o, id, ret_seq);
    return r ? fail_call(c, r) : 0;
}

static int run_send(struct cli *c, const void *args, char **operands, int n)
{
    static const enum e2eectl_qos qos[] = {
            E2EECTL_QOS_NOT_STORED, E2EECTL_QOS_AT_LEAST_ONCE, E2EECTL_QOS_EXACTLY_ONCE};
    const struct send_args *a = args;
    struct e2eectl_send_options o = {
            .size = sizeof(o), .to = operands[0], .id = a->id, .require_verified = a->require_verified};
    CLEANUP_TEXT char *body = NULL;
    char id[E2EECTL_ID_SIZE];
    uint64_t seq = 0;
    size_t len = 0;
    int r = read_body(c, a, operands, n, &body, &len);

    if (r == 0)
        r = cli_connect(c);
    if (r)
        return r; /* NOLINT(clang-analyzer-unix.Malloc): CLEANUP_TEXT frees body */
    o.qos = a->qos.set ? qos[a->qos.n] : E2EECTL_QOS_DEFAULT;
    o.ttl_ms = a->ttl.n;
    o.not_before_ms = a->not_before.n;
    r = send_body(c, a, &o, !a->file && strcmp(operands[1], "-") != 0, body, len, id, &seq);
    if (r)
        return r;
    if (a->wait)
        return wait_for(c, id, seq, a->wait);
    print_sent(c, id, seq);
    return 0;
}

const struct verb verb_send = {
        .name = "send",
        .operands = "USER [TEXT]",
        .summary = "send a message; prints its id once it is safe at the daemon",
        .help = "TEXT - reads standard input. A body has at most 65,536 bytes. What is read from standard "
                "input or a file and is "
                "not valid UTF-8 text is sent as bytes. With --wait the exit code tells what became of the "
                "message: 75 not yet (it "
                "stays on its way) or expired, 77 key changed or blocked, 69 failed otherwise.",
        .options =
                (const struct opt[]){
                        {"file", OPT_STRING, offsetof(struct send_args, file), "F",
                                "send the contents of this file", 0, NULL},
                        {"wait", OPT_CHOICE, offsetof(struct send_args, wait), "STATE",
                                "wait until it is sent (safe at the relay), delivered (safe at the "
                                "recipient's daemon) or read",
                                0, "sent|delivered|read"},
                        {"id", OPT_STRING, offsetof(struct send_args, id), "ID",
                                "name of the message: sending with the same name again does not send it "
                                "twice",
                                0, NULL},
                        {"qos", OPT_NUMBER, offsetof(struct send_args, qos), "N",
                                "0: only if the recipient is there now; 1: at least once; 2: exactly once "
                                "(default)",
                                2, NULL},
                        {"ttl", OPT_DURATION, offsetof(struct send_args, ttl), "DURATION",
                                "give up when it was not delivered after this time (default and at most 30d)",
                                0, NULL},
                        {"not-before", OPT_TIME, offsetof(struct send_args, not_before), "TIME",
                                "send later: +10m, 2030-12-31T18:00, 2030-12-31T18:00:00Z", 0, NULL},
                        {"require-verified", OPT_FLAG, offsetof(struct send_args, require_verified), NULL,
                                "only if the recipient's key has been verified", 0, NULL},
                        {"bytes", OPT_FLAG, offsetof(struct send_args, bytes), NULL,
                                "send as bytes even if it is text", 0, NULL},
                        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
                },
        .args_size = sizeof(struct send_args),
        .run = run_send,
};

struct wait_args {
    const char *until;
};

static int run_wait(struct cli *c, const void *args, char **operands, int n)
{
    const struct wait_args *a = args;
    int r = cli_connect(c);

    (void)n;
    return r ? r : wait_for(c, operands[0], 0, a->until ? a->until : "delivered");
}

const struct verb verb_wait = {
        .name = "wait",
        .operands = "ID",
        .summary = "wait until a message has arrived",
        .help = "Prints the state reached. Exit codes as for 'send --wait'.",
        .options =
                (const struct opt[]){
                        {"until", OPT_CHOICE, offsetof(struct wait_args, until), "STATE",
                                "sent, delivered (default) or read", 0, "sent|delivered|read"},
                        {NULL, OPT_FLAG, 0, NULL, NULL, 0, NULL},
                },
        .args_size = sizeof(struct wait_args),
        .run = run_wait,
};

static int run_read(struct cli *c, const void *args, char **operands, int n)
{
    int r = cli_connect(c);

    (void)args;
    if (r)
        return r;
    r = e2eectl_read(c->h, operands[0], (const char *const *)(operands + 1), (size_t)n - 1);
    return r ? fail_call(c, r) : 0;
}

const struct verb verb_read = {
        .name = "read",
        .operands = "USER ID...",
        .summary = "tell USER that you have read these messages",
        .help = "The IDs are those of message events. Nothing is sent where the account's receipts are "
                "switched off.",
        .run = run_read,
};
