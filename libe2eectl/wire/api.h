/*
 * The local API as data: every method, parameter, event and error, with the release that brought it. The
 * daemon checks requests against it, api_info and docs/API.md are printed from it, and the client library
 * names errors by it.
 */
#ifndef E2EE_API_H
#define E2EE_API_H

#include "mp.h"

#define API_VERSION 1
#define API_MAX_PAYLOAD 65536u /* bytes of text or bytes in one message */
#define API_MAX_NAME 64u       /* user names, caller's ids, consumers */
#define API_MAX_RELAY_URL 512u
#define API_MAX_TOKEN 128u
#define API_MAX_PASSPHRASE 1024u
#define API_MAX_NUMBER 80u /* a safety number with its separators */
#define API_MAX_IDS 256u
#define API_MAX_TYPES 32u
#define API_MAX_LIMIT 500u
#define API_MAX_TTL_MS (UINT64_C(30) * 86400000)
#define API_MAX_TIMEOUT_MS UINT64_C(86400000)

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
    API_LOCKED = 44,
    API_WRONG_PASSPHRASE = 45,
};

struct api_error_info {
    enum api_error code;
    const char *name; /* "UNKNOWN_USER" */
    bool validation;  /* class 1 on the wire, else 0 */
    const char *since;
    const char *text; /* what it means and what to do */
};

enum api_type {
    API_STRING, /* UTF-8 */
    API_UINT,
    API_BOOL,
    API_BYTES,   /* str or bin, any bytes */
    API_STRINGS, /* array of strings of 1 to API_MAX_NAME bytes */
    API_MAPTYPE,
    API_MAPS, /* array of maps; in results only */
};

struct api_field {
    const char *name;
    enum api_type type;
    bool required;
    uint64_t max; /* UINT: greatest value; STRING, BYTES: most bytes; STRINGS: most elements; 0 in results:
                     not stated */
    const char *since;
    const char *text;
    const char *const
            *choices; /* NULL, or the strings allowed (STRING, and each of STRINGS); ends with NULL */
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

struct api_limit {
    const char *name;
    uint64_t value;
    const char *text;
};

/* Each table ends with a NULL name. */
extern const struct api_method api_methods[];
extern const struct api_event api_events[];
extern const struct api_error_info api_errors[];
extern const struct api_limit api_limits[];

const struct api_method *api_find_method(const void *name, size_t n);
const struct api_event *api_find_event(const void *name, size_t n);
/* NULL for API_OK and for numbers that are no error. */
const struct api_error_info *api_error_info(enum api_error code);

/*
 * Checks a request's params ([], [nil] and nil are no parameters, [map] is the rest) against the method. 0
 * with the map (an empty one where there is none), or API_INVALID_PARAMS with a text that names the parameter
 * and what is allowed. After 0 each parameter that is in the map has the type, size and choice that the table
 * says. What several parameters must be together (exactly one of text and bytes) is for the handler to check.
 * Allocates nothing.
 */
#define API_MAX_TEXT 256
int api_check_params(const struct api_method *m, const struct mp_value *params, struct mp_value *ret_map,
        char ret_text[API_MAX_TEXT]) MUST_USE;

/* "string", "integer", "boolean", "bytes", "array of strings", "map", "array of maps" */
const char *api_type_name(enum api_type type);

/* The whole description as one MessagePack map {version, api, methods, events, errors, limits}. */
void api_describe(struct buf *b);
/* docs/API.md, all of it, from the same tables. */
void api_markdown(struct buf *out);

#endif
