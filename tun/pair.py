"""Two devices joined in memory: what goes into one comes out of the other, packet for packet.

For tests, benchmarks and programs that make their own packets: no privilege and no interface needed.
"""

import socket

from tun.fd import FdTun


def pair(*, mtu: int = 1420, vnet_hdr: bool = False) -> tuple[FdTun, FdTun]:
    """Two ends of a SOCK_SEQPACKET socket pair. A full queue makes the writer see EAGAIN, as a TUN does not.

    With `vnet_hdr` both sides put a virtio header before each packet; nothing in between looks at it.
    """
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return FdTun(left.detach(), mtu=mtu, vnet_hdr=vnet_hdr), FdTun(right.detach(), mtu=mtu, vnet_hdr=vnet_hdr)
