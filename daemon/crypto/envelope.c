#include "ratchet_impl.h"
#include "padding.h"

static void parse_handshake(struct cursor *c, struct envelope_view *v)
{
    const uint8_t *begin = c->p;
    v->suite = cursor_u16(c);
    v->sender_device = cursor_u32(c);
    v->session_number = cursor_u64(c);
    v->ek = cursor_take(c, KEY_LEN);
    v->signed_prekey_id = cursor_u32(c);
    v->one_time_id = cursor_u32(c);
    v->kem_ct = cursor_take(c, MLKEM_CT_LEN);
    v->entry.p = cursor_lp(c, RELAY_MAX_ENTRY, &v->entry.n);
    if (v->sender_device == 0 || v->signed_prekey_id == 0 || v->entry.n == 0)
        cursor_fail(c);
    v->handshake = (struct span){begin, (size_t)(c->p - begin)};
}

static bool sealed_header_length_ok(size_t n)
{
    return n == SEALED_HEADER_LEN(0) || n == SEALED_HEADER_LEN(MLKEM_PK_LEN) ||
           n == SEALED_HEADER_LEN(MLKEM_CT_LEN);
}

/* A padded plaintext and its tag. */
static bool ciphertext_length_ok(size_t n)
{
    return n > TAG_LEN && padded_length(n - TAG_LEN) == n - TAG_LEN;
}

int envelope_parse(const void *body, size_t n, struct envelope_view *ret_view)
{
    struct envelope_view v = {0};
    struct cursor c;
    uint8_t version, kind;

    if (n > ENVELOPE_MAX_BODY)
        return RATCHET_MALFORMED;
    cursor_init(&c, body, n);
    version = cursor_u8(&c);
    kind = cursor_u8(&c);
    if (version != ENVELOPE_VERSION || (kind != KIND_PLAIN && kind != KIND_HANDSHAKE))
        cursor_fail(&c);
    v.has_handshake = kind == KIND_HANDSHAKE;
    if (v.has_handshake)
        parse_handshake(&c, &v);
    v.route_tag = cursor_take(&c, ROUTE_TAG_LEN);
    v.header.n = cursor_u16(&c);
    v.header.p = cursor_take(&c, v.header.n);
    v.nonce = cursor_take(&c, NONCE_LEN);
    v.com = cursor_take(&c, COM_LEN);
    v.ciphertext.n = c.left;
    v.ciphertext.p = cursor_take(&c, c.left);
    if (cursor_end(&c) != WIRE_OK || !sealed_header_length_ok(v.header.n) ||
            !ciphertext_length_ok(v.ciphertext.n))
        return RATCHET_MALFORMED;
    *ret_view = v;
    return 0;
}
