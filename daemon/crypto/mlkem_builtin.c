#include "mlkem_backend.h"

#include <string.h>

#include <sodium.h>

#include "keccak.h"

/* For the constant-time check only: marks what FIPS 203 makes public but the code derives from a secret. */
#ifdef E2EED_CT_CHECK
#include <valgrind/memcheck.h>
#define DECLASSIFY(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))
#else
#define DECLASSIFY(p, n) ((void)0)
#endif

enum {
    N = 256,   /* coefficients of a polynomial */
    K = 3,     /* polynomials of a vector */
    Q = 3329,  /* the modulus */
    DU = 10,   /* bits kept of a coefficient of u */
    DV = 4,    /* and of v */
    SYM = 32,  /* bytes of a seed, message or hash */
    CBD = 128, /* bytes from which a noise polynomial with eta = 2 is sampled */
    POLY_LEN = 12 * N / 8,
    VEC_LEN = K * POLY_LEN,
    CT_U_LEN = K * DU * N / 8,
};
_Static_assert(MLKEM_PK_LEN == VEC_LEN + SYM, "public key: t, rho");
_Static_assert(MLKEM_CT_LEN == CT_U_LEN + DV * N / 8, "ciphertext: u, v");
_Static_assert(MLKEM_DK_LEN == VEC_LEN + MLKEM_PK_LEN + 2 * SYM, "expanded key: s, public key, hash, z");

struct poly {
    int16_t c[N];
};
struct vec {
    struct poly p[K];
};
/* A public key, expanded: the matrix A and the vector t, both in the NTT domain. */
struct pubkey {
    struct vec row[K];
    struct vec t;
};

/*
 * Arithmetic modulo Q. Coefficients are signed and only loosely reduced in between; each function says what
 * it bounds. Products are in Montgomery form with R = 2^16: montgomery(a * b) is a * b / R.
 */
#define MONT_R (65536 % Q)
#define Q_INV 62209
_Static_assert((uint16_t)((uint32_t)Q *Q_INV) == 1, "Q_INV is the inverse of Q modulo 2^16");
#define TO_MONT(z) ((z)*MONT_R % Q)
#define CENTRED(z) ((int16_t)((z) > Q / 2 ? (z)-Q : (z)))

/* 17^(2^k), from which the zetas are put together. */
enum {
    E0 = 17,
    E1 = E0 * E0 % Q,
    E2 = E1 * E1 % Q,
    E3 = E2 * E2 % Q,
    E4 = E3 * E3 % Q,
    E5 = E4 * E4 % Q,
    E6 = E5 * E5 % Q,
    E7 = E6 * E6 % Q,
};
_Static_assert(E7 == Q - 1, "17 is a primitive 256th root of unity");

/* ZETA(i) = 17^BitRev7(i), in Montgomery form. */
#define FACTOR(i, bit, e) (((i) >> (bit)&1) ? (e) : 1)
#define ZETA_LOW(i) (FACTOR(i, 0, E6) * FACTOR(i, 1, E5) % Q * FACTOR(i, 2, E4) % Q * FACTOR(i, 3, E3) % Q)
#define ZETA_HIGH(i) (FACTOR(i, 4, E2) * FACTOR(i, 5, E1) % Q * FACTOR(i, 6, E0) % Q)
#define ZETA(i) CENTRED(TO_MONT(ZETA_LOW(i) * ZETA_HIGH(i) % Q))
#define ZETA4(i) ZETA(i), ZETA((i) + 1), ZETA((i) + 2), ZETA((i) + 3)
#define ZETA16(i) ZETA4(i), ZETA4((i) + 4), ZETA4((i) + 8), ZETA4((i) + 12)
#define ZETA64(i) ZETA16(i), ZETA16((i) + 16), ZETA16((i) + 32), ZETA16((i) + 48)
static const int16_t zetas[128] = {ZETA64(0), ZETA64(64)};

/* For |a| < 2^15 * Q: a / R modulo Q, in (-Q, Q). */
static inline int16_t montgomery(int32_t a)
{
    int16_t m = (int16_t)((uint32_t)a * Q_INV);

    return (int16_t)((a - (int32_t)m * Q) >> 16);
}

/* The representative of `a` in [-(Q-1)/2, (Q-1)/2]. */
static inline int16_t centre(int16_t a)
{
    const int32_t inverse = ((1 << 26) + Q / 2) / Q;
    int32_t quotient = (inverse * a + (1 << 25)) >> 26;

    return (int16_t)(a - quotient * Q);
}

