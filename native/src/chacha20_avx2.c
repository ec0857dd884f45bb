/*
 * chacha20_avx2.c - ChaCha20 (RFC 8439 section 2.3), eight blocks at a time.
 *
 * Sixteen vectors of eight lanes hold the state, lane i of each belongs to block i, as in chacha20_avx512.c. AVX2
 * has no rotation: by 16 and by 8 it is one byte shuffle, by 12 and by 7 two shifts and an OR, so a quarter round is
 * 16 operations, six of which only two ports take. Bound: 80 quarter rounds at four operations a cycle for 512
 * bytes, 0.63 cycles a byte. There are sixteen registers for sixteen words and what the rotations need besides; so
 * the four quarter rounds are done two by two, and two words of the other two rest on the stack. Words 8 and 9 change
 * places with 10 and 11 twice in a double round, as the second pair of a column round and the first pair of the
 * diagonal round need the same two.
 */
#include "aead_wide.h"

#ifdef MH_WIDE_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE AVX2 static inline __attribute__((always_inline))

INLINE __m256i rotate16(__m256i x) {
    const __m256i by16 = _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5,
                                          10, 11, 8, 9, 14, 15, 12, 13);
    return _mm256_shuffle_epi8(x, by16);
}

INLINE __m256i rotate8(__m256i x) {
    const __m256i by8 = _mm256_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4, 5, 6,
                                         11, 8, 9, 10, 15, 12, 13, 14);
    return _mm256_shuffle_epi8(x, by8);
}

#define ROTATE(x, by) _mm256_or_si256(_mm256_slli_epi32(x, by), _mm256_srli_epi32(x, 32 - (by)))

INLINE void add(__m256i *x, __m256i y) {
    *x = _mm256_add_epi32(*x, y);
    MH_KEEP(*x);
}

/* x = (x ^ y) rotated. */
#define XOR_ROTATED(name, rotated)                       \
    INLINE void name(__m256i *x, __m256i y) {            \
        const __m256i both = _mm256_xor_si256(*x, y);    \
        *x = rotated;                                    \
        MH_KEEP(*x);                                     \
    }
XOR_ROTATED(xor16, rotate16(both))
XOR_ROTATED(xor12, ROTATE(both, 12))
XOR_ROTATED(xor8, rotate8(both))
XOR_ROTATED(xor7, ROTATE(both, 7))

/* Two quarter rounds, word by word side by side. */
INLINE void quarters(__m256i *a, __m256i *b, __m256i *c, __m256i *d, __m256i *e, __m256i *f, __m256i *g, __m256i *h) {
    add(a, *b), add(e, *f);
    xor16(d, *a), xor16(h, *e);
    add(c, *d), add(g, *h);
    xor12(b, *c), xor12(f, *g);
    add(a, *b), add(e, *f);
    xor8(d, *a), xor8(h, *e);
    add(c, *d), add(g, *h);
    xor7(b, *c), xor7(f, *g);
}

/* The twenty rounds. A copy of the words, whose indices are all known, as the caller's must lie in memory. */
INLINE void rounds(__m256i words[16]) {
    __m256i x[16], c01[2], c23[2] = {words[10], words[11]};
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) x[i] = words[i];
    __m256i c = x[8], g = x[9];
    MH_REST(c23);
    for (int i = 0; i < 10; i++) {
        quarters(&x[0], &x[4], &c, &x[12], &x[1], &x[5], &g, &x[13]);
        c01[0] = c, c01[1] = g;
        MH_REST(c01);
        c = c23[0], g = c23[1];
        quarters(&x[2], &x[6], &c, &x[14], &x[3], &x[7], &g, &x[15]);
        quarters(&x[0], &x[5], &c, &x[15], &x[1], &x[6], &g, &x[12]);
        c23[0] = c, c23[1] = g;
        MH_REST(c23);
        c = c01[0], g = c01[1];
        quarters(&x[2], &x[7], &c, &x[13], &x[3], &x[4], &g, &x[14]);
    }
    x[8] = c, x[9] = g, x[10] = c23[0], x[11] = c23[1];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) words[i] = x[i];
}

/* x becomes the words of the eight blocks: x[w] is word w of all. */
INLINE void blocks(const uint32_t key[8], __m256i number, __m256i low, __m256i high, __m256i x[16]) {
    static const uint32_t expand[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}; /* "expand 32-byte k" */
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) x[i] = _mm256_set1_epi32((int)expand[i]);
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) x[4 + i] = _mm256_set1_epi32((int)key[i]);
    x[12] = number;
    x[13] = _mm256_setzero_si256();
    x[14] = low;
    x[15] = high;
    rounds(x);
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) x[i] = _mm256_add_epi32(x[i], _mm256_set1_epi32((int)expand[i]));
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)
        x[4 + i] = _mm256_add_epi32(x[4 + i], _mm256_set1_epi32((int)key[i]));
    x[12] = _mm256_add_epi32(x[12], number);
    x[14] = _mm256_add_epi32(x[14], low);
    x[15] = _mm256_add_epi32(x[15], high);
}

