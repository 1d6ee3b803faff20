#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define COLUMNS 80

void out_style(const struct cli *c, enum style style)
{
    static const char *const codes[] = {[STYLE_NONE] = "0",
            [STYLE_BOLD] = "1",
            [STYLE_DIM] = "2",
            [STYLE_GOOD] = "32",
            [STYLE_BAD] = "31"};

    if (c->color)
        (void)printf("\033[%sm", codes[style]);
}

/* Length of the UTF-8 character at p and its code point; 0 if there is none. Source: RFC 3629. */
static size_t decode(const unsigned char *p, size_t left, unsigned *ret_code)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    unsigned code = n == 1 ? p[0] : p[0] & (0x7fu >> n);

    if (n > left || (p[0] >= 0x80 && p[0] < 0xc2) || p[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    *ret_code = code;
    return n;
}

/* Control characters, and format characters that change the order or the lines of what is shown. */
static bool unsafe(unsigned code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e ||
           code == 0x200f || (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) ||
           code == 0xfeff || (code >= 0xfff9 && code <= 0xfffb) || (code >= 0xe0000 && code <= 0xe007f);
}

static void put_text(FILE *to, const char *text, size_t n, int indent)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t step;

    for (size_t i = 0; i < n; i += step) {
        unsigned code = 0;

        step = decode(p + i, n - i, &code);
        if (step == 0) {
            step = 1;
            (void)fprintf(to, "\\x%02x", p[i]);
        } else if (code == '\n' && indent >= 0) {
            if (i + 1 < n)
                (void)fprintf(to, "\n%*s", indent, "");
        } else if (code == '\t') {
            (void)fputc('\t', to);
        } else if (unsafe(code)) {
            (void)fprintf(to, code < 0x80 ? "\\x%02x" : "\\u{%x}", code);
        } else {
            (void)fwrite(p + i, 1, step, to);
        }
    }
}

void out_text(const char *text, size_t n, int indent)
{
    put_text(stdout, text, n, indent);
}

void out_string(const char *text)
{
    put_text(stdout, text, strlen(text), -1);
}

static void put_json_unit(FILE *to, unsigned code)
{
    if (code > 0xffff)
        (void)fprintf(
                to, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10), 0xdc00 + ((code - 0x10000) & 0x3ff));
    else
        (void)fprintf(to, "\\u%04x", code);
}

/*
 * What lies inside a string literal (quoted: with quotes and backslashes still to be escaped), or JSON as a
 * whole.
 */
static void put_json_chars(FILE *to, const char *text, bool quoted)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t n = strlen(text), step;

    for (size_t i = 0; i < n; i += step) {
        unsigned code = 0xfffd;

        step = decode(p + i, n - i, &code);
        if (step == 0) {
            step = 1;
            (void)fputs("\\ufffd", to);
        } else if (unsafe(code)) {
            put_json_unit(to, code);
        } else {
            if (quoted && (code == '"' || code == '\\'))
                (void)fputc('\\', to);
            (void)fwrite(p + i, 1, step, to);
        }
    }
}

static void put_json_string(FILE *to, const char *text)
{
    (void)fputc('"', to);
    put_json_chars(to, text, true);
    (void)fputc('"', to);
}

void out_json_string(const char *text)
{
    put_json_string(stdout, text);
}

void out_json_text(const char *json)
{
    put_json_chars(stdout, json, false);
    (void)putchar('\n');
}

void out_json(const struct e2eectl_value *value)
{
    CLEANUP_TEXT char *json = NULL;

    if (e2eectl_value_json(value, &json) == 0)
        out_json_text(json);
    else
        (void)fputs("e2eectl: no memory for a line of output\n", stderr);
}

static void put_value(const struct e2eectl_value *v)
{
    CLEANUP_TEXT char *json = NULL;
    const char *s = e2eectl_value_string(v);

    if (s)
        out_string(s);
    else if (e2eectl_value_type(v) == E2EECTL_BOOL)
        (void)fputs(e2eectl_value_bool(v, false) ? "yes" : "no", stdout);
    else if (e2eectl_value_type(v) == E2EECTL_NULL)
        (void)fputs("-", stdout);
    else if (e2eectl_value_json(v, &json) == 0)
        put_json_chars(stdout, json, false);
}

