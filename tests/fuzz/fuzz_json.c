/* Input that begins with 'J' is JSON behind it, any other is MessagePack. What was read is written and read
 * again alike. */
#include <string.h>

#include "driver.h"
#include "gen_mp.h"
#include "mp.h"
#include "text.h"

#define MAX (1u << 22)

static void to_json(struct buf *out, const struct buf *mp)
{
    struct mp_value v;

    mp_view(mp->data, mp->len, &v);
    FUZZ_CHECK(v.raw_len == mp->len);
    mp_to_json(out, &v);
    FUZZ_CHECK(buf_status(out) == 0);
    FUZZ_CHECK(text_valid_utf8(out->data, out->len));
}

static void check_json(const uint8_t *data, size_t size)
{
    struct buf first, second, text, again;
    const char *why = NULL;

    buf_init(&first, MAX);
    buf_init(&second, MAX);
    buf_init(&text, MAX);
    buf_init(&again, MAX);
    if (mp_from_json(&first, (const char *)data, size, &why) == WIRE_OK) {
        to_json(&text, &first);
        FUZZ_CHECK(mp_from_json(&second, (const char *)text.data, text.len, &why) == WIRE_OK);
        to_json(&again, &second);
        FUZZ_CHECK(text.len == again.len && memcmp(text.data, again.data, text.len) == 0);
    } else {
        FUZZ_CHECK(why || first.error);
    }
    buf_done(&first);
    buf_done(&second);
    buf_done(&text);
    buf_done(&again);
}

static void check_mp(const uint8_t *data, size_t size)
{
    struct buf text, back;
    struct mp_value v;
    const char *why;
    size_t len;

    if (mp_measure(data, size, size, &len, &why) != WIRE_OK)
        return;
    buf_init(&text, MAX);
    buf_init(&back, MAX);
    mp_view(data, len, &v);
    mp_to_json(&text, &v);
    FUZZ_CHECK(buf_status(&text) == 0 && text_valid_utf8(text.data, text.len));
    /* Not every map can be read back: keys may have become alike, and {"base64": …} may not be base64. */
    (void)!mp_from_json(&back, (const char *)text.data, text.len, &why);
    buf_done(&text);
    buf_done(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] == 'J')
        check_json(data + 1, size - 1);
    else
        check_mp(data, size);
    return 0;
}

static void gen_json_string(struct gen *g)
{
    static const char *const parts[] = {"a", "key", "\\n", "\\u0041", "\\ud83d\\ude00", "\xc3\xa9",
            "\xf0\x9f\x98\x80", " ", "\\\"", "\\\\", "\\u0000", "\\ud800", "\\x", "\xff", "\n"};
    uint64_t n = gen_one_in(g, 50) ? gen_size(g, 65536) : gen_below(g, 6);

    gen_text(g, "\"");
    for (uint64_t i = 0; i < n; i++)
        gen_text(g, parts[gen_below(g, gen_one_in(g, 200) ? 15 : 11)]);
    gen_text(g, "\"");
}

static void gen_json_scalar(struct gen *g)
{
    static const char *const words[] = {"true", "false", "null", "0", "-1", "-0", "1.5", "1e300", "-2.5E-7",
            "9007199254740992", "-9007199254740992", "0.1", "1e400", "9007199254740993", "01", "1.", "+1",
            "tru", "18446744073709551616"};

    if (gen_one_in(g, 2)) {
        gen_json_string(g);
        return;
    }
    if (gen_one_in(g, 10)) {
        gen_text(g, gen_one_in(g, 2) ? "0." : "7");
        for (size_t n = gen_size(g, 65); n > 0; n--)
            gen_u8(g, (uint8_t)('0' + n % 10));
    } else {
        gen_text(g, words[gen_below(g, gen_one_in(g, 30) ? 19 : 12)]);
    }
}

static void gen_json_key(struct gen *g, uint64_t i)
{
    char name[] = "\"a0\"";

    if (gen_one_in(g, 4)) {
        gen_json_string(g);
        return;
    }
    name[1] = (char)('a' + i % 26);
    name[2] = (char)('0' + i / 26 % 10);
    gen_text(g, name);
}

static void gen_json(struct gen *g, unsigned depth)
{
    bool map = gen_one_in(g, 2);
    uint64_t n = gen_one_in(g, 40) ? gen_size(g, 257) : gen_below(g, 4);

    if (depth == 0 || gen_one_in(g, 3)) {
        gen_json_scalar(g);
        return;
    }
    if (gen_one_in(g, 10)) {
        gen_text(g, "{\"base64\":\"");
        gen_text(g, gen_one_in(g, 10) ? "YWJ" : gen_one_in(g, 2) ? "YWJj" : "/+8=");
        gen_text(g, "\"}");
        return;
    }
    gen_text(g, map ? "{" : "[ ");
    for (uint64_t i = 0; i < n && g->len < GEN_MAX_INPUT; i++) {
        gen_text(g, i > 0 ? "," : "");
        if (map) {
            gen_json_key(g, i);
            gen_text(g, gen_one_in(g, 2) ? ":" : " : ");
        }
        gen_json(g, n > 20 ? 0 : depth - 1);
    }
    gen_text(g, map ? "}" : "]");
}

void fuzz_generate(struct gen *g)
{
    if (gen_one_in(g, 4)) {
        gen_mp_value(g, 6);
        return;
    }
    gen_text(g, "J");
    gen_json(g, (unsigned)gen_below(g, 20));
}
