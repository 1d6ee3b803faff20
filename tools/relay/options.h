/* The command line of e2ee-relay. */
#ifndef E2EE_RELAY_OPTIONS_H
#define E2EE_RELAY_OPTIONS_H

#include "conn.h"

enum command { COMMAND_SERVE, COMMAND_STATS, COMMAND_TOKEN_CREATE };

#define MAX_NAMES 32u
#define MAX_HOST 256u

struct options {
    enum command command;
    const char *state;
    char host[MAX_HOST]; /* of --listen, without the brackets of an IPv6 address */
    uint16_t port;
    const char *name[MAX_NAMES];
    size_t names;
    enum relay_registration registration;
    const char *tls_cert, *tls_key;
    bool binding_required, raw_echo, verbose;
    struct limit limit[HUB_LIMITS];
    uint32_t mailbox_envelopes;
    uint64_t mailbox_bytes;
    uint32_t uses; /* of a token */
};

/*
 * Reads the arguments. -1: go on; otherwise the exit status, after help, version or an error has been
 * printed. The strings are argv's.
 */
int options_read(int argc, char **argv, struct options *ret_options) MUST_USE;

#endif
