#include "keccak.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include <sodium.h>

/* Lane (x, y) of the state stands at x + 5y. PI is where the permutation pi of FIPS 202, 3.2.3 takes a lane.
 */
#define PI(l) ((l) / 5 + 5 * ((2 * ((l) % 5) + 3 * ((l) / 5)) % 5))
#define RHO(t) (((t) + 1) * ((t) + 2) / 2 % 64)

/* The walk over all lanes but 0 that rho (3.2.2) defines: Wt is the lane rotated by RHO(t). */
enum {
    W0 = 1,
    W1 = PI(W0),
    W2 = PI(W1),
    W3 = PI(W2),
    W4 = PI(W3),
    W5 = PI(W4),
    W6 = PI(W5),
    W7 = PI(W6),
    W8 = PI(W7),
    W9 = PI(W8),
    W10 = PI(W9),
    W11 = PI(W10),
    W12 = PI(W11),
    W13 = PI(W12),
    W14 = PI(W13),
    W15 = PI(W14),
    W16 = PI(W15),
    W17 = PI(W16),
    W18 = PI(W17),
    W19 = PI(W18),
    W20 = PI(W19),
    W21 = PI(W20),
    W22 = PI(W21),
    W23 = PI(W22),
};
_Static_assert(PI(W23) == W0, "rho walks a cycle of 24 lanes");

/* Powers of x modulo x^8 + x^6 + x^5 + x^4 + 1, whose constant terms are the bits of the round constants
 * (3.2.5). */
#define X1(s) ((((s) << 1) & 0xff) ^ (((s) >> 7) * 0x71))
#define X2(s) X1(X1(s))
#define X3(s) X1(X2(s))
#define X4(s) X1(X3(s))
#define X5(s) X1(X4(s))
#define X6(s) X1(X5(s))
#define X7(s) X1(X6(s))
enum {
    L0 = 1,
    L1 = X7(L0),
    L2 = X7(L1),
    L3 = X7(L2),
    L4 = X7(L3),
    L5 = X7(L4),
    L6 = X7(L5),
    L7 = X7(L6),
    L8 = X7(L7),
    L9 = X7(L8),
    L10 = X7(L9),
    L11 = X7(L10),
    L12 = X7(L11),
    L13 = X7(L12),
    L14 = X7(L13),
    L15 = X7(L14),
    L16 = X7(L15),
    L17 = X7(L16),
    L18 = X7(L17),
    L19 = X7(L18),
    L20 = X7(L19),
    L21 = X7(L20),
    L22 = X7(L21),
    L23 = X7(L22),
};
#define BIT(s, pos) ((uint64_t)((s)&1) << (pos))
#define RC(s)                                                                                                \
    (BIT(s, 0) | BIT(X1(s), 1) | BIT(X2(s), 3) | BIT(X3(s), 7) | BIT(X4(s), 15) | BIT(X5(s), 31) |           \
            BIT(X6(s), 63))

static const uint64_t round_constant[24] = {RC(L0), RC(L1), RC(L2), RC(L3), RC(L4), RC(L5), RC(L6), RC(L7),
        RC(L8), RC(L9), RC(L10), RC(L11), RC(L12), RC(L13), RC(L14), RC(L15), RC(L16), RC(L17), RC(L18),
        RC(L19), RC(L20), RC(L21), RC(L22), RC(L23)};

static inline uint64_t rotl(uint64_t v, unsigned n)
{
    return v << n | v >> (-n & 63);
}

/* Spelled out with macros so that every index is a constant and the state can live in registers. */
#define COLUMN(x) c[x] = a[x] ^ a[(x) + 5] ^ a[(x) + 10] ^ a[(x) + 15] ^ a[(x) + 20]
#define THETA(x) d[x] = c[((x) + 4) % 5] ^ rotl(c[((x) + 1) % 5], 1)
#define MOVE(t) b[PI(W##t)] = rotl(a[W##t] ^ d[W##t % 5], RHO(t))
#define CHI(x, y)                                                                                            \
    a[(x) + 5 * (y)] = b[(x) + 5 * (y)] ^ (~b[((x) + 1) % 5 + 5 * (y)] & b[((x) + 2) % 5 + 5 * (y)])
#define FIVE(m) m(0), m(1), m(2), m(3), m(4)
#define CHI_PLANE(y) CHI(0, y), CHI(1, y), CHI(2, y), CHI(3, y), CHI(4, y)

