/*
 * e2eectl, the command line: what its files share. It stands on libe2eectl alone.
 *
 * Results of functions that end a verb are exit codes (sysexits), 0 for success; whoever returns another one
 * has told the user why.
 */
#ifndef E2EECTL_CLI_H
#define E2EECTL_CLI_H

#include <stdlib.h>
#include <sysexits.h>

#include "e2eectl.h"

#define MAX_OPERANDS 256
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

struct verb;

struct cli {
    const char *account, *socket; /* NULL: not given */
    bool json;
    bool tty, color; /* of standard output */
    int timeout_ms;  /* 0: not given */
    char name[64];   /* the verb in full, "contact add" */
    struct e2eectl *h;
};

/* ---- args.c: one table of options serves the parser and --help ---- */

struct number {
    bool set;
    uint64_t n;
};

enum opt_type {
    OPT_FLAG,     /* bool */
    OPT_STRING,   /* const char * */
    OPT_NUMBER,   /* struct number, at most max */
    OPT_DURATION, /* struct number in ms: 90s, 10m, 1h30m; a bare number is seconds */
    OPT_TIME,     /* struct number in ms since 1970 */
    OPT_CHOICE,   /* const char *, one of choices ("a|b|c") */
};

/* Ends with name == NULL. `at` is the offset in the verb's struct of arguments. */
struct opt {
    const char *name;
    enum opt_type type;
    size_t at;
    const char *arg; /* how --help calls the value; NULL for flags */
    const char *text;
    uint64_t max;
    const char *choices;
};

/*
 * operands: the names of the operands, "USER [TEXT]"; in brackets: may be left out; the last may end with
 * "..." and repeat. A verb with verbs of its own has no run.
 */
struct verb {
    const char *name, *operands, *summary, *help;
    const struct opt *options;
    size_t args_size;
    int (*run)(struct cli *c, const void *args, char **operands, int n);
    const struct verb *verbs;
};
#define MAX_ARGS_SIZE 256

/* Finds and runs the verb of the command line. */
int args_run(struct cli *c, const struct verb *root, int argc, char **argv);
/* "e2eectl VERB: …; see 'e2eectl VERB --help'" on standard error. Returns EX_USAGE. */
int args_error(const struct cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* false if text is none. */
bool args_duration(const char *text, uint64_t *ret_ms);
bool args_time(const char *text, uint64_t now_ms, uint64_t *ret_ms);

/* ---- exits.c: the one table of exit codes ---- */

int exit_of(int result);
/* What to do about an error of the library, or NULL. */
const char *exit_hint(int result);
/* Why a message did not arrive, as `wait` names it. */
int exit_of_reason(const char *state, const char *reason);
void exits_print(void);

/* ---- output.c ---- */

enum style { STYLE_NONE, STYLE_BOLD, STYLE_DIM, STYLE_GOOD, STYLE_BAD };
void out_style(const struct cli *c, enum style style);
/*
 * Text that somebody else wrote, for people: no control character, no change of writing direction and no
 * invalid UTF-8 gets through. Lines after the first are indented, so that no text can pass for an output of
 * ours.
 */
void out_text(const char *text, size_t n, int indent);
void out_string(const char *text);
/* One JSON object and a newline; control characters are escaped. */
void out_json(const struct e2eectl_value *value);
void out_json_text(const char *json);
/* A JSON string literal. */
void out_json_string(const char *text);
/* The members of a map, one a line. */
void out_fields(const struct cli *c, const struct e2eectl_value *map);
/* map as JSON or as fields. */
void out_result(const struct cli *c, const struct e2eectl_value *map);
/* Words wrapped to 80 columns behind `indent` spaces; the first line is already `column` wide. */
void out_wrapped(const char *text, int indent, int column);
/* Flushes; EX_IOERR with a message if what was printed could not be written. */
int out_flush(void);
/* Error messages: "e2eectl: …" or, with --json, {"error": {…}} on standard error. Returns the exit code. */
int fail(const struct cli *c, int exit_code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The handle's last error. */
int fail_call(const struct cli *c, int result);

/* ---- main.c ---- */

/* Connects; the handle is closed by main(). */
int cli_connect(struct cli *c);
/* Time limit in ms: --timeout or the library's. */
int cli_timeout(const struct cli *c);
/*
 * Reads at most max bytes of a file ("-": standard input); what names it in messages. *ret_text is malloc'ed
 * and ends with a zero byte.
 */
int cli_read_input(
        const struct cli *c, const char *path, size_t max, const char *what, char **ret_text, size_t *ret_n);

static inline void cli_free(void *p)
{
    free(*(void **)p);
}
static inline void cli_value_free(struct e2eectl_value **v)
{
    e2eectl_value_free(*v);
}
static inline void cli_params_free(struct e2eectl_params **p)
{
    e2eectl_params_free(*p);
}
#define CLEANUP_TEXT __attribute__((cleanup(cli_free)))
#define CLEANUP_VALUE __attribute__((cleanup(cli_value_free)))
#define CLEANUP_PARAMS __attribute__((cleanup(cli_params_free)))

extern const struct verb verb_init, verb_status, verb_health, verb_users, verb_send, verb_wait, verb_read,
        verb_listen, verb_contact, verb_raw, verb_api, verb_lock, verb_unlock, verb_passphrase;

#endif
