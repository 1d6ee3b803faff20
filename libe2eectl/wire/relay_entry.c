#include "relay.h"

#include <string.h>

#define VERSION 1
#define SIGNATURE_LEN 64u

static bool is_name_start(uint8_t ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9');
}

/* A name that reads as a uid would be taken for the account of that uid. */
static bool is_uid_text(const uint8_t *name, size_t n)
{
    char text[UID_TEXT_LEN + 1] = "";
    uint8_t uid[UID_LEN];

    if (n != UID_TEXT_LEN)
        return false;
    memcpy(text, name, n);
    return uid_from_text(text, uid) == WIRE_OK;
}

bool user_name_ok(const void *p, size_t n)
{
    const uint8_t *name = p;

    if (n < 1 || n > RELAY_MAX_NAME || !is_name_start(name[0]))
        return false;
    for (size_t i = 1; i < n; i++) {
        if (!is_name_start(name[i]) && name[i] != '.' && name[i] != '_' && name[i] != '-')
            return false;
    }
    return !is_uid_text(name, n);
}

void uid_to_text(const uint8_t uid[UID_LEN], char ret_text[UID_TEXT_LEN + 1])
{
    static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
    unsigned bits = 0, have = 0;
    char *out = ret_text;

    for (size_t i = 0; i < UID_LEN; i++) {
        bits = (bits << 8 | uid[i]) & 0xfff;
        for (have += 8; have >= 5; have -= 5)
            *out++ = digits[bits >> (have - 5) & 31];
    }
    *out++ = digits[bits << (5 - have) & 31];
    *out = '\0';
}

static int base32_digit(char ch)
{
    if (ch >= 'a' && ch <= 'z')
        return ch - 'a';
    return ch >= '2' && ch <= '7' ? ch - '2' + 26 : -1;
}

int uid_from_text(const char *text, uint8_t ret_uid[UID_LEN])
{
    uint8_t uid[UID_LEN];
    unsigned bits = 0, have = 0;
    size_t n = 0;

    if (strnlen(text, UID_TEXT_LEN + 1) != UID_TEXT_LEN)
        return WIRE_MALFORMED;
    for (size_t i = 0; i < UID_TEXT_LEN; i++) {
        int digit = base32_digit(text[i]);

        if (digit < 0)
            return WIRE_MALFORMED;
        bits = (bits << 5 | (unsigned)digit) & 0xfff;
        have += 5;
        if (have >= 8) {
            have -= 8;
            uid[n++] = (uint8_t)(bits >> have);
        }
    }
    /* Four bits are left over: another value there would be a second text for the same uid. */
    if (bits & ((1u << have) - 1))
        return WIRE_MALFORMED;
    memcpy(ret_uid, uid, UID_LEN);
    return WIRE_OK;
}

static void parse_device(struct cursor *c, struct entry_device *d, uint32_t after)
{
    const uint8_t *begin = c->p;

    d->device = cursor_u32(c);
    if (d->device <= after)
        cursor_fail(c);
    cursor_copy(c, d->dsk, sizeof(d->dsk));
    cursor_copy(c, d->dhk, sizeof(d->dhk));
    cursor_copy(c, d->rak, sizeof(d->rak));
    d->suites = cursor_u8(c);
    if (d->suites < 1 || d->suites > ENTRY_MAX_SUITES)
        cursor_fail(c);
    for (uint8_t i = 0; !c->failed && i < d->suites; i++) {
        d->suite[i] = cursor_u16(c);
        if (i > 0 && d->suite[i] <= d->suite[i - 1])
            cursor_fail(c);
    }
    d->bytes = (struct span){begin, (size_t)(c->p - begin)};
}

static void parse_devices(struct cursor *c, struct entry *e)
{
    e->devices = cursor_u8(c);
    if (e->devices < 1 || e->devices > ENTRY_MAX_DEVICES)
        cursor_fail(c);
    for (uint8_t i = 0; !c->failed && i < e->devices; i++)
        parse_device(c, &e->device[i], i > 0 ? e->device[i - 1].device : 0);
}

