/*
 * poly1305_avx2.c - Poly1305 (RFC 8439 section 2.5) of four packets at a time, with AVX2.
 *
 * A 130-bit number is five limbs of 26 bits, each in a 64-bit lane; lane i is packet i. VPMULUDQ multiplies the lower
 * 32 bits of the lanes: 25 of them multiply by r modulo 2^130 - 5, where what passes 2^130 returns times 5. Four
 * blocks of each packet make one step, h = (h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r: the carries are paid once for 64
 * bytes, and only a quarter of the products wait for the step before. Bound: 100 products at two a cycle and 100
 * additions beside them for 256 bytes: 0.2 cycles a byte; with loads, limbs and carries about 0.35. What is left of a
 * packet (up to 63 bytes, and the block of lengths) goes block by block.
 *
 * Packets of other lengths in one vector: a lane that has no more input keeps its h by a mask made of lengths.
 *
 * Bounds: after carry() limbs are below 2^26 + 2^11; h + m below 2^27 + 2^11, 5 r below 2^28.4; a product below
 * 2^55.5, twenty of them below 2^60.
 */
#include "aead_wide.h"

#ifdef MH_WIDE_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE AVX2 static inline __attribute__((always_inline))

#define LANES 4
#define M26 _mm256_set1_epi64x((1ll << 26) - 1)
#define EACH_LIMB _Pragma("GCC unroll 5") for (int i = 0; i < 5; i++)

typedef struct {
    __m256i limb[5];
} number;

/* A power of r, and five times its upper limbs (fold[0] is not used). */
typedef struct {
    __m256i limb[5], fold[5];
} factor;

INLINE __m256i times5(__m256i x) { return _mm256_add_epi64(x, _mm256_slli_epi64(x, 2)); }

INLINE factor factor_of(number x) {
    factor f;
    EACH_LIMB {
        f.limb[i] = x.limb[i];
        f.fold[i] = times5(x.limb[i]);
    }
    return f;
}

/* sum += x * f, without carries: limb by limb of x, so that five sums and a product are all that needs a register. */
INLINE void multiply_add(number *sum, number x, const factor *f) {
    _Pragma("GCC unroll 5") for (int j = 0; j < 5; j++) {
        EACH_LIMB {
            const __m256i by = j <= i ? f->limb[i - j] : f->fold[5 + i - j];
            sum->limb[i] = _mm256_add_epi64(sum->limb[i], _mm256_mul_epu32(x.limb[j], by));
            MH_KEEP(sum->limb[i]);
        }
    }
}

/* Two chains of carries side by side: 0 -> 1 -> 2 -> 3 -> 4 and 3 -> 4 -> 0 -> 1. */
INLINE number carry(number d) {
#define CARRY(from, to)                                                                             \
    d.limb[to] = _mm256_add_epi64(d.limb[to], _mm256_srli_epi64(d.limb[from], 26));                  \
    d.limb[from] = _mm256_and_si256(d.limb[from], M26)
    CARRY(0, 1);
    CARRY(3, 4);
    CARRY(1, 2);
    const __m256i over = _mm256_srli_epi64(d.limb[4], 26);
    d.limb[4] = _mm256_and_si256(d.limb[4], M26);
    d.limb[0] = _mm256_add_epi64(d.limb[0], times5(over));
    CARRY(2, 3);
    CARRY(0, 1);
    CARRY(3, 4);
#undef CARRY
    return d;
}

INLINE number nothing(void) {
    number x;
    EACH_LIMB x.limb[i] = _mm256_setzero_si256();
    return x;
}

INLINE number product(number x, const factor *f) {
    number sum = nothing();
    multiply_add(&sum, x, f);
    return carry(sum);
}

INLINE number limbs_of(__m256i low, __m256i high) {
    return (number){{
        _mm256_and_si256(low, M26),
        _mm256_and_si256(_mm256_srli_epi64(low, 26), M26),
        _mm256_and_si256(_mm256_or_si256(_mm256_srli_epi64(low, 52), _mm256_slli_epi64(high, 12)), M26),
        _mm256_and_si256(_mm256_srli_epi64(high, 14), M26),
        _mm256_srli_epi64(high, 40),
    }};
}

/* A whole block of 16 bytes as a number, with the bit above it. */
INLINE number block_of(__m256i low, __m256i high) {
    number m = limbs_of(low, high);
    m.limb[4] = _mm256_or_si256(m.limb[4], _mm256_set1_epi64x(1ll << 24));
    return m;
}

INLINE number sum_of(number a, number b) {
    EACH_LIMB a.limb[i] = _mm256_add_epi64(a.limb[i], b.limb[i]);
    return a;
}

