#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    abort();
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
uint64_t gen_u64(struct gen *g)
{
    uint64_t z = g->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t gen_below(struct gen *g, uint64_t n)
{
    return gen_u64(g) % n;
}

bool gen_one_in(struct gen *g, unsigned n)
{
    return gen_below(g, n) == 0;
}

static const uint64_t boundaries[] = {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257,
        511, 512, 513, 1023, 1024, 1025, 1400, 1401, 8192, 8193, 32767, 32768, 65535, 65536, 65537, 98304,
        98305, 131072, 131073, 1048576, 1048577, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
        UINT64_C(0x100000000), UINT64_C(1) << 53, (UINT64_C(1) << 53) + 1, INT64_MAX, UINT64_C(1) << 63,
        UINT64_MAX};

uint64_t gen_boundary(struct gen *g)
{
    return boundaries[gen_below(g, sizeof(boundaries) / sizeof(boundaries[0]))];
}

size_t gen_size(struct gen *g, size_t max)
{
    size_t n = sizeof(boundaries) / sizeof(boundaries[0]);

    if (!gen_one_in(g, 4))
        return (size_t)gen_below(g, max < 24 ? max + 1 : 24);
    while (n > 0 && boundaries[n - 1] > max)
        n--;
    return (size_t)boundaries[gen_below(g, n)];
}

void gen_fill(struct gen *g, void *p, size_t n)
{
    uint64_t v = gen_u64(g) | 1;
    uint8_t *out = p;

    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(v >> (8 * (i % 8)));
        if (i % 8 == 7)
            v = v * UINT64_C(0x5851f42d4c957f2d) + 1;
    }
}

void gen_put(struct gen *g, const void *p, size_t n)
{
    if (n > GEN_MAX_INPUT - g->len)
        n = GEN_MAX_INPUT - g->len;
    if (n > 0)
        memcpy(g->out + g->len, p, n);
    g->len += n;
}

void gen_u8(struct gen *g, uint8_t v)
{
    gen_put(g, &v, 1);
}

void gen_le(struct gen *g, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gen_u8(g, (uint8_t)(v >> (8 * i)));
}

void gen_be(struct gen *g, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gen_u8(g, (uint8_t)(v >> (8 * (n - 1 - i))));
}

void gen_text(struct gen *g, const char *s)
{
    gen_put(g, s, strlen(s));
}

void gen_random(struct gen *g, size_t n)
{
    if (n > GEN_MAX_INPUT - g->len)
        n = GEN_MAX_INPUT - g->len;
    gen_fill(g, g->out + g->len, n);
    g->len += n;
}

#ifndef E2EED_LIBFUZZER
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_SECONDS 60u /* for one input */

static void die(const char *what, const char *which)
{
    fprintf(stderr, "%s: %s\n", which, what);
    exit(EXIT_FAILURE);
}

static void *allocate(size_t n)
{
    void *p = malloc(n > 0 ? n : 1);

    if (!p)
        die("no memory", "driver");
    return p;
}

/* A block of just this size, so that a sanitizer sees every byte read past it. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *copy = allocate(n);

    if (n > 0)
        memcpy(copy, data, n);
    (void)LLVMFuzzerTestOneInput(copy, n);
    free(copy);
}

static void remove_bytes(struct gen *g, size_t at, size_t n)
{
    memmove(g->out + at, g->out + at + n, g->len - at - n);
    g->len -= n;
}

static void mutate(struct gen *g)
{
    size_t at;

    if (g->len == 0)
        return;
    at = (size_t)gen_below(g, gen_one_in(g, 2) && g->len > 64 ? 64 : g->len);
    switch (gen_below(g, 6)) {
    case 0:
        g->out[at] ^= (uint8_t)(1u << gen_below(g, 8));
        break;
    case 1:
        g->out[at] = (uint8_t)gen_boundary(g);
        break;
    case 2:
        g->len = at;
        break;
    case 3:
        remove_bytes(g, at, (size_t)gen_below(g, g->len - at));
        break;
    case 4:
        gen_random(g, gen_size(g, 300));
        break;
    default:
        if (g->len - at >= 4) {
            uint32_t v = (uint32_t)gen_boundary(g);

            memcpy(g->out + at, &v, sizeof(v));
        }
        break;
    }
}

static void generate(struct gen *g, uint64_t seed)
{
    g->state = seed;
    g->len = 0;
    fuzz_generate(g);
    while (gen_one_in(g, 3))
        mutate(g);
}

/* What a child process does, and how far it has come, for its parent to tell when it has died. */
struct job {
    uint64_t seed, count;
    char **files;
    volatile uint64_t *at;
};

static void run_generated(const struct job *j)
{
    struct gen g = {.out = allocate(GEN_MAX_INPUT)};

    for (uint64_t i = 0; i < j->count; i++) {
        *j->at = i;
        (void)alarm(MAX_SECONDS);
        generate(&g, j->seed + i);
        run(g.out, g.len);
    }
    free(g.out);
}

static int write_inputs(uint64_t seed, uint64_t count, const char *dir)
{
    struct gen g = {.out = allocate(GEN_MAX_INPUT)};
    char path[4096];

    for (uint64_t i = 0; i < count; i++) {
        FILE *f;

        generate(&g, seed + i);
        (void)snprintf(path, sizeof(path), "%s/%llu", dir, (unsigned long long)(seed + i));
        f = fopen(path, "we");
        if (!f || fwrite(g.out, 1, g.len, f) != g.len || fclose(f) != 0)
            die(strerror(errno), path);
    }
    free(g.out);
    return EXIT_SUCCESS;
}

static void replay(const char *path)
{
    uint8_t *data = allocate(GEN_MAX_INPUT);
    FILE *f = fopen(path, "re");
    size_t n;

    if (!f)
        die(strerror(errno), path);
    n = fread(data, 1, GEN_MAX_INPUT, f);
    (void)fclose(f);
    run(data, n);
    free(data);
}

static void run_files(const struct job *j)
{
    for (uint64_t i = 0; i < j->count; i++) {
        *j->at = i;
        (void)alarm(MAX_SECONDS);
        replay(j->files[i]);
    }
}

/* In a child, which may be ended by a sanitizer in ways that leave it no last word. */
static bool survives(const struct job *j)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (j->files ? run_files : run_generated)(j);
        exit(EXIT_SUCCESS);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        die(strerror(errno), "driver");
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s\n", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
}

static int run_job(const char *program, struct job *j)
{
    unsigned long long i;

    j->at = mmap(NULL, sizeof(*j->at), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (j->at == MAP_FAILED)
        die(strerror(errno), program);
    if (survives(j)) {
        printf("%llu inputs\n", (unsigned long long)j->count);
        return EXIT_SUCCESS;
    }
    i = *j->at;
    if (j->files)
        fprintf(stderr, "again by: %s %s\n", program, j->files[i]);
    else
        fprintf(stderr, "again by: %s --generate %llu 1\n", program, j->seed + i);
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct job j = {0};

    if (argc > 3) {
        j.seed = strtoull(argv[2], NULL, 0);
        j.count = strtoull(argv[3], NULL, 0);
    }
    if (argc == 4 && strcmp(argv[1], "--generate") == 0)
        return run_job(argv[0], &j);
    if (argc == 5 && strcmp(argv[1], "--write") == 0)
        return write_inputs(j.seed, j.count, argv[4]);
    if (argc < 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: %s FILE... | --generate SEED COUNT | --write SEED COUNT DIR\n", argv[0]);
        return EXIT_FAILURE;
    }
    j.files = argv + 1;
    j.count = (uint64_t)argc - 1;
    return run_job(argv[0], &j);
}
#endif