/* x[w] is word w of all blocks -> x[2i] and x[2i + 1] are the halves of block i. */
INLINE void transpose(__m256i x[16]) {
    __m256i t[16];
    _Pragma("GCC unroll 4") for (int g = 0; g < 4; g++) {
        const __m256i ab = _mm256_unpacklo_epi32(x[4 * g], x[4 * g + 1]);
        const __m256i cd = _mm256_unpacklo_epi32(x[4 * g + 2], x[4 * g + 3]);
        const __m256i ef = _mm256_unpackhi_epi32(x[4 * g], x[4 * g + 1]);
        const __m256i gh = _mm256_unpackhi_epi32(x[4 * g + 2], x[4 * g + 3]);
        t[4 * g] = _mm256_unpacklo_epi64(ab, cd); /* words 4g..4g+3 of blocks 0 and 4 */
        t[4 * g + 1] = _mm256_unpackhi_epi64(ab, cd);
        t[4 * g + 2] = _mm256_unpacklo_epi64(ef, gh);
        t[4 * g + 3] = _mm256_unpackhi_epi64(ef, gh);
    }
    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
        x[2 * j] = _mm256_permute2x128_si256(t[j], t[4 + j], 0x20);
        x[2 * j + 1] = _mm256_permute2x128_si256(t[8 + j], t[12 + j], 0x20);
        x[8 + 2 * j] = _mm256_permute2x128_si256(t[j], t[4 + j], 0x31);
        x[9 + 2 * j] = _mm256_permute2x128_si256(t[8 + j], t[12 + j], 0x31);
    }
}

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }

INLINE void combine(uintptr_t at, __m256i first, __m256i second) {
    uint8_t *data = (uint8_t *)at;
    _mm256_storeu_si256((void *)data, _mm256_xor_si256(load(data), first));
    _mm256_storeu_si256((void *)(data + 32), _mm256_xor_si256(load(data + 32), second));
}

INLINE void combine_end(uintptr_t at, uint32_t len, __m256i first, __m256i second) {
    uint8_t part[64] = {0};
    memcpy(part, (const void *)at, len);
    combine((uintptr_t)part, first, second);
    memcpy((void *)at, part, len);
}

AVX2 void mh_chacha20_keys_avx2(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys) {
    _Alignas(32) uint32_t low[MH_WIDE], high[MH_WIDE];
    for (size_t i = 0; i < MH_WIDE; i++) {
        const uint64_t counter = jobs[i < n ? i : 0].counter;
        low[i] = (uint32_t)counter;
        high[i] = (uint32_t)(counter >> 32);
    }
    for (size_t first = 0; first < MH_WIDE; first += 8) {
        __m256i x[16];
        if (first < n) {
            blocks(key, _mm256_setzero_si256(), load(low + first), load(high + first), x);
        } else {
            _Pragma("GCC unroll 8") for (int w = 0; w < 8; w++) x[w] = _mm256_setzero_si256();
        }
        _Pragma("GCC unroll 8") for (int w = 0; w < 8; w++) _mm256_storeu_si256((void *)(keys->word[w] + first), x[w]);
    }
}

AVX2 void mh_chacha20_crypt_avx2(const uint32_t key[8], const mh_aead_job *jobs, size_t n) {
    mh_slots slots[2];
    mh_slot_cursor cursor = {.jobs = jobs, .n = n};
    mh_slots_clear(&slots[0]);
    mh_slots_clear(&slots[1]);
    mh_slots_fill(&slots[0], &cursor, 8);
    for (size_t now = 0; slots[now].filled; now ^= 1) {
        const mh_slots *s = &slots[now];
        __m256i x[16];
        mh_slots_fill(&slots[now ^ 1], &cursor, 8);
        blocks(key, load(s->block), load(s->low), load(s->high), x);
        transpose(x);
        if (s->whole == 8) {
            _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) combine(s->at[i], x[2 * i], x[2 * i + 1]);
        } else {
            for (size_t i = 0; i < s->whole; i++)
                combine(s->at[i], x[2 * i], x[2 * i + 1]);
            for (size_t i = s->whole; i < s->filled; i++)
                combine_end(s->at[i], s->len[i], x[2 * i], x[2 * i + 1]);
        }
    }
}
#endif
