/*
 * poly1305_avx512.c - Poly1305 (RFC 8439 section 2.5) of eight packets at a time, with AVX-512 IFMA.
 *
 * A 130-bit number is three limbs of 44, 44 and 42 bits, each in a 64-bit lane; lane i is packet i. VPMADD52LUQ and
 * VPMADD52HUQ add the low or high 52 bits of a product to a sum: 18 of them multiply by r modulo 2^130 - 5, where
 * what passes 2^132 returns times 20 (2^132 = 4 * 5 modulo p). Four blocks of each packet make one step,
 *
 *     h = (h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r,
 *
 * so that the carries are paid once for 64 bytes and only 18 of the 72 multiplications wait for the step before.
 * Bound: 72 VPMADD52 for 512 bytes at one a cycle, 0.14 cycles a byte, and 24 shuffles that turn the eight packets'
 * 64 bytes into lanes. What is left of a packet (up to 63 bytes, and the block of lengths) goes block by block.
 *
 * Packets of other lengths in one vector: a lane that has no more input keeps its h by a mask made of lengths.
 *
 * Bounds: after carry(), h0 < 2^44, h1 < 2^44 + 2^12, h2 < 2^42. Factors are below 2^45 (h + m) and 2^49 (20 r), so
 * low halves are below 2^52, high halves below 2^42; twelve of either fit 64 bits with room for the shifts by 8 and 10.
 */
#include "aead_wide.h"

#ifdef MH_WIDE_X86
#include <immintrin.h>

#define IFMA __attribute__((target("avx512f,avx512bw,avx512ifma")))
#define INLINE IFMA static inline __attribute__((always_inline))

#define LANES 8
#define M44 _mm512_set1_epi64((1ll << 44) - 1)
#define M42 _mm512_set1_epi64((1ll << 42) - 1)

typedef struct {
    __m512i limb[3];
} number;

/* A power of r, and 20 times its upper limbs. */
typedef struct {
    __m512i r0, r1, r2, s1, s2;
} factor;

/* Products before their carries: low[i] has weight 2^(44 i), high[i] 2^(44 i + 52). */
typedef struct {
    __m512i low[3], high[3];
} sums;

INLINE __m512i times5(__m512i x) { return _mm512_add_epi64(x, _mm512_slli_epi64(x, 2)); }

INLINE factor factor_of(number x) {
    return (factor){x.limb[0], x.limb[1], x.limb[2], _mm512_slli_epi64(times5(x.limb[1]), 2),
                    _mm512_slli_epi64(times5(x.limb[2]), 2)};
}

#define MADD(i, x, y)                                    \
    s->low[i] = _mm512_madd52lo_epu64(s->low[i], x, y);  \
    s->high[i] = _mm512_madd52hi_epu64(s->high[i], x, y)

INLINE void multiply_add(sums *s, number x, const factor *f) {
    MADD(0, x.limb[0], f->r0);
    MADD(1, x.limb[0], f->r1);
    MADD(2, x.limb[0], f->r2);
    MADD(0, x.limb[1], f->s2);
    MADD(1, x.limb[1], f->r0);
    MADD(2, x.limb[1], f->r1);
    MADD(0, x.limb[2], f->s1);
    MADD(1, x.limb[2], f->s2);
    MADD(2, x.limb[2], f->r0);
}

INLINE sums nothing(void) {
    const __m512i zero = _mm512_setzero_si512();
    return (sums){{zero, zero, zero}, {zero, zero, zero}};
}

INLINE number carry(const sums *s) {
    number h;
    __m512i d1 = _mm512_add_epi64(s->low[1], _mm512_slli_epi64(s->high[0], 8));
    __m512i d2 = _mm512_add_epi64(s->low[2], _mm512_slli_epi64(s->high[1], 8));
    d1 = _mm512_add_epi64(d1, _mm512_srli_epi64(s->low[0], 44));
    d2 = _mm512_add_epi64(d2, _mm512_srli_epi64(d1, 44));
    const __m512i over = _mm512_add_epi64(_mm512_srli_epi64(d2, 42), _mm512_slli_epi64(s->high[2], 10));
    const __m512i d0 = _mm512_add_epi64(_mm512_and_si512(s->low[0], M44), times5(over));
    h.limb[0] = _mm512_and_si512(d0, M44);
    h.limb[1] = _mm512_add_epi64(_mm512_and_si512(d1, M44), _mm512_srli_epi64(d0, 44));
    h.limb[2] = _mm512_and_si512(d2, M42);
    return h;
}

