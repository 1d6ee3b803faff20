#include <errno.h>
#include <limits.h>
#include <string.h>

#include "client.h"

/* Where the daemon keeps the time, its answer may take a little longer. */
#define ANSWER_SLACK_MS 5000

int options_copy(void *to, size_t to_size, const void *from)
{
    size_t size;

    memset(to, 0, to_size);
    if (!from)
        return 0;
    memcpy(&size, from, sizeof(size));
    if (size < sizeof(size))
        return -EINVAL;
    for (size_t i = to_size; i < size; i++) {
        if (((const unsigned char *)from)[i] != 0)
            return -E2BIG;
    }
    memcpy(to, from, size < to_size ? size : to_size);
    return 0;
}

int e2eectl_status(struct e2eectl *h, struct e2eectl_value **ret_status)
{
    return e2eectl_call(h, "status", NULL, h->timeout_ms, ret_status);
}

/* The longest time that the daemon takes for this method in one call. */
static int longest(const char *method)
{
    const struct api_method *m = api_find_method(method, strlen(method));

    for (const struct api_field *f = m ? m->params : NULL; f && f->name; f++) {
        if (strcmp(f->name, "timeout_ms") == 0 && f->max > 0 && f->max < INT_MAX - ANSWER_SLACK_MS)
            return (int)f->max;
    }
    return INT_MAX - ANSWER_SLACK_MS;
}

/* A call whose time the daemon keeps. timeout_ms is at most longest(method). */
static int timed_call(struct e2eectl *h, const char *method, struct e2eectl_params *p, int timeout_ms,
        struct e2eectl_value **ret_value)
{
    e2eectl_params_int(p, "timeout_ms", timeout_ms);
    return e2eectl_call(h, method, p, timeout_ms + ANSWER_SLACK_MS, ret_value);
}

int e2eectl_create_account(struct e2eectl *h, const char *user, const char *relay_url, const char *token,
        struct e2eectl_value **ret_account)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();
    int limit = longest("account.create");

    e2eectl_params_string(p, "user", user);
    e2eectl_params_string(p, "relay", relay_url);
    e2eectl_params_string(p, "token", token);
    if (h->timeout_ms >= 0 && h->timeout_ms < limit)
        limit = h->timeout_ms;
    return timed_call(h, "account.create", p, limit, ret_account);
}

static int check_send(struct e2eectl *h, const struct e2eectl_send_options *o)
{
    if (!o->to)
        return error_set(&h->error, -EINVAL, "a message needs a recipient");
    if (!o->text == !o->bytes)
        return error_set(&h->error, -EINVAL, "a message has either text or bytes");
    if ((int)o->qos < 0 || o->qos > E2EECTL_QOS_EXACTLY_ONCE)
        return error_set(&h->error, -EINVAL, "unknown qos %d", (int)o->qos);
    if (o->ttl_ms > MP_MAX_INT || o->not_before_ms > MP_MAX_INT)
        return error_set(&h->error, -ERANGE, "a time is out of range");
    return 0;
}

static void put_send(struct e2eectl_params *p, const struct e2eectl_send_options *o)
{
    e2eectl_params_string(p, "to", o->to);
    if (o->text)
        e2eectl_params_text(p, "text", o->text, o->text_len ? o->text_len : strlen(o->text));
    else
        e2eectl_params_bytes(p, "bytes", o->bytes, o->bytes_len);
    e2eectl_params_string(p, "id", o->id);
    if (o->qos != E2EECTL_QOS_DEFAULT)
        e2eectl_params_int(p, "qos", (int64_t)o->qos - E2EECTL_QOS_NOT_STORED);
    if (o->ttl_ms > 0)
        e2eectl_params_int(p, "ttl_ms", (int64_t)o->ttl_ms);
    if (o->not_before_ms > 0)
        e2eectl_params_int(p, "not_before", (int64_t)o->not_before_ms);
    if (o->require_verified)
        e2eectl_params_bool(p, "require_verified", true);
}

