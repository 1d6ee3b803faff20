#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "authority.h"
#include "transport.h"

/* A link program that does what the path of its URL says. */
#define HOST "fake://relay.test:7/"

static const struct transport_tunables fast = {.connect_ms = 1500,
        .ping_interval_ms = 50,
        .pong_timeout_ms = 500,
        .close_ms = 150,
        .backoff_min_ms = 20,
        .backoff_max_ms = 320};

struct fixture {
    struct event_base *base;
    struct transport *t;
    uint64_t seed;
    unsigned connected, messages, texts, closed, rtts, writables;
    size_t bytes;
    uint32_t rtt_us, retry_ms;
    uint16_t code;
    char reason[300], text[4096], host[300];
    uint8_t last[RELAY_MAX_MESSAGE];
    size_t last_n;
    bool drop_in_message, pause_in_message;
    int open_fds;
};

static void seeded_fill(void *ctx, void *out, size_t n)
{
    uint64_t *s = ctx;
    uint8_t *p = out;
    for (size_t i = 0; i < n; i++) {
        *s = *s * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        p[i] = (uint8_t)(*s >> 56);
    }
}

static void on_connected(void *ctx, const struct link_connected *m)
{
    struct fixture *f = ctx;
    f->connected++;
    (void)snprintf(f->host, sizeof(f->host), "%.*s", (int)m->host.n, (const char *)m->host.p);
}

static void on_message(void *ctx, const uint8_t *p, size_t n)
{
    struct fixture *f = ctx;
    f->messages++;
    f->bytes += n;
    if (f->drop_in_message)
        (void)transport_drop(f->t, 0);
    if (f->pause_in_message)
        transport_pause_reading(f->t, true);
    f->last_n = n;
    memcpy(f->last, p, n);
}

static void on_text(void *ctx, const uint8_t *p, size_t n)
{
    struct fixture *f = ctx;
    f->texts++;
    (void)snprintf(f->text, sizeof(f->text), "%.*s", (int)n, (const char *)p);
}

static void on_closed(void *ctx, uint16_t code, const char *reason, uint32_t retry_in_ms)
{
    struct fixture *f = ctx;
    f->closed++;
    f->code = code;
    f->retry_ms = retry_in_ms;
    (void)snprintf(f->reason, sizeof(f->reason), "%s", reason);
}

static void on_rtt(void *ctx, uint32_t us)
{
    struct fixture *f = ctx;
    f->rtts++;
    f->rtt_us = us;
}

static void on_writable(void *ctx)
{
    struct fixture *f = ctx;
    f->writables++;
}

static const struct transport_callbacks callbacks = {.connected = on_connected,
        .message = on_message,
        .text = on_text,
        .closed = on_closed,
        .rtt = on_rtt,
        .writable = on_writable};

static int count_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    assert_int_equal(closedir(d), 0);
    return n;
}

static int setup_with(void **state, const struct transport_tunables *tun)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->seed = 1;
    f->base = event_base_new();
    assert_non_null(f->base);
    f->open_fds = count_fds();
    assert_int_equal(transport_new(f->base, FAKE_LINK_DIR, tun, &callbacks, f,
                             (struct rng){.fill = seeded_fill, .ctx = &f->seed}, &f->t),
            0);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, &fast);
}

/* Nothing is left behind: no process, no descriptor. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    transport_free(f->t);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(count_fds(), f->open_fds);
    event_base_free(f->base);
    free(f);
    return 0;
}

/* Turns the loop until *counter reaches value; fails after three seconds. */
static void run_until(struct fixture *f, const unsigned *counter, unsigned value)
{
    uint64_t end = clock_mono_ms() + 3000;
    while (*counter < value) {
        assert_true(clock_mono_ms() < end);
        assert_true(event_base_loop(f->base, EVLOOP_NONBLOCK) >= 0);
        (void)usleep(500);
    }
}

