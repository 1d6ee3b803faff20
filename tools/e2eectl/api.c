#include <stdio.h>
#include <string.h>

#include "cli.h"

static int run_raw(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_PARAMS struct e2eectl_params *p = NULL;
    int r = cli_connect(c);

    (void)args;
    (void)n;
    if (r)
        return r;
    p = e2eectl_params_new();
    e2eectl_params_string(p, "text", operands[0]);
    r = e2eectl_call(c->h, "raw.write", p, cli_timeout(c), NULL);
    return r ? fail_call(c, r) : 0;
}

const struct verb verb_raw = {
        .name = "raw",
        .operands = "TEXT",
        .summary = "send a text frame past the protocol, unencrypted (for tests)",
        .help = "The relay refuses it unless it runs with --raw echo. What comes back is an event of type "
                "raw.",
        .run = run_raw,
};

static int run_api(struct cli *c, const void *args, char **operands, int n)
{
    CLEANUP_TEXT char *input = NULL, *result = NULL;
    const char *params = n > 1 ? operands[1] : NULL;
    size_t len = 0;
    int r = 0;

    (void)args;
    if (params && strcmp(params, "-") == 0) {
        r = cli_read_input(c, "-", E2EECTL_MAX_MESSAGE, "a request", &input, &len);
        params = input;
    }
    if (r == 0 && input && strlen(input) != len)
        r = fail(c, EX_DATAERR, "api: standard input holds a zero byte, which JSON does not");
    if (r == 0)
        r = cli_connect(c);
    if (r)
        return r;
    r = e2eectl_call_json(c->h, operands[0], params, cli_timeout(c), &result);
    if (r)
        return fail_call(c, r);
    out_json_text(result);
    return 0;
}

const struct verb verb_api = {
        .name = "api",
        .operands = "METHOD [JSON]",
        .summary = "call any method of the daemon: JSON in, JSON out",
        .help = "JSON is an object with the parameters; - reads it from standard input. {\"base64\": "
                "\"...\"} stands for bytes, both ways. "
                "'e2eectl api api_info' describes all methods.",
        .run = run_api,
};
