/*
 * fuzz_offload.c - a virtio header and a packet into split; wire packets into join.
 *
 * The first byte chooses. Split: what comes out must parse, keep within max_len, and hold the payload once, in order.
 * Join: every packet must come out once, each unit as long as its parts, and still parse.
 */
#include <stdlib.h>

#include "offload.h"

#define CHECK(claim) \
    do {             \
        if (!(claim)) abort(); \
    } while (0)

static void fuzz_split(const uint8_t *data, size_t size) {
    mh_vnet_hdr h;
    mh_facts f;
    mh_split s;
    if (size < sizeof h) return;
    memcpy(&h, data, sizeof h);
    size -= sizeof h;
    uint8_t *packet = malloc(size + 1); /* its own allocation, so that a read beyond it is seen */
    CHECK(packet);
    memcpy(packet, data + sizeof h, size);
    if (mh_parse(packet, size, &f) == 0 && mh_split_begin(&s, &h, packet, size, &f) == 0) {
        uint8_t *out = malloc(s.max_len);
        CHECK(out);
        uint32_t n = 0, len, payload = 0;
        while ((len = mh_split_next(&s, out)) != 0) {
            mh_facts g;
            n++;
            CHECK(len <= s.max_len);
            if (!s.split) continue;
            CHECK(mh_parse(out, len, &g) == 0 && g.total_len == len && g.proto == f.proto && g.header_len == f.header_len);
            CHECK(memcmp(g.src, f.src, 16) == 0 && memcmp(g.dst, f.dst, 16) == 0 && g.sport == f.sport && g.dport == f.dport);
            CHECK(memcmp(out + s.header_len, packet + s.header_len + payload, len - s.header_len) == 0);
            payload += len - s.header_len;
        }
        CHECK(n == s.count && (!s.split || payload == size - s.header_len));
        free(out);
    }
    free(packet);
}

static void fuzz_join(const uint8_t *data, size_t size) {
    static mh_join j;
    static uint8_t flat[1 << 17];
    uint8_t *kept[MH_JOIN_PACKETS];
    unsigned n = 0;
    size_t added = 0, headers = 0, written = 0;
    mh_join_reset(&j, MH_JOIN_TCP4 | MH_JOIN_TCP6 | MH_JOIN_UDP4 | MH_JOIN_UDP6);
    while (size > 2 && n < MH_JOIN_PACKETS) {
        const size_t wanted = mh_get16be(data), len = wanted < size - 2 ? wanted : size - 2;
        mh_facts f;
        uint8_t *p = malloc(len + 1);
        CHECK(p);
        memcpy(p, data + 2, len);
        data += 2 + len;
        size -= 2 + len;
        if (mh_parse(p, len, &f) != 0 || f.total_len != len) {
            free(p);
            continue;
        }
        kept[n++] = p;
        added += len;
        CHECK(mh_join_add(&j, p, (uint32_t)len, &f));
    }
    unsigned packets = 0;
    for (unsigned u = 0; u < j.units; u++) {
        struct iovec iov[MH_JOIN_PACKETS];
        mh_vnet_hdr h;
        mh_facts f;
        mh_split s;
        const size_t count = mh_join_emit(&j, u, &h, iov);
        size_t total = 0;
        CHECK(count == j.unit[u].count);
        for (size_t i = 0; i < count; i++) {
            CHECK(total + iov[i].iov_len <= sizeof flat);
            memcpy(flat + total, iov[i].iov_base, iov[i].iov_len);
            total += iov[i].iov_len;
        }
        packets += (unsigned)count;
        written += total;
        if (count == 1) continue;
        headers += (count - 1) * j.unit[u].header_len;
        CHECK(total == j.unit[u].total && mh_parse(flat, total, &f) == 0 && f.total_len == total);
        CHECK(mh_split_begin(&s, &h, flat, total, &f) == 0 && s.count == count);
    }
    CHECK(packets == n && written + headers == added);
    while (n) free(kept[--n]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    if (data[0] & 1)
        fuzz_join(data + 1, size - 1);
    else
        fuzz_split(data + 1, size - 1);
    return 0;
}
