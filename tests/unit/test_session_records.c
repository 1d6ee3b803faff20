/* Records of the engine: what is written is read back; whatever else is read is refused, and nothing crashes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sodium.h>
#include <string.h>

#include <cmocka.h>

#include "memport.h"
#include "state.h"

struct world {
    struct memport *mp;
    struct engine e;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    assert_true(sodium_init() >= 0);
    w->mp = memport_new();
    w->e.port = memport_port(w->mp);
    buf_init(&w->e.scratch, STORE_VALUE_MAX);
    TAILQ_INIT(&w->e.dirty_peers);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    buf_done(&w->e.scratch);
    memport_free(w->mp);
    free(w);
    return 0;
}

static struct buf stored(struct world *w, uint8_t map, const void *key, size_t n)
{
    struct buf b;
    buf_init(&b, STORE_VALUE_MAX);
    assert_int_equal(w->e.port.get(w->e.port.ctx, map, key, n, &b), 0);
    return b;
}

static struct contact a_contact(void)
{
    struct contact k = {.policy = KEY_POLICY_HOLD, .verified = true, .changed = true, .name = "bob"};
    memset(k.uid, 1, UID_LEN);
    memset(k.ak, 2, 32);
    memset(k.new_uid, 3, UID_LEN);
    memset(k.new_ak, 4, 32);
    k.list.n = 7;
    memset(k.list.hash, 5, LIST_HASH_LEN);
    memcpy(k.device.address.uid, k.uid, UID_LEN);
    k.device.address.device = 9;
    k.device.list_n = 7;
    k.device.suites = 2;
    k.device.suite[0] = 1;
    k.device.suite[1] = 8;
    memset(k.device.dhk, 6, 32);
    memset(k.device.hash, 7, DEVICE_HASH_LEN);
    return k;
}

static void contact_round_trip(void **state)
{
    struct world *w = *state;
    struct contact k = a_contact(), got = {0};
    struct buf b;
    assert_int_equal(contact_store(&w->e, &k), 0);
    b = stored(w, MAP_CONTACT, k.uid, UID_LEN);
    assert_int_equal(contact_parse(b.data, b.len, &got), 0);
    assert_string_equal(got.name, "bob");
    assert_true(got.verified && got.changed && !got.blocked && !got.held);
    assert_int_equal(got.policy, KEY_POLICY_HOLD);
    assert_memory_equal(got.new_ak, k.new_ak, 32);
    assert_memory_equal(&got.device, &k.device, sizeof(k.device));
    buf_done(&b);
}

static struct peer a_peer(void)
{
    struct peer p = {.n_sessions = 2,
            .highest_session = 77,
            .last_reset_ms = 5,
            .next_count = 8,
            .highest_count = 9,
            .judged_from = 3};
    memset(p.address.uid, 1, UID_LEN);
    p.address.device = 1;
    address_key(&p.address, p.key);
    p.sessions[0] = (struct session_ref){.number = 77};
    p.sessions[1] = (struct session_ref){.number = 70, .old_since_ms = 6};
    p.gaps = calloc(MAX_GAPS, sizeof(p.gaps[0]));
    p.gaps[p.n_gaps++] = (struct gap){.from = 4, .to = 6, .noticed_ms = 11, .kind = GAP_EXPIRED};
    p.gaps[p.n_gaps++] = (struct gap){.from = 8, .to = 8, .noticed_ms = 12};
    p.tombstones = calloc(MAX_TOMBSTONES, sizeof(p.tombstones[0]));
    p.tombstones[p.n_tombstones++] = (struct tombstone){.from = 1, .to = 5};
    return p;
}

static void peer_drop(struct peer *p)
{
    free(p->gaps);
    free(p->tombstones);
}

static void peer_round_trip(void **state)
{
    struct world *w = *state;
    struct peer p = a_peer(), got = {0};
    struct buf b;
    assert_int_equal(peer_store(&w->e, &p), 0);
    b = stored(w, MAP_PEER, p.key, ADDRESS_KEY_LEN);
    assert_int_equal(peer_parse(b.data, b.len, &got), 0);
    assert_int_equal(got.n_sessions, 2);
    assert_int_equal(got.sessions[1].old_since_ms, 6);
    assert_int_equal(got.judged_from, 3);
    assert_int_equal(got.n_gaps, 2);
    assert_int_equal(got.gaps[0].kind, GAP_EXPIRED);
    assert_int_equal(got.tombstones[0].to, 5);
    peer_drop(&p);
    peer_drop(&got);
    buf_done(&b);
}

static struct outmsg an_outmsg(struct peer *p)
{
    struct outmsg m = {.peer = p,
            .order = 5,
            .seq = 6,
            .count = 7,
            .created_ms = 8,
            .expires_ms = 9,
            .qos = 2,
            .state = OUT_SENT,
            .id_text = "an id",
            .acked_ms = 3,
            .session_number = 4};
    memset(m.id.b, 1, MESSAGE_ID_LEN);
    memset(m.envelope.b, 2, ENVELOPE_ID_LEN);
    return m;
}

static void outmsg_round_trip(void **state)
{
    struct world *w = *state;
    struct peer p = a_peer();
    struct outmsg m = an_outmsg(&p), got = {0};
    struct address to;
    struct buf b;
    assert_int_equal(outmsg_store(&w->e, &m), 0);
    b = stored(w, MAP_OUT, m.id.b, MESSAGE_ID_LEN);
    assert_int_equal(outmsg_parse(b.data, b.len, &got, &to), 0);
    assert_memory_equal(&to, &p.address, sizeof(to));
    assert_string_equal(got.id_text, "an id");
    assert_int_equal(got.count, 7);
    assert_int_equal(got.state, OUT_SENT);
    assert_memory_equal(got.envelope.b, m.envelope.b, ENVELOPE_ID_LEN);
    buf_done(&b);
    m.qos = 0; /* lives in memory alone */
    memset(m.id.b, 9, MESSAGE_ID_LEN);
    assert_int_equal(outmsg_store(&w->e, &m), 0);
    buf_init(&b, 100);
    assert_int_equal(w->e.port.get(w->e.port.ctx, MAP_OUT, m.id.b, MESSAGE_ID_LEN, &b), PORT_NOT_FOUND);
    buf_done(&b);
    peer_drop(&p);
}

