/*
 * endpoint.h - where a peer is: its outer address, and the local address it spoke to (the sticky source).
 *
 * A plain value, shared with Python as these exact 48 bytes (native/endpoint.py). Threads: copy under the peer's lock.
 */
#ifndef MH_ENDPOINT_H
#define MH_ENDPOINT_H

#include <sys/socket.h>

#include "mh.h"

typedef struct {
    uint8_t family;       /* 0: none, 4, 6 */
    uint8_t local_family; /* 0: let the kernel choose; else = family */
    uint16_t port;        /* host order */
    uint32_t scope;       /* IPv6 scope id of addr */
    uint32_t ifindex;     /* interface of the sticky source, 0: any */
    uint32_t no_bursts;   /* sends to go without UDP_SEGMENT, which the path refused; 0 from outside */
    uint8_t addr[16];  /* IPv4 in the first 4 bytes */
    uint8_t local[16];
} mh_endpoint;

/* The same outer address and port; the sticky source does not count. */
bool mh_endpoint_same(const mh_endpoint *a, const mh_endpoint *b);

/* Address and port as a socket address, without the sticky source. Returns its length, 0 for no endpoint. */
socklen_t mh_endpoint_to_sockaddr(const mh_endpoint *e, struct sockaddr_storage *out);
bool mh_endpoint_from_sockaddr(mh_endpoint *e, const struct sockaddr_storage *from); /* false: other family */

#endif
