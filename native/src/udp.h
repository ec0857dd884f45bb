/*
 * udp.h - the outer sockets: bursts out by UDP_SEGMENT, bursts in by UDP_GRO, sticky source addresses, the TOS byte.
 *
 * Ownership: the file descriptors stay the caller's. Threads: any; the two offload flags may be cleared by a sender
 * that the kernel refuses. Order of a send: one sendmsg with UDP_SEGMENT; refused as a burst -> one by one with sendmmsg;
 * refused for its source address -> once more without; full -> a bounded wait, then the rest is lost. Receiving is
 * recvmmsg into an inbox of slots: where the kernel gives GRO bursts, few of them at a time; where datagrams come
 * singly, as many as there are slots.
 */
#ifndef MH_UDP_H
#define MH_UDP_H

#include <stdatomic.h>

#include "endpoint.h"
#include "mh.h"

#define MH_UDP_SEGMENTS 64      /* a send, as every kernel with UDP_SEGMENT takes */
#define MH_UDP_BURST_MAX 65000  /* bytes a send */
#define MH_UDP_MAX 65507        /* bytes in one datagram */

typedef struct {
    int fd4, fd6;        /* -1: none */
    uint16_t port4, port6; /* where we listen, host order */
    atomic_bool segment; /* UDP_SEGMENT works */
    bool gro;            /* UDP_GRO is on */
} mh_udp;

/* Looks at the sockets, switches on packet info, TOS and (with offload) GRO, and asks for large buffers. 0 or an errno. */
int mh_udp_init(mh_udp *u, int fd4, int fd6, bool offload);

typedef struct {
    uint8_t *data; /* frames laid end to end, every `stride` bytes; the last may be shorter */
    uint32_t stride, total;
    uint8_t tos;
} mh_udp_burst;

/* Sends a burst (a single datagram is a burst of one). 0, or the errno for which the rest of it was lost; *sent counts
 * the bytes that went out, *calls the system calls. A sticky source that no longer works is cleared in *to. */
int mh_udp_send(mh_udp *u, mh_endpoint *to, const mh_udp_burst *b, uint32_t *sent, uint32_t *calls);

typedef struct {
    uint8_t *data;
    uint32_t len;
    uint32_t segment; /* = len, or GRO's: this many bytes each, the last may be shorter */
    uint8_t tos;
    mh_endpoint from; /* with the local address it was sent to */
} mh_datagram;

#define MH_UDP_SLOTS 32

/* Where datagrams are received into: the memory of a slot is touched only as far as datagrams have filled it. One thread. */
typedef struct mh_udp_inbox mh_udp_inbox;
mh_udp_inbox *mh_udp_inbox_new(void); /* NULL: no memory */
void mh_udp_inbox_free(mh_udp_inbox *b); /* NULL is fine */

/* Receives datagrams and GRO bursts, which stay valid until the next call: *n of them from *first on (perhaps none: what is
 * truncated or of another family is gone). *more: there may be more. 0, or an errno (EAGAIN: none). */
int mh_udp_receive(mh_udp_inbox *b, int fd, const mh_datagram **first, unsigned *n, bool *more);

#endif
