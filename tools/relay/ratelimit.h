/*
 * Token buckets, and a bounded table of them. Time is a parameter (milliseconds of any monotonic clock). A
 * bucket holds at most `burst` tokens and gains `rate` a second; a rate of 0 means no limit.
 */
#ifndef E2EE_RELAY_RATELIMIT_H
#define E2EE_RELAY_RATELIMIT_H

#include "buf.h"

struct limit {
    uint64_t rate;  /* tokens a second, in millionths */
    uint64_t burst; /* tokens */
};

#define LIMIT_PER_SECOND(n, burst_)                                                                          \
    {                                                                                                        \
        .rate = (uint64_t)(n)*1000000, .burst = (burst_)                                                     \
    }
#define LIMIT_PER_MINUTE(n, burst_)                                                                          \
    {                                                                                                        \
        .rate = (uint64_t)(n)*1000000 / 60, .burst = (burst_)                                                \
    }
#define LIMIT_PER_HOUR(n, burst_)                                                                            \
    {                                                                                                        \
        .rate = (uint64_t)(n)*1000000 / 3600, .burst = (burst_)                                              \
    }

/* A zeroed bucket is full: it starts at the first use. */
struct bucket {
    uint64_t microtokens;
    uint64_t at_ms;
};

/*
 * Takes n tokens. 0 if they were there; otherwise the milliseconds (1 or more) after which the same call
 * would succeed, and nothing is taken. More tokens than the burst are granted from a full bucket, which then
 * stands empty.
 */
uint32_t bucket_take(struct bucket *b, const struct limit *l, uint64_t n, uint64_t now_ms);

/*
 * Buckets by key (any bytes, hashed under a random key of the process). At most `max` keys are kept; where
 * the table is full, the one that was used longest ago among a few neighbours gives way.
 */
struct bucket_table;
struct bucket_table *bucket_table_new(size_t max);
void bucket_table_free(struct bucket_table *t);
/* The key's bucket; valid until the next call on t. */
struct bucket *bucket_table_get(struct bucket_table *t, const void *key, size_t key_len);
uint32_t bucket_table_take(struct bucket_table *t, const struct limit *l, const void *key, size_t key_len,
        uint64_t n, uint64_t now_ms);

#endif
