#include "mp.h"

#include <msgpack.h>
#include <string.h>

/* The marker of a value and the integer behind it: a length, a count, or the value itself. */
struct head {
    uint8_t type; /* enum mp_type, or one of the two below */
    uint8_t len;
    uint64_t arg;
};
#define HEAD_EXTENSION 0xfeu
#define HEAD_NEVER_USED 0xffu

struct form {
    uint8_t type;
    uint8_t extra;
};

static const struct form forms[32] = {
        {MP_NIL, 0},
        {HEAD_NEVER_USED, 0},
        {MP_BOOL, 0},
        {MP_BOOL, 0},
        {MP_BIN, 1},
        {MP_BIN, 2},
        {MP_BIN, 4},
        {HEAD_EXTENSION, 0},
        {HEAD_EXTENSION, 0},
        {HEAD_EXTENSION, 0},
        {MP_FLOAT, 4},
        {MP_FLOAT, 8},
        {MP_INT, 1},
        {MP_INT, 2},
        {MP_INT, 4},
        {MP_INT, 8},
        {MP_INT, 1},
        {MP_INT, 2},
        {MP_INT, 4},
        {MP_INT, 8},
        {HEAD_EXTENSION, 0},
        {HEAD_EXTENSION, 0},
        {HEAD_EXTENSION, 0},
        {HEAD_EXTENSION, 0},
        {HEAD_EXTENSION, 0},
        {MP_STR, 1},
        {MP_STR, 2},
        {MP_STR, 4},
        {MP_ARRAY, 2},
        {MP_ARRAY, 4},
        {MP_MAP, 2},
        {MP_MAP, 4},
};

static uint64_t load_be(const uint8_t *p, size_t n)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* Reads the head at p. n >= 1; where n < h.len only the type and the length are set. */
static inline struct head head_read(const uint8_t *p, size_t n)
{
    uint8_t m = p[0];
    struct form f;

    if (m < 0x80 || m >= 0xe0)
        return (struct head){MP_INT, 1, m};
    if (m < 0x90)
        return (struct head){MP_MAP, 1, m & 0x0fu};
    if (m < 0xa0)
        return (struct head){MP_ARRAY, 1, m & 0x0fu};
    if (m < 0xc0)
        return (struct head){MP_STR, 1, m & 0x1fu};
    f = forms[m - 0xc0];
    if (f.extra == 0)
        return (struct head){f.type, 1, m & 1u};
    return (struct head){f.type, (uint8_t)(1 + f.extra), n > f.extra ? load_be(p + 1, f.extra) : 0};
}

static uint64_t head_body(const struct head *h)
{
    return h->type == MP_STR || h->type == MP_BIN ? h->arg : 0;
}

static uint64_t head_children(const struct head *h)
{
    return h->type == MP_ARRAY ? h->arg : h->type == MP_MAP ? 2 * h->arg : 0;
}

static int64_t head_integer(const struct head *h, uint8_t marker)
{
    switch (marker) {
    case 0xd0:
        return (int8_t)h->arg;
    case 0xd1:
        return (int16_t)h->arg;
    case 0xd2:
        return (int32_t)h->arg;
    default:
        return marker >= 0xe0 ? (int8_t)h->arg : (int64_t)h->arg;
    }
}

static bool integer_ok(const struct head *h, uint8_t marker)
{
    int64_t v = head_integer(h, marker);

    if (marker == 0xcf && v < 0)
        return false;
    return v >= -MP_MAX_INT && v <= MP_MAX_INT;
}

static double head_number(const struct head *h)
{
    uint32_t bits = (uint32_t)h->arg;
    double d;
    float f;

    if (h->len == 1 + sizeof(f)) {
        memcpy(&f, &bits, sizeof(f));
        return (double)f;
    }
    memcpy(&d, &h->arg, sizeof(d));
    return d;
}

static bool number_ok(const struct head *h)
{
    return __builtin_isfinite(head_number(h));
}

struct key {
    const uint8_t *p;
    size_t n;
};

struct frame {
    uint64_t left; /* values, a pair being two */
    unsigned keys;
    bool map;
};

struct walk {
    const uint8_t *p;
    size_t n, max, at;
    uint64_t pending; /* announced values that have not begun */
    unsigned depth;
    struct frame frame[MP_MAX_DEPTH];
    struct key (*key)[MP_MAX_PAIRS]; /* of the open maps, sorted */
    const char *why;
    uint64_t need; /* fewest bytes that the whole value can have */
};

static int refuse(struct walk *w, const char *why)
{
    w->why = why;
    return WIRE_MALFORMED;
}

static int compare_keys(struct key a, struct key b)
{
    if (a.n != b.n)
        return a.n < b.n ? -1 : 1;
    return memcmp(a.p, b.p, a.n);
}

