#include "relay_state.h"

/* Frames of the write-ahead log that end a transaction. */
static unsigned count_commits(const struct env *e)
{
    char path[128];
    uint8_t header[32], frame[24];
    unsigned n = 0;
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/relay.db-wal", e->dir);
    f = fopen(path, "rb");
    if (!f || fread(header, sizeof(header), 1, f) != 1) {
        if (f)
            (void)fclose(f);
        return 0;
    }
    while (fread(frame, sizeof(frame), 1, f) == 1 && memcmp(frame + 8, header + 16, 8) == 0) {
        n += (frame[4] | frame[5] | frame[6] | frame[7]) != 0;
        assert_int_equal(fseek(f, 4096, SEEK_CUR), 0);
    }
    (void)fclose(f);
    return n;
}

#define MANY 500
static void count_done(struct store_req *req, void *ctx)
{
    (void)req;
    ++*(unsigned *)ctx;
}

static void test_group_commit(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct store_submit_req *r[MANY];
    unsigned before = count_commits(e), done = 0;
    bool unused;

    for (size_t i = 0; i < MANY; i++) {
        struct envelope_id id = new_id();

        r[i] = submit_req(&to, &id, 100, &unused);
        r[i]->req.done = count_done;
        r[i]->req.ctx = &done;
    }
    for (size_t i = 0; i < MANY; i++)
        store_submit(e->store, &r[i]->req);
    assert_int_equal(store_pending(e->store), MANY);
    while (done < MANY)
        (void)uv_run(&e->loop, UV_RUN_ONCE);
    assert_int_equal(store_pending(e->store), 0);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(r[i]->item->ret_result, STORE_OK);
        assert_int_equal(r[i]->item->ret_seq, i + 1);
        store_req_free(&r[i]->req);
    }
    assert_in_range(count_commits(e) - before, 1, MANY / 10);
}

/* An acknowledgment that is submitted right behind the submission ends with the envelope gone. */
static void test_ack_behind_submit(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id id = new_id();
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    bool stored;
    struct store_submit_req *r = submit_req(&to, &id, 10, &stored);

    stored = false;
    store_submit(e->store, &r->req);
    assert_int_equal(ack(e, mailbox, &id), STORE_OK);
    assert_true(stored);
    assert_int_equal(r->item->ret_result, STORE_OK);
    store_req_free(&r->req);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_ACKNOWLEDGED);
}

/* Requests that are queued when the store is closed are done, not dropped. */
static void test_close_finishes(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct store_submit_req *r[50];
    unsigned done = 0;
    bool unused;

    for (size_t i = 0; i < 50; i++) {
        struct envelope_id id = new_id();

        r[i] = submit_req(&to, &id, 100, &unused);
        r[i]->req.done = count_done;
        r[i]->req.ctx = &done;
        store_submit(e->store, &r[i]->req);
    }
    reopen(e);
    assert_int_equal(done, 50);
    for (size_t i = 0; i < 50; i++) {
        assert_int_equal(r[i]->item->ret_result, STORE_OK);
        store_req_free(&r[i]->req);
    }
    assert_int_equal(open_device(e, &to).ret_waiting, 50);
}

static int setup_pages(void **state)
{
    (void)setup(state);
    close_store(*state);
    ((struct env *)*state)->options.max_pages = 200;
    open_store(*state);
    return 0;
}

/* No room in the database: FULL, nothing changed; acknowledgments make room again. */
static void test_database_full(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id id[300];
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    size_t n = 0;
    enum store_result result;

    do {
        id[n] = new_id();
        result = submit(e, &to, &id[n++], 8000);
    } while (result == STORE_OK && n < 300);
    assert_int_equal(result, STORE_FULL);
    assert_in_range(n, 10, 200);
    assert_int_equal(state_of(e, &to, &id[n - 1]), ENVELOPE_UNKNOWN);
    assert_int_equal(open_device(e, &to).ret_waiting, n - 1);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ack(e, mailbox, &id[i]), STORE_OK);
    assert_int_equal(submit(e, &to, &id[n - 1], 8000), STORE_OK);
    assert_int_equal(open_device(e, &to).ret_waiting, n - 3);
}

