/* Conversations: requests, answers, errors, framing, malformed streams, half-closed and vanished clients. */
#include "ipc_peer.h"

#include <sys/socket.h>

static void test_silent_until_asked(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    expect_nothing(f, &p);
    say(f, &p, "[0,7,\"status\",[]]");
    expect(f, &p, ALICE(7));
    say(f, &p, "[0,0,\"status\",[{}]]");
    expect(f, &p, ALICE(0));
    say(f, &p, "[0,4294967295,\"status\",[{}]]");
    expect(f, &p, ALICE(4294967295));
    peer_close(&p);
}

static void test_one_byte_at_a_time(void **state)
{
    struct fixture *f = *state;

    for (unsigned framed = 0; framed < 2; framed++) {
        struct peer p = peer_open(f);
        CLEANUP_BUF struct buf b;

        p.framed = framed;
        buf_init(&b, 4096);
        encode(&p, STATUS(1), &b);
        encode(&p, STATUS(300), &b);
        for (size_t i = 0; i < b.len; i++) {
            send_bytes(f, &p, b.data + i, 1);
            pump(f);
        }
        expect(f, &p, ALICE(1));
        expect(f, &p, ALICE(300));
        expect_nothing(f, &p);
        peer_close(&p);
    }
}

static void test_pipelined_answers_leave_in_one_write(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;

    buf_init(&b, 65536);
    for (unsigned i = 0; i < 100; i++)
        encode(&p, STATUS(1), &b);
    ipc_test_sends = 0;
    send_bytes(f, &p, b.data, b.len);
    pump(f);
    assert_int_equal(ipc_test_sends, 1);
    for (unsigned i = 0; i < 100; i++)
        expect(f, &p, ALICE(1));
    expect_nothing(f, &p);
    buf_reset(&b);
    encode(&p, STATUS(1), &b);
    encode(&p, "[0,2,\"nonsense\",[]]", &b); /* answered by the server itself */
    ipc_test_sends = 0;
    send_bytes(f, &p, b.data, b.len);
    pump(f);
    assert_int_equal(ipc_test_sends, 1);
    peer_close(&p);
}

/* More messages in one write than one wake-up takes: the rest needs no further input. */
static void test_long_pipeline_goes_on_by_itself(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);
    CLEANUP_BUF struct buf b;

    buf_init(&b, 65536);
    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        encode(&p, STATUS(1), &b);
    send_bytes(f, &p, b.data, b.len);
    say(f, &q, STATUS(2));
    pump(f);
    assert_true(f->n_calls <= IPC_TURN_MESSAGES + 1);
    peer_receive(&q);
    expect(f, &q, ALICE(2));
    assert_true(f->n_calls <= 2 * IPC_TURN_MESSAGES + 1);
    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        expect(f, &p, ALICE(1));
    expect_nothing(f, &p);
    peer_close(&p);
    peer_close(&q);
}

static void test_keybase_framing(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    p.framed = true;
    f->n_events = f->last_seq = 2;
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    say(f, &p, "[0,2,\"nonsense\",[]]");
    expect_text(f, &p, "METHOD_NOT_FOUND");
    say(f, &p, "[0,3,\"subscribe\",[{\"after\":0}]]");
    expect(f, &p, "[1,3,null,{}]");
    expect(f, &p, "[2,\"event\",[{\"seq\":1}]]");
    expect(f, &p, "[2,\"event\",[{\"seq\":2}]]");
    peer_close(&p);
}

static void test_notifications_and_responses_are_ignored(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p,
            "[2,\"nvim_set_client_info\",[\"python3-client\",{\"major\":0},\"remote\",{},{\"license\":\"x\"}]"
            "]");
    say(f, &p, "[2,\"status\",[]]");
    say(f, &p, "[1,5,null,{}]");
    expect_nothing(f, &p);
    assert_int_equal(f->n_calls, 0);
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    peer_close(&p);
}

static void test_answers_in_any_order_and_repeated_ids(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, WAIT(1));
    say(f, &p, WAIT(1));
    say(f, &p, STATUS(1));
    expect(f, &p, ALICE(1));
    assert_int_equal(f->n_held, 2);
    ipc_fail(f->held[1], API_TIMEOUT, 0, "second of %d", 2);
    ipc_reply(f->held[0], NULL);
    f->n_held = 0;
    expect(f, &p, "[1,1,[0,\"TIMEOUT: second of 2\"],null]");
    expect(f, &p, "[1,1,null,{}]");
    peer_close(&p);
}

