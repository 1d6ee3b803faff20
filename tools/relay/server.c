#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libwebsockets.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base.h"
#include "conn.h"
#include "log.h"

#define RX_BUFFER 2048u             /* for each connection */
#define SERVICE_BUFFER 65536u       /* one */
#define KEEP_BUFFER 4096u           /* a larger reassembly buffer is given back after its message */
#define WRITE_AT_ONCE (256u * 1024) /* in one turn for one connection */
#define HANDSHAKE_SECONDS 15
#define HTTP_UPGRADE_REQUIRED 426
#define CLOSE_SECONDS 5
#define PING_SECONDS 30
#define HANGUP_SECONDS 50

struct server {
    struct lws_context *context;
    struct lws_vhost *vhost;
    struct hub *hub;
    bool raw_echo, stopping;
    size_t connections;
    uint8_t *tx; /* LWS_PRE and one message, for all */
};

struct session {
    struct server *server;
    struct lws *wsi;
    struct conn *conn;
    struct buf rx;   /* a message that came in pieces */
    struct buf echo; /* a text to be sent back; nothing is read while there is one */
    bool reading, closing, close_sent;
};

static void update_reading(struct session *s)
{
    bool want = s->close_sent || (conn_wants_read(s->conn) && s->echo.len == 0);

    if (want == s->reading)
        return;
    s->reading = want;
    (void)lws_rx_flow_control(s->wsi, want);
}

static void on_wake(void *io)
{
    struct session *s = io;

    (void)lws_callback_on_writable(s->wsi);
    if (!s->conn)
        return;
    if (!s->reading)
        update_reading(s);
    if (conn_closing(s->conn) && !s->closing) {
        /* A peer that does not take its last messages is not waited for. Outside its own callbacks,
         * libwebsockets looks at its timers only when it is woken. */
        s->closing = true;
        lws_set_timeout(s->wsi, PENDING_TIMEOUT_CLOSE_SEND, CLOSE_SECONDS);
        lws_cancel_service(lws_get_context(s->wsi));
    }
}

static void peer_ip(struct lws *wsi, uint8_t ret_ip[16])
{
    struct sockaddr_storage ss = {0};
    socklen_t n = sizeof(ss);

    memset(ret_ip, 0, 16);
    if (getpeername(lws_get_socket_fd(wsi), (struct sockaddr *)&ss, &n))
        return;
    if (ss.ss_family == AF_INET6) {
        memcpy(ret_ip, &((struct sockaddr_in6 *)&ss)->sin6_addr, 16);
    } else if (ss.ss_family == AF_INET) {
        ret_ip[10] = ret_ip[11] = 0xff;
        memcpy(ret_ip + 12, &((struct sockaddr_in *)&ss)->sin_addr, 4);
    }
}

/* RFC 9266. Its context is empty; in TLS 1.3, the only version here, that is the same as none. */
static bool tls_exporter(struct lws *wsi, uint8_t ret_exporter[EXPORTER_LEN])
{
    static const char label[] = "EXPORTER-Channel-Binding";
    SSL *ssl = lws_get_ssl(wsi);

    return ssl && SSL_export_keying_material(
                          ssl, ret_exporter, EXPORTER_LEN, label, sizeof(label) - 1, NULL, 0, 0) == 1;
}

static int established(struct server *server, struct session *s, struct lws *wsi)
{
    uint8_t exporter[EXPORTER_LEN];
    struct conn_info info = {.tls = lws_is_ssl(wsi)};

    if (!server->hub || server->stopping)
        return -1;
    *s = (struct session){.server = server, .wsi = wsi, .reading = true};
    buf_init(&s->rx, RELAY_MAX_MESSAGE);
    buf_init(&s->echo, RELAY_MAX_MESSAGE);
    if (info.tls && !tls_exporter(wsi, exporter))
        return -1;
    info.exporter = info.tls ? exporter : NULL;
    peer_ip(wsi, info.ip);
    s->conn = conn_new(server->hub, &info, on_wake, s);
    if (!s->conn)
        return -1;
    server->connections++;
    return 0;
}

