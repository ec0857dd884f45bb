/*
 * endpoint.h - where a peer is: its outer address, and the local address it spoke to (the sticky source).
 *
 * A plain value, shared with Python as these exact 48 bytes (native/endpoint.py). Threads: copy under the peer's lock.
 */
#ifndef MH_ENDPOINT_H
#define MH_ENDPOINT_H

#include "mh.h"

typedef struct {
    uint8_t family;       /* 0: none, 4, 6 */
    uint8_t local_family; /* 0: let the kernel choose; else = family */
    uint16_t port;        /* host order */
    uint32_t scope;       /* IPv6 scope id of addr */
    uint32_t ifindex;     /* interface of the sticky source, 0: any */
    uint32_t unused;
    uint8_t addr[16];  /* IPv4 in the first 4 bytes */
    uint8_t local[16];
} mh_endpoint;

#endif
