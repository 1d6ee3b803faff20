/*
 * Bounded buffers: the only way to and from the bytes of a wire or a record.
 *
 * Both directions have a sticky error, so that an encoder or a decoder reads like the schema that it
 * implements: call after call, and one check at the end. All integers are little-endian. LP(x) is a u32
 * length and the bytes.
 */
#ifndef E2EE_BUF_H
#define E2EE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))

/* Positive results of the decoders. */
enum wire_status {
    WIRE_OK = 0,
    WIRE_MALFORMED = 1, /* truncated, trailing bytes, a value out of range */
    WIRE_INCOMPLETE = 2 /* a stream holds no whole message yet */
};

/*
 * Growing output, never longer than `max`. `secret` buffers wipe every byte that they release. After a
 * failure each further call does nothing; buf_status() tells. A zeroed struct is a valid empty buffer whose
 * max is 0.
 */
struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
    size_t max;
    int error; /* 0, -ENOMEM, or -EMSGSIZE */
    bool secret;
};

void buf_init(struct buf *b, size_t max);
void buf_init_secret(struct buf *b, size_t max);
/* Frees (and wipes, if secret); the buffer may be used again with the same max. Accepts a zeroed struct. */
void buf_done(struct buf *b);
/* Forgets the contents, keeps the memory, clears the error. */
void buf_reset(struct buf *b);
/* 0, -ENOMEM, or -EMSGSIZE where `max` was passed. */
int buf_status(const struct buf *b) MUST_USE;

void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
/* Big-endian: for keys of ordered tables only. */
void buf_u32be(struct buf *b, uint32_t v);
void buf_u64be(struct buf *b, uint64_t v);
void buf_bytes(struct buf *b, const void *p, size_t n);
void buf_lp(struct buf *b, const void *p, size_t n);
void buf_zero(struct buf *b, size_t n);
/* Room for n bytes, counted as written; NULL after an error. Valid until the next call on b. */
uint8_t *buf_reserve(struct buf *b, size_t n);
/* Drops what was written after the first len bytes (and wipes it, if secret), in spite of an error, which
 * stays. */
void buf_truncate(struct buf *b, size_t len);
/* Overwrites a u16 or u32 written earlier at `at` (for counts known only at the end). */
void buf_patch_u16(struct buf *b, size_t at, uint16_t v);
void buf_patch_u32(struct buf *b, size_t at, uint32_t v);

/*
 * Cursor over bytes that somebody else owns and keeps alive. Past the end every read yields zeros or NULL and
 * the error sticks.
 */
struct cursor {
    const uint8_t *p;
    size_t left;
    bool failed;
};

void cursor_init(struct cursor *c, const void *p, size_t n);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
uint32_t cursor_u32be(struct cursor *c);
uint64_t cursor_u64be(struct cursor *c);
/* Copies n bytes to out; zeros out after a failure. */
void cursor_copy(struct cursor *c, void *out, size_t n);
/* n bytes in place, or NULL. */
const uint8_t *cursor_take(struct cursor *c, size_t n);
/* LP(x) of at most max bytes in place; *ret_n is 0 and the result NULL after a failure. */
const uint8_t *cursor_lp(struct cursor *c, size_t max, size_t *ret_n);
/* Marks the input as malformed (a value that the schema does not allow). */
void cursor_fail(struct cursor *c);
/* WIRE_OK if nothing failed so far; WIRE_MALFORMED otherwise. */
int cursor_status(const struct cursor *c) MUST_USE;
/* WIRE_OK if nothing failed and nothing is left; WIRE_MALFORMED otherwise. */
int cursor_end(const struct cursor *c) MUST_USE;

#define CLEANUP_BUF __attribute__((cleanup(buf_done)))

#endif
