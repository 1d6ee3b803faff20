#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "config.h"
#include "log.h"
#include "passfile.h"

static int path_join(char *ret, size_t size, const char *dir, const char *rest)
{
    int n = snprintf(ret, size, "%s%s", dir, rest);
    return n > 0 && (size_t)n < size ? 0 : 1;
}

/* $VAR, or $HOME/fallback. */
static int xdg(const char *var, const char *fallback, char *ret, size_t size)
{
    const char *dir = getenv(var), *home = getenv("HOME");
    if (dir && dir[0] == '/')
        return path_join(ret, size, dir, "");
    if (!fallback || !home || home[0] != '/')
        return 1;
    return path_join(ret, size, home, fallback);
}

static int account_paths(struct config *c, char ret_text[CONFIG_TEXT])
{
    char dir[CONFIG_MAX_PATH], rest[128];
    if (xdg("XDG_RUNTIME_DIR", NULL, dir, sizeof(dir)))
        (void)snprintf(dir, sizeof(dir), "/run/user/%u", (unsigned)getuid());
    (void)snprintf(rest, sizeof(rest), "/e2eed/%s.sock", c->account);
    if (path_join(c->socket, sizeof(c->socket), dir, rest)) {
        (void)snprintf(ret_text, CONFIG_TEXT, "XDG_RUNTIME_DIR is too long a path");
        return 1;
    }
    (void)snprintf(rest, sizeof(rest), "/e2eed/%s", c->account);
    if (xdg("XDG_STATE_HOME", "/.local/state", dir, sizeof(dir)) ||
            path_join(c->state_dir, sizeof(c->state_dir), dir, rest)) {
        (void)snprintf(ret_text, CONFIG_TEXT,
                "neither XDG_STATE_HOME nor HOME is an absolute path: nowhere to keep the state");
        return 1;
    }
    (void)snprintf(rest, sizeof(rest), "/e2eed/%s.conf", c->account);
    if (xdg("XDG_CONFIG_HOME", "/.config", dir, sizeof(dir)) ||
            path_join(c->file, sizeof(c->file), dir, rest))
        c->file[0] = 0;
    return 0;
}

int config_defaults(struct config *c, const char *account, char ret_text[CONFIG_TEXT])
{
    const char *socket = getenv("E2EED_SOCKET");
    *c = (struct config){.log_level = LOG_LEVEL_INFO,
            .passphrase_memory_kib = PASSFILE_MEMORY_KIB,
            .engine = {.strangers = STRANGERS_ACCEPT, .receipts = true}};
    if (!user_name_ok(account, strlen(account))) {
        (void)snprintf(ret_text, CONFIG_TEXT,
                "'%.64s' is no account name: 1 to 64 characters of a-z 0-9 . _ -", account);
        return 1;
    }
    (void)snprintf(c->account, sizeof(c->account), "%s", account);
    (void)snprintf(c->engine.account, sizeof(c->engine.account), "%s", account);
    if (account_paths(c, ret_text))
        return 1;
    if (socket && socket[0])
        (void)snprintf(c->socket, sizeof(c->socket), "%s", socket);
    return 0;
}

/* --- the file --- */

struct reading {
    struct config *c;
    char *text;
};

static int bad(
        struct reading *rd, const char *section, const char *name, const char *value, const char *allowed)
{
    (void)snprintf(rd->text, CONFIG_TEXT, "%.200s: [%.32s] %.32s = '%.64s': %s", rd->c->file, section, name,
            value, allowed);
    return 0;
}

static bool set_text(char *ret, size_t size, const char *value)
{
    int n = snprintf(ret, size, "%s", value);
    return n >= 0 && (size_t)n < size;
}

static bool set_bool(bool *ret, const char *value)
{
    bool yes = !strcasecmp(value, "yes") || !strcasecmp(value, "true") || !strcmp(value, "1");
    bool no = !strcasecmp(value, "no") || !strcasecmp(value, "false") || !strcmp(value, "0");
    *ret = yes;
    return yes || no;
}

static bool set_number(uint64_t *ret, const char *value, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    if (errno || end == value || *end || value[0] == '-' || v > max)
        return false;
    *ret = v;
    return true;
}

static bool set_strangers(struct engine_config *e, const char *value)
{
    static const char *const names[] = {"accept", "hold", "refuse"};
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(value, names[i])) {
            e->strangers = (enum stranger_policy)i;
            return true;
        }
    return false;
}

static bool add_uid(struct config *c, const char *value)
{
    uint64_t uid;
    if (c->n_uids == CONFIG_MAX_UIDS || !set_number(&uid, value, UINT32_MAX - 1))
        return false;
    c->uids[c->n_uids++] = (uid_t)uid;
    return true;
}