INLINE number chosen(__m256i lanes, number otherwise, number x) {
    EACH_LIMB x.limb[i] = _mm256_blendv_epi8(otherwise.limb[i], x.limb[i], lanes);
    return x;
}

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }

/* 32 bytes of each packet -> m[2b] and m[2b + 1]: the halves of block b, lane i of packet i. */
INLINE void load32(const uint8_t *const at[LANES], size_t offset, __m256i m[4]) {
    const __m256i a = load(at[0] + offset), b = load(at[1] + offset);
    const __m256i c = load(at[2] + offset), d = load(at[3] + offset);
    const __m256i low_ab = _mm256_unpacklo_epi64(a, b), high_ab = _mm256_unpackhi_epi64(a, b);
    const __m256i low_cd = _mm256_unpacklo_epi64(c, d), high_cd = _mm256_unpackhi_epi64(c, d);
    m[0] = _mm256_permute2x128_si256(low_ab, low_cd, 0x20);
    m[1] = _mm256_permute2x128_si256(high_ab, high_cd, 0x20);
    m[2] = _mm256_permute2x128_si256(low_ab, low_cd, 0x31);
    m[3] = _mm256_permute2x128_si256(high_ab, high_cd, 0x31);
}

/* power[0] = r^4 ... power[3] = r. */
INLINE number step(number h, const uint8_t *const at[LANES], const factor power[4]) {
    number sum = nothing();
    __m256i m[4];
    load32(at, 32, m);
    multiply_add(&sum, block_of(m[0], m[1]), &power[2]);
    multiply_add(&sum, block_of(m[2], m[3]), &power[3]);
    load32(at, 0, m);
    multiply_add(&sum, block_of(m[2], m[3]), &power[1]);
    multiply_add(&sum, sum_of(h, block_of(m[0], m[1])), &power[0]);
    return carry(sum);
}

INLINE __m256i key_half(const mh_wide_keys *keys, size_t first, int word) {
    const __m256i low = _mm256_cvtepu32_epi64(_mm_loadu_si128((const void *)&keys->word[word][first]));
    const __m256i high = _mm256_cvtepu32_epi64(_mm_loadu_si128((const void *)&keys->word[word + 1][first]));
    return _mm256_or_si256(low, _mm256_slli_epi64(high, 32));
}

/* The four tags: (h mod 2^130 - 5) + s mod 2^128, their lower halves and their upper ones. */
INLINE void finish(number h, const mh_wide_keys *keys, size_t first, __m256i *low, __m256i *high) {
    const __m256i m32 = _mm256_set1_epi64x(0xffffffff);
    for (int turn = 0; turn < 2; turn++) {
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
            h.limb[i + 1] = _mm256_add_epi64(h.limb[i + 1], _mm256_srli_epi64(h.limb[i], 26));
            h.limb[i] = _mm256_and_si256(h.limb[i], M26);
        }
        h.limb[0] = _mm256_add_epi64(h.limb[0], times5(_mm256_srli_epi64(h.limb[4], 26)));
        h.limb[4] = _mm256_and_si256(h.limb[4], M26);
    }
    /* g = h + 5 passes 2^130 if h >= p; then g - 2^130 is the residue. */
    number g;
    __m256i up = _mm256_set1_epi64x(5);
    EACH_LIMB {
        g.limb[i] = _mm256_add_epi64(h.limb[i], up);
        up = _mm256_srli_epi64(g.limb[i], 26);
        g.limb[i] = _mm256_and_si256(g.limb[i], M26);
    }
    h = chosen(_mm256_sub_epi64(_mm256_setzero_si256(), up), h, g);
    __m256i l = _mm256_add_epi64(h.limb[0], _mm256_slli_epi64(h.limb[1], 26));
    l = _mm256_or_si256(l, _mm256_slli_epi64(h.limb[2], 52));
    __m256i u = _mm256_or_si256(_mm256_srli_epi64(h.limb[2], 12), _mm256_slli_epi64(h.limb[3], 14));
    u = _mm256_or_si256(u, _mm256_slli_epi64(h.limb[4], 40));
    /* Plus s: its lower half in two sums of 32 bits each, as there is no carry to be had of 64. */
    const __m256i s = key_half(keys, first, 4);
    const __m256i a = _mm256_add_epi64(_mm256_and_si256(l, m32), _mm256_and_si256(s, m32));
    __m256i b = _mm256_add_epi64(_mm256_srli_epi64(l, 32), _mm256_srli_epi64(s, 32));
    b = _mm256_add_epi64(b, _mm256_srli_epi64(a, 32));
    *low = _mm256_or_si256(_mm256_and_si256(a, m32), _mm256_slli_epi64(b, 32));
    *high = _mm256_add_epi64(_mm256_add_epi64(u, key_half(keys, first, 6)), _mm256_srli_epi64(b, 32));
}

