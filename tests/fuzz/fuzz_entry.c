/*
 * Device list entries, prekeys, uids and user names, chosen by the first byte. What a parser accepts is
 * written again from what it found, byte for byte.
 */
#include <string.h>

#include "driver.h"
#include "relay.h"

static void put_entry_body(struct buf *b, const struct entry *e)
{
    buf_u8(b, 1);
    buf_bytes(b, e->ak, 32);
    buf_lp(b, e->name.p, e->name.n);
    buf_u64(b, e->n);
    buf_bytes(b, e->previous, 32);
    buf_u64(b, e->time_ms);
    buf_u8(b, e->devices);
    for (unsigned i = 0; i < e->devices; i++) {
        const struct entry_device *d = &e->device[i];
        size_t at = b->len;

        FUZZ_CHECK(d->device > (i > 0 ? e->device[i - 1].device : 0));
        buf_u32(b, d->device);
        buf_bytes(b, d->dsk, 32);
        buf_bytes(b, d->dhk, 32);
        buf_bytes(b, d->rak, 32);
        buf_u8(b, d->suites);
        for (unsigned s = 0; s < d->suites; s++)
            buf_u16(b, d->suite[s]);
        FUZZ_CHECK(d->bytes.n == b->len - at && memcmp(d->bytes.p, b->data + at, d->bytes.n) == 0);
    }
    buf_u8(b, e->revoked);
    for (unsigned i = 0; i < e->revoked; i++)
        buf_u32(b, e->revoked_device[i]);
}

static void check_entry(const uint8_t *data, size_t size)
{
    static struct entry e;
    struct buf body, whole;

    if (entry_parse(data, size, &e) != WIRE_OK)
        return;
    FUZZ_CHECK(size <= RELAY_MAX_ENTRY && user_name_ok(e.name.p, e.name.n) && e.n >= 1);
    buf_init(&body, RELAY_MAX_ENTRY);
    buf_init(&whole, RELAY_MAX_ENTRY);
    put_entry_body(&body, &e);
    buf_lp(&whole, body.data, body.len);
    buf_bytes(&whole, e.ak_signature, 64);
    buf_bytes(&whole, e.dsk_signatures, (size_t)e.devices * 64);
    FUZZ_CHECK(buf_status(&whole) == 0 && whole.len == size && memcmp(whole.data, data, size) == 0);
    buf_done(&body);
    buf_done(&whole);
}

static void check_prekey(const uint8_t *data, size_t size, bool is_signed)
{
    struct prekey_record r;
    struct buf body, whole;

    if ((is_signed ? prekey_parse_signed : prekey_parse_one_time)(data, size, &r) != WIRE_OK)
        return;
    FUZZ_CHECK(size <= RELAY_MAX_PREKEY && r.id != 0 && r.device != 0);
    buf_init(&body, RELAY_MAX_PREKEY);
    buf_init(&whole, RELAY_MAX_PREKEY);
    buf_u8(&body, 1);
    buf_bytes(&body, r.uid, 32);
    buf_u32(&body, r.device);
    if (is_signed) {
        buf_u64(&body, r.list_n);
        buf_u16(&body, r.suite);
    }
    buf_u32(&body, r.id);
    buf_bytes(&body, r.x25519, 32);
    buf_bytes(&body, r.mlkem, PREKEY_MLKEM_LEN);
    if (is_signed) {
        buf_u64(&body, r.not_before_ms);
        buf_u64(&body, r.not_after_ms);
    }
    buf_lp(&whole, body.data, body.len);
    buf_bytes(&whole, r.signature, 64);
    FUZZ_CHECK(buf_status(&whole) == 0 && whole.len == size && memcmp(whole.data, data, size) == 0);
    buf_done(&body);
    buf_done(&whole);
}

static void check_text(const uint8_t *data, size_t size)
{
    char text[128] = "", again[UID_TEXT_LEN + 1];
    uint8_t uid[UID_LEN], back[UID_LEN];

    (void)user_name_ok(data, size);
    if (size > 0)
        memcpy(text, data, size < sizeof(text) - 1 ? size : sizeof(text) - 1);
    if (uid_from_text(text, uid) == WIRE_OK) {
        uid_to_text(uid, again);
        FUZZ_CHECK(strcmp(text, again) == 0);
    }
    memcpy(uid, text, UID_LEN);
    uid_to_text(uid, again);
    FUZZ_CHECK(uid_from_text(again, back) == WIRE_OK && memcmp(uid, back, UID_LEN) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0:
        check_entry(data + 1, size - 1);
        break;
    case 1:
        check_prekey(data + 1, size - 1, true);
        break;
    case 2:
        check_prekey(data + 1, size - 1, false);
        break;
    default:
        check_text(data + 1, size - 1);
        break;
    }
    return 0;
}

