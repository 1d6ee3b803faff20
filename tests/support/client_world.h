/* What the tests of the client library share: a scratch directory, a fake daemon in it and a handle on it. */
#ifndef E2EE_CLIENT_WORLD_H
#define E2EE_CLIENT_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "e2eectl.h"
#include "fake_daemon.h"
#include "scratch.h"

#define LONG_MS 10000

static struct world {
    char *dir, path[96];
    struct fake_daemon *daemon;
    struct e2eectl *h;
} w;

static inline void start(fake_script script, void *ctx)
{
    w.daemon = fake_daemon_start(w.path, script, ctx);
    assert_non_null(w.daemon);
    assert_int_equal(e2eectl_open(w.path, &w.h), 0);
}

static inline int setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    w.dir = scratch_new();
    (void)snprintf(w.path, sizeof(w.path), "%s/s.sock", w.dir);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    e2eectl_close(w.h);
    fake_daemon_stop(w.daemon);
    scratch_free(w.dir);
    return 0;
}

static inline int call(const char *method)
{
    return e2eectl_call(w.h, method, NULL, LONG_MS, NULL);
}

static inline void assert_error(int r, int expected, const char *name)
{
    assert_int_equal(r, expected);
    assert_int_equal(e2eectl_last_error(w.h)->code, expected);
    assert_string_equal(e2eectl_last_error(w.h)->name, name);
    assert_true(strlen(e2eectl_last_error(w.h)->message) > 0);
}

/* Answers every request with its number; "echo" with its parameters, "slow" and "never" not at all. */
static inline void script_answer(struct fake_peer *p, void *ctx)
{
    struct rpc_message m;

    (void)ctx;
    while (fake_next(p, &m)) {
        struct mp_iter it;
        struct mp_value map;

        if (mp_str_eq(&m.method, "never"))
            continue;
        if (mp_str_eq(&m.method, "echo")) {
            mp_iter_init(&it, &m.params);
            if (mp_next(&it, NULL, &map))
                (void)fake_reply_value(
                        p, m.msgid, &(struct buf){.data = (uint8_t *)(uintptr_t)map.raw, .len = map.raw_len});
        } else {
            (void)fake_reply(p, m.msgid, p->requests);
        }
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