static void done_round_trip(void **state)
{
    struct world *w = *state;
    struct done d = {.state = OUT_FAILED, .seq = 4, .time_ms = 5, .id_text = "x", .reason = "blocked"}, got;
    struct message_id id = {{1}}, other = {{2}};
    assert_int_equal(done_store(&w->e, &id, &d), 0);
    assert_int_equal(done_load(&w->e, &id, &got), 0);
    assert_string_equal(got.reason, "blocked");
    assert_int_equal(got.state, OUT_FAILED);
    assert_int_equal(done_load(&w->e, &other, &got), PORT_NOT_FOUND);
}

static int parse_any(uint8_t map, const uint8_t *p, size_t n)
{
    struct contact k = {0};
    struct peer peer = {0};
    struct outmsg m = {0};
    struct address to;
    int r;
    switch (map) {
    case MAP_CONTACT:
        return contact_parse(p, n, &k);
    case MAP_PEER:
        r = peer_parse(p, n, &peer);
        peer_drop(&peer);
        return r;
    default:
        return outmsg_parse(p, n, &m, &to);
    }
}

/* Every truncation and a byte too many are refused; a changed byte is refused or read, within the bounds. */
static void corrupt(uint8_t map, const struct buf *b)
{
    for (size_t n = 0; n < b->len; n++) {
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, b->data, n);
        assert_int_equal(parse_any(map, exact, n), -EBADMSG);
        free(exact);
    }
    uint8_t *more = calloc(1, b->len + 1);
    memcpy(more, b->data, b->len);
    assert_int_equal(parse_any(map, more, b->len + 1), -EBADMSG);
    for (size_t i = 0; i < b->len; i++)
        for (unsigned v = 0; v < 256; v += 15) {
            int r;
            more[i] = (uint8_t)v;
            r = parse_any(map, more, b->len);
            assert_true(r == 0 || r == -EBADMSG);
            more[i] = b->data[i];
        }
    free(more);
}

static void corrupt_records(void **state)
{
    struct world *w = *state;
    struct contact k = a_contact();
    struct peer p = a_peer();
    struct outmsg m = an_outmsg(&p);
    struct buf b;
    assert_int_equal(contact_store(&w->e, &k), 0);
    assert_int_equal(peer_store(&w->e, &p), 0);
    assert_int_equal(outmsg_store(&w->e, &m), 0);
    b = stored(w, MAP_CONTACT, k.uid, UID_LEN);
    corrupt(MAP_CONTACT, &b);
    buf_done(&b);
    b = stored(w, MAP_PEER, p.key, ADDRESS_KEY_LEN);
    corrupt(MAP_PEER, &b);
    buf_done(&b);
    b = stored(w, MAP_OUT, m.id.b, MESSAGE_ID_LEN);
    corrupt(MAP_OUT, &b);
    buf_done(&b);
    peer_drop(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(contact_round_trip, setup, teardown),
            cmocka_unit_test_setup_teardown(peer_round_trip, setup, teardown),
            cmocka_unit_test_setup_teardown(outmsg_round_trip, setup, teardown),
            cmocka_unit_test_setup_teardown(done_round_trip, setup, teardown),
            cmocka_unit_test_setup_teardown(corrupt_records, setup, teardown),
    };
    return cmocka_run_group_tests_name("session_records", tests, NULL, NULL);
}
