#include "json_vectors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct json none;

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* From the opening quote to just after the closing one; `end` where that is missing. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++) {
        if (*p == '\\' && p + 1 < end)
            p++;
    }
    return p < end ? p + 1 : end;
}

static const char *skip_nested(const char *p, const char *end)
{
    int depth = 0;

    while (p < end) {
        if (*p == '"') {
            p = skip_string(p, end);
            continue;
        }
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        p++;
        if (depth == 0)
            break;
    }
    return p;
}

static const char *skip_value(const char *p, const char *end)
{
    if (p < end && *p == '"')
        return skip_string(p, end);
    if (p < end && (*p == '{' || *p == '['))
        return skip_nested(p, end);
    while (p < end && !strchr(",]} \t\r\n", *p))
        p++;
    return p;
}

/* The value that begins at or after p; none at the end of what holds it. */
static struct json value_at(const char *p, const char *end)
{
    struct json v;

    p = skip_space(p, end);
    v = (struct json){p, skip_value(p, end)};
    return v.end > v.begin ? v : none;
}

/* After a value: past the comma before the next one, or to `end`. */
static const char *skip_separator(const char *p, const char *end)
{
    p = skip_space(p, end);
    return p < end && *p == ',' ? p + 1 : end;
}

static bool is_kind(struct json v, char opening)
{
    return v.begin && v.end - v.begin >= 2 && *v.begin == opening;
}

static bool string_equals(struct json v, const char *s)
{
    size_t n = strlen(s);

    return is_kind(v, '"') && (size_t)(v.end - v.begin) == n + 2 && memcmp(v.begin + 1, s, n) == 0;
}

struct json json_parse(const char *text, size_t n)
{
    return value_at(text, text + n);
}

struct json json_member(struct json object, const char *key)
{
    if (!is_kind(object, '{'))
        return none;
    const char *p = object.begin + 1, *end = object.end - 1;

    while (p < end) {
        struct json name = value_at(p, end);

        p = name.begin ? skip_space(name.end, end) : end;
        if (p == end || *p != ':')
            return none;
        struct json value = value_at(p + 1, end);

        if (!value.begin || string_equals(name, key))
            return value;
        p = skip_separator(value.end, end);
    }
    return none;
}

bool json_next(struct json array, struct json *element)
{
    if (!is_kind(array, '['))
        return false;
    const char *end = array.end - 1;
    const char *p = element->begin ? skip_separator(element->end, end) : array.begin + 1;

    *element = value_at(p, end);
    return element->begin != NULL;
}

static char unescape(char c)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *at = strchr(from, c);

    return at ? to[at - from] : c;
}

