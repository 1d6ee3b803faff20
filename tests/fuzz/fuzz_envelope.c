/*
 * Everything of the crypto layer that reads bytes of others: envelopes (parsed alone, and decrypted by a
 * session), records of sessions, identities and prekeys. The first byte of an input says which. Whatever is
 * not exactly what was sent is refused, and leaves the session as it was.
 */
#include <string.h>

#include <sodium.h>

#include "driver.h"
#include "parties.h"
#include "ratchet_impl.h"

enum mode { PARSE, DECRYPT, EDIT, LOAD, OTHERS, MODES };
enum { ENVELOPES = 5, EDIT_LEN = 5 };

static struct {
    bool ready;
    struct pair pair;
    struct buf record; /* of the receiver, before any of the envelopes */
    struct buf envelope[ENVELOPES];
    struct buf plain, scratch;
} world;

static void prepare(void)
{
    struct pair *p = &world.pair;
    struct buf turn;
    if (world.ready)
        return;
    world.ready = true;
    pair_init(p, "fuzz", true);
    buf_init(&turn, ENVELOPE_MAX_BODY);
    buf_init_secret(&world.record, RATCHET_MAX_RECORD);
    buf_init_secret(&world.plain, ENVELOPE_MAX_BODY);
    buf_init_secret(&world.scratch, RATCHET_MAX_RECORD);
    p->now += RATCHET_KEM_MS;
    encrypt_text(p->b, "offer", p->now, &p->rng, &turn);
    for (size_t i = 0; i < ENVELOPES; i++)
        buf_init(&world.envelope[i], ENVELOPE_MAX_BODY);
    encrypt_text(p->a, "with the handshake", p->now, &p->rng, &world.envelope[0]);
    encrypt_text(p->a, "out of order", p->now, &p->rng, &world.envelope[1]);
    must(decrypt_body(p->a, &turn, p->now, &p->rng, &world.scratch) == 0, "offer");
    for (size_t i = 2; i < ENVELOPES; i++)
        encrypt_text(p->a, "answer", p->now, &p->rng, &world.envelope[i]);
    ratchet_save(p->b, &world.record);
    buf_done(&turn);
}

static struct ratchet *receiver(void)
{
    struct ratchet *r = NULL;
    FUZZ_CHECK(ratchet_load(world.record.data, world.record.len, &r) == 0);
    return r;
}

static bool is_unchanged(const struct ratchet *r)
{
    buf_reset(&world.scratch);
    ratchet_save(r, &world.scratch);
    return world.scratch.len == world.record.len &&
           memcmp(world.scratch.data, world.record.data, world.record.len) == 0;
}

static bool was_sent(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < ENVELOPES; i++)
        if (size == world.envelope[i].len && memcmp(data, world.envelope[i].data, size) == 0)
            return true;
    return false;
}

static void check_inside(const uint8_t *data, size_t size, const uint8_t *p, size_t n)
{
    FUZZ_CHECK(p >= data && n <= size && p <= data + size - n);
}

static bool parse(const uint8_t *data, size_t size, struct envelope_view *v)
{
    if (envelope_parse(data, size, v) != 0)
        return false;
    check_inside(data, size, v->route_tag, ROUTE_TAG_LEN);
    check_inside(data, size, v->header.p, v->header.n);
    check_inside(data, size, v->nonce, NONCE_LEN);
    check_inside(data, size, v->com, COM_LEN);
    check_inside(data, size, v->ciphertext.p, v->ciphertext.n);
    FUZZ_CHECK(v->ciphertext.p + v->ciphertext.n == data + size);
    if (v->has_handshake) {
        check_inside(data, size, v->handshake.p, v->handshake.n);
        check_inside(data, size, v->entry.p, v->entry.n);
        FUZZ_CHECK(v->entry.p + v->entry.n == v->handshake.p + v->handshake.n);
    }
    return true;
}

