#include <endian.h>
#include <stdio.h>
#include <string.h>

#include "sandbox.h"
#include "state.h"

#define READ_PACKETS 64
#define REPORT_US ((lws_usec_t)60 * 1000000)
#define PEER_CLOSING_US ((lws_usec_t)2 * 1000000)
#define MS_US 1000
#define CLOSE_NORMAL 1000
#define CLOSE_TOO_LARGE 1009

/* Gives the peer time to answer the close frame, not more. */
static void on_closing_timer(lws_sorted_usec_list_t *sul)
{
    link_end(LINK_OF(sul, closing_timer));
}

/* The close frame goes out when the network takes it. */
static void start_closing(struct link *l)
{
    l->closing = true;
    (void)lws_callback_on_writable(l->ws);
    lws_sul_schedule(l->context, 0, &l->closing_timer, on_closing_timer, PEER_CLOSING_US);
}

static void want_ping(lws_sorted_usec_list_t *sul)
{
    struct link *l = LINK_OF(sul, ping_timer);
    if (!l->ws)
        return;
    l->ping_wanted = true;
    (void)lws_callback_on_writable(l->ws);
    lws_sul_schedule(l->context, 0, sul, want_ping, (lws_usec_t)l->options->ping_interval_ms * MS_US);
}

/* A network that is not read is not silent. */
static void on_dead_timer(lws_sorted_usec_list_t *sul)
{
    struct link *l = LINK_OF(sul, dead_timer);
    lws_usec_t limit = (lws_usec_t)LINK_DEAD_AFTER(l->options->ping_interval_ms) * MS_US;
    lws_usec_t silent = l->rx_stalled ? 0 : lws_now_usecs() - l->heard_at;
    if (silent >= limit) {
        link_note(l, 0, "nothing has come from the relay for %u s", (unsigned)(limit / 1000000));
        link_end(l);
        return;
    }
    lws_sul_schedule(l->context, 0, sul, on_dead_timer, limit - silent);
}

static void on_pong_timer(lws_sorted_usec_list_t *sul)
{
    struct link *l = LINK_OF(sul, pong_timer);
    if (l->tx_stalled) {
        pipe_owe_pong(&l->pipe);
        link_flush(l);
    }
    lws_sul_schedule(l->context, 0, sul, on_pong_timer, (lws_usec_t)LINK_IDLE_PONG_MS * MS_US);
}

void stream_established(struct link *l)
{
    struct link_connected m = {.tls = l->url.tls};
    if (m.tls && tls_exporter(lws_get_ssl(l->ws), m.exporter) != WIRE_OK) {
        link_note(l, 0, "the TLS connection gives no channel binding");
        link_end(l);
        return;
    }
    sandbox_no_files();
    l->up = true;
    l->heard_at = lws_now_usecs();
    m.host = (struct span){.p = (const uint8_t *)l->url.authority, .n = strlen(l->url.authority)};
    pipe_owe_connected(&l->pipe, &m);
    link_flush(l);
    want_ping(&l->ping_timer);
    on_dead_timer(&l->dead_timer);
    on_pong_timer(&l->pong_timer);
}

static void too_large(struct link *l)
{
    link_note(l, CLOSE_TOO_LARGE, "the relay sent a message over %u bytes", RELAY_MAX_MESSAGE);
    start_closing(l);
}

void stream_received(struct link *l, const void *data, size_t n)
{
    if (l->over || l->closing)
        return;
    l->heard_at = lws_now_usecs();
    if (pipe_message_waits(&l->pipe) ||
            pipe_message_add(&l->pipe, lws_frame_is_binary(l->ws) ? LINK_DATA : LINK_TEXT, data, n) != 0) {
        too_large(l);
        return;
    }
    if (lws_is_final_fragment(l->ws)) {
        pipe_message_end(&l->pipe);
        link_flush(l);
    }
}

void stream_pong(struct link *l, const void *data, size_t n)
{
    lws_usec_t now = lws_now_usecs();
    uint64_t ping;
    l->heard_at = now;
    if (n != sizeof(ping) || l->over)
        return;
    memcpy(&ping, data, sizeof(ping));
    if (ping != htole64(l->pings) || (l->reported_at && now - l->reported_at < REPORT_US))
        return;
    l->reported_at = now;
    pipe_owe_rtt(&l->pipe, (uint32_t)(now - l->ping_at));
    link_flush(l);
}

