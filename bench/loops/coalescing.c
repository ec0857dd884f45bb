/*
 * coalescing.c - the loops for splitting a super-packet and for joining wire packets, beside loops.c.
 *
 * One measurement at a time: its super-packet and its packets stand in static variables, made by coalescing_setup().
 */
#include "checksum.h"
#include "offload.h"

#define PACKETS 64
#define ROOM 1536
#define IP_HEADER 20u

static uint8_t super[MH_MAX_PACKET], wire[PACKETS][ROOM];
static uint32_t lengths[PACKETS], super_len, count;
static mh_vnet_hdr header;
static mh_facts super_facts, facts[PACKETS];
static mh_join join;

int coalescing_setup(int tcp, uint32_t payload, uint32_t packets);
int split_all(void);
int join_all(void);

/* A super-packet of so many packets, each with so many bytes of payload, and the packets that it is made of. */
int coalescing_setup(int tcp, uint32_t payload, uint32_t packets) {
    const uint32_t l4 = tcp ? 32 : 8, headers = IP_HEADER + l4;
    super_len = headers + payload * packets;
    count = packets;
    if (packets > PACKETS || headers + payload > ROOM || super_len > MH_MAX_PACKET) return 0;
    for (uint32_t i = 0; i < super_len; i++) super[i] = (uint8_t)(i * 7);
    memset(super, 0, headers);
    super[0] = 0x45;
    mh_put16be(super + 2, (uint16_t)super_len);
    super[6] = 0x40; /* DF */
    super[8] = 64;
    super[9] = tcp ? 6 : 17;
    super[12] = super[16] = 10;
    super[19] = 1;
    uint8_t *p = super + IP_HEADER;
    mh_put16be(p, 40000);
    mh_put16be(p + 2, 5201);
    if (tcp) {
        p[12] = 8 << 4;
        p[13] = 0x10; /* ACK */
        p[20] = p[21] = 1;
        p[22] = 8;
        p[23] = 10; /* timestamps */
    } else {
        mh_put16be(p + 4, (uint16_t)(super_len - IP_HEADER));
        p[6] = 1; /* a zero would say that there is no checksum */
    }
    header = (mh_vnet_hdr){.flags = MH_VNET_NEEDS_CSUM, .gso_type = tcp ? MH_VNET_GSO_TCPV4 : MH_VNET_GSO_UDP_L4,
                           .hdr_len = (uint16_t)headers, .gso_size = (uint16_t)payload, .csum_start = IP_HEADER,
                           .csum_offset = tcp ? 16 : 6};
    if (mh_parse(super, super_len, &super_facts) != 0 || !split_all()) return 0;
    for (uint32_t i = 0; i < count; i++)
        if (mh_parse(wire[i], lengths[i], &facts[i]) != 0) return 0;
    return join_all();
}

int split_all(void) {
    mh_split s;
    uint32_t n = 0;
    if (mh_split_begin(&s, &header, super, super_len, &super_facts) != 0) return 0;
    while ((lengths[n] = mh_split_next(&s, wire[n])) != 0)
        if (++n == PACKETS) break;
    return n == count;
}

/* The first packet's headers are rewritten by emit: put back what a fresh one would have. */
int join_all(void) {
    uint8_t first[IP_HEADER + 32];
    struct iovec iov[MH_JOIN_PACKETS];
    mh_vnet_hdr h;
    memcpy(first, wire[0], sizeof first);
    mh_join_reset(&join, MH_JOIN_TCP4 | MH_JOIN_UDP4);
    for (uint32_t i = 0; i < count; i++) mh_join_add(&join, wire[i], lengths[i], &facts[i]);
    const int good = join.units == 1 && mh_join_emit(&join, 0, &h, iov) == count;
    memcpy(wire[0], first, sizeof first);
    return good;
}
