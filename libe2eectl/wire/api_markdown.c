#include "api.h"

#include <stdio.h>
#include <string.h>

static const char intro[] =
        "# The local API of e2eed\n"
        "\n"
        "Printed from the daemon's own tables (`api_info` gives the same as data). Release " E2EED_VERSION
        ".\n"
        "\n"
        "## Transport\n"
        "\n"
        "The daemon listens on the Unix socket `$XDG_RUNTIME_DIR/e2eed/ACCOUNT.sock` (account `default` "
        "unless another\n"
        "was started; `E2EED_SOCKET` overrides the path). The socket has mode 0600; the peer's user id is "
        "checked as well.\n"
        "\n"
        "Messages are MessagePack-RPC:\n"
        "\n"
        "    request        [0, msgid, \"method\", [{parameters}]]     →\n"
        "    response       [1, msgid, error, result]               ←  in any order; error or result is nil\n"
        "    notification   [2, \"event\", [{event}]]                 ←  after subscribe only\n"
        "\n"
        "They follow each other without anything in between, or each behind its length as a MessagePack "
        "integer (the\n"
        "framing of Keybase's clients). The daemon tells the two apart by the first byte of a connection and "
        "answers\n"
        "in kind. Parameters are one map; `[]` and `[nil]` are none. Keys are strings, given once. Extension "
        "types, integers\n"
        "beyond ±2^53 and numbers that are not finite are refused. A parameter that is not in these tables "
        "is refused by\n"
        "name. Parameters of type bytes take str and bin; the daemon sends bin.\n"
        "\n"
        "A notification `[2, \"error\", [error]]` comes before the daemon closes a connection by itself: for "
        "bytes that are no\n"
        "message (PARSE_ERROR), and to subscribers when the daemon is locked (LOCKED).\n"
        "\n"
        "In the JSON of `e2eectl api`, bytes are `{\"base64\": \"…\"}`, both ways.\n"
        "\n"
        "Times are milliseconds since 1970. Nothing is sent to a connection before it asks.\n"
        "\n"
        "### Forms of an error\n"
        "\n"
        "`hello{errors}` chooses one for a connection: `array`, the default, is `[class, \"NAME: text\"]` "
        "with class 1 for\n"
        "requests that must be changed and 0 for what may succeed later; `map` is `{code, name, message, "
        "retry_after_ms?,\n"
        "data?}`; `string` is `\"NAME: text\"`. Names and codes are listed at the end and do not change.\n"
        "\n";

static void put(struct buf *b, const char *s)
{
    buf_bytes(b, s, strlen(s));
}

static void put_uint(struct buf *b, uint64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    put(b, text);
}

/* Text of a table cell. */
static void put_cell(struct buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '|')
            put(b, "\\");
        buf_u8(b, (uint8_t)*s);
    }
}

static void put_type(struct buf *b, const struct api_field *f)
{
    put(b, api_type_name(f->type));
    if (f->choices) {
        for (size_t i = 0; f->choices[i]; i++) {
            put(b, i > 0 ? ", `" : ": `");
            put(b, f->choices[i]);
            put(b, "`");
        }
    } else if (f->max > 0) {
        put(b, f->type == API_UINT ? " 0.." : " ≤ ");
        put_uint(b, f->max);
        if (f->type == API_STRING || f->type == API_BYTES)
            put(b, " bytes");
    }
}

static void put_fields(struct buf *b, const char *title, const char *required, const struct api_field *fields)
{
    if (!fields->name)
        return;
    put(b, "| ");
    put(b, title);
    put(b, " | type | | since | |\n|---|---|---|---|---|\n");
    for (const struct api_field *f = fields; f->name; f++) {
        put(b, "| `");
        put(b, f->name);
        put(b, "` | ");
        put_type(b, f);
        put(b, " | ");
        put(b, f->required ? required : "");
        put(b, " | ");
        put(b, f->since);
        put(b, " | ");
        put_cell(b, f->text);
        put(b, " |\n");
    }
    put(b, "\n");
}

static void put_title(struct buf *b, const char *name, const char *text, const char *since)
{
    put(b, "### `");
    put(b, name);
    put(b, "`\n\n");
    put(b, text);
    put(b, " Since ");
    put(b, since);
    put(b, ".\n\n");
}

static void put_methods(struct buf *b)
{
    put(b, "## Methods\n\n");
    for (const struct api_method *m = api_methods; m->name; m++) {
        put_title(b, m->name, m->text, m->since);
        if (!m->params->name)
            put(b, "No parameters.\n\n");
        put_fields(b, "parameter", "required", m->params);
        if (!m->result->name)
            put(b, "The result is an empty map.\n\n");
        put_fields(b, "result", "always", m->result);
    }
}

static void put_events(struct buf *b)
{
    put(b, "## Events\n\nEach event is a map with `seq` (its number, rising without end, one sequence for "
           "all types), `type`, "
           "`time`, and the fields below.\n\n");
    for (const struct api_event *e = api_events; e->name; e++) {
        put_title(b, e->name, e->text, e->since);
        put_fields(b, "field", "always", e->fields);
    }
}

static void put_errors(struct buf *b)
{
    put(b, "## Errors\n\n| name | code | class | since | |\n|---|---|---|---|---|\n");
    for (const struct api_error_info *e = api_errors; e->name; e++) {
        put(b, "| ");
        put(b, e->name);
        put(b, " | ");
        put_uint(b, e->code);
        put(b, e->validation ? " | 1 | " : " | 0 | ");
        put(b, e->since);
        put(b, " | ");
        put_cell(b, e->text);
        put(b, " |\n");
    }
    put(b, "\n");
}

static void put_limits(struct buf *b)
{
    put(b, "## Limits\n\n| name | value | |\n|---|---|---|\n");
    for (const struct api_limit *l = api_limits; l->name; l++) {
        put(b, "| `");
        put(b, l->name);
        put(b, "` | ");
        put_uint(b, l->value);
        put(b, " | ");
        put_cell(b, l->text);
        put(b, " |\n");
    }
}

void api_markdown(struct buf *out)
{
    put(out, intro);
    put_methods(out);
    put_events(out);
    put_errors(out);
    put_limits(out);
}
