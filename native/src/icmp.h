/*
 * icmp.h - answers to a local sender whose packet goes nowhere: ICMP/ICMPv6 unreachable, TCP reset.
 *
 * Built as if the destination itself had answered, so that the local stack takes it from the TUN. Pure functions.
 */
#ifndef MH_ICMP_H
#define MH_ICMP_H

#include "facts.h"

#define MH_ANSWER_MAX 1280

/* Host unreachable (ICMPv6: address unreachable), as kernel WireGuard answers; or port unreachable, as a firewall rejects. */
enum mh_unreachable { MH_UNREACHABLE_HOST, MH_UNREACHABLE_PORT };

/* All write at most MH_ANSWER_MAX bytes and return the length; 0: such a packet is not answered (RFC 1122 3.2.2:
 * errors, later fragments, multicast; resets of resets). */
size_t mh_icmp_unreachable(enum mh_unreachable kind, const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out);
size_t mh_tcp_reset(const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out);
size_t mh_reject(const uint8_t *packet, size_t len, const mh_facts *f, uint8_t *out); /* reset for TCP, else port unreachable */

/* The kernel's icmp_msgs_per_sec and icmp_msgs_burst. */
#define MH_ANSWERS_PER_SECOND 1000
#define MH_ANSWERS_BURST 50

#endif
