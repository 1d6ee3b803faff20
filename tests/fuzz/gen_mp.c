#include "gen_mp.h"

#include <string.h>

struct kind {
    uint8_t fix, fix_max;
    uint8_t marker[3]; /* for lengths of 1, 2 and 4 bytes; 0: none */
};

static const struct kind kinds[] = {
        [GEN_STR] = {0xa0, 31, {0xd9, 0xda, 0xdb}},
        [GEN_BIN] = {0, 0, {0xc4, 0xc5, 0xc6}},
        [GEN_ARRAY] = {0x90, 15, {0, 0xdc, 0xdd}},
        [GEN_MAP] = {0x80, 15, {0, 0xde, 0xdf}},
};

void gen_mp_head(struct gen *g, enum gen_mp_kind kind, uint64_t n)
{
    const struct kind *k = &kinds[kind];
    unsigned form = n <= 0xff ? 0 : n <= 0xffff ? 1 : 2;

    if (k->fix && n <= k->fix_max && !gen_one_in(g, 8)) {
        gen_u8(g, (uint8_t)(k->fix | n));
        return;
    }
    if (gen_one_in(g, 8))
        form = 2;
    if (!k->marker[form])
        form++;
    gen_u8(g, k->marker[form]);
    gen_be(g, n, (size_t)1 << form);
}

void gen_mp_int(struct gen *g, uint64_t v)
{
    unsigned form = v <= 0xff ? 0 : v <= 0xffff ? 1 : v <= 0xffffffff ? 2 : 3;

    if (v < 0x80 && !gen_one_in(g, 8)) {
        gen_u8(g, (uint8_t)v);
        return;
    }
    if (gen_one_in(g, 8))
        form = 3;
    gen_u8(g, (uint8_t)((gen_one_in(g, 6) ? 0xd0 : 0xcc) + form));
    gen_be(g, v, (size_t)1 << form);
}

void gen_mp_str(struct gen *g, const char *s)
{
    gen_mp_head(g, GEN_STR, strlen(s));
    gen_text(g, s);
}

static void gen_scalar(struct gen *g)
{
    static const uint8_t odd[] = {0xc0, 0xc1, 0xc2, 0xc3, 0xe0, 0xff, 0xd4, 0xc7};
    uint64_t n;

    switch (gen_below(g, 8)) {
    case 0:
        gen_u8(g, odd[gen_below(g, gen_one_in(g, 20) ? sizeof(odd) : 4) & ~(gen_one_in(g, 20) ? 0u : 1u)]);
        break;
    case 1:
        gen_u8(g, 0xcb);
        gen_be(g, gen_one_in(g, 20) ? gen_boundary(g) : gen_u64(g) & UINT64_C(0xbfffffffffffffff), 8);
        break;
    case 2:
    case 3:
        gen_mp_int(g, gen_one_in(g, 10) ? gen_boundary(g) : gen_u64(g) >> (11 + gen_below(g, 53)));
        break;
    default:
        n = gen_size(g, 65536);
        gen_mp_head(g, gen_one_in(g, 2) ? GEN_STR : GEN_BIN, gen_one_in(g, 60) ? gen_boundary(g) : n);
        gen_random(g, n);
        break;
    }
}

static void gen_key(struct gen *g, uint64_t i)
{
    static const char *const names[] = {
            "to", "text", "bytes", "id", "qos", "user", "ttl_ms", "after", "base64"};
    char name[24] = "k";

    if (gen_one_in(g, 40)) {
        gen_mp_value(g, 0);
        return;
    }
    if (i < 9 && gen_one_in(g, 3)) {
        gen_mp_str(g, names[i]);
        return;
    }
    for (size_t at = 1; at < 8; at++, i /= 26)
        name[at] = (char)('a' + i % 26);
    gen_mp_str(g, name);
}

void gen_mp_value(struct gen *g, unsigned depth)
{
    bool map = gen_one_in(g, 2);
    uint64_t n;

    if (depth == 0 || gen_one_in(g, 3)) {
        gen_scalar(g);
        return;
    }
    n = gen_one_in(g, 30) ? gen_size(g, 300) : gen_below(g, 4);
    gen_mp_head(g, map ? GEN_MAP : GEN_ARRAY, gen_one_in(g, 100) ? gen_boundary(g) : n);
    for (uint64_t i = 0; i < n && g->len < GEN_MAX_INPUT; i++) {
        if (map)
            gen_key(g, i);
        gen_mp_value(g, n > 20 ? 0 : depth - 1);
    }
}
