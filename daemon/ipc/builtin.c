#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "log.h"

#define NEAREST 3u

static bool set_errors(struct ipc_client *c, const struct mp_value *wish)
{
    if (mp_str_eq(wish, "array"))
        c->errors = ERRORS_ARRAY;
    else if (mp_str_eq(wish, "map"))
        c->errors = ERRORS_MAP;
    else if (mp_str_eq(wish, "string"))
        c->errors = ERRORS_STRING;
    else
        return false;
    return true;
}

/* What a caller wrote, fit for a terminal. */
static void printable(char shown[RPC_MAX_METHOD + 1], const uint8_t *p, size_t n)
{
    if (n > RPC_MAX_METHOD)
        n = RPC_MAX_METHOD;
    for (size_t i = 0; i < n; i++)
        shown[i] = p[i] >= 0x20 && p[i] < 0x7f ? (char)p[i] : '?';
    shown[n] = '\0';
}

static void hello(struct ipc_client *c, uint32_t msgid, const struct mp_value *params)
{
    CLEANUP_BUF struct buf b = {0};
    char client[RPC_MAX_METHOD + 1];
    struct mp_value v;
    struct mp_map m;

    buf_init(&b, RPC_MAX_MESSAGE);
    if (mp_map_get(params, "errors", &v) && !set_errors(c, &v)) {
        request_refuse(c, msgid, API_INVALID_PARAMS, 0, "errors is \"array\", \"map\" or \"string\"");
        return;
    }
    if (mp_map_get(params, "client", &v)) {
        printable(client, v.bytes, v.count);
        log_debug("ipc-hello", "client %s of uid %ld", client, (long)(int)c->uid);
    }
    mp_map_begin(&m, &b);
    mp_put_str(mp_key(&m, "version"), E2EED_VERSION);
    mp_put_uint(mp_key(&m, "api"), API_VERSION);
    mp_put_str(mp_key(&m, "account"), c->ipc->account);
    mp_map_end(&m);
    request_answer(c, msgid, &b);
}

static void api_info(struct ipc_client *c, uint32_t msgid)
{
    CLEANUP_BUF struct buf b = {0};

    buf_init(&b, RPC_MAX_MESSAGE);
    api_describe(&b);
    request_answer(c, msgid, &b);
}

bool builtin_call(
        struct ipc_client *c, uint32_t msgid, const struct api_method *m, const struct mp_value *params)
{
    if (strcmp(m->name, "hello") == 0)
        hello(c, msgid, params);
    else if (strcmp(m->name, "api_info") == 0)
        api_info(c, msgid);
    else
        return false;
    return true;
}

/* Levenshtein distance of a, na bytes, and b; both at most RPC_MAX_METHOD long. */
static size_t distance(const uint8_t *a, size_t na, const char *b)
{
    size_t nb = strlen(b), row[RPC_MAX_METHOD + 1], diagonal, up, best;

    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            up = row[j];
            best = diagonal + (a[i - 1] != (uint8_t)b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diagonal = up;
        }
    }
    return row[nb];
}

struct candidate {
    const char *name;
    size_t distance;
};

/* The nearest method names, nearest first. */
static size_t find_nearest(const uint8_t *name, size_t n, struct candidate best[NEAREST])
{
    struct candidate x;
    size_t found = 0, at, limit = 1 + n / 3;

    for (const struct api_method *m = api_methods; m->name; m++) {
        if (strlen(m->name) > RPC_MAX_METHOD)
            continue;
        x = (struct candidate){.name = m->name, .distance = distance(name, n, m->name)};
        if (x.distance > limit)
            continue;
        for (at = found; at > 0 && best[at - 1].distance > x.distance; at--)
            if (at < NEAREST)
                best[at] = best[at - 1];
        if (at < NEAREST)
            best[at] = x;
        if (found < NEAREST)
            found++;
    }
    return found;
}

static size_t append(char *text, size_t size, size_t at, const char *a, const char *b)
{
    int n = at < size ? snprintf(text + at, size - at, "%s%s", a, b) : 0;

    return at + (n > 0 ? (size_t)n : 0);
}

void unknown_method_text(char *text, size_t size, const void *name, size_t n)
{
    struct candidate best[NEAREST];
    char shown[RPC_MAX_METHOD + 1];
    size_t found, at;

    if (n > RPC_MAX_METHOD)
        n = RPC_MAX_METHOD;
    printable(shown, name, n);
    found = find_nearest(name, n, best);
    at = append(text, size, 0, "unknown method ", shown);
    for (size_t i = 0; i < found; i++)
        at = append(text, size, at, i == 0 ? "; nearest: " : ", ", best[i].name);
    (void)append(text, size, at, "; api_info lists all methods", "");
}