static void run_for(struct fixture *f, uint64_t ms)
{
    for (uint64_t end = clock_mono_ms() + ms; clock_mono_ms() < end; (void)usleep(500))
        assert_true(event_base_loop(f->base, EVLOOP_NONBLOCK) >= 0);
}

static void use(struct fixture *f, const char *how)
{
    char url[100];
    (void)snprintf(url, sizeof(url), "%s%s", HOST, how);
    assert_int_equal(transport_set_url(f->t, url, NULL), 0);
}

static void connects_and_carries_both_ways(void **state)
{
    struct fixture *f = *state;
    uint8_t big[RELAY_MAX_MESSAGE];
    memset(big, 0xa5, sizeof(big));
    use(f, "echo");
    assert_int_equal(transport_send(f->t, "x", 1), TRANSPORT_DOWN);
    run_until(f, &f->connected, 1);
    assert_true(transport_up(f->t));
    assert_string_equal(f->host, "relay.test:7");
    assert_int_equal(transport_send(f->t, big, sizeof(big)), 0);
    run_until(f, &f->messages, 1);
    assert_int_equal(f->last_n, sizeof(big));
    assert_memory_equal(f->last, big, sizeof(big));
    assert_int_equal(transport_send_text(f->t, "hello", 5), 0);
    run_until(f, &f->texts, 1);
    assert_string_equal(f->text, "hello");
    assert_int_equal(transport_send(f->t, big, sizeof(big) + 1), TRANSPORT_TOO_LARGE);
    assert_int_equal(transport_send(f->t, big, 0), TRANSPORT_TOO_LARGE);
    assert_int_equal(f->closed, 0);
}

static void stays_up_while_pings_are_answered(void **state)
{
    struct fixture *f = *state;
    use(f, "echo");
    run_until(f, &f->connected, 1);
    run_for(f, 900);
    assert_int_equal(f->closed, 0);
    assert_true(transport_up(f->t));
}

static void reports_round_trip_times(void **state)
{
    struct fixture *f = *state;
    use(f, "rtt");
    run_until(f, &f->rtts, 1);
    assert_int_equal(f->rtt_us, 12345);
}

/* The child has three standard descriptors and its socket, whatever we have open, and no environment of ours.
 */
static void child_inherits_nothing(void **state)
{
    struct fixture *f = *state;
    int leak = dup(STDERR_FILENO);
    assert_int_equal(setenv("E2EED_TEST_SECRET", "1", 1), 0);
    use(f, "inventory");
    run_until(f, &f->texts, 1);
    assert_string_equal(f->text, "0 1 2 3 LC_ALL=C ");
    assert_int_equal(close(leak), 0);
}

static const struct {
    const char *how, *reason;
} faults[] = {
        {"crash", "signal 6"},
        {"exit3", "exit status 3"},
        {"hang", "it hung"},
        {"mute", "neither connected nor gave up"},
        {"unknown", "unknown kind"},
        {"daemonkind", "unknown kind"},
        {"long", "over the limit"},
        {"emptydata", "an empty message"},
        {"badclosed", "malformed CLOSED"},
        {"badrtt", "RTT"},
        {"longpong", "PONG"},
        {"twice", "unexpected CONNECTED"},
        {"early", "before CONNECTED"},
        {"otherhost", "another host"},
};

static void survives_every_fault(void **state)
{
    struct fixture *f = *state;
    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        unsigned closed = f->closed;
        print_message("%s\n", faults[i].how);
        use(f, faults[i].how);
        run_until(f, &f->closed, closed + 1);
        if (!strstr(f->reason, faults[i].reason))
            fail_msg("%s: %s", faults[i].how, f->reason);
        assert_false(transport_up(f->t));
        assert_int_equal(transport_send(f->t, "x", 1), TRANSPORT_DOWN);
    }
    use(f, "echo");
    run_until(f, &f->connected, f->connected + 1);
}

static void passes_on_code_and_reason(void **state)
{
    struct fixture *f = *state;
    use(f, "busy");
    run_until(f, &f->closed, 1);
    assert_int_equal(f->code, 1013);
    assert_string_equal(f->reason, "busy?[31m");
}

