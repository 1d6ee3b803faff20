/*
 * The store on SQLite: one writer thread, which takes all requests that wait and commits them together, and
 * one reader thread. Results come back to the loop by an async handle.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <uv.h>

#include "base.h"
#include "log.h"
#include "store_sql.h"

#define LOCK_FILE "relay.lock"
#define BATCH_MAX 4096u
#define LOG_EVERY_MS (10 * SECOND_MS)

struct queue {
    struct store_req *head, **tail;
};

struct worker {
    pthread_t thread;
    bool running;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct queue queue; /* under mutex, with stop */
    bool stop;
    struct sql sql;
    struct store *store;
    enum sql_mode mode;
    uint64_t logged_ms;
};

struct store {
    struct worker writer, reader;
    pthread_mutex_t mutex;
    struct queue done; /* under mutex */
    uv_async_t async;
    bool async_ready, closing;
    size_t pending;
    int lock_fd;
    uint8_t id[16];
};

static void queue_init(struct queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

static void queue_put(struct queue *q, struct store_req *req)
{
    req->next = NULL;
    *q->tail = req;
    q->tail = &req->next;
}

static struct store_req *queue_take_all(struct queue *q)
{
    struct store_req *head = q->head;

    queue_init(q);
    return head;
}

void *store_req_new(enum store_op op, size_t size, void (*done)(struct store_req *req, void *ctx), void *ctx)
{
    struct store_req *req = calloc(1, size);

    if (!req)
        return NULL;
    req->op = op;
    req->done = done;
    req->ctx = ctx;
    return req;
}

void store_req_free(struct store_req *req)
{
    if (!req)
        return;
    if (req->op == STORE_OP_LOOKUP)
        buf_done(&((struct store_lookup *)req)->bytes);
    if (req->op == STORE_OP_FETCH)
        buf_done(&((struct store_fetch *)req)->bytes);
    free(req);
}

static bool is_reader_op(enum store_op op)
{
    return op >= STORE_OP_LOOKUP;
}

static void finish(struct store *s, struct store_req *first)
{
    (void)pthread_mutex_lock(&s->mutex);
    while (first) {
        struct store_req *next = first->next;

        queue_put(&s->done, first);
        first = next;
    }
    (void)pthread_mutex_unlock(&s->mutex);
    (void)uv_async_send(&s->async);
}

static void log_failure(struct worker *w, int rc)
{
    uint64_t now = clock_mono_ms();

    if (w->logged_ms && now - w->logged_ms < LOG_EVERY_MS)
        return;
    w->logged_ms = now;
    log_error("store", "%s failed: %s", w->mode == SQL_WRITER ? "writing" : "reading", sqlite3_errstr(rc));
}

static bool changes_something(const struct store_req *first)
{
    for (; first; first = first->next) {
        if (first->op != STORE_OP_OPEN && !is_reader_op(first->op))
            return true;
    }
    return false;
}

/* All of the list in one transaction, durable afterwards; otherwise none of it (after a failed COMMIT:
 * perhaps). */
static int transaction(struct sql *q, struct store_req *first)
{
    int rc = sql_exec(q, changes_something(first) ? SQL_BEGIN_WRITE : SQL_BEGIN_READ);

    for (struct store_req *req = first; req && !rc; req = req->next)
        rc = sql_perform(q, req);
    if (!rc)
        rc = sql_exec(q, SQL_COMMIT);
    if (rc) {
        if (!sqlite3_get_autocommit(q->db))
            (void)sql_exec(q, SQL_ROLLBACK);
        sql_forget_counts(q);
    }
    return rc;
}

static void perform_alone(struct worker *w, struct store_req *req)
{
    struct store_req *next = req->next;
    int rc;

    req->next = NULL;
    rc = transaction(&w->sql, req);
    req->next = next;
    if (!rc)
        return;
    log_failure(w, rc);
    req->result = (rc & 0xff) == SQLITE_FULL ? STORE_FULL : STORE_RETRY;
}

/* Where the batch fails, each request is tried alone: on a full disk an acknowledgment may pass where mail
 * does not. */
static void perform_batch(struct worker *w, struct store_req *first)
{
    int rc;

    if (!first->next) {
        perform_alone(w, first);
        return;
    }
    rc = transaction(&w->sql, first);
    if (!rc)
        return;
    log_failure(w, rc);
    for (struct store_req *req = first; req; req = req->next)
        perform_alone(w, req);
}

/* Cuts the list behind its first `max` requests; the rest is returned. */
static struct store_req *cut(struct store_req *first, size_t max)
{
    struct store_req *rest;

    for (size_t i = 1; i < max && first->next; i++)
        first = first->next;
    rest = first->next;
    first->next = NULL;
    return rest;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct store_req *first, *rest;

    for (;;) {
        (void)pthread_mutex_lock(&w->mutex);
        while (!w->queue.head && !w->stop)
            (void)pthread_cond_wait(&w->wake, &w->mutex);
        first = queue_take_all(&w->queue);
        (void)pthread_mutex_unlock(&w->mutex);
        if (!first)
            return NULL;
        for (; first; first = rest) {
            rest = cut(first, w->mode == SQL_WRITER ? BATCH_MAX : 1);
            perform_batch(w, first);
            finish(w->store, first);
        }
    }
}

static size_t run_done(struct store *s)
{
    struct store_req *first, *next;
    size_t n = 0;

    (void)pthread_mutex_lock(&s->mutex);
    first = queue_take_all(&s->done);
    (void)pthread_mutex_unlock(&s->mutex);
    for (; first; first = next, n++) {
        next = first->next;
        s->pending--;
        first->done(first, first->ctx);
    }
    return n;
}

static void on_async(uv_async_t *async)
{
    (void)run_done(async->data);
}

void store_submit(struct store *s, struct store_req *req)
{
    struct worker *w = is_reader_op(req->op) ? &s->reader : &s->writer;

    s->pending++;
    req->next = NULL;
    if (s->closing) {
        req->result = STORE_RETRY;
        finish(s, req);
        return;
    }
    (void)pthread_mutex_lock(&w->mutex);
    queue_put(&w->queue, req);
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->mutex);
}