static void gen_name(struct gen *g)
{
    static const char digits[] = "abcdefghijklmnopqrstuvwxyz0123456789._-A";
    size_t n = gen_one_in(g, 10) ? gen_size(g, 65) : 1 + (size_t)gen_below(g, 12);

    gen_le(g, n, 4);
    for (size_t i = 0; i < n; i++)
        gen_u8(g, (uint8_t)digits[gen_below(g, i == 0 ? 36 : gen_one_in(g, 300) ? 40 : 39)]);
}

static uint64_t gen_count(struct gen *g, uint64_t max)
{
    return gen_one_in(g, 20) ? max + gen_below(g, 2) : gen_below(g, max / 4 + 1);
}

static void gen_device(struct gen *g, uint32_t *device)
{
    uint64_t suites = gen_one_in(g, 40) ? gen_boundary(g) & 0xff : 1 + gen_count(g, 15);
    uint16_t suite = 0;

    *device += gen_one_in(g, 60) ? 0 : 1 + (uint32_t)gen_below(g, 3);
    gen_le(g, *device, 4);
    gen_random(g, 96);
    gen_le(g, suites, 1);
    for (uint64_t i = 0; i < suites; i++) {
        suite = (uint16_t)(suite + (gen_one_in(g, 100) ? 0 : 1 + gen_below(g, 3)));
        gen_le(g, suite, 2);
    }
}

static void gen_entry_body(struct gen *g, uint64_t devices)
{
    uint64_t n = gen_one_in(g, 2) ? 1 : gen_one_in(g, 10) ? 0 : 2 + gen_below(g, 5);
    uint64_t revoked = gen_count(g, 64);
    uint32_t device = 0;

    gen_u8(g, gen_one_in(g, 40) ? 2 : 1);
    gen_random(g, 32);
    gen_name(g);
    gen_le(g, n, 8);
    for (unsigned i = 0; i < 32; i++)
        gen_u8(g, (n == 1) != gen_one_in(g, 500) ? 0 : 7);
    gen_le(g, gen_u64(g), 8);
    gen_le(g, devices, 1);
    for (uint64_t i = 0; i < devices; i++)
        gen_device(g, &device);
    gen_le(g, revoked, 1);
    for (uint64_t i = 0; i < revoked; i++)
        gen_le(g, gen_one_in(g, 200) ? gen_below(g, 8) : 1000 + gen_below(g, 1000), 4);
    if (gen_one_in(g, 30))
        gen_random(g, gen_size(g, 8192));
}

static void gen_prekey_body(struct gen *g, bool is_signed)
{
    gen_u8(g, 1);
    gen_random(g, 32);
    gen_le(g, gen_below(g, 20), 4);
    if (is_signed) {
        gen_le(g, gen_below(g, 20), 8);
        gen_le(g, gen_below(g, 3), 2);
    }
    gen_le(g, gen_one_in(g, 10) ? gen_boundary(g) : 5, 4);
    gen_random(
            g, 32u + PREKEY_MLKEM_LEN + (is_signed ? 16u : 0u) + (gen_one_in(g, 30) ? gen_size(g, 200) : 0));
}

void fuzz_generate(struct gen *g)
{
    uint8_t which = (uint8_t)gen_below(g, 4);
    uint64_t devices = gen_one_in(g, 40) ? 0 : 1 + gen_count(g, 15);
    size_t at = 1 + 4;

    gen_u8(g, which);
    if (which == 3) {
        static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567189A";

        for (unsigned i = 0; i < UID_TEXT_LEN; i++)
            gen_u8(g, (uint8_t)digits[gen_below(g, gen_one_in(g, 200) ? 36 : 32)]);
        return;
    }
    gen_le(g, 0, 4);
    if (which == 0)
        gen_entry_body(g, devices);
    else
        gen_prekey_body(g, which == 1);
    for (unsigned i = 0; i < 4; i++)
        g->out[1 + i] = (uint8_t)((g->len - at) >> (8 * i));
    gen_random(g, which == 0 ? 64 + 64 * (size_t)devices : 64);
}