static inline void keccak_round(uint64_t a[25], uint64_t rc)
{
    uint64_t b[25], c[5], d[5];

    FIVE(COLUMN);
    FIVE(THETA);
    b[0] = a[0] ^ d[0];
    MOVE(0), MOVE(1), MOVE(2), MOVE(3), MOVE(4), MOVE(5), MOVE(6), MOVE(7);
    MOVE(8), MOVE(9), MOVE(10), MOVE(11), MOVE(12), MOVE(13), MOVE(14), MOVE(15);
    MOVE(16), MOVE(17), MOVE(18), MOVE(19), MOVE(20), MOVE(21), MOVE(22), MOVE(23);
    FIVE(CHI_PLANE);
    a[0] ^= rc;
}

static void keccak_f1600(uint64_t lane[25])
{
    uint64_t a[25];

    memcpy(a, lane, sizeof(a));
    for (size_t i = 0; i < 24; i++)
        keccak_round(a, round_constant[i]);
    memcpy(lane, a, sizeof(a));
}

void keccak_init(struct keccak *k, enum keccak_kind kind)
{
    static const struct {
        uint8_t rate, suffix;
    } kinds[] = {
            [KECCAK_SHA3_256] = {200 - 2 * SHA3_256_LEN, 0x06},
            [KECCAK_SHA3_512] = {200 - 2 * SHA3_512_LEN, 0x06},
            [KECCAK_SHAKE128] = {SHAKE128_RATE, 0x1f},
            [KECCAK_SHAKE256] = {SHAKE256_RATE, 0x1f},
    };

    *k = (struct keccak){.rate = kinds[kind].rate, .suffix = kinds[kind].suffix};
}

static void xor_byte(struct keccak *k, uint32_t pos, uint8_t byte)
{
    k->lane[pos / 8] ^= (uint64_t)byte << (8 * (pos % 8));
}

/* Absorbs or squeezes by whole lanes where it can; rates are multiples of a lane. */
void keccak_absorb(struct keccak *k, const void *in, size_t n)
{
    const uint8_t *p = in;

    assert(k->suffix != 0);
    while (n > 0) {
        uint64_t v;
        uint32_t step = k->pos % 8 == 0 && n >= 8 ? 8 : 1;

        if (step == 8) {
            memcpy(&v, p, 8);
            k->lane[k->pos / 8] ^= le64toh(v);
        } else {
            xor_byte(k, k->pos, *p);
        }
        p += step;
        n -= step;
        k->pos += step;
        if (k->pos == k->rate) {
            keccak_f1600(k->lane);
            k->pos = 0;
        }
    }
}

static void finish_absorbing(struct keccak *k)
{
    xor_byte(k, k->pos, k->suffix);
    xor_byte(k, k->rate - 1, 0x80);
    k->suffix = 0;
    k->pos = k->rate;
}

void keccak_squeeze(struct keccak *k, void *ret_out, size_t n)
{
    uint8_t *p = ret_out;

    if (k->suffix != 0)
        finish_absorbing(k);
    while (n > 0) {
        if (k->pos == k->rate) {
            keccak_f1600(k->lane);
            k->pos = 0;
        }
        uint64_t v = htole64(k->lane[k->pos / 8] >> (8 * (k->pos % 8)));
        uint32_t step = k->pos % 8 == 0 && n >= 8 ? 8 : 1;

        if (step == 8)
            memcpy(p, &v, 8);
        else
            memcpy(p, &v, 1);
        p += step;
        n -= step;
        k->pos += step;
    }
}

void keccak_wipe(struct keccak *k)
{
    sodium_memzero(k, sizeof(*k));
}

static void digest(enum keccak_kind kind, const void *in, size_t n, uint8_t *ret_digest, size_t len)
{
    struct keccak k;

    keccak_init(&k, kind);
    keccak_absorb(&k, in, n);
    keccak_squeeze(&k, ret_digest, len);
    keccak_wipe(&k);
}

void sha3_256(const void *in, size_t n, uint8_t ret_digest[SHA3_256_LEN])
{
    digest(KECCAK_SHA3_256, in, n, ret_digest, SHA3_256_LEN);
}

void sha3_512(const void *in, size_t n, uint8_t ret_digest[SHA3_512_LEN])
{
    digest(KECCAK_SHA3_512, in, n, ret_digest, SHA3_512_LEN);
}
