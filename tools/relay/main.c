#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <systemd/sd-daemon.h>
#include <uv.h>

#include "base.h"
#include "conn.h"
#include "log.h"
#include "options.h"
#include "server.h"
#include "store.h"

#define NAME_LEN (MAX_HOST + 8)
#define TICK_MS 1000
#define DRAIN_CHECK_MS 20
#define DRAIN_MAX_MS 5000 /* for the store */
#define CLOSE_MAX_MS 1000 /* then for the peers' close frames */

struct app {
    const struct options *options;
    uv_loop_t loop;
    uv_timer_t tick, drain;
    uv_signal_t sigterm, sigint;
    struct store *store;
    struct server *server;
    struct hub *hub;
    char known[4][NAME_LEN]; /* names that need no option */
    const char *name[MAX_NAMES + 5];
    char listen[NAME_LEN];
    size_t names;
    uint64_t drain_until_ms;
    bool shut_down;
};

static void on_tick(uv_timer_t *timer)
{
    hub_tick(((struct app *)timer->data)->hub);
}

/* First everything that was read is stored and answered, then the connections are closed, then the loop ends.
 */
static void on_drain(uv_timer_t *timer)
{
    struct app *a = timer->data;
    bool late = clock_mono_ms() >= a->drain_until_ms;

    if (!a->shut_down && (store_pending(a->store) == 0 || late)) {
        a->shut_down = true;
        a->drain_until_ms = clock_mono_ms() + CLOSE_MAX_MS;
        hub_shut_down(a->hub);
        return;
    }
    if (a->shut_down && (late || server_connections(a->server) == 0))
        uv_stop(&a->loop);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct app *a = handle->data;

    (void)signum;
    if (a->drain_until_ms)
        return;
    (void)sd_notify(0, "STOPPING=1");
    log_info("stopping", "shutting down");
    a->drain_until_ms = clock_mono_ms() + DRAIN_MAX_MS;
    server_stop(a->server);
    hub_drain(a->hub);
    (void)uv_timer_start(&a->drain, on_drain, 0, DRAIN_CHECK_MS);
}

