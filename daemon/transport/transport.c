#include "transport.h"

#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "authority.h"
#include "child.h"
#include "queue.h"

#define READ_PACKETS 64
#define READ_BYTES (1u << 20)
#define MAX_ATTEMPT 16u
#define REAP_MIN_MS 1u
#define REAP_MAX_MS 100u

const struct transport_tunables transport_defaults = {
        .connect_ms = 15000,
        .ping_interval_ms = 10000,
        .pong_timeout_ms = 20000,
        .close_ms = 1000,
        .backoff_min_ms = 250,
        .backoff_max_ms = 60000,
};

enum phase {
    PHASE_NONE,       /* no process; waiting for start_at if there is a URL */
    PHASE_CONNECTING, /* started; CONNECTED must come */
    PHASE_UP,
    PHASE_CLOSING, /* asked to end; what it says is dropped */
    PHASE_REAPING, /* killed or ended by itself; not yet reaped */
};

struct transport {
    struct transport_callbacks callbacks;
    void *ctx;
    struct rng rng;
    struct transport_tunables tun;
    char *link_dir, *url, *ca_file;

    enum phase phase;
    uint64_t turn; /* grows when a phase is left: tells a reading loop that its link is another one */
    struct child child;
    struct queue queue;
    uint8_t *rx; /* LINK_MAX_PACKET bytes while there is a process */
    bool paused;
    bool awaiting; /* a PING is unanswered */
    bool broken;   /* the link does not take packets any more */
    bool refused;  /* a send met a full queue */

    bool notify; /* the end is the caller's to know */
    uint16_t end_code;
    char reason[LINK_MAX_REASON + 1];
    uint32_t attempt;
    uint64_t start_at; /* clock_mono_ms() */
    uint32_t reap_ms;

    struct event *read_event, *write_event, *watch_timer, *ping_timer, *start_timer;
};

static void arm(struct event *timer, uint64_t ms)
{
    struct timeval tv = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
    (void)evtimer_add(timer, &tv);
}

/* Exponential backoff, drawn evenly between the shortest delay and a ceiling that doubles. */
static uint32_t next_delay(struct transport *t)
{
    uint64_t ceiling = (uint64_t)t->tun.backoff_min_ms << (t->attempt + 1);
    uint32_t random;
    if (ceiling > t->tun.backoff_max_ms)
        ceiling = t->tun.backoff_max_ms;
    if (t->attempt < MAX_ATTEMPT)
        t->attempt++;
    if (ceiling <= t->tun.backoff_min_ms)
        return t->tun.backoff_min_ms;
    rng_fill(&t->rng, &random, sizeof(random));
    return t->tun.backoff_min_ms + (uint32_t)((ceiling - t->tun.backoff_min_ms + 1) * random >> 32);
}

static void schedule_start(struct transport *t)
{
    uint64_t now = clock_mono_ms();
    if (t->phase != PHASE_NONE)
        return;
    (void)event_del(t->start_timer);
    if (t->url)
        arm(t->start_timer, t->start_at > now ? t->start_at - now : 0);
}