static void test_error_shapes(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, "[0,1,\"users\",[{}]]");
    expect(f, &p, "[1,1,[0,\"NOT_CONNECTED: no relay; connect first\"],null]");
    say(f, &p, "[0,2,\"hello\",[{\"errors\":\"string\"}]]");
    expect_text(f, &p, "\"account\":\"default\"");
    say(f, &p, "[0,3,\"users\",[{}]]");
    expect(f, &p, "[1,3,\"NOT_CONNECTED: no relay; connect first\",null]");
    say(f, &p, "[0,4,\"hello\",[{\"errors\":\"map\"}]]");
    expect_text(f, &p, "[1,4,null,{");
    say(f, &p, "[0,5,\"users\",[{}]]");
    expect(f, &p,
            "[1,5,{\"code\":26,\"name\":\"NOT_CONNECTED\",\"message\":\"no relay; connect "
            "first\",\"retry_after_ms\":1500},null]");
    say(f, &p, "[0,6,\"wait\",[{\"id\":\"x\",\"nonsense\":1}]]");
    expect_text(f, &p, "[1,6,{\"code\":3,\"name\":\"INVALID_PARAMS\",\"message\":");
    say(f, &p, "[0,7,\"hello\",[{\"errors\":\"loud\"}]]");
    expect_text(f, &p, "INVALID_PARAMS");
    say(f, &p, "[0,8,\"hello\",[{\"errors\":\"array\"}]]");
    expect_text(f, &p, "[1,8,null,{");
    say(f, &p, "[0,9,\"wait\",[{\"id\":1}]]");
    expect_text(f, &p, "[1,9,[1,\"INVALID_PARAMS: ");
    peer_close(&p);
}

static void test_error_texts_are_valid_utf8(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    char text[2000];

    say(f, &p, WAIT(1));
    say(f, &p, WAIT(2));
    say(f, &p, WAIT(3));
    say(f, &p, WAIT(4));
    pump(f);
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    ipc_fail(f->held[0], API_TIMEOUT, 0, "bad \xff byte");
    ipc_fail(f->held[1], API_TIMEOUT, 0, "%s", text);
    for (size_t i = 0; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    ipc_fail(f->held[2], API_TIMEOUT, 0, "%s", text);
    ipc_fail(f->held[3], API_TIMEOUT, 0, "x%s", text);
    f->n_held = 0;
    expect(f, &p, "[1,1,[0,\"TIMEOUT: bad ? byte\"],null]");
    expect_text(f, &p, "xxxxx");
    expect_text(f, &p, "\xc3\xa4\xc3\xa4\"]");
    expect_text(f, &p, "\xc3\xa4\xc3\xa4\"]");
    peer_close(&p);
}

static void test_unknown_methods_name_the_nearest(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    say(f, &p, "[0,1,\"staus\",[{}]]");
    expect_text(f, &p, "[1,1,[1,\"METHOD_NOT_FOUND: unknown method staus; nearest: status");
    say(f, &p, "[0,2,\"zzzzzzzzzz\",[{}]]");
    expect_text(f, &p, "unknown method zzzzzzzzzz; api_info lists all methods");
    say(f, &p, "[0,3,\"\",[{}]]");
    expect_text(f, &p, "METHOD_NOT_FOUND");
    say(f, &p, "[0,4,\"a\\u0000\\u001b[31m\",[{}]]");
    expect_text(f, &p, "unknown method a??[31m");
    peer_close(&p);
}

static void test_api_info(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    ipc_set_account(f->ipc, "web");
    say(f, &p, "[0,1,\"api_info\",[]]");
    expect_text(f, &p, "\"unsubscribe\"");
    say(f, &p, "[0,2,\"hello\",[]]");
    expect_text(f, &p, "\"account\":\"web\"");
    assert_int_equal(f->n_calls, 0);
    peer_close(&p);
}

/* Answers wait for the commit; the server's own errors do not. */
static void test_answers_are_held(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->no_commit = true;
    say(f, &p, STATUS(1));
    expect_nothing(f, &p);
    say(f, &p, "[0,2,\"nonsense\",[]]");
    f->no_commit = false;
    expect_text(f, &p, "METHOD_NOT_FOUND");
    expect(f, &p, ALICE(1));
    peer_close(&p);
}

static void test_commit_inside_a_call(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->commit_in_call = true;
    say(f, &p, STATUS(1));
    say(f, &p, STATUS(2));
    expect(f, &p, ALICE(1));
    expect(f, &p, ALICE(2));
    /* The peer leaves with answers under way: the connection dies inside its own callback. */
    for (unsigned i = 0; i < 50; i++)
        say(f, &p, STATUS(3));
    peer_close(&p);
    pump_ms(f, 5);
    assert_int_equal(ipc_clients(f->ipc), 0);
}

static void test_abort_makes_errors_of_answers(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    f->n_events = f->last_seq = 1;
    f->abort_next = true;
    say(f, &p, STATUS(1));
    say(f, &p, "[0,2,\"users\",[{}]]");
    say(f, &p, "[0,3,\"subscribe\",[{\"after\":0}]]");
    say(f, &p, WAIT(4));
    expect(f, &p, "[1,1,[0,\"STORAGE: the disk said no\"],null]");
    expect(f, &p, "[1,2,[0,\"STORAGE: the disk said no\"],null]");
    expect(f, &p, "[1,3,[0,\"STORAGE: the disk said no\"],null]");
    expect_nothing(f, &p); /* no subscription, and the wait goes on */
    ipc_reply(f->held[0], NULL);
    f->n_held = 0;
    expect(f, &p, "[1,4,null,{}]");
    peer_close(&p);
}

static void test_client_gone_before_the_answer(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);

    say(f, &p, WAIT(1));
    say(f, &p, WAIT(2));
    pump(f);
    assert_int_equal(f->n_held, 2);
    assert_int_equal(ipc_request_uid(f->held[0]), getuid());
    ipc_reply(f->held[1], NULL); /* held when the client goes */
    peer_close(&p);
    f->no_commit = true;
    pump(f);
    f->no_commit = false;
    assert_int_equal(f->n_gone, 1);
    assert_int_equal(ipc_clients(f->ipc), 1);
    ipc_subscribe(f->held[0], 0, 1);
    ipc_fail(f->held[0], API_TIMEOUT, 0, "too late");
    f->n_held = 0;
    say(f, &q, STATUS(1));
    expect(f, &q, ALICE(1));
    peer_close(&q);
}

