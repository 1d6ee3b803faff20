/* What the handshake and the prekeys may do with the private keys of an identity. Not for other layers. */
#ifndef E2EE_IDENTITY_KEYS_H
#define E2EE_IDENTITY_KEYS_H

#include "identity.h"
#include "kdf.h"

/* The own device in the own list. */
const struct device *identity_device(const struct identity *id);
/* X25519 with DHK; false for a point of low order. */
bool identity_agree(
        const struct identity *id, const uint8_t public[KEY_LEN], uint8_t ret_shared[KEY_LEN]) MUST_USE;
/* DSK's signature over label ‖ 0 ‖ body. */
void identity_sign(
        const struct identity *id, enum label label, struct span body, uint8_t ret_signature[SIGNATURE_LEN]);

#endif
