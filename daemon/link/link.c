#include "link.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "sandbox.h"
#include "state.h"

#define SERVICE_BUFFER 16384 /* one read of the network; a slow peer shows life at least this often */
#define DESCRIPTORS 32
#define MS_US 1000
#define NO_HTTP 0
#define HTTP_SWITCHING 101

/*
 * The deadline of the attempt is a signal, as the resolver blocks and libwebsockets has deadlines of its own.
 * What the handler says is made ready before the timer is set.
 */
static struct {
    size_t n;
    uint8_t packet[3 + 4 + LINK_MAX_REASON];
} deadline;

static void on_alarm(int sig)
{
    (void)sig;
    (void)send(LINK_FD, deadline.packet, deadline.n, MSG_DONTWAIT | MSG_NOSIGNAL);
    _exit(LINK_EXIT_UNAVAILABLE);
}

static void set_alarm(uint32_t ms)
{
    struct itimerval t = {
            .it_value = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * MS_US}};
    (void)setitimer(ITIMER_REAL, &t, NULL);
}

static int arm_deadline(const struct link *l)
{
    CLEANUP_BUF struct buf b = {0};
    char reason[LINK_REASON];
    struct sigaction action = {.sa_handler = on_alarm};
    (void)snprintf(reason, sizeof(reason), "no answer from %.200s within %u ms", l->url.authority,
            (unsigned)l->options->connect_timeout_ms);
    buf_init(&b, sizeof(deadline.packet));
    link_put_closed(&b, 0, reason);
    if (buf_status(&b) < 0)
        return buf_status(&b);
    memcpy(deadline.packet, b.data, b.len);
    deadline.n = b.len;
    if (sigaction(SIGALRM, &action, NULL) < 0)
        return -errno;
    set_alarm(l->options->connect_timeout_ms);
    return 0;
}

void link_note(struct link *l, uint16_t code, const char *fmt, ...)
{
    va_list ap;
    if (l->reason[0])
        return;
    va_start(ap, fmt);
    (void)vsnprintf(l->reason, sizeof(l->reason), fmt, ap);
    va_end(ap);
    l->end_code = code;
}

/* A timer's callback runs just before the loop goes to sleep: wake it. */
void link_leave(struct link *l)
{
    l->done = true;
    if (l->context)
        lws_cancel_service(l->context);
}

void link_flush(struct link *l)
{
    int r = pipe_flush(&l->pipe);
    bool stall = r == PIPE_FULL && pipe_message_waits(&l->pipe);
    if (r == PIPE_GONE || (r == 0 && l->over)) {
        link_leave(l);
        return;
    }
    if (r == PIPE_FULL)
        (void)lws_callback_on_writable(l->daemon);
    if (stall == l->rx_stalled || !l->ws)
        return;
    l->rx_stalled = stall;
    l->heard_at = lws_now_usecs();
    (void)lws_rx_flow_control(l->ws, !stall);
}

void link_end(struct link *l)
{
    if (l->over)
        return;
    l->over = true;
    set_alarm(0);
    if (!l->up && l->exit_code == LINK_EXIT_OK && l->end_code == 0)
        l->exit_code = LINK_EXIT_UNAVAILABLE;
    pipe_owe_closed(&l->pipe, l->end_code, l->reason);
    link_flush(l);
}

static void on_attempt_timer(lws_sorted_usec_list_t *sul);

static bool begin_attempt(struct link *l, const struct dial_address *a)
{
    static const lws_retry_bo_t no_policy = {0}; /* ours is in stream.c */
    struct lws_client_connect_info info = {
            .context = l->context,
            .address = a->text,
            .port = l->url.port,
            .path = l->url.path,
            .host = l->url.http_host,
            .protocol = RELAY_SUBPROTOCOL,
            .local_protocol_name = RELAY_SUBPROTOCOL,
            .alpn = "http/1.1",
            .retry_and_idle_policy = &no_policy,
            .ssl_connection = LCCSCF_HTTP_NO_FOLLOW_REDIRECT,
            .pwsi = &l->ws,
    };
    /* tls.c checks the name; libwebsockets would check another for an IPv6 literal. */
    if (l->url.tls)
        info.ssl_connection |= LCCSCF_USE_SSL | LCCSCF_SKIP_SERVER_CERT_HOSTNAME_CHECK;
    return lws_client_connect_via_info(&info) != NULL;
}

