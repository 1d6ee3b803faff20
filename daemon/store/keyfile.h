/* What the files that hold keys have in common. Results are negative errno. */
#ifndef E2EE_KEYFILE_H
#define E2EE_KEYFILE_H

#include "base.h"

/* Up to max bytes until the end of the file; their number. */
ssize_t keyfile_read_all(int fd, uint8_t *out, size_t max) MUST_USE;
int keyfile_write_all(int fd, const uint8_t *p, size_t n) MUST_USE;
/* A regular file (-EINVAL) that is ours and closed to others (-EPERM). */
int keyfile_check(int fd) MUST_USE;
/* Makes the names in path's directory durable. */
int keyfile_sync_directory(const char *path) MUST_USE;
/* Zeros over the n bytes of the file, on the disk. */
int keyfile_overwrite(int fd, size_t n) MUST_USE;

#endif
