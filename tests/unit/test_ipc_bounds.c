/* Event streams, and what one client can cost: queues, limits, slow and silent readers, failing allocations.
 */
#include "ipc_peer.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>

#include "failalloc.h"
#include "log.h"

/* A message in small pieces is not walked again for each of them. */
static void test_long_message_in_small_pieces(void **state)
{
    const uint32_t n = 20000;
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;

    buf_init(&b, RPC_MAX_MESSAGE);
    buf_bytes(&b, "\x94\x00\x05\xa8nonsense\x91", 13);
    mp_put_array(&b, n);
    for (uint32_t i = 0; i < n; i++)
        mp_put_uint(&b, i);
    ipc_test_parses = 0;
    for (size_t at = 0; at < b.len; at += 10) {
        send_bytes(f, &p, b.data + at, b.len - at < 10 ? b.len - at : 10);
        pump(f);
    }
    expect_text(f, &p, "METHOD_NOT_FOUND");
    assert_true(ipc_test_parses < 50);
    peer_close(&p);
}

static void test_answers_too_long(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->answer_bytes = RPC_MAX_MESSAGE;
    say(f, &p, STATUS(1));
    expect_text(f, &p, "[1,1,[1,\"TOO_LARGE: ");
    f->answer_bytes = RPC_MAX_MESSAGE - 64;
    say(f, &p, STATUS(2));
    expect_text(f, &p, "[1,2,null,");
    f->answer_bytes = 9u * RPC_MAX_MESSAGE; /* the application's own buffer overflowed */
    say(f, &p, STATUS(3));
    expect_text(f, &p, "[1,3,[1,\"TOO_LARGE: ");
    peer_close(&p);
}

static void test_pending_limit(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    const unsigned more = 500;
    CLEANUP_BUF struct buf b;

    for (unsigned i = 0; i < IPC_MAX_PENDING; i++)
        say(f, &p, WAIT(9));
    buf_init(&b, 65536);
    for (unsigned i = 0; i < more; i++)
        encode(&p, WAIT(9), &b);
    send_bytes(f, &p, b.data, b.len);
    for (unsigned i = 0; i < 100; i++)
        pump(f);
    assert_int_equal(f->n_held, IPC_MAX_PENDING);
    say(f, &q, STATUS(1));
    expect(f, &q, ALICE(1));
    for (unsigned i = 0; i < IPC_MAX_PENDING; i++)
        ipc_reply(f->held[i], NULL);
    f->n_held = 0;
    for (unsigned i = 0; i < IPC_MAX_PENDING; i++)
        expect(f, &p, "[1,9,null,{}]");
    expect_nothing(f, &p);
    assert_int_equal(f->n_held, more);
    for (unsigned i = 0; i < more; i++)
        ipc_reply(f->held[i], NULL);
    f->n_held = 0;
    peer_close(&p);
    peer_close(&q);
}

/* Stopped at the limit, with no event of the socket asked for, a vanished client is still noticed. */
static void test_gone_at_the_pending_limit(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    for (unsigned i = 0; i < IPC_MAX_PENDING + 1; i++)
        say(f, &p, WAIT(9));
    for (unsigned i = 0; i < 100; i++)
        pump(f);
    peer_close(&p);
    for (unsigned i = 0; i < 100 && ipc_clients(f->ipc) > 0; i++)
        pump_ms(f, 20);
    assert_int_equal(ipc_clients(f->ipc), 0);
    assert_int_equal(f->n_gone, IPC_MAX_PENDING);
}

static size_t client_memory(const struct ipc_client *c)
{
    return c->in.cap + c->out.cap + c->held.cap + c->held_ids.cap;
}

static void test_requester_that_never_reads(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    const struct ipc_client *c = TAILQ_FIRST(&f->ipc->clients);
    CLEANUP_BUF struct buf b;
    size_t asked = 0, whole = 0, memory = 0;
    struct mp_value v;

    buf_init(&b, 4096);
    encode(&p, STATUS(3), &b);
    f->answer_bytes = 10000;
    for (unsigned idle = 0; idle < 50;) {
        ssize_t n = write(p.fd, b.data + asked % b.len, b.len - asked % b.len);
        idle = n > 0 ? 0 : idle + 1;
        asked += n > 0 ? (size_t)n : 0;
        pump(f);
        assert_true(client_queued(c) <= IPC_MAX_QUEUE);
        memory = client_memory(c) > memory ? client_memory(c) : memory;
    }
    assert_true(client_queued(c) >= IPC_READ_STOP);
    assert_true(memory <= 3u * IPC_MAX_QUEUE);
    say(f, &q, STATUS(1));
    expect_text(f, &q, "[1,1,null,");
    while (asked % b.len) { /* what the full socket cut off */
        peer_receive(&p);
        pump(f);
        ssize_t n = write(p.fd, b.data + asked % b.len, b.len - asked % b.len);
        asked += n > 0 ? (size_t)n : 0;
    }
    for (whole = asked / b.len; whole > 0; whole--)
        v = hear(f, &p);
    assert_int_equal(v.type, MP_ARRAY);
    expect_nothing(f, &p);
    assert_true(client_memory(c) <= 4 * IPC_KEEP_BUFFER);
    peer_close(&p);
    peer_close(&q);
}

