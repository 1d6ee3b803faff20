/* All decoders of relay messages: what one accepts is written again byte for byte. */
#include <string.h>

#include "driver.h"
#include "relay.h"

static void put_error(struct buf *b, uint32_t ref, const struct relay_error_msg *m)
{
    char text[RELAY_MAX_ERROR_TEXT + 1] = "";

    if (m->text.n > 0)
        memcpy(text, m->text.p, m->text.n);
    relay_put_error(b, ref, m->code, m->retry_after_ms, text);
}

/* One message that has no items: CASE(type, kind) reads it and writes it. */
#define CASE(type, kind, name)                                                                               \
    case type: {                                                                                             \
        static struct kind m;                                                                                \
        if (relay_get_##name(c, &m) != WIRE_OK)                                                              \
            return false;                                                                                    \
        relay_put_##name(b, ref, &m);                                                                        \
        return true;                                                                                         \
    }

static bool decode_single(struct cursor *c, struct buf *b, uint8_t type, uint32_t ref)
{
    struct relay_challenge challenge;
    struct relay_error_msg error;

    switch (type) {
        CASE(RELAY_WELCOME, relay_welcome, welcome)
        CASE(RELAY_ACCOUNT, relay_account, account)
        CASE(RELAY_BUNDLE, relay_bundle, bundle)
        CASE(RELAY_PREKEYS, relay_prekeys, prekeys_left)
        CASE(RELAY_AUTH, relay_auth, auth)
        CASE(RELAY_REGISTER, relay_register, register)
        CASE(RELAY_PUT_PREKEYS, relay_put_prekeys, prekeys)
        CASE(RELAY_LOOKUP, relay_lookup, lookup)
        CASE(RELAY_CLAIM, address, claim)
        CASE(RELAY_LIST_USERS, relay_list_users, list_users)
        CASE(RELAY_UNREGISTER, relay_unregister, unregister)
    case RELAY_CHALLENGE:
        if (ref != 0 || relay_get_challenge(c, &challenge) != WIRE_OK)
            return false;
        relay_put_challenge(b, &challenge);
        return true;
    case RELAY_ERROR:
        if (relay_get_error(c, &error) != WIRE_OK || memchr(error.text.p, 0, error.text.n))
            return false;
        put_error(b, ref, &error);
        return true;
    case RELAY_OK:
    case RELAY_DRAINED:
        relay_put_empty(b, type, ref);
        return cursor_end(c) == WIRE_OK;
    default:
        return false;
    }
}

#define ITEM(type, kind, name)                                                                               \
    case type: {                                                                                             \
        struct kind m;                                                                                       \
        if (relay_next_##name(c, &m) != WIRE_OK)                                                             \
            return false;                                                                                    \
        relay_add_##name(b, &m);                                                                             \
        return true;                                                                                         \
    }

static bool decode_item(struct cursor *c, struct buf *b, uint8_t type)
{
    switch (type) {
        ITEM(RELAY_SUBMITTED, relay_submitted_item, submitted)
        ITEM(RELAY_DELIVER, relay_deliver_item, deliver)
        ITEM(RELAY_USERS, relay_user, user)
        ITEM(RELAY_PRESENCE, relay_presence_item, presence)
        ITEM(RELAY_STATES, relay_state_item, state)
        ITEM(RELAY_SUBMIT, relay_submit_item, submit)
        ITEM(RELAY_ACK, envelope_id, ack)
        ITEM(RELAY_QUERY, relay_query_item, query)
        ITEM(RELAY_WATCH, address, watch)
    default:
        return false;
    }
}

static bool decode_batch(struct cursor *c, struct buf *b, uint8_t type, uint32_t ref)
{
    uint16_t count = 0, min = type == RELAY_PRESENCE ? 0 : 1;
    bool more = false;

    if (type == RELAY_USERS) {
        if (relay_read_users(c, &more, &count) != WIRE_OK)
            return false;
        relay_begin_users(b, ref, more);
    } else {
        if (relay_read_count(c, min, type == RELAY_WATCH ? RELAY_MAX_WATCH : RELAY_MAX_BATCH, &count) !=
                WIRE_OK)
            return false;
        relay_begin(b, type, ref);
    }
    for (uint16_t i = 0; i < count; i++) {
        if (!decode_item(c, b, type))
            return false;
    }
    FUZZ_CHECK(relay_batch_count(b) == count && relay_batch_len(b) == b->len);
    return cursor_end(c) == WIRE_OK;
}

static bool is_batch(uint8_t type)
{
    static const uint8_t batches[] = {RELAY_SUBMITTED, RELAY_DELIVER, RELAY_USERS, RELAY_PRESENCE,
            RELAY_STATES, RELAY_SUBMIT, RELAY_ACK, RELAY_QUERY, RELAY_WATCH};

    return memchr(batches, type, sizeof(batches)) != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor c;
    struct buf b;
    uint32_t ref;
    uint8_t type;

    buf_init(&b, RELAY_MAX_MESSAGE);
    cursor_init(&c, data, size);
    if (relay_read_head(&c, &type, &ref) == WIRE_OK &&
            (is_batch(type) ? decode_batch : decode_single)(&c, &b, type, ref)) {
        FUZZ_CHECK(buf_status(&b) == 0);
        FUZZ_CHECK(b.len == size && memcmp(b.data, data, size) == 0);
    }
    buf_done(&b);
    return 0;
}

static void gen_lp(struct gen *g, size_t max)
{
    size_t n = gen_size(g, gen_one_in(g, 30) ? max + 1 : max);

    gen_le(g, gen_one_in(g, 100) ? gen_boundary(g) : n, 4);
    gen_random(g, n);
}

static void gen_name(struct gen *g)
{
    size_t n = gen_one_in(g, 10) ? gen_size(g, 65) : 1 + (size_t)gen_below(g, 12);

    gen_le(g, n, 4);
    for (size_t i = 0; i < n; i++)
        gen_u8(g, gen_one_in(g, 500) ? '/' : (uint8_t)('a' + gen_below(g, 26)));
}

static void gen_address(struct gen *g)
{
    gen_random(g, UID_LEN);
    gen_le(g, gen_one_in(g, 300) ? 0 : 1 + gen_below(g, 3), 4);
}

/* An enumerated byte of at most max; sometimes one more. */
static void gen_choice(struct gen *g, uint8_t max)
{
    gen_le(g, gen_one_in(g, 200) ? max + 1u : gen_below(g, max + 1u), 1);
}

static void gen_spans(struct gen *g, uint64_t max, size_t max_span)
{
    uint64_t count = gen_one_in(g, 4) ? max + gen_below(g, 2) : gen_below(g, max + 1);

    gen_le(g, count, 2);
    for (uint64_t i = 0; i < count; i++)
        gen_lp(g, count < 4 ? max_span : 40);
}

/* Fields in the notation of one character each, as section 8 lists them. */
static void gen_fields(struct gen *g, const char *fields)
{
    for (; *fields; fields++) {
        switch (*fields) {
        case '1': /* u8 boolean */
            gen_choice(g, 1);
            break;
        case '2':
            gen_le(g, gen_one_in(g, 2) ? gen_boundary(g) : 1, 2);
            break;
        case '3':
            gen_choice(g, 2);
            break;
        case '4':
            gen_random(g, 4);
            break;
        case '8':
            gen_random(g, 8);
            break;
        case '9': /* status */
            gen_choice(g, SUBMIT_RATE_LIMITED);
            break;
        case 'i':
            gen_random(g, ENVELOPE_ID_LEN);
            break;
        case 'u':
            gen_random(g, 32);
            break;
        case 's':
            gen_random(g, 64);
            break;
        case 'a':
            gen_address(g);
            break;
        case 'n':
            gen_name(g);
            break;
        case 'b':
            gen_lp(g, gen_one_in(g, 40) ? RELAY_MAX_BODY : 300);
            break;
        case 'h':
            gen_lp(g, RELAY_MAX_HOST);
            break;
        case 't':
            gen_lp(g, RELAY_MAX_TOKEN);
            break;
        case 'e':
            gen_lp(g, RELAY_MAX_ENTRY);
            break;
        case 'p':
            gen_lp(g, RELAY_MAX_PREKEY);
            break;
        case 'E':
        case 'P':
            gen_spans(g, *fields == 'E' ? RELAY_MAX_ENTRIES : RELAY_MAX_PREKEYS,
                    *fields == 'E' ? RELAY_MAX_ENTRY : RELAY_MAX_PREKEY);
            break;
        default:
            break;
        }
    }
}

struct shape {
    uint8_t type;
    const char *fields;
    const char *items;
};

static const struct shape shapes[] = {
        {RELAY_CHALLENGE, "2u8i4443", NULL},
        {RELAY_WELCOME, "84484", NULL},
        {RELAY_ERROR, "24h", NULL},
        {RELAY_OK, "", NULL},
        {RELAY_DRAINED, "", NULL},
        {RELAY_ACCOUNT, "1", NULL},
        {RELAY_ACCOUNT, "1nuE", NULL},
        {RELAY_BUNDLE, "1", NULL},
        {RELAY_BUNDLE, "1pp", NULL},
        {RELAY_PREKEYS, "44", NULL},
        {RELAY_AUTH, "auu8h1s", NULL},
        {RELAY_REGISTER, "nte", NULL},
        {RELAY_PUT_PREKEYS, "p1P", NULL},
        {RELAY_LOOKUP, "3n", NULL},
        {RELAY_CLAIM, "a", NULL},
        {RELAY_LIST_USERS, "n2", NULL},
        {RELAY_UNREGISTER, "8s", NULL},
        {RELAY_SUBMITTED, "", "i94"},
        {RELAY_DELIVER, "", "i8b"},
        {RELAY_USERS, "1", "nu"},
        {RELAY_PRESENCE, "", "a1"},
        {RELAY_STATES, "", "i3"},
        {RELAY_SUBMIT, "", "ia18b"},
        {RELAY_ACK, "", "i"},
        {RELAY_QUERY, "", "ia"},
        {RELAY_WATCH, "", "a"},
};

static void gen_items(struct gen *g, const char *items)
{
    uint64_t count = gen_one_in(g, 20) ? gen_size(g, 1025) : gen_below(g, 8);

    gen_le(g, gen_one_in(g, 40) ? gen_boundary(g) : count, 2);
    for (uint64_t i = 0; i < count && g->len < GEN_MAX_INPUT; i++)
        gen_fields(g, items);
}

void fuzz_generate(struct gen *g)
{
    const struct shape *s = &shapes[gen_below(g, sizeof(shapes) / sizeof(shapes[0]))];

    gen_u8(g, s->type);
    gen_le(g, s->type == RELAY_CHALLENGE ? 0 : gen_u64(g), 4);
    gen_fields(g, s->fields);
    if (s->items)
        gen_items(g, s->items);
}
