#include "relay_state.h"

static void test_register(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "alice"), thief = person("alice"), fork;
    struct registration r;
    uint8_t hash[32];

    assert_int_equal(register_next(e, &thief, 1, 0).conflict, STORE_NAME_TAKEN);
    fork = a;
    fork.n = 0;
    memset(fork.previous, 0, 32);
    assert_int_equal(register_entry(e, &fork, 1, 2, 0, REGISTRATION_CLOSED, NULL, hash).result, STORE_DUP);
    r = register_entry(e, &fork, 1, 3, 0, REGISTRATION_OPEN, NULL, hash);
    assert_int_equal(r.result, STORE_CONFLICT);
    assert_int_equal(r.conflict, STORE_CHAIN_FORK);
    assert_int_equal(r.newest, 1);
    r = register_entry(e, &a, 3, 2, 0, REGISTRATION_OPEN, NULL, hash);
    assert_int_equal(r.conflict, STORE_CHAIN_GAP);
    fork = a;
    fork.previous[0] ^= 1;
    assert_int_equal(register_next(e, &fork, 2, 0).conflict, STORE_CHAIN_FORK);
    fork = a;
    (void)strcpy(fork.name, "alicia");
    assert_int_equal(register_next(e, &fork, 2, 0).conflict, STORE_CHAIN_FORK);
    assert_int_equal(register_next(e, &a, 2, 2).result, STORE_OK);
    assert_int_equal(register_next(e, &a, 2, 1).conflict, STORE_CHAIN_REVOKED);
    assert_int_equal(register_next(e, &a, 1, 3).result, STORE_OK);
}

/* An account that comes from a relay which lost its state starts with the entry it has. */
static void test_register_later_entry(void **state)
{
    struct env *e = *state;
    struct person a = person("late");

    a.n = 41;
    memset(a.previous, 7, 32);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
}

static void test_registration_modes(void **state)
{
    struct env *e = *state;
    struct person a = person("a"), b = person("b"), taken = person("a");
    uint8_t token[STORE_TOKEN_HASH_LEN] = {1}, hash[32];
    char error[STORE_ERROR_LEN];

    assert_int_equal(store_create_token(e->dir, token, 1, error), 0);
    assert_int_equal(register_entry(e, &a, 1, 1, 0, REGISTRATION_CLOSED, token, hash).conflict, STORE_CLOSED);
    assert_int_equal(register_entry(e, &a, 1, 1, 0, REGISTRATION_TOKEN, NULL, hash).result, STORE_NOENT);
    assert_int_equal(register_entry(e, &a, 1, 1, 0, REGISTRATION_TOKEN, token, hash).result, STORE_OK);
    assert_int_equal(register_entry(e, &b, 1, 1, 0, REGISTRATION_TOKEN, token, hash).result, STORE_NOENT);
    /* A refused name uses no token up. */
    token[0] = 2;
    assert_int_equal(store_create_token(e->dir, token, 1, error), 0);
    assert_int_equal(
            register_entry(e, &taken, 1, 1, 0, REGISTRATION_TOKEN, token, hash).conflict, STORE_NAME_TAKEN);
    assert_int_equal(register_entry(e, &b, 1, 1, 0, REGISTRATION_TOKEN, token, hash).result, STORE_OK);
}

static void test_open_device(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a"), nobody = person("x");
    struct address first = address_of(&a, 1), third = address_of(&a, 3), none = address_of(&nobody, 1);
    struct store_open_device d = open_device(e, &first);

    assert_int_equal(d.req.result, STORE_OK);
    assert_memory_equal(d.ret_ak, a.ak, 32);
    assert_memory_equal(d.ret_rak, a.ak, 32);
    assert_int_equal(d.ret_list_n, 1);
    assert_int_equal(d.ret_waiting, 0);
    d = open_device(e, &third);
    assert_int_equal(d.req.result, STORE_NOENT);
    assert_true(d.ret_known_account);
    d = open_device(e, &none);
    assert_int_equal(d.req.result, STORE_NOENT);
    assert_false(d.ret_known_account);
}