/* The representative of `a` in [0, Q). */
static inline int16_t canonical(int16_t a)
{
    int16_t c = centre(a);

    return (int16_t)(c + ((c >> 15) & Q));
}

/* Keeps the compiler from finding out that a mask is one of two values and branching on it. */
static inline uint32_t opaque(uint32_t v)
{
    __asm__("" : "+r"(v));
    return v;
}

static void poly_canonical(struct poly *p)
{
    for (size_t i = 0; i < N; i++)
        p->c[i] = canonical(p->c[i]);
}

static void poly_centre(struct poly *p)
{
    for (size_t i = 0; i < N; i++)
        p->c[i] = centre(p->c[i]);
}

static void poly_add(struct poly *p, const struct poly *q)
{
    for (size_t i = 0; i < N; i++)
        p->c[i] = (int16_t)(p->c[i] + q->c[i]);
}

/* One block of the NTT. Each layer adds less than Q to the bound of the coefficients. */
static inline void butterflies(int16_t *lo, int16_t *hi, size_t len, int16_t zeta)
{
    for (size_t j = 0; j < len; j++) {
        int16_t t = montgomery(zeta * hi[j]);

        hi[j] = (int16_t)(lo[j] - t);
        lo[j] = (int16_t)(lo[j] + t);
    }
}

/* Each layer of the inverse at most doubles the bound. */
static inline void inverse_butterflies(int16_t *lo, int16_t *hi, size_t len, int16_t zeta)
{
    for (size_t j = 0; j < len; j++) {
        int16_t t = lo[j];

        lo[j] = (int16_t)(t + hi[j]);
        hi[j] = montgomery(zeta * (hi[j] - t));
    }
}

static inline void ntt_layer(struct poly *p, size_t len)
{
    for (size_t block = 0; block < N / (2 * len); block++) {
        int16_t *lo = p->c + 2 * len * block;

        butterflies(lo, lo + len, len, zetas[N / (2 * len) + block]);
    }
}

static inline void inverse_ntt_layer(struct poly *p, size_t len)
{
    for (size_t block = 0; block < N / (2 * len); block++) {
        int16_t *lo = p->c + 2 * len * block;

        inverse_butterflies(lo, lo + len, len, zetas[N / len - 1 - block]);
    }
}

/* Algorithm 9. Input below Q in magnitude, so that seven layers stay below 8Q < 2^15; output centred. The
 * layers are called one by one to give the compiler constant lengths. */
static void ntt(struct poly *p)
{
    ntt_layer(p, 128);
    ntt_layer(p, 64);
    ntt_layer(p, 32);
    ntt_layer(p, 16);
    ntt_layer(p, 8);
    ntt_layer(p, 4);
    ntt_layer(p, 2);
    poly_centre(p);
}

/* Algorithm 10, for the result of a dot(), whose factor 1/R it takes out. Input and output below Q in
 * magnitude. */
static void inverse_ntt(struct poly *p)
{
    const int16_t scale = CENTRED(TO_MONT(TO_MONT(Q - (Q - 1) / 128)));

    inverse_ntt_layer(p, 2);
    inverse_ntt_layer(p, 4);
    inverse_ntt_layer(p, 8);
    poly_centre(p); /* was below 8Q and is now below Q / 2, from which four more layers lead to 8Q again */
    inverse_ntt_layer(p, 16);
    inverse_ntt_layer(p, 32);
    inverse_ntt_layer(p, 64);
    inverse_ntt_layer(p, 128);
    for (size_t i = 0; i < N; i++)
        p->c[i] = montgomery(p->c[i] * scale);
}

/* One coefficient of the sum of products modulo X^2 - zeta (Algorithm 12), and the next. */
static inline void dot_pair(
        int16_t ret[2], const struct poly *const a[K], const struct vec *b, size_t i, int16_t zeta)
{
    int32_t low = 0, middle = 0, high = 0;

    for (size_t k = 0; k < K; k++) {
        const int16_t *x = a[k]->c + i, *y = b->p[k].c + i;

        low += x[0] * y[0];
        middle += x[0] * y[1] + x[1] * y[0];
        high += x[1] * y[1];
    }
    ret[0] = montgomery(low + montgomery(high) * zeta);
    ret[1] = montgomery(middle);
}

/* The product of two vectors in the NTT domain, with a factor 1/R. One of a and b is below Q in magnitude and
 * the other centred: the sums of six products then stay below 2^15 * Q, and one reduction at the end will do.
 */
