/* Mailboxes: submit, acknowledge, fetch, query, and the walk that removes what has expired. */
#include "store_sql.h"

#include <stdlib.h>
#include <string.h>

#include "base.h"

#define SEQ_BITS 36
#define SEQ_MAX ((UINT64_C(1) << SEQ_BITS) - 1)
#define MAX_MAILBOXES (UINT64_C(1) << 26)
#define WALK_ROWS 2000u
#define WALK_REST_MS MINUTE_MS
#define REMEMBER_ACKED_MS DAY_MS /* beyond the envelope's expiry */
#define REMEMBER_CLAIMED_MS (60 * DAY_MS)

static uint64_t mail_key(uint64_t mailbox, uint64_t seq)
{
    return mailbox << SEQ_BITS | seq;
}

static bool grow_mailboxes(struct sql *q, uint64_t mailbox)
{
    size_t n = q->mailboxes ? q->mailboxes : 64;
    struct sql_mailbox *m;

    if (mailbox >= MAX_MAILBOXES)
        return false;
    while (n <= mailbox)
        n *= 2;
    m = realloc(q->mailbox, n * sizeof(*m));
    if (!m)
        return false;
    memset(m + q->mailboxes, 0, (n - q->mailboxes) * sizeof(*m));
    q->mailbox = m;
    q->mailboxes = n;
    return true;
}

static void load_mailbox(struct sql *q, uint64_t mailbox, struct sql_mailbox *m)
{
    sqlite3_stmt *st = sql_use(q, SQL_MAIL_TOTAL);
    uint64_t last;

    sql_bind_u64(st, 1, mail_key(mailbox, 0));
    sql_bind_u64(st, 2, mail_key(mailbox, SEQ_MAX));
    if (!sql_row(q, st))
        return;
    m->count = (uint32_t)sqlite3_column_int64(st, 0);
    m->bytes = (uint64_t)sqlite3_column_int64(st, 1);
    last = (uint64_t)sqlite3_column_int64(st, 2) & SEQ_MAX;
    if (last > m->last_seq)
        m->last_seq = last;
    m->loaded = true;
    (void)sqlite3_reset(st);
}

struct sql_mailbox *sql_mailbox(struct sql *q, uint64_t mailbox)
{
    struct sql_mailbox *m;

    if (mailbox >= q->mailboxes && !grow_mailboxes(q, mailbox)) {
        q->rc = SQLITE_NOMEM;
        return NULL;
    }
    m = &q->mailbox[mailbox];
    if (!m->loaded)
        load_mailbox(q, mailbox, m);
    return m->loaded ? m : NULL;
}

void sql_drop_mailbox(struct sql *q, uint64_t mailbox)
{
    sqlite3_stmt *st = sql_use(q, SQL_MAIL_DELETE_ALL);

    sql_bind_u64(st, 1, mail_key(mailbox, 0));
    sql_bind_u64(st, 2, mail_key(mailbox, SEQ_MAX));
    sql_done(q, st);
    if (mailbox < q->mailboxes)
        q->mailbox[mailbox].loaded = false;
}

void sql_forget_counts(struct sql *q)
{
    for (size_t i = 0; i < q->mailboxes; i++)
        q->mailbox[i].loaded = false;
}

/* false: not there. *ret_seq is 0 for an acknowledged one. */
static bool find_seen(struct sql *q, uint64_t mailbox, const struct envelope_id *id, uint64_t *ret_seq)
{
    sqlite3_stmt *st = sql_use(q, SQL_SEEN_GET);

    sql_bind_u64(st, 1, mailbox);
    sql_bind_blob(st, 2, id->b, ENVELOPE_ID_LEN);
    if (!sql_row(q, st))
        return false;
    *ret_seq = (uint64_t)sqlite3_column_int64(st, 0);
    (void)sqlite3_reset(st);
    return true;
}

static void add_seen(
        struct sql *q, uint64_t mailbox, const struct envelope_id *id, uint64_t seq, uint64_t expires_ms)
{
    sqlite3_stmt *st = sql_use(q, SQL_SEEN_ADD);

    sql_bind_u64(st, 1, mailbox);
    sql_bind_blob(st, 2, id->b, ENVELOPE_ID_LEN);
    sql_bind_u64(st, 3, seq);
    sql_bind_u64(st, 4, expires_ms);
    sql_done(q, st);
}

static enum store_result submit_one(
        struct sql *q, uint64_t mailbox, uint64_t time_ms, struct store_envelope *e)
{
    struct sql_mailbox *m;
    sqlite3_stmt *st;
    uint64_t seq;