static int longest_key(const struct e2eectl_value *map)
{
    size_t longest = 0;

    for (const struct e2eectl_value *v = e2eectl_value_first(map); v; v = e2eectl_value_next(v)) {
        size_t n = strlen(e2eectl_value_key(v));
        longest = n > longest ? n : longest;
    }
    return longest > 30 ? 30 : (int)longest;
}

static enum style style_of(const char *value)
{
    static const char *const good[] = {"online", "ok", "verified"}, *const bad[] = {
                                                                            "offline", "failed", "none"};

    for (size_t i = 0; i < COUNT_OF(good); i++) {
        if (strcmp(value, good[i]) == 0)
            return STYLE_GOOD;
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        if (strcmp(value, bad[i]) == 0)
            return STYLE_BAD;
    }
    return STYLE_NONE;
}

void out_fields(const struct cli *c, const struct e2eectl_value *map)
{
    int width = longest_key(map);

    for (const struct e2eectl_value *v = e2eectl_value_first(map); v; v = e2eectl_value_next(v)) {
        const char *key = e2eectl_value_key(v), *s = e2eectl_value_string(v);

        out_style(c, STYLE_DIM);
        out_string(key);
        out_style(c, STYLE_NONE);
        (void)printf("%*s", width + 2 > (int)strlen(key) ? width + 2 - (int)strlen(key) : 1, "");
        out_style(c, s ? style_of(s) : STYLE_NONE);
        put_value(v);
        out_style(c, STYLE_NONE);
        (void)putchar('\n');
    }
}

void out_result(const struct cli *c, const struct e2eectl_value *map)
{
    if (c->json)
        out_json(map);
    else
        out_fields(c, map);
}

void out_wrapped(const char *text, int indent, int column)
{
    while (*text) {
        int n = (int)strcspn(text, " \n");

        if (column > indent && column + 1 + n > COLUMNS) {
            (void)printf("\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            column += printf(" ");
        }
        column += printf("%.*s", n, text);
        text += n;
        if (*text == '\n' && text[1]) {
            (void)printf("\n%*s", indent, "");
            column = indent;
        }
        text += *text ? 1 : 0;
    }
    (void)putchar('\n');
}

int out_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    (void)fprintf(stderr, "e2eectl: cannot write to standard output: %s\n", strerror(errno));
    return EX_IOERR;
}

static void put_error(const struct cli *c, int exit_code, const struct e2eectl_error *e, const char *text)
{
    (void)fflush(stdout);
    if (c->json) {
        (void)fprintf(stderr, "{\"error\": {\"code\": %d, \"name\": ", e->code);
        put_json_string(stderr, e->name);
        (void)fputs(", \"message\": ", stderr);
        put_json_string(stderr, text);
        if (e->retry_after_ms > 0)
            (void)fprintf(stderr, ", \"retry_after_ms\": %u", e->retry_after_ms);
        (void)fprintf(stderr, ", \"exit\": %d}}\n", exit_code);
        return;
    }
    (void)fputs("e2eectl: ", stderr);
    put_text(stderr, text, strlen(text), 9);
    if (e->code > 0)
        (void)fprintf(stderr, " (%s)", e->name);
    if (e->retry_after_ms > 0)
        (void)fprintf(
                stderr, "; try again in %u.%u s", e->retry_after_ms / 1000, e->retry_after_ms % 1000 / 100);
    (void)fputc('\n', stderr);
}

int fail(const struct cli *c, int exit_code, const char *fmt, ...)
{
    struct e2eectl_error e = {.code = 0, .name = exit_code == EX_USAGE ? "USAGE" : "LOCAL"};
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    put_error(c, exit_code, &e, text);
    return exit_code;
}

int fail_call(const struct cli *c, int result)
{
    const struct e2eectl_error *e = e2eectl_last_error(c->h);
    const char *hint = exit_hint(result);
    int code = exit_of(result);

    put_error(c, code, e, e->message);
    if (hint && !c->json)
        (void)fprintf(stderr, "e2eectl: %s\n", hint);
    return code;
}
