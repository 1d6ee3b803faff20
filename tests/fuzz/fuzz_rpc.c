/* A stream of messages gives the same messages in pieces of any size as in one piece. */
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "gen_mp.h"
#include "rpc.h"

#define MAX_SEEN 64

struct seen {
    unsigned count;
    size_t end[MAX_SEEN]; /* where in the stream each message ended */
    struct rpc_message m[MAX_SEEN];
    int last; /* how the stream ended */
    const char *why;
};

static void check_message(const struct rpc_message *m)
{
    if (m->kind == RPC_RESPONSE)
        return;
    FUZZ_CHECK(m->method.type == MP_STR || m->method.type == MP_BIN);
    FUZZ_CHECK(m->method.count <= RPC_MAX_METHOD);
    FUZZ_CHECK(m->params.raw_len > 0);
}

static void read_whole(const uint8_t *data, size_t size, struct seen *s)
{
    enum rpc_framing framing = RPC_FRAMING_UNKNOWN;
    size_t at = 0, used = 0;

    *s = (struct seen){.last = WIRE_OK};
    while (s->count < MAX_SEEN) {
        struct rpc_message m;

        s->last = rpc_read(data + at, size - at, &framing, &m, &used, &s->why);
        if (s->last == WIRE_INCOMPLETE)
            FUZZ_CHECK(used > size - at);
        if (s->last != WIRE_OK)
            return;
        FUZZ_CHECK(used > 0 && used <= size - at);
        check_message(&m);
        at += used;
        s->end[s->count] = at;
        s->m[s->count++] = m;
    }
}

static void expect(const struct seen *s, unsigned i, size_t end, const struct rpc_message *m)
{
    FUZZ_CHECK(i < s->count && s->end[i] == end);
    FUZZ_CHECK(s->m[i].kind == m->kind && s->m[i].msgid == m->msgid);
    FUZZ_CHECK(s->m[i].params.raw_len == m->params.raw_len && s->m[i].result.raw_len == m->result.raw_len);
    FUZZ_CHECK(m->kind == RPC_RESPONSE || memcmp(s->m[i].method.raw, m->method.raw, m->method.raw_len) == 0);
}

/* Reads again only when the bytes are here that the last answer asked for. */
static void read_pieces(const uint8_t *data, size_t size, uint64_t seed, const struct seen *s)
{
    enum rpc_framing framing = RPC_FRAMING_UNKNOWN;
    struct gen g = {.state = seed};
    size_t at = 0, have = 0, need = 1;
    unsigned count = 0;

    while (have < size && count < MAX_SEEN) {
        size_t piece = 1 + gen_size(&g, size), used = 0;
        int r = WIRE_OK;

        have = piece < size - have ? have + piece : size;
        while (r == WIRE_OK && count < MAX_SEEN && have - at >= need) {
            struct rpc_message m;
            const char *why = NULL;

            r = rpc_read(data + at, have - at, &framing, &m, &used, &why);
            need = r == WIRE_INCOMPLETE ? used : 1;
            if (r == WIRE_MALFORMED) {
                FUZZ_CHECK(s->last == WIRE_MALFORMED && count == s->count);
                return;
            }
            if (r == WIRE_OK) {
                at += used;
                expect(s, count++, at, &m);
            }
        }
    }
    FUZZ_CHECK(count == s->count);
    /* Who waits for `need` bytes sees later what is wrong in those before. */
    FUZZ_CHECK(count == MAX_SEEN || s->last == WIRE_INCOMPLETE || have - at < need);
}

/* Seeds from the input itself, so that a file replays alike. */
static uint64_t digest(const uint8_t *data, size_t size)
{
    uint64_t v = size;

    for (size_t i = 0; i < size; i++)
        v = (v ^ data[i]) * UINT64_C(0x100000001b3);
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct seen s;
    uint64_t seed = digest(data, size);

    read_whole(data, size, &s);
    for (unsigned i = 0; i < 3; i++)
        read_pieces(data, size, seed + i, &s);
    return 0;
}

static void gen_message(struct gen *g)
{
    unsigned kind = gen_one_in(g, 30) ? 3 : (unsigned)gen_below(g, 3);

    gen_mp_head(g, GEN_ARRAY, gen_one_in(g, 30) ? gen_below(g, 6) : kind == 2 ? 3 : 4);
    gen_mp_int(g, kind);
    if (kind != 2)
        gen_mp_int(g, gen_one_in(g, 3) ? gen_boundary(g) & 0xffffffff : gen_below(g, 100));
    if (kind == 1) {
        gen_mp_value(g, 2);
    } else if (gen_one_in(g, 20)) {
        size_t n = gen_size(g, 257);

        gen_mp_head(g, GEN_STR, n);
        gen_random(g, n);
    } else {
        gen_mp_str(g, "send");
    }
    gen_mp_value(g, 5);
}

/* Puts the length in front of what was written since `at`. */
static void gen_frame(struct gen *g, size_t at)
{
    static uint8_t message[GEN_MAX_INPUT];
    size_t n = g->len - at;

    memcpy(message, g->out + at, n);
    g->len = at;
    gen_mp_int(g, gen_one_in(g, 40) ? gen_boundary(g) : n);
    gen_put(g, message, n);
}

void fuzz_generate(struct gen *g)
{
    bool framed = gen_one_in(g, 2);

    do {
        size_t at = g->len;

        gen_message(g);
        if (framed)
            gen_frame(g, at);
    } while (!gen_one_in(g, 4));
}
