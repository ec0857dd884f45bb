/*
 * facts.h - what the policy may know of a packet: parsed once, judged once.
 *
 * parse.c fills the packet's half, the caller the rest. verdict.c judges. Threads: plain values.
 */
#ifndef MH_FACTS_H
#define MH_FACTS_H

#include "mh.h"

enum mh_direction { MH_OUT = 0, MH_IN = 1, MH_FORWARD = 2 };
enum mh_iface { MH_LOOPBACK = 0, MH_TUNNEL = 1, MH_OTHER = 2 };
enum mh_fragment_kind { MH_WHOLE = 0, MH_FIRST = 1, MH_LATER = 2 }; /* an atomic fragment (RFC 6946) is whole */
enum mh_app { MH_APP_UNKNOWN = 0, MH_APP_SERVICE = 1, MH_APP_PROBLEM_REPORT = 2 }; /* which of our executables */

typedef struct {
    /* from the packet */
    uint8_t src[16], dst[16]; /* IPv4 in the first 4 bytes, the rest zero */
    uint8_t version; /* 4 or 6 */
    uint8_t proto;   /* the upper-layer protocol, after extension headers; of an IPv6 later fragment, what its
                        fragment header claims comes next */
    uint8_t fragment;
    bool has_ports; /* sport/dport are there (TCP, UDP, whole or first fragment) */
    bool has_icmp;  /* icmp_type/icmp_code are there (ICMP in IPv4, ICMPv6 in IPv6, whole or first fragment) */
    uint8_t icmp_type, icmp_code;
    uint8_t tos; /* TOS / traffic class byte, for ECN */
    uint16_t sport, dport;
    uint16_t header_len;  /* offset of the upper-layer header */
    uint32_t total_len;   /* as the IP header says; never more than the bytes that are there */
    uint32_t frag_id;     /* identification */
    uint32_t frag_offset; /* in bytes, of a first or later fragment */
    uint32_t frag_len;    /* bytes of the fragmented datagram that it carries */
    bool more_fragments;
    /* from the caller */
    uint8_t direction;
    uint8_t iface_in, iface_out; /* out: iface_out; in: iface_in; forward: both */
    bool reply;                  /* answers a flow that was allowed */
    bool has_uid;
    uint8_t app; /* enum mh_app, where the platform knows it */
    uint32_t uid;
    uint32_t mark;
} mh_facts;

/* Do two whole packets look the same to the policy and to the allowed IPs? Of the caller's facts, those of one direction. */
static inline bool mh_facts_alike(const mh_facts *a, const mh_facts *b) {
    return a->version == b->version && a->proto == b->proto && (a->fragment | b->fragment) == MH_WHOLE &&
           a->has_ports == b->has_ports && a->sport == b->sport && a->dport == b->dport && a->has_icmp == b->has_icmp &&
           a->icmp_type == b->icmp_type && a->icmp_code == b->icmp_code && memcmp(a->src, b->src, 16) == 0 &&
           memcmp(a->dst, b->dst, 16) == 0;
}

/* Reads an IP packet of len bytes without trusting any length in it. 0, or a reason (MH_REASON_MALFORMED,
 * MH_REASON_FRAGMENT_BAD). On success everything in "from the packet" is set and the rest zeroed. */
int mh_parse(const uint8_t *packet, size_t len, mh_facts *facts);

#endif