static int send_ping(struct link *l)
{
    uint8_t b[LWS_PRE + sizeof(uint64_t)];
    uint64_t ping = htole64(++l->pings);
    memcpy(b + LWS_PRE, &ping, sizeof(ping));
    l->ping_wanted = false;
    l->ping_at = lws_now_usecs();
    return lws_write(l->ws, b + LWS_PRE, sizeof(ping), LWS_WRITE_PING) < 0 ? -1 : 0;
}

int stream_writable(struct link *l)
{
    if (l->over)
        return 0;
    if (l->closing) {
        lws_close_reason(l->ws,
                l->end_code == CLOSE_TOO_LARGE ? LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE : LWS_CLOSE_STATUS_NORMAL,
                NULL, 0);
        return -1;
    }
    if (l->ping_wanted && send_ping(l) < 0)
        return -1;
    if (lws_partial_buffered(l->ws))
        (void)lws_callback_on_writable(l->ws);
    else if (l->tx_stalled) {
        l->tx_stalled = false;
        (void)lws_rx_flow_control(l->daemon, 1);
    }
    return 0;
}

void stream_peer_close(struct link *l, const uint8_t *data, size_t n)
{
    char text[LINK_REASON / 2];
    size_t len = 0;
    if (n < 2) {
        link_note(l, 0, "the relay closed the connection");
        return;
    }
    for (; len + 2 < n && len < sizeof(text) - 1; len++)
        text[len] = data[len + 2] >= ' ' && data[len + 2] <= '~' ? (char)data[len + 2] : '?';
    text[len] = '\0';
    link_note(l, (uint16_t)(data[0] << 8 | data[1]), "the relay closed the connection%s%s",
            len > 0 ? ": " : "", text);
}

void stream_closed(struct link *l)
{
    l->ws = NULL;
    link_note(l, 0, "the connection to the relay was lost");
    link_end(l);
}

static void malformed(struct link *l)
{
    l->exit_code = LINK_EXIT_PROTOCOL;
    link_note(l, 0, "the link got a malformed packet from its daemon");
    link_end(l);
}

static void close_wanted(struct link *l)
{
    link_note(l, CLOSE_NORMAL, "closed as asked");
    if (!l->up || !l->ws) {
        link_end(l);
        return;
    }
    start_closing(l);
}

static void send_message(struct link *l, enum lws_write_protocol how, size_t n)
{
    if (!l->up) {
        malformed(l);
        return;
    }
    if (l->closing || l->over)
        return;
    if (lws_write(l->ws, l->out + LWS_PRE, n, how) < 0) {
        link_note(l, 0, "the connection to the relay was lost");
        link_end(l);
        return;
    }
    if (!lws_partial_buffered(l->ws))
        return;
    l->tx_stalled = true;
    (void)lws_rx_flow_control(l->daemon, 0);
    (void)lws_callback_on_writable(l->ws);
}

static void from_daemon(struct link *l, uint8_t kind, size_t n)
{
    if (kind == LINK_DATA)
        send_message(l, LWS_WRITE_BINARY, n);
    else if (kind == LINK_TEXT)
        send_message(l, LWS_WRITE_TEXT, n);
    else if (kind == LINK_CLOSE && n == 0)
        close_wanted(l);
    else if (kind == LINK_PING && n == 0) {
        pipe_owe_pong(&l->pipe);
        link_flush(l);
    } else
        malformed(l);
}

void stream_read_daemon(struct link *l)
{
    for (unsigned i = 0; i < READ_PACKETS && !l->tx_stalled && !l->done; i++) {
        uint8_t kind;
        size_t n;
        int r = pipe_read(&l->pipe, l->out + LWS_PRE, &kind, &n);
        if (r == PIPE_EMPTY)
            return;
        if (r == PIPE_GONE)
            link_leave(l);
        else if (r == PIPE_MALFORMED)
            malformed(l);
        else
            from_daemon(l, kind, n);
    }
}
