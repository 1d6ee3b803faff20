/*
 * Every label of the protocol, in one table (docs/PROTOCOL.md, section 1). A label enters a hash, a
 * signature, a MAC or a key derivation followed by one zero byte, and each is used in one place only.
 */
#ifndef E2EE_LABELS_H
#define E2EE_LABELS_H

#include <stddef.h>

#include "relay.h"

#define E2EE_LABELS(X)                                                                                       \
    X(LABEL_UID, "e2eed/1 uid")                                                                              \
    X(LABEL_DEVICE_LIST, "e2eed/1 device list")                                                              \
    X(LABEL_DEVICE_ENTRY, "e2eed/1 device entry")                                                            \
    X(LABEL_DEVICE_LIST_HASH, "e2eed/1 device list hash")                                                    \
    X(LABEL_DEVICE_HASH, "e2eed/1 device hash")                                                              \
    X(LABEL_SIGNED_PREKEY, "e2eed/1 signed prekey")                                                          \
    X(LABEL_ONE_TIME_PREKEY, "e2eed/1 one-time prekey")                                                      \
    X(LABEL_BUNDLE, "e2eed/1 bundle")                                                                        \
    X(LABEL_TRANSCRIPT, "e2eed/1 transcript")                                                                \
    X(LABEL_HANDSHAKE, "e2eed/1 handshake")                                                                  \
    X(LABEL_HANDSHAKE_HEADER, "e2eed/1 handshake header")                                                    \
    X(LABEL_ROOT, "e2eed/1 root")                                                                            \
    X(LABEL_KEM_FIELDS, "e2eed/1 kem fields")                                                                \
    X(LABEL_HEADER, "e2eed/1 header")                                                                        \
    X(LABEL_MESSAGE_AD, "e2eed/1 message ad")                                                                \
    X(LABEL_MESSAGE_KEY, "e2eed/1 message key")                                                              \
    X(LABEL_MESSAGE_ID, "e2eed/1 message id")                                                                \
    X(LABEL_FINGERPRINT, "e2eed/1 fingerprint")                                                              \
    X(LABEL_RELAY_AUTH, RELAY_LABEL_AUTH)                                                                    \
    X(LABEL_RELAY_DELETE, RELAY_LABEL_DELETE)

enum label {
#define X(name, text) name,
    E2EE_LABELS(X)
#undef X
            LABEL_COUNT
};

/* text, and its length with the zero byte. */
struct label_text {
    const char *text;
    size_t n;
};
static const struct label_text label_table[LABEL_COUNT] = {
#define X(name, text) [name] = {text, sizeof(text)},
        E2EE_LABELS(X)
#undef X
};

#define LABEL_MAX 32u

#endif
