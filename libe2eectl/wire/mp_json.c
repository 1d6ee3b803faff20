#include "mp.h"

#include <errno.h>
#include <locale.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

#define NUMBER_MAX 64 /* characters of a number that is not an integer */
#define BASE64_KEY "base64"

struct parser {
    const char *p, *end;
    struct buf *out;
    unsigned depth;
    const char *why; /* set by the first error */
};

static bool refuse(struct parser *j, const char *why)
{
    if (!j->why)
        j->why = why;
    return false;
}

static void skip_space(struct parser *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r'))
        j->p++;
}

static bool accept(struct parser *j, char ch)
{
    if (j->p == j->end || *j->p != ch)
        return false;
    j->p++;
    return true;
}

static bool accept_word(struct parser *j, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(j->end - j->p) < n || memcmp(j->p, word, n) != 0)
        return refuse(j, "neither a value nor true, false or null");
    j->p += n;
    return true;
}

static int hex_digit(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    return ch >= 'A' && ch <= 'F' ? ch - 'A' + 10 : -1;
}

static bool read_hex4(struct parser *j, uint32_t *ret_unit)
{
    uint32_t unit = 0;

    if (j->end - j->p < 4)
        return refuse(j, "a \\u escape has not four hexadecimal digits");
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*j->p++);

        if (digit < 0)
            return refuse(j, "a \\u escape has not four hexadecimal digits");
        unit = unit << 4 | (uint32_t)digit;
    }
    *ret_unit = unit;
    return true;
}

static void put_utf8(struct buf *b, uint32_t ch)
{
    if (ch < 0x80) {
        buf_u8(b, (uint8_t)ch);
        return;
    }
    if (ch < 0x800) {
        buf_u8(b, (uint8_t)(0xc0 | ch >> 6));
    } else {
        if (ch < 0x10000) {
            buf_u8(b, (uint8_t)(0xe0 | ch >> 12));
        } else {
            buf_u8(b, (uint8_t)(0xf0 | ch >> 18));
            buf_u8(b, (uint8_t)(0x80 | (ch >> 12 & 0x3f)));
        }
        buf_u8(b, (uint8_t)(0x80 | (ch >> 6 & 0x3f)));
    }
    buf_u8(b, (uint8_t)(0x80 | (ch & 0x3f)));
}

static bool read_unicode_escape(struct parser *j)
{
    uint32_t ch, low;

    if (!read_hex4(j, &ch))
        return false;
    if (ch >= 0xdc00 && ch <= 0xdfff)
        return refuse(j, "half of a surrogate pair");
    if (ch >= 0xd800 && ch <= 0xdbff) {
        if (!accept(j, '\\') || !accept(j, 'u'))
            return refuse(j, "half of a surrogate pair");
        if (!read_hex4(j, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return refuse(j, "half of a surrogate pair");
        ch = 0x10000 + ((ch - 0xd800) << 10) + (low - 0xdc00);
    }
    put_utf8(j->out, ch);
    return true;
}

static bool read_escape(struct parser *j)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at;

    if (accept(j, 'u'))
        return read_unicode_escape(j);
    at = j->p < j->end ? memchr(from, *j->p, sizeof(from) - 1) : NULL;
    if (!at)
        return refuse(j, "an unknown escape in a string");
    j->p++;
    buf_u8(j->out, (uint8_t)to[at - from]);
    return true;
}

/* Up to the next quote, escape or error. */
static void skip_plain(struct parser *j)
{
    while (j->p < j->end && *j->p != '"' && *j->p != '\\' && (unsigned char)*j->p >= 0x20)
        j->p++;
}

static bool read_escaped(struct parser *j)
{
    size_t at = j->out->len + 1;

    buf_u8(j->out, 0xdb);
    buf_u32be(j->out, 0);
    while (!accept(j, '"')) {
        const char *begin = j->p;

        skip_plain(j);
        buf_bytes(j->out, begin, (size_t)(j->p - begin));
        if (accept(j, '\\') ? !read_escape(j) : j->p == j->end || *j->p != '"')
            return refuse(j, "a string does not end, or has a control character");
    }
    if (!j->out->error)
        buf_patch_u32(j->out, at, __builtin_bswap32((uint32_t)(j->out->len - at - 4)));
    return true;
}

static bool read_string(struct parser *j)
{
    const char *begin;

    if (!accept(j, '"'))
        return refuse(j, "a string is missing");
    begin = j->p;
    skip_plain(j);
    if (accept(j, '"')) {
        mp_put_strn(j->out, begin, (size_t)(j->p - 1 - begin));
        return true;
    }
    j->p = begin;
    return read_escaped(j);
}

static size_t skip_digits(struct parser *j)
{
    const char *begin = j->p;

    while (j->p < j->end && *j->p >= '0' && *j->p <= '9')
        j->p++;
    return (size_t)(j->p - begin);
}

static bool put_integer(struct parser *j, const char *p, const char *end)
{
    bool negative = *p == '-';
    int64_t v = 0;

    for (p += negative; p < end; p++) {
        v = v * 10 + (*p - '0');
        if (v > MP_MAX_INT)
            return refuse(j, "an integer is beyond 2^53");
    }
    mp_put_int(j->out, negative ? -v : v);
    return true;
}

/* strtod() as in the C locale, whatever the program has set; that locale is static and costs nothing. */
static double to_double(const char *text)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    double v = c ? strtod_l(text, NULL, c) : strtod(text, NULL);

    if (c)
        freelocale(c);
    return v;
}

