/* The signed bodies of prekeys and the hash of a bundle, as both ends of a handshake build them. Not for
 * other layers. */
#ifndef E2EE_PREKEY_BODY_H
#define E2EE_PREKEY_BODY_H

#include "kdf.h"
#include "prekey.h"

#define PREKEY_BODY_MAX 1300u

/* The body of section 3 for a pair of `owner`. */
void prekey_body(const struct prekey_secret *k, const struct address *owner, struct buf *body);
/* one_time.n is 0 where there is none. */
void bundle_hash(struct span signed_body, struct span one_time_body, uint8_t ret_hash[HASH_LEN]);

#endif