size_t store_pending(const struct store *s)
{
    return s->pending;
}

const uint8_t *store_id(const struct store *s)
{
    return s->id;
}

static int fail(char error[STORE_ERROR_LEN], const char *path, int err)
{
    (void)snprintf(error, STORE_ERROR_LEN, "%.180s: %.60s", path, strerror(err));
    return -err;
}

static int lock_directory(const char *dir, int *ret_fd, char error[STORE_ERROR_LEN])
{
    char path[4096];
    int fd;

    if (mkdir(dir, 0700) && errno != EEXIST)
        return fail(error, dir, errno);
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, LOCK_FILE) >= sizeof(path))
        return fail(error, dir, ENAMETOOLONG);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fail(error, path, errno);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        int err = errno;

        (void)close(fd);
        if (err != EWOULDBLOCK)
            return fail(error, path, err);
        (void)snprintf(
                error, STORE_ERROR_LEN, "%.180s: another e2ee-relay is using this state directory", dir);
        return STORE_OPEN_BUSY;
    }
    *ret_fd = fd;
    return 0;
}

static int read_id(struct store *s, char error[STORE_ERROR_LEN])
{
    sqlite3_stmt *st = NULL;
    bool good = sqlite3_prepare_v2(s->writer.sql.db, "SELECT id FROM meta", -1, &st, NULL) == SQLITE_OK &&
                sqlite3_step(st) == SQLITE_ROW && sql_copy(st, 0, s->id, sizeof(s->id));

    (void)sqlite3_finalize(st);
    if (good)
        return 0;
    (void)snprintf(
            error, STORE_ERROR_LEN, "the state has no identity: it is not an e2ee-relay's, or damaged");
    return STORE_OPEN_BROKEN;
}

static void worker_init(struct worker *w, struct store *s, enum sql_mode mode)
{
    (void)pthread_mutex_init(&w->mutex, NULL);
    (void)pthread_cond_init(&w->wake, NULL);
    queue_init(&w->queue);
    w->store = s;
    w->mode = mode;
}

static int worker_start(struct worker *w, char error[STORE_ERROR_LEN])
{
    int r = pthread_create(&w->thread, NULL, work, w);

    if (r)
        return fail(error, "thread", r);
    w->running = true;
    return 0;
}

static void worker_stop(struct worker *w)
{
    (void)pthread_mutex_lock(&w->mutex);
    w->stop = true;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->mutex);
    if (w->running)
        (void)pthread_join(w->thread, NULL);
    w->running = false;
}

static void worker_done(struct worker *w)
{
    sql_close(&w->sql);
    (void)pthread_mutex_destroy(&w->mutex);
    (void)pthread_cond_destroy(&w->wake);
}