static bool put_number(struct parser *j, const char *p, const char *end)
{
    char text[NUMBER_MAX + 1];
    size_t n = (size_t)(end - p);
    double v;

    if (n > NUMBER_MAX)
        return refuse(j, "a number is longer than 64 characters");
    memcpy(text, p, n);
    text[n] = '\0';
    v = to_double(text);
    if (!__builtin_isfinite(v))
        return refuse(j, "a number is not finite");
    mp_put_double(j->out, v);
    return true;
}

static bool read_number(struct parser *j)
{
    const char *begin = j->p;
    bool integer = true, good;

    (void)accept(j, '-');
    good = accept(j, '0') || skip_digits(j) > 0;
    if (accept(j, '.')) {
        integer = false;
        good = good && skip_digits(j) > 0;
    }
    if (accept(j, 'e') || accept(j, 'E')) {
        integer = false;
        if (!accept(j, '+'))
            (void)accept(j, '-');
        good = good && skip_digits(j) > 0;
    }
    if (!good)
        return refuse(j, "a number is not written as JSON demands");
    return integer ? put_integer(j, begin, j->p) : put_number(j, begin, j->p);
}

static bool read_value(struct parser *j);

static bool read_array(struct parser *j)
{
    size_t at = j->out->len + 1;
    uint32_t count = 0;

    buf_u8(j->out, 0xdd);
    buf_u32be(j->out, 0);
    skip_space(j);
    if (accept(j, ']'))
        return true;
    do {
        if (!read_value(j))
            return false;
        count++;
        skip_space(j);
    } while (accept(j, ','));
    if (!accept(j, ']'))
        return refuse(j, "',' or ']' is missing in an array");
    buf_patch_u32(j->out, at, __builtin_bswap32(count));
    return true;
}

/* Makes bytes of the map at `at` if it is {"base64": string}: their form is shorter, so they are decoded in
 * place. */
static bool fold_base64(struct parser *j, size_t at)
{
    struct buf *b = j->out;
    struct mp_value map, value;
    size_t n;

    if (b->error)
        return true;
    mp_view(b->data + at, b->len - at, &map);
    if (!mp_map_get(&map, BASE64_KEY, &value) || value.type != MP_STR)
        return true;
    if (sodium_base642bin(b->data + at + 5, value.count, (const char *)value.bytes, value.count, NULL, &n,
                NULL, sodium_base64_VARIANT_ORIGINAL) != 0)
        return refuse(j, "the text of \"base64\" is not base64 with padding");
    b->data[at] = 0xc6;
    buf_patch_u32(b, at + 1, __builtin_bswap32((uint32_t)n));
    buf_truncate(b, at + 5 + n);
    return true;
}

static bool read_object(struct parser *j)
{
    size_t at = j->out->len;
    uint32_t count = 0;

    buf_u8(j->out, 0xdf);
    buf_u32be(j->out, 0);
    skip_space(j);
    if (accept(j, '}'))
        return true;
    do {
        skip_space(j);
        if (!read_string(j))
            return false;
        skip_space(j);
        if (!accept(j, ':'))
            return refuse(j, "':' is missing in an object");
        if (!read_value(j))
            return false;
        count++;
        skip_space(j);
    } while (accept(j, ','));
    if (!accept(j, '}'))
        return refuse(j, "',' or '}' is missing in an object");
    buf_patch_u32(j->out, at + 1, __builtin_bswap32(count));
    return count != 1 || fold_base64(j, at);
}

static bool read_nested(struct parser *j, bool (*read)(struct parser *j))
{
    bool good;

    if (j->depth == MP_MAX_DEPTH)
        return refuse(j, "nested too deep");
    j->depth++;
    j->p++;
    good = read(j);
    j->depth--;
    return good;
}

static bool read_value(struct parser *j)
{
    skip_space(j);
    if (j->out->error)
        return false;
    switch (j->p < j->end ? *j->p : '\0') {
    case '{':
        return read_nested(j, read_object);
    case '[':
        return read_nested(j, read_array);
    case '"':
        return read_string(j);
    case 't':
        mp_put_bool(j->out, true);
        return accept_word(j, "true");
    case 'f':
        mp_put_bool(j->out, false);
        return accept_word(j, "false");
    case 'n':
        mp_put_nil(j->out);
        return accept_word(j, "null");
    case '\0':
        return refuse(j, "a value is missing");
    default:
        return read_number(j);
    }
}