char *json_string(struct json object, const char *key)
{
    struct json v = json_member(object, key);
    char *s, *out;

    if (!is_kind(v, '"'))
        return NULL;
    s = out = malloc((size_t)(v.end - v.begin));
    if (!s)
        abort();
    for (const char *p = v.begin + 1; p < v.end - 1; p++) {
        if (*p == '\\' && p + 1 < v.end - 1)
            *out++ = unescape(*++p);
        else
            *out++ = *p;
    }
    *out = '\0';
    return s;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool hex_decode(const char *hex, size_t digits, uint8_t *ret)
{
    if (digits % 2)
        return false;
    for (size_t i = 0; i < digits; i += 2) {
        int high = hex_digit(hex[i]), low = hex_digit(hex[i + 1]);

        if (high < 0 || low < 0)
            return false;
        ret[i / 2] = (uint8_t)(high << 4 | low);
    }
    return true;
}

uint8_t *json_hex(struct json object, const char *key, size_t *ret_n)
{
    struct json v = json_member(object, key);
    uint8_t *bytes;
    size_t digits;

    if (!is_kind(v, '"'))
        return NULL;
    digits = (size_t)(v.end - v.begin) - 2;
    bytes = malloc(digits / 2 ? digits / 2 : 1);
    if (!bytes)
        abort();
    if (!hex_decode(v.begin + 1, digits, bytes)) {
        free(bytes);
        return NULL;
    }
    *ret_n = digits / 2;
    return bytes;
}

bool json_hex_exact(struct json object, const char *key, uint8_t *ret, size_t n)
{
    size_t len = 0;
    uint8_t *bytes = json_hex(object, key, &len);
    bool fits = bytes && len == n;

    if (fits && n > 0)
        memcpy(ret, bytes, n);
    free(bytes);
    return fits;
}

bool json_is(struct json object, const char *key, const char *value)
{
    return string_equals(json_member(object, key), value);
}

bool json_has(struct json object, const char *key, const char *value)
{
    struct json array = json_member(object, key), element = none;

    while (json_next(array, &element)) {
        if (string_equals(element, value))
            return true;
    }
    return false;
}

long json_int(struct json object, const char *key, long fallback)
{
    struct json v = json_member(object, key);
    char *end;
    long n;

    if (!v.begin)
        return fallback;
    /* Never runs over: a value is followed by the bracket that holds it, or by the NUL after the file. */
    n = strtol(v.begin, &end, 10);
    return end == v.end ? n : fallback;
}

bool json_bool(struct json object, const char *key, bool fallback)
{
    struct json v = json_member(object, key);
    size_t n = v.begin ? (size_t)(v.end - v.begin) : 0;

    if (n == 4 && memcmp(v.begin, "true", 4) == 0)
        return true;
    if (n == 5 && memcmp(v.begin, "false", 5) == 0)
        return false;
    return fallback;
}

static void die(const char *what, const char *file)
{
    fprintf(stderr, "test vectors: %s: %s\n", file, what);
    exit(EXIT_FAILURE);
}

static char *read_all(FILE *f, const char *file, size_t *ret_n)
{
    char *text;
    long n = fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;

    if (n < 0 || fseek(f, 0, SEEK_SET) != 0)
        die(strerror(errno), file);
    text = malloc((size_t)n + 1);
    if (!text || fread(text, 1, (size_t)n, f) != (size_t)n)
        die("cannot be read whole", file);
    text[n] = '\0';
    *ret_n = (size_t)n;
    return text;
}

char *vectors_read(const char *file, size_t *ret_n)
{
    const char *dir = getenv("E2EED_VECTORS");
    char path[4096];
    char *text;
    FILE *f;

    if (!dir) {
        fprintf(stderr, "E2EED_VECTORS is not set: %s is skipped\n", file);
        return NULL;
    }
    if (snprintf(path, sizeof(path), "%s/%s", dir, file) >= (int)sizeof(path))
        die("path too long", file);
    f = fopen(path, "re");
    if (!f)
        die(strerror(errno), path);
    text = read_all(f, file, ret_n);
    (void)fclose(f);
    return text;
}

static struct json tests_of(const struct json_vectors *v)
{
    return v->groups.begin ? json_member(v->group, "tests") : v->group;
}

static bool next_group(struct json_vectors *v)
{
    v->test = none;
    return v->groups.begin && json_next(v->groups, &v->group);
}

bool json_vectors_open(struct json_vectors *ret, const char *file)
{
    struct json_vectors v = {0};
    size_t n = 0;
    struct json root;

    v.text = vectors_read(file, &n);
    if (!v.text)
        return false;
    root = json_parse(v.text, n);
    v.groups = json_member(root, "testGroups");
    if (!v.groups.begin)
        v.group = root;
    *ret = v;
    if (!json_vectors_next(&v))
        die("no test found", file);
    return true;
}

bool json_vectors_next(struct json_vectors *v)
{
    do {
        if (json_next(tests_of(v), &v->test))
            return true;
    } while (next_group(v));
    return false;
}

void json_vectors_close(struct json_vectors *v)
{
    free(v->text);
    *v = (struct json_vectors){0};
}
