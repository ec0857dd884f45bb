/* udp.c - bursts on the outer sockets. See udp.h for the order of events. */
#include "udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define BUFFER_BYTES (8 * 1024 * 1024)
#define SENDS_WITHOUT_BURST 256 /* after a path has refused one (its MTU is smaller than our messages): then try again */
#define WAIT_MS 2 /* for a full send buffer; bounded, because a publisher may be waiting for this batch */

static void ask(int fd, int level, int name, int value) { (void)setsockopt(fd, level, name, &value, sizeof value); }

static int init_socket(int fd, int family, bool offload, uint16_t *port, bool *gro) {
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len) < 0) return errno;
    if (address.ss_family != family) return EAFNOSUPPORT;
    mh_endpoint local;
    mh_endpoint_from_sockaddr(&local, &address);
    *port = local.port;
    if (family == AF_INET) {
        ask(fd, IPPROTO_IP, IP_PKTINFO, 1);
        ask(fd, IPPROTO_IP, IP_RECVTOS, 1);
    } else {
        ask(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
        ask(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    }
    ask(fd, SOL_SOCKET, SO_SNDBUF, BUFFER_BYTES);
    ask(fd, SOL_SOCKET, SO_RCVBUF, BUFFER_BYTES);
    ask(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES);
    ask(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES);
    const int on = offload;
    if (setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) < 0) *gro = false;
    return 0;
}

int mh_udp_init(mh_udp *u, int fd4, int fd6, bool offload) {
    u->fd4 = fd4;
    u->fd6 = fd6;
    u->port4 = u->port6 = 0;
    bool segment = offload, gro = offload;
    for (int i = 0; i < 2; i++) {
        const int fd = i ? fd6 : fd4;
        if (fd < 0) continue;
        const int error = init_socket(fd, i ? AF_INET6 : AF_INET, offload, i ? &u->port6 : &u->port4, &gro);
        if (error) return error;
        int value;
        socklen_t len = sizeof value;
        if (getsockopt(fd, SOL_UDP, UDP_SEGMENT, &value, &len) < 0) segment = false;
    }
    atomic_store(&u->segment, segment);
    u->gro = gro;
    return 0;
}

/* Room for packet info, TOS and segment size. */
typedef union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t))];
} control;

static void add_control(struct msghdr *m, int level, int type, const void *data, size_t len) {
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)m->msg_control + m->msg_controllen);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), data, len);
    m->msg_controllen += CMSG_SPACE(len);
}

/* The sticky source is the address alone: a fixed interface would outlive a change of route. */
static void build_control(struct msghdr *m, control *space, const mh_endpoint *to, uint8_t tos, uint16_t segment) {
    memset(space, 0, sizeof *space);
    m->msg_control = space;
    m->msg_controllen = 0;
    if (to->local_family == 4 && to->family == 4) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, to->local, 4);
        add_control(m, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else if (to->local_family == 6 && to->family == 6) {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, to->local, 16);
        if (to->local[0] == 0xFE && (to->local[1] & 0xC0) == 0x80) info.ipi6_ifindex = to->ifindex;
        add_control(m, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    if (tos) {
        const int value = tos;
        add_control(m, to->family == 4 ? IPPROTO_IP : IPPROTO_IPV6, to->family == 4 ? IP_TOS : IPV6_TCLASS, &value,
                    sizeof value);
    }
    if (segment) add_control(m, SOL_UDP, UDP_SEGMENT, &segment, sizeof segment);
    if (m->msg_controllen == 0) m->msg_control = NULL;
}

static bool full(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS; }

static bool wait_writable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, WAIT_MS) > 0;
}

/* sendmsg with one bounded wait. 0 or an errno. */
static int send_message(int fd, const struct msghdr *m, uint32_t *calls) {
    for (bool waited = false;; waited = true) {
        ++*calls;
        if (sendmsg(fd, m, MSG_NOSIGNAL) >= 0) return 0;
        if (errno == EINTR) continue;
        if (!full(errno) || waited || !wait_writable(fd)) return errno;
    }
}

/* The frames one by one: for kernels and paths that take no bursts. */
static int send_frames(int fd, const struct msghdr *like, const mh_udp_burst *b, uint32_t *sent, uint32_t *calls) {
    struct mmsghdr messages[MH_UDP_SEGMENTS];
    struct iovec iov[MH_UDP_SEGMENTS];
    uint32_t at = 0;
    bool waited = false;
    while (at < b->total) {
        unsigned n = 0;
        for (uint32_t from = at; from < b->total && n < MH_UDP_SEGMENTS; from += b->stride, n++) {
            const uint32_t left = b->total - from;
            iov[n] = (struct iovec){.iov_base = b->data + from, .iov_len = left < b->stride ? left : b->stride};
            messages[n] = (struct mmsghdr){.msg_hdr = *like};
            messages[n].msg_hdr.msg_iov = &iov[n];
            messages[n].msg_hdr.msg_iovlen = 1;
        }
        ++*calls;
        const int done = sendmmsg(fd, messages, n, MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EINTR) continue;
            if (!full(errno) || waited || !wait_writable(fd)) return errno;
            waited = true;
            continue;
        }
        waited = false;
        for (int i = 0; i < done; i++) {
            at += (uint32_t)iov[i].iov_len;
            *sent += (uint32_t)iov[i].iov_len;
        }
    }
    return 0;
}

/* Errors of a source address or route that is gone; EINVAL is also what a burst over the path's MTU gives, so that is tried first. */
static bool source_gone(int error) {
    return error == EINVAL || error == EADDRNOTAVAIL || error == ENETUNREACH || error == EHOSTUNREACH || error == ENODEV ||
           error == ENXIO;
}