/* Answers given later do not stop at the limit of reading; the queue is bounded all the same. */
static void test_late_answers_overflow(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    const unsigned n = 40;

    for (unsigned i = 0; i < n; i++)
        say(f, &p, WAIT(8));
    pump(f);
    f->answer_bytes = 100000;
    for (unsigned i = 0; i < n; i++)
        answer_status(f, f->held[i]);
    f->n_held = 0;
    assert_true(client_queued(newest_client(f)) <= IPC_MAX_QUEUE);
    for (unsigned i = 0; i < 20; i++)
        expect_text(f, &p, "[1,8,null,");
    for (unsigned i = 20; i < n; i++)
        expect_text(f, &p, "[1,8,[0,\"QUEUE_FULL: ");
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_subscription(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->n_events = 5;
    f->last_seq = 3; /* 4 and 5 are not committed */
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":1}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 2, 3);
    expect_nothing(f, &p);
    assert_true(f->types_asked == UINT64_MAX);
    f->last_seq = 5;
    expect_events(f, &p, 4, 5);
    say(f, &p, "[0,2,\"subscribe\",[{\"after\":4}]]"); /* replaces the first */
    expect(f, &p, "[1,2,null,{}]");
    expect_events(f, &p, 5, 5);
    expect_nothing(f, &p);
    say(f, &p, "[0,3,\"unsubscribe\",[]]");
    expect(f, &p, "[1,3,null,{}]");
    f->n_events = f->last_seq = 7;
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_log_read_in_small_portions(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->rows_a_read = 3;
    f->n_events = f->last_seq = 1000;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, 1000);
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_log_that_cannot_be_read(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    log_init("test_ipc", 0);
    f->n_events = f->last_seq = 2;
    f->read_result = -EIO;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_nothing(f, &p);
    assert_true(f->n_reads < 10); /* once a turn */
    f->read_result = 0;
    expect_events(f, &p, 1, 2); /* tried again without a new event */
    f->n_events = f->last_seq = 3;
    expect_events(f, &p, 3, 3);
    peer_close(&p);
}

static void test_new_log_begins_at_one(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->n_events = f->last_seq = 9;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":9}]]");
    expect(f, &p, "[1,1,null,{}]");
    f->n_events = f->last_seq = 0;
    expect_nothing(f, &p);
    f->n_events = f->last_seq = 2;
    expect_events(f, &p, 1, 2);
    peer_close(&p);
}

static void test_subscriber_that_never_reads(void **state)
{
    const uint64_t n = 100000;
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    const struct ipc_client *c = TAILQ_FIRST(&f->ipc->clients);
    size_t memory = 0;

    f->event_bytes = 300;
    ipc_test_sends = 0;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    for (f->n_events = 100; f->n_events <= n; f->n_events += 100) {
        f->last_seq = f->n_events;
        pump(f);
        memory = client_memory(c) > memory ? client_memory(c) : memory;
        if (f->n_events % 10000 == 0) {
            say(f, &q, STATUS(1));
            expect(f, &q, ALICE(1));
        }
    }
    f->n_events = n;
    assert_true(c->subscription.cursor < 5000);
    assert_true(ipc_test_sends < 100); /* a full socket is left alone */
    assert_true(memory <= 4u * IPC_EVENT_BATCH);
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, n);
    expect_nothing(f, &p);
    assert_true(client_memory(c) <= 4 * IPC_KEEP_BUFFER);
    peer_close(&p);
    peer_close(&q);
}

/* A few bytes now and then: order and number hold, requests in between are answered. */
static void test_slow_subscriber(void **state)
{
    const uint64_t n = 3000;
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    uint8_t piece[4096];
    ssize_t got;

    f->event_bytes = 500;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    for (unsigned i = 0; i < 600; i++) {
        if (f->n_events < n)
            f->last_seq = f->n_events += 10;
        pump(f);
        got = read(p.fd, piece, 1 + (i * 977) % sizeof(piece));
        if (got > 0)
            buf_bytes(&p.in, piece, (size_t)got);
    }
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, n);
    say(f, &p, STATUS(2));
    expect(f, &p, ALICE(2));
    expect_nothing(f, &p);
    peer_close(&p);
}

static void test_event_of_the_largest_size(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->event_bytes = RPC_MAX_MESSAGE - 100;
    f->n_events = f->last_seq = 5;
    say(f, &p, "[0,1,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,1,null,{}]");
    expect_events(f, &p, 1, 5);
    peer_close(&p);
}

