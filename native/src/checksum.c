/* checksum.c - the internet checksum. The inner loop is plain 32-bit loads into 64-bit sums, which compilers vectorise. */
#include "checksum.h"

static inline __attribute__((always_inline)) uint64_t sum_words(uint64_t sum, const uint8_t *data, size_t words) {
    for (size_t i = 0; i < words; i++) {
        uint32_t v;
        memcpy(&v, data + 4 * i, 4);
        sum += v;
    }
    return sum;
}

/* The same loop for wider vectors: on receipt every inner packet is summed. */
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t sum_words_avx2(uint64_t sum, const uint8_t *data, size_t words) {
    return sum_words(sum, data, words);
}
#define WIDE(sum, data, words) \
    (__builtin_cpu_supports("avx2") ? sum_words_avx2(sum, data, words) : sum_words(sum, data, words))
#else
#define WIDE(sum, data, words) sum_words(sum, data, words)
#endif

uint64_t mh_sum(uint64_t sum, const uint8_t *data, size_t n) {
    const size_t words = n / 4;
    sum = words < 32 ? sum_words(sum, data, words) : WIDE(sum, data, words);
    data += 4 * words;
    n -= 4 * words;
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
