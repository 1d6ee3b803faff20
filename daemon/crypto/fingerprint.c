#include <stdio.h>
#include <string.h>

#include "identity.h"
#include "kdf.h"

#define ROUNDS 5200
#define CHUNK_LEN 5
#define CHUNK_DIGITS 5
#define CHUNKS (FINGERPRINT_LEN / CHUNK_DIGITS)

/* The first round hashes label, uid and key; each later one the digest before it and the key. */
static void iterate(
        const uint8_t uid[UID_LEN], const uint8_t ak[32], uint8_t ret_digest[crypto_hash_sha512_BYTES])
{
    crypto_hash_sha512_state st;

    (void)crypto_hash_sha512_init(&st);
    (void)crypto_hash_sha512_update(
            &st, (const uint8_t *)label_table[LABEL_FINGERPRINT].text, label_table[LABEL_FINGERPRINT].n);
    (void)crypto_hash_sha512_update(&st, uid, UID_LEN);
    for (int round = 0; round < ROUNDS; round++) {
        if (round > 0) {
            (void)crypto_hash_sha512_init(&st);
            (void)crypto_hash_sha512_update(&st, ret_digest, crypto_hash_sha512_BYTES);
        }
        (void)crypto_hash_sha512_update(&st, ak, KEY_LEN);
        (void)crypto_hash_sha512_final(&st, ret_digest);
    }
}

void fingerprint(const uint8_t uid[UID_LEN], const uint8_t ak[32], char ret_digits[FINGERPRINT_LEN + 1])
{
    uint8_t digest[crypto_hash_sha512_BYTES];

    iterate(uid, ak, digest);
    for (size_t i = 0; i < CHUNKS; i++) {
        uint64_t chunk = 0;
        for (size_t j = 0; j < CHUNK_LEN; j++)
            chunk = chunk << 8 | digest[i * CHUNK_LEN + j];
        (void)snprintf(ret_digits + i * CHUNK_DIGITS, CHUNK_DIGITS + 1, "%05u", (unsigned)(chunk % 100000));
    }
}

void safety_number(const uint8_t uid_a[UID_LEN], const uint8_t ak_a[32], const uint8_t uid_b[UID_LEN],
        const uint8_t ak_b[32], char ret_digits[SAFETY_NUMBER_LEN + 1])
{
    char a[FINGERPRINT_LEN + 1], b[FINGERPRINT_LEN + 1];
    bool a_first = memcmp(uid_a, uid_b, UID_LEN) <= 0;

    fingerprint(uid_a, ak_a, a);
    fingerprint(uid_b, ak_b, b);
    (void)snprintf(ret_digits, SAFETY_NUMBER_LEN + 1, "%s%s", a_first ? a : b, a_first ? b : a);
}

struct message_id message_id_of(const uint8_t sender_uid[UID_LEN], const char *id_text)
{
    const struct label_text *label = &label_table[LABEL_MESSAGE_ID];
    struct message_id id;
    crypto_generichash_state st;
    size_t n = strlen(id_text);
    uint8_t length[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};

    (void)crypto_generichash_init(&st, NULL, 0, sizeof(id.b));
    (void)crypto_generichash_update(&st, (const uint8_t *)label->text, label->n);
    (void)crypto_generichash_update(&st, sender_uid, UID_LEN);
    (void)crypto_generichash_update(&st, length, sizeof(length));
    (void)crypto_generichash_update(&st, (const uint8_t *)id_text, n);
    (void)crypto_generichash_final(&st, id.b, sizeof(id.b));
    return id;
}
