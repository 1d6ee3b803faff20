/*
 * MessagePack, checked. The sole user of msgpack-c.
 *
 * Reading: a walk that allocates nothing bounds every length by the bytes present and the depth by
 * MP_MAX_DEPTH before anything else looks at the bytes. After it, values are read in place through struct
 * mp_value, a view of one encoded value inside the caller's bytes. Only the types of JSON plus bin: extension
 * types, non-string map keys and integers beyond ±2^53 are refused, and so are a duplicate key, a map of more
 * than MP_MAX_PAIRS and a number that is not finite. Strings may hold any byte: whoever needs UTF-8 checks it
 * (text.h).
 *
 * Writing: straight into a struct buf, sticky error there.
 */
#ifndef E2EE_MP_H
#define E2EE_MP_H

#include "buf.h"

#define MP_MAX_DEPTH 16
#define MP_MAX_PAIRS 256
#define MP_MAX_INT (INT64_C(1) << 53)

enum mp_type { MP_NIL, MP_BOOL, MP_INT, MP_FLOAT, MP_STR, MP_BIN, MP_ARRAY, MP_MAP };

struct mp_value {
    enum mp_type type;
    bool boolean;
    int64_t integer;
    double number;
    const uint8_t *bytes; /* STR, BIN: contents; ARRAY, MAP: the first element, encoded */
    uint32_t count;       /* STR, BIN: bytes; ARRAY: elements; MAP: pairs */
    const uint8_t *raw;   /* the whole encoded value */
    size_t raw_len;
};

/*
 * Length of the one value at p, its checks made. WIRE_OK; WIRE_INCOMPLETE if p ends inside it (and what is
 * there could still become a value of at most max bytes); WIRE_MALFORMED otherwise, with a short reason for
 * people in *ret_why (a string constant). With WIRE_INCOMPLETE *ret_len is the fewest bytes that the value
 * can have in all, more than n: who waits for that many before asking again spends O(n) on a value however
 * small the pieces it comes in. O(n log MP_MAX_PAIRS), no recursion, no allocation, 70 KiB of stack.
 */
int mp_measure(const void *p, size_t n, size_t max, size_t *ret_len, const char **ret_why) MUST_USE;

/* Views the value at p, which has passed mp_measure(). */
void mp_view(const void *p, size_t n, struct mp_value *ret_value);

/* Steps over the elements of an array or the pairs of a map: `while (mp_next(&it, &key, &value))`. key may be
 * NULL for arrays. */
struct mp_iter {
    const uint8_t *p;
    const uint8_t *end;
    uint32_t left;
    bool map;
};
void mp_iter_init(struct mp_iter *it, const struct mp_value *container);
bool mp_next(struct mp_iter *it, struct mp_value *ret_key, struct mp_value *ret_value);
/* The value under key; false if the map has none (or is no map). */
bool mp_map_get(const struct mp_value *map, const char *key, struct mp_value *ret_value);
bool mp_str_eq(const struct mp_value *v, const char *s);
/* "nil", "boolean", "integer", "number", "string", "binary", "array", "map": for error texts. */
const char *mp_type_name(enum mp_type type);

void mp_put_nil(struct buf *b);
void mp_put_bool(struct buf *b, bool v);
void mp_put_int(struct buf *b, int64_t v);
void mp_put_uint(struct buf *b, uint64_t v);
void mp_put_double(struct buf *b, double v);
void mp_put_str(struct buf *b, const char *s);
void mp_put_strn(struct buf *b, const void *s, size_t n);
void mp_put_bin(struct buf *b, const void *p, size_t n);
void mp_put_array(struct buf *b, uint32_t elements);
void mp_put_map(struct buf *b, uint32_t pairs);
/* An encoded value as it is. */
void mp_put_raw(struct buf *b, const void *p, size_t n);

/* A map whose number of pairs is known only at the end: always the map32 form, patched by mp_map_end(). */
struct mp_map {
    struct buf *b;
    size_t at;
    uint32_t pairs;
};
void mp_map_begin(struct mp_map *m, struct buf *b);
/* Writes the key and counts the pair; the caller then writes the value. Returns m->b. */
struct buf *mp_key(struct mp_map *m, const char *key);
void mp_map_end(struct mp_map *m);

/*
 * JSON text (UTF-8, RFC 8259) to MessagePack and back; depth, pairs and integers bounded as above, duplicate
 * keys refused. Bytes are {"base64": "…"} (RFC 4648, padded) in JSON, both ways: an object with this one
 * member is bytes. Strings that are no UTF-8 get U+FFFD on the way out. WIRE_OK, WIRE_MALFORMED with a reason
 * (a string constant), or the negative error of b; b holds then a part of the value.
 */
int mp_from_json(struct buf *b, const char *json, size_t n, const char **ret_why) MUST_USE;
void mp_to_json(struct buf *out, const struct mp_value *v);

#endif