static void note(struct transport *t, uint16_t code, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
static void note(struct transport *t, uint16_t code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(t->reason, sizeof(t->reason), fmt, ap);
    va_end(ap);
    t->end_code = code;
    for (char *p = t->reason; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
}

/* The process is gone, or was never started. */
static void finish(struct transport *t)
{
    uint32_t delay;
    t->phase = PHASE_NONE;
    free(t->rx); /* not before: a callback that ended the link may have been looking at its message */
    t->rx = NULL;
    if (!t->notify) {
        schedule_start(t);
        return;
    }
    t->notify = false;
    delay = next_delay(t);
    t->start_at = clock_mono_ms() + delay;
    schedule_start(t);
    t->callbacks.closed(t->ctx, t->end_code, t->reason, delay);
}

static void reap(struct transport *t)
{
    int status = 0;
    if (!child_reap(&t->child, &status)) {
        arm(t->watch_timer, t->reap_ms);
        t->reap_ms = t->reap_ms * 2 > REAP_MAX_MS ? REAP_MAX_MS : t->reap_ms * 2;
        return;
    }
    if (!t->reason[0] && WIFSIGNALED(status))
        note(t, 0, "the link was ended by signal %d", WTERMSIG(status));
    else if (!t->reason[0])
        note(t, 0, "the link ended without giving a reason (exit status %d)", WEXITSTATUS(status));
    finish(t);
}

/* Ends the link's life, whatever it does. The rest follows from the event loop. */
static void lose(struct transport *t)
{
    t->phase = PHASE_REAPING;
    t->turn++;
    (void)event_del(t->read_event);
    (void)event_del(t->write_event);
    (void)event_del(t->ping_timer);
    child_kill(&t->child);
    child_close(&t->child);
    queue_done(&t->queue);
    t->refused = t->awaiting = t->broken = false;
    t->reap_ms = REAP_MIN_MS;
    arm(t->watch_timer, 0);
}

/* 0, TRANSPORT_FULL where the socket has no room, TRANSPORT_DOWN. */
static int send_parts(const struct transport *t, struct iovec *parts, size_t count)
{
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = count};
    while (sendmsg(t->child.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
            return TRANSPORT_FULL;
        if (errno != EINTR)
            return TRANSPORT_DOWN;
    }
    return 0;
}

static int send_packet(const struct transport *t, uint8_t kind, const void *p, size_t n)
{
    struct iovec parts[2] = {
            {.iov_base = &kind, .iov_len = 1}, {.iov_base = (void *)(uintptr_t)p, .iov_len = n}};
    return send_parts(t, parts, n > 0 ? 2 : 1);
}

static void garbage(struct transport *t, const char *what)
{
    note(t, 0, "the link was killed: it sent %s", what);
    lose(t);
}

static void got_connected(struct transport *t, struct cursor *c)
{
    struct link_connected m;
    if (t->phase != PHASE_CONNECTING || link_get_connected(c, &m) != WIRE_OK) {
        garbage(t, "a malformed or unexpected CONNECTED");
        return;
    }
    if (!authority_matches(t->url, m.host)) {
        garbage(t, "a CONNECTED for another host than it was told to dial");
        return;
    }
    t->phase = PHASE_UP;
    (void)event_del(t->watch_timer);
    arm(t->ping_timer, t->tun.ping_interval_ms);
    t->callbacks.connected(t->ctx, &m);
}

static void got_closed(struct transport *t, struct cursor *c)
{
    struct link_closed m;
    if (link_get_closed(c, &m) != WIRE_OK) {
        garbage(t, "a malformed CLOSED");
        return;
    }
    note(t, m.code, "%.*s", (int)m.reason.n, m.reason.n > 0 ? (const char *)m.reason.p : "");
    if (!t->reason[0])
        note(t, m.code, "the connection was closed");
    lose(t);
}

static void got_message(struct transport *t, uint8_t kind, const uint8_t *p, size_t n)
{
    if (t->phase != PHASE_UP)
        garbage(t, "a message before CONNECTED");
    else if (kind == LINK_TEXT)
        t->callbacks.text(t->ctx, p, n);
    else if (n > 0)
        t->callbacks.message(t->ctx, p, n);
    else
        garbage(t, "an empty message");
}

static void got_rtt(struct transport *t, struct cursor *c)
{
    uint32_t us;
    if (t->phase != PHASE_UP || link_get_rtt(c, &us) != WIRE_OK)
        garbage(t, "a malformed or unexpected RTT");
    else
        t->callbacks.rtt(t->ctx, us);
}

static void got_packet(struct transport *t, const uint8_t *p, size_t n)
{
    struct cursor c;
    if (t->phase == PHASE_CLOSING)
        return;
    if (t->awaiting) {
        t->awaiting = false;
        (void)event_del(t->watch_timer);
    }
    cursor_init(&c, p + 1, n - 1);
    switch (p[0]) {
    case LINK_DATA:
    case LINK_TEXT:
        got_message(t, p[0], p + 1, n - 1);
        return;
    case LINK_CONNECTED:
        got_connected(t, &c);
        return;
    case LINK_CLOSED:
        got_closed(t, &c);
        return;
    case LINK_RTT:
        got_rtt(t, &c);
        return;
    case LINK_PONG:
        if (n != 1)
            garbage(t, "a malformed PONG");
        return;
    default:
        garbage(t, "a packet of unknown kind");
    }
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
    struct transport *t = arg;
    uint64_t turn = t->turn;
    size_t bytes = 0;
    (void)what;
    for (unsigned i = 0; i < READ_PACKETS && bytes < READ_BYTES && t->turn == turn && !t->paused;) {
        ssize_t n = recv(fd, t->rx, LINK_MAX_PACKET, MSG_DONTWAIT | MSG_TRUNC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            lose(t);
            return;
        }
        if ((size_t)n > LINK_MAX_PACKET) {
            garbage(t, "a packet over the limit");
            return;
        }
        got_packet(t, t->rx, (size_t)n);
        bytes += (size_t)n;
        i++;
    }
}

static void on_write(evutil_socket_t fd, short what, void *arg)
{
    struct transport *t = arg;
    size_t n = 0;
    (void)fd;
    (void)what;
    for (const uint8_t *p; (p = queue_first(&t->queue, &n)) != NULL; queue_pop(&t->queue)) {
        struct iovec part = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
        int r = send_parts(t, &part, 1);
        if (r == TRANSPORT_FULL)
            break;
        if (r == TRANSPORT_DOWN) {
            lose(t);
            return;
        }
    }
    if (!queue_first(&t->queue, &n))
        (void)event_del(t->write_event);
    if (t->refused && queue_half_empty(&t->queue)) {
        t->refused = false;
        t->callbacks.writable(t->ctx);
    }
}

/* A PING that finds no room is not missed: a link that does not read sends PONGs without being asked. */
static void on_ping(evutil_socket_t fd, short what, void *arg)
{
    struct transport *t = arg;
    size_t n;
    (void)fd;
    (void)what;
    arm(t->ping_timer, t->tun.ping_interval_ms);
    if (t->paused)
        return;
    if (!queue_first(&t->queue, &n) && send_packet(t, LINK_PING, NULL, 0) == TRANSPORT_DOWN) {
        lose(t);
        return;
    }
    if (t->awaiting)
        return;
    t->awaiting = true;
    arm(t->watch_timer, t->tun.pong_timeout_ms);
}

/* What is allowed to take only so long has taken it. */
static void on_watch(evutil_socket_t fd, short what, void *arg)
{
    struct transport *t = arg;
    (void)fd;
    (void)what;
    if (t->phase == PHASE_REAPING) {
        reap(t);
        return;
    }
    if (t->phase == PHASE_CONNECTING)
        note(t, 0, "the link was killed: it neither connected nor gave up within %u ms",
                (unsigned)t->tun.connect_ms);
    else if (t->phase == PHASE_UP && !t->broken)
        note(t, 0, "the link was killed: it hung for %u ms", (unsigned)t->tun.pong_timeout_ms);
    lose(t);
}

/* In CLOSING, what comes is read only to be dropped. */
static void watch_reading(struct transport *t)
{
    if (t->paused && t->phase != PHASE_CLOSING)
        (void)event_del(t->read_event);
    else
        (void)event_add(t->read_event, NULL);
}

static int open_link(struct transport *t, char path[static PATH_MAX])
{
    struct event_base *base = event_get_base(t->start_timer);
    int r;
    t->rx = malloc(LINK_MAX_PACKET);
    if (!t->rx)
        return -ENOMEM;
    r = child_start(&t->child, t->link_dir, t->url, t->ca_file, path);
    if (r < 0)
        return r;
    if (event_assign(t->read_event, base, t->child.fd, EV_READ | EV_PERSIST, on_read, t) < 0 ||
            event_assign(t->write_event, base, t->child.fd, EV_WRITE | EV_PERSIST, on_write, t) < 0)
        return -EIO;
    return 0;
}

static void on_start(evutil_socket_t fd, short what, void *arg)
{
    struct transport *t = arg;
    char path[PATH_MAX] = "";
    (void)fd;
    (void)what;
    t->reason[0] = '\0';
    t->end_code = 0;
    t->notify = true;
    int r = open_link(t, path);
    if (r < 0) {
        note(t, 0, "cannot start the link program %.180s: %s", path, strerror(-r));
        lose(t);
        return;
    }
    t->phase = PHASE_CONNECTING;
    watch_reading(t);
    if (!t->paused)
        arm(t->watch_timer, t->tun.connect_ms);
}

int transport_new(struct event_base *base, const char *link_dir, const struct transport_tunables *tunables,
        const struct transport_callbacks *callbacks, void *ctx, struct rng rng, struct transport **ret_t)
{
    struct transport *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->callbacks = *callbacks;
    t->ctx = ctx;
    t->rng = rng;
    t->tun = tunables ? *tunables : transport_defaults;
    t->child.fd = -1;
    queue_init(&t->queue);
    t->link_dir = link_dir ? strdup(link_dir) : NULL;
    t->read_event = event_new(base, -1, EV_READ, on_read, t);
    t->write_event = event_new(base, -1, EV_WRITE, on_write, t);
    t->watch_timer = evtimer_new(base, on_watch, t);
    t->ping_timer = evtimer_new(base, on_ping, t);
    t->start_timer = evtimer_new(base, on_start, t);
    if ((link_dir && !t->link_dir) || !t->read_event || !t->write_event || !t->watch_timer ||
            !t->ping_timer || !t->start_timer) {
        transport_free(t);
        return -ENOMEM;
    }
    *ret_t = t;
    return 0;
}

void transport_free(struct transport *t)
{
    if (!t)
        return;
    struct event *events[] = {t->read_event, t->write_event, t->watch_timer, t->ping_timer, t->start_timer};
    for (size_t i = 0; i < ARRAY_SIZE(events); i++)
        if (events[i])
            event_free(events[i]);
    child_done(&t->child);
    queue_done(&t->queue);
    free(t->rx);
    free(t->link_dir);
    free(t->url);
    free(t->ca_file);
    free(t);
}

/* Asks a living link to end and gives it a little time; the caller need not hear of the end. */
static void close_link(struct transport *t)
{
    t->notify = false;
    if (t->phase != PHASE_CONNECTING && t->phase != PHASE_UP)
        return;
    if (t->broken || send_packet(t, LINK_CLOSE, NULL, 0) != 0) {
        lose(t);
        return;
    }
    t->phase = PHASE_CLOSING;
    t->turn++;
    t->refused = t->awaiting = false;
    (void)event_del(t->write_event);
    (void)event_del(t->ping_timer);
    queue_done(&t->queue);
    watch_reading(t);
    arm(t->watch_timer, t->tun.close_ms);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

int transport_set_url(struct transport *t, const char *url, const char *ca_file)
{
    char scheme[TRANSPORT_MAX_SCHEME + 1];
    CLEANUP_FREE char *new_url = NULL, *new_ca = NULL;
    if (url && (strlen(url) > TRANSPORT_MAX_URL || child_scheme(url, scheme) != 0))
        return TRANSPORT_BAD_URL;
    if (url && same_text(url, t->url) && same_text(ca_file, t->ca_file))
        return 0;
    if ((url && !(new_url = strdup(url))) || (ca_file && !(new_ca = strdup(ca_file))))
        return -ENOMEM; /* NOLINT(clang-analyzer-unix.Malloc): CLEANUP_FREE frees new_url */
    free(t->url);
    free(t->ca_file);
    t->url = new_url;
    t->ca_file = new_ca;
    new_url = new_ca = NULL;
    t->attempt = 0;
    t->start_at = 0;
    close_link(t);
    schedule_start(t);
    return 0;
}

static int send_message(struct transport *t, enum link_kind kind, const void *p, size_t n)
{
    size_t first;
    int r = TRANSPORT_FULL;
    if (n == 0 || n > RELAY_MAX_MESSAGE)
        return TRANSPORT_TOO_LARGE;
    if (t->phase != PHASE_UP || t->broken)
        return TRANSPORT_DOWN;
    if (!queue_first(&t->queue, &first))
        r = send_packet(t, (uint8_t)kind, p, n);
    if (r == TRANSPORT_DOWN) {
        t->broken = true;
        arm(t->watch_timer, 0);
    }
    if (r != TRANSPORT_FULL)
        return r;
    r = queue_push(&t->queue, kind, p, n);
    if (r == TRANSPORT_FULL)
        t->refused = true;
    else if (r == 0)
        (void)event_add(t->write_event, NULL);
    return r;
}

int transport_send(struct transport *t, const void *p, size_t n)
{
    return send_message(t, LINK_DATA, p, n);
}

int transport_send_text(struct transport *t, const void *p, size_t n)
{
    return send_message(t, LINK_TEXT, p, n);
}

void transport_good(struct transport *t)
{
    t->attempt = 0;
}

uint32_t transport_drop(struct transport *t, uint32_t delay_hint_ms)
{
    uint32_t delay = next_delay(t);
    delay += delay_hint_ms < TRANSPORT_MAX_HINT_MS ? delay_hint_ms : TRANSPORT_MAX_HINT_MS;
    t->start_at = clock_mono_ms() + delay;
    close_link(t);
    schedule_start(t);
    return delay;
}

void transport_pause_reading(struct transport *t, bool pause)
{
    if (t->paused == pause)
        return;
    t->paused = pause;
    if (t->phase != PHASE_CONNECTING && t->phase != PHASE_UP)
        return;
    watch_reading(t);
    if (t->broken)
        return;
    t->awaiting = false;
    (void)event_del(t->watch_timer);
    if (!pause && t->phase == PHASE_CONNECTING)
        arm(t->watch_timer, t->tun.connect_ms);
}

void transport_retry_now(struct transport *t)
{
    t->start_at = 0;
    schedule_start(t);
}

bool transport_up(const struct transport *t)
{
    return t->phase == PHASE_UP && !t->broken;
}