INLINE number product(number x, const factor *f) {
    sums s = nothing();
    multiply_add(&s, x, f);
    return carry(&s);
}

/* A whole block of 16 bytes as a number, with the bit above it. */
INLINE number block_of(__m512i low, __m512i high) {
    return (number){{_mm512_and_si512(low, M44),
                     _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64(low, 44), _mm512_slli_epi64(high, 20)), M44),
                     _mm512_or_si512(_mm512_srli_epi64(high, 24), _mm512_set1_epi64(1ll << 40))}};
}

INLINE number sum_of(number a, number b) {
    return (number){{_mm512_add_epi64(a.limb[0], b.limb[0]), _mm512_add_epi64(a.limb[1], b.limb[1]),
                     _mm512_add_epi64(a.limb[2], b.limb[2])}};
}

INLINE number chosen(__mmask8 lanes, number otherwise, number x) {
    return (number){{_mm512_mask_mov_epi64(otherwise.limb[0], lanes, x.limb[0]),
                     _mm512_mask_mov_epi64(otherwise.limb[1], lanes, x.limb[1]),
                     _mm512_mask_mov_epi64(otherwise.limb[2], lanes, x.limb[2])}};
}

/* 64 bytes of each packet -> m[2b] and m[2b + 1]: the halves of block b, lane i of packet i. */
INLINE void load64(const uint8_t *const at[LANES], __m512i m[8]) {
    __m512i u[8];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        const __m512i even = _mm512_loadu_si512(at[2 * i]), odd = _mm512_loadu_si512(at[2 * i + 1]);
        u[i] = _mm512_unpacklo_epi64(even, odd); /* the low halves of the four blocks of packets 2i, 2i + 1 */
        u[4 + i] = _mm512_unpackhi_epi64(even, odd);
    }
    _Pragma("GCC unroll 2") for (int h = 0; h < 2; h++) {
        const __m512i *v = u + 4 * h;
        const __m512i a = _mm512_shuffle_i64x2(v[0], v[1], 0x44), b = _mm512_shuffle_i64x2(v[0], v[1], 0xee);
        const __m512i c = _mm512_shuffle_i64x2(v[2], v[3], 0x44), d = _mm512_shuffle_i64x2(v[2], v[3], 0xee);
        m[h] = _mm512_shuffle_i64x2(a, c, 0x88);
        m[2 + h] = _mm512_shuffle_i64x2(a, c, 0xdd);
        m[4 + h] = _mm512_shuffle_i64x2(b, d, 0x88);
        m[6 + h] = _mm512_shuffle_i64x2(b, d, 0xdd);
    }
}

/* power[0] = r^4 ... power[3] = r. */
INLINE number step(number h, const uint8_t *const at[LANES], const factor power[4]) {
    __m512i m[8];
    sums s = nothing();
    load64(at, m);
    multiply_add(&s, block_of(m[2], m[3]), &power[1]);
    multiply_add(&s, block_of(m[4], m[5]), &power[2]);
    multiply_add(&s, block_of(m[6], m[7]), &power[3]);
    multiply_add(&s, sum_of(h, block_of(m[0], m[1])), &power[0]);
    return carry(&s);
}

/* Two words of eight packets' keys as 64-bit numbers. */
INLINE __m512i key_half(const mh_wide_keys *keys, size_t first, int word) {
    const __m512i low = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const void *)&keys->word[word][first]));
    const __m512i high = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const void *)&keys->word[word + 1][first]));
    return _mm512_or_si512(low, _mm512_slli_epi64(high, 32));
}

