/* icmp.c - answers into the TUN. */
#include "icmp.h"

#include <netinet/in.h>

#include "checksum.h"

#define TTL 64
#define QUOTE_IPV4 548  /* RFC 1812 4.3.2.3: the whole message stays within 576 bytes */
#define QUOTE_IPV6 1232 /* RFC 4443 2.4: ... within 1280 */

static bool icmp_error(const mh_facts *f) {
    if (!f->has_icmp) return f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6; /* unreadable: better silent */
    if (f->version == 6) return f->icmp_type < 128 || f->icmp_type == 137;
    return f->icmp_type == 3 || f->icmp_type == 4 || f->icmp_type == 5 || f->icmp_type == 11 || f->icmp_type == 12;
}

/* From and to one host, which is another one? */
static bool answerable(const mh_facts *f) {
    static const uint8_t zero[16], loopback6[16] = {[15] = 1}, broadcast[4] = {255, 255, 255, 255};
    if (f->fragment == MH_LATER || icmp_error(f)) return false;
    if (f->version == 4)
        return f->src[0] != 0 && f->src[0] != 127 && f->src[0] < 224 && f->dst[0] < 224 && memcmp(f->dst, broadcast, 4) != 0;
    return f->src[0] != 0xFF && f->dst[0] != 0xFF && memcmp(f->src, zero, 16) != 0 && memcmp(f->src, loopback6, 16) != 0;
}

/* The IP header of an answer of payload bytes, addresses turned round. Returns its length. */
static size_t write_ip(uint8_t *out, const mh_facts *f, uint8_t proto, size_t payload) {
    if (f->version == 4) {
        memset(out, 0, 20);
        out[0] = 0x45;
        mh_put16be(out + 2, (uint16_t)(20 + payload));
        out[6] = 0x40; /* DF: atomic, so the id may be zero */
        out[8] = TTL;
        out[9] = proto;
        memcpy(out + 12, f->dst, 4);
        memcpy(out + 16, f->src, 4);
        mh_checksum_ipv4(out, 20);
        return 20;
    }
    memset(out, 0, 40);
    out[0] = 0x60;
    mh_put16be(out + 4, (uint16_t)payload);
    out[6] = proto;
    out[7] = TTL;
    memcpy(out + 8, f->dst, 16);
    memcpy(out + 24, f->src, 16);
    return 40;
}

size_t mh_icmp_unreachable(enum mh_unreachable kind, const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out) {
    if (!answerable(f)) return 0;
    const bool v4 = f->version == 4;
    const size_t most = v4 ? QUOTE_IPV4 : QUOTE_IPV6, quote = len < most ? len : most;
    const uint8_t proto = v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    const size_t at = write_ip(out, f, proto, 8 + quote);
    uint8_t *icmp = out + at;
    memset(icmp, 0, 8);
    icmp[0] = v4 ? 3 : 1;
    icmp[1] = v4 ? (kind == MH_UNREACHABLE_HOST ? 1 : 3) : (kind == MH_UNREACHABLE_HOST ? 3 : 4);
    memcpy(icmp + 8, packet, quote);
    const uint64_t sum = v4 ? 0 : mh_sum_pseudo(6, f->dst, f->src, proto, (uint32_t)(8 + quote));
    mh_put16be(icmp + 2, mh_checksum(mh_sum(sum, icmp, 8 + quote)));
    return at + 8 + quote;
}

size_t mh_tcp_reset(const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out) {
    if (!answerable(f) || f->proto != IPPROTO_TCP || f->fragment != MH_WHOLE || len < (size_t)f->header_len + 20) return 0;
    const uint8_t *tcp = packet + f->header_len;
    const uint8_t flags = tcp[13];
    if (flags & 0x04) return 0;
    const size_t header = (size_t)(tcp[12] >> 4) * 4;
    if (header < 20 || len < f->header_len + header) return 0;

    const size_t at = write_ip(out, f, IPPROTO_TCP, 20);
    uint8_t *reset = out + at;
    memset(reset, 0, 20);
    memcpy(reset, tcp + 2, 2);
    memcpy(reset + 2, tcp, 2);
    reset[12] = 5 << 4;
    if (flags & 0x10) { /* RFC 9293 3.10.7.1 */
        memcpy(reset + 4, tcp + 8, 4);
        reset[13] = 0x04;
    } else {
        const uint32_t taken = (uint32_t)(len - f->header_len - header) + ((flags & 0x02) != 0) + ((flags & 0x01) != 0);
        mh_put32be(reset + 8, mh_get32be(tcp + 4) + taken);
        reset[13] = 0x14;
    }
    mh_put16be(reset + 16, mh_checksum(mh_sum(mh_sum_pseudo(f->version, f->dst, f->src, IPPROTO_TCP, 20), reset, 20)));
    return at + 20;
}

size_t mh_reject(const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out) {
    return f->proto == IPPROTO_TCP ? mh_tcp_reset(packet, len, f, out)
                                   : mh_icmp_unreachable(MH_UNREACHABLE_PORT, packet, len, f, out);
}
