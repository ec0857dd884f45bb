/*
 * offload.c - split and join. See offload.h for the order of events.
 *
 * Field offsets: IPv4 total length 2, id 4, flags 6, TTL 8, checksum 10; IPv6 payload length 4, hop limit 7;
 * TCP sequence 4, ack 8, data offset 12, flags 13, window 14, checksum 16, urgent 18; UDP length 4, checksum 6.
 */
#include "offload.h"

#include <netinet/in.h>

#include "checksum.h"
#include "reasons.h"

#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_ECE 0x40
#define TCP_CWR 0x80
#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6

static const uint8_t *source(uint8_t version, const uint8_t *packet) { return packet + (version == 4 ? 12 : 8); }
static const uint8_t *destination(uint8_t version, const uint8_t *packet) { return packet + (version == 4 ? 16 : 24); }

static uint64_t pseudo(uint8_t version, uint8_t proto, const uint8_t *packet, uint32_t l4_len) {
    return mh_sum_pseudo(version, source(version, packet), destination(version, packet), proto, l4_len);
}

/* Sets the length fields of an IP header for a packet of len bytes. */
static void set_ip_length(uint8_t version, uint8_t *packet, uint32_t len) {
    if (version == 4)
        mh_put16be(packet + 2, (uint16_t)len);
    else
        mh_put16be(packet + 4, (uint16_t)(len - 40));
}

/* The pseudo-header's sum without its length. The field of an unfinished checksum holds it with the length of all: which
 * addresses are in it, the kernel alone knows, for behind a routing header or a source route it is the last destination. */
static uint64_t pseudo_of_all(const mh_split *s, uint32_t field) {
    if (!s->complete || s->csum_start != s->l4 || s->csum_offset != field) return pseudo(s->version, s->proto, s->packet, 0);
    uint8_t words[4];
    memcpy(words, s->packet + s->l4 + field, 2);
    mh_put16be(words + 2, (uint16_t)~(s->len - s->l4));
    return mh_sum(0, words, sizeof words);
}

static int begin_segments(mh_split *s, uint8_t type, const mh_facts *f) {
    const uint8_t proto = type == MH_VNET_GSO_UDP_L4 ? IPPROTO_UDP : IPPROTO_TCP;
    if (f->fragment != MH_WHOLE || f->proto != proto || (type == MH_VNET_GSO_TCPV4 && f->version != 4) ||
        (type == MH_VNET_GSO_TCPV6 && f->version != 6) || s->segment == 0)
        return MH_REASON_MALFORMED;
    uint32_t l4_header = 8;
    if (proto == IPPROTO_TCP) {
        if (s->len < s->l4 + 20) return MH_REASON_MALFORMED;
        l4_header = (uint32_t)(s->packet[s->l4 + 12] >> 4) * 4;
        if (l4_header < 20) return MH_REASON_MALFORMED;
    }
    s->header_len = s->l4 + l4_header;
    if (s->len <= s->header_len) return MH_REASON_MALFORMED;
    const uint32_t payload = s->len - s->header_len;
    s->pseudo = pseudo_of_all(s, proto == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM);
    s->split = true;
    s->complete = false; /* every segment's checksum is computed anyway */
    s->no_udp_checksum = proto == IPPROTO_UDP && mh_get16be(s->packet + s->l4 + UDP_CHECKSUM) == 0 && s->version == 4;
    s->count = (payload + s->segment - 1) / s->segment;
    s->max_len = s->header_len + (payload < s->segment ? payload : s->segment);
    return 0;
}

/* A checksum to finish is written behind the verdict: so it must be the transport's own, or one within what the transport
 * carries (a tunnel's), and never lie over addresses, ports or an ICMP type. */