static void restarts_by_itself(void **state)
{
    struct fixture *f = *state;
    use(f, "crash");
    run_until(f, &f->connected, 3);
    assert_true(f->closed >= 2);
}

/* Delays lie between the minimum and a doubling ceiling, differ, and shrink again after success. */
static void backs_off_within_bounds(void **state)
{
    struct fixture *f = *state;
    uint32_t ceiling = 40, sum = 0;
    use(f, "busy");
    for (unsigned i = 1; i <= 7; i++) {
        run_until(f, &f->closed, i);
        assert_in_range(f->retry_ms, 20, ceiling);
        sum += f->retry_ms;
        ceiling = ceiling * 2 > 320 ? 320 : ceiling * 2;
    }
    assert_true(sum > 7 * 20);
    for (unsigned i = 0; i < 200; i++) {
        uint32_t delay = transport_drop(f->t, 0);
        assert_in_range(delay, 20, 320);
        sum = delay > 250 ? 1 : sum;
    }
    assert_int_equal(sum, 1);
    transport_good(f->t);
    assert_in_range(transport_drop(f->t, 0), 20, 40);
}

static void waits_as_long_as_it_says(void **state)
{
    struct fixture *f = *state;
    use(f, "echo");
    run_until(f, &f->connected, 1);
    uint64_t begin = clock_mono_ms();
    uint32_t delay = transport_drop(f->t, 400);
    assert_in_range(delay, 420, 440);
    assert_false(transport_up(f->t));
    run_until(f, &f->connected, 2);
    assert_true(clock_mono_ms() - begin >= delay);
    assert_int_equal(f->closed, 0);
    assert_in_range(transport_drop(f->t, UINT32_MAX), TRANSPORT_MAX_HINT_MS + 20, TRANSPORT_MAX_HINT_MS + 80);
    transport_retry_now(f->t);
    run_until(f, &f->connected, 3);
}

static void the_same_url_changes_nothing(void **state)
{
    struct fixture *f = *state;
    use(f, "echo");
    run_until(f, &f->connected, 1);
    use(f, "echo");
    assert_true(transport_up(f->t));
    uint64_t begin = clock_mono_ms();
    uint32_t delay = transport_drop(f->t, 400);
    use(f, "echo"); /* the backoff stays */
    run_until(f, &f->connected, 2);
    assert_true(clock_mono_ms() - begin >= delay);
    assert_int_equal(transport_set_url(f->t, HOST "echo", "/nonexistent-ca"), 0);
    run_until(f, &f->connected, 3); /* another file is another connection */
    assert_int_equal(transport_set_url(f->t, NULL, NULL), 0);
    use(f, "echo");
    run_until(f, &f->connected, 4);
}

static void kills_a_link_that_will_not_close(void **state)
{
    struct fixture *f = *state;
    use(f, "stubborn");
    run_until(f, &f->connected, 1);
    uint64_t begin = clock_mono_ms();
    use(f, "echo");
    run_until(f, &f->connected, 2);
    assert_true(clock_mono_ms() - begin >= fast.close_ms);
    assert_int_equal(f->closed, 0);
}

static void stops_without_url(void **state)
{
    struct fixture *f = *state;
    use(f, "echo");
    run_until(f, &f->connected, 1);
    assert_int_equal(transport_set_url(f->t, NULL, NULL), 0);
    assert_int_equal(transport_send(f->t, "x", 1), TRANSPORT_DOWN);
    run_for(f, 300);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(f->connected, 1);
    assert_int_equal(f->closed, 0);
}

static void refuses_bad_urls(void **state)
{
    struct fixture *f = *state;
    static const char *const bad[] = {
            "", "x", "://h", "-a://h", "A://h", "a/b://h", "../../x://h", "a:/h", "aaaaaaaaaaaaaaaaa://h"};
    char longest[TRANSPORT_MAX_URL + 2];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(transport_set_url(f->t, bad[i], NULL), TRANSPORT_BAD_URL);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    memcpy(longest, "ws://", 5);
    assert_int_equal(transport_set_url(f->t, longest, NULL), TRANSPORT_BAD_URL);
}