static void decrypt(const uint8_t *data, size_t size)
{
    struct pair *p = &world.pair;
    struct ratchet *r = receiver();
    struct envelope_view v;
    struct inner in;
    int status = parse(data, size, &v) ? ratchet_decrypt(r, &v, p->now, &p->rng, &world.plain, &in)
                                       : RATCHET_MALFORMED;
    FUZZ_CHECK((status == 0) == was_sent(data, size));
    FUZZ_CHECK(is_unchanged(r) == (status != 0));
    ratchet_free(r);
}

/* One of the envelopes, and what to change in it: u32 place, u8 bits; a place past the end cuts or appends.
 */
static void edit(const uint8_t *data, size_t size)
{
    static uint8_t bytes[ENVELOPE_MAX_BODY + 256];
    const struct buf *e;
    size_t n;
    if (size < 1)
        return;
    e = &world.envelope[data[0] % ENVELOPES];
    n = e->len;
    memcpy(bytes, e->data, n);
    memset(bytes + n, 0, 256);
    for (data++, size--; size >= EDIT_LEN; data += EDIT_LEN, size -= EDIT_LEN) {
        size_t at = (data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16) % (e->len + 64);
        if (at >= e->len)
            n = data[3] & 1 ? e->len - (data[4] % e->len) : e->len + data[4];
        else
            bytes[at] ^= data[4];
    }
    decrypt(bytes, n);
}

static void load(const uint8_t *data, size_t size)
{
    struct pair *p = &world.pair;
    struct inner in = text_inner("text");
    struct ratchet *r = NULL;
    struct buf out;
    if (ratchet_load(data, size, &r) != 0)
        return;
    buf_reset(&world.scratch);
    ratchet_save(r, &world.scratch);
    FUZZ_CHECK(world.scratch.len == size && memcmp(world.scratch.data, data, size) == 0);
    buf_init(&out, ENVELOPE_MAX_BODY);
    for (size_t i = 0; i < ENVELOPES; i++) {
        struct envelope_view v;
        struct inner got;
        FUZZ_CHECK(envelope_parse(world.envelope[i].data, world.envelope[i].len, &v) == 0);
        FUZZ_CHECK(ratchet_decrypt(r, &v, p->now, &p->rng, &world.plain, &got) >= 0);
    }
    (void)!ratchet_encrypt(r, &in, p->now, &p->rng, &out);
    (void)ratchet_expire(r, UINT64_MAX);
    buf_done(&out);
    ratchet_free(r);
}