/* Tries the addresses in turn; each but the last has its share of the deadline. */
static void attempt(struct link *l)
{
    while (!l->final && l->next_address < l->dial.count) {
        const struct dial_address *a = &l->dial.address[l->next_address++];
        unsigned left = l->dial.count - l->next_address;
        l->ws = NULL;
        l->reason[0] = '\0';
        if (begin_attempt(l, a)) {
            if (left > 0)
                lws_sul_schedule(l->context, 0, &l->attempt_timer, on_attempt_timer,
                        (lws_usec_t)l->options->connect_timeout_ms * MS_US / l->dial.count);
            return;
        }
        l->ws = NULL;
        if (l->tls.reason[0]) {
            link_note(l, 0, "%s", l->tls.reason);
            l->final = true;
        } else {
            char why[DIAL_MAX_REASON];
            dial_explain(a, &l->url, why);
            link_note(l, 0, "%s", why);
        }
    }
    link_end(l);
}

/* Either the share of an attempt is over, or it has failed and the next may begin. */
static void on_attempt_timer(lws_sorted_usec_list_t *sul)
{
    struct link *l = LINK_OF(sul, attempt_timer);
    if (l->up || l->over)
        return;
    if (l->ws)
        lws_set_timeout(l->ws, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
    else
        attempt(l);
}

static void note_failure(struct link *l, struct lws *ws, const char *said)
{
    unsigned status = lws_http_client_http_response(ws);
    char why[DIAL_MAX_REASON];
    if (l->reason[0] || l->tls.reason[0]) {
        link_note(l, 0, "%s", l->tls.reason);
        l->final = true;
    } else if (status != NO_HTTP && status != HTTP_SWITCHING) {
        link_note(l, 0, "%s answered with HTTP status %u instead of a WebSocket", l->url.authority, status);
        l->final = true;
    } else if (said && strncmp(said, "HS:", 3) == 0) {
        link_note(l, 0, "%s does not answer as a relay does (%.60s)", l->url.authority, said + 3);
        l->final = true;
    } else if (lws_get_socket_fd(ws) < 0) {
        dial_explain(&l->dial.address[l->next_address - 1], &l->url, why);
        link_note(l, 0, "%s", why);
    } else
        link_note(l, 0, "%s closed the connection before it answered", l->url.authority);
}

static void connection_error(struct link *l, struct lws *ws, const char *said)
{
    if (l->over)
        return;
    note_failure(l, ws, said);
    l->ws = NULL;
    lws_sul_schedule(l->context, 0, &l->attempt_timer, on_attempt_timer, 1);
}

/* libwebsockets also takes an answer that names no subprotocol. */
static int filter_answer(struct link *l, struct lws *ws)
{
    if (lws_hdr_total_length(ws, WSI_TOKEN_PROTOCOL) > 0)
        return 0;
    link_note(l, 0, "%s is a WebSocket server but not a relay (it does not speak %s)", l->url.authority,
            RELAY_SUBPROTOCOL);
    return -1;
}

static void established(struct link *l)
{
    set_alarm(0);
    lws_sul_cancel(&l->attempt_timer);
    stream_established(l);
}

static int on_ws(struct lws *ws, enum lws_callback_reasons why, void *user, void *in, size_t n)
{
    struct link *l = lws_context_user(lws_get_context(ws));
    (void)user;
    switch (why) {
    case LWS_CALLBACK_OPENSSL_PERFORM_SERVER_CERT_VERIFICATION:
        if (n == 0) /* whether OpenSSL is content so far */
            tls_note_verification(&l->tls, user);
        return 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        connection_error(l, ws, in);
        return 0;
    case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
        return filter_answer(l, ws);
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        established(l);
        return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE:
        /*
         * Never anything but 0: libwebsockets up to 5.0 then goes on to fill its frame buffer past the end
         * while it waits for the close to be answered (its issue 3412).
         */
        stream_received(l, in, n);
        return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
        stream_pong(l, in, n);
        return 0;
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        return stream_writable(l);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        stream_peer_close(l, in, n);
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        stream_closed(l);
        return 0;
    default:
        return 0;
    }
}

static int on_daemon(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t n)
{
    struct link *l = lws_context_user(lws_get_context(wsi));
    (void)user;
    (void)in;
    (void)n;
    switch (why) {
    case LWS_CALLBACK_RAW_RX_FILE:
        stream_read_daemon(l);
        return 0;
    case LWS_CALLBACK_RAW_WRITEABLE_FILE:
        link_flush(l);
        return 0;
    case LWS_CALLBACK_RAW_CLOSE_FILE:
        link_leave(l);
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {
        {.name = RELAY_SUBPROTOCOL,
                .callback = on_ws,
                .rx_buffer_size = SERVICE_BUFFER,
                .tx_packet_size = RELAY_MAX_MESSAGE + LWS_PRE},
        {.name = "daemon", .callback = on_daemon, .tx_packet_size = LINK_MAX_PACKET},
        {.name = NULL},
};

static int create_context(struct link *l)
{
    lws_sock_file_fd_type fd = {.filefd = LINK_FD};
    unsigned seconds = l->options->connect_timeout_ms / 1000 + 5; /* behind our own deadline */
    struct lws_context_creation_info info = {
            .port = CONTEXT_PORT_NO_LISTEN,
            .protocols = protocols,
            .user = l,
            .pt_serv_buf_size = SERVICE_BUFFER,
            .fd_limit_per_thread = DESCRIPTORS,
            .timeout_secs = seconds,
            .connect_timeout_secs = seconds,
            .options = l->url.tls ? LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT : 0,
            .provided_client_ssl_ctx = l->tls.ctx,
    };
    lws_set_log_level(0, NULL);
    l->context = lws_create_context(&info);
    if (!l->context)
        return -ENOMEM;
    l->daemon = lws_adopt_descriptor_vhost(lws_get_vhost_by_name(l->context, "default"),
            LWS_ADOPT_RAW_FILE_DESC, fd, protocols[1].name, NULL);
    return l->daemon ? 0 : -ENOMEM;
}

/* What can be known before the first packet. On failure the outcome is noted. */
static int prepare(struct link *l)
{
    const char *why = NULL;
    char reason[DIAL_MAX_REASON];
    if (url_parse(l->options->url, &l->url, &why) != WIRE_OK) {
        link_note(l, 0, "cannot use the relay's URL: %s", why);
        l->exit_code = LINK_EXIT_USAGE;
        return -EINVAL;
    }
    int r = arm_deadline(l);
    if (r < 0)
        return r;
    sandbox_read_only();
    if (l->url.tls) {
        r = tls_init(&l->tls, &l->url, l->options->ca_file);
        if (r < 0) {
            link_note(l, 0, "%s", l->tls.reason[0] ? l->tls.reason : strerror(-r));
            return r;
        }
    }
    r = dial_resolve(&l->dial, &l->url, reason);
    if (r < 0)
        link_note(l, 0, "%s", reason);
    return r;
}

/* There is no loop yet: CLOSED is the first packet, for which an empty socket has room. */
static void refuse(struct link *l, int r)
{
    set_alarm(0);
    if (l->exit_code == LINK_EXIT_OK)
        l->exit_code = r == -ENOMEM ? LINK_EXIT_SOFTWARE : LINK_EXIT_UNAVAILABLE;
    link_note(l, 0, "the link cannot start: %s", strerror(-r));
    pipe_owe_closed(&l->pipe, 0, l->reason);
    if (pipe_flush(&l->pipe) != 0)
        l->exit_code = LINK_EXIT_SOFTWARE;
}

enum link_exit link_run(const struct link_options *options)
{
    CLEANUP_FREE struct link *l = calloc(1, sizeof(*l));
    if (!l)
        return LINK_EXIT_SOFTWARE;
    l->options = options;
    if (pipe_init(&l->pipe, LINK_FD) < 0) {
        (void)fprintf(stderr,
                "e2eed-link-ws: descriptor %d must be one end of a SOCK_SEQPACKET socketpair; "
                "this program is started by e2eed\n",
                LINK_FD);
        return LINK_EXIT_USAGE;
    }
    int r = prepare(l);
    if (r == 0)
        r = create_context(l);
    if (r < 0)
        refuse(l, r);
    else
        attempt(l);
    while (r == 0 && !l->done && lws_service(l->context, 0) >= 0)
        ;
    enum link_exit code = l->exit_code;
    if (l->context)
        lws_context_destroy(l->context);
    tls_done(&l->tls);
    pipe_done(&l->pipe);
    return code;
}
