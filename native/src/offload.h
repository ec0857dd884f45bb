/*
 * offload.h - super-packets: split one (TSO, USO) into wire packets, join wire packets into one.
 *
 * Split: the kernel hands over up to 64 KiB with a virtio header; begin() checks header against packet, next() lays
 * one finished wire packet after the other (IP id, lengths, TCP sequence and flags, checksums).
 * Join: packets of a burst that follow each other within a TCP connection (or UDP flow) become one unit, to be
 * written with one virtio header. Within a flow the order never changes; a packet whose checksum is wrong is
 * never joined, so joining hides no damage. Units point into the caller's packets: those stay alive until written.
 * Pure functions over plain values; one thread at a time for each mh_split / mh_join.
 */
#ifndef MH_OFFLOAD_H
#define MH_OFFLOAD_H

#include <sys/uio.h>

#include "facts.h"
#include "mh.h"

/* struct virtio_net_hdr as the TUN device has it: 10 bytes, native byte order. */
typedef struct {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
} mh_vnet_hdr;
#define MH_VNET_HDR_LEN 10
#define MH_VNET_NEEDS_CSUM 1
#define MH_VNET_GSO_NONE 0
#define MH_VNET_GSO_TCPV4 1
#define MH_VNET_GSO_TCPV6 4
#define MH_VNET_GSO_UDP_L4 5
#define MH_VNET_GSO_ECN 0x80

typedef struct {
    const uint8_t *packet;
    uint32_t len;
    uint32_t header_len; /* what every segment repeats: IP and TCP/UDP headers */
    uint32_t l4;         /* offset of the upper-layer header */
    uint32_t segment;    /* payload bytes of every segment but the last */
    uint32_t at;         /* payload bytes already given out */
    uint32_t index, count;
    uint32_t max_len; /* of the longest wire packet */
    uint8_t version, proto;
    bool split, complete; /* complete: one packet, its checksum still to be finished */
    bool no_udp_checksum;
    uint64_t pseudo; /* of every segment's checksum, but for its length */
    uint16_t csum_start, csum_offset;
} mh_split;

/* 0, or MH_REASON_MALFORMED when header and packet do not fit. facts are mh_parse()'s of this very packet. */
int mh_split_begin(mh_split *s, const mh_vnet_hdr *h, const uint8_t *packet, size_t len, const mh_facts *facts);

/* Writes the next wire packet (at most max_len bytes) and returns its length; 0: there are no more. */
uint32_t mh_split_next(mh_split *s, uint8_t *out);

#define MH_JOIN_TCP4 1u
#define MH_JOIN_TCP6 2u
#define MH_JOIN_UDP4 4u
#define MH_JOIN_UDP6 8u
#define MH_JOIN_PACKETS 256
#define MH_JOIN_OPEN 16       /* flows joined at a time */
#define MH_JOIN_UDP_SEGMENTS 64 /* what every kernel with GSO_UDP_L4 takes */

typedef struct {
    uint8_t *data;
    uint32_t len;
    uint16_t next; /* the following packet of its unit */
} mh_join_packet;

typedef struct {
    uint16_t first, last, count;
    uint16_t segment;    /* payload of every packet but the last */
    uint16_t header_len; /* IP and TCP/UDP headers */
    uint16_t l4;         /* offset of the TCP/UDP header */
    uint8_t version, proto;
    bool push;      /* the last packet had PSH */
    uint32_t total; /* length of the joined packet */
    uint32_t next_seq;
    uint16_t next_id;
} mh_join_unit;

typedef struct {
    unsigned kinds; /* MH_JOIN_* that the device takes */
    unsigned packets, units, open;
    mh_join_packet packet[MH_JOIN_PACKETS];
    mh_join_unit unit[MH_JOIN_PACKETS];
    uint16_t opened[MH_JOIN_OPEN];
} mh_join;

void mh_join_reset(mh_join *j, unsigned kinds);

/* Adds a packet of exactly len bytes = its IP length. false: full, write the units first. */
bool mh_join_add(mh_join *j, uint8_t *packet, uint32_t len, const mh_facts *facts);

/* Makes unit u ready to write: its virtio header, and iovecs (at most MH_JOIN_PACKETS) in order. Rewrites the headers of
 * its first packet, so call it once. Returns the number of iovecs. */
size_t mh_join_emit(mh_join *j, unsigned u, mh_vnet_hdr *h, struct iovec *iov);

#endif
