/* Every packet that is accepted is written again byte for byte. */
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "linkmsg.h"

static void put_closed(struct buf *b, const struct link_closed *m)
{
    char text[LINK_MAX_REASON + 1] = "";

    if (m->reason.n > 0)
        memcpy(text, m->reason.p, m->reason.n);
    link_put_closed(b, m->code, text);
}

static bool decode(struct cursor *c, struct buf *b)
{
    struct link_connected connected;
    struct link_closed closed;
    uint32_t rtt;

    switch (cursor_u8(c)) {
    case LINK_CONNECTED:
        if (link_get_connected(c, &connected) != WIRE_OK)
            return false;
        link_put_connected(b, &connected);
        return true;
    case LINK_CLOSED:
        if (link_get_closed(c, &closed) != WIRE_OK || memchr(closed.reason.p, 0, closed.reason.n))
            return false;
        put_closed(b, &closed);
        return true;
    case LINK_RTT:
        if (link_get_rtt(c, &rtt) != WIRE_OK)
            return false;
        link_put_rtt(b, rtt);
        return true;
    default:
        return false;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor c;
    struct buf b;

    buf_init(&b, LINK_MAX_PACKET);
    cursor_init(&c, data, size);
    if (decode(&c, &b)) {
        FUZZ_CHECK(buf_status(&b) == 0);
        FUZZ_CHECK(b.len == size && memcmp(b.data, data, size) == 0);
    }
    buf_done(&b);
    return 0;
}

static void gen_lp(struct gen *g, size_t max)
{
    size_t n = gen_size(g, max + 1);

    gen_le(g, gen_one_in(g, 20) ? gen_boundary(g) : n, 4);
    gen_random(g, n);
}

void fuzz_generate(struct gen *g)
{
    static const uint8_t kinds[] = {LINK_CONNECTED, LINK_CLOSED, LINK_RTT, LINK_DATA};
    uint8_t kind = kinds[gen_below(g, 4)];
    uint8_t tls = gen_one_in(g, 10) ? 2 : (uint8_t)gen_below(g, 2);

    gen_u8(g, kind);
    if (kind == LINK_CONNECTED) {
        gen_u8(g, tls);
        for (unsigned i = 0; i < EXPORTER_LEN; i++)
            gen_u8(g, tls || gen_one_in(g, 200) ? (uint8_t)gen_u64(g) : 0);
        gen_lp(g, RELAY_MAX_HOST);
    } else if (kind == LINK_CLOSED) {
        gen_le(g, gen_u64(g), 2);
        gen_lp(g, LINK_MAX_REASON);
    } else {
        gen_le(g, gen_u64(g), 4);
    }
}
