#include "relay.h"

#include <errno.h>
#include <string.h>

#define COUNT_AT 5u /* after type and ref; USERS has `more` before it */

static size_t count_at(const struct buf *b)
{
    return COUNT_AT + (b->data[0] == RELAY_USERS);
}

void relay_begin(struct buf *b, enum relay_type type, uint32_t ref)
{
    buf_reset(b);
    buf_u8(b, (uint8_t)type);
    buf_u32(b, ref);
    buf_u16(b, 0);
}

void relay_begin_users(struct buf *b, uint32_t ref, bool more)
{
    buf_reset(b);
    buf_u8(b, RELAY_USERS);
    buf_u32(b, ref);
    buf_u8(b, more);
    buf_u16(b, 0);
}

uint16_t relay_batch_count(const struct buf *b)
{
    const uint8_t *p;

    if (b->error || b->len < COUNT_AT + 3)
        return 0;
    p = b->data + count_at(b);
    return (uint16_t)(p[0] | p[1] << 8);
}

size_t relay_batch_len(const struct buf *b)
{
    return b->len;
}

/* After the item's bytes: a batch that a decoder would refuse is an error here. */
static void count_item(struct buf *b)
{
    unsigned n;

    if (b->error)
        return;
    n = relay_batch_count(b) + 1u;
    if (n > RELAY_MAX_BATCH || b->len > RELAY_MAX_MESSAGE)
        b->error = -EMSGSIZE;
    else
        buf_patch_u16(b, count_at(b), (uint16_t)n);
}

static void put_id(struct buf *b, const struct envelope_id *id)
{
    buf_bytes(b, id->b, ENVELOPE_ID_LEN);
}

static struct span get_body(struct cursor *c)
{
    struct span s;

    s.p = cursor_lp(c, RELAY_MAX_BODY, &s.n);
    return s;
}

void relay_add_submitted(struct buf *b, const struct relay_submitted_item *m)
{
    put_id(b, &m->id);
    buf_u8(b, m->status);
    buf_u32(b, m->retry_after_ms);
    count_item(b);
}

void relay_add_deliver(struct buf *b, const struct relay_deliver_item *m)
{
    put_id(b, &m->id);
    buf_u64(b, m->time_ms);
    buf_lp(b, m->body.p, m->body.n);
    count_item(b);
}

void relay_add_presence(struct buf *b, const struct relay_presence_item *m)
{
    relay_put_address(b, &m->who);
    buf_u8(b, m->connected);
    count_item(b);
}

void relay_add_state(struct buf *b, const struct relay_state_item *m)
{
    put_id(b, &m->id);
    buf_u8(b, m->state);
    count_item(b);
}

void relay_add_submit(struct buf *b, const struct relay_submit_item *m)
{
    put_id(b, &m->id);
    relay_put_address(b, &m->to);
    buf_u8(b, m->flags);
    buf_u64(b, m->expires_ms);
    buf_lp(b, m->body.p, m->body.n);
    count_item(b);
}

void relay_add_ack(struct buf *b, const struct envelope_id *id)
{
    put_id(b, id);
    count_item(b);
}

void relay_add_query(struct buf *b, const struct relay_query_item *m)
{
    put_id(b, &m->id);
    relay_put_address(b, &m->to);
    count_item(b);
}

void relay_add_watch(struct buf *b, const struct address *who)
{
    relay_put_address(b, who);
    count_item(b);
}

void relay_add_user(struct buf *b, const struct relay_user *m)
{
    buf_lp(b, m->name.p, m->name.n);
    buf_bytes(b, m->uid, UID_LEN);
    count_item(b);
}