static void test_half_close(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f), q = peer_open(f);

    say(f, &p, STATUS(1));
    say(f, &p, WAIT(2));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    expect(f, &p, ALICE(1));
    expect_nothing(f, &p);
    assert_int_equal(f->n_gone, 0);
    ipc_reply(f->held[0], NULL);
    expect(f, &p, "[1,2,null,{}]");
    expect_closed(f, &p);
    /* Without anything to answer it closes at once, a rest of a message notwithstanding. */
    send_bytes(f, &q, "\x94", 1);
    assert_int_equal(shutdown(q.fd, SHUT_WR), 0);
    expect_closed(f, &q);
    peer_close(&p);
    peer_close(&q);
    /* Half-closed first, gone later. */
    p = peer_open(f);
    say(f, &p, WAIT(3));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    expect_nothing(f, &p);
    peer_close(&p);
    for (unsigned i = 0; i < 100 && f->n_gone == 0; i++)
        pump_ms(f, 20);
    assert_int_equal(f->n_gone, 1);
    assert_int_equal(ipc_clients(f->ipc), 0);
    ipc_reply(f->held[1], NULL);
    f->n_held = 0;
}

static void test_half_close_behind_a_pipeline(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);

    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        say(f, &p, STATUS(1));
    assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
    for (unsigned i = 0; i < 3 * IPC_TURN_MESSAGES; i++)
        expect(f, &p, ALICE(1));
    expect_closed(f, &p);
    peer_close(&p);
}

#define BYTES(s) s, sizeof(s) - 1

