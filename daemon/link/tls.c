#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#define EXPORTER_LABEL "EXPORTER-Channel-Binding"

static const char *library_reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_last_error());
    return text ? text : "no reason given";
}

/* Alerts and library errors, which libwebsockets reports as numbers without meaning. */
static void on_info(const SSL *ssl, int where, int value)
{
    struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    if (t->reason[0] || SSL_is_init_finished(ssl))
        return;
    if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT && value >> 8 == SSL3_AL_FATAL)
        (void)snprintf(t->reason, sizeof(t->reason), "the server refused the TLS handshake: %s",
                SSL_alert_desc_string_long(value));
    else if ((where & SSL_CB_EXIT) && value < 0 && ERR_peek_last_error() != 0)
        (void)snprintf(t->reason, sizeof(t->reason), "the TLS handshake failed: %s", library_reason());
}

void tls_note_verification(struct tls *t, X509_STORE_CTX *store)
{
    int error = X509_STORE_CTX_get_error(store);
    switch (error) {
    case X509_V_OK:
        return;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        (void)snprintf(
                t->reason, sizeof(t->reason), "the server's certificate is not for %.100s", t->url->host);
        return;
    case X509_V_ERR_CERT_HAS_EXPIRED:
        (void)snprintf(t->reason, sizeof(t->reason), "the server's certificate has expired");
        return;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        (void)snprintf(t->reason, sizeof(t->reason),
                "the server's certificate is not valid yet (is this machine's clock right?)");
        return;
    default:
        (void)snprintf(t->reason, sizeof(t->reason), "the server's certificate is not trusted here: %.100s",
                X509_verify_cert_error_string(error));
    }
}

static bool load_authorities(struct tls *t, const char *ca_file)
{
    if (!ca_file) {
        if (SSL_CTX_set_default_verify_paths(t->ctx) == 1)
            return true;
        (void)snprintf(t->reason, sizeof(t->reason),
                "cannot load the system's certificate authorities: %.60s", library_reason());
        return false;
    }
    if (SSL_CTX_load_verify_locations(t->ctx, ca_file, NULL) == 1)
        return true;
    (void)snprintf(t->reason, sizeof(t->reason), "cannot load certificate authorities from %.80s: %.60s",
            ca_file, library_reason());
    return false;
}

/* Every connection of the context inherits these checks. */
static bool expect_name(struct tls *t)
{
    X509_VERIFY_PARAM *param = SSL_CTX_get0_param(t->ctx);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (t->url->ip)
        return X509_VERIFY_PARAM_set1_ip_asc(param, t->url->host) == 1;
    return X509_VERIFY_PARAM_set1_host(param, t->url->host, 0) == 1;
}

int tls_init(struct tls *t, const struct url *url, const char *ca_file)
{
    *t = (struct tls){.url = url, .ctx = SSL_CTX_new(TLS_client_method())};
    if (!t->ctx)
        return -ENOMEM;
    if (!load_authorities(t, ca_file))
        return -EIO;
    if (!expect_name(t) || SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION) != 1)
        return -ENOMEM;
    SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(t->ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_app_data(t->ctx, t);
    SSL_CTX_set_info_callback(t->ctx, on_info);
    return 0;
}

void tls_done(struct tls *t)
{
    SSL_CTX_free(t->ctx);
    t->ctx = NULL;
}

int tls_exporter(SSL *ssl, uint8_t ret_exporter[EXPORTER_LEN])
{
    uint8_t exporter[EXPORTER_LEN];
    if (SSL_get_verify_result(ssl) != X509_V_OK || SSL_version(ssl) < TLS1_3_VERSION)
        return WIRE_MALFORMED;
    if (SSL_export_keying_material(
                ssl, exporter, sizeof(exporter), EXPORTER_LABEL, strlen(EXPORTER_LABEL), NULL, 0, 0) != 1)
        return WIRE_MALFORMED;
    memcpy(ret_exporter, exporter, sizeof(exporter));
    return WIRE_OK;
}