int relay_read_count(struct cursor *c, uint16_t min, uint16_t max, uint16_t *ret_count)
{
    uint16_t count = cursor_u16(c);

    if (count < min || count > max)
        cursor_fail(c);
    if (cursor_status(c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_count = count;
    return WIRE_OK;
}

int relay_read_users(struct cursor *c, bool *ret_more, uint16_t *ret_count)
{
    uint8_t more = cursor_u8(c);
    int r;

    if (more > 1)
        cursor_fail(c);
    r = relay_read_count(c, 0, RELAY_MAX_USERS, ret_count);
    if (r == WIRE_OK)
        *ret_more = more == 1;
    return r;
}

/* The end of an item: zeros instead of one that is wrong in any part. */
static int item_end(const struct cursor *c, void *item, size_t size)
{
    int r = cursor_status(c);

    if (r != WIRE_OK)
        memset(item, 0, size);
    return r;
}

int relay_next_submitted(struct cursor *c, struct relay_submitted_item *ret_m)
{
    cursor_copy(c, ret_m->id.b, ENVELOPE_ID_LEN);
    ret_m->status = cursor_u8(c);
    ret_m->retry_after_ms = cursor_u32(c);
    if (ret_m->status > SUBMIT_RATE_LIMITED)
        cursor_fail(c);
    return item_end(c, ret_m, sizeof(*ret_m));
}

int relay_next_deliver(struct cursor *c, struct relay_deliver_item *ret_m)
{
    cursor_copy(c, ret_m->id.b, ENVELOPE_ID_LEN);
    ret_m->time_ms = cursor_u64(c);
    ret_m->body = get_body(c);
    return item_end(c, ret_m, sizeof(*ret_m));
}

int relay_next_presence(struct cursor *c, struct relay_presence_item *ret_m)
{
    uint8_t connected;

    relay_read_address(c, &ret_m->who);
    connected = cursor_u8(c);
    if (connected > 1)
        cursor_fail(c);
    ret_m->connected = connected == 1;
    return item_end(c, ret_m, sizeof(*ret_m));
}

int relay_next_state(struct cursor *c, struct relay_state_item *ret_m)
{
    cursor_copy(c, ret_m->id.b, ENVELOPE_ID_LEN);
    ret_m->state = cursor_u8(c);
    if (ret_m->state > ENVELOPE_ACKNOWLEDGED)
        cursor_fail(c);
    return item_end(c, ret_m, sizeof(*ret_m));
}

int relay_next_submit(struct cursor *c, struct relay_submit_item *ret_m)
{
    cursor_copy(c, ret_m->id.b, ENVELOPE_ID_LEN);
    relay_read_address(c, &ret_m->to);
    ret_m->flags = cursor_u8(c);
    ret_m->expires_ms = cursor_u64(c);
    ret_m->body = get_body(c);
    if (ret_m->flags & ~RELAY_SUBMIT_EPHEMERAL)
        cursor_fail(c);
    return item_end(c, ret_m, sizeof(*ret_m));
}

int relay_next_ack(struct cursor *c, struct envelope_id *ret_id)
{
    cursor_copy(c, ret_id->b, ENVELOPE_ID_LEN);
    return item_end(c, ret_id, sizeof(*ret_id));
}

int relay_next_query(struct cursor *c, struct relay_query_item *ret_m)
{
    cursor_copy(c, ret_m->id.b, ENVELOPE_ID_LEN);
    relay_read_address(c, &ret_m->to);
    return item_end(c, ret_m, sizeof(*ret_m));
}

int relay_next_watch(struct cursor *c, struct address *ret_who)
{
    relay_read_address(c, ret_who);
    return item_end(c, ret_who, sizeof(*ret_who));
}

int relay_next_user(struct cursor *c, struct relay_user *ret_m)
{
    ret_m->name.p = cursor_lp(c, RELAY_MAX_NAME, &ret_m->name.n);
    cursor_copy(c, ret_m->uid, UID_LEN);
    if (!user_name_ok(ret_m->name.p, ret_m->name.n))
        cursor_fail(c);
    return item_end(c, ret_m, sizeof(*ret_m));
}
