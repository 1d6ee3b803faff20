/*
 * What every layer of the daemon is written in.
 *
 * Results. An `int` result is 0 (done), a negative errno (fatal: the caller forwards it unchanged until the
 * turn or the process ends), or a positive value of the module's own enum (the direct caller handles it).
 * Outputs named ret_… are untouched unless the result is 0.
 *
 * At the edge there are three outcomes: a hostile peer loses that message or connection, a local client gets
 * a named error, and our own fault is logged and ends the process.
 */
#ifndef E2EE_BASE_H
#define E2EE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "buf.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}
static inline void cleanup_close(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}
/* The descriptor, which the variable (a CLEANUP_FD) gives away. */
static inline int take_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}
#define CLEANUP_FREE __attribute__((cleanup(cleanup_free)))
#define CLEANUP_FD __attribute__((cleanup(cleanup_close)))

/* A source of random bytes: the system's in the daemon, a seeded one in tests. Cannot fail. */
struct rng {
    void (*fill)(void *ctx, void *out, size_t n);
    void *ctx;
};
static inline void rng_fill(const struct rng *r, void *out, size_t n)
{
    r->fill(r->ctx, out, n);
}
/* libsodium's generator (getrandom). Needs sodium_init(). */
struct rng rng_system(void);

/* Milliseconds since the epoch; wall clock. */
uint64_t clock_now_ms(void);
/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t clock_mono_ms(void);

#define SECOND_MS UINT64_C(1000)
#define MINUTE_MS (60 * SECOND_MS)
#define HOUR_MS (60 * MINUTE_MS)
#define DAY_MS (24 * HOUR_MS)

#endif
