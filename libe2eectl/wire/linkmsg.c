#include "linkmsg.h"

#include <string.h>

#include "text.h"

void link_put_connected(struct buf *b, const struct link_connected *m)
{
    buf_u8(b, LINK_CONNECTED);
    buf_u8(b, m->tls);
    if (m->tls)
        buf_bytes(b, m->exporter, EXPORTER_LEN);
    else
        buf_zero(b, EXPORTER_LEN);
    buf_lp(b, m->host.p, m->host.n);
}

int link_get_connected(struct cursor *c, struct link_connected *ret_m)
{
    static const uint8_t zeros[EXPORTER_LEN];
    struct link_connected m;
    uint8_t tls = cursor_u8(c);

    m.tls = tls == 1;
    cursor_copy(c, m.exporter, EXPORTER_LEN);
    m.host.p = cursor_lp(c, RELAY_MAX_HOST, &m.host.n);
    if (tls > 1 || (!m.tls && memcmp(m.exporter, zeros, EXPORTER_LEN) != 0))
        cursor_fail(c);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void link_put_closed(struct buf *b, uint16_t code, const char *reason)
{
    buf_u8(b, LINK_CLOSED);
    buf_u16(b, code);
    buf_lp(b, reason, text_cut(reason, LINK_MAX_REASON));
}

int link_get_closed(struct cursor *c, struct link_closed *ret_m)
{
    struct link_closed m;

    m.code = cursor_u16(c);
    m.reason.p = cursor_lp(c, LINK_MAX_REASON, &m.reason.n);
    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_m = m;
    return WIRE_OK;
}

void link_put_rtt(struct buf *b, uint32_t microseconds)
{
    buf_u8(b, LINK_RTT);
    buf_u32(b, microseconds);
}

int link_get_rtt(struct cursor *c, uint32_t *ret_microseconds)
{
    uint32_t v = cursor_u32(c);

    if (cursor_end(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_microseconds = v;
    return WIRE_OK;
}