static void dot(struct poly *ret, const struct poly *const a[K], const struct vec *b)
{
    for (size_t i = 0; i < N; i += 4) {
        int16_t zeta = zetas[64 + i / 4];

        dot_pair(ret->c + i, a, b, i, zeta);
        dot_pair(ret->c + i + 2, a, b, i + 2, (int16_t)-zeta);
    }
}

static void dot_vec(struct poly *ret, const struct vec *a, const struct vec *b)
{
    const struct poly *const row[K] = {&a->p[0], &a->p[1], &a->p[2]};

    dot(ret, row, b);
}

/* Algorithm 5, ByteEncode_d, of coefficients in [0, 2^d). */
static inline void encode(uint8_t *ret, const struct poly *p, unsigned d)
{
    for (size_t i = 0; i < N; i += 4) {
        uint64_t w = 0;

        for (unsigned j = 0; j < 4; j++)
            w |= (uint64_t)(uint16_t)p->c[i + j] << (d * j);
        for (unsigned j = 0; j < d / 2; j++)
            *ret++ = (uint8_t)(w >> (8 * j));
    }
}

/* Algorithm 6, ByteDecode_d; for d = 12 without the reduction modulo Q. */
static inline void decode(struct poly *ret, const uint8_t *in, unsigned d)
{
    for (size_t i = 0; i < N; i += 4) {
        uint64_t w = 0;

        for (unsigned j = 0; j < d / 2; j++)
            w |= (uint64_t)*in++ << (8 * j);
        for (unsigned j = 0; j < 4; j++)
            ret->c[i + j] = (int16_t)((w >> (d * j)) & ((1U << d) - 1));
    }
}

static void encode_vec(uint8_t ret[VEC_LEN], const struct vec *v)
{
    for (size_t k = 0; k < K; k++) {
        struct poly p = v->p[k];

        poly_canonical(&p);
        encode(ret + k * POLY_LEN, &p, 12);
        sodium_memzero(&p, sizeof(p));
    }
}

/* True when every coefficient was reduced. */
static bool decode_vec(struct vec *ret, const uint8_t in[VEC_LEN])
{
    uint32_t all_less = UINT32_MAX;

    for (size_t k = 0; k < K; k++) {
        decode(&ret->p[k], in + k * POLY_LEN, 12);
        for (size_t i = 0; i < N; i++)
            all_less &= (uint32_t)(ret->p[k].c[i] - Q);
    }
    all_less >>= 31;
    DECLASSIFY(&all_less, sizeof(all_less));
    return all_less == 1;
}

/* round(c * 2^d / Q) modulo 2^d, without a division, whose time could tell of c: the reciprocal is exact for
 * all numerators below 2^22, since its error times 2^22 stays under 2^34. */
static inline int16_t compress(int16_t c, unsigned d)
{
    const uint64_t reciprocal = ((UINT64_C(1) << 34) + Q - 1) / Q;
    uint64_t numerator = ((uint64_t)(uint16_t)canonical(c) << d) + Q / 2;

    return (int16_t)((numerator * reciprocal >> 34) & ((1U << d) - 1));
}

static inline int16_t decompress(int16_t c, unsigned d)
{
    return (int16_t)((c * Q + (1 << (d - 1))) >> d);
}

static inline void poly_compress(uint8_t *ret, struct poly *p, unsigned d)
{
    for (size_t i = 0; i < N; i++)
        p->c[i] = compress(p->c[i], d);
    encode(ret, p, d);
}

static inline void poly_decompress(struct poly *ret, const uint8_t *in, unsigned d)
{
    decode(ret, in, d);
    for (size_t i = 0; i < N; i++)
        ret->c[i] = decompress(ret->c[i], d);
}

static void poly_add_message(struct poly *p, const uint8_t m[SYM])
{
    for (size_t i = 0; i < N; i++) {
        uint32_t mask = opaque(-((uint32_t)(m[i / 8] >> (i % 8)) & 1));

        p->c[i] = (int16_t)(p->c[i] + (int16_t)(mask & ((Q + 1) / 2)));
    }
}

static void poly_to_message(uint8_t ret[SYM], const struct poly *p)
{
    for (size_t i = 0; i < SYM; i++) {
        unsigned byte = 0;

        for (unsigned j = 0; j < 8; j++)
            byte |= (unsigned)compress(p->c[8 * i + j], 1) << j;
        ret[i] = (uint8_t)byte;
    }
}