static void test_submit_and_ack(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2), none = address_of(&a, 9);
    struct envelope_id id = new_id(), never = new_id();
    struct store_open_device d;
    struct store_fetch *f;
    bool done;

    assert_int_equal(submit(e, &none, &id, 10), STORE_NOENT);
    assert_int_equal(state_of(e, &none, &id), ENVELOPE_UNKNOWN);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_UNKNOWN);
    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
    assert_int_equal(submit(e, &to, &id, 10), STORE_DUP);
    assert_int_equal(submit(e, &other, &id, 10), STORE_OK);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_WAITING);
    d = open_device(e, &to);
    assert_int_equal(d.ret_waiting, 1);
    assert_int_equal(ack(e, d.ret_mailbox, &id), STORE_OK);
    assert_int_equal(ack(e, d.ret_mailbox, &id), STORE_OK);
    assert_int_equal(state_of(e, &to, &id), ENVELOPE_ACKNOWLEDGED);
    assert_int_equal(state_of(e, &other, &id), ENVELOPE_WAITING);
    assert_int_equal(submit(e, &to, &id, 10), STORE_DUP);
    /* Acknowledged before it could be stored: the next submission is a duplicate. */
    assert_int_equal(ack(e, d.ret_mailbox, &never), STORE_OK);
    assert_int_equal(submit(e, &to, &never, 10), STORE_DUP);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    f = fetch(e, d.ret_mailbox, 0, 10, 1000, &done);
    assert_int_equal(f->ret_count, 0);
    assert_false(f->ret_more);
    store_req_free(&f->req);
    reopen(e);
    assert_int_equal(submit(e, &to, &id, 10), STORE_DUP);
    assert_int_equal(submit(e, &other, &id, 10), STORE_DUP);
    assert_int_equal(open_device(e, &other).ret_waiting, 1);
}

static void test_fetch_bounds(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2);
    struct envelope_id id[10];
    uint64_t mailbox = open_device(e, &to).ret_mailbox, last = 0;
    struct store_fetch *f;
    bool done;

    for (size_t i = 0; i < 10; i++) {
        struct envelope_id foreign = new_id();

        id[i] = new_id();
        assert_int_equal(submit(e, &to, &id[i], 100), STORE_OK);
        assert_int_equal(submit(e, &other, &foreign, 100), STORE_OK);
    }
    f = fetch(e, mailbox, 0, 4, 100000, &done);
    assert_int_equal(f->ret_count, 4);
    assert_true(f->ret_more);
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(f->ret_item[i].id.b, id[i].b, 16);
        assert_true(f->ret_item[i].seq > last);
        last = f->ret_item[i].seq;
        assert_int_equal(f->ret_item[i].body_len, 100);
    }
    store_req_free(&f->req);
    f = fetch(e, mailbox, last, 100, 250, &done);
    assert_int_equal(f->ret_count, 2);
    assert_true(f->ret_more);
    assert_memory_equal(f->ret_item[0].id.b, id[4].b, 16);
    last = f->ret_item[1].seq;
    store_req_free(&f->req);
    f = fetch(e, mailbox, last, 4, 100000, &done);
    assert_int_equal(f->ret_count, 4);
    assert_false(f->ret_more);
    store_req_free(&f->req);
    f = fetch(e, mailbox, last, 100, 99, &done);
    assert_int_equal(f->ret_count, 0);
    assert_true(f->ret_more);
    store_req_free(&f->req);
}

/* seq goes on ascending when a mailbox has been emptied, also over a failed transaction. */
static void test_seq_never_goes_back(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    uint64_t mailbox = open_device(e, &to).ret_mailbox, last = 0;

    for (int i = 0; i < 5; i++) {
        struct envelope_id id = new_id();
        bool done;
        struct store_submit_req *r = submit_req(&to, &id, 10, &done);

        assert_int_equal(perform(e, &r->req), STORE_OK);
        assert_true(r->item->ret_seq > last);
        last = r->item->ret_seq;
        store_req_free(&r->req);
        assert_int_equal(ack(e, mailbox, &id), STORE_OK);
    }
}

