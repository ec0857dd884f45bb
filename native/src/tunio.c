/* tunio.c - TUN reads and writes. */
#include "tunio.h"

#include <errno.h>
#include <unistd.h>

/* A write into an interface that is down is EIO, a read never is: so EIO ends the datapath on the read side only. */
bool mh_tun_gone(int error) { return error == EBADFD || error == ENODEV || error == EBADF || error == EPIPE || error == ECONNRESET; }

int mh_tun_read(const mh_tun *t, mh_vnet_hdr *h, uint8_t *buffer, size_t room) {
    const size_t header = t->vnet_hdr ? MH_VNET_HDR_LEN : 0;
    ssize_t n;
    do n = read(t->fd, buffer - header, room + header);
    while (n < 0 && errno == EINTR);
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    if (n == 0) return -ENODEV;
    memset(h, 0, sizeof *h);
    if ((size_t)n <= header) { /* no packet behind the header: one that does not parse, so that it is counted */
        buffer[0] = 0;
        return 1;
    }
    memcpy(h, buffer - header, header);
    return (int)(n - (ssize_t)header);
}

int mh_tun_write(const mh_tun *t, const mh_vnet_hdr *h, const struct iovec *iov, size_t n) {
    struct iovec all[MH_JOIN_PACKETS + 1];
    uint8_t raw[MH_VNET_HDR_LEN];
    size_t count = 0;
    if (n > MH_JOIN_PACKETS) return EINVAL;
    if (t->vnet_hdr) {
        memcpy(raw, h, sizeof raw);
        all[count++] = (struct iovec){.iov_base = raw, .iov_len = sizeof raw};
    }
    memcpy(all + count, iov, n * sizeof *iov);
    count += n;
    ssize_t done;
    do done = writev(t->fd, all, (int)count);
    while (done < 0 && errno == EINTR);
    return done < 0 ? errno : 0;
}