static bool behind_what_is_judged(const mh_vnet_hdr *h, uint32_t l4, const mh_facts *f) {
    if (f->proto == IPPROTO_TCP) return (h->csum_start == l4 && h->csum_offset == TCP_CHECKSUM) || h->csum_start >= l4 + 20;
    if (f->proto == IPPROTO_UDP) return (h->csum_start == l4 && h->csum_offset == UDP_CHECKSUM) || h->csum_start >= l4 + 8;
    return h->csum_start >= l4 && (!f->has_icmp || (uint32_t)h->csum_start + h->csum_offset >= l4 + 2);
}

int mh_split_begin(mh_split *s, const mh_vnet_hdr *h, const uint8_t *packet, size_t len, const mh_facts *f) {
    memset(s, 0, sizeof *s);
    if (len > MH_MAX_PACKET || len != f->total_len || f->header_len > len) return MH_REASON_MALFORMED;
    s->packet = packet;
    s->len = s->max_len = (uint32_t)len;
    s->l4 = f->header_len;
    s->version = f->version;
    s->proto = f->proto;
    s->segment = h->gso_size;
    s->count = 1;
    if (h->flags & MH_VNET_NEEDS_CSUM) {
        if (!behind_what_is_judged(h, s->l4, f) || (size_t)h->csum_start + h->csum_offset + 2 > len) return MH_REASON_MALFORMED;
        s->complete = true;
        s->csum_start = h->csum_start;
        s->csum_offset = h->csum_offset;
    }
    switch (h->gso_type & ~MH_VNET_GSO_ECN) {
    case MH_VNET_GSO_NONE:
        return 0;
    case MH_VNET_GSO_TCPV4:
    case MH_VNET_GSO_TCPV6:
    case MH_VNET_GSO_UDP_L4:
        return begin_segments(s, (uint8_t)(h->gso_type & ~MH_VNET_GSO_ECN), f);
    default:
        return MH_REASON_MALFORMED;
    }
}

/* The one packet of a read that is no super-packet. */
static uint32_t next_whole(mh_split *s, uint8_t *out) {
    memcpy(out, s->packet, s->len);
    if (s->complete) {
        /* The field holds the pseudo-header's sum; a sum of zero is sent as its twin 0xFFFF, as the kernel does. */
        uint16_t sum = mh_checksum(mh_sum(0, out + s->csum_start, s->len - s->csum_start));
        mh_put16be(out + s->csum_start + s->csum_offset, sum ? sum : 0xFFFF);
    }
    return s->len;
}