/* A host name as HOST:PORT, an IPv6 address in brackets. */
static void join(char out[NAME_LEN], const char *host, uint16_t port)
{
    bool v6 = strchr(host, ':') != NULL;

    (void)snprintf(out, NAME_LEN, "%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static void collect_names(struct app *a)
{
    char hostname[MAX_HOST] = "localhost";
    uint16_t port = server_port(a->server);

    if (gethostname(hostname, sizeof(hostname) - 1))
        (void)strcpy(hostname, "localhost");
    join(a->listen, a->options->host, port);
    join(a->known[0], "localhost", port);
    join(a->known[1], "127.0.0.1", port);
    join(a->known[2], "::1", port);
    join(a->known[3], hostname, port);
    a->name[a->names++] = a->listen;
    for (size_t i = 0; i < ARRAY_SIZE(a->known); i++)
        a->name[a->names++] = a->known[i];
    for (size_t i = 0; i < a->options->names; i++)
        a->name[a->names++] = a->options->name[i];
}

static int resolve(const char *host, char out[NI_MAXHOST], bool *ret_ipv6)
{
    const struct addrinfo hints = {
            .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int r = getaddrinfo(host, NULL, &hints, &found);

    if (r == 0) {
        *ret_ipv6 = found->ai_family == AF_INET6;
        r = getnameinfo(found->ai_addr, found->ai_addrlen, out, NI_MAXHOST, NULL, 0, NI_NUMERICHOST);
    }
    if (found)
        freeaddrinfo(found);
    if (r)
        (void)fprintf(stderr, "e2ee-relay: %s: %s\n", host, gai_strerror(r));
    return r ? -1 : 0;
}

static int listen_on(struct app *a)
{
    const struct options *o = a->options;
    struct server_options so = {
            .port = o->port, .tls_cert = o->tls_cert, .tls_key = o->tls_key, .raw_echo = o->raw_echo};
    char address[NI_MAXHOST], error[STORE_ERROR_LEN];

    if (resolve(o->host, address, &so.ipv6))
        return EX_NOHOST;
    if (strcmp(address, "0.0.0.0") != 0 && strcmp(address, "::") != 0)
        so.address = address;
    if (server_new(&a->server, &a->loop, &so, error, sizeof(error))) {
        (void)fprintf(stderr, "e2ee-relay: %s port %u: %s\n", o->host, o->port, error);
        return EX_UNAVAILABLE;
    }
    return 0;
}

static int open_store(struct app *a)
{
    const struct store_options so = {.dir = a->options->state,
            .max_envelopes = a->options->mailbox_envelopes,
            .max_bytes = a->options->mailbox_bytes};
    char error[STORE_ERROR_LEN];
    int r = store_open(&a->store, &a->loop, &so, error);

    if (!r)
        return 0;
    (void)fprintf(stderr, "e2ee-relay: %s\n", error);
    return r == STORE_OPEN_BUSY ? EX_TEMPFAIL : r > 0 ? EX_DATAERR : EX_CANTCREAT;
}

static int start_hub(struct app *a)
{
    const struct hub_clock clock = {.now_ms = clock_now_ms, .mono_ms = clock_mono_ms};
    struct hub_options ho = {.registration = a->options->registration,
            .binding_required = a->options->binding_required,
            .name = a->name,
            .names = a->names};

    memcpy(ho.limit, a->options->limit, sizeof(ho.limit));
    a->hub = hub_new(a->store, &ho, &clock);
    if (!a->hub)
        return EX_OSERR;
    server_serve(a->server, a->hub);
    return 0;
}

static void start_handles(struct app *a)
{
    (void)uv_timer_init(&a->loop, &a->tick);
    (void)uv_timer_init(&a->loop, &a->drain);
    (void)uv_signal_init(&a->loop, &a->sigterm);
    (void)uv_signal_init(&a->loop, &a->sigint);
    a->tick.data = a->drain.data = a->sigterm.data = a->sigint.data = a;
    (void)uv_timer_start(&a->tick, on_tick, TICK_MS, TICK_MS);
    (void)uv_signal_start(&a->sigterm, on_signal, SIGTERM);
    (void)uv_signal_start(&a->sigint, on_signal, SIGINT);
}

static void stop_handles(struct app *a)
{
    uv_close((uv_handle_t *)&a->tick, NULL);
    uv_close((uv_handle_t *)&a->drain, NULL);
    uv_close((uv_handle_t *)&a->sigterm, NULL);
    uv_close((uv_handle_t *)&a->sigint, NULL);
}

static void announce(const struct app *a)
{
    (void)printf("listening on %s\n", a->listen);
    (void)fflush(stdout);
    (void)sd_notifyf(0, "READY=1\nSTATUS=listening on %s", a->listen);
}

static int run(struct app *a)
{
    int r = open_store(a);

    if (!r)
        r = listen_on(a);
    if (r)
        return r;
    collect_names(a);
    r = start_hub(a);
    if (r)
        return r;
    start_handles(a);
    announce(a);
    (void)uv_run(&a->loop, UV_RUN_DEFAULT);
    stop_handles(a);
    return 0;
}

static int serve(const struct options *o)
{
    static struct app a;
    int r;

    a.options = o;
    (void)signal(SIGPIPE, SIG_IGN);
    /* A limit on the size of files is then an error like a full disk. */
    (void)signal(SIGXFSZ, SIG_IGN);
    if (uv_loop_init(&a.loop))
        return EX_OSERR;
    r = run(&a);
    server_close(a.server);
    store_close(a.store);
    (void)uv_run(&a.loop, UV_RUN_DEFAULT);
    server_free(a.server);
    hub_free(a.hub);
    (void)uv_loop_close(&a.loop);
    return r;
}

static int stats(const struct options *o)
{
    char error[STORE_ERROR_LEN];
    struct store_stats s = {0};

    if (store_read_stats(o->state, &s, error)) {
        (void)fprintf(stderr, "e2ee-relay: %s\n", error);
        return EX_NOINPUT;
    }
    (void)printf("accounts           %llu\ndevices            %llu\none-time prekeys   %llu\n"
                 "waiting envelopes  %llu\nwaiting bytes      %llu\nremembered ids     %llu\ntoken uses left "
                 "   %llu\n",
            (unsigned long long)s.accounts, (unsigned long long)s.devices,
            (unsigned long long)s.one_time_prekeys, (unsigned long long)s.waiting,
            (unsigned long long)s.waiting_bytes, (unsigned long long)s.remembered,
            (unsigned long long)s.tokens);
    return EX_OK;
}

static int create_token(const struct options *o)
{
    uint8_t secret[18], hash[TOKEN_HASH_LEN];
    char text[sodium_base64_ENCODED_LEN(sizeof(secret), sodium_base64_VARIANT_URLSAFE_NO_PADDING)];
    char error[STORE_ERROR_LEN];

    randombytes_buf(secret, sizeof(secret));
    (void)sodium_bin2base64(
            text, sizeof(text), secret, sizeof(secret), sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    directory_token_hash(text, strlen(text), hash);
    if (store_create_token(o->state, hash, o->uses, error)) {
        (void)fprintf(stderr, "e2ee-relay: %s\n", error);
        return EX_CANTCREAT;
    }
    (void)puts(text);
    return EX_OK;
}

int main(int argc, char **argv)
{
    struct options o;
    int r = options_read(argc, argv, &o);

    if (r >= 0)
        return r;
    if (sodium_init() < 0)
        return EX_OSERR;
    log_init("e2ee-relay", o.verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
    if (o.command == COMMAND_STATS)
        return stats(&o);
    return o.command == COMMAND_TOKEN_CREATE ? create_token(&o) : serve(&o);
}