static bool has_device(const struct entry *e, uint32_t device)
{
    for (uint8_t i = 0; i < e->devices; i++) {
        if (e->device[i].device == device)
            return true;
    }
    return false;
}

static void parse_revoked(struct cursor *c, struct entry *e)
{
    e->revoked = cursor_u8(c);
    if (e->revoked > ENTRY_MAX_REVOKED)
        cursor_fail(c);
    for (uint8_t i = 0; !c->failed && i < e->revoked; i++) {
        e->revoked_device[i] = cursor_u32(c);
        if (e->revoked_device[i] == 0 || has_device(e, e->revoked_device[i]))
            cursor_fail(c);
    }
}

static bool all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

static int parse_entry_body(struct entry *e)
{
    struct cursor c;

    cursor_init(&c, e->body.p, e->body.n);
    if (cursor_u8(&c) != VERSION)
        cursor_fail(&c);
    cursor_copy(&c, e->ak, sizeof(e->ak));
    e->name.p = cursor_lp(&c, RELAY_MAX_NAME, &e->name.n);
    if (!user_name_ok(e->name.p, e->name.n))
        cursor_fail(&c);
    e->n = cursor_u64(&c);
    cursor_copy(&c, e->previous, sizeof(e->previous));
    if (e->n < 1 || (e->n == 1) != all_zero(e->previous, sizeof(e->previous)))
        cursor_fail(&c);
    e->time_ms = cursor_u64(&c);
    parse_devices(&c, e);
    parse_revoked(&c, e);
    return cursor_end(&c);
}

int entry_parse(const void *p, size_t n, struct entry *ret_entry)
{
    struct entry e = {0};
    struct cursor c;

    cursor_init(&c, p, n);
    e.body.p = cursor_lp(&c, RELAY_MAX_ENTRY, &e.body.n);
    if (n > RELAY_MAX_ENTRY || !e.body.p || parse_entry_body(&e) != WIRE_OK)
        return WIRE_MALFORMED;
    e.ak_signature = cursor_take(&c, SIGNATURE_LEN);
    e.dsk_signatures = cursor_take(&c, e.devices * SIGNATURE_LEN);
    if (cursor_end(&c) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_entry = e;
    return WIRE_OK;
}

static int parse_prekey_body(struct prekey_record *r, bool is_signed)
{
    struct cursor c;

    cursor_init(&c, r->body.p, r->body.n);
    if (cursor_u8(&c) != VERSION)
        cursor_fail(&c);
    cursor_copy(&c, r->uid, UID_LEN);
    r->device = cursor_u32(&c);
    if (is_signed) {
        r->list_n = cursor_u64(&c);
        r->suite = cursor_u16(&c);
    }
    r->id = cursor_u32(&c);
    cursor_copy(&c, r->x25519, sizeof(r->x25519));
    r->mlkem = cursor_take(&c, PREKEY_MLKEM_LEN);
    if (is_signed) {
        r->not_before_ms = cursor_u64(&c);
        r->not_after_ms = cursor_u64(&c);
    }
    if (r->device == 0 || r->id == 0 || (is_signed && r->list_n == 0))
        cursor_fail(&c);
    return cursor_end(&c);
}

static int parse_prekey(const void *p, size_t n, bool is_signed, struct prekey_record *ret_record)
{
    struct prekey_record r = {0};
    struct cursor c;

    cursor_init(&c, p, n);
    r.body.p = cursor_lp(&c, RELAY_MAX_PREKEY, &r.body.n);
    r.signature = cursor_take(&c, SIGNATURE_LEN);
    if (cursor_end(&c) != WIRE_OK || parse_prekey_body(&r, is_signed) != WIRE_OK)
        return WIRE_MALFORMED;
    *ret_record = r;
    return WIRE_OK;
}

int prekey_parse_signed(const void *p, size_t n, struct prekey_record *ret_record)
{
    return parse_prekey(p, n, true, ret_record);
}

int prekey_parse_one_time(const void *p, size_t n, struct prekey_record *ret_record)
{
    return parse_prekey(p, n, false, ret_record);
}
