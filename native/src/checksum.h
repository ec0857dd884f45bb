/*
 * checksum.h - the internet checksum (RFC 1071) in pieces, and its incremental update (RFC 1624).
 *
 * A sum is kept unfolded in 64 bits, over 16-bit words in memory order; mh_sum_fold() brings it into host order, so
 * that mh_put16be() of the result stores it. Pure functions.
 */
#ifndef MH_CHECKSUM_H
#define MH_CHECKSUM_H

#include "mh.h"

/* Adds n bytes (up to 64 KiB). Only the last piece of a sum may have an odd length. */
uint64_t mh_sum(uint64_t sum, const uint8_t *data, size_t n);

/* The same, and the bytes are copied to out (which does not overlap them). */
uint64_t mh_sum_copy(uint64_t sum, uint8_t *out, const uint8_t *data, size_t n);

/* The pseudo-header of TCP, UDP (and, with version 6, ICMPv6): addresses, protocol, length of the upper layer. */
uint64_t mh_sum_pseudo(uint8_t version, const uint8_t *src, const uint8_t *dst, uint8_t proto, uint32_t len);

uint16_t mh_sum_fold(uint64_t sum); /* not complemented */

/* The checksum to store; 0xFFFF is stored where UDP would read 0 as "none" (the caller decides: see udp). */
static inline uint16_t mh_checksum(uint64_t sum) { return (uint16_t)~mh_sum_fold(sum); }

/* Writes the IPv4 header checksum of a header of len bytes. */
void mh_checksum_ipv4(uint8_t *header, size_t len);

/* Sets the ECN bits of an IPv4 or IPv6 header, keeping the IPv4 checksum right. */
void mh_set_ecn(uint8_t *packet, uint8_t ecn);

#endif
