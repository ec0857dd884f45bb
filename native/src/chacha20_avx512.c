/*
 * chacha20_avx512.c - ChaCha20 (RFC 8439 section 2.3), sixteen blocks at a time.
 *
 * Sixteen vectors hold the sixteen words of the state; lane i of each belongs to block i, which may be of any packet
 * and of any number. A round is then 4 x 12 vector operations (AVX-512 rotates in one), twenty rounds 960 for 1024
 * bytes. At two 512-bit operations a cycle that is 480 cycles, 0.47 cycles a byte: the bound this file aims at. The
 * 16 x 16 transposition at the end (64 shuffles, one a cycle) and the loads and stores of the data come on top, as
 * far as they do not overlap with the next sixteen blocks.
 *
 * The next slots are filled before the present ones are computed: a vector load soon after the narrow stores that
 * made its bytes would wait for them to leave the store queue.
 */
#include "aead_wide.h"

#ifdef MH_WIDE_X86
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw")))
#define INLINE AVX512 static inline __attribute__((always_inline))

/* Four quarter rounds at once: of the columns (turn 0) or of the diagonals (turn 1). A(i) is a's index in the i-th. */
INLINE void round4(__m512i x[16], const int turn) {
#define A(i) (i)
#define B(i) (4 + (i + turn) % 4)
#define C(i) (8 + (i + 2 * turn) % 4)
#define D(i) (12 + (i + 3 * turn) % 4)
#define HALF(to, from, turned, by)                                                                            \
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) x[to(i)] = _mm512_add_epi32(x[to(i)], x[from(i)]);    \
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) x[turned(i)] = _mm512_xor_si512(x[turned(i)], x[to(i)]); \
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) x[turned(i)] = _mm512_rol_epi32(x[turned(i)], by);
    HALF(A, B, D, 16)
    HALF(C, D, B, 12)
    HALF(A, B, D, 8)
    HALF(C, D, B, 7)
#undef A
#undef B
#undef C
#undef D
#undef HALF
}

/* x becomes the words of the sixteen blocks: x[w] is word w of all. */
INLINE void blocks(const uint32_t key[8], __m512i number, __m512i low, __m512i high, __m512i x[16]) {
    x[0] = _mm512_set1_epi32(0x61707865); /* "expand 32-byte k" */
    x[1] = _mm512_set1_epi32(0x3320646e);
    x[2] = _mm512_set1_epi32(0x79622d32);
    x[3] = _mm512_set1_epi32(0x6b206574);
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) x[4 + i] = _mm512_set1_epi32((int)key[i]);
    x[12] = number;
    x[13] = _mm512_setzero_si512();
    x[14] = low;
    x[15] = high;
    for (int i = 0; i < 10; i++) {
        round4(x, 0);
        round4(x, 1);
    }
    x[0] = _mm512_add_epi32(x[0], _mm512_set1_epi32(0x61707865));
    x[1] = _mm512_add_epi32(x[1], _mm512_set1_epi32(0x3320646e));
    x[2] = _mm512_add_epi32(x[2], _mm512_set1_epi32(0x79622d32));
    x[3] = _mm512_add_epi32(x[3], _mm512_set1_epi32(0x6b206574));
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++)
        x[4 + i] = _mm512_add_epi32(x[4 + i], _mm512_set1_epi32((int)key[i]));
    x[12] = _mm512_add_epi32(x[12], number);
    x[14] = _mm512_add_epi32(x[14], low);
    x[15] = _mm512_add_epi32(x[15], high);
}

/* x[w] is word w of all blocks -> x[i] is block i. */
INLINE void transpose(__m512i x[16]) {
    __m512i t[16];
    /* Inside each 128-bit part: t[4g + j] has words 4g..4g+3 of blocks j, 4+j, 8+j, 12+j. */
    _Pragma("GCC unroll 4") for (int g = 0; g < 4; g++) {
        const __m512i ab = _mm512_unpacklo_epi32(x[4 * g], x[4 * g + 1]);
        const __m512i cd = _mm512_unpacklo_epi32(x[4 * g + 2], x[4 * g + 3]);
        const __m512i ef = _mm512_unpackhi_epi32(x[4 * g], x[4 * g + 1]);
        const __m512i gh = _mm512_unpackhi_epi32(x[4 * g + 2], x[4 * g + 3]);
        t[4 * g] = _mm512_unpacklo_epi64(ab, cd);
        t[4 * g + 1] = _mm512_unpackhi_epi64(ab, cd);
        t[4 * g + 2] = _mm512_unpacklo_epi64(ef, gh);
        t[4 * g + 3] = _mm512_unpackhi_epi64(ef, gh);
    }
    /* And the 128-bit parts among each other. */
    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
        const __m512i a = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x44), b = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xee);
        const __m512i c = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x44);
        const __m512i d = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xee);
        x[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        x[4 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        x[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        x[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

INLINE void combine(uintptr_t at, __m512i stream) {
    void *data = (void *)at;
    _mm512_storeu_si512(data, _mm512_xor_si512(_mm512_loadu_si512(data), stream));
}

INLINE void combine_end(uintptr_t at, uint32_t len, __m512i stream) {
    void *data = (void *)at;
    _Alignas(64) uint8_t part[64]; /* Zen 4 takes a hundred cycles for a store under a mask of bytes */
    const __mmask64 bytes = ((__mmask64)1 << len) - 1;
    _mm512_store_si512(part, _mm512_xor_si512(_mm512_maskz_loadu_epi8(bytes, data), stream));
    memcpy(data, part, len);
}

AVX512 void mh_chacha20_keys_avx512(const uint32_t key[8], const mh_aead_job *jobs, size_t n, mh_wide_keys *keys) {
    _Alignas(64) uint32_t low[MH_WIDE], high[MH_WIDE];
    __m512i x[16];
    for (size_t i = 0; i < MH_WIDE; i++) {
        const uint64_t counter = jobs[i < n ? i : 0].counter;
        low[i] = (uint32_t)counter;
        high[i] = (uint32_t)(counter >> 32);
    }
    blocks(key, _mm512_setzero_si512(), _mm512_load_si512(low), _mm512_load_si512(high), x);
    _Pragma("GCC unroll 8") for (int w = 0; w < 8; w++) _mm512_store_si512(keys->word[w], x[w]);
}

AVX512 void mh_chacha20_crypt_avx512(const uint32_t key[8], const mh_aead_job *jobs, size_t n) {
    mh_slots slots[2];
    mh_slot_cursor cursor = {.jobs = jobs, .n = n};
    mh_slots_clear(&slots[0]);
    mh_slots_clear(&slots[1]);
    mh_slots_fill(&slots[0], &cursor, 16);
    for (size_t now = 0; slots[now].filled; now ^= 1) {
        const mh_slots *s = &slots[now];
        __m512i x[16];
        mh_slots_fill(&slots[now ^ 1], &cursor, 16);
        blocks(key, _mm512_load_si512(s->block), _mm512_load_si512(s->low), _mm512_load_si512(s->high), x);
        transpose(x);
        if (s->whole == 16) {
            _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) combine(s->at[i], x[i]);
        } else {
            for (size_t i = 0; i < s->whole; i++)
                combine(s->at[i], x[i]);
            for (size_t i = s->whole; i < s->filled; i++)
                combine_end(s->at[i], s->len[i], x[i]);
        }
    }
}
#endif