int mh_udp_send(mh_udp *u, mh_endpoint *to, const mh_udp_burst *b, uint32_t *sent, uint32_t *calls) {
    struct sockaddr_storage address;
    const socklen_t address_len = mh_endpoint_to_sockaddr(to, &address);
    const int fd = to->family == 4 ? u->fd4 : u->fd6;
    if (!address_len) return EDESTADDRREQ;
    if (fd < 0) return EAFNOSUPPORT;

    control space;
    struct iovec iov = {.iov_base = b->data, .iov_len = b->total};
    struct msghdr m = {.msg_name = &address, .msg_namelen = address_len, .msg_iov = &iov, .msg_iovlen = 1};
    const bool many = b->total > b->stride;
    bool refused = false;
    bool burst = many && atomic_load_explicit(&u->segment, memory_order_relaxed);
    if (burst && to->no_bursts) {
        to->no_bursts--;
        burst = false;
    }
    for (;;) {
        build_control(&m, &space, to, b->tos, burst ? (uint16_t)b->stride : 0);
        int error;
        if (burst || !many) {
            error = send_message(fd, &m, calls);
            if (!error) *sent += b->total;
        } else {
            error = send_frames(fd, &m, b, sent, calls);
        }
        if (error && burst && (error == EIO || error == EINVAL || error == EMSGSIZE || error == EOPNOTSUPP)) {
            /* EIO: the outgoing device cannot checksum bursts, so stop trying. The others are this path's or this size's. */
            if (error == EIO) atomic_store_explicit(&u->segment, false, memory_order_relaxed);
            refused = error != EIO;
            burst = false;
        } else if (error && !*sent && to->local_family && source_gone(error)) {
            to->local_family = 0;
            to->ifindex = 0;
            burst = refused; /* perhaps it was the source that was refused */
            refused = false;
        } else {
            if (refused && !error) to->no_bursts = SENDS_WITHOUT_BURST;
            return error;
        }
    }
}

/* Slots lie 64 KiB and a bit apart, so that their beginnings do not all fall into the same lines of the caches. */
#define SLOT_BYTES (65536 + 2048 + 64)
#define ENOUGH (128 * 1024) /* bytes a call, as far as the last one tells: what the second-level cache holds */

typedef union {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + 2 * CMSG_SPACE(sizeof(int))];
} received_control;

struct mh_udp_inbox {
    unsigned ask; /* slots to offer in the next call */
    struct mmsghdr message[MH_UDP_SLOTS];
    struct iovec iov[MH_UDP_SLOTS];
    struct sockaddr_storage from[MH_UDP_SLOTS];
    received_control control[MH_UDP_SLOTS];
    mh_datagram datagram[MH_UDP_SLOTS];
    uint8_t memory[MH_UDP_SLOTS][SLOT_BYTES];
};

mh_udp_inbox *mh_udp_inbox_new(void) {
    mh_udp_inbox *b = malloc(sizeof *b);
    if (!b) return NULL;
    b->ask = 1;
    for (int i = 0; i < MH_UDP_SLOTS; i++) {
        b->iov[i] = (struct iovec){.iov_base = b->memory[i], .iov_len = 65536};
        b->message[i].msg_hdr = (struct msghdr){
            .msg_name = &b->from[i], .msg_iov = &b->iov[i], .msg_iovlen = 1, .msg_control = &b->control[i]};
    }
    return b;
}

void mh_udp_inbox_free(mh_udp_inbox *b) { free(b); }

/* What slot i holds. false: nothing that is of use. */
static bool describe(mh_udp_inbox *b, unsigned i, mh_datagram *d) {
    struct msghdr *m = &b->message[i].msg_hdr;
    if (m->msg_flags & (MSG_TRUNC | MSG_CTRUNC) || !mh_endpoint_from_sockaddr(&d->from, &b->from[i])) return false;
    d->data = b->memory[i];
    d->len = d->segment = b->message[i].msg_len;
    d->tos = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int segment;
            memcpy(&segment, CMSG_DATA(c), sizeof segment);
            if (segment > 0) d->segment = (uint32_t)segment;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            d->from.local_family = 4;
            d->from.ifindex = (uint32_t)info.ipi_ifindex;
            memcpy(d->from.local, &info.ipi_spec_dst, 4);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            d->from.local_family = 6;
            d->from.ifindex = info.ipi6_ifindex;
            memcpy(d->from.local, &info.ipi6_addr, 16);
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            d->tos = *CMSG_DATA(c);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int tos;
            memcpy(&tos, CMSG_DATA(c), sizeof tos);
            d->tos = (uint8_t)tos;
        }
    }
    return true;
}

int mh_udp_receive(mh_udp_inbox *b, int fd, const mh_datagram **first, unsigned *n, bool *more) {
    const unsigned asked = b->ask;
    for (unsigned i = 0; i < asked; i++) {
        b->message[i].msg_hdr.msg_namelen = sizeof b->from[i];
        b->message[i].msg_hdr.msg_controllen = sizeof b->control[i];
    }
    int got;
    do got = recvmmsg(fd, b->message, asked, MSG_DONTWAIT, NULL);
    while (got < 0 && errno == EINTR);
    if (got < 0) return errno;
    uint32_t longest = ENOUGH / MH_UDP_SLOTS;
    *first = b->datagram;
    *n = 0;
    for (unsigned i = 0; i < (unsigned)got; i++) {
        if (b->message[i].msg_len > longest) longest = b->message[i].msg_len;
        if (describe(b, i, &b->datagram[*n])) ++*n;
    }
    b->ask = ENOUGH / longest;
    *more = (unsigned)got == asked;
    return 0;
}
