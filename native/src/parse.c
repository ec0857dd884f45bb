/*
 * parse.c - reads one IP packet into facts, once, without trusting any length in it (facts.h).
 *
 * Order: the fixed IP header; the lengths it claims against the bytes that are there; IPv4 options or the IPv6
 * extension headers (a bounded number); the fragment fields; the fixed part of the TCP, UDP or ICMP header.
 * A packet whose parts contradict each other is refused, never guessed at: the receiver might guess otherwise.
 */
#include "facts.h"
#include "reasons.h"

enum { HOP_BY_HOP = 0, ICMP = 1, TCP = 6, UDP = 17, ROUTING = 43, FRAGMENT = 44, AH = 51, ICMP6 = 58, DESTINATION = 60 };

/* More than any sane sender uses (RFC 8200 4.1 lists six). */
#define MAX_EXTENSION_HEADERS 8

#define TCP_HEADER 20u
#define UDP_HEADER 8u
#define ICMP_HEADER 8u

/* What a broken packet is called: in a fragment it is a fragment trick (tiny first fragments, RFC 1858). */
static int bad(const mh_facts *f) { return f->fragment == MH_WHOLE ? MH_REASON_MALFORMED : MH_REASON_FRAGMENT_BAD; }

/* Fills in the fragment's facts. `before` is what precedes the fragmented part in the datagram put together again. */
static int fragment(mh_facts *f, uint32_t offset, bool more, uint32_t len, uint32_t before) {
    f->fragment = offset ? MH_LATER : MH_FIRST;
    f->frag_offset = offset;
    f->frag_len = len;
    f->more_fragments = more;
    if (len == 0 || (more && len % 8 != 0) || before + offset + len > MH_MAX_PACKET)
        return MH_REASON_FRAGMENT_BAD;
    return 0;
}

/* The transport header: p[0..len) is what follows the IP headers. */
static int transport(mh_facts *f, const uint8_t *p, uint32_t len) {
    if (f->fragment == MH_LATER) {
        /* It would overwrite what the first fragment's verdict was given for (RFC 1858, RFC 3128). */
        bool overlaps = f->proto == TCP && f->frag_offset < TCP_HEADER;
        return overlaps ? MH_REASON_FRAGMENT_BAD : 0;
    }
    if (f->proto == TCP || f->proto == UDP) {
        /* Both say a length: of the header, in words, or of the datagram. One path, as which one it is varies packet by
         * packet and a branch on it would be mispredicted. A first fragment holds less than the datagram claims. */
        const bool tcp = f->proto == TCP;
        const uint32_t least = tcp ? TCP_HEADER : UDP_HEADER;
        const uint32_t most = tcp || f->fragment == MH_WHOLE ? len : UINT16_MAX;
        if (len < least)
            return bad(f);
        const uint32_t field = mh_get16be(p + (tcp ? 12 : 4));
        const uint32_t claimed = tcp ? field >> 12 << 2 : field;
        if (claimed < least || claimed > most)
            return bad(f);
        f->has_ports = true;
        f->sport = mh_get16be(p);
        f->dport = mh_get16be(p + 2);
    } else if (f->proto == (f->version == 4 ? ICMP : ICMP6)) {
        if (len < ICMP_HEADER)
            return bad(f);
        f->has_icmp = true;
        f->icmp_type = p[0];
        f->icmp_code = p[1];
    }
    return 0;
}

static int parse4(const uint8_t *p, size_t len, mh_facts *f) {
    if (len < 20)
        return MH_REASON_MALFORMED;
    uint32_t header = (uint32_t)(p[0] & 15) * 4;
    uint32_t total = mh_get16be(p + 2);
    if (header < 20 || total < header || total > len)
        return MH_REASON_MALFORMED;
    f->tos = p[1];
    f->proto = p[9];
    f->header_len = (uint16_t)header;
    f->total_len = total;
    f->frag_id = mh_get16be(p + 4);
    memcpy(f->src, p + 12, 4);
    memcpy(f->dst, p + 16, 4);

    uint32_t field = mh_get16be(p + 6);
    uint32_t offset = (field & 0x1fff) * 8;
    bool more = field & 0x2000;
    if (offset || more) {
        int reason = fragment(f, offset, more, total - header, header);
        if (reason)
            return reason;
    }
    return transport(f, p + header, total - header);
}

static bool is_extension(uint8_t next) {
    const uint64_t extensions = UINT64_C(1) << HOP_BY_HOP | UINT64_C(1) << ROUTING | UINT64_C(1) << FRAGMENT |
                                UINT64_C(1) << AH | UINT64_C(1) << DESTINATION;
    return next < 64 && extensions >> next & 1;
}

/* Walks the extension headers: the first is `*next` at p + 40. 0: *next is the protocol, its header is at p + *where. */
static __attribute__((noinline)) int extensions(mh_facts *f, const uint8_t *p, uint32_t total, uint8_t *next, uint32_t *where) {
    uint32_t at = 40;
    bool fragmented = false; /* a fragment header was seen, atomic or not */
    for (int n = 0; is_extension(*next); n++) {
        uint32_t left = total - at;
        uint32_t size = 8; /* a fragment header's */
        if (*next == AH) {
            size = left < 12 ? 12 : ((uint32_t)p[at + 1] + 2) * 4;
            if (size < 12)
                return bad(f);
        } else if (*next != FRAGMENT) {
            if (*next == HOP_BY_HOP && at != 40) /* only ever the first (RFC 8200 4.1) */
                return bad(f);
            size = left < 8 ? 8 : ((uint32_t)p[at + 1] + 1) * 8;
        }
        if (n == MAX_EXTENSION_HEADERS || size > left)
            return bad(f);
        if (*next == FRAGMENT) {
            if (fragmented)
                return MH_REASON_FRAGMENT_BAD;
            fragmented = true;
            uint32_t field = mh_get16be(p + at + 2);
            f->frag_id = mh_get32be(p + at + 4);
            if (field & 0xfff9) {
                int reason = fragment(f, field & 0xfff8, field & 1, left - 8, at - 40);
                if (reason)
                    return reason;
            }
        }
        *next = p[at];
        at += size;
        if (f->fragment == MH_LATER) /* what follows is the middle of a datagram, not a header */
            break;
    }
    *where = at;
    return 0;
}

static int parse6(const uint8_t *p, size_t len, mh_facts *f) {
    if (len < 40)
        return MH_REASON_MALFORMED;
    uint32_t total = 40u + mh_get16be(p + 4); /* a jumbogram (RFC 2675) says 0 and is refused as truncated */
    if (total > len)
        return MH_REASON_MALFORMED;
    f->tos = (uint8_t)(p[0] << 4 | p[1] >> 4);
    f->total_len = total;
    memcpy(f->src, p + 8, 16);
    memcpy(f->dst, p + 24, 16);

    uint8_t next = p[6];
    uint32_t at = 40;
    if (is_extension(next)) {
        int reason = extensions(f, p, total, &next, &at);
        if (reason)
            return reason;
    }
    f->proto = next;
    f->header_len = (uint16_t)at;
    return transport(f, p + at, total - at);
}

int mh_parse(const uint8_t *packet, size_t len, mh_facts *facts) {
    memset(facts, 0, sizeof *facts);
    if (len == 0)
        return MH_REASON_MALFORMED;
    facts->version = packet[0] >> 4;
    if (facts->version == 4)
        return parse4(packet, len, facts);
    if (facts->version == 6)
        return parse6(packet, len, facts);
    return MH_REASON_MALFORMED;
}
