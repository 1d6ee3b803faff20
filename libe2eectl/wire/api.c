#include "api.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "relay.h"
#include "rpc.h"
#include "text.h"

#define SHOWN 32u /* bytes of a caller's text that an error repeats */

static bool equals(const char *s, const void *p, size_t n)
{
    return strlen(s) == n && memcmp(s, p, n) == 0;
}

const struct api_method *api_find_method(const void *name, size_t n)
{
    for (const struct api_method *m = api_methods; m->name; m++) {
        if (equals(m->name, name, n))
            return m;
    }
    return NULL;
}

const struct api_event *api_find_event(const void *name, size_t n)
{
    for (const struct api_event *e = api_events; e->name; e++) {
        if (equals(e->name, name, n))
            return e;
    }
    return NULL;
}

const struct api_error_info *api_error_info(enum api_error code)
{
    for (const struct api_error_info *e = api_errors; e->name; e++) {
        if (e->code == code)
            return e;
    }
    return NULL;
}

const char *api_type_name(enum api_type type)
{
    static const char *const names[] = {
            "string", "integer", "boolean", "bytes", "array of strings", "map", "array of maps"};

    return names[type];
}

/* A text of bounded length, cut where it is full. */
struct text {
    char *p;
    size_t len, max;
};

static void __attribute__((format(printf, 2, 3))) add(struct text *t, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(t->p + t->len, t->max - t->len, format, args);
    va_end(args);
    if (n > 0)
        t->len = (size_t)n < t->max - t->len ? t->len + (size_t)n : t->max - 1;
}

/* What the caller wrote, fit for a terminal. */
static void add_shown(struct text *t, const struct mp_value *v)
{
    uint32_t n = v->count < SHOWN ? v->count : SHOWN;

    add(t, "'");
    for (uint32_t i = 0; i < n; i++)
        add(t, "%c", v->bytes[i] >= 0x20 && v->bytes[i] < 0x7f ? (char)v->bytes[i] : '?');
    add(t, "%s'", n < v->count ? "..." : "");
}

static void add_choices(struct text *t, const char *const *choices)
{
    for (size_t i = 0; choices[i]; i++)
        add(t, "%s%s", i > 0 ? ", " : "", choices[i]);
}

static void add_allowed(struct text *t, const struct api_method *m)
{
    if (!m->params->name) {
        add(t, " (none is allowed)");
        return;
    }
    add(t, " (allowed: ");
    for (const struct api_field *f = m->params; f->name; f++)
        add(t, "%s%s", f > m->params ? ", " : "", f->name);
    add(t, ")");
}

static void add_expected(struct text *t, const struct api_field *f)
{
    unsigned long long max = f->max;

    if (f->choices && f->type == API_STRING) {
        add(t, "one of ");
        add_choices(t, f->choices);
        return;
    }
    switch (f->type) {
    case API_STRING:
        add(t, "a UTF-8 string of at most %llu bytes", max);
        break;
    case API_UINT:
        add(t, "an integer 0..%llu", max);
        break;
    case API_BOOL:
        add(t, "true or false");
        break;
    case API_BYTES:
        add(t, "a string or binary of at most %llu bytes", max);
        break;
    case API_STRINGS:
        add(t, "an array of at most %llu strings of 1..%u bytes", max, API_MAX_NAME);
        if (f->choices) {
            add(t, " out of ");
            add_choices(t, f->choices);
        }
        break;
    case API_MAPTYPE:
    case API_MAPS:
        add(t, "a%s", f->type == API_MAPS ? "n array of maps" : " map");
        break;
    }
}

static void add_got(struct text *t, const struct api_field *f, const struct mp_value *v)
{
    bool text = v->type == MP_STR || v->type == MP_BIN;

    if (v->type == MP_INT && f->type == API_UINT)
        add(t, ", got %lld", (long long)v->integer);
    else if (text && v->count > f->max && !f->choices && (f->type == API_STRING || f->type == API_BYTES))
        add(t, ", got %u bytes", v->count);
    else if (v->type == MP_STR && f->choices && f->type == API_STRING) {
        add(t, ", got ");
        add_shown(t, v);
    } else if (v->type == MP_STR && f->type == API_STRING)
        add(t, ", got bytes that are not UTF-8");
    else if (v->type == MP_ARRAY && f->type == API_STRINGS)
        add(t, ", got %s", v->count > f->max ? "more" : "another element");
    else
        add(t, ", got %s", mp_type_name(v->type));
}

static bool is_choice(const char *const *choices, const struct mp_value *v)
{
    for (size_t i = 0; choices[i]; i++) {
        if (mp_str_eq(v, choices[i]))
            return true;
    }
    return false;
}

