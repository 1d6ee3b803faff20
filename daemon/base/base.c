#include <errno.h>
#include <sodium.h>
#include <time.h>

#include "base.h"

static void system_fill(void *ctx, void *out, size_t n)
{
    (void)ctx;
    randombytes_buf(out, n);
}

struct rng rng_system(void)
{
    return (struct rng){.fill = system_fill};
}

static uint64_t clock_ms(clockid_t id)
{
    struct timespec ts = {0};
    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t clock_now_ms(void)
{
    return clock_ms(CLOCK_REALTIME);
}

uint64_t clock_mono_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}