int e2eectl_send(struct e2eectl *h, const struct e2eectl_send_options *options, char ret_id[E2EECTL_ID_SIZE],
        uint64_t *ret_seq)
{
    struct e2eectl_send_options o;
    CLEANUP_PARAMS struct e2eectl_params *p = NULL;
    CLEANUP_VALUE struct e2eectl_value *sent = NULL;
    const char *id;
    int r = options_copy(&o, sizeof(o), options);

    if (r)
        return error_set(&h->error, r,
                "the options are not valid: set size to sizeof, and no members that this release does not "
                "know");
    r = check_send(h, &o);
    if (r)
        return r;
    p = e2eectl_params_new();
    put_send(p, &o);
    r = e2eectl_call(h, "send", p, h->timeout_ms, &sent);
    if (r)
        return r;
    id = e2eectl_get_string(sent, "id");
    if (!id || strlen(id) >= E2EECTL_ID_SIZE)
        return error_set(&h->error, -EBADMSG, "the daemon's answer to send has no id");
    if (ret_id)
        memcpy(ret_id, id, strlen(id) + 1);
    if (ret_seq)
        *ret_seq = (uint64_t)e2eectl_get_int(sent, "seq", 0);
    return 0;
}

int e2eectl_wait(struct e2eectl *h, const char *id, const char *until, int timeout_ms,
        struct e2eectl_value **ret_state)
{
    int left = timeout_ms, limit = longest("wait"), r;

    do {
        CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();
        int step = left < 0 || left > limit ? limit : left;

        e2eectl_params_string(p, "id", id);
        e2eectl_params_string(p, "until", until);
        r = timed_call(h, "wait", p, step, ret_state);
        if (left > 0)
            left -= step;
    } while (r == E2EECTL_ERR_TIMEOUT && left != 0);
    return r;
}

int e2eectl_read(struct e2eectl *h, const char *from, const char *const *ids, size_t n)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "from", from);
    e2eectl_params_strings(p, "ids", ids, n);
    return e2eectl_call(h, "read", p, h->timeout_ms, NULL);
}

static int contact(struct e2eectl *h, const char *method, const char *user, struct e2eectl_value **ret_value)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "user", user);
    return e2eectl_call(h, method, p, h->timeout_ms, ret_value);
}

int e2eectl_contact_list(struct e2eectl *h, struct e2eectl_value **ret_contacts)
{
    return e2eectl_call(h, "contact.list", NULL, h->timeout_ms, ret_contacts);
}

int e2eectl_contact_show(struct e2eectl *h, const char *user, struct e2eectl_value **ret_contact)
{
    return contact(h, "contact.show", user, ret_contact);
}

int e2eectl_contact_add(
        struct e2eectl *h, const char *user, const char *uid, struct e2eectl_value **ret_contact)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "user", user);
    e2eectl_params_string(p, "uid", uid);
    return e2eectl_call(h, "contact.add", p, h->timeout_ms, ret_contact);
}

int e2eectl_contact_verify(struct e2eectl *h, const char *user, const char *safety_number)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "user", user);
    e2eectl_params_string(p, "number", safety_number);
    return e2eectl_call(h, "contact.verify", p, h->timeout_ms, NULL);
}

int e2eectl_contact_trust(struct e2eectl *h, const char *user, const char *new_uid, const char *policy)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "user", user);
    e2eectl_params_string(p, "uid", new_uid);
    e2eectl_params_string(p, "policy", policy);
    return e2eectl_call(h, "contact.trust", p, h->timeout_ms, NULL);
}

int e2eectl_contact_block(struct e2eectl *h, const char *user, bool blocked)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "user", user);
    e2eectl_params_bool(p, "blocked", blocked);
    return e2eectl_call(h, "contact.block", p, h->timeout_ms, NULL);
}

int e2eectl_contact_remove(struct e2eectl *h, const char *user)
{
    return contact(h, "contact.remove", user, NULL);
}

int e2eectl_users(struct e2eectl *h, const char *after, uint32_t limit, struct e2eectl_value **ret_users)
{
    CLEANUP_PARAMS struct e2eectl_params *p = e2eectl_params_new();

    e2eectl_params_string(p, "after", after);
    if (limit > 0)
        e2eectl_params_int(p, "limit", limit);
    return e2eectl_call(h, "users", p, h->timeout_ms, ret_users);
}