static void says_which_program_is_missing(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(transport_set_url(f->t, "nosuch://h/", NULL), 0);
    run_until(f, &f->closed, 2);
    assert_non_null(strstr(f->reason, "e2eed-link-nosuch: No such file or directory"));
}

/* A link that takes nothing is not hung as long as it says so, and what waits for it is bounded. */
static void bounds_the_queue(void **state)
{
    struct fixture *f = *state;
    uint8_t message[65536] = {0};
    unsigned sent = 0;
    int r;
    use(f, "deaf");
    run_until(f, &f->connected, 1);
    while ((r = transport_send(f->t, message, sizeof(message))) == 0)
        assert_true(++sent < 200);
    assert_int_equal(r, TRANSPORT_FULL);
    assert_true(sent >= TRANSPORT_QUEUE_BYTES / (sizeof(message) + 1));
    run_for(f, 800);
    assert_int_equal(f->closed, 0);
    assert_int_equal(f->writables, 0);
    assert_int_equal(transport_send(f->t, message, sizeof(message)), TRANSPORT_FULL);
}

static void bounds_the_packets(void **state)
{
    struct fixture *f = *state;
    unsigned sent = 0;
    int r;
    use(f, "deaf");
    run_until(f, &f->connected, 1);
    while ((r = transport_send(f->t, "x", 1)) == 0)
        assert_true(++sent < 20000);
    assert_int_equal(r, TRANSPORT_FULL);
    assert_true(sent >= TRANSPORT_QUEUE_PACKETS);
}

static void says_when_there_is_room_again(void **state)
{
    struct fixture *f = *state;
    static uint8_t message[65536];
    unsigned sent = 0;
    use(f, "slow");
    run_until(f, &f->connected, 1);
    for (;; sent++) {
        memcpy(message, &sent, sizeof(sent));
        if (transport_send(f->t, message, sizeof(message)) != 0)
            break;
    }
    run_until(f, &f->writables, 1);
    assert_int_equal(transport_send(f->t, message, sizeof(message)), 0);
    run_until(f, &f->messages, sent + 1);
    assert_memory_equal(f->last, &sent, sizeof(sent));
    assert_int_equal(f->writables, 1);
    while (transport_send(f->t, message, sizeof(message)) == 0)
        sent++;
    run_until(f, &f->messages, sent + 1);
    assert_int_equal(f->writables, 2);
    assert_int_equal(f->closed, 0);
}

static void count_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    ++*(unsigned *)arg;
}

static void lets_others_run_during_a_flood(void **state)
{
    struct fixture *f = *state;
    const struct timeval tick = {.tv_usec = 1000};
    unsigned ticks = 0;
    struct event *e = event_new(f->base, -1, EV_PERSIST, count_timer, &ticks);
    assert_non_null(e);
    use(f, "flood");
    run_until(f, &f->connected, 1);
    assert_int_equal(event_add(e, &tick), 0);
    for (unsigned turn = 0; turn < 200; turn++) {
        unsigned before = f->messages;
        assert_true(event_base_loop(f->base, EVLOOP_ONCE) >= 0);
        assert_true(f->messages - before <= 64);
    }
    assert_true(f->messages > 1000);
    run_until(f, &ticks, 5);
    event_free(e);
}

static void pauses_reading(void **state)
{
    struct fixture *f = *state;
    use(f, "flood");
    run_until(f, &f->messages, 1);
    transport_pause_reading(f->t, true);
    unsigned seen = f->messages;
    run_for(f, 800);
    assert_int_equal(f->messages, seen);
    assert_int_equal(f->closed, 0);
    transport_pause_reading(f->t, false);
    run_until(f, &f->messages, seen + 1000);
}

static void pauses_inside_a_callback(void **state)
{
    struct fixture *f = *state;
    f->pause_in_message = true;
    use(f, "flood");
    for (unsigned i = 1; i <= 5; i++) {
        run_until(f, &f->messages, i);
        run_for(f, 20);
        assert_int_equal(f->messages, i);
        transport_pause_reading(f->t, false);
    }
}