/* (h mod 2^130 - 5) + s mod 2^128. */
INLINE void finish(number h, __m512i s_low, __m512i s_high, size_t n, uint8_t (*tags)[MH_TAG_LEN]) {
    _Alignas(64) uint64_t low[LANES], high[LANES];
    __m512i h0 = h.limb[0], h1 = h.limb[1], h2 = h.limb[2];
    h2 = _mm512_add_epi64(h2, _mm512_srli_epi64(h1, 44));
    h1 = _mm512_and_si512(h1, M44);
    h0 = _mm512_add_epi64(h0, times5(_mm512_srli_epi64(h2, 42)));
    h2 = _mm512_and_si512(h2, M42);
    h1 = _mm512_add_epi64(h1, _mm512_srli_epi64(h0, 44));
    h0 = _mm512_and_si512(h0, M44);
    h2 = _mm512_add_epi64(h2, _mm512_srli_epi64(h1, 44)); /* may be 2^42 only if h1 and h0 are then tiny */
    h1 = _mm512_and_si512(h1, M44);
    /* g = h + 5 passes 2^130 if h >= p; then g - 2^130 is the residue. Twice 2^130 is out of reach. */
    __m512i g0 = _mm512_add_epi64(h0, _mm512_set1_epi64(5));
    __m512i g1 = _mm512_add_epi64(h1, _mm512_srli_epi64(g0, 44));
    __m512i g2 = _mm512_add_epi64(h2, _mm512_srli_epi64(g1, 44));
    const __m512i over = _mm512_sub_epi64(_mm512_setzero_si512(), _mm512_srli_epi64(g2, 42)); /* all ones, or zero */
    g0 = _mm512_and_si512(g0, M44);
    g1 = _mm512_and_si512(g1, M44);
    g2 = _mm512_and_si512(g2, M42);
    h0 = _mm512_or_si512(_mm512_and_si512(over, g0), _mm512_andnot_si512(over, h0));
    h1 = _mm512_or_si512(_mm512_and_si512(over, g1), _mm512_andnot_si512(over, h1));
    h2 = _mm512_or_si512(_mm512_and_si512(over, g2), _mm512_andnot_si512(over, h2));
    const __m512i one = _mm512_set1_epi64(1);
    const __m512i l = _mm512_or_si512(h0, _mm512_slli_epi64(h1, 44));
    const __m512i u = _mm512_or_si512(_mm512_srli_epi64(h1, 20), _mm512_slli_epi64(h2, 24));
    const __m512i sum = _mm512_add_epi64(l, s_low);
    const __mmask8 carried = _mm512_cmplt_epu64_mask(sum, s_low);
    const __m512i upper = _mm512_add_epi64(u, s_high);
    _mm512_store_si512(low, sum);
    _mm512_store_si512(high, _mm512_mask_add_epi64(upper, carried, upper, one));
    for (size_t i = 0; i < n; i++) {
        memcpy(tags[i], &low[i], 8);
        memcpy(tags[i] + 8, &high[i], 8);
    }
}

/* The last bytes of each packet: up to 63, padded to whole blocks, and the block of lengths. */
typedef struct {
    _Alignas(64) uint8_t bytes[LANES][128];
    uint32_t blocks[LANES]; /* 1..5 */
} tails;

INLINE void tail_of(tails *t, size_t lane, const mh_aead_job *job) {
    const uint32_t rest = job->len % 64, padded = (rest + 15) / 16 * 16;
    const uint64_t lengths[2] = {0, job->len};
    const __mmask64 part = ((__mmask64)1 << rest) - 1;
    _mm512_store_si512(t->bytes[lane], _mm512_maskz_loadu_epi8(part, job->data + (job->len - rest)));
    _mm512_store_si512(t->bytes[lane] + 64, _mm512_setzero_si512());
    memcpy(t->bytes[lane] + padded, lengths, 16);
    t->blocks[lane] = padded / 16 + 1;
}

/* Block by block: blocks[i] of them, at most 5, for lane i from from[i] on, where 64 bytes (128 if any lane has 5)
 * can be read. */
INLINE number by_blocks(number h, const uint8_t *const from[LANES], const uint32_t blocks[LANES], const factor *r) {
    __m512i m[10];
    uint32_t most = 0;
    for (size_t i = 0; i < LANES; i++)
        most = blocks[i] > most ? blocks[i] : most;
    load64(from, m);
    if (most == 5) {
        const uint8_t *last[LANES];
        __m512i fifth[8];
        for (size_t i = 0; i < LANES; i++)
            last[i] = from[i] + 64;
        load64(last, fifth);
        m[8] = fifth[0];
        m[9] = fifth[1];
    }
    for (uint32_t k = 0; k < most; k++) {
        __mmask8 alive = 0;
        for (size_t i = 0; i < LANES; i++)
            alive = (__mmask8)(alive | (unsigned)(k < blocks[i]) << i);
        h = chosen(alive, h, product(sum_of(h, block_of(m[2 * k], m[2 * k + 1])), r));
    }
    return h;
}