static int setup_small(void **state)
{
    (void)setup(state);
    close_store(*state);
    ((struct env *)*state)->options.max_envelopes = 3;
    ((struct env *)*state)->options.max_bytes = 1000;
    open_store(*state);
    return 0;
}

static void test_mailbox_full(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), other = address_of(&a, 2);
    struct envelope_id id[4] = {new_id(), new_id(), new_id(), new_id()};
    uint64_t mailbox = open_device(e, &to).ret_mailbox;

    assert_int_equal(submit(e, &to, &id[0], 600), STORE_OK);
    assert_int_equal(submit(e, &to, &id[1], 401), STORE_FULL);
    assert_int_equal(submit(e, &to, &id[1], 400), STORE_OK);
    assert_int_equal(submit(e, &other, &id[1], 1000), STORE_OK);
    assert_int_equal(ack(e, mailbox, &id[0]), STORE_OK);
    assert_int_equal(submit(e, &to, &id[2], 1), STORE_OK);
    assert_int_equal(submit(e, &to, &id[3], 1), STORE_OK);
    id[0] = new_id();
    assert_int_equal(submit(e, &to, &id[0], 1), STORE_FULL);
    reopen(e);
    assert_int_equal(submit(e, &to, &id[0], 1), STORE_FULL);
    assert_int_equal(submit(e, &to, &id[3], 1), STORE_DUP);
}

static enum store_result put(struct env *e, const struct address *who, uint32_t signed_id, bool replace,
        uint32_t first, uint16_t count, uint32_t *ret_left)
{
    bool done;
    struct store_put_prekeys *r = new_req(STORE_OP_PUT_PREKEYS, sizeof(*r) + 4, &done);
    enum store_result result;

    r->who = *who;
    memset(r->bytes, 's', 4);
    r->signed_id = signed_id;
    if (signed_id)
        r->keys.signed_prekey = (struct span){r->bytes, 4};
    r->keys.replace = replace;
    r->keys.count = count;
    for (uint16_t i = 0; i < count; i++) {
        r->keys.one_time[i] = (struct span){(uint8_t *)&r->one_time_id[i], 4};
        r->one_time_id[i] = first + i;
    }
    result = perform(e, &r->req);
    *ret_left = r->ret_one_time_left;
    store_req_free(&r->req);
    return result;
}

/* 0: no one-time prekey; UINT32_MAX: no bundle. */
static uint32_t claim(struct env *e, const struct address *target)
{
    bool done;
    struct store_claim *r = new_req(STORE_OP_CLAIM, sizeof(*r), &done);
    uint32_t id = UINT32_MAX;

    r->target = *target;
    if (perform(e, &r->req) == STORE_OK) {
        assert_int_equal(r->ret_signed_len, 4);
        id = 0;
        if (r->ret_one_time_len)
            memcpy(&id, r->ret_one_time, 4);
    }
    store_req_free(&r->req);
    return id;
}

static void test_prekeys(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1), none = address_of(&a, 9);
    uint32_t left;

    assert_int_equal(claim(e, &to), UINT32_MAX);
    assert_int_equal(put(e, &none, 1, false, 1, 5, &left), STORE_NOENT);
    assert_int_equal(put(e, &to, 0, false, 1, 5, &left), STORE_OK);
    assert_int_equal(claim(e, &to), UINT32_MAX);
    assert_int_equal(put(e, &to, 9, false, 1, 5, &left), STORE_OK);
    assert_int_equal(left, 5);
    assert_int_equal(claim(e, &to), 1);
    reopen(e);
    assert_int_equal(claim(e, &to), 2);
    assert_int_equal(put(e, &to, 0, false, 1, 5, &left), STORE_OK);
    assert_int_equal(left, 3);
    assert_int_equal(put(e, &to, 0, true, 4, 3, &left), STORE_OK);
    assert_int_equal(left, 3);
    assert_int_equal(claim(e, &to), 4);
    assert_int_equal(claim(e, &to), 5);
    assert_int_equal(claim(e, &to), 6);
    assert_int_equal(claim(e, &to), 0);
    assert_int_equal(claim(e, &none), UINT32_MAX);
    for (uint32_t i = 0; i < STORE_MAX_ONE_TIME / 50; i++)
        assert_int_equal(put(e, &to, 0, false, 1000 + 50 * i, 50, &left), STORE_OK);
    assert_int_equal(put(e, &to, 0, false, 9999, 1, &left), STORE_FULL);
    assert_int_equal(open_device(e, &to).ret_one_time_left, STORE_MAX_ONE_TIME);
    assert_int_equal(open_device(e, &to).ret_signed_prekey_id, 9);
}