/* Keeps the keys of a map sorted; false if it has this one. */
static bool add_key(struct key *keys, unsigned count, struct key key)
{
    unsigned low = 0, high = count;

    while (low < high) {
        unsigned mid = (low + high) / 2;
        int order = compare_keys(key, keys[mid]);

        if (order == 0)
            return false;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    memmove(keys + low + 1, keys + low, (count - low) * sizeof(*keys));
    keys[low] = key;
    return true;
}

static int check_value(struct walk *w, const struct head *h)
{
    uint8_t marker = w->p[w->at];

    switch (h->type) {
    case HEAD_EXTENSION:
        return refuse(w, "extension types are not allowed");
    case HEAD_NEVER_USED:
        return refuse(w, "the byte 0xc1 begins no value");
    case MP_INT:
        return integer_ok(h, marker) ? WIRE_OK : refuse(w, "an integer is beyond 2^53");
    case MP_FLOAT:
        return number_ok(h) ? WIRE_OK : refuse(w, "a number is not finite");
    case MP_MAP:
        if (h->arg > MP_MAX_PAIRS)
            return refuse(w, "a map has too many pairs");
        __attribute__((fallthrough));
    case MP_ARRAY:
        return w->depth < MP_MAX_DEPTH ? WIRE_OK : refuse(w, "nested too deep");
    default:
        return WIRE_OK;
    }
}

static bool wants_key(const struct walk *w)
{
    const struct frame *f = w->depth > 0 ? &w->frame[w->depth - 1] : NULL;

    return f && f->map && f->left % 2 == 0;
}

static int check_key(struct walk *w, const struct head *h)
{
    struct frame *f = &w->frame[w->depth - 1];
    struct key key = {w->p + w->at + h->len, (size_t)h->arg};

    if (!add_key(w->key[w->depth - 1], f->keys, key))
        return refuse(w, "a map has the same key twice");
    f->keys++;
    return WIRE_OK;
}

/* Counts a value whose own bytes end at w->at. */
static void close_value(struct walk *w, const struct head *h)
{
    uint64_t children = head_children(h);

    w->pending += children - 1;
    if (w->depth > 0)
        w->frame[w->depth - 1].left--;
    if (children > 0)
        w->frame[w->depth++] = (struct frame){.left = children, .map = h->type == MP_MAP};
    while (w->depth > 0 && w->frame[w->depth - 1].left == 0)
        w->depth--;
}

/* For `own` bytes of a value: WIRE_INCOMPLETE where they are not here, WIRE_MALFORMED where they never can
 * be. */
static int check_room(struct walk *w, uint64_t own, uint64_t children)
{
    uint64_t end = w->at + own;

    w->need = end + children + (w->pending - 1);
    if (w->need > w->max)
        return refuse(w, "longer than allowed");
    return end > w->n ? WIRE_INCOMPLETE : WIRE_OK;
}

static int step(struct walk *w)
{
    struct head h;
    bool key;
    int r = check_room(w, 1, 0);

    if (r != WIRE_OK)
        return r;
    h = head_read(w->p + w->at, w->n - w->at);
    r = check_room(w, h.len, 0);
    if (r == WIRE_OK)
        r = check_value(w, &h);
    if (r != WIRE_OK)
        return r;
    key = wants_key(w);
    if (key && h.type != MP_STR)
        return refuse(w, "a map key is not a string");
    r = check_room(w, h.len + head_body(&h), head_children(&h));
    if (r == WIRE_OK && key)
        r = check_key(w, &h);
    if (r != WIRE_OK)
        return r;
    w->at += h.len + (size_t)head_body(&h);
    close_value(w, &h);
    return WIRE_OK;
}

int mp_measure(const void *p, size_t n, size_t max, size_t *ret_len, const char **ret_why)
{
    struct key keys[MP_MAX_DEPTH][MP_MAX_PAIRS];
    struct walk w;
    int r = WIRE_OK;

    w.p = p;
    w.n = n < max ? n : max;
    w.max = max;
    w.at = 0;
    w.pending = 1;
    w.depth = 0;
    w.key = keys;
    while (r == WIRE_OK && w.pending > 0)
        r = step(&w);
    if (r == WIRE_MALFORMED)
        *ret_why = w.why;
    else
        *ret_len = r == WIRE_OK ? w.at : (size_t)w.need;
    return r;
}

/* Length of the checked value at p; 0 if n bytes do not hold it. */
static size_t measure_checked(const uint8_t *p, size_t n)
{
    uint64_t pending = 1;
    size_t at = 0;

    while (pending > 0) {
        struct head h;

        if (at >= n)
            return 0;
        h = head_read(p + at, n - at);
        if (h.type > MP_MAP || h.len + head_body(&h) > n - at)
            return 0;
        at += h.len + (size_t)head_body(&h);
        pending += head_children(&h) - 1;
    }
    return at;
}

void mp_view(const void *bytes, size_t n, struct mp_value *ret_value)
{
    static const uint8_t nil = 0xc0;
    struct mp_value v = {.raw = bytes, .raw_len = n > 0 ? measure_checked(bytes, n) : 0};
    struct head h;

    if (v.raw_len == 0) {
        v.raw = &nil;
        v.raw_len = 1;
    }
    h = head_read(v.raw, v.raw_len);
    v.type = h.type;
    v.bytes = v.raw + h.len;
    v.boolean = h.type == MP_BOOL && h.arg == 1;
    if (h.type == MP_INT)
        v.integer = head_integer(&h, v.raw[0]);
    else if (h.type == MP_FLOAT)
        v.number = head_number(&h);
    else if (h.type >= MP_STR)
        v.count = (uint32_t)h.arg;
    *ret_value = v;
}

void mp_iter_init(struct mp_iter *it, const struct mp_value *container)
{
    bool any = container->type == MP_ARRAY || container->type == MP_MAP;

    *it = (struct mp_iter){
            .p = container->bytes,
            .end = container->raw + container->raw_len,
            .left = any ? container->count : 0,
            .map = container->type == MP_MAP,
    };
}

static void take(struct mp_iter *it, struct mp_value *ret_value)
{
    struct mp_value v;

    mp_view(it->p, (size_t)(it->end - it->p), &v);
    it->p = it->p < it->end ? it->p + v.raw_len : it->end;
    if (ret_value)
        *ret_value = v;
}

bool mp_next(struct mp_iter *it, struct mp_value *ret_key, struct mp_value *ret_value)
{
    if (it->left == 0)
        return false;
    it->left--;
    if (it->map)
        take(it, ret_key);
    take(it, ret_value);
    return true;
}

bool mp_map_get(const struct mp_value *map, const char *key, struct mp_value *ret_value)
{
    struct mp_value k, v;
    struct mp_iter it;

    if (map->type != MP_MAP)
        return false;
    mp_iter_init(&it, map);
    while (mp_next(&it, &k, &v)) {
        if (mp_str_eq(&k, key)) {
            *ret_value = v;
            return true;
        }
    }
    return false;
}

bool mp_str_eq(const struct mp_value *v, const char *s)
{
    size_t n = strlen(s);

    return v->type == MP_STR && v->count == n && memcmp(v->bytes, s, n) == 0;
}

const char *mp_type_name(enum mp_type type)
{
    static const char *const names[] = {
            "nil", "boolean", "integer", "number", "string", "binary", "array", "map"};

    return names[type];
}

static int append(void *data, const char *p, size_t n)
{
    struct buf *b = data;

    buf_bytes(b, p, n);
    return buf_status(b);
}

static msgpack_packer packer(struct buf *b)
{
    return (msgpack_packer){.data = b, .callback = append};
}

void mp_put_nil(struct buf *b)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_nil(&pk);
}