/* The chunks of 64 bytes: chunks[i] of them for lane i, none less than `least`, none more than `most`. */
INLINE number by_chunks(number h, const uint8_t *at[LANES], const uint32_t chunks[LANES], uint32_t least, uint32_t most,
                        number r, const factor *f) {
    static const uint8_t nothing_left[64];
    factor power[4];
    const number r2 = product(r, f);
    power[3] = *f;
    power[2] = factor_of(r2);
    power[1] = factor_of(product(r2, f));
    power[0] = factor_of(product(r2, &power[2]));
    for (uint32_t k = 0; k < least; k++) {
        h = step(h, at, power);
        for (size_t i = 0; i < LANES; i++)
            at[i] += 64;
    }
    for (uint32_t k = least; k < most; k++) {
        const uint8_t *from[LANES];
        __mmask8 alive = 0;
        for (size_t i = 0; i < LANES; i++) {
            const bool more = k < chunks[i];
            alive = (__mmask8)(alive | (unsigned)more << i);
            from[i] = more ? at[i] : nothing_left;
            at[i] += more ? 64 : 0;
        }
        h = chosen(alive, h, step(h, from, power));
    }
    return h;
}

IFMA static void tags8(const mh_wide_keys *keys, size_t first, const mh_aead_job *jobs, size_t n,
                       uint8_t (*tags)[MH_TAG_LEN]) {
    const uint8_t *at[LANES], *end[LANES];
    uint32_t chunks[LANES], least = UINT32_MAX, most = 0;
    tails t;
    for (size_t i = 0; i < LANES; i++) { /* lanes without a packet repeat the first one's */
        const mh_aead_job *job = &jobs[i < n ? i : 0];
        at[i] = job->data;
        chunks[i] = job->len / 64;
        least = chunks[i] < least ? chunks[i] : least;
        most = chunks[i] > most ? chunks[i] : most;
        tail_of(&t, i, job);
        end[i] = t.bytes[i];
    }

    number h = {{_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()}};
    const __m512i r_low = _mm512_and_si512(key_half(keys, first, 0), _mm512_set1_epi64(0x0ffffffc0fffffff));
    const __m512i r_high = _mm512_and_si512(key_half(keys, first, 2), _mm512_set1_epi64(0x0ffffffc0ffffffc));
    number r = block_of(r_low, r_high);
    r.limb[2] = _mm512_srli_epi64(r_high, 24);
    const factor f = factor_of(r);
    if (least == 1 && most == 1) { /* not worth the powers of r */
        const uint32_t four[LANES] = {4, 4, 4, 4, 4, 4, 4, 4};
        h = by_blocks(h, at, four, &f);
    } else if (most) {
        h = by_chunks(h, at, chunks, least, most, r, &f);
    }
    h = by_blocks(h, end, t.blocks, &f);
    finish(h, key_half(keys, first, 4), key_half(keys, first, 6), n, tags);
}

IFMA void mh_poly1305_tags_avx512(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n,
                                  uint8_t (*tags)[MH_TAG_LEN]) {
    for (size_t first = 0; first < n; first += LANES)
        tags8(keys, first, jobs + first, n - first < LANES ? n - first : LANES, tags + first);
}

static bool supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512ifma");
}

static void forget(void) {
    __asm__ volatile("vzeroall\n\t"
                     "vpxord %%zmm16, %%zmm16, %%zmm16\n\tvpxord %%zmm17, %%zmm17, %%zmm17\n\t"
                     "vpxord %%zmm18, %%zmm18, %%zmm18\n\tvpxord %%zmm19, %%zmm19, %%zmm19\n\t"
                     "vpxord %%zmm20, %%zmm20, %%zmm20\n\tvpxord %%zmm21, %%zmm21, %%zmm21\n\t"
                     "vpxord %%zmm22, %%zmm22, %%zmm22\n\tvpxord %%zmm23, %%zmm23, %%zmm23\n\t"
                     "vpxord %%zmm24, %%zmm24, %%zmm24\n\tvpxord %%zmm25, %%zmm25, %%zmm25\n\t"
                     "vpxord %%zmm26, %%zmm26, %%zmm26\n\tvpxord %%zmm27, %%zmm27, %%zmm27\n\t"
                     "vpxord %%zmm28, %%zmm28, %%zmm28\n\tvpxord %%zmm29, %%zmm29, %%zmm29\n\t"
                     "vpxord %%zmm30, %%zmm30, %%zmm30\n\tvpxord %%zmm31, %%zmm31, %%zmm31\n\t"
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15");
}

const mh_wide mh_wide_avx512 = {
    .name = "avx512",
    .blocks = 16,
    .lanes = LANES,
    .cost = {.burst = 1400, .vector = 740, .step = 100, .packet = 1300, .block = 72},
    .supported = supported,
    .keys = mh_chacha20_keys_avx512,
    .crypt = mh_chacha20_crypt_avx512,
    .tags = mh_poly1305_tags_avx512,
    .forget = forget,
};
#endif
