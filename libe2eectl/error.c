#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "text.h"

#define SAME_CODE(name)                                                                                      \
    static_assert((int)E2EECTL_ERR_##name == (int)API_##name, "codes of the API are the library's")
SAME_CODE(PARSE_ERROR);
SAME_CODE(METHOD_NOT_FOUND);
SAME_CODE(INVALID_PARAMS);
SAME_CODE(TOO_LARGE);
SAME_CODE(INVALID_NAME);
SAME_CODE(NO_ACCOUNT);
SAME_CODE(ACCOUNT_EXISTS);
SAME_CODE(NAME_TAKEN);
SAME_CODE(UNKNOWN_USER);
SAME_CODE(UNKNOWN_CONTACT);
SAME_CODE(UNKNOWN_MESSAGE);
SAME_CODE(NOT_CONNECTED);
SAME_CODE(KEY_CHANGED);
SAME_CODE(NOT_VERIFIED);
SAME_CODE(VERIFY_MISMATCH);
SAME_CODE(BLOCKED);
SAME_CODE(QUEUE_FULL);
SAME_CODE(RATE_LIMITED);
SAME_CODE(TIMEOUT);
SAME_CODE(RELAY_REFUSED);
SAME_CODE(TOKEN_REQUIRED);
SAME_CODE(REGISTRATION_CLOSED);
SAME_CODE(EXPIRED);
SAME_CODE(ID_CONFLICT);
SAME_CODE(STORAGE);
SAME_CODE(DISK_FULL);
SAME_CODE(FORBIDDEN);
SAME_CODE(SHUTTING_DOWN);
SAME_CODE(INTERNAL);
SAME_CODE(LOCKED);
SAME_CODE(WRONG_PASSPHRASE);
static_assert(E2EECTL_MAX_BODY == API_MAX_PAYLOAD, "the API's limits are the library's");
static_assert(E2EECTL_MAX_MESSAGE == RPC_MAX_MESSAGE, "the API's limits are the library's");
static_assert(E2EECTL_ID_SIZE > API_MAX_NAME, "the API's limits are the library's");

static const struct {
    int code;
    const char *name;
} local_names[] = {
        {-E2BIG, "E2BIG"},
        {-EBADMSG, "EBADMSG"},
        {-ECANCELED, "ECANCELED"},
        {-ECONNRESET, "ECONNRESET"},
        {-EDEADLK, "EDEADLK"},
        {-EEXIST, "EEXIST"},
        {-EILSEQ, "EILSEQ"},
        {-EINVAL, "EINVAL"},
        {-EMSGSIZE, "EMSGSIZE"},
        {-ENOBUFS, "ENOBUFS"},
        {-ENOMEM, "ENOMEM"},
        {-ERANGE, "ERANGE"},
        {-ETIMEDOUT, "ETIMEDOUT"},
};

static const char *local_name(int code)
{
    for (size_t i = 0; i < sizeof(local_names) / sizeof(local_names[0]); i++) {
        if (local_names[i].code == code)
            return local_names[i].name;
    }
    return "SYSTEM";
}

const char *e2eectl_error_name(int code)
{
    const struct api_error_info *info = code > 0 ? api_error_info((enum api_error)code) : NULL;

    if (code < 0)
        return local_name(code);
    return info ? info->name : "";
}

const char *e2eectl_error_text(int code)
{
    const struct api_error_info *info = code > 0 ? api_error_info((enum api_error)code) : NULL;

    if (code == 0)
        return "";
    if (code < 0) {
        const char *text = strerrordesc_np(-code);
        return text ? text : "unknown error";
    }
    return info ? info->text : "an error that this release of the library does not know";
}

void error_clear(struct error *e)
{
    e2eectl_value_free(e->data);
    *e = (struct error){.data = NULL};
    e->shown.name = e->name;
    e->shown.message = e->text;
}

void error_move(struct error *to, struct error *from)
{
    error_clear(to);
    *to = *from;
    to->shown.name = to->name;
    to->shown.message = to->text;
    from->data = NULL;
    error_clear(from);
}

int error_set(struct error *e, int code, const char *fmt, ...)
{
    char text[ERROR_MAX_TEXT];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    error_clear(e);
    e->shown.code = code;
    (void)snprintf(e->name, sizeof(e->name), "%s", e2eectl_error_name(code));
    memcpy(e->text, text, sizeof(text));
    return code;
}

static void copy_text(char *to, size_t room, const uint8_t *from, size_t n)
{
    if (n >= room) {
        n = room - 1;
        while (n > 0 && (from[n] & 0xc0) == 0x80)
            n--;
    }
    if (n > 0)
        memcpy(to, from, n);
    to[n] = '\0';
}

static int code_of_name(const char *name)
{
    for (const struct api_error_info *info = api_errors; info->name; info++) {
        if (strcmp(info->name, name) == 0)
            return (int)info->code;
    }
    return E2EECTL_ERR_INTERNAL;
}

/* "NAME: text", or a text without a name. */
static void read_line(struct error *e, const struct mp_value *line)
{
    const uint8_t *p = line->bytes;
    size_t n = 0;

    while (n < line->count && ((p[n] >= 'A' && p[n] <= 'Z') || p[n] == '_'))
        n++;
    if (n > 0 && n < line->count && p[n] == ':') {
        copy_text(e->name, sizeof(e->name), p, n);
        n++;
        if (n < line->count && p[n] == ' ')
            n++;
    } else {
        n = 0;
    }
    copy_text(e->text, sizeof(e->text), p + n, line->count - n);
    e->shown.code = code_of_name(e->name);
}

static void read_map(struct error *e, const struct mp_value *map)
{
    struct mp_value v;
    size_t size;

    if (mp_map_get(map, "name", &v) && v.type == MP_STR)
        copy_text(e->name, sizeof(e->name), v.bytes, v.count);
    if (mp_map_get(map, "message", &v) && v.type == MP_STR)
        copy_text(e->text, sizeof(e->text), v.bytes, v.count);
    if (mp_map_get(map, "code", &v) && v.type == MP_INT && v.integer > 0 && v.integer <= INT32_MAX)
        e->shown.code = (int)v.integer;
    else
        e->shown.code = code_of_name(e->name);
    if (mp_map_get(map, "retry_after_ms", &v) && v.type == MP_INT && v.integer > 0)
        e->shown.retry_after_ms = v.integer > UINT32_MAX ? UINT32_MAX : (uint32_t)v.integer;
    if (mp_map_get(map, "data", &v) && value_new(&v, &e->data, &size) == 0)
        e->shown.data = e->data;
}

static void read_array(struct error *e, const struct mp_value *array)
{
    struct mp_iter it;
    struct mp_value v;

    mp_iter_init(&it, array);
    while (mp_next(&it, NULL, &v)) {
        if (v.type == MP_STR) {
            read_line(e, &v);
            return;
        }
    }
}

int error_from_reply(struct error *e, const struct mp_value *reply)
{
    error_clear(e);
    if (reply->type == MP_MAP)
        read_map(e, reply);
    else if (reply->type == MP_ARRAY)
        read_array(e, reply);
    else if (reply->type == MP_STR)
        read_line(e, reply);
    if (e->shown.code <= 0)
        e->shown.code = E2EECTL_ERR_INTERNAL;
    if (!e->name[0])
        (void)snprintf(e->name, sizeof(e->name), "%s", e2eectl_error_name(e->shown.code));
    if (!e->text[0])
        (void)snprintf(e->text, sizeof(e->text), "%s", e2eectl_error_text(e->shown.code));
    return e->shown.code;
}

const struct e2eectl_error *e2eectl_last_error(const struct e2eectl *h)
{
    return &h->error.shown;
}