static bool string_ok(const struct mp_value *v, size_t max, const char *const *choices)
{
    if (v->type != MP_STR || v->count > max)
        return false;
    return choices ? is_choice(choices, v) : text_valid_utf8(v->bytes, v->count);
}

static bool strings_ok(const struct api_field *f, const struct mp_value *v)
{
    struct mp_value element;
    struct mp_iter it;

    if (v->type != MP_ARRAY || v->count > f->max)
        return false;
    mp_iter_init(&it, v);
    while (mp_next(&it, NULL, &element)) {
        if (element.count < 1 || !string_ok(&element, API_MAX_NAME, f->choices))
            return false;
    }
    return true;
}

static bool field_ok(const struct api_field *f, const struct mp_value *v)
{
    switch (f->type) {
    case API_STRING:
        return string_ok(v, f->max, f->choices);
    case API_UINT:
        return v->type == MP_INT && v->integer >= 0 && (uint64_t)v->integer <= f->max;
    case API_BOOL:
        return v->type == MP_BOOL;
    case API_BYTES:
        return (v->type == MP_STR || v->type == MP_BIN) && v->count <= f->max;
    case API_STRINGS:
        return strings_ok(f, v);
    case API_MAPTYPE:
        return v->type == MP_MAP;
    case API_MAPS:
        return v->type == MP_ARRAY;
    }
    return false;
}

static const struct api_field *find_field(const struct api_field *fields, const struct mp_value *key)
{
    for (const struct api_field *f = fields; f->name; f++) {
        if (mp_str_eq(key, f->name))
            return f;
    }
    return NULL;
}

static bool check_fields(
        const struct api_method *m, const struct mp_value *map, uint64_t *ret_seen, struct text *why)
{
    struct mp_value key, value;
    struct mp_iter it;
    uint64_t seen = 0;

    mp_iter_init(&it, map);
    while (mp_next(&it, &key, &value)) {
        const struct api_field *f = find_field(m->params, &key);

        if (!f) {
            add(why, "%s: unknown parameter ", m->name);
            add_shown(why, &key);
            add_allowed(why, m);
            return false;
        }
        if (!field_ok(f, &value)) {
            add(why, "%s: parameter '%s' must be ", m->name, f->name);
            add_expected(why, f);
            add_got(why, f, &value);
            return false;
        }
        seen |= UINT64_C(1) << (f - m->params);
    }
    *ret_seen = seen;
    return true;
}

static bool check_required(const struct api_method *m, uint64_t seen, struct text *why)
{
    for (const struct api_field *f = m->params; f->name; f++) {
        if (f->required && !(seen >> (f - m->params) & 1)) {
            add(why, "%s: '%s' is required", m->name, f->name);
            return false;
        }
    }
    return true;
}

/* The one map of the params, or an empty one. */
static bool unwrap(
        const struct api_method *m, const struct mp_value *params, struct mp_value *ret_map, struct text *why)
{
    static const uint8_t empty_map = 0x80;
    struct mp_iter it;

    mp_view(&empty_map, 1, ret_map);
    if (params->type == MP_NIL || (params->type == MP_ARRAY && params->count == 0))
        return true;
    /* What npm's framed-msgpack-rpc makes of invoke(method, {…}). */
    if (params->type == MP_MAP) {
        *ret_map = *params;
        return true;
    }
    if (params->type == MP_ARRAY && params->count == 1) {
        struct mp_value one;

        mp_iter_init(&it, params);
        (void)mp_next(&it, NULL, &one);
        if (one.type == MP_MAP)
            *ret_map = one;
        if (one.type == MP_MAP || one.type == MP_NIL)
            return true;
        add(why, "%s: params must be [] or [map], got an array with %s in it", m->name,
                mp_type_name(one.type));
        return false;
    }
    if (params->type == MP_ARRAY)
        add(why, "%s: params must be [] or [map], got an array of %u elements", m->name, params->count);
    else
        add(why, "%s: params must be [] or [map], got %s", m->name, mp_type_name(params->type));
    return false;
}

int api_check_params(const struct api_method *m, const struct mp_value *params, struct mp_value *ret_map,
        char ret_text[API_MAX_TEXT])
{
    struct text why = {.p = ret_text, .max = API_MAX_TEXT};
    struct mp_value map;
    uint64_t seen;

    if (!unwrap(m, params, &map, &why) || !check_fields(m, &map, &seen, &why) ||
            !check_required(m, seen, &why))
        return API_INVALID_PARAMS;
    *ret_map = map;
    return 0;
}