static void test_garbage(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *answer;
    } cases[] = {
            {BYTES("\xc1"), "[2,\"error\",[[1,\"PARSE_ERROR: "},
            {BYTES("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: text/html, "
                   "*/*\r\n\r\n"),
                    "[2,\"error\",[[1,\"PARSE_ERROR: "},
            {BYTES("\x91\x05"), "[2,\"error\",[[1,\"PARSE_ERROR: "},
            {BYTES("\x94\x00\x05\xc0\x90"), "[1,5,[1,\"PARSE_ERROR: "}, /* the method is nil */
            {BYTES("\x94\x00\xcd\x01\x02\xa1x\x91\xdd\x10\x00\x00\x00"),
                    "[1,258,[1,\"PARSE_ERROR: "},                                    /* 2^28 elements */
            {BYTES("\x94\x00\x05\xa1x\xc7\x01\x01\x01"), "[1,5,[1,\"PARSE_ERROR: "}, /* an extension */
            {BYTES("\x94\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\xa1x\x90"),
                    "[2,\"error\",[[1,\"PARSE_ERROR: "}, /* msgid 2^32 */
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct peer p = peer_open(f);
        p.framed = cases[i].bytes[0] > 0 && cases[i].bytes[0] < 0x7f;
        send_bytes(f, &p, cases[i].bytes, cases[i].n);
        expect_text(f, &p, cases[i].answer);
        expect_closed(f, &p);
        peer_close(&p);
        pump(f);
        assert_int_equal(ipc_clients(f->ipc), 0);
    }
}

static void test_depth(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    char deep[64] = "\x94\x00\x05\xa6status\x91";

    memset(deep + 11, '\x91', 40);
    send_bytes(f, &p, deep, 51);
    expect_text(f, &p, "[1,5,[1,\"PARSE_ERROR: ");
    expect_closed(f, &p);
    peer_close(&p);
}

/* The error reaches a client that is still busy writing its too long message. */
static void test_oversized(void **state)
{
    static const char head[] = "\x94\x00\x05\xa6status\x91\x81\xa1x\xc6\x00\x20\x00\x00";
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    uint8_t *body = calloc(1, 2u << 20);

    send_bytes(f, &p, head, sizeof(head) - 1);
    send_bytes(f, &p, body, 2u << 20);
    free(body);
    expect_text(f, &p, "[1,5,[1,\"PARSE_ERROR: ");
    expect_closed(f, &p);
    peer_close(&p);
    p = peer_open(f);
    p.framed = true;
    send_bytes(f, &p, "\xce\x00\x20\x00\x00", 5);
    expect_text(f, &p, "PARSE_ERROR: ");
    expect_closed(f, &p);
    /* It stays: nobody waits for it for ever. */
    for (unsigned i = 0; i < 200 && ipc_clients(f->ipc) > 0; i++)
        pump_ms(f, 20);
    assert_int_equal(ipc_clients(f->ipc), 0);
    peer_close(&p);
}

static void test_largest_message(void **state)
{
    struct fixture *f = *state;
    struct peer p = peer_open(f);
    CLEANUP_BUF struct buf b;
    uint8_t *body = calloc(1, RPC_MAX_MESSAGE);

    buf_init(&b, 2 * RPC_MAX_MESSAGE);
    buf_bytes(&b, "\x94\x00\x05\xa8nonsense\x91\x81\xa1x", 16);
    mp_put_bin(&b, body, RPC_MAX_MESSAGE - 16 - 5);
    free(body);
    assert_int_equal(b.len, RPC_MAX_MESSAGE);
    send_bytes(f, &p, b.data, b.len);
    send_bytes(f, &p, b.data, b.len);
    expect_text(f, &p, "METHOD_NOT_FOUND");
    expect_text(f, &p, "METHOD_NOT_FOUND");
    expect_nothing(f, &p);
    assert_true(newest_client(f)->in.cap <= IPC_KEEP_BUFFER);
    peer_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            IPC_TEST(test_silent_until_asked),
            IPC_TEST(test_one_byte_at_a_time),
            IPC_TEST(test_pipelined_answers_leave_in_one_write),
            IPC_TEST(test_long_pipeline_goes_on_by_itself),
            IPC_TEST(test_keybase_framing),
            IPC_TEST(test_notifications_and_responses_are_ignored),
            IPC_TEST(test_answers_in_any_order_and_repeated_ids),
            IPC_TEST(test_error_shapes),
            IPC_TEST(test_error_texts_are_valid_utf8),
            IPC_TEST(test_unknown_methods_name_the_nearest),
            IPC_TEST(test_api_info),
            IPC_TEST(test_answers_are_held),
            IPC_TEST(test_commit_inside_a_call),
            IPC_TEST(test_abort_makes_errors_of_answers),
            IPC_TEST(test_client_gone_before_the_answer),
            IPC_TEST(test_half_close),
            IPC_TEST(test_half_close_behind_a_pipeline),
            IPC_TEST(test_garbage),
            IPC_TEST(test_depth),
            IPC_TEST(test_oversized),
            IPC_TEST(test_largest_message),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
