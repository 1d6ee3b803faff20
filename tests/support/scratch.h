/* Scratch directories of tests, and questions about the files in them. Any failure fails the running cmocka
 * test. */
#ifndef E2EE_SCRATCH_H
#define E2EE_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SCRATCH_DIGEST_LEN 32u

/* A new directory of mode 0700 under $TMPDIR or /tmp; the caller frees the name. */
char *scratch_new(void);
/* Removes it and all below, and frees the name. */
void scratch_free(char *dir);
/* dir/name in a static buffer (one of four, used in turn). */
const char *scratch_path(const char *dir, const char *name);

/* The whole file, from malloc, with one zero byte behind it; *ret_n is its length. */
uint8_t *scratch_read(const char *path, size_t *ret_n);
void scratch_write(const char *path, const void *p, size_t n, mode_t mode);
/* -1 where there is none. */
long long scratch_size(const char *path);
/* Hash over names and contents of the regular files in dir that are not empty. */
void scratch_digest(const char *dir, uint8_t ret_digest[SCRATCH_DIGEST_LEN]);
/* True if the bytes are in any regular file of dir. */
bool scratch_contains(const char *dir, const void *needle, size_t n);

#endif