/* What the syntax leaves open: integers, pairs and duplicate keys. */
static int check_result(const struct buf *b, size_t at, const char **ret_why)
{
    size_t len;

    return mp_measure(b->data + at, b->len - at, b->len - at, &len, ret_why);
}

int mp_from_json(struct buf *b, const char *json, size_t n, const char **ret_why)
{
    struct parser j = {.p = json, .end = json + n, .out = b};
    size_t at = b->len;

    if (!text_valid_utf8(json, n))
        refuse(&j, "not UTF-8");
    else if (read_value(&j)) {
        skip_space(&j);
        if (j.p < j.end)
            refuse(&j, "something follows the value");
    }
    if (j.why) {
        *ret_why = j.why;
        return WIRE_MALFORMED;
    }
    if (b->error)
        return b->error;
    return check_result(b, at, ret_why);
}

static void put_text(struct buf *b, const char *s)
{
    buf_bytes(b, s, strlen(s));
}

static void write_control(struct buf *b, uint8_t ch)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *at = memchr(from, ch, sizeof(from) - 1);
    char text[8];

    if (at)
        (void)snprintf(text, sizeof(text), "\\%c", to[at - from]);
    else
        (void)snprintf(text, sizeof(text), "\\u%04x", ch);
    put_text(b, text);
}

static bool is_plain(uint8_t ch)
{
    return ch >= 0x20 && ch != '"' && ch != '\\' && ch != 0x7f;
}

static void write_string(struct buf *b, const uint8_t *p, size_t n)
{
    size_t i = 0;

    buf_u8(b, '"');
    while (i < n && !b->error) {
        size_t begin = i, step;

        while (i < n && is_plain(p[i]) && p[i] < 0x80)
            i++;
        buf_bytes(b, p + begin, i - begin);
        if (i == n)
            break;
        step = text_sequence(p + i, n - i);
        if (step == 1)
            write_control(b, p[i]);
        else if (step > 1)
            buf_bytes(b, p + i, step);
        else
            put_text(b, "\xef\xbf\xbd");
        i += step > 0 ? step : 1;
    }
    buf_u8(b, '"');
}

static void write_bytes(struct buf *b, const struct mp_value *v)
{
    size_t n = sodium_base64_ENCODED_LEN(v->count, sodium_base64_VARIANT_ORIGINAL);
    char *to;

    put_text(b, "{\"" BASE64_KEY "\":\"");
    to = (char *)buf_reserve(b, n);
    if (!to)
        return;
    sodium_bin2base64(to, n, v->bytes, v->count, sodium_base64_VARIANT_ORIGINAL);
    buf_truncate(b, b->len - 1);
    put_text(b, "\"}");
}

/* The shortest of three precisions that reads back as the same number. */
static void write_number(struct buf *b, double v)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0), before = uselocale(c);
    char text[40];

    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(text, sizeof(text), "%.*g", precision, v);
        if (strtod(text, NULL) == v)
            break;
    }
    (void)uselocale(before);
    if (c)
        freelocale(c);
    put_text(b, text);
    if (!strpbrk(text, ".e"))
        put_text(b, ".0");
}

static void write_integer(struct buf *b, int64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%lld", (long long)v);
    put_text(b, text);
}

static void write_container(struct buf *b, const struct mp_value *v)
{
    struct mp_value key, value;
    struct mp_iter it;
    bool first = true;

    buf_u8(b, v->type == MP_MAP ? '{' : '[');
    mp_iter_init(&it, v);
    while (!b->error && mp_next(&it, &key, &value)) {
        if (!first)
            buf_u8(b, ',');
        first = false;
        if (v->type == MP_MAP) {
            write_string(b, key.bytes, key.count);
            buf_u8(b, ':');
        }
        mp_to_json(b, &value);
    }
    buf_u8(b, v->type == MP_MAP ? '}' : ']');
}

void mp_to_json(struct buf *out, const struct mp_value *v)
{
    switch (v->type) {
    case MP_NIL:
        put_text(out, "null");
        break;
    case MP_BOOL:
        put_text(out, v->boolean ? "true" : "false");
        break;
    case MP_INT:
        write_integer(out, v->integer);
        break;
    case MP_FLOAT:
        write_number(out, v->number);
        break;
    case MP_STR:
        write_string(out, v->bytes, v->count);
        break;
    case MP_BIN:
        write_bytes(out, v);
        break;
    case MP_ARRAY:
    case MP_MAP:
        write_container(out, v);
        break;
    }
}