uint32_t mh_split_next(mh_split *s, uint8_t *out) {
    if (s->index == s->count) return 0;
    const uint32_t i = s->index++;
    if (!s->split) return next_whole(s, out);

    const bool last = s->index == s->count;
    const uint32_t payload = last ? s->len - s->header_len - s->at : s->segment;
    const uint32_t len = s->header_len + payload, l4_len = len - s->l4;
    memcpy(out, s->packet, s->header_len);
    const uint64_t summed = mh_sum_copy(0, out + s->header_len, s->packet + s->header_len + s->at, payload);

    set_ip_length(s->version, out, len);
    if (s->version == 4) {
        mh_put16be(out + 4, (uint16_t)(mh_get16be(out + 4) + i));
        mh_checksum_ipv4(out, (size_t)(out[0] & 15) * 4);
    }
    uint8_t *l4 = out + s->l4;
    uint32_t field = UDP_CHECKSUM;
    if (s->proto == IPPROTO_TCP) {
        field = TCP_CHECKSUM;
        mh_put32be(l4 + 4, mh_get32be(l4 + 4) + s->at);
        if (!last) l4[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
        if (i > 0) l4[13] &= (uint8_t)~TCP_CWR;
    } else {
        mh_put16be(l4 + 4, (uint16_t)l4_len);
    }
    mh_put16be(l4 + field, 0);
    if (!s->no_udp_checksum) {
        uint8_t length[2];
        mh_put16be(length, (uint16_t)l4_len);
        const uint64_t header = mh_sum(mh_sum(s->pseudo, length, sizeof length), l4, s->header_len - s->l4);
        const uint16_t sum = mh_checksum(header + summed);
        mh_put16be(l4 + field, sum ? sum : 0xFFFF);
    }
    s->at += payload;
    return len;
}

void mh_join_reset(mh_join *j, unsigned kinds) {
    j->kinds = kinds;
    j->packets = j->units = j->open = 0;
}

static void close_unit(mh_join *j, unsigned slot) {
    memmove(j->opened + slot, j->opened + slot + 1, (j->open - slot - 1) * sizeof j->opened[0]);
    j->open--;
}

static bool same_flow(const mh_join_unit *u, const mh_join_unit *v, const uint8_t *a, const uint8_t *b) {
    return u->version == v->version && u->proto == v->proto &&
           memcmp(source(u->version, a), source(u->version, b), u->version == 4 ? 8 : 32) == 0 &&
           memcmp(a + u->l4, b + v->l4, 4) == 0;
}

/* Can packet b (described by v) follow unit u, whose first packet is a? Both are of the same flow and joinable. */
static bool follows(const mh_join_unit *u, const mh_join_unit *v, const uint8_t *a, const uint8_t *b) {
    const uint32_t payload = v->segment;
    if (u->push || u->l4 != v->l4 || u->header_len != v->header_len || payload > u->segment) return false;
    if (u->total != u->header_len + (uint32_t)u->count * u->segment) return false; /* a short one was the last */
    if (u->total + payload > MH_MAX_PACKET) return false;
    if (u->version == 4) {
        const uint16_t flags = mh_get16be(a + 6);
        if (a[1] != b[1] || a[8] != b[8] || flags != mh_get16be(b + 6)) return false;
        /* Without DF the id matters to reassembly; with it, it means nothing (RFC 6864). */
        if (!(flags & 0x4000) && u->next_id != mh_get16be(b + 4)) return false;
    } else if (memcmp(a, b, 4) != 0 || a[7] != b[7]) {
        return false;
    }
    if (u->proto == IPPROTO_UDP) return u->count < MH_JOIN_UDP_SEGMENTS;
    const uint8_t *s = a + u->l4, *t = b + v->l4;
    return mh_get32be(t + 4) == u->next_seq && memcmp(s + 8, t + 8, 5) == 0 && /* ack, data offset */
           ((s[13] ^ t[13]) & ~TCP_PSH) == 0 && memcmp(s + 14, t + 14, 2) == 0 &&
           memcmp(s + 20, t + 20, (size_t)(u->header_len - u->l4 - 20)) == 0;
}

/* Describes a packet as a unit of one. false: it can never be part of a larger one. */
static bool describe(const mh_join *j, mh_join_unit *v, const uint8_t *p, uint32_t len, const mh_facts *f) {
    const bool tcp = f->proto == IPPROTO_TCP;
    const unsigned kind = f->version == 4 ? (tcp ? MH_JOIN_TCP4 : MH_JOIN_UDP4) : (tcp ? MH_JOIN_TCP6 : MH_JOIN_UDP6);
    const uint32_t ip_header = f->version == 4 ? 20 : 40; /* no options, no extension headers */
    v->version = f->version;
    v->proto = f->proto;
    v->l4 = f->header_len;
    if (!(j->kinds & kind) || f->header_len != ip_header) return false;
    if (f->version == 4 && (p[0] != 0x45 || mh_sum_fold(mh_sum(0, p, 20)) != 0xFFFF)) return false;
    const uint8_t *l4 = p + ip_header;
    const uint32_t l4_len = len - ip_header;
    uint32_t header = 8;
    if (tcp) {
        if (l4_len < 20) return false;
        header = (uint32_t)(l4[12] >> 4) * 4;
        if (header < 20 || (l4[12] & 15) || (l4[13] & ~(TCP_PSH | TCP_ECE)) != TCP_ACK || mh_get16be(l4 + 18)) return false;
    } else if (l4_len < 8 || mh_get16be(l4 + 4) != l4_len || mh_get16be(l4 + UDP_CHECKSUM) == 0) {
        return false;
    }
    if (l4_len <= header) return false;
    if (mh_sum_fold(mh_sum(pseudo(f->version, f->proto, p, l4_len), l4, l4_len)) != 0xFFFF) return false;
    v->header_len = (uint16_t)(ip_header + header);
    v->segment = (uint16_t)(l4_len - header);
    v->push = tcp && (l4[13] & TCP_PSH);
    v->total = len;
    v->next_seq = tcp ? mh_get32be(l4 + 4) + v->segment : 0;
    v->next_id = f->version == 4 ? (uint16_t)(mh_get16be(p + 4) + 1) : 0;
    return true;
}

bool mh_join_add(mh_join *j, uint8_t *packet, uint32_t len, const mh_facts *f) {
    if (j->packets == MH_JOIN_PACKETS) return false;
    const uint16_t at = (uint16_t)j->packets++;
    j->packet[at] = (mh_join_packet){.data = packet, .len = len};

    mh_join_unit v = {.first = at, .last = at, .count = 1};
    const bool flow = f->has_ports && f->fragment == MH_WHOLE && (f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP);
    const bool joinable = flow && describe(j, &v, packet, len, f);
    if (!flow) j->open = 0; /* a fragment or another protocol may belong to any flow: nothing overtakes it */
    for (unsigned slot = 0; slot < j->open; slot++) {
        mh_join_unit *u = &j->unit[j->opened[slot]];
        const uint8_t *head = j->packet[u->first].data;
        if (!same_flow(u, &v, head, packet)) continue;
        if (joinable && follows(u, &v, head, packet)) {
            j->packet[u->last].next = at;
            u->last = at;
            u->count++;
            u->total += v.segment;
            u->push = v.push;
            u->next_seq = v.next_seq;
            u->next_id = v.next_id;
            return true;
        }
        close_unit(j, slot);
        break;
    }
    const uint16_t unit = (uint16_t)j->units++;
    j->unit[unit] = v;
    if (joinable) {
        if (j->open == MH_JOIN_OPEN) close_unit(j, 0);
        j->opened[j->open++] = unit;
    }
    return true;
}

size_t mh_join_emit(mh_join *j, unsigned index, mh_vnet_hdr *h, struct iovec *iov) {
    const mh_join_unit *u = &j->unit[index];
    uint8_t *head = j->packet[u->first].data;
    memset(h, 0, sizeof *h);
    iov[0] = (struct iovec){.iov_base = head, .iov_len = j->packet[u->first].len};
    if (u->count == 1) return 1;

    size_t n = 1;
    for (uint16_t at = j->packet[u->first].next; n < u->count; at = j->packet[at].next)
        iov[n++] = (struct iovec){.iov_base = j->packet[at].data + u->header_len, .iov_len = j->packet[at].len - u->header_len};

    set_ip_length(u->version, head, u->total);
    if (u->version == 4) mh_checksum_ipv4(head, 20);
    const uint32_t l4_len = u->total - u->l4;
    uint8_t *l4 = head + u->l4;
    const bool tcp = u->proto == IPPROTO_TCP;
    if (tcp) {
        if (u->push) l4[13] |= TCP_PSH;
        h->gso_type = u->version == 4 ? MH_VNET_GSO_TCPV4 : MH_VNET_GSO_TCPV6;
    } else {
        mh_put16be(l4 + 4, (uint16_t)l4_len);
        h->gso_type = MH_VNET_GSO_UDP_L4;
    }
    h->flags = MH_VNET_NEEDS_CSUM;
    h->hdr_len = u->header_len;
    h->gso_size = u->segment;
    h->csum_start = u->l4;
    h->csum_offset = tcp ? TCP_CHECKSUM : UDP_CHECKSUM;
    mh_put16be(l4 + h->csum_offset, mh_sum_fold(pseudo(u->version, u->proto, head, l4_len)));
    return n;
}
