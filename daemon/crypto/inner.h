/* The plaintext of an envelope (docs/PROTOCOL.md, section 5) with its padding: encode and decode, side by
 * side. */
#ifndef E2EE_INNER_H
#define E2EE_INNER_H

#include "ratchet.h"

/* Everything before the body: type, flags, id, count, time, seq, seen, two list references, length. */
#define INNER_FIXED_LEN (1u + 1u + MESSAGE_ID_LEN + 4u * 8u + 2u * (8u + LIST_HASH_LEN) + 4u)

/* Whether the fields may be sent: known type and flags, a body within INNER_MAX_BODY. */
bool inner_ok(const struct inner *in);
/* Length of the padded plaintext of a message that is ok. */
size_t inner_padded_length(const struct inner *in);
/* Writes exactly inner_padded_length() bytes. */
void inner_encode(const struct inner *in, uint8_t *ret_bytes);
/*
 * Reads a padded plaintext; ret_inner->body points into it. False for an unknown type or flag, seq 0, a body
 * over the limit, padding that is not zero or not exactly as long as it must be.
 */
bool inner_decode(const uint8_t *p, size_t n, struct inner *ret_inner) MUST_USE;

#endif