static void closed(struct session *s)
{
    if (!s->conn)
        return;
    conn_gone(s->conn);
    s->conn = NULL;
    buf_done(&s->rx);
    buf_done(&s->echo);
    s->server->connections--;
}

static void take_message(struct session *s, bool binary, const uint8_t *p, size_t n)
{
    if (binary) {
        conn_message(s->conn, p, n);
    } else if (s->server->raw_echo) {
        buf_reset(&s->echo);
        buf_bytes(&s->echo, p, n);
        (void)lws_callback_on_writable(s->wsi);
    } else {
        conn_violation(s->conn, LWS_CLOSE_STATUS_UNACCEPTABLE_OPCODE, "text frames are not accepted here");
    }
}

static void received(struct session *s, const uint8_t *p, size_t n)
{
    bool last = lws_is_final_fragment(s->wsi) && lws_remaining_packet_payload(s->wsi) == 0;
    bool binary = lws_frame_is_binary(s->wsi);

    if (last && s->rx.len == 0) {
        take_message(s, binary, p, n);
    } else {
        buf_bytes(&s->rx, p, n);
        if (buf_status(&s->rx))
            conn_violation(
                    s->conn, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE, "a message is longer than 131072 bytes");
        else if (last)
            take_message(s, binary, s->rx.data, s->rx.len);
        if (s->rx.cap > KEEP_BUFFER && (last || buf_status(&s->rx)))
            buf_done(&s->rx);
        else if (last)
            buf_reset(&s->rx);
    }
    update_reading(s);
}

/* 0, or -1 where the connection broke. The bytes are copied behind the room that libwebsockets wants in
 * front. */
static int write_message(struct session *s, struct buf *b, enum lws_write_protocol how)
{
    size_t n = b->len;
    uint8_t *at = s->server->tx + LWS_PRE;

    if (n > 0)
        memcpy(at, b->data, n);
    buf_done(b);
    return lws_write(s->wsi, at, n, how) < (int)n ? -1 : 0;
}

/*
 * The close frame, and then the peer's turn: were the socket closed at once, what the peer still sends would
 * reset it, and our last messages with it. (lws_close_reason would do, but libwebsockets 4.1 as Debian builds
 * it closes twice on libuv, which skips the frame.) The timeout is running.
 */
static int send_close(struct session *s, uint16_t code)
{
    uint8_t *at = s->server->tx + LWS_PRE;

    at[0] = 0x88; /* final, close */
    at[1] = 2;
    at[2] = (uint8_t)(code >> 8);
    at[3] = (uint8_t)code;
    s->close_sent = true;
    buf_done(&s->rx);
    update_reading(s);
    return lws_write(s->wsi, at, 4, LWS_WRITE_RAW) < 4 ? -1 : 0;
}

static int writable(struct session *s)
{
    struct buf b;
    uint16_t code;
    size_t written = 0;

    if (s->close_sent)
        return 0;
    while (!lws_partial_buffered(s->wsi) && written < WRITE_AT_ONCE) {
        if (s->echo.len) {
            written += s->echo.len;
            if (write_message(s, &s->echo, LWS_WRITE_TEXT))
                return -1;
            continue;
        }
        if (!conn_pull(s->conn, &b))
            break;
        written += b.len;
        if (write_message(s, &b, LWS_WRITE_BINARY))
            return -1;
    }
    update_reading(s);
    if (conn_finished(s->conn, &code) && !lws_partial_buffered(s->wsi))
        return send_close(s, code);
    if (conn_has_output(s->conn) || s->echo.len || conn_finished(s->conn, &code))
        (void)lws_callback_on_writable(s->wsi);
    return 0;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct session *s = user;

    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        return established(lws_context_user(lws_get_context(wsi)), s, wsi);
    case LWS_CALLBACK_RECEIVE:
        if (!s->close_sent)
            received(s, in, len);
        return 0;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        return s->close_sent; /* not answered a second time */
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return s->conn ? writable(s) : 0;
    case LWS_CALLBACK_CLOSED:
        closed(s);
        return 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, len);
    }
}