static void test_unregister(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a"), next = person("a");
    struct address to = address_of(&a, 1);
    struct envelope_id id = new_id();
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    char error[STORE_ERROR_LEN];
    struct store_stats stats;
    uint32_t left;
    bool done;
    struct store_unregister *r;

    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
    assert_int_equal(put(e, &to, 1, false, 1, 5, &left), STORE_OK);
    for (int i = 0; i < 2; i++) {
        r = new_req(STORE_OP_UNREGISTER, sizeof(*r), &done);
        memcpy(r->uid, a.uid, UID_LEN);
        assert_int_equal(perform(e, &r->req), i == 0 ? STORE_OK : STORE_NOENT);
        store_req_free(&r->req);
    }
    assert_int_equal(open_device(e, &to).req.result, STORE_NOENT);
    assert_int_equal(claim(e, &to), UINT32_MAX);
    /* Too late, and nothing is remembered of it. */
    assert_int_equal(ack(e, mailbox, &id), STORE_OK);
    assert_int_equal(store_read_stats(e->dir, &stats, error), 0);
    assert_int_equal(stats.remembered, 0);
    assert_int_equal(register_next(e, &next, 1, 0).result, STORE_OK);
    a.n = 0;
    (void)strcpy(a.name, "again");
    memset(a.previous, 0, 32);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    assert_true(open_device(e, &to).ret_mailbox > mailbox);
    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
}

static void test_removed_device(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address second = address_of(&a, 2);
    struct envelope_id id = new_id();

    assert_int_equal(submit(e, &second, &id, 10), STORE_OK);
    assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    assert_int_equal(submit(e, &second, &id, 10), STORE_NOENT);
    assert_int_equal(open_device(e, &second).req.result, STORE_NOENT);
}

static void test_lookup_and_list(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "ab"), b = registered(e, "b"), c = registered(e, "a");
    bool done;
    struct store_lookup *l;
    struct store_list_users *u;

    (void)c;
    for (int i = 0; i < 20; i++)
        assert_int_equal(register_next(e, &a, 1, 0).result, STORE_OK);
    l = new_req(STORE_OP_LOOKUP, sizeof(*l), &done);
    l->by = (struct relay_lookup){.by = LOOKUP_BY_UID, .key = {l->key, UID_LEN}};
    memcpy(l->key, a.uid, UID_LEN);
    assert_int_equal(perform(e, &l->req), STORE_OK);
    assert_int_equal(l->ret_account.entries, RELAY_MAX_ENTRIES);
    for (uint16_t i = 0; i < RELAY_MAX_ENTRIES; i++) {
        struct entry entry;

        assert_int_equal(entry_parse(l->ret_account.entry[i].p, l->ret_account.entry[i].n, &entry), WIRE_OK);
        assert_int_equal(entry.n, 21 - RELAY_MAX_ENTRIES + 1 + i);
    }
    store_req_free(&l->req);
    l = new_req(STORE_OP_LOOKUP, sizeof(*l), &done);
    l->by = (struct relay_lookup){.by = LOOKUP_BY_NAME, .key = {l->key, 3}};
    memcpy(l->key, "abc", 3);
    assert_int_equal(perform(e, &l->req), STORE_NOENT);
    store_req_free(&l->req);
    u = new_req(STORE_OP_LIST, sizeof(*u) + 2 * sizeof(u->ret_user[0]), &done);
    u->limit = 2;
    assert_int_equal(perform(e, &u->req), STORE_OK);
    assert_int_equal(u->ret_count, 2);
    assert_true(u->ret_more);
    assert_memory_equal(u->ret_user[1].name, "ab", 2);
    assert_memory_equal(u->ret_user[1].uid, a.uid, UID_LEN);
    u->req.next = NULL;
    memcpy(u->after, "ab", 2);
    u->after_len = 2;
    assert_int_equal(perform(e, &u->req), STORE_OK);
    assert_int_equal(u->ret_count, 1);
    assert_false(u->ret_more);
    assert_memory_equal(u->ret_user[0].uid, b.uid, UID_LEN);
    store_req_free(&u->req);
}

