#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base.h"
#include "sandbox.h"
#include "url.h"

static const struct {
    const char *text, *host, *authority, *http_host, *path;
    bool tls, ip;
} good[] = {
        {"ws://relay.test", "relay.test", "relay.test:80", "relay.test", "/", false, false},
        {"wss://relay.test", "relay.test", "relay.test:443", "relay.test", "/", true, false},
        {"wss://relay.test:443/", "relay.test", "relay.test:443", "relay.test", "/", true, false},
        {"wss://relay.test:80/", "relay.test", "relay.test:80", "relay.test:80", "/", true, false},
        {"ws://Relay.TEST:08443/a/b?c=d&e", "relay.test", "relay.test:8443", "relay.test:8443", "/a/b?c=d&e",
                false, false},
        {"ws://relay?q", "relay", "relay:80", "relay", "/?q", false, false},
        {"ws://10.0.0.1:65535", "10.0.0.1", "10.0.0.1:65535", "10.0.0.1:65535", "/", false, true},
        {"ws://10.0.0", "10.0.0", "10.0.0:80", "10.0.0", "/", false, false},
        {"wss://[::1]", "::1", "[::1]:443", "[::1]", "/", true, true},
        {"ws://[2001:DB8:0::1]:1/", "2001:db8::1", "[2001:db8::1]:1", "[2001:db8::1]:1", "/", false, true},
        {"ws://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]", "/",
                false, true},
        {"ws://xn--bcher-kva.test/%C3%BC", "xn--bcher-kva.test", "xn--bcher-kva.test:80",
                "xn--bcher-kva.test", "/%C3%BC", false, false},
};

static void takes_urls_apart(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct url u;
        const char *why = NULL;
        print_message("%s\n", good[i].text);
        assert_int_equal(url_parse(good[i].text, &u, &why), WIRE_OK);
        assert_string_equal(u.host, good[i].host);
        assert_string_equal(u.authority, good[i].authority);
        assert_string_equal(u.http_host, good[i].http_host);
        assert_string_equal(u.path, good[i].path);
        assert_int_equal(u.tls, good[i].tls);
        assert_int_equal(u.ip, good[i].ip);
    }
}

static const struct {
    const char *text, *why;
} bad[] = {
        {"", "ws://"},
        {"ws", "ws://"},
        {"ws:/h", "ws://"},
        {"http://h/", "ws://"},
        {"WS://h/", "ws://"},
        {"ws://", "host"},
        {"ws:///path", "host"},
        {"ws://?q", "host"},
        {"ws://.h", "host"},
        {"ws://-h", "host"},
        {"ws://+run/socket", "host"},
        {"ws://a b/", "host"},
        {"ws://a%41/", "host"},
        {"ws://b\303\274cher.test/", "host"},
        {"ws://user@h/", "password"},
        {"ws://user:pass@h/", "password"},
        {"ws://h:/", "port"},
        {"ws://h:0/", "port"},
        {"ws://h:65536/", "port"},
        {"ws://h:123456/", "port"},
        {"ws://h:8x/", "port"},
        {"ws://h:-1/", "port"},
        {"ws://::1/", "host"},
        {"ws://[::1/", "brackets"},
        {"ws://[]/", "brackets"},
        {"ws://[1.2.3.4]/", "brackets"},
        {"ws://[fe80::1%eth0]/", "brackets"},
        {"ws://[::1]x/", "port"},
        {"ws://[::1]:/", "port"},
        {"ws://h/#f", "path"},
        {"ws://h#f", "path"},
        {"ws://h/a b", "path"},
        {"ws://h/\r\nX: y", "path"},
        {"ws://h/\177", "path"},
};

static void refuses_and_says_why(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct url u = {.port = 4711};
        const char *why = NULL;
        print_message("%s\n", bad[i].text);
        assert_int_equal(url_parse(bad[i].text, &u, &why), WIRE_MALFORMED);
        assert_non_null(strstr(why, bad[i].why));
        assert_int_equal(u.port, 4711);
    }
}

/* A URL with a host of `host` and a path of `path` bytes. */
static int parse_sizes(size_t host, size_t path)
{
    struct url u;
    const char *why;
    char text[2048] = "wss://";
    size_t n = strlen(text);
    memset(text + n, 'h', host);
    n += host;
    n += (size_t)snprintf(text + n, sizeof(text) - n, ":65535/");
    memset(text + n, 'p', path - 1);
    text[n + path - 1] = '\0';
    return url_parse(text, &u, &why);
}

static void bounds_every_part(void **state)
{
    (void)state;
    assert_int_equal(parse_sizes(URL_MAX_HOST, URL_MAX_PATH), WIRE_OK);
    assert_int_equal(parse_sizes(URL_MAX_HOST + 1, 1), WIRE_MALFORMED);
    assert_int_equal(parse_sizes(1, URL_MAX_PATH + 1), WIRE_MALFORMED);
}

/* The errno of opening path so, or 0. */
static int try_open(const char *path, int flags)
{
    CLEANUP_FD int fd = open(path, flags | O_CLOEXEC, 0600);
    return fd < 0 ? errno : 0;
}

/* In a child: the number of the first expectation that failed, or 0. */
static int sandboxed(void)
{
    if (try_open("/dev/null", O_RDWR) != 0)
        return 1;
    sandbox_read_only();
    if (try_open("/etc/passwd", O_RDONLY) != 0)
        return 2;
    if (try_open("/dev/null", O_WRONLY) != EACCES ||
            try_open("/tmp/e2eed-link-sandbox", O_WRONLY | O_CREAT) != EACCES)
        return 3;
    sandbox_no_files();
    return try_open("/etc/passwd", O_RDONLY) != EACCES || try_open("/", O_RDONLY | O_DIRECTORY) != EACCES ? 4
                                                                                                          : 0;
}

static void closes_the_file_system(void **state)
{
    int status;
    (void)state;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1)
        skip();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? sandboxed() : 5);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(takes_urls_apart),
            cmocka_unit_test(refuses_and_says_why),
            cmocka_unit_test(bounds_every_part),
            cmocka_unit_test(closes_the_file_system),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