/* Plain HTTP, and WebSockets that do not name the subprotocol. */
static int on_http(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    switch (reason) {
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return strcmp(in, "websocket") == 0 ? 0 : -1;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return -1;
    case LWS_CALLBACK_HTTP:
        if (lws_return_http_status(
                    wsi, HTTP_UPGRADE_REQUIRED, "e2ee-relay: WebSocket subprotocol e2ee.v1 only"))
            return -1;
        return lws_http_transaction_completed(wsi) ? -1 : 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, len);
    }
}

static const struct lws_protocols protocols[] = {
        {.name = "http", .callback = on_http, .rx_buffer_size = RX_BUFFER},
        {.name = RELAY_SUBPROTOCOL,
                .callback = on_event,
                .per_session_data_size = sizeof(struct session),
                .rx_buffer_size = RX_BUFFER,
                .tx_packet_size = RELAY_MAX_MESSAGE},
        {0},
};

static const lws_retry_bo_t pings = {
        .secs_since_valid_ping = PING_SECONDS, .secs_since_valid_hangup = HANGUP_SECONDS};

static void on_lws_log(int level, const char *line)
{
    (void)level;
    log_error("lws", "%.*s", (int)strcspn(line, "\n"), line);
}

static void fill_info(
        struct lws_context_creation_info *info, struct server *s, const struct server_options *o)
{
    info->port = o->port;
    info->iface = o->address;
    info->protocols = protocols;
    info->user = s;
    info->pcontext = &s->context;
    info->gid = -1;
    info->uid = -1;
    info->pt_serv_buf_size = SERVICE_BUFFER;
    info->timeout_secs = HANDSHAKE_SECONDS;
    info->timeout_secs_ah_idle = HANDSHAKE_SECONDS;
    info->keepalive_timeout = HANDSHAKE_SECONDS;
    info->retry_and_idle_policy = &pings;
    info->alpn = "http/1.1";
    info->server_string = "e2ee-relay";
    info->options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND |
                    LWS_SERVER_OPTION_EXPLICIT_VHOSTS;
    if (!o->ipv6)
        info->options |= LWS_SERVER_OPTION_DISABLE_IPV6;
    if (!o->tls_cert)
        return;
    info->options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    info->ssl_cert_filepath = o->tls_cert;
    info->ssl_private_key_filepath = o->tls_key;
    info->ssl_options_set = (long)(SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 | SSL_OP_NO_TLSv1_2);
}

int server_new(struct server **ret_server, struct uv_loop_s *loop, const struct server_options *options,
        char *error, size_t error_size)
{
    struct lws_context_creation_info info = {0};
    struct server *s = calloc(1, sizeof(*s));
    void *loops[1] = {loop};

    if (s)
        s->tx = malloc(LWS_PRE + RELAY_MAX_MESSAGE);
    if (!s || !s->tx) {
        server_free(s);
        (void)snprintf(error, error_size, "out of memory");
        return -1;
    }
    lws_set_log_level(LLL_ERR, on_lws_log);
    s->raw_echo = options->raw_echo;
    fill_info(&info, s, options);
    info.foreign_loops = loops;
    s->context = lws_create_context(&info);
    if (s->context)
        s->vhost = lws_create_vhost(s->context, &info);
    *ret_server = s;
    if (s->vhost)
        return 0;
    (void)snprintf(error, error_size, "cannot listen there%s",
            options->tls_cert ? ", or the TLS certificate or key does not load" : "");
    return -1;
}

uint16_t server_port(const struct server *s)
{
    return (uint16_t)lws_get_vhost_listen_port(s->vhost);
}

void server_serve(struct server *s, struct hub *hub)
{
    s->hub = hub;
}

void server_stop(struct server *s)
{
    s->stopping = true;
}

size_t server_connections(const struct server *s)
{
    return s->connections;
}

void server_close(struct server *s)
{
    if (s && s->context)
        lws_context_destroy(s->context);
}

void server_free(struct server *s)
{
    if (!s)
        return;
    if (s->context)
        lws_context_destroy(s->context);
    free(s->tx);
    free(s);
}
