/*
 * UTF-8, for the parts of this layer. Source: RFC 3629.
 */
#ifndef E2EE_TEXT_H
#define E2EE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Length of the text (NULL is empty) cut to at most max bytes, never inside a character. */
size_t text_cut(const char *text, size_t max);
/* Bytes of the character that begins at p, of which `left` (at least 1) are there; 0 if it is none. */
size_t text_sequence(const void *p, size_t left);
/* True if p holds UTF-8 only: no overlong form, no surrogate, nothing past U+10FFFF. A zero byte is a
 * character. */
bool text_valid_utf8(const void *p, size_t n);

#endif
