/*
 * Runs ML-KEM-768 for a program in another language. One command a line on standard input, in hex, one answer
 * a line: keygen SEED      -> PK encaps PK RAND   -> CT SS decaps SEED CT   -> SS An operation that fails
 * answers "error N". Anything else on a line ends the program with status 2. The first argument picks the
 * backend: builtin or openssl; without one it is the daemon's choice.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sodium.h>

#include "json_vectors.h"
#include "mlkem.h"
#include "mlkem_backend.h"

static const struct mlkem_backend dispatched = {
        .name = "default", .keypair = mlkem_keypair, .encaps = mlkem_encaps, .decaps = mlkem_decaps};

static const struct mlkem_backend *choose(const char *name)
{
    if (!name)
        return &dispatched;
    if (strcmp(name, "openssl") == 0)
        return mlkem_openssl();
    return strcmp(name, "builtin") == 0 ? mlkem_builtin() : NULL;
}

static bool take(char **line, uint8_t *ret, size_t n)
{
    const char *word = strsep(line, " ");

    return word && strlen(word) == 2 * n && hex_decode(word, 2 * n, ret);
}

static void print_hex(const uint8_t *p, size_t n, char after)
{
    while (n-- > 0)
        printf("%02x", *p++);
    putchar(after);
}

static bool keygen(const struct mlkem_backend *b, char *args)
{
    uint8_t seed[MLKEM_SEED_LEN], pk[MLKEM_PK_LEN];

    if (!take(&args, seed, sizeof(seed)) || args)
        return false;
    int r = b->keypair(seed, pk);

    if (r != 0)
        printf("error %d\n", r);
    else
        print_hex(pk, sizeof(pk), '\n');
    return true;
}

static bool encaps(const struct mlkem_backend *b, char *args)
{
    uint8_t pk[MLKEM_PK_LEN], rand[MLKEM_ENC_RAND_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    if (!take(&args, pk, sizeof(pk)) || !take(&args, rand, sizeof(rand)) || args)
        return false;
    int r = b->encaps(pk, rand, ct, ss);

    if (r != 0) {
        printf("error %d\n", r);
    } else {
        print_hex(ct, sizeof(ct), ' ');
        print_hex(ss, sizeof(ss), '\n');
    }
    return true;
}

static bool decaps(const struct mlkem_backend *b, char *args)
{
    uint8_t seed[MLKEM_SEED_LEN], ct[MLKEM_CT_LEN], ss[MLKEM_SS_LEN];

    if (!take(&args, seed, sizeof(seed)) || !take(&args, ct, sizeof(ct)) || args)
        return false;
    int r = b->decaps(seed, ct, ss);

    if (r != 0)
        printf("error %d\n", r);
    else
        print_hex(ss, sizeof(ss), '\n');
    return true;
}

static bool run(const struct mlkem_backend *b, char *line)
{
    const char *command = strsep(&line, " ");

    if (strcmp(command, "keygen") == 0)
        return keygen(b, line);
    if (strcmp(command, "encaps") == 0)
        return encaps(b, line);
    return strcmp(command, "decaps") == 0 && decaps(b, line);
}

int main(int argc, char **argv)
{
    const struct mlkem_backend *b = choose(argc > 1 ? argv[1] : NULL);
    char line[2 * (MLKEM_PK_LEN + MLKEM_ENC_RAND_LEN) + 64];

    if (sodium_init() < 0 || !b) {
        fprintf(stderr, "mlkem_tool: no such backend here\n");
        return EXIT_FAILURE;
    }
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (!run(b, line)) {
            fprintf(stderr, "mlkem_tool: bad command\n");
            return 2;
        }
        (void)fflush(stdout);
    }
    return EXIT_SUCCESS;
}
