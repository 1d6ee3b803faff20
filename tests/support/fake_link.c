/*
 * e2eed-link-fake: a link program that behaves as the path of its URL says, well or badly.
 */
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base.h"
#include "linkmsg.h"

static uint8_t packet[LINK_MAX_PACKET + 16];

static void send_bytes(const void *p, size_t n)
{
    if (send(LINK_FD, p, n, MSG_NOSIGNAL) < 0)
        _exit(1);
}

static void send_buf(struct buf *b)
{
    send_bytes(b->data, b->len);
    buf_done(b);
}

static void send_connected(const char *host)
{
    struct link_connected m = {.host = {.p = (const uint8_t *)host, .n = strlen(host)}};
    struct buf b;
    buf_init(&b, LINK_MAX_PACKET);
    link_put_connected(&b, &m);
    send_buf(&b);
}

static void send_closed(uint16_t code, const char *reason)
{
    struct buf b;
    buf_init(&b, LINK_MAX_PACKET);
    link_put_closed(&b, code, reason);
    send_buf(&b);
}

static void nap(long ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    (void)nanosleep(&ts, NULL);
}

/* Open descriptors and variables, as one text. */
static void send_inventory(void)
{
    char text[4096] = "\x02";
    size_t n = 1;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d))
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s ", e->d_name);
    for (char **v = environ; *v && n < sizeof(text); v++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s ", *v);
    if (d)
        (void)closedir(d);
    send_bytes(text, n);
}

static void echo(bool polite)
{
    for (;;) {
        ssize_t n = recv(LINK_FD, packet, sizeof(packet), 0);
        if (n <= 0)
            _exit(0);
        if (packet[0] == LINK_PING) {
            packet[0] = LINK_PONG;
            send_bytes(packet, 1);
        } else if (packet[0] == LINK_CLOSE && polite) {
            send_closed(1000, "as asked");
            _exit(0);
        } else if (packet[0] == LINK_DATA || packet[0] == LINK_TEXT)
            send_bytes(packet, (size_t)n);
    }
}

/* Reads nothing for ms, but proves that it lives. */
static void deaf(long ms)
{
    const uint8_t pong = LINK_PONG;
    for (; ms != 0; ms = ms < 0 ? ms : ms - 10) {
        send_bytes(&pong, 1);
        nap(10);
    }
}

static void flood(void)
{
    for (;;) {
        packet[0] = LINK_DATA;
        send_bytes(packet, 1024);
    }
}

static void misbehave(const char *how)
{
    if (strcmp(how, "crash") == 0)
        (void)raise(SIGABRT);
    else if (strcmp(how, "exit3") == 0)
        _exit(3);
    else if (strcmp(how, "hang") == 0)
        for (;;)
            (void)pause();
    else if (strcmp(how, "unknown") == 0)
        send_bytes("\x7f", 1);
    else if (strcmp(how, "daemonkind") == 0)
        send_bytes("\x04", 1);
    else if (strcmp(how, "long") == 0) {
        packet[0] = LINK_DATA;
        send_bytes(packet, LINK_MAX_PACKET + 1);
    } else if (strcmp(how, "emptydata") == 0)
        send_bytes("\x01", 1);
    else if (strcmp(how, "badclosed") == 0)
        send_bytes("\x12\x01", 2);
    else if (strcmp(how, "badrtt") == 0)
        send_bytes("\x13\x01\x02\x03\x04\x05", 6);
    else if (strcmp(how, "longpong") == 0)
        send_bytes("\x14x", 2);
    else if (strcmp(how, "twice") == 0)
        send_connected("relay.test:7");
    for (;;)
        (void)pause();
}

int main(int argc, char **argv)
{
    const struct rlimit none = {0};
    const char *how = argc > 1 ? strrchr(argv[argc - 1], '/') : NULL;
    how = how ? how + 1 : "echo";
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)setrlimit(RLIMIT_CORE, &none);
    if (strcmp(how, "mute") == 0)
        echo(true);
    if (strcmp(how, "early") == 0)
        send_bytes("\x01hello", 6);
    if (strcmp(how, "busy") == 0) {
        send_closed(1013, "busy\x1b[31m");
        return 0;
    }
    send_connected(strcmp(how, "otherhost") == 0 ? "evil.test:7" : "relay.test:7");
    if (strcmp(how, "inventory") == 0)
        send_inventory();
    if (strcmp(how, "rtt") == 0)
        send_bytes("\x13\x39\x30\x00\x00", 5);
    if (strcmp(how, "slow") == 0)
        deaf(300);
    if (strcmp(how, "deaf") == 0)
        deaf(-1);
    if (strcmp(how, "flood") == 0)
        flood();
    if (strcmp(how, "echo") == 0 || strcmp(how, "slow") == 0 || strcmp(how, "inventory") == 0 ||
            strcmp(how, "rtt") == 0)
        echo(true);
    if (strcmp(how, "stubborn") == 0)
        echo(false);
    misbehave(how);
}
