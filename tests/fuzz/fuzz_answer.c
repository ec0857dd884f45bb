/*
 * fuzz_answer.c - a packet from the TUN into the answers to its sender: ICMP unreachable, TCP reset.
 *
 * An answer must keep within its limit, parse, go back to where the packet came from, and have right checksums.
 */
#include <stdlib.h>

#include "checksum.h"
#include "icmp.h"

#define CHECK(claim) \
    do {             \
        if (!(claim)) abort(); \
    } while (0)

static void check(const uint8_t *out, size_t len, const mh_facts *f) {
    mh_facts g;
    if (len == 0) return;
    CHECK(len <= MH_ANSWER_MAX && mh_parse(out, len, &g) == 0 && g.total_len == len && g.version == f->version);
    CHECK(memcmp(g.src, f->dst, 16) == 0 && memcmp(g.dst, f->src, 16) == 0 && f->fragment != MH_LATER);
    const uint32_t l4_len = (uint32_t)len - g.header_len;
    const uint64_t pseudo = g.proto == 1 ? 0 : mh_sum_pseudo(g.version, g.src, g.dst, g.proto, l4_len);
    CHECK(mh_sum_fold(mh_sum(pseudo, out + g.header_len, l4_len)) == 0xFFFF);
    CHECK(g.version == 6 || mh_sum_fold(mh_sum(0, out, g.header_len)) == 0xFFFF);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mh_facts f;
    uint8_t *packet = malloc(size + 1), *out = malloc(MH_ANSWER_MAX);
    CHECK(packet && out);
    memcpy(packet, data, size);
    if (mh_parse(packet, size, &f) == 0) {
        check(out, mh_icmp_unreachable(MH_UNREACHABLE_HOST, packet, f.total_len, &f, out), &f);
        check(out, mh_reject(packet, f.total_len, &f, out), &f);
    }
    free(packet);
    free(out);
    return 0;
}