/* Takes what is below Q from a run of 12-bit numbers; how many of the N coefficients there are now. A number
 * is written before it is judged, which spares a branch that no processor predicts. */
static size_t reject(struct poly *p, size_t have, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i + 3 <= n && have < N; i += 3) {
        int d1 = in[i] | (in[i + 1] & 15) << 8;
        int d2 = in[i + 1] >> 4 | in[i + 2] << 4;

        p->c[have] = (int16_t)d1;
        have += d1 < Q;
        if (have == N)
            break;
        p->c[have] = (int16_t)d2;
        have += d2 < Q;
    }
    return have;
}

/* Algorithm 7, SampleNTT. Takes a varying time, over public bytes. */
static void sample_uniform(struct poly *ret, const uint8_t rho[SYM], size_t row, size_t column)
{
    const uint8_t index[2] = {(uint8_t)column, (uint8_t)row};
    uint8_t block[3 * SHAKE128_RATE];
    struct keccak xof;

    keccak_init(&xof, KECCAK_SHAKE128);
    keccak_absorb(&xof, rho, SYM);
    keccak_absorb(&xof, index, sizeof(index));
    keccak_squeeze(&xof, block, sizeof(block));
    for (size_t have = reject(ret, 0, block, sizeof(block)); have < N;) {
        keccak_squeeze(&xof, block, SHAKE128_RATE);
        have = reject(ret, have, block, SHAKE128_RATE);
    }
}

static void sample_matrix(struct vec row[K], const uint8_t rho[SYM])
{
    for (size_t i = 0; i < K; i++) {
        for (size_t j = 0; j < K; j++)
            sample_uniform(&row[i].p[j], rho, i, j);
    }
}

/* Algorithm 8, SamplePolyCBD with eta = 2. */
static void sample_binomial(struct poly *ret, const uint8_t in[CBD])
{
    for (size_t i = 0; i < N / 2; i++) {
        unsigned pairs = (in[i] & 0x55U) + (in[i] >> 1 & 0x55U);

        ret->c[2 * i] = (int16_t)((int)(pairs & 3) - (int)(pairs >> 2 & 3));
        ret->c[2 * i + 1] = (int16_t)((int)(pairs >> 4 & 3) - (int)(pairs >> 6));
    }
}

static void sample_noise(struct poly *ret, const uint8_t seed[SYM], size_t nonce)
{
    const uint8_t n = (uint8_t)nonce;
    uint8_t bytes[CBD];
    struct keccak prf;

    keccak_init(&prf, KECCAK_SHAKE256);
    keccak_absorb(&prf, seed, SYM);
    keccak_absorb(&prf, &n, 1);
    keccak_squeeze(&prf, bytes, sizeof(bytes));
    sample_binomial(ret, bytes);
    keccak_wipe(&prf);
    sodium_memzero(bytes, sizeof(bytes));
}

static void sample_noise_ntt(struct vec *ret, const uint8_t seed[SYM], size_t nonce)
{
    for (size_t k = 0; k < K; k++) {
        sample_noise(&ret->p[k], seed, nonce + k);
        ntt(&ret->p[k]);
    }
}

/* t = A s + e; the last product takes the factor 1/R of dot() out. */
static void combine_key(struct pubkey *pub, const struct vec *s, const struct vec *e)
{
    for (size_t i = 0; i < K; i++) {
        struct poly *t = &pub->t.p[i];

        dot_vec(t, &pub->row[i], s);
        for (size_t j = 0; j < N; j++)
            t->c[j] = montgomery(t->c[j] * TO_MONT(MONT_R));
        poly_add(t, &e->p[i]);
        poly_canonical(t);
    }
}

/* Algorithm 13, K-PKE.KeyGen. */
static void pke_keygen(
        const uint8_t d[SYM], struct pubkey *ret_pub, struct vec *ret_s, uint8_t ret_pk[MLKEM_PK_LEN])
{
    struct {
        uint8_t input[SYM + 1];
        uint8_t rho_sigma[2 * SYM];
        struct vec e;
    } w;
    uint8_t *rho = w.rho_sigma, *sigma = w.rho_sigma + SYM;

    memcpy(w.input, d, SYM);
    w.input[SYM] = K;
    sha3_512(w.input, sizeof(w.input), w.rho_sigma);
    DECLASSIFY(rho, SYM);
    sample_matrix(ret_pub->row, rho);
    sample_noise_ntt(ret_s, sigma, 0);
    sample_noise_ntt(&w.e, sigma, K);
    combine_key(ret_pub, ret_s, &w.e);
    encode_vec(ret_pk, &ret_pub->t);
    memcpy(ret_pk + VEC_LEN, rho, SYM);
    sodium_memzero(&w, sizeof(w));
}