void mp_put_bool(struct buf *b, bool v)
{
    msgpack_packer pk = packer(b);

    (void)(v ? msgpack_pack_true(&pk) : msgpack_pack_false(&pk));
}

void mp_put_int(struct buf *b, int64_t v)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_int64(&pk, v);
}

void mp_put_uint(struct buf *b, uint64_t v)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_uint64(&pk, v);
}

void mp_put_double(struct buf *b, double v)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_double(&pk, v);
}

void mp_put_str(struct buf *b, const char *s)
{
    mp_put_strn(b, s, strlen(s));
}

void mp_put_strn(struct buf *b, const void *s, size_t n)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_str_with_body(&pk, s, n);
}

void mp_put_bin(struct buf *b, const void *p, size_t n)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_bin_with_body(&pk, p, n);
}

void mp_put_array(struct buf *b, uint32_t elements)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_array(&pk, elements);
}

void mp_put_map(struct buf *b, uint32_t pairs)
{
    msgpack_packer pk = packer(b);

    (void)msgpack_pack_map(&pk, pairs);
}

void mp_put_raw(struct buf *b, const void *p, size_t n)
{
    buf_bytes(b, p, n);
}

void mp_map_begin(struct mp_map *m, struct buf *b)
{
    buf_u8(b, 0xdf);
    *m = (struct mp_map){.b = b, .at = b->len};
    buf_u32be(b, 0);
}

struct buf *mp_key(struct mp_map *m, const char *key)
{
    mp_put_str(m->b, key);
    m->pairs++;
    return m->b;
}

void mp_map_end(struct mp_map *m)
{
    buf_patch_u32(m->b, m->at, __builtin_bswap32(m->pairs));
}