static bool set_log(struct config *c, const char *value)
{
    static const struct {
        const char *name;
        int level;
    } levels[] = {{"error", LOG_LEVEL_ERROR}, {"warning", LOG_LEVEL_WARN}, {"notice", LOG_LEVEL_NOTICE},
            {"info", LOG_LEVEL_INFO}, {"debug", LOG_LEVEL_DEBUG}};
    for (unsigned i = 0; i < ARRAY_SIZE(levels); i++)
        if (!strcmp(value, levels[i].name)) {
            c->log_level = levels[i].level;
            return true;
        }
    return false;
}

/* "auto", "file", or "credential:NAME". */
static bool set_key(struct config *c, const char *value)
{
    static const char prefix[] = "credential:";
    const char *name = value + sizeof(prefix) - 1;
    bool named = strncmp(value, prefix, sizeof(prefix) - 1) == 0;

    c->key_from_file = strcmp(value, "file") == 0;
    c->credential[0] = 0;
    if (!named)
        return c->key_from_file || strcmp(value, "auto") == 0;
    return name[0] && name[0] != '.' && !strchr(name, '/') &&
           set_text(c->credential, sizeof(c->credential), name);
}

static bool set_memory(struct config *c, const char *value)
{
    uint64_t mib;

    if (!set_number(&mib, value, PASSFILE_MAX_MEMORY_KIB / 1024) || mib < PASSFILE_MIN_MEMORY_KIB / 1024)
        return false;
    c->passphrase_memory_kib = (uint32_t)mib * 1024;
    return true;
}

static int setting(void *user, const char *section, const char *name, const char *value)
{
    struct reading *rd = user;
    struct config *c = rd->c;
#define IS(s, n) (!strcmp(section, s) && !strcmp(name, n))
    if (IS("account", "strangers"))
        return set_strangers(&c->engine, value)
                       ? 1
                       : bad(rd, section, name, value, "allowed: accept, hold, refuse");
    if (IS("account", "receipts"))
        return set_bool(&c->engine.receipts, value) ? 1 : bad(rd, section, name, value, "allowed: yes, no");
    if (IS("relay", "require_tls"))
        return set_bool(&c->engine.require_tls, value) ? 1
                                                       : bad(rd, section, name, value, "allowed: yes, no");
    if (IS("relay", "ca_file"))
        return set_text(c->ca_file, sizeof(c->ca_file), value)
                       ? 1
                       : bad(rd, section, name, value, "too long a path");
    if (IS("events", "keep"))
        return set_number(&c->engine.max_events, value, 100000000) && c->engine.max_events
                       ? 1
                       : bad(rd, section, name, value, "allowed: 1 to 100000000");
    if (IS("local", "socket"))
        return getenv("E2EED_SOCKET") || set_text(c->socket, sizeof(c->socket), value)
                       ? 1
                       : bad(rd, section, name, value, "too long a path");
    if (IS("local", "allow_uid"))
        return add_uid(c, value) ? 1 : bad(rd, section, name, value, "allowed: at most 16 numbers of users");
    if (IS("storage", "directory"))
        return set_text(c->state_dir, sizeof(c->state_dir), value)
                       ? 1
                       : bad(rd, section, name, value, "too long a path");
    if (IS("storage", "key_file"))
        return set_text(c->key_file, sizeof(c->key_file), value)
                       ? 1
                       : bad(rd, section, name, value, "too long a path");
    if (IS("storage", "key"))
        return set_key(c, value) ? 1
                                 : bad(rd, section, name, value,
                                           "allowed: auto, file, or credential:NAME with a name of at most "
                                           "64 characters, "
                                           "no slash, no dot in front");
    if (IS("storage", "passphrase_memory"))
        return set_memory(c, value) ? 1 : bad(rd, section, name, value, "allowed: 8 to 512 (MiB)");
    if (IS("daemon", "link_directory"))
        return set_text(c->link_dir, sizeof(c->link_dir), value)
                       ? 1
                       : bad(rd, section, name, value, "too long a path");
    if (IS("daemon", "log"))
        return set_log(c, value)
                       ? 1
                       : bad(rd, section, name, value, "allowed: error, warning, notice, info, debug");
#undef IS
    return bad(rd, section, name, value,
            "unknown setting; allowed: [account] strangers receipts, [relay] require_tls ca_file, [events] "
            "keep, [local] socket allow_uid, "
            "[storage] directory key_file key passphrase_memory, [daemon] link_directory log");
}

int config_read(struct config *c, char ret_text[CONFIG_TEXT])
{
    struct reading rd = {.c = c, .text = ret_text};
    int r;
    ret_text[0] = 0;
    if (!c->file[0] || (!c->file_named && access(c->file, F_OK) != 0))
        return 0;
    r = ini_parse(c->file, setting, &rd);
    if (r < 0)
        (void)snprintf(ret_text, CONFIG_TEXT, "%.200s: %s", c->file, strerror(errno));
    else if (r > 0 && !ret_text[0])
        (void)snprintf(
                ret_text, CONFIG_TEXT, "%.200s: line %d is no 'name = value' below a [section]", c->file, r);
    return r != 0 || ret_text[0];
}
