/*
 * e2eed-link-ws: one WebSocket connection to a relay for the daemon that started it (docs/PROTOCOL.md,
 * section 9). Exit codes: enum link_exit.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "link.h"
#include "sandbox.h"

#define MAX_MS 3600000ul

static void usage(FILE *out)
{
    (void)fputs("Usage: e2eed-link-ws [--ca-file FILE] [--connect-timeout-ms N] URL\n"
                "Connects to the relay at URL (ws://host[:port][/path] or wss://…) for the daemon on "
                "descriptor 3.\n"
                "Started by e2eed; not meant to be run by hand.\n\n"
                "  --ca-file FILE           trust the authorities in this PEM file instead of the system's\n"
                "  --connect-timeout-ms N   give up after N ms without a connection (1 to 3600000, default "
                "10000)\n"
                "  --version, --help\n\n"
                "Exit status: 0 the connection was made and has ended, 64 usage, 69 no connection, 70 "
                "internal error,\n"
                "76 malformed packet from the daemon. The reason is told to the daemon.\n",
            out);
}

static bool parse_ms(const char *text, uint32_t *ret_ms)
{
    char *end = NULL;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || v < 1 || v > MAX_MS)
        return false;
    *ret_ms = (uint32_t)v;
    return true;
}

/* 0: go on. 1: done. 2: wrong. */
static int parse_options(int argc, char **argv, struct link_options *o)
{
    static const struct option options[] = {{"ca-file", required_argument, NULL, 'c'},
            {"connect-timeout-ms", required_argument, NULL, 't'},
            {"ping-interval", required_argument, NULL, 'p'}, /* in ms; for tests, not documented */
            {"version", no_argument, NULL, 'v'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'c')
            o->ca_file = optarg;
        else if (c == 'v')
            return puts("e2eed-link-ws " E2EED_VERSION) < 0 ? 2 : 1;
        else if (c == 'h') {
            usage(stdout);
            return 1;
        } else if (c != 't' && c != 'p')
            return 2;
        else if (!parse_ms(optarg, c == 't' ? &o->connect_timeout_ms : &o->ping_interval_ms)) {
            (void)fprintf(stderr, "e2eed-link-ws: \"%s\" is not a number of milliseconds from 1 to %lu\n",
                    optarg, MAX_MS);
            return 2;
        }
    }
    if (optind + 1 != argc) {
        (void)fputs("e2eed-link-ws: exactly one URL is needed\n", stderr);
        return 2;
    }
    o->url = argv[optind];
    return 0;
}

int main(int argc, char **argv)
{
    struct link_options o = {
            .connect_timeout_ms = LINK_CONNECT_TIMEOUT_MS, .ping_interval_ms = LINK_PING_INTERVAL_MS};
    int r = parse_options(argc, argv, &o);
    if (r == 1)
        return LINK_EXIT_OK;
    if (r == 2) {
        usage(stderr);
        return LINK_EXIT_USAGE;
    }
    r = sandbox_enter();
    if (r < 0) {
        (void)fprintf(stderr, "e2eed-link-ws: cannot give up privileges: %s\n", strerror(-r));
        return LINK_EXIT_SOFTWARE;
    }
    /* The leak checker of instrumented builds cannot trace a process that is not dumpable. */
    _exit((int)link_run(&o));
}