    if (!mailbox)
        return STORE_NOENT;
    if (find_seen(q, mailbox, &e->id, &seq))
        return STORE_DUP;
    m = sql_mailbox(q, mailbox);
    if (!m)
        return STORE_RETRY;
    if (m->count >= q->max_envelopes || m->bytes + e->body.n > q->max_bytes || m->last_seq == SEQ_MAX)
        return STORE_FULL;
    seq = m->last_seq + 1;
    add_seen(q, mailbox, &e->id, seq, e->expires_ms);
    st = sql_use(q, SQL_MAIL_ADD);
    sql_bind_u64(st, 1, mail_key(mailbox, seq));
    sql_bind_blob(st, 2, e->id.b, ENVELOPE_ID_LEN);
    sql_bind_u64(st, 3, time_ms);
    sql_bind_u64(st, 4, e->expires_ms);
    sql_bind_blob(st, 5, e->body.p, e->body.n);
    sql_done(q, st);
    if (q->rc)
        return STORE_RETRY;
    m->last_seq = e->ret_seq = seq;
    m->count++;
    m->bytes += e->body.n;
    return STORE_OK;
}

void sql_submit(struct sql *q, struct store_submit_req *r)
{
    const struct address *to = NULL;
    uint64_t mailbox = 0;

    r->req.result = STORE_OK;
    for (uint16_t i = 0; i < r->count && !q->rc; i++) {
        struct store_envelope *e = &r->item[i];

        if (e->skip)
            continue;
        if (!to || memcmp(to->uid, e->to.uid, UID_LEN) != 0 || to->device != e->to.device)
            mailbox = sql_find_device(q, &e->to, NULL, NULL, NULL);
        to = &e->to;
        e->ret_result = submit_one(q, mailbox, r->time_ms, e);
    }
}

static void remove_mail(struct sql *q, uint64_t mailbox, uint64_t seq)
{
    struct sql_mailbox *m = sql_mailbox(q, mailbox);
    sqlite3_stmt *st;
    uint64_t size = 0;

    if (!m)
        return;
    st = sql_use(q, SQL_MAIL_SIZE);
    sql_bind_u64(st, 1, mail_key(mailbox, seq));
    if (sql_row(q, st))
        size = (uint64_t)sqlite3_column_int64(st, 0);
    (void)sqlite3_reset(st);
    st = sql_use(q, SQL_MAIL_DELETE);
    sql_bind_u64(st, 1, mail_key(mailbox, seq));
    sql_done(q, st);
    if (q->rc || sqlite3_changes(q->db) == 0)
        return;
    m->count--;
    m->bytes -= size;
}

static void ack_one(struct sql *q, uint64_t mailbox, const struct store_ack_item *item)
{
    sqlite3_stmt *st;
    uint64_t seq;

    if (!find_seen(q, mailbox, &item->id, &seq)) {
        /* Delivered while it was being stored, which then failed: its next submission is a duplicate. */
        add_seen(q, mailbox, &item->id, 0, item->expires_ms);
        return;
    }
    if (seq == 0)
        return;
    remove_mail(q, mailbox, seq);
    st = sql_use(q, SQL_SEEN_ACKED);
    sql_bind_u64(st, 1, mailbox);
    sql_bind_blob(st, 2, item->id.b, ENVELOPE_ID_LEN);
    sql_done(q, st);
}

/* A mailbox number is never given again, so that one whose account has gone meanwhile is nobody's. */
static bool mailbox_exists(struct sql *q, uint64_t mailbox)
{
    sqlite3_stmt *st = sql_use(q, SQL_DEVICE_EXISTS);
    bool found;

    sql_bind_u64(st, 1, mailbox);
    found = sql_row(q, st);
    (void)sqlite3_reset(st);
    return found;
}

void sql_ack(struct sql *q, struct store_ack *r)
{
    r->req.result = STORE_OK;
    if (!mailbox_exists(q, r->mailbox))
        return;
    for (uint16_t i = 0; i < r->count && !q->rc; i++)
        ack_one(q, r->mailbox, &r->item[i]);
}

void sql_query(struct sql *q, struct store_query *r)
{
    r->req.result = STORE_OK;
    for (uint16_t i = 0; i < r->count && !q->rc; i++) {
        uint64_t mailbox = sql_find_device(q, &r->item[i].what.to, NULL, NULL, NULL), seq = 0;

        r->item[i].ret_state = ENVELOPE_UNKNOWN;
        if (mailbox && find_seen(q, mailbox, &r->item[i].what.id, &seq))
            r->item[i].ret_state = seq ? ENVELOPE_WAITING : ENVELOPE_ACKNOWLEDGED;
    }
}

