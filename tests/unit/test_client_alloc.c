/*
 * Every allocation of the client library fails in turn. The daemon is a process of its own, where none does.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client_world.h"
#include "failalloc.h"

#define MAX_ALLOCATIONS 1000

static pid_t child;

/* Everything is answered alike but the third request of a connection; an event stands before each answer. */
static void script(struct fake_peer *p, void *ctx)
{
    static const char error[] =
            "{\"code\": 23, \"name\": \"UNKNOWN_USER\", \"message\": \"no bob\", \"data\": {\"a\": 1}}";
    static const char result[] = "{\"id\": \"i\", \"seq\": 7, \"list\": [1, 2]}";
    struct rpc_message m;
    const char *why;

    (void)ctx;
    while (fake_next(p, &m)) {
        CLEANUP_BUF struct buf b;

        buf_init(&b, 1000);
        (void)fake_event(p, p->requests, 20);
        if (p->requests == 3 && mp_from_json(&b, error, sizeof(error) - 1, &why) == 0)
            (void)fake_reply_error(p, m.msgid, &b);
        else if (p->requests != 3 && mp_from_json(&b, result, sizeof(result) - 1, &why) == 0)
            (void)fake_reply_value(p, m.msgid, &b);
    }
}

static void serve(int ready)
{
    struct fake_daemon *d = fake_daemon_start(w.path, script, NULL);

    if (!d || write(ready, "r", 1) != 1)
        _exit(1);
    for (;;)
        (void)pause();
}

static int setup_child(void **state)
{
    int ready[2];
    char c;

    (void)setup(state);
    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0)
        serve(ready[1]);
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    (void)close(ready[0]);
    return 0;
}

static int teardown_child(void **state)
{
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
    (void)unlink(w.path);
    return teardown(state);
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
static bool run(unsigned long k, int *silent)
{
    struct e2eectl *h = NULL;
    bool failed;
    int r;

    failalloc_arm(k);
    r = e2eectl_open(w.path, &h);
    if (r == 0)
        r = use(h);
    failed = failalloc_disarm();
    assert_int_equal(failalloc_live(), 0);
    *silent += failed && r == 0;
    if (r != 0 && (!failed || r != -ENOMEM))
        fail_msg("allocation %lu: %d", k, r);
    return failed;
}

static void test_every_allocation(void **state)
{
    unsigned long k = 1;
    int silent = 0;

    (void)state;
    while (k < MAX_ALLOCATIONS && run(k, &silent))
        k++;
    assert_in_range(k, 20, MAX_ALLOCATIONS - 1);
    /* The answer to hello, which nobody looks at, and the details of an error. */
    assert_int_equal(silent, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(test_every_allocation, setup_child, teardown_child),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
