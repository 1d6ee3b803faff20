/* The walk accepts only what views can read to the end, and what is written from the views is the same value.
 */
#include <string.h>

#include "driver.h"
#include "gen_mp.h"
#include "mp.h"

#define MAX (1u << 20)

static void copy_value(struct buf *b, const struct mp_value *v, unsigned depth)
{
    struct mp_value key, value;
    struct mp_iter it;

    FUZZ_CHECK(depth <= MP_MAX_DEPTH);
    switch (v->type) {
    case MP_NIL:
        mp_put_nil(b);
        return;
    case MP_BOOL:
        mp_put_bool(b, v->boolean);
        return;
    case MP_INT:
        FUZZ_CHECK(v->integer >= -MP_MAX_INT && v->integer <= MP_MAX_INT);
        mp_put_int(b, v->integer);
        return;
    case MP_FLOAT:
        mp_put_double(b, v->number);
        return;
    case MP_STR:
        mp_put_strn(b, v->bytes, v->count);
        return;
    case MP_BIN:
        mp_put_bin(b, v->bytes, v->count);
        return;
    case MP_ARRAY:
        mp_put_array(b, v->count);
        break;
    case MP_MAP:
        FUZZ_CHECK(v->count <= MP_MAX_PAIRS);
        mp_put_map(b, v->count);
        break;
    }
    mp_iter_init(&it, v);
    while (mp_next(&it, &key, &value)) {
        FUZZ_CHECK(value.raw >= v->raw && value.raw + value.raw_len <= v->raw + v->raw_len);
        if (v->type == MP_MAP) {
            FUZZ_CHECK(key.type == MP_STR);
            mp_put_strn(b, key.bytes, key.count);
        }
        copy_value(b, &value, depth + 1);
    }
    FUZZ_CHECK(it.p == it.end);
}

static void check_good(const uint8_t *data, size_t len)
{
    struct buf once, twice;
    struct mp_value v;
    const char *why;
    size_t got = 0;

    buf_init(&once, 4 * MAX);
    buf_init(&twice, 4 * MAX);
    mp_view(data, len, &v);
    FUZZ_CHECK(v.raw == data && v.raw_len == len);
    copy_value(&once, &v, 0);
    FUZZ_CHECK(buf_status(&once) == 0);
    FUZZ_CHECK(mp_measure(once.data, once.len, once.len, &got, &why) == WIRE_OK && got == once.len);
    mp_view(once.data, once.len, &v);
    copy_value(&twice, &v, 0);
    FUZZ_CHECK(twice.len == once.len && memcmp(twice.data, once.data, once.len) == 0);
    buf_done(&once);
    buf_done(&twice);
}

/* A value that ends early is incomplete, says how much it needs at most, and is malformed where that may not
 * be. */
static void check_prefix(const uint8_t *data, size_t len, size_t cut)
{
    const char *why = NULL;
    size_t need = 0;

    FUZZ_CHECK(mp_measure(data, cut, MAX, &need, &why) == WIRE_INCOMPLETE);
    FUZZ_CHECK(need > cut && need <= len);
    FUZZ_CHECK(mp_measure(data, cut, need - 1, &need, &why) == WIRE_MALFORMED && why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *why = NULL;
    size_t len = 0;
    int r = mp_measure(data, size, MAX, &len, &why);

    FUZZ_CHECK(r == WIRE_OK || r == WIRE_INCOMPLETE || r == WIRE_MALFORMED);
    if (r == WIRE_MALFORMED)
        FUZZ_CHECK(why);
    if (r == WIRE_INCOMPLETE)
        FUZZ_CHECK(len > size && len <= MAX);
    if (r != WIRE_OK)
        return 0;
    FUZZ_CHECK(len > 0 && len <= size);
    check_good(data, len);
    check_prefix(data, len, len - 1);
    check_prefix(data, len, len / 2);
    return 0;
}

void fuzz_generate(struct gen *g)
{
    gen_mp_value(g, (unsigned)gen_below(g, 20));
}
