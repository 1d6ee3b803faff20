/*
 * Reads published test-vector files (Project Wycheproof and the like) without a JSON library. Trusts its
 * input as far as syntax goes: on text that is not JSON the look-ups find nothing, but never leave the text.
 *
 *     struct json_vectors v;
 *     if (!json_vectors_open(&v, "x25519_test.json"))
 *         skip();
 *     while (json_vectors_next(&v)) {
 *         size_t n;
 *         uint8_t *key = json_hex(v.test, "private", &n);
 *         bool valid = json_is(v.test, "result", "valid");
 *         …
 *         free(key);
 *     }
 *     json_vectors_close(&v);
 */
#ifndef E2EE_JSON_VECTORS_H
#define E2EE_JSON_VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The text of one JSON value inside a larger one, from its first byte up to `end`; begin == NULL is no value.
 * It lives as long as that text. */
struct json {
    const char *begin, *end;
};

struct json json_parse(const char *text, size_t n);
/* The member of an object; no value where there is none or `object` is no object. */
struct json json_member(struct json object, const char *key);
/* Steps through an array: start with *element = {0}; false at the end, with *element as at the start. */
bool json_next(struct json array, struct json *element);

/* A string member, decoded, NUL-terminated, to be freed by the caller; NULL where there is none. */
char *json_string(struct json object, const char *key);
/* A string member that is hex, decoded, to be freed by the caller (never NULL, even for length 0); NULL where
 * there is none or it is no hex. */
uint8_t *json_hex(struct json object, const char *key, size_t *ret_n);
/* The same into a buffer; true only when the member is there and exactly n bytes long. */
bool json_hex_exact(struct json object, const char *key, uint8_t *ret, size_t n);
/* True when a string member is there and equals `value`. */
bool json_is(struct json object, const char *key, const char *value);
/* True when an array member holds the string `value`, as for "flags". */
bool json_has(struct json object, const char *key, const char *value);
/* A number or boolean member, or `fallback`. */
long json_int(struct json object, const char *key, long fallback);
bool json_bool(struct json object, const char *key, bool fallback);

/* Hex text of exactly 2n digits into n bytes. */
bool hex_decode(const char *hex, size_t digits, uint8_t *ret);

/* A file of the directory named by the environment variable E2EED_VECTORS. `group` and `test` are for
 * reading. */
struct json_vectors {
    char *text;
    struct json groups, group, test;
};
/* False where E2EED_VECTORS is not set, after a message on standard error: the test is then to be skipped. A
 * file that is missing or has no test is an error and ends the process. The file's content is either an
 * object whose member "testGroups" holds groups with "tests", or a plain array of tests (then `group` is that
 * array). */
bool json_vectors_open(struct json_vectors *ret, const char *file);
bool json_vectors_next(struct json_vectors *v);
void json_vectors_close(struct json_vectors *v);

/* The whole of a file of that directory, NUL-terminated, to be freed; NULL where E2EED_VECTORS is not set. */
char *vectors_read(const char *file, size_t *ret_n);

#endif