/* An unanswered PING does not count while nobody listens, and counts again afterwards. */
static void does_not_take_an_unread_link_for_hung(void **state)
{
    struct fixture *f = *state;
    use(f, "hang");
    run_until(f, &f->connected, 1);
    run_for(f, 150);
    transport_pause_reading(f->t, true);
    run_for(f, 800);
    assert_int_equal(f->closed, 0);
    transport_pause_reading(f->t, false);
    run_until(f, &f->closed, 1);
    assert_non_null(strstr(f->reason, "it hung"));
}

static void delivers_nothing_after_a_drop(void **state)
{
    struct fixture *f = *state;
    use(f, "flood");
    run_until(f, &f->messages, 1);
    (void)transport_drop(f->t, 400);
    unsigned seen = f->messages;
    run_for(f, 300);
    assert_int_equal(f->messages, seen);
    run_until(f, &f->connected, 2);
}

/* The message is still there after the callback has ended the link that it came from. */
static void may_be_dropped_inside_a_callback(void **state)
{
    struct fixture *f = *state;
    f->drop_in_message = true;
    use(f, "flood");
    run_until(f, &f->messages, 1);
    run_until(f, &f->messages, 3);
    assert_true(f->connected >= 3);
    assert_int_equal(f->closed, 0);
}

static bool matches(const char *url, const char *host)
{
    return authority_matches(url, (struct span){.p = (const uint8_t *)host, .n = strlen(host)});
}

static void compares_authorities(void **state)
{
    (void)state;
    assert_true(matches("ws://Relay.test:7/x", "relay.test:7"));
    assert_true(matches("ws://relay.test", "relay.test:80"));
    assert_true(matches("wss://relay.test?q", "relay.test:443"));
    assert_true(matches("wss://[::1]:0443/", "[0:0::1]:443"));
    assert_true(matches("amqp://relay.test/", "relay.test:5672"));
    assert_false(matches("ws://relay.test/", "relay.test:443"));
    assert_false(matches("ws://relay.test:7/", "relay.test:8"));
    assert_false(matches("ws://relay.test:7/", "relay.test"));
    assert_false(matches("ws://relay.test:7/", "relay.tes:7"));
    assert_false(matches("ws://relay.test:7/", "relay.test.evil:7"));
    assert_false(matches("ws://relay.test:7/", "relay.test:7x"));
    assert_false(matches("ws://relay.test:7/", "relay.test:"));
    assert_false(matches("ws://relay.test:7/", ":7"));
    assert_false(matches("ws://[::1]:7/", "[::2]:7"));
    assert_false(matches("ws://[::1]:7/", "::1:7"));
    assert_false(matches("ws://[::1]:7/", "[::1"));
    assert_false(matches("ws://[]:7/", "[]:7"));
    assert_false(matches("nonsense", "nonsense:1"));
    assert_false(matches("ws://relay.test:7/", ""));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            T(connects_and_carries_both_ways),
            T(stays_up_while_pings_are_answered),
            T(reports_round_trip_times),
            T(child_inherits_nothing),
            T(survives_every_fault),
            T(passes_on_code_and_reason),
            T(restarts_by_itself),
            T(backs_off_within_bounds),
            T(waits_as_long_as_it_says),
            T(the_same_url_changes_nothing),
            T(kills_a_link_that_will_not_close),
            T(stops_without_url),
            T(refuses_bad_urls),
            T(says_which_program_is_missing),
            T(bounds_the_queue),
            T(bounds_the_packets),
            T(says_when_there_is_room_again),
            T(lets_others_run_during_a_flood),
            T(pauses_reading),
            T(pauses_inside_a_callback),
            T(does_not_take_an_unread_link_for_hung),
            T(delivers_nothing_after_a_drop),
            T(may_be_dropped_inside_a_callback),
            cmocka_unit_test(compares_authorities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
