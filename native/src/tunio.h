/*
 * tunio.h - reads and writes of the TUN file descriptor, with a virtio header in front when the device has one.
 *
 * The descriptor may as well be one end of a SOCK_SEQPACKET pair (tests) or handed in from outside. Threads: any.
 */
#ifndef MH_TUNIO_H
#define MH_TUNIO_H

#include "offload.h"

typedef struct {
    int fd;
    bool vnet_hdr;
} mh_tun;

/* One packet into buffer[0..room); the MH_VNET_HDR_LEN bytes in front of it are written to as well, so that header and packet
 * are one plain read. Returns its length; 0: none now; -errno: the device is gone (a closed pair is -ENODEV). */
int mh_tun_read(const mh_tun *t, mh_vnet_hdr *h, uint8_t *buffer, size_t room);

/* 0; or errno: this packet is lost. mh_tun_gone() tells whether the device is. */
int mh_tun_write(const mh_tun *t, const mh_vnet_hdr *h, const struct iovec *iov, size_t n);

bool mh_tun_gone(int error);

#endif