static void describe_field(struct buf *b, const struct api_field *f)
{
    struct mp_map m;

    mp_map_begin(&m, b);
    mp_put_str(mp_key(&m, "name"), f->name);
    mp_put_str(mp_key(&m, "type"), api_type_name(f->type));
    mp_put_bool(mp_key(&m, "required"), f->required);
    if (f->max > 0)
        mp_put_uint(mp_key(&m, "max"), f->max);
    if (f->choices) {
        uint32_t n = 0;

        while (f->choices[n])
            n++;
        mp_put_array(mp_key(&m, "choices"), n);
        for (uint32_t i = 0; i < n; i++)
            mp_put_str(b, f->choices[i]);
    }
    mp_put_str(mp_key(&m, "since"), f->since);
    mp_put_str(mp_key(&m, "text"), f->text);
    mp_map_end(&m);
}

static void describe_fields(struct buf *b, const struct api_field *fields)
{
    uint32_t n = 0;

    while (fields[n].name)
        n++;
    mp_put_array(b, n);
    for (uint32_t i = 0; i < n; i++)
        describe_field(b, &fields[i]);
}

static void describe_methods(struct buf *b)
{
    struct mp_map m;
    uint32_t n = 0;

    while (api_methods[n].name)
        n++;
    mp_put_array(b, n);
    for (const struct api_method *method = api_methods; method->name; method++) {
        mp_map_begin(&m, b);
        mp_put_str(mp_key(&m, "name"), method->name);
        mp_put_str(mp_key(&m, "since"), method->since);
        mp_put_str(mp_key(&m, "text"), method->text);
        describe_fields(mp_key(&m, "params"), method->params);
        describe_fields(mp_key(&m, "result"), method->result);
        mp_map_end(&m);
    }
}

static void describe_events(struct buf *b)
{
    struct mp_map m;
    uint32_t n = 0;

    while (api_events[n].name)
        n++;
    mp_put_array(b, n);
    for (const struct api_event *event = api_events; event->name; event++) {
        mp_map_begin(&m, b);
        mp_put_str(mp_key(&m, "name"), event->name);
        mp_put_str(mp_key(&m, "since"), event->since);
        mp_put_str(mp_key(&m, "text"), event->text);
        describe_fields(mp_key(&m, "fields"), event->fields);
        mp_map_end(&m);
    }
}

static void describe_errors(struct buf *b)
{
    struct mp_map m;
    uint32_t n = 0;

    while (api_errors[n].name)
        n++;
    mp_put_array(b, n);
    for (const struct api_error_info *error = api_errors; error->name; error++) {
        mp_map_begin(&m, b);
        mp_put_int(mp_key(&m, "code"), error->code);
        mp_put_str(mp_key(&m, "name"), error->name);
        mp_put_bool(mp_key(&m, "validation"), error->validation);
        mp_put_str(mp_key(&m, "since"), error->since);
        mp_put_str(mp_key(&m, "text"), error->text);
        mp_map_end(&m);
    }
}

const struct api_limit api_limits[] = {
        {"message_bytes", RPC_MAX_MESSAGE, "Bytes of one request, response or notification."},
        {"payload_bytes", API_MAX_PAYLOAD, "Bytes of text or bytes in one message."},
        {"method_bytes", RPC_MAX_METHOD, "Bytes of a method's name."},
        {"depth", MP_MAX_DEPTH, "Arrays and maps inside each other."},
        {"pairs", MP_MAX_PAIRS, "Pairs of one map."},
        {"integer", MP_MAX_INT, "Greatest integer, and the least with a minus."},
        {"name_bytes", API_MAX_NAME, "Bytes of a user name, an id or the name of a consumer."},
        {"ids", API_MAX_IDS, "Ids in one read."},
        {"types", API_MAX_TYPES, "Types in one subscribe or events."},
        {"limit", API_MAX_LIMIT, "Entries in one answer of events or users."},
        {"ttl_ms", API_MAX_TTL_MS, "Milliseconds that a message is kept for a recipient."},
        {"timeout_ms", API_MAX_TIMEOUT_MS, "Milliseconds that a request may wait."},
        {.name = NULL},
};

static void describe_limits(struct buf *b)
{
    struct mp_map m;

    mp_map_begin(&m, b);
    for (const struct api_limit *l = api_limits; l->name; l++)
        mp_put_uint(mp_key(&m, l->name), l->value);
    mp_map_end(&m);
}

void api_describe(struct buf *b)
{
    struct mp_map m;

    mp_map_begin(&m, b);
    mp_put_str(mp_key(&m, "version"), E2EED_VERSION);
    mp_put_uint(mp_key(&m, "api"), API_VERSION);
    describe_methods(mp_key(&m, "methods"));
    describe_events(mp_key(&m, "events"));
    describe_errors(mp_key(&m, "errors"));
    describe_limits(mp_key(&m, "limits"));
    mp_map_end(&m);
}
