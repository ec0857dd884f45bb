/* checksum.c - the internet checksum. On receipt every inner packet is summed, so long ones have a loop of their own. */
#include "checksum.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define BLOCK 64 /* bytes of the wide loop's step */
#define WIDE_FROM 128

/* Blocks as 16-bit words, each less by 32768, so that a signed multiply-add with ones sums them in pairs. out: NULL, or
 * where they are copied to. */
__attribute__((target("avx2"), always_inline)) static inline uint64_t sum_blocks(uint8_t *out, const uint8_t *data,
                                                                                 size_t blocks) {
    const __m256i ones = _mm256_set1_epi16(1), less = _mm256_set1_epi16(INT16_MIN);
    __m256i even = _mm256_setzero_si256(), odd = even; /* 32-bit lanes: 64 KiB are far from filling them */
    for (size_t i = 0; i < blocks; i++, data += BLOCK) {
        const __m256i first = _mm256_loadu_si256((const void *)data), second = _mm256_loadu_si256((const void *)(data + 32));
        if (out) {
            _mm256_storeu_si256((void *)(out + i * BLOCK), first);
            _mm256_storeu_si256((void *)(out + i * BLOCK + 32), second);
        }
        even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_xor_si256(first, less), ones));
        odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_xor_si256(second, less), ones));
    }
    int32_t lane[8];
    _mm256_storeu_si256((void *)lane, _mm256_add_epi32(even, odd));
    int64_t sum = (int64_t)blocks * (BLOCK / 2) * 32768;
    for (int i = 0; i < 8; i++) sum += lane[i];
    return (uint64_t)sum;
}

__attribute__((target("avx2"))) static uint64_t sum_wide(const uint8_t *data, size_t blocks) {
    return sum_blocks(NULL, data, blocks);
}

__attribute__((target("avx2"))) static uint64_t sum_copy_wide(uint8_t *out, const uint8_t *data, size_t blocks) {
    return sum_blocks(out, data, blocks);
}
#endif

uint64_t mh_sum(uint64_t sum, const uint8_t *data, size_t n) {
#if defined(__x86_64__)
    if (n >= WIDE_FROM && __builtin_cpu_supports("avx2")) {
        const size_t blocks = n / BLOCK;
        sum += sum_wide(data, blocks);
        data += blocks * BLOCK;
        n -= blocks * BLOCK;
    }
#endif
    for (; n >= 8; n -= 8, data += 8) {
        uint64_t v;
        memcpy(&v, data, 8);
        sum += (v & UINT32_MAX) + (v >> 32);
    }
    if (n >= 4) {
        uint32_t v;
        memcpy(&v, data, 4);
        sum += v;
        data += 4;
        n -= 4;
    }
    if (n >= 2) {
        uint16_t v;
        memcpy(&v, data, 2);
        sum += v;
        data += 2;
        n -= 2;
    }
    if (n) {
        const uint8_t last[2] = {data[0], 0};
        uint16_t v;
        memcpy(&v, last, 2);
        sum += v;
    }
    return sum;
}

uint64_t mh_sum_copy(uint64_t sum, uint8_t *out, const uint8_t *data, size_t n) {
    size_t done = 0;
#if defined(__x86_64__)
    if (n >= WIDE_FROM && __builtin_cpu_supports("avx2")) {
        done = n / BLOCK * BLOCK;
        sum += sum_copy_wide(out, data, n / BLOCK);
    }
#endif
    memcpy(out + done, data + done, n - done);
    return mh_sum(sum, data + done, n - done);
}

uint64_t mh_sum_pseudo(uint8_t version, const uint8_t *src, const uint8_t *dst, uint8_t proto, uint32_t len) {
    size_t n = version == 4 ? 4 : 16;
    uint8_t tail[8] = {0};
    mh_put32be(tail, len);
    tail[7] = proto;
    return mh_sum(mh_sum(mh_sum(0, src, n), dst, n), tail, sizeof tail);
}

uint16_t mh_sum_fold(uint64_t sum) {
    sum = (sum >> 32) + (sum & 0xFFFFFFFF);
    sum = (sum >> 32) + (sum & 0xFFFFFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    const uint16_t folded = (uint16_t)sum;
    uint8_t bytes[2];
    memcpy(bytes, &folded, 2);
    return mh_get16be(bytes);
}

void mh_checksum_ipv4(uint8_t *header, size_t len) {
    mh_put16be(header + 10, 0);
    mh_put16be(header + 10, mh_checksum(mh_sum(0, header, len)));
}

void mh_set_ecn(uint8_t *packet, uint8_t ecn) {
    if (packet[0] >> 4 == 6) {
        packet[1] = (uint8_t)((packet[1] & 0xCF) | ((ecn & 3) << 4));
        return;
    }
    /* RFC 1624: HC' = ~(~HC + ~m + m'), m being the word version/IHL, TOS */
    const uint16_t before = mh_get16be(packet);
    packet[1] = (uint8_t)((packet[1] & 0xFC) | (ecn & 3));
    uint32_t sum = (uint32_t)(uint16_t)~mh_get16be(packet + 10) + (uint16_t)~before + mh_get16be(packet);
    sum = (sum >> 16) + (sum & 0xFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    mh_put16be(packet + 10, (uint16_t)~sum);
}