static void expire_at(struct env *e, uint64_t now_ms)
{
    bool done;
    struct store_expire *r = new_req(STORE_OP_EXPIRE, sizeof(*r), &done);

    r->now_ms = now_ms;
    assert_int_equal(perform(e, &r->req), STORE_OK);
    store_req_free(&r->req);
}

static void test_expiry(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id waiting = new_id(), acked = new_id();
    uint64_t mailbox = open_device(e, &to).ret_mailbox;
    bool done;
    struct store_fetch *f;

    assert_int_equal(submit(e, &to, &waiting, 10), STORE_OK);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_OK);
    assert_int_equal(ack(e, mailbox, &acked), STORE_OK);
    f = new_req(STORE_OP_FETCH, sizeof(*f), &done);
    f->mailbox = mailbox;
    f->max_count = 10;
    f->max_bytes = 1000;
    f->now_ms = 100000;
    assert_int_equal(perform(e, &f->req), STORE_OK);
    assert_int_equal(f->ret_count, 0);
    store_req_free(&f->req);
    expire_at(e, 99999);
    assert_int_equal(state_of(e, &to, &waiting), ENVELOPE_WAITING);
    expire_at(e, 99999 + 2 * MINUTE_MS);
    assert_int_equal(state_of(e, &to, &waiting), ENVELOPE_UNKNOWN);
    assert_int_equal(open_device(e, &to).ret_waiting, 0);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_DUP);
    expire_at(e, 100000 + DAY_MS - 1);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_DUP);
    expire_at(e, 100000 + DAY_MS + 2 * MINUTE_MS);
    assert_int_equal(submit(e, &to, &acked, 10), STORE_OK);
}

static void test_stats(void **state)
{
    struct env *e = *state;
    struct person a = registered(e, "a");
    struct address to = address_of(&a, 1);
    struct envelope_id id = new_id(), other = new_id();
    char error[STORE_ERROR_LEN];
    struct store_stats s;

    assert_int_equal(submit(e, &to, &id, 10), STORE_OK);
    assert_int_equal(submit(e, &to, &other, 20), STORE_OK);
    assert_int_equal(ack(e, open_device(e, &to).ret_mailbox, &id), STORE_OK);
    assert_int_equal(store_read_stats(e->dir, &s, error), 0);
    assert_int_equal(s.accounts, 1);
    assert_int_equal(s.devices, 2);
    assert_int_equal(s.waiting, 1);
    assert_int_equal(s.waiting_bytes, 20);
    assert_int_equal(s.remembered, 1);
    assert_int_not_equal(store_read_stats("/nonexistent", &s, error), 0);
    store_close(NULL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
            STORE_TEST(test_register),
            STORE_TEST(test_register_later_entry),
            STORE_TEST(test_registration_modes),
            STORE_TEST(test_open_device),
            STORE_TEST(test_submit_and_ack),
            STORE_TEST(test_fetch_bounds),
            STORE_TEST(test_seq_never_goes_back),
            cmocka_unit_test_setup_teardown(test_mailbox_full, setup_small, teardown),
            STORE_TEST(test_prekeys),
            STORE_TEST(test_unregister),
            STORE_TEST(test_removed_device),
            STORE_TEST(test_lookup_and_list),
            STORE_TEST(test_expiry),
            STORE_TEST(test_stats),
    };

    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