/* The file cannot grow any more (as on a disk that fails): RETRY, and all is well again afterwards. */
static void test_write_error(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2);
    struct rlimit old, small;
    enum store_result result = STORE_OK;
    struct envelope_id id = new_id();
    char error[STORE_ERROR_LEN];
    struct store_stats stats;
    struct store_submit_req *r;
    bool done;

    assert_int_equal(submit(e, &other, &id, 10), STORE_OK);
    assert_int_equal(ack(e, open_device(e, &other).ret_mailbox, &id), STORE_OK);
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 256 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int i = 0; i < 100 && result == STORE_OK; i++) {
        id = new_id();
        result = submit(e, &to, &id, 8000);
    }
    assert_true(result == STORE_RETRY || result == STORE_FULL);
    assert_int_equal(submit(e, &to, &id, 8000), result);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(submit(e, &to, &id, 8000), STORE_OK);
    assert_int_equal(submit(e, &to, &id, 8000), STORE_DUP);
    /* What the writer counts is what is there, and no seq comes a second time. */
    assert_int_equal(store_read_stats(e->dir, &stats, error), 0);
    assert_int_equal(open_device(e, &to).ret_waiting, stats.waiting);
    id = new_id();
    r = submit_req(&other, &id, 10, &done);
    assert_int_equal(perform(e, &r->req), STORE_OK);
    assert_int_equal(r->item->ret_seq, 2);
    store_req_free(&r->req);
}

/* Submits as fast as it can and tells every id that was reported stored, until it is killed. */
static void crash_child(const char *dir, const struct address *to, int fd)
{
    struct env e = {0};

    (void)snprintf(e.dir, sizeof(e.dir), "%s", dir);
    open_store(&e);
    for (;;) {
        struct envelope_id id = new_id();

        if (submit(&e, to, &id, 500) != STORE_OK || write(fd, id.b, 16) != 16)
            _exit(1);
    }
}

static void test_kill(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    size_t n = 0;

    close_store(e);
    for (int round = 0; round < 5; round++) {
        struct envelope_id id, ids[4096];
        size_t told = 0;
        int fd[2], status;
        pid_t pid;

        assert_int_equal(pipe(fd), 0);
        pid = fork();
        if (pid == 0)
            crash_child(e->dir, &to, fd[1]);
        (void)close(fd[1]);
        while (told < 30 + 7 * (size_t)round && read(fd[0], id.b, 16) == 16)
            ids[told++] = id;
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (told < 4096 && read(fd[0], id.b, 16) == 16)
            ids[told++] = id;
        (void)close(fd[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        open_store(e);
        for (size_t i = 0; i < told; i++)
            assert_int_equal(state_of(e, &to, &ids[i]), ENVELOPE_WAITING);
        n += told;
        assert_true(open_device(e, &to).ret_waiting >= n);
        close_store(e);
    }
    open_store(e);
}

static int try_open(struct env *e, char error[STORE_ERROR_LEN])
{
    uv_loop_t loop;
    struct store *s = NULL;
    const struct store_options o = {.dir = e->dir};
    int r;

    assert_int_equal(uv_loop_init(&loop), 0);
    r = store_open(&s, &loop, &o, error);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    return r;
}

static void change_database(const struct env *e, const char *sql)
{
    char path[128];
    sqlite3 *db;

    (void)snprintf(path, sizeof(path), "%s/relay.db", e->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_refused_states(void **state)
{
    struct env *e = *state;
    char error[STORE_ERROR_LEN], path[128];
    struct store_stats stats;
    uint8_t id[16];
    FILE *f;

    memcpy(id, store_id(e->store), 16);
    assert_int_equal(try_open(e, error), STORE_OPEN_BUSY);
    assert_non_null(strstr(error, "another e2ee-relay"));
    reopen(e);
    assert_memory_equal(id, store_id(e->store), 16);
    close_store(e);
    change_database(e, "PRAGMA user_version=2");
    assert_int_equal(try_open(e, error), STORE_OPEN_NEWER);
    assert_non_null(strstr(error, "schema version 2"));
    assert_int_equal(store_read_stats(e->dir, &stats, error), STORE_OPEN_NEWER);
    change_database(e, "PRAGMA user_version=0");
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    change_database(e, "PRAGMA user_version=1;PRAGMA application_id=5");
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    change_database(e, "PRAGMA application_id=1697801586;DELETE FROM meta");
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    (void)snprintf(path, sizeof(path), "%s/relay.db", e->dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 3000; i++)
        (void)fputs("no database", f);
    (void)fclose(f);
    assert_int_equal(try_open(e, error), STORE_OPEN_BROKEN);
    assert_int_equal(unlink(path), 0);
    open_store(e);
    assert_int_not_equal(memcmp(id, store_id(e->store), 16), 0);
    assert_int_equal(chmod(e->dir, 0700), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            STORE_TEST(test_group_commit),
            STORE_TEST(test_ack_behind_submit),
            STORE_TEST(test_close_finishes),
            cmocka_unit_test_setup_teardown(test_database_full, setup_pages, teardown),
            STORE_TEST(test_write_error),
            STORE_TEST(test_kill),
            STORE_TEST(test_refused_states),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