static bool pubkey_load(struct pubkey *ret, const uint8_t pk[MLKEM_PK_LEN])
{
    if (!decode_vec(&ret->t, pk))
        return false;
    sample_matrix(ret->row, pk + VEC_LEN);
    return true;
}

/* Row i of the transposed matrix, times y, plus noise. */
static void encrypt_u(
        struct poly *ret, const struct pubkey *pub, size_t i, const struct vec *y, const uint8_t r[SYM])
{
    const struct poly *const column[K] = {&pub->row[0].p[i], &pub->row[1].p[i], &pub->row[2].p[i]};
    struct poly noise;

    dot(ret, column, y);
    inverse_ntt(ret);
    sample_noise(&noise, r, K + i);
    poly_add(ret, &noise);
    sodium_memzero(&noise, sizeof(noise));
}

static void encrypt_v(struct poly *ret, const struct pubkey *pub, const struct vec *y, const uint8_t m[SYM],
        const uint8_t r[SYM])
{
    struct poly noise;

    dot_vec(ret, &pub->t, y);
    inverse_ntt(ret);
    sample_noise(&noise, r, 2 * K);
    poly_add(ret, &noise);
    poly_add_message(ret, m);
    sodium_memzero(&noise, sizeof(noise));
}

/* Algorithm 14, K-PKE.Encrypt. */
static void pke_encrypt(
        const struct pubkey *pub, const uint8_t m[SYM], const uint8_t r[SYM], uint8_t ret_ct[MLKEM_CT_LEN])
{
    struct vec y;
    struct poly p;

    sample_noise_ntt(&y, r, 0);
    for (size_t i = 0; i < K; i++) {
        encrypt_u(&p, pub, i, &y, r);
        poly_compress(ret_ct + i * DU * N / 8, &p, DU);
    }
    encrypt_v(&p, pub, &y, m, r);
    poly_compress(ret_ct + CT_U_LEN, &p, DV);
    sodium_memzero(&y, sizeof(y));
    sodium_memzero(&p, sizeof(p));
}

/* Algorithm 15, K-PKE.Decrypt. */
static void pke_decrypt(const struct vec *s, const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_m[SYM])
{
    struct vec u;
    struct poly v, product;

    for (size_t k = 0; k < K; k++) {
        poly_decompress(&u.p[k], ct + k * DU * N / 8, DU);
        ntt(&u.p[k]);
    }
    poly_decompress(&v, ct + CT_U_LEN, DV);
    dot_vec(&product, s, &u);
    inverse_ntt(&product);
    for (size_t i = 0; i < N; i++)
        v.c[i] = (int16_t)(v.c[i] - product.c[i]);
    poly_to_message(ret_m, &v);
    sodium_memzero(&v, sizeof(v));
    sodium_memzero(&product, sizeof(product));
}

/* (K, r) = G(m || H(pk)). */
static void derive(const uint8_t m[SYM], const uint8_t h[SYM], uint8_t ret_kr[2 * SYM])
{
    uint8_t input[2 * SYM];

    memcpy(input, m, SYM);
    memcpy(input + SYM, h, SYM);
    sha3_512(input, sizeof(input), ret_kr);
    sodium_memzero(input, sizeof(input));
}

/* J(z || ct), the secret of a ciphertext that is refused. */
static void derive_rejected(const uint8_t z[SYM], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret[SYM])
{
    struct keccak j;

    keccak_init(&j, KECCAK_SHAKE256);
    keccak_absorb(&j, z, SYM);
    keccak_absorb(&j, ct, MLKEM_CT_LEN);
    keccak_squeeze(&j, ret, SYM);
    keccak_wipe(&j);
}

/* Algorithm 18 once the key is expanded. */
static void decaps_expanded(const struct pubkey *pub, const struct vec *s, const uint8_t h[SYM],
        const uint8_t z[SYM], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[SYM])
{
    struct {
        uint8_t m[SYM], kr[2 * SYM], rejected[SYM], ct[MLKEM_CT_LEN];
    } w;
    uint32_t differs;

    pke_decrypt(s, ct, w.m);
    derive(w.m, h, w.kr);
    derive_rejected(z, ct, w.rejected);
    pke_encrypt(pub, w.m, w.kr + SYM, w.ct);
    differs = opaque((uint32_t)sodium_memcmp(ct, w.ct, MLKEM_CT_LEN));
    for (size_t i = 0; i < SYM; i++)
        ret_ss[i] = (uint8_t)((w.kr[i] & ~differs) | (w.rejected[i] & differs));
    sodium_memzero(&w, sizeof(w));
}

