/* Every allocation of the client library fails in turn. One thread plays both ends: the answers wait before the question. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client_world.h"
#include "failalloc.h"

#define MAX_ALLOCATIONS 1000

static struct ends {
    char *dir;
    struct sockaddr_un address;
    int listener;
    struct fake_peer peer;
} ends;

static int setup_ends(void **state)
{
    (void)state;
    ends.dir = scratch_new();
    ends.address.sun_family = AF_UNIX;
    (void)snprintf(ends.address.sun_path, sizeof(ends.address.sun_path), "%s/s", ends.dir);
    ends.listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(ends.listener, (const struct sockaddr *)&ends.address, sizeof(ends.address)), 0);
    assert_int_equal(listen(ends.listener, 4), 0);
    return 0;
}

static int teardown_ends(void **state)
{
    (void)state;
    (void)close(ends.listener);
    scratch_free(ends.dir);
    return 0;
}

/* The answers to calls 0 (hello) to 9, an error among them, and an event behind each. */
static void prepare_answers(struct buf *b)
{
    static const char error[] = "{\"code\": 23, \"name\": \"UNKNOWN_USER\", \"message\": \"no bob\", \"data\": {\"a\": 1}}";
    static const char result[] = "{\"id\": \"i\", \"seq\": 7, \"list\": [1, 2]}";
    CLEANUP_BUF struct buf e, r;
    const char *why;

    buf_init(&e, 1000);
    buf_init(&r, 1000);
    buf_init(b, 100000);
    assert_int_equal(mp_from_json(&e, error, sizeof(error) - 1, &why), 0);
    assert_int_equal(mp_from_json(&r, result, sizeof(result) - 1, &why), 0);
    for (uint32_t i = 0; i < 10; i++) {
        rpc_put_response(b, RPC_FRAMING_PLAIN, i, i == 3 ? &e : NULL, i == 3 ? NULL : &r);
        rpc_put_notify(b, RPC_FRAMING_PLAIN, "event", r.data, r.len);
    }
    assert_int_equal(buf_status(b), 0);
}

static int use_json(struct e2eectl *h)
{
    char *json = NULL;
    int r = e2eectl_call_json(h, "echo", "{\"a\": [1, {\"b\": null}]}", 1000, &json);

    free(json);
    return r;
}

static int use_send(struct e2eectl *h)
{
    struct e2eectl_send_options o = {.size = sizeof(o), .to = "bob", .text = "hello", .id = "i"};
    char id[E2EECTL_ID_SIZE];

    return e2eectl_send(h, &o, id, NULL);
}

static int use_value(struct e2eectl *h)
{
    struct e2eectl_value *v = NULL;
    int r = e2eectl_status(h, &v);

    e2eectl_value_free(v);
    return r == E2EECTL_ERR_UNKNOWN_USER ? 0 : r;
}

static int use_events(struct e2eectl *h)
{
    int r = e2eectl_subscribe(h, NULL, NULL, NULL);
    struct e2eectl_value *event;

    for (int i = 0; r == 0 && i < 3; i++) {
        r = e2eectl_next_event(h, 1000, &event);
        if (r == 0)
            e2eectl_value_free(event);
    }
    return r;
}

/* Closes the handle whatever comes. */
static int use(struct e2eectl *h)
{
    int r = use_json(h);

    if (r == 0)
        r = use_send(h);
    if (r == 0)
        r = use_value(h);
    if (r == 0)
        r = use_events(h);
    if (r == 0)
        r = e2eectl_contact_block(h, "bob", true);
    assert_int_equal(e2eectl_last_error(h)->code, r == 0 ? E2EECTL_ERR_UNKNOWN_USER : r);
    e2eectl_close(h);
    return r;
}

/* One run with the k-th allocation failing; false once none does. */
static bool run(unsigned long k, const struct buf *answers)
{
    struct e2eectl *h = NULL;
    bool failed;
    int r, fd = -1;

    failalloc_arm(k);
    r = e2eectl_open(ends.address.sun_path, &h);
    if (r == 0) {
        fd = accept(ends.listener, NULL, NULL);
        if (send(fd, answers->data, answers->len, MSG_NOSIGNAL) == (ssize_t)answers->len)
            r = use(h);
    }
    failed = failalloc_disarm();
    assert_int_equal(failalloc_live(), 0);
    if (failed && r != -ENOMEM)
        fail_msg("allocation %lu: %d", k, r);
    if (!failed)
        assert_int_equal(r, 0);
    if (fd < 0)
        fd = accept(ends.listener, NULL, NULL);
    (void)close(fd);
    return failed;
}

static void test_every_allocation(void **state)
{
    struct buf answers;
    unsigned long k = 1;

    (void)state;
    prepare_answers(&answers);
    while (k < MAX_ALLOCATIONS && run(k, &answers))
        k++;
    assert_in_range(k, 20, MAX_ALLOCATIONS - 1);
    buf_done(&answers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_every_allocation, setup_ends, teardown_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
