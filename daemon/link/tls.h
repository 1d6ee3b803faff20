/*
 * TLS as the link wants it: version 1.3 (whose exporter binds to the connection without further conditions,
 * RFC 9266 section 4.2), the server's certificate verified against the system's authorities or one given
 * file, and its name always. There is no way to turn any of it off.
 */
#ifndef E2EE_LINK_TLS_H
#define E2EE_LINK_TLS_H

#include <openssl/ssl.h>

#include "url.h"

#define TLS_MAX_REASON 200

struct tls {
    SSL_CTX *ctx;
    char reason[TLS_MAX_REASON]; /* why the handshake failed, for people; empty as long as it has not */
    const struct url *url;       /* borrowed */
};

/*
 * A context for connections to url (kept; must outlive t, and t must not move). ca_file is a PEM file that
 * replaces the system's authorities, or NULL. 0, or -EIO with t->reason set, or -ENOMEM.
 */
int tls_init(struct tls *t, const struct url *url, const char *ca_file) MUST_USE;
void tls_done(struct tls *t);
/* Notes why the certificate was refused: what the verification callback of libwebsockets gets. */
void tls_note_verification(struct tls *t, X509_STORE_CTX *store);
/* The exporter of RFC 9266. WIRE_MALFORMED where the connection has none or its certificate was not verified.
 */
int tls_exporter(SSL *ssl, uint8_t ret_exporter[EXPORTER_LEN]) MUST_USE;

#endif