/* The last bytes of each packet: up to 63, padded to whole blocks, and the block of lengths. */
typedef struct {
    _Alignas(32) uint8_t bytes[LANES][96];
    uint32_t blocks[LANES]; /* 1..5 */
} tails;

INLINE void tail_of(tails *t, size_t lane, const mh_aead_job *job) {
    const uint32_t rest = job->len % 64, padded = (rest + 15) / 16 * 16;
    for (size_t i = 0; i < 3; i++)
        _mm256_store_si256((void *)(t->bytes[lane] + 32 * i), _mm256_setzero_si256());
    memcpy(t->bytes[lane], job->data + (job->len - rest), rest);
    mh_put32le(t->bytes[lane] + padded + 8, job->len);
    t->blocks[lane] = padded / 16 + 1;
}

/* Block by block: blocks[i] of them, at most 5, for lane i from from[i] on; whole pairs of blocks can be read. */
INLINE number by_blocks(number h, const uint8_t *const from[LANES], const uint32_t blocks[LANES], const factor *r) {
    uint32_t most = 0;
    __m256i m[4];
    for (size_t i = 0; i < LANES; i++)
        most = blocks[i] > most ? blocks[i] : most;
    for (uint32_t k = 0; k < most; k++) {
        const __m256i alive = _mm256_set_epi64x(-(k < blocks[3]), -(k < blocks[2]), -(k < blocks[1]), -(k < blocks[0]));
        load32(from, k / 2 * 32, m);
        const number block = k % 2 ? block_of(m[2], m[3]) : block_of(m[0], m[1]);
        h = chosen(alive, h, product(sum_of(h, block), r));
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
        _Alignas(32) int64_t alive[LANES];
        for (size_t i = 0; i < LANES; i++) {
            const bool more = k < chunks[i];
            alive[i] = -(int64_t)more;
            from[i] = more ? at[i] : nothing_left;
            at[i] += more ? 64 : 0;
        }
        h = chosen(load(alive), h, step(h, from, power));
    }
    return h;
}

AVX2 static void tags4(const mh_wide_keys *keys, size_t first, const mh_aead_job *jobs, size_t n,
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

    number h = nothing();
    const number r = limbs_of(_mm256_and_si256(key_half(keys, first, 0), _mm256_set1_epi64x(0x0ffffffc0fffffff)),
                              _mm256_and_si256(key_half(keys, first, 2), _mm256_set1_epi64x(0x0ffffffc0ffffffc)));
    const factor f = factor_of(r);
    if (least == 1 && most == 1) { /* not worth the powers of r */
        const uint32_t four[LANES] = {4, 4, 4, 4};
        h = by_blocks(h, at, four, &f);
    } else if (most) {
        h = by_chunks(h, at, chunks, least, most, r, &f);
    }
    h = by_blocks(h, end, t.blocks, &f);

    __m256i low, high;
    _Alignas(32) uint8_t all[2][2][MH_TAG_LEN]; /* of lanes 0 and 2, of lanes 1 and 3 */
    finish(h, keys, first, &low, &high);
    _mm256_store_si256((void *)all[0], _mm256_unpacklo_epi64(low, high));
    _mm256_store_si256((void *)all[1], _mm256_unpackhi_epi64(low, high));
    for (size_t lane = 0; lane < n; lane++)
        memcpy(tags[lane], all[lane % 2][lane / 2], MH_TAG_LEN);
}

void mh_poly1305_tags_avx2(const mh_wide_keys *keys, const mh_aead_job *jobs, size_t n, uint8_t (*tags)[MH_TAG_LEN]) {
    for (size_t first = 0; first < n; first += LANES)
        tags4(keys, first, jobs + first, n - first < LANES ? n - first : LANES, tags + first);
}

static bool supported(void) { return __builtin_cpu_supports("avx2"); }

AVX2 static void forget(void) { _mm256_zeroall(); }

const mh_wide mh_wide_avx2 = {
    .name = "avx2",
    .blocks = 8,
    .lanes = LANES,
    .cost = {.burst = 1300, .vector = 595, .step = 90, .packet = 1300, .block = 90},
    .supported = supported,
    .keys = mh_chacha20_keys_avx2,
    .crypt = mh_chacha20_crypt_avx2,
    .tags = mh_poly1305_tags_avx2,
    .forget = forget,
};
#endif