static bool add_fetched(struct store_fetch *r, sqlite3_stmt *st)
{
    struct store_fetched *f = &r->ret_item[r->ret_count];
    size_t n = (size_t)sqlite3_column_bytes(st, 4);

    if (r->bytes.len + n > r->max_bytes)
        return false;
    f->seq = (uint64_t)sqlite3_column_int64(st, 0) & SEQ_MAX;
    (void)sql_copy(st, 1, f->id.b, ENVELOPE_ID_LEN);
    f->time_ms = (uint64_t)sqlite3_column_int64(st, 2);
    f->expires_ms = (uint64_t)sqlite3_column_int64(st, 3);
    f->body_at = r->bytes.len;
    f->body_len = n;
    buf_bytes(&r->bytes, sqlite3_column_blob(st, 4), n);
    if (buf_status(&r->bytes))
        return false;
    r->ret_count++;
    return true;
}

void sql_fetch(struct sql *q, struct store_fetch *r)
{
    sqlite3_stmt *st = sql_use(q, SQL_MAIL_FETCH);
    uint32_t max = r->max_count < STORE_FETCH_MAX ? r->max_count : STORE_FETCH_MAX;

    r->req.result = STORE_OK;
    r->ret_more = false;
    r->ret_count = 0;
    buf_init(&r->bytes, r->max_bytes);
    sql_bind_u64(st, 1, mail_key(r->mailbox, r->after));
    sql_bind_u64(st, 2, mail_key(r->mailbox, SEQ_MAX));
    sql_bind_u64(st, 3, r->now_ms);
    sql_bind_u64(st, 4, max + 1u);
    while (!r->ret_more && sql_row(q, st)) {
        if (r->ret_count == max || !add_fetched(r, st))
            r->ret_more = true;
    }
    (void)sqlite3_reset(st);
}

struct walked {
    uint64_t mailbox, seq, expires_ms;
    uint8_t id[ENVELOPE_ID_LEN];
};

static void expire_one(struct sql *q, const struct walked *w, uint64_t now_ms)
{
    sqlite3_stmt *st;

    if (w->expires_ms > now_ms || (w->seq == 0 && w->expires_ms + REMEMBER_ACKED_MS > now_ms))
        return;
    if (w->seq)
        remove_mail(q, w->mailbox, w->seq);
    st = sql_use(q, SQL_SEEN_DELETE);
    sql_bind_u64(st, 1, w->mailbox);
    sql_bind_blob(st, 2, w->id, ENVELOPE_ID_LEN);
    sql_done(q, st);
}

static void end_walk(struct sql *q, uint64_t now_ms)
{
    sqlite3_stmt *st = sql_use(q, SQL_ONE_TIME_FORGET);

    q->walk.mailbox = 0;
    memset(q->walk.id, 0, sizeof(q->walk.id));
    q->walk.rest_until_ms = now_ms + WALK_REST_MS;
    sql_bind_u64(st, 1, now_ms - REMEMBER_CLAIMED_MS);
    sql_done(q, st);
}

void sql_expire(struct sql *q, struct store_expire *r)
{
    struct walked *w;
    sqlite3_stmt *st;
    uint32_t n = 0;

    r->req.result = STORE_OK;
    if (r->now_ms < q->walk.rest_until_ms)
        return;
    w = malloc(WALK_ROWS * sizeof(*w));
    if (!w)
        return;
    st = sql_use(q, SQL_SEEN_WALK);
    sql_bind_u64(st, 1, q->walk.mailbox);
    sql_bind_blob(st, 2, q->walk.id, ENVELOPE_ID_LEN);
    sql_bind_u64(st, 3, WALK_ROWS);
    while (n < WALK_ROWS && sql_row(q, st)) {
        w[n].mailbox = (uint64_t)sqlite3_column_int64(st, 0);
        (void)sql_copy(st, 1, w[n].id, ENVELOPE_ID_LEN);
        w[n].seq = (uint64_t)sqlite3_column_int64(st, 2);
        w[n].expires_ms = (uint64_t)sqlite3_column_int64(st, 3);
        n++;
    }
    (void)sqlite3_reset(st);
    for (uint32_t i = 0; i < n; i++)
        expire_one(q, &w[i], r->now_ms);
    if (n < WALK_ROWS) {
        end_walk(q, r->now_ms);
    } else {
        q->walk.mailbox = w[n - 1].mailbox;
        memcpy(q->walk.id, w[n - 1].id, ENVELOPE_ID_LEN);
    }
    free(w);
}
