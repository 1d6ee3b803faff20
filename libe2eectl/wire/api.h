/*
 * The local API as data: every method, parameter, event and error, with the release that brought it. The daemon
 * checks requests against it, api_info and docs/API.md are printed from it, and the client library names errors by it.
 */
#ifndef E2EE_API_H
#define E2EE_API_H

#include "mp.h"

enum api_error {
    API_OK = 0,
    /* Validation: the caller must change the request. */
    API_PARSE_ERROR = 1,
    API_METHOD_NOT_FOUND = 2,
    API_INVALID_PARAMS = 3,
    API_TOO_LARGE = 4,
    API_INVALID_NAME = 5,
    /* Run time. */
    API_NO_ACCOUNT = 20,
    API_ACCOUNT_EXISTS = 21,
    API_NAME_TAKEN = 22,
    API_UNKNOWN_USER = 23,
    API_UNKNOWN_CONTACT = 24,
    API_UNKNOWN_MESSAGE = 25,
    API_NOT_CONNECTED = 26,
    API_KEY_CHANGED = 27,
    API_NOT_VERIFIED = 28,
    API_VERIFY_MISMATCH = 29,
    API_BLOCKED = 30,
    API_QUEUE_FULL = 31,
    API_RATE_LIMITED = 32,
    API_TIMEOUT = 33,
    API_RELAY_REFUSED = 34,
    API_TOKEN_REQUIRED = 35,
    API_REGISTRATION_CLOSED = 36,
    API_EXPIRED = 37,
    API_ID_CONFLICT = 38,
    API_STORAGE = 39,
    API_DISK_FULL = 40,
    API_FORBIDDEN = 41,
    API_SHUTTING_DOWN = 42,
    API_INTERNAL = 43,
};

struct api_error_info {
    enum api_error code;
    const char *name; /* "UNKNOWN_USER" */
    bool validation;  /* class 1 on the wire, else 0 */
    const char *since;
    const char *text; /* what it means and what to do */
};

enum api_type { API_STRING, API_UINT, API_BOOL, API_BYTES /* str or bin */, API_STRINGS /* array of strings */, API_MAPTYPE };

struct api_field {
    const char *name;
    enum api_type type;
    bool required;
    uint64_t max; /* UINT: greatest value; STRING, BYTES: most bytes; STRINGS: most elements */
    const char *since;
    const char *text;
};

struct api_method {
    const char *name;
    const char *since;
    const char *text;
    const struct api_field *params; /* ends with name == NULL */
    const struct api_field *result;
};

struct api_event {
    const char *name;
    const char *since;
    const char *text;
    const struct api_field *fields; /* besides seq, type, time */
};

/* Each table ends with a NULL name. */
extern const struct api_method api_methods[];
extern const struct api_event api_events[];
extern const struct api_error_info api_errors[];

const struct api_method *api_find_method(const void *name, size_t n);
const struct api_event *api_find_event(const void *name, size_t n);
const struct api_error_info *api_error_info(enum api_error code);

/*
 * Checks a request's params (the array of zero or one map) against the method. 0, or API_INVALID_PARAMS with a text that
 * names the parameter and what is allowed.
 */
#define API_MAX_TEXT 256
int api_check_params(const struct api_method *m, const struct mp_value *params, struct mp_value *ret_map,
        char ret_text[API_MAX_TEXT]) MUST_USE;

/* The whole description as one MessagePack map {version, methods, events, errors, limits}. */
void api_describe(struct buf *b);

#endif