static void test_drain(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    struct mp_value v;

    f->answer_bytes = 60000;
    for (unsigned i = 0; i < 10; i++)
        say(f, &p, STATUS(1));
    pump(f);
    assert_true(client_queued(newest_client(f)) > 0);
    ipc_drain(f->ipc, 20); /* nobody reads: it gives up */
    assert_true(client_queued(newest_client(f)) > 0);
    for (unsigned i = 0; i < 10; i++) {
        peer_receive(&p);
        ipc_drain(f->ipc, 1);
    }
    assert_int_equal(client_queued(newest_client(f)), 0);
    peer_receive(&p);
    for (unsigned i = 0; i < 10; i++)
        assert_true(take(&p, &v));
    peer_close(&p);
}

static void put_requests(struct buf *b)
{
    static const char *const requests[] = {STATUS(1), WAIT(2), "[0,3,\"subscribe\",[{\"after\":0}]]",
            "[0,4,\"users\",[]]", "[0,5,\"nonsense\",[]]", "[0,6,\"hello\",[{\"errors\":\"map\"}]]",
            "[0,7,\"api_info\",[]]", "[0,8,\"wait\",[{}]]", STATUS(9)};
    const struct peer plain = {.framed = false};

    for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
        encode(&plain, requests[i], b);
}

/* A conversation in which the k-th allocation fails. True if it did. */
static bool converse(struct fixture *f, const struct buf *requests, unsigned long k)
{
    size_t cut = requests->len - 3; /* the last request comes in two pieces */
    int fd = dial(f->path);
    bool failed;

    assert_true(fd >= 0);
    failalloc_arm(k);
    pump(f);
    (void)!send(fd, requests->data, cut, MSG_NOSIGNAL);
    pump(f);
    (void)!send(fd, requests->data + cut, requests->len - cut, MSG_NOSIGNAL);
    f->n_events++;
    f->last_seq++;
    pump(f);
    for (size_t i = 0; i < f->n_held; i++)
        ipc_fail(f->held[i], API_TIMEOUT, 0, "in time");
    f->n_held = 0;
    pump(f);
    failed = failalloc_disarm();
    (void)close(fd);
    for (unsigned i = 0; i < 5; i++)
        pump(f);
    return failed;
}

/* Whatever fails, it costs at most that client, and the next one is served. */
static void test_allocation_failures(void **state)
{
    struct fixture *f = *state;
    CLEANUP_BUF struct buf b;
    unsigned long k = 1;

    log_init("test_ipc", 0);
    buf_init(&b, 65536);
    put_requests(&b);
    for (; converse(f, &b, k); k++) {
        struct peer p = peer_open(f);
        assert_int_equal(ipc_clients(f->ipc), 1);
        say(f, &p, STATUS(1));
        expect(f, &p, ALICE(1));
        peer_close(&p);
        pump(f);
        assert_int_equal(ipc_clients(f->ipc), 0);
    }
    assert_true(k > 10);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* For reading, not for passing: what a round trip and a pipelined request cost, both ends included. */
static void test_cost(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;
    const unsigned n = 5000;
    uint64_t begin;
    char answer[256];

    buf_init(&b, 65536);
    encode(&p, STATUS(1), &b);
    begin = now_ns();
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(write(p.fd, b.data, b.len), b.len);
        do
            pump(f);
        while (read(p.fd, answer, sizeof(answer)) < 0);
    }
    print_message("round trip: %.1f us\n", (double)(now_ns() - begin) / n / 1000);
    for (unsigned i = 1; i < 200; i++)
        encode(&p, STATUS(1), &b);
    begin = now_ns();
    for (unsigned i = 0; i < 50; i++) {
        send_bytes(f, &p, b.data, b.len);
        for (unsigned j = 0; j < 200; j++)
            (void)hear(f, &p);
    }
    print_message("pipelined: %.2f us\n", (double)(now_ns() - begin) / 10000 / 1000);
    peer_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            IPC_TEST(test_long_message_in_small_pieces),
            IPC_TEST(test_answers_too_long),
            IPC_TEST(test_pending_limit),
            IPC_TEST(test_gone_at_the_pending_limit),
            IPC_TEST(test_requester_that_never_reads),
            IPC_TEST(test_late_answers_overflow),
            IPC_TEST(test_subscription),
            IPC_TEST(test_log_read_in_small_portions),
            IPC_TEST(test_log_that_cannot_be_read),
            IPC_TEST(test_new_log_begins_at_one),
            IPC_TEST(test_subscriber_that_never_reads),
            IPC_TEST(test_slow_subscriber),
            IPC_TEST(test_event_of_the_largest_size),
            IPC_TEST(test_drain),
            IPC_TEST(test_allocation_failures),
            IPC_TEST(test_cost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