/* Registers spilt and arrays copied further down, which no pointer reaches any more. The deepest chain of
 * calls below an operation, down to the permutation of Keccak, stays under this. */
static void wipe_stack(void)
{
    sodium_stackzero(16384);
}

static int builtin_keypair(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_pk[MLKEM_PK_LEN])
{
    struct pubkey pub;
    struct vec s;

    pke_keygen(seed, &pub, &s, ret_pk);
    sodium_memzero(&s, sizeof(s));
    wipe_stack();
    return 0;
}

static int builtin_encaps(const uint8_t pk[MLKEM_PK_LEN], const uint8_t rand[MLKEM_ENC_RAND_LEN],
        uint8_t ret_ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    struct pubkey pub;
    uint8_t h[SYM], kr[2 * SYM];

    if (!pubkey_load(&pub, pk))
        return MLKEM_BAD_KEY;
    sha3_256(pk, MLKEM_PK_LEN, h);
    derive(rand, h, kr);
    pke_encrypt(&pub, rand, kr + SYM, ret_ct);
    memcpy(ret_ss, kr, SYM);
    sodium_memzero(kr, sizeof(kr));
    wipe_stack();
    return 0;
}

static int builtin_decaps(
        const uint8_t seed[MLKEM_SEED_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    struct pubkey pub;
    struct vec s;
    uint8_t pk[MLKEM_PK_LEN], h[SYM];

    pke_keygen(seed, &pub, &s, pk);
    sha3_256(pk, sizeof(pk), h);
    decaps_expanded(&pub, &s, h, seed + SYM, ct, ret_ss);
    sodium_memzero(&s, sizeof(s));
    wipe_stack();
    return 0;
}

static int builtin_expand(const uint8_t seed[MLKEM_SEED_LEN], uint8_t ret_dk[MLKEM_DK_LEN])
{
    struct pubkey pub;
    struct vec s;
    uint8_t *pk = ret_dk + VEC_LEN, *h = pk + MLKEM_PK_LEN;

    pke_keygen(seed, &pub, &s, pk);
    encode_vec(ret_dk, &s);
    sha3_256(pk, MLKEM_PK_LEN, h);
    memcpy(h + SYM, seed + SYM, SYM);
    sodium_memzero(&s, sizeof(s));
    wipe_stack();
    return 0;
}

static bool hash_matches(const uint8_t dk[MLKEM_DK_LEN])
{
    const uint8_t *pk = dk + VEC_LEN;
    uint8_t h[SYM];

    sha3_256(pk, MLKEM_PK_LEN, h);
    return sodium_memcmp(h, pk + MLKEM_PK_LEN, SYM) == 0;
}

static int builtin_decaps_dk(
        const uint8_t dk[MLKEM_DK_LEN], const uint8_t ct[MLKEM_CT_LEN], uint8_t ret_ss[MLKEM_SS_LEN])
{
    const uint8_t *pk = dk + VEC_LEN, *h = pk + MLKEM_PK_LEN;
    struct pubkey pub;
    struct vec s;
    bool valid = decode_vec(&s, dk) && hash_matches(dk) && pubkey_load(&pub, pk);

    if (valid)
        decaps_expanded(&pub, &s, h, h + SYM, ct, ret_ss);
    sodium_memzero(&s, sizeof(s));
    wipe_stack();
    return valid ? 0 : MLKEM_BAD_KEY;
}

bool mlkem_pk_is_valid(const uint8_t pk[MLKEM_PK_LEN])
{
    struct vec t;

    return decode_vec(&t, pk);
}

bool mlkem_dk_is_valid(const uint8_t dk[MLKEM_DK_LEN])
{
    struct vec s;
    bool valid = decode_vec(&s, dk) && hash_matches(dk) && mlkem_pk_is_valid(dk + VEC_LEN);

    sodium_memzero(&s, sizeof(s));
    return valid;
}

const struct mlkem_backend *mlkem_builtin(void)
{
    static const struct mlkem_backend builtin = {
            .name = "builtin",
            .keypair = builtin_keypair,
            .encaps = builtin_encaps,
            .decaps = builtin_decaps,
            .expand = builtin_expand,
            .decaps_dk = builtin_decaps_dk,
    };

    return &builtin;
}
