/*
 * What a fuzz target gives and gets. A target is one file with LLVMFuzzerTestOneInput(), which libFuzzer and
 * the driver call, and fuzz_generate(), which writes one input as the format's grammar wants it, with
 * boundary sizes and a lie here and there. Without libFuzzer the driver is the program:
 *
 *     fuzz_NAME FILE…                    replays files (a corpus, a crash)
 *     fuzz_NAME --generate SEED COUNT    COUNT inputs from the generator; input i is that of seed SEED + i
 *     fuzz_NAME --write SEED COUNT DIR   the same inputs as files, to begin a corpus with
 */
#ifndef E2EE_FUZZ_DRIVER_H
#define E2EE_FUZZ_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GEN_MAX_INPUT 262144u

struct gen {
    uint64_t state;
    size_t len;
    uint8_t *out; /* GEN_MAX_INPUT bytes; what does not fit is dropped */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void fuzz_generate(struct gen *g);

uint64_t gen_u64(struct gen *g);
/* 0 to n-1; n > 0. */
uint64_t gen_below(struct gen *g, uint64_t n);
/* True once in n times. */
bool gen_one_in(struct gen *g, unsigned n);
/* A boundary size that is at most max, or a small number. */
size_t gen_size(struct gen *g, size_t max);
/* A boundary value of any size up to 2^64-1: for lengths that lie. */
uint64_t gen_boundary(struct gen *g);
/* Fills p; not with zeros only. */
void gen_fill(struct gen *g, void *p, size_t n);

void gen_u8(struct gen *g, uint8_t v);
/* The low n bytes of v, least or most significant first. */
void gen_le(struct gen *g, uint64_t v, size_t n);
void gen_be(struct gen *g, uint64_t v, size_t n);
void gen_put(struct gen *g, const void *p, size_t n);
void gen_text(struct gen *g, const char *s);
void gen_random(struct gen *g, size_t n);

/* An assertion that names itself; the driver adds the seed. */
#define FUZZ_CHECK(condition)                                                                                \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fuzz_fail(__FILE__, __LINE__, #condition);                                                       \
    } while (0)
void fuzz_fail(const char *file, int line, const char *what) __attribute__((noreturn));

#endif