static void others(const uint8_t *data, size_t size)
{
    struct device_list list;
    struct identity *id = NULL;
    struct prekey_secret k;
    struct bundle b;
    if (identity_load(data, size, &id) == 0)
        identity_free(id);
    if (prekey_load(data, size, &k) == 0) {
        buf_reset(&world.scratch);
        prekey_save(&k, &world.scratch);
        FUZZ_CHECK(world.scratch.len == size && memcmp(world.scratch.data, data, size) == 0);
    }
    (void)!device_list_verify(data, size, &list);
    (void)!bundle_verify(
            party_device(&world.pair.bob), (struct span){data, size}, (struct span){0}, TEST_NOW, &b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct envelope_view v;
    if (size < 1)
        return 0;
    prepare();
    switch (data[0] % MODES) {
    case PARSE:
        (void)parse(data + 1, size - 1, &v);
        break;
    case DECRYPT:
        decrypt(data + 1, size - 1);
        break;
    case EDIT:
        edit(data + 1, size - 1);
        break;
    case LOAD:
        load(data + 1, size - 1);
        break;
    default:
        others(data + 1, size - 1);
        break;
    }
    return 0;
}

/* A length of the format, or another. */
static void generate_length(struct gen *g, uint64_t right, size_t bytes)
{
    gen_le(g, gen_one_in(g, 8) ? gen_boundary(g) : right, bytes);
}

static size_t generate_sealed_header(struct gen *g)
{
    static const size_t lengths[] = {SEALED_HEADER_LEN(0), SEALED_HEADER_LEN(MLKEM_PK_LEN),
            SEALED_HEADER_LEN(MLKEM_CT_LEN), 0, 1, SEALED_HEADER_LEN(0) - 1,
            SEALED_HEADER_LEN(MLKEM_PK_LEN) + 1};
    return lengths[gen_below(g, gen_one_in(g, 4) ? ARRAY_SIZE(lengths) : 3)];
}

static void generate_envelope(struct gen *g)
{
    bool handshake = gen_one_in(g, 2);
    size_t n = gen_size(g, RELAY_MAX_ENTRY + 1);
    gen_u8(g, gen_one_in(g, 20) ? 2 : ENVELOPE_VERSION);
    gen_u8(g, gen_one_in(g, 20) ? (uint8_t)gen_below(g, 256) : handshake ? KIND_HANDSHAKE : KIND_PLAIN);
    if (handshake) {
        gen_le(g, 1, 2);
        gen_le(g, !gen_one_in(g, 10), 4);
        gen_le(g, gen_boundary(g), 8);
        gen_random(g, KEY_LEN);
        gen_le(g, gen_one_in(g, 10) ? 0 : SPK_ID, 4);
        gen_le(g, gen_one_in(g, 2) ? 0 : OTK_ID, 4);
        gen_random(g, MLKEM_CT_LEN);
        generate_length(g, n, 4);
        gen_random(g, n);
    }
    if (gen_one_in(g, 2))
        gen_put(g, world.pair.b->receive.id.tag, ROUTE_TAG_LEN);
    else
        gen_put(g, world.pair.b->next_receive.tag, ROUTE_TAG_LEN);
    n = generate_sealed_header(g);
    generate_length(g, n, 2);
    gen_random(g, n);
    gen_random(g, NONCE_LEN + COM_LEN);
    gen_random(g, gen_one_in(g, 3) ? gen_size(g, 70000) : TAG_LEN + 256 * gen_below(g, 17));
}

static void generate_edit(struct gen *g)
{
    gen_u8(g, (uint8_t)gen_below(g, ENVELOPES));
    for (uint64_t left = gen_below(g, 3); left > 0; left--) {
        gen_le(g, gen_one_in(g, 2) ? gen_below(g, 300) : gen_below(g, 4000), 4);
        gen_u8(g, (uint8_t)(1u << gen_below(g, 8)));
    }
}

/* A good record with a few bytes, or its length, changed. */
static void generate_changed(struct gen *g, const struct buf *record)
{
    size_t begin = g->len;
    gen_put(g, record->data, record->len);
    for (uint64_t left = gen_below(g, 4); left > 0 && g->len > begin; left--)
        g->out[begin + gen_below(g, g->len - begin)] = (uint8_t)gen_boundary(g);
    if (gen_one_in(g, 4) && g->len > begin)
        g->len -= (size_t)gen_below(g, g->len - begin);
    if (gen_one_in(g, 10))
        gen_random(g, gen_size(g, 100));
}

static void generate_others(struct gen *g)
{
    const struct party *p = &world.pair.bob;
    struct span entry = identity_entry(p->id);
    struct buf b;
    buf_init_secret(&b, 16384);
    switch (gen_below(g, 4)) {
    case 0:
        identity_save(p->id, &b);
        break;
    case 1:
        prekey_save(gen_one_in(g, 2) ? &p->spk : &p->otk, &b);
        break;
    case 2:
        buf_bytes(&b, p->spk_record.data, p->spk_record.len);
        break;
    default:
        buf_bytes(&b, entry.p, entry.n);
        break;
    }
    generate_changed(g, &b);
    buf_done(&b);
}

void fuzz_generate(struct gen *g)
{
    enum mode mode = (enum mode)gen_below(g, MODES);
    prepare();
    gen_u8(g, (uint8_t)mode);
    if (mode == PARSE || mode == DECRYPT)
        generate_envelope(g);
    else if (mode == EDIT)
        generate_edit(g);
    else if (mode == LOAD)
        generate_changed(g, &world.record);
    else
        generate_others(g);
}