static int start(struct store *s, struct uv_loop_s *loop, const struct store_options *options,
        char error[STORE_ERROR_LEN])
{
    mode_t mask;
    int r = lock_directory(options->dir, &s->lock_fd, error);

    if (r)
        return r;
    mask = umask(077);
    r = sql_open(&s->writer.sql, options->dir, SQL_WRITER, options, error);
    (void)umask(mask);
    if (!r)
        r = sql_open(&s->reader.sql, options->dir, SQL_READER, options, error);
    if (!r)
        r = read_id(s, error);
    if (r)
        return r;
    r = uv_async_init(loop, &s->async, on_async);
    if (r)
        return fail(error, "event loop", -r);
    s->async.data = s;
    s->async_ready = true;
    r = worker_start(&s->writer, error);
    return r ? r : worker_start(&s->reader, error);
}

int store_open(struct store **ret_store, struct uv_loop_s *loop, const struct store_options *options,
        char error[STORE_ERROR_LEN])
{
    struct store *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return fail(error, "store", ENOMEM);
    s->lock_fd = -1;
    (void)pthread_mutex_init(&s->mutex, NULL);
    queue_init(&s->done);
    worker_init(&s->writer, s, SQL_WRITER);
    worker_init(&s->reader, s, SQL_READER);
    r = start(s, loop, options, error);
    if (r)
        store_close(s);
    else
        *ret_store = s;
    return r;
}

static void free_store(uv_handle_t *handle)
{
    free(handle->data);
}

void store_close(struct store *s)
{
    if (!s)
        return;
    s->closing = true;
    worker_stop(&s->reader);
    worker_stop(&s->writer);
    while (run_done(s) > 0)
        continue;
    worker_done(&s->reader);
    worker_done(&s->writer);
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd);
    (void)pthread_mutex_destroy(&s->mutex);
    if (s->async_ready)
        uv_close((uv_handle_t *)&s->async, free_store);
    else
        free(s);
}

int store_create_token(
        const char *dir, const uint8_t hash[STORE_TOKEN_HASH_LEN], uint32_t uses, char error[STORE_ERROR_LEN])
{
    const struct store_options options = {.dir = dir};
    struct sql q;
    sqlite3_stmt *st = NULL;
    mode_t mask;
    int r;

    if (mkdir(dir, 0700) && errno != EEXIST)
        return fail(error, dir, errno);
    mask = umask(077);
    r = sql_open(&q, dir, SQL_WRITER, &options, error);
    (void)umask(mask);
    if (r)
        return r;
    if (sqlite3_prepare_v2(q.db, "INSERT INTO token VALUES(?1, ?2)", -1, &st, NULL) == SQLITE_OK) {
        sql_bind_blob(st, 1, hash, STORE_TOKEN_HASH_LEN);
        sql_bind_u64(st, 2, uses);
        r = sqlite3_step(st) == SQLITE_DONE ? 0 : STORE_OPEN_BROKEN;
    } else {
        r = STORE_OPEN_BROKEN;
    }
    if (r)
        (void)snprintf(error, STORE_ERROR_LEN, "%.120s: %.120s", dir, sqlite3_errmsg(q.db));
    (void)sqlite3_finalize(st);
    sql_close(&q);
    return r;
}

int store_read_stats(const char *dir, struct store_stats *ret_stats, char error[STORE_ERROR_LEN])
{
    static const char text[] =
            "SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM device),"
            " (SELECT count(*) FROM one_time WHERE record IS NOT NULL), (SELECT count(*) FROM mail),"
            " (SELECT coalesce(sum(length(body)), 0) FROM mail), (SELECT count(*) FROM seen WHERE seq=0),"
            " (SELECT coalesce(sum(uses), 0) FROM token)";
    const struct store_options options = {.dir = dir};
    uint64_t *out[] = {&ret_stats->accounts, &ret_stats->devices, &ret_stats->one_time_prekeys,
            &ret_stats->waiting, &ret_stats->waiting_bytes, &ret_stats->remembered, &ret_stats->tokens};
    struct sql q;
    sqlite3_stmt *st = NULL;
    int r = sql_open(&q, dir, SQL_READER, &options, error);

    if (r)
        return r;
    if (sqlite3_prepare_v2(q.db, text, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW) {
        for (size_t i = 0; i < ARRAY_SIZE(out); i++)
            *out[i] = (uint64_t)sqlite3_column_int64(st, (int)i);
    } else {
        (void)snprintf(error, STORE_ERROR_LEN, "%.120s: %.120s", dir, sqlite3_errmsg(q.db));
        r = STORE_OPEN_BROKEN;
    }
    (void)sqlite3_finalize(st);
    sql_close(&q);
    return r;
}
